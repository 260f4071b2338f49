//! What the ranks of a job do, for the report of a time limit: noted only where there is one.

use std::{
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use super::parking::RankState;
use crate::{
    engine::outside::{self, OsThread},
    error::Call,
};

pub(super) struct Watch {
    ranks: Box<[Mutex<Note>]>,
    /// Calls of other threads that wait, in the order of their numbers.
    threads: Mutex<Vec<Thread>>,
    look: OnceLock<Look>,
}

/// Sees each call of each rank: the rank, and the number of the call.
type Look = Box<dyn Fn(usize, u64) + Send + Sync>;

struct Note {
    /// The last call, if there was one, and when it was made.
    call: Option<Call>,
    /// How many there were.
    calls: u64,
    made: Instant,
    /// The rank's thread.
    thread: Option<OsThread>,
}

struct Thread {
    number: u64,
    rank: usize,
    call: Call,
    since: Instant,
}

/// A thread waits until this is dropped.
pub(super) struct Waiting<'w> {
    watch: &'w Watch,
    number: u64,
}

/// Which rank waits for too long, and what every rank does, a line each.
pub(crate) struct Overdue {
    pub(crate) rank: usize,
    /// Whether it waits in a call of ours.
    pub(crate) in_call: bool,
    pub(crate) report: Vec<String>,
}

impl Watch {
    pub(super) fn new(ranks: usize) -> Self {
        let note = || Note { call: None, calls: 0, made: Instant::now(), thread: None };
        let ranks = (0..ranks).map(|_| Mutex::new(note())).collect();
        Self { ranks, threads: Mutex::default(), look: OnceLock::new() }
    }

    fn note(&self, rank: usize) -> MutexGuard<'_, Note> {
        self.ranks[rank].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn threads(&self) -> MutexGuard<'_, Vec<Thread>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The calling thread is this rank.
    pub(super) fn begin(&self, rank: usize) {
        self.note(rank).thread = Some(OsThread::current());
    }

    pub(super) fn enter(&self, rank: usize, call: Call) {
        let mut note = self.note(rank);
        (note.call, note.made) = (Some(call), Instant::now());
        let number = note.calls;
        note.calls += 1;
        drop(note);
        if let Some(look) = self.look.get() {
            look(rank, number);
        }
    }

    pub(super) fn look_at_calls(&self, look: Look) {
        let _ = self.look.set(look); // once for each job
    }

    /// Marks a thread of the rank as waiting.
    pub(super) fn thread_waits(&self, rank: usize, call: Call) -> Waiting<'_> {
        let mut threads = self.threads();
        let number = threads.last().map_or(0, |last| last.number + 1);
        threads.push(Thread { number, rank, call, since: Instant::now() });
        Waiting { watch: self, number }
    }

    /// The first rank one of whose calls has been waiting for longer than `limit`; with `idle`, the
    /// first that has done nothing else for so long.
    pub(super) fn overdue(
        &self,
        limit: Duration,
        idle: bool,
        rank_states: &[RankState],
    ) -> Option<Overdue> {
        let late = |since: Instant| since.elapsed() > limit;
        let thread = self.threads().iter().find(|thread| late(thread.since)).map(|late| late.rank);
        let ranks = || rank_states.iter().enumerate();
        let waits = |(rank, state): (usize, &RankState)| {
            (matches!(state, RankState::Waiting(_)) && late(self.note(rank).made)).then_some(rank)
        };
        let waiting = || ranks().find_map(waits);
        let left = |(rank, state): (usize, &RankState)| {
            (!matches!(state, RankState::Finished)).then_some(rank)
        };
        let all_idle = || {
            let all_late = ranks().filter_map(left).all(|rank| late(self.note(rank).made));
            if idle && all_late { ranks().find_map(left) } else { None }
        };
        let in_call = thread.or_else(waiting);
        let rank = in_call.or_else(all_idle)?;
        let report = ranks().map(|(rank, state)| self.describe(rank, state)).collect();
        Some(Overdue { rank, in_call: in_call.is_some(), report })
    }

    /// What the rank does, in words.
    fn describe(&self, rank: usize, state: &RankState) -> String {
        let Note { call, made, thread, .. } = &*self.note(rank);
        let waits = |call: &Call, since: &Instant| {
            let (waited, at) = (since.elapsed().as_secs_f64(), call.at);
            format!("waits for {waited:.1} s in {call} ({}:{})", at.file(), at.line())
        };
        let mut words = match state {
            RankState::Finished => "has finished".to_owned(),
            RankState::Waiting(call) => waits(call, made),
            RankState::Awake => outside::describe(*thread, call.as_ref(), made.elapsed()),
        };
        for Thread { call, since, .. } in self.threads().iter().filter(|thread| thread.rank == rank)
        {
            words.extend(["; a thread ", &waits(call, since)]);
        }
        words
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.watch.threads().retain(|thread| thread.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::With;

    const NOW: Duration = Duration::ZERO;
    const LATER: Duration = Duration::from_secs(100);

    #[test]
    fn a_rank_waits_in_a_call_and_another_outside_of_any() {
        let watch = Watch::new(3);
        let recv = Call::new("recv", With::from(Some(2), Some(7)));
        watch.enter(1, recv);
        let rank_states = [RankState::Awake, RankState::Waiting(recv), RankState::Finished];
        assert!(watch.overdue(LATER, true, &rank_states).is_none());
        let overdue = watch.overdue(NOW, false, &rank_states).unwrap();
        assert_eq!(overdue.rank, 1);
        let [computes, waits, finished] = &overdue.report[..] else { panic!("a line per rank") };
        assert!(computes.ends_with("; it has made no call for 0.0 s"), "{computes}");
        assert!(waits.starts_with("waits for 0.0 s in recv from rank 2 tag 7 ("), "{waits}");
        assert_eq!(finished, "has finished");
    }

    #[test]
    fn ranks_that_do_nothing_are_overdue_where_nothing_moves() {
        let watch = Watch::new(2);
        let rank_states = [RankState::Finished, RankState::Awake];
        assert!(watch.overdue(NOW, false, &rank_states).is_none());
        assert_eq!(watch.overdue(NOW, true, &rank_states).unwrap().rank, 1);
    }

    #[test]
    fn a_thread_waits_for_its_rank() {
        let watch = Watch::new(2);
        let rank_states = [RankState::Awake, RankState::Awake];
        let waiting = watch.thread_waits(1, Call::new("shared recv", With::ALL));
        let overdue = watch.overdue(NOW, false, &rank_states).unwrap();
        assert_eq!(overdue.rank, 1);
        assert!(overdue.report[1].contains("; a thread waits for 0.0 s in shared recv ("));
        assert!(!overdue.report[0].contains("; a thread"));
        drop(waiting);
        assert!(watch.overdue(NOW, false, &rank_states).is_none());
    }
}
