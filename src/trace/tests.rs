//! Traces with known answers: parts are made by hand, as ranks make them.

use std::path::Path;

use super::*;

/// A part whose rank notes what the test says, at times that the test says.
struct Rank {
    tape: Tape,
    cpu: CpuTape,
}

impl Rank {
    fn new(directory: &Path, rank: u64, size: u64, bytes: usize) -> Self {
        let path = directory.join(format!("rank-{rank}.part"));
        let (tape, cpu) = Tape::create(&path, [7, rank, size], ("host", "program"), bytes).unwrap();
        Self { tape, cpu }
    }

    fn record(&self, kind: u8, name: &'static str, place: &str, times: [u64; 2]) -> CallRecord {
        let [start_ns, end_ns] = times;
        CallRecord {
            start_ns,
            end_ns,
            kind,
            name: self.tape.known_word(name),
            place: self.tape.word(place),
            comm: self.tape.word("2 0 world"),
            ..CallRecord::EMPTY
        }
    }

    fn call(&self, name: &'static str, place: &str, times: [u64; 2]) {
        self.tape.note(&self.record(CallRecord::CALL, name, place, times));
    }

    fn collective(&self, name: &'static str, place: &str, times: [u64; 2], number: u32) {
        let record = self.record(CallRecord::CALL, name, place, times);
        self.tape.note(&CallRecord { collective: number, ..record });
    }

    fn message(&self, kind: u8, peer: u32, tag: u32, bytes: u64) {
        let record = self.record(kind, "", "", [0, 0]);
        self.tape.note(&CallRecord { peer, tag, sent: bytes, ..record });
    }
}

fn merged(directory: &Path) -> Trace {
    Trace::read_parts(directory).unwrap()
}

/// Times of the trace begin with its first part: so do those of the test.
fn now() -> u64 {
    now_ns()
}

#[test]
fn a_late_sender_is_named_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let [one, two] = [0, 1].map(|rank| Rank::new(directory.path(), rank, 2, 1 << 16));
    let t = now();
    one.message(CallRecord::RECEIVED, 1, 5, 8);
    one.call("recv", "solver.rs:10", [t + 1_000, t + 9_500]);
    two.message(CallRecord::SENT, 0, 5, 8);
    two.call("send", "solver.rs:88", [t + 9_000, t + 9_100]);
    let trace = merged(directory.path());
    let call = &trace.ranks[0].calls[0];
    assert_eq!(call.waited_ns, 8_000);
    let whom = call.waited_for.as_ref().unwrap();
    assert_eq!((whom.rank, &*whom.call), (1, "send at solver.rs:88"));
    assert_eq!(trace.ranks[1].calls[0].waited_ns, 0);
    let message = trace.messages[0];
    assert_eq!((message.from, message.to, message.bytes), (1, 0, 8));
    assert_eq!(message.received_ns - message.sent_ns, 500);
}

#[test]
fn nobody_waits_for_a_message_that_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let [one, two] = [0, 1].map(|rank| Rank::new(directory.path(), rank, 2, 1 << 16));
    let t = now();
    one.message(CallRecord::SENT, 1, 0, 8);
    one.call("send", "a.rs:1", [t, t + 100]);
    two.message(CallRecord::RECEIVED, 0, 0, 8);
    two.call("recv", "a.rs:2", [t + 5_000, t + 5_100]);
    let trace = merged(directory.path());
    assert!(trace.ranks.iter().all(|rank| rank.waited_ns() == 0));
}

#[test]
fn a_send_that_needs_its_receiver_waits_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let [one, two] = [0, 1].map(|rank| Rank::new(directory.path(), rank, 2, 1 << 16));
    let t = now();
    one.message(CallRecord::SENT, 1, 0, 8);
    one.call("ssend", "a.rs:1", [t, t + 7_000]);
    two.message(CallRecord::RECEIVED, 0, 0, 8);
    two.call("recv", "a.rs:2", [t + 6_000, t + 7_100]);
    let trace = merged(directory.path());
    assert_eq!(trace.ranks[0].calls[0].waited_ns, 6_000);
    assert_eq!(trace.ranks[0].calls[0].waited_for.as_ref().unwrap().rank, 1);
}

#[test]
fn the_last_to_come_to_a_collective_is_named_by_all_others() {
    let directory = tempfile::tempdir().unwrap();
    let [one, two] = [0, 1].map(|rank| Rank::new(directory.path(), rank, 2, 1 << 16));
    let t = now();
    one.collective("allreduce", "cg.rs:88", [t, t + 4_100], 3);
    two.collective("allreduce", "cg.rs:90", [t + 4_000, t + 4_200], 3);
    // Of another call nothing is known on the other side.
    one.collective("barrier", "cg.rs:99", [t + 5_000, t + 9_000], 4);
    let trace = merged(directory.path());
    let calls = &trace.ranks[0].calls;
    assert_eq!(calls[0].waited_ns, 4_000);
    assert_eq!(&*calls[0].waited_for.as_ref().unwrap().call, "allreduce at cg.rs:90");
    assert_eq!((calls[1].waited_ns, trace.ranks[1].calls[0].waited_ns), (0, 0));
}

#[test]
fn a_broadcast_waits_for_its_root_only() {
    let directory = tempfile::tempdir().unwrap();
    let [one, two] = [0, 1].map(|rank| Rank::new(directory.path(), rank, 2, 1 << 16));
    let t = now();
    let bcast = |rank: &Rank, times| {
        let record = rank.record(CallRecord::CALL, "bcast", "a.rs:1", times);
        rank.tape.note(&CallRecord { collective: 0, peer: 1, ..record });
    };
    bcast(&one, [t, t + 900]);
    bcast(&two, [t + 800, t + 2_000]); // the root
    let trace = merged(directory.path());
    assert_eq!(trace.ranks[0].calls[0].waited_ns, 800);
    assert_eq!(trace.ranks[1].calls[0].waited_ns, 0);
}

#[test]
fn clocks_of_hosts_are_put_right_between_two_comparisons() {
    let directory = tempfile::tempdir().unwrap();
    let [one, two] = [0, 1].map(|rank| Rank::new(directory.path(), rank, 2, 1 << 16));
    let t = now();
    // The second host's clock is 1 s behind at first and 2 ms less at the end, 10 s later.
    let second = 1_000_000_000;
    let local = |common: u64, gained: u64| common + gained - second;
    let clocks = |at_ns, behind_ns, error_ns| Clocks { at_ns, behind_ns, error_ns };
    two.tape.set_clocks(false, clocks(local(t, 0), second as i64, 300));
    two.tape.set_clocks(
        true,
        clocks(local(t + 10 * second, 2_000_000), second as i64 - 2_000_000, 500),
    );
    // In the middle it has gained half of that.
    let middle = t + 5 * second;
    one.message(CallRecord::SENT, 1, 0, 8);
    one.call("send", "a.rs:1", [middle, middle + 100]);
    two.message(CallRecord::RECEIVED, 0, 0, 8);
    let times = [middle + 10_000, middle + 20_000];
    two.call("recv", "a.rs:2", times.map(|time| local(time, 1_000_000)));
    let trace = merged(directory.path());
    assert_eq!((trace.clock_error_ns, trace.moved_messages), (500, 0));
    let took = trace.messages[0].received_ns - trace.messages[0].sent_ns;
    assert!(took.abs_diff(20_000) < 100, "{took} ns");
}

#[test]
fn no_message_arrives_before_it_is_sent() {
    let directory = tempfile::tempdir().unwrap();
    let [one, two] = [0, 1].map(|rank| Rank::new(directory.path(), rank, 2, 1 << 16));
    let t = now();
    one.message(CallRecord::SENT, 1, 0, 8);
    one.call("send", "a.rs:1", [t + 500, t + 600]);
    two.message(CallRecord::RECEIVED, 0, 0, 8);
    two.call("recv", "a.rs:2", [t + 100, t + 200]); // its clock is wrong
    let trace = merged(directory.path());
    assert_eq!(trace.moved_messages, 1);
    assert_eq!(trace.messages[0].sent_ns, trace.messages[0].received_ns);
}

#[test]
fn waiting_for_a_cpu_is_where_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let mut rank = Rank::new(directory.path(), 0, 1, 1 << 16);
    let t = now();
    // Told when the thread runs again: 25 of waiting, in an interval of 10.
    for (start, ran_ns, waited_ns) in [(0, 10, 0), (10, 0, 0), (20, 0, 0), (30, 8, 15), (40, 10, 0)]
    {
        let (start_ns, end_ns) = (t + start, t + start + 10);
        rank.cpu.note(&CpuRecord { start_ns, end_ns, ran_ns, waited_ns, thread: 0, cpu: 1 });
    }
    rank.tape.end([0; 2], 0);
    let cpu = merged(directory.path()).ranks.remove(0).cpu;
    let first = cpu[0].start_ns;
    let told: Vec<_> =
        cpu.iter().map(|time| (time.start_ns - first, time.ran_ns, time.waited_ns)).collect();
    // 2 in its own interval, 10 in the one before, 3 at the end of the one before that.
    assert_eq!(told, [(0, 10, 0), (10, 0, 0), (17, 0, 3), (20, 0, 10), (30, 8, 2), (40, 10, 0)]);
}

#[test]
fn a_full_ring_forgets_the_oldest_and_says_how_many() {
    let directory = tempfile::tempdir().unwrap();
    let rank = Rank::new(directory.path(), 0, 1, 100 * size_of::<CallRecord>());
    let t = now();
    for number in 0..250 {
        rank.call("send", "a.rs:1", [t + number, t + number]);
    }
    // While the rank runs, the oldest may be the one that is being overwritten.
    let running = merged(directory.path());
    assert_eq!((running.ranks[0].calls.len(), running.ranks[0].forgotten), (99, 151));
    rank.tape.end([1, 2], 3);
    let ended = merged(directory.path()).ranks.remove(0);
    assert_eq!((ended.calls.len(), ended.forgotten), (100, 150));
    assert!(ended.calls.is_sorted_by_key(|call| call.start_ns));
    assert_eq!((ended.switches, ended.cpu_ns, ended.inside), ([1, 2], 3, None));
    // What is sent to another rank is the same.
    let bytes = std::fs::read(directory.path().join("rank-0.part")).unwrap();
    let part = Part::parse(&bytes).unwrap();
    let sent = Part::parse(&part.to_bytes()).unwrap();
    assert_eq!((sent.calls, sent.words, sent.forgotten), (part.calls, part.words, 150));
}

#[test]
fn a_rank_that_was_killed_says_what_it_was_in() {
    let directory = tempfile::tempdir().unwrap();
    let rank = Rank::new(directory.path(), 0, 2, 1 << 16);
    rank.call("send", "a.rs:1", [now(), now()]);
    let (name, place) = (rank.tape.known_word("recv"), rank.tape.word("cg.rs:88"));
    rank.tape.enter(now(), name, place, 1);
    let trace = merged(directory.path());
    assert_eq!(trace.ranks[0].inside.as_deref(), Some("recv with rank 1 at cg.rs:88"));
    assert_eq!(trace.ranks[0].calls.len(), 1);
}

#[test]
fn damaged_parts_are_refused_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rank-0.part");
    let none = Trace::read_parts(directory.path()).unwrap_err();
    assert!(none.contains("no part of a trace"), "{none}");
    for bytes in [&b"short"[..], &[7; 10_000]] {
        std::fs::write(&path, bytes).unwrap();
        let told = Trace::read_parts(directory.path()).unwrap_err();
        assert!(told.contains("rank-0.part"), "{told}");
    }
    // What a head says is not believed.
    let rank = Rank::new(directory.path(), 0, 1, 1 << 12);
    rank.call("send", "a.rs:1", [1, 2]);
    let whole = std::fs::read(&path).unwrap();
    for at in (0..size_of::<PartHead>()).step_by(4) {
        let mut damaged = whole.clone();
        damaged[at..at + 4].fill(0xff);
        std::fs::write(&path, &damaged).unwrap();
        let _ = Trace::read_parts(directory.path()); // any answer but a panic
    }
    let other = tempfile::tempdir().unwrap();
    drop(Rank::new(other.path(), 1, 2, 1 << 12));
    for length in [100, 5_000, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(Trace::read_parts(directory.path()).is_err());
        // Beside one that can be read it is left out.
        let part = other.path().join("rank-0.part");
        std::fs::write(&part, &whole[..length]).unwrap();
        let trace = merged(other.path());
        assert_eq!((trace.ranks.len(), trace.ranks[0].rank, trace.unread.len()), (1, 1, 1));
        assert!(trace.unread[0].starts_with(&*part.to_string_lossy()), "{:?}", trace.unread);
    }
}

#[test]
fn a_window_has_what_lies_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let [one, two] = [0, 1].map(|rank| Rank::new(directory.path(), rank, 2, 1 << 16));
    let t = now();
    for rank in [&one, &two] {
        for number in 0..10 {
            rank.call("barrier", "a.rs:1", [t + 1000 * number, t + 1000 * number + 500]);
        }
        rank.tape.end([0; 2], 0);
    }
    let whole = merged(directory.path());
    let first = whole.ranks[0].calls[0].start_ns;
    let part = whole.window(|rank| rank == 1, first + 2_200, first + 4_200);
    assert_eq!(part.ranks.len(), 1);
    assert_eq!(part.ranks[0].rank, 1);
    let times: Vec<u64> = part.ranks[0].calls.iter().map(|call| call.start_ns - first).collect();
    assert_eq!(times, [2_200, 3_000, 4_000]);
}
