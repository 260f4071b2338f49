//! The engine `local`: ranks are threads of one process.
//!
//! Every rank has an inbox (the two queues of [`matching`](super::matching) under a lock) and a seat in the
//! [hall](hall). Whoever comes last to a message moves it: a sender that finds a posted receive copies straight into the
//! receiver's buffer; a receiver that finds a message copies it out of the queue (small, *eager*) or straight out of the
//! sender's buffer (large, *rendezvous*).

mod collective;
mod exchange;
mod hall;
mod handoff;
mod meeting;
#[cfg(all(test, loom))]
mod models;
mod shared;
mod sync;
mod window;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

pub(crate) use self::hall::Patience;
use self::{
    hall::Hall,
    handoff::{Body, Loan, Parcel, Posting, Slot},
    meeting::Meetings,
    sync::{Mutex, lock},
};
use super::{
    About, Access, CollectiveCall, Context, Done, Ended, Engine, Exchange, Label, Leftover, Mode,
    Op, Rank, Received, Rma, SharedEngine, Source, Tag, Target, Ticket, WindowId,
    matching::{Key, Queues, Space, Wanted},
    table::Table,
};
use crate::{
    checks::Checks,
    datum::{Memory, RawBytes},
    error::{Call, ErrorKind, With},
};

/// Messages up to this size are copied when sent and the sender goes on; larger ones wait for their receiver.
const EAGER_BYTES: usize = if cfg!(loom) { 4 } else { 8 * 1024 };

/// What the ranks of one job share.
pub(crate) struct Job {
    hall: Hall,
    inboxes: Box<[Inbox]>,
    contexts: Mutex<Contexts>,
    exchanges: Meetings<exchange::Cell>,
    started: Instant,
}

/// The messages for one rank, and the receives it has posted; on cache lines of its own.
#[repr(align(128))]
struct Inbox(Mutex<Queues<Parcel, Posting>>);

/// Agreement on the numbers of new contexts: the first rank of a group to ask fixes the number for the others.
struct Contexts {
    next: u32,
    /// By parent, turn and group: the number, and how many ranks have yet to ask.
    opening: HashMap<(u32, u64, u32), (u32, usize)>,
}

impl Job {
    /// A job of so many ranks.
    pub(crate) fn new(ranks: usize, patience: Patience) -> Arc<Self> {
        let inbox = || Inbox(Mutex::new(Queues::new()));
        Arc::new(Self {
            hall: Hall::new(ranks, patience),
            inboxes: (0..ranks).map(|_| inbox()).collect(),
            contexts: Mutex::new(Contexts { next: 1, opening: HashMap::new() }),
            exchanges: Meetings::new(),
            started: Instant::now(),
        })
    }

    /// The engine of one rank, for the thread that is this rank.
    pub(crate) fn engine(self: &Arc<Self>, rank: usize) -> LocalEngine {
        let members = (0..self.inboxes.len()).collect();
        let world = Rc::new(Members { context: 0, me: Rank::from(rank), ranks: members });
        LocalEngine {
            job: Arc::clone(self),
            rank,
            call: Cell::new(Call::new("start", With::All)),
            members: RefCell::new(vec![Some(world)]),
            ops: Table::new(),
            probed: Table::new(),
        }
    }

    /// A rank has failed: all others are told, wherever they wait.
    pub(crate) fn fail(&self, rank: usize, cause: String) {
        self.hall.end(ErrorKind::Aborted { rank, cause });
    }

    /// A rank's program has returned.
    pub(crate) fn finish(&self, rank: usize) {
        self.hall.finish(rank);
    }

    /// The messages that nobody received, when all ranks have ended; none if the job has failed.
    pub(crate) fn leftovers(&self) -> Vec<Leftover> {
        let mut leftovers = Vec::new();
        if self.hall.check().is_err() {
            return leftovers;
        }
        for (rank, Inbox(inbox)) in self.inboxes.iter().enumerate() {
            for (key, parcel) in lock(inbox).unexpected().filter(|(key, _)| !key.space.step) {
                leftovers.push(Leftover::message(rank, key, parcel.len(), parcel.at));
            }
        }
        leftovers
    }
}

/// One rank's hold of the job.
pub(crate) struct LocalEngine {
    job: Arc<Job>,
    rank: usize,
    call: Cell<Call>,
    /// By [`Context`].
    members: RefCell<Vec<Option<Rc<Members>>>>,
    ops: Table<Pending>,
    probed: Table<(Key, Parcel)>,
}

/// The ranks of a communicator.
struct Members {
    /// The job-wide number of the communicator.
    context: u32,
    me: Rank,
    /// World ranks, in order.
    ranks: Box<[usize]>,
}

/// A non-blocking operation.
enum Pending {
    /// Sent by copy.
    Sent(Memory, Call),
    /// Lent to the receiver of this world rank, for the call that sent it.
    Lent(Arc<Loan>, Call, usize),
    /// Received at once.
    Received(Result<Received, ErrorKind>, Memory, Call),
    /// Posted, by the call.
    Posted(Arc<Slot>, Call),
    /// A part in a non-blocking collective.
    Exchange(exchange::Part),
}

/// How a message was sent.
enum Sent {
    ByCopy,
    Lent(Arc<Loan>),
}

impl LocalEngine {
    fn members(&self, context: Context) -> Result<Rc<Members>, ErrorKind> {
        let members = self.members.borrow();
        members.get(context.0 as usize).and_then(Clone::clone).ok_or(ErrorKind::Closed)
    }

    fn inbox(&self, world: usize) -> &Mutex<Queues<Parcel, Posting>> {
        &self.job.inboxes[world].0
    }

    fn wanted(&self, from: &Source) -> Result<Wanted, ErrorKind> {
        let space =
            Space { context: self.members(from.context)?.context, step: from.label.is_step() };
        Ok(Wanted { space, source: from.rank, tag: from.tag })
    }

    /// Gives a message to the receive that waits for it, or puts it into the receiver's inbox.
    fn deliver(
        &self,
        to: &Target,
        mode: Mode,
        bytes: &[u8],
        lend: impl FnOnce() -> (Arc<Loan>, handoff::Claim),
    ) -> Result<(Sent, usize), ErrorKind> {
        self.job.hall.check()?;
        let members = self.members(to.context)?;
        let receiver = members.ranks[to.rank.index()];
        let space = Space { context: members.context, step: to.label.is_step() };
        let key = Key { space, source: members.me, tag: to.tag };
        let at = self.call.get().at;
        let mut inbox = lock(self.inbox(receiver));
        let sent = if let Some(posting) = inbox.take_posted(&key) {
            drop(inbox);
            posting.fill(&key, &to.label, bytes);
            Sent::ByCopy
        } else if bytes.len() <= EAGER_BYTES && mode == Mode::Standard {
            inbox.keep(key, Parcel { label: to.label, at, body: Body::Copied(bytes.into()) });
            drop(inbox);
            Sent::ByCopy
        } else {
            let (loan, claim) = lend();
            inbox.keep(key, Parcel { label: to.label, at, body: Body::Lent(claim) });
            drop(inbox);
            Sent::Lent(loan)
        };
        self.job.hall.notify(receiver);
        Ok((sent, receiver))
    }

    /// Waits until the receiver has copied a loan; takes the loan back if the job fails first.
    fn await_loan(&self, loan: &Arc<Loan>, receiver: usize) -> Result<(), ErrorKind> {
        let waited = self.job.hall.wait(self.rank, &self.call.get(), || loan.is_done());
        if waited.is_err() {
            self.withdraw_loan(loan, receiver);
        }
        waited
    }

    /// Afterwards the receiver does not read the loan any more; whether it never did.
    fn withdraw_loan(&self, loan: &Arc<Loan>, receiver: usize) -> bool {
        let is_it = |parcel: &Parcel| match &parcel.body {
            Body::Lent(claim) => claim.is_of(loan),
            Body::Copied(_) => false,
        };
        let withdrawn = lock(self.inbox(receiver)).withdraw_unexpected(is_it);
        if !withdrawn {
            loan.await_copy();
        }
        withdrawn
    }

    /// Takes a message that is there, or posts the slot that `offer` makes.
    fn take_or_post(
        &self,
        from: &Source,
        offer: impl FnOnce() -> (Arc<Slot>, Posting),
    ) -> Result<Result<(Key, Parcel), Arc<Slot>>, ErrorKind> {
        self.job.hall.check()?;
        let wanted = self.wanted(from)?;
        let mut inbox = lock(self.inbox(self.rank));
        if let Some(found) = inbox.take_unexpected(&wanted) {
            return Ok(Ok(found));
        }
        let (slot, posting) = offer();
        inbox.post(wanted, posting);
        Ok(Err(slot))
    }

    /// Posts a receive into `into`, or receives at once.
    ///
    /// # Safety
    /// The caller ends with [`Self::await_slot`] before it gives `into` back, whatever happens in between.
    unsafe fn start_recv(
        &self,
        from: &Source,
        into: &mut [u8],
    ) -> Result<Result<Received, Arc<Slot>>, ErrorKind> {
        // SAFETY: the slot's memory is left alone until `await_slot`, by this function's own contract.
        let posted = self.take_or_post(from, || unsafe { Slot::borrowed(into, from.label) })?;
        match posted {
            Ok((key, parcel)) => parcel.open(&key, &from.label, into, &self.job.hall).map(Ok),
            Err(slot) => Ok(Err(slot)),
        }
    }

    /// Waits until a sender has filled the slot; withdraws the slot if the job fails first.
    fn await_slot(&self, slot: &Arc<Slot>) -> Result<Received, ErrorKind> {
        let waited = self.job.hall.wait(self.rank, &self.call.get(), || slot.is_done());
        self.settle(slot, waited)
    }

    fn settle(
        &self,
        slot: &Arc<Slot>,
        waited: Result<(), ErrorKind>,
    ) -> Result<Received, ErrorKind> {
        if let Err(verdict) = waited {
            self.withdraw(slot);
            return Err(verdict);
        }
        slot.take_back().map_or(Err(ErrorKind::Closed), |(outcome, _)| outcome)
    }

    /// Afterwards no sender touches the slot's memory any more; whether none ever did.
    fn withdraw(&self, slot: &Arc<Slot>) -> bool {
        let withdrawn = lock(self.inbox(self.rank)).withdraw_posted(|posting| posting.is_of(slot));
        if !withdrawn {
            slot.await_copy();
        }
        withdrawn
    }

    /// Afterwards no other rank touches the operation's memory any more, whether or not it has.
    fn take_back(&self, pending: Pending) {
        match pending {
            Pending::Posted(slot, _) => drop(self.withdraw(&slot)),
            Pending::Lent(loan, _, receiver) => drop(self.withdraw_loan(&loan, receiver)),
            Pending::Sent(..) | Pending::Received(..) | Pending::Exchange(_) => {}
        }
    }

    /// The result of an operation that is done.
    fn finished(pending: Pending) -> Result<Done, ErrorKind> {
        match pending {
            Pending::Sent(memory, _) => Ok(done(memory, None)),
            Pending::Lent(loan, ..) => Ok(done(loan.take_back().ok_or(ErrorKind::Closed)?, None)),
            Pending::Received(outcome, memory, _) => Ok(done(memory, Some(outcome?))),
            Pending::Posted(slot, _) => {
                let (outcome, memory) = slot.take_back().ok_or(ErrorKind::Closed)?;
                Ok(done(memory.ok_or(ErrorKind::Closed)?, Some(outcome?)))
            }
            Pending::Exchange(part) => {
                let exchanged = Some(part.collect()?);
                Ok(Done { buffer: None, received: None, exchanged })
            }
        }
    }
}

fn done(memory: Memory, received: Option<Received>) -> Done {
    Done { buffer: memory.into_owned(), received, exchanged: None }
}

impl Pending {
    fn is_done(&self) -> bool {
        match self {
            Self::Sent(..) | Self::Received(..) => true,
            Self::Lent(loan, ..) => loan.is_done(),
            Self::Posted(slot, _) => slot.is_done(),
            Self::Exchange(part) => part.is_done(),
        }
    }

    /// The call that started it.
    fn call(&self) -> Call {
        match self {
            Self::Sent(_, call) | Self::Received(_, _, call) => *call,
            Self::Lent(_, call, _) | Self::Posted(_, call) => *call,
            Self::Exchange(part) => part.call,
        }
    }
}

impl Engine for LocalEngine {
    fn about(&self) -> About {
        About { engine: "local", library: String::new(), thread_level: String::new() }
    }

    fn max_tag(&self) -> Tag {
        Tag(i32::MAX as u32)
    }

    fn checks(&self) -> Checks {
        Checks::Full
    }

    fn enter(&self, call: Call) {
        self.call.set(call);
    }

    fn send(&self, to: &Target, mode: Mode, bytes: &[u8]) -> Result<(), ErrorKind> {
        // SAFETY: `await_loan` below returns only when the loan is done or has been taken back; between here and there is
        // no way out that leaves a loan in the inbox, and `bytes` is borrowed throughout.
        let lend = || unsafe { Loan::borrowed(bytes, self.rank) };
        match self.deliver(to, mode, bytes, lend)? {
            (Sent::ByCopy, _) => Ok(()),
            (Sent::Lent(loan), receiver) => self.await_loan(&loan, receiver),
        }
    }

    fn recv(&self, from: &Source, into: &mut [u8]) -> Result<Received, ErrorKind> {
        // SAFETY: the slot is awaited at once.
        match unsafe { self.start_recv(from, into) }? {
            Ok(received) => Ok(received),
            Err(slot) => self.await_slot(&slot),
        }
    }

    fn sendrecv(
        &self,
        to: &Target,
        bytes: &[u8],
        from: &Source,
        into: &mut [u8],
    ) -> Result<Received, ErrorKind> {
        // SAFETY: the slot is awaited below, also when sending fails.
        let started = unsafe { self.start_recv(from, into) };
        // A message that is refused is no reason to keep the other rank waiting for this one's.
        let sent = self.send(to, Mode::Standard, bytes);
        match started? {
            Ok(received) => sent.map(|()| received),
            Err(slot) if sent.is_ok() => self.await_slot(&slot),
            Err(slot) => self.settle(&slot, sent),
        }
    }

    fn isend(&self, to: &Target, mode: Mode, memory: Memory) -> Result<Op, ErrorKind> {
        let call = self.call.get();
        let mut buffer = Some(memory);
        let bytes: *const [u8] = buffer.as_ref().map_or(&[], |memory| memory.bytes());
        let lend = || Loan::owned(buffer.take().expect("a buffer is lent once"), self.rank);
        // SAFETY: the bytes lie in the buffer's own memory, which stays where it is when the box moves into the loan
        // (contract of `Buffer`); `deliver` does not look at them after lending.
        let sent = self.deliver(to, mode, unsafe { &*bytes }, lend)?;
        let pending = match (sent, buffer) {
            ((Sent::Lent(loan), receiver), _) => Pending::Lent(loan, call, receiver),
            ((Sent::ByCopy, _), Some(buffer)) => Pending::Sent(buffer, call),
            ((Sent::ByCopy, _), None) => return Err(ErrorKind::Closed),
        };
        Ok(Op(self.ops.insert(pending)))
    }

    fn irecv(&self, from: &Source, memory: Memory) -> Result<Op, ErrorKind> {
        let call = self.call.get();
        let mut buffer = Some(memory);
        let offer = || Slot::owned(buffer.take().expect("a buffer is offered once"), from.label);
        let pending = match (self.take_or_post(from, offer)?, buffer) {
            (Ok((key, parcel)), Some(mut buffer)) => {
                let outcome = parcel.open(&key, &from.label, buffer.bytes_mut(), &self.job.hall);
                Pending::Received(outcome, buffer, call)
            }
            (Err(slot), _) => Pending::Posted(slot, call),
            (Ok(_), None) => return Err(ErrorKind::Closed),
        };
        Ok(Op(self.ops.insert(pending)))
    }

    fn test(&self, op: Op) -> Option<Result<Done, ErrorKind>> {
        match self.ops.with(op.0, |pending| pending.is_done()) {
            None => Some(Err(ErrorKind::Closed)),
            Some(true) => self.ops.remove(op.0).map(Self::finished),
            Some(false) => {
                let verdict = self.job.hall.check().err()?;
                self.retract(op);
                Some(Err(verdict))
            }
        }
    }

    fn wait(&self, op: Op) -> Result<Done, ErrorKind> {
        let pending = self.ops.remove(op.0).ok_or(ErrorKind::Closed)?;
        if !pending.is_done() {
            let waited = self.job.hall.wait(self.rank, &pending.call(), || pending.is_done());
            if let Err(verdict) = waited {
                self.take_back(pending);
                return Err(verdict);
            }
        }
        Self::finished(pending)
    }

    fn wait_any(&self, ops: &[Op], until: Option<Instant>) -> Result<Option<usize>, ErrorKind> {
        let is_done = |op: &Op| self.ops.with(op.0, |pending| pending.is_done()).unwrap_or(true);
        let mut found = None;
        self.job.hall.wait_until(self.rank, &self.call.get(), until, || {
            found = ops.iter().position(is_done);
            found.is_some()
        })?;
        Ok(found)
    }

    fn cancel(&self, op: Op) -> Result<Ended, ErrorKind> {
        let pending = self.ops.remove(op.0).ok_or(ErrorKind::Closed)?;
        let cancelled = match &pending {
            // SAFETY: the posting has been withdrawn.
            Pending::Posted(slot, _) => {
                self.withdraw(slot).then(|| unsafe { slot.take_withdrawn() })
            }
            Pending::Lent(loan, _, receiver) => {
                // SAFETY: the claim has been withdrawn.
                self.withdraw_loan(loan, *receiver).then(|| unsafe { loan.take_withdrawn() })
            }
            Pending::Sent(..) | Pending::Received(..) | Pending::Exchange(_) => None,
        };
        match cancelled {
            Some(memory) => Ok(Ended::Cancelled(memory.and_then(Memory::into_owned))),
            None => Self::finished(pending).map(Ended::Done),
        }
    }

    fn forsake(&self, op: Op) {
        if let Some(Pending::Posted(slot, _)) = self.ops.remove(op.0) {
            self.withdraw(&slot);
        }
    }

    fn retract(&self, op: Op) {
        if let Some(pending) = self.ops.remove(op.0) {
            self.take_back(pending);
        }
    }

    fn probe(&self, from: &Source, wait: bool) -> Result<Option<(Ticket, Received)>, ErrorKind> {
        let wanted = self.wanted(from)?;
        let inbox = self.inbox(self.rank);
        if wait {
            let ready = || lock(inbox).has_unexpected(&wanted);
            self.job.hall.wait(self.rank, &self.call.get(), ready)?;
        } else {
            self.job.hall.check()?;
        }
        let Some((key, parcel)) = lock(inbox).take_unexpected(&wanted) else { return Ok(None) };
        let received = Received { rank: key.source, tag: key.tag, bytes: parcel.len() };
        Ok(Some((Ticket(self.probed.insert((key, parcel))), received)))
    }

    fn fetch(&self, message: Ticket, label: &Label, into: &mut [u8]) -> Result<(), ErrorKind> {
        let (key, parcel) = self.probed.remove(message.0).ok_or(ErrorKind::Closed)?;
        parcel.open(&key, label, into, &self.job.hall).map(drop)
    }

    fn discard(&self, message: Ticket) {
        if let Some((_, parcel)) = self.probed.remove(message.0) {
            parcel.discard(&self.job.hall);
        }
    }

    fn collective(&self, call: &mut CollectiveCall<'_>) -> Option<Result<(), ErrorKind>> {
        collective::run(self, call)
    }

    fn exchange(&self, call: Exchange) -> Result<Op, ErrorKind> {
        exchange::start(self, call)
    }

    fn derive_graph(
        &self,
        parent: Context,
        turn: u64,
        _sources: &[Rank],
        _destinations: &[Rank],
    ) -> Result<Context, ErrorKind> {
        let size = self.members(parent)?.ranks.len();
        let all: Vec<Rank> = (0..size).map(Rank::from).collect();
        self.derive(parent, turn, Some((0, &all)))?.ok_or(ErrorKind::Closed)
    }

    fn node(&self, _context: Context, _turn: u64) -> Result<u32, ErrorKind> {
        Ok(0)
    }

    fn open_window(
        &self,
        context: Context,
        turn: u64,
        bytes: usize,
        access: Access,
    ) -> Result<WindowId, ErrorKind> {
        window::open(self, context, turn, bytes, access)
    }

    fn window_part(&self, window: WindowId, rank: Rank) -> Result<RawBytes, ErrorKind> {
        window::part(self, window, rank)
    }

    fn access(
        &self,
        window: WindowId,
        target: Rank,
        offset: usize,
        what: Rma<'_>,
    ) -> Result<(), ErrorKind> {
        window::access(self, window, target, offset, what)
    }

    fn lock_part(&self, window: WindowId, target: Rank, exclusive: bool) -> Result<(), ErrorKind> {
        window::lock(self, window, target, exclusive)
    }

    fn unlock_part(&self, window: WindowId, target: Rank) -> Result<(), ErrorKind> {
        window::unlock(self, window, target)
    }

    fn flush_window(&self, window: WindowId) -> Result<(), ErrorKind> {
        window::flush(self, window)
    }

    fn close_window(&self, window: WindowId) -> Result<(), ErrorKind> {
        window::close(self, window)
    }

    fn shared(&self, context: Context, turn: u64) -> Result<Arc<dyn SharedEngine>, ErrorKind> {
        shared::open(self, context, turn)
    }

    fn leftovers(&self) -> Vec<Leftover> {
        let mut leftovers = Vec::new();
        self.ops.each(|pending| {
            leftovers.push(Leftover::operation(self.rank, &pending.call()));
        });
        leftovers
    }

    fn derive(
        &self,
        parent: Context,
        turn: u64,
        group: Option<(u32, &[Rank])>,
    ) -> Result<Option<Context>, ErrorKind> {
        let Some((group, members)) = group else { return Ok(None) };
        let parent = self.members(parent)?;
        let context = lock(&self.job.contexts).open((parent.context, turn, group), members.len());
        let ranks = members.iter().map(|rank| parent.ranks[rank.index()]).collect();
        let me = members.iter().position(|&rank| rank == parent.me).ok_or(ErrorKind::Closed)?;
        let mut table = self.members.borrow_mut();
        table.push(Some(Rc::new(Members { context, me: Rank::from(me), ranks })));
        Ok(Some(Context(table.len() as u32 - 1)))
    }

    fn release(&self, context: Context) {
        if let Some(members) = self.members.borrow_mut().get_mut(context.0 as usize) {
            *members = None;
        }
    }

    fn world_rank(&self, context: Context, rank: Rank) -> usize {
        self.members(context).map_or(rank.index(), |members| members.ranks[rank.index()])
    }

    fn now(&self) -> Duration {
        self.job.started.elapsed()
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
