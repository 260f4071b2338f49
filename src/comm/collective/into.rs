//! Collectives between the caller's buffers, equally long on all ranks: no inference, no allocation, no copy of the data
//! on this side of the engine.
//!
//! Types that not every bit pattern is a value of (`bool`, enums) are the exception: their data land beside the caller's
//! buffer and are checked first.

use std::borrow::Cow;

use super::{check_length, rooted};
use crate::{
    comm::{
        Comm, ReduceOp, View, ViewMut,
        agreement::Subject,
        all, op,
        op::by,
        view::{contents, packed},
    },
    datum::{Landing, bytes_of, bytes_of_mut},
    engine::{Collective, Counts, Label, Reduction},
    error::{Fault, Result},
};

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
        self.together(rooted("bcast_into", root), Subject::like(buffer), |label| {
            let root = self.check_rank(root)?;
            in_place(buffer, |buffer| self.collective(label, Collective::Bcast { root, buffer }))
        })
    }

    /// All ranks' values in the root's `out`, in the order of ranks; the others' `out` is not used and may be empty.
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
        self.together(rooted("gather_into", root), Subject::like(mine), |label| {
            let root_rank = self.check_rank(root)?;
            let mine = contents(mine);
            let gather = |out: &mut [u8]| {
                let (mine, counts) = (bytes_of(&mine), Counts::Equal(size_of_val(&*mine)));
                self.collective(label, Collective::Gather { root: root_rank, mine, counts, out })
            };
            if self.rank != root {
                return gather(&mut []);
            }
            check_length("gather_into's out", self.size * mine.len(), out.count())?;
            in_place(out, gather)
        })
    }

    /// To each rank's `mine` its part of the root's `rows`, which lie in the order of ranks; the others' `rows` are not used
    /// and may be empty.
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
        self.together(rooted("scatter_into", root), Subject::like(mine), |label| {
            let root_rank = self.check_rank(root)?;
            let count = mine.count();
            let mut rows = contents(rows);
            if self.rank == root {
                check_length("scatter_into's rows", self.size * count, rows.len())?;
            } else {
                rows = Cow::Borrowed(&[]);
            }
            let counts = Counts::Equal(count * size_of::<W::Elem>());
            in_place(mine, |out| {
                let rows = bytes_of(&rows);
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
        self.together(all("allgather_into"), Subject::like(mine), |label| {
            check_length("allgather_into's out", self.size * mine.count(), out.count())?;
            let mine = contents(mine);
            let (mine, counts) = (bytes_of(&mine), Counts::Equal(size_of_val(&*mine)));
            in_place(out, |out| self.collective(label, Collective::Allgather { mine, counts, out }))
        })
    }

    /// To each rank its equal part of this rank's `rows`; in `out` what each rank had for this one, in the order of ranks.
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
        self.together(all("alltoall_into"), Subject::like(rows), |label| {
            let whole = rows.count().next_multiple_of(self.size);
            check_length("alltoall_into's rows", whole, rows.count())?;
            check_length("alltoall_into's out", rows.count(), out.count())?;
            let rows = contents(rows);
            let counts = Counts::Equal(size_of_val(&*rows) / self.size);
            let rows = bytes_of(&rows);
            in_place(out, |out| {
                let (send_counts, recv_counts) = (counts, counts);
                self.collective(label, Collective::Alltoall { rows, send_counts, out, recv_counts })
            })
        })
    }

    /// The element-wise reduction of all ranks' values in the root's `out`; the others' `out` is not used and may be empty.
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
        let (call, subject) = (rooted(by!("reduce_into", op), root), Subject::like(mine));
        self.together(call, subject, |label| {
            let root_rank = self.check_rank(root)?;
            let mine = contents(mine);
            let reduce = |out: &mut [u8]| {
                let mine = bytes_of(&mine);
                op::reduction(&op, |with| {
                    self.collective(label, Collective::Reduce { root: root_rank, mine, out, with })
                })
            };
            if self.rank != root {
                return reduce(&mut []);
            }
            check_length("reduce_into's out", mine.len(), out.count())?;
            in_place(out, reduce)
        })
    }

    /// The element-wise reduction of all ranks' values in every rank's `out`; the same bits everywhere.
    ///
    /// # Collective
    /// All ranks, with the same operator and length.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) if `out` is not as long as `mine`.
    ///
    /// # Examples
    /// ```
    /// use spmd::Sum;
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
        self.together(all(by!("allreduce_into", op)), Subject::like(mine), |label| {
            check_length("allreduce_into's out", mine.count(), out.count())?;
            self.reduce_bytes(label, &contents(mine), out, &op, |mine, out, with| {
                Collective::Allreduce { mine, out, with }
            })
        })
    }

    /// The element-wise reduction of all ranks' values, cut into equal parts: each rank gets its part in `out`.
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
        self.together(all(by!("reduce_scatter_into", op)), Subject::like(mine), |label| {
            check_length("reduce_scatter_into's mine", self.size * out.count(), mine.count())?;
            let counts = Counts::Equal(out.count() * size_of::<V::Elem>());
            self.reduce_bytes(label, &contents(mine), out, &op, |mine, out, with| {
                Collective::ReduceScatter { mine, counts, out, with }
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
        self.together(all(by!("scan_into", op)), Subject::like(mine), |label| {
            check_length("scan_into's out", mine.count(), out.count())?;
            self.reduce_bytes(label, &contents(mine), out, &op, |mine, out, with| {
                Collective::Scan { mine, out, with }
            })
        })
    }

    /// The element-wise reduction of the values of the ranks before this one, in `out`, which stays as it was on rank 0.
    ///
    /// # Collective
    /// All ranks, with the same operator and length.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) if `out` is not as long as `mine`.
    ///
    /// # Examples
    /// ```
    /// use spmd::Sum;
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
        self.together(all(by!("exscan_into", op)), Subject::like(mine), |label| {
            check_length("exscan_into's out", mine.count(), out.count())?;
            self.reduce_bytes(label, &contents(mine), out, &op, |mine, out, with| {
                Collective::Exscan { mine, out, with }
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
        what: impl for<'a> FnOnce(&'a [u8], &'a mut [u8], &'a Reduction<'a>) -> Collective<'a>,
    ) -> Result<(), Fault> {
        op::reduction(op, |with| {
            in_place(out, |out| self.collective(label, what(bytes_of(mine), out, with)))
        })
    }
}

/// Lets `share` change the caller's values; by way of a packed copy where they are not in one piece, and of memory that is
/// checked where not all bytes are values.
#[inline(always)]
fn in_place<W: ViewMut + ?Sized>(
    values: &mut W,
    share: impl FnOnce(&mut [u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    if let Some(bytes) = values.as_slice_mut().and_then(bytes_of_mut) {
        return share(bytes);
    }
    let mut landing = Landing::from(packed(values));
    share(landing.bytes_mut())?;
    values.unpack(&landing.into_values(values.count())?);
    Ok(())
}
