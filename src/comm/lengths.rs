//! Lengths that callers give, added and multiplied: nowhere else in this layer, so that none wraps
//! around.
//!
//! What is too much for an address space is an error that names the argument. `tests/layers.rs`
//! sees to it that no other file of this layer does such sums by itself.

use crate::error::{ErrorKind, Fault};

/// More than so many bytes are in no memory; the limit of slices too.
const MOST: usize = isize::MAX as usize;

/// The sum of counts.
pub(super) fn sum(
    what: &'static str,
    counts: impl IntoIterator<Item = usize>,
) -> Result<usize, Fault> {
    let mut counts = counts.into_iter();
    counts.try_fold(0, usize::checked_add).ok_or_else(|| too_much(what))
}

/// The product of counts.
#[inline]
pub(super) fn product<const N: usize>(
    what: &'static str,
    counts: [usize; N],
) -> Result<usize, Fault> {
    // A zero makes nothing of the largest numbers, whatever the order.
    if counts.contains(&0) {
        return Ok(0);
    }
    counts.into_iter().try_fold(1, usize::checked_mul).ok_or_else(|| too_much(what))
}

/// The bytes of so many values of `T`.
#[inline]
pub(super) fn bytes<T>(what: &'static str, count: usize) -> Result<usize, Fault> {
    count.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= MOST).ok_or_else(|| too_much(what))
}

/// The bytes of rows of so many values of `T`, which all together are in some memory.
pub(super) fn bytes_of_rows<T>(
    what: &'static str,
    counts: impl IntoIterator<Item = usize>,
) -> Result<Vec<usize>, Fault> {
    let mut rows = Vec::new();
    fill_bytes_of_rows::<T>(what, counts, &mut rows)?;
    Ok(rows)
}

/// As [`bytes_of_rows`], into memory that is used again.
pub(super) fn fill_bytes_of_rows<T>(
    what: &'static str,
    counts: impl IntoIterator<Item = usize>,
    rows: &mut Vec<usize>,
) -> Result<usize, Fault> {
    rows.clear();
    let mut whole = 0_usize;
    for count in counts {
        let row = bytes::<T>(what, count)?;
        let sum = whole.checked_add(row).filter(|&sum| sum <= MOST);
        whole = sum.ok_or_else(|| too_much(what))?;
        rows.push(row);
    }
    Ok(whole)
}

/// How many values of `T` there are in rows of so many bytes, which come from other ranks.
pub(super) fn values_in_rows<T>(what: &'static str, bytes: &[usize]) -> Result<usize, Fault> {
    Ok(sum(what, bytes.iter().copied())? / size_of::<T>())
}

/// The sum of what has been moved, for statistics.
pub(super) fn told(counts: &[usize]) -> usize {
    counts.iter().copied().fold(0, usize::saturating_add)
}

#[cold]
fn too_much(what: &'static str) -> Fault {
    ErrorKind::InvalidArgument { what: format!("{what}: more than any memory holds") }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [usize; 0] = [];

    #[test]
    fn sums_that_do_not_wrap_are_what_they_are() {
        assert_eq!(sum("counts", [1, 2, 3]).unwrap(), 6);
        assert_eq!(sum("counts", NONE).unwrap(), 0);
        assert_eq!(product("grid", [3, 4]).unwrap(), 12);
        assert_eq!(product("grid", [usize::MAX, 2, 0]).unwrap(), 0);
        assert_eq!(bytes::<u64>("mine", 3).unwrap(), 24);
        assert_eq!(bytes_of_rows::<u16>("rows", [1, 0, 2]).unwrap(), [2, 0, 4]);
        assert_eq!(values_in_rows::<u32>("rows", &[8, 4]).unwrap(), 3);
    }

    #[test]
    fn sums_that_wrap_name_the_argument() {
        let named = |result: Result<usize, Fault>| result.unwrap_err().to_string().contains("rows");
        assert!(named(sum("rows", [usize::MAX, 1])));
        assert!(named(sum("rows", [usize::MAX - 47, 48, 64])));
        assert!(named(product("rows", [1 << 32, 1 << 32])));
        assert!(named(bytes::<u64>("rows", 1 << 61)));
        assert!(named(bytes::<u8>("rows", MOST + 1)));
        // Each row fits, all together do not, and their sum wraps around to 2.
        let rows = [2, 1 << 62, 1 << 62, 1 << 62, 1 << 62];
        assert!(named(bytes_of_rows::<u8>("rows", rows).map(|rows| rows.len())));
        assert!(named(values_in_rows::<u8>("rows", &rows)));
        assert_eq!(told(&rows), usize::MAX);
    }
}
