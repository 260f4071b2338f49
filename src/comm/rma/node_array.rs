//! Arrays in memory that the ranks of a host share.

use std::marker::PhantomData;

use super::{
    Plain,
    region::{Phase, Region},
};
use crate::{
    comm::{Comm, all, lengths},
    engine::{Access, Rank},
    error::{Call, ErrorKind, Fault, Result},
};

/// One array in memory that the ranks of a host share: a block of it from each rank, read by all
/// without a copy.
///
/// It is touched only in phases, which all ranks begin together: either every rank writes its own
/// block, or all read the whole. So nobody reads what another writes, and no slice can be kept from
/// one phase to the next:
/// ```compile_fail
/// spmd::local(2, |world| {
///     let mut array = world.node_array::<u64>(4)?;
///     let all = array.read(|all, _starts| all)?; // others may write next
///     println!("{all:?}");
///     Ok(())
/// });
/// ```
///
/// MPI: a shared-memory window (`MPI_Win_allocate_shared`, MPI 4.1, 12.2.3). On `local`, plain
/// memory. Dropping is as of [`Window`](crate::rma::Window).
pub struct NodeArray<T> {
    region: Region,
    /// Where the array begins in this process; its memory lives as long as the region.
    start: *mut T,
    /// Where each rank's block begins, and where the last ends.
    starts: Box<[usize]>,
    elements: PhantomData<T>,
}

/// # Node arrays
///
/// Memory that the ranks of a host share.
impl Comm {
    /// Makes an array that all ranks share, with a block of `len` elements from this rank, all
    /// bytes zero.
    ///
    /// # Collective
    /// All ranks, which are on one host, with the same type and any lengths. An allgather, a
    /// duplicate of the communicator, and what the engine needs. MPI: `MPI_Win_allocate_shared`
    /// (MPI 4.1, 12.2.3).
    ///
    /// # Errors
    /// On every rank: [`ErrorKind::InvalidArgument`] if they are on several hosts
    /// ([`Comm::split_node`] makes a communicator for each); else as [`Comm::window`].
    ///
    /// # Examples
    /// A table that every rank of the host computes a block of, and all use:
    /// ```
    /// let sums = spmd::local(3, |world| {
    ///     let host = world.split_node()?;
    ///     let mut table = host.node_array::<u64>(2)?;
    ///     let first = 2 * host.rank() as u64;
    ///     table.write(|mine| mine.copy_from_slice(&[first * first, (first + 1) * (first + 1)]))?;
    ///     Ok(table.read(|all, _starts| all.iter().sum::<u64>())?)
    /// });
    /// assert_eq!(sums.unwrap(), [0 + 1 + 4 + 9 + 16 + 25; 3]);
    /// ```
    #[track_caller]
    pub fn node_array<T: Plain>(&self, len: usize) -> Result<NodeArray<T>> {
        let call = all("node_array");
        self.perform(call, || NodeArray::open(self, call, len))
    }
}

impl<T: Plain> NodeArray<T> {
    fn open(comm: &Comm, call: Call, len: usize) -> Result<Self, Fault> {
        let region = Region::open::<T>(comm, call, len, Access::Shared)?;
        let mut starts = Vec::with_capacity(comm.size + 1);
        starts.push(0);
        let mut start = std::ptr::null_mut::<T>();
        for (rank, &len) in region.lens.iter().enumerate() {
            let begin = starts[rank];
            starts.push(lengths::sum("the blocks", [begin, len])?);
            if len == 0 {
                continue; // where nothing lies does not matter
            }
            let part = region.comm.engine.window_part(region.id, Rank::from(rank))?;
            let here = part.start().cast::<T>();
            if start.is_null() {
                start = here;
            }
            if here != start.wrapping_add(begin)
                || !here.is_aligned()
                || part.len() != lengths::bytes::<T>("a block", len)?
            {
                return Err(ErrorKind::Unsupported {
                    what: "the ranks' blocks do not lie one behind the other",
                    how: "report which MPI library this is",
                }
                .into());
            }
        }
        if start.is_null() {
            start = std::ptr::dangling_mut(); // no elements at all
        }
        Ok(Self { region, start, starts: starts.into(), elements: PhantomData })
    }

    /// The number of elements of all blocks together.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where each rank's block begins, and where the last ends: rank `r` has
    /// `starts[r]..starts[r + 1]`.
    pub fn starts(&self) -> &[usize] {
        &self.starts
    }

    /// A phase in which every rank writes its own block. Begins when all ranks have come; ends, for
    /// each rank, when `body` returns.
    ///
    /// # Collective
    /// All ranks. One allreduce of 16 bytes.
    ///
    /// # Errors
    /// On every rank, before any begins: [`ErrorKind::CollectiveMismatch`] if another calls for
    /// another kind of phase.
    ///
    /// # Examples
    /// See [`Comm::node_array`].
    #[track_caller]
    pub fn write<R>(&mut self, body: impl FnOnce(&mut [T]) -> R) -> Result<R> {
        let call = all("write");
        let region = &self.region;
        region.comm.perform(call, || region.begin(call, Phase::Write))?;
        let me = region.comm.rank;
        let (first, len) = (self.starts[me], region.lens[me]);
        // SAFETY:
        // 1. `first..first + len` is this rank's block of memory that lives as long as `region`
        //    (checked in `open`), aligned and initialised (zero, or by writes of `T`, which has
        //    neither padding nor invalid patterns).
        // 2. Every rank that touches the array in this phase touches its own block, and blocks are
        //    disjoint: all have agreed to write. Who has begun this phase has left the one before,
        //    because `body` had returned and what it borrowed could not leave it; and nobody begins
        //    the next before this rank calls for it too, which takes `&mut self` and so comes after
        //    this borrow. Agreements order the accesses, and the engine makes memory visible
        //    (`begin`).
        let mine = unsafe { std::slice::from_raw_parts_mut(self.start.add(first), len) };
        Ok(body(mine))
    }

    /// A phase in which all ranks read all blocks, each from the same memory: `body(all, starts)`,
    /// with `starts` as [`starts`](Self::starts). Begins when all ranks have come; ends, for each
    /// rank, when `body` returns.
    ///
    /// # Collective
    /// All ranks. One allreduce of 16 bytes.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    ///
    /// # Examples
    /// See [`Comm::node_array`].
    #[track_caller]
    pub fn read<R>(&mut self, body: impl FnOnce(&[T], &[usize]) -> R) -> Result<R> {
        let call = all("read");
        let region = &self.region;
        region.comm.perform(call, || region.begin(call, Phase::Read))?;
        // SAFETY: all `len()` elements lie one behind the other (checked in `open`), live as long
        // as `region`, and are initialised, as in `write`. In this phase all ranks have agreed to
        // read, so nobody writes: reasons as there.
        let whole = unsafe { std::slice::from_raw_parts(self.start, self.len()) };
        Ok(body(whole, &self.starts))
    }

    /// Gives the array's memory back now.
    ///
    /// # Collective
    /// All ranks. MPI: `MPI_Win_free` (MPI 4.1, 12.2.6).
    ///
    /// # Errors
    /// As [`write`](Self::write); the array is dropped then.
    #[track_caller]
    pub fn close(self) -> Result<()> {
        let call = all("close");
        self.region.comm.perform(call, || self.region.close(call))
    }
}

impl<T> std::fmt::Debug for NodeArray<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeArray({:?} elements on {:?})", self.region.lens, self.region.comm)
    }
}
