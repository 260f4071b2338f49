//! Conway's game of life on a torus: a cell lives on with two or three living neighbours, and
//! comes to life with three.
//!
//! The R-pentomino is five cells that take 1103 generations to settle, as 116 cells (on an
//! unbounded plane, the six gliders that have left among them).
//!
//! ```text
//! cargo run --release --example life
//! cargo run --release --example life -- -n 4 --picture life.png
//! ```
//!
//! Source: Gardner, "Mathematical Games", Scientific American 223 (1970).

use std::{process::ExitCode, time::Instant};

use clap::Parser;
use spmd::{
    array::{Boundary, DistArray, Halo, Layout},
    io::PictureFile,
    prelude::*,
};

/// A cell and its eight neighbours.
const AROUND: [[isize; 2]; 9] =
    [[0, 0], [-1, -1], [-1, 0], [-1, 1], [0, -1], [0, 1], [1, -1], [1, 0], [1, 1]];
/// The R-pentomino, from its middle.
const R_PENTOMINO: [[isize; 2]; 5] = [[-1, 0], [-1, 1], [0, -1], [0, 0], [1, 0]];
/// After so many generations so many cells live, where nothing comes back round the torus.
const SETTLED: (u32, u64) = (1103, 116);
/// A torus of this size has room for all gliders until then.
const ROOMY: u32 = 640;

/// Play the game of life from the R-pentomino, and check the number of cells
#[derive(Parser)]
struct Args {
    /// Cells along each side of the torus
    #[arg(long, default_value_t = ROOMY, value_parser = clap::value_parser!(u32).range(3..))]
    size: u32,
    /// Generations
    #[arg(long, default_value_t = SETTLED.0)]
    generations: u32,
    /// Draw the last generation (.png)
    #[arg(long, value_name = "FILE")]
    picture: Option<PictureFile>,
    #[command(flatten)]
    run: RunArgs,
}

fn main() -> ExitCode {
    let args: Args = spmd::parse();
    args.run.run(|world| play(world, &args)) // every rank runs `play`
}

fn play(world: &Comm, args: &Args) -> Result<(), Failure> {
    let (first, size) = (world.rank() == 0, args.size as usize);
    if first {
        args.picture.iter().try_for_each(PictureFile::check_writable)?;
    }
    // The torus has no border: what leaves a block on one side may enter the same block.
    let torus = Halo::cube(1).all(Boundary::Periodic);
    let layout = Layout::new([size, size], world.size());
    let mut now = DistArray::from_fn(world, &layout, torus, |_| 0_u8)?;
    for step in R_PENTOMINO {
        // Whoever owns the cell sets it.
        now.set(step.map(|step| (size / 2).wrapping_add_signed(step)), 1);
    }
    let mut next = now.clone();

    let progress = Progress::new(world, args.generations.into(), "generations");
    world.barrier()?;
    let clock = Instant::now();
    for _ in 0..args.generations {
        now.update(&mut next, AROUND, |[here, a, b, c, d, e, f, g, h]| {
            let neighbors = a + b + c + d + e + f + g + h;
            u8::from(neighbors | here == 3) // three, or two and alive
        })?;
        std::mem::swap(&mut now, &mut next);
        progress.advance(1);
    }
    let seconds = world.allreduce(&[clock.elapsed().as_secs_f64()], Max)?[0];
    drop(progress);

    let alive = now.map(u64::from).sum()?;
    if let Some(file) = &args.picture {
        file.write(world, &layout, &now.map(f64::from).view())?;
    }
    let known = (args.generations, args.size >= ROOMY) == (SETTLED.0, true);
    let passed = !known || alive == SETTLED.1;
    let hash = now.checksum()?;
    if first {
        let rate = (size * size) as f64 * f64::from(args.generations) / seconds;
        let verdict = match (known, passed) {
            (false, _) => "none (no answer is known for this size and number of generations)",
            (true, true) => "passed (116 cells after 1103 generations)",
            (true, false) => "FAILED (116 cells after 1103 generations)",
        };
        println!(
            "{layout}\ntime: {seconds:.3} s, {rate:.2e} cells/s\ncells: {alive} after {} generations\n\
             checksum: {hash:016x}\nverification: {verdict}",
            args.generations,
        );
    }
    world.barrier()?; // a failure ends the job: not before the result is printed
    if passed {
        return Ok(());
    }
    Err(Failure::verification(format!("verification failed: {alive} cells, expected 116")))
}
