//! Carries out the random programs of some seeds, on whatever engine it was started on. Every rank compares what it got with the
//! sequential model; rank 0 prints a digest of all, which is the same on every engine.

use std::process::ExitCode;

use clap::Parser;
use spmd::{Failure, RunArgs, Sum};

#[path = "../random/mod.rs"]
mod random;

/// Run random programs
#[derive(Parser)]
struct Args {
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u8,
    /// How many programs
    #[arg(long, default_value_t = 20)]
    programs: usize,
    #[command(flatten)]
    run: RunArgs,
}

fn main() -> ExitCode {
    let args: Args = spmd::parse();
    args.run.run(|world| {
        let mut digest = 0xcbf2_9ce4_8422_2325_u64;
        for (number, program) in random::from_seed(args.seed, args.programs).iter().enumerate() {
            let got = program.run(world)?;
            if got != program.expected(world.rank(), world.size()) {
                return Err(Failure::verification(format!(
                    "program {number} of seed {} differs from the model: {program:?}",
                    args.seed
                )));
            }
            let lengths = got.iter().map(|row| row.len() as u64);
            for value in lengths.chain(got.iter().flatten().copied()) {
                digest = (digest ^ value).wrapping_mul(0x0100_0000_01b3);
            }
        }
        let digests = world.allreduce(&[digest], Sum)?;
        if world.rank() == 0 {
            println!("{} programs on {} ranks: {:016x}", args.programs, world.size(), digests[0]);
        }
        Ok(())
    })
}
