//! The engine `mpi`: ranks are processes that an MPI launcher has started.
//!
//! rsmpi initialises and finalises the library; all else goes through its raw bindings, on communicators of our own whose
//! errors are returned (never through rsmpi's safe layer, which ignores them). Every communicator of the program is two
//! of MPI's: one for its messages and the library's collectives, one for the steps of our own collectives.

mod collective;
mod exchange;
mod life;
mod raw;
mod shared;
mod transfer;
mod watch;
mod window;
mod wire;

use std::{
    cell::{Cell, RefCell},
    ffi::{c_int, c_void},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use mpi::{environment::Universe, ffi};

pub(crate) use self::{
    life::{World, leave},
    watch::Watch,
};
use self::{
    raw::{Datatype, blank_status, check, made},
    transfer::{Pending, Wire, admit, distance, matched, source, tag, unpack},
    watch::Waiting,
    wire::{COPIED, HEAD, Head},
};
use super::{
    About, Access, CollectiveCall, Context, Done, Ended, Engine, Exchange, Label, Leftover, Mode,
    Op, Rank, Received, Rma, SharedEngine, Source, Tag, Target, Ticket, WindowId, table::Table,
};
use crate::{
    checks::Checks,
    datum::{Memory, Outgoing, RawBytes},
    error::{Call, ErrorKind},
};

/// One process's hold of the job.
///
/// # Invariants
/// 1. The engine is made and used on the thread that initialised MPI (it is neither `Send` nor `Sync`), as the thread level asks.
/// 2. After `finish`, and only then, MPI is finalised; `spaces` and the tables are empty, and every verb goes
///    through one of them first, so that none calls a finalised library.
pub(crate) struct MpiEngine {
    universe: RefCell<Option<Universe>>,
    about: About,
    max_tag: Tag,
    started: Instant,
    /// By [`Context`].
    spaces: RefCell<Vec<Option<Rc<Space>>>>,
    ops: Table<Pending>,
    /// Sends that nobody will ask for.
    orphans: RefCell<Vec<Pending>>,
    probed: Table<(ffi::MPI_Message, Received)>,
    /// Copies of small messages on their way out and in.
    outbox: RefCell<Box<[u8]>>,
    inbox: RefCell<Box<[u8]>>,
    /// Whether to let other ranks run while waiting; see [`MpiEngine::share_cpus`].
    yields: Cell<bool>,
    watch: Option<Arc<Watch>>,
}

/// A communicator of the program.
struct Space {
    /// For the program's messages and the library's collectives.
    user: ffi::MPI_Comm,
    /// For the steps of our own collectives.
    steps: ffi::MPI_Comm,
    me: Rank,
    /// World ranks, in order.
    ranks: Box<[usize]>,
}

impl MpiEngine {
    /// From now on waiting ranks let others run: for jobs with more ranks than CPUs, where a library that spins (MPICH
    /// always does) keeps from running the very rank that it waits for.
    ///
    /// # Collective
    /// All ranks, between two collective calls, with the same value: blocking collectives do not match others.
    pub(crate) fn share_cpus(&self, shared: bool) {
        self.yields.set(shared);
    }

    /// Waits for a request; MPI's return code.
    fn complete(&self, request: &mut ffi::MPI_Request, status: &mut ffi::MPI_Status) -> c_int {
        let _waiting = self.waiting();
        if !self.yields.get() {
            // SAFETY: a live request of ours, whose buffers the caller keeps until this returns.
            return unsafe { ffi::MPI_Wait(request, status) };
        }
        loop {
            let mut done = 0;
            // SAFETY: as above.
            let code = unsafe { ffi::MPI_Test(request, &raw mut done, status) };
            if done != 0 || check(code).is_err() {
                return code;
            }
            std::thread::yield_now();
        }
    }

    /// Makes one of the library's collective calls: `call` gets where to write a request, or nothing if it is to block.
    fn collectively(
        &self,
        call: impl FnOnce(Option<*mut ffi::MPI_Request>) -> c_int,
    ) -> Result<(), ErrorKind> {
        if !self.yields.get() {
            let _waiting = self.waiting();
            return check(call(None));
        }
        // SAFETY: a constant of the library.
        let mut request = unsafe { ffi::RSMPI_REQUEST_NULL };
        check(call(Some(&raw mut request)))?;
        check(self.complete(&mut request, &mut blank_status()))
    }

    /// A communicator with the same ranks.
    fn duplicate(&self, comm: ffi::MPI_Comm) -> Result<ffi::MPI_Comm, ErrorKind> {
        // SAFETY: a constant of the library.
        let mut copy = unsafe { ffi::RSMPI_COMM_NULL };
        let into = &raw mut copy;
        self.collectively(|request| {
            // SAFETY: a live communicator; `copy` lives until the call is complete.
            unsafe {
                match request {
                    None => ffi::MPI_Comm_dup(comm, into),
                    Some(request) => ffi::MPI_Comm_idup(comm, into, request),
                }
            }
        })?;
        Ok(copy)
    }

    fn space(&self, context: Context) -> Result<Rc<Space>, ErrorKind> {
        let spaces = self.spaces.borrow();
        spaces.get(context.0 as usize).and_then(Clone::clone).ok_or(ErrorKind::Closed)
    }

    fn waiting(&self) -> Option<Waiting<'_>> {
        self.watch.as_deref().map(Watch::waiting)
    }

    /// Receives a probed message of which nobody wants the data.
    fn swallow(&self, message: ffi::MPI_Message, received: Received) -> Result<(), ErrorKind> {
        let mut head = [0; HEAD];
        let mut data = vec![0; received.bytes];
        self.receive_split(message, &mut head, &mut data)
    }

    /// Receives a probed message into two places.
    fn receive_split(
        &self,
        mut message: ffi::MPI_Message,
        head: &mut Head,
        data: &mut [u8],
    ) -> Result<(), ErrorKind> {
        let start = head.as_mut_ptr();
        let whole = Datatype::head_and_body(HEAD, distance(start, data.as_ptr()), data.len())?;
        // SAFETY: the type describes `head` and `data` as seen from `start`, both borrowed until the request is complete,
        // below; the message is a matched one, received once.
        let mut request = unsafe {
            let message = &raw mut message;
            made(|made| ffi::MPI_Imrecv(start.cast(), 1, whole.raw(), message, made))
        }?;
        check(self.complete(&mut request, &mut blank_status()))
    }

    /// Receives a probed message for a receiver that expects `label`.
    fn receive_matched(
        &self,
        mut message: ffi::MPI_Message,
        received: Received,
        label: &Label,
        into: &mut [u8],
    ) -> Result<(), ErrorKind> {
        let bytes = received.bytes;
        if HEAD + bytes <= COPIED {
            let mut inbox = self.inbox.borrow_mut();
            let mut status = blank_status();
            // SAFETY: the inbox holds COPIED bytes, borrowed until the request is complete; the message is received once.
            let mut request = unsafe {
                let (start, count) = (inbox.as_mut_ptr().cast::<c_void>(), COPIED as c_int);
                let message = &raw mut message;
                made(|made| ffi::MPI_Imrecv(start, count, ffi::RSMPI_UINT8_T, message, made))
            }?;
            let code = self.complete(&mut request, &mut status);
            return unpack(code, &status, &inbox, label, into).map(drop);
        }
        let mut head = [0; HEAD];
        match into.get_mut(..bytes) {
            Some(into) => self.receive_split(message, &mut head, into)?,
            None => self.receive_split(message, &mut head, &mut vec![0; bytes])?,
        }
        admit(&head, label, received, into.len()).map(drop)
    }

    /// Waits for the first message that fits, and takes it out of MPI's queue.
    fn await_matched(
        &self,
        comm: ffi::MPI_Comm,
        rank: Option<Rank>,
        tag: Option<Tag>,
    ) -> Result<(ffi::MPI_Message, Received), ErrorKind> {
        let _waiting = self.waiting();
        let blocks = !self.yields.get();
        loop {
            if let Some(found) = matched(comm, rank, tag, blocks)? {
                return Ok(found);
            }
            std::thread::yield_now();
        }
    }

    /// Starts to send bytes that stay where they are.
    ///
    /// # Safety
    /// `bytes` and what is returned stay alive and unchanged until the request is complete.
    unsafe fn start_send(
        &self,
        to: &Target,
        bytes: &[u8],
    ) -> Result<(ffi::MPI_Request, Wire), ErrorKind> {
        let comm = self.space(to.context)?.comm(&to.label);
        let (rank, tag) = (to.rank.0 as c_int, to.tag.0 as c_int);
        let head = wire::head(&to.label, bytes.len());
        if HEAD + bytes.len() <= COPIED {
            let copy: Box<[u8]> = [&head, bytes].concat().into();
            let (start, count) = (copy.as_ptr().cast::<c_void>(), copy.len() as c_int);
            // SAFETY: the copy is on the heap and returned with the request.
            let request = unsafe {
                made(|made| ffi::MPI_Isend(start, count, ffi::RSMPI_UINT8_T, rank, tag, comm, made))
            };
            return Ok((request?, Wire::Copied(copy)));
        }
        let head = Box::new(head);
        let start = head.as_ptr();
        let whole = Datatype::head_and_body(HEAD, distance(start, bytes.as_ptr()), bytes.len())?;
        // SAFETY: the type describes head and bytes as seen from `start`; both stay by this function's contract. MPI
        // keeps the freed type until the operation is complete (MPI 4.1 §5.1.9).
        let request = unsafe {
            made(|made| ffi::MPI_Isend(start.cast(), 1, whole.raw(), rank, tag, comm, made))
        };
        Ok((request?, Wire::Split(head)))
    }

    /// Nobody will ask for the operation: withdraws a receive, lets a send go on.
    fn give_up(&self, mut pending: Pending) {
        if pending.expects.is_some() {
            let mut status = blank_status();
            // SAFETY: a live request; a cancelled receive completes (MPI 4.1 §3.8.4), and what it pointed to lives on
            // in `pending` until then.
            unsafe {
                ffi::MPI_Cancel(&raw mut pending.request);
                ffi::MPI_Wait(&raw mut pending.request, &raw mut status);
            }
            return;
        }
        self.adopt(pending);
    }

    /// Keeps a send that nobody will ask for until MPI is done with it.
    fn adopt(&self, mut pending: Pending) {
        let mut orphans = self.orphans.borrow_mut();
        orphans.retain_mut(|orphan| !orphan.is_over());
        if !pending.is_over() {
            orphans.push(pending);
        }
    }
}

impl Space {
    /// MPI's communicator for messages so labelled.
    fn comm(&self, label: &Label) -> ffi::MPI_Comm {
        if label.is_step() { self.steps } else { self.user }
    }

    fn free(&self) {
        for mut comm in [self.steps, self.user] {
            // SAFETY: a live communicator of our own, freed once. MPI keeps it for operations under way (MPI 4.1 §7.4.3).
            // There is nobody to tell of a failure to free.
            unsafe { ffi::MPI_Comm_free(&raw mut comm) };
        }
    }
}

impl Engine for MpiEngine {
    fn about(&self) -> About {
        self.about.clone()
    }

    fn max_tag(&self) -> Tag {
        self.max_tag
    }

    fn checks(&self) -> Checks {
        Checks::Full
    }

    fn leaves_agreement(&self) -> bool {
        self.checks() >= Checks::Collective
    }

    fn enter(&self, call: Call) {
        if let Some(watch) = &self.watch {
            watch.enter(call);
        }
    }

    fn send(&self, to: &Target, _mode: Mode, bytes: &[u8]) -> Result<(), ErrorKind> {
        let space = self.space(to.context)?;
        let comm = space.comm(&to.label);
        if to.rank == space.me && HEAD + bytes.len() <= COPIED {
            // A small message is on its way when this returns, also to oneself, where MPICH would wait for the receive.
            // SAFETY: so small a message is copied: wire, kept with the request, is all that MPI reads.
            let (request, wire) = unsafe { self.start_send(to, bytes) }?;
            let memory = Memory::Owned(Box::new(Outgoing(Vec::<u8>::new())));
            self.adopt(Pending { request, memory, wire, expects: None });
            return Ok(());
        }
        if self.yields.get() {
            // SAFETY: `bytes` are borrowed and `wire` is kept until the request is complete.
            let (mut request, wire) = unsafe { self.start_send(to, bytes) }?;
            let code = self.complete(&mut request, &mut blank_status());
            drop(wire);
            return check(code);
        }
        let (rank, tag) = (to.rank.0 as c_int, to.tag.0 as c_int);
        let head = wire::head(&to.label, bytes.len());
        let len = HEAD + bytes.len();
        let _waiting = self.waiting();
        if len <= COPIED {
            let mut outbox = self.outbox.borrow_mut();
            outbox[..HEAD].copy_from_slice(&head);
            outbox[HEAD..len].copy_from_slice(bytes);
            let start = outbox.as_ptr().cast::<c_void>();
            // SAFETY: `len` bytes of the outbox, borrowed for this blocking call.
            return check(unsafe {
                ffi::MPI_Send(start, len as c_int, ffi::RSMPI_UINT8_T, rank, tag, comm)
            });
        }
        let start = head.as_ptr();
        let whole = Datatype::head_and_body(HEAD, distance(start, bytes.as_ptr()), bytes.len())?;
        // SAFETY: the type describes head and bytes as seen from `start`, both borrowed for this blocking call.
        check(unsafe { ffi::MPI_Send(start.cast(), 1, whole.raw(), rank, tag, comm) })
    }

    fn recv(&self, from: &Source, into: &mut [u8]) -> Result<Received, ErrorKind> {
        let comm = self.space(from.context)?.comm(&from.label);
        if HEAD + into.len() > COPIED {
            let (message, received) = self.await_matched(comm, from.rank, from.tag)?;
            return self.receive_matched(message, received, &from.label, into).map(|()| received);
        }
        let mut inbox = self.inbox.borrow_mut();
        let mut status = blank_status();
        let (start, count) = (inbox.as_mut_ptr().cast::<c_void>(), COPIED as c_int);
        let (rank, tag) = (source(from.rank), tag(from.tag));
        // SAFETY: the inbox holds COPIED bytes, borrowed until the receive is complete.
        let code = unsafe {
            let byte = ffi::RSMPI_UINT8_T;
            if self.yields.get() {
                let start_recv = |made| ffi::MPI_Irecv(start, count, byte, rank, tag, comm, made);
                self.complete(&mut made(start_recv)?, &mut status)
            } else {
                let _waiting = self.waiting();
                ffi::MPI_Recv(start, count, byte, rank, tag, comm, &raw mut status)
            }
        };
        unpack(code, &status, &inbox, &from.label, into)
    }

    fn sendrecv(
        &self,
        to: &Target,
        bytes: &[u8],
        from: &Source,
        into: &mut [u8],
    ) -> Result<Received, ErrorKind> {
        // SAFETY: the request is completed below before `bytes` and `wire` go, also when receiving fails.
        let (mut request, wire) = unsafe { self.start_send(to, bytes) }?;
        let received = self.recv(from, into);
        let sent = check(self.complete(&mut request, &mut blank_status()));
        drop(wire);
        let received = received?;
        sent.map(|()| received)
    }

    fn isend(&self, to: &Target, _mode: Mode, memory: Memory) -> Result<Op, ErrorKind> {
        // SAFETY: memory (whose bytes keep their address) and wire are kept in the table until the request is complete.
        let (request, wire) = unsafe { self.start_send(to, memory.bytes()) }?;
        Ok(Op(self.ops.insert(Pending { request, memory, wire, expects: None })))
    }

    fn irecv(&self, from: &Source, mut memory: Memory) -> Result<Op, ErrorKind> {
        let comm = self.space(from.context)?.comm(&from.label);
        let (rank, tag) = (source(from.rank), tag(from.tag));
        let into = memory.bytes_mut();
        let (request, wire) = if HEAD + into.len() <= COPIED {
            let mut copy: Box<[u8]> = vec![0; HEAD + into.len()].into();
            let (start, count) = (copy.as_mut_ptr().cast::<c_void>(), copy.len() as c_int);
            // SAFETY: the copy is on the heap and kept in the table until the request is complete.
            let request = unsafe {
                made(|made| ffi::MPI_Irecv(start, count, ffi::RSMPI_UINT8_T, rank, tag, comm, made))
            };
            (request?, Wire::Copied(copy))
        } else {
            let mut head = Box::new([0; HEAD]);
            let start = head.as_mut_ptr();
            let whole = Datatype::head_and_body(HEAD, distance(start, into.as_ptr()), into.len())?;
            // SAFETY: the type describes head and buffer as seen from `start`; both are on the heap and kept in the table
            // until the request is complete. MPI keeps the freed type until then.
            let request = unsafe {
                made(|made| ffi::MPI_Irecv(start.cast(), 1, whole.raw(), rank, tag, comm, made))
            };
            (request?, Wire::Split(head))
        };
        let expects = Some(from.label);
        Ok(Op(self.ops.insert(Pending { request, memory, wire, expects })))
    }

    fn test(&self, op: Op) -> Option<Result<Done, ErrorKind>> {
        let (mut done, mut status) = (0, blank_status());
        let code = self.ops.with(op.0, |pending| {
            // SAFETY: a live request; MPI writes `done` and the status.
            unsafe { ffi::MPI_Test(&raw mut pending.request, &raw mut done, &raw mut status) }
        });
        let Some(code) = code else { return Some(Err(ErrorKind::Closed)) };
        if done == 0 && check(code).is_ok() {
            return None;
        }
        self.ops.remove(op.0).map(|pending| pending.finished(code, &status))
    }

    fn wait(&self, op: Op) -> Result<Done, ErrorKind> {
        let mut pending = self.ops.remove(op.0).ok_or(ErrorKind::Closed)?;
        let mut status = blank_status();
        let code = self.complete(&mut pending.request, &mut status);
        pending.finished(code, &status)
    }

    fn wait_any(&self, ops: &[Op], until: Option<Instant>) -> Result<Option<usize>, ErrorKind> {
        let _ = (ops, until);
        Err(ErrorKind::Closed)
    }

    fn cancel(&self, op: Op) -> Result<Ended, ErrorKind> {
        self.wait(op).map(Ended::Done)
    }

    fn retract(&self, op: Op) {
        let _ = self.wait(op);
    }

    fn forsake(&self, op: Op) {
        if let Some(pending) = self.ops.remove(op.0) {
            self.give_up(pending);
        }
    }

    fn probe(&self, from: &Source, wait: bool) -> Result<Option<(Ticket, Received)>, ErrorKind> {
        let comm = self.space(from.context)?.comm(&from.label);
        let found = if wait {
            Some(self.await_matched(comm, from.rank, from.tag)?)
        } else {
            matched(comm, from.rank, from.tag, false)?
        };
        Ok(found
            .map(|(message, received)| (Ticket(self.probed.insert((message, received))), received)))
    }

    fn fetch(&self, message: Ticket, label: &Label, into: &mut [u8]) -> Result<(), ErrorKind> {
        let (message, received) = self.probed.remove(message.0).ok_or(ErrorKind::Closed)?;
        self.receive_matched(message, received, label, into)
    }

    fn discard(&self, message: Ticket) {
        if let Some((message, received)) = self.probed.remove(message.0)
            && let Err(error) = self.swallow(message, received)
        {
            log::warn!("a message that was probed could not be dropped: {error}");
        }
    }

    fn collective(&self, call: &mut CollectiveCall<'_>) -> Option<Result<(), ErrorKind>> {
        match self.space(call.context) {
            Ok(space) => collective::run(self, &space, call),
            Err(closed) => Some(Err(closed)),
        }
    }

    fn exchange(&self, call: Exchange) -> Result<Op, ErrorKind> {
        exchange::start(self, call)
    }

    fn derive_graph(
        &self,
        parent: Context,
        turn: u64,
        sources: &[Rank],
        destinations: &[Rank],
    ) -> Result<Context, ErrorKind> {
        collective::derive_graph(self, parent, turn, sources, destinations)
    }

    fn node(&self, context: Context, turn: u64) -> Result<u32, ErrorKind> {
        window::node(self, context, turn)
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
        Vec::new()
    }

    fn derive(
        &self,
        parent: Context,
        _turn: u64,
        group: Option<(u32, &[Rank])>,
    ) -> Result<Option<Context>, ErrorKind> {
        let parent = self.space(parent)?;
        let place = |members: &[Rank]| members.iter().position(|&rank| rank == parent.me);
        let me = group.and_then(|(_, members)| place(members)).map(Rank::from);
        // SAFETY: a constant of the library.
        let undefined = unsafe { ffi::RSMPI_UNDEFINED };
        let color = group.map_or(undefined, |(group, _)| group as c_int);
        let key = me.map_or(0, |Rank(me)| me as c_int);
        let waiting = self.waiting();
        // SAFETY: a live communicator; the new one (or the null communicator) is written on success.
        let user = unsafe { made(|made| ffi::MPI_Comm_split(parent.user, color, key, made)) }?;
        drop(waiting);
        let (Some(me), Some((_, members))) = (me, group) else { return Ok(None) };
        let ranks = members.iter().map(|rank| parent.ranks[rank.index()]).collect();
        let space = Space { user, steps: self.duplicate(user)?, me, ranks };
        let mut spaces = self.spaces.borrow_mut();
        spaces.push(Some(Rc::new(space)));
        Ok(Some(Context(spaces.len() as u32 - 1)))
    }

    fn release(&self, context: Context) {
        if context == Context::WORLD {
            return; // `finish` needs it
        }
        let space = self.spaces.borrow_mut().get_mut(context.0 as usize).and_then(Option::take);
        if let Some(space) = space {
            space.free();
        }
    }

    fn world_rank(&self, context: Context, rank: Rank) -> usize {
        self.space(context).map_or(rank.index(), |space| space.ranks[rank.index()])
    }

    fn raw_mpi_comm(&self, context: Context) -> Option<ffi::MPI_Comm> {
        self.space(context).ok().map(|space| space.user)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}
