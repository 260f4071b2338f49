//! Collectives between the caller's buffers: every root, all sizes, and nothing written beside the
//! buffer.

use spmd::{
    Datum, ErrorKind, Result,
    op::{And, Max, Or, ReduceOp, Sum},
};

use super::{
    Case, Ground,
    ground::{COUNTS, Guarded, MEBIBYTE, value, values},
};

pub(super) const CASES: &[Case] = &[
    ("bcast_into from every root, all sizes", bcast),
    ("gather_into every root, all sizes", gather),
    ("scatter_into from every root, all sizes", scatter),
    ("allgather_into, all sizes", allgather),
    ("alltoall_into is a transpose, all sizes", alltoall),
    ("reduce_into every root equals reduce", reduce),
    ("allreduce_into equals allreduce", allreduce),
    ("reduce_scatter_into deals the reduction out", reduce_scatter),
    ("scan_into and exscan_into equal scan and exscan", scans),
    ("closures into the caller's buffer keep the order of ranks", order),
    ("truth values into the caller's buffer", truth),
    ("collectives of a mebibyte into the caller's buffer", mebibyte),
    ("buffers of wrong length are refused before anything is sent", wrong_lengths),
];

/// A buffer of guard values that has been used by `write`: its contents, if nothing was written
/// beside it.
fn guarded<T: Datum + PartialEq>(
    ground: &Ground<'_>,
    count: usize,
    guard: T,
    write: impl FnOnce(&mut [T]) -> Result<()>,
) -> Result<Vec<T>> {
    let mut guarded = Guarded::new(count, guard);
    write(guarded.buffer())?;
    ground.holds("nothing is written beside the buffer", guarded.intact_beyond(count));
    Ok(guarded.buffer().to_vec())
}

fn all_values(ground: &Ground<'_>, count: usize) -> Vec<u64> {
    ground.ranks().flat_map(|rank| values(rank, count)).collect()
}

fn bcast(ground: &Ground<'_>) -> Result<()> {
    for count in COUNTS {
        for root in ground.ranks() {
            let got = guarded(ground, count, u64::MAX, |buffer| {
                if ground.rank() == root {
                    buffer.copy_from_slice(&values(root, count));
                }
                ground.bcast_into(root, buffer)
            })?;
            ground.same("bcast_into", &got, &values(root, count));
        }
    }
    Ok(())
}

fn gather(ground: &Ground<'_>) -> Result<()> {
    for count in COUNTS {
        let mine = values(ground.rank(), count);
        for root in ground.ranks() {
            let at_root = ground.rank() == root;
            let room = count * ground.size();
            let got = guarded(ground, room, 3, |out| ground.gather_into(root, &mine, out))?;
            let wanted = if at_root { all_values(ground, count) } else { vec![3; room] };
            ground.same("gather_into", &got, &wanted);
            let mut room = vec![3; if at_root { room } else { 0 }];
            ground.gather_into(root, &mine, &mut room)?;
            ground.holds("the others need no room", !at_root || room == wanted);
        }
    }
    Ok(())
}

fn scatter(ground: &Ground<'_>) -> Result<()> {
    for count in COUNTS {
        for root in ground.ranks() {
            let rows = if ground.rank() == root { all_values(ground, count) } else { Vec::new() };
            let got = guarded(ground, count, 3, |mine| ground.scatter_into(root, &rows, mine))?;
            ground.same("scatter_into", &got, &values(ground.rank(), count));
        }
    }
    Ok(())
}

fn allgather(ground: &Ground<'_>) -> Result<()> {
    for count in COUNTS {
        let mine = values(ground.rank(), count);
        let room = count * ground.size();
        let got = guarded(ground, room, 3, |out| ground.allgather_into(&mine, out))?;
        ground.same("allgather_into", &got, &all_values(ground, count));
    }
    Ok(())
}

fn alltoall(ground: &Ground<'_>) -> Result<()> {
    let me = ground.rank();
    for count in COUNTS {
        let row = |from: usize, to: usize| values(100 * from + to, count);
        let rows: Vec<u64> = ground.ranks().flat_map(|to| row(me, to)).collect();
        let wanted: Vec<u64> = ground.ranks().flat_map(|from| row(from, me)).collect();
        let got = guarded(ground, rows.len(), 3, |out| ground.alltoall_into(&rows, out))?;
        ground.same("alltoall_into", &got, &wanted);
    }
    Ok(())
}

/// The sum over the ranks of `ranks`, element by element.
fn sums(ranks: impl IntoIterator<Item = usize>, count: usize) -> Vec<u64> {
    ranks.into_iter().fold(vec![0; count], |sums, rank| {
        (0..count).map(|at| sums[at].wrapping_add(value(rank, at))).collect()
    })
}

fn reduce(ground: &Ground<'_>) -> Result<()> {
    for count in COUNTS {
        let mine = values(ground.rank(), count);
        for root in ground.ranks() {
            let got = guarded(ground, count, 3, |out| ground.reduce_into(root, &mine, out, Sum))?;
            let at_root = ground.rank() == root;
            let wanted = if at_root { sums(ground.ranks(), count) } else { vec![3; count] };
            ground.same("reduce_into", &got, &wanted);
        }
    }
    Ok(())
}

fn allreduce(ground: &Ground<'_>) -> Result<()> {
    for count in COUNTS {
        let mine = values(ground.rank(), count);
        let got = guarded(ground, count, 3, |out| ground.allreduce_into(&mine, out, Sum))?;
        ground.same("allreduce_into", &got, &sums(ground.ranks(), count));
        let real: Vec<f64> = mine.iter().map(|&value| (value >> 40) as f64).collect();
        let got = guarded(ground, count, 0.5, |out| ground.allreduce_into(&real, out, Max))?;
        let wanted = ground.allreduce(&real, Max)?;
        ground.same("allreduce_into of reals", &got, &wanted);
    }
    Ok(())
}

fn reduce_scatter(ground: &Ground<'_>) -> Result<()> {
    for count in COUNTS {
        let whole = count * ground.size();
        let mine = values(ground.rank(), whole);
        let got = guarded(ground, count, 3, |out| ground.reduce_scatter_into(&mine, out, Sum))?;
        let part = ground.rank() * count..(ground.rank() + 1) * count;
        ground.same("reduce_scatter_into", &got, &sums(ground.ranks(), whole)[part]);
    }
    Ok(())
}

fn scans(ground: &Ground<'_>) -> Result<()> {
    for count in COUNTS {
        let mine = values(ground.rank(), count);
        let got = guarded(ground, count, 3, |out| ground.scan_into(&mine, out, Sum))?;
        ground.same("scan_into", &got, &sums(0..=ground.rank(), count));
        let got = guarded(ground, count, 3, |out| ground.exscan_into(&mine, out, Sum))?;
        let first = ground.rank() == 0;
        let wanted = if first { vec![3; count] } else { sums(0..ground.rank(), count) };
        ground.same("exscan_into", &got, &wanted);
    }
    Ok(())
}

/// Affine maps under composition: associative, not commutative.
fn compose([a, b]: [u64; 2], [c, d]: [u64; 2]) -> [u64; 2] {
    [c.wrapping_mul(a), c.wrapping_mul(b).wrapping_add(d)]
}

fn order(ground: &Ground<'_>) -> Result<()> {
    let map = |rank: usize, at: usize| [value(rank, at) | 1, value(rank, at + 1)];
    let maps = |rank: usize, count: usize| (0..count).map(|at| map(rank, at)).collect::<Vec<_>>();
    let folded = |ranks: std::ops::Range<usize>, at: usize| {
        ranks.map(|rank| map(rank, at)).reduce(compose).unwrap_or([9; 2])
    };
    let (me, size) = (ground.rank(), ground.size());
    for count in COUNTS {
        let mine = maps(me, count);
        let over = |ranks: std::ops::Range<usize>| {
            (0..count).map(|at| folded(ranks.clone(), at)).collect::<Vec<_>>()
        };
        let mut out = vec![[9; 2]; count];
        ground.allreduce_into(&mine, &mut out, compose)?;
        ground.same("allreduce_into", &out, &over(0..size));
        ground.scan_into(&mine, &mut out, compose)?;
        ground.same("scan_into", &out, &over(0..me + 1));
        out.fill([9; 2]);
        ground.exscan_into(&mine, &mut out, compose)?;
        ground.same("exscan_into", &out, &over(0..me));
        let root = count % size;
        out.fill([9; 2]);
        ground.reduce_into(root, &mine, &mut out, compose)?;
        let at_root = if me == root { over(0..size) } else { over(0..0) };
        ground.same("reduce_into", &out, &at_root);
        let many = maps(me, count * size);
        ground.reduce_scatter_into(&many, &mut out, compose)?;
        let part: Vec<_> = (me * count..(me + 1) * count).map(|at| folded(0..size, at)).collect();
        ground.same("reduce_scatter_into", &out, &part);
    }
    Ok(())
}

fn truth(ground: &Ground<'_>) -> Result<()> {
    let (me, size) = (ground.rank(), ground.size());
    let mine = [me == 0, true, me % 2 == 1, false];
    let check = |what: &str, op: &dyn Fn(bool, bool) -> bool, got: [bool; 4]| {
        let column = |at: usize| {
            let of = |rank: usize| [rank == 0, true, rank % 2 == 1, false][at];
            ground.ranks().map(of).reduce(op).unwrap_or(false)
        };
        ground.same(what, &got, &[column(0), column(1), column(2), column(3)]);
    };
    let reduced = |op: &dyn Fn(&mut [bool]) -> Result<()>| {
        let mut out = [false; 4];
        op(&mut out).map(|()| out)
    };
    check("And", &|a, b| a & b, reduced(&|out| ground.allreduce_into(&mine, out, And))?);
    check("Or", &|a, b| a | b, reduced(&|out| ground.allreduce_into(&mine, out, Or))?);
    let mut all = vec![false; 4 * size];
    ground.allgather_into(&mine, &mut all)?;
    let wanted: Vec<bool> =
        ground.ranks().flat_map(|rank| [rank == 0, true, rank % 2 == 1, false]).collect();
    ground.same("allgather_into", &all, &wanted);
    let mut turned = vec![false; size];
    ground.alltoall_into(&vec![me % 2 == 0; size], &mut turned)?;
    let even: Vec<bool> = ground.ranks().map(|rank| rank % 2 == 0).collect();
    ground.same("alltoall_into", &turned, &even);
    let mut kept = [true, false, true];
    ground.exscan_into(&[false; 3], &mut kept, And)?;
    ground.same("exscan_into", &kept, &if me == 0 { [true, false, true] } else { [false; 3] });
    let mut letters = ['a'; 3];
    if me == size - 1 {
        letters = ['x', 'ß', '\u{1f980}'];
    }
    ground.bcast_into(size - 1, &mut letters)?;
    ground.same("bcast_into of letters", &letters, &['x', 'ß', '\u{1f980}']);
    Ok(())
}

fn mebibyte(ground: &Ground<'_>) -> Result<()> {
    let (me, size) = (ground.rank(), ground.size());
    let mine = values(me, MEBIBYTE);
    let mut out = vec![0; MEBIBYTE];
    ground.allreduce_into(&mine, &mut out, Sum)?;
    let total = sums(ground.ranks(), MEBIBYTE);
    ground.same("allreduce_into", &out, &total);
    let with = |left: u64, right: u64| Sum.apply(left, right);
    ground.reduce_into(size - 1, &mine, &mut out, with)?;
    ground.same("reduce_into with a closure", &out, &total);
    let share = MEBIBYTE / size;
    let mut part = vec![0; share];
    ground.reduce_scatter_into(&mine[..share * size], &mut part, Sum)?;
    ground.same("reduce_scatter_into", &part, &total[me * share..(me + 1) * share]);
    let mut all = vec![0; share * size];
    ground.allgather_into(&mine[..share], &mut all)?;
    ground.same("allgather_into", &all, &all_values(ground, share));
    Ok(())
}

fn wrong_lengths(ground: &Ground<'_>) -> Result<()> {
    let wrong = |kind: &ErrorKind| matches!(kind, ErrorKind::LengthMismatch { .. });
    let (size, me) = (ground.size(), ground.rank());
    let mut short = vec![0_u8; size];
    ground.refused("allgather_into", ground.allgather_into(&[1; 2], &mut short), wrong);
    ground.refused("alltoall_into", ground.alltoall_into(&vec![1; 2 * size], &mut short), wrong);
    if size > 1 {
        let got = ground.alltoall_into(&vec![1; size + 1], &mut vec![0; size + 1]);
        ground.refused("alltoall_into of a fraction", got, wrong);
    }
    ground.refused("allreduce_into", ground.allreduce_into(&[1; 9], &mut [0; 8], Sum), wrong);
    let got = ground.reduce_scatter_into(&vec![1; size + 1], &mut [0; 1], Sum);
    ground.refused("reduce_scatter_into", got, wrong);
    ground.refused("scan_into", ground.scan_into(&[1; 9], &mut [0; 8], Sum), wrong);
    ground.refused("exscan_into", ground.exscan_into(&[1; 9], &mut [0; 10], Sum), wrong);
    // Where only the root can see what is wrong the others would wait for it: there, this error
    // ends the job.
    if size == 1 {
        ground.refused("gather_into", ground.gather_into(me, &[1; 2], &mut [0]), wrong);
        ground.refused("scatter_into", ground.scatter_into(me, &[1; 2], &mut [0]), wrong);
        ground.refused("reduce_into", ground.reduce_into(me, &[1; 2], &mut [0], Sum), wrong);
    }
    ground.still_works()
}
