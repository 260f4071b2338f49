//! What the repetitions of one measurement say.

use crate::statistics::{median_of, quantile_of};

/// What the batches of one measurement say, in the unit of the samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Summary {
    pub(super) mean: f64,
    pub(super) median: f64,
    /// Of a hundred samples, 99 are no larger.
    pub(super) p99: f64,
    /// The mean of many more samples lies between these two, with 95 % confidence; never below the
    /// smallest sample.
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Summary {
    /// Of one sample or more.
    pub(super) fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = samples.len() as f64;
        let mean = samples.iter().sum::<f64>() / count;
        let squares = samples.iter().map(|sample| (sample - mean).powi(2)).sum::<f64>();
        let margin = match samples.len() {
            1 => 0.0,
            _ => student_t(samples.len() - 1) * (squares / (count - 1.0) / count).sqrt(),
        };
        let (median, p99) = (median_of(&sorted), quantile_of(&sorted, 0.99));
        Self { mean, median, p99, low: (mean - margin).max(sorted[0]), high: mean + margin }
    }
}

/// Between minus and plus this many standard errors lie 95 % of Student's distribution.
///
/// From the tables up to three degrees of freedom, beyond by its expansion about the normal
/// distribution (Abramowitz and Stegun 26.7.5), which is right within 1 % there.
fn student_t(freedom: usize) -> f64 {
    const NORMAL: f64 = 1.959_964;
    match freedom {
        1 => 12.706,
        2 => 4.303,
        3 => 3.182,
        _ => {
            let (z, v) = (NORMAL, freedom as f64);
            let first = (z.powi(3) + z) / 4.0;
            let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
            let third = (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0;
            z + first / v + second / v.powi(2) + third / v.powi(3)
        }
    }
}

/// How `total` repetitions are split: into batches of nearly the same size, each timed as a whole.
///
/// A hundred of them, so that the slowest one in a hundred can be told and looking at the clock
/// costs nothing.
pub(super) fn batches(total: usize) -> impl Iterator<Item = usize> {
    const MOST: usize = 100;
    let count = total.clamp(1, MOST);
    (0..count).map(move |batch| total / count + usize::from(batch < total % count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(left: f64, right: f64, tolerance: f64) {
        assert!((left - right).abs() < tolerance, "{left} is not {right}");
    }

    #[test]
    fn a_summary_of_the_first_hundred_numbers() {
        let numbers: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let summary = Summary::of(&numbers);
        close(summary.mean, 50.5, 1e-12);
        close(summary.median, 50.5, 1e-12);
        close(summary.p99, 99.0, 1e-12);
        // Standard deviation 29.011, of the mean 2.9011, and t(99) = 1.9842.
        close(summary.high - summary.mean, 5.7565, 1e-3);
        close(summary.mean - summary.low, 5.7565, 1e-3);
    }

    #[test]
    fn one_sample_is_all_there_is_to_say() {
        let summary = Summary::of(&[3.0]);
        assert_eq!(summary, Summary { mean: 3.0, median: 3.0, p99: 3.0, low: 3.0, high: 3.0 });
    }

    #[test]
    fn students_distribution_is_that_of_the_tables() {
        for (freedom, t) in
            [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (10, 2.228), (99, 1.984)]
        {
            close(student_t(freedom), t, 0.01);
        }
    }

    #[test]
    fn batches_add_up_and_hardly_differ() {
        for total in [1, 2, 20, 99, 100, 101, 1000, 1234, 10_000] {
            let sizes: Vec<usize> = batches(total).collect();
            assert_eq!(sizes.iter().sum::<usize>(), total);
            assert!(sizes.len() <= 100);
            assert!(sizes[0] - sizes[sizes.len() - 1] <= 1 && sizes[sizes.len() - 1] > 0);
        }
    }
}
