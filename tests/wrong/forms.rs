//! Forms of collective calls that have a way of their own to hand over the caller's memory: of
//! known lengths into it, of single elements, and in scopes. An operation that has no such form is
//! called in another one.

use spmd::{Comm, Failure, ScopedRequest, op::ReduceOp};

use super::{
    Collective, Finish, Form, Op,
    call::{Begun, Have, Reduce, even, one, over},
    judge::Got,
    liar::Liar,
    value::{Element, bytes},
};

/// Rows of these lengths that lie one behind the other.
fn cut<T: Element>(flat: &[T], lengths: impl Iterator<Item = usize>) -> Got {
    let mut rest = flat;
    let row = |(from, length): (usize, usize)| {
        let (row, behind) = rest.split_at(length.min(rest.len()));
        rest = behind;
        (from, bytes(row))
    };
    Got::Rows(lengths.enumerate().map(row).collect())
}

impl Collective {
    /// Ends an operation of a scope: by its ticket, or with the scope.
    fn end<T: Element>(&self, ticket: ScopedRequest<'_, &mut Liar<T>>) -> Result<(), Failure> {
        match self.finish {
            Finish::Now => {
                ticket.wait()?;
            }
            Finish::Later => {}
            Finish::Dropped => return Err(Failure::new("leaves the scope")),
            Finish::Forgotten => std::mem::forget(ticket),
        }
        Ok(())
    }

    /// What a form of this file does for a call that moves rows.
    pub(super) fn start_special<'c, T: Element>(
        &self,
        comm: &'c Comm,
        have: &Have<'_, 'c, T>,
    ) -> Option<Begun<'c>> {
        Some(
            match self.form {
                Form::KnownInto => self.known_into(comm, have)?,
                Form::One if self.op == Op::Bcast => self.bcast_one(comm, have),
                Form::Scoped if self.op != Op::Barrier => self.scoped(comm, have),
                _ => return None,
            }
            .and_then(over),
        )
    }

    fn bcast_one<T: Element>(&self, comm: &Comm, have: &Have<'_, '_, T>) -> Result<Got, Failure> {
        let root = self.root_in(comm.size());
        Ok(one(root, &[comm.bcast_one(root, || have.row(comm.rank())[0])?]))
    }

    fn known_into<T: Element>(
        &self,
        comm: &Comm,
        have: &Have<'_, '_, T>,
    ) -> Option<Result<Got, Failure>> {
        let (rank, size, root) = (comm.rank(), comm.size(), self.root_in(comm.size()));
        let coming = || (0..size).map(|from| self.length(from, rank));
        let room = || have.room(coming().sum());
        let into = || -> Result<Got, Failure> {
            Ok(match self.op {
                Op::Gather if rank != root => {
                    comm.gather_known_into(root, &have.mine(), &[], &mut have.room(0))?;
                    Got::Nothing
                }
                Op::Gather => {
                    let mut out = room();
                    comm.gather_known_into(root, &have.mine(), &have.known(), &mut out)?;
                    cut(&out.into_values(), coming())
                }
                Op::Scatter => {
                    let mut out = have.room(self.length(root, rank));
                    comm.scatter_known_into(root, &have.ragged(), &mut out)?;
                    one(root, &out.into_values())
                }
                Op::Allgather => {
                    let mut out = room();
                    comm.allgather_known_into(&have.mine(), &have.known(), &mut out)?;
                    cut(&out.into_values(), coming())
                }
                _ => {
                    let mut out = room();
                    comm.alltoall_known_into(&have.ragged(), &have.known(), &mut out)?;
                    cut(&out.into_values(), coming())
                }
            })
        };
        matches!(self.op, Op::Gather | Op::Scatter | Op::Allgather | Op::Alltoall).then(into)
    }

    fn scoped<T: Element>(&self, comm: &Comm, have: &Have<'_, '_, T>) -> Result<Got, Failure> {
        let (rank, size, root) = (comm.rank(), comm.size(), self.root_in(comm.size()));
        let (is_root, count) = (rank == root, self.base());
        let flat = Liar::new(have.flat(), &self.mine);
        let mut out = match self.op {
            Op::Bcast if is_root => have.mine(),
            Op::Bcast | Op::Scatter => have.room(count),
            Op::Gather if !is_root => have.room(0),
            _ => have.room(size * count),
        };
        comm.scope_with(|scope| {
            self.end(match self.op {
                Op::Bcast => scope.ibcast(root, &mut out)?,
                Op::Gather => scope.igather(root, &have.mine(), &mut out)?,
                Op::Scatter => scope.iscatter(root, &flat, &mut out)?,
                Op::Allgather => scope.iallgather(&have.mine(), &mut out)?,
                _ => scope.ialltoall(&flat, &mut out)?,
            })
        })?;
        if self.finish == Finish::Forgotten {
            return Ok(Got::Nothing);
        }
        let values = out.into_values();
        Ok(match self.op {
            Op::Bcast | Op::Scatter => one(root, &values),
            Op::Gather if !is_root => Got::Nothing,
            _ => even(&values, size),
        })
    }
}

impl<'c> Reduce<'_, 'c> {
    /// What a form of this file does for a reduction.
    pub(super) fn start_special<T: Element>(&self, op: impl ReduceOp<T>) -> Begun<'c> {
        over(match self.call.form {
            Form::KnownInto => self.known_into(op)?,
            Form::One => self.of_one(op)?,
            _ => self.scoped(op)?,
        })
    }

    pub(super) fn is_special(&self) -> bool {
        match self.call.form {
            Form::KnownInto => self.call.op == Op::ReduceScatter,
            Form::One => self.call.op != Op::ReduceScatter,
            form => form == Form::Scoped,
        }
    }

    fn values<T: Element>(&self) -> Vec<T> {
        self.stamp.values(self.call.ty, self.call.given(self.comm.size()))
    }

    fn known_into<T: Element>(&self, op: impl ReduceOp<T>) -> Result<Got, Failure> {
        let Self { comm, call, .. } = self;
        let (rank, size) = (comm.rank(), comm.size());
        let mut out = Liar::<T>::room(call.length(rank, rank), &call.out);
        let counts = call.counts((0..size).map(|to| call.length(rank, to)));
        let mine = Liar::new(self.values::<T>(), &call.mine);
        comm.reduce_scatter_known_into(&mine, &counts, &mut out, op)?;
        Ok(Got::Fold(0..size, bytes(&out.into_values())))
    }

    fn of_one<T: Element>(&self, op: impl ReduceOp<T>) -> Result<Got, Failure> {
        let Self { comm, call, .. } = self;
        let (rank, size) = (comm.rank(), comm.size());
        let mine = self.values::<T>()[0];
        let (ranks, got) = match call.op {
            Op::Reduce => (0..size, comm.reduce_one(call.root_in(size), mine, op)?),
            Op::Allreduce => (0..size, Some(comm.allreduce_one(mine, op)?)),
            Op::Scan => (0..rank + 1, Some(comm.scan_one(mine, op)?)),
            _ => (0..rank, comm.exscan_one(mine, op)?),
        };
        Ok(got.map_or(Got::Nothing, |got| Got::Fold(ranks, bytes(&[got]))))
    }

    fn scoped<T: Element>(&self, op: impl ReduceOp<T>) -> Result<Got, Failure> {
        let Self { comm, call, .. } = self;
        let (rank, size, root) = (comm.rank(), comm.size(), call.root_in(comm.size()));
        let mine = Liar::new(self.values::<T>(), &call.mine);
        let mut out = Liar::<T>::room(call.base(), &call.out);
        comm.scope_with(|scope| {
            call.end(match call.op {
                Op::Reduce => scope.ireduce(root, &mine, &mut out, op)?,
                Op::Allreduce => scope.iallreduce(&mine, &mut out, op)?,
                Op::ReduceScatter => scope.ireduce_scatter(&mine, &mut out, op)?,
                Op::Scan => scope.iscan(&mine, &mut out, op)?,
                _ => scope.iexscan(&mine, &mut out, op)?,
            })
        })?;
        let ranks = match call.op {
            Op::Reduce if rank != root => return Ok(Got::Nothing),
            Op::Exscan if rank == 0 => return Ok(Got::Nothing),
            Op::Scan => 0..rank + 1,
            Op::Exscan => 0..rank,
            _ => 0..size,
        };
        if call.finish == Finish::Forgotten {
            return Ok(Got::Nothing);
        }
        Ok(Got::Fold(ranks, bytes(&out.into_values())))
    }
}
