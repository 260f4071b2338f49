//! Between pairs of ranks: round trips, and windows of messages under way at once.

use std::time::Duration;

use spmd::{Comm, Failure, Result};

use super::{
    buffer::{Buffer, read},
    clock::Clock,
    repeat::Repeat,
};

const TAG: u32 = 1;
const ACKNOWLEDGED: u32 = 101;
/// OSU acknowledges a window with four bytes.
const ACKNOWLEDGEMENT: usize = 4;

/// What a rank of a pair does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It begins, and measures; the other rank of its pair.
    First(usize),
    /// It answers the other.
    Second(usize),
    /// It has no part in this.
    Idle,
}

/// Ranks 0 and 1 are the pair.
fn one_pair(world: &Comm) -> Role {
    match world.rank() {
        0 => Role::First(1),
        1 => Role::Second(0),
        _ => Role::Idle,
    }
}

/// Each rank of the lower half with one of the upper.
fn all_pairs(world: &Comm) -> Role {
    let (rank, pairs) = (world.rank(), world.size() / 2);
    match rank / pairs {
        0 => Role::First(rank + pairs),
        1 => Role::Second(rank - pairs),
        _ => Role::Idle,
    }
}

/// The key of what a rank sends.
const FROM_FIRST: usize = 0;
const FROM_SECOND: usize = 1;

/// Half a round trip of blocking sends and receives.
pub(super) struct PingPong<'c> {
    world: &'c Comm,
    role: Role,
    outgoing: Buffer<u8>,
    incoming: Buffer<u8>,
}

impl<'c> PingPong<'c> {
    pub(super) fn new(world: &'c Comm, bytes: usize) -> Result<Self, Failure> {
        let role = one_pair(world);
        Ok(Self { world, role, outgoing: Buffer::new(bytes)?, incoming: Buffer::new(bytes)? })
    }

    fn send(&mut self, to: usize, turn: usize, touched: bool) -> Result<()> {
        if touched {
            self.outgoing.touch(turn);
        }
        self.world.send(&self.outgoing[..], (to, TAG))
    }

    fn recv(&mut self, from: usize, touched: bool) -> Result<()> {
        self.world.recv_into(&mut self.incoming[..], (from, TAG))?;
        if touched {
            read(&self.incoming);
        }
        Ok(())
    }
}

impl Repeat for PingPong<'_> {
    fn prepare(&mut self) {
        let (mine, other) = keys(self.role);
        self.outgoing.write_pattern(mine);
        self.incoming.write_pattern(other + 1);
    }

    fn repeat<C: Clock>(
        &mut self,
        times: usize,
        touched: bool,
        clock: &C,
    ) -> Result<Duration, Failure> {
        let start = clock.now();
        match self.role {
            Role::First(peer) => {
                for turn in 0..times {
                    self.send(peer, turn, touched)?;
                    self.recv(peer, touched)?;
                }
            }
            Role::Second(peer) => {
                for turn in 0..times {
                    self.recv(peer, touched)?;
                    self.send(peer, turn, touched)?;
                }
            }
            Role::Idle => {}
        }
        Ok(clock.since(start) / 2)
    }

    fn is_right(&self) -> bool {
        self.role == Role::Idle || self.incoming.has_pattern(keys(self.role).1)
    }

    fn is_timed(&self) -> bool {
        matches!(self.role, Role::First(_))
    }
}

/// The keys of what a rank sends and receives.
fn keys(role: Role) -> (usize, usize) {
    if matches!(role, Role::Second(_)) {
        (FROM_SECOND, FROM_FIRST)
    } else {
        (FROM_FIRST, FROM_SECOND)
    }
}

/// Messages of a window, each of which has memory of its own.
const MOST_MESSAGES: usize = 1 << 16;

/// Windows of messages under way at once, each with memory of its own where it is received.
///
/// OSU receives all messages of a window into the same memory, which MPI forbids and Rust does not
/// compile.
pub(super) struct Windows<'c> {
    world: &'c Comm,
    role: Role,
    both_ways: bool,
    outgoing: Vec<Buffer<u8>>,
    incoming: Vec<Buffer<u8>>,
}

impl<'c> Windows<'c> {
    /// From rank 0 to rank 1; also back, if `both_ways`.
    pub(super) fn one_pair(
        world: &'c Comm,
        bytes: usize,
        window: usize,
        both_ways: bool,
    ) -> Result<Self, Failure> {
        Self::new(world, one_pair(world), bytes, window, both_ways)
    }

    /// From each rank of the lower half to one of the upper.
    pub(super) fn all_pairs(world: &'c Comm, bytes: usize, window: usize) -> Result<Self, Failure> {
        Self::new(world, all_pairs(world), bytes, window, false)
    }

    fn new(
        world: &'c Comm,
        role: Role,
        bytes: usize,
        window: usize,
        both_ways: bool,
    ) -> Result<Self, Failure> {
        if window > MOST_MESSAGES {
            return Err(Failure::usage(format!("--window {window}: at most {MOST_MESSAGES}")));
        }
        let messages = |wanted| -> Result<Vec<_>, Failure> {
            (0..if wanted { window } else { 0 }).map(|_| Buffer::new(bytes)).collect()
        };
        let (first, second) = (matches!(role, Role::First(_)), matches!(role, Role::Second(_)));
        let outgoing = messages(first || second && both_ways)?;
        let incoming = messages(second || first && both_ways)?;
        Ok(Self { world, role, both_ways, outgoing, incoming })
    }

    fn turn(&mut self, peer: usize, turn: usize, touched: bool) -> Result<()> {
        let Self { world, incoming, outgoing, .. } = self;
        world.scope(|s| {
            for message in incoming.iter_mut() {
                s.irecv(&mut message[..], (peer, TAG))?;
            }
            for message in outgoing.iter_mut() {
                if touched {
                    message.touch(turn);
                }
                s.isend(&message[..], (peer, TAG))?;
            }
            s.wait_all()
        })?;
        if touched {
            for message in incoming {
                read(message);
            }
        }
        Ok(())
    }

    fn acknowledge(&self) -> Result<()> {
        let mut note = [1_u8; ACKNOWLEDGEMENT];
        match self.role {
            Role::First(peer) => {
                self.world.recv_into(&mut note[..], (peer, ACKNOWLEDGED)).map(drop)
            }
            Role::Second(peer) => self.world.send(&note[..], (peer, ACKNOWLEDGED)),
            Role::Idle => Ok(()),
        }
    }
}

impl Repeat for Windows<'_> {
    fn prepare(&mut self) {
        let (mine, other) = keys(self.role);
        let write = |messages: &mut Vec<Buffer<u8>>, key: usize| {
            for (number, message) in messages.iter_mut().enumerate() {
                message.write_pattern(key + 2 * number);
            }
        };
        write(&mut self.outgoing, mine);
        write(&mut self.incoming, other + 1);
    }

    fn repeat<C: Clock>(
        &mut self,
        times: usize,
        touched: bool,
        clock: &C,
    ) -> Result<Duration, Failure> {
        let start = clock.now();
        if let Role::First(peer) | Role::Second(peer) = self.role {
            for turn in 0..times {
                self.turn(peer, turn, touched)?;
                if !self.both_ways {
                    self.acknowledge()?;
                }
            }
        }
        Ok(clock.since(start))
    }

    fn is_right(&self) -> bool {
        let (_, other) = keys(self.role);
        self.incoming
            .iter()
            .enumerate()
            .all(|(number, message)| message.has_pattern(other + 2 * number))
    }

    fn is_timed(&self) -> bool {
        matches!(self.role, Role::First(_))
    }
}
