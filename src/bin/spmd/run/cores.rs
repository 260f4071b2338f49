//! How many cores a host has for its ranks.

use std::{collections::BTreeSet, fs, thread};

/// The cores that this process may use: hardware threads of one count once, where that is known.
pub(super) fn cores() -> usize {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let siblings = |entry: fs::DirEntry| {
        fs::read_to_string(entry.path().join("topology/thread_siblings_list")).ok()
    };
    let all: BTreeSet<String> = fs::read_dir("/sys/devices/system/cpu")
        .map(|entries| entries.filter_map(|entry| siblings(entry.ok()?)).collect())
        .unwrap_or_default();
    if all.is_empty() { cpus } else { all.len().min(cpus) }
}
