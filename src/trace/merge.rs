//! Parts of all ranks become one trace: on one clock, with messages paired.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::{CallRecord, CpuTime, Event, Message, Part, RankTrace, Trace, waits};

const NONE: u32 = CallRecord::NONE;

/// One end of a message: by communicator, sender, receiver and tag.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Route {
    comm: Arc<str>,
    from: usize,
    to: usize,
    tag: u32,
}

/// Where a message was sent or received: the rank's place in the trace, its call, and the bytes.
#[derive(Clone, Copy)]
pub(super) struct End {
    pub(super) rank: usize,
    pub(super) call: usize,
    bytes: u64,
}

/// A message with the calls on both sides.
pub(super) struct Pair {
    pub(super) sent: End,
    pub(super) received: End,
}

/// Texts, each kept once.
#[derive(Default)]
pub(super) struct Texts(HashMap<String, Arc<str>>);

impl Texts {
    pub(super) fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = text.into();
        self.0.insert(text.to_owned(), Arc::clone(&new));
        new
    }
}

/// A rank's clock, put right.
struct Clock {
    origin: i64,
    head: super::PartHead,
}

impl Clock {
    /// A time of the rank on rank 0's clock.
    fn common(&self, local: u64) -> i64 {
        let (first, last) = (self.head.first, self.head.last);
        let behind = if last.at_ns > first.at_ns {
            let share =
                (local as f64 - first.at_ns as f64) / last.at_ns.saturating_sub(first.at_ns) as f64;
            first.behind_ns as f64 + share * last.behind_ns.saturating_sub(first.behind_ns) as f64
        } else {
            first.behind_ns as f64
        };
        (local as i64).saturating_add(behind as i64)
    }

    /// A time of the rank since the trace began.
    fn ns(&self, local: u64) -> u64 {
        self.common(local).saturating_sub(self.origin).max(0) as u64
    }
}

pub(super) fn merge(mut parts: Vec<Part>) -> Trace {
    parts.sort_by_key(|part| part.head.rank);
    let mut clocks: Vec<Clock> =
        parts.iter().map(|part| Clock { origin: 0, head: part.head }).collect();
    let began = clocks.iter().map(|clock| clock.common(clock.head.began_ns)).min().unwrap_or(0);
    for clock in &mut clocks {
        clock.origin = began;
    }

    let mut texts = Texts::default();
    let (mut sends, mut receives) = (HashMap::new(), HashMap::new());
    let (mut comms, mut sizes) = (HashMap::new(), HashMap::new());
    let mut ranks = Vec::with_capacity(parts.len());
    for (place, (part, clock)) in parts.iter().zip(&clocks).enumerate() {
        let (texts, comms, sizes) = (&mut texts, &mut comms, &mut sizes);
        let mut reader = Reader { part, clock, texts, comms, sizes };
        ranks.push(reader.rank(place, &mut sends, &mut receives));
    }
    let mut trace = Trace {
        program: parts.first().map_or("", |part| part.word(2)).to_owned(),
        clock_error_ns: parts
            .iter()
            .map(|part| part.head.first.error_ns.max(part.head.last.error_ns))
            .max()
            .unwrap_or(0),
        ranks,
        ..Trace::default()
    };
    let pairs = pair(&sends, &mut receives);
    waits::find(&mut trace, &pairs, &sizes, &mut texts);
    for Pair { sent, received } in &pairs {
        let (from, to) = (&trace.ranks[sent.rank], &trace.ranks[received.rank]);
        let sent_ns = from.calls[sent.call].start_ns;
        let arrived_ns = to.calls[received.call].end_ns;
        trace.moved_messages += usize::from(arrived_ns < sent_ns);
        trace.messages.push(Message {
            from: from.rank,
            to: to.rank,
            sent_ns,
            received_ns: arrived_ns.max(sent_ns),
            bytes: sent.bytes,
        });
    }
    trace.messages.sort_by_key(|message| message.sent_ns);
    trace
}

type Ends = HashMap<Route, VecDeque<End>>;

struct Reader<'a> {
    part: &'a Part,
    clock: &'a Clock,
    texts: &'a mut Texts,
    /// The name of a communicator, by its number.
    comms: &'a mut HashMap<String, Arc<str>>,
    /// How many ranks a communicator has.
    sizes: &'a mut HashMap<Arc<str>, usize>,
}

impl Reader<'_> {
    fn rank(&mut self, place: usize, sends: &mut Ends, receives: &mut Ends) -> RankTrace {
        let head = self.part.head;
        let rank = head.rank as usize;
        let (mut calls, mut spans, mut open) = (Vec::new(), Vec::new(), Vec::new());
        for record in &self.part.calls {
            match record.kind {
                CallRecord::SENT | CallRecord::RECEIVED => open.push(*record),
                CallRecord::SPAN => spans.push(self.event(record)),
                _ => {
                    let event = self.event(record);
                    for message in open.drain(..) {
                        let comm = self.comm(message.comm);
                        let (peer, tag) = (message.peer as usize, message.tag);
                        let (sent, bytes) = (
                            message.kind == CallRecord::SENT,
                            message.sent.saturating_add(message.received),
                        );
                        let (from, to) = if sent { (rank, peer) } else { (peer, rank) };
                        let ends = if sent { &mut *sends } else { &mut *receives };
                        let route = Route { comm, from, to, tag };
                        let end = End { rank: place, call: calls.len(), bytes };
                        ends.entry(route).or_default().push_back(end);
                    }
                    calls.push(event);
                }
            }
        }
        let times = self.part.cpu.iter().map(|record| self.cpu_time(record)).collect();
        let cpu = waiting_where_it_was(times);
        let heard = calls.last().map_or(0, |call| call.end_ns);
        let heard = heard.max(cpu.last().map_or(0, |time| time.end_ns));
        let ended_ns = if head.ended_ns > 0 { self.clock.ns(head.ended_ns) } else { heard };
        let inside = (head.ended_ns == 0 && head.inside_ns > 0).then(|| {
            let name = without_operator(self.part.word(head.inside_name));
            let place = self.part.word(head.inside_place);
            let whom = match head.inside_peer {
                NONE => String::new(),
                peer => format!(" with rank {peer}"),
            };
            format!("{name}{whom} at {place}")
        });
        let began_ns = self.clock.ns(head.began_ns);
        let ended_ns = ended_ns.max(began_ns).max(self.clock.ns(head.inside_ns));
        RankTrace {
            rank,
            host: self.part.word(1).to_owned(),
            began_ns,
            ended_ns,
            calls,
            spans,
            cpu,
            forgotten: self.part.forgotten,
            switches: head.switches,
            cpu_ns: head.cpu_ns,
            inside,
        }
    }

    fn event(&mut self, record: &CallRecord) -> Event {
        let start_ns = self.clock.ns(record.start_ns);
        let number = |number: u32| (number != NONE).then_some(number);
        Event {
            name: self.texts.get(without_operator(self.part.word(record.name))),
            place: self.texts.get(self.part.word(record.place)),
            start_ns,
            end_ns: self.clock.ns(record.end_ns).max(start_ns),
            completes: record.kind == CallRecord::COMPLETION,
            comm: self.comm(record.comm),
            collective: number(record.collective),
            peer: number(record.peer).map(|peer| peer as usize),
            sent: record.sent,
            received: record.received,
            cpu: number(record.cpu).map(|cpu| cpu as usize),
            waited_ns: 0,
            waited_for: None,
        }
    }

    fn cpu_time(&self, record: &super::CpuRecord) -> CpuTime {
        let start_ns = self.clock.ns(record.start_ns);
        CpuTime {
            thread: record.thread as usize,
            start_ns,
            end_ns: self.clock.ns(record.end_ns).max(start_ns),
            ran_ns: record.ran_ns,
            waited_ns: record.waited_ns,
            cpu: record.cpu as usize,
        }
    }

    /// What a communicator is called, the same on all its ranks.
    fn comm(&mut self, word: u32) -> Arc<str> {
        let text = self.part.word(word);
        let (size, rest) = text.split_once(' ').unwrap_or(("0", text));
        let (number, name) = rest.split_once(' ').unwrap_or((rest, ""));
        if let Some(name) = self.comms.get(number) {
            return Arc::clone(name);
        }
        // Each rank may name it as it likes; and two may have one name.
        let mut name = name.to_owned();
        while self.sizes.contains_key(&*name) {
            name.push('\'');
        }
        let name: Arc<str> = name.into();
        self.comms.insert(number.to_owned(), Arc::clone(&name));
        self.sizes.insert(Arc::clone(&name), size.parse().unwrap_or(0));
        name
    }
}

/// The system counts the time for which a thread has waited for a CPU when the thread gets one: all
/// at once, and too late. It belongs to the end of the time before in which the thread did not run.
fn waiting_where_it_was(mut times: Vec<CpuTime>) -> Vec<CpuTime> {
    times.sort_by_key(|time| (time.thread, time.start_ns));
    let mut found: Vec<CpuTime> = Vec::with_capacity(times.len());
    let mut owed = 0;
    for mut time in times.into_iter().rev() {
        if found.last().is_some_and(|later| later.thread != time.thread) {
            owed = 0;
        }
        owed = time.waited_ns.saturating_add(owed);
        let length = time.end_ns - time.start_ns;
        time.waited_ns = owed.min(length.saturating_sub(time.ran_ns));
        owed -= time.waited_ns;
        if time.ran_ns == 0 && (1..length).contains(&time.waited_ns) {
            // It rested first, and wanted a CPU then.
            let since_ns = time.end_ns - time.waited_ns;
            found.push(CpuTime { start_ns: since_ns, ..time });
            (time.end_ns, time.waited_ns) = (since_ns, 0);
        }
        found.push(time);
    }
    found.sort_by_key(|time| (time.start_ns, time.thread));
    found
}

/// A name without the operator of a reduction.
fn without_operator(name: &str) -> &str {
    name.split('(').next().unwrap_or(name)
}

/// Sends and receives of one route belong together in their order.
fn pair(sends: &Ends, receives: &mut Ends) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for (route, sent) in sends {
        let Some(received) = receives.get_mut(route) else { continue };
        // Where the oldest are forgotten on one side, the last ones belong together.
        let both = sent.len().min(received.len());
        let sent = sent.iter().skip(sent.len() - both);
        let received = received.iter().skip(received.len() - both);
        pairs.extend(sent.zip(received).map(|(&sent, &received)| Pair { sent, received }));
    }
    pairs
}
