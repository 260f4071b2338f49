//! Whether a study is slower than an earlier one.

use serde::{Deserialize, Serialize};

use super::{
    statistics::{chance_of_larger, significant},
    study::{Found, Study},
};
use crate::statistics::{Ratio, median};

/// If nothing has changed anywhere, a point is called slower with this probability at most.
pub(super) const ERROR: f64 = 0.05;

/// For old and new times of several points: how likely the new ones are if nothing has changed, and
/// which of them are slower.
fn slower(points: &[(&[f64], &[f64])]) -> (Vec<f64>, Vec<bool>) {
    let chances: Vec<f64> = points.iter().map(|(old, new)| chance_of_larger(old, new)).collect();
    let found = significant(&chances, ERROR);
    (chances, found)
}

/// What comparing two studies has found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Comparison {
    pub(super) points: Vec<Compared>,
    /// What is to be known beside it.
    pub(super) notes: Vec<String>,
}

/// A point of both studies.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Compared {
    pub(super) name: String,
    pub(super) before_s: f64,
    pub(super) now_s: f64,
    /// The new median over the old one, and between which values it lies.
    pub(super) ratio: (f64, f64, f64),
    /// How likely the new times are, if nothing has changed.
    pub(super) chance: f64,
    pub(super) slower: bool,
}

impl Comparison {
    /// Compares the points that both have. `threshold` is the share by which a median must have
    /// grown to count.
    ///
    /// # Errors
    /// If there is no point to compare.
    pub(super) fn new(old: &Study, new: &Study, threshold: f64) -> Result<Self, String> {
        let same = |old: &Found, new: &Found| {
            let key = |found: &Found| {
                (
                    found.point.mode,
                    found.point.ranks,
                    found.point.threads,
                    found.point.arguments.clone(),
                )
            };
            key(old) == key(new) && old.state == new.state
        };
        let pairs: Vec<(&Found, &Found)> = new
            .points
            .iter()
            .filter(|found| !found.seconds.is_empty())
            .filter_map(|new| {
                let old = old.points.iter().find(|old| same(old, new))?;
                (!old.seconds.is_empty()).then_some((old, new))
            })
            .collect();
        if pairs.is_empty() {
            return Err("no point of this study is in the other one, with the same arguments and in the same state"
                .to_owned());
        }
        let times: Vec<(&[f64], &[f64])> =
            pairs.iter().map(|(old, new)| (&*old.seconds, &*new.seconds)).collect();
        let (chances, found) = slower(&times);
        let points: Vec<Compared> = pairs
            .iter()
            .zip(chances.iter().zip(found))
            .map(|((old, new), (&chance, found))| {
                let Ratio { value, low, high } = Ratio::of(&new.seconds, &old.seconds);
                Compared {
                    name: new.point.name(),
                    before_s: median(&old.seconds),
                    now_s: median(&new.seconds),
                    ratio: (value, low, high),
                    chance,
                    slower: found && value > 1.0 + threshold,
                }
            })
            .collect();
        let mut notes = Vec::new();
        let least = |(old, new): &(&Found, &Found)| {
            // All of the new ones larger: one choice of so many.
            let (chosen, all) = (new.seconds.len(), old.seconds.len() + new.seconds.len());
            (1..=chosen).map(|at| at as f64 / (all - chosen + at) as f64).product::<f64>()
        };
        let blind = pairs.iter().filter(|pair| least(pair) > ERROR / pairs.len() as f64).count();
        if blind > 0 {
            notes.push(format!(
                "{blind} of {} points have too few launches for anything to be found: more of --launches, or fewer points",
                pairs.len()
            ));
        }
        for fact in ["machine", "processor", "engine", "system"] {
            let (before, now) = (old.card.fact(fact), new.card.fact(fact));
            if before != now {
                notes.push(format!(
                    "another {fact}: {}, before {}",
                    now.unwrap_or("unknown"),
                    before.unwrap_or("unknown")
                ));
            }
        }
        let missing = new.points.len() - pairs.len();
        if missing > 0 {
            notes.push(format!("{missing} points are not in both, or in another state"));
        }
        Ok(Self { points, notes })
    }

    pub(super) fn is_slower(&self) -> bool {
        self.points.iter().any(|point| point.slower)
    }

    /// A line for each point, and what to know beside it.
    pub(super) fn text(&self) -> String {
        let mut text = String::from("beside the earlier study\n");
        for Compared { name, before_s, now_s, ratio, chance, slower } in &self.points {
            let word = if *slower { "SLOWER" } else { "" };
            let line = format!(
                "  {name:<16} {before_s:>10.4} s -> {now_s:>10.4} s  x {:.3} [{:.3}, {:.3}]  chance {chance:<8.2e} {word}",
                ratio.0, ratio.1, ratio.2
            );
            text += line.trim_end();
            text.push('\n');
        }
        for note in &self.notes {
            text.extend(["  * ", note, "\n"]);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{scale::study::tests::synthetic, statistics::Random};

    fn study(seed: u64, factor: f64) -> Study {
        let time = |p: usize| (if p == 4 { factor } else { 1.0 }) / p as f64;
        synthetic(seed, &[1, 2, 4, 8], 7, 0.03, time, |_, _| 0.0)
    }

    #[test]
    fn a_planted_regression_is_found_where_it_is() {
        let compared = Comparison::new(&study(1, 1.0), &study(2, 1.15), 0.05).unwrap();
        let slower: Vec<&str> = compared
            .points
            .iter()
            .filter(|point| point.slower)
            .map(|point| point.name.as_str())
            .collect();
        assert_eq!(slower, ["strong 4 x 1"]);
        assert!(compared.text().contains("SLOWER"), "{}", compared.text());
        let faster = Comparison::new(&study(2, 1.15), &study(1, 1.0), 0.05).unwrap();
        assert!(!faster.is_slower());
    }

    #[test]
    fn what_has_not_changed_is_called_slower_no_more_often_than_stated() {
        let mut random = Random(7);
        let mut launches = || -> Vec<f64> {
            let mut chance = || (0..4).map(|_| random.below(1000) as f64).sum::<f64>();
            (0..6).map(|_| 1.0 + 1e-4 * chance().powi(2) / 1000.0).collect()
        };
        let studies = 1000;
        let mut wrong = 0;
        for _ in 0..studies {
            let points: Vec<_> = (0..4).map(|_| (launches(), launches())).collect();
            let times: Vec<(&[f64], &[f64])> =
                points.iter().map(|(old, new)| (&**old, &**new)).collect();
            wrong += usize::from(slower(&times).1.contains(&true));
        }
        // 50 of 1000 are promised; more than 68 would come in one case of a hundred.
        assert!(wrong <= 68, "{wrong} of {studies}");
    }

    #[test]
    fn too_few_launches_and_other_machines_are_told() {
        let few = |seed| synthetic(seed, &[1, 2, 4], 2, 0.01, |p| 1.0 / p as f64, |_, _| 0.0);
        let mut new = few(2);
        new.card.add("processor", Some("another".to_owned()));
        let notes = Comparison::new(&few(1), &new, 0.05).unwrap().notes.join("\n");
        assert!(notes.contains("3 of 3 points have too few launches"), "{notes}");
        assert!(notes.contains("another processor: another, before unknown"), "{notes}");
        let other = synthetic(1, &[3], 2, 0.01, |_| 1.0, |_, _| 0.0);
        assert!(Comparison::new(&few(1), &other, 0.05).is_err());
    }
}
