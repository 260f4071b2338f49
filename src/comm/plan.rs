//! Operations that are built once and started again and again, with buffers of their own.
//!
//! While a plan is under way the engine reads and writes the buffers; between starts they are the
//! program's. They are on the heap and stay where they are from the building to the end of the
//! plan, so that an engine can prepare for them ([`Preparation`]). One that does not gets the same
//! operations anew at each start.

mod collectives;
#[allow(unsafe_code)] // keeps memory that the engine uses; each block states its reasons
mod store;

use std::{
    marker::PhantomData,
    ops::Deref,
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering},
};

use self::store::{AnyStore, Store, Stores, store};
use super::{Comm, Dest, Src, Status, all, p2p::status};
use crate::{
    datum::{Datum, LentRead, LentWrite, Memory, Signature},
    engine::{
        CollectiveKind, Done, Exchanged, LentCollective, Mode, Op, Preparation, Rank, Reduction,
        Tag,
    },
    error::{Call, ErrorKind, Fault, Result},
};

/// Operations that are built once and started again and again; see [`Comm::plan`].
///
/// Dropped while it is under way, its receives are withdrawn and its sends go on without their
/// owner.
pub struct Plan<'c> {
    comm: Home<'c>,
    id: u64,
    stores: Vec<Box<dyn AnyStore>>,
    steps: Vec<Step<'c>>,
    under_way: bool,
}

/// The communicator of a plan.
#[derive(Clone)]
enum Home<'c> {
    /// The program's.
    Lent(&'c Comm),
    /// One that the plan keeps, so that it can stand in a structure of its own.
    Kept(Rc<Comm>),
}

impl Deref for Home<'_> {
    type Target = Comm;

    fn deref(&self) -> &Comm {
        match self {
            Self::Lent(comm) => comm,
            Self::Kept(comm) => comm,
        }
    }
}

/// A buffer of a [`Plan`]: give it to [`Plan::get`] and [`Plan::get_mut`].
pub struct PlanBuffer<T> {
    plan: u64,
    place: usize,
    elements: PhantomData<fn() -> T>,
}

impl<T> Clone for PlanBuffer<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for PlanBuffer<T> {}

/// # Prepared operations
///
/// Set up once, started often (MPI's persistent ones).
impl Comm {
    /// An empty plan: add operations to it, start it as often as you like.
    ///
    /// What needs to be done only once (addresses, types, algorithms) is done when an operation is
    /// added, where the MPI library has persistent operations; their collectives came with MPI 4.
    ///
    /// # Examples
    /// ```
    /// use spmd::op::Sum;
    /// let sums = spmd::local(3, |world| {
    ///     let (rank, size) = (world.rank(), world.size());
    ///     let mut plan = world.plan();
    ///     let mine = plan.send(vec![0.0; 2], (rank + 1) % size)?;
    ///     let theirs = plan.recv(vec![0.0; 2], (rank + size - 1) % size)?;
    ///     let (part, sum) = plan.allreduce(vec![0.0], Sum)?;
    ///     let mut total = 0.0;
    ///     for step in 0..10 {
    ///         plan.get_mut(mine)?.fill(step as f64);
    ///         plan.get_mut(part)?[0] = rank as f64;
    ///         plan.start()?;
    ///         // ... compute meanwhile ...
    ///         plan.wait()?;
    ///         total += plan.get(theirs)?[0] + plan.get(sum)?[0];
    ///     }
    ///     Ok(total)
    /// });
    /// assert_eq!(sums.unwrap(), [75.0; 3]);
    /// ```
    pub fn plan(&self) -> Plan<'_> {
        Plan::on(Home::Lent(self))
    }

    /// As [`plan`](Self::plan); the plan keeps the communicator.
    pub(crate) fn into_plan(self: Rc<Self>) -> Plan<'static> {
        Plan::on(Home::Kept(self))
    }
}

/// One operation of a plan.
struct Step<'c> {
    call: Call,
    how: How<'c>,
    brings: Brings<'c>,
    /// The engine's operation, while it is under way.
    going: Option<Op>,
}

/// How an operation is started.
enum How<'c> {
    /// Not at all: nobody is on its other side.
    Never,
    /// The engine has prepared it.
    Prepared(Op, Gives),
    /// Anew each time.
    Anew(Box<Start<'c>>),
}

/// What a prepared operation moves each time, in bytes.
enum Gives {
    Nothing,
    /// A message.
    Message(Rank, Tag, usize),
    /// What a collective takes and brings.
    Rows(usize, usize),
}

/// What there is to do with what came.
enum Brings<'c> {
    Nothing,
    /// A message of any length has been written into the store at this place.
    Message(usize),
    /// The store at this place is full.
    Whole(usize),
    /// Rows, to be brought into a store.
    Rows(Box<Bring<'c>>),
}

type Start<'c> = dyn Fn(&Comm, &mut Stores) -> Result<Op, Fault> + 'c;
type Bring<'c> = dyn Fn(Exchanged, &mut Stores) -> Result<(), Fault> + 'c;

impl<'c> Plan<'c> {
    fn on(comm: Home<'c>) -> Self {
        static PLANS: AtomicU64 = AtomicU64::new(0);
        let id = PLANS.fetch_add(1, Ordering::Relaxed);
        Plan { comm, id, stores: Vec::new(), steps: Vec::new(), under_way: false }
    }

    /// Adds a send of these values, which [`Plan::get_mut`] changes between starts.
    ///
    /// # Errors
    /// As [`Comm::send`]; [`ErrorKind::InvalidArgument`] while the plan is under way.
    #[track_caller]
    pub fn send<T: Datum>(&mut self, values: Vec<T>, to: impl Into<Dest>) -> Result<PlanBuffer<T>> {
        let to = to.into();
        self.add_send(Call::new("planned send", to.with()), Mode::Standard, values, to)
    }

    /// As [`Plan::send`]; done when the receiver has begun to receive.
    ///
    /// # Errors
    /// As [`Plan::send`].
    #[track_caller]
    pub fn ssend<T: Datum>(
        &mut self,
        values: Vec<T>,
        to: impl Into<Dest>,
    ) -> Result<PlanBuffer<T>> {
        let to = to.into();
        self.add_send(Call::new("planned ssend", to.with()), Mode::Synchronous, values, to)
    }

    /// Adds a receive of at most as many elements as `into` has; [`Plan::status`] tells what came.
    ///
    /// # Errors
    /// As [`Comm::recv_into`], also from [`Plan::wait`]; [`ErrorKind::InvalidArgument`] while the
    /// plan is under way.
    #[track_caller]
    pub fn recv<T: Datum>(&mut self, into: Vec<T>, from: impl Into<Src>) -> Result<PlanBuffer<T>> {
        let from = from.into();
        self.add(Call::new("planned recv", from.with()), |plan, _| {
            let (buffer, place) = plan.store(into, true);
            if from.is_null() {
                return Ok((buffer, How::Never, Brings::Nothing));
            }
            let from = plan.comm.source(from, Signature::of::<T>())?;
            let bytes = plan.stores[place].inlet();
            let how = plan.prepare(&Preparation::Recv { from, bytes })?.unwrap_or_else(|| {
                How::Anew(Box::new(move |comm, stores| {
                    comm.engine.irecv(&from, Memory::Write(stores[place].inlet()))
                }))
            });
            Ok((buffer, how, Brings::Message(place)))
        })
    }

    /// The values of a buffer.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] while the plan is under way, or if the buffer is another plan's.
    #[track_caller]
    pub fn get<T: Datum>(&self, buffer: PlanBuffer<T>) -> Result<&[T]> {
        self.comm.judge(all("get"), || {
            let place = self.rested(&buffer)?;
            let store = self.stores[place].as_any().downcast_ref::<Store<T>>();
            store.map(Store::values).ok_or_else(|| ErrorKind::Closed.into())
        })
    }

    /// The values of a buffer, to be changed.
    ///
    /// # Errors
    /// As [`Plan::get`].
    #[track_caller]
    pub fn get_mut<T: Datum>(&mut self, buffer: PlanBuffer<T>) -> Result<&mut [T]> {
        let comm = self.comm.clone();
        comm.judge(all("get_mut"), || {
            let place = self.rested(&buffer)?;
            store::<T>(&mut self.stores, place).map(Store::values_mut)
        })
    }

    /// What a receive has brought last: sender, tag and number of elements.
    ///
    /// # Errors
    /// As [`Plan::get`]; [`ErrorKind::InvalidArgument`] if nothing has been received into this
    /// buffer.
    #[track_caller]
    pub fn status<T: Datum>(&self, buffer: PlanBuffer<T>) -> Result<Status> {
        self.comm.judge(all("status"), || {
            let place = self.rested(&buffer)?;
            let received = self.stores[place].received();
            let none = || invalid("no message has been received into this buffer");
            received.map(|received| status::<T>(&received)).ok_or_else(none)
        })
    }

    /// Starts all operations.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the plan is under way; else as the operations. What was started before the error
    /// goes on: [`Plan::wait`] completes it.
    #[track_caller]
    pub fn start(&mut self) -> Result<()> {
        let comm = &*self.comm;
        if self.under_way {
            return comm.perform(all("start"), || Err(invalid(UNDER_WAY)));
        }
        self.under_way = true;
        for Step { call, how, going, .. } in &mut self.steps {
            *going = comm.perform(*call, || match how {
                How::Never => Ok(None),
                How::Prepared(op, gives) => {
                    match *gives {
                        Gives::Nothing => {}
                        Gives::Message(to, tag, bytes) => comm.sent(to, tag, bytes),
                        Gives::Rows(sent, received) => comm.moved(sent, received),
                    }
                    comm.engine.start(*op).map(|()| Some(*op))
                }
                How::Anew(start) => start(comm, &mut self.stores).map(Some),
            })?;
        }
        Ok(())
    }

    /// Waits until all operations are done; their buffers are the program's then.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the plan has not been started; else the first error of an operation. The plan is
    /// not under way any more, whatever the result.
    #[track_caller]
    pub fn wait(&mut self) -> Result<()> {
        if !self.under_way {
            return self
                .comm
                .perform(all("wait"), || Err(invalid("the plan has not been started")));
        }
        let mut first = Ok(());
        for step in &mut self.steps {
            first = first.and(step.finish(&self.comm, &mut self.stores, true).map(drop));
        }
        self.under_way = false;
        first
    }

    /// Whether all operations are done, without waiting; if so, their buffers are the program's.
    ///
    /// # Errors
    /// As [`Plan::wait`].
    #[track_caller]
    pub fn test(&mut self) -> Result<bool> {
        if !self.under_way {
            return self
                .comm
                .perform(all("test"), || Err(invalid("the plan has not been started")));
        }
        let mut done = true;
        for step in &mut self.steps {
            done &= step.finish(&self.comm, &mut self.stores, false)?;
        }
        self.under_way = !done;
        Ok(done)
    }

    fn add_send<T: Datum>(
        &mut self,
        call: Call,
        mode: Mode,
        values: Vec<T>,
        to: Dest,
    ) -> Result<PlanBuffer<T>> {
        self.add(call, |plan, _| {
            let (buffer, place) = plan.store(values, false);
            if to.is_null() {
                return Ok((buffer, How::Never, Brings::Nothing));
            }
            let to = plan.comm.target(to, Signature::of::<T>())?;
            let bytes = plan.stores[place].outlet();
            let how = plan.prepare(&Preparation::Send { to, mode, bytes })?.unwrap_or_else(|| {
                How::Anew(Box::new(move |comm, stores| {
                    let bytes = stores[place].outlet();
                    comm.sent(to.rank, to.tag, bytes.len());
                    comm.engine.isend(&to, mode, Memory::Read(bytes))
                }))
            });
            Ok((buffer, how, Brings::Nothing))
        })
    }

    /// Adds the operation that `build` makes.
    fn add<R>(
        &mut self,
        call: Call,
        build: impl FnOnce(&mut Self, Call) -> Result<(R, How<'c>, Brings<'c>), Fault>,
    ) -> Result<R> {
        let comm = self.comm.clone();
        comm.enter(call);
        comm.judge(call, || {
            if self.under_way {
                return Err(invalid(UNDER_WAY));
            }
            let (handles, how, brings) = build(self, call)?;
            self.steps.push(Step { call, how, brings, going: None });
            Ok(handles)
        })
    }

    /// Keeps a buffer; `receives` if bytes are written into it from elsewhere.
    fn store<T: Datum>(&mut self, values: Vec<T>, receives: bool) -> (PlanBuffer<T>, usize) {
        let place = self.stores.len();
        self.stores.push(Box::new(Store::new(values, receives)));
        (PlanBuffer { plan: self.id, place, elements: PhantomData }, place)
    }

    fn prepare(&self, what: &Preparation<'_>) -> Result<Option<How<'c>>, Fault> {
        let gives = match what {
            Preparation::Send { to, bytes, .. } => Gives::Message(to.rank, to.tag, bytes.len()),
            Preparation::Collective(what) => Gives::Rows(what.mine.len(), what.out.len()),
            Preparation::Recv { .. } => Gives::Nothing,
        };
        Ok(self.comm.engine.prepare(what)?.map(|op| How::Prepared(op, gives)))
    }

    /// Prepares a collective: what this rank gives, what it gets, and how they are combined.
    fn prepare_collective(
        &self,
        kind: CollectiveKind,
        mine: LentRead,
        out: LentWrite,
        with: Option<&Reduction<'_>>,
    ) -> Result<Option<How<'c>>, Fault> {
        let (context, size) = (self.comm.context, self.comm.size);
        let what = LentCollective { context, size, kind, mine, out, with };
        self.prepare(&Preparation::Collective(what))
    }

    /// The place of a buffer that is the program's at this time.
    fn rested<T>(&self, buffer: &PlanBuffer<T>) -> Result<usize, Fault> {
        if buffer.plan != self.id {
            return Err(invalid("the buffer belongs to another plan"));
        }
        if self.under_way { Err(invalid(UNDER_WAY)) } else { Ok(buffer.place) }
    }
}

const UNDER_WAY: &str = "the plan is under way: wait for it first";

fn invalid(what: &str) -> Fault {
    ErrorKind::InvalidArgument { what: what.to_owned() }.into()
}

impl Step<'_> {
    /// Whether the operation is done, waiting for it if `wait`.
    fn finish(&mut self, comm: &Comm, stores: &mut Stores, wait: bool) -> Result<bool> {
        let Some(op) = self.going else { return Ok(true) };
        comm.proceed(self.call, || {
            let prepared = matches!(self.how, How::Prepared(..));
            let done = if prepared {
                comm.engine.finish(op, wait).transpose().map(|received| {
                    received.map(|received| Done { buffer: None, received, exchanged: None })
                })
            } else if wait {
                Some(comm.engine.wait(op))
            } else {
                comm.engine.test(op)
            };
            let Some(done) = done else { return Ok(false) };
            self.going = None;
            let done = done?;
            comm.arrived(&done);
            match &self.brings {
                Brings::Nothing => Ok(()),
                Brings::Message(place) => {
                    stores[*place].accept(done.received.ok_or(ErrorKind::Closed)?)
                }
                Brings::Whole(place) => stores[*place].accept_all(),
                Brings::Rows(bring) => bring(*done.exchanged.ok_or(ErrorKind::Closed)?, stores),
            }?;
            Ok(true)
        })
    }
}

impl Drop for Plan<'_> {
    fn drop(&mut self) {
        let engine = &self.comm.engine;
        let mut ours = true;
        for Step { how, going, .. } in &self.steps {
            match (going, how) {
                (Some(op), _) => ours &= engine.abandon(*op),
                (None, How::Prepared(op, _)) => engine.detach(*op),
                (None, How::Never | How::Anew(_)) => {}
            }
        }
        if !ours {
            // The engine reads from the buffers of sends that go on, for how long nobody knows.
            std::mem::forget(std::mem::take(&mut self.stores));
        }
    }
}
