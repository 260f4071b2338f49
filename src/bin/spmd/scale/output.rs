//! A study as text: for the terminal, for pages in Markdown, for spreadsheets, and for Extra-P.

use std::{collections::BTreeSet, fmt::Write};

use super::{
    chart,
    models::Fit,
    samples::{Doubt, Run, Sample},
    statistics::Estimate,
    study::{Found, State, Study},
};
use crate::options::scale::Mode;

/// The columns of the table of points, in every format.
pub(super) const COLUMNS: [&str; 9] = [
    "ranks x threads",
    "cores",
    "launches",
    "median [s]",
    "interval [s]",
    "p95 [s]",
    "max [s]",
    "speed-up",
    "efficiency",
];

/// A point as a row of that table; the last cell is what is wrong with it.
pub(super) fn row(found: &Found) -> ([String; 9], String) {
    let launches = found.seconds.len().to_string();
    let dash = || "-".to_owned();
    let seconds = |of: &dyn Fn(&super::statistics::Summary) -> f64| {
        found.summary.as_ref().map_or_else(dash, |summary| format!("{:.4}", of(summary)))
    };
    let estimate = |estimate: Option<Estimate>, show: &dyn Fn(f64) -> String| {
        estimate.map_or_else(dash, |Estimate { value, low, high }| {
            format!("{} [{}, {}]", show(value), show(low), show(high))
        })
    };
    let interval = found
        .summary
        .map_or_else(dash, |summary| format!("{:.4} - {:.4}", summary.low, summary.high));
    let cells = [
        format!("{} x {}", found.point.ranks, found.point.threads),
        found.cores.to_string(),
        launches,
        seconds(&|summary| summary.median),
        interval,
        seconds(&|summary| summary.p95),
        seconds(&|summary| summary.max),
        estimate(found.speedup, &|value| format!("{value:.2}")),
        estimate(found.efficiency, &|value| format!("{:.0} %", 100.0 * value)),
    ];
    (cells, found.state.words())
}

/// The columns of the table of what is lost where.
pub(super) const FACTORS: [&str; 6] =
    ["ranks x threads", "load balance", "communication", "threads", "computation", "longest call"];

/// A point as a row of that table.
pub(super) fn factors(found: &Found) -> Option<[String; 6]> {
    let split = found.split.as_ref()?;
    let number = |value: f64| format!("{value:.3}");
    let longest = split.longest.as_ref().map_or_else(String::new, |(place, share)| {
        format!("{place} ({:.0} % of time in calls)", 100.0 * share)
    });
    Some([
        format!("{} x {}", found.point.ranks, found.point.threads),
        number(split.load_balance),
        number(split.communication),
        split.threads.map_or_else(|| "-".to_owned(), number),
        number(split.computation),
        longest,
    ])
}

/// A law's parameters and words.
pub(super) fn law(fit: &Fit) -> (String, String) {
    match fit {
        Fit::Refused(why) => ("refused".to_owned(), why.clone()),
        Fit::Fits { parameters, words, .. } => {
            let parameters = parameters.iter().map(|(name, Estimate { value, low, high })| {
                format!("{name} = {value:.4} [{low:.4}, {high:.4}]")
            });
            (parameters.collect::<Vec<_>>().join(", "), words.clone())
        }
    }
}

impl Study {
    pub(super) fn of_mode(&self, mode: Mode) -> impl Iterator<Item = &Found> {
        self.points.iter().filter(move |found| found.point.mode == mode)
    }

    pub(super) fn modes(&self) -> impl Iterator<Item = Mode> {
        [Mode::Strong, Mode::Weak].into_iter().filter(|&mode| self.of_mode(mode).next().is_some())
    }

    /// How sure the intervals of medians are, in words.
    pub(super) fn confidence(&self) -> String {
        let all = self.points.iter().filter_map(|found| found.summary);
        let least = all.map(|summary| summary.confidence).fold(1.0, f64::min);
        format!("{:.0} %", 100.0 * least)
    }

    /// For a terminal.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for mode in self.modes() {
            let rows: Vec<_> = self.of_mode(mode).map(|found| (row(found), bar(found))).collect();
            let heading = mode.name();
            let head = COLUMNS.map(str::to_owned);
            let width = |column: usize| {
                let cells =
                    rows.iter().map(|((cells, _), _)| &cells[column]).chain([&head[column]]);
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            };
            let line = |cells: &[String; 9]| {
                let cells = cells.iter().enumerate();
                let padded = cells.map(|(column, cell)| format!("{cell:>0$}", width(column)));
                padded.collect::<Vec<_>>().join("  ")
            };
            let _ = writeln!(text, "{heading} scaling\n{}", line(&head));
            for ((cells, state), bar) in &rows {
                let _ = writeln!(text, "{}", format!("{}  {bar} {state}", line(cells)).trim_end());
            }
            text.push('\n');
        }
        for series in &self.series {
            for law in &series.laws {
                let (parameters, words) = self::law(&law.fit);
                let _ = writeln!(
                    text,
                    "{} ({}, {}): {parameters}: {words}",
                    law.name,
                    series.mode.name(),
                    series.threads_in_words()
                );
            }
        }
        text.push('\n');
        for line in self.verdict.iter().chain(&self.warnings) {
            let _ = writeln!(text, "* {line}");
        }
        text
    }

    /// For a page.
    pub(super) fn markdown(&self) -> String {
        let mut text = format!("# Scaling of `{}`\n\n", self.plan.program);
        for line in &self.verdict {
            let _ = writeln!(text, "* {line}");
        }
        for mode in self.modes() {
            let _ = writeln!(text, "\n## {} scaling\n", capital(mode.name()));
            table(&mut text, &[&COLUMNS[..], &["marks"]].concat());
            for found in self.of_mode(mode) {
                let (cells, state) = row(found);
                cells_of(&mut text, cells.iter().map(String::as_str).chain([&*state]));
            }
            let _ = writeln!(
                text,
                "\nIntervals: of the median by order statistics ({} sure at least), of ratios of medians by bootstrap (95 \
                 %).\n",
                self.confidence()
            );
            table(&mut text, &FACTORS);
            for cells in self.of_mode(mode).filter_map(factors) {
                cells_of(&mut text, cells.iter().map(String::as_str));
            }
        }
        text.push_str("\n## Laws\n\n");
        table(&mut text, &["points", "law", "parameters", "in words"]);
        for series in &self.series {
            for law in &series.laws {
                let (parameters, words) = self::law(&law.fit);
                let points = format!("{}, {}", series.mode.name(), series.threads_in_words());
                cells_of(&mut text, [&*points, &law.name, &parameters, &words].into_iter());
            }
        }
        text.push_str("\n## Machine\n\n");
        table(&mut text, &["fact", "value"]);
        for (name, value) in &self.card.facts {
            cells_of(&mut text, [&**name, &**value].into_iter());
        }
        if !self.warnings.is_empty() {
            text.push_str("\n## Notes\n\n");
        }
        for line in &self.warnings {
            let _ = writeln!(text, "* {line}");
        }
        text
    }

    /// A line for each launch.
    pub(super) fn csv(&self) -> String {
        let mut text = String::from(
            "mode,ranks,threads,cores,hosts,launch,seconds,wall_s,state,failed,doubts,work,arguments\n",
        );
        for sample in &self.samples {
            let found = &self.points[sample.point];
            let point = &found.point;
            let hosts = sample.run.as_ref().map_or(0, Run::hosts);
            let seconds = sample.seconds.map_or_else(String::new, |seconds| seconds.to_string());
            let doubts: Vec<String> = sample.doubts.iter().map(Doubt::words).collect();
            let state = match &found.state {
                State::Good => "good".to_owned(),
                other => other.words(),
            };
            let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
            let _ = writeln!(
                text,
                "{},{},{},{},{hosts},{},{seconds},{},{},{},{},{},{}",
                point.mode.name(),
                point.ranks,
                point.threads,
                found.cores,
                sample.launch,
                sample.wall_s,
                quoted(&state),
                quoted(sample.failed.as_deref().unwrap_or_default()),
                quoted(&doubts.join("; ")),
                point.work,
                quoted(&point.arguments.join(" "))
            );
        }
        text
    }

    /// Lines of JSON that Extra-P reads: the launches of a mode's good points that count, by ranks,
    /// and by threads too where there are several; as a whole, and for each operation.
    pub(super) fn extrap(&self, mode: Mode) -> String {
        let mut text = String::new();
        let threads = chart::threads_of(self, mode);
        let counts = |sample: &&Sample| {
            let found = &self.points[sample.point];
            found.point.mode == mode && found.state == State::Good && sample.doubts.is_empty()
        };
        let runs: Vec<(&Sample, &Run)> = self
            .samples
            .iter()
            .filter(counts)
            .filter_map(|sample| Some((sample, sample.run.as_ref()?)))
            .collect();
        // It wants every call path at every point.
        let operations: BTreeSet<&String> =
            runs.iter().flat_map(|(_, run)| run.operations.keys()).collect();
        for (sample, run) in runs {
            let (Some(seconds), point) = (sample.seconds, &self.points[sample.point].point) else {
                continue;
            };
            let params = if threads.len() > 1 {
                serde_json::json!({ "ranks": point.ranks, "threads": point.threads })
            } else {
                serde_json::json!({ "ranks": point.ranks })
            };
            let mut line = |callpath: String, value: f64| {
                let line = serde_json::json!({
                    "params": params, "callpath": callpath, "metric": "time", "value": value,
                });
                let _ = writeln!(text, "{line}");
            };
            line("program".to_owned(), seconds);
            for name in &operations {
                let sum = run.operations.get(*name).copied().unwrap_or(0.0);
                line(format!("program->{name}"), sum / point.ranks as f64);
            }
        }
        text
    }
}

/// Efficiency, drawn with characters; hollow where it is not to be trusted.
fn bar(found: &Found) -> String {
    const WIDTH: usize = 20;
    let Some(efficiency) = found.efficiency else { return " ".repeat(WIDTH) };
    let filled = ((efficiency.value * WIDTH as f64).round() as usize).min(WIDTH);
    let sign = if found.state == State::Good { '█' } else { '░' };
    let bar: String = std::iter::repeat_n(sign, filled).collect();
    format!("{bar}{}", "·".repeat(WIDTH - filled))
}

pub(super) fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn table(text: &mut String, columns: &[&str]) {
    cells_of(text, columns.iter().copied());
    text.extend(["|", &"---|".repeat(columns.len()), "\n"]);
}

fn cells_of<'a>(text: &mut String, cells: impl Iterator<Item = &'a str>) {
    let cells: Vec<String> = cells.map(|cell| cell.replace('|', "\\|")).collect();
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

#[cfg(test)]
mod tests {
    use std::{path::Path, process::Command};

    use super::*;
    use crate::scale::study::tests::synthetic;

    fn study() -> Study {
        synthetic(1, &[1, 2, 4, 32], 6, 0.01, |p| 1.0 / p as f64, |_, _| 0.1)
    }

    #[test]
    fn the_terminal_shows_every_point_and_marks_the_crowded() {
        let text = study().text();
        assert!(text.starts_with("strong scaling\nranks x threads"), "{text}");
        for point in ["1 x 1", "2 x 1", "4 x 1", "32 x 1"] {
            assert_eq!(text.matches(&format!(" {point}  ")).count(), 1, "{text}");
        }
        let crowded = text.lines().find(|line| line.contains("32 x 1")).unwrap();
        assert!(crowded.ends_with("crowded") && crowded.contains('░'), "{text}");
        assert!(text.contains("████████████████████"), "{text}");
        assert!(text.contains("Amdahl (strong"), "{text}");
    }

    #[test]
    fn tables_have_as_many_cells_as_columns() {
        let text = study().markdown();
        let mut columns = None;
        let mut rows = 0;
        for line in text.lines() {
            if !line.starts_with('|') {
                columns = None;
                continue;
            }
            let cells = line.matches('|').count();
            assert_eq!(*columns.get_or_insert(cells), cells, "{line}");
            rows += 1;
        }
        assert!(rows > 15, "{text}");
    }

    #[test]
    fn spreadsheets_get_every_launch() {
        let study = study();
        let text = study.csv();
        assert_eq!(text.lines().count(), 1 + study.samples.len());
        assert!(text.contains("\"crowded\""), "{text}");
        assert!(text.contains("\"--size 100\""), "{text}");
    }

    #[test]
    fn extra_p_gets_every_call_at_every_point() {
        let study = study();
        let text = study.extrap(Mode::Strong);
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2 * 3 * 6, "the crowded point is not one of them");
        assert!(lines[0]["params"]["ranks"].is_number() && lines[0]["params"]["threads"].is_null());
        assert_eq!(
            (&lines[0]["callpath"], &lines[1]["callpath"]),
            (&"program".into(), &"program->allreduce".into())
        );
        assert_eq!(study.extrap(Mode::Weak), "");
    }

    #[test]
    fn extra_p_reads_the_study() {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/bin/python");
        let has = Command::new(&python).args(["-c", "import extrap"]).output();
        if !has.is_ok_and(|output| output.status.success()) {
            let required = std::env::var("SPMD_REQUIRE").unwrap_or_default();
            let why =
                "needs `python3 -m venv target/python && target/python/bin/pip install extrap`";
            assert!(
                !required.split(',').any(|it| it == "python"),
                "SPMD_REQUIRE asks for python: {why}"
            );
            println!("skipped: {why}");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("extrap-strong.jsonl");
        // A program that calls nothing on one rank.
        let calls = |p: usize, _| if p == 1 { 0.0 } else { 0.1 };
        let mut study = synthetic(1, &[1, 2, 4, 8, 16], 3, 0.01, |p| 1.0 + 8.0 / p as f64, calls);
        for sample in &mut study.samples {
            let run = sample.run.as_mut().unwrap();
            run.operations.retain(|_, seconds| *seconds > 0.0);
        }
        std::fs::write(&file, study.extrap(Mode::Strong)).unwrap();
        let script = "import sys\n\
            from extrap.fileio.file_reader.jsonlines_file_reader import read_jsonlines_file\n\
            e = read_jsonlines_file(sys.argv[1])\n\
            print(*(p.name for p in e.parameters), *sorted(c.name for c in e.callpaths), len(e.coordinates))";
        let said = Command::new(&python).args(["-c", script]).arg(&file).output().unwrap();
        let words = String::from_utf8_lossy(&said.stdout).into_owned();
        assert_eq!(words.trim(), "ranks program program->allreduce 5", "{said:?}");
    }
}
