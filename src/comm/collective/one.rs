//! Collectives of a single value: a number, an array, or a structure of the program's own. Nothing
//! is allocated.

use super::rooted;
use crate::{
    comm::{Comm, ReduceOp, agreement::Subject, all, op, op::by},
    datum::{Datum, Single, bytes_of},
    engine::{Collective, Label, Reduction},
    error::{Fault, Result},
};

/// # Collectives of one value
///
/// Without a slice around it.
impl Comm {
    /// The root's value on every rank; `at_root` runs on the root only.
    ///
    /// # Collective
    /// All ranks, with the same root. At most ⌈log₂ p⌉ messages deep.
    ///
    /// # Examples
    /// ```
    /// let seeds = spmd::local(3, |world| Ok(world.bcast_one(1, || 42_u64)?));
    /// assert_eq!(seeds.unwrap(), [42; 3]);
    /// ```
    #[track_caller]
    pub fn bcast_one<T: Datum>(&self, root: usize, at_root: impl FnOnce() -> T) -> Result<T> {
        self.together(rooted("bcast_one", root), Subject::equal::<T>(1), |label| {
            let root_rank = self.check_rank(root)?;
            let mut value =
                if self.rank == root { Single::of(at_root()) } else { Single::<T>::new() };
            let buffer = value.bytes_mut();
            self.collective(label, Collective::Bcast { root: root_rank, buffer })?;
            value.into_value()
        })
    }

    /// The reduction of all ranks' values, on the root; `None` elsewhere.
    ///
    /// # Collective
    /// All ranks, with the same root and operator.
    ///
    /// # Examples
    /// ```
    /// use spmd::op::Sum;
    /// let got = spmd::local(3, |world| Ok(world.reduce_one(0, world.rank(), Sum)?));
    /// assert_eq!(got.unwrap(), [Some(3), None, None]);
    /// ```
    #[track_caller]
    pub fn reduce_one<T: Datum>(
        &self,
        root: usize,
        mine: T,
        op: impl ReduceOp<T>,
    ) -> Result<Option<T>> {
        let call = rooted(by!("reduce_one", op), root);
        self.together(call, Subject::equal::<T>(1), |label| {
            let root_rank = self.check_rank(root)?;
            if self.rank == root {
                let reduced = self.reduction_of_one(label, mine, &op, |mine, out, with| {
                    Collective::Reduce { root: root_rank, mine, out, with }
                });
                return reduced.map(Some);
            }
            op::reduction(&op, |with| {
                let (mine, out) = (bytemuck::bytes_of(&mine), &mut [][..]);
                self.collective(label, Collective::Reduce { root: root_rank, mine, out, with })
            })?;
            Ok(None)
        })
    }

    /// The reduction of all ranks' values, on every rank; the same bits everywhere.
    ///
    /// # Collective
    /// All ranks, with the same operator.
    ///
    /// # Examples
    /// Of a number, an array, and a structure:
    /// ```
    /// use spmd::op::{Max, Sum, commutative};
    /// #[derive(Clone, Copy, Debug, PartialEq, spmd::bytemuck::NoUninit, spmd::bytemuck::AnyBitPattern)]
    /// #[bytemuck(crate = "spmd::bytemuck")]
    /// #[repr(C)]
    /// struct Range {
    ///     low: f64,
    ///     high: f64,
    /// }
    /// let got = spmd::local(4, |world| {
    ///     let x = world.rank() as f64;
    ///     let largest = world.allreduce_one(x, Max)?;
    ///     let sums = world.allreduce_one([x, 1.0], Sum)?; // element by element
    ///     let hull = commutative(|left: Range, right: Range| Range {
    ///         low: left.low.min(right.low),
    ///         high: left.high.max(right.high),
    ///     });
    ///     let range = world.allreduce_one(Range { low: x, high: x + 0.5 }, hull)?;
    ///     Ok((largest, sums, range))
    /// });
    /// assert_eq!(got.unwrap()[2], (3.0, [6.0, 4.0], Range { low: 0.0, high: 3.5 }));
    /// ```
    #[track_caller]
    pub fn allreduce_one<T: Datum>(&self, mine: T, op: impl ReduceOp<T>) -> Result<T> {
        self.together(all(by!("allreduce_one", op)), Subject::equal::<T>(1), |label| {
            self.reduction_of_one(label, mine, &op, |mine, out, with| Collective::Allreduce {
                mine,
                out,
                with,
            })
        })
    }

    /// The reduction of the values of ranks 0 up to and including this one.
    ///
    /// # Collective
    /// All ranks, with the same operator. ⌈log₂ p⌉ exchanges.
    ///
    /// # Examples
    /// ```
    /// use spmd::op::Sum;
    /// let ends = spmd::local(3, |world| Ok(world.scan_one(world.rank() + 1, Sum)?));
    /// assert_eq!(ends.unwrap(), [1, 3, 6]);
    /// ```
    #[track_caller]
    pub fn scan_one<T: Datum>(&self, mine: T, op: impl ReduceOp<T>) -> Result<T> {
        self.together(all(by!("scan_one", op)), Subject::equal::<T>(1), |label| {
            self.reduction_of_one(label, mine, &op, |mine, out, with| Collective::Scan {
                mine,
                out,
                with,
            })
        })
    }

    /// The reduction of the values of the ranks before this one; `None` on rank 0.
    ///
    /// # Collective
    /// All ranks, with the same operator. ⌈log₂ p⌉ exchanges.
    ///
    /// # Examples
    /// ```
    /// use spmd::op::Sum;
    /// let starts = spmd::local(3, |world| Ok(world.exscan_one(10, Sum)?.unwrap_or(0)));
    /// assert_eq!(starts.unwrap(), [0, 10, 20]);
    /// ```
    #[track_caller]
    pub fn exscan_one<T: Datum>(&self, mine: T, op: impl ReduceOp<T>) -> Result<Option<T>> {
        self.together(all(by!("exscan_one", op)), Subject::equal::<T>(1), |label| {
            // On rank 0 nothing is written; its own value is a value at least.
            let mut out = if self.rank == 0 { Single::of(mine) } else { Single::new() };
            op::reduction(&op, |with| {
                let (mine, out) = (bytemuck::bytes_of(&mine), out.bytes_mut());
                self.collective(label, Collective::Exscan { mine, out, with })
            })?;
            if self.rank == 0 { Ok(None) } else { out.into_value().map(Some) }
        })
    }

    #[inline(always)]
    pub(super) fn reduction_of_one<T: Datum>(
        &self,
        label: &Label,
        mine: T,
        op: &impl ReduceOp<T>,
        what: impl for<'a> FnOnce(&'a [u8], &'a mut [u8], &'a Reduction<'a>) -> Collective<'a>,
    ) -> Result<T, Fault> {
        let mut out = Single::<T>::new();
        op::reduction(op, |with| {
            let mine = bytes_of(std::slice::from_ref(&mine));
            self.collective(label, what(mine, out.bytes_mut(), with))
        })?;
        out.into_value()
    }
}
