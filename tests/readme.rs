//! The README's commands do what it says: each is run here, in the build that the tests are of.
//!
//! What a command would build is there already, so `cargo run --release --example NAME` becomes the
//! example beside this test. A command of a kind that is not known here fails: the README promises
//! nothing that no test runs.

use std::{fs, path::Path, process::Command, time::Duration};

mod support;

use support::{Ending, example, program};

const LIMIT: Duration = Duration::from_secs(180);

/// What the README shows after `$ `, without what it prints.
fn commands() -> Vec<String> {
    let readme = include_str!("../README.md");
    let commands = readme.lines().filter_map(|line| line.strip_prefix("$ "));
    commands.map(str::to_owned).collect()
}

/// Where the jobs run: their files end up there.
fn workplace() -> tempfile::TempDir {
    let place = tempfile::tempdir().expect("a directory for the jobs");
    fs::write(place.path().join("hosts"), "localhost slots=8\n").expect("a hostfile");
    place
}

/// Smaller where the README gives no size: a test build is not optimised.
fn job(path: &str, rest: &[&str], command: &mut Command) {
    let name = Path::new(path).file_name().and_then(|name| name.to_str()).expect("a program");
    if name == "spmd" {
        command.arg(env!("CARGO_BIN_EXE_spmd"));
    } else {
        command.arg(example(name));
        if !rest.contains(&"--size") {
            command.args(["--size", "100,100"]);
        }
    }
    command.args(rest);
}

fn run_in(place: &Path, command: &mut Command) -> Ending {
    support::run(command.current_dir(place), LIMIT)
}

#[test]
fn the_commands_that_need_only_rust_work() {
    let place = workplace();
    let mut found = 0;
    for command in commands() {
        let words: Vec<&str> = command.split_whitespace().collect();
        let ["cargo", "run", "--release", "--example", name, rest @ ..] = &*words else { continue };
        let rest = rest.strip_prefix(&["--"]).unwrap_or(rest);
        let mut job_command = program("env");
        job(name, rest, &mut job_command);
        let out = run_in(place.path(), &mut job_command).success().stdout;
        assert!(out.contains("verification: passed"), "{command}: {out}");
        found += 1;
    }
    assert!(found >= 3, "{found} commands");
}

#[test]
fn the_first_command_shows_what_the_readme_shows() {
    let first = &commands()[0];
    let words = first.strip_prefix("cargo run --release -- ").expect("it is spmd");
    let mut command = support::spmd();
    command.args(words.split(' ')).args(["--cells", "128", "--seconds", "0.05"]);
    let out = support::run(&mut command, LIMIT).success().stdout;
    // The heads of its table, and its forms.
    let heads = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("form ")).unwrap_or_default();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let readme = include_str!("../README.md");
    assert!(!heads(&out).is_empty(), "{out}");
    assert_eq!(heads(&out), heads(readme));
    for form in ["alone", "concurrent", "parallel", "distributed"] {
        assert!([&out, readme].iter().all(|text| text.contains(&format!("\n{form} "))), "{form}");
    }
}

#[test]
fn every_command_is_one_that_a_test_runs() {
    for command in commands() {
        let words: Vec<&str> = command.split_whitespace().collect();
        let known = match &*words {
            // tests/hosts.rs has `spmd run` on hosts.
            ["cargo", "run", "--release", "--example" | "--", ..]
            | ["mpirun", ..]
            | ["target/release/spmd", "run", "--hosts", ..] => true,
            // It builds what is in `examples/`; the programs of tests are a package of their own.
            ["cargo", "build", "--release", "--bins", "--examples", "--features", feature] => {
                let manifest = include_str!("../Cargo.toml");
                manifest.contains(&format!("\n{feature} = ["))
                    && !manifest.contains("path = \"tests/")
            }
            // The command that runs this test.
            ["./scripts/test.sh"] => {
                Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/test.sh").exists()
            }
            // tests/scripts.rs runs it.
            ["sbatch", .., "target/release/examples/heat2d", "--steps", _] => {
                words.contains(&"scripts/job.sbatch")
            }
            _ => false,
        };
        assert!(known, "no test runs `{command}`");
    }
}

#[cfg(feature = "mpi")]
#[test]
fn the_commands_under_mpirun_work() {
    let place = workplace();
    let launcher = std::env::var("SPMD_MPIRUN").unwrap_or_else(|_| "mpirun".to_owned());
    let version = Command::new(&launcher).arg("--version").output().expect("mpirun starts");
    if !String::from_utf8_lossy(&version.stdout).contains("Open MPI") {
        println!("skipped: the README's mpirun commands: they are Open MPI's");
        return;
    }
    for command in commands() {
        let words: Vec<&str> = command.split_whitespace().collect();
        let ["mpirun", words @ ..] = &*words else { continue };
        let at = words.iter().position(|word| word.starts_with("target/release/"));
        let at = at.unwrap_or_else(|| panic!("`{command}` starts a program"));
        let mut job_command = program(&launcher);
        job_command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        job_command.args(["--mca", "mpi_yield_when_idle", "1", "--oversubscribe"]);
        let options = words[..at].iter().filter(|&&option| option != "--oversubscribe");
        job_command.args(
            options.map(|&option| if option == "hostfile.example" { "hosts" } else { option }),
        );
        let writes_hdf5 = words.contains(&"heat.h5");
        let mut rest: Vec<&str> = words[at + 1..].to_vec();
        if writes_hdf5 && !cfg!(feature = "hdf5") {
            println!("skipped: `{command}` without its HDF5 file: built without the feature hdf5");
            let output = rest.iter().position(|&word| word == "--output").expect("an output");
            rest.drain(output..output + 2);
        }
        job(words[at], &rest, &mut job_command);
        let out = run_in(place.path(), &mut job_command).success().stdout;
        let expected = if words[at].ends_with("spmd") { "engine" } else { "verification: passed" };
        assert!(out.contains(expected), "{command}: {out}");
    }
    assert!(place.path().join("heat.png").exists());
    assert!(place.path().join("heat.h5").exists() || !cfg!(feature = "hdf5"));
}
