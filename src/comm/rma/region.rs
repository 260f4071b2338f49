//! What windows and node arrays have in common: memory that other ranks reach, and agreement on
//! when they do.
//!
//! # Why safe code cannot race
//! A rank touches another's memory only inside a *phase*, and a phase begins with an agreement: an
//! allreduce of the phase's kind and number, on a communicator that nothing but the phases of this
//! region uses. No rank has the result before all have called, so when a phase begins on one rank,
//! every rank has called for one; and as calling for one takes `&mut self`, no rank holds a slice
//! of its memory then. If the kinds differ, no rank begins. A phase of a window ends with another
//! agreement, which each rank enters when all its accesses are complete: afterwards every rank may
//! have slices of its own part again. This needs no check of the engine's (`--checks off` skips
//! none of it): only these agreements are ever made on this communicator, so none can be taken for
//! another call.
//!
//! A rank that leaves a phase by a panic, or whose agreement fails on the way (the job has failed),
//! does not know whether the others are still at its memory: the region is *broken* there, and
//! gives out neither slices nor phases any more.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use crate::{
    comm::{Comm, Max, Ragged, agreement::Subject, lengths, op, step},
    datum::{Datum, Signature, Stamp, bytes_of},
    engine::{Access, Collective, Counts, Rank, WindowId},
    error::{Call, Error, ErrorKind, Fault, Result, With},
};

/// What ranks agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Opening the region has worked.
    Open,
    /// Opening the region has not worked.
    Failed,
    Epoch,
    Passive,
    /// All accesses of the phase are complete.
    End,
    Write,
    Read,
    Close,
}

impl Phase {
    const ALL: [Self; 8] = [
        Self::Open,
        Self::Failed,
        Self::Epoch,
        Self::Passive,
        Self::End,
        Self::Write,
        Self::Read,
        Self::Close,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Open => "a call that has worked",
            Self::Failed => "a call that has failed",
            Self::Epoch => "epoch",
            Self::Passive => "passive",
            Self::End => "the end of a phase",
            Self::Write => "write",
            Self::Read => "read",
            Self::Close => "close",
        }
    }
}

/// Memory that the ranks of a communicator reach in phases.
pub(super) struct Region {
    /// The same ranks, with a message space for agreements on phases only.
    pub(super) comm: Rc<Comm>,
    pub(super) id: WindowId,
    /// How many elements each rank has contributed.
    pub(super) lens: Box<[usize]>,
    /// Agreements so far.
    agreements: Cell<u64>,
    broken: Cell<bool>,
    serial: u64,
    dropped_regions: Rc<DroppedRegions>,
}

/// The regions that were opened on a communicator and dropped.
///
/// Closing is collective (`MPI_Win_free` waits for all ranks), dropping must not be: ranks may drop
/// in any order, or forget to. So what was dropped is kept here until the ranks are known to be
/// together, which is when the next region is opened, and is closed then if all have dropped it.
/// What is left is closed by the end of the run.
#[derive(Default)]
pub(in crate::comm) struct DroppedRegions {
    opened: Cell<u64>,
    dropped: RefCell<Vec<Dropped>>,
}

/// A dropped region.
struct Dropped {
    serial: u64,
    comm: Rc<Comm>,
    id: WindowId,
}

/// What a rank says first: the stamp of its element type, then a word each.
const TYPE: usize = Stamp::BYTES / size_of::<u64>();
const ELEMENT_BYTES: usize = TYPE;
const ELEMENTS: usize = TYPE + 1;
const HOST: usize = TYPE + 2;
const SERIAL: usize = TYPE + 3;
/// Behind them, the serial numbers of the regions that it has dropped.
const DROPPED: usize = TYPE + 4;

impl Region {
    /// Opens a region of `len` elements of this rank. Collective over `parent`.
    pub(super) fn open<T: Datum>(
        parent: &Comm,
        call: Call,
        len: usize,
        access: Access,
    ) -> Result<Self, Fault> {
        let engine = &*parent.engine;
        let dropped_regions = Rc::clone(parent.dropped_regions.get_or_init(Rc::default));
        let host = match access {
            Access::Remote => 0,
            Access::Shared => {
                parent.same_call_on_all(&Subject::nothing().label(call), Subject::nothing())?;
                engine.node(parent.context, parent.next_seq())?
            }
        };
        let bytes = len.checked_mul(size_of::<T>()).filter(|&bytes| isize::try_from(bytes).is_ok());
        let Stamp(stamp) = Signature::of::<T>().stamp();
        let elements = bytes.map_or(u64::MAX, |_| len as u64);
        let mut mine = bytemuck::cast::<_, [u64; TYPE]>(stamp).to_vec();
        mine.extend([
            size_of::<T>() as u64,
            elements,
            u64::from(host),
            dropped_regions.opened.get(),
        ]);
        mine.extend(dropped_regions.dropped.borrow().iter().map(|remains| remains.serial));
        let all = parent.allgather_as(call, &mine)?;
        check::<T>(parent.rank, call, &all, access)?;
        // The numbers of rank 0, which gives none twice: other ranks may have called for windows
        // that were refused.
        let serial = all[0][SERIAL];
        dropped_regions.opened.set(dropped_regions.opened.get().max(serial) + 1);
        dropped_regions.close(&all)?;
        let comm = Rc::new(parent.twin()?);
        if let Some(name) = parent.name() {
            comm.set_name(&name);
        }
        let opened = engine.open_window(comm.context, comm.next_seq(), bytes.unwrap_or(0), access);
        let lens = all.iter().map(|row| row[ELEMENTS] as usize).collect();
        let broken = Cell::new(true);
        let id = opened.as_ref().map_or(WindowId::NONE, |&id| id);
        let region =
            Self { comm, id, lens, agreements: Cell::new(0), broken, serial, dropped_regions };
        // A region that some rank could not open is left alone: it cannot be closed without that
        // rank.
        let result = if opened.is_ok() { Phase::Open } else { Phase::Failed };
        let agreed = region.same_phase(call, result);
        opened?;
        agreed?;
        region.broken.set(false);
        Ok(region)
    }

    pub(super) fn check(&self) -> Result<(), Fault> {
        if self.broken.get() {
            let what =
                "a phase has failed or panicked: this memory can no longer be used".to_owned();
            return Err(ErrorKind::InvalidArgument { what }.into());
        }
        Ok(())
    }

    /// # Panics
    /// If the region is broken.
    #[track_caller]
    pub(super) fn assert_whole(&self) {
        assert!(
            !self.broken.get(),
            "a phase has failed or panicked: this memory can no longer be used"
        );
    }

    /// Returns when all ranks have called for this phase; then what they have done before is seen,
    /// and no rank is in another phase.
    ///
    /// # Errors
    /// If the ranks call for different phases, on all of them; the region is as before. If no
    /// agreement was possible, the region is broken.
    pub(super) fn begin(&self, call: Call, phase: Phase) -> Result<(), Fault> {
        self.check()?;
        self.broken.set(true);
        let flush = || self.comm.engine.flush_window(self.id);
        let agreed = flush().and_then(|()| self.same_phase(call, phase)).and_then(|()| flush());
        let disagree = |fault: &Fault| matches!(**fault, ErrorKind::CollectiveMismatch { .. });
        if agreed.as_ref().err().is_none_or(disagree) {
            self.broken.set(false);
        }
        agreed
    }

    /// Runs `body` in a phase that all ranks end together.
    pub(super) fn phase<R, E: From<Error>>(
        &self,
        call: Call,
        phase: Phase,
        body: impl FnOnce() -> Result<R, E>,
    ) -> Result<R, E> {
        self.comm.perform(call, || self.begin(call, phase))?;
        // If `body` panics the others may still be at work here, and go on to wait for this rank.
        self.broken.set(true);
        let result = body();
        self.broken.set(false);
        self.comm.perform(call, || match self.begin(call, Phase::End) {
            // All have agreed to begin this phase, so none can have called for another.
            Err(fault) if matches!(*fault, ErrorKind::CollectiveMismatch { .. }) => {
                self.broken.set(true);
                Err(fault)
            }
            other => other,
        })?;
        result
    }

    /// Closes the region. Collective.
    pub(super) fn close(&self, call: Call) -> Result<(), Fault> {
        self.begin(call, Phase::Close)?;
        self.broken.set(true); // closed once
        self.comm.engine.close_window(self.id)
    }

    /// Makes sure that all ranks call for the same phase.
    ///
    /// Of a token and its complement the largest on any rank are this rank's own only if all tokens
    /// are equal.
    fn same_phase(&self, call: Call, phase: Phase) -> Result<(), Fault> {
        let number = self.agreements.replace(self.agreements.get() + 1);
        let token = number << 8 | phase as u64;
        let label = &step(
            Signature::of::<u64>(),
            Call { op: "a phase of a window", with: With::ALL, at: call.at },
        );
        let (mine, mut out) = ([token, !token], [0; 2]);
        op::reduction::<u64, _>(&Max, |with| {
            let (mine, out) = (bytes_of(&mine), bytemuck::bytes_of_mut(&mut out));
            self.comm.collective(label, Collective::Allreduce { mine, out, with })
        })?;
        if out == mine {
            return Ok(());
        }
        // Every rank has seen that, so all come here.
        let mut tokens = vec![0; self.comm.size];
        let (mine, counts) = (bytes_of(&mine[..1]), Counts::Equal(size_of::<u64>()));
        let out = bytemuck::cast_slice_mut(&mut tokens);
        self.comm.collective(label, Collective::Allgather { mine, counts, out })?;
        let describe = |token: u64| {
            let phase = Phase::ALL.get((token & 0xff) as usize).map_or("", |phase| phase.name());
            format!("{phase} (phase {})", token >> 8)
        };
        match tokens.iter().enumerate().find(|(_, theirs)| **theirs != token) {
            None => Ok(()),
            Some((rank, _)) if phase == Phase::Open => {
                let cause = "it could not open its part".to_owned();
                Err(ErrorKind::Elsewhere { rank, cause }.into())
            }
            Some((rank, &theirs)) => {
                let (mine, theirs) = (describe(token), describe(theirs));
                Err(ErrorKind::CollectiveMismatch { mine, rank, theirs }.into())
            }
        }
    }
}

/// Whether what all ranks say of a new region fits together: if it does not, every rank finds that.
fn check<T: Datum>(me: usize, call: Call, all: &Ragged<u64>, access: Access) -> Result<(), Fault> {
    let mine = &all[me];
    for (rank, theirs) in all.iter().enumerate() {
        if theirs[..=ELEMENT_BYTES] != mine[..=ELEMENT_BYTES] {
            let mut stamp = [0; TYPE];
            stamp.copy_from_slice(&theirs[..TYPE]);
            let stamp = Stamp(bytemuck::cast(stamp));
            return Err(ErrorKind::CollectiveMismatch {
                mine: format!("{} of {}", call.op, Signature::of::<T>().name()),
                rank,
                theirs: format!("{} of {}", call.op, stamp.name()),
            }
            .into());
        }
        if theirs[ELEMENTS] == u64::MAX {
            let what = "more elements than an address space holds".to_owned();
            let kind = ErrorKind::InvalidArgument { what };
            let elsewhere = || ErrorKind::Elsewhere { rank, cause: kind.to_string() };
            return Err(if rank == me { kind } else { elsewhere() }.into());
        }
        if theirs[HOST] != all[0][HOST] {
            let what = format!(
                "ranks 0 and {rank} are on different hosts and share no memory; `split_node` makes a communicator for each"
            );
            return Err(ErrorKind::InvalidArgument { what }.into());
        }
    }
    if align_of::<T>() > ALIGNMENT {
        let what = "elements that are aligned to more than 64 bytes cannot lie in memory that other ranks reach";
        return Err(ErrorKind::Unsupported { what, how: "use elements of less alignment" }.into());
    }
    if access == Access::Shared {
        let lens = all.iter().map(|row| row[ELEMENTS] as usize);
        let whole = lengths::sum("all blocks together", lens)?;
        lengths::bytes::<T>("all blocks together", whole)?;
    }
    Ok(())
}

/// Of the parts of every rank, on every engine; see
/// [`Engine::open_window`](crate::engine::Engine::open_window).
const ALIGNMENT: usize = 64;

impl DroppedRegions {
    /// Closes what all ranks have dropped, as each says behind its head.
    fn close(&self, all: &Ragged<u64>) -> Result<(), Fault> {
        let everywhere =
            |remains: &Dropped| all.iter().all(|row| row[DROPPED..].contains(&remains.serial));
        let mut dropped = self.dropped.borrow_mut();
        dropped.sort_unstable_by_key(|remains| remains.serial); // the same order on all ranks
        let (gone, kept) = dropped.drain(..).partition::<Vec<_>, _>(everywhere);
        *dropped = kept;
        gone.into_iter().try_for_each(|Dropped { comm, id, .. }| comm.engine.close_window(id))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.comm.engine.drop_window(self.id);
        if !self.broken.get() {
            let Self { comm, id, serial, .. } = self;
            let remains = Dropped { serial: *serial, comm: Rc::clone(comm), id: *id };
            self.dropped_regions.dropped.borrow_mut().push(remains);
        }
    }
}

/// The bytes from an element of a part on, if so many elements are there.
#[inline]
pub(super) fn place<T>(
    lens: &[usize],
    target: usize,
    offset: usize,
    count: usize,
) -> Result<(Rank, usize), Fault> {
    match (lens.get(target), offset.checked_add(count)) {
        (Some(&len), Some(end)) if end <= len => {
            Ok((Rank::from(target), lengths::bytes::<T>("the offset", offset)?))
        }
        _ => Err(no_place(lens, target, offset, count)),
    }
}

#[cold]
fn no_place(lens: &[usize], target: usize, offset: usize, count: usize) -> Fault {
    let Some(len) = lens.get(target) else {
        return ErrorKind::InvalidRank { rank: target, size: lens.len() }.into();
    };
    let what = format!(
        "{count} elements from element {offset} on are not in the part of rank {target}, which has {len}"
    );
    ErrorKind::InvalidArgument { what }.into()
}
