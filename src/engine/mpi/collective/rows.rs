//! Rows of different lengths.

use std::ffi::c_int;

use mpi::ffi;

use super::{Caller, Outcome, read, write};
use crate::{
    engine::{
        Counts, Neighbors,
        mpi::{newer::newer, raw::Datatype},
    },
    error::Fault,
};

/// Where rows of different lengths lie, for calls that take large counts.
struct Large {
    counts: Vec<ffi::MPI_Count>,
    places: Vec<ffi::MPI_Aint>,
}

impl Large {
    fn new(counts: &[usize]) -> Self {
        let starts = Counts::Each(counts).starts(counts.len());
        Self {
            counts: counts.iter().map(|&count| count as ffi::MPI_Count).collect(),
            places: starts.iter().map(|&start| start as ffi::MPI_Aint).collect(),
        }
    }
}

impl Caller<'_> {
    pub(super) fn gather_rows(
        self,
        root: c_int,
        mine: &[u8],
        counts: &[usize],
        out: &mut [u8],
    ) -> Option<Outcome> {
        let Self { engine, comm } = self;
        let (blocking, started) = (newer().gatherv_c?, newer().igatherv_c?);
        let Large { counts, places } = Large::new(counts);
        let (send, count, into) = (read(mine), mine.len() as ffi::MPI_Count, write(out));
        let (counts, places) = (counts.as_ptr(), places.as_ptr());
        // SAFETY: a constant of the library.
        let byte = unsafe { ffi::RSMPI_UINT8_T };
        // The root's `out` has room for every rank's row, one behind the other; there only counts and places matter.
        Some(call!(
            engine,
            blocking | started,
            send,
            count,
            byte,
            into,
            counts,
            places,
            byte,
            root,
            comm
        ))
    }

    pub(super) fn scatter_rows(
        self,
        root: c_int,
        rows: &[u8],
        counts: &[usize],
        out: &mut [u8],
    ) -> Option<Outcome> {
        let Self { engine, comm } = self;
        let (blocking, started) = (newer().scatterv_c?, newer().iscatterv_c?);
        let Large { counts, places } = Large::new(counts);
        let (send, count, into) = (read(rows), out.len() as ffi::MPI_Count, write(out));
        let (counts, places) = (counts.as_ptr(), places.as_ptr());
        // SAFETY: a constant of the library.
        let byte = unsafe { ffi::RSMPI_UINT8_T };
        // The root's `rows` hold every rank's, one behind the other; there only counts and places matter.
        Some(call!(
            engine,
            blocking | started,
            send,
            counts,
            places,
            byte,
            into,
            count,
            byte,
            root,
            comm
        ))
    }

    pub(super) fn allgather_rows(
        self,
        mine: &[u8],
        counts: &[usize],
        out: &mut [u8],
    ) -> Option<Outcome> {
        let Self { engine, comm } = self;
        c_int::try_from(out.len()).ok()?; // the same on every rank; then every count and place fits too
        let (send, count, into) = (read(mine), mine.len() as c_int, write(out));
        let starts = Counts::Each(counts).starts(counts.len());
        let counts: Vec<c_int> = counts.iter().map(|&count| count as c_int).collect();
        let places: Vec<c_int> = starts.iter().map(|&start| start as c_int).collect();
        let (counts, places) = (counts.as_ptr(), places.as_ptr());
        // SAFETY: a constant of the library.
        let byte = unsafe { ffi::RSMPI_UINT8_T };
        // Every rank's row fits into `out` at its place, one behind the other.
        Some(call!(
            engine,
            ffi::MPI_Allgatherv | ffi::MPI_Iallgatherv,
            send,
            count,
            byte,
            into,
            counts,
            places,
            byte,
            comm
        ))
    }

    pub(super) fn alltoall_rows(
        self,
        ranks: usize,
        rows: &[u8],
        send_counts: &Counts<'_>,
        out: &mut [u8],
        recv_counts: &Counts<'_>,
    ) -> Outcome {
        let Self { engine, comm } = self;
        let (sent, got) = (send_counts.starts(ranks), recv_counts.starts(ranks));
        let sent = Rows::new((0..ranks).map(|to| (sent[to], send_counts.of(to))))?;
        let got = Rows::new((0..ranks).map(|from| (got[from], recv_counts.of(from))))?;
        let places: (Vec<c_int>, Vec<c_int>) = (sent.small_places(), got.small_places());
        let (send, counts, at, of) =
            (read(rows), sent.counts.as_ptr(), places.0.as_ptr(), sent.types.as_ptr());
        let (into, room, to, like) =
            (write(out), got.counts.as_ptr(), places.1.as_ptr(), got.types.as_ptr());
        // What is described lies in `rows` and `out`.
        call!(
            engine,
            ffi::MPI_Alltoallw | ffi::MPI_Ialltoallw,
            send,
            counts,
            at,
            of,
            into,
            room,
            to,
            like,
            comm
        )
    }

    pub(super) fn neighbor_rows(
        self,
        neighbors: &Neighbors<'_>,
        rows: &[u8],
        row: impl Fn(usize) -> (usize, usize),
        out: &mut [u8],
        recv_counts: &Counts<'_>,
    ) -> Outcome {
        let Self { engine, comm } = self;
        let sources = neighbors.sources.len();
        let got = recv_counts.starts(sources);
        let sent = Rows::new((0..neighbors.destinations.len()).map(row))?;
        let got = Rows::new((0..sources).map(|from| (got[from], recv_counts.of(from))))?;
        let (send, counts, at, of) =
            (read(rows), sent.counts.as_ptr(), sent.places.as_ptr(), sent.types.as_ptr());
        let (into, room, to, like) =
            (write(out), got.counts.as_ptr(), got.places.as_ptr(), got.types.as_ptr());
        // What is described lies in `rows` and `out`.
        call!(
            engine,
            ffi::MPI_Neighbor_alltoallw | ffi::MPI_Ineighbor_alltoallw,
            send,
            counts,
            at,
            of,
            into,
            room,
            to,
            like,
            comm
        )
    }
}

/// Rows of different lengths, for calls that take a type for each: a row whose place or length is beyond a C int is one element
/// of a type of its own, which knows the place.
struct Rows {
    counts: Vec<c_int>,
    places: Vec<ffi::MPI_Aint>,
    types: Vec<ffi::MPI_Datatype>,
    /// They live as long as the call.
    #[allow(dead_code, reason = "kept, not read")]
    own: Vec<Datatype>,
}

impl Rows {
    /// From the places and lengths in bytes.
    fn new(rows: impl Iterator<Item = (usize, usize)>) -> Result<Self, Fault> {
        let mut all =
            Self { counts: Vec::new(), places: Vec::new(), types: Vec::new(), own: Vec::new() };
        for (place, bytes) in rows {
            let fits = c_int::try_from(place).is_ok();
            let (count, place, of) = if let (true, Ok(count)) = (fits, c_int::try_from(bytes)) {
                // SAFETY: a constant of the library.
                (count, place, unsafe { ffi::RSMPI_UINT8_T })
            } else {
                let own = Datatype::head_and_body(0, place as isize, bytes)?;
                let of = own.raw();
                all.own.push(own);
                (1, 0, of)
            };
            all.counts.push(count);
            all.places.push(place as ffi::MPI_Aint);
            all.types.push(of);
        }
        Ok(all)
    }

    /// The places, which all fit into a C int.
    fn small_places(&self) -> Vec<c_int> {
        self.places.iter().map(|&place| place as c_int).collect()
    }
}
