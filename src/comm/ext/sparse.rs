//! Messages to a few ranks each, where nobody knows who will send to whom.

use super::Comm;
use crate::{
    comm::{ANY, test_all},
    datum::Datum,
    error::Result,
};

/// [`exchange_sparse`](Self::exchange_sparse) for communicators.
pub trait ExchangeSparse {
    /// Sends each vector to its rank, and returns what others have sent to this one, in the order of their ranks (of
    /// sending, where one rank sent several). Nobody need know who sends to whom.
    ///
    /// # Collective
    /// All ranks, with any number of messages each, itself included. Each rank pays for the messages that it sends and
    /// receives, and for two barriers: no memory and no message for ranks that it has nothing to do with, unlike
    /// [`Comm::alltoall`].
    ///
    /// # Errors
    /// As [`Comm::issend`] and [`Comm::recv`].
    ///
    /// # Examples
    /// ```
    /// use spmd::ExchangeSparse;
    /// let got = spmd::local(4, |world| {
    ///     // everybody has news for rank 0 and for nobody else
    ///     Ok(world.exchange_sparse([(0, vec![10 * world.rank()])])?)
    /// });
    /// let got = got.unwrap();
    /// assert_eq!(got[0], [(0, vec![0]), (1, vec![10]), (2, vec![20]), (3, vec![30])]);
    /// assert!(got[1].is_empty());
    /// ```
    ///
    /// Source: Hoefler, Siebert, Lumsdaine, "Scalable communication protocols for dynamic sparse data exchange" (2010),
    /// the NBX protocol. The barrier at its end is ours: it keeps a fast rank's next exchange out of a slow rank's last.
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
        let tag = self.max_tag();
        let mut sends = Vec::new();
        for (to, values) in out {
            // Synchronous: done means received.
            sends.push(self.issend(values, (to, tag))?);
        }
        let mut received = Vec::new();
        // Once all of this rank's messages have been received, it enters a barrier and goes on receiving: when all are in
        // it, there is no message left.
        let mut all_received = None;
        loop {
            while let Some(message) = self.iprobe((ANY, tag))? {
                let from = message.source();
                received.push((from, message.recv::<T>()?));
            }
            all_received = match all_received {
                None => match test_all(sends) {
                    Ok(sent) => {
                        sent?;
                        sends = Vec::new();
                        Some(self.ibarrier()?)
                    }
                    Err(open) => {
                        sends = open;
                        None
                    }
                },
                Some(barrier) => match barrier.test() {
                    Ok(done) => break done?,
                    Err(open) => Some(open),
                },
            };
            std::thread::yield_now();
        }
        self.barrier()?;
        received.sort_by_key(|&(from, _)| from);
        Ok(received)
    }
}
