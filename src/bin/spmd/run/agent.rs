//! This program on the hosts of a run: it tells what is there, answers for as long as the host lives,
//! and ends what is left of the run when it is over or the launcher's host is lost.
//!
//! Lines go both ways. The agent begins with its [`Facts`] as JSON; then each line is answered with
//! one: `clock` with the time; `listen WORD` with a port and `reach HOST PORT WORD` with what the
//! cable does ([`link`]); `record` with what the program has left as the record of the run on
//! this host, since hosts need not share a directory; `end` with the number of processes that were ended.

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::{Duration, Instant, SystemTime},
};

use clap::Args;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::{
    cores::cores,
    leftovers,
    link::{self, Link},
};
use crate::{hosts::Host, launcher::quoted};

/// How often both sides say that they are there.
const BEAT: Duration = Duration::from_secs(2);

/// After so long without an answer a host is lost. (A cable that was out for five seconds has carried
/// again what waited within eight.)
pub(super) const SILENCE: Duration = Duration::from_secs(10);

/// After so long without a word the launcher's host is lost.
const FORSAKEN: Duration = Duration::from_secs(16);

/// How long a host may take to answer at first.
const FIRST: Duration = Duration::from_secs(20);

/// With less room MPI does not start.
pub(super) const SCRATCH: u64 = 1 << 20;

#[derive(Args)]
pub(crate) struct Arguments {
    /// The run that it is for
    token: String,
    /// The program of the run
    program: PathBuf,
    /// Where it leaves its record
    record: PathBuf,
}

/// What is known of the end of a program on a host, the weightier the later.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Left {
    /// It never began there, or is no program of spmd.
    NotBegun,
    /// It began.
    Begun,
    /// It has left this.
    Record(String),
}

impl Left {
    /// Makes the file that a program removes when it begins.
    pub(super) fn prepare(record: &Path) -> io::Result<()> {
        fs::write(record, "")
    }

    pub(super) fn read(record: &Path) -> Self {
        match fs::read_to_string(record) {
            Ok(text) if text.is_empty() => Self::NotBegun,
            Ok(text) => Self::Record(text),
            Err(_) => Self::Begun,
        }
    }

    /// Of a host that could not be prepared nothing is known.
    fn line(&self) -> String {
        match self {
            Self::NotBegun => "not begun".to_owned(),
            Self::Begun => "begun".to_owned(),
            Self::Record(text) => format!("record {}", text.trim_end()),
        }
    }

    fn from_line(line: &str) -> Option<Self> {
        match line {
            "not begun" => Some(Self::NotBegun),
            "begun" => Some(Self::Begun),
            _ => line.strip_prefix("record ").map(|text| Self::Record(text.to_owned())),
        }
    }
}

/// What a host says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) host: String,
    /// Tells machines of one name apart.
    pub(crate) machine: String,
    pub(crate) cores: usize,
    /// Bytes.
    pub(crate) tmp_free: Option<u64>,
    pub(crate) shm_free: Option<u64>,
    /// Length and CRC-32 of the program, if it is there.
    pub(crate) program: Option<(u64, u32)>,
    /// The launcher of MPI that is first in its PATH, in its own words.
    pub(crate) mpi: Option<String>,
    /// The address that it was reached at, if it was reached by ssh.
    pub(crate) address: Option<String>,
}

impl Facts {
    pub(crate) fn of_this_host(program: &Path) -> Self {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default().trim().to_owned();
        let network = fs::read_link("/proc/self/ns/net").unwrap_or_default();
        let boot = read("/proc/sys/kernel/random/boot_id");
        let by_ssh = env::var("SSH_CONNECTION").ok();
        Self {
            host: nix::unistd::gethostname()
                .map_or_else(|_| "?".to_owned(), |name| name.to_string_lossy().into_owned()),
            machine: format!("{boot} {}", network.display()),
            cores: cores(),
            tmp_free: free(&env::temp_dir()),
            shm_free: free(Path::new("/dev/shm")),
            program: checksum(program),
            mpi: crate::launcher::Launcher::mpirun(None).ok().map(|launcher| launcher.version),
            address: by_ssh.and_then(|four| four.split(' ').nth(2).map(str::to_owned)),
        }
    }
}

/// The bytes that may still be written there.
fn free(directory: &Path) -> Option<u64> {
    let told = nix::sys::statvfs::statvfs(directory).ok()?;
    #[allow(clippy::unnecessary_cast)] // as wide as the system has them
    Some(told.blocks_available() as u64 * told.fragment_size() as u64)
}

fn checksum(program: &Path) -> Option<(u64, u32)> {
    let mut file = fs::File::open(program).ok()?;
    let (mut hasher, mut length, mut buffer) = (crc32fast::Hasher::new(), 0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some((length, hasher.finalize())),
            count => {
                hasher.update(&buffer[..count]);
                length += count as u64;
            }
        }
    }
}

/// Seconds since 1970.
fn clock_s() -> f64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since_1970.unwrap_or_default().as_secs_f64()
}

/// What was found out about a host: nothing if it has no `spmd`; else why it cannot be reached.
pub(super) type Found = Result<Option<Facts>, String>;

/// Serves one run on this host, until it is over.
pub(crate) fn serve(arguments: &Arguments) -> ExitCode {
    let answer = |line: &str| writeln!(io::stdout(), "{line}").and_then(|()| io::stdout().flush());
    let facts = Facts::of_this_host(&arguments.program);
    let text = serde_json::to_string(&facts).unwrap_or_default();
    let prepared = Left::prepare(&arguments.record).is_ok();
    let mut there = answer(&text).is_ok();
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    while there {
        match lines.recv_timeout(FORSAKEN) {
            Ok(line) if line == "end" => break,
            Ok(line) if line.starts_with("listen ") || line.starts_with("reach ") => {
                there = answer(&cable(&line)).is_ok();
            }
            Ok(line) if line == "record" => {
                let left = if prepared { Left::read(&arguments.record) } else { Left::NotBegun };
                there = answer(&left.line()).is_ok();
            }
            Ok(line) if line == "clock" => there = answer(&format!("clock {}", clock_s())).is_ok(),
            Ok(_) => there = answer(".").is_ok(),
            Err(_) => break,
        }
    }
    let ended = leftovers::end(&arguments.token);
    let _ = fs::remove_file(&arguments.record); // if it is there
    let _ = answer(&format!("ended {ended}")); // if anybody hears it
    ExitCode::SUCCESS
}

/// Does what a line about cables says.
fn cable(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    match *words {
        ["listen", word] => match link::listen(word.to_owned()) {
            Ok(port) => format!("port {port}"),
            Err(error) => format!("no port: {error}"),
        },
        ["reach", host, port, word] => {
            let port = port.parse().unwrap_or(0);
            match link::measure(host, port, word) {
                Ok(link) => format!("link {} {}", link.trip_s, link.bytes_per_s),
                Err(error) => format!("no link: {error}"),
            }
        }
        _ => "?".to_owned(),
    }
}

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
    beaten: Instant,
}

struct Member {
    host: String,
    agent: Option<Child>,
    words: Option<ChildStdin>,
    heard: Instant,
    /// Whether it has told its facts.
    serves: bool,
}

impl Crew {
    /// Starts an agent on each host.
    pub(super) fn send(
        hosts: &[Host],
        agent: Option<&str>,
        token: &str,
        program: &Path,
        record: &Path,
    ) -> (Self, Receiver<Event>) {
        let (events, receiver) = mpsc::channel();
        let own = env::current_exe().unwrap_or_else(|_| PathBuf::from("spmd"));
        let words = [
            own.as_os_str(),
            "host-agent".as_ref(),
            token.as_ref(),
            program.as_os_str(),
            record.as_os_str(),
        ];
        let line: Vec<String> = words.iter().map(|word| quoted(&word.to_string_lossy())).collect();
        let members = hosts.iter().enumerate().map(|(index, host)| {
            let mut command = if is_here(&host.name) {
                let mut command = Command::new(&own);
                command.args(&words[1..]);
                command
            } else if let Some(agent) = agent {
                let mut command = Command::new(agent);
                command.arg(&host.name).arg(line.join(" "));
                command
            } else {
                let mut command = Command::new("ssh");
                command.args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=10", &host.name]);
                command.arg(line.join(" "));
                command
            };
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut member = Member {
                host: host.name.clone(),
                agent: None,
                words: None,
                heard: Instant::now(),
                serves: false,
            };
            match command.spawn() {
                Ok(mut child) => {
                    member.words = child.stdin.take();
                    listen(index, &mut child, events.clone());
                    member.agent = Some(child);
                }
                Err(error) => {
                    let text = format!("{}: {error}", command.get_program().display());
                    let _ = events.send(Event::Gone(index, text));
                }
            }
            member
        });
        let members = members.collect();
        (Self { members, events, beaten: Instant::now() }, receiver)
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
                    // What a host's own start-up files print comes before.
                    if let Ok(told) = serde_json::from_str(&line) {
                        facts[index] = Some(Ok(Some(told)));
                        self.members[index].serves = true;
                        self.members[index].heard = Instant::now();
                    }
                }
                Ok(Event::Gone(index, text)) => {
                    let member = &mut self.members[index];
                    let code = member.agent.as_mut().and_then(|agent| agent.wait().ok()?.code());
                    member.serves = false;
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
        let words = self.members[index].words.as_mut()?;
        writeln!(words, "{line}").and_then(|()| words.flush()).ok()?;
        loop {
            match events.recv_timeout(FIRST).ok()? {
                Event::Line(from, line) if from == index => return Some(line),
                Event::Gone(from, _) if from == index => return None,
                _ => {}
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

    /// What the cable between two hosts does, of which the second is reached by this name.
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

    /// What an agent has said.
    pub(super) fn hear(&mut self, index: usize) {
        self.members[index].heard = Instant::now();
    }

    /// An agent has gone before it was dismissed: its host is lost.
    pub(super) fn lose(&self, index: usize) -> &str {
        &self.members[index].host
    }

    /// Tells all hosts that this one is there; returns one that has not answered for long.
    pub(super) fn beat(&mut self) -> Option<&str> {
        if self.beaten.elapsed() >= BEAT {
            self.beaten = Instant::now();
            for member in self.members.iter_mut().filter(|member| member.serves) {
                if let Some(words) = &mut member.words {
                    let _ = writeln!(words).and_then(|()| words.flush()); // silence is what counts
                }
            }
        }
        let silent = |member: &&Member| member.serves && member.heard.elapsed() > SILENCE;
        self.members.iter().find(silent).map(|member| member.host.as_str())
    }

    /// Whether any host is watched.
    pub(super) fn serves(&self) -> bool {
        self.members.iter().any(|member| member.serves)
    }

    /// What the program has left on the hosts: the weightiest.
    ///
    /// # Errors
    /// The name of a host that does not answer.
    pub(super) fn left(&mut self, events: &Receiver<Event>) -> Result<Left, String> {
        let mut open = 0;
        for member in self.members.iter_mut().filter(|member| member.serves) {
            if let Some(words) = &mut member.words {
                let _ = writeln!(words, "record").and_then(|()| words.flush()); // silence tells
                open += 1;
            }
        }
        let mut all = Left::NotBegun;
        while open > 0 {
            match events.recv_timeout(BEAT / 10) {
                Ok(Event::Line(index, line)) => {
                    self.hear(index);
                    if let Some(left) = Left::from_line(&line) {
                        all = all.max(left);
                        open -= 1;
                    }
                }
                Ok(Event::Gone(index, _)) => return Err(self.lose(index).to_owned()),
                Ok(Event::Signal(_)) | Err(_) => {}
            }
            if let Some(name) = self.beat() {
                return Err(name.to_owned());
            }
        }
        Ok(all)
    }

    /// The run is over: what is left of it is ended, on all hosts that can be reached.
    pub(super) fn dismiss(&mut self) {
        const FAREWELL: Duration = Duration::from_secs(5);
        for member in &mut self.members {
            if let Some(mut words) = member.words.take() {
                let _ = writeln!(words, "end"); // it may have gone
            }
        }
        let deadline = Instant::now() + FAREWELL;
        for member in &mut self.members {
            let Some(agent) = &mut member.agent else { continue };
            while agent.try_wait().is_ok_and(|status| status.is_none()) {
                if Instant::now() > deadline || member.heard.elapsed() > SILENCE {
                    let _ = agent.kill();
                    let _ = agent.wait();
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Whether that is a name of this host.
fn is_here(name: &str) -> bool {
    let own = nix::unistd::gethostname().unwrap_or_default();
    ["localhost", "127.0.0.1"].contains(&name) || own.to_str() == Some(name)
}

/// Hands on what an agent says, and at last that it has gone.
fn listen(index: usize, child: &mut Child, events: Sender<Event>) {
    let (out, complaints) = (child.stdout.take(), child.stderr.take());
    thread::spawn(move || {
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
    });
}
