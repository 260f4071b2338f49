//! What a message looks like between processes: a head that says what it is, then the data.
//!
//! ```text
//! | 4 bytes hash of type and collective call | 12 bytes end of the type's name | 8 bytes length | data … |
//! ```
//!
//! MPI itself does not carry the type of a message, so a wrong one would be read as garbage; and of one that is longer than
//! its buffer libraries do not always say so (Open MPI 4.1 forgets it for a message to oneself), let alone how long it was. Small messages are copied
//! behind their head; of large ones a datatype describes the two parts where they are.

use crate::{
    datum::{Stamp, fnv1a},
    engine::{Label, Rank},
    error::{ErrorKind, With},
};

/// The size of the head.
pub(super) const HEAD: usize = 24;

/// What stands before the data of a message.
pub(super) type Head = [u8; HEAD];

/// Messages up to this size, head included, are copied; describing two parts costs more than copying does.
pub(super) const COPIED: usize = 8 * 1024;

/// The head of a message so labelled, of so many bytes.
pub(super) fn head(label: &Label, bytes: usize) -> Head {
    let mut head = [0; HEAD];
    head[..16].copy_from_slice(&stamp(label));
    head[16..].copy_from_slice(&(bytes as u64).to_le_bytes());
    head
}

fn stamp(label: &Label) -> [u8; 16] {
    let Stamp(mut stamp) = label.signature.stamp();
    if let Some(step) = label.step {
        let root = if let With::Root(root) = step.call.with { root + 1 } else { 0 };
        let hash = u32::from_le_bytes([stamp[0], stamp[1], stamp[2], stamp[3]]);
        let hash = fnv1a(hash, step.call.op.bytes().chain(root.to_le_bytes()));
        stamp[..4].copy_from_slice(&hash.to_le_bytes());
    }
    stamp
}

/// How many bytes the message has, by its head.
pub(super) fn length(head: &Head) -> usize {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&head[16..]);
    u64::from_le_bytes(bytes) as usize
}

/// Whether a message that `peer` sent is what the receiver expects.
pub(super) fn check(expected: &Label, head: &Head, peer: Rank) -> Result<(), ErrorKind> {
    if head[..16] == stamp(expected) {
        return Ok(());
    }
    let mut theirs = [0; 16];
    theirs.copy_from_slice(&head[..16]);
    let (rank, theirs) = (peer.index(), Stamp(theirs).name());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datum::Signature;

    fn label(signature: Signature) -> Label {
        Label { signature, step: None }
    }

    #[test]
    fn a_head_tells_length_and_type() {
        let sent = head(&label(Signature::of::<f64>()), 800);
        assert_eq!(length(&sent), 800);
        assert!(check(&label(Signature::of::<f64>()), &sent, Rank(3)).is_ok());
        let refused = check(&label(Signature::of::<u64>()), &sent, Rank(3)).unwrap_err();
        assert_eq!(refused.to_string(), "rank 3 sent values of type f64, this rank receives u64");
    }
}
