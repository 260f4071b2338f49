//! The agents of a run, seen from where it was started: one on each host, which is lost when it falls
//! silent.

use std::{
    env,
    ffi::OsStr,
    io::{self, BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    signal::Signal,
};

use super::{
    agent::{Facts, clock_s},
    link::{self, Link},
    way::Way,
    word::Left,
};
use crate::{hosts::Host, launcher::quoted};

/// How often agents are told that this host is there, and tell that theirs is.
const BEAT: Duration = Duration::from_secs(2);

/// After so long without an answer a host is lost. (A cable that was out for five seconds has carried
/// again what waited within eight.)
const SILENCE: Duration = Duration::from_secs(10);

/// How long a host may take to answer at first.
const FIRST: Duration = Duration::from_secs(20);

/// What was found out about a host: nothing if it has no `spmd`; else why it cannot be reached.
pub(super) type Found = Result<Option<Facts>, String>;

/// What is heard of the hosts, and of everything else that a run waits for.
pub(super) enum Event {
    Line(usize, String),
    /// The agent of a host has gone, with these words.
    Gone(usize, String),
    Signal(Signal),
}

/// The agents of all hosts of a run.
pub(super) struct Crew {
    members: Vec<Member>,
    pub(super) events: Sender<Event>,
    /// When events were last looked at.
    looked: Instant,
}

struct Member {
    host: String,
    agent: Child,
    words: Words,
    heard: Instant,
    /// Whether it has told its facts, and is there.
    serves: bool,
    /// It has told its facts, and has gone since.
    is_lost: bool,
    /// It was asked what the program has left, and has not answered.
    owes: bool,
}

/// What an agent is told through; none when it is told no more.
type Words = Arc<Mutex<Option<ChildStdin>>>;

/// Says a line to an agent; whether it went out, at least from here.
fn say_to(words: &Words, line: &str) -> bool {
    let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(words) = words.as_mut() else { return false };
    writeln!(words, "{line}").and_then(|()| words.flush()).is_ok()
}

impl Crew {
    /// Starts an agent on each host, which makes this directory there; where it is for a start of a
    /// supervised run, it ends what is left of earlier ones.
    ///
    /// # Errors
    /// If what starts them cannot be started, in words.
    pub(super) fn send(
        hosts: &[Host],
        way: &Way,
        token: &str,
        program: &Path,
        directory: Option<&Path>,
        after: Option<&str>,
    ) -> Result<(Self, Receiver<Event>), String> {
        // Each has three pipes.
        if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most); // else there may be too many
        }
        let (events, receiver) = mpsc::channel();
        let own = env::current_exe().map_err(|error| format!("the path of spmd: {error}"))?;
        let mut words = vec![own.as_os_str(), "host-agent".as_ref(), token.as_ref()];
        words.push(program.as_os_str());
        words.extend(directory.map(Path::as_os_str));
        if let Some(after) = after {
            words.extend([OsStr::new("--after"), OsStr::new(after)]);
        }
        let line: Vec<String> = words.iter().map(|word| quoted(&word.to_string_lossy())).collect();
        let no_thread = |error: io::Error| format!("no thread can be started: {error}");
        let mut members = Vec::new();
        for (index, host) in hosts.iter().enumerate() {
            let mut command = if is_here(&host.name) {
                let mut command = Command::new(&own);
                command.args(&words[1..]);
                command
            } else {
                way.command(&own, &host.name, &line.join(" "))
            };
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut agent = command.spawn().map_err(|error| {
                format!("{} cannot be started: {error}", command.get_program().display())
            })?;
            let words = Arc::new(Mutex::new(agent.stdin.take()));
            listen(index, &mut agent, events.clone()).map_err(no_thread)?;
            let (host, heard) = (host.name.clone(), Instant::now());
            let (serves, is_lost, owes) = (false, false, false);
            members.push(Member { host, agent, words, heard, serves, is_lost, owes });
        }
        beat(members.iter().map(|member| Arc::downgrade(&member.words)).collect())
            .map_err(no_thread)?;
        Ok((Self { members, events, looked: Instant::now() }, receiver))
    }

    /// What each host says of itself: nothing if it has another `spmd`, or none, and is not watched;
    /// else why it cannot be reached.
    ///
    /// # Errors
    /// A signal that came before all had answered.
    pub(super) fn facts(&mut self, events: &Receiver<Event>) -> Result<Vec<Found>, Signal> {
        let deadline = Instant::now() + FIRST;
        let mut facts: Vec<Option<Found>> = self.members.iter().map(|_| None).collect();
        while facts.iter().any(Option::is_none) {
            match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Line(index, line)) => {
                    self.hear(index);
                    // What a host's own start-up files print comes before.
                    if let Ok(told) = serde_json::from_str(&line) {
                        facts[index] = Some(Ok(Some(told)));
                        self.members[index].serves = true;
                    }
                }
                Ok(Event::Gone(index, text)) => {
                    self.lose(index);
                    let code = self.members[index].agent.wait().ok().and_then(|code| code.code());
                    // The shell of the host found no program of this name.
                    facts[index] = Some(if matches!(code, Some(126 | 127)) {
                        Ok(None)
                    } else {
                        let why = text.lines().rfind(|line| !line.trim().is_empty());
                        Err(why.unwrap_or("it hangs up").trim().to_owned())
                    });
                }
                Ok(Event::Signal(signal)) => return Err(signal),
                Err(_) => break,
            }
        }
        let silent = || Err(format!("no answer within {} s", FIRST.as_secs()));
        Ok(facts.into_iter().map(|facts| facts.unwrap_or_else(silent)).collect())
    }

    /// Says a line to an agent, and returns its answer; nothing if there is none.
    fn ask(&mut self, index: usize, line: &str, events: &Receiver<Event>) -> Option<String> {
        if !say_to(&self.members[index].words, line) {
            return None;
        }
        loop {
            match events.recv_timeout(FIRST).ok()? {
                Event::Line(from, line) => {
                    self.hear(from);
                    // A dot says that it is there.
                    if from == index && line != "." {
                        return Some(line);
                    }
                }
                Event::Gone(from, _) => {
                    self.lose(from);
                    if from == index {
                        return None;
                    }
                }
                Event::Signal(_) => {}
            }
        }
    }

    /// How far the clock of a host is ahead of that of this one, and the shortest round trip there, in
    /// seconds.
    pub(super) fn clock(&mut self, index: usize, events: &Receiver<Event>) -> Option<(f64, f64)> {
        const TIMES: usize = 5;
        let mut best: Option<(f64, f64)> = None;
        for _ in 0..TIMES {
            let before = clock_s();
            let line = self.ask(index, "clock", events)?;
            let after = clock_s();
            let told: f64 = line.strip_prefix("clock ")?.parse().ok()?;
            let trip = after - before;
            if best.is_none_or(|(_, shortest)| trip < shortest) {
                best = Some((told - f64::midpoint(before, after), trip));
            }
        }
        best
    }

    /// What the network between two hosts does, of which the second is reached by this name.
    ///
    /// # Errors
    /// Why it is not known, in words.
    pub(super) fn link(
        &mut self,
        from: usize,
        to: usize,
        name: &str,
        events: &Receiver<Event>,
    ) -> Result<Link, String> {
        let silent = || "no answer".to_owned();
        let word = link::word();
        let told = self.ask(to, &format!("listen {word}"), events).ok_or_else(silent)?;
        let Some(port) = told.strip_prefix("port ") else { return Err(told) };
        let line = format!("reach {name} {port} {word}");
        let told = self.ask(from, &line, events).ok_or_else(silent)?;
        let numbers = told.strip_prefix("link ").and_then(|text| text.split_once(' '));
        let numbers =
            numbers.and_then(|(trip, rate)| Some((trip.parse().ok()?, rate.parse().ok()?)));
        let (trip_s, bytes_per_s) = numbers.ok_or(told)?;
        Ok(Link { trip_s, bytes_per_s })
    }

    /// Waits a moment for news of the run; a host that is lost.
    pub(super) fn news(&mut self, events: &Receiver<Event>, moment: Duration) -> News {
        // This process was stopped, or had no CPU: nobody could be heard.
        if self.looked.elapsed() > BEAT {
            self.members.iter_mut().for_each(|member| member.heard = Instant::now());
        }
        self.looked = Instant::now();
        let mut next = events.recv_timeout(moment);
        // Silence is judged when all is heard that was said.
        loop {
            match next {
                Ok(Event::Line(index, line)) => {
                    self.hear(index);
                    if let Some(left) = Left::from_line(&line) {
                        self.members[index].owes = false;
                        return News::Left(left);
                    }
                    if let Some(told) = line.strip_prefix("progress ") {
                        return News::Progress(told.to_owned());
                    }
                }
                Ok(Event::Gone(index, _)) => return News::Lost(self.lose(index)),
                Ok(Event::Signal(signal)) => return News::Signal(signal),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
            next = events.recv_timeout(Duration::ZERO);
        }
        match self.members.iter().find(|member| member.is_silent()) {
            Some(member) => News::Lost(member.host.clone()),
            None => News::None,
        }
    }

    fn hear(&mut self, index: usize) {
        self.members[index].heard = Instant::now();
    }

    /// The agent of a host has gone; the host.
    fn lose(&mut self, index: usize) -> String {
        let member = &mut self.members[index];
        member.is_lost |= member.serves;
        member.serves = false;
        *member.words.lock().unwrap_or_else(PoisonError::into_inner) = None;
        member.host.clone()
    }

    /// Whether any host is watched.
    pub(super) fn serves(&self) -> bool {
        self.members.iter().any(|member| member.serves)
    }

    /// The hosts that have answered, and do not any more.
    pub(super) fn lost(&self) -> Vec<String> {
        let lost = self.members.iter().filter(|member| member.is_lost || member.is_silent());
        lost.map(|member| member.host.clone()).collect()
    }

    /// Says a line to all agents, each of which answers.
    pub(super) fn say_to_all(&self, line: &str) {
        for member in self.members.iter().filter(|member| member.serves) {
            say_to(&member.words, line); // whether it hears shows in its answers
        }
    }

    /// What the program has left on the hosts that answer, and what it has told last. Signals that
    /// come meanwhile are events still.
    pub(super) fn last(
        &mut self,
        events: &Receiver<Event>,
        progress: &mut dyn FnMut(&str),
    ) -> Last {
        self.say_to_all("progress");
        for member in self.members.iter_mut().filter(|member| member.serves) {
            member.owes = say_to(&member.words, "record");
        }
        let (mut left, mut signals) = (Left::NotBegun, Vec::new());
        while self.members.iter().any(|member| member.owes && member.serves && !member.is_silent())
        {
            match self.news(events, BEAT / 10) {
                News::Left(more) => left = left.max(more),
                News::Progress(told) => progress(&told),
                News::Signal(signal) => signals.push(signal),
                News::Lost(_) | News::None => {}
            }
        }
        for signal in signals {
            let _ = self.events.send(Event::Signal(signal)); // whoever asks has the receiver
        }
        Last { left, lost: self.lost().into_iter().next() }
    }

    /// The run is over: what is left of it is ended, on all hosts that can be reached; those where
    /// that is not certain.
    pub(super) fn dismiss(&mut self) -> Vec<String> {
        const FAREWELL: Duration = Duration::from_secs(5);
        for member in &self.members {
            say_to(&member.words, "end"); // it may have gone
            *member.words.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        let deadline = Instant::now() + FAREWELL;
        let mut uncertain = Vec::new();
        for member in &mut self.members {
            let mut code = None;
            while let Ok(status) = member.agent.try_wait() {
                code = status.and_then(|status| status.code());
                if status.is_some() {
                    break;
                }
                if Instant::now() > deadline || member.heard.elapsed() > SILENCE {
                    let _ = member.agent.kill(); // it may just have ended
                    let _ = member.agent.wait();
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
            if (member.serves || member.is_lost) && code != Some(0) {
                uncertain.push(member.host.clone());
            }
        }
        uncertain
    }
}

impl Member {
    fn is_silent(&self) -> bool {
        self.serves && self.heard.elapsed() > SILENCE
    }
}

/// What is known when a run is over.
pub(super) struct Last {
    /// The weightiest of what the program has left on the hosts.
    pub(super) left: Left,
    /// A host that does not answer.
    pub(super) lost: Option<String>,
}

/// What there is to know while a run goes on.
pub(super) enum News {
    None,
    Signal(Signal),
    /// This host is lost.
    Lost(String),
    Left(Left),
    /// What the program tells of its progress, in JSON.
    Progress(String),
}

/// Tells all agents, for as long as they are told anything, that this host is there.
fn beat(all: Vec<Weak<Mutex<Option<ChildStdin>>>>) -> io::Result<()> {
    if all.is_empty() {
        return Ok(());
    }
    let beats = move || {
        loop {
            thread::sleep(BEAT);
            let there: Vec<Words> = all.iter().filter_map(Weak::upgrade).collect();
            if there.is_empty() {
                return;
            }
            // Whether they hear it shows in their answers.
            for words in there {
                say_to(&words, "");
            }
        }
    };
    thread::Builder::new().spawn(beats).map(drop)
}

/// Whether that is a name of this host.
pub(super) fn is_here(name: &str) -> bool {
    let own = nix::unistd::gethostname().unwrap_or_default();
    ["localhost", "127.0.0.1"].contains(&name) || own.to_str() == Some(name)
}

/// Hands on what an agent says, and at last that it has gone.
fn listen(index: usize, child: &mut Child, events: Sender<Event>) -> io::Result<()> {
    let (out, complaints) = (child.stdout.take(), child.stderr.take());
    let listens = move || {
        if let Some(out) = out {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if events.send(Event::Line(index, line)).is_err() {
                    return;
                }
            }
        }
        let mut text = String::new();
        if let Some(mut complaints) = complaints {
            let _ = complaints.read_to_string(&mut text); // what can be told of it
        }
        let _ = events.send(Event::Gone(index, text)); // if anybody still waits
    };
    thread::Builder::new().spawn(listens).map(drop)
}
