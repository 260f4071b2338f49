//! Layer 1: what moves the bytes between ranks. See `README.md` beside this file for the way of a
//! message.

pub(crate) mod collective;
#[allow(unsafe_code)] // lends buffers between threads; each block states its reasons
pub(crate) mod local;
pub(crate) mod matching;
#[cfg(feature = "mpi")]
#[allow(unsafe_code)] // calls into C; each block states its reasons
pub(crate) mod mpi;
mod outside;
pub(crate) mod schedule;
pub(crate) mod table;
pub(crate) mod window;

use std::{any::Any, panic::Location, sync::Arc, time::Duration};

pub(crate) use self::{
    collective::{
        Builtin, Collective, CollectiveCall, CollectiveKind, Counts, Element, Exchange, Exchanged,
        LentCollective, Neighbors, Pattern, Reduction,
    },
    window::{Access, Rma, WindowId},
};
use crate::{
    checks::Checks,
    datum::{Buffer, LentRead, LentWrite, Memory, Outgoing, Signature},
    error::{Call, ErrorKind, Fault, With},
};

/// The position of a rank in the communicator that a context belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Rank(pub(crate) u32);

impl Rank {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

impl From<usize> for Rank {
    /// Communicators check ranks against their size, which fits into 31 bits on every engine.
    fn from(rank: usize) -> Self {
        Self(rank as u32)
    }
}

/// The label by which a receiver picks a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tag(pub(crate) u32);

impl Tag {
    /// The tag of the messages of a communicator's collective call number `seq`, where tags reach
    /// up to `max`: successive collectives cannot be mixed up.
    pub(crate) fn of_call(seq: u64, Self(max): Self) -> Self {
        Self((seq % (u64::from(max) + 1)) as u32)
    }
}

/// An engine's name for a communicator: messages of one context are never matched in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Context(pub(crate) u32);

impl Context {
    /// The context of all ranks, open from the start.
    pub(crate) const WORLD: Self = Self(0);
}

/// A non-blocking operation under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Op(pub(crate) u64);

/// A message that `probe` has taken out of the queue for one receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ticket(pub(crate) u64);

/// What a message is: data of a type, from a plain send or from a step of a collective.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) signature: Signature,
    pub(crate) step: Option<Step>,
}

/// The collective call that a message is a step of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// The call of the sending rank.
    pub(crate) call: Call,
}

impl PartialEq for Step {
    /// Ranks may call from different places in the source; operation and root must be the same.
    fn eq(&self, other: &Self) -> bool {
        (self.call.op, self.call.with) == (other.call.op, other.call.with)
    }
}

impl Eq for Step {}

impl Label {
    /// Whether a receiver that expects this label may take a message labelled `got` that `peer`
    /// sent.
    pub(crate) fn admits(&self, got: &Self, peer: Rank) -> Result<(), Fault> {
        if self == got {
            return Ok(());
        }
        let rank = peer.index();
        match (self.step, got.step) {
            (Some(mine), Some(theirs)) => {
                let describe = |step: Step, signature: Signature| {
                    let Call { at, .. } = step.call;
                    format!("{} of {} ({}:{})", step.call, signature.name(), at.file(), at.line())
                };
                let mine = describe(mine, self.signature);
                let theirs = describe(theirs, got.signature);
                Err(ErrorKind::CollectiveMismatch { mine, rank, theirs }.into())
            }
            _ => Err(ErrorKind::TypeMismatch {
                peer: rank,
                expected: self.signature.name().to_owned(),
                got: got.signature.name().to_owned(),
            }
            .into()),
        }
    }

    /// Whether this label belongs to a step of a collective: those messages never meet the
    /// program's own.
    pub(crate) fn is_step(&self) -> bool {
        self.step.is_some()
    }
}

/// Where a message goes, and what it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) context: Context,
    pub(crate) rank: Rank,
    pub(crate) tag: Tag,
    pub(crate) label: Label,
}

/// Which message is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) context: Context,
    pub(crate) choice: Choice,
    pub(crate) label: Label,
}

/// Whose messages are wanted, and with which tag: one, or any.
///
/// It is a single word as every receive copies it right after it was made; see [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice(u64);

impl Choice {
    /// Neither a rank nor a tag can be so large.
    const ANY: u32 = u32::MAX;

    /// `None` takes any.
    #[inline(always)]
    pub(crate) fn new(rank: Option<Rank>, tag: Option<Tag>) -> Self {
        let rank = rank.map_or(Self::ANY, |Rank(rank)| rank);
        let tag = tag.map_or(Self::ANY, |Tag(tag)| tag);
        Self(u64::from(rank) << 32 | u64::from(tag))
    }

    #[inline(always)]
    pub(crate) fn rank(self) -> Option<Rank> {
        let rank = (self.0 >> 32) as u32;
        (rank != Self::ANY).then_some(Rank(rank))
    }

    #[inline(always)]
    pub(crate) fn tag(self) -> Option<Tag> {
        let tag = self.0 as u32;
        (tag != Self::ANY).then_some(Tag(tag))
    }

    /// Whether a message from `rank` with `tag` is wanted.
    #[inline(always)]
    pub(crate) fn fits(self, rank: Rank, tag: Tag) -> bool {
        self.rank().is_none_or(|one| one == rank) && self.tag().is_none_or(|one| one == tag)
    }
}

/// What has been received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) rank: Rank,
    pub(crate) tag: Tag,
    pub(crate) bytes: usize,
}

/// When a send is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// When the buffer may be changed.
    Standard,
    /// When the receiver has begun to receive.
    Synchronous,
}

/// A finished non-blocking operation: its buffer comes back if the engine owned it, and what was
/// received.
pub(crate) struct Done {
    pub(crate) buffer: Option<Box<dyn Buffer>>,
    pub(crate) received: Option<Received>,
    /// What a non-blocking collective has brought.
    pub(crate) exchanged: Option<Box<Exchanged>>,
}

/// A receive that has been started.
pub(crate) enum Begun {
    UnderWay(Op),
    /// The message was there.
    Over(Result<Received, Fault>),
}

/// How an operation ended that was to be cancelled.
pub(crate) enum Ended {
    /// It was done already.
    Done(Done),
    /// It never happened; its buffer comes back if the engine owned it.
    Cancelled(Option<Box<dyn Buffer>>),
}

/// An operation that can be started again and again; its memory is lent.
#[cfg_attr(not(feature = "mpi"), allow(dead_code, reason = "local starts everything anew"))]
pub(crate) enum Preparation<'a> {
    Send { to: Target, mode: Mode, bytes: LentRead },
    Recv { from: Source, bytes: LentWrite },
    Collective(LentCollective<'a>),
}

/// An operation of a rank that was never finished, or a message that nobody received, at the end of
/// the run.
#[derive(Clone, Debug)]
pub(crate) struct Leftover {
    /// Who is concerned and how:
    /// `rank 1: irecv from rank 0 tag 7 was never finished (src/main.rs:41)`.
    pub(crate) what: String,
}

impl Leftover {
    /// An operation that the program never waited for.
    pub(crate) fn operation(rank: usize, call: &Call) -> Self {
        let Call { at, .. } = call;
        let place = format!("({}:{})", at.file(), at.line());
        Self { what: format!("rank {rank}: {call} was never waited for {place}") }
    }

    /// A message for `rank` that nobody received.
    pub(crate) fn message(
        rank: usize,
        key: &matching::Key,
        bytes: usize,
        at: &'static Location<'static>,
    ) -> Self {
        let matching::Key { source: Rank(source), tag: Tag(tag), .. } = key;
        let place = format!("({}:{})", at.file(), at.line());
        let what = format!(
            "rank {rank}: a message of {bytes} bytes from rank {source} tag {tag} was never received, sent {place}"
        );
        Self { what }
    }
}

/// What the program is told of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct About {
    /// `local` or `mpi`.
    pub(crate) engine: &'static str,
    /// The MPI library and its version; empty for `local`.
    pub(crate) library: String,
    /// The thread level that the library grants; empty for `local`.
    pub(crate) thread_level: String,
}

/// What moves bytes between ranks: one object per rank, used by that rank's thread only.
///
/// Every verb either does what it says or reports why not; none blocks once the job has failed.
/// Buffers given by reference belong to the caller again when the verb returns, whatever it
/// returns.
///
/// The verbs are those of several traits, each implemented where the work is done. What has a
/// default here may be left out by a new engine: the other verbs suffice.
pub(crate) trait Engine:
    Messages + Operations + Collectives + Groups + Windows + Threads
{
    /// What this engine is.
    fn about(&self) -> About;

    /// The largest tag that a message can carry.
    fn max_tag(&self) -> Tag;

    /// What is checked, the same on every rank.
    fn checks(&self) -> Checks {
        Checks::Full
    }

    /// The tag of the messages of a communicator's collective call number `seq`.
    fn step_tag(&self, seq: u64, _label: &Label) -> Tag {
        Tag::of_call(seq, self.max_tag())
    }

    /// Whether the typed layer must find out beforehand that all ranks make the same collective
    /// call: this engine is asked to check it and cannot do so as the calls meet.
    fn leaves_agreement(&self) -> bool {
        false
    }

    /// Notes the program's call that the following verbs serve, for reports of what each rank waits
    /// for.
    ///
    /// It comes in parts, which fit into registers: a call that is copied whole waits until what
    /// was stored before it has left the processor, the last message among it.
    fn enter(&self, op: &'static str, with: With, at: &'static Location<'static>);

    /// Says that the rank enters another library (HDF5, say) to wait for other ranks there, or has
    /// come out.
    #[cfg(feature = "phdf5")]
    fn wait_elsewhere(&self, _inside: bool) {}

    /// What this rank has left undone; called when its program has returned.
    fn leftovers(&self) -> Vec<Leftover> {
        Vec::new()
    }

    /// Time since the job started.
    fn now(&self) -> Duration;
}

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
/// | [`revoke`](Self::revoke) | withdrawn | taken back, or copied and sent | the lender's |
pub(crate) trait Operations {
    /// Starts to send.
    fn isend(&self, to: &Target, mode: Mode, memory: Memory) -> Result<Op, Fault>;

    /// Starts to receive.
    fn irecv(&self, from: &Source, memory: Memory) -> Result<Op, Fault>;

    /// As [`Engine::isend`] with lent bytes, by a lender who never leaves the operation unfinished;
    /// `None` if the bytes are the lender's again already.
    fn isend_lent(&self, to: &Target, mode: Mode, bytes: LentRead) -> Result<Option<Op>, Fault>;

    /// As [`Engine::irecv`] with lent bytes, by a lender who never leaves the operation unfinished.
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
    /// if that has not happened by `until`, a [time](Engine::now) of the engine.
    fn wait_any(&self, ops: &[Op], until: Option<Duration>) -> Result<Option<usize>, Fault>;

    /// Withdraws a receive, unless it is done; `op` is gone.
    fn cancel(&self, op: Op) -> Result<Ended, Fault>;

    /// Nobody will ask for `op` again: a receive is withdrawn, a send of owned memory goes on
    /// without its owner.
    fn detach(&self, op: Op);

    /// Takes lent memory back: when this returns the engine does not touch it any more, whether or
    /// not the message was sent or received. Where that cannot be had (an MPI that cannot cancel a
    /// send that nobody receives), it ends the job rather than return. `op` is gone.
    fn revoke(&self, op: Op);

    // ---- Prepared once and started often ----

    /// Prepares an operation in the engine's own way; `None` if it has none.
    ///
    /// [`Engine::detach`] ends it: at once if it is not under way, else when it is done; a receive is withdrawn. The lent
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

/// Calls that all ranks of a context make together.
pub(crate) trait Collectives {
    /// Makes the collective call in the engine's own way; `None` leaves it to [`schedule`].
    ///
    /// Whether an engine declines must depend on nothing but what is the same on every rank.
    fn collective(&self, _call: &mut CollectiveCall<'_>) -> Option<Result<(), Fault>> {
        None
    }

    /// Starts a non-blocking collective, whose lengths need be known to nobody else; what it brings
    /// is in [`Done::exchanged`]. It makes progress whenever a rank is in any verb that waits.
    fn icollective(&self, call: Exchange) -> Result<Op, Fault>;
}

/// Communicators.
pub(crate) trait Groups {
    /// Opens a context for each group that the ranks of `parent` form. Collective over `parent`.
    ///
    /// `members` are ranks of `parent` in their new order; `group` numbers the groups of this call.
    fn split(
        &self,
        parent: Context,
        seq: u64,
        group: Option<(u32, &[Rank])>,
    ) -> Result<Option<Context>, Fault>;

    /// A number that is the same for the ranks of a host, which can share memory. Collective over
    /// `context`.
    fn node(&self, _context: Context, _seq: u64) -> Result<u32, Fault> {
        Ok(0)
    }

    /// The communicator of `context` is gone on this rank.
    fn release(&self, _context: Context) {}

    /// The position of `rank` of `context` in the world.
    fn world_rank(&self, context: Context, rank: Rank) -> usize;

    /// What another library that speaks with the ranks of `context` by itself needs to know them: a
    /// value of this engine's own kind; none where there is no such library. Collective over
    /// `context`: all ranks hand it on to the same call.
    #[cfg_attr(not(feature = "phdf5"), allow(dead_code))] // asked for by the collective writer only
    fn native_handle(&self, _context: Context) -> Option<Result<Box<dyn Any>, Fault>> {
        None
    }
}

/// Memory that other ranks reach.
pub(crate) trait Windows {
    /// Opens a window: `bytes` zeroed bytes of every rank that others can reach; with
    /// `Access::Shared`, by plain loads and stores of the ranks of one host, one part behind the
    /// other. Aligned to 64 bytes. Collective over `context`.
    fn open_window(
        &self,
        _context: Context,
        _seq: u64,
        _bytes: usize,
        _access: Access,
    ) -> Result<WindowId, Fault> {
        Err(no_windows())
    }

    /// Where the part of `rank` lies in this process: this rank's own, or, with `Access::Shared`,
    /// anyone's.
    fn window_part(&self, _window: WindowId, _rank: Rank) -> Result<LentWrite, Fault> {
        Err(no_windows())
    }

    /// Reads or changes the part of `target`, from its byte `offset` on; returns when the buffers
    /// may be used again. Element-wise atomic against other ranks' accesses where [`Rma`] says so.
    /// The range has been checked.
    fn access(
        &self,
        _window: WindowId,
        _target: Rank,
        _offset: usize,
        _what: Rma<'_>,
    ) -> Result<(), Fault> {
        Err(no_windows())
    }

    /// Waits until nobody holds the part of `target` (nobody exclusively, if not `exclusive`) and
    /// holds it.
    fn lock_part(&self, _window: WindowId, _target: Rank, _exclusive: bool) -> Result<(), Fault> {
        Err(no_windows())
    }

    /// Completes this rank's accesses to the part of `target` and lets go of it.
    fn unlock_part(&self, _window: WindowId, _target: Rank) -> Result<(), Fault> {
        Err(no_windows())
    }

    /// All accesses of this rank are complete at their targets, and memory changed by others is
    /// seen after the next barrier.
    fn flush_window(&self, _window: WindowId) -> Result<(), Fault> {
        Err(no_windows())
    }

    /// The program of this rank has no hold of the window any more, nor of its memory. What is
    /// never dropped stays where it is as long as the process lives.
    fn drop_window(&self, _window: WindowId) {}

    /// Closes the window. Collective; nobody reaches it any more when this is called.
    fn close_window(&self, _window: WindowId) -> Result<(), Fault> {
        Err(no_windows())
    }
}

/// What all threads of a rank can use.
pub(crate) trait Threads {
    /// What other threads of this rank may use at the same time as this one, on the ranks of
    /// `context`. Collective over `context`.
    fn shared(&self, _context: Context, _seq: u64) -> Result<Arc<dyn SharedEngine>, Fault> {
        let what = "messages between threads";
        Err(ErrorKind::Unsupported { what, how: "choose another engine" }.into())
    }
}

fn copy_of(bytes: &[u8]) -> Memory {
    Memory::Owned(Box::new(Outgoing(bytes.to_vec())))
}

fn no_windows() -> Fault {
    ErrorKind::Unsupported { what: "windows", how: "choose another engine" }.into()
}

/// A rank's message space that all its threads can use at the same time. Contexts in targets and
/// sources are ignored.
pub(crate) trait SharedEngine: Send + Sync {
    /// As [`Messages::send`].
    fn send(&self, call: Call, to: &Target, bytes: &[u8]) -> Result<(), Fault>;

    /// Receives a message of any size into the buffer that `room` makes for so many bytes.
    fn recv(
        &self,
        call: Call,
        from: &Source,
        room: fn(usize) -> Box<dyn Buffer>,
    ) -> Result<(Box<dyn Buffer>, Received), Fault>;
}
