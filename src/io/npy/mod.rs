//! `NumPy`'s `.npy` files: a header, and data behind it that are read and written block by block.

mod header;

use std::{
    fs::File,
    io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::{
    Cells, FileError, Part, Stored, Unfinished, byte_count, error::one_line, open_file, stored,
    zeros,
};
use crate::scalar::Element;

/// An open `.npy` file with an array of elements that are known.
pub(super) struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    /// Where the data begin.
    start: u64,
    shape: Vec<usize>,
    fortran: bool,
    element: Element,
    /// Whether the bytes of an element have the other order than this machine's.
    swapped: bool,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        let (file, len) = open_file(path)?;
        let mut file = BufReader::new(file);
        let header = header::read(path, &mut file)?;
        let start = file.stream_position().map_err(FileError::system(path, "read"))?;
        let (path, dataset) = (path.to_owned(), None);
        let Some((element, swapped)) = header::element(&header.descriptor) else {
            let (shape, element) = (header.shape, one_line(&header.descriptor));
            return Err(FileError::UnsupportedType { path, dataset, shape, element });
        };
        let mut lengths = header.shape.iter().map(|&len| len as u64);
        let needed = lengths.try_fold(element.bytes() as u64, u64::checked_mul);
        let there = len.saturating_sub(start);
        if needed.is_none_or(|needed| needed > there) {
            return Err(FileError::TooShort { path, shape: header.shape, needed, there });
        }
        let (shape, fortran) = (header.shape, header.fortran);
        Ok(Self { path, file, start, shape, fortran, element, swapped })
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub(super) fn element(&self) -> Element {
        self.element
    }

    pub(super) fn read<T: Stored>(&mut self, part: Part) -> Result<Cells<T>, FileError> {
        let mut values: Vec<T> = zeros(&self.path, &part.lens)?;
        self.fill(part, &mut values)?;
        Ok(Cells { values, fortran: self.fortran })
    }

    /// Reads the cells of a block, the last axis fastest, if they lie so in the file; says whether
    /// they do.
    pub(super) fn read_into<T: Stored>(
        &mut self,
        part: &Part,
        values: &mut [T],
    ) -> Result<bool, FileError> {
        if self.fortran {
            return Ok(false);
        }
        self.fill(part.clone(), values)?;
        Ok(true)
    }

    /// Reads the cells of a block in the order of the file.
    fn fill<T: Stored>(&mut self, part: Part, values: &mut [T]) -> Result<(), FileError> {
        /// Elements that are converted are read in rounds of about so many bytes.
        const ROUND: usize = 1 << 20;
        // In Fortran's order the first axis lies together.
        let (part, shape) = if self.fortran {
            (part.reversed(), self.shape.iter().rev().copied().collect())
        } else {
            (part, self.shape.clone())
        };
        let (piece, starts) = part.pieces(&shape);
        let mut rest = values;
        let mut bytes = Vec::new();
        for start in starts {
            let (into, behind) = rest.split_at_mut(piece);
            rest = behind;
            let here = self.seek(start);
            let done = here.and_then(|()| match stored::in_place(self.element, into) {
                Some(into) => self.read_elements(into),
                None => into.chunks_mut(ROUND / self.element.bytes()).try_for_each(|into| {
                    bytes.resize(into.len() * self.element.bytes(), 0);
                    self.read_elements(&mut bytes)?;
                    stored::convert(self.element, &bytes, into);
                    Ok(())
                }),
            });
            done.map_err(FileError::system(&self.path, "read"))?;
        }
        Ok(())
    }

    fn seek(&mut self, element: usize) -> std::io::Result<()> {
        let place = self.start + (element * self.element.bytes()) as u64;
        // Relative, so that what is buffered already is not thrown away.
        let here = self.file.stream_position()?;
        self.file.seek_relative(place as i64 - here as i64)
    }

    fn read_elements(&mut self, bytes: &mut [u8]) -> std::io::Result<()> {
        self.file.read_exact(bytes)?;
        if self.swapped {
            stored::swap(self.element, bytes);
        }
        Ok(())
    }
}

/// The bytes of a file with an array of this shape.
pub(super) fn size(shape: &[usize], element: Element) -> u64 {
    let header = header::new(shape, element).len() as u64;
    byte_count(shape, element).saturating_add(header)
}

/// A `.npy` file being written, block by block.
pub(super) struct Writer {
    unfinished: Unfinished,
    file: BufWriter<File>,
    start: u64,
    shape: Vec<usize>,
    element: Element,
}

impl Writer {
    pub(super) fn create(
        target: &Path,
        shape: &[usize],
        element: Element,
    ) -> Result<Self, FileError> {
        let unfinished = Unfinished::create(target)?;
        unfinished.reserve(size(shape, element))?;
        let create = || {
            let mut file = unfinished.file().try_clone()?;
            let header = header::new(shape, element);
            file.write_all(&header)?;
            file.set_len(size(shape, element))?;
            Ok((BufWriter::new(file), header.len() as u64))
        };
        let (file, start) = create().map_err(FileError::system(target, "write"))?;
        Ok(Self { unfinished, file, start, shape: shape.to_vec(), element })
    }

    /// Writes the cells of a block, which lie together, the last axis fastest.
    pub(super) fn write(&mut self, part: &Part, bytes: &[u8]) -> Result<(), FileError> {
        let (piece, starts) = part.pieces(&self.shape);
        let each = self.element.bytes();
        let mut pieces = starts.zip(bytes.chunks_exact((piece * each).max(1)));
        let written = pieces.try_for_each(|(start, bytes)| {
            self.file.seek(SeekFrom::Start(self.start + (start * each) as u64))?;
            self.file.write_all(bytes)
        });
        written.map_err(FileError::system(self.unfinished.target(), "write"))
    }

    pub(super) fn finish(self) -> Result<(), FileError> {
        let Self { unfinished, file, .. } = self;
        file.into_inner()
            .map_err(|error| FileError::system(unfinished.target(), "write")(error.into_error()))?;
        unfinished.finish()
    }
}
