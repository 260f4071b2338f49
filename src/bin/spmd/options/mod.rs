//! What the instruments are told: the command names them, for its help and its completions, and
//! `spmd-instruments` does what they say.

pub(crate) mod scale;

use std::{num::NonZeroUsize, path::PathBuf};

use clap::{Args, Subcommand};
use spmd::RunArgs;

#[derive(Subcommand)]
pub(crate) enum Instrument {
    /// Try every operation on this engine with this number of ranks; exit code 3 if one fails
    Selftest(SelftestArgs),
    /// Measure messages, collectives and one-sided access as the OSU micro-benchmarks do
    Bench(BenchArgs),
    /// Show what ranks cost before they do anything: time to start and end, and memory
    Footprint(FootprintArgs),
    /// Measure how a program scales: separate launches in random order, with statistics, laws and a
    /// report
    Scale(scale::Options),
    /// Print the ratios of what scripts/compare.sh has measured
    #[command(hide = true)]
    BenchReport(BenchReportArgs),
}

#[derive(Args)]
pub(crate) struct SelftestArgs {
    /// Print a line for each case, not for failing ones only
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Try each case on all ranks only, not on a duplicate, a half and one rank by itself too: less
    /// than half the time, where that is long
    #[arg(short, long)]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) what: Options,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Args)]
pub(crate) struct FootprintArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Args)]
pub(crate) struct BenchReportArgs {
    /// The results: which MPI, which program, which launch, and a line of `spmd bench --format csv`
    pub(crate) results: PathBuf,
    /// Also put the tables between the markers of this page
    #[arg(long, value_name = "PAGE")]
    pub(crate) markdown: Option<PathBuf>,
    /// A line above the tables in the page; more than once for more lines
    #[arg(long, value_name = "LINE")]
    pub(crate) heading: Vec<String>,
    /// What is compared of each launch
    #[arg(long, value_enum, default_value = "mean")]
    pub(crate) statistic: Statistic,
}

/// A micro-benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[non_exhaustive]
pub(crate) enum Benchmark {
    /// Half a round trip between ranks 0 and 1 (blocking send and receive)
    Latency,
    /// Windows of messages from rank 0 to rank 1, each window acknowledged
    Bandwidth,
    /// Windows of messages both ways between ranks 0 and 1
    Bibandwidth,
    /// Messages per second of all pairs, the lower half of the ranks to the upper
    MessageRate,
    /// Barriers, one after the other
    Barrier,
    /// The root's bytes to all
    Bcast,
    /// A sum of 4-byte floats to the root
    Reduce,
    /// A sum of 4-byte floats to all
    Allreduce,
    /// All ranks' bytes to all
    Allgather,
    /// Bytes from each rank to each; the size is that of one row
    Alltoall,
    /// A sum of 4-byte floats over the ranks up to each
    Scan,
    /// Messages to the next two ranks, which do not know who sends
    Sparse,
    /// Rank 0 writes into the window of rank 1
    Put,
    /// Rank 0 reads from the window of rank 1
    Get,
    /// All ranks write one file (HDF5, or .npy in a command without it), until it is on its disk
    FileWrite,
    /// All ranks read their parts of one file into memory that they have
    FileRead,
    /// Every one of these but those of files
    All,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
#[non_exhaustive]
pub(crate) enum Format {
    /// For reading
    #[default]
    Table,
    /// An object per line, complete in itself
    Json,
    /// A line per result below one line of names
    Csv,
}

/// Which number of a launch is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
#[non_exhaustive]
pub(crate) enum Statistic {
    /// The mean, OSU's number
    #[default]
    Mean,
    /// The median of the batches, which a disturbed one does not move
    Median,
}

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// What to measure
    #[arg(value_enum, required = true, value_name = "NAME")]
    pub(crate) benchmarks: Vec<Benchmark>,
    /// Message sizes in bytes, like 8,1K,4M
    #[arg(long, value_name = "BYTES", value_delimiter = ',', value_parser = bytes, conflicts_with_all = ["min_size", "max_size"])]
    pub(crate) sizes: Vec<usize>,
    /// Smallest size; the others are its doubles [default: 1, for reductions 4, for files 1M]
    #[arg(long, value_name = "BYTES", value_parser = some_bytes)]
    pub(crate) min_size: Option<usize>,
    /// Largest size [default: 4M, for collectives 1M, for files 64M]
    #[arg(long, value_name = "BYTES", value_parser = some_bytes)]
    pub(crate) max_size: Option<usize>,
    /// Repetitions that are timed [default: OSU's, fewer for messages above 8K]
    #[arg(long, value_name = "COUNT")]
    pub(crate) iterations: Option<NonZeroUsize>,
    /// Repetitions before those [default: OSU's]
    #[arg(long, value_name = "COUNT")]
    pub(crate) warmup: Option<usize>,
    /// Messages under way at once in bandwidth, bibandwidth and message-rate
    #[arg(long, value_name = "COUNT", default_value = "64")]
    pub(crate) window: NonZeroUsize,
    /// Write each buffer before it is sent and read it after it was received, every time
    #[arg(long)]
    pub(crate) touched: bool,
    /// Where files go that are measured: a directory that all hosts share
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    pub(crate) directory: PathBuf,
    /// How to print the results
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) format: Format,
}

/// A number of bytes, perhaps with K, M or G (of 1024) behind it.
fn bytes(text: &str) -> Result<usize, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let number: usize =
        digits.parse().map_err(|_| "a size is a number of bytes, like 8, 64K or 4M".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "more bytes than there can be".to_owned())
}

fn some_bytes(text: &str) -> Result<usize, String> {
    bytes(text)
        .and_then(|bytes| if bytes == 0 { Err("at least 1 byte".to_owned()) } else { Ok(bytes) })
}
