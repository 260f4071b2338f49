//! `spmd tour --faults`: a run on four hosts, of which one crashes, one is drained, and one comes in,
//! while it runs.

mod director;
mod page;
mod story;
mod survivor;

use std::{
    env,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use spmd::io::write_whole;

pub(crate) use self::{
    director::{Director, direct},
    survivor::{Survivor, run as run_survivor},
};
use self::{
    story::{Host, Story},
    survivor::RESULT,
};
use super::{
    Options,
    forms::{hosts_can_be_made, write_script},
    scratch,
};
use crate::launcher::{Kind, Launcher};

/// Shows what becomes of a run on hosts that come and go; whether its result is that of an undisturbed
/// one.
///
/// # Errors
/// In words: also where no hosts can be made.
pub(super) fn run(options: &Options, out: &mut dyn Write) -> Result<bool, String> {
    let printed = |done: io::Result<()>| done.map_err(|error| format!("cannot print: {error}"));
    if cfg!(not(feature = "mpi")) {
        return Err("hosts need MPI, which this spmd was built without\n  help: `scripts/setup.sh` installs one, then \
                    `cargo run --release --features mpi -- tour --faults`; without hosts, see \
                    `cargo run --release --example resilient_heat2d -- -n 4 --inject 2@0.5s`"
            .to_owned());
    }
    if !matches!(Launcher::mpirun(None)?.kind, Kind::OpenMpi(_)) || !hosts_can_be_made() {
        return Err(
            "hosts are made out of namespaces here: as root, on Linux, with Open MPI".to_owned()
        );
    }
    let scratch = scratch()?;
    let script = write_script(scratch.path())?;
    printed(writeln!(
        out,
        "One program on four hosts, made out of namespaces of this machine: the 2-D heat equation, {0} x {0} cells, a rank \
         on each.\nOne host crashes, one is drained, one comes in while it runs. It takes a minute.\n",
        options.cells
    ))?;
    let story = play(&script, scratch.path(), options.cells)?;
    printed(print(&story, out, options.width.into()))?;
    let (steps, checksum) = result(&story.out).ok_or_else(|| {
        format!("the run ended without a result (exit code {:?}):\n{}", story.code, story.said)
    })?;
    let undisturbed = undisturbed(options.cells, steps)?;
    let right = checksum == undisturbed && story.code == Some(0);
    let verdict = if right { "the same" } else { "NOT the same" };
    printed(writeln!(
        out,
        "\nAfter {steps} steps the checksum of the field is {checksum}; of one rank that nobody disturbed: {undisturbed}: \
         {verdict}."
    ))?;
    if let Some(directory) = &options.out {
        let path = directory.join("tour-faults.html");
        let page = page::make(
            &story,
            options.cells,
            &format!(
                "{steps} steps, checksum {checksum}: {verdict} as of one rank that nobody disturbed"
            ),
        );
        write_whole(&path, |file| file.write_all(page.as_bytes()))
            .map_err(|error| error.to_string())?;
        printed(writeln!(out, "The picture is in {}.", path.display()))?;
    }
    Ok(right)
}

/// Steps and checksum.
fn result(out: &str) -> Option<(u64, String)> {
    let line = out.lines().find_map(|line| line.strip_prefix(RESULT))?;
    let (steps, checksum) = line.split_once(' ')?;
    Some((steps.parse().ok()?, checksum.to_owned()))
}

/// Makes the hosts, and plays the story there.
fn play(script: &Path, place: &Path, cells: u32) -> Result<Story, String> {
    let own = env::current_exe().map_err(|error| format!("where am I? {error}"))?;
    let mut command = Command::new("bash");
    command.arg(script).args(["with", "4"]).arg(&own).arg("tour-director").arg(script).arg(place);
    command.args(["--cells", &cells.to_string()]);
    // Hosts have a /tmp of their own, where these may lie.
    let shared = [place, own.parent().unwrap_or(place)];
    let shared = env::join_paths(shared).map_err(|error| error.to_string())?;
    command.env("HOSTS_SHARED", shared).env_remove("HOSTS_STATE");
    unset(&mut command);
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    let ended = command.stdin(Stdio::null()).output().map_err(|error| format!("bash: {error}"))?;
    let text = String::from_utf8_lossy(&ended.stdout);
    let story = text.lines().find_map(|line| serde_json::from_str(line).ok());
    story.ok_or_else(|| {
        format!("the hosts: {}: {}", ended.status, String::from_utf8_lossy(&ended.stderr).trim())
    })
}

/// The settings of this command are none of what it starts.
fn unset(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("SPMD_") {
            command.env_remove(name);
        }
    }
}

/// The checksum of the same steps on one rank.
fn undisturbed(cells: u32, steps: u64) -> Result<String, String> {
    let own: PathBuf = env::current_exe().map_err(|error| format!("where am I? {error}"))?;
    let mut command = Command::new(own);
    command.args(["tour-survivor", "--engine", "local", "-n", "1", "--threads", "1"]);
    command.args(["--cells", &cells.to_string(), "--steps", &steps.to_string()]);
    unset(&mut command);
    let ended = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&ended.stdout);
    let (_, checksum) = result(&text).ok_or_else(|| {
        format!("the undisturbed run: {}", String::from_utf8_lossy(&ended.stderr).trim())
    })?;
    Ok(checksum)
}

fn print(story: &Story, out: &mut dyn Write, width: usize) -> io::Result<()> {
    let longest = story.hosts().iter().map(|name| name.len()).max().unwrap_or(0);
    for host in story.hosts() {
        writeln!(out, "  {host:<longest$} |{}|", story.drawn(host, width))?;
    }
    let end = format!("{:.0} s", story.ended_s);
    writeln!(out, "  {:<longest$} 0{end:>1$}", "", width)?;
    for (_, letter, words) in Host::ALL {
        writeln!(out, "  {letter} {words}")?;
    }
    writeln!(out)?;
    for [when, what] in happened(story) {
        writeln!(out, "  {when:>7}  {what}")?;
    }
    Ok(())
}

/// What happened, in words, each with its time.
fn happened(story: &Story) -> Vec<[String; 2]> {
    let mut all = Vec::new();
    for (deed, after) in story.deeds.iter().zip(story.aftermaths()) {
        let at_s = deed.at_s;
        all.push([format!("{at_s:.1} s"), format!("{} {}", deed.host, deed.what)]);
        let Some(after) = after else { continue };
        all.push([
            format!("{:.1} s", after.noticed_s),
            format!("{:.1} s later the ranks stand still", after.noticed_s - at_s),
        ]);
        let redone = match after.redone {
            0 => "no step is done again".to_owned(),
            steps => format!("{steps} steps are done again"),
        };
        all.push([
            format!("{:.1} s", after.again_s),
            format!(
                "{} ranks are at work, {:.1} s after that; {redone}",
                after.ranks,
                after.again_s - after.noticed_s
            ),
        ]);
    }
    all.push([format!("{:.1} s", story.ended_s), "the run ends".to_owned()]);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_read() {
        assert_eq!(result("x\nresult: 120 00ff\n"), Some((120, "00ff".to_owned())));
        assert_eq!(result("result: many\n"), None);
    }
}
