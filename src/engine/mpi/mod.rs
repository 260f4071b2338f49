//! The engine `mpi`: ranks are processes that an MPI launcher has started.
//!
//! rsmpi initialises and finalises the library; all else goes through its raw bindings, on communicators of our own whose
//! errors are returned (never through rsmpi's safe layer, which ignores them). Every communicator of the program is two
//! of MPI's: one for its messages and the library's collectives, one for the steps of our own collectives.

mod collective;
mod raw;
mod watch;
mod wire;

use std::{
    cell::RefCell,
    ffi::{c_int, c_void},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use mpi::{
    Threading,
    environment::{Universe, initialize_with_threading, library_version},
    ffi,
};

pub(crate) use self::watch::Watch;
use self::{
    raw::{Datatype, blank_status, bytes_in, check, is_truncation, made},
    watch::Waiting,
    wire::{COPIED, HEAD, Head},
};
use super::{
    About, CollectiveCall, Context, Done, Engine, Label, Op, Rank, Received, Source, Tag, Target,
    Ticket, table::Table,
};
use crate::{
    datum::Buffer,
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

/// A non-blocking operation that MPI works on. What it points MPI to lives on the heap and stays here until it is done.
struct Pending {
    request: ffi::MPI_Request,
    buffer: Box<dyn Buffer>,
    wire: Wire,
    /// What a receive expects.
    expects: Option<Label>,
}

enum Wire {
    /// Head and data.
    Copied(Box<[u8]>),
    /// The head; the data are in the buffer.
    Split(Box<Head>),
}

/// The number of ranks and this process's own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World {
    pub(crate) rank: usize,
    pub(crate) size: usize,
}

impl MpiEngine {
    /// Initialises MPI. With `watched`, what the rank waits for can be seen from another thread.
    ///
    /// # Errors
    /// If MPI was initialised before, or does not let threads other than the caller's exist.
    pub(crate) fn start(watched: bool) -> Result<(Self, World), ErrorKind> {
        let launch = |what: &str| ErrorKind::Launch { what: what.to_owned() };
        let (universe, level) = initialize_with_threading(Threading::Funneled)
            .ok_or_else(|| launch("MPI is initialised already; `run` can be called once"))?;
        if level < Threading::Funneled {
            return Err(launch("this MPI library allows no threads (MPI_THREAD_SINGLE)"));
        }
        // SAFETY: MPI is initialised; the world is a predefined communicator.
        let world = unsafe { ffi::RSMPI_COMM_WORLD };
        let errors = |comm| {
            // SAFETY: a live communicator and a predefined handler.
            check(unsafe { ffi::MPI_Comm_set_errhandler(comm, ffi::RSMPI_ERRORS_RETURN) })
        };
        // Errors of calls without a communicator are raised on the world; none is used on it otherwise.
        errors(world)?;
        let user = duplicate(world)?;
        errors(user)?;
        // SAFETY: a live communicator; both calls write one int.
        let (rank, size) = unsafe {
            (
                made(|rank| ffi::MPI_Comm_rank(user, rank))?,
                made(|size| ffi::MPI_Comm_size(user, size))?,
            )
        };
        let (rank, size) = (rank as usize, size as usize);
        let space = Space {
            user,
            steps: duplicate(user)?,
            me: Rank::from(rank),
            ranks: (0..size).collect(),
        };
        let about = About {
            engine: "mpi",
            library: library(&library_version().unwrap_or_default()),
            thread_level: format!("{level:?}").to_lowercase(),
        };
        let engine = Self {
            universe: RefCell::new(Some(universe)),
            about,
            max_tag: Tag(raw::tag_limit(user)?),
            started: Instant::now(),
            spaces: RefCell::new(vec![Some(Rc::new(space))]),
            ops: Table::new(),
            orphans: RefCell::new(Vec::new()),
            probed: Table::new(),
            outbox: RefCell::new(vec![0; COPIED].into()),
            inbox: RefCell::new(vec![0; COPIED].into()),
            watch: watched.then(|| Arc::new(Watch::new())),
        };
        Ok((engine, World { rank, size }))
    }

    /// What the rank waits for, for another thread to look at.
    pub(crate) fn watch(&self) -> Option<Arc<Watch>> {
        self.watch.clone()
    }

    /// Ends all processes of the job with this exit code.
    pub(crate) fn abort(code: u8) -> ! {
        // SAFETY: MPI is initialised and not finalised: the launch calls this only between `start` and the end of `finish`.
        unsafe { ffi::MPI_Abort(ffi::RSMPI_COMM_WORLD, c_int::from(code)) };
        leave(code)
    }

    /// Ends this process's part of a job that went well: waits for all ranks, receives what nobody received (so that
    /// its senders can end), and finalises MPI.
    pub(crate) fn finish(&self) -> Result<(), ErrorKind> {
        let world = self.space(Context::WORLD)?;
        let _waiting = self.waiting();
        let mut barrier = None;
        loop {
            self.drain()?;
            self.orphans.borrow_mut().retain_mut(|pending| !pending.is_over());
            match &mut barrier {
                // Until all ranks have seen their last message leave, this one may have to receive it.
                None if self.orphans.borrow().is_empty() => {
                    // SAFETY: a live communicator; the request is written on success.
                    let request =
                        unsafe { made(|request| ffi::MPI_Ibarrier(world.steps, request)) };
                    barrier = Some(request?);
                }
                None => {}
                Some(request) => {
                    let all_came = tested(request)?.is_some();
                    if all_came {
                        break;
                    }
                }
            }
            std::thread::yield_now();
        }
        drop(world);
        for space in self.spaces.take().into_iter().flatten() {
            space.free();
        }
        drop(self.universe.take());
        Ok(())
    }

    /// Receives and drops what is there, on all communicators; gives up what is under way.
    fn drain(&self) -> Result<(), ErrorKind> {
        for (_, pending) in self.ops.drain() {
            self.give_up(pending);
        }
        for (_, (message, received)) in self.probed.drain() {
            self.swallow(message, received)?;
        }
        let spaces: Vec<_> = self.spaces.borrow().iter().flatten().cloned().collect();
        for space in spaces {
            for comm in [space.user, space.steps] {
                while let Some((message, received)) = matched(comm, None, None, false)? {
                    log::debug!(
                        "a message of {} bytes from rank {} tag {} was never received",
                        received.bytes,
                        received.rank.0,
                        received.tag.0
                    );
                    self.swallow(message, received)?;
                }
            }
        }
        Ok(())
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
        let mut status = blank_status();
        let _waiting = self.waiting();
        // SAFETY: the type describes `head` and `data` as seen from `start`, both borrowed for this blocking call; the
        // message is a matched one, received once.
        check(unsafe {
            ffi::MPI_Mrecv(start.cast(), 1, whole.raw(), &raw mut message, &raw mut status)
        })
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
            let _waiting = self.waiting();
            // SAFETY: the inbox holds COPIED bytes, borrowed for this blocking call; the message is received once.
            let code = unsafe {
                let (start, count) = (inbox.as_mut_ptr().cast::<c_void>(), COPIED as c_int);
                let (message, status) = (&raw mut message, &raw mut status);
                ffi::MPI_Mrecv(start, count, ffi::RSMPI_UINT8_T, message, status)
            };
            return unpack(code, &status, &inbox, label, into).map(drop);
        }
        let mut head = [0; HEAD];
        match into.get_mut(..bytes) {
            Some(into) => self.receive_split(message, &mut head, into)?,
            None => self.receive_split(message, &mut head, &mut vec![0; bytes])?,
        }
        admit(&head, label, received, into.len()).map(drop)
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
        let mut orphans = self.orphans.borrow_mut();
        orphans.retain_mut(|orphan| !orphan.is_over());
        if !pending.is_over() {
            orphans.push(pending);
        }
    }
}

impl Drop for MpiEngine {
    /// An engine that was not finished belongs to a failing job: MPI may still use the buffers of what is under way.
    fn drop(&mut self) {
        std::mem::forget(self.universe.take());
        std::mem::forget(self.orphans.take());
        std::mem::forget(self.ops.drain());
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

impl Pending {
    /// Completes the operation if MPI is done with it, without its result.
    fn is_over(&mut self) -> bool {
        tested(&mut self.request).is_ok_and(|status| status.is_some())
    }

    /// The result of an operation that MPI has completed with this code and status.
    fn finished(mut self, code: c_int, status: &ffi::MPI_Status) -> Result<Done, ErrorKind> {
        let Some(label) = self.expects else {
            if let Err(error) = check(code) {
                std::mem::forget(self); // after a failed send it is not certain that MPI is done with the buffer
                return Err(error);
            }
            return Ok(Done { buffer: self.buffer, received: None });
        };
        let into = self.buffer.bytes_mut();
        let received = match &self.wire {
            Wire::Copied(copy) => unpack(code, status, copy, &label, into)?,
            Wire::Split(head) => admit(head, &label, completed(code, status)?, into.len())?,
        };
        Ok(Done { buffer: self.buffer, received: Some(received) })
    }
}

/// The status of a request that MPI is done with.
fn tested(request: &mut ffi::MPI_Request) -> Result<Option<ffi::MPI_Status>, ErrorKind> {
    let (mut done, mut status) = (0, blank_status());
    // SAFETY: a live request of ours, or the null request after it has completed.
    check(unsafe { ffi::MPI_Test(request, &raw mut done, &raw mut status) })?;
    Ok((done != 0).then_some(status))
}

/// A communicator with the same ranks.
fn duplicate(comm: ffi::MPI_Comm) -> Result<ffi::MPI_Comm, ErrorKind> {
    // SAFETY: a live communicator; the new one is written on success.
    unsafe { made(|made| ffi::MPI_Comm_dup(comm, made)) }
}

/// Takes the first message that fits out of MPI's queue.
fn matched(
    comm: ffi::MPI_Comm,
    rank: Option<Rank>,
    wanted: Option<Tag>,
    wait: bool,
) -> Result<Option<(ffi::MPI_Message, Received)>, ErrorKind> {
    let (mut found, mut status) = (1, blank_status());
    let (rank, tag) = (source(rank), tag(wanted));
    // SAFETY: a live communicator; the message is written on success, whatever `found` says (MPI 4.1 §3.8.2), and not
    // looked at unless found: with nothing found it starts as a null message.
    let message = unsafe {
        let mut message = ffi::RSMPI_MESSAGE_NULL;
        let (into, status) = (&raw mut message, &raw mut status);
        check(if wait {
            ffi::MPI_Mprobe(rank, tag, comm, into, status)
        } else {
            ffi::MPI_Improbe(rank, tag, comm, &raw mut found, into, status)
        })?;
        message
    };
    Ok((found != 0).then(|| (message, received(&status))))
}

/// What a completed receive or probe tells, the head taken off.
fn received(status: &ffi::MPI_Status) -> Received {
    let rank = Rank(u32::try_from(status.MPI_SOURCE).unwrap_or(0));
    let tag = Tag(u32::try_from(status.MPI_TAG).unwrap_or(0));
    Received { rank, tag, bytes: bytes_in(status).saturating_sub(HEAD) }
}

/// What a receive has got that MPI has completed, the message's end cut off or not.
fn completed(code: c_int, status: &ffi::MPI_Status) -> Result<Received, ErrorKind> {
    match check(code) {
        Err(error) if !is_truncation(code) => Err(error),
        _ => Ok(received(status)),
    }
}

/// Whether a message with this head is for a receiver that expects `label` and has room for `buffer` bytes.
fn admit(
    head: &Head,
    label: &Label,
    received: Received,
    buffer: usize,
) -> Result<Received, ErrorKind> {
    wire::check(label, head, received.rank)?;
    let message = wire::length(head);
    if message > buffer {
        return Err(ErrorKind::Truncated { message, buffer });
    }
    Ok(Received { bytes: message, ..received })
}

/// Takes the data out of a message that was received together with its head.
fn unpack(
    code: c_int,
    status: &ffi::MPI_Status,
    message: &[u8],
    label: &Label,
    into: &mut [u8],
) -> Result<Received, ErrorKind> {
    let received = completed(code, status)?;
    let (head, data) = message.split_first_chunk().ok_or(ErrorKind::Closed)?;
    let received = admit(head, label, received, into.len())?;
    into[..received.bytes].copy_from_slice(&data[..received.bytes]);
    Ok(received)
}

/// From one address to another, for a datatype.
fn distance(from: *const u8, to: *const u8) -> isize {
    to.addr().wrapping_sub(from.addr()).cast_signed()
}

fn source(rank: Option<Rank>) -> c_int {
    // SAFETY: a constant of the library.
    rank.map_or(unsafe { ffi::RSMPI_ANY_SOURCE }, |Rank(rank)| rank as c_int)
}

fn tag(tag: Option<Tag>) -> c_int {
    // SAFETY: a constant of the library.
    tag.map_or(unsafe { ffi::RSMPI_ANY_TAG }, |Tag(tag)| tag as c_int)
}

/// Name and version out of what the library says of itself, which can be a page long.
fn library(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    let name = first.split(',').next().unwrap_or_default().replace("Version:", " ");
    name.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Ends this process at once, without the clean-up that an MPI library in the middle of a call might never finish.
pub(crate) fn leave(code: u8) -> ! {
    // SAFETY: ends the process; nothing runs afterwards.
    unsafe { nix::libc::_exit(code.into()) }
}

impl Engine for MpiEngine {
    fn about(&self) -> About {
        self.about.clone()
    }

    fn max_tag(&self) -> Tag {
        self.max_tag
    }

    fn enter(&self, call: Call) {
        if let Some(watch) = &self.watch {
            watch.enter(call);
        }
    }

    fn send(&self, to: &Target, bytes: &[u8]) -> Result<(), ErrorKind> {
        let comm = self.space(to.context)?.comm(&to.label);
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
            let _waiting = self.waiting();
            let (message, received) =
                matched(comm, from.rank, from.tag, true)?.ok_or(ErrorKind::Closed)?;
            return self.receive_matched(message, received, &from.label, into).map(|()| received);
        }
        let mut inbox = self.inbox.borrow_mut();
        let mut status = blank_status();
        let _waiting = self.waiting();
        // SAFETY: the inbox holds COPIED bytes, borrowed for this blocking call.
        let code = unsafe {
            let (start, count) = (inbox.as_mut_ptr().cast::<c_void>(), COPIED as c_int);
            let (rank, tag) = (source(from.rank), tag(from.tag));
            ffi::MPI_Recv(start, count, ffi::RSMPI_UINT8_T, rank, tag, comm, &raw mut status)
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
        let mut status = blank_status();
        let _waiting = self.waiting();
        // SAFETY: a live request.
        let sent = check(unsafe { ffi::MPI_Wait(&raw mut request, &raw mut status) });
        drop(wire);
        let received = received?;
        sent.map(|()| received)
    }

    fn isend(&self, to: &Target, buffer: Box<dyn Buffer>) -> Result<Op, ErrorKind> {
        // SAFETY: buffer (whose bytes keep their address) and wire are kept in the table until the request is complete.
        let (request, wire) = unsafe { self.start_send(to, buffer.bytes()) }?;
        Ok(Op(self.ops.insert(Pending { request, buffer, wire, expects: None })))
    }

    fn irecv(&self, from: &Source, mut buffer: Box<dyn Buffer>) -> Result<Op, ErrorKind> {
        let comm = self.space(from.context)?.comm(&from.label);
        let (rank, tag) = (source(from.rank), tag(from.tag));
        let into = buffer.bytes_mut();
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
        Ok(Op(self.ops.insert(Pending { request, buffer, wire, expects })))
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
        let _waiting = self.waiting();
        // SAFETY: a live request, whose buffers `pending` keeps.
        let code = unsafe { ffi::MPI_Wait(&raw mut pending.request, &raw mut status) };
        pending.finished(code, &status)
    }

    fn forsake(&self, op: Op) {
        if let Some(pending) = self.ops.remove(op.0) {
            self.give_up(pending);
        }
    }

    fn probe(&self, from: &Source, wait: bool) -> Result<Option<(Ticket, Received)>, ErrorKind> {
        let comm = self.space(from.context)?.comm(&from.label);
        let _waiting = wait.then(|| self.waiting());
        let found = matched(comm, from.rank, from.tag, wait)?;
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
            Ok(space) => {
                let _waiting = self.waiting();
                collective::run(&space, call)
            }
            Err(closed) => Some(Err(closed)),
        }
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
        let _waiting = self.waiting();
        // SAFETY: a live communicator; the new one (or the null communicator) is written on success.
        let user = unsafe { made(|made| ffi::MPI_Comm_split(parent.user, color, key, made)) }?;
        let (Some(me), Some((_, members))) = (me, group) else { return Ok(None) };
        let ranks = members.iter().map(|rank| parent.ranks[rank.index()]).collect();
        let space = Space { user, steps: duplicate(user)?, me, ranks };
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
