//! Collectives between the caller's buffers, equally long on all ranks: no inference, no
//! allocation, no copy of the data on this side of the engine.
//!
//! Types that not every bit pattern is a value of (`bool`, enums) are the exception: their data
//! land beside the caller's buffer and are checked first.

use std::borrow::Cow;

use super::{check_length, check_room, rooted};
use crate::{
    comm::{
        Comm, ReduceOp, View, ViewMut,
        agreement::Subject,
        all, op,
        op::by,
        view::{claimed, contents, in_place},
    },
    datum::bytes_of,
    engine::{Collective, Counts, Label, Reduction},
    error::{Fault, Result},
};

/// # Collectives into the caller's memory
///
/// Of equal lengths; nothing is allocated.
impl Comm {
    /// The root's values in every rank's `buffer`, which is equally long everywhere.
    ///
    /// # Collective
    /// All ranks, with the same root and length. At most ⌈log₂ p⌉ messages deep.
    ///
    /// # Examples
    /// ```
    /// let got = spmd::local(3, |world| {
    ///     let mut grid = if world.rank() == 1 { [640, 480] } else { [0; 2] };
    ///     world.bcast_into(1, &mut grid)?;
    ///     Ok(grid)
    /// });
    /// assert_eq!(got.unwrap(), [[640, 480]; 3]);
    /// ```
    #[track_caller]
    pub fn bcast_into<W: ViewMut + ?Sized>(&self, root: usize, buffer: &mut W) -> Result<()> {
        let count = claimed(buffer);
        let subject = Subject::equal::<W::Elem>(count);
        self.together(rooted("bcast_into", root), subject, |label| {
            let root = self.check_rank(root)?;
            in_place(buffer, |buffer| {
                check_room::<W::Elem>("bcast_into's buffer", count, buffer)?;
                self.collective(label, Collective::Bcast { root, buffer })
            })
        })
    }

    /// All ranks' values in the root's `out`, in the order of ranks; the others' `out` is not used
    /// and may be empty.
    ///
    /// # Collective
    /// All ranks, with the same root and the same length of `mine`.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) on the root if `out` has not `size` times the length of `mine`.
    #[track_caller]
    pub fn gather_into<V, W>(&self, root: usize, mine: &V, out: &mut W) -> Result<()>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let mine = &*contents(mine);
        self.together(rooted("gather_into", root), Subject::like(mine), |label| {
            let root_rank = self.check_rank(root)?;
            let gather = |out: &mut [u8]| {
                let (mine, counts) = (bytes_of(mine), Counts::Equal(size_of_val(mine)));
                self.collective(label, Collective::Gather { root: root_rank, mine, counts, out })
            };
            if self.rank != root {
                return gather(&mut []);
            }
            let needed = self.rows_of("gather_into's mine", mine.len())?;
            in_place(out, |out| {
                check_room::<V::Elem>("gather_into's out", needed, out)?;
                gather(out)
            })
        })
    }

    /// To each rank's `mine` its part of the root's `rows`, which lie in the order of ranks; the
    /// others' `rows` are not used and may be empty.
    ///
    /// # Collective
    /// All ranks, with the same root and the same length of `mine`.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) on the root if `rows` has not `size` times the length of `mine`.
    #[track_caller]
    pub fn scatter_into<V, W>(&self, root: usize, rows: &V, mine: &mut W) -> Result<()>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let count = claimed(mine);
        let subject = Subject::equal::<W::Elem>(count);
        self.together(rooted("scatter_into", root), subject, |label| {
            let root_rank = self.check_rank(root)?;
            let rows = if self.rank == root { contents(rows) } else { Cow::Borrowed(&[][..]) };
            if self.rank == root {
                let needed = self.rows_of("scatter_into's mine", count)?;
                check_length("scatter_into's rows", needed, rows.len())?;
            }
            in_place(mine, |out| {
                check_room::<W::Elem>("scatter_into's mine", count, out)?;
                let (rows, counts) = (bytes_of(&rows), Counts::Equal(out.len()));
                self.collective(label, Collective::Scatter { root: root_rank, rows, counts, out })
            })
        })
    }

    /// All ranks' values in every rank's `out`, in the order of ranks.
    ///
    /// # Collective
    /// All ranks, with the same length of `mine`.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) if `out` has not `size` times the length of `mine`.
    ///
    /// # Examples
    /// ```
    /// let got = spmd::local(3, |world| {
    ///     let mut all = [0; 3];
    ///     world.allgather_into(&[10 * world.rank()], &mut all)?;
    ///     Ok(all)
    /// });
    /// assert_eq!(got.unwrap(), [[0, 10, 20]; 3]);
    /// ```
    #[track_caller]
    pub fn allgather_into<V, W>(&self, mine: &V, out: &mut W) -> Result<()>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let mine = &*contents(mine);
        self.together(all("allgather_into"), Subject::like(mine), |label| {
            let needed = self.rows_of("allgather_into's mine", mine.len())?;
            let (mine, counts) = (bytes_of(mine), Counts::Equal(size_of_val(mine)));
            in_place(out, |out| {
                check_room::<V::Elem>("allgather_into's out", needed, out)?;
                self.collective(label, Collective::Allgather { mine, counts, out })
            })
        })
    }

    /// To each rank its equal part of this rank's `rows`; in `out` what each rank had for this one,
    /// in the order of ranks.
    ///
    /// # Collective
    /// All ranks, with the same length of `rows`.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) if `rows` is not a multiple of `size` long, or `out` not as long as `rows`.
    #[track_caller]
    pub fn alltoall_into<V, W>(&self, rows: &V, out: &mut W) -> Result<()>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let rows = &*contents(rows);
        self.together(all("alltoall_into"), Subject::like(rows), |label| {
            let whole = rows.len().next_multiple_of(self.size);
            check_length("alltoall_into's rows", whole, rows.len())?;
            let counts = Counts::Equal(size_of_val(rows) / self.size);
            in_place(out, |out| {
                check_room::<V::Elem>("alltoall_into's out", rows.len(), out)?;
                let rows = bytes_of(rows);
                let (send_counts, recv_counts) = (counts, counts);
                self.collective(label, Collective::Alltoall { rows, send_counts, out, recv_counts })
            })
        })
    }

    /// The element-wise reduction of all ranks' values in the root's `out`; the others' `out` is
    /// not used and may be empty.
    ///
    /// # Collective
    /// All ranks, with the same root, operator and length.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) on the root if `out` is not as long as `mine`.
    #[track_caller]
    pub fn reduce_into<V, W>(
        &self,
        root: usize,
        mine: &V,
        out: &mut W,
        op: impl ReduceOp<V::Elem>,
    ) -> Result<()>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let mine = &*contents(mine);
        let (call, subject) = (rooted(by!("reduce_into", op), root), Subject::like(mine));
        self.together(call, subject, |label| {
            let root_rank = self.check_rank(root)?;
            let reduce = |out: &mut [u8]| {
                let mine = bytes_of(mine);
                op::reduction(&op, |with| {
                    self.collective(label, Collective::Reduce { root: root_rank, mine, out, with })
                })
            };
            if self.rank != root {
                return reduce(&mut []);
            }
            in_place(out, |out| {
                check_room::<V::Elem>("reduce_into's out", mine.len(), out)?;
                reduce(out)
            })
        })
    }

    /// The element-wise reduction of all ranks' values in every rank's `out`; the same bits
    /// everywhere.
    ///
    /// # Collective
    /// All ranks, with the same operator and length.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) if `out` is not as long as `mine`.
    ///
    /// # Examples
    /// ```
    /// use spmd::op::Sum;
    /// let got = spmd::local(4, |world| {
    ///     let mut sum = [0.0; 2];
    ///     world.allreduce_into(&[1.0, world.rank() as f64], &mut sum, Sum)?;
    ///     Ok(sum)
    /// });
    /// assert_eq!(got.unwrap()[3], [4.0, 6.0]);
    /// ```
    #[track_caller]
    pub fn allreduce_into<V, W>(
        &self,
        mine: &V,
        out: &mut W,
        op: impl ReduceOp<V::Elem>,
    ) -> Result<()>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let mine = &*contents(mine);
        self.together(all(by!("allreduce_into", op)), Subject::like(mine), |label| {
            self.reduce_bytes(label, mine, out, &op, |mine, out, with| {
                check_room::<V::Elem>(
                    "allreduce_into's out",
                    mine.len() / size_of::<V::Elem>(),
                    out,
                )?;
                Ok(Collective::Allreduce { mine, out, with })
            })
        })
    }

    /// The element-wise reduction of all ranks' values, cut into equal parts: each rank gets its
    /// part in `out`.
    ///
    /// # Collective
    /// All ranks, with the same operator and length.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) if `mine` has not `size` times the length of `out`.
    #[track_caller]
    pub fn reduce_scatter_into<V, W>(
        &self,
        mine: &V,
        out: &mut W,
        op: impl ReduceOp<V::Elem>,
    ) -> Result<()>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let mine = &*contents(mine);
        self.together(all(by!("reduce_scatter_into", op)), Subject::like(mine), |label| {
            let count = mine.len();
            self.reduce_bytes(label, mine, out, &op, |mine, out, with| {
                let room = out.len() / size_of::<V::Elem>();
                let needed = self.rows_of("reduce_scatter_into's out", room)?;
                check_length("reduce_scatter_into's mine", needed, count)?;
                let counts = Counts::Equal(out.len());
                Ok(Collective::ReduceScatter { mine, counts, out, with })
            })
        })
    }

    /// The element-wise reduction of the values of ranks 0 up to and including this one, in `out`.
    ///
    /// # Collective
    /// All ranks, with the same operator and length.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) if `out` is not as long as `mine`.
    #[track_caller]
    pub fn scan_into<V, W>(&self, mine: &V, out: &mut W, op: impl ReduceOp<V::Elem>) -> Result<()>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let mine = &*contents(mine);
        self.together(all(by!("scan_into", op)), Subject::like(mine), |label| {
            self.reduce_bytes(label, mine, out, &op, |mine, out, with| {
                check_room::<V::Elem>("scan_into's out", mine.len() / size_of::<V::Elem>(), out)?;
                Ok(Collective::Scan { mine, out, with })
            })
        })
    }

    /// The element-wise reduction of the values of the ranks before this one, in `out`, which stays
    /// as it was on rank 0.
    ///
    /// # Collective
    /// All ranks, with the same operator and length.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) if `out` is not as long as `mine`.
    ///
    /// # Examples
    /// ```
    /// use spmd::op::Sum;
    /// let starts = spmd::local(3, |world| {
    ///     let mut start = [0];
    ///     world.exscan_into(&[10], &mut start, Sum)?;
    ///     Ok(start[0])
    /// });
    /// assert_eq!(starts.unwrap(), [0, 10, 20]);
    /// ```
    #[track_caller]
    pub fn exscan_into<V, W>(&self, mine: &V, out: &mut W, op: impl ReduceOp<V::Elem>) -> Result<()>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let mine = &*contents(mine);
        self.together(all(by!("exscan_into", op)), Subject::like(mine), |label| {
            self.reduce_bytes(label, mine, out, &op, |mine, out, with| {
                check_room::<V::Elem>("exscan_into's out", mine.len() / size_of::<V::Elem>(), out)?;
                Ok(Collective::Exscan { mine, out, with })
            })
        })
    }

    #[inline(always)]
    fn reduce_bytes<W: ViewMut + ?Sized>(
        &self,
        label: &Label,
        mine: &[W::Elem],
        out: &mut W,
        op: &impl ReduceOp<W::Elem>,
        what: impl for<'a> FnOnce(
            &'a [u8],
            &'a mut [u8],
            &'a Reduction<'a>,
        ) -> Result<Collective<'a>, Fault>,
    ) -> Result<(), Fault> {
        op::reduction(op, |with| {
            in_place(out, |out| self.collective(label, what(bytes_of(mine), out, with)?))
        })
    }
}
