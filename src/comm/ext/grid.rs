//! Every rank to every rank in two hops over a grid of ranks.

use super::{Comm, speaking_of};
use crate::{
    comm::{Ragged, all, collective::check_length, wait_all},
    datum::Datum,
    error::Result,
};

/// [`alltoall_grid`](Self::alltoall_grid) for communicators.
pub trait GridAlltoall {
    /// As [`Comm::alltoall`], by way of intermediate ranks: each rank exchanges messages with about
    /// 2 √p others instead of all p.
    ///
    /// Faster than `alltoall` where there are many ranks and little for each, for it saves messages
    /// and pays with every element travelling twice.
    ///
    /// # Collective
    /// At most 4 ⌈√p⌉ + 2 messages per rank, for any number of ranks.
    ///
    /// # Errors
    /// As [`Comm::alltoall`].
    ///
    /// # Examples
    /// ```
    /// use spmd::{ext::GridAlltoall, Ragged};
    /// let got = spmd::local(5, |world| {
    ///     let rows = Ragged::from_rows((0..world.size()).map(|to| [10 * world.rank() + to]));
    ///     Ok(world.alltoall_grid(&rows)?.into_flat())
    /// });
    /// assert_eq!(got.unwrap()[3], [3, 13, 23, 33, 43]);
    /// ```
    ///
    /// Source: Kalé, Kumar, Varadarajan, "A framework for collective personalized communication"
    /// (2003), the two-dimensional mesh.
    #[track_caller]
    fn alltoall_grid<T: Datum>(&self, rows: &Ragged<T>) -> Result<Ragged<T>>;
}

impl GridAlltoall for Comm {
    #[track_caller]
    fn alltoall_grid<T: Datum>(&self, rows: &Ragged<T>) -> Result<Ragged<T>> {
        let (me, grid) = (self.rank(), Grid::of(self.size()));
        let call = all("alltoall_grid");
        self.perform(call, || check_length("alltoall_grid's rows", self.size(), rows.rows()))?;
        speaking_of(self, call, || {
            // First to the rank of this row that stands in the column of the destination, then down
            // that column.
            let parcels =
                rows.iter().enumerate().map(|(to, row)| Parcel { from: me, to, values: row });
            let (to, from) = (grid.first_hop_to(me), grid.first_hop_from(me));
            let halfway = hop(self, parcels, &to, &from, |to| grid.between(me, to))?;
            let column = grid.column(me);
            let parcels = halfway.iter().flat_map(Bundle::parcels);
            let arrived = hop(self, parcels, &column, &column, |to| to)?;
            let mut by_source = vec![&[][..]; self.size()];
            for parcel in arrived.iter().flat_map(Bundle::parcels) {
                by_source[parcel.from] = parcel.values;
            }
            Ok(Ragged::from_rows(by_source.into_iter().map(|row| row.iter().copied())))
        })
    }
}

/// Ranks row by row, `width` in each but the last, which may be shorter.
struct Grid {
    size: usize,
    width: usize,
}

impl Grid {
    fn of(size: usize) -> Self {
        let width = size.isqrt() + usize::from(size.isqrt().pow(2) < size);
        Self { size, width }
    }

    /// Where what `from` has for `to` changes from row to column: the column of `to` in the row of
    /// `from`, or in the row above where the last row is too short.
    fn between(&self, from: usize, to: usize) -> usize {
        let place = from - from % self.width + to % self.width;
        if place < self.size { place } else { place - self.width }
    }

    /// The ranks that `me` sends to first.
    fn first_hop_to(&self, me: usize) -> Vec<usize> {
        (0..self.width.min(self.size)).map(|column| self.between(me, column)).collect()
    }

    /// The ranks that send to `me` first.
    fn first_hop_from(&self, me: usize) -> Vec<usize> {
        let start = me - me % self.width;
        let last = self.size - (self.size - 1) % self.width - 1;
        let own = start..(start + self.width).min(self.size);
        let below = if start + self.width == last { last..self.size } else { 0..0 };
        own.chain(below).filter(|&from| self.between(from, me % self.width) == me).collect()
    }

    /// The ranks of the column of `me`, itself included.
    fn column(&self, me: usize) -> Vec<usize> {
        (me % self.width..self.size).step_by(self.width).collect()
    }
}

/// What one rank has for another.
#[derive(Clone, Copy)]
struct Parcel<'v, T> {
    from: usize,
    to: usize,
    values: &'v [T],
}

/// Parcels that travel together.
struct Bundle<T> {
    /// Origin, destination and length of each.
    labels: Vec<[u64; 3]>,
    values: Vec<T>,
}

impl<T: Datum> Bundle<T> {
    fn new() -> Self {
        Self { labels: Vec::new(), values: Vec::new() }
    }

    fn add(&mut self, parcel: Parcel<'_, T>) {
        self.labels.push([parcel.from, parcel.to, parcel.values.len()].map(|word| word as u64));
        self.values.extend_from_slice(parcel.values);
    }

    fn parcels(&self) -> impl Iterator<Item = Parcel<'_, T>> {
        let mut rest = &self.values[..];
        self.labels.iter().map(move |label| {
            let [from, to, count] = label.map(|word| word as usize);
            let (values, behind) = rest.split_at(count);
            rest = behind;
            Parcel { from, to, values }
        })
    }
}

/// Sends each parcel to the rank of `to` that `towards` its destination names, and receives a
/// bundle from each rank of `from`.
#[track_caller]
fn hop<'v, T: Datum>(
    comm: &Comm,
    parcels: impl Iterator<Item = Parcel<'v, T>>,
    to: &[usize],
    from: &[usize],
    towards: impl Fn(usize) -> usize,
) -> Result<Vec<Bundle<T>>> {
    let mut bundles: Vec<_> = to.iter().map(|&rank| (rank, Bundle::new())).collect();
    for parcel in parcels.filter(|parcel| !parcel.values.is_empty()) {
        let next = towards(parcel.to);
        if let Some((_, bundle)) = bundles.iter_mut().find(|(rank, _)| *rank == next) {
            bundle.add(parcel);
        }
    }
    let (labels_tag, values_tag) = (comm.max_tag(), comm.max_tag() - 1);
    let (mut labels, mut values) = (Vec::new(), Vec::new());
    for (rank, bundle) in bundles {
        labels.push(comm.isend(bundle.labels, (rank, labels_tag))?);
        values.push(comm.isend(bundle.values, (rank, values_tag))?);
    }
    let mut received = Vec::new();
    for &rank in from {
        let (labels, _) = comm.recv((rank, labels_tag))?;
        let (values, _) = comm.recv((rank, values_tag))?;
        received.push(Bundle { labels, values });
    }
    wait_all(labels)?;
    wait_all(values)?;
    Ok(received)
}
