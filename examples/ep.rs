//! NPB EP, "embarrassingly parallel": pairs of normally distributed random numbers by Marsaglia's
//! polar method, their sums, and how many lie in each square annulus around the origin.
//!
//! The ranks exchange nothing before the last sum. Each begins in its own place of the sequence of
//! random numbers; its threads share its blocks of pairs.
//!
//! ```text
//! cargo run --release --example ep -- --class A
//! ```

use std::process::ExitCode;

use clap::Parser;
use rayon::prelude::*;
use spmd::{array::block_range, prelude::*};

use self::npb::{Class, Random};

mod common;
pub(crate) mod npb;

/// Pairs of a block: a piece of work for a thread.
const BLOCK: u64 = 1 << 16;
/// Pairs that are drawn before any of them is looked at.
const BATCH: usize = 1 << 8;
const SEED: u64 = 271_828_183;
/// The largest relative error of a sum that passes.
const TOLERANCE: f64 = 1e-8;

/// NPB EP: sums of random numbers with a normal distribution
#[derive(Parser)]
struct Args {
    /// Size: 2^24, 2^25, 2^28 or 2^30 pairs
    #[arg(long, value_enum, default_value = "W", ignore_case = true)]
    class: Class,
    #[command(flatten)]
    run: RunArgs,
}

/// What is known of some pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    /// The sums of the first and of the second numbers.
    pub(crate) sums: [f64; 2],
    /// The number of pairs.
    pub(crate) pairs: u64,
    /// How many of them have a larger coordinate in 0..1, 1..2, and so on.
    pub(crate) annuli: [u64; 10],
}

fn main() -> ExitCode {
    let args: Args = spmd::parse();
    args.run.run(|world| simulate(world, args.class))
}

fn simulate(world: &Comm, class: Class) -> Result<(), Failure> {
    let candidates = 1_u64 << log2_candidates(class);
    common::announce(world, &format!("EP class {class:?}: {candidates} candidates"));
    let (tally, seconds) = world.timed(|| {
        let blocks = block_range((candidates / BLOCK) as usize, world.size(), world.rank());
        let mine = blocks.into_par_iter().map(|block| tally_block(block as u64));
        let Tally { sums, pairs, annuli } = mine.reduce(Tally::default, Tally::plus);
        let sums = world.allreduce(&sums, Sum)?;
        let counts = world.allreduce(&[&annuli[..], &[pairs]].concat(), Sum)?;
        let (annuli, pairs) = counts.split_at(10);
        Ok(Tally {
            sums: [sums[0], sums[1]],
            pairs: pairs[0],
            annuli: std::array::from_fn(|ring| annuli[ring]),
        })
    })?;
    if world.rank() == 0 {
        println!("pairs: {}, by annulus {:?}", tally.pairs, tally.annuli);
    }
    let rate = format!("{:.3e} candidates/s", candidates as f64 / seconds);
    common::conclude(world, seconds, &rate, verify(class, &tally))
}

/// The pairs that a block of candidates has: points of the square that lie in the unit circle.
fn tally_block(block: u64) -> Tally {
    let mut random = Random::new(SEED).skip(2 * BLOCK * block);
    let mut tally = Tally::default();
    let [mut xs, mut ys, mut squares] = [[0.0; BATCH]; 3];
    for _ in 0..BLOCK / BATCH as u64 {
        // Which pairs lie inside nobody can foresee, so that no jump depends on it: the next pair
        // takes the place of one that does not.
        let mut pairs = 0;
        for _ in 0..BATCH {
            let (x, y) = (2.0 * random.draw() - 1.0, 2.0 * random.draw() - 1.0);
            let square = x * x + y * y;
            (xs[pairs], ys[pairs], squares[pairs]) = (x, y, square);
            pairs += usize::from(square <= 1.0);
        }
        let stretches = &mut squares[..pairs];
        for square in &mut *stretches {
            *square = (-2.0 * square.ln() / *square).sqrt();
        }
        for (at, stretch) in stretches.iter().enumerate() {
            let (x, y) = (xs[at] * stretch, ys[at] * stretch);
            tally.sums[0] += x;
            tally.sums[1] += y;
            tally.annuli[x.abs().max(y.abs()) as usize] += 1;
        }
        tally.pairs += pairs as u64;
    }
    tally
}

impl Tally {
    fn plus(self, other: Self) -> Self {
        Self {
            sums: [self.sums[0] + other.sums[0], self.sums[1] + other.sums[1]],
            pairs: self.pairs + other.pairs,
            annuli: std::array::from_fn(|ring| self.annuli[ring] + other.annuli[ring]),
        }
    }
}

fn log2_candidates(class: Class) -> u32 {
    match class {
        Class::S => 24,
        Class::W => 25,
        Class::A => 28,
        Class::B => 30,
    }
}

/// The sums and the number of pairs that NPB publishes.
pub(crate) fn published(class: Class) -> ([f64; 2], u64) {
    match class {
        Class::S => ([-3_247.834_652_034_74, -6_958.407_078_382_297], 13_176_389),
        Class::W => ([-2_863.319_731_645_753, -6_320.053_679_109_499], 26_354_769),
        Class::A => ([-4_295.875_165_629_892, -15_807.325_736_784_31], 210_832_767),
        Class::B => ([40_338.155_424_414_98, -26_606.691_928_092_35], 843_345_606),
    }
}

pub(crate) fn verify(class: Class, tally: &Tally) -> common::Verdict {
    let (sums, pairs) = published(class);
    let error = |at: usize| ((tally.sums[at] - sums[at]) / sums[at]).abs();
    let counted: u64 = tally.annuli.iter().sum();
    let [x, y] = tally.sums;
    let words = format!("class {class:?}, sx {x:.9}, sy {y:.9}, {} pairs", tally.pairs);
    let right = error(0) <= TOLERANCE && error(1) <= TOLERANCE;
    if right && tally.pairs == pairs && counted == pairs { Ok(words) } else { Err(words) }
}
