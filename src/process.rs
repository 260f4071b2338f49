//! The end of the process.

use std::{ffi::c_int, sync::OnceLock};

use nix::libc;

/// What looks at the end of the process.
static LOOK: OnceLock<fn(Option<i32>)> = OnceLock::new();

/// Has `look` called when the process ends by `exit`: on the thread that ends it, with the exit
/// code where the system tells it. Later calls do nothing.
pub(crate) fn at_exit(look: fn(Option<i32>)) {
    if LOOK.set(look).is_ok() {
        system::register();
    }
}

/// What is done even where the process leaves at once.
static LAST: OnceLock<fn()> = OnceLock::new();

/// Has `last` called before the process leaves at once, by [`leave`]. Later calls do nothing.
pub(crate) fn before_leaving(last: fn()) {
    let _ = LAST.set(last);
}

/// Does what is done before the process leaves.
pub(crate) fn last_words() {
    LAST.get().inspect(|last| last());
}

/// Ends this process at once, without the clean-up that a library in the middle of a call might
/// never finish.
pub(crate) fn leave(code: u8) -> ! {
    last_words();
    // SAFETY: ends the process; nothing runs afterwards.
    unsafe { libc::_exit(c_int::from(code)) }
}

/// Who has started this process.
#[cfg(feature = "mpi")]
static PARENT: OnceLock<i32> = OnceLock::new();

/// Notes who has started this process.
#[cfg(feature = "mpi")]
pub(crate) fn note_parent() {
    PARENT.get_or_init(parent);
}

#[cfg(feature = "mpi")]
fn parent() -> i32 {
    // SAFETY: asks for a number.
    unsafe { libc::getppid() }
}

/// Asks the process that has started this one to end, and what it has started; if it is still there.
#[cfg(feature = "mpi")]
pub(crate) fn end_parent() {
    if let Some(&launcher) = PARENT.get().filter(|&&noted| noted == parent() && noted > 1) {
        // SAFETY: sends a signal, to a launcher that takes it as its user's wish to end the job.
        unsafe { libc::kill(launcher, libc::SIGTERM) };
    }
}

/// Ends this process by a signal: for whoever takes no notice of one that leaves.
#[cfg(feature = "mpi")]
pub(crate) fn die() -> ! {
    last_words();
    // SAFETY: sends a signal to this process, which no handler takes.
    unsafe { libc::raise(libc::SIGKILL) };
    leave(1)
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod system {
    use std::{
        ffi::{c_int, c_void},
        ptr::null_mut,
    };

    // SAFETY: glibc's declaration; the libc crate has none.
    unsafe extern "C" {
        fn on_exit(ended: extern "C" fn(c_int, *mut c_void), with: *mut c_void) -> c_int;
    }

    pub(super) fn register() {
        // SAFETY: the handler lives as long as the process, and makes nothing of the pointer.
        unsafe { on_exit(ended, null_mut()) };
    }

    extern "C" fn ended(code: c_int, _: *mut c_void) {
        super::LOOK.get().inspect(|look| look(Some(code)));
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod system {
    pub(super) fn register() {
        // SAFETY: the handler lives as long as the process.
        unsafe { super::libc::atexit(ended) };
    }

    extern "C" fn ended() {
        super::LOOK.get().inspect(|look| look(None));
    }
}
