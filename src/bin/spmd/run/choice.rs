//! What starts the ranks of a run.

use clap::ValueEnum;

use crate::launcher::{Launcher, Linked};

/// What starts ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Choice {
    /// Whatever there is
    Auto,
    /// The program itself: ranks are threads
    Local,
    /// MPI's mpirun
    Mpirun,
    /// SLURM's srun
    Srun,
}

/// What starts the ranks.
pub(super) fn choose(
    choice: Choice,
    linked: Linked,
    has_hosts: bool,
    in_slurm: bool,
) -> Result<Option<Launcher>, String> {
    let without = "the program was built without MPI, which ranks that are processes need\n  help: build it with \
                   --features mpi";
    let family = match linked {
        Linked::With(family) => Some(family),
        Linked::Without | Linked::Unknown => None,
    };
    match choice {
        Choice::Local if has_hosts => Err("ranks that are threads are on one host: leave out \
                                           --hosts, or the launcher"
            .to_owned()),
        Choice::Local => Ok(None),
        Choice::Mpirun | Choice::Srun if linked == Linked::Without => Err(without.to_owned()),
        Choice::Srun => Launcher::srun().map(Some),
        Choice::Auto if linked == Linked::Without && has_hosts => Err(without.to_owned()),
        Choice::Auto if linked == Linked::Without => Ok(None),
        Choice::Auto if in_slurm && !has_hosts && Launcher::srun().is_ok() => {
            Launcher::srun().map(Some)
        }
        Choice::Mpirun | Choice::Auto => Launcher::mpirun(family).map(Some),
    }
}
