//! Who looks on: every call of the program passes here while its costs are counted ([`Stats`]) or
//! a trace of it is made.
//!
//! [`Comm::perform`] and [`Comm::proceed`] are the only ways into the engine; messages tell of
//! themselves where they are handed over. Off, it costs one look at a flag.
//!
//! [`Stats`]: super::Stats

use std::{
    cell::{Cell, RefCell},
    panic::Location,
    time::Duration,
};

use super::{
    Comm, lengths,
    results::Results,
    stats::{Counters, Place},
};
use crate::{
    engine::{Collective, Done, Rank, Received, Tag},
    error::{Call, Result, With},
    placement,
    trace::{CallRecord, Tape, now_ns},
};

/// What a rank's calls are told to; all its communicators share it.
#[derive(Default)]
pub(super) struct Observer {
    /// Whether anything is told.
    on: Cell<bool>,
    counts: Cell<bool>,
    pub(super) counters: Counters,
    tape: RefCell<Option<Tape>>,
    /// The call under way.
    current: Cell<Option<(&'static str, Place)>>,
    /// The bytes that it has sent and received.
    moved: Cell<[u64; 2]>,
    /// What the program has said of its run.
    pub(super) results: RefCell<Results>,
}

impl Observer {
    pub(super) fn is_counting(&self) -> bool {
        self.counts.get()
    }

    /// Begins or ceases to count.
    pub(super) fn set_counting(&self, on: bool) {
        self.counts.set(on);
        self.on.set(on || self.tape.borrow().is_some());
    }

    fn moved(&self, sent: usize, received: usize) {
        let [out, into] = self.moved.get();
        self.moved.set([out + sent as u64, into + received as u64]);
        if let Some(place) = self.current.get().filter(|_| self.counts.get()) {
            self.counters.operation(place, |operation| {
                operation.bytes_sent += sent as u64;
                operation.bytes_received += received as u64;
            });
        }
    }
}

/// A call is under way until this is dropped, also by a panic that the program catches.
struct UnderWay<'o>(&'o Observer);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.current.set(None);
    }
}

/// The time from its making to its end is a span of the program in traces; see [`Comm::span`].
#[must_use = "a span ends when this is dropped"]
pub struct Span<'c> {
    comm: &'c Comm,
    name: &'static str,
    at: &'static Location<'static>,
    start_ns: u64,
}

/// # Traces
///
/// What the program says of itself in them.
impl Comm {
    /// What this rank does from now on, until the result is dropped, is called `name` in traces
    /// (`--trace FILE`): a phase of the program. Spans can lie within each other. Costs nothing
    /// while no trace is made.
    ///
    /// # Examples
    /// ```
    /// spmd::local(2, |world| {
    ///     let _solving = world.span("solve");
    ///     for _ in 0..3 {
    ///         let _step = world.span("step");
    ///         world.barrier()?;
    ///     }
    ///     Ok(())
    /// }).unwrap();
    /// ```
    #[track_caller]
    pub fn span(&self, name: &'static str) -> Span<'_> {
        let start_ns = if self.is_observed() { now_ns() } else { 0 };
        Span { comm: self, name, at: Location::caller(), start_ns }
    }

    /// Every call of this rank is told to `tape` from now on.
    pub(crate) fn begin_trace(&self, tape: Tape) {
        *self.observer.tape.borrow_mut() = Some(tape);
        self.observer.on.set(true);
    }

    /// Calls are told to no tape any more.
    pub(crate) fn end_trace(&self) -> Option<Tape> {
        let tape = self.observer.tape.take();
        self.observer.on.set(self.observer.counts.get());
        tape
    }

    #[inline]
    pub(super) fn is_observed(&self) -> bool {
        self.observer.on.get()
    }

    /// What `body` calls is one call of the program, made by what stands above the communicator.
    pub(crate) fn as_one_call<R>(
        &self,
        op: &'static str,
        starts: bool,
        at: &'static Location<'static>,
        body: impl FnOnce() -> Result<R>,
    ) -> Result<R> {
        if self.is_observed() {
            return self.observe(Call { op, with: With::ALL, at }, starts, body);
        }
        body()
    }

    /// A call that somebody looks at; `starts` if it is not the completion of an earlier one.
    #[cold]
    pub(super) fn observe<R, E>(
        &self,
        call: Call,
        starts: bool,
        body: impl FnOnce() -> Result<R, E>,
    ) -> Result<R, E> {
        let observer = &**self.observer;
        if observer.current.get().is_some() {
            return body(); // a call inside a call is part of it
        }
        let whence = (call.op, Place(call.at));
        observer.current.set(Some(whence));
        let under_way = UnderWay(observer);
        observer.moved.set([0, 0]);
        let (seq, start_ns) = (self.seq.get(), now_ns());
        let traced = observer.tape.borrow().as_ref().map(|tape| {
            let peer = call.with.peer().map_or(NOBODY, |rank| self.number_of(rank));
            let (name, place) = (tape.known_word(call.op), tape.place(call.at));
            tape.enter(start_ns, name, place, peer);
            (name, place, peer)
        });
        let result = body();
        let end_ns = now_ns();
        drop(under_way);
        if let (Some((name, place, peer)), Some(tape)) = (traced, &*observer.tape.borrow()) {
            let [sent, received] = observer.moved.get();
            tape.note(&CallRecord {
                start_ns,
                end_ns,
                sent,
                received,
                peer,
                // Of the first of the collective calls that it makes.
                collective: if self.seq.get() == seq { NOBODY } else { seq as u32 },
                cpu: placement::current_cpu().map_or(NOBODY, |cpu| cpu as u32),
                kind: if starts { CallRecord::CALL } else { CallRecord::COMPLETION },
                ..self.record(tape, name, place)
            });
            tape.leave();
        }
        if observer.counts.get() {
            observer.counters.operation(whence, |operation| {
                operation.calls += u64::from(starts);
                operation.time += Duration::from_nanos(end_ns - start_ns);
            });
        }
        result
    }

    /// Notes a message to a rank.
    #[inline]
    pub(super) fn sent(&self, to: Rank, tag: Tag, bytes: usize) {
        if self.is_observed() {
            self.note_message(CallRecord::SENT, to, tag, bytes);
        }
    }

    /// Notes a message from a rank.
    #[inline]
    pub(super) fn received(&self, Received { rank, tag, bytes }: Received) {
        if self.is_observed() {
            self.note_message(CallRecord::RECEIVED, rank, tag, bytes);
        }
    }

    #[cold]
    fn note_message(&self, kind: u8, rank: Rank, tag: Tag, bytes: usize) {
        let observer = &**self.observer;
        let peer = self.engine.world_rank(self.context, rank);
        let (sent, received) = if kind == CallRecord::SENT { (bytes, 0) } else { (0, bytes) };
        observer.moved(sent, received);
        if observer.counts.get() {
            observer.counters.peer(peer, |peer| {
                peer.messages_sent += u64::from(kind == CallRecord::SENT);
                peer.bytes_sent += sent as u64;
                peer.messages_received += u64::from(kind == CallRecord::RECEIVED);
                peer.bytes_received += received as u64;
            });
        }
        if let Some(tape) = &*observer.tape.borrow() {
            tape.note(&CallRecord {
                kind,
                peer: peer as u32,
                tag: tag.0,
                sent: sent as u64,
                received: received as u64,
                ..self.record(tape, 0, 0)
            });
        }
    }

    /// Notes what a finished operation has brought.
    #[inline]
    pub(super) fn arrived(&self, done: &Done) {
        if self.is_observed() {
            if let Some(received) = done.received {
                self.received(received);
            }
            if let Some(exchanged) = &done.exchanged {
                self.moved(0, lengths::told(&exchanged.counts));
            }
        }
    }

    /// Notes the bytes that a collective takes from this rank and brings to it.
    #[inline]
    pub(super) fn moved(&self, sent: usize, received: usize) {
        if self.is_observed() {
            self.observer.moved(sent, received);
        }
    }

    /// Notes the bytes of a collective.
    #[inline]
    pub(super) fn moved_by(&self, what: &Collective<'_>) {
        if self.is_observed() {
            let (sent, received) = bytes_of(what, Rank::from(self.rank));
            self.observer.moved(sent, received);
        }
    }

    /// A record of this communicator.
    fn record(&self, tape: &Tape, name: u32, place: u32) -> CallRecord {
        CallRecord { name, place, comm: self.word(tape), ..CallRecord::EMPTY }
    }

    /// What the communicator is called in the trace: its size, a number that all its ranks give it
    /// and no other has, and its name.
    fn word(&self, tape: &Tape) -> u32 {
        if let Some(word) = self.traced_as.get() {
            return word;
        }
        let (size, lineage) = (self.size, self.lineage);
        let text = match (lineage, &*self.name.borrow()) {
            (0, _) => format!("{size} 0 world"),
            // Communicators of one split differ by who is in them.
            (_, name) => {
                let first = self.engine.world_rank(self.context, Rank::from(0));
                let name = name.as_deref().unwrap_or("communicator");
                format!("{size} {lineage:x}.{first} {name}")
            }
        };
        let word = tape.word(&text);
        self.traced_as.set(Some(word));
        word
    }

    /// The world rank of a rank that the program has named, which need not be there.
    fn number_of(&self, rank: usize) -> u32 {
        match self.check_rank(rank) {
            Ok(rank) => self.engine.world_rank(self.context, rank) as u32,
            Err(_) => NOBODY,
        }
    }

    /// What tells a communicator made of this one now from others: the same on all its ranks.
    pub(super) fn next_lineage(&self) -> u64 {
        let mixed = (self.lineage ^ self.seq.get()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ (mixed >> 29)).max(1)
    }
}

/// No rank, no number.
const NOBODY: u32 = CallRecord::NONE;

impl Drop for Span<'_> {
    fn drop(&mut self) {
        let Self { comm, name, at, start_ns } = *self;
        if let (1.., Some(tape)) = (start_ns, &*comm.observer.tape.borrow()) {
            let end_ns = now_ns();
            let (name, place) = (tape.known_word(name), tape.place(at));
            let kind = CallRecord::SPAN;
            tape.note(&CallRecord { start_ns, end_ns, kind, ..comm.record(tape, name, place) });
        }
    }
}

/// The bytes of a collective that this rank gives and gets.
fn bytes_of(what: &Collective<'_>, me: Rank) -> (usize, usize) {
    match what {
        Collective::Barrier => (0, 0),
        Collective::Bcast { root, buffer } if *root == me => (buffer.len(), 0),
        Collective::Bcast { buffer, .. } => (0, buffer.len()),
        Collective::Scatter { root, rows, out, .. } => {
            (if *root == me { rows.len() } else { 0 }, out.len())
        }
        Collective::Gather { mine, out, .. }
        | Collective::Allgather { mine, out, .. }
        | Collective::Reduce { mine, out, .. }
        | Collective::Allreduce { mine, out, .. }
        | Collective::ReduceScatter { mine, out, .. }
        | Collective::Scan { mine, out, .. }
        | Collective::Exscan { mine, out, .. }
        | Collective::NeighborAllgather { mine, out, .. } => (mine.len(), out.len()),
        Collective::Alltoall { rows, out, .. } | Collective::NeighborAlltoall { rows, out, .. } => {
            (rows.len(), out.len())
        }
    }
}
