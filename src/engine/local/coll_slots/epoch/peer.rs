//! What a rank publishes, and what it may do with what others have: meet them, pin, and read. The
//! types say in which order.

use std::{
    marker::PhantomData,
    ops::{Deref, Range},
};

use super::{
    super::{LENT, Lent, TABLE},
    EpochGuard,
};

/// Who may touch what this rank has lent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    Nobody,
    One(usize),
    All,
}

/// What a rank publishes.
#[derive(Clone, Copy)]
pub(crate) enum Payload<'r> {
    Nothing,
    Rows(&'r [u8]),
    /// Rows, and where each begins and the last ends.
    Table(&'r [u8], &'r [usize]),
    /// Rows, and memory that the others read and write, each its share.
    Shared(&'r [u8], Room<'r>),
}

/// Memory of a rank that others write into in its call.
#[derive(Clone, Copy)]
pub(crate) struct Room<'r> {
    pub(crate) start: *mut u8,
    memory: PhantomData<&'r ()>,
}

impl<'r> Room<'r> {
    /// For all of `'r` the memory is reached through the room only.
    pub(crate) fn new(memory: &'r mut [u8]) -> Self {
        Self { start: memory.as_mut_ptr(), memory: PhantomData }
    }
}

/// These ranks have filled their slots in this epoch, and make the same call: given by those who
/// wait for them, taken by [`EpochGuard::pin`].
pub(crate) struct Met {
    pub(super) epoch: u64,
    pub(super) ranks: Range<usize>,
}

/// The right to touch what ranks have published, lent memory too, until it is dropped. Nobody waits
/// meanwhile: whoever waits needs the guard.
pub(crate) struct Pinned<'p, 'a> {
    pub(super) guard: &'p mut EpochGuard<'a>,
    pub(super) ranks: Range<usize>,
}

impl<'a> Deref for Pinned<'_, 'a> {
    type Target = EpochGuard<'a>;

    fn deref(&self) -> &EpochGuard<'a> {
        self.guard
    }
}

impl Drop for Pinned<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        self.guard.unpin();
    }
}

impl Pinned<'_, '_> {
    /// What a rank has published that was met.
    #[inline]
    pub(crate) fn peer(&self, rank: usize) -> PeerData<'_> {
        assert!(self.ranks.contains(&rank), "a rank is met and pinned before it is looked at");
        let guard = &*self.guard;
        let size = guard.size();
        let (rows, len, starts, room) = guard.look(rank, |published| {
            let (form, body) = (published.form, &raw const published.body);
            let len = (form >> 2) as usize;
            if form & LENT != 0 {
                // SAFETY: the form says which field was written.
                let Lent { rows, room, starts } = unsafe { (*body).lent };
                return (rows, len, starts, room);
            }
            let (inline, room) = (body.cast::<u8>(), std::ptr::null_mut());
            if form & TABLE == 0 {
                return (inline, len, std::ptr::null(), room);
            }
            // SAFETY: `publish` has put the table and the rows one behind the other into the body.
            let rows = unsafe { inline.add((size + 1) * size_of::<usize>()) };
            (rows, len, body.cast::<usize>(), room)
        });
        PeerData { rows, len, starts, size, room, pinned: PhantomData }
    }
}

/// What another rank has published.
#[derive(Clone, Copy)]
pub(crate) struct PeerData<'p> {
    rows: *const u8,
    len: usize,
    /// A start for each of `size` ranks and the end; null if there is no table.
    starts: *const usize,
    size: usize,
    /// Where the rank wants its result; null unless it publishes `Shared`.
    pub(crate) room: *mut u8,
    pinned: PhantomData<&'p ()>,
}

impl<'p> PeerData<'p> {
    /// Bytes of the rows; none if they do not lie inside.
    #[inline]
    pub(crate) fn bytes(&self, from: usize, len: usize) -> Option<&'p [u8]> {
        let inside = from.checked_add(len).is_some_and(|end| end <= self.len);
        // SAFETY: the bytes lie inside what the rank has published, which stays unchanged until
        // this rank is done with the epoch, if it is a copy, and while there is a pin, if it is
        // lent.
        inside.then(|| unsafe { std::slice::from_raw_parts(self.rows.add(from), len) })
    }

    /// All of the rows.
    pub(crate) fn all(&self) -> Option<&'p [u8]> {
        self.bytes(0, self.len)
    }

    /// The row of rank `at`: of a table, or one of equal parts.
    pub(crate) fn row_or_part(&self, at: usize) -> Option<&'p [u8]> {
        assert!(at < self.size, "a row for each rank");
        if self.starts.is_null() {
            let part = self.len / self.size;
            return self.bytes(at * part, part);
        }
        // SAFETY: `publish` has seen `size + 1` starts; they stay as the rows do.
        let (from, to) = unsafe { (*self.starts.add(at), *self.starts.add(at + 1)) };
        self.bytes(from, to.checked_sub(from)?)
    }
}
