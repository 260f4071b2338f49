//! Collectives between the caller's buffers, equally long on all ranks: no inference, no allocation, no copy of the data
//! on this side of the engine.
//!
//! Types that not every bit pattern is a value of (`bool`, enums) are the exception: their data land beside the caller's
//! buffer and are checked first.

use super::{check_length, rooted};
use crate::{
    comm::{Comm, ReduceOp, agreement::Subject, all, op},
    datum::{Datum, Landing, bytes_of, bytes_of_mut},
    engine::{Collective, Counts, Label, Reduction},
    error::{ErrorKind, Result},
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
    pub fn bcast_into<T: Datum>(&self, root: usize, buffer: &mut [T]) -> Result<()> {
        self.together(rooted("bcast_into", root), Subject::equal::<T>(buffer.len()), |label| {
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
    /// [`ErrorKind::LengthMismatch`] on the root if `out` has not `size` times the length of `mine`.
    #[track_caller]
    pub fn gather_into<T: Datum>(&self, root: usize, mine: &[T], out: &mut [T]) -> Result<()> {
        self.together(rooted("gather_into", root), Subject::equal::<T>(mine.len()), |label| {
            let root_rank = self.check_rank(root)?;
            let out = if self.rank == root {
                check_length("gather_into's out", self.size * mine.len(), out.len())?;
                out
            } else {
                &mut []
            };
            let (mine, counts) = (bytes_of(mine), Counts::Equal(size_of_val(mine)));
            in_place(out, |out| {
                self.collective(label, Collective::Gather { root: root_rank, mine, counts, out })
            })
        })
    }

    /// To each rank's `mine` its part of the root's `rows`, which lie in the order of ranks; the others' `rows` are not used
    /// and may be empty.
    ///
    /// # Collective
    /// All ranks, with the same root and the same length of `mine`.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`] on the root if `rows` has not `size` times the length of `mine`.
    #[track_caller]
    pub fn scatter_into<T: Datum>(&self, root: usize, rows: &[T], mine: &mut [T]) -> Result<()> {
        self.together(rooted("scatter_into", root), Subject::equal::<T>(mine.len()), |label| {
            let root_rank = self.check_rank(root)?;
            let rows = if self.rank == root {
                check_length("scatter_into's rows", self.size * mine.len(), rows.len())?;
                rows
            } else {
                &[]
            };
            let (rows, counts) = (bytes_of(rows), Counts::Equal(size_of_val(mine)));
            in_place(mine, |out| {
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
    /// [`ErrorKind::LengthMismatch`] if `out` has not `size` times the length of `mine`.
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
    pub fn allgather_into<T: Datum>(&self, mine: &[T], out: &mut [T]) -> Result<()> {
        self.together(all("allgather_into"), Subject::equal::<T>(mine.len()), |label| {
            check_length("allgather_into's out", self.size * mine.len(), out.len())?;
            let (mine, counts) = (bytes_of(mine), Counts::Equal(size_of_val(mine)));
            in_place(out, |out| self.collective(label, Collective::Allgather { mine, counts, out }))
        })
    }

    /// To each rank its equal part of this rank's `rows`; in `out` what each rank had for this one, in the order of ranks.
    ///
    /// # Collective
    /// All ranks, with the same length of `rows`.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`] if `rows` is not a multiple of `size` long, or `out` not as long as `rows`.
    #[track_caller]
    pub fn alltoall_into<T: Datum>(&self, rows: &[T], out: &mut [T]) -> Result<()> {
        self.together(all("alltoall_into"), Subject::equal::<T>(rows.len()), |label| {
            let whole = rows.len().next_multiple_of(self.size);
            check_length("alltoall_into's rows", whole, rows.len())?;
            check_length("alltoall_into's out", rows.len(), out.len())?;
            let counts = Counts::Equal(size_of_val(rows) / self.size);
            let rows = bytes_of(rows);
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
    /// [`ErrorKind::LengthMismatch`] on the root if `out` is not as long as `mine`.
    #[track_caller]
    pub fn reduce_into<T: Datum>(
        &self,
        root: usize,
        mine: &[T],
        out: &mut [T],
        op: impl ReduceOp<T>,
    ) -> Result<()> {
        self.together(rooted("reduce_into", root), Subject::equal::<T>(mine.len()), |label| {
            let root_rank = self.check_rank(root)?;
            let out = if self.rank == root {
                check_length("reduce_into's out", mine.len(), out.len())?;
                out
            } else {
                &mut []
            };
            self.reduce_bytes(label, mine, out, &op, |mine, out, with| Collective::Reduce {
                root: root_rank,
                mine,
                out,
                with,
            })
        })
    }

    /// The element-wise reduction of all ranks' values in every rank's `out`; the same bits everywhere.
    ///
    /// # Collective
    /// All ranks, with the same operator and length.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`] if `out` is not as long as `mine`.
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
    pub fn allreduce_into<T: Datum>(
        &self,
        mine: &[T],
        out: &mut [T],
        op: impl ReduceOp<T>,
    ) -> Result<()> {
        self.together(all("allreduce_into"), Subject::equal::<T>(mine.len()), |label| {
            check_length("allreduce_into's out", mine.len(), out.len())?;
            self.reduce_bytes(label, mine, out, &op, |mine, out, with| Collective::Allreduce {
                mine,
                out,
                with,
            })
        })
    }

    /// The element-wise reduction of all ranks' values, cut into equal parts: each rank gets its part in `out`.
    ///
    /// # Collective
    /// All ranks, with the same operator and length.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`] if `mine` has not `size` times the length of `out`.
    #[track_caller]
    pub fn reduce_scatter_into<T: Datum>(
        &self,
        mine: &[T],
        out: &mut [T],
        op: impl ReduceOp<T>,
    ) -> Result<()> {
        self.together(all("reduce_scatter_into"), Subject::equal::<T>(mine.len()), |label| {
            check_length("reduce_scatter_into's mine", self.size * out.len(), mine.len())?;
            let counts = Counts::Equal(size_of_val(out));
            self.reduce_bytes(label, mine, out, &op, |mine, out, with| Collective::ReduceScatter {
                mine,
                counts,
                out,
                with,
            })
        })
    }

    /// The element-wise reduction of the values of ranks 0 up to and including this one, in `out`.
    ///
    /// # Collective
    /// All ranks, with the same operator and length.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`] if `out` is not as long as `mine`.
    #[track_caller]
    pub fn scan_into<T: Datum>(
        &self,
        mine: &[T],
        out: &mut [T],
        op: impl ReduceOp<T>,
    ) -> Result<()> {
        self.together(all("scan_into"), Subject::equal::<T>(mine.len()), |label| {
            check_length("scan_into's out", mine.len(), out.len())?;
            self.reduce_bytes(label, mine, out, &op, |mine, out, with| Collective::Scan {
                mine,
                out,
                with,
            })
        })
    }

    /// The element-wise reduction of the values of the ranks before this one, in `out`, which stays as it was on rank 0.
    ///
    /// # Collective
    /// All ranks, with the same operator and length.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`] if `out` is not as long as `mine`.
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
    pub fn exscan_into<T: Datum>(
        &self,
        mine: &[T],
        out: &mut [T],
        op: impl ReduceOp<T>,
    ) -> Result<()> {
        self.together(all("exscan_into"), Subject::equal::<T>(mine.len()), |label| {
            check_length("exscan_into's out", mine.len(), out.len())?;
            self.reduce_bytes(label, mine, out, &op, |mine, out, with| Collective::Exscan {
                mine,
                out,
                with,
            })
        })
    }

    fn reduce_bytes<T: Datum>(
        &self,
        label: Label,
        mine: &[T],
        out: &mut [T],
        op: &impl ReduceOp<T>,
        what: impl for<'a> FnOnce(&'a [u8], &'a mut [u8], &'a Reduction<'a>) -> Collective<'a>,
    ) -> Result<(), ErrorKind> {
        op::reduction(op, |with| {
            in_place(out, |out| self.collective(label, what(bytes_of(mine), out, with)))
        })
    }
}

/// Lets `share` change the caller's values; by way of memory that is checked where not all bytes are values.
fn in_place<T: Datum>(
    values: &mut [T],
    share: impl FnOnce(&mut [u8]) -> Result<(), ErrorKind>,
) -> Result<(), ErrorKind> {
    if let Some(bytes) = bytes_of_mut(values) {
        return share(bytes);
    }
    let mut landing = Landing::from(values.to_vec());
    share(landing.bytes_mut())?;
    values.copy_from_slice(&landing.into_values(values.len())?);
    Ok(())
}
