//! Collectives as schedules of point-to-point messages, for every engine that has no better way.
//!
//! Reductions combine contiguous ranges of ranks, the lower one on the left: an operator need be associative only.
//! Sources: Thakur, Rabenseifner, Gropp, "Optimization of Collective Communication Operations in MPICH" (2005);
//! Hensgen, Finkel, Manber, "Two algorithms for barrier synchronization" (1988).

use super::{
    Collective, CollectiveCall, Context, Engine, Label, Rank, Received, Reduction, Source, Tag,
    Target,
};
use crate::error::ErrorKind;

type Outcome = Result<(), ErrorKind>;

/// Up to this many bytes in all, an allgather goes over a tree (⌈log₂ p⌉ · 2 steps), above round a ring (p − 1 steps).
const ALLGATHER_TREE_BYTES: usize = 32 * 1024;

/// Makes the collective call with messages of `engine`.
pub(crate) fn run(engine: &dyn Engine, call: &mut CollectiveCall<'_>) -> Outcome {
    let steps = Steps {
        engine,
        context: call.context,
        rank: call.rank.index(),
        size: call.size,
        tag: Tag::of_turn(call.turn, engine.max_tag()),
        label: call.label,
    };
    match &mut call.what {
        Collective::Barrier => steps.barrier(),
        Collective::Bcast { root, buffer } => steps.bcast(root.index(), buffer),
        Collective::Allgather { mine, counts, out } => steps.allgather(mine, counts, out),
        Collective::Reduce { root, buffer, with } => steps.reduce(root.index(), buffer, with),
        Collective::Allreduce { buffer, with } => steps.allreduce(buffer, with),
        Collective::Scan { buffer, with } => steps.scan(buffer, with),
        Collective::Exscan { buffer, with } => steps.exscan(buffer, with),
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
        Source { context: self.context, rank, tag, label: self.label }
    }

    fn send(&self, to: usize, bytes: &[u8]) -> Outcome {
        self.engine.send(&self.to(to), bytes)
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
    fn whole(&self, rank: usize, got: Result<Received, ErrorKind>, bytes: usize) -> Outcome {
        let theirs = match got {
            Ok(received) if received.bytes == bytes => return Ok(()),
            Ok(received) => received.bytes,
            Err(ErrorKind::Truncated { message, .. }) => message,
            Err(other) => return Err(other),
        };
        let size = self.label.signature.size();
        let describe = |bytes: usize| match self.label.step {
            Some(step) => format!("{} with {} elements", step.call, bytes / size),
            None => format!("{} elements", bytes / size),
        };
        Err(ErrorKind::CollectiveMismatch { mine: describe(bytes), rank, theirs: describe(theirs) })
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

    fn allgather(&self, mine: &[u8], counts: &[usize], out: &mut [u8]) -> Outcome {
        let mut starts = vec![0];
        starts.extend(counts.iter().scan(0, |end, count| {
            *end += count;
            Some(*end)
        }));
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
            let (sent, got) = if pass.start < take.start {
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

    /// Binomial tree to rank 0 (which keeps the order of ranks), then one message to the root.
    fn reduce(&self, root: usize, buffer: &mut [u8], with: &Reduction<'_>) -> Outcome {
        let mut theirs = vec![0; buffer.len()];
        for reach in powers_below(self.size) {
            if self.rank & reach != 0 {
                self.send(self.rank - reach, buffer)?;
                break;
            }
            let from = self.rank + reach;
            if from < self.size {
                self.recv(from, &mut theirs)?;
                (with.fold)(buffer, &mut theirs)?;
                buffer.copy_from_slice(&theirs);
            }
        }
        match (root, self.rank) {
            (0, _) => Ok(()),
            (_, 0) => self.send(root, buffer),
            (_, rank) if rank == root => self.recv(0, buffer),
            _ => Ok(()),
        }
    }

    /// Recursive doubling over a power of two of ranks; the ranks beyond it pair up first and get the result last.
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

    fn exscan(&self, buffer: &mut [u8], with: &Reduction<'_>) -> Outcome {
        let mine = buffer.to_vec();
        let mut first = true;
        self.prefix(mine, with, |before| {
            if std::mem::take(&mut first) {
                buffer.copy_from_slice(before);
                return Ok(());
            }
            (with.fold)(before, buffer)
        })
    }

    /// Recursive doubling: `block` grows to cover aligned blocks of 2ᵏ ranks; the lower blocks are this rank's prefix,
    /// given to `prepend` from near to far.
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
fn powers_below(size: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(1), |power| Some(power * 2)).take_while(move |&power| power < size)
}
