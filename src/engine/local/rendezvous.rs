//! Receiver-driven rendezvous: the bytes of a larger message are lent, and its receiver copies
//! them.
//!
//! A [`Loan`] is a sender's buffer that its receiver copies from. Its state says whose turn it is:
//!
//! ```text
//!            claim                finish
//! OFFERED ──────────▶ BUSY ─────────────────▶ DONE      the lender has its buffer back
//!    │  └──reserve──▶ MATCHED ──claim──▶ BUSY           (probed first, received later)
//!    └──take back──▶ BACK                               nobody will ever read it
//! ```
//!
//! The lender who wants its buffer back early takes an offered loan back, or, if a receiver has
//! matched it already, leaves a copy in its place (both by compare-and-swap); if it is busy, the
//! receiver is copying at this moment, and the lender waits: a copy neither blocks nor panics. A
//! long copy is shared: while the receiver is at it (`SHARED`), a lender who looks whether it is
//! done takes part of it. So nobody needs the receiver's queues to get a buffer out of them.

use std::{panic::Location, sync::Arc};

use super::{
    lane::{INLINE_BYTES, InLane},
    parking::{ParkingLot, spin_until, yield_until},
    sync::{AtomicPtr, AtomicU32, AtomicUsize, Ordering, UnsafeCell},
};
use crate::{
    datum::{Memory, Outgoing},
    engine::{Label, Received, matching::Key},
    error::{ErrorKind, Fault},
};

/// From this size on a lender who waits helps its receiver to copy.
const SHARED_BYTES: usize = if cfg!(loom) { 7 } else { 32 * 1024 };
/// What one of them copies at a time.
const CHUNK_BYTES: usize = if cfg!(loom) { 4 } else { 16 * 1024 };

/// A message on its way, or in its receiver's queue.
pub(super) struct Parcel<'a> {
    pub(super) label: Label,
    /// Where it was sent.
    pub(super) at: &'static Location<'static>,
    pub(super) body: Body<'a>,
}

pub(super) enum Body<'a> {
    /// Still in the lane.
    InLane(InLane<'a>),
    /// Kept: so many bytes.
    Few(usize, [u8; INLINE_BYTES]),
    /// Kept.
    Boxed(Box<[u8]>),
    /// Still in the sender's buffer.
    Lent(Arc<Loan>),
}

/// What a receiver does with a message that it has found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// Copies it at once.
    Receive,
    /// Keeps it for later; the sender may leave a copy in its place meanwhile.
    Reserve,
}

impl Parcel<'_> {
    pub(super) fn len(&self) -> usize {
        match &self.body {
            Body::InLane(message) => message.len(),
            Body::Few(bytes, _) => *bytes,
            Body::Boxed(bytes) => bytes.len(),
            Body::Lent(loan) => loan.bytes,
        }
    }

    /// Claims the message for its receiver; `false` if its sender has taken it back.
    pub(super) fn claim(&self, how: Claim) -> bool {
        match &self.body {
            Body::Lent(loan) => loan.claim(how),
            _ => true,
        }
    }

    /// Whether its sender has taken it back.
    pub(super) fn is_back(&self) -> bool {
        matches!(&self.body, Body::Lent(loan) if loan.state.load(Ordering::Acquire) == BACK)
    }

    /// The message out of the way of those behind it in the lane.
    pub(super) fn keep(self) -> Parcel<'static> {
        let Self { label, at, body } = self;
        let body = match body {
            Body::InLane(message) if message.len() <= INLINE_BYTES => {
                let mut few = [0; INLINE_BYTES];
                message.copy_to(&mut few[..message.len()]);
                Body::Few(message.len(), few)
            }
            Body::InLane(message) => {
                let mut copy = vec![0; message.len()].into_boxed_slice();
                message.copy_to(&mut copy);
                Body::Boxed(copy)
            }
            Body::Few(bytes, few) => Body::Few(bytes, few),
            Body::Boxed(bytes) => Body::Boxed(bytes),
            Body::Lent(loan) => Body::Lent(loan),
        };
        Parcel { label, at, body }
    }

    /// Copies the claimed message into its receiver's buffer, if it is what the receiver expects
    /// and fits.
    #[inline(always)]
    pub(super) fn open(
        &self,
        key: &Key,
        expected: &Label,
        into: &mut [u8],
        parking: &ParkingLot,
    ) -> Result<Received, Fault> {
        // Put together where it is wanted, see `Table::insert`.
        self.deliver(key, expected, into, parking).map(|bytes| Received {
            rank: key.source,
            tag: key.tag,
            bytes,
        })
    }

    /// As `open`, and tells the length only.
    #[inline]
    fn deliver(
        &self,
        key: &Key,
        expected: &Label,
        into: &mut [u8],
        parking: &ParkingLot,
    ) -> Result<usize, Fault> {
        let bytes = self.len();
        let checked = self.check(key, expected, into.len());
        let into = checked.is_ok().then(|| &mut into[..bytes]);
        match (&self.body, into) {
            (Body::Lent(loan), into) => loan.finish(into, parking),
            (_, None) => {}
            (Body::InLane(message), Some(into)) => message.copy_to(into),
            (Body::Few(bytes, few), Some(into)) => into.copy_from_slice(&few[..*bytes]),
            (Body::Boxed(bytes), Some(into)) => into.copy_from_slice(bytes),
        }
        checked.map(|()| bytes)
    }

    /// Whether the message is for a buffer of so many bytes, and if not, why.
    #[inline]
    fn check(&self, key: &Key, expected: &Label, buffer: usize) -> Result<(), Fault> {
        expected.admits(&self.label, key.source)?;
        let message = self.len();
        if message > buffer {
            return Err(ErrorKind::Truncated { message, buffer }.into());
        }
        Ok(())
    }

    /// Drops the claimed message; its sender gets the buffer back.
    pub(super) fn discard(&self, parking: &ParkingLot) {
        if let Body::Lent(loan) = &self.body {
            loan.finish(None, parking);
        }
    }
}

/// The lender's buffer is there to be read.
const OFFERED: u32 = 0;
/// It is there, and reserved for a receive that has not begun.
const MATCHED: u32 = 1;
/// One side has it for itself.
const BUSY: u32 = 2;
/// The receiver has done with it.
const DONE: u32 = 3;
/// The lender has taken it back.
const BACK: u32 = 4;
/// The receiver is copying, and the lender may help.
const SHARED: u32 = 5;

/// A sender's buffer, lent to the receiver of a message.
pub(super) struct Loan {
    state: AtomicU32,
    /// Reached by whoever has made the state `BUSY` (while it is `SHARED` too), and by the lender
    /// once it is `DONE` or `BACK`.
    memory: UnsafeCell<Option<Memory>>,
    /// Where a shared copy comes from and goes, which part of it is next, and how much of it is
    /// done.
    from: AtomicPtr<u8>,
    to: AtomicPtr<u8>,
    next: AtomicUsize,
    copied: AtomicUsize,
    bytes: usize,
    /// The world rank to be told.
    lender: usize,
    label: Label,
    at: &'static Location<'static>,
}

// SAFETY: the memory is reached by one thread at a time, in an order that the state makes (Acquire,
// Release); it is `Send`: bytes that are owned, or borrowed by the promise of their lender. Nothing
// else changes while the loan is shared.
unsafe impl Send for Loan {}
// SAFETY: as above.
unsafe impl Sync for Loan {}

impl Loan {
    /// Lends `memory`. If it is not the engine's own, the lender ends with `take_back` or sees
    /// `is_done` before the promise of the memory's lender ends.
    pub(super) fn new(
        memory: Memory,
        label: Label,
        at: &'static Location<'static>,
        lender: usize,
    ) -> Self {
        let bytes = memory.bytes().len();
        let memory = UnsafeCell::new(Some(memory));
        let nowhere = || AtomicPtr::new(std::ptr::null_mut());
        let (from, to, state) = (nowhere(), nowhere(), AtomicU32::new(OFFERED));
        let (next, copied) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { state, memory, from, to, next, copied, bytes, lender, label, at }
    }

    pub(super) fn label(&self) -> &Label {
        &self.label
    }

    pub(super) fn at(&self) -> &'static Location<'static> {
        self.at
    }

    /// Whether the receiver has done with it; helps with a long copy.
    pub(super) fn is_done(&self) -> bool {
        match self.state.load(Ordering::Acquire) {
            DONE => true,
            SHARED => {
                self.help();
                self.state.load(Ordering::Acquire) == DONE
            }
            _ => false,
        }
    }

    fn turn(&self, from: u32, to: u32) -> Result<u32, u32> {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
    }

    // ---- The receiver's side ----

    fn claim(&self, how: Claim) -> bool {
        let to = if how == Claim::Receive { BUSY } else { MATCHED };
        yield_until(|| match self.turn(OFFERED, to) {
            Ok(_) => Some(true),
            Err(BUSY) => None, // the lender is leaving a copy
            Err(_) => Some(false),
        })
    }

    /// Turns a reservation into the right to read.
    pub(super) fn begin(&self) {
        // Until then the lender is leaving a copy.
        yield_until(|| self.turn(MATCHED, BUSY).ok());
    }

    /// Copies the claimed loan, if `into` is given, and gives it back.
    fn finish(&self, into: Option<&mut [u8]>, parking: &ParkingLot) {
        let is_claimed = self.state.load(Ordering::Relaxed) == BUSY;
        assert!(is_claimed, "a loan is finished once, by the receiver who has claimed it");
        if let Some(into) = into {
            self.memory.with(|memory| {
                // SAFETY: this side has made the state `BUSY`.
                let Some(memory) = (unsafe { &*memory }) else { return };
                if self.bytes >= SHARED_BYTES && !parking.is_oversubscribed() {
                    self.copy_together(memory.bytes(), into);
                } else {
                    into.copy_from_slice(memory.bytes());
                }
            });
        }
        self.state.store(DONE, Ordering::Release);
        parking.wake(self.lender);
    }

    /// Copies with the lender's help, if it looks here meanwhile.
    fn copy_together(&self, from: &[u8], into: &mut [u8]) {
        assert!(from.len() == self.bytes && into.len() == self.bytes, "all of a message is copied");
        self.from.store(from.as_ptr().cast_mut(), Ordering::Relaxed);
        self.to.store(into.as_mut_ptr(), Ordering::Relaxed);
        self.state.store(SHARED, Ordering::Release);
        // SAFETY: both are borrowed until this function returns, which waits for all parts; until
        // then `into` is reached through `to` only.
        unsafe { self.copy_parts() };
        // The lender is copying the last part at this moment, unless its CPU was taken from it.
        spin_until(|| self.copied.load(Ordering::Acquire) == self.bytes);
    }

    /// Copies parts that nobody has copied, until there are none.
    ///
    /// # Safety
    /// The state has been seen to be `SHARED`. As long as not all has been copied, `bytes` bytes
    /// may be read at `from`, where nobody changes them, and written at `to`.
    unsafe fn copy_parts(&self) {
        let (from, to) = (self.from.load(Ordering::Relaxed), self.to.load(Ordering::Relaxed));
        // Looked at first, so that a lender who waits long does not count beyond the end of
        // numbers.
        while self.next.load(Ordering::Relaxed) < self.bytes {
            let at = self.next.fetch_add(CHUNK_BYTES, Ordering::Relaxed);
            let Some(rest) = self.bytes.checked_sub(at) else { return };
            let part = rest.min(CHUNK_BYTES);
            // SAFETY: inside the memory, by this function's own contract; each part is taken by one
            // side, as `next` says.
            unsafe { to.add(at).copy_from_nonoverlapping(from.add(at), part) };
            self.copied.fetch_add(part, Ordering::Release);
        }
    }

    // ---- The lender's side ----

    #[cold]
    fn help(&self) {
        // SAFETY: the state was `SHARED`. The receiver waits in `copy_together` until all parts are
        // copied; once they are, none is left to be taken. It alone looks into the memory
        // meanwhile: the lender reads no more than the bytes.
        unsafe { self.copy_parts() };
    }

    /// The memory of a loan that is done or back.
    fn memory(&self) -> Option<Memory> {
        // SAFETY: the state has been seen to be `DONE` or `BACK`, so that the receiver keeps away
        // for ever.
        self.memory.with_mut(|memory| unsafe { (*memory).take() })
    }

    /// The memory that was lent, if the receiver has done with it.
    pub(super) fn returned(&self) -> Option<Memory> {
        self.is_done().then(|| self.memory())?
    }

    /// Ends the loan: the lent memory is the lender's alone again. Whether the message was never
    /// sent; otherwise its receiver has it or will have it.
    pub(super) fn take_back(&self) -> (bool, Option<Memory>) {
        yield_until(|| match self.turn(OFFERED, BACK) {
            Ok(_) => Some((true, self.memory())),
            Err(DONE) => Some((false, self.memory())),
            // If not, the receiver has begun to copy meanwhile.
            Err(MATCHED) => self.leave_copy().map(|memory| (false, Some(memory))),
            // The receiver is copying at this moment. (Nothing else: the lender ends a loan once.)
            Err(state) => {
                if state == SHARED {
                    self.help();
                }
                None
            }
        })
    }

    /// The lent memory is the lender's alone again; the message goes on, as a copy if it is still to be
    /// received.
    pub(super) fn let_go(&self) {
        // A receiver that has begun to copy is soon done; from any other a copy is left.
        yield_until(|| (self.leave_copy().is_some() || self.is_done()).then_some(()));
    }

    /// Leaves a copy in the place of the lent memory, so that the lender can go on and the message
    /// is still received. `None` if the receiver is reading or has read it.
    pub(super) fn leave_copy(&self) -> Option<Memory> {
        let was = [OFFERED, MATCHED].into_iter().find(|&was| self.turn(was, BUSY).is_ok())?;
        let memory = self.memory.with_mut(|memory| {
            // SAFETY: this side has made the state `BUSY`.
            let memory = unsafe { &mut *memory };
            let copy = memory.as_ref().map_or_else(Vec::new, |memory| memory.bytes().to_vec());
            memory.replace(Memory::Owned(Box::new(Outgoing(copy))))
        });
        self.state.store(was, Ordering::Release);
        memory
    }
}
