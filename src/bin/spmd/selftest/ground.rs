//! What a case stands on: a communicator, a notebook for what is wrong, and data whose every
//! element is known.

use std::{cell::RefCell, fmt::Debug, ops::Deref, panic::Location};

use spmd::{Comm, ErrorKind, Result};

/// Lengths round the places where engines change their ways: empty, one, odd, and 8 KiB of `u64`
/// with its neighbours.
pub(super) const COUNTS: [usize; 6] = [0, 1, 7, 1000, 1024, 1025];

/// A mebibyte of `u64`.
pub(super) const MEBIBYTE: usize = 128 * 1024;

/// The communicator under test.
pub(super) struct Ground<'c> {
    comm: &'c Comm,
    wrong: RefCell<Option<String>>,
}

impl Deref for Ground<'_> {
    type Target = Comm;

    fn deref(&self) -> &Comm {
        self.comm
    }
}

impl<'c> Ground<'c> {
    pub(super) fn new(comm: &'c Comm) -> Self {
        Self { comm, wrong: RefCell::new(None) }
    }

    /// The first thing that was wrong.
    pub(super) fn wrong(&self) -> Option<String> {
        self.wrong.borrow().clone()
    }

    /// Notes that something is wrong; the first note is kept.
    #[track_caller]
    pub(super) fn note(&self, what: impl FnOnce() -> String) {
        let at = Location::caller();
        let note = || format!("{} ({}:{})", what(), at.file(), at.line());
        self.wrong.borrow_mut().get_or_insert_with(note);
    }

    #[track_caller]
    pub(super) fn holds(&self, claim: &str, holds: bool) {
        if !holds {
            self.note(|| format!("not so: {claim}"));
        }
    }

    #[track_caller]
    pub(super) fn same<T: PartialEq + Debug>(&self, what: &str, got: &[T], wanted: &[T]) {
        if got.len() != wanted.len() {
            return self
                .note(|| format!("{what}: got {} elements, wanted {}", got.len(), wanted.len()));
        }
        let differ = got.iter().zip(wanted).position(|(got, wanted)| got != wanted);
        if let Some(at) = differ {
            self.note(|| {
                format!("{what}: element {at}: got {:?}, wanted {:?}", got[at], wanted[at])
            });
        }
    }

    #[track_caller]
    #[allow(clippy::needless_pass_by_value)] // so that calls read alike for values and references
    pub(super) fn equal<T: PartialEq + Debug>(&self, what: &str, got: T, wanted: T) {
        if got != wanted {
            self.note(|| format!("{what}: got {got:?}, wanted {wanted:?}"));
        }
    }

    /// The call must have failed, for this reason.
    #[track_caller]
    pub(super) fn refused<T>(&self, what: &str, got: Result<T>, reason: fn(&ErrorKind) -> bool) {
        match got {
            Err(error) if reason(error.kind()) => {}
            Err(error) => self.note(|| format!("{what}: refused for another reason: {error}")),
            Ok(_) => self.note(|| format!("{what}: not refused")),
        }
    }

    /// The rank `steps` after this one, round the circle.
    pub(super) fn after(&self, steps: usize) -> usize {
        (self.rank() + steps) % self.size()
    }

    /// The rank `steps` before this one, round the circle.
    pub(super) fn before(&self, steps: usize) -> usize {
        (self.rank() + self.size() - steps % self.size()) % self.size()
    }

    /// All ranks of the communicator.
    pub(super) fn ranks(&self) -> std::ops::Range<usize> {
        0..self.size()
    }

    /// Whether messages still find their way: a circle in which everybody must get the right
    /// neighbour.
    #[track_caller]
    pub(super) fn still_works(&self) -> Result<()> {
        let mut got = [usize::MAX];
        self.sendrecv(&[self.rank()], (self.after(1), 31), &mut got, (self.before(1), 31))?;
        self.same("a circle afterwards", &got, &[self.before(1)]);
        Ok(())
    }
}

/// An element that says which rank made it and where it stands.
pub(super) fn value(rank: usize, index: usize) -> u64 {
    let mixed = (rank as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (index as u64 + 1);
    mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ (mixed >> 31)
}

/// `count` elements of `rank`.
pub(super) fn values(rank: usize, count: usize) -> Vec<u64> {
    (0..count).map(|index| value(rank, index)).collect()
}

/// A receive buffer in the midst of memory that must stay as it is.
pub(super) struct Guarded<T> {
    all: Vec<T>,
    guard: T,
}

/// Guards before and behind the buffer.
const GUARDS: usize = 16;

impl<T: Copy + PartialEq> Guarded<T> {
    /// A buffer of `count` elements, which hold the guard value too.
    pub(super) fn new(count: usize, guard: T) -> Self {
        Self { all: vec![guard; count + 2 * GUARDS], guard }
    }

    /// The buffer.
    pub(super) fn buffer(&mut self) -> &mut [T] {
        let end = self.all.len() - GUARDS;
        &mut self.all[GUARDS..end]
    }

    /// Whether nothing but the first `count` elements of the buffer has been written.
    pub(super) fn intact_beyond(&self, count: usize) -> bool {
        let (before, behind) = (&self.all[..GUARDS], &self.all[GUARDS + count..]);
        before.iter().chain(behind).all(|element| *element == self.guard)
    }
}
