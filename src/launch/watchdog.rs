//! Ends a job in which a call waits for too long, with a report of what every rank does.
//!
//! A rank that hangs is inside MPI, and its other threads may not call MPI. So a thread of each rank keeps a line of TCP to
//! that of rank 0: it says there that it waits for too long, and, asked, what it does. Where no line can be had, every
//! rank speaks for itself.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    process,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use super::{identity::Identity, print_line};
use crate::{
    comm::Comm,
    engine::mpi::{Watch, leave},
    error::Failure,
};

/// How long ranks have to tell what they do before the report goes out without them.
const REPORT_TIME: Duration = Duration::from_secs(1);

/// How long to try for a line.
const CONNECT_TIME: Duration = Duration::from_secs(2);

/// How long rank 0 waits for the others to hear that the job ends.
const TOGETHER: Duration = Duration::from_millis(2);

/// Where rank 0 listens, and a word that shows who belongs to the job.
type Address = (Vec<String>, u16, u64);

/// Starts this rank's guard.
///
/// # Collective
/// All ranks of the world.
pub(super) fn start(
    comm: &Comm,
    hosts: &[String],
    watch: Arc<Watch>,
    limit: Duration,
    me: Arc<Identity>,
) -> Result<(), Failure> {
    let one_host = hosts.iter().all(|host| *host == hosts[0]);
    let listener = (comm.rank() == 0).then(|| listen(one_host)).transpose();
    let address = match &listener {
        Ok(Some((_, address))) => address.clone(),
        _ => (Vec::new(), 0, 0),
    };
    let address: Address = comm.bcast_obj(0, || address)?;
    let guard = Guard { watch, limit, me, size: comm.size() };
    let started = match listener {
        Ok(Some((listener, (.., word)))) => guard.spawn(move |guard| guard.lead(&listener, word)),
        _ => guard.spawn(move |guard| guard.follow(&address)),
    };
    if let Err(error) = started {
        log::warn!("no thread to keep --timeout: {error}");
    }
    Ok(())
}

fn listen(one_host: bool) -> io::Result<(TcpListener, Address)> {
    let any = if one_host { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
    let listener = TcpListener::bind((any, 0))?;
    listener.set_nonblocking(true)?;
    let mut names = vec![if one_host { "127.0.0.1".to_owned() } else { crate::placement::host() }];
    // The address of the interface that leads out; nothing is sent.
    let outward = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| socket.connect(("192.0.2.1", 9)).and_then(|()| socket.local_addr()));
    if let (false, Ok(outward)) = (one_host, outward) {
        names.push(outward.ip().to_string());
    }
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let word = time.as_nanos() as u64 ^ u64::from(process::id()).rotate_left(40);
    let port = listener.local_addr()?.port();
    Ok((listener, (names, port, word)))
}

struct Guard {
    watch: Arc<Watch>,
    limit: Duration,
    me: Arc<Identity>,
    size: usize,
}

/// A rank's line, as rank 0 has it.
struct Line {
    reader: BufReader<TcpStream>,
    partial: String,
    rank: Option<usize>,
}

impl Guard {
    fn spawn(self, body: impl FnOnce(&Self) + Send + 'static) -> io::Result<()> {
        let builder = thread::Builder::new().name("timeout".to_owned());
        builder.spawn(move || body(&self)).map(drop)
    }

    fn pause(&self) {
        thread::sleep(
            (self.limit / 10).clamp(Duration::from_millis(1), Duration::from_millis(100)),
        );
    }

    /// Rank 0: waits until a rank is overdue, asks all, reports, and ends the job.
    fn lead(&self, listener: &TcpListener, word: u64) {
        let mut lines = Vec::new();
        while !self.watch.is_overdue(self.limit) {
            self.pause();
            while let Ok((stream, _)) = listener.accept() {
                lines.extend(Line::new(stream));
            }
            let said = |line: &mut Line| line.said(word).is_some_and(|said| said == "overdue");
            if lines.iter_mut().any(said) {
                break;
            }
        }
        let mut states = vec![None; self.size];
        states[self.me.rank] = Some((self.me.host.clone(), self.watch.to_string()));
        for line in &mut lines {
            // A rank whose line is broken is missing from the report.
            let _ = line.reader.get_mut().write_all(b"report\n");
        }
        let asked = Instant::now();
        while asked.elapsed() < REPORT_TIME && states.iter().any(Option::is_none) {
            thread::sleep(Duration::from_millis(2));
            for line in &mut lines {
                if let (Some(said), Some(rank)) = (line.said(word), line.rank)
                    && let Some(("state", state)) = said.split_once(' ')
                    && let (Some(place), Some((host, state))) =
                        (states.get_mut(rank), state.split_once(' '))
                {
                    *place = Some((host.to_owned(), state.to_owned()));
                }
            }
        }
        let mut report = format!(
            "error: a call waits longer than --timeout ({:.1} s)",
            self.limit.as_secs_f64()
        );
        for (rank, state) in states.iter().enumerate() {
            let (host, state) = match state {
                Some((host, state)) => (format!(" on {host}"), state.as_str()),
                None => (String::new(), "does not answer"),
            };
            report.extend(["\n  rank ", &rank.to_string(), &host, ": ", state]);
        }
        print_line(&report);
        thread::sleep(super::FORWARDING);
        for line in &mut lines {
            let _ = line.reader.get_mut().write_all(b"end\n");
        }
        thread::sleep(TOGETHER);
        leave(4);
    }

    /// Another rank: tells rank 0 when it is overdue, and what it does when asked.
    fn follow(&self, address: &Address) {
        let Some(stream) = self.connect(address) else { return self.alone() };
        let Some(mut line) = Line::new(stream) else { return self.alone() };
        let mut told = false;
        loop {
            self.pause();
            if !told && self.watch.is_overdue(self.limit) {
                told = true;
                if line.reader.get_mut().write_all(b"overdue\n").is_err() {
                    return self.alone();
                }
            }
            if line.next().is_some_and(|said| said == "report") {
                let state = format!("state {} {}\n", self.me.host, self.watch);
                let _ = line.reader.get_mut().write_all(state.as_bytes());
                // All end at once: what MPICH's launcher kills would give the job its own exit code.
                let asked = Instant::now();
                while asked.elapsed() < 2 * REPORT_TIME
                    && line.next().is_none_or(|said| said != "end")
                {
                    thread::sleep(TOGETHER / 4);
                }
                leave(4);
            }
        }
    }

    fn connect(&self, (names, port, word): &Address) -> Option<TcpStream> {
        let started = Instant::now();
        while started.elapsed() < CONNECT_TIME {
            for name in names {
                if let Ok(mut stream) = TcpStream::connect((name.as_str(), *port))
                    && stream.write_all(format!("{word} {}\n", self.me.rank).as_bytes()).is_ok()
                {
                    return Some(stream);
                }
            }
            thread::sleep(Duration::from_millis(50));
        }
        None
    }

    /// Without a line, the rank speaks for itself.
    fn alone(&self) {
        while !self.watch.is_overdue(self.limit) {
            self.pause();
        }
        print_line(&format!(
            "error: rank {} on {}: longer than --timeout, {}",
            self.me.rank, self.me.host, self.watch
        ));
        thread::sleep(REPORT_TIME);
        leave(4);
    }
}

impl Line {
    fn new(stream: TcpStream) -> Option<Self> {
        stream.set_nonblocking(true).ok()?;
        Some(Self { reader: BufReader::new(stream), partial: String::new(), rank: None })
    }

    /// The next whole line, if it has come.
    fn next(&mut self) -> Option<String> {
        self.reader.read_line(&mut self.partial).ok()?;
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
