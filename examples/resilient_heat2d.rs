//! The 2-D heat equation on ranks that may be lost, join and leave while it runs.
//!
//! The program is that of `heat2d`, in an ever changing world: `run` is called anew whenever the ranks
//! have changed, and goes on from the last commit. Its result has the same bits whatever happens.
//!
//! ```text
//! cargo run --release --example resilient_heat2d -- -n 4 --inject 2@0.5s          # one rank is lost
//! cargo run --release --example resilient_heat2d -- -n 4 --inject 1+2@0.3s,0@0.2s/1 --on-loss shrink
//! cargo run --release --example resilient_heat2d -- -n 2 --size-file ranks &      # echo 4 > ranks
//! spmd run --restarts 5 --hosts a,b,c,d target/release/examples/resilient_heat2d --checkpoint kept --every 1s
//! ```

mod common;

use std::{f64::consts::PI, process::ExitCode};

use clap::Parser;
use common::{announce, conclude};
use spmd::{
    array::{DistArray, Halo, Layout},
    io::State,
    prelude::*,
    recover::{RecoverArgs, Recovery},
};

/// Diffusivity × time step ÷ cell area.
const FLOW: f64 = 0.2;
/// A cell and its four neighbours.
const FIVE_POINTS: [[isize; 2]; 5] = [[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]];
/// The largest relative error that passes the verification.
const TOLERANCE: f64 = 1e-12;

/// Solve the 2-D heat equation whatever happens to the ranks, and check the result
#[derive(Parser)]
struct Args {
    /// Rows and columns of the square field
    #[arg(long, default_value = "1000", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    cells: u32,
    /// Time steps
    #[arg(long, default_value_t = 1000)]
    steps: u32,
    #[command(flatten)]
    recover: RecoverArgs,
    #[command(flatten)]
    run: RunArgs,
}

fn main() -> ExitCode {
    let args: Args = spmd::parse();
    args.run.resilient(&args.recover, |world, recovery| run(world, recovery, &args))
}

fn run(world: &Comm, recovery: &mut Recovery<'_>, args: &Args) -> Result<(), Failure> {
    let cells = args.cells as usize;
    if recovery.epoch() == 0 {
        announce(world, &format!("field: {cells} x {cells} cells, {} steps", args.steps));
    }
    // Each rank makes its block, which is cut as there are ranks now.
    let layout = Layout::new([cells; 2], world.size());
    let mut old = DistArray::from_fn(world, &layout, Halo::star(1), |index| wave(cells, index))?;
    let mut new = old.clone();
    let mut step = 0;

    // Where ranks were lost or have joined, the state is that of the last commit.
    recovery.restore(state(&mut old, &mut step, cells))?;
    let ((), seconds) = world.timed(|| {
        while step < args.steps {
            old.update(&mut new, FIVE_POINTS, |[here, north, south, west, east]| {
                here + FLOW * (((north - here) + (south - here)) + ((west - here) + (east - here)))
            })?;
            std::mem::swap(&mut old, &mut new);
            step += 1;
            recovery.commit(state(&mut old, &mut step, cells))?;
        }
        Ok(())
    })?;

    // Is it right? The scheme shrinks the wave by the same factor in each step.
    let factor = (f64::from(step) * (-8.0 * FLOW * sine(0, 2 * cells + 1).powi(2)).ln_1p()).exp();
    let error = |([row, column], value): ([usize; 2], &f64)| {
        (value - factor * wave(cells, [row, column])).abs()
    };
    let error = old.block().indices().zip(&old.view()).map(error).fold(0.0, f64::max);
    let error = world.allreduce(&[error], Max)?[0] / factor.max(1e-290);
    let verdict = format!("exact solution, relative error {error:.1e}, allowed {TOLERANCE:.0e}");
    let verdict = if error <= TOLERANCE { Ok(verdict) } else { Err(verdict) };
    let checksum = format!("checksum: {:016x}", old.checksum()?);
    conclude(world, seconds, &checksum, verdict)
}

/// What survives.
fn state<'a>(field: &'a mut DistArray<f64, 2>, step: &'a mut u32, cells: usize) -> State<'a> {
    State::new().array("field", field).value("step", step).constant("cells", &cells)
}

/// Half a sine wave along each axis, 0 on the border that lies one cell outside the field.
fn wave(cells: usize, [row, column]: [usize; 2]) -> f64 {
    sine(row, cells) * sine(column, cells)
}

fn sine(place: usize, len: usize) -> f64 {
    (PI * (place + 1) as f64 / (len + 1) as f64).sin()
}
