//! PRK Transpose: adds the transpose of a matrix to another one, again and again, where the rows of
//! both are dealt out to the ranks.
//!
//! A rank's rows of the transpose are columns, of which every rank has a piece: all ranks exchange
//! blocks with all. Each block is transposed before it is sent, so that it arrives as rows; the one
//! that stays is added at once.
//!
//! ```text
//! cargo run --release --example transpose -- --order 4000
//! ```

use std::process::ExitCode;

use clap::Parser;
use rayon::prelude::*;
use spmd::{
    array::{DistArray, Halo, Layout},
    io::{CheckpointArgs, State},
    prelude::*,
};

mod common;

/// Rows and columns that are transposed together, so that they stay in the cache.
const TILE: usize = 32;
/// The largest sum of all errors that passes.
const TOLERANCE: f64 = 1e-8;

/// PRK Transpose: add a transposed matrix to another one
#[derive(Parser)]
struct Args {
    /// Rows and columns of the matrices
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    order: u32,
    /// Repetitions, behind one that is not measured
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,
    #[command(flatten)]
    kept: CheckpointArgs,
    #[command(flatten)]
    run: RunArgs,
}

fn main() -> ExitCode {
    let args: Args = spmd::parse();
    args.run.run(|world| repeat(world, &args)) // every rank runs `repeat`
}

fn repeat(world: &Comm, args: &Args) -> Result<(), Failure> {
    let (order, iterations) = (args.order as usize, args.iterations);
    common::announce(world, &format!("transpose: {order} x {order}, {iterations} iterations"));
    let mut matrices = Matrices::new(world, order)?;
    let mut checkpoint = common::resume(world, &args.kept, matrices.state())?;
    let progress = Progress::new(world, u64::from(iterations) + 1, "iterations");
    progress.advance(matrices.done.into());
    let from = matrices.done.max(1);
    let mut iterate = |until: u32| -> Result<(), Failure> {
        while matrices.done < until {
            matrices.step(world)?;
            progress.advance(1);
            checkpoint.step(matrices.state())?;
        }
        Ok(())
    };
    iterate(1)?; // warms up memory and network
    let ((), seconds) = world.timed(|| iterate(iterations + 1))?;
    drop(progress);
    let error = world.allreduce_one(matrices.error(), Sum)?;
    let bytes = 16.0 * (order as f64).powi(2) * f64::from((iterations + 1).saturating_sub(from));
    common::conclude(world, seconds, &format!("{:.3e} bytes/s", bytes / seconds), verify(error))
}

/// This rank's rows of both matrices, and what travels between the ranks.
struct Matrices {
    from: DistArray<f64, 2>,
    to: DistArray<f64, 2>,
    /// How often the one has been added to the other.
    done: u32,
    /// The columns of each rank.
    columns: Vec<std::ops::Range<usize>>,
    /// For each other rank its columns of our rows, as rows.
    outgoing: Ragged<f64>,
    /// Of each other rank our columns of its rows, as rows, one block behind the other.
    incoming: Vec<f64>,
    /// How much each rank sends us.
    counts: Vec<usize>,
}

impl Matrices {
    fn new(world: &Comm, order: usize) -> Result<Self, Failure> {
        let layout = Layout::on_grid([order, order], [world.size(), 1]);
        let columns: Vec<_> = (0..world.size()).map(|rank| layout.block(rank).range(0)).collect();
        let rows = columns[world.rank()].len();
        let mut counts: Vec<_> = columns.iter().map(|block| block.len() * rows).collect();
        counts[world.rank()] = 0;
        let total = counts.iter().sum();
        let value = |[row, column]: [usize; 2]| (order * column + row) as f64;
        let from = DistArray::from_fn(world, &layout, Halo::none(), value)?;
        Ok(Self {
            to: from.like(|_| 0.0),
            from,
            done: 0,
            outgoing: Ragged::from_flat(vec![0.0; total], counts.iter().copied()),
            incoming: vec![0.0; total],
            columns,
            counts,
        })
    }

    /// What a run goes on from.
    fn state(&mut self) -> State<'_> {
        let Self { from, to, done, .. } = self;
        State::new().array("from", from).array("to", to).value("iterations", done)
    }

    /// to ← to + fromᵀ, from ← from + 1.
    fn step(&mut self, world: &Comm) -> Result<(), Failure> {
        let Self { from, to, done, columns, outgoing, incoming, counts } = self;
        let [order, _] = from.shape();
        let first = columns[world.rank()].start;
        // Without a halo they are slices.
        let from = from.view_mut().into_slice().unwrap_or_default();
        let to = to.view_mut().into_slice().unwrap_or_default();
        let height = from.len() / order;
        if height > 0 {
            // A task has some columns of our rows: rows of the block.
            for (block, columns) in outgoing.iter_mut().zip(&*columns) {
                block.par_chunks_mut(TILE * height).enumerate().for_each(|(task, rows)| {
                    let from = &from[columns.start + task * TILE..];
                    transpose(from, order, rows, height, height, |to, from| *to = from);
                });
            }
            // What stays here goes to its place at once.
            to.par_chunks_mut(TILE * order).enumerate().for_each(|(task, rows)| {
                let from = &from[first + task * TILE..];
                transpose(from, order, &mut rows[first..], order, height, |to, from| *to += from);
            });
        }
        world.alltoall_known_into(outgoing, counts, incoming)?;
        // A row of `to` takes up a row of each block that came.
        to.par_chunks_mut(order).enumerate().for_each(|(row, to)| {
            let mut begin = 0;
            for (columns, count) in columns.iter().zip(&*counts).filter(|(_, count)| **count > 0) {
                let block = &incoming[begin + row * columns.len()..];
                to[columns.clone()].iter_mut().zip(block).for_each(|(to, from)| *to += from);
                begin += count;
            }
        });
        from.par_iter_mut().for_each(|value| *value += 1.0);
        *done += 1;
        Ok(())
    }

    /// The sum of all errors in this rank's rows; every element is known exactly.
    fn error(&self) -> f64 {
        let (times, [order, _]) = (f64::from(self.done), self.to.shape());
        let added = times * (times - 1.0) / 2.0;
        let values = &self.to.view();
        let errors = self.to.block().indices().zip(values).map(|([i, j], value)| {
            let exact = (order * i + j) as f64 * times + added;
            (value - exact).abs()
        });
        errors.sum()
    }
}

/// Puts some columns of `height` rows, each `order` long, into rows of a matrix whose rows begin
/// `stride` apart.
fn transpose(
    from: &[f64],
    order: usize,
    to: &mut [f64],
    stride: usize,
    height: usize,
    put: impl Fn(&mut f64, f64),
) {
    for top in (0..height).step_by(TILE) {
        for (column, to) in to.chunks_mut(stride).enumerate() {
            let from = from[top * order + column..].iter().step_by(order);
            let to = &mut to[top..height.min(top + TILE)];
            to.iter_mut().zip(from).for_each(|(to, from)| put(to, *from));
        }
    }
}

pub(crate) fn verify(error: f64) -> common::Verdict {
    let words = format!("sum of errors {error:.1e}, allowed {TOLERANCE:.0e}");
    if error <= TOLERANCE { Ok(words) } else { Err(words) }
}
