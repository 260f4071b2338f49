//! The verbs of communicators: [`Groups`], and what the [`Threads`] of their ranks can use.

use std::{
    any::Any,
    sync::{Arc, OnceLock},
};

use super::{Context, Rank, Received, Source, Target};
use crate::{
    datum::Buffer,
    error::{Call, ErrorKind, Fault},
};

/// Communicators.
pub(crate) trait Groups {
    /// Opens a context for each group that the ranks of `parent` form. Collective over `parent`.
    ///
    /// `members` are ranks of `parent` in their new order; `group` numbers the groups of this call.
    fn split(
        &self,
        parent: Context,
        seq: u64,
        group: Option<(u32, &[Rank])>,
    ) -> Result<Option<Context>, Fault>;

    /// A number that is the same for the ranks of a host, which can share memory. Collective over
    /// `context`.
    fn node(&self, _context: Context, _seq: u64) -> Result<u32, Fault> {
        Ok(0)
    }

    /// Where the ranks of `context` are threads of one process: one shelf for all of them, on this
    /// occasion. All ranks ask, and nobody waits.
    fn shelf(&self, _context: Context, _seq: u64) -> Result<Option<Arc<Shelf>>, Fault> {
        Ok(None)
    }

    /// The communicator of `context` is gone on this rank.
    fn release(&self, _context: Context) {}

    /// The position of `rank` of `context` in the world.
    fn world_rank(&self, context: Context, rank: Rank) -> usize;

    /// What another library that speaks with the ranks of `context` by itself needs to know them: a
    /// value of this engine's own kind; none where there is no such library. Collective over
    /// `context`: all ranks hand it on to the same call.
    #[cfg_attr(not(feature = "phdf5"), allow(dead_code))] // asked for by the collective writer only
    fn native_handle(&self, _context: Context) -> Option<Result<Box<dyn Any>, Fault>> {
        None
    }
}

/// A place for each rank, where it puts bytes that others then hold together with it.
pub(crate) struct Shelf(Box<[OnceLock<Arc<Vec<u8>>>]>);

impl Shelf {
    pub(crate) fn new(ranks: usize) -> Self {
        Self((0..ranks).map(|_| OnceLock::new()).collect())
    }

    /// Puts something into the place of this rank, once.
    pub(crate) fn put(&self, rank: usize, bytes: &Arc<Vec<u8>>) {
        let place = self.0.get(rank);
        place.map(|place| place.get_or_init(|| Arc::clone(bytes)));
    }

    /// What this rank has put there, if it has.
    pub(crate) fn get(&self, rank: usize) -> Option<Arc<Vec<u8>>> {
        self.0.get(rank)?.get().cloned()
    }
}

/// What all threads of a rank can use.
pub(crate) trait Threads {
    /// What other threads of this rank may use at the same time as this one, on the ranks of
    /// `context`. Collective over `context`.
    fn shared(&self, _context: Context, _seq: u64) -> Result<Arc<dyn SharedEngine>, Fault> {
        let what = "messages between threads";
        Err(ErrorKind::Unsupported { what, how: "choose another engine" }.into())
    }
}

/// A rank's message space that all its threads can use at the same time. Contexts in targets and
/// sources are ignored.
pub(crate) trait SharedEngine: Send + Sync {
    /// As [`Messages::send`].
    fn send(&self, call: Call, to: &Target, bytes: &[u8]) -> Result<(), Fault>;

    /// Receives a message of any size into the buffer that `room` makes for so many bytes.
    fn recv(
        &self,
        call: Call,
        from: &Source,
        room: fn(usize) -> Box<dyn Buffer>,
    ) -> Result<(Box<dyn Buffer>, Received), Fault>;
}
