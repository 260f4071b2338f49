//! What to measure: names, sizes, how often.

use std::num::NonZeroUsize;

pub(crate) use crate::options::{Benchmark, Format, Options};

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
