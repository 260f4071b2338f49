//! Elements moved between ranks until every rank has its share, in the order in which they are.

use super::{Comm, ExchangeSparse};
use crate::{comm::Sum, datum::Datum, error::Result};

/// [`partition`](Self::partition) for communicators.
pub trait Partition {
    /// Moves elements so that all ranks have equally many, give or take one; their order over all
    /// ranks stays as it is.
    ///
    /// # Collective
    /// One scan and one allreduce, then messages between the ranks whose old and new ranges overlap
    /// only: none for elements that are where they belong.
    ///
    /// # Examples
    /// ```
    /// use spmd::ext::Partition;
    /// let got = spmd::local(3, |world| {
    ///     let mine = if world.rank() == 1 { (0..7).collect() } else { vec![] };
    ///     Ok(world.partition(mine)?)
    /// });
    /// assert_eq!(got.unwrap(), [vec![0, 1], vec![2, 3, 4], vec![5, 6]]);
    /// ```
    #[track_caller]
    fn partition<T: Datum>(&self, mine: Vec<T>) -> Result<Vec<T>>;

    /// Moves elements so that all ranks have equal weights, as nearly as whole elements allow: no
    /// rank gets more than its share of the total and the weight of one element. Their order over
    /// all ranks stays as it is.
    ///
    /// `weight` is what an element costs, in any unit (time in ns, say); the total over all ranks
    /// fits into 64 bits.
    ///
    /// # Collective
    /// As [`Partition::partition`].
    ///
    /// # Examples
    /// ```
    /// use spmd::ext::Partition;
    /// let got = spmd::local(2, |world| {
    ///     let mine = if world.rank() == 0 { vec![3, 1, 1, 1] } else { vec![] };
    ///     Ok(world.partition_by_weight(mine, |&cost| cost)?)
    /// });
    /// assert_eq!(got.unwrap(), [vec![3], vec![1, 1, 1]]);
    /// ```
    #[track_caller]
    fn partition_by_weight<T: Datum>(
        &self,
        mine: Vec<T>,
        weight: impl Fn(&T) -> u64,
    ) -> Result<Vec<T>>;
}

impl Partition for Comm {
    #[track_caller]
    fn partition<T: Datum>(&self, mine: Vec<T>) -> Result<Vec<T>> {
        self.partition_by_weight(mine, |_| 1)
    }

    #[track_caller]
    fn partition_by_weight<T: Datum>(
        &self,
        mine: Vec<T>,
        weight: impl Fn(&T) -> u64,
    ) -> Result<Vec<T>> {
        let weights = mine.iter().map(&weight).fold(0, u64::saturating_add);
        let mut before = self.exscan(&weights, Sum)?.map_or(0, |before| before[0]);
        let total = self.allreduce(&weights, Sum)?[0];
        if total == 0 {
            return Ok(mine); // nothing weighs anything: any place is as good
        }
        // An element belongs to the rank in whose share of the whole its middle lies.
        let ranks = self.size() as u128;
        let owner = |element: &T| {
            let weight = weight(element);
            let twice_middle = 2 * u128::from(before) + u128::from(weight);
            before = before.saturating_add(weight);
            // An element of no weight at the very end would fall behind the last share.
            (twice_middle * ranks / (2 * u128::from(total))).min(ranks - 1) as usize
        };
        let owners: Vec<usize> = mine.iter().map(owner).collect();
        let mut parts: Vec<(usize, Vec<T>)> = Vec::new();
        let mut start = 0;
        for part in owners.chunk_by(|left, right| left == right) {
            parts.push((part[0], mine[start..start + part.len()].to_vec()));
            start += part.len();
        }
        drop(mine);
        // What stays goes beside the others, so that all are in the order of the ranks they come
        // from.
        let stays = parts.iter().position(|&(owner, _)| owner == self.rank());
        let stays = stays.map(|place| (self.rank(), parts.remove(place).1));
        let mut received = self.exchange_sparse(parts)?;
        received.extend(stays);
        received.sort_by_key(|&(from, _)| from);
        Ok(received.into_iter().flat_map(|(_, values)| values).collect())
    }
}
