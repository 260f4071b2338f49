//! Datasets of HDF5 files. One global lock serialises the library: each rank calls it from its own thread only.

#[cfg(feature = "phdf5")]
#[allow(unsafe_code)] // calls into C; each block states its reasons
pub(super) mod collective;

use std::path::{Path, PathBuf};

use hdf5::{
    Dataset, Group, Location,
    types::{TypeDescriptor, VarLenUnicode},
};
use ndarray::{Array2, ArrayRef2, s};

use super::{Block, FileError, Record, Unfinished};

/// Where an array goes if no dataset is named.
const DATASET: &str = "/field";

/// An open 2-D dataset of numbers.
pub(super) struct Reader {
    path: PathBuf,
    dataset: Dataset,
    shape: [usize; 2],
}

impl Reader {
    pub(super) fn open(path: &Path, name: Option<&str>) -> Result<Self, FileError> {
        let file = hdf5::File::open(path).map_err(FileError::format(path, "open"))?;
        let dataset = if let Some(name) = name {
            file.dataset(name).map_err(FileError::format(path, "open the dataset"))?
        } else {
            let mut found = Vec::new();
            candidates(&file, &mut found).map_err(FileError::format(path, "list the datasets"))?;
            if found.len() != 1 {
                let found = found.iter().map(|dataset| dataset.name()).collect();
                return Err(FileError::WhichDataset { path: path.to_owned(), found });
            }
            found.remove(0)
        };
        let path = path.to_owned();
        let shape = dataset.shape();
        let Ok(shape) = shape.as_slice().try_into() else {
            return Err(FileError::NotTwoDimensional { path, shape });
        };
        let element = element(&dataset).map_err(FileError::format(&path, "read the type"))?;
        if !is_number(&element) {
            return Err(FileError::UnsupportedType { path, element: element.to_string() });
        }
        Ok(Self { path, dataset, shape })
    }

    pub(super) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    pub(super) fn read(&self, block: &Block) -> Result<Array2<f64>, FileError> {
        let [rows, columns] = block.clone();
        self.dataset
            .read_slice_2d(s![rows, columns])
            .map_err(FileError::format(&self.path, "read the dataset"))
    }
}

/// The 2-D datasets of numbers in a group and the groups below it.
fn candidates(group: &Group, found: &mut Vec<Dataset>) -> hdf5::Result<()> {
    for dataset in group.datasets()? {
        // A type that this library does not know is no number.
        if dataset.ndim() == 2 && element(&dataset).is_ok_and(|element| is_number(&element)) {
            found.push(dataset);
        }
    }
    group.groups()?.iter().try_for_each(|group| candidates(group, found))
}

fn element(dataset: &Dataset) -> hdf5::Result<TypeDescriptor> {
    dataset.dtype()?.to_descriptor()
}

fn is_number(element: &TypeDescriptor) -> bool {
    use TypeDescriptor::{Float, Integer, Unsigned};
    matches!(element, Integer(_) | Unsigned(_) | Float(_))
}

/// A file with one dataset, being written block by block.
pub(super) struct Writer {
    unfinished: Unfinished,
    file: hdf5::File,
    dataset: Dataset,
}

impl Writer {
    pub(super) fn create(
        unfinished: Unfinished,
        name: Option<&str>,
        shape: [usize; 2],
        record: &Record,
    ) -> Result<Self, FileError> {
        let create = || {
            let file = hdf5::File::create(unfinished.path())?;
            let dataset = furnish(&file, name, shape, record)?;
            Ok((file, dataset))
        };
        let (file, dataset) =
            create().map_err(FileError::format::<hdf5::Error>(unfinished.target(), "write"))?;
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
        let Self { unfinished, file, dataset } = self;
        drop(dataset);
        // Closing would not tell whether the last bytes reached the file.
        file.flush().map_err(FileError::format(unfinished.target(), "write"))?;
        file.close().map_err(FileError::format(unfinished.target(), "write"))?;
        unfinished.finish()
    }
}

/// Creates the dataset, not yet written, and notes where it comes from. On a shared file all ranks call it alike.
fn furnish(
    file: &hdf5::File,
    name: Option<&str>,
    shape: [usize; 2],
    record: &Record,
) -> hdf5::Result<Dataset> {
    let name = name.unwrap_or(DATASET);
    let links = hdf5::plist::LinkCreate::build().create_intermediate_group(true).finish()?;
    // A file of its own for each run: contiguous, in the order of rows, like a .npy file.
    let dataset =
        file.new_dataset::<f64>().shape(shape).set_link_create_plist(&links).create(name)?;
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
