//! Calls that all ranks of a communicator make together.
//!
//! | form | lengths | memory |
//! |---|---|---|
//! | `allgather` | of any rank, inferred: they travel first | allocated |
//! | `allgather_known` | of any rank, known where they are needed | allocated |
//! | `allgather_into` | equal on all ranks | the caller's |
//! | `allgather_known_into` | of any rank, known where they are needed | the caller's |
//! | `iallgather` | of any rank, inferred; does not wait | owned by the request |
//! | `allreduce_one` | a single value | none |

mod exact;
mod head;
mod inferred;
mod into;
mod known;
pub(super) mod nonblocking;
mod one;
mod order;
mod reduce;
mod steps;

use self::head::Head;
pub(super) use self::inferred::THEIRS;
pub(super) use self::steps::Steps;
use super::{Comm, Ragged, agreement::Subject, all, lengths};
use crate::{
    engine::{Collective, CollectiveCall, Label, Rank, collective},
    error::{Call, ErrorKind, Fault, Result, With},
};

impl Comm {
    /// Returns when all ranks have called it.
    ///
    /// # Collective
    /// ⌈log₂ p⌉ messages per rank on engines without a way of their own.
    #[track_caller]
    pub fn barrier(&self) -> Result<()> {
        self.together(all("barrier"), Subject::nothing(), |label| {
            self.collective(label, Collective::Barrier)
        })
    }

    /// Makes a collective call of the program: first all ranks agree that they make the same one,
    /// where that is asked for.
    #[inline(always)]
    pub(super) fn together<R>(
        &self,
        Call { op, with, at }: Call,
        subject: Subject,
        body: impl FnOnce(&Label) -> Result<R, Fault>,
    ) -> Result<R> {
        // Of its parts, twice: a copy of the whole would wait, see `Engine::enter`.
        let label = subject.label(Call { op, with, at });
        self.perform(Call { op, with, at }, || {
            self.same_call_on_all(&label, subject)?;
            body(&label)
        })
    }

    /// Makes a collective call in the engine's own way, or by messages.
    ///
    /// Inlined, so that the call is put together in its place; see
    /// [`Table::insert`](crate::engine::table::Table::insert).
    #[inline(always)]
    pub(super) fn collective(&self, label: &Label, what: Collective<'_>) -> Result<(), Fault> {
        let (context, rank, size) = (self.context, Rank::from(self.rank), self.size);
        let mut call = CollectiveCall { context, rank, size, seq: self.next_seq(), label, what };
        self.moved_by(&call.what);
        collective::make(&**self.engine, &mut call)
    }

    /// The messages of one collective call, which are none of the program's.
    pub(super) fn steps(&self, label: &Label) -> Steps<'_> {
        let tag = self.engine.step_tag(self.next_seq(), label);
        Steps { comm: self, label: *label, tag }
    }

    /// The length of a row of `count` elements from, or for, each rank.
    #[inline(always)]
    fn rows_of(&self, what: &'static str, count: usize) -> Result<usize, Fault> {
        lengths::product(what, [self.size, count])
    }

    fn check_rows<T>(&self, what: &'static str, rows: &Ragged<T>) -> Result<(), Fault> {
        check_length(what, self.size, rows.rows())
    }
}

/// A collective call with a root, made at the caller's place.
#[inline(always)]
#[track_caller]
pub(super) fn rooted(op: &'static str, root: usize) -> Call {
    Call::new(op, With::root(root))
}

/// Whether the memory that a call writes has room for `needed` values of `T`, and no more.
#[inline(always)]
pub(super) fn check_room<T>(what: &'static str, needed: usize, room: &[u8]) -> Result<(), Fault> {
    check_length(what, needed, room.len() / size_of::<T>())
}

#[inline(always)]
pub(super) fn check_length(what: &'static str, needed: usize, got: usize) -> Result<(), Fault> {
    if needed == got { Ok(()) } else { Err(ErrorKind::LengthMismatch { what, needed, got }.into()) }
}
