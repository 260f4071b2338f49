//! Collectives of a single value, and of arrays and complex numbers element by element.

use spmd::{
    Result,
    op::{And, Max, Min, Prod, Sum, Xor},
};

use super::{Case, Ground};

pub(super) const CASES: &[Case] = &[
    ("bcast_one from every root", bcast),
    ("reduce_one, allreduce_one, scan_one and exscan_one of numbers", numbers),
    ("reductions of arrays go element by element", arrays),
    ("reductions of one structure keep the order of ranks", structures),
    #[cfg(feature = "num-complex")]
    ("sums and products of complex numbers", complex),
];

fn bcast(ground: &Ground<'_>) -> Result<()> {
    for root in ground.ranks() {
        ground.equal("a number", ground.bcast_one(root, || root as u64 + 7)?, root as u64 + 7);
        ground.equal("a char", ground.bcast_one(root, || 'ß')?, 'ß');
        let array = ground.bcast_one(root, || [root as f64; 3])?;
        ground.equal("an array", array, [root as f64; 3]);
    }
    Ok(())
}

fn numbers(ground: &Ground<'_>) -> Result<()> {
    let (me, size) = (ground.rank() as i64, ground.size() as i64);
    let sum = |ranks: i64| (0..ranks).sum::<i64>();
    for root in ground.ranks() {
        let got = ground.reduce_one(root, me, Sum)?;
        ground.equal("reduce_one", got, (ground.rank() == root).then(|| sum(size)));
    }
    ground.equal("allreduce_one", ground.allreduce_one(me, Sum)?, sum(size));
    ground.equal("allreduce_one of bool", ground.allreduce_one(me < size - 1, And)?, false);
    ground.equal("scan_one", ground.scan_one(me, Sum)?, sum(me + 1));
    ground.equal("exscan_one", ground.exscan_one(me, Sum)?, (me > 0).then(|| sum(me)));
    let last = ground.allreduce_one(me, |_, right| right)?;
    ground.equal("allreduce_one by a closure", last, size - 1);
    Ok(())
}

fn arrays(ground: &Ground<'_>) -> Result<()> {
    let (me, size) = (ground.rank(), ground.size());
    let mine: Vec<[f64; 3]> = (0..1000).map(|at| [me as f64, f64::from(at), 1.0]).collect();
    let all: f64 = ground.ranks().map(|rank| rank as f64).sum();
    let ranks = size as f64;
    let wanted: Vec<[f64; 3]> = (0..1000).map(|at| [all, f64::from(at) * ranks, ranks]).collect();
    ground.same("allreduce", &ground.allreduce(&mine, Sum)?, &wanted);
    ground.same("iallreduce", &ground.iallreduce(mine.clone(), Sum)?.wait()?, &wanted);
    let mut out = vec![[0.0; 3]; 1000];
    ground.allreduce_into(&mine, &mut out, Sum)?;
    ground.same("allreduce_into", &out, &wanted);
    let low = ground.allreduce(&[[me as i32, -(me as i32)]], Min)?;
    ground.same("Min", &low, &[[0, 1 - size as i32]]);
    let high = ground.scan(&[[me as u8, 7]], Max)?;
    ground.same("Max", &high, &[[me as u8, 7]]);
    let product = ground.allreduce_one([2_u64, 1], Prod)?;
    ground.equal("Prod", product, [1 << size, 1]);
    let bits = ground.allreduce_one([1_u16, 2], Xor)?;
    ground.equal("Xor", bits, if size % 2 == 1 { [1, 2] } else { [0, 0] });
    let nested = ground
        .allreduce_one([[me as i64; 2]; 2], |left: [[i64; 2]; 2], right: [[i64; 2]; 2]| {
            [[left[0][0] + right[0][0]; 2]; 2]
        })?;
    ground.equal(
        "arrays of arrays by a closure",
        nested[1][1],
        ground.ranks().sum::<usize>() as i64,
    );
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, bytemuck::NoUninit, bytemuck::AnyBitPattern)]
#[repr(C)]
struct Span {
    first: u64,
    last: u64,
}

fn structures(ground: &Ground<'_>) -> Result<()> {
    let span = |rank: usize| Span { first: rank as u64, last: rank as u64 };
    let join = |left: Span, right: Span| Span { first: left.first, last: right.last };
    let last = ground.size() as u64 - 1;
    let got = ground.allreduce_one(span(ground.rank()), join)?;
    ground.equal("allreduce_one", got, Span { first: 0, last });
    let got = ground.scan_one(span(ground.rank()), join)?;
    ground.equal("scan_one", got, Span { first: 0, last: ground.rank() as u64 });
    Ok(())
}

#[cfg(feature = "num-complex")]
fn complex(ground: &Ground<'_>) -> Result<()> {
    use num_complex::Complex;

    let (me, ranks) = (ground.rank() as f64, ground.size() as f64);
    let all: f64 = ground.ranks().map(|rank| rank as f64).sum();
    let mine = vec![Complex::new(me, -1.0); 1000];
    ground.same("Sum", &ground.allreduce(&mine, Sum)?, &vec![Complex::new(all, -ranks); 1000]);
    let scanned = ground.scan_one(Complex::new(1_i32, 2), Sum)?;
    let count = ground.rank() as i32 + 1;
    ground.equal("scan_one", scanned, Complex::new(count, 2 * count));
    let turned = ground.allreduce_one(Complex::new(0.0_f32, 1.0), Prod)?;
    ground.equal("Prod", turned, Complex::new(0.0, 1.0).powu(ground.size() as u32));
    Ok(())
}
