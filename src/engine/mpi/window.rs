//! Windows: memory that other ranks reach.
//!
//! Every window is open to all ranks (`MPI_Win_lock_all`) from its beginning to its end, so that an
//! access needs no more than to be completed (`MPI_Win_flush`). MPI allows no lock on a part while
//! that is so, and the locks of libraries differ in whom they let pass first; so a lock is ours,
//! see [`lock`].

use std::{
    cell::{Cell, RefCell},
    ffi::{c_int, c_void},
    rc::Rc,
};

use mpi::ffi;

use super::{
    CommPair, MpiEngine,
    collective::{datatype, operator, saturates},
    dynamic::{Special, special},
    predictor::{Act, Form},
    progress::poll_until,
    raw::{check, made},
    room,
};
use crate::{
    datum::LentWrite,
    engine::{Access, Builtin, Context, Element, Rank, Rma, WindowId, Windows, window::Update},
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

/// Opens a window.
fn open(
    engine: &MpiEngine,
    context: Context,
    bytes: usize,
    access: Access,
) -> Result<WindowId, Fault> {
    let pair = engine.pair(context)?;
    let act = Act::for_call(engine.call.get(), Form::Window(access), 0);
    engine.together(&pair, &act, || {
        // It takes communicators of the library's own.
        make(engine, &pair, bytes, access).map_err(|fault| engine.no_communicator(*fault))
    })
}

/// Makes a window, all ranks of the pair being here. Collective.
fn make(
    engine: &MpiEngine,
    pair: &CommPair,
    bytes: usize,
    access: Access,
) -> Result<WindowId, Fault> {
    let ranks = pair.ranks.len();
    let _waiting = engine.waiting();
    // What the ranks of one host reach is shared memory in any case. Said so, it does not go by way
    // of a network's emulation (whose 64-bit compare-and-swap crashes in Open MPI 4.1).
    let host = room::host(pair)?;
    let kind = if host.has_all { Access::Shared } else { Access::Remote };
    // Beside the part: where it begins, and the words of the locks.
    room::ask(engine, pair, &host, bytes.saturating_add(2 * ALIGNMENT))?;
    let (memory, base, parts) = match access {
        Access::Remote => {
            let (memory, start) = allocate(pair, bytes + ALIGNMENT, kind)?;
            let shift = start.align_offset(ALIGNMENT);
            let all = tell(engine, pair, [shift as u64, bytes as u64])?;
            let part = |(host, [start, bytes]): (usize, [u64; 2])| Part {
                host: host as c_int,
                start: start as usize,
                bytes: bytes as usize,
            };
            // SAFETY: the library has given ALIGNMENT bytes more than the part has.
            (memory, unsafe { start.add(shift) }, all.into_iter().enumerate().map(part).collect())
        }
        Access::Shared => {
            // All parts are in the memory of the first rank: so they lie one behind the other in
            // every library.
            let all = tell(engine, pair, [bytes as u64, 0])?;
            let total: usize = all.iter().map(|[bytes, _]| *bytes as usize).sum();
            let first = pair.me == Rank(0);
            let own = if first { total + ALIGNMENT } else { 0 };
            let (memory, own) = allocate(pair, own, access)?;
            let start = if first { own } else { address(memory)? };
            let shift = tell(engine, pair, [start.align_offset(ALIGNMENT) as u64, 0])?[0][0];
            let mut end = shift as usize;
            let part = |[bytes, _]: [u64; 2]| {
                let start = end;
                end += bytes as usize;
                Part { host: 0, start, bytes: bytes as usize }
            };
            // SAFETY: as above, in the memory of the first rank.
            (memory, unsafe { start.add(shift as usize) }, all.into_iter().map(part).collect())
        }
    };
    let (locks, words) = allocate(pair, LOCK_BYTES, kind)?;
    let changed = Changed { on_its_way: vec![false; ranks], held: vec![None; ranks] };
    let (me, changed) = (pair.me, RefCell::new(changed));
    let loses_bits = kind == Access::Remote && engine.about.library.starts_with("Open MPI v5.");
    let saturates = saturates(&engine.about.library, Builtin::Sum, Element::U8);
    let held = Cell::new(true);
    let window =
        Window { memory, locks, access, loses_bits, saturates, me, parts, base, changed, held };
    // SAFETY: this rank's own memory, of which nobody knows yet.
    unsafe {
        words.write_bytes(0, LOCK_BYTES);
        let own = window.part(me)?;
        own.start().write_bytes(0, own.len());
    }
    for win in [memory, locks] {
        // SAFETY: live windows of our own, not locked yet.
        unsafe {
            check(ffi::MPI_Win_lock_all(ffi::MPI_MODE_NOCHECK as c_int, win))?;
            check(ffi::MPI_Win_sync(win))?;
        }
    }
    tell(engine, pair, [0; 2])?; // nobody reaches a part before it is zero
    let mut windows = engine.windows.borrow_mut();
    windows.push(Some(Rc::new(window)));
    Ok(WindowId(windows.len() as u32 - 1))
}

/// Memory of the library's for a window. Collective.
fn allocate(
    pair: &CommPair,
    bytes: usize,
    access: Access,
) -> Result<(ffi::MPI_Win, *mut u8), Fault> {
    let mut start: *mut u8 = std::ptr::null_mut();
    let base = (&raw mut start).cast::<c_void>();
    let size = bytes as ffi::MPI_Aint;
    // SAFETY: a live communicator; the library writes a pointer to `start` and the window.
    let window = unsafe {
        let (info, comm) = (ffi::RSMPI_INFO_NULL, pair.coll.raw());
        made(|made| match access {
            Access::Remote => ffi::MPI_Win_allocate(size, 1, info, comm, base, made),
            Access::Shared => ffi::MPI_Win_allocate_shared(size, 1, info, comm, base, made),
        })
    }?;
    // SAFETY: a live window and a predefined handler.
    check(unsafe { ffi::MPI_Win_set_errhandler(window, ffi::RSMPI_ERRORS_RETURN) })?;
    Ok((window, start))
}

/// Where the memory of the first rank is in this process.
fn address(window: ffi::MPI_Win) -> Result<*mut u8, Fault> {
    let (mut size, mut unit, mut start) = (0, 0, std::ptr::null_mut::<u8>());
    // SAFETY: a live shared window; the library writes size, unit and a pointer.
    check(unsafe {
        let base = (&raw mut start).cast::<c_void>();
        ffi::MPI_Win_shared_query(window, 0, &raw mut size, &raw mut unit, base)
    })?;
    Ok(start)
}

/// What each rank has to say.
fn tell(engine: &MpiEngine, pair: &CommPair, mine: [u64; 2]) -> Result<Vec<[u64; 2]>, Fault> {
    let mut all = vec![[0_u64; 2]; pair.ranks.len()];
    super::collective::allgather(
        engine,
        pair,
        bytemuck::cast_slice(&mine),
        bytemuck::cast_slice_mut(&mut all),
    )?;
    Ok(all)
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

/// Reads or changes a part. What this rank has put there before is there when it reads or combines.
fn access(
    engine: &MpiEngine,
    window: WindowId,
    target: Rank,
    offset: usize,
    what: Rma<'_>,
) -> Outcome {
    let window = engine.window(window)?;
    let _waiting = engine.waiting();
    match what {
        Rma::Accumulate { operand, update: Update::Combine(op), element }
            if window.miscombines(op, element) =>
        {
            window.complete(target)?;
            window.combine_by_swaps(target, offset, operand, None, (op, element))?;
        }
        Rma::FetchOp { operand, before, update: Update::Combine(op), element }
            if window.miscombines(op, element) =>
        {
            window.complete(target)?;
            window.combine_by_swaps(target, offset, operand, Some(before), (op, element))?;
        }
        Rma::Put(bytes) => {
            for (at, chunk) in bytes.chunks(CHUNK_BYTES).enumerate() {
                window.put(target, offset + at * CHUNK_BYTES, chunk)?;
            }
            window.changed.borrow_mut().on_its_way[target.index()] = true;
        }
        Rma::Get(into) => {
            window.complete(target)?;
            for (at, chunk) in into.chunks_mut(CHUNK_BYTES).enumerate() {
                window.get(target, offset + at * CHUNK_BYTES, chunk)?;
            }
        }
        Rma::Accumulate { operand, update, element } => {
            window.complete(target)?;
            for (at, chunk) in operand.chunks(CHUNK_BYTES).enumerate() {
                window.combine(target, offset + at * CHUNK_BYTES, chunk, None, update, element)?;
            }
            window.changed.borrow_mut().on_its_way[target.index()] = true;
        }
        Rma::FetchOp { operand, before, update, element } => {
            window.complete(target)?;
            let chunks = operand.chunks(CHUNK_BYTES).zip(before.chunks_mut(CHUNK_BYTES));
            for (at, (chunk, before)) in chunks.enumerate() {
                let offset = offset + at * CHUNK_BYTES;
                window.combine(target, offset, chunk, Some(before), update, element)?;
            }
        }
        Rma::CompareSwap { compare, swap, before, element } => {
            window.complete(target)?;
            // SAFETY: each buffer holds one element, until the access is complete, below.
            unsafe { window.compare_swap(target, offset, (compare, swap), before, element) }?;
        }
    }
    window.local(target)
}

impl Window {
    fn put(&self, target: Rank, offset: usize, bytes: &[u8]) -> Outcome {
        let ((rank, place), count) = (self.place(target, offset), bytes.len() as c_int);
        // SAFETY: the bytes stay until the access is complete; the range has been checked.
        check(unsafe {
            let byte = ffi::RSMPI_UINT8_T;
            let start = bytes.as_ptr().cast();
            ffi::MPI_Put(start, count, byte, rank, place, count, byte, self.memory)
        })
    }

    fn get(&self, target: Rank, offset: usize, into: &mut [u8]) -> Outcome {
        let ((rank, place), count) = (self.place(target, offset), into.len() as c_int);
        // SAFETY: as in `put`.
        check(unsafe {
            let byte = ffi::RSMPI_UINT8_T;
            let start = into.as_mut_ptr().cast();
            ffi::MPI_Get(start, count, byte, rank, place, count, byte, self.memory)
        })
    }

    /// # Safety
    /// Each buffer holds one element, until the access is complete.
    unsafe fn compare_swap(
        &self,
        target: Rank,
        offset: usize,
        (compare, swap): (&[u8], &[u8]),
        before: &mut [u8],
        element: Element,
    ) -> Outcome {
        let ((rank, place), (of, _)) = (self.place(target, offset), datatype(element));
        let (compare, swap) = (compare.as_ptr().cast(), swap.as_ptr().cast());
        let before = before.as_mut_ptr().cast();
        // SAFETY: by this function's own contract; the range has been checked.
        check(unsafe {
            ffi::MPI_Compare_and_swap(swap, compare, before, of, rank, place, self.memory)
        })
    }

    /// Whether the library does not do what this operator is: Open MPI 5.0 over several hosts loses
    /// operands of 64 bits, and its sums of 8 and 16 bits saturate.
    fn miscombines(&self, op: Builtin, element: Element) -> bool {
        match (op, datatype(element).1) {
            (Builtin::And | Builtin::Or | Builtin::Xor, 8) => self.loses_bits,
            (Builtin::Sum, 1 | 2) => self.saturates,
            _ => false,
        }
    }

    /// As `combine`, of elements that the library combines wrongly, by compare and swap.
    fn combine_by_swaps(
        &self,
        target: Rank,
        offset: usize,
        operand: &[u8],
        mut before: Option<&mut [u8]>,
        (op, element): (Builtin, Element),
    ) -> Outcome {
        let size = datatype(element).1;
        let word = |bytes: &[u8]| {
            let mut word = [0; 8];
            word[..size].copy_from_slice(bytes); // the low bytes, see `dynamic::handle`
            u64::from_le_bytes(word)
        };
        let swap = |at: usize, seen: u64, new: u64| {
            let mut old = [0; 8];
            let words = (&seen.to_le_bytes()[..size], &new.to_le_bytes()[..size]);
            // SAFETY: each buffer holds one element until the access is complete, which is here.
            unsafe { self.compare_swap(target, offset + at, words, &mut old[..size], element) }?;
            self.local(target)?;
            Ok::<_, Fault>(word(&old[..size]))
        };
        for (number, operand) in operand.chunks_exact(size).enumerate() {
            let (at, operand) = (size * number, word(operand));
            let mut seen = swap(at, 0, 0)?; // an atomic read: a zero stays one
            loop {
                let new = match op {
                    Builtin::And => seen & operand,
                    Builtin::Or => seen | operand,
                    Builtin::Xor => seen ^ operand,
                    _ => seen.wrapping_add(operand), // its low bytes count
                };
                let old = swap(at, seen, new)?;
                if old == seen {
                    break;
                }
                seen = old;
            }
            if let Some(before) = &mut before {
                before[at..at + size].copy_from_slice(&seen.to_le_bytes()[..size]);
            }
        }
        Ok(())
    }

    /// Combines elements of a part with operands, fetching into `before` what they were.
    fn combine(
        &self,
        target: Rank,
        offset: usize,
        operand: &[u8],
        before: Option<&mut [u8]>,
        update: Update,
        element: Element,
    ) -> Outcome {
        let ((rank, place), (of, size)) = (self.place(target, offset), datatype(element));
        let op = match update {
            Update::Combine(builtin) => Some(operator(builtin)),
            Update::Replace => special(Special::Replace),
            Update::NoOp => special(Special::NoOp),
        };
        let op = op.ok_or(ErrorKind::Unsupported {
            what: "this MPI library's MPI_REPLACE and MPI_NO_OP are not known",
            how: "use an Open MPI, an MPICH or one of its kin",
        })?;
        let (count, win) = ((operand.len() / size) as c_int, self.memory);
        let operand = operand.as_ptr().cast::<c_void>();
        // SAFETY: `operand` and `before` hold `count` elements and stay until the access is
        // complete; the range has been checked.
        check(unsafe {
            match before.map(|before| before.as_mut_ptr().cast::<c_void>()) {
                None => ffi::MPI_Accumulate(operand, count, of, rank, place, count, of, op, win),
                Some(before) if count == 1 => {
                    ffi::MPI_Fetch_and_op(operand, before, of, rank, place, op, win)
                }
                Some(before) => ffi::MPI_Get_accumulate(
                    operand, count, of, before, count, of, rank, place, count, of, op, win,
                ),
            }
        })
    }
}

// ---- Locks ----

/// The words of a lock. Who wants it takes a ticket and waits until that is called; so all get it
/// in the order in which they asked, and whoever holds it exclusively calls nobody until it lets
/// go.
const TICKETS: ffi::MPI_Aint = 0;
const CALLED: ffi::MPI_Aint = 8;
/// How many hold it together.
const HOLDERS: ffi::MPI_Aint = 16;
const LOCK_BYTES: usize = 24;

impl Window {
    /// Adds to a word of the lock of `target`; what it was before.
    fn add(&self, target: Rank, word: ffi::MPI_Aint, summand: i64) -> Result<i64, Fault> {
        let (rank, win) = (target.0 as c_int, self.locks);
        let mut before = 0_i64;
        // SAFETY: both buffers hold one word until the access is complete.
        unsafe {
            let (summand, into) = ((&raw const summand).cast(), (&raw mut before).cast());
            let (word_type, sum) = (ffi::RSMPI_INT64_T, ffi::RSMPI_SUM);
            check(ffi::MPI_Fetch_and_op(summand, into, word_type, rank, word, sum, win))?;
            check(ffi::MPI_Win_flush(rank, win))?;
        }
        Ok(before)
    }

    fn await_word(&self, target: Rank, word: ffi::MPI_Aint, value: i64) -> Outcome {
        poll_until(|| Ok((self.add(target, word, 0)? == value).then_some(())))
    }
}

/// Waits until the part is free, and holds it.
fn lock(engine: &MpiEngine, window: WindowId, target: Rank, exclusive: bool) -> Outcome {
    let window = engine.window(window)?;
    if window.changed.borrow().held[target.index()].is_some() {
        return Err(ErrorKind::InvalidArgument {
            what: format!("this rank holds the part of rank {} already", target.0),
        }
        .into());
    }
    let _waiting = engine.waiting();
    let ticket = window.add(target, TICKETS, 1)?;
    window.await_word(target, CALLED, ticket)?;
    let hold = if exclusive {
        window.await_word(target, HOLDERS, 0)?;
        Hold::Exclusive
    } else {
        window.add(target, HOLDERS, 1)?;
        window.add(target, CALLED, 1)?;
        Hold::Shared
    };
    window.changed.borrow_mut().held[target.index()] = Some(hold);
    // SAFETY: a live window, open to all.
    check(unsafe { ffi::MPI_Win_sync(window.memory) })
}

/// Completes this rank's accesses to the part and lets go of it.
fn unlock(engine: &MpiEngine, window: WindowId, target: Rank) -> Outcome {
    let window = engine.window(window)?;
    let hold = window.changed.borrow_mut().held[target.index()].take();
    let hold = hold.ok_or(ErrorKind::Closed)?;
    let _waiting = engine.waiting();
    window.complete(target)?;
    // SAFETY: a live window, open to all.
    check(unsafe { ffi::MPI_Win_sync(window.memory) })?;
    match hold {
        Hold::Exclusive => window.add(target, CALLED, 1),
        Hold::Shared => window.add(target, HOLDERS, -1),
    }
    .map(drop)
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
