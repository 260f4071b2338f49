//! Processes of a run that are still there when it is over.

/// The variable that all processes of a run have.
pub(super) const MARK: &str = "SPMD_RUN";

/// Ends all processes of a run on this host, and those that a launcher had started for them; returns
/// how many there were.
#[cfg(target_os = "linux")]
pub(super) fn end(token: &str) -> usize {
    use std::{collections::BTreeSet, fs, thread, time::Duration};

    use nix::{
        sys::signal::{Signal, kill},
        unistd::{Pid, getpid},
    };

    /// What launchers leave on a host to start ranks there.
    const DAEMONS: [&str; 3] = ["orted", "prted", "hydra_pmi_proxy"];
    const ROUNDS: usize = 50;
    let mark = format!("{MARK}={token}");
    let status = |process: i32| fs::read_to_string(format!("/proc/{process}/status")).ok();
    let parent = |process: i32| -> Option<i32> {
        let status = status(process)?;
        status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
    };
    let is_daemon = |process: i32| {
        fs::read_to_string(format!("/proc/{process}/comm"))
            .is_ok_and(|name| DAEMONS.contains(&name.trim()))
    };
    let is_gone = |process: i32| status(process).is_none_or(|text| text.contains("\nState:\tZ"));
    let mut ended = BTreeSet::new();
    for _ in 0..ROUNDS {
        let Ok(entries) = fs::read_dir("/proc") else { break };
        let mut alive = 0;
        for entry in entries.filter_map(Result::ok) {
            let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            let is_ours = environment.split(|&byte| byte == 0).any(|it| it == mark.as_bytes());
            if !is_ours || process == getpid().as_raw() || is_gone(process) {
                continue;
            }
            let daemon = parent(process).filter(|&parent| is_daemon(parent));
            for process in [Some(process), daemon].into_iter().flatten() {
                let _ = kill(Pid::from_raw(process), Signal::SIGKILL); // it may just have ended
                ended.insert(process);
            }
            alive += 1;
        }
        if alive == 0 {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    ended.len()
}

/// Elsewhere the variables of other processes cannot be seen.
#[cfg(not(target_os = "linux"))]
pub(super) fn end(_token: &str) -> usize {
    0
}
