//! Collectives that do not wait: the request owns the buffers, and nobody need know another's
//! lengths.
//!
//! What is reduced by an operator and type that the MPI library knows is reduced by the library;
//! else all contributions come to every rank that gets a result, which combines them in the order
//! of ranks when it waits: p times the memory and work of the blocking form, and any closure on any
//! engine.

use super::{
    check_length,
    inferred::{THEIRS, byte_counts},
    rooted,
};
use crate::{
    comm::{
        Comm, OwnedBuf, Ragged, ReduceOp, Request, agreement::Subject, all, lengths, op, op::by,
        view::Outbound,
    },
    datum::{Buffer, Datum, Landing, landing},
    engine::{Builtin, CollectiveKind, Done, Element, Exchange, Exchanged, Op, Rank},
    error::{Call, ErrorKind, Fault, Result},
};

/// # Collectives that do not wait
///
/// Each gives a [`Request`](crate::Request).
impl Comm {
    /// Starts a barrier: the request is done when all ranks have started theirs.
    ///
    /// # Collective
    ///
    /// # Examples
    /// ```
    /// spmd::local(3, |world| {
    ///     let everybody = world.ibarrier()?;
    ///     // ... work that the others need not wait for ...
    ///     everybody.wait()?;
    ///     Ok(())
    /// }).unwrap();
    /// ```
    #[track_caller]
    pub fn ibarrier(&self) -> Result<Request<'_, ()>> {
        let plan = Plan::of(self, all("ibarrier"), Subject::nothing(), CollectiveKind::Barrier);
        plan.start(Outbound::new(Vec::<u8>::new()), Vec::new(), |_: Rows<u8>| Ok(()))
    }

    /// Starts a [`bcast`](Comm::bcast); `at_root` runs at once, on the root only.
    ///
    /// # Collective
    /// All ranks, with the same root.
    ///
    /// # Examples
    /// ```
    /// let got = spmd::local(3, |world| {
    ///     let coming = world.ibcast(0, || vec![1.5, 2.5])?;
    ///     // ... compute meanwhile ...
    ///     Ok(coming.wait()?)
    /// });
    /// assert_eq!(got.unwrap()[2], [1.5, 2.5]);
    /// ```
    #[track_caller]
    pub fn ibcast<T: Datum>(
        &self,
        root: usize,
        at_root: impl FnOnce() -> Vec<T>,
    ) -> Result<Request<'_, Vec<T>>> {
        let call = rooted("ibcast", root);
        let mine = if self.rank == root { at_root() } else { Vec::new() };
        let counts = if self.rank == root { vec![size_of_val(&*mine)] } else { Vec::new() };
        let mine = Outbound::new(mine);
        Plan::from_root(self, call, Subject::any::<T>(), root, CollectiveKind::Bcast)?.start(
            mine,
            counts,
            |rows: Rows<T>| Ok(rows.values),
        )
    }

    /// Starts a [`gather`](Comm::gather) of rows of any lengths.
    ///
    /// # Collective
    /// All ranks, with the same root.
    #[track_caller]
    pub fn igather<B: OwnedBuf>(
        &self,
        root: usize,
        mine: B,
    ) -> Result<Request<'_, Option<Ragged<B::Elem>>>> {
        let call = rooted("igather", root);
        let mine = Outbound::new(mine);
        let (counts, at_root) = (one_row(&mine), self.rank == root);
        Plan::from_root(self, call, Subject::any::<B::Elem>(), root, CollectiveKind::Gather)?.start(
            mine,
            counts,
            move |rows: Rows<B::Elem>| Ok(at_root.then(|| rows.into_ragged())),
        )
    }

    /// Starts a [`scatter`](Comm::scatter); `at_root` runs at once, on the root only.
    ///
    /// # Collective
    /// All ranks, with the same root.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`] on the root if there is not one row per rank.
    #[track_caller]
    pub fn iscatter<T: Datum>(
        &self,
        root: usize,
        at_root: impl FnOnce() -> Ragged<T>,
    ) -> Result<Request<'_, Vec<T>>> {
        let call = rooted("iscatter", root);
        let mut rows = Ragged::default();
        if self.rank == root {
            rows = at_root();
            self.perform(call, || self.check_rows("iscatter's rows", &rows))?;
        }
        let counts = self.perform(call, || byte_counts("iscatter's rows", &rows))?;
        Plan::from_root(self, call, Subject::any::<T>(), root, CollectiveKind::Scatter)?.start(
            Outbound::new(rows.into_flat()),
            counts,
            |rows: Rows<T>| Ok(rows.values),
        )
    }

    /// Starts an [`allgather`](Comm::allgather) of rows of any lengths.
    ///
    /// # Collective
    ///
    /// # Examples
    /// ```
    /// let all = spmd::local(3, |world| {
    ///     let coming = world.iallgather(vec![world.rank(); world.rank()])?;
    ///     // ... compute meanwhile ...
    ///     Ok(coming.wait()?.into_flat())
    /// });
    /// assert_eq!(all.unwrap(), vec![[1, 2, 2]; 3]);
    /// ```
    #[track_caller]
    pub fn iallgather<B: OwnedBuf>(&self, mine: B) -> Result<Request<'_, Ragged<B::Elem>>> {
        let mine = Outbound::new(mine);
        let counts = one_row(&mine);
        Plan::of(self, all("iallgather"), Subject::any::<B::Elem>(), CollectiveKind::Allgather)
            .start(mine, counts, |rows: Rows<B::Elem>| Ok(rows.into_ragged()))
    }

    /// Starts an [`alltoall`](Comm::alltoall) of rows of any lengths.
    ///
    /// # Collective
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`] if there is not one row per rank.
    #[track_caller]
    pub fn ialltoall<T: Datum>(&self, rows: Ragged<T>) -> Result<Request<'_, Ragged<T>>> {
        let call = all("ialltoall");
        let counts = self.perform(call, || {
            self.check_rows("ialltoall's rows", &rows)?;
            byte_counts("ialltoall's rows", &rows)
        })?;
        Plan::of(self, call, Subject::any::<T>(), CollectiveKind::Alltoall).start(
            Outbound::new(rows.into_flat()),
            counts,
            |rows: Rows<T>| Ok(rows.into_ragged()),
        )
    }

    /// Starts a [`reduce`](Comm::reduce).
    ///
    /// # Collective
    /// All ranks, with the same root, operator and length. The root combines p contributions when
    /// it waits, unless the MPI library does it.
    #[track_caller]
    pub fn ireduce<'c, B: OwnedBuf>(
        &'c self,
        root: usize,
        mine: B,
        op: impl ReduceOp<B::Elem> + 'c,
    ) -> Result<Request<'c, Option<Vec<B::Elem>>>> {
        let call = rooted(by!("ireduce", op), root);
        let mine = Outbound::new(mine);
        let (counts, at_root) = (one_row(&mine), self.rank == root);
        Plan::from_root(self, call, Subject::like(mine.values()), root, CollectiveKind::Reduce)?
            .reducing(&op)
            .start(
                mine,
                counts,
                move |rows: Rows<B::Elem>| {
                    if at_root { rows.fold(&op, ..) } else { Ok(None) }
                },
            )
    }

    /// Starts an [`allreduce`](Comm::allreduce).
    ///
    /// # Collective
    /// All ranks, with the same operator and length. Every rank combines p contributions when it
    /// waits, unless the MPI library does it.
    ///
    /// # Examples
    /// ```
    /// use spmd::op::Max;
    /// let got = spmd::local(4, |world| {
    ///     let largest = world.iallreduce(vec![world.rank() as f64], Max)?;
    ///     // ... the next step, which does not need it yet ...
    ///     Ok(largest.wait()?[0])
    /// });
    /// assert_eq!(got.unwrap(), [3.0; 4]);
    /// ```
    #[track_caller]
    pub fn iallreduce<'c, B: OwnedBuf>(
        &'c self,
        mine: B,
        op: impl ReduceOp<B::Elem> + 'c,
    ) -> Result<Request<'c, Vec<B::Elem>>> {
        let mine = Outbound::new(mine);
        let counts = one_row(&mine);
        let subject = Subject::like(mine.values());
        Plan::of(self, all(by!("iallreduce", op)), subject, CollectiveKind::Allreduce)
            .reducing(&op)
            .start(mine, counts, move |rows: Rows<B::Elem>| {
                rows.fold(&op, ..).map(Option::unwrap_or_default)
            })
    }

    /// Starts a [`reduce_scatter`](Comm::reduce_scatter).
    ///
    /// # Collective
    /// All ranks, with the same operator, counts and length. Every rank combines p parts when it
    /// waits.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`] if there is not one count per rank, or they do not add up to the length of `mine`.
    #[track_caller]
    pub fn ireduce_scatter<'c, B: OwnedBuf>(
        &'c self,
        mine: B,
        counts: &[usize],
        op: impl ReduceOp<B::Elem> + 'c,
    ) -> Result<Request<'c, Vec<B::Elem>>> {
        let call = all(by!("ireduce_scatter", op));
        let mine = Outbound::new(mine);
        let subject = Subject::like(mine.values());
        let counts = self.perform(call, || {
            let what = "ireduce_scatter's counts";
            check_length(what, self.size, counts.len())?;
            let whole = lengths::sum(what, counts.iter().copied())?;
            check_length("ireduce_scatter's mine", whole, mine.values().len())?;
            lengths::bytes_of_rows::<B::Elem>(what, counts.iter().copied())
        })?;
        Plan::of(self, call, subject, CollectiveKind::ReduceScatter).start(
            mine,
            counts,
            move |rows: Rows<B::Elem>| rows.fold(&op, ..).map(Option::unwrap_or_default),
        )
    }

    /// Starts a [`scan`](Comm::scan).
    ///
    /// # Collective
    /// All ranks, with the same operator and length. Rank r combines r + 1 contributions when it
    /// waits, unless the MPI library does it.
    #[track_caller]
    pub fn iscan<'c, B: OwnedBuf>(
        &'c self,
        mine: B,
        op: impl ReduceOp<B::Elem> + 'c,
    ) -> Result<Request<'c, Vec<B::Elem>>> {
        let mine = Outbound::new(mine);
        let (counts, end) = (one_row(&mine), self.rank + 1);
        let subject = Subject::like(mine.values());
        Plan::of(self, all(by!("iscan", op)), subject, CollectiveKind::Scan).reducing(&op).start(
            mine,
            counts,
            move |rows: Rows<B::Elem>| rows.fold(&op, ..end).map(Option::unwrap_or_default),
        )
    }

    /// Starts an [`exscan`](Comm::exscan); `None` on rank 0.
    ///
    /// # Collective
    /// All ranks, with the same operator and length. Rank r combines r contributions when it waits,
    /// unless the MPI library does it.
    #[track_caller]
    pub fn iexscan<'c, B: OwnedBuf>(
        &'c self,
        mine: B,
        op: impl ReduceOp<B::Elem> + 'c,
    ) -> Result<Request<'c, Option<Vec<B::Elem>>>> {
        let mine = Outbound::new(mine);
        let (counts, end) = (one_row(&mine), self.rank);
        let subject = Subject::like(mine.values());
        Plan::of(self, all(by!("iexscan", op)), subject, CollectiveKind::Exscan)
            .reducing(&op)
            .start(
                mine,
                counts,
                move |rows: Rows<B::Elem>| {
                    if end == 0 { Ok(None) } else { rows.fold(&op, ..end) }
                },
            )
    }
}

/// The bytes of a contribution of one row.
fn one_row<B: OwnedBuf>(mine: &Outbound<B>) -> Vec<usize> {
    vec![size_of_val(mine.values())]
}

/// A non-blocking collective call before it starts.
pub(in crate::comm) struct Plan<'c> {
    comm: &'c Comm,
    pub(in crate::comm) call: Call,
    subject: Subject,
    kind: CollectiveKind,
    reduce: Option<(Builtin, Element)>,
}

impl<'c> Plan<'c> {
    pub(in crate::comm) fn of(
        comm: &'c Comm,
        call: Call,
        subject: Subject,
        kind: CollectiveKind,
    ) -> Self {
        Self { comm, call, subject, kind, reduce: None }
    }

    pub(in crate::comm) fn from_root(
        comm: &'c Comm,
        call: Call,
        subject: Subject,
        root: usize,
        kind: fn(Rank) -> CollectiveKind,
    ) -> Result<Self> {
        let root = comm.perform(call, || comm.check_rank(root))?;
        Ok(Self::of(comm, call, subject, kind(root)))
    }

    /// Lets the engine reduce, if it knows the operator.
    pub(in crate::comm) fn reducing<T: Datum>(self, op: &impl ReduceOp<T>) -> Self {
        Self { reduce: op::native(op), ..self }
    }

    /// Starts the call; `finish` makes its result of the rows that come.
    fn start<B: OwnedBuf, R>(
        self,
        mine: Outbound<B>,
        counts: Vec<usize>,
        finish: impl FnOnce(Rows<B::Elem>) -> Result<R, Fault> + 'c,
    ) -> Result<Request<'c, R>> {
        let (comm, call) = (self.comm, self.call);
        comm.perform(call, || {
            let bytes = size_of_val(mine.values());
            let op = self.begin::<B::Elem>(Box::new(mine), bytes, counts)?;
            Ok(Request::new(comm, call, op, move |done| finish(Rows::of(call, done)?)))
        })
    }

    /// Starts the call with what this rank contributes: so many bytes, in rows of `counts`.
    pub(in crate::comm) fn begin<T: Datum>(
        self,
        mine: Box<dyn Buffer>,
        bytes: usize,
        counts: Vec<usize>,
    ) -> Result<Op, Fault> {
        let Self { comm, call, subject, kind, reduce } = self;
        comm.moved(bytes, 0);
        comm.engine.icollective(Exchange {
            context: comm.context,
            rank: Rank::from(comm.rank),
            size: comm.size,
            seq: comm.next_seq(),
            label: subject.label(call),
            kind,
            mine,
            counts,
            reduce,
            room: landing::<T>,
        })
    }
}

/// What a non-blocking collective has brought, checked.
pub(in crate::comm) struct Rows<T> {
    call: Call,
    pub(in crate::comm) values: Vec<T>,
    /// The elements of each row.
    counts: Vec<usize>,
    /// Whether the values are the result of a reduction.
    reduced: bool,
}

impl<T: Datum> Rows<T> {
    pub(in crate::comm) fn of(call: Call, done: Done) -> Result<Self, Fault> {
        let Exchanged { rows, counts, reduced } = *done.exchanged.ok_or(ErrorKind::Closed)?;
        let rows = rows.into_any().downcast::<Landing<T>>().map_err(|_| ErrorKind::Closed)?;
        let counts: Vec<usize> = counts.into_iter().map(|bytes| bytes / size_of::<T>()).collect();
        let values = rows.into_values(lengths::sum(THEIRS, counts.iter().copied())?)?;
        Ok(Self { call, values, counts, reduced })
    }

    fn into_ragged(self) -> Ragged<T> {
        Ragged::from_flat(self.values, self.counts)
    }

    /// The rows of these ranks combined in the order of ranks, if they have not been already.
    pub(in crate::comm) fn fold(
        mut self,
        op: &impl ReduceOp<T>,
        ranks: impl std::slice::SliceIndex<[usize], Output = [usize]>,
    ) -> Result<Option<Vec<T>>, Fault> {
        if self.reduced {
            return Ok((!self.counts.is_empty()).then_some(self.values));
        }
        let Some(&count) = self.counts.first() else { return Ok(None) };
        if let Some(rank) = self.counts.iter().position(|&other| other != count) {
            let call = self.call;
            let describe = |count: usize| format!("{call} with {count} elements");
            let (mine, theirs) = (describe(count), describe(self.counts[rank]));
            return Err(ErrorKind::CollectiveMismatch { mine, rank, theirs }.into());
        }
        let end = lengths::product(THEIRS, [self.counts[ranks].len(), count])?;
        let (first, others) = self.values[..end].split_at_mut(count);
        for row in others.chunks_exact(count.max(1)) {
            for (left, &right) in first.iter_mut().zip(row) {
                *left = op.apply(*left, right);
            }
        }
        self.values.truncate(count);
        Ok(Some(self.values))
    }
}
