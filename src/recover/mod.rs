//! Programs that survive the loss of ranks, and that take in new ones while they run.
//!
//! A program that keeps its state by a [`Recovery`] is run in *epochs*. In an epoch its ranks stay
//! the same. When one of them is lost (its thread has panicked, say), the calls of all others end
//! with [`ErrorKind::RankLost`](crate::ErrorKind::RankLost), which they pass on with `?`; then the
//! closure runs again, on the ranks there are now, and restores the state of the last
//! [`commit`](Recovery::commit). Its result has the bits of an undisturbed run.
//!
//! ```
//! use spmd::{
//!     array::{DistArray, Halo, Layout},
//!     io::State,
//!     recover::{Faults, RecoverArgs, Recovery},
//!     Comm, Failure,
//! };
//!
//! fn program(world: &Comm, recovery: &mut Recovery<'_>) -> Result<u64, Failure> {
//!     let layout = Layout::new([100], world.size());
//!     let mut field = DistArray::from_fn(world, &layout, Halo::none(), |[i]| i as f64)?;
//!     let mut step = 0;
//!     recovery.restore(State::new().array("field", &mut field).value("step", &mut step))?;
//!     while step < 50 {
//!         field.map_inplace(|cell| 0.5 * cell + 1.0);
//!         step += 1;
//!         recovery.commit(State::new().array("field", &mut field).value("step", &mut step))?;
//!     }
//!     Ok(field.checksum()?)
//! }
//!
//! let mut options = RecoverArgs::default();
//! options.commit = spmd::io::Every::steps(5);
//! let undisturbed = options.local(4, program)?;
//! options.inject = Some(Faults::default().and([2], 60, 0)); // rank 2 is lost at its call 60
//! let disturbed = options.local(4, program)?;
//! assert_eq!(undisturbed.values, disturbed.values);
//! assert_eq!(disturbed.epochs.len(), 2);
//! # Ok::<(), spmd::Error>(())
//! ```
//!
//! What repairs depends on what the ranks are:
//!
//! | ranks are | one is lost when | what follows |
//! |---|---|---|
//! | threads (engine `local`) | it panics, or as [`RecoverArgs::inject`] asks for | in the same process: as many ranks as before ([`OnLoss::Respawn`]), or those that are left ([`OnLoss::Shrink`]); state from the memory of the ranks |
//! | processes of Open MPI 5, by `mpirun --with-ft ulfm` | its process panics, or ends by a signal | in the processes that are left: spare ones ([`RecoverArgs::spare_ranks`]) take the places of lost ranks, else new ones (`Respawn`), else there are fewer ranks (`Shrink`); state from the memory of the ranks |
//! | processes of any MPI | its process ends, its host is gone, a repair takes too long | the job ends; `spmd run --restarts` starts it again on the hosts that are left; state from the last checkpoint on disk |
//!
//! Where ranks are repaired in place their number can change as well, as is wished for
//! ([`RecoverArgs::size_file`]).
//!
//! See `README.md` beside this file for how a commit survives a loss at any moment.

mod epochs;
mod faults;
mod wish;

use std::{fmt, num::NonZeroUsize, panic::Location, path::PathBuf, time::Duration};

#[cfg(feature = "mpi")]
pub(crate) use self::epochs::History;
use self::wish::Wish;
pub(crate) use self::{
    epochs::{Ended, Epochs, NoNext},
    faults::Moment,
};
pub use self::{
    epochs::{Epoch, Loss, Origin, Survived},
    faults::Faults,
};
use crate::{
    comm::Comm,
    error::{Call, Failure, With},
    io::{Checkpoint, CheckpointArgs, Clock, Every, Found, State, Vault, partner_shift},
    settings::seconds,
};

/// What follows when a rank is lost, where ranks are repaired in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnLoss {
    /// Another rank takes its place
    Respawn,
    /// The ranks that are left go on
    Shrink,
}

/// The options of a program that survives losses: flatten them into your own [`clap`] arguments,
/// beside [`RunArgs`](crate::RunArgs).
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Losses and growth")]
pub struct RecoverArgs {
    /// What follows when a rank is lost, where ranks are threads, or processes of an MPI that survives
    /// that (Open MPI 5, `mpirun --with-ft ulfm`); else the job ends, and `spmd run --restarts` starts it
    /// again
    #[arg(long, value_enum, default_value = "respawn")]
    pub on_loss: OnLoss,
    /// With fewer ranks the program does not begin, and ends (exit code 4) where they are lost
    #[arg(long, value_name = "RANKS", default_value = "1")]
    pub min_ranks: NonZeroUsize,
    /// Where ranks are repaired in place, how often the state is kept in the memory of the ranks: every so many
    /// steps, or so much time; and whenever it is kept on disk. It takes twice its size there, and on
    /// mpi four times
    #[arg(long, value_name = "STEPS|TIME", default_value = "1s")]
    pub commit: Every,
    /// With so many losses in a row, and no commit between them, the program is
    /// held to be at fault, and the job ends
    #[arg(long, value_name = "LOSSES", default_value = "3")]
    pub give_up: u32,
    /// How long the other ranks may take to go on after a loss, before the job ends
    /// (exit code 4)
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub repair_limit: Duration,
    /// On an MPI that survives losses so many of the processes that the launcher starts are no ranks, but
    /// wait to take the places of lost ones
    #[arg(long, value_name = "RANKS", default_value = "0")]
    pub spare_ranks: usize,
    /// Where ranks are repaired in place, the number of ranks that are wished for stands in this file, which
    /// rank 0 reads: where there are others the program goes on with so many after its next step, --min-ranks
    /// at least. On mpi spare processes become ranks, then new ones; those that are not needed become spare
    #[arg(long, value_name = "FILE")]
    pub size_file: Option<PathBuf>,
    /// Lose ranks on purpose, where they are repaired in place: RANKS@CALL or RANKS@TIMEs, as 2@150 or 0+3@1.5s,
    /// several separated by commas; with /EPOCH behind it after so many repairs
    #[arg(long, value_name = "LOSSES")]
    pub inject: Option<Faults>,
    /// On disk, from where a new run goes on.
    #[command(flatten)]
    pub kept: CheckpointArgs,
}

/// What the command line has where it says nothing.
impl Default for RecoverArgs {
    fn default() -> Self {
        Self {
            on_loss: OnLoss::Respawn,
            min_ranks: NonZeroUsize::MIN,
            commit: Every::time(Duration::from_secs(1)),
            give_up: 3,
            repair_limit: Duration::from_secs(10),
            spare_ranks: 0,
            size_file: None,
            inject: None,
            kept: CheckpointArgs { checkpoint: None, every: Every::time(Duration::from_secs(600)) },
        }
    }
}

/// A program's hold of what it goes on from when ranks are lost, join or leave.
pub struct Recovery<'a> {
    epochs: &'a Epochs<'a>,
    /// A message space of its own.
    comm: Comm,
    epoch: u64,
    /// What this rank holds in memory, where ranks can be repaired.
    vault: Option<Vault>,
    /// How many ranks behind each rank the one is that holds its part, too.
    shift: usize,
    /// Commits in memory that were begun in this epoch.
    begun: u64,
    pace: Clock,
    checkpoint: Checkpoint,
    /// On rank 0.
    wish: Option<Wish>,
    /// Whether the epoch ends, to go on with so many ranks.
    resizes: Option<usize>,
}

/// The epoch ends because the program goes on with another number of ranks: to be passed on with
/// `?`.
#[derive(Debug, thiserror::Error)]
#[error("the program goes on with {ranks} ranks")]
pub(crate) struct Resize {
    pub(crate) ranks: usize,
}

impl fmt::Debug for Recovery<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recovery").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Drop for Recovery<'_> {
    fn drop(&mut self) {
        // Whether the rank is lost, and this with it, is decided when all have left.
        if let Some(vault) = self.vault.take() {
            self.epochs.give_vault(self.comm.rank(), vault);
        }
    }
}

impl<'a> Recovery<'a> {
    /// Collective.
    pub(crate) fn new(world: &Comm, epochs: &'a Epochs<'a>) -> Result<Self, Failure> {
        let options = epochs.options;
        let comm = world.dup()?;
        let (ranks, least) = (comm.size(), options.min_ranks.get());
        if ranks < least {
            let text = format!(
                "--min-ranks {least}: there are {ranks}\n  help: start the program with more"
            );
            return Err(Failure::usage(text));
        }
        let in_place = epochs.in_place();
        if !in_place && options.size_file.is_some() {
            return Err(Failure::usage(
                "--size-file is for ranks whose number can change while they run\n  help: run them as threads, or on \
                 Open MPI 5 by `mpirun --with-ft ulfm`; or by `spmd run --restarts`, whose hosts join and leave by `spmd \
                 add` and `spmd drain`",
            ));
        }
        if options.spare_ranks > 0 && (!in_place || comm.engine() == "local") {
            return Err(Failure::usage(
                "--spare-ranks is for processes whose job survives the loss of one\n  help: Open MPI 5, by `mpirun \
                 --with-ft ulfm`",
            ));
        }
        if !in_place && options.inject.is_some() {
            return Err(Failure::usage(
                "--inject is for ranks whose loss the job survives\n  help: run them as threads, or on Open MPI 5 by \
                 `mpirun --with-ft ulfm`",
            ));
        }
        let checkpoint = options.kept.open(&comm)?;
        let wish = options.size_file.as_deref().filter(|_| comm.rank() == 0);
        let wish = wish.map(|file| Wish::new(file, least, epochs.unmet()));
        let shift = if in_place { partner_shift(&comm, Location::caller())? } else { 0 };
        // Last: what is given back when this is dropped.
        let vault = in_place.then(|| epochs.take_vault(comm.rank()));
        let (epoch, pace) = (epochs.number(), Clock::new(options.commit));
        Ok(Self {
            epochs,
            comm,
            epoch,
            vault,
            shift,
            begun: 0,
            pace,
            checkpoint,
            wish,
            resizes: None,
        })
    }

    /// How often the ranks have changed: 0 at first.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Restores the state: of the last commit, if ranks were lost or have joined; else of the last
    /// checkpoint on disk, if there is one. Whether there was one; if not, the state stays as it is.
    ///
    /// # Collective
    /// All ranks, with the same names. Parts of the state that a rank needs and does not hold come by
    /// messages; then it is committed, so that a further loss finds it twice in memory.
    ///
    /// # Errors
    /// As [`Checkpoint::resume`].
    #[track_caller]
    pub fn restore(&mut self, mut state: State<'_>) -> Result<bool, Failure> {
        let at = Location::caller();
        self.restore_any(&mut state, at).map_err(|failure| failure.called_at(at))
    }

    fn restore_any(
        &mut self,
        state: &mut State<'_>,
        at: &'static Location<'static>,
    ) -> Result<bool, Failure> {
        let in_memory = match &mut self.vault {
            Some(vault) => vault.restore(&self.comm, state, at)?,
            None => Found::Nothing,
        };
        let from = match in_memory {
            Found::Commit => {
                self.checkpoint.trust_newest();
                Origin::Memory
            }
            Found::Nothing | Found::Damaged(_) => match self.checkpoint.restore(state, at)? {
                Some(_) => Origin::Disk,
                None => Origin::Beginning,
            },
        };
        if let (Found::Damaged(what), Origin::Beginning) = (in_memory, from) {
            return Err(what.into()); // the state may be half restored
        }
        if self.notes() {
            self.epochs.note_restored(from, self.comm.rank() == 0);
        }
        if from == Origin::Beginning {
            return Ok(false);
        }
        self.keep_in_memory(state, at)?;
        Ok(true)
    }

    /// The end of a step: keeps the state where it is due, in memory ([`RecoverArgs::commit`]) and on
    /// disk ([`CheckpointArgs::every`]); and lets the program stop, or go on with another number of
    /// ranks.
    ///
    /// # Collective
    /// All ranks: an allreduce of 2 bytes. In memory, a copy of the rank's part of the state, which the
    /// partner holds as well, the next rank or one on another host.
    ///
    /// # Errors
    /// [`ErrorKind::RankLost`](crate::ErrorKind::RankLost) if a rank was lost, an error that says so
    /// if the number of ranks changes, [`Failure::stopped`] if the program is to stop: all to be passed
    /// on with `?`. And as [`Checkpoint::step`].
    #[track_caller]
    pub fn commit(&mut self, mut state: State<'_>) -> Result<(), Failure> {
        const MEMORY: u8 = 1;
        const DISK: u8 = 2;
        const RESIZE: u8 = 4;
        let at = Location::caller();
        if let Some(ranks) = self.resizes {
            return Err(Resize { ranks }.into());
        }
        let in_memory = self.vault.is_some() && self.pace.count_step();
        let on_disk = self.checkpoint.count_step();
        let ranks = self.wish.as_mut().and_then(|wish| wish.look(self.comm.size()));
        let bit = |due: bool, bit: u8| if due { bit } else { 0 };
        let mine = bit(in_memory, MEMORY) | bit(on_disk, DISK) | bit(ranks.is_some(), RESIZE);
        let call = Call { op: "commit", with: With::ALL, at };
        let (reason, due) = self.comm.look_round(call, mine, self.checkpoint.keeps())?;
        let mut keep = || {
            // What is in memory is never older than what is on disk: it counts first.
            if due != 0 {
                self.keep_in_memory(&mut state, at)?;
            }
            self.checkpoint.end_step(&mut state, due & DISK != 0, reason, at)?;
            if self.notes() && due != 0 {
                self.epochs.note_commit(Origin::Memory);
                if due & DISK != 0 {
                    self.epochs.note_commit(Origin::Disk);
                }
            }
            if due & RESIZE != 0 {
                let ranks = self.comm.bcast_obj(0, || ranks.unwrap_or(self.comm.size()))?;
                if let Some(vault) = &mut self.vault {
                    vault.hand_over(&self.comm, ranks)?;
                }
                self.resizes = Some(ranks);
                return Err(Resize { ranks }.into());
            }
            Ok(())
        };
        keep().map_err(|failure: Failure| failure.called_at(at))
    }

    fn keep_in_memory(
        &mut self,
        state: &mut State<'_>,
        at: &'static Location<'static>,
    ) -> Result<(), Failure> {
        let Some(vault) = &mut self.vault else { return Ok(()) };
        self.begun += 1;
        // Higher than all of earlier epochs.
        vault.keep(&self.comm, self.shift, self.epoch << 32 | self.begun, state, at)?;
        self.pace.restart();
        Ok(())
    }

    /// Whether this rank notes what happens: one in a process.
    fn notes(&self) -> bool {
        self.comm.engine() != "local" || self.comm.rank() == 0
    }

    /// The program has come to its end on this rank. Collective.
    pub(super) fn end(&self) -> Result<(), Failure> {
        if self.vault.is_some() {
            self.comm.barrier()?;
        }
        Ok(())
    }
}
