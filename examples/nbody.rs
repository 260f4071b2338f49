//! Bodies that attract each other: every rank has some, and blocks of all go round the ring of
//! ranks, so that each rank meets every block.
//!
//! While a block is on its way to the next rank this one computes with it: both hold the same
//! memory (`Arc<[T]>`), which nobody can change. Sums of accelerations come out the same in every
//! bit however many ranks there are, see `GRID`.
//!
//! ```text
//! cargo run --release --example nbody -- --bodies 20000 -n 2
//! ```

use std::{process::ExitCode, sync::Arc};

use clap::Parser;
use rayon::prelude::*;
use spmd::{
    array::{DistArray, Halo, Layout, block_range},
    io::{CheckpointArgs, State},
    prelude::*,
};

use self::npb::Random;

mod common;
mod npb;

/// Softening length: closer bodies attract each other less, as if they were clouds.
const SOFTENING: f64 = 0.1;
/// Added and taken away again it rounds a small number to a multiple of 2⁻⁴⁴. Sums of such
/// multiples are exact below 2⁹, so the order in which they are added up does not matter. None is
/// larger: the mass is 1 in all, and pulls with less than 0.39/softening² and 1/softening.
const GRID: f64 = 1.5 * 256.0;
/// The largest relative change of the energy, and the largest change of the momentum, that pass.
const TOLERANCES: [f64; 2] = [1e-4, 1e-12];
/// Bodies that are computed together, in the registers of the processor.
const LANES: usize = 8;

/// Simulate bodies that attract each other
#[derive(Parser)]
struct Args {
    /// Number of bodies
    #[arg(long, default_value_t = 8192, value_parser = clap::value_parser!(u32).range(2..=1 << 26))]
    bodies: u32,
    /// Time steps of 1/256
    #[arg(long, default_value_t = 20)]
    steps: u32,
    #[command(flatten)]
    kept: CheckpointArgs,
    #[command(flatten)]
    run: RunArgs,
}

type Vector = [f64; 3];
/// A vector of each body.
type Bodies = DistArray<Vector, 1>;
/// An acceleration, and the potential.
type Pull = [f64; 4];

fn main() -> ExitCode {
    let args: Args = spmd::parse();
    args.run.run(|world| simulate(world, &args)) // every rank runs `simulate`
}

fn simulate(world: &Comm, args: &Args) -> Result<(), Failure> {
    let (bodies, steps) = (args.bodies as usize, args.steps);
    common::announce(world, &format!("nbody: {bodies} bodies, {steps} steps"));
    // A cube that turns. Each body has its place in the sequence of random numbers.
    let mine = block_range(bodies, world.size(), world.rank());
    let mut random = Random::new(271_828_183).skip(3 * mine.start as u64);
    let mut draw = || 2.0 * random.draw() - 1.0;
    let layout = Layout::new([bodies], world.size());
    let mut places =
        DistArray::from_fn(world, &layout, Halo::none(), |_| [draw(), draw(), draw()])?;
    let mut speeds = places.map(|[x, y, _]| [-0.3 * y, 0.3 * x, 0.0]);
    let before = conserved(world, &speeds, &attract(world, bodies, &places)?)?;

    let mut step = 0;
    let kept = state(&mut places, &mut speeds, &mut step);
    let mut checkpoint = common::resume(world, &args.kept, kept)?;
    let (progress, from) = (Progress::new(world, steps.into(), "steps"), step);
    let mut pulls = attract(world, bodies, &places)?;
    let dt = 1.0 / 256.0;
    let ((), seconds) = world.timed(|| {
        while step < steps {
            // Leapfrog: half a kick, drift, half a kick.
            kick(&mut speeds, &pulls, dt / 2.0);
            places.zip_inplace(&speeds, |place, speed| {
                [0, 1, 2].map(|axis| place[axis] + dt * speed[axis])
            });
            pulls = attract(world, bodies, &places)?;
            kick(&mut speeds, &pulls, dt / 2.0);
            step += 1;
            progress.advance(1);
            checkpoint.step(state(&mut places, &mut speeds, &mut step))?;
        }
        Ok(())
    })?;
    drop(progress);
    let after = conserved(world, &speeds, &pulls)?;

    let sum = places.checksum()?;
    if world.rank() == 0 {
        println!("energy: {:.12} before, {:.12} after\nchecksum: {sum:016x}", before[0], after[0]);
    }
    let pairs = (bodies as f64).powi(2) * f64::from(step.saturating_sub(from));
    let rate = format!("{:.3e} pairs/s", pairs / seconds);
    common::conclude(world, seconds, &rate, verify(before, after))
}

/// What a run goes on from.
fn state<'a>(places: &'a mut Bodies, speeds: &'a mut Bodies, step: &'a mut u32) -> State<'a> {
    State::new().array("places", places).array("speeds", speeds).value("step", step)
}

fn kick(speeds: &mut Bodies, pulls: &[Pull], dt: f64) {
    for (speed, pull) in speeds.view_mut().iter_mut().zip(pulls) {
        (0..3).for_each(|axis| speed[axis] += dt * pull[axis]);
    }
}

/// How all bodies pull at those of this rank.
fn attract(world: &Comm, bodies: usize, places: &Bodies) -> Result<Vec<Pull>, Failure> {
    let places = &places.view().to_vec()[..];
    let (rank, size) = (world.rank(), world.size());
    let (left, right) = ((rank + size - 1) % size, (rank + 1) % size);
    let mut pulls = vec![[0.0; 4]; places.len()];
    let mut block: Arc<[Vector]> = places.into();
    for hop in 1..size {
        // The next block began `hop` ranks to the left.
        let next = block_range(bodies, size, (rank + size - hop) % size);
        let receiving = world.irecv(vec![[0.0; 3]; next.len()], left)?;
        let sending = world.isend(Arc::clone(&block), right)?;
        meet(places, &block, 1.0 / bodies as f64, &mut pulls);
        sending.wait()?;
        block = receiving.wait()?.0.into();
    }
    meet(places, &block, 1.0 / bodies as f64, &mut pulls);
    Ok(pulls)
}

/// Adds to each body's pull that of the bodies of a block.
fn meet(places: &[Vector], block: &[Vector], mass: f64, pulls: &mut [Pull]) {
    let groups = pulls.par_chunks_mut(LANES).zip(places.par_chunks(LANES));
    groups.with_min_len(1 + 4096 / (1 + block.len())).for_each(|(pulls, places)| {
        // The bodies of the group lie side by side, so that one instruction serves several.
        let mut lanes = [[0.0; LANES]; 3];
        for (lane, place) in places.iter().enumerate() {
            (0..3).for_each(|axis| lanes[axis][lane] = place[axis]);
        }
        let mut sums = [[0.0; LANES]; 4];
        for other in block {
            for lane in 0..LANES {
                let [x, y, z] = [0, 1, 2].map(|axis| other[axis] - lanes[axis][lane]);
                let square = x * x + y * y + z * z + SOFTENING * SOFTENING;
                let weight = mass / (square * square.sqrt());
                for (sums, pull) in sums.iter_mut().zip([x, y, z, square]) {
                    sums[lane] += (weight * pull + GRID) - GRID;
                }
            }
        }
        for (lane, pull) in pulls.iter_mut().enumerate() {
            (0..4).for_each(|at| pull[at] += sums[at][lane]);
        }
    });
}

/// The energy and the momentum of all bodies: the same bits for any number of ranks.
fn conserved(world: &Comm, speeds: &Bodies, pulls: &[Pull]) -> Result<Pull, Failure> {
    let (mass, speeds) = (1.0 / speeds.shape()[0] as f64, &speeds.view());
    let energies = speeds.iter().zip(pulls).map(|([x, y, z], pull)| {
        // No body pulls at itself; of each pair both have the potential.
        let potential = pull[3] - mass / SOFTENING;
        mass * (x * x + y * y + z * z - potential) / 2.0
    });
    let mut sums = [world.sum_reproducible(&energies.collect::<Vec<_>>())?, 0.0, 0.0, 0.0];
    for axis in 0..3 {
        let momenta: Vec<f64> = speeds.iter().map(|speed| mass * speed[axis]).collect();
        sums[1 + axis] = world.sum_reproducible(&momenta)?;
    }
    Ok(sums)
}

/// What is conserved, before and after: the energy but for the error of the method, the momentum
/// but for rounding.
pub(crate) fn verify(before: Pull, after: Pull) -> common::Verdict {
    let energy = ((after[0] - before[0]) / before[0]).abs();
    let changes = [1, 2, 3].map(|at| (after[at] - before[at]).abs());
    let words = format!(
        "energy changed by {energy:.1e}, momentum by {:.1e} {:.1e} {:.1e}",
        changes[0], changes[1], changes[2]
    );
    let is_kept = changes.iter().all(|&change| change <= TOLERANCES[1]);
    if energy <= TOLERANCES[0] && is_kept { Ok(words) } else { Err(words) }
}
