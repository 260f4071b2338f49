//! Collectives that do not wait.

use super::{Builtin, CollectiveKind, Element, Pattern, fits, sum};
use crate::{
    datum::Buffer,
    engine::{Context, Label, Rank},
    error::{ErrorKind, Fault},
};

/// A non-blocking collective call of one rank. Nobody but the contributor need know a length.
pub(crate) struct Exchange {
    pub(crate) context: Context,
    pub(crate) rank: Rank,
    pub(crate) size: usize,
    /// As in [`CollectiveCall`].
    pub(crate) seq: u64,
    pub(crate) label: Label,
    pub(crate) kind: CollectiveKind,
    /// What this rank contributes: its rows one behind the other, or nothing if it has no part in
    /// the pattern.
    pub(crate) mine: Box<dyn Buffer>,
    /// The bytes of each row of `mine`: one number for each rank (`Each`, and the root of
    /// `RowsFromRoot`), else a single one or none.
    pub(crate) counts: Vec<usize>,
    /// A native reduction that the engine may make instead: all ranks contribute equally many
    /// bytes, and the exchange brings one row, the result (no row on ranks that get none). Without
    /// it, or where the engine declines, the rows come as they are.
    pub(crate) reduce: Option<(Builtin, Element)>,
    /// Makes memory for so many bytes.
    pub(crate) room: fn(usize) -> Box<dyn Buffer>,
}

impl Exchange {
    /// Whose rows go where, if they lie in the contribution: asked by every engine before it looks
    /// there.
    pub(crate) fn check(&self) -> Result<Pattern, Fault> {
        let Self { rank, size, kind, mine, counts, .. } = self;
        let Some(pattern) = kind.pattern() else {
            let what = "an exchange between neighbours";
            return Err(ErrorKind::Unsupported { what, how: "send along the edges" }.into());
        };
        let (bytes, of_each) = (
            mine.bytes().len(),
            match pattern {
                Pattern::Each => true,
                Pattern::RowsFromRoot(root) => root == *rank,
                _ => false,
            },
        );
        if of_each {
            fits("the number of rows", Some(*size), counts.len())?;
        }
        let total = if counts.is_empty() { Some(bytes) } else { sum(counts) };
        fits("what this rank contributes in bytes", total, bytes)?;
        Ok(pattern)
    }
}

/// What a non-blocking collective has brought.
pub(crate) struct Exchanged {
    /// The rows that came, by rank, one behind the other.
    pub(crate) rows: Box<dyn Buffer>,
    /// Their lengths in bytes: one number for each rank, or a single one (from a root, or a native
    /// reduction), or none.
    pub(crate) counts: Vec<usize>,
    /// Whether `rows` is the result of a native reduction.
    pub(crate) reduced: bool,
}
