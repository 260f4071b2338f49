//! Calls that bring the ranks into step, sums that do not depend on the ranks, and operators with
//! places.

use spmd::{
    Error, ErrorKind, Failure, Result,
    op::{Located, MaxLoc, MinLoc, commutative},
};

use super::{
    Case, Ground,
    ground::{COUNTS, value},
};

pub(super) const CASES: &[Case] = &[
    ("turns are taken in the order of ranks", turns),
    ("a failure on any ranks is a failure on all", agreed_failure),
    ("what succeeds everywhere succeeds", agreed_success),
    ("sum_reproducible gives the same bits for every split and order", reproducible),
    ("MinLoc and MaxLoc give the lowest place of the extreme", located),
    ("closures declared commutative", declared_commutative),
];

fn turns(ground: &Ground<'_>) -> Result<()> {
    const TURN: u32 = 25;
    for _ in 0..3 {
        // Each turn hands on a list of those who had theirs.
        let seen = ground.in_rank_order(|| -> Result<Vec<usize>> {
            let mut seen = match ground.rank() {
                0 => Vec::new(),
                rank => ground.recv::<usize>((rank - 1, TURN))?.0,
            };
            seen.push(ground.rank());
            if ground.rank() + 1 < ground.size() {
                ground.send(&seen, (ground.rank() + 1, TURN))?;
            }
            Ok(seen)
        })??;
        ground.same("who had their turn", &seen, &(0..=ground.rank()).collect::<Vec<_>>());
    }
    Ok(())
}

fn agreed_failure(ground: &Ground<'_>) -> Result<()> {
    let me = ground.rank();
    for first in ground.ranks() {
        let fails = me == first || (me > first && me % 2 == 1);
        let words = "out of coffee ".repeat(1 + 20 * first);
        let task = if fails { Err(Failure::verification(words.clone())) } else { Ok(me) };
        let Err(failure) = ground.agree_result(task) else {
            ground.note(|| format!("rank {first} failed and nobody minds"));
            continue;
        };
        ground.equal("the exit code", failure.exit_code(), 3);
        let elsewhere = match failure.as_error().map(Error::kind) {
            Some(ErrorKind::Elsewhere { rank, cause }) => Some((*rank, cause.contains(&words))),
            _ => None,
        };
        ground.equal("whose words", elsewhere, (!fails).then_some((first, true)));
        ground.equal("its own words", failure.to_string() == words, fails);
        let place = failure.location().file();
        ground.holds("the place in the source", place.ends_with("steps.rs"));
    }
    // Errors of any type, those of calls included.
    let parsed = if me == 0 { "x".parse::<u8>() } else { Ok(1) };
    ground.holds("a foreign error", ground.agree_result(parsed).is_err());
    let call = if me == 0 { ground.send(&1_u8, ground.size()) } else { Ok(()) };
    ground.holds("an error of a call", ground.agree_result(call).is_err());
    ground.still_works()
}

fn agreed_success(ground: &Ground<'_>) -> Result<()> {
    match ground.agree_result(Ok::<_, Failure>(ground.rank())) {
        Ok(rank) => ground.equal("its own result", rank, ground.rank()),
        Err(failure) => ground.note(|| format!("failed: {failure}")),
    }
    ground.still_works()
}

fn reproducible(ground: &Ground<'_>) -> Result<()> {
    let (me, size) = (ground.rank(), ground.size());
    for count in COUNTS {
        // Terms from 1e-300 to 1e300, which cancel but for a little.
        let term = |at: usize| {
            let scale = 10_f64.powi(value(1, at) as i32 % 300);
            let sign = if value(2, at).is_multiple_of(2) { 1.0 } else { -1.0 };
            sign * scale * (value(3, at) as f64)
        };
        let all: Vec<f64> = (0..count).map(term).collect();
        let alone = ground.ranks().map(|rank| if rank == me { &all[..] } else { &[] });
        // All terms on one rank, on each in turn; then dealt out.
        let mut sums = Vec::new();
        for whole in alone {
            sums.push(ground.sum_reproducible(whole)?.to_bits());
        }
        let dealt: Vec<f64> = all.iter().copied().skip(me).step_by(size).collect();
        sums.push(ground.sum_reproducible(&dealt)?.to_bits());
        let backwards: Vec<f64> = all.iter().rev().copied().skip(me).step_by(size).collect();
        sums.push(ground.sum_reproducible(&backwards)?.to_bits());
        let first = ground.bcast(0, || vec![sums[0]])?;
        ground.same("the bits of the sum", &sums, &vec![first[0]; size + 2]);
    }
    let tenths = vec![0.1; if me == 0 { 10 } else { 0 }];
    ground.equal("the exact sum, rounded", ground.sum_reproducible(&tenths)?, 1.0);
    let signs = [f64::INFINITY, 1.0];
    ground.equal("an infinite sum", ground.sum_reproducible(&signs)?, f64::INFINITY);
    ground.holds("not a number", ground.sum_reproducible(&f64::NAN)?.is_nan());
    ground.equal("no terms", ground.sum_reproducible(&[0.0; 0])?, 0.0);
    Ok(())
}

fn located(ground: &Ground<'_>) -> Result<()> {
    macro_rules! each {
        ($($type:ty),*) => {$(
            // Few different values, so that there are ties.
            let make = |rank: usize, at: usize| {
                Located::new((value(rank, at) % 3) as $type, (7 * at + ground.size() - rank) as u64)
            };
            for count in [1, 300] {
                let mine: Vec<_> = (0..count).map(|at| make(ground.rank(), at)).collect();
                let find = |largest: bool| -> Vec<Located<$type>> {
                    // Ranks have indices from high to low: the last of the best has the lowest.
                    let best = |at: usize| {
                        let better = |left: Located<$type>, right: Located<$type>| {
                            let (left_value, right_value) = (left.value(), right.value());
                            let worse = if largest { right_value < left_value } else { right_value > left_value };
                            if worse { left } else { right }
                        };
                        ground.ranks().map(|rank| make(rank, at)).reduce(better).unwrap_or(make(0, at))
                    };
                    (0..count).map(best).collect()
                };
                ground.same("MinLoc", &ground.allreduce(&mine, MinLoc)?, &find(false));
                ground.same("MaxLoc", &ground.allreduce(&mine, MaxLoc)?, &find(true));
            }
        )*};
    }
    each!(u8, i16, u32, i64, usize, f32, f64);
    Ok(())
}

fn declared_commutative(ground: &Ground<'_>) -> Result<()> {
    for count in COUNTS {
        let mine: Vec<u64> = (0..count).map(|at| value(ground.rank(), at)).collect();
        let odd = commutative(|left: u64, right: u64| (left | 1).wrapping_mul(right | 1));
        let got = ground.allreduce(&mine, odd)?;
        let wanted = (0..count).map(|at| {
            let factors = ground.ranks().map(|rank| value(rank, at));
            factors.reduce(|left, right| (left | 1).wrapping_mul(right | 1)).unwrap_or(1)
        });
        ground.same("allreduce", &got, &wanted.collect::<Vec<_>>());
    }
    Ok(())
}
