//! Whether all ranks make the same collective call, found out before it begins.
//!
//! `local` compares the calls itself, as they meet. A real MPI does not: two ranks in different
//! collectives hang there or take each other's data. From `--checks collective` on, every call is
//! therefore preceded by an allgather, by messages of our own, of what each rank is about to do: 2
//! ⌈log₂ p⌉ messages per rank, up to 160 p bytes long.

use super::{Comm, step};
use crate::{
    datum::{Datum, Signature, Stamp},
    engine::{Collective, CollectiveCall, Counts, Label, Rank, Step, schedule},
    error::{Call, ErrorKind, Fault, With},
};

/// What a collective call is about, as far as it must be the same on all ranks.
#[derive(Clone, Copy)]
pub(super) struct Subject {
    signature: Signature,
    /// The number of elements, where all ranks must have equally many.
    count: Option<usize>,
}

impl Subject {
    /// No data at all.
    pub(super) fn nothing() -> Self {
        Self { signature: Signature::NOTHING, count: None }
    }

    /// Values of `T`, any number of them on each rank.
    pub(super) fn any<T: Datum>() -> Self {
        Self { signature: Signature::of::<T>(), count: None }
    }

    /// Values of `T`, equally many on each rank.
    pub(super) fn equal<T: Datum>(count: usize) -> Self {
        Self { signature: Signature::of::<T>(), count: Some(count) }
    }

    /// Values as many as these, on each rank.
    pub(super) fn like<T: Datum>(values: &[T]) -> Self {
        Self::equal::<T>(values.len())
    }

    /// Serialized objects.
    pub(super) fn objects() -> Self {
        Self { signature: Signature::OBJECT, count: None }
    }

    /// The label of the messages of the call.
    #[inline(always)]
    pub(super) fn label(&self, call: Call) -> Label {
        step(self.signature, call)
    }
}

impl Comm {
    /// Makes sure that all ranks make the same collective call, where the engine does not do so
    /// itself and [`Checks::Collective`](crate::Checks) is asked for. To be called first in every
    /// blocking collective.
    #[inline]
    pub(super) fn same_call_on_all(&self, label: &Label, subject: Subject) -> Result<(), Fault> {
        if self.engine.leaves_agreement() && self.size > 1 {
            self.compare_calls(label, subject)
        } else {
            Ok(())
        }
    }

    #[cold]
    fn compare_calls(&self, label: &Label, subject: Subject) -> Result<(), Fault> {
        let Some(Step { call }) = label.step else { return Err(ErrorKind::Closed.into()) };
        let mine = Record::new(call, subject);
        let mut all = vec![mine; self.size];
        let what = Collective::Allgather {
            mine: bytemuck::bytes_of(&mine),
            counts: Counts::Equal(size_of::<Record>()),
            out: bytemuck::cast_slice_mut(&mut all),
        };
        let (context, rank, size) = (self.context, Rank::from(self.rank), self.size);
        let agreement = Call { op: "a collective call", with: With::ALL, at: call.at };
        let label = &step(Signature::OBJECT, agreement);
        let mut exchange =
            CollectiveCall { context, rank, size, seq: self.next_seq(), label, what };
        schedule::run(&**self.engine, &mut exchange)?;
        match all.iter().position(|theirs| !theirs.agrees(&mine)) {
            None => Ok(()),
            Some(rank) => Err(ErrorKind::CollectiveMismatch {
                mine: mine.describe(),
                rank,
                theirs: all[rank].describe(),
            }
            .into()),
        }
    }
}

/// A collective call of one rank, in words that travel.
#[derive(Clone, Copy, bytemuck::NoUninit, bytemuck::AnyBitPattern)]
#[repr(C)]
struct Record {
    /// The root's number plus 1, 0 without a root.
    root: u64,
    /// The number of elements plus 1, 0 where it does not matter.
    count: u64,
    stamp: [u8; Stamp::BYTES],
    op: [u8; 24],
    type_name: [u8; 32],
    /// File and line.
    at: [u8; 64],
}

impl Record {
    fn new(call: Call, subject: Subject) -> Self {
        let root = u64::from(call.with.root_number());
        let count = subject.count.map_or(0, |count| (count as u64).saturating_add(1));
        let Stamp(stamp) = subject.signature.stamp();
        let at = format!("{}:{}", call.at.file(), call.at.line());
        let type_name = text(subject.signature.name());
        Self { root, count, stamp, op: text(call.op), type_name, at: text(&at) }
    }

    /// Ranks may call from different places in the source.
    fn agrees(&self, other: &Self) -> bool {
        let key = |one: &Self| (one.op, one.root, one.stamp, one.count);
        key(self) == key(other)
    }

    fn describe(&self) -> String {
        let root = match self.root {
            0 => String::new(),
            root => format!(" with root {}", root - 1),
        };
        let elements = match self.count {
            0 => " of".to_owned(),
            1 => " with no elements of".to_owned(),
            2 => " with 1 element of".to_owned(),
            count => format!(" with {} elements of", count - 1),
        };
        let (op, type_name, at) = (words(&self.op), words(&self.type_name), words(&self.at));
        format!("{op}{root}{elements} {type_name} ({at})")
    }
}

/// The text, or its end if it is long.
fn text<const N: usize>(text: &str) -> [u8; N] {
    let bytes = text.as_bytes();
    let kept = &bytes[bytes.len().saturating_sub(N)..];
    let mut room = [0; N];
    room[..kept.len()].copy_from_slice(kept);
    room
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}
