//! The messages of a collective call whose lengths only the sender knows.

use crate::{
    comm::Comm,
    datum::{Datum, Landing},
    engine::{Choice, Label, Mode, Rank, Source, Tag, Target},
    error::Fault,
};

/// The messages of one collective call.
pub(in crate::comm) struct Steps<'c> {
    pub(in crate::comm) comm: &'c Comm,
    pub(in crate::comm) label: Label,
    pub(in crate::comm) tag: Tag,
}

impl Steps<'_> {
    fn to(&self, rank: usize) -> Target {
        let (context, label, tag) = (self.comm.context, self.label, self.tag);
        Target { context, rank: Rank::from(rank), tag, label }
    }

    fn from(&self, rank: usize) -> Source {
        let (context, label, tag) = (self.comm.context, self.label, self.tag);
        Source { context, choice: Choice::new(Some(Rank::from(rank)), Some(tag)), label }
    }

    pub(in crate::comm) fn send(&self, rank: usize, bytes: &[u8]) -> Result<(), Fault> {
        self.comm.moved(bytes.len(), 0);
        self.comm.engine.send(&self.to(rank), Mode::Standard, bytes)
    }

    /// Receives a message of any length.
    pub(in crate::comm) fn recv<T: Datum>(&self, rank: usize) -> Result<Vec<T>, Fault> {
        let (ticket, received) = self.comm.await_message(&self.from(rank))?;
        self.comm.moved(0, received.bytes);
        let mut landing = Landing::<T>::new(received.bytes.div_ceil(size_of::<T>()))?;
        self.comm.engine.fetch(ticket, &self.label, &mut landing.bytes_mut()[..received.bytes])?;
        landing.into_values(received.bytes / size_of::<T>())
    }

    /// Receives a message whose length is known.
    pub(in crate::comm) fn recv_exact(&self, rank: usize, into: &mut [u8]) -> Result<(), Fault> {
        let received = self.comm.engine.recv(&self.from(rank), into)?;
        self.comm.moved(0, received.bytes);
        Ok(())
    }

    /// Exchanges messages of any length with one rank.
    pub(in crate::comm) fn exchange(&self, rank: usize, bytes: &[u8]) -> Result<Vec<u8>, Fault> {
        let engine = &*self.comm.engine;
        let (to, from) = (self.to(rank), self.from(rank));
        let mut length = [0; 8];
        engine.sendrecv(&to, &(bytes.len() as u64).to_ne_bytes(), &from, &mut length)?;
        let mut theirs = vec![0; u64::from_ne_bytes(length) as usize];
        engine.sendrecv(&to, bytes, &from, &mut theirs)?;
        self.comm.moved(bytes.len(), theirs.len());
        Ok(theirs)
    }
}
