//! What numbers are to files and engines: the types of elements by name, and the smallest and the
//! largest of floating-point numbers, as all engines and all ranks see them.
//!
//! The operators of MPI libraries compare and take one or the other, so that of NaN and a number,
//! or of -0 and 0, the result depends on the order of the operands, which is another one on every
//! rank. These are IEEE 754-2019's `minimum` and `maximum` (9.6): NaN, always the same one, if
//! either is; and -0 is less than 0. So they are associative and commutative.

#![allow(clippy::float_cmp, reason = "equal is what is meant")]

use std::fmt;

/// The types of elements that array files share, by `NumPy`'s names.
///
/// ```
/// use spmd::io::Element;
/// assert_eq!(Element::F64.to_string(), "float64");
/// assert!(Element::I64.converts_to(Element::F64) && !Element::F64.converts_to(Element::F32));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Element {
    /// A truth value, a byte.
    Bool,
    /// An integer of 8 bits.
    I8,
    /// An integer of 16 bits.
    I16,
    /// An integer of 32 bits.
    I32,
    /// An integer of 64 bits.
    I64,
    /// An integer of 8 bits without a sign.
    U8,
    /// An integer of 16 bits without a sign.
    U16,
    /// An integer of 32 bits without a sign.
    U32,
    /// An integer of 64 bits without a sign.
    U64,
    /// A float of 16 bits, IEEE's `binary16`: read as a larger one.
    F16,
    /// A float of 32 bits.
    F32,
    /// A float of 64 bits.
    F64,
    /// A complex number of two floats of 32 bits.
    Complex64,
    /// A complex number of two floats of 64 bits.
    Complex128,
}

/// What a type has values for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    Signed,
    Unsigned,
    Float,
    Complex,
}

impl Element {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Bool,
        Self::I8,
        Self::I16,
        Self::I32,
        Self::I64,
        Self::U8,
        Self::U16,
        Self::U32,
        Self::U64,
        Self::F16,
        Self::F32,
        Self::F64,
        Self::Complex64,
        Self::Complex128,
    ];

    /// `NumPy`'s name of it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::I8 => "int8",
            Self::I16 => "int16",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::U8 => "uint8",
            Self::U16 => "uint16",
            Self::U32 => "uint32",
            Self::U64 => "uint64",
            Self::F16 => "float16",
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::Complex64 => "complex64",
            Self::Complex128 => "complex128",
        }
    }

    /// The number of bytes of one.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Bool | Self::I8 | Self::U8 => 1,
            Self::I16 | Self::U16 | Self::F16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 | Self::Complex64 => 8,
            Self::Complex128 => 16,
        }
    }

    /// The number of bytes that have an order of their own: of one part of a complex number.
    pub(crate) const fn bytes_in_order(self) -> usize {
        if self.is_complex() { self.bytes() / 2 } else { self.bytes() }
    }

    /// Whether it is a pair of floats.
    pub const fn is_complex(self) -> bool {
        matches!(self.kind(), Kind::Complex)
    }

    const fn kind(self) -> Kind {
        match self {
            Self::Bool => Kind::Bool,
            Self::I8 | Self::I16 | Self::I32 | Self::I64 => Kind::Signed,
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => Kind::Unsigned,
            Self::F16 | Self::F32 | Self::F64 => Kind::Float,
            Self::Complex64 | Self::Complex128 => Kind::Complex,
        }
    }

    /// Whether every value of it is one of `to`, but for the rounding of large integers to floats.
    pub const fn converts_to(self, to: Self) -> bool {
        match (self.kind(), to.kind()) {
            (Kind::Bool, _) | (Kind::Unsigned | Kind::Signed, Kind::Float | Kind::Complex) => true,
            (Kind::Unsigned, Kind::Unsigned)
            | (Kind::Signed, Kind::Signed)
            | (Kind::Float, Kind::Float)
            | (Kind::Complex, Kind::Complex) => self.bytes() <= to.bytes(),
            (Kind::Unsigned, Kind::Signed) => self.bytes() < to.bytes(),
            (Kind::Float, Kind::Complex) => 2 * self.bytes() <= to.bytes(),
            _ => false,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

macro_rules! extremes {
    ($($type:ident, $least:ident, $greatest:ident;)*) => {$(
        /// The smaller of two numbers.
        #[inline]
        pub(crate) fn $least(left: $type, right: $type) -> $type {
            if left < right {
                left
            } else if right < left {
                right
            } else if left == right {
                $type::from_bits(left.to_bits() | right.to_bits()) // differ by a sign at most
            } else {
                $type::NAN
            }
        }

        /// The larger of two numbers.
        #[inline]
        pub(crate) fn $greatest(left: $type, right: $type) -> $type {
            if left > right {
                left
            } else if right > left {
                right
            } else if left == right {
                $type::from_bits(left.to_bits() & right.to_bits())
            } else {
                $type::NAN
            }
        }
    )*};
}

extremes! {
    f32, least_f32, greatest_f32;
    f64, least_f64, greatest_f64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_operands_is_free() {
        let payload = f64::from_bits(f64::NAN.to_bits() | 5);
        let all =
            [0.0, -0.0, 1.0, -1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -f64::NAN, payload];
        for left in all {
            for right in all {
                for op in [least_f64, greatest_f64] {
                    assert_eq!(op(left, right).to_bits(), op(right, left).to_bits());
                    for third in all {
                        let (one, other) = (op(op(left, right), third), op(left, op(right, third)));
                        assert!(one.to_bits() == other.to_bits() || one.is_nan() && other.is_nan());
                    }
                }
            }
        }
    }

    #[test]
    fn no_conversion_loses_what_a_type_is_for() {
        for from in Element::ALL {
            assert!(from.converts_to(from) && from.converts_to(Element::Complex128), "{from}");
            let (real, signed) = (!from.is_complex(), from.name().starts_with("int"));
            assert_eq!(from.converts_to(Element::F64), real, "{from}");
            assert_eq!(from.converts_to(Element::Bool), from == Element::Bool, "{from}");
            assert!(!signed || !from.converts_to(Element::U64), "{from}");
        }
        assert!(!Element::U64.converts_to(Element::I64) && Element::U32.converts_to(Element::I64));
        assert!(!Element::F64.converts_to(Element::Complex64));
    }

    #[test]
    fn nan_wins_and_zeros_have_an_order() {
        assert!(least_f32(f32::NAN, 1.0).is_nan() && greatest_f32(1.0, f32::NAN).is_nan());
        assert!(least_f64(0.0, -0.0).is_sign_negative());
        assert!(greatest_f64(0.0, -0.0).is_sign_positive());
        assert_eq!((least_f64(2.0, 3.0), greatest_f64(2.0, 3.0)), (2.0, 3.0));
    }
}
