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
use rayon::prelude::*;
use spmd::{array::block_range, prelude::*};

use self::npb::{Class, Random};

mod common;
pub(crate) mod npb;

/// Steps of the method of conjugate gradients.
const STEPS: usize = 25;
/// The smallest eigenvalue of the matrix without its shift, as it is made.
const CONDITION: f64 = 0.1;
/// The largest relative error of the result that passes.
const TOLERANCE: f64 = 1e-10;

/// NPB CG: the smallest eigenvalue of a sparse matrix
#[derive(Parser)]
struct Args {
    /// Size: 1400, 7000, 14000 or 75000 rows
    #[arg(long, value_enum, default_value = "A", ignore_case = true)]
    class: Class,
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
    args.run.run(|world| iterate(world, args.class))
}

fn iterate(world: &Comm, class: Class) -> Result<(), Failure> {
    let problem @ Problem { order, iterations, shift, .. } = problem(class);
    common::announce(world, &format!("CG class {class:?}: {order} rows, {iterations} iterations"));
    let matrix = Matrix::new(world, &problem);
    let nonzeros = world.allreduce_one(matrix.values.len(), Sum)?;
    let mut x = vec![1.0; matrix.counts[world.rank()]];
    solve(world, &matrix, &x)?; // warms up memory and network

    let progress = Progress::new(world, iterations.into(), "iterations");
    let (zeta, seconds) = world.timed(|| {
        let mut zeta = 0.0;
        for _ in 0..iterations {
            let z = solve(world, &matrix, &x)?;
            let sums = world.allreduce(&[dot(&x, &z), dot(&z, &z)], Sum)?;
            zeta = shift + 1.0 / sums[0];
            let length = sums[1].sqrt();
            x.iter_mut().zip(z).for_each(|(x, z)| *x = z / length);
            progress.advance(1);
        }
        Ok(zeta)
    })?;
    drop(progress);
    let flops = f64::from(iterations) * STEPS as f64 * (2 * nonzeros + 10 * order) as f64;
    let rate = format!("{:.3e} flop/s", flops / seconds);
    common::conclude(world, seconds, &rate, verify(class, zeta))
}

/// This rank's rows of the matrix, in compressed form.
struct Matrix {
    /// How many rows each rank has.
    counts: Vec<usize>,
    /// Where the elements of each row begin, and those of the last end.
    starts: Vec<usize>,
    columns: Vec<u32>,
    values: Vec<f64>,
}

impl Matrix {
    /// The sum of the products of sparse random vectors with themselves, with weights that fall
    /// from 1 to `CONDITION`. All ranks draw the same numbers and keep what falls into their rows.
    fn new(world: &Comm, problem: &Problem) -> Self {
        let block = |rank| block_range(problem.order, world.size(), rank);
        let rows = block(world.rank());
        let mut random = Random::new(314_159_265).skip(1);
        let ratio = CONDITION.powf(1.0 / problem.order as f64);
        let mut weight = 1.0;
        let mut elements = vec![Vec::new(); rows.len()];
        for diagonal in 0..problem.order {
            let vector = sparse_vector(&mut random, problem, diagonal);
            for &(row, scale) in vector.iter().filter(|(row, _)| rows.contains(row)) {
                let products = vector.iter().map(|&(at, value)| (at, weight * scale * value));
                elements[row - rows.start].extend(products);
            }
            if rows.contains(&diagonal) {
                elements[diagonal - rows.start].push((diagonal, CONDITION - problem.shift));
            }
            weight *= ratio;
        }

        let (mut starts, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
        for mut row in elements {
            row.sort_by_key(|&(column, _)| column);
            for same in row.chunk_by(|left, right| left.0 == right.0) {
                columns.push(same[0].0 as u32);
                values.push(same.iter().map(|(_, value)| value).sum());
            }
            starts.push(columns.len());
        }
        let counts = (0..world.size()).map(|rank| block(rank).len()).collect();
        Self { counts, starts, columns, values }
    }

    /// This rank's rows of the product with a vector, of which `all` has all elements.
    fn times(&self, all: &[f64], product: &mut [f64]) {
        let rows = product.par_iter_mut().zip(self.starts.par_windows(2));
        rows.with_min_len(256).for_each(|(product, ends)| {
            let part = ends[0]..ends[1];
            let terms = self.columns[part.clone()].iter().zip(&self.values[part]);
            *product = terms.map(|(&column, value)| value * all[column as usize]).sum();
        });
    }
}

/// `nonzeros` random elements in random places, and 1/2 on the diagonal.
fn sparse_vector(random: &mut Random, problem: &Problem, diagonal: usize) -> Vec<(usize, f64)> {
    let mut vector: Vec<(usize, f64)> = Vec::with_capacity(problem.nonzeros + 1);
    while vector.len() < problem.nonzeros {
        let (value, place) = (random.draw(), random.draw());
        let place = (problem.order.next_power_of_two() as f64 * place) as usize;
        if place < problem.order && vector.iter().all(|&(other, _)| other != place) {
            vector.push((place, value));
        }
    }
    match vector.iter_mut().find(|(place, _)| *place == diagonal) {
        Some((_, value)) => *value = 0.5,
        None => vector.push((diagonal, 0.5)),
    }
    vector
}

/// z with A·z = x, approximately: this rank's elements.
fn solve(world: &Comm, matrix: &Matrix, x: &[f64]) -> Result<Vec<f64>, Failure> {
    let (mut z, mut q) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    let (mut residual, mut p) = (x.to_vec(), x.to_vec()); // p is the direction of search
    let mut all = vec![0.0; matrix.counts.iter().sum()];
    let mut rho = world.allreduce_one(dot(&residual, &residual), Sum)?;
    for _ in 0..STEPS {
        world.allgather_known_into(&p, &matrix.counts, &mut all)?;
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
