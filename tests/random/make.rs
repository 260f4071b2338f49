//! How random programs are made: out of bytes, so that fewer bytes make a smaller program.

use std::ops::RangeInclusive;

use arbitrary::{Arbitrary, Result, Unstructured};

use super::{Call, Index, Kind, Manner, Message, Op, Order, Place, Program, Round, Style, What};

/// A program of up to `rounds` rounds.
pub(crate) fn program(bytes: &mut Unstructured<'_>, rounds: usize) -> Result<Program> {
    let round = |bytes: &mut Unstructured<'_>| {
        let places = [Place::World, Place::World, Place::World, Place::Duplicate, Place::Half];
        Ok(Round { place: *bytes.choose(&places)?, what: what(bytes)? })
    };
    Ok(Program { rounds: many(bytes, 1..=rounds, round)? })
}

/// The programs that a seed stands for, the same in every process.
pub(crate) fn from_seed(seed: u64, count: usize) -> Vec<Program> {
    /// No program needs more.
    const BYTES: usize = 4096;
    let make = |number: usize| {
        let mut state = seed.wrapping_add((number as u64) << 32);
        let words = std::iter::repeat_with(|| next(&mut state)).take(BYTES / 8);
        let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        program(&mut Unstructured::new(&bytes), 8).expect("there are bytes")
    };
    (0..count).map(make).collect()
}

/// The next of a sequence of random numbers (`SplitMix64`).
pub(crate) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// So many.
pub(crate) fn many<T>(
    bytes: &mut Unstructured<'_>,
    counts: RangeInclusive<usize>,
    make: impl Fn(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let count = bytes.int_in_range(counts)?;
    (0..count).map(|_| make(bytes)).collect()
}

/// Empty, short, and round the sizes at which engines change their ways.
fn length(bytes: &mut Unstructured<'_>) -> Result<usize> {
    let range = match bytes.int_in_range(0..=13)? {
        0..2 => 0..=0,
        2..8 => 1..=19,
        8..11 => 20..=299,
        11..13 => 1000..=1099,
        _ => 9000..=9009,
    };
    bytes.int_in_range(range)
}

fn order(bytes: &mut Unstructured<'_>) -> Result<Order> {
    let orders = [Order::All, Order::Backwards, Order::Any, Order::Some, Order::Tested];
    Ok(*bytes.choose(&orders)?)
}

fn message(bytes: &mut Unstructured<'_>) -> Result<Message> {
    Ok(Message {
        from: Index::arbitrary(bytes)?,
        to: Index::arbitrary(bytes)?,
        tag: bytes.int_in_range(0..=2)?,
        length: length(bytes)?,
        synchronous: bytes.arbitrary()?,
        kind: *bytes.choose(&[Kind::Bytes, Kind::Words, Kind::Flags, Kind::Triples])?,
    })
}

fn style(bytes: &mut Unstructured<'_>) -> Result<Style> {
    Ok(match bytes.int_in_range(0..=3)? {
        0 => Style::Blocking,
        1 => Style::Owned(order(bytes)?),
        2 => Style::Scoped,
        _ => Style::Persistent(bytes.int_in_range(1..=3)?),
    })
}

fn call(bytes: &mut Unstructured<'_>) -> Result<Call> {
    const OPS: [Op; 12] = [
        Op::Barrier,
        Op::Bcast,
        Op::Gather,
        Op::Scatter,
        Op::Allgather,
        Op::Alltoall,
        Op::Reduce,
        Op::Allreduce,
        Op::Last,
        Op::ReduceScatter,
        Op::Scan,
        Op::Exscan,
    ];
    Ok(Call {
        op: *bytes.choose(&OPS)?,
        root: Index::arbitrary(bytes)?,
        lengths: many(bytes, 1..=5, length)?,
        manner: *bytes.choose(&[Manner::Blocking, Manner::NonBlocking, Manner::Planned])?,
    })
}

fn what(bytes: &mut Unstructured<'_>) -> Result<What> {
    Ok(match bytes.int_in_range(0..=10)? {
        0..4 => What::Messages { messages: many(bytes, 1..=9, message)?, style: style(bytes)? },
        4 => What::Circle { steps: Index::arbitrary(bytes)?, length: length(bytes)? },
        5 => What::FromAny { root: Index::arbitrary(bytes)?, length: length(bytes)? },
        6..10 => What::Collectives { calls: many(bytes, 1..=4, call)?, order: order(bytes)? },
        _ => What::Epoch { steps: Index::arbitrary(bytes)?, length: length(bytes)? },
    })
}
