//! Layer 7: the command line of `spmd`.

mod list;
mod run;

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use spmd::RunArgs;

pub(crate) use self::{
    list::list,
    run::{become_instruments, info},
};
use crate::{options::Instrument, output::Reader};

const EXAMPLES: &str = "\
Examples:
  spmd tour                                 What concurrent, parallel and distributed are, measured
  spmd run -n 4 PROGRAM                     A program on four ranks, by whatever launcher there is
  spmd run --hosts a,b:4 PROGRAM            On two hosts
  spmd run --restarts 5 --hosts a,b,c PROGRAM    Started again on the others when one is lost
  spmd status                               How such a run is; spmd drain c and spmd add d while it runs
  spmd info                                 Where ranks and threads would run on this machine
  mpirun -n 4 spmd info                     The same under an MPI launcher (built with --features mpi)
  spmd info --hosts a,b                     What hosts are like, before a run
  spmd selftest -n 7                        All operations on 7 ranks that are threads
  mpirun -n 4 spmd selftest --verbose       All operations on a real MPI, a line per case
  spmd bench latency bandwidth -n 2         How fast messages are between two threads
  mpirun -n 2 spmd bench all --format csv   Everything that is measured, on a real MPI, for a spreadsheet
  spmd footprint -n 1000                    What a thousand ranks cost in time and memory
  spmd scale PROGRAM --ranks 1,2,4 --out study    How a program scales, with a report
  spmd view trace.json --html trace.html    What a program did that ran with --trace trace.json
  spmd hostfile --format mpich --hosts n[01-04]:8    Hosts in the form that MPICH's launcher reads
  spmd job slurm --nodes 4 -- ./heat2d      A batch script (also for flux and kubernetes)
  spmd join node01:4000 --token-file T ./queens    A worker of an elastic farm, from any host
  spmd list                                 Programs to try, to read and to begin with
  spmd info -n 4 --share-cpu                The concurrent form: all ranks on one cpu
  spmd completions bash > ~/.local/share/bash-completion/completions/spmd

Exit codes: 0 ok, 1 failure, 2 usage, 3 verification failed, 4 deadlock or lost rank, 5 stopped, to be continued,
6 slower than before (scale), 7 lost host (run), 130 interrupted (run).";

/// MPI-style message passing: what it runs on, whether it works there, and how fast
#[derive(Parser)]
#[command(name = "spmd", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show engine, MPI library, launcher, hosts, cpus and threads of all ranks, with advice where
    /// something is off
    Info(InfoArgs),
    Run(crate::run::Options),
    Status(crate::run::Shown),
    /// Take a host out of a supervised run: at its next step it goes on without it
    #[command(override_usage = "spmd drain [RUN] HOST[:SLOTS]")]
    Drain(crate::run::Change),
    /// Bring a host into a supervised run: at its next step it goes on with it
    #[command(override_usage = "spmd add [RUN] HOST[:SLOTS]")]
    Add(crate::run::Change),
    /// What `spmd run` and `spmd info --hosts` start on the hosts
    #[command(hide = true)]
    HostAgent(crate::run::AgentArguments),
    /// What `spmd run` starts as the launcher
    #[command(hide = true)]
    Become(crate::run::Words),
    /// What `spmd run` reaches the nodes of SLURM by
    #[command(hide = true)]
    OnNode(crate::run::OnNode),
    #[command(flatten)]
    Instrument(Instrument),
    /// See one program in three forms, measured: concurrent, parallel, distributed
    Tour(crate::tour::Options),
    /// The program of the tour
    #[command(hide = true)]
    TourKernel(crate::tour::Kernel),
    /// The program of the tour of faults
    #[command(hide = true)]
    TourSurvivor(crate::tour::Survivor),
    /// What is done to its hosts
    #[command(hide = true)]
    TourDirector(crate::tour::Director),
    /// Show a trace that a program has made with --trace FILE: time, waiting and messages by call
    /// and rank, the longest waits, and a timeline
    View(crate::view::Options),
    /// Print hosts as a launcher reads them from a file, each its own form: those of a list, of another
    /// hostfile, or of the batch job
    Hostfile(crate::hosts::Options),
    /// Write a batch script for SLURM or Flux, or a job for Kubernetes
    Job(crate::job::Options),
    Join(crate::join::Options),
    /// Name the programs that come with it: what each shows, and how to run it
    List,
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Write a manual page for each command
    Man(ManArgs),
}

#[derive(Args)]
pub(crate) struct InfoArgs {
    /// What starts a program on a host in place of ssh (with --hosts or --hostfile, which have this
    /// look at the hosts before a run)
    #[arg(long, value_name = "PROGRAM", env = "SPMD_SSH", hide_env = true)]
    ssh: Option<String>,
    #[command(flatten)]
    hosts: crate::hosts::Chosen,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

#[derive(Args)]
pub(crate) struct ManArgs {
    /// Where the pages go: a directory man1 of the manual path
    directory: PathBuf,
}

pub(crate) fn tour(options: &crate::tour::Options) -> ExitCode {
    match crate::tour::run(options, &mut Reader) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(what) => complain(&what),
    }
}

/// The story of a run, for the tour that has it made.
pub(crate) fn tour_director(director: &crate::tour::Director) -> ExitCode {
    told(crate::tour::direct(director).and_then(|story| {
        writeln!(Reader, "{story}").map_err(|error| format!("cannot print: {error}"))
    }))
}

/// What a command has told, or why it could not.
pub(crate) fn told(told: Result<(), String>) -> ExitCode {
    told.map_or_else(|what| complain(&what), |()| ExitCode::SUCCESS)
}

fn complain(what: &str) -> ExitCode {
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "error: {what}");
    ExitCode::FAILURE
}

/// Options that do not go together.
fn misused(what: &str) -> ExitCode {
    complain(what);
    ExitCode::from(2)
}

pub(crate) fn view(options: &crate::view::Options) -> ExitCode {
    match crate::view::check(options) {
        Ok(()) => told(crate::view::run(options, &mut Reader)),
        Err(what) => misused(&what),
    }
}

pub(crate) fn hostfile(options: &crate::hosts::Options) -> ExitCode {
    let text = match crate::hosts::hostfile(options) {
        Ok(text) => text,
        Err(what) => return misused(&what),
    };
    print(text.as_bytes())
}

fn print(text: &[u8]) -> ExitCode {
    let printed = Reader.write_all(text).and_then(|()| Reader.flush());
    told(printed.map_err(|error| format!("cannot print: {error}")))
}

pub(crate) fn job(options: &crate::job::Options) -> ExitCode {
    let text = match crate::job::text(options) {
        Ok(text) => text,
        Err(what) => return misused(&what),
    };
    match crate::job::write(&text, options, &mut Reader) {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => complain(&what),
    }
}

pub(crate) fn join(options: &crate::join::Options) -> ExitCode {
    crate::join::run(options).unwrap_or_else(|what| complain(&what))
}

pub(crate) fn man(args: &ManArgs) -> ExitCode {
    let directory = &args.directory;
    let written = std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), directory));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&format!("cannot write to {}: {error}", directory.display())),
    }
}

pub(crate) fn completions(args: &CompletionsArgs) -> ExitCode {
    // What makes them panics if they cannot be written.
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "spmd", &mut text);
    print(&text)
}
