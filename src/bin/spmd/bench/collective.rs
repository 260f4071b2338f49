//! Calls that all ranks make: each is timed alone, with a barrier between two that is not timed, as
//! OSU does.

use std::time::Duration;

use spmd::{Comm, Failure, Result, op::Sum};

use super::{
    buffer::{Buffer, has_pattern, pattern, read},
    clock::Clock,
    repeat::Repeat,
};

/// OSU's root.
const ROOT: usize = 0;

/// Barriers back to back; unlike OSU's they are not timed one by one, which would take as long as
/// the barrier itself.
pub(super) struct Barrier<'c> {
    world: &'c Comm,
}

impl<'c> Barrier<'c> {
    pub(super) fn new(world: &'c Comm) -> Self {
        Self { world }
    }
}

impl Repeat for Barrier<'_> {
    fn prepare(&mut self) {}

    fn repeat<C: Clock>(
        &mut self,
        times: usize,
        _touched: bool,
        clock: &C,
    ) -> Result<Duration, Failure> {
        let start = clock.now();
        for _ in 0..times {
            self.world.barrier()?;
        }
        Ok(clock.since(start))
    }

    fn is_right(&self) -> bool {
        true
    }

    fn is_timed(&self) -> bool {
        true
    }
}

/// Which bytes go where.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Movement {
    Bcast,
    Allgather,
    Alltoall,
}

/// Bytes that are moved.
pub(super) struct Moves<'c> {
    world: &'c Comm,
    movement: Movement,
    /// Of one message.
    bytes: usize,
    outgoing: Buffer<u8>,
    incoming: Buffer<u8>,
}

impl<'c> Moves<'c> {
    pub(super) fn new(world: &'c Comm, movement: Movement, bytes: usize) -> Result<Self, Failure> {
        let size = world.size();
        let (outgoing, incoming) = match movement {
            Movement::Bcast => (0, bytes),
            Movement::Allgather => (bytes, bytes.saturating_mul(size)),
            Movement::Alltoall => (bytes.saturating_mul(size), bytes.saturating_mul(size)),
        };
        let (outgoing, incoming) = (Buffer::new(outgoing)?, Buffer::new(incoming)?);
        Ok(Self { world, movement, bytes, outgoing, incoming })
    }

    /// The row of this rank that `from` has sent.
    fn row(&self, from: usize) -> &[u8] {
        &self.incoming[from * self.bytes..][..self.bytes]
    }
}

impl Repeat for Moves<'_> {
    fn prepare(&mut self) {
        let (rank, size) = (self.world.rank(), self.world.size());
        self.incoming.write_pattern(usize::MAX / 64);
        match self.movement {
            Movement::Bcast if rank == ROOT => self.incoming.write_pattern(ROOT),
            Movement::Bcast => {}
            Movement::Allgather => self.outgoing.write_pattern(rank),
            Movement::Alltoall => {
                for (index, byte) in self.outgoing.iter_mut().enumerate() {
                    let (to, at) = (index / self.bytes, index % self.bytes);
                    *byte = pattern(rank * size + to, at);
                }
            }
        }
    }

    fn repeat<C: Clock>(
        &mut self,
        times: usize,
        touched: bool,
        clock: &C,
    ) -> Result<Duration, Failure> {
        let Self { world, movement, outgoing, incoming, .. } = self;
        let is_root = world.rank() == ROOT;
        let mut took = Duration::ZERO;
        for turn in 0..times {
            if touched {
                match movement {
                    Movement::Bcast if is_root => incoming.touch(turn),
                    _ => outgoing.touch(turn),
                }
            }
            let start = clock.now();
            match movement {
                Movement::Bcast => world.bcast_into(ROOT, &mut incoming[..])?,
                Movement::Allgather => world.allgather_into(&outgoing[..], &mut incoming[..])?,
                Movement::Alltoall => world.alltoall_into(&outgoing[..], &mut incoming[..])?,
            }
            took += clock.since(start);
            if touched {
                read(incoming);
            }
            world.barrier()?;
        }
        Ok(took)
    }

    fn is_right(&self) -> bool {
        let (rank, size) = (self.world.rank(), self.world.size());
        match self.movement {
            Movement::Bcast => self.incoming.has_pattern(ROOT),
            Movement::Allgather => (0..size).all(|from| has_pattern(self.row(from), from)),
            Movement::Alltoall => {
                (0..size).all(|from| has_pattern(self.row(from), from * size + rank))
            }
        }
    }

    fn is_timed(&self) -> bool {
        true
    }
}

/// Who gets which sum.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reduction {
    Reduce,
    Allreduce,
    Scan,
}

/// Floats that are added up.
pub(super) struct Sums<'c> {
    world: &'c Comm,
    reduction: Reduction,
    mine: Buffer<f32>,
    total: Buffer<f32>,
}

impl<'c> Sums<'c> {
    pub(super) fn new(
        world: &'c Comm,
        reduction: Reduction,
        bytes: usize,
    ) -> Result<Self, Failure> {
        let count = bytes / size_of::<f32>();
        Ok(Self { world, reduction, mine: Buffer::new(count)?, total: Buffer::new(count)? })
    }
}

impl Repeat for Sums<'_> {
    fn prepare(&mut self) {
        self.mine.write_pattern(self.world.rank());
        self.total.fill(-1.0);
    }

    fn repeat<C: Clock>(
        &mut self,
        times: usize,
        touched: bool,
        clock: &C,
    ) -> Result<Duration, Failure> {
        let Self { world, reduction, mine, total } = self;
        let mut took = Duration::ZERO;
        for turn in 0..times {
            if touched {
                mine.touch(turn);
            }
            let start = clock.now();
            match reduction {
                Reduction::Reduce => world.reduce_into(ROOT, &mine[..], &mut total[..], Sum)?,
                Reduction::Allreduce => world.allreduce_into(&mine[..], &mut total[..], Sum)?,
                Reduction::Scan => world.scan_into(&mine[..], &mut total[..], Sum)?,
            }
            took += clock.since(start);
            if touched {
                read(total);
            }
            world.barrier()?;
        }
        Ok(took)
    }

    fn is_right(&self) -> bool {
        let (rank, size) = (self.world.rank(), self.world.size());
        let ranks = match self.reduction {
            Reduction::Reduce if rank != ROOT => return true,
            Reduction::Scan => rank + 1,
            _ => size,
        };
        self.total.iter().enumerate().all(|(index, sum)| {
            let expected: f32 = (0..ranks).map(|rank| pattern::<f32>(rank, index)).sum();
            sum.to_bits() == expected.to_bits()
        })
    }

    fn is_timed(&self) -> bool {
        true
    }
}
