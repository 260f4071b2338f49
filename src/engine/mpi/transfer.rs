//! One transfer at a time: what MPI works on, what it has completed, and what a received message
//! is.

use std::{ffi::c_int, mem};

use mpi::ffi;

use super::{
    MpiEngine, guard, losses,
    raw::{blank_status, bytes_in, check, is_truncation},
    wire::{self, HEAD, Head},
};
use crate::{
    datum::{LentRead, Memory, Signature},
    engine::{Choice, Done, Label, Rank, Received, Tag},
    error::{Call, ErrorKind, Fault},
};

/// A message on its way, which MPI works on. What it points MPI to does not move with it and stays
/// here until it is done.
pub(super) struct Transfer {
    pub(super) request: ffi::MPI_Request,
    pub(super) memory: Memory,
    /// What a receive expects; a send expects nothing.
    pub(super) expects: Option<Expected>,
    pub(super) beside: Beside,
    /// The program's call that has started it; none if it is never left unfinished.
    pub(super) call: Option<Call>,
}

/// What a receiver of bare bytes can tell: whether they make up whole elements.
#[derive(Clone, Copy)]
pub(super) struct Expected(Signature);

impl Expected {
    pub(super) fn of(label: &Label) -> Self {
        // Steps of a collective carry heads of their own beside the elements: any number of bytes
        // is right.
        Self(if label.is_step() { Signature::NOTHING } else { label.signature })
    }
}

/// What MPI works on beside the memory of a transfer, or instead of it.
pub(super) enum Beside {
    Nothing,
    /// A small message, where the library would overrun its buffer.
    Copy(Box<guard::Copy>),
    More(Box<WithHeader>),
}

impl Beside {
    pub(super) fn more(label: Label, wire: Wire) -> Self {
        Self::More(Box::new(WithHeader { label, wire }))
    }
}

/// What goes with the data where types are checked, or a buffer is guarded.
pub(super) struct WithHeader {
    pub(super) label: Label,
    pub(super) wire: Wire,
}

pub(super) enum Wire {
    /// Head and data; of a receive with a [`guard::Apart`] behind them.
    Copied(Vec<u8>),
    /// What guards a larger buffer.
    Apart(guard::Apart),
    /// The head, with a [`guard::Apart`] behind it; the data are in the caller's memory.
    Split([u8; HEAD + guard::Apart::BYTES]),
}

impl WithHeader {
    /// Takes the data out of a received message.
    pub(super) fn unpack(
        &self,
        code: c_int,
        status: &ffi::MPI_Status,
        into: &mut [u8],
        expected: Expected,
    ) -> Result<Received, Fault> {
        let received = received(status, HEAD);
        // Of a message that is too long the head tells, and better, unless the library leaves it
        // out too.
        let told = |head: &Head| match check(code) {
            Err(_) if !is_truncation(code) || *head == [0; HEAD] => {
                Err(refused(code, status, into.len()))
            }
            _ => Ok(()),
        };
        match &self.wire {
            Wire::Copied(message) => {
                let (head, data) = message.split_first_chunk().ok_or(ErrorKind::Closed)?;
                told(head)?;
                let received = admit(head, &self.label, received, into.len())?;
                into[..received.bytes].copy_from_slice(&data[..received.bytes]);
                Ok(received)
            }
            Wire::Split(both) => {
                let head = both.first_chunk().ok_or(ErrorKind::Closed)?;
                told(head)?;
                admit(head, &self.label, received, into.len())
            }
            Wire::Apart(_) => landed(code, status, into.len(), expected),
        }
    }
}

impl Transfer {
    /// Completes the transfer if MPI is done with it, without its result.
    pub(super) fn is_over(&mut self) -> bool {
        tested(&mut self.request).is_ok_and(|status| status.is_some())
    }

    /// The result of a transfer that MPI has completed with this code and status.
    pub(super) fn finished(
        mut self,
        engine: &MpiEngine,
        code: c_int,
        status: &ffi::MPI_Status,
    ) -> Result<Done, Fault> {
        let received = self.outcome(engine, code, status)?;
        Ok(Done { buffer: self.memory.into_owned(), received, exchanged: None })
    }

    /// What has come of it if MPI is done with it, or when it is, if `blocks`.
    #[inline(always)]
    pub(super) fn end(
        &mut self,
        engine: &MpiEngine,
        blocks: bool,
    ) -> Option<Result<Option<Received>, Fault>> {
        let mut status = blank_status();
        // SAFETY: a live request of ours, whose buffers stay until it is complete.
        let code = unsafe { ended(&mut self.request, blocks, &mut status) }?;
        Some(self.outcome(engine, code, &status))
    }

    /// What has come of it, MPI having completed it with this code and status.
    #[inline(always)]
    fn outcome(
        &mut self,
        engine: &MpiEngine,
        code: c_int,
        status: &ffi::MPI_Status,
    ) -> Result<Option<Received>, Fault> {
        let beside = mem::replace(&mut self.beside, Beside::Nothing);
        let Some(expected) = self.expects else {
            return check(code).map(|()| None).inspect_err(|_| {
                // After a failed send it is not certain that MPI is done with the buffer.
                let memory = mem::replace(&mut self.memory, Memory::Read(LentRead::NOTHING));
                mem::forget((memory, beside));
            });
        };
        engine.unpack(beside, code, status, self.memory.bytes_mut(), expected).map(Some)
    }
}

/// What a completed receive of bare bytes has brought into a buffer with room for whole elements.
///
/// Inlined as all on the way of a result: handed on through memory it waits there, see
/// `Table::insert`.
#[inline(always)]
pub(super) fn landed(
    code: c_int,
    status: &ffi::MPI_Status,
    room: usize,
    expected: Expected,
) -> Result<Received, Fault> {
    if code != ffi::MPI_SUCCESS as c_int {
        return Err(refused(code, status, room));
    }
    let received = received(status, 0);
    if received.bytes == room {
        return Ok(received);
    }
    if received.bytes > room {
        return Err(ErrorKind::Truncated { message: received.bytes, buffer: room }.into());
    }
    whole(received, expected)
}

/// Why a receive into so many bytes has failed.
#[cold]
fn refused(code: c_int, status: &ffi::MPI_Status, room: usize) -> Fault {
    match check(code) {
        Err(error) if !is_truncation(code) => error,
        _ => {
            // Not every library says how long the message was.
            let told = bytes_in(status);
            let message = if told > room { told } else { usize::MAX };
            ErrorKind::Truncated { message, buffer: room }.into()
        }
    }
}

/// Whether the bytes make up whole elements.
#[inline]
pub(super) fn whole(received: Received, expected: Expected) -> Result<Received, Fault> {
    let Expected(element) = expected;
    if received.bytes.is_multiple_of(element.size()) {
        return Ok(received);
    }
    let name = element.name();
    Err(ErrorKind::TypeMismatch {
        peer: received.rank.index(),
        expected: name.to_owned(),
        got: format!("unknown ({} bytes, which no number of {name} has)", received.bytes),
    }
    .into())
}

/// MPI's return code if it is done with a request, or when it is, if `blocks`.
///
/// The status stays where MPI writes it; see `Table::insert`.
///
/// # Safety
/// A live request, whose buffers stay until it is complete.
#[inline(always)]
pub(super) unsafe fn ended(
    request: &mut ffi::MPI_Request,
    blocks: bool,
    status: &mut ffi::MPI_Status,
) -> Option<c_int> {
    let mut done = 1;
    // SAFETY: by this function's own contract; MPI writes `done` and the status.
    let code = unsafe {
        if blocks {
            ffi::MPI_Wait(request, status)
        } else {
            ffi::MPI_Test(request, &raw mut done, status)
        }
    };
    let goes_on = done == 0 && code == ffi::MPI_SUCCESS as c_int;
    (!goes_on).then(|| losses::over(code, request))
}

/// The status of a request that MPI is done with.
pub(super) fn tested(request: &mut ffi::MPI_Request) -> Result<Option<ffi::MPI_Status>, Fault> {
    let (mut done, mut status) = (0, blank_status());
    // SAFETY: a live request of ours, or the null request after it has completed.
    check(unsafe { ffi::MPI_Test(request, &raw mut done, &raw mut status) })?;
    Ok((done != 0).then_some(status))
}

/// Takes the first message that fits out of MPI's queue. Its size is that of all its bytes, a head
/// among them.
pub(super) fn matched(
    comm: ffi::MPI_Comm,
    choice: Choice,
    wait: bool,
) -> Result<Option<(ffi::MPI_Message, Received)>, Fault> {
    let (mut found, mut status) = (1, blank_status());
    let (rank, tag) = (source(choice), tag(choice));
    // SAFETY: a live communicator; the message is written on success, whatever `found` says (MPI
    // 4.1 §3.8.2), and not looked at unless found: with nothing found it starts as a null message.
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
    Ok((found != 0).then(|| (message, received(&status, 0))))
}

/// What a completed receive or probe tells, so many bytes of a head taken off.
#[inline(always)]
pub(super) fn received(status: &ffi::MPI_Status, head: usize) -> Received {
    let rank = Rank(u32::try_from(status.MPI_SOURCE).unwrap_or(0));
    let tag = Tag(u32::try_from(status.MPI_TAG).unwrap_or(0));
    Received { rank, tag, bytes: bytes_in(status).saturating_sub(head) }
}

/// Whether a message with this head is for a receiver that expects `label` and has room for
/// `buffer` bytes.
pub(super) fn admit(
    head: &Head,
    label: &Label,
    received: Received,
    buffer: usize,
) -> Result<Received, Fault> {
    wire::check(label, head, received.rank)?;
    let message = wire::length(head);
    if message > buffer {
        return Err(ErrorKind::Truncated { message, buffer }.into());
    }
    Ok(Received { bytes: message, ..received })
}

/// From one address to another, for a datatype.
pub(super) fn distance(from: *const u8, to: *const u8) -> isize {
    to.addr().wrapping_sub(from.addr()).cast_signed()
}

pub(super) fn source(choice: Choice) -> c_int {
    // SAFETY: a constant of the library.
    choice.rank().map_or(unsafe { ffi::RSMPI_ANY_SOURCE }, |Rank(rank)| rank as c_int)
}

pub(super) fn tag(choice: Choice) -> c_int {
    // SAFETY: a constant of the library.
    choice.tag().map_or(unsafe { ffi::RSMPI_ANY_TAG }, |Tag(tag)| tag as c_int)
}
