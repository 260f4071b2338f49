//! Reductions that allocate their result.

use super::{check_length, rooted};
use crate::{
    comm::{Comm, ReduceOp, View, agreement::Subject, all, lengths, op, op::by, view::contents},
    datum::{Datum, Landing, bytes_of},
    engine::{Collective, Counts, Label, Reduction},
    error::{Fault, Result},
};

/// # Reductions
///
/// Every rank's vector is combined, element by element.
impl Comm {
    /// The element-wise reduction of all ranks' values, on the root; `None` elsewhere.
    ///
    /// # Collective
    /// All ranks, with the same root, operator and length.
    ///
    /// # Errors
    /// [`ErrorKind::CollectiveMismatch`](crate::ErrorKind::CollectiveMismatch) if the lengths differ (see [`Checks`](crate::Checks)).
    #[track_caller]
    pub fn reduce<V: View + ?Sized>(
        &self,
        root: usize,
        mine: &V,
        op: impl ReduceOp<V::Elem>,
    ) -> Result<Option<Vec<V::Elem>>> {
        let mine = &*contents(mine);
        self.together(rooted(by!("reduce", op), root), Subject::like(mine), |label| {
            let root_rank = self.check_rank(root)?;
            let room = if self.rank == root { mine.len() } else { 0 };
            let reduced = self.reduction(label, mine, room, &op, |mine, out, with| {
                Collective::Reduce { root: root_rank, mine, out, with }
            })?;
            Ok((self.rank == root).then_some(reduced))
        })
    }

    /// The element-wise reduction of all ranks' values, on every rank; the same bits everywhere.
    ///
    /// # Collective
    /// All ranks, with the same operator and length.
    ///
    /// # Errors
    /// [`ErrorKind::CollectiveMismatch`](crate::ErrorKind::CollectiveMismatch) if the lengths differ (see [`Checks`](crate::Checks)).
    ///
    /// # Examples
    /// ```
    /// use spmd::op::Max;
    /// let got = spmd::local(4, |world| {
    ///     let largest = world.allreduce(&[world.rank()], Max)?[0];
    ///     // any associative closure, combined in the order of ranks
    ///     let last = world.allreduce(&[world.rank()], |_left, right| right)?[0];
    ///     Ok((largest, last))
    /// });
    /// assert_eq!(got.unwrap(), [(3, 3); 4]);
    /// ```
    #[track_caller]
    pub fn allreduce<V: View + ?Sized>(
        &self,
        mine: &V,
        op: impl ReduceOp<V::Elem>,
    ) -> Result<Vec<V::Elem>> {
        let mine = &*contents(mine);
        self.together(all(by!("allreduce", op)), Subject::like(mine), |label| {
            self.reduction(label, mine, mine.len(), &op, |mine, out, with| Collective::Allreduce {
                mine,
                out,
                with,
            })
        })
    }

    /// The element-wise reduction of all ranks' values, dealt out: rank 0 gets the first
    /// `counts[0]` elements, rank 1 the next `counts[1]`, and so on.
    ///
    /// # Collective
    /// All ranks, with the same operator, counts and length.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) if there is not one count per rank, or they do not add up to the length of `mine`.
    ///
    /// # Examples
    /// ```
    /// use spmd::op::Sum;
    /// let parts = spmd::local(2, |world| Ok(world.reduce_scatter(&[1, 20, 300], &[1, 2], Sum)?));
    /// assert_eq!(parts.unwrap(), [vec![2], vec![40, 600]]);
    /// ```
    #[track_caller]
    pub fn reduce_scatter<V: View + ?Sized>(
        &self,
        mine: &V,
        counts: &[usize],
        op: impl ReduceOp<V::Elem>,
    ) -> Result<Vec<V::Elem>> {
        let mine = &*contents(mine);
        self.together(all(by!("reduce_scatter", op)), Subject::like(mine), |label| {
            check_length("reduce_scatter's counts", self.size, counts.len())?;
            let whole = lengths::sum("reduce_scatter's counts", counts.iter().copied())?;
            check_length("reduce_scatter's mine", whole, mine.len())?;
            let each = lengths::bytes_of_rows::<V::Elem>(
                "reduce_scatter's counts",
                counts.iter().copied(),
            )?;
            let (room, counts) = (counts[self.rank], Counts::Same(&each));
            let mut landing = Landing::new(room)?;
            let (mine, out) = (bytes_of(mine), landing.bytes_mut());
            op::reduction(&op, |with| {
                self.collective(label, Collective::ReduceScatter { mine, counts, out, with })
            })?;
            landing.into_values(room)
        })
    }

    /// The element-wise reduction of the values of ranks 0 up to and including this one.
    ///
    /// # Collective
    /// All ranks, with the same operator and length. ⌈log₂ p⌉ exchanges.
    ///
    /// # Examples
    /// ```
    /// use spmd::op::Sum;
    /// let ends = spmd::local(3, |world| Ok(world.scan(&[world.rank() + 1], Sum)?[0]));
    /// assert_eq!(ends.unwrap(), [1, 3, 6]);
    /// ```
    #[track_caller]
    pub fn scan<V: View + ?Sized>(
        &self,
        mine: &V,
        op: impl ReduceOp<V::Elem>,
    ) -> Result<Vec<V::Elem>> {
        let mine = &*contents(mine);
        self.together(all(by!("scan", op)), Subject::like(mine), |label| {
            self.reduction(label, mine, mine.len(), &op, |mine, out, with| Collective::Scan {
                mine,
                out,
                with,
            })
        })
    }

    /// The element-wise reduction of the values of the ranks before this one; `None` on rank 0.
    ///
    /// # Collective
    /// All ranks, with the same operator and length. ⌈log₂ p⌉ exchanges.
    ///
    /// # Examples
    /// ```
    /// use spmd::op::Sum;
    /// let starts = spmd::local(3, |world| Ok(world.exscan(&[10], Sum)?.map_or(0, |sums| sums[0])));
    /// assert_eq!(starts.unwrap(), [0, 10, 20]);
    /// ```
    #[track_caller]
    pub fn exscan<V: View + ?Sized>(
        &self,
        mine: &V,
        op: impl ReduceOp<V::Elem>,
    ) -> Result<Option<Vec<V::Elem>>> {
        let mine = &*contents(mine);
        self.together(all(by!("exscan", op)), Subject::like(mine), |label| {
            // On rank 0 nothing is written; its own values are values at least.
            let mut landing = if self.rank == 0 {
                Landing::from(mine.to_vec())
            } else {
                Landing::new(mine.len())?
            };
            let (bytes, out) = (bytes_of(mine), landing.bytes_mut());
            op::reduction(&op, |with| {
                self.collective(label, Collective::Exscan { mine: bytes, out, with })
            })?;
            if self.rank == 0 { Ok(None) } else { landing.into_values(mine.len()).map(Some) }
        })
    }

    fn reduction<T: Datum>(
        &self,
        label: &Label,
        mine: &[T],
        room: usize,
        op: &impl ReduceOp<T>,
        what: impl for<'a> FnOnce(&'a [u8], &'a mut [u8], &'a Reduction<'a>) -> Collective<'a>,
    ) -> Result<Vec<T>, Fault> {
        let mut landing = Landing::new(room)?;
        let (mine, out) = (bytes_of(mine), landing.bytes_mut());
        op::reduction(op, |with| self.collective(label, what(mine, out, with)))?;
        landing.into_values(room)
    }
}
