//! `spmd run --restarts` on hosts that are lost, cut off, frozen, taken out and brought in while the
//! program runs: the field is always that of an undisturbed run. Hosts are made by
//! `scripts/cluster.sh`, as root, on Linux.
#![cfg(feature = "mpi")]

mod support;

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use support::{
    Ending, OPEN_MPI, example,
    hosts::{are_missing, checksum, checksum_of_one, cluster, script},
};

/// Against hanging only: a busy machine is slow.
const LIMIT: Duration = Duration::from_secs(400);

/// One set of hosts at a time: there are few CPUs below them.
static TURN: Mutex<()> = Mutex::new(());

const FIELD: [&str; 4] = ["--size", "60,40", "--steps", "2000"];

/// `start HOSTS OPTION...` starts a run on a directory that all hosts share; `becomes PATTERN`
/// waits until its status has such a line, `tells PATTERN` until it has said so; `ends HOST...` awaits its end,
/// and shows what it has printed and which ranks there are still on hosts. `stops HOST...` ends it
/// before, and has the rest done by threads. Cables are slow, so that there is time to do something
/// to it.
const SCRIPT: &str = r#"
    cd "$PLACE"; set -u
    start() {
        $HOSTS_SLOW all 5 >&2
        list=$1; shift
        $SPMD run --hosts "$list" --restarts 5 "$@" $HEAT $FIELD --checkpoint "$PLACE/kept" --every 10 >>out 2>>err & job=$!
    }
    goes_on() { kill -0 $job || { cat out err >&2; exit 90; }; sleep 0.2; }
    becomes() { until $SPMD status 2>/dev/null | grep -qE "$1"; do goes_on; done; }
    tells() { until grep -qE "$1" err; do goes_on; done; }
    # So many ranks are at work, and have kept their state.
    works() { becomes "^ranks +$1 of"; becomes '^state +running'; becomes '^step +[0-9]+, told 0'; becomes '^checkpoint +[0-9]'; }
    stops() {
        kill $job; code=0; wait $job || code=$?
        [ $code = 5 ] || { cat out err; exit 92; }
        $HEAT --engine local -n 2 $FIELD --checkpoint "$PLACE/kept" >>out 2>>err & job=$!
        ends $*
    }
    ends() {
        code=0; wait $job || code=$?
        cat err >&2; cat out
        for host in $*; do echo "left on $host: $($CLUSTER exec $host pgrep heat2d | wc -l)"; done
        exit $code
    }
"#;

fn on_hosts(count: usize, line: &str) -> Ending {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // Paths of sockets are short.
    let sockets = tempfile::tempdir().unwrap();
    let mut command = cluster();
    command.args(["with", &count.to_string(), "bash", "-c", &format!("{SCRIPT}{line}")]);
    command.env("HEAT", example("heat2d")).env("SPMD", env!("CARGO_BIN_EXE_spmd"));
    command.env("CLUSTER", script("cluster.sh")).env("PLACE", place.path());
    command.env("FIELD", FIELD.join(" ")).env("XDG_RUNTIME_DIR", sockets.path());
    let ending = support::run(&mut command, LIMIT);
    tell(line, &ending.stderr);
    ending
}

/// What `scripts/faults.sh` sums up: how many faults there were in a run, and how long it took from
/// when they were noticed until there were new steps.
fn tell(script: &str, said: &str) {
    let count = |fault| script.matches(fault).count();
    let faults: usize = ["crash node", "cut node", "freeze node", "-KILL "].map(count).iter().sum();
    println!("campaign: 1 runs, {faults} losses");
    for line in said.lines().filter(|line| line.contains("ranks on ")) {
        let Some((what, took)) = line.rsplit_once(", after ") else { continue };
        let kind = if what.contains("planned stop") { "planned" } else { "restart" };
        println!("takes: {kind} {took}: {what}");
    }
}

/// The result is that of an undisturbed run, and nothing runs any more on any host.
#[track_caller]
fn assert_undisturbed(ending: &Ending) {
    assert_eq!(ending.code, Some(0), "{ending:#?}");
    assert_eq!(checksum(&ending.stdout), checksum_of_one(&FIELD), "{ending:#?}");
    let left = ending.stdout.lines().filter_map(|line| line.strip_prefix("left on "));
    for line in left {
        assert!(line.ends_with(": 0"), "{line}: {ending:#?}");
    }
}

#[track_caller]
fn assert_tells(ending: &Ending, parts: &[&str]) {
    for part in parts {
        assert!(ending.stderr.contains(part), "no `{part}` in {ending:#?}");
    }
}

#[test]
fn hosts_crash_are_drained_and_come_while_it_runs() {
    if are_missing() {
        return;
    }
    let ending = on_hosts(
        4,
        "start 'node[1-4]:2'; works 8
        $CLUSTER crash node4 >&2; tells 'restart 1 of 5'; works 6
        $SPMD drain node2 >&2; works 4
        $CLUSTER add node5 >&2; $SPMD add node5:2 >&2; works 6
        $SPMD status >&2; stops node1 node2 node3 node5",
    );
    assert_undisturbed(&ending);
    assert_tells(
        &ending,
        &[
            "restart 1 of 5: node4 is lost; 6 ranks on node[1-3] go on from ",
            "planned stop; 4 ranks on node[1,3] go on from ",
            "planned stop; 6 ranks on node[1,3,5] go on from step ",
            "drained for ",
        ],
    );
}

#[test]
fn a_host_with_the_first_rank_is_cut_off_and_joins_again() {
    if are_missing() {
        return;
    }
    // The first rank lives on for a while there, and holds the directory; another takes it over.
    let ending = on_hosts(
        3,
        "start 'node[1-3]:2'; works 6
        $CLUSTER cut node1 >&2; tells 'restart 1 of 5'; works 4
        $CLUSTER heal node1 >&2; tells 'node1 answers'; works 6; stops node1 node2 node3",
    );
    assert_undisturbed(&ending);
    assert_tells(
        &ending,
        &[
            "restart 1 of 5: node1 is lost; 4 ranks on node[2-3] go on from ",
            "planned stop; 6 ranks on node[1-3] go on from ",
        ],
    );
}

#[test]
fn a_host_that_is_frozen_is_expelled_only_after_a_while() {
    if are_missing() {
        return;
    }
    // Five seconds are borne; for longer a spare takes its place. What thaws there writes nothing.
    let ending = on_hosts(
        3,
        "start 'node[1-3]:2' --spares 1 --no-rejoin; works 4
        becomes '^node3 .*spare'
        $CLUSTER freeze node1 >&2; sleep 5; $CLUSTER thaw node1 >&2; sleep 4; works 4
        ! grep -q 'does not answer' err || { cat err >&2; exit 91; }
        $CLUSTER freeze node1 >&2; tells 'restart 1 of 5'; works 4
        $CLUSTER thaw node1 >&2; tells 'node1 answers'; sleep 2
        becomes '^node1 .*idle'; stops node1 node2 node3",
    );
    assert_undisturbed(&ending);
    assert_tells(&ending, &["restart 1 of 5: node1 is lost; 4 ranks on node[2-3] go on from "]);
}

#[test]
fn a_killed_rank_and_a_killed_supervisor() {
    if are_missing() {
        return;
    }
    let ending = on_hosts(
        2,
        "start 'node[1-2]:2'; works 4
        $CLUSTER exec node2 pkill -KILL heat2d; tells 'restart 1 of 5'; works 4
        kill -KILL $job; wait $job
        for host in node1 node2; do
            while $CLUSTER exec $host pgrep heat2d >&2; do sleep 0.5; done
        done
        # It can be continued, by any command.
        start 'node[1-2]:2' --min-ranks 4; works 4; stops node1 node2",
    );
    assert_undisturbed(&ending);
    assert_tells(&ending, &["restart 1 of 5: a rank is lost ("]);
}

#[test]
fn too_few_hosts_are_waited_for() {
    if are_missing() {
        return;
    }
    let ending = on_hosts(
        2,
        "start 'node[1-2]:2' --min-ranks 3; works 4
        $CLUSTER crash node2 >&2; tells 'waiting for hosts'; becomes '^state +waiting for hosts'
        $CLUSTER add node2 >&2; works 4; kill $job; ends node1 node2",
    );
    assert_eq!(ending.code, Some(5), "{ending:#?}");
    assert_tells(&ending, &["there is room for 2 ranks, --min-ranks is 3: waiting for hosts"]);
    let ending = on_hosts(
        2,
        "start 'node[1-2]:2' --min-ranks 3 --patience 3; works 4
        $CLUSTER crash node2 >&2; ends node1",
    );
    assert_eq!(ending.code, Some(7), "{ending:#?}");
    assert_tells(&ending, &["no more hosts have come within --patience"]);
}

/// What `docs/resilience.md` begins with.
#[test]
fn the_tour_of_faults_ends_with_the_undisturbed_result() {
    if !*OPEN_MPI || are_missing() {
        println!("skipped: the tour makes hosts for Open MPI");
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let pages = tempfile::tempdir().unwrap();
    let mut command = support::program(env!("CARGO_BIN_EXE_spmd"));
    command.args(["tour", "--faults", "--cells", "128", "--width", "40", "--out"]);
    command.arg(pages.path());
    if let Ok(launcher) = std::env::var("SPMD_MPIRUN") {
        command.env("SPMD_MPIRUN", launcher);
    }
    let out = support::run(&mut command, LIMIT).success().stdout;
    println!("campaign: 1 runs, 1 losses");
    for told in ["node3 crashes", "node2 is drained", "node5 is a new machine", ": the same."] {
        assert!(out.contains(told), "no `{told}`: {out}");
    }
    let page = std::fs::read_to_string(pages.path().join("tour-faults.html")).unwrap();
    assert!(!page.contains("<script") && !page.contains("http"), "the page needs nothing else");
}

#[test]
fn ranks_that_are_processes_of_one_machine_are_started_again() {
    let place = tempfile::tempdir().unwrap();
    let line = r#"
        size="6$(($$ % 10)),4$(($$ / 10 % 10))"
        $SPMD run -n 2 --restarts 3 $HEAT --size $size --steps 50000000 --checkpoint kept --every 50 2>err & job=$!
        ranks() { pgrep -f "^[^ ]*heat2d --size $size --steps 50000000"; }
        until [ -e kept/000002 ]; do kill -0 $job || exit 90; sleep 0.1; done
        kill -KILL $(ranks | tail -1)
        until grep -q 'restart 1 of 3' err; do kill -0 $job || { cat err >&2; exit 91; }; sleep 0.1; done
        $SPMD drain localhost:1 >&2
        until $SPMD status | grep -qE '^ranks +1 of 1'; do kill -0 $job || exit 92; sleep 0.1; done
        until $SPMD status | grep -qE '^step +[0-9]'; do kill -0 $job || exit 93; sleep 0.1; done
        kill -TERM $job; code=0; wait $job || code=$?
        cat err >&2; ranks; exit $code"#;
    let mut command = support::program("bash");
    command.args(["-c", line]).current_dir(place.path()).env("XDG_RUNTIME_DIR", place.path());
    command.env("HEAT", example("heat2d")).env("SPMD", env!("CARGO_BIN_EXE_spmd"));
    if let Ok(launcher) = std::env::var("SPMD_MPIRUN") {
        command.env("SPMD_MPIRUN", launcher);
    }
    let ending = support::run(&mut command, LIMIT).code(5);
    assert_tells(
        &ending,
        &[
            "restart 1 of 3: a rank is lost (",
            "; 2 ranks on localhost go on from ",
            "planned stop; 1 rank on localhost goes on from step ",
        ],
    );
    assert!(!ending.stdout.lines().any(|line| line.parse::<u32>().is_ok()), "ranks: {ending:#?}");
}
