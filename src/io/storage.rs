//! How the cells of an array lie in a file.

use std::{fmt, path::Path};

#[cfg(feature = "hdf5")]
use super::{Element, byte_count};
use super::{FileError, Format};

/// What was asked for; without anything the cells lie together in the order of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Storage {
    /// The lengths of a chunk along each axis.
    pub(super) chunk: Option<Vec<usize>>,
    /// The level of the compression.
    pub(super) deflate: Option<u8>,
}

impl Storage {
    /// Whether an array of this shape can be stored so.
    pub(super) fn check(
        &self,
        path: &Path,
        format: Format,
        shape: &[usize],
    ) -> Result<(), FileError> {
        let refuse = |reason: String| Err(FileError::Storage { path: path.to_owned(), reason });
        if format == Format::Npy && *self != Self::default() {
            let reason =
                "a .npy file has no chunks and is not compressed; choose a name that ends in .h5";
            return refuse(reason.to_owned());
        }
        if let Some(chunk) = &self.chunk
            && (chunk.len() != shape.len() || chunk.contains(&0))
        {
            return refuse(format!(
                "chunks of {chunk:?} for an array of {shape:?}; give a length of 1 or more for each axis"
            ));
        }
        match self.deflate {
            Some(level @ 10..) => {
                refuse(format!("there is no compression of level {level}; give 0 to 9"))
            }
            _ => Ok(()),
        }
    }

    /// The lengths of the chunks of an array of this shape, if it is stored in chunks; `extended`
    /// is one along its first axis, for which nobody chooses a length.
    #[cfg(feature = "hdf5")]
    pub(super) fn chunk(
        &self,
        shape: &[usize],
        element: Element,
        extended: bool,
    ) -> Option<Vec<usize>> {
        /// Chunks that nobody has chosen have about so many bytes.
        const BYTES: u64 = 1 << 20;
        if shape.is_empty() || shape.contains(&0) {
            return None; // there is nothing to cut
        }
        let (first, shape) = shape.split_at(usize::from(extended));
        let step = vec![1; first.len()];
        if let Some(chunk) = &self.chunk {
            let chunk = chunk.iter().zip(shape).map(|(&chunk, &len)| chunk.min(len));
            return Some(step.into_iter().chain(chunk).collect());
        }
        if !extended && self.deflate.is_none() {
            return None;
        }
        let mut chunk = shape.to_vec();
        while byte_count(&chunk, element) > BYTES
            && let Some(longest) = chunk.iter_mut().max()
        {
            *longest = longest.div_ceil(2);
        }
        Some([step, chunk].concat())
    }
}

/// As the words behind the name of a file; nothing where nothing was asked for.
impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(chunk) = &self.chunk {
            write!(f, " in chunks of {chunk:?}")?;
        }
        self.deflate.map_or(Ok(()), |level| write!(f, " compressed by level {level}"))
    }
}

#[cfg(all(test, feature = "hdf5"))]
mod tests {
    use super::*;

    #[test]
    fn chunks_that_nobody_chose_have_about_a_megabyte() {
        let packed = Storage { chunk: None, deflate: Some(3) };
        let chunk = |shape: &[usize]| packed.chunk(shape, Element::F64, false);
        assert_eq!(chunk(&[10, 10]), Some(vec![10, 10]));
        assert_eq!(chunk(&[1, 1 << 20]), Some(vec![1, 1 << 17]));
        for shape in [&[1_000_000, 3][..], &[999, 1001, 1003], &[usize::MAX; 6]] {
            let bytes = byte_count(&chunk(shape).unwrap(), Element::F64);
            assert!((1 << 15..=1 << 20).contains(&bytes), "{shape:?}: {bytes}");
        }
        assert_eq!(chunk(&[0, 5]), None);
        let plain = Storage::default();
        assert_eq!(plain.chunk(&[10, 10], Element::F64, false), None);
        assert_eq!(plain.chunk(&[7, 10, 10], Element::F64, true), Some(vec![1, 10, 10]));
        let given = Storage { chunk: Some(vec![4, 20]), deflate: None };
        assert_eq!(given.chunk(&[7, 10, 10], Element::F64, true), Some(vec![1, 4, 10]));
    }
}
