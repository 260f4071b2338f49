//! An elastic farm whose tasks do what tests want of them, and note what they do.

use std::{
    fs::OpenOptions, io::Write, num::NonZeroUsize, path::PathBuf, process::ExitCode, thread::sleep,
    time::Duration,
};

use clap::Parser;
use spmd::{
    Comm, Failure, RunArgs,
    elastic::{ElasticArgs, ElasticFarm, Role},
    op::Sum,
};

/// Squares of numbers, with accidents
#[derive(Parser)]
struct Args {
    /// How many
    #[arg(long, default_value_t = 100)]
    tasks: u64,
    /// How long each takes
    #[arg(long, default_value_t = 0)]
    millis: u64,
    /// These end the process
    #[arg(long, value_delimiter = ',')]
    deadly: Vec<u64>,
    /// These fail
    #[arg(long, value_delimiter = ',')]
    failing: Vec<u64>,
    /// Task 0 waits until this file is there
    #[arg(long)]
    gate: Option<PathBuf>,
    /// Tasks of so many bytes more
    #[arg(long, default_value_t = 0)]
    ballast: usize,
    /// Results of so many bytes more
    #[arg(long, default_value_t = 0)]
    bytes: usize,
    /// The name of the farm
    #[arg(long, default_value = "squares")]
    name: String,
    /// Note here which task is begun, and by which process
    #[arg(long)]
    notes: Option<PathBuf>,
    /// As a worker under mpirun or srun: all ranks together are one, and share each task
    #[arg(long)]
    together: bool,
    #[command(flatten)]
    elastic: ElasticArgs,
    #[command(flatten)]
    run: RunArgs,
}

fn main() -> ExitCode {
    let mut args: Args = spmd::parse();
    if !args.together {
        args.run.ranks.get_or_insert(NonZeroUsize::MIN);
    }
    args.run.run(|world| take_part(world, &args))
}

type Task = (u64, Vec<u8>);
type Squared = (u64, Vec<u8>);

impl Args {
    fn square(&self, number: u64) -> Result<Squared, Failure> {
        self.note(number)?;
        sleep(Duration::from_millis(self.millis));
        while number == 0 && self.gate.as_ref().is_some_and(|gate| !gate.exists()) {
            sleep(Duration::from_millis(5));
        }
        if self.deadly.contains(&number) {
            std::process::abort();
        }
        if self.failing.contains(&number) {
            return Err(Failure::new(format!("{number} is a bad number")));
        }
        Ok((number * number, vec![7; self.bytes]))
    }

    fn note(&self, number: u64) -> Result<(), Failure> {
        let Some(file) = &self.notes else { return Ok(()) };
        let mut file = OpenOptions::new().append(true).create(true).open(file)?;
        Ok(file.write_all(format!("{number} {}\n", std::process::id()).as_bytes())?)
    }
}

fn take_part(world: &Comm, args: &Args) -> Result<(), Failure> {
    let farm = ElasticFarm::new(args.name.as_str(), &args.elastic);
    let farm = farm.on_address(|address| println!("address {address}"));
    if farm.role() == Role::Worker {
        let worked = if world.size() == 1 {
            farm.work(|(number, _): &Task| args.square(*number))?
        } else {
            farm.work_world(world, |world, (number, _): &Task| {
                if world.rank() == 0 {
                    args.note(*number)?;
                }
                sleep(Duration::from_millis(args.millis));
                let share = number * number / world.size() as u64;
                let first = number * number - share * (world.size() as u64 - 1);
                let mine = if world.rank() == 0 { first } else { share };
                let square = world.allreduce(&[mine], Sum)?[0];
                // Nobody waits for it any more.
                if args.failing.contains(number) && world.rank() == 1 {
                    return Err(Failure::new("rank 1 does not like it"));
                }
                Ok((square, Vec::<u8>::new()))
            })?
        };
        println!("worked {} failed {}", worked.tasks, worked.failed);
        return Ok(());
    }
    let task = |number| (number, vec![0; args.ballast]);
    let tasks = || (0..args.tasks).map(task).collect::<Vec<Task>>();
    let Some(outcome) = farm.map(tasks, |(number, _)| args.square(*number))? else { return Ok(()) };
    for (number, result) in (0..).zip(&outcome.results) {
        if let Some((square, bytes)) = result
            && (*square != number * number || bytes.iter().any(|byte| *byte != 7))
        {
            return Err(Failure::verification(format!("{number} squared is not {square}")));
        }
    }
    let done = outcome.results.iter().flatten().count();
    println!("done {done}");
    println!("from_log {}", outcome.from_log);
    println!("workers {}", outcome.workers);
    println!("lost {}", outcome.lost);
    println!("begun {}", outcome.begun);
    println!("begun_again {}", outcome.begun_again);
    println!("late {}", outcome.late);
    for aside in &outcome.set_aside {
        println!("aside {} {}", aside.task, aside.reasons.join(" | "));
    }
    Ok(())
}
