//! Layer 7: the command line of `spmd`.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use spmd::{Failure, RunArgs};

const EXAMPLES: &str = "\
Examples:
  spmd info                                 Where ranks and threads would run on this machine
  mpirun -n 4 spmd info                     The same under an MPI launcher (built with --features mpi)
  spmd selftest -n 7                        All operations on 7 ranks that are threads
  mpirun -n 4 spmd selftest --verbose       All operations on a real MPI, a line per case
  spmd info -n 4 --share-cpu                The concurrent form: all ranks on one cpu
  spmd completions bash > ~/.local/share/bash-completion/completions/spmd

Exit codes: 0 ok, 1 failure, 2 usage, 3 verification failed, 4 deadlock or lost rank.";

/// MPI-style message passing: what it runs on, and whether it works there
#[derive(Parser)]
#[command(name = "spmd", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show engine, MPI library, launcher, hosts, cpus and threads of all ranks, with advice where something is off
    Info(InfoArgs),
    /// Try every operation on this engine with this number of ranks; exit code 3 if one fails
    Selftest(SelftestArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
}

#[derive(Args)]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Args)]
pub(crate) struct SelftestArgs {
    /// Print a line for each case, not for failing ones only
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(crate) fn info(args: &InfoArgs) -> ExitCode {
    args.run.run(|world| {
        let info = spmd::info(world)?;
        if world.rank() == 0 {
            writeln!(Reader, "{info}")?;
        }
        Ok(())
    })
}

pub(crate) fn selftest(args: &SelftestArgs) -> ExitCode {
    args.run.run(|world| {
        let summary = spmd::selftest::run(world, args.verbose, &mut Reader)?;
        if summary.failed == 0 {
            return Ok(());
        }
        Err(Failure::verification(format!("{} of the selftest's cases failed", summary.failed)))
    })
}

pub(crate) fn completions(args: &CompletionsArgs) -> ExitCode {
    clap_complete::generate(args.shell, &mut Cli::command(), "spmd", &mut Reader);
    ExitCode::SUCCESS
}

/// Standard output, which may be closed before all is written: `spmd info | head -1` is no failure.
struct Reader;

impl Write for Reader {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match io::stdout().write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(bytes.len()),
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match io::stdout().flush() {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            flushed => flushed,
        }
    }
}
