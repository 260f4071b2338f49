//! What a rank's calls have cost: messages, bytes and time, by operation and by peer.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    fmt,
    hash::{Hash, Hasher},
    panic::Location,
    ptr,
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
    /// The same by call and place in the source: `allreduce at src/main.rs:7`.
    pub places: BTreeMap<String, OperationStats>,
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
    operations: RefCell<HashMap<(&'static str, Place), OperationStats>>,
    peers: RefCell<HashMap<usize, PeerStats>>,
}

/// A place in the source, told apart by its address: to compare the names of files would take
/// longer than many a call. One place may have several addresses.
#[derive(Clone, Copy)]
pub(super) struct Place(pub(super) &'static Location<'static>);

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        ptr::eq(self.0, other.0)
    }
}

impl Eq for Place {}

impl Hash for Place {
    fn hash<H: Hasher>(&self, state: &mut H) {
        ptr::hash(self.0, state);
    }
}

impl Counters {
    pub(super) fn operation(
        &self,
        place: (&'static str, Place),
        note: impl FnOnce(&mut OperationStats),
    ) {
        note(self.operations.borrow_mut().entry(place).or_default());
    }

    pub(super) fn peer(&self, world_rank: usize, note: impl FnOnce(&mut PeerStats)) {
        note(self.peers.borrow_mut().entry(world_rank).or_default());
    }

    fn stats(&self) -> Stats {
        let peers = self.peers.borrow().iter().map(|(rank, stats)| (*rank, *stats)).collect();
        let mut stats = Stats { peers, ..Stats::default() };
        for ((op, Place(at)), cost) in &*self.operations.borrow() {
            let op = op.split('(').next().unwrap_or(op); // without the operator of a reduction
            let place = format!("{op} at {}:{}", at.file(), at.line());
            stats.operations.entry(op.to_owned()).or_default().add(cost);
            stats.places.entry(place).or_default().add(cost);
        }
        stats
    }
}

impl OperationStats {
    fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.time += other.time;
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(earlier.calls),
            bytes_sent: self.bytes_sent.saturating_sub(earlier.bytes_sent),
            bytes_received: self.bytes_received.saturating_sub(earlier.bytes_received),
            time: self.time.saturating_sub(earlier.time),
        }
    }
}

impl PeerStats {
    fn add(&mut self, other: &Self) {
        self.messages_sent += other.messages_sent;
        self.bytes_sent += other.bytes_sent;
        self.messages_received += other.messages_received;
        self.bytes_received += other.bytes_received;
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            messages_sent: self.messages_sent.saturating_sub(earlier.messages_sent),
            bytes_sent: self.bytes_sent.saturating_sub(earlier.bytes_sent),
            messages_received: self.messages_received.saturating_sub(earlier.messages_received),
            bytes_received: self.bytes_received.saturating_sub(earlier.bytes_received),
        }
    }
}

impl Stats {
    /// Adds the costs of another rank, or of another part of the run.
    pub fn add(&mut self, other: &Self) {
        for (op, theirs) in &other.operations {
            self.operations.entry(op.clone()).or_default().add(theirs);
        }
        for (place, theirs) in &other.places {
            self.places.entry(place.clone()).or_default().add(theirs);
        }
        for (rank, theirs) in &other.peers {
            self.peers.entry(*rank).or_default().add(theirs);
        }
    }

    /// What has been added since; without what has not changed.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        fn changed<K: Ord + Clone, C: Copy + Default + PartialEq>(
            now: &BTreeMap<K, C>,
            before: &BTreeMap<K, C>,
            since: impl Fn(&C, &C) -> C,
        ) -> BTreeMap<K, C> {
            let none = C::default();
            let parts = now
                .iter()
                .map(|(key, cost)| (key.clone(), since(cost, before.get(key).unwrap_or(&none))));
            parts.filter(|(_, cost)| *cost != none).collect()
        }
        Self {
            operations: changed(&self.operations, &earlier.operations, OperationStats::since),
            places: changed(&self.places, &earlier.places, OperationStats::since),
            peers: changed(&self.peers, &earlier.peers, PeerStats::since),
        }
    }

    /// The time in all calls together.
    pub fn time(&self) -> Duration {
        self.operations.values().fold(Duration::ZERO, |sum, cost| sum + cost.time)
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
        let (stats, mut total) = (stats.unwrap(), Stats::default());
        for stats in &stats {
            total.add(stats);
        }
        assert_eq!(total.since(&total), Stats::default());
        assert_eq!(total.since(&stats[1]).operations["sendrecv"].calls, 2);
        let place = total.places.keys().next().unwrap();
        assert!(place.starts_with(concat!("allreduce at ", file!(), ":")), "{place}");
        assert_eq!(total.places[place], total.operations["allreduce"]);
        assert_eq!(total.operations["sendrecv"].calls, 3);
        assert_eq!(total.operations["sendrecv"].bytes_received, 15);
        assert_eq!(total.operations["allreduce"].calls, 3);
        assert!(total.operations["allreduce"].bytes_sent >= 2400);
        assert_eq!(total.peers[&2].messages_sent, 1);
        let lines: Vec<String> = total.to_string().lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 1 + 2 + 1 + 1 + 3, "{total}");
    }
}
