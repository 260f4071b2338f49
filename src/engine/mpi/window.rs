//! Windows: memory that other ranks reach.

use super::MpiEngine;
use crate::{
    datum::RawBytes,
    engine::{Access, Context, Rank, Rma, WindowId},
    error::ErrorKind,
};

pub(super) fn open(
    _engine: &MpiEngine,
    _context: Context,
    _turn: u64,
    _bytes: usize,
    _access: Access,
) -> Result<WindowId, ErrorKind> {
    Err(UNFINISHED)
}

pub(super) fn node(_: &MpiEngine, _: Context, _turn: u64) -> Result<u32, ErrorKind> {
    Err(UNFINISHED)
}

pub(super) fn part(_: &MpiEngine, _: WindowId, _: Rank) -> Result<RawBytes, ErrorKind> {
    Err(UNFINISHED)
}

pub(super) fn access(
    _engine: &MpiEngine,
    _window: WindowId,
    _target: Rank,
    _offset: usize,
    _what: Rma<'_>,
) -> Result<(), ErrorKind> {
    Err(UNFINISHED)
}

pub(super) fn lock(_: &MpiEngine, _: WindowId, _: Rank, _exclusive: bool) -> Result<(), ErrorKind> {
    Err(UNFINISHED)
}

pub(super) fn unlock(_: &MpiEngine, _: WindowId, _: Rank) -> Result<(), ErrorKind> {
    Err(UNFINISHED)
}

pub(super) fn flush(_: &MpiEngine, _: WindowId) -> Result<(), ErrorKind> {
    Err(UNFINISHED)
}

pub(super) fn close(_: &MpiEngine, _: WindowId) -> Result<(), ErrorKind> {
    Err(UNFINISHED)
}

const UNFINISHED: ErrorKind = ErrorKind::Unsupported { what: "not built yet", how: "" };
