//! Collective calls of every form; those that work in the caller's memory in a way of their own are
//! in `forms.rs`.
#![allow(clippy::unnecessary_wraps, reason = "that all arms of a long match are alike")]

use std::marker::PhantomData;

use spmd::{Comm, Failure, Plan, Ragged, Request, buffer::PlanBuffer, op::ReduceOp};

use super::{
    Collective, Counts, Form, Op,
    judge::Got,
    liar::Liar,
    value::{Element, Reducing, Stamp, bytes, with_type},
};

/// A call that is over, or what finishes it.
pub(super) enum Started<'c> {
    Over(Got),
    Pending(Box<dyn FnOnce() -> Result<Got, Failure> + 'c>),
}

pub(super) type Begun<'c> = Result<Started<'c>, Failure>;

pub(super) fn over<'c>(got: Got) -> Begun<'c> {
    Ok(Started::Over(got))
}

fn pending<'c, R: 'c>(request: Request<'c, R>, see: impl FnOnce(R) -> Got + 'c) -> Begun<'c> {
    Ok(Started::Pending(Box::new(|| Ok(see(request.wait()?)))))
}

/// A plan of one call, started once.
fn planned<'c, T: Element>(
    comm: &'c Comm,
    see: impl FnOnce(Vec<T>) -> Got + 'c,
    add: impl FnOnce(&mut Plan<'c>) -> spmd::Result<PlanBuffer<T>>,
) -> Begun<'c> {
    let mut plan = comm.plan();
    let out = add(&mut plan)?;
    plan.start()?;
    Ok(Started::Pending(Box::new(move || {
        plan.wait()?;
        Ok(see(plan.get(out)?.to_vec()))
    })))
}

/// Rows of these lengths, by rank.
pub(super) fn rows<T: Element>(ragged: Ragged<T>) -> Got {
    Got::Rows(ragged.iter().map(bytes).enumerate().collect())
}

/// Rows of equal length, by rank.
pub(super) fn even<T: Element>(flat: &[T], size: usize) -> Got {
    let length = flat.len() / size;
    Got::Rows((0..size).map(|at| (at, bytes(&flat[at * length..][..length]))).collect())
}

pub(super) fn one<T: Element>(from: usize, row: &[T]) -> Got {
    Got::Rows(vec![(from, bytes(row))])
}

impl Collective {
    pub(super) fn is_blocking(&self) -> bool {
        !matches!(self.form, Form::NonBlocking | Form::Scoped | Form::Planned)
    }

    pub(super) fn size_of_row(&self, rank: usize) -> usize {
        let may = !matches!(self.form, Form::Into | Form::One | Form::Scoped | Form::Planned);
        self.base() + if self.uneven && may { rank % 4 * 3 } else { 0 }
    }

    /// The length of what is equally long on all ranks.
    pub(super) fn base(&self) -> usize {
        if self.form == Form::One { 1 } else { self.length }
    }

    /// The length of what `from` has for `to`.
    pub(super) fn length(&self, from: usize, to: usize) -> usize {
        match self.op {
            Op::Gather | Op::Allgather => self.size_of_row(from),
            Op::Scatter | Op::ReduceScatter => self.size_of_row(to),
            Op::Alltoall => self.size_of_row(from + to),
            _ => self.base(),
        }
    }

    /// The length of what `from` gives to a reduction.
    pub(super) fn given(&self, size: usize) -> usize {
        match self.op {
            Op::ReduceScatter => (0..size).map(|to| self.size_of_row(to)).sum(),
            _ => self.base(),
        }
    }

    /// The counts of all ranks, or what this rank holds for them.
    pub(super) fn counts(&self, right: impl Iterator<Item = usize>) -> Vec<usize> {
        let mut counts: Vec<usize> = right.collect();
        let size = counts.len();
        match self.counts {
            Counts::Right => {}
            Counts::One(at, count) => counts[at % size] = count,
            Counts::Wrap(at, by) => {
                counts[at % size] = counts[at % size].wrapping_add(by);
                counts[(at + 1) % size] = counts[(at + 1) % size].wrapping_sub(by);
            }
            Counts::More(by) => counts.resize(size.saturating_add_signed(by), 1),
        }
        counts
    }

    pub(super) fn start<'c>(&self, comm: &'c Comm, stamp: Stamp) -> Begun<'c> {
        with_type!(self.ty, T => match self.op {
            Op::Barrier | Op::Bcast | Op::Gather | Op::Scatter | Op::Allgather | Op::Alltoall => {
                self.start_moving::<T>(comm, stamp)
            }
            _ => <T as Element>::reduce(self.by.on(self.ty), Reduce { comm, call: self, stamp }),
        })
    }

    fn start_moving<'c, T: Element>(&self, comm: &'c Comm, stamp: Stamp) -> Begun<'c> {
        let have = Have::<T>::new(self, comm, stamp);
        if let Some(begun) = self.start_special(comm, &have) {
            return begun;
        }
        let (rank, size, root) = (comm.rank(), comm.size(), self.root_in(comm.size()));
        let is_root = rank == root;
        let row = |to| have.row(to);
        let (flat, ragged, known) = (|| have.flat(), || have.ragged(), || have.known());
        let mine = || have.mine();
        let room = |count| have.room(count);
        let some = move |got: Option<Ragged<T>>| got.map_or(Got::Nothing, rows);
        match (self.op, self.form) {
            (Op::Barrier, Form::NonBlocking) => pending(comm.ibarrier()?, |()| Got::Nothing),
            (Op::Barrier, Form::Planned) => {
                let mut plan = comm.plan();
                plan.barrier()?;
                plan.start()?;
                Ok(Started::Pending(Box::new(move || Ok(plan.wait().map(|()| Got::Nothing)?))))
            }
            (Op::Barrier, _) => {
                comm.barrier()?;
                over(Got::Nothing)
            }
            (Op::Bcast, Form::NonBlocking) => {
                pending(comm.ibcast(root, || row(rank))?, move |got| one(root, &got))
            }
            (Op::Bcast, Form::Planned) => {
                let values = if is_root { row(rank) } else { room(self.length).into_values() };
                planned(comm, move |got| one(root, &got), |plan| plan.bcast(root, values))
            }
            (Op::Bcast, Form::Into) => {
                let mut buffer = if is_root { mine() } else { room(self.length) };
                comm.bcast_into(root, &mut buffer)?;
                over(one(root, &buffer.into_values()))
            }
            (Op::Bcast, _) => over(one(root, &comm.bcast(root, || row(rank))?)),
            (Op::Gather, Form::NonBlocking) => pending(comm.igather(root, row(rank))?, some),
            (Op::Gather, Form::Planned) => {
                let see = move |got: Vec<T>| if is_root { even(&got, size) } else { Got::Nothing };
                planned(comm, see, |plan| Ok(plan.gather(root, row(rank))?.1))
            }
            (Op::Gather, Form::Into) => {
                let mut out = room(if is_root { size * self.length } else { 0 });
                comm.gather_into(root, &mine(), &mut out)?;
                over(if is_root { even(&out.into_values(), size) } else { Got::Nothing })
            }
            (Op::Gather, Form::Known) => over(some(comm.gather_known(root, &mine(), &known())?)),
            (Op::Gather, _) => over(some(comm.gather(root, &mine())?)),
            (Op::Scatter, Form::NonBlocking) => {
                pending(comm.iscatter(root, ragged)?, move |got| one(root, &got))
            }
            (Op::Scatter, Form::Planned) => {
                let all = if is_root { flat() } else { Vec::new() };
                planned(
                    comm,
                    move |got| one(root, &got),
                    |plan| Ok(plan.scatter(root, all, room(self.length).into_values())?.1),
                )
            }
            (Op::Scatter, Form::Into) => {
                let all = Liar::new(if is_root { flat() } else { Vec::new() }, &self.mine);
                let mut out = room(self.length);
                comm.scatter_into(root, &all, &mut out)?;
                over(one(root, &out.into_values()))
            }
            (Op::Scatter, Form::Known) => {
                let count = known().get(rank).copied().unwrap_or_default();
                over(one(root, &comm.scatter_known(root, count, ragged)?))
            }
            (Op::Scatter, _) => over(one(root, &comm.scatter(root, ragged)?)),
            (Op::Allgather, Form::NonBlocking) => pending(comm.iallgather(row(rank))?, rows),
            (Op::Allgather, Form::Planned) => {
                planned(comm, move |got| even(&got, size), |plan| Ok(plan.allgather(row(rank))?.1))
            }
            (Op::Allgather, Form::Into) => {
                let mut out = room(size * self.length);
                comm.allgather_into(&mine(), &mut out)?;
                over(even(&out.into_values(), size))
            }
            (Op::Allgather, Form::Known) => over(rows(comm.allgather_known(&mine(), &known())?)),
            (Op::Allgather, _) => over(rows(comm.allgather(&mine())?)),
            (_, Form::NonBlocking) => pending(comm.ialltoall(ragged())?, rows),
            (_, Form::Planned) => {
                planned(comm, move |got| even(&got, size), |plan| Ok(plan.alltoall(flat())?.1))
            }
            (_, Form::Into) => {
                let mut out = room(size * self.length);
                comm.alltoall_into(&Liar::new(flat(), &self.mine), &mut out)?;
                over(even(&out.into_values(), size))
            }
            (_, Form::Known) => over(rows(comm.alltoall_known(&ragged(), &known())?)),
            (_, _) => over(rows(comm.alltoall(&ragged())?)),
        }
    }

    /// The root, which is right on any communicator unless it was made wrong.
    pub(super) fn root_in(&self, size: usize) -> usize {
        if self.root == usize::MAX { size } else { self.root % size }
    }
}

/// What a rank has for a call that moves rows.
pub(super) struct Have<'r, 'c, T> {
    call: &'r Collective,
    comm: &'c Comm,
    stamp: Stamp,
    of: PhantomData<T>,
}

impl<'r, 'c, T: Element> Have<'r, 'c, T> {
    fn new(call: &'r Collective, comm: &'c Comm, stamp: Stamp) -> Self {
        Self { call, comm, stamp, of: PhantomData }
    }

    pub(super) fn row(&self, to: usize) -> Vec<T> {
        let Self { call, comm, stamp, .. } = self;
        let whom = match call.op {
            Op::Scatter | Op::Alltoall => comm.world_rank(to),
            _ => Stamp::ALL,
        };
        Stamp { to: whom, ..*stamp }.values(call.ty, call.length(comm.rank(), to))
    }

    pub(super) fn flat(&self) -> Vec<T> {
        (0..self.comm.size()).flat_map(|to| self.row(to)).collect()
    }

    pub(super) fn ragged(&self) -> Ragged<T> {
        let lengths = (0..self.comm.size()).map(|to| self.call.length(self.comm.rank(), to));
        Ragged::from_flat(self.flat(), self.call.counts(lengths))
    }

    /// The lengths of what comes.
    pub(super) fn known(&self) -> Vec<usize> {
        let lengths = (0..self.comm.size()).map(|from| self.call.length(from, self.comm.rank()));
        self.call.counts(lengths)
    }

    pub(super) fn mine(&self) -> Liar<T> {
        Liar::new(self.row(self.comm.rank()), &self.call.mine)
    }

    pub(super) fn room(&self, count: usize) -> Liar<T> {
        Liar::room(count, &self.call.out)
    }
}

/// A reduction, whose operator is a type of its own.
pub(super) struct Reduce<'r, 'c> {
    pub(super) comm: &'c Comm,
    pub(super) call: &'r Collective,
    pub(super) stamp: Stamp,
}

impl<'c, T: Element> Reducing<T> for Reduce<'_, 'c> {
    type Result = Begun<'c>;

    fn with(self, op: impl ReduceOp<T> + 'static) -> Begun<'c> {
        if self.is_special() {
            return self.start_special(op);
        }
        let Self { comm, call, stamp } = self;
        let (rank, size, root) = (comm.rank(), comm.size(), call.root_in(comm.size()));
        let values = || -> Vec<T> { stamp.values(call.ty, call.given(size)) };
        let mine = || Liar::new(values(), &call.mine);
        let mut out = Liar::<T>::room(call.length, &call.out);
        let counts = call.counts((0..size).map(|to| call.length(rank, to)));
        let all = move |got: Vec<T>| Got::Fold(0..size, bytes(&got));
        let at_root = move |got: Option<Vec<T>>| got.map_or(Got::Nothing, all);
        let upto = move |got: Vec<T>| Got::Fold(0..rank + 1, bytes(&got));
        let before = move |got: Option<Vec<T>>| {
            got.map_or(Got::Nothing, |got| Got::Fold(0..rank, bytes(&got)))
        };
        match (call.op, call.form) {
            (Op::Reduce, Form::NonBlocking) => pending(comm.ireduce(root, values(), op)?, at_root),
            (Op::Reduce, Form::Planned) => {
                let see = move |got| if rank == root { all(got) } else { Got::Nothing };
                planned(comm, see, |plan| Ok(plan.reduce(root, values(), op)?.1))
            }
            (Op::Reduce, Form::Into) => {
                comm.reduce_into(root, &mine(), &mut out, op)?;
                over(if rank == root { all(out.into_values()) } else { Got::Nothing })
            }
            (Op::Reduce, _) => over(at_root(comm.reduce(root, &mine(), op)?)),
            (Op::Allreduce, Form::NonBlocking) => pending(comm.iallreduce(values(), op)?, all),
            (Op::Allreduce, Form::Planned) => {
                planned(comm, all, |plan| Ok(plan.allreduce(values(), op)?.1))
            }
            (Op::Allreduce, Form::Into) => {
                comm.allreduce_into(&mine(), &mut out, op)?;
                over(all(out.into_values()))
            }
            (Op::Allreduce, _) => over(all(comm.allreduce(&mine(), op)?)),
            (Op::ReduceScatter, Form::NonBlocking) => {
                pending(comm.ireduce_scatter(values(), &counts, op)?, all)
            }
            (Op::ReduceScatter, Form::Planned) => {
                planned(comm, all, |plan| Ok(plan.reduce_scatter(values(), op)?.1))
            }
            (Op::ReduceScatter, Form::Into) => {
                comm.reduce_scatter_into(&mine(), &mut out, op)?;
                over(all(out.into_values()))
            }
            (Op::ReduceScatter, _) => over(all(comm.reduce_scatter(&mine(), &counts, op)?)),
            (Op::Scan, Form::NonBlocking) => pending(comm.iscan(values(), op)?, upto),
            (Op::Scan, Form::Planned) => planned(comm, upto, |plan| Ok(plan.scan(values(), op)?.1)),
            (Op::Scan, Form::Into) => {
                comm.scan_into(&mine(), &mut out, op)?;
                over(upto(out.into_values()))
            }
            (Op::Scan, _) => over(upto(comm.scan(&mine(), op)?)),
            (_, Form::NonBlocking) => pending(comm.iexscan(values(), op)?, before),
            (_, Form::Planned) => planned(
                comm,
                move |got| if rank == 0 { Got::Nothing } else { before(Some(got)) },
                |plan| Ok(plan.exscan(values(), op)?.1),
            ),
            (_, Form::Into) => {
                comm.exscan_into(&mine(), &mut out, op)?;
                over(if rank == 0 { Got::Nothing } else { before(Some(out.into_values())) })
            }
            (_, _) => over(before(comm.exscan(&mine(), op)?)),
        }
    }
}
