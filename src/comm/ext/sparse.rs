//! Messages to a few ranks each, where nobody knows who will send to whom.

use std::collections::VecDeque;

use super::Comm;
use crate::{
    comm::{agreement::Subject, all},
    datum::{Datum, Landing, Memory, Outgoing, landing},
    engine::{
        Choice, CollectiveKind, Exchange, Label, Mode, Op, Rank, Received, Source, Tag, Target,
        Ticket,
    },
    error::{Fault, Result},
};

/// [`exchange_sparse`](Self::exchange_sparse) for communicators.
pub trait ExchangeSparse {
    /// Sends each vector to its rank, and returns what others have sent to this one, in the order
    /// of their ranks (of sending, where one rank sent several). Nobody need know who sends to
    /// whom.
    ///
    /// # Collective
    /// All ranks, with any number of messages each, itself included. Each rank pays for the
    /// messages that it sends and receives, and for a barrier: no memory and no message for ranks
    /// that it has nothing to do with, unlike [`Comm::alltoall`].
    ///
    /// # Errors
    /// As [`Comm::issend`] and [`Comm::recv`]. What cannot be received, for its type, is lost; all
    /// else has been exchanged.
    ///
    /// # Examples
    /// ```
    /// use spmd::ext::ExchangeSparse;
    /// let got = spmd::local(4, |world| {
    ///     // everybody has news for rank 0 and for nobody else
    ///     Ok(world.exchange_sparse([(0, vec![10 * world.rank()])])?)
    /// });
    /// let got = got.unwrap();
    /// assert_eq!(got[0], [(0, vec![0]), (1, vec![10]), (2, vec![20]), (3, vec![30])]);
    /// assert!(got[1].is_empty());
    /// ```
    ///
    /// Source: Hoefler, Siebert, Lumsdaine, "Scalable communication protocols for dynamic sparse
    /// data exchange" (2010), the NBX protocol.
    #[track_caller]
    fn exchange_sparse<T: Datum>(
        &self,
        out: impl IntoIterator<Item = (usize, Vec<T>)>,
    ) -> Result<Vec<(usize, Vec<T>)>>;
}

impl ExchangeSparse for Comm {
    #[track_caller]
    fn exchange_sparse<T: Datum>(
        &self,
        out: impl IntoIterator<Item = (usize, Vec<T>)>,
    ) -> Result<Vec<(usize, Vec<T>)>> {
        let out: Vec<_> = out.into_iter().collect();
        self.together(all("exchange_sparse"), Subject::any::<T>(), |label| {
            exchange(self, label, out)
        })
    }
}

/// Operations of this rank that are not over.
struct Open<'c> {
    comm: &'c Comm,
    ops: VecDeque<Op>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.ops.drain(..).for_each(|op| self.comm.engine.detach(op));
    }
}

fn exchange<T: Datum>(
    comm: &Comm,
    label: &Label,
    out: Vec<(usize, Vec<T>)>,
) -> Result<Vec<(usize, Vec<T>)>, Fault> {
    let (engine, context) = (&*comm.engine, comm.context);
    // No other call's messages have this tag there, so that a fast rank's next exchange stays out
    // of a slow one's last.
    let tag = Tag::of_call(comm.next_seq(), engine.max_tag());
    let ranks = out.iter().map(|(to, _)| comm.check_rank(*to)).collect::<Result<Vec<_>, _>>()?;
    let mut open = Open { comm, ops: VecDeque::with_capacity(out.len() + 1) };
    for ((_, values), rank) in out.into_iter().zip(ranks) {
        let memory = Memory::Owned(Box::new(Outgoing(values)));
        comm.sent(rank, tag, memory.bytes().len());
        let to = Target { context, rank, tag, label: *label };
        // Synchronous: done means received.
        open.ops.push_back(engine.isend(&to, Mode::Synchronous, memory)?);
    }
    let from = Source { context, choice: Choice::new(None, Some(tag)), label: *label };
    let (mut received, mut failed) = (Vec::new(), None);
    // Once all of this rank's messages have been received, it enters a barrier and goes on
    // receiving: when all are in it, there is no message left.
    let mut in_barrier = false;
    loop {
        let next = match open.ops.front() {
            Some(&op) => op,
            None if in_barrier => break,
            None => {
                in_barrier = true;
                let op = enter_barrier(comm, label)?;
                open.ops.push_back(op);
                op
            }
        };
        let Some((ticket, message)) = engine.probe_until(&from, next)? else {
            open.ops.pop_front();
            engine.wait(next)?;
            continue;
        };
        match fetch(comm, label, ticket, message) {
            Ok(values) => received.push((message.rank.index(), values)),
            // The others have to come to the end, so does this rank.
            Err(fault) => failed = failed.or(Some(fault)),
        }
    }
    received.sort_by_key(|&(from, _)| from);
    failed.map_or(Ok(received), Err)
}

fn enter_barrier(comm: &Comm, label: &Label) -> Result<Op, Fault> {
    comm.engine.icollective(Exchange {
        context: comm.context,
        rank: Rank::from(comm.rank),
        size: comm.size,
        seq: comm.next_seq(),
        label: *label,
        kind: CollectiveKind::Barrier,
        mine: Box::new(Outgoing(Vec::<u8>::new())),
        counts: Vec::new(),
        reduce: None,
        room: landing::<u8>,
    })
}

/// Receives a message that has been probed.
fn fetch<T: Datum>(
    comm: &Comm,
    label: &Label,
    ticket: Ticket,
    message: Received,
) -> Result<Vec<T>, Fault> {
    // What another type's message has beyond whole elements needs room too: the engine then says
    // what it is.
    let mut landing = Landing::<T>::new(message.bytes.div_ceil(size_of::<T>()))?;
    let bytes = landing.bytes_mut();
    let whole = bytes.len();
    comm.engine.fetch(ticket, label, &mut bytes[..message.bytes.min(whole)])?;
    comm.received(message);
    landing.into_values(message.bytes / size_of::<T>())
}
