//! `spmd job`: batch scripts for SLURM and Flux, and a manifest for Kubernetes.
//!
//! Each system has a template beside this file, a script or manifest that can be read and checked
//! by itself, and a module that fills it in. The ready ones in `scripts/` are what comes out
//! without options.

mod flux;
mod kubernetes;
mod options;
mod quote;
mod slurm;
mod template;
mod time;

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

pub(crate) use self::options::Options;
use self::{
    options::{Common, System},
    template::fill,
};

/// What is asked for: a script or manifest.
pub(crate) fn text(options: &Options) -> Result<String, String> {
    match &options.system {
        System::Slurm(options) => slurm::script(options),
        System::Flux(options) => flux::script(options),
        System::Kubernetes(options) => kubernetes::manifest(options),
    }
}

/// Writes it to its file, or to `out`.
pub(crate) fn write(text: &str, options: &Options, out: &mut impl Write) -> Result<(), String> {
    let (common, executable) = match &options.system {
        System::Slurm(options) => (&options.common, true),
        System::Flux(options) => (&options.common, true),
        System::Kubernetes(options) => (&options.common, false),
    };
    match &common.out {
        Some(path) => save(path, text, executable)
            .map_err(|error| format!("cannot write {}: {error}", path.display())),
        None => {
            out.write_all(text.as_bytes()).map_err(|error| format!("cannot write the job: {error}"))
        }
    }
}

fn save(path: &Path, text: &str, executable: bool) -> io::Result<()> {
    fs::write(path, text)?;
    #[cfg(unix)]
    if executable {
        use std::os::unix::fs::PermissionsExt;
        let mut mode = fs::metadata(path)?.permissions();
        mode.set_mode(mode.mode() | 0o111);
        fs::set_permissions(path, mode)?;
    }
    Ok(())
}

/// The command lines of the job: one, or one for each size of an array.
fn commands(common: &Common) -> Result<Vec<Vec<String>>, String> {
    if common.array().is_empty() {
        return Ok(vec![common.program.clone()]);
    }
    if !common.program.iter().any(|word| word.contains("{}")) {
        return Err("--array has sizes, but the program's arguments have no {} for them\n  \
                    help: say where: -- ./program --size {}"
            .to_owned());
    }
    let with = |size: &String| common.program.iter().map(|word| word.replace("{}", size)).collect();
    Ok(common.array().iter().map(with).collect())
}

/// What tells shellcheck that dollars between single quotes are no mistake.
const LITERAL: &str = "# shellcheck disable=SC2016 # words as they were given\n";

/// What a batch system calls its things.
struct Names<'a> {
    /// The command that takes a script.
    submit: &'a str,
    /// Sets `task`, the number of the task of an array.
    task: &'a str,
    /// How to start the tasks 0 to this of an array.
    tasks: fn(usize) -> String,
}

/// The part of a script that makes its program and arguments those of the shell.
fn program(common: &Common, names: &Names) -> Result<String, String> {
    let commands = commands(common)?;
    let set = |command: &[String]| {
        let words: Vec<_> = command.iter().map(|word| quote::shell(word)).collect();
        format!("set -- {} \"$@\"", words.join(" "))
    };
    if common.program.is_empty() {
        return Ok(fill(include_str!("no_program.sh"), &[("SUBMIT", names.submit)], &[]));
    }
    let literal =
        if common.program.iter().any(|word| word.contains(['$', '`'])) { LITERAL } else { "" };
    if common.array().is_empty() {
        return Ok(format!("{literal}{}", set(&commands[0])));
    }
    let tasks: Vec<_> = commands
        .iter()
        .enumerate()
        .map(|(number, command)| format!("{number}) {} ;;", set(command)))
        .collect();
    Ok(fill(
        include_str!("tasks.sh"),
        &[("HOW", &(names.tasks)(commands.len() - 1))],
        &[("task", names.task), ("literal", literal), ("tasks", &tasks.join("\n"))],
    ))
}
