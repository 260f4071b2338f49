//! Directories for a while. They go with whoever has made them; those of processes that were killed
//! go with a later one.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    fcntl::{Flock, FlockArg},
    unistd::geteuid,
};

/// One that nobody holds and that has not changed for so long was left behind.
const STALE: Duration = Duration::from_secs(3600);

/// A directory of this user alone, which is gone when this is.
pub(crate) struct Scratch {
    path: PathBuf,
    /// Shows others that it is in use; none on file systems without locks.
    _held: Option<Flock<File>>,
}

impl Scratch {
    /// Makes the directory, or shares one that is there and this user's alone. Removes those beside it
    /// whose names begin with `kind` too, and whose makers are gone.
    ///
    /// # Errors
    /// If it cannot be made, or may be somebody else's.
    pub(crate) fn make(path: &Path, kind: &str) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(_) if is_ours_alone(path) => {}
            made => made?,
        }
        let scratch =
            Self { path: path.to_owned(), _held: hold(path, FlockArg::LockSharedNonblock) };
        if let Some(parent) = path.parent() {
            sweep(parent, kind, STALE);
        }
        Ok(scratch)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path); // what stays behind a later one removes
    }
}

fn hold(directory: &Path, how: FlockArg) -> Option<Flock<File>> {
    Flock::lock(File::open(directory).ok()?, how).ok()
}

/// Of what cannot be looked at or removed nobody needs to hear.
fn sweep(parent: &Path, kind: &str, stale: Duration) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let is_of_kind = entry.file_name().to_str().is_some_and(|name| name.starts_with(kind));
        if !is_of_kind || !is_ours_alone(&path) {
            continue;
        }
        let changed = entry.metadata().and_then(|about| about.modified()).ok();
        let age = changed.and_then(|changed| changed.elapsed().ok());
        if age.is_some_and(|age| age >= stale)
            && let Some(_lock) = hold(&path, FlockArg::LockExclusiveNonblock)
        {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// Whether it is a directory that nobody else can have put there, or can write to.
pub(crate) fn is_ours_alone(directory: &Path) -> bool {
    fs::symlink_metadata(directory).is_ok_and(|it| {
        it.is_dir() && it.uid() == geteuid().as_raw() && it.permissions().mode() & 0o777 == 0o700
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_behind_is_removed_and_what_is_in_use_is_not() {
        let base = tempfile::tempdir().unwrap();
        let make = |name: &str| Scratch::make(&base.path().join(name), "spmd-run-").unwrap();
        let (used, other) = (make("spmd-run-1"), make("spmd-tour-1"));
        // That of one that was killed.
        let left = base.path().join("spmd-run-2");
        DirBuilder::new().mode(0o700).create(&left).unwrap();
        sweep(base.path(), "spmd-run-", STALE);
        assert!(left.exists(), "its maker may be about to hold it");
        sweep(base.path(), "spmd-run-", Duration::ZERO);
        assert!(!left.exists() && used.path().exists() && other.path().exists());
        let path = used.path().to_owned();
        drop(used);
        assert!(!path.exists());
    }
}
