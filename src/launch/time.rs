//! Ends a job of ranks that are threads when one of them waits for too long, with a report of what
//! every rank does.
//!
//! The engine finds deadlock by itself where all ranks wait in its calls. This finds the rest:
//! threads that wait for a message by [`Comm::shared`](crate::Comm::shared), and ranks that wait
//! for each other by other means than ours.

use std::{sync::Arc, thread, time::Duration};

use super::{
    Cause, HANGS,
    idle::{self, Idle},
    threads::Ground,
};
use crate::{engine::local::Overdue, placement};

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
    if !in_call {
        text += idle::help(threads);
    }
    Cause { code: HANGS, common: true, ..Cause::new(rank, text) }
}
