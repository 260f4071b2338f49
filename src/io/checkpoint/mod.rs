//! Checkpoints: the state of a program, kept so that another run goes on from it, on any number of
//! ranks; see `README.md` beside this file.

mod claim;
mod folder;
mod format;
mod memory;
mod state;

use std::{
    fmt,
    num::NonZeroU64,
    ops::Range,
    panic::Location,
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, Instant},
};

pub(crate) use self::memory::{Found, Vault, partner_shift};
pub use self::state::State;
use self::{
    folder::{Begun, Folder, part_name},
    format::{Described, Index, PartReader, PartWriter, head_size},
    state::Round,
};
use super::{FileError, agree_on, unfinished::within_limit};
use crate::{
    comm::Comm,
    datum::fnv1a,
    error::{Call, Error, ErrorKind, Failure, With},
    stop, told,
};

/// How often a program keeps its state.
///
/// ```
/// use std::time::Duration;
/// use spmd::io::Every;
/// assert_eq!("100".parse(), Ok(Every::steps(100)));
/// assert_eq!("90s".parse(), "1.5m".parse::<Every>());
/// assert_eq!("2h".parse(), Ok(Every::time(Duration::from_secs(7200))));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Every(Pace);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    Steps(NonZeroU64),
    Time(Duration),
}

impl Every {
    /// After so many steps.
    ///
    /// # Panics
    /// If it is 0.
    pub fn steps(steps: u64) -> Self {
        Self(Pace::Steps(NonZeroU64::new(steps).expect("the state is kept every so many steps")))
    }

    /// At the end of the first step after so much time.
    pub fn time(time: Duration) -> Self {
        Self(Pace::Time(time))
    }
}

impl FromStr for Every {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let help = || "give a number of steps, as 100, or a time, as 30s, 10m or 2h".to_owned();
        if let Ok(steps) = text.parse::<NonZeroU64>() {
            return Ok(Self(Pace::Steps(steps)));
        }
        let unit = match text.chars().last() {
            Some('s') => 1.0,
            Some('m') => 60.0,
            Some('h') => 3600.0,
            _ => return Err(help()),
        };
        let number: f64 = text[..text.len() - 1].parse().map_err(|_| help())?;
        Duration::try_from_secs_f64(number * unit).map(Self::time).map_err(|_| help())
    }
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Pace::Steps(steps) => write!(f, "{steps}"),
            Pace::Time(time) => write!(f, "{}s", time.as_secs_f64()),
        }
    }
}

/// When something is due that is to be done so often.
#[derive(Debug)]
pub(crate) struct Clock {
    every: Every,
    /// Since it was done.
    steps: u64,
    last: Instant,
}

impl Clock {
    pub(crate) fn new(every: Every) -> Self {
        Self { every, steps: 0, last: Instant::now() }
    }

    /// It has been done.
    pub(crate) fn restart(&mut self) {
        *self = Self::new(self.every);
    }

    /// Another step has been done; whether it is due.
    pub(crate) fn count_step(&mut self) -> bool {
        self.steps += 1;
        match self.every.0 {
            Pace::Steps(steps) => self.steps >= steps.get(),
            Pace::Time(time) => self.last.elapsed() >= time,
        }
    }
}

/// The options of a program that keeps checkpoints: flatten them into your own [`clap`] arguments,
/// as [`RunArgs`](crate::RunArgs).
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Checkpoints")]
pub struct CheckpointArgs {
    /// Go on from the state that is kept in this directory, if there is one, and keep it up to date
    /// there. A program that is asked to stop (SIGTERM, SIGINT, SIGUSR1, --walltime, --stop-file)
    /// keeps it and ends with exit code 5; the same command goes on, on any number of ranks
    #[arg(long, value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,
    /// How often to keep the state: every so many steps, or so much time (30s, 10m, 2h)
    #[arg(long, value_name = "STEPS|TIME", default_value = "10m", requires = "checkpoint")]
    pub every: Every,
}

impl CheckpointArgs {
    /// The checkpoint that was asked for; one that does nothing where none was.
    ///
    /// # Collective
    /// As [`Checkpoint::open`].
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    #[track_caller]
    pub fn open(&self, comm: &Comm) -> Result<Checkpoint, Failure> {
        let at = Location::caller();
        match &self.checkpoint {
            Some(directory) => Checkpoint::at(comm, Some(directory), self.every, at),
            None => Checkpoint::at(comm, None, self.every, at),
        }
    }
}

/// Keeps the state of a program in a directory.
///
/// A program restores its state before its first step, and tells at the end of each step what it is
/// now:
/// ```
/// use spmd::{
///     array::{DistArray, Halo, Layout},
///     io::{Checkpoint, Every, State},
/// };
/// fn state<'a>(field: &'a mut DistArray<f64, 1>, step: &'a mut u32) -> State<'a> {
///     State::new().array("field", field).value("step", step)
/// }
/// # let folder = tempfile::tempdir()?;
/// # let directory = folder.path().join("kept");
/// let run = |ranks, steps| spmd::local(ranks, |world| {
///     let layout = Layout::new([100], world.size());
///     let mut field = DistArray::from_fn(world, &layout, Halo::none(), |[i]| i as f64)?;
///     let mut step = 0;
///     let mut checkpoint = Checkpoint::open(world, &directory, Every::steps(5))?;
///     let from = checkpoint.resume(state(&mut field, &mut step))?;
///     while step < steps {
///         field.map_inplace(|cell| 0.5 * cell + 1.0);
///         step += 1;
///         checkpoint.step(state(&mut field, &mut step))?;
///     }
///     Ok((from.is_some(), field.checksum()?))
/// });
/// let (_, at_once) = run(1, 12)?[0];
/// # std::fs::remove_dir_all(&directory)?;
/// run(4, 7)?; // kept after step 5
/// assert_eq!(run(3, 12)?, [(true, at_once); 3]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// What is kept is complete: written beside the one before, on the disk with its name, then given
/// its name. The last two are there; where the newest has been damaged since, all ranks go on from
/// the one before, and the log says so. One job at a time uses a directory, which all hosts share.
///
/// A process that is killed leaves the last two checkpoints whole, whenever that is.
#[derive(Debug)]
pub struct Checkpoint {
    /// A message space of its own.
    comm: Comm,
    /// Nothing where no state is kept.
    directory: Option<PathBuf>,
    /// As the program has named it: the same on all ranks.
    named: PathBuf,
    /// On rank 0.
    folder: Option<Folder>,
    /// The numbers of the checkpoints there are, the newest first.
    numbers: Vec<u64>,
    pace: Clock,
    /// The number of the last one that was good.
    good: Option<u64>,
}

impl Checkpoint {
    /// Keeps checkpoints in `directory`, which is made if there is none.
    ///
    /// # Collective
    /// All ranks of `comm`, with the same directory: the one that it is for rank 0. One
    /// [`dup`](Comm::dup), and an allgather of the names.
    ///
    /// # Errors
    /// If rank 0 cannot make the directory, or another job uses it;
    /// [`ErrorKind::CollectiveMismatch`] if the ranks name different ones.
    #[track_caller]
    pub fn open(comm: &Comm, directory: impl AsRef<Path>, every: Every) -> Result<Self, Failure> {
        Self::at(comm, Some(directory.as_ref()), every, Location::caller())
    }

    fn at(
        comm: &Comm,
        directory: Option<&Path>,
        every: Every,
        at: &'static Location<'static>,
    ) -> Result<Self, Failure> {
        let open = || {
            let comm = comm.dup()?;
            let call = call("Checkpoint::open", at);
            let named = directory.map_or_else(PathBuf::new, Path::to_owned);
            let directory = same_directory(&comm, directory, call)?;
            let (mut folder, mut numbers) = (None, Vec::new());
            if let Some(directory) = &directory {
                stop::listen();
                let opened = (comm.rank() == 0).then(|| {
                    let folder = Folder::open(directory)?;
                    let numbers = folder.numbers()?;
                    Ok((folder, numbers))
                });
                let opened = agree_on(&comm, call, opened.transpose())?;
                let (opened, found) = opened.unzip();
                folder = opened;
                numbers = comm.bcast_obj(0, || found.unwrap_or_default())?;
            }
            Ok(Self {
                comm,
                directory,
                named,
                folder,
                numbers,
                pace: Clock::new(every),
                good: None,
            })
        };
        open().map_err(|failure: Failure| failure.called_at(at))
    }

    /// Restores the state from the newest checkpoint that is whole, and says which; nothing, and
    /// the state stays as it is, where there is none.
    ///
    /// # Collective
    /// All ranks, with the same names. Each reads its share of the files; the cells of arrays go to
    /// whose they are now, by a message from each rank to each.
    ///
    /// # Errors
    /// If what was kept is another state (other names, shapes or types, another
    /// [`constant`](State::constant)), or no checkpoint there is can be read. What the state is then
    /// is not defined.
    #[track_caller]
    pub fn resume(&mut self, mut state: State<'_>) -> Result<Option<PathBuf>, Failure> {
        let at = Location::caller();
        self.restore(&mut state, at).map_err(|failure| failure.called_at(at))
    }

    /// As [`Self::resume`].
    pub(crate) fn restore(
        &mut self,
        state: &mut State<'_>,
        at: &'static Location<'static>,
    ) -> Result<Option<PathBuf>, Failure> {
        let newest = self.newest(state, at)?;
        if self.comm.rank() == 0 {
            told::begins(self.comm.size(), self.good, self.keeps());
        }
        Ok(newest)
    }

    fn newest(
        &mut self,
        state: &mut State<'_>,
        at: &'static Location<'static>,
    ) -> Result<Option<PathBuf>, Failure> {
        let Some(directory) = &self.directory else { return Ok(None) };
        let mut complaints = Vec::new();
        for &number in &self.numbers {
            let path = directory.join(folder::name(number));
            match load(&self.comm, &path, state, at)? {
                Ok(()) => {
                    self.good = Some(number);
                    self.pace.restart();
                    return Ok(Some(path));
                }
                Err(why) if self.comm.rank() == 0 => {
                    log::warn!("{why}; the checkpoint before it is tried");
                    complaints.push(why);
                }
                Err(why) => complaints.push(why),
            }
        }
        if complaints.is_empty() {
            return Ok(None);
        }
        let what = format!(
            "none of the {} checkpoints in {} can be used: {}\n  help: remove the directory to begin anew",
            complaints.len(),
            directory.display(),
            complaints.join("; ")
        );
        Err(what.into())
    }

    /// The end of a step: keeps the state if it is time to, and if the program is to stop (see
    /// [`Comm::stop_requested`]).
    ///
    /// # Collective
    /// All ranks: an allreduce of 2 bytes; and [`save`](Self::save) where the state is kept. Nothing
    /// at all where there is no directory.
    ///
    /// # Errors
    /// [`Failure::stopped`], to be passed on with `?`, on all ranks if the program is to stop; and
    /// as [`save`](Self::save).
    #[track_caller]
    pub fn step(&mut self, mut state: State<'_>) -> Result<(), Failure> {
        let at = Location::caller();
        let due = self.count_step();
        if !self.keeps() {
            return Ok(());
        }
        let (reason, due) = self.comm.look_round(call("Checkpoint::step", at), due.into(), true)?;
        self.end_step(&mut state, due != 0, reason, at)
    }

    /// The program goes on from elsewhere: the newest checkpoint stays beside the next, though nobody has
    /// looked whether it is good.
    pub(crate) fn trust_newest(&mut self) {
        self.good = self.numbers.first().copied();
        if self.comm.rank() == 0 {
            told::begins(self.comm.size(), self.good, self.keeps());
        }
    }

    /// Whether there is a directory to keep checkpoints in.
    pub(crate) fn keeps(&self) -> bool {
        self.directory.is_some()
    }

    /// Another step has been done; whether the state is to be kept, by the clock of this rank.
    pub(crate) fn count_step(&mut self) -> bool {
        if self.comm.rank() == 0 {
            told::step();
        }
        self.pace.count_step() && self.keeps()
    }

    /// Keeps the state if it is `due`, or if the program is to stop; the same on all ranks.
    pub(crate) fn end_step(
        &mut self,
        state: &mut State<'_>,
        due: bool,
        reason: Option<stop::Reason>,
        at: &'static Location<'static>,
    ) -> Result<(), Failure> {
        if !due && reason.is_none() {
            return Ok(());
        }
        let kept = self.keep(state, at).map_err(|failure| failure.called_at(at))?;
        let kept = self.named.join(kept.file_name().unwrap_or_default());
        match reason {
            None => Ok(()),
            Some(reason) => Err(Failure::stopped(format!(
                "stopped ({}), to be continued from {}",
                reason.words(),
                kept.display()
            ))),
        }
    }

    /// Keeps the state now.
    ///
    /// # Collective
    /// All ranks, with the same names; each writes a file of its own, and waits for the disk.
    ///
    /// # Errors
    /// If there is not enough room (which is asked for first), or the file system fails, or not all
    /// hosts see the same directory: on all ranks, and the checkpoints that are there stay.
    /// [`ErrorKind::CollectiveMismatch`] if the ranks have other names or other common values.
    #[track_caller]
    pub fn save(&mut self, mut state: State<'_>) -> Result<(), Failure> {
        let at = Location::caller();
        if self.directory.is_none() {
            return Ok(());
        }
        self.keep(&mut state, at).map(drop).map_err(|failure| failure.called_at(at))
    }

    fn keep(
        &mut self,
        state: &mut State<'_>,
        at: &'static Location<'static>,
    ) -> Result<PathBuf, Failure> {
        let (comm, call) = (&self.comm, call("save", at));
        let began = Instant::now();
        let number = self.numbers.first().copied().unwrap_or(0) + 1;
        let directory = self.directory.clone().unwrap_or_default();
        let described = state.describe(comm);
        let (items, bytes) = comm.agree_on_outcome(call, described)?;
        let bytes = bytes.saturating_add(head_size());
        let needed = same_on_all(comm, &items, bytes, call)?;

        let begun = self.folder.as_ref().map(|folder| folder.begin(number, needed)).transpose();
        let begun = agree_on(comm, call, begun)?;
        let place = begun.as_ref().map(|Begun { path, id }| (path.clone(), *id));
        let (path, id) = comm.bcast_obj(0, || place.unwrap_or_default())?;

        let mut write = || {
            let name = path.join(part_name(comm.rank()));
            within_limit(&name, bytes)?;
            let mut part = PartWriter::create(name, id, comm.rank())?;
            state.write(&mut part)?;
            part.finish()
        };
        let written = write().map_err(|error| for_all_hosts(error, &directory, needed));
        let parts = comm.allgather(&[agree_on(comm, call, written)?])?.into_flat();

        let little_endian = cfg!(target_endian = "little");
        let index = Index { id, little_endian, parts, items };
        let finished = match (&self.folder, begun) {
            (Some(folder), Some(begun)) => folder.finish(begun, &index, number),
            _ => Ok(()),
        };
        agree_on(comm, call, finished)?;
        if let Some(folder) = &self.folder {
            let keeps: Vec<u64> = self.good.into_iter().chain([number]).collect();
            folder.keep(&keeps);
        }
        stop::saving_takes(began.elapsed());
        if comm.rank() == 0 {
            told::kept(comm.size(), number);
        }
        self.numbers = [number].into_iter().chain(self.good).collect();
        self.good = Some(number);
        self.pace.restart();
        Ok(directory.join(folder::name(number)))
    }
}

fn call(op: &'static str, at: &'static Location<'static>) -> Call {
    Call { op, with: With::ALL, at }
}

/// Makes sure that all ranks name the same directory, or none; where that is for rank 0, since ranks
/// may run in directories of their own.
fn same_directory(
    comm: &Comm,
    directory: Option<&Path>,
    call: Call,
) -> Result<Option<PathBuf>, Failure> {
    let mine = directory.map(Path::to_owned);
    let absolute = mine.as_ref().and_then(|path| std::path::absolute(path).ok());
    let all = comm.allgather_obj(&(mine.clone(), absolute))?;
    let tell = |directory: &Option<PathBuf>| match directory {
        Some(directory) => format!("checkpoints in {}", directory.display()),
        None => "no checkpoints".to_owned(),
    };
    if let Some(rank) = all.iter().position(|(theirs, _)| *theirs != mine) {
        let (mine, theirs) = (tell(&mine), tell(&all[rank].0));
        let kind = ErrorKind::CollectiveMismatch { mine, rank, theirs };
        return Err(Error::new(kind, comm.rank(), call).into());
    }
    let (named, absolute) = all.into_iter().next().unwrap_or_default();
    Ok(if comm.rank() == 0 { named } else { absolute.or(named) })
}

/// What the system says of a part is told with what the whole checkpoint needs.
fn for_all_hosts(error: FileError, directory: &Path, needed: u64) -> FileError {
    let FileError::System { path, verb, source } = error else { return error };
    match source.kind() {
        std::io::ErrorKind::NotFound => FileError::NotShared {
            path,
            directory: directory.to_owned(),
            reason: source.to_string(),
            instead: "",
        },
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => FileError::NoRoom {
            path: directory.to_owned(),
            needed,
            free: 0,
            limit: "free on its file system by now",
        },
        _ => FileError::System { path, verb, source },
    }
}

/// Makes sure that all ranks keep the same; how many bytes they have together.
fn same_on_all(comm: &Comm, items: &[Described], bytes: u64, call: Call) -> Result<u64, Failure> {
    let digest = |item: &Described| (item.name.clone(), fnv1a(format!("{:?}", item.what).bytes()));
    let mine: Vec<(String, u64)> = items.iter().map(digest).collect();
    let all = comm.allgather_obj(&(bytes, mine))?;
    let mine = &all[comm.rank()].1;
    if let Some((rank, (_, theirs))) =
        all.iter().enumerate().find(|(_, (_, theirs))| theirs != mine)
    {
        let at = mine.iter().zip(theirs).position(|(mine, theirs)| mine != theirs);
        let tell = |items: &[(String, u64)]| {
            let at = at.unwrap_or(mine.len().min(theirs.len()));
            items.get(at).map_or("nothing more".to_owned(), |(name, value)| {
                format!("{name:?} ({value:016x})")
            })
        };
        let kind = ErrorKind::CollectiveMismatch { mine: tell(mine), rank, theirs: tell(theirs) };
        return Err(Error::new(kind, comm.rank(), call).into());
    }
    Ok(all.iter().fold(0, |sum: u64, (bytes, _)| sum.saturating_add(*bytes)))
}

/// Restores the state from a checkpoint; the reason, the same on all ranks, if it is not whole.
fn load(
    comm: &Comm,
    path: &Path,
    state: &mut State<'_>,
    at: &'static Location<'static>,
) -> Result<Result<(), String>, Failure> {
    let read = || Index::read(&path.join(folder::INDEX)).map_err(|error| error.to_string());
    let index: Index = match comm.bcast_obj(0, read)? {
        Ok(index) => index,
        Err(why) => return Ok(Err(why)),
    };
    if index.parts.is_empty() {
        return Ok(Err(format!("{}: damaged: it has no parts", path.display())));
    }
    let checked = state.check(comm, &index.items).map_err(|why| {
        Failure::new(format!(
            "{}: the state of another program: {why}\n  help: start it with the options that it was begun with, or name \
             another directory",
            path.display()
        ))
    });
    comm.agree_on_outcome(call("resume", at), checked)?;

    let open = |number: usize| {
        PartReader::open(path.join(part_name(number)), index.id, number, index.parts[number])
    };
    load_parts(comm, &path.display().to_string(), &index, state, at, open)
}

/// The parts that a rank reads: whole ones, those of neighbours on one rank.
fn share(parts: usize, ranks: usize, rank: usize) -> Range<usize> {
    rank * parts / ranks..(rank + 1) * parts / ranks
}

/// Restores the state from the parts of what reports call `name`: each rank `open`s its [`share`] of
/// them, one at a time. The reason, the same on all ranks, if they are not whole.
fn load_parts<'p>(
    comm: &Comm,
    name: &str,
    index: &Index,
    state: &mut State<'_>,
    at: &'static Location<'static>,
    open: impl Fn(usize) -> Result<PartReader<'p>, FileError>,
) -> Result<Result<(), String>, Failure> {
    let (parts, ranks) = (index.parts.len(), comm.size());
    let rounds = (0..ranks).map(|rank| share(parts, ranks, rank).len()).max().unwrap_or(0);
    for round in 0..rounds {
        let numbers: Vec<Option<usize>> =
            (0..ranks).map(|rank| share(parts, ranks, rank).nth(round)).collect();
        let round = Round { comm, parts: &numbers };
        let mine = numbers[comm.rank()].map(&open);
        let mut part = match round.agree(mine.transpose())? {
            Ok(part) => part,
            Err(why) => return Ok(Err(why)),
        };
        if let Err(why) = state.load(&index.items, &round, part.as_mut())? {
            return Ok(Err(why));
        }
        let ended = part.map_or(Ok(()), PartReader::finish);
        if let Err(why) = round.agree(ended)? {
            return Ok(Err(why));
        }
    }
    let settled = state.settle(&index.items, parts == ranks);
    let settled = settled.map_err(|why| Failure::new(format!("{name}: {why}")));
    comm.agree_on_outcome(call("resume", at), settled)?;
    Ok(Ok(()))
}

#[cfg(test)]
mod tests;
