//! Files that get their name when they are complete.

mod owner;
#[allow(unsafe_code)] // signal handlers; each block states its reasons
mod registry;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use nix::{
    sys::{
        resource::{Resource, getrlimit},
        statvfs::fstatvfs,
    },
    unistd::{AccessFlags, access},
};

use self::registry::Registered;
use super::FileError;

/// A file being written, in the directory of its final name; gone if it is never finished, however
/// the process ends.
#[derive(Debug)]
pub(crate) struct Unfinished {
    /// The name that the file has beside its final one, or gets for a moment before it.
    temporary: PathBuf,
    file: File,
    /// What users call it.
    target: PathBuf,
    place: Place,
    /// A way to the file where it has no name: the system removes such a one with the process. One
    /// with a name is left by SIGKILL only, and then the next that is to have the same final name
    /// removes it.
    unnamed: Option<PathBuf>,
    _registered: Option<Registered>,
}

/// What a name stands for before it is written.
#[derive(Debug)]
enum Place {
    /// A file, or nothing yet: behind all links.
    File(PathBuf),
    /// A pipe or a device, which stays what it is: it gets the bytes.
    Pipe,
}

impl Unfinished {
    /// Creates the file, empty and without a name where the file system can do that.
    ///
    /// # Errors
    /// If `target` is a directory or read-only, or no file can be created beside it.
    pub(crate) fn create(target: &Path) -> Result<Self, FileError> {
        let (place, temporary) = prepare(target)?;
        if let Some((file, way)) = unnamed(&temporary) {
            let (target, unnamed) = (target.to_owned(), Some(way));
            return Ok(Self { temporary, file, target, place, unnamed, _registered: None });
        }
        Self::with_name(target, place, temporary)
    }

    /// As [`create`](Self::create), under a name at once: for libraries and processes that open it
    /// themselves.
    #[cfg(any(feature = "hdf5", test))]
    pub(super) fn create_named(target: &Path) -> Result<Self, FileError> {
        let (place, temporary) = prepare(target)?;
        Self::with_name(target, place, temporary)
    }

    fn with_name(target: &Path, place: Place, temporary: PathBuf) -> Result<Self, FileError> {
        // No other file ever gets this name.
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&temporary);
        let file = file.map_err(FileError::system(target, "write"))?;
        let (target, registered) = (target.to_owned(), Some(Registered::new(&temporary)));
        Ok(Self { temporary, file, target, place, unnamed: None, _registered: registered })
    }

    /// The name of a file that has been created with one.
    #[cfg(feature = "hdf5")]
    pub(super) fn path(&self) -> &Path {
        &self.temporary
    }

    /// The file, open.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The name that the file will have, and by which errors call it.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// Takes room for so many bytes before they are written. The length of the file stays as it is.
    ///
    /// # Errors
    /// If there is not so much, or the process may not write so much.
    pub(super) fn reserve(&self, bytes: u64) -> Result<(), FileError> {
        // A file system that is asked to take more than there is fills itself up before it says so.
        self.look_for_room(bytes)?;
        #[cfg(target_os = "linux")]
        if bytes > 0
            && let Ok(len) = i64::try_from(bytes)
        {
            use nix::{
                errno::Errno,
                fcntl::{FallocateFlags, fallocate},
            };
            match fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, len) {
                Err(Errno::ENOSPC | Errno::EDQUOT) => {
                    // What could be taken of it does not count as used.
                    let _ = self.file.set_len(0);
                    return Err(self.no_room(bytes, self.free()));
                }
                Err(error @ Errno::EFBIG) => {
                    return Err(FileError::system(&self.target, "write")(error.into()));
                }
                Ok(()) | Err(_) => {} // not every file system can
            }
        }
        Ok(())
    }

    /// Looks whether there is room for so many bytes.
    pub(super) fn look_for_room(&self, bytes: u64) -> Result<(), FileError> {
        within_limit(&self.target, bytes)?;
        match self.free() {
            free if bytes > free => Err(self.no_room(bytes, free)),
            _ => Ok(()),
        }
    }

    /// How many bytes are free where the file is; the largest number where that is not told.
    fn free(&self) -> u64 {
        match fstatvfs(&self.file) {
            // As wide as it is on the system at hand.
            #[allow(clippy::unnecessary_cast)]
            Ok(room) if room.blocks() > 0 => {
                (room.blocks_available() as u64).saturating_mul(room.fragment_size() as u64)
            }
            _ => u64::MAX,
        }
    }

    fn no_room(&self, needed: u64, free: u64) -> FileError {
        let path = self.target.clone();
        FileError::NoRoom { path, needed, free, limit: "free on its file system" }
    }

    /// Gives the file its temporary name, if it has none.
    fn name(&self) -> io::Result<Option<Registered>> {
        use nix::{
            fcntl::{AT_FDCWD, AtFlags},
            unistd::linkat,
        };
        let Some(way) = &self.unnamed else { return Ok(None) };
        let registered = Registered::new(&self.temporary);
        linkat(AT_FDCWD, way, AT_FDCWD, &self.temporary, AtFlags::AT_SYMLINK_FOLLOW)?;
        Ok(Some(registered))
    }

    /// Gives the complete file its name, in place of a file that had it before, and the permissions
    /// of that one.
    pub(crate) fn finish(self) -> Result<(), FileError> {
        self.file.sync_all().map_err(FileError::system(&self.target, "write"))?;
        let refuse = FileError::system(&self.target, "give the written file its name");
        match &self.place {
            Place::File(path) => {
                if let Ok(before) = fs::metadata(path) {
                    keep_owner(&self.file, &before); // first: it takes some permissions away
                    self.file.set_permissions(before.permissions()).map_err(&refuse)?;
                }
                let _registered = self.name().map_err(&refuse)?;
                fs::rename(&self.temporary, path).map_err(refuse)
            }
            Place::Pipe => {
                let copy = || {
                    let mut to = OpenOptions::new().write(true).open(&self.target)?;
                    io::copy(
                        &mut File::open(self.unnamed.as_ref().unwrap_or(&self.temporary))?,
                        &mut to,
                    )?;
                    to.flush()
                };
                copy().map_err(FileError::system(&self.target, "write"))
            }
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Where it was finished, nothing has this name any more: no other file ever gets it.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// What the file will take the place of, and its temporary name.
fn prepare(target: &Path) -> Result<(Place, PathBuf), FileError> {
    let place = Place::of(target)?;
    let (directory, name) = match &place {
        Place::File(path) => (path.parent().unwrap_or(Path::new("")), path.file_name()),
        Place::Pipe => (&*std::env::temp_dir(), target.file_name()),
    };
    let name = name.unwrap_or_default();
    // Absolute: the program may go to another directory meanwhile.
    let directory = std::path::absolute(directory.join("."));
    let directory = directory.map_err(FileError::system(target, "write"))?;
    remove_abandoned(&directory, name);
    let temporary = directory.join(owner::new_name(name));
    Ok((place, temporary))
}

/// A file without a name in the directory of `temporary`, and a way to it for this process, where
/// that can be had.
#[cfg(target_os = "linux")]
fn unnamed(temporary: &Path) -> Option<(File, PathBuf)> {
    use std::os::{fd::AsRawFd, unix::fs::OpenOptionsExt};
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(nix::libc::O_TMPFILE);
    let file = options.open(temporary.parent()?).ok()?;
    let way = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    fs::metadata(&way).is_ok().then_some((file, way))
}

#[cfg(not(target_os = "linux"))]
fn unnamed(_temporary: &Path) -> Option<(File, PathBuf)> {
    None
}

impl Place {
    fn of(target: &Path) -> Result<Self, FileError> {
        let refuse = FileError::system(target, "write");
        let about = match fs::metadata(target) {
            Ok(about) => about,
            // Nothing, or a link to nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self::File(behind_links(target)));
            }
            Err(error) => return Err(refuse(error)),
        };
        let kind = about.file_type();
        if kind.is_dir() {
            Err(refuse(io::ErrorKind::IsADirectory.into()))
        } else if kind.is_fifo() || kind.is_char_device() {
            access(target, AccessFlags::W_OK).map_err(|error| refuse(error.into()))?;
            Ok(Self::Pipe)
        } else if !kind.is_file() {
            let (path, kind) = (target.to_owned(), "a socket or a disk");
            Err(FileError::NoFile { path, kind, needed: "a file, or a name for a new one" })
        } else if about.permissions().readonly() {
            // Whoever took away the right to write wants to keep it, root's file or not.
            let words = "it is read-only; `chmod u+w` changes that";
            Err(refuse(io::Error::new(io::ErrorKind::PermissionDenied, words)))
        } else {
            OpenOptions::new().append(true).open(target).map_err(refuse)?;
            Ok(Self::File(behind_links(target)))
        }
    }
}

/// The path that a link, or a link to a link, stands for. The system has followed them before:
/// there are not too many.
fn behind_links(target: &Path) -> PathBuf {
    const MOST: usize = 40;
    let mut path = target.to_owned();
    for _ in 0..MOST {
        let Ok(to) = fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("")).join(to);
    }
    path
}

/// The same owner and group as before, where the system lets us.
fn keep_owner(file: &File, before: &fs::Metadata) {
    use std::os::unix::fs::{MetadataExt, fchown};
    if file.metadata().is_ok_and(|now| (now.uid(), now.gid()) != (before.uid(), before.gid())) {
        let _ = fchown(file, Some(before.uid()), Some(before.gid()));
    }
}

/// Removes what processes that were killed have left beside a file of this name.
fn remove_abandoned(directory: &Path, name: &std::ffi::OsStr) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if owner::is_abandoned(&entry.file_name(), name) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether this process may write a file of so many bytes: it would be ended by a signal.
pub(super) fn within_limit(target: &Path, bytes: u64) -> Result<(), FileError> {
    match getrlimit(Resource::RLIMIT_FSIZE) {
        Ok((limit, _)) if bytes > limit => Err(FileError::NoRoom {
            path: target.to_owned(),
            needed: bytes,
            free: limit,
            limit: "allowed by `ulimit -f`",
        }),
        _ => Ok(()),
    }
}

/// Whether what has this name gets bytes one after the other.
#[cfg(feature = "phdf5")]
pub(super) fn is_pipe(target: &Path) -> bool {
    matches!(Place::of(target), Ok(Place::Pipe))
}

/// Writes a file that gets its name when it is complete: if that fails, what was there before stays.
/// A pipe or a device stays what it is, and gets the bytes.
///
/// # Errors
/// If the file cannot be made, or `write` fails.
///
/// # Examples
/// ```no_run
/// # use std::path::Path;
/// spmd::io::write_whole(Path::new("page.html"), |out| out.write_all(b"<!DOCTYPE html>"))?;
/// # Ok::<(), spmd::io::FileError>(())
/// ```
pub fn write_whole(
    target: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), FileError> {
    let unfinished = Unfinished::create(target)?;
    let mut out = io::BufWriter::new(unfinished.file());
    let written = write(&mut out).and_then(|()| out.flush());
    drop(out);
    written.map_err(FileError::system(target, "write"))?;
    unfinished.finish()
}

/// Whether a file of this name could be written; leaves nothing behind.
pub(super) fn check_writable(target: &Path) -> Result<(), FileError> {
    Unfinished::create(target).map(drop)
}

/// Whether a file of this name could be written and have so many bytes; leaves nothing behind.
pub(super) fn check_room(target: &Path, bytes: u64) -> Result<(), FileError> {
    Unfinished::create(target)?.look_for_room(bytes)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::Command;

    use super::*;

    fn count(directory: &Path) -> usize {
        fs::read_dir(directory).unwrap().count()
    }

    #[test]
    fn a_file_is_seen_when_it_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("field.npy");
        for words in ["first", "second"] {
            let made = Unfinished::create(&target).unwrap();
            if made.unnamed.is_some() {
                assert_eq!(count(directory.path()), usize::from(target.exists()));
            }
            made.file().write_all(words.as_bytes()).unwrap();
            made.finish().unwrap();
            assert_eq!(fs::read_to_string(&target).unwrap(), words);
            assert_eq!(count(directory.path()), 1);
        }
        drop(Unfinished::create(&target).unwrap());
        Unfinished::create_named(&target).unwrap().finish().unwrap();
        assert_eq!((count(directory.path()), fs::read(&target).unwrap().len()), (1, 0));
    }

    #[test]
    fn what_fails_halfway_leaves_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("page.html");
        write_whole(&target, |out| out.write_all(b"before")).unwrap();
        let full = |out: &mut dyn Write| {
            out.write_all(&vec![0; 100_000])?;
            Err(io::ErrorKind::StorageFull.into())
        };
        let told = write_whole(&target, full).unwrap_err().to_string();
        assert!(told.contains("page.html: cannot write: no storage space"), "{told}");
        assert_eq!((fs::read(&target).unwrap(), count(directory.path())), (b"before".to_vec(), 1));
    }

    #[test]
    fn a_probe_removes_nobody_elses_file() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("field.npy");
        let others = Unfinished::create_named(&target).unwrap();
        fs::write(directory.path().join(".field.npy.123.part"), "somebody's").unwrap();
        check_writable(&target).unwrap();
        assert!(others.temporary.exists());
        assert_eq!(count(directory.path()), 2);
        let temporary = others.temporary.clone();
        drop(others);
        assert!(!temporary.exists());
    }

    #[test]
    fn what_a_killed_process_has_left_is_removed_by_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("field.npy");
        let name = owner::new_name(target.file_name().unwrap()).into_string().unwrap();
        let mut parts: Vec<_> = name.split('-').map(str::to_owned).collect();
        // A process that has been and is no more.
        let mut child = Command::new("true").spawn().unwrap();
        parts[1] = child.id().to_string();
        child.wait().unwrap();
        let left = directory.path().join(parts.join("-"));
        fs::write(&left, "half of it").unwrap();
        check_writable(&target.with_file_name("other.npy")).unwrap();
        assert!(left.exists(), "another file's");
        check_writable(&target).unwrap();
        assert!(!left.exists());
    }
}
