//! Memory that other ranks reach: windows and node arrays.

use std::fmt::Debug;

use spmd::{
    ErrorKind, Result,
    op::{And, Bits, Max, Min, Number, Or, Prod, Sum, Xor},
    rma::{Lock, NoOp, Plain, Replace},
};

use super::{
    Case, Ground,
    ground::{COUNTS, MEBIBYTE, values},
};

pub(super) const CASES: &[Case] = &[
    ("a window's parts begin as zeros, with lengths of their own", parts),
    ("what is put is there after the epoch", put),
    ("what was there before the epoch is got", get),
    ("puts and gets of a rank's own keep their order", own_order),
    ("windows hold structures", structures),
    ("accumulate combines all ranks' values, in every number type", accumulate),
    ("accumulate combines bits", accumulate_bits),
    ("get_accumulate fetches, replaces and keeps", get_accumulate),
    ("fetch_op gives every rank a ticket of its own", tickets),
    ("compare_swap lets one rank in", compare_swap),
    ("an exclusive lock keeps reads and writes together", exclusive),
    ("shared locks hold a part together", shared),
    ("ranks that begin different phases are told", different_phases),
    ("accesses beyond the parts are refused, and nothing else is harmed", beyond),
    ("an error inside a phase ends it for all", error_inside),
    ("windows of different types or impossible sizes are refused", refused),
    ("windows are dropped in any order, forgotten and closed", dropped),
    ("a node array is written by block and read whole", node_array),
    ("a node array's blocks may be empty", node_array_empty),
    ("a node array's elements may be arrays", node_array_nested),
    ("reading and writing a node array at once is refused", node_array_refused),
];

fn parts(ground: &Ground<'_>) -> Result<()> {
    let me = ground.rank();
    let mut window = ground.window::<u64>(3 * me)?;
    let lens: Vec<usize> = ground.ranks().map(|rank| 3 * rank).collect();
    ground.same("lengths", window.lens(), &lens);
    ground.same("this part", window.local(), &vec![0; 3 * me]);
    ground.same("this part, to be changed", window.local_mut(), &vec![0; 3 * me]);
    let got = window.epoch(|epoch| {
        let got: Result<Vec<_>> = ground.ranks().map(|rank| epoch.get(rank, 0..3 * rank)).collect();
        Ok(got?.concat())
    })?;
    ground.same("all parts", &got, &vec![0; lens.iter().sum()]);
    let mut empty = ground.window::<f32>(0)?;
    empty.epoch(|epoch| epoch.put(0, 0, &[]))?;
    ground.same("nothing", empty.local(), &[]);
    ground.same("nothing, to be changed", empty.local_mut(), &[]);
    Ok(())
}

fn put(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    for count in COUNTS.into_iter().chain([MEBIBYTE]) {
        let mut window = ground.window::<u64>(count + 2)?;
        window.local_mut().fill(7);
        for round in 0..2 {
            let mine = values(ground.rank() + round, count);
            window.epoch(|epoch| epoch.put(to, 1, &mine))?;
            let wanted = [&[7], &*values(from + round, count), &[7]].concat();
            ground.same("what the rank before has put", window.local(), &wanted);
        }
        window.close()?;
    }
    Ok(())
}

fn get(ground: &Ground<'_>) -> Result<()> {
    let me = ground.rank();
    for count in COUNTS {
        let mut window = ground.window::<u64>(count)?;
        for round in 0..2 {
            window.local_mut().copy_from_slice(&values(me + round, count));
            let from = ground.after(2);
            let (all, some) = window.epoch(|epoch| {
                let mut some = vec![0; count / 2];
                epoch.get_into(from, count - count / 2, &mut some)?;
                Ok((epoch.get(from, 0..count)?, some))
            })?;
            let wanted = values(from + round, count);
            ground.same("the whole part", &all, &wanted);
            ground.same("a piece", &some, &wanted[count - count / 2..]);
        }
    }
    Ok(())
}

fn own_order(ground: &Ground<'_>) -> Result<()> {
    let (me, size) = (ground.rank(), ground.size());
    let mut window = ground.window::<u32>(size)?;
    window.epoch(|epoch| {
        for target in ground.ranks() {
            for round in 1..=3 {
                epoch.put(target, me, &[round])?;
                ground.same("put, then got", &epoch.get(target, me..me + 1)?, &[round]);
            }
            epoch.accumulate(target, me, &[10], Sum)?;
            ground.equal("then added to", epoch.fetch_op(target, me, 0, NoOp)?, 13);
        }
        epoch.flush()
    })?;
    ground.same("in the end", window.local(), &vec![13; size]);
    Ok(())
}

/// A structure of which every bit pattern is a value.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::NoUninit, bytemuck::AnyBitPattern)]
#[repr(C)]
struct Particle {
    position: [f64; 3],
    charge: [i32; 2],
}

fn structures(ground: &Ground<'_>) -> Result<()> {
    let particle = |rank: usize| Particle { position: [rank as f64; 3], charge: [rank as i32, -1] };
    let mut window = ground.window::<Particle>(1)?;
    window.epoch(|epoch| epoch.put(ground.after(1), 0, &[particle(ground.rank())]))?;
    ground.same("a structure", window.local(), &[particle(ground.before(1))]);
    Ok(())
}

fn accumulate(ground: &Ground<'_>) -> Result<()> {
    fn try_it<T: Number + Plain + Debug>(
        ground: &Ground<'_>,
        number: fn(usize) -> T,
    ) -> Result<()> {
        let count = 5;
        let mut window = ground.window::<T>(4 * count)?;
        let mine = vec![number(ground.rank() + 1); count];
        window.local_mut().fill(number(1));
        window.epoch(|epoch| {
            for target in ground.ranks() {
                epoch.accumulate(target, 0, &mine, Sum)?;
                epoch.accumulate(target, count, &vec![number(2); count], Prod)?;
                epoch.accumulate(target, 2 * count, &mine, Min)?;
                epoch.accumulate(target, 3 * count, &mine, Max)?;
            }
            Ok(())
        })?;
        let size = ground.size();
        let sum = (1..=size).fold(number(1), |sum, rank| sum.plus(number(rank)));
        let product = (0..size).fold(number(1), |product, _| product.times(number(2)));
        let wanted = [sum, product, number(1), number(size)].map(|value| vec![value; count]);
        ground.same(std::any::type_name::<T>(), window.local(), &wanted.concat());
        Ok(())
    }
    try_it::<i8>(ground, |number| number as i8)?;
    try_it::<i16>(ground, |number| number as i16)?;
    try_it::<i32>(ground, |number| number as i32)?;
    try_it::<i64>(ground, |number| number as i64)?;
    try_it::<u8>(ground, |number| number as u8)?;
    try_it::<u16>(ground, |number| number as u16)?;
    try_it::<u32>(ground, |number| number as u32)?;
    try_it::<u64>(ground, |number| number as u64)?;
    try_it::<isize>(ground, |number| number as isize)?;
    try_it::<usize>(ground, |number| number)?;
    try_it::<f32>(ground, |number| number as f32)?;
    try_it::<f64>(ground, |number| number as f64)?;
    // Sums of few bits wrap around; libraries add many at once by other instructions.
    let mut window = ground.window::<u8>(200)?;
    window.epoch(|epoch| epoch.accumulate(0, 0, &[200; 200], Sum))?;
    let wrapped = (200 * ground.size()) as u8;
    if ground.rank() == 0 {
        ground.same("sums of u8", window.local(), &[wrapped; 200]);
    }
    // Many elements, in no order.
    let mut window = ground.window::<u64>(3000)?;
    let mine = values(ground.rank(), 3000);
    window.epoch(|epoch| epoch.accumulate(0, 0, &mine, Sum))?;
    let wanted = ground.allreduce(&mine, Sum)?;
    let nothing = vec![0; 3000];
    ground.same("many", window.local(), if ground.rank() == 0 { &wanted } else { &nothing });
    Ok(())
}

fn accumulate_bits(ground: &Ground<'_>) -> Result<()> {
    fn try_it<T: Bits + Plain + Debug + PartialEq>(
        ground: &Ground<'_>,
        number: fn(u64) -> T,
    ) -> Result<()> {
        let mut window = ground.window::<T>(3)?;
        window.local_mut().copy_from_slice(&[number(!0), number(0), number(5)]);
        let mine = [number(1 << (ground.rank() % 4))];
        let rest = [number(!(1 << (ground.rank() % 4)))];
        let target = ground.size() - 1;
        window.epoch(|epoch| {
            epoch.accumulate(target, 0, &rest, And)?;
            epoch.accumulate(target, 1, &mine, Or)?;
            epoch.accumulate(target, 2, &mine, Xor)
        })?;
        if ground.rank() == target {
            let bits = ground.ranks().map(|rank| 1 << (rank % 4));
            let (any, odd) =
                bits.fold((0, 5), |(any, odd): (u64, u64), bit| (any | bit, odd ^ bit));
            let wanted = [number(!any), number(any), number(odd)];
            ground.same(std::any::type_name::<T>(), window.local(), &wanted);
        }
        Ok(())
    }
    try_it::<u8>(ground, |number| number as u8)?;
    try_it::<i16>(ground, |number| number as i16)?;
    try_it::<u32>(ground, |number| number as u32)?;
    try_it::<i64>(ground, |number| number as i64)
}

fn get_accumulate(ground: &Ground<'_>) -> Result<()> {
    let (me, size) = (ground.rank(), ground.size());
    let count = 1500;
    let mut window = ground.window::<i64>(count * size)?;
    let (to, from) = (ground.after(1), ground.before(1));
    let mine = |rank: usize, sign: i64| -> Vec<i64> {
        (0..count).map(|at| sign * (rank * count + at) as i64).collect()
    };
    window.epoch(|epoch| {
        let at = me * count;
        let before = epoch.get_accumulate(to, at, &mine(me, 1), Replace)?;
        ground.same("zeros before", &before, &vec![0; count]);
        let before = epoch.get_accumulate(to, at, &mine(me, -2), Sum)?;
        ground.same("replaced", &before, &mine(me, 1));
        let before = epoch.get_accumulate(to, at, &mine(me, 9), NoOp)?;
        ground.same("added, and kept", &before, &mine(me, -1));
        Ok(())
    })?;
    let kept = &window.local()[from * count..(from + 1) * count];
    ground.same("in the end", kept, &mine(from, -1));
    Ok(())
}

fn tickets(ground: &Ground<'_>) -> Result<()> {
    let rounds = 50;
    for target in [0, ground.size() - 1] {
        let mut counter = ground.window::<u32>(usize::from(ground.rank() == target))?;
        let mine = counter.epoch(|epoch| {
            (0..rounds).map(|_| epoch.fetch_op(target, 0, 1, Sum)).collect::<Result<Vec<_>>>()
        })?;
        ground.holds("tickets ascend", mine.is_sorted());
        let mut all = ground.allgather(&mine)?.into_flat();
        all.sort_unstable();
        let wanted: Vec<u32> = (0..rounds * ground.size() as u32).collect();
        ground.same("every ticket once", &all, &wanted);
    }
    Ok(())
}

fn compare_swap(ground: &Ground<'_>) -> Result<()> {
    let me = ground.rank() as i32 + 1;
    let mut window = ground.window::<i32>(2)?;
    let before = window.epoch(|epoch| {
        // A sum without an adder: try again until nobody has come between.
        let mut seen = epoch.fetch_op(0, 1, 0, NoOp)?;
        loop {
            let before = epoch.compare_swap(0, 1, seen, seen + me)?;
            if before == seen {
                break;
            }
            seen = before;
        }
        epoch.compare_swap(0, 0, 0, me)
    })?;
    let first = ground.allgather(&[before])?.into_flat();
    let winners: Vec<usize> = ground.ranks().filter(|&rank| first[rank] == 0).collect();
    ground.equal("one comes first", winners.len(), 1);
    if ground.rank() == 0 {
        let sum = (1..=ground.size() as i32).sum();
        let winner = winners.first().map_or(0, |&winner| winner as i32 + 1);
        ground.same("who was first, and the sum", window.local(), &[winner, sum]);
    }
    let mut wide = ground.window::<u64>(1)?;
    let before = wide.epoch(|epoch| epoch.compare_swap(ground.rank(), 0, 1, 2))?;
    ground.equal("not equal: no swap", (before, wide.local()[0]), (0, 0));
    Ok(())
}

fn exclusive(ground: &Ground<'_>) -> Result<()> {
    let rounds = 8;
    let mut window = ground.window::<u64>(3)?;
    window.passive(|phase| {
        for target in ground.ranks().cycle().skip(ground.rank()).take(rounds * ground.size()) {
            phase.lock(target, Lock::Exclusive, |part| {
                let old = part.get(0..3)?;
                part.put(0, &[old[0] + 1])?;
                part.put(1, &[old[1] + old[0], old[2] + 2])
            })?;
        }
        Ok(())
    })?;
    let steps = (rounds * ground.size()) as u64;
    let wanted = [steps, steps * (steps - 1) / 2, 2 * steps];
    ground.same("as if one after the other", window.local(), &wanted);
    Ok(())
}

fn shared(ground: &Ground<'_>) -> Result<()> {
    let mut window = ground.window::<u64>(2)?;
    let size = ground.size() as u64;
    window.passive(|phase| {
        phase.lock(0, Lock::Shared, |part| {
            part.accumulate(0, &[1], Sum)?;
            // Nobody gets on before all hold the part.
            while part.fetch_op(0, 0, NoOp)? < size {
                std::thread::yield_now();
            }
            part.flush()
        })?;
        let me = ground.rank();
        phase.lock(me, Lock::Exclusive, |own| {
            let mut seen = [0];
            own.get_into(1, &mut seen)?;
            let swapped = own.compare_swap(1, seen[0], 5)?;
            let all = own.get_accumulate(1, &[1], Max)?;
            ground.equal("the own part", (swapped, all[0]), (0, 5));
            Ok(())
        })?;
        let wrong = phase.lock(ground.size(), Lock::Shared, |_| Ok(()));
        ground.refused("no such rank", wrong, no_such_rank);
        Ok(())
    })?;
    let wanted = [if ground.rank() == 0 { size } else { 0 }, 5];
    ground.same("in the end", window.local(), &wanted);
    Ok(())
}

fn no_such_rank(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::InvalidRank { .. })
}

fn senseless(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::InvalidArgument { .. })
}

fn disagree(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::CollectiveMismatch { .. })
}

fn different_phases(ground: &Ground<'_>) -> Result<()> {
    let mut window = ground.window::<u8>(1)?;
    if ground.size() > 1 {
        for odd in [0, ground.size() - 1] {
            let refused = if ground.rank() == odd {
                window.passive(|_| Ok(()))
            } else {
                window.epoch(|_| Ok(()))
            };
            ground.refused("another phase", refused, disagree);
            ground.same("the part is this rank's own", window.local(), &[0]);
        }
        if ground.rank() == 0 {
            ground.refused("closed here only", window.close(), disagree);
        } else {
            ground.refused("closed elsewhere", window.epoch(|_| Ok(())), disagree);
        }
    }
    ground.window::<u8>(1)?.epoch(|epoch| epoch.put(0, 0, &[1]))
}

fn beyond(ground: &Ground<'_>) -> Result<()> {
    let size = ground.size();
    let mut window = ground.window::<u16>(4)?;
    window.epoch(|epoch| {
        ground.refused("no such rank", epoch.put(size, 0, &[1]), no_such_rank);
        ground.refused("no such rank", epoch.get(usize::MAX, 0..0), no_such_rank);
        ground.refused("too long", epoch.put(0, 3, &[1, 2]), senseless);
        ground.refused("beyond", epoch.get(0, 5..5), senseless);
        ground.refused("too much", epoch.get(0, 1..usize::MAX), senseless);
        ground.refused("overflow", epoch.get_into(0, usize::MAX, &mut [0; 2]), senseless);
        ground.refused("add", epoch.accumulate(0, 4, &[1], Sum), senseless);
        ground.refused("add", epoch.get_accumulate(0, 2, &[1; 3], Max), senseless);
        ground.refused("one", epoch.fetch_op(0, 4, 1, Min), senseless);
        ground.refused("swap", epoch.compare_swap(0, 4, 0, 1), senseless);
        epoch.get(size - 1, 4..4)?;
        epoch.put(ground.rank(), 3, &[9])
    })?;
    ground.same("untouched", window.local(), &[0, 0, 0, 9]);
    ground.still_works()
}

fn error_inside(ground: &Ground<'_>) -> Result<()> {
    let last = ground.size() - 1;
    let mut window = ground.window::<u8>(1)?;
    let result = window.epoch(|epoch| {
        epoch.put(last, 0, &[3])?;
        if ground.rank() == last { epoch.put(last, 1, &[4]) } else { Ok(()) }
    });
    if ground.rank() == last {
        ground.refused("the error comes out", result, senseless);
        ground.same("what was put", window.local(), &[3]);
    } else {
        result?;
    }
    let result = window.passive(|phase| {
        phase.lock(0, Lock::Exclusive, |part| {
            if ground.rank() == last { part.get(1..2).map(drop) } else { Ok(()) }
        })
    });
    if ground.rank() == last {
        ground.refused("the error comes out of a lock", result, senseless);
    } else {
        result?;
    }
    window.epoch(|_| Ok(()))
}

fn refused(ground: &Ground<'_>) -> Result<()> {
    let first = ground.rank() == 0;
    if ground.size() > 1 {
        let other = if first {
            ground.window::<u32>(1).map(drop)
        } else {
            ground.window::<i32>(1).map(drop)
        };
        ground.refused("another type", other, disagree);
    }
    let huge = ground.window::<u64>(if first { usize::MAX } else { 1 });
    ground.refused("a size beyond all memory", huge, |kind| {
        senseless(kind) || matches!(kind, ErrorKind::Elsewhere { rank: 0, .. })
    });
    let refused = ground.window::<Line>(1).map(drop);
    ground.refused("elements of more alignment than parts have", refused, |kind| {
        matches!(kind, ErrorKind::Unsupported { .. })
    });
    ground.still_works()
}

/// More alignment than anything has that travels.
#[derive(Clone, Copy, bytemuck::NoUninit, bytemuck::AnyBitPattern)]
#[repr(C, align(128))]
struct Line([u64; 16]);

fn dropped(ground: &Ground<'_>) -> Result<()> {
    let twin = ground.dup()?;
    for round in 0..4 {
        let mut windows = (0..4).map(|_| twin.window::<u64>(100)).collect::<Result<Vec<_>>>()?;
        for window in &mut windows {
            window.epoch(|epoch| epoch.put(ground.after(1), 0, &[round]))?;
            ground.equal("put", window.local()[0], round);
        }
        // Another order on every rank; one is forgotten on rank 0, one closed on all.
        windows.pop().map_or(Ok(()), |window| window.close())?;
        let first = windows.swap_remove(ground.rank() % 3);
        drop(windows);
        if ground.rank() == 0 {
            std::mem::forget(first);
        }
    }
    let mut outlives = twin.window::<u64>(1)?;
    drop(twin);
    outlives.epoch(|epoch| epoch.accumulate(0, 0, &[1], Sum))?;
    if ground.rank() == 0 {
        ground.same(
            "a window outlives its communicator",
            outlives.local(),
            &[ground.size() as u64],
        );
    }
    Ok(())
}

fn node_array(ground: &Ground<'_>) -> Result<()> {
    let host = ground.split_node()?;
    let (me, size) = (host.rank(), host.size());
    for unit in [1, 3, 1000] {
        let mut array = host.node_array::<u64>(unit * (me + 1))?;
        let starts: Vec<usize> = (0..=size).map(|rank| unit * (rank * (rank + 1) / 2)).collect();
        ground.same("where blocks begin", array.starts(), &starts);
        ground.equal("length", (array.len(), array.is_empty()), (starts[size], false));
        array.read(|all, _| ground.same("zeros", all, &vec![0; starts[size]]))?;
        for round in 0..5 {
            let block = |rank: usize| values(rank + round, unit * (rank + 1));
            array.write(|mine| mine.copy_from_slice(&block(me)))?;
            array.read(|all, given| {
                ground.same("where blocks begin", given, &starts);
                for rank in 0..size {
                    ground.same("a block", &all[starts[rank]..starts[rank + 1]], &block(rank));
                }
            })?;
            // Writing follows reading, and writing writing, without a word between.
            array.write(|mine| mine.fill(1))?;
            array.write(|mine| mine.iter_mut().for_each(|value| *value += round as u64))?;
            let sum = array.read(|all, _| all.iter().sum::<u64>())?;
            ground.equal("all blocks", sum, starts[size] as u64 * (1 + round as u64));
        }
        array.close()?;
    }
    Ok(())
}

fn node_array_empty(ground: &Ground<'_>) -> Result<()> {
    let host = ground.split_node()?;
    let me = host.rank();
    let len = |rank: usize| if rank % 2 == 1 { 5 } else { 0 };
    let mut array = host.node_array::<u32>(len(me))?;
    array.write(|mine| {
        ground.equal("this rank's block", mine.len(), len(me));
        mine.fill(me as u32);
    })?;
    let wanted: Vec<u32> = (0..host.size()).flat_map(|rank| vec![rank as u32; len(rank)]).collect();
    array.read(|all, _| ground.same("the whole", all, &wanted))?;
    let mut nothing = host.node_array::<f64>(0)?;
    nothing.write(|mine| ground.same("nothing", mine, &[]))?;
    nothing.read(|all, _| ground.same("nothing", all, &[]))?;
    ground.holds("it is empty", nothing.is_empty());
    Ok(())
}

fn node_array_nested(ground: &Ground<'_>) -> Result<()> {
    let host = ground.split_node()?;
    let mut array = host.node_array::<[[[u16; 2]; 3]; 1]>(2)?;
    let element = |rank: usize| [[[rank as u16, 1], [2, 3], [4, 5]]];
    array.write(|mine| mine.fill(element(host.rank())))?;
    let wanted: Vec<_> = (0..host.size()).flat_map(|rank| [element(rank); 2]).collect();
    array.read(|all, _| ground.same("the whole", all, &wanted))
}

fn node_array_refused(ground: &Ground<'_>) -> Result<()> {
    let host = ground.split_node()?;
    let mut array = host.node_array::<i16>(1)?;
    if host.size() > 1 {
        let refused =
            if host.rank() == 0 { array.write(|mine| mine.fill(7)) } else { array.read(|_, _| ()) };
        ground.refused("write and read", refused, disagree);
    }
    array.read(|all, _| ground.same("untouched", all, &vec![0; host.size()]))?;
    if host.size() > 1 {
        ground.refused("more than an address space", host.node_array::<u8>(1 << 62), senseless);
    }
    if host.size() < ground.size() {
        ground.refused("several hosts", ground.node_array::<u8>(1), senseless);
    }
    ground.still_works()
}
