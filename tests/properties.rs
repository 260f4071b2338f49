//! Collectives against the plain sequential computation, on sizes, roots, operators and rank counts
//! nobody chose by hand.

use arbitrary::{Arbitrary, Result, Unstructured};
use arbtest::arbtest;
use spmd::{
    Comm, Failure, Ragged,
    op::{Max, Min, Sum, Xor},
};

#[path = "random/mod.rs"]
mod random;

use random::{Index, many, next};

/// Tries a property for a second.
fn holds(property: impl FnMut(&mut Unstructured<'_>) -> Result<()>) {
    arbtest(property).size_max(4096).budget_ms(1000);
}

/// So many values.
fn row(bytes: &mut Unstructured<'_>, count: usize) -> Result<Vec<u64>> {
    let mut state = bytes.arbitrary()?;
    Ok((0..count).map(|_| next(&mut state)).collect())
}

/// A row of values per rank, equally long.
fn equal_rows(bytes: &mut Unstructured<'_>) -> Result<Vec<Vec<u64>>> {
    let count = bytes.int_in_range(0..=1499)?;
    many(bytes, 1..=6, |bytes| row(bytes, count))
}

/// A row of values per rank, of any lengths, on both sides of what engines send in one piece.
fn rows(bytes: &mut Unstructured<'_>) -> Result<Vec<Vec<u64>>> {
    many(bytes, 1..=6, |bytes| {
        let range = bytes.choose(&[0..=0, 1..=19, 900..=1199])?.clone();
        let count = bytes.int_in_range(range)?;
        row(bytes, count)
    })
}

/// What each rank returned.
fn on_ranks<R: Send>(
    ranks: usize,
    app: impl Fn(&Comm) -> Result<R, Failure> + Send + Sync,
) -> Vec<R> {
    spmd::local(ranks, app).unwrap()
}

/// The element-wise fold of the first `ranks` rows from the left.
fn fold(rows: &[Vec<u64>], ranks: usize, op: impl Fn(u64, u64) -> u64) -> Vec<u64> {
    (0..rows[0].len())
        .map(|index| rows[1..ranks].iter().fold(rows[0][index], |left, row| op(left, row[index])))
        .collect()
}

/// Associative, not commutative: the composition of affine maps on 32 bits, packed into one number.
fn compose(left: u64, right: u64) -> u64 {
    let unpack = |map: u64| ((map >> 32) as u32, map as u32);
    let ((a, b), (c, d)) = (unpack(left), unpack(right));
    let (slope, offset) = (a.wrapping_mul(c), b.wrapping_mul(c).wrapping_add(d));
    u64::from(slope) << 32 | u64::from(offset)
}

/// The operators tried: built in and closures, as functions and as the library takes them.
#[derive(Clone, Copy, Debug, Arbitrary)]
enum Operator {
    Sum,
    Min,
    Max,
    Xor,
    Compose,
    First,
    Last,
}

impl Operator {
    fn apply(self, left: u64, right: u64) -> u64 {
        match self {
            Self::Sum => left.wrapping_add(right),
            Self::Min => left.min(right),
            Self::Max => left.max(right),
            Self::Xor => left ^ right,
            Self::Compose => compose(left, right),
            Self::First => left,
            Self::Last => right,
        }
    }

    fn allreduce(self, comm: &Comm, mine: &[u64]) -> spmd::Result<Vec<u64>> {
        match self {
            Self::Sum => comm.allreduce(mine, Sum),
            Self::Min => comm.allreduce(mine, Min),
            Self::Max => comm.allreduce(mine, Max),
            Self::Xor => comm.allreduce(mine, Xor),
            _ => comm.allreduce(mine, |left, right| self.apply(left, right)),
        }
    }
}

#[test]
fn allreduce_equals_sequential_fold() {
    holds(|bytes| {
        let rows = equal_rows(bytes)?;
        let op = Operator::arbitrary(bytes)?;
        let wanted = fold(&rows, rows.len(), |left, right| op.apply(left, right));
        let got = on_ranks(rows.len(), |comm| Ok(op.allreduce(comm, &rows[comm.rank()])?));
        for mine in got {
            assert_eq!(&mine, &wanted);
        }
        Ok(())
    });
}

#[test]
fn reduce_equals_sequential_fold() {
    holds(|bytes| {
        let rows = equal_rows(bytes)?;
        let op = Operator::arbitrary(bytes)?;
        let root = Index::arbitrary(bytes)?;
        let root = root.index(rows.len());
        let wanted = fold(&rows, rows.len(), |left, right| op.apply(left, right));
        let got = on_ranks(rows.len(), |comm| {
            Ok(comm.reduce(root, &rows[comm.rank()], |left, right| op.apply(left, right))?)
        });
        for (rank, mine) in got.into_iter().enumerate() {
            assert_eq!(mine, (rank == root).then(|| wanted.clone()));
        }
        Ok(())
    });
}

#[test]
fn scans_equal_sequential_prefixes() {
    holds(|bytes| {
        let rows = equal_rows(bytes)?;
        let op = Operator::arbitrary(bytes)?;
        let apply = |left, right| op.apply(left, right);
        let got = on_ranks(rows.len(), |comm| {
            let mine = &rows[comm.rank()];
            Ok((comm.scan(mine, apply)?, comm.exscan(mine, apply)?))
        });
        for (rank, (scan, exscan)) in got.into_iter().enumerate() {
            assert_eq!(scan, fold(&rows, rank + 1, apply));
            assert_eq!(exscan, (rank > 0).then(|| fold(&rows, rank, apply)));
        }
        Ok(())
    });
}

#[test]
fn bcast_gather_scatter_and_allgather_move_rows() {
    holds(|bytes| {
        let rows = rows(bytes)?;
        let root = Index::arbitrary(bytes)?;
        let root = root.index(rows.len());
        let got = on_ranks(rows.len(), |comm| {
            let mine = &rows[comm.rank()];
            let spread = comm.bcast(root, || mine.clone())?;
            let gathered = comm.gather(root, mine)?;
            let dealt = comm.scatter(root, || Ragged::from_rows(rows.clone()))?;
            Ok((spread, gathered, dealt, comm.allgather(mine)?))
        });
        let all = Ragged::from_rows(rows.clone());
        for (rank, (spread, gathered, dealt, collected)) in got.into_iter().enumerate() {
            assert_eq!(&spread, &rows[root]);
            assert_eq!(gathered, (rank == root).then(|| all.clone()));
            assert_eq!(&dealt, &rows[rank]);
            assert_eq!(&collected, &all);
        }
        Ok(())
    });
}

#[test]
fn alltoall_is_a_transpose() {
    holds(|bytes| {
        let ranks = bytes.int_in_range(1..=6)?;
        let length = |bytes: &mut Unstructured<'_>| {
            let range = bytes.choose(&[0..=19, 1000..=1099])?.clone();
            bytes.int_in_range(range)
        };
        let lengths: Vec<usize> = many(bytes, 36..=36, length)?;
        let seed: u64 = bytes.arbitrary()?;
        // Element k of the row from i to j says so.
        let row = |from: usize, to: usize| -> Vec<u64> {
            let tell = |at| seed.wrapping_add((from * 1_000_000 + to * 100_000 + at) as u64);
            (0..lengths[6 * from + to]).map(tell).collect()
        };
        let got = on_ranks(ranks, |comm| {
            Ok(comm.alltoall(&Ragged::from_rows((0..ranks).map(|to| row(comm.rank(), to))))?)
        });
        for (rank, mine) in got.into_iter().enumerate() {
            assert_eq!(mine, Ragged::from_rows((0..ranks).map(|from| row(from, rank))));
        }
        Ok(())
    });
}

#[test]
fn split_equals_sequential_grouping() {
    holds(|bytes| {
        let choices = many(bytes, 1..=6, |bytes| {
            let color = *bytes.choose(&[None, Some(0_u32), Some(1), Some(2)])?;
            Ok((color, bytes.int_in_range(-2_i64..=1)?))
        })?;
        let got = on_ranks(choices.len(), |comm| {
            let (color, key) = choices[comm.rank()];
            let Some(group) = comm.split(color, key)? else { return Ok(None) };
            Ok(Some(group.allgather(&[comm.rank()])?.into_flat()))
        });
        for (rank, members) in got.into_iter().enumerate() {
            let color = choices[rank].0;
            let mut wanted: Vec<usize> =
                (0..choices.len()).filter(|&other| choices[other].0 == color).collect();
            wanted.sort_by_key(|&other| (choices[other].1, other));
            assert_eq!(members, color.map(|_| wanted));
        }
        Ok(())
    });
}
