//! The command line: what users see, and what the programs they start it in see.

use std::{fs, path::Path, process::Command, time::Duration};

mod support;

use support::{Ending, example, program, spmd};

/// Against hanging only.
const LIMIT: Duration = Duration::from_secs(60);

fn run(command: &mut Command) -> Ending {
    support::run(command, LIMIT)
}

/// The value of a line of `spmd info`.
#[track_caller]
fn fact(ending: &Ending, name: &str) -> String {
    let line = ending.stdout.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no `{name}` in {ending:#?}")).trim().to_owned()
}

/// The last line of the table: `ranks host cpus threads`.
#[track_caller]
fn places(ending: &Ending) -> Vec<String> {
    let mut lines = ending.stdout.lines().skip_while(|line| !line.starts_with("ranks   host"));
    let line = lines.nth(1).unwrap_or_else(|| panic!("no table in {ending:#?}"));
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
}

fn cpus() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

#[test]
fn info_of_one_rank() {
    let ending = run(spmd().args(["info", "-n", "1"])).success();
    assert_eq!(fact(&ending, "engine"), "local (ranks are threads)");
    assert_eq!(fact(&ending, "launcher"), "none");
    assert_eq!(fact(&ending, "ranks"), "1 on 1 host");
    assert_eq!(fact(&ending, "spmd"), env!("CARGO_PKG_VERSION"));
    let places = places(&ending);
    assert_eq!(places[0], "0");
    assert_eq!(places[1], nix::unistd::gethostname().unwrap().into_string().unwrap());
    assert_eq!(places[3], cpus().to_string(), "one rank has all threads");
    assert!(!ending.stdout.contains("advice"), "{ending:#?}");
    assert!(ending.stderr.is_empty(), "{ending:#?}");
}

#[test]
fn info_names_the_features_built_in() {
    let ending = run(spmd().args(["info", "-n", "1"])).success();
    let features = fact(&ending, "features");
    assert_eq!(features.contains("mpi"), cfg!(feature = "mpi"));
    assert_eq!(features.contains("hdf5"), cfg!(feature = "hdf5"));
    assert_eq!(fact(&ending, "HDF5") == "not built in", !cfg!(feature = "hdf5"));
    let library = if cfg!(feature = "mpi") { "not in use" } else { "not built in" };
    assert_eq!(fact(&ending, "MPI library"), library);
}

#[test]
fn info_of_three_ranks_is_one_table() {
    let ending = run(spmd().args(["info", "-n", "3"])).success();
    assert_eq!(fact(&ending, "ranks"), "3 on 1 host");
    let places = places(&ending);
    assert_eq!((&*places[0], &*places[3]), ("0-2", &*(cpus() / 3).max(1).to_string()));
    assert_eq!(ending.stdout.contains("3 ranks share"), cpus() < 3, "{ending:#?}");
}

#[cfg(target_os = "linux")]
#[test]
fn share_cpu_keeps_all_ranks_on_one_cpu() {
    let ending = run(spmd().args(["info", "-n", "3", "--share-cpu"])).success();
    let places = places(&ending);
    assert!(places[2].contains(" (1 of "), "{places:?}");
    assert_eq!(places[3], "1");
    assert!(fact(&ending, "form").starts_with("concurrent"));
    assert!(ending.stdout.contains("ranks 0-2 take turns on cpu"), "{ending:#?}");
}

#[test]
fn threads_are_as_asked() {
    let ending = run(spmd().args(["info", "-n", "1", "--threads", "5"])).success();
    assert_eq!(places(&ending)[3], "5");
    assert_eq!(ending.stdout.contains("5 threads of rank 0 share"), cpus() < 5, "{ending:#?}");
}

#[test]
fn variables_are_read_and_options_win() {
    let asked = |name: &str, value: &str| {
        let mut command = spmd();
        command.env(name, value).arg("info");
        command
    };
    assert_eq!(fact(&run(&mut asked("SPMD_RANKS", "3")).success(), "ranks"), "3 on 1 host");
    let both = run(asked("SPMD_RANKS", "3").args(["-n", "2"])).success();
    assert_eq!(fact(&both, "ranks"), "2 on 1 host");
    let threads = run(asked("SPMD_THREADS", "3").args(["-n", "1"])).success();
    assert_eq!(places(&threads)[3], "3");
    if cfg!(target_os = "linux") {
        let shared = run(asked("SPMD_SHARE_CPU", "1").args(["-n", "2"])).success();
        assert!(fact(&shared, "form").starts_with("concurrent"));
        let not = run(asked("SPMD_SHARE_CPU", "0").args(["-n", "1"])).success();
        assert_eq!(fact(&not, "form"), "one rank");
    }
    let wrong = run(&mut asked("SPMD_RANKS", "many")).code(2);
    assert!(wrong.stderr.contains("many"), "{wrong:#?}");
}

#[cfg(target_os = "linux")]
#[test]
fn ranks_and_threads_are_as_many_as_a_quota_has_time_for() {
    let (old, new) = (("cpu.cfs_quota_us", "100000"), ("cpu.max", "100000 100000"));
    let Some(group) = support::Group::new("cpu", old, new) else { return };
    let info = |ranks: &[&str]| {
        run(group.program(env!("CARGO_BIN_EXE_spmd")).arg("info").args(ranks)).success()
    };
    let one = info(&[]);
    assert_eq!(fact(&one, "ranks"), "1 on 1 host");
    assert_eq!(places(&one)[3], "1", "{one:#?}");
    assert!(cpus() == 1 || info(&["-n", "2"]).stdout.contains("have time for 1 cpus"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_part_of_a_host_that_a_batch_job_was_given_is_all_of_it() {
    let given = |options: &[&str]| {
        let mut command = spmd();
        command.env("SLURM_CPUS_ON_NODE", "1").args(["info", "-n", "1"]).args(options);
        run(&mut command).success()
    };
    assert!(places(&given(&["--share-cpu"]))[2].ends_with(" (1 of 1)"));
    let all = format!(" ({} of {})", cpus(), cpus());
    assert!(places(&given(&[]))[2].ends_with(&all), "what it may use it has");
}

#[test]
fn list_names_every_program_and_how_to_run_it() {
    let out = run(spmd().arg("list")).success().stdout;
    let mut programs = 0;
    for file in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|suffix| suffix == "rs") {
            let name = path.file_stem().unwrap().to_str().unwrap();
            let head = format!("{name}: ");
            let mut lines = out.lines().skip_while(|line| !line.starts_with(&head));
            assert!(lines.next().is_some_and(|shows| shows.len() > head.len()), "{name}: {out}");
            let command = lines.next().unwrap_or_default();
            assert!(command.starts_with("    cargo run --release "), "{command}");
            assert!(command.split(' ').any(|word| word == name), "{command}");
            programs += 1;
        }
    }
    let listed = out.lines().filter(|line| line.starts_with("    cargo run ")).count();
    assert_eq!(listed, programs, "{out}");
}

/// `spmd hostfile` outside of all batch jobs.
fn hostfile(arguments: &[&str]) -> Command {
    let mut command = spmd();
    command.env_remove("PBS_NODEFILE").env_remove("LSB_MCPU_HOSTS");
    command.arg("hostfile").args(arguments);
    command
}

#[test]
fn hostfiles_are_in_each_launchers_form() {
    let list = "n[08-10]:2,login";
    for (format, expected) in [
        ("openmpi", "n08 slots=2\nn09 slots=2\nn10 slots=2\nlogin\n"),
        ("mpich", "n08:2\nn09:2\nn10:2\nlogin\n"),
        ("slurm", "n08\nn08\nn09\nn09\nn10\nn10\nlogin\n"),
        ("list", "n[08-10]:2,login\n"),
    ] {
        let out = run(&mut hostfile(&["--format", format, "--hosts", list])).success().stdout;
        assert_eq!(out, expected);
        // What one launcher reads is turned into what another reads.
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("hosts");
        fs::write(&file, out).unwrap();
        let out = run(&mut hostfile(&["--format=list", file.to_str().unwrap()])).success().stdout;
        assert_eq!(out, "n[08-10]:2,login\n");
    }
}

#[test]
fn the_hosts_of_the_job_are_those_of_its_hostfile() {
    let mut command = hostfile(&[]);
    command.env("SLURM_JOB_NODELIST", "n[1-2,7]").env("SLURM_TASKS_PER_NODE", "4(x2),1");
    assert_eq!(run(&mut command).success().stdout, "n1 slots=4\nn2 slots=4\nn7 slots=1\n");
    let none = run(&mut hostfile(&[])).code(2);
    assert!(none.stderr.starts_with("error: no hosts: ") && none.stderr.contains("--hosts"));
}

#[test]
fn wrong_hosts_say_where() {
    let wrong = run(&mut hostfile(&["--hosts", "a,b[3-1]"])).code(2);
    let what = "character 5, `3-1`: runs backwards; write 1-3";
    assert!(wrong.stdout.is_empty() && wrong.stderr.contains(what), "{wrong:#?}");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hosts");
    fs::write(&file, "a slots=4\nb slot=4\n").unwrap();
    let wrong = run(&mut hostfile(&[file.to_str().unwrap()])).code(2);
    let what = format!("error: {}:2: `slot=4` is not known", file.display());
    assert!(wrong.stderr.starts_with(&what), "{wrong:#?}");
}

#[test]
fn completions_are_scripts() {
    for (shell, part) in
        [("bash", "complete -F"), ("zsh", "#compdef spmd"), ("fish", "complete -c spmd")]
    {
        let ending = run(spmd().args(["completions", shell])).success();
        assert!(ending.stdout.contains(part) && ending.stdout.contains("selftest"), "{shell}");
    }
    run(spmd().args(["completions", "cobol"])).code(2);
}

#[test]
fn join_starts_a_program_as_a_worker_or_says_how_to_build_it() {
    let script = "echo $SPMD_ELASTIC_JOIN $SPMD_ELASTIC_TOKEN_FILE $SPMD_ELASTIC_SLOTS; exit 7";
    let words = ["join", "host:1", "--token-file", "t", "--slots", "2", "sh", "-c", script];
    let ending = run(spmd().args(words));
    if cfg!(feature = "elastic") {
        assert_eq!(ending.code(7).stdout, "host:1 t 2\n");
        let nowhere = run(spmd().args(&words[..6]).arg("/nowhere")).code(1);
        assert!(nowhere.stderr.contains("/nowhere cannot be started"), "{nowhere:#?}");
    } else {
        let ending = ending.code(1);
        assert!(ending.stderr.contains("`--features elastic`"), "{ending:#?}");
    }
    run(spmd().args(["join", "host:1", "sh"])).code(2);
}

#[test]
fn help_has_examples_and_version_is_the_crates() {
    let help = run(spmd().arg("--help")).success().stdout;
    assert!(help.contains("Examples:") && help.contains("spmd selftest -n 7"), "{help}");
    assert!(help.contains("Exit codes:"), "{help}");
    let version = run(spmd().arg("--version")).success().stdout;
    assert_eq!(version, format!("spmd {}\n", env!("CARGO_PKG_VERSION")));
    assert!(run(spmd().args(["info", "--help"])).success().stdout.contains("--share-cpu"));
}

#[test]
fn usage_errors_exit_with_2() {
    for wrong in [
        &["fly"][..],
        &[],
        &["info", "-n", "0"],
        &["info", "--threads", "x"],
        &["info", "--engine", "x"],
        &["info", "--log-ranks", "3-x"],
        &["info", "--timeout", "-1"],
    ] {
        let ending = run(spmd().args(wrong)).code(2);
        assert!(ending.stdout.is_empty() && !ending.stderr.is_empty(), "{wrong:?}: {ending:#?}");
    }
}

/// `program` as copy number `rank` of `size` that Open MPI's mpirun started.
fn launched(mut program: Command, rank: usize, size: usize) -> Command {
    program.env("OMPI_COMM_WORLD_RANK", rank.to_string());
    program.env("OMPI_COMM_WORLD_SIZE", size.to_string());
    program
}

#[cfg(not(feature = "mpi"))]
#[test]
fn under_mpirun_a_build_without_mpi_says_so_once_and_fails() {
    let speaks = run(launched(spmd(), 0, 4).arg("info")).code(2);
    assert!(speaks.stderr.starts_with("error: Open MPI mpirun started this program 4 times"));
    assert!(speaks.stderr.contains("help: rebuild it with `--features mpi`"), "{speaks:#?}");
    assert!(speaks.stdout.is_empty(), "{speaks:#?}");
    // A launcher ends the others meanwhile; where only one host has such a build, it is heard.
    let other = run(launched(spmd(), 3, 4).arg("info")).code(2);
    assert!(other.stdout.is_empty() && other.stderr.starts_with("error: rank 3 on "), "{other:#?}");
    let asked = run(spmd().args(["info", "--engine", "mpi"])).code(2);
    assert!(asked.stderr.contains("without the engine mpi"), "{asked:#?}");
}

#[test]
fn under_mpirun_one_copy_reports_usage_errors_and_local_can_be_forced() {
    let wrong = ["info", "-n", "none"];
    assert!(!run(launched(spmd(), 0, 2).args(wrong)).code(2).stderr.is_empty());
    assert!(run(launched(spmd(), 1, 2).args(wrong)).code(2).stderr.contains("rank 1 on "));
    let forced = ["info", "--engine", "local", "-n", "2"];
    let ending = run(launched(spmd(), 0, 4).args(forced)).success();
    assert_eq!(fact(&ending, "launcher"), "Open MPI mpirun");
    assert_eq!(fact(&ending, "ranks"), "2 on 1 host");
}

/// `[ 12.345 r003 node07 INFO heat] message`: seconds, rank, host, level, target, message.
fn parts(line: &str) -> Option<(f64, usize, &str, &str, &str, &str)> {
    let (head, message) = line.strip_prefix('[')?.split_once("] ")?;
    let mut words = head.split_whitespace();
    let seconds = words.next()?.parse().ok()?;
    let rank = words.next()?.strip_prefix('r')?.parse().ok()?;
    Some((seconds, rank, words.next()?, words.next()?, words.next()?, message))
}

#[test]
fn log_lines_name_rank_and_host() {
    let ending = run(spmd().args(["info", "-n", "3"]).env("RUST_LOG", "info")).success();
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let mut ranks = Vec::new();
    for line in ending.stderr.lines() {
        let (seconds, rank, on, level, target, message) =
            parts(line).unwrap_or_else(|| panic!("not in the designed form: {line}"));
        assert!(seconds < 60.0 && on == host && level == "INFO", "{line}");
        assert!(target.starts_with("spmd"), "{line}");
        assert!(message.starts_with(&format!("rank {rank} bound to cpus ")), "{line}");
        ranks.push(rank);
    }
    ranks.sort_unstable();
    assert_eq!(ranks, [0, 1, 2]);
}

#[test]
fn log_ranks_selects() {
    let log = |ranks: &str| {
        let mut command = spmd();
        command.args(["info", "-n", "4", "--log-ranks", ranks]).env("RUST_LOG", "info");
        let ending = run(&mut command).success();
        let mut ranks: Vec<_> = ending.stderr.lines().map(|line| parts(line).unwrap().1).collect();
        ranks.sort_unstable();
        ranks
    };
    assert_eq!(log("1"), [1]);
    assert_eq!(log("0,2-3"), [0, 2, 3]);
    assert_eq!(log("all"), [0, 1, 2, 3]);
}

#[test]
fn log_dir_has_a_file_per_rank() {
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("made/on/demand");
    let mut command = spmd();
    command.args(["info", "-n", "2", "--color", "always", "--log-dir"]).arg(&logs);
    let ending = run(command.env("RUST_LOG", "info")).success();
    assert!(ending.stderr.is_empty(), "{ending:#?}");
    for rank in 0..2 {
        let text = fs::read_to_string(logs.join(format!("rank{rank:03}.log"))).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert_eq!(parts(&text).unwrap().1, rank, "files are never coloured: {text}");
    }
    fs::write(directory.path().join("file"), "").unwrap();
    let mut command = spmd();
    command.args(["info", "--log-dir"]).arg(directory.path().join("file"));
    let ending = run(&mut command).code(2);
    assert!(ending.stderr.contains("cannot make the log directory"), "{ending:#?}");
}

#[test]
fn colour_is_for_terminals_and_on_demand() {
    let log = |options: &[&str], no_color: &str| {
        let mut command = spmd();
        command.args(["info", "-n", "1"]).args(options);
        command.env("RUST_LOG", "info").env("NO_COLOR", no_color);
        run(&mut command).success().stderr
    };
    assert!(!log(&[], "").contains('\x1b'), "a pipe is no terminal");
    assert!(log(&["--color", "always"], "").contains('\x1b'));
    assert!(log(&["--color", "always"], "1").contains('\x1b'), "the option is the last word");
    assert!(!log(&["--color", "never"], "").contains('\x1b'));
}

#[test]
fn programs_take_the_same_options_and_variables() {
    let mut command = program(example("faults"));
    let ending = run(command.arg("message-lost").env("SPMD_RANKS", "2")).code(4);
    assert!(ending.stderr.contains("  rank 0: finished"), "{ending:#?}");
    let mut command = program(example("faults"));
    assert!(run(command.arg("--help")).success().stdout.contains("How to run:"));
    let mut command = program(example("faults"));
    run(command.arg("no-such-fault")).code(2);
}

#[test]
fn what_cannot_be_printed_is_told() {
    let full = Path::new("/dev/full");
    if !full.exists() {
        println!("skipped: there is no /dev/full");
        return;
    }
    for words in [&["completions", "bash"][..], &["hostfile", "--hosts", "a,b"]] {
        let file = fs::OpenOptions::new().write(true).open(full).unwrap();
        let ended = spmd().args(words).stdout(file).output().unwrap();
        let told = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{words:?}: {told}");
        assert!(told.starts_with("error: cannot print: "), "{words:?}: {told}");
    }
}

#[test]
fn the_command_says_where_its_instruments_are_missing() {
    let directory = tempfile::tempdir().unwrap();
    let alone = directory.path().join("spmd");
    std::fs::copy(env!("CARGO_BIN_EXE_spmd"), &alone).unwrap();
    let ending = support::run(program(&alone).args(["selftest", "-n", "2"]), LIMIT).code(1);
    assert!(ending.stderr.contains("spmd-instruments is not there"), "{ending:#?}");
    assert!(ending.stderr.contains("cargo build --release --bins"), "{ending:#?}");
    let help = support::run(program(&alone).args(["bench", "--help"]), LIMIT).success().stdout;
    assert!(help.contains("message-rate"), "help needs them not: {help}");
}

#[test]
fn help_names_a_host_to_drain_as_it_is_written() {
    for verb in ["drain", "add"] {
        let help = run(spmd().args([verb, "--help"])).success().stdout;
        let arguments = help.lines().skip_while(|line| *line != "Arguments:");
        let words: Vec<_> = arguments
            .filter_map(|line| line.strip_prefix("  [").or(line.strip_prefix("  <")))
            .collect();
        assert!(help.contains(&format!("Usage: spmd {verb} [RUN] HOST[:SLOTS]")), "{help}");
        assert_eq!(words.len(), 2, "{help}");
        assert!(words[0].starts_with("RUN]") && words[1].starts_with("HOST[:SLOTS]>"), "{help}");
        // One word is the host, two are the run and the host.
        let told = run(spmd().args([verb, "a,b"])).code(1).stderr;
        assert!(told.contains("a,b: one host at a time"), "{told}");
        let told = run(spmd().args([verb, "no-such-run", "a"])).code(1).stderr;
        assert!(told.contains("there is no run no-such-run"), "{told}");
        run(spmd().arg(verb)).code(2);
    }
    let help = run(spmd().arg("--help")).success().stdout;
    let codes = help.split("Exit codes:").nth(1).unwrap();
    for code in ["5 stopped", "6 slower", "7 lost host", "130 interrupted"] {
        assert!(codes.contains(code), "{codes}");
    }
}
