//! What is removed when the process is ended from outside: by a signal, or by `exit` while a file
//! is being written.
//!
//! A signal handler may not allocate, nor wait for a lock. So the list is one that only grows,
//! whose entries are used again and hold their path in an atomic pointer: whoever takes the pointer
//! out has the path.

use std::{
    ffi::{CString, c_char},
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr,
    sync::{
        Once,
        atomic::{AtomicPtr, AtomicU32, Ordering},
    },
};

use nix::libc;

use crate::signals;

/// A path to remove, or none.
struct Entry {
    path: AtomicPtr<c_char>,
    /// The entry made before this one; entries live as long as the process.
    next: *const Entry,
}

/// The entry that was made last.
static NEWEST: AtomicPtr<Entry> = AtomicPtr::new(ptr::null_mut());

/// Whose files these are: a child that was forked off removes nothing.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// The file is removed if the process ends while this exists.
#[derive(Debug)]
pub(super) struct Registered(Option<&'static AtomicPtr<c_char>>);

impl Registered {
    pub(super) fn new(path: &Path) -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| signals::before_the_end(remove_all));
        PROCESS.store(std::process::id(), Ordering::Relaxed);
        // A path with a zero byte is none: such a file cannot have been created.
        let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return Self(None) };
        let path = path.into_raw();
        let free = entries().find(|entry| {
            let (none, order) = (ptr::null_mut(), Ordering::AcqRel);
            entry.path.compare_exchange(none, path, order, Ordering::Relaxed).is_ok()
        });
        let entry = free.unwrap_or_else(|| {
            let (path, next) = (AtomicPtr::new(path), ptr::null());
            let entry = Box::leak(Box::new(Entry { path, next }));
            let mut newest = NEWEST.load(Ordering::Acquire);
            loop {
                entry.next = newest;
                let mine = ptr::from_mut(entry);
                match NEWEST.compare_exchange(newest, mine, Ordering::AcqRel, Ordering::Acquire) {
                    // SAFETY: the entry was leaked, and nothing of it but the pointer inside
                    // changes any more.
                    Ok(_) => return unsafe { &*mine },
                    Err(other) => newest = other,
                }
            }
        });
        Self(Some(&entry.path))
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let Some(path) = self.0 else { return };
        let path = path.swap(ptr::null_mut(), Ordering::AcqRel);
        if !path.is_null() {
            // SAFETY: every path in an entry came from `into_raw`, and whoever takes it out has it
            // alone.
            drop(unsafe { CString::from_raw(path) });
        }
    }
}

fn entries() -> impl Iterator<Item = &'static Entry> {
    let mut next = NEWEST.load(Ordering::Acquire).cast_const();
    std::iter::from_fn(move || {
        // SAFETY: null or an entry, which lives as long as the process and was complete when its
        // address was published.
        let entry = unsafe { next.as_ref() }?;
        next = entry.next;
        Some(entry)
    })
}

/// Removes all files that are being written, because the process ends at once. May be called in a
/// signal handler.
fn remove_all() {
    if PROCESS.load(Ordering::Relaxed) != std::process::id() {
        return;
    }
    for entry in entries() {
        let path = entry.path.swap(ptr::null_mut(), Ordering::AcqRel);
        if !path.is_null() {
            // SAFETY: a string that ends with a zero byte, and is nobody else's: it is never freed.
            unsafe { libc::unlink(path) };
        }
    }
}
