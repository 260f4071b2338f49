//! What a message is in a lane: a slot, and lines behind it.

use std::{
    mem::{ManuallyDrop, MaybeUninit},
    panic::Location,
    ptr::NonNull,
    sync::Arc,
};

use super::{
    super::{
        rendezvous::Loan,
        sync::{AtomicU32, UnsafeCell},
    },
    Segment,
};
use crate::{
    datum::Signature,
    engine::{Rank, Tag, matching::Key},
    error::Call,
};

/// Messages up to this size are part of their slot.
pub(in super::super) const INLINE_BYTES: usize = if cfg!(loom) { 2 } else { 24 };

pub(super) const LINE_BYTES: usize = 64;

#[repr(C, align(64))]
pub(super) struct Slot {
    /// The lap of the segment that the message belongs to.
    pub(super) lap: AtomicU32,
    /// Reached by the producer before it publishes the lap, and by the consumer after it has seen
    /// it.
    head: UnsafeCell<MaybeUninit<Head>>,
}

// SAFETY: what a slot holds is `Send` (bytes, references to statics, `Arc<Loan>`); who reaches it
// when is the promise of its unsafe methods.
unsafe impl Sync for Slot {}

#[cfg(all(not(loom), target_pointer_width = "64"))]
const _: () = assert!(size_of::<Slot>() == 64, "a message is one cache line");

/// What is said in a slot.
///
/// It is written and read field by field. Copied whole from where it was put together, it would be
/// read in wider pieces than it was written in; processors let such a read wait until the writes
/// have left for the cache, behind the message before.
#[repr(C)]
pub(super) struct Head {
    pub(super) context: u32,
    pub(super) source: Rank,
    pub(super) tag: Tag,
    pub(super) step: bool,
    pub(super) kind: Kind,
    /// The size of a message that is in the lane.
    pub(super) bytes: u16,
    pub(super) signature: Signature,
    pub(super) at: &'static Location<'static>,
    pub(super) body: Small,
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// In the slot.
    Inline,
    /// In the segment's lines from `body.first` on, behind the call if it is a step of a
    /// collective.
    Lines,
    /// In the sender's buffer, `body.loan`.
    Lent,
    /// No message: the next one is in the segment `body.next`. No other field is there.
    Next,
}

/// The body of a message, or where it is: `kind` tells which.
#[repr(C)]
pub(super) union Small {
    pub(super) inline: [MaybeUninit<u8>; INLINE_BYTES],
    pub(super) first: u32,
    pub(super) loan: ManuallyDrop<Arc<Loan>>,
    pub(super) next: NonNull<Segment>,
}

/// What a message in a slot is, but for its body.
pub(super) struct Address {
    pub(super) key: Key,
    pub(super) signature: Signature,
    pub(super) at: &'static Location<'static>,
}

impl Slot {
    pub(super) fn new() -> Self {
        Self { lap: AtomicU32::new(0), head: UnsafeCell::new(MaybeUninit::uninit()) }
    }

    /// Fills the slot: with a message if there is an address.
    ///
    /// # Safety
    /// The slot is the producer's. `body` writes what `kind` says.
    #[inline]
    pub(super) unsafe fn fill(
        &self,
        kind: Kind,
        bytes: u16,
        address: Option<&Address>,
        body: impl FnOnce(*mut Small),
    ) {
        self.head.with_mut(|head| {
            let head = head.cast::<Head>();
            // SAFETY: the memory of a head, which nobody else reaches.
            unsafe {
                (&raw mut (*head).kind).write(kind);
                if let Some(Address { key, signature, at }) = address {
                    (&raw mut (*head).context).write(key.space.context);
                    (&raw mut (*head).source).write(key.source);
                    (&raw mut (*head).tag).write(key.tag);
                    (&raw mut (*head).step).write(key.space.step);
                    (&raw mut (*head).bytes).write(bytes);
                    (&raw mut (*head).signature).write(*signature);
                    (&raw mut (*head).at).write(at);
                }
                body(&raw mut (*head).body);
            }
        });
    }

    /// Reads the head.
    ///
    /// # Safety
    /// The slot has been published and not been left.
    #[inline]
    pub(super) unsafe fn look<R>(&self, look: impl FnOnce(*const Head) -> R) -> R {
        self.head.with(|head| look(head.cast::<Head>()))
    }
}

/// The bytes of a message that are still in the lane.
#[derive(Clone, Copy)]
pub(in super::super) struct InLane<'a> {
    pub(super) place: Within<'a>,
    pub(super) bytes: usize,
}

#[derive(Clone, Copy)]
pub(super) enum Within<'a> {
    Slot(&'a Slot),
    Lines(&'a [Line]),
}

impl InLane<'_> {
    pub(in super::super) fn len(&self) -> usize {
        self.bytes
    }

    /// Copies the message.
    ///
    /// # Panics
    /// If `into` is not as long as the message.
    #[inline]
    pub(in super::super) fn copy_to(&self, into: &mut [u8]) {
        assert_eq!(into.len(), self.bytes, "all of a message is copied");
        match self.place {
            // SAFETY: (1) a value of this type is made by `take` only: so many bytes have been
            // written there before the slot was published, and nobody writes them while the
            // receiver is borrowed.
            Within::Slot(slot) => unsafe {
                slot.look(|head| {
                    let bytes = (&raw const (*head).body).cast::<u8>();
                    copy_few(bytes, into.as_mut_ptr(), into.len());
                });
            },
            // SAFETY: as (1).
            Within::Lines(lines) => unsafe { Line::read(lines, into) },
        }
    }
}

/// Copies a few bytes, a word faster than others.
///
/// # Safety
/// So many bytes may be read and written.
#[inline]
pub(super) unsafe fn copy_few(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: by this function's own contract.
    unsafe {
        match bytes {
            8 => std::ptr::copy_nonoverlapping(from, to, 8),
            4 => std::ptr::copy_nonoverlapping(from, to, 4),
            _ => std::ptr::copy_nonoverlapping(from, to, bytes),
        }
    }
}

/// Where the bytes of a message lie that are no part of its slot.
pub(super) struct Line(pub(super) UnsafeCell<Block>);

#[repr(align(64))]
pub(super) struct Block {
    _bytes: MaybeUninit<[u8; LINE_BYTES]>,
}

const _: () = assert!(size_of::<Call>() <= LINE_BYTES && align_of::<Call>() <= 64);

// SAFETY: a line holds bytes, or a `Call`, which is `Sync`; who reaches it when is the promise of
// its unsafe methods.
unsafe impl Sync for Line {}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Line>() == LINE_BYTES, "lines are bytes one behind the other");

impl Line {
    pub(super) fn new() -> Self {
        Self(UnsafeCell::new(Block { _bytes: MaybeUninit::uninit() }))
    }
}

#[cfg(not(loom))]
impl Line {
    /// # Safety
    /// Nobody else reaches the lines, which have room for `bytes`.
    #[inline]
    pub(super) unsafe fn write(lines: &[Self], bytes: &[u8]) {
        let to = lines.as_ptr().cast_mut().cast::<u8>();
        // SAFETY: the lines are cells, the caller's alone, and have room.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// # Safety
    /// So many bytes have been written, and nobody writes.
    #[inline]
    pub(super) unsafe fn read(lines: &[Self], into: &mut [u8]) {
        let from = lines.as_ptr().cast::<u8>();
        // SAFETY: by this function's own contract.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
    }
}

/// The same with each line a cell that loom follows.
#[cfg(loom)]
impl Line {
    pub(super) unsafe fn write(lines: &[Self], bytes: &[u8]) {
        for (line, chunk) in lines.iter().zip(bytes.chunks(LINE_BYTES)) {
            line.0.with_mut(|line| unsafe {
                std::ptr::copy_nonoverlapping(chunk.as_ptr(), line.cast(), chunk.len());
            });
        }
    }

    pub(super) unsafe fn read(lines: &[Self], into: &mut [u8]) {
        for (line, chunk) in lines.iter().zip(into.chunks_mut(LINE_BYTES)) {
            line.0.with(|line| unsafe {
                std::ptr::copy_nonoverlapping(line.cast(), chunk.as_mut_ptr(), chunk.len());
            });
        }
    }
}

/// Takes the loan out of a head.
///
/// # Safety
/// The head is that of a lent message, and this is done once.
pub(super) unsafe fn loan_of(head: *const Head) -> Arc<Loan> {
    // SAFETY: by this function's own contract.
    ManuallyDrop::into_inner(unsafe { (&raw const (*head).body.loan).read() })
}
