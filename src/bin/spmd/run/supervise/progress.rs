//! What a program tells of its progress, over all its starts.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Deserialize;

/// As the library writes it (`src/told.rs`): of one start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Told {
    begun: bool,
    /// Older ones do not say so.
    keeps: Option<bool>,
    ranks: usize,
    steps: u64,
    resumed: Option<u64>,
    kept: Option<u64>,
    kept_steps: u64,
    survived: u64,
}

pub(super) struct Progress {
    /// Of this start.
    told: Option<Told>,
    /// The steps that were done before.
    before: u64,
    /// At which step the last checkpoints were kept.
    kept: BTreeMap<u64, u64>,
    /// Faults that earlier starts have got over by themselves.
    survived: u64,
    /// Some start has come to its first step.
    has_worked: bool,
    /// When something new was told, or the start began.
    changed: Instant,
}

/// A program goes on from one of its last checkpoints.
const REMEMBERED: usize = 8;

impl Progress {
    pub(super) fn new() -> Self {
        let (told, before, kept, survived) = (None, 0, BTreeMap::new(), 0);
        Self { told, before, kept, survived, has_worked: false, changed: Instant::now() }
    }

    /// The program is started again.
    pub(super) fn starts(&mut self) {
        self.survived += self.told.map_or(0, |told| told.survived);
        (self.told, self.before, self.changed) = (None, 0, Instant::now());
    }

    /// Whether with this it has come to its first step. What is no word of it is not heard.
    pub(super) fn hear(&mut self, text: &str) -> bool {
        let Ok(told) = serde_json::from_str::<Told>(text) else { return false };
        if self.told == Some(told) {
            return false;
        }
        let begins = told.begun && !self.has_begun();
        if begins {
            // Of one that was kept unheard, that before it is a lower bound.
            let before = told.resumed.and_then(|number| self.kept.range(..=number).next_back());
            self.before = before.map_or(0, |(_, step)| *step);
        }
        if let Some(number) = told.kept {
            self.kept.insert(number, self.before + told.kept_steps);
            while self.kept.len() > REMEMBERED {
                self.kept.pop_first();
            }
        }
        self.has_worked |= told.begun;
        (self.told, self.changed) = (Some(told), Instant::now());
        begins
    }

    pub(super) fn has_begun(&self) -> bool {
        self.told.is_some_and(|told| told.begun)
    }

    /// Whether any start has come to its first step.
    pub(super) fn has_worked(&self) -> bool {
        self.has_worked
    }

    /// Whether the program keeps checkpoints, and so stops when it is asked to go on later; nothing
    /// if it has not told.
    pub(super) fn keeps(&self) -> Option<bool> {
        self.told.filter(|told| told.begun).and_then(|told| told.keeps)
    }

    /// Whether this start has kept a checkpoint.
    pub(super) fn has_kept(&self) -> bool {
        self.told.is_some_and(|told| told.kept.is_some())
    }

    /// The last checkpoint there is, and at which step it was kept, if it is known.
    pub(super) fn checkpoint(&self) -> Option<(u64, Option<u64>)> {
        let told = self.told.unwrap_or_default();
        let number = told.kept.or(told.resumed).or(self.kept.keys().next_back().copied())?;
        Some((number, self.kept.get(&number).copied()))
    }

    /// The steps that are done.
    pub(super) fn step(&self) -> Option<u64> {
        self.told.map(|told| self.before + told.steps)
    }

    pub(super) fn survived(&self) -> u64 {
        self.survived + self.told.map_or(0, |told| told.survived)
    }

    /// How long nothing new has been told.
    pub(super) fn age(&self) -> Duration {
        self.changed.elapsed()
    }

    /// Nobody could listen for so long.
    pub(super) fn forgive(&mut self, time: Duration) {
        self.changed = (self.changed + time).min(Instant::now());
    }

    /// From where the program goes on, in words.
    pub(super) fn from(&self) -> String {
        let resumed = self.told.and_then(|told| told.resumed);
        match resumed.map(|number| (number, self.kept.get(&number))) {
            Some((number, Some(step))) => format!("from step {step} (checkpoint {number})"),
            Some((number, None)) => format!("from checkpoint {number}"),
            None => "from the beginning".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted_over_all_starts() {
        let mut progress = Progress::new();
        assert_eq!((progress.step(), progress.checkpoint()), (None, None));
        assert!(!progress.hear("garbage") && !progress.hear("[]"));
        assert!(progress.hear(r#"{"begun":true,"ranks":4,"steps":0}"#));
        assert_eq!((progress.from(), progress.keeps()), ("from the beginning".to_owned(), None));
        assert!(
            !progress.hear(r#"{"begun":true,"steps":25,"kept":2,"kept_steps":20,"survived":1}"#)
        );
        assert!(progress.has_kept());
        assert_eq!((progress.step(), progress.checkpoint()), (Some(25), Some((2, Some(20)))));
        progress.starts();
        assert!(!progress.has_begun() && !progress.has_kept() && progress.has_worked());
        assert_eq!(progress.checkpoint(), Some((2, Some(20))), "it is still there");
        assert!(progress.hear(r#"{"begun":true,"steps":0,"resumed":2}"#));
        assert_eq!(progress.from(), "from step 20 (checkpoint 2)");
        progress
            .hear(r#"{"begun":true,"steps":12,"resumed":2,"kept":3,"kept_steps":10,"survived":2}"#);
        assert_eq!((progress.step(), progress.checkpoint()), (Some(32), Some((3, Some(30)))));
        assert_eq!(progress.survived(), 3);
        // One that was kept when nobody could hear of it any more.
        progress.starts();
        assert!(progress.hear(r#"{"begun":true,"steps":1,"resumed":5}"#));
        assert_eq!((progress.step(), progress.from()), (Some(31), "from checkpoint 5".to_owned()));
        // Of an earlier run nobody knows at which step it was.
        let mut progress = Progress::new();
        assert!(!progress.hear(r#"{"begun":false,"keeps":false}"#));
        assert_eq!((progress.keeps(), progress.has_worked()), (None, false));
        assert!(progress.hear(r#"{"begun":true,"keeps":false,"steps":0,"resumed":7}"#));
        assert_eq!((progress.keeps(), progress.has_worked()), (Some(false), true));
        assert_eq!(progress.from(), "from checkpoint 7");
        assert_eq!(progress.checkpoint(), Some((7, None)));
    }
}
