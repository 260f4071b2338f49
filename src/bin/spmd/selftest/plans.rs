//! Operations that are built once and started again and again.

use spmd::{ANY, ErrorKind, Plan, Result, Status, op::Sum};

use super::{
    Case, Ground,
    ground::{COUNTS, values},
};

pub(super) const CASES: &[Case] = &[
    ("a plan's messages, all sizes, many starts", messages),
    ("a plan's ssend and a shorter message", shorter),
    ("a plan's bool and char", checked),
    ("a plan's collectives, many starts", collectives),
    ("a plan's collectives with a root", rooted),
    ("a plan's reductions", reductions),
    ("a plan's reductions by a closure", closure),
    ("a plan and other calls at the same time", beside),
    ("a plan is tested until done", test),
    ("a plan's messages to and from nobody", nobody),
    ("a plan used wrongly is refused", refused),
    ("a plan that is dropped under way withdraws its receives", dropped),
];

/// Starts and waits.
fn round(plan: &mut Plan<'_>) -> Result<()> {
    plan.start()?;
    plan.wait()
}

fn messages(ground: &Ground<'_>) -> Result<()> {
    for steps in ground.ranks() {
        let (to, from) = (ground.after(steps), ground.before(steps));
        for count in COUNTS {
            let mut plan = ground.plan();
            let theirs = plan.recv(vec![u64::MAX; count], (from, 70))?;
            let mine = plan.send(vec![0; count], (to, 70))?;
            for turn in 0..4 {
                plan.get_mut(mine)?.copy_from_slice(&values(ground.rank() + turn, count));
                round(&mut plan)?;
                ground.same("planned recv", plan.get(theirs)?, &values(from + turn, count));
                ground.same("planned send", plan.get(mine)?, &values(ground.rank() + turn, count));
                let status = Status { source: from, tag: 70, count };
                ground.equal("its status", plan.status(theirs)?, status);
            }
        }
    }
    Ok(())
}

fn shorter(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    for count in [2, 3000] {
        let mut plan = ground.plan();
        let theirs = plan.recv(vec![7; count + 1], (ANY, 71))?;
        plan.ssend(values(ground.rank(), count), (to, 71))?;
        for _ in 0..2 {
            round(&mut plan)?;
            ground.same("planned recv", &plan.get(theirs)?[..count], &values(from, count));
            ground.equal("the rest", plan.get(theirs)?[count], 7);
            ground.equal("its count", plan.status(theirs)?.count, count);
        }
    }
    Ok(())
}

fn checked(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let flags =
        |rank: usize| (0..700).map(|index| (index + rank).is_multiple_of(3)).collect::<Vec<bool>>();
    let letter = |rank: usize| char::from_digit(rank as u32 % 10, 10).unwrap_or('x');
    let mut plan = ground.plan();
    let theirs = plan.recv(vec![true; 700], (from, 72))?;
    plan.send(flags(ground.rank()), (to, 72))?;
    let (_, letters) = plan.allgather(vec![letter(ground.rank())])?;
    let root = ground.size() - 1;
    let first = plan.bcast(root, flags(ground.rank()))?;
    for _ in 0..2 {
        round(&mut plan)?;
        ground.same("planned recv", plan.get(theirs)?, &flags(from));
        let all: Vec<char> = ground.ranks().map(letter).collect();
        ground.same("planned allgather", plan.get(letters)?, &all);
        ground.same("planned bcast", plan.get(first)?, &flags(root));
    }
    Ok(())
}

fn collectives(ground: &Ground<'_>) -> Result<()> {
    let (me, size) = (ground.rank(), ground.size());
    for count in [1, 7, 1200] {
        let root = size / 2;
        let mut plan = ground.plan();
        plan.barrier()?;
        let spread = plan.bcast(root, vec![0; count])?;
        let (mine, all) = plan.allgather(vec![0; count])?;
        let (rows, columns) = plan.alltoall(vec![0; count * size])?;
        let (part, sum) = plan.allreduce(vec![0; count], Sum)?;
        for turn in 0..3 {
            if me == root {
                plan.get_mut(spread)?.copy_from_slice(&values(turn, count));
            }
            plan.get_mut(mine)?.copy_from_slice(&values(me + turn, count));
            for rank in 0..size {
                let row = &mut plan.get_mut(rows)?[rank * count..][..count];
                row.copy_from_slice(&values(me * size + rank + turn, count));
            }
            plan.get_mut(part)?.copy_from_slice(&values(me + turn, count));
            round(&mut plan)?;
            ground.same("planned bcast", plan.get(spread)?, &values(turn, count));
            let gathered: Vec<u64> =
                ground.ranks().flat_map(|rank| values(rank + turn, count)).collect();
            ground.same("planned allgather", plan.get(all)?, &gathered);
            let turned: Vec<u64> =
                ground.ranks().flat_map(|rank| values(rank * size + me + turn, count)).collect();
            ground.same("planned alltoall", plan.get(columns)?, &turned);
            let total = |index: usize| {
                (0..size).fold(0, |sum: u64, rank| sum.wrapping_add(gathered[rank * count + index]))
            };
            let totals: Vec<u64> = (0..count).map(total).collect();
            ground.same("planned allreduce", plan.get(sum)?, &totals);
        }
    }
    Ok(())
}

fn rooted(ground: &Ground<'_>) -> Result<()> {
    let (me, size) = (ground.rank(), ground.size());
    for (count, root) in [(1, 0), (7, size / 2), (1200, size - 1)] {
        let at_root = |values: Vec<u64>| if me == root { values } else { Vec::new() };
        let all =
            |turn: usize| ground.ranks().flat_map(|rank| values(rank + turn, count)).collect();
        let mut plan = ground.plan();
        let (mine, gathered) = plan.gather(root, vec![0; count])?;
        let (rows, mine_too) = plan.scatter(root, at_root(all(0)), vec![0; count])?;
        let (flags, no_flags) = plan.gather(root, vec![me == root; count])?;
        for turn in 0..3 {
            plan.get_mut(mine)?.copy_from_slice(&values(me + turn, count));
            plan.get_mut(rows)?.copy_from_slice(&at_root(all(turn)));
            round(&mut plan)?;
            ground.same("planned gather", plan.get(gathered)?, &at_root(all(turn)));
            ground.same("planned scatter", plan.get(mine_too)?, &values(me + turn, count));
            ground.same("planned gather of flags", plan.get(flags)?, &vec![me == root; count]);
            let marked = plan.get(no_flags)?.iter().filter(|&&flag| flag).count();
            ground.equal("flags", marked, if me == root { count } else { 0 });
        }
    }
    Ok(())
}

fn reductions(ground: &Ground<'_>) -> Result<()> {
    let (me, size) = (ground.rank(), ground.size());
    for count in [1, 7, 1200] {
        let root = size / 2;
        let mut plan = ground.plan();
        let (to_root, reduced) = plan.reduce(root, vec![0; count], Sum)?;
        let (up_to_me, scanned) = plan.scan(vec![0; count], Sum)?;
        let (before_me, exscanned) = plan.exscan(vec![0; count], Sum)?;
        let (parts, part) = plan.reduce_scatter(vec![0; count * size], Sum)?;
        for turn in 0..3 {
            for mine in [to_root, up_to_me, before_me] {
                plan.get_mut(mine)?.copy_from_slice(&values(me + turn, count));
            }
            plan.get_mut(parts)?.copy_from_slice(&values(me + turn, count * size));
            round(&mut plan)?;
            let sum = |ranks: std::ops::Range<usize>, count: usize| -> Vec<u64> {
                let mut sum = vec![0_u64; if ranks.is_empty() { 0 } else { count }];
                for rank in ranks {
                    let row = values(rank + turn, count);
                    sum.iter_mut().zip(row).for_each(|(sum, one)| *sum = sum.wrapping_add(one));
                }
                sum
            };
            let at_root = if me == root { 0..size } else { 0..0 };
            ground.same("planned reduce", plan.get(reduced)?, &sum(at_root, count));
            ground.same("planned scan", plan.get(scanned)?, &sum(0..me + 1, count));
            ground.same("planned exscan", plan.get(exscanned)?, &sum(0..me, count));
            let mine = &sum(0..size, count * size)[me * count..][..count];
            ground.same("planned reduce_scatter", plan.get(part)?, mine);
        }
    }
    Ok(())
}

fn closure(ground: &Ground<'_>) -> Result<()> {
    // Not commutative: the first operand's first, the last operand's second.
    let ends = |left: [usize; 2], right: [usize; 2]| [left[0], right[1]];
    let (me, size) = (ground.rank(), ground.size());
    let mut plan = ground.plan();
    let (mine, out) = plan.allreduce(vec![[0, 0]; 3], ends)?;
    let (to_root, reduced) = plan.reduce(0, vec![[0, 0]; 3], ends)?;
    let (up_to_me, scanned) = plan.scan(vec![[0, 0]; 3], ends)?;
    let (before_me, exscanned) = plan.exscan(vec![[0, 0]; 3], ends)?;
    let (parts, part) = plan.reduce_scatter(vec![[0, 0]; size], ends)?;
    for turn in 0..3 {
        for mine in [mine, to_root, up_to_me, before_me, parts] {
            plan.get_mut(mine)?.fill([me + turn; 2]);
        }
        round(&mut plan)?;
        let (wanted, nothing) = (|last: usize| [[turn, last + turn]; 3], Vec::new());
        ground.same("planned allreduce", plan.get(out)?, &wanted(size - 1));
        let at_root = if me == 0 { wanted(size - 1).to_vec() } else { nothing.clone() };
        ground.same("planned reduce", plan.get(reduced)?, &at_root);
        ground.same("planned scan", plan.get(scanned)?, &wanted(me));
        let before = if me == 0 { nothing } else { wanted(me - 1).to_vec() };
        ground.same("planned exscan", plan.get(exscanned)?, &before);
        ground.same("planned reduce_scatter", plan.get(part)?, &wanted(size - 1)[..1]);
    }
    Ok(())
}

fn beside(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let mut plan = ground.plan();
    let theirs = plan.recv(vec![0; 1500], (from, 73))?;
    plan.send(values(ground.rank(), 1500), (to, 73))?;
    for _ in 0..3 {
        plan.start()?;
        ground.still_works()?;
        let sum = ground.allreduce(&[ground.rank()], Sum)?;
        plan.wait()?;
        ground.same("allreduce", &sum, &[ground.ranks().sum()]);
        ground.same("planned recv", plan.get(theirs)?, &values(from, 1500));
    }
    Ok(())
}

fn test(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let mut plan = ground.plan();
    let theirs = plan.recv(vec![0; 900], (from, 74))?;
    for turn in 0..2 {
        plan.start()?;
        ground.holds("nothing is received before anything is sent", !plan.test()?);
        ground.barrier()?;
        let sending = ground.isend(values(ground.rank() + turn, 900), (to, 74))?;
        while !plan.test()? {
            std::thread::yield_now();
        }
        ground.same("planned recv", plan.get(theirs)?, &values(from + turn, 900));
        sending.wait()?;
    }
    Ok(())
}

fn nobody(ground: &Ground<'_>) -> Result<()> {
    let mut plan = ground.plan();
    let none = plan.recv(vec![7_u8; 3], None)?;
    plan.send(vec![1_u8], None)?;
    for _ in 0..2 {
        round(&mut plan)?;
        ground.same("the buffer", plan.get(none)?, &[7; 3]);
    }
    round(&mut ground.plan())
}

fn refused(ground: &Ground<'_>) -> Result<()> {
    let wrongly = |kind: &ErrorKind| matches!(kind, ErrorKind::InvalidArgument { .. });
    let no_such_rank = |kind: &ErrorKind| matches!(kind, ErrorKind::InvalidRank { .. });
    let (to, from) = (ground.after(1), ground.before(1));
    let mut plan = ground.plan();
    let mut other = ground.plan();
    let mine = plan.send(vec![1_u64; 2], (to, 75))?;
    let theirs = plan.recv(vec![0_u64; 2], (from, 75))?;
    let foreign = other.send(vec![1_u64], None)?;
    ground.refused("wait before start", plan.wait(), wrongly);
    ground.refused("test before start", plan.test(), wrongly);
    ground.refused("status before start", plan.status(theirs), wrongly);
    ground.refused("get of another plan's buffer", plan.get(foreign), wrongly);
    ground.refused("get_mut of another plan's buffer", plan.get_mut(foreign), wrongly);
    plan.start()?;
    ground.refused("start twice", plan.start(), wrongly);
    ground.refused("get while under way", plan.get(theirs), wrongly);
    ground.refused("get_mut while under way", plan.get_mut(mine), wrongly);
    ground.refused("send while under way", plan.send(vec![1_u8], to), wrongly);
    plan.wait()?;
    ground.refused("wait twice", plan.wait(), wrongly);
    ground.same("planned recv", plan.get(theirs)?, &[1, 1]);
    ground.refused("send", plan.send(vec![1_u8], ground.size()), no_such_rank);
    ground.refused("recv", plan.recv(vec![1_u8], ground.size()), no_such_rank);
    ground.refused("bcast", plan.bcast(ground.size(), vec![1_u8]), no_such_rank);
    ground.refused("gather", plan.gather(ground.size(), vec![1_u8]), no_such_rank);
    ground.refused("scatter", plan.scatter(ground.size(), vec![], vec![1_u8]), no_such_rank);
    ground.refused("reduce", plan.reduce(ground.size(), vec![1_u8], Sum), no_such_rank);
    if ground.size() > 1 {
        let uneven = |kind: &ErrorKind| matches!(kind, ErrorKind::LengthMismatch { .. });
        let rows = || vec![1_u8; ground.size() + 1];
        ground.refused("alltoall", plan.alltoall(rows()), uneven);
        ground.refused("reduce_scatter", plan.reduce_scatter(rows(), Sum), uneven);
        if ground.rank() == 0 {
            ground.refused("scatter", plan.scatter(0, rows(), vec![0]), uneven);
        }
    }
    // What was refused is not part of the plan.
    round(&mut plan)?;
    ground.still_works()
}

fn dropped(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    for count in [3, 3000] {
        let mut plan = ground.plan();
        plan.recv(vec![0_u64; count], (from, 76))?;
        plan.start()?;
        drop(plan);
        // Nobody sends before all have withdrawn.
        ground.barrier()?;
        let mut plan = ground.plan();
        plan.send(values(ground.rank(), count), (to, 76))?;
        plan.start()?;
        drop(plan);
        ground.same("recv", &ground.recv::<u64>((from, 76))?.0, &values(from, count));
    }
    ground.still_works()
}
