//! Collectives whose lengths differ from rank to rank and are known where they are needed: one
//! round, whatever the size.

use super::{
    check_length, check_room,
    inferred::{byte_counts, into_rows},
    rooted,
};
use crate::{
    comm::{
        Comm, Ragged, ReduceOp, View, ViewMut,
        agreement::Subject,
        all, lengths, op,
        op::by,
        view::{contents, in_place},
    },
    datum::{Datum, Landing, bytes_of},
    engine::{Collective, Counts},
    error::{Fault, Result},
};

/// # Collectives of known lengths
///
/// One step less: every rank knows how much each one gives.
impl Comm {
    /// As [`Comm::gather`], where the root knows beforehand that rank `r` has `counts[r]` elements;
    /// the others' `counts` are not used and may be empty.
    ///
    /// # Collective
    /// All ranks, with the same root.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) on the root if there is not one count per rank, or its own is wrong.
    ///
    /// # Examples
    /// ```
    /// let rows = spmd::local(3, |world| {
    ///     let mine = vec![world.rank(); world.rank()];
    ///     Ok(world.gather_known(0, &mine, &[0, 1, 2])?)
    /// });
    /// assert_eq!(rows.unwrap()[0].as_ref().unwrap()[2], [2, 2]);
    /// ```
    #[track_caller]
    pub fn gather_known<V: View + ?Sized>(
        &self,
        root: usize,
        mine: &V,
        counts: &[usize],
    ) -> Result<Option<Ragged<V::Elem>>> {
        let mine = &*contents(mine);
        self.together(rooted("gather_known", root), Subject::any::<V::Elem>(), |label| {
            let root_rank = self.check_rank(root)?;
            let at_root = self.rank == root;
            let (mut each, mut total) = (Vec::new(), 0);
            if at_root {
                total = self.known::<V::Elem>(&GATHER, counts, mine.len(), &mut each)?;
            }
            let mut landing = Landing::<V::Elem>::new(total)?;
            let (mine, counts, out) = (bytes_of(mine), Counts::Each(&each), landing.bytes_mut());
            self.collective(label, Collective::Gather { root: root_rank, mine, counts, out })?;
            if at_root { into_rows(landing, &each).map(Some) } else { Ok(None) }
        })
    }

    /// As [`Comm::scatter`], where each rank knows beforehand the length `count` of its row.
    ///
    /// # Collective
    /// All ranks, with the same root.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) on the root if there is not one row per rank, or its own row has another length.
    ///
    /// # Examples
    /// ```
    /// use spmd::Ragged;
    /// let mine = spmd::local(2, |world| {
    ///     let rows = || Ragged::from_rows([vec![1.0], vec![2.0, 3.0]]);
    ///     Ok(world.scatter_known(0, world.rank() + 1, rows)?)
    /// });
    /// assert_eq!(mine.unwrap()[1], [2.0, 3.0]);
    /// ```
    #[track_caller]
    pub fn scatter_known<T: Datum>(
        &self,
        root: usize,
        count: usize,
        at_root: impl FnOnce() -> Ragged<T>,
    ) -> Result<Vec<T>> {
        self.together(rooted("scatter_known", root), Subject::any::<T>(), |label| {
            let root_rank = self.check_rank(root)?;
            let rows = if self.rank == root {
                let rows = at_root();
                self.check_rows("scatter_known's rows", &rows)?;
                check_length("scatter_known's own row on the root", count, rows[root].len())?;
                rows
            } else {
                Ragged::default()
            };
            let each = byte_counts("scatter_known's rows", &rows)?;
            let mut landing = Landing::<T>::new(count)?;
            let (rows, counts) = (bytes_of(rows.flat()), Counts::Each(&each));
            let out = landing.bytes_mut();
            self.collective(label, Collective::Scatter { root: root_rank, rows, counts, out })?;
            landing.into_values(count)
        })
    }

    /// As [`Comm::allgather`], where all ranks know beforehand that rank `r` has `counts[r]`
    /// elements.
    ///
    /// # Collective
    /// All ranks, with the same counts.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) if there is not one count per rank, or this rank's is wrong.
    ///
    /// # Examples
    /// ```
    /// let all = spmd::local(3, |world| {
    ///     let mine = vec![world.rank(); world.rank()];
    ///     Ok(world.allgather_known(&mine, &[0, 1, 2])?.into_flat())
    /// });
    /// assert_eq!(all.unwrap(), vec![[1, 2, 2]; 3]);
    /// ```
    #[track_caller]
    pub fn allgather_known<V: View + ?Sized>(
        &self,
        mine: &V,
        counts: &[usize],
    ) -> Result<Ragged<V::Elem>> {
        let mine = &*contents(mine);
        // Compared between ranks, and looked at again before anything is made of it.
        let subject = Subject::equal::<V::Elem>(lengths::told(counts));
        self.together(all("allgather_known"), subject, |label| {
            let mut each = Vec::new();
            let total = self.known::<V::Elem>(&ALLGATHER, counts, mine.len(), &mut each)?;
            let mut landing = Landing::<V::Elem>::new(total)?;
            let (mine, counts, out) = (bytes_of(mine), Counts::Same(&each), landing.bytes_mut());
            self.collective(label, Collective::Allgather { mine, counts, out })?;
            into_rows(landing, &each)
        })
    }

    /// As [`Comm::alltoall`], where this rank knows beforehand that rank `r` has `counts[r]`
    /// elements for it.
    ///
    /// # Collective
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) if there is not one row and one count per rank, or the count of this rank's own row
    /// is wrong.
    ///
    /// # Examples
    /// Rank r has r elements for everybody:
    /// ```
    /// use spmd::Ragged;
    /// let got = spmd::local(2, |world| {
    ///     let rows = Ragged::from_rows(vec![vec![7; world.rank()]; 2]);
    ///     Ok(world.alltoall_known(&rows, &[0, 1])?.into_flat())
    /// });
    /// assert_eq!(got.unwrap(), [[7], [7]]);
    /// ```
    #[track_caller]
    pub fn alltoall_known<T: Datum>(
        &self,
        rows: &Ragged<T>,
        counts: &[usize],
    ) -> Result<Ragged<T>> {
        self.together(all("alltoall_known"), Subject::any::<T>(), |label| {
            self.check_rows("alltoall_known's rows", rows)?;
            let send = byte_counts("alltoall_known's rows", rows)?;
            let mut recv = Vec::new();
            let total = self.known::<T>(&ALLTOALL, counts, rows[self.rank].len(), &mut recv)?;
            let mut landing = Landing::<T>::new(total)?;
            let (send_counts, recv_counts) = (Counts::Each(&send), Counts::Each(&recv));
            let (rows, out) = (bytes_of(rows.flat()), landing.bytes_mut());
            self.collective(label, Collective::Alltoall { rows, send_counts, out, recv_counts })?;
            into_rows(landing, &recv)
        })
    }

    /// As [`Comm::gather_known`], into the root's `out`, where the rows lie one behind the other;
    /// the others' `counts` and `out` are not used and may be empty. Nothing is allocated.
    ///
    /// # Collective
    /// All ranks, with the same root.
    ///
    /// # Errors
    /// As [`Comm::gather_known`]; [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch)
    /// on the root if `out` is not as long as all rows.
    #[track_caller]
    pub fn gather_known_into<V, W>(
        &self,
        root: usize,
        mine: &V,
        counts: &[usize],
        out: &mut W,
    ) -> Result<()>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let mine = &*contents(mine);
        self.together(rooted("gather_known_into", root), Subject::any::<V::Elem>(), |label| {
            let root_rank = self.check_rank(root)?;
            self.with_lengths(|[each, _]| {
                let gather = |each: &[usize], out: &mut [u8]| {
                    let (mine, counts) = (bytes_of(mine), Counts::Each(each));
                    let what = Collective::Gather { root: root_rank, mine, counts, out };
                    self.collective(label, what)
                };
                if self.rank != root {
                    return gather(&[], &mut []);
                }
                let total = self.known::<V::Elem>(&GATHER_INTO, counts, mine.len(), each)?;
                in_place(out, |out| {
                    check_room::<V::Elem>("gather_known_into's out", total, out)?;
                    gather(each, out)
                })
            })
        })
    }

    /// As [`Comm::scatter_known`], into `mine`, whose length is that of this rank's row; the
    /// others' `rows` are not used and may be empty. Nothing is allocated.
    ///
    /// # Collective
    /// All ranks, with the same root.
    ///
    /// # Errors
    /// As [`Comm::scatter_known`].
    #[track_caller]
    pub fn scatter_known_into<T, W>(
        &self,
        root: usize,
        rows: &Ragged<T>,
        mine: &mut W,
    ) -> Result<()>
    where
        T: Datum,
        W: ViewMut<Elem = T> + ?Sized,
    {
        self.together(rooted("scatter_known_into", root), Subject::any::<T>(), |label| {
            let root_rank = self.check_rank(root)?;
            self.with_lengths(|[each, _]| {
                let mut own = None;
                let mut flat = &[][..];
                each.clear();
                if self.rank == root {
                    let what = "scatter_known_into's rows";
                    self.check_rows(what, rows)?;
                    lengths::fill_bytes_of_rows::<T>(what, rows.counts(), each)?;
                    (own, flat) = (Some(rows[root].len()), rows.flat());
                }
                in_place(mine, |out| {
                    if let Some(own) = own {
                        check_room::<T>("scatter_known_into's mine", own, out)?;
                    }
                    let (rows, counts) = (bytes_of(flat), Counts::Each(each));
                    let what = Collective::Scatter { root: root_rank, rows, counts, out };
                    self.collective(label, what)
                })
            })
        })
    }

    /// As [`Comm::allgather_known`], into `out`, where the rows lie one behind the other. Nothing
    /// is allocated.
    ///
    /// # Collective
    /// All ranks, with the same counts.
    ///
    /// # Errors
    /// As [`Comm::allgather_known`];
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) if `out` is not as long as
    /// all rows.
    #[track_caller]
    pub fn allgather_known_into<V, W>(&self, mine: &V, counts: &[usize], out: &mut W) -> Result<()>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let mine = &*contents(mine);
        // Compared between ranks, and looked at again before anything is made of it.
        let subject = Subject::equal::<V::Elem>(lengths::told(counts));
        self.together(all("allgather_known_into"), subject, |label| {
            self.with_lengths(|[each, _]| {
                let total = self.known::<V::Elem>(&ALLGATHER_INTO, counts, mine.len(), each)?;
                in_place(out, |out| {
                    check_room::<V::Elem>("allgather_known_into's out", total, out)?;
                    let (mine, counts) = (bytes_of(mine), Counts::Same(each));
                    self.collective(label, Collective::Allgather { mine, counts, out })
                })
            })
        })
    }

    /// As [`Comm::alltoall_known`], into `out`, where the rows lie one behind the other. Nothing is
    /// allocated.
    ///
    /// # Collective
    ///
    /// # Errors
    /// As [`Comm::alltoall_known`]; [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch)
    /// if `out` is not as long as all rows.
    ///
    /// # Examples
    /// The same memory in every step:
    /// ```
    /// use spmd::Ragged;
    /// let sums = spmd::local(2, |world| {
    ///     let (me, mut rows, mut got) = (world.rank(), Ragged::default(), [0; 3]);
    ///     let mut sum = 0;
    ///     for step in 0..10 {
    ///         let mine = [(step, 0), (step, 1), (me, 1 - me)]; // values and whom they are for
    ///         rows.rebucket(&mine, world.size(), |&(_, owner)| owner);
    ///         let values: Vec<usize> = rows.flat().iter().map(|&(value, _)| value).collect();
    ///         let values = Ragged::from_flat(values, rows.counts());
    ///         world.alltoall_known_into(&values, &[1 + me, 2 - me], &mut got)?;
    ///         sum += got.iter().sum::<usize>();
    ///     }
    ///     Ok(sum)
    /// });
    /// assert_eq!(sums.unwrap(), [100, 90]);
    /// ```
    #[track_caller]
    pub fn alltoall_known_into<T, W>(
        &self,
        rows: &Ragged<T>,
        counts: &[usize],
        out: &mut W,
    ) -> Result<()>
    where
        T: Datum,
        W: ViewMut<Elem = T> + ?Sized,
    {
        self.together(all("alltoall_known_into"), Subject::any::<T>(), |label| {
            let what = "alltoall_known_into's rows";
            self.check_rows(what, rows)?;
            self.with_lengths(|[send, recv]| {
                lengths::fill_bytes_of_rows::<T>(what, rows.counts(), send)?;
                let total = self.known::<T>(&ALLTOALL_INTO, counts, rows[self.rank].len(), recv)?;
                in_place(out, |out| {
                    check_room::<T>("alltoall_known_into's out", total, out)?;
                    let (send_counts, recv_counts) = (Counts::Each(send), Counts::Each(recv));
                    let rows = bytes_of(rows.flat());
                    let what = Collective::Alltoall { rows, send_counts, out, recv_counts };
                    self.collective(label, what)
                })
            })
        })
    }

    /// As [`Comm::reduce_scatter`], into `out`, whose length is this rank's count. Nothing is
    /// allocated.
    ///
    /// # Collective
    /// All ranks, with the same operator, counts and length.
    ///
    /// # Errors
    /// As [`Comm::reduce_scatter`]; [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch)
    /// if `out` is not as long as this rank's count.
    #[track_caller]
    pub fn reduce_scatter_known_into<V, W>(
        &self,
        mine: &V,
        counts: &[usize],
        out: &mut W,
        op: impl ReduceOp<V::Elem>,
    ) -> Result<()>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let mine = &*contents(mine);
        let call = all(by!("reduce_scatter_known_into", op));
        self.together(call, Subject::like(mine), |label| {
            let what = "reduce_scatter_known_into's counts";
            check_length(what, self.size, counts.len())?;
            let whole = lengths::sum(what, counts.iter().copied())?;
            check_length("reduce_scatter_known_into's mine", whole, mine.len())?;
            self.with_lengths(|[each, _]| {
                lengths::fill_bytes_of_rows::<V::Elem>(what, counts.iter().copied(), each)?;
                op::reduction(&op, |with| {
                    in_place(out, |out| {
                        let room = "reduce_scatter_known_into's out";
                        check_room::<V::Elem>(room, counts[self.rank], out)?;
                        let (mine, counts) = (bytes_of(mine), Counts::Same(each));
                        let what = Collective::ReduceScatter { mine, counts, out, with };
                        self.collective(label, what)
                    })
                })
            })
        })
    }

    /// Counts of elements in bytes, in `each`, if there is one per rank and this rank's is `own`;
    /// their sum in elements.
    fn known<T: Datum>(
        &self,
        words: &Words,
        counts: &[usize],
        own: usize,
        each: &mut Vec<usize>,
    ) -> Result<usize, Fault> {
        check_length(words.counts, self.size, counts.len())?;
        check_length(words.own, counts[self.rank], own)?;
        let whole = lengths::fill_bytes_of_rows::<T>(words.counts, counts.iter().copied(), each)?;
        Ok(whole / size_of::<T>())
    }

    /// Lends the room that this communicator has for lengths.
    fn with_lengths<R>(&self, body: impl FnOnce(&mut [Vec<usize>; 2]) -> R) -> R {
        let mut room = self.lengths.take();
        let result = body(&mut room);
        self.lengths.set(room);
        result
    }
}

/// What errors of a call say of its arguments.
struct Words {
    counts: &'static str,
    /// What this rank has for itself, against its own count.
    own: &'static str,
}

macro_rules! words {
    ($verb:literal, $own:literal) => {
        Words { counts: concat!($verb, "'s counts"), own: concat!($verb, "'s ", $own) }
    };
}

const GATHER: Words = words!("gather_known", "mine");
const ALLGATHER: Words = words!("allgather_known", "mine");
const ALLTOALL: Words = words!("alltoall_known", "row of this rank for itself");
const GATHER_INTO: Words = words!("gather_known_into", "mine");
const ALLGATHER_INTO: Words = words!("allgather_known_into", "mine");
const ALLTOALL_INTO: Words = words!("alltoall_known_into", "row of this rank for itself");
