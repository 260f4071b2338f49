//! What a call may deliver.
//!
//! Before the first mistake: what a right program delivers, and nothing else, on every engine and
//! level of checks.
//!
//! After it, where ranks compare what they call (`local`, and blocking collectives on `mpi`): each
//! row is one whole contribution of the rank that it is said to be of, to a call of the same
//! operation, type and root; each reduction is the operator over such contributions of one each. A
//! message is on every level one whole message that its sender sent to this rank. Where ranks do
//! not compare what they call, what arrives is what some rank gave to some call, and never memory
//! that nobody wrote.

use std::ops::Range;

use spmd::Comm;

use super::{
    Access, Act, Collective, Counts, Extension, Message, Op, Program, Side, What,
    value::{Stamp, Ty, fold, is_foreign},
};

/// What a call has delivered.
#[derive(Debug)]
pub(super) enum Got {
    Nothing,
    /// Rows by their sender's rank.
    Rows(Vec<(usize, Vec<u8>)>),
    /// Contributions of these ranks, folded.
    Fold(Range<usize>, Vec<u8>),
    /// A message from this rank, and what stood behind it in the buffer.
    Message(usize, Vec<u8>, Vec<u8>),
    /// Elements of which not more is known than that somebody gave them.
    Loose(Vec<u8>),
}

/// A group's members as a call saw them.
pub(super) struct Group {
    pub(super) rank: usize,
    pub(super) world: Vec<usize>,
    /// Whether ranks compare the non-blocking collectives that they call, as they do all blocking
    /// ones.
    compares: bool,
}

impl Group {
    pub(super) fn of(comm: &Comm) -> Self {
        Self {
            rank: comm.rank(),
            world: (0..comm.size()).map(|rank| comm.world_rank(rank)).collect(),
            compares: comm.engine() == "local",
        }
    }

    fn compares(&self, call: &Collective) -> bool {
        self.compares || call.is_blocking()
    }
}

impl Program {
    pub(super) fn is_right(&self, act: &Act) -> bool {
        act.id < self.first_mistake
    }

    /// What is wrong with what this act has delivered.
    pub(super) fn judge(&self, group: &Group, act: &Act, got: &Got) -> Result<(), String> {
        let foreign = match got {
            Got::Nothing => false,
            Got::Rows(rows) => rows.iter().any(|(_, row)| is_foreign(row)),
            Got::Fold(_, bytes) | Got::Loose(bytes) => is_foreign(bytes),
            Got::Message(_, message, rest) => is_foreign(message) || is_foreign(rest),
        };
        if foreign {
            return Err("delivers memory that nobody wrote".to_owned());
        }
        let exact = self.is_right(act);
        match (&act.what, got) {
            (What::Collective(call), _) if !exact && !group.compares(call) => {}
            (What::Collective(call), Got::Rows(rows)) => self.judge_rows(group, act, call, rows)?,
            (What::Collective(call), Got::Fold(ranks, bytes)) => {
                self.judge_fold(group, act, call, ranks.clone(), bytes)?;
            }
            (What::Message(Message { received: Side { lie, .. }, .. }), _) if lie.is_one() => {}
            (What::Circle(circle), _) if circle.out.is_one() || circle.mine.is_one() => {}
            (_, Got::Message(source, message, rest)) => {
                self.judge_message(group, *source, message, exact.then_some(act))?;
                if rest.iter().any(|&byte| byte != super::value::BEFORE) {
                    let message = message.len();
                    return Err(format!("a message of {message} bytes changes what is behind it"));
                }
            }
            (What::Neighbors(neighbors), Got::Rows(rows)) if exact => {
                for (from, row) in rows {
                    let stamp = self.stamp(act, group.world[*from], Stamp::ALL);
                    if *row != stamp.bytes(neighbors.ty, neighbors.length) {
                        return Err(format!("row of {from} differs"));
                    }
                }
            }
            // Who is further on may change a window again.
            (What::Reach(_), Got::Rows(_)) if !self.mistakes.is_empty() || self.locks() => {}
            (_, Got::Rows(rows)) if exact => {
                for (from, row) in rows {
                    let stamp = self.stamp(act, group.world[*from], Stamp::ALL);
                    if *row != stamp.bytes(super::value::Ty::Word, row.len() / 8) {
                        return Err(format!("row of {from} differs"));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn stamp(&self, act: &Act, from: usize, to: usize) -> Stamp {
        Stamp { program: self.number, act: act.id, from, to }
    }

    /// Whether a rank writes into others' parts outside of epochs.
    fn locks(&self) -> bool {
        let locks =
            |act: &Act| matches!(&act.what, What::Reach(reach) if reach.how == Access::Lock);
        self.scripts.iter().any(|script| script.acts.iter().any(locks))
    }

    /// The calls of a rank that this one may have met, and whether all of them say what they give.
    fn partners<'p>(
        &'p self,
        world: usize,
        size: usize,
        act: &'p Act,
        call: &'p Collective,
    ) -> impl Iterator<Item = (&'p Act, &'p Collective)> {
        let exact = self.is_right(act);
        self.scripts[world].acts.iter().filter_map(move |other| match &other.what {
            What::Collective(theirs) if !exact || other.id == act.id => {
                let alike = theirs.op == call.op && theirs.ty == call.ty;
                let rooted = matches!(call.op, Op::Bcast | Op::Gather | Op::Scatter | Op::Reduce);
                let same_root = !rooted || theirs.root_in(size) == call.root_in(size);
                (alike && same_root).then_some((other, theirs))
            }
            _ => None,
        })
    }

    fn judge_rows(
        &self,
        group: &Group,
        act: &Act,
        call: &Collective,
        rows: &[(usize, Vec<u8>)],
    ) -> Result<(), String> {
        for (from, row) in rows {
            let Some(&world) = group.world.get(*from) else {
                return Err(format!("a row of rank {from}, which there is not"));
            };
            // Items that go to their owners are an alltoall of words too.
            let sorts = |other: &Act| {
                matches!(other.what, What::Extension { which: Extension::Bucket, .. })
            };
            if call.op == Op::Alltoall
                && call.ty == Ty::Word
                && self.scripts[world].acts.iter().any(sorts)
            {
                continue;
            }
            let to = match call.op {
                Op::Scatter | Op::Alltoall => group.world[group.rank],
                _ => Stamp::ALL,
            };
            let mut partners = self.partners(world, group.world.len(), act, call);
            let fits = partners.any(|(other, theirs)| {
                let honest = !theirs.mine.is_one() && theirs.counts == Counts::Right;
                let bytes =
                    self.stamp(other, world, to).bytes(call.ty, theirs.length(*from, group.rank));
                // Who lies, or says that its rows are of other lengths, may have given a part of
                // it, again and again.
                *row == bytes || !honest || call.out.is_one()
            });
            if !fits {
                return Err(format!("row of {from} ({} bytes) is none that it gave", row.len()));
            }
        }
        Ok(())
    }

    fn judge_fold(
        &self,
        group: &Group,
        act: &Act,
        call: &Collective,
        ranks: Range<usize>,
        got: &[u8],
    ) -> Result<(), String> {
        if call.mine.is_one() || call.out.is_one() || call.counts != Counts::Right {
            return Ok(());
        }
        let size = group.world.len();
        let by = call.by.on(call.ty);
        let (start, end) = match call.op {
            Op::ReduceScatter => {
                let start = (0..group.rank).map(|to| call.size_of_row(to)).sum::<usize>();
                (start, start + call.size_of_row(group.rank))
            }
            _ => (0, call.base()),
        };
        let part = start * call.ty.bytes()..end * call.ty.bytes();
        let fits = |rows: &[Vec<u8>]| fold(call.ty, by, rows).get(part.clone()) == Some(got);
        // What each rank may have given, the call of the same number first.
        let mut given = Vec::new();
        for rank in ranks {
            let mut of_rank = Vec::new();
            for (other, theirs) in self.partners(group.world[rank], size, act, call) {
                let their_by = theirs.by.on(theirs.ty);
                // Closures cannot be told apart, nor can one see through views that lie.
                let blurred = by.is_closure() && their_by.is_closure() && by != their_by;
                if blurred || theirs.mine.is_one() || theirs.counts != Counts::Right {
                    return Ok(());
                }
                if by == their_by {
                    let stamp = self.stamp(other, group.world[rank], Stamp::ALL);
                    of_rank.push((other.id != act.id, stamp, theirs.given(size)));
                }
            }
            of_rank.sort_by_key(|&(differs, ..)| differs);
            given.push(of_rank);
        }
        let ways = given.iter().map(Vec::len).product::<usize>();
        let lengths = given.iter().map(|of_rank| of_rank.first().map_or(0, |first| first.2));
        let all_bytes = lengths.sum::<usize>() * call.ty.bytes();
        for way in 0..ways {
            // Of so many anything could be made; that all calls are those of one number is tried
            // first.
            if way > 0 && ways.saturating_mul(all_bytes) > 1 << 22 {
                return Ok(());
            }
            let mut left = way;
            let rows = given.iter().map(|of_rank| {
                let (_, stamp, count) = of_rank[left % of_rank.len()];
                left /= of_rank.len();
                stamp.bytes(call.ty, count)
            });
            if fits(&rows.collect::<Vec<_>>()) {
                return Ok(());
            }
        }
        Err("the result is of no contributions".to_owned())
    }

    fn judge_message(
        &self,
        group: &Group,
        source: usize,
        message: &[u8],
        exact: Option<&Act>,
    ) -> Result<(), String> {
        let Some(&world) = group.world.get(source) else {
            return Err(format!("a message from rank {source}, which there is not"));
        };
        let to = group.world[group.rank];
        let fits = self.scripts[world].acts.iter().any(|other| {
            let (ty, length, honest) = match &other.what {
                What::Message(Message { sent, .. }) => (sent.ty, sent.length, !sent.lie.is_one()),
                What::Circle(circle) => (circle.ty, circle.length, !circle.mine.is_one()),
                _ => return false,
            };
            if exact.is_some_and(|act| act.id != other.id) {
                return false;
            }
            !honest || message == self.stamp(other, world, to).bytes(ty, length)
        });
        let bytes = message.len();
        if fits { Ok(()) } else { Err(format!("{bytes} bytes from {source} are no message of it")) }
    }
}
