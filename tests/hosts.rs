//! The engine mpi on several hosts, which `scripts/hosts.sh` makes out of namespaces: on Open MPI,
//! as root, on Linux.

#![cfg(feature = "mpi")]

mod support;

use std::{
    env,
    path::Path,
    process::Command,
    sync::{LazyLock, Mutex, PoisonError},
    time::Duration,
};

use support::{Ending, OPEN_MPI, example, program};

/// No job of these tests needs as long: one that does, hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// One set of hosts at a time: there are few CPUs below them.
static TURN: Mutex<()> = Mutex::new(());

/// Why there are no hosts, if so.
static WITHOUT: LazyLock<Option<&'static str>> = LazyLock::new(|| {
    if !*OPEN_MPI {
        return Some("the hosts are started by Open MPI's mpirun");
    }
    let works = |command: &str, arguments: &[&str]| {
        Command::new(command).args(arguments).output().is_ok_and(|done| done.status.success())
    };
    if !works("unshare", &["--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "true"]) {
        return Some("no namespaces can be made here (it takes root)");
    }
    if !works("unshare", &["--net", "ip", "link", "add", "cables", "type", "bridge"]) {
        return Some("no network can be made here (it takes ip and bridges)");
    }
    None
});

/// Whether there are no hosts, which is said; a failure where they are asked for.
fn are_missing() -> bool {
    if let Some(why) = *WITHOUT {
        let required = env::var("SPMD_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|it| it == "netns"), "SPMD_REQUIRE asks for netns: {why}");
        println!("skipped: {why}");
    }
    WITHOUT.is_some()
}

/// Runs a line of shell beside two hosts of two slots each; nothing where there are none.
///
/// `$JOB` begins the launch of as many ranks, and needs a program; `$FAULTS` is one.
fn beside_hosts(variables: &[(&str, &str)], line: &str) -> Option<Ending> {
    if are_missing() {
        return None;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/hosts.sh");
    let launcher = env::var("SPMD_MPIRUN").unwrap_or_else(|_| "mpirun".to_owned());
    let job = format!(
        "{launcher} --mca plm_rsh_agent $HOSTS_AGENT --prtemca plm_ssh_agent $HOSTS_AGENT --hostfile $HOSTS_FILE \
         --mca mpi_yield_when_idle 1 -n 4"
    );
    // Open MPI 4 does not know PRRTE's settings.
    let said = Command::new(&launcher).arg("--version").output().expect("it started before");
    let newer = String::from_utf8_lossy(&said.stdout).contains(") 5.");
    let job = if newer { job } else { job.replace("--prtemca plm_ssh_agent $HOSTS_AGENT ", "") };
    let mut command = program(script);
    command.args(["2", "sh", "-c", &format!("JOB=\"{job}\"; {line}")]);
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.env("FAULTS", example("faults")).env("SPMD", env!("CARGO_BIN_EXE_spmd"));
    command.env("HOSTS_RELAY", example("relay"));
    command.envs(variables.iter().copied());
    Some(support::run(&mut command, LIMIT))
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
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace.json");
    let heat = example("heat2d");
    let line = "$JOB $HEAT --size 64,48 --steps 50 --trace $TRACE && $SPMD view $TRACE";
    let variables = [("HEAT", heat.to_str().unwrap()), ("TRACE", trace.to_str().unwrap())];
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
    if are_missing() {
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
