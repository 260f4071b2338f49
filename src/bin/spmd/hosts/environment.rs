//! The hosts that a batch system has given to the job that this process belongs to.

use std::{env, path::Path};

use super::{Host, MOST_HOSTS, list, merge, read_file};

/// The hosts of a job of SLURM, PBS or LSF, with its ranks on each as slots; nothing outside of
/// such jobs.
///
/// # Errors
/// Names the variable that cannot be understood.
pub(crate) fn from_environment() -> Result<Option<Vec<Host>>, String> {
    from_variables(|name| env::var(name).ok().filter(|value| !value.is_empty()))
}

fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Vec<Host>>, String> {
    if let Some(nodes) = variable("SLURM_JOB_NODELIST") {
        return slurm(&nodes, variable("SLURM_TASKS_PER_NODE").as_deref()).map(Some);
    }
    if let Some(file) = variable("PBS_NODEFILE") {
        // A line for each rank.
        let mut hosts =
            read_file(Path::new(&file)).map_err(|what| format!("PBS_NODEFILE: {what}"))?;
        for host in &mut hosts {
            host.slots = host.slots.or(Some(1));
        }
        return Ok(Some(hosts));
    }
    variable("LSB_MCPU_HOSTS").map(|hosts| lsf(&hosts)).transpose()
}

fn slurm(nodes: &str, tasks: Option<&str>) -> Result<Vec<Host>, String> {
    let named = list::named(nodes, MOST_HOSTS);
    let mut hosts = named.map_err(|what| format!("SLURM_JOB_NODELIST: {what}"))?;
    if let Some(tasks) = tasks {
        let about = |what| format!("SLURM_TASKS_PER_NODE: {what}");
        let counts = list::parse_counts(tasks).map_err(about)?;
        if counts.len() != hosts.len() {
            return Err(about(format!(
                "`{tasks}` counts the tasks of {} hosts, and SLURM_JOB_NODELIST names {}",
                counts.len(),
                hosts.len()
            )));
        }
        for (host, count) in hosts.iter_mut().zip(counts) {
            host.slots = Some(count);
        }
    }
    merge(hosts).map_err(|what| format!("SLURM_TASKS_PER_NODE: {what}"))
}

/// `a 4 b 2`
fn lsf(text: &str) -> Result<Vec<Host>, String> {
    let about = |what| format!("LSB_MCPU_HOSTS: {what}");
    let words: Vec<_> = text.split_whitespace().collect();
    let (pairs, rest) = words.as_chunks::<2>();
    if pairs.is_empty() || !rest.is_empty() {
        return Err(about(format!("`{text}` is no list of hosts and their slots, like `a 4 b 2`")));
    }
    let list: Vec<_> = pairs.iter().map(|[name, slots]| format!("{name}:{slots}")).collect();
    list::named(&list.join(","), MOST_HOSTS).and_then(merge).map_err(about)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The hosts of `NAME=value` lines, as `name:slots` in one line.
    fn hosts(variables: &[(&str, &str)]) -> Result<Option<String>, String> {
        let value = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let hosts = from_variables(value)?;
        Ok(hosts.map(|hosts| super::super::file::in_one_line(&hosts)))
    }

    #[test]
    fn a_job_has_the_hosts_of_its_batch_system() {
        assert_eq!(hosts(&[]), Ok(None));
        let nodes = ("SLURM_JOB_NODELIST", "n[001-003,07]");
        assert_eq!(hosts(&[nodes]).unwrap().unwrap(), "n[001-003,07]");
        let tasks = ("SLURM_TASKS_PER_NODE", "2(x3),1");
        assert_eq!(hosts(&[nodes, tasks]).unwrap().unwrap(), "n[001-003]:2,n07:1");
        assert_eq!(hosts(&[("LSB_MCPU_HOSTS", "a 4 b 2 ")]).unwrap().unwrap(), "a:4,b:2");
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("nodes");
        fs::write(&file, "a\nb\na\n").unwrap();
        assert_eq!(hosts(&[("PBS_NODEFILE", file.to_str().unwrap())]).unwrap().unwrap(), "a:2,b:1");
    }

    #[test]
    fn what_a_batch_system_got_wrong_is_named() {
        let nodes = ("SLURM_JOB_NODELIST", "n[1-3]");
        for (variables, expected) in [
            (
                &[("SLURM_JOB_NODELIST", "n[1-")][..],
                "SLURM_JOB_NODELIST: character 2, `[1-`: the bracket",
            ),
            (&[nodes, ("SLURM_TASKS_PER_NODE", "2(x")], "SLURM_TASKS_PER_NODE: character 1, `2(x`"),
            (
                &[nodes, ("SLURM_TASKS_PER_NODE", "2(x2)")],
                "`2(x2)` counts the tasks of 2 hosts, and SLURM_JOB_NODELIST names 3",
            ),
            (&[("LSB_MCPU_HOSTS", "a 4 b")], "LSB_MCPU_HOSTS: `a 4 b` is no list of hosts"),
            (&[("LSB_MCPU_HOSTS", "a x")], "LSB_MCPU_HOSTS: character 3, `x`: not a number"),
            (
                &[("PBS_NODEFILE", "/no/such/file")],
                "PBS_NODEFILE: cannot read the hostfile /no/such/file: ",
            ),
        ] {
            let said = hosts(variables).unwrap_err();
            assert!(said.contains(expected), "{said}");
        }
    }
}
