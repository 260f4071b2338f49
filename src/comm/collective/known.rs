//! Collectives whose lengths differ from rank to rank and are known where they are needed: one round, whatever the size.

use super::{
    check_length,
    inferred::{byte_counts, into_rows},
    rooted,
};
use crate::{
    comm::{Comm, Ragged, View, agreement::Subject, all, lengths, view::contents},
    datum::{Datum, Landing, bytes_of},
    engine::{Collective, Counts},
    error::{Fault, Result},
};

impl Comm {
    /// As [`Comm::gather`], where the root knows beforehand that rank `r` has `counts[r]` elements; the others' `counts` are
    /// not used and may be empty.
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
            let (each, total) = if at_root {
                self.known::<V::Elem>(&GATHER, counts, mine.len())?
            } else {
                (Vec::new(), 0)
            };
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

    /// As [`Comm::allgather`], where all ranks know beforehand that rank `r` has `counts[r]` elements.
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
            let (each, total) = self.known::<V::Elem>(&ALLGATHER, counts, mine.len())?;
            let mut landing = Landing::<V::Elem>::new(total)?;
            let (mine, counts, out) = (bytes_of(mine), Counts::Each(&each), landing.bytes_mut());
            self.collective(label, Collective::Allgather { mine, counts, out })?;
            into_rows(landing, &each)
        })
    }

    /// As [`Comm::alltoall`], where this rank knows beforehand that rank `r` has `counts[r]` elements for it.
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
            let (recv, total) = self.known::<T>(&ALLTOALL, counts, rows[self.rank].len())?;
            let mut landing = Landing::<T>::new(total)?;
            let (send_counts, recv_counts) = (Counts::Each(&send), Counts::Each(&recv));
            let (rows, out) = (bytes_of(rows.flat()), landing.bytes_mut());
            self.collective(label, Collective::Alltoall { rows, send_counts, out, recv_counts })?;
            into_rows(landing, &recv)
        })
    }

    /// Counts of elements in bytes, and their sum in elements, if there is one per rank and this rank's is `own`.
    fn known<T: Datum>(
        &self,
        words: &Words,
        counts: &[usize],
        own: usize,
    ) -> Result<(Vec<usize>, usize), Fault> {
        check_length(words.counts, self.size, counts.len())?;
        check_length(words.own, counts[self.rank], own)?;
        let each = lengths::bytes_of_rows::<T>(words.counts, counts.iter().copied())?;
        Ok((each, lengths::sum(words.counts, counts.iter().copied())?))
    }
}

/// What errors of a call say of its arguments.
struct Words {
    counts: &'static str,
    /// What this rank has for itself, against its own count.
    own: &'static str,
}

const GATHER: Words = Words { counts: "gather_known's counts", own: "gather_known's mine" };
const ALLGATHER: Words =
    Words { counts: "allgather_known's counts", own: "allgather_known's mine" };
const ALLTOALL: Words = Words {
    counts: "alltoall_known's counts",
    own: "alltoall_known's row of this rank for itself",
};
