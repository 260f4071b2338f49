//! What a rank waits for at this moment, to be seen from another thread.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::error::{Call, With};

/// The call that the rank's thread is in, and those of other threads.
pub(crate) struct Watch(Mutex<State>);

struct State {
    /// The last call, and when it was made.
    call: Call,
    made: Instant,
    /// Since when it waits in the MPI library, if it does.
    since: Option<Instant>,
    finished: bool,
    /// Calls of other threads that wait, by number.
    threads: Vec<(u64, Call, Instant)>,
    next: u64,
}

impl Watch {
    pub(super) fn new() -> Self {
        let (call, made) = (Call::new("start", With::ALL), Instant::now());
        let (threads, next) = (Vec::new(), 0);
        Self(Mutex::new(State { call, made, since: None, finished: false, threads, next }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(&self, call: Call) {
        let mut state = self.state();
        (state.call, state.made) = (call, Instant::now());
    }

    /// The rank's program has returned.
    pub(super) fn finish(&self) {
        self.state().finished = true;
    }

    /// Marks the rank as waiting until the mark is dropped. One within another tells nothing new.
    pub(super) fn waiting(&self) -> Waiting<'_> {
        let mut state = self.state();
        let outer = state.since;
        state.since = outer.or(Some(Instant::now()));
        Waiting { watch: self, outer }
    }

    /// Marks another thread of the rank as waiting until the mark is dropped.
    pub(super) fn thread_waiting(&self, call: Call) -> ThreadWaiting<'_> {
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        state.threads.push((number, call, Instant::now()));
        ThreadWaiting { watch: self, number }
    }

    /// Whether a call of the rank has been waiting for longer than `limit`.
    pub(crate) fn is_overdue(&self, limit: Duration) -> bool {
        let state = self.state();
        let mut waits = state.threads.iter().map(|(_, _, since)| *since).chain(state.since);
        !state.finished && waits.any(|since| since.elapsed() > limit)
    }
}

/// What the rank does, in words.
impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        let describe = |f: &mut fmt::Formatter<'_>, call: &Call, since: &Instant| {
            let (waited, at) = (since.elapsed().as_secs_f64(), call.at);
            write!(f, "waits for {waited:.1} s in {call} ({}:{})", at.file(), at.line())
        };
        match (state.finished, &state.since) {
            (true, _) => f.write_str("has finished")?,
            (false, Some(since)) => describe(f, &state.call, since)?,
            (false, None) => {
                let (since, at) = (state.made.elapsed().as_secs_f64(), state.call.at);
                let (call, file, line) = (&state.call, at.file(), at.line());
                write!(f, "computes; its last call was {since:.1} s ago, {call} ({file}:{line})")?;
            }
        }
        for (_, call, since) in &state.threads {
            f.write_str("; a thread ")?;
            describe(f, call, since)?;
        }
        Ok(())
    }
}

pub(super) struct Waiting<'w> {
    watch: &'w Watch,
    outer: Option<Instant>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.watch.state().since = self.outer;
    }
}

pub(super) struct ThreadWaiting<'w> {
    watch: &'w Watch,
    number: u64,
}

impl Drop for ThreadWaiting<'_> {
    fn drop(&mut self) {
        self.watch.state().threads.retain(|(number, ..)| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_waits_computes_and_finishes() {
        let watch = Watch::new();
        watch.enter(Call::new("recv", With::from(Some(3), Some(7))));
        assert!(watch.to_string().starts_with("computes; its last call was"), "{watch}");
        let waiting = watch.waiting();
        assert!(watch.is_overdue(Duration::ZERO));
        assert!(!watch.is_overdue(Duration::from_secs(100)));
        let words = watch.to_string();
        assert!(words.starts_with("waits for 0.0 s in recv from rank 3 tag 7 ("), "{words}");
        drop(waiting);
        assert!(!watch.is_overdue(Duration::ZERO));
        let thread = watch.thread_waiting(Call::new("shared recv", With::ALL));
        assert!(watch.is_overdue(Duration::ZERO) && watch.to_string().contains("a thread waits"));
        drop(thread);
        watch.finish();
        assert_eq!(watch.to_string(), "has finished");
    }
}
