//! Layer 7: `spmd scale`: how a program scales, measured so that the numbers stand up to questions.
//!
//! Plan the points, launch them in random order and keep every launch, look at them together, write
//! the report, and compare it with an earlier one.

mod chart;
mod compare;
mod cpus;
mod expression;
mod launch;
mod machine;
mod models;
mod output;
mod page;
mod plan;
mod samples;
mod statistics;
mod study;

use std::{
    fs,
    io::{IsTerminal, Write},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use spmd::{io::write_whole, trace::Trace};

use self::{
    compare::Comparison,
    launch::Runner,
    machine::{Card, host_names},
    plan::Plan,
    samples::{Claim, Sample, Store},
    study::{FORMAT, State, Study},
};
use crate::{
    launcher::{Launcher, program},
    options::scale::Options,
};

/// The exit code of a study that is slower than an earlier one.
const SLOWER: u8 = 6;

/// The exit code of a study that cannot begin.
const USAGE: u8 = 2;

/// Measures, writes the report, and says the same on `out`.
pub(crate) fn run(options: &Options, out: &mut dyn Write) -> ExitCode {
    let told = |code: u8, what: &str| {
        // Where standard error is closed there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "error: {what}");
        ExitCode::from(code)
    };
    let (plan, launcher, cpus, old) = match prepare(options) {
        Ok(prepared) => prepared,
        Err(what) => return told(USAGE, &what),
    };
    let card = || {
        say("looking at the machine");
        Card::look(options, &plan, launcher.as_ref(), &cpus)
    };
    let claim = match Claim::take(&options.out) {
        Ok(claim) => claim,
        Err(what) => return told(1, &what),
    };
    let (mut store, card, samples) = match Store::open(claim, &plan, card) {
        Ok(opened) => opened,
        Err(what) => return told(USAGE, &what),
    };
    let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let runner = Runner {
        plan: &plan,
        launcher,
        cpus: cpus.clone(),
        directory: &options.out,
        limit: seconds(options.limit),
        patience: seconds(options.patience),
    };
    let samples = match measure(&runner, &mut store, samples) {
        Ok(samples) => samples,
        Err(what) => return told(1, &what),
    };
    let study = Study::new(plan.clone(), card, samples);
    let traced = traced(&runner, &study);
    let (study, traced) = if options.machine.is_none() {
        (study, traced)
    } else {
        (without_hosts(study), traced.map(Traced::without_hosts))
    };
    match conclude(options, &study, traced.as_ref(), old.as_ref(), out) {
        Ok(slower) => match study.exit_code() {
            0 if slower => ExitCode::from(SLOWER),
            code => ExitCode::from(code),
        },
        Err(what) => told(1, &what),
    }
}

/// A launch of which there is a trace.
struct Traced {
    point: String,
    trace: Trace,
}

impl Traced {
    /// With numbers in place of hosts' names.
    fn without_hosts(mut self) -> Self {
        let names = host_names(self.trace.ranks.iter().map(|rank| &*rank.host));
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        for rank in &mut self.trace.ranks {
            let number = names.iter().position(|name| *name == rank.host).unwrap_or(0);
            rank.host = format!("host {number}");
        }
        self
    }
}

/// One more launch of the point with the most cores, of the good ones if there are any, for a
/// timeline; a study without one is a study.
fn traced(runner: &Runner<'_>, study: &Study) -> Option<Traced> {
    let rank = |state: &State| match state {
        State::Good => 2,
        State::Doubtful(_) => 1,
        State::Crowded | State::Failed(_) => 0,
    };
    let points = study.points.iter().enumerate().filter(|(_, found)| rank(&found.state) > 0);
    let (which, found) = points
        .max_by_key(|(which, found)| (rank(&found.state), found.cores, usize::MAX - which))?;
    say("one more launch, for a timeline");
    match runner.trace(which) {
        Ok(trace) => Some(Traced { point: found.point.name(), trace }),
        Err(what) => {
            say(&format!("warning: no timeline: {what}"));
            None
        }
    }
}

type Prepared = (Plan, Option<Launcher>, Vec<usize>, Option<Study>);

/// What can be wrong before anything is measured.
fn prepare(options: &Options) -> Result<Prepared, String> {
    let cpus = cpus::usable();
    let plan = Plan::new(options, cpus.len())?;
    let launcher = launch::find(options.launcher)?;
    if launcher.is_none() {
        // Under a launcher it may be there on the hosts only.
        program(options.program.as_ref())?;
    }
    let old = options.compare.as_deref().map(read).transpose()?;
    Ok((plan, launcher, cpus, old))
}

/// An earlier study.
fn read(path: &Path) -> Result<Study, String> {
    let text = fs::read_to_string(path)
        .map_err(|error| format!("--compare {}: {error}", path.display()))?;
    let study: Study = serde_json::from_str(&text).map_err(|error| {
        format!("--compare {}: {error}\n  help: this is no study.json", path.display())
    })?;
    match study.format {
        FORMAT => Ok(study),
        other => Err(format!(
            "--compare {}: has form {other}, this version reads {FORMAT}",
            path.display()
        )),
    }
}

/// Makes the launches that are missing.
fn measure(
    runner: &Runner<'_>,
    store: &mut Store,
    mut samples: Vec<Sample>,
) -> Result<Vec<Sample>, String> {
    let order = runner.plan.order();
    if !samples.is_empty() {
        say(&format!("going on: {} of {} launches are there", samples.len(), order.len()));
    }
    let progress = Progress::new(order.len());
    for (launch, &which) in order.iter().enumerate().skip(samples.len()) {
        let left = time_left(&order[launch..], &samples);
        progress.show(launch, &runner.plan.points[which].name(), left);
        let sample = runner.launch(which, launch)?;
        let first_failure =
            |why: &String| !samples.iter().any(|earlier| earlier.failed.as_ref() == Some(why));
        if let Some(why) = sample.failed.as_ref().filter(|why| first_failure(why)) {
            progress.tell(&format!("{}: {why}", runner.plan.points[which].name()));
        }
        store.keep(&sample)?;
        samples.push(sample);
    }
    progress.end(order.len());
    Ok(samples)
}

/// How long the launches that are left will take, by what those of the same point took, else by all.
fn time_left(left: &[usize], samples: &[Sample]) -> Option<f64> {
    let mean = |which: Option<usize>| {
        let times = samples.iter().filter(|sample| which.is_none_or(|which| sample.point == which));
        let times: Vec<f64> = times.map(|sample| sample.wall_s).collect();
        (!times.is_empty()).then(|| times.iter().sum::<f64>() / times.len() as f64)
    };
    let any = mean(None)?;
    Some(left.iter().map(|&which| mean(Some(which)).unwrap_or(any)).sum())
}

/// How far the study has come: a bar on a terminal, else a line every 10 %.
struct Progress {
    bar: Option<ProgressBar>,
    tenths: std::cell::Cell<usize>,
    total: usize,
}

impl Progress {
    fn new(total: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| ProgressBar::new(total as u64));
        if let (Some(bar), Ok(style)) =
            (&bar, ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}"))
        {
            bar.set_style(style);
        }
        Self { bar, tenths: std::cell::Cell::new(0), total }
    }

    fn show(&self, done: usize, name: &str, left: Option<f64>) {
        let left = left.map_or_else(String::new, |left| format!(", {} left", span(left)));
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
            bar.set_message(format!("{name}{left}"));
            return;
        }
        let tenths = done * 10 / self.total.max(1);
        if tenths > self.tenths.replace(tenths) {
            say(&format!("{:3} % ({done}/{} launches{left})", tenths * 10, self.total));
        }
    }

    fn tell(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.println(format!("warning: {what}")),
            None => say(&format!("warning: {what}")),
        }
    }

    fn end(&self, done: usize) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        } else {
            self.show(done, "", None);
        }
    }
}

/// `45 s`, `3 min`, `2.5 h`.
fn span(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

fn say(what: &str) {
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// The study with numbers in place of hosts' names.
fn without_hosts(mut study: Study) -> Study {
    let parts =
        study.samples.iter().filter_map(|sample| sample.run.as_ref()).flat_map(|run| &run.parts);
    let names: Vec<String> =
        host_names(parts.map(|part| &*part.host)).into_iter().map(str::to_owned).collect();
    for run in study.samples.iter_mut().filter_map(|sample| sample.run.as_mut()) {
        for part in &mut run.parts {
            let number = names.iter().position(|name| *name == part.host).unwrap_or(0);
            part.host = format!("host {number}");
        }
    }
    study
}

/// Writes all files, and tells what they say; whether the study is slower than the earlier one.
fn conclude(
    options: &Options,
    study: &Study,
    traced: Option<&Traced>,
    old: Option<&Study>,
    out: &mut dyn Write,
) -> Result<bool, String> {
    let compared =
        old.map(|old| Comparison::new(old, study, options.threshold / 100.0)).transpose()?;
    let json = serde_json::to_string(study).map_err(|error| format!("study.json: {error}"))?;
    let files = [
        ("study.json", json),
        ("study.csv", study.csv()),
        ("study.md", study.markdown()),
        ("report.html", page::html(study, traced, compared.as_ref())?),
    ];
    for (name, text) in files {
        write(&options.out.join(name), &text)?;
    }
    for mode in study.modes() {
        let name = format!("extrap-{}.jsonl", mode.name());
        write(&options.out.join(name), &study.extrap(mode))?;
    }
    let mut text = study.text();
    if let Some(compared) = &compared {
        text.push('\n');
        text += &compared.text();
    }
    let page = options.out.join("report.html");
    out.write_all(format!("{text}\n{}\n", page.display()).as_bytes())
        .map_err(|error| format!("cannot print: {error}"))?;
    Ok(compared.is_some_and(|compared| compared.is_slower()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    write_whole(path, |file| file.write_all(text.as_bytes())).map_err(|error| error.to_string())
}
