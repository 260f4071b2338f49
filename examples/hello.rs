//! Every rank says where it runs; rank 0 prints what all have said, in the order of ranks.
//!
//! ```text
//! cargo run --example hello -- -n 4
//! mpirun -n 4 target/release/examples/hello
//! ```

use std::process::ExitCode;

use clap::Parser;
use nix::unistd::gethostname;
use serde::{Deserialize, Serialize};
use spmd::prelude::*;

mod common;

/// Say hello from every rank
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
}

/// Any type that serde knows can be sent.
#[derive(Serialize, Deserialize)]
pub(crate) struct Greeting {
    pub(crate) rank: usize,
    pub(crate) host: String,
    pub(crate) threads: usize,
}

fn main() -> ExitCode {
    let args: Args = spmd::parse();
    args.run.run(greet) // every rank runs `greet`
}

fn greet(world: &Comm) -> Result<(), Failure> {
    common::announce(world, "hello from every rank");
    let host = gethostname()?.to_string_lossy().into_owned();
    let mine = Greeting { rank: world.rank(), host, threads: rayon::current_num_threads() };
    // Lines that ranks print themselves come in any order, and a launcher may mix them up.
    let (all, seconds) = world.timed(|| Ok(world.gather_obj(0, &mine)?))?;
    for Greeting { rank, host, threads } in all.iter().flatten() {
        println!("hello from rank {rank} of {} on {host}, threads: {threads}", world.size());
    }
    // Only rank 0 has the greetings: it tells the others what it thinks of them.
    let verdict =
        world.bcast_obj(0, || verify(all.as_deref().unwrap_or_default(), world.size()))?;
    common::conclude(world, seconds, &format!("{} greetings", world.size()), verdict)
}

pub(crate) fn verify(greetings: &[Greeting], size: usize) -> common::Verdict {
    if greetings.iter().map(|greeting| greeting.rank).eq(0..size) {
        Ok("every rank once, in order".to_owned())
    } else {
        Err("not every rank once, in order".to_owned())
    }
}
