//! The engine mpi on several hosts, which `scripts/cluster.sh` makes out of namespaces: as root, on
//! Linux.

#![cfg(feature = "mpi")]

mod support;

use std::{
    env,
    process::Command,
    sync::{LazyLock, Mutex, PoisonError},
    time::Duration,
};

use support::{
    Ending, OPEN_MPI, example,
    hosts::{are_missing, checksum, checksum_of_one, cluster, script},
    program,
};

/// No job of these tests needs as long: one that does, hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// One set of hosts at a time: there are few CPUs below them.
static TURN: Mutex<()> = Mutex::new(());

fn launcher() -> String {
    env::var("SPMD_MPIRUN").unwrap_or_else(|_| "mpirun".to_owned())
}

/// Whether the launcher is that of Open MPI 5, which has options of its own.
static OPEN_MPI_5: LazyLock<bool> = LazyLock::new(|| {
    let said = Command::new(launcher()).arg("--version").output().expect("it started before");
    String::from_utf8_lossy(&said.stdout).contains(") 5.")
});

/// Runs a line of shell on the login host of hosts with two slots each.
fn on_hosts(count: usize, variables: &[(&str, &str)], line: &str, limit: Duration) -> Ending {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = cluster();
    command.args(["with", &count.to_string(), "sh", "-c", line]);
    command.env("FAULTS", example("faults")).env("SPMD", env!("CARGO_BIN_EXE_spmd"));
    command.env("HEAT", example("heat2d")).env("CLUSTER", script("cluster.sh"));
    command.envs(variables.iter().copied());
    let ending = support::run(&mut command, limit);
    // Open MPI 5's launcher fails at its start by itself now and then.
    if ending.stderr.contains("listener thread failed to start") {
        return support::run(&mut command, limit);
    }
    ending
}

/// Runs a line of shell beside two hosts of two slots each; nothing where there are none, or no
/// Open MPI 4.
///
/// `$JOB` begins the launch of as many ranks, and needs a program; `$FAULTS` is one.
fn beside_hosts(variables: &[(&str, &str)], line: &str) -> Option<Ending> {
    if !*OPEN_MPI || *OPEN_MPI_5 {
        println!("skipped: it is tried with Open MPI 4");
        return None;
    }
    if are_missing() {
        return None;
    }
    let job = format!(
        "{} --mca plm_rsh_agent $HOSTS_AGENT --hostfile $HOSTS_FILE --mca mpi_yield_when_idle 1 -n 4",
        launcher()
    );
    Some(on_hosts(2, variables, &format!("JOB=\"{job}\"; {line}"), LIMIT))
}

/// How eight ranks are started on four hosts as anybody would, by ssh: `$JOB`.
fn eight_ranks() -> String {
    let launcher = launcher();
    // Known limits of the libraries, in docs/running.md.
    if *OPEN_MPI {
        let windows = if *OPEN_MPI_5 { "^ucx" } else { "^rdma,ucx" };
        let settings = "--mca mpi_yield_when_idle 1 --hostfile $HOSTS_FILE";
        format!("JOB=\"{launcher} -n 8 --mca osc {windows} {settings}\"")
    } else {
        let hosts = "node1:2,node2:2,node3:2,node4:2";
        format!("JOB=\"{launcher} -n 8 -hosts {hosts} -env MPIR_CVAR_CH4_NETMOD ofi\"")
    }
}

/// Every host has sent that much through its cable.
fn assert_all_sent(stats: &str, bytes: u64) {
    let sent: Vec<u64> = stats
        .lines()
        .filter(|line| line.starts_with("node"))
        .map(|line| line.split_whitespace().nth(1).unwrap().parse().unwrap())
        .collect();
    assert!(sent.len() == 4 && sent.iter().all(|&it| it >= bytes), "{stats}");
}

/// Whether a test that takes minutes is left out: it runs with Open MPI 4, and with others where
/// `SPMD_REQUIRE` asks for `long`.
fn takes_too_long() -> bool {
    let required = env::var("SPMD_REQUIRE").unwrap_or_default();
    let wanted = required.split(',').any(|it| it == "long") || (*OPEN_MPI && !*OPEN_MPI_5);
    if !wanted {
        println!("skipped: it takes minutes (SPMD_REQUIRE=long runs it on this MPI, too)");
    }
    !wanted
}

#[test]
fn the_selftest_passes_on_four_hosts() {
    if are_missing() || takes_too_long() {
        return;
    }
    let line = format!(
        "{}; $JOB $SPMD selftest --quick; code=$?; $CLUSTER stats; exit $code",
        eight_ranks()
    );
    let ending = on_hosts(4, &[], &line, 5 * LIMIT);
    let out = &ending.stdout;
    if *OPEN_MPI {
        assert!(ending.code == Some(0) && out.contains(" passed, 0 failed\n"), "{ending:#?}");
    } else {
        // A known limit of MPICH, in docs/running.md; all else holds.
        let failed: Vec<&str> = out.lines().filter(|line| line.starts_with("FAILED")).collect();
        let known = failed.iter().all(|line| line.contains("a forgotten irecv keeps its message"));
        assert!(
            known && out.contains(&format!(" passed, {} failed\n", failed.len())),
            "{ending:#?}"
        );
    }
    assert_all_sent(out, 1_000_000);
}

#[test]
fn a_field_over_four_hosts_is_that_of_one_rank() {
    if are_missing() {
        return;
    }
    let field = ["--size", "120,80", "--steps", "60"];
    let expected = checksum_of_one(&field);
    // Hosts may have one name, which tells them apart no more.
    for name in ["", "twin"] {
        if !name.is_empty() && (!*OPEN_MPI || *OPEN_MPI_5) {
            continue; // It is tried with Open MPI 4.
        }
        let line = format!("{}; $JOB $HEAT {} && $CLUSTER stats", eight_ranks(), field.join(" "));
        let out = on_hosts(4, &[("HOSTS_NAME", name)], &line, LIMIT).success().stdout;
        assert_eq!(checksum(&out), expected);
        assert_all_sent(&out, 60 * 120 * 8);
    }
}

#[test]
fn slow_narrow_and_lossy_cables_change_no_result() {
    if are_missing() || takes_too_long() {
        return;
    }
    let field = ["--size", "120,80", "--steps", "30"];
    let expected = checksum_of_one(&field);
    let field = field.join(" ");
    for cable in ["all 20", "all 0 2%", "node4 0 20", "node4 5 1% 50"] {
        let line = format!(
            "{job}; $HOSTS_SLOW {cable} && $JOB $HEAT {field} &&
            for host in 1 2 3 4; do $HOSTS_AGENT node$host grep ^Tcp: /proc/net/snmp; done",
            job = eight_ranks()
        );
        let out = on_hosts(4, &[], &line, LIMIT).success().stdout;
        assert_eq!(checksum(&out), expected, "{cable}");
        // What was lost was sent again: a number of the lines.
        let (names, values): (Vec<&str>, Vec<&str>) =
            out.lines().filter(|line| line.starts_with("Tcp:")).partition(|it| it.contains("Rto"));
        let column = names[0].split(' ').position(|it| it == "RetransSegs").unwrap();
        let again = values.iter().map(|it| it.split(' ').nth(column).unwrap().parse::<u64>());
        assert!(!cable.contains('%') || again.map(Result::unwrap).sum::<u64>() > 0, "{out}");
    }
}

#[test]
fn a_cable_that_is_out_for_five_seconds_changes_no_result() {
    if are_missing() {
        return;
    }
    let field = ["--size", "120,80", "--steps", "200"];
    let expected = checksum_of_one(&field);
    // It is slow, so that the job is at work when the cable is pulled out.
    let line = format!(
        "{job}; out=$(mktemp); $HOSTS_SLOW node4 10 >&2
        $JOB $HEAT {field} >$out 2>&1 & job=$!
        until grep -q ' 10 %' $out; do kill -0 $job || exit 9; sleep 0.1; done
        $CLUSTER cut node4; kill -0 $job || exit 10
        sleep 5; kill -0 $job || exit 11
        $CLUSTER heal node4; wait $job; code=$?
        cat $out; rm $out; exit $code",
        job = eight_ranks(),
        field = field.join(" ")
    );
    let out = on_hosts(4, &[], &line, LIMIT).success().stdout;
    assert_eq!(checksum(&out), expected);
}

#[test]
fn hosts_are_told_apart_whatever_their_names() {
    for name in ["", "localhost"] {
        let Some(ending) = beside_hosts(&[("HOSTS_NAME", name)], "$JOB $SPMD info") else { return };
        let out = ending.success().stdout;
        assert!(out.contains("4 on 2 hosts"), "{out}");
        for ranks in ["0-1 ", "2-3 "] {
            assert!(out.lines().any(|line| line.starts_with(ranks)), "each host has a line: {out}");
        }
    }
}

#[test]
fn a_timeout_reaches_hosts_of_one_name_that_resolves_nowhere() {
    let line = "$JOB $FAULTS deadlock --timeout 15";
    let Some(ending) = beside_hosts(&[("HOSTS_NAME", "nohost")], line) else { return };
    let text = ending.code(4).stderr;
    assert_eq!(text.matches(" on nohost: waits for ").count(), 4, "{text}");
    assert!(!text.contains("does not answer"), "{text}");
}

#[test]
fn an_interface_that_leads_nowhere_ends_at_the_timeout() {
    let line = "$JOB --mca btl_tcp_if_include nowhere $SPMD info --timeout 15";
    let Some(ending) = beside_hosts(&[("HOSTS_NOWHERE", "yes")], line) else { return };
    let text = ending.code(4).stderr;
    assert!(text.contains(": longer than --timeout, waits for "), "{text}");
    assert!(text.contains(" at the start, in "), "{text}");
}

#[test]
fn ranks_of_a_host_that_is_cut_off_end_by_themselves() {
    // The launcher may not: it waits for the other host.
    let line = "\
        (until grep -q faults /proc/[0-9]*/comm; do sleep 0.1; done; sleep 4; ip link set node2 down) &
        timeout -k 1 60 $JOB $FAULTS deadlock --timeout 10 &
        job=$!
        sleep 15
        running() { grep -l faults /proc/[0-9]*/comm | sed 's/comm$/status/' | xargs grep -l '^State:.[RSD]'; }
        while running >/dev/null 2>&1; do sleep 0.1; done
        kill $job
        echo all ranks have ended";
    let Some(ending) = beside_hosts(&[], line) else { return };
    let ending = ending.success();
    assert!(ending.stdout.contains("all ranks have ended"), "{ending:#?}");
    assert!(ending.stderr.contains("longer than --timeout"), "{ending:#?}");
}

#[test]
fn a_window_that_does_not_fit_into_shared_memory_is_an_error_on_all_ranks() {
    // Two ranks on each host want 24 MiB each.
    let line = "\
        for host in 10.77.0.1 10.77.0.2; do $HOSTS_AGENT $host mount -o remount,size=40m /dev/shm; done
        $JOB $FAULTS too-large-for-shm";
    let Some(ending) = beside_hosts(&[], line) else { return };
    let text = ending.code(1).stderr;
    assert!(text.contains(" bytes of /dev/shm are wanted, "), "{text}");
}

#[test]
fn a_trace_over_hosts_is_on_one_clock() {
    // All hosts have this directory in common.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let trace = directory.path().join("trace.json");
    let line = "$JOB $HEAT --size 64,48 --steps 50 --trace $TRACE && $SPMD view $TRACE";
    let variables = [("TRACE", trace.to_str().unwrap())];
    let Some(ending) = beside_hosts(&variables, line) else { return };
    let out = ending.success().stdout;
    assert!(out.contains("note: clocks of hosts: compared to "), "{out}");
    for host in ["node1", "node2"] {
        assert_eq!(out.lines().filter(|line| line.contains(host)).count(), 2, "{out}");
    }
    let text = std::fs::read_to_string(trace).unwrap();
    let whole: serde_json::Value = serde_json::from_str(&text).unwrap();
    let events = whole["traceEvents"].as_array().unwrap();
    let sent: Vec<_> = events.iter().filter(|event| event["ph"] == "s").collect();
    assert!(sent.len() >= 200, "{} messages", sent.len());
    for message in sent {
        let sent_ns = message["ts"].as_f64().unwrap() * 1000.0;
        assert!(message["args"]["received_ns"].as_f64().unwrap() >= sent_ns - 1.0, "{message}");
    }
}

#[test]
fn the_tour_makes_hosts_of_its_own() {
    if !*OPEN_MPI || are_missing() {
        println!("skipped: the tour makes hosts for Open MPI");
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = program(env!("CARGO_BIN_EXE_spmd"));
    command.args(["tour", "--cells", "128", "--seconds", "0.05", "--width", "40"]);
    if let Ok(launcher) = env::var("SPMD_MPIRUN") {
        command.env("SPMD_MPIRUN", launcher);
    }
    let out = support::run(&mut command, LIMIT).success().stdout;
    assert!(out.contains("on two hosts made out of namespaces"), "{out}");
    let last = out.lines().rfind(|line| line.starts_with("distributed")).unwrap_or_default();
    assert!(last.ends_with("right") && last.contains("kB"), "bytes cross the cables: {out}");
}

#[test]
fn a_slow_cable_delays_every_message() {
    let line = "\
        latency() { $JOB --map-by node $SPMD bench latency --sizes 8 --iterations 10 --warmup 1 --format csv; }
        $HOSTS_SLOW node2 5 && latency && $HOSTS_SLOW all 1 100 && latency && $HOSTS_SLOW all 0 && latency";
    let Some(ending) = beside_hosts(&[], line) else { return };
    let out = ending.success().stdout;
    let rows = out.lines().filter(|line| line.starts_with("mpi,"));
    let times: Vec<f64> = rows.map(|row| row.split(',').nth(7).unwrap().parse().unwrap()).collect();
    // One cable of the two, or both; microseconds.
    let [one, both, _none] = times[..] else { panic!("{out}") };
    assert!(one >= 5_000.0 && both >= 2_000.0, "{out}");
}

/// `$RUN`: heat2d by `spmd run` on two hosts with two ranks each, until somebody ends it.
const FOR_EVER: &str = "\
    RUN=\"$SPMD run --hosts node1:2,node2:2 $HEAT --size 300,300 --steps 100000000\"
    at_work() { until grep -q 'ranks x threads' $1; do kill -0 $job || exit 9; sleep 0.1; done; sleep 1; }
    left() { for host in $*; do $CLUSTER exec $host pgrep heat2d; done; true; }
    out=$(mktemp)";

#[test]
fn a_run_ends_when_a_host_is_lost_and_says_which() {
    if are_missing() {
        return;
    }
    for (fault, hosts) in [("crash", "node1"), ("cut", "node1 node2")] {
        let line = format!(
            "{FOR_EVER}; $RUN >$out & job=$!; at_work $out
            $CLUSTER {fault} node2 >&2; code=0; wait $job || code=$?
            # A host that is cut off finds out by itself.
            [ {fault} = crash ] || sleep 16; left {hosts}; exit $code"
        );
        let ending = on_hosts(2, &[], &line, LIMIT).code(7);
        assert!(ending.stderr.contains("error: node2 is lost"), "{fault}: {ending:#?}");
        assert_eq!(ending.stdout, "", "{fault}: ranks are left");
    }
}

#[test]
fn a_run_on_hosts_stops_when_it_is_asked_to() {
    if are_missing() {
        return;
    }
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let kept = place.path().join("kept");
    let line = format!(
        "{FOR_EVER}; $RUN --checkpoint $KEPT --every 0.5s >$out & job=$!; at_work $out
        # A rank that has not begun does not hear the signal, but ends by it.
        until ls $KEPT | grep -q 0000; do kill -0 $job || exit 9; sleep 0.1; done
        kill $job; code=0; wait $job || code=$?; left node1 node2; exit $code"
    );
    let ending = on_hosts(2, &[("KEPT", kept.to_str().unwrap())], &line, LIMIT).code(5);
    assert!(ending.stderr.contains("to be continued from"), "{ending:#?}");
    assert_eq!(ending.stdout, "", "ranks are left");
}

#[test]
fn a_run_does_not_begin_on_hosts_that_it_cannot_run_on() {
    if are_missing() {
        return;
    }
    // /tmp is each host's own.
    let line = "\
        small='--size 64,48 --steps 5'; hosts='--hosts node1:2,node2:2'; code=0
        for host in node1 login; do $CLUSTER exec $host cp $HEAT /tmp/heat; done
        $SPMD run $hosts /tmp/heat $small; echo code $?
        $CLUSTER exec node2 sh -c 'cp $0 /tmp/heat; echo >>/tmp/heat' $HEAT
        $SPMD run $hosts /tmp/heat $small; echo code $?
        $CLUSTER exec node2 cp $HEAT /tmp/heat
        $SPMD run $hosts /tmp/heat $small; echo code $?
        $CLUSTER exec node2 sh -c 'rm /tmp/heat; mount -o remount,size=64k /tmp'
        $SPMD run $hosts $HEAT $small; echo code $?
        $SPMD run --hosts node1:2,node9:2 $HEAT $small; echo code $?
        $SPMD info --hosts node1,node2 || true";
    let ending = on_hosts(2, &[], line, LIMIT).success();
    let codes: Vec<&str> =
        ending.stdout.lines().filter_map(|line| line.strip_prefix("code ")).collect();
    assert_eq!(codes, ["1", "1", "0", "1", "7"], "{ending:#?}");
    for part in [
        "error: node2: /tmp/heat is not there",
        "error: node2: /tmp/heat is another build than here",
        "error: node2: /tmp is full",
        "error: node9: cannot be reached: ",
    ] {
        assert!(ending.stderr.contains(part), "{part}: {ending:#?}");
    }
    assert!(ending.stdout.contains("verification: passed"), "{ending:#?}");
    let row = ending.stdout.lines().find(|line| line.starts_with("node1  node1 (10.77.0.1)"));
    assert!(row.is_some_and(|row| row.contains("Gbit/s")), "{ending:#?}");
    assert!(ending.stdout.contains("advice: node2: /tmp is nearly full"), "{ending:#?}");
}
