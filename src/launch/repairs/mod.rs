//! Epochs of ranks that are processes, where the MPI library survives the loss of ranks: the
//! program goes on in the processes that are left.
//!
//! All processes of the job are the *pool*. Some of them are the ranks of an epoch, the others are
//! spare. When an epoch has ended, on all processes: each says whether its program has come to its
//! end. If all have, the job is done. Else the lost are left out of the pool; places of lost ranks
//! are given to spare processes, or to new ones, or the ranks are fewer; then the next epoch begins.
//! Where another number of ranks was wished for and none is lost, that is the same, but for so many.
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

mod deadline;
mod seats;
mod votes;

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use self::{
    deadline::Deadline,
    seats::{Next, Standing, seats, wish},
    votes::{Agreed, Vote},
};
use super::{
    Asked, Cause, EngineKind, HANGS, Launcher, RunArgs, ending,
    identity::{self, Identity, Voice},
    on_failure, places,
    processes::{self, check_size, settle},
    record::{Outcome, Recording},
    run_tasks, sampler, warn,
};
use crate::{
    comm::Comm,
    engine::{
        Engine,
        mpi::{MpiEngine, Stage, World},
    },
    error::{Call, Error, ErrorKind, Failure, Fault, With},
    placement, process,
    recover::{Epochs, History, Loss, Moment, NoNext, OnLoss, Resize},
    told,
};

/// Why a rank is lost.
const GONE: &str = "its process has ended";
/// Why an epoch has ended in which no rank was lost.
const BROKEN: &str = "ranks do not reach each other";

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

pub(super) fn run(
    job: Job<'_>,
    base: Rc<MpiEngine>,
    app: &impl Fn(&Comm, Asked) -> Result<(), Failure>,
) -> ExitCode {
    job.epochs.repair_in_place();
    let _job = ending::watch(EngineKind::Mpi);
    let rank = base.world().map_or(0, |world| world.rank);
    let me = Identity::new(rank, placement::host(), Voice::Launch(Duration::ZERO));
    Arc::clone(&me).assume_process();
    // Of one that cannot join nobody else needs to hear.
    let is_newcomer = MpiEngine::is_newcomer().unwrap_or(false);
    let deadline = Deadline::new(job.epochs.options.repair_limit, is_newcomer);
    deadline.set();
    let (recording, epochs) = (job.recording, job.epochs);
    let mut process = Process {
        job,
        me: Arc::clone(&me),
        rank: None,
        wish: None,
        settled: false,
        starts: true,
        whole: !is_newcomer,
        deadline,
    };
    let lived =
        catch_unwind(AssertUnwindSafe(|| Pool::of(&base).and_then(|pool| process.live(pool, app))));
    let cause = match lived {
        Ok(Ok(code)) => return code,
        // Of the library's: nothing can be agreed on.
        Ok(Err(failure)) => Cause { code: HANGS, ..Cause::of(&me, failure) },
        Err(payload) => Cause::panic(&me, payload),
    };
    cause.print();
    if is_newcomer && epochs.history().len() == 0 {
        process::die();
    }
    recording.finish(&Outcome::of(&cause));
    processes::end(cause.code)
}

struct Process<'a> {
    job: Job<'a>,
    me: Arc<Identity>,
    /// In the last epoch.
    rank: Option<usize>,
    /// How many ranks are wished for, if it has left the last epoch for that.
    wish: Option<usize>,
    /// Whether it has its CPUs and threads.
    settled: bool,
    /// Whether processes can be started.
    starts: bool,
    /// Whether the pool is what the launcher has started.
    whole: bool,
    deadline: Deadline,
}

impl Process<'_> {
    /// Runs epochs until all ranks have come to the program's end, or one has failed.
    ///
    /// # Errors
    /// Of the library's.
    fn live(
        &mut self,
        mut pool: Pool,
        app: &impl Fn(&Comm, Asked) -> Result<(), Failure>,
    ) -> Result<ExitCode, Failure> {
        loop {
            let (epoch, vote) = match self.form(&pool) {
                Ok(Formed::Pool(grown)) => {
                    (pool, self.whole) = (grown, false);
                    continue;
                }
                Ok(Formed::Epoch(epoch)) => (Some(epoch), Vote::Done),
                Ok(Formed::Nothing(why)) => (None, Vote::End(why)),
                Err(failure) if is_because_of_loss(&failure, &pool) => (None, Vote::GoOn),
                Err(failure) => (None, Vote::End(Cause::of(&self.me, failure))),
            };
            if epoch.is_none() {
                pool.engine.revoke(); // others may wait for this process
            }
            let mut agreed = self.agree(&pool, vote, true)?;
            if let (Agreed::Done, Some(epoch)) = (&agreed, epoch) {
                let vote = self.run_epoch(&pool, *epoch, app)?;
                // Who is spare learns by this that the epoch is over.
                pool.engine.revoke();
                agreed = self.agree(&pool, vote, self.rank == Some(0))?;
                match agreed {
                    Agreed::Done => return Ok(self.end(&pool)),
                    Agreed::GoOn => self.job.epochs.note_loss(),
                    Agreed::End(_) => {}
                }
            }
            if let Agreed::End(code) = agreed {
                // Nobody needs to be ended: all have agreed.
                thread::sleep(super::FORWARDING);
                process::leave(code);
            }
            self.deadline.set();
            pool = pool.without_lost()?;
            self.whole = false;
        }
    }

    /// The part of this process in an epoch; its vote for what follows.
    fn run_epoch(
        &mut self,
        pool: &Pool,
        Epoch { engine, rank, ranks, history }: Epoch,
        app: &impl Fn(&Comm, Asked) -> Result<(), Failure>,
    ) -> Result<Vote, Failure> {
        let epochs = self.job.epochs;
        epochs.adopt(history);
        epochs.move_to(self.rank, rank);
        epochs.begin(ranks.len());
        (self.rank, self.wish) = (rank, None);
        self.deadline.lift();
        MpiEngine::forget_losses();
        if rank == Some(0) && epochs.number() > 0 {
            told::goes_on(ranks.len(), epochs.losses());
        }
        let watch = |stage| {
            if let Some(watch) = pool.engine.watch() {
                watch.begin(stage);
            }
        };
        watch(Stage::Program);
        let vote = if let Some(engine) = engine {
            self.run_rank(pool, engine.into(), app)?
        } else {
            watch(Stage::Finished); // it makes no calls
            pool.engine.await_revoked(&ranks).map(|()| Vote::Done).map_err(of_engine)?
        };
        watch(Stage::Finished);
        self.deadline.set();
        if matches!(vote, Vote::GoOn) {
            epochs.note_loss();
        }
        epochs.end();
        Ok(vote)
    }

    /// Decides who is which rank, the same on all processes, and makes the world of the epoch.
    fn form(&mut self, pool: &Pool) -> Result<Formed, Failure> {
        let epochs = self.job.epochs;
        let (rank, known) = (self.rank, epochs.history().len());
        let mine = Standing { rank, epochs: known, wish: self.wish };
        let all = pool.comm.allgather_obj(&mine)?;
        let most = all.iter().map(|one| one.epochs).max().unwrap_or(0);
        // Who has been a rank of the last epoch knows what happened in it.
        let knows = |one: &Standing| one.epochs == most && (most == 0 || one.rank.is_some());
        let heard = |one: &Standing| one.epochs == most; // if all that were ranks are lost
        let teller = all.iter().position(knows).or_else(|| all.iter().position(heard)).unwrap_or(0);
        let told = (pool.comm.rank() == teller).then(|| self.decide(&all, most));
        let (next, history) = pool.comm.bcast_obj(teller, || (told, epochs.history()))?;
        match next.ok_or_else(|| lost("nobody has decided"))? {
            Next::Ranks(seats, _) => {
                let rank = seats.get(pool.comm.rank()).copied().flatten();
                let engine = pool.engine.part(rank).map_err(of_engine)?;
                let ranks = (0..seats.len()).filter(|&process| seats[process].is_some()).collect();
                Ok(Formed::Epoch(Box::new(Epoch { engine, rank, ranks, history })))
            }
            Next::Start(count) => match pool.engine.with_newcomers(count) {
                Ok(engine) => Pool::new(engine.into()).map(Formed::Pool),
                Err(fault) => {
                    self.starts = false;
                    if pool.comm.rank() == teller {
                        let why = of_engine(fault);
                        log::warn!(
                            "no process can be started, the program goes on with those that there are: {why}\n  help: name \
                             more slots to the launcher, or give it --oversubscribe"
                        );
                    }
                    Err(lost("a process could not be started"))
                }
            },
            Next::Ends { code, why } => {
                let cause = Cause { code, common: true, ..Cause::new(self.me.rank(), why) };
                Ok(Formed::Nothing(cause))
            }
        }
    }

    /// Decides how the job goes on, and says what happened.
    fn decide(&self, all: &[Standing], known: usize) -> Next {
        let (epochs, options) = (self.job.epochs, self.job.epochs.options);
        let spare = options.spare_ranks;
        let Some(before) = epochs.history().ranks().filter(|_| known > 0) else {
            let Job { args, launcher, .. } = &self.job;
            let (rank, size) = (0, all.len());
            let checked = check_size(launcher.as_ref(), World { rank, size }, args);
            if let Some(why) = checked.err().filter(|_| self.whole) {
                return Next::Ends { code: super::USAGE, why };
            }
            let ranks = size.saturating_sub(spare);
            let why = format!("--spare-ranks {spare}: the launcher has started {size} ranks");
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
        // Who is to leave may hold what the lost held: after a loss as many go on as before. The wish is
        // read again.
        let wish = wish(all, known).filter(|_| lost.is_empty());
        let words = match wish {
            Some(wish) => format!("another number of ranks is wished for: {wish}"),
            None if lost.is_empty() => BROKEN.to_owned(),
            None => words.join("; "),
        };
        let judged = if wish.is_some() { Ok(()) } else { epochs.judge(losses) };
        let next = judged.and_then(|()| {
            let starts = self.starts && (wish.is_some() || options.on_loss == OnLoss::Respawn);
            let next = seats(all, wish.unwrap_or(before), starts);
            if let Next::Ranks(_, ranks) = &next {
                if let Some(wish) = wish {
                    epochs.note_wish(wish, *ranks);
                }
                epochs.are_enough(*ranks, before)?;
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

    /// Runs the program on a rank of an epoch; its vote for what follows.
    fn run_rank(
        &mut self,
        pool: &Pool,
        engine: Rc<MpiEngine>,
        app: &impl Fn(&Comm, Asked) -> Result<(), Failure>,
    ) -> Result<Vote, Failure> {
        let World { rank, size } = engine.world().map_err(of_engine)?;
        self.me.become_rank(rank, self.job.epochs.number() > 0);
        self.inject(&engine, rank, size);
        let outcome = catch_unwind(AssertUnwindSafe(|| -> Result<(), Failure> {
            self.program(&engine, rank, size, app)?;
            engine.settle().map_err(of_engine)?;
            warn(&engine.leftovers());
            Ok(())
        }));
        let in_broken_world =
            || MpiEngine::has_seen_loss() || pool.engine.is_revoked() || engine.is_revoked();
        let vote = match outcome {
            Ok(Ok(())) => return Ok(Vote::Done),
            Ok(Err(failure)) => {
                self.wish = failure.find().map(|&Resize { ranks }| ranks);
                if self.wish.is_some() || in_broken_world() {
                    Vote::GoOn
                } else {
                    Vote::End(Cause::of(&self.me, failure))
                }
            }
            Err(payload) => {
                let cause = Cause::panic(&self.me, payload);
                if !in_broken_world() {
                    on_failure::of_a_panicked_process(&cause);
                }
                Vote::GoOn
            }
        };
        engine.revoke();
        Ok(vote)
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
            let since = began.elapsed();
            if faults.hit(Moment { epoch, since, rank, size, call }) {
                let after_s = since.as_secs_f64();
                log::warn!("this rank is lost, as --inject asks for, {after_s:.6} s after epoch {epoch} began");
                process::die();
            }
        });
    }

    /// Ends this process's part of a job that went well. It leaves MPI as it is: after a loss the
    /// library's end may wait for ever.
    fn end(&self, pool: &Pool) -> ExitCode {
        let Job { recording, epochs, .. } = &self.job;
        recording.note_epochs(epochs.report());
        let first = self.rank == Some(0); // who has all parts
        let code = if first { recording.finish(&Outcome::success()) } else { 0 };
        // A launcher may end the others when the first has left.
        let _ = pool.engine.agree(!0);
        self.deadline.lift();
        ExitCode::from(code)
    }
}

/// What forming has brought.
enum Formed {
    /// More processes: who is which rank is decided anew.
    Pool(Pool),
    Epoch(Box<Epoch>),
    /// The job ends.
    Nothing(Cause),
}

/// An epoch that all have formed.
struct Epoch {
    /// Unless this process is spare.
    engine: Option<MpiEngine>,
    rank: Option<usize>,
    /// The processes of the pool that are ranks.
    ranks: Vec<usize>,
    history: History,
}

impl Pool {
    /// The processes that the launcher has started; or, where this one was started to take a lost
    /// one's place, those that have started it, and it.
    fn of(base: &Rc<MpiEngine>) -> Result<Self, Failure> {
        match base.with_those_before().map_err(of_engine)? {
            Some(engine) => Self::new(engine.into()),
            None => Self::new(Rc::clone(base)),
        }
    }

    fn new(engine: Rc<MpiEngine>) -> Result<Self, Failure> {
        let World { rank, size } = engine.world().map_err(of_engine)?;
        let comm = Comm::world(Rc::clone(&engine) as Rc<dyn Engine>, rank, size);
        Ok(Self { engine, comm })
    }

    /// The processes that are left.
    fn without_lost(&self) -> Result<Self, Failure> {
        Self::new(self.engine.without_lost().map_err(of_engine)?.into())
    }
}

fn lost(cause: &str) -> Failure {
    of_engine(ErrorKind::RankLost { rank: None, cause: cause.to_owned() }.into())
}

/// Whether a repair has failed because more were lost.
fn is_because_of_loss(failure: &Failure, pool: &Pool) -> bool {
    let own = failure.find::<Error>().is_some_and(|error| {
        matches!(error.kind(), ErrorKind::RankLost { .. } | ErrorKind::Closed)
    });
    own || MpiEngine::has_seen_loss() || pool.engine.is_revoked()
}

/// An engine's own, in a repair.
#[allow(clippy::boxed_local, reason = "it is for map_err")]
fn of_engine(fault: Fault) -> Failure {
    Error::new(*fault, identity::process_rank().unwrap_or(0), Call::new("repair", With::ALL)).into()
}
