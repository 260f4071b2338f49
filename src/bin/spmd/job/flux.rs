//! Scripts for Flux.

use super::{Names, options::Flux, program, template::fill};

const TEMPLATE: &str = include_str!("flux.sh");

const TAKES_ANY: &str = "\
# A batch job of an spmd program under Flux, written by `spmd job flux`:
#
#     flux batch job.flux target/release/examples/heat2d --size 8192,8192 --steps 1000";

const HAS_ITS_OWN: &str = "\
# A batch job for Flux, written by `spmd job flux`; flux batch takes it. What stands behind it there is handed on to the program.";

/// How long before the end of its time a program stops where nobody says, in seconds.
const BEFORE: u64 = 30;

pub(super) fn script(options: &Flux) -> Result<String, String> {
    let Flux { common, site } = options;
    let before = common.seconds_before()?.unwrap_or(BEFORE);
    let array = common.array();
    let more = [
        common.queue.as_ref().map(|queue| format!("#flux: --queue={queue}\n")),
        site.account.as_ref().map(|account| format!("#flux: --bank={account}\n")),
    ];
    let program = program(
        common,
        &Names {
            submit: "flux batch",
            task: "task=${1:-}\n[ $# -eq 0 ] || shift",
            tasks: |last| format!("flux batch FILE TASK, a number from 0 to {last}"),
        },
    )?;
    let words = [
        ("NAME", common.name.as_str()),
        ("NODES", &common.nodes.to_string()),
        ("RANKS", &common.ranks().to_string()),
        ("RANKS_PER_NODE", &common.ranks_per_node.to_string()),
        ("THREADS", &common.threads.to_string()),
        ("TIME", &common.time.as_secs().to_string()),
        ("BEFORE", &before.to_string()),
        ("MODULES", &site.modules.join(" ")),
    ];
    let about = match (common.program.is_empty(), array.len()) {
        (true, _) => TAKES_ANY.to_owned(),
        (false, 0) => HAS_ITS_OWN.to_owned(),
        (false, count) => format!(
            "# Batch jobs for Flux, one for each size, written by `spmd job flux`; flux batch takes it and a task's number:\n#\n#     \
             for task in $(seq 0 {}); do flux batch FILE \"$task\"; done\n#\n\
             # What stands behind that is handed on to the program.",
            count - 1
        ),
    };
    let parts = [
        ("about", about.as_str()),
        ("more", &more.into_iter().flatten().collect::<String>()),
        ("program", &program),
    ];
    Ok(fill(TEMPLATE, &words, &parts))
}
