//! What a rank does while it is in no call of ours, for the report of a time limit.

use std::time::Duration;

use crate::error::Call;

/// A thread of this process, as the system calls it.
#[derive(Clone, Copy, Debug)]
pub(super) struct OsThread(i32);

/// What the thread does since the rank's last call, if there was one, in words.
pub(super) fn describe(thread: Option<OsThread>, call: Option<&Call>, since: Duration) -> String {
    let what = match thread.and_then(OsThread::is_asleep) {
        Some(true) => "waits outside of spmd",
        Some(false) => "computes",
        None => "computes, or waits outside of spmd",
    };
    let since = since.as_secs_f64();
    match call {
        None => format!("{what}; it has made no call for {since:.1} s"),
        Some(call) => format!(
            "{what}; its last call was {since:.1} s ago, {call} ({}:{})",
            call.at.file(),
            call.at.line()
        ),
    }
}

#[cfg(target_os = "linux")]
impl OsThread {
    pub(super) fn current() -> Self {
        Self(nix::unistd::gettid().as_raw())
    }

    /// Whether it waits in the system.
    fn is_asleep(self) -> Option<bool> {
        let line = std::fs::read_to_string(format!("/proc/self/task/{}/stat", self.0)).ok()?;
        // `number (name) state …`, where the name can be anything.
        let state = line.rsplit_once(") ")?.1.chars().next()?;
        Some(state != 'R')
    }
}

#[cfg(not(target_os = "linux"))]
impl OsThread {
    /// It has no number.
    pub(super) fn current() -> Self {
        Self(0)
    }

    fn is_asleep(self) -> Option<bool> {
        None
    }
}
