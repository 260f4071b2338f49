//! Exchanges that are one call of the library.

use std::{ffi::c_int, rc::Rc};

use mpi::ffi;

use super::Rows;
use crate::{
    datum::Buffer,
    engine::{
        Builtin, CollectiveKind, Done, Element, Exchange, Exchanged, Rank,
        mpi::{
            CommPair, MpiEngine,
            collective::{datatype, read, write},
            progress::Staged,
            raw::made,
            transfer::tested,
        },
    },
    error::{ErrorKind, Fault},
};

/// A barrier or a reduction that the library makes by itself.
pub(super) struct Native {
    /// The comparison of the calls, where they are compared.
    agreement: Option<Rows>,
    request: ffi::MPI_Request,
    /// `None` when MPI is done with them.
    held: Option<LockedPart>,
    counts: Vec<usize>,
    reduced: bool,
    done: bool,
    /// Keeps the communicator open.
    _space: Rc<CommPair>,
}

/// What MPI reads and writes.
struct LockedPart {
    mine: Box<dyn Buffer>,
    rows: Box<dyn Buffer>,
}

impl Native {
    /// Starts the reduction, or, without one, the barrier.
    pub(super) fn start(
        engine: &MpiEngine,
        call: Exchange,
        reduction: Option<(Builtin, Element)>,
        agreement: Option<Rows>,
    ) -> Result<Self, Fault> {
        let pair = engine.pair(call.context)?;
        let (kind, mine, comm) = (call.kind, call.mine, pair.pt2pt.raw());
        let Some((op, element)) = reduction else {
            // SAFETY: a live communicator; the request is written on success.
            let request = unsafe { made(|made| ffi::MPI_Ibarrier(comm, made)) }?;
            let held = Some(LockedPart { mine, rows: (call.room)(0) });
            let counts = vec![0; call.size];
            return Ok(Self {
                agreement,
                request,
                held,
                counts,
                reduced: false,
                done: false,
                _space: pair,
            });
        };
        let bytes = mine.bytes().len();
        let gets_row = match kind {
            CollectiveKind::Reduce(root) => root == call.rank,
            CollectiveKind::Exscan => call.rank != Rank(0),
            CollectiveKind::Allreduce | CollectiveKind::Scan => true,
            _ => return Err(ErrorKind::Closed.into()), // nobody asks for its reduction
        };
        let mut held = LockedPart { mine, rows: (call.room)(if gets_row { bytes } else { 0 }) };
        let (of, size) = datatype(element);
        let (count, op) = ((bytes / size) as c_int, engine.basis.operators.of(op, element));
        let send = read(held.mine.bytes());
        let into = write(held.rows.bytes_mut());
        // SAFETY: `send` has `count` elements of the type; so has `into`, except where MPI does not
        // write (the others of a reduce, rank 0 of an exscan). Both are on the heap in `held` and
        // let alone until the request is complete.
        let request = unsafe {
            made(|made| match kind {
                CollectiveKind::Reduce(root) => {
                    ffi::MPI_Ireduce(send, into, count, of, op, root.0 as c_int, comm, made)
                }
                CollectiveKind::Allreduce => {
                    ffi::MPI_Iallreduce(send, into, count, of, op, comm, made)
                }
                CollectiveKind::Scan => ffi::MPI_Iscan(send, into, count, of, op, comm, made),
                _ => ffi::MPI_Iexscan(send, into, count, of, op, comm, made),
            })
        }?;
        let counts = if gets_row { vec![bytes] } else { Vec::new() };
        let held = Some(held);
        Ok(Self { agreement, request, held, counts, reduced: true, done: false, _space: pair })
    }
}

impl Staged for Native {
    fn poll(&mut self, engine: &MpiEngine) -> Result<bool, Fault> {
        if let Some(agreement) = &mut self.agreement
            && !agreement.poll(engine)?
        {
            return Ok(false);
        }
        self.agreement = None;
        self.done = self.done || tested(&mut self.request)?.is_some();
        Ok(self.done)
    }

    fn finish(mut self: Box<Self>) -> Result<Done, Fault> {
        let Some(LockedPart { rows, .. }) = self.held.take_if(|_| self.done) else {
            return Err(ErrorKind::Closed.into());
        };
        let counts = std::mem::take(&mut self.counts);
        let exchanged = Some(Box::new(Exchanged { rows, counts, reduced: self.reduced }));
        Ok(Done { buffer: None, received: None, exchanged })
    }

    fn abandon(&mut self, engine: &MpiEngine) {
        if let Some(agreement) = &mut self.agreement {
            agreement.abandon(engine);
        }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        if !self.done {
            std::mem::forget(self.held.take());
        }
    }
}
