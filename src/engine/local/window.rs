//! Windows: memory that other ranks reach.

use super::LocalEngine;
use crate::{
    datum::RawBytes,
    engine::{Access, Context, Rank, Rma, WindowId},
    error::ErrorKind,
};

pub(super) fn open(
    _engine: &LocalEngine,
    _context: Context,
    _turn: u64,
    _bytes: usize,
    _access: Access,
) -> Result<WindowId, ErrorKind> {
    Err(UNFINISHED)
}

pub(super) fn part(_: &LocalEngine, _: WindowId, _: Rank) -> Result<RawBytes, ErrorKind> {
    Err(UNFINISHED)
}

pub(super) fn access(
    _engine: &LocalEngine,
    _window: WindowId,
    _target: Rank,
    _offset: usize,
    _what: Rma<'_>,
) -> Result<(), ErrorKind> {
    Err(UNFINISHED)
}

pub(super) fn lock(
    _: &LocalEngine,
    _: WindowId,
    _: Rank,
    _exclusive: bool,
) -> Result<(), ErrorKind> {
    Err(UNFINISHED)
}

pub(super) fn unlock(_: &LocalEngine, _: WindowId, _: Rank) -> Result<(), ErrorKind> {
    Err(UNFINISHED)
}

pub(super) fn flush(_: &LocalEngine, _: WindowId) -> Result<(), ErrorKind> {
    Err(UNFINISHED)
}

pub(super) fn close(_: &LocalEngine, _: WindowId) -> Result<(), ErrorKind> {
    Err(UNFINISHED)
}

const UNFINISHED: ErrorKind = ErrorKind::Unsupported { what: "not built yet", how: "" };
