//! What a message looks like between processes where types are checked: a head that says what it is, then the data.
//!
//! ```text
//! | 16 bytes stamp of the type | 16 collective call | 4 root | 4 line | 8 length | 48 end of the file's name | data … |
//! ```
//!
//! MPI itself does not carry the type of a message, so a wrong one would be read as garbage; and of one that is longer than
//! its buffer libraries do not always say so (Open MPI 4.1 forgets it for a message to oneself), let alone how long it was. Small messages are copied
//! behind their head; of large ones a datatype describes the two parts where they are.
//!
//! Where types are not checked, a message is its data and nothing else.

use std::panic::Location;

use crate::{
    datum::Stamp,
    engine::{Label, Rank},
    error::{ErrorKind, Fault},
};

/// The size of the head.
pub(super) const HEAD: usize = 96;

/// What stands before the data of a message.
pub(super) type Head = [u8; HEAD];

/// Messages with a head are copied up to this size, head included; describing two parts costs more than copying does.
pub(super) const COPIED: usize = 8 * 1024;

/// The part of the head that sender and receiver must agree on.
const KIND: usize = 36;

/// The head of a message so labelled, of so many bytes, sent by a call at `at`.
pub(super) fn head(label: &Label, at: &Location<'_>, bytes: usize) -> Head {
    let mut head = [0; HEAD];
    head[..KIND].copy_from_slice(&kind(label));
    head[36..40].copy_from_slice(&at.line().to_le_bytes());
    head[40..48].copy_from_slice(&(bytes as u64).to_le_bytes());
    let file = at.file().as_bytes();
    let kept = file.len().min(48);
    head[48..48 + kept].copy_from_slice(&file[file.len() - kept..]);
    head
}

fn kind(label: &Label) -> [u8; KIND] {
    let mut kind = [0; KIND];
    let Stamp(stamp) = label.signature.stamp();
    kind[..16].copy_from_slice(&stamp);
    if let Some(step) = label.step {
        let op = step.call.op.as_bytes();
        let kept = op.len().min(16);
        kind[16..16 + kept].copy_from_slice(&op[..kept]);
        kind[32..].copy_from_slice(&step.call.with.root_number().to_le_bytes());
    }
    kind
}

fn number(head: &Head, at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&head[at..at + 4]);
    u32::from_le_bytes(bytes)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

/// How many bytes the message has, by its head.
pub(super) fn length(head: &Head) -> usize {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&head[40..48]);
    u64::from_le_bytes(bytes) as usize
}

/// The type of its values, by its head.
pub(super) fn type_name(head: &Head) -> String {
    let mut stamp = [0; 16];
    stamp.copy_from_slice(&head[..16]);
    Stamp(stamp).name()
}

/// Where it was sent: `src/main.rs:41`.
pub(super) fn place(head: &Head) -> String {
    format!("{}:{}", text(&head[48..]), number(head, 36))
}

/// Whether a message that `peer` sent is what the receiver expects.
pub(super) fn check(expected: &Label, head: &Head, peer: Rank) -> Result<(), Fault> {
    if head[..KIND] == kind(expected) {
        return Ok(());
    }
    let (rank, theirs) = (peer.index(), type_name(head));
    let mine = expected.signature.name();
    let kind = match expected.step {
        Some(step) => {
            let root = number(head, 32).checked_sub(1);
            let root = root.map_or(String::new(), |root| format!(" with root {root}"));
            let at = step.call.at;
            ErrorKind::CollectiveMismatch {
                mine: format!("{} of {mine} ({}:{})", step.call, at.file(), at.line()),
                rank,
                theirs: format!("{}{root} of {theirs} ({})", text(&head[16..32]), place(head)),
            }
        }
        None => ErrorKind::TypeMismatch { peer: rank, expected: mine.to_owned(), got: theirs },
    };
    Err(kind.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        datum::Signature,
        engine::Step,
        error::{Call, With},
    };

    fn label(signature: Signature) -> Label {
        Label { signature, step: None }
    }

    #[test]
    fn a_head_tells_length_type_and_place() {
        let here = Location::caller();
        let sent = head(&label(Signature::of::<f64>()), here, 800);
        assert_eq!(length(&sent), 800);
        assert_eq!(place(&sent), format!("{}:{}", file!(), here.line()));
        assert!(check(&label(Signature::of::<f64>()), &sent, Rank(3)).is_ok());
        let refused = check(&label(Signature::of::<u64>()), &sent, Rank(3)).unwrap_err();
        assert_eq!(refused.to_string(), "rank 3 sent values of type f64, this rank receives u64");
    }

    #[test]
    fn another_collective_is_named_with_its_root_and_place() {
        let step = |op, with| {
            let call = Call::new(op, with);
            Label { signature: Signature::of::<u8>(), step: Some(Step { call }) }
        };
        let (theirs, mine) = (step("bcast", With::root(2)), step("barrier", With::ALL));
        let at = theirs.step.unwrap().call.at;
        let sent = head(&theirs, at, 8);
        assert!(check(&theirs, &sent, Rank(1)).is_ok());
        assert!(check(&step("bcast", With::root(1)), &sent, Rank(1)).is_err());
        let refused = check(&mine, &sent, Rank(1)).unwrap_err().to_string();
        let expected =
            format!("rank 1 calls bcast with root 2 of u8 ({}:{})", at.file(), at.line());
        assert!(refused.ends_with(&expected), "{refused}");
    }
}
