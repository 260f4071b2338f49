//! The verbs of messages: [`Messages`] that wait, and [`Operations`] that go on meanwhile.

use std::time::Duration;

use super::{Begun, Done, Ended, Label, Mode, Op, Preparation, Received, Source, Target, Ticket};
use crate::{
    datum::{LentRead, LentWrite, Memory, Outgoing},
    error::{ErrorKind, Fault},
};

/// Messages that are sent and received before the verb returns.
pub(crate) trait Messages: Operations {
    /// Sends `bytes`; returns when the caller may change them.
    fn send(&self, to: &Target, mode: Mode, bytes: &[u8]) -> Result<(), Fault> {
        let op = self.isend(to, mode, copy_of(bytes))?;
        self.finish(op, true).map(drop)
    }

    /// Receives a message of at most `into.len()` bytes.
    fn recv(&self, from: &Source, into: &mut [u8]) -> Result<Received, Fault> {
        let (ticket, received) = self.probe(from, true)?.ok_or(ErrorKind::Closed)?;
        let buffer = into.len();
        let Some(into) = into.get_mut(..received.bytes) else {
            self.discard(ticket);
            return Err(ErrorKind::Truncated { message: received.bytes, buffer }.into());
        };
        self.fetch(ticket, &from.label, into).map(|()| received)
    }

    /// Sends and receives at once, so that two ranks can exchange messages of any size.
    fn sendrecv(
        &self,
        to: &Target,
        bytes: &[u8],
        from: &Source,
        into: &mut [u8],
    ) -> Result<Received, Fault> {
        let op = self.isend(to, Mode::Standard, copy_of(bytes))?;
        // Who has failed does not wait for its receiver.
        let received = self.recv(from, into).inspect_err(|_| self.detach(op))?;
        self.finish(op, true).map(|_| received)
    }

    /// Takes the first message that fits out of the queue, waiting for one if `wait`.
    ///
    /// The label of `from` says which queue; it is compared when the message is fetched.
    fn probe(&self, from: &Source, wait: bool) -> Result<Option<(Ticket, Received)>, Fault>;

    /// Takes the first message that fits out of the queue, waiting for one until `op` is done,
    /// which stays; `None` if it is.
    fn probe_until(&self, from: &Source, op: Op) -> Result<Option<(Ticket, Received)>, Fault> {
        loop {
            if let Some(found) = self.probe(from, false)? {
                return Ok(Some(found));
            }
            if self.wait_any(&[op], Some(Duration::ZERO))?.is_some() {
                return Ok(None);
            }
        }
    }

    /// Receives a probed message into its first bytes' worth of `into`.
    fn fetch(&self, message: Ticket, label: &Label, into: &mut [u8]) -> Result<(), Fault>;

    /// Drops a probed message.
    fn discard(&self, message: Ticket);
}

/// Operations under way.
///
/// | to complete | waits | the engine's buffer |
/// |---|---|---|
/// | [`test`](Self::test) | no | comes back |
/// | [`wait`](Self::wait) | yes | comes back |
/// | [`finish`](Self::finish) | as told | is dropped |
/// | [`wait_any`](Self::wait_any) | until one is done | stays: to be completed by one of the others |
///
/// | to stop | a receive | a send | the memory afterwards |
/// |---|---|---|---|
/// | [`cancel`](Self::cancel) | withdrawn, unless it is done | not for sends | the caller's |
/// | [`detach`](Self::detach) | withdrawn | goes on | the engine's, until it is over |
/// | [`abandon`](Self::abandon) | withdrawn | goes on | the lender's, if it says so |
/// | [`revoke`](Self::revoke) | withdrawn | taken back, or copied and sent | the lender's |
pub(crate) trait Operations {
    /// Starts to send.
    fn isend(&self, to: &Target, mode: Mode, memory: Memory) -> Result<Op, Fault>;

    /// Starts to receive.
    fn irecv(&self, from: &Source, memory: Memory) -> Result<Op, Fault>;

    /// As [`Self::isend`] with lent bytes, by a lender who never leaves the operation unfinished;
    /// `None` if the bytes are the lender's again already.
    fn isend_lent(&self, to: &Target, mode: Mode, bytes: LentRead) -> Result<Option<Op>, Fault>;

    /// As [`Self::irecv`] with lent bytes, by a lender who never leaves the operation unfinished.
    fn irecv_lent(&self, from: &Source, into: LentWrite) -> Result<Begun, Fault>;

    /// The result of `op` if it is done; `op` is gone then, and lent memory is not touched any
    /// more, whatever the result.
    fn test(&self, op: Op) -> Option<Result<Done, Fault>>;

    /// The result of `op` when it is done; `op` is gone then, and lent memory is not touched any
    /// more, whatever the result.
    fn wait(&self, op: Op) -> Result<Done, Fault> {
        self.wait_any(&[op], None)?;
        self.test(op).unwrap_or_else(|| Err(ErrorKind::Closed.into()))
    }

    /// Whether `op`, whose buffer nobody wants back, is done, waiting for it if `wait`; if so, what
    /// was received. `op` is gone then, with its buffer if the engine owned it, whatever the
    /// result; one that was prepared can be started again.
    #[allow(clippy::option_option, reason = "done or not, and a message received or not")]
    fn finish(&self, op: Op, wait: bool) -> Result<Option<Option<Received>>, Fault> {
        if wait {
            return self.wait(op).map(|done| Some(done.received));
        }
        self.test(op).map(|done| done.map(|done| done.received)).transpose()
    }

    /// Waits until one of `ops` is done and says which; it stays to be tested or waited for. `None`
    /// if that has not happened by `until`, a [time](super::Engine::now) of the engine.
    fn wait_any(&self, ops: &[Op], until: Option<Duration>) -> Result<Option<usize>, Fault>;

    /// Withdraws a receive, unless it is done; `op` is gone.
    fn cancel(&self, op: Op) -> Result<Ended, Fault>;

    /// Nobody will ask for `op` again: a receive is withdrawn, a send of owned memory goes on
    /// without its owner.
    fn detach(&self, op: Op);

    /// As [`Self::detach`], of lent memory, and says whether the engine touches it no more. If it
    /// does not say so, the memory must stay for ever.
    fn abandon(&self, op: Op) -> bool {
        let over = matches!(self.finish(op, false), Ok(Some(_)));
        self.detach(op);
        over
    }

    /// Takes lent memory back: when this returns the engine does not touch it any more, whether or
    /// not the message was sent or received. Where that cannot be had (an MPI that cannot cancel a
    /// send that nobody receives), it ends the job rather than return. `op` is gone.
    fn revoke(&self, op: Op);

    // ---- Prepared once and started often ----

    /// Prepares an operation in the engine's own way; `None` if it has none.
    ///
    /// [`Self::detach`] ends it: at once if it is not under way, else when it is done; a receive is withdrawn. The lent
    /// memory stays valid until then.
    ///
    /// Whether an engine declines must depend on nothing but what is the same on every rank.
    fn prepare(&self, _what: &Preparation<'_>) -> Result<Option<Op>, Fault> {
        Ok(None)
    }

    /// Starts a prepared operation, which is not under way.
    fn start(&self, _op: Op) -> Result<(), Fault> {
        Err(ErrorKind::Closed.into())
    }
}

fn copy_of(bytes: &[u8]) -> Memory {
    Memory::Owned(Box::new(Outgoing(bytes.to_vec())))
}
