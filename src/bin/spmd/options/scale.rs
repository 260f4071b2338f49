//! What `spmd scale` is told.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

const EXAMPLES: &str = "\
Examples:
  spmd scale target/release/examples/heat2d --ranks 1,2,4 --out study -- --size 2000,2000 --steps 200
  spmd scale target/release/examples/heat2d --ranks 1,2,4 --mode strong,weak --out study -- --size '{1000*sqrt(p)},{1000*sqrt(p)}'
  spmd scale ./solver --ranks 16,32,64 --threads 1,4 --launcher srun --launcher-args='--mpi=pmix' --out study
  spmd scale target/release/examples/heat2d --ranks 1,2 --out now --compare before/study.json -- --size 2000,2000

The program is any that spmd runs; it is recorded (SPMD_RECORD). Weak scaling: {EXPRESSION} in its arguments
is a number that grows with p, the cores (ranks x threads); in strong scaling p is 1. An interrupted study goes on
with the same command. DIR has report.html, study.json, study.csv, study.md, samples.jsonl, trace.json, and
extrap-strong.jsonl, extrap-weak.jsonl for Extra-P.

Exit codes: 0 ok, 1 some point could not be measured, 2 usage, 3 verification failed, 6 slower than --compare.";

/// Measure how a program scales: separate launches in random order, with statistics, laws and a
/// report
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// The program
    pub(crate) program: String,
    /// Numbers of ranks
    #[arg(long, value_delimiter = ',', default_value = "1,2", value_name = "LIST")]
    pub(crate) ranks: Vec<NonZeroUsize>,
    /// Numbers of rayon threads per rank
    #[arg(long, value_delimiter = ',', default_value = "1", value_name = "LIST")]
    pub(crate) threads: Vec<NonZeroUsize>,
    /// The same work for all, or work that grows with the cores
    #[arg(long, value_enum, value_delimiter = ',', default_value = "strong", value_name = "LIST")]
    pub(crate) mode: Vec<Mode>,
    /// Launches of each point; with fewer than 6 the median's interval is less sure than 95 %
    #[arg(long, default_value = "5", value_name = "COUNT")]
    pub(crate) launches: NonZeroUsize,
    /// Where the results go; a study that was interrupted there goes on
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// What starts the ranks
    #[arg(long, value_enum, default_value = "local")]
    pub(crate) launcher: LauncherKind,
    /// More arguments for the launcher, separated by spaces: hosts, say
    #[arg(long, value_name = "ARGS", default_value = "", allow_hyphen_values = true)]
    pub(crate) launcher_args: String,
    /// How many cores the ranks may use on all hosts: points with more are marked as crowded
    /// [default: this host's]
    #[arg(long, value_name = "COUNT")]
    pub(crate) cores: Option<NonZeroUsize>,
    /// How much work a weak point is, by the numbers' names: `n^3` for {n=...} [default: the product
    /// of all numbers]
    #[arg(long, value_name = "EXPRESSION")]
    pub(crate) work: Option<String>,
    /// The order of launches is drawn by this
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// How long to wait for an idle machine before each launch
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS")]
    pub(crate) patience: f64,
    /// A launch that takes longer is ended, and has failed
    #[arg(long, default_value_t = 3600.0, value_name = "SECONDS")]
    pub(crate) limit: f64,
    /// What the report calls the machine, in place of its hosts' names
    #[arg(long, value_name = "NAME")]
    pub(crate) machine: Option<String>,
    /// Look for points that are slower than in this study (exit code 6)
    #[arg(long, value_name = "OLD.json")]
    pub(crate) compare: Option<PathBuf>,
    /// Less than so much slower does not count
    #[arg(long, default_value_t = 5.0, value_name = "PERCENT")]
    pub(crate) threshold: f64,
    /// The program's arguments
    #[arg(last = true, value_name = "ARGS")]
    pub(crate) arguments: Vec<String>,
}

/// What stays the same while cores are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// The work.
    Strong,
    /// The work of each core.
    Weak,
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Strong => "strong",
            Self::Weak => "weak",
        }
    }
}

/// What starts ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LauncherKind {
    /// The program itself: ranks are threads
    Local,
    /// MPI's mpirun
    Mpirun,
    /// SLURM's srun
    Srun,
}
