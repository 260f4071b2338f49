//! What runs leave for those who look at them afterwards: records, and studies of how programs scale.

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use spmd::record::{Failed, Record};
use support::{Ending, example, program};

const LIMIT: Duration = Duration::from_secs(300);

fn run(command: &mut Command) -> Ending {
    support::run(command, LIMIT)
}

fn faults(ranks: usize, arguments: &[&str], record: &Path) -> Ending {
    let ranks = ranks.to_string();
    run(program(example("faults")).args(["-n", &ranks]).args(arguments).arg("--record").arg(record))
}

/// An empty directory, and a name in it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("record.json");
    (directory, file)
}

mod records {
    use super::*;

    #[test]
    fn a_run_leaves_what_ran_what_it_cost_and_what_it_found() {
        let (directory, file) = place();
        let mut heat = program(example("heat2d"));
        heat.args(["--size", "61,47", "--steps", "50", "-n", "3", "--threads", "2"]);
        run(heat.env("SPMD_RECORD", &file)).success();
        let record = Record::read(&file).unwrap();
        assert!(record.program.ends_with("heat2d"), "{record:?}");
        assert_eq!(record.arguments[..2], ["--size", "61,47"]);
        assert_eq!(record.variables["SPMD_RECORD"], file.to_str().unwrap());
        assert_eq!((&*record.engine, record.ranks, record.exit_code), ("local", 3, 0));
        assert_eq!(record.failed, None);
        assert!(record.verification().unwrap().passed);
        assert!(record.verification().unwrap().how.starts_with("exact solution"));
        let seconds = record.time_s().unwrap();
        for (rank, part) in record.by_rank.iter().enumerate() {
            assert_eq!((part.rank, part.threads), (rank, 2));
            assert!(part.cpu_count > 0 && !part.cpus.is_empty() && !part.host.is_empty());
            let timed = part.timed.as_ref().unwrap();
            assert_eq!(
                (timed.parts, timed.slowest_s),
                (1, record.by_rank[0].timed.as_ref().unwrap().slowest_s)
            );
            assert!(timed.own_s <= part.wall_s && timed.own_s <= seconds);
            assert!(timed.stats.time() <= part.stats.time());
            assert!(timed.stats.time().as_secs_f64() <= timed.own_s);
            // The halo: 50 messages to each neighbour, and nothing else to anybody.
            assert!(timed.stats.peers.values().all(|peer| peer.messages_sent == 50), "{timed:?}");
            assert!(part.stats.places.keys().any(|place| place.contains("examples/heat2d.rs:")));
            if cfg!(target_os = "linux") {
                let usage = part.usage.unwrap();
                assert!(usage.cpu_s > 0.0 && usage.cpu_s >= timed.usage.unwrap().cpu_s);
            }
        }
        assert_eq!(record.by_rank.len(), 3);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "one file");
    }

    #[test]
    fn a_failed_job_says_so_in_place_of_an_earlier_one() {
        let (_directory, file) = place();
        faults(2, &["none"], &file).success();
        assert_eq!(Record::read(&file).unwrap().exit_code, 0);
        for (others, known) in [("barrier", 4), ("compute", 1)] {
            let ending = faults(4, &["error", others], &file).code(1);
            assert_eq!(ending.stderr.lines().count(), 1, "{ending:?}");
            let record = Record::read(&file).unwrap();
            let Failed { rank, why } = record.failed.unwrap();
            assert_eq!((record.exit_code, rank), (1, 1));
            assert!(why.contains("the disk is full (tests/programs/faults.rs:"), "{why}");
            // Ranks that compute without end cannot tell any more.
            assert_eq!(record.by_rank.len(), known, "others in {others}");
            assert!(record.by_rank.iter().any(|part| part.rank == 1));
        }
        faults(3, &["panic", "barrier"], &file).code(1);
        assert!(Record::read(&file).unwrap().failed.unwrap().why.contains("panicked: a bug"));
        faults(3, &["deadlock"], &file).code(4);
        assert_eq!(Record::read(&file).unwrap().exit_code, 4);
    }

    #[test]
    fn a_wrong_result_is_told_by_every_rank() {
        let (_directory, file) = place();
        faults(3, &["wrong-result"], &file).code(3);
        let record = Record::read(&file).unwrap();
        assert_eq!((record.exit_code, record.by_rank.len()), (3, 3));
        let verification = record.verification().unwrap();
        assert!(!verification.passed && verification.how == "the energy has changed");
        assert_eq!(record.by_rank[2].results["energy_j"], Some(2.0));
        assert_eq!(record.by_rank[2].results["loss"], None, "it was no number");
    }

    #[test]
    fn a_killed_job_leaves_none_of_an_earlier_one_either() {
        let (directory, file) = place();
        faults(2, &["none"], &file).success();
        assert_eq!(faults(2, &["killed", "barrier"], &file).code, None);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_record_that_cannot_be_written_is_a_usage_error_before_anything_runs() {
        let (directory, _) = place();
        let ending = faults(2, &["error"], &directory.path().join("no/such/place")).code(2);
        assert!(ending.stderr.starts_with("error: --record "), "{ending:?}");
        assert_eq!(ending.stderr.lines().count(), 1, "{ending:?}");
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let (_directory, file) = place();
        let why = |file: &Path| Record::read(file).unwrap_err().to_string();
        assert!(why(&file).contains("cannot read"), "{}", why(&file));
        fs::write(&file, "{}").unwrap();
        assert!(why(&file).contains("cannot read the record of a run: missing"), "{}", why(&file));
        faults(1, &["none"], &file).success();
        let newer = fs::read_to_string(&file).unwrap().replace(r#""format":1"#, r#""format":99"#);
        fs::write(&file, newer).unwrap();
        assert!(why(&file).contains("form 99"), "{}", why(&file));
    }
}

mod studies {
    use std::os::unix::fs::PermissionsExt;

    use nix::fcntl::{Flock, FlockArg};

    use super::*;

    /// The words of a study into `out`.
    fn scale(out: &Path, program: &Path, words: &[&str]) -> Command {
        let mut command = support::spmd();
        command.arg("scale").arg(program).arg("--out").arg(out).args(words);
        command
    }

    const SMALL: [&str; 5] = ["--", "--size", "{40*sqrt(p)},{40*sqrt(p)}", "--steps", "5"];

    fn small(out: &Path, words: &[&str]) -> Ending {
        run(&mut scale(out, &example("heat2d"), &[words, &SMALL].concat()))
    }

    fn read(out: &Path, name: &str) -> String {
        fs::read_to_string(out.join(name)).unwrap()
    }

    fn json(out: &Path) -> serde_json::Value {
        serde_json::from_str(&read(out, "study.json")).unwrap()
    }

    #[test]
    fn a_study_has_every_point_and_says_the_same_in_every_form() {
        let (directory, _) = place();
        let out = directory.path().join("study");
        let words = [
            "--ranks",
            "1,2",
            "--threads",
            "1,2",
            "--mode",
            "strong,weak",
            "--launches",
            "2",
            "--cores",
            "2",
            "--machine",
            "a machine",
            "--seed",
            "7",
            "--work",
            "p*p",
            "--patience",
            "0.1",
        ];
        let ending = small(&out, &words).success();
        assert!(ending.stderr.contains("100 % (16/16 launches"), "{}", ending.stderr);
        assert!(ending.stdout.ends_with("report.html\n"), "{}", ending.stdout);
        let study = json(&out);
        assert_eq!(study["points"].as_array().unwrap().len(), 8);
        let samples = study["samples"].as_array().unwrap();
        assert_eq!(samples.len(), 16);
        for sample in samples {
            assert!(sample["seconds"].as_f64().unwrap() > 0.0, "{sample}");
            assert_eq!(sample["run"]["verified"], true);
            let point = &study["points"][sample["point"].as_u64().unwrap() as usize]["point"];
            assert_eq!(
                sample["run"]["parts"].as_array().unwrap().len() as u64,
                point["ranks"].as_u64().unwrap()
            );
            if cfg!(target_os = "linux") && point["ranks"] == 1 && point["threads"] == 1 {
                let cpus = sample["run"]["parts"][0]["cpus"].as_str().unwrap();
                assert!(cpus.parse::<usize>().is_ok(), "kept on one CPU: {cpus}");
                assert_eq!(sample["binding"], format!("kept on CPUs {cpus}"));
            }
        }
        let crowded = &study["points"][3];
        assert_eq!(
            (&crowded["point"]["ranks"], &crowded["point"]["threads"]),
            (&2.into(), &2.into())
        );
        assert_ne!(crowded["state"], "good");
        let weak = &study["points"][5]["point"];
        assert_eq!(weak["arguments"][1], "57,57", "40 sqrt(2)");
        assert_eq!(weak["work"], 4.0, "--work p*p");
        assert_eq!(read(&out, "study.csv").lines().count(), 17);
        assert!(read(&out, "study.md").contains("## Weak scaling"));
        let page = read(&out, "report.html");
        assert!(page.contains("a machine") && page.contains("Work after rounding"), "{page}");
        assert!(page.contains("<h2>Timeline</h2>") && page.contains("The longest waits"), "{page}");
        assert!(out.join("trace.json").exists());
        let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
        for name in ["study.json", "study.csv", "study.md", "report.html"] {
            assert!(!read(&out, name).contains(&host), "{name} names the host");
        }
    }

    #[test]
    fn an_interrupted_study_goes_on_where_it_was() {
        let (directory, _) = place();
        let words = ["--ranks", "1,2", "--launches", "3"];
        small(directory.path(), &words).success();
        let samples = directory.path().join("samples.jsonl");
        let text = fs::read_to_string(&samples).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 7);
        // It was killed while the fourth launch was being written, which was no text yet.
        let mut left = format!("{}\n{}", lines[..4].join("\n"), &lines[4][..20]).into_bytes();
        left.extend([0, 0xff, 0xc3]);
        fs::write(&samples, left).unwrap();
        let ending = small(directory.path(), &words).success();
        assert!(ending.stderr.contains("going on: 3 of 6 launches are there"), "{}", ending.stderr);
        let again = fs::read_to_string(&samples).unwrap();
        let again: Vec<&str> = again.lines().collect();
        assert_eq!(again.len(), 7);
        assert_eq!(again[..4], lines[..4], "what was there is kept");
        let numbers = again[1..].iter().map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["launch"].as_u64().unwrap()
        });
        assert_eq!(numbers.collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        let damaged = directory.path().join("damaged");
        fs::create_dir(&damaged).unwrap();
        fs::write(damaged.join("samples.jsonl"), b"\xff\xc3\n").unwrap();
        let refused = small(&damaged, &words).code(2);
        assert!(refused.stderr.contains("help: this is no study"), "{}", refused.stderr);
        let other = small(directory.path(), &["--ranks", "1,2", "--launches", "4"]).code(2);
        assert!(other.stderr.contains("has another study (other --launches)"), "{}", other.stderr);
    }

    #[test]
    fn two_studies_are_not_made_in_one_place() {
        let (directory, _) = place();
        let file = directory.path().join("samples.jsonl");
        let theirs = fs::File::create(&file).unwrap();
        let lock = Flock::lock(theirs, FlockArg::LockExclusiveNonblock).unwrap();
        let words = ["--ranks", "1", "--launches", "1"];
        let refused = small(directory.path(), &words).code(1);
        let told = &refused.stderr;
        assert!(told.contains("another study is being made there"), "{told}");
        assert!(!told.contains("looking at the machine"), "nothing was begun: {told}");
        assert_eq!(fs::read(&file).unwrap(), b"");
        drop(lock);
        small(directory.path(), &words).success();
    }

    #[test]
    fn what_did_not_work_is_marked_and_told() {
        let study = |fault: &[&str], words: &[&str]| {
            let (directory, _) = place();
            let words = [words, &["--ranks", "2", "--launches", "2", "--"], fault].concat();
            let ending = run(&mut scale(directory.path(), &example("faults"), &words));
            (ending, read(directory.path(), "report.html"))
        };
        let (ending, page) = study(&["wrong-result"], &[]);
        assert_eq!(ending.code, Some(3), "{ending:?}");
        assert!(page.contains("failed: verification failed (the energy has changed)"), "{page}");
        let (ending, page) = study(&["error", "barrier"], &[]);
        assert_eq!(ending.code, Some(1), "{ending:?}");
        let told =
            ending.stderr.matches("warning: strong 2 x 1: exit code 1: the disk is full").count();
        assert_eq!(told, 1, "{}", ending.stderr);
        assert!(page.contains("failed: exit code 1: the disk is full"), "{page}");
        let (ending, _) = study(&["killed", "barrier"], &[]);
        assert!(ending.stderr.contains("and it left no record"), "{}", ending.stderr);
        let (ending, _) = study(&["channel-waits"], &["--limit", "0.3"]);
        assert!(ending.stderr.contains("(--limit)"), "{}", ending.stderr);
    }

    #[test]
    fn what_cannot_be_is_a_usage_error() {
        let (directory, file) = place();
        let out = directory.path().join("study");
        let why = |words: &[&str]| small(&out, words).code(2).stderr;
        fs::write(&file, "{}").unwrap();
        assert!(why(&["--compare", file.to_str().unwrap()]).contains("this is no study.json"));
        assert!(why(&["--compare", "nowhere.json"]).contains("nowhere.json"));
        assert!(why(&["--work", "x"]).contains("there is no `x`"));
        let nothing =
            run(scale(&out, &example("heat2d"), &["--mode", "weak"]).env("PATH", "")).code(2);
        assert!(nothing.stderr.contains("no argument of the program grows"), "{}", nothing.stderr);
        let missing =
            run(scale(&out, &example("heat2d"), &["--launcher", "srun"]).env("PATH", "")).code(2);
        assert!(missing.stderr.contains("--launcher srun"), "{}", missing.stderr);
        let nowhere = run(&mut scale(&out, Path::new("/nonexist"), &[])).code(2);
        assert!(nowhere.stderr.contains("/nonexist is not there"), "{}", nowhere.stderr);
        let nameless = run(&mut scale(&out, Path::new("no-such-program"), &[])).code(2);
        assert!(nameless.stderr.contains("no-such-program"), "{}", nameless.stderr);
        assert!(!out.exists(), "nothing was begun");
    }

    #[test]
    fn a_study_that_is_slower_than_an_earlier_one_ends_with_6() {
        let (directory, _) = place();
        let words = ["--ranks", "1", "--launches", "5"];
        small(directory.path(), &words).success();
        let mut old = json(directory.path());
        let seconds = old["points"][0]["seconds"].as_array_mut().unwrap();
        // What counted of five launches is known; the earlier ones were far faster, whatever else
        // this machine does meanwhile.
        let faster: Vec<f64> =
            seconds.iter().cycle().take(8).map(|s| s.as_f64().unwrap() / 1e4).collect();
        *seconds = faster.into_iter().map(Into::into).collect();
        let file = directory.path().join("old.json");
        fs::write(&file, old.to_string()).unwrap();
        let compare = |more: &[&str]| {
            small(
                directory.path(),
                &[&words[..], &["--compare", file.to_str().unwrap()], more].concat(),
            )
        };
        let slower = compare(&[]).code(6);
        assert!(slower.stdout.contains("SLOWER"), "{}", slower.stdout);
        assert!(read(directory.path(), "report.html").contains("Beside the earlier study"));
        compare(&["--threshold", "1e9"]).success();
        // Beside itself nothing is slower.
        fs::copy(directory.path().join("study.json"), &file).unwrap();
        compare(&[]).success();
    }

    /// A launcher of this name that keeps its arguments and runs the program on threads.
    fn launcher(directory: &Path, name: &str) {
        let path = directory.join(name);
        let script = "#!/bin/sh\n\
            [ \"$1\" != --version ] || { echo 'HYDRA build details:'; exit; }\n\
            echo \"$*\" >> \"$0.said\"\n\
            ranks=$2\n\
            while [ $# -gt 0 ]; do case $1 in */heat2d|*/spmd-instruments) break ;; esac; shift; done\n\
            SPMD_ENGINE=local SPMD_RANKS=$ranks exec \"$@\"\n";
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn srun_and_mpirun_are_told_where_ranks_go() {
        let (directory, _) = place();
        let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
        for (name, bound, free) in [
            (
                "srun",
                "-n 2 --kill-on-bad-exit=1 --cpus-per-task=1 --cpu-bind=cores --partition=small --exclusive",
                "-n 2 --kill-on-bad-exit=1 --overcommit --cpu-bind=none --partition=small --exclusive",
            ),
            // By what it calls itself it is MPICH.
            (
                "mpirun",
                "-n 2 -bind-to core:1 --partition=small --exclusive",
                "-n 2 -bind-to none --partition=small --exclusive",
            ),
        ] {
            launcher(directory.path(), name);
            let out = directory.path().join(format!("study-{name}"));
            let words = [
                "--ranks",
                "2",
                "--threads",
                "1,2",
                "--launches",
                "1",
                "--cores",
                "2",
                "--launcher",
                name,
                "--launcher-args=--partition=small --exclusive",
            ];
            let words = [&words[..], &SMALL].concat();
            run(scale(&out, &example("heat2d"), &words).env("PATH", &path)).success();
            let said = fs::read_to_string(directory.path().join(format!("{name}.said"))).unwrap();
            for wanted in [bound, free] {
                assert!(said.contains(wanted), "{said}");
            }
        }
    }
}
