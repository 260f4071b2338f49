//! What runs leave for those who look at them afterwards: records.

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
