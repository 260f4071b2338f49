//! The engine `mpi`: ranks are processes that an MPI launcher has started.
//!
//! rsmpi initialises and finalises the library; all else goes through its raw bindings, on
//! communicators of our own whose errors are returned (never through rsmpi's safe layer, which
//! ignores them). Every communicator of the program is two of MPI's: one for its messages and the
//! library's collectives, one for the steps of our own collectives.

mod collective;
mod communicator;
mod dynamic;
mod exchange;
mod guard;
mod init;
mod installed;
mod losses;
mod messages;
mod operations;
mod plans;
mod predictor;
mod program;
mod progress;
mod raw;
mod roll;
mod room;
mod shared;
mod transfer;
mod watch;
mod window;
mod wire;

use std::{
    any::Any,
    cell::{Cell, OnceCell, RefCell},
    collections::VecDeque,
    ffi::c_int,
    panic::Location,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use mpi::{environment::Universe, ffi};

use self::{
    collective::Operators,
    communicator::Communicator,
    guard::Guard,
    messages::{Probed, Route},
    operations::{Orphan, Pending},
    predictor::{Act, Form, Predictor},
    progress::UnderWay,
    raw::{blank_status, check},
    watch::Waiting,
};
pub(crate) use self::{
    init::{Common, Refused, Settings, Started, ThreadLevel, World},
    watch::{Stage, Standing, Watch},
};
use super::{
    About, CollectiveCall, Collectives, Context, Engine, Exchange, Groups, Installed, Label,
    Leftover, Op, Rank, Tag, table::Table,
};
use crate::{
    checks::Checks,
    error::{Call, ErrorKind, Fault, With},
};

/// Of a step's tag, the bits that say which call it belongs to by its number: no more can be under
/// way at once.
const SEQ_BITS: u32 = 18;

/// So many communicators are kept that the program has dropped: libraries have two thousand at
/// least.
const RETIRED: usize = 128;

/// Where fewer communicators are alive, something else is wrong if one cannot be made.
const MANY_PAIRS: usize = 256;

/// One process's hold of the job.
///
/// # Invariants
/// 1. The engine is made and used on the thread that initialised MPI (it is neither `Send` nor
///    `Sync`), as the thread level asks.
/// 2. After `finish`, and only then, MPI is finalised; `comms` and the tables are empty, and every
///    verb goes through one of them first, so that none calls a finalised library.
pub(crate) struct MpiEngine {
    universe: RefCell<Option<Universe>>,
    basis: Basis,
    /// By [`Context`].
    comms: RefCell<Vec<Option<Rc<CommPair>>>>,
    /// Communicators that are gone, with messages on them perhaps that `finish` must receive; the
    /// last ones.
    retired: RefCell<VecDeque<Rc<CommPair>>>,
    /// For the barrier at the end, where that is not on MPI's own world.
    ends: RefCell<Option<Communicator>>,
    /// For libraries that let messages overrun buffers.
    guard: Option<Guard>,
    /// The program's call that is being served.
    call: Cell<Call>,
    ops: Table<Pending>,
    /// Operations of several steps under way.
    staged: RefCell<Vec<UnderWay>>,
    /// What nobody will ask for.
    orphans: RefCell<Vec<Orphan>>,
    /// By [`WindowId`].
    windows: RefCell<Vec<Option<Rc<window::Window>>>>,
    probed: Table<Probed>,
    /// Whether ranks share CPUs; see [`progress`].
    oversubscribed: Cell<bool>,
    /// Whether the library's blocking calls keep others from running.
    yields: Cell<bool>,
    /// Whether to wait by looking again and again: while yielding, or while operations of several
    /// steps are under way.
    polls: Cell<bool>,
    /// Message comms of all threads.
    shared: RefCell<Vec<(Arc<shared::Shared>, Communicator)>>,
    leftovers: RefCell<Vec<Leftover>>,
    /// Who sees the calls of this rank, and how many there were.
    look: OnceCell<(Cell<u64>, Look)>,
}

type Look = Box<dyn Fn(u64)>;

/// What the library is, and what all ranks have agreed on: the same for all engines of a process, of
/// which there are several where ranks are lost.
#[derive(Clone)]
#[allow(clippy::struct_excessive_bools, reason = "each is a question of its own")]
struct Basis {
    about: About,
    max_tag: Tag,
    started: Instant,
    checks: Checks,
    timeout: Option<Duration>,
    common: Common,
    /// Whether any thread may call MPI at any time, on every rank.
    multiple: bool,
    /// Whether the job can go on without a lost rank.
    survives: bool,
    operators: Operators,
    /// Whether a receive from any rank may miss its message, which a matched probe does not: MPICH
    /// 5.0 over several hosts (its way `ucx`).
    misses_any: bool,
    /// Open MPI's only request of all that is over as soon as it is started; it is never freed.
    /// What is no other request need not be tested: a test takes a locked instruction in Open MPI
    /// 4.1 (30 ns).
    over_at_once: Option<ffi::MPI_Request>,
    /// Whether the library keeps its CPU while it waits, whoever needs it.
    spins: bool,
    watch: Option<Arc<Watch>>,
}

/// A communicator of the program.
struct CommPair {
    context: Context,
    /// For the program's messages, and for those of the library's collectives that do not wait.
    pt2pt: Communicator,
    /// For the library's collectives, and for the messages of our own.
    coll: Communicator,
    me: Rank,
    /// World ranks, in order.
    ranks: Box<[usize]>,
    predictor: Predictor,
}

impl MpiEngine {
    /// Makes one of the library's collective calls: `call` gets where to write a request, or
    /// nothing if it is to block.
    fn collectively(
        &self,
        call: impl FnOnce(Option<*mut ffi::MPI_Request>) -> c_int,
    ) -> Result<(), Fault> {
        // What does not wait is not made to survive losses: Open MPI 5.0 ends the process over it.
        if !self.yields.get() || self.basis.survives {
            let _waiting = self.waiting();
            return check(call(None));
        }
        // SAFETY: a constant of the library.
        let mut request = unsafe { ffi::RSMPI_REQUEST_NULL };
        check(call(Some(&raw mut request)))?;
        check(self.complete(&mut request, &mut blank_status()))
    }

    /// A communicator with the same ranks.
    fn duplicate(&self, comm: &Communicator) -> Result<Communicator, Fault> {
        comm.duplicate_by(self).map_err(|fault| self.no_communicator(*fault))
    }

    /// Why a communicator could not be made: libraries do not say that there are too many.
    fn no_communicator(&self, why: ErrorKind) -> Fault {
        let alive = self.comms.borrow().iter().flatten().count();
        match why {
            ErrorKind::Mpi { text, .. } if alive >= MANY_PAIRS => {
                ErrorKind::TooManyCommunicators { alive, text }.into()
            }
            other => other.into(),
        }
    }

    /// A context for the program's messages on a new communicator of MPI.
    fn open_pair(
        &self,
        pt2pt: Communicator,
        me: Rank,
        ranks: Box<[usize]>,
    ) -> Result<Context, Fault> {
        let coll = self.duplicate(&pt2pt)?;
        let mut comms = self.comms.borrow_mut();
        let context = Context(comms.len() as u32);
        let predictor = Predictor::new();
        comms.push(Some(Rc::new(CommPair { context, pt2pt, coll, me, ranks, predictor })));
        Ok(context)
    }

    fn pair(&self, context: Context) -> Result<Rc<CommPair>, Fault> {
        let comms = self.comms.borrow();
        comms.get(context.0 as usize).and_then(Clone::clone).ok_or_else(|| ErrorKind::Closed.into())
    }

    /// Where messages of the program (or steps of its collectives) go.
    fn route(&self, context: Context, step: bool) -> Result<Route, Fault> {
        let comms = self.comms.borrow();
        let Some(Some(pair)) = comms.get(context.0 as usize) else {
            return Err(ErrorKind::Closed.into());
        };
        Ok(pair.route(step, self.basis.checks))
    }

    fn waiting(&self) -> Option<Waiting<'_>> {
        self.basis.watch.as_deref().map(Watch::waiting)
    }
}

impl CommPair {
    fn route(&self, step: bool, checks: Checks) -> Route {
        let (comm, has_header) = if step {
            (self.coll.raw(), checks >= Checks::Collective)
        } else {
            (self.pt2pt.raw(), checks >= Checks::Full)
        };
        Route { comm, me: self.me, has_header }
    }
}

impl Engine for MpiEngine {
    fn about(&self) -> About {
        self.basis.about.clone()
    }

    fn installed(&self) -> Installed {
        installed::installed()
    }

    fn max_tag(&self) -> Tag {
        self.basis.max_tag
    }

    fn checks(&self) -> Checks {
        self.basis.checks
    }

    /// Where messages do not say which call they are a step of, their tag does, as far as there is
    /// room: those of another call are not taken for this one's.
    fn step_tag(&self, seq: u64, label: &Label) -> Tag {
        if self.basis.checks >= Checks::Collective {
            return Tag::of_call(seq, self.basis.max_tag);
        }
        // The largest tag is that of comparisons.
        let Tag(room) = self.basis.max_tag;
        let seq = (seq % (1 << SEQ_BITS)) as u32;
        let call = label.step.map_or(0, |step| wire::digest(step.call, label.signature));
        match room >> SEQ_BITS {
            0 => Tag(seq % room),
            calls => Tag((call % calls) << SEQ_BITS | seq),
        }
    }

    fn leaves_agreement(&self) -> bool {
        self.checks() >= Checks::Collective
    }

    fn enter(&self, op: &'static str, with: With, at: &'static Location<'static>) {
        let call = Call { op, with, at };
        self.call.set(call);
        if let Some(watch) = &self.basis.watch {
            watch.enter(call);
        }
        if let Some((calls, look)) = self.look.get() {
            look(calls.replace(calls.get() + 1));
        }
    }

    #[cfg(feature = "phdf5")]
    fn wait_elsewhere(&self, inside: bool) {
        if let Some(watch) = &self.basis.watch {
            watch.wait_elsewhere(inside);
        }
    }

    fn leftovers(&self) -> Vec<Leftover> {
        self.leftovers.take()
    }

    fn now(&self) -> Duration {
        self.basis.started.elapsed()
    }
}

impl Collectives for MpiEngine {
    fn collective(&self, call: &mut CollectiveCall<'_>) -> Option<Result<(), Fault>> {
        if let Some(watch) = &self.basis.watch {
            watch.note_bytes(call.what.bytes());
        }
        // Not by the library: MPICH 5.0 takes a message to oneself with the tag that it uses for
        // its own.
        if call.size == 1 && call.what.make_alone() {
            return Some(Ok(()));
        }
        let pair = match self.pair(call.context) {
            Ok(pair) => pair,
            Err(closed) => return Some(Err(closed)),
        };
        let act = Act::of(call);
        if let Err(disagreement) = self.same_call_on_all(&pair, &act) {
            return Some(Err(disagreement));
        }
        let outcome = collective::run(self, &pair, call);
        if let Some(Err(_)) = outcome {
            pair.predictor.break_off();
        }
        outcome
    }

    fn icollective(&self, call: Exchange) -> Result<Op, Fault> {
        exchange::start(self, call)
    }
}

impl Groups for MpiEngine {
    fn split(
        &self,
        parent: Context,
        _seq: u64,
        group: Option<(u32, &[Rank])>,
    ) -> Result<Option<Context>, Fault> {
        let parent = self.pair(parent)?;
        let place = |members: &[Rank]| members.iter().position(|&rank| rank == parent.me);
        let me = group.and_then(|(_, members)| place(members)).map(Rank::from);
        self.together(&parent, &Act::for_call(self.call.get(), Form::Derive, 0), || {
            let waiting = self.waiting();
            let color = group.map(|(group, _)| group);
            let new = parent.coll.split(color, me.map_or(0, |Rank(me)| me));
            let new = new.map_err(|fault| self.no_communicator(*fault))?;
            drop(waiting);
            let (Some(new), Some(me), Some((_, members))) = (new, me, group) else {
                return Ok(None);
            };
            let ranks = members.iter().map(|rank| parent.ranks[rank.index()]).collect();
            self.open_pair(new, me, ranks).map(Some)
        })
    }

    fn node(&self, context: Context, _seq: u64) -> Result<u32, Fault> {
        let _waiting = self.waiting();
        window::node(self, context)
    }

    fn release(&self, context: Context) {
        if context == Context::WORLD {
            return; // `finish` needs it
        }
        let pair = self.comms.borrow_mut().get_mut(context.0 as usize).and_then(Option::take);
        let mut retired = self.retired.borrow_mut();
        retired.extend(pair);
        if retired.len() > RETIRED
            && let Some(oldest) = retired.pop_front()
            && Rc::strong_count(&oldest) == 1 // no operation of ours waits for what is on it
            && let Err(error) = self.drain_pair(&oldest)
        {
            log::warn!("what is left on a communicator that is gone cannot be received: {error}");
        } // MPI's communicators go with the last operation on them
    }

    fn world_rank(&self, context: Context, rank: Rank) -> usize {
        self.pair(context).map_or(rank.index(), |pair| pair.ranks[rank.index()])
    }

    /// A communicator of MPI's.
    fn native_handle(&self, context: Context) -> Option<Result<Box<dyn Any>, Fault>> {
        let comm = self.pair(context).and_then(|pair| {
            let act = Act::for_call(self.call.get(), Form::File, 0);
            self.same_call_on_all(&pair, &act)
                .map(|()| -> Box<dyn Any> { Box::new(pair.coll.raw()) })
        });
        Some(comm)
    }
}
