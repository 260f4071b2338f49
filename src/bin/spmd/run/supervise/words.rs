//! `spmd status`, `spmd drain`, `spmd add`: what users say to a supervised run.

use std::io::Write;

use clap::Args;

use super::control::{Answer, Request, ask};
use crate::{
    hosts::{Host, parse_list},
    run::way::become_said_in,
};

const STATUS: &str = "\
Examples:
  spmd status                      The only supervised run of this user on this host
  spmd status heat2d-4711 --json   One of several, for a program

A supervised run is one that was started with `spmd run --restarts`, on this host.
Exit codes: 0 it was told, 1 there is no such run.";

/// Show how a supervised run (`spmd run --restarts`) is: hosts, ranks, step, last checkpoint, restarts
#[derive(Args)]
#[command(after_help = STATUS)]
pub(crate) struct Shown {
    /// The run [default: the only one there is]
    run: Option<String>,
    /// A run of this job of SLURM
    #[arg(long, value_name = "JOB")]
    job: Option<String>,
    /// As one line of JSON
    #[arg(long)]
    json: bool,
}

/// A host of a run.
#[derive(Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct Change {
    /// A run of this job of SLURM; from a job that has more nodes for it, say
    #[arg(long, value_name = "JOB")]
    job: Option<String>,
    /// The run [default: the only one there is]
    run: Option<String>,
    /// The host; with a number of slots behind a colon, only of those: `node4:2`
    #[arg(value_name = "HOST[:SLOTS]")]
    host: String,
}

impl Change {
    /// # Errors
    /// What is wrong, in words.
    fn parse(&self) -> Result<(Option<&str>, Host), String> {
        match &*parse_list(&self.host)? {
            [host] => Ok((self.run.as_deref(), host.clone())),
            _ => Err(format!("{}: one host at a time", self.host)),
        }
    }

    /// As [`Self::parse`], of a run of this host: one of another job is told there.
    fn here(&self, verb: &str) -> Result<(Option<&str>, Host), String> {
        let change = self.parse()?;
        let Some(job) = &self.job else { return Ok(change) };
        let words: Vec<&str> =
            [verb].into_iter().chain(self.run.as_deref()).chain([&*self.host]).collect();
        Err(become_said_in(job, &words))
    }
}

/// # Errors
/// In words.
pub(crate) fn status(shown: &Shown, out: &mut dyn Write) -> Result<(), String> {
    if let Some(job) = &shown.job {
        let json = shown.json.then_some("--json");
        let words: Vec<&str> =
            ["status"].into_iter().chain(shown.run.as_deref()).chain(json).collect();
        return Err(become_said_in(job, &words));
    }
    match ask(shown.run.as_deref(), &Request::Status {})? {
        Answer::Status(status) => {
            let text = if shown.json {
                serde_json::to_string(&status).map_err(|error| error.to_string())? + "\n"
            } else {
                status.text()
            };
            out.write_all(text.as_bytes()).map_err(|error| format!("cannot print: {error}"))
        }
        Answer::Said(text) | Answer::Error(text) => Err(text),
    }
}

/// # Errors
/// In words.
pub(crate) fn drain(change: &Change, out: &mut dyn Write) -> Result<(), String> {
    let (run, host) = change.here("drain")?;
    tell(run, &Request::Drain { host: host.name, slots: host.slots }, out)
}

/// # Errors
/// In words.
pub(crate) fn add(change: &Change, out: &mut dyn Write) -> Result<(), String> {
    let (run, host) = change.here("add")?;
    tell(run, &Request::Add { host: host.name, slots: host.slots }, out)
}

fn tell(run: Option<&str>, request: &Request, out: &mut dyn Write) -> Result<(), String> {
    match ask(run, request)? {
        Answer::Said(text) => {
            writeln!(out, "{text}").map_err(|error| format!("cannot print: {error}"))
        }
        Answer::Error(text) => Err(text),
        Answer::Status(_) => Err("the run answers something else".to_owned()),
    }
}
