//! One row per rank, of any lengths.

use std::ops::{Index, Range};

/// Rows of different lengths, one per rank: what `gather` and `allgather` return, what `scatter` and `alltoall` take.
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
        let mut ragged = Self { flat: Vec::new(), ends: Vec::new() };
        for row in rows {
            ragged.flat.extend(row);
            ragged.ends.push(ragged.flat.len());
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
    pub fn iter(&self) -> impl Iterator<Item = &[T]> {
        (0..self.rows()).map(|row| &self[row])
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

#[cfg(test)]
mod tests {
    use super::*;

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
