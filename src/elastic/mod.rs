//! A task farm whose workers come and go: no MPI between them, and no end of the run when one of
//! them, or the coordinator, is killed.
//!
//! One program is the coordinator, which has the tasks, or a worker, by its options
//! ([`ElasticArgs`]). Workers join from anywhere and at any time, each a pool of threads or a whole
//! world of ranks. With feature `elastic`.
//!
//! ```no_run
//! use clap::Parser;
//! use spmd::{Failure, elastic::{ElasticArgs, ElasticFarm}};
//!
//! #[derive(Parser)]
//! struct Args {
//!     #[command(flatten)]
//!     elastic: ElasticArgs,
//! }
//!
//! fn main() -> Result<(), Failure> {
//!     let args = Args::parse();
//!     let farm = ElasticFarm::new("squares", &args.elastic);
//!     let outcome = farm.map(|| (0..1000_u64).collect(), |&number| Ok(number * number))?;
//!     // The coordinator has the results; or a program that was started without options.
//!     if let Some(outcome) = outcome {
//!         println!("{}", outcome.complete()?.iter().sum::<u64>());
//!     }
//!     Ok(())
//! }
//! ```
//!
//! | promised | |
//! |---|---|
//! | a task's first result counts | a later one is dropped, and counted |
//! | a result that was taken is not lost | with `--log`: it is on the disk before its worker is told |
//! | a worker that is lost costs what it was doing | others do it again |
//! | a task that kills its workers, or fails | is set aside after `--poison` of them |
//!
//! So a task must be a function of its input: it may be done twice. How it works stands in
//! `src/elastic/README.md`, how it is used in `docs/elastic.md`.

mod args;
mod coordinator;
mod door;
mod link;
mod log;
mod messages;
mod pool;
mod problem;
mod state;
mod token;
mod worker;
mod world;

use std::{collections::HashMap, net::SocketAddr, panic::Location};

use serde::{Serialize, de::DeserializeOwned};

pub use self::args::{ElasticArgs, Role};
use self::{coordinator::Collect, problem::Problem};
use crate::{comm::Comm, error::Failure};

/// A task farm whose workers come and go; what this program is in it [`ElasticArgs`] say.
pub struct ElasticFarm<'f> {
    name: String,
    args: &'f ElasticArgs,
    on_address: Box<dyn Fn(SocketAddr) + 'f>,
}

/// What has become of the tasks.
#[derive(Debug)]
#[non_exhaustive]
pub struct Outcome<R> {
    /// The results in the order of tasks; none of those that are set aside.
    pub results: Vec<Option<R>>,
    /// Tasks that were given up.
    pub set_aside: Vec<SetAside>,
    /// How many results the log had.
    pub from_log: usize,
    /// How many workers have joined.
    pub workers: usize,
    /// How many connections of workers were lost.
    pub lost: usize,
    /// How often a task was begun.
    pub begun: usize,
    /// How many tasks were begun more than once.
    pub begun_again: usize,
    /// How many results came after the first one of their task was kept, and were dropped: of a
    /// task that was done twice, or said again by a worker that could not hear that it was kept.
    pub late: usize,
}

/// A task that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetAside {
    /// Its number.
    pub task: usize,
    /// What has happened each time.
    pub reasons: Vec<String>,
}

/// What a worker has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Worked {
    /// Tasks that it has done.
    pub tasks: usize,
    /// Tasks that have failed here.
    pub failed: usize,
}

impl<R> Outcome<R> {
    /// The results of all tasks.
    ///
    /// # Errors
    /// If a task was set aside: which, and why.
    #[track_caller]
    pub fn complete(self) -> Result<Vec<R>, Failure> {
        let Some(first) = self.set_aside.first() else {
            return Ok(self.results.into_iter().flatten().collect());
        };
        let (count, task, why) = (self.set_aside.len(), first.task, first.reasons.join("\n  "));
        Err(Failure::new(format!("{count} tasks were set aside; the first, {task}:\n  {why}")))
    }
}

impl<'f> ElasticFarm<'f> {
    /// A farm that computes what the name says: workers that compute something else are refused.
    pub fn new(name: impl Into<String>, args: &'f ElasticArgs) -> Self {
        Self { name: messages::name(name.into()), args, on_address: Box::new(|_| {}) }
    }

    /// Calls this when the coordinator listens: at which address.
    #[must_use]
    pub fn on_address(mut self, told: impl Fn(SocketAddr) + 'f) -> Self {
        self.on_address = Box::new(told);
        self
    }

    /// What this program is in the farm.
    pub fn role(&self) -> Role {
        self.args.role()
    }

    /// Is what the options say: the coordinator of these tasks, a worker that does `task`, or both
    /// by itself, on threads. The outcome is the coordinator's; `None` is a worker's.
    ///
    /// # Errors
    /// As [`serve`](Self::serve) or [`work`](Self::work). A task that fails is set aside.
    #[track_caller]
    pub fn map<I, R>(
        &self,
        at_coordinator: impl FnOnce() -> Vec<I>,
        task: impl Fn(&I) -> Result<R, Failure> + Sync,
    ) -> Result<Option<Outcome<R>>, Failure>
    where
        I: Serialize + DeserializeOwned + Sync,
        R: Serialize + DeserializeOwned + Send,
    {
        match self.role() {
            Role::Alone => Ok(Some(pool::alone(self.args.slots(), &at_coordinator(), &task))),
            Role::Coordinator => self.serve(&at_coordinator(), |_, _| {}).map(Some),
            Role::Worker => self.work(task).map(|_| None),
        }
    }

    /// Is the coordinator of these tasks until each is done or set aside. `on_result` sees each
    /// result when it is kept, those of the log first.
    ///
    /// # Errors
    /// A file or an address that cannot be had; a log of other tasks; a log that cannot be written.
    /// Exit code 5 if it was asked to stop (SIGTERM) and a log keeps what is done.
    #[track_caller]
    pub fn serve<I, R>(
        &self,
        tasks: &[I],
        on_result: impl FnMut(usize, &R),
    ) -> Result<Outcome<R>, Failure>
    where
        I: Serialize,
        R: DeserializeOwned,
    {
        let at = Location::caller();
        let inputs: Result<Vec<Vec<u8>>, Problem> = tasks.iter().map(messages::encode).collect();
        let inputs = inputs.map_err(|problem| Failure::from(problem).called_at(at))?;
        let results = inputs.iter().map(|_| None).collect();
        let mut collector = Collector { read: HashMap::new(), results, on_result };
        let ended =
            coordinator::serve(&self.name, self.args, &inputs, &mut collector, &self.on_address)
                .map_err(|failure| failure.called_at(at))?;
        Ok(Outcome {
            results: collector.results,
            set_aside: ended.set_aside,
            from_log: ended.from_log,
            workers: ended.workers,
            lost: ended.counts.lost,
            begun: ended.counts.starts,
            begun_again: ended.counts.run_again,
            late: ended.counts.late,
        })
    }

    /// Is a worker, on so many threads as `--slots` says, until the coordinator has no more to do.
    /// Asked to stop (SIGTERM, SIGINT), it finishes what it has begun and leaves.
    ///
    /// # Errors
    /// If the coordinator refuses this worker, or is not there for `--patience`.
    #[track_caller]
    pub fn work<I, R>(
        &self,
        task: impl Fn(&I) -> Result<R, Failure> + Sync,
    ) -> Result<Worked, Failure>
    where
        I: DeserializeOwned,
        R: Serialize,
    {
        let at = Location::caller();
        pool::work(&self.name, self.args, &task).map_err(|failure| failure.called_at(at))
    }

    /// All ranks of a communicator are one worker: they do each task together, and rank 0's result
    /// counts. Options are read on rank 0 only.
    ///
    /// An error of a task must be one of all ranks, or of ranks that no other waits for in it; a
    /// panic ends the world, and the task is blamed for it.
    ///
    /// # Collective
    /// All ranks, with tasks that do the same.
    ///
    /// # Errors
    /// As [`work`](Self::work), on all ranks; and what goes wrong between them.
    #[track_caller]
    pub fn work_world<I, R>(
        &self,
        world: &Comm,
        task: impl Fn(&Comm, &I) -> Result<R, Failure>,
    ) -> Result<Worked, Failure>
    where
        I: DeserializeOwned,
        R: Serialize,
    {
        world::work(&self.name, self.args, world, &task)
    }
}

/// Results as values.
struct Collector<R, F> {
    /// Those that are not kept yet.
    read: HashMap<usize, R>,
    results: Vec<Option<R>>,
    on_result: F,
}

impl<R: DeserializeOwned, F: FnMut(usize, &R)> Collect for Collector<R, F> {
    fn read(&mut self, task: usize, bytes: &[u8]) -> Result<(), String> {
        self.read.insert(task, from_bytes(bytes)?);
        Ok(())
    }

    fn kept(&mut self, task: usize) {
        if let (Some(result), Some(place)) = (self.read.remove(&task), self.results.get_mut(task)) {
            (self.on_result)(task, place.insert(result));
        }
    }
}

/// A value that somebody else has sent.
fn from_bytes<V: DeserializeOwned>(bytes: &[u8]) -> Result<V, String> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err("there is more than a value of this type".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
