//! Messages from one rank to one other.

use super::{Comm, Dest, NULL_RANK, Request, Src, Status, plain};
use crate::{
    datum::{Datum, Landing, Memory, Outgoing, Signature, bytes_of, bytes_of_mut},
    engine::{Mode, Received, Source, Target, Ticket},
    error::{Call, ErrorKind, Result},
};

impl Comm {
    /// Sends `values` to a rank: `3`, `(3, tag)`, or `None` for nowhere. Returns when `values` may change again.
    ///
    /// A small message is on its way then, a large one has been received: do not rely on either.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRank`], [`ErrorKind::InvalidTag`]; [`ErrorKind::Deadlock`] if it can never be received.
    ///
    /// # Examples
    /// ```
    /// let got = spmd::local(2, |world| {
    ///     if world.rank() == 0 {
    ///         world.send(&[1.5, 2.5], 1)?;
    ///         return Ok(vec![]);
    ///     }
    ///     let (values, status) = world.recv::<f64>(0)?;
    ///     assert_eq!((status.source, status.count), (0, 2));
    ///     Ok(values)
    /// });
    /// assert_eq!(got.unwrap()[1], [1.5, 2.5]);
    /// ```
    #[track_caller]
    pub fn send<T: Datum>(&self, values: &[T], to: impl Into<Dest>) -> Result<()> {
        let to = to.into();
        let fail = self.enter(Call::new("send", to.with()));
        self.send_bytes(Signature::of::<T>(), bytes_of(values), to).map_err(fail)
    }

    /// Receives a message of any length: from `3`, `ANY`, `(3, tag)`, `(ANY, tag)`, `(3, ANY)`, or `None` for nothing.
    ///
    /// # Errors
    /// [`ErrorKind::TypeMismatch`] if the sender's type is another, [`ErrorKind::InvalidValue`] if its bytes are no `T`;
    /// the message is lost then. [`ErrorKind::InvalidRank`], [`ErrorKind::InvalidTag`], [`ErrorKind::Deadlock`].
    #[track_caller]
    pub fn recv<T: Datum>(&self, from: impl Into<Src>) -> Result<(Vec<T>, Status)> {
        let from = from.into();
        let fail = self.enter(Call::new("recv", from.with()));
        if from.is_null() {
            return Ok((Vec::new(), Status::NULL));
        }
        let take = || {
            let from = self.source(from, Signature::of::<T>())?;
            let (ticket, received) = self.await_message(&from)?;
            self.fetch(ticket, received)
        };
        take().map_err(fail)
    }

    /// Receives a message of at most `into.len()` elements into the caller's buffer; its rest stays as it was.
    ///
    /// # Errors
    /// As [`Comm::recv`], and [`ErrorKind::Truncated`] if the message is longer; `into` holds any values of its type then.
    #[track_caller]
    pub fn recv_into<T: Datum>(&self, into: &mut [T], from: impl Into<Src>) -> Result<Status> {
        let from = from.into();
        let fail = self.enter(Call::new("recv_into", from.with()));
        if from.is_null() {
            return Ok(Status::NULL);
        }
        let mut take = || {
            let from = self.source(from, Signature::of::<T>())?;
            fill(into, |bytes| self.engine.recv(&from, bytes))
        };
        take().map_err(fail)
    }

    /// Sends `values` to one rank and receives into `into` from another (or the same) at once: never a deadlock between
    /// two ranks that exchange messages of any size.
    ///
    /// # Errors
    /// As [`Comm::send`] and [`Comm::recv_into`].
    ///
    /// # Examples
    /// Every rank gets the number of its left neighbour:
    /// ```
    /// let left = spmd::local(3, |world| {
    ///     let (rank, size) = (world.rank(), world.size());
    ///     let mut left = [0];
    ///     world.sendrecv(&[rank], (rank + 1) % size, &mut left, (rank + size - 1) % size)?;
    ///     Ok(left[0])
    /// });
    /// assert_eq!(left.unwrap(), [2, 0, 1]);
    /// ```
    #[track_caller]
    pub fn sendrecv<T: Datum>(
        &self,
        values: &[T],
        to: impl Into<Dest>,
        into: &mut [T],
        from: impl Into<Src>,
    ) -> Result<Status> {
        let (to, from) = (to.into(), from.into());
        let fail = self.enter(Call::new("sendrecv", from.with()));
        let mut exchange = || {
            let signature = Signature::of::<T>();
            if from.is_null() {
                return self.send_bytes(signature, bytes_of(values), to).map(|()| Status::NULL);
            }
            let from = self.source(from, signature)?;
            if to.rank == NULL_RANK {
                return fill(into, |bytes| self.engine.recv(&from, bytes));
            }
            let to = self.target(to, signature)?;
            fill(into, |bytes| self.engine.sendrecv(&to, bytes_of(values), &from, bytes))
        };
        exchange().map_err(fail)
    }

    /// Waits for a message and takes it out of the queue without receiving it yet: its size and sender are known, and
    /// no other receive can get it.
    ///
    /// # Errors
    /// As [`Comm::recv`]; [`ErrorKind::InvalidArgument`] for the null rank.
    ///
    /// # Examples
    /// ```
    /// use spmd::ANY;
    /// let counts = spmd::local(2, |world| {
    ///     if world.rank() == 1 {
    ///         world.send(&[7_u8; 5], (0, 42))?;
    ///         return Ok(0);
    ///     }
    ///     let message = world.probe((ANY, ANY))?;
    ///     assert_eq!((message.source(), message.tag()), (1, 42));
    ///     let mut buffer = vec![0_u8; message.bytes()];
    ///     Ok(message.recv_into(&mut buffer)?.count)
    /// });
    /// assert_eq!(counts.unwrap()[0], 5);
    /// ```
    #[track_caller]
    pub fn probe(&self, from: impl Into<Src>) -> Result<Message<'_>> {
        let from = from.into();
        let call = Call::new("probe", from.with());
        let fail = self.enter(call);
        let wait = || {
            let from = self.source(from, Signature::OBJECT)?;
            self.await_message(&from)
        };
        let (ticket, received) = wait().map_err(fail)?;
        Ok(Message::new(self, ticket, received))
    }

    /// Like [`Comm::probe`], without waiting: `None` if no message is there yet.
    ///
    /// # Errors
    /// As [`Comm::recv`].
    #[track_caller]
    pub fn iprobe(&self, from: impl Into<Src>) -> Result<Option<Message<'_>>> {
        let from = from.into();
        let fail = self.enter(Call::new("iprobe", from.with()));
        let look = || {
            let from = self.source(from, Signature::OBJECT)?;
            self.engine.probe(&from, false)
        };
        let found = look().map_err(fail)?;
        Ok(found.map(|(ticket, received)| Message::new(self, ticket, received)))
    }

    /// Starts to send `values`; [`Request::wait`] gives the vector back when it has left.
    ///
    /// The engine keeps the vector meanwhile, so that the request may be dropped (the message goes on) or forgotten.
    ///
    /// ```compile_fail,E0382
    /// spmd::local(2, |world| {
    ///     let values = vec![1, 2, 3];
    ///     let request = world.isend(values, 1)?;
    ///     println!("{values:?}"); // the vector belongs to the unfinished request
    ///     request.wait()?;
    ///     Ok(())
    /// });
    /// ```
    ///
    /// # Errors
    /// As [`Comm::send`].
    #[track_caller]
    pub fn isend<T: Datum>(
        &self,
        values: Vec<T>,
        to: impl Into<Dest>,
    ) -> Result<Request<'_, Vec<T>>> {
        let to = to.into();
        let call = Call::new("isend", to.with());
        let fail = self.enter(call);
        if to.rank == NULL_RANK {
            return Ok(Request::ready(self, call, values));
        }
        let start = || {
            let to = self.target(to, Signature::of::<T>())?;
            self.engine.isend(&to, Mode::Standard, Memory::Owned(Box::new(Outgoing(values))))
        };
        let op = start().map_err(fail)?;
        Ok(Request::sending(self, call, op))
    }

    /// Starts to receive a message of at most `into.len()` elements; [`Request::wait`] gives the vector back, cut to what
    /// was received.
    ///
    /// A request that is dropped unfinished withdraws the receive: the message can be received by another call.
    ///
    /// # Errors
    /// As [`Comm::recv_into`], from the request.
    ///
    /// # Examples
    /// ```
    /// let got = spmd::local(2, |world| {
    ///     let other = 1 - world.rank();
    ///     let incoming = world.irecv(vec![0_usize; 8], other)?;
    ///     let outgoing = world.isend(vec![world.rank(); 3], other)?;
    ///     // ... compute meanwhile ...
    ///     outgoing.wait()?;
    ///     let (values, _status) = incoming.wait()?;
    ///     Ok(values)
    /// });
    /// assert_eq!(got.unwrap(), [[1, 1, 1], [0, 0, 0]]);
    /// ```
    #[track_caller]
    pub fn irecv<T: Datum>(
        &self,
        into: Vec<T>,
        from: impl Into<Src>,
    ) -> Result<Request<'_, (Vec<T>, Status)>> {
        let from = from.into();
        let call = Call::new("irecv", from.with());
        let fail = self.enter(call);
        if from.is_null() {
            return Ok(Request::ready(self, call, (Vec::new(), Status::NULL)));
        }
        let start = || {
            let from = self.source(from, Signature::of::<T>())?;
            self.engine.irecv(&from, Memory::Owned(Box::new(Landing::from(into))))
        };
        let op = start().map_err(fail)?;
        Ok(Request::receiving(self, call, op))
    }

    pub(crate) fn send_bytes(
        &self,
        signature: Signature,
        bytes: &[u8],
        to: Dest,
    ) -> Result<(), ErrorKind> {
        if to.rank == NULL_RANK {
            return Ok(());
        }
        self.engine.send(&self.target(to, signature)?, Mode::Standard, bytes)
    }

    fn target(&self, to: Dest, signature: Signature) -> Result<Target, ErrorKind> {
        let rank = self.check_rank(to.rank)?;
        let tag = self.check_tag(to.tag)?;
        Ok(Target { context: self.context, rank, tag, label: plain(signature) })
    }

    pub(super) fn source(&self, from: Src, signature: Signature) -> Result<Source, ErrorKind> {
        if from.is_null() {
            let what = "the null rank sends nothing that could be waited for".to_owned();
            return Err(ErrorKind::InvalidArgument { what });
        }
        let rank = from.rank.map(|rank| self.check_rank(rank)).transpose()?;
        let tag = from.tag.map(|tag| self.check_tag(tag)).transpose()?;
        Ok(Source { context: self.context, rank, tag, label: plain(signature) })
    }

    pub(super) fn await_message(&self, from: &Source) -> Result<(Ticket, Received), ErrorKind> {
        self.engine.probe(from, true)?.ok_or(ErrorKind::Closed)
    }

    fn fetch<T: Datum>(
        &self,
        ticket: Ticket,
        received: Received,
    ) -> Result<(Vec<T>, Status), ErrorKind> {
        let signature = Signature::of::<T>();
        // Another type's message may end within an element: room for that too, the engine then says what it is.
        let mut landing = Landing::new(received.bytes.div_ceil(signature.size()));
        let bytes = landing.bytes_mut();
        let whole = bytes.len();
        self.engine.fetch(ticket, &plain(signature), &mut bytes[..received.bytes.min(whole)])?;
        let status = status::<T>(&received);
        Ok((landing.into_values(status.count)?, status))
    }
}

/// A message that has been probed: its sender and size are known, its contents not yet received.
///
/// Dropping it drops the message.
#[must_use = "a message that is dropped is lost"]
pub struct Message<'c> {
    comm: &'c Comm,
    ticket: Option<Ticket>,
    received: Received,
}

impl<'c> Message<'c> {
    pub(super) fn new(comm: &'c Comm, ticket: Ticket, received: Received) -> Self {
        Self { comm, ticket: Some(ticket), received }
    }

    /// The rank that sent it.
    pub fn source(&self) -> usize {
        self.received.rank.index()
    }

    /// Its tag.
    pub fn tag(&self) -> u32 {
        self.received.tag.0
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.received.bytes
    }

    /// The number of elements, if it is a message of `T`.
    pub fn count<T: Datum>(&self) -> usize {
        self.received.bytes / size_of::<T>()
    }

    /// Receives it.
    ///
    /// # Errors
    /// As [`Comm::recv`].
    #[track_caller]
    pub fn recv<T: Datum>(mut self) -> Result<Vec<T>> {
        let fail = self.comm.enter(self.call());
        let ticket = self.ticket.take().ok_or_else(|| fail(ErrorKind::Closed))?;
        let (values, _) = self.comm.fetch(ticket, self.received).map_err(fail)?;
        Ok(values)
    }

    /// Receives it into the caller's buffer.
    ///
    /// # Errors
    /// As [`Comm::recv_into`].
    #[track_caller]
    pub fn recv_into<T: Datum>(mut self, into: &mut [T]) -> Result<Status> {
        let fail = self.comm.enter(self.call());
        let ticket = self.ticket.take().ok_or_else(|| fail(ErrorKind::Closed))?;
        let received = self.received;
        let label = plain(Signature::of::<T>());
        fill(into, |bytes| self.comm.engine.fetch(ticket, &label, bytes).map(|()| received))
            .map_err(fail)
    }

    /// Receives it as bytes, if it is a serialized object.
    pub(super) fn recv_object(mut self) -> Result<Vec<u8>, ErrorKind> {
        let ticket = self.ticket.take().ok_or(ErrorKind::Closed)?;
        let mut bytes = vec![0; self.received.bytes];
        self.comm.engine.fetch(ticket, &plain(Signature::OBJECT), &mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn status(&self) -> Status {
        status::<u8>(&self.received)
    }

    #[track_caller]
    fn call(&self) -> Call {
        Call::new("recv", Src::from((self.source(), self.tag())).with())
    }
}

impl Drop for Message<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.comm.engine.discard(ticket);
        }
    }
}

/// What the program is told of a message of `T`.
pub(super) fn status<T: Datum>(received: &Received) -> Status {
    let Received { rank, tag, bytes } = received;
    Status { source: rank.index(), tag: tag.0, count: bytes / size_of::<T>() }
}

/// Lets `receive` write into the caller's values; by way of memory that is checked first where not all bytes are values.
fn fill<T: Datum>(
    into: &mut [T],
    receive: impl FnOnce(&mut [u8]) -> Result<Received, ErrorKind>,
) -> Result<Status, ErrorKind> {
    if let Some(bytes) = bytes_of_mut(into) {
        return Ok(status::<T>(&receive(bytes)?));
    }
    let mut landing = Landing::<T>::new(into.len());
    let status = status::<T>(&receive(landing.bytes_mut())?);
    into[..status.count].copy_from_slice(&landing.into_values(status.count)?);
    Ok(status)
}
