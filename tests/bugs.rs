//! The classical mistakes of MPI programs: each ends by name, on `local` and on a real MPI, and the
//! table in `docs/bugs.md` is true.

mod support;

use std::{collections::BTreeSet, fs, time::Duration};

use support::{Ending, example, program, side_by_side};

/// Against hanging only.
const LIMIT: Duration = Duration::from_secs(60);

/// What a mistake becomes: the exit code and the words that name it.
struct Outcome {
    name: &'static str,
    code: i32,
    local: &'static str,
    /// On `mpi`, where a hang can only be seen by its duration.
    #[cfg_attr(not(feature = "mpi"), allow(dead_code))]
    mpi: &'static str,
}

const OVERDUE: &str = "longer than --timeout";
const DEADLOCK: &str = "deadlock, every rank waits";

const fn named(name: &'static str, words: &'static str) -> Outcome {
    Outcome { name, code: 1, local: words, mpi: words }
}

const fn hangs(name: &'static str) -> Outcome {
    Outcome { name, code: 4, local: DEADLOCK, mpi: OVERDUE }
}

const fn harmless(name: &'static str, words: &'static str) -> Outcome {
    Outcome { name, code: 0, local: words, mpi: words }
}

const OUTCOMES: &[Outcome] = &[
    named("invalid-rank", "there is no rank 3"),
    named("invalid-tag", "is too large"),
    named("invalid-root", "there is no rank 3"),
    named("invalid-grid", "do not make a grid"),
    named("invalid-window-range", "put"),
    named("invalid-rows", "has length 1, needed 3"),
    harmless("leaked-request", "irecv from rank 2 tag 5"),
    harmless("leaked-message", "never received"),
    named("plan-started-twice", "start"),
    named("plan-waited-too-early", "wait"),
    named("plan-read-under-way", "under way"),
    named("type-mismatch", "rank 0 sent values of type f64, this rank receives u64"),
    named("type-mismatch-collective", "calls allreduce(Sum)"),
    named("truncation", "message holds 80 bytes, buffer 72"),
    hangs("tag-mismatch"),
    hangs("communicator-mismatch"),
    named("root-mismatch", "calls bcast with root"),
    named("operator-mismatch", "calls allreduce(Max)"),
    named("length-mismatch", "elements"),
    named("graph-mismatch", "rank 1"),
    named("collective-mismatch", "calls barrier"),
    named("collective-mismatch-nonblocking", "calls ibarrier"),
    named("collective-order", "calls bcast with root 0"),
    hangs("collective-missing"),
    hangs("collective-against-message"),
    hangs("deadlock-receive-receive"),
    hangs("deadlock-send-send"),
    hangs("deadlock-circle"),
    hangs("deadlock-self"),
    hangs("deadlock-probe"),
    hangs("deadlock-wait"),
    hangs("deadlock-lock"),
    hangs("message-race"),
    harmless("rma-conflicting-puts", ""),
    harmless("rma-put-and-get", ""),
];

#[track_caller]
fn judge(outcome: &Outcome, words: &str, ending: Ending) {
    let Outcome { name, code, .. } = outcome;
    let ending = if words == OVERDUE { ending.timed_out() } else { ending };
    assert!(words == OVERDUE || ending.code == Some(*code), "{name}: {ending:#?}");
    assert!(ending.stderr.contains(words), "{name} lacks `{words}`: {}", ending.stderr);
    if *code != 0 {
        assert!(ending.stderr.contains("bugs.rs:"), "{name} names its place: {}", ending.stderr);
    }
}

#[test]
fn every_mistake_is_named_on_local() {
    side_by_side(OUTCOMES, |outcome| {
        let mut command = program(example("bugs"));
        command.args([outcome.name, "-n", "3"]).env("RUST_LOG", "warn");
        judge(outcome, outcome.local, support::run(&mut command, LIMIT));
    });
}

#[test]
fn the_table_in_the_docs_lists_every_mistake() {
    let table = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bugs.md")).unwrap();
    let listed = |prefix: &str| -> BTreeSet<String> {
        let cells = table.split('`').skip(1).step_by(2);
        cells.filter_map(|cell| cell.strip_prefix(prefix)).map(str::to_owned).collect()
    };
    let programs: BTreeSet<String> =
        OUTCOMES.iter().map(|outcome| outcome.name.to_owned()).collect();
    assert_eq!(listed("bugs "), programs);
    let known = support::run(program(example("bugs")).arg("list"), LIMIT).success().stdout;
    assert_eq!(known.lines().map(str::to_owned).collect::<BTreeSet<_>>(), programs);
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/compile_fail/cases");
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap().file_name());
    let files: BTreeSet<String> = files
        .filter_map(|name| name.into_string().unwrap().strip_suffix(".rs").map(str::to_owned))
        .collect();
    assert_eq!(listed("compile_fail/"), files, "wrong programs that do not compile");
}

#[cfg(feature = "mpi")]
#[test]
fn every_mistake_is_named_on_mpi() {
    side_by_side(OUTCOMES, |outcome| {
        let mut command = support::mpirun(3, &example("bugs"));
        command.args([outcome.name, "--checks", "full", "--timeout", "1"]).env("RUST_LOG", "warn");
        let _seat = support::beside_others();
        judge(outcome, outcome.mpi, support::run(&mut command, LIMIT));
    });
}

/// Where the library would write behind a buffer, ranks compare what they call before it gets so
/// far, on every level. MPICH keeps to its bounds, and says nothing.
#[cfg(feature = "mpi")]
#[test]
fn lengths_that_differ_are_refused_where_they_could_overrun() {
    if !*support::OPEN_MPI {
        return;
    }
    for checks in ["off", "arguments"] {
        let mut command = support::mpirun(3, &example("bugs"));
        command.args(["length-mismatch", "--checks", checks, "--timeout", "5"]);
        let _seat = support::beside_others();
        let ending = support::run(&mut command, LIMIT);
        let words = "the ranks do not make the same collective call";
        assert!(ending.code == Some(1) && ending.stderr.contains(words), "{ending:#?}");
    }
}
