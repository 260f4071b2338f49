//! The program of the tour: the 2-D heat equation, as in `examples/heat2d.rs`.

use std::f64::consts::PI;

use spmd::{
    Comm, Failure, RunArgs,
    array::{DistArray, Halo, Layout},
    op::Max,
};

/// The span of a trace in which the steps are made.
pub(crate) const STEPS: &str = "steps";

/// The share of a difference that flows in one step.
const FLOW: f64 = 0.2;
/// A cell and its four neighbours.
const FIVE_POINTS: [[isize; 2]; 5] = [[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]];
/// The largest error that passes.
const TOLERANCE: f64 = 1e-12;

/// One run of the program.
#[derive(clap::Args)]
pub(crate) struct Kernel {
    /// Rows and columns
    #[arg(long)]
    cells: usize,
    /// Time steps
    #[arg(long)]
    steps: u32,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// Solves the equation, and fails unless the solution is the exact one.
pub(crate) fn run(world: &Comm, kernel: &Kernel) -> Result<(), Failure> {
    let cells = kernel.cells;
    let sine = |place: usize| (PI * (place + 1) as f64 / (cells + 1) as f64).sin();
    let wave = |[row, column]: [usize; 2]| sine(row) * sine(column);
    let layout = Layout::new([cells; 2], world.size());
    let mut old = DistArray::from_fn(world, &layout, Halo::star(1), wave)?;
    let mut new = old.clone();
    world.barrier()?;
    {
        let _steps = world.span(STEPS);
        for _ in 0..kernel.steps {
            old.update(&mut new, FIVE_POINTS, |[here, north, south, west, east]| {
                here + FLOW * (((north - here) + (south - here)) + ((west - here) + (east - here)))
            })?;
            std::mem::swap(&mut old, &mut new);
        }
        world.barrier()?;
    }
    // This wave only shrinks, by the same factor in every step.
    let lost = (PI / (2 * (cells + 1)) as f64).sin().powi(2);
    let factor = (f64::from(kernel.steps) * (-8.0 * FLOW * lost).ln_1p()).exp();
    let cells = old.view();
    let errors = old.block().indices().zip(&cells);
    let error = errors.map(|(at, value)| (value - factor * wave(at)).abs()).fold(0.0, f64::max);
    let error = world.allreduce_one(error, Max)?;
    if error <= TOLERANCE {
        return Ok(());
    }
    Err(Failure::verification(format!("error {error:.1e}, allowed {TOLERANCE:.0e}")))
}
