//! What calls take as data: anything that is elements in an order, in one piece or not.

mod tiles;

use std::{borrow::Cow, sync::Arc};

use ndarray::{ArrayBase, ArrayRef, Data, DataMut, Dimension};

use crate::{
    datum::{Buffer, Datum, Landing, bytes_of, bytes_of_mut},
    error::Fault,
};

/// Elements in an order, to be sent: a slice, an array, a `Vec`, a single number, or an `ndarray`
/// array or view of any shape, strided, reversed or transposed.
///
/// What lies in one piece in this order is sent from where it is; else a packed copy is sent.
/// `ndarray`s have their logical (row-major) order on both sides, so that a column can be received
/// as a row, or as a `Vec`.
///
/// ```
/// use ndarray::{array, s};
/// let got = spmd::local(2, |world| {
///     if world.rank() == 0 {
///         let table = array![[1, 2, 3], [4, 5, 6]];
///         world.send(&table.column(1), 1)?; // strided
///         world.send(&table, 1)?; // whole
///         world.send(&7.5, 1)?; // one number
///         return Ok(vec![]);
///     }
///     let mut grid = ndarray::Array2::<i32>::zeros((2, 2));
///     world.recv_into(&mut grid.slice_mut(s![1, ..]), 0)?;
///     assert_eq!(grid, array![[0, 0], [2, 5]]);
///     let (all, _) = world.recv::<i32>(0)?;
///     assert_eq!(world.recv_one::<f64>(0)?.0, 7.5);
///     Ok(all)
/// });
/// assert_eq!(got.unwrap()[1], [1, 2, 3, 4, 5, 6]);
/// ```
pub trait View {
    /// The type of the elements.
    type Elem: Datum;

    /// The number of elements.
    ///
    /// A view whose count is not that of its elements makes calls fail or panic, and does no other
    /// harm.
    fn count(&self) -> usize;

    /// The elements, if they lie in one piece in their order.
    fn as_slice(&self) -> Option<&[Self::Elem]>;

    /// Appends all elements, in their order.
    fn pack(&self, onto: &mut Vec<Self::Elem>);
}

/// Elements in an order, to be overwritten by what is received; see [`View`].
pub trait ViewMut: View {
    /// The elements, if they lie in one piece in their order.
    fn as_slice_mut(&mut self) -> Option<&mut [Self::Elem]>;

    /// Overwrites the first elements; there are at most [`count`](View::count) `values`.
    fn unpack(&mut self, values: &[Self::Elem]);
}

// What implements the traits may be a program's own, and may say one thing here and another there.
// So a call looks at the elements once, and every length that an engine is told is that of the very
// memory which it is given: `contents`, `fill` and `in_place` are the only ways to the elements of
// a view, and nothing but them asks for `count`.

/// The elements in one piece.
pub(crate) fn contents<V: View + ?Sized>(view: &V) -> Cow<'_, [V::Elem]> {
    match view.as_slice() {
        Some(values) => Cow::Borrowed(values),
        None => Cow::Owned(packed(view)),
    }
}

/// A copy of the elements in one piece.
pub(crate) fn packed<V: View + ?Sized>(view: &V) -> Vec<V::Elem> {
    let mut values = Vec::new();
    // Only so that it need not grow.
    let _ = values.try_reserve_exact(view.count());
    view.pack(&mut values);
    values
}

/// Lets `receive` write into `into`, and say how many elements it wrote beside its result. Goes by
/// way of memory that is checked first where not all bytes are values, and of a packed copy where
/// `into` is not in one piece.
#[inline]
pub(crate) fn fill<V: ViewMut + ?Sized, R>(
    into: &mut V,
    receive: impl FnOnce(&mut [u8]) -> Result<(R, usize), Fault>,
) -> Result<R, Fault> {
    if let Some(bytes) = into.as_slice_mut().and_then(bytes_of_mut) {
        return receive(bytes).map(|(result, _)| result);
    }
    let mut landing = Landing::<V::Elem>::new(into.count())?;
    let (result, count) = receive(landing.bytes_mut())?;
    into.unpack(&landing.into_values(count)?);
    Ok(result)
}

/// Lets `share` change the values of `values`; goes by the same ways as [`fill`].
#[inline(always)]
pub(crate) fn in_place<V: ViewMut + ?Sized>(
    values: &mut V,
    share: impl FnOnce(&mut [u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    if let Some(bytes) = values.as_slice_mut().and_then(bytes_of_mut) {
        return share(bytes);
    }
    let mut landing = Landing::from(packed(values));
    let count = landing.len();
    share(landing.bytes_mut())?;
    values.unpack(&landing.into_values(count)?);
    Ok(())
}

/// The number of elements, by the view's own account: to be compared with what is found.
pub(crate) fn claimed<V: View + ?Sized>(view: &V) -> usize {
    view.count()
}

macro_rules! seen_through {
    ($($reference:ty),*) => {$(
        impl<V: View + ?Sized> View for $reference {
            type Elem = V::Elem;

            fn count(&self) -> usize {
                (**self).count()
            }

            fn as_slice(&self) -> Option<&[V::Elem]> {
                (**self).as_slice()
            }

            fn pack(&self, onto: &mut Vec<V::Elem>) {
                (**self).pack(onto);
            }
        }
    )*};
}

seen_through!(&V, &mut V);

impl<V: ViewMut + ?Sized> ViewMut for &mut V {
    fn as_slice_mut(&mut self) -> Option<&mut [V::Elem]> {
        (**self).as_slice_mut()
    }

    fn unpack(&mut self, values: &[V::Elem]) {
        (**self).unpack(values);
    }
}

/// What is always in one piece; `$slice` gives it.
macro_rules! view {
    ([$($generics:tt)*] $type:ty, $elem:ty, $slice:expr) => {
        impl<$($generics)*> View for $type {
            type Elem = $elem;

            #[inline]
            fn count(&self) -> usize {
                let slice: fn(&Self) -> &[$elem] = $slice;
                slice(self).len()
            }

            #[inline]
            fn as_slice(&self) -> Option<&[$elem]> {
                let slice: fn(&Self) -> &[$elem] = $slice;
                Some(slice(self))
            }

            #[inline]
            fn pack(&self, onto: &mut Vec<$elem>) {
                let slice: fn(&Self) -> &[$elem] = $slice;
                onto.extend_from_slice(slice(self));
            }
        }
    };
}

/// As `view`, to be overwritten.
macro_rules! view_mut {
    ([$($generics:tt)*] $type:ty, $elem:ty, $slice:expr) => {
        impl<$($generics)*> ViewMut for $type {
            #[inline]
            fn as_slice_mut(&mut self) -> Option<&mut [$elem]> {
                let slice: fn(&mut Self) -> &mut [$elem] = $slice;
                Some(slice(self))
            }

            #[inline]
            fn unpack(&mut self, values: &[$elem]) {
                let slice: fn(&mut Self) -> &mut [$elem] = $slice;
                slice(self)[..values.len()].copy_from_slice(values);
            }
        }
    };
}

view!([T: Datum] [T], T, |values| values);
view_mut!([T: Datum] [T], T, |values| values);
view!([T: Datum, const N: usize] [T; N], T, |array| array);
view_mut!([T: Datum, const N: usize] [T; N], T, |array| array);
view!([T: Datum] Vec<T>, T, |values| values);
view_mut!([T: Datum] Vec<T>, T, |values| values);
view!([T: Datum] Box<[T]>, T, |values| values);
view_mut!([T: Datum] Box<[T]>, T, |values| values);
view!([T: Datum] Arc<[T]>, T, |values| values);

macro_rules! one_value {
    ($($type:ty),*) => {$(
        view!([] $type, $type, std::slice::from_ref);
        view_mut!([] $type, $type, std::slice::from_mut);
    )*};
}

one_value!(i8, i16, i32, i64, i128, isize, u8, u16, u32, u64, u128, usize, f32, f64, bool, char);

impl<T: Datum, D: Dimension> View for ArrayRef<T, D> {
    type Elem = T;

    fn count(&self) -> usize {
        self.len()
    }

    fn as_slice(&self) -> Option<&[T]> {
        ArrayRef::as_slice(self)
    }

    fn pack(&self, onto: &mut Vec<T>) {
        // Where the two axes are the last ones, rows follow one another in what is packed.
        if tiles::axis_across(self).is_some_and(|axis| axis + 2 == self.ndim()) {
            return tiles::pack(&self.view().into_dyn(), onto);
        }
        for row in self.rows() {
            match row.to_slice() {
                Some(values) => onto.extend_from_slice(values),
                None => row.for_each(|value| onto.push(*value)),
            }
        }
    }
}

impl<T: Datum, D: Dimension> ViewMut for ArrayRef<T, D> {
    fn as_slice_mut(&mut self) -> Option<&mut [T]> {
        ArrayRef::as_slice_mut(self)
    }

    fn unpack(&mut self, values: &[T]) {
        if let Some(axis) = tiles::axis_across(self).filter(|_| values.len() == self.len()) {
            return tiles::unpack(self.view_mut().into_dyn(), axis, values);
        }
        let mut values = values;
        for mut row in self.rows_mut() {
            let (now, later) = values.split_at(values.len().min(row.len()));
            match row.as_slice_mut() {
                Some(own) => own[..now.len()].copy_from_slice(now),
                None => row.iter_mut().zip(now).for_each(|(own, value)| *own = *value),
            }
            values = later;
        }
    }
}

impl<S: Data<Elem: Datum>, D: Dimension> View for ArrayBase<S, D> {
    type Elem = S::Elem;

    fn count(&self) -> usize {
        self.len()
    }

    fn as_slice(&self) -> Option<&[S::Elem]> {
        View::as_slice(&**self)
    }

    fn pack(&self, onto: &mut Vec<S::Elem>) {
        (**self).pack(onto);
    }
}

impl<S: DataMut<Elem: Datum>, D: Dimension> ViewMut for ArrayBase<S, D> {
    fn as_slice_mut(&mut self) -> Option<&mut [S::Elem]> {
        ViewMut::as_slice_mut(&mut **self)
    }

    fn unpack(&mut self, values: &[S::Elem]) {
        (**self).unpack(values);
    }
}

/// Data that a non-blocking send keeps until it is done, and then gives back: `Vec<T>`, `Box<[T]>`,
/// `Arc<[T]>`, or an owned `ndarray::Array`.
///
/// ```
/// use std::sync::Arc;
/// let got = spmd::local(3, |world| {
///     if world.rank() > 0 {
///         return Ok(world.recv::<u8>(0)?.0);
///     }
///     let text: Arc<[u8]> = Arc::from(*b"to all"); // one buffer under way to two ranks
///     let requests = [world.isend(Arc::clone(&text), 1)?, world.isend(text, 2)?];
///     spmd::request::wait_all(requests)?;
///     Ok(vec![])
/// });
/// assert_eq!(got.unwrap()[2], b"to all");
/// ```
pub trait OwnedBuf: View + sealed::Stays + Send + 'static {}

impl<B: View + sealed::Stays + Send + 'static> OwnedBuf for B {}

mod sealed {
    use super::{Arc, Datum, Dimension};

    /// Owners of elements that stay where they are when the owner moves, and that nobody changes
    /// meanwhile.
    pub trait Stays {}

    impl<T: Datum> Stays for Vec<T> {}
    impl<T: Datum> Stays for Box<[T]> {}
    impl<T: Datum> Stays for Arc<[T]> {}
    impl<T: Datum, D: Dimension> Stays for ndarray::Array<T, D> {}
}

/// Data on their way out, with a copy in one piece where they are not.
pub(super) struct Outbound<B: OwnedBuf> {
    pub(super) owner: B,
    packed: Option<Vec<B::Elem>>,
}

impl<B: OwnedBuf> Outbound<B> {
    pub(super) fn new(owner: B) -> Self {
        let packed = owner.as_slice().is_none().then(|| packed(&owner));
        Self { owner, packed }
    }

    /// The elements in one piece.
    pub(super) fn values(&self) -> &[B::Elem] {
        match &self.packed {
            Some(packed) => packed,
            None => self.owner.as_slice().unwrap_or_default(),
        }
    }
}

impl<B: OwnedBuf> Buffer for Outbound<B> {
    fn bytes(&self) -> &[u8] {
        bytes_of(self.values())
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut []
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, Array3, Array4, Slice, arr0, s};

    use super::*;

    fn cube() -> Array3<usize> {
        Array3::from_shape_fn((3, 4, 5), |(i, j, k)| 100 * i + 10 * j + k)
    }

    /// Packs like `ndarray` itself iterates, and unpacks the first `count` elements and no others.
    fn holds<S, D>(mut view: ArrayBase<S, D>)
    where
        S: DataMut<Elem = usize>,
        D: Dimension,
    {
        let before: Vec<usize> = view.iter().copied().collect();
        assert_eq!(contents(&view), before);
        assert_eq!(View::count(&view), before.len());
        for count in [0, before.len() / 2, before.len()] {
            let values: Vec<usize> = (1000..1000 + count).collect();
            view.unpack(&values);
            let after: Vec<usize> = view.iter().copied().collect();
            assert_eq!(after[..count], values);
            assert_eq!(after[count..], before[count..]);
            view.unpack(&before);
        }
    }

    #[test]
    fn arrays_of_every_layout_are_packed_in_logical_order() {
        holds(cube());
        holds(cube().view_mut());
        holds(cube().reversed_axes());
        holds(cube().slice_mut(s![.., 1, ..]));
        holds(cube().slice_mut(s![.., .., 2]));
        holds(cube().slice_mut(s![..;-1, 1..3, ..;2]));
        holds(cube().slice_mut(s![1, .., 3]));
        holds(cube().slice_mut(s![1, 1, 1]));
        holds(cube().slice_mut(s![1..1, .., ..]));
        holds(cube().slice_mut(s![.., .., 1..1]));
        let every_second = |_| Slice::new(0, None, 2);
        holds(cube().into_dyn().slice_each_axis_mut(every_second));
        holds(cube().into_shared());
        holds(arr0(7));
        // Large enough for tiles, whole ones and not.
        assert!(tiles::axis_across(&cube().reversed_axes()).is_none());
        let plane = Array2::from_shape_fn((135, 148), |(i, j)| 1000 * i + j);
        assert_eq!(tiles::axis_across(&plane.t()), Some(0));
        holds(plane.clone().reversed_axes());
        holds(plane.clone().slice_mut(s![3.., ..;2]).reversed_axes());
        holds(plane.clone().slice_mut(s![..;-1, ..;-1]).reversed_axes());
        let block = Array3::from_shape_fn((20, 33, 17), |(i, j, k)| 10_000 * i + 100 * j + k);
        for axes in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            holds(block.clone().permuted_axes(axes));
            holds(block.clone().permuted_axes(axes).slice_mut(s![1.., ..-1, 2..]));
        }
        let four =
            Array4::from_shape_fn((5, 38, 4, 39), |(i, j, k, l)| 1000 * i + 100 * j + 10 * k + l);
        holds(four.clone().permuted_axes([0, 3, 2, 1]));
        holds(four.permuted_axes([3, 2, 0, 1]));
    }

    #[test]
    fn what_lies_in_one_piece_is_not_copied() {
        assert!(matches!(contents(&cube()), Cow::Borrowed(_)));
        assert!(matches!(contents(&cube().slice(s![1, .., ..])), Cow::Borrowed(_)));
        assert!(matches!(contents(&cube().t()), Cow::Owned(_)));
        assert!(matches!(contents(&1.5), Cow::Borrowed([1.5])));
    }

    #[test]
    fn an_array_in_another_layout_goes_out_in_logical_order_and_comes_back_as_it_was() {
        let transposed = cube().reversed_axes();
        let outbound = Outbound::new(transposed.clone());
        let logical: Vec<usize> = transposed.iter().copied().collect();
        assert_eq!(outbound.bytes(), bytes_of(&logical));
        assert_eq!(outbound.owner, transposed);
    }
}
