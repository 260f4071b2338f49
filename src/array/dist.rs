//! Arrays whose blocks lie on different ranks.

use std::{fmt, panic::Location, rc::Rc};

use ndarray::{ArrayView, ArrayViewMut};

use super::{
    Axes, Block, Exchange, Halo, Layout,
    frame::Frame,
    lines::{Ground, Line, flat, parts, rows, shell},
};
use crate::{
    comm::Comm,
    datum::Datum,
    error::{Call, ErrorKind, Result, With},
};

/// `ndarray`'s type for the axes of an array.
type Dim<const D: usize> = <[usize; D] as Axes>::Dim;

/// An array of `D` axes (1 to 6) whose blocks lie on the ranks of a communicator: this rank's
/// block, and around it a halo of cells that are copied from other ranks.
///
/// A [`Layout`] says who owns what, a [`Halo`] which cells are copied and what lies beyond the ends
/// of the array. Cells are named by their global index. What does not say that it is collective
/// looks at this rank's block only.
///
/// # Examples
/// Heat flows in a plate whose border is kept at 0, in three steps; any number of ranks comes to
/// the same bits.
/// ```
/// use spmd::array::{DistArray, Halo, Layout};
/// const NEIGHBORS: [[isize; 2]; 5] = [[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]];
/// let on = |ranks| spmd::local(ranks, |world| {
///     let layout = Layout::new([40, 60], world.size());
///     let mut old = DistArray::from_fn(world, &layout, Halo::star(1), |[i, j]| (i * j) as f64)?;
///     let mut new = old.clone();
///     for _step in 0..3 {
///         old.update(&mut new, NEIGHBORS, |[here, north, south, west, east]| {
///             here + 0.2 * ((north + south) + (west + east) - 4.0 * here)
///         })?;
///         std::mem::swap(&mut old, &mut new);
///     }
///     Ok(old.checksum()?)
/// });
/// assert_eq!(on(1).unwrap()[0], on(6).unwrap()[0]);
/// ```
pub struct DistArray<T: Datum, const D: usize>
where
    [usize; D]: Axes,
{
    pub(super) frame: Rc<Frame<D>>,
    /// The block and its halo.
    pub(super) cells: Vec<T>,
}

/// So many cells are computed by a thread before its rank looks after messages: some 100 µs. Tests
/// have small arrays.
const PART: usize = if cfg!(test) { 8 } else { 1 << 17 };

/// The widest halo: the owner of each of its cells along an axis is looked up.
const WIDEST: usize = 1 << 20;

/// # Making one
impl<T: Datum + Default, const D: usize> DistArray<T, D>
where
    [usize; D]: Axes,
{
    /// An array whose cells are `value(global index)`; around the blocks it holds the type's
    /// default until halos are exchanged.
    ///
    /// # Collective
    /// All ranks of `comm`, with the same layout and halo; one [`dup`](Comm::dup). Arrays made of
    /// this one ([`like`](Self::like), [`map`](Self::map), `clone`) cost no message.
    ///
    /// # Errors
    /// [`ErrorKind::CollectiveMismatch`] if layouts or halos differ;
    /// [`ErrorKind::InvalidArgument`] if the layout has more ranks than `comm`, the halo is wider
    /// than 2²⁰ cells, or it does not fit into this rank's memory with the block.
    #[track_caller]
    pub fn from_fn(
        comm: &Comm,
        layout: &Layout<D>,
        halo: Halo<D>,
        value: impl FnMut([usize; D]) -> T,
    ) -> Result<Self> {
        let at = Location::caller();
        let frame = Frame::shared(comm, layout, &halo, at)?;
        Self::fill(frame, value).map_err(|what| {
            comm.refuse("DistArray::from_fn", ErrorKind::InvalidArgument { what }, at)
        })
    }

    /// Another array with the layout and the halo of this one, whose cells are
    /// `value(global index)`.
    ///
    /// # Panics
    /// If it does not fit into this rank's memory.
    #[must_use]
    pub fn like(&self, value: impl FnMut([usize; D]) -> T) -> Self {
        match Self::fill(Rc::clone(&self.frame), value) {
            Ok(array) => array,
            Err(what) => panic!("{what}"),
        }
    }

    pub(super) fn fill(
        frame: Rc<Frame<D>>,
        mut value: impl FnMut([usize; D]) -> T,
    ) -> Result<Self, String> {
        let mut cells = room(frame.shape)?;
        cells.resize(Block::whole(frame.shape).len(), T::default());
        let len = frame.block.shape()[D - 1];
        let mut indices = frame.block.indices();
        for row in rows(&frame.inner, frame.shape) {
            for (cell, index) in cells[row..row + len].iter_mut().zip(&mut indices) {
                *cell = value(index);
            }
        }
        Ok(Self { frame, cells })
    }

    /// An array of the same layout and halo, whose cells are made of this one's.
    pub fn map<U: Datum + Default>(&self, mut value: impl FnMut(T) -> U) -> DistArray<U, D> {
        let mut mine = self.block_values();
        let made = DistArray::fill(Rc::clone(&self.frame), |_| {
            value(mine.next().expect("a value for each cell of the block"))
        });
        made.unwrap_or_else(|what| panic!("{what}"))
    }
}

/// Room for an array of this shape, if it fits into memory: an allocation that fails would end the
/// process without a word of which rank it was.
pub(super) fn room<T, const D: usize>(shape: [usize; D]) -> Result<Vec<T>, String> {
    let mut cells = Vec::new();
    if cells.try_reserve_exact(Block::whole(shape).len()).is_ok() {
        return Ok(cells);
    }
    let shape = shape.map(|len| len.to_string()).join(" x ");
    Err(format!("a block of {shape} cells does not fit into this rank's memory"))
}

/// # Places
impl<T: Datum, const D: usize> DistArray<T, D>
where
    [usize; D]: Axes,
{
    /// Who owns what.
    pub fn layout(&self) -> &Layout<D> {
        &self.frame.layout
    }

    /// Which cells are copied around the blocks.
    pub fn halo(&self) -> Halo<D> {
        self.frame.halo
    }

    /// The ranks on which it lies: a communicator with a message space of this array and those
    /// made of it.
    pub fn comm(&self) -> &Comm {
        &self.frame.comm
    }

    /// The shape of the global array.
    pub fn shape(&self) -> [usize; D] {
        self.frame.layout.shape()
    }

    /// The global indices of this rank's block.
    pub fn block(&self) -> Block<D> {
        self.frame.block
    }

    /// Where the block lies in the array with its halo.
    pub(crate) fn inner(&self) -> Block<D> {
        self.frame.inner
    }

    pub(super) fn ground(&self) -> Ground<'_, D> {
        let Frame { shape, halo, inner, block, .. } = &*self.frame;
        Ground { shape: *shape, halo, inner: inner.start(), global: block.start() }
    }

    /// Where a cell of this rank's block lies in memory.
    fn place(&self, index: [usize; D]) -> Option<usize> {
        let Frame { shape, inner, block, .. } = &*self.frame;
        block.contains(index).then(|| {
            let (start, first) = (block.start(), inner.start());
            flat(*shape, std::array::from_fn(|axis| index[axis] - start[axis] + first[axis]))
        })
    }
}

/// # Cells of this rank
impl<T: Datum, const D: usize> DistArray<T, D>
where
    [usize; D]: Axes,
{
    /// This rank's block.
    pub fn view(&self) -> ArrayView<'_, T, Dim<D>> {
        self.frame.inner.of(self.view_with_halo())
    }

    /// This rank's block, to be changed.
    pub fn view_mut(&mut self) -> ArrayViewMut<'_, T, Dim<D>> {
        let inner = self.frame.inner;
        inner.of_mut(self.view_with_halo_mut())
    }

    /// This rank's block and its halo.
    pub fn view_with_halo(&self) -> ArrayView<'_, T, Dim<D>> {
        let view = ArrayView::from_shape(self.frame.shape.dim(), &self.cells);
        view.expect("there are as many cells as the shape says")
    }

    /// This rank's block and its halo, to be changed.
    ///
    /// What an exchange brings replaces what was written into the halo, but for cells beyond
    /// [fixed](super::Boundary::Fixed) ends.
    pub fn view_with_halo_mut(&mut self) -> ArrayViewMut<'_, T, Dim<D>> {
        let view = ArrayViewMut::from_shape(self.frame.shape.dim(), &mut self.cells);
        view.expect("there are as many cells as the shape says")
    }

    /// The cell at a global index, if this rank owns it.
    pub fn get(&self, index: [usize; D]) -> Option<T> {
        self.place(index).map(|place| self.cells[place])
    }

    /// Changes the cell at a global index if this rank owns it, and says whether it does.
    pub fn set(&mut self, index: [usize; D], value: T) -> bool {
        let place = self.place(index);
        if let Some(place) = place {
            self.cells[place] = value;
        }
        place.is_some()
    }

    /// The values of this rank's block, the last axis fastest.
    pub(super) fn block_values(&self) -> impl Iterator<Item = T> + '_ {
        let len = self.frame.block.shape()[D - 1];
        rows(&self.frame.inner, self.frame.shape)
            .flat_map(move |row| self.cells[row..row + len].iter().copied())
    }

    /// Sets the cells of the halo that lie beyond fixed ends of the global array to
    /// `value(place)`: -1 is the cell before the first along an axis.
    pub fn set_boundary(&mut self, mut value: impl FnMut([isize; D]) -> T) {
        let Frame { layout, block, inner, shape, .. } = &*self.frame;
        let (global, inner) = (layout.shape(), inner.start());
        for index in Block::whole(*shape).indices() {
            let place: [isize; D] = std::array::from_fn(|axis| {
                block.start()[axis] as isize + index[axis] as isize - inner[axis] as isize
            });
            if (0..D).any(|axis| !(0..global[axis] as isize).contains(&place[axis])) {
                self.cells[flat(*shape, index)] = value(place);
            }
        }
    }

    /// Changes every cell of this rank's block, on all threads of the rank.
    pub fn map_inplace(&mut self, value: impl Fn(T) -> T + Sync)
    where
        T: Sync,
    {
        self.change(|cells, _| cells.iter_mut().for_each(|cell| *cell = value(*cell)));
    }

    /// Changes every cell of this rank's block by its global index, on all threads of the rank.
    pub fn map_indexed(&mut self, value: impl Fn([usize; D], T) -> T + Sync)
    where
        T: Sync,
    {
        self.change(|cells, mut index| {
            for cell in cells {
                *cell = value(index, *cell);
                index[D - 1] += 1;
            }
        });
    }

    /// Changes every cell of this rank's block by that of another array there, on all threads of
    /// the rank.
    ///
    /// # Panics
    /// If this rank's blocks differ.
    pub fn zip_inplace<U: Datum + Sync>(
        &mut self,
        other: &DistArray<U, D>,
        value: impl Fn(T, U) -> T + Sync,
    ) where
        T: Sync,
    {
        assert_eq!(self.block(), other.block(), "the arrays have the same blocks");
        let (start, others) = (self.block().start(), &other.cells[..]);
        let (shape, inner) = (other.frame.shape, other.frame.inner.start());
        self.change(|cells, index| {
            let local: [usize; D] =
                std::array::from_fn(|axis| index[axis] - start[axis] + inner[axis]);
            let others = &others[flat(shape, local)..][..cells.len()];
            for (cell, &other) in cells.iter_mut().zip(others) {
                *cell = value(*cell, other);
            }
        });
    }

    /// Calls `kernel` for every line of the block with its cells and the global index of the first.
    pub(super) fn change(&mut self, kernel: impl Fn(&mut [T], [usize; D]) + Sync)
    where
        T: Sync,
    {
        let frame = Rc::clone(&self.frame);
        let Frame { shape, halo, inner, block, .. } = &*frame;
        let ground = Ground { shape: *shape, halo, inner: inner.start(), global: block.start() };
        let nothing: &[()] = &[];
        ground.write(nothing, (&mut self.cells, 0), inner, &|cells, line| {
            kernel(cells, line.index());
        });
    }
}

/// # Halos and stencils
impl<T: Datum, const D: usize> DistArray<T, D>
where
    [usize; D]: Axes,
{
    /// Brings the halo up to date.
    ///
    /// # Collective
    /// A message to each neighbour whose cells are copied, and one from it; nothing is allocated
    /// after the first time.
    ///
    /// # Errors
    /// As [`Plan::start`](crate::Plan::start) and [`Plan::wait`](crate::Plan::wait).
    #[track_caller]
    pub fn exchange(&mut self) -> Result<()> {
        let at = Location::caller();
        let fields = &mut [&mut self.cells[..]];
        self.frame.begin(fields, at)?.finish_into(fields, at)
    }

    /// Begins to bring the halo up to date: this rank's border cells travel from now on. Until
    /// [`finish`](Exchange::finish) has brought those of the others the block may be read, and
    /// changed, but its halo is not up to date.
    ///
    /// # Collective
    /// As [`exchange`](Self::exchange).
    ///
    /// # Errors
    /// As [`Plan::start`](crate::Plan::start).
    #[track_caller]
    pub fn begin(&mut self) -> Result<Exchange<T, D>> {
        let at = Location::caller();
        self.frame.begin(&mut [&mut self.cells[..]], at)
    }

    /// Brings the halos of several arrays up to date, all by one message to each neighbour.
    ///
    /// # Collective
    /// As [`exchange`](Self::exchange), with the arrays in the same order.
    ///
    /// # Errors
    /// As [`exchange`](Self::exchange); [`ErrorKind::InvalidArgument`] if the arrays have not been
    /// made of one another, so that layout and halo are the same.
    #[track_caller]
    pub fn exchange_all<const N: usize>(mut arrays: [&mut Self; N]) -> Result<()> {
        let at = Location::caller();
        let Some(first) = arrays.first() else { return Ok(()) };
        let frame = Rc::clone(&first.frame);
        if !arrays.iter().all(|array| Rc::ptr_eq(&array.frame, &frame)) {
            let what = "the arrays have not been made of one another".to_owned();
            return Err(frame.refuse("exchange_all", what, at));
        }
        let mut fields = arrays.each_mut().map(|array| &mut array.cells[..]);
        frame.begin(&mut fields, at)?.finish_into(&mut fields, at)
    }

    /// Writes into every cell of `out` what `kernel` makes of the cells at these offsets from it,
    /// on all threads of the rank: a stencil.
    ///
    /// Halos are exchanged on the way, while the cells are computed that need none. The order of
    /// operations of a cell is the kernel's, so that every number of ranks gives the same bits.
    ///
    /// # Collective
    /// As [`exchange`](Self::exchange).
    ///
    /// # Errors
    /// As [`exchange`](Self::exchange); [`ErrorKind::InvalidArgument`] if the halo does not reach
    /// an offset, or `out` has other blocks: then this rank exchanges nothing any more for arrays
    /// made of this one ([`ErrorKind::BrokenCommunicator`]), since others may have made the call.
    #[track_caller]
    pub fn update<U: Datum, const K: usize>(
        &mut self,
        out: &mut DistArray<U, D>,
        offsets: [[isize; D]; K],
        kernel: impl Fn([T; K]) -> U + Sync,
    ) -> Result<()>
    where
        T: Sync,
    {
        let at = Location::caller();
        if let Some(offset) = offsets.into_iter().find(|&offset| !self.frame.halo.reaches(offset)) {
            let what = format!("the halo does not reach the cells at {offset:?}");
            return Err(self.frame.refuse("update", what, at));
        }
        self.update_at(out, at, |out, line| {
            let len = out.len();
            // Said of each slice, so that the loop needs no checks.
            let around = offsets.map(|offset| &line.at(offset)[..len]);
            let here = &line.at([0; D])[..len];
            for i in 0..len {
                // Not by `array::map`: where that is not inlined, the loop is twenty times as slow.
                let mut values = [here[i]; K];
                for (value, line) in values.iter_mut().zip(&around) {
                    *value = line[i];
                }
                out[i] = kernel(values);
            }
        })
    }

    /// As [`update`](Self::update), for kernels that want whole lines of cells: `kernel` writes a
    /// line of `out`, in which it finds what was there, and reads the cells [around](Line::at) it.
    ///
    /// # Collective
    /// As [`exchange`](Self::exchange).
    ///
    /// # Errors
    /// As [`update`](Self::update).
    #[track_caller]
    pub fn update_lines<U: Datum>(
        &mut self,
        out: &mut DistArray<U, D>,
        kernel: impl Fn(&mut [U], Line<'_, T, D>) + Sync,
    ) -> Result<()>
    where
        T: Sync,
    {
        self.update_at(out, Location::caller(), kernel)
    }

    fn update_at<U: Datum>(
        &mut self,
        out: &mut DistArray<U, D>,
        at: &'static Location<'static>,
        kernel: impl Fn(&mut [U], Line<'_, T, D>) + Sync,
    ) -> Result<()>
    where
        T: Sync,
    {
        let frame = Rc::clone(&self.frame);
        if (out.frame.block, out.frame.shape, out.frame.inner)
            != (frame.block, frame.shape, frame.inner)
        {
            let what = "the arrays have other blocks or halos of another width".to_owned();
            return Err(frame.refuse("update", what, at));
        }
        let mut exchange = frame.begin(&mut [&mut self.cells[..]], at)?;
        // Between parts, messages that are too large to be on their way by themselves are helped on.
        let parts = parts(&frame.early, PART * rayon::current_num_threads());
        for (number, part) in parts.enumerate() {
            if number > 0 {
                exchange.test_at(at)?;
            }
            self.ground().write(&self.cells, (&mut out.cells, 0), &part, &kernel);
        }
        exchange.finish_into(&mut [&mut self.cells[..]], at)?;
        for rest in shell(&frame.inner, &frame.early) {
            self.ground().write(&self.cells, (&mut out.cells, 0), &rest, &kernel);
        }
        Ok(())
    }
}

impl<T: Datum, const D: usize> Exchange<T, D>
where
    [usize; D]: Axes,
{
    /// Waits for the neighbours' border cells and writes them into the halo of `array`, for which
    /// it was begun.
    ///
    /// # Errors
    /// As [`Plan::wait`](crate::Plan::wait); [`ErrorKind::InvalidArgument`] if it was begun for an
    /// array of another layout or halo.
    #[track_caller]
    pub fn finish(self, array: &mut DistArray<T, D>) -> Result<()> {
        let at = Location::caller();
        if !self.is_of(&array.frame) {
            let what = "the exchange was begun for another array".to_owned();
            let why = ErrorKind::InvalidArgument { what };
            return Err(array.frame.comm.refuse("halo finish", why, at));
        }
        self.finish_into(&mut [&mut array.cells[..]], at)
    }
}

impl<const D: usize> Frame<D>
where
    [usize; D]: Axes,
{
    /// A frame for all arrays of this layout and halo. Collective.
    pub(super) fn shared(
        comm: &Comm,
        layout: &Layout<D>,
        halo: &Halo<D>,
        at: &'static Location<'static>,
    ) -> Result<Rc<Self>> {
        const OP: &str = "DistArray::from_fn";
        if layout.ranks() > comm.size() {
            let what = format!("the layout is for {} ranks of {}", layout.ranks(), comm.size());
            return Err(comm.refuse(OP, ErrorKind::InvalidArgument { what }, at));
        }
        if let Some(width) = halo.widths().into_iter().flatten().find(|&width| width > WIDEST) {
            let what = format!("a halo of {width} cells is wider than {WIDEST}");
            return Err(comm.refuse(OP, ErrorKind::InvalidArgument { what }, at));
        }
        let mut words = Vec::new();
        for axis in 0..D {
            words.extend(layout.starts(axis));
            words.extend(halo.widths()[axis]);
            words.extend(halo.boundaries()[axis].map(|boundary| boundary as usize));
        }
        words.push(halo.stencil() as usize);
        let call = Call { op: OP, with: With::ALL, at };
        let comm = comm.dup_for(call, &words, |words| {
            format!("an array of another layout or halo (in numbers: {words:?})")
        })?;
        Ok(Rc::new(Self::new(comm, layout, halo)))
    }
}

impl<T: Datum, const D: usize> Clone for DistArray<T, D>
where
    [usize; D]: Axes,
{
    fn clone(&self) -> Self {
        Self { frame: Rc::clone(&self.frame), cells: self.cells.clone() }
    }

    fn clone_from(&mut self, source: &Self) {
        self.frame = Rc::clone(&source.frame);
        self.cells.clone_from(&source.cells);
    }
}

/// This rank's block, and where it lies.
impl<T: Datum + fmt::Debug, const D: usize> fmt::Debug for DistArray<T, D>
where
    [usize; D]: Axes,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "block {} of {}:", self.frame.block, self.frame.layout)?;
        fmt::Debug::fmt(&self.view(), f)
    }
}
