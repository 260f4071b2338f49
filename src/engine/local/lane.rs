//! A lane: the way of the messages of one rank to another, one producer and one consumer.
//!
//! A lane is a chain of segments. A segment has *slots* of 64 bytes, one for each message, and *lines* of 64 bytes for what
//! does not fit into a slot. The producer fills a slot and then publishes it with the segment's *lap*, the number of times
//! that the segment has been used: the consumer knows a new message by one load of the cache line that also carries it.
//! The last slot in use says which segment comes next. From then on the old one is the consumer's alone, which gives it back to
//! be used again. So neither side ever waits for the other, and in steady use nothing is allocated.
//!
//! The first segment is small: a thousand ranks that say a few words to each other need little memory.

use std::{mem::MaybeUninit, panic::Location, ptr::NonNull, sync::Arc};

use super::{
    handoff::{Body, INLINE_BYTES, Loan, Parcel},
    sync::{AtomicPtr, AtomicU32, Ordering, UnsafeCell},
};
use crate::{
    datum::Signature,
    engine::{Label, Step, matching::Key},
    error::Call,
};

/// Messages up to this size are copied into the lane.
pub(super) const EAGER_BYTES: usize = if cfg!(loom) { 4 } else { 1024 };

pub(super) const LINE_BYTES: usize = 64;

/// Slots and lines of a lane's first segment.
const FIRST: (usize, usize) = if cfg!(loom) { (2, 2) } else { (8, 32) };
/// Slots and lines of the others.
const FULL: (usize, usize) = if cfg!(loom) { (2, 2) } else { (64, 512) };
const _: () = assert!(EAGER_BYTES.div_ceil(LINE_BYTES) < FIRST.1, "any message fits, with a call");

/// So many segments wait at most to be used again.
const SPARES: usize = if cfg!(loom) { 1 } else { 4 };

/// A lane with so many segments of messages that nobody has taken is long: its sender had better wait.
const LONG: u32 = 2048;

/// Both sides read it with every message: on cache lines of its own.
#[repr(align(128))]
struct Segment {
    /// The number of times that it has been used; never 0, which stands in a slot that was never used.
    lap: u32,
    slots: Box<[Slot]>,
    lines: Box<[Line]>,
}

#[repr(align(64))]
struct Slot {
    /// The lap of the segment that the message belongs to.
    lap: AtomicU32,
    /// Reached by the producer before it publishes the lap, and by the consumer after it has seen it.
    head: UnsafeCell<MaybeUninit<Head>>,
}

#[cfg(all(not(loom), target_pointer_width = "64"))]
const _: () = assert!(size_of::<Slot>() == 64, "a message is one cache line");

/// What is said in a slot.
enum Head {
    Message {
        key: Key,
        signature: Signature,
        at: &'static Location<'static>,
        body: Small,
    },
    /// The messages go on in another segment.
    Next(NonNull<Segment>),
}

/// The body of a message, or where it is.
enum Small {
    Inline(u8, [MaybeUninit<u8>; INLINE_BYTES]),
    /// In the segment's lines from `first` on, behind the call if it is a step of a collective.
    Lines {
        first: u32,
        bytes: u32,
        step: bool,
    },
    Lent(Arc<Loan>),
}

/// Where the bytes of a message lie that are no part of its slot.
pub(super) struct Line(UnsafeCell<Block>);

#[repr(align(64))]
struct Block {
    _bytes: MaybeUninit<[u8; LINE_BYTES]>,
}

const _: () = assert!(size_of::<Call>() <= LINE_BYTES && align_of::<Call>() <= 64);

// SAFETY: a line holds bytes, or a `Call`, which is `Sync`; who reaches it when is the promise of its unsafe methods.
unsafe impl Sync for Line {}

impl Line {
    /// # Safety
    /// Nobody else reaches the line.
    unsafe fn write(&self, bytes: &[u8]) {
        self.0.with_mut(|line| {
            // SAFETY: the line is the caller's alone, and `bytes` are at most a line: see `chunks` in `push`.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), line.cast(), bytes.len()) }
        });
    }

    /// # Safety
    /// So many bytes have been written, and nobody writes.
    unsafe fn read(&self, into: &mut [u8]) {
        self.0.with(|line| {
            // SAFETY: by this function's own contract; `into` is at most a line: see `chunks_mut` in `copy_lines`.
            unsafe {
                std::ptr::copy_nonoverlapping(line.cast(), into.as_mut_ptr(), into.len());
            }
        });
    }
}

/// Copies a message out of its lines.
///
/// # Safety
/// A message of at least `into.len()` bytes has been written into the lines, and nobody writes them.
pub(super) unsafe fn copy_lines(lines: &[Line], into: &mut [u8]) {
    for (line, chunk) in lines.iter().zip(into.chunks_mut(LINE_BYTES)) {
        // SAFETY: by this function's own contract.
        unsafe { line.read(chunk) };
    }
}

impl Segment {
    fn new((slots, lines): (usize, usize)) -> NonNull<Self> {
        let slot = || Slot { lap: AtomicU32::new(0), head: UnsafeCell::new(MaybeUninit::uninit()) };
        let line = || Line(UnsafeCell::new(Block { _bytes: MaybeUninit::uninit() }));
        let segment = Self {
            lap: 1,
            slots: (0..slots).map(|_| slot()).collect(),
            lines: (0..lines).map(|_| line()).collect(),
        };
        NonNull::from(Box::leak(Box::new(segment)))
    }
}

/// What the two ends of a lane share. The last of them to go frees the segments.
struct Shared {
    /// The consumer's place. Reached by the consumer only, and at the end by whoever drops the last end.
    place: Apart<UnsafeCell<Place>>,
    returned: Apart<Returned>,
}

/// On cache lines of its own.
#[repr(align(128))]
struct Apart<T>(T);

struct Returned {
    /// Segments that the consumer has done with; filled by it and emptied by the producer.
    spares: [AtomicPtr<Segment>; SPARES],
    /// How many segments the consumer has done with.
    finished: AtomicU32,
}

#[derive(Clone, Copy)]
struct Place {
    segment: NonNull<Segment>,
    slot: usize,
}

// SAFETY: `place` is reached by one thread at a time (see there). A segment is reached by the producer up to the slot in
// which it names the next one, and by the consumer, each slot and line in turn: first the one, then, by way of the slot's
// lap (Release, Acquire), the other. What a slot holds is `Send`: bytes, references to statics, `Arc<Loan>`.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut place = self.place.0.with(|place| {
            // SAFETY: both ends are gone.
            unsafe { *place }
        });
        loop {
            // SAFETY: the segments from the consumer's place on belong to the lane; both ends are gone.
            let found = unsafe { place.published() };
            let Some(head) = found else { break };
            place.slot += 1;
            if let Head::Next(next) = head {
                // SAFETY: made by `Segment::new`, and left by both ends.
                drop(unsafe { Box::from_raw(place.segment.as_ptr()) });
                place = Place { segment: next, slot: 0 };
            }
        }
        let spares = self.returned.0.spares.iter().map(|spare| spare.load(Ordering::Acquire));
        for segment in spares.chain([place.segment.as_ptr()]).filter(|spare| !spare.is_null()) {
            // SAFETY: made by `Segment::new`; in the lane's hands only.
            drop(unsafe { Box::from_raw(segment) });
        }
    }
}

impl Place {
    /// The contents of the slot, if it has been published.
    ///
    /// # Safety
    /// The caller is the consumer, the segment is alive, and the slot's contents have not been taken before.
    unsafe fn published(&self) -> Option<Head> {
        // SAFETY: by this function's own contract.
        let segment = unsafe { self.segment.as_ref() };
        let slot = segment.slots.get(self.slot)?;
        (slot.lap.load(Ordering::Acquire) == segment.lap).then(|| {
            // SAFETY: the lap was seen with Acquire, so the contents are there and the producer is done with them; by
            // contract they are taken once.
            slot.head.with(|head| unsafe { head.read().assume_init() })
        })
    }
}

/// Opens a lane.
pub(super) fn open() -> (Sender, Receiver) {
    let segment = Segment::new(FIRST);
    let shared = Arc::new(Shared {
        place: Apart(UnsafeCell::new(Place { segment, slot: 0 })),
        returned: Apart(Returned {
            spares: std::array::from_fn(|_| AtomicPtr::new(std::ptr::null_mut())),
            finished: AtomicU32::new(0),
        }),
    });
    let ours = Arc::clone(&shared);
    (Sender { shared: ours, segment, slot: 0, line: 0, begun: 0, finished: 0 }, Receiver(shared))
}

/// The producer's end.
pub(super) struct Sender {
    shared: Arc<Shared>,
    segment: NonNull<Segment>,
    slot: usize,
    line: usize,
    /// How many segments have been left behind.
    begun: u32,
    /// How many of them the consumer had done with when this was last looked at.
    finished: u32,
}

// SAFETY: see `Shared`; the segment is the lane's, which `shared` keeps alive.
unsafe impl Send for Sender {}

impl Sender {
    /// Whether the receiver is far behind.
    #[inline]
    pub(super) fn is_long(&mut self) -> bool {
        self.begun.wrapping_sub(self.finished) > LONG && {
            self.finished = self.shared.returned.0.finished.load(Ordering::Relaxed);
            self.begun.wrapping_sub(self.finished) > LONG
        }
    }

    /// Sends a copy of `bytes`, at most [`EAGER_BYTES`].
    #[inline]
    pub(super) fn copy(
        &mut self,
        key: Key,
        label: &Label,
        at: &'static Location<'static>,
        bytes: &[u8],
    ) {
        let signature = label.signature;
        if label.step.is_none() && bytes.len() <= INLINE_BYTES {
            let body = Small::inline(bytes);
            return self.publish(0, |_, _| Head::Message { key, signature, at, body });
        }
        let step = label.step;
        let lines = usize::from(step.is_some()) + bytes.len().div_ceil(LINE_BYTES);
        self.publish(lines, |segment, first| {
            let mut rest = &segment.lines[first..first + lines];
            if let (Some(Step { call }), [line, behind @ ..]) = (step, rest) {
                // SAFETY: (1) lines are handed out once in each lap, so this one is the producer's until the slot is
                // published; (2) a line has room for a call and is aligned for it, by the assertion above.
                line.0.with_mut(|line| unsafe { line.cast::<Call>().write(call) });
                rest = behind;
            }
            for (line, chunk) in rest.iter().zip(bytes.chunks(LINE_BYTES)) {
                // SAFETY: as (1) above.
                unsafe { line.write(chunk) };
            }
            let (first, bytes) = (first as u32, bytes.len() as u32);
            let body = Small::Lines { first, bytes, step: step.is_some() };
            Head::Message { key, signature, at, body }
        });
    }

    /// Sends the news of a buffer that is lent to the receiver.
    pub(super) fn lend(&mut self, key: Key, loan: Arc<Loan>) {
        let (signature, at) = (loan.label().signature, loan.at());
        let body = Small::Lent(loan);
        self.publish(0, |_, _| Head::Message { key, signature, at, body });
    }

    /// Fills the next slot with what `fill` makes, given the segment and the first of so many free lines.
    #[inline]
    fn publish(&mut self, lines: usize, fill: impl FnOnce(&Segment, usize) -> Head) {
        // SAFETY: the segment is the lane's; it is not freed or used again before its next one has been named.
        let mut segment = unsafe { self.segment.as_ref() };
        if self.slot + 1 >= segment.slots.len() || self.line + lines > segment.lines.len() {
            self.go_on(segment);
            // SAFETY: as above.
            segment = unsafe { self.segment.as_ref() };
        }
        let head = fill(segment, self.line);
        self.line += lines;
        self.put(segment, head);
    }

    #[inline]
    fn put(&mut self, segment: &Segment, head: Head) {
        let slot = &segment.slots[self.slot];
        self.slot += 1;
        // SAFETY: slots are filled in turn, once in each lap, so that this one is the producer's until it is published.
        slot.head.with_mut(|place| unsafe { (*place).write(head) });
        slot.lap.store(segment.lap, Ordering::Release);
    }

    /// Goes on to the next segment.
    #[cold]
    fn go_on(&mut self, segment: &Segment) {
        let next = self.spare().unwrap_or_else(|| Segment::new(FULL));
        // From here on the old segment is the consumer's.
        self.put(segment, Head::Next(next));
        (self.segment, self.slot, self.line) = (next, 0, 0);
        self.begun = self.begun.wrapping_add(1);
    }

    /// A segment that the consumer has given back, ready for its next lap.
    fn spare(&self) -> Option<NonNull<Segment>> {
        for spare in &self.shared.returned.0.spares {
            let Some(mut segment) = NonNull::new(spare.load(Ordering::Acquire)) else { continue };
            spare.store(std::ptr::null_mut(), Ordering::Relaxed);
            // SAFETY: the consumer has left it (seen with Acquire), and this takes it out: it is the producer's alone.
            let lap = unsafe { &mut segment.as_mut().lap };
            *lap = lap.wrapping_add(1);
            if *lap != 0 {
                return Some(segment);
            }
            // All laps are used up: what stands in the slots could be taken for new.
            // SAFETY: made by `Segment::new`, the producer's alone.
            drop(unsafe { Box::from_raw(segment.as_ptr()) });
        }
        None
    }
}

impl Small {
    #[inline]
    fn inline(bytes: &[u8]) -> Self {
        let mut inline = [MaybeUninit::uninit(); INLINE_BYTES];
        if let Ok(word) = <[u8; 8]>::try_from(bytes)
            && let Some(first) = inline.first_chunk_mut()
        {
            *first = word.map(MaybeUninit::new);
        } else {
            for (to, from) in inline.iter_mut().zip(bytes) {
                to.write(*from);
            }
        }
        Self::Inline(bytes.len() as u8, inline)
    }
}

/// The consumer's end.
pub(super) struct Receiver(Arc<Shared>);

impl Receiver {
    /// What the next message is matched by, if there is one.
    #[inline]
    pub(super) fn peek(&mut self) -> Option<Key> {
        loop {
            let next = self.0.place.0.with(|place| {
                // SAFETY: this is the lane's only consumer; the segment at its place is alive.
                let place = unsafe { *place };
                // SAFETY: as above.
                let segment = unsafe { place.segment.as_ref() };
                let slot = &segment.slots[place.slot];
                if slot.lap.load(Ordering::Acquire) != segment.lap {
                    return Some(None);
                }
                slot.head.with(|head| {
                    // SAFETY: the lap was seen with Acquire, so the contents are there and the producer is done with them.
                    match unsafe { (*head).assume_init_ref() } {
                        Head::Message { key, .. } => Some(Some(*key)),
                        Head::Next(_) => None,
                    }
                })
            });
            match next {
                Some(key) => return key,
                None => self.follow(),
            }
        }
    }

    /// Takes the message that `peek` has found.
    #[inline]
    pub(super) fn take(&mut self) -> Option<Parcel<'_>> {
        let (segment, head) = self.0.place.0.with_mut(|place| {
            // SAFETY: this is the lane's only consumer.
            let place = unsafe { &mut *place };
            // SAFETY: as above, the segment at its place is alive, and the place moves on when the contents are taken.
            let head = unsafe { place.published() };
            place.slot += usize::from(head.is_some());
            (place.segment, head)
        });
        let Head::Message { signature, at, body, .. } = head? else { return None };
        let label = Label { signature, step: None };
        Some(match body {
            Small::Inline(bytes, inline) => Parcel { label, at, body: Body::Inline(bytes, inline) },
            Small::Lent(loan) => Parcel { label: *loan.label(), at, body: Body::Lent(loan) },
            Small::Lines { first, bytes, step } => {
                // SAFETY: the segment is given back by `follow` only, which the parcel's borrow of `self` excludes.
                let segment = unsafe { segment.as_ref() };
                let (mut lines, bytes) = (&segment.lines[first as usize..], bytes as usize);
                let mut label = label;
                if let (true, [line, behind @ ..]) = (step, lines) {
                    // SAFETY: the producer has written a call here before it published the slot.
                    let call = line.0.with(|line| unsafe { line.cast::<Call>().read() });
                    label.step = Some(Step { call });
                    lines = behind;
                }
                // SAFETY: the producer has written so many bytes into these lines before it published the slot, and
                // writes none of them before the segment is given back.
                unsafe { Parcel::in_lines(label, at, lines, bytes) }
            }
        })
    }

    /// Goes on to the next segment, which `peek` has seen, and gives the old one back.
    #[cold]
    fn follow(&mut self) {
        let left = self.0.place.0.with_mut(|place| {
            // SAFETY: this is the lane's only consumer.
            let place = unsafe { &mut *place };
            // SAFETY: as above; the place moves on.
            let Some(Head::Next(segment)) = (unsafe { place.published() }) else { return None };
            Some(std::mem::replace(place, Place { segment, slot: 0 }).segment)
        });
        let Some(left) = left else { return };
        let Returned { spares, finished } = &self.0.returned.0;
        finished.store(finished.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        // SAFETY: the producer has left it, so it is this end's alone.
        let is_full = unsafe { left.as_ref() }.slots.len() == FULL.0;
        let is_free = |spare: &&AtomicPtr<Segment>| spare.load(Ordering::Relaxed).is_null();
        match spares.iter().find(is_free).filter(|_| is_full) {
            Some(spare) => spare.store(left.as_ptr(), Ordering::Release),
            // SAFETY: made by `Segment::new`, this end's alone.
            None => drop(unsafe { Box::from_raw(left.as_ptr()) }),
        }
    }
}
