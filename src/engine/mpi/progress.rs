//! Progress, and all waiting of this engine's own: nothing else in this folder yields or sleeps.
//!
//! A rank waits inside the library where it can. It *polls* instead, looking again and again:
//!
//! * where ranks share CPUs and the library would spin on the one that the other rank needs;
//! * while operations of several steps are under way, whose next step no call of the library takes.
//!
//! Between two looks it takes those steps, and lets others run where ranks outnumber CPUs.
//!
//! Threads that use MPI beside the rank (see [`shared`](super::shared)), and whoever waits for a
//! word of a window's lock, always poll.

use std::{ffi::c_int, thread, time::Duration};

use mpi::ffi;

use super::{
    MpiEngine, losses,
    operations::{Pending, Stage},
    raw::check,
};
use crate::{
    engine::{Done, Op},
    error::Fault,
};

/// An operation of several steps, each a non-blocking one of MPI.
///
/// It is polled whenever the rank is in a verb that waits, but not while it is inside a blocking
/// collective of the library (those of different ranks must match, and other ranks may have nothing
/// under way): so no rank may need a *send* of another's later steps. All sends start with the
/// operation.
///
/// What it has MPI work on lies on the heap, and is leaked rather than freed if it is dropped
/// before MPI is done.
pub(super) trait Staged {
    /// Takes the next steps, without waiting; whether that was the last. After an error it is
    /// dropped.
    fn poll(&mut self, engine: &MpiEngine) -> Result<bool, Fault>;

    /// What it has brought, after `poll` has said that it is done.
    fn finish(self: Box<Self>) -> Result<Done, Fault>;

    /// All programs have ended, and the engine receives what still comes: only what MPI works on is
    /// waited for from now on.
    fn abandon(&mut self, engine: &MpiEngine);
}

/// A staged operation under way.
pub(super) struct UnderWay {
    /// The number of its [`Op`], if it has one.
    op: Option<u64>,
    work: Box<dyn Staged>,
}

impl MpiEngine {
    /// From now on waiting ranks let others run: for jobs with more ranks than CPUs, where a
    /// library that spins (MPICH always does, Open MPI unless it is told) keeps from running the
    /// very rank that it waits for.
    ///
    /// # Collective
    /// All ranks, between two collective calls, with the same value: blocking collectives do not
    /// match others.
    pub(crate) fn share_cpus(&self, shared: bool) {
        self.oversubscribed.set(shared);
        self.yields.set(shared && self.basis.spins);
        self.polls.set(self.yields.get() || !self.staged.borrow().is_empty());
    }

    /// Starts an operation of several steps.
    pub(super) fn launch(&self, work: Box<dyn Staged>) -> Op {
        let op = self.ops.insert(|| Pending::Staged(Stage::UnderWay, self.call.get()));
        self.staged.borrow_mut().push(UnderWay { op: Some(op), work });
        self.polls.set(true);
        self.progress();
        Op(op)
    }

    /// Sees an operation through that nobody waits for.
    pub(super) fn keep(&self, mut work: Box<dyn Staged>) -> Result<(), Fault> {
        if !work.poll(self)? {
            self.staged.borrow_mut().push(UnderWay { op: None, work });
        }
        Ok(())
    }

    /// Takes the next steps of all operations of several steps.
    pub(super) fn progress(&self) {
        if self.staged.borrow().is_empty() {
            return;
        }
        let mut under_way = self.staged.take();
        let mut at = 0;
        while at < under_way.len() {
            let over = match under_way[at].work.poll(self) {
                Ok(false) => {
                    at += 1;
                    continue;
                }
                Ok(true) => None,
                Err(error) => Some(Err(error)),
            };
            let UnderWay { op, work } = under_way.remove(at);
            let over = over.unwrap_or_else(|| work.finish());
            // Nobody is there any more where the operation was detached.
            let Some(op) = op else { continue };
            self.ops.with(op, |pending| {
                if let Pending::Staged(stage, _) = pending {
                    *stage = Stage::Over(over);
                }
            });
        }
        let awaited = under_way.iter().any(|one| one.op.is_some());
        self.polls.set(self.yields.get() || awaited);
        *self.staged.borrow_mut() = under_way;
    }

    /// All programs have ended: what is under way is left to itself.
    pub(super) fn abandon_staged(&self) {
        let mut under_way = self.staged.take();
        for UnderWay { work, .. } in &mut under_way {
            work.abandon(self);
        }
        *self.staged.borrow_mut() = under_way;
    }

    /// Lets others run, and takes the next steps of what needs several.
    pub(super) fn idle(&self) {
        self.progress();
        if self.oversubscribed.get() {
            thread::yield_now();
        }
    }

    /// Waits for a request; MPI's return code.
    pub(super) fn complete(
        &self,
        request: &mut ffi::MPI_Request,
        status: &mut ffi::MPI_Status,
    ) -> c_int {
        let _waiting = self.waiting();
        if !self.polls.get() {
            // SAFETY: a live request of ours, whose buffers the caller keeps until this returns.
            let code = unsafe { ffi::MPI_Wait(request, status) };
            return losses::over(code, request);
        }
        loop {
            let mut done = 0;
            // SAFETY: as above.
            let code = unsafe { ffi::MPI_Test(request, &raw mut done, status) };
            if done != 0 || check(code).is_err() {
                return losses::over(code, request);
            }
            self.idle();
        }
    }
}

/// Looks again and again, and lets others run between two looks: for what is waited for beside the
/// engine's own operations, by any thread.
pub(super) fn poll_until<T>(
    mut look: impl FnMut() -> Result<Option<T>, Fault>,
) -> Result<T, Fault> {
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        thread::yield_now();
    }
}

/// A pause for a launcher that has been asked to end this process.
pub(super) fn rest_long() {
    thread::sleep(Duration::from_secs(1));
}

/// A pause between two looks of a rank that takes no part.
pub(super) fn rest() {
    thread::sleep(Duration::from_millis(1));
}

/// A pause between two looks for ranks that may have long to compute, on this CPU too.
pub(super) fn nap() {
    thread::sleep(Duration::from_micros(50));
}
