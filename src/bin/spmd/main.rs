//! The command `spmd`.

mod bench;
mod cli;
mod scale;
mod selftest;
mod tour;
mod view;

use std::process::ExitCode;

use self::cli::{Cli, Command};

fn main() -> ExitCode {
    match spmd::parse::<Cli>().command {
        Command::Info(args) => cli::info(&args),
        Command::Selftest(args) => cli::selftest(&args),
        Command::Bench(args) => cli::bench(&args),
        Command::Footprint(args) => cli::footprint(&args),
        Command::Tour(options) => cli::tour(&options),
        Command::TourKernel(kernel) => kernel.run.run(|world| tour::run_kernel(world, &kernel)),
        Command::View(options) => cli::view(&options),
        Command::Scale(options) => cli::scale(&options),
        Command::List => cli::list(),
        Command::BenchReport(args) => cli::bench_report(&args),
        Command::Completions(args) => cli::completions(&args),
    }
}
