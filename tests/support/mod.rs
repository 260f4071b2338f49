//! Programs run as jobs, each under a hard time limit.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::{
    io::Read,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// No job of the tests needs this long; one that does hangs.
pub const LIMIT: Duration = Duration::from_secs(120);

/// How a job ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; `None` if a signal ended it, or the limit did.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
    pub took: Duration,
}

/// The example or helper program `name`, built with the tests.
pub fn example(name: &str) -> PathBuf {
    let path = spmd().parent().expect("a program lies in a directory").join("examples").join(name);
    assert!(path.exists(), "{} is missing: `cargo build --examples`", path.display());
    path
}

/// The command `spmd`.
pub fn spmd() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_spmd"))
}

/// Runs a job to its end, or ends it after `LIMIT` and says so.
pub fn run(command: &mut Command) -> Ended {
    let started = Instant::now();
    let mut child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let out = follow(child.stdout.take());
    let err = follow(child.stderr.take());
    let code = loop {
        if let Some(status) = child.try_wait().expect("the child is ours") {
            break status.code();
        }
        if started.elapsed() > LIMIT {
            end(&mut child);
            eprintln!("{command:?} hung and was ended");
            break None;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let took = started.elapsed();
    let (out, err) = (out.join().expect("reads"), err.join().expect("reads"));
    Ended { code, out, err, took }
}

/// Ends the job's process group: first so that a launcher can end its ranks, then for certain.
fn end(child: &mut Child) {
    let group = format!("-{}", child.id());
    for signal in ["-TERM", "-KILL"] {
        let _ = Command::new("kill").args([signal, "--", &group]).status();
        thread::sleep(Duration::from_secs(3));
    }
    let _ = child.wait();
}

fn follow(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    })
}

impl Ended {
    /// The job ended well; its output.
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.out
    }

    /// The value behind `key` in the output, as in `checksum: 1234`.
    pub fn value(&self, key: &str) -> String {
        let lines = self.out.lines().filter_map(|line| line.trim().strip_prefix(key));
        let value = lines.map(|rest| rest.trim_start_matches([':', ' ']).to_owned()).next();
        value.unwrap_or_else(|| panic!("no `{key}` in {self:#?}"))
    }

    /// How many lines of standard error begin with `error:`.
    pub fn causes(&self) -> usize {
        self.err.lines().filter(|line| line.starts_with("error:")).count()
    }
}
