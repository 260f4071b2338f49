//! The directory of checkpoints, as rank 0 keeps it.

use std::{
    env,
    fs::{self, File},
    hash::{BuildHasher, RandomState},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use nix::sys::statvfs::statvfs;

use super::{
    claim::{Claim, NEW_LOCK},
    format::Index,
};
use crate::io::FileError;

/// The name of a checkpoint's index.
pub(super) const INDEX: &str = "index";

/// What the names of checkpoints that are being written begin with.
const NEW: &str = ".new-";

/// A directory in which a job keeps its checkpoints, and no other job does.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    claim: Claim,
}

/// A checkpoint that is being written; gone if it is never finished.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) path: PathBuf,
    pub(super) id: u64,
}

impl Drop for Begun {
    fn drop(&mut self) {
        // Where it was finished, nothing has this name any more.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The name of the part of a rank.
pub(super) fn part_name(rank: usize) -> String {
    format!("part-{rank:06}")
}

/// The name of a checkpoint.
pub(super) fn name(number: u64) -> String {
    format!("{number:06}")
}

impl Folder {
    /// Makes the directory if there is none, and takes it.
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        let refuse = FileError::system(path, "keep checkpoints");
        fs::create_dir_all(path).map_err(&refuse)?;
        // What `spmd run` calls this start of the program.
        let run = env::var("SPMD_RUN").ok();
        let claim = Claim::take(path, run.as_deref())?;
        let folder = Self { path: path.to_owned(), claim };
        // Nobody else is at work here.
        for name in folder.names()? {
            if name.starts_with(NEW) {
                let _ = fs::remove_dir_all(path.join(name));
            } else if name.starts_with(NEW_LOCK) {
                let _ = fs::remove_file(path.join(name));
            }
        }
        Ok(folder)
    }

    fn names(&self) -> Result<impl Iterator<Item = String>, FileError> {
        let entries = fs::read_dir(&self.path).map_err(FileError::system(&self.path, "read"))?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()))
    }

    /// The numbers of the checkpoints there are, the newest first.
    pub(super) fn numbers(&self) -> Result<Vec<u64>, FileError> {
        let numbers = self.names()?.filter_map(|found| {
            let number = found.parse().ok()?;
            (found == name(number)).then_some(number)
        });
        let mut numbers: Vec<u64> = numbers.collect();
        numbers.sort_unstable_by(|one, other| other.cmp(one));
        Ok(numbers)
    }

    /// Begins a checkpoint of so many bytes.
    pub(super) fn begin(&self, number: u64, bytes: u64) -> Result<Begun, FileError> {
        // What the system holds back for itself is none of ours; some do not tell.
        #[allow(clippy::unnecessary_cast)] // as wide as it is on the system at hand
        let free = match statvfs(&self.path) {
            Ok(room) if room.blocks() > 0 => {
                (room.blocks_available() as u64).saturating_mul(room.fragment_size() as u64)
            }
            _ => u64::MAX,
        };
        if bytes > free {
            let (path, needed) = (self.path.join(name(number)), bytes);
            let limit = "free on its file system";
            return Err(FileError::NoRoom { path, needed, free, limit });
        }
        let id = RandomState::new().hash_one((SystemTime::now(), std::process::id()));
        // A name of its own: should this job be one that was given up, nobody else writes there.
        let path = self.path.join(format!("{NEW}{}-{id:016x}", name(number)));
        fs::create_dir(&path).map_err(FileError::system(&path, "make"))?;
        Ok(Begun { path, id })
    }

    /// Completes a checkpoint whose parts are on the disk.
    pub(super) fn finish(&self, begun: Begun, index: &Index, number: u64) -> Result<(), FileError> {
        for (rank, &bytes) in index.parts.iter().enumerate() {
            let part = begun.path.join(part_name(rank));
            let there = fs::metadata(&part).map(|about| about.len());
            if there.as_ref().is_ok_and(|&there| there == bytes) {
                continue;
            }
            return Err(FileError::NotShared {
                path: self.path.join(name(number)),
                directory: self.path.clone(),
                reason: match there {
                    Ok(there) => format!("rank 0 sees {there} bytes of the {bytes} of rank {rank}"),
                    Err(error) => format!("rank 0 does not see the part of rank {rank}: {error}"),
                },
                instead: "",
            });
        }
        index.write(&begun.path.join(INDEX))?;
        let named = self.path.join(name(number));
        sync(&begun.path).map_err(FileError::system(&named, "finish"))?;
        // Whoever takes the directory over after this removes what has no name yet, so that it gets
        // none: two jobs never both finish one.
        self.claim.check()?;
        let finish = || {
            fs::rename(&begun.path, &named)?;
            sync(&self.path)
        };
        finish().map_err(FileError::system(&named, "finish"))
    }

    /// Removes all checkpoints but these; newer ones would be those of a job that has taken over.
    pub(super) fn keep(&self, numbers: &[u64]) {
        let newest = numbers.iter().copied().max().unwrap_or(0);
        for number in self.numbers().unwrap_or_default() {
            if number < newest && !numbers.contains(&number) {
                // It is in nobody's way.
                let _ = fs::remove_dir_all(self.path.join(name(number)));
            }
        }
    }
}

/// Sees to it that the names in a directory are on the disk.
fn sync(directory: &Path) -> io::Result<()> {
    match File::open(directory)?.sync_all() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()), // not every one can
        done => done,
    }
}
