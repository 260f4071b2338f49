//! Hosts that `scripts/cluster.sh` makes out of namespaces: as root, on Linux.

use std::{env, path::PathBuf, process::Command, sync::LazyLock, time::Duration};

/// Why there are no hosts, if so.
static WITHOUT: LazyLock<Option<&'static str>> = LazyLock::new(|| {
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
pub(crate) fn are_missing() -> bool {
    WITHOUT.is_some_and(|why| is_missing("netns", why))
}

/// Says why something is not tried, or fails if `SPMD_REQUIRE` asks for it.
pub(crate) fn is_missing(requirement: &str, why: &str) -> bool {
    let required = env::var("SPMD_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|it| it == requirement),
        "SPMD_REQUIRE asks for {requirement}: {why}"
    );
    println!("skipped: {why}");
    true
}

/// A script of the project.
pub(crate) fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

/// `scripts/cluster.sh`, with no settings of the one who tests.
pub(crate) fn cluster() -> Command {
    let mut command = super::program(script("cluster.sh"));
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("HOSTS_") {
            command.env_remove(name);
        }
    }
    // The programs under test may lie where every host has files of its own.
    let programs = env::current_exe().expect("a test knows its own path");
    command.env("HOSTS_SHARED", programs.ancestors().nth(2).expect("it is in a directory"));
    command.env("HOSTS_RELAY", super::example("relay"));
    command
}

/// The result of a run of heat2d: a number that every bit of the field is in.
pub(crate) fn checksum(out: &str) -> &str {
    let line = out.lines().find(|line| line.starts_with("checksum: "));
    line.unwrap_or_else(|| panic!("no checksum: {out}"))
}

/// That of one rank on one host, undisturbed.
pub(crate) fn checksum_of_one(arguments: &[&str]) -> String {
    let mut command = super::program(super::example("heat2d"));
    command.args(["--engine", "local", "-n", "1"]).args(arguments);
    let limit = Duration::from_secs(120);
    checksum(&super::run(&mut command, limit).success().stdout).to_owned()
}
