//! Files that get their name when they are complete.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::FileError;

/// A file being written under a temporary name beside its final one; removed again if it is never finished.
#[derive(Debug)]
pub(super) struct Unfinished {
    temporary: PathBuf,
    target: PathBuf,
}

impl Unfinished {
    /// Nothing is created yet.
    pub(super) fn new(target: &Path) -> Self {
        let mut name = std::ffi::OsString::from(".");
        name.push(target.file_name().unwrap_or_default());
        name.push(format!(".{}.part", std::process::id()));
        Self { temporary: target.with_file_name(name), target: target.to_owned() }
    }

    /// Where to write.
    pub(super) fn path(&self) -> &Path {
        &self.temporary
    }

    /// The name that the file will have, and by which errors call it.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// Gives the complete file its name, in place of a file that had it before.
    pub(super) fn finish(self) -> Result<(), FileError> {
        fs::rename(&self.temporary, &self.target)
            .map_err(FileError::system(&self.target, "give the written file its name"))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Where it was finished, or never created, there is nothing to remove.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Whether a file of this name could be written; leaves nothing behind.
pub(super) fn check_writable(target: &Path) -> Result<(), FileError> {
    let refuse = FileError::system(target, "write");
    if target.is_dir() {
        return Err(refuse(std::io::ErrorKind::IsADirectory.into()));
    }
    let probe = Unfinished::new(target);
    fs::File::create(probe.path()).map(drop).map_err(refuse)
}
