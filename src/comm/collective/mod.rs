//! Calls that all ranks of a communicator make together.
//!
//! Where lengths are not known to all ranks beforehand, a *head* of fixed size goes first: it holds the length, the
//! type, and the data itself if that is small, so that small data need no second step.

mod into;

use super::{Comm, Ragged, ReduceOp, all, op, step};
use crate::{
    datum::{Datum, Landing, Signature, Stamp, bytes_of},
    engine::{
        Collective, CollectiveCall, Counts, Label, Mode, Rank, Reduction, Source, Tag, Target,
        schedule,
    },
    error::{Call, ErrorKind, Result, With},
};

impl Comm {
    /// Returns when all ranks have called it.
    ///
    /// # Collective
    /// ⌈log₂ p⌉ messages per rank on engines without a way of their own.
    #[track_caller]
    pub fn barrier(&self) -> Result<()> {
        let call = all("barrier");
        self.perform(call, || {
            self.collective(step(Signature::of::<u8>(), call), Collective::Barrier)
        })
    }

    /// The root's values on every rank; `at_root` runs on the root only, and only the root knows the length.
    ///
    /// # Collective
    /// All ranks, with the same root. ⌈log₂ p⌉ messages deep; two rounds beyond 104 bytes.
    ///
    /// # Examples
    /// ```
    /// let got = spmd::local(3, |world| Ok(world.bcast(0, || vec![1, 2, 3])?));
    /// assert_eq!(got.unwrap()[2], [1, 2, 3]);
    /// ```
    #[track_caller]
    pub fn bcast<T: Datum>(&self, root: usize, at_root: impl FnOnce() -> Vec<T>) -> Result<Vec<T>> {
        let call = Call::new("bcast", With::Root(root));
        let fail = self.enter(call);
        self.bcast_values(root, step(Signature::of::<T>(), call), at_root).map_err(fail)
    }

    /// The root's serialized object on every rank.
    pub(super) fn bcast_bytes(
        &self,
        root: usize,
        call: Call,
        at_root: impl FnOnce() -> Vec<u8>,
    ) -> Result<Vec<u8>, ErrorKind> {
        self.bcast_values(root, step(Signature::OBJECT, call), at_root)
    }

    fn bcast_values<T: Datum>(
        &self,
        root: usize,
        label: Label,
        at_root: impl FnOnce() -> Vec<T>,
    ) -> Result<Vec<T>, ErrorKind> {
        let root_rank = self.check_rank(root)?;
        let mine = (self.rank == root).then(at_root);
        let mut head: Head = Head::of(label.signature, mine.as_deref().map_or(&[], bytes_of));
        let buffer = bytemuck::bytes_of_mut(&mut head);
        self.collective(label, Collective::Bcast { root: root_rank, buffer })?;
        let bytes = head.check(&label, root)?;
        let mut landing = match mine {
            Some(values) => Landing::from(values),
            None => Landing::new(bytes / size_of::<T>()),
        };
        let buffer = landing.bytes_mut();
        if let Some(inline) = head.inline() {
            buffer.copy_from_slice(inline);
        } else {
            self.collective(label, Collective::Bcast { root: root_rank, buffer })?;
        }
        landing.into_values(bytes / size_of::<T>())
    }

    /// All ranks' values on the root, a row per rank; `None` elsewhere. Rows may have different lengths.
    ///
    /// # Collective
    /// All ranks, with the same root. One message from every other rank to the root.
    ///
    /// # Examples
    /// ```
    /// let rows = spmd::local(3, |world| Ok(world.gather(0, &vec![world.rank(); world.rank()])?));
    /// assert_eq!(rows.unwrap()[0].as_ref().unwrap()[2], [2, 2]);
    /// ```
    #[track_caller]
    pub fn gather<T: Datum>(&self, root: usize, mine: &[T]) -> Result<Option<Ragged<T>>> {
        let call = Call::new("gather", With::Root(root));
        let fail = self.enter(call);
        let collect = || {
            self.check_rank(root)?;
            let steps = self.steps(step(Signature::of::<T>(), call));
            if self.rank != root {
                return steps.send(root, bytes_of(mine)).map(|()| None);
            }
            let mut rows = Vec::with_capacity(self.size);
            for rank in 0..self.size {
                let row = if rank == root { mine.to_vec() } else { steps.recv(rank)? };
                rows.push(row);
            }
            Ok(Some(Ragged::from_rows(rows)))
        };
        collect().map_err(fail)
    }

    /// To each rank its row of the root's values; `at_root` runs on the root only and gives one row per rank.
    ///
    /// # Collective
    /// All ranks, with the same root. One message from the root to every other rank.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`] on the root if there is not one row per rank.
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
        let call = Call::new("scatter", With::Root(root));
        let fail = self.enter(call);
        let deal = || {
            self.check_rank(root)?;
            let steps = self.steps(step(Signature::of::<T>(), call));
            if self.rank != root {
                return steps.recv(root);
            }
            let rows = at_root();
            self.check_rows("scatter's rows", &rows)?;
            for rank in (0..self.size).filter(|&rank| rank != root) {
                steps.send(rank, bytes_of(&rows[rank]))?;
            }
            Ok(rows[root].to_vec())
        };
        deal().map_err(fail)
    }

    /// All ranks' values on every rank, a row per rank. Rows may have different lengths.
    ///
    /// # Collective
    /// Two rounds if some rank has more than 104 bytes.
    ///
    /// # Examples
    /// ```
    /// let all = spmd::local(3, |world| Ok(world.allgather(&[world.rank()])?.into_flat()));
    /// assert_eq!(all.unwrap(), vec![[0, 1, 2]; 3]);
    /// ```
    #[track_caller]
    pub fn allgather<T: Datum>(&self, mine: &[T]) -> Result<Ragged<T>> {
        let call = all("allgather");
        let fail = self.enter(call);
        self.allgather_as(call, mine).map_err(fail)
    }

    /// An allgather as a part of another call.
    pub(super) fn allgather_as<T: Datum>(
        &self,
        call: Call,
        mine: &[T],
    ) -> Result<Ragged<T>, ErrorKind> {
        let label = step(Signature::of::<T>(), call);
        let size = label.signature.size();
        let head: Head = Head::of(label.signature, bytes_of(mine));
        let mut heads = vec![head; self.size];
        let counts = Counts::Equal(size_of_val(&head));
        let (mine_head, out) = (bytemuck::bytes_of(&head), bytemuck::cast_slice_mut(&mut heads));
        self.collective(label, Collective::Allgather { mine: mine_head, counts, out })?;
        let counts = heads.iter().enumerate().map(|(rank, head)| head.check(&label, rank));
        let counts = counts.collect::<Result<Vec<_>, _>>()?;
        let total = counts.iter().sum::<usize>() / size;
        let mut landing = Landing::<T>::new(total);
        let mut out = landing.bytes_mut();
        if heads.iter().all(|head| head.inline().is_some()) {
            for inline in heads.iter().filter_map(Head::inline) {
                let (row, rest) = out.split_at_mut(inline.len());
                row.copy_from_slice(inline);
                out = rest;
            }
        } else {
            let (mine, counts) = (bytes_of(mine), Counts::Each(&counts));
            self.collective(label, Collective::Allgather { mine, counts, out })?;
        }
        let counts = counts.into_iter().map(|bytes| bytes / size);
        Ok(Ragged::from_flat(landing.into_values(total)?, counts))
    }

    /// To each rank its row of this rank's values; returns what each rank had for this one, a row per rank.
    ///
    /// # Collective
    /// p − 1 exchanges, two rounds where a row is longer than 104 bytes.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`] if there is not one row per rank.
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
        let call = all("alltoall");
        let fail = self.enter(call);
        let label = step(Signature::of::<T>(), call);
        self.check_rows("alltoall's rows", rows)
            .and_then(|()| self.exchange(label, rows))
            .map_err(fail)
    }

    fn exchange<T: Datum>(&self, label: Label, rows: &Ragged<T>) -> Result<Ragged<T>, ErrorKind> {
        let size = label.signature.size();
        let (heads_round, data_round) = (self.steps(label), self.steps(label));
        let mine: Vec<Head> =
            rows.iter().map(|row| Head::of(label.signature, bytes_of(row))).collect();
        let mut theirs = mine.clone();
        let partners = || {
            let (rank, size) = (self.rank, self.size);
            (1..size).map(move |step| ((rank + step) % size, (rank + size - step) % size))
        };
        for (to, from) in partners() {
            let into = bytemuck::bytes_of_mut(&mut theirs[from]);
            heads_round.sendrecv(to, bytemuck::bytes_of(&mine[to]), from, into)?;
        }
        let counts = theirs.iter().enumerate().map(|(rank, head)| head.check(&label, rank));
        let counts = counts.collect::<Result<Vec<_>, _>>()?;
        let ends = counts.iter().scan(0, |end, count| {
            *end += count;
            Some(*end)
        });
        let ends: Vec<usize> = ends.collect();
        let total = ends.last().copied().unwrap_or(0);
        let mut landing = Landing::<T>::new(total / size);
        let out = landing.bytes_mut();
        out[ends[self.rank] - counts[self.rank]..ends[self.rank]]
            .copy_from_slice(bytes_of(&rows[self.rank]));
        for (to, from) in partners() {
            let into = &mut out[ends[from] - counts[from]..ends[from]];
            let sends = mine[to].inline().is_none();
            match theirs[from].inline() {
                None if sends => data_round.sendrecv(to, bytes_of(&rows[to]), from, into)?,
                None => data_round.recv_exact(from, into)?,
                Some(inline) => {
                    into.copy_from_slice(inline);
                    if sends {
                        data_round.send(to, bytes_of(&rows[to]))?;
                    }
                }
            }
        }
        let counts = counts.into_iter().map(|bytes| bytes / size);
        Ok(Ragged::from_flat(landing.into_values(total / size)?, counts))
    }

    /// The element-wise reduction of all ranks' values, on the root; `None` elsewhere.
    ///
    /// # Collective
    /// All ranks, with the same root, operator and length.
    ///
    /// # Errors
    /// [`ErrorKind::CollectiveMismatch`] if the lengths differ (always found on `local`).
    #[track_caller]
    pub fn reduce<T: Datum>(
        &self,
        root: usize,
        mine: &[T],
        op: impl ReduceOp<T>,
    ) -> Result<Option<Vec<T>>> {
        let call = Call::new("reduce", With::Root(root));
        let fail = self.enter(call);
        let combine = || {
            let root_rank = self.check_rank(root)?;
            let room = if self.rank == root { mine.len() } else { 0 };
            let reduced = self.reduction(call, mine, room, &op, |mine, out, with| {
                Collective::Reduce { root: root_rank, mine, out, with }
            })?;
            if self.rank == root { reduced.into_values(mine.len()).map(Some) } else { Ok(None) }
        };
        combine().map_err(fail)
    }

    /// The element-wise reduction of all ranks' values, on every rank; the same bits everywhere.
    ///
    /// # Collective
    /// All ranks, with the same operator and length.
    ///
    /// # Errors
    /// [`ErrorKind::CollectiveMismatch`] if the lengths differ (always found on `local`).
    ///
    /// # Examples
    /// ```
    /// use spmd::Max;
    /// let got = spmd::local(4, |world| {
    ///     let largest = world.allreduce(&[world.rank()], Max)?[0];
    ///     // any associative closure, combined in the order of ranks
    ///     let last = world.allreduce(&[world.rank()], |_left, right| right)?[0];
    ///     Ok((largest, last))
    /// });
    /// assert_eq!(got.unwrap(), [(3, 3); 4]);
    /// ```
    #[track_caller]
    pub fn allreduce<T: Datum>(&self, mine: &[T], op: impl ReduceOp<T>) -> Result<Vec<T>> {
        let call = all("allreduce");
        let fail = self.enter(call);
        self.reduction(call, mine, mine.len(), &op, |mine, out, with| Collective::Allreduce {
            mine,
            out,
            with,
        })
        .and_then(|reduced| reduced.into_values(mine.len()))
        .map_err(fail)
    }

    /// The element-wise reduction of the values of ranks 0 up to and including this one.
    ///
    /// # Collective
    /// All ranks, with the same operator and length. ⌈log₂ p⌉ exchanges.
    ///
    /// # Examples
    /// ```
    /// use spmd::Sum;
    /// let ends = spmd::local(3, |world| Ok(world.scan(&[world.rank() + 1], Sum)?[0]));
    /// assert_eq!(ends.unwrap(), [1, 3, 6]);
    /// ```
    #[track_caller]
    pub fn scan<T: Datum>(&self, mine: &[T], op: impl ReduceOp<T>) -> Result<Vec<T>> {
        let call = all("scan");
        let fail = self.enter(call);
        self.reduction(call, mine, mine.len(), &op, |mine, out, with| Collective::Scan {
            mine,
            out,
            with,
        })
        .and_then(|reduced| reduced.into_values(mine.len()))
        .map_err(fail)
    }

    /// The element-wise reduction of the values of the ranks before this one; `None` on rank 0.
    ///
    /// # Collective
    /// All ranks, with the same operator and length. ⌈log₂ p⌉ exchanges.
    ///
    /// # Examples
    /// ```
    /// use spmd::Sum;
    /// let starts = spmd::local(3, |world| Ok(world.exscan(&[10], Sum)?.map_or(0, |sums| sums[0])));
    /// assert_eq!(starts.unwrap(), [0, 10, 20]);
    /// ```
    #[track_caller]
    pub fn exscan<T: Datum>(&self, mine: &[T], op: impl ReduceOp<T>) -> Result<Option<Vec<T>>> {
        let call = all("exscan");
        let fail = self.enter(call);
        self.reduction(call, mine, mine.len(), &op, |mine, out, with| Collective::Exscan {
            mine,
            out,
            with,
        })
        .and_then(
            |reduced| {
                if self.rank == 0 { Ok(None) } else { reduced.into_values(mine.len()).map(Some) }
            },
        )
        .map_err(fail)
    }

    fn reduction<T: Datum>(
        &self,
        call: Call,
        mine: &[T],
        room: usize,
        op: &impl ReduceOp<T>,
        what: impl for<'a> FnOnce(&'a [u8], &'a mut [u8], &'a Reduction<'a>) -> Collective<'a>,
    ) -> Result<Landing<T>, ErrorKind> {
        let mut landing = Landing::new(room);
        let out = landing.bytes_mut();
        op::reduction(op, |with| {
            self.collective(step(Signature::of::<T>(), call), what(bytes_of(mine), out, with))
        })?;
        Ok(landing)
    }

    /// Makes a collective call of the program on values of `T`.
    fn together<T: Datum, R>(
        &self,
        call: Call,
        body: impl FnOnce(Label) -> Result<R, ErrorKind>,
    ) -> Result<R> {
        self.perform(call, || body(step(Signature::of::<T>(), call)))
    }

    /// Makes a collective call in the engine's own way, or by messages.
    pub(super) fn collective(&self, label: Label, what: Collective<'_>) -> Result<(), ErrorKind> {
        let (context, rank, size) = (self.context, Rank::from(self.rank), self.size);
        let mut call = CollectiveCall { context, rank, size, turn: self.next_turn(), label, what };
        let engine = &*self.engine;
        engine.collective(&mut call).unwrap_or_else(|| schedule::run(engine, &mut call))
    }

    fn check_rows<T>(&self, what: &'static str, rows: &Ragged<T>) -> Result<(), ErrorKind> {
        let (needed, got) = (self.size, rows.rows());
        if needed == got { Ok(()) } else { Err(ErrorKind::LengthMismatch { what, needed, got }) }
    }

    /// The messages of one collective call whose lengths only the sender knows.
    fn steps(&self, label: Label) -> Steps<'_> {
        let tag = Tag::of_turn(self.next_turn(), self.engine.max_tag());
        Steps { comm: self, label, tag }
    }
}

/// A collective call with a root, made at the caller's place.
#[track_caller]
fn rooted(op: &'static str, root: usize) -> Call {
    Call::new(op, With::Root(root))
}

struct Steps<'c> {
    comm: &'c Comm,
    label: Label,
    tag: Tag,
}

impl Steps<'_> {
    fn to(&self, rank: usize) -> Target {
        let (context, label, tag) = (self.comm.context, self.label, self.tag);
        Target { context, rank: Rank::from(rank), tag, label }
    }

    fn from(&self, rank: usize) -> Source {
        let (context, label, tag) = (self.comm.context, self.label, self.tag);
        Source { context, rank: Some(Rank::from(rank)), tag: Some(tag), label }
    }

    fn send(&self, rank: usize, bytes: &[u8]) -> Result<(), ErrorKind> {
        self.comm.engine.send(&self.to(rank), Mode::Standard, bytes)
    }

    fn recv<T: Datum>(&self, rank: usize) -> Result<Vec<T>, ErrorKind> {
        let (ticket, received) = self.comm.await_message(&self.from(rank))?;
        let mut landing = Landing::<T>::new(received.bytes.div_ceil(size_of::<T>()));
        self.comm.engine.fetch(ticket, &self.label, &mut landing.bytes_mut()[..received.bytes])?;
        landing.into_values(received.bytes / size_of::<T>())
    }

    fn recv_exact(&self, rank: usize, into: &mut [u8]) -> Result<(), ErrorKind> {
        self.comm.engine.recv(&self.from(rank), into).map(drop)
    }

    fn sendrecv(
        &self,
        to: usize,
        bytes: &[u8],
        from: usize,
        into: &mut [u8],
    ) -> Result<(), ErrorKind> {
        self.comm.engine.sendrecv(&self.to(to), bytes, &self.from(from), into).map(drop)
    }
}

/// Up to this many bytes need no second step.
const INLINE: usize = 104;

/// What goes first where a length is not known: length, type, and the data if they fit.
#[derive(Clone, Copy, bytemuck::NoUninit, bytemuck::AnyBitPattern)]
#[repr(C)]
struct Head {
    bytes: u64,
    stamp: [u8; 16],
    inline: [u8; INLINE],
}

impl Head {
    fn of(signature: Signature, data: &[u8]) -> Self {
        let Stamp(stamp) = signature.stamp();
        let mut inline = [0; INLINE];
        if data.len() <= INLINE {
            inline[..data.len()].copy_from_slice(data);
        }
        Self { bytes: data.len() as u64, stamp, inline }
    }

    /// The length of `rank`'s data in bytes, if they are of the type that `mine` says.
    fn check(&self, mine: &Label, rank: usize) -> Result<usize, ErrorKind> {
        if Stamp(self.stamp) == mine.signature.stamp() {
            return Ok(self.bytes as usize);
        }
        let op = mine.step.map_or("message", |step| step.call.op);
        Err(ErrorKind::CollectiveMismatch {
            mine: format!("{op} of {}", mine.signature.name()),
            rank,
            theirs: format!("{op} of {}", Stamp(self.stamp).name()),
        })
    }

    /// The data, if they are in the head.
    fn inline(&self) -> Option<&[u8]> {
        self.inline.get(..self.bytes as usize)
    }
}
