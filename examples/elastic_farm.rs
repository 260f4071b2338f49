//! The queens that do not attack each other, counted by workers that come and go: a task is a board
//! with queens on its first rows.
//!
//! Alone on the threads of this machine; or with a coordinator, and workers from anywhere, which may
//! be killed and added while it runs:
//!
//! ```text
//! cargo run --release --features elastic --example elastic_farm
//! elastic_farm --size 16 --serve 127.0.0.1:4000 --token-file token --log log
//! elastic_farm --join 127.0.0.1:4000 --token-file token
//! mpirun -n 4 elastic_farm --join 127.0.0.1:4000 --token-file token --together
//! ```

use std::{num::NonZeroUsize, process::ExitCode};

use clap::Parser;
use serde::{Deserialize, Serialize};
use spmd::{
    elastic::{ElasticArgs, ElasticFarm, Outcome, Role},
    prelude::*,
};

mod common;

/// Count the ways to place N queens on a board of N x N
#[derive(Parser)]
struct Args {
    /// Rows and columns of the board; the coordinator's counts
    #[arg(long, default_value_t = 13, value_parser = clap::value_parser!(u32).range(1..=24))]
    size: u32,
    /// Rows on which queens stand in a task
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=6))]
    depth: u32,
    /// As a worker under mpirun or srun: all ranks together are one, and share each task
    #[arg(long)]
    together: bool,
    #[command(flatten)]
    elastic: ElasticArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Queens on the first rows of a board: which squares of the next row they attack, down the columns
/// and both diagonals, a bit each.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Board {
    size: u32,
    rows: u32,
    columns: u32,
    falling: u32,
    rising: u32,
}

impl Board {
    pub(crate) fn empty(size: u32) -> Self {
        Self { size, rows: 0, columns: 0, falling: 0, rising: 0 }
    }

    /// The boards with one more queen, on the next row.
    fn next(self) -> impl Iterator<Item = Self> {
        let free = !(self.columns | self.falling | self.rising);
        (0..self.size).map(|column| 1 << column).filter(move |queen| free & queen != 0).map(
            move |queen| Self {
                rows: self.rows + 1,
                columns: self.columns | queen,
                falling: (self.falling | queen) << 1,
                rising: (self.rising | queen) >> 1,
                ..self
            },
        )
    }

    /// In how many ways it can be filled.
    pub(crate) fn count(self) -> u64 {
        if self.rows == self.size { 1 } else { self.next().map(Self::count).sum() }
    }
}

/// All boards with queens on this many rows.
pub(crate) fn boards(size: u32, depth: u32) -> Vec<Board> {
    let mut boards = vec![Board::empty(size)];
    for _ in 0..depth.min(size) {
        boards = boards.into_iter().flat_map(Board::next).collect();
    }
    boards
}

fn main() -> ExitCode {
    let mut args: Args = spmd::parse();
    if !args.together {
        // The workers are the parallel part; and a worker's threads.
        args.run.ranks.get_or_insert(NonZeroUsize::MIN);
    }
    args.run.run(|world| count(world, &args))
}

fn count(world: &Comm, args: &Args) -> Result<(), Failure> {
    let farm = ElasticFarm::new("queens", &args.elastic);
    match farm.role() {
        // Of a world all ranks count together, each some of the boards one row further.
        Role::Worker if world.size() > 1 => {
            let worked = farm.work_world(world, |world, board: &Board| {
                let mine = board.next().skip(world.rank()).step_by(world.size());
                let is_full = u64::from(board.rows == board.size && world.rank() == 0);
                Ok(world.allreduce(&[is_full + mine.map(Board::count).sum::<u64>()], Sum)?[0])
            })?;
            if world.rank() == 0 {
                println!("this world has done {} tasks", worked.tasks);
            }
            Ok(())
        }
        Role::Worker => {
            let worked = farm.work(|board: &Board| Ok(board.count()))?;
            println!("this worker has done {} tasks", worked.tasks);
            Ok(())
        }
        Role::Alone | Role::Coordinator => {
            common::announce(world, &format!("queens: {} on a board of as many rows", args.size));
            let farm = farm.on_address(|address| println!("workers join: {address}"));
            let (outcome, seconds) = world.timed(|| match world.rank() {
                0 => farm.map(|| boards(args.size, args.depth), |board: &Board| Ok(board.count())),
                _ => Ok(None),
            })?;
            let (verdict, rate) = world.bcast_obj(0, || judge(args.size, outcome, seconds))?;
            common::conclude(world, seconds, &rate, verdict)
        }
    }
}

/// What there is to say of the results.
fn judge(size: u32, outcome: Option<Outcome<u64>>, seconds: f64) -> (common::Verdict, String) {
    let Some(outcome) = outcome else { return (Ok(String::new()), String::new()) };
    let tasks = outcome.results.len();
    let rate = format!(
        "{:.1} tasks/s; {tasks} tasks, {} from the log, {} workers, {} lost; begun {} times, {} of \
         them twice; {} late results",
        tasks as f64 / seconds,
        outcome.from_log,
        outcome.workers,
        outcome.lost,
        outcome.begun,
        outcome.begun_again,
        outcome.late,
    );
    match outcome.complete() {
        Ok(counts) => (verify(size, counts.iter().sum()), rate),
        Err(failure) => (Err(failure.to_string()), rate),
    }
}

/// The known numbers: sequence A000170 of the On-Line Encyclopedia of Integer Sequences.
pub(crate) fn known(size: u32) -> Option<u64> {
    let known = [
        1,
        0,
        0,
        2,
        10,
        4,
        40,
        92,
        352,
        724,
        2680,
        14200,
        73712,
        365_596,
        2_279_184,
        14_772_512,
        95_815_104,
        666_090_624,
    ];
    known.get(size.checked_sub(1)? as usize).copied()
}

pub(crate) fn verify(size: u32, ways: u64) -> common::Verdict {
    match known(size) {
        Some(known) if known != ways => Err(format!("{ways} ways, should be {known}")),
        Some(_) => Ok(format!("{ways} ways as known")),
        None => Ok(format!("{ways} ways, with nothing to compare them with")),
    }
}
