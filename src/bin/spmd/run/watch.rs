//! A run from its start to its end: signals are handed on, hosts watched, and whatever ends, nothing
//! is left.

use std::{
    fs,
    io::IsTerminal,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError},
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
    agent::{Crew, Event, SILENCE},
    leftovers,
    plan::Plan,
    say,
};

/// What a user or a batch system sends.
const HEARD: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGHUP];

/// Between the launcher's SIGTERM and its end.
const FAREWELL: Duration = Duration::from_secs(2);

/// How often the launcher is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// From now on signals wait until [`run`] hears them, in this thread and those that it starts.
///
/// # Errors
/// In words.
pub(super) fn block_signals() -> Result<(), String> {
    let set: SigSet = HEARD.into_iter().collect();
    set.thread_block().map_err(|error| format!("signals cannot be heard: {error}"))
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
    let record = plan.record(options.record.as_deref());
    // A program that begins removes it: what did not begin is told from what did not end.
    fs::write(&record, "").map_err(|error| {
        failed(format!(
            "{}: {error}\n  help: the run leaves a record; run in a directory that can be written to, or name another \
             with --record",
            record.display()
        ))
    })?;
    let words = plan.words(&placed);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).envs(plan.variables.iter().cloned()).env("SPMD_RECORD", &record);
    command.env_remove("SRUN_CPUS_PER_TASK");
    // A signal from the terminal comes here alone; a group that has no terminal may not read from it.
    command.process_group(0);
    if std::io::stdin().is_terminal() {
        command.stdin(Stdio::null());
    }
    let signals = crew.events.clone();
    thread::spawn(move || {
        let set: SigSet = HEARD.into_iter().collect();
        while let Ok(signal) = set.wait() {
            if signals.send(Event::Signal(signal)).is_err() {
                break;
            }
        }
    });
    let started = Instant::now();
    let mut child = command.spawn().map_err(|error| {
        let _ = fs::remove_file(&record); // it was written above
        failed(format!("{} cannot be started: {error}", words[0].display()))
    })?;
    let mut stop: Option<Stop> = None;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {}
            Err(error) => return Err(failed(format!("the launcher is lost: {error}"))),
        }
        let lost = hear(&events, &mut crew, &child, options.grace, &mut stop);
        if let Some(name) = lost {
            let still = stop.as_ref().is_none_or(|stop| !matches!(stop.why, Why::LostHost(_)));
            if still {
                let now = Instant::now();
                say(&format!("spmd run: {name} does not answer any more: ending the run"));
                stop =
                    Some(Stop { why: Why::LostHost(name), term: Some(now), kill: now + FAREWELL });
            }
        }
        if stop.is_none() && options.walltime.is_some_and(|time| started.elapsed() > time) {
            say("spmd run: the time is up");
            stop = Some(ask(&child, Why::Time, options.grace));
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
    let written = fs::read_to_string(&record);
    let judged = judge(&record, written.as_deref().ok(), status);
    // The launcher may have noticed first that a host is lost.
    let lost = match (&stop, &judged) {
        (Some(Stop { why: Why::LostHost(name), .. }), _) => Some(name.clone()),
        (None, Judged::Lost) => find_lost(&events, &mut crew),
        _ => None,
    };
    let here = leftovers::end(&plan.token);
    crew.dismiss();
    if here > 0 && stop.is_none() {
        say(&format!("spmd run: {here} processes were left and have been ended"));
    }
    if options.record.is_none() || matches!(judged, Judged::NotBegun) {
        let _ = fs::remove_file(&record); // where it is
    }
    Ok(verdict(judged, lost, stop.map(|stop| stop.why), status))
}

/// What the program says of its end.
enum Judged {
    /// Its own exit code.
    Record(u8),
    /// It began, and left no word.
    Lost,
    /// It never began, or is no program of spmd.
    NotBegun,
}

fn judge(file: &Path, written: Option<&str>, status: ExitStatus) -> Judged {
    match written {
        Some("") => Judged::NotBegun,
        Some(_) => match Record::read(file) {
            Ok(record) => Judged::Record(record.exit_code),
            Err(error) => {
                say(&format!("spmd run: {error}"));
                Judged::Record(status.code().map_or(1, |code| code as u8))
            }
        },
        None => Judged::Lost,
    }
}

fn verdict(judged: Judged, lost: Option<String>, why: Option<Why>, status: ExitStatus) -> Ending {
    const INTERRUPTED: u8 = 130;
    if let Some(name) = lost {
        return Ending::LostHost(format!(
            "{name} is lost, and with it the run\n  help: start it again on the other hosts; a program that keeps \
             checkpoints goes on from the last one"
        ));
    }
    let code = status.code().map(|code| code as u8);
    match (judged, why) {
        // Whatever the launcher thinks of it.
        (Judged::Record(code), _) => Ending::Ended(code),
        (_, Some(Why::Asked(signal))) => Ending::Failed(format!("ended by {signal}"), INTERRUPTED),
        (_, Some(_)) => Ending::Failed("ended: it took longer than --walltime".to_owned(), 4),
        (Judged::NotBegun, None) => match code {
            Some(code) => Ending::Ended(code),
            None => Ending::Failed(format!("the launcher ended by {status}"), 1),
        },
        (Judged::Lost, None) => {
            let how = match (code, status.signal()) {
                (Some(code), _) => format!("the launcher ended with {code}"),
                (None, signal) => format!("the launcher ended by signal {}", signal.unwrap_or(0)),
            };
            Ending::Failed(
                format!(
                    "the program left no word of its end ({how}): a rank is lost, or rank 0 cannot write where this \
                     runs\n  help: hosts have to share the directory, or name one that they do with --record"
                ),
                code.filter(|&code| code != 0 && code < 128).unwrap_or(4),
            )
        }
    }
}

/// Waits a moment for news; returns a host that is lost.
fn hear(
    events: &Receiver<Event>,
    crew: &mut Crew,
    child: &Child,
    grace: Duration,
    stop: &mut Option<Stop>,
) -> Option<String> {
    match events.recv_timeout(LOOK) {
        Ok(Event::Line(index, _)) => crew.hear(index),
        Ok(Event::Gone(index, _)) => return Some(crew.lose(index).to_owned()),
        Ok(Event::Signal(signal)) => match stop {
            None => {
                say(&format!("spmd run: {signal}: asking all ranks to stop"));
                *stop = Some(ask(child, Why::Asked(signal), grace));
            }
            Some(stop) => {
                let now = Instant::now();
                stop.term = Some(now);
                stop.kill = stop.kill.min(now + FAREWELL);
            }
        },
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
    }
    crew.beat().map(str::to_owned)
}

/// Asks all ranks to stop: launchers hand this signal on, and leave the ranks their time.
fn ask(child: &Child, why: Why, grace: Duration) -> Stop {
    let _ = nix::sys::signal::kill(Pid::from_raw(child.id() as i32), Signal::SIGUSR1);
    let term = Instant::now() + grace;
    Stop { why, term: Some(term), kill: term + FAREWELL }
}

/// Signals the launcher and what is in its group. It has not been waited for: the number is its own.
fn signal_group(child: &Child, signal: Signal) {
    let _ = killpg(Pid::from_raw(child.id() as i32), signal); // it may just have ended
}

/// A host that does not answer, after a run has ended without a word.
fn find_lost(events: &Receiver<Event>, crew: &mut Crew) -> Option<String> {
    let since = Instant::now();
    while !crew.all_heard_since(since) && since.elapsed() < 2 * SILENCE {
        match events.recv_timeout(LOOK) {
            Ok(Event::Line(index, _)) => crew.hear(index),
            Ok(Event::Gone(index, _)) => return Some(crew.lose(index).to_owned()),
            Ok(Event::Signal(_)) => return None,
            Err(_) => {}
        }
        if let Some(name) = crew.beat() {
            return Some(name.to_owned());
        }
    }
    None
}
