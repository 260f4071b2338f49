//! What ranks do to each other's parts of a window, inside its phases.

use std::ops::Range;

use super::{Lock, Plain, Window, region::place};
use crate::{
    comm::{And, Bits, Max, Min, Number, Or, Prod, Sum, Xor, all},
    datum::{Landing, bytes_of, bytes_of_mut},
    engine::{Builtin, Element, Rank, Rma, window::Update},
    error::{Call, Error, ErrorKind, Fault, Result},
};

/// What an atomic access makes of an element and an operand: [`Sum`], [`Prod`], [`Min`], [`Max`],
/// [`And`], [`Or`], [`Xor`], [`Replace`] or [`NoOp`]. Not a closure: the target's processor, or its
/// network card, must know it.
pub trait AtomicOp<T> {
    #[doc(hidden)]
    fn change(&self) -> Change;
}

/// The operand.
#[derive(Clone, Copy, Debug)]
pub struct Replace;

/// What the element was: an atomic read.
#[derive(Clone, Copy, Debug)]
pub struct NoOp;

/// An operator and element type that engines know.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Change(Update, Element);

macro_rules! atomic {
    ($($class:ident: $($name:ident => $update:expr),*;)*) => {$($(
        impl<T: $class> AtomicOp<T> for $name {
            fn change(&self) -> Change {
                Change($update, T::element().0)
            }
        }
    )*)*};
}

atomic! {
    Number:
        Sum => Update::Combine(Builtin::Sum),
        Prod => Update::Combine(Builtin::Prod),
        Min => Update::Combine(Builtin::Min),
        Max => Update::Combine(Builtin::Max),
        Replace => Update::Replace,
        NoOp => Update::NoOp;
    Bits:
        And => Update::Combine(Builtin::And),
        Or => Update::Combine(Builtin::Or),
        Xor => Update::Combine(Builtin::Xor);
}

/// The handle of a window's [`epoch`](Window::epoch): every part, any access.
///
/// Each call is complete when it returns: what it fetches is here, and what it puts is on its way,
/// and is there for this rank's later accesses. Others see it when they are told so: after
/// [`flush`](Self::flush) and a message or barrier, or after the epoch.
pub struct Epoch<'w, T> {
    window: &'w Window<T>,
}

/// The handle of a window's [`passive`](Window::passive) phase: parts are reached while they are
/// locked.
pub struct Passive<'w, T> {
    window: &'w Window<T>,
}

/// A part that this rank holds; see [`Passive::lock`]. Its calls are those of [`Epoch`], on this
/// part.
pub struct LockedPart<'p, T> {
    window: &'p Window<T>,
    target: usize,
}

impl<'w, T: Plain> Epoch<'w, T> {
    pub(super) fn new(window: &'w Window<T>) -> Self {
        Self { window }
    }

    /// Writes `values` into the part of `target`, from element `offset` on.
    ///
    /// Not atomic: what puts and gets at the same time leave or fetch is any mixture of the bytes,
    /// which is always a value. MPI: `MPI_Put` (MPI 4.1, 12.3.1).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRank`]; [`ErrorKind::InvalidArgument`] if the part is too short.
    #[track_caller]
    pub fn put(&self, target: usize, offset: usize, values: &[T]) -> Result<()> {
        self.window.put(all("put"), target, offset, values)
    }

    /// The elements `range` of the part of `target`. Atomicity and errors as of [`put`](Self::put).
    ///
    /// MPI: `MPI_Get` (MPI 4.1, 12.3.2).
    #[track_caller]
    pub fn get(&self, target: usize, range: Range<usize>) -> Result<Vec<T>> {
        self.window.get(all("get"), target, range)
    }

    /// Reads the part of `target`, from element `offset` on, into all of `into`. Atomicity and
    /// errors as of [`put`](Self::put).
    #[track_caller]
    pub fn get_into(&self, target: usize, offset: usize, into: &mut [T]) -> Result<()> {
        self.window.get_into(all("get_into"), target, offset, into)
    }

    /// Combines elements of the part of `target`, from `offset` on, with `values`:
    /// `element op value`.
    ///
    /// Atomic, element by element, against the other accesses with an operator and against
    /// `compare_swap`. Errors as of [`put`](Self::put). MPI: `MPI_Accumulate` (MPI 4.1, 12.3.4).
    #[track_caller]
    pub fn accumulate(
        &self,
        target: usize,
        offset: usize,
        values: &[T],
        op: impl AtomicOp<T>,
    ) -> Result<()> {
        self.window.accumulate(all("accumulate"), target, offset, values, op)
    }

    /// As [`accumulate`](Self::accumulate), and returns what the elements were before.
    ///
    /// MPI: `MPI_Get_accumulate` (MPI 4.1, 12.3.4).
    #[track_caller]
    pub fn get_accumulate(
        &self,
        target: usize,
        offset: usize,
        values: &[T],
        op: impl AtomicOp<T>,
    ) -> Result<Vec<T>> {
        self.window.get_accumulate(all("get_accumulate"), target, offset, values, op)
    }

    /// As [`get_accumulate`](Self::get_accumulate), for one element.
    ///
    /// MPI: `MPI_Fetch_and_op` (MPI 4.1, 12.3.4).
    #[track_caller]
    pub fn fetch_op(&self, target: usize, at: usize, value: T, op: impl AtomicOp<T>) -> Result<T> {
        self.window.fetch_op(all("fetch_op"), target, at, value, op)
    }

    /// Replaces element `at` of the part of `target` by `swap` if it equals `compare`; returns what
    /// it was before.
    ///
    /// Atomic as [`accumulate`](Self::accumulate). Integers only. MPI: `MPI_Compare_and_swap` (MPI
    /// 4.1, 12.3.4).
    ///
    /// # Examples
    /// The first to come takes the place:
    /// ```
    /// let firsts = spmd::local(4, |world| {
    ///     let mut place = world.window::<i32>(1)?;
    ///     Ok(place.epoch(|epoch| Ok(epoch.compare_swap(0, 0, 0, 1)? == 0))?)
    /// });
    /// assert_eq!(firsts.unwrap().into_iter().filter(|&first| first).count(), 1);
    /// ```
    #[track_caller]
    pub fn compare_swap(&self, target: usize, at: usize, compare: T, swap: T) -> Result<T>
    where
        T: Bits,
    {
        self.window.compare_swap(all("compare_swap"), target, at, compare, swap)
    }

    /// Returns when all this rank has put and accumulated is in its place.
    ///
    /// MPI: `MPI_Win_flush_all` (MPI 4.1, 12.5.4).
    #[track_caller]
    pub fn flush(&self) -> Result<()> {
        self.window.flush(all("flush"))
    }
}

impl<'w, T: Plain> Passive<'w, T> {
    pub(super) fn new(window: &'w Window<T>) -> Self {
        Self { window }
    }

    /// Waits for the part of `target`, which may be this rank's own, and holds it while `body`
    /// runs: exclusively, or together with others that hold it shared. What `body` has done is seen
    /// by whoever holds the part next.
    ///
    /// A rank holds one part at a time, so that no two can wait for each other:
    /// ```compile_fail,E0499
    /// use spmd::rma::Lock;
    /// spmd::local(2, |world| {
    ///     let mut window = world.window::<u64>(4)?;
    ///     window.passive(|phase| {
    ///         phase.lock(0, Lock::Exclusive, |_| phase.lock(1, Lock::Exclusive, |_| Ok(())))
    ///     })?;
    ///     Ok(())
    /// });
    /// ```
    ///
    /// Cost: a few messages to the target; who waits asks it again and again. MPI: `MPI_Win_lock`
    /// (MPI 4.1, 12.5.3).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRank`]. What `body` returns, when the part is free again.
    ///
    /// # Examples
    /// A read and a write that nobody comes between:
    /// ```
    /// use spmd::rma::Lock;
    /// let sums = spmd::local(4, |world| {
    ///     let mut window = world.window::<u64>(2)?;
    ///     window.passive(|phase| {
    ///         phase.lock(0, Lock::Exclusive, |part| {
    ///             let pair = part.get(0..2)?;
    ///             part.put(0, &[pair[0] + 1, pair[1] + pair[0]])
    ///         })
    ///     })?;
    ///     Ok(window.local().to_vec())
    /// });
    /// assert_eq!(sums.unwrap()[0], [4, 0 + 1 + 2 + 3]);
    /// ```
    #[track_caller]
    pub fn lock<R>(
        &mut self,
        target: usize,
        lock: Lock,
        body: impl FnOnce(&LockedPart<'_, T>) -> Result<R>,
    ) -> Result<R> {
        self.lock_with(target, lock, body)
    }

    /// As [`lock`](Self::lock), with any error that ours becomes.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    #[track_caller]
    pub fn lock_with<R, E: From<Error>>(
        &mut self,
        target: usize,
        lock: Lock,
        body: impl FnOnce(&LockedPart<'_, T>) -> Result<R, E>,
    ) -> Result<R, E> {
        let (call, window) = (all("lock"), self.window);
        let (comm, id) = (&window.region.comm, window.region.id);
        comm.perform(call, || {
            let (rank, _) = place::<T>(&window.region.lens, target, 0, 0)?;
            comm.engine.lock_part(id, rank, lock == Lock::Exclusive)
        })?;
        let unlock = Unlock { window, target };
        let result = body(&LockedPart { window, target });
        std::mem::forget(unlock);
        comm.perform(call, || comm.engine.unlock_part(id, Rank::from(target)))?;
        result
    }
}

/// Lets go of a part when the program panics while it holds it, so that the others are not kept
/// from it.
struct Unlock<'w, T> {
    window: &'w Window<T>,
    target: usize,
}

impl<T> Drop for Unlock<'_, T> {
    fn drop(&mut self) {
        let region = &self.window.region;
        // The panic says more than this could.
        let _ = region.comm.engine.unlock_part(region.id, Rank::from(self.target));
    }
}

impl<T: Plain> LockedPart<'_, T> {
    /// As [`Epoch::put`].
    #[track_caller]
    pub fn put(&self, offset: usize, values: &[T]) -> Result<()> {
        self.window.put(all("put"), self.target, offset, values)
    }

    /// As [`Epoch::get`].
    #[track_caller]
    pub fn get(&self, range: Range<usize>) -> Result<Vec<T>> {
        self.window.get(all("get"), self.target, range)
    }

    /// As [`Epoch::get_into`].
    #[track_caller]
    pub fn get_into(&self, offset: usize, into: &mut [T]) -> Result<()> {
        self.window.get_into(all("get_into"), self.target, offset, into)
    }

    /// As [`Epoch::accumulate`].
    #[track_caller]
    pub fn accumulate(&self, offset: usize, values: &[T], op: impl AtomicOp<T>) -> Result<()> {
        self.window.accumulate(all("accumulate"), self.target, offset, values, op)
    }

    /// As [`Epoch::get_accumulate`].
    #[track_caller]
    pub fn get_accumulate(
        &self,
        offset: usize,
        values: &[T],
        op: impl AtomicOp<T>,
    ) -> Result<Vec<T>> {
        self.window.get_accumulate(all("get_accumulate"), self.target, offset, values, op)
    }

    /// As [`Epoch::fetch_op`].
    #[track_caller]
    pub fn fetch_op(&self, at: usize, value: T, op: impl AtomicOp<T>) -> Result<T> {
        self.window.fetch_op(all("fetch_op"), self.target, at, value, op)
    }

    /// As [`Epoch::compare_swap`].
    #[track_caller]
    pub fn compare_swap(&self, at: usize, compare: T, swap: T) -> Result<T>
    where
        T: Bits,
    {
        self.window.compare_swap(all("compare_swap"), self.target, at, compare, swap)
    }

    /// As [`Epoch::flush`].
    #[track_caller]
    pub fn flush(&self) -> Result<()> {
        self.window.flush(all("flush"))
    }
}

impl<T: Plain> Window<T> {
    #[inline(always)]
    fn access(
        &self,
        target: usize,
        offset: usize,
        count: usize,
        what: Rma<'_>,
    ) -> Result<(), Fault> {
        let (rank, offset) = place::<T>(&self.region.lens, target, offset, count)?;
        let comm = &self.region.comm;
        match &what {
            Rma::Put(bytes) | Rma::Accumulate { operand: bytes, .. } => comm.moved(bytes.len(), 0),
            Rma::Get(into) => comm.moved(0, into.len()),
            Rma::FetchOp { operand: bytes, before, .. }
            | Rma::CompareSwap { swap: bytes, before, .. } => comm.moved(bytes.len(), before.len()),
        }
        comm.engine.access(self.region.id, rank, offset, what)
    }

    fn put(&self, call: Call, target: usize, offset: usize, values: &[T]) -> Result<()> {
        self.region
            .comm
            .perform(call, || self.access(target, offset, values.len(), Rma::Put(bytes_of(values))))
    }

    fn get(&self, call: Call, target: usize, range: Range<usize>) -> Result<Vec<T>> {
        self.region.comm.perform(call, || {
            let count = range.len();
            // Before so much memory is asked for.
            place::<T>(&self.region.lens, target, range.start, count)?;
            let mut landing = Landing::<T>::new(count)?;
            self.access(target, range.start, count, Rma::Get(landing.bytes_mut()))?;
            landing.into_values(count)
        })
    }

    fn get_into(&self, call: Call, target: usize, offset: usize, into: &mut [T]) -> Result<()> {
        self.region.comm.perform(call, || {
            let count = into.len();
            // Every pattern is a value.
            let Some(bytes) = bytes_of_mut(into) else { return Err(ErrorKind::Closed.into()) };
            self.access(target, offset, count, Rma::Get(bytes))
        })
    }

    fn accumulate(
        &self,
        call: Call,
        target: usize,
        offset: usize,
        values: &[T],
        op: impl AtomicOp<T>,
    ) -> Result<()> {
        self.region.comm.perform(call, || {
            let (update, element) = known::<T>(op.change())?;
            let operand = bytes_of(values);
            let what = Rma::Accumulate { operand, update, element };
            self.access(target, offset, values.len(), what)
        })
    }

    fn get_accumulate(
        &self,
        call: Call,
        target: usize,
        offset: usize,
        values: &[T],
        op: impl AtomicOp<T>,
    ) -> Result<Vec<T>> {
        self.region.comm.perform(call, || {
            let (update, element) = known::<T>(op.change())?;
            let mut before = Landing::<T>::new(values.len())?;
            let (operand, bytes) = (bytes_of(values), before.bytes_mut());
            let what = Rma::FetchOp { operand, before: bytes, update, element };
            self.access(target, offset, values.len(), what)?;
            before.into_values(values.len())
        })
    }

    fn fetch_op(
        &self,
        call: Call,
        target: usize,
        at: usize,
        value: T,
        op: impl AtomicOp<T>,
    ) -> Result<T> {
        self.region.comm.perform(call, || {
            let (update, element) = known::<T>(op.change())?;
            let mut old = value;
            let (operand, before) = (bytemuck::bytes_of(&value), bytemuck::bytes_of_mut(&mut old));
            self.access(target, at, 1, Rma::FetchOp { operand, before, update, element })?;
            Ok(old)
        })
    }

    fn compare_swap(&self, call: Call, target: usize, at: usize, compare: T, swap: T) -> Result<T>
    where
        T: Bits,
    {
        self.region.comm.perform(call, || {
            let (_, element) = known::<T>(Change(Update::NoOp, T::element().0))?;
            let mut old = compare;
            let (swap, before) = (bytemuck::bytes_of(&swap), bytemuck::bytes_of_mut(&mut old));
            let compare = bytemuck::bytes_of(&compare);
            self.access(target, at, 1, Rma::CompareSwap { compare, swap, before, element })?;
            Ok(old)
        })
    }

    fn flush(&self, call: Call) -> Result<()> {
        let region = &self.region;
        region.comm.perform(call, || region.comm.engine.flush_window(region.id))
    }
}

/// The change, if the elements are as large as it says: a type of the program's own may claim to be
/// any number.
fn known<T>(Change(update, element): Change) -> Result<(Update, Element), Fault> {
    if element.size() == size_of::<T>() {
        return Ok((update, element));
    }
    let what = "elements of this type are not as large as the number that it says it is";
    Err(ErrorKind::Unsupported { what, how: "use Rust's own numbers in windows" }.into())
}
