//! Random numbers that belong to places, not to whoever draws them.
//!
//! A generator that goes from number to number gives each rank other numbers when there are more
//! ranks. Here each index has numbers of its own: whoever computes the particle, the cell or the
//! sample with that index draws the same ones, on any rank and thread, in any order.
//!
//! ```
//! use spmd::random::Random;
//! let noise = Random::new(42);
//! let sum = |range: std::ops::Range<u64>| -> f64 {
//!     range.map(|index| (noise.at(index).uniform() * 1e6).floor()).sum()
//! };
//! assert_eq!(sum(0..100), sum(60..100) + sum(0..60));
//! ```
//!
//! [`DistArray::fill_random`](crate::array::DistArray::fill_random) does so for all cells of an
//! array.
//!
//! The generator is Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy
//! as 1, 2, 3", 2011), a function of a key and a counter, as in C++26, `cuRAND` and `PyTorch`. The
//! seed is its key; its counter holds, from the lowest word up, the number of the block of four
//! words (32 bits), the index (64 bits) and the stream (32 bits).

use std::convert::Infallible;

use rand_core::TryRng;
use rand_philox::Philox;

/// Random numbers for every index: what a seed and a stream stand for.
///
/// Two of them that differ in seed or stream have nothing to do with each other, nor have two
/// indices. Streams are for one program's several purposes: the fields of a model, time steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Random {
    seed: u64,
    stream: u32,
}

impl Random {
    /// Stream 0 of a seed; any seed is as good as another.
    pub const fn new(seed: u64) -> Self {
        Self { seed, stream: 0 }
    }

    /// Another stream of the same seed.
    #[must_use]
    pub const fn stream(self, stream: u32) -> Self {
        Self { stream, ..self }
    }

    /// The generator of an index, at its first number.
    ///
    /// Costs nothing by itself: the first of four 32-bit numbers is computed together with the
    /// others when it is drawn, in ten rounds of two multiplications (about 15 ns).
    #[inline]
    pub fn at(self, index: u64) -> Generator {
        self.block(index, 0)
    }

    #[inline]
    fn block(self, index: u64, block: u32) -> Generator {
        let counter = u128::from(self.stream) << 96 | u128::from(index) << 32 | u128::from(block);
        Generator(Philox::new([self.seed as u32, (self.seed >> 32) as u32], counter))
    }
}

impl From<u64> for Random {
    /// As [`Random::new`].
    fn from(seed: u64) -> Self {
        Self::new(seed)
    }
}

/// The random numbers of one index, one after the other: 2³⁴ of 32 bits, then come those of the
/// next index.
///
/// It is a generator of `rand_core` 0.10, so the distributions of `rand` 0.10 and those built upon
/// it draw from it. What they make of its bits may change with their versions; what
/// [`uniform`](Self::uniform) makes of them stays.
///
/// ```
/// use rand::{RngExt, seq::SliceRandom}; // rand = { version = "0.10", default-features = false }
/// use spmd::random::Random;
/// let mut random = Random::new(7).at(1000);
/// let die = random.random_range(1..=6);
/// assert!((1..=6).contains(&die));
/// let mut cards: Vec<u32> = (0..52).collect();
/// cards.shuffle(&mut random);
/// ```
#[derive(Clone, Debug)]
pub struct Generator(Philox);

impl Generator {
    /// A number from 0 up to but not 1, all multiples of 2⁻⁵³ equally likely.
    #[inline]
    pub fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * (f64::EPSILON / 2.0)
    }
}

impl TryRng for Generator {
    type Error = Infallible;

    #[inline]
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.next_u32())
    }

    #[inline]
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.try_fill_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use rand_core::Rng;

    use super::*;

    /// `kat_vectors` of Random123, the authors' own library: counter and key of one block, lowest
    /// words first, and the block.
    const KNOWN: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
        ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([!0; 4], [!0; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];

    fn wide([low, high]: [u32; 2]) -> u64 {
        u64::from(high) << 32 | u64::from(low)
    }

    #[test]
    fn numbers_are_those_that_are_published() {
        for (counter, key, words) in KNOWN {
            let [block, low, high, stream] = counter;
            let random = Random::new(wide(key)).stream(stream);
            let mut generator = random.block(wide([low, high]), block);
            assert_eq!([(); 4].map(|()| generator.next_u32()), words);
            let mut generator = random.block(wide([low, high]), block);
            assert_eq!(generator.next_u64(), wide([words[0], words[1]]));
            let mut bytes = [0; 8];
            generator.fill_bytes(&mut bytes);
            assert_eq!(u64::from_le_bytes(bytes), wide([words[2], words[3]]));
        }
        // The value that the standard of C++26 demands of std::philox4x32: the 10000th number of
        // the seed 20111115.
        let mut generator = Random::from(20_111_115).at(0);
        let last = (0..10_000).map(|_| generator.next_u32()).last();
        assert_eq!(last, Some(1_955_073_260));
    }

    type Way = Box<dyn FnMut(u32) -> f64>;

    #[test]
    fn numbers_are_uniform_and_independent_along_each_way() {
        const COUNT: u32 = 1 << 14;
        const BASE: Random = Random::new(1);
        // The n-th number, where n is the number drawn, the index, the stream, the seed, or the
        // index of one column of a wide array.
        let mut drawn = BASE.at(0);
        let mut ways: [(&str, Way); 5] = [
            ("numbers", Box::new(move |_| drawn.uniform())),
            ("indices", Box::new(|n| BASE.at(n.into()).uniform())),
            ("streams", Box::new(|n| BASE.stream(n).at(0).uniform())),
            ("seeds", Box::new(|n| Random::new(n.into()).at(0).uniform())),
            ("strides", Box::new(|n| BASE.at(u64::from(n) << 40).uniform())),
        ];
        for (name, next) in &mut ways {
            let numbers: Vec<f64> = (0..COUNT).map(next).collect();
            assert!(numbers.iter().all(|number| (0.0..1.0).contains(number)));
            let count = f64::from(COUNT);
            // In standard deviations: those of a mean, and of a correlation, of uniform numbers.
            let mean = numbers.iter().sum::<f64>() / count - 0.5;
            let mean = mean * (12.0 * count).sqrt();
            let pairs = numbers.windows(2).map(|pair| (pair[0] - 0.5) * (pair[1] - 0.5));
            let correlation = pairs.sum::<f64>() * 12.0 / count.sqrt();
            // 256 pairs of digits, by chi squared: its deviation is that of 255 degrees of freedom.
            let mut cells = [0_u32; 256];
            for pair in numbers.chunks_exact(2) {
                cells[(pair[0] * 16.0) as usize * 16 + (pair[1] * 16.0) as usize] += 1;
            }
            let expected = count / 2.0 / 256.0;
            let chi = cells.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected);
            let chi = (chi.sum::<f64>() - 255.0) / 510_f64.sqrt();
            for (what, deviation) in [("mean", mean), ("correlation", correlation), ("chi", chi)] {
                assert!(deviation.abs() < 4.0, "{name}: {what} {deviation}");
            }
        }
    }
}
