//! Operations that MPI prepares once and starts often.

use std::ffi::{c_int, c_void};

use mpi::ffi;

use super::{
    MpiEngine, collective,
    communicator::Communicator,
    guard,
    operations::{Orphan, Pending},
    predictor::{Act, Form},
    raw::{Extent, blank_status, check, made},
    transfer::{Expected, ended, landed, source, tag, tested},
};
use crate::{
    engine::{LentCollective, Mode, Op, Preparation, Received},
    error::{Call, ErrorKind, Fault},
};

/// A persistent request of MPI's.
pub(super) struct Plan {
    request: ffi::MPI_Request,
    /// The communicator of a collective, which has one of its own: ranks that start different ones,
    /// or one of them more often, wait for each other for ever, but get nothing that was meant for
    /// another.
    comm: Option<Communicator>,
    /// What a receive expects, into so many bytes.
    expects: Option<(Expected, usize)>,
    /// Of a guarded receive.
    apart: Option<Box<guard::Apart>>,
    under_way: bool,
    call: Call,
}

impl Plan {
    /// The call that has prepared it, while it is under way.
    pub(super) fn call(&self) -> Option<Call> {
        self.under_way.then_some(self.call)
    }

    /// Whether it is not under way, or no longer.
    pub(super) fn is_over(&mut self) -> bool {
        if self.under_way && tested(&mut self.request).is_ok_and(|status| status.is_some()) {
            self.under_way = false;
        }
        !self.under_way
    }
}

/// What MPI works on stays: Open MPI 4.1 does not keep a communicator by itself for a collective
/// that goes on.
impl Drop for Plan {
    fn drop(&mut self) {
        if self.under_way {
            return std::mem::forget((self.apart.take(), self.comm.take()));
        }
        // SAFETY: a live request that is not under way, freed once. There is nobody to tell of a
        // failure to free.
        unsafe { ffi::MPI_Request_free(&raw mut self.request) };
    }
}

impl MpiEngine {
    /// Prepares a message, where messages have no heads (one would be the same at every start), or
    /// a collective, where the library knows how.
    pub(super) fn prepare_operation(&self, what: &Preparation<'_>) -> Result<Option<Op>, Fault> {
        let (context, label) = match what {
            Preparation::Send { to, .. } => (to.context, &to.label),
            Preparation::Recv { from, .. } => (from.context, &from.label),
            // The library's own do not survive the loss of a rank.
            Preparation::Collective(_) if self.basis.survives => return Ok(None),
            Preparation::Collective(what) => return self.prepare_collective(what),
        };
        let route = self.route(context, label.is_step())?;
        if route.has_header {
            return Ok(None);
        }
        let (comm, call) = (route.comm, self.call.get());
        let plan = match what {
            Preparation::Send { to, mode, bytes } => {
                let Extent { count, unit, .. } = &Extent::bytes(bytes.len())?;
                let start = bytes.start().cast::<c_void>();
                let (rank, tag) = (to.rank.0 as c_int, to.tag.0 as c_int);
                // SAFETY: a live communicator; the bytes stay where they are as long as the
                // operation, by the promise of `Preparation`. MPI keeps a type of ours as long as
                // it needs it.
                let request = unsafe {
                    made(|made| match mode {
                        Mode::Standard => {
                            ffi::MPI_Send_init(start, *count, *unit, rank, tag, comm, made)
                        }
                        Mode::Synchronous => {
                            ffi::MPI_Ssend_init(start, *count, *unit, rank, tag, comm, made)
                        }
                    })
                }?;
                Plan { request, comm: None, expects: None, apart: None, under_way: false, call }
            }
            Preparation::Recv { from, bytes } => {
                let (start, room) = (bytes.start(), bytes.len());
                let mut apart = self.guard.as_ref().map(|_| Box::<guard::Apart>::default());
                let byte = apart.as_mut().map(|apart| apart.place());
                let extent = guard::room([(start, room)], byte)?;
                let Extent { count, unit, .. } = &extent;
                let (rank, tag) = (source(from.choice), tag(from.choice));
                // SAFETY: as above; the byte apart stays with the request.
                let request = unsafe {
                    made(|made| {
                        ffi::MPI_Recv_init(start.cast(), *count, *unit, rank, tag, comm, made)
                    })
                }?;
                let expects = Some((Expected::of(&from.label), room));
                Plan { request, comm: None, expects, apart, under_way: false, call }
            }
            Preparation::Collective(_) => return Ok(None),
        };
        Ok(Some(Op(self.ops.insert(|| Pending::Plan(plan)))))
    }

    fn prepare_collective(&self, what: &LentCollective<'_>) -> Result<Option<Op>, Fault> {
        let (pair, call) = (self.pair(what.context)?, self.call.get());
        let element = what.native().map(|(_, element)| element);
        let form = Form::Prepared(what.kind.number(), element);
        let act = Act::for_call(call, form, what.bytes());
        self.together(&pair, &act, || {
            let comm = self.duplicate(&pair.coll)?;
            // SAFETY: the memory stays where it is as long as the operation, by the promise of
            // `Preparation`.
            let request = unsafe { collective::prepare(self, &comm, what) };
            let Some(request) = request? else { return Ok(None) };
            let comm = Some(comm);
            let plan = Plan { request, comm, expects: None, apart: None, under_way: false, call };
            Ok(Some(Op(self.ops.insert(|| Pending::Plan(plan)))))
        })
    }

    pub(super) fn start_prepared(&self, op: Op) -> Result<(), Fault> {
        let start = |pending: &mut Pending| {
            let Pending::Plan(plan) = pending else { return Err(ErrorKind::Closed.into()) };
            // SAFETY: a live persistent request that is not under way.
            check(unsafe { ffi::MPI_Start(&raw mut plan.request) })?;
            plan.under_way = true;
            Ok(())
        };
        self.ops.with(op.0, start).unwrap_or_else(|| Err(ErrorKind::Closed.into()))
    }

    /// Ends a prepared operation; one that is under way goes on, unless it is a receive.
    pub(super) fn give_up_plan(&self, mut plan: Plan) {
        let mut status = blank_status();
        if plan.under_way && plan.expects.is_some() {
            // SAFETY: a live request of a receive; cancelled, it completes (MPI 4.1 §3.8.4).
            unsafe { ffi::MPI_Cancel(&raw mut plan.request) };
            self.complete(&mut plan.request, &mut status);
            plan.under_way = false;
        }
        self.adopt(Orphan::Plan(plan)); // the lender keeps the memory
    }
}

impl Plan {
    /// What there is to tell if it is done, or when it is, if `blocks`.
    #[allow(clippy::option_option, reason = "done or not, and a message received or not")]
    pub(super) fn look(&mut self, blocks: bool) -> Result<Option<Option<Received>>, Fault> {
        let mut status = blank_status();
        // SAFETY: a live persistent request; its memory stays by the promise of `Preparation`.
        let Some(code) = (unsafe { ended(&mut self.request, blocks, &mut status) }) else {
            return Ok(None);
        };
        self.under_way = false;
        match self.expects {
            None => check(code).map(|()| Some(None)),
            Some((expected, room)) => {
                landed(code, &status, room, expected).map(|received| Some(Some(received)))
            }
        }
    }
}
