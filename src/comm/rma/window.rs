//! Windows: memory of every rank that the others read and change by themselves.

use std::marker::PhantomData;

use bytemuck::AnyBitPattern;

use super::{
    access::{Epoch, Passive},
    region::{Phase, Region},
};
use crate::{
    comm::{Comm, all},
    datum::{Datum, LentWrite},
    engine::{Access, Rank},
    error::{Error, Result},
};

/// What a window can hold: plain data of which every bit pattern is a value, as all numbers are and
/// `bool` and `char` are not.
///
/// So nothing that other ranks write, not even half of it, is anything but a value. Implemented for
/// every type that has bytemuck's [`NoUninit`](bytemuck::NoUninit) and [`AnyBitPattern`].
pub trait Plain: Datum + AnyBitPattern {}

impl<T: Datum + AnyBitPattern> Plain for T {}

/// How a part of a window is held; see [`Passive::lock`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lock {
    /// By one rank alone.
    Exclusive,
    /// Together with others that hold it shared.
    Shared,
}

/// Memory of every rank, its *part*, that the other ranks read and change by themselves, without
/// its help.
///
/// They do so only in *phases*, which all ranks begin and end together: an [`epoch`](Self::epoch),
/// or a [`passive`](Self::passive) phase, in which parts can be locked. Outside phases each rank
/// has its own part to itself ([`local`](Self::local), [`local_mut`](Self::local_mut)). That nobody
/// reads while another writes is left neither to the program nor to chance: a slice of the own part
/// cannot be kept during a phase, and no handle can leave it.
///
/// ```compile_fail,E0502
/// spmd::local(2, |world| {
///     let mut window = world.window::<u64>(4)?;
///     let mine = window.local();
///     window.epoch(|epoch| epoch.put(0, 0, &[1]))?;
///     println!("{mine:?}"); // others may have changed it
///     Ok(())
/// });
/// ```
///
/// MPI: a window with its memory (`MPI_Win_allocate`, MPI 4.1, 12.2.2), one access epoch open to
/// all ranks (`MPI_Win_lock_all`, 12.5.3) and accesses that are complete when the call returns;
/// phases are separated by agreements instead of fences. What overlapping accesses leave is said at
/// each of them; none is undefined.
///
/// Dropping a window is not collective, and forgetting one is sound: its memory goes back when all
/// ranks have dropped it and the next window is opened on the same communicator, or at the end of
/// the run. [`close`](Self::close) gives it back at once. If the program panics inside a phase, the
/// window is broken on that rank, like a mutex that is poisoned.
///
/// # Examples
/// Work is dealt out by a counter that all ranks share:
/// ```
/// use spmd::{op::Sum, rma::Lock};
/// const TASKS: u64 = 20;
/// let done = spmd::local(3, |world| {
///     // only rank 0 has the counter
///     let mut counter = world.window::<u64>(if world.rank() == 0 { 1 } else { 0 })?;
///     let mine = counter.passive(|phase| {
///         let mut mine = vec![];
///         loop {
///             let task = phase.lock(0, Lock::Shared, |part| part.fetch_op(0, 1, Sum))?;
///             if task >= TASKS {
///                 return Ok(mine);
///             }
///             mine.push(task); // ... and does it
///         }
///     })?;
///     Ok(mine)
/// });
/// let mut done = done.unwrap().concat();
/// done.sort();
/// assert_eq!(done, (0..TASKS).collect::<Vec<_>>());
/// ```
pub struct Window<T> {
    pub(super) region: Region,
    /// This rank's part; lives as long as the region.
    part: LentWrite,
    elements: PhantomData<T>,
}

/// # Windows
///
/// Memory that other ranks reach.
impl Comm {
    /// Opens a window: `len` elements of this rank, all bytes zero, that the other ranks can reach.
    ///
    /// # Collective
    /// All ranks, with the same type and any lengths. An allgather, a duplicate of the
    /// communicator, and what the engine needs. MPI: `MPI_Win_allocate` (MPI 4.1, 12.2.2).
    ///
    /// # Errors
    /// On every rank: [`ErrorKind::CollectiveMismatch`](crate::ErrorKind::CollectiveMismatch) if
    /// the types differ, [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument)
    /// (elsewhere [`ErrorKind::Elsewhere`](crate::ErrorKind::Elsewhere)) if the memory cannot be
    /// had.
    ///
    /// # Examples
    /// Every rank writes its number into its right neighbour's part:
    /// ```
    /// let got = spmd::local(3, |world| {
    ///     let mut window = world.window::<usize>(1)?;
    ///     let right = (world.rank() + 1) % world.size();
    ///     window.epoch(|epoch| epoch.put(right, 0, &[world.rank()]))?;
    ///     Ok(window.local()[0])
    /// });
    /// assert_eq!(got.unwrap(), [2, 0, 1]);
    /// ```
    #[track_caller]
    pub fn window<T: Plain>(&self, len: usize) -> Result<Window<T>> {
        let call = all("window");
        self.perform(call, || {
            let region = Region::open::<T>(self, call, len, Access::Remote)?;
            let part = region.comm.engine.window_part(region.id, Rank::from(self.rank))?;
            Ok(Window { region, part, elements: PhantomData })
        })
    }
}

impl<T: Plain> Window<T> {
    /// The lengths of all ranks' parts.
    pub fn lens(&self) -> &[usize] {
        &self.region.lens
    }

    /// This rank's part.
    ///
    /// # Panics
    /// If a phase on this window has panicked or failed.
    #[track_caller]
    pub fn local(&self) -> &[T] {
        self.region.assert_whole();
        // Nobody changes the part while this borrow lives: see `region.rs`.
        let bytes = self.part.bytes();
        if bytes.is_empty() { &[] } else { bytemuck::cast_slice(bytes) }
    }

    /// This rank's part, to be changed.
    ///
    /// # Panics
    /// If a phase on this window has panicked or failed.
    #[track_caller]
    pub fn local_mut(&mut self) -> &mut [T] {
        self.region.assert_whole();
        // Nobody reads or changes the part while this borrow lives: see `region.rs`.
        let bytes = self.part.bytes_mut();
        if bytes.is_empty() { &mut [] } else { bytemuck::cast_slice_mut(bytes) }
    }

    /// A phase in which every rank reads and changes any part: begins when all ranks have come,
    /// ends when all are done. What was done is seen by all afterwards.
    ///
    /// ```compile_fail
    /// spmd::local(2, |world| {
    ///     let mut window = world.window::<u64>(4)?;
    ///     let mut kept = None;
    ///     window.epoch(|epoch| { kept = Some(epoch); Ok(()) })?; // the handle stays inside
    ///     Ok(())
    /// });
    /// ```
    ///
    /// # Collective
    /// All ranks. Two allreduces of 16 bytes, and what `body` does. MPI: what two `MPI_Win_fence`
    /// enclose (MPI 4.1, 12.5.1).
    ///
    /// # Errors
    /// On every rank, before any begins:
    /// [`ErrorKind::CollectiveMismatch`](crate::ErrorKind::CollectiveMismatch) if another calls for
    /// another kind of phase. What `body` returns, after the end of the phase.
    ///
    /// # Examples
    /// ```
    /// use spmd::op::{Max, Sum};
    /// let got = spmd::local(4, |world| {
    ///     let mut window = world.window::<i64>(2)?;
    ///     let me = world.rank() as i64;
    ///     window.epoch(|epoch| {
    ///         epoch.accumulate(0, 0, &[me], Sum)?;
    ///         epoch.accumulate(0, 1, &[me], Max)
    ///     })?;
    ///     window.epoch(|epoch| epoch.get(0, 0..2)).map_err(Into::into)
    /// });
    /// assert_eq!(got.unwrap(), [[6, 3]; 4]);
    /// ```
    #[track_caller]
    pub fn epoch<R>(&mut self, body: impl FnOnce(&Epoch<'_, T>) -> Result<R>) -> Result<R> {
        self.epoch_with(body)
    }

    /// As [`epoch`](Self::epoch), with any error that ours becomes.
    ///
    /// # Collective
    /// As [`epoch`](Self::epoch).
    ///
    /// # Errors
    /// As [`epoch`](Self::epoch).
    #[track_caller]
    pub fn epoch_with<R, E: From<Error>>(
        &mut self,
        body: impl FnOnce(&Epoch<'_, T>) -> Result<R, E>,
    ) -> Result<R, E> {
        let call = all("epoch");
        self.region.phase(call, Phase::Epoch, || body(&Epoch::new(self)))
    }

    /// A phase in which every rank can lock any part, its own too, and read and change it while it
    /// holds it: begins when all ranks have come, ends when all are done.
    ///
    /// # Collective
    /// All ranks. Two allreduces of 16 bytes, and what `body` does. MPI: passive target
    /// communication (MPI 4.1, 12.5.3), which there needs no beginning and so no order with the
    /// target's own loads and stores.
    ///
    /// # Errors
    /// As [`epoch`](Self::epoch).
    ///
    /// # Examples
    /// See [`Window`].
    #[track_caller]
    pub fn passive<R>(&mut self, body: impl FnOnce(&mut Passive<'_, T>) -> Result<R>) -> Result<R> {
        self.passive_with(body)
    }

    /// As [`passive`](Self::passive), with any error that ours becomes.
    ///
    /// # Collective
    /// As [`passive`](Self::passive).
    ///
    /// # Errors
    /// As [`passive`](Self::passive).
    #[track_caller]
    pub fn passive_with<R, E: From<Error>>(
        &mut self,
        body: impl FnOnce(&mut Passive<'_, T>) -> Result<R, E>,
    ) -> Result<R, E> {
        let call = all("passive");
        self.region.phase(call, Phase::Passive, || body(&mut Passive::new(self)))
    }

    /// Closes the window and gives its memory back now.
    ///
    /// # Collective
    /// All ranks. MPI: `MPI_Win_free` (MPI 4.1, 12.2.6).
    ///
    /// # Errors
    /// As [`epoch`](Self::epoch); the window is dropped then.
    #[track_caller]
    pub fn close(self) -> Result<()> {
        let call = all("close");
        self.region.comm.perform(call, || self.region.close(call))
    }
}

impl<T> std::fmt::Debug for Window<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Window({:?} elements on {:?})", self.region.lens, self.region.comm)
    }
}
