//! What all threads of a rank can use at the same time.

use std::sync::Arc;

use super::MpiEngine;
use crate::{
    engine::{Context, SharedEngine},
    error::ErrorKind,
};

pub(super) fn open(
    _: &MpiEngine,
    _: Context,
    _turn: u64,
) -> Result<Arc<dyn SharedEngine>, ErrorKind> {
    Err(UNFINISHED)
}

const UNFINISHED: ErrorKind = ErrorKind::Unsupported { what: "not built yet", how: "" };
