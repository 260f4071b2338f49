//! Messages between two ranks, eager or by rendezvous: the verbs of the engine that send, receive
//! and wait.

use std::{marker::PhantomData, sync::Arc, time::Duration};

use super::{
    LocalEngine, Pending,
    endpoint::{ActiveRecv, Ctx},
    lane::EAGER_BYTES,
    rendezvous::{Body, Claim, Loan, Parcel},
};
use crate::{
    datum::{LentRead, LentWrite, Memory, Outgoing},
    engine::{
        Begun, Done, Ended, Label, Messages, Mode, Op, Operations, Received, Source, Target,
        Ticket,
        matching::{Key, Space, Wanted},
    },
    error::{Call, ErrorKind, Fault},
};

/// What became of a receive.
type Outcome = Result<Received, Fault>;

/// A standard send of at most so many bytes never waits for its receiver longer than backoff lasts.
const BUFFERED_BYTES: usize = if cfg!(loom) { 5 } else { 8 * 1024 };

/// Bytes that are lent while a call lasts: however it ends, they are taken back.
struct Lending<'a> {
    /// None when the loan has ended.
    loan: Option<Arc<Loan>>,
    bytes: PhantomData<&'a [u8]>,
}

impl Lending<'_> {
    fn is_done(&self) -> bool {
        self.loan.as_ref().is_none_or(|loan| loan.is_done())
    }

    /// Leaves a copy in place of the bytes; `false` if the receiver is at them already.
    fn leave_copy(&mut self) -> bool {
        let left = self.loan.as_ref().is_none_or(|loan| loan.leave_copy().is_some());
        if left {
            self.loan = None;
        }
        left
    }

    /// The loan to be used again, once done.
    fn into_loan(mut self) -> Option<Arc<Loan>> {
        self.loan.take_if(|loan| loan.is_done())
    }
}

impl Drop for Lending<'_> {
    fn drop(&mut self) {
        if let Some(loan) = self.loan.take() {
            loan.take_back();
        }
    }
}

impl Messages for LocalEngine {
    #[inline]
    fn send(&self, to: &Target, mode: Mode, bytes: &[u8]) -> Result<(), Fault> {
        match self.start_send(to, mode, bytes)? {
            None => Ok(()),
            Some(lending) => self.end_send(lending, mode, bytes.len()),
        }
    }

    #[inline]
    fn recv(&self, from: &Source, into: &mut [u8]) -> Result<Received, Fault> {
        self.job.parking.check()?;
        let (wanted, sender) = self.wanted(from)?;
        let active = ActiveRecv { wanted: &wanted, sender, claim: Claim::Receive };
        let ctx = self.surroundings();
        let endpoint = &mut *self.endpoint.borrow_mut();
        if let Some((key, parcel)) = endpoint.take_unexpected(&active) {
            return parcel.open(&key, &from.label, into, ctx.parking);
        }
        let mut open =
            |key: &Key, parcel: Parcel<'_>| parcel.open(key, &from.label, into, ctx.parking);
        let call = || self.call.get();
        let Some(lane) = endpoint.only_lane(sender) else {
            let mut outcome = None;
            self.job.parking.wait_until(self.rank, call, None, || {
                outcome = endpoint.progress_for(ctx, &active, &mut open);
                outcome.is_some()
            })?;
            return outcome.unwrap_or_else(|| Err(ErrorKind::Closed.into()));
        };
        // Only one lane can bring it and nothing else is waited for: that lane is all there is to
        // look at.
        loop {
            let next = endpoint.incoming(lane);
            self.job.parking.wait_until(self.rank, call, None, || next.has_message())?;
            if let Some(outcome) = endpoint.drain(lane, ctx, Some(&active), &mut open) {
                return outcome;
            }
        }
    }

    fn sendrecv(
        &self,
        to: &Target,
        bytes: &[u8],
        from: &Source,
        into: &mut [u8],
    ) -> Result<Received, Fault> {
        let lending = self.start_send(to, Mode::Standard, bytes)?;
        let received = self.recv(from, into);
        // A message that is refused is no reason to keep the other rank waiting for this one's.
        if let Some(lending) = lending {
            self.end_send(lending, Mode::Standard, bytes.len())?;
        }
        received
    }

    fn probe(&self, from: &Source, wait: bool) -> Result<Option<(Ticket, Received)>, Fault> {
        self.look_for(from, wait, || false)
    }

    fn probe_until(&self, from: &Source, op: Op) -> Result<Option<(Ticket, Received)>, Fault> {
        self.look_for(from, true, || self.is_done(op))
    }

    fn fetch(&self, message: Ticket, label: &Label, into: &mut [u8]) -> Result<(), Fault> {
        let (key, parcel) = self.probed.remove(message.0).ok_or(ErrorKind::Closed)?;
        if let Body::Lent(loan) = &parcel.body {
            loan.begin();
        }
        parcel.open(&key, label, into, &self.job.parking).map(drop)
    }

    fn discard(&self, message: Ticket) {
        let Some((_, parcel)) = self.probed.remove(message.0) else { return };
        if let Body::Lent(loan) = &parcel.body {
            loan.begin();
        }
        parcel.discard(&self.job.parking);
    }
}

impl Operations for LocalEngine {
    fn isend(&self, to: &Target, mode: Mode, memory: Memory) -> Result<Op, Fault> {
        let call = self.call.get();
        let mut memory = Some(memory);
        let bytes: *const [u8] = memory.as_ref().map_or(&[], |memory| memory.bytes());
        let lend = || memory.take().expect("a buffer is lent once");
        // SAFETY: the bytes keep their address when their memory moves into the loan (contract of
        // `Buffer`, promise of a lender); `dispatch` does not look at them after lending.
        let loan = self.dispatch(to, mode, unsafe { &*bytes }, lend)?;
        let pending = match (loan, memory) {
            (Some(loan), _) => Pending::Lent(loan, Some(call)),
            (None, Some(memory)) => Pending::Sent(memory, call),
            (None, None) => return Err(ErrorKind::Closed.into()),
        };
        Ok(Op(self.ops.insert(|| pending)))
    }

    #[inline]
    fn isend_lent(&self, to: &Target, mode: Mode, bytes: LentRead) -> Result<Option<Op>, Fault> {
        let loan = self.dispatch(to, mode, bytes.bytes(), || Memory::Read(bytes))?;
        Ok(loan.map(|loan| Op(self.ops.insert(|| Pending::Lent(loan, None)))))
    }

    fn irecv(&self, from: &Source, mut memory: Memory) -> Result<Op, Fault> {
        let (wanted, outcome) = self.begin_receive(from, memory.bytes_mut())?;
        let is_open = outcome.is_none();
        let Label { signature, step } = from.label;
        let (step, call) = (step.map(Box::new), Some(self.call.get()));
        let op = self.ops.insert(|| Pending::Receive { memory, signature, step, outcome, call });
        if is_open {
            self.endpoint.borrow_mut().queues.post(wanted, op);
        }
        Ok(Op(op))
    }

    fn irecv_lent(&self, from: &Source, mut into: LentWrite) -> Result<Begun, Fault> {
        let (wanted, outcome) = self.begin_receive(from, into.bytes_mut())?;
        if let Some(outcome) = outcome {
            return Ok(Begun::Over(outcome));
        }
        let Label { signature, step } = from.label;
        let op = self.ops.insert(|| Pending::Receive {
            step: step.map(Box::new),
            memory: Memory::Write(into),
            signature,
            outcome: None,
            call: None,
        });
        self.endpoint.borrow_mut().queues.post(wanted, op);
        Ok(Begun::UnderWay(Op(op)))
    }

    fn test(&self, op: Op) -> Option<Result<Done, Fault>> {
        match self.becomes_done(op, false) {
            Err(verdict) => Some(Err(verdict)),
            Ok(false) => None,
            Ok(true) => Some(self.conclude(op)),
        }
    }

    fn wait(&self, op: Op) -> Result<Done, Fault> {
        self.becomes_done(op, true)?;
        self.conclude(op)
    }

    #[allow(clippy::option_option, reason = "done or not, and a message received or not")]
    fn finish(&self, op: Op, wait: bool) -> Result<Option<Option<Received>>, Fault> {
        if !self.becomes_done(op, wait)? {
            return Ok(None);
        }
        let received = self.ops.end(op.0, |pending| match pending {
            Pending::Receive { outcome: Some(Ok(received)), .. } => Some(*received),
            _ => None,
        });
        match received {
            Some(_) => Ok(Some(received)),
            None => self.conclude(op).map(|done| Some(done.received)),
        }
    }

    fn wait_any(&self, ops: &[Op], until: Option<Duration>) -> Result<Option<usize>, Fault> {
        let mut found = None;
        self.await_ready(
            || self.call.get(),
            until,
            || {
                found = ops.iter().position(|&op| self.is_done(op));
                found.is_some()
            },
        )?;
        Ok(found)
    }

    fn cancel(&self, op: Op) -> Result<Ended, Fault> {
        match self.ops.remove(op.0).ok_or(ErrorKind::Closed)? {
            Pending::Receive { memory, outcome: None, .. } => {
                self.withdraw(op);
                Ok(Ended::Cancelled(memory.into_owned()))
            }
            Pending::Lent(loan, _) => {
                let (never_sent, memory) = loan.take_back();
                let buffer = memory.and_then(Memory::into_owned);
                Ok(if never_sent {
                    Ended::Cancelled(buffer)
                } else {
                    Ended::Done(Done { buffer, received: None, exchanged: None })
                })
            }
            Pending::Exchange(part) if !part.is_done() => Ok(Ended::Cancelled(None)),
            done => self.finished(done).map(Ended::Done),
        }
    }

    fn detach(&self, op: Op) {
        if let Some(Pending::Receive { outcome: None, .. }) = self.ops.remove(op.0) {
            self.withdraw(op);
        }
    }

    fn abandon(&self, op: Op) -> bool {
        if self.job.parking.check().is_err() {
            self.revoke(op); // nobody receives any more
            return true;
        }
        match self.ops.remove(op.0) {
            Some(Pending::Receive { outcome: None, .. }) => self.withdraw(op),
            Some(Pending::Lent(loan, _)) => loan.let_go(),
            _ => {}
        }
        true
    }

    fn revoke(&self, op: Op) {
        match self.ops.remove(op.0) {
            Some(Pending::Receive { outcome: None, .. }) => self.withdraw(op),
            Some(Pending::Lent(loan, _)) => drop(loan.take_back()),
            _ => {}
        }
    }
}

impl LocalEngine {
    pub(super) fn surroundings(&self) -> Ctx<'_> {
        let accept_queue = &self.job.accept_queues[self.rank];
        Ctx { parking: &self.job.parking, accept_queue, ops: &self.ops }
    }

    /// What a message to `to` is matched by, and the world rank of its receiver.
    #[inline(always)]
    fn address(&self, to: &Target) -> Result<(Key, usize), Fault> {
        self.with_members(to.context, |members| {
            let space = Space { context: members.context, step: to.label.is_step() };
            let key = Key { space, source: members.me, tag: to.tag };
            (key, members.ranks[to.rank.index()])
        })
    }

    /// What a receive from `from` wants, and the world rank of the sender if that is known.
    #[inline(always)]
    fn wanted(&self, from: &Source) -> Result<(Wanted, Option<usize>), Fault> {
        self.with_members(from.context, |members| {
            let space = Space { context: members.context, step: from.label.is_step() };
            let wanted = Wanted { space, choice: from.choice };
            (wanted, from.choice.rank().map(|rank| members.ranks[rank.index()]))
        })
    }

    /// Waits until `ready`, which depends on what others `wake` this rank after. Meanwhile the
    /// posted receives are served: a sender may wait for one of them.
    #[inline]
    pub(super) fn await_ready(
        &self,
        call: impl Fn() -> Call,
        until: Option<Duration>,
        mut ready: impl FnMut() -> bool,
    ) -> Result<bool, Fault> {
        let ctx = self.surroundings();
        let endpoint = &mut *self.endpoint.borrow_mut();
        let until = until.and_then(|until| self.job.started.checked_add(until));
        self.job.parking.wait_until(self.rank, call, until, || {
            endpoint.progress(ctx);
            ready()
        })
    }

    /// Sends a copy of `bytes`, or lends them: `memory` is asked for them then.
    #[inline]
    fn dispatch(
        &self,
        to: &Target,
        mode: Mode,
        bytes: &[u8],
        memory: impl FnOnce() -> Memory,
    ) -> Result<Option<Arc<Loan>>, Fault> {
        self.job.parking.check()?;
        let (key, receiver) = self.address(to)?;
        let at = self.call.get().at;
        let endpoint = &mut *self.endpoint.borrow_mut();
        let lane = endpoint.lane_to(receiver, self.rank, &self.job.accept_queues);
        let loan = if bytes.len() <= EAGER_BYTES && mode == Mode::Standard && !lane.is_long() {
            lane.copy(key, &to.label, at, bytes);
            None
        } else {
            let loan = endpoint.lend(Loan::new(memory(), to.label, at, self.rank));
            let lane = endpoint.lane_to(receiver, self.rank, &self.job.accept_queues);
            lane.lend(key, Arc::clone(&loan));
            Some(loan)
        };
        self.job.parking.wake(receiver);
        Ok(loan)
    }

    /// Sends `bytes`; what is lent stays so until the returned value is dropped.
    #[inline]
    fn start_send<'a>(
        &self,
        to: &Target,
        mode: Mode,
        bytes: &'a [u8],
    ) -> Result<Option<Lending<'a>>, Fault> {
        if mode == Mode::Standard
            && bytes.len() <= BUFFERED_BYTES
            && self.job.parking.is_oversubscribed()
        {
            // The receiver has to wait for this CPU: do not wait for the receiver.
            let copy = || Memory::Owned(Box::new(Outgoing(bytes.to_vec())));
            return self.dispatch(to, mode, bytes, copy).map(|_| None);
        }
        // SAFETY: `Lending` ends the loan before the borrow of `bytes` ends; it is not handed to
        // anyone who could forget it.
        let memory = || Memory::Read(unsafe { LentRead::new(bytes.as_ptr(), bytes.len()) });
        let loan = self.dispatch(to, mode, bytes, memory)?;
        Ok(loan.map(|loan| Lending { loan: Some(loan), bytes: PhantomData }))
    }

    /// Waits until the receiver has copied what was lent, or, if it is little and nobody takes it,
    /// leaves a copy.
    fn end_send(&self, mut lending: Lending<'_>, mode: Mode, bytes: usize) -> Result<(), Fault> {
        if mode == Mode::Standard && bytes <= BUFFERED_BYTES {
            let ctx = self.surroundings();
            let endpoint = &mut *self.endpoint.borrow_mut();
            let in_time = self.job.parking.watch(|| {
                endpoint.progress(ctx);
                lending.is_done()
            })?;
            if !in_time && lending.leave_copy() {
                // The loan lends its own copy now, and ends without us.
                return Ok(());
            }
        }
        self.await_ready(|| self.call.get(), None, || lending.is_done())?;
        self.endpoint.borrow_mut().recycle(lending.into_loan());
        Ok(())
    }

    /// Receives the message if it is there; what is wanted if not.
    #[inline(always)]
    fn begin_receive(
        &self,
        from: &Source,
        into: &mut [u8],
    ) -> Result<(Wanted, Option<Outcome>), Fault> {
        self.job.parking.check()?;
        let (wanted, sender) = self.wanted(from)?;
        let active = ActiveRecv { wanted: &wanted, sender, claim: Claim::Receive };
        let ctx = self.surroundings();
        let endpoint = &mut *self.endpoint.borrow_mut();
        let mut open =
            |key: &Key, parcel: Parcel<'_>| parcel.open(key, &from.label, into, ctx.parking);
        let outcome = match endpoint.take_unexpected(&active) {
            Some((key, parcel)) => Some(open(&key, parcel)),
            // What is posted comes first.
            None => endpoint
                .only_lane(sender)
                .and_then(|lane| endpoint.drain(lane, ctx, Some(&active), &mut open)),
        };
        Ok((wanted, outcome))
    }

    #[inline]
    fn is_done(&self, op: Op) -> bool {
        self.ops.with(op.0, |pending| pending.is_done()).unwrap_or(true)
    }

    /// Whether the operation is done, waiting for it if `wait`. It is gone if the job has failed
    /// meanwhile.
    #[inline]
    fn becomes_done(&self, op: Op, wait: bool) -> Result<bool, Fault> {
        if self.is_done(op) {
            return Ok(true);
        }
        if wait {
            let call = || {
                let started = self.ops.with(op.0, |pending| pending.call()).flatten();
                started.unwrap_or_else(|| self.call.get())
            };
            let done = self.await_ready(call, None, || self.is_done(op));
            return done.inspect_err(|_| self.revoke(op));
        }
        self.endpoint.borrow_mut().progress(self.surroundings());
        if self.is_done(op) {
            return Ok(true);
        }
        self.job.parking.check().inspect_err(|_| self.revoke(op)).map(|()| false)
    }

    /// The result of an operation that is done.
    fn conclude(&self, op: Op) -> Result<Done, Fault> {
        self.finished(self.ops.remove(op.0).ok_or(ErrorKind::Closed)?)
    }

    /// The result of an operation that is done.
    fn finished(&self, pending: Pending) -> Result<Done, Fault> {
        let (memory, received) = match pending {
            Pending::Sent(memory, _) => (memory, None),
            Pending::Lent(loan, _) => {
                let memory = loan.returned().ok_or(ErrorKind::Closed)?;
                self.endpoint.borrow_mut().recycle(Some(loan));
                (memory, None)
            }
            Pending::Receive { memory, outcome, .. } => {
                (memory, Some(outcome.ok_or(ErrorKind::Closed)??))
            }
            Pending::Exchange(part) => {
                let exchanged = Some(Box::new(part.collect()?));
                return Ok(Done { buffer: None, received: None, exchanged });
            }
        };
        Ok(Done { buffer: memory.into_owned(), received, exchanged: None })
    }

    fn withdraw(&self, op: Op) {
        self.endpoint.borrow_mut().queues.withdraw_posted(|&posted| posted == op.0);
    }

    /// Takes the first message that fits, waiting for one, if `wait`, until it is `enough`.
    fn look_for(
        &self,
        from: &Source,
        wait: bool,
        enough: impl Fn() -> bool,
    ) -> Result<Option<(Ticket, Received)>, Fault> {
        self.job.parking.check()?;
        let (wanted, sender) = self.wanted(from)?;
        let active = ActiveRecv { wanted: &wanted, sender, claim: Claim::Reserve };
        let ctx = self.surroundings();
        let endpoint = &mut *self.endpoint.borrow_mut();
        let mut found = endpoint.take_unexpected(&active);
        if found.is_none() {
            let mut look = || {
                found =
                    endpoint.progress_for(ctx, &active, &mut |key, parcel| (*key, parcel.keep()));
                found.is_some() || enough()
            };
            if wait {
                self.job.parking.wait_until(self.rank, || self.call.get(), None, look)?;
            } else {
                look();
            }
        }
        Ok(found.map(|(key, parcel)| {
            let received = Received { rank: key.source, tag: key.tag, bytes: parcel.len() };
            (Ticket(self.probed.insert(|| (key, parcel))), received)
        }))
    }
}
