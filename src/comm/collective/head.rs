//! What goes first where a length is not known to all: so that small data need no second step.

use crate::{
    datum::{Signature, Stamp},
    engine::Label,
    error::{ErrorKind, Fault},
};

/// Up to this many bytes travel in the head itself.
pub(super) const INLINE: usize = 88;

/// Length and type of what one rank has for another, and the data if they fit.
#[derive(Clone, Copy, bytemuck::NoUninit, bytemuck::AnyBitPattern)]
#[repr(C)]
pub(super) struct Head {
    bytes: u64,
    /// 1 if some data of the sender do not fit into their head, so that a second step follows.
    more: u64,
    stamp: [u8; Stamp::BYTES],
    inline: [u8; INLINE],
}

impl Head {
    pub(super) const EMPTY: Self =
        Self { bytes: 0, more: 0, stamp: [0; Stamp::BYTES], inline: [0; INLINE] };

    pub(super) fn of(signature: Signature, data: &[u8]) -> Self {
        let Stamp(stamp) = signature.stamp();
        let mut inline = [0; INLINE];
        if let Some(place) = inline.get_mut(..data.len()) {
            place.copy_from_slice(data);
        }
        Self { bytes: data.len() as u64, more: u64::from(data.len() > INLINE), stamp, inline }
    }

    /// The heads of rows that go to one rank each.
    pub(super) fn of_rows<'r>(
        signature: Signature,
        rows: impl Iterator<Item = &'r [u8]>,
    ) -> Vec<Self> {
        let mut heads: Vec<Self> = rows.map(|row| Self::of(signature, row)).collect();
        let more = u64::from(heads.iter().any(Self::is_followed));
        for head in &mut heads {
            head.more = more;
        }
        heads
    }

    /// The length of `rank`'s data in bytes, if they are of the type that `mine` says.
    pub(super) fn check(&self, mine: &Label, rank: usize) -> Result<usize, Fault> {
        if Stamp(self.stamp) == mine.signature.stamp() {
            return Ok(self.bytes as usize);
        }
        let op = mine.step.map_or("message", |step| step.call.op);
        Err(ErrorKind::CollectiveMismatch {
            mine: format!("{op} of {}", mine.signature.name()),
            rank,
            theirs: format!("{op} of {}", Stamp(self.stamp).name()),
        }
        .into())
    }

    /// The lengths in bytes of what all ranks have, if they are of the type that `mine` says.
    pub(super) fn check_all(heads: &[Self], mine: &Label) -> Result<Vec<usize>, Fault> {
        heads.iter().enumerate().map(|(rank, head)| head.check(mine, rank)).collect()
    }

    /// Whether a second step follows on the part of the sender.
    pub(super) fn is_followed(&self) -> bool {
        self.more != 0
    }

    /// The data, if they are in the head.
    pub(super) fn inline(&self) -> Option<&[u8]> {
        self.inline.get(..self.bytes as usize)
    }

    /// Lays the data of heads that have all of them one behind the other.
    pub(super) fn unfold(heads: &[Self], mut out: &mut [u8]) {
        for inline in heads.iter().filter_map(Self::inline) {
            let (row, rest) = out.split_at_mut(inline.len());
            row.copy_from_slice(inline);
            out = rest;
        }
    }
}
