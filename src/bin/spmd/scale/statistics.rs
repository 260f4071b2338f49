//! What a few launches of a program say, and how sure that is: by the rules of Hoefler and Belli
//! ("Scientific Benchmarking of Parallel Computing Systems", SC15). Times of a computer are not
//! normally distributed, so nothing here assumes that they are.

use serde::{Deserialize, Serialize};

use crate::statistics::{Random, median_of, quantile_of};

/// How sure an interval is to be.
const CONFIDENCE: f64 = 0.95;

/// A number, and between which values it lies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Estimate {
    pub(super) value: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// The times of the launches of one point.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Summary {
    pub(super) count: usize,
    pub(super) min: f64,
    pub(super) median: f64,
    /// The median of many more launches lies between these two samples.
    pub(super) low: f64,
    pub(super) high: f64,
    /// So sure is that: fewer than six launches cannot give 95 %.
    pub(super) confidence: f64,
    /// Of twenty launches, 19 are no slower.
    pub(super) p95: f64,
    pub(super) max: f64,
}

impl Summary {
    /// Of one sample or more.
    pub(super) fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let (from_the_end, confidence) = order(count);
        Self {
            count,
            min: sorted[0],
            median: median_of(&sorted),
            low: sorted[from_the_end],
            high: sorted[count - 1 - from_the_end],
            confidence,
            p95: quantile_of(&sorted, 0.95),
            max: sorted[count - 1],
        }
    }
}

/// Which samples bound the median, counted from both ends, and how sure that is: as many of the
/// samples lie below the median as heads come in as many tosses of a coin.
fn order(count: usize) -> (usize, f64) {
    let mut probability = 0.5_f64.powi(count as i32);
    let (mut outside, mut best) = (0.0, None);
    for from_the_end in 0..count.div_ceil(2) {
        outside += probability; // of so few heads, or so few tails
        let confidence = 1.0 - 2.0 * outside;
        if best.is_none() || confidence >= CONFIDENCE {
            best = Some((from_the_end, confidence.max(0.0)));
        }
        probability *= (count - from_the_end) as f64 / (from_the_end + 1) as f64;
    }
    best.unwrap_or((0, 0.0))
}

/// What `of` makes of the medians of these samples, with a percentile bootstrap: all are drawn again
/// from what was measured, many times, always in the same way. `None` where `of` has no answer, for
/// the medians or for more than one draw in twenty.
pub(super) fn bootstrap(
    samples: &[&[f64]],
    of: impl Fn(&[f64]) -> Option<f64>,
) -> Option<Estimate> {
    const DRAWS: usize = 2000;
    let mut random = Random(0x5eed);
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        median_of(&values)
    };
    let medians: Vec<f64> = samples.iter().map(|part| median(part.to_vec())).collect();
    let value = of(&medians)?;
    let mut drawn: Vec<f64> = (0..DRAWS)
        .filter_map(|_| {
            let medians: Vec<f64> = samples
                .iter()
                .map(|part| median(part.iter().map(|_| part[random.below(part.len())]).collect()))
                .collect();
            of(&medians)
        })
        .collect();
    if drawn.len() * 20 < DRAWS * 19 {
        return None;
    }
    drawn.sort_by(f64::total_cmp);
    let (low, high) = (quantile_of(&drawn, 0.025), quantile_of(&drawn, 0.975));
    Some(Estimate { value, low, high })
}

/// How likely it is that values as large as `new` come by chance from the same source as `old`: the
/// one-sided rank test of Mann, Whitney and Wilcoxon, exact, with ties.
pub(super) fn chance_of_larger(old: &[f64], new: &[f64]) -> f64 {
    if old.is_empty() || new.is_empty() {
        return 1.0;
    }
    let mut all: Vec<(f64, bool)> = old.iter().map(|&value| (value, false)).collect();
    all.extend(new.iter().map(|&value| (value, true)));
    all.sort_by(|left, right| left.0.total_cmp(&right.0));
    // Twice the rank; values that are equal share theirs.
    let mut ranks = Vec::with_capacity(all.len());
    for group in all.chunk_by(|left, right| left.0.total_cmp(&right.0).is_eq()) {
        let (first, last) = (ranks.len() + 1, ranks.len() + group.len());
        ranks.resize(last, first + last);
    }
    let seen: usize =
        ranks.iter().zip(&all).filter(|(_, (_, new))| *new).map(|(rank, _)| rank).sum();
    // How many choices of so many ranks have each sum: as floating-point numbers, of which only
    // ratios count.
    let most: usize = ranks.iter().sum();
    let mut choices = vec![vec![0.0_f64; most + 1]; new.len() + 1];
    choices[0][0] = 1.0;
    for &rank in &ranks {
        for chosen in (0..new.len()).rev() {
            for sum in (0..=most - rank).rev() {
                let so_far = choices[chosen][sum];
                choices[chosen + 1][sum + rank] += so_far;
            }
        }
    }
    let of_all = &choices[new.len()];
    of_all[seen..].iter().sum::<f64>() / of_all.iter().sum::<f64>()
}

/// Which of several chances are so small that, if nothing had changed anywhere, one would be found
/// with a probability of at most `error` (Holm's method).
pub(super) fn significant(chances: &[f64], error: f64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..chances.len()).collect();
    order.sort_by(|&left, &right| chances[left].total_cmp(&chances[right]));
    let mut found = vec![false; chances.len()];
    for (at, &which) in order.iter().enumerate() {
        if chances[which] > error / (chances.len() - at) as f64 {
            break;
        }
        found[which] = true;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(left: f64, right: f64) {
        assert!((left - right).abs() < 1e-9, "{left} is not {right}");
    }

    #[test]
    fn the_median_lies_between_samples_as_surely_as_the_tables_say() {
        // Ranks from 1 in tables of the binomial distribution: n = 6: 1 and 6; 10: 2 and 9; 20: 6 and 15.
        for (count, from_the_end, confidence) in [
            (1, 0, 0.0),
            (5, 0, 0.9375),
            (6, 0, 0.96875),
            (10, 1, 0.978_515_625),
            (20, 5, 0.958_610_534_667_969),
        ] {
            let (place, sure) = order(count);
            assert_eq!(place, from_the_end, "{count}");
            close(sure, confidence);
        }
        let summary = Summary::of(&[3.0, 1.0, 2.0, 10.0, 4.0]);
        assert_eq!((summary.median, summary.low, summary.high), (3.0, 1.0, 10.0));
        assert_eq!((summary.p95, summary.max, summary.count), (10.0, 10.0, 5));
    }

    #[test]
    fn the_rank_test_is_that_of_the_tables() {
        // 5 and 5, none of the old as large: 1 of 252 choices.
        close(
            chance_of_larger(&[1.0, 2.0, 3.0, 4.0, 5.0], &[6.0, 7.0, 8.0, 9.0, 10.0]),
            1.0 / 252.0,
        );
        close(chance_of_larger(&[6.0, 7.0, 8.0, 9.0, 10.0], &[1.0, 2.0, 3.0, 4.0, 5.0]), 1.0);
        // 3 and 3, one exchange: 2 of 20.
        close(chance_of_larger(&[1.0, 2.0, 4.0], &[3.0, 5.0, 6.0]), 0.1);
        // All the same: nothing can be said.
        close(chance_of_larger(&[1.0; 4], &[1.0; 4]), 1.0);
        close(chance_of_larger(&[], &[1.0]), 1.0);
    }

    #[test]
    fn of_many_chances_the_small_ones_count() {
        assert_eq!(significant(&[0.01, 0.04, 0.03], 0.05), [true, false, false]);
        assert_eq!(significant(&[0.01, 0.02, 0.03], 0.05), [true, true, true]);
        assert!(significant(&[], 0.05).is_empty());
    }

    #[test]
    fn what_has_no_answer_has_no_interval() {
        let samples: [&[f64]; 2] = [&[1.0, 1.1, 0.9], &[2.0, 2.2, 1.9]];
        let ratio = bootstrap(&samples, |medians| Some(medians[1] / medians[0])).unwrap();
        close(ratio.value, 2.0);
        assert!(ratio.low < 2.0 && ratio.high > 2.0, "{ratio:?}");
        assert_eq!(bootstrap(&samples, |_| None), None);
        assert_eq!(bootstrap(&samples, |medians| (medians[0] >= 1.0).then_some(0.0)), None);
    }
}
