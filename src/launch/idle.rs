//! Whether this process does anything.

use std::time::{Duration, Instant};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};

/// A process that uses less of a CPU than this is idle: 1 in so many.
const IDLE: u32 = 50;

/// What may help where ranks of so many threads do nothing for ever.
pub(super) fn help(threads: usize) -> &'static str {
    if threads > 1 {
        return "";
    }
    "\n  help: what a rank with one thread gives to `rayon::spawn` runs while the rank waits in rayon, or at its end; for \
     other waits it needs --threads 2"
}

/// How long the process has used no CPU.
pub(super) struct Idle {
    since: Instant,
    looked: Instant,
    used: Duration,
}

impl Idle {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { since: now, looked: now, used: used() }
    }

    pub(super) fn time(&mut self) -> Duration {
        let (now, used) = (Instant::now(), used());
        if used.saturating_sub(self.used) * IDLE > now - self.looked {
            self.since = now;
        }
        (self.looked, self.used) = (now, used);
        now - self.since
    }
}

/// The CPU time of this process, all of it where the system does not tell.
fn used() -> Duration {
    let time = |usage: nix::sys::resource::Usage| {
        let microseconds = (usage.user_time() + usage.system_time()).num_microseconds();
        Duration::from_micros(microseconds.unsigned_abs())
    };
    getrusage(UsageWho::RUSAGE_SELF).map_or(Duration::ZERO, time)
}
