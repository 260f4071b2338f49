//! The collectives of a plan.

use super::{
    super::{
        ReduceOp,
        agreement::Subject,
        all,
        collective::{check_length, rooted},
        lengths,
        op::{self, by},
    },
    Brings, How, Plan, PlanBuffer,
    store::store,
};
use crate::{
    datum::{Datum, Landing, LentRead, LentWrite, Outgoing, landing},
    engine::{Builtin, CollectiveKind, Element, Exchange, Exchanged, Pattern, Rank},
    error::{Call, ErrorKind, Fault, Result},
};

impl<'c> Plan<'c> {
    /// Adds a barrier: the plan is done when all ranks have started theirs.
    ///
    /// # Collective
    /// All ranks add the same collectives in the same order, and start and wait for their plans
    /// alike.
    #[track_caller]
    pub fn barrier(&mut self) -> Result<()> {
        self.add(all("planned barrier"), |plan, call| {
            let kind = CollectiveKind::Barrier;
            let prepared =
                plan.prepare_collective(kind, LentRead::NOTHING, LentWrite::NOTHING, None)?;
            let how = match prepared {
                Some(prepared) => prepared,
                None => Self::exchange::<u8>(call, Subject::nothing(), kind, None, None),
            };
            Ok(((), how, Brings::Nothing))
        })
    }

    /// Adds a broadcast of the root's values; all ranks give equally many.
    ///
    /// # Collective
    /// As [`Plan::barrier`], with the same root and length.
    #[track_caller]
    pub fn bcast<T: Datum>(&mut self, root: usize, values: Vec<T>) -> Result<PlanBuffer<T>> {
        self.add(rooted("planned bcast", root), |plan, call| {
            let root = plan.comm.check_rank(root)?;
            let receives = root.index() != plan.comm.rank;
            let subject = Subject::equal::<T>(values.len());
            let (buffer, place) = plan.store(values, receives);
            let store = &mut plan.stores[place];
            let (from, into) = if receives {
                (LentRead::NOTHING, store.inlet())
            } else {
                (store.outlet(), LentWrite::NOTHING)
            };
            let kind = CollectiveKind::Bcast(root);
            if let Some(how) = plan.prepare_collective(kind, from, into, None)? {
                let brings = if receives { Brings::Whole(place) } else { Brings::Nothing };
                return Ok((buffer, how, brings));
            }
            let mine = (!receives).then_some(place);
            let how = Self::exchange::<T>(call, subject, kind, mine, None);
            let brings = if receives { rows_into::<T>(place) } else { Brings::Nothing };
            Ok((buffer, how, brings))
        })
    }

    /// Adds an allgather of equally many values of each rank: what is gathered of, and what is
    /// gathered, by rank.
    ///
    /// # Collective
    /// As [`Plan::barrier`], with the same length.
    #[track_caller]
    pub fn allgather<T: Datum>(&mut self, mine: Vec<T>) -> Result<(PlanBuffer<T>, PlanBuffer<T>)> {
        self.add(all("planned allgather"), |plan, call| {
            let subject = Subject::equal::<T>(mine.len());
            let room = repeated("the planned allgather's mine", &mine, plan.comm.size)?;
            let ((mine, from), (out, into)) = (plan.store(mine, false), plan.store(room, true));
            let kind = CollectiveKind::Allgather;
            if let Some(how) = plan.prepare_moved(kind, from, into)? {
                return Ok(((mine, out), how, Brings::Whole(into)));
            }
            let how = Self::exchange::<T>(call, subject, kind, Some(from), None);
            Ok(((mine, out), how, rows_into::<T>(into)))
        })
    }

    /// Adds a gather of equally many values of each rank: what is gathered of, and what is gathered
    /// on the root, by rank; empty elsewhere.
    ///
    /// # Collective
    /// As [`Plan::barrier`], with the same root and length.
    #[track_caller]
    pub fn gather<T: Datum>(
        &mut self,
        root: usize,
        mine: Vec<T>,
    ) -> Result<(PlanBuffer<T>, PlanBuffer<T>)> {
        self.add(rooted("planned gather", root), |plan, call| {
            let (root, subject) = (plan.comm.check_rank(root)?, Subject::equal::<T>(mine.len()));
            let is_root = root.index() == plan.comm.rank;
            let ranks = if is_root { plan.comm.size } else { 0 };
            let room = repeated("the planned gather's mine", &mine, ranks)?;
            let ((mine, from), (out, into)) = (plan.store(mine, false), plan.store(room, true));
            let kind = CollectiveKind::Gather(root);
            if let Some(how) = plan.prepare_moved(kind, from, into)? {
                let brings = if is_root { Brings::Whole(into) } else { Brings::Nothing };
                return Ok(((mine, out), how, brings));
            }
            let how = Self::exchange::<T>(call, subject, kind, Some(from), None);
            let brings = if is_root { rows_into::<T>(into) } else { Brings::Nothing };
            Ok(((mine, out), how, brings))
        })
    }

    /// Adds a scatter of rows of equal length: the root's rows, one behind the other, which others
    /// leave empty, and this rank's row, for which `into` makes room.
    ///
    /// # Collective
    /// As [`Plan::barrier`], with the same root and length of `into`.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`] on the root if `rows` is not `size` times as long as `into`.
    #[track_caller]
    pub fn scatter<T: Datum>(
        &mut self,
        root: usize,
        rows: Vec<T>,
        into: Vec<T>,
    ) -> Result<(PlanBuffer<T>, PlanBuffer<T>)> {
        self.add(rooted("planned scatter", root), |plan, call| {
            let (root, subject) = (plan.comm.check_rank(root)?, Subject::equal::<T>(into.len()));
            let is_root = root.index() == plan.comm.rank;
            let rows = if is_root { rows } else { Vec::new() };
            let what = "the planned scatter's rows";
            let needed =
                if is_root { lengths::product(what, [plan.comm.size, into.len()])? } else { 0 };
            check_length(what, needed, rows.len())?;
            let ((rows, from), (part, into)) = (plan.store(rows, false), plan.store(into, true));
            let kind = CollectiveKind::Scatter(root);
            if let Some(how) = plan.prepare_moved(kind, from, into)? {
                return Ok(((rows, part), how, Brings::Whole(into)));
            }
            let mine = is_root.then_some(from);
            let how = Self::exchange::<T>(call, subject, kind, mine, None);
            Ok(((rows, part), how, rows_into::<T>(into)))
        })
    }

    /// Adds an alltoall of rows of equal length, one behind the other: the rows for each rank, and
    /// those of each rank.
    ///
    /// # Collective
    /// As [`Plan::barrier`], with the same length.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`] if the length of `rows` is no multiple of the number of ranks.
    #[track_caller]
    pub fn alltoall<T: Datum>(&mut self, rows: Vec<T>) -> Result<(PlanBuffer<T>, PlanBuffer<T>)> {
        self.add(all("planned alltoall"), |plan, call| {
            let (got, size) = (rows.len(), plan.comm.size);
            check_length("the planned alltoall's rows", got.next_multiple_of(size), got)?;
            let subject = Subject::equal::<T>(got);
            let room = rows.clone();
            let ((rows, from), (out, into)) = (plan.store(rows, false), plan.store(room, true));
            let kind = CollectiveKind::Alltoall;
            if let Some(how) = plan.prepare_moved(kind, from, into)? {
                return Ok(((rows, out), how, Brings::Whole(into)));
            }
            let how = Self::exchange::<T>(call, subject, kind, Some(from), None);
            Ok(((rows, out), how, rows_into::<T>(into)))
        })
    }

    /// Adds a reduce: the operands, and the result on the root; empty elsewhere.
    ///
    /// # Collective
    /// As [`Plan::barrier`], with the same root, operator and length.
    #[track_caller]
    pub fn reduce<T: Datum>(
        &mut self,
        root: usize,
        mine: Vec<T>,
        op: impl ReduceOp<T> + 'c,
    ) -> Result<(PlanBuffer<T>, PlanBuffer<T>)> {
        self.add(rooted("planned reduce", root), |plan, call| {
            let root = plan.comm.check_rank(root)?;
            plan.reduction(call, CollectiveKind::Reduce(root), mine, op)
        })
    }

    /// Adds an allreduce: the operands, and the result.
    ///
    /// # Collective
    /// As [`Plan::barrier`], with the same operator and length.
    #[track_caller]
    pub fn allreduce<T: Datum>(
        &mut self,
        mine: Vec<T>,
        op: impl ReduceOp<T> + 'c,
    ) -> Result<(PlanBuffer<T>, PlanBuffer<T>)> {
        self.add(all("planned allreduce"), |plan, call| {
            plan.reduction(call, CollectiveKind::Allreduce, mine, op)
        })
    }

    /// Adds a scan: the operands, and the reduction over the ranks up to and including this one.
    ///
    /// # Collective
    /// As [`Plan::barrier`], with the same operator and length.
    #[track_caller]
    pub fn scan<T: Datum>(
        &mut self,
        mine: Vec<T>,
        op: impl ReduceOp<T> + 'c,
    ) -> Result<(PlanBuffer<T>, PlanBuffer<T>)> {
        self.add(all("planned scan"), |plan, call| {
            plan.reduction(call, CollectiveKind::Scan, mine, op)
        })
    }

    /// Adds an exscan: the operands, and the reduction over the ranks before this one; empty on
    /// rank 0.
    ///
    /// # Collective
    /// As [`Plan::barrier`], with the same operator and length.
    #[track_caller]
    pub fn exscan<T: Datum>(
        &mut self,
        mine: Vec<T>,
        op: impl ReduceOp<T> + 'c,
    ) -> Result<(PlanBuffer<T>, PlanBuffer<T>)> {
        self.add(all("planned exscan"), |plan, call| {
            plan.reduction(call, CollectiveKind::Exscan, mine, op)
        })
    }

    /// Adds a reduction whose result is cut into equal parts: the operands, and this rank's part.
    ///
    /// # Collective
    /// As [`Plan::barrier`], with the same operator and length.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`] if the length of `mine` is no multiple of the number of ranks.
    #[track_caller]
    pub fn reduce_scatter<T: Datum>(
        &mut self,
        mine: Vec<T>,
        op: impl ReduceOp<T> + 'c,
    ) -> Result<(PlanBuffer<T>, PlanBuffer<T>)> {
        self.add(all(by!("planned reduce_scatter", op)), |plan, call| {
            let (got, size) = (mine.len(), plan.comm.size);
            check_length("the planned reduce_scatter's operands", got.next_multiple_of(size), got)?;
            let (subject, room) = (Subject::equal::<T>(got), mine[..got / size].to_vec());
            let ((mine, from), (out, into)) = (plan.store(mine, false), plan.store(room, true));
            let (source, target) = (plan.stores[from].outlet(), plan.stores[into].inlet());
            let kind = CollectiveKind::ReduceScatter;
            let prepared = op::reduction(&op, |with| {
                plan.prepare_collective(kind, source, target, Some(with))
            })?;
            if let Some(how) = prepared {
                return Ok(((mine, out), how, Brings::Whole(into)));
            }
            let how = Self::exchange::<T>(call, subject, kind, Some(from), None);
            Ok(((mine, out), how, folded_into(into, op, size)))
        })
    }

    /// Prepares a collective that moves rows from one store to another.
    fn prepare_moved(
        &mut self,
        kind: CollectiveKind,
        from: usize,
        into: usize,
    ) -> Result<Option<How<'c>>, Fault> {
        let (mine, out) = (self.stores[from].outlet(), self.stores[into].inlet());
        self.prepare_collective(kind, mine, out, None)
    }

    /// A reduction to one result: the operands, and the result, empty on a rank that has none.
    #[allow(clippy::type_complexity, reason = "what `add` takes")]
    fn reduction<T: Datum>(
        &mut self,
        call: Call,
        kind: CollectiveKind,
        mine: Vec<T>,
        op: impl ReduceOp<T> + 'c,
    ) -> Result<((PlanBuffer<T>, PlanBuffer<T>), How<'c>, Brings<'c>), Fault> {
        let (rank, subject) = (self.comm.rank, Subject::equal::<T>(mine.len()));
        // So many ranks' operands make up this rank's result.
        let operands = match kind {
            CollectiveKind::Reduce(root) if root.index() != rank => 0,
            CollectiveKind::Scan => rank + 1,
            CollectiveKind::Exscan => rank,
            _ => self.comm.size,
        };
        let room = if operands == 0 { Vec::new() } else { mine.clone() };
        let ((mine, from), (out, into)) = (self.store(mine, false), self.store(room, true));
        let (source, target) = (self.stores[from].outlet(), self.stores[into].inlet());
        let prepared =
            op::reduction(&op, |with| self.prepare_collective(kind, source, target, Some(with)))?;
        if let Some(how) = prepared {
            let brings = if operands == 0 { Brings::Nothing } else { Brings::Whole(into) };
            return Ok(((mine, out), how, brings));
        }
        let how = Self::exchange::<T>(call, subject, kind, Some(from), op::native(&op));
        Ok(((mine, out), how, folded_into(into, op, operands)))
    }

    /// A collective as a non-blocking call at each start; the values at `mine` are copied then.
    fn exchange<T: Datum>(
        call: Call,
        subject: Subject,
        kind: CollectiveKind,
        mine: Option<usize>,
        reduce: Option<(Builtin, Element)>,
    ) -> How<'c> {
        How::Anew(Box::new(move |comm, stores| {
            let values = match mine {
                Some(place) => store::<T>(stores, place)?.values().to_vec(),
                None => Vec::new(),
            };
            let bytes = size_of_val(&*values);
            let counts = match (kind.pattern(), mine) {
                (Some(Pattern::Each), _) | (Some(Pattern::RowsFromRoot(_)), Some(_)) => {
                    vec![bytes / comm.size; comm.size]
                }
                (Some(Pattern::FromRoot(_) | Pattern::RowsFromRoot(_)), None) => Vec::new(),
                _ => vec![bytes],
            };
            comm.moved(bytes, 0);
            comm.engine.icollective(Exchange {
                context: comm.context,
                rank: Rank::from(comm.rank),
                size: comm.size,
                seq: comm.next_seq(),
                label: subject.label(call),
                kind,
                mine: Box::new(Outgoing(values)),
                counts,
                reduce,
                room: landing::<T>,
            })
        }))
    }
}

/// The values so many times over.
fn repeated<T: Datum>(what: &'static str, values: &[T], times: usize) -> Result<Vec<T>, Fault> {
    lengths::product(what, [values.len(), times])?;
    Ok(values.repeat(times))
}

const GIVEN: &str = "what another rank gave";

/// Brings the rows of an exchange into a store, which they fill.
fn rows_into<'c, T: Datum>(place: usize) -> Brings<'c> {
    Brings::Rows(Box::new(move |exchanged, stores| {
        let values = values_of::<T>(exchanged)?;
        let out = store::<T>(stores, place)?.values_mut();
        check_length(GIVEN, out.len(), values.len())?;
        out.copy_from_slice(&values);
        Ok(())
    }))
}

/// Combines the first so many rows of an exchange, unless they have been combined, in a store,
/// which each of them fills.
fn folded_into<'c, T: Datum>(
    place: usize,
    op: impl ReduceOp<T> + 'c,
    operands: usize,
) -> Brings<'c> {
    if operands == 0 {
        return Brings::Nothing;
    }
    Brings::Rows(Box::new(move |exchanged, stores| {
        let operands = if exchanged.reduced { 1 } else { operands };
        let out = store::<T>(stores, place)?.values_mut();
        // All of them, also those that this rank does not combine: every rank finds that lengths
        // differ.
        for bytes in &exchanged.counts {
            check_length(GIVEN, out.len(), bytes / size_of::<T>())?;
        }
        let values = values_of::<T>(exchanged)?;
        let mut rows = values.chunks_exact(out.len().max(1)).take(operands);
        out.copy_from_slice(rows.next().unwrap_or_default());
        for row in rows {
            out.iter_mut().zip(row).for_each(|(left, right)| *left = op.apply(*left, *right));
        }
        Ok(())
    }))
}

fn values_of<T: Datum>(exchanged: Exchanged) -> Result<Vec<T>, Fault> {
    let Exchanged { rows, counts, .. } = exchanged;
    let rows = rows.into_any().downcast::<Landing<T>>().map_err(|_| ErrorKind::Closed)?;
    rows.into_values(lengths::values_in_rows::<T>(GIVEN, &counts)?)
}
