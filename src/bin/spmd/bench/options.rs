//! What to measure: names, sizes, how often.

use std::{num::NonZeroUsize, path::PathBuf};

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

/// Up to this many bytes a message is small: OSU repeats it more often.
const SMALL: usize = 8192;

const MIB: usize = 1 << 20;

impl Benchmark {
    /// All but `All`, in the order of the list.
    pub(super) const EACH: [Self; 16] = [
        Self::Latency,
        Self::Bandwidth,
        Self::Bibandwidth,
        Self::MessageRate,
        Self::Barrier,
        Self::Bcast,
        Self::Reduce,
        Self::Allreduce,
        Self::Allgather,
        Self::Alltoall,
        Self::Scan,
        Self::Sparse,
        Self::Put,
        Self::Get,
        Self::FileWrite,
        Self::FileRead,
    ];

    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Bandwidth => "bandwidth",
            Self::Bibandwidth => "bibandwidth",
            Self::MessageRate => "message-rate",
            Self::Barrier => "barrier",
            Self::Bcast => "bcast",
            Self::Reduce => "reduce",
            Self::Allreduce => "allreduce",
            Self::Allgather => "allgather",
            Self::Alltoall => "alltoall",
            Self::Scan => "scan",
            Self::Sparse => "sparse",
            Self::Put => "put",
            Self::Get => "get",
            Self::FileWrite => "file-write",
            Self::FileRead => "file-read",
            Self::All => "all",
        }
    }

    fn is_windowed(self) -> bool {
        matches!(self, Self::Bandwidth | Self::Bibandwidth | Self::MessageRate)
    }

    pub(super) fn is_collective(self) -> bool {
        !self.is_windowed() && !matches!(self, Self::Latency | Self::Put | Self::Get)
    }

    fn is_of_files(self) -> bool {
        matches!(self, Self::FileWrite | Self::FileRead)
    }

    fn is_reduction(self) -> bool {
        matches!(self, Self::Reduce | Self::Allreduce | Self::Scan)
    }

    /// The bytes that a size must be a multiple of.
    fn unit(self) -> usize {
        if self.is_reduction() { size_of::<f32>() } else { 1 }
    }

    /// The smallest and the largest size that OSU measures; it has no files.
    fn usual_range(self) -> (usize, usize) {
        if self.is_of_files() {
            return (MIB, 64 * MIB);
        }
        (self.unit(), if self.is_collective() { MIB } else { 4 * MIB })
    }

    /// OSU's numbers of iterations and warm-ups.
    fn usual_counts(self, bytes: usize) -> (usize, usize) {
        if self.is_of_files() {
            return (5, 1);
        }
        match (bytes <= SMALL, self.is_windowed(), self.is_collective()) {
            (true, true, _) => (100, 10),
            (false, true, _) => (20, 2),
            (true, _, true) => (1000, 100),
            (false, _, true) => (100, 10),
            (true, ..) => (10_000, 100),
            (false, ..) => (1000, 10),
        }
    }
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

/// What to measure: flatten it into your own [`clap`] arguments.
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

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) benchmark: Benchmark,
    pub(super) bytes: usize,
    pub(super) iterations: usize,
    pub(super) warmup: usize,
}

impl Options {
    /// All there is to measure on so many ranks, or what is wrong with these options.
    pub(super) fn tasks(&self, ranks: usize) -> Result<Vec<Task>, String> {
        let mut tasks = Vec::new();
        for benchmark in self.each() {
            if !benchmark.is_collective() && ranks < 2 {
                return Err(format!(
                    "{} needs two ranks, and there is one: start more (-n 2, or mpirun -n 2)",
                    benchmark.name()
                ));
            }
            let sizes = self.sizes_of(benchmark)?;
            tasks.extend(sizes.into_iter().map(|bytes| self.task(benchmark, bytes)));
        }
        Ok(tasks)
    }

    fn each(&self) -> Vec<Benchmark> {
        let mut each = Vec::new();
        for &name in &self.benchmarks {
            if name == Benchmark::All {
                each.extend(Benchmark::EACH.iter().filter(|each| !each.is_of_files()));
            } else {
                each.push(name);
            }
        }
        each
    }

    fn sizes_of(&self, benchmark: Benchmark) -> Result<Vec<usize>, String> {
        if benchmark == Benchmark::Barrier {
            return Ok(vec![0]);
        }
        let unit = benchmark.unit();
        if let Some(odd) = self.sizes.iter().find(|&bytes| bytes % unit != 0) {
            return Err(format!(
                "{} adds floats of {unit} bytes, and {odd} of --sizes is no multiple of that",
                benchmark.name()
            ));
        }
        if !self.sizes.is_empty() {
            return Ok(self.sizes.clone());
        }
        let (min, max) = benchmark.usual_range();
        let min = self.min_size.map_or(min, |wish| wish.next_multiple_of(unit));
        let max = self.max_size.unwrap_or(max);
        let sizes: Vec<usize> = std::iter::successors(Some(min), |bytes| bytes.checked_mul(2))
            .take_while(|&bytes| bytes <= max)
            .collect();
        if sizes.is_empty() {
            return Err(format!(
                "{} has no size between {min} and {max} bytes: see --min-size and --max-size",
                benchmark.name()
            ));
        }
        Ok(sizes)
    }

    fn task(&self, benchmark: Benchmark, bytes: usize) -> Task {
        let (iterations, warmup) = benchmark.usual_counts(bytes);
        let iterations = self.iterations.map_or(iterations, NonZeroUsize::get);
        Task { benchmark, bytes, iterations, warmup: self.warmup.unwrap_or(warmup) }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Parser, ValueEnum};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn parse(words: &str) -> Result<Options, clap::Error> {
        Line::try_parse_from(format!("bench {words}").split(' ')).map(|line| line.options)
    }

    fn sizes(words: &str) -> Vec<usize> {
        parse(words).unwrap().tasks(2).unwrap().iter().map(|task| task.bytes).collect()
    }

    #[test]
    fn sizes_are_osus_unless_told_otherwise() {
        let latency = sizes("latency");
        assert_eq!((latency[0], latency[1], latency[22]), (1, 2, 4 << 20));
        assert_eq!(latency.len(), 23);
        let allreduce = sizes("allreduce");
        assert_eq!((allreduce[0], allreduce[allreduce.len() - 1]), (4, 1 << 20));
        assert_eq!(sizes("barrier"), [0]);
        assert_eq!(sizes("file-read --max-size 4M"), [1 << 20, 2 << 20, 4 << 20]);
        assert_eq!(sizes("bcast --sizes 0,8,3K,1m"), [0, 8, 3072, 1 << 20]);
        assert_eq!(sizes("latency --min-size 16 --max-size 100"), [16, 32, 64]);
        assert_eq!(sizes("scan --min-size 1 --max-size 10"), [4, 8]);
    }

    #[test]
    fn counts_are_osus_unless_told_otherwise() {
        let counts = |words: &str| {
            let task = parse(words).unwrap().tasks(2).unwrap()[0];
            (task.iterations, task.warmup)
        };
        assert_eq!(counts("latency --sizes 8K"), (10_000, 100));
        assert_eq!(counts("latency --sizes 8193"), (1000, 10));
        assert_eq!(counts("message-rate --sizes 8"), (100, 10));
        assert_eq!(counts("bandwidth --sizes 1M"), (20, 2));
        assert_eq!(counts("bcast --sizes 8"), (1000, 100));
        assert_eq!(counts("file-write --sizes 8M"), (5, 1));
        assert_eq!(counts("bcast --sizes 1M --iterations 7 --warmup 0"), (7, 0));
    }

    #[test]
    fn wrong_options_are_refused() {
        for words in [
            "",
            "lateness",
            "latency --sizes x",
            "latency --sizes 8,",
            "latency --sizes -1",
            "latency --sizes 99999999999G",
            "latency --min-size 0",
            "latency --sizes 8 --min-size 8",
            "latency --iterations 0",
            "latency --window 0",
            "latency --format xml",
        ] {
            assert!(parse(words.trim()).is_err(), "{words}");
        }
        let refused = |words: &str, ranks| parse(words).unwrap().tasks(ranks).unwrap_err();
        assert!(refused("latency", 1).contains("needs two ranks"));
        assert!(refused("all --sizes 6", 2).contains("no multiple"));
        assert!(refused("bcast --min-size 2M", 2).contains("--max-size"));
    }

    #[test]
    fn all_is_every_name_of_the_list() {
        for name in Benchmark::value_variants() {
            let listed = name.to_possible_value().unwrap();
            assert_eq!(listed.get_name(), name.name());
            assert!(Benchmark::EACH.contains(name) != (*name == Benchmark::All));
        }
    }
}
