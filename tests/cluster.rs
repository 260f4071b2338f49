//! `scripts/cluster.sh`: hosts out of namespaces, what separates them, and what can befall them.
#![cfg(target_os = "linux")]

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use support::{
    Ending,
    hosts::{are_missing, cluster},
};

const LIMIT: Duration = Duration::from_secs(120);

/// Hosts that stay, and are taken down at the end of a test, however it ends.
struct Cluster(tempfile::TempDir);

impl Cluster {
    fn up(count: &str) -> Self {
        let cluster = Self(tempfile::tempdir().unwrap());
        cluster.run(&["up", count]).success();
        cluster
    }

    fn run(&self, words: &[&str]) -> Ending {
        support::run(cluster().env("HOSTS_STATE", self.0.path().join("it")).args(words), LIMIT)
    }

    /// What a command says that must succeed.
    fn ok(&self, words: &[&str]) -> String {
        self.run(words).success().stdout
    }

    /// The state of a host, in words.
    fn state(&self, host: &str) -> String {
        let status = self.ok(&["status"]);
        let line = status.lines().find(|line| line.starts_with(&format!("{host} ")));
        let words = line.unwrap_or_else(|| panic!("{status}")).splitn(3, ' ');
        words.last().unwrap().trim_start_matches(|it: char| !it.is_alphabetic()).to_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.run(&["down"]);
    }
}

/// Runs a line of shell on the login host of hosts that end with it.
fn with(count: &str, line: &str) -> Ending {
    support::run(cluster().args(["with", count, "sh", "-c", line]), LIMIT)
}

/// Whether a process has this word in its command line.
fn runs(word: &str) -> bool {
    let found = |process: fs::DirEntry| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        line.split(|&byte| byte == 0).any(|it| it == word.as_bytes())
    };
    fs::read_dir("/proc").unwrap().flatten().any(found)
}

#[test]
fn hosts_stay_until_they_are_taken_down() {
    if are_missing() {
        return;
    }
    let hosts = Cluster::up("2");
    assert!(hosts.run(&["up", "2"]).code(1).stderr.contains("hosts are up already"));
    assert_eq!(hosts.ok(&["hostfile"]), "node1 slots=2\nnode2 slots=2\n");
    assert_eq!(hosts.ok(&["hostfile", "3", "mpich"]), "node1:3\nnode2:3\n");
    assert_eq!(hosts.ok(&["exec", "login", "ssh", "node2", "hostname"]), "node2\n");
    assert_eq!(hosts.ok(&["exec", "node1", "hostname"]), "node1\n");
    assert_eq!(hosts.run(&["exec", "node2", "sh", "-c", "exit 7"]).code, Some(7));
    assert_eq!(hosts.state("node2"), "up");
    hosts.run(&["down"]).success();
    assert!(!hosts.0.path().join("it").exists(), "nothing is noted any more");
    assert!(hosts.run(&["status"]).code(1).stderr.contains("no hosts are up"));
    hosts.run(&["down"]).success();
}

#[test]
fn hosts_share_files_but_not_temporary_ones_memory_or_processes() {
    if are_missing() {
        return;
    }
    let hosts = Cluster::up("2");
    for directory in ["/tmp", "/var/tmp", "/run", "/dev/shm"] {
        hosts.ok(&["exec", "node1", "touch", &format!("{directory}/mine")]);
        let ls = hosts.ok(&["exec", "node2", "ls", directory]);
        assert!(!ls.contains("mine"), "{ls}");
        assert!(!Path::new(directory).join("mine").exists());
    }
    let processes = hosts.ok(&["exec", "node1", "sh", "-c", "echo /proc/[0-9]*/comm"]);
    assert!(processes.split_whitespace().count() < 12, "{processes}");
    let here = env!("CARGO_MANIFEST_DIR");
    assert!(hosts.ok(&["exec", "node1", "ls", here]).contains("Cargo.toml"));
    let shared = support::example("relay");
    hosts.ok(&["exec", "node1", "test", "-x", shared.to_str().unwrap()]);
}

#[test]
fn faults_come_and_go() {
    if are_missing() {
        return;
    }
    let hosts = Cluster::up("2");
    // Sends some kilobytes from one host to the other, if it can.
    let talk = || {
        let line = "head -c 30000 /dev/zero | timeout 3 ssh node2 'cat | wc -c'";
        hosts.run(&["exec", "node1", "bash", "-c", line]).stdout == "30000\n"
    };
    let sent = || -> u64 {
        let stats = hosts.ok(&["stats"]);
        let line = stats.lines().find(|line| line.starts_with("node1 ")).expect("a line for it");
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let before = sent();
    // Without sshd nothing crosses the cable.
    let network =
        hosts.ok(&["exec", "login", "sh", "-c", "command -v ssh"]) != "/run/spmd-hosts/bin/ssh\n";
    if network {
        assert!(talk());
        assert!(sent() >= before + 30_000);
        hosts.ok(&["cut", "node2"]);
        assert_eq!(hosts.state("node2"), "up, cut off");
        assert!(!talk());
        hosts.ok(&["heal", "node2"]);
        assert!(talk());
    }
    let said = hosts.ok(&["slow", "all", "3", "1.5%", "50"]);
    assert!(said.contains("node1: 3 ms, 1.5 % lost, 50 Mbit/s, each way"), "{said}");
    assert_eq!(hosts.state("node2"), "up, 3 ms, 1.5 % lost, 50 Mbit/s, each way");
    assert!(!network || talk());
    hosts.ok(&["slow", "all", "0"]);
    assert_eq!(hosts.state("node1"), "up");

    hosts.ok(&["freeze", "node2"]);
    assert_eq!(hosts.state("node2"), "frozen");
    assert!(!network || !talk());
    hosts.ok(&["thaw", "node2"]);
    assert_eq!(hosts.state("node2"), "up");
    assert!(!network || talk());

    hosts.ok(&["crash", "node2"]);
    assert_eq!(hosts.state("node2"), "crashed");
    assert!(!network || !talk());
    assert!(hosts.run(&["exec", "node2", "true"]).code(1).stderr.contains("no host node2"));
    assert_eq!(hosts.ok(&["hostfile"]), "node1 slots=2\n");
    assert!(hosts.run(&["add", "node1"]).code(1).stderr.contains("node1 is up already"));
    hosts.ok(&["add", "node2", "node5"]);
    assert!(!network || talk());
    assert_eq!(hosts.ok(&["exec", "login", "ssh", "node5", "hostname"]), "node5\n");
    assert_eq!(hosts.ok(&["hostfile", "1", "mpich"]), "node1:1\nnode2:1\nnode5:1\n");
}

#[test]
fn without_sshd_the_ssh_of_the_login_host_enters_hosts_directly() {
    if are_missing() {
        return;
    }
    let line =
        "ssh -x -o BatchMode=yes root@node1 hostname \\; pwd; cat $HOSTS_FILE; ssh node3 true";
    let mut command = cluster();
    command.env("HOSTS_SSHD", "no").args(["with", "2", "sh", "-c", line]);
    let ending = support::run(&mut command, LIMIT);
    assert_eq!(ending.stdout, "node1\n/\nnode1 slots=2\nnode2 slots=2\n", "{ending:#?}");
    assert!(ending.code(255).stderr.contains("no host node3"));
}

#[test]
fn hosts_end_with_their_command() {
    if are_missing() {
        return;
    }
    let line = "$HOSTS_AGENT node1 'sleep 98761 & sleep 98762' & sleep 0.5; exit 5";
    // Two sets at once, of the same names.
    std::thread::scope(|scope| {
        let other = scope.spawn(|| with("2", line).code);
        assert_eq!(with("2", line).code, Some(5));
        assert_eq!(other.join().unwrap(), Some(5));
    });
    assert!(!runs("98761") && !runs("98762"));
}

#[test]
fn nothing_is_left_of_hosts_whose_maker_is_killed() {
    if are_missing() {
        return;
    }
    for (signal, mark) in [("-TERM", "98763"), ("-KILL", "98764")] {
        let line = format!("$HOSTS_AGENT node1 sleep {mark}");
        let mut maker = cluster().args(["with", "1", "sh", "-c", &line]).spawn().unwrap();
        let await_that = |it: &dyn Fn() -> bool| {
            let started = Instant::now();
            while !it() {
                assert!(started.elapsed() < LIMIT);
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        await_that(&|| runs(mark));
        Command::new("kill").args([signal, &maker.id().to_string()]).status().unwrap();
        maker.wait().unwrap();
        await_that(&|| !runs(mark));
    }
}

#[test]
fn the_kernel_slows_cables_where_it_can() {
    if are_missing() {
        return;
    }
    let programs = tempfile::tempdir().unwrap();
    let (tc, log) = (programs.path().join("tc"), programs.path().join("log"));
    fs::write(&tc, format!("#!/bin/sh\necho \"$*\" >>{}\n", log.display())).unwrap();
    fs::set_permissions(&tc, fs::Permissions::from_mode(0o755)).unwrap();
    let script = support::hosts::script("cluster.sh");
    let line = format!(
        "PATH={}:$PATH; {script} slow node1 20 2% 80; {script} status; {script} slow node1 0",
        programs.path().display(),
        script = script.display()
    );
    let out = with("1", &line).success().stdout;
    assert!(out.contains("up, 20 ms, 2 % lost, 80 Mbit/s, each way"), "{out}");
    let netem = "root netem limit 20000 delay 20ms loss 2% rate 80mbit";
    let expected = format!(
        "qdisc add dev node1 {netem}\nqdisc add dev eth0 {netem}\n\
         qdisc del dev node1 root\nqdisc del dev eth0 root\n"
    );
    assert_eq!(fs::read_to_string(log).unwrap(), expected);
}

#[test]
fn what_cannot_be_done_is_said() {
    let run = |words: &[&str]| support::run(cluster().args(words), LIMIT);
    assert!(run(&["help"]).success().stdout.contains("freeze HOST"));
    for words in [&["up"][..], &["up", "0"], &["up", "2", "3"], &["with", "2"], &["explode"]] {
        assert!(run(words).code(2).stderr.contains("cluster.sh help"), "{words:?}");
    }
    // With programs that say that this is another machine.
    let programs = tempfile::tempdir().unwrap();
    let add = |name: &str, body: &str| {
        let path = programs.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let up = || {
        let mut command = cluster();
        let system = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{system}", programs.path().display()));
        let ending = support::run(command.args(["with", "1", "true"]), LIMIT);
        ending.code(1).stderr
    };
    add("id", "echo 0");
    add("unshare", "case $* in *bridge*) exit 1 ;; esac");
    let text = up();
    assert!(text.contains("no network can be made here") && text.contains("modprobe"), "{text}");
    add("unshare", "exit 1");
    let text = up();
    assert!(text.contains("no namespaces") && text.contains("privileged"), "{text}");
    add("id", "echo 1000");
    assert!(up().contains("only root can make hosts"));
    add("uname", "echo Darwin");
    assert!(up().contains("only Linux"));
}
