//! How much is checked between ranks.

/// What the engine `mpi` checks between ranks; `local` always checks everything.
///
/// Memory is safe on every level. What is not checked between ranks shows as MPI shows it: a
/// message read as another type, or a hang (see `--timeout`). All ranks use the highest level that
/// one of them asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
#[non_exhaustive]
pub enum Checks {
    /// What memory safety needs; that collective calls agree, where they come in a new order
    Off,
    /// Also the arguments of every call: ranks, tags, lengths
    Arguments,
    /// Also, before every collective call, that all ranks make it, with the same root, type and
    /// length, and where
    Collective,
    /// Also the type of every message
    Full,
}

impl Default for Checks {
    /// As with integer overflow: everything in debug builds, what costs nothing in release builds.
    fn default() -> Self {
        if cfg!(debug_assertions) { Self::Full } else { Self::Arguments }
    }
}
