//! Receives that no message can overrun.
//!
//! Some libraries write a message that is longer than the receiver's buffer behind its end before they report that it is
//! too long: Open MPI 4.1 and 5.0 copy what was sent straight into contiguous memory (its protocols `get` and `put`, from
//! about a kilobyte up). A library is asked once, with memory to spare. Where it does so, a blocking receive looks at the
//! message's size first, and a non-blocking one describes its buffer as pieces that might lie apart, which makes the
//! library unpack within bounds.

use std::ffi::{c_int, c_void};

use mpi::ffi;

use super::raw::{Extent, blank_status, check, made};
use crate::error::ErrorKind;

/// Datatypes of 1, 2, 4, … bytes that look as if there were gaps between them. They live as long as MPI does.
pub(super) struct Guard {
    pieces: Vec<ffi::MPI_Datatype>,
}

/// The largest piece has 2 to this power bytes.
const LARGEST: u32 = 29;

impl Guard {
    /// What receives on this library need: nothing, if it keeps to their bounds. `comm` carries no other message.
    pub(super) fn where_needed(comm: ffi::MPI_Comm, me: c_int) -> Result<Option<Self>, ErrorKind> {
        if !overruns(comm, me)? {
            return Ok(None);
        }
        let piece = |power: u32| {
            let bytes: c_int = 1 << power;
            // SAFETY: `byte` is a predefined type, the others are made here, used once and freed; a type made of another
            // does not need it any more.
            unsafe {
                let byte = ffi::RSMPI_UINT8_T;
                let mut plain = made(|made| ffi::MPI_Type_contiguous(bytes, byte, made))?;
                let resized = made(|made| {
                    ffi::MPI_Type_create_resized(plain, -1, bytes as ffi::MPI_Aint, made)
                });
                check(ffi::MPI_Type_free(&raw mut plain))?;
                let mut resized = resized?;
                check(ffi::MPI_Type_commit(&raw mut resized))?;
                Ok(resized)
            }
        };
        Ok(Some(Self { pieces: (0..=LARGEST).map(piece).collect::<Result<_, ErrorKind>>()? }))
    }

    /// So many bytes, 2 at least, in 2 pieces or more.
    pub(super) fn extent(&self, len: usize) -> Result<Extent, ErrorKind> {
        let power = len.trailing_zeros().min(LARGEST);
        let power = if len >> power == 1 { power - 1 } else { power };
        let count = c_int::try_from(len >> power).map_err(|_| ErrorKind::Unsupported {
            what: "this MPI library cannot receive so odd a number of bytes safely without blocking",
            how: "use `recv` or `recv_into`, or a multiple of 8 bytes",
        })?;
        Ok(Extent::of(count, self.pieces[power as usize]))
    }
}

/// Whether a message that is too long is written behind its buffer's end.
fn overruns(comm: ffi::MPI_Comm, me: c_int) -> Result<bool, ErrorKind> {
    const SENT: usize = 1 << 14;
    const ROOM: usize = 8;
    let (sent, mut room) = (vec![1_u8; SENT], vec![0_u8; SENT]);
    let (from, into) = (sent.as_ptr().cast::<c_void>(), room.as_mut_ptr().cast::<c_void>());
    // SAFETY: whatever the library writes lies within `room`, which has space for all that is sent. Both requests are
    // complete before the memory goes.
    unsafe {
        let byte = ffi::RSMPI_UINT8_T;
        let mut receiving =
            made(|made| ffi::MPI_Irecv(into, ROOM as c_int, byte, me, 0, comm, made))?;
        let mut sending =
            made(|made| ffi::MPI_Isend(from, SENT as c_int, byte, me, 0, comm, made))?;
        let mut status = blank_status();
        ffi::MPI_Wait(&raw mut receiving, &raw mut status); // says that the message is too long
        check(ffi::MPI_Wait(&raw mut sending, &raw mut status))?;
    }
    Ok(room[ROOM..].iter().any(|&byte| byte != 0))
}
