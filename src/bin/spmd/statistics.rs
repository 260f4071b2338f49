//! What a list of numbers says: median, tail, the ratio to another, and how sure that is.

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

#[cfg(test)]
mod tests {
    use super::*;

    fn close(left: f64, right: f64, tolerance: f64) {
        assert!((left - right).abs() < tolerance, "{left} is not {right}");
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
}
