//! Collectives of rows of different lengths that are known beforehand.

use spmd::{ErrorKind, Ragged, Result, op::Sum};

use super::{
    Case, Ground,
    ground::{COUNTS, Guarded, value, values},
};

pub(super) const CASES: &[Case] = &[
    ("gather_known to every root, rows of any length", gather),
    ("scatter_known from every root, rows of any length", scatter),
    ("allgather_known, rows of any length", allgather),
    ("alltoall_known is a transpose of rows of any length", alltoall),
    ("reduce_scatter deals parts of any length out", reduce_scatter),
    ("rows of values that are checked, of known lengths", truth),
    ("the known forms into the caller's memory, again and again", into),
    ("wrong counts are refused before anything is sent", wrong_counts),
];

/// A row's length, different from rank to rank; some are empty.
fn length(rank: usize, largest: usize) -> usize {
    [largest, 0, largest / 3 + 1, 2][rank % 4]
}

fn gather(ground: &Ground<'_>) -> Result<()> {
    for count in COUNTS {
        let lengths: Vec<usize> = ground.ranks().map(|rank| length(rank, count)).collect();
        let mine = values(ground.rank(), lengths[ground.rank()]);
        let wanted = Ragged::from_rows(ground.ranks().map(|rank| values(rank, lengths[rank])));
        for root in ground.ranks() {
            let at_root = ground.rank() == root;
            let known: &[usize] = if at_root { &lengths } else { &[] };
            let got = ground.gather_known(root, &mine, known)?;
            ground.equal("gather_known", got.as_ref(), at_root.then_some(&wanted));
        }
    }
    Ok(())
}

fn scatter(ground: &Ground<'_>) -> Result<()> {
    for count in COUNTS {
        let rows =
            || Ragged::from_rows(ground.ranks().map(|rank| values(rank, length(rank, count))));
        let mine = length(ground.rank(), count);
        for root in ground.ranks() {
            let got = ground.scatter_known(root, mine, rows)?;
            ground.same("scatter_known", &got, &values(ground.rank(), mine));
        }
    }
    Ok(())
}

fn allgather(ground: &Ground<'_>) -> Result<()> {
    for count in COUNTS {
        let lengths: Vec<usize> = ground.ranks().map(|rank| length(rank, count)).collect();
        let mine = values(ground.rank(), lengths[ground.rank()]);
        let wanted = Ragged::from_rows(ground.ranks().map(|rank| values(rank, lengths[rank])));
        ground.equal("allgather_known", &ground.allgather_known(&mine, &lengths)?, &wanted);
    }
    Ok(())
}

fn alltoall(ground: &Ground<'_>) -> Result<()> {
    let me = ground.rank();
    for count in COUNTS {
        let of = |from: usize, to: usize| length(from + 2 * to, count);
        let row = |from: usize, to: usize| values(100 * from + to, of(from, to));
        let mine = Ragged::from_rows(ground.ranks().map(|to| row(me, to)));
        let wanted = Ragged::from_rows(ground.ranks().map(|from| row(from, me)));
        let counts: Vec<usize> = ground.ranks().map(|from| of(from, me)).collect();
        ground.equal("alltoall_known", &ground.alltoall_known(&mine, &counts)?, &wanted);
    }
    Ok(())
}

fn reduce_scatter(ground: &Ground<'_>) -> Result<()> {
    let last = |_left: u64, right: u64| right;
    for count in COUNTS {
        let lengths: Vec<usize> = ground.ranks().map(|rank| length(rank, count)).collect();
        let start: usize = lengths[..ground.rank()].iter().sum();
        let part = start..start + lengths[ground.rank()];
        let mine = values(ground.rank(), lengths.iter().sum());
        let sum = |at| ground.ranks().fold(0_u64, |sum, rank| sum.wrapping_add(value(rank, at)));
        let got = ground.reduce_scatter(&mine, &lengths, Sum)?;
        ground.same("reduce_scatter", &got, &part.clone().map(sum).collect::<Vec<_>>());
        let got = ground.reduce_scatter(&mine, &lengths, last)?;
        let wanted: Vec<u64> = part.map(|at| value(ground.size() - 1, at)).collect();
        ground.same("reduce_scatter by a closure", &got, &wanted);
    }
    Ok(())
}

fn truth(ground: &Ground<'_>) -> Result<()> {
    let row = |rank: usize| vec![rank.is_multiple_of(2); length(rank, 200)];
    let rows = || Ragged::from_rows(ground.ranks().map(row));
    let lengths: Vec<usize> = rows().counts().collect();
    let mine = row(ground.rank());
    ground.equal("allgather_known", ground.allgather_known(&mine, &lengths)?, rows());
    ground.equal("allgather", ground.allgather(&mine)?, rows());
    let got = ground.gather_known(0, &mine, &lengths)?;
    ground.equal("gather_known", got, (ground.rank() == 0).then(rows));
    let got = ground.gather(0, &mine)?;
    ground.equal("gather", got, (ground.rank() == 0).then(rows));
    ground.same("scatter_known", &ground.scatter_known(0, mine.len(), rows)?, &mine);
    ground.same("scatter", &ground.scatter(0, rows)?, &mine);
    Ok(())
}

fn into(ground: &Ground<'_>) -> Result<()> {
    let (me, size) = (ground.rank(), ground.size());
    for count in COUNTS {
        let lengths: Vec<usize> = ground.ranks().map(|rank| length(rank, count)).collect();
        let all: Vec<u64> = ground.ranks().flat_map(|rank| values(rank, lengths[rank])).collect();
        let starts: Vec<usize> = lengths
            .iter()
            .scan(0, |end, length| {
                *end += length;
                Some(*end - length)
            })
            .collect();
        let mine = values(me, lengths[me]);
        let mut guarded = Guarded::new(all.len(), 7);
        ground.allgather_known_into(&mine, &lengths, guarded.buffer())?;
        ground.same("allgather_known_into", guarded.buffer(), &all);
        ground.holds("its guards", guarded.intact_beyond(all.len()));
        for root in ground.ranks() {
            let at_root = me == root;
            let (known, room) = if at_root { (&lengths[..], all.len()) } else { (&[][..], 0) };
            let mut guarded = Guarded::new(room, 7);
            ground.gather_known_into(root, &mine, known, guarded.buffer())?;
            ground.same("gather_known_into", guarded.buffer(), &all[..room]);
            let rows = Ragged::from_flat(all.clone(), lengths.iter().copied());
            let rows = if at_root { rows } else { Ragged::default() };
            let mut own = Guarded::new(lengths[me], 7);
            ground.scatter_known_into(root, &rows, own.buffer())?;
            ground.same("scatter_known_into", own.buffer(), &mine);
            ground.holds("its guards", own.intact_beyond(lengths[me]));
        }
        // Rank r has as much for each rank as its own length says.
        let rows = Ragged::from_rows(ground.ranks().map(|_| mine.iter().copied()));
        let mut guarded = Guarded::new(all.len(), 7);
        ground.alltoall_known_into(&rows, &lengths, guarded.buffer())?;
        ground.same("alltoall_known_into", guarded.buffer(), &all);
        ground.holds("its guards", guarded.intact_beyond(all.len()));
        let mut own = Guarded::new(lengths[me], 7);
        ground.reduce_scatter_known_into(&all, &lengths, own.buffer(), Sum)?;
        let sums = &all[starts[me]..][..lengths[me]];
        let sums: Vec<u64> = sums.iter().map(|sum| sum.wrapping_mul(size as u64)).collect();
        ground.same("reduce_scatter_known_into", own.buffer(), &sums);
        ground.holds("its guards", own.intact_beyond(lengths[me]));
        // Into memory that is not in one piece, and of values that are checked.
        let truths: Vec<bool> = all.iter().map(|value| value % 2 == 1).collect();
        let own: Vec<bool> = mine.iter().map(|value| value % 2 == 1).collect();
        let mut got = ndarray::Array2::from_elem((all.len(), 2), false);
        ground.allgather_known_into(&own, &lengths, &mut got.column_mut(1))?;
        ground.same("allgather_known_into of bool", &got.column(1).to_vec(), &truths);
    }
    Ok(())
}

fn wrong_counts(ground: &Ground<'_>) -> Result<()> {
    let wrong = |kind: &ErrorKind| matches!(kind, ErrorKind::LengthMismatch { .. });
    let (size, me) = (ground.size(), ground.rank());
    let none: [usize; 0] = [];
    ground.refused("allgather_known", ground.allgather_known(&[1], &none), wrong);
    let twos = vec![2; size];
    ground.refused("allgather_known of one", ground.allgather_known(&[1], &twos), wrong);
    let rows = Ragged::from_rows(vec![[1]; size]);
    ground.refused("alltoall_known", ground.alltoall_known(&rows, &none), wrong);
    ground.refused("alltoall_known of one", ground.alltoall_known(&rows, &twos), wrong);
    let mut out = [0; 1];
    let got = ground.allgather_known_into(&[1, 1], &twos, &mut out);
    ground.refused("allgather_known_into what is too short", got, wrong);
    ground.refused("reduce_scatter", ground.reduce_scatter(&[1], &none, Sum), wrong);
    ground.refused("reduce_scatter of one", ground.reduce_scatter(&[1], &twos, Sum), wrong);
    // Where only the root can see what is wrong the others would wait for it: there, this error
    // ends the job.
    if size == 1 {
        ground.refused("gather_known", ground.gather_known(me, &[1], &[2]), wrong);
        let got = ground.scatter_known(me, 2, || Ragged::from_rows([[1]]));
        ground.refused("scatter_known", got, wrong);
    }
    ground.still_works()
}
