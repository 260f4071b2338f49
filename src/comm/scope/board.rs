//! The operations of a scope, and what has become of them.

use std::{cell::RefCell, mem};

use super::{Place, ScopedRequest};
use crate::{
    comm::{
        Comm, Dest, Src, Status,
        p2p::{status, status_of},
        request::landed,
        view::{View, ViewMut, claimed, packed},
    },
    datum::{Landing, LentRead, LentWrite, Memory, Outgoing, Signature, bytes_of, bytes_of_mut},
    engine::{Begun, Done, Mode, Op},
    error::{Call, ErrorKind, Fault, Result},
};

/// The operations of a scope.
pub(super) struct Board<'c> {
    pub(super) comm: &'c Comm,
    entries: RefCell<Entries>,
}

/// Operations by place.
#[derive(Default)]
pub(in crate::comm) struct Entries {
    all: Vec<Entry>,
    /// How many have been used in this scope.
    used: usize,
    /// Those of them that are free again.
    free: Vec<usize>,
}

/// One operation of a scope.
struct Entry {
    call: Call,
    state: State,
    /// Nobody will ask for its result.
    disowned: bool,
}

enum State {
    /// The engine works in the borrowed memory itself, or on a copy to be sent, on elements of so
    /// many bytes.
    Direct(Op, usize),
    /// The message has to be brought to its place when it is here.
    Copied(Op, Unpack),
    /// The same of a collective, which goes on if nobody waits for it.
    Collective(Op, Unpack),
    /// Over as soon as it was started, with an error that nobody has been told of.
    Refused(Fault),
    Over(Result<Status, Fault>),
    /// Being waited for at this moment.
    Taken,
    Free,
}

/// It borrows for the scope, in truth: see `Board::receive`.
type Unpack = Box<dyn FnOnce(Done) -> Result<Status, Fault>>;

impl State {
    /// Whether there is something to wait for or to tell.
    #[inline]
    fn is_open(&self) -> bool {
        matches!(
            self,
            Self::Direct(..) | Self::Copied(..) | Self::Collective(..) | Self::Refused(_)
        )
    }
}

impl Entries {
    /// Made in its place, as by [`Table::insert`](crate::engine::table::Table::insert).
    #[inline(always)]
    fn insert(&mut self, call: Call, make: impl FnOnce() -> State) -> usize {
        let place = self.free.pop().unwrap_or_else(|| {
            if self.used == self.all.len() {
                self.all.push(Entry { call, state: State::Free, disowned: false });
            }
            self.used += 1;
            self.used - 1
        });
        let Call { op, with, at } = call;
        let entry = &mut self.all[place];
        assert!(matches!(entry.state, State::Free), "free places hold nothing");
        (entry.call.op, entry.call.with, entry.call.at) = (op, with, at);
        entry.disowned = false;
        entry.state = make();
        place
    }

    #[inline]
    fn free(&mut self, place: usize) {
        self.all[place].state = State::Free;
        self.free.push(place);
    }
}

impl<'c> Board<'c> {
    pub(super) fn new(comm: &'c Comm) -> Self {
        Self { comm, entries: RefCell::new(comm.scraps.take()) }
    }

    pub(super) fn send<'scope, V: View + ?Sized>(
        &'scope self,
        call: Call,
        mode: Mode,
        values: &'scope V,
        to: Dest,
    ) -> Result<ScopedRequest<'scope, &'scope V>> {
        let enter = |op| self.enter(call, || State::Direct(op, size_of::<V::Elem>()));
        let place = self.comm.perform(call, || {
            if to.is_null() {
                return Ok(Place::Over(Status::NULL));
            }
            let to = self.comm.target(to, Signature::of::<V::Elem>())?;
            let Some(slice) = values.as_slice() else {
                let packed = packed(values);
                self.comm.sent(to.rank, to.tag, size_of_val(&*packed));
                let memory = Memory::Owned(Box::new(Outgoing(packed)));
                return self.comm.engine.isend(&to, mode, memory).map(enter);
            };
            let bytes = bytes_of(slice);
            self.comm.sent(to.rank, to.tag, bytes.len());
            // SAFETY: the loan is over when the operation is (waited for, or revoked), at the end
            // of the scope at the latest (`End`); until then `values`, borrowed for `'scope`, keep
            // the slice valid and unchanged: elements are `Copy`, so they have no interior
            // mutability.
            let lent = unsafe { LentRead::new(bytes.as_ptr(), bytes.len()) };
            let op = self.comm.engine.isend_lent(&to, mode, lent)?;
            Ok(op.map_or(Place::Over(Status::NULL), enter))
        })?;
        Ok(ScopedRequest { board: self, place, kept: values })
    }

    pub(super) fn receive<'scope, V: ViewMut + ?Sized>(
        &'scope self,
        call: Call,
        into: &'scope mut V,
        from: Src,
    ) -> Result<ScopedRequest<'scope, &'scope mut V>> {
        let kept: *mut V = into;
        let place = self.comm.perform(call, || {
            if from.is_null() {
                return Ok(Place::Over(Status::NULL));
            }
            let from = self.comm.source(from, Signature::of::<V::Elem>())?;
            // SAFETY: of an exclusive borrow for `'scope` which nothing else uses before the ticket
            // gives it back.
            let into: &'scope mut V = unsafe { &mut *kept };
            let count = claimed(&*into);
            if let Some(bytes) = into.as_slice_mut().and_then(bytes_of_mut) {
                // SAFETY: the loan is over when the operation is, at the end of the scope at the
                // latest (`End`); until then the bytes, borrowed for `'scope`, stay valid, and
                // whoever has `kept` leaves them alone. They are initialised, being values, and any
                // bytes written are values (`bytes_of_mut`).
                let lent = unsafe { LentWrite::new(bytes.as_mut_ptr(), bytes.len()) };
                Ok(match self.comm.engine.irecv_lent(&from, lent)? {
                    Begun::UnderWay(op) => {
                        self.enter(call, || State::Direct(op, size_of::<V::Elem>()))
                    }
                    Begun::Over(Ok(received)) => {
                        self.comm.received(received);
                        Place::Over(status::<V::Elem>(&received))
                    }
                    Begun::Over(Err(fault)) => self.enter(call, || State::Refused(fault)),
                })
            } else {
                let unpack: Box<dyn FnOnce(Done) -> Result<Status, Fault> + 'scope> =
                    Box::new(move |done| {
                        let (values, status) = landed::<V::Elem>(done)?;
                        // SAFETY: as above; the ticket gives `kept` back only when this has
                        // returned.
                        unsafe { &mut *kept }.unpack(&values);
                        Ok(status)
                    });
                // SAFETY: it is put into an entry of this board.
                let unpack = unsafe { kept_by_the_board(unpack) };
                let landing = Landing::<V::Elem>::new(count)?;
                let memory = Memory::Owned(Box::new(landing));
                let op = self.comm.engine.irecv(&from, memory)?;
                Ok(self.enter(call, || State::Copied(op, unpack)))
            }
        })?;
        Ok(ScopedRequest { board: self, place, kept })
    }

    /// Starts a collective; `finish` makes of what it brings the values for `into`, if there are
    /// any.
    pub(super) fn collective<'scope, W: ViewMut + ?Sized>(
        &'scope self,
        call: Call,
        into: &'scope mut W,
        start: impl FnOnce() -> Result<Op, Fault>,
        finish: impl FnOnce(Done) -> Result<Option<Vec<W::Elem>>, Fault> + 'scope,
    ) -> Result<ScopedRequest<'scope, &'scope mut W>> {
        let kept: *mut W = into;
        let place = self.comm.perform(call, || {
            let op = start()?;
            let unpack: Box<dyn FnOnce(Done) -> Result<Status, Fault> + 'scope> =
                Box::new(move |done| {
                    if let Some(values) = finish(done)? {
                        // SAFETY: of an exclusive borrow for `'scope` which nothing else uses: the
                        // ticket gives `kept` back only when this has returned.
                        unsafe { &mut *kept }.unpack(&values);
                    }
                    Ok(Status::NULL)
                });
            // SAFETY: it is put into an entry of this board.
            let unpack = unsafe { kept_by_the_board(unpack) };
            Ok(self.enter(call, || State::Collective(op, unpack)))
        })?;
        Ok(ScopedRequest { board: self, place, kept })
    }

    /// Keeps an operation; its place.
    #[inline(always)]
    fn enter(&self, call: Call, make: impl FnOnce() -> State) -> Place {
        Place::Entry(self.entries.borrow_mut().insert(call, make))
    }

    /// Waits for an operation and gives its place up.
    #[inline]
    pub(super) fn finish(&self, place: usize) -> Result<Status> {
        let result = self.comm.proceed(self.call(place), || self.outcome(place, true));
        self.entries.borrow_mut().free(place);
        result.map(|status| status.unwrap_or(Status::NULL))
    }

    /// The outcome of an operation, waited for if `wait`; `None` if it goes on. Its place stays
    /// taken.
    #[inline(always)]
    fn outcome(&self, place: usize, wait: bool) -> Result<Option<Status>, Fault> {
        // An entry is looked at where it is: to move whole ones would cost every message dearly,
        // see `Entries::insert`.
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
            (State::Copied(_, unpack) | State::Collective(_, unpack), Some(done)) => {
                let done = done?;
                self.comm.arrived(&done);
                unpack(done).map(Some)
            }
            (State::Refused(fault) | State::Over(Err(fault)), _) => Err(fault),
            (State::Over(Ok(status)), _) => Ok(Some(status)),
            _ => Err(ErrorKind::Closed.into()),
        }
    }

    /// Waits for all operations; the first error.
    pub(super) fn complete(&self) -> Result<()> {
        let mut first = Ok(());
        let places = self.entries.borrow().used;
        for place in 0..places {
            if !self.ends_unasked(place) && self.entries.borrow().all[place].state.is_open() {
                first = first.and(self.end(place));
            }
        }
        first
    }

    /// Waits for an operation whose result nobody will ask for; whether it was one, and has ended
    /// well.
    ///
    /// What nobody asks for need not be handed on, see `Entries::insert`.
    #[inline(always)]
    fn ends_unasked(&self, place: usize) -> bool {
        let Entry { state: State::Direct(op, _), disowned: true, call } =
            self.entries.borrow().all[place]
        else {
            return false;
        };
        if self.comm.is_observed() {
            return false;
        }
        self.comm.enter(call);
        let ended = self.comm.engine.finish(op, true);
        let entries = &mut *self.entries.borrow_mut();
        let state = &mut entries.all[place].state;
        if let Err(fault) = ended {
            *state = State::Refused(fault);
            return false;
        }
        mem::forget(mem::replace(state, State::Free)); // it holds nothing to be dropped
        entries.free.push(place);
        true
    }

    /// Waits for an operation, and keeps what has come of it for its ticket, if there is one.
    fn end(&self, place: usize) -> Result<()> {
        match self.comm.proceed(self.call(place), || self.outcome(place, true)) {
            Ok(status) => {
                self.settle(place, Ok(status));
                Ok(())
            }
            Err(error) => {
                self.settle(place, Err(error.kind().clone().into()));
                Err(error)
            }
        }
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
    pub(super) fn test(&self, place: usize) -> bool {
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
    pub(super) fn op(&self, place: usize) -> Option<Op> {
        match self.entries.borrow().all[place].state {
            State::Direct(op, _) | State::Copied(op, _) | State::Collective(op, _) => Some(op),
            State::Refused(_) | State::Over(_) | State::Taken | State::Free => None,
        }
    }

    pub(super) fn call(&self, place: usize) -> Call {
        self.entries.borrow().all[place].call
    }

    /// Nobody will ask for the result of an operation.
    pub(super) fn disown(&self, place: usize) {
        let entries = &mut *self.entries.borrow_mut();
        let entry = &mut entries.all[place];
        entry.disowned = true;
        if matches!(entry.state, State::Over(_)) {
            entries.free(place);
        }
    }
}

/// A closure that borrows for the scope, as the entries of its board hold it.
///
/// # Safety
/// It is put into an entry of the scope's board. There it is called or dropped before the scope
/// ends: `End` takes all entries out.
unsafe fn kept_by_the_board<'scope>(
    unpack: Box<dyn FnOnce(Done) -> Result<Status, Fault> + 'scope>,
) -> Unpack {
    // SAFETY: the same but for the lifetime, which lasts for as long as the closure is there, by
    // the caller's promise.
    unsafe {
        mem::transmute::<
            Box<dyn FnOnce(Done) -> Result<Status, Fault> + 'scope>,
            Box<dyn FnOnce(Done) -> Result<Status, Fault>>,
        >(unpack)
    }
}

/// The end of a scope, also by error and panic: afterwards the engine touches nothing that was
/// borrowed.
pub(super) struct End<'b>(pub(super) &'b Board<'b>);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let certain = AbortUnlessForgotten; // a panic here would leave lent memory behind
        let mut entries = self.0.entries.borrow_mut();
        let Entries { all, used, free } = &mut *entries;
        // What they hold may be the program's own (an operator), and is dropped when all is in
        // order.
        let mut ended = Vec::new();
        if free.len() < *used {
            for entry in &all[..*used] {
                match entry.state {
                    State::Direct(op, _) | State::Copied(op, _) => {
                        self.0.comm.enter(entry.call);
                        self.0.comm.engine.revoke(op);
                    }
                    // Its memory is the engine's, and the other ranks count on this one.
                    State::Collective(op, _) => self.0.comm.engine.detach(op),
                    _ => {}
                }
            }
            let end = |entry: &mut Entry| mem::replace(&mut entry.state, State::Free);
            ended.extend(all[..*used].iter_mut().map(end));
        }
        mem::forget(certain);
        free.clear();
        *used = 0;
        self.0.comm.scraps.set(mem::take(&mut *entries)); // the next scope need not allocate
        drop(entries);
        drop(ended);
    }
}

struct AbortUnlessForgotten;

impl Drop for AbortUnlessForgotten {
    fn drop(&mut self) {
        std::process::abort();
    }
}
