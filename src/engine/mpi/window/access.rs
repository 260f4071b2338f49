//! Accesses to other ranks' parts.

use std::ffi::{c_int, c_void};

use mpi::ffi;

use super::{CHUNK_BYTES, Outcome, Window};
use crate::{
    engine::{
        Builtin, Element, Rank, Rma, WindowId,
        mpi::{
            MpiEngine,
            collective::{datatype, operator},
            dynamic::{Special, special},
            raw::check,
        },
        window::Update,
    },
    error::{ErrorKind, Fault},
};

/// Reads or changes a part. What this rank has put there before is there when it reads or combines.
pub(super) fn access(
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
