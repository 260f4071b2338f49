//! Operations that go on with borrowed data, shaped like [`std::thread::scope`].
//!
//! The engine gets the address of what is borrowed ([`RawBytes`]). It is the caller's again when the operation is over:
//! after `wait` of its ticket, or at the end of the scope, which is reached in every way out of the closure
//! and completes or retracts what is under way. The scope lives in [`Comm::scope`]'s own frame, where no safe
//! program can forget it; tickets may be forgotten, they hold no responsibility.

use std::{
    cell::RefCell,
    marker::PhantomData,
    mem::{self, ManuallyDrop},
    time::{Duration, Instant},
};

use super::{
    Comm, Dest, Src, Status,
    p2p::{status, status_of},
    request::landed,
    view::{View, ViewMut, packed},
};
use crate::{
    datum::{Landing, Memory, Outgoing, RawBytes, Signature, bytes_of, bytes_of_mut},
    engine::{Begun, Done, Mode, Op},
    error::{Call, ErrorKind, Fault, Result},
};

/// Where operations with borrowed data live; see [`Comm::scope`].
pub struct Scope<'scope, 'env: 'scope> {
    board: Board<'env>,
    /// Invariant, as in the standard library: a scope is not to be taken for one that ends earlier or later.
    lifetime: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

/// An operation with borrowed data under way.
///
/// Dropped or forgotten, it goes on to the end of its scope.
pub struct Ticket<'scope, B: Borrowed> {
    board: &'scope Board<'scope>,
    place: Place,
    kept: B::Kept,
}

/// Where the outcome of a ticket is.
#[derive(Clone, Copy)]
enum Place {
    /// In an entry of the board.
    Entry(usize),
    /// Here: it was over as soon as it was started.
    Over(Status),
}

impl Comm {
    /// Opens a scope in which messages are sent out of borrowed data and received into borrowed data, without a copy, while
    /// the program goes on.
    ///
    /// When the closure returns `Ok`, all operations of the scope are completed before this call returns. When it returns
    /// an error or panics, those that go on are called back: a receive is withdrawn, a send that nobody receives too.
    ///
    /// # Errors
    /// The closure's own; else the first of an operation that was completed at the end.
    ///
    /// # Examples
    /// ```
    /// let sums = spmd::local(2, |world| {
    ///     let other = 1 - world.rank();
    ///     let mine = [world.rank() as f64; 1000];
    ///     let mut theirs = [0.0; 1000];
    ///     let sum = world.scope(|s| {
    ///         let receiving = s.irecv(&mut theirs, other)?;
    ///         s.isend(&mine, other)?;
    ///         let own: f64 = mine.iter().sum(); // meanwhile
    ///         let (theirs, _status) = receiving.wait()?; // the borrow comes back
    ///         Ok(own + theirs.iter().sum::<f64>())
    ///     })?;
    ///     assert_eq!(theirs[0], other as f64);
    ///     Ok(sum)
    /// });
    /// assert_eq!(sums.unwrap(), [1000.0, 1000.0]);
    /// ```
    ///
    /// What is borrowed cannot be touched before the operation is over:
    /// ```compile_fail,E0499
    /// spmd::local(2, |world| {
    ///     let mut buffer = [0; 4];
    ///     world.scope(|s| {
    ///         let receiving = s.irecv(&mut buffer, 1)?;
    ///         buffer[0] = 1; // may be overwritten at this moment
    ///         receiving.wait()?;
    ///         Ok(())
    ///     })?;
    ///     Ok(())
    /// });
    /// ```
    pub fn scope<'env, R>(
        &'env self,
        body: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> Result<R>,
    ) -> Result<R> {
        let entries = RefCell::new(Entries { all: self.scraps.take(), used: 0, free: NONE });
        let board = Board { comm: self, entries };
        let scope = Scope { board, lifetime: PhantomData, env: PhantomData };
        let end = End(&scope.board);
        let result = body(&scope)?;
        scope.board.complete()?;
        drop(end);
        Ok(result)
    }
}

impl<'scope> Scope<'scope, '_> {
    /// Starts to send `values`; [`Ticket::wait`] returns when they may change again.
    ///
    /// Values that are not in one piece are packed now.
    ///
    /// # Errors
    /// As [`Comm::send`].
    #[inline]
    #[track_caller]
    pub fn isend<V: View + ?Sized>(
        &'scope self,
        values: &'scope V,
        to: impl Into<Dest>,
    ) -> Result<Ticket<'scope, &'scope V>> {
        let to = to.into();
        self.board.send(Call::new("isend", to.with()), Mode::Standard, values, to)
    }

    /// Starts to send `values`; [`Ticket::wait`] returns when the receiver has begun to receive.
    ///
    /// # Errors
    /// As [`Comm::send`].
    #[track_caller]
    pub fn issend<V: View + ?Sized>(
        &'scope self,
        values: &'scope V,
        to: impl Into<Dest>,
    ) -> Result<Ticket<'scope, &'scope V>> {
        let to = to.into();
        self.board.send(Call::new("issend", to.with()), Mode::Synchronous, values, to)
    }

    /// Starts to receive into `into`; [`Ticket::wait`] gives the borrow back.
    ///
    /// Types that not all bytes are values of, and views that are not in one piece, are received by way of a copy and
    /// overwritten when the operation is completed.
    ///
    /// # Errors
    /// As [`Comm::recv_into`].
    #[inline]
    #[track_caller]
    pub fn irecv<V: ViewMut + ?Sized>(
        &'scope self,
        into: &'scope mut V,
        from: impl Into<Src>,
    ) -> Result<Ticket<'scope, &'scope mut V>> {
        let from = from.into();
        self.board.receive(Call::new("irecv", from.with()), into, from)
    }

    /// Waits for all operations of this scope.
    ///
    /// # Errors
    /// The first of them that fails; the others are completed too. Its ticket, if there is one, has the same error.
    pub fn wait_all(&'scope self) -> Result<()> {
        self.board.complete()
    }

    /// Waits until one of the tickets is done, takes it out of the vector, and gives its place there and its result;
    /// `None` if there is none.
    ///
    /// The tickets behind it move up: the place counts as the vector was before.
    ///
    /// # Errors
    /// As [`Ticket::wait`], of a ticket that is taken out too.
    ///
    /// # Examples
    /// ```
    /// let got = spmd::local(3, |world| {
    ///     if world.rank() > 0 {
    ///         world.send(&world.rank(), 0)?;
    ///         return Ok(0);
    ///     }
    ///     let (mut one, mut two) = (0_usize, 0_usize);
    ///     world.scope(|s| {
    ///         let mut tickets = vec![s.irecv(&mut one, 1)?, s.irecv(&mut two, 2)?];
    ///         let mut sum = 0;
    ///         while let Some((_place, (value, _status))) = s.wait_any(&mut tickets)? {
    ///             sum += *value;
    ///         }
    ///         Ok(sum)
    ///     }).map_err(Into::into)
    /// });
    /// assert_eq!(got.unwrap()[0], 3);
    /// ```
    pub fn wait_any<B: Borrowed>(
        &'scope self,
        tickets: &mut Vec<Ticket<'scope, B>>,
    ) -> Result<Option<(usize, B::Back)>> {
        let Some(first) = tickets.first() else { return Ok(None) };
        let ops: Vec<Op> = tickets.iter().map_while(Ticket::op).collect();
        let place = match first.place {
            Place::Entry(entry) if ops.len() == tickets.len() => {
                let (comm, call) = (self.board.comm, self.board.call(entry));
                comm.perform(call, || comm.engine.wait_any(&ops, None))?.unwrap_or(0)
            }
            _ => ops.len(), // done already
        };
        Ok(Some((place, tickets.remove(place).wait()?)))
    }
}

impl<B: Borrowed> Ticket<'_, B> {
    /// Waits until the operation is over; gives back what was borrowed, and what was received.
    ///
    /// # Errors
    /// As the blocking form of the operation; the error names the place where it was started.
    #[inline]
    pub fn wait(self) -> Result<B::Back> {
        let this = ManuallyDrop::new(self); // its place is given up by `finish`
        let status = match this.place {
            Place::Entry(entry) => this.board.finish(entry)?,
            Place::Over(status) => status,
        };
        // SAFETY: the operation is over.
        Ok(unsafe { B::give_back(this.kept, status) })
    }

    /// The result if the operation is over, else the ticket again.
    ///
    /// # Errors
    /// `Err(self)` if the operation goes on; `Ok(Err(…))` as [`Ticket::wait`].
    pub fn test(self) -> Result<Result<B::Back>, Self> {
        match self.place {
            Place::Entry(entry) if !self.board.test(entry) => Err(self),
            _ => Ok(self.wait()),
        }
    }

    /// Waits for so long at most: the result if the operation is over by then, else the ticket again.
    ///
    /// # Errors
    /// `Err(self)` if the operation goes on; `Ok(Err(…))` as [`Ticket::wait`].
    pub fn wait_for(self, limit: Duration) -> Result<Result<B::Back>, Self> {
        let (Some(op), Place::Entry(entry)) = (self.op(), self.place) else {
            return Ok(self.wait());
        };
        let comm = self.board.comm;
        comm.enter(self.board.call(entry));
        // A time beyond what the clock can hold is no limit.
        match comm.engine.wait_any(&[op], Instant::now().checked_add(limit)) {
            Ok(None) => Err(self),
            Ok(Some(_)) | Err(_) => Ok(self.wait()),
        }
    }

    fn op(&self) -> Option<Op> {
        match self.place {
            Place::Entry(entry) => self.board.op(entry),
            Place::Over(_) => None,
        }
    }
}

impl<B: Borrowed> Drop for Ticket<'_, B> {
    fn drop(&mut self) {
        if let Place::Entry(entry) = self.place {
            self.board.disown(entry);
        }
    }
}

/// What an operation borrows: `&V` to be sent, `&mut V` to be received into.
pub trait Borrowed: sealed::Borrowed {}

impl<B: sealed::Borrowed> Borrowed for B {}

mod sealed {
    use super::Status;

    pub trait Borrowed {
        /// What a ticket holds meanwhile.
        type Kept: Copy;

        /// What [`Ticket::wait`](super::Ticket::wait) gives.
        type Back;

        /// The borrow again.
        ///
        /// # Safety
        /// `kept` was made of a borrow that is not over; the operation that used it is.
        unsafe fn give_back(kept: Self::Kept, status: Status) -> Self::Back;
    }

    impl<'scope, V: ?Sized> Borrowed for &'scope V {
        type Kept = &'scope V;
        type Back = &'scope V;

        unsafe fn give_back(kept: Self::Kept, _: Status) -> Self::Back {
            kept
        }
    }

    impl<'scope, V: ?Sized> Borrowed for &'scope mut V {
        /// No reference: the engine writes at this time.
        type Kept = *mut V;
        type Back = (&'scope mut V, Status);

        unsafe fn give_back(kept: Self::Kept, status: Status) -> Self::Back {
            // SAFETY: `kept` comes of an exclusive borrow for `'scope`, which nobody uses any more, by the caller's promise.
            (unsafe { &mut *kept }, status)
        }
    }
}

/// The operations of a scope.
struct Board<'c> {
    comm: &'c Comm,
    entries: RefCell<Entries>,
}

/// Operations by place; those that are free are a list.
struct Entries {
    all: Vec<Entry>,
    /// How many have been used in this scope.
    used: usize,
    free: usize,
}

/// The end of the list of free places.
const NONE: usize = usize::MAX;

/// One operation of a scope.
pub(super) struct Entry {
    call: Call,
    state: State,
    /// Nobody will ask for its result.
    disowned: bool,
}

enum State {
    /// The engine works in the borrowed memory itself, or on a copy to be sent, on elements of so many bytes.
    Direct(Op, usize),
    /// The message has to be brought to its place when it is here.
    Copied(Op, Unpack),
    /// Over as soon as it was started, with an error that nobody has been told of.
    Refused(Fault),
    Over(Result<Status, Fault>),
    /// Being waited for at this moment.
    Taken,
    /// Free; the next free place.
    Free(usize),
}

/// It borrows for the scope, in truth: see `Board::receive`.
type Unpack = Box<dyn FnOnce(Done) -> Result<Status, Fault>>;

impl State {
    /// Whether there is something to wait for or to tell.
    #[inline]
    fn is_open(&self) -> bool {
        matches!(self, Self::Direct(..) | Self::Copied(..) | Self::Refused(_))
    }
}

impl Entries {
    /// Made in its place, as by [`Table::insert`](crate::engine::table::Table::insert).
    #[inline(always)]
    fn insert(&mut self, call: Call, make: impl FnOnce() -> State) -> usize {
        if self.free == NONE {
            if self.used == self.all.len() {
                self.all.push(Entry { call, state: State::Free(NONE), disowned: false });
            }
            self.free = self.used;
            self.used += 1;
        }
        let place = self.free;
        let Call { op, with, at } = call;
        let entry = &mut self.all[place];
        if let State::Free(next) = entry.state {
            self.free = next;
            (entry.call.op, entry.call.with, entry.call.at) = (op, with, at);
            entry.disowned = false;
            entry.state = make();
        }
        place
    }

    #[inline]
    fn free(&mut self, place: usize) {
        self.all[place].state = State::Free(self.free);
        self.free = place;
    }
}

impl Board<'_> {
    fn send<'scope, V: View + ?Sized>(
        &'scope self,
        call: Call,
        mode: Mode,
        values: &'scope V,
        to: Dest,
    ) -> Result<Ticket<'scope, &'scope V>> {
        let enter = |op| self.enter(call, || State::Direct(op, size_of::<V::Elem>()));
        let place = self.comm.perform(call, || {
            if to.is_null() {
                return Ok(Place::Over(Status::NULL));
            }
            let to = self.comm.target(to, Signature::of::<V::Elem>())?;
            let Some(slice) = values.as_slice() else {
                let packed = packed(values);
                self.comm.sent(to.rank, size_of_val(&*packed));
                let memory = Memory::Owned(Box::new(Outgoing(packed)));
                return self.comm.engine.isend(&to, mode, memory).map(enter);
            };
            let bytes = bytes_of(slice);
            self.comm.sent(to.rank, bytes.len());
            // SAFETY: the loan is over when the operation is (waited for, or retracted), at the end of the scope at the
            // latest (`End`); until then `values`, borrowed for `'scope`, keep the slice valid and unchanged:
            // elements are `Copy`, so they have no interior mutability.
            let op = self.comm.engine.isend_lent(&to, mode, unsafe { RawBytes::to_send(bytes) })?;
            Ok(op.map_or(Place::Over(Status::NULL), enter))
        })?;
        Ok(Ticket { board: self, place, kept: values })
    }

    fn receive<'scope, V: ViewMut + ?Sized>(
        &'scope self,
        call: Call,
        into: &'scope mut V,
        from: Src,
    ) -> Result<Ticket<'scope, &'scope mut V>> {
        let kept: *mut V = into;
        let place = self.comm.perform(call, || {
            if from.is_null() {
                return Ok(Place::Over(Status::NULL));
            }
            let from = self.comm.source(from, Signature::of::<V::Elem>())?;
            // SAFETY: of an exclusive borrow for `'scope` which nothing else uses before the ticket gives it back.
            let into: &'scope mut V = unsafe { &mut *kept };
            let count = into.count();
            if let Some(bytes) = into.as_slice_mut().and_then(bytes_of_mut) {
                // SAFETY: the loan is over when the operation is, at the end of the scope at the latest (`End`); until then
                // the bytes, borrowed for `'scope`, stay valid, and whoever has `kept` leaves them alone. They are
                // initialised, being values, and any bytes written are values (`bytes_of_mut`).
                let lent = unsafe { RawBytes::to_receive(bytes.as_mut_ptr(), bytes.len()) };
                Ok(match self.comm.engine.irecv_lent(&from, lent)? {
                    Begun::UnderWay(op) => {
                        self.enter(call, || State::Direct(op, size_of::<V::Elem>()))
                    }
                    Begun::Over(Ok(received)) => {
                        self.comm.received(received);
                        Place::Over(status::<V::Elem>(&received))
                    }
                    Begun::Over(Err(kind)) => self.enter(call, || State::Refused(kind)),
                })
            } else {
                let unpack: Box<dyn FnOnce(Done) -> Result<Status, Fault> + 'scope> =
                    Box::new(move |done| {
                        let (values, status) = landed::<V::Elem>(done)?;
                        // SAFETY: as above; the ticket gives `kept` back only when this has returned.
                        unsafe { &mut *kept }.unpack(&values);
                        Ok(status)
                    });
                // SAFETY: the same but for the lifetime. The closure is called or dropped before the scope ends: it
                // stands in an entry of this board, and `End` takes all entries out.
                let unpack = unsafe {
                    mem::transmute::<
                        Box<dyn FnOnce(Done) -> Result<Status, Fault> + 'scope>,
                        Box<dyn FnOnce(Done) -> Result<Status, Fault>>,
                    >(unpack)
                };
                let landing = Landing::<V::Elem>::new(count);
                let memory = Memory::Owned(Box::new(landing));
                let op = self.comm.engine.irecv(&from, memory)?;
                Ok(self.enter(call, || State::Copied(op, unpack)))
            }
        })?;
        Ok(Ticket { board: self, place, kept })
    }

    /// Keeps an operation; its place.
    #[inline(always)]
    fn enter(&self, call: Call, make: impl FnOnce() -> State) -> Place {
        Place::Entry(self.entries.borrow_mut().insert(call, make))
    }

    /// Waits for an operation and gives its place up.
    #[inline]
    fn finish(&self, place: usize) -> Result<Status> {
        let result = self.comm.proceed(self.call(place), || self.outcome(place, true));
        self.entries.borrow_mut().free(place);
        result.map(|status| status.unwrap_or(Status::NULL))
    }

    /// The outcome of an operation, waited for if `wait`; `None` if it goes on. Its place stays taken.
    #[inline(always)]
    fn outcome(&self, place: usize, wait: bool) -> Result<Option<Status>, Fault> {
        // An entry is looked at where it is: to move whole ones would cost every message dearly, see `Entries::insert`.
        let direct = match self.entries.borrow().all[place].state {
            State::Direct(op, size) => Some((op, size)),
            _ => None,
        };
        let Some((op, size)) = direct else { return self.indirect(place, wait) };
        let done = self.comm.engine.finish(op, wait)?;
        Ok(done.map(|received| {
            received.map_or(Status::NULL, |received| {
                self.comm.received(received);
                status_of(size, &received)
            })
        }))
    }

    /// As [`Self::outcome`], if the engine does not do it alone.
    fn indirect(&self, place: usize, wait: bool) -> Result<Option<Status>, Fault> {
        let engine = &self.comm.engine;
        let done = match self.op(place) {
            None => None,
            Some(op) if wait => Some(engine.wait(op)),
            Some(op) => match engine.test(op) {
                None => return Ok(None),
                done => done,
            },
        };
        let state = mem::replace(&mut self.entries.borrow_mut().all[place].state, State::Taken);
        match (state, done) {
            (State::Copied(_, unpack), Some(done)) => {
                let done = done?;
                self.comm.arrived(&done);
                unpack(done).map(Some)
            }
            (State::Refused(kind) | State::Over(Err(kind)), _) => Err(kind),
            (State::Over(Ok(status)), _) => Ok(Some(status)),
            _ => Err(ErrorKind::Closed.into()),
        }
    }

    /// Waits for all operations; the first error.
    fn complete(&self) -> Result<()> {
        let mut first = Ok(());
        let places = self.entries.borrow().used;
        for place in 0..places {
            if !self.entries.borrow().all[place].state.is_open() {
                continue;
            }
            match self.comm.proceed(self.call(place), || self.outcome(place, true)) {
                Ok(status) => self.settle(place, Ok(status)),
                Err(error) => {
                    self.settle(place, Err(error.kind().clone().into()));
                    first = first.and(Err(error));
                }
            }
        }
        first
    }

    /// Keeps the outcome of an operation for its ticket, if there is one.
    #[inline(always)]
    fn settle(&self, place: usize, outcome: Result<Option<Status>, Fault>) {
        let entries = &mut *self.entries.borrow_mut();
        if entries.all[place].disowned {
            return entries.free(place);
        }
        let outcome = outcome.map(|status| status.unwrap_or(Status::NULL));
        entries.all[place].state = State::Over(outcome);
    }

    /// Whether an operation is over.
    fn test(&self, place: usize) -> bool {
        if self.op(place).is_none() {
            return true;
        }
        let outcome = self.outcome(place, false);
        let is_over = !matches!(outcome, Ok(None));
        if is_over {
            self.settle(place, outcome);
        }
        is_over
    }

    /// The engine's operation, if it goes on.
    fn op(&self, place: usize) -> Option<Op> {
        match self.entries.borrow().all[place].state {
            State::Direct(op, _) | State::Copied(op, _) => Some(op),
            State::Refused(_) | State::Over(_) | State::Taken | State::Free(_) => None,
        }
    }

    fn call(&self, place: usize) -> Call {
        self.entries.borrow().all[place].call
    }

    /// Nobody will ask for the result of an operation.
    fn disown(&self, place: usize) {
        let entries = &mut *self.entries.borrow_mut();
        let entry = &mut entries.all[place];
        entry.disowned = true;
        if matches!(entry.state, State::Over(_)) {
            entries.free(place);
        }
    }
}

/// The end of a scope, also by error and panic: afterwards the engine touches nothing that was borrowed.
struct End<'b>(&'b Board<'b>);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let certain = AbortUnlessForgotten; // a panic here would leave lent memory behind
        let Entries { all, used, .. } = &mut *self.0.entries.borrow_mut();
        for entry in &all[..*used] {
            if let State::Direct(op, _) | State::Copied(op, _) = entry.state {
                self.0.comm.enter(entry.call);
                self.0.comm.engine.retract(op);
            }
        }
        mem::forget(certain);
        all[..*used].iter_mut().for_each(|entry| entry.state = State::Free(NONE));
        self.0.comm.scraps.set(mem::take(all)); // the next scope need not allocate
    }
}

struct AbortUnlessForgotten;

impl Drop for AbortUnlessForgotten {
    fn drop(&mut self) {
        std::process::abort();
    }
}
