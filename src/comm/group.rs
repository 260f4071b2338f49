//! Communicators made of others, and how their ranks correspond.

use std::{collections::HashMap, rc::Rc};

use super::{Comm, agreement::Subject, all};
use crate::{
    datum::{bytes_of, fnv1a},
    engine::Rank,
    error::{Call, ErrorKind, Fault, Result},
};

/// How two communicators relate; see [`Comm::compare`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// They are the same communicator.
    Identical,
    /// They have the same ranks in the same order, and message spaces of their own.
    Congruent,
    /// They have the same ranks in another order.
    Similar,
    /// They have other ranks.
    Unequal,
}

/// # Groups
///
/// Communicators out of this one.
impl Comm {
    /// The same ranks with a message space of their own: a library that uses a duplicate cannot get
    /// its caller's messages.
    ///
    /// # Collective
    /// MPI: `MPI_Comm_dup` (MPI 4.1, 7.4.2).
    #[track_caller]
    pub fn dup(&self) -> Result<Self> {
        let call = all("dup");
        self.together(call, Subject::nothing(), |_| self.twin())
    }

    /// A duplicate for what all ranks say alike in these words: else every rank is told of one that
    /// does not, [described](ErrorKind::CollectiveMismatch). Collective.
    pub(crate) fn dup_for(
        &self,
        call: Call,
        words: &[usize],
        describe: impl Fn(&[usize]) -> String,
    ) -> Result<Self> {
        self.together(call, Subject::any::<usize>(), |_| {
            self.same_list_on_all(call, words, describe)?;
            self.twin()
        })
    }

    /// A duplicate, as a part of another call.
    pub(super) fn twin(&self) -> Result<Self, Fault> {
        let ranks: Vec<Rank> = (0..self.size).map(Rank::from).collect();
        self.derive(Some((0, &ranks)))?.ok_or_else(|| ErrorKind::Closed.into())
    }

    /// One communicator for all ranks that give the same `color`, in the order of `key` (of rank
    /// where keys are equal); `None` for ranks without a color.
    ///
    /// # Collective
    /// An allgather of 24 bytes per rank. MPI: `MPI_Comm_split` (MPI 4.1, 7.4.2).
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
        self.perform(call, || self.split_as(call, color, key))
    }

    /// One communicator for the ranks of each host, which can share memory.
    ///
    /// # Collective
    /// An allgather of 24 bytes per rank. MPI: `MPI_Comm_split_type` with `MPI_COMM_TYPE_SHARED`
    /// (MPI 4.1, 7.4.2).
    ///
    /// # Examples
    /// The ranks of `local` are on one host:
    /// ```
    /// let sizes = spmd::local(3, |world| Ok(world.split_node()?.size()));
    /// assert_eq!(sizes.unwrap(), [3; 3]);
    /// ```
    #[track_caller]
    pub fn split_node(&self) -> Result<Self> {
        let call = all("split_node");
        self.together(call, Subject::nothing(), |_| {
            let node = self.engine.node(self.context, self.next_seq())?;
            self.split_as(call, Some(node), 0)?.ok_or_else(|| ErrorKind::Closed.into())
        })
    }

    /// A communicator of the given ranks, in the given order; `None` for the others.
    ///
    /// # Collective
    /// All ranks, with the same list. An allgather of 16 bytes per rank. MPI: `MPI_Group_incl` and
    /// `MPI_Comm_create` (MPI 4.1, 7.3.2 and 7.4.2).
    ///
    /// # Errors
    /// On every rank: [`ErrorKind::CollectiveMismatch`] if the lists differ,
    /// [`ErrorKind::InvalidRank`] if a rank does not exist, [`ErrorKind::InvalidArgument`] if one
    /// is named twice.
    ///
    /// # Examples
    /// ```
    /// let ranks = spmd::local(4, |world| Ok(world.subset(&[3, 1])?.map(|pair| pair.rank())));
    /// assert_eq!(ranks.unwrap(), [None, Some(1), None, Some(0)]);
    /// ```
    #[track_caller]
    pub fn subset(&self, ranks: &[usize]) -> Result<Option<Self>> {
        let call = all("subset");
        self.perform(call, || {
            self.same_list_on_all(call, ranks, |ranks| format!("subset of ranks {ranks:?}"))?;
            let mut named = vec![false; self.size];
            let mut members = Vec::with_capacity(ranks.len());
            for &rank in ranks {
                members.push(self.check_rank(rank)?);
                if std::mem::replace(&mut named[rank], true) {
                    let what = format!("rank {rank} is named twice");
                    return Err(ErrorKind::InvalidArgument { what }.into());
                }
            }
            self.derive(named[self.rank].then_some((0, members.as_slice())))
        })
    }

    /// How this communicator relates to another. Not collective; O(p) steps.
    ///
    /// MPI: `MPI_Comm_compare` (MPI 4.1, 7.4.1).
    ///
    /// # Examples
    /// ```
    /// use spmd::topology::Comparison;
    /// let how = spmd::local(3, |world| {
    ///     let reversed = world.split(Some(0), -(world.rank() as i64))?.expect("every rank has a color");
    ///     Ok([world.compare(world), world.compare(&world.dup()?), world.compare(&reversed)])
    /// });
    /// assert_eq!(how.unwrap()[0], [Comparison::Identical, Comparison::Congruent, Comparison::Similar]);
    /// ```
    #[must_use]
    pub fn compare(&self, other: &Self) -> Comparison {
        if !Rc::ptr_eq(&self.engine, &other.engine) {
            return Comparison::Unequal;
        }
        if self.context == other.context {
            return Comparison::Identical;
        }
        let (mut mine, mut theirs) = (self.members(), other.members());
        if mine == theirs {
            return Comparison::Congruent;
        }
        mine.sort_unstable();
        theirs.sort_unstable();
        if mine == theirs { Comparison::Similar } else { Comparison::Unequal }
    }

    /// What the given ranks of this communicator are called in another; `None` for those that are
    /// not in it. Not collective; O(p) steps.
    ///
    /// MPI: `MPI_Group_translate_ranks` (MPI 4.1, 7.3.1).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRank`] if there is no such rank in this communicator.
    ///
    /// # Examples
    /// ```
    /// let names = spmd::local(4, |world| {
    ///     let even = world.split((world.rank() % 2 == 0).then_some(0), 0)?;
    ///     even.map(|even| world.translate(&[0, 1, 2], &even)).transpose().map_err(Into::into)
    /// });
    /// assert_eq!(names.unwrap()[0].as_deref(), Some(&[Some(0), None, Some(1)][..]));
    /// ```
    #[track_caller]
    pub fn translate(&self, ranks: &[usize], other: &Self) -> Result<Vec<Option<usize>>> {
        self.perform(all("translate"), || {
            let theirs = other.members().into_iter().zip(0..).collect::<HashMap<usize, usize>>();
            let translate = |&rank: &usize| {
                let world = self.engine.world_rank(self.context, self.check_rank(rank)?);
                Ok(theirs.get(&world).copied())
            };
            ranks.iter().map(translate).collect()
        })
    }

    /// Gives the communicator a name on this rank, for error messages and `{:?}`.
    ///
    /// MPI: `MPI_Comm_set_name` (MPI 4.1, 7.8). A communicator made of this one has no name yet.
    ///
    /// # Examples
    /// ```
    /// let said = spmd::local(1, |world| {
    ///     let ring = world.dup()?;
    ///     ring.set_name("the ring");
    ///     Ok(ring.send(&[1], 7).unwrap_err().to_string())
    /// });
    /// assert!(said.unwrap()[0].starts_with("rank 0 of the ring: send to rank 7 tag 0 failed"));
    /// ```
    pub fn set_name(&self, name: &str) {
        *self.name.borrow_mut() = Some(name.into());
    }

    /// The communicator's name, if this rank has given it one.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        self.name.borrow().as_deref().map(str::to_owned)
    }

    /// The world ranks, in order.
    fn members(&self) -> Vec<usize> {
        let world_rank = |rank| self.engine.world_rank(self.context, Rank::from(rank));
        (0..self.size).map(world_rank).collect()
    }

    pub(super) fn split_as(
        &self,
        call: Call,
        color: Option<u32>,
        key: i64,
    ) -> Result<Option<Self>, Fault> {
        let mine = [i64::from(color.is_some()), i64::from(color.unwrap_or(0)), key];
        let rows = self.allgather_as(call, &mine)?;
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
        self.derive(mine.map(|group| (group as u32, members.as_slice())))
    }

    /// The communicator of this rank's group: the number that all its members give it, and who they
    /// are.
    pub(super) fn derive(&self, group: Option<(u32, &[Rank])>) -> Result<Option<Self>, Fault> {
        let context = self.engine.split(self.context, self.next_seq(), group)?;
        let (Some(context), Some((_, members))) = (context, group) else { return Ok(None) };
        let me = members.iter().position(|rank| rank.index() == self.rank);
        let rank = me.ok_or(ErrorKind::Closed)?;
        Ok(Some(self.sibling(context, rank, members.len())))
    }

    /// Makes sure that all ranks say the same list in this call; else every rank is told of one
    /// that does not say its own.
    ///
    /// Only where that is so do the lists themselves travel. Every rank sees all summaries, so all
    /// do the same.
    pub(super) fn same_list_on_all(
        &self,
        call: Call,
        mine: &[usize],
        describe: impl Fn(&[usize]) -> String,
    ) -> Result<(), Fault> {
        let summary = [mine.len() as u64, fnv1a(bytes_of(mine).iter().copied())];
        let summaries = self.allgather_as(call, &summary)?;
        if summaries.iter().all(|theirs| theirs == summary) {
            return Ok(());
        }
        let lists = self.allgather_as(call, mine)?;
        match lists.iter().enumerate().find(|(_, theirs)| *theirs != mine) {
            None => Ok(()),
            Some((rank, theirs)) => {
                let (mine, theirs) = (describe(mine), describe(theirs));
                Err(ErrorKind::CollectiveMismatch { mine, rank, theirs }.into())
            }
        }
    }
}
