//! Random programs on the engine local: equal to a sequential model, whatever they are made of.

use proptest::prelude::*;

mod random;

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn programs_give_what_the_model_says(program in random::programs(6), ranks in 1..=8_usize) {
        let got = spmd::local(ranks, |world| program.run(world));
        let got = got.map_err(|error| TestCaseError::fail(error.to_string()))?;
        for (rank, log) in got.into_iter().enumerate() {
            prop_assert_eq!(log, program.expected(rank, ranks), "rank {}", rank);
        }
    }
}

#[test]
fn a_seed_always_stands_for_the_same_programs() {
    let show = |seed| format!("{:?}", random::from_seed(seed, 3));
    assert_eq!(show(1), show(1));
    assert_ne!(show(1), show(2));
}
