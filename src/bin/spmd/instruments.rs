//! `spmd-instruments`: what tries and measures every operation, a program of its own beside `spmd`,
//! which becomes it for `spmd selftest`, `spmd bench`, `spmd footprint` and `spmd scale`. Every operation for many
//! types takes longer to build than all the rest.

mod bench;
// Studies say themselves which launcher they mean.
#[allow(dead_code)]
mod launcher;
mod options;
mod output;
mod scale;
mod selftest;
mod statistics;
// The report of a study has the timeline of a trace, and no more of it.
#[allow(dead_code)]
mod view;

use std::{env, fs, io::Write, path::Path, process::ExitCode, sync::Mutex, time::Instant};

use clap::Parser;
use spmd::Failure;

use self::{
    bench::{Comparison, between_markers},
    options::{BenchArgs, BenchReportArgs, FootprintArgs, Instrument, SelftestArgs},
    output::Reader,
};

#[derive(Parser)]
#[command(name = "spmd", version)]
struct Cli {
    #[command(subcommand)]
    instrument: Instrument,
}

fn main() -> ExitCode {
    match spmd::parse::<Cli>().instrument {
        Instrument::Selftest(args) => selftest(&args),
        Instrument::Bench(args) => bench(&args),
        Instrument::Footprint(args) => footprint(&args),
        Instrument::Scale(options) => scale::run(&options, &mut Reader),
        Instrument::BenchReport(args) => bench_report(&args),
    }
}

fn selftest(args: &SelftestArgs) -> ExitCode {
    args.run.run(|world| {
        // Cases forget messages on purpose, of which the library warns at the end.
        if env::var_os("RUST_LOG").is_none() {
            log::set_max_level(log::LevelFilter::Error);
        }
        let summary = selftest::run(world, args.verbose, args.quick, &mut Reader)?;
        if summary.failed == 0 {
            return Ok(());
        }
        Err(Failure::verification(format!("{} of the selftest's cases failed", summary.failed)))
    })
}

fn bench(args: &BenchArgs) -> ExitCode {
    args.run.run(|world| bench::run(world, &args.what, &mut Reader))
}

fn footprint(args: &FootprintArgs) -> ExitCode {
    let started = Instant::now();
    // When rank 0 was done, if it runs in this process.
    let done = Mutex::new(None);
    let code = args.run.run(|world| {
        let when = bench::footprint(world, started, &mut Reader)?;
        if world.rank() == 0
            && let Ok(mut done) = done.lock()
        {
            *done = Some(when);
        }
        Ok(())
    });
    let when: Option<Instant> = done.into_inner().unwrap_or(None);
    if let (Some(when), true) = (when, code == ExitCode::SUCCESS) {
        // The result is out; where standard output is closed nobody misses this line.
        let _ = writeln!(Reader, "{:<10} {:.3} ms", "end", when.elapsed().as_secs_f64() * 1e3);
    }
    code
}

fn bench_report(args: &BenchReportArgs) -> ExitCode {
    match report(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            // Where standard error is closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "error: {what}");
            ExitCode::FAILURE
        }
    }
}

fn report(args: &BenchReportArgs) -> Result<(), String> {
    let table = Comparison::read(&read(&args.results)?, args.statistic)?.markdown();
    if let Some(page) = &args.markdown {
        let heading = args.heading.join("\n");
        let new = between_markers(&read(page)?, &format!("{heading}\n\n{table}"))?;
        fs::write(page, new)
            .map_err(|error| format!("cannot write {}: {error}", page.display()))?;
    }
    Reader.write_all(table.as_bytes()).map_err(|error| format!("cannot print: {error}"))
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}
