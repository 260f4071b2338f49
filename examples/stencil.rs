//! A star-shaped stencil of radius 2, weighted so that the answer is known: `Stencil` of the
//! Parallel Research Kernels.
//!
//! In each iteration every point takes up the weighted sum of its neighbours up to two steps away
//! along each axis; then the whole input grows by 1. The weights are a discrete divergence, so that
//! each iteration adds exactly 2 to every point of the result.
//!
//! ```text
//! cargo run --release --example stencil
//! cargo run --release --example stencil -- -n 4 --size 4000 --iterations 50
//! ```
//!
//! Source: Van der Wijngaart and Mattson, "The Parallel Research Kernels" (2014).

mod common;

use std::process::ExitCode;

use clap::Parser;
use spmd::{
    array::{DistArray, Halo, Layout},
    io::{CheckpointArgs, State},
    prelude::*,
};

const RADIUS: usize = 2;
/// The points that a point takes up something of, and how much: 1 / (2 · distance · radius) along
/// each axis, negative before it.
const POINTS: [[isize; 2]; 8] =
    [[-2, 0], [-1, 0], [0, -2], [0, -1], [0, 1], [0, 2], [1, 0], [2, 0]];
const WEIGHTS: [f64; 8] = [-0.125, -0.25, -0.125, -0.25, 0.25, 0.125, 0.25, 0.125];
/// The largest error of the norm that passes the verification.
const TOLERANCE: f64 = 1e-8;

/// Apply a star-shaped stencil of radius 2, and check the result
#[derive(Parser)]
struct Args {
    /// Points along each side of the square
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(5..))]
    size: u32,
    /// How often the stencil is applied after one time that does not count
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,
    #[command(flatten)]
    kept: CheckpointArgs,
    #[command(flatten)]
    run: RunArgs,
}

fn main() -> ExitCode {
    let args: Args = spmd::parse();
    args.run.run(|world| simulate(world, &args)) // every rank runs `simulate`
}

fn simulate(world: &Comm, args: &Args) -> Result<(), Failure> {
    let size = args.size as usize;
    let layout = Layout::new([size, size], world.size());
    common::announce(world, &format!("stencil of radius {RADIUS}, {layout}"));
    // The input grows from the corner: f(i, j) = i + j.
    let mut input =
        DistArray::from_fn(world, &layout, Halo::star(RADIUS), |[i, j]| (i + j) as f64)?;
    let mut sums = input.like(|_| 0.0);

    let mut done = 0;
    let mut checkpoint =
        common::resume(world, &args.kept, state(&mut input, &mut sums, &mut done))?;
    let progress = Progress::new(world, u64::from(args.iterations) + 1, "iterations");
    progress.advance(done.into());
    let from = done.max(1);
    let mut iterate = |until: u32| -> Result<(), Failure> {
        while done < until {
            // In one pass over memory: what is added to a sum is stored nowhere.
            input.update_lines(&mut sums, |sums, line| {
                let points = POINTS.map(|point| &line.at(point)[..sums.len()]);
                for (at, sum) in sums.iter_mut().enumerate() {
                    *sum += (0..POINTS.len()).map(|i| WEIGHTS[i] * points[i][at]).sum::<f64>();
                }
            })?;
            input.map_inplace(|value| value + 1.0);
            done += 1;
            progress.advance(1);
            checkpoint.step(state(&mut input, &mut sums, &mut done))?;
        }
        Ok(())
    };
    iterate(1)?; // the first one touches all memory
    let ((), seconds) = world.timed(|| iterate(args.iterations + 1))?;
    drop(progress);

    // The points within two steps of the border see cells that are no input: they do not count.
    let active = (size - 2 * RADIUS).pow(2) as f64;
    let inside = RADIUS..size - RADIUS;
    sums.map_indexed(
        |[i, j], sum| {
            if inside.contains(&i) && inside.contains(&j) { sum.abs() } else { 0.0 }
        },
    );
    let norm = sums.sum_reproducible()? / active;
    let flops = (2 * POINTS.len() + 1) as f64
        * active
        * f64::from((args.iterations + 1).saturating_sub(from));
    let rate = format!("{:.0} Mflop/s", flops / seconds / 1e6);
    common::conclude(world, seconds, &rate, verify(norm, args.iterations))
}

/// What a run goes on from.
fn state<'a>(
    input: &'a mut DistArray<f64, 2>,
    sums: &'a mut DistArray<f64, 2>,
    done: &'a mut u32,
) -> State<'a> {
    State::new().array("input", input).array("sums", sums).value("iterations", done)
}

pub(crate) fn verify(norm: f64, iterations: u32) -> common::Verdict {
    let expected = 2.0 * f64::from(iterations + 1);
    let words = format!("L1 norm {norm}, expected {expected}");
    if (norm - expected).abs() <= TOLERANCE { Ok(words) } else { Err(words) }
}
