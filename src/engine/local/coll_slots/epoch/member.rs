//! A rank among those of a communicator, and what it calls.

use std::{cell::Cell, sync::Arc};

use super::super::{CollSlots, DEPTH, Digest, Said};
use crate::{
    engine::{
        CollectiveKind, Label,
        local::{LocalEngine, Members},
    },
    error::{ErrorKind, Fault},
};

/// One rank as a member of a communicator's slots.
pub(crate) struct Member {
    pub(super) coll_slots: Arc<CollSlots>,
    pub(super) me: usize,
    pub(super) epoch: Cell<u64>,
    /// All ranks have entered this epoch: they are done with those before.
    pub(super) entered: Cell<u64>,
    /// Whether the rank is in an epoch of these slots.
    pub(super) busy: Cell<bool>,
}

impl Member {
    pub(crate) fn new(coll_slots: Arc<CollSlots>, me: usize) -> Self {
        let (epoch, entered, busy) = (Cell::new(DEPTH - 1), Cell::new(0), Cell::new(false));
        Self { coll_slots, me, epoch, entered, busy }
    }

    /// Whether a call can begin.
    ///
    /// # Errors
    /// The verdict, if the job has failed; and a call out of the operator of another one.
    #[inline]
    pub(super) fn is_free(&self, engine: &LocalEngine) -> Result<(), Fault> {
        if self.busy.get() {
            let what = "an operator makes a collective call on the communicator that it reduces on";
            return Err(ErrorKind::InvalidArgument { what: what.to_owned() }.into());
        }
        engine.job.parking.check()
    }
}

impl Members {
    /// This rank's member, taken by its first collective call.
    pub(crate) fn member(&self, engine: &LocalEngine) -> &Member {
        self.member.get_or_init(|| {
            let job = &*engine.job;
            let make = || CollSlots::new(&self.ranks, job.parking.is_oversubscribed());
            let coll_slots = job.coll_slots.join((self.context, 0), self.ranks.len(), make);
            Member::new(coll_slots, self.me.index())
        })
    }
}

/// What makes two ranks' calls the same.
pub(crate) struct CollCall<'a> {
    pub(crate) label: &'a Label,
    pub(crate) seq: u64,
    pub(crate) kind: CollectiveKind,
    /// What all ranks say alike.
    pub(crate) bytes: usize,
}

impl CollCall<'_> {
    #[inline(always)]
    pub(super) fn digest(&self) -> Digest {
        let &Self { label, seq, kind, bytes } = self;
        let op = label.step.as_ref().map_or(0, |step| step.call.op.as_ptr().addr() as u32);
        Digest([
            seq << 32 | kind.root().map_or(0, |root| u64::from(root.0) + 1),
            u64::from(kind.number()) << 56 | bytes as u64,
            label.signature.word() << 32 | u64::from(op),
        ])
    }

    pub(super) fn said(&self) -> Said {
        let &Self { label, seq, kind, bytes, .. } = self;
        Said { label: *label, seq, kind, bytes }
    }
}
