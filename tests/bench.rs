//! `spmd bench`: every benchmark, every format, and what is refused. How fast anything is, no test
//! says.

use std::{collections::HashSet, fs, process::Command, time::Duration};

mod support;

use support::{Ending, spmd};

/// Against hanging only.
const LIMIT: Duration = Duration::from_secs(120);

const COLUMNS: &str =
    "engine,ranks,touched,benchmark,bytes,iterations,unit,mean,median,p99,ci_low,ci_high,min,max";

fn run(command: &mut Command) -> Ending {
    support::run(command, LIMIT)
}

fn bench(words: &str) -> Ending {
    run(spmd().arg("bench").args(words.split(' ')))
}

/// The names that `--help` lists.
fn names() -> Vec<String> {
    let help = bench("--help").success().stdout;
    let list = help.lines().skip_while(|line| !line.contains("Possible values:"));
    let names = list.skip(1).take_while(|line| line.trim_start().starts_with("- "));
    let names =
        names.filter_map(|line| line.trim_start()[2..].split(':').next().map(str::to_owned));
    names.filter(|name| name != "all").collect()
}

fn rows(csv: &str) -> Vec<Vec<String>> {
    let mut lines = csv.lines();
    assert_eq!(lines.next(), Some(COLUMNS), "{csv}");
    lines.map(|line| line.split(',').map(str::to_owned).collect()).collect()
}

#[test]
fn every_benchmark_runs_and_every_number_is_one() {
    let names = names();
    assert!(names.len() > 10, "{names:?}");
    for ranks in [2, 3, 5] {
        for touched in ["", " --touched"] {
            let words = format!(
                "all file-write file-read -n {ranks} --sizes 4,16K --iterations 7 --warmup 1 --window 3 --format csv{touched}"
            );
            let rows = rows(&bench(&words).success().stdout);
            let seen: HashSet<&str> = rows.iter().map(|row| row[3].as_str()).collect();
            assert_eq!(seen, names.iter().map(String::as_str).collect(), "{ranks} ranks");
            assert_eq!(rows.len(), 2 * names.len() - 1, "two sizes each, the barrier one");
            for row in rows {
                assert_eq!(row.len(), COLUMNS.split(',').count(), "{row:?}");
                assert_eq!((&*row[0], &*row[1]), ("local", &*ranks.to_string()), "{row:?}");
                assert_eq!(row[2] == "true", !touched.is_empty(), "{row:?}");
                assert_eq!(row[5], "7", "{row:?}");
                let numbers: Vec<f64> = row[7..].iter().map(|cell| cell.parse().unwrap()).collect();
                let [mean, median, p99, low, high, min, max] = numbers[..] else {
                    panic!("{row:?}")
                };
                assert!(numbers.iter().all(|number| number.is_finite()), "{row:?}");
                assert!(mean > 0.0 && median > 0.0 && p99 > 0.0, "{row:?}");
                assert!(low <= mean && mean <= high && min <= mean && mean <= max, "{row:?}");
            }
        }
    }
}

#[test]
fn collectives_run_on_one_rank() {
    let words = "barrier bcast reduce allreduce allgather alltoall scan sparse -n 1 --sizes 8 --iterations 3 --format csv";
    assert_eq!(rows(&bench(words).success().stdout).len(), 8);
}

#[test]
fn json_is_an_object_per_line() {
    let ending =
        bench("latency allreduce -n 2 --sizes 8,1K --iterations 3 --format json").success();
    let lines: Vec<serde_json::Value> =
        ending.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    for line in lines {
        assert_eq!(line["engine"], "local");
        assert_eq!(line["ranks"], 2);
        assert_eq!(line["checks"], "full");
        assert_eq!(line["unit"], "us");
        assert!(line["mean"].as_f64().unwrap() > 0.0);
        assert!(line["benchmark"] == "latency" || line["benchmark"] == "allreduce");
        assert!(line["bytes"] == 8 || line["bytes"] == 1024);
    }
}

#[test]
fn the_table_says_what_was_measured_where() {
    let ending = bench("message-rate -n 2 --sizes 8 --iterations 3").success();
    for part in [
        "engine local, 2 ranks on 1 host",
        "checks full",
        "message-rate in messages/s",
        "mean",
        "p99",
    ] {
        assert!(ending.stdout.contains(part), "no `{part}` in {ending:#?}");
    }
    assert!(ending.stdout.lines().last().unwrap().starts_with("8 "), "{ending:#?}");
}

#[test]
fn progress_goes_to_standard_error() {
    let ending = bench("bcast -n 2 --max-size 512 --iterations 3").success();
    assert!(ending.stderr.contains("100 % (10/10 sizes)"), "{ending:#?}");
    assert!(!ending.stdout.contains('%') || !ending.stdout.contains("sizes)"), "{ending:#?}");
}

#[test]
fn wrong_options_are_usage_errors_in_clear_words() {
    for (words, complaint) in [
        ("lateness", "possible values"),
        ("latency --sizes 8x", "a size is a number of bytes"),
        ("latency --iterations 0", "--iterations"),
        ("latency -n 1", "latency needs two ranks"),
        ("allreduce -n 2 --sizes 6", "no multiple"),
        ("bcast -n 2 --min-size 4M", "no size between"),
        ("latency --sizes 8 --min-size 4", "cannot be used with"),
    ] {
        let ending = bench(words).code(2);
        assert!(ending.stderr.contains(complaint), "{words}: {ending:#?}");
        assert!(!ending.stdout.contains("us"), "{words}: {ending:#?}");
    }
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let spmd = env!("CARGO_BIN_EXE_spmd");
    let line = format!(
        "set -o pipefail; {spmd} bench bcast -n 2 --iterations 2 --max-size 64 2>/dev/null | head -1"
    );
    let ending = run(Command::new("bash").args(["-c", &line])).success();
    assert_eq!(ending.stdout.lines().count(), 1, "{ending:#?}");
}

#[test]
fn a_report_puts_its_tables_into_a_page() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let measured = bench("latency -n 2 --sizes 8 --iterations 10 --format csv").success().stdout;
    let row = measured.lines().nth(1).unwrap();
    fs::write(at("results.csv"), format!("MPI,C,0,{row}\nMPI,spmd,0,{row}\nlocal,spmd,0,{row}\n"))
        .unwrap();
    fs::write(at("page.md"), "before\n<!-- compare:begin -->\n<!-- compare:end -->\nafter\n")
        .unwrap();
    let report = |results: &str| {
        let mut command = spmd();
        command.arg("bench-report").arg(at(results)).args(["--heading", "On a machine."]);
        run(command.arg("--markdown").arg(at("page.md")))
    };
    let table = report("results.csv").success().stdout;
    assert!(
        table.contains("| latency | 8 | us |") && table.contains("**1.00** [1.00, 1.00]"),
        "{table}"
    );
    let page = fs::read_to_string(at("page.md")).unwrap();
    assert!(page.contains(&table) && page.contains("On a machine.\n\n"), "{page}");
    assert!(page.starts_with("before\n") && page.ends_with("\nafter\n"), "{page}");
    assert!(report("none.csv").code(1).stderr.contains("none.csv"));
}

#[test]
fn a_footprint_is_that_of_the_whole_life_of_a_job() {
    let ending = run(spmd().args(["footprint", "-n", "1000"])).success();
    let names: Vec<&str> =
        ending.stdout.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["ranks", "start", "ring", "allreduce", "memory", "end"], "{ending:#?}");
    assert!(ending.stdout.starts_with("ranks      1000 on the engine local"), "{ending:#?}");
}
