//! Coordinators and workers of elastic farms under test: started, watched, signalled, and never left
//! behind.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{example, program};

/// Against hanging only.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// A process with its output in files; it ends with its owner.
pub(crate) struct Process {
    child: Child,
    output: PathBuf,
}

impl Process {
    pub(crate) fn start(command: &mut Command, output: PathBuf) -> Self {
        let out = File::create(&output).unwrap();
        let err = out.try_clone().unwrap();
        let command = command.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, output }
    }

    /// What it has printed.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.output).unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        until("a process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// It ends with this code; what it has printed.
    #[track_caller]
    pub(crate) fn ends_with(&mut self, code: i32) -> String {
        let status = self.wait();
        let said = self.said();
        assert_eq!(status.code(), Some(code), "{status}: {said}");
        said
    }

    /// At once, as by the kernel that is out of memory.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended is not there any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for something that comes.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < end, "this does not come: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A directory with all files of a farm.
pub(crate) struct Farm {
    pub(crate) directory: tempfile::TempDir,
    processes: usize,
}

impl Farm {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), processes: 0 }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The program of the tests, and words that it is given.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = program(example("elastic"));
        command.arg("--token-file").arg(self.file("token"));
        command.arg("--notes").arg(self.file("notes")).args(words);
        command
    }

    pub(crate) fn start(&mut self, command: &mut Command) -> Process {
        self.processes += 1;
        Process::start(command, self.file(&format!("out{}", self.processes)))
    }

    /// A coordinator that listens, and where.
    pub(crate) fn serve(&mut self, words: &[&str]) -> (Process, String) {
        self.serve_at("127.0.0.1:0", words)
    }

    pub(crate) fn serve_at(&mut self, address: &str, words: &[&str]) -> (Process, String) {
        let mut command = self.command(&["--serve", address]);
        self.serve_by(command.args(words))
    }

    pub(crate) fn serve_by(&mut self, command: &mut Command) -> (Process, String) {
        let mut coordinator = self.start(command);
        let mut found = None;
        until("the coordinator listens", || {
            let said = coordinator.said();
            let address = said.lines().find_map(|line| line.strip_prefix("address "));
            found = address.map(str::to_owned);
            assert!(found.is_some() || !coordinator.has_ended(), "{said}");
            found.is_some() && said.contains('\n')
        });
        (coordinator, found.unwrap())
    }

    pub(crate) fn join(&mut self, address: &str, words: &[&str]) -> Process {
        let mut command = self.command(&["--join", address]);
        self.start(command.args(words))
    }

    /// Which tasks were begun, and by which process.
    pub(crate) fn notes(&self) -> Vec<(usize, u32)> {
        let text = fs::read_to_string(self.file("notes")).unwrap_or_default();
        let numbers = |line: &str| {
            let (task, process) = line.split_once(' ').unwrap();
            (task.parse().unwrap(), process.parse().unwrap())
        };
        text.lines().map(numbers).collect()
    }

    /// Waits until so many tasks were begun.
    pub(crate) fn until_begun(&self, count: usize) {
        until("tasks are begun", || self.notes().len() >= count);
    }

    /// Waits until this process has begun one.
    pub(crate) fn until_begun_by(&self, process: &Process) {
        let pid = process.pid();
        until("a worker begins", || self.notes().iter().any(|(_, by)| *by == pid));
    }
}

/// A number that a coordinator has printed.
#[track_caller]
pub(crate) fn fact(said: &str, name: &str) -> usize {
    let line = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {name}: {said}"))
}
