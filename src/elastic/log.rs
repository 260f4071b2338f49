//! The write-ahead log: what a coordinator that was killed goes on from.
//!
//! It is a redb database. A commit is on the disk when it returns; all that has come in the meantime
//! is in the next one.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};

use super::{Problem, messages::RunKey, state::Blame, token};

/// The form of the log, the digest of the tasks, and the key of the run.
const ABOUT: TableDefinition<&str, &[u8]> = TableDefinition::new("about");
const RESULTS: TableDefinition<u64, &[u8]> = TableDefinition::new("results");
const BLAMES: TableDefinition<u64, &[u8]> = TableDefinition::new("blames");
const ASIDE: TableDefinition<u64, ()> = TableDefinition::new("aside");

const FORM: &[u8] = b"1";
/// Pages that are kept in memory: nothing is read twice.
const CACHE_BYTES: usize = 16 << 20;

pub(super) struct Log {
    file: PathBuf,
    database: Database,
}

/// What is kept.
pub(super) enum Entry {
    Result(usize, Vec<u8>),
    Blames(usize, Vec<Blame>),
    Aside(usize),
}

impl Log {
    /// Opens the log of these tasks, or begins one; and the key of its run.
    pub(super) fn open(file: &Path, digest: &[u8]) -> Result<(Self, RunKey), Problem> {
        if is_missing(file) {
            Self::begin(file, digest)?;
        }
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .open(file)
            .map_err(|error| cannot("open", file, error))?;
        // The database asserts what a file that was cut off does not keep.
        let opened = catch_unwind(AssertUnwindSafe(|| Self::of(opened, file, digest)));
        let (log, run) = opened.unwrap_or_else(|_| {
            Err(Problem::LogDamaged { file: file.to_owned(), what: "it is not whole" })
        })?;
        let run = RunKey::try_from(run).map_err(|_| Problem::LogOfOthers(file.to_owned()))?;
        Ok((log, run))
    }

    /// Makes a log under another name: the file is there when it is whole, and not before, however
    /// this ends.
    fn begin(file: &Path, digest: &[u8]) -> Result<(), Problem> {
        let mut name = file.as_os_str().to_owned();
        name.push(".new");
        let new = PathBuf::from(name);
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&new)
            .map_err(|error| cannot("make", &new, error))?;
        // Another coordinator may be at it, or may just have renamed what was opened here.
        let locked = Flock::lock(opened, FlockArg::LockExclusiveNonblock);
        let locked = locked.map_err(|(_, error)| match error {
            Errno::EWOULDBLOCK => Problem::LogInUse(file.to_owned()),
            error => cannot("lock", &new, error.into()),
        })?;
        if !is_missing(file) {
            return Ok(());
        }
        let own = locked.set_len(0).and_then(|()| locked.try_clone());
        Self::of(own.map_err(|error| cannot("make", &new, error))?, file, digest)?;
        fs::rename(&new, file).map_err(|error| cannot("make", file, error))?;
        // The name is on the disk, too.
        let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or_else(|| Path::new("."));
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| cannot("keep", directory, error))
    }

    /// The log in a file, and the key of its run, which is empty if it is of other tasks.
    fn of(opened: File, file: &Path, digest: &[u8]) -> Result<(Self, Vec<u8>), Problem> {
        let mut builder = Database::builder();
        let database = builder.set_cache_size(CACHE_BYTES).create_file(opened);
        let database = database.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => Problem::LogInUse(file.to_owned()),
            error => failed(file, error),
        })?;
        let log = Self { file: file.to_owned(), database };
        let run = log.write(|transaction| {
            let mut about = transaction.open_table(ABOUT)?;
            let found = |key| about.get(key).map(|value| value.map(|value| value.value().to_vec()));
            let (form, tasks, run) = (found("form")?, found("tasks")?, found("run")?);
            if let (Some(form), Some(tasks), Some(run)) = (form, tasks, run) {
                return Ok(if form == FORM && tasks == digest { run } else { Vec::new() });
            }
            let run = token::random::<16>().unwrap_or_default();
            about.insert("form", FORM)?;
            about.insert("tasks", digest)?;
            about.insert("run", &run[..])?;
            transaction.open_table(RESULTS)?;
            transaction.open_table(BLAMES)?;
            transaction.open_table(ASIDE)?;
            Ok(run.to_vec())
        })?;
        Ok((log, run))
    }

    /// All that was kept, of so many tasks: results last.
    pub(super) fn read(
        &self,
        tasks: usize,
        mut each: impl FnMut(Entry) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let number = |task: u64| {
            let damaged = || self.damaged("it tells of a task that there is not");
            usize::try_from(task).ok().filter(|task| *task < tasks).ok_or_else(damaged)
        };
        let open = |error: redb::Error| failed(&self.file, error);
        let reading = self.database.begin_read().map_err(|error| open(error.into()))?;
        let blames = reading.open_table(BLAMES).map_err(|error| open(error.into()))?;
        for entry in blames.iter().map_err(|error| open(error.into()))? {
            let (task, bytes) = entry.map_err(|error| open(error.into()))?;
            let blames = postcard::from_bytes(bytes.value());
            let blames = blames.map_err(|_| self.damaged("blames that cannot be read"))?;
            each(Entry::Blames(number(task.value())?, blames))?;
        }
        let aside = reading.open_table(ASIDE).map_err(|error| open(error.into()))?;
        for entry in aside.iter().map_err(|error| open(error.into()))? {
            let (task, _) = entry.map_err(|error| open(error.into()))?;
            each(Entry::Aside(number(task.value())?))?;
        }
        let results = reading.open_table(RESULTS).map_err(|error| open(error.into()))?;
        for entry in results.iter().map_err(|error| open(error.into()))? {
            let (task, bytes) = entry.map_err(|error| open(error.into()))?;
            each(Entry::Result(number(task.value())?, bytes.value().to_vec()))?;
        }
        Ok(())
    }

    /// Keeps all these, or none: on the disk when it returns.
    pub(super) fn keep(&self, entries: &[Entry]) -> Result<(), Problem> {
        if entries.is_empty() {
            return Ok(());
        }
        self.write(|transaction| {
            let mut results = transaction.open_table(RESULTS)?;
            let mut blamed = transaction.open_table(BLAMES)?;
            let mut aside = transaction.open_table(ASIDE)?;
            for entry in entries {
                match entry {
                    Entry::Result(task, bytes) => {
                        results.insert(*task as u64, &bytes[..])?;
                    }
                    Entry::Blames(task, blames) => {
                        // What is made of texts and numbers can be written.
                        let bytes = postcard::to_stdvec(blames).unwrap_or_default();
                        blamed.insert(*task as u64, &bytes[..])?;
                    }
                    Entry::Aside(task) => {
                        aside.insert(*task as u64, ())?;
                    }
                }
            }
            Ok(())
        })
    }

    pub(super) fn damaged(&self, what: &'static str) -> Problem {
        Problem::LogDamaged { file: self.file.clone(), what }
    }

    fn write<V>(
        &self,
        what: impl FnOnce(&WriteTransaction) -> Result<V, redb::Error>,
    ) -> Result<V, Problem> {
        let attempt = || {
            let transaction = self.database.begin_write()?;
            let value = what(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        attempt().map_err(|error: redb::Error| failed(&self.file, error))
    }
}

/// An empty file is no log yet.
fn is_missing(file: &Path) -> bool {
    match fs::metadata(file) {
        Ok(about) => about.is_file() && about.len() == 0,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn cannot(what: &'static str, file: &Path, error: io::Error) -> Problem {
    Problem::File { what, file: file.to_owned(), error }
}

fn failed(file: &Path, error: impl Into<redb::Error>) -> Problem {
    Problem::Log { file: file.to_owned(), error: Box::new(error.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_tells_what_was_kept_and_refuses_other_tasks() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("log");
        let (log, run) = Log::open(&file, b"digest").unwrap();
        assert!(matches!(Log::open(&file, b"digest"), Err(Problem::LogInUse(_))));
        log.keep(&[Entry::Result(2, vec![7; 3]), Entry::Aside(1)]).unwrap();
        log.keep(&[Entry::Blames(1, Vec::new()), Entry::Result(0, Vec::new())]).unwrap();
        drop(log);
        assert!(matches!(Log::open(&file, b"other"), Err(Problem::LogOfOthers(_))));
        let (log, again) = Log::open(&file, b"digest").unwrap();
        assert_eq!(run, again);
        let mut told = Vec::new();
        let read = log.read(3, |entry| {
            told.push(match entry {
                Entry::Result(task, bytes) => format!("result {task} {bytes:?}"),
                Entry::Blames(task, blames) => format!("blames {task} {}", blames.len()),
                Entry::Aside(task) => format!("aside {task}"),
            });
            Ok(())
        });
        read.unwrap();
        assert_eq!(told, ["blames 1 0", "aside 1", "result 0 []", "result 2 [7, 7, 7]"]);
        assert!(matches!(log.read(2, |_| Ok(())), Err(Problem::LogDamaged { .. })));
    }

    #[test]
    fn what_is_no_log_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("log");
        std::fs::write(&file, "something else, which is a text of some length").unwrap();
        assert!(matches!(Log::open(&file, b"digest"), Err(Problem::Log { .. })));
    }

    #[test]
    fn a_log_that_was_being_made_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let (file, new) = (directory.path().join("log"), directory.path().join("log.new"));
        std::fs::write(&new, vec![0; 100_000]).unwrap();
        let (log, run) = Log::open(&file, b"digest").unwrap();
        assert!(!new.exists());
        drop(log);
        assert_eq!(Log::open(&file, b"digest").unwrap().1, run);
        // While another coordinator is at it.
        let at_it = File::create(&new).unwrap();
        let at_it = Flock::lock(at_it, FlockArg::LockExclusive).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(Log::open(&file, b"digest"), Err(Problem::LogInUse(_))));
        drop(at_it);
        Log::open(&file, b"digest").unwrap();
    }

    #[test]
    fn a_log_that_was_cut_off_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("log");
        let (log, _) = Log::open(&file, b"digest").unwrap();
        let entries: Vec<Entry> = (0..50).map(|task| Entry::Result(task, vec![7; 9999])).collect();
        log.keep(&entries).unwrap();
        drop(log);
        let whole = std::fs::read(&file).unwrap();
        for parts in 1..20 {
            std::fs::write(&file, &whole[..whole.len() * parts / 20]).unwrap();
            let Err(problem) = Log::open(&file, b"digest") else { panic!("{parts} is whole") };
            let damaged = matches!(problem, Problem::Log { .. } | Problem::LogDamaged { .. });
            assert!(damaged, "{problem}");
        }
    }
}
