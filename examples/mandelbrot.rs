//! The Mandelbrot set: a row of the picture is a task, and rows take very different times.
//!
//! A farm hands the rows out as ranks become free. Dealt out beforehand, the ranks in the middle
//! would have most of the work.
//!
//! ```text
//! cargo run --release --example mandelbrot -- --picture mandelbrot.png
//! ```

use std::process::ExitCode;

use clap::Parser;
use ndarray::{Array2, ArrayView1, s};
use rayon::prelude::*;
use spmd::{array::Layout, farm::Farm, io::PictureFile, prelude::*};

mod common;

/// The middle of the part of the plane that is drawn, and half a side of it.
const MIDDLE: [f64; 2] = [-0.75, 0.0];
const REACH: f64 = 1.25;
/// Pixels that are computed together, in the registers of the processor.
const LANES: usize = 8;

/// Draw the Mandelbrot set
#[derive(Parser)]
struct Args {
    /// Pixels a side
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1 << 15))]
    size: u32,
    /// Steps after which a point is taken to be inside
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    steps: u32,
    /// Draw it (.png)
    #[arg(long, value_name = "FILE")]
    picture: Option<PictureFile>,
    #[command(flatten)]
    run: RunArgs,
}

fn main() -> ExitCode {
    let args: Args = spmd::parse();
    args.run.run(|world| draw(world, &args))
}

fn draw(world: &Comm, args: &Args) -> Result<(), Failure> {
    let (size, steps) = (args.size as usize, args.steps);
    common::announce(world, &format!("mandelbrot: {size} x {size} pixels, {steps} steps"));
    if world.rank() == 0 {
        args.picture.iter().try_for_each(PictureFile::check_writable)?;
    }
    let progress = Progress::new(world, size as u64, "rows");
    let farm = Farm::new(world)?;
    let (pixels, seconds) = world.timed(|| {
        farm.run(
            |tasks| {
                (0..size).for_each(|row| _ = tasks.submit(row)); // numbered like the rows
                let mut pixels = Array2::zeros((size, size));
                for done in tasks.as_completed() {
                    let (row, counts) = done?;
                    pixels.row_mut(row).assign(&ArrayView1::from(&counts));
                    progress.advance(1);
                }
                Ok(pixels)
            },
            |&row, _| Ok(count_row(size, steps, row)),
        )
    })?;
    drop(progress);

    // Rank 0 alone has the picture, draws it and says what it thinks of it.
    if let (Some(pixels), Some(alone)) = (&pixels, world.subset(&[0])?) {
        let layout = Layout::new([size, size], 1);
        let brightness = pixels.mapv(|count| f64::from(count).ln_1p());
        args.picture.iter().try_for_each(|file| file.write(&alone, &layout, &brightness))?;
    }
    let sum = |pixels: &Array2<u32>| pixels.iter().map(|&count| u64::from(count)).sum();
    let sum: u64 = world.bcast_one(0, || pixels.as_ref().map_or(0, sum))?;
    let verdict =
        world.bcast_obj(0, || pixels.map_or(Ok(String::new()), |pixels| verify(&pixels, steps)))?;
    let rate = format!("{:.3e} steps/s", sum as f64 / seconds);
    common::conclude(world, seconds, &rate, verdict)
}

/// For each pixel of a row, how many steps of z ← z² + c stay within 2.
fn count_row(size: usize, steps: u32, row: usize) -> Vec<u32> {
    // Pixels lie symmetrically round the middle, to the last bit.
    let from_middle = |at: usize| (2 * at as i64 + 1 - size as i64) as f64 * (REACH / size as f64);
    let imaginary = MIDDLE[1] + from_middle(row);
    let mut counts = vec![0; size];
    counts.par_chunks_mut(LANES).enumerate().with_min_len(8).for_each(|(group, counts)| {
        let real = std::array::from_fn(|lane| MIDDLE[0] + from_middle(group * LANES + lane));
        counts.copy_from_slice(&count_lanes(real, imaginary, steps)[..counts.len()]);
    });
    counts
}

fn count_lanes(real: [f64; LANES], imaginary: f64, steps: u32) -> [u32; LANES] {
    let (mut x, mut y, mut counts) = ([0.0; LANES], [0.0; LANES], [0_u64; LANES]);
    for _ in 0..steps {
        let mut inside = 0;
        for lane in 0..LANES {
            let (xx, yy) = (x[lane] * x[lane], y[lane] * y[lane]);
            // What has left never comes back.
            let is_inside = u64::from(xx + yy <= 4.0);
            counts[lane] += is_inside;
            inside += is_inside;
            y[lane] = 2.0 * x[lane] * y[lane] + imaginary;
            x[lane] = xx - yy + real[lane];
        }
        if inside == 0 {
            break;
        }
    }
    counts.map(|count| count as u32)
}

/// The sums of some pictures, by pixels a side and steps.
pub(crate) fn known(size: usize, steps: u32) -> Option<u64> {
    match (size, steps) {
        (64, 100) => Some(120_544),
        (256, 1000) => Some(16_216_664),
        (512, 1000) => Some(64_917_922),
        _ => None,
    }
}

/// The picture is its own mirror image, and the sum of its pixels the known one if one is.
pub(crate) fn verify(pixels: &Array2<u32>, steps: u32) -> common::Verdict {
    let sum: u64 = pixels.iter().map(|&count| u64::from(count)).sum();
    let mirrored = pixels.slice(s![..;-1, ..]);
    match known(pixels.nrows(), steps) {
        _ if mirrored != pixels => Err("not its own mirror image".to_owned()),
        Some(known) if known != sum => Err(format!("pixel sum {sum}, should be {known}")),
        Some(_) => Ok(format!("pixel sum {sum} as known, its own mirror image")),
        None => Ok(format!("pixel sum {sum}, its own mirror image")),
    }
}
