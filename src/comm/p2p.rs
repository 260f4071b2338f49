//! Messages from one rank to one other.

use super::{
    Comm, Dest, OwnedBuf, Request, Src, Status, View, ViewMut, plain,
    view::{Outbound, contents, fill, packed},
};
use crate::{
    datum::{Datum, Landing, Memory, Signature, Single, bytes_of},
    engine::{Mode, Received, Source, Target, Ticket},
    error::{Call, ErrorKind, Fault, Result},
};

/// # Messages
///
/// Between two ranks.
impl Comm {
    /// Sends `values` (see [`View`]) to a rank: `3`, `(3, tag)`, or `None` for nowhere. Returns
    /// when `values` may change again.
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
    #[inline]
    #[track_caller]
    pub fn send<V: View + ?Sized>(&self, values: &V, to: impl Into<Dest>) -> Result<()> {
        let to = to.into();
        self.perform(Call::new("send", to.with()), || self.send_view(Mode::Standard, values, to))
    }

    /// Sends `values` and returns when the receiver has begun to receive them: a message that is
    /// also a hand-shake.
    ///
    /// # Errors
    /// As [`Comm::send`].
    ///
    /// # Examples
    /// ```
    /// spmd::local(2, |world| {
    ///     if world.rank() == 0 {
    ///         world.ssend(&[1, 2], 1)?; // rank 1 is in `recv` now, or beyond
    ///     } else {
    ///         world.recv::<i32>(0)?;
    ///     }
    ///     Ok(())
    /// }).unwrap();
    /// ```
    #[track_caller]
    pub fn ssend<V: View + ?Sized>(&self, values: &V, to: impl Into<Dest>) -> Result<()> {
        let to = to.into();
        self.perform(Call::new("ssend", to.with()), || {
            self.send_view(Mode::Synchronous, values, to)
        })
    }

    /// Receives a message of any length: from `3`, `ANY`, `(3, tag)`, `(ANY, tag)`, `(3, ANY)`, or
    /// `None` for nothing.
    ///
    /// # Errors
    /// [`ErrorKind::TypeMismatch`] if the sender's type is another, [`ErrorKind::InvalidValue`] if its bytes are no `T`;
    /// the message is lost then. [`ErrorKind::InvalidRank`], [`ErrorKind::InvalidTag`],
    /// [`ErrorKind::Deadlock`].
    #[track_caller]
    pub fn recv<T: Datum>(&self, from: impl Into<Src>) -> Result<(Vec<T>, Status)> {
        let from = from.into();
        self.perform(Call::new("recv", from.with()), || {
            if from.is_null() {
                return Ok((Vec::new(), Status::NULL));
            }
            let from = self.source(from, Signature::of::<T>())?;
            let (ticket, received) = self.await_message(&from)?;
            self.fetch(ticket, received)
        })
    }

    /// Receives a message of exactly one value.
    ///
    /// # Errors
    /// As [`Comm::recv`]; [`ErrorKind::Truncated`] if the message is longer,
    /// [`ErrorKind::LengthMismatch`] if it is empty, [`ErrorKind::InvalidArgument`] for the null
    /// rank, which has no value to give.
    ///
    /// # Examples
    /// ```
    /// let sums = spmd::local(2, |world| {
    ///     if world.rank() == 0 {
    ///         world.send(&2.5, 1)?;
    ///         return Ok(0.0);
    ///     }
    ///     let (value, _status) = world.recv_one::<f64>(0)?;
    ///     Ok(value + 1.0)
    /// });
    /// assert_eq!(sums.unwrap()[1], 3.5);
    /// ```
    #[inline]
    #[track_caller]
    pub fn recv_one<T: Datum>(&self, from: impl Into<Src>) -> Result<(T, Status)> {
        let from = from.into();
        self.perform(Call::new("recv_one", from.with()), || {
            let from = self.source(from, Signature::of::<T>())?;
            let mut landing = Single::<T>::new();
            let received = self.engine.recv(&from, landing.bytes_mut())?;
            self.received(received);
            let status = status::<T>(&received);
            if status.count == 0 {
                let what = "the message";
                return Err(ErrorKind::LengthMismatch { what, needed: 1, got: 0 }.into());
            }
            Ok((landing.into_value()?, status))
        })
    }

    /// Receives a message into the caller's buffer (see [`ViewMut`]), which has room for it; its
    /// rest stays as it was.
    ///
    /// # Errors
    /// As [`Comm::recv`], and [`ErrorKind::Truncated`] if the message is longer; `into` holds any
    /// values of its type then.
    ///
    /// # Examples
    /// ```
    /// use ndarray::{Array2, s};
    /// let got = spmd::local(2, |world| {
    ///     let mut grid = Array2::<f64>::zeros((3, 3));
    ///     if world.rank() == 0 {
    ///         world.send(&[1.0, 2.0, 3.0], 1)?;
    ///     } else {
    ///         world.recv_into(&mut grid.slice_mut(s![.., 0]), 0)?; // the first column
    ///     }
    ///     Ok(grid[[2, 0]])
    /// });
    /// assert_eq!(got.unwrap()[1], 3.0);
    /// ```
    #[inline]
    #[track_caller]
    pub fn recv_into<V: ViewMut + ?Sized>(
        &self,
        into: &mut V,
        from: impl Into<Src>,
    ) -> Result<Status> {
        let from = from.into();
        self.perform(Call::new("recv_into", from.with()), || {
            if from.is_null() {
                return Ok(Status::NULL);
            }
            let from = self.source(from, Signature::of::<V::Elem>())?;
            self.receive_into(into, |bytes| self.engine.recv(&from, bytes))
        })
    }

    /// Sends `values` to one rank and receives into `into` from another (or the same) at once:
    /// never a deadlock between two ranks that exchange messages of any size.
    ///
    /// # Errors
    /// As [`Comm::send`] and [`Comm::recv_into`].
    ///
    /// # Examples
    /// Every rank gets the number of its left neighbour:
    /// ```
    /// let left = spmd::local(3, |world| {
    ///     let (rank, size) = (world.rank(), world.size());
    ///     let mut left = 0_usize;
    ///     world.sendrecv(&rank, (rank + 1) % size, &mut left, (rank + size - 1) % size)?;
    ///     Ok(left)
    /// });
    /// assert_eq!(left.unwrap(), [2, 0, 1]);
    /// ```
    #[inline]
    #[track_caller]
    pub fn sendrecv<V, W>(
        &self,
        values: &V,
        to: impl Into<Dest>,
        into: &mut W,
        from: impl Into<Src>,
    ) -> Result<Status>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let (to, from) = (to.into(), from.into());
        self.perform(Call::new("sendrecv", from.with()), || {
            self.exchange_views(&contents(values), to, into, from)
        })
    }

    /// Sends `values` and receives what replaces them, which may be shorter: the rest stays as it
    /// was.
    ///
    /// Costs a copy of `values`.
    ///
    /// # Errors
    /// As [`Comm::sendrecv`].
    ///
    /// # Examples
    /// A turn of the circle:
    /// ```
    /// let turned = spmd::local(3, |world| {
    ///     let (rank, size) = (world.rank(), world.size());
    ///     let mut mine = [rank; 2];
    ///     world.sendrecv_replace(&mut mine, (rank + 1) % size, (rank + size - 1) % size)?;
    ///     Ok(mine)
    /// });
    /// assert_eq!(turned.unwrap(), [[2, 2], [0, 0], [1, 1]]);
    /// ```
    #[track_caller]
    pub fn sendrecv_replace<V: ViewMut + ?Sized>(
        &self,
        values: &mut V,
        to: impl Into<Dest>,
        from: impl Into<Src>,
    ) -> Result<Status> {
        let (to, from) = (to.into(), from.into());
        self.perform(Call::new("sendrecv_replace", from.with()), || {
            self.exchange_views(&packed(values), to, values, from)
        })
    }

    fn exchange_views<W: ViewMut + ?Sized>(
        &self,
        values: &[W::Elem],
        to: Dest,
        into: &mut W,
        from: Src,
    ) -> Result<Status, Fault> {
        let signature = Signature::of::<W::Elem>();
        let bytes = bytes_of(values);
        if from.is_null() {
            return self.send_as(Mode::Standard, signature, bytes, to).map(|()| Status::NULL);
        }
        let from = self.source(from, signature)?;
        if to.is_null() {
            return self.receive_into(into, |into| self.engine.recv(&from, into));
        }
        let to = self.target(to, signature)?;
        self.sent(to.rank, to.tag, bytes.len());
        self.receive_into(into, |into| self.engine.sendrecv(&to, bytes, &from, into))
    }

    /// Waits for a message and takes it out of the queue without receiving it yet: its size and
    /// sender are known, and no other receive can get it.
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
        self.perform(Call::new("probe", from.with()), || {
            let from = self.source(from, Signature::OBJECT)?;
            let (ticket, received) = self.await_message(&from)?;
            Ok(Message::new(self, ticket, received))
        })
    }

    /// Like [`Comm::probe`], without waiting: `None` if no message is there yet.
    ///
    /// # Errors
    /// As [`Comm::recv`].
    #[track_caller]
    pub fn iprobe(&self, from: impl Into<Src>) -> Result<Option<Message<'_>>> {
        let from = from.into();
        self.perform(Call::new("iprobe", from.with()), || {
            let from = self.source(from, Signature::OBJECT)?;
            let found = self.engine.probe(&from, false)?;
            Ok(found.map(|(ticket, received)| Message::new(self, ticket, received)))
        })
    }

    /// Starts to send `values` (see [`OwnedBuf`]); [`Request::wait`] gives them back when they have
    /// left.
    ///
    /// The engine keeps them meanwhile, so that the request may be dropped (the message goes on) or
    /// forgotten. To send borrowed data, see [`Comm::scope`].
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
    pub fn isend<B: OwnedBuf>(&self, values: B, to: impl Into<Dest>) -> Result<Request<'_, B>> {
        let to = to.into();
        self.start_send(Call::new("isend", to.with()), Mode::Standard, values, to)
    }

    /// Starts to send `values`; the request is done when the receiver has begun to receive them.
    ///
    /// # Errors
    /// As [`Comm::send`].
    ///
    /// # Examples
    /// ```
    /// spmd::local(2, |world| {
    ///     if world.rank() == 0 {
    ///         let request = world.issend(vec![1, 2], 1)?;
    ///         let request = request.test().unwrap_err(); // nobody receives before the barrier
    ///         world.barrier()?;
    ///         request.wait()?;
    ///     } else {
    ///         world.barrier()?;
    ///         world.recv::<i32>(0)?;
    ///     }
    ///     Ok(())
    /// }).unwrap();
    /// ```
    #[track_caller]
    pub fn issend<B: OwnedBuf>(&self, values: B, to: impl Into<Dest>) -> Result<Request<'_, B>> {
        let to = to.into();
        self.start_send(Call::new("issend", to.with()), Mode::Synchronous, values, to)
    }

    fn start_send<B: OwnedBuf>(
        &self,
        call: Call,
        mode: Mode,
        values: B,
        to: Dest,
    ) -> Result<Request<'_, B>> {
        if to.is_null() {
            return Ok(Request::ready(self, call, values));
        }
        self.perform(call, || {
            let to = self.target(to, Signature::of::<B::Elem>())?;
            let memory = Memory::Owned(Box::new(Outbound::new(values)));
            self.sent(to.rank, to.tag, memory.bytes().len());
            Ok(Request::sending(self, call, self.engine.isend(&to, mode, memory)?))
        })
    }

    /// Starts to receive a message of at most `into.len()` elements; [`Request::wait`] gives the
    /// vector back, cut to what was received.
    ///
    /// A request that is dropped unfinished withdraws the receive: the message can be received by
    /// another call.
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
        if from.is_null() {
            return Ok(Request::ready(self, call, (Vec::new(), Status::NULL)));
        }
        self.perform(call, || {
            let from = self.source(from, Signature::of::<T>())?;
            let memory = Memory::Owned(Box::new(Landing::from(into)));
            Ok(Request::receiving(self, call, self.engine.irecv(&from, memory)?))
        })
    }

    fn send_view<V: View + ?Sized>(&self, mode: Mode, values: &V, to: Dest) -> Result<(), Fault> {
        self.send_as(mode, Signature::of::<V::Elem>(), bytes_of(&contents(values)), to)
    }

    pub(crate) fn send_bytes(
        &self,
        signature: Signature,
        bytes: &[u8],
        to: Dest,
    ) -> Result<(), Fault> {
        self.send_as(Mode::Standard, signature, bytes, to)
    }

    fn send_as(
        &self,
        mode: Mode,
        signature: Signature,
        bytes: &[u8],
        to: Dest,
    ) -> Result<(), Fault> {
        if to.is_null() {
            return Ok(());
        }
        let to = self.target(to, signature)?;
        self.sent(to.rank, to.tag, bytes.len());
        self.engine.send(&to, mode, bytes)
    }

    /// Lets `receive` write into `into`.
    #[inline]
    fn receive_into<V: ViewMut + ?Sized>(
        &self,
        into: &mut V,
        receive: impl FnOnce(&mut [u8]) -> Result<Received, Fault>,
    ) -> Result<Status, Fault> {
        fill(into, |bytes| {
            let received = receive(bytes)?;
            self.received(received);
            let status = status::<V::Elem>(&received);
            Ok((status, status.count))
        })
    }

    #[inline(always)]
    pub(super) fn target(&self, to: Dest, signature: Signature) -> Result<Target, Fault> {
        self.space().target(to, signature)
    }

    #[inline(always)]
    pub(super) fn source(&self, from: Src, signature: Signature) -> Result<Source, Fault> {
        self.space().source(from, signature)
    }

    pub(super) fn await_message(&self, from: &Source) -> Result<(Ticket, Received), Fault> {
        self.engine.probe(from, true)?.ok_or_else(|| ErrorKind::Closed.into())
    }

    fn fetch<T: Datum>(
        &self,
        ticket: Ticket,
        received: Received,
    ) -> Result<(Vec<T>, Status), Fault> {
        let signature = Signature::of::<T>();
        // Another type's message may end within an element: room for that too, the engine then says
        // what it is.
        let mut landing = Landing::new(received.bytes.div_ceil(signature.size()))?;
        let bytes = landing.bytes_mut();
        let whole = bytes.len();
        self.engine.fetch(ticket, &plain(signature), &mut bytes[..received.bytes.min(whole)])?;
        self.received(received);
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
        let comm = self.comm;
        comm.perform(self.call("recv"), || {
            let ticket = self.ticket.take().ok_or(ErrorKind::Closed)?;
            comm.fetch(ticket, self.received).map(|(values, _)| values)
        })
    }

    /// Receives it into the caller's buffer.
    ///
    /// # Errors
    /// As [`Comm::recv_into`].
    #[track_caller]
    pub fn recv_into<V: ViewMut + ?Sized>(mut self, into: &mut V) -> Result<Status> {
        let (comm, received) = (self.comm, self.received);
        comm.perform(self.call("recv"), || {
            let ticket = self.ticket.take().ok_or(ErrorKind::Closed)?;
            let label = plain(Signature::of::<V::Elem>());
            comm.receive_into(into, |bytes| {
                comm.engine.fetch(ticket, &label, bytes).map(|()| received)
            })
        })
    }

    /// Receives it as bytes, if it is a serialized object.
    pub(super) fn recv_object(mut self) -> Result<Vec<u8>, Fault> {
        let ticket = self.ticket.take().ok_or(ErrorKind::Closed)?;
        let mut bytes = vec![0; self.received.bytes];
        self.comm.engine.fetch(ticket, &plain(Signature::OBJECT), &mut bytes)?;
        self.comm.received(self.received);
        Ok(bytes)
    }

    pub(super) fn comm(&self) -> &'c Comm {
        self.comm
    }

    pub(super) fn status(&self) -> Status {
        status::<u8>(&self.received)
    }

    #[track_caller]
    pub(super) fn call(&self, op: &'static str) -> Call {
        Call::new(op, Src::from((self.source(), self.tag())).with())
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
    status_of(size_of::<T>(), received)
}

/// What the program is told of a message of elements of so many bytes.
#[inline]
pub(super) fn status_of(element: usize, received: &Received) -> Status {
    let Received { rank, tag, bytes } = received;
    Status { source: rank.index(), tag: tag.0, count: bytes / element }
}
