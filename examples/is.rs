//! NPB IS, "integer sort": the rank of each of many keys, ten times.
//!
//! Keys go to the rank that owns their range: the ranges are cut so that all ranks get about
//! equally many, although keys in the middle are much more frequent. Counting does the rest.
//!
//! ```text
//! cargo run --release --example is -- --class A
//! ```

use std::{iter::repeat_with, ops::Range, process::ExitCode};

use clap::Parser;
use spmd::{array::block_range, prelude::*};

use self::npb::{Class, Random};

mod common;
pub(crate) mod npb;

const SEED: u64 = 314_159_265;
const ITERATIONS: u32 = 10;
/// Buckets, of keys with the same first bits, for each rank: so many that the ranks' shares differ
/// little, so few that it is quick to write to all of them in turn.
const BUCKETS_EACH: usize = 1 << 5;

/// NPB IS: rank integer keys
#[derive(Parser)]
struct Args {
    /// Size: 2^16, 2^20, 2^23 or 2^25 keys
    #[arg(long, value_enum, default_value = "A", ignore_case = true)]
    class: Class,
    #[command(flatten)]
    run: RunArgs,
}

/// A class, and what NPB publishes of it: the ranks of five keys, here before the first iteration;
/// each moves them up or down by one.
pub(crate) struct Problem {
    log2_keys: u32,
    log2_max: u32,
    /// Where the five keys stand.
    places: [usize; 5],
    ranks: [i64; 5],
    directions: [i64; 5],
}

fn main() -> ExitCode {
    let args: Args = spmd::parse();
    args.run.run(|world| sort(world, args.class))
}

fn sort(world: &Comm, class: Class) -> Result<(), Failure> {
    let problem = problem(class);
    let (total, max) = (1_usize << problem.log2_keys, 1_u32 << problem.log2_max);
    common::announce(world, &format!("IS class {class:?}: {total} keys below {max}"));
    let mine = block_range(total, world.size(), world.rank());
    let mut random = Random::new(SEED).skip(4 * mine.start as u64);
    let key = || {
        // The sum of four is nearly normally distributed.
        let sum = random.draw() + random.draw() + random.draw() + random.draw();
        (f64::from(max / 4) * sum) as u32
    };
    let mut keys: Vec<u32> = repeat_with(key).take(mine.len()).collect();

    let mut ranking = Ranking::default();
    ranking.rank(world, &keys, problem.log2_max)?; // warms up memory and network
    let mut right = 0;
    let ((), seconds) = world.timed(|| {
        for iteration in 1..=ITERATIONS {
            let changed = [(iteration, iteration), (iteration + ITERATIONS, max - iteration)];
            for (place, key) in changed {
                if mine.contains(&(place as usize)) {
                    keys[place as usize - mine.start] = key;
                }
            }
            let key_at = |place| if mine.contains(&place) { keys[place - mine.start] } else { 0 };
            let tests = problem.places.map(key_at);
            let tests = world.allreduce(&tests, Max)?;
            ranking.rank(world, &keys, problem.log2_max)?;
            right += ranking.right(&tests, &expected(&problem, iteration));
        }
        Ok(())
    })?;
    let right = world.allreduce_one(right, Sum)?;
    let is_sorted = is_sorted(world, ranking, total)?;
    let rate = format!("{:.3e} keys/s", f64::from(ITERATIONS) * total as f64 / seconds);
    common::conclude(world, seconds, &rate, verify(class, right, is_sorted))
}

/// The keys of this rank's range, and how many are smaller than each value in it.
#[derive(Default)]
struct Ranking {
    keys: Vec<u32>,
    /// The values in the range; equal keys are on one rank.
    range: Range<u32>,
    smaller: Vec<u32>,
    /// What was sent to each rank: memory for the next time.
    rows: Ragged<u32>,
}

impl Ranking {
    fn rank(&mut self, world: &Comm, keys: &[u32], log2_max: u32) -> Result<(), Failure> {
        let buckets = (BUCKETS_EACH * world.size()).next_power_of_two().min(1 << log2_max);
        let shift = log2_max - buckets.ilog2();
        self.rows.rebucket(keys, buckets, |&key| (key >> shift) as usize);
        let mine: Vec<usize> = self.rows.counts().collect();
        let sizes = world.allreduce(&mine, Sum)?;
        // A bucket belongs to the rank in whose even share of all keys its first key lies.
        let total: usize = sizes.iter().sum();
        let starts: Vec<usize> =
            sizes.iter().scan(0, |end, size| Some(std::mem::replace(end, *end + size))).collect();
        let owner = |start: &usize| (start * world.size() / total).min(world.size() - 1);
        let owners: Vec<usize> = starts.iter().map(owner).collect();
        let first = owners.partition_point(|&owner| owner < world.rank());
        let behind = owners.partition_point(|&owner| owner <= world.rank());

        // The buckets of a rank lie side by side: they are its row.
        let (mut counts, mut incoming) = (vec![0; world.size()], vec![0; world.size()]);
        owners.iter().zip(mine).for_each(|(&owner, count)| counts[owner] += count);
        world.alltoall_into(&counts, &mut incoming)?;
        self.rows = Ragged::from_flat(std::mem::take(&mut self.rows).into_flat(), counts);
        self.keys.resize(incoming.iter().sum(), 0);
        world.alltoall_known_into(&self.rows, &incoming, &mut self.keys)?;

        self.range = (first as u32) << shift..(behind as u32) << shift;
        self.smaller.clear();
        self.smaller.resize(self.range.len(), 0);
        for key in &self.keys {
            self.smaller[(key - self.range.start) as usize] += 1;
        }
        let mut before = starts.get(first).copied().unwrap_or(total) as u32;
        for count in &mut self.smaller {
            before += std::mem::replace(count, before);
        }
        Ok(())
    }

    /// How many of the keys that belong here have the ranks that they should have.
    fn right(&self, keys: &[u32], ranks: &[u32]) -> u32 {
        let mine = keys.iter().zip(ranks).filter(|(key, _)| self.range.contains(key));
        mine.map(|(key, &rank)| u32::from(self.smaller[(key - self.range.start) as usize] == rank))
            .sum()
    }
}

/// Puts all keys in their places, and looks whether they are in order then.
fn is_sorted(world: &Comm, mut ranking: Ranking, total: usize) -> Result<bool, Failure> {
    let Ranking { keys, range, smaller, .. } = &mut ranking;
    let first = smaller.first().copied().unwrap_or(0);
    let mut sorted = vec![None; keys.len()];
    for &key in &*keys {
        let place = &mut smaller[(key - range.start) as usize];
        sorted[(*place - first) as usize] = Some(key);
        *place += 1;
    }
    let in_order = sorted.iter().all(Option::is_some) && sorted.is_sorted();
    let ends = [sorted.first(), sorted.last()].map(|end| end.copied().flatten());
    let ends: Vec<u32> = ends.into_iter().flatten().collect();
    let all_in_order = world.allreduce_one(in_order, And)?;
    let count = world.allreduce_one(sorted.len(), Sum)?;
    Ok(all_in_order && count == total && world.allgather(&ends)?.flat().is_sorted())
}

pub(crate) fn problem(class: Class) -> Problem {
    let (log2_keys, log2_max, places, ranks, directions) = match class {
        Class::S => {
            let places = [48_427, 17_148, 23_627, 62_548, 4_431];
            (16, 11, places, [0, 18, 346, 64_917, 65_463], [1, 1, 1, -1, -1])
        }
        Class::W => {
            let places = [357_773, 934_767, 875_723, 898_999, 404_505];
            let ranks = [1_247, 11_696, 1_039_987, 1_043_896, 1_048_018];
            (20, 16, places, ranks, [1, 1, -1, -1, -1])
        }
        Class::A => {
            let places = [2_112_377, 662_041, 5_336_171, 3_642_833, 4_250_760];
            let ranks = [103, 17_522, 123_927, 8_288_933, 8_388_265];
            (23, 19, places, ranks, [1, 1, 1, -1, -1])
        }
        Class::B => {
            let places = [41_869, 812_306, 5_102_857, 18_232_239, 26_860_214];
            let ranks = [33_422_937, 10_244, 59_149, 33_135_281, 99];
            (25, 21, places, ranks, [-1, 1, 1, -1, 1])
        }
    };
    Problem { log2_keys, log2_max, places, ranks, directions }
}

/// The ranks that the five keys have in an iteration.
pub(crate) fn expected(problem: &Problem, iteration: u32) -> [u32; 5] {
    let rank = |at: usize| problem.ranks[at] + problem.directions[at] * i64::from(iteration);
    std::array::from_fn(|at| rank(at) as u32)
}

pub(crate) fn verify(class: Class, right: u32, is_sorted: bool) -> common::Verdict {
    let tests = 5 * ITERATIONS;
    let order = if is_sorted { "all keys in order" } else { "keys out of order" };
    let words = format!("class {class:?}, {right} of {tests} published ranks, {order}");
    if right == tests && is_sorted { Ok(words) } else { Err(words) }
}
