//! Things under way, by number.

use std::{cell::RefCell, collections::HashMap};

/// Entries that are put in, looked at and taken out by a number that is never used again.
pub(crate) struct Table<T>(RefCell<(u64, HashMap<u64, T>)>);

impl<T> Table<T> {
    pub(crate) fn new() -> Self {
        Self(RefCell::new((0, HashMap::new())))
    }

    pub(crate) fn insert(&self, entry: T) -> u64 {
        let (next, entries) = &mut *self.0.borrow_mut();
        *next += 1;
        entries.insert(*next, entry);
        *next
    }

    pub(crate) fn remove(&self, number: u64) -> Option<T> {
        self.0.borrow_mut().1.remove(&number)
    }

    /// Looks at an entry, which may change; `None` if there is none.
    pub(crate) fn with<R>(&self, number: u64, look: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.0.borrow_mut().1.get_mut(&number).map(look)
    }

    /// Looks at all entries, the oldest first.
    pub(crate) fn each(&self, mut look: impl FnMut(&T)) {
        let entries = &self.0.borrow().1;
        let mut numbers: Vec<_> = entries.keys().collect();
        numbers.sort_unstable();
        numbers.into_iter().for_each(|number| look(&entries[number]));
    }

    /// Takes all entries out.
    #[cfg(feature = "mpi")]
    pub(crate) fn drain(&self) -> HashMap<u64, T> {
        std::mem::take(&mut self.0.borrow_mut().1)
    }
}
