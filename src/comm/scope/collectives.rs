//! Collectives of a scope: the results come into borrowed memory while the program goes on.

use super::{
    super::{
        ReduceOp, View, ViewMut,
        agreement::Subject,
        all,
        collective::{
            check_length,
            nonblocking::{Plan, Rows},
            rooted,
        },
        lengths,
        op::by,
        view::{claimed, contents},
    },
    Scope, ScopedRequest,
};
use crate::{
    datum::Outgoing,
    engine::CollectiveKind,
    error::{Fault, Result},
};

/// A collective of a scope under way; [`ScopedRequest::wait`] gives back what it was received into.
/// The status beside it says nothing.
type Coming<'scope, W> = ScopedRequest<'scope, &'scope mut W>;

impl<'scope> Scope<'scope, '_> {
    /// Starts a broadcast of the root's values into every rank's `buffer`, which is equally long
    /// everywhere.
    ///
    /// As all collectives of a scope it may be waited for by its ticket or the end of the scope,
    /// and goes on if the scope is left by an error; what goes out is copied at the start, what
    /// comes in when it is waited for.
    ///
    /// # Collective
    /// All ranks, with the same root and length; in a scope or by
    /// [`Comm::ibcast`](crate::Comm::ibcast).
    ///
    /// # Errors
    /// From the ticket: [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) if the root
    /// has another number of values.
    #[track_caller]
    pub fn ibcast<W: ViewMut + ?Sized>(
        &'scope self,
        root: usize,
        buffer: &'scope mut W,
    ) -> Result<Coming<'scope, W>> {
        let comm = self.board.comm;
        let at_root = comm.rank == root;
        let mine = if at_root { contents(&*buffer).into_owned() } else { Vec::new() };
        let counts = if at_root { vec![size_of_val(&*mine)] } else { Vec::new() };
        let (call, subject) = (rooted("ibcast", root), Subject::any::<W::Elem>());
        let plan = Plan::from_root(comm, call, subject, root, CollectiveKind::Bcast)?;
        let needed = at_root.then_some(mine.len());
        self.start(plan, "ibcast's buffer", needed, mine, counts, buffer, |rows| {
            Ok(Some(rows.values))
        })
    }

    /// Starts a gather of all ranks' values into the root's `out`, in the order of ranks; the
    /// others' `out` stays as it is.
    ///
    /// # Collective
    /// All ranks, with the same root; in a scope or by [`Comm::igather`](crate::Comm::igather).
    ///
    /// # Errors
    /// From the ticket: [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) on the root
    /// if `out` is not as long as all values.
    #[track_caller]
    pub fn igather<V, W>(
        &'scope self,
        root: usize,
        mine: &V,
        out: &'scope mut W,
    ) -> Result<Coming<'scope, W>>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let comm = self.board.comm;
        let at_root = comm.rank == root;
        let mine = contents(mine).into_owned();
        let counts = vec![size_of_val(&*mine)];
        let (call, subject) = (rooted("igather", root), Subject::any::<W::Elem>());
        let plan = Plan::from_root(comm, call, subject, root, CollectiveKind::Gather)?;
        self.start(plan, "igather's out", None, mine, counts, out, move |rows| {
            Ok(at_root.then_some(rows.values))
        })
    }

    /// Starts a scatter of the root's `rows`, which lie in the order of ranks and are equally long,
    /// into `mine`; the others' `rows` are not used and may be empty.
    ///
    /// # Collective
    /// All ranks, with the same root; in a scope or by [`Comm::iscatter`](crate::Comm::iscatter).
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) on the root if `rows` is not a multiple of `size` long; from
    /// the ticket if `mine` is not as long as a row.
    #[track_caller]
    pub fn iscatter<V, W>(
        &'scope self,
        root: usize,
        rows: &V,
        mine: &'scope mut W,
    ) -> Result<Coming<'scope, W>>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let comm = self.board.comm;
        let call = rooted("iscatter", root);
        let (mut own, mut counts) = (Vec::new(), Vec::new());
        if comm.rank == root {
            own = contents(rows).into_owned();
            counts = comm.perform(call, || equal_rows("iscatter's rows", comm.size, &own))?;
        }
        let subject = Subject::any::<W::Elem>();
        let plan = Plan::from_root(comm, call, subject, root, CollectiveKind::Scatter)?;
        self.start(plan, "iscatter's mine", None, own, counts, mine, |rows| Ok(Some(rows.values)))
    }

    /// Starts an allgather of all ranks' values into `out`, in the order of ranks.
    ///
    /// # Collective
    /// All ranks; in a scope or by [`Comm::iallgather`](crate::Comm::iallgather).
    ///
    /// # Errors
    /// From the ticket: [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) if `out` is
    /// not as long as all values.
    #[track_caller]
    pub fn iallgather<V, W>(&'scope self, mine: &V, out: &'scope mut W) -> Result<Coming<'scope, W>>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let mine = contents(mine).into_owned();
        let counts = vec![size_of_val(&*mine)];
        let subject = Subject::any::<W::Elem>();
        let plan = Plan::of(self.board.comm, all("iallgather"), subject, CollectiveKind::Allgather);
        self.start(plan, "iallgather's out", None, mine, counts, out, |rows| Ok(Some(rows.values)))
    }

    /// Starts an alltoall: to each rank its equal part of `rows`, and in `out` what each rank has
    /// for this one.
    ///
    /// # Collective
    /// All ranks; in a scope or by [`Comm::ialltoall`](crate::Comm::ialltoall).
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) if `rows` is not a multiple of `size` long; from the ticket if
    /// `out` is not as long as what comes.
    #[track_caller]
    pub fn ialltoall<V, W>(&'scope self, rows: &V, out: &'scope mut W) -> Result<Coming<'scope, W>>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let (comm, call) = (self.board.comm, all("ialltoall"));
        let rows = contents(rows).into_owned();
        let counts = comm.perform(call, || equal_rows("ialltoall's rows", comm.size, &rows))?;
        let plan = Plan::of(comm, call, Subject::any::<W::Elem>(), CollectiveKind::Alltoall);
        self.start(plan, "ialltoall's out", None, rows, counts, out, |rows| Ok(Some(rows.values)))
    }

    /// Starts an element-wise reduction of all ranks' values into the root's `out`; the others'
    /// `out` stays as it is.
    ///
    /// # Collective
    /// All ranks, with the same root, operator and length; in a scope or by
    /// [`Comm::ireduce`](crate::Comm::ireduce).
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) on the root if `out` is not as long as `mine`.
    #[track_caller]
    pub fn ireduce<V, W>(
        &'scope self,
        root: usize,
        mine: &V,
        out: &'scope mut W,
        op: impl ReduceOp<V::Elem> + 'scope,
    ) -> Result<Coming<'scope, W>>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let comm = self.board.comm;
        let (at_root, mine) = (comm.rank == root, contents(mine).into_owned());
        let (call, subject) = (rooted(by!("ireduce", op), root), Subject::like(&mine));
        let plan =
            Plan::from_root(comm, call, subject, root, CollectiveKind::Reduce)?.reducing(&op);
        let (needed, counts) = (at_root.then_some(mine.len()), vec![size_of_val(&*mine)]);
        self.start(plan, "ireduce's out", needed, mine, counts, out, move |rows| {
            if at_root { rows.fold(&op, ..) } else { Ok(None) }
        })
    }

    /// Starts an element-wise reduction of all ranks' values into every rank's `out`.
    ///
    /// # Collective
    /// All ranks, with the same operator and length; in a scope or by
    /// [`Comm::iallreduce`](crate::Comm::iallreduce).
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) if `out` is not as long as `mine`.
    ///
    /// # Examples
    /// ```
    /// use spmd::op::Sum;
    /// let got = spmd::local(3, |world| {
    ///     let (mine, mut sum, mut all) = ([world.rank() as f64; 2], [0.0; 2], [0; 3]);
    ///     world.scope(|s| {
    ///         let summing = s.iallreduce(&mine, &mut sum, Sum)?;
    ///         s.iallgather(&world.rank(), &mut all)?; // the end of the scope waits for it
    ///         // ... compute meanwhile ...
    ///         let (sum, _) = summing.wait()?;
    ///         sum[0] += 0.5;
    ///         Ok(())
    ///     })?;
    ///     Ok((sum, all))
    /// });
    /// assert_eq!(got.unwrap()[1], ([3.5, 3.0], [0, 1, 2]));
    /// ```
    #[track_caller]
    pub fn iallreduce<V, W>(
        &'scope self,
        mine: &V,
        out: &'scope mut W,
        op: impl ReduceOp<V::Elem> + 'scope,
    ) -> Result<Coming<'scope, W>>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let mine = contents(mine).into_owned();
        let (call, subject) = (all(by!("iallreduce", op)), Subject::like(&mine));
        let plan =
            Plan::of(self.board.comm, call, subject, CollectiveKind::Allreduce).reducing(&op);
        let (needed, counts) = (Some(mine.len()), vec![size_of_val(&*mine)]);
        self.start(plan, "iallreduce's out", needed, mine, counts, out, move |rows| {
            rows.fold(&op, ..)
        })
    }

    /// Starts an element-wise reduction of all ranks' values, cut into equal parts: each rank gets
    /// its part in `out`.
    ///
    /// # Collective
    /// All ranks, with the same operator and length; in a scope or by
    /// [`Comm::ireduce_scatter`](crate::Comm::ireduce_scatter).
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) if `mine` has not `size` times the length of `out`.
    #[track_caller]
    pub fn ireduce_scatter<V, W>(
        &'scope self,
        mine: &V,
        out: &'scope mut W,
        op: impl ReduceOp<V::Elem> + 'scope,
    ) -> Result<Coming<'scope, W>>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let comm = self.board.comm;
        let mine = contents(mine).into_owned();
        let (call, subject) = (all(by!("ireduce_scatter", op)), Subject::like(&mine));
        let counts =
            comm.perform(call, || equal_rows("ireduce_scatter's mine", comm.size, &mine))?;
        let plan = Plan::of(comm, call, subject, CollectiveKind::ReduceScatter);
        let needed = Some(mine.len() / comm.size);
        self.start(plan, "ireduce_scatter's out", needed, mine, counts, out, move |rows| {
            rows.fold(&op, ..)
        })
    }

    /// Starts an element-wise reduction of the values of ranks 0 up to and including this one, into
    /// `out`.
    ///
    /// # Collective
    /// All ranks, with the same operator and length; in a scope or by
    /// [`Comm::iscan`](crate::Comm::iscan).
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) if `out` is not as long as `mine`.
    #[track_caller]
    pub fn iscan<V, W>(
        &'scope self,
        mine: &V,
        out: &'scope mut W,
        op: impl ReduceOp<V::Elem> + 'scope,
    ) -> Result<Coming<'scope, W>>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let comm = self.board.comm;
        let (mine, end) = (contents(mine).into_owned(), comm.rank + 1);
        let (call, subject) = (all(by!("iscan", op)), Subject::like(&mine));
        let plan = Plan::of(comm, call, subject, CollectiveKind::Scan).reducing(&op);
        let (needed, counts) = (Some(mine.len()), vec![size_of_val(&*mine)]);
        self.start(plan, "iscan's out", needed, mine, counts, out, move |rows| {
            rows.fold(&op, ..end)
        })
    }

    /// Starts an element-wise reduction of the values of the ranks before this one, into `out`,
    /// which stays as it was on rank 0.
    ///
    /// # Collective
    /// All ranks, with the same operator and length; in a scope or by
    /// [`Comm::iexscan`](crate::Comm::iexscan).
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) if `out` is not as long as `mine`.
    #[track_caller]
    pub fn iexscan<V, W>(
        &'scope self,
        mine: &V,
        out: &'scope mut W,
        op: impl ReduceOp<V::Elem> + 'scope,
    ) -> Result<Coming<'scope, W>>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let comm = self.board.comm;
        let (mine, end) = (contents(mine).into_owned(), comm.rank);
        let (call, subject) = (all(by!("iexscan", op)), Subject::like(&mine));
        let plan = Plan::of(comm, call, subject, CollectiveKind::Exscan).reducing(&op);
        let (needed, counts) = (Some(mine.len()), vec![size_of_val(&*mine)]);
        self.start(plan, "iexscan's out", needed, mine, counts, out, move |rows| {
            if end == 0 { Ok(None) } else { rows.fold(&op, ..end) }
        })
    }

    /// Starts a collective; `finish` makes of its rows what comes into `out`, if anything.
    #[allow(clippy::too_many_arguments, reason = "what the ten verbs above differ in")]
    fn start<W: ViewMut + ?Sized>(
        &'scope self,
        plan: Plan<'_>,
        what: &'static str,
        needed: Option<usize>,
        mine: Vec<W::Elem>,
        counts: Vec<usize>,
        out: &'scope mut W,
        finish: impl FnOnce(Rows<W::Elem>) -> Result<Option<Vec<W::Elem>>, Fault> + 'scope,
    ) -> Result<Coming<'scope, W>> {
        let (call, room) = (plan.call, claimed(&*out));
        let start = || {
            if let Some(needed) = needed {
                check_length(what, needed, room)?;
            }
            let bytes = size_of_val(&*mine);
            plan.begin::<W::Elem>(Box::new(Outgoing(mine)), bytes, counts)
        };
        self.board.collective(call, out, start, move |done| {
            let values = finish(Rows::of(call, done)?)?;
            if let Some(values) = &values {
                check_length(what, values.len(), room)?;
            }
            Ok(values)
        })
    }
}

/// The bytes of each of `size` rows that are equally long.
fn equal_rows<T>(what: &'static str, size: usize, rows: &[T]) -> Result<Vec<usize>, Fault> {
    check_length(what, lengths::product(what, [size, rows.len() / size])?, rows.len())?;
    Ok(vec![size_of_val(rows) / size; size])
}
