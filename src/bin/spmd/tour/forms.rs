//! The forms of the tour: how each is started, and what is measured of it.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use spmd::trace::{RankTrace, Trace};

use super::kernel::STEPS;
use crate::{
    launcher::{Kind, Launcher, Layout, quoted},
    view::read,
};

/// The script that makes hosts out of namespaces of this machine.
const HOSTS: &str = include_str!("../../../../scripts/cluster.sh");

/// A way to run the program.
pub(super) struct Form {
    pub(super) name: &'static str,
    pub(super) title: String,
    /// What one sees, in three sentences.
    pub(super) sees: [&'static str; 3],
    pub(super) ranks: usize,
    pub(super) threads: usize,
    pub(super) start: Start,
}

/// How ranks are started.
pub(super) enum Start {
    /// As threads of one process; all on one CPU or not.
    Threads { share_cpu: bool },
    /// As processes, by this launcher and its options.
    Launcher { command: Vec<OsString> },
    /// As processes on throw-away hosts, by this launcher.
    Hosts { script: PathBuf, line: String },
}

/// What is known of a form.
pub(super) struct Measured {
    /// Of the time in which the steps were made.
    pub(super) trace: Trace,
    pub(super) time_ns: u64,
    pub(super) cpu_ns: u64,
    /// Of the ranks' own threads: given up, and taken away.
    pub(super) switches: [u64; 2],
    pub(super) messages: usize,
    pub(super) bytes: u64,
    /// Of these, between hosts.
    pub(super) network_bytes: u64,
}

impl Form {
    /// Runs the program; its trace goes into `directory` meanwhile.
    ///
    /// # Errors
    /// In words, with what the program complained of.
    pub(super) fn measure(
        &self,
        directory: &Path,
        cells: usize,
        steps: u32,
    ) -> Result<Measured, String> {
        let own = env::current_exe().map_err(|error| format!("where am I? {error}"))?;
        let trace = directory.join("trace.json");
        let mut words: Vec<OsString> = vec![own.into(), "tour-kernel".into()];
        words.extend(["--cells".into(), cells.to_string().into()]);
        words.extend(["--steps".into(), steps.to_string().into()]);
        words.extend(["--threads".into(), self.threads.to_string().into()]);
        words.extend(["--trace".into(), trace.clone().into()]);
        let mut command = match &self.start {
            Start::Threads { share_cpu } => {
                words.extend(["--engine".into(), "local".into()]);
                words.extend(["--ranks".into(), self.ranks.to_string().into()]);
                words.extend(share_cpu.then(|| "--share-cpu".into()));
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]);
                command
            }
            Start::Launcher { command: launcher } => {
                let mut command = Command::new(&launcher[0]);
                command.args(&launcher[1..]).args(&words);
                command
            }
            Start::Hosts { script, line } => {
                let quoted: Vec<String> =
                    words.iter().map(|word| quoted(&word.to_string_lossy())).collect();
                let mut command = Command::new("bash");
                let line = format!("{line} {}", quoted.join(" "));
                command.arg(script).args(["with", "2", "sh", "-c", &line]);
                // Hosts have a /tmp of their own, where these may lie.
                let own = env::current_exe().unwrap_or_default();
                let shared = [directory, own.parent().unwrap_or(directory)];
                let shared = env::join_paths(shared).map_err(|error| error.to_string())?;
                command.env("HOSTS_SHARED", shared).env_remove("HOSTS_STATE");
                command
            }
        };
        // The settings of this run are none of that one's.
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("SPMD_") {
                command.env_remove(name);
            }
        }
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        let ended = command.stdin(Stdio::null()).output();
        let ended = ended.map_err(|error| {
            format!("{} cannot be started: {error}", command.get_program().display())
        })?;
        let complaints = String::from_utf8_lossy(&ended.stderr);
        if !ended.status.success() {
            return Err(format!("it ended with {}: {}", ended.status, complaints.trim()));
        }
        let whole = read(&trace)?;
        let _ = fs::remove_file(&trace); // it was read
        Measured::of(whole)
    }
}

impl Measured {
    fn of(whole: Trace) -> Result<Self, String> {
        let spans = || whole.ranks.iter().flat_map(|rank| &rank.spans);
        let steps = || spans().filter(|span| &*span.name == STEPS);
        let (Some(from), Some(to)) =
            (steps().map(|span| span.start_ns).min(), steps().map(|span| span.end_ns).max())
        else {
            return Err("the trace has no steps".to_owned());
        };
        let sum = |count: fn(&RankTrace) -> u64| whole.ranks.iter().map(count).sum();
        let switches = [sum(|rank| rank.switches[0]), sum(|rank| rank.switches[1])];
        let trace = whole.window(|_| true, from, to);
        let times = trace.ranks.iter().flat_map(|rank| &rank.cpu);
        let cpu_ns = times.map(|time| time.ran_ns).sum();
        let host = |rank: usize| trace.ranks.iter().find(|other| other.rank == rank);
        let apart = |from: usize, to: usize| {
            host(from).map(|rank| &rank.host) != host(to).map(|rank| &rank.host)
        };
        let network = trace.messages.iter().filter(|message| apart(message.from, message.to));
        Ok(Self {
            time_ns: to - from,
            cpu_ns,
            switches,
            messages: trace.messages.len(),
            bytes: trace.messages.iter().map(|message| message.bytes).sum(),
            network_bytes: network.map(|message| message.bytes).sum(),
            trace,
        })
    }
}

/// How the distributed form can be started here, or what is missing for it.
///
/// # Errors
/// In words.
pub(super) fn distributed(
    hostfile: Option<&Path>,
    ranks: usize,
    directory: &Path,
) -> Result<(Start, &'static str), String> {
    if cfg!(not(feature = "mpi")) {
        return Err("this spmd was built without MPI; `scripts/setup.sh` installs one, then \
                    `cargo run --release --features mpi -- tour` shows it"
            .to_owned());
    }
    let launcher = Launcher::mpirun(None)?;
    // Binding needs topologies that containers and virtual machines often hide.
    let crowd = Layout { ranks, crowded: true, ..Layout::default() };
    let start = |layout| {
        let words = launcher.words(&layout).into_iter().map(OsString::from);
        Start::Launcher { command: words.collect() }
    };
    if hostfile.is_some() {
        return Ok((start(Layout { hostfile, ..crowd }), "the hosts of the hostfile"));
    }
    if env::var("SLURM_JOB_NUM_NODES").is_ok_and(|nodes| nodes != "1") {
        return Ok((start(crowd), "the hosts of the SLURM allocation"));
    }
    if matches!(launcher.kind, Kind::OpenMpi(_)) && hosts_can_be_made() {
        let script = write_script(directory)?;
        // The shell beside the hosts knows where they are.
        let (hostfile, agent) = (Some(Path::new("$HOSTS_FILE")), Some("$HOSTS_AGENT"));
        let mut words = launcher.words(&Layout { hostfile, agent, ..crowd });
        words[0] = quoted(&words[0]);
        let line = format!("{} --map-by node", words.join(" "));
        return Ok((
            Start::Hosts { script, line },
            "two hosts made out of namespaces of this machine: their own names, networks and \
             process numbers, a cable between them, the same CPUs",
        ));
    }
    Ok((
        start(crowd),
        "processes on this machine (a hostfile, a SLURM allocation or, as root on Linux with Open \
         MPI, throw-away hosts would set them apart)",
    ))
}

/// Writes the script that makes hosts.
///
/// # Errors
/// In words.
pub(super) fn write_script(directory: &Path) -> Result<PathBuf, String> {
    let script = directory.join("cluster.sh");
    // It starts itself again inside the namespaces.
    fs::write(&script, HOSTS)
        .and_then(|()| fs::set_permissions(&script, fs::Permissions::from_mode(0o700)))
        .map_err(|error| format!("{}: {error}", script.display()))?;
    Ok(script)
}

/// Whether `cluster.sh` works here: it takes root, namespaces and bridges.
pub(super) fn hosts_can_be_made() -> bool {
    let works = |words: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(words).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    works(&["--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "true"])
        && works(&["--net", "ip", "link", "add", "cables", "type", "bridge"])
}
