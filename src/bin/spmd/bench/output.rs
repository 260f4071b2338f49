//! Results, one line each, flushed when measured.

use std::io::{self, Write};

use serde::Serialize;

use super::options::{Benchmark, Format};

/// What all results of a run have in common.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Setting {
    pub(super) engine: String,
    /// The MPI library and its version; empty for `local`.
    pub(super) library: String,
    pub(super) ranks: usize,
    pub(super) hosts: usize,
    /// CPUs that the ranks may use, of all hosts together.
    pub(super) cpus: usize,
    pub(super) checks: String,
    pub(super) touched: bool,
}

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Unit {
    /// Microseconds: less is better.
    #[serde(rename = "us")]
    Microseconds,
    /// Millions of bytes per second: more is better.
    #[serde(rename = "MB/s")]
    Megabytes,
    /// Messages per second: more is better.
    #[serde(rename = "messages/s")]
    Messages,
}

impl Unit {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Microseconds => "us",
            Self::Megabytes => "MB/s",
            Self::Messages => "messages/s",
        }
    }

    fn decimals(self) -> usize {
        match self {
            Self::Microseconds => 3,
            Self::Megabytes => 2,
            Self::Messages => 0,
        }
    }
}

/// One result, in its unit.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Row {
    pub(super) benchmark: &'static str,
    pub(super) bytes: usize,
    pub(super) iterations: usize,
    pub(super) unit: Unit,
    pub(super) mean: f64,
    pub(super) median: f64,
    /// The value that 99 % of the batches reach: no slower.
    pub(super) p99: f64,
    pub(super) ci_low: f64,
    pub(super) ci_high: f64,
    /// Of the rank with the smallest mean.
    pub(super) min: f64,
    /// Of the rank with the largest mean.
    pub(super) max: f64,
}

impl Row {
    fn numbers(&self) -> [f64; 7] {
        [self.mean, self.median, self.p99, self.ci_low, self.ci_high, self.min, self.max]
    }
}

/// Names of the columns of numbers, in every format.
const NUMBERS: [&str; 7] = ["mean", "median", "p99", "ci_low", "ci_high", "min", "max"];

/// Where results go.
pub(super) trait Output {
    /// Before the first result.
    fn begin(&mut self, setting: &Setting) -> io::Result<()>;

    /// The results from here on are those of another benchmark.
    fn title(&mut self, benchmark: Benchmark, unit: Unit) -> io::Result<()>;

    /// A result.
    fn row(&mut self, row: &Row) -> io::Result<()>;
}

/// Results for `format` into `out`.
pub(super) fn to<'w>(format: Format, out: &'w mut dyn Write) -> Box<dyn Output + 'w> {
    match format {
        Format::Table => Box::new(Table { out }),
        Format::Json => Box::new(Json { out, setting: None }),
        Format::Csv => Box::new(Csv { out, setting: None }),
    }
}

/// Nothing: for the ranks that do not print.
pub(super) struct Silence;

impl Output for Silence {
    fn begin(&mut self, _: &Setting) -> io::Result<()> {
        Ok(())
    }

    fn title(&mut self, _: Benchmark, _: Unit) -> io::Result<()> {
        Ok(())
    }

    fn row(&mut self, _: &Row) -> io::Result<()> {
        Ok(())
    }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

struct Table<'w> {
    out: &'w mut dyn Write,
}

impl Output for Table<'_> {
    fn begin(&mut self, setting: &Setting) -> io::Result<()> {
        let Setting { engine, library, ranks, hosts, cpus, checks, touched } = setting;
        writeln!(self.out, "# spmd bench {}", env!("CARGO_PKG_VERSION"))?;
        writeln!(
            self.out,
            "# engine {engine}, {} on {} with {}, checks {checks}",
            counted(*ranks, "rank"),
            counted(*hosts, "host"),
            counted(*cpus, "cpu")
        )?;
        if !library.is_empty() {
            writeln!(self.out, "# {library}")?;
        }
        let buffers = if *touched {
            "every buffer is written before it is sent and read after it was received"
        } else {
            "buffers are not touched between repetitions"
        };
        writeln!(self.out, "# {buffers}")?;
        writeln!(
            self.out,
            "# mean with its 95 % confidence interval, median and p99 over up to 100 batches that are timed as a \
             whole; min and max are the means of the fastest and slowest rank"
        )?;
        self.out.flush()
    }

    fn title(&mut self, benchmark: Benchmark, unit: Unit) -> io::Result<()> {
        write!(self.out, "\n# {} in {}\n{:<9}", benchmark.name(), unit.name(), "# bytes")?;
        NUMBERS.iter().try_for_each(|name| write!(self.out, " {name:>12}"))?;
        writeln!(self.out, " {:>10}", "iterations")?;
        self.out.flush()
    }

    fn row(&mut self, row: &Row) -> io::Result<()> {
        write!(self.out, "{:<9}", row.bytes)?;
        let decimals = row.unit.decimals();
        row.numbers().iter().try_for_each(|number| write!(self.out, " {number:>12.decimals$}"))?;
        writeln!(self.out, " {:>10}", row.iterations)?;
        self.out.flush()
    }
}

/// A line of JSON for each result.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    setting: &'a Setting,
    #[serde(flatten)]
    row: &'a Row,
}

struct Json<'w> {
    out: &'w mut dyn Write,
    setting: Option<Setting>,
}

impl Output for Json<'_> {
    fn begin(&mut self, setting: &Setting) -> io::Result<()> {
        self.setting = Some(setting.clone());
        Ok(())
    }

    fn title(&mut self, _: Benchmark, _: Unit) -> io::Result<()> {
        Ok(())
    }

    fn row(&mut self, row: &Row) -> io::Result<()> {
        let Some(setting) = &self.setting else { return Ok(()) };
        let line = serde_json::to_string(&Line { setting, row })?;
        writeln!(self.out, "{line}")?;
        self.out.flush()
    }
}

struct Csv<'w> {
    out: &'w mut dyn Write,
    setting: Option<Setting>,
}

/// The columns of CSV, which the programs of `benches/peers/` print too.
pub(super) const COLUMNS: &str =
    "engine,ranks,touched,benchmark,bytes,iterations,unit,mean,median,p99,ci_low,ci_high,min,max";

impl Output for Csv<'_> {
    fn begin(&mut self, setting: &Setting) -> io::Result<()> {
        self.setting = Some(setting.clone());
        writeln!(self.out, "{COLUMNS}")?;
        self.out.flush()
    }

    fn title(&mut self, _: Benchmark, _: Unit) -> io::Result<()> {
        Ok(())
    }

    fn row(&mut self, row: &Row) -> io::Result<()> {
        let Some(Setting { engine, ranks, touched, .. }) = &self.setting else { return Ok(()) };
        let Row { benchmark, bytes, iterations, unit, .. } = row;
        let unit = unit.name();
        write!(self.out, "{engine},{ranks},{touched},{benchmark},{bytes},{iterations},{unit}")?;
        row.numbers().iter().try_for_each(|number| write!(self.out, ",{number:.6}"))?;
        writeln!(self.out)?;
        self.out.flush()
    }
}
