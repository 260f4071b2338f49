//! Ranks as processes that an MPI launcher has started.

use std::{
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    rc::Rc,
    sync::Arc,
    thread,
    time::Duration,
};

use super::{
    Cause, Launcher, RunArgs, identity, identity::Identity, places, pool, print_line, warn,
    watchdog,
};
use crate::{
    comm::Comm,
    engine::{
        Engine,
        mpi::{MpiEngine, Settings, Threads, World},
    },
    error::Failure,
    placement::{self, Place},
};

/// Runs `app` on this process's rank; returns when all ranks have ended well, and ends the whole job if one fails.
pub(super) fn run(
    args: &RunArgs,
    launcher: Option<Launcher>,
    app: impl Fn(&Comm) -> Result<(), Failure>,
) -> ExitCode {
    identity::note_panics();
    let settings = Settings {
        timeout: args.timeout,
        checks: args.checks.unwrap_or_default(),
        threads: threads(args),
    };
    let (engine, world) = match MpiEngine::start(settings) {
        Ok(started) => started,
        Err(error) => {
            print_line(&format!("error: MPI cannot start: {error}"));
            return ExitCode::from(2);
        }
    };
    let engine = Rc::new(engine);
    let me = Identity::new(world.rank, placement::host());
    Arc::clone(&me).assume();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        check_size(launcher.as_ref(), world, args).map_err(Failure::usage)?;
        let comm = Comm::world(Rc::<MpiEngine>::clone(&engine), world.rank, world.size);
        let places = settle(&comm, args, launcher.as_ref(), &me)?;
        if let (Some(watch), Some(limit)) = (engine.watch(), engine.timeout()) {
            let hosts: Vec<_> = places.iter().map(|place| place.host.clone()).collect();
            watchdog::start(&comm, &hosts, watch, limit, Arc::clone(&me))?;
        }
        engine.share_cpus(args.share_cpu || placement::is_crowded(&places));
        app(&comm)
    }));
    let cause = match outcome {
        Ok(Ok(())) => match engine.finish() {
            Ok(()) => {
                warn(&engine.leftovers());
                return ExitCode::SUCCESS;
            }
            Err(error) => Cause::new(world.rank, format!("the job cannot end: {error}")),
        },
        Ok(Err(failure)) => Cause::of(world.rank, &failure),
        Err(_) => Cause::new(world.rank, me.panic_message()),
    };
    // What all ranks find at once is said by the first of them: it ends the others before they speak.
    thread::sleep(Duration::from_millis(if cause.rank == 0 {
        0
    } else {
        200 + cause.rank.min(50) as u64 * 10
    }));
    cause.print();
    thread::sleep(super::FORWARDING);
    MpiEngine::abort(cause.code)
}

/// What MPI must be ready for. A rank has one thread where it is told so, or has one CPU; and without a watchdog.
fn threads(args: &RunArgs) -> Threads {
    let alone = match args.threads {
        Some(threads) => threads.get() == 1,
        None => args.share_cpu || placement::cpus().len() == 1,
    };
    match alone && args.timeout.is_none() {
        _ if args.thread_multiple => Threads::AllCall,
        true => Threads::One,
        false => Threads::OthersCompute,
    }
}

/// Several processes in worlds of their own are a mistake in the launch.
fn check_size(launcher: Option<&Launcher>, world: World, args: &RunArgs) -> Result<(), String> {
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
fn settle(
    comm: &Comm,
    args: &RunArgs,
    launcher: Option<&Launcher>,
    me: &Arc<Identity>,
) -> Result<Vec<Place>, Failure> {
    let places = places::gather(comm, 0)?; // the pools are made below
    let here = &places[comm.rank()];
    let neighbours = || places.iter().filter(|place| place.host == here.host);
    let fair = placement::fair_threads(&here.cpus, neighbours().map(|place| &*place.cpus));
    let mut threads = args.threads.map_or(fair, NonZeroUsize::get);
    if args.share_cpu {
        let first = neighbours().filter_map(|place| place.cpus.first()).min().copied();
        placement::pin(first.unwrap_or(0)).map_err(Failure::usage)?;
        threads = args.threads.map_or(1, NonZeroUsize::get);
    } else {
        warn_if_narrow(comm, &places, launcher);
    }
    if let Err(error) = pool(me, threads).build_global() {
        log::warn!("rayon was set up before spmd, rank {} keeps its threads: {error}", me.rank);
    }
    log::info!(
        "rank {} bound to cpus {}, threads {}",
        me.rank,
        placement::cpu_list(&placement::cpus()),
        rayon::current_num_threads()
    );
    Ok(places)
}

/// One warning for the job, from the first rank that the launcher gave fewer CPUs than its even share of the host's.
fn warn_if_narrow(comm: &Comm, places: &[Place], launcher: Option<&Launcher>) {
    let share = |place: &Place| {
        let ranks = places.iter().filter(|other| other.host == place.host).count();
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
