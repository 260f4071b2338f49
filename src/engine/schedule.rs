//! Collectives as schedules of point-to-point messages, for every engine that has no better way.
//!
//! Reductions combine contiguous ranges of ranks, the lower one on the left: an operator need be
//! associative only. Sources: Thakur, Rabenseifner, Gropp, "Optimization of Collective
//! Communication Operations in MPICH" (2005); Hensgen, Finkel, Manber, "Two algorithms for barrier
//! synchronization" (1988).

use super::{
    Choice, Collective, CollectiveCall, Context, Counts, Engine, Label, Mode, Rank, Received,
    Reduction, Source, Tag, Target, collective::Neighbors,
};
use crate::{
    datum::{Memory, Outgoing},
    error::{ErrorKind, Fault},
};

type Outcome = Result<(), Fault>;

/// Up to this many bytes in all, an allgather goes over a tree (⌈log₂ p⌉ · 2 steps), above round a
/// ring (p − 1 steps).
const ALLGATHER_TREE_BYTES: usize = 32 * 1024;

/// Makes the collective call with messages of `engine`.
pub(crate) fn run(engine: &dyn Engine, call: &mut CollectiveCall<'_>) -> Outcome {
    let steps = Steps {
        engine,
        context: call.context,
        rank: call.rank.index(),
        size: call.size,
        tag: engine.step_tag(call.seq, call.label),
        label: *call.label,
    };
    match &mut call.what {
        Collective::Barrier => steps.barrier(),
        Collective::Bcast { root, buffer } => steps.bcast(root.index(), buffer),
        Collective::Gather { root, mine, counts, out } => {
            steps.gather(root.index(), mine, counts, out)
        }
        Collective::Scatter { root, rows, counts, out } => {
            steps.scatter(root.index(), rows, counts, out)
        }
        Collective::Allgather { mine, counts, out } => steps.allgather(mine, counts, out),
        Collective::Alltoall { rows, send_counts, out, recv_counts } => {
            steps.alltoall(rows, send_counts, out, recv_counts)
        }
        Collective::Reduce { root, mine, out, with } => steps.reduce(root.index(), mine, out, with),
        Collective::Allreduce { mine, out, with } => {
            out.copy_from_slice(mine);
            steps.allreduce(out, with)
        }
        Collective::ReduceScatter { mine, counts, out, with } => {
            steps.reduce_scatter(mine, counts, out, with)
        }
        Collective::Scan { mine, out, with } => {
            out.copy_from_slice(mine);
            steps.scan(out, with)
        }
        Collective::Exscan { mine, out, with } => steps.exscan(mine, out, with),
        Collective::NeighborAllgather { neighbors, mine, counts, out } => {
            steps.neighbors(neighbors, |_| &**mine, counts, out)
        }
        Collective::NeighborAlltoall { neighbors, rows, send_counts, out, recv_counts } => {
            let starts = send_counts.starts(neighbors.destinations.len());
            let row = |at: usize| &rows[starts[at]..starts[at + 1]];
            steps.neighbors(neighbors, row, recv_counts, out)
        }
    }
}

/// The messages of one collective call.
struct Steps<'a> {
    engine: &'a dyn Engine,
    context: Context,
    rank: usize,
    size: usize,
    tag: Tag,
    label: Label,
}

impl Steps<'_> {
    fn to(&self, rank: usize) -> Target {
        Target { context: self.context, rank: Rank::from(rank), tag: self.tag, label: self.label }
    }

    fn from(&self, rank: usize) -> Source {
        let (rank, tag) = (Some(Rank::from(rank)), Some(self.tag));
        Source { context: self.context, choice: Choice::new(rank, tag), label: self.label }
    }

    fn send(&self, to: usize, bytes: &[u8]) -> Outcome {
        self.engine.send(&self.to(to), Mode::Standard, bytes)
    }

    fn recv(&self, from: usize, into: &mut [u8]) -> Outcome {
        let got = self.engine.recv(&self.from(from), into);
        self.whole(from, got, into.len())
    }

    fn sendrecv(&self, to: usize, bytes: &[u8], from: usize, into: &mut [u8]) -> Outcome {
        let got = self.engine.sendrecv(&self.to(to), bytes, &self.from(from), into);
        self.whole(from, got, into.len())
    }

    /// All ranks contribute equally much; another length is a disagreement about the call.
    fn whole(&self, rank: usize, got: Result<Received, Fault>, bytes: usize) -> Outcome {
        let theirs = match got {
            Ok(received) if received.bytes == bytes => return Ok(()),
            Ok(received) => received.bytes,
            Err(fault) => match *fault {
                ErrorKind::Truncated { message, .. } => message,
                other => return Err(other.into()),
            },
        };
        let size = self.label.signature.size();
        let describe = |bytes: usize| match self.label.step {
            Some(step) => format!("{} with {} elements", step.call, bytes / size),
            None => format!("{} elements", bytes / size),
        };
        Err(ErrorKind::CollectiveMismatch { mine: describe(bytes), rank, theirs: describe(theirs) }
            .into())
    }

    /// Dissemination: in round k every rank signals the one 2ᵏ ahead.
    fn barrier(&self) -> Outcome {
        for distance in powers_below(self.size) {
            let ahead = (self.rank + distance) % self.size;
            let behind = (self.rank + self.size - distance) % self.size;
            self.sendrecv(ahead, &[], behind, &mut [])?;
        }
        Ok(())
    }

    /// Binomial tree.
    fn bcast(&self, root: usize, buffer: &mut [u8]) -> Outcome {
        let shifted = (self.rank + self.size - root) % self.size;
        let actual = |shifted: usize| (shifted + root) % self.size;
        let mut reach = self.size.next_power_of_two();
        if shifted != 0 {
            reach = 1 << shifted.trailing_zeros();
            self.recv(actual(shifted - reach), buffer)?;
        }
        while reach > 1 {
            reach /= 2;
            if shifted + reach < self.size {
                self.send(actual(shifted + reach), buffer)?;
            }
        }
        Ok(())
    }

    /// One message from every other rank to the root.
    fn gather(&self, root: usize, mine: &[u8], counts: &Counts<'_>, out: &mut [u8]) -> Outcome {
        if self.rank != root {
            return self.send(root, mine);
        }
        let starts = counts.starts(self.size);
        for rank in 0..self.size {
            let into = &mut out[starts[rank]..starts[rank + 1]];
            if rank == root {
                into.copy_from_slice(mine);
            } else {
                self.recv(rank, into)?;
            }
        }
        Ok(())
    }

    /// One message from the root to every other rank.
    fn scatter(&self, root: usize, rows: &[u8], counts: &Counts<'_>, out: &mut [u8]) -> Outcome {
        if self.rank != root {
            return self.recv(root, out);
        }
        let starts = counts.starts(self.size);
        for rank in 0..self.size {
            let row = &rows[starts[rank]..starts[rank + 1]];
            if rank == root {
                out.copy_from_slice(row);
            } else {
                self.send(rank, row)?;
            }
        }
        Ok(())
    }

    /// Pairwise exchange: in round k with the ranks k ahead and k behind.
    fn alltoall(
        &self,
        rows: &[u8],
        send_counts: &Counts<'_>,
        out: &mut [u8],
        recv_counts: &Counts<'_>,
    ) -> Outcome {
        let (send, recv) = (send_counts.starts(self.size), recv_counts.starts(self.size));
        for step in 0..self.size {
            let to = (self.rank + step) % self.size;
            let from = (self.rank + self.size - step) % self.size;
            let row = &rows[send[to]..send[to + 1]];
            let into = &mut out[recv[from]..recv[from + 1]];
            if step == 0 {
                into.copy_from_slice(row);
            } else {
                self.sendrecv(to, row, from, into)?;
            }
        }
        Ok(())
    }

    /// One message along every edge. All are received before any is waited for, so that no order of
    /// edges can block.
    fn neighbors<'r>(
        &self,
        neighbors: &Neighbors<'_>,
        row: impl Fn(usize) -> &'r [u8],
        counts: &Counts<'_>,
        out: &mut [u8],
    ) -> Outcome {
        let starts = counts.starts(neighbors.sources.len());
        let mut sends = Vec::new();
        for (at, to) in neighbors.destinations.iter().enumerate() {
            let copy = Memory::Owned(Box::new(Outgoing(row(at).to_vec())));
            sends.push(self.engine.isend(&self.to(to.index()), Mode::Standard, copy)?);
        }
        for (at, from) in neighbors.sources.iter().enumerate() {
            self.recv(from.index(), &mut out[starts[at]..starts[at + 1]])?;
        }
        sends.into_iter().try_for_each(|op| self.engine.wait(op).map(drop))
    }

    /// Pairwise exchange, as in `alltoall`: every rank combines its own piece of all contributions.
    /// Those of lower ranks come from near to far, then those of higher ranks from far to near, so
    /// that each meets the neighbour of what is combined.
    fn reduce_scatter(
        &self,
        mine: &[u8],
        counts: &Counts<'_>,
        out: &mut [u8],
        with: &Reduction<'_>,
    ) -> Outcome {
        let starts = counts.starts(self.size);
        let piece = |rank: usize| &mine[starts[rank]..starts[rank + 1]];
        out.copy_from_slice(piece(self.rank));
        let mut theirs = vec![0; out.len()];
        let mut above: Option<Vec<u8>> = None;
        for step in 1..self.size {
            let to = (self.rank + step) % self.size;
            let from = (self.rank + self.size - step) % self.size;
            self.sendrecv(to, piece(to), from, &mut theirs)?;
            match &mut above {
                _ if from < self.rank => (with.fold)(&theirs, out)?,
                Some(above) => (with.fold)(&theirs, above)?,
                None => above = Some(theirs.clone()),
            }
        }
        if let Some(mut above) = above {
            (with.fold)(out, &mut above)?;
            out.copy_from_slice(&above);
        }
        Ok(())
    }

    fn allgather(&self, mine: &[u8], counts: &Counts<'_>, out: &mut [u8]) -> Outcome {
        let starts = counts.starts(self.size);
        out[starts[self.rank]..starts[self.rank + 1]].copy_from_slice(mine);
        if out.len() <= ALLGATHER_TREE_BYTES {
            self.allgather_tree(&starts, out)
        } else {
            self.allgather_ring(&starts, out)
        }
    }

    /// Binomial gather of contiguous ranges to rank 0, then a broadcast of the whole.
    fn allgather_tree(&self, starts: &[usize], out: &mut [u8]) -> Outcome {
        for reach in powers_below(self.size) {
            if self.rank & reach != 0 {
                let end = (self.rank + reach).min(self.size);
                self.send(self.rank - reach, &out[starts[self.rank]..starts[end]])?;
                break;
            }
            let from = self.rank + reach;
            if from < self.size {
                let end = (from + reach).min(self.size);
                self.recv(from, &mut out[starts[from]..starts[end]])?;
            }
        }
        self.bcast(0, out)
    }

    /// Every rank passes on to the next what it got from the one before.
    fn allgather_ring(&self, starts: &[usize], out: &mut [u8]) -> Outcome {
        let next = (self.rank + 1) % self.size;
        let before = (self.rank + self.size - 1) % self.size;
        for step in 0..self.size - 1 {
            let pass = (self.rank + self.size - step) % self.size;
            let take = (before + self.size - step) % self.size;
            let (pass, take) = (starts[pass]..starts[pass + 1], starts[take]..starts[take + 1]);
            // Rows may be empty: two can begin at the same place.
            let (sent, got) = if pass.end <= take.start {
                let (low, high) = out.split_at_mut(take.start);
                (&low[pass], &mut high[..take.len()])
            } else {
                let (low, high) = out.split_at_mut(pass.start);
                (&high[..pass.len()], &mut low[take])
            };
            self.sendrecv(next, sent, before, got)?;
        }
        Ok(())
    }

    /// Binomial tree: to the root if the operator commutes; else to rank 0, which keeps the order
    /// of ranks, and then one message to the root.
    fn reduce(&self, root: usize, mine: &[u8], out: &mut [u8], with: &Reduction<'_>) -> Outcome {
        let mut scratch = Vec::new();
        let buffer = if self.rank == root {
            out
        } else {
            scratch.resize(mine.len(), 0);
            &mut *scratch
        };
        buffer.copy_from_slice(mine);
        let mut theirs = vec![0; buffer.len()];
        let top = if with.commutative { root } else { 0 };
        let place = (self.rank + self.size - top) % self.size;
        let at = |place: usize| (place + top) % self.size;
        for reach in powers_below(self.size) {
            if place & reach != 0 {
                self.send(at(place - reach), buffer)?;
                break;
            }
            let from = place + reach;
            if from < self.size {
                self.recv(at(from), &mut theirs)?;
                (with.fold)(buffer, &mut theirs)?;
                buffer.copy_from_slice(&theirs);
            }
        }
        match (root, self.rank) {
            _ if root == top => Ok(()),
            (_, 0) => self.send(root, buffer),
            (_, rank) if rank == root => self.recv(0, buffer),
            _ => Ok(()),
        }
    }

    /// Recursive doubling over a power of two of ranks; the ranks beyond it pair up first and get
    /// the result last.
    fn allreduce(&self, buffer: &mut [u8], with: &Reduction<'_>) -> Outcome {
        let mut theirs = vec![0; buffer.len()];
        let doubling = 1 << self.size.ilog2();
        let extra = self.size - doubling;
        let paired = self.rank < 2 * extra;
        if paired && self.rank.is_multiple_of(2) {
            self.send(self.rank + 1, buffer)?;
            return self.recv(self.rank + 1, buffer);
        }
        if paired {
            self.recv(self.rank - 1, &mut theirs)?;
            (with.fold)(&theirs, buffer)?;
        }
        let place = if paired { self.rank / 2 } else { self.rank - extra };
        for distance in powers_below(doubling) {
            let other = place ^ distance;
            let peer = if other < extra { 2 * other + 1 } else { other + extra };
            self.sendrecv(peer, buffer, peer, &mut theirs)?;
            if other < place {
                (with.fold)(&theirs, buffer)?;
            } else {
                (with.fold)(buffer, &mut theirs)?;
                buffer.copy_from_slice(&theirs);
            }
        }
        if paired { self.send(self.rank - 1, buffer) } else { Ok(()) }
    }

    fn scan(&self, buffer: &mut [u8], with: &Reduction<'_>) -> Outcome {
        let mine = buffer.to_vec();
        self.prefix(mine, with, |before| (with.fold)(before, buffer))
    }

    fn exscan(&self, mine: &[u8], buffer: &mut [u8], with: &Reduction<'_>) -> Outcome {
        let mut first = true;
        self.prefix(mine.to_vec(), with, |before| {
            if std::mem::take(&mut first) {
                buffer.copy_from_slice(before);
                return Ok(());
            }
            (with.fold)(before, buffer)
        })
    }

    /// Recursive doubling: `block` grows to cover aligned blocks of 2ᵏ ranks; the lower blocks are
    /// this rank's prefix, given to `prepend` from near to far.
    fn prefix(
        &self,
        mut block: Vec<u8>,
        with: &Reduction<'_>,
        mut prepend: impl FnMut(&[u8]) -> Outcome,
    ) -> Outcome {
        let mut theirs = vec![0; block.len()];
        for distance in powers_below(self.size) {
            let peer = self.rank ^ distance;
            if peer >= self.size {
                continue;
            }
            self.sendrecv(peer, &block, peer, &mut theirs)?;
            if peer < self.rank {
                prepend(&theirs)?;
                (with.fold)(&theirs, &mut block)?;
            } else {
                (with.fold)(&block, &mut theirs)?;
                std::mem::swap(&mut block, &mut theirs);
            }
        }
        Ok(())
    }
}

/// 1, 2, 4, … below `size`.
/// The powers of two below `size`.
pub(crate) fn powers_below(size: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(1), |power| Some(power * 2)).take_while(move |&power| power < size)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::thread;

    use super::*;
    use crate::{
        datum::Signature,
        engine::{
            Step,
            local::{Backoff, Job},
        },
        error::{Call, With},
    };

    /// Maps `x → a·x + b`, first the left one and then the right one: associative, and the order
    /// matters.
    #[allow(clippy::unnecessary_wraps, reason = "a fold may fail")]
    fn compose(left: &[u8], right: &mut [u8]) -> Outcome {
        for (left, right) in left.chunks(2).zip(right.chunks_mut(2)) {
            let (a, b) = (left[0].wrapping_mul(right[0]), left[1].wrapping_mul(right[0]));
            (right[0], right[1]) = (a, b.wrapping_add(right[1]));
        }
        Ok(())
    }

    /// What every rank gets, which makes a call by `run`.
    fn on_ranks(
        op: &'static str,
        size: usize,
        live: impl Fn(usize, &dyn Fn(Collective<'_>)) -> Vec<u8> + Sync,
    ) -> Vec<Vec<u8>> {
        let job = Job::new(size, Backoff::for_ranks(size, 1));
        let rank = |rank: usize| {
            let engine = job.engine(rank);
            let got = live(rank, &|what| {
                let step = Step { call: Call::new(op, With::ALL) };
                let signature = Signature::of::<[u8; 2]>();
                let label = &Label { signature, step: Some(step) };
                let (context, rank) = (Context::WORLD, Rank::from(rank));
                let mut call = CollectiveCall { context, rank, size, seq: 0, label, what };
                run(&engine, &mut call).unwrap();
            });
            job.finish(rank);
            got
        };
        thread::scope(|scope| {
            let rank = &rank;
            let ranks: Vec<_> = (0..size).map(|at| scope.spawn(move || rank(at))).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn rows_are_gathered_where_some_are_empty() {
        let long = 3 * ALLGATHER_TREE_BYTES;
        for counts in [[0, 2, long], [long, 0, 2], [0, 0, long], [long, 0, 0], [2, long, 0], [0; 3]]
        {
            let row = |rank: usize| vec![rank as u8 + 1; counts[rank]];
            let whole = (0..3).flat_map(row).collect::<Vec<u8>>();
            let got = on_ranks("allgather_known", 3, |rank, run| {
                let (mine, mut out) = (row(rank), vec![0; whole.len()]);
                let (mine, counts) = (&mine, Counts::Each(&counts));
                run(Collective::Allgather { mine, counts, out: &mut out });
                out
            });
            assert!(got.iter().all(|got| *got == whole), "{counts:?}");
        }
    }

    #[test]
    fn a_reduction_is_scattered_in_the_order_of_ranks() {
        for size in 1..=5 {
            let counts: Vec<usize> = (0..size).map(|rank| 2 * rank).collect();
            let bytes: usize = counts.iter().sum();
            let mine = |rank: usize| -> Vec<u8> {
                (0..bytes).map(|at| (7 * rank + at) as u8 | 1).collect()
            };
            let mut whole = mine(size - 1);
            (0..size - 1).rev().for_each(|rank| compose(&mine(rank), &mut whole).unwrap());
            let got = on_ranks("reduce_scatter", size, |rank, run| {
                let (mine, mut out) = (mine(rank), vec![0; counts[rank]]);
                let with = &Reduction { native: None, commutative: false, fold: &compose };
                let (mine, counts) = (&mine, Counts::Each(&counts));
                run(Collective::ReduceScatter { mine, counts, out: &mut out, with });
                out
            });
            let got = got.concat();
            assert_eq!(got, whole, "{size} ranks");
        }
    }
}
