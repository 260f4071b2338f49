//! The stage of a communicator: where its ranks show each other what they bring to a collective call.
//!
//! The native calls of a communicator are counted; the count is the call's *epoch*. In each epoch every rank fills one
//! slot of its own: what it calls, and its bytes, either in the slot itself or lent where they are. Others read the slot
//! once its `epoch` says so, and say in `done` when they will not look any more. A slot is filled again [`DEPTH`] epochs
//! later; every half of that a rank makes sure that all others are done with the half before.
//!
//! A rank that has lent memory leaves when its readers are done. If it must leave earlier (the job has failed, ranks do
//! not make the same call, an operator panics), it withdraws: a reader *claims* the epoch before it touches what others
//! have lent and looks for a withdrawal after that; a rank that withdraws says so first and looks for claims after that.
//! So either the reader sees the withdrawal and keeps away, or the owner sees the claim and waits for the copy that is
//! being made at this moment. Nobody waits for another rank while it has a claim.
//!
//! Waiting is looking at the other's slot for a while, then sleeping in the [hall](super::hall). Who goes there says what for,
//! counts itself among the sleepers and looks again; who has changed something looks for sleepers after that.

use std::{cell::Cell, mem::MaybeUninit, sync::Arc};

use super::{
    LocalEngine, Members,
    hall::Hall,
    sync::{AtomicU64, Ordering, UnsafeCell, fence, yield_now},
};
use crate::{
    engine::{Label, Rank},
    error::{Call, ErrorKind},
};

/// The slots of each rank.
const DEPTH: u64 = if cfg!(loom) { 2 } else { 8 };
const HALF: u64 = DEPTH / 2;

/// Up to so many bytes are shown in the slot itself.
pub(super) const INLINE_BYTES: usize = if cfg!(loom) { 32 } else { 8 * 1024 };

/// Said instead of a length where ranks have different ones.
pub(super) const EACH: usize = (1 << 56) - 1;

/// What the ranks of a communicator share.
pub(super) struct Stage {
    /// World ranks.
    ranks: Box<[usize]>,
    /// [`DEPTH`] of each rank.
    slots: Box<[Slot]>,
    /// What is called in the slot of the same number, in full: looked at only to explain a disagreement.
    said: Box<[Line<UnsafeCell<MaybeUninit<Said>>>]>,
    places: Box<[Place]>,
    /// How many ranks sleep in the hall for something on this stage.
    sleepers: Line<AtomicU64>,
    /// Where ranks outnumber cores, so that only the last to come wakes those who wait for all.
    tallies: Option<Box<[Line<Tally>]>>,
}

/// A value on cache lines of its own (processors fetch them in pairs).
#[repr(align(128))]
struct Line<T>(T);

/// How many ranks have filled, and have been done with, the slots of one number so far.
struct Tally {
    filled: AtomicU64,
    done: AtomicU64,
}

#[repr(C, align(128))]
struct Slot {
    /// The epoch in which it was filled last.
    epoch: AtomicU64,
    shown: UnsafeCell<Shown>,
}

/// What a rank shows in one epoch. All bytes zero is a value.
#[repr(C)]
struct Shown {
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
    inline: [MaybeUninit<u8>; INLINE_BYTES],
    lent: Loan,
}

/// Memory of a rank that others may reach while they have a claim.
#[derive(Clone, Copy)]
#[repr(C)]
struct Loan {
    rows: *const u8,
    room: *mut u8,
    starts: *const usize,
}

/// A call in a few words. Different calls have different digests; equal calls have equal ones, as long as the compiler keeps
/// the name of the operation in one place.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Digest([u64; 3]);

/// A call in full.
#[derive(Clone, Copy)]
struct Said {
    label: Label,
    turn: u64,
    kind: u8,
    bytes: usize,
}

/// What a rank lets the others know besides its slots.
struct Place {
    /// The last epoch that this rank is done with.
    done: Line<AtomicU64>,
    /// The round of the barrier that it has reached: epoch times 64, and the round.
    round: Line<AtomicU64>,
    /// The epoch in which it touches what others have lent, or 0.
    claim: Line<AtomicU64>,
    /// What it sleeps for.
    want: Line<AtomicU64>,
    rare: Line<Rare>,
}

/// What hardly ever changes.
struct Rare {
    /// In this epoch and before, nobody may touch what this rank has lent.
    withdrawn: AtomicU64,
    /// By slot: the epoch in which this rank could not do its share of the work.
    broken: [AtomicU64; DEPTH as usize],
}

// SAFETY: slots and their labels are written by their rank before it sets `epoch` (Release), read by others after they have
// seen that (Acquire) and before they set `done` (Release), and written again after all `done` have been seen (Acquire).
// Pointers in a slot are followed only with a claim.
unsafe impl Send for Stage {}
// SAFETY: as above.
unsafe impl Sync for Stage {}

impl Stage {
    /// For the ranks of these numbers in the world; `crowded` if ranks outnumber cores.
    pub(super) fn new(ranks: &[usize], crowded: bool) -> Self {
        let slots = ranks.len() * DEPTH as usize;
        let label = || Line(UnsafeCell::new(MaybeUninit::uninit()));
        let tally = || Line(Tally { filled: AtomicU64::new(0), done: AtomicU64::new(0) });
        Self {
            ranks: ranks.into(),
            slots: empty_slots(slots),
            said: (0..slots).map(|_| label()).collect(),
            places: ranks.iter().map(|_| Place::new()).collect(),
            sleepers: Line(AtomicU64::new(0)),
            tallies: crowded.then(|| (0..DEPTH).map(|_| tally()).collect()),
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

/// Slots that were filled in no epoch. Memory that is never used stays untouched.
#[cfg(not(loom))]
fn empty_slots(count: usize) -> Box<[Slot]> {
    use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};

    let layout = Layout::array::<Slot>(count).expect("slots fit into the address space");
    if layout.size() == 0 {
        return Box::new([]);
    }
    // SAFETY: the layout's size is not zero.
    let start = unsafe { alloc_zeroed(layout) };
    if start.is_null() {
        handle_alloc_error(layout);
    }
    #[allow(clippy::cast_ptr_alignment, reason = "allocated with the alignment of `Slot`")]
    // SAFETY: the memory comes from the global allocator with the layout of `[Slot; count]`, and all bytes zero is a value of
    // every field: integers, null pointers, uninitialised bytes.
    unsafe {
        Box::from_raw(std::ptr::slice_from_raw_parts_mut(start.cast::<Slot>(), count))
    }
}

#[cfg(loom)]
fn empty_slots(count: usize) -> Box<[Slot]> {
    let shown = || Shown {
        digest: Digest([0; 3]),
        form: 0,
        body: Body { inline: [MaybeUninit::uninit(); INLINE_BYTES] },
    };
    let slot = || Slot { epoch: AtomicU64::new(0), shown: UnsafeCell::new(shown()) };
    (0..count).map(|_| slot()).collect()
}

impl Place {
    fn new() -> Self {
        let word = |value| Line(AtomicU64::new(value));
        let rare = Rare {
            withdrawn: AtomicU64::new(0),
            broken: std::array::from_fn(|_| AtomicU64::new(0)),
        };
        Self {
            done: word(DEPTH - 1),
            round: word(0),
            claim: word(0),
            want: word(0),
            rare: Line(rare),
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

/// One rank's hold of a stage.
pub(super) struct Seat {
    stage: Arc<Stage>,
    me: usize,
    epoch: Cell<u64>,
    /// Whether the rank is in a call on this stage.
    busy: Cell<bool>,
}

impl Seat {
    pub(super) fn new(stage: Arc<Stage>, me: usize) -> Self {
        Self { stage, me, epoch: Cell::new(DEPTH - 1), busy: Cell::new(false) }
    }

    /// Begins a call.
    ///
    /// # Errors
    /// The verdict, if the job has failed; and a call out of the operator of another one.
    pub(super) fn enter<'a>(
        &'a self,
        engine: &'a LocalEngine,
        occasion: Occasion,
    ) -> Result<Visit<'a>, ErrorKind> {
        if self.busy.get() {
            let what = "an operator makes a collective call on the communicator that it reduces on";
            return Err(ErrorKind::InvalidArgument { what: what.to_owned() });
        }
        engine.job.hall.check()?;
        self.busy.set(true);
        let epoch = self.epoch.get() + 1;
        self.epoch.set(epoch);
        let Occasion { label, turn, kind, root, bytes } = occasion;
        let op = label.step.map_or(0, |step| step.call.op.as_ptr().addr() as u64);
        let digest = Digest([
            turn << 32 | root.map_or(0, |root| u64::from(root.0) + 1),
            u64::from(kind) << 56 | bytes as u64,
            label.signature.word() ^ op,
        ]);
        let visit = Visit {
            stage: &self.stage,
            engine,
            hall: &engine.job.hall,
            call: engine.call.get(),
            me: self.me,
            epoch,
            digest,
            said: Said { label, turn, kind, bytes },
            lends: Readers::Nobody,
            stands: Stands::Outside,
            busy: &self.busy,
        };
        if epoch.is_multiple_of(HALF) {
            let before = epoch - HALF;
            let stage = visit.stage;
            let ready = || stage.all(|rank| rank == visit.me || stage.is_done(rank, before));
            visit.wait(Want::AllDone, ready)?;
        }
        Ok(visit)
    }
}

impl Members {
    /// This rank's seat, taken by its first collective call.
    pub(super) fn seat(&self, engine: &LocalEngine) -> &Seat {
        self.seat.get_or_init(|| {
            let job = &*engine.job;
            let make = || Stage::new(&self.ranks, job.hall.is_crowded());
            let stage = job.stages.join((self.context, 0), self.ranks.len(), make);
            Seat::new(stage, self.me.index())
        })
    }
}

/// What makes two ranks' calls the same.
pub(super) struct Occasion {
    pub(super) label: Label,
    pub(super) turn: u64,
    /// What kind of collective.
    pub(super) kind: u8,
    pub(super) root: Option<Rank>,
    /// What all ranks say alike.
    pub(super) bytes: usize,
}

/// Who may touch what this rank has lent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Readers {
    Nobody,
    One(usize),
    All,
}

/// What a rank shows.
#[derive(Clone, Copy)]
pub(super) enum Shows<'r> {
    Nothing,
    Rows(&'r [u8]),
    /// Rows, and where each begins and the last ends.
    Table(&'r [u8], &'r [usize]),
    /// Memory that the others read and write, each its share.
    Shared {
        rows: *const u8,
        room: *mut u8,
        len: usize,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stands {
    /// The slot is not filled yet.
    Outside,
    Inside,
    /// What others have lent may be touched.
    Claiming,
    /// `done` is set.
    Gone,
}

/// One rank in one call.
///
/// Whatever happens, when it is dropped nobody touches what this rank has lent, and this rank touches nobody's.
pub(super) struct Visit<'a> {
    stage: &'a Stage,
    engine: &'a LocalEngine,
    hall: &'a Hall,
    call: Call,
    pub(super) me: usize,
    epoch: u64,
    digest: Digest,
    said: Said,
    lends: Readers,
    stands: Stands,
    busy: &'a Cell<bool>,
}

/// What another rank shows. Not to be used after the visit has ended or the claim has been given up.
#[derive(Clone, Copy)]
pub(super) struct Sight {
    rows: *const u8,
    len: usize,
    /// Null if there is no table.
    starts: *const usize,
    /// Where the rank wants its result; null unless it shows `Shared`.
    pub(super) room: *mut u8,
}

impl Sight {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of the rows; none if they do not lie inside.
    ///
    /// # Safety
    /// The visit that gave this sight has not ended, and holds its claim if the rows are lent.
    pub(super) unsafe fn bytes<'s>(&self, from: usize, len: usize) -> Option<&'s [u8]> {
        let inside = from.checked_add(len).is_some_and(|end| end <= self.len);
        // SAFETY: the bytes lie inside what the rank shows, which stays unchanged until the visit ends.
        inside.then(|| unsafe { std::slice::from_raw_parts(self.rows.add(from), len) })
    }

    /// The row of rank `at`: of a table, or one of so many equal parts.
    ///
    /// # Safety
    /// As [`Self::bytes`]; a table that is shown has a row for each of `size` ranks.
    pub(super) unsafe fn row_or_part<'s>(&self, at: usize, size: usize) -> Option<&'s [u8]> {
        if self.starts.is_null() {
            let part = self.len / size;
            // SAFETY: by this function's own contract.
            return unsafe { self.bytes(at * part, part) };
        }
        // SAFETY: by this function's own contract there are `size + 1` starts.
        let (from, to) = unsafe { (*self.starts.add(at), *self.starts.add(at + 1)) };
        // SAFETY: by this function's own contract.
        unsafe { self.bytes(from, to.checked_sub(from)?) }
    }
}

impl Visit<'_> {
    pub(super) fn size(&self) -> usize {
        self.stage.ranks.len()
    }

    /// Whether ranks outnumber cores.
    pub(super) fn is_crowded(&self) -> bool {
        self.stage.tallies.is_some()
    }

    /// Fills this rank's slot. `readers` may touch what does not fit into it.
    ///
    /// # Safety
    /// What is shown stays as it is, and `Shared` memory is touched by nobody who has no part in the call, until the visit
    /// has been left or dropped.
    pub(super) unsafe fn show(&mut self, shows: Shows<'_>, readers: Readers) {
        let stage = self.stage;
        let at = Stage::slot_of(self.me, self.epoch);
        let slot = &stage.slots[at];
        let (rows, len, starts, room) = match shows {
            Shows::Nothing => (std::ptr::null(), 0, &[][..], std::ptr::null_mut()),
            Shows::Rows(rows) => (rows.as_ptr(), rows.len(), &[][..], std::ptr::null_mut()),
            Shows::Table(rows, starts) => (rows.as_ptr(), rows.len(), starts, std::ptr::null_mut()),
            Shows::Shared { rows, room, len } => (rows, len, &[][..], room),
        };
        let mut form = (len as u64) << 2 | if starts.is_empty() { 0 } else { TABLE };
        let table = size_of_val(starts);
        let start = if starts.is_empty() { std::ptr::null() } else { starts.as_ptr() };
        let lends = !room.is_null() || table + len > INLINE_BYTES;
        if lends {
            form |= LENT;
            self.lends = readers;
        }
        slot.shown.with_mut(|shown| {
            // SAFETY: `enter` has seen all other ranks be done with this slot; they read it again after `epoch` is set.
            unsafe {
                (*shown).digest = self.digest;
                (*shown).form = form;
                let body = &raw mut (*shown).body;
                if lends {
                    (*body).lent = Loan { rows, room, starts: start };
                } else if table + len > 0 {
                    let inline = body.cast::<u8>();
                    inline.copy_from_nonoverlapping(start.cast(), table);
                    inline.add(table).copy_from_nonoverlapping(rows, len);
                }
            }
        });
        stage.said[at].0.with_mut(|said| {
            // SAFETY: as above.
            unsafe { (*said).write(self.said) };
        });
        self.stands = Stands::Inside;
        slot.epoch.store(self.epoch, Ordering::Release);
        let last = self.tally(|tally| &tally.filled);
        self.wake(Want::Filled(self.me), last.then_some(Want::AllFilled));
    }

    /// Counts this rank where ranks outnumber cores; whether it is the last, or nobody counts.
    fn tally(&self, count: impl FnOnce(&Tally) -> &AtomicU64) -> bool {
        let Some(tallies) = &self.stage.tallies else { return true };
        let so_far =
            count(&tallies[(self.epoch % DEPTH) as usize].0).fetch_add(1, Ordering::AcqRel);
        so_far + 1 == self.stage.ranks.len() as u64 * (self.epoch / DEPTH)
    }

    /// Wakes those who sleep for what has just happened.
    #[inline]
    fn wake(&self, happened: Want, also: Option<Want>) {
        self.hall.fences().waker();
        if self.stage.sleepers.0.load(Ordering::Acquire) > 0 {
            self.wake_sleepers(happened, also);
        }
    }

    #[cold]
    fn wake_sleepers(&self, happened: Want, also: Option<Want>) {
        let wants = [Some(happened), also, Some(Want::Anything)];
        for (place, &rank) in self.stage.places.iter().zip(&self.stage.ranks) {
            let want = place.want.0.load(Ordering::Relaxed);
            if wants.iter().flatten().any(|happened| happened.word() == want) {
                self.hall.wake(rank);
            }
        }
    }

    /// Waits until `ready`, which becomes true with what `want` says.
    fn wait(&self, want: Want, ready: impl Fn() -> bool) -> Result<(), ErrorKind> {
        if ready() { Ok(()) } else { self.wait_long(want, &ready) }
    }

    /// Meanwhile the posted receives are served.
    fn wait_long(&self, want: Want, ready: &dyn Fn() -> bool) -> Result<(), ErrorKind> {
        let around = self.engine.surroundings();
        let seen = self.hall.watch(|| {
            ready() || {
                self.engine.desk.borrow_mut().serve_posted(around);
                false
            }
        })?;
        if seen {
            return Ok(());
        }
        self.stage.places[self.me].want.0.store(want.word(), Ordering::Relaxed);
        self.stage.sleepers.0.fetch_add(1, Ordering::AcqRel);
        self.hall.fences().sleeper();
        let waited = self.engine.await_ready(&self.call, None, ready);
        self.stage.sleepers.0.fetch_sub(1, Ordering::AcqRel);
        waited.map(drop)
    }

    /// Waits until `rank` has filled its slot.
    ///
    /// # Errors
    /// [`ErrorKind::CollectiveMismatch`] if it makes another call; the verdict, if the job fails.
    pub(super) fn meet(&self, rank: usize) -> Result<(), ErrorKind> {
        let (stage, epoch) = (self.stage, self.epoch);
        self.wait(Want::Filled(rank), || stage.has_filled(rank, epoch))?;
        self.compare(rank)
    }

    /// Waits until all ranks have filled their slots; errors as [`Self::meet`].
    pub(super) fn meet_all(&self) -> Result<(), ErrorKind> {
        let (stage, epoch, me, size) = (self.stage, self.epoch, self.me, self.size());
        if self.is_crowded() {
            // Whoever disagrees may keep the others from ever coming.
            let ready = || stage.all(|rank| rank == me || stage.has_filled(rank, epoch));
            if !ready() {
                self.glance()?;
                self.wait(Want::AllFilled, ready)?;
            }
            return self.glance();
        }
        for step in 1..size {
            let rank = if me + step < size { me + step } else { me + step - size };
            self.meet(rank)?;
        }
        Ok(())
    }

    /// Compares this rank's call with those of the ranks that are there. Of two ranks that do this, one sees the other.
    pub(super) fn glance(&self) -> Result<(), ErrorKind> {
        fence(Ordering::SeqCst); // between filling the own slot and looking at the others'
        for rank in (0..self.size()).filter(|&rank| rank != self.me) {
            let epoch = &self.stage.slots[Stage::slot_of(rank, self.epoch)].epoch;
            if epoch.load(Ordering::Acquire) >= self.epoch {
                self.compare(rank)?;
            }
        }
        Ok(())
    }

    fn compare(&self, rank: usize) -> Result<(), ErrorKind> {
        let at = Stage::slot_of(rank, self.epoch);
        // SAFETY: the rank has filled the slot for this epoch, and this rank is not done with it.
        let theirs = self.stage.slots[at].shown.with(|shown| unsafe { (*shown).digest });
        if theirs == self.digest { Ok(()) } else { self.compare_in_full(rank, at) }
    }

    #[cold]
    fn compare_in_full(&self, rank: usize, at: usize) -> Result<(), ErrorKind> {
        // SAFETY: as in `compare`; the label was written before the slot's epoch was set.
        let theirs = self.stage.said[at].0.with(|said| unsafe { (*said).assume_init() });
        let mine = self.said;
        mine.label.admits(&theirs.label, Rank::from(rank))?;
        if (mine.turn, mine.kind, mine.bytes) == (theirs.turn, theirs.kind, theirs.bytes) {
            return Ok(());
        }
        Err(ErrorKind::CollectiveMismatch {
            mine: mine.describe(mine.turn != theirs.turn),
            rank,
            theirs: theirs.describe(mine.turn != theirs.turn),
        })
    }

    /// Two ranks disagree about the length of a row.
    pub(super) fn disagreement(
        &self,
        rank: usize,
        mine: usize,
        theirs: Option<usize>,
    ) -> ErrorKind {
        let at = Stage::slot_of(rank, self.epoch);
        // SAFETY: as in `compare_in_full`; lengths are compared after the slot has been met.
        let said = self.stage.said[at].0.with(|said| unsafe { (*said).assume_init() });
        ErrorKind::CollectiveMismatch {
            mine: Said { bytes: mine, ..self.said }.describe(false),
            rank,
            theirs: Said { bytes: theirs.unwrap_or(said.bytes), ..said }.describe(false),
        }
    }

    /// What `rank`, which has been met, shows.
    pub(super) fn sight(&self, rank: usize) -> Sight {
        let at = Stage::slot_of(rank, self.epoch);
        self.stage.slots[at].shown.with(|shown| {
            // SAFETY: the rank has filled the slot for this epoch, and this rank is not done with it.
            let (form, body) = unsafe { ((*shown).form, &raw const (*shown).body) };
            let len = (form >> 2) as usize;
            if form & LENT != 0 {
                // SAFETY: the form says which field was written.
                let Loan { rows, room, starts } = unsafe { (*body).lent };
                return Sight { rows, len, starts, room };
            }
            let (inline, room) = (body.cast::<u8>(), std::ptr::null_mut());
            if form & TABLE == 0 {
                return Sight { rows: inline, len, starts: std::ptr::null(), room };
            }
            // SAFETY: `show` has put the table and the rows one behind the other into the body.
            let rows = unsafe { inline.add((self.size() + 1) * size_of::<usize>()) };
            Sight { rows, len, starts: body.cast::<usize>(), room }
        })
    }

    fn is_lent(&self, rank: usize) -> bool {
        let at = Stage::slot_of(rank, self.epoch);
        // SAFETY: as in `sight`.
        self.stage.slots[at].shown.with(|shown| unsafe { (*shown).form & LENT != 0 })
    }

    /// Makes sure that this rank may touch what `ranks`, which have been met, show.
    ///
    /// # Errors
    /// Why one of them has withdrawn.
    pub(super) fn claim(
        &mut self,
        ranks: impl Iterator<Item = usize> + Clone,
    ) -> Result<(), ErrorKind> {
        if !ranks.clone().any(|rank| self.is_lent(rank)) {
            return Ok(());
        }
        self.stands = Stands::Claiming;
        self.stage.places[self.me].claim.0.store(self.epoch, Ordering::Relaxed);
        self.hall.fences().waker();
        for rank in ranks {
            if self.stage.places[rank].rare.0.withdrawn.load(Ordering::Acquire) >= self.epoch {
                return Err(self.forsaken());
            }
        }
        Ok(())
    }

    /// Gives up the claim, before this rank waits for another one.
    pub(super) fn unclaim(&mut self) {
        if self.stands == Stands::Claiming {
            self.stage.places[self.me].claim.0.store(0, Ordering::Release);
            self.stands = Stands::Inside;
        }
    }

    /// Why another rank has withdrawn or could not do its share: it has seen that ranks disagree, or the job fails.
    #[cold]
    fn forsaken(&mut self) -> ErrorKind {
        self.unclaim();
        if let Err(kind) = self.glance() {
            return kind;
        }
        self.go();
        let verdict = self.engine.await_ready(&self.call, None, || false);
        verdict.err().unwrap_or(ErrorKind::Closed)
    }

    /// Tells that this rank could not do its share of the common work.
    pub(super) fn fail(&self) {
        let broken = &self.stage.places[self.me].rare.0.broken[(self.epoch % DEPTH) as usize];
        broken.store(self.epoch, Ordering::Relaxed);
    }

    /// Reaches round `round` of a barrier, and waits until `rank` has.
    pub(super) fn round(&self, round: u64, rank: usize) -> Result<(), ErrorKind> {
        let word = self.epoch << 6 | round;
        self.stage.places[self.me].round.0.store(word, Ordering::Release);
        self.wake(Want::Filled(self.me), None);
        let theirs = &self.stage.places[rank].round.0;
        self.wait(Want::Filled(rank), || theirs.load(Ordering::Acquire) >= word)
    }

    /// Leaves when nobody needs this rank's memory any more.
    ///
    /// # Errors
    /// The verdict, if the job fails before that.
    pub(super) fn leave(mut self) -> Result<(), ErrorKind> {
        self.depart()
    }

    /// As [`Self::leave`] where every rank has done a share of this rank's result.
    ///
    /// # Errors
    /// Why a share is missing.
    pub(super) fn leave_together(mut self) -> Result<(), ErrorKind> {
        self.depart()?;
        // Whoever has left without its share has seen the end of the job, or says so.
        self.hall.check()?;
        let (slot, epoch) = ((self.epoch % DEPTH) as usize, self.epoch);
        let broken = |place: &Place| place.rare.0.broken[slot].load(Ordering::Relaxed) == epoch;
        if self.stage.places.iter().any(broken) { Err(self.forsaken()) } else { Ok(()) }
    }

    fn depart(&mut self) -> Result<(), ErrorKind> {
        self.go();
        let (stage, epoch, me) = (self.stage, self.epoch, self.me);
        let left = match self.lends {
            Readers::Nobody => Ok(()),
            Readers::One(rank) => self.wait(Want::Done(rank), || stage.is_done(rank, epoch)),
            Readers::All => self
                .wait(Want::AllDone, || stage.all(|rank| rank == me || stage.is_done(rank, epoch))),
        };
        if left.is_ok() {
            self.lends = Readers::Nobody;
        }
        left
    }

    /// Touches nothing of others from now on.
    fn go(&mut self) {
        self.unclaim();
        if self.stands == Stands::Inside {
            self.stands = Stands::Gone;
            #[cfg(loom)] // an access that goes on until here is what loom has to see
            for slot in &self.stage.slots {
                if slot.epoch.load(Ordering::Acquire) == self.epoch {
                    slot.shown.with(|_| ());
                }
            }
            self.stage.places[self.me].done.0.store(self.epoch, Ordering::Release);
            let last = self.tally(|tally| &tally.done);
            self.wake(Want::Done(self.me), last.then_some(Want::AllDone));
        }
    }

    /// Takes back what this rank has lent, and waits for those who touch it at this moment.
    #[cold]
    fn withdraw(&mut self) {
        let (stage, epoch, me) = (self.stage, self.epoch, self.me);
        stage.places[me].rare.0.withdrawn.store(epoch, Ordering::Release);
        self.hall.fences().sleeper();
        let free = || stage.all(|rank| stage.places[rank].claim.0.load(Ordering::Acquire) != epoch);
        // In the hall, as an operator may wait there for something that never comes.
        while !free() && self.wait(Want::Anything, free).is_err() {
            yield_now();
        }
        self.lends = Readers::Nobody;
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if self.stands != Stands::Gone && std::thread::panicking() {
            self.fail();
        }
        self.go();
        if self.lends != Readers::Nobody {
            self.withdraw();
        }
        self.busy.set(false);
    }
}

impl Said {
    fn describe(&self, in_turn: bool) -> String {
        let elements = self.bytes / self.label.signature.size();
        let Some(step) = self.label.step else { return format!("{elements} elements") };
        let (call, at) = (step.call, step.call.at);
        if in_turn {
            let number = self.turn + 1;
            return format!("{call} as collective call {number} ({}:{})", at.file(), at.line());
        }
        if self.bytes == EACH {
            return format!("{call} with lengths for each rank ({}:{})", at.file(), at.line());
        }
        format!("{call} with {elements} elements ({}:{})", at.file(), at.line())
    }
}
