//! The vocabulary of collectives: what the typed layer asks of an engine, in bytes.
//!
//! A collective is named in one way, by its [`CollectiveKind`], and described in three: with
//! borrowed memory by a [`Collective`] (the blocking calls), with memory of its own by an
//! [`Exchange`] (those that do not wait), with lent memory by a [`LentCollective`] (those that are
//! prepared).
//!
//! *The rule: no length is believed.* What all engines are told of buffers is held against the
//! buffers themselves, here and nowhere else ([`make`], [`Exchange::check`]): they may read and
//! write what the counts say.

mod exchange;
mod kind;

pub(crate) use self::{
    exchange::{Exchange, Exchanged},
    kind::{CollectiveKind, Pattern},
};
use super::{Context, Engine, Label, Op, Rank, schedule};
use crate::{
    datum::{LentRead, LentWrite},
    error::{ErrorKind, Fault},
};

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

impl Element {
    /// Its bytes.
    pub(crate) const fn size(self) -> usize {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::I16 | Self::U16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }
}

/// How the bytes of two ranks' contributions become one.
pub(crate) struct Reduction<'a> {
    /// The MPI library's own operator that does the same, if there is one.
    #[cfg_attr(
        not(feature = "mpi"),
        allow(dead_code, reason = "only mpi has operators of its own")
    )]
    pub(crate) native: Option<(Builtin, Element)>,
    /// Whether the order of the operands is free.
    pub(crate) commutative: bool,
    /// Replaces `right` by `left op right`, element by element; `left` belongs to lower ranks than
    /// `right`.
    pub(crate) fold: &'a Fold<'a>,
}

/// Combines the elements of two ranks' contributions.
pub(crate) type Fold<'a> = dyn Fn(&[u8], &mut [u8]) -> Result<(), Fault> + 'a;

/// How many bytes come from, or go to, each rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counts<'a> {
    /// Equally many, by a promise that all ranks make alike.
    Equal(usize),
    /// A number for each. All ranks say so alike, with numbers of their own.
    Each(&'a [usize]),
    /// A number for each, by a promise that all ranks make alike.
    Same(&'a [usize]),
}

impl Counts<'_> {
    /// The bytes of one rank.
    pub(crate) fn of(&self, rank: usize) -> usize {
        match self {
            Self::Equal(bytes) => *bytes,
            Self::Each(bytes) | Self::Same(bytes) => bytes[rank],
        }
    }

    /// The bytes of all `ranks` together, if there is one count for each and so many bytes can be.
    fn total(&self, ranks: usize) -> Option<usize> {
        match self {
            Self::Equal(bytes) => bytes.checked_mul(ranks),
            Self::Each(bytes) | Self::Same(bytes) if bytes.len() == ranks => sum(bytes),
            Self::Each(_) | Self::Same(_) => None,
        }
    }

    /// Where each rank's bytes begin, and where the last end: `ranks + 1` places.
    pub(crate) fn starts(&self, ranks: usize) -> Vec<usize> {
        let mut starts = Vec::with_capacity(ranks + 1);
        let mut end = 0;
        starts.push(end);
        for rank in 0..ranks {
            end += self.of(rank);
            starts.push(end);
        }
        starts
    }
}

/// The sum, if it is a number of bytes.
fn sum(bytes: &[usize]) -> Option<usize> {
    bytes.iter().try_fold(0_usize, |sum, &bytes| sum.checked_add(bytes))
}

/// Whether `what` has the bytes that its counts say.
#[inline]
fn fits(what: &'static str, needed: Option<usize>, got: usize) -> Result<(), Fault> {
    if needed == Some(got) {
        return Ok(());
    }
    let needed = needed.unwrap_or(usize::MAX);
    Err(ErrorKind::LengthMismatch { what, needed, got }.into())
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

/// Makes a collective call in the engine's own way, or by messages, if its buffers are as long as
/// it says.
///
/// Inlined, so that the call stays where it was put together; see
/// [`Table::insert`](super::table::Table::insert).
#[inline(always)]
pub(crate) fn make(engine: &dyn Engine, call: &mut CollectiveCall<'_>) -> Result<(), Fault> {
    call.what.check(call.rank, call.size)?;
    engine.collective(call).unwrap_or_else(|| schedule::run(engine, call))
}

/// A collective whose sizes are known where they are needed. All buffers are bytes of whole
/// elements; rows lie one behind the other.
pub(crate) enum Collective<'a> {
    /// Nobody leaves before everybody has come.
    Barrier,
    /// The root's `buffer` on every rank.
    Bcast { root: Rank, buffer: &'a mut [u8] },
    /// All ranks' `mine` in the root's `out`. The root knows all counts, the others only their own
    /// (`counts` is `Each(&[])` or `Equal` there), and have no `out`.
    Gather { root: Rank, mine: &'a [u8], counts: Counts<'a>, out: &'a mut [u8] },
    /// To each rank its row of the root's `rows`; counts as in `Gather`.
    Scatter { root: Rank, rows: &'a [u8], counts: Counts<'a>, out: &'a mut [u8] },
    /// All ranks' `mine` in every rank's `out`.
    Allgather { mine: &'a [u8], counts: Counts<'a>, out: &'a mut [u8] },
    /// To each rank its row of this rank's `rows`, and in `out` what each rank had for this one.
    Alltoall { rows: &'a [u8], send_counts: Counts<'a>, out: &'a mut [u8], recv_counts: Counts<'a> },
    /// The reduction of all ranks' `mine` in the root's `out`, which the others leave empty.
    Reduce { root: Rank, mine: &'a [u8], out: &'a mut [u8], with: &'a Reduction<'a> },
    /// The reduction of all ranks' `mine`, on every rank.
    Allreduce { mine: &'a [u8], out: &'a mut [u8], with: &'a Reduction<'a> },
    /// The reduction of all ranks' `mine`, cut into `counts[rank]` bytes for each rank.
    ReduceScatter { mine: &'a [u8], counts: Counts<'a>, out: &'a mut [u8], with: &'a Reduction<'a> },
    /// The reduction of `mine` of ranks 0 up to and including this one.
    Scan { mine: &'a [u8], out: &'a mut [u8], with: &'a Reduction<'a> },
    /// The reduction of `mine` of the ranks before this one; `out` is untouched on rank 0.
    Exscan { mine: &'a [u8], out: &'a mut [u8], with: &'a Reduction<'a> },
    /// `mine` to each destination, and in `out` what each source had.
    NeighborAllgather {
        neighbors: Neighbors<'a>,
        mine: &'a [u8],
        counts: Counts<'a>,
        out: &'a mut [u8],
    },
    /// A row to each destination, and in `out` a row from each source.
    NeighborAlltoall {
        neighbors: Neighbors<'a>,
        rows: &'a [u8],
        send_counts: Counts<'a>,
        out: &'a mut [u8],
        recv_counts: Counts<'a>,
    },
}

impl Collective<'_> {
    /// Which collective it is.
    #[inline(always)]
    pub(crate) fn kind(&self) -> CollectiveKind {
        match self {
            Self::Barrier => CollectiveKind::Barrier,
            Self::Bcast { root, .. } => CollectiveKind::Bcast(*root),
            Self::Gather { root, .. } => CollectiveKind::Gather(*root),
            Self::Scatter { root, .. } => CollectiveKind::Scatter(*root),
            Self::Allgather { .. } => CollectiveKind::Allgather,
            Self::Alltoall { .. } => CollectiveKind::Alltoall,
            Self::Reduce { root, .. } => CollectiveKind::Reduce(*root),
            Self::Allreduce { .. } => CollectiveKind::Allreduce,
            Self::ReduceScatter { .. } => CollectiveKind::ReduceScatter,
            Self::Scan { .. } => CollectiveKind::Scan,
            Self::Exscan { .. } => CollectiveKind::Exscan,
            Self::NeighborAllgather { .. } => CollectiveKind::NeighborAllgather,
            Self::NeighborAlltoall { .. } => CollectiveKind::NeighborAlltoall,
        }
    }

    /// The bytes of each row, if all ranks must say the same number; `None` where each has lengths
    /// of its own.
    #[inline(always)]
    pub(crate) fn alike(&self) -> Option<usize> {
        Some(match self {
            Self::Barrier => 0,
            Self::Bcast { buffer, .. } => buffer.len(),
            Self::Gather { mine, counts: Counts::Equal(_), .. }
            | Self::Allgather { mine, counts: Counts::Equal(_), .. }
            | Self::Reduce { mine, .. }
            | Self::Allreduce { mine, .. }
            | Self::Scan { mine, .. }
            | Self::Exscan { mine, .. } => mine.len(),
            Self::Scatter { out, counts: Counts::Equal(_), .. }
            | Self::ReduceScatter { out, counts: Counts::Equal(_), .. } => out.len(),
            Self::Alltoall {
                send_counts: Counts::Equal(bytes),
                recv_counts: Counts::Equal(_),
                ..
            } => *bytes,
            _ => return None,
        })
    }

    /// How many bytes this rank gives, or gets where it gives none.
    #[cfg_attr(not(feature = "mpi"), allow(dead_code, reason = "local compares lengths itself"))]
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Barrier => 0,
            Self::Bcast { buffer, .. } => buffer.len(),
            Self::Scatter { rows, out, .. } => rows.len().max(out.len()),
            Self::Alltoall { rows, .. } | Self::NeighborAlltoall { rows, .. } => rows.len(),
            Self::Gather { mine, .. }
            | Self::Allgather { mine, .. }
            | Self::Reduce { mine, .. }
            | Self::Allreduce { mine, .. }
            | Self::ReduceScatter { mine, .. }
            | Self::Scan { mine, .. }
            | Self::Exscan { mine, .. }
            | Self::NeighborAllgather { mine, .. } => mine.len(),
        }
    }

    /// Whether the buffers have the bytes that are said of them, on this rank of so many.
    #[inline]
    fn check(&self, me: Rank, ranks: usize) -> Result<(), Fault> {
        const MINE: &str = "what this rank contributes in bytes";
        const OUT: &str = "the room for the result in bytes";
        let one = |counts: &Counts<'_>| Some(counts.of(me.index()));
        match self {
            Self::Barrier | Self::Bcast { .. } => Ok(()),
            Self::Gather { root, .. } | Self::Scatter { root, .. } | Self::Reduce { root, .. }
                if *root != me =>
            {
                Ok(())
            }
            Self::Gather { mine, counts, out, .. } | Self::Allgather { mine, counts, out } => {
                fits(OUT, counts.total(ranks), out.len())?;
                fits(MINE, one(counts), mine.len())
            }
            Self::Scatter { rows: mine, counts, out, .. }
            | Self::ReduceScatter { mine, counts, out, .. } => {
                fits(MINE, counts.total(ranks), mine.len())?;
                fits(OUT, one(counts), out.len())
            }
            Self::Alltoall { rows, send_counts, out, recv_counts } => {
                fits(MINE, send_counts.total(ranks), rows.len())?;
                fits(OUT, recv_counts.total(ranks), out.len())?;
                fits(
                    "this rank's row for itself in bytes",
                    one(recv_counts),
                    send_counts.of(me.index()),
                )
            }
            Self::Reduce { mine, out, .. }
            | Self::Allreduce { mine, out, .. }
            | Self::Scan { mine, out, .. }
            | Self::Exscan { mine, out, .. } => fits(OUT, Some(mine.len()), out.len()),
            Self::NeighborAllgather { neighbors, mine, counts, out } => {
                if let Counts::Equal(bytes) = counts {
                    fits(MINE, Some(*bytes), mine.len())?;
                }
                fits(OUT, counts.total(neighbors.sources.len()), out.len())
            }
            Self::NeighborAlltoall { neighbors, rows, send_counts, out, recv_counts } => {
                fits(MINE, send_counts.total(neighbors.destinations.len()), rows.len())?;
                fits(OUT, recv_counts.total(neighbors.sources.len()), out.len())
            }
        }
    }

    /// Makes the call of a rank that is alone; `false` if it has edges to itself, which this does
    /// not know.
    pub(crate) fn make_alone(&mut self) -> bool {
        match self {
            Self::Gather { mine: from, out, .. }
            | Self::Scatter { rows: from, out, .. }
            | Self::Allgather { mine: from, out, .. }
            | Self::Alltoall { rows: from, out, .. }
            | Self::Reduce { mine: from, out, .. }
            | Self::Allreduce { mine: from, out, .. }
            | Self::ReduceScatter { mine: from, out, .. }
            | Self::Scan { mine: from, out, .. } => out.copy_from_slice(from),
            Self::Barrier | Self::Bcast { .. } | Self::Exscan { .. } => {}
            Self::NeighborAllgather { .. } | Self::NeighborAlltoall { .. } => return false,
        }
        true
    }
}

/// The edges of this rank in a graph.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neighbors<'a> {
    pub(crate) sources: &'a [Rank],
    pub(crate) destinations: &'a [Rank],
}

/// A collective call of one rank: who takes part, and which call of the communicator it is.
pub(crate) struct CollectiveCall<'a> {
    pub(crate) context: Context,
    pub(crate) rank: Rank,
    pub(crate) size: usize,
    /// The number of collective calls made on this communicator before, the same on every rank.
    pub(crate) seq: u64,
    pub(crate) label: &'a Label,
    pub(crate) what: Collective<'a>,
}

/// A collective whose memory is lent: prepared once and started often. Every row has the same
/// length, which all ranks know.
#[cfg_attr(not(feature = "mpi"), allow(dead_code, reason = "local starts everything anew"))]
pub(crate) struct LentCollective<'a> {
    pub(crate) context: Context,
    pub(crate) size: usize,
    pub(crate) kind: CollectiveKind,
    /// What this rank gives, if it gives anything.
    pub(crate) mine: LentRead,
    /// What this rank gets, if it gets anything.
    pub(crate) out: LentWrite,
    /// How contributions become one, where they do.
    pub(crate) with: Option<&'a Reduction<'a>>,
}

#[cfg(feature = "mpi")]
impl LentCollective<'_> {
    /// The bytes that all ranks give alike.
    pub(crate) fn bytes(&self) -> usize {
        match self.kind {
            CollectiveKind::Bcast(_) => self.mine.len().max(self.out.len()),
            CollectiveKind::Scatter(_) => self.out.len(),
            _ => self.mine.len(),
        }
    }

    /// The library's own operator that combines what is reduced, and its type.
    pub(crate) fn native(&self) -> Option<(Builtin, Element)> {
        self.with?.native
    }
}
