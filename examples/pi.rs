//! Pi as the area under 4/(1+x²): the smallest parallel program that computes something.
//!
//! Every rank takes its share of the strips, its threads share those, and one reduction adds up.
//!
//! ```text
//! cargo run --release --example pi
//! ```

use std::{f64::consts::PI, process::ExitCode};

use clap::Parser;
use rayon::prelude::*;
use spmd::{array::block_range, prelude::*};

mod common;

/// Compute pi by the midpoint rule
#[derive(Parser)]
struct Args {
    /// Strips that the area is cut into
    #[arg(long, default_value_t = 200_000_000, value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    strips: u64,
    #[command(flatten)]
    run: RunArgs,
}

fn main() -> ExitCode {
    let args: Args = spmd::parse();
    args.run.run(|world| integrate(world, args.strips as usize))
}

fn integrate(world: &Comm, strips: usize) -> Result<(), Failure> {
    common::announce(world, &format!("pi: {strips} strips"));
    let width = 1.0 / strips as f64;
    let (pi, seconds) = world.timed(|| {
        let mine = block_range(strips, world.size(), world.rank());
        // Some strips at a time: a task should be worth the trouble of handing it over.
        let tasks = mine.len().div_ceil(65_536);
        let sum: f64 = (0..tasks)
            .into_par_iter()
            .map(|task| {
                let part = block_range(mine.len(), tasks, task);
                let heights = part.map(|strip| {
                    let x = width * ((mine.start + strip) as f64 + 0.5);
                    4.0 / (1.0 + x * x)
                });
                heights.sum::<f64>()
            })
            .sum();
        Ok(world.allreduce_one(width * sum, Sum)?)
    })?;
    let rate = format!("{:.3e} strips/s", strips as f64 / seconds);
    common::conclude(world, seconds, &rate, verify(pi, width))
}

/// The midpoint rule is off by width²/12 here, and the last digits are rounding.
pub(crate) fn verify(pi: f64, width: f64) -> common::Verdict {
    let (error, allowed) = ((pi - PI).abs(), width * width / 12.0 * 1.01 + 1e-12);
    let words = format!("pi {pi:.14}, error {error:.1e}, allowed {allowed:.1e}");
    if error <= allowed { Ok(words) } else { Err(words) }
}
