//! The vocabulary of the seam: whom a message is for, what it is, and what has come of it.

use std::panic::Location;

use serde::{Deserialize, Serialize};

use super::{Exchanged, LentCollective, matching};
use crate::{
    datum::{Buffer, LentRead, LentWrite, Signature},
    error::{Call, ErrorKind, Fault},
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

/// What is behind an engine on one rank, as far as it can be known; nothing for `local`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Installed {
    /// The file that the MPI library is in.
    pub(crate) library: Option<String>,
    /// What carries messages on a host and between hosts.
    pub(crate) transport: Option<String>,
}
