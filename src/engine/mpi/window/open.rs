//! How a window comes into being.

use std::{
    cell::{Cell, RefCell},
    ffi::{c_int, c_void},
    rc::Rc,
};

use mpi::ffi;

use super::{ALIGNMENT, Changed, Part, Window, lock::LOCK_BYTES};
use crate::{
    engine::{
        Access, Builtin, Context, Element, Rank, WindowId,
        mpi::{
            CommPair, MpiEngine,
            collective::{allgather, saturates},
            predictor::{Act, Form},
            raw::{check, made},
            room,
        },
    },
    error::Fault,
};

/// Opens a window.
pub(super) fn open(
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
    let loses_bits =
        kind == Access::Remote && engine.basis.about.library.starts_with("Open MPI v5.");
    let saturates = saturates(&engine.basis.about.library, Builtin::Sum, Element::U8);
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
    allgather(engine, pair, bytemuck::cast_slice(&mine), bytemuck::cast_slice_mut(&mut all))?;
    Ok(all)
}
