//! Where ranks wait: wake-up without loss, patience by the number of cores, and the detection of deadlock.
//!
//! Every rank has a seat with a count of *events*: each message that arrives for the rank and each of its buffers that
//! is given back is one. A rank that finds its operation unfinished waits for the count to change. Whoever finishes an
//! operation changes the operation first and the count second.
//!
//! A rank enters itself in the roll before it sleeps, with the count it has seen. When all ranks are in the roll (or have
//! finished) and no count has moved since, nothing can ever happen again: that is deadlock, found by the last to enter.
//! It is exact: only a rank that is awake can finish another's operation, and it moves the count before it can sleep itself.

use std::time::{Duration, Instant};

use super::sync::{
    AtomicBool, AtomicU64, Condvar, Mutex, Ordering, fence, lock, spin_loop, wait, wait_for,
    yield_now,
};
use crate::error::{Call, ErrorKind};

/// How long a rank looks again and again before it sleeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    spins: u32,
    yields: u32,
}

impl Patience {
    /// With a core for every rank, spinning is the fastest way to see a message (waking a sleeper costs 30 to 60 µs
    /// across cores); without, it only keeps the sender from running.
    pub(crate) fn for_ranks(ranks: usize, cores: usize) -> Self {
        if cfg!(loom) {
            Self { spins: 0, yields: 0 }
        } else if ranks <= cores {
            Self { spins: 20_000, yields: 100 }
        } else {
            Self { spins: 0, yields: 16 }
        }
    }
}

/// The waiting places of all ranks of a job.
pub(super) struct Hall {
    seats: Box<[Seat]>,
    roll: Mutex<Roll>,
    /// Set once `roll.verdict` is: the job has failed.
    ended: AtomicBool,
    patience: Patience,
}

/// One rank's waiting place, on cache lines of its own.
#[repr(align(128))]
struct Seat {
    events: AtomicU64,
    asleep: AtomicBool,
    door: Mutex<()>,
    bell: Condvar,
}

struct Roll {
    ranks: Vec<Presence>,
    verdict: Option<ErrorKind>,
}

#[derive(Clone, Copy)]
enum Presence {
    Awake,
    Waiting { seen: u64, call: Call },
    Finished,
}

impl Hall {
    pub(super) fn new(ranks: usize, patience: Patience) -> Self {
        Self {
            seats: (0..ranks).map(|_| Seat::new()).collect(),
            roll: Mutex::new(Roll { ranks: vec![Presence::Awake; ranks], verdict: None }),
            ended: AtomicBool::new(false),
            patience,
        }
    }

    /// Waits until `ready`, which must depend on nothing but what `notify(rank)` is called after.
    ///
    /// # Errors
    /// The verdict on the job, if it fails before `ready` holds.
    pub(super) fn wait(
        &self,
        rank: usize,
        call: &Call,
        ready: impl FnMut() -> bool,
    ) -> Result<(), ErrorKind> {
        self.wait_until(rank, call, None, ready).map(drop)
    }

    /// As [`Self::wait`], until a point in time; whether `ready` came first.
    pub(super) fn wait_until(
        &self,
        rank: usize,
        call: &Call,
        until: Option<Instant>,
        mut ready: impl FnMut() -> bool,
    ) -> Result<bool, ErrorKind> {
        let seat = &self.seats[rank];
        loop {
            let seen = seat.events.load(Ordering::Acquire);
            if ready() {
                return Ok(true);
            }
            self.check()?;
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
            if self.look_again(seat, seen) {
                continue;
            }
            match left {
                // It will wake of itself, so that it is no part of any deadlock.
                Some(left) => seat.doze(seen, left),
                None => self.sleep(rank, seen, call),
            }
        }
    }

    /// Spins and yields for a while; whether an event came.
    fn look_again(&self, seat: &Seat, seen: u64) -> bool {
        let Patience { spins, yields } = self.patience;
        for turn in 0..spins + yields {
            if seat.events.load(Ordering::Relaxed) != seen {
                return true;
            }
            if turn < spins { spin_loop() } else { yield_now() }
        }
        false
    }

    /// Enters the roll and sleeps until an event comes, unless this completes a deadlock.
    fn sleep(&self, rank: usize, seen: u64, call: &Call) {
        let mut roll = lock(&self.roll);
        roll.ranks[rank] = Presence::Waiting { seen, call: *call };
        if let Some(deadlock) = self.deadlock(&roll) {
            drop(roll);
            return self.end(deadlock);
        }
        drop(roll);
        self.seats[rank].sleep(seen);
        lock(&self.roll).ranks[rank] = Presence::Awake;
    }

    /// Tells `rank` that one of its operations is finished or that a message is there.
    pub(super) fn notify(&self, rank: usize) {
        self.seats[rank].notify();
    }

    /// The rank's program has returned: it will finish nobody's operation any more.
    pub(super) fn finish(&self, rank: usize) {
        let mut roll = lock(&self.roll);
        roll.ranks[rank] = Presence::Finished;
        if let Some(deadlock) = self.deadlock(&roll) {
            drop(roll);
            self.end(deadlock);
        }
    }

    /// Ends the job: all ranks that wait, now or later, get the first `verdict`.
    pub(super) fn end(&self, verdict: ErrorKind) {
        lock(&self.roll).verdict.get_or_insert(verdict);
        self.ended.store(true, Ordering::Release);
        self.seats.iter().for_each(Seat::notify);
    }

    /// # Errors
    /// The verdict, if the job has failed.
    pub(super) fn check(&self) -> Result<(), ErrorKind> {
        if !self.ended.load(Ordering::Acquire) {
            return Ok(());
        }
        lock(&self.roll).verdict.clone().map_or(Ok(()), Err)
    }

    fn deadlock(&self, roll: &Roll) -> Option<ErrorKind> {
        let mut stuck = false;
        for (presence, seat) in roll.ranks.iter().zip(&self.seats) {
            match *presence {
                Presence::Awake => return None,
                Presence::Waiting { seen, .. } => {
                    if seat.events.load(Ordering::Acquire) != seen {
                        return None;
                    }
                    stuck = true;
                }
                Presence::Finished => {}
            }
        }
        let report = || {
            let lines = roll.ranks.iter().enumerate().map(|(rank, presence)| match presence {
                Presence::Waiting { call, .. } => {
                    format!("  rank {rank}: {call} ({}:{})", call.at.file(), call.at.line())
                }
                _ => format!("  rank {rank}: finished"),
            });
            lines.collect::<Vec<_>>().join("\n")
        };
        (stuck && roll.verdict.is_none()).then(|| ErrorKind::Deadlock { report: report() })
    }
}

impl Seat {
    fn new() -> Self {
        Self {
            events: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
            door: Mutex::new(()),
            bell: Condvar::new(),
        }
    }

    /// Counts an event and wakes the rank if it sleeps.
    ///
    /// The fences pair with those of `sleep`: either this sees `asleep`, or the sleeper sees the event before it sleeps.
    fn notify(&self) {
        self.events.fetch_add(1, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) {
            drop(lock(&self.door)); // the sleeper is now inside `wait`, where the bell reaches it
            self.bell.notify_one();
        }
    }

    fn sleep(&self, seen: u64) {
        let mut door = lock(&self.door);
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        while self.events.load(Ordering::Acquire) == seen {
            door = wait(&self.bell, door);
        }
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Sleeps until an event comes, for so long at most.
    fn doze(&self, seen: u64, long: Duration) {
        let door = lock(&self.door);
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.events.load(Ordering::Acquire) == seen {
            drop(wait_for(&self.bell, door, long));
        }
        self.asleep.store(false, Ordering::Relaxed);
    }
}
