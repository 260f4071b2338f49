//! Locks of parts: words that are counted up, in a window of their own.

use std::ffi::c_int;

use mpi::ffi;

use super::{Hold, Outcome, Window};
use crate::{
    engine::{
        Rank, WindowId,
        mpi::{MpiEngine, progress::poll_until, raw::check},
    },
    error::{ErrorKind, Fault},
};

/// The words of a lock. Who wants it takes a ticket and waits until that is called; so all get it
/// in the order in which they asked, and whoever holds it exclusively calls nobody until it lets
/// go.
const TICKETS: ffi::MPI_Aint = 0;
const CALLED: ffi::MPI_Aint = 8;
/// How many hold it together.
const HOLDERS: ffi::MPI_Aint = 16;
pub(super) const LOCK_BYTES: usize = 24;

impl Window {
    /// Adds to a word of the lock of `target`; what it was before.
    fn add(&self, target: Rank, word: ffi::MPI_Aint, summand: i64) -> Result<i64, Fault> {
        let (rank, win) = (target.0 as c_int, self.locks);
        let mut before = 0_i64;
        // SAFETY: both buffers hold one word until the access is complete.
        unsafe {
            let (summand, into) = ((&raw const summand).cast(), (&raw mut before).cast());
            let (word_type, sum) = (ffi::RSMPI_INT64_T, ffi::RSMPI_SUM);
            check(ffi::MPI_Fetch_and_op(summand, into, word_type, rank, word, sum, win))?;
            check(ffi::MPI_Win_flush(rank, win))?;
        }
        Ok(before)
    }

    fn await_word(
        &self,
        engine: &MpiEngine,
        target: Rank,
        word: ffi::MPI_Aint,
        value: i64,
    ) -> Outcome {
        poll_until(|| {
            engine.check_losses()?; // who holds it may be lost
            Ok((self.add(target, word, 0)? == value).then_some(()))
        })
    }
}

/// Waits until the part is free, and holds it.
pub(super) fn lock(engine: &MpiEngine, window: WindowId, target: Rank, exclusive: bool) -> Outcome {
    let window = engine.window(window)?;
    if window.changed.borrow().held[target.index()].is_some() {
        return Err(ErrorKind::InvalidArgument {
            what: format!("this rank holds the part of rank {} already", target.0),
        }
        .into());
    }
    let _waiting = engine.waiting();
    let ticket = window.add(target, TICKETS, 1)?;
    window.await_word(engine, target, CALLED, ticket)?;
    let hold = if exclusive {
        window.await_word(engine, target, HOLDERS, 0)?;
        Hold::Exclusive
    } else {
        window.add(target, HOLDERS, 1)?;
        window.add(target, CALLED, 1)?;
        Hold::Shared
    };
    window.changed.borrow_mut().held[target.index()] = Some(hold);
    // SAFETY: a live window, open to all.
    check(unsafe { ffi::MPI_Win_sync(window.memory) })
}

/// Completes this rank's accesses to the part and lets go of it.
pub(super) fn unlock(engine: &MpiEngine, window: WindowId, target: Rank) -> Outcome {
    let window = engine.window(window)?;
    let hold = window.changed.borrow_mut().held[target.index()].take();
    let hold = hold.ok_or(ErrorKind::Closed)?;
    let _waiting = engine.waiting();
    window.complete(target)?;
    // SAFETY: a live window, open to all.
    check(unsafe { ffi::MPI_Win_sync(window.memory) })?;
    match hold {
        Hold::Exclusive => window.add(target, CALLED, 1),
        Hold::Shared => window.add(target, HOLDERS, -1),
    }
    .map(drop)
}
