//! What `scripts/compare.sh` calls when it has measured.

use std::{fs, io::Write, path::Path, process::ExitCode};

use super::{BenchReportArgs, output::Reader};
use crate::bench::{Comparison, between_markers};

pub(crate) fn bench_report(args: &BenchReportArgs) -> ExitCode {
    match report(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            // Where standard error is closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "error: {what}");
            ExitCode::FAILURE
        }
    }
}

fn report(args: &BenchReportArgs) -> Result<(), String> {
    let table = Comparison::read(&read(&args.results)?, args.statistic)?.markdown();
    if let Some(page) = &args.markdown {
        let heading = args.heading.join("\n");
        let new = between_markers(&read(page)?, &format!("{heading}\n\n{table}"))?;
        fs::write(page, new)
            .map_err(|error| format!("cannot write {}: {error}", page.display()))?;
    }
    Reader.write_all(table.as_bytes()).map_err(|error| format!("cannot print: {error}"))
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}
