//! Ranks as processes that an MPI launcher has started.

use std::{
    error::Error,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    rc::Rc,
    sync::Arc,
    thread,
    time::Duration,
};

use super::{
    Asked, Cause, EngineKind, Launcher, RunArgs, ending, identity,
    identity::{Identity, Voice},
    no_threads, on_failure, places, pool, print_line,
    record::{Outcome, Recording},
    repairs, run_tasks, sampler, warn,
    watchdog::Watchdog,
};
use crate::{
    checks::Checks,
    comm::Comm,
    engine::{
        Engine,
        mpi::{Common, MpiEngine, Refused, Settings, Stage, Started, ThreadLevel, Watch, World},
    },
    error::{Failure, STOPPED},
    placement::{self, Place},
    process::leave,
    recover::Epochs,
};

/// Runs `app` on this process's rank; returns when all ranks have ended well, and ends the whole
/// job if one fails.
pub(super) fn run(
    args: &RunArgs,
    launcher: Option<Launcher>,
    app: impl Fn(&Comm, Asked) -> Result<(), Failure>,
    recording: &Recording,
    epochs: Option<&Epochs<'_>>,
) -> ExitCode {
    identity::note_panics();
    placement::widen_stack();
    let who = launcher.as_ref().map(Launcher::who);
    let early =
        args.limit().map(|limit| Watchdog::new(Arc::new(Watch::new()), limit, who.as_deref()));
    let survives = epochs.is_some() && MpiEngine::could_survive_losses();
    let settings = settings(args, early.as_ref(), survives);
    let (engine, world) = match start(&settings, who.as_deref()) {
        Ok(Started::Engine(engine, world)) => (engine, world),
        Ok(Started::Refused(refused)) => return ExitCode::from(report(refused)),
        Ok(Started::Apart) => return ExitCode::SUCCESS, // of a rank that was not told so: cannot be
        Err(code) => return ExitCode::from(code),
    };
    let engine: Rc<MpiEngine> = engine.into();
    if let Some(epochs) = epochs {
        if engine.survives_losses() {
            // Ranks come and go: each speaks for itself.
            let watched = || Some((engine.watch()?, engine.timeout()?));
            let _watchdog = early.or_else(|| {
                watched().map(|(watch, limit)| Watchdog::new(watch, limit, who.as_deref()))
            });
            return repairs::run(repairs::Job { args, launcher, recording, epochs }, engine, &app);
        }
        epochs.begin(world.size); // the only one of this process
    }
    // What all ranks find at once is said by the first of them: it ends the others before they
    // speak.
    let turn = Duration::from_millis(match world.rank {
        0 => 0,
        rank => 200 + rank.min(50) as u64 * 10,
    });
    let me = Identity::new(world.rank, placement::host(), Voice::Launch(turn));
    Arc::clone(&me).assume_process();
    let _job = ending::watch(EngineKind::Mpi);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        check_size(launcher.as_ref(), world, args).map_err(Failure::usage)?;
        let comm = Comm::world(Rc::<MpiEngine>::clone(&engine), world.rank, world.size);
        let common = engine.common();
        sampler::enlist(common.trace);
        let places = settle(&comm, args, common.share_cpu, launcher.as_ref(), &me)?;
        if let (Some(watch), Some(limit)) = (engine.watch(), engine.timeout()) {
            let watchdog =
                early.unwrap_or_else(|| Watchdog::new(Arc::clone(&watch), limit, who.as_deref()));
            watchdog.join(&comm, &places, limit, Arc::clone(&me))?;
            watch.begin(Stage::Program);
        }
        engine.share_cpus(common.share_cpu || placement::is_oversubscribed(&places));
        if world.rank == 0 {
            recording.prepare().map_err(Failure::usage)?;
        }
        let (stats, trace, record) = (common.stats, common.trace, common.record);
        app(&comm, Asked { stats, trace, record })?;
        run_tasks();
        if record {
            recording.gather(&comm)?;
        }
        Ok(())
    }));
    let cause = match outcome {
        Ok(Ok(())) => match catch_unwind(AssertUnwindSafe(|| engine.finish(None))) {
            Ok(Ok(())) => {
                warn(&engine.leftovers());
                epochs.inspect(|epochs| recording.note_epochs(epochs.report()));
                let first = world.rank == 0; // who has all parts
                let code = first.then(|| recording.finish(&Outcome::success()));
                return ExitCode::from(code.unwrap_or(0));
            }
            Ok(Err(error)) => Cause::new(world.rank, format!("the job cannot end: {error}")),
            Err(payload) => Cause::panic(&me, payload),
        },
        Ok(Err(failure)) => Cause::of(&me, failure),
        Err(payload) => Cause::panic(&me, payload),
    };
    epochs.inspect(|epochs| recording.note_epochs(epochs.report()));
    // All have agreed to stop, unless it is one that says so: then the job ends as at any failure.
    if cause.code == STOPPED
        && catch_unwind(AssertUnwindSafe(|| engine.finish(Some(STOPPING))))
            .is_ok_and(|end| end.is_ok())
    {
        if world.rank > 0 {
            return ExitCode::SUCCESS; // rank 0 speaks
        }
        cause.print();
        let code = recording.finish(&Outcome::of(&cause));
        thread::sleep(super::FORWARDING); // some launchers kill the others then
        return ExitCode::from(code);
    }
    if !cause.told {
        thread::sleep(turn);
    }
    recording.finish(&Outcome::of(&cause));
    on_failure::of_a_process(&cause)
}

/// How long the ranks of a job that stops may take to do so.
const STOPPING: Duration = Duration::from_secs(5);

/// Ends all processes of the job when what this one has said is out. From a thread that may not
/// call MPI it ends its own process, and the launcher the others.
pub(super) fn end(code: u8) -> ! {
    thread::sleep(super::FORWARDING);
    let may_call = identity::is_own_thread() || MpiEngine::job_survives_losses();
    if may_call { MpiEngine::abort(code) } else { leave(code) }
}

/// Makes sure that all processes of the launch were told to run jobs of their own.
///
/// # Errors
/// The exit code, if they were not.
pub(super) fn stand_apart(args: &RunArgs, launcher: &Launcher) -> Result<(), u8> {
    let who = Some(launcher.who());
    let early =
        args.limit().map(|limit| Watchdog::new(Arc::new(Watch::new()), limit, who.as_deref()));
    match start(&Settings { apart: true, ..settings(args, early.as_ref(), false) }, who.as_deref())?
    {
        Started::Refused(refused) => Err(report(refused)),
        Started::Apart | Started::Engine(..) => Ok(()),
    }
}

/// Tells the other processes of the launch why this one cannot run, so that the job ends with that,
/// said once.
pub(super) fn refuse(launcher: &Launcher, what: &str) -> u8 {
    let settings = Settings {
        timeout: None,
        checks: Checks::default(),
        threads: ThreadLevel::Funneled,
        survives: false,
        common: Common::default(),
        apart: false,
        trouble: Some((what.to_owned(), super::USAGE)),
        watch: None,
    };
    let who = launcher.who();
    match start(&settings, Some(&who)) {
        // Processes that MPI made no common world for would all say it.
        Ok(Started::Refused(refused)) if Some(refused.world.size) == launcher.size => {
            report(refused)
        }
        _ => {
            print_line(&format!("error: {who}: {what}"));
            super::USAGE
        }
    }
}

/// Says why the job cannot start, as one rank does, and ends MPI.
fn report(refused: Refused) -> u8 {
    let (first, code) = (refused.world.rank == 0, refused.refusal.code);
    if first {
        print_line(&format!("error: {}", refused.refusal.text));
    }
    drop(refused);
    if !first {
        // A launcher forwards all that the first process to fail has said, and perhaps no more of
        // the others.
        thread::sleep(super::HOLD_BACK);
    }
    code
}

/// Initialises MPI.
///
/// # Errors
/// The exit code; the cause has been printed.
fn start(settings: &Settings, who: Option<&str>) -> Result<Started, u8> {
    MpiEngine::start(settings).map_err(|error| {
        let who = who.map(|who| format!("{who}: ")).unwrap_or_default();
        print_line(&format!("error: {who}MPI cannot start: {error}"));
        super::USAGE
    })
}

/// What this rank brings to the start.
fn settings(args: &RunArgs, early: Option<&Watchdog>, survives: bool) -> Settings {
    Settings {
        timeout: args.limit(),
        checks: args.checks.unwrap_or_default(),
        threads: threads(args),
        survives,
        common: Common {
            share_cpu: args.share_cpu,
            stats: args.stats,
            trace: args.trace.is_some(),
            record: args.record.is_some(),
        },
        apart: false,
        trouble: None,
        watch: early.map(Watchdog::watch),
    }
}

/// What MPI must be ready for. A rank has one thread where it is told so, or has one CPU; and
/// without a watchdog.
fn threads(args: &RunArgs) -> ThreadLevel {
    let alone = match args.threads {
        Some(threads) => threads.get() == 1,
        None => args.share_cpu || placement::cpus().len() == 1,
    };
    match alone && args.limit().is_none() {
        _ if args.thread_multiple => ThreadLevel::Multiple,
        true => ThreadLevel::Single,
        false => ThreadLevel::Funneled,
    }
}

/// Several processes in worlds of their own are a mistake in the launch.
pub(super) fn check_size(
    launcher: Option<&Launcher>,
    world: World,
    args: &RunArgs,
) -> Result<(), String> {
    if let Some(Launcher { name, size: Some(size), .. }) = launcher
        && *size != world.size
    {
        return Err(format!(
            "{name} started {size} processes, but MPI made a world of {}\n  help: start the program with the mpirun of \
             the MPI it was built with; with srun, choose --mpi=pmix (Open MPI) or --mpi=pmi2 (MPICH)",
            world.size
        ));
    }
    match args.ranks {
        Some(ranks) if ranks.get() != world.size => Err(format!(
            "--ranks {ranks} on the engine mpi, whose launcher started {}\n  help: the launcher's own -n says how many",
            world.size
        )),
        _ => Ok(()),
    }
}

/// Gives the rank its CPUs and its rayon pool.
pub(super) fn settle(
    comm: &Comm,
    args: &RunArgs,
    share_cpu: bool,
    launcher: Option<&Launcher>,
    me: &Arc<Identity>,
) -> Result<Vec<Place>, Failure> {
    let places = places::gather(comm, 0)?; // the pools are made below
    let here = &places[comm.rank()];
    let neighbours = || places.iter().filter(|place| place.node == here.node);
    let fair = here.fair_threads(&neighbours().collect::<Vec<_>>());
    let mut threads = args.threads.map_or(fair, NonZeroUsize::get);
    if share_cpu {
        let first = neighbours().filter_map(|place| place.cpus.first()).min().copied();
        placement::pin(first.unwrap_or(0)).map_err(Failure::usage)?;
        threads = args.threads.map_or(1, NonZeroUsize::get);
    } else {
        warn_if_narrow(comm, &places, launcher);
    }
    sampler::enroll(me.rank(), 0);
    let lost = |cause: Cause| on_failure::of_a_panicked_process(&cause);
    if let Err(error) = pool(me, threads, lost).build_global() {
        // What the system refuses has a source; else rayon has its threads already.
        if error.source().is_some() {
            return Err(Failure::new(no_threads(threads, &error)));
        }
        log::warn!("rayon was set up before spmd, rank {} keeps its threads: {error}", me.rank());
    }
    log::info!(
        "rank {} bound to cpus {}, threads {}",
        me.rank(),
        placement::cpu_list(&placement::cpus()),
        rayon::current_num_threads()
    );
    Ok(places)
}

/// One warning for the job, from the first rank that the launcher gave fewer CPUs than its even
/// share of the host's.
fn warn_if_narrow(comm: &Comm, places: &[Place], launcher: Option<&Launcher>) {
    let share = |place: &Place| {
        let ranks = places.iter().filter(|other| other.node == place.node).count();
        place.even_share(ranks)
    };
    let narrow = |place: &&Place| place.cpus.len() < share(place);
    let me = &places[comm.rank()];
    if narrow(&me) && places.iter().position(|place| narrow(&place)) == Some(comm.rank()) {
        log::warn!(
            "{} of {} ranks may use fewer cpus than their share: this one {} of {}; the launcher's option for more is {}",
            places.iter().filter(narrow).count(),
            places.len(),
            me.cpus.len(),
            share(me),
            launcher.map_or("--bind-to none", |launcher| launcher.binding_option)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_of_another_size_is_refused() {
        let launcher = Launcher { name: "srun", rank: 0, size: Some(4), binding_option: "" };
        let args = super::super::from_variables();
        let alone = World { rank: 0, size: 1 };
        let message = check_size(Some(&launcher), alone, &args).unwrap_err();
        assert!(message.contains("--mpi=pmix"), "{message}");
        assert!(check_size(Some(&launcher), World { rank: 0, size: 4 }, &args).is_ok());
        assert!(check_size(None, alone, &args).is_ok());
    }
}
