//! Programs that survive the loss of ranks: run again and again, in epochs, until they have come to
//! their end.
//!
//! Where ranks are threads an epoch is a job of its own, from the start of its ranks to the end of
//! the last of them. Nothing of an epoch is used in the next but what the ranks that are left hold
//! in memory ([`Epochs`]): no message, no window, no communicator of a world that has lost a rank.

use std::{
    num::NonZeroUsize,
    process::ExitCode,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::Receiver,
    },
    time::{Duration, Instant},
};

use super::{
    Cause, GRACE, HANGS, RunArgs, USAGE, all_have_left, ending,
    identity::Voice,
    limit,
    on_failure::Policy,
    print_line,
    record::Outcome,
    threads::{self, Injected, Layout, Terms},
};
use crate::{
    comm::Comm,
    error::{Call, Error, ErrorKind, Failure, Result, With},
    recover::{Ended, Epochs, Loss, Moment, NoNext, RecoverArgs, Recovery, Survived},
    told,
};

impl RunArgs {
    /// Runs `app` on every rank, as [`run`](Self::run) does, but survives the loss of ranks as
    /// `options` says: see [`recover`](crate::recover). The closure begins anew, on the ranks there
    /// are then, and restores its state; what it prints before it has come to its end can be printed
    /// again.
    ///
    /// ```no_run
    /// use clap::Parser;
    /// use spmd::{io::State, recover::RecoverArgs};
    ///
    /// /// A program that can lose ranks.
    /// #[derive(Parser)]
    /// struct Args {
    ///     #[command(flatten)]
    ///     recover: RecoverArgs,
    ///     #[command(flatten)]
    ///     run: spmd::RunArgs,
    /// }
    ///
    /// fn main() -> std::process::ExitCode {
    ///     let args: Args = spmd::parse();
    ///     args.run.resilient(&args.recover, |world, recovery| {
    ///         let mut step = 0;
    ///         recovery.restore(State::new().value("step", &mut step))?;
    ///         while step < 1000 {
    ///             step += 1;
    ///             recovery.commit(State::new().value("step", &mut step))?;
    ///         }
    ///         Ok(())
    ///     })
    /// }
    /// ```
    #[track_caller]
    pub fn resilient(
        &self,
        options: &RecoverArgs,
        app: impl Fn(&Comm, &mut Recovery<'_>) -> Result<(), Failure> + Send + Sync,
    ) -> ExitCode {
        let epochs = Epochs::new(options);
        let program = |world: &Comm| epochs.live(world, &app);
        self.run_on(program, Some(&epochs), |args, program, recording| {
            if let Err(what) = recording.prepare() {
                print_line(&format!("error: {what}"));
                return ExitCode::from(USAGE);
            }
            let ranks = args.ranks.map(NonZeroUsize::get);
            let voice = Voice::Launch(Duration::ZERO);
            let patience = [GRACE, options.repair_limit].map(Some);
            let wanted = Wanted { voice, limit: limit(args.timeout), options, patience };
            let exit_code = |cause: &Cause| {
                recording.note_epochs(epochs.report());
                recording.finish(&Outcome::of(cause))
            };
            let layout = |ranks| args.layout(ranks);
            let ended = live(&epochs, wanted, ranks, layout, program, exit_code, || {
                recording.forget();
            });
            let outcome = match ended {
                Ok(_) => Outcome::success(),
                Err(cause) => {
                    cause.print();
                    Outcome::of(&cause)
                }
            };
            recording.note_epochs(epochs.report());
            ExitCode::from(recording.finish(&outcome))
        })
    }
}

impl RecoverArgs {
    /// Runs `app` on `ranks` ranks that are threads of this process, for unit tests, as
    /// [`local`](crate::local) does, but survives the loss of ranks: returns the values of the ranks of
    /// the last epoch, and what happened. Ranks that compute are waited for, whatever
    /// [`repair_limit`](Self::repair_limit) says; but as by `local` where `SPMD_TIMEOUT` is set.
    ///
    /// # Errors
    /// What has failed on a rank that was not lost; or why losses could not be survived.
    #[track_caller]
    pub fn local<R: Send>(
        &self,
        ranks: usize,
        app: impl Fn(&Comm, &mut Recovery<'_>) -> Result<R, Failure> + Send + Sync,
    ) -> Result<Survived<R>> {
        let call = Call::new("local", With::ALL);
        if ranks == 0 {
            let what = "a job has one rank at least".to_owned();
            return Err(Error::new(ErrorKind::InvalidArgument { what }, 0, call));
        }
        let epochs = Epochs::new(self);
        let limit = super::limit_given();
        let patience = [limit.map(|limit| limit.max(GRACE)); 2];
        let wanted = Wanted { voice: Voice::Hook, limit, options: self, patience };
        let layout = |ranks| Layout::new(ranks, None, false);
        let program = |world: &Comm| epochs.live(world, &app);
        let ended = live(&epochs, wanted, Some(ranks), layout, program, |_| HANGS, || {});
        let values = ended.map_err(|cause| cause.into_error(call))?;
        Ok(Survived { values, epochs: epochs.report() })
    }
}

/// How the ranks of all epochs run.
struct Wanted<'a> {
    voice: Voice,
    limit: Option<Duration>,
    options: &'a RecoverArgs,
    /// How long ranks may take to leave an epoch: in which the program has failed, in which one was
    /// lost.
    patience: [Option<Duration>; 2],
}

/// What has become of an epoch.
enum Fate {
    Done,
    /// The program has failed.
    Failed(Cause),
    GoesOn(Ended),
}

/// Runs epochs until the program has come to its end, and returns its values; the process ends with
/// `exit_code` where ranks do not leave an epoch. `between` is called after each that is not the last.
fn live<R: Send>(
    epochs: &Epochs<'_>,
    wanted: Wanted<'_>,
    mut ranks: Option<usize>,
    layout: impl Fn(Option<usize>) -> Layout,
    program: impl Fn(&Comm) -> Result<R, Failure> + Send + Sync,
    exit_code: impl Fn(&Cause) -> u8,
    between: impl Fn(),
) -> Result<Vec<R>, Cause> {
    epochs.repair_in_place();
    loop {
        let layout = layout(ranks);
        epochs.begin(layout.ranks);
        let Wanted { voice, limit, options, patience } = wanted;
        let inject = options.inject.is_some().then(|| injected(options, epochs, layout.ranks));
        let terms = Terms { layout, voice, limit, policy: Policy::Survive, inject };
        let (fate, values) =
            threads::run(terms, &program, |causes| follow(&causes, epochs, patience, &exit_code));
        epochs.end();
        match fate {
            Fate::Done => return Ok(values),
            Fate::Failed(cause) => return Err(cause),
            Fate::GoesOn(ended) => ranks = Some(go_on(epochs, ended, layout.ranks)?),
        }
        between();
    }
}

/// Follows an epoch until all its ranks have left it.
fn follow(
    causes: &Receiver<Cause>,
    epochs: &Epochs<'_>,
    patience: [Option<Duration>; 2],
    exit_code: &impl Fn(&Cause) -> u8,
) -> Fate {
    let Ok(mut first) = causes.recv() else { return Fate::Done };
    let survives = first.lost || first.resizes.is_some();
    let mut lost = Vec::new();
    let mut note = |cause: &Cause| {
        if cause.lost && !lost.iter().any(|loss: &Loss| loss.rank == cause.rank) {
            epochs.note_loss();
            lost.push(Loss { rank: cause.rank, why: cause.text.clone() });
        }
    };
    note(&first);
    let within = patience[usize::from(survives)];
    if all_have_left(causes, within, |cause| note(&cause)) {
        return match first.resizes {
            _ if !survives => Fate::Failed(first),
            Some(ranks) if lost.is_empty() => Fate::GoesOn(Ended::Resized(ranks)),
            _ => Fate::GoesOn(Ended::Lost(lost)),
        };
    }
    if survives {
        let (seconds, why) = (within.unwrap_or_default().as_secs_f64(), first.text);
        let text = format!(
            "it has left the job ({why}), and others have not within {seconds} s (--repair-limit): they make no calls"
        );
        first = Cause { code: HANGS, ..Cause::new(first.rank, text) };
    }
    first.print();
    ending::exit(exit_code(&first))
}

/// The losses that are asked for, in the epoch that begins now.
fn injected(options: &RecoverArgs, epochs: &Epochs<'_>, ranks: usize) -> Injected {
    let faults = options.inject.clone().unwrap_or_default();
    let (epoch, began, done) = (epochs.number(), Instant::now(), AtomicBool::new(false));
    Box::new(move |rank, call| {
        let now = Moment { epoch, since: began.elapsed(), rank, size: ranks, call };
        let lost = faults.at(now)?;
        // What is due since some time is done once.
        (!done.swap(true, Ordering::Relaxed)).then_some(lost)
    })
}

/// How many ranks go on after an epoch of so many, which is said.
fn go_on(epochs: &Epochs<'_>, ended: Ended, ranks: usize) -> Result<usize, Cause> {
    let (first, words) = match &ended {
        Ended::Resized(ranks) => (0, format!("another number of ranks is wished for: {ranks}")),
        Ended::Lost(losses) => {
            let words =
                losses.iter().map(|Loss { rank, why }| format!("rank {rank} was lost: {why}"));
            let first = losses.first().map_or(0, |loss| loss.rank);
            (first, words.collect::<Vec<_>>().join("; "))
        }
    };
    let next = epochs.next(ended).map_err(|none| {
        let (code, why) = match none {
            NoNext::AtFault(why) => (1, why),
            NoNext::TooFew(why) => (HANGS, why),
        };
        let text = format!("{words}\n  the program does not go on: {why}");
        Cause { code, common: true, ..Cause::new(first, text) }
    })?;
    told::goes_on(next, epochs.losses());
    log::warn!("{words} (there were {ranks} ranks, the program goes on with {next})");
    Ok(next)
}
