//! What a message looks like between processes where types are checked: a head that says what it
//! is, then the data.
//!
//! ```text
//! | 24 bytes stamp of the type | 16 collective call | 4 root | 4 line | 8 length | 40 end of the file's name | data … |
//! ```
//!
//! MPI itself does not carry the type of a message, so a wrong one would be read as garbage; and of
//! one that is longer than its buffer libraries do not always say so (Open MPI 4.1 forgets it for a
//! message to oneself), let alone how long it was. Small messages are copied behind their head; of
//! large ones a datatype describes the two parts where they are.
//!
//! Where types are not checked, a message is its data and nothing else.

use std::panic::Location;

use super::guard;
use crate::{
    datum::{Signature, Stamp, fnv1a},
    engine::{Label, Rank},
    error::{Call, ErrorKind, Fault},
};

/// The size of the head.
pub(super) const HEAD: usize = 96;

/// What stands before the data of a message.
pub(super) type Head = [u8; HEAD];

/// Messages with a head are copied up to this size, head included; describing two parts costs more
/// than copying does.
pub(super) const COPIED: usize = 8 * 1024;

/// Where the parts begin; sender and receiver must agree on those before the line.
const OP: usize = Stamp::BYTES;
const ROOT: usize = OP + 16;
const LINE: usize = ROOT + 4;
const LENGTH: usize = LINE + 4;
const FILE: usize = LENGTH + 8;
const KIND: usize = LINE;

/// The head of a message so labelled, of so many bytes, sent by a call at `at`.
pub(super) fn head(label: &Label, at: &Location<'_>, bytes: usize) -> Head {
    let mut head = [0; HEAD];
    head[..KIND].copy_from_slice(&kind(label));
    head[LINE..LENGTH].copy_from_slice(&at.line().to_le_bytes());
    head[LENGTH..FILE].copy_from_slice(&(bytes as u64).to_le_bytes());
    let file = at.file().as_bytes();
    let kept = file.len().min(HEAD - FILE);
    head[FILE..FILE + kept].copy_from_slice(&file[file.len() - kept..]);
    head
}

/// The head with a [`guard::Apart`] behind it.
pub(super) fn apart(head: &Head) -> [u8; HEAD + guard::Apart::BYTES] {
    let mut both = [0; HEAD + guard::Apart::BYTES];
    both[..HEAD].copy_from_slice(head);
    both
}

fn kind(label: &Label) -> [u8; KIND] {
    let mut kind = [0; KIND];
    let Stamp(stamp) = label.signature.stamp();
    kind[..OP].copy_from_slice(&stamp);
    if let Some(step) = label.step {
        let op = step.call.op.as_bytes();
        let kept = op.len().min(ROOT - OP);
        kind[OP..OP + kept].copy_from_slice(&op[..kept]);
        kind[ROOT..].copy_from_slice(&step.call.with.root_number().to_le_bytes());
    }
    kind
}

/// What a collective call is, in few bits: its verb and operator, root and type.
pub(super) fn digest(call: Call, signature: Signature) -> u32 {
    let Stamp(stamp) = signature.stamp();
    let root = call.with.root_number().to_le_bytes();
    let hash = fnv1a(call.op.bytes().chain(root).chain(stamp));
    (hash ^ hash >> 32) as u32
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
    bytes.copy_from_slice(&head[LENGTH..FILE]);
    u64::from_le_bytes(bytes) as usize
}

/// The type of its values, by its head.
pub(super) fn type_name(head: &Head) -> String {
    let mut stamp = [0; Stamp::BYTES];
    stamp.copy_from_slice(&head[..OP]);
    Stamp(stamp).name()
}

/// Where it was sent: `src/main.rs:41`.
pub(super) fn place(head: &Head) -> String {
    format!("{}:{}", text(&head[FILE..]), number(head, LINE))
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
            let root = number(head, ROOT).checked_sub(1);
            let root = root.map_or(String::new(), |root| format!(" with root {root}"));
            let at = step.call.at;
            ErrorKind::CollectiveMismatch {
                mine: format!("{} of {mine} ({}:{})", step.call, at.file(), at.line()),
                rank,
                theirs: format!("{}{root} of {theirs} ({})", text(&head[OP..ROOT]), place(head)),
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
