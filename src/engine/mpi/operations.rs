//! Operations that go on while the program computes.

use std::{
    ffi::c_int,
    time::{Duration, Instant},
};

use mpi::ffi;

use super::{
    MpiEngine,
    guard::SMALL,
    losses,
    plans::Plan,
    raw::{blank_status, check},
    transfer::{Expected, Transfer, tested},
};
use crate::{
    datum::{LentRead, LentWrite, Memory},
    engine::{
        Begun, Done, Ended, Engine, Mode, Op, Operations, Preparation, Received, Source, Target,
    },
    error::{Call, ErrorKind, Fault},
};

/// How long a send of lent memory may still take when its lender wants it back.
const RECLAIM: Duration = Duration::from_secs(5);

/// What is behind an [`Op`].
pub(super) enum Pending {
    /// One that MPI works on.
    Transfer(Transfer),
    /// One of several steps.
    Staged(Stage, Call),
    /// One that is started often.
    Plan(Plan),
}

impl Pending {
    /// The program's call that has started it, unless that is over.
    pub(super) fn call(&self) -> Option<Call> {
        match self {
            Self::Transfer(transfer) => transfer.call,
            Self::Staged(Stage::UnderWay, call) => Some(*call),
            Self::Staged(Stage::Over(_), _) => None,
            Self::Plan(plan) => plan.call(),
        }
    }
}

/// What MPI works on though nobody will ask for it.
pub(super) enum Orphan {
    /// A send.
    Transfer(Transfer),
    Plan(Plan),
}

impl Orphan {
    pub(super) fn is_over(&mut self) -> bool {
        match self {
            Self::Transfer(transfer) => transfer.is_over(),
            Self::Plan(plan) => plan.is_over(),
        }
    }

    /// The program's call that has started it.
    pub(super) fn call(&self) -> Option<Call> {
        match self {
            Self::Transfer(transfer) => transfer.call,
            Self::Plan(plan) => plan.call(),
        }
    }
}

/// Where an operation of several steps stands.
pub(super) enum Stage {
    /// It is among the engine's [`MpiEngine::staged`].
    UnderWay,
    Over(Result<Done, Fault>),
}

impl Operations for MpiEngine {
    fn isend(&self, to: &Target, mode: Mode, memory: Memory) -> Result<Op, Fault> {
        let route = self.route(to.context, to.label.is_step())?;
        // SAFETY: memory (whose bytes keep their address) and head are kept in the table until the
        // request is complete.
        let (request, beside) = unsafe { self.start_send(route, to, mode, memory.bytes()) }?;
        let call = Some(self.call.get());
        let transfer = Transfer { request, memory, expects: None, beside, call };
        Ok(Op(self.ops.insert(|| Pending::Transfer(transfer))))
    }

    /// Starts to send lent bytes; `None` if MPI is done with them already.
    fn isend_lent(&self, to: &Target, mode: Mode, bytes: LentRead) -> Result<Option<Op>, Fault> {
        let route = self.route(to.context, to.label.is_step())?;
        // SAFETY: the bytes by their lender's promise, the head as it is kept in the table until
        // the request is complete.
        let (mut request, beside) = unsafe { self.start_send(route, to, mode, bytes.bytes()) }?;
        if self.basis.over_at_once == Some(request) {
            return Ok(None);
        }
        // A small message has left by now, most often.
        if bytes.len() <= SMALL && mode == Mode::Standard {
            match tested(&mut request) {
                Ok(None) => {}
                Ok(Some(_)) => return Ok(None),
                Err(error) => {
                    std::mem::forget(beside); // as after any failed send, see `Transfer::finished`
                    return Err(error);
                }
            }
        }
        Ok(Some(Op(self.ops.insert(|| {
            let memory = Memory::Read(bytes);
            Pending::Transfer(Transfer { request, memory, expects: None, beside, call: None })
        }))))
    }

    fn irecv(&self, from: &Source, mut memory: Memory) -> Result<Op, Fault> {
        let route = self.route(from.context, from.label.is_step())?;
        // SAFETY: as above.
        let (request, beside) = unsafe { self.start_recv(route, from, memory.bytes_mut()) }?;
        let (expects, call) = (Some(Expected::of(&from.label)), Some(self.call.get()));
        let transfer = Transfer { request, memory, expects, beside, call };
        Ok(Op(self.ops.insert(|| Pending::Transfer(transfer))))
    }

    fn test(&self, op: Op) -> Option<Result<Done, Fault>> {
        self.progress();
        let (mut done, mut status, mut code) = (0, blank_status(), 0);
        let look = self.ops.with(op.0, |pending| match pending {
            Pending::Staged(stage, _) => matches!(stage, Stage::Over(_)),
            Pending::Plan(_) => true,
            Pending::Transfer(Transfer { request, .. }) => {
                // SAFETY: a live request; MPI writes `done` and the status.
                code = unsafe { ffi::MPI_Test(request, &raw mut done, &raw mut status) };
                code = losses::over(code, request);
                done != 0 || check(code).is_err()
            }
        });
        match look {
            None => Some(Err(ErrorKind::Closed.into())),
            Some(false) => None,
            Some(true) => match self.ops.remove(op.0)? {
                Pending::Transfer(transfer) => Some(transfer.finished(self, code, &status)),
                Pending::Staged(Stage::Over(over), _) => Some(over),
                Pending::Staged(Stage::UnderWay, _) | Pending::Plan(_) => None,
            },
        }
    }

    fn wait(&self, op: Op) -> Result<Done, Fault> {
        if self.polls.get() {
            let _waiting = self.waiting();
            let goes_on =
                |pending: &mut Pending| matches!(pending, Pending::Staged(Stage::UnderWay, _));
            while self.ops.with(op.0, goes_on) == Some(true) {
                self.idle();
            }
        }
        match self.ops.remove(op.0) {
            Some(Pending::Transfer(transfer)) => self.await_transfer(transfer),
            Some(Pending::Staged(Stage::Over(over), _)) => over,
            // A plan has verbs of its own.
            Some(Pending::Staged(Stage::UnderWay, _) | Pending::Plan(_)) | None => {
                Err(ErrorKind::Closed.into())
            }
        }
    }

    #[allow(clippy::option_option, reason = "done or not, and a message received or not")]
    fn finish(&self, op: Op, wait: bool) -> Result<Option<Option<Received>>, Fault> {
        if !wait {
            self.progress();
        }
        let _waiting = wait.then(|| self.waiting());
        loop {
            let blocks = wait && !self.polls.get();
            // A transfer is completed where it is, and only what is small is handed on, see
            // `Table::insert`.
            let mut failed = None;
            let ended = self.ops.end(op.0, |pending| match pending {
                Pending::Transfer(transfer) => Some(match transfer.end(self, blocks)? {
                    Ok(received) => received,
                    Err(fault) => {
                        failed = Some(fault);
                        None
                    }
                }),
                Pending::Staged(..) | Pending::Plan(_) => None,
            });
            if let Some(received) = ended {
                return failed.map_or(Ok(Some(received)), Err);
            }
            let looked = self.ops.with(op.0, |pending| match pending {
                Pending::Plan(plan) => plan.look(blocks),
                Pending::Transfer(_) => Ok(None),
                Pending::Staged(..) => Err(ErrorKind::Closed.into()),
            });
            let found = looked.unwrap_or_else(|| Err(ErrorKind::Closed.into()))?;
            if found.is_some() || !wait {
                return Ok(found);
            }
            self.idle();
        }
    }

    fn wait_any(&self, ops: &[Op], until: Option<Duration>) -> Result<Option<usize>, Fault> {
        let _waiting = self.waiting();
        loop {
            self.progress();
            if let Some(found) = ops.iter().position(|&op| self.is_over(op)) {
                return Ok(Some(found));
            }
            if until.is_some_and(|until| self.now() >= until) {
                return Ok(None);
            }
            self.idle();
        }
    }

    fn cancel(&self, op: Op) -> Result<Ended, Fault> {
        let transfer = match self.ops.remove(op.0) {
            Some(Pending::Transfer(transfer)) => transfer,
            Some(Pending::Staged(Stage::Over(over), _)) => return over.map(Ended::Done),
            // Nobody needs what it brings, others need what it does.
            Some(Pending::Staged(Stage::UnderWay, _)) => return Ok(Ended::Cancelled(None)),
            Some(Pending::Plan(_)) | None => return Err(ErrorKind::Closed.into()),
        };
        if transfer.expects.is_none() {
            return self.await_transfer(transfer).map(Ended::Done); // no MPI takes a send back
        }
        self.withdraw(transfer)
    }

    /// Takes lent memory back, or ends the job.
    fn revoke(&self, op: Op) {
        match self.ops.remove(op.0) {
            Some(Pending::Transfer(mut transfer)) if transfer.expects.is_none() => {
                let call = transfer.call.unwrap_or_else(|| self.call.get());
                self.complete_or_abort(&mut transfer.request, call);
            }
            Some(pending) => self.give_up(pending),
            None => {}
        }
    }

    fn irecv_lent(&self, from: &Source, into: LentWrite) -> Result<Begun, Fault> {
        self.start_irecv_lent(from, into).map(Begun::UnderWay)
    }

    fn detach(&self, op: Op) {
        if let Some(pending) = self.ops.remove(op.0) {
            self.give_up(pending);
        }
    }

    fn prepare(&self, what: &Preparation<'_>) -> Result<Option<Op>, Fault> {
        self.prepare_operation(what)
    }

    fn start(&self, op: Op) -> Result<(), Fault> {
        self.start_prepared(op)
    }
}

impl MpiEngine {
    /// Starts to receive into lent bytes.
    pub(super) fn start_irecv_lent(&self, from: &Source, mut into: LentWrite) -> Result<Op, Fault> {
        let route = self.route(from.context, from.label.is_step())?;
        // SAFETY: as above, by the lender's promise.
        let (request, beside) = unsafe { self.start_recv(route, from, into.bytes_mut()) }?;
        let expects = Some(Expected::of(&from.label));
        Ok(Op(self.ops.insert(|| {
            let memory = Memory::Write(into);
            Pending::Transfer(Transfer { request, memory, expects, beside, call: None })
        })))
    }

    fn await_transfer(&self, mut transfer: Transfer) -> Result<Done, Fault> {
        let mut status = blank_status();
        let code = self.complete(&mut transfer.request, &mut status);
        transfer.finished(self, code, &status)
    }

    /// Whether waiting for the operation would return at once.
    pub(super) fn is_over(&self, op: Op) -> bool {
        let look = |pending: &mut Pending| match pending {
            Pending::Staged(stage, _) => matches!(stage, Stage::Over(_)),
            Pending::Plan(_) => true,
            Pending::Transfer(Transfer { request, .. }) => {
                let (mut done, mut status) = (0, blank_status());
                // SAFETY: a live request, which stays.
                let code = unsafe {
                    ffi::MPI_Request_get_status(*request, &raw mut done, &raw mut status)
                };
                done != 0 || check(code).is_err()
            }
        };
        self.ops.with(op.0, look).unwrap_or(true)
    }

    /// Takes a receive back unless a message has met it.
    fn withdraw(&self, mut transfer: Transfer) -> Result<Ended, Fault> {
        let (mut status, mut cancelled) = (blank_status(), 0);
        // SAFETY: a live request of a receive (or the null request of one that is over, which the
        // library refuses).
        let asked = unsafe { ffi::MPI_Cancel(&raw mut transfer.request) };
        // A cancelled receive completes, and one that has met a message too (MPI 4.1 §3.8.4).
        let code = self.complete(&mut transfer.request, &mut status);
        if check(asked).is_ok() && check(code).is_ok() {
            // SAFETY: a status that MPI has written.
            check(unsafe { ffi::MPI_Test_cancelled(&raw const status, &raw mut cancelled) })?;
        }
        if cancelled != 0 {
            return Ok(Ended::Cancelled(transfer.memory.into_owned()));
        }
        transfer.finished(self, code, &status).map(Ended::Done)
    }

    /// Nobody will ask for the operation: withdraws a receive, lets a send go on.
    pub(super) fn give_up(&self, pending: Pending) {
        match pending {
            Pending::Transfer(transfer) if transfer.expects.is_some() => {
                // What has come meanwhile is lost with its owner.
                drop(self.withdraw(transfer));
            }
            Pending::Transfer(transfer) => self.adopt(Orphan::Transfer(transfer)),
            Pending::Staged(..) => {}
            Pending::Plan(plan) => self.give_up_plan(plan),
        }
    }

    /// Keeps what nobody will ask for until MPI is done with it.
    pub(super) fn adopt(&self, mut orphan: Orphan) {
        if orphan.is_over() {
            return;
        }
        let mut orphans = self.orphans.borrow_mut();
        if orphans.len() == orphans.capacity() {
            orphans.retain_mut(|orphan| !orphan.is_over());
        }
        orphans.push(orphan);
    }

    /// Completes a request whose memory its lender wants back at once; ends the job if that takes
    /// too long.
    fn complete_or_abort(&self, request: &mut ffi::MPI_Request, call: Call) {
        let started = Instant::now();
        loop {
            let (mut done, mut status) = (0, blank_status());
            // SAFETY: a live request, whose memory is still lent.
            let code = unsafe { ffi::MPI_Test(request, &raw mut done, &raw mut status) };
            // What fails because a rank was lost is over.
            if done != 0 || losses::is_loss(code) {
                return;
            }
            let failed = code != ffi::MPI_SUCCESS as c_int;
            if failed || started.elapsed() > RECLAIM {
                log::error!(
                    "{call} ({}:{}) lends memory that its owner needs back, and this MPI cannot take back what nobody \
                     receives: the job ends",
                    call.at.file(),
                    call.at.line()
                );
                Self::abort(1);
            }
            self.idle();
        }
    }
}
