//! Layer 7: `spmd run`: starts a program on all ranks, wherever they are; watches the hosts, hands
//! signals on, leaves nothing behind, and judges the run by the record that the program leaves.
//!
//! [`plan`] turns what is asked for into a command line, [`watch`] sees it to its end; [`agent`] is
//! this program on each of the hosts, [`crew`] all of them; [`word`] is what the program leaves.
//! [`supervise`] does all this again where something befalls it.

mod agent;
mod choice;
mod cores;
mod crew;
mod leftovers;
mod link;
mod look;
mod plan;
mod signals;
mod supervise;
mod watch;
mod way;
mod word;

use std::{
    ffi::OsString,
    io::Write,
    num::NonZeroUsize,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use clap::Args;

pub(crate) use self::{
    agent::{Arguments as AgentArguments, serve as serve_as_agent},
    look::look,
    supervise::{Change, Shown, add, drain, status},
    watch::become_launcher,
    way::{OnNode, become_srun},
};
use self::{
    agent::{Facts, checksum},
    choice::Choice,
    crew::{Crew, Found},
    plan::Plan,
    signals::{Signals, block_signals},
};
use crate::hosts::{Chosen, Host};

const EXAMPLES: &str = "\
Examples:
  spmd run -n 4 target/release/examples/heat2d --size 1000,1000
  spmd run --hosts 'node[01-04]:8' --threads 2 target/release/examples/heat2d --steps 1000
  spmd run --hostfile hosts --dry-run ./program      The launcher's command line, and nothing else
  spmd run -n 8 --share-cpu target/release/examples/ring
  spmd run --hosts 'node[1-5]:2' --spares 1 --restarts 5 --stall 2m target/release/examples/heat2d --checkpoint kept
                                                     Gets over lost ranks and hosts; see also spmd status, drain, add

Signals: the first SIGINT, SIGTERM, SIGHUP or SIGUSR1 asks all ranks to stop (a program that keeps checkpoints ends with
exit code 5, to be continued), the second ends them. A run counts as successful if the program says so itself.
Where ranks are threads, and there is no --walltime, this command becomes the program, which hears signals itself.

Exit codes: the program's own; 2 usage, 4 lost rank or deadlock, 7 lost host (start again on the others), 130
interrupted.";

/// Start a program on all ranks: finds the launcher and its words, watches the hosts, hands signals on
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// Number of ranks [default: the slots of the hosts; without hosts the cores, divided by --threads]
    #[arg(short = 'n', long)]
    ranks: Option<NonZeroUsize>,
    #[command(flatten)]
    hosts: Chosen,
    /// What starts the ranks [default: SLURM's srun inside an allocation, else the mpirun of the
    /// program's MPI, else ranks are threads]
    #[arg(long, value_enum, default_value = "auto")]
    launcher: Choice,
    /// Rayon threads of each rank, which has as many CPUs for itself where there are enough
    /// [default: an even share]
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Keep all ranks of a host on one CPU: the concurrent form
    #[arg(long)]
    share_cpu: bool,
    /// Ranks may outnumber slots and cores; they give way while they wait
    #[arg(long)]
    oversubscribe: bool,
    /// How long the program may take, like 90, 10m or 2h: it is told in time, asked to stop when that
    /// is over, and ended (exit code 4) after --grace
    #[arg(long, value_name = "TIME", value_parser = duration)]
    walltime: Option<Duration>,
    /// End the run (exit code 4) when a call waits longer, at the start too, and say what every rank
    /// does
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// How long the ranks may take to stop when they are asked to, before they are ended
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30")]
    grace: Duration,
    /// What starts a program on a host in place of ssh: `PROGRAM HOST COMMAND`
    #[arg(long, value_name = "PROGRAM", env = "SPMD_SSH", hide_env = true)]
    ssh: Option<String>,
    /// More arguments for the launcher, separated by spaces
    #[arg(long, value_name = "ARGS", default_value = "", allow_hyphen_values = true)]
    launcher_args: String,
    /// Keep the record of the run here
    #[arg(long, value_name = "FILE", env = "SPMD_RECORD", hide_env = true)]
    record: Option<PathBuf>,
    /// Print the command line, and run nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    supervised: supervise::Limits,
    /// The program and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PROGRAM"
    )]
    command: Vec<OsString>,
}

/// What becomes the launcher.
#[derive(Args)]
pub(crate) struct Words {
    /// Who starts it: it ends with that process
    #[arg(long)]
    parent: i32,
    /// It is killed then, not asked to end
    #[arg(long)]
    killed: bool,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    line: Vec<OsString>,
}

/// Why nothing was run, or how what was run has ended.
enum Ending {
    Usage(String),
    /// A host cannot be reached, or does not answer any more.
    LostHost(String),
    Failed(String, u8),
    Ended(u8),
}

pub(crate) fn run(options: &Options, out: &mut dyn Write) -> ExitCode {
    let ending = start(options, out).unwrap_or_else(|ending| ending);
    let (text, code) = match ending {
        Ending::Ended(code) => return code.into(),
        Ending::Usage(text) => (text, 2),
        Ending::LostHost(text) => (text, 7),
        Ending::Failed(text, code) => (text, code),
    };
    say(&format!("error: {text}"));
    code.into()
}

/// A line to standard error; where that is closed there is nobody to tell.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn start(options: &Options, out: &mut dyn Write) -> Result<Ending, Ending> {
    let mut plan = Plan::new(options).map_err(Ending::Usage)?;
    let watched = if plan.launcher.is_some() { plan.hosts.clone() } else { Vec::new() };
    if options.dry_run {
        let mut line = plan.command_line(&plan.layout(None));
        if plan.hosts.iter().any(|host| host.slots.is_none()) {
            line.push_str(
                "\n# Hosts without slots are asked at the start: they get one for each core.",
            );
        }
        return match writeln!(out, "{line}") {
            Ok(()) => Ok(Ending::Ended(0)),
            Err(error) => Err(Ending::Failed(format!("cannot print: {error}"), 1)),
        };
    }
    if options.supervised.restarts.is_some() {
        return supervise::run(options, plan);
    }
    if plan.launcher.is_none() && options.walltime.is_none() {
        // This process becomes the program: signals and exit codes are its own.
        let mut command = Command::new(&plan.program);
        command.args(&plan.arguments).envs(plan.variables.iter().cloned());
        let error = command.exec();
        return Err(Ending::Failed(format!("{}: {error}", plan.program.display()), 1));
    }
    let failed = |error: String| Ending::Failed(error, 1);
    block_signals().map_err(failed)?;
    let directory = Some(&*plan.directory);
    let (mut crew, events) =
        Crew::send(&watched, &plan.way, &plan.token, &plan.program, directory, None)
            .map_err(failed)?;
    Signals::hear().map_err(failed)?.are_for(crew.events.clone());
    let facts = crew
        .facts(&events)
        .map_err(|signal| Ending::Failed(format!("ended by {signal}"), watch::INTERRUPTED))
        .and_then(|found| usable(&watched, check_all(&plan.program, &watched, found)))
        .inspect_err(|_| drop(crew.dismiss()))?;
    plan.give_slots(&facts);
    watch::run(&plan, crew, &events, options, None).map(|ended| ended.fate.ending())
}

/// Why a program cannot run on a host.
enum Trouble {
    /// It cannot be reached.
    Away(String),
    /// It is not as it should be.
    Wrong(Vec<String>),
}

impl Trouble {
    /// On one line.
    fn why(&self) -> String {
        match self {
            Self::Away(why) => format!("cannot be reached: {why}"),
            Self::Wrong(all) => {
                let lines = all.iter().filter_map(|why| why.lines().next());
                lines.collect::<Vec<_>>().join("; ")
            }
        }
    }
}

/// What a host is, if the program can run there: nothing is known of one without `spmd`.
type Checked = Result<Option<Facts>, Trouble>;

fn check_all(program: &Path, hosts: &[Host], found: Vec<Found>) -> Vec<Checked> {
    let own = if hosts.is_empty() { None } else { checksum(program) };
    found.into_iter().map(|found| check(program, own, found)).collect()
}

/// `own` is what the program is here.
fn check(program: &Path, own: Option<(u64, u32)>, found: Found) -> Checked {
    let facts = match found {
        Err(why) => return Err(Trouble::Away(why)),
        Ok(None) => return Ok(None),
        Ok(Some(facts)) => facts,
    };
    let program = program.display();
    let mut wrong = Vec::new();
    if facts.program.is_none() {
        wrong.push(format!(
            "{program} is not there\n  help: it has to lie at the same place on every host"
        ));
    } else if own.is_some() && facts.program != own {
        wrong.push(format!(
            "{program} is another build than here\n  help: copy this one to every host"
        ));
    }
    let tmp = facts.tmp.to_string_lossy();
    for (directory, free) in [(&*tmp, facts.tmp_free), ("/dev/shm", facts.shm_free)] {
        if free.is_some_and(|free| free < agent::SCRATCH) {
            wrong.push(format!("{directory} is full, and MPI keeps files there"));
        }
    }
    if let Some(why) = &facts.no_place {
        wrong.push(format!("{why}: the program leaves a record there"));
    }
    if wrong.is_empty() { Ok(Some(facts)) } else { Err(Trouble::Wrong(wrong)) }
}

/// What the hosts are, unless the program cannot run on all of them.
fn usable(hosts: &[Host], checked: Vec<Checked>) -> Result<Vec<Option<Facts>>, Ending> {
    let (mut lost, mut wrong, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for (Host { name, .. }, checked) in hosts.iter().zip(checked) {
        match checked {
            Ok(facts) => {
                if facts.is_none() {
                    say(&format!(
                        "note: {name}: spmd is not there as it is here: the host is not watched"
                    ));
                }
                all.push(facts);
            }
            Err(trouble @ Trouble::Away(_)) => lost.push(format!("{name}: {}", trouble.why())),
            Err(Trouble::Wrong(what)) => {
                wrong.extend(what.into_iter().map(|what| format!("{name}: {what}")));
            }
        }
    }
    match (lost.is_empty(), wrong.is_empty()) {
        (true, true) => Ok(all),
        (false, _) => Err(Ending::LostHost(lost.join("\nerror: "))),
        (true, false) => Err(Ending::Failed(wrong.join("\nerror: "), 1)),
    }
}

/// Seconds, or a number with s, m or h behind it.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1.0),
        Some((at, 'm')) => (&text[..at], 60.0),
        Some((at, 'h')) => (&text[..at], 3600.0),
        _ => (text, 1.0),
    };
    let seconds = number.parse::<f64>().ok().filter(|seconds| *seconds > 0.0);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds * unit).ok())
        .ok_or_else(|| "a time is a number of seconds above 0, or like 10m or 2h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "0", "-1", "m", "1d", "inf", "NaN"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
