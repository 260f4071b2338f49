//! `NumPy`'s `.npy` files: a header, and data behind it that are read and written block by block.

mod header;

use std::{
    fs::File,
    io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
};

use ndarray::{Array2, ArrayRef2, Axis};

use super::{Block, FileError, Unfinished, bytes, error::one_line, open_file, zeros};

/// An open `.npy` file with a 2-D array of numbers.
pub(super) struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    /// Where the data begin.
    start: u64,
    shape: [usize; 2],
    fortran: bool,
    element: Element,
}

/// How an element stands in the file.
#[derive(Clone, Copy)]
struct Element {
    bytes: usize,
    value: fn(&[u8]) -> f64,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        let (file, len) = open_file(path)?;
        let mut file = BufReader::new(file);
        let header = header::read(path, &mut file)?;
        let start = file.stream_position().map_err(FileError::system(path, "read"))?;
        let (path, dataset) = (path.to_owned(), None);
        let Some(element) = Element::of(&header.descriptor) else {
            let (shape, element) = (header.shape, one_line(&header.descriptor));
            return Err(FileError::UnsupportedType { path, dataset, shape, element });
        };
        let mut lengths = header.shape.iter().map(|&len| len as u64);
        let needed = lengths.try_fold(element.bytes as u64, u64::checked_mul);
        let there = len.saturating_sub(start);
        if needed.is_none_or(|needed| needed > there) {
            return Err(FileError::TooShort { path, shape: header.shape, needed, there });
        }
        let Ok(shape) = header.shape.as_slice().try_into() else {
            return Err(FileError::NotTwoDimensional { path, dataset, shape: header.shape });
        };
        Ok(Self { path, file, start, shape, fortran: header.fortran, element })
    }

    pub(super) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    pub(super) fn read(&mut self, block: &Block) -> Result<Array2<f64>, FileError> {
        // A line is what lies together in the file: a row, or a column in Fortran's order.
        let [rows, columns] = block.clone();
        let (lines, along, line_len) = if self.fortran {
            (columns, rows, self.shape[0])
        } else {
            (rows, columns, self.shape[1])
        };
        let mut values = zeros(&self.path, [lines.len(), along.len()])?;
        let mut bytes = vec![0; along.len() * self.element.bytes];
        for (line, mut into) in lines.zip(values.outer_iter_mut()) {
            self.read_bytes(line * line_len + along.start, &mut bytes)
                .map_err(FileError::system(&self.path, "read"))?;
            for (value, bytes) in into.iter_mut().zip(bytes.chunks_exact(self.element.bytes)) {
                *value = (self.element.value)(bytes);
            }
        }
        Ok(if self.fortran { values.reversed_axes() } else { values })
    }

    fn read_bytes(&mut self, element: usize, into: &mut [u8]) -> std::io::Result<()> {
        let place = self.start + (element * self.element.bytes) as u64;
        // Relative, so that what is buffered already is not thrown away.
        let here = self.file.stream_position()?;
        self.file.seek_relative(place as i64 - here as i64)?;
        self.file.read_exact(into)
    }
}

impl Element {
    /// The element that `NumPy` calls by this name, `<f8` say.
    #[allow(clippy::cast_lossless)] // some of them are not, for all of them `as` rounds to the nearest
    fn of(descriptor: &str) -> Option<Self> {
        let (order, kind) = match descriptor.split_at_checked(1)? {
            (order @ ("<" | ">" | "=" | "|"), kind) => (order, kind),
            _ => ("=", descriptor), // as in memory
        };
        let big = order == ">" || (order != "<" && cfg!(target_endian = "big"));
        macro_rules! element {
            ($type:ty, $from_bytes:ident) => {
                Self {
                    bytes: size_of::<$type>(),
                    value: |bytes| <$type>::$from_bytes(pod(bytes)) as f64,
                }
            };
        }
        macro_rules! both_orders {
            ($type:ty) => {
                if big { element!($type, from_be_bytes) } else { element!($type, from_le_bytes) }
            };
        }
        Some(match kind {
            "f8" => both_orders!(f64),
            "f4" => both_orders!(f32),
            "f2" if big => Self { bytes: 2, value: |bytes| half(u16::from_be_bytes(pod(bytes))) },
            "f2" => Self { bytes: 2, value: |bytes| half(u16::from_le_bytes(pod(bytes))) },
            "i8" => both_orders!(i64),
            "i4" => both_orders!(i32),
            "i2" => both_orders!(i16),
            "i1" => both_orders!(i8),
            "u8" => both_orders!(u64),
            "u4" => both_orders!(u32),
            "u2" => both_orders!(u16),
            "u1" | "b1" | "?" => both_orders!(u8),
            _ => return None,
        })
    }
}

fn pod<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> T {
    bytemuck::pod_read_unaligned(bytes)
}

/// The value of IEEE's number of 16 bits (`binary16`), which Rust's stable types lack.
fn half(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    let size = match exponent {
        0 => fraction * 2_f64.powi(-24),
        0x1f if fraction == 0.0 => f64::INFINITY,
        0x1f => f64::NAN,
        _ => (1.0 + fraction / 1024.0) * 2_f64.powi(exponent - 15),
    };
    if bits >> 15 == 1 { -size } else { size }
}

/// The bytes of a file with an array of this shape.
pub(super) fn size(shape: [usize; 2]) -> u64 {
    /// Filled up with blanks to a multiple of 64, and there is no shape of two axes that needs
    /// more.
    const HEADER: u64 = 128;
    bytes(shape).saturating_add(HEADER)
}

/// A `.npy` file being written, block by block.
pub(super) struct Writer {
    unfinished: Unfinished,
    file: BufWriter<File>,
    start: u64,
    columns: usize,
}

impl Writer {
    pub(super) fn create(target: &Path, shape: [usize; 2]) -> Result<Self, FileError> {
        let unfinished = Unfinished::create(target)?;
        unfinished.reserve(size(shape))?;
        let create = || {
            let mut file = unfinished.file().try_clone()?;
            let header = header::of_floats(shape);
            file.write_all(&header)?;
            let start = header.len() as u64;
            file.set_len(start.saturating_add(bytes(shape)))?;
            Ok((BufWriter::new(file), start))
        };
        let (file, start) = create().map_err(FileError::system(target, "write"))?;
        Ok(Self { unfinished, file, start, columns: shape[1] })
    }

    pub(super) fn write(
        &mut self,
        block: &Block,
        values: &ArrayRef2<f64>,
    ) -> Result<(), FileError> {
        let [rows, columns] = block;
        self.write_rows(rows.clone(), columns.start, values)
            .map_err(FileError::system(self.unfinished.target(), "write"))
    }

    fn write_rows(
        &mut self,
        rows: Range<usize>,
        column: usize,
        values: &ArrayRef2<f64>,
    ) -> std::io::Result<()> {
        for (row, values) in rows.zip(values.axis_iter(Axis(0))) {
            let place = (row * self.columns + column) * size_of::<f64>();
            self.file.seek(SeekFrom::Start(self.start + place as u64))?;
            for value in values {
                self.file.write_all(&value.to_ne_bytes())?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<(), FileError> {
        let Self { unfinished, file, .. } = self;
        file.into_inner()
            .map_err(|error| FileError::system(unfinished.target(), "write")(error.into_error()))?;
        unfinished.finish()
    }
}
