//! Messages that are sent and received before the call returns.

use std::ffi::{c_int, c_void};

use mpi::ffi;

use super::{
    MpiEngine,
    guard::{self, SMALL, TINY},
    operations::Orphan,
    raw::{Datatype, Extent, blank_status, bytes_in, check, made},
    transfer::{
        Beside, Expected, Transfer, Wire, WithHeader, admit, distance, landed, matched, source,
        tag, whole,
    },
    wire::{self, COPIED, HEAD},
};
use crate::{
    datum::{Memory, Outgoing},
    engine::{Choice, Label, Messages, Mode, Op, Rank, Received, Source, Target, Ticket},
    error::{ErrorKind, Fault},
};

/// Where messages of one kind go.
#[derive(Clone, Copy)]
pub(super) struct Route {
    pub(super) comm: ffi::MPI_Comm,
    pub(super) me: Rank,
    /// Whether its messages have heads.
    pub(super) has_header: bool,
}

/// A message taken out of MPI's queue.
pub(super) struct Probed {
    message: ffi::MPI_Message,
    /// Its size is that of the data.
    received: Received,
    route: Route,
}

impl Messages for MpiEngine {
    fn send(&self, to: &Target, mode: Mode, bytes: &[u8]) -> Result<(), Fault> {
        let route = self.route(to.context, to.label.is_step())?;
        if to.rank == route.me && mode == Mode::Standard && bytes.len() <= COPIED {
            return self.send_to_myself(route, to, bytes);
        }
        if route.has_header || self.polls.get() {
            // SAFETY: `bytes` are borrowed and `beside` is kept until the request is complete.
            let (mut request, beside) = unsafe { self.start_send(route, to, mode, bytes) }?;
            let code = self.complete(&mut request, &mut blank_status());
            drop(beside);
            return check(code);
        }
        let Extent { count, unit, .. } = &Extent::bytes(bytes.len())?;
        let (start, rank, tag) = (bytes.as_ptr().cast(), to.rank.0 as c_int, to.tag.0 as c_int);
        let _waiting = self.waiting();
        // SAFETY: a live communicator; the bytes are borrowed for this blocking call.
        check(unsafe {
            match mode {
                Mode::Standard => ffi::MPI_Send(start, *count, *unit, rank, tag, route.comm),
                Mode::Synchronous => ffi::MPI_Ssend(start, *count, *unit, rank, tag, route.comm),
            }
        })
    }

    fn recv(&self, from: &Source, into: &mut [u8]) -> Result<Received, Fault> {
        if self.basis.misses_any && from.choice.rank().is_none() {
            let (ticket, received) = self.probe(from, true)?.ok_or(ErrorKind::Closed)?;
            return self.fetch(ticket, &from.label, into).map(|()| received);
        }
        let route = self.route(from.context, from.label.is_step())?;
        let mut status = blank_status();
        let expected = Expected::of(&from.label);
        if route.has_header || self.polls.get() {
            // SAFETY: `into` is borrowed and `beside` is kept until the request is complete.
            let (mut request, beside) = unsafe { self.start_recv(route, from, into) }?;
            let code = self.complete(&mut request, &mut status);
            return self.unpack(beside, code, &status, into, expected);
        }
        if let Some(guard) = &self.guard {
            if into.len() <= TINY {
                let (mut copy, extent) = (guard::Copy::new(), guard.extent());
                let code = self.receive_bare_into(route, from, copy.start(), &extent, &mut status);
                let received = landed(code, &status, into.len(), expected)?;
                // SAFETY: so many bytes have been received.
                into[..received.bytes].copy_from_slice(unsafe { copy.first(received.bytes) });
                return Ok(received);
            }
            let (message, received) = self.await_matched(route.comm, from.choice)?;
            self.receive_whole(message, received, expected, into)?;
            return Ok(received);
        }
        let extent = Extent::bytes(into.len())?;
        let code = self.receive_bare_into(route, from, into.as_mut_ptr(), &extent, &mut status);
        landed(code, &status, into.len(), expected)
    }

    fn sendrecv(
        &self,
        to: &Target,
        bytes: &[u8],
        from: &Source,
        into: &mut [u8],
    ) -> Result<Received, Fault> {
        let route = self.route(to.context, to.label.is_step())?;
        // SAFETY: the request is completed below before `bytes` and `beside` go, also when
        // receiving fails.
        let (mut request, beside) = unsafe { self.start_send(route, to, Mode::Standard, bytes) }?;
        let received = self.recv(from, into);
        let sent = check(self.complete(&mut request, &mut blank_status()));
        drop(beside);
        let received = received?;
        sent.map(|()| received)
    }

    /// Takes the first message that fits out of MPI's queue.
    fn probe(&self, from: &Source, wait: bool) -> Result<Option<(Ticket, Received)>, Fault> {
        let route = self.route(from.context, from.label.is_step())?;
        let found = if wait {
            Some(self.await_matched(route.comm, from.choice)?)
        } else {
            self.progress();
            matched(route.comm, from.choice, false)?
        };
        Ok(found.map(|found| self.keep_probed(route, found)))
    }

    /// Takes the first message that fits out of MPI's queue, unless the operation is over before
    /// there is one.
    fn probe_until(&self, from: &Source, op: Op) -> Result<Option<(Ticket, Received)>, Fault> {
        let route = self.route(from.context, from.label.is_step())?;
        let _waiting = self.waiting();
        loop {
            self.progress();
            if let Some(found) = matched(route.comm, from.choice, false)? {
                return Ok(Some(self.keep_probed(route, found)));
            }
            if self.is_over(op) {
                return Ok(None);
            }
            self.idle();
        }
    }

    /// Receives a probed message for a receiver that expects `label`.
    fn fetch(&self, ticket: Ticket, label: &Label, into: &mut [u8]) -> Result<(), Fault> {
        let Probed { message, received, route } =
            self.probed.remove(ticket.0).ok_or(ErrorKind::Closed)?;
        let bytes = received.bytes;
        if route.has_header {
            let mut rest = Vec::new();
            let room = into.len();
            let data = into.get_mut(..bytes).unwrap_or_else(|| {
                rest = vec![0; bytes];
                &mut rest
            });
            let head = self.receive_headed(message, data)?;
            return admit(&head, label, received, room).map(drop);
        }
        self.receive_whole(message, received, Expected::of(label), into)
    }

    fn discard(&self, message: Ticket) {
        if let Some(probed) = self.probed.remove(message.0)
            && let Err(error) = self.swallow(probed)
        {
            log::warn!("a message that was probed could not be dropped: {error}");
        }
    }
}

impl MpiEngine {
    /// A small message is on its way when this returns, also to oneself, where MPICH would wait for
    /// the receive.
    fn send_to_myself(&self, route: Route, to: &Target, bytes: &[u8]) -> Result<(), Fault> {
        let memory = Memory::Owned(Box::new(Outgoing(bytes.to_vec())));
        // SAFETY: memory and head are kept with the request until it is complete.
        let (request, beside) =
            unsafe { self.start_send(route, to, Mode::Standard, memory.bytes()) }?;
        let call = Some(self.call.get());
        self.adopt(Orphan::Transfer(Transfer { request, memory, expects: None, beside, call }));
        Ok(())
    }

    /// Waits for a message without a head; MPI's return code.
    ///
    /// The extent describes memory at `at` that is borrowed by the caller.
    fn receive_bare_into(
        &self,
        route: Route,
        from: &Source,
        at: *mut u8,
        extent: &Extent,
        status: &mut ffi::MPI_Status,
    ) -> c_int {
        let (at, rank, tag) = (at.cast::<c_void>(), source(from.choice), tag(from.choice));
        let Extent { count, unit, .. } = extent;
        let _waiting = self.waiting();
        // SAFETY: a live communicator; the memory is the caller's for this blocking call.
        unsafe { ffi::MPI_Recv(at, *count, *unit, rank, tag, route.comm, status) }
    }

    /// Takes the data out of a received message.
    #[inline(always)]
    pub(super) fn unpack(
        &self,
        beside: Beside,
        code: c_int,
        status: &ffi::MPI_Status,
        into: &mut [u8],
        expected: Expected,
    ) -> Result<Received, Fault> {
        match beside {
            Beside::Nothing => landed(code, status, into.len(), expected),
            Beside::More(has_header) => has_header.unpack(code, status, into, expected),
            Beside::Copy(copy) => {
                let bytes = if check(code).is_ok() { bytes_in(status) } else { 0 };
                if let Some(into) = into.get_mut(..bytes) {
                    // SAFETY: so many bytes have been received.
                    into.copy_from_slice(unsafe { copy.first(bytes) });
                }
                if let Some(guard) = &self.guard {
                    guard.give_back(copy);
                }
                landed(code, status, into.len(), expected)
            }
        }
    }

    /// Starts to send bytes that stay where they are.
    ///
    /// # Safety
    /// `bytes` and what is returned stay alive and unchanged until the request is complete.
    pub(super) unsafe fn start_send(
        &self,
        route: Route,
        to: &Target,
        mode: Mode,
        bytes: &[u8],
    ) -> Result<(ffi::MPI_Request, Beside), Fault> {
        let Route { comm, has_header, .. } = route;
        let (rank, tag) = (to.rank.0 as c_int, to.tag.0 as c_int);
        let start = |at: *const u8, extent: &Extent| {
            let (at, Extent { count, unit, .. }) = (at.cast::<c_void>(), extent);
            // SAFETY: the communicator is live; the extent describes memory that stays by this
            // function's contract. MPI keeps a type of ours until the operation is complete (MPI
            // 4.1 §5.1.9).
            unsafe {
                made(|made| match mode {
                    Mode::Standard => ffi::MPI_Isend(at, *count, *unit, rank, tag, comm, made),
                    Mode::Synchronous => ffi::MPI_Issend(at, *count, *unit, rank, tag, comm, made),
                })
            }
        };
        if !has_header {
            return Ok((start(bytes.as_ptr(), &Extent::bytes(bytes.len())?)?, Beside::Nothing));
        }
        let (label, head) = (to.label, wire::head(&to.label, self.call.get().at, bytes.len()));
        if HEAD + bytes.len() <= COPIED {
            let copy = [&head, bytes].concat();
            let request = start(copy.as_ptr(), &Extent::bytes(copy.len())?)?;
            return Ok((request, Beside::more(label, Wire::Copied(copy))));
        }
        let has_header = Box::new(WithHeader { label, wire: Wire::Split(wire::apart(&head)) });
        let Wire::Split(head) = &has_header.wire else { return Err(ErrorKind::Closed.into()) };
        let (head, len) = (head.as_ptr(), bytes.len());
        let whole = Datatype::head_and_body(HEAD, distance(head, bytes.as_ptr()), len)?;
        Ok((start(head, &Extent::one(whole))?, Beside::More(has_header)))
    }

    /// Starts to receive into bytes that stay where they are.
    ///
    /// # Safety
    /// `into` and what is returned stay alive and untouched until the request is complete.
    #[inline(always)]
    pub(super) unsafe fn start_recv(
        &self,
        route: Route,
        from: &Source,
        into: &mut [u8],
    ) -> Result<(ffi::MPI_Request, Beside), Fault> {
        // SAFETY: (1) by this function's own contract.
        let start = |at, extent: &_| unsafe { start_irecv(route, from, at, extent) };
        let whole = into.len() + if route.has_header { HEAD } else { 0 };
        match &self.guard {
            None if !route.has_header => {
                let request = start(into.as_mut_ptr(), &Extent::bytes(into.len())?)?;
                Ok((request, Beside::Nothing))
            }
            Some(guard) if !route.has_header && whole <= SMALL => {
                let mut copy = guard.copy();
                Ok((start(copy.start(), &guard.extent())?, Beside::Copy(copy)))
            }
            // SAFETY: as (1).
            guard => unsafe { Self::start_long_recv(route, from, into, guard.is_some()) },
        }
    }

    /// As `start_recv`, with a head, or guarded by bytes apart, or both.
    ///
    /// # Safety
    /// As of `start_recv`.
    unsafe fn start_long_recv(
        route: Route,
        from: &Source,
        into: &mut [u8],
        guarded: bool,
    ) -> Result<(ffi::MPI_Request, Beside), Fault> {
        // SAFETY: by this function's own contract.
        let start = |at, extent: &_| unsafe { start_irecv(route, from, at, extent) };
        let (label, len) = (from.label, into.len());
        if !route.has_header {
            let mut apart =
                Box::new(WithHeader { label, wire: Wire::Apart(guard::Apart::default()) });
            let Wire::Apart(byte) = &mut apart.wire else { return Err(ErrorKind::Closed.into()) };
            let room = guard::room([(into.as_mut_ptr(), len)], guarded.then(|| byte.place()))?;
            return Ok((start(into.as_mut_ptr(), &room)?, Beside::More(apart)));
        }
        if HEAD + len <= COPIED {
            let mut copy = vec![0; HEAD + len + guard::Apart::BYTES];
            let (at, behind) = copy.split_at_mut(HEAD + len);
            let byte = guarded.then(|| guard::Apart::place_in(behind));
            let room = guard::room([(at.as_mut_ptr(), at.len())], byte)?;
            return Ok((start(copy.as_mut_ptr(), &room)?, Beside::more(label, Wire::Copied(copy))));
        }
        let mut has_header =
            Box::new(WithHeader { label, wire: Wire::Split(wire::apart(&[0; HEAD])) });
        let Wire::Split(both) = &mut has_header.wire else { return Err(ErrorKind::Closed.into()) };
        let (head, behind) = both.split_at_mut(HEAD);
        let (at, byte) = (head.as_mut_ptr(), guarded.then(|| guard::Apart::place_in(behind)));
        let room = guard::room([(at, HEAD), (into.as_mut_ptr(), len)], byte)?;
        Ok((start(at, &room)?, Beside::More(has_header)))
    }

    /// A matched message becomes one to be fetched or discarded.
    fn keep_probed(
        &self,
        route: Route,
        (message, mut received): (ffi::MPI_Message, Received),
    ) -> (Ticket, Received) {
        received.bytes -= if route.has_header { HEAD.min(received.bytes) } else { 0 };
        (Ticket(self.probed.insert(|| Probed { message, received, route })), received)
    }

    /// Waits for the first message that fits, and takes it out of MPI's queue.
    fn await_matched(
        &self,
        comm: ffi::MPI_Comm,
        choice: Choice,
    ) -> Result<(ffi::MPI_Message, Received), Fault> {
        let _waiting = self.waiting();
        loop {
            if let Some(found) = matched(comm, choice, !self.polls.get())? {
                return Ok(found);
            }
            self.idle();
        }
    }

    /// Receives a probed message without a head into the first bytes of `into`, if it fits.
    fn receive_whole(
        &self,
        message: ffi::MPI_Message,
        received: Received,
        expected: Expected,
        into: &mut [u8],
    ) -> Result<(), Fault> {
        let (message_bytes, buffer) = (received.bytes, into.len());
        let Some(into) = into.get_mut(..message_bytes) else {
            self.receive_bare(message, &mut vec![0; message_bytes])?;
            return Err(ErrorKind::Truncated { message: message_bytes, buffer }.into());
        };
        self.receive_bare(message, into)?;
        whole(received, expected).map(drop)
    }

    /// Receives a probed message of which nobody wants the data; its head, if it has one.
    pub(super) fn swallow(&self, probed: Probed) -> Result<Option<wire::Head>, Fault> {
        let mut data = vec![0; probed.received.bytes];
        if probed.route.has_header {
            return self.receive_headed(probed.message, &mut data).map(Some);
        }
        self.receive_bare(probed.message, &mut data).map(|()| None)
    }

    /// Receives a probed message of just so many bytes.
    fn receive_bare(&self, message: ffi::MPI_Message, into: &mut [u8]) -> Result<(), Fault> {
        let extent = Extent::bytes(into.len())?;
        // SAFETY: `into` is borrowed until the message is received.
        unsafe { self.receive_matched(message, into.as_mut_ptr(), &extent) }
    }

    /// Receives a probed message of a head and so many bytes.
    ///
    /// In one piece: MPICH 5.0 over several hosts (its way `ofi`) fails on a matched message into
    /// memory in two.
    fn receive_headed(
        &self,
        message: ffi::MPI_Message,
        into: &mut [u8],
    ) -> Result<wire::Head, Fault> {
        let mut whole = vec![0; HEAD + into.len()];
        self.receive_bare(message, &mut whole)?;
        let (head, data) = whole.split_first_chunk().ok_or(ErrorKind::Closed)?;
        into.copy_from_slice(data);
        Ok(*head)
    }

    /// # Safety
    /// The extent describes memory at `at` that may be written.
    unsafe fn receive_matched(
        &self,
        mut message: ffi::MPI_Message,
        at: *mut u8,
        extent: &Extent,
    ) -> Result<(), Fault> {
        let (at, message) = (at.cast::<c_void>(), &raw mut message);
        let (Extent { count, unit, .. }, mut status) = (extent, blank_status());
        if self.polls.get() {
            // SAFETY: the message is a matched one, received once; the memory by this function's
            // contract.
            let mut request =
                unsafe { made(|made| ffi::MPI_Imrecv(at, *count, *unit, message, made)) }?;
            return check(self.complete(&mut request, &mut status));
        }
        let _waiting = self.waiting();
        // SAFETY: as above.
        check(unsafe { ffi::MPI_Mrecv(at, *count, *unit, message, &raw mut status) })
    }

    /// Takes a message of any kind out of the queue, if there is one.
    pub(super) fn next_unwanted(route: Route) -> Result<Option<(Probed, Received)>, Fault> {
        let found = matched(route.comm, Choice::new(None, None), false)?;
        Ok(found.map(|(message, mut received)| {
            received.bytes -= if route.has_header { HEAD.min(received.bytes) } else { 0 };
            (Probed { message, received, route }, received)
        }))
    }
}

/// Starts to receive.
///
/// # Safety
/// The extent describes memory at `at` that stays alive and untouched until the request is
/// complete. (MPI keeps a type of ours until then.)
unsafe fn start_irecv(
    route: Route,
    from: &Source,
    at: *mut u8,
    extent: &Extent,
) -> Result<ffi::MPI_Request, Fault> {
    let (at, rank, tag) = (at.cast::<c_void>(), source(from.choice), tag(from.choice));
    let Extent { count, unit, .. } = extent;
    // SAFETY: a live communicator; the memory by this function's own contract.
    unsafe { made(|made| ffi::MPI_Irecv(at, *count, *unit, rank, tag, route.comm, made)) }
}
