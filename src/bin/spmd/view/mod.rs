//! `spmd view`: a trace in the terminal, as a page, and in parts.

pub(crate) mod page;
mod read;
pub(crate) mod summary;
pub(crate) mod text;
pub(crate) mod timeline;

use std::{
    fs,
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use spmd::{io::write_whole, options::RankSet, trace::RankTrace};

pub(crate) use self::read::read;
use self::{
    summary::Summary,
    timeline::{Timeline, duration},
};

/// What to show of a trace.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The trace (`--trace FILE`), or what a job has left that did not end (`FILE.parts`)
    #[arg(value_name = "FILE")]
    trace: PathBuf,
    /// Ranks to show: `all`, or a list like `0,2-5`
    #[arg(long, default_value = "all")]
    ranks: RankSet,
    /// Leave out what ends before this time: `0.5`, `500ms`, `20us`; seconds without a unit
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<Duration>,
    /// Leave out what begins after this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<Duration>,
    /// How many of the longest waits to name
    #[arg(long, default_value_t = 10)]
    waits: usize,
    /// Characters of a timeline
    #[arg(long, default_value_t = 72, value_parser = clap::value_parser!(u16).range(10..=1000))]
    width: u16,
    /// Also make a page with the timeline as a picture (.html)
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Also write what is shown as Chrome's trace events (.json)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Options {
    /// From when until when, in nanoseconds.
    fn times(&self) -> (u64, u64) {
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        (self.from.map_or(0, ns), self.to.map_or(u64::MAX, ns))
    }
}

fn time(text: &str) -> Result<Duration, String> {
    let digits = text.find(|letter: char| letter.is_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "us" => 1e-6,
        "ns" => 1e-9,
        _ => return Err(format!("`{unit}` is no unit of time; write s, ms, us or ns")),
    };
    let number: f64 = number.trim().parse().map_err(|_| format!("`{number}` is no number"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

/// Looks for options that do not go together, before anything is read.
///
/// # Errors
/// In words.
pub(crate) fn check(options: &Options) -> Result<(), String> {
    let (from, to) = options.times();
    if from >= to {
        return Err("--from is not before --to".to_owned());
    }
    for (option, target) in [("--html", &options.html), ("--json", &options.json)] {
        if let Some(target) = target
            && is_in(target, &options.trace)
        {
            return Err(format!(
                "{option} {}: this is the trace that is shown, and it would be lost\n  help: name another file",
                target.display()
            ));
        }
    }
    Ok(())
}

/// Whether a file is the trace, or lies among the parts that the trace is.
fn is_in(file: &Path, trace: &Path) -> bool {
    let is = |path: &Path| {
        let both = fs::metadata(path).and_then(|path| Ok((path, fs::metadata(trace)?)));
        both.is_ok_and(|(path, trace)| (path.dev(), path.ino()) == (trace.dev(), trace.ino()))
    };
    let directory = file.parent().filter(|directory| !directory.as_os_str().is_empty());
    is(file) || is(directory.unwrap_or(Path::new(".")))
}

/// Shows a trace.
///
/// # Errors
/// In words, with the file.
pub(crate) fn run(options: &Options, out: &mut dyn Write) -> Result<(), String> {
    let mut trace = read(&options.trace)?;
    let whole = trace.ranks.len();
    let (from, to) = options.times();
    let asked = |rank: &&RankTrace| options.ranks.contains(rank.rank);
    let end = trace.ranks.iter().filter(asked).map(|rank| rank.ended_ns).max();
    let began = trace.ranks.iter().filter(asked).map(|rank| rank.began_ns).min();
    if let Some(end) = end.filter(|end| from > *end) {
        return Err(format!("--from: the trace ends at {}", duration(end as f64)));
    }
    if let Some(began) = began.filter(|began| to < *began) {
        return Err(format!("--to: the trace begins at {}", duration(began as f64)));
    }
    trace = trace.window(|rank| options.ranks.contains(rank), from, to);
    if trace.ranks.is_empty() {
        return Err(format!(
            "the trace has ranks 0 to {}, none of them is asked for",
            whole.saturating_sub(1)
        ));
    }
    let summary = Summary::new(&trace, options.waits);
    let timeline = Timeline::new(&trace, options.width.into());
    let drawn = text::draw(&timeline);
    write!(out, "{summary}\n{}\n{drawn}", text::LEGEND)
        .map_err(|error| format!("cannot print: {error}"))?;
    if let Some(path) = &options.json {
        write_whole(path, |file| trace.write_chrome(file)).map_err(|error| error.to_string())?;
    }
    if let Some(path) = &options.html {
        let page = page::of_trace(&trace, &summary);
        write_whole(path, |file| file.write_all(page.as_bytes()))
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(time("0.5").unwrap(), Duration::from_millis(500));
        assert_eq!(time("20us").unwrap(), Duration::from_micros(20));
        assert_eq!(time("3 ms").unwrap(), Duration::from_millis(3));
        assert!(time("3 days").unwrap_err().contains("no unit"));
        assert!(time("ms").unwrap_err().contains("no number"));
        assert!(time("-1").is_err());
    }
}
