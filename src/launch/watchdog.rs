//! Ends a job in which a rank waits for too long, with a report of what every rank does.
//!
//! A rank that hangs is inside MPI, and its other threads may not call MPI. So each rank has a
//! thread that watches it from before MPI is initialised. At first it speaks for itself. Once
//! messages have come through it keeps a line of TCP to that of rank 0: it says there that its rank
//! waits for too long, and, asked, what it does. Where no line can be had, or one is cut, every
//! rank speaks for itself again; so ranks of a host that was cut off end, too.
//!
//! A rank that does nothing, in no call of ours, may wait for what never comes (at a channel, say),
//! or just sleep. The job is ended for that only where all ranks do nothing.

use std::{
    collections::BTreeSet,
    io::{self, BufRead, BufReader, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use super::{
    identity::Identity,
    idle::{self, Idle},
    print_line, processes,
};
use crate::{
    comm::Comm,
    engine::mpi::{MpiEngine, Standing, Watch},
    error::Failure,
    placement::{Place, host},
    process::leave,
};

/// How long ranks have to tell what they do before the report goes out without them.
const REPORT_TIME: Duration = Duration::from_secs(1);

/// How long to try for a line.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// How long to try one address, of which some may lead nowhere.
const ADDRESS_TIME: Duration = Duration::from_millis(500);

/// How long rank 0 waits for the others to hear that the job ends.
const TOGETHER: Duration = Duration::from_millis(2);

/// Both ends of a line say so often that they are there;
const SIGN_TIME: Duration = Duration::from_secs(1);

/// a line that is silent for so long, and for the time limit, is cut. A thread of a busy host may
/// be late.
const SILENCE: Duration = Duration::from_secs(10);

/// Where rank 0 listens, and a word that shows who belongs to the job.
type Address = (Vec<IpAddr>, u16, u64);

/// The thread that watches a rank.
pub(super) struct Watchdog {
    watch: Arc<Watch>,
    duties: Sender<(Guard, Role)>,
}

impl Watchdog {
    /// Watches a rank that MPI is about to be initialised for, of which the launcher has told `who`
    /// it is.
    pub(super) fn new(watch: Arc<Watch>, limit: Duration, who: Option<&str>) -> Self {
        let (duties, receiver) = channel();
        let who = who.map_or_else(|| format!("a rank on {}", host()), str::to_owned);
        let watched = Arc::clone(&watch);
        let builder = thread::Builder::new().name("timeout".to_owned());
        let body = move || {
            if let Some((guard, role)) = watch_start(&watched, limit, &who, &receiver) {
                guard.watch(role);
            }
        };
        if let Err(error) = builder.spawn(body) {
            log::warn!("no thread to keep --timeout: {error}");
        }
        Self { watch, duties }
    }

    /// What it looks at.
    pub(super) fn watch(&self) -> Arc<Watch> {
        Arc::clone(&self.watch)
    }

    /// Joins those of the other ranks.
    ///
    /// # Collective
    /// All ranks of the world.
    pub(super) fn join(
        self,
        comm: &Comm,
        places: &[Place],
        limit: Duration,
        me: Arc<Identity>,
    ) -> Result<(), Failure> {
        let one_host = places.iter().all(|place| place.node == places[0].node);
        let listener = (comm.rank() == 0).then(|| listen(one_host)).transpose();
        let address = match &listener {
            Ok(Some((_, address))) => address.clone(),
            _ => (Vec::new(), 0, 0),
        };
        let address: Address = comm.bcast_obj(0, || address)?;
        let role = if let Ok(Some((listener, (.., word)))) = listener {
            Role::Lead(listener, word)
        } else {
            // Before the program begins: a rank that is frozen from then on is missed.
            let stream = reach(&address, me.rank());
            Role::Follow(address, stream)
        };
        let hosts = places.iter().map(|place| place.host.clone()).collect();
        // Without a thread nobody takes it, which has been told.
        let _ = self.duties.send((Guard { watch: self.watch, limit, me, hosts }, role));
        Ok(())
    }
}

/// A line of `rank` to rank 0, over the first of its addresses that answers.
fn reach((addresses, port, word): &Address, rank: usize) -> Option<TcpStream> {
    addresses.iter().find_map(|address| {
        let address = SocketAddr::new(*address, *port);
        let mut stream = TcpStream::connect_timeout(&address, ADDRESS_TIME).ok()?;
        stream.write_all(format!("{word} {rank}\n").as_bytes()).ok()?;
        Some(stream)
    })
}

/// Until there are lines between the ranks; nothing if there will be none.
fn watch_start(
    watch: &Watch,
    limit: Duration,
    who: &str,
    duties: &Receiver<(Guard, Role)>,
) -> Option<(Guard, Role)> {
    loop {
        match duties.recv_timeout(pause(limit)) {
            Ok(duty) => return Some(duty),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) if watch.is_overdue(limit) => {
                give_up(who, &format!("longer than --timeout, {watch}"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn pause(limit: Duration) -> Duration {
    (limit / 10).clamp(Duration::from_millis(1), Duration::from_millis(100))
}

/// Ends this process, which speaks for itself. The others have time to do so, too, before the
/// launcher ends them.
fn give_up(who: &str, what: &str) -> ! {
    print_line(&format!("error: {who}: {what}"));
    thread::sleep(REPORT_TIME);
    if MpiEngine::job_survives_losses() {
        processes::end(4); // the others would hear nothing of it
    }
    leave(4);
}

fn listen(one_host: bool) -> io::Result<(TcpListener, Address)> {
    let any = if one_host { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
    let listener = TcpListener::bind((any, 0))?;
    listener.set_nonblocking(true)?;
    let addresses = if one_host { vec![any.into()] } else { own_addresses() };
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let word = time.as_nanos() as u64 ^ u64::from(process::id()).rotate_left(40);
    let port = listener.local_addr()?.port();
    Ok((listener, (addresses, port, word)))
}

/// Where other hosts may reach this one, by number: names need not resolve, nor to the same on all
/// hosts.
fn own_addresses() -> Vec<IpAddr> {
    // First that of the interface that leads out; nothing is sent.
    let outward = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| socket.connect(("192.0.2.1", 9)).and_then(|()| socket.local_addr()));
    let mut addresses: Vec<IpAddr> = outward.iter().map(SocketAddr::ip).collect();
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let others = interfaces.filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()));
    // In order, each once.
    let others: BTreeSet<Ipv4Addr> = others.filter(|address| !address.is_loopback()).collect();
    for other in others {
        if !addresses.contains(&other.into()) {
            addresses.push(other.into());
        }
    }
    addresses
}

/// A rank's watch once all ranks have met.
struct Guard {
    watch: Arc<Watch>,
    limit: Duration,
    me: Arc<Identity>,
    /// The host of each rank.
    hosts: Vec<String>,
}

/// Why a job is ended.
#[derive(Clone, Copy)]
enum Reason {
    Overdue,
    /// No rank does anything.
    AllIdle,
    /// Nothing is heard of this rank.
    Lost(usize),
}

enum Role {
    /// Rank 0's.
    Lead(TcpListener, u64),
    /// Another rank's, with its line to rank 0 if it has one already.
    Follow(Address, Option<TcpStream>),
}

/// One end of a line.
struct Line {
    reader: BufReader<TcpStream>,
    partial: String,
    /// Whose line it is, as rank 0 has it.
    rank: Option<usize>,
    /// Whether that rank does nothing.
    idle: bool,
    /// When something last came.
    heard: Instant,
    /// When this end last said that it is there.
    signed: Instant,
    closed: bool,
}

impl Guard {
    fn watch(self, role: Role) {
        match role {
            Role::Lead(listener, word) => self.lead(&listener, word),
            Role::Follow(address, stream) => self.follow(&address, stream),
        }
    }

    /// Rank 0: waits until the job has reason to end; asks all what they do, reports, and ends the
    /// job.
    fn lead(&self, listener: &TcpListener, word: u64) {
        let mut lines: Vec<Line> = Vec::new();
        let mut idle = Idle::new();
        let reason = loop {
            thread::sleep(pause(self.limit));
            while let Ok((stream, _)) = listener.accept() {
                lines.extend(Line::new(stream));
            }
            lines.iter_mut().for_each(Line::sign);
            let standing = self.watch.standing(self.limit, idle.time());
            if let Some(reason) = self.reason(standing, &mut lines, word) {
                break reason;
            }
        };
        let mut states = vec![None; self.hosts.len()];
        states[self.me.rank()] = Some(self.watch.to_string());
        for line in &mut lines {
            // A rank whose line is broken is missing from the report.
            line.say("report");
        }
        let asked = Instant::now();
        while asked.elapsed() < REPORT_TIME && states.iter().any(Option::is_none) {
            thread::sleep(TOGETHER);
            for line in &mut lines {
                if let (Some(said), Some(rank)) = (line.said(word), line.rank)
                    && let Some(("state", state)) = said.split_once(' ')
                    && let Some(place) = states.get_mut(rank)
                {
                    *place = Some(state.to_owned());
                }
            }
        }
        let limit = self.limit.as_secs_f64();
        let mut report = match reason {
            Reason::Lost(rank) => format!(
                "error: nothing has been heard of rank {rank} on {} for {:.1} s, while rank 0 waits for it",
                self.hosts[rank],
                self.patience().as_secs_f64()
            ),
            Reason::Overdue => format!("error: a call waits longer than --timeout ({limit:.1} s)"),
            Reason::AllIdle => {
                format!("error: nothing moves for longer than --timeout ({limit:.1} s)")
            }
        };
        for ((rank, state), host) in states.iter().enumerate().zip(&self.hosts) {
            let state = state.as_deref().unwrap_or("does not answer");
            report.extend(["\n  rank ", &rank.to_string(), " on ", host, ": ", state]);
        }
        if matches!(reason, Reason::AllIdle) {
            report += idle::help(rayon::current_num_threads());
        }
        print_line(&report);
        thread::sleep(super::FORWARDING);
        for line in &mut lines {
            line.say("end");
        }
        thread::sleep(TOGETHER);
        leave(4);
    }

    /// Why the job ends, if it does: rank 0 is overdue or hears that another one is; nobody does
    /// anything; or, where rank 0 only waits for the others to finish, one of them is lost.
    fn reason(&self, standing: Standing, lines: &mut [Line], word: u64) -> Option<Reason> {
        let mut overdue = standing == Standing::Overdue;
        for line in &mut *lines {
            while let Some(said) = line.said(word) {
                match said.as_str() {
                    "overdue" => overdue = true,
                    "idle" => line.idle = true,
                    "busy" => line.idle = false,
                    _ => {}
                }
            }
        }
        if overdue {
            return Some(Reason::Overdue);
        }
        let idle = lines.iter().filter(|line| line.rank.is_some() && line.idle).count();
        if standing == Standing::Idle && idle + 1 == self.hosts.len() {
            return Some(Reason::AllIdle);
        }
        let silent = lines.iter().find(|line| line.rank.is_some() && self.is_cut(line));
        silent.and_then(|line| line.rank).map(Reason::Lost)
    }

    /// Another rank: tells rank 0 how it stands, and what it does when asked.
    fn follow(&self, address: &Address, stream: Option<TcpStream>) {
        let stream = stream.or_else(|| self.connect(address));
        let Some(mut line) = stream.and_then(Line::new) else { return self.alone() };
        let mut idle = Idle::new();
        let mut told = Standing::Busy;
        let mut overdue: Option<Instant> = None;
        loop {
            thread::sleep(pause(self.limit));
            line.sign();
            let standing = self.watch.standing(self.limit, idle.time());
            if overdue.is_none() && standing != told {
                told = standing;
                overdue = (standing == Standing::Overdue).then(Instant::now);
                line.say(match standing {
                    Standing::Busy => "busy",
                    Standing::Idle => "idle",
                    Standing::Overdue => "overdue",
                });
            }
            while let Some(said) = line.next() {
                if said != "report" {
                    continue;
                }
                line.say(&format!("state {}", self.watch));
                // All end at once: what MPICH's launcher kills would give the job its own exit
                // code.
                let asked = Instant::now();
                while asked.elapsed() < 2 * REPORT_TIME
                    && line.next().is_none_or(|said| said != "end")
                {
                    thread::sleep(TOGETHER / 4);
                }
                leave(4);
            }
            if line.closed || overdue.is_some_and(|told| told.elapsed() > 3 * REPORT_TIME) {
                return self.alone();
            }
            if self.is_cut(&line) {
                let what = format!(
                    "nothing has been heard of rank 0 on {} for {:.1} s, this rank {}",
                    self.hosts[0],
                    self.patience().as_secs_f64(),
                    self.watch
                );
                give_up(&self.who(), &what);
            }
        }
    }

    fn connect(&self, address: &Address) -> Option<TcpStream> {
        let started = Instant::now();
        while started.elapsed() < CONNECT_TIME && !self.watch.is_overdue(self.limit) {
            let stream = reach(address, self.me.rank());
            if stream.is_some() {
                return stream;
            }
            thread::sleep(Duration::from_millis(50));
        }
        None
    }

    /// Without a line, the rank speaks for itself.
    fn alone(&self) {
        while !self.watch.is_overdue(self.limit) {
            thread::sleep(pause(self.limit));
        }
        give_up(&self.who(), &format!("longer than --timeout, {}", self.watch));
    }

    fn who(&self) -> String {
        format!("rank {} on {}", self.me.rank(), self.me.host)
    }

    /// How long a line may be silent.
    fn patience(&self) -> Duration {
        self.limit.max(SILENCE)
    }

    /// Whether this rank waits for the others to finish, for which there is no limit, and cannot
    /// know that they are there.
    fn is_cut(&self, line: &Line) -> bool {
        self.watch.has_finished() && !line.closed && line.heard.elapsed() > self.patience()
    }
}

impl Line {
    fn new(stream: TcpStream) -> Option<Self> {
        stream.set_nonblocking(true).ok()?;
        let (reader, partial) = (BufReader::new(stream), String::new());
        let now = Instant::now();
        let (rank, idle, heard, signed, closed) = (None, false, now, now, false);
        Some(Self { reader, partial, rank, idle, heard, signed, closed })
    }

    /// Says a line, if the other end can still hear.
    fn say(&mut self, text: &str) {
        self.closed |= self.reader.get_mut().write_all(format!("{text}\n").as_bytes()).is_err();
        self.signed = Instant::now();
    }

    /// Says that this end is there, now and then.
    fn sign(&mut self) {
        if !self.closed && self.signed.elapsed() >= SIGN_TIME {
            self.say("here");
        }
    }

    /// The next whole line, if it has come.
    fn next(&mut self) -> Option<String> {
        match self.reader.read_line(&mut self.partial) {
            Ok(0) => self.closed = true,
            Ok(_) => self.heard = Instant::now(),
            Err(error) => {
                // What has come of a line stays in `partial`.
                self.closed |= error.kind() != io::ErrorKind::WouldBlock;
                return None;
            }
        }
        self.partial.ends_with('\n').then(|| std::mem::take(&mut self.partial).trim().to_owned())
    }

    /// What a rank of the job says; the first line tells which one it is.
    fn said(&mut self, word: u64) -> Option<String> {
        let said = self.next()?;
        if self.rank.is_some() {
            return Some(said);
        }
        let (token, rank) = said.split_once(' ')?;
        if token.parse() == Ok(word) {
            self.rank = rank.parse().ok();
        }
        None
    }
}
