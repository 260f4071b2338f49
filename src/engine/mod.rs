//! Layer 1: what moves the bytes between ranks. See `README.md` beside this file for the way of a
//! message.

pub(crate) mod collective;
mod groups;
#[allow(unsafe_code)] // lends buffers between threads; each block states its reasons
pub(crate) mod local;
pub(crate) mod matching;
mod messages;
#[cfg(feature = "mpi")]
#[allow(unsafe_code)] // calls into C; each block states its reasons
pub(crate) mod mpi;
mod outside;
pub(crate) mod schedule;
pub(crate) mod table;
mod vocabulary;
pub(crate) mod window;

use std::{panic::Location, time::Duration};

pub(crate) use self::{
    collective::{
        Builtin, Collective, CollectiveCall, CollectiveKind, Collectives, Counts, Element,
        Exchange, Exchanged, LentCollective, Neighbors, Pattern, Reduction,
    },
    groups::{Groups, SharedEngine, Shelf, Threads},
    messages::{Messages, Operations},
    vocabulary::{
        About, Begun, Choice, Context, Done, Ended, Installed, Label, Leftover, Mode, Op,
        Preparation, Rank, Received, Source, Step, Tag, Target, Ticket,
    },
    window::{Access, Rma, WindowId, Windows},
};
use crate::{checks::Checks, error::With};

/// What moves bytes between ranks: one object per rank, used by that rank's thread only.
///
/// Every verb either does what it says or reports why not; none blocks once the job has failed.
/// Buffers given by reference belong to the caller again when the verb returns, whatever it
/// returns.
///
/// The verbs are those of several traits, each implemented where the work is done. What has a
/// default here may be left out by a new engine: the other verbs suffice.
pub(crate) trait Engine:
    Messages + Operations + Collectives + Groups + Windows + Threads
{
    /// What this engine is.
    fn about(&self) -> About;

    /// What is behind it on this rank; finding that out takes a while.
    fn installed(&self) -> Installed {
        Installed::default()
    }

    /// The largest tag that a message can carry.
    fn max_tag(&self) -> Tag;

    /// What is checked, the same on every rank.
    fn checks(&self) -> Checks {
        Checks::Full
    }

    /// The tag of the messages of a communicator's collective call number `seq`.
    fn step_tag(&self, seq: u64, _label: &Label) -> Tag {
        Tag::of_call(seq, self.max_tag())
    }

    /// Whether the typed layer must find out beforehand that all ranks make the same collective
    /// call: this engine is asked to check it and cannot do so as the calls meet.
    fn leaves_agreement(&self) -> bool {
        false
    }

    /// Notes the program's call that the following verbs serve, for reports of what each rank waits
    /// for.
    ///
    /// It comes in parts, which fit into registers: a call that is copied whole waits until what
    /// was stored before it has left the processor, the last message among it.
    fn enter(&self, op: &'static str, with: With, at: &'static Location<'static>);

    /// Says that the rank enters another library (HDF5, say) to wait for other ranks there, or has
    /// come out.
    #[cfg(feature = "phdf5")]
    fn wait_elsewhere(&self, _inside: bool) {}

    /// What this rank has left undone; called when its program has returned.
    fn leftovers(&self) -> Vec<Leftover> {
        Vec::new()
    }

    /// Time since the job started.
    fn now(&self) -> Duration;
}
