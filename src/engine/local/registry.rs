//! A registry of what ranks share in a collective call: made by the first to arrive, found by the
//! others.

use std::{collections::HashMap, sync::Arc};

use super::sync::{Mutex, lock};

/// Which call of which communicator: its job-wide number, and the sequence number of the call.
pub(super) type CallId = (u32, u64);

/// Objects that are made by the first rank to ask, and forgotten here when the last has asked: from
/// then on they live as long as a rank holds them.
pub(super) struct Registry<T>(Mutex<HashMap<CallId, Entry<T>>>);

struct Entry<T> {
    shared: Arc<T>,
    /// How many ranks have yet to ask.
    missing: usize,
}

impl<T> Registry<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    /// What the `ranks` of a communicator share on this occasion. Every rank asks once.
    pub(super) fn join(&self, occasion: CallId, ranks: usize, make: impl FnOnce() -> T) -> Arc<T> {
        let mut meetings = lock(&self.0);
        let meeting = meetings
            .entry(occasion)
            .or_insert_with(|| Entry { shared: Arc::new(make()), missing: ranks });
        meeting.missing -= 1;
        let shared = Arc::clone(&meeting.shared);
        if meeting.missing == 0 {
            meetings.remove(&occasion);
        }
        shared
    }
}
