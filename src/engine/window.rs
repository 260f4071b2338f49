//! The vocabulary of one-sided access: windows of memory that other ranks read and change.

use super::{Builtin, Element};

/// An engine's name for a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WindowId(pub(crate) u32);

impl WindowId {
    /// No window: what could not be opened.
    pub(crate) const NONE: Self = Self(u32::MAX);
}

/// How a window is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Access {
    /// By [`Rma`] from any rank.
    Remote,
    /// By plain loads and stores; all ranks are on one host.
    Shared,
}

/// An access to another rank's part of a window.
pub(crate) enum Rma<'a> {
    /// Overwrites. Accesses that overlap leave unspecified bytes, nothing worse.
    Put(&'a [u8]),
    /// Reads. Bytes that are being overwritten are unspecified, nothing worse.
    Get(&'a mut [u8]),
    /// Combines each element with one of the operands, atomically against other `Accumulate`,
    /// `FetchOp` and `CompareSwap`.
    Accumulate { operand: &'a [u8], update: Update, element: Element },
    /// The same, and fetches each element as it was before.
    FetchOp { operand: &'a [u8], before: &'a mut [u8], update: Update, element: Element },
    /// Replaces one element by `swap` if it equals `compare`; fetches it as it was before. Integers
    /// only.
    CompareSwap { compare: &'a [u8], swap: &'a [u8], before: &'a mut [u8], element: Element },
}

/// What an element becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Update {
    /// `element op operand`.
    Combine(Builtin),
    /// The operand.
    Replace,
    /// What it was.
    NoOp,
}
