//! What can go wrong with a file.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use crate::scalar::Element;

/// Why a file could not be read or written; always names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The file name does not tell a format.
    #[error("{}: unknown kind of file; the name must end in {known}", path.display())]
    UnknownSuffix {
        /// What the user gave.
        path: PathBuf,
        /// The suffixes that are known.
        known: &'static str,
    },
    /// This build cannot handle the format.
    #[error(
        "{}: this program was built without the feature {feature}; rebuild it with `--features {feature}`",
        path.display()
    )]
    MissingFeature {
        /// The file.
        path: PathBuf,
        /// The Cargo feature that is needed.
        feature: &'static str,
    },
    /// A dataset was named in a file that has none.
    #[error("{}: a .npy file holds one array; leave the dataset's name out", path.display())]
    NoDatasets {
        /// The file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{}: cannot {verb}: {source}", path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// What was tried.
        verb: &'static str,
        /// The system's own words.
        source: io::Error,
    },
    /// The library that reads or writes the format refused.
    #[error("{}: cannot {verb}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was tried.
        verb: &'static str,
        /// The library's own words.
        reason: String,
    },
    /// The name belongs to something that is no file.
    #[error("{}: is {kind}; needed is {needed}", path.display())]
    NoFile {
        /// The name.
        path: PathBuf,
        /// What it is instead.
        kind: &'static str,
        /// What would do.
        needed: &'static str,
    },
    /// The array has another number of axes.
    #[error(
        "{}: the array has shape {shape:?}; needed is one with {} (in Python, `array.reshape(...)` makes one, and `array[0]` \
         leaves the first axis out)",
        Place(path, dataset), axes(*wanted)
    )]
    WrongAxes {
        /// The file.
        path: PathBuf,
        /// In an HDF5 file, which of its datasets.
        dataset: Option<String>,
        /// The array's shape.
        shape: Vec<usize>,
        /// How many axes are needed.
        wanted: usize,
    },
    /// The array is not as long along each axis as the one that is to be filled.
    #[error(
        "{}: the array has shape {shape:?}, and the one to be filled {wanted:?}; `read_array` makes one that fits",
        Place(path, dataset)
    )]
    WrongShape {
        /// The file.
        path: PathBuf,
        /// In an HDF5 file, which of its datasets.
        dataset: Option<String>,
        /// The shape in the file.
        shape: Vec<usize>,
        /// The shape of the array to be filled.
        wanted: Vec<usize>,
    },
    /// Values of the file would not be what they were.
    #[error(
        "{}: holds {holds}, which {wanted} has not all values of; {}",
        Place(path, dataset), instead(*holds, *wanted)
    )]
    LossyConversion {
        /// The file.
        path: PathBuf,
        /// In an HDF5 file, which of its datasets.
        dataset: Option<String>,
        /// The type of its elements.
        holds: Element,
        /// The type that was to be read.
        wanted: Element,
    },
    /// An array cannot be stored in the way that was asked for.
    #[error("{}: {reason}", path.display())]
    Storage {
        /// The file.
        path: PathBuf,
        /// Why not, and what can be.
        reason: String,
    },
    /// The array has no cells.
    #[error(
        "{}: the array is empty, its shape is {shape:?}; needed is one with a cell at least",
        Place(path, dataset)
    )]
    Empty {
        /// The file.
        path: PathBuf,
        /// In an HDF5 file, which of its datasets.
        dataset: Option<String>,
        /// The array's shape.
        shape: Vec<usize>,
    },
    /// The elements are no numbers that can be converted.
    #[error(
        "{}: the array has shape {shape:?} and elements of type {element}, which are not supported; bools, integers, floats \
         and complex numbers of parts up to 64 bits are: {}",
        Place(path, dataset),
        conversion(element)
    )]
    UnsupportedType {
        /// The file.
        path: PathBuf,
        /// In an HDF5 file, which of its datasets.
        dataset: Option<String>,
        /// The array's shape.
        shape: Vec<usize>,
        /// The type, in the file format's words.
        element: String,
    },
    /// The file ends before its array does.
    #[error(
        "{}: the header tells of an array of {}, {}, but {there} follow: the file is damaged or not complete, copy or write \
         it anew",
        path.display(), Shape(shape),
        needed.map_or("more bytes than can be counted".to_owned(), |bytes| format!("{bytes} bytes"))
    )]
    TooShort {
        /// The file.
        path: PathBuf,
        /// The shape that the header tells of.
        shape: Vec<usize>,
        /// How many bytes such an array takes, if that can be counted.
        needed: Option<u64>,
        /// How many bytes there are.
        there: u64,
    },
    /// The part of the array that a rank reads does not fit into memory.
    #[error(
        "{}: {} cells of it do not fit into this rank's memory; more ranks on more hosts have smaller parts",
        path.display(), Shape(shape)
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How many cells of it were wanted along each axis.
        shape: Vec<usize>,
    },
    /// The dataset is compressed in a way that the HDF5 library at hand does not know.
    #[error(
        "{}: compressed with {filter}, which this HDF5 library does not know; set HDF5_PLUGIN_PATH to the directory of its \
         plugin, or write the dataset anew with gzip or uncompressed (`h5repack -f GZIP=4`, or h5py)",
        Place(path, &Some(dataset.clone()))
    )]
    MissingFilter {
        /// The file.
        path: PathBuf,
        /// Which of its datasets.
        dataset: String,
        /// The filter's name and number.
        filter: String,
    },
    /// Another program holds the file.
    #[error(
        "{}: locked, another program has it open; wait until that has closed it, or set HDF5_USE_FILE_LOCKING=FALSE if the \
         file system has no locks",
        path.display()
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// There is not enough room for the file.
    #[error("{}: needs {}, {} {limit}", path.display(), Bytes(*needed), Bytes(*free))]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// How many bytes it takes.
        needed: u64,
        /// How many it may take.
        free: u64,
        /// What sets the limit.
        limit: &'static str,
    },
    /// A rank does not see the file that rank 0 has made for all.
    #[error(
        "{}: all ranks write this file together, but this one cannot use what rank 0 has made in {}: {reason}; choose a \
         directory that all hosts share and may write to{instead}",
        path.display(), directory.display()
    )]
    NotShared {
        /// The file.
        path: PathBuf,
        /// Where rank 0 makes it.
        directory: PathBuf,
        /// What this rank has found there.
        reason: String,
        /// What would do besides, in words.
        instead: &'static str,
    },
    /// A file of a checkpoint is not what was written.
    #[error("{}: damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Another job keeps its checkpoints in the directory.
    #[error(
        "{}: another job keeps its checkpoints there; wait until it has ended, or name another directory",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Datasets would be lost if the file were replaced.
    #[error(
        "{}: has other datasets, which would be lost: {}; choose another file, or remove this one first",
        path.display(), Contents(holds)
    )]
    OtherDatasets {
        /// The file.
        path: PathBuf,
        /// The datasets there are, with shape and type of each.
        holds: Vec<String>,
    },
    /// No dataset was named and there is not exactly one to choose.
    #[error(
        "{}: name the dataset, as in {}:{}; {} of numbers: {}",
        path.display(), path.display(), found.first().map_or("/name", String::as_str), datasets(*axes), found.join(", ")
    )]
    WhichDataset {
        /// The file.
        path: PathBuf,
        /// How many axes it is to have, if that is known.
        axes: Option<usize>,
        /// The datasets there are.
        found: Vec<String>,
    },
    /// There is no dataset of this name, or, where none was named, none that could be meant.
    #[error(
        "{}: {}; it holds {}; {}",
        path.display(),
        dataset.as_ref().map_or_else(|| format!("{} of numbers (integers, floats, bools): none", datasets(*axes)), |name| format!("no dataset {name}")),
        Contents(holds),
        match dataset {
            None => "write one (in h5py, `file[\"name\"] = array.reshape(rows, columns).astype(float)`)",
            Some(_) => "name one of these",
        }
    )]
    NoSuchDataset {
        /// The file.
        path: PathBuf,
        /// The dataset that was named.
        dataset: Option<String>,
        /// How many axes it is to have, if that is known.
        axes: Option<usize>,
        /// The datasets there are, with shape and type of each.
        holds: Vec<String>,
    },
}

impl FileError {
    /// Turns the system's complaint about `path` into an error.
    pub(crate) fn system(path: &Path, verb: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { path: path.to_owned(), verb, source }
    }

    /// Turns a format library's complaint about `path` into an error.
    pub(crate) fn format<E: fmt::Display>(path: &Path, verb: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::Format {
            path: path.to_owned(),
            verb,
            reason: one_line(&error.to_string()),
        }
    }
}

/// Libraries quote what they have read, over many lines: the first of them, and not too much of it.
pub(super) fn one_line(words: &str) -> String {
    const LONGEST: usize = 200;
    let line = words.trim().lines().next().unwrap_or_default();
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// A file and, where it has datasets, one of them: as users name it.
struct Place<'a>(&'a Path, &'a Option<String>);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.display())?;
        self.1.as_ref().map_or(Ok(()), |dataset| write!(f, ":{dataset}"))
    }
}

/// A number of bytes, in the unit that leaves one to three digits before the point.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
        if self.0 < 1000 {
            return write!(f, "{} bytes", self.0);
        }
        let mut size = self.0 as f64 / 1e3;
        let mut unit = 0;
        while size >= 999.95 && unit + 1 < UNITS.len() {
            (size, unit) = (size / 1e3, unit + 1);
        }
        write!(f, "{size:.1} {}", UNITS[unit])
    }
}

/// Lengths as people say them: `3 x 4`.
struct Shape<'a>(&'a [usize]);

impl fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (axis, len) in self.0.iter().enumerate() {
            write!(f, "{}{len}", if axis == 0 { "" } else { " x " })?;
        }
        Ok(())
    }
}

/// A list that fits on a line.
struct Contents<'a>(&'a [String]);

impl fmt::Display for Contents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 10;
        if self.0.is_empty() {
            return f.write_str("no dataset");
        }
        let shown = self.0.len().min(SHOWN);
        f.write_str(&self.0[..shown].join(", "))?;
        match self.0.len() - shown {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// A number of axes in words.
fn axes(count: usize) -> String {
    match count {
        0 => "no axis, a single value".to_owned(),
        1 => "one axis".to_owned(),
        2 => "two axes".to_owned(),
        3 => "three axes".to_owned(),
        _ => format!("{count} axes"),
    }
}

/// Datasets with so many axes.
fn datasets(axes: Option<usize>) -> String {
    axes.map_or("datasets".to_owned(), |axes| format!("{axes}-D datasets"))
}

/// What helps where a conversion would lose values.
fn instead(holds: Element, wanted: Element) -> String {
    if holds.is_complex() && !wanted.is_complex() {
        "write its real and its imaginary part as two arrays (in Python, `array.real` and \
         `array.imag`), or read it as complex numbers"
            .to_owned()
    } else {
        format!("read it as {holds}, or convert it first (in Python, `array.astype(\"{wanted}\")`)")
    }
}

/// How an array of such elements becomes one of numbers.
fn conversion(element: &str) -> &'static str {
    let element = element.trim_start_matches(['\'', '"']);
    let numpy = element.trim_start_matches(['<', '>', '|', '=']);
    if element.starts_with(['[', '{']) || element.starts_with("compound") {
        "write one of its fields as an array (in Python, `array[\"name\"]`)"
    } else if numpy.starts_with('c') {
        "write its real and its imaginary part as two arrays (in Python, `array.real` and `array.imag`)"
    } else {
        "convert it first (in Python, `array.astype(float)`)"
    }
}

#[cfg(test)]
mod tests {
    use super::Bytes;

    #[test]
    fn bytes_are_told_in_a_fitting_unit() {
        let told = [0, 999, 1000, 900_000, 999_949, 999_950, 8_000_128, u64::MAX]
            .map(|bytes| Bytes(bytes).to_string());
        let words = [
            "0 bytes",
            "999 bytes",
            "1.0 kB",
            "900.0 kB",
            "999.9 kB",
            "1.0 MB",
            "8.0 MB",
            "18.4 EB",
        ];
        assert_eq!(told, words);
    }
}
