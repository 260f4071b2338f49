//! The commands that run on all ranks.

use std::{io::Write, process::ExitCode, sync::Mutex, time::Instant};

use spmd::Failure;

use super::{BenchArgs, FootprintArgs, InfoArgs, SelftestArgs, output::Reader};
use crate::{bench, scale, selftest};

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
        let summary = selftest::run(world, args.verbose, &mut Reader)?;
        if summary.failed == 0 {
            return Ok(());
        }
        Err(Failure::verification(format!("{} of the selftest's cases failed", summary.failed)))
    })
}

pub(crate) fn bench(args: &BenchArgs) -> ExitCode {
    args.run.run(|world| bench::run(world, &args.what, &mut Reader))
}

pub(crate) fn footprint(args: &FootprintArgs) -> ExitCode {
    let started = Instant::now();
    // When rank 0 was done, if it runs in this process.
    let done = Mutex::new(None);
    let code = args.run.run(|world| {
        let when = bench::footprint(world, started, &mut Reader)?;
        if world.rank() == 0
            && let Ok(mut done) = done.lock()
        {
            *done = Some(when);
        }
        Ok(())
    });
    let when: Option<Instant> = done.into_inner().unwrap_or(None);
    if let (Some(when), true) = (when, code == ExitCode::SUCCESS) {
        // The result is out; where standard output is closed nobody misses this line.
        let _ = writeln!(Reader, "{:<10} {:.3} ms", "end", when.elapsed().as_secs_f64() * 1e3);
    }
    code
}

pub(crate) fn scale(options: &scale::Options) -> ExitCode {
    scale::run(options, &mut Reader)
}
