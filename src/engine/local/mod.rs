//! The engine `local`: ranks are threads of one process.
//!
//! Every ordered pair of ranks that talk has a [lane](lane), every rank an [endpoint](endpoint)
//! where it matches what comes in with what it wants, and a parker in the [parking lot](parking)
//! where it waits. Small messages are copied into the lane and out of it (*eager*); larger ones are
//! lent: the receiver copies straight out of the sender's buffer ([rendezvous](rendezvous)).

mod coll_slots;
mod collective;
mod endpoint;
mod exchange;
mod lane;
mod message;
#[cfg(all(test, loom))]
mod models;
#[cfg(all(test, loom))]
mod models_collective;
mod parking;
mod registry;
mod rendezvous;
mod shared;
mod sync;
mod watch;
mod window;

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
    panic::Location,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use self::{
    endpoint::{AcceptQueue, Endpoint},
    parking::ParkingLot,
    registry::Registry,
    rendezvous::{Loan, Parcel},
    sync::{Mutex, lock},
    watch::Watch,
};
pub(crate) use self::{parking::Backoff, watch::Overdue};
use super::{
    About, CollectiveCall, Collectives, Context, Engine, Exchange, Groups, Label, Leftover, Op,
    Rank, Received, Shelf, Step, Tag, matching::Key, table::Table,
};
use crate::{
    datum::{Memory, Signature},
    error::{Call, ErrorKind, Fault, With},
};

/// What the ranks of one job share.
pub(crate) struct Job {
    parking: ParkingLot,
    /// By rank.
    accept_queues: Box<[AcceptQueue]>,
    /// The endpoints of ranks that have ended, for what was left on them.
    left: Mutex<Vec<(usize, Endpoint)>>,
    contexts: Mutex<Contexts>,
    exchanges: Registry<exchange::Contributions>,
    coll_slots: Registry<coll_slots::CollSlots>,
    regions: Registry<window::Region>,
    mailboxes: Registry<shared::Mailboxes>,
    shelves: Registry<Shelf>,
    failed: Mutex<Vec<FailedRank>>,
    started: Instant,
    /// Where waits have a time limit.
    watch: Option<Watch>,
}

/// A rank whose program has failed, and why.
#[derive(Clone, Debug)]
pub(crate) struct FailedRank {
    pub(crate) rank: usize,
    pub(crate) cause: String,
}

/// Agreement on the numbers of new contexts: the first rank of a group to ask fixes the number for
/// the others.
struct Contexts {
    next: u32,
    /// By parent, call and group: the number, and how many ranks have yet to ask.
    opening: HashMap<(u32, u64, u32), (u32, usize)>,
}

impl Job {
    /// A job of so many ranks.
    #[cfg_attr(not(test), allow(dead_code, reason = "the launch decides about the watch"))]
    pub(crate) fn new(ranks: usize, backoff: Backoff) -> Arc<Self> {
        Self::watched(ranks, backoff, false)
    }

    /// A job of so many ranks; whether its waits have a time limit.
    pub(crate) fn watched(ranks: usize, backoff: Backoff, limited: bool) -> Arc<Self> {
        Arc::new(Self {
            watch: limited.then(|| Watch::new(ranks)),
            parking: ParkingLot::new(ranks, backoff),
            accept_queues: (0..ranks).map(|_| AcceptQueue::new()).collect(),
            left: Mutex::new(Vec::new()),
            contexts: Mutex::new(Contexts { next: 1, opening: HashMap::new() }),
            exchanges: Registry::new(),
            coll_slots: Registry::new(),
            regions: Registry::new(),
            mailboxes: Registry::new(),
            shelves: Registry::new(),
            failed: Mutex::new(Vec::new()),
            started: Instant::now(),
        })
    }

    /// The engine of one rank, for the thread that is this rank.
    pub(crate) fn engine(self: &Arc<Self>, rank: usize) -> LocalEngine {
        self.watch.as_ref().inspect(|watch| watch.begin(rank));
        let members = (0..self.accept_queues.len()).collect();
        let world = Rc::new(Members::new(0, Rank::from(rank), members));
        LocalEngine {
            job: Arc::clone(self),
            rank,
            call: Cell::new(Call::new("start", With::ALL)),
            members: RefCell::new(vec![Some(world)]),
            endpoint: RefCell::new(Endpoint::new()),
            ops: Table::new(),
            probed: Table::new(),
            windows: RefCell::new(Vec::new()),
        }
    }

    /// A rank has failed. That is a fact, and nothing follows from it here: what does is decided by
    /// whoever has started the ranks.
    pub(crate) fn note_failed(&self, rank: usize, cause: String) {
        lock(&self.failed).push(FailedRank { rank, cause });
    }

    /// The ranks that have failed, in the order in which they did.
    pub(crate) fn failed(&self) -> Vec<FailedRank> {
        lock(&self.failed).clone()
    }

    /// The job ends because of this rank: all others are told, wherever they wait.
    pub(crate) fn end(&self, FailedRank { rank, cause }: FailedRank) {
        self.parking.end(ErrorKind::Aborted { rank, cause });
    }

    /// No rank waits for another any more, because this one is lost: as [`Self::end`], but the
    /// program may go on, in a job of other ranks.
    pub(crate) fn end_lost(&self, FailedRank { rank, cause }: FailedRank) {
        self.parking.end(ErrorKind::RankLost { rank: Some(rank), cause });
    }

    /// From now on `look` sees each call of each rank, on that rank's thread, before it is made: the
    /// rank, and the number of the call among its own. Of jobs that are watched.
    pub(crate) fn look_at_calls(&self, look: impl Fn(usize, u64) + Send + Sync + 'static) {
        self.watch.as_ref().inspect(|watch| watch.look_at_calls(Box::new(look)));
    }

    /// The rank that waits for longer than `limit`, unless the job has ended; also in what is no
    /// call of ours, if the process has been `idle` for so long.
    pub(crate) fn overdue(&self, limit: Duration, idle: bool) -> Option<Overdue> {
        self.parking.check().ok()?;
        self.watch.as_ref()?.overdue(limit, idle, &self.parking.rank_states())
    }

    /// A rank's program has returned.
    pub(crate) fn finish(&self, rank: usize) {
        self.parking.finish(rank);
    }

    /// The messages that nobody received, when all ranks have ended; none if the job has failed.
    pub(crate) fn leftovers(&self) -> Vec<Leftover> {
        if self.parking.check().is_err() {
            return Vec::new();
        }
        let mut endpoints = lock(&self.left);
        endpoints.sort_by_key(|(rank, _)| *rank);
        let each = |(rank, endpoint): &mut (usize, Endpoint)| {
            endpoint.leftovers(*rank, &self.accept_queues[*rank])
        };
        endpoints.iter_mut().flat_map(each).collect()
    }
}

/// One rank's hold of the job.
pub(crate) struct LocalEngine {
    job: Arc<Job>,
    rank: usize,
    call: Cell<Call>,
    /// By [`Context`].
    members: RefCell<Vec<Option<Rc<Members>>>>,
    endpoint: RefCell<Endpoint>,
    ops: Table<Pending>,
    probed: Table<(Key, Parcel<'static>)>,
    /// By [`WindowId`].
    windows: RefCell<Vec<Option<window::Window>>>,
}

impl Drop for LocalEngine {
    fn drop(&mut self) {
        let endpoint = self.endpoint.replace(Endpoint::new());
        lock(&self.job.left).push((self.rank, endpoint));
    }
}

/// The ranks of a communicator.
struct Members {
    /// The job-wide number of the communicator.
    context: u32,
    me: Rank,
    /// World ranks, in order.
    ranks: Box<[usize]>,
    member: OnceCell<coll_slots::Member>,
}

impl Members {
    fn new(context: u32, me: Rank, ranks: Box<[usize]>) -> Self {
        Self { context, me, ranks, member: OnceCell::new() }
    }
}

/// A non-blocking operation, and the call that started it: none where it is never left unfinished.
enum Pending {
    /// Sent by copy.
    Sent(Memory, Call),
    /// Lent to the receiver.
    Lent(Arc<Loan>, Option<Call>),
    /// Posted while there is no outcome.
    Receive {
        memory: Memory,
        signature: Signature,
        /// Of a step of a collective, which none is that is posted now; they would not fit into two
        /// cache lines.
        step: Option<Box<Step>>,
        outcome: Option<Result<Received, Fault>>,
        call: Option<Call>,
    },
    /// A part in a non-blocking collective.
    Exchange(exchange::Part),
}

impl Pending {
    fn is_done(&self) -> bool {
        match self {
            Self::Sent(..) => true,
            Self::Lent(loan, _) => loan.is_done(),
            Self::Receive { outcome, .. } => outcome.is_some(),
            Self::Exchange(part) => part.is_done(),
        }
    }

    /// The call that started it.
    fn call(&self) -> Option<Call> {
        match self {
            Self::Sent(_, call) => Some(*call),
            Self::Lent(_, call) | Self::Receive { call, .. } => *call,
            Self::Exchange(part) => Some(part.call),
        }
    }

    /// Takes the message that a posted receive has met.
    #[inline]
    fn receive(&mut self, key: &Key, parcel: &Parcel<'_>, parking: &ParkingLot) {
        if let Self::Receive { memory, signature, step, outcome, .. } = self {
            let label = Label { signature: *signature, step: step.as_deref().copied() };
            let opened = parcel.open(key, &label, memory.bytes_mut(), parking);
            *outcome = Some(opened);
        }
    }
}

impl LocalEngine {
    fn members(&self, context: Context) -> Result<Rc<Members>, Fault> {
        self.with_members(context, Rc::clone)
    }

    #[inline(always)]
    fn with_members<R>(
        &self,
        context: Context,
        look: impl FnOnce(&Rc<Members>) -> R,
    ) -> Result<R, Fault> {
        let members = self.members.borrow();
        let members = members.get(context.0 as usize).and_then(Option::as_ref);
        members.map(look).ok_or_else(|| ErrorKind::Closed.into())
    }
}

impl Engine for LocalEngine {
    fn about(&self) -> About {
        About { engine: "local", library: String::new(), thread_level: String::new() }
    }

    fn max_tag(&self) -> Tag {
        Tag(i32::MAX as u32)
    }

    fn enter(&self, op: &'static str, with: With, at: &'static Location<'static>) {
        let call = Call { op, with, at };
        self.call.set(call);
        if let Some(watch) = &self.job.watch {
            watch.enter(self.rank, call);
        }
    }

    fn leftovers(&self) -> Vec<Leftover> {
        let mut leftovers = Vec::new();
        self.ops.each(|pending| {
            leftovers.extend(pending.call().map(|call| Leftover::operation(self.rank, &call)));
        });
        leftovers
    }

    fn now(&self) -> Duration {
        self.job.started.elapsed()
    }
}

impl Collectives for LocalEngine {
    fn collective(&self, call: &mut CollectiveCall<'_>) -> Option<Result<(), Fault>> {
        collective::run(self, call)
    }

    fn icollective(&self, call: Exchange) -> Result<Op, Fault> {
        exchange::start(self, call)
    }
}

impl Groups for LocalEngine {
    fn split(
        &self,
        parent: Context,
        seq: u64,
        group: Option<(u32, &[Rank])>,
    ) -> Result<Option<Context>, Fault> {
        let Some((group, members)) = group else { return Ok(None) };
        let parent = self.members(parent)?;
        let context = lock(&self.job.contexts).open((parent.context, seq, group), members.len());
        let ranks = members.iter().map(|rank| parent.ranks[rank.index()]).collect();
        let me = members.iter().position(|&rank| rank == parent.me).ok_or(ErrorKind::Closed)?;
        let mut table = self.members.borrow_mut();
        table.push(Some(Rc::new(Members::new(context, Rank::from(me), ranks))));
        Ok(Some(Context(table.len() as u32 - 1)))
    }

    fn shelf(&self, context: Context, seq: u64) -> Result<Option<Arc<Shelf>>, Fault> {
        let members = self.members(context)?;
        let ranks = members.ranks.len();
        let shelf = self.job.shelves.join((members.context, seq), ranks, || Shelf::new(ranks));
        Ok(Some(shelf))
    }

    fn release(&self, context: Context) {
        if let Some(members) = self.members.borrow_mut().get_mut(context.0 as usize) {
            *members = None;
        }
    }

    fn world_rank(&self, context: Context, rank: Rank) -> usize {
        self.members(context).map_or(rank.index(), |members| members.ranks[rank.index()])
    }
}

impl Contexts {
    fn open(&mut self, key: (u32, u64, u32), ranks: usize) -> u32 {
        let next = &mut self.next;
        let opening = self.opening.entry(key).or_insert_with(|| {
            *next += 1;
            (*next - 1, ranks)
        });
        opening.1 -= 1;
        let (context, left) = *opening;
        if left == 0 {
            self.opening.remove(&key);
        }
        context
    }
}
