//! What the NAS Parallel Benchmarks have in common: classes of sizes, and random numbers.

/// The size of a problem: sample, workstation, and two of the standard ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "UPPER")]
pub(crate) enum Class {
    S,
    W,
    A,
    B,
}

/// The random numbers of all NPB programs: x ← 5¹³·x mod 2⁴⁶, divided by 2⁴⁶.
#[derive(Clone, Copy)]
pub(crate) struct Random(u64);

impl Random {
    const FACTOR: u64 = 1_220_703_125;
    const MASK: u64 = (1 << 46) - 1;

    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Leaves out the next so many numbers, in log₂ as many steps: so each rank begins where its
    /// part of the sequence does.
    pub(crate) fn skip(self, count: u64) -> Self {
        let (mut x, mut power, mut left) = (self.0, Self::FACTOR, count);
        while left > 0 {
            if left & 1 == 1 {
                x = x.wrapping_mul(power) & Self::MASK;
            }
            power = power.wrapping_mul(power) & Self::MASK;
            left >>= 1;
        }
        Self(x)
    }

    /// The next number, between 0 and 1.
    #[inline]
    pub(crate) fn draw(&mut self) -> f64 {
        // What does not fit into 64 bits is a multiple of 2⁴⁶.
        self.0 = self.0.wrapping_mul(Self::FACTOR) & Self::MASK;
        self.0 as f64 / (1_u64 << 46) as f64
    }
}
