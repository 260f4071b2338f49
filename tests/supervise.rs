//! `spmd run --restarts`: a program that is killed, hangs, fails or is to go on with fewer or more
//! ranks, where ranks are threads. `tests/hosts.rs` does so on hosts.
#![cfg(target_os = "linux")]

mod support;

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use support::{Ending, example, hosts::checksum, spmd};

/// Against hanging only.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs of one test, which nobody else's command finds.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn spmd(&self) -> Command {
        let mut command = spmd();
        command.env("XDG_RUNTIME_DIR", self.0.path()).current_dir(self.0.path());
        command
    }

    /// A run of a program that keeps its state in `kept`.
    fn run(&self, options: &[&str], program: &str, arguments: &[&str]) -> Command {
        let mut command = self.spmd();
        command.args(["run", "--launcher", "local", "--threads", "1"]).args(options);
        command.arg(example(program)).args(["--checkpoint", "kept"]).args(arguments);
        command
    }

    fn ends(&self, options: &[&str], program: &str, arguments: &[&str]) -> Ending {
        support::run(&mut self.run(options, program, arguments), LIMIT)
    }

    fn say(&self, words: &[&str]) -> Ending {
        support::run(self.spmd().args(words), LIMIT)
    }

    fn status(&self) -> Option<Value> {
        let ending = self.say(&["status", "--json"]);
        (ending.code == Some(0)).then(|| serde_json::from_str(&ending.stdout).unwrap())
    }

    /// Its status, once it is so.
    fn awaits(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = self.status();
            if let Some(status) = status.clone().filter(|status| is_so(status)) {
                return status;
            }
            assert!(Instant::now() < deadline, "{what} does not come about: {status:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn socket(&self) -> PathBuf {
        let entries = fs::read_dir(self.path("spmd")).unwrap();
        entries.map(|entry| entry.unwrap().path()).next().expect("a socket is there")
    }
}

/// A run that ends with the test.
struct Going(Child);

impl Going {
    fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    fn signal(&self, name: &str) {
        kill(self.0.id(), name);
    }

    /// The process of the program.
    fn program(&self) -> Option<u32> {
        let id = self.0.id().to_string();
        let found = Command::new("pgrep").args(["-P", &id]).output().unwrap().stdout;
        String::from_utf8(found).unwrap().lines().next()?.parse().ok()
    }

    fn end(mut self) -> Ending {
        let begun = Instant::now();
        while self.0.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < LIMIT, "it hangs");
            thread::sleep(Duration::from_millis(10));
        }
        let mut all = [String::new(), String::new()];
        self.0.stdout.take().unwrap().read_to_string(&mut all[0]).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut all[1]).unwrap();
        let code = self.0.wait().unwrap().code();
        let [stdout, stderr] = all;
        Ending { code, stdout, stderr, took: begun.elapsed() }
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn kill(process: u32, signal: &str) {
    Command::new("kill").args([signal, &process.to_string()]).status().unwrap();
}

/// Whether the process is there still, and no zombie.
fn is_there(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/status"))
        .is_ok_and(|text| !text.contains("\nState:\tZ"))
}

fn step(status: &Value) -> u64 {
    status["step"].as_u64().unwrap_or(0)
}

#[test]
fn a_program_that_is_killed_at_any_moment_comes_to_the_same_result() {
    const STEPS: u64 = 3000;
    let place = Place::new();
    let field = ["--size", "40,50", "--steps", "3000"];
    let expected = support::hosts::checksum_of_one(&field);
    let words = [&field[..], &["--every", "20"]].concat();
    let options = ["-n", "3", "--restarts", "1000"];
    let going = Going::start(&mut place.run(&options, "heat2d", &words));
    place.awaits("the first step", |status| step(status) > 0);
    // Moments that are others each time; steps, and where in a step.
    let mut number = u64::from(std::process::id()) << 20 | 7;
    let mut moment = || {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        number >> 33
    };
    let mut at: Vec<u64> = (0..6).map(|_| moment() % (STEPS * 3 / 4)).collect();
    at.sort_unstable();
    println!("killed at steps {at:?}");
    let mut kills = 0;
    'run: for at in at {
        loop {
            let Some(status) = place.status() else { break 'run }; // it is over
            if step(&status) >= at && status["state"] == "running" {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        thread::sleep(Duration::from_micros(moment() % 5000));
        if let Some(program) = going.program() {
            kill(program, "-KILL");
            kills += 1;
        }
    }
    let ending = going.end().success();
    assert!(
        kills > 0 && ending.stderr.contains("restart 1 of 1000: a rank is lost"),
        "{ending:#?}"
    );
    assert!(ending.stderr.contains(" go on from "), "{ending:#?}");
    assert_eq!(checksum(&ending.stdout), expected);
    assert!(place.status().is_none(), "nobody answers any more");
    assert_eq!(fs::read_dir(place.path("spmd")).unwrap().count(), 0, "the socket is gone");
}

#[test]
fn what_another_start_would_not_mend_is_not_repeated() {
    for (fault, code) in [("usage@25", 2), ("wrong@25", 3), ("panic@7", 1)] {
        let place = Place::new();
        let words = ["--every", "10", "--fault", fault];
        let ending = place.ends(&["-n", "2", "--restarts", "5"], "stepper", &words).code(code);
        assert_eq!(ending.stdout.matches("start at").count(), 1, "{fault}: {ending:#?}");
        assert!(!ending.stderr.contains("restart"), "{ending:#?}");
    }
    // A panic may be what a fault has led to, if there was progress: it is tried once more.
    let place = Place::new();
    let words = ["--every", "10", "--fault", "panic@25"];
    let ending = place.ends(&["-n", "2", "--restarts", "5"], "stepper", &words).code(1);
    assert_eq!(ending.stdout, "start at 0\nstart at 20, continued\n", "{ending:#?}");
    assert!(ending.stderr.contains("restart 1 of 5: exit code 1 ("), "{ending:#?}");
}

#[test]
fn three_restarts_without_progress_are_enough() {
    let place = Place::new();
    let words = ["--every", "10", "--fault", "kill@25"];
    let ending = place.ends(&["-n", "2", "--restarts", "50"], "stepper", &words).code(4);
    let continued = "start at 20, continued\n".repeat(3);
    assert_eq!(ending.stdout, format!("start at 0\n{continued}"), "{ending:#?}");
    let last = ending.stderr.lines().last().unwrap();
    assert!(last.contains("SIGABRT") && last.contains("the program is at fault"), "{ending:#?}");
    // As many as were allowed, where that is fewer.
    let place = Place::new();
    let ending = place.ends(&["-n", "2", "--restarts", "1"], "stepper", &words).code(4);
    assert!(ending.stderr.contains("--restarts 1 are used up"), "{ending:#?}");
    assert_eq!(ending.stdout.matches("start at").count(), 2, "{ending:#?}");
}

#[test]
fn what_hangs_is_ended_and_goes_on() {
    let place = Place::new();
    let words = ["--every", "10", "--fault", "hang@25", "--once", "hung", "--steps", "40"];
    let options = ["-n", "2", "--restarts", "3", "--stall", "3"];
    let ending = place.ends(&options, "stepper", &words).success();
    assert_eq!(ending.stdout, "start at 0\nstart at 20, continued\nsum 22140\n", "{ending:#?}");
    let line = "restart 1 of 3: no progress for 3 s; 2 ranks on localhost go on from step 20 (checkpoint 2), after ";
    assert!(ending.stderr.contains(line), "{ending:#?}");
}

#[test]
fn a_users_signal_stops_it_to_be_continued() {
    let place = Place::new();
    let words = ["--every", "1000", "--steps", "1000000"];
    let start = || Going::start(&mut place.run(&["-n", "2", "--restarts", "5"], "stepper", &words));
    let going = start();
    place.awaits("some steps", |status| step(status) > 5);
    going.signal("-TERM");
    let ending = going.end().code(5);
    assert!(ending.stderr.contains("kept/000001"), "{ending:#?}");
    // While nothing runs, too.
    let going = start();
    place.awaits("some steps", |status| step(status) > 0);
    // Twice, so that the pause is long.
    for _ in 0..2 {
        let state = place.awaits("a start", |status| status["state"] == "running");
        kill(going.program().unwrap(), "-KILL");
        let more = state["restarts"].as_u64().unwrap() + 1;
        place.awaits("a restart", |status| status["restarts"] == more);
    }
    place.awaits("a pause", |status| status["state"] == "waiting");
    going.signal("-TERM");
    let ending = going.end().code(5);
    assert!(
        ending.stderr.contains("SIGTERM: stopped, to be continued from checkpoint 1"),
        "{ending:#?}"
    );
    // Its time is that of all starts.
    let options = ["-n", "2", "--restarts", "5", "--walltime", "3"];
    let ending = place.ends(&options, "stepper", &words).code(5);
    assert!(ending.stdout.contains(", continued"), "{ending:#?}");
}

#[test]
fn a_signal_while_what_hangs_is_ended_is_the_last_word() {
    let place = Place::new();
    let words = ["--every", "10", "--steps", "1000000", "--fault", "hang@25"];
    let options = ["-n", "2", "--restarts", "5", "--stall", "3"];
    let going = Going::start(&mut place.run(&options, "stepper", &words));
    place.awaits("its ending", |status| status["told_s"].as_f64() > Some(3.1));
    going.signal("-TERM");
    let ending = going.end().code(5);
    assert_eq!(ending.stdout, "start at 0\n", "{ending:#?}");
    assert!(
        ending.stderr.contains("SIGTERM: stopped, to be continued from checkpoint 2"),
        "{ending:#?}"
    );
}

#[test]
fn it_goes_on_with_fewer_and_more_ranks_while_it_runs() {
    let place = Place::new();
    let field = ["--size", "40,50", "--steps", "6000"];
    let expected = support::hosts::checksum_of_one(&field);
    let words = [&field[..], &["--every", "1000"]].concat();
    let options = ["-n", "4", "--restarts", "0", "--min-ranks", "2"];
    let going = Going::start(&mut place.run(&options, "heat2d", &words));
    let with = |ranks: u64| {
        place.awaits("other ranks", |status| {
            status["ranks"] == ranks && status["state"] == "running" && step(status) > 0
        })
    };
    with(4);
    let told = place.say(&["drain", "localhost:2"]).success().stdout;
    assert_eq!(told, "it stops at its next step and goes on with 2 ranks on localhost\n");
    with(2);
    let refused = place.say(&["drain", "localhost:1"]).code(1).stderr;
    assert!(refused.contains("there is room for 1 ranks, --min-ranks is 2"), "{refused}");
    let refused = place.say(&["drain", "elsewhere"]).code(1).stderr;
    assert!(refused.contains("no host elsewhere"), "{refused}");
    let run = with(2)["run"].as_str().unwrap().to_owned();
    place.say(&["add", &run, "localhost:1"]).success();
    let status = with(3);
    assert_eq!((&status["restarts"], &status["planned_stops"]), (&0.into(), &2.into()));
    let text = place.say(&["status", &run]).success().stdout;
    for part in ["ranks       3 of 3\n", "2 planned stops\n", "localhost  3      used for "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let ending = going.end().success();
    assert_eq!(checksum(&ending.stdout), expected);
    assert!(ending.stdout.contains("ranks x threads: 3 x 1"), "{ending:#?}");
}

#[test]
fn what_keeps_no_checkpoints_is_not_asked_to_stop_for_others() {
    let place = Place::new();
    let mut command = place.spmd();
    command.args(["run", "--launcher", "local", "--threads", "1", "-n", "2", "--restarts", "1"]);
    let going = Going::start(command.arg(example("stepper")).args(["--steps", "100000000"]));
    place.awaits("some steps", |status| step(status) > 0);
    let refused = place.say(&["drain", "localhost:1"]).code(1).stderr;
    assert!(refused.contains("keeps no checkpoints"), "{refused}");
    let told = place.say(&["add", "localhost:1"]).success().stdout;
    assert!(told.contains("only after a restart"), "{told}");
    let status = place.status().unwrap();
    assert_eq!((&status["state"], &status["ranks"]), (&"running".into(), &2.into()));
    // A restart has the third rank.
    kill(going.program().unwrap(), "-KILL");
    place.awaits("a restart", |status| status["ranks"] == 3 && step(status) > 0);
}

#[test]
fn its_socket_is_its_users_and_bears_anything() {
    let place = Place::new();
    let refused = place.say(&["status"]).code(1).stderr;
    assert!(refused.contains("no supervised run"), "{refused}");
    let words = ["--every", "1000", "--steps", "1000000"];
    let going = Going::start(&mut place.run(&["-n", "2", "--restarts", "1"], "stepper", &words));
    place.awaits("some steps", |status| step(status) > 0);
    let mode = fs::metadata(place.path("spmd")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let socket = place.socket();
    let answer = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let _ = stream.write_all(bytes); // it may have hung up
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text
    };
    let long = vec![b'x'; 100_000];
    let nested = "[".repeat(4000) + "\n";
    for wrong in [
        &b"\n"[..],
        b"\xff\xfe\0\n",
        b"{\"ask\":\"halt\"}\n",
        b"{\"ask\":\"drain\",\"host\":7}\n",
        b"{\"ask\":\"drain\",\"host\":\"a\",\"slots\":-1}\n",
        b"{\"ask\":\"status\",\"more\":1}\n",
        nested.as_bytes(),
    ] {
        let text = answer(wrong);
        assert!(text.starts_with(r#"{"error":"no request: "#), "{wrong:?}: {text}");
    }
    // Too long, unfinished: no answer that is one.
    let text = answer(&long);
    assert!(text.is_empty() || text.contains("4096 bytes at most"), "{text}");
    // Many who say nothing.
    let silent: Vec<_> = (0..100).filter_map(|_| UnixStream::connect(&socket).ok()).collect();
    drop(silent);
    place.awaits("an answer", |status| status["state"] == "running");
    // There are several, or other ones.
    let other = Going::start(&mut place.run(
        &["-n", "1", "--restarts", "1"],
        "stepper",
        &["--checkpoint", "other", "--steps", "1000000"],
    ));
    drop(other);
    for run in ["../x", "nobody-1"] {
        let refused = place.say(&["status", run]).code(1).stderr;
        assert!(refused.contains("there is no run"), "{refused}");
    }
    going.signal("-TERM");
    going.end().code(5);
    // What is no socket is left alone, and another's directory is not looked at.
    fs::write(place.path("spmd").join("notes.sock"), "mine").unwrap();
    place.say(&["status"]).code(1);
    assert!(place.path("spmd/notes.sock").exists());
    fs::rename(place.path("spmd"), place.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(place.path("elsewhere"), place.path("spmd")).unwrap();
    let ending = place.ends(&["-n", "1", "--restarts", "1"], "stepper", &["--steps", "1"]);
    assert!(ending.success().stderr.contains("note: spmd status cannot ask this run"));
}

#[test]
fn nothing_is_left_when_the_one_who_watches_is_killed() {
    let place = Place::new();
    let words = ["--every", "1000", "--steps", "1000000", "--fault", "hang@20"];
    let going = Going::start(&mut place.run(&["-n", "2", "--restarts", "1"], "stepper", &words));
    // A program that hangs, and is deaf to being asked.
    place.awaits("some steps", |status| step(status) > 10);
    let program = going.program().unwrap();
    assert!(is_there(program));
    going.signal("-KILL");
    let deadline = Instant::now() + LIMIT;
    let is_told = || place.say(&["status"]).code(1).stderr.contains("no supervised run");
    while is_there(program) || !is_told() {
        assert!(Instant::now() < deadline, "the program goes on");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(fs::read_dir(place.path("spmd")).unwrap().count(), 0, "the socket is removed");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let place = Place::new();
    for options in [
        &["--stall", "3"][..],
        &["--spares", "1", "--restarts", "1"],
        &["--min-ranks", "0", "--restarts", "1"],
        &["--restarts", "-1"],
    ] {
        place.ends(options, "stepper", &[]).code(2);
    }
    let mut command = place.run(&["--restarts", "1"], "stepper", &[]);
    let ending = support::run(command.env("SPMD_STOP_FILE", "stop"), LIMIT).code(2);
    assert!(ending.stderr.contains("a stop file of its own"), "{ending:#?}");
    assert!(!Path::new("stop").exists());
}
