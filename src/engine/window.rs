//! One-sided access: [`Windows`] of memory that other ranks read and change.

use super::{Builtin, Context, Element, Rank};
use crate::{
    datum::LentWrite,
    error::{ErrorKind, Fault},
};

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

fn no_windows() -> Fault {
    ErrorKind::Unsupported { what: "windows", how: "choose another engine" }.into()
}
