//! The conformance suite on the engine local, as a function and as a command.

use std::time::Duration;

mod support;

#[test]
fn all_cases_pass_on_any_number_of_ranks() {
    for ranks in [1, 2, 3, 4, 7, 8] {
        let run = |world: &spmd::Comm| {
            let mut report = Vec::new();
            let summary = spmd::selftest::run(world, false, &mut report)?;
            Ok((summary, String::from_utf8_lossy(&report).into_owned()))
        };
        let results = spmd::local(ranks, run).unwrap();
        for (summary, report) in &results {
            assert_eq!(summary.failed, 0, "{ranks} ranks:\n{report}");
            assert!(summary.passed > 200, "{ranks} ranks: {summary}");
        }
        assert_eq!(results[0].1, format!("{}\n", results[0].0), "rank 0 reports");
        assert!(results[1..].iter().all(|(_, report)| report.is_empty()), "the others do not");
    }
}

#[test]
fn the_command_reports_and_exits_with_0() {
    for ranks in ["1", "3", "4"] {
        let mut command = support::spmd();
        let ending = support::run(command.args(["selftest", "-n", ranks]), LIMIT).success();
        assert!(ending.stdout.ends_with(" passed, 0 failed\n"), "{ending:?}");
        assert_eq!(ending.stdout.lines().count(), 1, "{ending:?}");
    }
}

#[test]
fn verbose_names_every_case() {
    let mut command = support::spmd();
    let ending = support::run(command.args(["selftest", "-n", "2", "--verbose"]), LIMIT).success();
    let passed = ending.stdout.lines().filter(|line| line.starts_with("passed  ")).count();
    assert_eq!(ending.stdout.lines().last(), Some(&*format!("{passed} passed, 0 failed")));
}

#[test]
fn all_cases_pass_when_ranks_share_one_cpu() {
    let mut command = support::spmd();
    let args = ["selftest", "-n", "4", "--share-cpu"];
    let ending = support::run(command.args(args), LIMIT);
    if cfg!(target_os = "linux") {
        assert!(ending.success().stdout.ends_with(" passed, 0 failed\n"));
    }
}

/// Against hanging only.
const LIMIT: Duration = Duration::from_secs(120);
