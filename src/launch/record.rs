//! The record that a run leaves (`--record FILE`): one JSON file that says what ran where, what it
//! cost each rank, and how it ended.
//!
//! Each rank's part is noted when its program ends, however it does. Ranks that are threads note it
//! in this process; ranks that are processes send it to rank 0 if all is well. A process that fails
//! writes the record by itself, with its own part, since the others may never answer.

use std::{
    collections::BTreeMap,
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{Cause, Launcher, places, print_line};
use crate::{
    comm::{Comm, Results, Stats, Timed, Verification},
    error::Result,
    io::{FileError, Unfinished},
    placement::{self, Place},
    recover::Epoch,
    usage::{self, Usage},
};

/// What is written now; older forms are read.
const FORMAT: u32 = 1;

/// What a run leaves with [`RunArgs::record`](crate::RunArgs::record): what ran where, what it cost
/// each rank, and how it ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Record {
    /// The form of the file.
    pub format: u32,
    /// The version of this library.
    pub spmd: String,
    /// The program, as it was started.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// The `SPMD_*` variables that were set.
    pub variables: BTreeMap<String, String>,
    /// When it was started, in seconds since 1970.
    pub started_s: f64,
    /// `local` or `mpi`.
    pub engine: String,
    /// The MPI library and its version; empty on `local`.
    pub library: String,
    /// The launcher that has started the ranks, if one has.
    pub launcher: Option<String>,
    /// The number of ranks.
    pub ranks: usize,
    /// The exit code of the job.
    pub exit_code: u8,
    /// Why it failed, if it did.
    pub failed: Option<Failed>,
    /// By rank; where the job has failed, of those ranks that could still tell. Of a program that has
    /// survived losses, those of its last epoch.
    pub by_rank: Vec<RankRecord>,
    /// The parts of a run that survives losses ([`recover`](crate::recover)): one, unless ranks have
    /// changed in it. Of other programs none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub epochs: Vec<Epoch>,
}

/// Which rank has failed first, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The rank.
    pub rank: usize,
    /// In words.
    pub why: String,
}

/// A rank's part of a [`Record`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RankRecord {
    /// The rank.
    pub rank: usize,
    /// What tells hosts apart: several can have one name.
    pub node: u32,
    /// The name of its host.
    pub host: String,
    /// The CPUs that it might use, as Linux lists them: `0-3,8`.
    pub cpus: String,
    /// How many these are.
    pub cpu_count: usize,
    /// For how many CPUs the ranks of the host have time together, where a quota limits it.
    pub quota: Option<usize>,
    /// The threads of its rayon pool.
    pub threads: usize,
    /// Seconds that the program's closure took.
    pub wall_s: f64,
    /// What its threads have had of their CPUs meanwhile, where the system counts that.
    pub usage: Option<Usage>,
    /// What the rank's calls have cost.
    pub stats: Stats,
    /// The part of it that counts, if the program has said so ([`Comm::timed`]).
    pub timed: Option<Timed>,
    /// The program's numbers ([`Comm::result`]); `None` is what is no number.
    pub results: BTreeMap<String, Option<f64>>,
    /// What the program thinks of its result ([`Comm::verified`]).
    pub verification: Option<Verification>,
}

impl Record {
    /// Reads the record of a run. A run that left none did not come to its end.
    ///
    /// # Errors
    /// If there is none, or the file is something else.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let path = path.as_ref();
        let text = fs::read_to_string(path).map_err(FileError::system(path, "read"))?;
        Self::parse(&text).map_err(FileError::format(path, "read the record of a run"))
    }

    /// Understands the text of a record.
    ///
    /// # Errors
    /// If it is something else, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let record: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if record.format > FORMAT {
            return Err(format!("it has form {}, this version reads {FORMAT}", record.format));
        }
        Ok(record)
    }

    /// The seconds that count: what the program calls `time_s`, else what its
    /// [timed](Comm::timed) parts took, else the whole closure; of the slowest rank.
    pub fn time_s(&self) -> Option<f64> {
        let slowest = |seconds: &dyn Fn(&RankRecord) -> Option<f64>| {
            self.by_rank.iter().filter_map(seconds).reduce(f64::max)
        };
        slowest(&|rank| rank.results.get("time_s").copied().flatten())
            .or_else(|| slowest(&|rank| Some(rank.timed.as_ref()?.slowest_s)))
            .or_else(|| slowest(&|rank| Some(rank.wall_s)))
    }

    /// What the program thinks of its result: of the first rank that found it wrong, else of the
    /// first that looked.
    pub fn verification(&self) -> Option<&Verification> {
        let mut all = self.by_rank.iter().filter_map(|rank| rank.verification.as_ref());
        all.clone().find(|verification| !verification.passed).or_else(|| all.next())
    }
}

/// How a job has ended, as this process knows it.
pub(super) struct Outcome {
    code: u8,
    failed: Option<Failed>,
}

impl Outcome {
    pub(super) fn success() -> Self {
        Self { code: 0, failed: None }
    }

    pub(super) fn of(cause: &Cause) -> Self {
        let failed = Failed { rank: cause.rank, why: cause.text.clone() };
        Self { code: cause.code, failed: Some(failed) }
    }
}

/// The record of the job while it runs.
pub(super) struct Recording {
    started: SystemTime,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    file: Option<PathBuf>,
    engine: &'static str,
    library: String,
    ranks: usize,
    by_rank: BTreeMap<usize, RankRecord>,
    epochs: Vec<Epoch>,
}

impl Recording {
    pub(super) fn new(file: Option<&Path>) -> Self {
        let known = Known { file: file.map(Path::to_owned), ..Known::default() };
        Self { started: SystemTime::now(), known: Mutex::new(known) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that the file can be written, and removes an earlier run's: a job that does not
    /// come to its end leaves none.
    ///
    /// # Errors
    /// Why it cannot be written.
    pub(super) fn prepare(&self) -> Result<(), String> {
        let Some(file) = self.known().file.clone() else { return Ok(()) };
        let refuse = |error: FileError| format!("--record {error}");
        Unfinished::create(&file).map_err(refuse)?;
        match fs::canonicalize(&file) {
            Ok(earlier) if earlier.is_file() => fs::remove_file(earlier)
                .map_err(FileError::system(&file, "replace"))
                .map_err(refuse),
            _ => Ok(()),
        }
    }

    /// The rank's program begins; what this returns is dropped when it has ended.
    ///
    /// # Collective
    /// All ranks.
    pub(super) fn begin<'a>(&'a self, world: &'a Comm) -> Result<Part<'a>> {
        let mut places = places::gather(world, rayon::current_num_threads())?;
        let place = places.swap_remove(world.rank());
        {
            let mut known = self.known();
            known.engine = world.engine();
            known.library = world.library();
            known.ranks = world.size();
        }
        let usage = usage::of_this_rank();
        Ok(Part { recording: self, world, place, usage, started: Instant::now() })
    }

    /// An epoch is over, and another one begins: only the parts of the last are kept.
    pub(super) fn forget(&self) {
        self.known().by_rank.clear();
    }

    pub(super) fn note_epochs(&self, epochs: Vec<Epoch>) {
        self.known().epochs = epochs;
    }

    /// Brings all parts to rank 0, where ranks are processes.
    ///
    /// # Collective
    /// All ranks.
    #[cfg(feature = "mpi")]
    pub(super) fn gather(&self, world: &Comm) -> Result<()> {
        world.record_stats(false); // what follows is none of the program's
        // Launchers do not hand on all variables to all hosts: who was told the name tells it.
        let mine = {
            let known = self.known();
            (known.file.clone(), known.by_rank.get(&world.rank()).cloned())
        };
        let Some(all) = world.gather_obj(0, &mine)? else { return Ok(()) };
        let mut known = self.known();
        for (rank, (file, part)) in all.into_iter().enumerate() {
            known.file = known.file.take().or(file);
            known.by_rank.extend(part.map(|part| (rank, part)));
        }
        Ok(())
    }

    /// Writes the record of a job that has ended so, if one is wanted; returns the exit code, which
    /// is 1 if that is all that failed.
    pub(super) fn finish(&self, outcome: &Outcome) -> u8 {
        let known = self.known();
        let Some(file) = known.file.as_deref().filter(|_| known.ranks > 0) else {
            return outcome.code;
        };
        match write(file, &self.record(&known, outcome)) {
            Ok(()) => outcome.code,
            Err(error) => {
                print_line(&format!("error: the record of the run cannot be written: {error}"));
                outcome.code.max(1)
            }
        }
    }

    fn record(&self, known: &Known, outcome: &Outcome) -> Record {
        let mut words = env::args_os().map(|word| word.to_string_lossy().into_owned());
        let variables = env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| name.starts_with("SPMD_"))
            .map(|(name, value)| (name, value.to_string_lossy().into_owned()));
        let since_1970 = self.started.duration_since(SystemTime::UNIX_EPOCH);
        Record {
            format: FORMAT,
            spmd: env!("CARGO_PKG_VERSION").to_owned(),
            program: words.next().unwrap_or_default(),
            arguments: words.collect(),
            variables: variables.collect(),
            started_s: since_1970.unwrap_or_default().as_secs_f64(),
            engine: known.engine.to_owned(),
            library: known.library.clone(),
            launcher: Launcher::detect().map(|launcher| launcher.name.to_owned()),
            ranks: known.ranks,
            exit_code: outcome.code,
            failed: outcome.failed.clone(),
            by_rank: known.by_rank.values().cloned().collect(),
            epochs: known.epochs.clone(),
        }
    }
}

fn write(file: &Path, record: &Record) -> Result<(), FileError> {
    let unfinished = Unfinished::create(file)?;
    let mut text = serde_json::to_vec(record).map_err(FileError::format(file, "write"))?;
    text.push(b'\n');
    unfinished.file().write_all(&text).map_err(FileError::system(file, "write"))?;
    unfinished.finish()
}

/// A rank whose program is running. Dropped when that has ended, by success, error or panic.
pub(super) struct Part<'a> {
    recording: &'a Recording,
    world: &'a Comm,
    place: Place,
    usage: Option<Usage>,
    started: Instant,
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        let wall_s = self.started.elapsed().as_secs_f64();
        let Place { node, host, cpus, quota, threads, .. } = &self.place;
        let Results { numbers, verification, timed } = self.world.results();
        let usage = usage::of_this_rank().zip(self.usage);
        let rank = self.world.rank();
        let part = RankRecord {
            rank,
            node: *node,
            host: host.clone(),
            cpus: placement::cpu_list(cpus),
            cpu_count: cpus.len(),
            quota: *quota,
            threads: *threads,
            wall_s,
            usage: usage.map(|(now, before)| now.since(&before)),
            stats: self.world.stats(),
            timed,
            results: numbers,
            verification,
        };
        self.recording.known().by_rank.insert(rank, part);
    }
}
