//! PRK `Synch_p2p`: each point of a grid depends on its left, its lower and its lower left
//! neighbour, so that the computation runs over the grid as a wave.
//!
//! The columns are dealt out to the ranks, who work in a pipeline: a rank can begin a row when its
//! left neighbour has ended it. One number goes over per row: the time of a message is what counts.
//!
//! ```text
//! cargo run --release --example wavefront
//! ```

use std::process::ExitCode;

use clap::Parser;
use spmd::{
    array::{DistArray, Halo, Layout, block_range},
    io::{CheckpointArgs, State},
    prelude::*,
};

mod common;

/// The largest relative error that passes.
const TOLERANCE: f64 = 1e-8;

/// PRK `Synch_p2p`: a wave over a grid
#[derive(Parser)]
struct Args {
    /// Columns of the grid, with the border on the left: more than there are ranks
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(2..))]
    columns: u32,
    /// Rows of the grid, with the border below
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(2..))]
    rows: u32,
    /// Waves, behind one that is not measured
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,
    #[command(flatten)]
    kept: CheckpointArgs,
    #[command(flatten)]
    run: RunArgs,
}

fn main() -> ExitCode {
    let args: Args = spmd::parse();
    args.run.run(|world| repeat(world, &args))
}

fn repeat(world: &Comm, args: &Args) -> Result<(), Failure> {
    let (columns, rows) = (args.columns as usize, args.rows as usize);
    if world.size() >= columns {
        return Err(Failure::usage(format!(
            "--columns {columns}: {} ranks need {} columns at least, a border and one each",
            world.size(),
            world.size() + 1
        )));
    }
    common::announce(
        world,
        &format!("wavefront: {columns} columns x {rows} rows, {} iterations", args.iterations),
    );
    // Left of a rank's own columns stands that of its neighbour, or the border.
    let mine = block_range(columns - 1, world.size(), world.rank());
    let width = mine.len() + 1;
    let mut grid = vec![0.0; rows * width];
    for (column, value) in (mine.start..).zip(&mut grid[..width]) {
        *value = column as f64;
    }
    if world.rank() == 0 {
        for (row, line) in grid.chunks_exact_mut(width).enumerate() {
            line[0] = row as f64;
        }
    }

    // A wave makes all points anew, but for the border. Of that only the corner changes.
    let layout = Layout::new([1], world.size()); // rank 0 has it
    let mut corner = DistArray::from_fn(world, &layout, Halo::none(), |_| 0.0)?;
    let mut done = 0;
    let kept = state(&mut corner, &mut done, [columns, rows]);
    let mut checkpoint = common::resume(world, &args.kept, kept)?;
    if let Some(corner) = corner.get([0]) {
        grid[0] = corner;
    }
    let progress = Progress::new(world, u64::from(args.iterations) + 1, "iterations");
    progress.advance(done.into());
    let from = done.max(1);
    let mut iterate = |until: u32| -> Result<(), Failure> {
        while done < until {
            wave(world, &mut grid, width)?;
            corner.set([0], grid[0]);
            done += 1;
            progress.advance(1);
            checkpoint.step(state(&mut corner, &mut done, [columns, rows]))?;
        }
        Ok(())
    };
    iterate(1)?; // warms up memory and network
    let ((), seconds) = world.timed(|| iterate(args.iterations + 1))?;
    drop(progress);
    let last = world.bcast_one(0, || -corner.get([0]).unwrap_or_default())?;
    let waves = f64::from((args.iterations + 1).saturating_sub(from));
    let rate = (columns - 1) as f64 * (rows - 1) as f64 * waves / seconds;
    let exact = f64::from(done) * (columns + rows - 2) as f64;
    common::conclude(world, seconds, &format!("{rate:.3e} points/s"), verify(last, exact))
}

/// What a run goes on from.
fn state<'a>(corner: &'a mut DistArray<f64, 1>, done: &'a mut u32, grid: [usize; 2]) -> State<'a> {
    State::new().array("corner", corner).value("iterations", done).constant("grid", &grid)
}

/// A wave from the lower left to the upper right; the corner that it ends in goes, with its sign
/// changed, to where the next one begins.
fn wave(world: &Comm, grid: &mut [f64], width: usize) -> Result<(), Failure> {
    let (rank, last) = (world.rank(), world.size() - 1);
    let (mut below, mut above) = grid.split_at_mut(width);
    while !above.is_empty() {
        let (line, rest) = above.split_at_mut(width);
        if rank > 0 {
            line[0] = world.recv_one(rank - 1)?.0;
        }
        let mut left = line[0];
        for (point, below) in line[1..].iter_mut().zip(below.windows(2)) {
            left += below[1] - below[0];
            *point = left;
        }
        if rank < last {
            world.send(&line[width - 1], rank + 1)?;
        }
        (below, above) = (line, rest);
    }
    if rank == last {
        let corner = -below[width - 1];
        if last == 0 { grid[0] = corner } else { world.send(&corner, 0)? }
    } else if rank == 0 {
        grid[0] = world.recv_one(last)?.0;
    }
    Ok(())
}

pub(crate) fn verify(corner: f64, exact: f64) -> common::Verdict {
    let words = format!("corner {corner}, exact {exact}");
    if ((corner - exact) / exact).abs() <= TOLERANCE { Ok(words) } else { Err(words) }
}
