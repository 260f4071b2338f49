//! Datasets of HDF5 files. One global lock serialises the library: each rank calls it from its own
//! thread only.

#[cfg(feature = "phdf5")]
#[allow(unsafe_code)] // calls into C; each block states its reasons
pub(super) mod collective;
mod contents;
#[allow(unsafe_code)] // calls into C; each block states its reasons
mod raw;
pub(super) mod series;
pub(super) mod vtk;

use std::path::{Path, PathBuf};

use hdf5::{
    Dataset, Datatype, Extent, Location, LocationType, plist::dataset_create::AllocTime,
    types::VarLenUnicode,
};

use self::raw::Transfer;
use super::{
    Cells, FileError, Format, New, Part, Record, Stored, Unfinished, byte_count, error::one_line,
    open_file, stored, zeros,
};
use crate::scalar::Element;

/// The bytes of chunks that wait to be complete before they are packed and written.
const CHUNK_CACHE: usize = 64 << 20;

/// Where an array goes if no dataset is named.
pub(super) const DATASET: &str = "/field";

/// An open dataset of elements that are known.
pub(super) struct Reader {
    path: PathBuf,
    name: String,
    dataset: Dataset,
    shape: Vec<usize>,
    element: Element,
}

impl Reader {
    /// Opens a dataset, or the only one, or the only one that has so many axes.
    pub(super) fn open(
        path: &Path,
        name: Option<&str>,
        axes: Option<usize>,
    ) -> Result<Self, FileError> {
        let file = open(path)?;
        let (dataset, name) = match name {
            Some(name) => (named(path, &file, name)?, name.to_owned()),
            None => only(path, &file, axes)?,
        };
        let (path, shape) = (path.to_owned(), dataset.shape());
        if dataset.space().is_ok_and(|space| space.is_null()) {
            return Err(FileError::Empty { path, dataset: Some(name), shape });
        }
        let stored = dataset.dtype().map_err(FileError::format(&path, "read the type"))?;
        let Some(element) = raw::element(&stored) else {
            let (dataset, element) = (Some(name), contents::element(&stored));
            return Err(FileError::UnsupportedType { path, dataset, shape, element });
        };
        Ok(Self { path, name, dataset, shape, element })
    }

    /// The name of the dataset.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub(super) fn element(&self) -> Element {
        self.element
    }

    pub(super) fn read<T: Stored>(&self, part: &Part) -> Result<Cells<T>, FileError> {
        let mut values: Vec<T> = zeros(&self.path, &part.lens)?;
        let whole = Part::whole(&part.lens);
        if !self.read_into(part, (&mut values, &part.lens, &whole))? {
            let element = in_memory::<T>(self.element);
            let mut bytes: Vec<u8> =
                zeros(&self.path, &[&part.lens[..], &[element.bytes()]].concat())?;
            // By the numbers that the names stand for: a file may have others than two.
            let number = if element == Element::Bool { Element::U8 } else { element };
            let room = (&mut bytes[..], &part.lens[..], &whole);
            let read = |memory| raw::read(&self.dataset, &memory, part, room);
            raw::datatype(number).and_then(read).map_err(|error| self.complaint(error))?;
            stored::convert(element, &bytes, &mut values);
        }
        Ok(Cells { values, fortran: false })
    }

    /// Reads a block to a place in an array of the shape `room`, if its elements lie in memory as
    /// HDF5 hands them over; says whether they do.
    pub(super) fn read_into<T: Stored>(
        &self,
        part: &Part,
        (values, room, place): (&mut [T], &[usize], &Part),
    ) -> Result<bool, FileError> {
        let element = in_memory::<T>(self.element);
        let Some(bytes) = stored::in_place(element, values) else { return Ok(false) };
        let read = |memory| raw::read(&self.dataset, &memory, part, (bytes, room, place));
        raw::datatype(element).and_then(read).map_err(|error| self.complaint(error))?;
        Ok(true)
    }

    fn complaint(&self, error: hdf5::Error) -> FileError {
        let missing = self.dataset.filters().into_iter().find(|filter| !filter.is_available());
        match missing {
            Some(filter) => FileError::MissingFilter {
                path: self.path.clone(),
                dataset: self.name.clone(),
                filter: filter_name(filter.id()),
            },
            None => FileError::format(&self.path, "read the dataset")(error),
        }
    }
}

/// As what HDF5 hands over elements of a file that are to become values of `T`: it converts all
/// numbers, but makes no pairs of them.
fn in_memory<T: Stored>(element: Element) -> Element {
    match T::ELEMENT {
        Element::Complex64 if !element.is_complex() => Element::F32,
        Element::Complex128 if !element.is_complex() => Element::F64,
        wanted => wanted,
    }
}

/// Opens a file to read from.
fn open(path: &Path) -> Result<hdf5::File, FileError> {
    open_with(path, |path| hdf5::File::open(path))
}

/// Opens a file that is there, in the library's way `how`.
fn open_with(
    path: &Path,
    how: impl FnOnce(&Path) -> hdf5::Result<hdf5::File>,
) -> Result<hdf5::File, FileError> {
    // What is no file or may not be read is told by the system, not by the library.
    let (_, len) = open_file(path)?;
    how(path).map(raw::keep).map_err(|error| {
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
        let (path, dataset) = (path.to_owned(), Some(name.to_owned()));
        FileError::NoSuchDataset { path, dataset, axes: None, holds }
    })
}

/// The only dataset of known elements, with so many axes where that is asked, and its name.
fn only(
    path: &Path,
    file: &hdf5::File,
    axes: Option<usize>,
) -> Result<(Dataset, String), FileError> {
    let all = contents::datasets(file).map_err(FileError::format(path, "list the datasets"))?;
    let holds = all.iter().map(contents::Found::describe).collect();
    let mut fit: Vec<_> = all.into_iter().filter(|found| found.fits(axes)).collect();
    let path = path.to_owned();
    match fit.len() {
        0 => Err(FileError::NoSuchDataset { path, dataset: None, axes, holds }),
        1 => {
            let only = fit.remove(0);
            Ok((only.dataset, only.path))
        }
        _ => {
            let found = fit.into_iter().map(|found| found.path).collect();
            Err(FileError::WhichDataset { path, axes, found })
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

/// About how many bytes a file with a dataset of this shape takes at most: besides its cells a few
/// thousand.
pub(super) fn size(shape: &[usize], element: Element) -> u64 {
    const BESIDES: u64 = 8192;
    byte_count(shape, element).saturating_add(BESIDES)
}

/// Refuses to replace a file that has other datasets than the one to be written.
pub(super) fn check_replaceable(path: &Path, name: &str) -> Result<(), FileError> {
    if !path.is_file() || !raw::is_hdf5(path) {
        return Ok(());
    }
    let file = open(path)?;
    let ours = contents::named(&file, name);
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
    /// The type of the elements that are handed over.
    memory: Datatype,
}

impl Writer {
    pub(super) fn create(new: &New, record: &Record) -> Result<Self, FileError> {
        Self::furnish(begin(new)?, new, record)
    }

    /// Makes an HDF5 file of an empty one.
    fn furnish(unfinished: Unfinished, new: &New, record: &Record) -> Result<Self, FileError> {
        let target = unfinished.target().to_owned();
        let refuse = complaint(&target);
        let create = || -> hdf5::Result<_> {
            let file = raw::keep(hdf5::File::create(unfinished.path())?);
            let dataset = furnish(&file, new, record)?;
            file.flush()?;
            Ok((file, dataset, raw::datatype(new.element)?))
        };
        let (file, dataset, memory) = create().map_err(&refuse)?;
        // Not before: the library has emptied the file. How much compressed cells take shows when
        // they are written.
        if new.storage.deflate.is_none() {
            // Where the cells lie together it tells where.
            let cells = byte_count(&new.shape, new.element);
            let end = dataset.offset().map(|start| start.saturating_add(cells));
            unfinished.reserve(end.unwrap_or_else(|| size(&new.shape, new.element)))?;
        }
        Ok(Self { unfinished, file, dataset, memory })
    }

    /// Writes the cells of a block, which lie together, the last axis fastest.
    pub(super) fn write(&self, part: &Part, bytes: &[u8]) -> Result<(), FileError> {
        let write = raw::Write::new(&self.dataset, &self.memory, part, bytes, Transfer::ALONE);
        write.and_then(|write| write.write()).map_err(complaint(self.unfinished.target()))
    }

    pub(super) fn finish(self) -> Result<(), FileError> {
        self.close()?.finish()
    }

    /// Closes the file as far as the library is concerned; it has not its name yet.
    fn close(self) -> Result<Unfinished, FileError> {
        let Self { unfinished, file, dataset, .. } = self;
        drop(dataset);
        // Closing would not tell whether the last bytes reached the file.
        file.flush().map_err(complaint(unfinished.target()))?;
        file.close().map_err(complaint(unfinished.target()))?;
        Ok(unfinished)
    }
}

/// An empty file for a new dataset, if there is room for it.
fn begin(new: &New) -> Result<Unfinished, FileError> {
    let unfinished = Unfinished::create_named(&new.path)?;
    if new.storage.deflate.is_none() {
        unfinished.look_for_room(size(&new.shape, new.element))?;
    }
    Ok(unfinished)
}

/// What the library says when a file cannot be written: the system's words where they are known.
fn complaint(path: &Path) -> impl Fn(hdf5::Error) -> FileError {
    move |error| {
        let words = error.to_string();
        let full = [nix::libc::ENOSPC, nix::libc::EDQUOT, nix::libc::EFBIG]
            .into_iter()
            .find(|number| words.contains(&format!("errno = {number},")));
        match full {
            Some(number) => {
                let source = std::io::Error::from_raw_os_error(number);
                FileError::System { path: path.to_owned(), verb: "write", source }
            }
            None => {
                FileError::Format { path: path.to_owned(), verb: "write", reason: one_line(&words) }
            }
        }
    }
}

/// Creates the dataset, not yet written but with its place in the file, and notes where it comes
/// from.
fn furnish(file: &hdf5::File, new: &New, record: &Record) -> hdf5::Result<Dataset> {
    let links = hdf5::plist::LinkCreate::build().create_intermediate_group(true).finish()?;
    let mut extents: Vec<Extent> =
        new.shape.iter().map(|&len| Extent::new(len, Some(len))).collect();
    if new.step.is_some() {
        extents[0] = Extent::resizable(new.shape[0]);
    }
    let mut builder = file
        .new_dataset_builder()
        .set_link_create_plist(&links)
        .empty_as(raw::datatype(new.element)?)
        .shape(extents);
    if let Some(chunk) = new.storage.chunk(&new.shape, new.element, new.step.is_some()) {
        // Room for the chunks that a block of some rows touches, so that none is packed twice.
        builder = builder.chunk(chunk).chunk_cache(10_007, CHUNK_CACHE, 0.75);
        if let Some(level) = new.storage.deflate {
            builder = builder.deflate(level);
        } else if new.step.is_some() {
            // All ranks together can only fill room that is there: this also holds for the steps
            // that one rank makes room for later. Of compressed chunks they make it themselves.
            builder = builder.alloc_time(Some(AllocTime::Early));
        }
    } else {
        // In the order of rows, like a .npy file.
        builder = builder.no_chunk().alloc_time(Some(AllocTime::Early));
    }
    let dataset = builder.create(&*new.dataset)?;
    text(file, "title", &record.title)?;
    text(file, "version", &record.version)?;
    text(file, "library", concat!("spmd ", env!("CARGO_PKG_VERSION")))?;
    text(file, "command_line", &record.command_line)?;
    file.new_attr::<u64>().create("ranks")?.write_scalar(&record.ranks)?;
    text(&dataset, "title", &record.title)?;
    text(&dataset, "units", &record.units)?;
    if new.format == (Format::Hdf5 { vtk: true }) {
        vtk::furnish(file, new)?;
    }
    if let Some(step) = new.step {
        series::furnish(file, new, step)?;
    }
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
