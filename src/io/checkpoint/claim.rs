//! Who keeps checkpoints in a directory: one job at a time.
//!
//! A lock says so where the file system has locks, and the words in the locked file: they are this
//! job's alone. A supervised run (`spmd run --restarts`) that has given a start of it up takes the
//! directory over, though that may still hold the lock, on a host that nobody reaches: then another
//! file has the name, and whoever looks finds that the words are no more its own.

use std::{
    fs::{self, File, OpenOptions},
    hash::{BuildHasher, RandomState},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process,
    time::SystemTime,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::io::FileError;

/// The name of the file.
const LOCK: &str = "lock";

/// What the names of files begin with that are to get that name.
pub(super) const NEW_LOCK: &str = ".lock-";

/// A directory that is this job's; until this is dropped, or a later start of the same run takes it.
#[derive(Debug)]
pub(super) struct Claim {
    directory: PathBuf,
    words: String,
    /// Where the file system has locks.
    _lock: Option<Flock<File>>,
}

impl Claim {
    /// Takes the directory, for a start of a run that has this name, if it has one.
    pub(super) fn take(directory: &Path, run: Option<&str>) -> Result<Self, FileError> {
        /// The file may be another one between two calls.
        const TRIES: usize = 10;
        let in_use = || FileError::InUse { path: directory.to_owned() };
        let number = RandomState::new().hash_one((SystemTime::now(), process::id()));
        let words = format!("{} {number:016x}\n", run.unwrap_or("-"));
        let path = directory.join(LOCK);
        let lock = || -> io::Result<Option<Option<Flock<File>>>> {
            for _ in 0..TRIES {
                let mut options = OpenOptions::new();
                let file = options.create(true).truncate(false).write(true).open(&path)?;
                match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                    Ok(mut lock) if has_name(&lock, &path) => {
                        lock.set_len(0)?;
                        lock.write_all(words.as_bytes())?;
                        return Ok(Some(Some(lock)));
                    }
                    Ok(_) => {}
                    Err((_, Errno::EWOULDBLOCK)) => {
                        let theirs = fs::read_to_string(&path)?;
                        let theirs = theirs.split(' ').next().unwrap_or_default();
                        if !run.is_some_and(|run| follows(run, theirs)) {
                            return Ok(None);
                        }
                        let beside = directory.join(format!("{NEW_LOCK}{number:016x}"));
                        let mut file = File::create_new(&beside)?;
                        file.write_all(words.as_bytes())?;
                        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok();
                        fs::rename(beside, &path)?;
                        return Ok(Some(lock));
                    }
                    // Not every file system has locks.
                    Err((mut file, _)) => {
                        file.set_len(0)?;
                        file.write_all(words.as_bytes())?;
                        return Ok(Some(None));
                    }
                }
            }
            Ok(None)
        };
        let lock = lock().map_err(FileError::system(directory, "keep checkpoints"))?;
        Ok(Self { directory: directory.to_owned(), words, _lock: lock.ok_or_else(in_use)? })
    }

    /// Makes sure that the directory is still this job's.
    pub(super) fn check(&self) -> Result<(), FileError> {
        // To open it anew is what has a file system over a network ask its server.
        match fs::read_to_string(self.directory.join(LOCK)) {
            Ok(words) if words == self.words => Ok(()),
            _ => Err(FileError::InUse { path: self.directory.clone() }),
        }
    }
}

/// Whether the file has this name still.
fn has_name(file: &File, path: &Path) -> bool {
    let both = file.metadata().and_then(|file| Ok((file, fs::metadata(path)?)));
    both.is_ok_and(|(file, named)| (file.dev(), file.ino()) == (named.dev(), named.ino()))
}

/// Whether that is a later start (`RUN.4`) of the same supervised run than this (`RUN.3`).
fn follows(later: &str, earlier: &str) -> bool {
    let start = |name: &str| -> Option<(String, u64)> {
        let (run, number) = name.rsplit_once('.')?;
        Some((run.to_owned(), number.parse().ok()?))
    };
    let both = start(later).zip(start(earlier));
    both.is_some_and(|((run, number), (of, before))| run == of && number > before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_later_start_of_the_same_run_takes_over() {
        for (later, earlier, expected) in [
            ("7-1.3", "7-1.2", true),
            ("7-1.10", "7-1.9", true),
            ("7-1.2", "7-1.2", false),
            ("7-1.2", "7-1.3", false),
            ("7-1.3", "8-1.2", false),
            ("7-1", "7-1.2", false),
            ("7-1.3", "-", false),
            ("7-1.3", "", false),
        ] {
            assert_eq!(follows(later, earlier), expected, "{later} {earlier}");
        }
        let directory = tempfile::tempdir().unwrap();
        let take = |run| Claim::take(directory.path(), run);
        let first = take(Some("7-1.1")).unwrap();
        for other in [None, Some("7-1.1"), Some("9-9.2")] {
            let words = take(other).unwrap_err().to_string();
            assert!(words.contains("another job keeps its checkpoints there"), "{words}");
        }
        first.check().unwrap();
        let second = take(Some("7-1.2")).unwrap();
        assert!(first.check().is_err());
        second.check().unwrap();
        // The first lives on, and nobody takes the directory from the second.
        assert!(take(Some("7-1.1")).is_err() && take(None).is_err());
        drop((first, second));
        take(None).unwrap().check().unwrap();
        let left = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left, 1, "the lock");
    }
}
