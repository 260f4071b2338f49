//! Many launches of the same measurements set against each other: `scripts/compare.sh` collects
//! them, this adds them up.
//!
//! The collection is CSV: which MPI, what ran on it, the number of the launch, and then the columns
//! of a result ([`COLUMNS`]). What ran is `C` (a program of `benches/peers/`) or `spmd`; on `local`
//! only `spmd`.

use std::{collections::BTreeMap, fmt::Write};

use super::{
    options::Benchmark,
    output::{COLUMNS, Unit},
    targets,
};
use crate::options::Statistic;
use crate::statistics::{Ratio, median};

/// What stands for the engine `local` where others have the name of an MPI.
const LOCAL: &str = "local";

/// What was measured: the order is that of the table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Case {
    ranks: usize,
    touched: bool,
    /// The place of the benchmark in the list of all.
    order: usize,
    benchmark: String,
    bytes: usize,
}

impl Case {
    /// `scripts/compare.sh` measures two ranks, and several per core.
    fn is_crowded(&self) -> bool {
        self.ranks > 2
    }
}

/// The results of a case by who has them: a value per launch, in the unit of the case.
#[derive(Debug, Default)]
struct Results {
    unit: Option<Unit>,
    c: BTreeMap<String, Vec<f64>>,
    spmd: BTreeMap<String, Vec<f64>>,
    local: Vec<f64>,
}

/// Results of many launches.
#[derive(Debug)]
pub(crate) struct Comparison {
    cases: BTreeMap<Case, Results>,
    /// In the order of their names.
    mpis: Vec<String>,
}

impl Results {
    /// The MPI on which C is fastest, and its values.
    fn best(&self, unit: Unit) -> Option<(&str, &[f64])> {
        let cost = |values: &[f64]| {
            if unit.more_is_better() { -median(values) } else { median(values) }
        };
        self.c
            .iter()
            .map(|(mpi, values)| (mpi.as_str(), values.as_slice()))
            .min_by(|(_, left), (_, right)| cost(left).total_cmp(&cost(right)))
    }
}

impl Comparison {
    /// Reads a collection.
    ///
    /// # Errors
    /// What is wrong with which line.
    pub(crate) fn read(collection: &str, statistic: Statistic) -> Result<Self, String> {
        let mut comparison = Self { cases: BTreeMap::new(), mpis: Vec::new() };
        for (number, line) in collection.lines().enumerate() {
            comparison
                .add(line, statistic)
                .map_err(|what| format!("line {} of the results: {what}", number + 1))?;
        }
        // The launches come in random order; the columns of two runs are to be the same.
        comparison.mpis.sort();
        Ok(comparison)
    }

    fn add(&mut self, line: &str, statistic: Statistic) -> Result<(), String> {
        let cells: Vec<&str> = line.split(',').collect();
        let [mpi, program, _launch, values @ ..] = cells.as_slice() else {
            return Err("too short".to_owned());
        };
        let names: Vec<&str> = COLUMNS.split(',').collect();
        if values.len() != names.len() {
            return Err(format!("{} columns where {} belong", values.len() + 3, names.len() + 3));
        }
        let cell = |name: &str| {
            let at = names.iter().position(|&column| column == name);
            at.map_or("", |at| values[at])
        };
        let whole = |name: &str| {
            cell(name).parse::<usize>().map_err(|_| format!("{name} is `{}`", cell(name)))
        };
        let name = match statistic {
            Statistic::Mean => "mean",
            Statistic::Median => "median",
        };
        let value: f64 = cell(name).parse().map_err(|_| format!("{name} is `{}`", cell(name)))?;
        let benchmark = cell("benchmark").to_owned();
        let order = Benchmark::EACH.iter().position(|each| each.name() == benchmark);
        let order = order.ok_or_else(|| format!("there is no benchmark `{benchmark}`"))?;
        let unit =
            Unit::named(cell("unit")).ok_or_else(|| format!("unit is `{}`", cell("unit")))?;
        let touched = cell("touched") == "true";
        let case =
            Case { ranks: whole("ranks")?, touched, order, benchmark, bytes: whole("bytes")? };
        let results = self.cases.entry(case).or_default();
        results.unit = Some(unit);
        if *mpi == LOCAL {
            results.local.push(value);
            return Ok(());
        }
        let side = match *program {
            "C" => &mut results.c,
            "spmd" => &mut results.spmd,
            other => return Err(format!("neither C nor spmd: `{other}`")),
        };
        side.entry((*mpi).to_owned()).or_default().push(value);
        if !self.mpis.iter().any(|known| known == mpi) {
            self.mpis.push((*mpi).to_owned());
        }
        Ok(())
    }

    /// All ratios as Markdown: one table per number of ranks.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        let mut last = None;
        for (case, results) in &self.cases {
            let Some(unit) = results.unit else { continue };
            if last.replace(case.ranks) != Some(case.ranks) {
                self.head(&mut text, case.ranks);
            }
            self.line(&mut text, case, results, unit);
        }
        text
    }

    fn head(&self, text: &mut String, ranks: usize) {
        let gap = if text.is_empty() { "" } else { "\n" };
        let mut names = format!(
            "{gap}**{ranks} ranks**\n\n| benchmark | bytes | unit | `local` | best C | `local` is faster by |"
        );
        let mut rule = "|---|--:|---|--:|--:|--:|".to_owned();
        for mpi in &self.mpis {
            // Text grows; it does not fail.
            let _ = write!(names, " C on {mpi} | `mpi` ÷ C |");
            rule.push_str("--:|--:|");
        }
        let _ = write!(text, "{names}\n{rule}\n");
    }

    fn line(&self, text: &mut String, case: &Case, results: &Results, unit: Unit) {
        let touched = if case.touched { ", touched" } else { "" };
        let bytes = if case.benchmark == "barrier" { String::new() } else { size(case.bytes) };
        let _ = write!(text, "| {}{touched} | {bytes} | {} |", case.benchmark, unit.name());
        let best = results.best(unit);
        let number = |values: &[f64]| number(median(values));
        let _ = write!(text, " {} |", value_or_dash(&results.local, number));
        match best {
            Some((mpi, values)) => {
                let _ = write!(text, " {} ({mpi}) |", number(values));
            }
            None => text.push_str(" – |"),
        }
        let faster = best.filter(|_| !results.local.is_empty());
        let faster = faster.map(|(_, theirs)| unit.times(theirs, &results.local));
        let what = Benchmark::EACH[case.order];
        let aim = targets::local_at_least(what, case.bytes, case.touched, case.is_crowded());
        let aim = |ratio: Ratio| aim.map(|aim| (ratio.value >= aim, format!("≥ {aim}")));
        let _ = write!(text, " {} |", ratio_or_dash(faster, aim));
        for mpi in &self.mpis {
            let (c, ours) = (results.c.get(mpi), results.spmd.get(mpi));
            let _ = write!(text, " {} |", c.map_or("–".to_owned(), |values| number(values)));
            let ratio = c.zip(ours).map(|(c, ours)| unit.times(ours, c));
            let aim = targets::mpi_at_most(what, case.bytes).filter(|_| !case.touched);
            let aim = |ratio: Ratio| aim.map(|aim| (ratio.value <= aim, format!("≤ {aim}")));
            let _ = write!(text, " {} |", ratio_or_dash(ratio, aim));
        }
        text.push('\n');
    }
}

impl Unit {
    fn named(name: &str) -> Option<Self> {
        [Self::Microseconds, Self::Megabytes, Self::Messages]
            .into_iter()
            .find(|unit| unit.name() == name)
    }

    fn more_is_better(self) -> bool {
        self != Self::Microseconds
    }

    /// How many times as long `slow` takes as `fast`.
    fn times(self, slow: &[f64], fast: &[f64]) -> Ratio {
        if self.more_is_better() { Ratio::of(fast, slow) } else { Ratio::of(slow, fast) }
    }
}

fn value_or_dash(values: &[f64], show: impl Fn(&[f64]) -> String) -> String {
    if values.is_empty() { "–".to_owned() } else { show(values) }
}

/// A ratio with its interval, and whether it reaches the aim that `aim` has for it.
fn ratio_or_dash(ratio: Option<Ratio>, aim: impl Fn(Ratio) -> Option<(bool, String)>) -> String {
    let Some(ratio) = ratio else { return "–".to_owned() };
    let Ratio { value, low, high } = ratio;
    let verdict = match aim(ratio) {
        Some((true, _)) => " ✓".to_owned(),
        Some((false, aim)) => format!(" ✗ {aim}"),
        None => String::new(),
    };
    format!("**{value:.2}** [{low:.2}, {high:.2}]{verdict}")
}

/// Three significant digits or more.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        small if small < 1.0 => 3,
        small if small < 10.0 => 2,
        small if small < 100.0 => 1,
        _ => 0,
    };
    if value >= 1e6 { format!("{:.2} M", value / 1e6) } else { format!("{value:.decimals$}") }
}

fn size(bytes: usize) -> String {
    match bytes {
        0 => "0".to_owned(),
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => bytes.to_string(),
    }
}

/// `page` with what stands between its two markers replaced.
///
/// # Errors
/// If the markers are not there, each once and in this order.
pub(crate) fn between_markers(page: &str, content: &str) -> Result<String, String> {
    const BEGIN: &str = "<!-- compare:begin -->";
    const END: &str = "<!-- compare:end -->";
    let missing = || {
        format!("the page has no place for the table: a line `{BEGIN}` and after it a line `{END}`")
    };
    let (before, rest) = page.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    Ok(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", content.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(mpi: &str, program: &str, launch: usize, what: &str, mean: f64) -> String {
        format!("{mpi},{program},{launch},x,2,false,{what},{mean},{},0,0,0,0,0\n", mean / 2.0)
    }

    fn collection() -> String {
        let latency = "latency,8,10000,us";
        let bandwidth = "bandwidth,65536,20,MB/s";
        let mut text = String::new();
        for launch in 0..7 {
            let drift = 1.0 + launch as f64 / 1000.0;
            for (mpi, program, us, mbs) in [
                ("Open MPI", "C", 0.2, 1000.0),
                ("Open MPI", "spmd", 0.21, 500.0),
                ("MPICH", "C", 0.4, 2000.0),
                ("local", "spmd", 0.1, 8000.0),
            ] {
                text += &line(mpi, program, launch, latency, us * drift);
                text += &line(mpi, program, launch, bandwidth, mbs * drift);
            }
        }
        text
    }

    #[test]
    fn ratios_say_how_many_times_as_long() {
        let table = Comparison::read(&collection(), Statistic::Mean).unwrap().markdown();
        let latency = table.lines().find(|line| line.starts_with("| latency")).unwrap();
        assert!(latency.contains("| 0.201 (Open MPI) | **2.00** [1.9"), "{table}");
        assert!(latency.contains("| 0.201 | **1.05** [1.0"), "{table}");
        assert!(latency.contains("] ✗ ≥ 2.2 |"), "{table}");
        assert!(latency.contains("| 0.401 | – |"), "nothing of ours ran on MPICH: {table}");
        let bandwidth = table.lines().find(|line| line.starts_with("| bandwidth")).unwrap();
        assert!(
            bandwidth.contains("| 64 KiB | MB/s | 8024 | 2006 (MPICH) | **4.00** ["),
            "{table}"
        );
        assert!(bandwidth.contains("| 1003 | **2.00** ["), "{table}");
        assert!(bandwidth.contains("] ✓ |") && bandwidth.contains("] ✗ ≤ 1.02 |"), "{table}");
    }

    #[test]
    fn the_median_of_batches_is_another_column() {
        let table = Comparison::read(&collection(), Statistic::Median).unwrap().markdown();
        assert!(table.contains("| 0.100 (Open MPI) | **2.00**"), "{table}");
    }

    #[test]
    fn what_is_no_result_is_named() {
        let wrong = |text: &str| Comparison::read(text, Statistic::Mean).unwrap_err();
        assert!(wrong("a,b").contains("line 1"));
        assert!(wrong(&line("M", "C", 0, "lateness,8,1,us", 1.0)).contains("lateness"));
        assert!(wrong(&line("M", "C++", 0, "latency,8,1,us", 1.0)).contains("C++"));
        assert!(wrong(&line("M", "C", 0, "latency,x,1,us", 1.0)).contains("bytes is `x`"));
        assert!(wrong(&line("M", "C", 0, "latency,8,1,furlongs", 1.0)).contains("furlongs"));
    }

    #[test]
    fn the_table_takes_its_place_in_a_page() {
        let page = "above\n<!-- compare:begin -->\nold\n<!-- compare:end -->\nbelow\n";
        let new = between_markers(page, "new\n").unwrap();
        assert_eq!(new, "above\n<!-- compare:begin -->\n\nnew\n\n<!-- compare:end -->\nbelow\n");
        assert_eq!(between_markers(&new, "new").unwrap(), new);
        assert!(between_markers("<!-- compare:end --><!-- compare:begin -->", "").is_err());
    }
}
