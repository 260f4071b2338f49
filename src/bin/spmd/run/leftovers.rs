//! Processes of a run that are still there when it is over.

/// The variable that all processes of a run have.
pub(super) const MARK: &str = "SPMD_RUN";

/// Ends all processes of a run on this host, and those that a launcher had started for them; returns
/// how many there were.
pub(super) fn end(token: &str) -> usize {
    end_those(&|run| run == token)
}

/// Ends all processes of earlier starts (`RUN.3` and before) of a supervised run than this (`RUN.4`).
pub(super) fn end_earlier(start: &str) {
    end_those(&|run| is_earlier(run, start));
}

fn is_earlier(run: &str, than: &str) -> bool {
    let start = |name: &str| -> Option<(String, u64)> {
        let (run, number) = name.rsplit_once('.')?;
        Some((run.to_owned(), number.parse().ok()?))
    };
    let both = start(run).zip(start(than));
    both.is_some_and(|((run, before), (of, number))| run == of && before < number)
}

/// Ends all processes of runs with such a name.
#[cfg(target_os = "linux")]
fn end_those(is_meant: &dyn Fn(&str) -> bool) -> usize {
    use std::{collections::BTreeSet, fs, thread, time::Duration};

    use nix::{
        sys::signal::{Signal, kill},
        unistd::{Pid, getpid},
    };

    /// What launchers leave on a host to start ranks there.
    const DAEMONS: [&str; 3] = ["orted", "prted", "hydra_pmi_proxy"];
    const ROUNDS: usize = 50;
    let is_meant = |setting: &[u8]| {
        let text = str::from_utf8(setting).ok().and_then(|text| text.strip_prefix(MARK));
        text.and_then(|text| text.strip_prefix('=')).is_some_and(is_meant)
    };
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
            let is_ours = environment.split(|&byte| byte == 0).any(is_meant);
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
fn end_those(_is_meant: &dyn Fn(&str) -> bool) -> usize {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_earlier_starts_of_the_same_run_are_ended() {
        for (run, than, expected) in [
            ("7-1.2", "7-1.3", true),
            ("7-1.9", "7-1.10", true),
            ("7-1.3", "7-1.3", false),
            ("7-1.4", "7-1.3", false),
            ("8-1.2", "7-1.3", false),
            ("7-1", "7-1.3", false),
            ("7-1.2", "7-1", false),
        ] {
            assert_eq!(is_earlier(run, than), expected, "{run} {than}");
        }
    }
}
