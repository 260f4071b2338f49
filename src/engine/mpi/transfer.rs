//! One transfer at a time: what MPI works on, what it has completed, and what a received message is.

use std::ffi::c_int;

use mpi::ffi;

use super::{
    raw::{blank_status, bytes_in, check, is_truncation},
    wire::{self, HEAD, Head},
};
use crate::{
    datum::Memory,
    engine::{Done, Label, Rank, Received, Tag},
    error::ErrorKind,
};

/// A non-blocking operation that MPI works on. What it points MPI to lives on the heap and stays here until it is done.
pub(super) struct Pending {
    pub(super) request: ffi::MPI_Request,
    pub(super) memory: Memory,
    pub(super) wire: Wire,
    /// What a receive expects.
    pub(super) expects: Option<Label>,
}

pub(super) enum Wire {
    /// Head and data.
    Copied(Box<[u8]>),
    /// The head; the data are in the buffer.
    Split(Box<Head>),
}

impl Pending {
    /// Completes the operation if MPI is done with it, without its result.
    pub(super) fn is_over(&mut self) -> bool {
        tested(&mut self.request).is_ok_and(|status| status.is_some())
    }

    /// The result of an operation that MPI has completed with this code and status.
    pub(super) fn finished(
        mut self,
        code: c_int,
        status: &ffi::MPI_Status,
    ) -> Result<Done, ErrorKind> {
        let Some(label) = self.expects else {
            if let Err(error) = check(code) {
                std::mem::forget(self); // after a failed send it is not certain that MPI is done with the buffer
                return Err(error);
            }
            return Ok(done(self.memory, None));
        };
        let into = self.memory.bytes_mut();
        let received = match &self.wire {
            Wire::Copied(copy) => unpack(code, status, copy, &label, into)?,
            Wire::Split(head) => admit(head, &label, completed(code, status)?, into.len())?,
        };
        Ok(done(self.memory, Some(received)))
    }
}

fn done(memory: Memory, received: Option<Received>) -> Done {
    Done { buffer: memory.into_owned(), received, exchanged: None }
}

/// The status of a request that MPI is done with.
pub(super) fn tested(request: &mut ffi::MPI_Request) -> Result<Option<ffi::MPI_Status>, ErrorKind> {
    let (mut done, mut status) = (0, blank_status());
    // SAFETY: a live request of ours, or the null request after it has completed.
    check(unsafe { ffi::MPI_Test(request, &raw mut done, &raw mut status) })?;
    Ok((done != 0).then_some(status))
}

/// Takes the first message that fits out of MPI's queue.
pub(super) fn matched(
    comm: ffi::MPI_Comm,
    rank: Option<Rank>,
    wanted: Option<Tag>,
    wait: bool,
) -> Result<Option<(ffi::MPI_Message, Received)>, ErrorKind> {
    let (mut found, mut status) = (1, blank_status());
    let (rank, tag) = (source(rank), tag(wanted));
    // SAFETY: a live communicator; the message is written on success, whatever `found` says (MPI 4.1 §3.8.2), and not
    // looked at unless found: with nothing found it starts as a null message.
    let message = unsafe {
        let mut message = ffi::RSMPI_MESSAGE_NULL;
        let (into, status) = (&raw mut message, &raw mut status);
        check(if wait {
            ffi::MPI_Mprobe(rank, tag, comm, into, status)
        } else {
            ffi::MPI_Improbe(rank, tag, comm, &raw mut found, into, status)
        })?;
        message
    };
    Ok((found != 0).then(|| (message, received(&status))))
}

/// What a completed receive or probe tells, the head taken off.
fn received(status: &ffi::MPI_Status) -> Received {
    let rank = Rank(u32::try_from(status.MPI_SOURCE).unwrap_or(0));
    let tag = Tag(u32::try_from(status.MPI_TAG).unwrap_or(0));
    Received { rank, tag, bytes: bytes_in(status).saturating_sub(HEAD) }
}

/// What a receive has got that MPI has completed, the message's end cut off or not.
fn completed(code: c_int, status: &ffi::MPI_Status) -> Result<Received, ErrorKind> {
    match check(code) {
        Err(error) if !is_truncation(code) => Err(error),
        _ => Ok(received(status)),
    }
}

/// Whether a message with this head is for a receiver that expects `label` and has room for `buffer` bytes.
pub(super) fn admit(
    head: &Head,
    label: &Label,
    received: Received,
    buffer: usize,
) -> Result<Received, ErrorKind> {
    wire::check(label, head, received.rank)?;
    let message = wire::length(head);
    if message > buffer {
        return Err(ErrorKind::Truncated { message, buffer });
    }
    Ok(Received { bytes: message, ..received })
}

/// Takes the data out of a message that was received together with its head.
pub(super) fn unpack(
    code: c_int,
    status: &ffi::MPI_Status,
    message: &[u8],
    label: &Label,
    into: &mut [u8],
) -> Result<Received, ErrorKind> {
    let received = completed(code, status)?;
    let (head, data) = message.split_first_chunk().ok_or(ErrorKind::Closed)?;
    let received = admit(head, label, received, into.len())?;
    into[..received.bytes].copy_from_slice(&data[..received.bytes]);
    Ok(received)
}

/// From one address to another, for a datatype.
pub(super) fn distance(from: *const u8, to: *const u8) -> isize {
    to.addr().wrapping_sub(from.addr()).cast_signed()
}

pub(super) fn source(rank: Option<Rank>) -> c_int {
    // SAFETY: a constant of the library.
    rank.map_or(unsafe { ffi::RSMPI_ANY_SOURCE }, |Rank(rank)| rank as c_int)
}

pub(super) fn tag(tag: Option<Tag>) -> c_int {
    // SAFETY: a constant of the library.
    tag.map_or(unsafe { ffi::RSMPI_ANY_TAG }, |Tag(tag)| tag as c_int)
}
