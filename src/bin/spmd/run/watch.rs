//! A run from its start to its end: signals are handed on, hosts watched, and whatever ends, nothing
//! is left.

use std::{
    env,
    ffi::OsString,
    io::IsTerminal,
    os::unix::process::CommandExt,
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::mpsc::Receiver,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{SigSet, Signal, killpg},
    unistd::Pid,
};
use spmd::record::Record;

use super::{
    Ending, Options, Words,
    crew::{Crew, Event, Last, News},
    leftovers,
    plan::Plan,
    say,
    word::{Kept, Left, Place, record_in},
};
use crate::launcher::Kind;

/// Between the launcher's SIGTERM and its end.
const FAREWELL: Duration = Duration::from_secs(2);

/// The exit code of a run that somebody has ended.
pub(super) const INTERRUPTED: u8 = 130;

/// How often the launcher is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// How often a program that is to stop is asked to.
const REPEAT: Duration = Duration::from_secs(3);

/// Ranks are held to have begun after so long: a program that is none of spmd's never says so.
const BEGINNING: Duration = Duration::from_secs(3);

/// How often the program's progress is looked at.
const ASK: Duration = Duration::from_millis(250);

/// Becomes this command, which hears all signals.
pub(crate) fn become_launcher(Words { parent, killed, line }: &Words) -> ExitCode {
    const NOT_STARTED: u8 = 127;
    if let Err(error) = SigSet::all().thread_unblock() {
        say(&format!("error: signals cannot be heard: {error}"));
        return NOT_STARTED.into();
    }
    // Should the one that watches be killed, nobody else would end this.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_pdeathsig(if *killed { Signal::SIGKILL } else { Signal::SIGTERM });
    #[cfg(not(target_os = "linux"))]
    let _ = killed;
    if nix::unistd::getppid().as_raw() != *parent {
        return NOT_STARTED.into(); // it is gone already
    }
    let error = Command::new(&line[0]).args(&line[1..]).exec();
    say(&format!("error: {} cannot be started: {error}", line[0].display()));
    NOT_STARTED.into()
}

/// Why a run is ended before its time.
#[derive(Clone, PartialEq, Eq)]
enum Why {
    Asked(Signal),
    Time,
    LostHost(String),
    Hung(String),
}

/// Who looks on while a run goes on.
pub(super) trait Overseer {
    /// What the program tells of its progress, in JSON.
    fn told(&mut self, progress: &str);
    /// What is to become of the run; asked again and again.
    fn look(&mut self) -> Order;
}

pub(super) enum Order {
    GoOn,
    /// It is to stop when it can: a program that keeps checkpoints does at its next step.
    Stop,
    /// It is ended, for this reason.
    End(String),
}

/// A run that is over.
pub(super) struct Ended {
    pub(super) fate: Fate,
    /// Somebody has asked this process to end it, whatever befell it after that or before.
    pub(super) asked: Option<Signal>,
    /// Its time was up.
    pub(super) is_late: bool,
    /// When it ended, or was found to be lost.
    pub(super) at: Instant,
    /// The hosts that answer no more, or may have processes of it left.
    pub(super) lost: Vec<String>,
}

/// How a run has ended.
pub(super) enum Fate {
    /// The program has said so itself: its exit code, and why it failed.
    Told(u8, Option<String>),
    /// It never began, or is none of spmd's: how the launcher ended.
    NotBegun(ExitStatus),
    /// It began, and left no word.
    LostRank(ExitStatus),
    LostHost(String),
    Hung(String),
    Interrupted(Signal),
    Late,
    Unreadable(String),
}

/// How far the ending is.
struct Stop {
    why: Why,
    since: Instant,
    /// When the launcher gets SIGTERM, and when it is ended with all that belongs to it.
    term: Option<Instant>,
    kill: Instant,
    /// A signal that asks, and until when it is held back while the program has not begun: a launcher
    /// without ranks hands nothing on.
    ask: Option<(Signal, Instant)>,
}

impl Stop {
    /// At once.
    fn now(why: Why) -> Self {
        let now = Instant::now();
        Self { why, since: now, term: Some(now), kill: now + FAREWELL, ask: None }
    }

    /// Somebody does not want to wait.
    fn hurry(&mut self) {
        let now = Instant::now();
        self.term = Some(now);
        self.kill = self.kill.min(now + FAREWELL);
    }

    /// Does what is due.
    fn go_on(&mut self, child: &Child, token: &str, has_begun: bool) {
        let now = Instant::now();
        if let Some((signal, _)) = self.ask.take_if(|(_, until)| has_begun || now >= *until) {
            let _ = nix::sys::signal::kill(Pid::from_raw(child.id() as i32), signal); // it may have ended
        }
        if self.term.is_some_and(|term| now >= term) {
            self.term = None;
            signal_group(child, Signal::SIGTERM);
        }
        if now >= self.kill {
            signal_group(child, Signal::SIGKILL);
            leftovers::end(token);
        }
    }
}

/// Starts the launcher, or the program where its ranks are threads, and waits for the end.
pub(super) fn run(
    plan: &Plan,
    mut crew: Crew,
    events: &Receiver<Event>,
    options: &Options,
    mut overseer: Option<&mut dyn Overseer>,
) -> Result<Ended, Ending> {
    let failed = |text: String| Ending::Failed(text, 1);
    let placed = plan.place().map_err(failed)?;
    let kept = match &options.record {
        Some(file) => Some(Kept::prepare(file, &plan.token).map_err(failed)?),
        None => None,
    };
    // Hosts that are watched have theirs.
    let place =
        if crew.serves() { None } else { Some(Place::make(&plan.directory).map_err(failed)?) };
    let mut command = command(plan, plan.words(&placed)).map_err(failed)?;
    let started = Instant::now();
    let mut child = command
        .spawn()
        .map_err(|error| failed(format!("the launcher cannot be started: {error}")))?;
    let mut stop: Option<Stop> = None;
    // Kept apart from why it is ended, which may become another reason.
    let (mut asked, mut is_late) = (None, false);
    let (mut looked, mut stopped) = (Instant::now(), None::<Instant>);
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {}
            Err(error) => return Err(failed(format!("the launcher is lost: {error}"))),
        }
        match crew.news(events, LOOK) {
            News::Signal(signal) => {
                asked = asked.or(Some(signal));
                match &mut stop {
                    None => {
                        say(&format!("spmd run: {signal}: asking all ranks to stop"));
                        stop = Some(ask(plan, Why::Asked(signal), options.grace));
                    }
                    Some(stop) => stop.hurry(),
                }
            }
            News::Lost(name) => {
                let known = |stop: &Stop| matches!(stop.why, Why::LostHost(_));
                if !stop.as_ref().is_some_and(known) {
                    say(&format!("spmd run: {name} does not answer any more: ending the run"));
                    stop = Some(Stop::now(Why::LostHost(name)));
                }
            }
            News::Progress(told) => {
                if let Some(overseer) = &mut overseer {
                    overseer.told(&told);
                }
            }
            News::Left(_) | News::None => {}
        }
        if stop.is_none() && plan.walltime.is_some_and(|time| started.elapsed() > time) {
            say("spmd run: the time is up");
            is_late = true;
            stop = Some(ask(plan, Why::Time, options.grace));
        }
        if let Some(overseer) = &mut overseer {
            if looked.elapsed() > ASK {
                looked = Instant::now();
                match &place {
                    Some(place) => place.progress().iter().for_each(|told| overseer.told(told)),
                    None => crew.say_to_all("progress"),
                }
            }
            match overseer.look() {
                // Again and again: a file that could not be written may be the next time.
                Order::Stop if stopped.is_none_or(|at| at.elapsed() > REPEAT) => {
                    stopped = Some(Instant::now());
                    match &place {
                        Some(place) => place.stop(),
                        None => crew.say_to_all("stop"),
                    }
                }
                Order::End(why) if stop.is_none() => {
                    say(&format!("spmd run: {why}: ending the run"));
                    stop = Some(Stop::now(Why::Hung(why)));
                }
                _ => {}
            }
        }
        if let Some(stop) = &mut stop {
            let has_begun = place.as_ref().is_none_or(|place| place.left() != Left::NotBegun);
            stop.go_on(&child, &plan.token, has_begun);
        }
    };
    let at = stop.as_ref().map_or_else(Instant::now, |stop| stop.since);
    let why = stop.map(|stop| stop.why);
    let mut progress = |told: &str| overseer.iter_mut().for_each(|overseer| overseer.told(told));
    let last = if let Some(place) = &place {
        place.progress().iter().for_each(|told| progress(told));
        Last { left: place.left(), lost: None }
    } else {
        // Should the launcher have noticed first that a host is lost, this tells; and the program may
        // have been done before one was.
        crew.last(events, &mut progress)
    };
    let lost = end_all(plan, &mut crew, why.is_some());
    let (fate, record) = verdict(last, why, status);
    if let (Some(text), Some(kept)) = (record, kept) {
        kept.write(&text).map_err(failed)?;
    }
    Ok(Ended { fate, asked, is_late, at, lost })
}

/// What starts the launcher, or the program where its ranks are threads.
fn command(plan: &Plan, words: Vec<OsString>) -> Result<Command, String> {
    // A process inherits which signals are blocked: this program opens them again and becomes the
    // launcher.
    let own = env::current_exe().map_err(|error| format!("the path of spmd: {error}"))?;
    let mut command = Command::new(own);
    command
        .args(["become", "--parent", &std::process::id().to_string()])
        // A program would only be asked.
        .args(plan.launcher.is_none().then_some("--killed"))
        .args(&words)
        .envs(plan.variables.iter().cloned())
        .env("SPMD_RECORD", record_in(&plan.directory));
    command.env_remove("SRUN_CPUS_PER_TASK");
    // A signal from the terminal comes here alone; a group that has no terminal may not read from it.
    command.process_group(0);
    if std::io::stdin().is_terminal() {
        command.stdin(Stdio::null());
    }
    Ok(command)
}

/// Ends what the launcher has left; the hosts that are lost.
fn end_all(plan: &Plan, crew: &mut Crew, is_expected: bool) -> Vec<String> {
    let here = leftovers::end(&plan.token);
    let mut lost = crew.lost();
    lost.extend(crew.dismiss());
    lost.sort_unstable();
    lost.dedup();
    if here > 0 && !is_expected {
        let processes = if here == 1 { "process was" } else { "processes were" };
        say(&format!("spmd run: {here} {processes} left, and ended"));
    }
    lost
}

/// How the run has ended, and the record of that.
fn verdict(last: Last, why: Option<Why>, status: ExitStatus) -> (Fate, Option<String>) {
    let text = match &last.left {
        Left::Record(text) => Some(text.clone()),
        Left::Begun | Left::NotBegun => None,
    };
    let record = text.as_ref().map(|text| Record::parse(text));
    let lost = match (last.lost, &why) {
        (_, Some(Why::LostHost(name))) => Some(name.clone()),
        (lost, _) => lost,
    };
    let fate = match (record, lost, why) {
        // It was done, whatever became of a host or a launcher then.
        (Some(Ok(record)), ..) if record.exit_code == 0 => Fate::Told(0, None),
        (_, Some(name), _) => return (Fate::LostHost(name), None),
        (Some(Ok(record)), ..) => {
            Fate::Told(record.exit_code, record.failed.map(|failed| failed.why))
        }
        (Some(Err(error)), ..) => Fate::Unreadable(error),
        (.., Some(Why::Asked(signal))) => Fate::Interrupted(signal),
        (.., Some(Why::Hung(why))) => Fate::Hung(why),
        (.., Some(Why::Time)) => Fate::Late,
        (.., None | Some(Why::LostHost(_))) => match last.left {
            Left::NotBegun => Fate::NotBegun(status),
            Left::Begun | Left::Record(_) => Fate::LostRank(status),
        },
    };
    (fate, text)
}

impl Fate {
    /// As a run that is not repeated ends.
    pub(super) fn ending(self) -> Ending {
        match self {
            Self::Told(code, _) => Ending::Ended(code),
            Self::NotBegun(status) => match status.code() {
                Some(code) => Ending::Ended(code as u8),
                None => Ending::Failed(format!("the launcher ended with {status}"), 1),
            },
            Self::LostRank(status) => Ending::Failed(
                format!(
                    "a rank is lost: the program left no word of its end, the launcher ended with {status}"
                ),
                4,
            ),
            Self::LostHost(name) => Ending::LostHost(format!(
                "{name} is lost, and with it the run\n  help: start it again on the other hosts; a program that keeps \
                 checkpoints goes on from the last one"
            )),
            Self::Hung(why) => Ending::Failed(why, 4),
            Self::Interrupted(signal) => Ending::Failed(format!("ended by {signal}"), INTERRUPTED),
            Self::Late => Ending::Failed("ended: it took longer than --walltime".to_owned(), 4),
            Self::Unreadable(error) => Ending::Failed(format!("the record of the run: {error}"), 1),
        }
    }
}

/// Asks all ranks to stop, by a signal that the launcher hands on, leaving them their time.
fn ask(plan: &Plan, why: Why, grace: Duration) -> Stop {
    let signal = match plan.launcher.as_ref().map(|launcher| launcher.kind) {
        // It keeps SIGUSR1 to itself, and waits for ranks that it hands SIGTERM on to.
        Some(Kind::Hydra) => Signal::SIGTERM,
        // Open MPI ends ranks a second or two after SIGTERM.
        _ => Signal::SIGUSR1,
    };
    let since = Instant::now();
    let term = since + grace;
    let ask = Some((signal, since + BEGINNING));
    Stop { why, since, term: Some(term), kill: term + FAREWELL, ask }
}

/// Signals the launcher and what is in its group. It has not been waited for: the number is its own.
fn signal_group(child: &Child, signal: Signal) {
    let _ = killpg(Pid::from_raw(child.id() as i32), signal); // it may just have ended
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_program_that_was_done_is_not_lost_with_a_host() {
        let record = |code: u8| {
            Left::Record(format!(
                r#"{{"format":1,"spmd":"","program":"","arguments":[],"variables":{{}},"started_s":0,"engine":"mpi",
                "library":"","launcher":null,"ranks":1,"exit_code":{code},"failed":null,"by_rank":[]}}"#
            ))
        };
        let fate = |left: Left, lost: Option<&str>, why: Option<Why>| {
            let last = Last { left, lost: lost.map(str::to_owned) };
            verdict(last, why, ExitStatus::from_raw(0)).0
        };
        let gone = || Some(Why::LostHost("b".to_owned()));
        for (lost, why) in [(Some("b"), None), (None, gone()), (Some("b"), gone()), (None, None)] {
            assert!(matches!(fate(record(0), lost, why), Fate::Told(0, _)), "{lost:?}");
        }
        for left in [record(4), Left::Begun, Left::NotBegun] {
            assert!(matches!(fate(left.clone(), Some("b"), None), Fate::LostHost(_)), "{left:?}");
            assert!(matches!(fate(left.clone(), None, gone()), Fate::LostHost(_)), "{left:?}");
        }
        assert!(matches!(fate(record(3), None, None), Fate::Told(3, _)));
        assert!(matches!(fate(Left::Begun, None, None), Fate::LostRank(_)));
        assert!(matches!(fate(Left::NotBegun, None, None), Fate::NotBegun(_)));
        let asked = Some(Why::Asked(Signal::SIGTERM));
        assert!(matches!(fate(Left::Begun, None, asked), Fate::Interrupted(_)));
    }
}
