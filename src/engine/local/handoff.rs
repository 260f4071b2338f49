//! How bytes change hands between two ranks of one process: exactly one copy of a large message, made by whoever comes last.
//!
//! * A [`Loan`] is a sender's buffer that waits in the receiver's queue. The queue holds its only [`Claim`]; whoever takes
//!   the claim out of the queue (under the queue's lock) may read the buffer until it gives the loan back.
//! * A [`Slot`] is a receiver's buffer that waits in its own queue. The queue holds its only [`Posting`]; the sender who
//!   takes it out may write the buffer until it completes the slot.
//!
//! Either side that wants its buffer back early takes the claim or posting out of the queue itself; if that is gone, the
//! other side is copying at this moment, and the owner waits for `done`: a copy neither blocks nor panics.

use std::{panic::Location, sync::Arc};

use super::{
    hall::Hall,
    sync::{AtomicBool, Ordering, UnsafeCell, yield_now},
};
use crate::{
    datum::Memory,
    engine::{Label, Received, matching::Key},
    error::ErrorKind,
};

/// A message in a receiver's queue.
pub(super) struct Parcel {
    pub(super) label: Label,
    /// Where it was sent.
    pub(super) at: &'static Location<'static>,
    pub(super) body: Body,
}

pub(super) enum Body {
    /// A small message, copied when it was sent.
    Copied(Box<[u8]>),
    /// A large one, still in the sender's buffer.
    Lent(Claim),
}

impl Parcel {
    pub(super) fn len(&self) -> usize {
        match &self.body {
            Body::Copied(bytes) => bytes.len(),
            Body::Lent(claim) => claim.0.len,
        }
    }

    /// Copies the message into its receiver's buffer, if it is what the receiver expects and fits.
    pub(super) fn open(
        self,
        key: &Key,
        expected: &Label,
        into: &mut [u8],
        hall: &Hall,
    ) -> Result<Received, ErrorKind> {
        let checked = check(key, expected, &self.label, self.len(), into.len());
        match self.body {
            Body::Copied(bytes) => checked.inspect(|_| into[..bytes.len()].copy_from_slice(&bytes)),
            Body::Lent(claim) => {
                if checked.is_ok() {
                    claim.read(|bytes| into[..bytes.len()].copy_from_slice(bytes));
                }
                claim.give_back(hall);
                checked
            }
        }
    }

    /// Drops the message; its sender gets the buffer back.
    pub(super) fn discard(self, hall: &Hall) {
        if let Body::Lent(claim) = self.body {
            claim.give_back(hall);
        }
    }
}

/// What the receiver is told, or why the message is not for its buffer.
fn check(
    key: &Key,
    expected: &Label,
    got: &Label,
    message: usize,
    buffer: usize,
) -> Result<Received, ErrorKind> {
    expected.admits(got, key.source)?;
    if message > buffer {
        return Err(ErrorKind::Truncated { message, buffer });
    }
    Ok(Received { rank: key.source, tag: key.tag, bytes: message })
}

/// A sender's buffer, lent until `done`.
pub(super) struct Loan {
    buffer: UnsafeCell<Lent>,
    len: usize,
    done: AtomicBool,
    /// The world rank to be told.
    lender: usize,
}

enum Lent {
    /// The lender sees to it that the bytes stay until `done`.
    Borrowed(*const u8),
    Owned(Memory),
    Returned,
}

// SAFETY: the buffer is reached (1) by the one holder of the claim, before it sets `done` (Release), and (2) by the lender,
// after it has seen `done` (Acquire) or has taken the claim itself: never by two threads at a time. What is borrowed are
// bytes, what is owned is `Send`.
unsafe impl Send for Loan {}
// SAFETY: as above.
unsafe impl Sync for Loan {}

/// The right to read a loan: one per loan.
pub(super) struct Claim(Arc<Loan>);

impl Loan {
    /// Lends bytes that belong to the caller.
    ///
    /// # Safety
    /// `bytes` stay valid and unchanged until the loan is `done` or its claim has been withdrawn and dropped unread.
    pub(super) unsafe fn borrowed(bytes: &[u8], lender: usize) -> (Arc<Self>, Claim) {
        Self::new(Lent::Borrowed(bytes.as_ptr()), bytes.len(), lender)
    }

    /// Lends a buffer that the loan keeps alive.
    pub(super) fn owned(buffer: Memory, lender: usize) -> (Arc<Self>, Claim) {
        let len = buffer.bytes().len();
        Self::new(Lent::Owned(buffer), len, lender)
    }

    fn new(lent: Lent, len: usize, lender: usize) -> (Arc<Self>, Claim) {
        let done = AtomicBool::new(false);
        let loan = Arc::new(Self { buffer: UnsafeCell::new(lent), len, done, lender });
        (Arc::clone(&loan), Claim(loan))
    }

    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Waits for the copy that another rank is making at this moment.
    pub(super) fn await_copy(&self) {
        while !self.is_done() {
            yield_now();
        }
    }

    /// The lender's own buffer again, once done.
    pub(super) fn take_back(&self) -> Option<Memory> {
        // SAFETY: `done` was seen with Acquire, so the claim's holder has finished; only the lender calls this.
        self.is_done().then(|| unsafe { self.take() })?
    }

    /// The lender's own buffer again, which nobody will read.
    ///
    /// # Safety
    /// The claim has been withdrawn unread.
    pub(super) unsafe fn take_withdrawn(&self) -> Option<Memory> {
        // SAFETY: there is no claim any more; only the lender calls this.
        unsafe { self.take() }
    }

    /// # Safety
    /// Nobody else reads the buffer, now or later.
    unsafe fn take(&self) -> Option<Memory> {
        // SAFETY: by this function's own contract.
        let lent =
            self.buffer.with_mut(|lent| unsafe { std::mem::replace(&mut *lent, Lent::Returned) });
        if let Lent::Owned(buffer) = lent { Some(buffer) } else { None }
    }
}

impl Claim {
    pub(super) fn is_of(&self, loan: &Arc<Loan>) -> bool {
        Arc::ptr_eq(&self.0, loan)
    }

    fn read<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        self.0.buffer.with(|lent| {
            // SAFETY: this is the loan's only claim and `done` is not set, so the lender keeps away.
            match unsafe { &*lent } {
                &Lent::Borrowed(start) => {
                    // SAFETY: by the contract of `borrowed` the bytes stay until `done`.
                    f(unsafe { std::slice::from_raw_parts(start, self.0.len) })
                }
                Lent::Owned(buffer) => f(buffer.bytes()),
                Lent::Returned => f(&[]),
            }
        })
    }

    fn give_back(self, hall: &Hall) {
        let lender = self.0.lender;
        self.0.done.store(true, Ordering::Release);
        hall.notify(lender);
    }
}

/// A receiver's buffer, lent to whichever sender meets it, until `done`.
pub(super) struct Slot {
    contents: UnsafeCell<Contents>,
    label: Label,
    done: AtomicBool,
}

struct Contents {
    memory: Place,
    outcome: Option<Result<Received, ErrorKind>>,
}

/// What was received, and the buffer if the slot owned it.
type Filled = (Result<Received, ErrorKind>, Option<Memory>);

enum Place {
    /// The receiver sees to it that the bytes stay until `done`.
    Borrowed(*mut u8, usize),
    Owned(Memory),
    Returned,
}

// SAFETY: the contents are reached (1) by the one holder of the posting, before it sets `done` (Release), and (2) by the
// receiver, after it has seen `done` (Acquire) or has taken the posting itself.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

/// The right to fill a slot: one per slot.
pub(super) struct Posting(Arc<Slot>);

impl Slot {
    /// Offers memory that belongs to the caller.
    ///
    /// # Safety
    /// Nobody else touches `into` until the slot is `done` or its posting has been withdrawn.
    pub(super) unsafe fn borrowed(into: &mut [u8], label: Label) -> (Arc<Self>, Posting) {
        Self::new(Place::Borrowed(into.as_mut_ptr(), into.len()), label)
    }

    /// Offers a buffer that the slot keeps alive.
    pub(super) fn owned(buffer: Memory, label: Label) -> (Arc<Self>, Posting) {
        Self::new(Place::Owned(buffer), label)
    }

    fn new(memory: Place, label: Label) -> (Arc<Self>, Posting) {
        let contents = UnsafeCell::new(Contents { memory, outcome: None });
        let slot = Arc::new(Self { contents, label, done: AtomicBool::new(false) });
        (Arc::clone(&slot), Posting(slot))
    }

    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Waits for the copy that another rank is making at this moment.
    pub(super) fn await_copy(&self) {
        while !self.is_done() {
            yield_now();
        }
    }

    /// What was received, and the buffer if the slot owned it; once done. Called once, by the receiver.
    pub(super) fn take_back(&self) -> Option<Filled> {
        if !self.is_done() {
            return None;
        }
        self.contents.with_mut(|contents| {
            // SAFETY: `done` was seen with Acquire, so the posting's holder has finished; only the receiver calls this.
            let contents = unsafe { &mut *contents };
            let memory = std::mem::replace(&mut contents.memory, Place::Returned);
            let buffer = if let Place::Owned(buffer) = memory { Some(buffer) } else { None };
            Some((contents.outcome.take()?, buffer))
        })
    }
}

impl Slot {
    /// The buffer, if the slot owned it.
    ///
    /// # Safety
    /// The posting has been withdrawn.
    pub(super) unsafe fn take_withdrawn(&self) -> Option<Memory> {
        self.contents.with_mut(|contents| {
            // SAFETY: there is no posting any more; only the receiver calls this.
            let contents = unsafe { &mut *contents };
            let memory = std::mem::replace(&mut contents.memory, Place::Returned);
            if let Place::Owned(buffer) = memory { Some(buffer) } else { None }
        })
    }
}

impl Posting {
    pub(super) fn is_of(&self, slot: &Arc<Slot>) -> bool {
        Arc::ptr_eq(&self.0, slot)
    }

    /// Copies a message into the receiver's buffer, or tells the receiver why it is not what it wanted.
    ///
    /// The caller tells the receiver's seat afterwards.
    pub(super) fn fill(self, key: &Key, label: &Label, bytes: &[u8]) {
        let slot = &*self.0;
        slot.contents.with_mut(|contents| {
            // SAFETY: this is the slot's only posting and `done` is not set, so the receiver keeps away.
            let contents = unsafe { &mut *contents };
            let into = match &mut contents.memory {
                // SAFETY: by the contract of `borrowed` the memory is this slot's alone until `done`.
                Place::Borrowed(start, len) => unsafe {
                    std::slice::from_raw_parts_mut(*start, *len)
                },
                Place::Owned(buffer) => buffer.bytes_mut(),
                Place::Returned => &mut [],
            };
            let checked = check(key, &slot.label, label, bytes.len(), into.len());
            if checked.is_ok() {
                into[..bytes.len()].copy_from_slice(bytes);
            }
            contents.outcome = Some(checked);
        });
        slot.done.store(true, Ordering::Release);
    }
}
