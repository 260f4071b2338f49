//! The 2-D heat equation on any number of ranks: a complete job in one sitting.
//!
//! Each rank owns one block of the field. In each step every cell takes up heat from its four
//! neighbours. Cells at the edge of a block need cells of the neighbouring ranks: those come as
//! messages, while the rest of the block is computed.
//!
//! ```text
//! cargo run --release --example heat2d
//! cargo run --release --example heat2d -- -n 4 --input terrain.npy --steps 200 --picture terrain.png
//! ```

use std::{f64::consts::PI, ops::Range, process::ExitCode, time::Instant};

use clap::Parser;
use ndarray::{Array2, Axis, s};
use rayon::prelude::*;
use spmd::{
    array::{Halo, Layout, checksum, sum},
    io::{ArrayFile, PictureFile, Provenance},
    prelude::*,
};

/// Diffusivity × time step ÷ cell area: the share of a difference that flows in one step. Stable up
/// to 1/4.
const FLOW: f64 = 0.2;
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
    let first = world.rank() == 0;

    // Who owns what: the ranks stand on a grid, and each owns one block of the field.
    let grid =
        world.cart([None, None], [false, false])?.expect("a free grid has room for all ranks");
    let shape = args.input.as_ref().map_or(Ok(args.size), ArrayFile::shape)?;
    let layout = Layout::on_grid(shape, grid.dims());
    if first {
        // A file that cannot be written is a pity after an hour of computing.
        args.output.iter().try_for_each(|file| file.check_room(shape))?;
        args.picture.iter().try_for_each(PictureFile::check_writable)?;
    }
    let mut halo = Halo::new(&grid, &layout)?;
    let (interior, edges) = (halo.interior(), halo.edges());

    // Each rank makes or reads its own block; `old` and `new` have room for the halo around it.
    let mut old = match &args.input {
        None => halo.array(|row, column| wave(shape, row, column)),
        Some(file) => {
            let [rows, columns] = layout.block(grid.rank()).ranges();
            let start = file.read(&[rows.clone(), columns.clone()])?;
            halo.array(|row, column| start[[row - rows.start, column - columns.start]])
        }
    };
    let mut new = old.clone();
    let heat = sum(&grid, halo.block(&old).iter().copied())?;
    let size = sum(&grid, halo.block(&old).iter().map(|value| value.abs()))?;

    let progress = Progress::new(world, args.steps.into(), "steps");
    world.barrier()?;
    let clock = Instant::now();
    for _ in 0..args.steps {
        let exchange = halo.start(&old)?; // the messages travel ...
        update(&old, &mut new, interior.clone()); // ... while the inner cells are computed
        exchange.finish(&mut old)?;
        if args.input.is_some() {
            halo.mirror(&mut old); // nothing flows through a closed border; the fixed one is 0 as it was
        }
        for edge in &edges {
            update(&old, &mut new, edge.clone());
        }
        std::mem::swap(&mut old, &mut new);
        progress.advance(1);
    }
    let seconds = world.allreduce(&[clock.elapsed().as_secs_f64()], Max)?[0];
    drop(progress);

    let field = halo.block(&old);
    if let Some(file) = &args.output {
        let title = format!("2-D heat equation after {} steps", args.steps);
        let version = format!("heat2d {}", env!("CARGO_PKG_VERSION"));
        let units = if args.input.is_some() { "as the input" } else { "1" }.to_owned();
        file.write(&grid, &layout, &field, &Provenance { title, units, version })?;
    }
    if let Some(file) = &args.picture {
        file.write(&grid, &layout, &field)?;
    }

    // Is it right? Closed borders keep the heat; the wave is known exactly at every time.
    let (what, error) = if args.input.is_some() {
        let now = sum(&grid, field.iter().copied())?;
        ("sum conserved, relative error", relative(now - heat, size))
    } else {
        let [rows, columns] = layout.block(grid.rank()).ranges();
        let factor = decay(shape, args.steps);
        let (mut error, mut largest) = (0.0, 0.0);
        for ((i, j), &value) in field.indexed_iter() {
            let exact = factor * wave(shape, rows.start + i, columns.start + j);
            error = worse(error, (value - exact).abs());
            largest = worse(largest, exact);
        }
        // `worse` is associative: any such closure is a reduction operator.
        let both = grid.allreduce(&[error, largest], worse)?;
        ("exact solution, relative error", relative(both[0], both[1]))
    };
    let passed = error <= TOLERANCE;
    let verdict = format!("({what} {error:.1e}, allowed {TOLERANCE:.0e})");
    let hash = checksum(&grid, &layout, &field)?;
    if first {
        let [rows, columns] = shape;
        let updates = rows as f64 * columns as f64 * f64::from(args.steps) / seconds;
        let (ranks, threads) = (world.size(), rayon::current_num_threads());
        println!(
            "field: {rows} x {columns} cells, {} steps\nengine: {}\nranks x threads: {ranks} x {threads}\n\
             time: {seconds:.3} s, {updates:.2e} cell updates/s\nchecksum: {hash:016x}\nverification: {} {verdict}",
            args.steps,
            [world.engine(), &world.library()].join(" ").trim_end(),
            if passed { "passed" } else { "FAILED" },
        );
    }
    world.barrier()?; // a failure ends the job: not before the result is printed
    if passed {
        Ok(())
    } else {
        Err(Failure::verification(format!("verification failed {verdict}")))
    }
}

/// One step of the cells in some rows and columns: the explicit five-point scheme, rows in
/// parallel.
///
/// The order of the operations is fixed, so that every cell gets the same bits whoever computes it.
fn update(old: &Array2<f64>, new: &mut Array2<f64>, [rows, columns]: [Range<usize>; 2]) {
    if columns.is_empty() {
        return; // a narrow block has no inner cells
    }
    let (top, left, width) = (rows.start, columns.start, columns.len());
    let mut target = new.slice_mut(s![rows, columns]);
    // Short rows are taken together: a task should be worth the trouble of handing it over.
    let together = 16_384 / width.max(1) + 1;
    let lines = target.axis_iter_mut(Axis(0)).into_par_iter().enumerate();
    lines.with_min_len(together).for_each(|(line, mut target)| {
        let from = |row: usize, column: usize| old.slice(s![row, column..column + width]);
        let row = top + line;
        let (here, north, south) = (from(row, left), from(row - 1, left), from(row + 1, left));
        let (west, east) = (from(row, left - 1), from(row, left + 1));
        for i in 0..width {
            // What flows in from a neighbour is exactly what flows out of it.
            let (vertical, horizontal) = (
                (north[i] - here[i]) + (south[i] - here[i]),
                (west[i] - here[i]) + (east[i] - here[i]),
            );
            target[i] = here[i] + FLOW * (vertical + horizontal);
        }
    });
}

/// Half a sine wave along each axis, 0 on the border that lies one cell outside the field.
fn wave([rows, columns]: [usize; 2], row: usize, column: usize) -> f64 {
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
