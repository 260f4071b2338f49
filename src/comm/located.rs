//! Extremes with the place where they were found.

use std::fmt;

use super::{Number, ReduceOp};

/// A number and where it stands: what [`MinLoc`] and [`MaxLoc`] compare.
///
/// The index is what the program counts places by: a rank, or a global index. Without padding for
/// every number type, so that it is a [`Datum`](crate::Datum).
///
/// ```
/// use spmd::op::{Located, MaxLoc};
/// let temperatures = [20.5, 23.0, 23.0];
/// let hottest = spmd::local(3, |world| {
///     let mine = Located::new(temperatures[world.rank()], world.rank() as u64);
///     Ok(world.allreduce(&[mine], MaxLoc)?[0])
/// });
/// let hottest = hottest.unwrap()[2];
/// assert_eq!((hottest.value(), hottest.index()), (23.0, 1));
/// ```
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, packed)]
pub struct Located<T> {
    value: T,
    index: u64,
}

impl<T: Number> Located<T> {
    /// The value found at `index`.
    pub fn new(value: T, index: u64) -> Self {
        Self { value, index }
    }

    /// What was found.
    pub fn value(&self) -> T {
        self.value
    }

    /// Where it was found.
    pub fn index(&self) -> u64 {
        self.index
    }
}

impl<T: Number> PartialEq for Located<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.value(), self.index()) == (other.value(), other.index())
    }
}

impl<T: Number + fmt::Debug> fmt::Debug for Located<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {}", self.value(), self.index())
    }
}

/// The smallest value and its place; the lowest place if there are several. What it is if some are
/// NaN is not specified.
#[derive(Clone, Copy, Debug)]
pub struct MinLoc;

/// The largest value and its place; the lowest place if there are several. What it is if some are
/// NaN is not specified.
#[derive(Clone, Copy, Debug)]
pub struct MaxLoc;

impl<T: Number> ReduceOp<Located<T>> for MinLoc {
    #[inline]
    fn apply(&self, left: Located<T>, right: Located<T>) -> Located<T> {
        prefer(left, right, right.value() < left.value())
    }

    fn is_commutative(&self) -> bool {
        true
    }
}

impl<T: Number> ReduceOp<Located<T>> for MaxLoc {
    #[inline]
    fn apply(&self, left: Located<T>, right: Located<T>) -> Located<T> {
        prefer(left, right, right.value() > left.value())
    }

    fn is_commutative(&self) -> bool {
        true
    }
}

/// `right` if it is better, or as good and further ahead.
fn prefer<T: Number>(left: Located<T>, right: Located<T>, right_is_better: bool) -> Located<T> {
    let ahead = right.value() == left.value() && right.index() < left.index();
    if right_is_better || ahead { right } else { left }
}
