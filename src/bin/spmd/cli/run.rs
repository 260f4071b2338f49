//! The commands that start programs.

use std::{
    env::{self, consts::EXE_SUFFIX},
    io::{self, Write},
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use super::{InfoArgs, complain};
use crate::{output::Reader, run::look};

pub(crate) fn info(args: &InfoArgs) -> ExitCode {
    let hosts = match args.hosts.hosts() {
        Ok(hosts) => hosts,
        Err(what) => return complain(&what),
    };
    if let Some(hosts) = hosts {
        return match look(&hosts, args.ssh.clone(), &mut Reader) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(what) => complain(&what),
        };
    }
    args.run.run(|world| {
        let info = spmd::info(world)?;
        if world.rank() == 0 {
            writeln!(Reader, "{info}")?;
        }
        Ok(())
    })
}

/// Goes on as the instruments, with the same words: for a launcher it is the same process.
pub(crate) fn become_instruments() -> ExitCode {
    let mut words = env::args_os();
    let name = words.next().unwrap_or_else(|| "spmd".into());
    let program = match env::current_exe() {
        Ok(own) => own.with_file_name(format!("spmd-instruments{EXE_SUFFIX}")),
        Err(error) => return complain(&format!("where this program lies is not known: {error}")),
    };
    let error = Command::new(&program).arg0(name).args(words).exec();
    if error.kind() != io::ErrorKind::NotFound {
        return complain(&format!("{} cannot be started: {error}", program.display()));
    }
    complain(&format!(
        "{} is not there: it tries and measures\n  help: build both with the same features: \
         cargo build --release --bins",
        program.display()
    ))
}
