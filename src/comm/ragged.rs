//! One row per rank, of any lengths.

use std::ops::{Index, IndexMut, Range};

/// Rows of different lengths, one per rank: what `gather` and `allgather` return, what `scatter`
/// and `alltoall` take.
///
/// The rows lie one behind the other in one vector; counts and displacements never appear.
///
/// ```
/// use spmd::Ragged;
/// let rows = Ragged::from_rows([vec![1, 2], vec![], vec![3]]);
/// assert_eq!(rows[0], [1, 2]);
/// assert_eq!(rows.counts().collect::<Vec<_>>(), [2, 0, 1]);
/// assert_eq!(rows.into_flat(), [1, 2, 3]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ragged<T> {
    flat: Vec<T>,
    /// Where each row ends.
    ends: Vec<usize>,
}

impl<T> Ragged<T> {
    /// Rows, in the order of ranks.
    pub fn from_rows(rows: impl IntoIterator<Item = impl IntoIterator<Item = T>>) -> Self {
        let mut ragged = Self::default();
        for row in rows {
            ragged.push(row);
        }
        ragged
    }

    /// Cuts one vector into rows of the given lengths.
    ///
    /// # Panics
    /// If the lengths do not add up to the vector's.
    #[track_caller]
    pub fn from_flat(flat: Vec<T>, counts: impl IntoIterator<Item = usize>) -> Self {
        let mut ends = Vec::new();
        for count in counts {
            // No row may reach beyond the vector, though the last came back to its end.
            let end = ends.last().copied().unwrap_or(0_usize).checked_add(count);
            let end = end.filter(|&end| end <= flat.len());
            ends.push(end.expect("the rows make up the whole"));
        }
        assert_eq!(ends.last().copied().unwrap_or(0), flat.len(), "the rows make up the whole");
        Self { flat, ends }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.ends.len()
    }

    /// The length of each row.
    pub fn counts(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.rows()).map(|row| self.range(row).len())
    }

    /// The rows, in order.
    pub fn iter(&self) -> Rows<'_, T> {
        self.into_iter()
    }

    /// A row, to be changed; its length stays.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row_mut(&mut self, row: usize) -> &mut [T] {
        let range = self.range(row);
        &mut self.flat[range]
    }

    /// The rows, in order, to be changed; their lengths stay.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut [T]> {
        let mut rest = &mut self.flat[..];
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let (row, behind) = std::mem::take(&mut rest).split_at_mut(end - start);
            (rest, start) = (behind, end);
            row
        })
    }

    /// Removes all rows and keeps their memory, so that as much can be put in again without an
    /// allocation.
    ///
    /// ```
    /// use spmd::Ragged;
    /// let mut rows = Ragged::from_rows([vec![1, 2], vec![3]]);
    /// for step in 0..3 {
    ///     rows.clear();
    ///     rows.push([step]);
    ///     rows.push([step, step]);
    ///     rows.row_mut(1)[0] += 10;
    /// }
    /// assert_eq!(rows, Ragged::from_rows([vec![2], vec![12, 2]]));
    /// ```
    pub fn clear(&mut self) {
        self.flat.clear();
        self.ends.clear();
    }

    /// Adds a row behind the others.
    pub fn push(&mut self, row: impl IntoIterator<Item = T>) {
        self.flat.extend(row);
        self.ends.push(self.flat.len());
    }

    /// Sorts items into a row for each rank, by the rank that `owner` says: what `alltoall` takes.
    /// Within a row they keep their order.
    ///
    /// # Panics
    /// If `owner` says a rank that does not exist.
    ///
    /// # Examples
    /// ```
    /// use spmd::Ragged;
    /// let kept = spmd::local(3, |world| {
    ///     let mine: Vec<usize> = (10 * world.rank()..10 * world.rank() + 4).collect();
    ///     let rows = Ragged::bucket(&mine, world.size(), |number| number % 3);
    ///     Ok(world.alltoall(&rows)?.into_flat())
    /// });
    /// assert_eq!(kept.unwrap()[1], [1, 10, 13, 22]);
    /// ```
    #[track_caller]
    pub fn bucket(items: &[T], ranks: usize, owner: impl Fn(&T) -> usize) -> Self
    where
        T: Copy,
    {
        let mut rows = Self::default();
        rows.rebucket(items, ranks, owner);
        rows
    }

    /// As [`Ragged::bucket`], in the memory of these rows.
    ///
    /// # Panics
    /// As [`Ragged::bucket`].
    #[track_caller]
    pub fn rebucket(&mut self, items: &[T], ranks: usize, owner: impl Fn(&T) -> usize)
    where
        T: Copy,
    {
        self.fill_buckets(items, ranks, |_, item| owner(item));
    }

    /// As [`Ragged::rebucket`], where the owner of each item is told.
    pub(crate) fn rebucket_known(&mut self, items: &[T], ranks: usize, owners: &[usize])
    where
        T: Copy,
    {
        self.fill_buckets(items, ranks, |place, _| owners[place]);
    }

    #[track_caller]
    fn fill_buckets(&mut self, items: &[T], ranks: usize, owner: impl Fn(usize, &T) -> usize)
    where
        T: Copy,
    {
        // Whatever `owner` does, no rows are left that do not fit together.
        let (mut ends, mut flat) = (std::mem::take(&mut self.ends), std::mem::take(&mut self.flat));
        ends.clear();
        ends.resize(ranks, 0);
        for (at, item) in items.iter().enumerate() {
            let rank = owner(at, item);
            assert!(rank < ranks, "there is no rank {rank} among {ranks}");
            ends[rank] += 1;
        }
        // Where each row begins; it moves on to the row's end as the items come.
        let mut start = 0;
        for end in &mut ends {
            start += std::mem::replace(end, start);
        }
        // All of it is written below: what is there already need not be written twice.
        flat.truncate(items.len());
        flat.extend_from_slice(&items[flat.len()..]);
        for (at, item) in items.iter().enumerate() {
            let place = &mut ends[owner(at, item)];
            flat[*place] = *item;
            *place += 1;
        }
        let is_whole = ends.is_sorted() && ends.last().copied().unwrap_or(0) == items.len();
        assert!(is_whole, "the owner of an item stays the same");
        (self.ends, self.flat) = (ends, flat);
    }

    /// All elements, row after row.
    pub fn flat(&self) -> &[T] {
        &self.flat
    }

    /// All elements, row after row.
    pub fn into_flat(self) -> Vec<T> {
        self.flat
    }

    fn range(&self, row: usize) -> Range<usize> {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        start..self.ends[row]
    }
}

impl<T> Default for Ragged<T> {
    /// No rows.
    fn default() -> Self {
        Self { flat: Vec::new(), ends: Vec::new() }
    }
}

impl<T> Index<usize> for Ragged<T> {
    type Output = [T];

    fn index(&self, row: usize) -> &[T] {
        &self.flat[self.range(row)]
    }
}

impl<T> IndexMut<usize> for Ragged<T> {
    fn index_mut(&mut self, row: usize) -> &mut [T] {
        self.row_mut(row)
    }
}

impl<'r, T> IntoIterator for &'r Ragged<T> {
    type Item = &'r [T];
    type IntoIter = Rows<'r, T>;

    fn into_iter(self) -> Rows<'r, T> {
        Rows { rest: &self.flat, start: 0, ends: self.ends.iter() }
    }
}

/// The rows of a [`Ragged`], in order.
#[derive(Clone, Debug)]
pub struct Rows<'r, T> {
    rest: &'r [T],
    start: usize,
    ends: std::slice::Iter<'r, usize>,
}

impl<'r, T> Iterator for Rows<'r, T> {
    type Item = &'r [T];

    fn next(&mut self) -> Option<&'r [T]> {
        let &end = self.ends.next()?;
        let (row, behind) = self.rest.split_at(end - self.start);
        (self.rest, self.start) = (behind, end);
        Some(row)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.ends.size_hint()
    }
}

impl<T> ExactSizeIterator for Rows<'_, T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_changed_and_filled_again_in_their_memory() {
        let mut rows = Ragged::from_rows([vec![1, 2], vec![], vec![3]]);
        rows.row_mut(0)[1] = 5;
        rows[2][0] = 6;
        rows.iter_mut().for_each(<[i32]>::reverse);
        assert_eq!(rows.iter().collect::<Vec<_>>(), [&[5, 1][..], &[], &[6]]);
        assert_eq!((&rows).into_iter().len(), 3);
        let memory = rows.flat().as_ptr();
        rows.clear();
        assert_eq!(rows.rows(), 0);
        rows.rebucket(&[7, 8, 9], 4, |item| [3, 0, 3][*item as usize - 7]);
        assert_eq!(rows, Ragged::from_rows([vec![8], vec![], vec![], vec![7, 9]]));
        assert_eq!(rows.flat().as_ptr(), memory);
        assert_eq!(Ragged::<u8>::bucket(&[], 0, |_| 0), Ragged::default());
    }

    #[test]
    fn items_whose_owner_is_nobody_or_changes_are_refused() {
        let cut = |owner: &dyn Fn(&i32) -> usize| {
            let owner = std::panic::AssertUnwindSafe(owner);
            std::panic::catch_unwind(move || Ragged::bucket(&[1, 2, 3], 2, |item| owner(item)))
        };
        assert!(cut(&|_| 2).is_err());
        let asked = std::cell::Cell::new(0);
        let changes = |_: &i32| {
            asked.set(asked.get() + 1);
            usize::from(asked.get() > 3)
        };
        assert!(cut(&changes).is_err());
    }

    #[test]
    fn rows_beyond_the_end_are_none_though_their_sum_wraps_around_to_it() {
        let cut = |counts: [usize; 3]| {
            std::panic::catch_unwind(|| Ragged::from_flat(vec![1_u8; 64], counts))
        };
        assert!(cut([usize::MAX - 47, 48, 64]).is_err());
        assert!(cut([100, usize::MAX - 99, 64]).is_err());
        assert!(cut([60, 0, 3]).is_err());
        assert_eq!(cut([60, 0, 4]).unwrap().counts().collect::<Vec<_>>(), [60, 0, 4]);
    }
}
