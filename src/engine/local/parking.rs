//! A parking lot: spin, yield, park by a condition variable; a store-to-load fence against lost
//! wake-ups; and the detection of deadlock.
//!
//! Every rank has a parker. A rank that waits looks again and again whether its condition holds
//! (its *backoff*), then parks:
//!
//! 1. it announces that (`asleep`);
//! 2. full fence;
//! 3. it looks once more, and parks.
//!
//! Whoever changes something that another rank may wait for
//!
//! 1. changes it;
//! 2. full fence;
//! 3. looks whether that rank is asleep, and unparks it.
//!
//! Either the waker sees the announcement, or the sleeper sees the change.
//!
//! A sleeper enters itself among the waiters; a waker strikes it out on its behalf, before it can
//! sleep itself. So when all ranks wait (or have finished) nothing can ever happen again: that is
//! deadlock, found by the last to enter. It is exact: a waiter waits for something that only
//! another rank can do, none of which is awake to do it, and whatever one did before it entered was
//! either seen by the last look of the rank concerned or has struck that rank out.
//!
//! All waiting of this engine is here, with the primitives in [`sync`](super::sync): nothing else
//! in this folder spins, yields or sleeps.

use std::time::{Duration, Instant};

use super::sync::{
    AsymmetricFence, AtomicBool, Condvar, Mutex, MutexGuard, Ordering, lock, spin_loop, wait,
    wait_for, yield_now,
};
use crate::error::{Call, ErrorKind, Fault};

/// How long a rank looks again and again before it sleeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    /// Whether ranks outnumber cores.
    oversubscribed: bool,
    spins: u32,
    yields: u32,
    /// Whether ranks seldom sleep, so that the fence of those that wake others is worth avoiding.
    sleeps_are_rare: bool,
}

impl Backoff {
    /// With a core for every rank, spinning is the fastest way to see a message (waking a sleeper
    /// costs 30 to 60 µs across cores); without, it only keeps the sender from running.
    pub(crate) fn for_ranks(ranks: usize, cores: usize) -> Self {
        let oversubscribed = ranks > cores;
        if cfg!(loom) {
            Self { oversubscribed, spins: 0, yields: 0, sleeps_are_rare: false }
        } else if oversubscribed {
            Self { oversubscribed, spins: 0, yields: 16, sleeps_are_rare: false }
        } else {
            Self { oversubscribed, spins: 20_000, yields: 100, sleeps_are_rare: true }
        }
    }
}

/// So many looks follow each other without a pause and without a look at anything else: an answer
/// that is on its way comes within 0.1 µs.
const EAGER_LOOKS: u32 = 500;

/// Looks again and again, and lets others run between two looks: for a few steps that another rank
/// is in the middle of, and waits for nobody in.
#[inline]
pub(super) fn yield_until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        yield_now();
    }
}

/// As [`yield_until`], for what takes less time than to let others run.
#[inline]
pub(super) fn spin_until(mut ready: impl FnMut() -> bool) {
    let mut looks = 0;
    while !ready() {
        looks += 1;
        if looks > 2000 || cfg!(loom) { yield_now() } else { spin_loop() }
    }
}

/// A value under a lock, whose changes threads wait for that are no ranks.
pub(super) struct Monitor<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Monitor<T> {
    pub(super) fn new(value: T) -> Self {
        Self { value: Mutex::new(value), changed: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        lock(&self.value)
    }

    /// Wakes all who wait for a change.
    pub(super) fn notify_all(&self) {
        self.changed.notify_all();
    }

    /// Waits for a change, for so long at most. `guard` is of this lock.
    pub(super) fn wait<'a>(
        &'a self,
        guard: MutexGuard<'a, T>,
        long: Duration,
    ) -> MutexGuard<'a, T> {
        wait_for(&self.changed, &self.value, guard, long)
    }
}

/// The waiting places of all ranks of a job.
pub(super) struct ParkingLot {
    parkers: Box<[Parker]>,
    waiters: Mutex<Waiters>,
    /// Set once `waiters.verdict` is: the job has failed.
    ended: AtomicBool,
    backoff: Backoff,
    fence: AsymmetricFence,
}

/// One rank's waiting place, on cache lines of its own.
#[repr(align(128))]
struct Parker {
    asleep: AtomicBool,
    mutex: Mutex<()>,
    condvar: Condvar,
}

struct Waiters {
    ranks: Vec<RankState>,
    verdict: Option<ErrorKind>,
}

/// What a rank is about, as far as the parking knows.
#[derive(Clone, Copy)]
pub(super) enum RankState {
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

impl ParkingLot {
    pub(super) fn new(ranks: usize, backoff: Backoff) -> Self {
        Self {
            parkers: (0..ranks).map(|_| Parker::new()).collect(),
            waiters: Mutex::new(Waiters { ranks: vec![RankState::Awake; ranks], verdict: None }),
            ended: AtomicBool::new(false),
            backoff,
            fence: AsymmetricFence::new(backoff.sleeps_are_rare),
        }
    }

    /// Whether ranks outnumber cores.
    pub(super) fn is_oversubscribed(&self) -> bool {
        self.backoff.oversubscribed
    }

    /// What stands between a change and the look for sleepers, and between going to sleep and the
    /// last look.
    #[inline]
    pub(super) fn fence(&self) -> &AsymmetricFence {
        &self.fence
    }

    /// Waits until `ready`, or until a point in time; whether `ready` came first. `ready` must
    /// depend on nothing but what `wake(rank)` is called after; it is asked again and again, so
    /// that it must be fast.
    ///
    /// # Errors
    /// The verdict on the job, if it fails before `ready` holds.
    #[inline]
    pub(super) fn wait_until(
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
            let parker = &self.parkers[rank];
            parker.asleep.store(true, Ordering::Relaxed);
            self.fence.heavy();
            if ready() {
                parker.asleep.store(false, Ordering::Relaxed);
                return Ok(true);
            }
            match until {
                _ if self.ended.load(Ordering::Acquire) => {
                    parker.asleep.store(false, Ordering::Relaxed);
                }
                // It will wake of itself, so that it is no part of any deadlock.
                Some(until) => parker.park_timeout(until.saturating_duration_since(Instant::now())),
                None => self.park(rank, &call()),
            }
        }
    }

    /// As [`Self::wait_until`], as long as backoff lasts; whether `ready`.
    ///
    /// # Errors
    /// As [`Self::wait_until`].
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
        let Backoff { spins, yields, .. } = self.backoff;
        let mut look = spins.min(EAGER_LOOKS);
        for _ in 0..look {
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
            if look == spins + yields {
                return Ok(Seen::Nothing);
            }
            if look >= spins {
                yield_now();
            } else {
                spin_loop();
            }
            look += 1;
        }
    }

    /// Enters itself among the waiters and sleeps until woken, unless this completes a deadlock.
    #[cold]
    fn park(&self, rank: usize, call: &Call) {
        let parker = &self.parkers[rank];
        let mut waiters = lock(&self.waiters);
        if !parker.asleep.load(Ordering::Relaxed) {
            return; // woken already
        }
        waiters.ranks[rank] = RankState::Waiting(*call);
        if let Some(deadlock) = deadlock(&waiters) {
            drop(waiters);
            return self.end(deadlock);
        }
        drop(waiters);
        let mut mutex = lock(&parker.mutex);
        while parker.asleep.load(Ordering::Acquire) {
            mutex = wait(&parker.condvar, mutex);
        }
    }

    /// Wakes `rank` if it sleeps: something has changed that it may
    /// [`wait_until`](Self::wait_until) for.
    #[inline]
    pub(super) fn wake(&self, rank: usize) {
        self.fence.light();
        if self.parkers[rank].asleep.load(Ordering::Relaxed) {
            self.unpark(rank);
        }
    }

    #[cold]
    fn unpark(&self, rank: usize) {
        let parker = &self.parkers[rank];
        let mut waiters = lock(&self.waiters);
        if !parker.asleep.swap(false, Ordering::AcqRel) {
            return; // another waker was faster
        }
        if matches!(waiters.ranks[rank], RankState::Waiting(_)) {
            waiters.ranks[rank] = RankState::Awake;
        }
        drop(waiters);
        drop(lock(&parker.mutex)); // the sleeper is now inside `wait`, where the notification reaches it
        parker.condvar.notify_one();
    }

    /// The rank's program has returned: it will finish nobody's operation any more.
    pub(super) fn finish(&self, rank: usize) {
        let mut waiters = lock(&self.waiters);
        waiters.ranks[rank] = RankState::Finished;
        if let Some(deadlock) = deadlock(&waiters) {
            drop(waiters);
            self.end(deadlock);
        }
    }

    /// Ends the job: all ranks that wait, now or later, get the first `verdict`.
    pub(super) fn end(&self, verdict: ErrorKind) {
        lock(&self.waiters).verdict.get_or_insert(verdict);
        self.ended.store(true, Ordering::Release);
        (0..self.parkers.len()).for_each(|rank| self.wake(rank));
    }

    /// What every rank is about.
    pub(super) fn rank_states(&self) -> Vec<RankState> {
        lock(&self.waiters).ranks.clone()
    }

    /// # Errors
    /// The verdict, if the job has failed.
    #[inline]
    pub(super) fn check(&self) -> Result<(), Fault> {
        if self.ended.load(Ordering::Acquire) { self.verdict() } else { Ok(()) }
    }

    #[cold]
    fn verdict(&self) -> Result<(), Fault> {
        lock(&self.waiters).verdict.clone().map_or(Ok(()), |verdict| Err(verdict.into()))
    }
}

fn deadlock(waiters: &Waiters) -> Option<ErrorKind> {
    let is_awake = |state: &RankState| matches!(state, RankState::Awake);
    let waits = |state: &RankState| matches!(state, RankState::Waiting(_));
    if waiters.ranks.iter().any(is_awake)
        || !waiters.ranks.iter().any(waits)
        || waiters.verdict.is_some()
    {
        return None;
    }
    let lines = waiters.ranks.iter().enumerate().map(|(rank, state)| match state {
        RankState::Waiting(call) => {
            format!("  rank {rank}: {call} ({}:{})", call.at.file(), call.at.line())
        }
        _ => format!("  rank {rank}: finished"),
    });
    Some(ErrorKind::Deadlock { report: lines.collect::<Vec<_>>().join("\n") })
}

impl Parker {
    fn new() -> Self {
        Self { asleep: AtomicBool::new(false), mutex: Mutex::new(()), condvar: Condvar::new() }
    }

    /// Sleeps until woken, for so long at most.
    #[cold]
    fn park_timeout(&self, long: Duration) {
        let mutex = lock(&self.mutex);
        if self.asleep.load(Ordering::Acquire) {
            drop(wait_for(&self.condvar, &self.mutex, mutex, long));
        }
        self.asleep.store(false, Ordering::Relaxed);
    }
}
