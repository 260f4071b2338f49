//! Communicators made of others.

use std::rc::Rc;

use super::{Comm, all};
use crate::{
    engine::Rank,
    error::{Call, ErrorKind, Result},
};

impl Comm {
    /// The same ranks with a message space of their own: a library that uses a duplicate cannot get its caller's messages.
    ///
    /// # Collective
    #[track_caller]
    pub fn dup(&self) -> Result<Self> {
        let call = all("dup");
        let fail = self.enter(call);
        let ranks: Vec<Rank> = (0..self.size).map(Rank::from).collect();
        let comm = self.derive(Some((0, &ranks))).map_err(fail)?;
        comm.ok_or_else(|| fail(ErrorKind::Closed))
    }

    /// One communicator for all ranks that give the same `color`, in the order of `key` (of rank where keys are equal);
    /// `None` for ranks without a color.
    ///
    /// # Collective
    /// An allgather of 24 bytes per rank.
    ///
    /// # Examples
    /// ```
    /// let sizes = spmd::local(5, |world| {
    ///     let parity = (world.rank() % 2) as u32;
    ///     let half = world.split(Some(parity), 0)?.expect("every rank has a color");
    ///     Ok((half.rank(), half.size()))
    /// });
    /// assert_eq!(sizes.unwrap(), [(0, 3), (0, 2), (1, 3), (1, 2), (2, 3)]);
    /// ```
    #[track_caller]
    pub fn split(&self, color: Option<u32>, key: i64) -> Result<Option<Self>> {
        let call = all("split");
        self.split_as(call, color, key)
    }

    pub(super) fn split_as(
        &self,
        call: Call,
        color: Option<u32>,
        key: i64,
    ) -> Result<Option<Self>> {
        let fail = self.enter(call);
        let mine = [i64::from(color.is_some()), i64::from(color.unwrap_or(0)), key];
        let rows = self.allgather_as(call, &mine).map_err(fail)?;
        let colored = rows.iter().enumerate().filter(|(_, row)| row[0] == 1);
        let mut places: Vec<_> = colored.map(|(rank, row)| (row[1], row[2], rank)).collect();
        places.sort_unstable();
        let mut colors: Vec<i64> = places.iter().map(|&(color, _, _)| color).collect();
        colors.dedup();
        let mine = color.and_then(|color| colors.binary_search(&i64::from(color)).ok());
        let members: Vec<Rank> = places
            .iter()
            .filter(|(place, _, _)| mine.is_some_and(|group| *place == colors[group]))
            .map(|&(_, _, rank)| Rank::from(rank))
            .collect();
        self.derive(mine.map(|group| (group as u32, members.as_slice()))).map_err(fail)
    }

    fn derive(&self, group: Option<(u32, &[Rank])>) -> Result<Option<Self>, ErrorKind> {
        let context = self.engine.derive(self.context, self.next_turn(), group)?;
        let (Some(context), Some((_, members))) = (context, group) else { return Ok(None) };
        let me = members.iter().position(|rank| rank.index() == self.rank);
        let rank = me.ok_or(ErrorKind::Closed)?;
        Ok(Some(Self::open(Rc::clone(&self.engine), context, rank, members.len())))
    }
}
