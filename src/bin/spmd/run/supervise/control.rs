//! How a user speaks with a supervised run: a socket of the file system in a directory that nobody
//! else can enter, one line of JSON there and one back. Nothing listens on a network.

use std::{
    env,
    fs::{self, DirBuilder},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use super::{
    state::{Shared, lock},
    status::Status,
};
use crate::scratch::is_ours_alone;

/// How long either side waits for the other's line.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longer lines nobody has to say, and longer answers no run has.
const LONGEST_REQUEST: u64 = 4096;
const LONGEST_ANSWER: u64 = 64 << 20;

/// More who ask at the same time are turned away.
const MOST_AT_ONCE: usize = 16;

/// What a run is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Request {
    Status {},
    Drain { host: String, slots: Option<usize> },
    Add { host: String, slots: Option<usize> },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Answer {
    Status(Box<Status>),
    Said(String),
    Error(String),
}

/// The socket of a run; gone when this is.
pub(super) struct Control {
    path: PathBuf,
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path); // it was made here
    }
}

impl Control {
    /// Answers for the run from now on.
    ///
    /// # Errors
    /// In words.
    pub(super) fn open(name: &str, run: &Shared) -> Result<Self, String> {
        let directory = directory();
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(_) if is_ours_alone(&directory) => {}
            made => made.map_err(|error| format!("{}: {error}", directory.display()))?,
        }
        let path = directory.join(format!("{name}.sock"));
        let _ = fs::remove_file(&path); // of a process of the same number, long ago
        let listener =
            UnixListener::bind(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let (run, at_once) = (Arc::clone(run), Arc::new(AtomicUsize::new(0)));
        let listens = move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else {
                    thread::sleep(Duration::from_millis(50)); // too many files are open, say
                    continue;
                };
                let (run, at_once) = (Arc::clone(&run), Arc::clone(&at_once));
                if at_once.fetch_add(1, Ordering::AcqRel) >= MOST_AT_ONCE {
                    at_once.fetch_sub(1, Ordering::AcqRel);
                    continue;
                }
                let counted = Arc::clone(&at_once);
                let serves = move || {
                    let _ = serve(stream, &run); // whoever asks sees that nothing comes
                    counted.fetch_sub(1, Ordering::AcqRel);
                };
                if thread::Builder::new().spawn(serves).is_err() {
                    at_once.fetch_sub(1, Ordering::AcqRel); // it is hung up on
                }
            }
        };
        let control = Self { path };
        let started = thread::Builder::new().spawn(listens);
        started.map_err(|error| format!("no thread can be started: {error}"))?;
        Ok(control)
    }
}

fn serve(mut stream: UnixStream, run: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    if !is_ours(&stream) {
        return Ok(());
    }
    let mut line = Vec::new();
    BufReader::new(&stream).take(LONGEST_REQUEST).read_until(b'\n', &mut line)?;
    let answer = if line.last() == Some(&b'\n') {
        match serde_json::from_slice(&line) {
            Ok(request) => lock(run).answer(request),
            Err(error) => Answer::Error(format!("no request: {error}")),
        }
    } else {
        Answer::Error(format!("no request: a line has {LONGEST_REQUEST} bytes at most"))
    };
    let mut text = serde_json::to_string(&answer)?;
    text.push('\n');
    stream.write_all(text.as_bytes())
}

/// Whether a process of this user asks.
fn is_ours(stream: &UnixStream) -> bool {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let user = nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerCredentials)
        .map(|peer| peer.uid());
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let user = nix::unistd::getpeereid(stream).map(|(user, _)| user.as_raw());
    user.is_ok_and(|user| user == geteuid().as_raw())
}

/// Where the sockets of this user's runs are.
fn directory() -> PathBuf {
    let given = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|it| it.is_dir());
    given.map_or_else(
        || PathBuf::from(format!("/tmp/spmd-{}", geteuid())),
        |given| given.join("spmd"),
    )
}

/// Asks a run; the only one, unless it is named.
///
/// # Errors
/// What is wrong, in words, and the exit code.
pub(super) fn ask(run: Option<&str>, request: &Request) -> Result<Answer, String> {
    let path = match run {
        Some(name) if name.contains('/') => return Err(format!("there is no run {name}")),
        Some(name) => directory().join(format!("{name}.sock")),
        None => only_one()?,
    };
    let refuse = |error: io::Error| match run {
        Some(name) => format!("there is no run {name}: {error}{}", all_there_are()),
        None => format!("{}: {error}", path.display()),
    };
    let mut stream = UnixStream::connect(&path).map_err(refuse)?;
    if !is_ours(&stream) {
        return Err(format!("{}: another user listens there", path.display()));
    }
    let answer = || -> io::Result<Answer> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(format!("{}\n", serde_json::to_string(request)?).as_bytes())?;
        let mut line = String::new();
        BufReader::new(&stream).take(LONGEST_ANSWER).read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    };
    let mut answer = answer;
    answer().map_err(|error| format!("the run does not answer: {error}"))
}

/// The names of the runs there are. What killed ones have left is removed.
fn names() -> Vec<String> {
    let directory = directory();
    // Somebody else's may lead anywhere.
    if !is_ours_alone(&directory) {
        return Vec::new();
    }
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let sockets = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
    let there = |path: &Path| match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let _ = fs::remove_file(path); // else it is found again
            false
        }
        Err(_) => false,
        Ok(_) => true,
    };
    let paths = sockets.map(|entry| entry.path()).filter(|path| there(path));
    let name = |path: PathBuf| path.file_name()?.to_str()?.strip_suffix(".sock").map(str::to_owned);
    let mut names: Vec<String> = paths.filter_map(name).collect();
    names.sort_unstable();
    names
}

fn all_there_are() -> String {
    match &*names() {
        [] => "\n  help: no supervised run (spmd run --restarts) is there".to_owned(),
        names => format!("\n  help: there are: {}", names.join(" ")),
    }
}

fn only_one() -> Result<PathBuf, String> {
    match &*names() {
        [name] => Ok(directory().join(format!("{name}.sock"))),
        [] => Err(format!("which run?{}", all_there_are())),
        _ => Err(format!("which run? There are several{}", all_there_are())),
    }
}
