//! What is known of a supervised run: by the one that watches it, and by those who answer for it.

use std::{
    process,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{
    Limits,
    control::{Answer, Request},
    progress::Progress,
    roster::{Roster, Team},
    status::Status,
};
use crate::run::{Ending, plan::Plan};

/// What is known of a run: by the one that watches it, and by those who answer for it.
pub(super) struct Run {
    /// As users call it.
    pub(super) name: String,
    pub(super) command: String,
    pub(super) began: Instant,
    /// What the names of all starts begin with.
    pub(super) token: String,
    /// The number of the start that is at work, or comes next.
    pub(super) start: u64,
    pub(super) phase: Phase,
    pub(super) roster: Roster,
    pub(super) team: Option<Team>,
    pub(super) progress: Progress,
    pub(super) restarts: u32,
    pub(super) most_restarts: u32,
    pub(super) planned: u32,
    /// Rayon threads of a rank.
    pub(super) threads: usize,
}

pub(super) enum Phase {
    Starting,
    Running,
    /// It was asked to, so that it goes on with others.
    Stopping,
    Waiting(String),
}

impl Phase {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Waiting(_) => "waiting",
        }
    }

    pub(super) fn waits_for(&self) -> Option<String> {
        match self {
            Self::Waiting(what) => Some(what.clone()),
            _ => None,
        }
    }
}

pub(super) type Shared = Arc<Mutex<Run>>;

pub(super) fn lock(run: &Shared) -> MutexGuard<'_, Run> {
    run.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Run {
    /// What is known before the first start.
    pub(super) fn begin(options: &Limits, plan: &Plan, most_restarts: u32) -> Result<Self, Ending> {
        let (spares, least) = (options.spares, usize::from(options.min_ranks));
        let roster = if plan.hosts.is_empty() {
            if spares > 0 {
                return Err(Ending::Usage("--spares: there are no hosts to hold back".to_owned()));
            }
            Roster::here(
                if plan.in_allocation { "allocation" } else { "localhost" },
                plan.layout(None).ranks,
                least,
            )
        } else {
            Roster::new(&plan.hosts, spares, plan.ranks, least).map_err(Ending::Usage)?
        };
        let program = plan.program.file_name().unwrap_or_default().to_string_lossy();
        let plain = |letter: &char| letter.is_ascii_alphanumeric() || "_-".contains(*letter);
        let name: String = program.chars().filter(plain).take(32).collect();
        let words = plan.arguments.iter().map(|word| word.to_string_lossy().into_owned());
        let command: Vec<String> =
            std::iter::once(program.clone().into_owned()).chain(words).collect();
        Ok(Self {
            name: format!("{name}-{}", process::id()),
            command: command.join(" "),
            began: Instant::now(),
            token: plan.token.clone(),
            start: 1,
            phase: Phase::Starting,
            roster,
            team: None,
            progress: Progress::new(),
            restarts: 0,
            most_restarts,
            planned: 0,
            threads: plan.threads.unwrap_or(1),
        })
    }

    /// One of which nothing is known but its hosts.
    #[cfg(test)]
    pub(super) fn on(hosts: &str, least: usize) -> Self {
        let hosts = crate::hosts::parse_list(hosts).expect("a list of hosts");
        Self {
            name: String::new(),
            command: String::new(),
            began: Instant::now(),
            token: String::new(),
            start: 1,
            phase: Phase::Starting,
            roster: Roster::new(&hosts, 0, None, least).expect("hosts"),
            team: None,
            progress: Progress::new(),
            restarts: 0,
            most_restarts: 1,
            planned: 0,
            threads: 1,
        }
    }

    /// How many ranks may run on a host with so many cores.
    pub(super) fn slots_of(&self, cores: usize) -> usize {
        (cores / self.threads).max(1)
    }

    pub(super) fn answer(&mut self, request: Request) -> Answer {
        let before = self.roster.clone();
        let is_drain = matches!(request, Request::Drain { .. });
        let done = match request {
            Request::Status {} => return Answer::Status(Box::new(Status::of(self))),
            Request::Drain { host, slots } => self.roster.drain(&host, slots),
            Request::Add { host, slots } => self.roster.add(&host, slots),
        };
        if let Err(why) = done {
            return Answer::Error(why);
        }
        let keeps = self.progress.keeps();
        let Some(next) = self.roster.team().map(|team| team.text()) else {
            return Answer::Said(format!("noted; for now {}", self.roster.shortage()));
        };
        let must_stop = self.team.as_ref().is_some_and(|team| team.text() != next);
        match keeps {
            Some(false) if must_stop && is_drain => {
                self.roster = before;
                let why =
                    "the program keeps no checkpoints, so it cannot stop and go on with others";
                Answer::Error(format!("{why}\n  help: start it with --checkpoint, or end it"))
            }
            Some(false) if !is_drain => Answer::Said(
                "noted; the program keeps no checkpoints: it uses that only after a restart"
                    .to_owned(),
            ),
            None if must_stop && !self.progress.has_begun() => Answer::Said(format!(
                "it has told of no step yet; if it keeps checkpoints it stops at its first one and goes on with {next}"
            )),
            _ if must_stop => {
                Answer::Said(format!("it stops at its next step and goes on with {next}"))
            }
            _ => Answer::Said(format!("noted; for now it goes on with {next}")),
        }
    }
}
