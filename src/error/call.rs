//! What the program called, with whom, and where in its source.

use std::{fmt, panic::Location};

/// A call of the program on a communicator, as errors and reports name it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) op: &'static str,
    pub(crate) with: With,
    pub(crate) at: &'static Location<'static>,
}

/// The other side of a call.
///
/// Every call of the program notes it, on the way of each message; as two words it stays in
/// registers until it is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct With {
    /// The kind of the other side, and in the lower half a rank.
    whom: u64,
    tag: u32,
}

/// The whole communicator.
const EVERYBODY: u32 = 0;
/// The whole communicator, one rank of which has a special part.
const ROOT: u32 = 1;
/// A message to a rank.
const TO: u32 = 2;
/// A message from a rank, or from any; with a tag, or any.
const FROM: u32 = 3;

/// Any rank or any tag; neither can be so large.
const ANY: u32 = u32::MAX;
/// The null rank.
const NOBODY: u32 = u32::MAX - 1;

impl With {
    pub(crate) const ALL: Self = Self::new(EVERYBODY, 0, 0);

    #[inline]
    const fn new(side: u32, rank: u32, tag: u32) -> Self {
        Self { whom: (side as u64) << 32 | rank as u64, tag }
    }

    #[inline]
    pub(crate) fn root(root: usize) -> Self {
        Self::new(ROOT, short(root), 0)
    }

    #[inline]
    pub(crate) fn to(rank: usize, tag: u32) -> Self {
        Self::new(TO, short(rank), tag)
    }

    #[inline]
    pub(crate) fn from(rank: Option<usize>, tag: Option<u32>) -> Self {
        Self::new(FROM, rank.map_or(ANY, short), tag.unwrap_or(ANY))
    }

    fn parts(self) -> (u32, u32, u32) {
        ((self.whom >> 32) as u32, self.whom as u32, self.tag)
    }

    /// The rank that has a special part, or is on the other side, if it is one.
    pub(crate) fn peer(self) -> Option<usize> {
        match self.parts() {
            (EVERYBODY, ..) | (_, ANY | NOBODY, _) => None,
            (_, rank, _) => Some(rank as usize),
        }
    }

    /// The number by which calls are told apart that are alike but for the root: 0 is none.
    pub(crate) fn root_number(self) -> u32 {
        match self.parts() {
            (ROOT, root, _) => root + 1,
            _ => 0,
        }
    }
}

/// A rank in few bytes. Numbers that no rank can have become the largest that is one to the eye.
#[inline]
fn short(rank: usize) -> u32 {
    match u32::try_from(rank) {
        Ok(rank) => rank.min(NOBODY - 1),
        Err(_) if rank == usize::MAX => NOBODY,
        Err(_) => NOBODY - 1,
    }
}

impl Call {
    /// The call `op` made at the caller's place in the source.
    #[inline]
    #[track_caller]
    pub(crate) fn new(op: &'static str, with: With) -> Self {
        Self { op, with, at: Location::caller() }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.op)?;
        let (side, rank, tag) = self.with.parts();
        match (side, rank) {
            (ROOT, _) => write!(f, " with root {rank}"),
            (TO, NOBODY) => f.write_str(" to nobody"),
            (FROM, NOBODY) => f.write_str(" from nobody"),
            (TO, _) => write!(f, " to rank {rank} tag {tag}"),
            (FROM, _) => {
                match rank {
                    ANY => f.write_str(" from any rank")?,
                    _ => write!(f, " from rank {rank}")?,
                }
                match tag {
                    ANY => f.write_str(" any tag"),
                    _ => write!(f, " tag {tag}"),
                }
            }
            _ => Ok(()),
        }
    }
}

/// A place in the source, as messages end with it; nothing where it lies in the standard library,
/// of which the reader knows nothing: what is given to it by name (`map_err(Failure::from)`) is
/// called from there.
pub(crate) struct Place<'a>(pub(crate) &'a Location<'a>);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, line) = (self.0.file(), self.0.line());
        let standard = ["/library/core/src/", "/library/alloc/src/", "/library/std/src/"];
        if standard.iter().any(|library| file.contains(library)) {
            return Ok(());
        }
        write!(f, " ({file}:{line})")
    }
}
