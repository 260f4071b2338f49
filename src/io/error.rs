//! What can go wrong with a file.

use std::{io, path::PathBuf};

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
    /// The array does not have two axes.
    #[error("{}: the array has shape {shape:?}; needed is one with two axes", path.display())]
    NotTwoDimensional {
        /// The file.
        path: PathBuf,
        /// The array's shape.
        shape: Vec<usize>,
    },
    /// The array has no cells.
    #[error("{}: the array is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The elements are no numbers that can be converted.
    #[error("{}: elements of type {element} are not supported; integers and floats are", path.display())]
    UnsupportedType {
        /// The file.
        path: PathBuf,
        /// The type, in the file format's words.
        element: String,
    },
    /// No dataset was named and there is not exactly one to choose.
    #[error(
        "{}: name the dataset, as in {}:{}; 2-D datasets of numbers: {}",
        path.display(), path.display(), found.first().map_or("/name", String::as_str),
        if found.is_empty() { "none".to_owned() } else { found.join(", ") }
    )]
    WhichDataset {
        /// The file.
        path: PathBuf,
        /// The datasets there are.
        found: Vec<String>,
    },
}

impl FileError {
    /// Turns the system's complaint about `path` into an error.
    pub(super) fn system(path: &std::path::Path, verb: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { path: path.to_owned(), verb, source }
    }

    /// Turns a format library's complaint about `path` into an error.
    pub(super) fn format<E: std::fmt::Display>(
        path: &std::path::Path,
        verb: &'static str,
    ) -> impl Fn(E) -> Self {
        move |error| Self::Format { path: path.to_owned(), verb, reason: error.to_string() }
    }
}
