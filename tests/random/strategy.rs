//! How random programs are made.

use proptest::{collection::vec, prelude::*, sample::Index, strategy::ValueTree, test_runner};

use super::{Call, Kind, Manner, Message, Op, Order, Place, Program, Round, Style, What};

/// Programs of up to `rounds` rounds.
pub(crate) fn programs(rounds: usize) -> impl Strategy<Value = Program> {
    let place = prop_oneof![
        3 => Just(Place::World),
        1 => Just(Place::Duplicate),
        1 => Just(Place::Half)
    ];
    let round = (place, what()).prop_map(|(place, what)| Round { place, what });
    vec(round, 1..=rounds).prop_map(|rounds| Program { rounds })
}

/// The programs that a seed stands for, the same in every process.
pub(crate) fn from_seed(seed: u64, count: usize) -> Vec<Program> {
    let seed = [seed.to_le_bytes(); 4].concat();
    let rng = test_runner::TestRng::from_seed(test_runner::RngAlgorithm::ChaCha, &seed);
    let mut runner = test_runner::TestRunner::new_with_rng(test_runner::Config::default(), rng);
    let strategy = programs(8);
    let make = |_| strategy.new_tree(&mut runner).expect("the strategy rejects nothing").current();
    (0..count).map(make).collect()
}

/// Empty, short, and round the sizes at which engines change their ways.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        2 => Just(0_usize),
        6 => 1..20_usize,
        3 => 20..300_usize,
        2 => 1000..1100_usize,
        1 => 9000..9010_usize
    ]
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![
        Just(Order::All),
        Just(Order::Backwards),
        Just(Order::Any),
        Just(Order::Some),
        Just(Order::Tested)
    ]
}

fn what() -> impl Strategy<Value = What> {
    let kind =
        prop_oneof![Just(Kind::Bytes), Just(Kind::Words), Just(Kind::Flags), Just(Kind::Triples)];
    let message = (any::<Index>(), any::<Index>(), 0..3_u32, length(), any::<bool>(), kind)
        .prop_map(|(from, to, tag, length, synchronous, kind)| Message {
            from,
            to,
            tag,
            length,
            synchronous,
            kind,
        });
    let style = prop_oneof![
        Just(Style::Blocking),
        order().prop_map(Style::Owned),
        Just(Style::Scoped),
        (1..4_usize).prop_map(Style::Persistent)
    ];
    let op = prop_oneof![
        Just(Op::Barrier),
        Just(Op::Bcast),
        Just(Op::Gather),
        Just(Op::Scatter),
        Just(Op::Allgather),
        Just(Op::Alltoall),
        Just(Op::Reduce),
        Just(Op::Allreduce),
        Just(Op::Last),
        Just(Op::ReduceScatter),
        Just(Op::Scan),
        Just(Op::Exscan)
    ];
    let manner =
        prop_oneof![Just(Manner::Blocking), Just(Manner::NonBlocking), Just(Manner::Planned)];
    let call = (op, any::<Index>(), vec(length(), 1..6), manner)
        .prop_map(|(op, root, lengths, manner)| Call { op, root, lengths, manner });
    prop_oneof![
        4 => (vec(message, 1..10), style)
            .prop_map(|(messages, style)| What::Messages { messages, style }),
        1 => (any::<Index>(), length()).prop_map(|(steps, length)| What::Circle { steps, length }),
        1 => (any::<Index>(), length()).prop_map(|(root, length)| What::FromAny { root, length }),
        4 => (vec(call, 1..5), order())
            .prop_map(|(calls, order)| What::Collectives { calls, order }),
        1 => (any::<Index>(), length()).prop_map(|(steps, length)| What::Epoch { steps, length }),
    ]
}
