//! loom runs these small collectives as [`models`](super::models) runs messages.
//!
//! loom does not see accesses to lent memory, but it sees the order of calls: an owner changes its
//! memory as soon as it has it back, so that whoever reads it later reads something wrong.

use super::{
    FailedRank, LocalEngine,
    models::{done_or_aborted, explore, explore_within},
};
use crate::{
    datum::{Landing, Outgoing, Signature, landing},
    engine::{
        Access, Collective, CollectiveCall, CollectiveKind, Collectives, Context, Exchange, Label,
        Operations, Rank, Reduction, Rma, Step, Windows,
    },
    error::{Call, ErrorKind, Fault, With},
};

/// Shown in the slot, and lent.
const SMALL: usize = 4;
const LARGE: usize = 40;

fn label(op: &'static str, with: With) -> Label {
    Label { signature: Signature::of::<u8>(), step: Some(Step { call: Call::new(op, with) }) }
}

/// A collective of the world of so many ranks.
fn collective(
    engine: &LocalEngine,
    (rank, size): (usize, usize),
    seq: u64,
    label: Label,
    what: Collective<'_>,
) -> Result<(), Fault> {
    let (context, rank) = (Context::WORLD, Rank::from(rank));
    let mut call = CollectiveCall { context, rank, size, seq, label: &label, what };
    engine.collective(&mut call).unwrap()
}

fn barrier(engine: &LocalEngine, place: (usize, usize), seq: u64) -> Result<(), Fault> {
    collective(engine, place, seq, label("barrier", With::ALL), Collective::Barrier)
}

fn bcast(
    engine: &LocalEngine,
    place: (usize, usize),
    seq: u64,
    root: usize,
    buffer: &mut [u8],
) -> Result<(), Fault> {
    let what = Collective::Bcast { root: Rank::from(root), buffer };
    collective(engine, place, seq, label("bcast", With::root(root)), what)
}

fn allreduce(
    engine: &LocalEngine,
    place: (usize, usize),
    mine: &[u8],
    out: &mut [u8],
) -> Result<(), Fault> {
    let fold = |left: &[u8], right: &mut [u8]| {
        left.iter().zip(right).for_each(|(left, right)| *right += left);
        Ok(())
    };
    let with = Reduction { native: None, commutative: false, fold: &fold };
    let what = Collective::Allreduce { mine, out, with: &with };
    collective(engine, place, 0, label("allreduce", With::ALL), what)
}

fn is_told<T>(result: &Result<T, Fault>) -> bool {
    matches!(result, Err(fault) if matches!(**fault, ErrorKind::CollectiveMismatch { .. }))
}

#[test]
fn slots_are_filled_again_after_all_have_read_them() {
    // Three calls are needed to fill a slot again; more switches take minutes.
    explore_within(1, 2, 2, |rank, _, engine| {
        for seq in 0..3 {
            let root = seq as usize % 2;
            let mut buffer = [if rank == root { seq as u8 + 1 } else { 0 }; SMALL];
            bcast(engine, (rank, 2), seq, root, &mut buffer).unwrap();
            assert_eq!(buffer, [seq as u8 + 1; SMALL]);
        }
    });
}

#[test]
fn nobody_leaves_a_barrier_before_all_have_come() {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    // Three ranks: the last round is that of the barrier itself, not of its slots.
    for cores in [3, 1] {
        static COME: AtomicUsize = AtomicUsize::new(0);
        explore_within(1, 3, cores, |rank, _, engine| {
            barrier(engine, (rank, 3), 0).unwrap();
            COME.fetch_add(1, SeqCst);
            barrier(engine, (rank, 3), 1).unwrap();
            assert_eq!(COME.load(SeqCst) % 3, 0);
        });
    }
}

#[test]
fn who_shares_a_core_is_woken_by_the_last() {
    explore_within(2, 2, 1, |rank, _, engine| {
        let mut out = [0; SMALL];
        allreduce(engine, (rank, 2), &[rank as u8 + 1; SMALL], &mut out).unwrap();
        assert_eq!(out, [3; SMALL]);
        barrier(engine, (rank, 2), 1).unwrap();
    });
}

#[test]
fn lent_memory_is_free_when_the_call_returns() {
    explore(2, |rank, _, engine| {
        let mut buffer = [if rank == 0 { 7 } else { 0 }; LARGE];
        bcast(engine, (rank, 2), 0, 0, &mut buffer).unwrap();
        assert_eq!(buffer, [7; LARGE]);
        buffer.fill(0);
        std::hint::black_box(&buffer);
    });
}

#[test]
fn lent_memory_is_free_when_another_rank_fails() {
    explore(3, |rank, job, engine| {
        if rank == 2 {
            return job.end(FailedRank { rank: 2, cause: "planted".to_owned() });
        }
        let mut buffer = [if rank == 0 { 7 } else { 0 }; LARGE];
        let outcome = bcast(engine, (rank, 3), 0, 0, &mut buffer);
        if done_or_aborted(outcome).is_some() {
            assert_eq!(buffer, [7; LARGE]);
        }
        buffer.fill(0);
        std::hint::black_box(&buffer);
    });
}

#[test]
fn every_rank_does_its_share_of_a_reduction() {
    explore(2, |rank, _, engine| {
        let (mut mine, mut out) = ([rank as u8 + 1; LARGE], [0; LARGE]);
        allreduce(engine, (rank, 2), &mine, &mut out).unwrap();
        assert_eq!(out, [3; LARGE]);
        mine.fill(0);
        std::hint::black_box((&mine, &out));
    });
}

#[test]
fn of_two_roots_one_is_told() {
    static TOLD: [std::sync::atomic::AtomicBool; 2] =
        [const { std::sync::atomic::AtomicBool::new(false) }; 2];
    // Three calls, the last of which only keeps `TOLD` until it is read: one switch while the slots
    // are compared and one in the barrier. A third takes minutes.
    explore_within(2, 2, 2, |rank, _, engine| {
        use std::sync::atomic::Ordering::SeqCst;
        let outcome = bcast(engine, (rank, 2), 0, rank, &mut [1; SMALL]);
        assert!(outcome.is_ok() || is_told(&outcome));
        TOLD[rank].store(outcome.is_err(), SeqCst);
        // The second barrier is met only by a rank that has come so far.
        barrier(engine, (rank, 2), 1).unwrap();
        assert!(TOLD.iter().any(|told| told.load(SeqCst)));
        barrier(engine, (rank, 2), 2).unwrap();
    });
}

#[test]
fn different_calls_are_told() {
    explore(2, |rank, _, engine| {
        let outcome = if rank == 0 {
            barrier(engine, (rank, 2), 0)
        } else {
            allreduce(engine, (rank, 2), &[1; LARGE], &mut [0; LARGE])
        };
        assert!(is_told(&outcome), "{outcome:?}");
    });
}

#[test]
fn a_barrier_without_one_rank_is_deadlock() {
    explore(2, |rank, _, engine| {
        if rank == 0 {
            let outcome = barrier(engine, (rank, 2), 0);
            assert!(
                matches!(&outcome, Err(fault) if matches!(**fault, ErrorKind::Deadlock { .. })),
                "{outcome:?}"
            );
        }
    });
}

#[test]
fn contributions_are_taken_by_all() {
    explore(2, |rank, _, engine| {
        let op = engine.icollective(Exchange {
            context: Context::WORLD,
            rank: Rank::from(rank),
            size: 2,
            seq: 0,
            label: label("exchange", With::ALL),
            kind: CollectiveKind::Allgather,
            mine: Box::new(Outgoing(vec![rank as u8 + 1])),
            counts: vec![1],
            reduce: None,
            room: landing::<u8>,
        });
        let exchanged = engine.wait(op.unwrap()).unwrap().exchanged.unwrap();
        let rows = exchanged.rows.into_any().downcast::<Landing<u8>>().unwrap();
        assert_eq!(rows.into_values(2).unwrap(), [1, 2]);
    });
}

#[test]
fn a_part_is_held_by_one_rank_at_a_time() {
    explore(2, |rank, _, engine| {
        let window = engine.open_window(Context::WORLD, 0, 8, Access::Remote).unwrap();
        let part = engine.window_part(window, Rank(0)).unwrap();
        std::hint::black_box(part.len());
        engine.lock_part(window, Rank(0), true).unwrap();
        let mut count = [0; 8];
        engine.access(window, Rank(0), 0, Rma::Get(&mut count)).unwrap();
        loom::thread::yield_now();
        count[0] += 1;
        engine.access(window, Rank(0), 0, Rma::Put(&count)).unwrap();
        engine.unlock_part(window, Rank(0)).unwrap();
        barrier(engine, (rank, 2), 1).unwrap();
        engine.access(window, Rank(0), 0, Rma::Get(&mut count)).unwrap();
        assert_eq!(count[0], 2);
        engine.close_window(window).unwrap();
    });
}
