//! Carries out the random programs of some seeds, on whatever engine it was started on.
//!
//! Right ones: every rank compares what it got with the sequential model; rank 0 prints a digest of
//! all, which is the same on every engine. Wrong ones (`--wrong`): see `tests/wrong/mod.rs`. What
//! must not be is printed with the command that repeats it.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use clap::Parser;
use guard::Guard;
use spmd::{
    Checks, Comm, Failure, RunArgs,
    op::{Max, Sum},
};
use wrong::Where;

#[path = "../wrong/guard.rs"]
mod guard;
#[path = "../random/mod.rs"]
mod random;
#[path = "../wrong/mod.rs"]
mod wrong;

#[global_allocator]
static MEMORY: Guard = Guard::new();

/// A program on `local` that takes so many seconds hangs, unless `--timeout` says otherwise.
const HANGS: u64 = 60;

/// Run random programs
#[derive(Parser)]
struct Args {
    /// What the random numbers begin with
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many programs
    #[arg(long, default_value_t = 20)]
    programs: u64,
    /// The number of the first program, with --wrong
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Plant mistakes
    #[arg(long)]
    wrong: bool,
    /// Put the ranks' memory between pages that nobody may touch
    #[arg(long)]
    guard: bool,
    /// Print each program before it runs
    #[arg(long)]
    show: bool,
    /// Where each rank notes which program it is in, and rank 0 how programs have ended
    #[arg(long, value_name = "DIR")]
    progress: Option<PathBuf>,
    #[command(flatten)]
    run: RunArgs,
}

fn main() -> ExitCode {
    let args: Args = spmd::parse();
    let launched = args.run.engine == Some(spmd::options::EngineKind::Mpi)
        || ["OMPI_COMM_WORLD_RANK", "PMI_RANK"].iter().any(|name| std::env::var_os(name).is_some());
    if args.wrong && (args.run.engine == Some(spmd::options::EngineKind::Local) || !launched) {
        return wrong_ones_on_threads(&args);
    }
    let code = args.run.run(|world| {
        guard::guard(args.guard);
        let done = if args.wrong { wrong_ones(world, &args) } else { right_ones(world, &args) };
        guard::guard(false);
        done
    });
    wrong::use_what_was_kept();
    code
}

fn right_ones(world: &Comm, args: &Args) -> Result<(), Failure> {
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    for (number, program) in random::from_seed(args.seed, args.programs as usize).iter().enumerate()
    {
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
}

/// Wrong programs one after the other in one job, each on a communicator of its own.
fn wrong_ones(world: &Comm, args: &Args) -> Result<(), Failure> {
    let (rank, size) = (world.rank(), world.size());
    let checks = match world.checks() {
        Checks::Off => "off",
        Checks::Arguments => "arguments",
        Checks::Collective => "collective",
        _ => "full",
    };
    let wrongs = AtomicU64::new(0);
    let mut tally = BTreeMap::<&str, u64>::new();
    for number in args.first..args.first + args.programs {
        if let Some(directory) = &args.progress {
            fs::write(directory.join(format!("rank-{rank}")), number.to_string())?;
        }
        let program = wrong::program(args.seed, number, size, Where::Mpi);
        if args.show && rank == 0 {
            eprintln!("{program}");
        }
        let comm = world.dup()?;
        let ends = program.run(&comm, &|text| {
            wrongs.fetch_add(1, Ordering::Relaxed);
            let seed = args.seed;
            eprintln!("wrong: seed {seed} program {number} ranks {size} checks {checks}: {text}");
        })?;
        drop(comm);
        let ended = world.allreduce(&[ends.errors, ends.panics], Max)?;
        if wrongs.load(Ordering::Relaxed) > 0 {
            let text = format!("program {number} of seed {}: {:?}", args.seed, program.mistakes);
            return Err(Failure::verification(text));
        }
        let kind = match (ended[0], ended[1]) {
            _ if program.mistakes.is_empty() => "right",
            (0, 0) => "well",
            (_, 0) => "errors",
            _ => "panics",
        };
        *tally.entry(kind).or_default() += 1;
        if let (0, Some(directory)) = (rank, &args.progress) {
            note_end(directory, kind)?;
        }
    }
    if rank == 0 {
        println!("{} wrong programs on {size} ranks, --checks {checks}: {tally:?}", args.programs);
    }
    Ok(())
}

fn note_end(directory: &Path, kind: &str) -> std::io::Result<()> {
    let file = fs::OpenOptions::new().create(true).append(true).open(directory.join("ended"));
    writeln!(file?, "{kind}")
}

/// Wrong programs on threads, each in a job of its own.
fn wrong_ones_on_threads(args: &Args) -> ExitCode {
    static NOW: AtomicU64 = AtomicU64::new(0);
    NOW.store(args.first, Ordering::Relaxed);
    let seed = args.seed;
    let limit = args.run.timeout.map_or(HANGS, |limit| limit.as_secs());
    thread::spawn(move || {
        let (mut before, mut since) = (u64::MAX, 0);
        loop {
            thread::sleep(Duration::from_secs(1));
            let now = NOW.load(Ordering::Relaxed);
            since = if now == before { since + 1 } else { 0 };
            before = now;
            if since > limit {
                eprintln!("wrong: seed {seed} program {now}: hangs");
                std::process::exit(3);
            }
        }
    });
    let mut tally = BTreeMap::<String, u64>::new();
    let mut all_right = true;
    for number in args.first..args.first + args.programs {
        NOW.store(number, Ordering::Relaxed);
        if let Some(directory) = &args.progress {
            let note = fs::write(directory.join("rank-0"), number.to_string());
            note.expect("a note can be written");
        }
        let ranks = args.run.ranks.map_or(2 + number as usize % 3, Into::into);
        let program = wrong::program(seed, number, ranks, Where::Local);
        if args.show {
            eprintln!("{program}");
        }
        let wrongs = Mutex::new(Vec::new());
        let tell = |text: String| wrongs.lock().unwrap_or_else(PoisonError::into_inner).push(text);
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let ended = spmd::local(ranks, |world| {
                guard::guard(args.guard);
                let ends = program.run(world, &tell);
                guard::guard(false);
                ends
            });
            match ended {
                Err(error) => {
                    let kind = format!("{:?}", error.kind());
                    kind.split([' ', '(', '{']).next().unwrap_or_default().to_owned()
                }
                Ok(_) if program.mistakes.is_empty() => "right".to_owned(),
                Ok(ends) if ends.iter().any(|ends| ends.panics > 0) => "panics".to_owned(),
                Ok(ends) if ends.iter().any(|ends| ends.errors > 0) => "errors".to_owned(),
                Ok(_) => "well".to_owned(),
            }
        }));
        let kind = ended.unwrap_or_else(|_| "panicked itself".to_owned());
        if let Some(directory) = &args.progress {
            note_end(directory, &kind).expect("a note can be written");
        }
        *tally.entry(kind).or_default() += 1;
        for text in wrongs.into_inner().unwrap_or_else(PoisonError::into_inner) {
            all_right = false;
            println!("wrong: seed {seed} program {number} ranks {ranks}: {text}");
            println!("  {:?}", program.mistakes);
        }
    }
    println!(
        "{} wrong programs on threads, {} allocations guarded: {tally:?}",
        args.programs,
        guard::guarded(&MEMORY)
    );
    if all_right { ExitCode::SUCCESS } else { ExitCode::from(3) }
}
