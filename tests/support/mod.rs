//! Programs under test: started, awaited for a limited time, their output kept.
#![allow(dead_code)] // each test program uses a part

pub(crate) mod farms;
pub(crate) mod hosts;
pub(crate) mod slurm;
pub(crate) mod stand_ins;
pub(crate) mod wrong;
pub(crate) mod yaml;

use std::{
    cell::Cell,
    env, fs,
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Condvar, LazyLock, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ending {
    /// `None` if it had to be killed: the limit was over, or a signal came first.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Ending {
    /// The program must have ended well.
    #[track_caller]
    pub(crate) fn success(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// The job must have ended by `--timeout`. MPICH's launcher may report the ranks that it killed
    /// then, by 9.
    #[track_caller]
    pub(crate) fn timed_out(self) -> Self {
        let killed = self.code == Some(9) && !*OPEN_MPI;
        assert!(self.code == Some(4) || killed, "{self:#?}");
        self
    }

    /// The program must have ended with this code.
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }
}

/// Runs a program; kills it when `limit` is over.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Ending {
    let started = Instant::now();
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let started_as = format!("{command:?}");
    let mut child = command.process_group(0).spawn().expect("the program starts");
    let stdout = collect(child.stdout.take().expect("standard output is a pipe"));
    let stderr = collect(child.stderr.take().expect("standard error is a pipe"));
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        if started.elapsed() > limit {
            eprintln!("{started_as} hung and is ended");
            break end(child);
        }
        thread::sleep(Duration::from_millis(5));
    };
    let took = started.elapsed();
    let text = |reader: thread::JoinHandle<String>| reader.join().expect("output is read");
    Ending { code: status.code(), stdout: text(stdout), stderr: text(stderr), took }
}

/// Ends a program and what it started: first so that a launcher can end its ranks, then for
/// certain.
fn end(mut child: Child) -> ExitStatus {
    let group = format!("-{}", child.id());
    for signal in ["-TERM", "-KILL"] {
        Command::new("kill").args([signal, "--", &group]).status().expect("kill starts");
        thread::sleep(Duration::from_secs(2));
    }
    child.wait().expect("a killed child ends")
}

fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).expect("output can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Whether whoever started the tests has had them ignore this signal, as a shell does for what it
/// starts in the background: then so do the programs under test.
pub(crate) fn ignores(signal: nix::sys::signal::Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let is_so = mask & 1 << (signal as u32 - 1) != 0;
    if is_so {
        println!("skipped: {signal}, which whoever started this has ignored");
    }
    is_so
}

/// A program without the variables that would change how it runs.
pub(crate) fn program(path: impl Into<PathBuf>) -> Command {
    let mut command = Command::new(path.into());
    for (name, _) in std::env::vars() {
        let changes = ["SPMD_", "OMPI_", "PMIX_", "PMI_", "SLURM_", "RUST_LOG", "RUST_BACKTRACE"];
        if changes.iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

/// A control group, which programs can be started in: as a container or batch job limits them.
pub(crate) struct Group(PathBuf);

impl Group {
    /// A group of this controller with a setting, of cgroups version 1 or 2; nothing, with the
    /// reason, where this user may not make one.
    pub(crate) fn new(controller: &str, old: (&str, &str), new: (&str, &str)) -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let name = format!("spmd-test-{}-{controller}", std::process::id());
        for (directory, (file, value)) in [(root.join(controller), old), (root.to_owned(), new)] {
            let group = Self(directory.join(&name));
            if fs::create_dir(&group.0).is_ok() && fs::write(group.0.join(file), value).is_ok() {
                return Some(group);
            }
        }
        eprintln!("skipped: this user may not make a control group for {controller}");
        None
    }

    /// The program, in the group.
    pub(crate) fn program(&self, path: impl AsRef<Path>) -> Command {
        let mut command = program("sh");
        command.args(["-c", &self.script()]).arg(path.as_ref());
        command
    }

    /// What `sh -c` does to run its arguments in the group.
    pub(crate) fn script(&self) -> String {
        format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", self.0.display())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// The command `spmd`.
pub(crate) fn spmd() -> Command {
    program(env!("CARGO_BIN_EXE_spmd"))
}

/// An example, or a program of `tests/programs`: `cargo test --workspace` builds them beside the
/// tests.
pub(crate) fn example(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().expect("a test knows its own path");
    path.pop(); // the test
    path.pop(); // deps
    let path = path.join("examples").join(name);
    assert!(
        path.exists(),
        "{} is missing: `cargo build --workspace --examples` makes it",
        path.display()
    );
    path
}

/// Jobs under a launcher that run at the same time.
const SEATS: usize = 4;
static SEATS_TAKEN: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

thread_local! {
    static SEATED: Cell<bool> = const { Cell::new(false) };
}

/// The right of this thread to run a job, until it is dropped.
pub(crate) struct Seats(usize);

/// For a job that computes: ranks of several would only wait for each other's CPUs.
pub(crate) fn alone() -> Seats {
    Seats::take(SEATS)
}

/// For a job that is soon over, and most of that time waits for a launcher or a timeout: a few may
/// as well do so at the same time.
pub(crate) fn beside_others() -> Seats {
    Seats::take(1)
}

impl Seats {
    fn take(count: usize) -> Self {
        assert!(!SEATED.replace(true), "a thread that has seats would wait for itself");
        let (taken, changed) = &SEATS_TAKEN;
        let taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = changed.wait_while(taken, |taken| *taken + count > SEATS);
        *taken.unwrap_or_else(PoisonError::into_inner) += count;
        Self(count)
    }
}

impl Drop for Seats {
    fn drop(&mut self) {
        SEATED.set(false);
        *SEATS_TAKEN.0.lock().unwrap_or_else(PoisonError::into_inner) -= self.0;
        SEATS_TAKEN.1.notify_all();
    }
}

/// Runs `body` for each of the cases, for as many at a time as there are seats. The caller has none:
/// each job takes its own.
pub(crate) fn side_by_side<T: Sync>(cases: &[T], body: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            body(case);
        }
    };
    thread::scope(|scope| (0..SEATS).for_each(|_| drop(scope.spawn(work))));
}

/// `SPMD_MPIRUN` names it, else it is `mpirun`.
fn launcher() -> String {
    env::var("SPMD_MPIRUN").unwrap_or_else(|_| "mpirun".to_owned())
}

/// Whether the launcher is Open MPI's.
pub(crate) static OPEN_MPI: LazyLock<bool> = LazyLock::new(|| {
    let said = Command::new(launcher()).arg("--version").output();
    let said = said.unwrap_or_else(|error| panic!("{} does not start: {error}", launcher()));
    String::from_utf8_lossy(&said.stdout).contains("Open MPI")
});

/// The program on so many ranks, more than there are CPUs if need be.
pub(crate) fn mpirun(ranks: usize, path: &Path) -> Command {
    let mut command = program(launcher());
    command.args(["-n", &ranks.to_string()]);
    if *OPEN_MPI {
        command.args(["--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]);
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    }
    command.arg(path);
    command
}
