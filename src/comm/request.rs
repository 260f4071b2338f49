//! Operations that go on while the program computes.

use std::{mem, time::Duration};

use super::{
    Comm, Status,
    p2p::status,
    view::{Outbound, OwnedBuf},
};
use crate::{
    datum::{Datum, Landing},
    engine::{Done, Ended, Op},
    error::{Call, ErrorKind, Fault, Result},
};

/// An operation under way, whose buffers the engine keeps.
///
/// Dropped unfinished, a send goes on without its owner, a receive is withdrawn, and a collective
/// goes on. Forgetting it is sound.
#[must_use = "a request does nothing for its owner until it is waited for"]
pub struct Request<'c, R> {
    comm: &'c Comm,
    call: Call,
    state: State<'c, R>,
}

enum State<'c, R> {
    /// Needed no engine.
    Ready(R),
    Pending(Op, Finish<'c, R>),
    /// Waited for.
    Over,
}

/// Makes the result of what the engine gives back.
enum Finish<'c, R> {
    /// For messages, which must not cost an allocation.
    Plain(fn(Done) -> Result<R, Fault>),
    Boxed(Box<dyn FnOnce(Done) -> Result<R, Fault> + 'c>),
}

impl<'c, R> Request<'c, R> {
    /// A request whose result `finish` makes of what the engine gives back.
    pub(super) fn new(
        comm: &'c Comm,
        call: Call,
        op: Op,
        finish: impl FnOnce(Done) -> Result<R, Fault> + 'c,
    ) -> Self {
        Self { comm, call, state: State::Pending(op, Finish::Boxed(Box::new(finish))) }
    }

    /// A request that is done.
    pub(super) fn ready(comm: &'c Comm, call: Call, result: R) -> Self {
        Self { comm, call, state: State::Ready(result) }
    }

    /// Waits until the operation is done; gives the buffer back.
    ///
    /// # Errors
    /// As the blocking form of the operation; the error names the place where the operation was
    /// started.
    pub fn wait(mut self) -> Result<R> {
        match mem::replace(&mut self.state, State::Over) {
            State::Ready(result) => Ok(result),
            State::Pending(op, finish) => self.comm.proceed(self.call, || {
                self.comm.engine.wait(op).and_then(|done| finish.of(self.comm, done))
            }),
            State::Over => self.comm.proceed(self.call, || Err(ErrorKind::Closed.into())),
        }
    }

    /// The result if the operation is done, else the request again.
    ///
    /// # Errors
    /// `Err(self)` if the operation goes on; `Ok(Err(…))` as [`Request::wait`].
    pub fn test(mut self) -> Result<Result<R>, Self> {
        let State::Pending(op, _) = self.state else { return Ok(self.wait()) };
        match self.comm.engine.test(op) {
            None => Err(self),
            Some(done) => Ok(self.conclude(done)),
        }
    }

    /// Waits for so long at most: the result if the operation is done by then, else the request
    /// again.
    ///
    /// # Errors
    /// `Err(self)` if the operation goes on; `Ok(Err(…))` as [`Request::wait`].
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    /// let patient = spmd::local(2, |world| {
    ///     if world.rank() == 1 {
    ///         world.barrier()?;
    ///         world.send(&[5], 0)?;
    ///         return Ok(vec![]);
    ///     }
    ///     let request = world.irecv(vec![0], 1)?;
    ///     // Nothing is sent before the barrier.
    ///     let request = request.wait_for(Duration::from_millis(1)).unwrap_err();
    ///     world.barrier()?;
    ///     let (values, _) = request.wait()?;
    ///     Ok(values)
    /// });
    /// assert_eq!(patient.unwrap()[0], [5]);
    /// ```
    pub fn wait_for(self, limit: Duration) -> Result<Result<R>, Self> {
        let State::Pending(op, _) = self.state else { return Ok(self.wait()) };
        self.comm.enter(self.call);
        // A time beyond what the clock can hold is no limit.
        match self.comm.engine.wait_any(&[op], self.comm.engine.now().checked_add(limit)) {
            Ok(None) => Err(self),
            Ok(Some(_)) | Err(_) => Ok(self.wait()),
        }
    }

    /// The result of an operation that the engine has finished.
    fn conclude(&mut self, done: Result<Done, Fault>) -> Result<R> {
        let State::Pending(_, finish) = mem::replace(&mut self.state, State::Over) else {
            return self.comm.proceed(self.call, || Err(ErrorKind::Closed.into()));
        };
        self.comm.proceed(self.call, || done.and_then(|done| finish.of(self.comm, done)))
    }

    fn op(&self) -> Option<Op> {
        match self.state {
            State::Pending(op, _) => Some(op),
            State::Ready(_) | State::Over => None,
        }
    }
}

impl<R> Finish<'_, R> {
    fn of(self, comm: &Comm, done: Done) -> Result<R, Fault> {
        comm.arrived(&done);
        match self {
            Self::Plain(finish) => finish(done),
            Self::Boxed(finish) => finish(done),
        }
    }
}

impl<'c, B: OwnedBuf> Request<'c, B> {
    pub(super) fn sending(comm: &'c Comm, call: Call, op: Op) -> Self {
        let finish = |done: Done| {
            let buffer = done.buffer.ok_or(ErrorKind::Closed)?.into_any().downcast::<Outbound<B>>();
            buffer.map(|buffer| buffer.owner).map_err(|_| ErrorKind::Closed.into())
        };
        Self { comm, call, state: State::Pending(op, Finish::Plain(finish)) }
    }
}

impl<'c, T: Datum> Request<'c, (Vec<T>, Status)> {
    pub(super) fn receiving(comm: &'c Comm, call: Call, op: Op) -> Self {
        let finish = Finish::Plain(landed::<T>);
        Self { comm, call, state: State::Pending(op, finish) }
    }

    /// Withdraws the receive: `None`, and the message can be received by another call. What was
    /// received already is the result.
    ///
    /// Only receives can be cancelled: a send cannot be called back from its receiver.
    ///
    /// ```compile_fail,E0599
    /// spmd::local(2, |world| {
    ///     let request = world.isend(vec![1, 2, 3], 1)?;
    ///     request.cancel()?; // no such method for a send
    ///     Ok(())
    /// });
    /// ```
    ///
    /// # Errors
    /// As [`Request::wait`], if a message was received.
    ///
    /// # Examples
    /// ```
    /// let cancelled = spmd::local(1, |world| {
    ///     let request = world.irecv(vec![0_u8; 8], 0)?;
    ///     Ok(request.cancel()?.is_none())
    /// });
    /// assert_eq!(cancelled.unwrap(), [true]);
    /// ```
    pub fn cancel(mut self) -> Result<Option<(Vec<T>, Status)>> {
        match mem::replace(&mut self.state, State::Over) {
            State::Ready(result) => Ok(Some(result)),
            State::Over => self.comm.proceed(self.call, || Err(ErrorKind::Closed.into())),
            State::Pending(op, finish) => {
                self.comm.proceed(self.call, || match self.comm.engine.cancel(op)? {
                    Ended::Done(done) => finish.of(self.comm, done).map(Some),
                    Ended::Cancelled(buffer) => {
                        drop(buffer);
                        Ok(None)
                    }
                })
            }
        }
    }
}

/// The values of a finished receive.
pub(super) fn landed<T: Datum>(done: Done) -> Result<(Vec<T>, Status), Fault> {
    let buffer = done.buffer.ok_or(ErrorKind::Closed)?.into_any().downcast::<Landing<T>>();
    let buffer = buffer.map_err(|_| ErrorKind::Closed)?;
    let status = status::<T>(&done.received.ok_or(ErrorKind::Closed)?);
    Ok((buffer.into_values(status.count)?, status))
}

impl<R> Drop for Request<'_, R> {
    fn drop(&mut self) {
        if let State::Pending(op, _) = self.state {
            self.comm.engine.detach(op);
        }
    }
}

/// Waits for all requests; their results in the same order.
///
/// # Errors
/// The first error in that order; the requests behind it are dropped.
pub fn wait_all<'c, R>(requests: impl IntoIterator<Item = Request<'c, R>>) -> Result<Vec<R>> {
    // Collected first, so that all are started before the first is waited for.
    let requests: Vec<_> = requests.into_iter().collect();
    requests.into_iter().map(Request::wait).collect()
}

/// The results of all requests, in the same order, if all are done; else the requests again.
///
/// # Errors
/// `Err(requests)` if one goes on; `Ok(Err(…))` as [`wait_all`].
pub fn test_all<R>(requests: Vec<Request<'_, R>>) -> Result<Result<Vec<R>>, Vec<Request<'_, R>>> {
    // The engine tells of one operation by finishing it, so the results of those that are done are
    // kept in their requests.
    let mut requests = requests;
    let mut all = true;
    for request in &mut requests {
        if let Some(op) = request.op() {
            match request.comm.engine.test(op) {
                None => all = false,
                Some(done) => match request.conclude(done) {
                    Ok(result) => request.state = State::Ready(result),
                    Err(error) => return Ok(Err(error)),
                },
            }
        }
    }
    if all { Ok(wait_all(requests)) } else { Err(requests) }
}

/// Waits until one of the requests is done, takes it out of the vector, and gives its place there
/// and its result; `None` if there is no request.
///
/// The requests behind it move up: the place counts as the vector was before.
///
/// # Errors
/// As [`Request::wait`], of a request that is taken out too.
///
/// # Examples
/// ```
/// let got = spmd::local(3, |world| {
///     if world.rank() > 0 {
///         world.send(&[world.rank()], 0)?;
///         return Ok(0);
///     }
///     let mut requests = vec![world.irecv(vec![0_usize], 1)?, world.irecv(vec![0], 2)?];
///     let mut sum = 0;
///     while let Some((_place, (values, _status))) = spmd::request::wait_any(&mut requests)? {
///         sum += values[0]; // in the order in which they come
///     }
///     Ok(sum)
/// });
/// assert_eq!(got.unwrap()[0], 3);
/// ```
pub fn wait_any<R>(requests: &mut Vec<Request<'_, R>>) -> Result<Option<(usize, R)>> {
    let Some(place) = first_done(requests)? else { return Ok(None) };
    Ok(Some((place, requests.remove(place).wait()?)))
}

/// As [`wait_any`], without waiting: `None` if no request is done.
///
/// # Errors
/// As [`wait_any`].
pub fn test_any<R>(requests: &mut Vec<Request<'_, R>>) -> Result<Option<(usize, R)>> {
    for place in 0..requests.len() {
        if let Some(result) = take_if_done(requests, place) {
            return result.map(|result| Some((place, result)));
        }
    }
    Ok(None)
}

/// Waits until a request is done, takes all that are done by then out of the vector, and gives
/// their places there and their results; empty if there is no request.
///
/// The places count as the vector was before.
///
/// # Errors
/// As [`Request::wait`], of the first request that failed; what others brought that were done is
/// lost with it.
pub fn wait_some<R>(requests: &mut Vec<Request<'_, R>>) -> Result<Vec<(usize, R)>> {
    first_done(requests)?;
    test_some(requests)
}

/// As [`wait_some`], without waiting: empty if no request is done.
///
/// # Errors
/// As [`wait_some`].
pub fn test_some<R>(requests: &mut Vec<Request<'_, R>>) -> Result<Vec<(usize, R)>> {
    let mut results = Vec::new();
    let (mut place, mut before) = (0, 0);
    while place < requests.len() {
        match take_if_done(requests, place) {
            Some(result) => results.push((before, result?)),
            None => place += 1,
        }
        before += 1;
    }
    Ok(results)
}

/// Waits until one of the requests is done; its place.
fn first_done<R>(requests: &[Request<'_, R>]) -> Result<Option<usize>> {
    let Some(first) = requests.first() else { return Ok(None) };
    let ops: Vec<Op> = requests.iter().map_while(Request::op).collect();
    if ops.len() < requests.len() {
        return Ok(Some(ops.len())); // needs no waiting
    }
    first.comm.proceed(first.call, || first.comm.engine.wait_any(&ops, None))
}

/// The result of the request at this place, which is taken out, if it is done.
fn take_if_done<R>(requests: &mut Vec<Request<'_, R>>, place: usize) -> Option<Result<R>> {
    let request = &mut requests[place];
    let result = match request.op() {
        None => return Some(requests.remove(place).wait()),
        Some(op) => {
            let done = request.comm.engine.test(op)?;
            request.conclude(done)
        }
    };
    drop(requests.remove(place));
    Some(result)
}
