//! Communicators of MPI's that are ours: the one room where such are made, asked and freed.

use std::ffi::{c_int, c_void};

use mpi::ffi;

use super::{
    MpiEngine,
    raw::{check, made},
};
use crate::error::Fault;

/// A communicator of our own, whose errors are returned. It is live as long as this is, and no
/// longer.
pub(super) struct Communicator(ffi::MPI_Comm);

impl Communicator {
    /// All ranks. From now on errors of calls without a communicator, which are raised on MPI's own
    /// world, are returned too. Collective.
    pub(super) fn of_the_world() -> Result<Self, Fault> {
        let world = mpis_world();
        returns_errors(world)?;
        let own = duplicate(world)?;
        returns_errors(own.0)?;
        Ok(own)
    }

    /// One that a call writes.
    ///
    /// # Safety
    /// If the call succeeds it has written a communicator that nobody else has.
    pub(super) unsafe fn made_by(
        call: impl FnOnce(*mut ffi::MPI_Comm) -> c_int,
    ) -> Result<Self, Fault> {
        // SAFETY: by this function's contract.
        let comm = Self(unsafe { made(call) }?);
        returns_errors(comm.0)?;
        Ok(comm)
    }

    /// The library's name for it, for as long as `self` lives.
    #[inline(always)]
    pub(super) fn raw(&self) -> ffi::MPI_Comm {
        self.0
    }

    pub(super) fn rank(&self) -> Result<usize, Fault> {
        // SAFETY: a live communicator; one int is written on success.
        let rank: c_int = unsafe { made(|rank| ffi::MPI_Comm_rank(self.0, rank)) }?;
        Ok(rank as usize)
    }

    pub(super) fn size(&self) -> Result<usize, Fault> {
        // SAFETY: as above.
        let size: c_int = unsafe { made(|size| ffi::MPI_Comm_size(self.0, size)) }?;
        Ok(size as usize)
    }

    /// One with the same ranks. Collective; waits inside the library.
    pub(super) fn duplicate(&self) -> Result<Self, Fault> {
        duplicate(self.0)
    }

    /// One with the same ranks. Collective; waits as the engine does.
    pub(super) fn duplicate_by(&self, engine: &MpiEngine) -> Result<Self, Fault> {
        let comm = self.0;
        // SAFETY: a constant of the library.
        let mut copy = unsafe { ffi::RSMPI_COMM_NULL };
        let into = &raw mut copy;
        engine.collectively(|request| {
            // SAFETY: a live communicator; `copy` lives until the call is complete.
            unsafe {
                match request {
                    None => ffi::MPI_Comm_dup(comm, into),
                    Some(request) => ffi::MPI_Comm_idup(comm, into, request),
                }
            }
        })?;
        Ok(Self(copy))
    }

    /// One for the ranks that say the same group, in the order of `key`; none where there is no
    /// group. Collective.
    pub(super) fn split(&self, group: Option<u32>, key: u32) -> Result<Option<Self>, Fault> {
        // SAFETY: a constant of the library.
        let undefined = unsafe { ffi::RSMPI_UNDEFINED };
        let (color, key) = (group.map_or(undefined, |group| group as c_int), key as c_int);
        // SAFETY: a live communicator; the new one (or the null communicator) is written on
        // success.
        let new = unsafe { made(|made| ffi::MPI_Comm_split(self.0, color, key, made)) }?;
        Ok(group.map(|_| Self(new)))
    }

    /// One for the ranks that can share memory with this one, in the order of `key`. Collective.
    pub(super) fn split_by_host(&self, key: u32) -> Result<Self, Fault> {
        // SAFETY: a live communicator; the new one is written on success.
        unsafe {
            let (kind, info) = (ffi::RSMPI_COMM_TYPE_SHARED, ffi::RSMPI_INFO_NULL);
            made(|made| ffi::MPI_Comm_split_type(self.0, kind, key as c_int, info, made))
        }
        .map(Self)
    }

    /// The largest of each number of all ranks. Collective; waits inside the library.
    pub(super) fn largest<const N: usize>(&self, mine: [i64; N]) -> Result<[i64; N], Fault> {
        let (mut most, count) = (mine, N as c_int);
        let (from, into) = (mine.as_ptr().cast(), most.as_mut_ptr().cast());
        // SAFETY: a live communicator; each rank gives and gets so many integers.
        check(unsafe {
            ffi::MPI_Allreduce(from, into, count, ffi::RSMPI_INT64_T, ffi::RSMPI_MAX, self.0)
        })?;
        Ok(most)
    }

    /// The largest tag of its messages.
    pub(super) fn tag_limit(&self) -> Result<u32, Fault> {
        let mut value: *mut c_int = std::ptr::null_mut();
        let mut found = 0;
        let into = (&raw mut value).cast::<c_void>();
        let key = ffi::MPI_TAG_UB as c_int;
        // SAFETY: for MPI_TAG_UB the library writes the address of an int that lives as long as MPI
        // does.
        check(unsafe { ffi::MPI_Comm_get_attr(self.0, key, into, &raw mut found) })?;
        if found == 0 || value.is_null() {
            return Ok(32_767); // what the standard promises
        }
        // SAFETY: as above.
        Ok(u32::try_from(unsafe { *value }).unwrap_or(32_767))
    }
}

/// To be dropped when no collective call is under way on it: MPI would keep it as long (MPI 4.1
/// §7.4.3), but Open MPI 4.1 does not.
impl Drop for Communicator {
    fn drop(&mut self) {
        // SAFETY: a live communicator of our own, freed once. There is nobody to tell of a failure
        // to free.
        unsafe { ffi::MPI_Comm_free(&raw mut self.0) };
    }
}

/// MPI's own communicator of all ranks, on which nothing is called but the end of the job.
pub(super) fn mpis_world() -> ffi::MPI_Comm {
    // SAFETY: reading the library's handle of a predefined communicator.
    unsafe { ffi::RSMPI_COMM_WORLD }
}

/// From now on errors of calls on it are returned.
fn returns_errors(comm: ffi::MPI_Comm) -> Result<(), Fault> {
    // SAFETY: a live communicator and a predefined handler.
    check(unsafe { ffi::MPI_Comm_set_errhandler(comm, ffi::RSMPI_ERRORS_RETURN) })
}

fn duplicate(comm: ffi::MPI_Comm) -> Result<Communicator, Fault> {
    // SAFETY: a live communicator; the new one is written on success.
    unsafe { made(|made| ffi::MPI_Comm_dup(comm, made)) }.map(Communicator)
}
