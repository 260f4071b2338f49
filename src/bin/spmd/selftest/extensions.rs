//! Algorithms over the public calls: sparse exchange, the grid, sorting and partitioning.

use spmd::{
    ErrorKind, Ragged, Result,
    ext::{ExchangeSparse, GridAlltoall, Partition, Sort},
};

use super::{
    Case, Ground,
    ground::{COUNTS, value, values},
};

pub(super) const CASES: &[Case] = &[
    ("exchange_sparse brings what was sent, in order", sparse),
    ("sparse exchanges one after the other do not mix", sparse_rounds),
    ("exchange_sparse refuses ranks that do not exist", sparse_to_nobody),
    ("alltoall_grid equals alltoall", grid),
    ("partition evens out and keeps the order", partition),
    ("partition_by_weight keeps to every rank's share", weights),
    ("sort sorts over all ranks and evens out", sort),
    ("sort with many equal elements is stable and even", equal_elements),
    ("sort of floating-point numbers and of nothing", other_orders),
];

fn sparse(ground: &Ground<'_>) -> Result<()> {
    let me = ground.rank();
    // To itself, to the next and, from odd ranks, twice to rank 0.
    let targets = |rank: usize| {
        let mut targets = vec![rank, (rank + 1) % ground.size()];
        targets.extend(std::iter::repeat_n(0, 2 * (rank % 2)));
        targets
    };
    for count in COUNTS {
        let message = |from: usize, nth: usize| values(10 * from + nth, count + nth);
        let out = targets(me).into_iter().enumerate().map(|(nth, to)| (to, message(me, nth)));
        let got = ground.exchange_sparse(out.collect::<Vec<_>>())?;
        let of = |from: usize| {
            let sent = targets(from).into_iter().enumerate();
            sent.filter(|&(_, to)| to == me).map(move |(nth, _)| (from, message(from, nth)))
        };
        ground.same("exchange_sparse", &got, &ground.ranks().flat_map(of).collect::<Vec<_>>());
    }
    Ok(())
}

fn sparse_rounds(ground: &Ground<'_>) -> Result<()> {
    for round in 0..20 {
        // A different circle each time; every third time nobody says anything.
        let step = 1 + round % ground.size();
        let message = (ground.after(step), vec![round, ground.rank()]);
        let got = ground.exchange_sparse((round % 3 > 0).then_some(message))?;
        let from = ground.before(step);
        let wanted = (round % 3 > 0).then(|| (from, vec![round, from]));
        ground.same("a round", &got, &Vec::from_iter(wanted));
    }
    ground.still_works()
}

fn sparse_to_nobody(ground: &Ground<'_>) -> Result<()> {
    let got = ground.exchange_sparse([(ground.size(), vec![1])]);
    ground.refused("exchange_sparse", got, |kind| matches!(kind, ErrorKind::InvalidRank { .. }));
    ground.still_works()
}

fn grid(ground: &Ground<'_>) -> Result<()> {
    let me = ground.rank();
    for count in COUNTS {
        let length = |from: usize, to: usize| [count, 0, 1, count / 2][(from + 2 * to) % 4];
        let row = |from: usize, to: usize| values(100 * from + to, length(from, to));
        let mine = Ragged::from_rows(ground.ranks().map(|to| row(me, to)));
        let wanted = Ragged::from_rows(ground.ranks().map(|from| row(from, me)));
        ground.equal("alltoall_grid", ground.alltoall_grid(&mine)?, wanted);
    }
    let short = ground.alltoall_grid(&Ragged::<u8>::default());
    ground.refused("no rows", short, |kind| matches!(kind, ErrorKind::LengthMismatch { .. }));
    Ok(())
}

/// What this rank has of `whole`, dealt out unevenly: all on one rank, or more and more.
fn uneven<T: Copy>(ground: &Ground<'_>, whole: &[T], on_one: bool) -> Vec<T> {
    let (me, size) = (ground.rank(), ground.size());
    if on_one {
        return if me == size / 2 { whole.to_vec() } else { Vec::new() };
    }
    let end = |ranks: usize| whole.len() * ranks * ranks / (size * size);
    whole[end(me)..end(me + 1)].to_vec()
}

/// All ranks have equally many, give or take one, and together, in the order of ranks, `whole`.
fn is_even<T: spmd::Datum + PartialEq + std::fmt::Debug>(
    ground: &Ground<'_>,
    what: &str,
    got: &[T],
    whole: &[T],
) -> Result<()> {
    let share = whole.len() / ground.size();
    ground.holds(what, (share..=share + 1).contains(&got.len()));
    ground.same(what, ground.allgather(got)?.flat(), whole);
    Ok(())
}

fn partition(ground: &Ground<'_>) -> Result<()> {
    for count in COUNTS {
        let whole = values(1, count);
        for on_one in [true, false] {
            let got = ground.partition(uneven(ground, &whole, on_one))?;
            is_even(ground, "partition", &got, &whole)?;
            let again = ground.partition(got.clone())?;
            ground.same("what is even stays", &again, &got);
        }
    }
    Ok(())
}

fn weights(ground: &Ground<'_>) -> Result<()> {
    for count in COUNTS {
        // Runs of light and heavy elements, and some without weight.
        let whole: Vec<u64> =
            (0..count).map(|at| value(3, at) % 5 * (1 + at as u64 / 100)).collect();
        let got = ground.partition_by_weight(uneven(ground, &whole, true), |&weight| weight)?;
        ground.same("partition_by_weight", ground.allgather(&got)?.flat(), &whole);
        let (total, heaviest) = (whole.iter().sum::<u64>(), whole.iter().max().copied());
        let bound = total / ground.size() as u64 + heaviest.unwrap_or(0) + 1;
        let weight = got.iter().sum::<u64>();
        ground.holds("no rank has more than its share and an element", weight <= bound);
    }
    Ok(())
}

fn sort(ground: &Ground<'_>) -> Result<()> {
    for count in COUNTS {
        let whole = values(5, count);
        let mut sorted = whole.clone();
        sorted.sort_unstable();
        for on_one in [true, false] {
            let got = ground.sort(uneven(ground, &whole, on_one))?;
            is_even(ground, "sort", &got, &sorted)?;
        }
        let got = ground.sort(uneven(ground, &sorted, false))?;
        is_even(ground, "sort of what is sorted", &got, &sorted)?;
        sorted.reverse();
        let got = ground.sort_by(uneven(ground, &whole, false), |left, right| right.cmp(left))?;
        is_even(ground, "sort backwards", &got, &sorted)?;
    }
    Ok(())
}

fn equal_elements(ground: &Ground<'_>) -> Result<()> {
    for kinds in [1, 2, 5] {
        // A key of few kinds, and a number that tells the order before.
        let whole: Vec<[u32; 2]> =
            (0..3000).map(|at| [(value(7, at) % kinds) as u32, at as u32]).collect();
        let mut sorted = whole.clone();
        sorted.sort_by_key(|element| element[0]);
        let got = ground.sort_by_key(uneven(ground, &whole, false), |element| element[0])?;
        is_even(ground, "sort_by_key", &got, &sorted)?;
    }
    Ok(())
}

fn other_orders(ground: &Ground<'_>) -> Result<()> {
    let whole: Vec<f64> = (0..500).map(|at| 1.0 / (value(9, at) as i64 as f64)).collect();
    let mut sorted = whole.clone();
    sorted.sort_by(f64::total_cmp);
    let got = ground.sort_by(uneven(ground, &whole, false), f64::total_cmp)?;
    is_even(ground, "sort_by", &got, &sorted)?;
    ground.holds("nothing", ground.sort(Vec::<u8>::new())?.is_empty());
    ground.holds("no shares", ground.partition(Vec::<u8>::new())?.is_empty());
    Ok(())
}
