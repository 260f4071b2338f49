//! Rank 0 writes into the memory of rank 1, or reads from it, by itself.

use std::time::Duration;

use spmd::{Comm, Failure, Result, rma::Window};

use super::{
    buffer::{Buffer, has_pattern, read, write_pattern},
    clock::Clock,
    repeat::Repeat,
};

const ORIGIN: usize = 0;
const TARGET: usize = 1;

/// The keys of what the origin has, and of what the target has.
const OF_ORIGIN: usize = 0;
const OF_TARGET: usize = 1;

/// Which way the bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Put,
    Get,
}

/// Accesses one after the other, each complete at the target before the next.
pub(super) struct OneSided<'c> {
    world: &'c Comm,
    access: Access,
    window: Window<u8>,
    mine: Buffer<u8>,
}

impl<'c> OneSided<'c> {
    pub(super) fn new(world: &'c Comm, access: Access, bytes: usize) -> Result<Self, Failure> {
        let mine = Buffer::new(bytes)?;
        Ok(Self { world, access, window: world.window(bytes)?, mine })
    }
}

impl Repeat for OneSided<'_> {
    fn prepare(&mut self) {
        self.mine.write_pattern(OF_ORIGIN);
        write_pattern(self.window.local_mut(), OF_TARGET);
    }

    fn repeat<C: Clock>(
        &mut self,
        times: usize,
        touched: bool,
        clock: &C,
    ) -> Result<Duration, Failure> {
        let Self { world, access, window, mine } = self;
        let took = window.epoch(|epoch| {
            let start = clock.now();
            for turn in (0..times).filter(|_| world.rank() == ORIGIN) {
                match access {
                    Access::Put => {
                        if touched {
                            mine.touch(turn);
                        }
                        epoch.put(TARGET, 0, mine)?;
                        epoch.flush()?;
                    }
                    Access::Get => {
                        epoch.get_into(TARGET, 0, mine)?;
                        if touched {
                            read(mine);
                        }
                    }
                }
            }
            Ok(clock.since(start))
        });
        Ok(took?)
    }

    fn is_right(&self) -> bool {
        match (self.access, self.world.rank()) {
            (Access::Put, TARGET) => has_pattern(self.window.local(), OF_ORIGIN),
            (Access::Get, ORIGIN) => self.mine.has_pattern(OF_TARGET),
            _ => true,
        }
    }

    fn is_timed(&self) -> bool {
        self.world.rank() == ORIGIN
    }
}
