//! What arrays of one layout and one halo have in common: places, neighbours, messages.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    panic::Location,
    rc::Rc,
};

use super::{Axes, Block, Halo, Layout, halo::Piece, lines::rows};
use crate::{
    comm::{Comm, Plan, PlanBuffer},
    datum::Datum,
    error::{Error, ErrorKind, Result},
};

/// The place of a rank among the blocks of a global array, and its way to its neighbours.
pub(super) struct Frame<const D: usize> {
    /// A message space of its own: the program's messages are never taken for these.
    pub(super) comm: Rc<Comm>,
    pub(super) layout: Layout<D>,
    pub(super) halo: Halo<D>,
    /// The global indices of this rank's block.
    pub(super) block: Block<D>,
    /// The shape of the array with halo.
    pub(super) shape: [usize; D],
    /// Where the block lies in it.
    pub(super) inner: Block<D>,
    /// The cells of the block that need nothing of other ranks, as places in the array with halo.
    pub(super) early: Block<D>,
    neighbors: Vec<Neighbor<D>>,
    /// What is copied from the block itself, across a periodic axis or as the mirror of a wall.
    copies: Vec<(Block<D>, Block<D>)>,
    /// Messages that are not under way, by the type of their elements and the number of fields.
    idle: RefCell<Vec<Box<dyn Any>>>,
    /// Whether messages may be on their way that nobody will take: the next ones would be mixed up
    /// with them.
    broken: Cell<bool>,
}

/// A rank that has, or needs, cells.
struct Neighbor<const D: usize> {
    rank: usize,
    given: Vec<Block<D>>,
    needed: Vec<Block<D>>,
}

/// The messages of an exchange of so many fields, built once and started again and again.
struct Messages<T> {
    fields: usize,
    plan: Plan<'static>,
    /// For each neighbour.
    outgoing: Vec<PlanBuffer<T>>,
    incoming: Vec<PlanBuffer<T>>,
}

impl<const D: usize> Frame<D>
where
    [usize; D]: Axes,
{
    /// Collective over `comm`; all ranks have the same layout and halo.
    pub(super) fn new(comm: Comm, layout: &Layout<D>, halo: &Halo<D>) -> Self {
        let rank = comm.rank();
        let block = layout.block(rank);
        let shape = halo.around(&block);
        let inner = Block::new(halo.before(&block), block.shape());
        // Who owns nothing needs nothing and gives nothing.
        let (needed, given) = (halo.needed(layout, rank), halo.given(layout, rank));
        let (mut copies, mut early) = (Vec::new(), inner);
        for Piece { peer, from, to } in &needed {
            if *peer == rank {
                copies.push((*from, *to));
            } else {
                early = without_reach(early, inner, to, halo);
            }
        }
        let mut peers: Vec<usize> = needed.iter().chain(&given).map(|piece| piece.peer).collect();
        peers.sort_unstable();
        peers.dedup();
        peers.retain(|&peer| peer != rank);
        let of = |pieces: &[Piece<D>], peer: usize, place: fn(&Piece<D>) -> Block<D>| {
            pieces.iter().filter(|piece| piece.peer == peer).map(place).collect()
        };
        let neighbor = |rank| Neighbor {
            rank,
            given: of(&given, rank, |piece| piece.from),
            needed: of(&needed, rank, |piece| piece.to),
        };
        let neighbors = peers.into_iter().map(neighbor).collect();
        Self {
            comm: Rc::new(comm),
            layout: layout.clone(),
            halo: *halo,
            block,
            shape,
            inner,
            early,
            neighbors,
            copies,
            idle: RefCell::default(),
            broken: Cell::new(false),
        }
    }

    /// Moves messages of these arrays by `body`: one call of the program, which begins something
    /// or, if not `starts`, completes it. If it does not come to a good end nothing is sent any
    /// more.
    pub(super) fn moving<R>(
        &self,
        op: &'static str,
        starts: bool,
        at: &'static Location<'static>,
        body: impl FnOnce() -> Result<R>,
    ) -> Result<R> {
        if self.broken.replace(true) {
            return Err(self.comm.refuse(op, ErrorKind::BrokenCommunicator, at));
        }
        let result = self.comm.as_one_call(op, starts, at, body);
        let result = result.map_err(|error| error.called_at(at))?;
        self.broken.set(false);
        Ok(result)
    }

    /// The error of a call that this rank does not make. The others may make it, and would take the
    /// messages of the next one for those of this one: so none is sent any more.
    #[cold]
    pub(super) fn refuse(
        &self,
        op: &'static str,
        what: String,
        at: &'static Location<'static>,
    ) -> Error {
        self.broken.set(true);
        self.comm.refuse(op, ErrorKind::InvalidArgument { what }, at)
    }

    /// Copies what the halo of `cells` holds of the block itself.
    fn copy_own<T: Copy>(&self, cells: &mut [T]) {
        for (from, to) in &self.copies {
            let len = from.shape()[D - 1];
            for (from, to) in rows(from, self.shape).zip(rows(to, self.shape)) {
                cells.copy_within(from..from + len, to);
            }
        }
    }

    /// Sends the border cells of these fields to the neighbours and lets theirs come.
    pub(super) fn begin<T: Datum>(
        self: &Rc<Self>,
        fields: &mut [&mut [T]],
        at: &'static Location<'static>,
    ) -> Result<Exchange<T, D>> {
        for cells in fields.iter_mut() {
            self.copy_own(cells);
        }
        let messages = self.moving("halo begin", true, at, || {
            let mut messages = self.messages(fields)?;
            for (neighbor, &outgoing) in self.neighbors.iter().zip(&messages.outgoing) {
                let mut rest = messages.plan.get_mut(outgoing)?;
                for cells in fields.iter() {
                    for block in &neighbor.given {
                        rest = pack(cells, self.shape, block, rest);
                    }
                }
            }
            messages.plan.start()?;
            Ok(messages)
        })?;
        Ok(Exchange { messages: Some(messages), is_done: false, frame: Rc::clone(self) })
    }

    /// Messages for so many fields that are not under way.
    fn messages<T: Datum>(&self, fields: &[&mut [T]]) -> Result<Box<Messages<T>>> {
        let mut idle = self.idle.borrow_mut();
        let fits = |messages: &Box<dyn Any>| {
            let messages = messages.downcast_ref::<Messages<T>>();
            messages.is_some_and(|messages| messages.fields == fields.len())
        };
        let found = idle.iter().position(fits).map(|place| idle.swap_remove(place).downcast());
        if let Some(Ok(messages)) = found {
            return Ok(messages);
        }
        let mut plan = Rc::clone(&self.comm).into_plan();
        let room = |blocks: &[Block<D>]| {
            let cells = fields.len() * blocks.iter().map(Block::len).sum::<usize>();
            // The values that buffers begin with are replaced before they are sent.
            fields
                .iter()
                .find_map(|cells| cells.first())
                .map_or(Vec::new(), |&any| vec![any; cells])
        };
        let (mut incoming, mut outgoing) = (Vec::new(), Vec::new());
        // Receives first: what arrives early goes straight to its place.
        for Neighbor { rank, needed, .. } in &self.neighbors {
            incoming.push(plan.recv(room(needed), (!needed.is_empty()).then_some(*rank))?);
        }
        for Neighbor { rank, given, .. } in &self.neighbors {
            outgoing.push(plan.send(room(given), (!given.is_empty()).then_some(*rank))?);
        }
        Ok(Box::new(Messages { fields: fields.len(), plan, outgoing, incoming }))
    }
}

/// What is left of `early` without the cells that need `piece`, which lies outside of `inner`.
fn without_reach<const D: usize>(
    early: Block<D>,
    inner: Block<D>,
    piece: &Block<D>,
    halo: &Halo<D>,
) -> Block<D> {
    let (mut start, mut end) = (early.start(), early.end());
    for axis in 0..D {
        let [before, behind] = halo.widths()[axis];
        if piece.end()[axis] <= inner.start()[axis] {
            start[axis] = start[axis].max(inner.start()[axis] + before);
        } else if piece.start()[axis] >= inner.end()[axis] {
            end[axis] = end[axis].min(inner.end()[axis].saturating_sub(behind));
        }
    }
    let shape = std::array::from_fn(|axis| end[axis].saturating_sub(start[axis]));
    Block::new(start, shape)
}

/// Copies the cells of a block to the beginning of `buffer`; returns what is left of it.
fn pack<'b, T: Copy, const D: usize>(
    cells: &[T],
    shape: [usize; D],
    block: &Block<D>,
    buffer: &'b mut [T],
) -> &'b mut [T] {
    let len = block.shape()[D - 1];
    let (buffer, rest) = buffer.split_at_mut(block.len());
    if len == 1 {
        for (value, at) in buffer.iter_mut().zip(rows(block, shape)) {
            *value = cells[at];
        }
    } else {
        for (line, at) in buffer.chunks_exact_mut(len.max(1)).zip(rows(block, shape)) {
            line.copy_from_slice(&cells[at..at + len]);
        }
    }
    rest
}

/// Copies the beginning of `buffer` to the cells of a block; returns what is left of it.
fn unpack<'b, T: Copy, const D: usize>(
    cells: &mut [T],
    shape: [usize; D],
    block: &Block<D>,
    buffer: &'b [T],
) -> &'b [T] {
    let len = block.shape()[D - 1];
    let (buffer, rest) = buffer.split_at(block.len());
    if len == 1 {
        for (&value, at) in buffer.iter().zip(rows(block, shape)) {
            cells[at] = value;
        }
    } else {
        for (line, at) in buffer.chunks_exact(len.max(1)).zip(rows(block, shape)) {
            cells[at..at + len].copy_from_slice(line);
        }
    }
    rest
}

/// Border cells under way between a [`DistArray`](super::DistArray) and its neighbours.
///
/// Dropped, it waits for them and lets them go.
#[must_use = "the halo is filled by `finish`"]
pub struct Exchange<T: Datum, const D: usize>
where
    [usize; D]: Axes,
{
    messages: Option<Box<Messages<T>>>,
    /// Whether all have come.
    is_done: bool,
    frame: Rc<Frame<D>>,
}

impl<T: Datum, const D: usize> Exchange<T, D>
where
    [usize; D]: Axes,
{
    /// Whether this exchange was begun for arrays of this frame.
    pub(super) fn is_of(&self, frame: &Rc<Frame<D>>) -> bool {
        Rc::ptr_eq(&self.frame, frame)
    }

    /// Whether the neighbours' cells have come, without waiting for them.
    ///
    /// An MPI library moves large messages only while the program is in one of its calls: a long
    /// computation calls this now and then, so that they are on their way meanwhile. `update` does.
    ///
    /// # Errors
    /// As [`Plan::test`].
    #[track_caller]
    pub fn test(&mut self) -> Result<bool> {
        self.test_at(Location::caller())
    }

    /// As [`Self::test`], called by the program at `at`.
    pub(super) fn test_at(&mut self, at: &'static Location<'static>) -> Result<bool> {
        let Some(messages) = self.messages.as_mut().filter(|_| !self.is_done) else {
            return Ok(true);
        };
        let test = || messages.plan.test();
        self.is_done = self.frame.moving("halo test", false, at, test)?;
        Ok(self.is_done)
    }

    /// Waits for the neighbours' cells and writes them into the halo of these fields.
    pub(super) fn finish_into(
        mut self,
        fields: &mut [&mut [T]],
        at: &'static Location<'static>,
    ) -> Result<()> {
        let Some(mut messages) = self.messages.take() else { return Ok(()) };
        if messages.fields != fields.len() {
            self.messages = Some(messages);
            let what = "the exchange was begun with another number of fields".to_owned();
            return Err(self.frame.comm.refuse(
                "halo finish",
                ErrorKind::InvalidArgument { what },
                at,
            ));
        }
        let frame = Rc::clone(&self.frame);
        let is_done = self.is_done;
        frame.moving("halo finish", false, at, || {
            if !is_done {
                messages.plan.wait()?;
            }
            for (neighbor, &incoming) in frame.neighbors.iter().zip(&messages.incoming) {
                let mut rest = messages.plan.get(incoming)?;
                for cells in fields.iter_mut() {
                    for block in &neighbor.needed {
                        rest = unpack(cells, frame.shape, block, rest);
                    }
                }
            }
            Ok(())
        })?;
        frame.idle.borrow_mut().push(messages);
        Ok(())
    }
}

impl<T: Datum, const D: usize> Drop for Exchange<T, D>
where
    [usize; D]: Axes,
{
    fn drop(&mut self) {
        // What comes later must not be taken for what the next exchange waits for. While a panic
        // ends the job nobody waits.
        let Some(mut messages) = self.messages.take() else { return };
        if self.is_done || !std::thread::panicking() && messages.plan.wait().is_ok() {
            self.frame.idle.borrow_mut().push(messages);
        } else {
            self.frame.broken.set(true);
        }
    }
}
