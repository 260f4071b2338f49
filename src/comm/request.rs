//! Operations that go on while the program computes.

use super::{Comm, Status, p2p::status};
use crate::{
    datum::{Datum, Landing, Outgoing},
    engine::{Done, Op},
    error::{Call, ErrorKind, Result},
};

/// A send or receive under way, whose buffer the engine keeps.
///
/// Dropped unfinished, a send goes on without its owner and a receive is withdrawn. Forgetting it is sound.
#[must_use = "a request does nothing for its owner until it is waited for"]
pub struct Request<'c, R> {
    comm: &'c Comm,
    call: Call,
    state: State<R>,
}

enum State<R> {
    /// Needed no engine.
    Ready(R),
    /// Under way; the function makes the result of what the engine gives back.
    Pending(Op, fn(Done) -> Result<R, ErrorKind>),
    /// Waited for.
    Over,
}

impl<'c, R> Request<'c, R> {
    pub(super) fn ready(comm: &'c Comm, call: Call, result: R) -> Self {
        Self { comm, call, state: State::Ready(result) }
    }

    /// Waits until the operation is done; gives the buffer back.
    ///
    /// # Errors
    /// As the blocking form of the operation; the error names the place where the operation was started.
    pub fn wait(mut self) -> Result<R> {
        let fail = self.comm.enter(self.call);
        match std::mem::replace(&mut self.state, State::Over) {
            State::Ready(result) => Ok(result),
            State::Pending(op, finish) => self.comm.engine.wait(op).and_then(finish).map_err(fail),
            State::Over => Err(fail(ErrorKind::Closed)),
        }
    }

    /// The result if the operation is done, else the request again.
    ///
    /// # Errors
    /// `Err(self)` if the operation goes on; `Ok(Err(…))` as [`Request::wait`].
    pub fn test(mut self) -> Result<Result<R>, Self> {
        let State::Pending(op, finish) = self.state else { return Ok(self.wait()) };
        let fail = self.comm.enter(self.call);
        match self.comm.engine.test(op) {
            None => Err(self),
            Some(done) => {
                self.state = State::Over;
                Ok(done.and_then(finish).map_err(fail))
            }
        }
    }
}

impl<'c, T: Datum> Request<'c, Vec<T>> {
    pub(super) fn sending(comm: &'c Comm, call: Call, op: Op) -> Self {
        let finish = |done: Done| {
            let buffer = done.buffer.ok_or(ErrorKind::Closed)?.into_any().downcast::<Outgoing<T>>();
            buffer.map(|buffer| buffer.0).map_err(|_| ErrorKind::Closed)
        };
        Self { comm, call, state: State::Pending(op, finish) }
    }
}

impl<'c, T: Datum> Request<'c, (Vec<T>, Status)> {
    pub(super) fn receiving(comm: &'c Comm, call: Call, op: Op) -> Self {
        let finish = |done: Done| {
            let buffer = done.buffer.ok_or(ErrorKind::Closed)?.into_any().downcast::<Landing<T>>();
            let buffer = buffer.map_err(|_| ErrorKind::Closed)?;
            let status = status::<T>(&done.received.ok_or(ErrorKind::Closed)?);
            Ok((buffer.into_values(status.count)?, status))
        };
        Self { comm, call, state: State::Pending(op, finish) }
    }
}

impl<R> Drop for Request<'_, R> {
    fn drop(&mut self) {
        if let State::Pending(op, _) = self.state {
            self.comm.engine.forsake(op);
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
