//! The program's last word: the record that it leaves on the host of rank 0, in a directory that
//! nobody else can write to.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::agent::{SCRATCH, free};
use crate::scratch::Scratch;

/// How the names of such directories begin.
pub(super) const KIND: &str = "spmd-run-";

/// What is known of the end of a program on a host, the weightier the later.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Left {
    /// It never began there, or is no program of spmd.
    NotBegun,
    /// It began.
    Begun,
    /// It has left this.
    Record(String),
}

impl Left {
    /// As a line of an agent.
    pub(super) fn line(&self) -> String {
        match self {
            Self::NotBegun => "not begun".to_owned(),
            Self::Begun => "begun".to_owned(),
            Self::Record(text) => format!("record {}", text.trim_end()),
        }
    }

    pub(super) fn from_line(line: &str) -> Option<Self> {
        match line {
            "not begun" => Some(Self::NotBegun),
            "begun" => Some(Self::Begun),
            _ => line.strip_prefix("record ").map(|text| Self::Record(text.to_owned())),
        }
    }
}

/// The directory of a run on this host; gone when this is.
pub(super) struct Place {
    directory: Scratch,
}

/// The record in it.
pub(super) fn record_in(directory: &Path) -> PathBuf {
    directory.join("record.json")
}

/// What the program tells of its progress.
pub(super) fn progress_in(directory: &Path) -> PathBuf {
    directory.join("progress.json")
}

/// What asks the program to stop, once it is there.
pub(super) fn stop_in(directory: &Path) -> PathBuf {
    directory.join("stop")
}

impl Place {
    /// Makes it, with the file that a program removes when it begins: what did not begin is told from
    /// what did not end.
    ///
    /// # Errors
    /// In words.
    pub(super) fn make(directory: &Path) -> Result<Self, String> {
        let made = || -> io::Result<Self> {
            // A machine of two names has two agents, which share it.
            let place = Self { directory: Scratch::make(directory, KIND)? };
            fs::write(record_in(directory), "")?;
            // A record that does not fit at the end would look like a lost rank.
            if free(directory).is_some_and(|free| free < SCRATCH) {
                return Err(io::Error::other(
                    "the disk is full, and the program leaves a record there",
                ));
            }
            Ok(place)
        };
        made().map_err(|error| format!("{}: {error}", directory.display()))
    }

    pub(super) fn left(&self) -> Left {
        match fs::read_to_string(record_in(self.directory.path())) {
            Ok(text) if text.is_empty() => Left::NotBegun,
            Ok(text) => Left::Record(text),
            Err(_) => Left::Begun,
        }
    }

    /// What the program tells of its progress, on one line; nothing if it tells nothing here.
    pub(super) fn progress(&self) -> Option<String> {
        let text = fs::read_to_string(progress_in(self.directory.path())).ok()?;
        Some(text.lines().collect()).filter(|line: &String| !line.is_empty())
    }

    /// Asks the program to stop, if its rank 0 is on this host.
    pub(super) fn stop(&self) {
        let _ = fs::write(stop_in(self.directory.path()), ""); // else it goes on, and nothing is lost
    }
}

/// The record that the user keeps: complete, or not there.
pub(super) struct Kept {
    file: PathBuf,
    unfinished: PathBuf,
}

impl Kept {
    /// Takes away that of an earlier run, and makes sure that the new one can be written.
    ///
    /// # Errors
    /// In words.
    pub(super) fn prepare(file: &Path, token: &str) -> Result<Self, String> {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let kept = Self {
            file: file.to_owned(),
            unfinished: file.with_file_name(format!(".{name}.{token}")),
        };
        let prepared = fs::write(&kept.unfinished, "").and_then(|()| match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        });
        prepared.map_err(|error| format!("--record {}: {error}", file.display()))?;
        Ok(kept)
    }

    /// # Errors
    /// In words.
    pub(super) fn write(&self, text: &str) -> Result<(), String> {
        fs::write(&self.unfinished, text)
            .and_then(|()| fs::rename(&self.unfinished, &self.file))
            .map_err(|error| format!("--record {}: {error}", self.file.display()))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.unfinished); // unless it has become the record
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_a_program_leaves_is_told_apart() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("run");
        let place = Place::make(&directory).unwrap();
        let open = base.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let link = base.path().join("link");
        std::os::unix::fs::symlink(&directory, &link).unwrap();
        for other in [open, link] {
            assert!(Place::make(&other).is_err(), "it may be somebody else's");
        }
        assert_eq!(place.left(), Left::NotBegun);
        fs::remove_file(record_in(&directory)).unwrap();
        assert_eq!(place.left(), Left::Begun);
        fs::write(record_in(&directory), "{}\n").unwrap();
        assert_eq!(place.left(), Left::Record("{}\n".to_owned()));
        assert_eq!(place.progress(), None);
        fs::write(progress_in(&directory), "{\"steps\":\n7}").unwrap();
        assert_eq!(place.progress().as_deref(), Some("{\"steps\":7}"));
        place.stop();
        assert!(stop_in(&directory).exists());
        drop(place);
        assert!(!directory.exists());
        for left in [Left::NotBegun, Left::Begun, Left::Record("{\"a\":1}".to_owned())] {
            assert_eq!(Left::from_line(&left.line()), Some(left));
        }
        assert!(Left::NotBegun < Left::Begun && Left::Begun < Left::Record(String::new()));
    }

    #[test]
    fn a_kept_record_is_complete_or_not_there() {
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("kept.json");
        fs::write(&file, "old").unwrap();
        drop(Kept::prepare(&file, "7").unwrap());
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0, "the run was lost");
        Kept::prepare(&file, "7").unwrap().write("new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1);
        assert!(Kept::prepare(&base.path().join("no/kept.json"), "7").is_err());
    }
}
