//! Non-blocking collectives: every rank leaves its contribution where all ranks find it, and takes
//! out what it needs.
//!
//! Contributions are owned, so that nobody has to wait for anybody who reads: a rank is done as
//! soon as the contributions are there that it needs, and it builds its rows itself when it waits
//! or tests. No rank makes progress for another. The contributions to a call live as long as some
//! rank has not yet taken its rows (or dropped its operation).

use std::sync::Arc;

use super::{
    LocalEngine, Pending,
    sync::{AtomicU64, Mutex, Ordering, lock},
};
use crate::{
    datum::Buffer,
    engine::{Builtin, CollectiveKind, Element, Exchange, Exchanged, Label, Op, Pattern, Rank},
    error::{Call, ErrorKind, Fault},
};

/// Leaves the contribution of this rank.
pub(super) fn start(engine: &LocalEngine, call: Exchange) -> Result<Op, Fault> {
    engine.job.parking.check()?;
    let members = engine.members(call.context)?;
    let (me, size, room) = (members.me.index(), call.size, call.room);
    let occasion = (members.context, call.seq);
    let contribution = Contribution::new(call)?;
    let pattern = contribution.pattern;
    let contributions = engine.job.exchanges.join(occasion, size, || Contributions::new(size));
    let told = contributions.leave(me, contribution);
    for rank in told.ranks(size).filter(|&rank| rank != me) {
        engine.job.parking.wake(members.ranks[rank]);
    }
    let (call, seen) = (engine.call.get(), std::cell::Cell::new((0, false)));
    let part = Part { contributions, me, pattern, call, room, seen };
    Ok(Op(engine.ops.insert(|| Pending::Exchange(part))))
}

/// Where the ranks of one call meet.
pub(super) struct Contributions {
    state: Mutex<State>,
    /// How often the state has changed; who waits looks here first.
    changes: AtomicU64,
}

struct State {
    contributions: Vec<Option<Arc<Contribution>>>,
    /// How many of them are there.
    there: usize,
    /// Two ranks that do not make the same call.
    discord: Option<(usize, usize)>,
}

/// Whom a contribution may let go on.
enum Told {
    Nobody,
    One(Rank),
    All,
}

impl Told {
    fn ranks(self, size: usize) -> std::ops::Range<usize> {
        match self {
            Self::Nobody => 0..0,
            Self::One(rank) => rank.index()..rank.index() + 1,
            Self::All => 0..size,
        }
    }
}

impl Contributions {
    fn new(size: usize) -> Self {
        let contributions = (0..size).map(|_| None).collect();
        let state = Mutex::new(State { contributions, there: 0, discord: None });
        Self { state, changes: AtomicU64::new(0) }
    }

    fn leave(&self, me: usize, contribution: Contribution) -> Told {
        let mut state = lock(&self.state);
        if state.discord.is_none() {
            // All that are there agree with each other: the first of them speaks for all.
            let first = state.contributions.iter().position(Option::is_some);
            let disagrees = |&first: &usize| {
                let first = state.contributions[first].as_ref();
                first.is_some_and(|first| !first.agrees(&contribution))
            };
            state.discord = first.filter(disagrees).map(|first| (first, me));
        }
        let pattern = contribution.pattern;
        state.contributions[me] = Some(Arc::new(contribution));
        state.there += 1;
        self.changes.fetch_add(1, Ordering::Release);
        let complete = state.there == state.contributions.len();
        match pattern {
            _ if state.discord.is_some() => Told::All,
            Pattern::All | Pattern::Each if complete => Told::All,
            Pattern::ToRoot(root) if complete => Told::One(root),
            Pattern::FromRoot(root) | Pattern::RowsFromRoot(root) if root.index() == me => {
                Told::All
            }
            _ => Told::Nobody,
        }
    }
}

/// What one rank has contributes.
struct Contribution {
    label: Label,
    kind: CollectiveKind,
    /// That of `kind`.
    pattern: Pattern,
    reduce: Option<(Builtin, Element)>,
    /// The bytes of each row.
    counts: Vec<usize>,
    start: *const u8,
    /// Keeps the bytes at `start` alive and in place.
    _mine: Box<dyn Buffer>,
}

// SAFETY: the buffer itself is `Send` and nobody reaches it before it is dropped; `start` are bytes
// inside it.
unsafe impl Send for Contribution {}
// SAFETY: what is shared are bytes that nobody changes while the contribution lives: the buffer's
// values are `NoUninit`, hence `Copy` and without interior mutability, and `_mine` is not looked at
// again.
unsafe impl Sync for Contribution {}

impl Contribution {
    fn new(call: Exchange) -> Result<Self, Fault> {
        let pattern = call.check()?;
        let Exchange { label, kind, mine, counts, reduce, .. } = call;
        Ok(Self { label, kind, pattern, reduce, counts, start: mine.bytes().as_ptr(), _mine: mine })
    }

    /// The bytes of row `at`; none if there is no such row.
    fn row(&self, at: usize) -> &[u8] {
        let Some(&bytes) = self.counts.get(at) else { return &[] };
        let before: usize = self.counts[..at].iter().sum();
        // SAFETY: `new` has had it checked that all rows lie inside the buffer, whose bytes keep
        // their address while the box lives (contract of `Buffer`) and are not changed by anybody.
        unsafe { std::slice::from_raw_parts(self.start.add(before), bytes) }
    }

    /// Whether two ranks make the same call.
    fn agrees(&self, other: &Self) -> bool {
        self.label == other.label && self.kind == other.kind && self.reduces_like(other)
    }

    fn reduces_like(&self, other: &Self) -> bool {
        self.reduce == other.reduce && (self.reduce.is_none() || self.counts == other.counts)
    }

    fn complaint(&self, rank: usize, theirs: &Self) -> Fault {
        if let Err(kind) = self.label.admits(&theirs.label, Rank::from(rank)) {
            return kind;
        }
        let describe = |one: &Self| {
            let elements = one.counts.iter().sum::<usize>() / one.label.signature.size();
            match one.label.step {
                Some(step) => {
                    let at = step.call.at;
                    format!("{} with {elements} elements ({}:{})", step.call, at.file(), at.line())
                }
                None => format!("a collective with {elements} elements"),
            }
        };
        ErrorKind::CollectiveMismatch { mine: describe(self), rank, theirs: describe(theirs) }
            .into()
    }
}

/// One rank's part in a call.
pub(super) struct Part {
    contributions: Arc<Contributions>,
    me: usize,
    pattern: Pattern,
    /// The call that started it.
    pub(super) call: Call,
    room: fn(usize) -> Box<dyn Buffer>,
    /// How often contributions had come when they were looked at last, and whether all was there.
    seen: std::cell::Cell<(u64, bool)>,
}

impl Part {
    /// Whether all is there that this rank needs, or will never be because ranks disagree.
    pub(super) fn is_done(&self) -> bool {
        let (seen, done) = self.seen.get();
        let changes = self.contributions.changes.load(Ordering::Acquire);
        if done || changes == seen {
            return done;
        }
        let done = self.is_complete();
        self.seen.set((changes, done));
        done
    }

    fn is_complete(&self) -> bool {
        let state = lock(&self.contributions.state);
        state.discord.is_some()
            || match self.pattern {
                Pattern::ToRoot(root) if root.index() != self.me => true,
                Pattern::All | Pattern::Each | Pattern::ToRoot(_) => {
                    state.there == state.contributions.len()
                }
                Pattern::FromRoot(root) | Pattern::RowsFromRoot(root) => {
                    state.contributions[root.index()].is_some()
                }
            }
    }

    /// Builds this rank's rows; once done.
    pub(super) fn collect(self) -> Result<Exchanged, Fault> {
        let state = lock(&self.contributions.state);
        let contribution = |rank: usize| state.contributions[rank].clone().ok_or(ErrorKind::Closed);
        if let Some((one, other)) = state.discord {
            let mine = contribution(self.me)?;
            let theirs = contribution(one)?;
            let (rank, theirs) =
                if mine.agrees(&theirs) { (other, contribution(other)?) } else { (one, theirs) };
            return Err(mine.complaint(rank, &theirs));
        }
        let (sources, row) = match self.pattern {
            Pattern::ToRoot(root) if root.index() != self.me => (0..0, 0),
            Pattern::All | Pattern::ToRoot(_) => (0..state.contributions.len(), 0),
            Pattern::Each => (0..state.contributions.len(), self.me),
            Pattern::FromRoot(root) => (root.index()..root.index() + 1, 0),
            Pattern::RowsFromRoot(root) => (root.index()..root.index() + 1, self.me),
        };
        let sources = sources.map(contribution).collect::<Result<Vec<_>, _>>()?;
        drop(state);
        let counts: Vec<usize> = sources.iter().map(|source| source.row(row).len()).collect();
        let mut rows = (self.room)(counts.iter().sum());
        let mut rest = rows.bytes_mut();
        for source in &sources {
            let (into, behind) = rest.split_at_mut(source.row(row).len());
            into.copy_from_slice(source.row(row));
            rest = behind;
        }
        Ok(Exchanged { rows, counts, reduced: false })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{thread, time::Duration};

    use super::*;
    use crate::{
        datum::{Landing, Outgoing, Signature, landing},
        engine::{
            Collectives, Context, Operations, Step,
            local::{Backoff, Job},
        },
        error::With,
    };

    /// Runs `program` on so many ranks.
    fn ranks<R: Send>(size: usize, program: impl Fn(&LocalEngine, u32) -> R + Sync) -> Vec<R> {
        let job = Job::new(size, Backoff::for_ranks(size, 1));
        thread::scope(|scope| {
            let live = |rank: usize| {
                let (job, program) = (Arc::clone(&job), &program);
                scope.spawn(move || {
                    let result = program(&job.engine(rank), rank as u32);
                    job.finish(rank);
                    result
                })
            };
            let all: Vec<_> = (0..size).map(live).collect();
            all.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[track_caller]
    fn call(rank: u32, kind: CollectiveKind, rows: &[&[u8]]) -> Exchange {
        let with = kind.root().map_or(With::ALL, |root| With::root(root.index()));
        let step = Step { call: Call::new("exchange", with) };
        Exchange {
            context: Context::WORLD,
            rank: Rank(rank),
            size: 3,
            seq: 0,
            label: Label { signature: Signature::of::<u8>(), step: Some(step) },
            kind,
            mine: Box::new(Outgoing(rows.concat())),
            counts: rows.iter().map(|row| row.len()).collect(),
            reduce: None,
            room: landing::<u8>,
        }
    }

    fn rows(exchanged: Exchanged) -> (Vec<u8>, Vec<usize>) {
        let rows = exchanged.rows.into_any().downcast::<Landing<u8>>().unwrap();
        (rows.into_values(exchanged.counts.iter().sum()).unwrap(), exchanged.counts)
    }

    fn exchange(engine: &LocalEngine, call: Exchange) -> Result<(Vec<u8>, Vec<usize>), Fault> {
        let op = engine.icollective(call)?;
        engine.wait(op).map(|done| rows(*done.exchanged.unwrap()))
    }

    #[test]
    fn every_kind_brings_its_rows() {
        let got = ranks(3, |engine, rank| {
            let mine = vec![rank as u8; rank as usize];
            let each = [&[rank as u8, 0][..], &[rank as u8, 1], &[rank as u8, 2]];
            let root = Rank(1);
            let take = |seq: u64, kind: CollectiveKind, rows: &[&[u8]]| {
                exchange(engine, Exchange { seq, ..call(rank, kind, rows) }).unwrap()
            };
            let is_root = usize::from(rank == 1);
            assert_eq!(
                take(0, CollectiveKind::Allgather, &[&mine]),
                (vec![1, 2, 2], vec![0, 1, 2])
            );
            let expected = vec![0, rank as u8, 1, rank as u8, 2, rank as u8];
            assert_eq!(take(1, CollectiveKind::Alltoall, &each), (expected, vec![2; 3]));
            let expected =
                if rank == 1 { (vec![1, 2, 2], vec![0, 1, 2]) } else { (vec![], vec![]) };
            assert_eq!(take(2, CollectiveKind::Gather(root), &[&mine]), expected);
            let row = &[&[7_u8, 8][..]][..is_root];
            assert_eq!(take(3, CollectiveKind::Bcast(root), row), (vec![7, 8], vec![2]));
            let expected = (vec![1, rank as u8], vec![2]);
            assert_eq!(take(4, CollectiveKind::Scatter(root), &each[..3 * is_root]), expected);
            assert_eq!(take(5, CollectiveKind::Allgather, &[]), (vec![], vec![0; 3]));
        });
        assert_eq!(got.len(), 3);
    }

    #[test]
    fn a_dropped_operation_still_contributes() {
        let got = ranks(3, |engine, rank| {
            let op = engine
                .icollective(call(rank, CollectiveKind::Allgather, &[&[rank as u8]]))
                .unwrap();
            if rank == 0 {
                engine.detach(op);
                return vec![];
            }
            thread::sleep(Duration::from_millis(5));
            rows(*engine.wait(op).unwrap().exchanged.unwrap()).0
        });
        assert_eq!(got[1..], [[0, 1, 2], [0, 1, 2]]);
    }

    #[test]
    fn disagreement_is_told_to_all() {
        for (one, other) in [
            (CollectiveKind::Bcast(Rank(0)), CollectiveKind::Bcast(Rank(2))),
            (CollectiveKind::Allgather, CollectiveKind::Alltoall),
        ] {
            let got = ranks(3, |engine, rank| {
                let kind = if rank == 2 { other } else { one };
                let op = engine.icollective(call(rank, kind, &[&[1], &[2], &[3]])).unwrap();
                // A root is done at once, whatever the others do.
                thread::sleep(Duration::from_millis(20));
                engine.wait(op).map(drop)
            });
            for (rank, outcome) in got.into_iter().enumerate() {
                let fault = *outcome.unwrap_err();
                let ErrorKind::CollectiveMismatch { mine, rank: other, theirs } = fault else {
                    panic!("rank {rank}: {fault:?}")
                };
                assert_eq!(other == 2, rank != 2);
                assert!(
                    mine.contains("exchange.rs:") && theirs.contains("exchange.rs:"),
                    "{mine} {theirs}"
                );
            }
        }
    }

    #[test]
    fn a_missing_rank_is_deadlock() {
        let got = ranks(3, |engine, rank| {
            if rank == 1 {
                return true;
            }
            let waited = exchange(engine, call(rank, CollectiveKind::Allgather, &[&[1]]));
            matches!(*waited.unwrap_err(), ErrorKind::Deadlock { .. })
        });
        assert_eq!(got, [true; 3]);
    }
}
