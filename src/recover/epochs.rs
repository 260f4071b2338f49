//! What outlives the epochs of a run in this process: what ranks hold in memory, and what happened.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
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
    pub(super) options: &'a RecoverArgs,
    began: Instant,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// By rank: what each holds while no rank runs.
    vaults: Vec<Vault>,
    epochs: Vec<Epoch>,
    /// Losses in a row without a commit between them.
    barren: u32,
    /// When what is kept in memory, and on disk, was the state of the program.
    memory_s: f64,
    disk_s: f64,
}

impl<'a> Epochs<'a> {
    pub(crate) fn new(options: &'a RecoverArgs) -> Self {
        Self { options, began: Instant::now(), known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_s(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// An epoch of so many ranks begins.
    pub(crate) fn begin(&self, ranks: usize) {
        let mut known = self.known();
        known.vaults.resize_with(ranks, Vault::default);
        let began_s = self.now_s();
        known.epochs.push(Epoch {
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
        (self.known().epochs.len() as u64).saturating_sub(1)
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
        let now_s = self.now_s();
        if let Some(epoch) = self.known().epochs.last_mut() {
            note(epoch, now_s);
        }
    }

    /// The state has been restored, or is that of the beginning; which is said after a loss.
    pub(super) fn note_restored(&self, from: Origin) {
        let now_s = self.now_s();
        let mut known = self.known();
        let kept_s = match from {
            Origin::Beginning => 0.0,
            Origin::Memory => known.memory_s,
            Origin::Disk => known.disk_s,
        };
        known.memory_s = now_s; // it is committed at once
        if let Some(now) = known.epochs.last_mut() {
            (now.restored_s, now.from) = ((from != Origin::Beginning).then_some(now_s), from);
        }
        let before = known.epochs.iter().rev().nth(1);
        let Some(lost_s) = before.and_then(|before| before.lost_s) else { return };
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
        let now_s = self.now_s();
        let mut known = self.known();
        if place == Origin::Disk {
            known.disk_s = now_s;
            return;
        }
        known.memory_s = now_s;
        if let Some(epoch) = known.epochs.last_mut() {
            epoch.last_commit_s = Some(now_s);
            epoch.commits += 1;
        }
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

    /// How many ranks go on after an epoch that has ended so.
    ///
    /// # Errors
    /// Why none does.
    pub(crate) fn next(&self, ended: Ended) -> Result<usize, NoNext> {
        let mut known = self.known();
        let mut vaults = std::mem::take(&mut known.vaults);
        let ranks = vaults.len();
        let (next, vaults) = match ended {
            Ended::Resized(ranks) => {
                while vaults.len() > ranks {
                    // Who leaves hands over what it holds.
                    let leaves = vaults.pop().unwrap_or_default();
                    let heir = vaults.len() % ranks;
                    vaults[heir].absorb(leaves);
                }
                known.barren = 0;
                (ranks, vaults)
            }
            Ended::Lost(losses) => {
                let lost: Vec<usize> = losses.iter().map(|loss| loss.rank).collect();
                let epoch = known.epochs.last_mut();
                let commits = epoch.as_ref().map_or(0, |epoch| epoch.commits);
                if let Some(epoch) = epoch {
                    epoch.lost = losses;
                }
                known.barren = if commits > 0 { 1 } else { known.barren + 1 };
                if known.barren >= self.options.give_up.max(1) {
                    return Err(NoNext::AtFault(format!(
                        "{} losses in a row, and no commit between them: this is no accident of a machine, the program is \
                         at fault",
                        known.barren
                    )));
                }
                match self.options.on_loss {
                    OnLoss::Respawn => {
                        for rank in lost {
                            if let Some(vault) = vaults.get_mut(rank) {
                                *vault = Vault::default();
                            }
                        }
                        (ranks, vaults)
                    }
                    OnLoss::Shrink => {
                        let left = vaults.into_iter().enumerate();
                        let left = left.filter(|(rank, _)| !lost.contains(rank));
                        let vaults: Vec<Vault> = left.map(|(_, vault)| vault).collect();
                        let next = vaults.len();
                        let least = self.options.min_ranks.get();
                        if next < least {
                            return Err(NoNext::TooFew(format!(
                                "{next} of {ranks} ranks are left, and --min-ranks asks for {least}"
                            )));
                        }
                        (next, vaults)
                    }
                }
            }
        };
        known.vaults = vaults;
        Ok(next)
    }

    /// What happened.
    pub(crate) fn report(&self) -> Vec<Epoch> {
        self.known().epochs.clone()
    }
}
