//! The synchronisation primitives of `local`: std's, or loom's while its models run.
//!
//! `Arc` is std's in both: nothing here depends on when a count reaches zero, and each count that
//! loom followed would multiply the orders it has to try.

use std::time::Duration;

#[cfg(loom)]
pub(super) use loom::{
    cell::UnsafeCell,
    hint::spin_loop,
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
    },
    thread::yield_now,
};
#[cfg(not(loom))]
pub(super) use std::{
    hint::spin_loop,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
    },
    thread::yield_now,
};

#[cfg(all(not(loom), tsan))]
use std::sync::TryLockError;

/// std's cell with the interface of loom's, which sees every access and reports races.
#[cfg(not(loom))]
pub(super) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(super) fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    pub(super) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// Locks; a panic of another rank inside the lock would not have left the data half changed.
///
/// `ThreadSanitizer` sees what is compiled here. std's wait for a lock is compiled elsewhere, so
/// that a lock which had to be waited for would order nothing in its eyes; under `cfg(tsan)` it is
/// tried until it is free.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    #[cfg(loom)]
    return mutex.lock().unwrap();
    #[cfg(all(not(loom), tsan))]
    loop {
        match mutex.try_lock() {
            Ok(guard) => return guard,
            Err(TryLockError::Poisoned(guard)) => return guard.into_inner(),
            Err(TryLockError::WouldBlock) => yield_now(),
        }
    }
    #[cfg(not(any(loom, tsan)))]
    return mutex.lock().unwrap_or_else(PoisonError::into_inner);
}

/// Waits on a condition variable, as [`lock`] locks.
pub(super) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    #[cfg(not(loom))]
    return condvar.wait(guard).unwrap_or_else(PoisonError::into_inner);
    #[cfg(loom)]
    return condvar.wait(guard).unwrap();
}

/// As [`wait`], for so long at most; in loom's models time does not pass. `guard` is of `mutex`.
///
/// Under `cfg(tsan)` it only lets others run, since `ThreadSanitizer` does not see how std gives
/// the lock up and takes it again.
#[cfg_attr(any(tsan, loom), allow(unused_variables))]
pub(super) fn wait_for<'a, T>(
    condvar: &Condvar,
    mutex: &'a Mutex<T>,
    guard: MutexGuard<'a, T>,
    long: Duration,
) -> MutexGuard<'a, T> {
    #[cfg(all(not(loom), tsan))]
    {
        drop(guard);
        yield_now();
        return lock(mutex);
    }
    #[cfg(not(any(loom, tsan)))]
    let _ = mutex;
    #[cfg(not(any(loom, tsan)))]
    return condvar.wait_timeout(guard, long).unwrap_or_else(PoisonError::into_inner).0;
    #[cfg(loom)]
    return condvar.wait_timeout(guard, long).unwrap().0;
}

/// The two halves of "change, then look whether somebody sleeps" against "announce sleep, then look
/// for changes".
///
/// Both need a full fence between their steps. Where sleeps are rare the sleeper can make the fence
/// for both sides: the system call `membarrier` makes every running thread of the process pass one,
/// so that the waker, who is on the hot path, need only keep the compiler from turning its steps
/// round.
pub(super) struct AsymmetricFence {
    asymmetric: bool,
}

impl AsymmetricFence {
    pub(super) fn new(sleeps_are_rare: bool) -> Self {
        Self { asymmetric: sleeps_are_rare && membarrier(Membarrier::Register) }
    }

    /// Between the announcement of sleep and the last look.
    pub(super) fn heavy(&self) {
        if !(self.asymmetric && membarrier(Membarrier::Pass)) {
            fence(Ordering::SeqCst);
        }
    }

    /// Between a change and the look whether somebody sleeps.
    #[inline]
    pub(super) fn light(&self) {
        if self.asymmetric {
            std::sync::atomic::compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }
}

#[derive(Clone, Copy)]
enum Membarrier {
    Register,
    Pass,
}

/// Whether the system did it. Once it has registered the process it always passes the barrier.
#[cfg(all(target_os = "linux", not(any(loom, tsan))))]
fn membarrier(what: Membarrier) -> bool {
    use nix::libc;
    let command = match what {
        Membarrier::Pass => libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED,
        Membarrier::Register => libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED,
    };
    // SAFETY: this system call takes two numbers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0) == 0 }
}

#[cfg(not(all(target_os = "linux", not(any(loom, tsan)))))]
fn membarrier(_: Membarrier) -> bool {
    false
}
