//! Layer 6: micro-benchmarks of the communicator, with the loops and sizes of OSU's, for every
//! engine.
//!
//! `spmd bench latency -n 2` measures threads, `mpirun -n 2 spmd bench latency` an MPI; the C
//! programs in `benches/peers/` make the same loops on that MPI, and `scripts/compare.sh` sets one
//! against the other.

mod buffer;
mod clock;
mod collective;
mod compare;
mod files;
mod footprint;
mod one_sided;
mod options;
mod output;
mod p2p;
mod repeat;
mod sparse;
mod summary;
mod targets;

use std::io::{IsTerminal, Write};

use spmd::{Comm, Failure, Progress, Result};

use self::{
    clock::{Clock, Monotonic},
    collective::{Barrier, Movement, Moves, Reduction, Sums},
    files::{Files, Transfer},
    one_sided::{Access, OneSided},
    options::{Benchmark, Options, Task},
    output::{Output, Row, Setting, Silence, Unit},
    p2p::{PingPong, Windows},
    repeat::{Seconds, measure},
    sparse::Sparse,
};
pub(crate) use self::{
    compare::{Comparison, between_markers},
    footprint::footprint,
};

/// Measures what `options` say. Rank 0 writes each result to `out` as soon as it is measured.
///
/// # Collective
/// All ranks of `world`, with the same options.
///
/// # Errors
/// Options that this number of ranks cannot serve: exit code 2. Data that arrived wrong: exit code
/// 3.
pub(crate) fn run(world: &Comm, options: &Options, out: &mut dyn Write) -> Result<(), Failure> {
    run_by(&Monotonic, world, options, out)
}

fn run_by<C: Clock>(
    clock: &C,
    world: &Comm,
    options: &Options,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let tasks = options.tasks(world.size()).map_err(Failure::usage)?;
    let prints = world.rank() == 0;
    let mut output: Box<dyn Output + '_> =
        if prints { output::to(options.format, out) } else { Box::new(Silence) };
    output.begin(&setting(world, options)?)?;
    // On a terminal the results themselves show how far it is.
    let shows = !std::io::stdout().is_terminal();
    let progress = shows.then(|| Progress::new(world, tasks.len() as u64, "sizes"));
    let mut last = None;
    for task in &tasks {
        let Task { benchmark, bytes, .. } = *task;
        if last.replace(benchmark) != Some(benchmark) {
            output.title(benchmark, unit(benchmark))?;
        }
        let Some(seconds) = run_task(clock, world, task, options)? else {
            return Err(Failure::verification(format!(
                "{} of {bytes} bytes brought wrong data",
                benchmark.name()
            )));
        };
        output.row(&row(task, seconds, work(world, task, options)))?;
        if let Some(progress) = &progress {
            progress.advance(1);
        }
    }
    // Nobody ends the job before the last result is out.
    world.barrier()?;
    Ok(())
}

/// Where all this is measured.
fn setting(world: &Comm, options: &Options) -> Result<Setting> {
    let info = spmd::info(world)?;
    Ok(Setting {
        engine: world.engine().to_owned(),
        library: world.library(),
        ranks: world.size(),
        hosts: info.hosts(),
        cpus: info.cpus(),
        checks: format!("{:?}", world.checks()).to_lowercase(),
        touched: options.touched,
    })
}

/// Seconds per repetition; `None` if the data arrived wrong.
fn run_task<C: Clock>(
    clock: &C,
    world: &Comm,
    task: &Task,
    options: &Options,
) -> Result<Option<Seconds>, Failure> {
    let (bytes, window, touched) = (task.bytes, options.window.get(), options.touched);
    let windows = |both_ways| Windows::one_pair(world, bytes, window, both_ways);
    let moves = |movement| Moves::new(world, movement, bytes);
    let sums = |reduction| Sums::new(world, reduction, bytes);
    let one_sided = |access| OneSided::new(world, access, bytes);
    let files = |transfer| Files::new(world, transfer, bytes, &options.directory);
    match task.benchmark {
        Benchmark::Latency => {
            measure(world, &mut PingPong::new(world, bytes)?, task, touched, clock)
        }
        Benchmark::Bandwidth => measure(world, &mut windows(false)?, task, touched, clock),
        Benchmark::Bibandwidth => measure(world, &mut windows(true)?, task, touched, clock),
        Benchmark::MessageRate => {
            measure(world, &mut Windows::all_pairs(world, bytes, window)?, task, touched, clock)
        }
        Benchmark::Barrier => measure(world, &mut Barrier::new(world), task, touched, clock),
        Benchmark::Bcast => measure(world, &mut moves(Movement::Bcast)?, task, touched, clock),
        Benchmark::Allgather => {
            measure(world, &mut moves(Movement::Allgather)?, task, touched, clock)
        }
        Benchmark::Alltoall => {
            measure(world, &mut moves(Movement::Alltoall)?, task, touched, clock)
        }
        Benchmark::Reduce => measure(world, &mut sums(Reduction::Reduce)?, task, touched, clock),
        Benchmark::Allreduce => {
            measure(world, &mut sums(Reduction::Allreduce)?, task, touched, clock)
        }
        Benchmark::Scan => measure(world, &mut sums(Reduction::Scan)?, task, touched, clock),
        Benchmark::Sparse => measure(world, &mut Sparse::new(world, bytes), task, touched, clock),
        Benchmark::Put => measure(world, &mut one_sided(Access::Put)?, task, touched, clock),
        Benchmark::Get => measure(world, &mut one_sided(Access::Get)?, task, touched, clock),
        Benchmark::FileWrite => measure(world, &mut files(Transfer::Write)?, task, touched, clock),
        Benchmark::FileRead => measure(world, &mut files(Transfer::Read)?, task, touched, clock),
        Benchmark::All => unreachable!("stands for the others"),
    }
}

fn unit(benchmark: Benchmark) -> Unit {
    match benchmark {
        Benchmark::Bandwidth
        | Benchmark::Bibandwidth
        | Benchmark::FileWrite
        | Benchmark::FileRead => Unit::Megabytes,
        Benchmark::MessageRate => Unit::Messages,
        _ => Unit::Microseconds,
    }
}

/// What one repetition does, counted in the unit's own measure; 1 where time itself is the result.
fn work(world: &Comm, task: &Task, options: &Options) -> f64 {
    let window = options.window.get() as f64;
    let bytes = task.bytes as f64;
    match task.benchmark {
        Benchmark::Bandwidth => bytes * window / 1e6,
        Benchmark::Bibandwidth => 2.0 * bytes * window / 1e6,
        Benchmark::FileWrite | Benchmark::FileRead => bytes / 1e6,
        Benchmark::MessageRate => (world.size() / 2) as f64 * window,
        _ => 1.0,
    }
}

/// A result in its unit. Where more is better the larger bound comes from the shorter time.
fn row(task: &Task, seconds: Seconds, work: f64) -> Row {
    let unit = unit(task.benchmark);
    let Seconds { summary, fastest, slowest } = seconds;
    let convert = |seconds: f64| match unit {
        Unit::Microseconds => seconds * 1e6,
        // A clock that stands still between two looks is no reason for an infinite rate.
        _ => work / seconds.max(1e-9),
    };
    let order = |less: f64, more: f64| match unit {
        Unit::Microseconds => (convert(less), convert(more)),
        _ => (convert(more), convert(less)),
    };
    let (ci_low, ci_high) = order(summary.low, summary.high);
    let (min, max) = order(fastest, slowest);
    Row {
        benchmark: task.benchmark.name(),
        bytes: task.bytes,
        iterations: task.iterations,
        unit,
        mean: convert(summary.mean),
        median: convert(summary.median),
        p99: convert(summary.p99),
        ci_low,
        ci_high,
        min,
        max,
    }
}
