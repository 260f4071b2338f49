//! Layer 6: the conformance suite, a product feature: `mpirun -n 4 spmd selftest` tries every
//! operation where you are.
//!
//! Every case runs on the world, on a communicator of one rank, on a duplicate and on a split.
//! Cases say what MPI guarantees and no more, so that every engine must pass them all.
//!
//! A wrong value is noted and the case goes on, so that the ranks stay in step; an error that no
//! case expects ends the job, because the other ranks may wait for this one for ever.

mod agreement;
mod arrays;
mod collectives;
mod errors;
mod extensions;
mod farms;
mod ground;
mod groups;
mod hostile;
mod into;
mod known;
mod messages;
mod nonblocking;
mod objects;
mod one;
mod plans;
mod reductions;
mod requests;
mod scopes;
mod steps;
mod threads;
mod topologies;
mod types;
mod views;
mod windows;

use std::{fmt, io::Write};

use spmd::{Comm, ErrorKind, Failure, Result};

use self::ground::Ground;

/// How many cases passed and failed, on all four kinds of communicator together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Cases that held on all ranks.
    pub(crate) passed: usize,
    /// Cases that did not hold on some rank.
    pub(crate) failed: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// One claim, and the function that tries it.
type Case = (&'static str, fn(&Ground<'_>) -> Result<()>);

/// Runs all cases. Rank 0 writes a line for each that fails (with `verbose`, for each), and last
/// the [`Summary`]. If it is to be `quick`, on the world only.
///
/// # Collective
/// All ranks of `world`; all get the same summary.
///
/// # Errors
/// A call that should have worked and did not: exit code 3, and 4 if the ranks then wait for each
/// other.
///
/// # Examples
/// ```
/// let summaries = spmd::local(2, |world| spmd::selftest::run(world, false, false, &mut std::io::stderr()));
/// assert!(summaries.unwrap().iter().all(|summary| summary.passed > 0 && summary.failed == 0));
/// ```
pub(crate) fn run(
    world: &Comm,
    verbose: bool,
    quick: bool,
    out: &mut dyn Write,
) -> Result<Summary, Failure> {
    let alone = split(world, world.rank() as u32)?;
    let duplicate = world.dup()?;
    let half = split(world, (world.rank() % 2) as u32)?;
    let kinds = [("world", world), ("self", &alone), ("dup", &duplicate), ("split", &half)];
    let mut summary = Summary::default();
    for (name, case) in cases() {
        for &(kind, comm) in &kinds[..if quick { 1 } else { kinds.len() }] {
            let wrong = match attempt(world, comm, case, &format!("{name} ({kind})")) {
                Ok(wrong) => wrong,
                Err(failure) => {
                    if world.rank() == 0 {
                        writeln!(out, "{summary}, then ended in: {name} ({kind})")?;
                        out.flush()?;
                    }
                    return Err(failure);
                }
            };
            let count = if wrong.is_some() { &mut summary.failed } else { &mut summary.passed };
            *count += 1;
            if world.rank() == 0 {
                match wrong {
                    Some((rank, what)) => {
                        writeln!(out, "FAILED  {kind:<5}  {name}: rank {rank}: {what}")?;
                    }
                    None if verbose => writeln!(out, "passed  {kind:<5}  {name}")?,
                    None => {}
                }
            }
        }
    }
    if world.rank() == 0 {
        writeln!(out, "{summary}")?;
        out.flush()?;
    }
    // Nobody ends the job with a failure before the report is out.
    world.barrier()?;
    Ok(summary)
}

fn cases() -> impl Iterator<Item = Case> {
    let rooms = [
        messages::CASES,
        types::CASES,
        requests::CASES,
        views::CASES,
        scopes::CASES,
        plans::CASES,
        threads::CASES,
        collectives::CASES,
        into::CASES,
        known::CASES,
        nonblocking::CASES,
        reductions::CASES,
        one::CASES,
        steps::CASES,
        extensions::CASES,
        farms::CASES,
        objects::CASES,
        agreement::CASES,
        groups::CASES,
        topologies::CASES,
        windows::CASES,
        arrays::CASES,
        errors::CASES,
        hostile::CASES,
    ];
    rooms.into_iter().flatten().copied()
}

fn split(world: &Comm, color: u32) -> Result<Comm, Failure> {
    world
        .split(Some(color), 0)?
        .ok_or_else(|| Failure::verification("split lost a rank with a color"))
}

/// Tries a case; the first rank on which it did not hold, and what was wrong there.
fn attempt(
    world: &Comm,
    comm: &Comm,
    case: fn(&Ground<'_>) -> Result<()>,
    title: &str,
) -> Result<Option<(usize, String)>, Failure> {
    let ground = Ground::new(comm);
    if let Err(error) = case(&ground) {
        return Err(match error.kind() {
            ErrorKind::Deadlock { .. } | ErrorKind::Aborted { .. } => error.into(),
            _ => {
                let help = error.help().map_or(String::new(), |help| format!("\n  help: {help}"));
                Failure::verification(format!("{title}: {error}{help}"))
            }
        });
    }
    let wrong = ground.wrong();
    let reports = world.allgather(wrong.as_deref().unwrap_or("").as_bytes())?;
    let first = reports.iter().enumerate().find(|(_, report)| !report.is_empty());
    Ok(first.map(|(rank, report)| (rank, String::from_utf8_lossy(report).into_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_value_on_one_rank_is_a_failed_case_on_all() {
        let wrong = spmd::local(3, |world| {
            attempt(
                world,
                world,
                |ground| {
                    ground.same("the rank", &[ground.rank()], &[ground.rank().min(1)]);
                    ground.barrier()
                },
                "a wrong claim",
            )
        });
        for (rank, what) in wrong.unwrap().into_iter().flatten() {
            assert_eq!(rank, 2);
            assert!(what.contains("the rank") && what.contains("got 2, wanted 1"), "{what}");
        }
    }

    #[test]
    fn an_unexpected_error_ends_the_job_as_a_verification_failure() {
        let failure = spmd::local(2, |world| {
            let outcome = attempt(world, world, |ground| ground.send(&[1_u8], 2), "a wrong call");
            Ok(outcome.unwrap_err().exit_code())
        });
        assert_eq!(failure.unwrap(), [3, 3]);
    }

    #[test]
    fn names_of_cases_are_unique() {
        let mut names: Vec<_> = cases().map(|(name, _)| name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
