//! A job that is stopped, killed, or finds its files damaged, and goes on: `examples/heat2d.rs` on
//! the engine `local`. The result always has the bits of the run that nobody disturbed.

mod support;

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use support::{example, program};

const SIZE: &str = "24,31";
/// More steps than any test waits for.
const FOREVER: &str = "4000000000";
/// How long anything may take that is sure to come.
const PATIENCE: Duration = Duration::from_secs(120);

fn heat2d(ranks: usize, kept: Option<&Path>, arguments: &[&str]) -> Command {
    heat2d_of(SIZE, ranks, kept, arguments)
}

fn heat2d_of(size: &str, ranks: usize, kept: Option<&Path>, arguments: &[&str]) -> Command {
    let mut command = program(example("heat2d"));
    command.args(["--engine", "local", "--threads", "1", "--size", size, "-n"]);
    command.arg(ranks.to_string()).args(arguments);
    kept.map(|kept| command.arg("--checkpoint").arg(kept));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn words(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

fn checksum(output: &Output) -> String {
    let text = words(output);
    assert!(output.status.success(), "{text}");
    let line = text.lines().find_map(|line| line.strip_prefix("checksum: "));
    line.unwrap_or_else(|| panic!("no checksum: {text}")).to_owned()
}

/// At which step the kept state is.
fn step_kept(kept: &Path) -> u64 {
    let output = heat2d(2, Some(kept), &["--steps", "0"]).output().unwrap();
    let text = words(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    let (_, step) = text.split_once("the checkpoint is at step ").unwrap();
    step.split(|end: char| !end.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// The job goes on for some steps on so many ranks, and comes to the right result.
fn goes_on(kept: &Path, ranks: usize) -> u64 {
    let step = step_kept(kept);
    let steps = (step + 7).to_string();
    let output = heat2d(ranks, Some(kept), &["--steps", &steps]).output().unwrap();
    assert!(words(&output).contains(&format!("continued: from {}/", kept.display())), "{output:?}");
    let undisturbed = heat2d(1, None, &["--steps", &steps]).output().unwrap();
    assert_eq!(checksum(&output), checksum(&undisturbed));
    step
}

fn wait_until(what: &str, mut happens: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !happens() {
        assert!(begun.elapsed() < PATIENCE, "{what} does not happen");
        thread::sleep(Duration::from_millis(5));
    }
}

fn signal(child: &Child, name: &str) {
    Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
}

/// The checkpoints there are, the oldest first.
fn checkpoints(kept: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(kept) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.file_name().unwrap().to_str().unwrap().parse::<u64>().is_ok());
    paths.sort();
    paths
}

/// How a job says why it has stopped, its options, and what asks it to.
type Asks<'a> = (&'a str, &'a [&'a str], &'a dyn Fn(&Child));

#[test]
fn a_job_that_is_asked_to_stop_ends_with_5_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let kept = directory.path().join("kept");
    let file = directory.path().join("stop");
    fs::write(&file, "that it is there from the start means nothing").unwrap();
    let stop_file = ["--stop-file", file.to_str().unwrap()];
    let asks: [Asks<'_>; 5] = [
        ("SIGTERM", &[], &|job| signal(job, "-TERM")),
        ("SIGINT", &[], &|job| signal(job, "-INT")),
        ("SIGUSR1", &[], &|job| signal(job, "-USR1")),
        ("by --stop-file", &stop_file, &|_| fs::write(&file, "now").unwrap()),
        ("its time is nearly up", &["--walltime", "2"], &|_| {}),
    ];
    let mut last = 0;
    for ((why, arguments, ask), ranks) in asks.into_iter().zip([3, 1, 8, 2, 4]) {
        if why == "SIGINT" && support::ignores(nix::sys::signal::Signal::SIGINT) {
            continue;
        }
        let arguments = [arguments, &["--every", "0.05s", "--steps", FOREVER]].concat();
        let before = checkpoints(&kept).last().cloned();
        let job = heat2d(ranks, Some(&kept), &arguments).spawn().unwrap();
        wait_until("a checkpoint", || checkpoints(&kept).last().cloned() > before);
        ask(&job);
        let output = job.wait_with_output().unwrap();
        let text = words(&output);
        assert_eq!(output.status.code(), Some(5), "{why}: {text}");
        let line = text.lines().find(|line| line.contains("stopped")).unwrap_or_default();
        let (end, _) = line.split_once("/0").unwrap();
        assert_eq!(end, format!("stopped ({why}), to be continued from {}", kept.display()));
        assert!(!text.contains("error"), "{text}");
        let step = goes_on(&kept, ranks % 3 + 1);
        assert!(step > last);
        last = step;
    }
}

#[test]
fn the_end_of_a_batch_job_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 20;
    let mut job = heat2d(2, Some(directory.path()), &["--steps", FOREVER]);
    let output = job.env("SLURM_JOB_END_TIME", end.to_string()).output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    goes_on(directory.path(), 3);
}

#[test]
fn a_second_signal_ends_the_job_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let kept = directory.path();
    // Steps long enough for both signals to come within one.
    let mut job = heat2d_of("3000,3000", 2, Some(kept), &["--steps", FOREVER]);
    let job = job.spawn().unwrap();
    wait_until("the start", || kept.join("lock").exists());
    signal(&job, "-TERM");
    signal(&job, "-USR1");
    let output = job.wait_with_output().unwrap();
    let by = output.status.signal();
    // Both are pending at the same time now and then: the system chooses their order.
    assert!(by == Some(15) || by == Some(10), "{output:?}");
    assert!(checkpoints(kept).is_empty());
}

#[test]
fn a_job_that_is_killed_at_any_moment_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let kept = directory.path();
    let mut random = 0x2545_f491_4f6c_dd1d_u64; // Marsaglia's xorshift
    for kill in 0..100 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let arguments = ["--every", "1", "--steps", FOREVER];
        let mut job = heat2d(1 + kill % 4, Some(kept), &arguments).spawn().unwrap();
        thread::sleep(Duration::from_micros(10_000 + random % 100_000));
        let early = job.try_wait().unwrap();
        job.kill().unwrap();
        let output = job.wait_with_output().unwrap();
        assert!(early.is_none(), "kill {kill}: {}", words(&output));
        assert!(!words(&output).contains("damaged"), "kill {kill}: {}", words(&output));
    }
    assert!(goes_on(kept, 5) > 0, "no run has come to a step");
}

#[test]
fn a_damaged_checkpoint_is_told_and_the_one_before_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let kept = directory.path();
    let output = heat2d(3, Some(kept), &["--every", "10", "--steps", "50"]).output().unwrap();
    checksum(&output);
    assert_eq!(step_kept(kept), 50);
    let part = checkpoints(kept).last().unwrap().join("part-000001");
    let mut bytes = fs::read(&part).unwrap();
    bytes[100] ^= 1;
    fs::write(&part, bytes).unwrap();
    let output = heat2d(2, Some(kept), &["--steps", "50"]).output().unwrap();
    let (text, name) = (words(&output), part.display());
    let told = format!("{name}: damaged: the bytes of piece 1 are not those that were written");
    assert!(text.contains(&told) && text.contains("the checkpoint before it is tried"), "{text}");
    assert!(text.contains("/000004\n"), "{text}");
    let undisturbed = heat2d(1, None, &["--steps", "50"]).output().unwrap();
    assert_eq!(checksum(&output), checksum(&undisturbed));
}

#[test]
fn what_began_otherwise_is_not_continued() {
    let directory = tempfile::tempdir().unwrap();
    let kept = directory.path();
    let output = heat2d(2, Some(kept), &["--every", "10", "--steps", "10"]).output().unwrap();
    checksum(&output);
    let output = heat2d_of("24,32", 2, Some(kept), &[]).output().unwrap();
    let text = words(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("24 x 31 of f64 there, and an array of 24 x 32 of f64 here"), "{text}");
    assert_eq!(text.matches("error").count(), 1, "{text}");
    // Where there is no room for a second one, the first stays.
    let full = heat2d(2, Some(kept), &["--every", "1", "--steps", "20"]);
    let mut limited = program("sh");
    limited.args(["-c", "ulimit -f 2 && exec \"$0\" \"$@\""]).arg(full.get_program());
    let output = limited.args(full.get_args()).output().unwrap();
    let text = words(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(": needs ") && text.contains("allowed by `ulimit -f`"), "{text}");
    assert_eq!(checkpoints(kept).len(), 1);
    goes_on(kept, 3);
}

#[test]
fn a_full_disk_leaves_the_checkpoints_before_and_says_what_is_needed() {
    let apart = Command::new("unshare").args(["-m", "true"]).status();
    if !apart.is_ok_and(|status| status.success()) {
        println!("skipped: a small disk needs the right to make one");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let kept = directory.path().join("kept");
    fs::create_dir(&kept).unwrap();
    let job = heat2d_of("105,105", 2, Some(&kept), &["--every", "1", "--steps", "9"]);
    let mut command = program("unshare");
    // Room for two of 90 kB, and not for a third beside them.
    let script = "mount -t tmpfs -o size=200k none kept && \"$@\"; code=$?; ls -A kept; exit $code";
    command.args(["-m", "sh", "-c", script, "sh"]).arg(job.get_program()).args(job.get_args());
    let output = command.current_dir(&directory).output().unwrap();
    let text = words(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("000003: needs 88.") && text.contains(" free on its file system"),
        "{text}"
    );
    assert_eq!(text.lines().filter(|line| line.starts_with("00000")).count(), 2, "{text}");
}

#[test]
fn every_program_that_keeps_checkpoints_goes_on_to_the_same_result() {
    // The sums of `cg` are added up rank by rank: their last digits are those of one number of ranks.
    let programs: [(&str, &[&str], &str); 6] = [
        ("cg", &["--class", "S"], "verification: "),
        ("life", &["--pattern", "glider", "--size", "20"], "verification: "),
        ("nbody", &["--bodies", "200", "--steps", "6"], "checksum: "),
        ("stencil", &["--size", "90", "--iterations", "6"], "verification: "),
        ("transpose", &["--order", "41", "--iterations", "6"], "verification: "),
        ("wavefront", &["--columns", "23", "--rows", "19", "--iterations", "6"], "verification: "),
    ];
    for (name, arguments, result) in programs {
        let directory = tempfile::tempdir().unwrap();
        let run = |ranks: &str, more: &[&str]| {
            let mut command = program(example(name));
            command.args(["--engine", "local", "--threads", "1", "-n", ranks]).args(arguments);
            words(&command.args(more).output().unwrap())
        };
        let line = |text: &str| {
            let line = text.lines().find(|line| line.starts_with(result));
            line.unwrap_or_else(|| panic!("{name}: {text}")).to_owned()
        };
        let kept = ["--checkpoint", directory.path().to_str().unwrap()];
        // Stopped by the end of its time after the first step.
        let stopped = run("3", &[&kept[..], &["--walltime", "0.5"]].concat());
        assert!(stopped.contains("stopped (its time is nearly up), to be continued"), "{stopped}");
        for ranks in ["3", "2", "5"] {
            let continued = run(ranks, &kept);
            assert!(continued.contains("continued: from "), "{name}: {continued}");
            let undisturbed = run(if name == "cg" { ranks } else { "1" }, &[]);
            assert!(undisturbed.contains("verification: passed"), "{undisturbed}");
            if name != "cg" || ranks == "3" {
                assert_eq!(line(&continued), line(&undisturbed));
            } else {
                assert!(continued.contains("verification: passed"), "{continued}");
            }
        }
    }
}
