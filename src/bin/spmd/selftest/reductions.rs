//! Reductions: all built-in operators on all their types, and closures that prove the order of
//! ranks.

use std::fmt::Debug;

use spmd::{
    Datum, Result,
    op::{And, Max, Min, Or, Prod, ReduceOp, Sum, Xor},
};

use super::{
    Case, Ground,
    ground::{COUNTS, MEBIBYTE, value, values},
};

pub(super) const CASES: &[Case] = &[
    ("Sum, Prod, Min and Max of integers", arithmetic_of_integers),
    ("Sum, Prod, Min and Max of floating-point numbers", arithmetic_of_floats),
    ("And, Or and Xor of integers and bool", bits),
    ("reductions of all sizes to every root", sizes_and_roots),
    ("closures are combined in the order of ranks", rank_order),
    ("closures on derived and large elements", matrices),
    ("allreduce gives the same bits everywhere", same_bits),
    ("Min and Max give the same bits everywhere, of NaN and zeros too", extremes_of_odd_numbers),
    ("allreduce of a mebibyte", mebibyte),
];

/// All four reductions of `make(rank, index)` equal the fold from rank 0 upwards.
fn folds<T: Datum + PartialEq + Debug>(
    ground: &Ground<'_>,
    what: &str,
    count: usize,
    op: impl ReduceOp<T> + Copy,
    wanted: impl Fn(T, T) -> T,
    make: impl Fn(usize, usize) -> T,
) -> Result<()> {
    let of = |rank: usize| (0..count).map(|index| make(rank, index)).collect::<Vec<T>>();
    let fold = |ranks: usize| {
        (1..ranks).fold(of(0), |left, rank| {
            left.into_iter().zip(of(rank)).map(|(left, right)| wanted(left, right)).collect()
        })
    };
    let (me, size) = (ground.rank(), ground.size());
    let (mine, total) = (of(me), fold(size));
    let what = format!("{what} on {}", std::any::type_name::<T>());
    ground.same(&format!("allreduce by {what}"), &ground.allreduce(&mine, op)?, &total);
    for root in ground.ranks() {
        match ground.reduce(root, &mine, op)? {
            Some(got) => ground.same(&format!("reduce by {what}"), &got, &total),
            None => ground.holds("reduce gives the root its result", me != root),
        }
    }
    ground.same(&format!("scan by {what}"), &ground.scan(&mine, op)?, &fold(me + 1));
    match ground.exscan(&mine, op)? {
        Some(got) => ground.same(&format!("exscan by {what}"), &got, &fold(me)),
        None => ground.equal("who has no ranks before", me, 0),
    }
    Ok(())
}

fn extremes_of_odd_numbers(ground: &Ground<'_>) -> Result<()> {
    let me = ground.rank();
    let odd = [
        if me == 0 { f64::NAN } else { me as f64 },
        f64::from_bits(f64::NAN.to_bits() | (me as u64 + 1)),
        if me.is_multiple_of(2) { -0.0 } else { 0.0 },
        if me.is_multiple_of(2) { f64::INFINITY } else { -f64::INFINITY },
    ];
    for count in [1, 1000] {
        let mine = odd.repeat(count);
        let alone = ground.size() == 1;
        for got in [
            ground.allreduce(&mine, Min)?,
            ground.allreduce(&mine, Max)?,
            ground.iallreduce(mine.clone(), Min)?.wait()?,
            ground.iallreduce(mine.clone(), Max)?.wait()?,
        ] {
            let bits: Vec<u64> = got.iter().map(|value| value.to_bits()).collect();
            let same = ground.allgather(&bits)?.iter().all(|theirs| *theirs == bits);
            ground.holds("all ranks have the same bits", same);
            ground.holds("NaN wins", got[0].is_nan() && got[1].is_nan());
        }
        let zeros = (ground.allreduce(&mine, Min)?[2], ground.allreduce(&mine, Max)?[2]);
        ground.holds("-0 is the smaller", zeros.0.is_sign_negative());
        ground.holds("0 is the larger", alone || zeros.1.is_sign_positive());
    }
    Ok(())
}

fn arithmetic_of_integers(ground: &Ground<'_>) -> Result<()> {
    macro_rules! each {
        ($($type:ty),*) => {$(
            let make = |rank, index| value(rank, index) as $type;
            folds::<$type>(ground, "Sum", 5, Sum, <$type>::wrapping_add, make)?;
            // Libraries add many at once by other instructions.
            let large = |rank, index| make(rank, index).wrapping_add(<$type>::MAX / 2);
            folds::<$type>(ground, "Sum", 200, Sum, <$type>::wrapping_add, large)?;
            folds::<$type>(ground, "Prod", 5, Prod, <$type>::wrapping_mul, |rank, index| make(rank, index) | 1)?;
            folds::<$type>(ground, "Min", 5, Min, Ord::min, make)?;
            folds::<$type>(ground, "Max", 5, Max, Ord::max, make)?;
        )*};
    }
    each!(i8, i16, i32, i64, isize, u8, u16, u32, u64, usize);
    Ok(())
}

fn arithmetic_of_floats(ground: &Ground<'_>) -> Result<()> {
    macro_rules! each {
        ($($type:ty),*) => {$(
            // Small whole numbers: exact in any order.
            let make = |rank, index| (value(rank, index) % 1000) as $type - 500.0;
            folds::<$type>(ground, "Sum", 5, Sum, |left, right| left + right, make)?;
            let small = |rank, index| [1.0, -1.0, 2.0, 0.5][(value(rank, index) % 4) as usize];
            folds::<$type>(ground, "Prod", 5, Prod, |left, right| left * right, small)?;
            folds::<$type>(ground, "Min", 5, Min, <$type>::min, make)?;
            folds::<$type>(ground, "Max", 5, Max, <$type>::max, make)?;
        )*};
    }
    each!(f32, f64);
    Ok(())
}

fn bits(ground: &Ground<'_>) -> Result<()> {
    macro_rules! each {
        ($($type:ty: $make:expr),*) => {$(
            folds::<$type>(ground, "And", 5, And, |left, right| left & right, $make)?;
            folds::<$type>(ground, "Or", 5, Or, |left, right| left | right, $make)?;
            folds::<$type>(ground, "Xor", 5, Xor, |left, right| left ^ right, $make)?;
        )*};
    }
    macro_rules! integers {
        ($($type:ty),*) => { each!($($type: |rank, index| value(rank, index) as $type),*) };
    }
    integers!(i8, i16, i32, i64, isize, u8, u16, u32, u64, usize);
    each!(bool: |rank, index| value(rank, index) % 5 < 3);
    Ok(())
}

fn sizes_and_roots(ground: &Ground<'_>) -> Result<()> {
    for count in COUNTS {
        folds::<u64>(ground, "Sum", count, Sum, u64::wrapping_add, value)?;
    }
    Ok(())
}

/// `x → a·x + b` modulo 2⁶⁴, of which the left one is applied first: associative, not commutative.
fn affine([a, b]: [u64; 2], [c, d]: [u64; 2]) -> [u64; 2] {
    [a.wrapping_mul(c), b.wrapping_mul(c).wrapping_add(d)]
}

fn rank_order(ground: &Ground<'_>) -> Result<()> {
    let make = |rank, index| [value(rank, index) | 1, value(index, rank)];
    for count in COUNTS {
        folds(ground, "an affine map", count, affine, affine, make)?;
    }
    let first = |left: u64, _right: u64| left;
    let last = |_left: u64, right: u64| right;
    folds(ground, "the first", 3, first, first, value)?;
    folds(ground, "the last", 3, last, last, value)
}

/// A 2 × 2 matrix modulo 2³², with a flag whose bytes are checked on arrival.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::NoUninit, bytemuck::CheckedBitPattern)]
#[repr(C)]
struct Matrix {
    rows: [[u32; 2]; 2],
    odd: bool,
    unused: [u8; 3],
}

fn product(left: Matrix, right: Matrix) -> Matrix {
    let (a, b) = (left.rows, right.rows);
    let at = |row: usize, column: usize| {
        let term = |inner: usize| a[row][inner].wrapping_mul(b[inner][column]);
        term(0).wrapping_add(term(1))
    };
    Matrix { rows: [[at(0, 0), at(0, 1)], [at(1, 0), at(1, 1)]], odd: left.odd ^ right.odd, ..left }
}

fn matrices(ground: &Ground<'_>) -> Result<()> {
    let make = |rank: usize, index: usize| {
        let entry = |place: usize| value(rank, 4 * index + place) as u32;
        let rows = [[entry(0), entry(1)], [entry(2), entry(3)]];
        Matrix { rows, odd: rank.is_multiple_of(2), unused: [0; 3] }
    };
    for count in [1, 7, 1000] {
        folds(ground, "a matrix product", count, product, product, make)?;
    }
    Ok(())
}

fn same_bits(ground: &Ground<'_>) -> Result<()> {
    for count in [1, 100, 3000] {
        let mine: Vec<f64> =
            (0..count).map(|index| 1.0 / (value(ground.rank(), index) as f64)).collect();
        let sum: Vec<u64> = ground.allreduce(&mine, Sum)?.into_iter().map(f64::to_bits).collect();
        let of_rank_0 = ground.bcast(0, || sum.clone())?;
        ground.same("the bits of allreduce", &sum, &of_rank_0);
    }
    Ok(())
}

fn mebibyte(ground: &Ground<'_>) -> Result<()> {
    let wanted = (0..MEBIBYTE)
        .map(|index| ground.ranks().fold(0, |sum: u64, rank| sum.wrapping_add(value(rank, index))));
    let got = ground.allreduce(&values(ground.rank(), MEBIBYTE), Sum)?;
    ground.same("allreduce", &got, &wanted.collect::<Vec<_>>());
    Ok(())
}
