//! Sorting by regular samples: data that is dealt out unevenly and has long runs of equal elements
//! ends up in order, and no rank gets much more than its share.
//!
//! The ranks sort what they have, agree on where to cut by a few samples, and send the pieces to
//! where they belong. `world.sort` of the library does the same, and makes the shares exactly even.
//!
//! ```text
//! cargo run --release --example samplesort -- --skew 20
//! ```

use std::{
    cmp::Ordering::{self, Equal, Greater, Less},
    process::ExitCode,
};

use clap::Parser;
use rayon::prelude::*;
use spmd::{prelude::*, random::Random};

mod common;

/// Samples that a rank takes of its own even share, per rank.
const SAMPLES: usize = 8;

/// Sort skewed data over all ranks
#[derive(Parser)]
struct Args {
    /// Elements, of all ranks together
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(..=1 << 40))]
    elements: u64,
    /// From 1 (uniform) up: the larger, the more elements are small, and equal
    #[arg(long, default_value_t = 4.0)]
    skew: f64,
    #[command(flatten)]
    run: RunArgs,
}

fn main() -> ExitCode {
    let args: Args = spmd::parse();
    args.run.run(|world| sort(world, args.elements as usize, args.skew))
}

fn sort(world: &Comm, total: usize, skew: f64) -> Result<(), Failure> {
    if !(1.0..=1e6).contains(&skew) {
        return Err(Failure::usage(format!("--skew {skew}: give a number from 1 to 1e6")));
    }
    common::announce(world, &format!("samplesort: {total} elements, skew {skew}"));
    let size = world.size();
    // The last ranks have most of the data.
    let end =
        |ranks: usize| (total as u128 * (ranks * ranks) as u128 / (size * size) as u128) as usize;
    let random = Random::new(0);
    let mine: Vec<f64> = (end(world.rank())..end(world.rank() + 1))
        .into_par_iter()
        .map(|at| (random.at(at as u64).uniform().powf(skew) * 1e6).floor())
        .collect();
    let before = checksum(&mine);

    let (sorted, seconds) = world.timed(|| sample_sort(world, mine, f64::total_cmp))?;

    let largest = world.allreduce_one(sorted.len(), Max)?;
    let found = Found {
        count: world.allreduce_one(sorted.len(), Sum)?,
        change: world.allreduce_one(checksum(&sorted).wrapping_sub(before), Sum)?,
        in_order: in_order(world, &sorted, f64::total_cmp)?,
    };
    if world.rank() == 0 {
        println!(
            "largest share: {:.3} of the average",
            largest as f64 * size as f64 / total.max(1) as f64
        );
    }
    let rate = format!("{:.3e} elements/s", total as f64 / seconds);
    common::conclude(world, seconds, &rate, verify(total, &found))
}

/// Sorts all ranks' elements: each rank gets a part of the whole, in the order of ranks.
///
/// Every rank takes each `step`-th of its sorted elements as a sample, so a cut by samples is wrong
/// by less than `step` elements per rank: shares are larger than even by an eighth at most. Equal
/// elements are told apart by where they come from.
pub(crate) fn sample_sort<T: Datum>(
    world: &Comm,
    mut mine: Vec<T>,
    compare: impl Fn(&T, &T) -> Ordering + Sync,
) -> Result<Vec<T>, Failure> {
    let (rank, size) = (world.rank(), world.size());
    mine.par_sort_unstable_by(&compare);
    let total = world.allreduce_one(mine.len(), Sum)?;
    let step = (total / (SAMPLES * size * size)).max(1);
    let samples: Vec<T> = mine.iter().copied().skip(step / 2).step_by(step).collect();
    let samples = world.allgather(&samples)?;
    let mut samples: Vec<(T, usize, usize)> = samples
        .iter()
        .enumerate()
        .flat_map(|(from, row)| {
            row.iter().enumerate().map(move |(nth, &value)| (value, from, step / 2 + nth * step))
        })
        .collect();
    samples.par_sort_by(|left, right| compare(&left.0, &right.0)); // stable: then by origin

    // Where this rank's elements are cut: what comes before the sample goes to lower ranks.
    let cut = |part: usize| match samples.get(part * samples.len() / size) {
        _ if part == size => mine.len(),
        None => 0, // nothing anywhere
        Some(_) if part == 0 => 0,
        Some((value, from, place)) => match rank.cmp(from) {
            Less => mine.partition_point(|element| compare(element, value) != Greater),
            Equal => *place,
            Greater => mine.partition_point(|element| compare(element, value) == Less),
        },
    };
    let counts: Vec<usize> = (0..size).map(|part| cut(part + 1) - cut(part)).collect();
    let mut sorted = world.alltoall(&Ragged::from_flat(mine, counts))?.into_flat();
    sorted.par_sort_by(&compare); // runs in order, which a stable sort only merges
    Ok(sorted)
}

/// Whether the elements are sorted, on each rank and from rank to rank.
fn in_order<T: Datum>(
    world: &Comm,
    sorted: &[T],
    compare: impl Fn(&T, &T) -> Ordering,
) -> Result<bool, Failure> {
    let in_order =
        |elements: &[T]| elements.is_sorted_by(|left, right| compare(left, right) != Greater);
    let ends: Vec<T> = sorted.first().into_iter().chain(sorted.last()).copied().collect();
    let between = in_order(world.allgather(&ends)?.flat());
    Ok(world.allreduce_one(in_order(sorted), And)? && between)
}

/// What has become of the elements.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    pub(crate) count: usize,
    /// By how much the sum of all elements' hashes has changed.
    pub(crate) change: u64,
    pub(crate) in_order: bool,
}

pub(crate) fn verify(total: usize, found: &Found) -> common::Verdict {
    match found {
        Found { in_order: false, .. } => Err("elements are out of order".to_owned()),
        Found { count, .. } if *count != total => Err(format!("{count} elements of {total}")),
        Found { change: 1.., .. } => Err("other elements than before".to_owned()),
        Found { .. } => Ok(format!("{total} elements in order, checksum as before")),
    }
}

/// A number that does not depend on the order of the elements.
fn checksum(elements: &[f64]) -> u64 {
    elements.par_iter().map(|element| mix(element.to_bits())).reduce(|| 0, u64::wrapping_add)
}

/// The output function of `SplitMix64` (Steele, Lea, Flood 2014).
fn mix(value: u64) -> u64 {
    let mut bits = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
