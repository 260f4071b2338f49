//! Messages and collectives beyond 2³¹ elements and 4 GiB, on `local` and on a real MPI: only on
//! demand, they need 20 GiB of memory.

mod support;

use std::{env, process::Command, time::Duration};

use support::{example, program};

/// Against hanging only.
const LIMIT: Duration = Duration::from_secs(300);

fn try_it(command: &mut Command) {
    if !env::var("SPMD_REQUIRE").is_ok_and(|required| required.split(',').any(|it| it == "large")) {
        println!("skipped: needs 20 GiB of memory (SPMD_REQUIRE=large runs it)");
        return;
    }
    let ending = support::run(command, LIMIT).success();
    assert!(ending.stdout.contains("large: ok"), "{ending:#?}");
}

#[test]
fn nothing_ends_at_32_bits_on_local() {
    try_it(program(example("large")).env("SPMD_RANKS", "2"));
}

#[cfg(feature = "mpi")]
#[test]
fn nothing_ends_at_32_bits_on_mpi() {
    try_it(&mut support::mpirun(2, &example("large")));
}
