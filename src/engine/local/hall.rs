//! Where ranks wait: wake-up without loss, patience by the number of cores, and the detection of deadlock.
//!
//! Every rank has a seat. A rank that waits looks again and again whether its condition holds, then gives way, then sleeps.
//! Before it sleeps it announces that (`asleep`), and looks once more. Whoever changes something that another rank may wait
//! for changes it first and looks second whether that rank is asleep. Between the two steps of both stands a full fence: either
//! the waker sees the announcement, or the sleeper sees the change.
//!
//! A sleeper enters itself in the roll; a waker strikes it out on its behalf, before it can sleep itself. So when all ranks are
//! in the roll (or have finished) nothing can ever happen again: that is deadlock, found by the last to enter. It is exact: a
//! rank in the roll waits for something that only another rank can do, none of which is awake to do it, and whatever one did
//! before it entered was either seen by the last look of the rank concerned or has struck that rank out.

use std::time::{Duration, Instant};

use super::sync::{
    AtomicBool, Condvar, Fences, Mutex, Ordering, lock, spin_loop, wait, wait_for, yield_now,
};
use crate::error::{Call, ErrorKind, Fault};

/// How long a rank looks again and again before it sleeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Whether ranks outnumber cores.
    crowded: bool,
    spins: u32,
    yields: u32,
    /// Whether ranks seldom sleep, so that the fence of those that wake others is worth avoiding.
    sleeps_are_rare: bool,
}

impl Patience {
    /// With a core for every rank, spinning is the fastest way to see a message (waking a sleeper costs 30 to 60 µs
    /// across cores); without, it only keeps the sender from running.
    pub(crate) fn for_ranks(ranks: usize, cores: usize) -> Self {
        let crowded = ranks > cores;
        if cfg!(loom) {
            Self { crowded, spins: 0, yields: 0, sleeps_are_rare: false }
        } else if crowded {
            Self { crowded, spins: 0, yields: 16, sleeps_are_rare: false }
        } else {
            Self { crowded, spins: 20_000, yields: 100, sleeps_are_rare: true }
        }
    }
}

/// So many looks follow each other without a pause and without a look at anything else: an answer that is on its way comes
/// within 0.1 µs.
const EAGER_LOOKS: u32 = 500;

/// The waiting places of all ranks of a job.
pub(super) struct Hall {
    seats: Box<[Seat]>,
    roll: Mutex<Roll>,
    /// Set once `roll.verdict` is: the job has failed.
    ended: AtomicBool,
    patience: Patience,
    fences: Fences,
}

/// One rank's waiting place, on cache lines of its own.
#[repr(align(128))]
struct Seat {
    asleep: AtomicBool,
    door: Mutex<()>,
    bell: Condvar,
}

struct Roll {
    ranks: Vec<Presence>,
    verdict: Option<ErrorKind>,
}

/// What a rank is about, as far as the hall knows.
#[derive(Clone, Copy)]
pub(super) enum Presence {
    Awake,
    Waiting(Call),
    Finished,
}

/// How a wait or a part of it ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Ready,
    Late,
    Nothing,
}

impl Hall {
    pub(super) fn new(ranks: usize, patience: Patience) -> Self {
        Self {
            seats: (0..ranks).map(|_| Seat::new()).collect(),
            roll: Mutex::new(Roll { ranks: vec![Presence::Awake; ranks], verdict: None }),
            ended: AtomicBool::new(false),
            patience,
            fences: Fences::new(patience.sleeps_are_rare),
        }
    }

    /// Whether ranks outnumber cores.
    pub(super) fn is_crowded(&self) -> bool {
        self.patience.crowded
    }

    /// What stands between a change and the look for sleepers, and between going to sleep and the last look.
    #[inline]
    pub(super) fn fences(&self) -> &Fences {
        &self.fences
    }

    /// Waits until `ready`, or until a point in time; whether `ready` came first. `ready` must depend on nothing but what
    /// `wake(rank)` is called after; it is asked again and again, so that it must be fast.
    ///
    /// # Errors
    /// The verdict on the job, if it fails before `ready` holds.
    #[inline]
    pub(super) fn poll(
        &self,
        rank: usize,
        call: impl Fn() -> Call,
        until: Option<Instant>,
        mut ready: impl FnMut() -> bool,
    ) -> Result<bool, Fault> {
        loop {
            match self.look_again(until, &mut ready)? {
                Seen::Ready => return Ok(true),
                Seen::Late => return Ok(false),
                Seen::Nothing => {}
            }
            let seat = &self.seats[rank];
            seat.asleep.store(true, Ordering::Relaxed);
            self.fences.sleeper();
            if ready() {
                seat.asleep.store(false, Ordering::Relaxed);
                return Ok(true);
            }
            match until {
                _ if self.ended.load(Ordering::Acquire) => {
                    seat.asleep.store(false, Ordering::Relaxed);
                }
                // It will wake of itself, so that it is no part of any deadlock.
                Some(until) => seat.doze(until.saturating_duration_since(Instant::now())),
                None => self.sleep(rank, &call()),
            }
        }
    }

    /// As [`Self::poll`], as long as patience lasts; whether `ready`.
    ///
    /// # Errors
    /// As [`Self::poll`].
    #[inline]
    pub(super) fn watch(&self, mut ready: impl FnMut() -> bool) -> Result<bool, Fault> {
        Ok(self.look_again(None, &mut ready)? == Seen::Ready)
    }

    #[inline]
    fn look_again(
        &self,
        until: Option<Instant>,
        ready: &mut impl FnMut() -> bool,
    ) -> Result<Seen, Fault> {
        let Patience { spins, yields, .. } = self.patience;
        let mut turn = spins.min(EAGER_LOOKS);
        for _ in 0..turn {
            if ready() {
                return Ok(Seen::Ready);
            }
        }
        loop {
            if ready() {
                return Ok(Seen::Ready);
            }
            if self.ended.load(Ordering::Relaxed) {
                self.check()?;
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Ok(Seen::Late);
            }
            if turn == spins + yields {
                return Ok(Seen::Nothing);
            }
            if turn >= spins {
                yield_now();
            } else {
                spin_loop();
            }
            turn += 1;
        }
    }

    /// Enters the roll and sleeps until woken, unless this completes a deadlock.
    #[cold]
    fn sleep(&self, rank: usize, call: &Call) {
        let seat = &self.seats[rank];
        let mut roll = lock(&self.roll);
        if !seat.asleep.load(Ordering::Relaxed) {
            return; // woken already
        }
        roll.ranks[rank] = Presence::Waiting(*call);
        if let Some(deadlock) = deadlock(&roll) {
            drop(roll);
            return self.end(deadlock);
        }
        drop(roll);
        let mut door = lock(&seat.door);
        while seat.asleep.load(Ordering::Acquire) {
            door = wait(&seat.bell, door);
        }
    }

    /// Wakes `rank` if it sleeps: something has changed that it may [`poll`](Self::poll) for.
    #[inline]
    pub(super) fn wake(&self, rank: usize) {
        self.fences.waker();
        if self.seats[rank].asleep.load(Ordering::Relaxed) {
            self.rouse(rank);
        }
    }

    #[cold]
    fn rouse(&self, rank: usize) {
        let seat = &self.seats[rank];
        let mut roll = lock(&self.roll);
        if !seat.asleep.swap(false, Ordering::AcqRel) {
            return; // another waker was faster
        }
        if matches!(roll.ranks[rank], Presence::Waiting(_)) {
            roll.ranks[rank] = Presence::Awake;
        }
        drop(roll);
        drop(lock(&seat.door)); // the sleeper is now inside `wait`, where the bell reaches it
        seat.bell.notify_one();
    }

    /// The rank's program has returned: it will finish nobody's operation any more.
    pub(super) fn finish(&self, rank: usize) {
        let mut roll = lock(&self.roll);
        roll.ranks[rank] = Presence::Finished;
        if let Some(deadlock) = deadlock(&roll) {
            drop(roll);
            self.end(deadlock);
        }
    }

    /// Ends the job: all ranks that wait, now or later, get the first `verdict`.
    pub(super) fn end(&self, verdict: ErrorKind) {
        lock(&self.roll).verdict.get_or_insert(verdict);
        self.ended.store(true, Ordering::Release);
        (0..self.seats.len()).for_each(|rank| self.wake(rank));
    }

    /// What every rank is about.
    pub(super) fn presences(&self) -> Vec<Presence> {
        lock(&self.roll).ranks.clone()
    }

    /// # Errors
    /// The verdict, if the job has failed.
    #[inline]
    pub(super) fn check(&self) -> Result<(), Fault> {
        if self.ended.load(Ordering::Acquire) { self.verdict() } else { Ok(()) }
    }

    #[cold]
    fn verdict(&self) -> Result<(), Fault> {
        lock(&self.roll).verdict.clone().map_or(Ok(()), |verdict| Err(verdict.into()))
    }
}

fn deadlock(roll: &Roll) -> Option<ErrorKind> {
    let is_awake = |presence: &Presence| matches!(presence, Presence::Awake);
    let waits = |presence: &Presence| matches!(presence, Presence::Waiting(_));
    if roll.ranks.iter().any(is_awake) || !roll.ranks.iter().any(waits) || roll.verdict.is_some() {
        return None;
    }
    let lines = roll.ranks.iter().enumerate().map(|(rank, presence)| match presence {
        Presence::Waiting(call) => {
            format!("  rank {rank}: {call} ({}:{})", call.at.file(), call.at.line())
        }
        _ => format!("  rank {rank}: finished"),
    });
    Some(ErrorKind::Deadlock { report: lines.collect::<Vec<_>>().join("\n") })
}

impl Seat {
    fn new() -> Self {
        Self { asleep: AtomicBool::new(false), door: Mutex::new(()), bell: Condvar::new() }
    }

    /// Sleeps until woken, for so long at most.
    #[cold]
    fn doze(&self, long: Duration) {
        let door = lock(&self.door);
        if self.asleep.load(Ordering::Acquire) {
            drop(wait_for(&self.bell, &self.door, door, long));
        }
        self.asleep.store(false, Ordering::Relaxed);
    }
}
