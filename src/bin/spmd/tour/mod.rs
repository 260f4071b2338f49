//! `spmd tour`: one program in three forms, measured: what textbooks draw.

mod faults;
mod forms;
mod kernel;
mod page;

use std::{
    collections::hash_map::RandomState,
    fs,
    hash::BuildHasher,
    io::{self, Write},
    path::PathBuf,
    thread,
    time::Instant,
};

use spmd::io::write_whole;

use self::forms::{Form, Measured, Start, distributed};
pub(crate) use self::{
    faults::{Director, Survivor, direct, run_survivor},
    kernel::{Kernel, run as run_kernel},
};
use crate::{
    scratch::Scratch,
    view::{
        text,
        timeline::{Timeline, bytes, duration},
    },
};

/// How the tour goes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Show what becomes of a run on four hosts of which one crashes, one is drained, and one comes in
    /// while it runs: measured on throw-away hosts, which takes root on Linux and Open MPI
    #[arg(long, conflicts_with_all = ["hostfile", "seconds"])]
    faults: bool,
    /// Also make a page with the timelines as pictures: DIR/tour.html, DIR/tour-faults.html
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Hosts for the distributed form, in the launcher's own format [default: those of a SLURM
    /// allocation, or throw-away ones where this machine can make them]
    #[arg(long, value_name = "FILE")]
    hostfile: Option<PathBuf>,
    /// Rows and columns of the field
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..=65536))]
    cells: u32,
    /// How long one rank computes, about: the others do the same work
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Characters of a timeline
    #[arg(long, default_value_t = 72, value_parser = clap::value_parser!(u16).range(20..=1000))]
    width: u16,
}

/// A form that was run, or why it was not.
struct Shown {
    form: Form,
    /// How it was started, where that is not plain.
    how: String,
    result: Result<Measured, String>,
}

/// Steps that a closer look shows.
const CLOSE: u64 = 12;

/// Takes the reader through the forms; whether all that could be run were right.
///
/// # Errors
/// In words.
pub(crate) fn run(options: &Options, out: &mut dyn Write) -> Result<bool, String> {
    let printed = |done: io::Result<()>| done.map_err(|error| format!("cannot print: {error}"));
    if let Some(directory) = &options.out {
        let cannot = |error| format!("{}: {error}", directory.display());
        fs::create_dir_all(directory).map_err(cannot)?;
    }
    if options.faults {
        return faults::run(options, out);
    }
    let began = Instant::now();
    let scratch = scratch()?;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let cells = options.cells as usize;
    let alone = alone();
    // How long a step takes, to know how many.
    let tried = alone.measure(scratch.path(), cells, 20)?;
    let step_ns = (tried.time_ns / 20).max(1);
    let steps = (options.seconds * 1e9 / step_ns as f64).clamp(20.0, 1e6) as u32;
    printed(writeln!(
        out,
        "One program in three forms: the 2-D heat equation, {cells} x {cells} cells, {steps} steps, on {cores} cores.\n\
         Each form makes the same steps and checks its own result.\n"
    ))?;

    let base = alone.measure(scratch.path(), cells, steps)?;
    printed(writeln!(out, "One rank alone takes {}.\n", duration(base.time_ns as f64)))?;
    let mut shown = Vec::new();
    for (form, how) in forms(cores, options, scratch.path()) {
        let (form, result) = match form {
            Ok(form) => {
                let result = form.measure(scratch.path(), cells, steps);
                (form, result)
            }
            Err((form, missing)) => (form, Err(missing)),
        };
        let one = Shown { form, how, result };
        printed(one.print(out, steps, options.width))?;
        shown.push(one);
    }
    printed(print_table(out, &base, &shown))?;
    if let Some(directory) = &options.out {
        let path = directory.join("tour.html");
        let page = page::make(&page::Told { cells, steps, cores, base: &base, shown: &shown });
        write_whole(&path, |file| file.write_all(page.as_bytes()))
            .map_err(|error| error.to_string())?;
        printed(writeln!(out, "\nThe pictures are in {}.", path.display()))?;
    } else {
        printed(writeln!(
            out,
            "\nPictures: spmd tour --out DIR. It took {:.0} s.",
            began.elapsed().as_secs_f64()
        ))?;
    }
    // What is missing on this machine is no failure; what was run and is wrong is one.
    Ok(shown.iter().all(|one| one.result.is_ok() || one.is_missing()))
}

impl Shown {
    fn is_missing(&self) -> bool {
        self.how.is_empty() && self.result.is_err() && self.form.name == "distributed"
    }

    /// Its row of the table.
    fn row(&self, base: &Measured) -> ([String; 10], &'static str) {
        if let Ok(measured) = &self.result {
            return (cells_of(&self.form, measured, base), "right");
        }
        let mut cells = [const { String::new() }; 10];
        self.form.name.clone_into(&mut cells[0]);
        (cells, "not shown")
    }

    fn print(&self, out: &mut dyn Write, steps: u32, width: u16) -> io::Result<()> {
        let Form { name, title, sees, .. } = &self.form;
        writeln!(out, "{}: {title}", name.to_uppercase())?;
        if !self.how.is_empty() {
            writeln!(out, "  on {}", self.how)?;
        }
        let measured = match &self.result {
            Ok(measured) => measured,
            Err(what) => return writeln!(out, "  not shown: {what}\n"),
        };
        sees.iter().try_for_each(|sentence| writeln!(out, "  {sentence}"))?;
        let (from, to) = measured.closer(steps);
        let close = measured.trace.clone().window(|_| true, from, to);
        let drawn = text::draw(&Timeline::new(&close, width.into()));
        writeln!(out, "\n{drawn}     {}\n", text::LEGEND)
    }
}

impl Measured {
    /// A short time in the middle, of a few steps.
    fn closer(&self, steps: u32) -> (u64, u64) {
        let began = self.trace.ranks.iter().map(|rank| rank.began_ns).min().unwrap_or(0);
        let middle = began + self.time_ns / 2;
        let length = CLOSE * self.time_ns / u64::from(steps.max(1));
        (middle - length / 2, middle + length.div_ceil(2))
    }

    /// The share of a CPU that a rank had.
    fn cpu_share(&self) -> f64 {
        self.cpu_ns as f64 / (self.time_ns as f64 * self.trace.ranks.len().max(1) as f64)
    }
}

/// The program by itself: what the others are held against.
fn alone() -> Form {
    Form {
        name: "alone",
        title: "one rank on one core".to_owned(),
        sees: [""; 3],
        ranks: 1,
        threads: 1,
        start: Start::Threads { share_cpu: false },
    }
}

/// A form that can be started, or one that cannot and why; and how it is started.
type Planned = (Result<Form, (Form, String)>, String);

/// The forms of the tour on so many cores.
fn forms(cores: usize, options: &Options, scratch: &std::path::Path) -> Vec<Planned> {
    let threads = |share_cpu| Start::Threads { share_cpu };
    let concurrent = Form {
        name: "concurrent",
        title: "4 ranks share one CPU".to_owned(),
        sees: [
            "One rank at a time has the CPU; the others are ready and have none, or wait for it.",
            "The system takes the CPU from one and gives it to the next: those are the context switches.",
            "All are under way at once, but nothing is faster: the work of one CPU is done by one CPU.",
        ],
        ranks: 4,
        threads: 1,
        start: threads(true),
    };
    let ranks = cores.min(8);
    let parallel = Form {
        name: "parallel",
        title: format!("{ranks} ranks on {ranks} cores"),
        sees: [
            "Every rank has a CPU of its own and computes at the same time as the others.",
            "In each step it sends its border cells to its neighbours and waits for theirs, if they are late.",
            "How much faster than one rank it is shows what cores and memory give together.",
        ],
        ranks,
        threads: 1,
        start: threads(false),
    };
    let (few, many) = if cores >= 4 { (2, cores / 2) } else { (1, cores) };
    let hybrid = Form {
        name: "parallel",
        title: format!("{few} rank{} x {many} threads", if few == 1 { "" } else { "s" }),
        sees: [
            "The threads of a rank share its block: nothing is sent between them.",
            "Fewer and larger blocks have shorter borders, so that there are fewer messages.",
            "The lane shows the rank's own thread, the strips below it the CPU that each thread had.",
        ],
        ranks: few,
        threads: many,
        start: threads(false),
    };
    let apart = ranks.max(2);
    let distributed_form = |start| Form {
        name: "distributed",
        title: format!("{apart} ranks, each a process, started by mpirun"),
        sees: [
            "Ranks share no memory: what one knows of another came in a message.",
            "Messages between hosts cross a network: they take longer, and ranks wait longer for them.",
            "The same binary, the same lines of code: only the launch is another.",
        ],
        ranks: apart,
        threads: 1,
        start,
    };
    let started = distributed(options.hostfile.as_deref(), apart, scratch);
    let last = match started {
        Ok((start, how)) => (Ok(distributed_form(start)), how.to_owned()),
        Err(missing) => (Err((distributed_form(threads(false)), missing)), String::new()),
    };
    let mut planned: Vec<Planned> =
        vec![(Ok(concurrent), String::new()), (Ok(parallel), String::new())];
    if many > 1 {
        planned.push((Ok(hybrid), String::new()));
    }
    planned.push(last);
    planned
}

/// What the table says of a form, cell by cell.
fn cells_of(form: &Form, measured: &Measured, base: &Measured) -> [String; 10] {
    let [given, taken] = measured.switches;
    [
        form.name.to_owned(),
        format!("{} x {}", form.ranks, form.threads),
        duration(measured.time_ns as f64),
        format!("{:.2}", base.time_ns as f64 / measured.time_ns as f64),
        duration(measured.cpu_ns as f64),
        format!("{:.0} %", 100.0 * measured.cpu_share()),
        (given + taken).to_string(),
        measured.messages.to_string(),
        bytes(measured.bytes),
        bytes(measured.network_bytes),
    ]
}

/// The heads of these cells.
const HEADS: [&str; 10] = [
    "form",
    "ranks x thr",
    "time",
    "speed-up",
    "CPU time",
    "CPU/rank",
    "switches",
    "messages",
    "bytes",
    "by network",
];

fn print_table(out: &mut dyn Write, base: &Measured, shown: &[Shown]) -> io::Result<()> {
    let mut rows = vec![(HEADS.map(str::to_owned), "result")];
    rows.push((cells_of(&alone(), base, base), "right"));
    rows.extend(shown.iter().map(|one| one.row(base)));
    let width = |column: usize| rows.iter().map(|(cells, _)| cells[column].chars().count()).max();
    let widths: [usize; 10] = std::array::from_fn(|column| width(column).unwrap_or(0));
    for (cells, result) in &rows {
        write!(out, "{:<1$}", cells[0], widths[0])?;
        for (cell, width) in cells.iter().zip(widths).skip(1) {
            write!(out, "  {cell:>width$}")?;
        }
        writeln!(out, "  {result}")?;
    }
    Ok(())
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| *seconds > 0.0 && *seconds <= 3600.0);
    seconds.ok_or_else(|| "a number of seconds above 0, and an hour at most".to_owned())
}

/// A directory for what a tour writes. It is run, perhaps by root: the directory is nobody else's.
fn scratch() -> Result<Scratch, String> {
    const KIND: &str = "spmd-tour-";
    let name = format!("{KIND}{:016x}", RandomState::new().hash_one(std::process::id()));
    let path = std::env::temp_dir().join(name);
    Scratch::make(&path, KIND).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_says_three_things_and_the_last_what_is_missing() {
        let options = Options {
            faults: false,
            out: None,
            hostfile: None,
            cells: 16,
            seconds: 1.0,
            width: 20,
        };
        for cores in [1, 2, 8] {
            let planned = forms(cores, &options, &std::env::temp_dir());
            let names: Vec<&str> = planned
                .iter()
                .map(|(form, _)| match form {
                    Ok(form) | Err((form, _)) => form.name,
                })
                .collect();
            assert_eq!(
                (names[0], names[1], *names.last().unwrap()),
                ("concurrent", "parallel", "distributed")
            );
            for (form, _) in &planned {
                let (Ok(form) | Err((form, _))) = form;
                assert!(form.sees.iter().all(|sentence| sentence.ends_with('.')));
                assert!(form.ranks * form.threads <= cores.max(4));
            }
        }
    }
}
