//! Reduction operators: built in, or any closure.

use bytemuck::checked;

use crate::{
    datum::Datum,
    engine::{Builtin, Element, Reduction},
    error::{ErrorKind, Fault},
    scalar,
};

/// An associative operator on values of `T`: [`Sum`], [`Prod`], [`Min`], [`Max`], [`And`], [`Or`],
/// [`Xor`], [`MinLoc`](crate::op::MinLoc), [`MaxLoc`](crate::op::MaxLoc), or any closure
/// `|left, right| …`.
///
/// Operands are combined in the order of their ranks, in any grouping: a closure need be
/// associative, not commutative, unless it is said to be [`commutative`].
pub trait ReduceOp<T> {
    /// `left op right`; `left` belongs to lower ranks.
    fn apply(&self, left: T, right: T) -> T;

    /// Whether the order of the operands is free. If so an engine may combine them as they come,
    /// which can be faster.
    fn is_commutative(&self) -> bool {
        false
    }

    /// The engine's own operator that does the same, if there is one.
    #[doc(hidden)]
    fn native(&self) -> Option<Native> {
        None
    }
}

impl<T, F: Fn(T, T) -> T> ReduceOp<T> for F {
    #[inline]
    fn apply(&self, left: T, right: T) -> T {
        self(left, right)
    }
}

/// An operator whose operands may be combined in any order; see [`commutative`].
#[derive(Clone, Copy, Debug)]
pub struct Commutative<F>(F);

/// Says that a closure is not only associative but commutative, so that the engine may combine
/// operands as they come.
///
/// ```
/// use spmd::op::commutative;
/// let got = spmd::local(4, |world| {
///     let longest = commutative(|left: [f64; 2], right: [f64; 2]| {
///         if left[0].hypot(left[1]) < right[0].hypot(right[1]) { right } else { left }
///     });
///     Ok(world.allreduce(&[[world.rank() as f64, 1.0]], longest)?[0])
/// });
/// assert_eq!(got.unwrap()[0], [3.0, 1.0]);
/// ```
pub fn commutative<T, F: Fn(T, T) -> T>(op: F) -> Commutative<F> {
    Commutative(op)
}

impl<T, F: Fn(T, T) -> T> ReduceOp<T> for Commutative<F> {
    #[inline]
    fn apply(&self, left: T, right: T) -> T {
        self.0(left, right)
    }

    fn is_commutative(&self) -> bool {
        true
    }
}

/// The name of a call with its operator, by which ranks compare what they call: `allreduce(Sum)`.
/// Closures have no names.
macro_rules! by {
    ($verb:literal, $op:expr) => {{
        use $crate::{comm::op::Native, engine::Builtin};
        match $op.native() {
            Some(Native(Builtin::Sum, _)) => concat!($verb, "(Sum)"),
            Some(Native(Builtin::Prod, _)) => concat!($verb, "(Prod)"),
            Some(Native(Builtin::Min, _)) => concat!($verb, "(Min)"),
            Some(Native(Builtin::Max, _)) => concat!($verb, "(Max)"),
            Some(Native(Builtin::And, _)) => concat!($verb, "(And)"),
            Some(Native(Builtin::Or, _)) => concat!($verb, "(Or)"),
            Some(Native(Builtin::Xor, _)) => concat!($verb, "(Xor)"),
            None => $verb,
        }
    }};
}
pub(super) use by;

/// An operator and element type that MPI libraries know.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Native(pub(super) Builtin, pub(super) Element);

/// The sum. Integers wrap around on overflow, on every engine. Arrays are summed element by
/// element, as with the other operators; complex numbers too (feature `num-complex`). Of several
/// NaN it is not specified which one comes out, nor that it is the same on every rank.
#[derive(Clone, Copy, Debug)]
pub struct Sum;

/// The product. Integers wrap around on overflow, on every engine. Also of complex numbers (feature
/// `num-complex`). NaN as of [`Sum`].
#[derive(Clone, Copy, Debug)]
pub struct Prod;

/// The smallest value: the same bits on every rank and engine. NaN if any is NaN; -0 is less than
/// 0.
#[derive(Clone, Copy, Debug)]
pub struct Min;

/// The largest value: the same bits on every rank and engine. NaN if any is NaN; -0 is less than 0.
#[derive(Clone, Copy, Debug)]
pub struct Max;

/// All of them: bit by bit for integers, logical for `bool`.
#[derive(Clone, Copy, Debug)]
pub struct And;

/// Any of them: bit by bit for integers, logical for `bool`.
#[derive(Clone, Copy, Debug)]
pub struct Or;

/// An odd number of them: bit by bit for integers, logical for `bool`.
#[derive(Clone, Copy, Debug)]
pub struct Xor;

/// A number that [`Sum`], [`Prod`], [`Min`] and [`Max`] work on: all of Rust's integers up to 64
/// bits, `f32` and `f64`.
pub trait Number: Datum + bytemuck::Pod + PartialOrd {
    /// The sum; integers wrap around.
    #[must_use]
    fn plus(self, other: Self) -> Self;
    /// The product; integers wrap around.
    #[must_use]
    fn times(self, other: Self) -> Self;
    #[doc(hidden)]
    #[must_use]
    fn least(self, other: Self) -> Self;
    #[doc(hidden)]
    #[must_use]
    fn greatest(self, other: Self) -> Self;
    #[doc(hidden)]
    fn element() -> NativeElement;
}

/// An element type that MPI libraries know.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct NativeElement(pub(super) Element);

/// What [`And`], [`Or`] and [`Xor`] work on: integers and `bool`.
pub trait Bits: Datum {
    #[doc(hidden)]
    #[must_use]
    fn and(self, other: Self) -> Self;
    #[doc(hidden)]
    #[must_use]
    fn or(self, other: Self) -> Self;
    #[doc(hidden)]
    #[must_use]
    fn xor(self, other: Self) -> Self;
    #[doc(hidden)]
    fn element() -> NativeElement;
}

macro_rules! bits {
    ($($type:ty => $element:ident),*) => {$(
        impl Bits for $type {
            fn and(self, other: Self) -> Self { self & other }
            fn or(self, other: Self) -> Self { self | other }
            fn xor(self, other: Self) -> Self { self ^ other }
            fn element() -> NativeElement { NativeElement(Element::$element) }
        }
    )*};
}

macro_rules! integers {
    ($($type:ty => $element:ident),*) => {
        $(impl Number for $type {
            fn plus(self, other: Self) -> Self { self.wrapping_add(other) }
            fn times(self, other: Self) -> Self { self.wrapping_mul(other) }
            fn least(self, other: Self) -> Self { self.min(other) }
            fn greatest(self, other: Self) -> Self { self.max(other) }
            fn element() -> NativeElement { NativeElement(Element::$element) }
        })*
        bits!($($type => $element),*);
    };
}

macro_rules! floats {
    ($($type:ty => $element:ident, $least:ident, $greatest:ident;)*) => {$(
        impl Number for $type {
            fn plus(self, other: Self) -> Self { self + other }
            fn times(self, other: Self) -> Self { self * other }
            #[inline]
            fn least(self, other: Self) -> Self { scalar::$least(self, other) }
            #[inline]
            fn greatest(self, other: Self) -> Self { scalar::$greatest(self, other) }
            fn element() -> NativeElement { NativeElement(Element::$element) }
        }
    )*};
}

integers!(i8 => I8, i16 => I16, i32 => I32, i64 => I64, u8 => U8, u16 => U16, u32 => U32, u64 => U64);
#[cfg(target_pointer_width = "64")]
integers!(isize => I64, usize => U64);
#[cfg(target_pointer_width = "32")]
integers!(isize => I32, usize => U32);
floats! {
    f32 => F32, least_f32, greatest_f32;
    f64 => F64, least_f64, greatest_f64;
}
bits!(bool => U8); // true is 1: bit by bit is logical

macro_rules! operators {
    ($($name:ident on $class:ident: $apply:expr;)*) => {$(
        impl<T: $class> ReduceOp<T> for $name {
            #[inline]
            fn apply(&self, left: T, right: T) -> T {
                let apply: fn(T, T) -> T = $apply;
                apply(left, right)
            }
            fn is_commutative(&self) -> bool {
                true
            }
            fn native(&self) -> Option<Native> {
                Some(Native(Builtin::$name, T::element().0))
            }
        }
    )*};
}

/// Element by element: what an engine does to the elements it does to arrays of them.
macro_rules! on_arrays {
    ($($name:ident on $class:ident),*) => {$(
        impl<T: $class, const N: usize> ReduceOp<[T; N]> for $name
        where
            [T; N]: Datum,
        {
            #[inline]
            fn apply(&self, left: [T; N], right: [T; N]) -> [T; N] {
                let mut combined = left;
                for (left, right) in combined.iter_mut().zip(right) {
                    *left = ReduceOp::<T>::apply(self, *left, right);
                }
                combined
            }
            fn is_commutative(&self) -> bool {
                true
            }
            fn native(&self) -> Option<Native> {
                ReduceOp::<T>::native(self)
            }
        }
    )*};
}

on_arrays!(Sum on Number, Prod on Number, Min on Number, Max on Number, And on Bits, Or on Bits, Xor on Bits);

/// Complex numbers, which are summed as pairs of real ones.
#[cfg(feature = "num-complex")]
mod complex {
    use num_complex::Complex;

    use super::{Native, Number, Prod, ReduceOp, Sum};

    impl<T: Number> ReduceOp<Complex<T>> for Sum {
        #[inline]
        fn apply(&self, left: Complex<T>, right: Complex<T>) -> Complex<T> {
            Complex::new(left.re.plus(right.re), left.im.plus(right.im))
        }
        fn is_commutative(&self) -> bool {
            true
        }
        fn native(&self) -> Option<Native> {
            ReduceOp::<T>::native(self)
        }
    }

    macro_rules! product {
        ($($real:ty),*) => {$(
            impl ReduceOp<Complex<$real>> for Prod {
                #[inline]
                fn apply(&self, left: Complex<$real>, right: Complex<$real>) -> Complex<$real> {
                    left * right
                }
                fn is_commutative(&self) -> bool {
                    true
                }
            }
        )*};
    }

    product!(f32, f64);
}

operators! {
    Sum on Number: T::plus;
    Prod on Number: T::times;
    Min on Number: T::least;
    Max on Number: T::greatest;
    And on Bits: T::and;
    Or on Bits: T::or;
    Xor on Bits: T::xor;
}

/// The engine's own operator, if the elements are made of what it says they are: a type or operator
/// of the program's own may claim to be any.
pub(super) fn native<T: Datum>(op: &impl ReduceOp<T>) -> Option<(Builtin, Element)> {
    let Native(builtin, element) = op.native()?;
    let size = element.size();
    let fits =
        size_of::<T>().is_multiple_of(size) && align_of::<T>() >= size.min(align_of::<u64>());
    fits.then_some((builtin, element))
}

/// Lets `act` use the operator as the engines know it: on bytes.
#[inline(always)]
pub(super) fn reduction<T: Datum, R>(
    op: &impl ReduceOp<T>,
    act: impl FnOnce(&Reduction<'_>) -> R,
) -> R {
    let native = native(op);
    let fold = |left: &[u8], right: &mut [u8]| fold(op, left, right);
    act(&Reduction { native, commutative: op.is_commutative(), fold: &fold })
}

/// Replaces `right` by `left op right`, element by element.
///
/// Where both are aligned for `T` this is one plain loop over values, which the compiler can
/// vectorise; the check of bit patterns costs nothing where all of them are values.
pub(super) fn fold<T: Datum>(
    op: &impl ReduceOp<T>,
    left: &[u8],
    right: &mut [u8],
) -> Result<(), Fault> {
    let Ok(left_values) = checked::try_cast_slice::<u8, T>(left) else {
        return fold_anywhere(op, left, right);
    };
    let Ok(right_values) = checked::try_cast_slice_mut::<u8, T>(right) else {
        return fold_anywhere(op, left, right);
    };
    for (right, &left) in right_values.iter_mut().zip(left_values) {
        *right = op.apply(left, *right);
    }
    Ok(())
}

/// The same wherever the bytes lie, and saying which of them are no value.
fn fold_anywhere<T: Datum>(
    op: &impl ReduceOp<T>,
    left: &[u8],
    right: &mut [u8],
) -> Result<(), Fault> {
    let elements = left.chunks_exact(size_of::<T>()).zip(right.chunks_exact_mut(size_of::<T>()));
    for (index, (left, right)) in elements.enumerate() {
        let result = op.apply(value(left, index)?, value(right, index)?);
        right.copy_from_slice(bytemuck::bytes_of(&result));
    }
    Ok(())
}

/// The value that received bytes are, wherever they lie.
fn value<T: Datum>(bytes: &[u8], index: usize) -> Result<T, Fault> {
    let type_name = std::any::type_name::<T>();
    let invalid = |_| ErrorKind::InvalidValue { type_name, index }.into();
    checked::try_pod_read_unaligned(bytes).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fold_is_the_same_aligned_or_not() {
        let left: Vec<u32> = (0..50).collect();
        let mut right: Vec<u32> = (100..150).collect();
        let mut shifted = vec![0; 201];
        shifted[1..].copy_from_slice(bytemuck::cast_slice(&right));
        let minus = |left: u32, right: u32| right.wrapping_sub(2 * left);
        let left: &[u8] = bytemuck::cast_slice(&left);
        fold(&minus, left, &mut shifted[1..]).unwrap();
        fold(&minus, left, bytemuck::cast_slice_mut(&mut right)).unwrap();
        assert_eq!(&shifted[1..], bytemuck::cast_slice::<u32, u8>(&right));
        assert_eq!(right[7], 107 - 14);
    }

    /// Says that its bytes are whole numbers of eight, or of two.
    #[derive(Clone, Copy, bytemuck::NoUninit, bytemuck::CheckedBitPattern)]
    #[repr(C)]
    struct Odd([u8; 3]);

    struct Claims(Native);

    impl<T: Datum> ReduceOp<T> for Claims {
        fn apply(&self, left: T, _: T) -> T {
            left
        }
        fn native(&self) -> Option<Native> {
            Some(self.0)
        }
    }

    #[test]
    fn what_an_operator_claims_of_the_elements_is_not_believed() {
        let claims = |element| Claims(Native(Builtin::Sum, element));
        assert!(native::<Odd>(&claims(Element::F64)).is_none(), "in size");
        assert!(native::<Odd>(&claims(Element::U16)).is_none(), "in size");
        assert!(native::<[u8; 8]>(&claims(Element::F64)).is_none(), "in alignment");
        assert!(native::<Odd>(&claims(Element::U8)).is_some());
        assert!(native::<[f64; 2]>(&claims(Element::F64)).is_some());
    }

    #[test]
    fn fold_refuses_bytes_that_are_no_values() {
        let invalid = ErrorKind::InvalidValue { type_name: "bool", index: 1 };
        assert_eq!(fold::<bool>(&And, &[1, 7], &mut [1, 1]).unwrap_err(), invalid.clone().into());
        assert_eq!(fold::<bool>(&And, &[1, 1], &mut [1, 7]).unwrap_err(), invalid.clone().into());
        let mut right = [0, 1];
        fold::<bool>(&Or, &[1, 0], &mut right).unwrap();
        assert_eq!(right, [1, 1]);
    }
}
