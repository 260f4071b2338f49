//! `spmd join`: a program as a worker of an elastic farm.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode},
};

/// Run a program as a worker of an elastic farm: it joins the coordinator at HOST:PORT, and leaves
/// when there is no more to do
///
/// The program is the one that the coordinator runs, with its own options but --serve. Under mpirun
/// (mpirun -n 4 spmd join …) all ranks together are one worker, if the program can do that. At SIGTERM
/// it finishes what it has begun and leaves.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where the coordinator listens
    #[arg(value_name = "HOST:PORT")]
    address: String,
    /// A copy of the file that the coordinator has made; nobody else may read it
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// Tasks that are done at once [default: one per CPU]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=4096))]
    slots: Option<u32>,
    /// How long to look for a coordinator that is not there, or not there any more [default: 60]
    #[arg(long, value_name = "SECONDS")]
    patience: Option<f64>,
    /// The program and its options
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PROGRAM"
    )]
    program: Vec<OsString>,
}

/// Becomes the program; returns only to tell why not.
pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    if cfg!(not(feature = "elastic")) {
        return Err("this spmd was built without elastic farms\n  \
             help: rebuild it, and the program, with `--features elastic`"
            .to_owned());
    }
    let Some((program, arguments)) = options.program.split_first() else {
        return Err("there is no program to run".to_owned());
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_remove("SPMD_ELASTIC_SERVE")
        .env("SPMD_ELASTIC_JOIN", &options.address)
        .env("SPMD_ELASTIC_TOKEN_FILE", &options.token_file);
    if let Some(slots) = options.slots {
        command.env("SPMD_ELASTIC_SLOTS", slots.to_string());
    }
    if let Some(patience) = options.patience {
        command.env("SPMD_ELASTIC_PATIENCE", patience.to_string());
    }
    let error = command.exec();
    Err(format!("{} cannot be started: {error}", program.display()))
}
