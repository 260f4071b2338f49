//! Poisson's equation in a periodic cube, solved by Fourier transforms: `-Δu = f` with the answer
//! known.
//!
//! Each wave number's share of `f` is divided by the square of that number. The transforms move the
//! whole field between the ranks twice in each direction, so that this is a test of the network.
//!
//! ```text
//! cargo run --release --features fft --example poisson
//! cargo run --release --features fft --example poisson -- -n 4 --size 96,128,64
//! ```

mod common;

use std::{f64::consts::PI, process::ExitCode};

use clap::Parser;
use spmd::{
    array::{DistArray, Fft, Halo},
    prelude::*,
};

/// The largest error that passes the verification; the solution lies between -2 and 2.
const TOLERANCE: f64 = 1e-12;

/// Solve Poisson's equation in a periodic cube, and check the result
#[derive(Parser)]
struct Args {
    /// Points along each side of the cube, 7 at least
    #[arg(long, value_name = "NX,NY,NZ", default_value = "128,128,128", value_parser = size)]
    size: [usize; 3],
    #[command(flatten)]
    run: RunArgs,
}

fn size(text: &str) -> Result<[usize; 3], String> {
    let numbers: Result<Vec<usize>, _> = text.split(',').map(str::parse).collect();
    match numbers.as_deref() {
        Ok(&[x, y, z]) if x.min(y).min(z) >= 7 => Ok([x, y, z]),
        _ => Err("give three numbers of 7 or more, as in 128,64,96".to_owned()),
    }
}

fn main() -> ExitCode {
    let args: Args = spmd::parse();
    args.run.run(|world| solve(world, &args)) // every rank runs `solve`
}

fn solve(world: &Comm, args: &Args) -> Result<(), Failure> {
    let shape = args.size;
    let fft = Fft::new(world, shape)?;
    let f = DistArray::from_fn(world, fft.real_layout(), Halo::none(), |index| {
        source(place(shape, index))
    })?;

    common::announce(world, &format!("Poisson's equation, {}", fft.real_layout()));

    let (u, seconds) = world.timed(|| {
        let mut spectrum = fft.forward_real(&f)?;
        spectrum.map_indexed(|index, value| {
            let squares = fft.wave_numbers(index).map(|k| (2.0 * PI * k as f64).powi(2));
            let square: f64 = squares.iter().sum();
            // The mean of u is free: 0.
            if square > 0.0 { value / square } else { value * 0.0 }
        });
        Ok(fft.inverse_real(&spectrum)?)
    })?;

    let mut error = u.clone();
    error.map_indexed(|index, value| (value - solution(place(shape, index))).abs());
    let error = error.max()?.unwrap_or(f64::NAN);
    let cells = shape.iter().product::<usize>() as f64;
    let flops = 2.0 * 2.5 * cells * cells.log2(); // of two real transforms
    let rate = format!("{:.0} Mflop/s", flops / seconds / 1e6);
    common::conclude(world, seconds, &rate, verify(error))
}

pub(crate) fn verify(error: f64) -> common::Verdict {
    let words = format!("largest error {error:.1e}, allowed {TOLERANCE:.0e}");
    if error <= TOLERANCE { Ok(words) } else { Err(words) }
}

/// The place of a point in the cube, whose sides are 1.
fn place(shape: [usize; 3], index: [usize; 3]) -> [f64; 3] {
    [0, 1, 2].map(|axis| index[axis] as f64 / shape[axis] as f64)
}

/// Two waves that fit into the cube.
fn solution([x, y, z]: [f64; 3]) -> f64 {
    let wave = |times: f64, at: f64| (2.0 * PI * times * at).sin();
    wave(1.0, x) * wave(2.0, y) * wave(3.0, z) + (2.0 * PI * (x + y)).cos()
}

/// Minus the Laplacian of the solution.
fn source([x, y, z]: [f64; 3]) -> f64 {
    let wave = |times: f64, at: f64| (2.0 * PI * times * at).sin();
    let square = (2.0 * PI).powi(2);
    14.0 * square * wave(1.0, x) * wave(2.0, y) * wave(3.0, z)
        + 2.0 * square * (2.0 * PI * (x + y)).cos()
}
