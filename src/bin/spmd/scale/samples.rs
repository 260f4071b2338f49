//! Launches that have been made, a line of JSON each, written as soon as they are over: an
//! interrupted study goes on from there.

use std::{
    collections::BTreeMap,
    error::Error,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use serde::{Deserialize, Serialize};
use spmd::record::{RankRecord, Record};

use super::{machine::Card, plan::Plan};

/// One launch of a point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Sample {
    /// Which point of the plan.
    pub(super) point: usize,
    /// The how many-th launch of the study.
    pub(super) launch: usize,
    /// The seconds that count; `None` if it has failed.
    pub(super) seconds: Option<f64>,
    /// From the start of the launcher to its end.
    pub(super) wall_s: f64,
    /// Why it has failed.
    pub(super) failed: Option<String>,
    /// Why it is not to be trusted.
    pub(super) doubts: Vec<Doubt>,
    /// The command line, and the CPUs it was kept on.
    pub(super) command: String,
    pub(super) binding: String,
    /// What the run has left.
    pub(super) run: Option<Run>,
}

/// Why a launch is not to be trusted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Doubt {
    /// The program has found its own result wrong.
    WrongResult(String),
    /// Others had so much of the CPUs (a share of 1).
    NotIdle(f64),
    /// The ranks' threads waited for CPUs for so much of the time (a share of 1).
    Disturbed(f64),
}

impl Doubt {
    pub(super) fn words(&self) -> String {
        match self {
            Self::WrongResult(why) => format!("verification failed ({why})"),
            Self::NotIdle(share) => {
                format!("not idle: others had {:.0} % of the CPUs", 100.0 * share)
            }
            Self::Disturbed(share) => {
                format!("not idle: threads waited for a CPU for {:.0} % of the time", 100.0 * share)
            }
        }
    }
}

/// What is kept of a run's record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) engine: String,
    pub(super) library: String,
    pub(super) verified: Option<bool>,
    pub(super) parts: Vec<Part>,
    /// Seconds in calls by operation and by place, of all ranks together.
    pub(super) operations: BTreeMap<String, f64>,
    pub(super) places: BTreeMap<String, f64>,
    /// Sender, receiver, messages, bytes.
    pub(super) messages: Vec<(usize, usize, u64, u64)>,
}

/// A rank of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) node: u32,
    pub(super) host: String,
    pub(super) cpus: String,
    /// Seconds of the part that counts, of this rank.
    pub(super) own_s: f64,
    /// Of these, in calls.
    pub(super) calls_s: f64,
    /// CPU seconds of its threads meanwhile, and how long they waited for a CPU.
    pub(super) cpu_s: Option<f64>,
    pub(super) queued_s: Option<f64>,
    pub(super) switches: Option<u64>,
}

impl Run {
    /// The part of the run that counts, as far as the program has said so.
    pub(super) fn of(record: &Record) -> Self {
        let mut run = Self {
            engine: record.engine.clone(),
            library: record.library.clone(),
            verified: record.verification().map(|verification| verification.passed),
            ..Self::default()
        };
        for RankRecord { rank, timed, wall_s, stats, usage, node, host, cpus, .. } in
            &record.by_rank
        {
            let (own_s, stats, usage) = match timed {
                Some(timed) => (timed.own_s, &timed.stats, timed.usage),
                None => (*wall_s, stats, *usage),
            };
            for (to, from) in
                [(&mut run.operations, &stats.operations), (&mut run.places, &stats.places)]
            {
                for (name, cost) in from {
                    *to.entry(name.clone()).or_default() += cost.time.as_secs_f64();
                }
            }
            let sent = stats.peers.iter().filter(|(_, peer)| peer.messages_sent > 0);
            run.messages.extend(
                sent.map(|(&peer, cost)| (*rank, peer, cost.messages_sent, cost.bytes_sent)),
            );
            run.parts.push(Part {
                node: *node,
                host: host.clone(),
                cpus: cpus.clone(),
                own_s,
                calls_s: stats.time().as_secs_f64().min(own_s),
                cpu_s: usage.map(|usage| usage.cpu_s),
                queued_s: usage.map(|usage| usage.queued_s),
                switches: usage.map(|usage| usage.voluntary_switches + usage.involuntary_switches),
            });
        }
        run
    }

    pub(super) fn hosts(&self) -> usize {
        let mut nodes: Vec<u32> = self.parts.iter().map(|part| part.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes.len()
    }
}

/// The first line of the file: what the launches belong to.
#[derive(Serialize, Deserialize)]
struct Head {
    plan: Plan,
    card: Card,
}

/// A directory that is this study's until this is dropped.
pub(super) struct Claim {
    directory: PathBuf,
    path: PathBuf,
    file: Locked,
}

/// The file of a study's launches.
enum Locked {
    Yes(Flock<File>),
    /// Not every file system has locks.
    Without(File),
}

impl Locked {
    fn file(&mut self) -> &mut File {
        match self {
            Self::Yes(file) => file,
            Self::Without(file) => file,
        }
    }
}

impl Claim {
    /// Makes the directory, if there is none, and takes it.
    ///
    /// # Errors
    /// If another study is being made there, or it cannot be written.
    pub(super) fn take(directory: &Path) -> Result<Self, String> {
        let path = directory.join("samples.jsonl");
        let refuse = |error: io::Error| format!("{}: {error}", path.display());
        fs::create_dir_all(directory).map_err(refuse)?;
        let mut options = OpenOptions::new();
        let file = options.create(true).read(true).append(true).open(&path).map_err(refuse)?;
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Locked::Yes(file),
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(format!(
                    "{}: another study is being made there\n  help: wait until it has ended, or use another --out",
                    directory.display()
                ));
            }
            Err((file, _)) => Locked::Without(file),
        };
        Ok(Self { directory: directory.to_owned(), path, file })
    }
}

/// The launches of a study, and where more of them are kept.
pub(super) struct Store(Claim);

impl Store {
    /// Goes on with the study in this directory, or begins one: then `card` says what it runs on.
    ///
    /// # Errors
    /// If the directory has another study, or cannot be written.
    pub(super) fn open(
        mut claim: Claim,
        plan: &Plan,
        card: impl FnOnce() -> Card,
    ) -> Result<(Self, Card, Vec<Sample>), String> {
        let (path, directory) = (claim.path.clone(), claim.directory.clone());
        let refuse = |error: io::Error| format!("{}: {error}", path.display());
        let broken = |error: &dyn Error| {
            format!("{}: {error}\n  help: this is no study; use another --out", path.display())
        };
        let file = claim.file.file();
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(refuse)?;
        // What was being written when the study was interrupted has no end of line; after a power
        // cut it may be anything.
        text.truncate(text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1));
        file.set_len(text.len() as u64).map_err(refuse)?;
        let text = String::from_utf8(text).map_err(|error| broken(&error))?;
        let mut store = Self(claim);
        let mut lines = text.lines();
        let Some(first) = lines.next() else {
            let head = Head { plan: plan.clone(), card: card() };
            store.append(&head)?;
            return Ok((store, head.card, Vec::new()));
        };
        let head: Head = serde_json::from_str(first).map_err(|error| broken(&error))?;
        if head.plan != *plan {
            return Err(format!(
                "{} has another study ({})\n  help: use another --out, or repeat its command to go on with it",
                directory.display(),
                differences(&head.plan, plan)
            ));
        }
        let samples: Result<Vec<Sample>, String> =
            lines.map(|line| serde_json::from_str(line).map_err(|error| broken(&error))).collect();
        Ok((store, head.card, samples?))
    }

    /// Keeps a launch: it is on the disk when this returns.
    pub(super) fn keep(&mut self, sample: &Sample) -> Result<(), String> {
        self.append(sample)
    }

    fn append(&mut self, line: &impl Serialize) -> Result<(), String> {
        let path = &self.0.path;
        let refuse = |error: io::Error| format!("{}: cannot write: {error}", path.display());
        let mut text = serde_json::to_string(line).map_err(|error| refuse(error.into()))?;
        text.push('\n');
        let file = self.0.file.file();
        file.write_all(text.as_bytes()).map_err(refuse)?;
        file.sync_data().map_err(refuse)
    }
}

/// In what two plans differ, by their options.
fn differences(old: &Plan, new: &Plan) -> String {
    let differ = [
        ("program", old.program != new.program),
        ("arguments", old.arguments != new.arguments),
        ("--launcher", old.launcher != new.launcher),
        ("--launcher-args", old.launcher_args != new.launcher_args),
        ("--cores", old.cores != new.cores),
        ("--launches", old.launches != new.launches),
        ("--seed", old.seed != new.seed),
        ("--work", old.work != new.work),
        (
            "--ranks, --threads or --mode",
            old.points != new.points && old.arguments == new.arguments,
        ),
    ];
    let names: Vec<&str> =
        differ.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect();
    format!("other {}", names.join(", "))
}
