//! NPB CG: the smallest eigenvalue of a large sparse matrix by inverse iteration, where each step
//! solves a system by 25 steps of the method of conjugate gradients.
//!
//! Rows of the matrix are dealt out to the ranks. For each product with the matrix all ranks need
//! the whole vector (`allgather`), and for each inner product a sum over all ranks (`allreduce`).
//!
//! ```text
//! cargo run --release --example cg -- --class A
//! ```

use std::process::ExitCode;

use clap::Parser;
use spmd::{
    array::{DistArray, Halo, Layout},
    io::{CheckpointArgs, State},
    prelude::*,
};

use self::{matrix::Matrix, npb::Class};

mod common;
#[path = "npb/matrix.rs"]
mod matrix;
pub(crate) mod npb;

/// Steps of the method of conjugate gradients.
const STEPS: usize = 25;
/// The largest relative error of the result that passes.
const TOLERANCE: f64 = 1e-10;

/// NPB CG: the smallest eigenvalue of a sparse matrix
#[derive(Parser)]
struct Args {
    /// Size: 1400, 7000, 14000 or 75000 rows
    #[arg(long, value_enum, default_value = "A", ignore_case = true)]
    class: Class,
    #[command(flatten)]
    kept: CheckpointArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// A class, and the eigenvalue `zeta` that NPB publishes for it.
pub(crate) struct Problem {
    order: usize,
    /// Random elements of each vector that the matrix is made of.
    nonzeros: usize,
    iterations: u32,
    shift: f64,
    pub(crate) zeta: f64,
}

fn main() -> ExitCode {
    let args: Args = spmd::parse();
    args.run.run(|world| iterate(world, &args)) // every rank runs `iterate`
}

fn iterate(world: &Comm, args: &Args) -> Result<(), Failure> {
    let class = args.class;
    let Problem { order, nonzeros, iterations, shift, .. } = problem(class);
    common::announce(world, &format!("CG class {class:?}: {order} rows, {iterations} iterations"));
    let matrix = Matrix::new(world, order, nonzeros, shift);
    let elements = world.allreduce_one(matrix.len(), Sum)?;
    let layout = Layout::new([order], world.size());
    let mut x = DistArray::from_fn(world, &layout, Halo::none(), |_| 1.0)?;
    solve(world, &matrix, &x)?; // warms up memory and network

    let (mut done, mut zeta) = (0, 0.0);
    let kept = state(&mut x, &mut zeta, &mut done, class);
    let mut checkpoint = common::resume(world, &args.kept, kept)?;
    let (progress, from) = (Progress::new(world, iterations.into(), "iterations"), done);
    progress.advance(from.into());
    let ((), seconds) = world.timed(|| {
        while done < iterations {
            let z = solve(world, &matrix, &x)?;
            let sums = world.allreduce(&[dot(cells(&x), &z), dot(&z, &z)], Sum)?;
            zeta = shift + 1.0 / sums[0];
            let length = sums[1].sqrt();
            x.view_mut().iter_mut().zip(z).for_each(|(x, z)| *x = z / length);
            done += 1;
            progress.advance(1);
            checkpoint.step(state(&mut x, &mut zeta, &mut done, class))?;
        }
        Ok(())
    })?;
    drop(progress);
    let flops = f64::from(iterations - from) * STEPS as f64 * (2 * elements + 10 * order) as f64;
    let rate = format!("{:.3e} flop/s", flops / seconds);
    common::conclude(world, seconds, &rate, verify(class, zeta))
}

/// What a run goes on from.
fn state<'a>(
    x: &'a mut DistArray<f64, 1>,
    zeta: &'a mut f64,
    done: &'a mut u32,
    class: Class,
) -> State<'a> {
    let state = State::new().constant("class", &format!("{class:?}"));
    state.array("x", x).value("zeta", zeta).value("iterations", done)
}

/// This rank's elements of a vector.
fn cells(x: &DistArray<f64, 1>) -> &[f64] {
    x.view().to_slice().unwrap_or_default() // without a halo it is one
}

/// z with A·z = x, approximately: this rank's elements.
fn solve(world: &Comm, matrix: &Matrix, x: &DistArray<f64, 1>) -> Result<Vec<f64>, Failure> {
    let x = cells(x);
    let (mut z, mut q) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    let (mut residual, mut p) = (x.to_vec(), x.to_vec()); // p is the direction of search
    let mut all = vec![0.0; matrix.counts().iter().sum()];
    let mut rho = world.allreduce_one(dot(&residual, &residual), Sum)?;
    for _ in 0..STEPS {
        world.allgather_known_into(&p, matrix.counts(), &mut all)?;
        matrix.times(&all, &mut q);
        let alpha = rho / world.allreduce_one(dot(&p, &q), Sum)?;
        z.iter_mut().zip(&p).for_each(|(z, p)| *z += alpha * p);
        residual.iter_mut().zip(&q).for_each(|(residual, q)| *residual -= alpha * q);
        let before = rho;
        rho = world.allreduce_one(dot(&residual, &residual), Sum)?;
        let beta = rho / before;
        p.iter_mut().zip(&residual).for_each(|(p, residual)| *p = residual + beta * *p);
    }
    Ok(z)
}

/// Eight sums side by side: one would have to wait for each addition.
fn dot(left: &[f64], right: &[f64]) -> f64 {
    let (left, right) = (left.as_chunks::<8>(), right.as_chunks::<8>());
    let mut sums = [0.0; 8];
    for (left, right) in left.0.iter().zip(right.0) {
        (0..8).for_each(|at| sums[at] += left[at] * right[at]);
    }
    let rest = left.1.iter().zip(right.1).map(|(left, right)| left * right);
    sums.iter().copied().chain(rest).sum()
}

pub(crate) fn problem(class: Class) -> Problem {
    let (order, nonzeros, iterations, shift, zeta) = match class {
        Class::S => (1400, 7, 15, 10.0, 8.597_177_507_864_8),
        Class::W => (7000, 8, 15, 12.0, 10.362_595_087_124),
        Class::A => (14_000, 11, 15, 20.0, 17.130_235_054_029),
        Class::B => (75_000, 13, 75, 60.0, 22.712_745_482_631),
    };
    Problem { order, nonzeros, iterations, shift, zeta }
}

pub(crate) fn verify(class: Class, zeta: f64) -> common::Verdict {
    let error = (zeta / problem(class).zeta - 1.0).abs();
    let words = format!("class {class:?}, zeta {zeta:.13}, relative error {error:.1e}");
    if error <= TOLERANCE { Ok(words) } else { Err(words) }
}
