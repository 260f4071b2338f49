//! A program that survives losses and uses most of what a rank can wait in: its sum is the same on any
//! number of ranks, whoever is lost when.

use std::{fs, fs::File, path::PathBuf, process::ExitCode, str::FromStr};

use clap::Parser;
use spmd::{
    RunArgs,
    io::State,
    prelude::*,
    recover::{RecoverArgs, Recovery},
    rma::Lock,
};

/// Make steps, survive losses
#[derive(Parser)]
struct Args {
    /// How many
    #[arg(long, default_value_t = 40)]
    steps: u64,
    /// A rank panics in its first epoch: RANK@STEP
    #[arg(long)]
    panic: Option<At>,
    /// A rank ends the job by an error: RANK@STEP
    #[arg(long)]
    fail: Option<At>,
    /// A rank computes without end: RANK@STEP
    #[arg(long)]
    hang: Option<At>,
    /// It does so once: then this file is there
    #[arg(long)]
    once: Option<PathBuf>,
    /// Rank 0 makes this file when it has made a step
    #[arg(long)]
    begun: Option<PathBuf>,
    /// Into the --size-file goes one of these numbers in each epoch, in turn
    #[arg(long, value_delimiter = ',')]
    wishes: Vec<String>,
    #[command(flatten)]
    recover: RecoverArgs,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Clone, Copy, PartialEq)]
struct At {
    rank: usize,
    step: u64,
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = text.split_once('@');
        let at = at.and_then(|(rank, step)| Some((rank.parse().ok()?, step.parse().ok()?)));
        at.map(|(rank, step)| Self { rank, step }).ok_or_else(|| "as in 2@7".to_owned())
    }
}

fn main() -> ExitCode {
    let args: Args = spmd::parse();
    args.run.resilient(&args.recover, |world, recovery| run(world, recovery, &args))
}

/// What of the numbers to 23 falls to a rank in this step.
fn share(world: &Comm, step: u64) -> u64 {
    let (rank, ranks) = (world.rank() as u64, world.size() as u64);
    (0..24).filter(|item| item % ranks == rank).map(|item| item * step).sum()
}

fn run(world: &Comm, recovery: &mut Recovery<'_>, args: &Args) -> Result<(), Failure> {
    let (mut step, mut sum) = (0_u64, 0_u64);
    recovery.restore(state(&mut step, &mut sum))?;
    let wish = args.wishes.get(recovery.epoch() as usize).filter(|_| world.rank() == 0);
    if let Some((wish, file)) = wish.zip(args.recover.size_file.as_ref()) {
        fs::write(file, wish)?;
    }
    let host = world.split_node()?;
    let mut window = world.window::<u64>(2)?;
    let mut table = host.node_array::<u64>(1)?;
    let (rank, ranks) = (world.rank(), world.size());
    while step < args.steps {
        let here = Some(At { rank, step }).filter(|_| recovery.epoch() == 0);
        assert!(here.is_none() || here != args.panic, "as was asked for");
        if here.is_some() && here == args.fail {
            return Err(Failure::verification("as was asked for"));
        }
        let first = || args.once.as_ref().is_none_or(|file| File::create_new(file).is_ok());
        if here.is_some() && here == args.hang && first() {
            loop {
                std::hint::spin_loop();
            }
        }
        let mine = share(world, step + 1);
        // Round a ring, in memory that is lent.
        let mut passed = [mine];
        for _ in 0..ranks {
            let given = passed;
            world.scope(|scope| {
                scope.irecv(&mut passed, (rank + ranks - 1) % ranks)?;
                scope.isend(&given, (rank + 1) % ranks)?;
                Ok(())
            })?;
        }
        assert_eq!(passed, [mine]);
        // By messages that nobody expects.
        let all = world.exchange_sparse([(step as usize % ranks, vec![mine])])?;
        let found: u64 = all.iter().flat_map(|(_, part)| part).sum();
        let found = world.allreduce(&[found], Sum)?[0];
        // One-sided, and under a lock.
        window.epoch(|epoch| epoch.accumulate(0, 0, &[mine], Sum))?;
        window.passive(|phase| {
            phase.lock(0, Lock::Exclusive, |part| {
                let before = part.get(1..2)?[0];
                part.put(1, &[before + mine])
            })
        })?;
        let mut both = window.local().to_vec();
        world.bcast_into(0, &mut both)?;
        assert_eq!(both, [found; 2]);
        window.local_mut().fill(0);
        // In the memory of the host.
        table.write(|part| part[0] = mine)?;
        let there: u64 = table.read(|all, _| all.iter().sum())?;
        let there = if host.rank() == 0 { there } else { 0 };
        assert_eq!(world.allreduce(&[there], Sum)?, [found]);
        sum = sum.wrapping_mul(31).wrapping_add(found);
        step += 1;
        if let Some(file) = args.begun.as_ref().filter(|_| here == Some(At { rank: 0, step: 0 })) {
            File::create(file)?;
        }
        recovery.commit(state(&mut step, &mut sum))?;
    }
    if rank == 0 {
        println!("sum {sum:016x} of {ranks} ranks after {} epochs", recovery.epoch() + 1);
    }
    Ok(())
}

fn state<'a>(step: &'a mut u64, sum: &'a mut u64) -> State<'a> {
    State::new().value("step", step).value("sum", sum)
}
