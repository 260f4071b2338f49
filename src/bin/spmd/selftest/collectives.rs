//! Calls of all ranks together, with every root and with rows of every length.

use std::time::{Duration, Instant};

use spmd::{ANY, Ragged, Result};

use super::{
    Case, Ground,
    ground::{COUNTS, MEBIBYTE, values},
};

pub(super) const CASES: &[Case] = &[
    ("nobody leaves a barrier before all have come", barrier),
    ("bcast from every root, all sizes", bcast),
    ("gather to every root, rows of any length", gather),
    ("scatter from every root, rows of any length", scatter),
    ("allgather, rows of any length", allgather),
    ("alltoall is a transpose of rows of any length", alltoall),
    ("collectives of a mebibyte", mebibyte),
    ("Ragged keeps rows apart", ragged),
    ("collectives one after the other do not mix", one_after_the_other),
    ("messages pass through collectives", messages_pass),
];

fn barrier(ground: &Ground<'_>) -> Result<()> {
    const LEFT: u32 = 23;
    for late in ground.ranks() {
        if ground.rank() != late {
            ground.barrier()?;
            ground.send(&[ground.rank()], (late, LEFT))?;
            continue;
        }
        // Whoever left too early would say so while this rank dallies.
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(2) {
            let early = ground.iprobe((ANY, LEFT))?.map(|message| message.source());
            if let Some(rank) = early {
                ground.note(|| format!("rank {rank} left the barrier before rank {late} came"));
                break;
            }
            std::thread::yield_now();
        }
        ground.barrier()?;
        if ground.wrong().is_none() {
            for _ in 1..ground.size() {
                ground.recv::<usize>((ANY, LEFT))?;
            }
        }
    }
    Ok(())
}

fn bcast(ground: &Ground<'_>) -> Result<()> {
    for count in COUNTS {
        for root in ground.ranks() {
            let mut asked = false;
            let got = ground.bcast(root, || {
                asked = true;
                values(root, count)
            })?;
            ground.same("bcast", &got, &values(root, count));
            ground.equal("the closure runs on the root only", asked, ground.rank() == root);
        }
    }
    Ok(())
}

/// A row's length, different from rank to rank; some are empty, some large.
fn length(rank: usize, largest: usize) -> usize {
    match rank % 4 {
        0 => largest,
        1 => 0,
        2 => largest / 2 + 1,
        _ => 3,
    }
}

fn rows(ground: &Ground<'_>, largest: usize) -> Ragged<u64> {
    Ragged::from_rows(ground.ranks().map(|rank| values(rank, length(rank, largest))))
}

fn gather(ground: &Ground<'_>) -> Result<()> {
    for count in COUNTS {
        for root in ground.ranks() {
            let mine = values(ground.rank(), length(ground.rank(), count));
            match ground.gather(root, &mine)? {
                Some(got) => {
                    ground.equal("who gets the rows", ground.rank(), root);
                    compare(ground, "gather", &got, &rows(ground, count));
                }
                None => ground.holds("the root gets the rows", ground.rank() != root),
            }
        }
    }
    Ok(())
}

fn scatter(ground: &Ground<'_>) -> Result<()> {
    for count in COUNTS {
        for root in ground.ranks() {
            let mut asked = false;
            let got = ground.scatter(root, || {
                asked = true;
                rows(ground, count)
            })?;
            ground.same("scatter", &got, &values(ground.rank(), length(ground.rank(), count)));
            ground.equal("the closure runs on the root only", asked, ground.rank() == root);
        }
    }
    Ok(())
}

fn allgather(ground: &Ground<'_>) -> Result<()> {
    for count in COUNTS {
        let mine = values(ground.rank(), length(ground.rank(), count));
        compare(ground, "allgather of any rows", &ground.allgather(&mine)?, &rows(ground, count));
        let even = ground.allgather(&values(ground.rank(), count))?;
        let wanted = Ragged::from_rows(ground.ranks().map(|rank| values(rank, count)));
        compare(ground, "allgather of equal rows", &even, &wanted);
    }
    Ok(())
}

fn alltoall(ground: &Ground<'_>) -> Result<()> {
    let me = ground.rank();
    for count in COUNTS {
        // Row and length tell sender and receiver apart.
        let row = |from: usize, to: usize| values(100 * from + to, length(from + 2 * to, count));
        let mine = Ragged::from_rows(ground.ranks().map(|to| row(me, to)));
        let wanted = Ragged::from_rows(ground.ranks().map(|from| row(from, me)));
        compare(ground, "alltoall", &ground.alltoall(&mine)?, &wanted);
    }
    Ok(())
}

fn compare(ground: &Ground<'_>, what: &str, got: &Ragged<u64>, wanted: &Ragged<u64>) {
    let counts = |rows: &Ragged<u64>| rows.counts().collect::<Vec<_>>();
    ground.same(&format!("row lengths of {what}"), &counts(got), &counts(wanted));
    ground.same(what, got.flat(), wanted.flat());
}

fn mebibyte(ground: &Ground<'_>) -> Result<()> {
    let (me, last) = (ground.rank(), ground.size() - 1);
    let got = ground.bcast(last, || values(last, MEBIBYTE))?;
    ground.same("bcast", &got, &values(last, MEBIBYTE));
    // A mebibyte in all, whatever the number of ranks.
    let share = MEBIBYTE / ground.size();
    let all: Vec<u64> = ground.ranks().flat_map(|rank| values(rank, share)).collect();
    ground.same("allgather", ground.allgather(&values(me, share))?.flat(), &all);
    let mine = Ragged::from_flat(values(me, share * ground.size()), ground.ranks().map(|_| share));
    let column = |from| values(from, share * (me + 1)).split_off(share * me);
    let wanted: Vec<u64> = ground.ranks().flat_map(column).collect();
    ground.same("alltoall", ground.alltoall(&mine)?.flat(), &wanted);
    Ok(())
}

fn ragged(ground: &Ground<'_>) -> Result<()> {
    let got = ground.allgather(&values(ground.rank(), ground.rank() % 3))?;
    ground.equal("rows", got.rows(), ground.size());
    for (rank, row) in got.iter().enumerate() {
        ground.same("a row", row, &values(rank, rank % 3));
        ground.same("the row by its number", &got[rank], row);
    }
    let again = Ragged::from_flat(got.flat().to_vec(), got.counts());
    ground.equal("the same rows from one vector", &again, &got);
    ground.equal(
        "the same rows from rows",
        &Ragged::from_rows(got.iter().map(<[u64]>::to_vec)),
        &got,
    );
    ground.same("one vector", &again.into_flat(), got.flat());
    let empty = ground.allgather(&[0_u64; 0])?;
    ground.equal("empty rows count", empty.rows(), ground.size());
    ground.holds("and hold nothing", empty.flat().is_empty());
    Ok(())
}

fn one_after_the_other(ground: &Ground<'_>) -> Result<()> {
    // Ranks run ahead of each other here: nothing but the engine keeps the rounds apart.
    for round in 0..40 {
        let root = round % ground.size();
        let got = ground.bcast(root, || vec![round; 1 + round % 20])?;
        ground.same("bcast", &got, &vec![round; 1 + round % 20]);
        let rows = ground.gather(root, &[round, ground.rank()])?;
        if let Some(rows) = rows {
            let wanted: Vec<usize> = ground.ranks().flat_map(|rank| [round, rank]).collect();
            ground.same("gather", rows.flat(), &wanted);
        }
        if round % 10 == 0 {
            ground.barrier()?;
        }
        let sum = ground.allreduce(&[round], spmd::op::Sum)?;
        ground.same("allreduce", &sum, &[round * ground.size()]);
    }
    Ok(())
}

fn messages_pass(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    for tag in 0..10 {
        let sending = ground.isend(values(ground.rank(), 1500), (to, tag))?;
        let all = ground.allgather(&[ground.rank()])?;
        ground.same("allgather", all.flat(), &ground.ranks().collect::<Vec<_>>());
        let rows = Ragged::from_rows(ground.ranks().map(|rank| [ground.rank(), rank]));
        let turned = ground.alltoall(&rows)?;
        ground.same("alltoall", &turned[from], &[from, ground.rank()]);
        let (got, status) = ground.recv::<u64>((ANY, ANY))?;
        ground.same("recv", &got, &values(from, 1500));
        ground.equal("its tag", status.tag, tag);
        sending.wait()?;
    }
    Ok(())
}
