//! Sums that do not depend on how the terms are spread over the ranks, nor on their order.
//!
//! Every term is added exactly, into a fixed-point number that is wide enough for all of `f64`'s
//! range; the sum is rounded once, at the end. Source: Neal, "Fast exact summation using small and
//! large superaccumulators" (2015), the small kind.

use crate::{
    comm::{Comm, Sum, View, agreement::Subject, all, op, view::contents},
    datum::bytes_of,
    engine::Collective,
    error::Result,
};

/// # Reproducible sums
///
/// The same bits for every number of ranks.
impl Comm {
    /// The sum of all ranks' values: the same bits for every number of ranks, every split and every
    /// order of the values, on every engine.
    ///
    /// It is the exact sum, rounded once to the nearest `f64` (ties to even); infinite beyond its
    /// range, NaN if a value is NaN or infinities of both signs occur.
    ///
    /// # Collective
    /// One allreduce of 568 bytes, whatever the number of values; a few ns per value.
    ///
    /// # Examples
    /// ```
    /// let values = [1e100, 1.0, -1e100, 1e-3];
    /// let sums = [1, 2, 4].map(|ranks| {
    ///     let sums = spmd::local(ranks, |world| {
    ///         let share = values.len() / world.size();
    ///         Ok(world.sum_reproducible(&values[world.rank() * share..][..share])?)
    ///     });
    ///     sums.unwrap()[0]
    /// });
    /// assert_eq!(sums, [1.001; 3]);
    /// ```
    #[track_caller]
    pub fn sum_reproducible<V: View<Elem = f64> + ?Sized>(&self, mine: &V) -> Result<f64> {
        self.together(all("sum_reproducible"), Subject::any::<f64>(), |label| {
            let mut sum = Accumulator::new();
            sum.add_all(&contents(mine));
            sum.carry();
            let mut total = Accumulator::new();
            op::reduction::<i64, _>(&Sum, |with| {
                let (mine, out) =
                    (bytes_of(&sum.parts), bytemuck::cast_slice_mut(&mut total.parts));
                self.collective(label, Collective::Allreduce { mine, out, with })
            })?;
            Ok(total.round())
        })
    }
}

/// Digits of 32 bits, the first of weight 2⁻¹⁰⁷⁴: 2098 bits for all of `f64`, and 78 for sums of up
/// to 2⁷⁷ of the largest.
const DIGITS: usize = 68;

/// Behind the digits: how many NaN, positive and negative infinities there were.
const NAN: usize = DIGITS;
const INFINITE: usize = DIGITS + 1;
const NEGATIVE_INFINITE: usize = DIGITS + 2;

/// After so many additions, digits of 32 bits in 64 must be carried.
const ROOM: u32 = 1 << 30;

/// An exact sum of `f64`s. Each digit has a sign of its own and may run over into 64 bits.
struct Accumulator {
    parts: [i64; DIGITS + 3],
    additions: u32,
}

impl Accumulator {
    fn new() -> Self {
        Self { parts: [0; DIGITS + 3], additions: 0 }
    }

    fn add_all(&mut self, values: &[f64]) {
        for &value in values {
            self.add(value);
        }
    }

    #[inline]
    fn add(&mut self, value: f64) {
        let bits = value.to_bits();
        let (exponent, fraction) = (bits >> 52 & 0x7ff, bits & ((1 << 52) - 1));
        if exponent == 0x7ff {
            self.parts[Self::special(value)] += 1;
            return;
        }
        // The value is `significand` · 2^(place − 1074).
        let hidden = u64::from(exponent != 0) << 52;
        let (significand, place) = (fraction | hidden, exponent.saturating_sub(1) as usize);
        let wide = u128::from(significand) << (place % 32);
        let sign = 1 - 2 * (bits >> 63) as i64;
        let digits = &mut self.parts[place / 32..][..3];
        digits[0] += sign * i64::from(wide as u32);
        digits[1] += sign * i64::from((wide >> 32) as u32);
        digits[2] += sign * i64::from((wide >> 64) as u32);
        self.additions += 1;
        if self.additions == ROOM {
            self.carry();
        }
    }

    #[cold]
    fn special(value: f64) -> usize {
        if value.is_nan() {
            NAN
        } else if value > 0.0 {
            INFINITE
        } else {
            NEGATIVE_INFINITE
        }
    }

    /// Brings all digits but the last, which bears the sign, to 0 … 2³² − 1.
    fn carry(&mut self) {
        let mut carried = 0;
        for digit in &mut self.parts[..DIGITS - 1] {
            let whole = *digit + carried;
            *digit = whole & 0xffff_ffff;
            carried = whole >> 32; // arithmetic: rounds down
        }
        self.parts[DIGITS - 1] += carried;
        self.additions = 0;
    }

    /// The nearest `f64`.
    fn round(mut self) -> f64 {
        let [nan, infinite, negative] = [NAN, INFINITE, NEGATIVE_INFINITE].map(|at| self.parts[at]);
        match (nan > 0, infinite > 0, negative > 0) {
            (true, _, _) | (_, true, true) => return f64::NAN,
            (_, true, false) => return f64::INFINITY,
            (_, false, true) => return f64::NEG_INFINITY,
            (false, false, false) => {}
        }
        self.carry();
        let is_negative = self.parts[DIGITS - 1] < 0;
        if is_negative {
            for digit in &mut self.parts[..DIGITS] {
                *digit = -*digit;
            }
            self.carry();
        }
        let magnitude = self.magnitude();
        if is_negative { -magnitude } else { magnitude }
    }

    /// The nearest `f64` of a sum that is not negative and whose digits are carried.
    fn magnitude(&self) -> f64 {
        let digits = &self.parts[..DIGITS];
        let Some(top) = digits.iter().rposition(|&digit| digit != 0) else { return 0.0 };
        // The four digits from the top hold the leading 53 bits and more; of the others only
        // matters whether they are zero.
        let low = top.saturating_sub(3);
        let window =
            digits[low..=top].iter().rfold(0, |all: u128, &digit| all << 32 | digit as u128);
        let highest = window.ilog2() as usize;
        let Some(dropped) = (32 * low + highest).checked_sub(52) else {
            // Up to 53 bits from the very last place on: the bits of an `f64` as they are.
            return f64::from_bits(window as u64);
        };
        // `dropped` bits of the whole lie below the leading 53; that many of them inside the
        // window:
        let inside = highest - 52;
        let (leading, rest) = (window >> inside, window & ((1 << inside) - 1));
        let is_odd = leading & 1;
        let below = u128::from(digits[..low].iter().any(|&digit| digit != 0));
        // Twice the rest, and a bit for what is below: against half a unit, and to even when just a
        // half.
        let twice = (rest << 1 | below) + is_odd;
        let up = u128::from(twice > 1 << inside);
        // A carry out of the 53 bits makes the exponent larger by itself, and the largest of all an
        // infinity.
        let exponent = (dropped as u64 + 1).min(0x7ff);
        if exponent == 0x7ff {
            return f64::INFINITY;
        }
        f64::from_bits(((exponent - 1) << 52) + (leading + up) as u64)
    }
}

#[cfg(test)]
mod tests {
    use arbitrary::{Result, Unstructured};
    use arbtest::arbtest;

    use super::*;

    fn accumulated(values: &[f64]) -> Accumulator {
        let mut sum = Accumulator::new();
        sum.add_all(values);
        sum.carry();
        sum
    }

    fn sum(values: &[f64]) -> f64 {
        accumulated(values).round()
    }

    /// To the bit.
    #[track_caller]
    fn adds_up(values: &[f64], wanted: f64) {
        let got = sum(values);
        assert_eq!(got.to_bits(), wanted.to_bits(), "{values:?}: got {got:e}, wanted {wanted:e}");
    }

    #[test]
    fn one_value_is_its_own_sum() {
        let whole = [1.0, 0.1, 1e308, f64::MAX, f64::MIN_POSITIVE, 5e-324, 2.5e-310];
        for value in whole.into_iter().flat_map(|value| [value, -value]) {
            adds_up(&[value], value);
        }
    }

    #[test]
    fn sums_are_rounded_once_to_even() {
        let unit = f64::EPSILON; // of 1
        adds_up(&[1.0, unit / 2.0], 1.0); // a tie, to even
        adds_up(&[1.0 + unit, unit / 2.0], 1.0 + 2.0 * unit); // a tie, to even
        adds_up(&[1.0, unit / 2.0, 5e-324], 1.0 + unit); // just more than a tie
        adds_up(&[1.0 + unit, unit / 2.0, -5e-324], 1.0 + unit); // just less than a tie
        adds_up(&[2.0_f64.powi(53), -0.5, 1e-300], 2.0_f64.powi(53)); // near the edge
        adds_up(&[1e100, 1.0, -1e100], 1.0);
        adds_up(&[0.1; 10], 1.0); // the exact sum of ten of the nearest to 0.1, rounded
        adds_up(&[5e-324, 5e-324], 1e-323);
        adds_up(&[f64::MIN_POSITIVE, -5e-324], f64::from_bits((1 << 52) - 1));
    }

    #[test]
    fn sums_beyond_the_range_come_back_or_are_infinite() {
        adds_up(&[f64::MAX, f64::MAX, -f64::MAX], f64::MAX);
        adds_up(&[f64::MAX, f64::MAX], f64::INFINITY);
        adds_up(&[f64::MAX, 2.0_f64.powi(970)], f64::INFINITY); // a tie, rounded up
        adds_up(&vec![-f64::MAX; 5000], f64::NEG_INFINITY);
        adds_up(&[f64::INFINITY, 1.0], f64::INFINITY);
        adds_up(&[f64::NEG_INFINITY, f64::MAX], f64::NEG_INFINITY);
        assert!(sum(&[f64::NEG_INFINITY, f64::INFINITY]).is_nan());
        assert!(sum(&[f64::NAN, 1.0]).is_nan());
    }

    fn finite(bytes: &mut Unstructured<'_>) -> Result<f64> {
        // The largest exponent is that of infinities and of what is no number.
        let bits: u64 = bytes.arbitrary()?;
        let value = f64::from_bits(bits);
        Ok(if value.is_finite() { value } else { f64::from_bits(bits & !(1 << 62)) })
    }

    fn up_to<T>(
        bytes: &mut Unstructured<'_>,
        most: usize,
        make: impl Fn(&mut Unstructured<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let count = bytes.int_in_range(0..=most)?;
        (0..count).map(|_| make(bytes)).collect()
    }

    #[test]
    fn sums_of_two_are_those_of_the_processor() {
        arbtest(|bytes| {
            let (left, right) = (finite(bytes)?, finite(bytes)?);
            // The exact sum of nothing has no sign.
            adds_up(&[left, right], left + right + 0.0);
            Ok(())
        });
    }

    #[test]
    fn sums_of_whole_numbers_are_exact() {
        arbtest(|bytes| {
            let values = up_to(bytes, 50, |bytes| Ok(bytes.arbitrary::<u64>()? as i64))?;
            // Both halves of a number are `f64`s; their sum is rounded once by the conversion too.
            let halves = |value: &i64| [(value >> 32 << 32) as f64, (value & 0xffff_ffff) as f64];
            let exact: i128 = values.iter().map(|&value| i128::from(value)).sum();
            adds_up(&values.iter().flat_map(halves).collect::<Vec<_>>(), exact as f64);
            Ok(())
        });
    }

    #[test]
    fn neither_order_nor_split_matters() {
        arbtest(|bytes| {
            let mut values = up_to(bytes, 60, finite)?;
            let whole = sum(&values);
            values.reverse();
            assert_eq!(sum(&values).to_bits(), whole.to_bits());
            let (left, right) = values.split_at(bytes.int_in_range(0..=values.len())?);
            let (mut left, right) = (accumulated(left), accumulated(right));
            for (left, right) in left.parts.iter_mut().zip(&right.parts) {
                *left += right;
            }
            assert_eq!(left.round().to_bits(), whole.to_bits());
            Ok(())
        });
    }
}
