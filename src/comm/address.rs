//! Whom a message goes to and whom it comes from.

use super::plain;
use crate::{
    datum::Signature,
    engine::{Choice, Context, Rank, Source, Tag, Target},
    error::{ErrorKind, Fault, With},
};

/// No rank at all: messages to it vanish, messages from it are empty.
/// [`Cart`](crate::topology::Cart) uses it beyond closed borders.
pub const NULL_RANK: usize = usize::MAX;

/// Any rank, or any tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Any;

/// Any rank, or any tag: `recv(ANY)`, `recv((ANY, 7))`, `recv((3, ANY))`, `recv((ANY, ANY))`.
pub const ANY: Any = Any;

/// Where a message goes: `3`, `(3, tag)`, or `None` for the null rank. The tag is 0 unless given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dest {
    pub(super) rank: usize,
    pub(super) tag: u32,
}

/// Where a message comes from: `3`, `ANY`, `(3, tag)`, `(ANY, tag)`, `(3, ANY)`, or `None` for the
/// null rank. The tag is 0 unless given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Src {
    /// `None` is any rank.
    pub(super) rank: Option<usize>,
    /// `None` is any tag.
    pub(super) tag: Option<u32>,
}

/// What has been received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The rank that sent it; [`NULL_RANK`] if there was none.
    pub source: usize,
    /// Its tag.
    pub tag: u32,
    /// The number of elements.
    pub count: usize,
}

impl Status {
    pub(super) const NULL: Self = Self { source: NULL_RANK, tag: 0, count: 0 };
}

/// Whom messages can go to and come from, and with which tags.
#[derive(Clone, Copy)]
pub(super) struct Space {
    pub(super) context: Context,
    pub(super) size: usize,
    pub(super) max_tag: Tag,
}

/// Addresses are made in their places: handed on through memory they would wait there, see
/// [`Fault`].
impl Space {
    #[inline(always)]
    pub(super) fn rank(&self, rank: usize) -> Result<Rank, Fault> {
        if rank < self.size { Ok(Rank::from(rank)) } else { Err(self.no_rank(rank)) }
    }

    #[cold]
    fn no_rank(&self, rank: usize) -> Fault {
        ErrorKind::InvalidRank { rank, size: self.size }.into()
    }

    #[inline(always)]
    fn tag(&self, tag: u32) -> Result<Tag, Fault> {
        if tag <= self.max_tag.0 { Ok(Tag(tag)) } else { Err(self.no_tag(tag)) }
    }

    #[cold]
    fn no_tag(&self, tag: u32) -> Fault {
        ErrorKind::InvalidTag { tag, max: self.max_tag.0 }.into()
    }

    #[inline(always)]
    pub(super) fn target(&self, to: Dest, signature: Signature) -> Result<Target, Fault> {
        let (rank, tag) = (self.rank(to.rank)?, self.tag(to.tag)?);
        Ok(Target { context: self.context, rank, tag, label: plain(signature) })
    }

    #[inline(always)]
    pub(super) fn source(&self, from: Src, signature: Signature) -> Result<Source, Fault> {
        if from.is_null() {
            return Err(nothing_comes());
        }
        let rank = from.rank.map(|rank| self.rank(rank)).transpose()?;
        let tag = from.tag.map(|tag| self.tag(tag)).transpose()?;
        Ok(Source {
            context: self.context,
            choice: Choice::new(rank, tag),
            label: plain(signature),
        })
    }
}

#[cold]
fn nothing_comes() -> Fault {
    let what = "the null rank sends nothing that could be waited for".to_owned();
    ErrorKind::InvalidArgument { what }.into()
}

impl Dest {
    pub(super) fn is_null(self) -> bool {
        self.rank == NULL_RANK
    }

    pub(super) fn with(self) -> With {
        With::to(self.rank, self.tag)
    }
}

impl Src {
    pub(super) fn with(self) -> With {
        With::from(self.rank, self.tag)
    }

    pub(super) fn is_null(self) -> bool {
        self.rank == Some(NULL_RANK)
    }
}

impl From<usize> for Dest {
    fn from(rank: usize) -> Self {
        Self { rank, tag: 0 }
    }
}

impl From<(usize, u32)> for Dest {
    fn from((rank, tag): (usize, u32)) -> Self {
        Self { rank, tag }
    }
}

impl From<Option<usize>> for Dest {
    fn from(rank: Option<usize>) -> Self {
        Self { rank: rank.unwrap_or(NULL_RANK), tag: 0 }
    }
}

impl From<(Option<usize>, u32)> for Dest {
    fn from((rank, tag): (Option<usize>, u32)) -> Self {
        Self { rank: rank.unwrap_or(NULL_RANK), tag }
    }
}

impl From<usize> for Src {
    fn from(rank: usize) -> Self {
        Self { rank: Some(rank), tag: Some(0) }
    }
}

impl From<Any> for Src {
    fn from(_: Any) -> Self {
        Self { rank: None, tag: Some(0) }
    }
}

impl From<(usize, u32)> for Src {
    fn from((rank, tag): (usize, u32)) -> Self {
        Self { rank: Some(rank), tag: Some(tag) }
    }
}

impl From<(Any, u32)> for Src {
    fn from((_, tag): (Any, u32)) -> Self {
        Self { rank: None, tag: Some(tag) }
    }
}

impl From<(usize, Any)> for Src {
    fn from((rank, _): (usize, Any)) -> Self {
        Self { rank: Some(rank), tag: None }
    }
}

impl From<(Any, Any)> for Src {
    fn from(_: (Any, Any)) -> Self {
        Self { rank: None, tag: None }
    }
}

impl From<Option<usize>> for Src {
    fn from(rank: Option<usize>) -> Self {
        Self { rank: Some(rank.unwrap_or(NULL_RANK)), tag: Some(0) }
    }
}

impl From<(Option<usize>, u32)> for Src {
    fn from((rank, tag): (Option<usize>, u32)) -> Self {
        Self { rank: Some(rank.unwrap_or(NULL_RANK)), tag: Some(tag) }
    }
}
