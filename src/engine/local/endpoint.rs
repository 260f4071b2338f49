//! A rank's endpoint: its ends of the lanes, and the queues of unexpected messages and posted
//! receives.
//!
//! All matching is done by the receiving rank, on its own thread, whenever it makes *progress* (is
//! in a verb that looks or waits); so no lock is held and no receive buffer is ever seen by another
//! thread.

use std::{collections::VecDeque, sync::Arc};

use super::{
    Pending, lane,
    parking::ParkingLot,
    rendezvous::{Claim, Loan, Parcel},
    sync::{AtomicUsize, Mutex, Ordering, lock},
};
use crate::engine::{
    Leftover,
    matching::{Key, Queues, Wanted},
    table::Table,
};

/// Finished loans that wait at most to be used again.
const LOANS: usize = 64;

/// Where others hand in the receiver's end of a lane that they have opened.
#[repr(align(128))]
pub(super) struct AcceptQueue {
    opened: AtomicUsize,
    lanes: Mutex<Vec<(usize, lane::Receiver)>>,
}

impl AcceptQueue {
    pub(super) fn new() -> Self {
        Self { opened: AtomicUsize::new(0), lanes: Mutex::new(Vec::new()) }
    }

    /// A new lane of the world rank `sender` to the rank whose queue this is.
    fn open(&self, sender: usize) -> lane::Sender {
        let (ours, theirs) = lane::open();
        lock(&self.lanes).push((sender, theirs));
        self.opened.fetch_add(1, Ordering::Release);
        ours
    }
}

pub(super) struct Endpoint {
    /// By world rank of the receiver.
    outgoing: Paged<lane::Sender>,
    incoming: Vec<lane::Receiver>,
    /// By world rank of the sender: the place in `incoming`.
    places: Paged<usize>,
    /// How many lanes have been taken from the accept queue.
    accepted: usize,
    /// The lane to be looked at first by a receive from any: the one behind the last that had
    /// something for one.
    first: usize,
    pub(super) queues: Queues<Parcel<'static>, u64>,
    /// Finished loans, the oldest first; the receiver may not have let go of the youngest yet.
    loans: VecDeque<Arc<Loan>>,
}

/// What an endpoint works on.
#[derive(Clone, Copy)]
pub(super) struct Ctx<'a> {
    pub(super) parking: &'a ParkingLot,
    pub(super) accept_queue: &'a AcceptQueue,
    pub(super) ops: &'a Table<Pending>,
}

/// A receive that is under way in the calling verb: it comes behind all that are posted.
pub(super) struct ActiveRecv<'a> {
    pub(super) wanted: &'a Wanted,
    /// The world rank it is from, if that is known.
    pub(super) sender: Option<usize>,
    pub(super) claim: Claim,
}

impl Endpoint {
    pub(super) fn new() -> Self {
        Self {
            outgoing: Paged::new(),
            incoming: Vec::new(),
            places: Paged::new(),
            accepted: 0,
            first: 0,
            queues: Queues::new(),
            loans: VecDeque::new(),
        }
    }

    /// This rank's end of the lane to the world rank `receiver`.
    #[inline]
    pub(super) fn lane_to(
        &mut self,
        receiver: usize,
        rank: usize,
        accept_queues: &[AcceptQueue],
    ) -> &mut lane::Sender {
        self.outgoing.get_or_insert_with(receiver, || accept_queues[receiver].open(rank))
    }

    /// Lends what `make` makes a loan of.
    pub(super) fn lend(&mut self, loan: Loan) -> Arc<Loan> {
        if let Some(mut old) = self.loans.pop_front()
            && let Some(free) = Arc::get_mut(&mut old)
        {
            *free = loan;
            return old;
        }
        Arc::new(loan)
    }

    /// Keeps a finished loan to be used again.
    pub(super) fn recycle(&mut self, loan: Option<Arc<Loan>>) {
        if self.loans.len() < LOANS {
            self.loans.extend(loan);
        }
    }

    /// Serves the posted receives from what has come in.
    #[inline]
    pub(super) fn progress(&mut self, ctx: Ctx<'_>) {
        if self.queues.has_posted() {
            self.drain_all(ctx, None, &mut |_, _| {});
        }
    }

    /// Makes progress with the posted receives, and with an active one: what `deliver` makes of the
    /// message that it is for.
    #[inline]
    pub(super) fn progress_for<R>(
        &mut self,
        ctx: Ctx<'_>,
        active: &ActiveRecv<'_>,
        deliver: &mut impl FnMut(&Key, Parcel<'_>) -> R,
    ) -> Option<R> {
        if self.queues.has_posted() || active.sender.is_none() {
            return self.drain_all(ctx, Some(active), deliver);
        }
        // Only this lane can bring it, and nobody waits for what the others bring.
        self.accept_lanes(ctx.accept_queue);
        let lane = self.only_lane(active.sender)?;
        self.drain(lane, ctx, Some(active), deliver)
    }

    /// The lane from the world rank `sender`, if no posted receive waits for what others bring.
    #[inline]
    pub(super) fn only_lane(&self, sender: Option<usize>) -> Option<usize> {
        if self.queues.has_posted() {
            return None;
        }
        self.places.get(sender?).copied()
    }

    fn drain_all<R>(
        &mut self,
        ctx: Ctx<'_>,
        active: Option<&ActiveRecv<'_>>,
        deliver: &mut impl FnMut(&Key, Parcel<'_>) -> R,
    ) -> Option<R> {
        self.accept_lanes(ctx.accept_queue);
        let lanes = self.incoming.len();
        for place in (self.first..lanes).chain(0..self.first) {
            let delivered = self.drain(place, ctx, active, deliver);
            if delivered.is_some() {
                self.first = if place + 1 < lanes { place + 1 } else { 0 };
                return delivered;
            }
        }
        None
    }

    /// This rank's end of a lane.
    #[inline]
    pub(super) fn incoming(&self, lane: usize) -> &lane::Receiver {
        &self.incoming[lane]
    }

    /// Takes what has come through a lane, up to the message that the active receive is for.
    #[inline]
    pub(super) fn drain<R>(
        &mut self,
        place: usize,
        ctx: Ctx<'_>,
        active: Option<&ActiveRecv<'_>>,
        deliver: &mut impl FnMut(&Key, Parcel<'_>) -> R,
    ) -> Option<R> {
        let Self { incoming, queues, .. } = self;
        let lane = &mut incoming[place];
        let mut next = lane.peek();
        while let Some(key) = next {
            let posted = queues.find_posted(&key);
            let active = active.filter(|active| posted.is_none() && active.wanted.fits(&key));
            let Some(parcel) = lane.take() else { break };
            if let Some(at) = posted {
                if parcel.claim(Claim::Receive)
                    && let Some(op) = queues.take_posted(at)
                {
                    ctx.ops.with(op, |pending| pending.receive(&key, &parcel, ctx.parking));
                }
            } else if let Some(active) = active {
                if parcel.claim(active.claim) {
                    return Some(deliver(&key, parcel));
                }
            } else {
                queues.keep(key, parcel.keep());
            }
            next = lane.peek();
        }
        None
    }

    /// The oldest message among those that nobody wanted yet.
    #[inline]
    pub(super) fn take_unexpected(
        &mut self,
        active: &ActiveRecv<'_>,
    ) -> Option<(Key, Parcel<'static>)> {
        loop {
            let (key, parcel) = self.queues.take_unexpected(active.wanted)?;
            if parcel.claim(active.claim) {
                return Some((key, parcel));
            }
        }
    }

    /// Takes the lanes in that have been opened since.
    #[inline]
    fn accept_lanes(&mut self, accept_queue: &AcceptQueue) {
        if accept_queue.opened.load(Ordering::Acquire) != self.accepted {
            self.accept_all(accept_queue);
        }
    }

    #[cold]
    fn accept_all(&mut self, accept_queue: &AcceptQueue) {
        for (sender, lane) in lock(&accept_queue.lanes).drain(..) {
            self.places.get_or_insert_with(sender, || self.incoming.len());
            self.incoming.push(lane);
            self.accepted += 1;
        }
    }

    /// The messages that nobody has received, when all ranks have ended.
    pub(super) fn leftovers(&mut self, rank: usize, accept_queue: &AcceptQueue) -> Vec<Leftover> {
        self.accept_all(accept_queue);
        let Self { incoming, queues, .. } = self;
        for lane in incoming {
            while let Some(key) = lane.peek() {
                let Some(parcel) = lane.take() else { break };
                queues.keep(key, parcel.keep());
            }
        }
        let unread = queues.unexpected().filter(|(key, parcel)| {
            // Steps belong to the library.
            !key.space.step && !parcel.is_back()
        });
        unread.map(|(key, parcel)| Leftover::message(rank, key, parcel.len(), parcel.at)).collect()
    }
}

/// A table by world rank that has memory only for the pages in use.
struct Paged<T>(Vec<Option<Box<Page<T>>>>);

const PAGE: usize = 64;

type Page<T> = [Option<T>; PAGE];

impl<T> Paged<T> {
    fn new() -> Self {
        Self(Vec::new())
    }

    #[inline]
    fn get(&self, rank: usize) -> Option<&T> {
        self.0.get(rank / PAGE)?.as_ref()?[rank % PAGE].as_ref()
    }

    #[inline]
    fn get_or_insert_with(&mut self, rank: usize, make: impl FnOnce() -> T) -> &mut T {
        if self.0.len() <= rank / PAGE {
            self.0.resize_with(rank / PAGE + 1, || None);
        }
        let page =
            self.0[rank / PAGE].get_or_insert_with(|| Box::new(std::array::from_fn(|_| None)));
        page[rank % PAGE].get_or_insert_with(make)
    }
}
