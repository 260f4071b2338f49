//! Ends a job of ranks that are threads when one of them waits for too long, with a report of what every rank does.
//!
//! The engine finds deadlock by itself where all ranks wait in its calls. This finds the rest: threads that wait for a
//! message by [`Comm::shared`](crate::Comm::shared), and ranks that wait for each other by other means than ours.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};

use super::{Cause, HANGS, threads::Ground};
use crate::{engine::local::Overdue, placement};

/// A process that uses less of a CPU than this is idle: 1 in so many.
const IDLE: u32 = 50;

/// Watches the ranks for as long as they have the ground.
pub(super) fn keep(ground: &Arc<Ground>, limit: Duration, threads: usize) {
    let ground = Arc::downgrade(ground);
    let watch = move || {
        let pause = (limit / 10).clamp(Duration::from_millis(1), Duration::from_millis(100));
        let mut idle = Idle::new();
        loop {
            thread::sleep(pause);
            let Some(ground) = ground.upgrade() else { return };
            let idle = idle.time() > limit;
            if let Some(overdue) = ground.job.overdue(limit, idle) {
                return ground.fail(cause(overdue, limit, threads));
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("timeout".to_owned()).spawn(watch) {
        log::warn!("no thread to keep --timeout: {error}");
    }
}

fn cause(overdue: Overdue, limit: Duration, threads: usize) -> Cause {
    let Overdue { rank, in_call, report } = overdue;
    let what = if in_call { "a call waits" } else { "nothing moves for" };
    let mut text = format!("{what} longer than --timeout ({:.1} s)", limit.as_secs_f64());
    let host = placement::host();
    for (rank, words) in report.iter().enumerate() {
        text.extend(["\n  rank ", &rank.to_string(), " on ", &host, ": ", words]);
    }
    if !in_call && threads == 1 {
        text += "\n  help: what a rank with one thread gives to `rayon::spawn` runs while the rank waits in rayon, or at its end; \
                 for other waits it needs --threads 2";
    }
    Cause { code: HANGS, common: true, ..Cause::new(rank, text) }
}

/// How long the process has used no CPU.
struct Idle {
    since: Instant,
    looked: Instant,
    used: Duration,
}

impl Idle {
    fn new() -> Self {
        let now = Instant::now();
        Self { since: now, looked: now, used: used() }
    }

    fn time(&mut self) -> Duration {
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
