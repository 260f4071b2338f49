//! Repairs in place on MPI: Open MPI 5 under `mpirun --with-ft ulfm`. Whether a run went well its
//! record and what it has printed say; the exit code of this launcher does not.
#![cfg(all(feature = "mpi", target_os = "linux"))]

mod support;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use spmd::{record::Record, recover::Origin};
use support::{Ending, alone, example, mpirun};

/// Against hanging only.
const LIMIT: Duration = Duration::from_secs(120);
/// Of `surviving`, on any number of ranks.
const SUM: &str = "sum 7884b4c63c4b6790 of ";

/// Whether the launcher is one of a library that survives losses; says so if not.
fn survives() -> bool {
    let version = Command::new(std::env::var("SPMD_MPIRUN").unwrap_or("mpirun".into()))
        .arg("--version")
        .output()
        .expect("mpirun starts");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let survives = version.contains("Open MPI) 5.");
    if !survives {
        println!("skipped: {} survives no loss", version.lines().next().unwrap_or("this MPI"));
    }
    survives
}

/// `surviving` on so many processes.
fn surviving(processes: usize, options: &str) -> Command {
    let mut command = mpirun(processes, &example("surviving"));
    // Before the program's name.
    let mut before: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    before.splice(0..0, ["--with-ft".into(), "ulfm".into()]);
    let mut with = support::program(command.get_program());
    with.args(before).args(["--commit", "5"]).args(options.split_whitespace());
    for name in ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] {
        with.env(name, "1");
    }
    command = with;
    command
}

fn run(processes: usize, options: &str) -> Ending {
    let _seats = alone();
    support::run(&mut surviving(processes, options), LIMIT)
}

/// A run that survives, with its record.
fn survived(processes: usize, options: &str) -> Record {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("record.json");
    let out = run(processes, &format!("{options} --record {}", file.display()));
    assert!(out.stdout.contains(SUM), "{options}: {out:#?}");
    let record = Record::parse(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(record.exit_code, 0, "{options}: {out:#?}");
    record
}

fn ranks(record: &Record) -> Vec<usize> {
    record.epochs.iter().map(|epoch| epoch.ranks).collect()
}

#[test]
fn the_ranks_that_are_left_go_on() {
    if !survives() {
        return;
    }
    let record = survived(4, "--on-loss shrink --inject 2@400,0@200/1");
    assert_eq!(ranks(&record), [4, 3, 2]);
    let lost: Vec<_> = record.epochs.iter().map(|epoch| epoch.lost.len()).collect();
    assert_eq!((lost, record.epochs[0].lost[0].rank), (vec![1, 1, 0], 2));
    assert_eq!(record.epochs[1].from, Origin::Memory);
    assert_eq!(record.by_rank.len(), 2);
}

#[test]
fn spare_processes_take_the_places_of_lost_ranks() {
    if !survives() {
        return;
    }
    // The second loss takes the rank that was a spare process before.
    let record = survived(6, "--spare-ranks 2 --on-loss shrink --inject 0@400,0@200/1,1@200/2");
    assert_eq!(ranks(&record), [4, 4, 4, 3]);
}

#[test]
fn new_processes_take_the_places_of_lost_ranks() {
    if !survives() {
        return;
    }
    let record = survived(3, "--inject 1@400");
    assert_eq!(ranks(&record), [3, 3]);
    assert_eq!(record.epochs[1].from, Origin::Memory);
}

#[test]
fn partners_that_are_lost_together_take_the_state_with_them() {
    if !survives() {
        return;
    }
    let record = survived(4, "--on-loss shrink --inject 1+2@400");
    assert_eq!((ranks(&record), record.epochs[1].from), (vec![4, 2], Origin::Beginning));
}

#[test]
fn a_rank_that_panics_is_lost_and_says_why() {
    if !survives() {
        return;
    }
    let out = run(3, "--on-loss shrink --panic 1@20");
    assert!(out.stdout.contains(&format!("{SUM}2 ranks after 2 epochs")), "{out:#?}");
    assert!(out.stderr.contains("error: rank 1 on") && out.stderr.contains("as was asked for"));
}

#[test]
fn a_rank_that_fails_ends_the_job() {
    if !survives() {
        return;
    }
    let out = run(3, "--fail 1@20").code(3);
    assert_eq!(out.stderr.matches("as was asked for").count(), 1, "{out:#?}");
    assert!(!out.stdout.contains(SUM));
}

#[test]
fn a_job_ends_where_too_few_ranks_are_left_or_the_program_is_at_fault() {
    if !survives() {
        return;
    }
    let out = run(3, "--on-loss shrink --min-ranks 3 --inject 1@400").code(4);
    assert!(out.stderr.contains("2 of 3 ranks are left, and --min-ranks asks for 3"), "{out:#?}");
    let out = run(5, "--on-loss shrink --inject 4@50,3@50/1,2@50/2").code(1);
    assert!(out.stderr.contains("3 losses in a row, and no commit between them"), "{out:#?}");
}

#[test]
fn what_cannot_be_is_a_usage_error() {
    if !survives() {
        return;
    }
    for (options, what) in [
        ("--spare-ranks 2", "--spare-ranks 2: the launcher has started 2 ranks"),
        ("--ranks 7", "--ranks 7 on the engine mpi, whose launcher started 2"),
        ("--size-file ranks", "--size-file is for ranks that are threads"),
    ] {
        let out = run(2, options).code(2);
        assert!(out.stderr.contains(what), "{out:#?}");
    }
}

/// The ranks' processes of a run, by the file that only it has been told.
fn processes(file: &Path) -> Vec<u32> {
    let is_of = |process: &u32| {
        let read = |name| fs::read(format!("/proc/{process}/{name}")).unwrap_or_default();
        let words = read("cmdline");
        let told = |word: &[u8]| words.windows(word.len()).any(|part| part == word);
        told(file.as_os_str().as_encoded_bytes()) && read("comm").starts_with(b"surviving")
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(is_of).collect()
}

fn end(process: u32) {
    Command::new("kill").args(["-KILL", &process.to_string()]).status().expect("kill starts");
}

#[test]
fn nobody_waits_for_a_rank_that_computes_without_end() {
    if !survives() {
        return;
    }
    let _seats = alone();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("record.json");
    let options = format!("--hang 1@20 --repair-limit 2 --record {}", file.display());
    let mut job = surviving(3, &options);
    let mut job = job.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    let ranks = loop {
        let ranks = processes(&file);
        if ranks.len() == 3 && started.elapsed() > Duration::from_secs(5) {
            break ranks;
        }
        assert!(started.elapsed() < LIMIT);
        thread::sleep(Duration::from_millis(50));
    };
    end(*ranks.iter().max().unwrap());
    let ended = Instant::now();
    while job.try_wait().unwrap().is_none() {
        assert!(ended.elapsed() < Duration::from_secs(30), "the job goes on");
        thread::sleep(Duration::from_millis(50));
    }
    let words = std::io::read_to_string(job.stderr.take().unwrap()).unwrap();
    assert!(words.contains("have not gone on within 2 s (--repair-limit)"), "{words}");
    let gone = Instant::now();
    while !processes(&file).is_empty() {
        assert!(gone.elapsed() < Duration::from_secs(10), "ranks are left behind");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Losses at random calls, several in a run, by every way to go on. Prints what the campaign of
/// `scripts/faults.sh` sums up.
#[test]
fn losses_at_any_call_are_survived() {
    if !survives() {
        return;
    }
    let seeds = if std::env::var_os("SPMD_CAMPAIGN").is_some() { 0..110 } else { 0..6_u64 };
    let (mut runs, mut losses) = (0, 0);
    for seed in seeds {
        let ranks = [2, 3, 4, 6][seed as usize % 4];
        let calls = [60, 400, 1200][seed as usize % 3];
        let (processes, options) = match seed % 5 {
            0 => (ranks, format!("--inject random:{seed}:1:{calls}")), // new processes
            1 | 2 => (
                ranks + 2,
                format!("--spare-ranks 2 --on-loss shrink --inject random:{seed}:3:{calls}"),
            ),
            _ => (ranks, format!("--on-loss shrink --inject random:{seed}:{}:{calls}", ranks - 1)),
        };
        let record = survived(processes, &format!("{options} --give-up 9"));
        runs += 1;
        losses += record.epochs.iter().map(|epoch| epoch.lost.len()).sum::<usize>();
    }
    println!("campaign: {runs} runs, {losses} losses");
    assert!(losses >= runs / 2);
}
