//! Non-blocking collectives.

use super::LocalEngine;
use crate::{
    engine::{Exchange, Op},
    error::ErrorKind,
};

pub(super) fn start(_: &LocalEngine, _call: Exchange) -> Result<Op, ErrorKind> {
    Err(UNFINISHED)
}

const UNFINISHED: ErrorKind = ErrorKind::Unsupported { what: "not built yet", how: "" };
