//! A token goes round the ring of ranks, and each adds its number to it: small ones tell the time
//! of a message, large ones how many bytes go over in a second.
//!
//! ```text
//! cargo run --release --example ring -- -n 4
//! ```

use std::process::ExitCode;

use clap::Parser;
use spmd::prelude::*;

mod common;

/// Send a token round the ring of ranks
#[derive(Parser)]
struct Args {
    /// How many times it goes round
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    laps: u64,
    /// Numbers of 8 bytes in the large token
    #[arg(long, default_value_t = 131_072, value_parser = clap::value_parser!(u64).range(1..))]
    numbers: u64,
    #[command(flatten)]
    run: RunArgs,
}

fn main() -> ExitCode {
    let args: Args = spmd::parse();
    args.run.run(|world| measure(world, &args))
}

fn measure(world: &Comm, args: &Args) -> Result<(), Failure> {
    let (laps, numbers) = (args.laps, args.numbers as usize);
    let large_laps = laps.div_ceil(10);
    common::announce(
        world,
        &format!("ring: {laps} laps of 8 bytes, {large_laps} of {numbers} x 8"),
    );
    let (small, seconds) = world.timed(|| go_round(world, vec![0], laps))?;
    let (large, large_seconds) = world.timed(|| go_round(world, vec![0; numbers], large_laps))?;

    let size = world.size() as f64;
    let latency_us = seconds / (laps as f64 * size) * 1e6;
    let bytes = large_laps as f64 * size * numbers as f64 * 8.0;
    let rate = format!("{latency_us:.2} us a message, {:.3e} bytes/s", bytes / large_seconds);
    // The token is with rank 0 when all is over.
    let verdict = world.bcast_obj(0, || {
        verify(&small, world.size(), laps)?;
        verify(&large, world.size(), large_laps)
    })?;
    common::conclude(world, seconds + large_seconds, &rate, verdict)
}

/// The token as it comes back to rank 0.
fn go_round(world: &Comm, mut token: Vec<u64>, laps: u64) -> Result<Vec<u64>, Failure> {
    let (rank, size) = (world.rank(), world.size());
    let (left, right) = ((rank + size - 1) % size, (rank + 1) % size);
    let mut back = token.clone();
    for _ in 0..laps {
        if rank == 0 {
            // Not `send`: alone in the ring, rank 0 would wait for itself to receive. A buffer that
            // is sent in the background belongs to the request, until that gives it back.
            let sending = world.isend(token, right)?;
            world.recv_into(&mut back, left)?;
            token = std::mem::replace(&mut back, sending.wait()?);
        } else {
            world.recv_into(&mut token, left)?;
            for number in &mut token {
                *number += rank as u64;
            }
            world.send(&token, right)?;
        }
    }
    Ok(token)
}

pub(crate) fn verify(token: &[u64], size: usize, laps: u64) -> common::Verdict {
    let sum = laps * (size * (size - 1) / 2) as u64;
    match token.iter().find(|&&number| number != sum) {
        None => Ok(format!("every number is {sum}, that of {laps} laps")),
        Some(number) => Err(format!("a number is {number}, should be {sum}")),
    }
}
