//! Operations with borrowed data: completed or called back in every way out of their scope.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use ndarray::{Array2, s};

use spmd::{ErrorKind, NULL_RANK, Result, ScopedRequest, Status, op::Sum};

use super::{
    Case, Ground,
    ground::{COUNTS, Guarded, MEBIBYTE, value, values},
};

pub(super) const CASES: &[Case] = &[
    ("a scope sends and receives borrowed data, all sizes", all_sizes),
    ("a scope completes what nobody waited for", completes),
    ("a borrow that came back is used again", again),
    ("windows of 64 operations in one scope", windows),
    ("a scope lends bool, char and strided data", by_way_of_a_copy),
    ("tickets are tested and waited for with patience", patience),
    ("wait_any of a scope gives every ticket once", any),
    ("collectives of a scope bring their results into borrowed memory", collectives),
    ("collectives of a scope that is left by an error go on", collectives_left),
    ("parts of one array are sent and received at once", parts),
    ("a scope left by an error withdraws its receives", left_by_error),
    ("a scope left by a panic withdraws its receives", left_by_panic),
    ("a forgotten ticket's operation ends with its scope", forgotten),
    ("scopes inside scopes, on two communicators", nested),
    ("a ticket of an outer scope is waited for in an inner one", outer_ticket),
    ("issend of a scope waits for its receiver", synchronous),
    ("a scope's wrong messages are refused", refused),
    ("a scope's messages to and from nobody", nobody),
];

fn all_sizes(ground: &Ground<'_>) -> Result<()> {
    for steps in ground.ranks() {
        let (to, from) = (ground.after(steps), ground.before(steps));
        for count in COUNTS.into_iter().chain([MEBIBYTE]) {
            let mine = values(ground.rank(), count);
            let mut guarded = Guarded::new(count + 2, u64::MAX);
            let status = ground.scope(|s| {
                let receiving = s.irecv(guarded.buffer(), (from, 50))?;
                let sending = s.isend(&mine, (to, 50))?;
                let (got, status) = receiving.wait()?;
                ground.same("irecv", &got[..count], &values(from, count));
                ground.same("isend gives back", sending.wait()?, &mine);
                Ok(status)
            })?;
            ground.equal("its status", status, Status { source: from, tag: 50, count });
            ground.same("after the scope", &guarded.buffer()[..count], &values(from, count));
            ground.holds("the scope stays inside its buffer", guarded.intact_beyond(count));
        }
    }
    Ok(())
}

fn completes(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    for count in COUNTS {
        let mine = values(ground.rank(), count);
        let mut got = vec![0; count];
        ground.scope(|s| {
            s.irecv(&mut got, (from, 51))?;
            s.isend(&mine, (to, 51))?;
            Ok(())
        })?;
        ground.same("after the scope", &got, &values(from, count));
    }
    Ok(())
}

fn again(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let mut buffer = vec![0; 1200];
    ground.scope(|s| {
        let mut buffer = &mut buffer;
        for turn in 0..5 {
            let receiving = s.irecv(buffer, (from, 52))?;
            // Every rank's receive is there or will be, whatever its neighbour does.
            ground.send(&values(ground.rank() + turn, 1200), (to, 52))?;
            let status;
            (buffer, status) = receiving.wait()?;
            ground.equal("count", status.count, 1200);
            ground.same("irecv", buffer, &values(from + turn, 1200));
        }
        Ok(())
    })
}

fn windows(ground: &Ground<'_>) -> Result<()> {
    const WINDOW: usize = 64;
    let (to, from) = (ground.after(1), ground.before(1));
    let mine = values(ground.rank(), WINDOW * 3);
    let mut got = vec![0; WINDOW * 3];
    for _ in 0..3 {
        got.fill(0);
        ground.scope(|s| {
            for (mine, got) in mine.chunks(3).zip(got.chunks_mut(3)) {
                s.irecv(got, (from, 53))?;
                s.isend(mine, (to, 53))?;
            }
            s.wait_all()
        })?;
        ground.same("the window", &got, &values(from, WINDOW * 3));
    }
    Ok(())
}

fn by_way_of_a_copy(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let flags: Vec<bool> =
        (0..900).map(|index| (index + ground.rank()).is_multiple_of(3)).collect();
    let expected: Vec<bool> = (0..900).map(|index| (index + from) % 3 == 0).collect();
    let mut got = vec![true; 901];
    let table = |rank| Array2::from_shape_fn((40, 30), |(row, column)| [rank, row, column]);
    let mine = table(ground.rank());
    let column = mine.column(7);
    let mut theirs = Array2::from_elem((40, 30), [usize::MAX; 3]);
    let mut transposed = Array2::from_elem((30, 40), [usize::MAX; 3]);
    let mut square = transposed.view_mut().reversed_axes();
    let letter = char::from_digit(ground.rank() as u32 % 10, 10).unwrap_or('x');
    let mut got_letter = ' ';
    ground.scope(|s| {
        let flags_in = s.irecv(&mut got, (from, 54))?;
        let mut column_of_theirs = theirs.column_mut(3);
        // What is borrowed outlives its scope: the view of a column made here needs a scope of its
        // own.
        ground.scope(|inner| {
            let column_in = inner.irecv(&mut column_of_theirs, (from, 55))?;
            inner.isend(&column, (to, 55))?;
            let (column_in, status) = column_in.wait()?;
            ground.equal("count", status.count, 40);
            ground.equal("the column", column_in[39], [from, 39, 7]);
            Ok(())
        })?;
        s.isend(&flags, (to, 54))?;
        let square_in = s.irecv(&mut square, (from, 56))?;
        s.isend(&mine, (to, 56))?;
        s.irecv(&mut got_letter, (from, 57))?;
        s.isend(&letter, (to, 57))?;
        let (got, status) = flags_in.wait()?;
        ground.equal("count", status.count, 900);
        ground.same("flags", &got[..900], &expected);
        ground.equal("the whole table", *square_in.wait()?.0 == table(from), true);
        Ok(())
    })?;
    ground.holds("the flag behind is as it was", got[900]);
    ground.equal("the letter", got_letter, char::from_digit(from as u32 % 10, 10).unwrap_or('x'));
    let others = theirs.slice(s![.., 4..]);
    ground.holds("other columns are as they were", others.iter().all(|cell| cell[0] == usize::MAX));
    ground.equal("the received column", theirs[[5, 3]], [from, 5, 7]);
    Ok(())
}

fn patience(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let mut got = [0; 900];
    let mine = values(ground.rank(), 900);
    ground.scope(|s| {
        let ticket = s.irecv(&mut got, (from, 58))?;
        let tested = ticket.test();
        ground.holds("nothing is received before anything is sent", tested.is_err());
        let Err(ticket) = tested else { return Ok(()) };
        let waited = ticket.wait_for(Duration::from_millis(1));
        ground.holds("nor a millisecond later", waited.is_err());
        let Err(ticket) = waited else { return Ok(()) };
        // Nobody sends before all have looked.
        ground.barrier()?;
        let mut sending = s.isend(&mine, (to, 58))?;
        let Ok(received) = ticket.wait_for(Duration::MAX) else {
            ground.note(|| "wait_for came back too early".to_owned());
            return Ok(());
        };
        ground.same("irecv", received?.0, &values(from, 900));
        loop {
            match sending.test() {
                Ok(sent) => break sent.map(drop),
                Err(unfinished) => sending = unfinished,
            }
            std::thread::yield_now();
        }
    })
}

fn any(ground: &Ground<'_>) -> Result<()> {
    let mut got = vec![[0; 700]; ground.size()];
    let mine = values(ground.rank(), 700);
    let mut senders = Vec::new();
    ground.scope(|s| {
        let receive = |(rank, buffer)| s.irecv(buffer, (rank, 59));
        let mut tickets: Vec<ScopedRequest<'_, &mut [u64; 700]>> =
            got.iter_mut().enumerate().map(receive).collect::<Result<_>>()?;
        for rank in ground.ranks() {
            s.isend(&mine, (rank, 59))?;
        }
        while let Some((_, (got, status))) = s.wait_any(&mut tickets)? {
            ground.same("wait_any", got, &values(status.source, 700));
            senders.push(status.source);
        }
        Ok(())
    })?;
    senders.sort_unstable();
    ground.same("the senders", &senders, &ground.ranks().collect::<Vec<_>>());
    Ok(())
}

fn left_by_error(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    for count in [3, 3000] {
        let (mut first, mut second) = (vec![7; count], vec![true; count]);
        let left = ground.scope(|s| {
            s.irecv(&mut first, (from, 60))?;
            s.irecv(&mut second, (from, 61))?;
            ground.send(&[0_u8], ground.size()) // fails
        });
        ground.refused("the scope", left, |kind| matches!(kind, ErrorKind::InvalidRank { .. }));
        // Nobody sends before all have withdrawn.
        ground.barrier()?;
        let sending = ground.isend(values(ground.rank(), count), (to, 60))?;
        ground.same("recv", &ground.recv::<u64>((from, 60))?.0, &values(from, count));
        ground.holds("the buffer is as it was", first.iter().all(|&element| element == 7));
        sending.wait()?;
    }
    ground.still_works()
}

fn left_by_panic(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let mut buffer = vec![7; 2000];
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        ground.scope(|s| {
            s.irecv(&mut buffer, (from, 62))?;
            // No hook: it would print.
            std::panic::resume_unwind(Box::new("on purpose"));
            #[allow(unreachable_code)]
            Ok(())
        })
    }));
    ground.holds("the panic goes on", panicked.is_err());
    ground.barrier()?;
    let sending = ground.isend(values(ground.rank(), 2000), (to, 62))?;
    ground.same("recv", &ground.recv::<u64>((from, 62))?.0, &values(from, 2000));
    ground.holds("the buffer is as it was", buffer.iter().all(|&element| element == 7));
    sending.wait()?;
    Ok(())
}

fn forgotten(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    for count in [3, 3000] {
        let mine = values(ground.rank(), count);
        let mut got = vec![0; count];
        ground.scope(|s| {
            std::mem::forget(s.irecv(&mut got, (from, 63))?);
            std::mem::forget(s.isend(&mine, (to, 63))?);
            Ok(())
        })?;
        ground.same("irecv", &got, &values(from, count));
    }
    Ok(())
}

fn nested(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let twin = ground.dup()?;
    let mine = values(ground.rank(), 1500);
    let (mut outer, mut inner) = (vec![0; 1500], vec![0; 1500]);
    ground.scope(|s| {
        let outer = s.irecv(&mut outer, (from, 64))?;
        twin.scope(|t| {
            let inner = t.irecv(&mut inner, (from, 64))?;
            s.isend(&mine, (to, 64))?;
            t.isend(&mine[1..], (to, 64))?;
            ground.same("the inner scope", &inner.wait()?.0[..1499], &values(from, 1500)[1..]);
            Ok(())
        })?;
        ground.same("the outer scope", outer.wait()?.0, &values(from, 1500));
        Ok(())
    })
}

fn collectives(ground: &Ground<'_>) -> Result<()> {
    let (me, size) = (ground.rank(), ground.size());
    for count in [0, 1, 1500] {
        let mine = values(me, count);
        let all: Vec<u64> = ground.ranks().flat_map(|rank| values(rank, count)).collect();
        let reduced = |ranks: std::ops::Range<usize>| -> Vec<u64> {
            let sum = |at| ranks.clone().fold(0_u64, |sum, rank| sum.wrapping_add(value(rank, at)));
            (0..count).map(sum).collect()
        };
        let [mut sum, mut last, mut scanned, mut before] = [(); 4].map(|()| vec![7; count]);
        let [mut gathered, mut rows, mut at_root] = [(); 3].map(|()| vec![7; count * size]);
        let [mut shared, mut part, mut own, mut root_sum] = [(); 4].map(|()| vec![7; count]);
        if me == 0 {
            shared.copy_from_slice(&mine);
        }
        let kept = mine.clone();
        ground.scope(|s| {
            let summing = s.iallreduce(&mine, &mut sum, Sum)?;
            s.iallreduce(&mine, &mut last, |_, right| right)?;
            s.iallgather(&mine, &mut gathered)?;
            s.ialltoall(&mine.repeat(size), &mut rows)?;
            s.igather(0, &mine, &mut at_root)?;
            s.ibcast(0, &mut shared)?;
            s.iscatter(size - 1, if me == size - 1 { &all[..] } else { &[] }, &mut own)?;
            s.ireduce(0, &mine, &mut root_sum, Sum)?;
            s.ireduce_scatter(&all, &mut part, |left: u64, right| left.max(right))?;
            s.iscan(&mine, &mut scanned, Sum)?;
            s.iexscan(&mine, &mut before, Sum)?;
            let (sum, _) = summing.wait()?;
            ground.same("iallreduce", sum, &reduced(0..size));
            Ok(())
        })?;
        ground.same("what was given stays", &mine, &kept);
        ground.same("iallreduce by a closure", &last, &values(size - 1, count));
        ground.same("iallgather", &gathered, &all);
        ground.same("ialltoall", &rows, &all);
        ground.same("ibcast", &shared, &values(0, count));
        ground.same("iscatter", &own, &mine);
        ground.same("ireduce_scatter", &part, &mine);
        ground.same("iscan", &scanned, &reduced(0..me + 1));
        let untouched = vec![7; count];
        ground.same(
            "iexscan",
            &before,
            if me == 0 { untouched.clone() } else { reduced(0..me) }.as_slice(),
        );
        let at_zero = me == 0;
        ground.same("ireduce", &root_sum, &if at_zero { reduced(0..size) } else { untouched });
        ground.same("igather", &at_root, &if at_zero { all } else { vec![7; count * size] });
    }
    let mut short = [0_u8; 3];
    let refused = ground.scope(|s| s.iallreduce(&[1, 2], &mut short, Sum).map(drop));
    ground.refused("an iallreduce into other room", refused, |kind| {
        matches!(kind, ErrorKind::LengthMismatch { .. })
    });
    ground.still_works()
}

/// One rank does not wait for the result, and the others have it all the same.
fn collectives_left(ground: &Ground<'_>) -> Result<()> {
    let (mine, mut sum, mut again) = ([1_u64; 2000], [0; 2000], [0; 2000]);
    let size = ground.size() as u64;
    let left = ground.scope(|s| {
        s.iallreduce(&mine, &mut sum, |left: u64, right| left + right)?;
        if ground.rank() == 0 { ground.send(&[0_u8], ground.size()) } else { Ok(()) }
    });
    if ground.rank() == 0 {
        ground.refused("a scope left by an error", left, |kind| {
            matches!(kind, ErrorKind::InvalidRank { .. })
        });
    } else {
        left?;
        ground.same("iallreduce", &sum, &[size; 2000]);
    }
    ground.scope(|s| s.iallreduce(&mine, &mut again, Sum)?.wait().map(drop))?;
    ground.same("the next one", &again, &[size; 2000]);
    ground.still_works()
}

fn parts(ground: &Ground<'_>) -> Result<()> {
    let (to, from, me) = (ground.after(1), ground.before(1), ground.rank());
    for count in [2, 5000] {
        let mut field = values(me, 3 * count);
        let (left, rest) = field.split_at_mut(count);
        let (middle, right) = rest.split_at_mut(count);
        let middle = &*middle;
        ground.scope(|s| {
            s.irecv(left, (from, 68))?;
            s.irecv(right, (from, 69))?;
            s.isend(middle, (to, 68))?;
            s.isend(middle, (to, 69))?;
            Ok(())
        })?;
        let theirs = values(from, 2 * count);
        let wanted = [&theirs[count..]; 2];
        ground.equal("both sides", [&field[..count], &field[2 * count..]], wanted);
        let mut table = Array2::from_shape_fn((count, 3), |(row, _)| value(me, row));
        let (border, mut halo) = table.multi_slice_mut((s![.., 0], s![.., 2]));
        ground.scope(|s| {
            s.irecv(&mut halo, (from, 70))?;
            s.isend(&border, (to, 70))?;
            Ok(())
        })?;
        ground.same("a column", &table.column(2).to_vec(), &values(from, count));
    }
    Ok(())
}

fn outer_ticket(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let mine = values(ground.rank(), 9000);
    let mut theirs = [vec![0; 9000], vec![0; 9000]];
    let [first, second] = &mut theirs;
    ground.scope(|s| {
        // Not the first place of its board, which is all that the inner scope has.
        s.isend(&mine, (to, 66))?;
        s.isend(&mine, (to, 67))?;
        let tickets = [s.irecv(first, (from, 66))?, s.irecv(second, (from, 67))?];
        ground.dup()?.scope(|inner| {
            let mut tickets: Vec<_> = tickets.into_iter().collect();
            while let Some((_, (got, _))) = inner.wait_any(&mut tickets)? {
                ground.same("a ticket of the outer scope", got, &values(from, 9000));
            }
            Ok(())
        })
    })
}

fn synchronous(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let mine = [ground.rank()];
    ground.scope(|s| {
        let sending = s.issend(&mine, (to, 65))?;
        let tested = sending.test();
        ground.holds("nobody receives yet", tested.is_err());
        ground.barrier()?;
        ground.same("recv", &ground.recv::<usize>((from, 65))?.0, &[from]);
        if let Err(sending) = tested {
            sending.wait()?;
        }
        Ok(())
    })
}

fn refused(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let truncated = |kind: &ErrorKind| matches!(kind, ErrorKind::Truncated { .. });
    let no_such_rank = |kind: &ErrorKind| matches!(kind, ErrorKind::InvalidRank { .. });
    for count in [2, 3000] {
        let mine = values(ground.rank(), count);
        let (mut short, mut other) = (vec![0_u64; count - 1], vec![0_u64; count]);
        // The error of an operation that nobody waits for is the scope's, and the others are
        // completed.
        let ended = ground.scope(|s| {
            s.irecv(&mut short, (from, 66))?;
            s.irecv(&mut other, (from, 66))?;
            s.isend(&mine, (to, 66))?;
            s.isend(&mine, (to, 66))?;
            Ok(())
        });
        ground.refused("the scope", ended, truncated);
        ground.same("the other receive", &other, &values(from, count));
        ground.still_works()?;
    }
    let nobody = ground.size();
    let mut buffer = [0_u8];
    let refused = ground.scope(|s| s.irecv(&mut buffer, nobody).map(drop));
    ground.refused("irecv", refused, no_such_rank);
    ground.refused("isend", ground.scope(|s| s.isend(&[1], nobody).map(drop)), no_such_rank);
    ground.still_works()
}

fn nobody(ground: &Ground<'_>) -> Result<()> {
    let mut buffer = [7_u8; 3];
    ground.scope(|s| {
        s.isend(&[1, 2], None)?;
        let (buffer, status) = s.irecv(&mut buffer, None)?.wait()?;
        ground.equal("status", status, Status { source: NULL_RANK, tag: 0, count: 0 });
        ground.same("the buffer", buffer, &[7; 3]);
        Ok(())
    })
}
