//! Random programs on the engine local: equal to a sequential model, whatever they are made of.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
};

use arbtest::arbtest;

mod random;
mod wrong;

#[test]
fn programs_give_what_the_model_says() {
    let property = |bytes: &mut arbitrary::Unstructured<'_>| {
        let (ranks, program) = (bytes.int_in_range(1..=8)?, random::program(bytes, 6)?);
        let got = spmd::local(ranks, |world| program.run(world));
        let got = got.unwrap_or_else(|error| panic!("{error} in {program:?}"));
        for (rank, log) in got.into_iter().enumerate() {
            assert_eq!(log, program.expected(rank, ranks), "rank {rank} of {ranks}: {program:?}");
        }
        Ok(())
    };
    arbtest(property).size_min(256).size_max(2048).budget_ms(2000);
}

#[test]
fn a_seed_always_stands_for_the_same_programs() {
    let show = |seed| format!("{:?}", random::from_seed(seed, 3));
    assert_eq!(show(1), show(1));
    assert_ne!(show(1), show(2));
}

/// A wrong program may end with an error, and by nothing else; what it delivers was sent to be
/// delivered there.
#[test]
fn wrong_programs_damage_nothing_and_deliver_nothing_wrong() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect(name));
    let programs = number("SPMD_WRONG_PROGRAMS").unwrap_or(400);
    let seed = number("SPMD_WRONG_SEED").unwrap_or(1);
    // Those after the first ones have failed once.
    for number in (0..programs).chain([4530, 6042]) {
        let ranks = 2 + number as usize % 3;
        let program = wrong::program(seed, number, ranks, wrong::Where::Local);
        let wrongs = Mutex::new(Vec::new());
        let wrong = |text| wrongs.lock().unwrap().push(text);
        let _ended = catch_unwind(AssertUnwindSafe(|| {
            // An error may panic when it is told of, or dropped.
            drop(
                spmd::local(ranks, |world| program.run(world, &wrong))
                    .map_err(|error| error.to_string()),
            );
        }));
        let wrongs = wrongs.into_inner().unwrap();
        assert!(wrongs.is_empty(), "program {number} of seed {seed}: {wrongs:#?} of {program}");
    }
}
