//! Jobs for Kubernetes, by Kubeflow's MPI operator.

use super::{
    commands,
    options::{Kubernetes, Mpi},
    quote,
    template::fill,
};

const TEMPLATE: &str = include_str!("kubernetes.yaml");

const LAUNCHER: &str = include_str!("launcher.sh");

/// Where the volume is that all pods share.
const SHARED: &str = "/data";

/// A host that dies says nothing: Open MPI asks after 3 s of silence, and gives it up after 3
/// questions.
const KEEPALIVE: [(&str, u8); 3] = [
    ("OMPI_MCA_oob_tcp_keepalive_time", 3),
    ("OMPI_MCA_oob_tcp_keepalive_intvl", 1),
    ("OMPI_MCA_oob_tcp_keepalive_probes", 3),
];

/// A manifest; one document for each size of an array.
pub(super) fn manifest(options: &Kubernetes) -> Result<String, String> {
    let common = &options.common;
    if common.program.is_empty() {
        return Err(
            "no program given\n  help: spmd job kubernetes ... -- PROGRAM [ARGUMENT]...".to_owned()
        );
    }
    let commands = commands(common)?;
    let jobs = commands.iter().enumerate().map(|(number, command)| {
        let name = match common.array().len() {
            0 => common.name.clone(),
            _ => format!("{}-{number}", common.name),
        };
        job(options, &name, command)
    });
    Ok(jobs.collect::<Result<Vec<_>, _>>()?.join("---\n"))
}

fn job(options: &Kubernetes, name: &str, command: &[String]) -> Result<String, String> {
    let Kubernetes { common, image, mpi, memory, claim } = options;
    check_name(name, common.nodes.get())?;
    let before = common.seconds_before()?;
    let arguments: Vec<_> =
        command.iter().map(|word| format!("- {}", quote::yaml(&quote::kubernetes(word)))).collect();
    let ranks = common.ranks();
    let (mpi_name, mpirun) = match mpi {
        // A pod has time on all cores of its host, not cores of its own: nothing is bound.
        Mpi::Open => (
            "OpenMPI",
            format!(
                "mpirun -n {ranks} --hostfile /etc/mpi/hostfile --bind-to none \
                 -x SPMD_THREADS -x RAYON_NUM_THREADS -x OMP_NUM_THREADS"
            ),
        ),
        // They know the hosts, and hand all variables on, by themselves.
        Mpi::Mpich => ("MPICH", format!("mpirun -n {ranks}")),
        Mpi::Intel => ("Intel", format!("mpirun -n {ranks}")),
    };
    let launcher = fill(LAUNCHER, &[("MPIRUN", &mpirun)], &[]);
    let keepalive =
        KEEPALIVE.map(|(name, value)| format!("- name: {name}\n  value: \"{value}\"\n"));
    let of_claim = |text: &dyn Fn(&str) -> String| claim.as_deref().map_or(String::new(), text);
    let words = [
        ("NAME", name),
        ("NODES", &common.nodes.to_string()),
        ("RANKS_PER_NODE", &common.ranks_per_node.to_string()),
        ("THREADS", &common.threads.to_string()),
        ("CPUS", &common.ranks_per_node.get().saturating_mul(common.threads.get()).to_string()),
        ("TIME", &common.time.as_secs().to_string()),
        ("IMAGE", &quote::yaml(image)),
        ("MPI", mpi_name),
        ("RESTART", if before.is_some() { "OnFailure" } else { "Never" }),
    ];
    let parts = [
        (
            "queue",
            &*common.queue.as_ref().map_or(String::new(), |queue| {
                format!("labels:\n  kueue.x-k8s.io/queue-name: {}", quote::yaml(queue))
            }),
        ),
        // What was stopped, or has lost a host, is tried again as often as other jobs are.
        ("backoff", if before.is_some() { "backoffLimit: 6" } else { "backoffLimit: 0" }),
        (
            "grace",
            &before.map_or(String::new(), |seconds| {
                format!("terminationGracePeriodSeconds: {seconds}")
            }),
        ),
        ("launcher", &quote::kubernetes(&launcher)),
        ("arguments", &arguments.join("\n")),
        ("variables", &if *mpi == Mpi::Open { keepalive.concat() } else { String::new() }),
        (
            "memory",
            &memory
                .as_ref()
                .map_or(String::new(), |memory| format!("memory: {}", quote::yaml(memory))),
        ),
        ("directory", &of_claim(&|_| format!("workingDir: {SHARED}"))),
        (
            "mounts",
            &of_claim(&|_| format!("volumeMounts:\n  - name: shared\n    mountPath: {SHARED}")),
        ),
        (
            "volumes",
            &of_claim(&|claim| {
                format!(
                    "volumes:\n  - name: shared\n    persistentVolumeClaim:\n      claimName: {}",
                    quote::yaml(claim)
                )
            }),
        ),
    ];
    Ok(fill(TEMPLATE, &words, &parts))
}

/// The operator names pods after the job and their number, and each is a host's name.
fn check_name(name: &str, nodes: usize) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let host = format!("{name}-worker-{}", nodes - 1);
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(plain) {
        return Err(format!(
            "{name} is no name of a host, which Kubernetes makes of it\n  \
             help: --name with small letters, digits and -, a letter first"
        ));
    }
    if host.len() > 63 {
        return Err(format!("{host} is too long for the name of a host\n  help: a shorter --name"));
    }
    Ok(())
}
