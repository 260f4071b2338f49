//! The command `spmd`.

mod cli;

use std::process::ExitCode;

use self::cli::{Cli, Command};

fn main() -> ExitCode {
    match spmd::parse::<Cli>().command {
        Command::Info(args) => cli::info(&args),
        Command::Selftest(args) => cli::selftest(&args),
        Command::Completions(args) => cli::completions(&args),
    }
}
