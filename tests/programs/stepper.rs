//! Steps with a state that is kept, and a fault at one of them: for the tests of runs that are
//! started again.

use std::{
    fs::File,
    io::Write,
    path::PathBuf,
    process::{self, ExitCode},
    str::FromStr,
    thread,
    time::Duration,
};

use clap::{Parser, ValueEnum};
use spmd::{
    RunArgs,
    io::{CheckpointArgs, State},
    prelude::*,
};

/// Make steps, and fail at one of them
#[derive(Parser)]
struct Args {
    /// How many
    #[arg(long, default_value_t = 50)]
    steps: u64,
    /// How long each takes
    #[arg(long, default_value_t = 5)]
    milliseconds: u64,
    /// What goes wrong on the last rank, and at which step: `panic@25`
    #[arg(long)]
    fault: Option<At>,
    /// The fault happens once: then this file is there
    #[arg(long)]
    once: Option<PathBuf>,
    #[command(flatten)]
    kept: CheckpointArgs,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Clone)]
struct At {
    fault: Fault,
    step: u64,
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (fault, step) = text.split_once('@').ok_or("which fault, at which step?")?;
        let fault = Fault::from_str(fault, true)?;
        Ok(Self { fault, step: step.parse().map_err(|_| "at which step?")? })
    }
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Fault {
    Panic,
    Usage,
    Wrong,
    /// The process is killed.
    Kill,
    /// It makes no step any more.
    Hang,
}

fn main() -> ExitCode {
    let args: Args = spmd::parse();
    args.run.run(|world| steps(world, &args))
}

fn steps(world: &Comm, args: &Args) -> Result<(), Failure> {
    let (mut step, mut sum) = (0_u64, 0_u64);
    let mut checkpoint = args.kept.open(world)?;
    let from = checkpoint.resume(state(&mut step, &mut sum))?;
    if world.rank() == 0 {
        println!("start at {step}{}", from.map_or("", |_| ", continued"));
    }
    while step < args.steps {
        thread::sleep(Duration::from_millis(args.milliseconds));
        step += 1;
        sum += world.allreduce(&[step * step], Max)?[0];
        if let Some(at) = args.fault.as_ref().filter(|at| at.step == step)
            && world.rank() + 1 == world.size()
            && args.once.as_ref().is_none_or(|file| File::create_new(file).is_ok())
        {
            fail(at.fault)?;
        }
        checkpoint.step(state(&mut step, &mut sum))?;
    }
    if world.rank() == 0 {
        writeln!(std::io::stdout(), "sum {sum}")?;
    }
    Ok(())
}

fn state<'a>(step: &'a mut u64, sum: &'a mut u64) -> State<'a> {
    State::new().value("step", step).value("sum", sum)
}

fn fail(fault: Fault) -> Result<(), Failure> {
    match fault {
        Fault::Panic => panic!("as was asked for"),
        Fault::Usage => Err(Failure::usage("as was asked for")),
        Fault::Wrong => Err(Failure::verification("as was asked for")),
        Fault::Kill => process::abort(),
        Fault::Hang => loop {
            thread::sleep(Duration::from_secs(3600));
        },
    }
}
