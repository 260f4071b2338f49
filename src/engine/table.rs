//! Things under way, by number.

use std::cell::RefCell;

/// Entries that are put in, looked at and taken out by a number that is never used again. Places
/// are: nothing is allocated once a table has held as many entries at a time as it will.
pub(crate) struct Table<T>(RefCell<Places<T>>);

struct Places<T> {
    all: Vec<Place<T>>,
    /// Places without an entry.
    free: Vec<u32>,
    /// Entries put in so far.
    inserted: u64,
}

struct Place<T> {
    /// How many entries were here before: the upper half of an entry's number.
    before: u32,
    /// How many entries the table had had when this one came.
    age: u64,
    entry: Option<T>,
}

fn number(before: u32, place: u32) -> u64 {
    u64::from(before) << 32 | u64::from(place)
}

impl<T> Places<T> {
    #[inline]
    fn of(&mut self, number: u64) -> Option<&mut Place<T>> {
        let place = self.all.get_mut(number as u32 as usize)?;
        (place.before == (number >> 32) as u32).then_some(place)
    }

    /// Gives the place of an entry that has been taken out to another.
    #[inline]
    fn vacate(&mut self, number: u64) {
        let Some(place) = self.of(number) else { return };
        // A place whose numbers are used up is not used again.
        if let Some(before) = place.before.checked_add(1) {
            place.before = before;
            self.free.push(number as u32);
        }
    }
}

impl<T> Table<T> {
    pub(crate) fn new() -> Self {
        Self(RefCell::new(Places { all: Vec::new(), free: Vec::new(), inserted: 0 }))
    }

    /// Puts in what `make` makes; its number.
    ///
    /// Nothing that could panic comes between making the entry and its place, so that it is made
    /// there: what is made elsewhere in small pieces and moved in large ones waits until the pieces
    /// have left the processor.
    #[inline(always)]
    pub(crate) fn insert(&self, make: impl FnOnce() -> T) -> u64 {
        let Places { all, free, inserted } = &mut *self.0.borrow_mut();
        *inserted += 1;
        let at = free.pop().unwrap_or_else(|| {
            all.push(Place { before: 0, age: 0, entry: None });
            all.len() as u32 - 1
        });
        let place = &mut all[at as usize];
        place.age = *inserted;
        place.entry.get_or_insert_with(make);
        number(place.before, at)
    }

    pub(crate) fn remove(&self, number: u64) -> Option<T> {
        let mut places = self.0.borrow_mut();
        let entry = places.of(number)?.entry.take()?;
        places.vacate(number);
        Some(entry)
    }

    /// Looks at an entry, and drops it where it is if that gives something; `None` if there is no
    /// entry, or if it stays.
    #[inline]
    pub(crate) fn end<R>(&self, number: u64, look: impl FnOnce(&mut T) -> Option<R>) -> Option<R> {
        let mut places = self.0.borrow_mut();
        let entry = &mut places.of(number)?.entry;
        let end = look(entry.as_mut()?)?;
        *entry = None;
        places.vacate(number);
        Some(end)
    }

    /// Looks at an entry, which may change; `None` if there is none.
    #[inline]
    pub(crate) fn with<R>(&self, number: u64, look: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.0.borrow_mut().of(number)?.entry.as_mut().map(look)
    }

    /// Looks at all entries, the oldest first.
    pub(crate) fn each(&self, mut look: impl FnMut(&T)) {
        let table = self.0.borrow();
        let entries = table.all.iter().filter_map(|place| Some((place.age, place.entry.as_ref()?)));
        let mut entries: Vec<_> = entries.collect();
        entries.sort_unstable_by_key(|&(age, _)| age);
        for (_, entry) in entries {
            look(entry);
        }
    }

    /// Takes all entries out.
    #[cfg(feature = "mpi")]
    pub(crate) fn drain(&self) -> Vec<T> {
        let numbers = |(at, place): (usize, &Place<T>)| number(place.before, at as u32);
        let all: Vec<u64> = self.0.borrow().all.iter().enumerate().map(numbers).collect();
        all.into_iter().filter_map(|number| self.remove(number)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_not_used_again_but_its_place_is() {
        let table = Table::new();
        let first = table.insert(|| "a");
        assert_eq!(table.remove(first), Some("a"));
        let second = table.insert(|| "b");
        assert_ne!(first, second);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.with(first, |_| ()), None);
        assert_eq!(table.with(second, |entry| *entry), Some("b"));
        assert_eq!(table.0.borrow().all.len(), 1);
    }

    #[test]
    fn an_entry_ends_when_there_is_something_to_tell() {
        let table = Table::new();
        let number = table.insert(|| 1);
        assert_eq!(table.end(number, |_| None::<()>), None);
        assert_eq!(table.with(number, |entry| *entry), Some(1));
        assert_eq!(table.end(number, |entry| Some(*entry + 1)), Some(2));
        assert_eq!(table.end(number, |entry| Some(*entry)), None);
        assert_ne!(table.insert(|| 3), number);
    }
}
