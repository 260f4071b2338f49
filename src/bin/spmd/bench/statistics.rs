//! What a list of numbers says: mean, median, tail, and how sure that is.

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

/// The middle of ascending numbers, or halfway between the two in the middle.
pub(crate) fn median_of(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

/// The smallest of ascending numbers that a `share` of all do not exceed.
pub(crate) fn quantile_of(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
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

/// The median of numbers in any order; one at least.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    median_of(&sorted)
}

/// The ratio of two medians, and between which values it lies with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Ratio {
    /// Of launches of one program to launches of another. The interval is a percentile bootstrap:
    /// both are drawn again from what was measured, many times, always in the same way.
    pub(crate) fn of(over: &[f64], under: &[f64]) -> Self {
        const DRAWS: usize = 4000;
        let mut random = Random(0x5eed);
        let mut draw = |from: &[f64]| {
            let drawn: Vec<f64> = from.iter().map(|_| from[random.below(from.len())]).collect();
            median(&drawn)
        };
        let mut ratios: Vec<f64> = (0..DRAWS).map(|_| draw(over) / draw(under)).collect();
        ratios.sort_by(f64::total_cmp);
        let value = median(over) / median(under);
        Self { value, low: quantile_of(&ratios, 0.025), high: quantile_of(&ratios, 0.975) }
    }
}

/// Random enough to draw samples: a multiplicative congruential generator (Knuth, TAOCP 3.3.4, the
/// constants of MMIX).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, count: usize) -> usize {
        const FACTOR: u64 = 6_364_136_223_846_793_005;
        const ADDEND: u64 = 1_442_695_040_888_963_407;
        self.0 = self.0.wrapping_mul(FACTOR).wrapping_add(ADDEND);
        // The upper bits are the random ones.
        (self.0 >> 33) as usize % count
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
    fn a_ratio_lies_within_its_interval() {
        let (slow, fast) =
            ([2.0, 2.2, 1.9, 2.1, 2.0, 2.05, 5.0], [1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 1.0]);
        let ratio = Ratio::of(&slow, &fast);
        close(ratio.value, 2.05, 1e-12);
        assert!(1.8 < ratio.low && ratio.low < ratio.value, "{ratio:?}");
        assert!(
            ratio.value < ratio.high && ratio.high < 2.6,
            "one slow launch does not matter: {ratio:?}"
        );
        assert_eq!(Ratio::of(&slow, &fast), ratio, "the same each time");
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
