//! loom runs these small jobs in every order their threads can take (up to [`PREEMPTIONS`] forced
//! switches), with every value that the memory model lets an atomic load return. A rank that is
//! never woken is a deadlock of the model; an access to a loan or slot that another one does not
//! wait for is reported by loom's cells.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --profile watched --lib models`

use std::sync::Arc;

use super::{Backoff, FailedRank, Job, LocalEngine};
use crate::{
    datum::{Landing, LentRead, Memory, Outgoing, Signature},
    engine::{
        Choice, Context, Done, Ended, Engine, Label, Messages, Mode, Operations, Rank, Received,
        Source, Step, Tag, Target,
    },
    error::{Call, ErrorKind, Fault, With},
};

/// Bugs of such protocols need one or two switches at the worst moment; this is one more where two
/// ranks are enough to show them. Each further switch, and each rank, multiplies the orders to try.
const PREEMPTIONS: [usize; 4] = [3, 3, 3, 2];

const LABEL: Label = Label { signature: Signature::OBJECT, step: None };
/// In the models: part of a slot; in lines of its own; lent, and copied if nobody takes it; lent;
/// lent and copied by both.
const SMALL: [u8; 2] = [1, 2];
const LINES: [u8; 4] = [1, 2, 3, 4];
const MEDIUM: [u8; 5] = [1, 2, 3, 4, 5];
const LARGE: [u8; 6] = [1, 2, 3, 4, 5, 6];
const SHARED: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

/// Runs `program` on so many ranks, in every order.
pub(super) fn explore(
    ranks: usize,
    program: impl Fn(usize, &Job, &LocalEngine) + Copy + Send + Sync + 'static,
) {
    explore_within(PREEMPTIONS[ranks], ranks, ranks, program);
}

/// Runs `program` on so many ranks on so many cores, in every order of so many forced switches.
pub(super) fn explore_within(
    preemptions: usize,
    ranks: usize,
    cores: usize,
    program: impl Fn(usize, &Job, &LocalEngine) + Copy + Send + Sync + 'static,
) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound.get_or_insert(preemptions);
    model.max_branches = 100_000;
    model.check(move || {
        let job = Job::new(ranks, Backoff::for_ranks(ranks, cores));
        let live = move |rank: usize, job: &Arc<Job>| {
            let engine = job.engine(rank);
            engine.enter("model", With::ALL, std::panic::Location::caller());
            program(rank, job, &engine);
            job.finish(rank);
        };
        let others: Vec<_> = (1..ranks)
            .map(|rank| {
                let job = Arc::clone(&job);
                loom::thread::spawn(move || live(rank, &job))
            })
            .collect();
        live(0, &job);
        others.into_iter().for_each(|rank| rank.join().unwrap());
    });
}

fn to(rank: u32) -> Target {
    Target { context: Context::WORLD, rank: Rank(rank), tag: Tag(7), label: LABEL }
}

fn from(rank: impl Into<Option<u32>>) -> Source {
    let rank = rank.into().map(Rank);
    Source { context: Context::WORLD, choice: Choice::new(rank, Some(Tag(7))), label: LABEL }
}

/// A message that the engine keeps until it is sent.
fn outgoing(bytes: &[u8]) -> Memory {
    Memory::Owned(Box::new(Outgoing(bytes.to_vec())))
}

/// Room for a message that the engine keeps until it has come.
fn landing() -> Memory {
    Memory::Owned(Box::new(Landing::<u8>::new(8).unwrap()))
}

/// Checks what has landed, and so reads the memory that the sender has written.
#[track_caller]
fn assert_landed(done: Done, peer: u32, expected: &[u8]) {
    assert_eq!(done.received, Some(received(peer, expected.len())));
    let landing = done.buffer.unwrap().into_any().downcast::<Landing<u8>>().unwrap();
    assert_eq!(landing.into_values(expected.len()).unwrap(), expected);
}

fn received(rank: u32, bytes: usize) -> Received {
    Received { rank: Rank(rank), tag: Tag(7), bytes }
}

#[track_caller]
fn assert_receives(engine: &LocalEngine, peer: u32, expected: &[u8]) {
    let mut into = [0; 8];
    let got = engine.recv(&from(peer), &mut into);
    assert_eq!(got, Ok(received(peer, expected.len())));
    assert_eq!(&into[..expected.len()], expected);
}

fn is_deadlock<T>(result: Result<T, Fault>) -> bool {
    matches!(result, Err(fault) if matches!(*fault, ErrorKind::Deadlock { .. }))
}

/// The call ended as if nothing had failed, or with the failure of rank 2: never otherwise.
#[track_caller]
pub(super) fn done_or_aborted<T>(result: Result<T, Fault>) -> Option<T> {
    result
        .inspect_err(|kind| assert!(matches!(**kind, ErrorKind::Aborted { rank: 2, .. }), "{kind}"))
        .ok()
}

#[test]
fn a_small_message_wakes_its_receiver() {
    explore(2, |rank, _, engine| match rank {
        0 => engine.send(&to(1), Mode::Standard, &SMALL).unwrap(),
        _ => assert_receives(engine, 0, &SMALL),
    });
}

#[test]
fn messages_do_not_overtake() {
    explore(2, |rank, _, engine| match rank {
        0 => {
            engine.send(&to(1), Mode::Standard, &LARGE).unwrap();
            engine.send(&to(1), Mode::Standard, &SMALL).unwrap();
        }
        _ => {
            assert_receives(engine, 0, &LARGE);
            assert_receives(engine, 0, &SMALL);
        }
    });
}

/// The segments of the models have room for one message: each message begins a new one.
#[test]
fn a_lane_goes_on_in_segments_that_come_back() {
    explore(2, |rank, _, engine| {
        for round in 0..3 {
            let mine = LINES.map(|byte| byte + round);
            match rank {
                0 => engine.send(&to(1), Mode::Standard, &mine).unwrap(),
                _ => assert_receives(engine, 0, &mine),
            }
        }
    });
}

#[test]
fn messages_stay_in_a_lane_that_nobody_reads() {
    explore(2, |rank, _, engine| {
        if rank == 0 {
            for bytes in [&SMALL[..], &LINES, &SMALL] {
                engine.send(&to(1), Mode::Standard, bytes).unwrap();
            }
        } else {
            assert_receives(engine, 0, &SMALL);
        }
    });
}

#[test]
fn a_step_carries_its_call() {
    let step = |target: Target| {
        let step = Some(Step { call: Call::new("barrier", With::ALL) });
        Target { label: Label { signature: Signature::OBJECT, step }, ..target }
    };
    explore(2, move |rank, _, engine| {
        if rank == 0 {
            return engine.send(&step(to(1)), Mode::Standard, &SMALL).unwrap();
        }
        let mut into = [0; 8];
        let expected = Source { label: step(to(1)).label, ..from(0) };
        assert_eq!(engine.recv(&expected, &mut into), Ok(received(0, SMALL.len())));
        assert_eq!(&into[..SMALL.len()], SMALL);
    });
}

#[test]
fn a_message_that_nobody_takes_in_time_is_copied() {
    explore(2, |rank, _, engine| {
        if rank == 0 {
            let mut bytes = MEDIUM;
            engine.send(&to(1), Mode::Standard, &bytes).unwrap();
            bytes.fill(0);
            std::hint::black_box(&bytes);
            engine.send(&to(1), Mode::Standard, &SMALL).unwrap();
        } else {
            assert_receives(engine, 0, &MEDIUM);
            assert_receives(engine, 0, &SMALL);
        }
    });
}

#[test]
fn two_medium_sends_against_each_other_are_no_deadlock() {
    explore(2, |rank, _, engine| {
        let peer = 1 - rank as u32;
        engine.send(&to(peer), Mode::Standard, &MEDIUM).unwrap();
        assert_receives(engine, peer, &MEDIUM);
    });
}

#[test]
fn a_synchronous_send_waits_for_its_receiver() {
    explore(2, |rank, _, engine| {
        if rank == 0 {
            assert!(is_deadlock(engine.send(&to(1), Mode::Synchronous, &SMALL)));
        }
    });
}

#[test]
fn a_large_message_leaves_its_buffer_free() {
    explore(2, |rank, _, engine| match rank {
        0 => {
            let mut bytes = LARGE;
            engine.send(&to(1), Mode::Standard, &bytes).unwrap();
            bytes.fill(0);
            std::hint::black_box(&bytes);
        }
        _ => assert_receives(engine, 0, &LARGE),
    });
}

#[test]
fn owned_buffers_come_back() {
    explore(2, |rank, _, engine| {
        if rank == 0 {
            let op = engine.isend(&to(1), Mode::Standard, outgoing(&LARGE)).unwrap();
            assert_eq!(engine.wait(op).unwrap().buffer.unwrap().bytes(), &LARGE);
        } else {
            let op = engine.irecv(&from(0), landing()).unwrap();
            assert_landed(engine.wait(op).unwrap(), 0, &LARGE);
        }
    });
}

#[test]
fn lender_and_receiver_copy_together() {
    explore(2, |rank, _, engine| match rank {
        0 => engine.send(&to(1), Mode::Standard, &SHARED).unwrap(),
        _ => assert_receives(engine, 0, &SHARED),
    });
}

#[test]
fn a_probed_message_is_fetched() {
    explore(2, |rank, _, engine| {
        if rank == 0 {
            return engine.send(&to(1), Mode::Standard, &LARGE).unwrap();
        }
        let (ticket, found) = engine.probe(&from(0), true).unwrap().unwrap();
        assert_eq!(found, received(0, LARGE.len()));
        let mut into = [0; LARGE.len()];
        engine.fetch(ticket, &LABEL, &mut into).unwrap();
        assert_eq!(into, LARGE);
    });
}

#[test]
fn two_ranks_exchange_large_messages() {
    explore(2, |rank, _, engine| {
        let peer = 1 - rank as u32;
        let mut into = [0; LARGE.len()];
        let mine = LARGE.map(|byte| byte + rank as u8);
        let got = engine.sendrecv(&to(peer), &mine, &from(peer), &mut into);
        assert_eq!(got, Ok(received(peer, LARGE.len())));
        assert_eq!(into, LARGE.map(|byte| byte + peer as u8));
    });
}

#[test]
fn two_senders_reach_a_receiver_from_any() {
    explore(3, |rank, _, engine| {
        if rank > 0 {
            return engine.send(&to(0), Mode::Standard, &[rank as u8]).unwrap();
        }
        let mut seen = [false; 3];
        for _ in 0..2 {
            let mut into = [0];
            let got = engine.recv(&from(None), &mut into).unwrap();
            assert_eq!(got.rank, Rank(into[0].into()));
            assert!(!std::mem::replace(&mut seen[got.rank.index()], true));
        }
    });
}

#[test]
fn ranks_that_all_wait_are_deadlocked() {
    explore(2, |rank, _, engine| {
        let peer = 1 - rank as u32;
        assert!(is_deadlock(engine.recv(&from(peer), &mut [0])));
    });
}

#[test]
fn waiting_for_a_finished_rank_is_deadlock() {
    explore(2, |rank, _, engine| {
        if rank == 0 {
            assert!(is_deadlock(engine.recv(&from(1), &mut [0])));
        }
    });
}

#[test]
fn two_large_sends_against_each_other_are_deadlock() {
    explore(2, |rank, _, engine| {
        let peer = 1 - rank as u32;
        assert!(is_deadlock(engine.send(&to(peer), Mode::Standard, &LARGE)));
    });
}

#[test]
fn an_answer_on_its_way_is_no_deadlock() {
    explore(2, |rank, _, engine| {
        if rank == 0 {
            engine.send(&to(1), Mode::Standard, &SMALL).unwrap();
            assert_receives(engine, 1, &LARGE);
        } else {
            assert_receives(engine, 0, &SMALL);
            engine.send(&to(0), Mode::Standard, &LARGE).unwrap();
        }
    });
}

#[test]
fn a_receive_ends_when_another_rank_fails() {
    explore(3, |rank, job, engine| match rank {
        0 => {
            let mut into = [0; LARGE.len()];
            if done_or_aborted(engine.recv(&from(1), &mut into)).is_some() {
                assert_eq!(into, LARGE);
            }
        }
        1 => drop(done_or_aborted(engine.send(&to(0), Mode::Standard, &LARGE))),
        _ => job.end(FailedRank { rank: 2, cause: "planted".to_owned() }),
    });
}

#[test]
fn owned_buffers_survive_when_another_rank_fails() {
    explore(3, |rank, job, engine| match rank {
        0 => {
            let Some(op) = done_or_aborted(engine.irecv(&from(1), landing())) else { return };
            if let Some(done) = done_or_aborted(engine.wait(op)) {
                assert_landed(done, 1, &LARGE);
            }
        }
        1 => {
            let Some(op) = done_or_aborted(engine.isend(&to(0), Mode::Standard, outgoing(&LARGE)))
            else {
                return;
            };
            if let Some(done) = done_or_aborted(engine.wait(op)) {
                assert_eq!(done.buffer.unwrap().bytes(), &LARGE);
            }
        }
        _ => job.end(FailedRank { rank: 2, cause: "planted".to_owned() }),
    });
}

#[test]
fn a_lender_ends_when_its_receiver_fails() {
    explore(2, |rank, job, engine| {
        if rank == 0 {
            let sent = engine.send(&to(1), Mode::Standard, &LARGE);
            assert!(
                matches!(&sent, Err(fault) if matches!(**fault, ErrorKind::Aborted { rank: 1, .. })),
                "{sent:?}"
            );
        } else {
            job.end(FailedRank { rank: 1, cause: "planted".to_owned() });
        }
    });
}

#[test]
fn a_detached_receive_is_withdrawn() {
    explore(2, |rank, _, engine| {
        if rank == 0 {
            return engine.send(&to(1), Mode::Standard, &SMALL).unwrap();
        }
        let op = engine.irecv(&from(0), landing()).unwrap();
        engine.detach(op);
        // Withdrawn in time, the message is still to come; too late, it has been received into the
        // detached buffer.
        let mut into = [0; 8];
        match engine.recv(&from(0), &mut into) {
            Ok(got) => assert_eq!(&into[..got.bytes], &SMALL),
            Err(kind) => assert!(matches!(*kind, ErrorKind::Deadlock { .. }), "{kind}"),
        }
    });
}

/// Lends `bytes` to an operation that is revoked before they end.
fn lent(bytes: &[u8]) -> Memory {
    // SAFETY: every model that uses this revokes the operation, or sees it done, while the bytes
    // live.
    Memory::Read(unsafe { LentRead::new(bytes.as_ptr(), bytes.len()) })
}

/// What is sent comes, though its sender has abandoned it.
fn abandons<const BYTES: usize>(message: [u8; BYTES]) {
    explore(2, move |rank, _, engine| {
        if rank == 0 {
            let mut bytes = message;
            let op = engine.isend(&to(1), Mode::Standard, lent(&bytes)).unwrap();
            assert!(engine.abandon(op));
            bytes.fill(0);
            std::hint::black_box(&bytes);
            return;
        }
        assert_receives(engine, 0, &message);
    });
}

#[test]
fn an_abandoned_send_comes_and_touches_its_memory_no_more() {
    abandons(LARGE);
}

#[test]
fn an_abandoned_send_ends_a_shared_copy() {
    abandons(SHARED);
}

#[test]
fn an_abandoned_send_ends_with_the_job() {
    explore(2, |rank, job, engine| {
        if rank == 1 {
            job.end(FailedRank { rank: 1, cause: "planted".to_owned() });
            return;
        }
        let mut bytes = LARGE;
        if let Some(op) = done_or_aborted(engine.isend(&to(1), Mode::Standard, lent(&bytes))) {
            assert!(engine.abandon(op));
        }
        bytes.fill(0);
        std::hint::black_box(&bytes);
    });
}

fn revokes<const BYTES: usize>(message: [u8; BYTES]) {
    explore(2, move |rank, _, engine| {
        if rank == 0 {
            let mut bytes = message;
            let op = engine.isend(&to(1), Mode::Standard, lent(&bytes)).unwrap();
            engine.revoke(op);
            bytes.fill(0);
            std::hint::black_box(&bytes);
            return;
        }
        let mut into = [0; 8];
        match engine.recv(&from(0), &mut into) {
            Ok(got) => assert_eq!(&into[..got.bytes], &message),
            Err(kind) => assert!(matches!(*kind, ErrorKind::Deadlock { .. }), "{kind}"),
        }
    });
}

#[test]
fn a_revoked_send_touches_its_memory_no_more() {
    revokes(LARGE);
}

#[test]
fn a_revoked_send_ends_a_shared_copy() {
    revokes(SHARED);
}

#[test]
fn a_probed_message_outlives_its_lender() {
    explore(2, |rank, _, engine| {
        if rank == 0 {
            let mut bytes = LARGE;
            let op = engine.isend(&to(1), Mode::Standard, lent(&bytes)).unwrap();
            engine.revoke(op);
            bytes.fill(0);
            std::hint::black_box(&bytes);
            return;
        }
        let Ok(Some((ticket, found))) = engine.probe(&from(0), true) else { return };
        assert_eq!(found, received(0, LARGE.len()));
        let mut into = [0; LARGE.len()];
        engine.fetch(ticket, &LABEL, &mut into).unwrap();
        assert_eq!(into, LARGE);
    });
}

#[test]
fn a_cancelled_send_happens_or_does_not() {
    explore(2, |rank, _, engine| {
        if rank == 0 {
            let op = engine.isend(&to(1), Mode::Standard, outgoing(&LARGE)).unwrap();
            let (Ended::Cancelled(buffer) | Ended::Done(Done { buffer, .. })) =
                engine.cancel(op).unwrap();
            assert_eq!(buffer.unwrap().bytes(), &LARGE);
            return engine.send(&to(1), Mode::Standard, &SMALL).unwrap();
        }
        let mut into = [0; 8];
        let got = engine.recv(&from(0), &mut into).unwrap();
        if got.bytes == LARGE.len() {
            assert_receives(engine, 0, &SMALL);
        }
    });
}

#[test]
fn a_cancelled_receive_leaves_its_message() {
    explore(2, |rank, _, engine| {
        if rank == 0 {
            return engine.send(&to(1), Mode::Standard, &LARGE).unwrap();
        }
        let op = engine.irecv(&from(0), landing()).unwrap();
        match engine.cancel(op).unwrap() {
            Ended::Cancelled(_) => assert_receives(engine, 0, &LARGE),
            Ended::Done(done) => assert_landed(done, 0, &LARGE),
        }
    });
}

#[test]
fn a_posted_receive_is_served_while_its_owner_waits_for_another() {
    explore(2, |rank, _, engine| {
        let peer = 1 - rank as u32;
        let op = engine.irecv(&from(peer), landing()).unwrap();
        engine.send(&to(peer), Mode::Standard, &LARGE).unwrap();
        assert_landed(engine.wait(op).unwrap(), peer, &LARGE);
    });
}

#[test]
fn waiting_for_any_finds_the_one_that_is_done() {
    explore(2, |rank, _, engine| {
        if rank == 0 {
            return engine.send(&to(1), Mode::Standard, &SMALL).unwrap();
        }
        let other = Source { choice: Choice::new(Some(Rank(0)), Some(Tag(8))), ..from(0) };
        let ops = [&other, &from(0)].map(|source| engine.irecv(source, landing()).unwrap());
        assert_eq!(engine.wait_any(&ops, None), Ok(Some(1)));
        assert_landed(engine.wait(ops[1]).unwrap(), 0, &SMALL);
        engine.detach(ops[0]);
    });
}
