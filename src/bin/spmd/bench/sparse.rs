//! Messages to a few ranks, of which the receivers do not know beforehand.

use std::time::Duration;

use spmd::{Comm, Failure, Result, ext::ExchangeSparse};

use super::{
    buffer::{has_pattern, read, write_pattern},
    clock::Clock,
    repeat::Repeat,
};

/// Messages with the rank at their other end.
type Messages = Vec<(usize, Vec<u8>)>;

/// Each rank sends to the next two; each call is timed alone, with a barrier between two that is
/// not timed.
pub(super) struct Sparse<'c> {
    world: &'c Comm,
    outgoing: Messages,
    incoming: Messages,
}

impl<'c> Sparse<'c> {
    pub(super) fn new(world: &'c Comm, bytes: usize) -> Self {
        let (rank, size) = (world.rank(), world.size());
        let next = (1..=2.min(size - 1)).map(|step| ((rank + step) % size, vec![1; bytes]));
        Self { world, outgoing: next.collect(), incoming: Vec::new() }
    }
}

impl Repeat for Sparse<'_> {
    fn prepare(&mut self) {
        let rank = self.world.rank();
        for (_, message) in &mut self.outgoing {
            write_pattern(message, rank);
        }
        self.incoming.clear();
    }

    fn repeat<C: Clock>(
        &mut self,
        times: usize,
        touched: bool,
        clock: &C,
    ) -> Result<Duration, Failure> {
        let mut took = Duration::ZERO;
        for turn in 0..times {
            if touched {
                for (_, message) in &mut self.outgoing {
                    message.fill(turn as u8);
                }
            }
            // The call keeps what it sends.
            let outgoing = self.outgoing.clone();
            let start = clock.now();
            self.incoming = self.world.exchange_sparse(outgoing)?;
            took += clock.since(start);
            if touched {
                for (_, message) in &self.incoming {
                    read(message);
                }
            }
            self.world.barrier()?;
        }
        Ok(took)
    }

    fn is_right(&self) -> bool {
        let (rank, size) = (self.world.rank(), self.world.size());
        let mut senders: Vec<usize> = self.incoming.iter().map(|(from, _)| *from).collect();
        senders.sort_unstable();
        let mut expected: Vec<usize> =
            (1..=2.min(size - 1)).map(|step| (rank + size - step) % size).collect();
        expected.sort_unstable();
        senders == expected
            && self.incoming.iter().all(|(from, message)| has_pattern(message, *from))
    }

    fn is_timed(&self) -> bool {
        true
    }
}
