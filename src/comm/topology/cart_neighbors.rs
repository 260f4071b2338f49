//! Collectives across the faces of a grid's cells: with the two neighbours along every axis.

use super::{Cart, Graph, NeighborRequest};
use crate::{
    comm::{
        Ragged, View, ViewMut,
        agreement::Subject,
        all,
        collective::check_length,
        lengths,
        view::{OwnedBuf, contents, packed},
    },
    datum::Datum,
    engine::Rank,
    error::{Fault, Result},
};

impl<const D: usize> Cart<D> {
    /// Sends `mine` to all neighbours; returns what they sent, a row for each, of any lengths:
    /// along every axis first from the one before, then from the one behind. A row from nobody,
    /// beyond a closed border, is empty.
    ///
    /// # Collective
    /// All ranks of the grid. At most 2 `D` messages per rank; the first call on a grid makes a
    /// communicator for them. MPI: `MPI_Neighbor_allgatherv` on a Cartesian topology (MPI 4.1,
    /// 8.6.1).
    ///
    /// # Examples
    /// ```
    /// let rows = spmd::local(3, |world| {
    ///     let line = world.cart([None], [false])?.expect("all ranks are on the grid");
    ///     Ok(line.neighbor_allgather(&vec![line.rank(); line.rank()])?)
    /// });
    /// let rows = rows.unwrap();
    /// assert_eq!((&rows[1][0], &rows[1][1]), (&[][..], &[2, 2][..]));
    /// assert_eq!((&rows[2][0], &rows[2][1]), (&[1][..], &[][..]));
    /// ```
    #[track_caller]
    pub fn neighbor_allgather<V: View + ?Sized>(&self, mine: &V) -> Result<Ragged<V::Elem>> {
        self.together(all("neighbor_allgather"), Subject::any::<V::Elem>(), |label| {
            let (faces, mine) = (self.faces()?, contents(mine));
            let rows = faces.graph.rows_along_edges(label, |_| &mine)?;
            Ok(faces.arrange(rows))
        })
    }

    /// Sends `mine` to all neighbours; `out` gets what they sent, one behind the other, in the
    /// order of [`neighbor_allgather`](Self::neighbor_allgather). Rows from nobody stay as they
    /// are.
    ///
    /// # Collective
    /// All ranks of the grid, with equally long `mine`. The MPI library's own
    /// `MPI_Neighbor_allgather` (MPI 4.1, 8.6.1); elsewhere at most 2 `D` messages per rank.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) if `out` is not 2 `D` times as long as `mine`.
    #[track_caller]
    pub fn neighbor_allgather_into<V, W>(&self, mine: &V, out: &mut W) -> Result<()>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let mine = &*contents(mine);
        self.together(all("neighbor_allgather_into"), Subject::like(mine), |label| {
            let faces = self.faces()?;
            let share = |out: &mut [V::Elem]| faces.graph.allgather_equal(label, mine, out);
            faces.exchange("neighbor_allgather_into's out", mine.len(), out, share)
        })
    }

    /// Sends to each neighbour its row; returns what they sent, a row for each: along every axis
    /// first the one before, then the one behind. Rows for nobody, beyond a closed border, go
    /// nowhere; rows from nobody are empty.
    ///
    /// # Collective
    /// As [`neighbor_allgather`](Self::neighbor_allgather). MPI: `MPI_Neighbor_alltoallv` on a
    /// Cartesian topology (MPI 4.1, 8.6.2).
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) if there are not 2 `D` rows.
    ///
    /// # Examples
    /// ```
    /// use spmd::Ragged;
    /// let rows = spmd::local(4, |world| {
    ///     let ring = world.cart([None], [true])?.expect("all ranks are on the grid");
    ///     let me = ring.rank();
    ///     Ok(ring.neighbor_alltoall(&Ragged::from_rows([vec![me], vec![10 * me; 2]]))?)
    /// });
    /// assert_eq!(rows.unwrap()[1], Ragged::from_rows([vec![0, 0], vec![2]]));
    /// ```
    #[track_caller]
    pub fn neighbor_alltoall<T: Datum>(&self, rows: &Ragged<T>) -> Result<Ragged<T>> {
        self.together(all("neighbor_alltoall"), Subject::any::<T>(), |label| {
            check_length("neighbor_alltoall's rows", 2 * D, rows.rows())?;
            let faces = self.faces()?;
            let rows = faces.graph.rows_along_edges(label, |at| &rows[faces.open[at]])?;
            Ok(faces.arrange(rows))
        })
    }

    /// Sends to each neighbour its row; `out` gets what they sent. The rows lie one behind the
    /// other, in the order of [`neighbor_alltoall`](Self::neighbor_alltoall); those from nobody
    /// stay as they are.
    ///
    /// # Collective
    /// All ranks of the grid, with equally long rows. The MPI library's own `MPI_Neighbor_alltoall`
    /// (MPI 4.1, 8.6.2); elsewhere at most 2 `D` messages per rank.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) if `rows` is not 2 `D` equally long rows, or `out` not as long.
    #[track_caller]
    pub fn neighbor_alltoall_into<V, W>(&self, rows: &V, out: &mut W) -> Result<()>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let rows = contents(rows);
        self.together(all("neighbor_alltoall_into"), Subject::like(&rows), |label| {
            let row = rows.len().checked_div(2 * D).unwrap_or(0);
            check_length("neighbor_alltoall_into's rows", 2 * D * row, rows.len())?;
            let faces = self.faces()?;
            let open = faces.open.iter().flat_map(|face| &rows[face * row..(face + 1) * row]);
            let open = (faces.open.len() < 2 * D).then(|| open.copied().collect::<Vec<_>>());
            let rows = open.as_deref().unwrap_or(&rows);
            let share = |out: &mut [V::Elem]| faces.graph.alltoall_equal(label, rows, out);
            faces.exchange("neighbor_alltoall_into's out", row, out, share)
        })
    }

    /// Starts a [`neighbor_allgather`](Self::neighbor_allgather) of rows of any lengths.
    ///
    /// # Collective
    /// All ranks start, in the same order among the grid's collectives; the first neighbourhood
    /// call on a grid makes a communicator and waits for all ranks. MPI: `MPI_Ineighbor_allgatherv`
    /// on a Cartesian topology (MPI 4.1, 8.7.1).
    #[track_caller]
    pub fn ineighbor_allgather<B: OwnedBuf>(
        &self,
        mine: B,
    ) -> Result<NeighborRequest<'_, B::Elem>> {
        let call = all("ineighbor_allgather");
        self.perform(call, || {
            let faces = self.faces()?;
            let mine = contents(&mine);
            faces.graph.start_rows(call, Some(faces), |_| &mine)
        })
    }

    /// Starts a [`neighbor_alltoall`](Self::neighbor_alltoall) of rows of any lengths.
    ///
    /// # Collective
    /// As [`ineighbor_allgather`](Self::ineighbor_allgather). MPI: `MPI_Ineighbor_alltoallv` on a
    /// Cartesian topology (MPI 4.1, 8.7.2).
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`](crate::ErrorKind::LengthMismatch) if there are not 2 `D` rows.
    ///
    /// # Examples
    /// The borders travel while the inside is computed:
    /// ```
    /// use spmd::Ragged;
    /// let rows = spmd::local(4, |world| {
    ///     let ring = world.cart([None], [true])?.expect("all ranks are on the grid");
    ///     let me = ring.rank();
    ///     let borders = ring.ineighbor_alltoall(Ragged::from_rows([vec![me], vec![10 * me; 2]]))?;
    ///     // ... compute what needs no border ...
    ///     Ok(borders.wait()?)
    /// });
    /// assert_eq!(rows.unwrap()[1], Ragged::from_rows([vec![0, 0], vec![2]]));
    /// ```
    #[track_caller]
    pub fn ineighbor_alltoall<T: Datum>(&self, rows: Ragged<T>) -> Result<NeighborRequest<'_, T>> {
        let call = all("ineighbor_alltoall");
        self.perform(call, || {
            check_length("ineighbor_alltoall's rows", 2 * D, rows.rows())?;
            let faces = self.faces()?;
            faces.graph.start_rows(call, Some(faces), |at| &rows[faces.open[at]])
        })
    }

    /// The faces with a neighbour, and the graph along which they exchange; made by the first call,
    /// on all ranks together.
    fn faces(&self) -> Result<&Faces, Fault> {
        if let Some(faces) = self.faces.get() {
            return Ok(faces);
        }
        let (mut open, mut peers) = (Vec::new(), Vec::new());
        for face in 0..2 * D {
            let (axis, step) = (face / 2, if face % 2 == 0 { -1 } else { 1 });
            if let Some(peer) = self.neighbor(axis, step) {
                open.push(face);
                peers.push(Rank::from(peer));
            }
        }
        // Where both neighbours along an axis are the same rank, its first message comes from its
        // face before, which is this rank's face behind.
        let crossed = |axis: usize| self.periodic()[axis] && self.dims()[axis] <= 2;
        let crossed = (0..D).filter(|&axis| crossed(axis)).collect();
        let graph = self.graph_of(peers.clone(), peers)?;
        Ok(self.faces.get_or_init(|| Faces { graph, open, crossed, count: 2 * D }))
    }
}

/// The faces of a rank of a grid: number 2 `axis` before it, the next behind it.
#[derive(Debug)]
pub(super) struct Faces {
    graph: Graph,
    /// The faces that have a neighbour, one for each edge of the graph.
    open: Vec<usize>,
    /// The axes along which both neighbours are the same rank.
    crossed: Vec<usize>,
    count: usize,
}

impl Faces {
    /// Rows by edge as rows by face.
    pub(super) fn arrange<T: Datum>(&self, rows: Ragged<T>) -> Ragged<T> {
        if self.open.len() == self.count && self.crossed.is_empty() {
            return rows;
        }
        let row = |face: usize| {
            let face = if self.crossed.contains(&(face / 2)) { face ^ 1 } else { face };
            let edge = self.open.iter().position(|&open| open == face);
            edge.map_or(&[][..], |edge| &rows[edge])
        };
        Ragged::from_rows((0..self.count).map(|face| row(face).iter().copied()))
    }

    /// Lets `share` fill rows by edge, each `row` elements long, and puts them into their places in
    /// `out`.
    fn exchange<W: ViewMut + ?Sized>(
        &self,
        what: &'static str,
        row: usize,
        out: &mut W,
        share: impl FnOnce(&mut [W::Elem]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if let Some(out) = out.as_slice_mut() {
            return self.exchange_in_place(what, row, out, share);
        }
        let mut whole = packed(out);
        self.exchange_in_place(what, row, &mut whole, share)?;
        out.unpack(&whole);
        Ok(())
    }

    fn exchange_in_place<T: Datum>(
        &self,
        what: &'static str,
        row: usize,
        out: &mut [T],
        share: impl FnOnce(&mut [T]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        check_length(what, lengths::product(what, [self.count, row])?, out.len())?;
        let place = |face: usize| face * row..(face + 1) * row;
        if self.open.len() == self.count {
            share(out)?;
        } else {
            let open = self.open.iter().flat_map(|&face| &out[place(face)]);
            let mut rows: Vec<T> = open.copied().collect();
            share(&mut rows)?;
            for (edge, &face) in self.open.iter().enumerate() {
                out[place(face)].copy_from_slice(&rows[place(edge)]);
            }
        }
        for axis in &self.crossed {
            let (before, behind) = out[2 * axis * row..2 * (axis + 1) * row].split_at_mut(row);
            before.swap_with_slice(behind);
        }
        Ok(())
    }
}
