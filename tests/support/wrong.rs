//! Runs many random wrong programs (`tests/programs/random.rs --wrong`) and says how they ended.

use std::{collections::BTreeMap, fs, process::Command, time::Duration};

use super::{Ending, OPEN_MPI, run};

/// So many programs take by far less time.
const AT_ONCE: u64 = 250;
const LIMIT: Duration = Duration::from_secs(600);

/// How many programs a test runs, and with which seed: the campaigns that `docs/soundness.md` tells
/// of run more than every test.
pub(crate) fn asked_for(programs: u64) -> (u64, u64) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect(name));
    (number("SPMD_WRONG_PROGRAMS").unwrap_or(programs), number("SPMD_WRONG_SEED").unwrap_or(1))
}

/// Runs programs of this seed by `start`, again and again, since some of them end the job. Returns
/// what ended as nothing may: by a signal, without a word, never; with damage to memory, or
/// something wrong delivered.
pub(crate) fn wrong_programs(
    name: &str,
    seed: u64,
    programs: u64,
    start: impl Fn() -> Command,
) -> Vec<String> {
    let mut tally = BTreeMap::<String, u64>::new();
    let mut failures = Vec::new();
    let (mut first, mut late) = (0, 0);
    while first < programs {
        let count = AT_ONCE.min(programs - first);
        let progress = tempfile::tempdir().expect("a directory for notes can be made");
        let mut command = start();
        command.args(["--wrong", "--guard", "--seed", &seed.to_string()]);
        command.args(["--first", &first.to_string(), "--programs", &count.to_string()]);
        let ending = run(command.arg("--progress").arg(progress.path()), LIMIT);
        let notes = fs::read_to_string(progress.path().join("ended")).unwrap_or_default();
        for kind in notes.lines() {
            *tally.entry(kind.to_owned()).or_default() += 1;
        }
        if ending.code == Some(0) {
            first += count;
            continue;
        }
        // The program that ended the job is the last that some rank was in.
        let reached =
            fs::read_dir(progress.path()).expect("notes can be listed").filter_map(|note| {
                let note = note.ok()?;
                note.file_name().to_str()?.starts_with("rank-").then_some(())?;
                fs::read_to_string(note.path()).ok()?.parse::<u64>().ok()
            });
        let Some(number) = reached.max() else {
            // On a busy machine MPI may take longer to start than calls are given.
            late += 1;
            assert!(late < 100 && how(&ending).is_ok(), "{name} does not start: {ending:#?}");
            continue;
        };
        match how(&ending) {
            Ok(kind) => *tally.entry(kind.to_owned()).or_default() += 1,
            Err(why) => {
                let lines = ending.stdout.lines().chain(ending.stderr.lines());
                let telling =
                    lines.filter(|line| line.contains("wrong: ") || line.contains("damaged: "));
                let last: Vec<&str> = ending.stderr.lines().rev().take(12).collect();
                let tail: Vec<&str> = telling.take(3).chain(last.into_iter().rev()).collect();
                // The rank that tells of it may be behind the others.
                let told = format!("wrong: seed {seed} program ");
                let told = tail.iter().find_map(|line| line.split(&told).nth(1)?.split(' ').next());
                let first = told.map_or_else(|| number.to_string(), str::to_owned);
                let again = format!("--wrong --guard --seed {seed} --first {first} --programs 1");
                let text =
                    format!("{name}: {why} (code {:?}): random {again}: {tail:#?}", ending.code);
                eprintln!("{text}");
                failures.push(text);
            }
        }
        first = number + 1;
    }
    println!(
        "{name}, seed {seed}: {programs} wrong programs: {tally:?}, {} failed",
        failures.len()
    );
    failures
}

/// How a job that did not end well has ended, if a job may end so.
fn how(ending: &Ending) -> Result<&'static str, &'static str> {
    let text = &ending.stderr;
    let says = |what| text.contains(what) || ending.stdout.contains(what);
    if says("damaged: ") || says("wrong: ") {
        return Err("memory was damaged or something wrong delivered");
    }
    let waits = text.contains("longer than --timeout");
    match ending.code {
        Some(4) if waits => Ok("ended by --timeout"),
        // MPICH's launcher reports how it killed the others.
        Some(9 | 137) if waits && !*OPEN_MPI => Ok("ended by --timeout"),
        Some(1 | 2 | 4) if text.contains("error: ") => Ok("ended by an error"),
        None => Err("ended by a signal or hung"),
        Some(_) => Err("ended as no job may"),
    }
}
