//! How a rank carries out its script.

use std::{
    any::Any,
    cell::{OnceCell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind},
};

use spmd::{ANY, Comm, ErrorKind, Failure, Lock, NodeArray, Number, Window, bytemuck, prelude::*};

use super::{
    Access, Act, AtErrors, Circle, Edges, Ending, Extension, Finish, Form, Kind, Make, Message,
    Neighbors, Open, Program, Reach, Receiving, Sending, What,
    call::{Started, rows},
    judge::{Got, Group},
    liar::Liar,
    value::{BEFORE, Element, Stamp, Ty, bytes, elements, with_type},
};

/// How the calls of a rank have ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ends {
    pub(crate) well: u64,
    pub(crate) errors: u64,
    pub(crate) panics: u64,
}

/// How one call has ended.
type Outcome<R> = Result<Result<R, Failure>, Box<dyn Any + Send>>;

/// An element that wants more alignment than allocators give.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(128))]
pub(super) struct Wide([u64; 16]);

enum Memory {
    Bytes(Window<u8>),
    Words(Window<u64>),
    Array(NodeArray<u64>),
    Wide(NodeArray<Wide>),
    WideWindow(Window<Wide>),
}

impl Program {
    /// Carries out this rank's script. `wrong` is told what must not be.
    pub(crate) fn run(
        &self,
        world: &Comm,
        wrong: &(dyn Fn(String) + Sync),
    ) -> Result<Ends, Failure> {
        let comms: [OnceCell<Comm>; 6] = Default::default();
        let mut runner = Runner {
            program: self,
            world,
            comms: &comms,
            windows: Default::default(),
            pending: Vec::new(),
            me: world.rank(),
            ends: Ends::default(),
            wrong,
        };
        runner.run()
    }
}

/// A window, and the rank and size of the communicator it was opened on.
struct Opened(Memory, (usize, usize));

struct Pending<'c> {
    act: Act,
    group: Group,
    finish: Box<dyn FnOnce() -> Result<Got, Failure> + 'c>,
}

struct Runner<'c> {
    program: &'c Program,
    world: &'c Comm,
    comms: &'c [OnceCell<Comm>; 6],
    windows: [Option<Opened>; 3],
    pending: Vec<Pending<'c>>,
    me: usize,
    ends: Ends,
    wrong: &'c (dyn Fn(String) + Sync),
}

impl<'c> Runner<'c> {
    fn run(&mut self) -> Result<Ends, Failure> {
        let program = self.program;
        let script = &program.scripts[self.me];
        for at in 0..=script.acts.len() {
            if let Some((_, ending)) = script.ending.filter(|&(place, _)| place == at) {
                return self.end(ending).map(|()| self.ends);
            }
            let Some(act) = script.acts.get(at) else { break };
            let group = Group::of(self.comm(act.comm));
            let outcome = self.guarded(|runner| runner.act(act));
            let failure = match outcome {
                Ok(Ok(Some(got))) => {
                    self.ends.well += 1;
                    self.judge(&group, act, &got);
                    continue;
                }
                Ok(Ok(None)) => {
                    self.ends.well += 1;
                    continue;
                }
                Ok(Err(failure)) => failure,
                Err(_) => Failure::new("a call panicked"),
            };
            if program.is_right(act) && !ends_job(&failure) {
                self.tell(act, &format!("fails though nothing is wrong: {failure}"));
            }
            match script.at_errors {
                AtErrors::GoesOn => {}
                AtErrors::Leaves => return Ok(self.ends),
                AtErrors::Fails => return Err(failure),
            }
        }
        while let Some(Pending { act, group, finish }) = self.pending.pop() {
            match self.guarded(|_| finish()) {
                Ok(Ok(got)) => self.judge(&group, &act, &got),
                Ok(Err(failure)) if program.mistakes.is_empty() => {
                    self.tell(&act, &format!("fails though nothing is wrong: {failure}"));
                }
                _ => {}
            }
        }
        Ok(self.ends)
    }

    /// What it does, with its panics caught if the script says so.
    fn guarded<R>(&mut self, body: impl FnOnce(&mut Self) -> Result<R, Failure>) -> Outcome<R> {
        let catches = self.program.scripts[self.me].catches;
        let outcome =
            if catches { catch_unwind(AssertUnwindSafe(|| body(self))) } else { Ok(body(self)) };
        match &outcome {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => self.ends.errors += 1,
            Err(_) => self.ends.panics += 1,
        }
        outcome
    }

    fn judge(&self, group: &Group, act: &Act, got: &Got) {
        if let Err(why) = self.program.judge(group, act, got) {
            self.tell(act, &why);
        }
    }

    fn tell(&self, act: &Act, why: &str) {
        (self.wrong)(format!("rank {}, act {}: {why}: {act:?}", self.me, act.id));
    }

    fn comm(&self, place: usize) -> &'c Comm {
        let comms: &'c [OnceCell<Comm>; 6] = self.comms;
        match place {
            0 => self.world,
            _ => comms.get(place - 1).and_then(OnceCell::get).unwrap_or(self.world),
        }
    }

    fn act(&mut self, act: &Act) -> Result<Option<Got>, Failure> {
        let comm = self.comm(act.comm);
        let stamp = self.program.stamp(act, self.me, Stamp::ALL);
        match &act.what {
            What::Collective(call) => {
                let started = call.start(comm, stamp)?;
                self.finish(act, call.finish, started)
            }
            What::Message(message) => {
                with_type!(message.sent.ty, S => with_type!(message.received.ty, R => {
                    self.message::<S, R>(act, message, comm, stamp)
                }))
            }
            What::Circle(circle) => {
                with_type!(circle.ty, T => go_round::<T>(circle, comm, stamp)).map(Some)
            }
            What::Neighbors(neighbors) => {
                with_type!(neighbors.ty, T => meet::<T>(neighbors, comm, stamp)).map(Some)
            }
            What::Make(made) => {
                let new = make(*made, comm)?;
                if let (Some(new), Some(cell)) =
                    (new, self.comms.iter().find(|cell| cell.get().is_none()))
                {
                    let _ = cell.set(new);
                }
                Ok(Some(Got::Nothing))
            }
            What::Open(opened) => {
                let memory = open(*opened, comm)?;
                self.windows[opened.window] = Some(Opened(memory, (comm.rank(), comm.size())));
                Ok(Some(Got::Nothing))
            }
            What::Reach(reached) => {
                let at = reached.window;
                let opened = self.windows[at].as_mut();
                let reach =
                    |Opened(memory, place): &mut Opened| memory.reach(*reached, *place, stamp);
                opened.map(reach).transpose()
            }
            What::Shut { window, close } => {
                let Some(Opened(memory, _)) = self.windows[*window].take() else { return Ok(None) };
                if *close {
                    memory.close()?;
                }
                Ok(Some(Got::Nothing))
            }
            What::Extension { which, length } => extend(*which, *length, comm, stamp).map(Some),
        }
    }

    fn finish(
        &mut self,
        act: &Act,
        how: Finish,
        started: Started<'c>,
    ) -> Result<Option<Got>, Failure> {
        let finish = match started {
            Started::Over(got) => return Ok(Some(got)),
            Started::Pending(finish) => finish,
        };
        match how {
            Finish::Now => finish().map(Some),
            Finish::Later => {
                let group = Group::of(self.comm(act.comm));
                self.pending.push(Pending { act: act.clone(), group, finish });
                Ok(None)
            }
            Finish::Dropped => Ok(None),
            Finish::Forgotten => {
                std::mem::forget(finish);
                Ok(None)
            }
        }
    }

    fn message<S: Element, R: Element>(
        &mut self,
        act: &Act,
        message: &Message,
        comm: &'c Comm,
        stamp: Stamp,
    ) -> Result<Option<Got>, Failure> {
        let size = comm.size();
        let (from, to) = (message.from % size, message.to % size);
        let peer = |peer: usize| if peer < 8 { peer % size } else { peer };
        let tag = |tag: u32| if tag == 0 { 4 * act.id as u32 + 8 } else { tag };
        if from == to {
            return Ok(None);
        }
        if comm.rank() == from {
            let side = &message.sent;
            let whom = (peer(side.peer), tag(side.tag));
            let to = comm.world_rank(to);
            let values: Vec<S> = Stamp { to, ..stamp }.values(side.ty, side.length);
            let started = send(comm, message.sending, Liar::new(values, &side.lie), whom)?;
            return self.finish(act, message.finish, started);
        }
        if comm.rank() == to {
            let side = &message.received;
            let room = Liar::<R>::room(side.length, &side.lie);
            let whom = (peer(side.peer), tag(side.tag));
            let started = if message.any {
                receive(comm, message.receiving, room, (ANY, whom.1))
            } else {
                receive(comm, message.receiving, room, whom)
            };
            return self.finish(act, message.finish, started?);
        }
        Ok(None)
    }

    fn end(&mut self, ending: Ending) -> Result<(), Failure> {
        match ending {
            Ending::Early => Ok(()),
            Ending::Error => Err(Failure::new("this rank has had enough")),
            Ending::Panic => panic!("this rank panics"),
            Ending::PanicsWhenPrinted => Err(Bad { when_printed: true }.into()),
            Ending::PanicsWhenDropped => Err(Bad { when_printed: false }.into()),
            Ending::Keeps => {
                let windows = std::mem::take(&mut self.windows);
                let comm = self.world.dup()?;
                KEPT.with_borrow_mut(|kept| kept.0.push((comm, windows)));
                Ok(())
            }
        }
    }
}

/// Whether the failure only says that the job ends.
fn ends_job(failure: &Failure) -> bool {
    let kind = failure.as_error().map(spmd::Error::kind);
    matches!(kind, Some(ErrorKind::Aborted { .. } | ErrorKind::Deadlock { .. }))
}

/// An error that makes trouble itself.
#[derive(Debug)]
struct Bad {
    when_printed: bool,
}

impl std::fmt::Display for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        assert!(!self.when_printed, "this error panics when it is printed");
        f.write_str("bad")
    }
}

impl std::error::Error for Bad {}

impl Drop for Bad {
    fn drop(&mut self) {
        assert!(
            self.when_printed || std::thread::panicking(),
            "this error panics when it is dropped"
        );
    }
}

/// What was kept beyond the run is used once more at the end of the thread.
struct Kept(Vec<(Comm, [Option<Opened>; 3])>);

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept(Vec::new())) };
}

impl Drop for Kept {
    fn drop(&mut self) {
        for (comm, mut windows) in self.0.drain(..) {
            let used = catch_unwind(AssertUnwindSafe(|| {
                let _ = comm.barrier();
                let _ = comm.dup();
                let _ = comm.send(&[1_u8], 0);
                let _ = comm.window::<u64>(8);
                for Opened(memory, place) in windows.iter_mut().flatten() {
                    let stamp = Stamp { program: 0, act: 0, from: 0, to: 0 };
                    for how in [Access::Local, Access::Put] {
                        let reach = Reach { window: 0, how, steps: 0, offset: 0, length: 1 };
                        let _ = memory.reach(reach, *place, stamp);
                    }
                }
            }));
            drop(used);
            let _ = catch_unwind(AssertUnwindSafe(|| drop(windows)));
            let _ = catch_unwind(AssertUnwindSafe(|| drop(comm)));
        }
    }
}

/// Uses what the thread has kept beyond its run.
pub(crate) fn use_what_was_kept() {
    drop(KEPT.replace(Kept(Vec::new())));
}

fn send<T: Element>(
    comm: &Comm,
    how: Sending,
    values: Liar<T>,
    to: (usize, u32),
) -> Result<Started<'_>, Failure> {
    match how {
        Sending::Standard => comm.send(&values, to)?,
        Sending::Synchronous => comm.ssend(&values, to)?,
        Sending::Scoped => comm.scope(|scope| scope.isend(&values, to).map(drop))?,
        Sending::Exchange => {
            comm.sendrecv(&values, to, &mut Vec::<T>::new(), None)?;
        }
        Sending::Planned => {
            let mut plan = comm.plan();
            plan.send(values.into_values(), to)?;
            plan.start()?;
            return Ok(Started::Pending(Box::new(move || {
                Ok(plan.wait().map(|()| Got::Nothing)?)
            })));
        }
        Sending::Owned | Sending::OwnedSynchronous => {
            let values = values.into_values();
            let request = match how {
                Sending::Owned => comm.isend(values, to)?,
                _ => comm.issend(values, to)?,
            };
            return Ok(Started::Pending(Box::new(move || {
                Ok(request.wait().map(|_| Got::Nothing)?)
            })));
        }
    }
    Ok(Started::Over(Got::Nothing))
}

/// What came, and what stands in the buffer behind it.
fn came<T: Element>(source: usize, count: usize, buffer: &[T]) -> Got {
    if source == spmd::NULL_RANK {
        return Got::Nothing;
    }
    let (message, rest) = buffer.split_at(count.min(buffer.len()));
    // A status of more than there is room for is no message that anybody sent.
    let mut message = bytes(message);
    message.resize(count * size_of::<T>(), 0);
    Got::Message(source, message, bytes(rest))
}

fn receive<T: Element>(
    comm: &Comm,
    how: Receiving,
    mut room: Liar<T>,
    from: impl Into<spmd::Src> + Copy,
) -> Result<Started<'_>, Failure> {
    let over = |got| Ok(Started::Over(got));
    let status = match how {
        Receiving::Any => {
            let (values, status) = comm.recv::<T>(from)?;
            return over(came(status.source, status.count, &values));
        }
        Receiving::One => {
            let (value, status) = comm.recv_one::<T>(from)?;
            return over(came(status.source, status.count, &[value]));
        }
        Receiving::Probed => {
            let message = comm.probe(from)?;
            let source = message.source();
            let values = message.recv::<T>()?;
            return over(came(source, values.len(), &values));
        }
        Receiving::Planned => {
            let mut plan = comm.plan();
            let buffer = plan.recv(room.into_values(), from)?;
            plan.start()?;
            return Ok(Started::Pending(Box::new(move || {
                plan.wait()?;
                let status = plan.status(buffer)?;
                Ok(came(status.source, status.count, plan.get(buffer)?))
            })));
        }
        Receiving::Owned => {
            let request = comm.irecv(room.into_values(), from)?;
            return Ok(Started::Pending(Box::new(move || {
                let (values, status) = request.wait()?;
                Ok(came(status.source, status.count, &values))
            })));
        }
        Receiving::Cancelled => {
            let request = comm.irecv(room.into_values(), from)?;
            let got = request.cancel()?;
            let see = |(values, status): (Vec<T>, spmd::Status)| {
                came(status.source, status.count, &values)
            };
            return over(got.map_or(Got::Nothing, see));
        }
        Receiving::Into => comm.recv_into(&mut room, from)?,
        Receiving::ProbedInto => comm.probe(from)?.recv_into(&mut room)?,
        Receiving::Exchange => comm.sendrecv(&Vec::<T>::new(), None, &mut room, from)?,
        Receiving::Scoped => comm.scope(|scope| Ok(scope.irecv(&mut room, from)?.wait()?.1))?,
    };
    over(came(status.source, status.count, &room.into_values()))
}

fn go_round<T: Element>(circle: &Circle, comm: &Comm, stamp: Stamp) -> Result<Got, Failure> {
    let (rank, size) = (comm.rank(), comm.size());
    let steps = circle.steps % size;
    let (to, from) = ((rank + steps) % size, (rank + size - steps) % size);
    let stamp = Stamp { to: comm.world_rank(to), ..stamp };
    let mut mine = Liar::<T>::new(stamp.values(circle.ty, circle.length), &circle.mine);
    let mut out = Liar::<T>::room(circle.room, &circle.out);
    let status = if circle.replace {
        let status = comm.sendrecv_replace(&mut mine, to, from)?;
        // What stands behind a shorter message is what was sent.
        let values = mine.into_values();
        let count = status.count.min(values.len());
        return Ok(came(status.source, status.count, &values[..count]));
    } else {
        comm.sendrecv(&mine, to, &mut out, from)?
    };
    Ok(came(status.source, status.count, &out.into_values()))
}

fn meet<T: Element>(neighbors: &Neighbors, comm: &Comm, stamp: Stamp) -> Result<Got, Failure> {
    let (rank, size) = (comm.rank(), comm.size());
    let (before, after) = ((rank + size - 1) % size, (rank + 1) % size);
    let values = || -> Vec<T> { stamp.values(neighbors.ty, neighbors.length) };
    let by_place = |ragged: Ragged<T>, sources: &[usize]| {
        let rows = ragged.iter().map(bytes).enumerate();
        Got::Rows(rows.map(|(at, row)| (sources.get(at).copied().unwrap_or(size), row)).collect())
    };
    let room = |count: usize| Liar::<T>::room(count * neighbors.length, &neighbors.out);
    let cut =
        |values: Vec<T>, count: usize| Ragged::from_flat(values, vec![neighbors.length; count]);
    let mine = || Liar::new(values(), &neighbors.mine);
    if neighbors.cart {
        let Some(grid) = comm.cart([Some(size)], [true])? else { return Ok(Got::Nothing) };
        let sources = [before, after];
        let twice = || Ragged::from_rows([values(), values()]);
        let got = match (neighbors.all, neighbors.form) {
            (true, Form::Into) => {
                let mut out = room(2);
                grid.neighbor_allgather_into(&mine(), &mut out)?;
                cut(out.into_values(), 2)
            }
            (false, Form::Into) => {
                let mut out = room(2);
                let both = Liar::new(values().repeat(2), &neighbors.mine);
                grid.neighbor_alltoall_into(&both, &mut out)?;
                cut(out.into_values(), 2)
            }
            (true, Form::NonBlocking) => grid.ineighbor_allgather(values())?.wait()?,
            (false, Form::NonBlocking) => grid.ineighbor_alltoall(twice())?.wait()?,
            (true, _) => grid.neighbor_allgather(&mine())?,
            (false, _) => grid.neighbor_alltoall(&twice())?,
        };
        return Ok(by_place(got, &sources));
    }
    let (sources, destinations) = match neighbors.edges {
        Edges::Ring => (vec![before], vec![after]),
        Edges::None => (Vec::new(), vec![after]),
        Edges::Twice => (vec![before, before], vec![after]),
        Edges::Beyond => (vec![before], vec![size + 1]),
    };
    let graph = comm.graph(&sources, &destinations)?;
    let got = match (neighbors.all, neighbors.form) {
        (true, Form::Into) => {
            let mut out = room(sources.len());
            graph.neighbor_allgather_into(&mine(), &mut out)?;
            cut(out.into_values(), sources.len())
        }
        (false, Form::Into) => {
            let mut out = room(sources.len());
            graph.neighbor_alltoall_into(&mine(), &mut out)?;
            cut(out.into_values(), sources.len())
        }
        (true, Form::NonBlocking) => graph.ineighbor_allgather(values())?.wait()?,
        (false, Form::NonBlocking) => {
            graph.ineighbor_alltoall(Ragged::from_rows([values()]))?.wait()?
        }
        (true, _) => graph.neighbor_allgather(&mine())?,
        (false, _) => graph.neighbor_alltoall(&Ragged::from_rows([values()]))?,
    };
    Ok(by_place(got, &sources))
}

fn make(made: Make, comm: &Comm) -> Result<Option<Comm>, Failure> {
    let (rank, size) = (comm.rank(), comm.size());
    Ok(match made {
        Make::Dup => Some(comm.dup()?),
        Make::Split(colors) => comm.split(Some(rank as u32 % colors), -(rank as i64))?,
        Make::Node => Some(comm.split_node()?),
        Make::Subset(true) => comm.subset(&(0..size).collect::<Vec<_>>())?,
        Make::Subset(false) => comm.subset(&[rank, size])?,
        Make::Shared => {
            // MPI need not serve several threads.
            let shared = comm.shared();
            let refused =
                |error: &spmd::Error| matches!(error.kind(), ErrorKind::Unsupported { .. });
            if !shared.as_ref().is_err_and(refused) {
                shared?;
            }
            None
        }
        Make::Cart(0, 1) => {
            comm.cart([None, Some(1)], [true, false])?;
            None
        }
        Make::Cart(rows, columns) => {
            comm.cart([Some(rows), Some(columns)], [true, false])?;
            None
        }
    })
}

fn open(opened: Open, comm: &Comm) -> Result<Memory, Failure> {
    let length = opened.length;
    Ok(match opened.kind {
        Kind::Bytes => Memory::Bytes(comm.window(length)?),
        Kind::Words => Memory::Words(comm.window(length)?),
        Kind::Array => Memory::Array(comm.node_array(length)?),
        Kind::Wide => Memory::Wide(comm.node_array(length)?),
        Kind::WideWindow => Memory::WideWindow(comm.window(length)?),
    })
}

impl Memory {
    fn close(self) -> Result<(), Failure> {
        match self {
            Self::Bytes(window) => window.close()?,
            Self::Words(window) => window.close()?,
            Self::WideWindow(window) => window.close()?,
            Self::Array(array) => array.close()?,
            Self::Wide(array) => array.close()?,
        }
        Ok(())
    }

    fn reach(&mut self, reach: Reach, place: (usize, usize), stamp: Stamp) -> Result<Got, Failure> {
        match self {
            Self::Bytes(window) => reach_window(window, Ty::Byte, reach, place, stamp),
            Self::Words(window) => reach_window(window, Ty::Word, reach, place, stamp),
            Self::Array(array) => {
                let mine: Vec<u64> = stamp.values(Ty::Word, reach.length);
                array
                    .write(|part| part.iter_mut().zip(&mine).for_each(|(own, &new)| *own = new))?;
                let all = array.read(|all, _| all.to_vec())?;
                Ok(Got::Loose(bytes(&all)))
            }
            Self::Wide(array) => {
                array.write(|part| part.fill(Wide([1; 16])))?;
                let right = array.read(|all, _| all.iter().all(|wide| wide.0[15] <= 1))?;
                assert!(right, "nobody writes anything else");
                Ok(Got::Nothing)
            }
            Self::WideWindow(window) => {
                window.local_mut().fill(Wide([1; 16]));
                window.epoch(|_| Ok(()))?;
                Ok(Got::Nothing)
            }
        }
    }
}

fn reach_window<T: Element + spmd::Plain + Number>(
    window: &mut Window<T>,
    ty: Ty,
    reach: Reach,
    (rank, size): (usize, usize),
    stamp: Stamp,
) -> Result<Got, Failure> {
    let Reach { how, offset, length, .. } = reach;
    let steps = if reach.steps < 4 { reach.steps % size } else { reach.steps };
    let target = if steps < size { (rank + steps) % size } else { steps };
    let before = (rank + size - steps % size) % size;
    let mine: Vec<T> = stamp.values(ty, length);
    match how {
        Access::Put => {
            window.epoch(|epoch| epoch.put(target, offset, &mine))?;
            let got = window.local().get(offset..offset.saturating_add(length)).map(bytes);
            Ok(if ty == Ty::Word {
                Got::Rows(vec![(before, got.unwrap_or_default())])
            } else {
                Got::Nothing
            })
        }
        Access::Accumulate => {
            let got = window.epoch(|epoch| {
                epoch.accumulate(target, offset, &mine, Sum)?;
                epoch.get(target, offset..offset.wrapping_add(length))
            })?;
            Ok(Got::Loose(bytes(&got)))
        }
        Access::Lock => {
            let got = window.passive(|phase| {
                phase.lock(target, Lock::Exclusive, |part| {
                    part.put(offset, &mine)?;
                    part.get(offset..offset.wrapping_add(length))
                })
            })?;
            Ok(Got::Loose(bytes(&got)))
        }
        Access::Local => {
            let part = window.local_mut();
            part.iter_mut()
                .zip(elements(&vec![BEFORE; size_of_val(&mine[..])]))
                .for_each(|(own, new)| *own = new);
            Ok(Got::Loose(bytes(window.local())))
        }
        Access::Panics => {
            window.epoch(|_| -> spmd::Result<()> { panic!("the body of the epoch panics") })?;
            Ok(Got::Nothing)
        }
        Access::Fails => {
            window.epoch(|epoch| epoch.put(size, 0, &mine))?;
            Ok(Got::Nothing)
        }
    }
}

fn extend(which: Extension, length: usize, comm: &Comm, stamp: Stamp) -> Result<Got, Failure> {
    let (rank, size) = (comm.rank(), comm.size());
    let (before, after) = ((rank + size - 1) % size, (rank + 1) % size);
    let mine: Vec<u64> = stamp.values(Ty::Word, length);
    Ok(match which {
        Extension::Sparse => {
            let got = comm.exchange_sparse([(after, mine)])?;
            Got::Rows(got.iter().map(|(from, row)| (*from, bytes(row))).collect())
        }
        Extension::Sort => Got::Loose(bytes(&comm.sort(mine)?)),
        Extension::Grid => {
            rows(comm.alltoall_grid(&Ragged::from_rows((0..size).map(|_| mine.clone())))?)
        }
        Extension::BcastObject => {
            let got: Vec<u64> = comm.bcast_obj(0, || mine)?;
            Got::Rows(vec![(0, bytes(&got))])
        }
        Extension::GatherObject => {
            let got = comm.gather_obj(0, &mine)?.unwrap_or_default();
            Got::Rows(got.iter().map(|row| bytes(row)).enumerate().collect())
        }
        Extension::AllreduceObject => Got::Loose(bytes(&comm.allreduce_obj(mine, Ord::max)?)),
        Extension::Agree => {
            let _agreed = comm.agree_result(
                if length.is_multiple_of(4) { Err("no") } else { Ok(()) }.map_err(Failure::new),
            );
            Got::Nothing
        }
        Extension::Ordered => {
            comm.in_rank_order(|| ())?;
            Got::Nothing
        }
        Extension::Exact => {
            comm.sum_reproducible(&elements::<f64>(&bytes(&mine)))?;
            Got::Nothing
        }
        Extension::Nested => {
            let tag = 4 * stamp.act as u32 + 8;
            let mut room = vec![0_u64; length];
            comm.scope(|outer| {
                let ticket = outer.irecv(&mut room, (before, tag))?;
                outer.isend(&mine, (after, tag))?;
                // Whether it is refused is not the question here.
                let _ = catch_unwind(AssertUnwindSafe(|| {
                    comm.scope(move |inner| inner.wait_any(&mut vec![ticket]).map(drop))
                }));
                Ok(())
            })?;
            Got::Loose(bytes(&room))
        }
    })
}
