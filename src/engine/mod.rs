//! Layer 1: what moves the bytes between ranks. See `README.md` beside this file for the way of a message.

#[allow(unsafe_code)] // lends buffers between threads; each block states its reasons
pub(crate) mod local;
pub(crate) mod matching;
#[cfg(feature = "mpi")]
#[allow(unsafe_code)] // calls into C; each block states its reasons
pub(crate) mod mpi;
pub(crate) mod schedule;
pub(crate) mod table;

use std::time::Duration;

use crate::{
    datum::{Buffer, Signature},
    error::{Call, ErrorKind},
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
    /// The tag of the messages of a communicator's collective call number `turn`, where tags reach up to `max`:
    /// successive collectives cannot be mixed up.
    pub(crate) fn of_turn(turn: u64, Self(max): Self) -> Self {
        Self((turn % (u64::from(max) + 1)) as u32)
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
    /// Whether a receiver that expects this label may take a message labelled `got` that `peer` sent.
    pub(crate) fn admits(&self, got: &Self, peer: Rank) -> Result<(), ErrorKind> {
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
                Err(ErrorKind::CollectiveMismatch { mine, rank, theirs })
            }
            _ => Err(ErrorKind::TypeMismatch {
                peer: rank,
                expected: self.signature.name().to_owned(),
                got: got.signature.name().to_owned(),
            }),
        }
    }

    /// Whether this label belongs to a step of a collective: those messages never meet the program's own.
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

/// Which message is wanted: `None` takes any rank or any tag.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) context: Context,
    pub(crate) rank: Option<Rank>,
    pub(crate) tag: Option<Tag>,
    pub(crate) label: Label,
}

/// What has been received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) rank: Rank,
    pub(crate) tag: Tag,
    pub(crate) bytes: usize,
}

/// A finished non-blocking operation: its buffer comes back, and for a receive what was received.
pub(crate) struct Done {
    pub(crate) buffer: Box<dyn Buffer>,
    pub(crate) received: Option<Received>,
}

/// A built-in reduction operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Builtin {
    Sum,
    Prod,
    Min,
    Max,
    And,
    Or,
    Xor,
}

/// The element types that MPI libraries reduce by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Element {
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    F32,
    F64,
}

/// How the bytes of two ranks' contributions become one.
pub(crate) struct Reduction<'a> {
    /// The MPI library's own operator that does the same, if there is one.
    #[cfg_attr(
        not(feature = "mpi"),
        allow(dead_code, reason = "only mpi has operators of its own")
    )]
    pub(crate) native: Option<(Builtin, Element)>,
    /// Replaces `right` by `left op right`, element by element; `left` belongs to lower ranks than `right`.
    pub(crate) fold: &'a Fold<'a>,
}

/// Combines the elements of two ranks' contributions.
pub(crate) type Fold<'a> = dyn Fn(&[u8], &mut [u8]) -> Result<(), ErrorKind> + 'a;

/// A collective whose sizes are known on every rank. All buffers are bytes of whole elements.
pub(crate) enum Collective<'a> {
    /// Nobody leaves before everybody has come.
    Barrier,
    /// The root's `buffer` on every rank.
    Bcast { root: Rank, buffer: &'a mut [u8] },
    /// All ranks' `mine`, `counts[rank]` bytes each, one behind the other in `out`.
    Allgather { mine: &'a [u8], counts: &'a [usize], out: &'a mut [u8] },
    /// The reduction of all `buffer`s, in the root's `buffer`; on the other ranks it is scratch.
    Reduce { root: Rank, buffer: &'a mut [u8], with: &'a Reduction<'a> },
    /// The reduction of all `buffer`s, on every rank.
    Allreduce { buffer: &'a mut [u8], with: &'a Reduction<'a> },
    /// The reduction of the `buffer`s of ranks 0 up to and including this one.
    Scan { buffer: &'a mut [u8], with: &'a Reduction<'a> },
    /// The reduction of the `buffer`s of the ranks before this one; untouched on rank 0.
    Exscan { buffer: &'a mut [u8], with: &'a Reduction<'a> },
}

/// A collective call of one rank: who takes part, and in which turn.
pub(crate) struct CollectiveCall<'a> {
    pub(crate) context: Context,
    pub(crate) rank: Rank,
    pub(crate) size: usize,
    /// The number of collective calls made on this communicator before, the same on every rank.
    pub(crate) turn: u64,
    pub(crate) label: Label,
    pub(crate) what: Collective<'a>,
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
/// Buffers given by reference belong to the caller again when the verb returns, whatever it returns.
pub(crate) trait Engine {
    /// What this engine is.
    fn about(&self) -> About;

    /// The largest tag that a message can carry.
    fn max_tag(&self) -> Tag;

    /// Notes the program's call that the following verbs serve, for reports of what each rank waits for.
    fn enter(&self, call: Call);

    /// Sends `bytes`; returns when the caller may change them.
    fn send(&self, to: &Target, bytes: &[u8]) -> Result<(), ErrorKind>;

    /// Receives a message of at most `into.len()` bytes.
    fn recv(&self, from: &Source, into: &mut [u8]) -> Result<Received, ErrorKind>;

    /// Sends and receives at once, so that two ranks can exchange messages of any size.
    fn sendrecv(
        &self,
        to: &Target,
        bytes: &[u8],
        from: &Source,
        into: &mut [u8],
    ) -> Result<Received, ErrorKind>;

    /// Starts to send; the engine keeps the buffer until done.
    fn isend(&self, to: &Target, buffer: Box<dyn Buffer>) -> Result<Op, ErrorKind>;

    /// Starts to receive; the engine keeps the buffer until done.
    fn irecv(&self, from: &Source, buffer: Box<dyn Buffer>) -> Result<Op, ErrorKind>;

    /// The result of `op` if it is done; `op` is gone then.
    fn test(&self, op: Op) -> Option<Result<Done, ErrorKind>>;

    /// The result of `op` when it is done; `op` is gone then.
    fn wait(&self, op: Op) -> Result<Done, ErrorKind>;

    /// Nobody will ask for `op` again: a receive is withdrawn, a send goes on without its owner.
    fn forsake(&self, op: Op);

    /// Takes the first message that fits out of the queue, waiting for one if `wait`.
    ///
    /// The label of `from` says which queue; it is compared when the message is fetched.
    fn probe(&self, from: &Source, wait: bool) -> Result<Option<(Ticket, Received)>, ErrorKind>;

    /// Receives a probed message into its first bytes' worth of `into`.
    fn fetch(&self, message: Ticket, label: &Label, into: &mut [u8]) -> Result<(), ErrorKind>;

    /// Drops a probed message.
    fn discard(&self, message: Ticket);

    /// Makes the collective call in the engine's own way; `None` leaves it to [`schedule`].
    ///
    /// Whether an engine declines must depend on nothing but what is the same on every rank.
    fn collective(&self, call: &mut CollectiveCall<'_>) -> Option<Result<(), ErrorKind>>;

    /// Opens a context for each group that the ranks of `parent` form. Collective over `parent`.
    ///
    /// `members` are ranks of `parent` in their new order; `group` numbers the groups of this call.
    fn derive(
        &self,
        parent: Context,
        turn: u64,
        group: Option<(u32, &[Rank])>,
    ) -> Result<Option<Context>, ErrorKind>;

    /// The communicator of `context` is gone on this rank.
    fn release(&self, context: Context);

    /// The position of `rank` of `context` in the world.
    fn world_rank(&self, context: Context, rank: Rank) -> usize;

    /// The MPI library's own communicator of `context`, for libraries that speak MPI themselves.
    #[cfg(feature = "mpi")]
    #[cfg_attr(not(feature = "phdf5"), allow(dead_code))] // asked for by the collective writer only
    fn raw_mpi_comm(&self, _context: Context) -> Option<::mpi::ffi::MPI_Comm> {
        None
    }

    /// Time since the job started.
    fn now(&self) -> Duration;
}
