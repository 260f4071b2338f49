//! The command `spmd`.

mod cli;
mod hosts;
mod job;
mod join;
mod launcher;
// For help and completions: what it says is done by `spmd-instruments`.
#[allow(dead_code)]
mod options;
mod output;
mod run;
mod scratch;
mod tour;
mod view;

use std::process::ExitCode;

use self::cli::{Cli, Command};

fn main() -> ExitCode {
    match spmd::parse::<Cli>().command {
        Command::Info(args) => cli::info(&args),
        Command::Run(options) => run::run(&options, &mut output::Reader),
        Command::Become(what) => run::become_launcher(&what),
        Command::OnNode(what) => run::become_srun(&what),
        Command::Status(shown) => cli::told(run::status(&shown, &mut output::Reader)),
        Command::Drain(change) => cli::told(run::drain(&change, &mut output::Reader)),
        Command::Add(change) => cli::told(run::add(&change, &mut output::Reader)),
        Command::HostAgent(arguments) => run::serve_as_agent(&arguments),
        Command::Instrument(_) => cli::become_instruments(),
        Command::Tour(options) => cli::tour(&options),
        Command::TourKernel(kernel) => kernel.run.run(|world| tour::run_kernel(world, &kernel)),
        Command::TourSurvivor(survivor) => {
            let (run, recover) = (survivor.run.clone(), survivor.recover.clone());
            run.resilient(&recover, |world, recovery| {
                tour::run_survivor(world, recovery, &survivor)
            })
        }
        Command::TourDirector(director) => cli::tour_director(&director),
        Command::View(options) => cli::view(&options),
        Command::Hostfile(options) => cli::hostfile(&options),
        Command::Job(options) => cli::job(&options),
        Command::Join(options) => cli::join(&options),
        Command::List => cli::list(),
        Command::Completions(args) => cli::completions(&args),
        Command::Man(args) => cli::man(&args),
    }
}
