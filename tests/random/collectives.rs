//! Collective calls of a random program, and what they bring.

use spmd::{Comm, Failure, Ragged, Request, prelude::*};

use super::{Call, Log, Manner, Op, Order, values};

/// Makes the calls, the non-blocking ones all at once.
pub(super) fn collectives(
    comm: &Comm,
    step: usize,
    calls: &[Call],
    order: Order,
    log: &mut Log,
) -> Result<(), Failure> {
    let mut got: Vec<Option<Vec<u64>>> = vec![None; calls.len()];
    let (mut places, mut started) = (Vec::new(), Vec::new());
    for (at, call) in calls.iter().enumerate() {
        let step = 1000 * step + at;
        let start = match call.manner {
            Manner::Blocking => {
                got[at] = Some(call.run(comm, step)?);
                continue;
            }
            Manner::NonBlocking => call.start(comm, step)?,
            Manner::Planned => call.plan(comm, step)?,
        };
        places.push(at);
        started.push(start);
    }
    let mut finished = match order {
        Order::Backwards => {
            let mut results = Vec::new();
            while let Some(call) = started.pop() {
                results.push(call()?);
            }
            results.reverse();
            results
        }
        _ => started.into_iter().map(|call| call()).collect::<Result<_, _>>()?,
    };
    for at in places.into_iter().rev() {
        got[at] = finished.pop();
    }
    log.extend(got.into_iter().flatten());
    Ok(())
}

/// What finishes a call that was started.
type Started<'c> = Box<dyn FnOnce() -> Result<Vec<u64>, Failure> + 'c>;

fn done<'c, R: 'c>(request: Request<'c, R>, see: impl FnOnce(R) -> Vec<u64> + 'c) -> Started<'c> {
    Box::new(|| Ok(see(request.wait()?)))
}

fn last(_left: u64, right: u64) -> u64 {
    right
}

/// All numbers of rows, their lengths included.
fn flat(rows: Ragged<u64>) -> Vec<u64> {
    rows.iter().flat_map(|row| [row.len() as u64].into_iter().chain(row.iter().copied())).collect()
}

impl Call {
    fn length(&self, rank: usize) -> usize {
        match self.manner {
            Manner::Planned => self.even(),
            Manner::Blocking | Manner::NonBlocking => self.lengths[rank % self.lengths.len()],
        }
    }

    /// The one length of calls that need the same everywhere.
    fn even(&self) -> usize {
        self.lengths[0]
    }

    fn row(&self, step: usize, from: usize, to: usize) -> Vec<u64> {
        values(step, from, to, self.length(from + to))
    }

    fn rows(&self, step: usize, from: usize, size: usize) -> Ragged<u64> {
        Ragged::from_rows((0..size).map(|to| self.row(step, from, to)))
    }

    fn counts(&self, size: usize) -> Vec<usize> {
        (0..size).map(|rank| self.length(rank)).collect()
    }

    fn run(&self, comm: &Comm, step: usize) -> Result<Vec<u64>, Failure> {
        let (rank, size, root) = (comm.rank(), comm.size(), self.root.index(comm.size()));
        let mine = values(step, rank, 0, self.length(rank));
        let even = values(step, rank, 0, self.even());
        let mut out = vec![0; self.even()];
        Ok(match self.op {
            Op::Barrier => {
                comm.barrier()?;
                Vec::new()
            }
            Op::Bcast if self.even().is_multiple_of(2) => comm.bcast(root, || even)?,
            Op::Bcast => {
                if rank == root {
                    out = even;
                }
                comm.bcast_into(root, &mut out)?;
                out
            }
            Op::Gather => comm.gather(root, &mine)?.map(flat).unwrap_or_default(),
            Op::Scatter => comm.scatter(root, || self.rows(step, root, size))?,
            Op::Allgather => flat(comm.allgather(&mine)?),
            Op::Alltoall => flat(comm.alltoall(&self.rows(step, rank, size))?),
            Op::Reduce => comm.reduce(root, &even, Sum)?.unwrap_or_default(),
            Op::Allreduce if self.even().is_multiple_of(2) => comm.allreduce(&even, Max)?,
            Op::Allreduce => {
                comm.allreduce_into(&even, &mut out, Max)?;
                out
            }
            Op::Last => comm.allreduce(&even, last)?,
            Op::ReduceScatter => {
                let counts = self.counts(size);
                let whole = values(step, rank, 0, counts.iter().sum());
                comm.reduce_scatter(&whole, &counts, Sum)?
            }
            Op::Scan => comm.scan(&even, Sum)?,
            Op::Exscan => comm.exscan(&even, last)?.unwrap_or_default(),
        })
    }

    fn start<'c>(&self, comm: &'c Comm, step: usize) -> Result<Started<'c>, Failure> {
        let (rank, size, root) = (comm.rank(), comm.size(), self.root.index(comm.size()));
        let mine = values(step, rank, 0, self.length(rank));
        let even = values(step, rank, 0, self.even());
        Ok(match self.op {
            Op::Barrier => done(comm.ibarrier()?, |()| Vec::new()),
            Op::Bcast => done(comm.ibcast(root, || even)?, |values| values),
            Op::Gather => {
                done(comm.igather(root, mine)?, |rows| rows.map(flat).unwrap_or_default())
            }
            Op::Scatter => {
                done(comm.iscatter(root, || self.rows(step, root, size))?, |values| values)
            }
            Op::Allgather => done(comm.iallgather(mine)?, flat),
            Op::Alltoall => done(comm.ialltoall(self.rows(step, rank, size))?, flat),
            Op::Reduce => done(comm.ireduce(root, even, Sum)?, Option::unwrap_or_default),
            Op::Allreduce => done(comm.iallreduce(even, Max)?, |values| values),
            Op::Last => done(comm.iallreduce(even, last)?, |values| values),
            Op::ReduceScatter => {
                let counts = self.counts(size);
                let whole = values(step, rank, 0, counts.iter().sum());
                done(comm.ireduce_scatter(whole, &counts, Sum)?, |values| values)
            }
            Op::Scan => done(comm.iscan(even, Sum)?, |values| values),
            Op::Exscan => done(comm.iexscan(even, last)?, Option::unwrap_or_default),
        })
    }

    fn plan<'c>(&self, comm: &'c Comm, step: usize) -> Result<Started<'c>, Failure> {
        let (rank, size, root) = (comm.rank(), comm.size(), self.root.index(comm.size()));
        let count = self.even();
        let mine = values(step, rank, 0, count);
        let mut plan = comm.plan();
        let out = match self.op {
            Op::Barrier => {
                plan.barrier()?;
                None
            }
            Op::Bcast => Some(plan.bcast(root, mine)?),
            Op::Gather => Some(plan.gather(root, mine)?.1),
            Op::Scatter => {
                let rows =
                    if rank == root { self.rows(step, root, size) } else { Ragged::default() };
                Some(plan.scatter(root, rows.into_flat(), vec![0; count])?.1)
            }
            Op::Allgather => Some(plan.allgather(mine)?.1),
            Op::Alltoall => Some(plan.alltoall(self.rows(step, rank, size).into_flat())?.1),
            Op::Reduce => Some(plan.reduce(root, mine, Sum)?.1),
            Op::Allreduce => Some(plan.allreduce(mine, Max)?.1),
            Op::Last => Some(plan.allreduce(mine, last)?.1),
            Op::ReduceScatter => {
                Some(plan.reduce_scatter(values(step, rank, 0, count * size), Sum)?.1)
            }
            Op::Scan => Some(plan.scan(mine, Sum)?.1),
            Op::Exscan => Some(plan.exscan(mine, last)?.1),
        };
        plan.start()?;
        plan.wait()?;
        plan.start()?;
        let has_rows = match self.op {
            Op::Gather => rank == root,
            Op::Allgather | Op::Alltoall => true,
            _ => false,
        };
        Ok(Box::new(move || {
            plan.wait()?;
            let Some(out) = out else { return Ok(Vec::new()) };
            let got = plan.get(out)?.to_vec();
            Ok(if has_rows { flat(Ragged::from_flat(got, vec![count; size])) } else { got })
        }))
    }

    pub(super) fn expect(&self, rank: usize, size: usize, step: usize) -> Vec<u64> {
        let root = self.root.index(size);
        let of = |from: usize| values(step, from, 0, self.length(from));
        let evens = |ranks: std::ops::Range<usize>, op: fn(u64, u64) -> u64| -> Vec<u64> {
            let rows = ranks.map(|from| values(step, from, 0, self.even()));
            let fold = |left: Vec<u64>, right: Vec<u64>| {
                left.into_iter().zip(right).map(|(left, right)| op(left, right)).collect()
            };
            rows.reduce(fold).unwrap_or_default()
        };
        let on_root = |values: Vec<u64>| if rank == root { values } else { Vec::new() };
        match self.op {
            Op::Barrier => Vec::new(),
            Op::Bcast => values(step, root, 0, self.even()),
            Op::Gather => on_root(flat(Ragged::from_rows((0..size).map(of)))),
            Op::Scatter => self.row(step, root, rank),
            Op::Allgather => flat(Ragged::from_rows((0..size).map(of))),
            Op::Alltoall => {
                flat(Ragged::from_rows((0..size).map(|from| self.row(step, from, rank))))
            }
            Op::Reduce => on_root(evens(0..size, u64::wrapping_add)),
            Op::Allreduce => evens(0..size, u64::max),
            Op::Last => evens(0..size, last),
            Op::ReduceScatter => {
                let counts = self.counts(size);
                let (start, count) = (counts[..rank].iter().sum::<usize>(), counts[rank]);
                let whole: usize = counts.iter().sum();
                let rows = (0..size).map(|from| values(step, from, 0, whole));
                let fold = |left: Vec<u64>, right: Vec<u64>| {
                    left.into_iter().zip(right).map(|(l, r)| l.wrapping_add(r)).collect()
                };
                let sums: Vec<u64> = rows.reduce(fold).unwrap_or_default();
                sums[start..start + count].to_vec()
            }
            Op::Scan => evens(0..rank + 1, u64::wrapping_add),
            Op::Exscan => evens(0..rank, last),
        }
    }
}
