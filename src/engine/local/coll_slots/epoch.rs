//! One rank in one epoch: a guard that publishes its slot, waits for its peers' and reads them, and
//! leaves when it is dropped.

mod member;
mod peer;

use self::peer::Met;
pub(in crate::engine::local) use self::{
    member::{CollCall, Member},
    peer::{Payload, Pinned, Readers, Room},
};
use super::{
    COPIED_BYTES, CollSlots, DEPTH, HALF, LENT, Lent, MUTUAL_BYTES, Place, Published, SLOT_BYTES,
    Said, TABLE, Tally, Want,
};
use crate::{
    engine::{
        Rank,
        local::{
            LocalEngine,
            parking::{ParkingLot, yield_until},
            sync::{AtomicU64, Ordering, fence},
        },
    },
    error::{Call, ErrorKind, Fault},
};

/// So often a rank looks for what it waits for before it looks at anything else: what is on its way
/// comes within 0.1 µs.
const LOOKS: u32 = if cfg!(loom) { 1 } else { 500 };

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
/// Whatever happens, when it is dropped nobody touches what this rank has lent, and this rank
/// touches nobody's.
pub(crate) struct EpochGuard<'a> {
    coll_slots: &'a CollSlots,
    engine: &'a LocalEngine,
    parking: &'a ParkingLot,
    coll: &'a CollCall<'a>,
    member: &'a Member,
    epoch: u64,
    lends: Readers,
    stands: Stands,
}

/// One call on a member: waits until this rank's slot may be filled again, and lets `work` go on
/// from there. The guard is dropped in any case, since `work` does not own it.
#[inline(always)]
pub(crate) fn enter<'a, R>(
    member: &'a Member,
    engine: &'a LocalEngine,
    coll: &'a CollCall<'a>,
    work: impl FnOnce(&mut EpochGuard<'a>) -> Result<R, Fault>,
) -> Result<R, Fault> {
    member.is_free(engine)?;
    let guard = &mut EpochGuard::new(member, engine, coll);
    guard.await_room()?;
    work(guard)
}

impl<'a> EpochGuard<'a> {
    /// Begins a call on a member that is free. Inlined, so that it is made in its place, see
    /// `Table::insert`.
    #[inline(always)]
    fn new(member: &'a Member, engine: &'a LocalEngine, coll: &'a CollCall<'a>) -> Self {
        member.busy.set(true);
        let epoch = member.epoch.get() + 1;
        member.epoch.set(epoch);
        Self {
            coll_slots: &member.coll_slots,
            engine,
            parking: &engine.job.parking,
            coll,
            member,
            epoch,
            lends: Readers::Nobody,
            stands: Stands::Outside,
        }
    }

    /// Waits until this rank's slot may be filled again.
    #[inline]
    fn await_room(&self) -> Result<(), Fault> {
        let (member, coll_slots) = (self.member, self.coll_slots);
        if !self.epoch.is_multiple_of(HALF) || member.entered.get() > self.epoch - HALF {
            return Ok(());
        }
        let before = self.epoch - HALF;
        let ready = || coll_slots.all(|rank| rank == member.me || coll_slots.is_done(rank, before));
        self.wait(Want::AllDone, ready)
    }

    pub(crate) fn size(&self) -> usize {
        self.coll_slots.ranks.len()
    }

    pub(crate) fn me(&self) -> usize {
        self.member.me
    }

    /// The program's call.
    fn call(&self) -> Call {
        let step = self.coll.label.step;
        step.map_or_else(|| self.engine.call.get(), |step| step.call)
    }

    /// Whether ranks outnumber cores.
    pub(crate) fn is_oversubscribed(&self) -> bool {
        self.coll_slots.tallies.is_some()
    }

    /// Fills this rank's slot. `readers` may touch what does not fit into it.
    ///
    /// All that is published is borrowed for longer than the guard lives, and nobody touches it any
    /// more when the guard is dropped.
    pub(crate) fn publish(&mut self, payload: Payload<'a>, readers: Readers) {
        let coll_slots = self.coll_slots;
        let at = CollSlots::slot_of(self.me(), self.epoch);
        let slot = &coll_slots.slots[at];
        let (rows, len, starts, room) = match payload {
            Payload::Nothing => (std::ptr::null(), 0, &[][..], std::ptr::null_mut()),
            Payload::Rows(rows) => (rows.as_ptr(), rows.len(), &[][..], std::ptr::null_mut()),
            Payload::Table(rows, starts) => {
                assert_eq!(starts.len(), self.size() + 1, "a row for each rank");
                (rows.as_ptr(), rows.len(), starts, std::ptr::null_mut())
            }
            Payload::Shared(rows, room) => (rows.as_ptr(), rows.len(), &[][..], room.start),
        };
        let mut form = (len as u64) << 2 | if starts.is_empty() { 0 } else { TABLE };
        let table = size_of_val(starts);
        let start = if starts.is_empty() { std::ptr::null() } else { starts.as_ptr() };
        let inline = match self.coll.kind.root() {
            _ if self.is_oversubscribed() => SLOT_BYTES,
            Some(_) => COPIED_BYTES,
            None => MUTUAL_BYTES,
        };
        let lends = !room.is_null() || table + len > inline;
        if lends {
            form |= LENT;
            self.lends = readers;
        }
        slot.published.with_mut(|published| {
            // SAFETY: `await_room` has seen all other ranks be done with this slot; they read it
            // again after `epoch` is set.
            unsafe {
                (*published).digest = self.coll.digest();
                (*published).form = form;
                let body = &raw mut (*published).body;
                if lends {
                    (*body).lent = Lent { rows, room, starts: start };
                } else if table + len > 0 {
                    let inline = body.cast::<u8>();
                    inline.copy_from_nonoverlapping(start.cast(), table);
                    inline.add(table).copy_from_nonoverlapping(rows, len);
                }
            }
        });
        self.stands = Stands::Inside;
        slot.epoch.store(self.epoch, Ordering::Release);
        // Behind what the others wait for: the copy of the label has to wait itself, see
        // `Table::insert`.
        let words = &coll_slots.words[at].0;
        words.said.with_mut(|said| {
            // SAFETY: as above, before the words' own `epoch` is set.
            unsafe { (*said).write(self.coll.said()) };
        });
        words.epoch.store(self.epoch, Ordering::Release);
        let last = self.tally(|tally| &tally.filled);
        self.wake(Want::Filled(self.me()), last.then_some(Want::AllFilled));
    }

    /// Counts this rank where ranks outnumber cores; whether it is the last, or nobody counts.
    fn tally(&self, count: impl FnOnce(&Tally) -> &AtomicU64) -> bool {
        let Some(tallies) = &self.coll_slots.tallies else { return true };
        let so_far =
            count(&tallies[(self.epoch % DEPTH) as usize].0).fetch_add(1, Ordering::AcqRel);
        so_far + 1 == self.coll_slots.ranks.len() as u64 * (self.epoch / DEPTH)
    }

    /// Wakes those who sleep for what has just happened.
    #[inline]
    fn wake(&self, happened: Want, also: Option<Want>) {
        self.parking.fence().light();
        if self.coll_slots.sleepers.0.load(Ordering::Acquire) > 0 {
            self.wake_sleepers(happened, also);
        }
    }

    #[cold]
    fn wake_sleepers(&self, happened: Want, also: Option<Want>) {
        let wants = [Some(happened), also, Some(Want::Anything)];
        for (place, &rank) in self.coll_slots.places.iter().zip(&self.coll_slots.ranks) {
            let want = place.want.0.load(Ordering::Relaxed);
            if wants.iter().flatten().any(|happened| happened.word() == want) {
                self.parking.wake(rank);
            }
        }
    }

    /// Waits until `ready`, which becomes true with what `want` says.
    #[inline]
    fn wait(&self, want: Want, ready: impl Fn() -> bool) -> Result<(), Fault> {
        let looks = if self.is_oversubscribed() { 1 } else { LOOKS };
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
        let ctx = self.engine.surroundings();
        let seen = self.parking.watch(|| {
            ready() || {
                self.engine.endpoint.borrow_mut().progress(ctx);
                false
            }
        })?;
        if seen {
            return Ok(());
        }
        self.coll_slots.places[self.me()].want.0.store(want.word(), Ordering::Relaxed);
        self.coll_slots.sleepers.0.fetch_add(1, Ordering::AcqRel);
        self.parking.fence().heavy();
        let waited = self.engine.await_ready(|| self.call(), None, ready);
        self.coll_slots.sleepers.0.fetch_sub(1, Ordering::AcqRel);
        waited.map(drop)
    }

    /// Waits until `rank` has filled its slot.
    ///
    /// # Errors
    /// [`ErrorKind::CollectiveMismatch`] if it makes another call; the verdict, if the job fails.
    #[inline]
    pub(crate) fn await_peer(&mut self, rank: usize) -> Result<Met, Fault> {
        let filled = &self.coll_slots.slots[CollSlots::slot_of(rank, self.epoch)].epoch;
        self.wait(Want::Filled(rank), || filled.load(Ordering::Acquire) >= self.epoch)?;
        self.compare(rank)?;
        Ok(Met { epoch: self.epoch, ranks: rank..rank + 1 })
    }

    /// Waits until the ranks below this one have filled their slots; errors as
    /// [`Self::await_peer`].
    pub(crate) fn await_lower(&mut self) -> Result<Met, Fault> {
        let lower = 0..self.me();
        if lower.is_empty() {
            self.check_arrived()?;
        }
        for rank in lower.clone() {
            self.await_peer(rank)?;
        }
        Ok(Met { epoch: self.epoch, ranks: lower })
    }

    /// Waits until all ranks have filled their slots; errors as [`Self::await_peer`].
    pub(crate) fn await_peers(&mut self) -> Result<Met, Fault> {
        let (coll_slots, epoch, me, size) = (self.coll_slots, self.epoch, self.me(), self.size());
        if self.is_oversubscribed() {
            // Whoever disagrees may keep the others from ever coming.
            let ready = || coll_slots.all(|rank| rank == me || coll_slots.has_filled(rank, epoch));
            if !ready() {
                self.check_arrived()?;
                self.wait(Want::AllFilled, ready)?;
            }
            self.check_arrived()?;
        } else {
            for step in 1..size {
                let rank = if me + step < size { me + step } else { me + step - size };
                self.await_peer(rank)?;
            }
        }
        self.assert_all_arrived();
        Ok(Met { epoch, ranks: 0..size })
    }

    /// This rank has heard of all others that they have entered this epoch.
    pub(crate) fn assert_all_arrived(&self) {
        self.member.entered.set(self.epoch);
    }

    /// Compares this rank's call with those of the ranks that are there. Of two ranks that do this,
    /// one sees the other.
    pub(crate) fn check_arrived(&self) -> Result<(), Fault> {
        fence(Ordering::SeqCst); // between filling the own slot and looking at the others'
        for rank in (0..self.size()).filter(|&rank| rank != self.me()) {
            let epoch = &self.coll_slots.slots[CollSlots::slot_of(rank, self.epoch)].epoch;
            if epoch.load(Ordering::Acquire) >= self.epoch {
                self.compare(rank)?;
            }
        }
        Ok(())
    }

    fn compare(&self, rank: usize) -> Result<(), Fault> {
        let theirs = self.look(rank, |published| published.digest);
        if theirs == self.coll.digest() { Ok(()) } else { self.compare_in_full(rank) }
    }

    /// Looks at what a rank has published that has arrived.
    #[inline]
    fn look<R>(&self, rank: usize, look: impl FnOnce(&Published) -> R) -> R {
        let slot = &self.coll_slots.slots[CollSlots::slot_of(rank, self.epoch)];
        debug_assert!(slot.epoch.load(Ordering::Relaxed) >= self.epoch, "it has arrived");
        // SAFETY: the rank has filled the slot for this epoch, and this rank is not done with it.
        slot.published.with(|published| look(unsafe { &*published }))
    }

    /// What a rank that has been met calls, in full.
    #[cold]
    fn words_of(&self, rank: usize) -> Said {
        let words = &self.coll_slots.words[CollSlots::slot_of(rank, self.epoch)].0;
        // It is writing them at this moment.
        yield_until(|| (words.epoch.load(Ordering::Acquire) >= self.epoch).then_some(()));
        // SAFETY: written before the epoch was set, and as in `compare`.
        words.said.with(|said| unsafe { (*said).assume_init() })
    }

    #[cold]
    fn compare_in_full(&self, rank: usize) -> Result<(), Fault> {
        let (mine, theirs) = (self.coll.said(), self.words_of(rank));
        mine.label.admits(&theirs.label, Rank::from(rank))?;
        if (mine.seq, mine.kind, mine.bytes) == (theirs.seq, theirs.kind, theirs.bytes) {
            return Ok(());
        }
        Err(ErrorKind::CollectiveMismatch {
            mine: mine.describe(mine.seq != theirs.seq),
            rank,
            theirs: theirs.describe(mine.seq != theirs.seq),
        }
        .into())
    }

    /// Two ranks disagree about the length of a row.
    pub(crate) fn disagreement(&self, rank: usize, mine: usize, theirs: Option<usize>) -> Fault {
        let said = self.words_of(rank);
        ErrorKind::CollectiveMismatch {
            mine: Said { bytes: mine, ..self.coll.said() }.describe(false),
            rank,
            theirs: Said { bytes: theirs.unwrap_or(said.bytes), ..said }.describe(false),
        }
        .into()
    }

    fn is_lent(&self, rank: usize) -> bool {
        self.look(rank, |published| published.form & LENT != 0)
    }

    /// Makes sure that this rank may touch what these ranks show.
    ///
    /// # Errors
    /// Why one of them has revoked its loan.
    pub(crate) fn pin(&mut self, met: Met) -> Result<Pinned<'_, 'a>, Fault> {
        let Met { epoch, ranks } = met;
        assert_eq!(epoch, self.epoch, "who was met in another epoch may have gone");
        let me = self.me();
        let others = || ranks.clone().filter(|&rank| rank != me);
        if others().any(|rank| self.is_lent(rank)) {
            self.stands = Stands::Claiming;
            self.coll_slots.places[me].pinned.0.store(self.epoch, Ordering::Relaxed);
            self.parking.fence().light();
            for rank in others() {
                let revoked = &self.coll_slots.places[rank].rare.0.revoked;
                if revoked.load(Ordering::Acquire) >= self.epoch {
                    return Err(self.why_not());
                }
            }
        }
        Ok(Pinned { guard: self, ranks })
    }

    /// Gives up the pin, before this rank waits for another one.
    #[inline]
    fn unpin(&mut self) {
        if self.stands == Stands::Claiming {
            self.coll_slots.places[self.me()].pinned.0.store(0, Ordering::Release);
            self.stands = Stands::Inside;
        }
    }

    /// Why another rank has revoked its loan or could not do its share: it has seen that ranks
    /// disagree, or the job fails.
    #[cold]
    fn why_not(&mut self) -> Fault {
        self.unpin();
        if let Err(kind) = self.check_arrived() {
            return kind;
        }
        self.go();
        let verdict = self.engine.await_ready(|| self.call(), None, || false);
        verdict.err().unwrap_or_else(|| ErrorKind::Closed.into())
    }

    /// Tells that this rank could not do its share of the common work.
    pub(crate) fn fail(&self) {
        let broken =
            &self.coll_slots.places[self.me()].rare.0.broken[(self.epoch % DEPTH) as usize];
        broken.store(self.epoch, Ordering::Relaxed);
    }

    /// Reaches round `round` of a barrier, and waits until `rank` has.
    pub(crate) fn round(&mut self, round: u64, rank: usize) -> Result<(), Fault> {
        let word = self.epoch << 6 | round;
        self.coll_slots.places[self.me()].round.0.store(word, Ordering::Release);
        self.wake(Want::Filled(self.me()), None);
        let theirs = &self.coll_slots.places[rank].round.0;
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
        self.parking.check()?;
        let (slot, epoch) = ((self.epoch % DEPTH) as usize, self.epoch);
        let broken = |place: &Place| place.rare.0.broken[slot].load(Ordering::Relaxed) == epoch;
        if self.coll_slots.places.iter().any(broken) { Err(self.why_not()) } else { Ok(()) }
    }

    fn depart(&mut self) -> Result<(), Fault> {
        self.go();
        let (coll_slots, epoch, me) = (self.coll_slots, self.epoch, self.me());
        let left = match self.lends {
            Readers::Nobody => Ok(()),
            Readers::One(rank) => self.wait(Want::Done(rank), || coll_slots.is_done(rank, epoch)),
            Readers::All => self.wait(Want::AllDone, || {
                coll_slots.all(|rank| rank == me || coll_slots.is_done(rank, epoch))
            }),
        };
        if left.is_ok() {
            self.lends = Readers::Nobody;
        }
        left
    }

    /// Touches nothing of others from now on.
    fn go(&mut self) {
        self.unpin();
        if self.stands == Stands::Inside {
            self.stands = Stands::Gone;
            #[cfg(loom)] // an access that goes on until here is what loom has to see
            for slot in &self.coll_slots.slots {
                if slot.epoch.load(Ordering::Acquire) == self.epoch {
                    slot.published.with(|_| ());
                }
            }
            self.coll_slots.places[self.me()].done.0.store(self.epoch, Ordering::Release);
            let last = self.tally(|tally| &tally.done);
            self.wake(Want::Done(self.me()), last.then_some(Want::AllDone));
        }
    }

    /// Takes back what this rank has lent, and waits for those who touch it at this moment.
    #[cold]
    fn revoke(&mut self) {
        let (coll_slots, epoch, me) = (self.coll_slots, self.epoch, self.me());
        coll_slots.places[me].rare.0.revoked.store(epoch, Ordering::Release);
        self.parking.fence().heavy();
        let free = || {
            coll_slots.all(|rank| coll_slots.places[rank].pinned.0.load(Ordering::Acquire) != epoch)
        };
        // In the parking, as an operator may wait there for something that never comes.
        yield_until(|| (free() || self.wait(Want::Anything, free).is_ok()).then_some(()));
        self.lends = Readers::Nobody;
    }
}

impl Drop for EpochGuard<'_> {
    fn drop(&mut self) {
        if self.stands != Stands::Gone && std::thread::panicking() {
            self.fail();
        }
        self.go();
        if self.lends != Readers::Nobody {
            self.revoke();
        }
        self.member.busy.set(false);
    }
}
