//! Windows: memory that other ranks reach.
//!
//! Every window is open to all ranks (`MPI_Win_lock_all`) from its beginning to its end, so that an
//! access needs no more than to be completed (`MPI_Win_flush`). MPI allows no lock on a part while
//! that is so, and the locks of libraries differ in whom they let pass first; so a lock is ours,
//! see [`lock`].

mod access;
mod lock;
mod open;

use std::{
    cell::{Cell, RefCell},
    ffi::c_int,
    rc::Rc,
};

use mpi::ffi;

use self::{
    access::access,
    lock::{lock, unlock},
    open::open,
};
use super::{
    MpiEngine,
    predictor::{Act, Form},
    raw::check,
    room,
};
use crate::{
    datum::LentWrite,
    engine::{Access, Context, Rank, Rma, WindowId, Windows},
    error::{ErrorKind, Fault},
};

type Outcome = Result<(), Fault>;

/// Where every part begins.
const ALIGNMENT: usize = 64;

/// No more bytes than this are moved by one call of the library.
const CHUNK_BYTES: usize = 1 << 30;

/// A window of the program.
pub(super) struct Window {
    memory: ffi::MPI_Win,
    /// The words of the locks: three for each rank, on that rank.
    locks: ffi::MPI_Win,
    access: Access,
    /// See `Window::miscombines`.
    loses_bits: bool,
    saturates: bool,
    me: Rank,
    parts: Vec<Part>,
    /// Where the memory that this process can touch begins: this rank's part, or, if shared, the
    /// first of all.
    base: *mut u8,
    changed: RefCell<Changed>,
    /// Whether the program has a hold of the window, and perhaps of its memory.
    held: Cell<bool>,
}

/// Where the part of a rank is.
struct Part {
    /// The rank whose memory of the library it is in.
    host: c_int,
    /// Where it begins there.
    start: usize,
    bytes: usize,
}

/// What this rank has done to other parts.
struct Changed {
    /// Whether a change may be on its way.
    on_its_way: Vec<bool>,
    /// How the part is held.
    held: Vec<Option<Hold>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hold {
    Shared,
    Exclusive,
}

impl Windows for MpiEngine {
    fn open_window(
        &self,
        context: Context,
        _seq: u64,
        bytes: usize,
        access: Access,
    ) -> Result<WindowId, Fault> {
        let _waiting = self.waiting();
        open(self, context, bytes, access)
    }

    fn window_part(&self, window: WindowId, rank: Rank) -> Result<LentWrite, Fault> {
        part(self, window, rank)
    }

    fn access(
        &self,
        window: WindowId,
        target: Rank,
        offset: usize,
        what: Rma<'_>,
    ) -> Result<(), Fault> {
        let _waiting = self.waiting();
        access(self, window, target, offset, what)
    }

    fn lock_part(&self, window: WindowId, target: Rank, exclusive: bool) -> Result<(), Fault> {
        let _waiting = self.waiting();
        lock(self, window, target, exclusive)
    }

    fn unlock_part(&self, window: WindowId, target: Rank) -> Result<(), Fault> {
        let _waiting = self.waiting();
        unlock(self, window, target)
    }

    fn flush_window(&self, window: WindowId) -> Result<(), Fault> {
        let _waiting = self.waiting();
        flush(self, window)
    }

    fn drop_window(&self, window: WindowId) {
        let_go(self, window);
    }

    fn close_window(&self, window: WindowId) -> Result<(), Fault> {
        let _waiting = self.waiting();
        close(self, window)
    }
}

impl Window {
    fn part(&self, rank: Rank) -> Result<LentWrite, Fault> {
        let Part { start, bytes, .. } = self.parts[rank.index()];
        let distance = match self.access {
            Access::Remote if rank != self.me => return Err(ErrorKind::Closed.into()),
            Access::Remote => 0,
            Access::Shared => start - self.parts[0].start,
        };
        // SAFETY: the part lies behind `base`, in memory that stays until the window is closed. Who
        // touches it when is the typed layer's to see to.
        Ok(unsafe { LentWrite::new(self.base.add(distance), bytes) })
    }

    /// MPI's rank and displacement of a byte of a part.
    fn place(&self, target: Rank, offset: usize) -> (c_int, ffi::MPI_Aint) {
        let part = &self.parts[target.index()];
        (part.host, (part.start + offset) as ffi::MPI_Aint)
    }

    /// Waits until the target has seen what this rank has done to it.
    fn complete(&self, target: Rank) -> Outcome {
        let mut changed = self.changed.borrow_mut();
        if std::mem::take(&mut changed.on_its_way[target.index()]) {
            // SAFETY: a live window, open to all.
            check(unsafe { ffi::MPI_Win_flush(self.parts[target.index()].host, self.memory) })?;
        }
        Ok(())
    }

    /// Waits until the buffers of this rank's accesses may be used again.
    fn local(&self, target: Rank) -> Outcome {
        // SAFETY: a live window, open to all.
        check(unsafe { ffi::MPI_Win_flush_local(self.parts[target.index()].host, self.memory) })
    }
}

/// A number for the ranks of a host: the smallest of their world ranks.
pub(super) fn node(engine: &MpiEngine, context: Context) -> Result<u32, Fault> {
    let pair = engine.pair(context)?;
    let act = Act::for_call(engine.call.get(), Form::Node, 0);
    engine.together(&pair, &act, || {
        let _waiting = engine.waiting();
        room::host(&pair).map(|host| host.number)
    })
}

fn part(engine: &MpiEngine, window: WindowId, rank: Rank) -> Result<LentWrite, Fault> {
    engine.window(window)?.part(rank)
}

/// Completes this rank's accesses, and makes what others have changed visible here.
fn flush(engine: &MpiEngine, window: WindowId) -> Outcome {
    let window = engine.window(window)?;
    let _waiting = engine.waiting();
    window.changed.borrow_mut().on_its_way.fill(false);
    // SAFETY: a live window, open to all.
    unsafe {
        check(ffi::MPI_Win_flush_all(window.memory))?;
        check(ffi::MPI_Win_sync(window.memory))
    }
}

/// The program has let go of the window.
fn let_go(engine: &MpiEngine, window: WindowId) {
    if let Ok(window) = engine.window(window) {
        window.held.set(false);
    }
}

/// Closes the window. Collective.
fn close(engine: &MpiEngine, window: WindowId) -> Outcome {
    let window = engine.windows.borrow_mut().get_mut(window.0 as usize).and_then(Option::take);
    let window = window.ok_or(ErrorKind::Closed)?;
    let _waiting = engine.waiting();
    for mut win in [window.memory, window.locks] {
        // SAFETY: a live window of our own, open to all and freed once.
        unsafe {
            check(ffi::MPI_Win_unlock_all(win))?;
            check(ffi::MPI_Win_free(&raw mut win))?;
        }
    }
    Ok(())
}

impl MpiEngine {
    /// Forgets all windows, at the end; whether the program still holds one.
    pub(super) fn forget_windows(&self) -> bool {
        self.windows.take().into_iter().flatten().any(|window| window.held.get())
    }

    fn window(&self, window: WindowId) -> Result<Rc<Window>, Fault> {
        let windows = self.windows.borrow();
        windows
            .get(window.0 as usize)
            .and_then(Clone::clone)
            .ok_or_else(|| ErrorKind::Closed.into())
    }
}
