//! What all the programs here begin and end with.

use spmd::{
    io::{Checkpoint, CheckpointArgs, State},
    prelude::*,
};

/// What a program thinks of its own result, in words: whether it passed is the same on all ranks.
pub(crate) type Verdict = Result<String, String>;

/// Rank 0 says what is computed, and on what.
pub(crate) fn announce(world: &Comm, problem: &str) {
    if world.rank() == 0 {
        println!(
            "{problem}\nengine: {}\nranks x threads: {} x {}",
            [world.engine(), &world.library()].join(" ").trim_end(),
            world.size(),
            rayon::current_num_threads(),
        );
    }
}

/// The checkpoint that the user has asked for. An earlier run that was stopped, on any number of
/// ranks, is continued: from now on the state is what it was.
#[allow(dead_code, reason = "for programs that go on for long")]
pub(crate) fn resume(
    world: &Comm,
    args: &CheckpointArgs,
    state: State<'_>,
) -> Result<Checkpoint, Failure> {
    let mut checkpoint = args.open(world)?;
    if let Some(kept) = checkpoint.resume(state)?
        && world.rank() == 0
    {
        println!("continued: from {}", kept.display());
    }
    Ok(checkpoint)
}

/// The last lines: how long it took, how fast that is, and whether the result is right. A wrong one
/// ends the job with exit code 3.
pub(crate) fn conclude(
    world: &Comm,
    seconds: f64,
    rate: &str,
    verdict: Verdict,
) -> Result<(), Failure> {
    let (word, why) = match &verdict {
        Ok(why) => ("passed", why),
        Err(why) => ("FAILED", why),
    };
    // For the record of the run (--record FILE).
    world.result("time_s", seconds);
    world.verified(verdict.is_ok(), why);
    if world.rank() == 0 {
        println!("time: {seconds:.3} s, {rate}\nverification: {word} ({why})");
    }
    world.barrier()?; // a failure ends the job: not before the result is printed
    verdict.map(drop).map_err(|why| Failure::verification(format!("verification failed ({why})")))
}
