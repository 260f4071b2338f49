//! The 2-D heat equation on any number of ranks: a complete job in one sitting.
//!
//! Each rank owns one block of the field. In each step every cell takes up heat from its four
//! neighbours. Cells at the edge of a block need cells of the neighbouring ranks: those come as
//! messages, while the rest of the block is computed.
//!
//! ```text
//! cargo run --release --example heat2d
//! cargo run --release --example heat2d -- -n 4 --input terrain.npy --steps 200 --picture terrain.png
//! cargo run --release --example heat2d -- --checkpoint kept   # Ctrl-C; the same line goes on
//! ```

mod common;

use std::{f64::consts::PI, process::ExitCode};

use clap::Parser;
use common::{announce, conclude, resume};
use spmd::{
    array::{Boundary, DistArray, Halo, Layout},
    io::{ArrayFile, CheckpointArgs, PictureFile, Provenance, State},
    prelude::*,
};

/// Diffusivity × time step ÷ cell area: the share of a difference that flows in one step. Stable up
/// to 1/4.
const FLOW: f64 = 0.2;
/// A cell and its four neighbours.
const FIVE_POINTS: [[isize; 2]; 5] = [[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]];
/// The largest relative error that passes the verification.
const TOLERANCE: f64 = 1e-12;
/// Fields whose largest value is below this lose digits because numbers end at 1e-308: not the
/// program's error.
const TINY: f64 = 1e-290;

/// Solve the 2-D heat equation, and check the result
#[derive(Parser)]
struct Args {
    /// Rows and columns
    #[arg(long, value_name = "NY,NX", default_value = "1024,1024", value_parser = size, conflicts_with = "input")]
    size: [usize; 2],
    /// Time steps
    #[arg(long, default_value_t = 1000)]
    steps: u32,
    /// Start from this 2-D array (.npy, .h5), with closed borders [default: a sine wave that is 0
    /// on the border]
    #[arg(long, value_name = "FILE[:DATASET]")]
    input: Option<ArrayFile>,
    /// Write the final field (.npy, .h5)
    #[arg(long, value_name = "FILE[:DATASET]")]
    output: Option<ArrayFile>,
    /// Draw the final field (.png)
    #[arg(long, value_name = "FILE")]
    picture: Option<PictureFile>,
    #[command(flatten)]
    kept: CheckpointArgs,
    #[command(flatten)]
    run: RunArgs,
}

fn size(text: &str) -> Result<[usize; 2], String> {
    let numbers: Result<Vec<usize>, _> = text.split(',').map(str::parse).collect();
    match numbers.as_deref() {
        Ok(&[rows, columns]) if rows > 0 && columns > 0 => Ok([rows, columns]),
        _ => Err("give the numbers of rows and columns, as in 400,600".to_owned()),
    }
}

fn main() -> ExitCode {
    let args: Args = spmd::parse();
    args.run.run(|world| simulate(world, &args)) // every rank runs `simulate`
}

fn simulate(world: &Comm, args: &Args) -> Result<(), Failure> {
    // Who owns what: the field is cut into one block for each rank.
    let shape = args.input.as_ref().map_or(Ok(args.size), ArrayFile::shape)?;
    let layout = Layout::new(shape, world.size());
    if world.rank() == 0 {
        // A file that cannot be written is a pity after an hour of computing.
        args.output.iter().try_for_each(|file| file.check_room::<f64>(&shape))?;
        args.picture.iter().try_for_each(PictureFile::check_writable)?;
    }
    let [rows, columns] = shape;
    announce(world, &format!("field: {rows} x {columns} cells, {} steps", args.steps));

    // Each rank makes or reads its own block, which is surrounded by copies of its neighbours'
    // border cells. Nothing flows through a closed border; a fixed one is 0.
    let mut old = match &args.input {
        None => DistArray::from_fn(world, &layout, Halo::star(1), |index| wave(shape, index))?,
        Some(file) => file.read_array(world, Halo::star(1).all(Boundary::Insulated))?,
    };
    let mut new = old.clone();
    let heat = old.sum_reproducible()?;
    let size = old.map(f64::abs).sum_reproducible()?;

    // An earlier run that was stopped, on any number of ranks, is continued.
    let start = old.checksum()?;
    let mut step = 0;
    let mut checkpoint = resume(world, &args.kept, state(&mut old, &mut step, start))?;
    if step > args.steps {
        let (kept, asked) = (step, args.steps);
        return Err(Failure::usage(format!("--steps {asked}: the checkpoint is at step {kept}")));
    }
    let (progress, from) = (Progress::new(world, args.steps.into(), "steps"), step);
    progress.advance(from.into());
    let ((), seconds) = world.timed(|| {
        while step < args.steps {
            // The border cells travel while the inner ones are computed. The order of the
            // operations is fixed, so that every cell gets the same bits whoever computes it.
            old.update(&mut new, FIVE_POINTS, |[here, north, south, west, east]| {
                // What flows in from a neighbour is exactly what flows out of it.
                let (vertical, horizontal) =
                    ((north - here) + (south - here), (west - here) + (east - here));
                here + FLOW * (vertical + horizontal)
            })?;
            std::mem::swap(&mut old, &mut new);
            step += 1;
            progress.advance(1);
            checkpoint.step(state(&mut old, &mut step, start))?;
        }
        Ok(())
    })?;
    drop(progress);

    if let Some(file) = &args.output {
        let title = format!("2-D heat equation after {} steps", args.steps);
        let version = format!("heat2d {}", env!("CARGO_PKG_VERSION"));
        let units = if args.input.is_some() { "as the input" } else { "1" }.to_owned();
        file.write_array(&old, &Provenance { title, units, version })?;
    }
    if let Some(file) = &args.picture {
        file.write_array(&old)?;
    }

    // Is it right? Closed borders keep the heat; the wave is known exactly at every time.
    let (what, error) = if args.input.is_some() {
        let now = old.sum_reproducible()?;
        ("sum conserved, relative error", relative(now - heat, size))
    } else {
        let (factor, mut error, mut largest) = (decay(shape, args.steps), 0.0, 0.0);
        for (index, &value) in old.block().indices().zip(&old.view()) {
            let exact = factor * wave(shape, index);
            error = worse(error, (value - exact).abs());
            largest = worse(largest, exact);
        }
        // `worse` is associative: any such closure is a reduction operator.
        let both = world.allreduce(&[error, largest], worse)?;
        ("exact solution, relative error", relative(both[0], both[1]))
    };
    let verdict = format!("{what} {error:.1e}, allowed {TOLERANCE:.0e}");
    let verdict = if error <= TOLERANCE { Ok(verdict) } else { Err(verdict) };
    let updates = rows as f64 * columns as f64 * f64::from(args.steps - from) / seconds;
    let rate = format!("{updates:.2e} cell updates/s\nchecksum: {:016x}", old.checksum()?);
    conclude(world, seconds, &rate, verdict)
}

/// What a run goes on from: where it is, and what it began with.
fn state<'a>(field: &'a mut DistArray<f64, 2>, step: &'a mut u32, start: u64) -> State<'a> {
    State::new().array("field", field).value("step", step).constant("initial field", &start)
}

/// Half a sine wave along each axis, 0 on the border that lies one cell outside the field.
fn wave([rows, columns]: [usize; 2], [row, column]: [usize; 2]) -> f64 {
    let sine = |place: usize, len: usize| (PI * (place + 1) as f64 / (len + 1) as f64).sin();
    sine(row, rows) * sine(column, columns)
}

/// The factor by which the scheme shrinks the wave in so many steps: an eigenvalue to the power of
/// them.
fn decay(shape: [usize; 2], steps: u32) -> f64 {
    let [vertical, horizontal] = shape.map(|len| (PI / (2 * (len + 1)) as f64).sin().powi(2));
    // The eigenvalue is so close to 1 that its power would lose digits: ln(1 - x) does not.
    (f64::from(steps) * (-4.0 * FLOW * (vertical + horizontal)).ln_1p()).exp()
}

fn relative(error: f64, size: f64) -> f64 {
    error.abs() / size.max(TINY)
}

/// The larger one; NaN is worse than any number.
fn worse(left: f64, right: f64) -> f64 {
    if left > right || left.is_nan() { left } else { right }
}
