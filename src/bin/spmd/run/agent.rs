//! This program on the hosts of a run: it tells what is there, answers for as long as the host lives,
//! and ends what is left of the run when it is over or the launcher's host is lost.
//!
//! Lines go both ways. The agent begins with its [`Facts`] as JSON; then each line is answered with
//! one: `clock` with the time; `listen WORD` with a port and `reach HOST PORT WORD` with what the
//! network does ([`link`]); `record` with what the program has left as the record of the run on
//! this host, since hosts need not share a directory; `progress` with what it tells meanwhile, if
//! it does; `stop` has it asked to stop; `end` with the number of processes that were ended.

use std::{
    env, fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::mpsc,
    thread,
    time::{Duration, SystemTime},
};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{
    cores::cores,
    leftovers, link,
    word::{Left, Place},
};

/// After so long without a word the launcher's host is lost.
const FORSAKEN: Duration = Duration::from_secs(16);

/// With less room MPI does not start.
pub(super) const SCRATCH: u64 = 1 << 20;

#[derive(Args)]
pub(crate) struct Arguments {
    /// The run that it is for
    token: String,
    /// The program of the run
    program: PathBuf,
    /// The directory that it may leave a record in: none if nothing is run
    directory: Option<PathBuf>,
    /// A start of a supervised run: what is left of earlier ones is ended before anything is said
    #[arg(long, value_name = "RUN")]
    after: Option<String>,
}

/// What a host says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) host: String,
    /// Tells machines of one name apart.
    pub(crate) machine: String,
    pub(crate) cores: usize,
    /// Where temporary files go.
    pub(crate) tmp: PathBuf,
    /// Bytes.
    pub(crate) tmp_free: Option<u64>,
    pub(crate) shm_free: Option<u64>,
    /// Length and CRC-32 of the program, if it is there.
    pub(crate) program: Option<(u64, u32)>,
    /// The launcher of MPI that is first in its PATH, in its own words.
    pub(crate) mpi: Option<String>,
    /// The address that it was reached at, if it was reached by ssh.
    pub(crate) address: Option<String>,
    /// Why the directory of the run cannot be made, if so.
    pub(crate) no_place: Option<String>,
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
            tmp: env::temp_dir(),
            tmp_free: free(&env::temp_dir()),
            shm_free: free(Path::new("/dev/shm")),
            program: checksum(program),
            mpi: crate::launcher::Launcher::mpirun(None).ok().map(|launcher| launcher.version),
            address: by_ssh.and_then(|four| four.split(' ').nth(2).map(str::to_owned)),
            no_place: None,
        }
    }
}

#[cfg(test)]
impl Facts {
    /// Of a host that has nothing but these.
    pub(super) fn with_cores(cores: usize) -> Self {
        let nowhere = Path::new("/nowhere");
        Self { cores, ..Self::of_this_host(nowhere) }
    }
}

/// The bytes that may still be written there.
pub(super) fn free(directory: &Path) -> Option<u64> {
    let told = nix::sys::statvfs::statvfs(directory).ok()?;
    #[allow(clippy::unnecessary_cast)] // as wide as the system has them
    Some(told.blocks_available() as u64 * told.fragment_size() as u64)
}

/// Its length and CRC-32, if it is there.
pub(super) fn checksum(program: &Path) -> Option<(u64, u32)> {
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
pub(super) fn clock_s() -> f64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since_1970.unwrap_or_default().as_secs_f64()
}

/// Serves one run on this host, until it is over.
pub(crate) fn serve(arguments: &Arguments) -> ExitCode {
    // Whoever is answered may rely on it that nothing of them runs here.
    if let Some(run) = &arguments.after {
        leftovers::end_earlier(run);
    }
    let answer = |line: &str| writeln!(io::stdout(), "{line}").and_then(|()| io::stdout().flush());
    let mut facts = Facts::of_this_host(&arguments.program);
    let place = match arguments.directory.as_deref().map(Place::make) {
        Some(Err(error)) => {
            facts.no_place = Some(error);
            None
        }
        Some(Ok(place)) => Some(place),
        None => None,
    };
    let text = serde_json::to_string(&facts).unwrap_or_default();
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
                there = answer(&path_line(&line)).is_ok();
            }
            Ok(line) if line == "record" => {
                let left = place.as_ref().map_or(Left::NotBegun, Place::left);
                there = answer(&left.line()).is_ok();
            }
            Ok(line) if line == "progress" => {
                let told = place.as_ref().and_then(Place::progress);
                there = answer(&told.map_or(".".to_owned(), |it| format!("progress {it}"))).is_ok();
            }
            Ok(line) if line == "stop" => {
                place.as_ref().inspect(|place| place.stop());
                there = answer(".").is_ok();
            }
            Ok(line) if line == "clock" => there = answer(&format!("clock {}", clock_s())).is_ok(),
            Ok(_) => there = answer(".").is_ok(),
            Err(_) => break,
        }
    }
    let ended = leftovers::end(&arguments.token);
    drop(place);
    let _ = answer(&format!("ended {ended}")); // if anybody hears it
    ExitCode::SUCCESS
}

/// Does what a line about network paths says.
fn path_line(line: &str) -> String {
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
