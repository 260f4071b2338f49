//! How long a step of the heat equation takes, its computation alone, and its halo exchange alone,
//! in turn: whether the cells travel while others are computed shows where the way is long.

use std::{process::ExitCode, time::Instant};

use clap::Parser;
use spmd::{
    Comm, Failure, Result, RunArgs,
    array::{DistArray, Halo, Layout},
    op::Max,
};

/// A cell and its four neighbours.
const FIVE_POINTS: [[isize; 2]; 5] = [[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]];

/// Measure a step, and its parts
#[derive(Parser)]
struct Args {
    /// Rows of each rank's block
    #[arg(long, default_value_t = 1000)]
    rows: usize,
    /// Columns, which all ranks share
    #[arg(long, default_value_t = 1000)]
    columns: usize,
    /// How often each is measured
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Steps of a measurement
    #[arg(long, default_value_t = 20)]
    steps: usize,
    #[command(flatten)]
    run: RunArgs,
}

fn main() -> ExitCode {
    let args: Args = spmd::parse();
    args.run.run(|world| measure(world, &args))
}

fn step(old: &mut DistArray<f64, 2>, new: &mut DistArray<f64, 2>) -> Result<()> {
    old.update(new, FIVE_POINTS, |[here, north, south, west, east]| {
        here + 0.2 * (((north - here) + (south - here)) + ((west - here) + (east - here)))
    })?;
    std::mem::swap(old, new);
    Ok(())
}

fn measure(world: &Comm, args: &Args) -> Result<(), Failure> {
    let (ranks, value) = (world.size(), |[i, j]: [usize; 2]| (i * 31 + j * 17 % 101) as f64);
    let layout = Layout::on_grid([args.rows * ranks, args.columns], [ranks, 1]);
    let mut all = DistArray::from_fn(world, &layout, Halo::star(1), value)?;
    let mut next = all.clone();
    // A block of the same size, without neighbours.
    let alone = world.split(Some(world.rank() as u32), 0)?.ok_or("a communicator of its own")?;
    let layout = Layout::new([args.rows, args.columns], 1);
    let mut mine = DistArray::from_fn(&alone, &layout, Halo::star(1), value)?;
    let mut after = mine.clone();

    let mut times = [const { Vec::new() }; 4];
    for _ in 0..args.rounds {
        for (what, times) in times.iter_mut().enumerate() {
            world.barrier()?;
            let start = Instant::now();
            for _ in 0..args.steps {
                match what {
                    0 => step(&mut mine, &mut after)?,
                    1 => all.exchange()?,
                    2 => step(&mut all, &mut next)?,
                    _ => {
                        let exchange = all.begin()?;
                        step(&mut mine, &mut after)?;
                        exchange.finish(&mut all)?;
                    }
                }
            }
            let ms = 1e3 * start.elapsed().as_secs_f64() / args.steps as f64;
            times.push(world.allreduce_one(ms, Max)?);
        }
    }
    if world.rank() == 0 {
        let names = ["computation", "exchange", "update", "begin, computation, finish"].into_iter();
        for (name, mut times) in names.zip(times) {
            times.sort_by(f64::total_cmp);
            let (least, median) = (times[0], times[times.len() / 2]);
            println!("{name}: {median:.2} ms a step (at best {least:.2})");
        }
    }
    Ok(())
}
