//! Shared-memory collectives: slots with sequence numbers, and pins against revocation, as hazard
//! pointers are.
//!
//! The native calls of a communicator are counted; the count is the call's *epoch*. In each epoch
//! every rank publishes one slot of its own: what it calls, and its bytes, either in the slot
//! itself or lent where they are. Others read the slot once its `epoch` says so, and say in `done`
//! when they will not look any more. A slot is filled again [`DEPTH`] epochs later; every half of
//! that a rank makes sure that all others are done with the half before.
//!
//! A rank that has lent memory leaves when its readers are done. If it must leave earlier (the job
//! has failed, ranks do not make the same call, an operator panics), it revokes the loan:
//!
//! 1. a reader *pins* the epoch before it touches what others have lent, then looks for a
//!    revocation;
//! 2. an owner *revokes* first, then looks for pins, and waits for the copies that are being made.
//!
//! Between the two steps of both stands a fence: either the reader sees the revocation and keeps
//! away, or the owner sees the pin. Nobody waits for another rank while it has a pin.
//!
//! Waiting is looking at the other's slot for a while, then [parking](super::parking). Who parks
//! says for what, counts itself among the sleepers and looks again; who has changed something looks
//! for sleepers after that.

mod epoch;

use std::mem::MaybeUninit;
#[cfg(not(loom))]
use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ops::Deref,
    ptr::NonNull,
};

pub(super) use self::epoch::{CollCall, EpochGuard, Member, Payload, Pinned, Readers, Room, enter};
use super::sync::{AtomicU64, Ordering, UnsafeCell};
use crate::engine::{CollectiveKind, Label};

/// The slots of each rank.
const DEPTH: u64 = if cfg!(loom) { 2 } else { 8 };
const HALF: u64 = DEPTH / 2;

/// Up to so many bytes are published in the slot itself where ranks outnumber cores: its owner need
/// not wait for its readers then.
const SLOT_BYTES: usize = if cfg!(loom) { 32 } else { 8 * 1024 };

/// As [`SLOT_BYTES`], where there is a core for every rank: then readers are soon done, and a copy
/// costs more than they. In a call with a root only one rank lends, or waits; this is what the
/// slot's first two lines hold.
const COPIED_BYTES: usize = if cfg!(loom) { 32 } else { 88 };

/// As [`COPIED_BYTES`], in a call where every rank lends and waits for the others.
const MUTUAL_BYTES: usize = if cfg!(loom) { 32 } else { 192 };

/// Said instead of a length where ranks have different ones.
pub(super) const EACH: usize = (1 << 56) - 1;

/// What the ranks of a communicator share.
pub(super) struct CollSlots {
    /// World ranks.
    ranks: Box<[usize]>,
    /// [`DEPTH`] of each rank.
    slots: Slots,
    /// What is called in the slot of the same number, in full.
    words: Box<[Padded<Words>]>,
    places: Box<[Place]>,
    /// How many ranks are parked for something in these slots.
    sleepers: Padded<AtomicU64>,
    /// Where ranks outnumber cores, so that only the last to come wakes those who wait for all.
    tallies: Option<Box<[Padded<Tally>]>>,
}

/// A value on cache lines of its own (processors fetch them in pairs).
#[repr(align(128))]
struct Padded<T>(T);

/// A call in full: looked at only to explain a disagreement.
struct Words {
    /// The epoch in which it was written last.
    epoch: AtomicU64,
    said: UnsafeCell<MaybeUninit<Said>>,
}

/// How many ranks have filled, and have been done with, the slots of one number so far.
struct Tally {
    filled: AtomicU64,
    done: AtomicU64,
}

#[repr(C, align(128))]
struct CollSlot {
    /// The epoch in which it was filled last.
    epoch: AtomicU64,
    published: UnsafeCell<Published>,
}

/// What a rank publishes in one epoch. All bytes zero is a value.
#[repr(C)]
struct Published {
    digest: Digest,
    /// The length of the rows in bytes, times four, and two flags.
    form: u64,
    body: Body,
}

const LENT: u64 = 1;
const TABLE: u64 = 2;

#[repr(C)]
union Body {
    /// A table of starts, if the flag says so, then the rows.
    inline: [MaybeUninit<u8>; SLOT_BYTES],
    lent: Lent,
}

/// Memory of a rank that others may reach while they hold a pin.
#[derive(Clone, Copy)]
#[repr(C)]
struct Lent {
    rows: *const u8,
    room: *mut u8,
    starts: *const usize,
}

/// A call in a few words. Different calls have different digests; equal calls have equal ones, as
/// long as the compiler keeps the name of the operation in one place.
///
/// Sequence number and root share a word, so do kind and length. Names and types are constants of the program,
/// told apart by where they lie in it, half a word each: a program is smaller than 4 GiB (else it
/// could not call its own functions).
#[derive(Clone, Copy)]
#[repr(C)]
struct Digest([u64; 3]);

impl PartialEq for Digest {
    /// Word by word: compared as arrays, one that was just made would first go through memory.
    #[inline(always)]
    fn eq(&self, Self(theirs): &Self) -> bool {
        let Self(mine) = self;
        (mine[0] ^ theirs[0]) | (mine[1] ^ theirs[1]) | (mine[2] ^ theirs[2]) == 0
    }
}

/// A call in full.
#[derive(Clone, Copy)]
pub(super) struct Said {
    pub(super) label: Label,
    pub(super) seq: u64,
    pub(super) kind: CollectiveKind,
    /// What all ranks say alike.
    pub(super) bytes: usize,
}

/// What a rank lets the others know besides its slots.
struct Place {
    /// The last epoch that this rank is done with.
    done: Padded<AtomicU64>,
    /// The round of the barrier that it has reached: epoch times 64, and the round.
    round: Padded<AtomicU64>,
    /// The epoch in which it touches what others have lent, or 0.
    pinned: Padded<AtomicU64>,
    /// What it sleeps for.
    want: Padded<AtomicU64>,
    rare: Padded<Rare>,
}

/// What hardly ever changes.
struct Rare {
    /// In this epoch and before, nobody may touch what this rank has lent.
    revoked: AtomicU64,
    /// By slot: the epoch in which this rank could not do its share of the work.
    broken: [AtomicU64; DEPTH as usize],
}

// SAFETY: slots and words are written by their rank before it sets their `epoch` (Release), read by
// others after they have seen that (Acquire) and before they set `done` (Release), and written
// again after all `done` have been seen (Acquire). Pointers in a slot are followed only with a pin.
unsafe impl Send for CollSlots {}
// SAFETY: as above.
unsafe impl Sync for CollSlots {}

impl CollSlots {
    /// For the ranks of these numbers in the world; `oversubscribed` if ranks outnumber cores.
    pub(super) fn new(ranks: &[usize], oversubscribed: bool) -> Self {
        let slots = ranks.len() * DEPTH as usize;
        let words =
            || Words { epoch: AtomicU64::new(0), said: UnsafeCell::new(MaybeUninit::uninit()) };
        let tally = || Padded(Tally { filled: AtomicU64::new(0), done: AtomicU64::new(0) });
        Self {
            ranks: ranks.into(),
            slots: empty_slots(slots),
            words: (0..slots).map(|_| Padded(words())).collect(),
            places: ranks.iter().map(|_| Place::new()).collect(),
            sleepers: Padded(AtomicU64::new(0)),
            tallies: oversubscribed.then(|| (0..DEPTH).map(|_| tally()).collect()),
        }
    }

    fn slot_of(rank: usize, epoch: u64) -> usize {
        rank * DEPTH as usize + (epoch % DEPTH) as usize
    }

    fn has_filled(&self, rank: usize, epoch: u64) -> bool {
        self.slots[Self::slot_of(rank, epoch)].epoch.load(Ordering::Acquire) >= epoch
    }

    fn is_done(&self, rank: usize, epoch: u64) -> bool {
        self.places[rank].done.0.load(Ordering::Acquire) >= epoch
    }

    fn all(&self, mut holds: impl FnMut(usize) -> bool) -> bool {
        (0..self.ranks.len()).all(&mut holds)
    }
}

/// Slots of all ranks, filled in no epoch at first. Memory that is never used stays untouched: a
/// communicator that makes one call needs one slot of each rank.
///
/// The allocator gives zeroed memory untouched only where it need not align it, so that is done
/// here.
#[cfg(not(loom))]
struct Slots {
    first: NonNull<CollSlot>,
    count: usize,
    memory: NonNull<u8>,
    layout: Layout,
}

#[cfg(not(loom))]
impl Slots {
    fn new(count: usize) -> Self {
        let slots = Layout::array::<CollSlot>(count).expect("slots fit into the address space");
        let layout = Layout::array::<u8>(slots.size() + slots.align())
            .expect("slots fit into the address space");
        // SAFETY: the layout's size is not zero.
        let Some(memory) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
            handle_alloc_error(layout);
        };
        let shift = memory.align_offset(slots.align());
        // SAFETY: less than the alignment, which the memory has beyond the slots.
        let first = unsafe { memory.add(shift) }.cast();
        Self { first, count, memory, layout }
    }
}

#[cfg(not(loom))]
impl Deref for Slots {
    type Target = [CollSlot];

    fn deref(&self) -> &[CollSlot] {
        // SAFETY: so many slots lie there, aligned, as long as `self` lives; all bytes zero is a
        // value of every field: integers, null pointers, uninitialised bytes. What changes in them
        // is in cells.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

#[cfg(not(loom))]
impl Drop for Slots {
    fn drop(&mut self) {
        const { assert!(!std::mem::needs_drop::<CollSlot>(), "slots own nothing") }
        // SAFETY: allocated with this layout, freed once.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) };
    }
}

#[cfg(loom)]
type Slots = Box<[CollSlot]>;

#[cfg(not(loom))]
fn empty_slots(count: usize) -> Slots {
    Slots::new(count)
}

#[cfg(loom)]
fn empty_slots(count: usize) -> Box<[CollSlot]> {
    let published = || Published {
        digest: Digest([0; 3]),
        form: 0,
        body: Body { inline: [MaybeUninit::uninit(); SLOT_BYTES] },
    };
    let slot = || CollSlot { epoch: AtomicU64::new(0), published: UnsafeCell::new(published()) };
    (0..count).map(|_| slot()).collect()
}

impl Place {
    fn new() -> Self {
        let word = |value| Padded(AtomicU64::new(value));
        let rare =
            Rare { revoked: AtomicU64::new(0), broken: std::array::from_fn(|_| AtomicU64::new(0)) };
        Self {
            done: word(DEPTH - 1),
            round: word(0),
            pinned: word(0),
            want: word(0),
            rare: Padded(rare),
        }
    }
}

/// What a rank sleeps for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    /// That all have filled their slots.
    AllFilled,
    /// That all are done.
    AllDone,
    /// That one has filled its slot, or has reached the next round.
    Filled(usize),
    /// That one is done.
    Done(usize),
    /// That anything happens.
    Anything,
}

impl Want {
    /// Not zero, which is nothing.
    fn word(self) -> u64 {
        match self {
            Self::AllFilled => 1,
            Self::AllDone => 2,
            Self::Anything => 3,
            Self::Filled(rank) => 4 + 2 * rank as u64,
            Self::Done(rank) => 5 + 2 * rank as u64,
        }
    }
}

impl Said {
    fn describe(&self, in_turn: bool) -> String {
        let elements = self.bytes / self.label.signature.size();
        let Some(step) = self.label.step else { return format!("{elements} elements") };
        let (call, at) = (step.call, step.call.at);
        if in_turn {
            let number = self.seq + 1;
            return format!("{call} as collective call {number} ({}:{})", at.file(), at.line());
        }
        if self.bytes == EACH {
            return format!("{call} with lengths for each rank ({}:{})", at.file(), at.line());
        }
        format!("{call} with {elements} elements ({}:{})", at.file(), at.line())
    }
}
