//! Receives that no message can overrun: the one place where MPI is told of memory for a message
//! whose length is not known.
//!
//! *The rule: nothing is received into memory that is smaller than what can come.* Either the
//! message has been taken out of the queue and is received into just so many bytes; or its room is
//! described here, so that this library stays inside.
//!
//! Some libraries write a message that is longer than the receiver's buffer behind its end before
//! they report that it is too long: Open MPI 4.1 and 5.0 copy what was sent straight into
//! contiguous memory (its protocols `get` and `put`, from about a kilobyte up). A library is asked
//! once, with memory to spare. Where it does so, receives give the library memory that is not
//! contiguous: that makes it unpack within bounds. Where the buffer is small it is another, whose
//! description is made once; where it is large, or has a head before it, two bytes lie apart. A
//! blocking receive of more than a few bytes looks at the message's size first instead (some 25
//! ns), and so keeps the library's fast ways for large messages.

use std::{
    cell::RefCell,
    ffi::{c_int, c_void},
    mem::{ManuallyDrop, MaybeUninit},
};

use mpi::ffi;

use super::{
    communicator::Communicator,
    raw::{Datatype, Extent, blank_status, check, made},
    transfer::distance,
};
use crate::error::Fault;

/// Buffers up to this size are filled from a copy,
pub(super) const SMALL: usize = 1024;

/// and, where the call waits anyway, up to this one: with more a look at the message's size costs
/// less.
pub(super) const TINY: usize = 256;

/// Room for two small messages with a gap between them, the second of which is never wanted.
pub(super) struct Copy(MaybeUninit<[u8; 2 * SMALL + 1]>);

impl Copy {
    pub(super) fn new() -> Self {
        Self(MaybeUninit::uninit())
    }

    pub(super) fn start(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }

    /// # Safety
    /// So many bytes have been received.
    ///
    /// # Panics
    /// If there is no room for so many.
    pub(super) unsafe fn first(&self, bytes: usize) -> &[u8] {
        assert!(bytes <= SMALL, "a copy holds a small message");
        // SAFETY: by this function's own contract they have been written.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), bytes) }
    }
}

/// Bytes that lie apart: the first and the last of three, so that they and whatever is before them
/// are never one piece, though there be nothing before them.
#[derive(Default)]
pub(super) struct Apart([u8; Self::BYTES]);

impl Apart {
    pub(super) const BYTES: usize = 3;

    pub(super) fn place(&mut self) -> *mut u8 {
        Self::place_in(&mut self.0)
    }

    /// As [`Self::place`], in bytes that are there for it.
    pub(super) fn place_in(bytes: &mut [u8]) -> *mut u8 {
        bytes[..Self::BYTES].as_mut_ptr()
    }
}

/// What a receive is told of its memory: parts one behind the other, the first where the receive is
/// to begin, and, where the library lets messages overrun, the place of an [`Apart`] as the last.
pub(super) fn room<const N: usize>(
    parts: [(*mut u8, usize); N],
    apart: Option<*mut u8>,
) -> Result<Extent, Fault> {
    let start = parts[0].0;
    let described = parts.map(|(at, len)| (len, distance(start, at)));
    match (apart, described) {
        (None, ref described) if N == 1 => Extent::bytes(described[0].0),
        (None, described) => Datatype::parts(&described).map(Extent::one),
        (Some(place), described) => {
            let place = distance(start, place);
            let last = Apart::BYTES as isize - 1;
            let parts = [&described[..], &[(1, place), (1, place + last)]].concat();
            Datatype::parts(&parts).map(Extent::one)
        }
    }
}

/// What receives need where messages can overrun buffers.
pub(super) struct Guard {
    /// Describes half of a [`Copy`]. It lives as long as MPI does, which ends before the engine.
    small: ManuallyDrop<Datatype>,
    /// Copies to be used again.
    #[allow(clippy::vec_box, reason = "MPI works on a copy while its box moves in and out")]
    copies: RefCell<Vec<Box<Copy>>>,
}

impl Guard {
    pub(super) fn new() -> Result<Self, Fault> {
        let small = ManuallyDrop::new(Datatype::with_gap(SMALL)?);
        Ok(Self { small, copies: RefCell::default() })
    }

    /// Where to receive a small message. Give it back.
    pub(super) fn copy(&self) -> Box<Copy> {
        self.copies.borrow_mut().pop().unwrap_or_else(|| Box::new(Copy::new()))
    }

    /// What a copy looks like.
    pub(super) fn extent(&self) -> Extent {
        Extent::of(2, self.small.raw())
    }

    pub(super) fn give_back(&self, copy: Box<Copy>) {
        self.copies.borrow_mut().push(copy);
    }
}

/// Whether this library writes a message that is too long behind its buffer's end. `comm` carries
/// no other message.
pub(super) fn overruns(comm: &Communicator, me: c_int) -> Result<bool, Fault> {
    const SENT: usize = 1 << 14;
    const ROOM: usize = 8;
    let comm = comm.raw();
    let (sent, mut room) = (vec![1_u8; SENT], vec![0_u8; SENT]);
    let (from, into) = (sent.as_ptr().cast::<c_void>(), room.as_mut_ptr().cast::<c_void>());
    // SAFETY: whatever the library writes lies within `room`, which has room for all that is sent.
    // Both requests are complete before the memory goes.
    unsafe {
        let byte = ffi::RSMPI_UINT8_T;
        let mut receiving =
            made(|made| ffi::MPI_Irecv(into, ROOM as c_int, byte, me, 0, comm, made))?;
        let mut sending =
            made(|made| ffi::MPI_Isend(from, SENT as c_int, byte, me, 0, comm, made))?;
        let mut status = blank_status();
        ffi::MPI_Wait(&raw mut receiving, &raw mut status); // says that the message is too long
        check(ffi::MPI_Wait(&raw mut sending, &raw mut status))?;
    }
    Ok(room[ROOM..].iter().any(|&byte| byte != 0))
}
