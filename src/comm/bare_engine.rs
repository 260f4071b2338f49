//! An engine that has the required verbs only, to try what the others do by default: what a new
//! engine begins with.

use std::{panic::Location, rc::Rc, thread, time::Duration};

use super::{Comm, Max, Sum, ext::ExchangeSparse};
use crate::{
    datum::{LentRead, LentWrite, Memory},
    engine::{
        About, Begun, Collectives, Context, Done, Ended, Engine, Exchange, Groups, Label, Messages,
        Mode, Op, Operations, Rank, Received, Source, Tag, Target, Threads, Ticket, Windows,
        local::{Backoff, Job, LocalEngine},
    },
    error::{ErrorKind, Fault, Result, With},
};

struct Bare(LocalEngine);

impl Engine for Bare {
    fn about(&self) -> About {
        About { engine: "bare", ..self.0.about() }
    }

    fn max_tag(&self) -> Tag {
        self.0.max_tag()
    }

    fn enter(&self, op: &'static str, with: With, at: &'static Location<'static>) {
        self.0.enter(op, with, at);
    }

    fn now(&self) -> Duration {
        self.0.now()
    }
}

impl Messages for Bare {
    fn probe(&self, from: &Source, wait: bool) -> Result<Option<(Ticket, Received)>, Fault> {
        self.0.probe(from, wait)
    }

    fn fetch(&self, message: Ticket, label: &Label, into: &mut [u8]) -> Result<(), Fault> {
        self.0.fetch(message, label, into)
    }

    fn discard(&self, message: Ticket) {
        self.0.discard(message);
    }
}

impl Operations for Bare {
    fn isend(&self, to: &Target, mode: Mode, memory: Memory) -> Result<Op, Fault> {
        self.0.isend(to, mode, memory)
    }

    fn irecv(&self, from: &Source, memory: Memory) -> Result<Op, Fault> {
        self.0.irecv(from, memory)
    }

    fn isend_lent(&self, to: &Target, mode: Mode, bytes: LentRead) -> Result<Option<Op>, Fault> {
        self.0.isend_lent(to, mode, bytes)
    }

    fn irecv_lent(&self, from: &Source, into: LentWrite) -> Result<Begun, Fault> {
        self.0.irecv_lent(from, into)
    }

    fn test(&self, op: Op) -> Option<Result<Done, Fault>> {
        self.0.test(op)
    }

    fn wait_any(&self, ops: &[Op], until: Option<Duration>) -> Result<Option<usize>, Fault> {
        self.0.wait_any(ops, until)
    }

    fn cancel(&self, op: Op) -> Result<Ended, Fault> {
        self.0.cancel(op)
    }

    fn detach(&self, op: Op) {
        self.0.detach(op);
    }

    fn revoke(&self, op: Op) {
        self.0.revoke(op);
    }
}

impl Collectives for Bare {
    fn icollective(&self, call: Exchange) -> Result<Op, Fault> {
        self.0.icollective(call)
    }
}

impl Groups for Bare {
    fn split(
        &self,
        parent: Context,
        seq: u64,
        group: Option<(u32, &[Rank])>,
    ) -> Result<Option<Context>, Fault> {
        self.0.split(parent, seq, group)
    }

    fn world_rank(&self, context: Context, rank: Rank) -> usize {
        self.0.world_rank(context, rank)
    }
}

impl Windows for Bare {}

impl Threads for Bare {}

fn on_ranks(size: usize, program: impl Fn(&Comm) -> Result<()> + Sync) {
    let job = Job::new(size, Backoff::for_ranks(size, 1));
    thread::scope(|scope| {
        let (job, program) = (&job, &program);
        let rank = |rank| {
            move || {
                let comm = Comm::world(Rc::new(Bare(job.engine(rank))), rank, size);
                program(&comm).unwrap();
                job.finish(rank);
            }
        };
        let ranks: Vec<_> = (0..size).map(|index| scope.spawn(rank(index))).collect();
        // Joined one by one: what the end of a scope waits for, ThreadSanitizer does not see.
        for rank in ranks {
            rank.join().unwrap();
        }
    });
}

#[test]
fn messages_go_and_come() {
    on_ranks(3, |world| {
        let (me, size) = (world.rank(), world.size());
        let (next, before) = ((me + 1) % size, (me + size - 1) % size);
        for length in [0, 1, 5000, 100_000] {
            let row = |rank: usize| vec![rank as u64; length];
            if me > 0 {
                world.send(&row(me), next)?;
            }
            assert_eq!(world.recv::<u64>(before)?.0, row(before));
            if me == 0 {
                world.send(&row(me), next)?;
            }
            let mut got = row(me);
            world.sendrecv(&row(me), next, &mut got, before)?;
            assert_eq!(got, row(before));
            let sending = world.isend(row(me), next)?;
            assert_eq!(world.irecv(row(0), before)?.wait()?.0, row(before));
            sending.wait()?;
            let (mine, mut got) = (row(me), row(me));
            world.scope(|s| {
                s.irecv(&mut got, before)?;
                s.isend(&mine, next).map(drop)
            })?;
            assert_eq!(got, row(before));
        }
        world.send(&[1_u8, 2], next)?; // so few that nobody has to take them first
        let error = world.recv_into(&mut [0_u8], before).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Truncated { message: 2, buffer: 1 }), "{error}");
        Ok(())
    });
}

#[test]
fn an_exchange_that_fails_waits_for_nobody() {
    on_ranks(2, |world| {
        if world.rank() == 1 {
            return world.send(&[1_u8, 2], 0);
        }
        // Too long to be sent before somebody takes it, and nobody does.
        let error = world.sendrecv(&vec![0_u8; 100_000], 1, &mut [0_u8], 1).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Truncated { .. }), "{error}");
        Ok(())
    });
}

#[test]
fn collectives_are_made_of_messages() {
    on_ranks(4, |world| {
        let (me, size) = (world.rank(), world.size());
        world.barrier()?;
        assert_eq!(world.allreduce(&[me], Max)?, [size - 1]);
        assert_eq!(world.bcast(2, || vec![me])?, [2]);
        assert_eq!(world.allgather(&vec![me; me])?.flat(), [1, 2, 2, 3, 3, 3]);
        let half = world.split(Some(me as u32 % 2), 0)?.expect("everybody is in a half");
        assert_eq!(half.allgather(&[me])?.flat(), [me % 2, me % 2 + 2]);
        assert_eq!(world.iallreduce(vec![1_u32], Sum)?.wait()?, [4]);
        let sent = world.exchange_sparse(vec![((me + 1) % size, vec![me])])?;
        assert_eq!(sent, [((me + size - 1) % size, vec![(me + size - 1) % size])]);
        Ok(())
    });
}

#[test]
fn what_it_lacks_is_refused() {
    on_ranks(2, |world| {
        let lacks = |kind: &ErrorKind| matches!(kind, ErrorKind::Unsupported { .. });
        assert!(world.window::<u8>(1).is_err_and(|error| lacks(error.kind())));
        assert!(world.shared().is_err_and(|error| lacks(error.kind())));
        Ok(())
    });
}
