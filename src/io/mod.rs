//! Files: blocks of 2-D arrays from and to one shared file, and pictures of them.
//!
//! An [`ArrayFile`] is a `.npy` file, or a dataset of an HDF5 file (feature `hdf5`). Each rank
//! reads its own block of it; all ranks together write one file, which is the same for every number
//! of ranks.

mod error;
#[cfg(feature = "hdf5")]
mod hdf5;
mod npy;
mod picture;
mod unfinished;

use std::{
    fmt,
    fs::{self, File},
    ops::Range,
    panic::Location,
    path::{Path, PathBuf},
    str::FromStr,
};

use ndarray::{Array2, ArrayRef2, ArrayView2};

use self::unfinished::Unfinished;
pub use self::{error::FileError, picture::PictureFile};
use crate::{
    array::Layout,
    comm::Comm,
    error::{Call, Failure, With},
};

/// A range of rows and a range of columns.
type Block = [Range<usize>; 2];

/// A 2-D array in a file, as users name it: `FILE.npy`, `FILE.h5` or `FILE.h5:/path/of/dataset`.
///
/// Parsing refuses what this build cannot handle, so that an option of this type is refused before
/// anything is computed:
/// ```
/// use spmd::io::{ArrayFile, FileError};
/// let file: ArrayFile = "terrain.npy".parse()?;
/// assert_eq!(file.to_string(), "terrain.npy");
/// assert!(matches!("terrain.txt".parse::<ArrayFile>(), Err(FileError::UnknownSuffix { .. })));
/// # Ok::<(), FileError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrayFile {
    path: PathBuf,
    format: Format,
    /// In an HDF5 file, if the user named one.
    dataset: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Npy,
    #[cfg(feature = "hdf5")]
    Hdf5,
}

/// What a file says of where its data come from. Command line and number of ranks are added by
/// [`write`](ArrayFile::write).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// What the data are, in a few words.
    pub title: String,
    /// The unit of each value.
    pub units: String,
    /// The program that made them, and its version.
    pub version: String,
}

/// Provenance as it stands in the file: rank 0's.
#[cfg(feature = "hdf5")]
#[derive(Clone, Debug)]
struct Record {
    title: String,
    units: String,
    version: String,
    command_line: String,
    ranks: u64,
}

impl FromStr for ArrayFile {
    type Err = FileError;

    fn from_str(text: &str) -> Result<Self, FileError> {
        // A colon may be part of the path: what stands before the dataset's must be a known file
        // name.
        let mut colons =
            text.match_indices(':').map(|(at, _)| (&text[..at], Some(&text[at + 1..])));
        let named = colons.find_map(|(file, dataset)| Some((file, suffix(file)?, dataset)));
        let found = named.or_else(|| Some((text, suffix(text)?, None)));
        let Some((file, suffix, dataset)) = found else {
            return Err(FileError::UnknownSuffix { path: text.into(), known: "npy, h5 or hdf5" });
        };
        let path = PathBuf::from(file);
        let format = match (suffix, dataset) {
            ("npy", Some(_)) => return Err(FileError::NoDatasets { path }),
            ("npy", None) => Format::Npy,
            #[cfg(feature = "hdf5")]
            _ => Format::Hdf5,
            #[cfg(not(feature = "hdf5"))]
            _ => return Err(FileError::MissingFeature { path, feature: "hdf5" }),
        };
        let dataset = dataset.filter(|name| !name.is_empty()).map(ToOwned::to_owned);
        Ok(Self { path, format, dataset })
    }
}

/// The suffix of a file that arrays can be in.
fn suffix(file: &str) -> Option<&'static str> {
    let suffix = Path::new(file).extension()?;
    ["npy", "h5", "hdf5"].into_iter().find(|known| suffix.eq_ignore_ascii_case(known))
}

impl fmt::Display for ArrayFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        self.dataset.as_ref().map_or(Ok(()), |dataset| write!(f, ":{dataset}"))
    }
}

impl ArrayFile {
    /// The file, without the dataset.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of rows and columns of the array in the file.
    ///
    /// # Errors
    /// If there is no such file or dataset, or it is not a 2-D array of numbers with one cell at
    /// least. Where no dataset is named, the file must have only one such dataset; the error lists
    /// what there is.
    pub fn shape(&self) -> Result<[usize; 2], FileError> {
        let (shape, dataset) = match self.format {
            Format::Npy => (npy::Reader::open(&self.path)?.shape(), None),
            #[cfg(feature = "hdf5")]
            Format::Hdf5 => {
                let reader = hdf5::Reader::open(&self.path, self.dataset.as_deref())?;
                (reader.shape(), Some(reader.name().to_owned()))
            }
        };
        if shape.contains(&0) {
            let path = self.path.clone();
            return Err(FileError::Empty { path, dataset, shape: shape.to_vec() });
        }
        Ok(shape)
    }

    /// A block of the array in the file, converted to `f64`: only this block is read.
    ///
    /// # Errors
    /// As [`shape`](Self::shape), and if the file ends too early.
    ///
    /// # Panics
    /// If the array has no such rows or columns.
    pub fn read(&self, block: &[Range<usize>; 2]) -> Result<Array2<f64>, FileError> {
        let check = |[rows, columns]: [usize; 2]| {
            assert!(block[0].end <= rows && block[1].end <= columns, "the block is in the array");
        };
        if block.iter().any(Range::is_empty) {
            return zeros(&self.path, [block[0].len(), block[1].len()]);
        }
        match self.format {
            Format::Npy => {
                let mut reader = npy::Reader::open(&self.path)?;
                check(reader.shape());
                reader.read(block)
            }
            #[cfg(feature = "hdf5")]
            Format::Hdf5 => {
                let reader = hdf5::Reader::open(&self.path, self.dataset.as_deref())?;
                check(reader.shape());
                reader.read(block)
            }
        }
    }

    /// Finds out whether the file can be written, and leaves nothing behind: before a long
    /// computation, on one rank.
    ///
    /// # Errors
    /// If the directory does not exist or cannot be written, or the name belongs to a directory, a
    /// read-only file, or an HDF5 file with other datasets.
    pub fn check_writable(&self) -> Result<(), FileError> {
        self.check_replaceable()?;
        unfinished::check_writable(&self.path)
    }

    /// As [`check_writable`](Self::check_writable), and whether there is room for an array of this
    /// shape at this moment.
    ///
    /// # Errors
    /// As `check_writable`, and if the file would not fit.
    pub fn check_room(&self, shape: [usize; 2]) -> Result<(), FileError> {
        self.check_replaceable()?;
        unfinished::check_room(&self.path, self.size(shape))
    }

    /// Whether no data would be lost that are not written anew.
    #[cfg_attr(not(feature = "hdf5"), expect(clippy::unnecessary_wraps))]
    fn check_replaceable(&self) -> Result<(), FileError> {
        match self.format {
            Format::Npy => Ok(()),
            #[cfg(feature = "hdf5")]
            Format::Hdf5 => hdf5::check_replaceable(&self.path, self.dataset.as_deref()),
        }
    }

    /// About how many bytes the file takes.
    fn size(&self, shape: [usize; 2]) -> u64 {
        match self.format {
            Format::Npy => npy::size(shape),
            #[cfg(feature = "hdf5")]
            Format::Hdf5 => hdf5::size(shape),
        }
    }

    /// Writes a distributed array: `block` is this rank's block of `layout`. All ranks return when
    /// the file is complete.
    ///
    /// The file gets its name when it is complete, and replaces one that was there, whose
    /// permissions it keeps. A link is followed; a pipe or a device gets the bytes when all are
    /// there. HDF5 files get the dataset `/field` if none is named; one that has other datasets is
    /// refused. With the feature `phdf5` on the engine `mpi` all ranks write into an HDF5 file
    /// together, in a directory that all hosts share; else rank 0 writes one block after the other
    /// and holds no more than two. The bytes of the dataset are the same.
    ///
    /// # Collective
    /// The blocks, and after each step on the file an allgather of 128 bytes per rank.
    ///
    /// # Errors
    /// What the file system or the other ranks did wrong, on all ranks; nothing is left of the file
    /// then.
    ///
    /// # Panics
    /// If `block` has not the shape that `layout` gives this rank.
    #[track_caller]
    pub fn write(
        &self,
        comm: &Comm,
        layout: &Layout<2>,
        block: &ArrayRef2<f64>,
        about: &Provenance,
    ) -> Result<(), Failure> {
        let mine = layout.block(comm.rank()).ranges();
        assert_eq!(block.dim(), (mine[0].len(), mine[1].len()), "the block is this rank's");
        let at = Location::caller();
        self.write_together(comm, layout, block, about, at).map_err(|failure| failure.called_at(at))
    }

    fn write_together(
        &self,
        comm: &Comm,
        layout: &Layout<2>,
        block: &ArrayRef2<f64>,
        about: &Provenance,
        at: &'static Location<'static>,
    ) -> Result<(), Failure> {
        // A message space of its own: the program's messages are never taken for blocks.
        let comm = comm.dup()?;
        #[cfg(feature = "phdf5")]
        if let (Format::Hdf5, Some(mpi)) = (self.format, hdf5::collective::mpi_of(&comm)?)
            // Bytes for a pipe are put together where rank 0 is.
            && comm.bcast(0, || vec![!unfinished::is_pipe(&self.path)])?[0]
        {
            let shared = hdf5::collective::Shared { comm: &comm, mpi, path: &self.path, at };
            return shared.write(self.dataset.as_deref(), layout, block, about);
        }
        let writer = if comm.rank() == 0 {
            self.check_replaceable()
                .and_then(|()| Writer::create(self, layout.shape(), about, comm.size()))
                .map(Some)
        } else {
            Ok(None)
        };
        let written = match agree(&comm, at, writer)? {
            Some(mut writer) => {
                // Blocks come even when none can be written any more: their senders wait.
                let mut written = Ok(());
                collect(&comm, layout, block, |block, values| {
                    if written.is_ok() {
                        written = writer.write(block, values);
                    }
                })?;
                written.and_then(|()| writer.finish())
            }
            None if block.is_empty() => Ok(()),
            None => {
                comm.send(&block.iter().copied().collect::<Vec<_>>(), 0)?;
                Ok(())
            }
        };
        agree(&comm, at, written)
    }
}

/// A file that one rank writes, block by block.
enum Writer {
    Npy(npy::Writer),
    #[cfg(feature = "hdf5")]
    Hdf5(hdf5::Writer),
}

impl Writer {
    fn create(
        file: &ArrayFile,
        shape: [usize; 2],
        #[cfg_attr(not(feature = "hdf5"), expect(unused_variables))] about: &Provenance,
        #[cfg_attr(not(feature = "hdf5"), expect(unused_variables))] ranks: usize,
    ) -> Result<Self, FileError> {
        match file.format {
            Format::Npy => npy::Writer::create(&file.path, shape).map(Self::Npy),
            #[cfg(feature = "hdf5")]
            Format::Hdf5 => {
                let (to, record) = (file.dataset.as_deref(), Record::new(about, ranks));
                hdf5::Writer::create(&file.path, to, shape, &record).map(Self::Hdf5)
            }
        }
    }

    fn write(&mut self, block: &Block, values: &ArrayRef2<f64>) -> Result<(), FileError> {
        match self {
            Self::Npy(writer) => writer.write(block, values),
            #[cfg(feature = "hdf5")]
            Self::Hdf5(writer) => writer.write(block, values),
        }
    }

    fn finish(self) -> Result<(), FileError> {
        match self {
            Self::Npy(writer) => writer.finish(),
            #[cfg(feature = "hdf5")]
            Self::Hdf5(writer) => writer.finish(),
        }
    }
}

/// Makes all ranks agree how a step on the file has ended, in the name of the call that stands
/// `at`.
fn agree<R>(
    comm: &Comm,
    at: &'static Location<'static>,
    outcome: Result<R, FileError>,
) -> Result<R, Failure> {
    let outcome = outcome.map_err(|error| Failure::from(error).called_at(at));
    comm.agree_on_outcome(Call { op: "write", with: With::ALL, at }, outcome)
}

/// The bytes of the cells of an array; the largest number if there are more.
fn bytes(shape: [usize; 2]) -> u64 {
    shape.iter().fold(size_of::<f64>() as u64, |bytes, &len| bytes.saturating_mul(len as u64))
}

/// Opens a file to read from, of which every rank reads a part of its own; and its length.
fn open_file(path: &Path) -> Result<(File, u64), FileError> {
    let refuse = FileError::system(path, "open");
    // Looked at before it is opened: that would wait for somebody to write into a pipe.
    let about = fs::metadata(path).map_err(&refuse)?;
    if !about.is_file() {
        let kind = if about.is_dir() { "a directory" } else { "a pipe or a device" };
        let needed = "a file, of which every rank can read its own part";
        return Err(FileError::NoFile { path: path.to_owned(), kind, needed });
    }
    Ok((File::open(path).map_err(refuse)?, about.len()))
}

/// Room for a part of the array in a file, whatever size the file claims.
fn zeros(path: &Path, shape: [usize; 2]) -> Result<Array2<f64>, FileError> {
    let refuse = || FileError::TooLarge { path: path.to_owned(), shape: shape.to_vec() };
    let cells = shape[0].checked_mul(shape[1]).ok_or_else(refuse)?;
    let mut values = Vec::new();
    values.try_reserve_exact(cells).map_err(|_| refuse())?;
    values.resize(cells, 0.0);
    Array2::from_shape_vec(shape, values).map_err(|_| refuse())
}

/// Hands rank 0 all blocks that are not empty, in the order of ranks, one at a time.
fn collect(
    comm: &Comm,
    layout: &Layout<2>,
    mine: &ArrayRef2<f64>,
    mut take: impl FnMut(&Block, &ArrayRef2<f64>),
) -> Result<(), Failure> {
    for rank in (0..comm.size()).filter(|&rank| !layout.block(rank).is_empty()) {
        let block = layout.block(rank).ranges();
        if rank == comm.rank() {
            take(&block, mine);
        } else {
            let (values, _) = comm.recv::<f64>(rank)?;
            take(&block, &ArrayView2::from_shape(layout.block(rank).shape(), &values)?);
        }
    }
    Ok(())
}

#[cfg(feature = "hdf5")]
impl Record {
    fn new(about: &Provenance, ranks: usize) -> Self {
        let Provenance { title, units, version } = about.clone();
        // A text attribute cannot hold what is no Unicode, nor a zero byte, which no argument has.
        let words: Vec<_> =
            std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
        Self { title, units, version, command_line: words.join(" "), ranks: ranks as u64 }
    }
}

#[cfg(test)]
mod tests;
