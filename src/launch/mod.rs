//! Layer 5: who started the program, on which engine it runs, and how it ends.
//!
//! [`run`] is the only entry: it decides the engine, gives every rank its CPUs and threads, and sees to it that an error
//! or panic on any rank ends the whole job with its first cause.

mod ending;
mod identity;
mod idle;
mod launcher;
mod logging;
mod on_failure;
pub(crate) mod places;
#[cfg(feature = "mpi")]
mod processes;
mod progress;
mod record;
#[cfg(feature = "mpi")]
mod repairs;
mod resilient;
mod sampler;
mod threads;
mod time;
mod tracing;
#[cfg(feature = "mpi")]
mod watchdog;

use std::{
    any::Any,
    collections::HashMap,
    io::Write,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use clap::builder::BoolishValueParser;

pub(crate) use self::launcher::{Launcher, batch_job};
use self::{
    identity::{Identity, Voice, Words, discard},
    record::{Outcome, Recording},
    threads::{Layout, Terms},
    tracing::Tracing,
};
pub use self::{
    logging::{Color, RankSet},
    progress::Progress,
    record::{Failed, RankRecord, Record},
};
use crate::{
    checks::Checks,
    comm::{Comm, Stats},
    engine::Leftover,
    error::{Call, Error, ErrorKind, Failure, Result, STOPPED, With},
    placement,
    recover::{Epochs, Resize},
    settings::{given, seconds},
    stop,
};

/// How long a launcher may take to forward what a rank has printed: it drops the rest when it ends
/// the job.
#[cfg(feature = "mpi")]
const FORWARDING: Duration = Duration::from_millis(50);

/// How long other processes hold back while rank 0 says what all have in common: a launcher ends
/// the job as soon as one has failed.
const HOLD_BACK: Duration = Duration::from_millis(300);

/// How long the other ranks have to end by themselves after the first has failed.
const GRACE: Duration = Duration::from_secs(1);

/// Who looks on, as all ranks have agreed.
#[derive(Clone, Copy)]
struct Asked {
    stats: bool,
    trace: bool,
    record: bool,
}

/// What moves the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[non_exhaustive]
pub enum EngineKind {
    /// Ranks are threads of this process.
    Local,
    /// Ranks are processes that an MPI launcher has started.
    Mpi,
}

/// How to run: flatten it into your own [`clap`] arguments, or let [`run`] read the `SPMD_*`
/// variables.
///
/// ```no_run
/// use clap::Parser;
///
/// /// A program with a command line of its own.
/// #[derive(Parser)]
/// struct Args {
///     /// The number of steps
///     #[arg(long, default_value_t = 100)]
///     steps: usize,
///     #[command(flatten)]
///     run: spmd::RunArgs,
/// }
///
/// fn main() -> std::process::ExitCode {
///     let args: Args = spmd::parse();
///     args.run.run(|world| {
///         println!("rank {} makes {} steps", world.rank(), args.steps);
///         Ok(())
///     })
/// }
/// ```
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "How to run")]
pub struct RunArgs {
    /// What moves the messages [default: mpi if an MPI launcher started the program, else local]
    #[arg(long, value_enum, env = given("SPMD_ENGINE"), hide_env = true)]
    pub engine: Option<EngineKind>,
    /// Number of ranks on the engine local [default: one per CPU]
    #[arg(short = 'n', long, value_name = "RANKS", env = given("SPMD_RANKS"), hide_env = true)]
    pub ranks: Option<NonZeroUsize>,
    /// Rayon threads per rank [default: the rank's even share of the CPUs]; with 1 MPI is told that
    /// no other thread runs, which makes messages faster on Open MPI 4: a program that starts
    /// threads itself asks for 2
    #[arg(long, env = given("SPMD_THREADS"), hide_env = true)]
    pub threads: Option<NonZeroUsize>,
    /// Keep all ranks of a host on one CPU: the concurrent form
    #[arg(long, env = given("SPMD_SHARE_CPU"), hide_env = true, value_parser = BoolishValueParser::new())]
    pub share_cpu: bool,
    /// End the job (exit code 4) when a call waits longer, and say what every rank does; on the
    /// engine local also when nothing moves for so long; MPI itself has 10 s at least to start and
    /// to end. 0 is no limit. The engine local finds deadlock among calls by itself
    #[arg(long, value_name = "SECONDS", env = given("SPMD_TIMEOUT"), hide_env = true, value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// How long the job may take: a program that keeps checkpoints stops in time, to be continued
    /// (exit code 5). In a SLURM job the time of the allocation is known
    #[arg(long, value_name = "SECONDS", env = given("SPMD_WALLTIME"), hide_env = true, value_parser = seconds)]
    pub walltime: Option<Duration>,
    /// A program that keeps checkpoints stops when somebody makes this file, as at SIGTERM, SIGINT
    /// and SIGUSR1
    #[arg(long, value_name = "FILE", env = given("SPMD_STOP_FILE"), hide_env = true)]
    pub stop_file: Option<PathBuf>,
    /// At the end, say what the ranks' calls have cost: messages, bytes and time by operation and
    /// by peer
    #[arg(long, env = given("SPMD_STATS"), hide_env = true, value_parser = BoolishValueParser::new())]
    pub stats: bool,
    /// Write what every rank did, when and for whom it waited: Chrome's trace events, for `spmd
    /// view FILE` and for ui.perfetto.dev
    #[arg(long, value_name = "FILE", env = given("SPMD_TRACE"), hide_env = true)]
    pub trace: Option<PathBuf>,
    /// Memory and disk for the trace of each rank, which keeps the last that has room: 16000 calls
    /// or so in a MiB
    #[arg(
        long,
        value_name = "MIB",
        default_value = "8",
        env = given("SPMD_TRACE_BUFFER"),
        hide_env = true,
        hide_default_value = true,
        value_parser = clap::value_parser!(u32).range(1..=4096)
    )]
    pub trace_buffer: u32,
    /// At the end, write what the run has cost each rank and how it ended into this file, as JSON;
    /// calls are timed for it. A job that leaves none did not come to its end
    #[arg(long, value_name = "FILE", env = given("SPMD_RECORD"), hide_env = true)]
    pub record: Option<PathBuf>,
    /// What the engine mpi checks between ranks; local checks everything [default: local, in debug
    /// builds full]
    #[arg(long, value_enum, value_name = "LEVEL", env = given("SPMD_CHECKS"), hide_env = true)]
    pub checks: Option<Checks>,
    /// Ask MPI to serve all threads of a rank at once, for `Comm::shared`; messages are slower then
    #[arg(long, env = given("SPMD_THREAD_MULTIPLE"), hide_env = true, value_parser = BoolishValueParser::new())]
    pub thread_multiple: bool,
    /// When to colour
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value = "auto",
        env = given("SPMD_COLOR"),
        hide_env = true
    )]
    pub color: Color,
    /// Ranks that write a log: `all`, or a list like `0,2-5`
    #[arg(long, default_value = "all", env = given("SPMD_LOG_RANKS"), hide_env = true)]
    pub log_ranks: RankSet,
    /// Write the logs into files of this directory, one per rank
    #[arg(long, value_name = "DIR", env = given("SPMD_LOG_DIR"), hide_env = true)]
    pub log_dir: Option<PathBuf>,
}

/// The time limit of jobs that are started without options.
fn limit_given() -> Option<Duration> {
    let text = std::env::var(given("SPMD_TIMEOUT")?).ok()?;
    limit(seconds(&text).ok())
}

/// 0 is no limit; nor is what no job will see the end of.
fn limit(timeout: Option<Duration>) -> Option<Duration> {
    timeout.filter(|limit| !limit.is_zero() && limit.as_secs() < u64::from(u32::MAX))
}

/// The `SPMD_*` variables alone, for programs without a command line of their own.
#[derive(clap::Parser)]
#[command(no_binary_name = true)]
struct Variables {
    #[command(flatten)]
    run: RunArgs,
}

/// Runs `app` on every rank and returns the exit code of the job.
///
/// The engine is `SPMD_ENGINE` if set; else `mpi` if an MPI launcher started the program; else
/// `local`, with `SPMD_RANKS` ranks or one per CPU. The other `SPMD_*` variables are those of
/// [`RunArgs`].
///
/// An error or panic on one rank ends the whole job: its cause is printed once, with rank, host and
/// place in the source. Exit codes: 0 ok, 1 failure, 2 usage, 3 verification failed, 4 deadlock or
/// lost rank, 5 stopped, to be continued.
///
/// ```no_run
/// use spmd::prelude::*;
///
/// fn main() -> std::process::ExitCode {
///     spmd::run(|world: &Comm| {
///         let sum = world.allreduce(&[world.rank()], Sum)?[0];
///         if world.rank() == 0 {
///             println!("{} ranks, sum {sum}", world.size());
///         }
///         Ok(())
///     })
/// }
/// ```
///
/// One process runs one job: a second call ends the process with an error. [`local`] can be called
/// any number of times.
#[track_caller]
pub fn run(app: impl Fn(&Comm) -> Result<(), Failure> + Send + Sync) -> ExitCode {
    from_variables().run(app)
}

fn from_variables() -> RunArgs {
    let nothing: [&str; 0] = [];
    let variables = <Variables as clap::Parser>::try_parse_from(nothing);
    variables.unwrap_or_else(|error| refuse(&error)).run
}

/// Parses the program's command line; where an MPI launcher started several copies, only one of
/// them speaks.
///
/// Ends the process after `--help`, `--version` (exit code 0) and usage errors (2).
pub fn parse<A: clap::Parser>() -> A {
    A::try_parse().unwrap_or_else(|error| refuse(&error))
}

fn refuse(error: &clap::Error) -> ! {
    let launcher = Launcher::detect();
    let first = launcher.as_ref().is_none_or(|launcher| launcher.rank == 0);
    if error.exit_code() != 0 && launcher.is_some() {
        let text = error.to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
        std::process::exit(refused(launcher.as_ref(), text).into());
    }
    if first {
        // Where standard output is closed there is nobody to tell.
        let _ = error.print();
    }
    std::process::exit(error.exit_code())
}

/// The exit code of a process that was started wrongly.
const USAGE: u8 = 2;

/// The exit code of a job that waits for ever.
const HANGS: u8 = 4;

/// Says why this process cannot run, once for all processes of the job that have the same reason.
fn refused(launcher: Option<&Launcher>, what: &str) -> u8 {
    match launcher {
        Some(launcher) if launcher.has_others() && cfg!(feature = "mpi") => {
            processes::refuse(launcher, what)
        }
        Some(launcher) if launcher.rank > 0 => {
            // What all have in common rank 0 says; a launcher ends the others as soon as it has
            // failed.
            std::thread::sleep(HOLD_BACK);
            print_line(&format!("error: {}: {what}", launcher.who()));
            USAGE
        }
        _ => {
            print_line(&format!("error: {what}"));
            USAGE
        }
    }
}

/// Runs `app` on `ranks` ranks that are threads of this process, for unit tests: returns every
/// rank's value, or the first cause of failure. Ranks that compute are waited for; but where
/// `SPMD_TIMEOUT` is set, ranks that have not ended so long after the job has failed are ended with
/// the process (exit code 4).
///
/// # Errors
/// What failed first. [`ErrorKind::Application`] if it was the program's own error or panic.
///
/// # Examples
/// ```
/// let squares = spmd::local(4, |world| Ok(world.rank() * world.rank()));
/// assert_eq!(squares.unwrap(), [0, 1, 4, 9]);
///
/// let error = spmd::local(2, |world| {
///     let got = world.recv::<u8>(1 - world.rank())?; // both wait, nobody sends
///     Ok(got)
/// });
/// assert!(matches!(error.unwrap_err().kind(), spmd::ErrorKind::Deadlock { .. }));
/// ```
#[track_caller]
pub fn local<R: Send>(
    ranks: usize,
    app: impl Fn(&Comm) -> Result<R, Failure> + Send + Sync,
) -> Result<Vec<R>> {
    let call = Call::new("local", With::ALL);
    if !(1..=threads::MOST_RANKS).contains(&ranks) {
        let what =
            format!("a job has 1 to {} ranks that are threads, not {ranks}", threads::MOST_RANKS);
        return Err(Error::new(ErrorKind::InvalidArgument { what }, 0, call));
    }
    let limit = limit_given();
    let layout = Layout::new(Some(ranks), None, false);
    let terms = Terms::new(layout, Voice::Hook, limit);
    let (first, values) = threads::run(terms, app, |causes| {
        let first = causes.recv().ok()?;
        while let Some(limit) = limit {
            match causes.recv_timeout(limit.max(GRACE)) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    first.print();
                    ending::exit(HANGS);
                }
            }
        }
        Some(first)
    });
    match first {
        Some(cause) => Err(cause.into_error(call)),
        None => Ok(values),
    }
}

impl RunArgs {
    /// Runs `app` on every rank and returns the exit code of the job, like [`run`].
    #[track_caller]
    pub fn run(&self, app: impl Fn(&Comm) -> Result<(), Failure> + Send + Sync) -> ExitCode {
        self.run_on(app, None, Self::run_threads)
    }

    /// As [`Self::run`]; where ranks are threads, `threads` runs them. `epochs` if the program survives
    /// losses.
    #[track_caller]
    fn run_on<A: Fn(&Comm) -> Result<(), Failure> + Send + Sync>(
        &self,
        app: A,
        epochs: Option<&Epochs<'_>>,
        threads: impl FnOnce(&Self, &dyn Program, &Recording) -> ExitCode,
    ) -> ExitCode {
        ending::refuse_second_job();
        let recording = Recording::new(self.record.as_deref());
        let app = |world: &Comm, asked: Asked| {
            let tracing = asked.trace.then(|| Tracing::begin(world, self)).transpose()?;
            let part = asked.record.then(|| recording.begin(world)).transpose()?;
            world.record_stats(asked.stats || asked.record);
            app(world)?;
            drop(part);
            let stats = asked.stats.then(|| world.stats());
            world.record_stats(false); // what follows is none of the program's
            tracing.map_or(Ok(()), |tracing| tracing.end(world))?;
            stats.map_or(Ok(()), |stats| report_stats(world, &stats))
        };
        stop::limit(self.walltime, self.stop_file.as_deref());
        let launcher = Launcher::detect();
        let launched = launcher.is_some();
        let started =
            logging::start(self.color, self.log_ranks.clone(), self.log_dir.clone(), launched)
                .and_then(|()| choose(self.engine, launcher.as_ref(), cfg!(feature = "mpi")));
        match started {
            Ok(EngineKind::Local)
                if self.ranks.is_some_and(|ranks| ranks.get() > threads::MOST_RANKS) =>
            {
                let most = threads::MOST_RANKS;
                print_line(&format!(
                    "error: -n: at most {most} ranks can be threads\n  help: more are processes, by mpirun"
                ));
                ExitCode::from(USAGE)
            }
            Ok(EngineKind::Local) => match self.stand_apart(launcher.as_ref()) {
                Ok(()) => {
                    let _job = ending::watch(EngineKind::Local);
                    let (trace, record) = (self.trace.is_some(), self.record.is_some());
                    let asked = Asked { stats: self.stats, trace, record };
                    sampler::enlist(asked.trace);
                    threads(self, &|world: &Comm| app(world, asked), &recording)
                }
                Err(code) => ExitCode::from(code),
            },
            Ok(EngineKind::Mpi) => processes::run(self, launcher, app, &recording, epochs),
            Err(what) => ExitCode::from(refused(launcher.as_ref(), &what)),
        }
    }

    /// Where a launcher has started several processes, each of which runs a job of its own, all
    /// have to have been told so: one that was not would wait for the others for ever.
    ///
    /// # Errors
    /// The exit code, if they have been told different things.
    fn stand_apart(&self, launcher: Option<&Launcher>) -> Result<(), u8> {
        match launcher {
            Some(launcher) if launcher.has_others() && cfg!(feature = "mpi") => {
                processes::stand_apart(self, launcher)
            }
            _ => Ok(()),
        }
    }

    /// How long a call may wait.
    #[cfg(feature = "mpi")]
    fn limit(&self) -> Option<Duration> {
        limit(self.timeout)
    }

    /// How ranks that are threads are laid out, so many if that is known.
    fn layout(&self, ranks: Option<usize>) -> Layout {
        Layout::new(ranks, self.threads.map(NonZeroUsize::get), self.share_cpu)
    }

    fn run_threads(&self, app: &dyn Program, recording: &Recording) -> ExitCode {
        if let Err(what) = recording.prepare() {
            print_line(&format!("error: {what}"));
            return ExitCode::from(USAGE);
        }
        let layout = self.layout(self.ranks.map(NonZeroUsize::get));
        let terms = Terms::new(layout, Voice::Launch(Duration::ZERO), limit(self.timeout));
        let (outcome, _) = threads::run(terms, app, |causes: Receiver<Cause>| {
            let Ok(cause) = causes.recv() else { return Outcome::success() };
            cause.print();
            let outcome = Outcome::of(&cause);
            // Waiting ranks end at once; one that computes cannot be stopped but with the process.
            if !all_have_left(&causes, Some(GRACE), |_| {}) {
                ending::exit(recording.finish(&outcome));
            }
            outcome
        });
        ExitCode::from(recording.finish(&outcome))
    }
}

/// What ranks run.
trait Program: Fn(&Comm) -> Result<(), Failure> + Send + Sync {}

impl<A: Fn(&Comm) -> Result<(), Failure> + Send + Sync> Program for A {}

/// Whether all ranks leave the job within this time, if it is limited; `hear` is told why they fail
/// meanwhile.
fn all_have_left(
    causes: &Receiver<Cause>,
    within: Option<Duration>,
    mut hear: impl FnMut(Cause),
) -> bool {
    let Some(deadline) = within.and_then(|within| Instant::now().checked_add(within)) else {
        causes.iter().for_each(hear);
        return true;
    };
    loop {
        match causes.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(cause) => hear(cause),
            Err(RecvTimeoutError::Disconnected) => return true,
            Err(RecvTimeoutError::Timeout) => return false,
        }
    }
}

#[cfg(not(feature = "mpi"))]
mod processes {
    use super::{Asked, Comm, Epochs, ExitCode, Failure, Launcher, Recording, RunArgs};

    pub(super) fn end(code: u8) -> ! {
        std::process::exit(code.into())
    }

    pub(super) fn run(
        _args: &RunArgs,
        _launcher: Option<Launcher>,
        _app: impl Fn(&Comm, Asked) -> Result<(), Failure>,
        _recording: &Recording,
        _epochs: Option<&Epochs<'_>>,
    ) -> ExitCode {
        unreachable!("`choose` refuses mpi where it is not built in")
    }

    pub(super) fn stand_apart(_args: &RunArgs, _launcher: &Launcher) -> Result<(), u8> {
        unreachable!("asked only where mpi is built in")
    }

    pub(super) fn refuse(_launcher: &Launcher, _what: &str) -> u8 {
        unreachable!("asked only where mpi is built in")
    }
}

/// The engine to run on, or why the program cannot run as it was started.
fn choose(
    wish: Option<EngineKind>,
    launcher: Option<&Launcher>,
    mpi_built_in: bool,
) -> Result<EngineKind, String> {
    const REBUILD: &str = "rebuild it with `--features mpi`";
    match (wish, launcher) {
        (Some(EngineKind::Local), _) | (None, None) => Ok(EngineKind::Local),
        (Some(EngineKind::Mpi), _) | (None, Some(_)) if mpi_built_in => Ok(EngineKind::Mpi),
        (Some(EngineKind::Mpi), _) => {
            Err(format!("this program was built without the engine mpi\n  help: {REBUILD}"))
        }
        (None, Some(launcher)) => Err(format!(
            "{} started this program{}, but it was built without the engine mpi\n  help: {REBUILD}, or start it \
             without a launcher to run its ranks as threads",
            launcher.name,
            launcher.size.map_or(String::new(), |size| format!(" {size} times")),
        )),
    }
}

/// Rank 0 says what all ranks' calls have cost.
fn report_stats(world: &Comm, mine: &Stats) -> Result<(), Failure> {
    let Some(stats) = world.gather_obj(0, mine)? else { return Ok(()) };
    let mut total = Stats::default();
    for stats in &stats {
        total.add(stats);
    }
    print_line(&format!("the calls of all {} ranks:\n{total}", world.size()));
    Ok(())
}

/// Why the job ends.
struct Cause {
    rank: usize,
    code: u8,
    text: String,
    /// Whether it tells of the whole job.
    common: bool,
    /// Whether it has been said.
    told: bool,
    /// Whether the rank is lost, other than by what its program has returned.
    lost: bool,
    /// Whether the program goes on with so many ranks.
    resizes: Option<usize>,
    /// The communicator's own error, if it was one.
    error: Option<Error>,
}

impl Cause {
    fn new(rank: usize, text: String) -> Self {
        let (common, told, lost) = (false, false, false);
        Self { rank, code: 1, text, common, told, lost, resizes: None, error: None }
    }

    /// As an error of the call that ran the job.
    fn into_error(self, call: Call) -> Error {
        self.error.unwrap_or_else(|| {
            Error::new(ErrorKind::Application { message: self.text }, self.rank, call)
        })
    }

    /// The failure that a rank has returned, as far as it can be told.
    fn of(me: &Identity, failure: Failure) -> Self {
        let (rank, code) = (me.rank(), failure.exit_code());
        let told = catch_unwind(AssertUnwindSafe(|| {
            // No error: it needs no place in the source.
            let text = if code == STOPPED { failure.to_string() } else { failure.describe() };
            let resizes = failure.find().map(|&Resize { ranks }| ranks);
            (text, failure.own_error().cloned(), resizes)
        }));
        discard(failure);
        match told {
            Ok((text, error, resizes)) => Self { code, resizes, error, ..Self::new(rank, text) },
            Err(payload) => {
                let words = me.words(payload).text;
                Self::new(rank, format!("returned an error that cannot be displayed: it {words}"))
            }
        }
    }

    /// The panic that was caught on a rank.
    fn panic(me: &Identity, payload: Box<dyn Any + Send>) -> Self {
        let Words { text, told } = me.words(payload);
        Self { told, ..Self::new(me.rank(), text) }
    }

    /// Says on standard error who failed, where and why.
    fn print(&self) {
        let (rank, text) = (self.rank, &self.text);
        match (self.told, self.common) {
            (true, _) => {}
            _ if self.code == STOPPED => print_line(text),
            (_, true) => print_line(&format!("error: {text}")),
            _ => {
                let host = placement::host();
                print_line(&format!("error: rank {rank} on {host}: {text}"));
            }
        }
    }
}

/// One write, so that no other process's output gets in between.
fn print_line(text: &str) {
    // Where standard error is closed there is nobody to tell.
    let _ = std::io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

/// Says what the program has left undone; the same thing once, and how many times.
fn warn(leftovers: &[Leftover]) {
    let mut times = HashMap::new();
    for Leftover { what } in leftovers {
        *times.entry(what).or_insert(0) += 1;
    }
    for Leftover { what } in leftovers {
        match times.remove(what) {
            None => {}
            Some(1) => log::warn!("{what}"),
            Some(times) => log::warn!("{what}, {times} times"),
        }
    }
}

/// The rayon pool of a rank, of which the calling thread is the first. Panics of tasks that nobody
/// waits for are `lost`.
fn pool(
    me: &Arc<Identity>,
    threads: usize,
    lost: impl Fn(Cause) + Send + Sync + 'static,
) -> rayon::ThreadPoolBuilder {
    let (me, them) = (Arc::clone(me), Arc::clone(me));
    let rank = me.rank();
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .use_current_thread()
        .thread_name(move |thread| format!("rank {rank} thread {thread}"))
        .stack_size(placement::stack_bytes())
        .start_handler(move |thread| {
            sampler::enroll(rank, thread);
            Arc::clone(&me).assume();
        })
        .panic_handler(move |payload| lost(Cause::panic(&them, payload)))
}

/// What helps where no thread can be started.
const LIMITED: &str = "\n  help: raise the limit on threads (ulimit -u, or that of the container or batch job), or start with \
                       fewer --threads";

/// Why the pool of a rank cannot be made.
fn no_threads(threads: usize, error: &dyn std::error::Error) -> String {
    format!("cannot start the {threads} threads of its rayon pool: {error}{LIMITED}")
}

/// Runs what the rank has given to `rayon::spawn` and nobody has begun: where it has one thread,
/// nobody could.
fn run_tasks() {
    while rayon::yield_now() == Some(rayon::Yield::Executed) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launcher() -> Launcher {
        Launcher { name: "mpirun", rank: 0, size: Some(8), binding_option: "" }
    }

    #[test]
    fn the_launcher_decides_unless_the_user_does() {
        let launched = Some(launcher());
        let launched = launched.as_ref();
        assert_eq!(choose(None, None, true), Ok(EngineKind::Local));
        assert_eq!(choose(None, launched, true), Ok(EngineKind::Mpi));
        assert_eq!(choose(Some(EngineKind::Local), launched, true), Ok(EngineKind::Local));
        assert_eq!(choose(Some(EngineKind::Mpi), None, true), Ok(EngineKind::Mpi));
    }

    #[test]
    fn a_launched_program_without_mpi_never_runs_alone() {
        let message = choose(None, Some(&launcher()), false).unwrap_err();
        assert!(message.contains("8 times") && message.contains("--features mpi"), "{message}");
        assert!(choose(Some(EngineKind::Mpi), None, false).is_err());
    }
}
