//! Collectives whose lengths need be known to nobody but the contributor.
//!
//! A *head* of fixed size goes first: it holds the length, the type, and the data themselves if
//! they are small; a second step follows only where some are not. That is decided by the heads that
//! all ranks concerned have seen.

use super::{Head, rooted};
use crate::{
    comm::{Comm, Ragged, View, agreement::Subject, all, lengths, view::contents},
    datum::{Datum, Landing, bytes_of},
    engine::{Collective, Counts, Label},
    error::{Call, Fault, Result},
};

/// # Collectives of any lengths
///
/// The lengths travel with the data.
impl Comm {
    /// The root's values on every rank; `at_root` runs on the root only, and only the root knows
    /// the length.
    ///
    /// # Collective
    /// All ranks, with the same root. At most ⌈log₂ p⌉ messages deep; two rounds beyond 96 bytes.
    ///
    /// # Examples
    /// ```
    /// let got = spmd::local(3, |world| Ok(world.bcast(0, || vec![1, 2, 3])?));
    /// assert_eq!(got.unwrap()[2], [1, 2, 3]);
    /// ```
    #[track_caller]
    pub fn bcast<T: Datum>(&self, root: usize, at_root: impl FnOnce() -> Vec<T>) -> Result<Vec<T>> {
        self.together(rooted("bcast", root), Subject::any::<T>(), |label| {
            self.bcast_values(root, label, at_root)
        })
    }

    pub(in crate::comm) fn bcast_values<T: Datum>(
        &self,
        root: usize,
        label: &Label,
        at_root: impl FnOnce() -> Vec<T>,
    ) -> Result<Vec<T>, Fault> {
        let root_rank = self.check_rank(root)?;
        let mine = (self.rank == root).then(at_root);
        let mut head = Head::of(label.signature, mine.as_deref().map_or(&[], bytes_of));
        let buffer = bytemuck::bytes_of_mut(&mut head);
        self.collective(label, Collective::Bcast { root: root_rank, buffer })?;
        let count = head.check(label, root)? / size_of::<T>();
        let mut landing = match mine {
            Some(values) => Landing::from(values),
            None => Landing::new(count)?,
        };
        let buffer = landing.bytes_mut();
        match head.inline() {
            Some(inline) => buffer.copy_from_slice(inline),
            None => self.collective(label, Collective::Bcast { root: root_rank, buffer })?,
        }
        landing.into_values(count)
    }

    /// All ranks' values on the root, a row per rank; `None` elsewhere. Rows may have different
    /// lengths.
    ///
    /// # Collective
    /// All ranks, with the same root. One gather of 128 bytes per rank; then a message from each
    /// rank that has more than 96 bytes.
    ///
    /// # Examples
    /// ```
    /// let rows = spmd::local(3, |world| Ok(world.gather(0, &vec![world.rank(); world.rank()])?));
    /// assert_eq!(rows.unwrap()[0].as_ref().unwrap()[2], [2, 2]);
    /// ```
    #[track_caller]
    pub fn gather<V: View + ?Sized>(
        &self,
        root: usize,
        mine: &V,
    ) -> Result<Option<Ragged<V::Elem>>> {
        self.together(rooted("gather", root), Subject::any::<V::Elem>(), |label| {
            self.gather_values(root, label, &contents(mine))
        })
    }

    pub(in crate::comm) fn gather_values<T: Datum>(
        &self,
        root: usize,
        label: &Label,
        mine: &[T],
    ) -> Result<Option<Ragged<T>>, Fault> {
        let root_rank = self.check_rank(root)?;
        let head = Head::of(label.signature, bytes_of(mine));
        let counts = Counts::Equal(size_of_val(&head));
        let mut heads = vec![Head::EMPTY; if self.rank == root { self.size } else { 0 }];
        let (mine_head, out) = (bytemuck::bytes_of(&head), bytemuck::cast_slice_mut(&mut heads));
        let what = Collective::Gather { root: root_rank, mine: mine_head, counts, out };
        self.collective(label, what)?;
        // Which ranks have more to send the root alone knows: messages of their own, not a
        // collective.
        let steps = self.steps(label);
        if self.rank != root {
            if head.is_followed() {
                steps.send(root, bytes_of(mine))?;
            }
            return Ok(None);
        }
        let counts = Head::check_all(&heads, label)?;
        let mut landing = Landing::<T>::new(lengths::values_in_rows::<T>(THEIRS, &counts)?)?;
        let mut out = landing.bytes_mut();
        for (rank, head) in heads.iter().enumerate() {
            let (row, rest) = out.split_at_mut(counts[rank]);
            match head.inline() {
                Some(inline) => row.copy_from_slice(inline),
                None if rank == root => row.copy_from_slice(bytes_of(mine)),
                None => steps.recv_exact(rank, row)?,
            }
            out = rest;
        }
        into_rows(landing, &counts).map(Some)
    }

    /// To each rank its row of the root's values; `at_root` runs on the root only and gives one row
    /// per rank.
    ///
    /// # Collective
    /// All ranks, with the same root. One scatter of 128 bytes per rank; a second one where a row
    /// has more than 96 bytes.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) on the root if there is not one row per rank.
    ///
    /// # Examples
    /// ```
    /// use spmd::Ragged;
    /// let mine = spmd::local(2, |world| {
    ///     Ok(world.scatter(0, || Ragged::from_rows([vec![1.0], vec![2.0, 3.0]]))?)
    /// });
    /// assert_eq!(mine.unwrap()[1], [2.0, 3.0]);
    /// ```
    #[track_caller]
    pub fn scatter<T: Datum>(
        &self,
        root: usize,
        at_root: impl FnOnce() -> Ragged<T>,
    ) -> Result<Vec<T>> {
        self.together(rooted("scatter", root), Subject::any::<T>(), |label| {
            self.scatter_values(root, label, at_root)
        })
    }

    pub(in crate::comm) fn scatter_values<T: Datum>(
        &self,
        root: usize,
        label: &Label,
        at_root: impl FnOnce() -> Ragged<T>,
    ) -> Result<Vec<T>, Fault> {
        let root_rank = self.check_rank(root)?;
        let rows = if self.rank == root {
            let rows = at_root();
            self.check_rows("scatter's rows", &rows)?;
            rows
        } else {
            Ragged::default()
        };
        let heads = Head::of_rows(label.signature, rows.iter().map(bytes_of));
        let (mut head, counts) = (Head::EMPTY, Counts::Equal(size_of::<Head>()));
        let (all, out) = (bytemuck::cast_slice(&heads), bytemuck::bytes_of_mut(&mut head));
        let what = Collective::Scatter { root: root_rank, rows: all, counts, out };
        self.collective(label, what)?;
        let count = head.check(label, root)? / size_of::<T>();
        let mut landing = Landing::<T>::new(count)?;
        let out = landing.bytes_mut();
        if head.is_followed() {
            let each = byte_counts("scatter's rows", &rows)?;
            let (rows, counts) = (bytes_of(rows.flat()), Counts::Each(&each));
            self.collective(label, Collective::Scatter { root: root_rank, rows, counts, out })?;
        } else {
            Head::unfold(&[head], out);
        }
        landing.into_values(count)
    }

    /// All ranks' values on every rank, a row per rank. Rows may have different lengths.
    ///
    /// # Collective
    /// One allgather of 128 bytes per rank; a second one where some rank has more than 96 bytes.
    ///
    /// # Examples
    /// ```
    /// let all = spmd::local(3, |world| Ok(world.allgather(&[world.rank()])?.into_flat()));
    /// assert_eq!(all.unwrap(), vec![[0, 1, 2]; 3]);
    /// ```
    #[track_caller]
    pub fn allgather<V: View + ?Sized>(&self, mine: &V) -> Result<Ragged<V::Elem>> {
        self.together(all("allgather"), Subject::any::<V::Elem>(), |label| {
            self.allgather_values(label, &contents(mine))
        })
    }

    /// An allgather as the first part of another call.
    pub(in crate::comm) fn allgather_as<T: Datum>(
        &self,
        call: Call,
        mine: &[T],
    ) -> Result<Ragged<T>, Fault> {
        let subject = Subject::any::<T>();
        let label = subject.label(call);
        self.same_call_on_all(&label, subject)?;
        self.allgather_values(&label, mine)
    }

    pub(in crate::comm) fn allgather_values<T: Datum>(
        &self,
        label: &Label,
        mine: &[T],
    ) -> Result<Ragged<T>, Fault> {
        let head = Head::of(label.signature, bytes_of(mine));
        let mut heads = vec![Head::EMPTY; self.size];
        let counts = Counts::Equal(size_of_val(&head));
        let (mine_head, out) = (bytemuck::bytes_of(&head), bytemuck::cast_slice_mut(&mut heads));
        self.collective(label, Collective::Allgather { mine: mine_head, counts, out })?;
        let counts = Head::check_all(&heads, label)?;
        let mut landing = Landing::<T>::new(lengths::values_in_rows::<T>(THEIRS, &counts)?)?;
        let out = landing.bytes_mut();
        if heads.iter().any(Head::is_followed) {
            let (mine, counts) = (bytes_of(mine), Counts::Each(&counts));
            self.collective(label, Collective::Allgather { mine, counts, out })?;
        } else {
            Head::unfold(&heads, out);
        }
        into_rows(landing, &counts)
    }

    /// To each rank its row of this rank's values; returns what each rank had for this one, a row
    /// per rank.
    ///
    /// # Collective
    /// One alltoall of 128 bytes per row; a second one where some row of some rank has more than 96
    /// bytes.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) if there is not one row per rank.
    ///
    /// # Examples
    /// ```
    /// use spmd::Ragged;
    /// let got = spmd::local(2, |world| {
    ///     let me = world.rank();
    ///     Ok(world.alltoall(&Ragged::from_rows([vec![10 * me], vec![10 * me + 1; 2]]))?)
    /// });
    /// assert_eq!(got.unwrap()[1], Ragged::from_rows([vec![1, 1], vec![11, 11]]));
    /// ```
    #[track_caller]
    pub fn alltoall<T: Datum>(&self, rows: &Ragged<T>) -> Result<Ragged<T>> {
        self.together(all("alltoall"), Subject::any::<T>(), |label| {
            self.alltoall_values(label, rows)
        })
    }

    pub(in crate::comm) fn alltoall_values<T: Datum>(
        &self,
        label: &Label,
        rows: &Ragged<T>,
    ) -> Result<Ragged<T>, Fault> {
        self.check_rows("alltoall's rows", rows)?;
        let mine = Head::of_rows(label.signature, rows.iter().map(bytes_of));
        let mut theirs = vec![Head::EMPTY; self.size];
        let counts = Counts::Equal(size_of::<Head>());
        let (all, out) = (bytemuck::cast_slice(&mine), bytemuck::cast_slice_mut(&mut theirs));
        let what =
            Collective::Alltoall { rows: all, send_counts: counts, out, recv_counts: counts };
        self.collective(label, what)?;
        let counts = Head::check_all(&theirs, label)?;
        let mut landing = Landing::<T>::new(lengths::values_in_rows::<T>(THEIRS, &counts)?)?;
        let out = landing.bytes_mut();
        // Every rank has sent every rank whether it has a long row: all of them decide alike.
        if theirs.iter().any(Head::is_followed) {
            let send = byte_counts("alltoall's rows", rows)?;
            let (send_counts, recv_counts) = (Counts::Each(&send), Counts::Each(&counts));
            let rows = bytes_of(rows.flat());
            self.collective(label, Collective::Alltoall { rows, send_counts, out, recv_counts })?;
        } else {
            Head::unfold(&theirs, out);
        }
        into_rows(landing, &counts)
    }
}

/// What comes from other ranks, as errors call it.
pub(in crate::comm) const THEIRS: &str = "what the ranks have";

/// The length of each row in bytes.
pub(super) fn byte_counts<T>(what: &'static str, rows: &Ragged<T>) -> Result<Vec<usize>, Fault> {
    lengths::bytes_of_rows::<T>(what, rows.counts())
}

/// What has landed, in rows of so many bytes.
pub(super) fn into_rows<T: Datum>(
    landing: Landing<T>,
    bytes: &[usize],
) -> Result<Ragged<T>, Fault> {
    let values = landing.into_values(lengths::values_in_rows::<T>(THEIRS, bytes)?)?;
    Ok(Ragged::from_flat(values, bytes.iter().map(|bytes| bytes / size_of::<T>())))
}
