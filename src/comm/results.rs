//! What a program says of its own run: its results, whether they are right, and which part of the
//! run counts.

use std::{collections::BTreeMap, time::Instant};

use serde::{Deserialize, Serialize};

use super::{Comm, Max, Stats};
use crate::{
    error::{Failure, Result},
    usage::{self, Usage},
};

/// What a rank's program has said of its own run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) numbers: BTreeMap<String, Option<f64>>,
    pub(crate) verification: Option<Verification>,
    pub(crate) timed: Option<Timed>,
}

/// What a program thinks of its own result; see [`Comm::verified`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// Whether it is right.
    pub passed: bool,
    /// What was compared, in words.
    pub how: String,
}

/// What the timed parts of a rank's run have cost; see [`Comm::timed`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timed {
    /// How many parts there were.
    pub parts: u64,
    /// Seconds that they took the slowest rank: the same on all ranks.
    pub slowest_s: f64,
    /// Seconds that they took this rank.
    pub own_s: f64,
    /// What its threads have had of their CPUs meanwhile, where the system counts that.
    pub usage: Option<Usage>,
    /// What its calls have cost meanwhile.
    pub stats: Stats,
}

/// # Results
///
/// What goes into the record of the run ([`RunArgs::record`](crate::RunArgs::record)), beside what is
/// measured.
impl Comm {
    /// Does the work that counts, and says how many seconds it took the slowest rank.
    ///
    /// All ranks begin together. The record of the run has what these parts took, apart from what
    /// comes before and after: reading, warming up, verification. Several parts add up.
    ///
    /// # Collective
    /// All ranks; a barrier and an allreduce beside the work.
    ///
    /// # Examples
    /// ```
    /// let seconds = spmd::local(2, |world| {
    ///     let (sum, seconds) = world.timed(|| Ok(world.allreduce_one(1, spmd::op::Sum)?))?;
    ///     assert_eq!(sum, 2);
    ///     Ok(seconds)
    /// }).unwrap();
    /// assert_eq!(seconds[0], seconds[1]);
    /// ```
    #[track_caller]
    pub fn timed<R>(&self, work: impl FnOnce() -> Result<R, Failure>) -> Result<(R, f64), Failure> {
        self.barrier()?;
        let before = self.observer.is_counting().then(|| (self.stats(), usage::of_this_rank()));
        if before.is_some() {
            // Looking took a moment. What makes good for that is none of the costs.
            self.record_stats(false);
            let met = self.barrier();
            self.record_stats(true);
            met?;
        }
        let clock = Instant::now();
        let result = work()?;
        let own_s = clock.elapsed().as_secs_f64();
        let after = before.map(|before| (before, self.stats(), usage::of_this_rank()));
        let slowest_s = self.allreduce_one(own_s, Max)?;
        let mut results = self.observer.results.borrow_mut();
        let timed = results.timed.get_or_insert_default();
        timed.parts += 1;
        timed.slowest_s += slowest_s;
        timed.own_s += own_s;
        if let Some(((stats, usage), stats_now, usage_now)) = after {
            timed.stats.add(&stats_now.since(&stats));
            if let (Some(before), Some(now)) = (usage, usage_now) {
                timed.usage.get_or_insert_default().add(&now.since(&before));
            }
        }
        Ok((result, slowest_s))
    }

    /// Notes a number that the program has found, by its name, for the record of the run; the last
    /// of a name counts. Units belong into the name: `energy_j`.
    ///
    /// What a program calls `time_s` is what scaling studies compare, else the time of its
    /// [`timed`](Self::timed) parts, else the whole run.
    pub fn result(&self, name: &str, value: f64) {
        // No number has no place in JSON.
        let value = value.is_finite().then_some(value);
        self.observer.results.borrow_mut().numbers.insert(name.to_owned(), value);
    }

    /// Notes whether the program's result has passed its own check, and what was compared, for the
    /// record of the run; a check that did not pass is not forgotten for a later one that did.
    ///
    /// The job goes on: [`Failure::verification`] ends it.
    pub fn verified(&self, passed: bool, how: &str) {
        let verification = &mut self.observer.results.borrow_mut().verification;
        if verification.as_ref().is_none_or(|earlier| earlier.passed) {
            *verification = Some(Verification { passed, how: how.to_owned() });
        }
    }

    /// What the program has said so far.
    pub(crate) fn results(&self) -> Results {
        self.observer.results.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timed_part_has_its_own_costs_only() {
        let all = crate::local(2, |world| {
            world.record_stats(true);
            world.allreduce_one(1, crate::op::Sum)?;
            for _ in 0..3 {
                world.timed(|| Ok(world.bcast_one(0, || 1_u64)?))?;
            }
            Ok(world.results().timed.unwrap())
        });
        let all = all.unwrap();
        for timed in &all {
            assert_eq!((timed.parts, timed.slowest_s), (3, all[0].slowest_s));
            assert!(timed.own_s <= timed.slowest_s);
            let calls: Vec<_> =
                timed.stats.operations.iter().map(|(op, o)| (&**op, o.calls)).collect();
            assert_eq!(calls, [("bcast_one", 3)]);
            assert_eq!(timed.usage.is_some(), cfg!(target_os = "linux"));
        }
    }

    #[test]
    fn numbers_are_kept_and_a_failed_check_stays_failed() {
        let results = crate::local(1, |world| {
            world.result("speed", 1.0);
            world.result("speed", 2.0);
            world.result("error", f64::NAN);
            world.verified(true, "first");
            world.verified(false, "second");
            world.verified(true, "third");
            Ok(world.results())
        });
        let Results { numbers, verification, timed } = results.unwrap().remove(0);
        let numbers: Vec<_> = numbers.iter().map(|(name, value)| (&**name, *value)).collect();
        assert_eq!(numbers, [("error", None), ("speed", Some(2.0))]);
        assert_eq!(verification, Some(Verification { passed: false, how: "second".to_owned() }));
        assert_eq!(timed, None);
    }
}
