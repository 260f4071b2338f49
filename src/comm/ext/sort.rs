//! Sorting what is spread over the ranks.

use std::cmp::Ordering;

use super::{Comm, Partition};
use crate::{
    comm::{Ragged, Sum},
    datum::Datum,
    error::Result,
};

/// [`sort`](Self::sort) and its kin for communicators.
pub trait Sort {
    /// Sorts the elements of all ranks: each rank gets a sorted part, no element of a rank is
    /// larger than one of the next, and all ranks have equally many, give or take one, however many
    /// elements are equal. Stable.
    ///
    /// # Collective
    /// A local sort, an allgather of p² samples in all, an alltoall of the elements, a merge, and a
    /// [`Partition::partition`]. No rank holds more than twice its share (and p elements) on the
    /// way.
    ///
    /// # Examples
    /// ```
    /// use spmd::ext::Sort;
    /// let words = [vec![5, 1, 5, 0], vec![5], vec![2, 5, 9, 5]];
    /// let got = spmd::local(3, |world| Ok(world.sort(words[world.rank()].clone())?));
    /// assert_eq!(got.unwrap(), [[0, 1, 2], [5, 5, 5], [5, 5, 9]]);
    /// ```
    ///
    /// Source: Shi, Schaeffer, "Parallel sorting by regular sampling" (1992); equal elements are
    /// told apart by where they come from.
    #[track_caller]
    fn sort<T: Datum + Ord>(&self, mine: Vec<T>) -> Result<Vec<T>>;

    /// As [`Sort::sort`], by a key of each element.
    ///
    /// # Collective
    /// As [`Sort::sort`].
    #[track_caller]
    fn sort_by_key<T: Datum, K: Ord>(&self, mine: Vec<T>, key: impl Fn(&T) -> K) -> Result<Vec<T>>;

    /// As [`Sort::sort`], in any total order: `f64::total_cmp`, say. All ranks give the same.
    ///
    /// # Collective
    /// As [`Sort::sort`].
    ///
    /// # Examples
    /// ```
    /// use spmd::ext::Sort;
    /// let got = spmd::local(2, |world| {
    ///     let mine = [[0.5, -1.0], [2.0, 1e-9]][world.rank()].to_vec();
    ///     Ok(world.sort_by(mine, f64::total_cmp)?)
    /// });
    /// assert_eq!(got.unwrap(), [[-1.0, 1e-9], [0.5, 2.0]]);
    /// ```
    #[track_caller]
    fn sort_by<T: Datum>(
        &self,
        mine: Vec<T>,
        compare: impl Fn(&T, &T) -> Ordering,
    ) -> Result<Vec<T>>;
}

impl Sort for Comm {
    #[track_caller]
    fn sort<T: Datum + Ord>(&self, mine: Vec<T>) -> Result<Vec<T>> {
        self.sort_by(mine, T::cmp)
    }

    #[track_caller]
    fn sort_by_key<T: Datum, K: Ord>(&self, mine: Vec<T>, key: impl Fn(&T) -> K) -> Result<Vec<T>> {
        self.sort_by(mine, |left, right| key(left).cmp(&key(right)))
    }

    #[track_caller]
    fn sort_by<T: Datum>(
        &self,
        mut mine: Vec<T>,
        compare: impl Fn(&T, &T) -> Ordering,
    ) -> Result<Vec<T>> {
        mine.sort_by(&compare);
        let (me, size) = (self.rank(), self.size());
        let total = self.allreduce(&(mine.len() as u64), Sum)?[0];
        if total == 0 {
            return Ok(mine);
        }
        // Every `gap`-th element is a sample: each stands for `gap` elements, and about size² of
        // them for all.
        let gap = (total as usize / (size * size)).max(1);
        let samples: Vec<T> = mine.iter().skip(gap - 1).step_by(gap).copied().collect();
        let samples = self.allgather(&samples)?;
        let splitters = splitters(&samples, gap, size, &compare);
        let ends = splitters.iter().map(|splitter| {
            let place = |at: usize| Place { rank: me, at };
            partition_point(mine.len(), |at| {
                let order = compare(&mine[at], &splitter.value);
                order.then(place(at).cmp(&splitter.place)).is_le()
            })
        });
        let ends: Vec<usize> = ends.chain([mine.len()]).collect();
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let counts: Vec<usize> = ends.iter().zip(starts).map(|(end, start)| end - start).collect();
        let rows = Ragged::from_flat(mine, counts);
        // Sorted rows one behind the other: the standard library's sort finds and merges them.
        let mut sorted = self.alltoall(&rows)?.into_flat();
        sorted.sort_by(&compare);
        self.partition(sorted)
    }
}

/// Where an element stands after the local sort: no two are the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    rank: usize,
    at: usize,
}

/// The last element that goes to a rank.
#[derive(Clone, Copy)]
struct Splitter<T> {
    value: T,
    place: Place,
}

/// One splitter for each rank but the last, at equal distances among the samples.
fn splitters<T: Datum>(
    samples: &Ragged<T>,
    gap: usize,
    size: usize,
    compare: impl Fn(&T, &T) -> Ordering,
) -> Vec<Splitter<T>> {
    let of_rank = |(rank, row): (usize, &[T])| -> Vec<Splitter<T>> {
        let place = |sample: usize| Place { rank, at: (sample + 1) * gap - 1 };
        row.iter().enumerate().map(|(at, &value)| Splitter { value, place: place(at) }).collect()
    };
    let mut all: Vec<Splitter<T>> = samples.iter().enumerate().flat_map(of_rank).collect();
    all.sort_by(|left, right| {
        compare(&left.value, &right.value).then(left.place.cmp(&right.place))
    });
    // There is a sample at least: some rank has an equal share, which is longer than the gap.
    (1..size).map(|rank| all[(rank * all.len()).div_ceil(size) - 1]).collect()
}

/// The first place that `before` does not hold for, which holds for all places up to there.
fn partition_point(len: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low.midpoint(high);
        if before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}
