//! What a rank waits for at this moment, to be seen from another thread.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::error::{Call, With};

/// The call that the rank's thread is in.
pub(crate) struct Watch(Mutex<State>);

struct State {
    call: Call,
    /// Since when it waits in the MPI library, if it does.
    since: Option<Instant>,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State { call: Call::new("start", With::All), since: None }))
    }

    pub(super) fn enter(&self, call: Call) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).call = call;
    }

    /// Marks the rank as waiting until the mark is dropped.
    pub(super) fn waiting(&self) -> Waiting<'_> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).since = Some(Instant::now());
        Waiting(self)
    }

    /// The call in which the rank has been waiting for longer than `limit`, and for how long.
    pub(crate) fn overdue(&self, limit: Duration) -> Option<(Call, Duration)> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = state.since?.elapsed();
        (waited > limit).then_some((state.call, waited))
    }
}

pub(super) struct Waiting<'w>(&'w Watch);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).since = None;
    }
}
