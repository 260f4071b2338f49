//! Signals that end the process: what is done before, and the first wish to stop, which a program
//! may hear.
//!
//! A signal handler may not allocate, nor wait for a lock: all that it reads are atomics.

use std::{
    ffi::c_int,
    ptr,
    sync::{
        Once,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
};

use nix::{libc, sys::signal::Signal};

use crate::process;

/// Signals that end a process unless it says otherwise.
const ENDING: [c_int; 9] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGABRT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGXCPU,
    libc::SIGXFSZ,
];

/// Those that ask a program to stop, where it hears them.
const ASKING: [c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGUSR1];

/// Whether the first of those is noted, and no more.
static HEARS: AtomicBool = AtomicBool::new(false);

/// The signal that has asked this process to stop, or 0.
static ASKED: AtomicI32 = AtomicI32::new(0);

/// Has `last` called before the process ends: by a signal, by `exit`, or at once. It must be one
/// that may be called in a signal handler. Signals that the program ignores, or handles itself,
/// stay as they are.
pub(crate) fn before_the_end(last: fn()) {
    extern "C" fn at_exit() {
        process::last_words();
    }
    static ONCE: Once = Once::new();
    process::before_leaving(last);
    ONCE.call_once(|| {
        // SAFETY: `at_exit` is a function that may be called when the process ends.
        unsafe { libc::atexit(at_exit) };
    });
    ENDING.into_iter().for_each(catch);
}

/// From now on the first signal that asks to stop is noted, and the process goes on; the second one
/// ends it. Signals that the program ignores, or handles itself, stay as they are.
pub(crate) fn hear() {
    HEARS.store(true, Ordering::Release);
    ASKING.into_iter().for_each(catch);
}

/// The name of the signal that has asked to stop.
pub(crate) fn heard() -> Option<&'static str> {
    let signal = ASKED.load(Ordering::Acquire);
    Signal::try_from(signal).ok().map(Signal::as_str)
}

/// Takes over a signal that has its default action.
fn catch(signal: c_int) {
    // SAFETY: all zero is a value of this type: the default action, no flags, no signals blocked.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: null stands for "tell me the present action", which is written to `action`.
    let told = unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) };
    if told == 0 && action.sa_sigaction == libc::SIG_DFL {
        action.sa_sigaction = on_signal as extern "C" fn(c_int) as usize;
        // The system call that the signal comes into goes on.
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: the handler calls only what a handler may: it reads and writes atomics, and calls
        // `sigaction`, `raise` and what `before_the_end` was given.
        unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    }
}

extern "C" fn on_signal(signal: c_int) {
    if HEARS.load(Ordering::Acquire)
        && ASKING.contains(&signal)
        && ASKED.compare_exchange(0, signal, Ordering::AcqRel, Ordering::Acquire).is_ok()
    {
        return;
    }
    process::last_words();
    // SAFETY: all zero is the default action, which ends the process when this handler returns: the
    // signal is blocked until then. Both calls may be made in a handler.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, &raw const default, ptr::null_mut());
        libc::raise(signal);
    }
}
