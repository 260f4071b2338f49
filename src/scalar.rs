//! The smallest and the largest of floating-point numbers, as all engines and all ranks see them.
//!
//! The operators of MPI libraries compare and take one or the other, so that of NaN and a number,
//! or of -0 and 0, the result depends on the order of the operands, which is another one on every
//! rank. These are IEEE 754-2019's `minimum` and `maximum` (9.6): NaN, always the same one, if
//! either is; and -0 is less than 0. So they are associative and commutative.

#![allow(clippy::float_cmp, reason = "equal is what is meant")]

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
    fn nan_wins_and_zeros_have_an_order() {
        assert!(least_f32(f32::NAN, 1.0).is_nan() && greatest_f32(1.0, f32::NAN).is_nan());
        assert!(least_f64(0.0, -0.0).is_sign_negative());
        assert!(greatest_f64(0.0, -0.0).is_sign_positive());
        assert_eq!((least_f64(2.0, 3.0), greatest_f64(2.0, 3.0)), (2.0, 3.0));
    }
}
