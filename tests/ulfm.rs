//! Repairs in place on MPI: Open MPI 5 under `mpirun --with-ft ulfm`. Whether a run went well its
//! record and what it has printed say; the exit code of this launcher does not.
#![cfg(all(feature = "mpi", target_os = "linux"))]

mod support;
#[path = "ulfm/wishes.rs"]
mod wishes;

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use spmd::{record::Record, recover::Origin};
use support::{Ending, alone, example, mpirun};

/// Against hanging only.
const LIMIT: Duration = Duration::from_secs(120);
/// Of `surviving`, on any number of ranks.
const SUM: &str = "sum 7884b4c63c4b6790 of ";

/// After 400 steps.
const LONG_SUM: &str = "sum 8187c34cf1990ba0 of ";

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

/// So many processes of a program, where losses are survived.
fn with_ulfm(processes: usize, program: &Path) -> Command {
    let command = mpirun(processes, program);
    let mut with = support::program(command.get_program());
    // Before the program's name.
    with.args(["--with-ft", "ulfm"]).args(command.get_args());
    for name in ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] {
        with.env(name, "1");
    }
    with
}

/// `surviving` on so many processes.
fn surviving(processes: usize, options: &str) -> Command {
    let mut command = with_ulfm(processes, &example("surviving"));
    command.args(["--commit", "5"]).args(options.split_whitespace());
    command
}

fn run(processes: usize, options: &str) -> Ending {
    let _seats = alone();
    support::run(&mut surviving(processes, options), LIMIT)
}

/// A run that survives: its record.
fn survived(processes: usize, options: &str) -> Record {
    survived_saying(processes, options).0
}

/// As well what it has said.
fn survived_saying(processes: usize, options: &str) -> (Record, String) {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("record.json");
    let out = run(processes, &format!("{options} --record {}", file.display()));
    assert!(out.stdout.contains(SUM), "{options}: {out:#?}");
    let record = Record::parse(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(record.exit_code, 0, "{options}: {out:#?}");
    (record, out.stderr)
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
    ] {
        let out = run(2, options).code(2);
        assert!(out.stderr.contains(what), "{out:#?}");
    }
}

#[test]
fn spare_processes_go_on_where_all_ranks_are_lost() {
    if !survives() {
        return;
    }
    let record = survived(3, "--spare-ranks 2 --inject 0@150");
    assert_eq!((ranks(&record), record.epochs[1].from), (vec![1, 1], Origin::Beginning));
}

/// The ranks' processes of a run, by a file that only it has been told.
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

/// Waits until rank 1 of a run of three, which leaves this file, hangs; kills rank 2.
fn kill_beside_one_that_hangs(record: &Path, hangs: &Path) {
    let started = Instant::now();
    while !hangs.exists() {
        assert!(started.elapsed() < LIMIT, "no rank hangs");
        thread::sleep(Duration::from_millis(20));
    }
    let is_second = |process: &u32| {
        let variables = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        variables.split(|&byte| byte == 0).any(|one| one == b"OMPI_COMM_WORLD_RANK=2")
    };
    let second = processes(record).into_iter().find(is_second).expect("there is a rank 2");
    Command::new("kill").args(["-KILL", &second.to_string()]).status().expect("kill starts");
}

#[test]
fn nobody_waits_for_a_rank_that_computes_without_end() {
    if !survives() {
        return;
    }
    let _seats = alone();
    let place = tempfile::tempdir().unwrap();
    let (record, hangs) = (place.path().join("record.json"), place.path().join("hangs"));
    let (record_name, hangs_name) = (record.display(), hangs.display());
    let options =
        format!("--hang 1@20 --once {hangs_name} --repair-limit 2 --record {record_name}");
    let out = thread::scope(|scope| {
        scope.spawn(|| kill_beside_one_that_hangs(&record, &hangs));
        support::run(&mut surviving(3, &options), LIMIT)
    });
    assert!(out.code.is_some_and(|code| code != 0), "{out:#?}");
    let words = "have not gone on within 2 s (--repair-limit)";
    assert!(out.stderr.contains(words), "{out:#?}");
    let gone = Instant::now();
    while !processes(&record).is_empty() {
        assert!(gone.elapsed() < Duration::from_secs(10), "ranks are left behind");
        thread::sleep(Duration::from_millis(50));
    }
}

/// `spmd run --restarts 2 --in-place` with so many processes of `surviving`.
fn supervised(processes: usize, place: &Path, options: &str) -> Command {
    let mut command = support::spmd();
    command.args(["run", "--restarts", "2", "--in-place", "--oversubscribe", "-n"]);
    command.arg(processes.to_string());
    command.arg("--record").arg(place.join("record.json"));
    command.arg(example("surviving")).args(["--commit", "5"]).args(options.split_whitespace());
    for name in ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] {
        command.env(name, "1");
    }
    for name in ["SPMD_MPIRUN", "LD_LIBRARY_PATH"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    command.env("XDG_RUNTIME_DIR", place).current_dir(place);
    command
}

#[test]
fn a_supervised_run_is_repaired_in_place_and_judged_by_its_record() {
    if !survives() {
        return;
    }
    let _seats = alone();
    let place = tempfile::tempdir().unwrap();
    let out = support::run(&mut supervised(3, place.path(), "--inject 1@400"), LIMIT).success();
    assert!(out.stdout.contains(&format!("{SUM}3 ranks after 2 epochs")), "{out:#?}");
    assert!(!out.stderr.contains("restart 1 of 2"), "{out:#?}");
}

#[test]
fn behind_a_repair_that_takes_too_long_there_is_a_restart() {
    if !survives() {
        return;
    }
    let _seats = alone();
    let place = tempfile::tempdir().unwrap();
    // The launcher's processes know the run by the place of its checkpoints.
    let (kept, hangs) = (place.path().join("kept"), place.path().join("hangs"));
    let options = format!(
        "--hang 1@20 --once {} --repair-limit 2 --checkpoint {} --every 5",
        hangs.display(),
        kept.display()
    );
    let out = thread::scope(|scope| {
        scope.spawn(|| kill_beside_one_that_hangs(&kept, &hangs));
        support::run(&mut supervised(3, place.path(), &options), LIMIT)
    });
    assert!(out.stderr.contains("restart 1 of 2"), "{out:#?}");
    assert!(out.stdout.contains(&format!("{SUM}3 ranks after 1 epochs")), "{out:#?}");
    assert_eq!(out.code, Some(0), "{out:#?}");
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
    let mut takes = [const { Vec::new() }; 4];
    // benches/peers/losses.c, built: what C needs for as much, in the same minutes.
    let peer = std::env::var_os("SPMD_PEER");
    for seed in seeds {
        let ranks = [2, 3, 4, 6][seed as usize % 4];
        let calls = [60, 400, 1200][seed as usize % 3];
        let (way, processes, options) = match seed % 5 {
            0 => (0, ranks, format!("--inject random:{seed}:1:{calls}")),
            1 | 2 => {
                let options = "--spare-ranks 2 --on-loss shrink --inject random";
                (1, ranks + 2, format!("{options}:{seed}:2:{calls}"))
            }
            _ => {
                let losses = ranks - 1;
                (2, ranks, format!("--on-loss shrink --inject random:{seed}:{losses}:{calls}"))
            }
        };
        let (record, said) = survived_saying(processes, &format!("{options} --give-up 9"));
        runs += 1;
        losses += record.epochs.iter().map(|epoch| epoch.lost.len()).sum::<usize>();
        takes[way].extend(said.lines().filter_map(|line| took(line, &record)));
        if let Some(peer) = peer.as_ref().filter(|_| way == 2) {
            takes[3].extend(in_c(Path::new(peer), ranks, seed as usize % ranks));
        }
    }
    println!("campaign: {runs} runs, {losses} losses");
    for (way, takes) in
        ["new processes", "spare processes", "those that are left", "C"].iter().zip(&mut takes)
    {
        for (what, part) in [("others know", 0), ("restored", 1)] {
            let mut times: Vec<f64> = takes.iter().map(|took| took[part]).collect();
            times.sort_by(f64::total_cmp);
            if let [.., most] = times[..] {
                let (middle, late) = (times[times.len() / 2], times[times.len() * 99 / 100]);
                println!(
                    "takes: lost -> {what}, {way}: median {:.1} ms, p99 {:.1} ms, most {:.1} ms of {}",
                    middle * 1e3,
                    late * 1e3,
                    most * 1e3,
                    times.len()
                );
            }
        }
    }
    assert!(losses >= runs / 2);
}

/// How long it takes a program in C to know of a loss, and to be at work again; none if it is not.
fn in_c(peer: &Path, ranks: usize, lost: usize) -> Option<[f64; 2]> {
    let _seats = alone();
    let mut command = with_ulfm(ranks, peer);
    let out = support::run(command.args([&lost.to_string(), "200"]), LIMIT);
    // The launcher says much before and after.
    out.stdout.lines().find_map(|line| {
        let (knows, goes_on) = line.split_once(' ')?;
        Some([knows.parse().ok()?, goes_on.parse().ok()?])
    })
}

/// Processes that are killed from outside, at any time: two, so shortly one after the other that the
/// second is often lost while the loss of the first is repaired. Where that is while the library makes
/// a communicator it ends all processes (Open MPI 5.0.11), and the run is started again.
#[test]
fn losses_during_repairs_are_survived() {
    if !survives() {
        return;
    }
    let seeds = if std::env::var_os("SPMD_CAMPAIGN").is_some() { 0..60 } else { 0..4_u64 };
    let (mut runs, mut losses, mut restarts) = (0, 0, 0);
    for seed in seeds {
        let _seats = alone();
        let place = tempfile::tempdir().unwrap();
        let (kept, begun) = (place.path().join("kept"), place.path().join("begun"));
        let spare = if seed % 2 == 0 { "" } else { "--spare-ranks 1" };
        let options = format!(
            "--steps 400 --on-loss shrink --give-up 9 {spare} --begun {} --checkpoint {} --every 50",
            begun.display(),
            kept.display()
        );
        let out = thread::scope(|scope| {
            scope.spawn(|| {
                let started = Instant::now();
                while !begun.exists() && started.elapsed() < LIMIT {
                    thread::sleep(Duration::from_millis(5));
                }
                thread::sleep(Duration::from_millis(seed * 37 % 500));
                let mut left = processes(&kept);
                left.rotate_left(seed as usize % 5);
                for process in left.into_iter().take(2) {
                    Command::new("kill").args(["-KILL", &process.to_string()]).status().unwrap();
                    thread::sleep(Duration::from_millis(seed * 13 % 70));
                }
            });
            support::run(&mut supervised(5, place.path(), &options), LIMIT)
        });
        assert_eq!(out.code, Some(0), "seed {seed}: {out:#?}");
        assert!(out.stdout.contains(LONG_SUM), "seed {seed}: {out:#?}");
        (runs, losses) = (runs + 1, losses + 2);
        restarts += out.stderr.matches("spmd run: restart ").count();
    }
    println!("campaign: {runs} runs, {losses} losses, with {restarts} restarts");
}

/// From a loss that was asked for, which this line tells of: how long until others knew, and until
/// the state was restored from memory.
fn took(line: &str, record: &Record) -> Option<[f64; 2]> {
    let (_, words) = line.split_once("as --inject asks for, ")?;
    let (after_s, epoch) = words.split_once(" s after epoch ")?;
    let epoch: usize = epoch.strip_suffix(" began")?.parse().ok()?;
    let (broken, next) = (record.epochs.get(epoch)?, record.epochs.get(epoch + 1)?);
    let lost_s = broken.began_s + after_s.parse::<f64>().ok()?;
    let restored_s = next.restored_s.filter(|_| next.from == Origin::Memory)?;
    Some([broken.lost_s? - lost_s, restored_s - lost_s])
}
