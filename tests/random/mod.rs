//! Random programs: lists of operations that every rank carries out, and what each rank must have got by the end.
//!
//! A program is data, the same on all ranks. [`Program::run`] carries it out on a communicator, [`Program::expected`] says
//! without any communication what each rank must have got. Rounds come one after the other, and within a round no rank waits for a message
//! that is sent only later, so that every program ends.
#![allow(dead_code)] // each user needs a part

use proptest::{collection::vec, prelude::*, sample::Index, strategy::ValueTree, test_runner};
use spmd::{ANY, Comm, Failure, Ragged, Request, prelude::*, wait_all, wait_any, wait_some};

/// What a rank has got, in order.
pub(crate) type Log = Vec<Vec<u64>>;

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

#[derive(Clone, Debug)]
struct Call {
    op: Op,
    root: Index,
    lengths: Vec<usize>,
    blocking: bool,
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

/// Makes the messages of one kind; what this rank receives goes into the log in the order of the list.
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

/// Makes the calls, the non-blocking ones all at once.
fn collectives(
    comm: &Comm,
    step: usize,
    calls: &[Call],
    order: Order,
    log: &mut Log,
) -> Result<(), Failure> {
    let mut got: Vec<Option<Vec<u64>>> = vec![None; calls.len()];
    let (mut places, mut started) = (Vec::new(), Vec::new());
    for (at, call) in calls.iter().enumerate() {
        if call.blocking {
            got[at] = Some(call.run(comm, 1000 * step + at)?);
        } else {
            places.push(at);
            started.push(call.start(comm, 1000 * step + at)?);
        }
    }
    let mut finished = match order {
        Order::Backwards => {
            let mut results = Vec::new();
            while let Some(call) = started.pop() {
                results.push(call()?);
            }
            results.reverse();
            results
        }
        _ => started.into_iter().map(|call| call()).collect::<Result<_, _>>()?,
    };
    for at in places.into_iter().rev() {
        got[at] = finished.pop();
    }
    log.extend(got.into_iter().flatten());
    Ok(())
}

/// What finishes a call that was started.
type Started<'c> = Box<dyn FnOnce() -> Result<Vec<u64>, Failure> + 'c>;

fn done<'c, R: 'c>(request: Request<'c, R>, see: impl FnOnce(R) -> Vec<u64> + 'c) -> Started<'c> {
    Box::new(|| Ok(see(request.wait()?)))
}

fn last(_left: u64, right: u64) -> u64 {
    right
}

/// All numbers of rows, their lengths included.
fn flat(rows: Ragged<u64>) -> Vec<u64> {
    rows.iter().flat_map(|row| [row.len() as u64].into_iter().chain(row.iter().copied())).collect()
}

impl Call {
    fn length(&self, rank: usize) -> usize {
        self.lengths[rank % self.lengths.len()]
    }

    /// The one length of calls that need the same everywhere.
    fn even(&self) -> usize {
        self.lengths[0]
    }

    fn row(&self, step: usize, from: usize, to: usize) -> Vec<u64> {
        values(step, from, to, self.length(from + to))
    }

    fn rows(&self, step: usize, from: usize, size: usize) -> Ragged<u64> {
        Ragged::from_rows((0..size).map(|to| self.row(step, from, to)))
    }

    fn counts(&self, size: usize) -> Vec<usize> {
        (0..size).map(|rank| self.length(rank)).collect()
    }

    fn run(&self, comm: &Comm, step: usize) -> Result<Vec<u64>, Failure> {
        let (rank, size, root) = (comm.rank(), comm.size(), self.root.index(comm.size()));
        let mine = values(step, rank, 0, self.length(rank));
        let even = values(step, rank, 0, self.even());
        let mut out = vec![0; self.even()];
        Ok(match self.op {
            Op::Barrier => {
                comm.barrier()?;
                Vec::new()
            }
            Op::Bcast if self.even().is_multiple_of(2) => comm.bcast(root, || even)?,
            Op::Bcast => {
                if rank == root {
                    out = even;
                }
                comm.bcast_into(root, &mut out)?;
                out
            }
            Op::Gather => comm.gather(root, &mine)?.map(flat).unwrap_or_default(),
            Op::Scatter => comm.scatter(root, || self.rows(step, root, size))?,
            Op::Allgather => flat(comm.allgather(&mine)?),
            Op::Alltoall => flat(comm.alltoall(&self.rows(step, rank, size))?),
            Op::Reduce => comm.reduce(root, &even, Sum)?.unwrap_or_default(),
            Op::Allreduce if self.even().is_multiple_of(2) => comm.allreduce(&even, Max)?,
            Op::Allreduce => {
                comm.allreduce_into(&even, &mut out, Max)?;
                out
            }
            Op::Last => comm.allreduce(&even, last)?,
            Op::ReduceScatter => {
                let counts = self.counts(size);
                let whole = values(step, rank, 0, counts.iter().sum());
                comm.reduce_scatter(&whole, &counts, Sum)?
            }
            Op::Scan => comm.scan(&even, Sum)?,
            Op::Exscan => comm.exscan(&even, last)?.unwrap_or_default(),
        })
    }

    fn start<'c>(&self, comm: &'c Comm, step: usize) -> Result<Started<'c>, Failure> {
        let (rank, size, root) = (comm.rank(), comm.size(), self.root.index(comm.size()));
        let mine = values(step, rank, 0, self.length(rank));
        let even = values(step, rank, 0, self.even());
        Ok(match self.op {
            Op::Barrier => done(comm.ibarrier()?, |()| Vec::new()),
            Op::Bcast => done(comm.ibcast(root, || even)?, |values| values),
            Op::Gather => {
                done(comm.igather(root, mine)?, |rows| rows.map(flat).unwrap_or_default())
            }
            Op::Scatter => {
                done(comm.iscatter(root, || self.rows(step, root, size))?, |values| values)
            }
            Op::Allgather => done(comm.iallgather(mine)?, flat),
            Op::Alltoall => done(comm.ialltoall(self.rows(step, rank, size))?, flat),
            Op::Reduce => done(comm.ireduce(root, even, Sum)?, Option::unwrap_or_default),
            Op::Allreduce => done(comm.iallreduce(even, Max)?, |values| values),
            Op::Last => done(comm.iallreduce(even, last)?, |values| values),
            Op::ReduceScatter => {
                let counts = self.counts(size);
                let whole = values(step, rank, 0, counts.iter().sum());
                done(comm.ireduce_scatter(whole, &counts, Sum)?, |values| values)
            }
            Op::Scan => done(comm.iscan(even, Sum)?, |values| values),
            Op::Exscan => done(comm.iexscan(even, last)?, Option::unwrap_or_default),
        })
    }

    fn expect(&self, rank: usize, size: usize, step: usize) -> Vec<u64> {
        let root = self.root.index(size);
        let of = |from: usize| values(step, from, 0, self.length(from));
        let evens = |ranks: std::ops::Range<usize>, op: fn(u64, u64) -> u64| -> Vec<u64> {
            let rows = ranks.map(|from| values(step, from, 0, self.even()));
            let fold = |left: Vec<u64>, right: Vec<u64>| {
                left.into_iter().zip(right).map(|(left, right)| op(left, right)).collect()
            };
            rows.reduce(fold).unwrap_or_default()
        };
        let on_root = |values: Vec<u64>| if rank == root { values } else { Vec::new() };
        match self.op {
            Op::Barrier => Vec::new(),
            Op::Bcast => values(step, root, 0, self.even()),
            Op::Gather => on_root(flat(Ragged::from_rows((0..size).map(of)))),
            Op::Scatter => self.row(step, root, rank),
            Op::Allgather => flat(Ragged::from_rows((0..size).map(of))),
            Op::Alltoall => {
                flat(Ragged::from_rows((0..size).map(|from| self.row(step, from, rank))))
            }
            Op::Reduce => on_root(evens(0..size, u64::wrapping_add)),
            Op::Allreduce => evens(0..size, u64::max),
            Op::Last => evens(0..size, last),
            Op::ReduceScatter => {
                let counts = self.counts(size);
                let (start, count) = (counts[..rank].iter().sum::<usize>(), counts[rank]);
                let whole: usize = counts.iter().sum();
                let rows = (0..size).map(|from| values(step, from, 0, whole));
                let fold = |left: Vec<u64>, right: Vec<u64>| {
                    left.into_iter().zip(right).map(|(l, r)| l.wrapping_add(r)).collect()
                };
                let sums: Vec<u64> = rows.reduce(fold).unwrap_or_default();
                sums[start..start + count].to_vec()
            }
            Op::Scan => evens(0..rank + 1, u64::wrapping_add),
            Op::Exscan => evens(0..rank, last),
        }
    }
}

/// Programs of up to `rounds` rounds.
pub(crate) fn programs(rounds: usize) -> impl Strategy<Value = Program> {
    let place = prop_oneof![
        3 => Just(Place::World),
        1 => Just(Place::Duplicate),
        1 => Just(Place::Half)
    ];
    let round = (place, what()).prop_map(|(place, what)| Round { place, what });
    vec(round, 1..=rounds).prop_map(|rounds| Program { rounds })
}

/// The programs that a seed stands for, the same in every process.
pub(crate) fn from_seed(seed: u8, count: usize) -> Vec<Program> {
    let rng = test_runner::TestRng::from_seed(test_runner::RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = test_runner::TestRunner::new_with_rng(test_runner::Config::default(), rng);
    let strategy = programs(8);
    let make = |_| strategy.new_tree(&mut runner).expect("the strategy rejects nothing").current();
    (0..count).map(make).collect()
}

/// Empty, short, and round the sizes at which engines change their ways.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        2 => Just(0_usize),
        6 => 1..20_usize,
        3 => 20..300_usize,
        2 => 1000..1100_usize,
        1 => 9000..9010_usize
    ]
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![
        Just(Order::All),
        Just(Order::Backwards),
        Just(Order::Any),
        Just(Order::Some),
        Just(Order::Tested)
    ]
}

fn what() -> impl Strategy<Value = What> {
    let kind =
        prop_oneof![Just(Kind::Bytes), Just(Kind::Words), Just(Kind::Flags), Just(Kind::Triples)];
    let message = (any::<Index>(), any::<Index>(), 0..3_u32, length(), any::<bool>(), kind)
        .prop_map(|(from, to, tag, length, synchronous, kind)| Message {
            from,
            to,
            tag,
            length,
            synchronous,
            kind,
        });
    let style = prop_oneof![
        Just(Style::Blocking),
        order().prop_map(Style::Owned),
        Just(Style::Scoped),
        (1..4_usize).prop_map(Style::Persistent)
    ];
    let op = prop_oneof![
        Just(Op::Barrier),
        Just(Op::Bcast),
        Just(Op::Gather),
        Just(Op::Scatter),
        Just(Op::Allgather),
        Just(Op::Alltoall),
        Just(Op::Reduce),
        Just(Op::Allreduce),
        Just(Op::Last),
        Just(Op::ReduceScatter),
        Just(Op::Scan),
        Just(Op::Exscan)
    ];
    let call = (op, any::<Index>(), vec(length(), 1..6), any::<bool>())
        .prop_map(|(op, root, lengths, blocking)| Call { op, root, lengths, blocking });
    prop_oneof![
        4 => (vec(message, 1..10), style)
            .prop_map(|(messages, style)| What::Messages { messages, style }),
        1 => (any::<Index>(), length()).prop_map(|(steps, length)| What::Circle { steps, length }),
        1 => (any::<Index>(), length()).prop_map(|(root, length)| What::FromAny { root, length }),
        4 => (vec(call, 1..5), order())
            .prop_map(|(calls, order)| What::Collectives { calls, order }),
        1 => (any::<Index>(), length()).prop_map(|(steps, length)| What::Epoch { steps, length }),
    ]
}
