//! `spmd run`: which launcher, with which words; signals, hosts, what is left, and how a run is
//! judged. Launchers and agents are scripts here; with the feature `mpi` a real one is tried, too.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

mod support;

use nix::sys::signal::Signal;
use support::{Ending, example, ignores, spmd};

/// Against hanging only.
const LIMIT: Duration = Duration::from_secs(90);

fn run(command: &mut Command) -> Ending {
    support::run(command, LIMIT)
}

/// A directory of scripts.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.add("task", "#!/bin/sh\n");
        place
    }

    /// What may need MPI or not: a script.
    fn task(&self) -> PathBuf {
        self.path("task")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A script, or a program that is none but says what it needs.
    fn add(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// A launcher that calls itself so and runs `$PROGRAM` once, whatever it is told.
    fn launcher(&self, version: &str, then: &str) -> PathBuf {
        let text = format!(
            "#!/bin/sh\nif [ \"$1\" = --version ]; then printf '{version}\\n'; exit; fi\n\
             printf '%s\\n' \"$*\" >{}\n{then}\n",
            self.path("words").display()
        );
        self.add("mpirun", text)
    }

    /// `spmd run` with that launcher.
    fn run(&self, version: &str, then: &str) -> Command {
        let mut command = spmd();
        command.arg("run").env("SPMD_MPIRUN", self.launcher(version, then));
        command.current_dir(self.0.path());
        command
    }
}

const OPEN_MPI: &str = "mpirun (Open MPI) 4.1.4";
const HYDRA: &str = "HYDRA build details:\\n    Version:           5.0.2";
const WITH_OPEN_MPI: &[u8] = b"\x7fELF\0libmpi.so.40\0";

#[cfg(not(feature = "mpi"))]
#[test]
fn without_mpi_ranks_are_threads_of_the_program_itself() {
    let ring = example("ring");
    let out = run(spmd().args(["run", "-n", "3"]).arg(&ring)).success().stdout;
    assert!(out.contains("engine: local"), "{out}");
    let words = ["run", "--launcher", "local", "-n", "2", "--threads", "1", "--dry-run"];
    let line = run(spmd().args(words).arg(&ring).arg("a b")).success().stdout;
    let expected =
        format!("SPMD_THREADS=1 SPMD_ENGINE=local SPMD_RANKS=2 {} 'a b'\n", ring.display());
    assert_eq!(line, expected);
    for words in [&["--launcher", "mpirun"][..], &["--hosts", "a,b"]] {
        let ending = run(spmd().arg("run").args(words).arg(&ring)).code(2);
        assert!(ending.stderr.contains("built without MPI"), "{ending:#?}");
    }
}

/// A program that keeps no checkpoints does not look at the time by itself.
#[test]
fn a_walltime_ends_ranks_that_are_threads() {
    let mut command = spmd();
    command.args(["run", "-n", "2", "--launcher", "local", "--walltime", "1", "--grace", "1"]);
    let ending = run(command.arg(example("ep")).args(["--class", "B"])).code(4);
    assert!(ending.stderr.contains("--walltime"), "{ending:#?}");
}

#[test]
fn what_cannot_be_run_is_refused() {
    let ending = run(spmd().args(["run", "no-such-program"])).code(2);
    assert!(ending.stderr.contains("no program no-such-program in the PATH"), "{ending:#?}");
    let ending = run(spmd().args(["run", "./no/such"])).code(2);
    assert!(ending.stderr.contains("./no/such is not there"), "{ending:#?}");
    run(spmd().arg("run")).code(2);
    run(spmd().args(["run", "--hosts", "a[", "true"])).code(2);
    run(spmd().args(["run", "--walltime", "soon", "true"])).code(2);
    let few = ["run", "--restarts", "1", "--min-ranks", "3", "-n", "2", "true"];
    let ending = run(spmd().args(few)).code(2);
    assert!(ending.stderr.contains("there are 2 at most"), "{ending:#?}");
    // A list of hosts that the batch system, or somebody, has damaged.
    let place = Place::new();
    let mut command = place.run(OPEN_MPI, "exit 0");
    let ending = run(command.arg(place.task()).env("SLURM_JOB_NODELIST", "n[1-")).code(2);
    assert!(ending.stderr.contains("SLURM_JOB_NODELIST"), "{ending:#?}");
    let ending = run(spmd().args(["run", "--launcher", "local", "--hosts", "a", "true"])).code(2);
    assert!(ending.stderr.contains("ranks that are threads"), "{ending:#?}");
}

#[test]
fn a_dry_run_prints_the_launchers_own_words() {
    let place = Place::new();
    let solver = place.add("solver", WITH_OPEN_MPI);
    let dry = |version: &str, words: &[&str]| {
        let mut command = place.run(version, "exit 9");
        run(command.arg("--dry-run").args(words).arg(&solver).arg("--x=1")).success().stdout
    };
    let line = dry(OPEN_MPI, &["-n", "1", "--threads", "1"]);
    assert!(line.contains("SPMD_THREADS=1 "), "{line}");
    assert!(line.contains(" -n 1 --map-by slot:PE=1 --bind-to core "), "{line}");
    assert!(line.ends_with("/solver --x=1\n"), "{line}");
    let line = dry(OPEN_MPI, &["-n", "1000"]);
    assert!(line.contains("--oversubscribe --mca mpi_yield_when_idle 1"), "crowded: {line}");
    let line = dry(OPEN_MPI, &["-n", "2", "--share-cpu"]);
    assert!(line.contains("SPMD_SHARE_CPU=true") && line.contains("--bind-to none"), "{line}");
    let line = dry(OPEN_MPI, &["--hosts", "n[1-2]:3", "--walltime", "2m", "--launcher-args=-q -v"]);
    assert!(line.contains("SPMD_WALLTIME=120 ") && line.contains(" -n 6 "), "{line}");
    assert!(line.contains("--hostfile HOSTFILE --mca oob_tcp_keepalive_time 6"), "{line}");
    assert!(line.contains(" -q -v ") && line.ends_with("\nn1 slots=3\nn2 slots=3\n"), "{line}");
    let newer = OPEN_MPI.replace("4.1.4", "5.0.11");
    let line = dry(&newer, &["--hosts", "a:2", "--ssh", "/bin/enter", "--timeout", "9"]);
    assert!(line.contains("--prtemca plm_ssh_agent /bin/enter"), "{line}");
    assert!(line.contains("-x SPMD_TIMEOUT"), "{line}");
    let hosts = place.add("hosts", "a slots=2\nb\n");
    let words = ["--oversubscribe", "--hostfile", hosts.to_str().unwrap()];
    let line = dry(OPEN_MPI, &words);
    assert!(line.contains(" -n 3 --bind-to none --oversubscribe "), "{line}");
    assert!(line.contains("\na slots=2\nb\n# Hosts without slots are asked"), "{line}");
    // The program needs another MPI's launcher.
    let other = place.add("other", b"\x7fELF\0libmpi.so.12\0");
    let mut command = place.run(HYDRA, "exit 9");
    let line = run(command.args(["--dry-run", "--hosts", "a:2,b"]).arg(other)).success().stdout;
    assert!(line.contains("-f HOSTFILE") && line.contains("\na:2\nb\n# Hosts"), "{line}");
}

#[test]
fn a_run_is_judged_by_its_record_not_by_its_launcher() {
    let place = Place::new();
    let ring = example("ring");
    let job =
        place.add("job", format!("#!/bin/sh\nSPMD_ENGINE=local exec {} \"$@\"\n", ring.display()));
    for code in [0, 137] {
        let then = format!("{} -n 2 || exit $?; exit {code}", job.display());
        run(place.run(OPEN_MPI, &then).arg(&job)).success();
    }
    // It began, and left no word: whatever the launcher says.
    let lost = "rm \"$SPMD_RECORD\"; exit 0";
    let ending = run(place.run(OPEN_MPI, lost).arg(&job)).code(4);
    assert!(ending.stderr.contains("a rank is lost"), "{ending:#?}");
    // It is none of spmd's: the launcher's word counts.
    run(place.run(OPEN_MPI, "exit 0").arg(place.task())).success();
    run(place.run(OPEN_MPI, "exit 41").arg(place.task())).code(41);
    // A program that finds its own result wrong, under a launcher that does not mind.
    let faults = example("faults");
    let then = format!("SPMD_ENGINE=local {} verification -n 2; exit 0", faults.display());
    run(place.run(OPEN_MPI, &then).arg(&job)).code(3);
    // The record is kept where it is wanted, and nowhere else.
    let then = format!("{} -n 2", job.display());
    let kept = place.path("kept.json");
    run(place.run(OPEN_MPI, &then).arg("--record").arg(&kept).arg(&job)).success();
    assert_eq!(spmd::record::Record::read(&kept).unwrap().ranks, 2);
    // That of an earlier run does not outlive one that is lost.
    let words = ["--record", kept.to_str().unwrap()];
    run(place.run(OPEN_MPI, lost).args(words).arg(&job)).code(4);
    assert!(!kept.exists());
    run(place.run(OPEN_MPI, &then).env("SPMD_RECORD", &kept).arg(&job)).success();
    let words = ["--record", "no/such/record"];
    run(place.run(OPEN_MPI, "exit 0").args(words).arg(&job)).code(1);
    let left: Vec<_> = fs::read_dir(place.0.path()).unwrap().collect();
    assert_eq!(left.len(), 5, "job, kept.json, mpirun, task, words: {left:?}");
}

/// Starts it, and waits until the file is there.
fn start(command: &mut Command, ready: &Path) -> Child {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let deadline = Instant::now() + LIMIT;
    while !ready.exists() {
        assert!(Instant::now() < deadline, "{} does not come about", ready.display());
        thread::sleep(Duration::from_millis(10));
    }
    child
}

fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
}

/// Its exit code and complaints.
fn end(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_first_signal_asks_and_the_second_ends() {
    let place = Place::new();
    let ready = place.path("ready");
    // Asked by any of them, this one stops, to be continued.
    let stops = "trap 'echo asked; exit 5' USR1; touch ready; while :; do sleep 0.05; done";
    let all = [Signal::SIGUSR1, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
    for name in all.into_iter().filter(|&name| !ignores(name)) {
        let name = format!("-{}", name.as_str().trim_start_matches("SIG"));
        let child = start(place.run(OPEN_MPI, stops).arg(place.task()), &ready);
        signal(&child, &name);
        let (code, text) = end(child);
        assert_eq!(code, Some(130), "none of spmd's, so ended by a signal: {text}");
        assert!(text.contains("asking all ranks to stop"), "{text}");
        fs::remove_file(&ready).unwrap();
    }
    // This one is deaf for a while.
    let deaf = "trap '' USR1 TERM; touch ready; while :; do sleep 0.05; done";
    let child = start(place.run(OPEN_MPI, deaf).args(["--grace", "1h"]).arg(place.task()), &ready);
    signal(&child, "-TERM");
    thread::sleep(Duration::from_millis(300));
    signal(&child, "-TERM");
    let (code, text) = end(child);
    assert_eq!(code, Some(130), "{text}");
    fs::remove_file(&ready).unwrap();
    // Without a second one the time that it has is over at some point.
    let words = ["--walltime", "0.2", "--grace", "0.2"];
    let (code, text) = end(start(place.run(OPEN_MPI, deaf).args(words).arg(place.task()), &ready));
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("--walltime"), "{text}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_signal_that_is_ignored_stays_so() {
    let place = Place::new();
    let ready = place.path("ready");
    let stops = "trap 'exit 5' USR1; touch ready; while :; do sleep 0.05; done";
    let command = place.run(OPEN_MPI, stops);
    // As nohup does.
    let mut ignoring = Command::new("sh");
    ignoring.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(command.get_program());
    ignoring.args(command.get_args()).arg(place.task()).current_dir(place.0.path());
    ignoring.env("SPMD_MPIRUN", place.path("mpirun"));
    let mut child = start(&mut ignoring, &ready);
    // UCX, which Open MPI 5 brings, takes it over before `main`.
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    if u64::from_str_radix(mask, 16).unwrap() & 1 == 0 {
        println!("skipped: a library of MPI does not let SIGHUP be ignored");
        signal(&child, "-TERM");
        child.wait().unwrap();
        return;
    }
    signal(&child, "-HUP");
    thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "it goes on");
    signal(&child, "-TERM");
    let (code, text) = end(child);
    assert!(code == Some(130) && !text.contains("SIGHUP"), "{text}");
}

/// Whether a process with these words runs.
fn runs(words: &str) -> bool {
    let found = Command::new("pgrep").args(["-f", words]).output().unwrap();
    found.status.success()
}

#[cfg(target_os = "linux")]
#[test]
fn nothing_is_left_running() {
    let place = Place::new();
    let ready = place.path("ready");
    // A rank that has left its launcher's group.
    let nap = format!("sleep 41{}", std::process::id());
    let then = format!("setsid {nap} & touch ready; exit 0");
    let ending = run(place.run(OPEN_MPI, &then).arg(place.task())).success();
    assert!(ending.stderr.contains("1 process was left, and ended"), "{ending:#?}");
    assert!(!runs(&nap));
    // The one that watches is killed: its launcher hears of it.
    fs::remove_file(&ready).unwrap();
    let then = format!("trap 'kill $!; exit 1' TERM; {nap} & touch ready; wait");
    let mut child = start(place.run(OPEN_MPI, &then).arg(place.task()), &ready);
    signal(&child, "-KILL");
    child.wait().unwrap();
    let deadline = Instant::now() + LIMIT;
    while runs(&nap) {
        assert!(Instant::now() < deadline, "the launcher goes on");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A run on two hosts that are this one, behind what does this with the words of the second.
fn on_two_hosts(second: &str) -> Ending {
    on_two_hosts_for(second, "sleep 30 & wait")
}

fn on_two_hosts_for(second: &str, launcher: &str) -> Ending {
    let place = Place::new();
    let text = format!(
        "#!/bin/sh\nhost=$1\nshift\nif [ $host = first ]; then exec sh -c \"$*\"; fi\n{second}\n"
    );
    let agent = place.add("agent", text);
    let mut command = place.run(OPEN_MPI, launcher);
    run(command.args(["--hosts", "first:1,second:1", "--ssh"]).arg(agent).arg(place.task()))
}

#[test]
fn hosts_are_looked_at_before_anything_runs() {
    let ending = on_two_hosts("echo no route to it >&2; exit 255").code(7);
    assert!(ending.stderr.contains("second: cannot be reached: no route to it"), "{ending:#?}");
    // It stays until the other has answered, too.
    let changed =
        |what: &str| on_two_hosts(&format!("sh -c \"$*\" </dev/null | sed '{what}'; sleep 2"));
    let ending = changed(r#"s/"program":\[[^]]*\]/"program":null/"#).code(1);
    assert!(
        ending.stderr.contains("second: ") && ending.stderr.contains("is not there"),
        "{ending:#?}"
    );
    let ending = changed(r#"s/"program":\[[^]]*\]/"program":[7,7]/"#).code(1);
    assert!(ending.stderr.contains("is another build than here"), "{ending:#?}");
    let ending = changed(r#"s/"tmp_free":[0-9]*/"tmp_free":0/"#).code(1);
    assert!(ending.stderr.contains(" is full, and MPI keeps files there"), "{ending:#?}");
}

#[test]
fn slow_hosts_and_hosts_without_spmd_take_part() {
    // The others wait, and are not taken for lost.
    on_two_hosts_for("sleep 18; exec sh -c \"$*\"", "exit 0").success();
    let ending = on_two_hosts_for("exit 127", "exit 0").success();
    assert!(ending.stderr.contains("note: second: spmd is not there"), "{ending:#?}");
    let mut command = spmd();
    command.args(["run", "--launcher", "mpirun", "--hosts", "a", "--ssh", "/no/ssh"]);
    let place = Place::new();
    command.env("SPMD_MPIRUN", place.launcher(OPEN_MPI, "exit 0")).arg(place.task());
    let ending = run(&mut command).code(1);
    assert!(ending.stderr.contains("/no/ssh cannot be started"), "{ending:#?}");
}

#[test]
fn info_shows_hosts_before_a_run() {
    let place = Place::new();
    let text = "#!/bin/sh\nif [ $1 = far ]; then echo no route >&2; exit 255; fi\nshift\nexec sh -c \"$*\"\n";
    let agent = place.add("agent", text);
    let mut command = spmd();
    command.args(["info", "--hosts", "localhost,far", "--ssh"]).arg(agent);
    let out = run(&mut command).code(1).stdout;
    assert!(out.starts_with("host       its name"), "{out}");
    assert!(
        out.contains("\nlocalhost ") && out.contains("error: far: cannot be reached: no route"),
        "{out}"
    );
    let out = run(spmd().args(["info", "--hosts", "localhost"])).success().stdout;
    assert_eq!(out.lines().count(), 2, "{out}");
}

#[test]
fn a_host_that_falls_silent_ends_the_run() {
    // As long as its standard input is open it does not think that the run is over.
    let ending = on_two_hosts("sleep 20 | sh -c \"$*\" | head -1; exec sleep 60").code(7);
    assert!(ending.stderr.contains("second does not answer any more"), "{ending:#?}");
    assert!(ending.stderr.contains("error: second is lost"), "{ending:#?}");
    // A signal is heard while hosts are looked at.
    let place = Place::new();
    let agent = place.add("agent", "#!/bin/sh\ntouch ready; exec sleep 60\n");
    let mut command = place.run(OPEN_MPI, "exit 0");
    command.args(["--hosts", "far", "--ssh"]).arg(agent).arg(place.task());
    let child = start(&mut command, &place.path("ready"));
    signal(&child, "-USR1");
    assert_eq!(end(child).0, Some(130));
    // One that hangs up is lost at once.
    let ending = on_two_hosts("sh -c \"$*\" </dev/null | head -1; sleep 1").code(7);
    assert!(ending.stderr.contains("error: second is lost"), "{ending:#?}");
}

/// On a real launcher.
#[cfg(feature = "mpi")]
mod on_mpi {
    use super::*;

    fn job(words: &[&str], heat: &[&str]) -> Command {
        let mut command = spmd();
        if let Ok(launcher) = std::env::var("SPMD_MPIRUN") {
            command.env("SPMD_MPIRUN", launcher);
        }
        command.arg("run").args(words).arg(example("heat2d")).args(heat);
        command
    }

    #[test]
    fn a_program_runs_and_is_heard() {
        let out =
            run(&mut job(&["-n", "3"], &["--size", "64,48", "--steps", "20"])).success().stdout;
        assert!(out.contains("engine: mpi") && out.contains("ranks x threads: 3 x 1"), "{out}");
        run(&mut job(&["-n", "2"], &["--size", "none"])).code(2);
    }

    /// Waits until the program has printed what it prints first.
    fn started(command: &mut Command) -> Child {
        use std::io::Read;
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut byte = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
        thread::sleep(Duration::from_secs(1));
        child
    }

    #[test]
    fn a_signal_stops_all_ranks_which_keep_their_state() {
        let place = Place::new();
        let kept = place.path("kept");
        let kept = kept.to_str().unwrap();
        let steps = ["--size", "200,200", "--steps", "100000000"];
        let child =
            started(&mut job(&["-n", "2"], &[&steps[..], &["--checkpoint", kept]].concat()));
        signal(&child, "-TERM");
        let (code, text) = end(child);
        assert_eq!(code, Some(5), "{text}");
        // A program that keeps nothing is ended.
        let child = started(&mut job(&["-n", "2"], &steps));
        signal(&child, "-USR1");
        let (code, text) = end(child);
        assert_eq!(code, Some(130), "{text}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_killed_rank_and_a_killed_watcher_leave_nothing() {
        let size = format!("2{:02},200", std::process::id() % 100);
        let heat = ["--size", &size, "--steps", "100000000"];
        let words = format!("heat2d --size {size}");
        let ranks = || {
            let found =
                Command::new("pgrep").args(["-f", &format!("^[^ ]*{words}")]).output().unwrap();
            String::from_utf8(found.stdout).unwrap()
        };
        let child = started(&mut job(&["-n", "3"], &heat));
        let rank = ranks().lines().last().unwrap().to_owned();
        assert!(Command::new("kill").args(["-KILL", &rank]).status().unwrap().success());
        let (code, text) = end(child);
        assert_eq!(code, Some(4), "{text}");
        assert!(text.contains("a rank is lost"), "{text}");
        assert_eq!(ranks(), "");
        let mut child = started(&mut job(&["-n", "3"], &heat));
        signal(&child, "-KILL");
        child.wait().unwrap();
        let deadline = Instant::now() + LIMIT;
        while !ranks().is_empty() {
            assert!(Instant::now() < deadline, "ranks go on: {}", ranks());
            thread::sleep(Duration::from_millis(50));
        }
    }
}
