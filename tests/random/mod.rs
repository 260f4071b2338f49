//! Random programs: lists of operations that every rank carries out, and what each rank must have
//! got by the end.
//!
//! A program is data, the same on all ranks. [`Program::run`] carries it out on a communicator,
//! [`Program::expected`] says without any communication what each rank must have got. Rounds come
//! one after the other, and within a round no rank waits for a message that is sent only later, so
//! that every program ends.
#![allow(dead_code)] // each user needs a part

mod collectives;
mod make;

use arbitrary::Arbitrary;
use spmd::{
    ANY, Comm, Failure, Request,
    prelude::*,
    request::{wait_all, wait_any, wait_some},
};

use self::collectives::collectives;
#[allow(unused_imports)] // each user needs one
pub(crate) use self::make::{from_seed, many, next, program};

/// What a rank has got, in order.
pub(crate) type Log = Vec<Vec<u64>>;

/// One of as many things as there turn out to be.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub(crate) struct Index(u32);

impl Index {
    pub(crate) fn index(self, count: usize) -> usize {
        self.0 as usize % count
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Program {
    rounds: Vec<Round>,
}

#[derive(Clone, Debug)]
struct Round {
    place: Place,
    what: What,
}

/// The communicator of a round.
#[derive(Clone, Copy, Debug)]
enum Place {
    World,
    Duplicate,
    /// The ranks of equal remainder by 2, in reverse order.
    Half,
}

#[derive(Clone, Debug)]
enum What {
    Messages {
        messages: Vec<Message>,
        style: Style,
    },
    /// Every rank sends to the one `steps` ahead.
    Circle {
        steps: Index,
        length: usize,
    },
    /// Everybody else sends one message to `root`, which takes them as they come.
    FromAny {
        root: Index,
        length: usize,
    },
    Collectives {
        calls: Vec<Call>,
        order: Order,
    },
    /// Everybody changes the part of the rank `steps` ahead.
    Epoch {
        steps: Index,
        length: usize,
    },
}

#[derive(Clone, Debug)]
struct Message {
    from: Index,
    to: Index,
    tag: u32,
    length: usize,
    synchronous: bool,
    kind: Kind,
}

/// The element type of a message.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Bytes,
    Words,
    Flags,
    Triples,
}

#[derive(Clone, Copy, Debug)]
enum Style {
    /// One after the other, in the same order on all ranks.
    Blocking,
    Owned(Order),
    Scoped,
    Persistent(usize),
}

/// In which order requests are waited for.
#[derive(Clone, Copy, Debug)]
enum Order {
    All,
    Backwards,
    Any,
    Some,
    Tested,
}

/// How a collective call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Blocking,
    NonBlocking,
    /// In a plan, which has run once before. All ranks' lengths are the same then.
    Planned,
}

#[derive(Clone, Debug)]
struct Call {
    op: Op,
    root: Index,
    lengths: Vec<usize>,
    manner: Manner,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Barrier,
    Bcast,
    Gather,
    Scatter,
    Allgather,
    Alltoall,
    Reduce,
    Allreduce,
    /// A closure that does not commute.
    Last,
    ReduceScatter,
    Scan,
    Exscan,
}

/// Element `at` of what `from` has for `to` in step `step`.
fn value(step: usize, from: usize, to: usize, at: usize) -> u64 {
    let mixed = (step as u64) << 40 ^ (from as u64) << 28 ^ (to as u64) << 20 ^ at as u64;
    mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8
}

fn values(step: usize, from: usize, to: usize, length: usize) -> Vec<u64> {
    (0..length).map(|at| value(step, from, to, at)).collect()
}

/// What a receiver logs of such values sent as `kind`.
fn seen(kind: Kind, values: &[u64]) -> Vec<u64> {
    let see = |&value: &u64| match kind {
        Kind::Bytes => value & 0xff,
        Kind::Words | Kind::Triples => value,
        Kind::Flags => value & 1,
    };
    values.iter().map(see).collect()
}

/// A type that messages are made of.
trait Element: Datum + Default {
    fn make(value: u64) -> Self;
    fn see(self) -> u64;
}

impl Element for u8 {
    fn make(value: u64) -> Self {
        value as u8
    }
    fn see(self) -> u64 {
        self.into()
    }
}

impl Element for u64 {
    fn make(value: u64) -> Self {
        value
    }
    fn see(self) -> u64 {
        self
    }
}

impl Element for bool {
    fn make(value: u64) -> Self {
        value & 1 == 1
    }
    fn see(self) -> u64 {
        self.into()
    }
}

impl Element for [u64; 3] {
    fn make(value: u64) -> Self {
        [value, !value, value]
    }
    fn see(self) -> u64 {
        if self == Self::make(self[0]) { self[0] } else { u64::MAX }
    }
}

impl Program {
    /// Carries the program out; what this rank has got.
    pub(crate) fn run(&self, world: &Comm) -> Result<Log, Failure> {
        let duplicate = world.dup()?;
        let (color, key) = ((world.rank() % 2) as u32, -(world.rank() as i64));
        let half = world.split(Some(color), key)?.expect("every rank has a color");
        let mut log = Log::new();
        for (step, round) in self.rounds.iter().enumerate() {
            let comm = match round.place {
                Place::World => world,
                Place::Duplicate => &duplicate,
                Place::Half => &half,
            };
            round.what.run(comm, step, &mut log)?;
        }
        Ok(log)
    }

    /// What `rank` of `size` must have got.
    pub(crate) fn expected(&self, rank: usize, size: usize) -> Log {
        let mut log = Log::new();
        for (step, round) in self.rounds.iter().enumerate() {
            let (rank, size) = match round.place {
                Place::World | Place::Duplicate => (rank, size),
                Place::Half => {
                    let members: Vec<usize> =
                        (0..size).rev().filter(|other| other % 2 == rank % 2).collect();
                    let place = members.iter().position(|&member| member == rank);
                    (place.expect("a rank is in its own half"), members.len())
                }
            };
            round.what.expect(rank, size, step, &mut log);
        }
        log
    }
}

impl What {
    fn run(&self, comm: &Comm, step: usize, log: &mut Log) -> Result<(), Failure> {
        let (rank, size) = (comm.rank(), comm.size());
        match self {
            Self::Messages { messages, style } => {
                let all = |kind_of: fn(Kind) -> bool| -> Vec<(usize, &Message)> {
                    messages
                        .iter()
                        .enumerate()
                        .filter(|(_, message)| kind_of(message.kind))
                        .collect()
                };
                // A kind at a time, so that one request type serves.
                exchange::<u8>(comm, step, &all(|kind| matches!(kind, Kind::Bytes)), *style, log)?;
                exchange::<u64>(comm, step, &all(|kind| matches!(kind, Kind::Words)), *style, log)?;
                exchange::<bool>(
                    comm,
                    step,
                    &all(|kind| matches!(kind, Kind::Flags)),
                    *style,
                    log,
                )?;
                exchange::<[u64; 3]>(
                    comm,
                    step,
                    &all(|kind| matches!(kind, Kind::Triples)),
                    *style,
                    log,
                )
            }
            Self::Circle { steps, length } => {
                let steps = steps.index(size);
                let (to, from) = ((rank + steps) % size, (rank + size - steps) % size);
                let mut got = vec![0; *length];
                comm.sendrecv(&values(step, rank, to, *length), to, &mut got, from)?;
                log.push(got);
                Ok(())
            }
            Self::FromAny { root, length } => {
                let (root, tag) = (root.index(size), 1000 + step as u32);
                if rank != root {
                    comm.send(&values(step, rank, root, *length), (root, tag))?;
                    return Ok(());
                }
                let mut rows = vec![Vec::new(); size];
                for _ in 1..size {
                    let (got, status) = comm.recv::<u64>((ANY, tag))?;
                    rows[status.source] = got;
                }
                log.extend(rows);
                Ok(())
            }
            Self::Collectives { calls, order } => collectives(comm, step, calls, *order, log),
            Self::Epoch { steps, length } => {
                let to = (rank + steps.index(size)) % size;
                let mut window = comm.window::<u64>(2 * length)?;
                let mine = values(step, rank, to, *length);
                let fetched = window.epoch(|epoch| {
                    epoch.put(to, 0, &mine)?;
                    epoch.accumulate(0, *length, &mine, Sum)
                });
                fetched?;
                log.push(window.local().to_vec());
                let got = window.epoch(|epoch| epoch.get(to, 0..*length))?;
                log.push(got);
                Ok(())
            }
        }
    }

    fn expect(&self, rank: usize, size: usize, step: usize, log: &mut Log) {
        match self {
            Self::Messages { messages, style } => {
                let kinds: [fn(Kind) -> bool; 4] = [
                    |kind| matches!(kind, Kind::Bytes),
                    |kind| matches!(kind, Kind::Words),
                    |kind| matches!(kind, Kind::Flags),
                    |kind| matches!(kind, Kind::Triples),
                ];
                for kind_of in kinds {
                    let of_kind = messages.iter().enumerate();
                    for (at, message) in of_kind.filter(|(_, message)| kind_of(message.kind)) {
                        if message.to.index(size) == rank {
                            let from = message.from.index(size);
                            let last =
                                if let Style::Persistent(times) = style { *times } else { 1 };
                            let sent = values(step + 100 * last, from, at, message.length);
                            log.push(seen(message.kind, &sent));
                        }
                    }
                }
            }
            Self::Circle { steps, length } => {
                let from = (rank + size - steps.index(size)) % size;
                log.push(values(step, from, rank, *length));
            }
            Self::FromAny { root, length } => {
                if rank == root.index(size) {
                    log.extend((0..size).map(|from| {
                        if from == rank { Vec::new() } else { values(step, from, rank, *length) }
                    }));
                }
            }
            Self::Collectives { calls, .. } => {
                for (at, call) in calls.iter().enumerate() {
                    log.push(call.expect(rank, size, 1000 * step + at));
                }
            }
            Self::Epoch { steps, length } => {
                let steps = steps.index(size);
                let part = |rank: usize| {
                    let from = (rank + size - steps) % size;
                    let mut part = values(step, from, rank, *length);
                    part.extend((0..*length).map(|at| {
                        if rank > 0 {
                            return 0;
                        }
                        let all =
                            (0..size).map(|from| value(step, from, (from + steps) % size, at));
                        all.fold(0_u64, u64::wrapping_add)
                    }));
                    part
                };
                log.push(part(rank));
                log.push(part((rank + steps) % size)[..*length].to_vec());
            }
        }
    }
}

/// Makes the messages of one kind; what this rank receives goes into the log in the order of the
/// list.
fn exchange<T: Element>(
    comm: &Comm,
    step: usize,
    messages: &[(usize, &Message)],
    style: Style,
    log: &mut Log,
) -> Result<(), Failure> {
    let (rank, size) = (comm.rank(), comm.size());
    let make = |times: usize, from: usize, at: usize, length: usize| -> Vec<T> {
        values(step + 100 * times, from, at, length).into_iter().map(T::make).collect()
    };
    let see = |values: &[T]| -> Vec<u64> { values.iter().map(|value| value.see()).collect() };
    let mine = || messages.iter().filter(|(_, message)| message.from.index(size) == rank);
    let theirs = || messages.iter().filter(|(_, message)| message.to.index(size) == rank);
    match style {
        Style::Blocking => {
            for &(at, message) in messages {
                let (from, to) = (message.from.index(size), message.to.index(size));
                let values = || make(1, from, at, message.length);
                if from == to {
                    if rank == from {
                        let sending = comm.isend(values(), (to, message.tag))?;
                        log.push(see(&comm.recv::<T>((from, message.tag))?.0));
                        sending.wait()?;
                    }
                } else if rank == from {
                    if message.synchronous {
                        comm.ssend(&values(), (to, message.tag))?;
                    } else {
                        comm.send(&values(), (to, message.tag))?;
                    }
                } else if rank == to {
                    let mut got = vec![T::default(); message.length];
                    match at % 3 {
                        0 => got = comm.recv((from, message.tag))?.0,
                        1 => drop(comm.recv_into(&mut got, (from, message.tag))?),
                        _ => got = comm.probe((from, message.tag))?.recv()?,
                    }
                    log.push(see(&got));
                }
            }
        }
        Style::Owned(order) => {
            let receiving = theirs().map(|(_, message)| {
                comm.irecv(
                    vec![T::default(); message.length + 1],
                    (message.from.index(size), message.tag),
                )
            });
            let receiving = receiving.collect::<spmd::Result<Vec<_>>>()?;
            let sending = mine().map(|&(at, message)| {
                let to = (message.to.index(size), message.tag);
                let values = make(1, rank, at, message.length);
                if message.synchronous { comm.issend(values, to) } else { comm.isend(values, to) }
            });
            let sending = sending.collect::<spmd::Result<Vec<_>>>()?;
            let got = finish(receiving, order)?;
            log.extend(got.iter().map(|(values, _)| see(values)));
            finish(sending, order)?;
        }
        Style::Scoped => {
            let outgoing: Vec<Vec<T>> =
                mine().map(|&(at, message)| make(1, rank, at, message.length)).collect();
            let mut incoming: Vec<Vec<T>> =
                theirs().map(|(_, message)| vec![T::default(); message.length]).collect();
            comm.scope(|scope| {
                for (into, (_, message)) in incoming.iter_mut().zip(theirs()) {
                    let _ = scope.irecv(into, (message.from.index(size), message.tag))?;
                }
                for (values, (_, message)) in outgoing.iter().zip(mine()) {
                    let _ = scope.isend(values, (message.to.index(size), message.tag))?;
                }
                Ok(())
            })?;
            log.extend(incoming.iter().map(|values| see(values)));
        }
        Style::Persistent(times) => {
            let mut plan = comm.plan();
            let mut ins = Vec::new();
            for (_, message) in theirs() {
                let from = (message.from.index(size), message.tag);
                ins.push(plan.recv(vec![T::default(); message.length], from)?);
            }
            let mut outs = Vec::new();
            for &(at, message) in mine() {
                let room = vec![T::default(); message.length];
                outs.push((at, plan.send(room, (message.to.index(size), message.tag))?));
            }
            for time in 1..=times {
                for &(at, out) in &outs {
                    let values = plan.get_mut(out)?;
                    let length = values.len();
                    values.copy_from_slice(&make(time, rank, at, length));
                }
                plan.start()?;
                plan.wait()?;
            }
            for into in ins {
                log.push(see(plan.get(into)?));
            }
        }
    }
    Ok(())
}

/// Waits for all requests in some order; their results in the order given.
fn finish<R>(requests: Vec<Request<'_, R>>, order: Order) -> Result<Vec<R>, Failure> {
    let count = requests.len();
    let mut results: Vec<Option<R>> = (0..count).map(|_| None).collect();
    match order {
        Order::All => return Ok(wait_all(requests)?),
        Order::Backwards => {
            for (at, request) in requests.into_iter().enumerate().rev() {
                results[at] = Some(request.wait()?);
            }
        }
        Order::Any => {
            let (mut left, mut places) = (requests, (0..count).collect::<Vec<_>>());
            while let Some((at, result)) = wait_any(&mut left)? {
                results[places.remove(at)] = Some(result);
            }
        }
        Order::Some => {
            let (mut left, mut places) = (requests, (0..count).collect::<Vec<_>>());
            while !left.is_empty() {
                // Places are those before anything was taken out, in ascending order.
                for (at, result) in wait_some(&mut left)?.into_iter().rev() {
                    results[places.remove(at)] = Some(result);
                }
            }
        }
        Order::Tested => {
            let mut left: Vec<_> = requests.into_iter().enumerate().collect();
            while let Some((at, request)) = left.pop() {
                match request.test() {
                    Ok(done) => results[at] = Some(done?),
                    Err(request) => {
                        left.insert(0, (at, request));
                        std::thread::yield_now();
                    }
                }
            }
        }
    }
    Ok(results.into_iter().flatten().collect())
}
