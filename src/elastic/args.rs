//! The options of an elastic farm.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use crate::settings::{given, seconds};

/// What a program is in an elastic farm: flatten it into your own [`clap`] arguments.
///
/// With `--serve` it is the coordinator, with `--join` a worker, with neither it does all tasks
/// itself. Each option may be given by a variable, `SPMD_ELASTIC_JOIN` and so on: `spmd join` does.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Elastic farm")]
pub struct ElasticArgs {
    /// Be the coordinator: listen at this address for workers; port 0 is any that is free
    #[arg(
        long,
        value_name = "ADDRESS",
        num_args = 0..=1,
        default_missing_value = "127.0.0.1:0",
        env = given("SPMD_ELASTIC_SERVE"),
        hide_env = true,
        conflicts_with = "join",
        requires = "token_file"
    )]
    pub serve: Option<String>,
    /// Be a worker of the coordinator at this address
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = given("SPMD_ELASTIC_JOIN"),
        hide_env = true,
        requires = "token_file"
    )]
    pub join: Option<String>,
    /// What workers show and know the coordinator by: the coordinator makes it if it is not there,
    /// for copying to the hosts of workers; nobody else may read it
    #[arg(long, value_name = "FILE", env = given("SPMD_ELASTIC_TOKEN_FILE"), hide_env = true)]
    pub token_file: Option<PathBuf>,
    /// The coordinator's log: killed, it goes on from there
    #[arg(long, value_name = "FILE", env = given("SPMD_ELASTIC_LOG"), hide_env = true)]
    pub log: Option<PathBuf>,
    /// The coordinator gives a worker up that is not heard of for so long
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "15",
        env = given("SPMD_ELASTIC_LEASE"),
        hide_env = true,
        value_parser = lease
    )]
    pub lease: Duration,
    /// The coordinator sets a task aside after so many workers were lost with it or failed on it
    #[arg(
        long,
        value_name = "COUNT",
        default_value = "3",
        env = given("SPMD_ELASTIC_POISON"),
        hide_env = true
    )]
    pub poison: NonZeroUsize,
    /// The coordinator serves so many connections at most
    #[arg(
        long,
        value_name = "COUNT",
        default_value = "1024",
        env = given("SPMD_ELASTIC_CONNECTIONS"),
        hide_env = true
    )]
    pub connections: NonZeroUsize,
    /// A task or a result is no larger than this
    #[arg(
        long,
        value_name = "MIB",
        default_value = "64",
        env = given("SPMD_ELASTIC_MAX_MESSAGE"),
        hide_env = true,
        value_parser = clap::value_parser!(u32).range(1..=1024)
    )]
    pub max_message: u32,
    /// Tasks that a worker does at once, each on a thread [default: one per CPU]
    #[arg(
        long,
        value_name = "COUNT",
        env = given("SPMD_ELASTIC_SLOTS"),
        hide_env = true,
        value_parser = clap::value_parser!(u32).range(1..=4096)
    )]
    pub slots: Option<u32>,
    /// How long a worker looks for a coordinator that is not there, or not there any more
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "60",
        env = given("SPMD_ELASTIC_PATIENCE"),
        hide_env = true,
        value_parser = seconds
    )]
    pub patience: Duration,
}

/// What a program is in an elastic farm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It does all tasks itself.
    Alone,
    /// It hands out tasks.
    Coordinator,
    /// It does tasks.
    Worker,
}

impl ElasticArgs {
    /// What this program is.
    pub fn role(&self) -> Role {
        match (&self.serve, &self.join) {
            (Some(_), _) => Role::Coordinator,
            (None, Some(_)) => Role::Worker,
            (None, None) => Role::Alone,
        }
    }

    pub(super) fn slots(&self) -> usize {
        let there = || std::thread::available_parallelism().map_or(1, usize::from);
        self.slots.map_or_else(there, |slots| slots as usize)
    }

    pub(super) fn most_bytes(&self) -> usize {
        (self.max_message as usize) << 20
    }
}

/// Long enough for some signs of life, short enough for their number.
fn lease(text: &str) -> Result<Duration, String> {
    let lease = seconds(text)?;
    if (Duration::from_millis(200)..=Duration::from_secs(86400)).contains(&lease) {
        return Ok(lease);
    }
    Err("a lease is 0.2 to 86400 seconds".to_owned())
}
