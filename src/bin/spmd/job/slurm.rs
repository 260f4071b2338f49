//! Scripts for SLURM.

use super::{
    Names,
    options::{Launcher, Slurm},
    program,
    template::fill,
    time,
};

const TEMPLATE: &str = include_str!("slurm.sh");

const TAKES_ANY: &str = "\
# A batch job of an spmd program under SLURM, written by `spmd job slurm`:
#
#     sbatch job.sbatch target/release/examples/heat2d --size 8192,8192 --steps 1000";

const HAS_ITS_OWN: &str = "\
# A batch job for SLURM, written by `spmd job slurm`; sbatch takes it. What stands behind it there is handed on to the program.";

const CAN_BE_TOLD: &str = "\
# told, here five minutes ahead (in a job of more than five): sbatch --signal=B:USR1@300 ...
# The tasks of an array know their number, but not before they run:
# sbatch --array=0-9 job.sbatch sh -c 'exec ./program --seed \"$SLURM_ARRAY_TASK_ID\"'";

const IS_TOLD: &str = "# told, which --signal does here.";

/// What gets over lost ranks and nodes.
fn supervised(restarts: u32) -> String {
    format!(
        "\
# Gets over lost ranks and nodes inside this job, and reaches the nodes by srun.
command=(spmd run --restarts {restarts} --launcher \"$launcher\")
[ \"$cpus\" -eq 1 ] || command+=(--threads \"$cpus\")

"
    )
}

/// SLURM keeps this in 16 bits.
const LONGEST_NOTICE: u64 = 65535;

pub(super) fn script(options: &Slurm) -> Result<String, String> {
    let Slurm { common, site, launcher, restarts } = options;
    let before = common.seconds_before()?;
    if before.is_some_and(|seconds| seconds > LONGEST_NOTICE) {
        return Err(format!("SLURM tells a job at most {LONGEST_NOTICE} s ahead (--stop-before)"));
    }
    let array = common.array();
    let more = [
        common.queue.as_ref().map(|queue| format!("#SBATCH --partition={queue}\n")),
        site.account.as_ref().map(|account| format!("#SBATCH --account={account}\n")),
        (!array.is_empty()).then(|| format!("#SBATCH --array=0-{}\n", array.len() - 1)),
        // To the script alone, which hands it on.
        before.map(|seconds| format!("#SBATCH --signal=B:USR1@{seconds}\n")),
        restarts.map(|_| "#SBATCH --no-kill\n".to_owned()),
    ];
    let program = program(
        common,
        &Names {
            submit: "sbatch",
            task: "task=${SLURM_ARRAY_TASK_ID:-}",
            tasks: |last| format!("sbatch --array=0-{last} FILE"),
        },
    )?;
    let words = [
        ("NAME", common.name.as_str()),
        ("NODES", &common.nodes.to_string()),
        ("RANKS_PER_NODE", &common.ranks_per_node.to_string()),
        ("THREADS", &common.threads.to_string()),
        ("TIME", &time::for_slurm(common.time)),
        ("LOG", if array.is_empty() { "%x-%j.log" } else { "%x-%A_%a.log" }),
        ("MODULES", &site.modules.join(" ")),
        ("LAUNCHER", if *launcher == Launcher::Srun { "srun" } else { "mpirun" }),
    ];
    let parts = [
        ("about", if common.program.is_empty() { TAKES_ANY } else { HAS_ITS_OWN }),
        ("told", if before.is_some() { IS_TOLD } else { CAN_BE_TOLD }),
        ("more", &more.into_iter().flatten().collect::<String>()),
        ("program", &program),
        ("restarts", &restarts.map_or_else(String::new, supervised)),
    ];
    Ok(fill(TEMPLATE, &words, &parts))
}
