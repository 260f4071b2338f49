//! Files: blocks of arrays from and to one shared file, pictures of them, checkpoints.
//!
//! An [`ArrayFile`] is a `.npy` file, or a dataset of an HDF5 file (feature `hdf5`), of any number of
//! axes and any type of elements that is [`Stored`]. Each rank reads its own block of it; all ranks
//! together write one file, which is the same for every number of ranks.

mod checkpoint;
mod dist;
mod error;
#[cfg(feature = "hdf5")]
mod hdf5;
mod npy;
mod part;
mod picture;
mod storage;
mod stored;
mod strategy;
mod unfinished;

use std::{
    fmt,
    fs::{self, File},
    panic::Location,
    path::{Path, PathBuf},
    str::FromStr,
};

use ndarray::{Array, ArrayRef, CowArray, ShapeBuilder};

pub use self::{
    checkpoint::{Checkpoint, CheckpointArgs, Every, State},
    error::FileError,
    picture::PictureFile,
    stored::Stored,
    unfinished::write_whole,
};
pub(crate) use self::{
    checkpoint::{Clock, Found, Vault, partner_shift},
    unfinished::Unfinished,
};
use self::{part::Part, storage::Storage};
pub use crate::scalar::Element;
use crate::{
    array::{Axes, Block, Layout},
    comm::Comm,
    datum::{Datum, Landing, bytes_of},
    error::{Call, Failure, With},
};

/// `ndarray`'s type of a shape with `D` axes.
type DimOf<const D: usize> = <[usize; D] as Axes>::Dim;

/// An array in a file, as users name it: `FILE.npy`, `FILE.h5`, `FILE.h5:/path/of/dataset`, or
/// `FILE.vtkhdf` and `FILE.vtkhdf:NAME`.
///
/// A `.vtkhdf` file is an HDF5 file that `ParaView` opens: an image of two or three axes, of which
/// the last is x, with a field of numbers, one for each of its cells, whose edges are 1 long.
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
    /// How its cells lie when it is written.
    storage: Storage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Npy,
    #[cfg(feature = "hdf5")]
    Hdf5 {
        /// In the form of VTKHDF, which `ParaView` opens.
        vtk: bool,
    },
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

/// An array that is to be in a file.
#[derive(Clone, Debug)]
struct New {
    path: PathBuf,
    format: Format,
    /// Its name in an HDF5 file.
    #[cfg(feature = "hdf5")]
    dataset: String,
    shape: Vec<usize>,
    element: Element,
    #[cfg(feature = "hdf5")]
    storage: Storage,
    /// Where it is a step of a series, along the first axis.
    #[cfg(feature = "hdf5")]
    step: Option<Step>,
}

/// A step of a series.
#[cfg(feature = "hdf5")]
#[derive(Clone, Copy, Debug)]
struct Step {
    number: usize,
    time: f64,
    /// Whether all ranks can write it together.
    #[cfg_attr(not(feature = "phdf5"), expect(dead_code))]
    together: bool,
}

/// The cells of a block that was read.
struct Cells<T> {
    values: Vec<T>,
    /// Whether the first axis lies together, not the last.
    fortran: bool,
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
            return Err(FileError::UnknownSuffix {
                path: text.into(),
                known: "npy, h5, hdf5 or vtkhdf",
            });
        };
        let path = PathBuf::from(file);
        let format = match (suffix, dataset) {
            ("npy", Some(_)) => return Err(FileError::NoDatasets { path }),
            ("npy", None) => Format::Npy,
            #[cfg(feature = "hdf5")]
            (suffix, _) => Format::Hdf5 { vtk: suffix == "vtkhdf" },
            #[cfg(not(feature = "hdf5"))]
            _ => return Err(FileError::MissingFeature { path, feature: "hdf5" }),
        };
        let dataset = dataset.filter(|name| !name.is_empty()).map(ToOwned::to_owned);
        Ok(Self { path, format, dataset, storage: Storage::default() })
    }
}

/// The suffix of a file that arrays can be in.
fn suffix(file: &str) -> Option<&'static str> {
    let suffix = Path::new(file).extension()?;
    ["npy", "h5", "hdf5", "vtkhdf"].into_iter().find(|known| suffix.eq_ignore_ascii_case(known))
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

    /// The same file, to be written in chunks of so many cells along each axis: each is stored by
    /// itself, so that parts of any form are read fast. HDF5 only; without it the cells lie in the
    /// order of rows.
    #[must_use]
    pub fn chunked(mut self, chunk: &[usize]) -> Self {
        self.storage.chunk = Some(chunk.to_vec());
        self
    }

    /// The same file, to be written compressed by gzip's method, 0 (fast) to 9 (small). HDF5 only;
    /// in chunks of about a megabyte unless [`chunked`](Self::chunked) says how large.
    #[must_use]
    pub fn deflate(mut self, level: u8) -> Self {
        self.storage.deflate = Some(level);
        self
    }

    /// The lengths of the array in the file along each of its axes: none for a single value.
    ///
    /// # Errors
    /// If there is no such file or dataset, or its elements are none of [`Element`]. Where no dataset
    /// is named, the file must have only one such dataset; the error lists what there is.
    pub fn shape_of(&self) -> Result<Vec<usize>, FileError> {
        Ok(self.open(None)?.shape().to_vec())
    }

    /// The lengths of the array in the file along each of its `D` axes.
    ///
    /// # Errors
    /// As [`shape_of`](Self::shape_of), and if it has another number of axes, or no cells. Where no
    /// dataset is named, the file must have only one with so many axes.
    pub fn shape<const D: usize>(&self) -> Result<[usize; D], FileError> {
        let reader = self.open(Some(D))?;
        let shape = self.check_axes(&reader)?;
        if shape.contains(&0) {
            let (path, dataset) = (self.path.clone(), reader.dataset());
            return Err(FileError::Empty { path, dataset, shape: shape.to_vec() });
        }
        Ok(shape)
    }

    /// The type of the elements in the file.
    ///
    /// # Errors
    /// As [`shape_of`](Self::shape_of).
    pub fn element(&self) -> Result<Element, FileError> {
        Ok(self.open(None)?.element())
    }

    /// A block of the array in the file: only this block is read.
    ///
    /// Elements of another type are converted where that loses nothing but the last digits of large
    /// integers ([`Element::converts_to`]).
    ///
    /// # Errors
    /// As [`shape`](Self::shape), and if the elements cannot be converted to `T`, or the file ends
    /// too early.
    ///
    /// # Panics
    /// If the array has no such cells.
    pub fn read<T: Stored, const D: usize>(
        &self,
        block: &Block<D>,
    ) -> Result<Array<T, DimOf<D>>, FileError>
    where
        [usize; D]: Axes,
    {
        let cells = if block.is_empty() {
            Cells { values: Vec::new(), fortran: false }
        } else {
            let mut reader = self.open(Some(D))?;
            let shape: [usize; D] = self.check_axes(&reader)?;
            let part = Part::from(block);
            assert!(part.is_within(&shape), "the block {block} is in an array of {shape:?}");
            self.read_part(&mut reader, part)?
        };
        Array::from_shape_vec(block.shape().dim().set_f(cells.fortran), cells.values).map_err(
            |_| FileError::TooLarge { path: self.path.clone(), shape: block.shape().to_vec() },
        )
    }

    /// The value in a file whose array has no axes.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_value<T: Stored>(&self) -> Result<T, FileError> {
        let mut reader = self.open(Some(0))?;
        let _: [usize; 0] = self.check_axes(&reader)?;
        let cells = self.read_part(&mut reader, Part::whole(&[]))?;
        Ok(cells.values[0])
    }

    /// Opens the file to read from, and the only dataset with so many axes where none is named.
    #[cfg_attr(not(feature = "hdf5"), expect(unused_variables))]
    fn open(&self, axes: Option<usize>) -> Result<Reader, FileError> {
        match self.format {
            Format::Npy => npy::Reader::open(&self.path).map(Reader::Npy),
            #[cfg(feature = "hdf5")]
            Format::Hdf5 { .. } => {
                hdf5::Reader::open(&self.path, self.dataset_path().as_deref(), axes)
                    .map(Reader::Hdf5)
            }
        }
    }

    fn check_axes<const D: usize>(&self, reader: &Reader) -> Result<[usize; D], FileError> {
        reader.shape().try_into().map_err(|_| FileError::WrongAxes {
            path: self.path.clone(),
            dataset: reader.dataset(),
            shape: reader.shape().to_vec(),
            wanted: D,
        })
    }

    fn check_conversion<T: Stored>(&self, reader: &Reader) -> Result<(), FileError> {
        let (holds, wanted) = (reader.element(), T::ELEMENT);
        if holds.converts_to(wanted) {
            return Ok(());
        }
        let (path, dataset) = (self.path.clone(), reader.dataset());
        Err(FileError::LossyConversion { path, dataset, holds, wanted })
    }

    /// Reads a block to a place in an array of the shape `room`, if it can go there as it comes out
    /// of the file; says whether it can.
    fn read_part_into<T: Stored>(
        &self,
        reader: &mut Reader,
        part: &Part,
        (values, room, place): (&mut [T], &[usize], &Part),
    ) -> Result<bool, FileError> {
        self.check_conversion::<T>(reader)?;
        match reader {
            Reader::Npy(reader) if *room == *place.lens => reader.read_into(part, values),
            Reader::Npy(_) => Ok(false),
            #[cfg(feature = "hdf5")]
            Reader::Hdf5(reader) => reader.read_into(part, (values, room, place)),
        }
    }

    fn read_part<T: Stored>(&self, reader: &mut Reader, part: Part) -> Result<Cells<T>, FileError> {
        self.check_conversion::<T>(reader)?;
        match reader {
            Reader::Npy(reader) => reader.read(part),
            #[cfg(feature = "hdf5")]
            Reader::Hdf5(reader) => reader.read(&part),
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
    /// shape at this moment. What is compressed may take as much as what is not.
    ///
    /// # Errors
    /// As `check_writable`, and if the file would not fit, or cannot be written in chunks as they
    /// were asked for.
    pub fn check_room<T: Stored>(&self, shape: &[usize]) -> Result<(), FileError> {
        self.check_replaceable()?;
        let new = self.new_array(shape, T::ELEMENT)?;
        unfinished::check_room(&self.path, new.size())
    }

    /// Whether no data would be lost that are not written anew.
    #[cfg_attr(not(feature = "hdf5"), expect(clippy::unnecessary_wraps))]
    fn check_replaceable(&self) -> Result<(), FileError> {
        match self.format {
            Format::Npy => Ok(()),
            #[cfg(feature = "hdf5")]
            Format::Hdf5 { .. } => hdf5::check_replaceable(&self.path, &self.dataset_to_write()),
        }
    }

    /// The whole name of the dataset that was named.
    #[cfg(feature = "hdf5")]
    fn dataset_path(&self) -> Option<String> {
        let name = self.dataset.as_ref()?;
        Some(match self.format {
            Format::Hdf5 { vtk: true } if !name.starts_with('/') => {
                hdf5::vtk::FIELDS.to_owned() + name
            }
            _ => name.clone(),
        })
    }

    /// The dataset that is written.
    #[cfg(feature = "hdf5")]
    fn dataset_to_write(&self) -> String {
        self.dataset_path().unwrap_or_else(|| match self.format {
            Format::Hdf5 { vtk: true } => format!("{}field", hdf5::vtk::FIELDS),
            _ => hdf5::DATASET.to_owned(),
        })
    }

    /// The array that the file is to have.
    fn new_array(&self, shape: &[usize], element: Element) -> Result<New, FileError> {
        self.storage.check(&self.path, self.format, shape)?;
        let new = New {
            path: self.path.clone(),
            format: self.format,
            #[cfg(feature = "hdf5")]
            dataset: self.dataset_to_write(),
            shape: shape.to_vec(),
            element,
            #[cfg(feature = "hdf5")]
            storage: self.storage.clone(),
            #[cfg(feature = "hdf5")]
            step: None,
        };
        #[cfg(feature = "hdf5")]
        if self.format == (Format::Hdf5 { vtk: true }) {
            hdf5::vtk::check(&new)?;
        }
        Ok(new)
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
    /// then. [`ErrorKind::CollectiveMismatch`](crate::ErrorKind::CollectiveMismatch), before
    /// anything is written, if the ranks name different files, datasets, layouts or types.
    ///
    /// # Panics
    /// If `block` has not the shape that `layout` gives this rank, or `layout` is for more ranks
    /// than there are.
    #[track_caller]
    pub fn write<T: Stored, const D: usize>(
        &self,
        comm: &Comm,
        layout: &Layout<D>,
        block: &ArrayRef<T, DimOf<D>>,
        about: &Provenance,
    ) -> Result<(), Failure>
    where
        [usize; D]: Axes,
    {
        let at = Location::caller();
        let values = own_cells(comm, layout, block);
        let values = values.as_slice().unwrap_or_default(); // in this order it is one
        let new = self.new_array(&layout.shape(), T::ELEMENT);
        let write = || {
            // A message space of its own: the program's messages are never taken for blocks.
            let comm = &comm.dup()?;
            let call = format!("write of {} in {layout} to {self}{}", T::ELEMENT, self.storage);
            strategy::agree_on_call(comm, at, &call, layout)?;
            let new = &agree(comm, at, new)?;
            let job = strategy::Job {
                comm,
                at,
                new,
                about,
                part: &|rank| Part::from(&layout.block(rank)),
                bytes: bytes_of(values),
            };
            job.write(|| self.check_replaceable())
        };
        write().map_err(|failure: Failure| failure.called_at(at))
    }

    /// Appends a distributed array, as it was at `time`, to the series in an HDF5 file: a dataset
    /// whose first axis is time. All ranks return when the step is in the file.
    ///
    /// The first step makes the file as [`write`](Self::write) does; later ones extend it, also
    /// those of a later run. Times grow, so that a run that begins anew does not go on with an old
    /// file. [`times`](Self::times) tells them; they stand beside the dataset in one of their own
    /// (`time`; in a `.vtkhdf` file where `ParaView` looks for them). The cells are in chunks, of
    /// the lengths of [`chunked`](Self::chunked), which has none for time.
    ///
    /// The file can be read between any two appends, and a program that is killed there leaves all
    /// steps. One that is killed, or finds no room, while it appends leaves the steps before if the
    /// library was not just changing its own tables, which HDF5 does without a journal: copy what
    /// must not be lost. A step counts when its time is in the file, which comes last.
    ///
    /// Rank 0 writes the steps of a compressed series but the first, block by block: HDF5 cannot
    /// make room for such cells by all ranks together.
    ///
    /// # Collective
    /// As `write`.
    ///
    /// # Errors
    /// As `write`; and if the file has another kind of dataset of this name, of another type or
    /// shape, or a later time already. The steps that are there stay.
    ///
    /// # Panics
    /// As `write`.
    #[cfg(feature = "hdf5")]
    #[track_caller]
    pub fn append<T: Stored, const D: usize>(
        &self,
        comm: &Comm,
        time: f64,
        layout: &Layout<D>,
        block: &ArrayRef<T, DimOf<D>>,
        about: &Provenance,
    ) -> Result<(), Failure>
    where
        [usize; D]: Axes,
    {
        let at = Location::caller();
        let values = own_cells(comm, layout, block);
        let values = values.as_slice().unwrap_or_default(); // in this order it is one
        let append = || {
            let comm = &comm.dup()?;
            let element = T::ELEMENT;
            let call =
                format!("append of {element} in {layout} at {time} to {self}{}", self.storage);
            strategy::agree_on_call(comm, at, &call, layout)?;
            let new = self.new_array(&layout.shape(), element);
            let first = comm.rank() == 0;
            let new = agree(comm, at, new.and_then(|new| hdf5::series::step(new, time, first)))?;
            let found = || new.step.map_or((0, true), |step| (step.number, step.together));
            let (number, together) = comm.bcast_obj(0, found)?;
            let new = &new.of_series(Step { number, time, together });
            let job = strategy::Job {
                comm,
                at,
                new,
                about,
                part: &|rank| Part::from(&layout.block(rank)).at_step(number),
                bytes: bytes_of(values),
            };
            job.write(|| if number == 0 { self.check_replaceable() } else { Ok(()) })
        };
        append().map_err(|failure: Failure| failure.called_at(at))
    }

    /// The times of the steps of a series that [`append`](Self::append) has written.
    ///
    /// # Errors
    /// If there is no such file or series.
    #[cfg(feature = "hdf5")]
    pub fn times(&self) -> Result<Vec<f64>, FileError> {
        let vtk = self.format == (Format::Hdf5 { vtk: true });
        let times = hdf5::series::times_path(&self.dataset_to_write(), vtk);
        let reader = hdf5::Reader::open(&self.path, Some(&times), None)?;
        Ok(reader.read(&Part::whole(reader.shape()))?.values)
    }
}

/// The cells of this rank's block, the last axis fastest.
///
/// # Panics
/// If it has not the shape that `layout` gives this rank, or `layout` is for more ranks than there
/// are.
#[track_caller]
fn own_cells<'b, T: Stored, const D: usize>(
    comm: &Comm,
    layout: &Layout<D>,
    block: &'b ArrayRef<T, DimOf<D>>,
) -> CowArray<'b, T, DimOf<D>>
where
    [usize; D]: Axes,
{
    let mine = layout.block(comm.rank());
    assert_eq!(block.shape(), mine.shape(), "the block is this rank's");
    assert!(layout.ranks() <= comm.size(), "{layout}, but there are {} ranks", comm.size());
    block.as_standard_layout()
}

impl New {
    /// The same array as one step of a series.
    #[cfg(feature = "hdf5")]
    fn of_series(mut self, step: Step) -> Self {
        if self.step.is_none() {
            self.shape.insert(0, 0);
        }
        self.shape[0] = step.number + 1;
        self.step = Some(step);
        self
    }

    /// About how many bytes the file takes at most.
    fn size(&self) -> u64 {
        match self.format {
            Format::Npy => npy::size(&self.shape, self.element),
            #[cfg(feature = "hdf5")]
            Format::Hdf5 { .. } => hdf5::size(&self.shape, self.element),
        }
    }
}

/// A file to read from.
enum Reader {
    Npy(npy::Reader),
    #[cfg(feature = "hdf5")]
    Hdf5(hdf5::Reader),
}

impl Reader {
    fn shape(&self) -> &[usize] {
        match self {
            Self::Npy(reader) => reader.shape(),
            #[cfg(feature = "hdf5")]
            Self::Hdf5(reader) => reader.shape(),
        }
    }

    fn element(&self) -> Element {
        match self {
            Self::Npy(reader) => reader.element(),
            #[cfg(feature = "hdf5")]
            Self::Hdf5(reader) => reader.element(),
        }
    }

    fn dataset(&self) -> Option<String> {
        match self {
            Self::Npy(_) => None,
            #[cfg(feature = "hdf5")]
            Self::Hdf5(reader) => Some(reader.name().to_owned()),
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
    agree_on(comm, Call { op: "write", with: With::ALL, at }, outcome)
}

/// As [`agree`], of any call.
fn agree_on<R>(comm: &Comm, call: Call, outcome: Result<R, FileError>) -> Result<R, Failure> {
    let outcome = outcome.map_err(|error| Failure::from(error).called_at(call.at));
    comm.agree_on_outcome(call, outcome)
}

/// The bytes of the cells of an array; the largest number if there are more.
fn byte_count(shape: &[usize], element: Element) -> u64 {
    if shape.contains(&0) {
        return 0; // however long the other axes are
    }
    shape.iter().fold(element.bytes() as u64, |bytes, &len| bytes.saturating_mul(len as u64))
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

/// Room for a part of the array in a file, whatever size the file claims: zeros, which the system
/// may hand over when they are written.
fn zeros<T: Datum>(path: &Path, shape: &[usize]) -> Result<Vec<T>, FileError> {
    let refuse = || FileError::TooLarge { path: path.to_owned(), shape: shape.to_vec() };
    let cells = shape.iter().try_fold(1_usize, |cells, &len| cells.checked_mul(len));
    let cells = cells.ok_or_else(refuse)?;
    let room = Landing::new(cells).and_then(|room| room.into_values(cells));
    room.map_err(|_| refuse())
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
