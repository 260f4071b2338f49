//! Collectives against the plain sequential computation, on sizes, roots, operators and rank counts nobody chose by hand.

use proptest::{collection::vec, prelude::*};
use spmd::{Comm, Failure, Max, Min, Ragged, Sum, Xor};

/// A row of values per rank, equally long.
fn equal_rows() -> impl Strategy<Value = Vec<Vec<u64>>> {
    (1..=6_usize, 0..1500_usize)
        .prop_flat_map(|(ranks, count)| vec(vec(any::<u64>(), count..=count), ranks..=ranks))
}

/// A row of values per rank, of any lengths, on both sides of what engines send in one piece.
fn rows() -> impl Strategy<Value = Vec<Vec<u64>>> {
    let length = prop_oneof![Just(0), 1..20_usize, 900..1200_usize];
    let row = length.prop_flat_map(|count| vec(any::<u64>(), count..=count));
    vec(row, 1..=6)
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
#[derive(Clone, Copy, Debug)]
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
    fn any() -> impl Strategy<Value = Self> {
        use Operator::{Compose, First, Last, Max, Min, Sum, Xor};
        prop::sample::select(vec![Sum, Min, Max, Xor, Compose, First, Last])
    }

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

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn allreduce_equals_sequential_fold(rows in equal_rows(), op in Operator::any()) {
        let wanted = fold(&rows, rows.len(), |left, right| op.apply(left, right));
        let got = on_ranks(rows.len(), |comm| Ok(op.allreduce(comm, &rows[comm.rank()])?));
        for mine in got {
            prop_assert_eq!(&mine, &wanted);
        }
    }

    #[test]
    fn reduce_equals_sequential_fold(rows in equal_rows(), op in Operator::any(), root: prop::sample::Index) {
        let root = root.index(rows.len());
        let wanted = fold(&rows, rows.len(), |left, right| op.apply(left, right));
        let got = on_ranks(rows.len(), |comm| {
            Ok(comm.reduce(root, &rows[comm.rank()], |left, right| op.apply(left, right))?)
        });
        for (rank, mine) in got.into_iter().enumerate() {
            prop_assert_eq!(mine, (rank == root).then(|| wanted.clone()));
        }
    }

    #[test]
    fn scans_equal_sequential_prefixes(rows in equal_rows(), op in Operator::any()) {
        let apply = |left, right| op.apply(left, right);
        let got = on_ranks(rows.len(), |comm| {
            let mine = &rows[comm.rank()];
            Ok((comm.scan(mine, apply)?, comm.exscan(mine, apply)?))
        });
        for (rank, (scan, exscan)) in got.into_iter().enumerate() {
            prop_assert_eq!(scan, fold(&rows, rank + 1, apply));
            prop_assert_eq!(exscan, (rank > 0).then(|| fold(&rows, rank, apply)));
        }
    }

    #[test]
    fn bcast_gather_scatter_and_allgather_move_rows(rows in rows(), root: prop::sample::Index) {
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
            prop_assert_eq!(&spread, &rows[root]);
            prop_assert_eq!(gathered, (rank == root).then(|| all.clone()));
            prop_assert_eq!(&dealt, &rows[rank]);
            prop_assert_eq!(&collected, &all);
        }
    }

    #[test]
    fn alltoall_is_a_transpose(ranks in 1..=6_usize, lengths in vec(prop_oneof![0..20_usize, 1000..1100_usize], 36), seed: u64) {
        // Element k of the row from i to j says so.
        let row = |from: usize, to: usize| -> Vec<u64> {
            let tell = |at| seed.wrapping_add((from * 1_000_000 + to * 100_000 + at) as u64);
            (0..lengths[6 * from + to]).map(tell).collect()
        };
        let got = on_ranks(ranks, |comm| {
            Ok(comm.alltoall(&Ragged::from_rows((0..ranks).map(|to| row(comm.rank(), to))))?)
        });
        for (rank, mine) in got.into_iter().enumerate() {
            prop_assert_eq!(mine, Ragged::from_rows((0..ranks).map(|from| row(from, rank))));
        }
    }

    #[test]
    fn split_equals_sequential_grouping(choices in vec((prop::option::of(0..3_u32), -2..2_i64), 1..=6)) {
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
            prop_assert_eq!(members, color.map(|_| wanted));
        }
    }
}
