//! What outlives the epochs of a run in this process: what ranks hold in memory, and what happened.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use serde::{Deserialize, Serialize};

use super::{OnLoss, RecoverArgs, Recovery};
use crate::{comm::Comm, error::Failure, io::Vault};

/// Part of a run, in which its ranks stayed the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Epoch {
    /// The number of ranks.
    pub ranks: usize,
    /// When it began, in seconds since the first did.
    pub began_s: f64,
    /// When the state was restored, if it was, in seconds since the first epoch began.
    pub restored_s: Option<f64>,
    /// Where the state came from.
    pub from: Origin,
    /// Commits that the program has made in it, in memory.
    pub commits: u64,
    /// When the last of them was complete, in seconds since the first epoch began.
    pub last_commit_s: Option<f64>,
    /// The ranks that were lost in it, in the order in which that was noticed.
    pub lost: Vec<Loss>,
    /// When the first of them was noticed, in seconds since the first epoch began.
    pub lost_s: Option<f64>,
    /// When all ranks had left it, in seconds since the first epoch began.
    pub ended_s: f64,
}

/// Where the state of an epoch came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Origin {
    /// Nothing was kept: the program began.
    #[default]
    Beginning,
    /// The memory of the ranks.
    Memory,
    /// A checkpoint on disk.
    Disk,
}

/// A rank that was lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Loss {
    /// The rank.
    pub rank: usize,
    /// Why, in words.
    pub why: String,
}

/// What has become of a program that survives losses.
#[derive(Clone, Debug, PartialEq)]
pub struct Survived<R> {
    /// The values that the ranks of the last epoch have returned, by rank.
    pub values: Vec<R>,
    /// The parts of the run, in order.
    pub epochs: Vec<Epoch>,
}

impl Known {
    fn now_s(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }
}

/// How an epoch has ended.
pub(crate) enum Ended {
    Lost(Vec<Loss>),
    /// As the program, or who runs it, has asked for.
    Resized(usize),
}

/// Why there is no next epoch, in words.
pub(crate) enum NoNext {
    /// Another try would end in the same way.
    AtFault(String),
    TooFew(String),
}

/// The epochs of a run.
pub(crate) struct Epochs<'a> {
    pub(crate) options: &'a RecoverArgs,
    /// Whether another epoch follows in this process when ranks are lost.
    in_place: AtomicBool,
    known: Mutex<Known>,
}

struct Known {
    /// When the first epoch began.
    began: Instant,
    /// By rank: what each of this process holds while no rank runs.
    vaults: Vec<Vault>,
    history: History,
}

/// What has happened: the same in all processes of a job, when an epoch begins.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct History {
    epochs: Vec<Epoch>,
    /// Losses in a row without a commit between them, in so many epochs.
    barren: u32,
    judged: usize,
    /// So many ranks were wished for, and could not be had.
    unmet: Option<usize>,
    /// When what is kept in memory, and on disk, was the state of the program.
    memory_s: f64,
    disk_s: f64,
    /// When this was written.
    now_s: f64,
}

impl History {
    /// How many epochs there were.
    pub(crate) fn len(&self) -> usize {
        self.epochs.len()
    }

    /// The number of ranks of the last.
    #[cfg(feature = "mpi")]
    pub(crate) fn ranks(&self) -> Option<usize> {
        self.epochs.last().map(|epoch| epoch.ranks)
    }
}

impl<'a> Epochs<'a> {
    pub(crate) fn new(options: &'a RecoverArgs) -> Self {
        let (began, vaults, history) = (Instant::now(), Vec::new(), History::default());
        let known = Mutex::new(Known { began, vaults, history });
        Self { options, in_place: AtomicBool::new(false), known }
    }

    /// Another epoch follows in this process when ranks are lost.
    pub(crate) fn repair_in_place(&self) {
        self.in_place.store(true, Ordering::Relaxed);
    }

    pub(super) fn in_place(&self) -> bool {
        self.in_place.load(Ordering::Relaxed)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An epoch of so many ranks begins.
    pub(crate) fn begin(&self, ranks: usize) {
        let mut known = self.known();
        known.vaults.resize_with(ranks, Vault::default);
        let began_s = known.now_s();
        known.history.epochs.push(Epoch {
            ranks,
            began_s,
            restored_s: None,
            from: Origin::Beginning,
            commits: 0,
            last_commit_s: None,
            lost: Vec::new(),
            lost_s: None,
            ended_s: began_s,
        });
    }

    /// The number of the epoch.
    pub(crate) fn number(&self) -> u64 {
        (self.known().history.len() as u64).saturating_sub(1)
    }

    /// Runs the program on a rank of this epoch.
    pub(crate) fn live<R>(
        &self,
        world: &Comm,
        app: &impl Fn(&Comm, &mut Recovery<'_>) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let mut recovery = Recovery::new(world, self)?;
        let value = app(world, &mut recovery)?;
        // Until all have come to the end, all may have to do a part of it again.
        recovery.end()?;
        Ok(value)
    }

    /// The rank's own, to be given back unless the rank is lost.
    pub(super) fn take_vault(&self, rank: usize) -> Vault {
        self.known().vaults.get_mut(rank).map(std::mem::take).unwrap_or_default()
    }

    pub(super) fn give_vault(&self, rank: usize, vault: Vault) {
        if let Some(place) = self.known().vaults.get_mut(rank) {
            *place = vault;
        }
    }

    fn note(&self, note: impl FnOnce(&mut Epoch, f64)) {
        let mut known = self.known();
        let now_s = known.now_s();
        if let Some(epoch) = known.history.epochs.last_mut() {
            note(epoch, now_s);
        }
    }

    /// The state has been restored, or is that of the beginning; which one rank `says` after a loss.
    pub(super) fn note_restored(&self, from: Origin, says: bool) {
        let mut known = self.known();
        let (now_s, history) = (known.now_s(), &mut known.history);
        let kept_s = match from {
            Origin::Beginning => 0.0,
            Origin::Memory => history.memory_s,
            Origin::Disk => history.disk_s,
        };
        history.memory_s = now_s; // it is committed at once
        if let Some(now) = history.epochs.last_mut() {
            (now.restored_s, now.from) = ((from != Origin::Beginning).then_some(now_s), from);
        }
        let before = history.epochs.iter().rev().nth(1);
        let lost_s = before.and_then(|before| before.lost_s);
        let (Some(lost_s), true) = (lost_s, says) else { return };
        let again_s = (lost_s - kept_s).max(0.0);
        let what = match from {
            Origin::Beginning => {
                "nothing was kept, or it was lost with the ranks: the program begins anew"
            }
            Origin::Memory => "the state of the last commit in memory is restored",
            Origin::Disk => "the state of the last checkpoint on disk is restored",
        };
        let after_ms = (now_s - lost_s) * 1e3;
        log::warn!(
            "{what}, {after_ms:.1} ms after the loss; {again_s:.3} s of work are done again"
        );
    }

    /// A commit is complete, there.
    pub(super) fn note_commit(&self, place: Origin) {
        let mut known = self.known();
        let (now_s, history) = (known.now_s(), &mut known.history);
        if place == Origin::Disk {
            history.disk_s = now_s;
            return;
        }
        history.memory_s = now_s;
        if let Some(epoch) = history.epochs.last_mut() {
            epoch.last_commit_s = Some(now_s);
            epoch.commits += 1;
        }
    }

    /// How many ranks were lost in all epochs.
    pub(crate) fn losses(&self) -> u64 {
        self.known().history.epochs.iter().map(|epoch| epoch.lost.len() as u64).sum()
    }

    /// A rank is lost.
    pub(crate) fn note_loss(&self) {
        self.note(|epoch, now_s| {
            epoch.lost_s.get_or_insert(now_s);
        });
    }

    /// All ranks have left the epoch.
    pub(crate) fn end(&self) {
        self.note(|epoch, now_s| epoch.ended_s = now_s);
    }

    /// Ranks were lost in the epoch that has ended.
    ///
    /// # Errors
    /// If this is no accident any more.
    pub(crate) fn judge(&self, losses: Vec<Loss>) -> Result<(), NoNext> {
        let mut known = self.known();
        let (now_s, history) = (known.now_s(), &mut known.history);
        let so_far = history.epochs.len();
        let Some(epoch) = history.epochs.last_mut() else { return Ok(()) };
        if !losses.is_empty() {
            epoch.lost_s.get_or_insert(now_s);
        }
        epoch.lost = losses;
        if history.judged == so_far {
            return Ok(()); // more were lost before the next one could begin
        }
        history.judged = so_far;
        history.barren = if epoch.commits > 0 { 1 } else { history.barren + 1 };
        if history.barren >= self.options.give_up.max(1) {
            return Err(NoNext::AtFault(format!(
                "{} losses in a row, and no commit between them: this is no accident of a machine, the program is at fault",
                history.barren
            )));
        }
        Ok(())
    }

    /// So many ranks were wished for when the epoch ended, and none was lost; there are so many now.
    pub(crate) fn note_wish(&self, wish: usize, ranks: usize) {
        let mut known = self.known();
        let history = &mut known.history;
        history.barren = 0;
        history.unmet = (ranks != wish).then_some(wish);
        if let Some(epoch) = history.epochs.last_mut() {
            // Who left first has ended the calls of the others, to whom that was as a loss is.
            epoch.lost_s = None;
        }
    }

    /// So many ranks are wished for in vain.
    pub(super) fn unmet(&self) -> Option<usize> {
        self.known().history.unmet
    }

    /// Whether so many ranks of as many as there were may go on.
    ///
    /// # Errors
    /// If they are too few.
    pub(crate) fn are_enough(&self, left: usize, ranks: usize) -> Result<(), NoNext> {
        let least = self.options.min_ranks.get();
        if left >= least {
            return Ok(());
        }
        Err(NoNext::TooFew(format!(
            "{left} of {ranks} ranks are left, and --min-ranks asks for {least}"
        )))
    }

    /// How many ranks go on after an epoch that has ended so, all ranks of which are in this process.
    ///
    /// # Errors
    /// Why none does.
    pub(crate) fn next(&self, ended: Ended) -> Result<usize, NoNext> {
        let mut vaults = std::mem::take(&mut self.known().vaults);
        let ranks = vaults.len();
        let vaults = match ended {
            Ended::Resized(ranks) => {
                vaults.resize_with(ranks, Vault::default); // who leaves has handed over what it held
                self.note_wish(ranks, ranks);
                vaults
            }
            Ended::Lost(losses) => {
                let lost: Vec<usize> = losses.iter().map(|loss| loss.rank).collect();
                self.judge(losses)?;
                let vaults = vaults.into_iter().enumerate();
                match self.options.on_loss {
                    OnLoss::Respawn => {
                        let kept = |(rank, vault)| {
                            if lost.contains(&rank) { Vault::default() } else { vault }
                        };
                        vaults.map(kept).collect()
                    }
                    OnLoss::Shrink => {
                        let left = vaults.filter(|(rank, _)| !lost.contains(rank));
                        left.map(|(_, vault)| vault).collect()
                    }
                }
            }
        };
        let next = vaults.len();
        self.are_enough(next, ranks)?;
        self.known().vaults = vaults;
        Ok(next)
    }

    /// What happened.
    pub(crate) fn report(&self) -> Vec<Epoch> {
        self.known().history.epochs.clone()
    }
}

/// Where ranks are processes.
#[cfg(feature = "mpi")]
impl Epochs<'_> {
    /// What has happened, for the other processes of the job.
    pub(crate) fn history(&self) -> History {
        let known = self.known();
        History { now_s: known.now_s(), ..known.history.clone() }
    }

    /// What has happened, as another process of the job tells it.
    pub(crate) fn adopt(&self, history: History) {
        let mut known = self.known();
        let since = std::time::Duration::try_from_secs_f64(history.now_s).unwrap_or_default();
        known.began = Instant::now().checked_sub(since).unwrap_or(known.began);
        known.history = history;
    }

    /// This process's rank is another one in the next epoch; or it has had none, or gets none.
    pub(crate) fn move_to(&self, before: Option<usize>, rank: Option<usize>) {
        let mut known = self.known();
        let vault = before.and_then(|before| known.vaults.get_mut(before)).map(std::mem::take);
        known.vaults.clear();
        let (Some(rank), Some(vault)) = (rank, vault) else { return };
        known.vaults.resize_with(rank + 1, Vault::default);
        known.vaults[rank] = vault;
    }
}
