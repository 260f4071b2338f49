//! The few MPI calls that need care, each with its return code checked.

use std::{
    ffi::{c_char, c_int},
    mem::MaybeUninit,
};

use mpi::ffi;

use super::losses;
use crate::error::{ErrorKind, Fault};

/// Turns a return code into a result.
pub(super) fn check(code: c_int) -> Result<(), Fault> {
    if code == ffi::MPI_SUCCESS as c_int { Ok(()) } else { Err(failure(code)) }
}

#[cold]
fn failure(code: c_int) -> Fault {
    // Longer than any library's MPI_MAX_ERROR_STRING (256 in Open MPI, 512 to 1024 in MPICH).
    let mut text = [0_u8; 2048];
    let mut len = 0;
    // SAFETY: `text` has room for MPI_MAX_ERROR_STRING characters, `len` for their number.
    let told =
        unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast::<c_char>(), &raw mut len) };
    let known = told == ffi::MPI_SUCCESS as c_int;
    let text =
        if known { &text[..usize::try_from(len).unwrap_or(0).min(text.len())] } else { b"?" };
    let text = String::from_utf8_lossy(text).trim().to_owned();
    if losses::is_loss(code) {
        return ErrorKind::RankLost { rank: None, cause: text }.into();
    }
    ErrorKind::Mpi { code, text }.into()
}

/// Whether the code says that a message was longer than its buffer.
pub(super) fn is_truncation(code: c_int) -> bool {
    let mut class = 0;
    // SAFETY: `class` is an int to write to.
    let told = unsafe { ffi::MPI_Error_class(code, &raw mut class) };
    told == ffi::MPI_SUCCESS as c_int && class == ffi::MPI_ERR_TRUNCATE as c_int
}

/// Calls a function that writes one value, and checks its return code.
///
/// # Safety
/// If the call succeeds it has written the value.
pub(super) unsafe fn made<T>(call: impl FnOnce(*mut T) -> c_int) -> Result<T, Fault> {
    let mut value = MaybeUninit::uninit();
    check(call(value.as_mut_ptr()))?;
    // SAFETY: by this function's contract.
    Ok(unsafe { value.assume_init() })
}

/// A status that a call may write to.
pub(super) fn blank_status() -> ffi::MPI_Status {
    // SAFETY: MPI_Status is a C struct of integers (and, in some libraries, arrays of them): all
    // zero is a value.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// The size in bytes of what the status tells of; 0 if the library cannot say.
#[inline]
pub(super) fn bytes_in(status: &ffi::MPI_Status) -> usize {
    let mut few = -1;
    // SAFETY: the status was filled in by a receive or probe (or is zero); MPI_UINT8_T is a
    // predefined type.
    let code = unsafe { ffi::MPI_Get_count(status, ffi::RSMPI_UINT8_T, &raw mut few) };
    match usize::try_from(few) {
        Ok(bytes) if code == ffi::MPI_SUCCESS as c_int => bytes,
        _ => many_bytes_in(status), // more than an `int` can tell
    }
}

#[cold]
fn many_bytes_in(status: &ffi::MPI_Status) -> usize {
    let mut count: ffi::MPI_Count = 0;
    // SAFETY: as above.
    let code = unsafe { ffi::MPI_Get_elements_x(status, ffi::RSMPI_UINT8_T, &raw mut count) };
    if code == ffi::MPI_SUCCESS as c_int { usize::try_from(count).unwrap_or(0) } else { 0 }
}

/// What a call is told of the bytes at an address: so many of a type.
pub(super) struct Extent {
    pub(super) count: c_int,
    pub(super) unit: ffi::MPI_Datatype,
    /// Where `unit` is a type of our own.
    _own: Option<Datatype>,
}

impl Extent {
    /// So many bytes.
    #[inline(always)]
    pub(super) fn bytes(len: usize) -> Result<Self, Fault> {
        // SAFETY: reading the library's handle of a predefined type.
        let byte = unsafe { ffi::RSMPI_UINT8_T };
        match c_int::try_from(len) {
            Ok(count) => Ok(Self { count, unit: byte, _own: None }),
            Err(_) => Datatype::head_and_body(0, 0, len).map(Self::one),
        }
    }

    /// So many of a type that lives longer.
    pub(super) fn of(count: c_int, unit: ffi::MPI_Datatype) -> Self {
        Self { count, unit, _own: None }
    }

    /// One of a type of our own.
    pub(super) fn one(own: Datatype) -> Self {
        Self { count: 1, unit: own.raw(), _own: Some(own) }
    }
}

/// A datatype of our own, freed when it goes out of scope (MPI keeps it for the operations that it
/// was used for).
pub(super) struct Datatype(ffi::MPI_Datatype);

/// Blocks of this size make up the long part of a message, so that no count exceeds a C int.
const CHUNK_BYTES: usize = 1 << 30;

impl Datatype {
    pub(super) fn raw(&self) -> ffi::MPI_Datatype {
        self.0
    }

    /// `head` bytes at the address that a call is given, followed by `len` bytes `distance` bytes
    /// away from it: a message of any size whose parts lie apart in memory.
    pub(super) fn head_and_body(head: usize, distance: isize, len: usize) -> Result<Self, Fault> {
        Self::parts(&[(head, 0), (len, distance)])
    }

    /// `len` bytes, at most a chunk, and a byte that is left out: several of it are not contiguous.
    pub(super) fn with_gap(len: usize) -> Result<Self, Fault> {
        // SAFETY: reading the library's handle of a predefined type.
        let dense = Self::contiguous(unsafe { ffi::RSMPI_UINT8_T }, len)?;
        let extent = (len + 1) as ffi::MPI_Aint;
        // SAFETY: a live datatype of our own.
        let mut gapped = unsafe {
            made(|made| ffi::MPI_Type_create_resized(dense.0, 0, extent, made)).map(Self)
        }?;
        // SAFETY: as above.
        check(unsafe { ffi::MPI_Type_commit(&raw mut gapped.0) })?;
        Ok(gapped)
    }

    /// Parts of so many bytes, so far away from the address that a call is given.
    pub(super) fn parts(parts: &[(usize, isize)]) -> Result<Self, Fault> {
        // SAFETY: reading the library's handle of a predefined type.
        let byte = unsafe { ffi::RSMPI_UINT8_T };
        let large = parts.iter().any(|&(len, _)| len >= CHUNK_BYTES);
        let chunk = Self::contiguous(byte, if large { CHUNK_BYTES } else { 1 })?;
        // Each part in whole chunks and a rest; at most four parts.
        let (mut lengths, mut places, mut types) = ([0; 8], [0 as ffi::MPI_Aint; 8], [byte; 8]);
        for (part, &(len, place)) in parts.iter().enumerate() {
            let Chunks { whole: chunks, rest, rest_at } = Chunks::of(len, CHUNK_BYTES);
            let at = 2 * part;
            (lengths[at], lengths[at + 1]) = (chunks, rest);
            // 64 bits, by different names
            (places[at], places[at + 1]) = (place as _, (place + rest_at as isize) as _);
            types[at] = chunk.0;
        }
        let blocks = 2 * parts.len() as c_int;
        // SAFETY: so many blocks, with as many lengths, places and types of live datatypes.
        let whole = unsafe {
            made(|made| {
                let (lengths, places, types) = (lengths.as_ptr(), places.as_ptr(), types.as_ptr());
                ffi::MPI_Type_create_struct(blocks, lengths, places, types, made)
            })
        };
        let mut whole = Self(whole?);
        // SAFETY: a live datatype of our own.
        check(unsafe { ffi::MPI_Type_commit(&raw mut whole.0) })?;
        Ok(whole)
    }

    fn contiguous(of: ffi::MPI_Datatype, count: usize) -> Result<Self, Fault> {
        // SAFETY: a live datatype; the count is at most CHUNK_BYTES, which fits into an int.
        unsafe { made(|made| ffi::MPI_Type_contiguous(count as c_int, of, made)) }.map(Self)
    }
}

/// A length in numbers that fit into a C int.
#[derive(Debug, PartialEq, Eq)]
struct Chunks {
    whole: c_int,
    /// The bytes behind the last whole chunk.
    rest: c_int,
    rest_at: usize,
}

impl Chunks {
    fn of(len: usize, chunk_bytes: usize) -> Self {
        let (chunks, rest) = (len / chunk_bytes, len % chunk_bytes);
        Self { whole: chunks as c_int, rest: rest as c_int, rest_at: chunks * chunk_bytes }
    }
}

impl Drop for Datatype {
    fn drop(&mut self) {
        // SAFETY: a live datatype of our own, freed once. There is nobody to tell of a failure to
        // free.
        unsafe { ffi::MPI_Type_free(&raw mut self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_and_rest_make_up_any_length() {
        for len in [0, 1, 6, 7, 8, 20, 21, 22] {
            let Chunks { whole: chunks, rest, rest_at } = Chunks::of(len, 7);
            assert_eq!(chunks as usize * 7 + rest as usize, len);
            assert_eq!(rest_at, chunks as usize * 7);
        }
        let beyond = Chunks::of((1 << 32) + 5, CHUNK_BYTES);
        assert_eq!(beyond, Chunks { whole: 4, rest: 5, rest_at: 1 << 32 });
    }
}
