//! Collectives that do not wait: every root, rows of any length, many under way at once, and
//! requests that nobody asks for.

use spmd::{
    ErrorKind, Ragged, Result,
    op::{And, Max, Sum},
    request::wait_all,
};

use super::{
    Case, Ground,
    ground::{COUNTS, MEBIBYTE, value, values},
};

pub(super) const CASES: &[Case] = &[
    ("ibarrier is done when all have come", barrier),
    ("ibcast from every root, all sizes", bcast),
    ("igather and iscatter with every root, rows of any length", gather_scatter),
    ("iallgather and ialltoall, rows of any length", allgather_alltoall),
    ("ireduce, iallreduce, iscan and iexscan equal the blocking ones", reductions),
    ("closures that do not wait keep the order of ranks", order),
    ("ireduce_scatter deals the reduction out", reduce_scatter),
    ("truth values without waiting", truth),
    ("many collectives under way finish in any order", many),
    ("collectives that nobody waits for still take part", dropped),
    ("collectives that do not wait and those that do are not mixed", beside_blocking),
    ("iallreduce and iallgather of a mebibyte", mebibyte),
    ("wrong arguments start nothing", wrong_arguments),
];

fn barrier(ground: &Ground<'_>) -> Result<()> {
    for late in ground.ranks() {
        if ground.rank() == late && ground.size() > 1 {
            // Whoever is told that all have come before this rank has come says so.
            let early = ground.recv::<bool>((ground.after(1), 24))?.0;
            ground.same("the barrier is done too early", &early, &[false]);
        }
        let mut request = Some(ground.ibarrier()?);
        if ground.rank() == (late + 1) % ground.size() && ground.size() > 1 {
            let mut done = false;
            for _ in 0..50 {
                if let Some(open) = request.take() {
                    match open.test() {
                        Ok(outcome) => {
                            outcome?;
                            done = true;
                        }
                        Err(open) => request = Some(open),
                    }
                }
                std::thread::yield_now();
            }
            ground.send(&[done], (late, 24))?;
        }
        request.map_or(Ok(()), spmd::Request::wait)?;
    }
    Ok(())
}

fn bcast(ground: &Ground<'_>) -> Result<()> {
    for count in COUNTS {
        for root in ground.ranks() {
            let mut asked = false;
            let coming = ground.ibcast(root, || {
                asked = true;
                values(root, count)
            })?;
            ground.equal("the closure runs on the root only", asked, ground.rank() == root);
            ground.same("ibcast", &coming.wait()?, &values(root, count));
        }
    }
    Ok(())
}

/// A row's length, different from rank to rank; some are empty.
fn length(rank: usize, largest: usize) -> usize {
    [largest, 0, largest / 3 + 1, 2][rank % 4]
}

fn gather_scatter(ground: &Ground<'_>) -> Result<()> {
    let me = ground.rank();
    for count in COUNTS {
        let rows =
            || Ragged::from_rows(ground.ranks().map(|rank| values(rank, length(rank, count))));
        let mine = || values(me, length(me, count));
        for root in ground.ranks() {
            let (gathered, dealt) = (ground.igather(root, mine())?, ground.iscatter(root, rows)?);
            ground.same("iscatter", &dealt.wait()?, &mine());
            ground.equal("igather", gathered.wait()?, (me == root).then(rows));
        }
    }
    Ok(())
}

fn allgather_alltoall(ground: &Ground<'_>) -> Result<()> {
    let me = ground.rank();
    for count in COUNTS {
        let row = |from: usize, to: usize| values(100 * from + to, length(from + 2 * to, count));
        let all = ground.iallgather(row(me, 0))?;
        let turned = ground.ialltoall(Ragged::from_rows(ground.ranks().map(|to| row(me, to))))?;
        let wanted = Ragged::from_rows(ground.ranks().map(|from| row(from, me)));
        ground.equal("ialltoall", turned.wait()?, wanted);
        let wanted = Ragged::from_rows(ground.ranks().map(|from| row(from, 0)));
        ground.equal("iallgather", all.wait()?, wanted);
    }
    Ok(())
}

fn reductions(ground: &Ground<'_>) -> Result<()> {
    for count in COUNTS {
        let mine = || values(ground.rank(), count);
        for root in ground.ranks() {
            let got = ground.ireduce(root, mine(), Sum)?.wait()?;
            ground.equal("ireduce", got, ground.reduce(root, &mine(), Sum)?);
        }
        let got = ground.iallreduce(mine(), Sum)?.wait()?;
        ground.same("iallreduce", &got, &ground.allreduce(&mine(), Sum)?);
        let real: Vec<f64> = mine().iter().map(|&value| value as f64).collect();
        let got = ground.iallreduce(real.clone(), Max)?.wait()?;
        ground.same("iallreduce of reals", &got, &ground.allreduce(&real, Max)?);
        let got = ground.iscan(mine(), Sum)?.wait()?;
        ground.same("iscan", &got, &ground.scan(&mine(), Sum)?);
        let got = ground.iexscan(mine(), Sum)?.wait()?;
        ground.equal("iexscan", got, ground.exscan(&mine(), Sum)?);
    }
    Ok(())
}

/// Affine maps, of which the left one is applied first: associative, not commutative.
fn affine([a, b]: [u64; 2], [c, d]: [u64; 2]) -> [u64; 2] {
    [a.wrapping_mul(c), b.wrapping_mul(c).wrapping_add(d)]
}

fn order(ground: &Ground<'_>) -> Result<()> {
    for count in COUNTS {
        let mine = || -> Vec<[u64; 2]> {
            (0..count).map(|at| [value(ground.rank(), at) | 1, value(at, ground.rank())]).collect()
        };
        let root = count % ground.size();
        let to_root = ground.ireduce(root, mine(), affine)?;
        let (all, upto) = (ground.iallreduce(mine(), affine)?, ground.iscan(mine(), affine)?);
        let before = ground.iexscan(mine(), affine)?;
        ground.same("iscan", &upto.wait()?, &ground.scan(&mine(), affine)?);
        ground.equal("iexscan", before.wait()?, ground.exscan(&mine(), affine)?);
        ground.same("iallreduce", &all.wait()?, &ground.allreduce(&mine(), affine)?);
        ground.equal("ireduce", to_root.wait()?, ground.reduce(root, &mine(), affine)?);
    }
    Ok(())
}

fn reduce_scatter(ground: &Ground<'_>) -> Result<()> {
    let last = |_left: u64, right: u64| right;
    for count in COUNTS {
        let lengths: Vec<usize> = ground.ranks().map(|rank| length(rank, count)).collect();
        let mine = || values(ground.rank(), lengths.iter().sum());
        let sums = ground.ireduce_scatter(mine(), &lengths, Sum)?;
        let lasts = ground.ireduce_scatter(mine(), &lengths, last)?;
        let wanted = ground.reduce_scatter(&mine(), &lengths, Sum)?;
        ground.same("ireduce_scatter", &sums.wait()?, &wanted);
        let wanted = ground.reduce_scatter(&mine(), &lengths, last)?;
        ground.same("ireduce_scatter by a closure", &lasts.wait()?, &wanted);
    }
    Ok(())
}

fn truth(ground: &Ground<'_>) -> Result<()> {
    let mine = || vec![ground.rank() == 0, true, false];
    let all = ground.iallreduce(mine(), And)?;
    let rows = ground.iallgather(mine())?.wait()?;
    ground.same("iallreduce", &all.wait()?, &[ground.size() == 1, true, false]);
    for (rank, row) in rows.iter().enumerate() {
        ground.same("iallgather", row, &[rank == 0, true, false]);
    }
    Ok(())
}

fn many(ground: &Ground<'_>) -> Result<()> {
    let me = ground.rank();
    let started: Result<Vec<_>> =
        (0..20).map(|round| ground.iallreduce(vec![me + round; round], Sum)).collect();
    let mut started = started?;
    // Each rank in an order of its own.
    let at = started.len() * (me + 1) / (ground.size() + 1);
    started.rotate_left(at);
    let sum: usize = ground.ranks().sum();
    for (place, got) in wait_all(started)?.into_iter().enumerate() {
        let round = (place + at) % 20;
        ground.same("iallreduce", &got, &vec![sum + round * ground.size(); round]);
    }
    Ok(())
}

fn dropped(ground: &Ground<'_>) -> Result<()> {
    for round in 0..ground.size() {
        let coming = ground.iallgather(values(ground.rank(), 300))?;
        let barrier = ground.ibarrier()?;
        if ground.rank() == round {
            drop((coming, barrier));
            continue;
        }
        for (rank, row) in coming.wait()?.iter().enumerate() {
            ground.same("iallgather", row, &values(rank, 300));
        }
        barrier.wait()?;
    }
    ground.still_works()
}

fn beside_blocking(ground: &Ground<'_>) -> Result<()> {
    for round in 0..10 {
        let coming = ground.iallgather(vec![ground.rank() + round])?;
        let root = round % ground.size();
        let got = ground.bcast(root, || values(root, 40 * round))?;
        ground.same("bcast meanwhile", &got, &values(root, 40 * round));
        let sum = ground.allreduce(&[round], Sum)?;
        ground.same("allreduce meanwhile", &sum, &[round * ground.size()]);
        ground.still_works()?;
        let wanted: Vec<usize> = ground.ranks().map(|rank| rank + round).collect();
        ground.same("iallgather", coming.wait()?.flat(), &wanted);
    }
    Ok(())
}

fn mebibyte(ground: &Ground<'_>) -> Result<()> {
    let mine = values(ground.rank(), MEBIBYTE);
    let sum = ground.iallreduce(mine.clone(), Sum)?;
    let share = MEBIBYTE / ground.size();
    let all = ground.iallgather(mine[..share].to_vec())?;
    let wanted: Vec<u64> = ground.ranks().flat_map(|rank| values(rank, share)).collect();
    ground.same("iallgather", all.wait()?.flat(), &wanted);
    ground.same("iallreduce", &sum.wait()?, &ground.allreduce(&mine, Sum)?);
    Ok(())
}

fn wrong_arguments(ground: &Ground<'_>) -> Result<()> {
    let nobody = ground.size();
    let no_such_rank = |kind: &ErrorKind| matches!(kind, ErrorKind::InvalidRank { .. });
    ground.refused("ibcast", ground.ibcast(nobody, || vec![1]), no_such_rank);
    ground.refused("igather", ground.igather(nobody, vec![1]), no_such_rank);
    ground.refused("iscatter", ground.iscatter(nobody, Ragged::<u8>::default), no_such_rank);
    ground.refused("ireduce", ground.ireduce(nobody, vec![1], Sum), no_such_rank);
    let wrong = |kind: &ErrorKind| matches!(kind, ErrorKind::LengthMismatch { .. });
    ground.refused("ialltoall", ground.ialltoall(Ragged::<u8>::default()), wrong);
    ground.refused("ireduce_scatter", ground.ireduce_scatter(vec![1], &[], Sum), wrong);
    let sum = ground.iallreduce(vec![1], Sum)?;
    ground.same("iallreduce afterwards", &sum.wait()?, &[nobody]);
    Ok(())
}
