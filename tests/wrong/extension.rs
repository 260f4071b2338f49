//! What is built upon collectives and messages.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
};

use spmd::{Comm, ErrorKind, Failure, Ragged, prelude::*};

use super::{
    Extension,
    call::rows,
    judge::Got,
    value::{Stamp, Ty, bytes, elements},
};

pub(super) fn extend(
    which: Extension,
    length: usize,
    bad: bool,
    comm: &Comm,
    stamp: Stamp,
) -> Result<Got, Failure> {
    let (rank, size) = (comm.rank(), comm.size());
    let (before, after) = ((rank + size - 1) % size, (rank + 1) % size);
    let mine: Vec<u64> = stamp.values(Ty::Word, length);
    Ok(match which {
        Extension::Sparse => {
            let got = comm.exchange_sparse([(after, mine)])?;
            Got::Rows(got.iter().map(|(from, row)| (*from, bytes(row))).collect())
        }
        Extension::Sort => Got::Loose(bytes(&comm.sort(mine)?)),
        Extension::Grid => {
            rows(comm.alltoall_grid(&Ragged::from_rows((0..size).map(|_| mine.clone())))?)
        }
        Extension::BcastObject => {
            let got: Vec<u64> = comm.bcast_obj(0, || mine)?;
            Got::Rows(vec![(0, bytes(&got))])
        }
        Extension::GatherObject => {
            let got = comm.gather_obj(0, &mine)?.unwrap_or_default();
            Got::Rows(got.iter().map(|row| bytes(row)).enumerate().collect())
        }
        Extension::AllreduceObject => Got::Loose(bytes(&comm.allreduce_obj(mine, Ord::max)?)),
        Extension::Agree => {
            let _agreed = comm.agree_result(
                if length.is_multiple_of(4) { Err("no") } else { Ok(()) }.map_err(Failure::new),
            );
            Got::Nothing
        }
        Extension::Ordered => {
            comm.in_rank_order(|| ())?;
            Got::Nothing
        }
        Extension::Exact => {
            comm.sum_reproducible(&elements::<f64>(&bytes(&mine)))?;
            Got::Nothing
        }
        Extension::Nested => {
            let tag = 4 * stamp.act as u32 + 8;
            let mut room = vec![0_u64; length];
            comm.scope(|outer| {
                let ticket = outer.irecv(&mut room, (before, tag))?;
                outer.isend(&mine, (after, tag))?;
                // Whether it is refused is not the question here.
                let _ = catch_unwind(AssertUnwindSafe(|| {
                    comm.scope(move |inner| inner.wait_any(&mut vec![ticket]).map(drop))
                }));
                Ok(())
            })?;
            Got::Loose(bytes(&room))
        }
        Extension::Bucket => {
            let asked = Cell::new(0);
            let owner = |_: &u64| {
                let turn = asked.replace(asked.get() + 1);
                // One that changes its mind, now and then to a rank that there is not.
                if bad { turn * turn % (size + turn % 7 / 6) } else { turn % length % size }
            };
            let mut items = Ragged::from_rows(vec![vec![0_u64; 3]; size]);
            let torn = catch_unwind(AssertUnwindSafe(|| items.rebucket(&mine, size, owner)));
            let got = comm.alltoall(&items)?;
            if torn.is_err() { Got::Nothing } else { Got::Loose(bytes(got.flat())) }
        }
        Extension::Threads => between_threads(length, bad, comm, stamp)?,
    })
}

/// A thread of each rank sends to the next one while another receives. MPI need not serve several
/// threads.
fn between_threads(length: usize, bad: bool, comm: &Comm, stamp: Stamp) -> Result<Got, Failure> {
    let (rank, size) = (comm.rank(), comm.size());
    let (before, after) = ((rank + size - 1) % size, (rank + 1) % size);
    let shared = match comm.shared() {
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported { .. }) => {
            return Ok(Got::Nothing);
        }
        shared => shared?,
    };
    let to = comm.world_rank(after);
    let mine: Vec<u64> = Stamp { to, ..stamp }.values(Ty::Word, length);
    let tag = 4 * stamp.act as u32 + 8;
    std::thread::scope(|threads| {
        let sent = threads.spawn(|| {
            shared.send_obj(&length, (after, tag))?;
            // Another type than is received.
            if bad {
                shared.send_obj("bad", (after, tag))
            } else {
                shared.send(&mine, (after, tag))
            }
        });
        let told = shared.recv_obj::<usize>((before, tag));
        let got = shared.recv::<u64>((before, tag));
        sent.join().map_err(|_| Failure::new("a thread panicked"))??;
        told?;
        Ok(Got::Loose(bytes(&got?.0)))
    })
}
