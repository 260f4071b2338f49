//! A run from its start to its end: signals are handed on, hosts watched, and whatever ends, nothing
//! is left.

use std::{
    env,
    ffi::OsString,
    fs,
    io::IsTerminal,
    os::unix::process::CommandExt,
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::mpsc::{Receiver, Sender},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{SigSet, Signal, killpg},
    unistd::Pid,
};
use spmd::record::Record;

use super::{
    Ending, Options,
    crew::{Crew, Event, News},
    leftovers,
    plan::Plan,
    say,
    word::{Kept, Left, Place, record_in},
};
use crate::launcher::Kind;

/// What a user or a batch system sends.
const HEARD: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGHUP];

/// Between the launcher's SIGTERM and its end.
const FAREWELL: Duration = Duration::from_secs(2);

/// The exit code of a run that somebody has ended.
pub(super) const INTERRUPTED: u8 = 130;

/// How often the launcher is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// From now on signals do nothing in this thread and those that it starts, but wait. To suspend this
/// process alone would make all hosts believe that this one is lost.
///
/// # Errors
/// In words.
pub(super) fn block_signals() -> Result<(), String> {
    let mut set = heard();
    set.add(Signal::SIGTSTP);
    set.thread_block().map_err(|error| format!("signals cannot be heard: {error}"))
}

/// From now on they are events.
pub(super) fn hear_signals(events: Sender<Event>) {
    thread::spawn(move || {
        while let Ok(signal) = heard().wait() {
            if events.send(Event::Signal(signal)).is_err() {
                break;
            }
        }
    });
}

/// Those that this process was not told to ignore, as by nohup: a blocked signal would be heard even
/// then.
fn heard() -> SigSet {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    HEARD.into_iter().filter(|signal| ignored & 1 << (*signal as u32 - 1) == 0).collect()
}

/// Becomes this command, which hears all signals.
pub(crate) fn become_launcher(words: &[OsString]) -> ExitCode {
    const NOT_STARTED: u8 = 127;
    if let Err(error) = SigSet::all().thread_unblock() {
        say(&format!("error: signals cannot be heard: {error}"));
        return NOT_STARTED.into();
    }
    // Should the one that watches be killed, nobody else would end this.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGTERM);
    let error = Command::new(&words[0]).args(&words[1..]).exec();
    say(&format!("error: {} cannot be started: {error}", words[0].display()));
    NOT_STARTED.into()
}

/// Why a run is ended before its time.
#[derive(Clone, PartialEq, Eq)]
enum Why {
    Asked(Signal),
    Time,
    LostHost(String),
}

/// How far the ending is.
struct Stop {
    why: Why,
    /// When the launcher gets SIGTERM, and when it is ended with all that belongs to it.
    term: Option<Instant>,
    kill: Instant,
}

/// Starts the launcher and waits for the end.
pub(super) fn run(
    plan: &Plan,
    mut crew: Crew,
    events: Receiver<Event>,
    options: &Options,
) -> Result<Ending, Ending> {
    let failed = |text: String| Ending::Failed(text, 1);
    let placed = plan.place().map_err(failed)?;
    let kept = match &options.record {
        Some(file) => Some(Kept::prepare(file, &plan.token).map_err(failed)?),
        None => None,
    };
    // Hosts that are watched have theirs.
    let place =
        if crew.serves() { None } else { Some(Place::make(&plan.directory).map_err(failed)?) };
    let words = plan.words(&placed);
    // A process inherits which signals are blocked: this program opens them again and becomes the
    // launcher.
    let own = env::current_exe().map_err(|error| failed(format!("the path of spmd: {error}")))?;
    let mut command = Command::new(own);
    command
        .arg("become")
        .args(&words)
        .envs(plan.variables.iter().cloned())
        .env("SPMD_RECORD", record_in(&plan.directory));
    command.env_remove("SRUN_CPUS_PER_TASK");
    // A signal from the terminal comes here alone; a group that has no terminal may not read from it.
    command.process_group(0);
    if std::io::stdin().is_terminal() {
        command.stdin(Stdio::null());
    }
    let started = Instant::now();
    let mut child = command
        .spawn()
        .map_err(|error| failed(format!("the launcher cannot be started: {error}")))?;
    let mut stop: Option<Stop> = None;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {}
            Err(error) => return Err(failed(format!("the launcher is lost: {error}"))),
        }
        match crew.news(&events, LOOK) {
            News::Signal(signal) => match &mut stop {
                None => {
                    say(&format!("spmd run: {signal}: asking all ranks to stop"));
                    stop = Some(ask(plan, &child, Why::Asked(signal), options.grace));
                }
                Some(stop) => {
                    let now = Instant::now();
                    stop.term = Some(now);
                    stop.kill = stop.kill.min(now + FAREWELL);
                }
            },
            News::Lost(name) => {
                let known = |stop: &Stop| matches!(stop.why, Why::LostHost(_));
                if !stop.as_ref().is_some_and(known) {
                    let now = Instant::now();
                    say(&format!("spmd run: {name} does not answer any more: ending the run"));
                    let (term, kill) = (Some(now), now + FAREWELL);
                    stop = Some(Stop { why: Why::LostHost(name), term, kill });
                }
            }
            News::Left(_) | News::None => {}
        }
        if stop.is_none() && options.walltime.is_some_and(|time| started.elapsed() > time) {
            say("spmd run: the time is up");
            stop = Some(ask(plan, &child, Why::Time, options.grace));
        }
        if let Some(stop) = &mut stop {
            let now = Instant::now();
            if stop.term.is_some_and(|term| now >= term) {
                stop.term = None;
                signal_group(&child, Signal::SIGTERM);
            }
            if now >= stop.kill {
                signal_group(&child, Signal::SIGKILL);
                leftovers::end(&plan.token);
            }
        }
    };
    let why = stop.map(|stop| stop.why);
    let left = match (&why, &place) {
        (Some(Why::LostHost(name)), _) => Err(name.clone()),
        (_, Some(place)) => Ok(place.left()),
        // Should the launcher have noticed first that a host is lost, this tells.
        (_, None) => crew.left(&events),
    };
    end_all(plan, &mut crew, why.is_some());
    let left = left.map_err(|name| {
        Ending::LostHost(format!(
            "{name} is lost, and with it the run\n  help: start it again on the other hosts; a program that keeps \
             checkpoints goes on from the last one"
        ))
    })?;
    if let (Left::Record(text), Some(kept)) = (&left, kept) {
        kept.write(text).map_err(failed)?;
    }
    Ok(verdict(left, why, status))
}

/// Ends what the launcher has left.
fn end_all(plan: &Plan, crew: &mut Crew, is_expected: bool) {
    let here = leftovers::end(&plan.token);
    crew.dismiss();
    if here > 0 && !is_expected {
        let processes = if here == 1 { "process was" } else { "processes were" };
        say(&format!("spmd run: {here} {processes} left, and ended"));
    }
}

/// How the run has ended.
fn verdict(left: Left, why: Option<Why>, status: ExitStatus) -> Ending {
    match (left, why) {
        // Whatever the launcher thinks of it.
        (Left::Record(text), _) => match Record::parse(&text) {
            Ok(record) => Ending::Ended(record.exit_code),
            Err(error) => Ending::Failed(format!("the record of the run: {error}"), 1),
        },
        (_, Some(Why::Asked(signal))) => Ending::Failed(format!("ended by {signal}"), INTERRUPTED),
        (_, Some(_)) => Ending::Failed("ended: it took longer than --walltime".to_owned(), 4),
        (Left::NotBegun, None) => match status.code() {
            Some(code) => Ending::Ended(code as u8),
            None => Ending::Failed(format!("the launcher ended with {status}"), 1),
        },
        (Left::Begun, None) => Ending::Failed(
            format!(
                "a rank is lost: the program left no word of its end, the launcher ended with {status}"
            ),
            4,
        ),
    }
}

/// Asks all ranks to stop, by a signal that the launcher hands on, leaving them their time.
fn ask(plan: &Plan, child: &Child, why: Why, grace: Duration) -> Stop {
    let signal = match plan.launcher.as_ref().map(|launcher| launcher.kind) {
        // It keeps SIGUSR1 to itself, and waits for ranks that it hands SIGTERM on to.
        Some(Kind::Hydra) => Signal::SIGTERM,
        // Open MPI ends ranks a second or two after SIGTERM.
        _ => Signal::SIGUSR1,
    };
    let _ = nix::sys::signal::kill(Pid::from_raw(child.id() as i32), signal); // it may have ended
    let term = Instant::now() + grace;
    Stop { why, term: Some(term), kill: term + FAREWELL }
}

/// Signals the launcher and what is in its group. It has not been waited for: the number is its own.
fn signal_group(child: &Child, signal: Signal) {
    let _ = killpg(Pid::from_raw(child.id() as i32), signal); // it may just have ended
}
