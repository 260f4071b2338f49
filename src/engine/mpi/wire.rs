//! What a message looks like between processes: 16 bytes that say what it is, then the data.
//!
//! ```text
//! | 4 bytes hash of type and collective call | 12 bytes end of the type's name | data … |
//! ```
//!
//! MPI itself does not carry the type of a message, so a wrong one would be read as garbage. Small messages are copied
//! behind their stamp; of large ones a datatype describes the two parts where they are.

use crate::{
    datum::Stamp,
    engine::{Label, Rank},
    error::{ErrorKind, With},
};

/// The size of the stamp.
pub(super) const STAMP: usize = 16;

/// Messages up to this size, stamp included, are copied; the cost of describing two parts is larger than that of copying.
pub(super) const COPIED: usize = 8 * 1024;

/// The stamp of a message so labelled.
pub(super) fn stamp(label: &Label) -> [u8; STAMP] {
    let Stamp(mut stamp) = label.signature.stamp();
    if let Some(step) = label.step {
        let root = if let With::Root(root) = step.call.with { root + 1 } else { 0 };
        let mut hash = u32::from_le_bytes([stamp[0], stamp[1], stamp[2], stamp[3]]);
        for byte in step.call.op.bytes().chain(root.to_le_bytes()) {
            hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193); // FNV-1a, as for the type
        }
        stamp[..4].copy_from_slice(&hash.to_le_bytes());
    }
    stamp
}

/// Whether a message stamped `got` that `peer` sent is what the receiver expects.
pub(super) fn check(expected: &Label, got: &[u8], peer: Rank) -> Result<(), ErrorKind> {
    if got == stamp(expected) {
        return Ok(());
    }
    let rank = peer.index();
    let mut theirs = [0; STAMP];
    theirs[..got.len().min(STAMP)].copy_from_slice(&got[..got.len().min(STAMP)]);
    let theirs = Stamp(theirs).name();
    let mine = expected.signature.name();
    Err(match expected.step {
        Some(step) => ErrorKind::CollectiveMismatch {
            mine: format!("{} of {mine}", step.call),
            rank,
            theirs: format!("another call, or the same with values of type {theirs}"),
        },
        None => ErrorKind::TypeMismatch { peer: rank, expected: mine.to_owned(), got: theirs },
    })
}
