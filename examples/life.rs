//! Conway's game of life on a torus: a cell lives on with two or three living neighbours, and
//! comes to life with three.
//!
//! The R-pentomino is five cells that take 1103 generations to settle, as 116 cells (the six
//! gliders that have left among them). A glider is five cells that come back, across all blocks,
//! after four generations for each cell of the torus.
//!
//! ```text
//! cargo run --release --example life
//! cargo run --release --example life -- -n 4 --picture life.png
//! cargo run --release --example life -- --pattern glider --size 100
//! cargo run --release --example life -- --size 4000 --checkpoint kept   # Ctrl-C; the same line goes on
//! ```
//!
//! Source: Gardner, "Mathematical Games", Scientific American 223 (1970).

mod common;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use spmd::{
    array::{Boundary, DistArray, Halo, Layout},
    io::{CheckpointArgs, PictureFile, State},
    prelude::*,
};

/// A cell and its eight neighbours.
const AROUND: [[isize; 2]; 9] =
    [[0, 0], [-1, -1], [-1, 0], [-1, 1], [0, -1], [0, 1], [1, -1], [1, 0], [1, 1]];
/// The living cells after so many generations of the R-pentomino, on a torus of this size at least:
/// a smaller one has no room for the gliders.
const SETTLED: (u32, u64) = (1103, 116);
const ROOMY: u32 = 640;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pattern {
    /// 116 cells after 1103 generations
    RPentomino,
    /// The same again after 4 generations for each cell along a side
    Glider,
}

impl Pattern {
    /// The living cells, from its middle.
    fn cells(self) -> [[isize; 2]; 5] {
        match self {
            Self::RPentomino => [[-1, 0], [-1, 1], [0, -1], [0, 0], [1, 0]],
            Self::Glider => [[-1, 0], [0, 1], [1, -1], [1, 0], [1, 1]],
        }
    }

    /// After how many generations the answer is known.
    fn generations(self, size: u32) -> u32 {
        match self {
            Self::RPentomino => SETTLED.0,
            Self::Glider => 4 * size,
        }
    }
}

/// Play the game of life until the answer is known, and check it
#[derive(Parser)]
struct Args {
    /// What lives at first
    #[arg(long, value_enum, default_value_t = Pattern::RPentomino)]
    pattern: Pattern,
    /// Cells along each side of the torus [default: 640; glider: 100]
    #[arg(long, value_parser = clap::value_parser!(u32).range(5..=1 << 20))]
    size: Option<u32>,
    /// Draw the last generation (.png)
    #[arg(long, value_name = "FILE")]
    picture: Option<PictureFile>,
    #[command(flatten)]
    kept: CheckpointArgs,
    #[command(flatten)]
    run: RunArgs,
}

fn main() -> ExitCode {
    let args: Args = spmd::parse();
    args.run.run(|world| play(world, &args)) // every rank runs `play`
}

fn play(world: &Comm, args: &Args) -> Result<(), Failure> {
    let Args { pattern, picture, .. } = args;
    let (least, default) = match pattern {
        Pattern::RPentomino => (ROOMY, ROOMY),
        Pattern::Glider => (5, 100),
    };
    let cells = args.size.unwrap_or(default);
    if cells < least {
        let words = format!("the R-pentomino needs a torus of {least} cells a side, not {cells}");
        return Err(Failure::usage(words));
    }
    if world.rank() == 0 {
        picture.iter().try_for_each(PictureFile::check_writable)?;
    }
    let (size, generations) = (cells as usize, pattern.generations(cells));
    let layout = Layout::new([size, size], world.size());
    common::announce(world, &format!("life, {generations} generations, {layout}"));

    // The torus has no border: what leaves a block on one side may enter the same block.
    let torus = Halo::cube(1).all(Boundary::Periodic);
    let mut now = DistArray::from_fn(world, &layout, torus, |_| 0_u8)?;
    for step in pattern.cells() {
        // Whoever owns the cell sets it.
        now.set(step.map(|step| (size / 2).wrapping_add_signed(step)), 1);
    }
    let mut next = now.clone();
    let before = now.checksum()?;

    let mut done = 0;
    let mut checkpoint = common::resume(world, &args.kept, state(&mut now, &mut done, before))?;
    let (progress, from) = (Progress::new(world, generations.into(), "generations"), done);
    progress.advance(from.into());
    let ((), seconds) = world.timed(|| {
        while done < generations {
            now.update(&mut next, AROUND, |[here, a, b, c, d, e, f, g, h]| {
                let neighbors = a + b + c + d + e + f + g + h;
                u8::from(neighbors | here == 3) // three, or two and alive
            })?;
            std::mem::swap(&mut now, &mut next);
            done += 1;
            progress.advance(1);
            checkpoint.step(state(&mut now, &mut done, before))?;
        }
        Ok(())
    })?;
    drop(progress);

    if let Some(file) = picture {
        file.write_array(&now.map(f64::from))?;
    }
    let alive = now.map(u64::from).sum()?;
    let verdict = verify(*pattern, alive, now.checksum()? == before);
    let rate = (size * size) as f64 * f64::from(generations - from) / seconds;
    common::conclude(world, seconds, &format!("{rate:.2e} cells/s"), verdict)
}

/// What a run goes on from: where it is, and what it began with.
fn state<'a>(cells: &'a mut DistArray<u8, 2>, done: &'a mut u32, before: u64) -> State<'a> {
    State::new().array("cells", cells).value("generations", done).constant("first", &before)
}

pub(crate) fn verify(pattern: Pattern, alive: u64, same_as_before: bool) -> common::Verdict {
    let (words, right) = match pattern {
        Pattern::RPentomino => (format!("{alive} cells, expected 116"), alive == SETTLED.1),
        Pattern::Glider if same_as_before => ("the glider has come back".to_owned(), true),
        Pattern::Glider => ("the glider has not come back".to_owned(), false),
    };
    if right { Ok(words) } else { Err(words) }
}
