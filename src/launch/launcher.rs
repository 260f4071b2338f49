//! Who started this process: an MPI launcher, or nobody.

use std::env;

const OPEN_MPI: &str = "Open MPI mpirun";
const MPICH: &str = "MPICH mpiexec";

/// The launcher that started this process as one of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Launcher {
    pub(crate) name: &'static str,
    /// This process's number among those started.
    pub(crate) rank: usize,
    /// How many were started, if the launcher says so.
    pub(crate) size: Option<usize>,
    /// The launcher's option that gives a rank more CPUs.
    pub(crate) binding_option: &'static str,
}

impl Launcher {
    /// The launcher, by the variables it sets. What a rank starts inherits them and is no rank.
    pub(crate) fn detect() -> Option<Self> {
        Self::from_variables(|name| env::var(name).ok()).filter(|_| !is_inside_a_rank())
    }

    /// Whether other processes were started beside this one.
    pub(crate) fn has_others(&self) -> bool {
        self.size.is_some_and(|size| size > 1)
    }

    /// This process, in reports of what happens before MPI has given it a rank.
    pub(crate) fn who(&self) -> String {
        format!("rank {} on {}", self.rank, crate::placement::host())
    }

    /// What the launcher says of its version in the variables that it sets. (The one that `PATH`
    /// finds now may be another.)
    pub(crate) fn version(&self) -> Option<String> {
        self.version_by(|name| env::var(name).ok())
    }

    fn version_by(&self, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
        // Users set OMPI_VERSION too; a launcher that does sets the other one as well.
        let own = || variable("OMPI_TOOL_NAME").and_then(|_| variable("OMPI_VERSION"));
        let own = if self.name == OPEN_MPI { own() } else { None };
        // Launchers that speak PMIx say which; others hand on what they find.
        let speaks = self.name != MPICH && variable("PMIX_RANK").is_some();
        let pmix = if speaks { variable("PMIX_VERSION") } else { None };
        match (own, pmix) {
            (Some(own), Some(pmix)) => Some(format!("{own}, PMIx {pmix}")),
            (own, pmix) => own.or(pmix.map(|pmix| format!("PMIx {pmix}"))),
        }
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let number = |name: &str| variable(name)?.parse::<usize>().ok();
        if let Some(rank) = number("OMPI_COMM_WORLD_RANK") {
            let size = number("OMPI_COMM_WORLD_SIZE");
            let binding_option = "--bind-to none, or --map-by slot:PE=<threads>";
            return Some(Self { name: OPEN_MPI, rank, size, binding_option });
        }
        let step = variable("SLURM_STEP_ID").and_then(|_| number("SLURM_PROCID"));
        let tasks = number("SLURM_STEP_NUM_TASKS");
        if let Some(rank) = number("PMI_RANK").or_else(|| number("PMIX_RANK")) {
            let size = number("PMI_SIZE");
            // In an allocation MPICH's mpiexec starts its proxies by srun, as a step of one task
            // per host.
            if step.is_some() && variable("MPI_LOCALNRANKS").is_none() {
                return Some(Self { size: size.or(tasks), ..Self::srun(rank) });
            }
            return Some(Self { name: MPICH, rank, size, binding_option: "-bind-to none" });
        }
        // A shell inside a one-task step is no launch; several tasks are, also without --mpi.
        let rank = step.filter(|_| tasks.is_some_and(|tasks| tasks > 1))?;
        Some(Self { size: tasks, ..Self::srun(rank) })
    }

    fn srun(rank: usize) -> Self {
        Self { name: "srun", rank, size: None, binding_option: "--cpus-per-task=<threads>" }
    }
}

/// The batch job that this process belongs to: the system and its number for it.
pub(crate) fn batch_job() -> Option<String> {
    batch_job_by(|name| env::var(name).ok().filter(|value| !value.is_empty()))
}

fn batch_job_by(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    if let Some(job) = variable("SLURM_JOB_ID") {
        let part = variable("SLURM_ARRAY_JOB_ID").zip(variable("SLURM_ARRAY_TASK_ID"));
        let part = part.map(|(array, task)| format!(" ({array}_{task})")).unwrap_or_default();
        return Some(format!("SLURM {job}{part}"));
    }
    let systems = [("PBS", "PBS_JOBID"), ("LSF", "LSB_JOBID"), ("Flux", "FLUX_JOB_ID")];
    let job = |(system, name)| Some(format!("{system} {}", variable(name)?));
    systems.into_iter().find_map(job)
}

/// Whether a process above this one is the rank that the launcher's variables tell of: MPI would
/// take this one for the same, and hang, or break the connection of the real one.
#[cfg(target_os = "linux")]
fn is_inside_a_rank() -> bool {
    use std::fs;

    /// What says which rank of which job a process is.
    const SEATS: [&str; 7] = [
        "OMPI_COMM_WORLD_RANK",
        "PMIX_NAMESPACE",
        "PMIX_RANK",
        "PMI_RANK",
        "PMI_FD",
        "SLURM_STEP_ID",
        "SLURM_PROCID",
    ];
    let own: Vec<(&str, String)> =
        SEATS.iter().filter_map(|&name| Some((name, env::var(name).ok()?))).collect();
    let has_the_same = |environment: &[u8]| {
        own.iter().all(|(name, value)| {
            let wanted = format!("{name}={value}");
            environment.split(|&byte| byte == 0).any(|line| line == wanted.as_bytes())
        })
    };
    let mut process = std::os::unix::process::parent_id();
    // Where the system does not let this process look, nothing is known. The launcher's own
    // processes have no seat.
    while let Ok(environment) = fs::read(format!("/proc/{process}/environ"))
        && has_the_same(&environment)
    {
        // A shell in between has the variables, but not the library.
        if fs::read_to_string(format!("/proc/{process}/maps"))
            .is_ok_and(|maps| maps.contains("/libmpi"))
        {
            return true;
        }
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        match parent.and_then(|parent| parent.trim().parse().ok()) {
            Some(parent) if parent > 1 => process = parent,
            _ => return false,
        }
    }
    false
}

#[cfg(not(target_os = "linux"))]
fn is_inside_a_rank() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(variables: &[(&str, &str)]) -> Option<(&'static str, usize, Option<usize>)> {
        let value = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Launcher::from_variables(value)
            .map(|launcher| (launcher.name, launcher.rank, launcher.size))
    }

    #[test]
    fn launchers_are_known_by_their_variables() {
        assert_eq!(detect(&[]), None);
        let open_mpi =
            [("OMPI_COMM_WORLD_RANK", "3"), ("OMPI_COMM_WORLD_SIZE", "8"), ("PMIX_RANK", "3")];
        assert_eq!(detect(&open_mpi), Some(("Open MPI mpirun", 3, Some(8))));
        assert_eq!(
            detect(&[("PMI_RANK", "1"), ("PMI_SIZE", "2")]),
            Some(("MPICH mpiexec", 1, Some(2)))
        );
    }

    #[test]
    fn a_launchers_version_is_what_it_says_itself() {
        let version = |variables: &[(&str, &str)]| {
            let value = |name: &str| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            };
            Launcher::from_variables(value).unwrap().version_by(value)
        };
        let rank = [("OMPI_COMM_WORLD_RANK", "3"), ("OMPI_VERSION", "9.9")];
        assert_eq!(version(&rank), None, "a user's variable");
        let pmix = [("PMIX_RANK", "3"), ("PMIX_VERSION", "4.2.2")];
        assert_eq!(version(&[&rank[..], &pmix].concat()), Some("PMIx 4.2.2".to_owned()));
        let tool = [("OMPI_TOOL_NAME", "mpirun")];
        let all = [&rank[..], &pmix, &tool].concat();
        assert_eq!(version(&all), Some("9.9, PMIx 4.2.2".to_owned()));
        let mpich = [("PMI_RANK", "1"), ("PMIX_VERSION", "4.2.2"), ("OMPI_VERSION", "9.9")];
        assert_eq!(version(&mpich), None);
    }

    #[test]
    fn a_batch_job_has_its_systems_number() {
        let job = |variables: &[(&str, &str)]| {
            batch_job_by(|name: &str| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(job(&[]), None);
        assert_eq!(job(&[("SLURM_JOB_ID", "17")]).unwrap(), "SLURM 17");
        let array = [("SLURM_ARRAY_JOB_ID", "16"), ("SLURM_ARRAY_TASK_ID", "2")];
        let array = [&[("SLURM_JOB_ID", "17")][..], &array].concat();
        assert_eq!(job(&array).unwrap(), "SLURM 17 (16_2)");
        assert_eq!(job(&[("PBS_JOBID", "8.server")]).unwrap(), "PBS 8.server");
        assert_eq!(job(&[("LSB_JOBID", "9")]).unwrap(), "LSF 9");
        assert_eq!(job(&[("FLUX_JOB_ID", "f2")]).unwrap(), "Flux f2");
    }

    #[test]
    fn slurm_counts_with_several_tasks_or_a_process_manager() {
        let step = [("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "1"), ("SLURM_STEP_NUM_TASKS", "4")];
        assert_eq!(detect(&step), Some(("srun", 1, Some(4))));
        let shell = [("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "1")];
        assert_eq!(detect(&shell), None);
        assert_eq!(detect(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")]), None, "a batch script");
        let pmi = [step.as_slice(), &[("PMI_RANK", "1"), ("PMI_SIZE", "4")]].concat();
        assert_eq!(detect(&pmi), Some(("srun", 1, Some(4))));
        let pmix = [shell.as_slice(), &[("PMIX_RANK", "0")]].concat();
        assert_eq!(detect(&pmix), Some(("srun", 0, Some(1))));
    }

    #[test]
    fn a_step_of_proxies_is_not_the_job() {
        let proxy = [("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "1"), ("SLURM_STEP_NUM_TASKS", "2")];
        let rank = [("PMI_RANK", "5"), ("PMI_SIZE", "8"), ("MPI_LOCALNRANKS", "4")];
        let both = [proxy, rank].concat();
        assert_eq!(detect(&both), Some(("MPICH mpiexec", 5, Some(8))));
    }
}
