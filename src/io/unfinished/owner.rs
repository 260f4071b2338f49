//! Names of temporary files: whose each is, and whether its owner has ended.
//!
//! `.field.h5.<system>-<process>-<start>-<number>.part`: the system is what process numbers count
//! in (a start of the machine, a container), the start is when the process began. No two files have
//! one name, and of a file whose process is seen to be gone nobody will finish the writing.

use std::{
    ffi::{OsStr, OsString},
    fs,
    hash::{BuildHasher, RandomState},
    os::unix::ffi::{OsStrExt, OsStringExt},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::{errno::Errno, sys::signal::kill, unistd::Pid};

const SUFFIX: &[u8] = b".part";
/// A file name has 255 bytes at most; what stands behind the target's takes up to 70.
const LONGEST_TARGET: usize = 180;

/// A name for a temporary file beside one of this name; another one at each call.
pub(super) fn new_name(target: &OsStr) -> OsString {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let (number, process) = (NUMBER.fetch_add(1, Ordering::Relaxed), process::id());
    let start = Status::of(process).map(|status| status.start);
    let (system, start) = match (system(), start) {
        (Some(system), Some(start)) => (system, start),
        // Nobody can tell whether this process has ended; chance keeps the names apart.
        _ => (RandomState::new().hash_one(number), 0),
    };
    let mut name = prefix(target);
    name.extend(format!("{system:016x}-{process}-{start}-{number}").bytes());
    name.extend(SUFFIX);
    OsString::from_vec(name)
}

/// Whether this is the name of a temporary file beside one of the name `target`, whose process has
/// certainly ended.
pub(super) fn is_abandoned(name: &OsStr, target: &OsStr) -> bool {
    let prefix = prefix(target);
    let middle =
        name.as_bytes().strip_prefix(&prefix[..]).and_then(|rest| rest.strip_suffix(SUFFIX));
    let Some(Ok(middle)) = middle.map(str::from_utf8) else { return false };
    let mut parts = middle.split('-');
    let mut next = || parts.next();
    let (Some(there), Some(process), Some(began)) = (next(), next(), next()) else { return false };
    let (Some(Ok(_)), None) = (next().map(str::parse::<u64>), next()) else { return false };
    let here = system().is_some_and(|system| format!("{system:016x}") == there);
    let (Ok(process), Ok(began)) = (process.parse(), began.parse()) else { return false };
    here && has_ended(process, began)
}

fn prefix(target: &OsStr) -> Vec<u8> {
    let target = target.as_bytes();
    [b".", &target[..target.len().min(LONGEST_TARGET)], b"."].concat()
}

/// What the numbers of processes count in, where that can be told: this start of the machine, and
/// the container in it.
fn system() -> Option<u64> {
    let boot = fs::read("/proc/sys/kernel/random/boot_id").ok()?;
    let container = fs::read_link("/proc/self/ns/pid").ok()?;
    // Fowler, Noll and Vo's hash: the same in every program that this library is built into.
    let bytes = boot.iter().chain(container.as_os_str().as_bytes());
    Some(bytes.fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    }))
}

/// What the system tells of a process.
struct Status {
    /// Whether it has ended, and is known only because nobody has asked how.
    ended: bool,
    /// When it began, in ticks since the machine did.
    start: u64,
}

impl Status {
    fn of(process: u32) -> Option<Self> {
        let stat = fs::read(format!("/proc/{process}/stat")).ok()?;
        // The second field is the program's name in parentheses, with whatever it contains.
        let behind = stat.iter().rposition(|&byte| byte == b')')? + 1;
        let fields: Vec<_> = str::from_utf8(&stat[behind..]).ok()?.split_whitespace().collect();
        let (state, threads) = (*fields.first()?, fields.get(17)?.parse::<u32>().ok()?);
        // Of a process whose first thread has ended others may go on.
        let ended = matches!(state, "Z" | "X") && threads <= 1;
        Some(Self { ended, start: fields.get(19)?.parse().ok()? })
    }
}

fn has_ended(process: u32, began: u64) -> bool {
    let Ok(number) = i32::try_from(process) else { return false };
    // Processes of others may be hidden: that there is none is asked of the system.
    match kill(Pid::from_raw(number), None) {
        Err(Errno::ESRCH) => number > 0,
        _ => Status::of(process).is_some_and(|status| status.ended || status.start != began),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_whether_its_process_has_ended() {
        let target = OsStr::new("field.h5");
        let mine = new_name(target).into_string().unwrap();
        assert_ne!(new_name(target).to_str(), Some(mine.as_str()));
        let parts: Vec<_> = mine.split('-').collect();
        let [system, process, start, number] = parts[..] else { panic!("{mine}") };
        let abandoned = |process: &str, start: &str, target: &str| {
            let name = format!("{system}-{process}-{start}-{number}");
            is_abandoned(OsStr::new(&name), OsStr::new(target))
        };
        assert!(!abandoned(process, start, "field.h5"), "its process runs");
        assert!(abandoned(process, &format!("{start}0"), "field.h5"), "another had its number");
        assert!(abandoned("4194305", start, "field.h5"), "no process has such a number");
        assert!(!abandoned("4194305", start, "field"), "another target's");
        for odd in ["0", "-1", "x", "99999999999"] {
            assert!(!abandoned(odd, start, "field.h5"), "{odd}");
        }
        // Of another machine or container nothing is known.
        let (head, hash) = system.split_at(system.len() - 16);
        let other = format!(
            "{head}{:016x}-4194305-{start}-{number}",
            !u64::from_str_radix(hash, 16).unwrap()
        );
        assert!(!is_abandoned(OsStr::new(&other), target));
        for foreign in [".field.h5.123.part", ".field.h5.part", "field.h5"] {
            assert!(!is_abandoned(OsStr::new(foreign), target), "{foreign}");
        }
    }

    #[test]
    fn a_process_has_ended_before_anybody_has_asked_how() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let start = loop {
            match Status::of(child.id()).unwrap() {
                Status { ended: true, start } => break start,
                Status { ended: false, .. } => std::thread::yield_now(),
            }
        };
        assert!(has_ended(child.id(), start));
        child.wait().unwrap();
        assert!(!has_ended(process::id(), Status::of(process::id()).unwrap().start));
    }

    #[test]
    fn names_are_short_enough_for_every_target() {
        let target = OsString::from("x".repeat(255));
        assert!(new_name(&target).len() <= 255);
    }
}
