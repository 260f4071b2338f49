//! What starts ranks as processes: which launcher there is, and its words for what is wanted.

use std::{
    env,
    ffi::OsStr,
    fmt, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::unistd::geteuid;

/// The family of an MPI library: those of one have the same launcher and the same words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    OpenMpi,
    /// MPICH, Intel MPI, MVAPICH: their launcher is Hydra.
    Mpich,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenMpi => "Open MPI",
            Self::Mpich => "MPICH",
        })
    }
}

/// What a program needs of MPI, as its file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Linked {
    /// It needs a library of this family.
    With(Family),
    /// It is a program without MPI.
    Without,
    /// It is no program that the machine runs by itself: a script, say.
    Unknown,
}

/// A file that is run by this name, as the shell finds it.
///
/// # Errors
/// If there is none, in words.
pub(crate) fn program(name: &OsStr) -> Result<PathBuf, String> {
    let runs = |file: &Path| {
        fs::metadata(file).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
    };
    let given = Path::new(name);
    if name.as_encoded_bytes().contains(&b'/') {
        if runs(given) {
            return std::path::absolute(given)
                .map_err(|error| format!("{}: {error}", given.display()));
        }
        let what = if given.exists() { "is no program that can be run" } else { "is not there" };
        return Err(format!("{} {what}", given.display()));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|directory| directory.join(given));
    found.into_iter().find(|file| runs(file)).ok_or_else(|| {
        let name = given.display();
        let here = if runs(given) {
            format!("\n  help: that of this directory is ./{name}")
        } else {
            String::new()
        };
        format!("there is no program {name} in the PATH{here}")
    })
}

/// What the program needs of MPI. The names of libraries stand near the beginning of a program.
pub(crate) fn linked(program: &Path) -> Linked {
    use std::io::Read;
    const BEGINNING: u64 = 8 << 20;
    let mut bytes = Vec::new();
    let read =
        fs::File::open(program).and_then(|file| file.take(BEGINNING).read_to_end(&mut bytes));
    let magic: [&[u8]; 4] =
        [b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"\xfe\xed\xfa\xcf"];
    if read.is_err() || !magic.iter().any(|magic| bytes.starts_with(magic)) {
        return Linked::Unknown;
    }
    // What it needs stands there as names of files that end with a zero.
    let name = |text: &'_ [u8]| {
        let name = text.rsplit(|&byte| byte == b'/').next()?;
        let name = str::from_utf8(name).ok().filter(|name| name.len() < 64)?;
        let is_one =
            name.starts_with("libmpi") && (name.contains(".so.") || name.contains(".dylib"));
        // Their numbers differ: 40 is Open MPI's, 12 that of all that come from MPICH.
        is_one.then(|| if name.contains(".40") { Family::OpenMpi } else { Family::Mpich })
    };
    if let Some(family) = bytes.split(|&byte| byte == 0).find_map(name) {
        return Linked::With(family);
    }
    Linked::Without
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Open MPI's mpirun of this major version.
    OpenMpi(u32),
    /// Hydra: MPICH's and its relatives'.
    Hydra,
    /// SLURM's srun.
    Srun,
}

/// A launcher.
#[derive(Clone, Debug)]
pub(crate) struct Launcher {
    pub(crate) kind: Kind,
    pub(crate) program: String,
    /// What it calls itself.
    pub(crate) version: String,
}

/// Where ranks go, and what they are told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Layout<'a> {
    pub(crate) ranks: usize,
    /// CPUs that each rank has for itself; none where ranks share what there is.
    pub(crate) own_cpus: Option<usize>,
    /// More ranks than slots or CPUs: they may be started, and give way while they wait.
    pub(crate) crowded: bool,
    /// In the launcher's own form.
    pub(crate) hostfile: Option<&'a Path>,
    /// What starts a program on a host, in place of ssh.
    pub(crate) agent: Option<&'a str>,
    /// In a job of SLURM, of which not all nodes are used, or not those of this job alone.
    pub(crate) in_slurm: bool,
    /// Of the hostfile.
    pub(crate) hosts: usize,
    /// Variables that reach ranks on all hosts.
    pub(crate) variables: &'a [String],
    /// The library that the program needs, where it is known.
    pub(crate) family: Option<Family>,
    /// Ranks go on after the loss of others, where the launcher [can](Launcher::survives_losses).
    pub(crate) survives: bool,
}

impl Launcher {
    /// `SPMD_MPIRUN`, else the first of the PATH that fits the library; else the first.
    ///
    /// # Errors
    /// If there is none, in words.
    pub(crate) fn mpirun(wanted: Option<Family>) -> Result<Self, String> {
        const NAMES: [&str; 5] =
            ["mpirun", "mpiexec", "mpirun.openmpi", "mpiexec.hydra", "mpirun.mpich"];
        if let Some(name) = env::var("SPMD_MPIRUN").ok().filter(|name| !name.is_empty()) {
            return Self::ask(&name).ok_or_else(|| {
                format!("{name} (SPMD_MPIRUN) is no launcher of Open MPI, MPICH or Intel MPI")
            });
        }
        let all: Vec<Self> = NAMES.into_iter().filter_map(Self::ask).collect();
        let fits = |launcher: &&Self| wanted.is_none_or(|wanted| launcher.family() == Some(wanted));
        if let Some(found) = all.iter().find(fits) {
            return Ok(found.clone());
        }
        match (all.first(), wanted) {
            (Some(other), Some(wanted)) => Err(format!(
                "the program is linked with {wanted}, and {} is {}: every rank would be alone\n  help: put {wanted}'s \
                 mpirun first in the PATH, or set SPMD_MPIRUN to it",
                other.program, other.version
            )),
            _ => Err("there is no mpirun in the PATH\n  help: scripts/setup.sh installs one; on a cluster, load its \
                      module"
                .to_owned()),
        }
    }

    /// SLURM's.
    ///
    /// # Errors
    /// If it is not there, in words.
    pub(crate) fn srun() -> Result<Self, String> {
        let version = said("srun").ok_or("there is no srun in the PATH: is SLURM here?")?;
        Ok(Self { kind: Kind::Srun, program: "srun".to_owned(), version })
    }

    /// The launcher of this name, if it is one.
    fn ask(name: &str) -> Option<Self> {
        let text = said(name)?;
        let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let number = |line: &str| -> Option<u32> {
            let word = line.split_whitespace().find(|word| word.contains('.'))?;
            word.split('.').next()?.parse().ok()
        };
        // `mpirun (Open MPI) 4.1.4`; `HYDRA build details:` and `Version: 4.0`; `Intel(R) MPI Library ...`.
        let (kind, version) = if text.contains("Open MPI") || text.contains("OpenRTE") {
            let version = first.replace("mpirun (Open MPI)", "Open MPI");
            (Kind::OpenMpi(number(first).unwrap_or(4)), version.replace("mpiexec ", ""))
        } else if text.contains("Intel(R) MPI") {
            (Kind::Hydra, first.trim().to_owned())
        } else if text.contains("HYDRA") {
            let version = text.lines().find_map(|line| line.trim().strip_prefix("Version:"));
            (Kind::Hydra, format!("MPICH {}", version.unwrap_or("?").trim()))
        } else {
            return None;
        };
        Some(Self { kind, program: name.to_owned(), version })
    }

    pub(crate) fn family(&self) -> Option<Family> {
        match self.kind {
            Kind::OpenMpi(_) => Some(Family::OpenMpi),
            Kind::Hydra => Some(Family::Mpich),
            Kind::Srun => None,
        }
    }

    /// Whether ranks can go on after the loss of others: by Open MPI's ULFM.
    pub(crate) fn survives_losses(&self) -> bool {
        matches!(self.kind, Kind::OpenMpi(major) if major >= 5)
    }

    /// All words before the program.
    pub(crate) fn words(&self, layout: &Layout<'_>) -> Vec<String> {
        let mut words = Words(vec![self.program.clone(), "-n".into(), layout.ranks.to_string()]);
        match self.kind {
            Kind::OpenMpi(major) => of_open_mpi(&mut words, major, layout),
            Kind::Hydra => {
                match layout.own_cpus {
                    Some(count) => words.add(&["-bind-to", &format!("core:{count}")]),
                    None => words.add(&["-bind-to", "none"]),
                }
                if let Some(file) = layout.hostfile {
                    words.add(&["-f", &file.to_string_lossy()]);
                }
                if let Some(agent) = layout.agent {
                    words.add(&["-launcher", "ssh", "-launcher-exec", agent]);
                }
            }
            Kind::Srun => {
                let name = match layout.family {
                    Some(Family::OpenMpi) => Some("--mpi=pmix"),
                    Some(Family::Mpich) => Some("--mpi=pmi2"),
                    None => None,
                };
                words.add(&name.into_iter().collect::<Vec<_>>());
                if let Some(file) = layout.hostfile {
                    // A line for each rank: else it takes the first nodes of the job.
                    words.add(&["-w", &file.to_string_lossy(), "--distribution=arbitrary"]);
                    words.add(&[&format!("--nodes={}", layout.hosts)]);
                }
                if layout.in_slurm {
                    // Beside what watches it, and before SLURM knows that a start before it is over.
                    words.add(&["--overlap"]);
                }
                // A rank that fails has the others ended, whatever its code.
                words.add(&["--kill-on-bad-exit=1"]);
                match layout.own_cpus {
                    Some(count) => {
                        words.add(&[&format!("--cpus-per-task={count}"), "--cpu-bind=cores"]);
                    }
                    None => words.add(&["--overcommit", "--cpu-bind=none"]),
                }
            }
        }
        words.0
    }
}

fn of_open_mpi(words: &mut Words, major: u32, layout: &Layout<'_>) {
    // The launcher's own settings have moved to PRRTE.
    let (setting, agent) =
        if major >= 5 { ("--prtemca", "plm_ssh_agent") } else { ("--mca", "plm_rsh_agent") };
    match layout.own_cpus {
        Some(count) => {
            words.add(&["--map-by", &format!("slot:PE={count}"), "--bind-to", "core"]);
        }
        None => words.add(&["--bind-to", "none"]),
    }
    if layout.crowded {
        words.add(&["--oversubscribe", "--mca", "mpi_yield_when_idle", "1"]);
    }
    if geteuid().is_root() {
        words.add(&["--allow-run-as-root"]);
    }
    if layout.survives {
        words.add(&["--with-ft", "ulfm"]);
    }
    if let Some(file) = layout.hostfile {
        words.add(&["--hostfile", &file.to_string_lossy()]);
        // A host that dies says nothing: it is asked after a while of silence.
        for (name, value) in [("time", "6"), ("intvl", "2"), ("probes", "3")] {
            words.add(&[setting, &format!("oob_tcp_keepalive_{name}"), value]);
        }
    }
    if let Some(program) = layout.agent {
        words.add(&[setting, agent, program]);
    }
    if layout.in_slurm {
        // It would take the nodes of the job, with those that are lost. One daemon starts no others, and what srun
        // has started may not leave it.
        let launch = if major >= 5 { "ssh" } else { "rsh" };
        words.add(&[setting, "ras", "^slurm", setting, "plm", launch, "--leave-session-attached"]);
        words.add(&[setting, &format!("plm_{launch}_no_tree_spawn"), "1"]);
    }
    for name in layout.variables {
        words.add(&["-x", name]);
    }
}

/// What is collected.
struct Words(Vec<String>);

impl Words {
    fn add(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(|&word| word.to_owned()));
    }
}

/// What a launcher says of its version.
fn said(name: &str) -> Option<String> {
    let output = Command::new(name).arg("--version").stdin(Stdio::null()).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A word of a line of shell.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "_@%+=:,./-".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(kind: Kind, layout: &Layout<'_>) -> String {
        let launcher = Launcher { kind, program: "mpirun".to_owned(), version: String::new() };
        launcher.words(layout).join(" ").replace("--allow-run-as-root ", "")
    }

    #[test]
    fn each_launcher_has_words_of_its_own() {
        let two = Layout { ranks: 2, own_cpus: Some(3), ..Layout::default() };
        let bound = words(Kind::OpenMpi(4), &two);
        assert!(bound.starts_with("mpirun -n 2 --map-by slot:PE=3 --bind-to core"), "{bound}");
        assert_eq!(words(Kind::Hydra, &two), "mpirun -n 2 -bind-to core:3");
        let pmix = Layout { family: Some(Family::OpenMpi), ..two };
        let line = words(Kind::Srun, &pmix);
        assert!(line.contains("--mpi=pmix") && line.contains("--cpus-per-task=3"), "{line}");
        let crowd = Layout { ranks: 8, crowded: true, ..Layout::default() };
        let line = words(Kind::OpenMpi(5), &crowd);
        assert!(
            line.contains("--bind-to none --oversubscribe --mca mpi_yield_when_idle 1"),
            "{line}"
        );
        assert!(words(Kind::Srun, &crowd).contains("--overcommit"));
    }

    #[test]
    fn hosts_agents_and_variables_are_told_in_the_launchers_form() {
        let names = ["SPMD_THREADS".to_owned()];
        let hosts = Layout {
            ranks: 4,
            hostfile: Some(Path::new("hosts")),
            agent: Some("/bin/enter"),
            variables: &names,
            ..Layout::default()
        };
        let four = words(Kind::OpenMpi(4), &hosts);
        assert!(four.contains("--hostfile hosts --mca oob_tcp_keepalive_time 6"), "{four}");
        assert!(four.contains("--mca plm_rsh_agent /bin/enter -x SPMD_THREADS"), "{four}");
        let five = words(Kind::OpenMpi(5), &hosts);
        assert!(five.contains("--prtemca plm_ssh_agent /bin/enter"), "{five}");
        assert!(!five.contains("ulfm"), "{five}");
        let five = words(Kind::OpenMpi(5), &Layout { survives: true, ..hosts });
        assert!(five.contains("--with-ft ulfm"), "{five}");
        let in_slurm = Layout { in_slurm: true, hosts: 2, ..hosts };
        let line = words(Kind::Srun, &in_slurm);
        assert!(line.contains("-w hosts --distribution=arbitrary --nodes=2 --overlap"), "{line}");
        let line = words(Kind::OpenMpi(4), &in_slurm);
        assert!(line.contains("--mca ras ^slurm --mca plm rsh --leave-session-attached"), "{line}");
        let hydra = words(Kind::Hydra, &hosts);
        assert!(hydra.ends_with("-f hosts -launcher ssh -launcher-exec /bin/enter"), "{hydra}");
    }

    #[test]
    fn programs_are_told_apart_by_their_libraries() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("program");
        let is = |bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            linked(&file)
        };
        assert_eq!(is(b"\x7fELF...libc.so.6\0libmpi.so.40\0"), Linked::With(Family::OpenMpi));
        assert_eq!(is(b"\x7fELF...\0libmpi.so.12\0libc.so.6"), Linked::With(Family::Mpich));
        assert_eq!(is(b"\x7fELF...\0libc.so.6\0"), Linked::Without);
        assert_eq!(is(b"#!/bin/sh\nexec libmpi.so.40"), Linked::Unknown);
        let error = program(OsStr::new("./nowhere/to-be-found")).unwrap_err();
        assert!(error.contains("is not there"), "{error}");
        assert!(program(OsStr::new("sh")).unwrap().is_absolute());
    }

    #[test]
    fn words_survive_the_shell() {
        for word in ["plain", "", "it's", "a b", "$HOME", "{1000*p}"] {
            let line = format!("printf %s {}", quoted(word));
            let output = Command::new("sh").args(["-c", &line]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), word);
        }
    }
}
