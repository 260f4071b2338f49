//! Epochs of ranks that are processes, where the MPI library survives the loss of ranks: the
//! program goes on in the processes that are left.
//!
//! All processes of the job are the *pool*. Some of them are the ranks of an epoch, the others are
//! spare. When an epoch has ended, on all processes: each says whether its program has come to its
//! end. If all have, the job is done. Else the lost are left out of the pool; places of lost ranks
//! are given to spare processes, or to new ones, or the ranks are fewer; then the next epoch begins.
//!
//! ```text
//! form ──► agree: formed? ──► epoch: the program, or a rest ──► revoke ──► agree: done? ──► end
//!   ▲          │ no                                                           │ no
//!   └──────────┴──────────────────── leave the lost out ◄─────────────────────┘
//! ```
//!
//! What ranks decide they decide by an agreement, which is the same on all that are left whoever is
//! lost meanwhile. Nobody waits for ever: a thread ends the job where a repair takes longer than
//! `--repair-limit`, and a supervisor (`spmd run --restarts`) begins anew from the disk.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    Asked, Cause, EngineKind, HANGS, Launcher, RunArgs, ending,
    identity::{self, Identity, Voice},
    on_failure, places, print_line,
    processes::{self, check_size, settle},
    record::{Outcome, Recording},
    run_tasks, sampler, warn,
};
use crate::{
    comm::Comm,
    engine::{
        Engine,
        mpi::{MpiEngine, World},
    },
    error::{Call, Error, ErrorKind, Failure, Fault, With},
    placement, process,
    recover::{Epochs, History, Loss, NoNext, OnLoss},
    told,
};

/// Why a rank is lost.
const GONE: &str = "its process has ended";
/// Why an epoch has ended in which no rank was lost.
const BROKEN: &str = "ranks do not reach each other";

/// How often the thread that keeps the limit looks.
const LOOK: Duration = Duration::from_millis(50);

/// How long whoever ends the job may take for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is to run, and for whom.
pub(super) struct Job<'a> {
    pub(super) args: &'a RunArgs,
    pub(super) launcher: Option<Launcher>,
    pub(super) recording: &'a Recording,
    pub(super) epochs: &'a Epochs<'a>,
}

/// All processes of the job that are left.
struct Pool {
    engine: Rc<MpiEngine>,
    comm: Comm,
}

/// What a process says of itself before an epoch.
#[derive(Serialize, Deserialize)]
struct Standing {
    /// Its rank in the last epoch.
    rank: Option<usize>,
    /// How many epochs it knows of.
    epochs: usize,
}

/// How the job goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Next {
    /// By process of the pool: its rank. And how many there are.
    Ranks(Vec<Option<usize>>, usize),
    /// After so many processes have been started.
    Start(usize),
    Ends {
        code: u8,
        why: String,
    },
}

pub(super) fn run(
    job: Job<'_>,
    base: Rc<MpiEngine>,
    app: &impl Fn(&Comm, Asked) -> Result<(), Failure>,
) -> ExitCode {
    job.epochs.repair_in_place();
    let _job = ending::watch(EngineKind::Mpi);
    let deadline = Deadline::new(job.epochs.options.repair_limit);
    let me = Identity::new(0, placement::host(), Voice::Launch(Duration::ZERO));
    Arc::clone(&me).assume_process();
    let mut process = Process { job, me, rank: None, settled: false, starts: true, deadline };
    let pool = process.pool(&base);
    match pool.and_then(|pool| process.live(pool, app)) {
        Ok(()) => process.end(),
        Err(failure) => process.fail(&Cause::of(&process.me, failure)),
    }
}

struct Process<'a> {
    job: Job<'a>,
    me: Arc<Identity>,
    /// In the last epoch.
    rank: Option<usize>,
    /// Whether it has its CPUs and threads.
    settled: bool,
    /// Whether processes can be started.
    starts: bool,
    deadline: Deadline,
}

impl Process<'_> {
    /// The processes that the launcher has started; or, where this one was started to take a lost
    /// one's place, those that have started it, and it.
    fn pool(&self, base: &Rc<MpiEngine>) -> Result<Pool, Failure> {
        if let Some(engine) = base.with_those_before().map_err(of_engine)? {
            return Pool::new(engine.into())?.that_is_whole();
        }
        check_size(self.job.launcher.as_ref(), base.world().map_err(of_engine)?, self.job.args)
            .map_err(Failure::usage)?;
        Pool::new(Rc::clone(base))
    }

    /// Runs epochs until all ranks have come to the program's end.
    fn live(
        &mut self,
        mut pool: Pool,
        app: &impl Fn(&Comm, Asked) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        loop {
            let formed = match self.form(&pool) {
                Ok(Formed::Pool(grown)) => {
                    pool = grown;
                    continue;
                }
                Ok(Formed::Epoch(epoch)) => Some(epoch),
                Err(failure) if is_loss(&failure) || pool.engine.is_revoked() => None,
                Err(failure) => return Err(failure),
            };
            let agreed = pool.engine.all_agree(formed.is_some()).map_err(of_engine)?;
            let done = match formed.filter(|_| agreed) {
                Some(epoch) => self.run_epoch(&pool, epoch, app)?,
                None => false,
            };
            // Who is spare learns by this that the epoch is over.
            pool.engine.revoke();
            if pool.engine.all_agree(done).map_err(of_engine)? {
                return Ok(());
            }
            self.deadline.set();
            pool = pool.without_lost()?;
        }
    }

    /// The part of this process in an epoch; whether its program has come to its end, if it runs one.
    fn run_epoch(
        &mut self,
        pool: &Pool,
        Epoch { engine, rank, ranks, history }: Epoch,
        app: &impl Fn(&Comm, Asked) -> Result<(), Failure>,
    ) -> Result<bool, Failure> {
        let epochs = self.job.epochs;
        epochs.adopt(history);
        epochs.move_to(self.rank, rank);
        epochs.begin(ranks);
        self.rank = rank;
        self.deadline.lift();
        let done = match engine {
            Some(engine) => self.run_rank(pool, engine.into(), app)?,
            None => pool.engine.await_revoked().map(|()| true).map_err(of_engine)?,
        };
        self.deadline.set();
        if !done {
            epochs.note_loss();
        }
        epochs.end();
        Ok(done)
    }

    /// Decides who is which rank, the same on all processes, and makes the world of the epoch.
    fn form(&mut self, pool: &Pool) -> Result<Formed, Failure> {
        let epochs = self.job.epochs;
        let mine = Standing { rank: self.rank, epochs: epochs.history().len() };
        let all = pool.comm.allgather_obj(&mine)?;
        let most = all.iter().map(|one| one.epochs).max().unwrap_or(0);
        // Who has been a rank of the last epoch knows what happened in it.
        let knows = |one: &Standing| one.epochs == most && (most == 0 || one.rank.is_some());
        let teller = all.iter().position(knows).unwrap_or(0);
        let told = (pool.comm.rank() == teller).then(|| self.decide(&all, most));
        let (next, history) = pool.comm.bcast_obj(teller, || match told {
            Some(told) => (told, epochs.history()),
            None => (Next::Start(0), epochs.history()), // of another one than the teller
        })?;
        match next {
            Next::Ranks(ranks, count) => {
                let rank = ranks.get(pool.comm.rank()).copied().flatten();
                let engine = pool.engine.part(rank).map_err(of_engine)?;
                Ok(Formed::Epoch(Epoch { engine, rank, ranks: count, history }))
            }
            Next::Start(count) => match pool.engine.with_newcomers(count) {
                Ok(engine) => Pool::new(engine.into())?.that_is_whole().map(Formed::Pool),
                Err(fault) => {
                    self.starts = false;
                    if pool.comm.rank() == teller {
                        let why = of_engine(fault);
                        log::warn!("no process can be started in the place of a lost one: {why}");
                    }
                    Err(lost("a process could not be started").into())
                }
            },
            Next::Ends { code, why } => {
                let cause = Cause { code, common: true, ..Cause::new(self.me.rank(), why) };
                if pool.comm.rank() != teller {
                    thread::sleep(PATIENCE); // the other one speaks
                }
                self.fail(&cause)
            }
        }
    }

    /// Decides how the job goes on, and says what happened.
    fn decide(&self, all: &[Standing], known: usize) -> Next {
        let (epochs, options) = (self.job.epochs, self.job.epochs.options);
        let spare = options.spare_ranks;
        let Some(before) = epochs.history().ranks().filter(|_| known > 0) else {
            let ranks = all.len().saturating_sub(spare);
            let why =
                format!("--spare-ranks {spare}: the launcher has started {} ranks", all.len());
            return match ranks {
                0 => Next::Ends { code: super::USAGE, why },
                _ => Next::Ranks(
                    (0..all.len()).map(|at| (at < ranks).then_some(at)).collect(),
                    ranks,
                ),
            };
        };
        let there: BTreeSet<usize> = all.iter().filter_map(|one| one.rank).collect();
        let lost: Vec<usize> = (0..before).filter(|rank| !there.contains(rank)).collect();
        let losses = lost.iter().map(|&rank| Loss { rank, why: GONE.to_owned() }).collect();
        let words: Vec<String> =
            lost.iter().map(|rank| format!("rank {rank} was lost: {GONE}")).collect();
        let words = if words.is_empty() { BROKEN.to_owned() } else { words.join("; ") };
        let next = epochs.judge(losses).and_then(|()| {
            let starts = self.starts && options.on_loss == OnLoss::Respawn;
            let next = seats(all, before, starts);
            if let Next::Ranks(_, ranks) = &next {
                epochs.are_enough(*ranks, before)?;
                told::goes_on(*ranks, lost.len() as u64);
                log::warn!("{words} (there were {before} ranks, the program goes on with {ranks})");
            }
            Ok(next)
        });
        next.unwrap_or_else(|none| {
            let (code, why) = match none {
                NoNext::AtFault(why) => (1, why),
                NoNext::TooFew(why) => (HANGS, why),
            };
            Next::Ends { code, why: format!("{words}\n  the program does not go on: {why}") }
        })
    }

    /// Runs the program on a rank of an epoch; whether it has come to its end.
    fn run_rank(
        &mut self,
        pool: &Pool,
        engine: Rc<MpiEngine>,
        app: &impl Fn(&Comm, Asked) -> Result<(), Failure>,
    ) -> Result<bool, Failure> {
        let World { rank, size } = engine.world().map_err(of_engine)?;
        self.me.inherit(rank);
        self.inject(&engine, rank, size);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            self.program(&engine, rank, size, app)?;
            engine.settle().map_err(of_engine)?;
            warn(&engine.leftovers());
            Ok(())
        }));
        let in_broken_world = || pool.engine.is_revoked() || engine.is_revoked();
        match outcome {
            Ok(Ok(())) => return Ok(true),
            Ok(Err(failure)) if is_loss(&failure) || in_broken_world() => {}
            Ok(Err(failure)) => return Err(failure),
            Err(payload) => {
                let cause = Cause::panic(&self.me, payload);
                if !in_broken_world() {
                    on_failure::of_a_panicked_process(&cause);
                }
            }
        }
        engine.revoke();
        Ok(false)
    }

    fn program(
        &mut self,
        engine: &Rc<MpiEngine>,
        rank: usize,
        size: usize,
        app: &impl Fn(&Comm, Asked) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let Job { args, launcher, recording, .. } = &self.job;
        let comm = Comm::world(Rc::clone(engine) as Rc<dyn Engine>, rank, size);
        let common = engine.common();
        let places = if self.settled {
            places::gather(&comm, rayon::current_num_threads())?
        } else {
            sampler::enlist(common.trace);
            settle(&comm, args, common.share_cpu, launcher.as_ref(), &self.me)?
        };
        self.settled = true;
        engine.share_cpus(common.share_cpu || placement::is_oversubscribed(&places));
        recording.forget();
        if rank == 0 {
            recording.prepare().map_err(Failure::usage)?;
        }
        app(&comm, Asked { stats: common.stats, trace: common.trace, record: common.record })?;
        run_tasks();
        if common.record {
            recording.gather(&comm)?;
        }
        Ok(())
    }

    /// The losses that are asked for, in the epoch that begins now: this process dies.
    fn inject(&self, engine: &MpiEngine, rank: usize, size: usize) {
        let Some(faults) = self.job.epochs.options.inject.clone() else { return };
        let (epoch, began) = (self.job.epochs.number(), Instant::now());
        engine.look_at_calls(move |call| {
            if faults.hit(epoch, size, (rank, call), began.elapsed()) {
                process::die();
            }
        });
    }

    /// Ends this process's part of a job that went well. It leaves MPI as it is: after a loss the
    /// library's end may wait for ever.
    fn end(&self) -> ExitCode {
        let Job { recording, epochs, .. } = &self.job;
        recording.note_epochs(epochs.report());
        let first = self.rank == Some(0); // who has all parts
        let code = if first { recording.finish(&Outcome::success()) } else { 0 };
        self.deadline.lift();
        ExitCode::from(code)
    }

    /// The job ends.
    fn fail(&self, cause: &Cause) -> ! {
        let Job { recording, epochs, .. } = &self.job;
        recording.note_epochs(epochs.report());
        recording.finish(&Outcome::of(cause));
        on_failure::of_a_process(cause)
    }
}

/// What forming has brought.
enum Formed {
    /// More processes: who is which rank is decided anew.
    Pool(Pool),
    Epoch(Epoch),
}

/// An epoch that all have formed.
struct Epoch {
    /// Unless this process is spare.
    engine: Option<MpiEngine>,
    rank: Option<usize>,
    ranks: usize,
    history: History,
}

impl Pool {
    fn new(engine: Rc<MpiEngine>) -> Result<Self, Failure> {
        engine.is_everyone();
        let World { rank, size } = engine.world().map_err(of_engine)?;
        let comm = Comm::world(Rc::clone(&engine) as Rc<dyn Engine>, rank, size);
        Ok(Self { engine, comm })
    }

    /// This pool if no process of it is lost; else the one of those that are left.
    fn that_is_whole(self) -> Result<Self, Failure> {
        if self.engine.all_agree(true).map_err(of_engine)? && !self.engine.is_revoked() {
            return Ok(self);
        }
        self.without_lost()
    }

    /// The processes that are left; others may be lost while they find each other.
    fn without_lost(&self) -> Result<Self, Failure> {
        loop {
            self.engine.revoke();
            match self.engine.without_lost() {
                Ok(left) => return Self::new(left.into()),
                Err(fault) => {
                    let failure = of_engine(fault);
                    if !is_loss(&failure) {
                        return Err(failure);
                    }
                }
            }
        }
    }
}

/// Who is which rank after ranks of so many were lost: those that are left keep theirs, and places of
/// lost ones are given to processes that have none. If there are too few, and more can be started,
/// they are; else the ranks are as many as there are processes, in their order.
fn seats(all: &[Standing], ranks: usize, starts: bool) -> Next {
    let mut taken = vec![None; ranks];
    for (process, one) in all.iter().enumerate() {
        if let Some(place) = one.rank.and_then(|rank| taken.get_mut(rank)) {
            *place = Some(process);
        }
    }
    let mut spare = (0..all.len()).filter(|&process| all[process].rank.is_none());
    for place in &mut taken {
        *place = place.or_else(|| spare.next());
    }
    let empty = taken.iter().filter(|place| place.is_none()).count();
    if empty > 0 && starts {
        return Next::Start(empty);
    }
    let mut seats = vec![None; all.len()];
    let left: Vec<usize> = taken.into_iter().flatten().collect();
    for (rank, &process) in left.iter().enumerate() {
        seats[process] = Some(rank);
    }
    Next::Ranks(seats, left.len())
}

/// Ends the job where a repair takes too long.
struct Deadline(Arc<Mutex<Option<Instant>>>);

impl Deadline {
    fn new(limit: Duration) -> Self {
        let set: Arc<Mutex<Option<Instant>>> = Arc::default();
        let watched = Arc::clone(&set);
        let watch = move || {
            loop {
                thread::sleep(LOOK);
                let since = *watched.lock().unwrap_or_else(PoisonError::into_inner);
                if since.is_some_and(|since| since.elapsed() > limit) {
                    give_up(limit);
                }
            }
        };
        let started = thread::Builder::new().name("repair limit".to_owned()).spawn(watch);
        if let Err(error) = started {
            log::warn!("no thread to keep --repair-limit: {error}");
        }
        Self(set)
    }

    /// A repair is under way.
    fn set(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
    }

    /// It has ended.
    fn lift(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The job ends, whatever the library still does.
fn give_up(limit: Duration) -> ! {
    let (who, seconds) = (identity::process_rank().unwrap_or(0), limit.as_secs_f64());
    print_line(&format!(
        "error: rank {who} on {}: ranks were lost, and the others have not gone on within {seconds} s (--repair-limit)",
        placement::host()
    ));
    // Whether the library still ends the job is not certain.
    let _ = thread::Builder::new().spawn(|| {
        thread::sleep(PATIENCE);
        process::die();
    });
    processes::end(HANGS)
}

fn lost(cause: &str) -> ErrorKind {
    ErrorKind::RankLost { rank: None, cause: cause.to_owned() }
}

fn is_loss(failure: &Failure) -> bool {
    failure.find::<Error>().is_some_and(|error| matches!(error.kind(), ErrorKind::RankLost { .. }))
}

/// An engine's own, in a repair.
#[allow(clippy::needless_pass_by_value, reason = "it is for map_err")]
fn of_engine(fault: Fault) -> Failure {
    Error::new(*fault, identity::process_rank().unwrap_or(0), Call::new("repair", With::ALL)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(rank: Option<usize>) -> Standing {
        Standing { rank, epochs: 1 }
    }

    #[test]
    fn who_is_left_keeps_its_rank_where_the_places_are_filled() {
        let all = [Some(0), Some(2), None, Some(3), None].map(standing);
        let ranks = vec![Some(0), Some(2), Some(1), Some(3), None];
        assert_eq!(seats(&all, 4, false), Next::Ranks(ranks.clone(), 4));
        assert_eq!(seats(&all, 4, true), Next::Ranks(ranks, 4));
    }

    #[test]
    fn without_spare_processes_others_are_started_or_there_are_fewer_ranks() {
        let all = [Some(1), None, Some(4)].map(standing);
        assert_eq!(seats(&all, 5, true), Next::Start(2));
        assert_eq!(seats(&all, 5, false), Next::Ranks(vec![Some(1), Some(0), Some(2)], 3));
    }
}
