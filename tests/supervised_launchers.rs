//! `spmd run --restarts` with a launcher that is a script, and hosts that are names of this one: what
//! fails here is the launcher, or a host before or after the program. `tests/supervised_hosts.rs` has
//! hosts and programs.
#![cfg(target_os = "linux")]

mod support;

use std::{
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use support::{Ending, spmd};

/// Against hanging only.
const LIMIT: Duration = Duration::from_secs(120);

/// What the launcher's script knows: `begins` as a program that keeps a checkpoint, `is_done CODE`
/// leaves its record, `loses` ends the agent of the host `other`; `$start` is the number of the start.
const WORDS: &str = r#"
    if [ "$1" = --version ]; then echo 'mpirun (Open MPI) 4.1.4'; exit; fi
    echo "$*" >>starts; start=$(wc -l <starts)
    begins() {
        rm -f "$SPMD_RECORD"
        echo '{"begun":true,"keeps":true,"ranks":1,"steps":7,"kept":1,"kept_steps":7}' >"$SPMD_PROGRESS"
    }
    is_done() {
        begins
        echo '{"format":1,"spmd":"","program":"","arguments":[],"variables":{},"started_s":0,"engine":"mpi","library":"","launcher":null,"ranks":1,"exit_code":'$1',"failed":null,"by_rank":[]}' >"$SPMD_RECORD"
    }
    loses() { kill -KILL $(cat agent); }
"#;

/// What reaches hosts: `far` is away, and `other` is this one.
const SSH: &str = r#"
    if [ $1 = far ]; then echo 'no route' >&2; exit 255; fi
    shift; line=$*
    if [ -e is_sick ]; then line=$(echo "$line" | sed 's:/tmp/spmd-run-:/proc/spmd-run-:'); fi
    case $line in *look-*) ;; *) echo $$ >agent;; esac
    eval "exec $line"
"#;

struct Place(tempfile::TempDir);

impl Place {
    /// With a launcher that does this.
    fn new(launcher: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for (name, text) in
            [("task", ""), ("ssh", SSH), ("mpirun", &format!("{WORDS}\n{launcher}"))]
        {
            let path = place.path(name);
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, hosts: &str, options: &[&str]) -> Command {
        let mut command = spmd();
        command.args(["run", "--launcher", "mpirun", "--hosts", hosts, "--ssh"]);
        command.arg(self.path("ssh")).args(["--restarts", "5"]).args(options);
        command.arg(self.path("task")).env("SPMD_MPIRUN", self.path("mpirun"));
        command.env("XDG_RUNTIME_DIR", self.0.path()).current_dir(self.0.path());
        command
    }

    fn ends(&self, hosts: &str, options: &[&str]) -> Ending {
        support::run(&mut self.command(hosts, options), LIMIT)
    }

    fn start(&self, hosts: &str, options: &[&str]) -> Going {
        Going(self.command(hosts, options).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn say(&self, words: &[&str]) -> Ending {
        support::run(spmd().args(words).env("XDG_RUNTIME_DIR", self.0.path()), LIMIT)
    }

    /// Until its status says so.
    fn awaits(&self, what: &str) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = self.say(&["status"]);
            if status.stdout.contains(what) {
                return;
            }
            assert!(Instant::now() < deadline, "no `{what}`: {status:#?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// So often the launcher was started.
    fn starts(&self) -> usize {
        fs::read_to_string(self.path("starts")).unwrap_or_default().lines().count()
    }
}

/// A run that ends with the test.
struct Going(Child);

impl Going {
    fn signal(&self, name: &str) {
        Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap();
    }

    /// What it has said when it has ended, with this exit code.
    #[track_caller]
    fn ends_with(mut self, code: i32) -> String {
        let deadline = Instant::now() + LIMIT;
        while self.0.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it hangs");
            thread::sleep(Duration::from_millis(20));
        }
        let mut said = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(self.0.wait().unwrap().code(), Some(code), "{said}");
        said
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_host_that_is_away_at_first_is_left_out_if_enough_are_there() {
    let place = Place::new("is_done 0");
    let ending = place.ends("localhost:1,far:1", &[]).success();
    let line = "spmd run: far: cannot be reached: no route; it is left out\n";
    assert!(ending.stderr.contains(line), "{ending:#?}");
    assert_eq!(place.starts(), 1);
    let words = fs::read_to_string(place.path("starts")).unwrap();
    assert!(words.contains("-n 1 "), "{words}");
    // A spare takes its place.
    place.ends("far:1,localhost:1", &["--spares", "1", "--min-ranks", "1"]).success();
    assert_eq!(place.starts(), 2);
    let ending = place.ends("localhost:1,far:1", &["--min-ranks", "2"]).code(7);
    assert!(ending.stderr.contains("error: far: cannot be reached: no route"), "{ending:#?}");
    assert_eq!(place.starts(), 2);
}

#[test]
fn slots_that_nobody_has_said_are_asked_for_before_they_are_too_few() {
    let place = Place::new("is_done 0");
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("skipped: this machine has one CPU, and so one slot");
    } else {
        place.ends("localhost", &["--min-ranks", "2", "--patience", "1"]).success();
        assert_eq!(place.starts(), 1);
    }
    let before = place.starts();
    let ending = place.ends("localhost", &["--min-ranks", "100000", "--patience", "1"]).code(7);
    assert!(ending.stderr.contains("ranks, --min-ranks is 100000, and no more"), "{ending:#?}");
    assert_eq!(place.starts(), before);
}

#[test]
fn a_launcher_that_fails_is_tried_again_once_the_program_has_worked() {
    let place = Place::new("case $start in 1) begins; sleep 1;; 2) exit 1;; *) is_done 0;; esac");
    let ending = place.ends("localhost:1", &[]).success();
    for line in ["restart 1 of 5: a rank is lost", "restart 2 of 5: nothing began, exit code 1"] {
        assert!(ending.stderr.contains(line), "{ending:#?}");
    }
    // Not for ever.
    let place = Place::new("[ $start = 1 ] || exit 1; begins; sleep 1");
    let ending = place.ends("localhost:1", &[]);
    assert!(ending.stderr.contains("the program is at fault"), "{ending:#?}");
    assert!(place.starts() < 6, "{ending:#?}");
    // At first it is a wrong word, or a program that is not there.
    let place = Place::new("exit 1");
    place.ends("localhost:1", &[]).code(1);
    assert_eq!(place.starts(), 1);
}

#[test]
fn a_run_that_is_done_is_not_done_again_for_a_host_that_is_lost() {
    let place = Place::new("is_done 0; loses; sleep 20");
    let ending = place.ends("localhost:1,other:1", &[]).success();
    assert!(ending.stderr.contains("other does not answer any more"), "{ending:#?}");
    assert_eq!(place.starts(), 1);
}

#[test]
fn a_stop_that_a_user_has_asked_for_outlives_a_lost_host() {
    let place =
        Place::new("trap '' USR1; begins; while [ ! -e go ]; do sleep 0.1; done; loses; sleep 20");
    let going = place.start("localhost:1,other:1", &[]);
    place.awaits("\ncheckpoint  1");
    going.signal("-TERM");
    thread::sleep(Duration::from_millis(500));
    fs::write(place.path("go"), "").unwrap();
    let said = going.ends_with(5);
    assert!(said.contains("other does not answer any more"), "{said}");
    assert!(said.contains("SIGTERM: stopped, to be continued from checkpoint 1"), "{said}");
    assert_eq!(place.starts(), 1, "{said}");
}

#[test]
fn a_program_that_is_to_stop_is_asked_again() {
    // The first time it does not hear.
    let place = Place::new(
        r#"[ $start = 1 ] || { is_done 0; exit 0; }
        begins; for time in 1 2; do
            until [ -e "$SPMD_STOP_FILE" ]; do sleep 0.1; done; rm "$SPMD_STOP_FILE"
        done; is_done 5; exit 5"#,
    );
    let going = place.start("localhost:2", &[]);
    place.awaits("\ncheckpoint  1");
    place.say(&["drain", "localhost:1"]).success();
    let said = going.ends_with(0);
    assert!(said.contains("planned stop; 1 rank on localhost goes on"), "{said}");
    assert_eq!(place.starts(), 2, "{said}");
}

#[test]
fn who_brings_a_host_in_hears_that_others_are_missing() {
    let place = Place::new("begins; sleep 1; touch is_sick; loses; sleep 20");
    let going = place.start("localhost:1,other:1", &["--min-ranks", "2"]);
    place.awaits("waiting for hosts");
    let told = place.say(&["add", "far:1"]).success().stdout;
    assert_eq!(told, "noted; for now there is room for 1 ranks, --min-ranks is 2\n");
    going.signal("-TERM");
    going.ends_with(5);
}

#[test]
fn a_host_that_answers_and_cannot_be_used_stops_nothing() {
    let place = Place::new(
        "[ $start = 1 ] || { begins; sleep 8; is_done 0; exit 0; }
        begins; sleep 1; touch is_sick; loses; sleep 20",
    );
    let ending = place.ends("localhost:1,other:1", &[]).success();
    let line = "restart 1 of 5: other is lost; 1 rank on localhost goes on from ";
    assert!(ending.stderr.contains(line), "{ending:#?}");
    assert!(!ending.stderr.contains("other answers"), "{ending:#?}");
    assert_eq!(place.starts(), 2, "{ending:#?}");
}
