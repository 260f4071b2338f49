//! What belongs to the thread of one rank, and how the compiler says so.

use std::{marker::PhantomData, ops::Deref};

/// What the compiler names where a communicator is taken to another thread: for threads there is
/// [`Comm::shared`](super::Comm::shared).
pub(super) struct OnlyTheThreadOfItsRankMayUseAComm;

/// Keeps what it stands in from being `Send` or `Sync`.
pub(super) type Bound = PhantomData<*const OnlyTheThreadOfItsRankMayUseAComm>;

/// A part of a structure that holds a [`Bound`] too.
///
/// The compiler complains once for each part that other threads must not touch, in twenty lines. So
/// these parts do not say it, and the bound says it once for all of them.
#[derive(Default)]
pub(super) struct Own<T>(T);

impl<T> Own<T> {
    pub(super) const fn new(part: T) -> Self {
        Self(part)
    }
}

// SAFETY: whatever holds one holds a `Bound` too, which is neither `Send` nor `Sync`: so no other
// thread gets to it.
unsafe impl<T> Send for Own<T> {}

// SAFETY: as above.
unsafe impl<T> Sync for Own<T> {}

impl<T> Deref for Own<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}
