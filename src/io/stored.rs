//! Rust's types of the elements that files have, and conversions to them.

use crate::{
    datum::{Datum, bytes_of_mut},
    scalar::Element,
};

/// A type of elements that array files can have: `bool`, the integers of 8 to 64 bits, `f32`, `f64`
/// and, with the feature `num-complex`, complex numbers of those.
pub trait Stored: Datum + Default + Sync + sealed::From {
    /// What files call it.
    const ELEMENT: Element;
}

mod sealed {
    /// Conversions that lose nothing where [`Element::converts_to`](super::Element) says so.
    pub trait From {
        fn from_signed(value: i64) -> Self;
        fn from_unsigned(value: u64) -> Self;
        fn from_float(value: f64) -> Self;
        fn from_complex(parts: [f64; 2]) -> Self;
    }
}

macro_rules! numbers {
    ($($type:ident $element:ident;)*) => {$(
        impl Stored for $type {
            const ELEMENT: Element = Element::$element;
        }

        #[allow(clippy::cast_lossless)] // some of them are not, for all of them `as` rounds to the nearest
        impl sealed::From for $type {
            fn from_signed(value: i64) -> Self {
                value as $type
            }

            fn from_unsigned(value: u64) -> Self {
                value as $type
            }

            fn from_float(value: f64) -> Self {
                value as $type
            }

            fn from_complex([real, _]: [f64; 2]) -> Self {
                real as $type
            }
        }
    )*};
}

numbers! {
    i8 I8; i16 I16; i32 I32; i64 I64;
    u8 U8; u16 U16; u32 U32; u64 U64;
    f32 F32; f64 F64;
}

impl Stored for bool {
    const ELEMENT: Element = Element::Bool;
}

impl sealed::From for bool {
    fn from_signed(value: i64) -> Self {
        value != 0
    }

    fn from_unsigned(value: u64) -> Self {
        value != 0
    }

    fn from_float(value: f64) -> Self {
        value != 0.0
    }

    fn from_complex(parts: [f64; 2]) -> Self {
        parts.iter().any(|&part| part != 0.0)
    }
}

#[cfg(feature = "num-complex")]
macro_rules! complex_numbers {
    ($($type:ident $element:ident;)*) => {$(
        impl Stored for num_complex::Complex<$type> {
            const ELEMENT: Element = Element::$element;
        }

        impl sealed::From for num_complex::Complex<$type> {
            fn from_signed(value: i64) -> Self {
                $type::from_signed(value).into()
            }

            fn from_unsigned(value: u64) -> Self {
                $type::from_unsigned(value).into()
            }

            fn from_float(value: f64) -> Self {
                $type::from_float(value).into()
            }

            fn from_complex([re, im]: [f64; 2]) -> Self {
                Self { re: $type::from_float(re), im: $type::from_float(im) }
            }
        }
    )*};
}

#[cfg(feature = "num-complex")]
complex_numbers! { f32 Complex64; f64 Complex128; }

/// The bytes of the values themselves, where elements of a file can be laid as they are.
pub(super) fn in_place<T: Stored>(from: Element, values: &mut [T]) -> Option<&mut [u8]> {
    if from == T::ELEMENT { bytes_of_mut(values) } else { None }
}

/// Turns round the bytes of each number.
pub(super) fn swap(element: Element, bytes: &mut [u8]) {
    let each = element.bytes_in_order();
    if each > 1 {
        bytes.chunks_exact_mut(each).for_each(<[u8]>::reverse);
    }
}

/// Converts elements of a file, in this machine's order of bytes.
pub(super) fn convert<T: Stored>(from: Element, bytes: &[u8], into: &mut [T]) {
    macro_rules! each {
        ($stored:ty, $value:expr) => {
            for (into, bytes) in into.iter_mut().zip(bytes.chunks_exact(size_of::<$stored>())) {
                *into = $value(bytemuck::pod_read_unaligned::<$stored>(bytes));
            }
        };
    }
    match from {
        Element::Bool | Element::U8 => each!(u8, |value| T::from_unsigned(u64::from(value))),
        Element::U16 => each!(u16, |value| T::from_unsigned(u64::from(value))),
        Element::U32 => each!(u32, |value| T::from_unsigned(u64::from(value))),
        Element::U64 => each!(u64, T::from_unsigned),
        Element::I8 => each!(i8, |value| T::from_signed(i64::from(value))),
        Element::I16 => each!(i16, |value| T::from_signed(i64::from(value))),
        Element::I32 => each!(i32, |value| T::from_signed(i64::from(value))),
        Element::I64 => each!(i64, T::from_signed),
        Element::F16 => each!(u16, |bits| T::from_float(half(bits))),
        Element::F32 => each!(f32, |value| T::from_float(f64::from(value))),
        Element::F64 => each!(f64, T::from_float),
        Element::Complex64 => {
            each!([f32; 2], |parts: [f32; 2]| T::from_complex(parts.map(f64::from)));
        }
        Element::Complex128 => each!([f64; 2], T::from_complex),
    }
}

/// The value of IEEE's number of 16 bits (`binary16`), which Rust's stable types lack.
fn half(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    let size = match exponent {
        0 => fraction * 2_f64.powi(-24),
        0x1f if fraction == 0.0 => f64::INFINITY,
        0x1f => f64::NAN,
        _ => (1.0 + fraction / 1024.0) * 2_f64.powi(exponent - 15),
    };
    if bits >> 15 == 1 { -size } else { size }
}
