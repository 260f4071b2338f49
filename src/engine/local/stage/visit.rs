//! One rank in one call on a stage: fills its slot, meets others, looks at theirs, and leaves.

use std::{cell::Cell, sync::Arc};

use super::{
    DEPTH, Digest, EAGER_BYTES, HALF, INLINE_BYTES, LENT, Loan, MUTUAL_BYTES, Place, Said, Stage,
    TABLE, Tally, Want,
};
use crate::{
    engine::{
        Label, Rank,
        local::{
            LocalEngine, Members,
            hall::Hall,
            sync::{AtomicU64, Ordering, fence, yield_now},
        },
    },
    error::{Call, ErrorKind, Fault},
};

/// So often a rank looks for what it waits for before it looks at anything else: what is on its way comes within 0.1 µs.
const LOOKS: u32 = if cfg!(loom) { 1 } else { 500 };

/// One rank's hold of a stage.
pub(crate) struct Seat {
    stage: Arc<Stage>,
    me: usize,
    epoch: Cell<u64>,
    /// All ranks have entered this epoch: they are done with those before.
    entered: Cell<u64>,
    /// Whether the rank is in a call on this stage.
    busy: Cell<bool>,
}

impl Seat {
    pub(crate) fn new(stage: Arc<Stage>, me: usize) -> Self {
        let (epoch, entered, busy) = (Cell::new(DEPTH - 1), Cell::new(0), Cell::new(false));
        Self { stage, me, epoch, entered, busy }
    }

    /// Whether a call can begin.
    ///
    /// # Errors
    /// The verdict, if the job has failed; and a call out of the operator of another one.
    #[inline]
    pub(crate) fn is_free(&self, engine: &LocalEngine) -> Result<(), Fault> {
        if self.busy.get() {
            let what = "an operator makes a collective call on the communicator that it reduces on";
            return Err(ErrorKind::InvalidArgument { what: what.to_owned() }.into());
        }
        engine.job.hall.check()
    }
}

impl Members {
    /// This rank's seat, taken by its first collective call.
    pub(crate) fn seat(&self, engine: &LocalEngine) -> &Seat {
        self.seat.get_or_init(|| {
            let job = &*engine.job;
            let make = || Stage::new(&self.ranks, job.hall.is_crowded());
            let stage = job.stages.join((self.context, 0), self.ranks.len(), make);
            Seat::new(stage, self.me.index())
        })
    }
}

/// What makes two ranks' calls the same.
pub(crate) struct Occasion<'a> {
    pub(crate) label: &'a Label,
    pub(crate) turn: u64,
    /// What kind of collective.
    pub(crate) kind: u8,
    /// What all ranks say alike.
    pub(crate) bytes: usize,
    pub(crate) root: Option<Rank>,
}

impl Occasion<'_> {
    #[inline(always)]
    fn digest(&self) -> Digest {
        let &Self { label, turn, kind, bytes, root } = self;
        let op = label.step.as_ref().map_or(0, |step| step.call.op.as_ptr().addr() as u32);
        Digest([
            turn << 32 | root.map_or(0, |root| u64::from(root.0) + 1),
            u64::from(kind) << 56 | bytes as u64,
            label.signature.word() << 32 | u64::from(op),
        ])
    }

    fn said(&self) -> Said {
        let &Self { label, turn, kind, bytes, .. } = self;
        Said { label: *label, turn, kind, bytes }
    }
}

/// Who may touch what this rank has lent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    Nobody,
    One(usize),
    All,
}

/// What a rank shows.
#[derive(Clone, Copy)]
pub(crate) enum Shows<'r> {
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
pub(crate) struct Visit<'a> {
    stage: &'a Stage,
    engine: &'a LocalEngine,
    hall: &'a Hall,
    occasion: &'a Occasion<'a>,
    seat: &'a Seat,
    epoch: u64,
    lends: Readers,
    stands: Stands,
}

/// What another rank shows. Not to be used after the visit has ended or the claim has been given up.
#[derive(Clone, Copy)]
pub(crate) struct Sight {
    rows: *const u8,
    len: usize,
    /// Null if there is no table.
    starts: *const usize,
    /// Where the rank wants its result; null unless it shows `Shared`.
    pub(crate) room: *mut u8,
}

impl Sight {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of the rows; none if they do not lie inside.
    ///
    /// # Safety
    /// The visit that gave this sight has not ended, and holds its claim if the rows are lent.
    pub(crate) unsafe fn bytes<'s>(&self, from: usize, len: usize) -> Option<&'s [u8]> {
        let inside = from.checked_add(len).is_some_and(|end| end <= self.len);
        // SAFETY: the bytes lie inside what the rank shows, which stays unchanged until the visit ends.
        inside.then(|| unsafe { std::slice::from_raw_parts(self.rows.add(from), len) })
    }

    /// The row of rank `at`: of a table, or one of so many equal parts.
    ///
    /// # Safety
    /// As [`Self::bytes`]; a table that is shown has a row for each of `size` ranks.
    pub(crate) unsafe fn row_or_part<'s>(&self, at: usize, size: usize) -> Option<&'s [u8]> {
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

impl<'a> Visit<'a> {
    /// Begins a call on a seat that is free. Inlined, so that it is made in its place, see `Table::insert`.
    #[inline(always)]
    pub(crate) fn new(seat: &'a Seat, engine: &'a LocalEngine, occasion: &'a Occasion<'a>) -> Self {
        seat.busy.set(true);
        let epoch = seat.epoch.get() + 1;
        seat.epoch.set(epoch);
        Self {
            stage: &seat.stage,
            engine,
            hall: &engine.job.hall,
            occasion,
            seat,
            epoch,
            lends: Readers::Nobody,
            stands: Stands::Outside,
        }
    }

    /// Waits until this rank's slot may be filled again.
    #[inline]
    pub(crate) fn await_room(&self) -> Result<(), Fault> {
        let (seat, stage) = (self.seat, self.stage);
        if !self.epoch.is_multiple_of(HALF) || seat.entered.get() > self.epoch - HALF {
            return Ok(());
        }
        let before = self.epoch - HALF;
        let ready = || stage.all(|rank| rank == seat.me || stage.is_done(rank, before));
        self.wait(Want::AllDone, ready)
    }

    pub(crate) fn size(&self) -> usize {
        self.stage.ranks.len()
    }

    pub(crate) fn me(&self) -> usize {
        self.seat.me
    }

    /// The program's call.
    fn call(&self) -> Call {
        let step = self.occasion.label.step;
        step.map_or_else(|| self.engine.call.get(), |step| step.call)
    }

    /// Whether ranks outnumber cores.
    pub(crate) fn is_crowded(&self) -> bool {
        self.stage.tallies.is_some()
    }

    /// Fills this rank's slot. `readers` may touch what does not fit into it.
    ///
    /// # Safety
    /// The visit is dropped, not forgotten. Until then, or until it has been left, `Shared` memory is valid and touched by
    /// nobody who has no part in the call.
    pub(crate) unsafe fn show(&mut self, shows: Shows<'a>, readers: Readers) {
        let stage = self.stage;
        let at = Stage::slot_of(self.me(), self.epoch);
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
        let inline = match self.occasion.root {
            _ if self.is_crowded() => INLINE_BYTES,
            Some(_) => EAGER_BYTES,
            None => MUTUAL_BYTES,
        };
        let lends = !room.is_null() || table + len > inline;
        if lends {
            form |= LENT;
            self.lends = readers;
        }
        slot.shown.with_mut(|shown| {
            // SAFETY: `await_room` has seen all other ranks be done with this slot; they read it again after `epoch` is set.
            unsafe {
                (*shown).digest = self.occasion.digest();
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
        self.stands = Stands::Inside;
        slot.epoch.store(self.epoch, Ordering::Release);
        // Behind what the others wait for: the copy of the label has to wait itself, see `Table::insert`.
        let words = &stage.words[at].0;
        words.said.with_mut(|said| {
            // SAFETY: as above, before the words' own `epoch` is set.
            unsafe { (*said).write(self.occasion.said()) };
        });
        words.epoch.store(self.epoch, Ordering::Release);
        let last = self.tally(|tally| &tally.filled);
        self.wake(Want::Filled(self.me()), last.then_some(Want::AllFilled));
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
    #[inline]
    fn wait(&self, want: Want, ready: impl Fn() -> bool) -> Result<(), Fault> {
        let looks = if self.is_crowded() { 1 } else { LOOKS };
        for _ in 0..looks {
            if ready() {
                return Ok(());
            }
        }
        self.wait_long(want, &ready)
    }

    /// Meanwhile the posted receives are served.
    #[cold]
    fn wait_long(&self, want: Want, ready: &dyn Fn() -> bool) -> Result<(), Fault> {
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
        self.stage.places[self.me()].want.0.store(want.word(), Ordering::Relaxed);
        self.stage.sleepers.0.fetch_add(1, Ordering::AcqRel);
        self.hall.fences().sleeper();
        let waited = self.engine.await_ready(|| self.call(), None, ready);
        self.stage.sleepers.0.fetch_sub(1, Ordering::AcqRel);
        waited.map(drop)
    }

    /// Waits until `rank` has filled its slot.
    ///
    /// # Errors
    /// [`ErrorKind::CollectiveMismatch`] if it makes another call; the verdict, if the job fails.
    pub(crate) fn meet(&self, rank: usize) -> Result<(), Fault> {
        let filled = &self.stage.slots[Stage::slot_of(rank, self.epoch)].epoch;
        self.wait(Want::Filled(rank), || filled.load(Ordering::Acquire) >= self.epoch)?;
        self.compare(rank)
    }

    /// Waits until all ranks have filled their slots; errors as [`Self::meet`].
    pub(crate) fn meet_all(&self) -> Result<(), Fault> {
        let (stage, epoch, me, size) = (self.stage, self.epoch, self.me(), self.size());
        if self.is_crowded() {
            // Whoever disagrees may keep the others from ever coming.
            let ready = || stage.all(|rank| rank == me || stage.has_filled(rank, epoch));
            if !ready() {
                self.glance()?;
                self.wait(Want::AllFilled, ready)?;
            }
            self.glance()?;
        } else {
            for step in 1..size {
                let rank = if me + step < size { me + step } else { me + step - size };
                self.meet(rank)?;
            }
        }
        self.all_have_entered();
        Ok(())
    }

    /// This rank has heard of all others that they have entered this epoch.
    pub(crate) fn all_have_entered(&self) {
        self.seat.entered.set(self.epoch);
    }

    /// Compares this rank's call with those of the ranks that are there. Of two ranks that do this, one sees the other.
    pub(crate) fn glance(&self) -> Result<(), Fault> {
        fence(Ordering::SeqCst); // between filling the own slot and looking at the others'
        for rank in (0..self.size()).filter(|&rank| rank != self.me()) {
            let epoch = &self.stage.slots[Stage::slot_of(rank, self.epoch)].epoch;
            if epoch.load(Ordering::Acquire) >= self.epoch {
                self.compare(rank)?;
            }
        }
        Ok(())
    }

    fn compare(&self, rank: usize) -> Result<(), Fault> {
        let at = Stage::slot_of(rank, self.epoch);
        // SAFETY: the rank has filled the slot for this epoch, and this rank is not done with it.
        let theirs = self.stage.slots[at].shown.with(|shown| unsafe { (*shown).digest });
        if theirs == self.occasion.digest() { Ok(()) } else { self.compare_in_full(rank) }
    }

    /// What a rank that has been met calls, in full.
    #[cold]
    fn words_of(&self, rank: usize) -> Said {
        let words = &self.stage.words[Stage::slot_of(rank, self.epoch)].0;
        while words.epoch.load(Ordering::Acquire) < self.epoch {
            yield_now(); // it is writing them at this moment
        }
        // SAFETY: written before the epoch was set, and as in `compare`.
        words.said.with(|said| unsafe { (*said).assume_init() })
    }

    #[cold]
    fn compare_in_full(&self, rank: usize) -> Result<(), Fault> {
        let (mine, theirs) = (self.occasion.said(), self.words_of(rank));
        mine.label.admits(&theirs.label, Rank::from(rank))?;
        if (mine.turn, mine.kind, mine.bytes) == (theirs.turn, theirs.kind, theirs.bytes) {
            return Ok(());
        }
        Err(ErrorKind::CollectiveMismatch {
            mine: mine.describe(mine.turn != theirs.turn),
            rank,
            theirs: theirs.describe(mine.turn != theirs.turn),
        }
        .into())
    }

    /// Two ranks disagree about the length of a row.
    pub(crate) fn disagreement(&self, rank: usize, mine: usize, theirs: Option<usize>) -> Fault {
        let said = self.words_of(rank);
        ErrorKind::CollectiveMismatch {
            mine: Said { bytes: mine, ..self.occasion.said() }.describe(false),
            rank,
            theirs: Said { bytes: theirs.unwrap_or(said.bytes), ..said }.describe(false),
        }
        .into()
    }

    /// What `rank`, which has been met, shows.
    pub(crate) fn sight(&self, rank: usize) -> Sight {
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
    pub(crate) fn claim(
        &mut self,
        ranks: impl Iterator<Item = usize> + Clone,
    ) -> Result<(), Fault> {
        if !ranks.clone().any(|rank| self.is_lent(rank)) {
            return Ok(());
        }
        self.stands = Stands::Claiming;
        self.stage.places[self.me()].claim.0.store(self.epoch, Ordering::Relaxed);
        self.hall.fences().waker();
        for rank in ranks {
            if self.stage.places[rank].rare.0.withdrawn.load(Ordering::Acquire) >= self.epoch {
                return Err(self.forsaken());
            }
        }
        Ok(())
    }

    /// Gives up the claim, before this rank waits for another one.
    pub(crate) fn unclaim(&mut self) {
        if self.stands == Stands::Claiming {
            self.stage.places[self.me()].claim.0.store(0, Ordering::Release);
            self.stands = Stands::Inside;
        }
    }

    /// Why another rank has withdrawn or could not do its share: it has seen that ranks disagree, or the job fails.
    #[cold]
    fn forsaken(&mut self) -> Fault {
        self.unclaim();
        if let Err(kind) = self.glance() {
            return kind;
        }
        self.go();
        let verdict = self.engine.await_ready(|| self.call(), None, || false);
        verdict.err().unwrap_or_else(|| ErrorKind::Closed.into())
    }

    /// Tells that this rank could not do its share of the common work.
    pub(crate) fn fail(&self) {
        let broken = &self.stage.places[self.me()].rare.0.broken[(self.epoch % DEPTH) as usize];
        broken.store(self.epoch, Ordering::Relaxed);
    }

    /// Reaches round `round` of a barrier, and waits until `rank` has.
    pub(crate) fn round(&self, round: u64, rank: usize) -> Result<(), Fault> {
        let word = self.epoch << 6 | round;
        self.stage.places[self.me()].round.0.store(word, Ordering::Release);
        self.wake(Want::Filled(self.me()), None);
        let theirs = &self.stage.places[rank].round.0;
        self.wait(Want::Filled(rank), || theirs.load(Ordering::Acquire) >= word)
    }

    /// Leaves when nobody needs this rank's memory any more.
    ///
    /// # Errors
    /// The verdict, if the job fails before that.
    pub(crate) fn leave(&mut self) -> Result<(), Fault> {
        self.depart()
    }

    /// As [`Self::leave`] where every rank has done a share of this rank's result.
    ///
    /// # Errors
    /// Why a share is missing.
    pub(crate) fn leave_together(&mut self) -> Result<(), Fault> {
        self.depart()?;
        // Whoever has left without its share has seen the end of the job, or says so.
        self.hall.check()?;
        let (slot, epoch) = ((self.epoch % DEPTH) as usize, self.epoch);
        let broken = |place: &Place| place.rare.0.broken[slot].load(Ordering::Relaxed) == epoch;
        if self.stage.places.iter().any(broken) { Err(self.forsaken()) } else { Ok(()) }
    }

    fn depart(&mut self) -> Result<(), Fault> {
        self.go();
        let (stage, epoch, me) = (self.stage, self.epoch, self.me());
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
            self.stage.places[self.me()].done.0.store(self.epoch, Ordering::Release);
            let last = self.tally(|tally| &tally.done);
            self.wake(Want::Done(self.me()), last.then_some(Want::AllDone));
        }
    }

    /// Takes back what this rank has lent, and waits for those who touch it at this moment.
    #[cold]
    fn withdraw(&mut self) {
        let (stage, epoch, me) = (self.stage, self.epoch, self.me());
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
        self.seat.busy.set(false);
    }
}
