//! The time that a repair may take.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::{
    launch::{Cause, HANGS, HOLD_BACK, identity, print_line, processes},
    placement, process,
};

/// How often the thread that keeps the limit looks.
const LOOK: Duration = Duration::from_millis(50);

/// Ends the job where a repair takes too long.
pub(super) struct Deadline(Arc<Mutex<Limit>>);

#[derive(Default)]
struct Limit {
    since: Option<Instant>,
    /// Why the job ends, and its exit code, if that is known.
    cause: Option<(String, u8)>,
    /// Whether the process is one of the job.
    joined: bool,
}

impl Deadline {
    pub(super) fn new(limit: Duration, is_newcomer: bool) -> Self {
        let state = Arc::new(Mutex::new(Limit { joined: !is_newcomer, ..Limit::default() }));
        let watched = Arc::clone(&state);
        let watch = move || {
            loop {
                thread::sleep(LOOK);
                let state = watched.lock().unwrap_or_else(PoisonError::into_inner);
                if state.since.is_some_and(|since| since.elapsed() > limit) {
                    state.give_up(limit);
                }
            }
        };
        let started = thread::Builder::new().name("repair limit".to_owned()).spawn(watch);
        if let Err(error) = started {
            log::warn!("no thread to keep --repair-limit: {error}");
        }
        Self(state)
    }

    fn state(&self) -> MutexGuard<'_, Limit> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A repair is under way.
    pub(super) fn set(&self) {
        self.state().since.get_or_insert_with(Instant::now);
    }

    /// It has ended.
    pub(super) fn lift(&self) {
        *self.state() = Limit { joined: true, ..Limit::default() };
    }

    /// It is the end of the job.
    pub(super) fn because(&self, cause: &Cause) {
        let Cause { rank, code, text, .. } = cause;
        self.state().cause = Some((format!("rank {rank} on {}: {text}", placement::host()), *code));
    }
}

impl Limit {
    /// The job ends, whatever the library still does.
    fn give_up(&self, limit: Duration) -> ! {
        if !self.joined {
            process::die(); // the others go on without it
        }
        let (rank, seconds) = (identity::process_rank().unwrap_or(0), limit.as_secs_f64());
        if rank > 0 {
            thread::sleep(HOLD_BACK); // all have the same to say
        }
        let (text, code) = self.cause.clone().unwrap_or_else(|| {
            let host = placement::host();
            let text = format!(
                "rank {rank} on {host}: ranks were lost, or another number of them was wished for, and the others have not gone on within {seconds} s (--repair-limit)"
            );
            (text, HANGS)
        });
        print_line(&format!("error: {text}"));
        processes::end(code)
    }
}
