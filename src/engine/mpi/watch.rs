//! What a rank waits for at this moment, to be seen from another thread.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    engine::outside::{self, OsThread},
    error::Call,
};

/// How long a library may take to start and to end, however short the time limit for calls is: Open
/// MPI 5 takes more than a second on a busy machine.
const LIBRARY_TIME: Duration = Duration::from_secs(10);

/// The call that the rank's thread is in, and those of other threads.
pub(crate) struct Watch(Mutex<State>);

struct State {
    /// The rank's thread.
    thread: OsThread,
    stage: Stage,
    /// When the stage began.
    begun: Instant,
    /// The last call, if the program has made one, and when that was.
    call: Option<Call>,
    made: Instant,
    /// How many bytes this rank gives to the collective call, where that must fit to the others.
    bytes: Option<usize>,
    /// Since when it waits in the MPI library, if it does.
    since: Option<Instant>,
    /// Calls of other threads that wait, by number.
    threads: Vec<(u64, Call, Instant)>,
    next: u64,
}

/// What part of its init the rank is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Before the program: in this step.
    Start(&'static str),
    /// The program runs.
    Program,
    /// The program has returned. The others may compute for as long as they like.
    Finished,
    /// All programs have returned: in this step.
    End(&'static str),
}

impl Watch {
    /// For the rank of the calling thread, which is about to initialise MPI.
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        let stage = Stage::Start("MPI_Init");
        let (thread, threads, next) = (OsThread::current(), Vec::new(), 0);
        let (begun, call, made, since, bytes) = (now, None, now, None, None);
        Self(Mutex::new(State { thread, stage, begun, call, made, bytes, since, threads, next }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(&self, call: Call) {
        let mut state = self.state();
        (state.call, state.made, state.bytes) = (Some(call), Instant::now(), None);
    }

    /// The call is a collective to which this rank gives so many bytes.
    pub(super) fn note_bytes(&self, bytes: usize) {
        self.state().bytes = Some(bytes);
    }

    /// The next part of the rank's init begins.
    pub(crate) fn begin(&self, stage: Stage) {
        let (mut state, now) = (self.state(), Instant::now());
        (state.stage, state.begun) = (stage, now);
        if stage == Stage::Program {
            (state.call, state.made) = (None, now);
        }
    }

    /// Whether the rank's program has returned, and others' perhaps not.
    pub(crate) fn has_finished(&self) -> bool {
        self.state().stage == Stage::Finished
    }

    /// Marks the rank as waiting until the mark is dropped. One within another tells nothing new.
    pub(super) fn waiting(&self) -> Waiting<'_> {
        let mut state = self.state();
        let outer = state.since;
        state.since = outer.or(Some(Instant::now()));
        Waiting { watch: self, outer }
    }

    /// Says that the rank waits in another library from now on, or no more.
    #[cfg(feature = "phdf5")]
    pub(super) fn wait_elsewhere(&self, inside: bool) {
        let mut state = self.state();
        state.since = if inside { state.since.or(Some(Instant::now())) } else { None };
    }

    /// Marks another thread of the rank as waiting until the mark is dropped.
    pub(super) fn thread_waiting(&self, call: Call) -> ThreadWaiting<'_> {
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        state.threads.push((number, call, Instant::now()));
        ThreadWaiting { watch: self, number }
    }

    /// Whether the rank has been waiting for longer than `limit` in a call; or for longer than
    /// that, and than libraries take, to start or to end.
    pub(crate) fn is_overdue(&self, limit: Duration) -> bool {
        let state = self.state();
        match state.stage {
            Stage::Start(_) | Stage::End(_) => state.begun.elapsed() > limit.max(LIBRARY_TIME),
            Stage::Program => {
                let mut waits = state.threads.iter().map(|(_, _, since)| *since).chain(state.since);
                waits.any(|since| since.elapsed() > limit)
            }
            Stage::Finished => false,
        }
    }

    /// As the rank stands, in a process that has used no CPU for the time of `idle`.
    pub(crate) fn standing(&self, limit: Duration, idle: Duration) -> Standing {
        if self.is_overdue(limit) {
            return Standing::Overdue;
        }
        let state = self.state();
        let last = match state.stage {
            Stage::Program if state.since.is_none() => state.made,
            Stage::Finished => state.begun,
            _ => return Standing::Busy,
        };
        let quiet = idle > limit || state.stage == Stage::Finished;
        if quiet && last.elapsed() > limit { Standing::Idle } else { Standing::Busy }
    }
}

/// How a rank stands towards a time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It does something, or not for long enough nothing.
    Busy,
    /// It has done nothing for longer than the limit, in no call of ours.
    Idle,
    /// A call waits for longer than the limit.
    Overdue,
}

/// What the rank does, in words.
impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        let describe = |f: &mut fmt::Formatter<'_>, call: Option<&Call>, bytes, since: &Instant| {
            let waited = since.elapsed().as_secs_f64();
            write!(f, "waits for {waited:.1} s")?;
            let Some(call) = call else { return Ok(()) };
            write!(f, " in {call}")?;
            if let Some(bytes) = bytes {
                write!(f, ", with {bytes} bytes")?;
            }
            write!(f, " ({}:{})", call.at.file(), call.at.line())
        };
        let waited = state.begun.elapsed().as_secs_f64();
        match (state.stage, &state.since) {
            (Stage::Start(step), _) => {
                return write!(f, "waits for {waited:.1} s at the start, in {step}");
            }
            (Stage::End(step), _) => {
                return write!(f, "waits for {waited:.1} s at the end, in {step}");
            }
            (Stage::Finished, _) => f.write_str("has finished")?,
            (Stage::Program, Some(since)) => describe(f, state.call.as_ref(), state.bytes, since)?,
            (Stage::Program, None) => {
                let (thread, call) = (Some(state.thread), state.call.as_ref());
                f.write_str(&outside::describe(thread, call, state.made.elapsed()))?;
            }
        }
        for (_, call, since) in &state.threads {
            f.write_str("; a thread ")?;
            describe(f, Some(call), None, since)?;
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
    use crate::error::With;

    const LONG: Duration = Duration::from_secs(100);

    #[test]
    fn a_rank_waits_computes_and_finishes() {
        let watch = Watch::new();
        let words = watch.to_string();
        assert_eq!(words, "waits for 0.0 s at the start, in MPI_Init");
        assert!(!watch.is_overdue(Duration::ZERO), "libraries take their time to start");
        assert_eq!(watch.standing(Duration::ZERO, LONG), Standing::Busy);
        watch.begin(Stage::Program);
        assert!(watch.to_string().contains("; it has made no call for 0.0 s"), "{watch}");
        assert!(!watch.is_overdue(Duration::ZERO));
        watch.enter(Call::new("recv", With::from(Some(3), Some(7))));
        assert!(watch.to_string().contains("; its last call was"), "{watch}");
        assert_eq!(watch.standing(Duration::ZERO, LONG), Standing::Idle);
        assert_eq!(watch.standing(LONG, LONG + LONG), Standing::Busy, "not for so long");
        assert_eq!(watch.standing(Duration::ZERO, Duration::ZERO), Standing::Busy, "it computes");
        let waiting = watch.waiting();
        assert!(watch.is_overdue(Duration::ZERO));
        assert!(!watch.is_overdue(LONG));
        assert_eq!(watch.standing(Duration::ZERO, LONG), Standing::Overdue);
        assert_eq!(watch.standing(LONG, LONG), Standing::Busy);
        let words = watch.to_string();
        assert!(words.starts_with("waits for 0.0 s in recv from rank 3 tag 7 ("), "{words}");
        drop(waiting);
        assert!(!watch.is_overdue(Duration::ZERO));
        let thread = watch.thread_waiting(Call::new("shared recv", With::ALL));
        assert!(watch.is_overdue(Duration::ZERO) && watch.to_string().contains("a thread waits"));
        drop(thread);
        watch.enter(Call::new("allreduce", With::ALL));
        watch.note_bytes(800);
        let waiting = watch.waiting();
        let words = watch.to_string();
        assert!(words.starts_with("waits for 0.0 s in allreduce, with 800 bytes ("), "{words}");
        drop(waiting);
        watch.begin(Stage::Finished);
        assert_eq!(watch.to_string(), "has finished");
        assert!(!watch.is_overdue(Duration::ZERO), "others may compute for long");
        assert_eq!(watch.standing(Duration::ZERO, Duration::ZERO), Standing::Idle);
        watch.begin(Stage::End("MPI_Finalize"));
        assert_eq!(watch.to_string(), "waits for 0.0 s at the end, in MPI_Finalize");
        assert!(!watch.is_overdue(Duration::ZERO), "and to end");
    }
}
