//! What a rank's calls have cost: messages, bytes and time, by operation and by peer.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    fmt,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::Comm;

/// What calls have cost: messages, bytes and time, by operation and by peer; see [`Comm::stats`].
///
/// Prints as two tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// By the name of the call: `send`, `allreduce`.
    pub operations: BTreeMap<String, OperationStats>,
    /// By world rank: the messages of point-to-point calls.
    pub peers: BTreeMap<usize, PeerStats>,
}

/// The cost of one kind of call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationStats {
    /// How often it was called.
    pub calls: u64,
    /// Bytes of the program that went out.
    pub bytes_sent: u64,
    /// Bytes of the program that came in.
    pub bytes_received: u64,
    /// Time inside the call, and in the `wait` and `test` of its request.
    pub time: Duration,
}

/// The messages of one rank with one other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStats {
    /// Messages sent to it.
    pub messages_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Messages received from it.
    pub messages_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
}

/// # Statistics
///
/// What has been sent and waited for.
impl Comm {
    /// What the calls of this rank have cost so far, on all its communicators; empty unless
    /// recorded, by `--stats`, `SPMD_STATS=1` or [`Comm::record_stats`].
    ///
    /// # Examples
    /// ```
    /// let stats = spmd::local(2, |world| {
    ///     world.record_stats(true);
    ///     if world.rank() == 0 {
    ///         world.send(&[1.0, 2.0], 1)?;
    ///     } else {
    ///         world.recv::<f64>(0)?;
    ///     }
    ///     Ok(world.stats())
    /// }).unwrap();
    /// assert_eq!(stats[0].operations["send"].calls, 1);
    /// assert_eq!(stats[0].peers[&1].bytes_sent, 16);
    /// assert_eq!(stats[1].peers[&0].messages_received, 1);
    /// println!("{}", stats[0]);
    /// ```
    pub fn stats(&self) -> Stats {
        self.observer.counters.stats()
    }

    /// Begins or ceases to record what the calls of this rank cost, on all its communicators.
    ///
    /// Costs nothing while off; while on, two looks at the clock per call.
    pub fn record_stats(&self, on: bool) {
        self.observer.set_counting(on);
    }
}

/// What a rank has counted so far.
#[derive(Default)]
pub(super) struct Counters {
    operations: RefCell<HashMap<&'static str, OperationStats>>,
    peers: RefCell<HashMap<usize, PeerStats>>,
}

impl Counters {
    pub(super) fn operation(&self, op: &'static str, note: impl FnOnce(&mut OperationStats)) {
        let op = op.split('(').next().unwrap_or(op); // without the operator of a reduction
        note(self.operations.borrow_mut().entry(op).or_default());
    }

    pub(super) fn peer(&self, world_rank: usize, note: impl FnOnce(&mut PeerStats)) {
        note(self.peers.borrow_mut().entry(world_rank).or_default());
    }

    fn stats(&self) -> Stats {
        let operations = self.operations.borrow();
        Stats {
            operations: operations.iter().map(|(op, stats)| ((*op).to_owned(), *stats)).collect(),
            peers: self.peers.borrow().iter().map(|(rank, stats)| (*rank, *stats)).collect(),
        }
    }
}

impl Stats {
    /// Adds the costs of another rank.
    pub fn add(&mut self, other: &Self) {
        for (op, theirs) in &other.operations {
            let mine = self.operations.entry(op.clone()).or_default();
            mine.calls += theirs.calls;
            mine.bytes_sent += theirs.bytes_sent;
            mine.bytes_received += theirs.bytes_received;
            mine.time += theirs.time;
        }
        for (rank, theirs) in &other.peers {
            let mine = self.peers.entry(*rank).or_default();
            mine.messages_sent += theirs.messages_sent;
            mine.bytes_sent += theirs.bytes_sent;
            mine.messages_received += theirs.messages_received;
            mine.bytes_received += theirs.bytes_received;
        }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<20} {:>10} {:>16} {:>16} {:>12}",
            "operation", "calls", "bytes sent", "bytes received", "time [ms]"
        )?;
        for (op, OperationStats { calls, bytes_sent, bytes_received, time }) in &self.operations {
            let time_ms = 1e3 * time.as_secs_f64();
            write!(
                f,
                "\n{op:<20} {calls:>10} {bytes_sent:>16} {bytes_received:>16} {time_ms:>12.3}"
            )?;
        }
        if self.peers.is_empty() {
            return Ok(());
        }
        write!(
            f,
            "\n\n{:<20} {:>10} {:>16} {:>10} {:>16}",
            "messages with rank", "sent", "bytes sent", "received", "bytes received"
        )?;
        for (rank, peer) in &self.peers {
            let PeerStats { messages_sent, bytes_sent, messages_received, bytes_received } = peer;
            write!(
                f,
                "\n{rank:<20} {messages_sent:>10} {bytes_sent:>16} {messages_received:>10} {bytes_received:>16}"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_recorded_unless_asked_for() {
        let stats = crate::local(2, |world| {
            world.barrier()?;
            Ok(world.stats())
        });
        assert!(stats.unwrap().iter().all(|stats| *stats == Stats::default()));
    }

    #[test]
    fn stats_of_ranks_add_up_and_print_a_line_each() {
        let stats = crate::local(3, |world| {
            world.record_stats(true);
            world.allreduce(&[1.0; 100], crate::op::Sum)?;
            let next = (world.rank() + 1) % 3;
            world.sendrecv(&[1_u8; 5], next, &mut [0_u8; 5], (world.rank() + 2) % 3)?;
            Ok(world.stats())
        });
        let mut total = Stats::default();
        stats.unwrap().iter().for_each(|stats| total.add(stats));
        assert_eq!(total.operations["sendrecv"].calls, 3);
        assert_eq!(total.operations["sendrecv"].bytes_received, 15);
        assert_eq!(total.operations["allreduce"].calls, 3);
        assert!(total.operations["allreduce"].bytes_sent >= 2400);
        assert_eq!(total.peers[&2].messages_sent, 1);
        let lines: Vec<String> = total.to_string().lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 1 + 2 + 1 + 1 + 3, "{total}");
    }
}
