//! Layer 0: what every rank did, when, and for whom it waited; `README.md` beside this file says
//! how.
//!
//! Any program makes a trace with `--trace FILE`: Chrome's trace events, which Perfetto
//! (<https://ui.perfetto.dev>) and `spmd view` show. [`Trace`] is the same for programs.

mod chrome;
mod merge;
mod part;
#[allow(unsafe_code)] // writes into a mapped file; each block states its reasons
mod tape;
#[cfg(test)]
mod tests;
mod waits;

use std::{path::Path, sync::Arc};

pub(crate) use self::{
    part::Part,
    tape::{CallRecord, Clocks, CpuRecord, CpuTape, PartHead, Tape, now_ns},
};

/// What all ranks of a job did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// The program and its arguments.
    pub program: String,
    /// By rank.
    pub ranks: Vec<RankTrace>,
    /// Messages whose sending and receiving are both known, in the order of their sending.
    pub messages: Vec<Message>,
    /// What the clocks of different hosts may differ by, in nanoseconds; 0 on one host.
    pub clock_error_ns: u64,
    /// How many messages would have arrived before they were sent, and were moved.
    pub moved_messages: usize,
    /// Parts that could not be read, each with the reason: what their ranks did is not in the trace.
    pub unread: Vec<String>,
}

/// What one rank did. Times are nanoseconds since the trace began.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RankTrace {
    /// The rank.
    pub rank: usize,
    /// Its host.
    pub host: String,
    /// When it began and ended.
    pub began_ns: u64,
    /// When it ended; when it was last heard of, if it was killed.
    pub ended_ns: u64,
    /// Calls of the communicator, in order.
    pub calls: Vec<Event>,
    /// The program's own spans, in the order of their ends.
    pub spans: Vec<Event>,
    /// What its threads had of the CPUs, in order; empty where the system does not tell.
    pub cpu: Vec<CpuTime>,
    /// How many of the oldest calls and spans were forgotten: there was no room.
    pub forgotten: u64,
    /// How often it gave its CPU up because it waited, and how often it was taken.
    pub switches: [u64; 2],
    /// The CPU time of the rank's own thread, in nanoseconds.
    pub cpu_ns: u64,
    /// What it was in when it was last heard of, if it did not end: the call and its place.
    pub inside: Option<String>,
}

/// A call, or a span of the program.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What it is called: `send`, `allreduce`, the name of a span.
    pub name: Arc<str>,
    /// Where in the program, `cg.rs:88`.
    pub place: Arc<str>,
    /// When it began.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// Whether it waits for what another call has begun: `wait` of a request.
    pub completes: bool,
    /// The communicator, which all its ranks call so.
    pub comm: Arc<str>,
    /// The number of a collective call, the same on all ranks of the communicator.
    pub collective: Option<u32>,
    /// The world rank of the other side, or the root.
    pub peer: Option<usize>,
    /// Bytes that went out.
    pub sent: u64,
    /// Bytes that came in.
    pub received: u64,
    /// The CPU on which it ended, where the system tells.
    pub cpu: Option<usize>,
    /// How long it waited for another rank.
    pub waited_ns: u64,
    /// For whom.
    pub waited_for: Option<Waited>,
}

/// Whom a call waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waited {
    /// The world rank.
    pub rank: usize,
    /// What it came with in the end, and from where: `send at cg.rs:88`.
    pub call: Arc<str>,
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The world rank that sent it.
    pub from: usize,
    /// The world rank that received it.
    pub to: usize,
    /// When its sending began.
    pub sent_ns: u64,
    /// When it was there.
    pub received_ns: u64,
    /// Its length.
    pub bytes: u64,
}

/// What a thread had of the CPUs in a short time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTime {
    /// The thread: 0 is the rank's own, the others are rayon's.
    pub thread: usize,
    /// The time.
    pub start_ns: u64,
    /// Its end.
    pub end_ns: u64,
    /// How long the thread ran.
    pub ran_ns: u64,
    /// How long it could have run, but others had the CPU.
    pub waited_ns: u64,
    /// The CPU on which it was at the end.
    pub cpu: usize,
}

impl Event {
    /// How long it took.
    #[must_use]
    pub fn time_ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns)
    }
}

impl RankTrace {
    /// How long the rank was there.
    #[must_use]
    pub fn time_ns(&self) -> u64 {
        self.ended_ns.saturating_sub(self.began_ns)
    }

    /// How long it was in calls.
    #[must_use]
    pub fn in_calls_ns(&self) -> u64 {
        self.calls.iter().map(Event::time_ns).fold(0, u64::saturating_add)
    }

    /// How long its calls waited for other ranks.
    #[must_use]
    pub fn waited_ns(&self) -> u64 {
        self.calls.iter().map(|call| call.waited_ns).fold(0, u64::saturating_add)
    }
}

impl Trace {
    /// Reads what the ranks of a job have left that did not come to its end: the parts in the
    /// directory `FILE.parts`. What cannot be read of them is told in [`Trace::unread`].
    ///
    /// # Errors
    /// In words: if there is no part, or none that can be read.
    pub fn read_parts(directory: &Path) -> Result<Self, String> {
        let (parts, unread) = part::read_all(directory)?;
        Ok(Self { unread, ..merge::merge(parts) })
    }

    pub(crate) fn of_parts(parts: Vec<Part>) -> Self {
        merge::merge(parts)
    }

    /// When the last rank ended.
    #[must_use]
    pub fn end_ns(&self) -> u64 {
        self.ranks.iter().map(|rank| rank.ended_ns).max().unwrap_or(0)
    }

    /// Some ranks only, and what lies between two times only.
    #[must_use]
    pub fn window(mut self, wanted: impl Fn(usize) -> bool, from_ns: u64, to_ns: u64) -> Self {
        let within = |start: u64, end: u64| end >= from_ns && start <= to_ns;
        self.ranks.retain(|rank| wanted(rank.rank));
        for rank in &mut self.ranks {
            for events in [&mut rank.calls, &mut rank.spans] {
                events.retain(|event| within(event.start_ns, event.end_ns));
                for event in events {
                    event.start_ns = event.start_ns.max(from_ns);
                    event.end_ns = event.end_ns.min(to_ns);
                    event.waited_ns = event.waited_ns.min(event.time_ns());
                }
            }
            rank.cpu.retain(|time| within(time.start_ns, time.end_ns));
            rank.began_ns = rank.began_ns.clamp(from_ns, to_ns);
            rank.ended_ns = rank.ended_ns.clamp(from_ns, to_ns);
        }
        self.messages.retain(|message| {
            (wanted(message.from) && wanted(message.to))
                && within(message.sent_ns, message.received_ns)
        });
        self
    }
}
