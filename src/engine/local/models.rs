//! loom runs these small jobs in every order their threads can take (up to [`PREEMPTIONS`] forced switches), with every
//! value that the memory model lets an atomic load return. A rank that is never woken is a deadlock of the model; an
//! access to a loan or slot that another one does not wait for is reported by loom's cells.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --lib models`

use std::sync::Arc;

use super::{Job, LocalEngine, Patience};
use crate::{
    datum::{Landing, Outgoing, Signature},
    engine::{Context, Done, Engine, Label, Rank, Received, Source, Tag, Target},
    error::{Call, ErrorKind, With},
};

/// Bugs of such protocols need one or two switches at the worst moment; this is one more, and each further one multiplies the orders to try.
const PREEMPTIONS: usize = 3;

const LABEL: Label = Label { signature: Signature::OBJECT, step: None };
/// Below the eager limit of the models, and above it.
const SMALL: [u8; 2] = [1, 2];
const LARGE: [u8; 6] = [1, 2, 3, 4, 5, 6];

/// Runs `program` on so many ranks, in every order.
fn explore(
    ranks: usize,
    program: impl Fn(usize, &Job, &LocalEngine) + Copy + Send + Sync + 'static,
) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound.get_or_insert(PREEMPTIONS);
    model.max_branches = 100_000;
    model.check(move || {
        let job = Job::new(ranks, Patience::for_ranks(ranks, ranks));
        let live = move |rank: usize, job: &Arc<Job>| {
            let engine = job.engine(rank);
            engine.enter(Call::new("model", With::All));
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
    Source { context: Context::WORLD, rank, tag: Some(Tag(7)), label: LABEL }
}

/// A message that the engine keeps until it is sent.
fn outgoing(bytes: &[u8]) -> Box<Outgoing<u8>> {
    Box::new(Outgoing(bytes.to_vec()))
}

/// Room for a message that the engine keeps until it has come.
fn landing() -> Box<Landing<u8>> {
    Box::new(Landing::new(8))
}

/// Checks what has landed, and so reads the memory that the sender has written.
#[track_caller]
fn assert_landed(done: Done, peer: u32, expected: &[u8]) {
    assert_eq!(done.received, Some(received(peer, expected.len())));
    let landing = done.buffer.into_any().downcast::<Landing<u8>>().unwrap();
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

fn is_deadlock<T>(result: Result<T, ErrorKind>) -> bool {
    matches!(result, Err(ErrorKind::Deadlock { .. }))
}

/// The call ended as if nothing had failed, or with the failure of rank 2: never otherwise.
#[track_caller]
fn done_or_aborted<T>(result: Result<T, ErrorKind>) -> Option<T> {
    result
        .inspect_err(|kind| assert!(matches!(kind, ErrorKind::Aborted { rank: 2, .. }), "{kind}"))
        .ok()
}

#[test]
fn a_small_message_wakes_its_receiver() {
    explore(2, |rank, _, engine| match rank {
        0 => engine.send(&to(1), &SMALL).unwrap(),
        _ => assert_receives(engine, 0, &SMALL),
    });
}

#[test]
fn messages_do_not_overtake() {
    explore(2, |rank, _, engine| match rank {
        0 => {
            engine.send(&to(1), &LARGE).unwrap();
            engine.send(&to(1), &SMALL).unwrap();
        }
        _ => {
            assert_receives(engine, 0, &LARGE);
            assert_receives(engine, 0, &SMALL);
        }
    });
}

#[test]
fn a_large_message_leaves_its_buffer_free() {
    explore(2, |rank, _, engine| match rank {
        0 => {
            let mut bytes = LARGE;
            engine.send(&to(1), &bytes).unwrap();
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
            let op = engine.isend(&to(1), outgoing(&LARGE)).unwrap();
            assert_eq!(engine.wait(op).unwrap().buffer.bytes(), &LARGE);
        } else {
            let op = engine.irecv(&from(0), landing()).unwrap();
            assert_landed(engine.wait(op).unwrap(), 0, &LARGE);
        }
    });
}

#[test]
fn a_probed_message_is_fetched() {
    explore(2, |rank, _, engine| {
        if rank == 0 {
            return engine.send(&to(1), &LARGE).unwrap();
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
            return engine.send(&to(0), &[rank as u8]).unwrap();
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
        assert!(is_deadlock(engine.send(&to(peer), &LARGE)));
    });
}

#[test]
fn an_answer_on_its_way_is_no_deadlock() {
    explore(2, |rank, _, engine| {
        if rank == 0 {
            engine.send(&to(1), &SMALL).unwrap();
            assert_receives(engine, 1, &LARGE);
        } else {
            assert_receives(engine, 0, &SMALL);
            engine.send(&to(0), &LARGE).unwrap();
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
        1 => drop(done_or_aborted(engine.send(&to(0), &LARGE))),
        _ => job.fail(2, "planted".to_owned()),
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
            let Some(op) = done_or_aborted(engine.isend(&to(0), outgoing(&LARGE))) else { return };
            if let Some(done) = done_or_aborted(engine.wait(op)) {
                assert_eq!(done.buffer.bytes(), &LARGE);
            }
        }
        _ => job.fail(2, "planted".to_owned()),
    });
}

#[test]
fn a_lender_ends_when_its_receiver_fails() {
    explore(2, |rank, job, engine| {
        if rank == 0 {
            let sent = engine.send(&to(1), &LARGE);
            assert!(matches!(sent, Err(ErrorKind::Aborted { rank: 1, .. })), "{sent:?}");
        } else {
            job.fail(1, "planted".to_owned());
        }
    });
}

#[test]
fn a_forsaken_receive_is_withdrawn() {
    explore(2, |rank, _, engine| {
        if rank == 0 {
            return engine.send(&to(1), &SMALL).unwrap();
        }
        let op = engine.irecv(&from(0), landing()).unwrap();
        engine.forsake(op);
        // Withdrawn in time, the message is still to come; too late, it has been received into the forsaken buffer.
        let mut into = [0; 8];
        match engine.recv(&from(0), &mut into) {
            Ok(got) => assert_eq!(&into[..got.bytes], &SMALL),
            Err(kind) => assert!(matches!(kind, ErrorKind::Deadlock { .. }), "{kind}"),
        }
    });
}
