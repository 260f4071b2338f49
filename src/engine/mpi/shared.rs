//! What all threads of a rank can use at the same time.
//!
//! Every call looks and yields until it is done, so that threads of a rank that wait for each other
//! all run; and none is inside MPI when the job ends.

use std::{
    ffi::{c_int, c_void},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use mpi::ffi;

use super::{
    MpiEngine, Watch,
    init::LAST_MESSAGES,
    predictor::{Act, Form},
    progress::poll_until,
    raw::{Extent, made},
    transfer::{Expected, admit, matched, tested, whole},
    wire::{self, COPIED, HEAD},
};
use crate::{
    datum::Buffer,
    engine::{Context, Rank, Received, SharedEngine, Source, Target, Threads},
    error::{Call, ErrorKind, Fault},
};

/// A communicator of MPI's for all threads of this process.
pub(super) struct Shared {
    /// Of the engine, and live until this is `closed`.
    comm: ffi::MPI_Comm,
    me: Rank,
    has_header: bool,
    watch: Option<Arc<Watch>>,
    /// Small messages to oneself, which MPI may keep until they are received.
    kept: Mutex<Vec<(ffi::MPI_Request, Vec<u8>)>>,
    /// Calls that are inside.
    active: AtomicUsize,
    /// Set before MPI is finalised.
    closed: AtomicBool,
}

// SAFETY: (1) it is made only where MPI grants MPI_THREAD_MULTIPLE, so that any thread may call MPI
// at any time; (2) the handles are names, which the library resolves; requests are used by one
// thread at a time, those kept under a lock.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Threads for MpiEngine {
    fn shared(&self, context: Context, _seq: u64) -> Result<Arc<dyn SharedEngine>, Fault> {
        open(self, context)
    }
}

/// Opens a communicator of the same ranks.
fn open(engine: &MpiEngine, context: Context) -> Result<Arc<dyn SharedEngine>, Fault> {
    if !engine.basis.multiple {
        return Err(ErrorKind::Unsupported {
            what: "MPI was not asked to serve several threads of a rank at once, or cannot",
            how: "start the program with --thread-multiple or SPMD_THREAD_MULTIPLE=1, on an MPI built with full thread support",
        }.into());
    }
    let pair = engine.pair(context)?;
    let act = Act::for_call(engine.call.get(), Form::Threads, 0);
    let comm = engine.together(&pair, &act, || engine.duplicate(&pair.coll))?;
    let shared = Arc::new(Shared {
        comm: comm.raw(),
        me: pair.me,
        has_header: pair.route(false, engine.basis.checks).has_header,
        watch: engine.watch(),
        kept: Mutex::new(Vec::new()),
        active: AtomicUsize::new(0),
        closed: AtomicBool::new(false),
    });
    engine.shared.borrow_mut().push((Arc::clone(&shared), comm));
    Ok(shared)
}

/// A call that is inside; the job's end waits until it is not.
struct Inside<'s>(&'s Shared);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shared {
    /// Enters, unless MPI is about to be finalised: either this sees `closed`, or `close` sees this
    /// call.
    fn enter(&self) -> Result<Inside<'_>, Fault> {
        self.active.fetch_add(1, Ordering::SeqCst);
        let inside = Inside(self);
        if self.closed.load(Ordering::SeqCst) { Err(ErrorKind::Closed.into()) } else { Ok(inside) }
    }

    /// The program has returned: nobody enters any more.
    ///
    /// # Errors
    /// If a thread is still sending, which nobody can stop.
    pub(super) fn close(&self) -> Result<(), Fault> {
        self.closed.store(true, Ordering::SeqCst);
        let started = Instant::now();
        poll_until(|| {
            if self.active.load(Ordering::SeqCst) == 0 {
                return Ok(Some(()));
            }
            if started.elapsed() > LAST_MESSAGES {
                let what = "a thread still sends by a shared communicator".to_owned();
                return Err(ErrorKind::InvalidArgument { what }.into());
            }
            Ok(None)
        })
    }

    /// MPI's communicator, to be drained and freed once closed.
    pub(super) fn raw(&self) -> (ffi::MPI_Comm, bool) {
        (self.comm, self.has_header)
    }

    /// How many sends are not over.
    pub(super) fn left(&self) -> usize {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain_mut(|(request, _)| !tested(request).is_ok_and(|status| status.is_some()));
        kept.len()
    }

    /// Looks until the request is complete.
    fn complete(request: &mut ffi::MPI_Request) -> Result<(), Fault> {
        poll_until(|| tested(request)).map(drop)
    }

    /// # Safety
    /// The bytes stay alive and unchanged until the request is complete.
    unsafe fn start(&self, to: &Target, bytes: &[u8]) -> Result<ffi::MPI_Request, Fault> {
        let Extent { count, unit, .. } = &Extent::bytes(bytes.len())?;
        let (start, comm) = (bytes.as_ptr().cast::<c_void>(), self.comm);
        let (rank, tag) = (to.rank.0 as c_int, to.tag.0 as c_int);
        // SAFETY: a live communicator, since this call is inside; the bytes by this function's
        // contract.
        unsafe { made(|made| ffi::MPI_Isend(start, *count, *unit, rank, tag, comm, made)) }
    }
}

impl SharedEngine for Shared {
    fn send(&self, call: Call, to: &Target, bytes: &[u8]) -> Result<(), Fault> {
        let _inside = self.enter()?;
        let _waiting = self.watch.as_deref().map(|watch| watch.thread_waiting(call));
        let mut copy = Vec::new();
        let to_myself = to.rank == self.me && bytes.len() <= COPIED;
        if self.has_header {
            copy.extend_from_slice(&wire::head(&to.label, call.at, bytes.len()));
        }
        if self.has_header || to_myself {
            copy.extend_from_slice(bytes);
        }
        let message = if copy.is_empty() { bytes } else { &copy };
        // SAFETY: kept until the request is complete, by the caller, here, or with the request.
        let mut request = unsafe { self.start(to, message) }?;
        if to_myself {
            // On its way when this returns, also where the library would wait for the receive.
            self.left();
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).push((request, copy));
            return Ok(());
        }
        let sent = Self::complete(&mut request);
        if sent.is_err() {
            std::mem::forget(copy); // it is not certain that MPI is done with it
        }
        sent
    }

    fn recv(
        &self,
        call: Call,
        from: &Source,
        room: fn(usize) -> Box<dyn Buffer>,
    ) -> Result<(Box<dyn Buffer>, Received), Fault> {
        let _waiting = self.watch.as_deref().map(|watch| watch.thread_waiting(call));
        poll_until(|| {
            let _inside = self.enter()?;
            let Some((message, received)) = matched(self.comm, from.choice, false)? else {
                return Ok(None);
            };
            if !self.has_header {
                let mut buffer = room(received.bytes);
                receive(message, buffer.bytes_mut(), received.bytes)?;
                return Ok(Some((buffer, whole(received, Expected::of(&from.label))?)));
            }
            let mut both = vec![0; received.bytes];
            receive(message, &mut both, received.bytes)?;
            let (head, data) = both.split_first_chunk::<HEAD>().ok_or(ErrorKind::Closed)?;
            let received = admit(head, &from.label, received, data.len())?;
            let mut buffer = room(received.bytes);
            buffer.bytes_mut()[..received.bytes].copy_from_slice(&data[..received.bytes]);
            Ok(Some((buffer, received)))
        })
    }
}

/// Receives a matched message of so many bytes.
fn receive(mut message: ffi::MPI_Message, into: &mut [u8], bytes: usize) -> Result<(), Fault> {
    let into = &mut into[..bytes];
    let Extent { count, unit, .. } = &Extent::bytes(bytes)?;
    let (start, message) = (into.as_mut_ptr().cast::<c_void>(), &raw mut message);
    // SAFETY: the message is a matched one, received once; `into` is borrowed until the request is
    // complete.
    let mut request = unsafe { made(|made| ffi::MPI_Imrecv(start, *count, *unit, message, made)) }?;
    Shared::complete(&mut request)
}
