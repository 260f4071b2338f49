//! The commands that run on all ranks.

use std::{io::Write, process::ExitCode};

use spmd::{Failure, bench};

use super::{BenchArgs, InfoArgs, SelftestArgs, output::Reader};

pub(crate) fn info(args: &InfoArgs) -> ExitCode {
    args.run.run(|world| {
        let info = spmd::info(world)?;
        if world.rank() == 0 {
            writeln!(Reader, "{info}")?;
        }
        Ok(())
    })
}

pub(crate) fn selftest(args: &SelftestArgs) -> ExitCode {
    args.run.run(|world| {
        let summary = spmd::selftest::run(world, args.verbose, &mut Reader)?;
        if summary.failed == 0 {
            return Ok(());
        }
        Err(Failure::verification(format!("{} of the selftest's cases failed", summary.failed)))
    })
}

pub(crate) fn bench(args: &BenchArgs) -> ExitCode {
    args.run.run(|world| bench::run(world, &args.what, &mut Reader))
}
