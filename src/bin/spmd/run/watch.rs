//! A run from its start to its end: signals are handed on, hosts watched, and whatever ends, nothing
//! is left.

use std::{
    env,
    ffi::OsString,
    fs,
    io::IsTerminal,
    os::unix::process::CommandExt,
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender},
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
    agent::{Crew, Event, Left},
    leftovers,
    plan::Plan,
    say,
};

/// What a user or a batch system sends.
const HEARD: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGHUP];

/// Between the launcher's SIGTERM and its end.
const FAREWELL: Duration = Duration::from_secs(2);

/// The exit code of a run that somebody has ended.
pub(super) const INTERRUPTED: u8 = 130;

/// How often the launcher is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// From now on signals do nothing in this thread and those that it starts, but wait.
///
/// # Errors
/// In words.
pub(super) fn block_signals() -> Result<(), String> {
    let set: SigSet = HEARD.into_iter().collect();
    set.thread_block().map_err(|error| format!("signals cannot be heard: {error}"))
}

/// From now on they are events.
pub(super) fn hear_signals(events: Sender<Event>) {
    thread::spawn(move || {
        let set: SigSet = HEARD.into_iter().collect();
        while let Ok(signal) = set.wait() {
            if events.send(Event::Signal(signal)).is_err() {
                break;
            }
        }
    });
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
    if !crew.serves() {
        Left::prepare(&plan.record).map_err(|error| {
            failed(format!(
                "{}: {error}\n  help: the program leaves a record of its end there",
                plan.record.display()
            ))
        })?;
    }
    let words = plan.words(&placed);
    // A process inherits which signals are blocked: this program opens them again and becomes the
    // launcher.
    let own = env::current_exe().map_err(|error| failed(format!("where am I? {error}")))?;
    let mut command = Command::new(own);
    command
        .arg("become")
        .args(&words)
        .envs(plan.variables.iter().cloned())
        .env("SPMD_RECORD", &plan.record);
    command.env_remove("SRUN_CPUS_PER_TASK");
    // A signal from the terminal comes here alone; a group that has no terminal may not read from it.
    command.process_group(0);
    if std::io::stdin().is_terminal() {
        command.stdin(Stdio::null());
    }
    let started = Instant::now();
    let mut child = command.spawn().map_err(|error| {
        let _ = fs::remove_file(&plan.record); // it was written above
        failed(format!("the launcher cannot be started: {error}"))
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
    conclude(plan, options, crew, &events, stop.map(|stop| stop.why), status)
}

/// The launcher has ended: what is left is ended too, and the run judged.
fn conclude(
    plan: &Plan,
    options: &Options,
    mut crew: Crew,
    events: &Receiver<Event>,
    why: Option<Why>,
    status: ExitStatus,
) -> Result<Ending, Ending> {
    let left = if crew.serves() { crew.left(events) } else { Ok(Left::read(&plan.record)) };
    let here = leftovers::end(&plan.token);
    crew.dismiss();
    let _ = fs::remove_file(&plan.record); // if it is here
    if here > 0 && why.is_none() {
        say(&format!("spmd run: {here} processes were left and have been ended"));
    }
    let code = status.code().map(|code| code as u8);
    // The launcher may have noticed first.
    let lost = match (&why, &left) {
        (Some(Why::LostHost(name)), _) | (_, Err(name)) => Some(name.clone()),
        _ => None,
    };
    if let Some(name) = lost {
        return Ok(Ending::LostHost(format!(
            "{name} is lost, and with it the run\n  help: start it again on the other hosts; a program that keeps \
             checkpoints goes on from the last one"
        )));
    }
    let left = left.unwrap_or(Left::NotBegun);
    if let (Left::Record(text), Some(file)) = (&left, &options.record) {
        fs::write(file, text)
            .map_err(|error| Ending::Failed(format!("{}: {error}", file.display()), 1))?;
    }
    Ok(match (left, why) {
        // Whatever the launcher thinks of it.
        (Left::Record(text), _) => match Record::parse(&text) {
            Ok(record) => Ending::Ended(record.exit_code),
            Err(error) => Ending::Failed(format!("the record of the run: {error}"), 1),
        },
        (_, Some(Why::Asked(signal))) => Ending::Failed(format!("ended by {signal}"), INTERRUPTED),
        (_, Some(_)) => Ending::Failed("ended: it took longer than --walltime".to_owned(), 4),
        (Left::NotBegun, None) => match code {
            Some(code) => Ending::Ended(code),
            None => Ending::Failed(format!("the launcher ended with {status}"), 1),
        },
        (Left::Begun, None) => Ending::Failed(
            format!(
                "a rank is lost: the program left no word of its end, the launcher ended with {status}"
            ),
            code.filter(|&code| code != 0 && code < 128).unwrap_or(4),
        ),
    })
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
