//! Datasets of HDF5 files. One global lock serialises the library: each rank calls it from its own
//! thread only.

#[cfg(feature = "phdf5")]
#[allow(unsafe_code)] // calls into C; each block states its reasons
pub(super) mod collective;
mod contents;
#[allow(unsafe_code)] // calls into C; each block states its reasons
mod raw;

use std::path::{Path, PathBuf};

use hdf5::{
    Dataset, Location, LocationType, plist::dataset_create::AllocTime, types::VarLenUnicode,
};
use ndarray::{Array2, ArrayRef2, s};

use super::{Block, FileError, Record, Unfinished, bytes, open_file, zeros};

/// Where an array goes if no dataset is named.
const DATASET: &str = "/field";

/// An open 2-D dataset of numbers.
pub(super) struct Reader {
    path: PathBuf,
    name: String,
    dataset: Dataset,
    shape: [usize; 2],
}

impl Reader {
    pub(super) fn open(path: &Path, name: Option<&str>) -> Result<Self, FileError> {
        let file = open(path)?;
        let (dataset, name) = match name {
            Some(name) => (named(path, &file, name)?, name.to_owned()),
            None => only(path, &file)?,
        };
        let (path, shape) = (path.to_owned(), dataset.shape());
        let element = dataset.dtype().map_err(FileError::format(&path, "read the type"))?;
        if !raw::is_number(&element) {
            let (dataset, element) = (Some(name), contents::element(&element));
            return Err(FileError::UnsupportedType { path, dataset, shape, element });
        }
        let Ok(shape) = shape.as_slice().try_into() else {
            return Err(FileError::NotTwoDimensional { path, dataset: Some(name), shape });
        };
        Ok(Self { path, name, dataset, shape })
    }

    /// The name of the dataset.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    pub(super) fn read(&self, block: &Block) -> Result<Array2<f64>, FileError> {
        let mut values = zeros(&self.path, block.clone().map(|range| range.len()))?;
        raw::read(&self.dataset, block, &mut values).map_err(|error| {
            let missing = self.dataset.filters().into_iter().find(|filter| !filter.is_available());
            match missing {
                Some(filter) => FileError::MissingFilter {
                    path: self.path.clone(),
                    dataset: self.name.clone(),
                    filter: filter_name(filter.id()),
                },
                None => FileError::format(&self.path, "read the dataset")(error),
            }
        })?;
        Ok(values)
    }
}

/// Opens a file to read from.
fn open(path: &Path) -> Result<hdf5::File, FileError> {
    // What is no file or may not be read is told by the system, not by the library.
    let (_, len) = open_file(path)?;
    hdf5::File::open(path).map_err(|error| {
        let reason = error.to_string();
        let path = path.to_owned();
        if reason.contains("unable to lock file") {
            return FileError::Locked { path };
        }
        let reason = match reason.contains("file signature not found") {
            true if len == 0 => "the file is empty; write it anew".to_owned(),
            true => {
                "it does not begin like one; give a .npy file a name that ends in .npy".to_owned()
            }
            false => reason,
        };
        FileError::format(&path, "read as HDF5 file")(reason)
    })
}

/// The dataset of this name.
fn named(path: &Path, file: &hdf5::File, name: &str) -> Result<Dataset, FileError> {
    file.dataset(name).map_err(|error| {
        let there = file.loc_info_by_name(name);
        if there.is_ok_and(|info| info.loc_type == LocationType::Dataset) {
            return FileError::format(path, "open the dataset")(error);
        }
        let holds = contents::datasets(file).unwrap_or_default();
        let holds = holds.iter().map(contents::Found::describe).collect();
        FileError::NoSuchDataset { path: path.to_owned(), dataset: Some(name.to_owned()), holds }
    })
}

/// The only 2-D dataset of numbers, and its name.
fn only(path: &Path, file: &hdf5::File) -> Result<(Dataset, String), FileError> {
    let all = contents::datasets(file).map_err(FileError::format(path, "list the datasets"))?;
    let holds = all.iter().map(contents::Found::describe).collect();
    let mut fit: Vec<_> = all.into_iter().filter(contents::Found::is_2d_of_numbers).collect();
    let path = path.to_owned();
    match fit.len() {
        0 => Err(FileError::NoSuchDataset { path, dataset: None, holds }),
        1 => {
            let only = fit.remove(0);
            Ok((only.dataset, only.path))
        }
        _ => {
            let found = fit.into_iter().map(|found| found.path).collect();
            Err(FileError::WhichDataset { path, found })
        }
    }
}

/// What people call a filter that is registered under this number.
fn filter_name(number: i32) -> String {
    let name = match number {
        4 => "szip",
        32_000 => "lzf",
        32_001 => "blosc",
        32_004 => "lz4",
        32_008 => "bitshuffle",
        32_013 => "zfp",
        32_015 => "zstd",
        32_026 => "blosc2",
        _ => "unknown",
    };
    format!("{name} (filter {number})")
}

/// About how many bytes a file with a dataset of this shape takes: besides its cells a few
/// thousand.
pub(super) fn size(shape: [usize; 2]) -> u64 {
    const BESIDES: u64 = 8192;
    bytes(shape).saturating_add(BESIDES)
}

/// Refuses to replace a file that has other datasets than the one to be written.
pub(super) fn check_replaceable(path: &Path, name: Option<&str>) -> Result<(), FileError> {
    if !path.is_file() || !raw::is_hdf5(path) {
        return Ok(());
    }
    let file = open(path)?;
    let ours = contents::named(&file, name.unwrap_or(DATASET));
    let all = contents::datasets(&file).map_err(FileError::format(path, "list the datasets"))?;
    let others = all.iter().filter(|found| ours.as_ref() != Some(&found.identity));
    let holds: Vec<_> = others.map(contents::Found::describe).collect();
    if holds.is_empty() {
        return Ok(());
    }
    Err(FileError::OtherDatasets { path: path.to_owned(), holds })
}

/// A file with one dataset, being written block by block.
pub(super) struct Writer {
    unfinished: Unfinished,
    file: hdf5::File,
    dataset: Dataset,
}

impl Writer {
    pub(super) fn create(
        target: &Path,
        name: Option<&str>,
        shape: [usize; 2],
        record: &Record,
    ) -> Result<Self, FileError> {
        let unfinished = Unfinished::create_named(target)?;
        unfinished.reserve(size(shape))?;
        Self::furnish(unfinished, name, shape, record)
    }

    /// Makes an HDF5 file of an empty one.
    fn furnish(
        unfinished: Unfinished,
        name: Option<&str>,
        shape: [usize; 2],
        record: &Record,
    ) -> Result<Self, FileError> {
        let target = unfinished.target().to_owned();
        let refuse = FileError::format::<hdf5::Error>(&target, "write");
        let create = || -> hdf5::Result<_> {
            let file = hdf5::File::create(unfinished.path())?;
            let dataset = furnish(&file, name, shape, record)?;
            file.flush()?;
            Ok((file, dataset))
        };
        let (file, dataset) = create().map_err(&refuse)?;
        // The library has emptied the file. It tells now where the cells go.
        let start = dataset.offset().ok_or("the dataset has no place in the file".into());
        let start = start.map_err(&refuse)?;
        unfinished.reserve(start.saturating_add(bytes(shape)))?;
        Ok(Self { unfinished, file, dataset })
    }

    pub(super) fn write(&self, block: &Block, values: &ArrayRef2<f64>) -> Result<(), FileError> {
        let [rows, columns] = block.clone();
        // The library writes what lies together in memory only.
        self.dataset
            .write_slice(values.as_standard_layout().view(), s![rows, columns])
            .map_err(FileError::format(self.unfinished.target(), "write"))
    }

    pub(super) fn finish(self) -> Result<(), FileError> {
        self.close()?.finish()
    }

    /// Closes the file as far as the library is concerned; it has not its name yet.
    fn close(self) -> Result<Unfinished, FileError> {
        let Self { unfinished, file, dataset } = self;
        drop(dataset);
        // Closing would not tell whether the last bytes reached the file.
        file.flush().map_err(FileError::format(unfinished.target(), "write"))?;
        file.close().map_err(FileError::format(unfinished.target(), "write"))?;
        Ok(unfinished)
    }
}

/// Creates the dataset, not yet written but with its place in the file, and notes where it comes
/// from.
fn furnish(
    file: &hdf5::File,
    name: Option<&str>,
    shape: [usize; 2],
    record: &Record,
) -> hdf5::Result<Dataset> {
    let name = name.unwrap_or(DATASET);
    let links = hdf5::plist::LinkCreate::build().create_intermediate_group(true).finish()?;
    // A file of its own for each run: contiguous, in the order of rows, like a .npy file.
    let dataset = file
        .new_dataset::<f64>()
        .shape(shape)
        .alloc_time(Some(AllocTime::Early))
        .set_link_create_plist(&links)
        .create(name)?;
    text(file, "title", &record.title)?;
    text(file, "version", &record.version)?;
    text(file, "library", concat!("spmd ", env!("CARGO_PKG_VERSION")))?;
    text(file, "command_line", &record.command_line)?;
    file.new_attr::<u64>().create("ranks")?.write_scalar(&record.ranks)?;
    text(&dataset, "title", &record.title)?;
    text(&dataset, "units", &record.units)?;
    Ok(dataset)
}

fn text(of: &Location, name: &str, value: &str) -> hdf5::Result<()> {
    // A zero byte would end the text in the file.
    let value = value.replace('\0', " ");
    let value: VarLenUnicode =
        value.parse().map_err(|error| hdf5::Error::from(format!("attribute {name}: {error}")))?;
    of.new_attr::<VarLenUnicode>().create(name)?.write_scalar(&value)
}

#[cfg(test)]
mod tests;
