//! The program of the tour of faults: the 2-D heat equation, on hosts that come and go.

use std::{f64::consts::PI, path::PathBuf};

use spmd::{
    Comm, Failure, RunArgs,
    array::{DistArray, Halo, Layout},
    io::State,
    recover::{RecoverArgs, Recovery},
};

/// What the line of the result begins with.
pub(super) const RESULT: &str = "result: ";

/// One run of the program.
#[derive(clap::Args)]
pub(crate) struct Survivor {
    /// Rows and columns
    #[arg(long)]
    cells: usize,
    /// Time steps
    #[arg(long, required_unless_present = "until")]
    steps: Option<u64>,
    /// Make steps until there is this file
    #[arg(long)]
    until: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) recover: RecoverArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// Solves the equation; rank 0 says after how many steps, and what the checksum is.
pub(crate) fn run(
    world: &Comm,
    recovery: &mut Recovery<'_>,
    survivor: &Survivor,
) -> Result<(), Failure> {
    /// A look at the file costs more than a step.
    const LOOK: u64 = 20;
    let cells = survivor.cells;
    let sine = |place: usize| (PI * (place + 1) as f64 / (cells + 1) as f64).sin();
    let layout = Layout::new([cells; 2], world.size());
    let wave = |[row, column]: [usize; 2]| sine(row) * sine(column);
    let mut old = DistArray::from_fn(world, &layout, Halo::star(1), wave)?;
    let mut new = old.clone();
    let mut step = 0_u64;
    recovery.restore(State::new().array("field", &mut old).value("step", &mut step))?;
    let goes_on = |step: u64| match (&survivor.steps, &survivor.until) {
        (Some(steps), _) => Ok(step < *steps),
        (None, Some(file)) if step.is_multiple_of(LOOK) => {
            world.bcast_obj(0, || !file.exists()).map_err(Failure::from)
        }
        _ => Ok(true),
    };
    while goes_on(step)? {
        old.update(
            &mut new,
            [[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]],
            |[here, north, south, west, east]| {
                here + 0.2 * (((north - here) + (south - here)) + ((west - here) + (east - here)))
            },
        )?;
        std::mem::swap(&mut old, &mut new);
        step += 1;
        recovery.commit(State::new().array("field", &mut old).value("step", &mut step))?;
    }
    let checksum = old.checksum()?;
    if world.rank() == 0 {
        println!("{RESULT}{step} {checksum:016x}");
    }
    Ok(())
}
