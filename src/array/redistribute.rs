//! From one layout to another, to one rank and from it.

use std::{panic::Location, rc::Rc, sync::Arc};

use ndarray::{Array, ArrayView};

use super::{
    Axes, Block, DistArray, Halo, Layout,
    dist::room,
    frame::Frame,
    lines::{flat, unflat},
};
use crate::{
    comm::{Comm, Ragged, ReduceOp},
    datum::Datum,
    error::{Error, ErrorKind, Result},
};

/// Cells of a block.
type CellsOf<'a, T, const D: usize> = ArrayView<'a, T, <[usize; D] as Axes>::Dim>;

/// The tag of these messages; those of halos have another.
const TAG: u32 = 1;

/// Who holds which block of an array: ranks of a communicator.
type Holders<const D: usize> = [(usize, Block<D>)];

/// The blocks of a layout, of which `ranks` tells who holds each.
fn blocks_of<const D: usize>(layout: &Layout<D>, ranks: &[usize]) -> Vec<(usize, Block<D>)> {
    ranks.iter().enumerate().map(|(rank, &holder)| (holder, layout.block(rank))).collect()
}

/// The block in the coordinates of an array whose axis `axis` is this one's `axes[axis]`.
fn permuted<const D: usize>(block: &Block<D>, axes: [usize; D]) -> Block<D> {
    Block::new(axes.map(|axis| block.start()[axis]), axes.map(|axis| block.shape()[axis]))
}

/// Moves all cells of blocks that ranks of `comm` hold to where they belong in `target`; `own` is
/// the block of this rank among them, and its cells. Collective over `comm`.
fn transfer<T: Datum + Default, const D: usize>(
    comm: &Comm,
    (from, own): (&Holders<D>, Option<(Block<D>, CellsOf<'_, T, D>)>),
    (to, target): (&Holders<D>, Option<&mut DistArray<T, D>>),
) -> Result<()>
where
    [usize; D]: Axes,
{
    let me = comm.rank();
    let (mut incoming, mut outgoing) = (Vec::new(), Vec::new());
    // What this rank has of the target's block, and where it goes there.
    let mut stays = None;
    if let Some((mine, cells)) = own {
        for (rank, block) in to {
            let part = mine.intersect(block);
            if part.is_empty() {
                continue;
            }
            let cells = part.relative_to(mine.start()).of(cells.view());
            let packed: Vec<T> = cells.iter().copied().collect();
            if *rank == me {
                stays = Some((part, packed));
            } else {
                outgoing.push((*rank, packed));
            }
        }
    }
    if let Some(target) = &target {
        for (rank, block) in from.iter().filter(|&&(rank, _)| rank != me) {
            let part = target.block().intersect(block);
            if !part.is_empty() {
                incoming.push((*rank, part, vec![T::default(); part.len()]));
            }
        }
    }
    comm.scope(|scope| {
        for (rank, _, cells) in &mut incoming {
            scope.irecv(&mut cells[..], (*rank, TAG))?;
        }
        for (rank, cells) in &outgoing {
            scope.isend(&cells[..], (*rank, TAG))?;
        }
        Ok(())
    })?;
    if let Some(target) = target {
        let start = target.block().start();
        let arrived = incoming.into_iter().map(|(_, part, cells)| (part, cells));
        for (part, cells) in arrived.chain(stays) {
            let cells = ArrayView::from_shape(part.shape().dim(), &cells);
            let cells = cells.expect("there are as many cells as the part has");
            part.relative_to(start).of_mut(target.view_mut()).assign(&cells);
        }
    }
    Ok(())
}

/// # To other layouts
impl<T: Datum + Default, const D: usize> DistArray<T, D>
where
    [usize; D]: Axes,
{
    /// The same array, cut in another way.
    ///
    /// # Collective
    /// A [`dup`](Comm::dup), and a message from each rank to each whose new block has cells of its
    /// old one. Where layout and halo are those of this array: nothing, all ranks copy what they
    /// have.
    ///
    /// # Errors
    /// As [`from_fn`](Self::from_fn); [`ErrorKind::InvalidArgument`] if the shapes differ.
    ///
    /// # Examples
    /// ```
    /// use spmd::array::{DistArray, Halo, Layout};
    /// spmd::local(4, |world| {
    ///     let (rows, columns) = (Layout::along([8, 6], 4, &[0]), Layout::along([8, 6], 4, &[1]));
    ///     let by_rows = DistArray::from_fn(world, &rows, Halo::none(), |[i, j]| 10 * i + j)?;
    ///     let by_columns = by_rows.redistribute(&columns, Halo::none())?;
    ///     assert_eq!(by_columns.checksum()?, by_rows.checksum()?);
    ///     Ok(())
    /// });
    /// ```
    #[track_caller]
    pub fn redistribute(&self, layout: &Layout<D>, halo: Halo<D>) -> Result<Self> {
        let at = Location::caller();
        if (layout, halo) == (self.layout(), self.halo()) {
            let mut mine = self.block_values();
            let same = Self::fill(Rc::clone(&self.frame), |_| mine.next().unwrap_or_default());
            return same.map_err(|what| {
                self.comm().refuse("redistribute", ErrorKind::InvalidArgument { what }, at)
            });
        }
        let mut other = Self::from_fn(self.comm(), layout, halo, |_| T::default())
            .map_err(|error| error.called_at(at))?;
        self.redistribute_into(&mut other).map_err(|error| error.called_at(at))?;
        Ok(other)
    }

    /// Copies all cells into an array of any other layout on the same ranks.
    ///
    /// # Collective
    /// A message from each rank to each whose block of `other` has cells of its own; none where the
    /// layouts are equal.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the shapes differ, or the communicators have different
    /// sizes.
    #[track_caller]
    pub fn redistribute_into(&self, other: &mut Self) -> Result<()> {
        self.permute(other, std::array::from_fn(|axis| axis), Location::caller())
    }

    /// As [`redistribute_into`](Self::redistribute_into), with axes in another order: axis `axis`
    /// of `other` is this array's `axes[axis]`. With `[1, 0]` it is the transpose.
    ///
    /// # Collective
    /// As [`redistribute_into`](Self::redistribute_into).
    ///
    /// # Errors
    /// As [`redistribute_into`](Self::redistribute_into); [`ErrorKind::InvalidArgument`] if `axes`
    /// does not name each axis once.
    #[track_caller]
    pub fn permute_into(&self, other: &mut Self, axes: [usize; D]) -> Result<()> {
        self.permute(other, axes, Location::caller())
    }

    fn permute(
        &self,
        other: &mut Self,
        axes: [usize; D],
        at: &'static Location<'static>,
    ) -> Result<()> {
        let comm = self.comm();
        let refuse =
            |what| Err(comm.refuse("redistribute", ErrorKind::InvalidArgument { what }, at));
        if !(0..D).all(|axis| axes.contains(&axis)) {
            return refuse(format!("{axes:?} does not name each of {D} axes once"));
        }
        let shape = axes.map(|axis| self.shape()[axis]);
        if shape != other.shape() {
            return refuse(format!("an array of {:?} gets cells of {shape:?}", other.shape()));
        }
        if comm.size() != other.comm().size() {
            let sizes = (comm.size(), other.comm().size());
            return refuse(format!("the arrays lie on {} and {} ranks", sizes.0, sizes.1));
        }
        if axes.is_sorted() && self.layout() == other.layout() {
            return self.frame.moving("redistribute", true, at, || {
                other.view_mut().assign(&self.view());
                Ok(())
            });
        }
        let ranks: Vec<usize> = (0..comm.size()).collect();
        let layout = other.layout().clone();
        let from = blocks_of(self.layout(), &ranks);
        let from: Vec<_> =
            from.into_iter().map(|(rank, block)| (rank, permuted(&block, axes))).collect();
        let to = blocks_of(&layout, &ranks);
        let own = (permuted(&self.block(), axes), self.view().permuted_axes(axes.dim()));
        self.frame.moving("redistribute", true, at, || {
            transfer(comm, (&from, Some(own)), (&to, Some(other)))
        })
    }

    /// Takes the cells of blocks that ranks of `comm`, which are those of this array, hold: each
    /// goes to the rank whose it is here. `own` is this rank's block among them, and its cells, the
    /// last axis fastest.
    ///
    /// Collective.
    pub(crate) fn take_blocks(
        &mut self,
        comm: &Comm,
        from: &Holders<D>,
        own: Option<(Block<D>, &[T])>,
    ) -> Result<()> {
        let ranks: Vec<usize> = (0..comm.size()).collect();
        let to = blocks_of(self.layout(), &ranks[..self.layout().ranks()]);
        let own = own.map(|(block, cells)| {
            let cells = ArrayView::from_shape(block.shape().dim(), cells);
            (block, cells.expect("there are as many cells as the block has"))
        });
        transfer(comm, (from, own), (&to, Some(self)))
    }

    /// Copies all cells of an array that lies on some ranks of `comm` into one that lies on others,
    /// or on fewer, or more. A rank that has no part in an array gives none.
    ///
    /// # Collective
    /// All ranks of `comm`; a [`dup`](Comm::dup), two allgathers of the layouts, and messages as
    /// [`redistribute_into`](Self::redistribute_into).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`], on all ranks, if a rank of an array is missing or there
    /// twice, or the shapes differ.
    ///
    /// # Examples
    /// ```
    /// use spmd::array::{DistArray, Halo, Layout};
    /// spmd::local(5, |world| {
    ///     let layout = |ranks| Layout::new([9, 7], ranks);
    ///     let all = DistArray::from_fn(world, &layout(5), Halo::none(), |[i, j]| i * j)?;
    ///     let few = world.split((world.rank() < 2).then_some(0), 0)?;
    ///     let mut on_few = match &few {
    ///         Some(few) => Some(DistArray::from_fn(few, &layout(2), Halo::none(), |_| 0)?),
    ///         None => None,
    ///     };
    ///     DistArray::copy_between(world, Some(&all), on_few.as_mut())?;
    ///     let sum = all.sum()?;
    ///     if let Some(on_few) = on_few {
    ///         assert_eq!(on_few.sum()?, sum);
    ///     }
    ///     Ok(())
    /// }).unwrap();
    /// ```
    #[track_caller]
    pub fn copy_between(comm: &Comm, from: Option<&Self>, to: Option<&mut Self>) -> Result<()> {
        let at = Location::caller();
        // A message space of its own: the program's messages are never taken for these.
        let comm = &comm.dup().map_err(|error| error.called_at(at))?;
        let describe = |array: Option<&Self>| {
            let Some(array) = array else { return Vec::new() };
            let layout = array.layout();
            let starts = (0..D).flat_map(|axis| {
                let starts = layout.starts(axis);
                std::iter::once(starts.len()).chain(starts.iter().copied())
            });
            [array.comm().rank(), array.comm().size()].into_iter().chain(starts).collect()
        };
        let mine = [describe(from), describe(to.as_deref())];
        let mut sides = Vec::new();
        for mine in &mine {
            let all = comm.allgather(mine).map_err(|error| error.called_at(at))?;
            sides.push(all);
        }
        let refuse = |what: &str| {
            let what = what.to_owned();
            comm.refuse("copy_between", ErrorKind::InvalidArgument { what }, at)
        };
        let held: Vec<(Layout<D>, Vec<usize>)> =
            sides.iter().map(|side| holders(side).map_err(refuse)).collect::<Result<_>>()?;
        let [(from_layout, from_ranks), (to_layout, to_ranks)] = &held[..] else {
            unreachable!("there are two sides");
        };
        if from_layout.shape() != to_layout.shape() {
            return Err(refuse("the arrays have different shapes"));
        }
        let source = blocks_of(from_layout, from_ranks);
        let target = blocks_of(to_layout, to_ranks);
        let own = from.map(|array| (array.block(), array.view()));
        transfer(comm, (&source, own), (&target, to)).map_err(|error| error.called_at(at))
    }
}

/// The layout of an array, and which ranks hold it, by what all ranks say of it.
fn holders<const D: usize>(said: &Ragged<usize>) -> Result<(Layout<D>, Vec<usize>), &'static str> {
    let mut holders = said.iter().enumerate().filter(|(_, words)| !words.is_empty());
    let Some((_, [_, size, layout @ ..])) = holders.clone().next() else {
        return Err("no rank has a part in one of the arrays");
    };
    let mut ranks = vec![None; *size];
    for (rank, words) in &mut holders {
        if words[1..] != [&[*size], layout].concat() {
            return Err("the ranks of an array belong to different arrays");
        }
        if ranks[words[0]].replace(rank).is_some() {
            return Err("a rank of an array is there twice");
        }
    }
    let ranks: Option<Vec<usize>> = ranks.into_iter().collect();
    let ranks = ranks.ok_or("a rank of an array is missing in the communicator")?;
    let mut rest = layout;
    let starts: [Arc<[usize]>; D] = std::array::from_fn(|_| {
        let (&count, words) = rest.split_first().unwrap_or((&0, &[]));
        let (starts, behind) = words.split_at(count.min(words.len()));
        rest = behind;
        starts.into()
    });
    if !rest.is_empty() || starts.iter().any(|starts| starts.len() < 2) {
        return Err("an array has other axes on another rank");
    }
    Ok((Layout::from_starts(starts), ranks))
}

/// # To one rank and from it
impl<T: Datum + Default, const D: usize> DistArray<T, D>
where
    [usize; D]: Axes,
{
    /// The whole array on rank `root`, nothing on the others.
    ///
    /// # Collective
    /// A gather of all cells.
    ///
    /// # Errors
    /// As [`Comm::gather`].
    ///
    /// # Panics
    /// On `root`, if the array does not fit into memory.
    #[track_caller]
    pub fn gather(&self, root: usize) -> Result<Option<Array<T, <[usize; D] as Axes>::Dim>>> {
        let at = Location::caller();
        let mine: Vec<T> = self.block_values().collect();
        let rows = self.comm().gather(root, &mine).map_err(|error| error.called_at(at))?;
        Ok(rows.map(|rows| self.assemble(&rows)))
    }

    /// The whole array on every rank.
    ///
    /// # Collective
    /// An allgather of all cells.
    ///
    /// # Errors
    /// As [`Comm::allgather`].
    ///
    /// # Panics
    /// If the array does not fit into memory.
    #[track_caller]
    pub fn replicate(&self) -> Result<Array<T, <[usize; D] as Axes>::Dim>> {
        let at = Location::caller();
        let mine: Vec<T> = self.block_values().collect();
        let rows = self.comm().allgather(&mine).map_err(|error| error.called_at(at))?;
        Ok(self.assemble(&rows))
    }

    /// The whole array of all ranks' blocks.
    fn assemble(&self, rows: &Ragged<T>) -> Array<T, <[usize; D] as Axes>::Dim> {
        let shape = self.shape();
        let mut cells = room(shape).unwrap_or_else(|what| panic!("{what}"));
        cells.resize(Block::whole(shape).len(), T::default());
        let whole = Array::from_shape_vec(shape.dim(), cells);
        let mut whole = whole.expect("there are as many cells as the shape says");
        for (rank, row) in rows.iter().enumerate() {
            let block = self.layout().block(rank);
            let part = ArrayView::from_shape(block.shape().dim(), row);
            let part = part.expect("a rank's row is its block");
            block.of_mut(whole.view_mut()).assign(&part);
        }
        whole
    }

    /// An array whose cells are those of an array on rank `root`, which `make` makes there only.
    ///
    /// # Collective
    /// As [`from_fn`](Self::from_fn), and a scatter of all cells.
    ///
    /// # Errors
    /// As [`from_fn`](Self::from_fn); [`ErrorKind::LengthMismatch`] if the array at the root has
    /// not the shape of the layout.
    #[track_caller]
    pub fn from_root(
        comm: &Comm,
        layout: &Layout<D>,
        halo: Halo<D>,
        root: usize,
        make: impl FnOnce() -> Array<T, <[usize; D] as Axes>::Dim>,
    ) -> Result<Self> {
        let at = Location::caller();
        let shape = layout.shape();
        let rows = || {
            let whole = make();
            // An array of another shape has no rows for anyone, which every rank finds.
            let fits = whole.shape() == shape;
            Ragged::from_rows((0..comm.size()).map(|rank| {
                let block = layout.block(rank);
                let cells = fits.then(|| block.of(whole.view()).into_iter().copied());
                cells.into_iter().flatten().collect::<Vec<_>>()
            }))
        };
        let done = (|| {
            let frame = Frame::shared(comm, layout, &halo, at)?;
            let mine = frame.comm.scatter(root, rows)?;
            let needed = frame.block.len();
            let all_fit =
                frame.comm.allreduce(&[u8::from(mine.len() == needed)], crate::comm::Min)?;
            if all_fit[0] == 0 {
                let (what, got) = ("the root's array in cells for this rank", mine.len());
                let why = ErrorKind::LengthMismatch { what, needed, got };
                return Err(comm.refuse("DistArray::from_root", why, at));
            }
            let mut cells = mine.into_iter();
            Self::fill(frame, |_| cells.next().unwrap_or_default()).map_err(|what| {
                comm.refuse("DistArray::from_root", ErrorKind::InvalidArgument { what }, at)
            })
        })();
        done.map_err(|error: Error| error.called_at(at))
    }

    /// Combines values into cells that any rank may own: cell `index` becomes
    /// `op(cell, value)` for each `(index, value)` that any rank gives, those of lower ranks first,
    /// those of one rank in their order.
    ///
    /// # Collective
    /// Two alltoalls of what goes to other ranks.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`], on this rank, if there is no such cell: nothing of this
    /// rank's is combined then.
    ///
    /// # Examples
    /// ```
    /// use spmd::{array::{DistArray, Halo, Layout}, op::Sum};
    /// let counts = spmd::local(3, |world| {
    ///     let layout = Layout::new([10], world.size());
    ///     let mut histogram = DistArray::from_fn(world, &layout, Halo::none(), |_| 0_u32)?;
    ///     histogram.accumulate((0..5).map(|step| ([2 * step], 1)), Sum)?;
    ///     Ok(histogram.replicate()?.to_vec())
    /// });
    /// assert_eq!(counts.unwrap()[1], [3, 0, 3, 0, 3, 0, 3, 0, 3, 0]);
    /// ```
    #[track_caller]
    pub fn accumulate(
        &mut self,
        updates: impl IntoIterator<Item = ([usize; D], T)>,
        op: impl ReduceOp<T>,
    ) -> Result<()> {
        let at = Location::caller();
        let frame = Rc::clone(&self.frame);
        let (comm, shape) = (&frame.comm, self.shape());
        let mut places = vec![Vec::new(); comm.size()];
        let mut values = vec![Vec::new(); comm.size()];
        let mut outside = None;
        for (index, value) in updates {
            if (0..D).all(|axis| index[axis] < shape[axis]) {
                let owner = frame.layout.owner(index);
                places[owner].push(flat(shape, index));
                values[owner].push(value);
            } else {
                outside.get_or_insert(index);
            }
        }
        if outside.is_some() {
            // The others wait for what this rank has, which is nothing then.
            places.iter_mut().for_each(Vec::clear);
            values.iter_mut().for_each(Vec::clear);
        }
        let places = comm.alltoall(&Ragged::from_rows(places)).map_err(|e| e.called_at(at))?;
        let values = comm.alltoall(&Ragged::from_rows(values)).map_err(|e| e.called_at(at))?;
        for (&place, &value) in places.flat().iter().zip(values.flat()) {
            let index = unflat(shape, place);
            if let Some(cell) = self.get(index) {
                self.set(index, op.apply(cell, value));
            }
        }
        match outside {
            None => Ok(()),
            Some(index) => {
                let what = format!("there is no cell {index:?} in an array of {shape:?}");
                Err(comm.refuse("accumulate", ErrorKind::InvalidArgument { what }, at))
            }
        }
    }
}
