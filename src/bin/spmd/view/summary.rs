//! What a trace says in numbers.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
};

use spmd::trace::{Event, RankTrace, Trace};

use super::timeline::{bytes, duration};

/// The numbers of a trace.
pub(crate) struct Summary<'t> {
    trace: &'t Trace,
    /// From the first rank's beginning to the last one's end.
    pub(crate) time_ns: u64,
    pub(crate) operations: Vec<(&'t str, Operation)>,
    /// By sender and receiver, both places in `trace.ranks`: messages. Empty for many ranks.
    matrix: Vec<Vec<u64>>,
    /// The longest first: the rank, and the call.
    pub(crate) waits: Vec<(usize, &'t Event)>,
    pub(crate) efficiency: Efficiency,
}

/// All calls of one name.
#[derive(Clone, Copy, Default)]
pub(crate) struct Operation {
    pub(crate) calls: u64,
    /// Those that completed what another call had begun.
    completions: u64,
    pub(crate) time_ns: u64,
    pub(crate) waited_ns: u64,
    pub(crate) longest_ns: u64,
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

/// How well the ranks were used, as POP splits it (<https://pop-coe.eu>): the share of useful time
/// is load balance × communication efficiency.
#[derive(Clone, Copy)]
pub(crate) struct Efficiency {
    /// Mean computing time ÷ the largest.
    pub(crate) balance: f64,
    /// The largest computing time ÷ the time of the whole.
    pub(crate) communication: f64,
}

impl Efficiency {
    fn of(trace: &Trace, time_ns: u64) -> Self {
        let computing = |rank: &RankTrace| rank.time_ns().saturating_sub(rank.in_calls_ns()) as f64;
        let most = trace.ranks.iter().map(computing).fold(0.0, f64::max);
        let sum: f64 = trace.ranks.iter().map(computing).sum();
        let mean = sum / trace.ranks.len().max(1) as f64;
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 1.0 };
        Self { balance: share(mean, most), communication: share(most, time_ns as f64).min(1.0) }
    }

    pub(crate) fn parallel(self) -> f64 {
        self.balance * self.communication
    }
}

impl<'t> Summary<'t> {
    /// With so many of the longest waits.
    pub(crate) fn new(trace: &'t Trace, longest: usize) -> Self {
        let began = trace.ranks.iter().map(|rank| rank.began_ns).min().unwrap_or(0);
        let time_ns = trace.end_ns().saturating_sub(began);
        let mut operations: BTreeMap<&str, Operation> = BTreeMap::new();
        let mut waits = Vec::new();
        for rank in &trace.ranks {
            for call in &rank.calls {
                let operation = operations.entry(&*call.name).or_default();
                operation.calls += u64::from(!call.completes);
                operation.completions += u64::from(call.completes);
                operation.longest_ns = operation.longest_ns.max(call.time_ns());
                // A damaged trace may have any numbers.
                for (sum, more) in [
                    (&mut operation.time_ns, call.time_ns()),
                    (&mut operation.waited_ns, call.waited_ns),
                    (&mut operation.sent, call.sent),
                    (&mut operation.received, call.received),
                ] {
                    *sum = sum.saturating_add(more);
                }
                if call.waited_ns > 0 {
                    waits.push((rank.rank, call));
                }
            }
        }
        waits.sort_by_key(|(rank, call)| (u64::MAX - call.waited_ns, *rank));
        waits.truncate(longest);
        // What only completes has a name of its own.
        for operation in operations.values_mut().filter(|operation| operation.calls == 0) {
            operation.calls = operation.completions;
        }
        let mut operations: Vec<_> = operations.into_iter().collect();
        operations.sort_by_key(|(_, operation)| u64::MAX - operation.time_ns);
        let places: BTreeMap<usize, usize> =
            trace.ranks.iter().enumerate().map(|(place, rank)| (rank.rank, place)).collect();
        let shown = if places.len() <= WIDEST_MATRIX { places.len() } else { 0 };
        let mut matrix = vec![vec![0; shown]; shown];
        for message in trace.messages.iter().filter(|_| shown > 0) {
            if let (Some(&from), Some(&to)) = (places.get(&message.from), places.get(&message.to)) {
                matrix[from][to] += 1;
            }
        }
        let efficiency = Efficiency::of(trace, time_ns);
        Self { trace, time_ns, operations, matrix, waits, efficiency }
    }

    /// Messages and their bytes.
    pub(crate) fn messages(&self) -> (u64, u64) {
        let bytes = self.trace.messages.iter().map(|message| message.bytes);
        (self.trace.messages.len() as u64, bytes.fold(0, u64::saturating_add))
    }
}

/// What a reader has to know beside the numbers.
pub(crate) fn remarks(trace: &Trace) -> Vec<String> {
    let left_out = trace.unread.iter().map(|what| format!("left out: {what}"));
    let mut remarks: Vec<String> = left_out.collect();
    let forgotten = trace.ranks.iter().map(|rank| rank.forgotten).fold(0, u64::saturating_add);
    if forgotten > 0 {
        remarks.push(format!(
            "{forgotten} older calls and messages had no room (--trace-buffer MIB): what is shown is the end"
        ));
    }
    if trace.clock_error_ns > 0 {
        let error = duration(trace.clock_error_ns as f64);
        remarks.push(format!("clocks of hosts: compared to {error}"));
    }
    if trace.moved_messages > 0 {
        let count = trace.moved_messages;
        remarks.push(format!(
            "{count} messages would have arrived before they were sent, and were moved"
        ));
    }
    for rank in &trace.ranks {
        if let Some(inside) = &rank.inside {
            remarks
                .push(format!("rank {} did not end: it was last heard of in {inside}", rank.rank));
        }
    }
    remarks
}

/// More ranks have no room beside each other.
const WIDEST_MATRIX: usize = 16;

impl Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Efficiency { balance, communication } = self.efficiency;
        writeln!(f, "{}", self.trace.program)?;
        writeln!(
            f,
            "{} ranks, {}; parallel efficiency {:.0} % = load balance {:.0} % x communication {:.0} %",
            self.trace.ranks.len(),
            duration(self.time_ns as f64),
            100.0 * self.efficiency.parallel(),
            100.0 * balance,
            100.0 * communication
        )?;
        for remark in remarks(self.trace) {
            writeln!(f, "note: {remark}")?;
        }

        writeln!(
            f,
            "\n{:<6} {:<14} {:>10} {:>10} {:>10} {:>10} {:>8} {:>8}",
            "rank", "host", "computing", "in calls", "waiting", "cpu time", "gave up", "lost cpu"
        )?;
        for rank in &self.trace.ranks {
            let (called, waited) = (rank.in_calls_ns(), rank.waited_ns());
            let [given, taken] = rank.switches;
            writeln!(
                f,
                "{:<6} {:<14} {:>10} {:>10} {:>10} {:>10} {given:>8} {taken:>8}",
                rank.rank,
                rank.host,
                duration(rank.time_ns().saturating_sub(called) as f64),
                duration(called as f64),
                duration(waited as f64),
                duration(rank.cpu_ns as f64)
            )?;
        }

        writeln!(
            f,
            "\n{:<22} {:>9} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "operation", "calls", "time", "waiting", "longest", "sent", "received"
        )?;
        for (name, operation) in &self.operations {
            writeln!(
                f,
                "{name:<22} {:>9} {:>10} {:>10} {:>10} {:>10} {:>10}",
                operation.calls,
                duration(operation.time_ns as f64),
                duration(operation.waited_ns as f64),
                duration(operation.longest_ns as f64),
                bytes(operation.sent),
                bytes(operation.received)
            )?;
        }

        let ranks = &self.trace.ranks;
        if !self.trace.messages.is_empty() && !self.matrix.is_empty() {
            write!(f, "\nmessages from (down) to (across)\n{:<6}", "")?;
            for rank in ranks {
                write!(f, " {:>8}", rank.rank)?;
            }
            for (rank, row) in ranks.iter().zip(&self.matrix) {
                write!(f, "\n{:<6}", rank.rank)?;
                for &messages in row {
                    let text = if messages == 0 { ".".to_owned() } else { messages.to_string() };
                    write!(f, " {text:>8}")?;
                }
            }
            writeln!(f)?;
        }

        if !self.waits.is_empty() {
            writeln!(f, "\nthe longest waits")?;
        }
        for (rank, call) in &self.waits {
            let began = duration(call.start_ns as f64);
            let waited = duration(call.waited_ns as f64);
            let (name, place) = (&call.name, &call.place);
            let whom = call.waited_for.as_ref().map_or(String::new(), |whom| {
                format!(" for rank {}: its {}", whom.rank, whom.call)
            });
            writeln!(f, "{waited:>10}  rank {rank} in {name} at {place}{whom} (at {began})")?;
        }
        Ok(())
    }
}
