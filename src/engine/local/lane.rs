//! A lane: an unbounded queue with a single producer and a single consumer (SPSC), for the messages
//! of one rank to another.
//!
//! A lane is a chain of segments. A segment has *slots* of 64 bytes, one for each message, and
//! *lines* of 64 bytes for what does not fit into a slot. The producer fills a slot and then
//! publishes it with the segment's *lap*, the number of times that the segment has been used: the
//! consumer knows a new message by one load of the cache line that also carries it. The last slot
//! in use says which segment comes next. From then on the old one is the consumer's alone, which
//! gives it back to be used again. So neither side ever waits for the other, and in steady use
//! nothing is allocated.
//!
//! The first segment is small: a thousand ranks that say a few words to each other need little
//! memory.

mod slot;

use std::{mem::ManuallyDrop, panic::Location, ptr::NonNull, sync::Arc};

use self::slot::{Address, Kind, LINE_BYTES, Line, Slot, Small, Within, copy_few, loan_of};
pub(super) use self::slot::{INLINE_BYTES, InLane};
use super::{
    rendezvous::{Body, Loan, Parcel},
    sync::{AtomicPtr, AtomicU32, Ordering, UnsafeCell},
};
use crate::{
    engine::{
        Label, Step,
        matching::{Key, Space},
    },
    error::Call,
};

/// Messages up to this size are copied into the lane.
pub(super) const EAGER_BYTES: usize = if cfg!(loom) { 4 } else { 1024 };

/// Slots and lines of a lane's first segment.
const FIRST: (usize, usize) = if cfg!(loom) { (2, 2) } else { (8, 32) };
/// Slots and lines of the others.
const FULL: (usize, usize) = if cfg!(loom) { (2, 2) } else { (64, 512) };
const _: () = assert!(EAGER_BYTES.div_ceil(LINE_BYTES) < FIRST.1, "any message fits, with a call");

/// So many segments wait at most to be used again.
const SPARES: usize = if cfg!(loom) { 1 } else { 4 };

/// A lane with so many segments of messages that nobody has taken is long: its sender had better
/// wait.
const LONG: u32 = 2048;

/// Both sides read it with every message: on cache lines of its own.
#[repr(align(128))]
struct Segment {
    /// The number of times that it has been used; never 0, which stands in a slot that was never
    /// used.
    lap: u32,
    slots: Box<[Slot]>,
    lines: Box<[Line]>,
}

impl Segment {
    fn new((slots, lines): (usize, usize)) -> NonNull<Self> {
        let segment = Self {
            lap: 1,
            slots: (0..slots).map(|_| Slot::new()).collect(),
            lines: (0..lines).map(|_| Line::new()).collect(),
        };
        NonNull::from(Box::leak(Box::new(segment)))
    }
}

/// What the two ends of a lane share. The last of them to go frees the segments.
struct Shared {
    /// The consumer's place, left here when its end goes. Reached by that, and by whoever drops the
    /// last end.
    place: UnsafeCell<Place>,
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

/// Where the consumer looks for the next message.
#[derive(Clone, Copy)]
struct Place {
    segment: NonNull<Segment>,
    /// A slot of the segment: there is one behind every message, as the last in use says where to
    /// go on.
    slot: NonNull<Slot>,
    /// The segment's.
    lap: u32,
}

// SAFETY: `place` is reached by one thread at a time (see there). A segment is reached by the
// producer up to the slot in which it names the next one, and by the consumer, each slot and line
// in turn: first the one, then, by way of the slot's lap (Release, Acquire), the other. What a slot
// holds is `Send`: bytes, references to statics, `Arc<Loan>`.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut place = self.place.with(|place| {
            // SAFETY: both ends are gone.
            unsafe { *place }
        });
        // SAFETY: the segments from the consumer's place on belong to the lane; both ends are gone.
        while let Some(slot) = unsafe { place.published() } {
            // SAFETY: the slot is published, and its contents have not been taken before.
            let next = unsafe {
                slot.look(|head| {
                    if (*head).kind == Kind::Lent {
                        drop(loan_of(head));
                    }
                    ((*head).kind == Kind::Next).then(|| (*head).body.next)
                })
            };
            match next {
                // SAFETY: the slot is that of a message.
                None => unsafe { place.go_on() },
                Some(next) => {
                    // SAFETY: made by `Segment::new`, and left by both ends.
                    drop(unsafe { Box::from_raw(place.segment.as_ptr()) });
                    place = Place::first_of(next);
                }
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
    /// The first slot of a segment that the producer has begun.
    fn first_of(segment: NonNull<Segment>) -> Self {
        // SAFETY: a segment of the lane, alive; nobody changes slots and lap before the consumer
        // has left it.
        let Segment { lap, slots, .. } = unsafe { segment.as_ref() };
        Self { segment, slot: NonNull::from(&**slots).cast(), lap: *lap }
    }

    /// Goes on to the slot behind a message.
    ///
    /// # Safety
    /// The slot is that of a message.
    #[inline]
    unsafe fn go_on(&mut self) {
        // SAFETY: there is a slot behind it, by this function's own contract.
        self.slot = unsafe { self.slot.add(1) };
    }

    /// The slot, if it has been published.
    ///
    /// # Safety
    /// The segment is alive during `'a`.
    #[inline]
    unsafe fn published<'a>(&self) -> Option<&'a Slot> {
        // SAFETY: by this function's own contract.
        let slot = unsafe { self.slot.as_ref() };
        (slot.lap.load(Ordering::Acquire) == self.lap).then_some(slot)
    }
}

/// Opens a lane.
pub(super) fn open() -> (Sender, Receiver) {
    let segment = Segment::new(FIRST);
    let place = Place::first_of(segment);
    let shared = Arc::new(Shared {
        place: UnsafeCell::new(place),
        returned: Apart(Returned {
            spares: std::array::from_fn(|_| AtomicPtr::new(std::ptr::null_mut())),
            finished: AtomicU32::new(0),
        }),
    });
    let ours = Arc::clone(&shared);
    (
        Sender { shared: ours, segment, slot: 0, line: 0, begun: 0, finished: 0 },
        Receiver { shared, place },
    )
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
        let address = Address { key, signature: label.signature, at };
        let len = bytes.len() as u16;
        if label.step.is_none() && bytes.len() <= INLINE_BYTES {
            let (segment, _) = self.reserve(0);
            return self.publish(segment, |slot| {
                // SAFETY: the slot is the producer's; it has room for so many bytes.
                unsafe {
                    slot.fill(Kind::Inline, len, Some(&address), |body| {
                        copy_few(bytes.as_ptr(), body.cast(), bytes.len());
                    });
                }
            });
        }
        let step = label.step;
        let lines = usize::from(step.is_some()) + bytes.len().div_ceil(LINE_BYTES);
        let (segment, first) = self.reserve(lines);
        let mut rest = &segment.lines[first..first + lines];
        if let (Some(Step { call }), [line, behind @ ..]) = (step, rest) {
            // SAFETY: (1) lines are handed out once in each lap, so this one is the producer's
            // until the slot is published; (2) a line has room for a call and is aligned for it, by
            // the assertion above.
            line.0.with_mut(|line| unsafe { line.cast::<Call>().write(call) });
            rest = behind;
        }
        // SAFETY: as (1) above; there are as many lines as the bytes need.
        unsafe { Line::write(rest, bytes) };
        self.line += lines;
        self.publish(segment, |slot| {
            let write = |body: *mut Small| {
                // SAFETY: the slot is the producer's.
                unsafe { (&raw mut (*body).first).write(first as u32) };
            };
            // SAFETY: as above.
            unsafe { slot.fill(Kind::Lines, len, Some(&address), write) };
        });
    }

    /// Sends the news of a buffer that is lent to the receiver.
    pub(super) fn lend(&mut self, key: Key, loan: Arc<Loan>) {
        let address = Address { key, signature: loan.label().signature, at: loan.at() };
        let (segment, _) = self.reserve(0);
        self.publish(segment, |slot| {
            let write = |body: *mut Small| {
                // SAFETY: the slot is the producer's.
                unsafe { (&raw mut (*body).loan).write(ManuallyDrop::new(loan)) };
            };
            // SAFETY: as above.
            unsafe { slot.fill(Kind::Lent, 0, Some(&address), write) };
        });
    }

    /// A segment with a free slot and so many free lines, and the first of those.
    #[inline]
    fn reserve<'s>(&mut self, lines: usize) -> (&'s Segment, usize) {
        // SAFETY: (1) the segment is the lane's; it is not freed or used again before its next one
        // has been named.
        let segment = unsafe { self.segment.as_ref() };
        if self.slot + 1 < segment.slots.len() && self.line + lines <= segment.lines.len() {
            return (segment, self.line);
        }
        self.go_on(segment);
        // SAFETY: as (1) above.
        (unsafe { self.segment.as_ref() }, self.line)
    }

    /// Lets `fill` fill the next slot, and publishes it.
    #[inline]
    fn publish(&mut self, segment: &Segment, fill: impl FnOnce(&Slot)) {
        // Slots are filled in turn, once in each lap, so that this one is the producer's until it
        // is published.
        let slot = &segment.slots[self.slot];
        self.slot += 1;
        fill(slot);
        slot.lap.store(segment.lap, Ordering::Release);
    }

    /// Goes on to the next segment.
    #[cold]
    fn go_on(&mut self, segment: &Segment) {
        let next = self.spare().unwrap_or_else(|| Segment::new(FULL));
        // From here on the old segment is the consumer's.
        self.publish(segment, |slot| {
            let write = |body: *mut Small| {
                // SAFETY: the slot is the producer's.
                unsafe { (&raw mut (*body).next).write(next) };
            };
            // SAFETY: as above.
            unsafe { slot.fill(Kind::Next, 0, None, write) };
        });
        (self.segment, self.slot, self.line) = (next, 0, 0);
        self.begun = self.begun.wrapping_add(1);
    }

    /// A segment that the consumer has given back, ready for its next lap.
    fn spare(&self) -> Option<NonNull<Segment>> {
        for spare in &self.shared.returned.0.spares {
            let Some(mut segment) = NonNull::new(spare.load(Ordering::Acquire)) else { continue };
            spare.store(std::ptr::null_mut(), Ordering::Relaxed);
            // SAFETY: the consumer has left it (seen with Acquire), and this takes it out: it is
            // the producer's alone.
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

/// The consumer's end.
pub(super) struct Receiver {
    shared: Arc<Shared>,
    place: Place,
}

// SAFETY: see `Shared`; the segment is the lane's, which `shared` keeps alive.
unsafe impl Send for Receiver {}

impl Drop for Receiver {
    fn drop(&mut self) {
        // SAFETY: this is the lane's only consumer; whoever drops the lane comes after it.
        self.shared.place.with_mut(|place| unsafe { *place = self.place });
    }
}

impl Receiver {
    /// Whether a message may be there: looks at the slot alone.
    #[inline]
    pub(super) fn has_message(&self) -> bool {
        // SAFETY: the segment at the consumer's place is alive.
        unsafe { self.place.published() }.is_some()
    }

    /// What the next message is matched by, if there is one.
    #[inline]
    pub(super) fn peek(&mut self) -> Option<Key> {
        // SAFETY: the segment at the consumer's place is alive.
        let slot = unsafe { self.place.published() }?;
        self.key_of(slot)
    }

    #[inline]
    fn key_of(&mut self, mut slot: &Slot) -> Option<Key> {
        loop {
            // SAFETY: the slot is published and has not been left; a message has these fields.
            let key = unsafe {
                slot.look(|head| {
                    ((*head).kind != Kind::Next).then(|| Key {
                        space: Space { context: (*head).context, step: (*head).step },
                        source: (*head).source,
                        tag: (*head).tag,
                    })
                })
            };
            if key.is_some() {
                return key;
            }
            self.follow();
            // SAFETY: the segment at the consumer's place is alive.
            slot = unsafe { self.place.published() }?;
        }
    }

    /// Takes the message that `peek` has found.
    #[inline]
    pub(super) fn take(&mut self) -> Option<Parcel<'_>> {
        // SAFETY: (1) the segment at the consumer's place is alive; it is given back by `follow`
        // only, which the parcel's borrow of `self` excludes.
        let slot = unsafe { self.place.published() }?;
        // SAFETY: the slot is published and has not been left, and its contents are taken once.
        let (label, at, body) = unsafe {
            slot.look(|head| {
                let label = Label { signature: (*head).signature, step: None };
                let body = match (*head).kind {
                    Kind::Inline => Found::Inline,
                    Kind::Lines => Found::Lines((*head).body.first as usize, (*head).step),
                    Kind::Lent => Found::Lent(loan_of(head)),
                    Kind::Next => return None,
                };
                Some((label, (*head).at, (body, usize::from((*head).bytes))))
            })
        }?;
        // SAFETY: the slot is that of a message.
        unsafe { self.place.go_on() };
        Some(match body {
            (Found::Inline, bytes) => {
                let body = Body::InLane(InLane { place: Within::Slot(slot), bytes });
                Parcel { label, at, body }
            }
            (Found::Lent(loan), _) => Parcel { label: *loan.label(), at, body: Body::Lent(loan) },
            (Found::Lines(first, step), bytes) => {
                // SAFETY: as (1).
                let segment = unsafe { self.place.segment.as_ref() };
                let (mut lines, mut label) = (&segment.lines[first..], label);
                if let (true, [line, behind @ ..]) = (step, lines) {
                    // SAFETY: the producer has written a call here before it published the slot.
                    let call = line.0.with(|line| unsafe { line.cast::<Call>().read() });
                    label.step = Some(Step { call });
                    lines = behind;
                }
                let body = Body::InLane(InLane { place: Within::Lines(lines), bytes });
                Parcel { label, at, body }
            }
        })
    }

    /// Goes on to the next segment, which `peek` has seen, and gives the old one back.
    #[cold]
    fn follow(&mut self) {
        // SAFETY: the segment at the consumer's place is alive, and the slot has been published.
        let next = unsafe {
            let Some(slot) = self.place.published() else { return };
            slot.look(|head| ((*head).kind == Kind::Next).then(|| (*head).body.next))
        };
        let Some(next) = next else { return };
        let left = std::mem::replace(&mut self.place, Place::first_of(next)).segment;
        let Returned { spares, finished } = &self.shared.returned.0;
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

/// Where the body of a message has been found.
enum Found {
    Inline,
    /// From this line on; the first holds a call, if so.
    Lines(usize, bool),
    Lent(Arc<Loan>),
}
