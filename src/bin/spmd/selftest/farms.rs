//! Task farms.

use spmd::{Failure, Result, farm::Farm};

use super::{Case, Ground, ground::values};

pub(super) const CASES: &[Case] = &[
    ("a farm gives what a loop gives, in order", in_order),
    ("tasks that submit tasks are all done, once", tree),
    ("a task that fails ends its farm on all ranks and nothing else", failing),
];

/// Of some length, and shorter or longer by far for some.
fn work(input: u64) -> u64 {
    let steps = if input.is_multiple_of(17) { 20_000 } else { 100 };
    (0..steps).fold(input, |sum, step| sum.rotate_left(7).wrapping_add(step))
}

fn in_order(ground: &Ground<'_>) -> Result<()> {
    let farm = Farm::new(ground)?;
    for count in [0, 1, ground.size(), 200] {
        let results = farm.map(|| values(1, count), |&input| Ok(work(input)));
        let wanted: Vec<u64> = values(1, count).into_iter().map(work).collect();
        match results {
            Ok(results) => ground.equal("results", results, (ground.rank() == 0).then_some(wanted)),
            Err(failure) => ground.note(|| failure.to_string()),
        }
    }
    Ok(())
}

/// A node of a binary tree is the number of its leaves.
fn tree(ground: &Ground<'_>) -> Result<()> {
    let leaves = Farm::new(ground)?.run(
        |tasks| {
            tasks.submit(50_u64);
            tasks.as_completed().try_fold(0, |sum, done| Ok(sum + done?.1))
        },
        |&leaves, more| {
            if leaves > 1 {
                more.submit(leaves / 2);
                more.submit(leaves.div_ceil(2));
            }
            Ok(u64::from(leaves == 1))
        },
    );
    match leaves {
        Ok(leaves) => ground.equal("leaves", leaves, (ground.rank() == 0).then_some(50)),
        Err(failure) => ground.note(|| failure.to_string()),
    }
    Ok(())
}

fn failing(ground: &Ground<'_>) -> Result<()> {
    let farm = Farm::new(ground)?;
    for bad in [0, 33, 99_u64] {
        let results = farm.map(
            || (0..100).collect(),
            |&input: &u64| {
                if input == bad { Err(Failure::verification("bad")) } else { Ok(work(input)) }
            },
        );
        match results {
            Ok(_) => ground.note(|| "a task that fails goes unnoticed".to_owned()),
            Err(failure) => {
                let text = failure.to_string();
                let words = text.starts_with(&format!("task {bad} failed on rank "));
                ground.equal(&text, (words, failure.exit_code()), (true, 3));
            }
        }
        ground.still_works()?;
    }
    Ok(())
}
