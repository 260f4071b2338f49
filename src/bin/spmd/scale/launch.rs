//! One launch: on which CPUs, by which command, and what came of it.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        signal::{Signal, kill},
        time::TimeValLike,
    },
    unistd::Pid,
};
use spmd::{record::Record, trace::Trace};

use super::{
    cpus,
    plan::{Plan, Point},
    samples::{Doubt, Run, Sample},
};
use crate::view;
use crate::{
    launcher::{Launcher, Layout},
    options::scale::LauncherKind,
};

/// So much of the CPUs may others have, or of the time threads wait for a CPU, before a launch is in
/// doubt.
const IDLE: f64 = 0.05;

/// What starts ranks that are processes; none where they are threads.
///
/// # Errors
/// If it is not there.
pub(super) fn find(kind: LauncherKind) -> Result<Option<Launcher>, String> {
    Ok(match kind {
        LauncherKind::Local => None,
        LauncherKind::Srun => {
            Some(Launcher::srun().map_err(|error| format!("--launcher srun: {error}"))?)
        }
        LauncherKind::Mpirun => {
            Some(Launcher::mpirun(None).map_err(|error| format!("--launcher mpirun: {error}"))?)
        }
    })
}

/// The words before a program on two ranks, and the settings for it.
pub(super) fn for_two(
    launcher: Option<&Launcher>,
    more: &[String],
) -> (Vec<String>, Vec<(&'static str, &'static str)>) {
    match launcher {
        None => (Vec::new(), vec![("SPMD_ENGINE", "local"), ("SPMD_RANKS", "2")]),
        Some(launcher) => {
            let two = Layout { ranks: 2, own_cpus: Some(1), ..Layout::default() };
            ([launcher.words(&two), more.to_vec()].concat(), vec![("SPMD_THREADS", "1")])
        }
    }
}

/// A launch that is about to be made.
struct Prepared {
    words: Vec<String>,
    binding: String,
    command: Command,
    /// The CPUs of the launching process, which those of ranks that are threads are.
    mask: Vec<usize>,
}

/// Makes launches.
pub(super) struct Runner<'a> {
    pub(super) plan: &'a Plan,
    pub(super) launcher: Option<Launcher>,
    /// The CPUs of this host, those of different cores first.
    pub(super) cpus: Vec<usize>,
    pub(super) directory: &'a Path,
    pub(super) limit: Duration,
    pub(super) patience: Duration,
}

impl Runner<'_> {
    /// A file of the study, for a program that may run elsewhere.
    fn file(&self, name: &str) -> PathBuf {
        let file = self.directory.join(name);
        let file = std::path::absolute(&file).unwrap_or(file);
        let _ = fs::remove_file(&file); // of an earlier launch
        file
    }

    /// What launches a point.
    fn prepare(&self, point: &Point) -> Prepared {
        let crowded = self.plan.is_crowded(point);
        let (mut words, mut binding) = (Vec::new(), "not bound".to_owned());
        if let Some(launcher) = &self.launcher {
            let variables = ["SPMD_RECORD", "SPMD_THREADS"].map(str::to_owned);
            let own_cpus = (!crowded).then_some(point.threads);
            words = launcher.words(&Layout {
                ranks: point.ranks,
                own_cpus,
                crowded,
                variables: &variables,
                ..Layout::default()
            });
            words.extend_from_slice(&self.plan.launcher_args);
            if let Some(count) = own_cpus {
                binding = format!("each rank bound to {count} of its own");
            }
        }
        words.push(self.plan.program.clone());
        words.extend(point.arguments.iter().cloned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command.env("SPMD_THREADS", point.threads.to_string());
        for name in ["SPMD_TRACE", "SPMD_STATS", "SPMD_SHARE_CPU", "SPMD_RANKS", "SPMD_ENGINE"] {
            command.env_remove(name);
        }
        let mut mask = self.cpus.clone();
        if self.launcher.is_none() {
            command.env("SPMD_ENGINE", "local").env("SPMD_RANKS", point.ranks.to_string());
            mask.truncate(point.cores());
            mask.sort_unstable();
            binding = format!("kept on CPUs {}", cpus::list(&mask));
        }
        Prepared { words, binding, command, mask }
    }

    /// Launches a point once more, for its trace: that launch counts for nothing else.
    ///
    /// # Errors
    /// If it leaves none.
    pub(super) fn trace(&self, which: usize) -> Result<Trace, String> {
        let trace = self.file("trace.json");
        let Prepared { mut command, mask, .. } = self.prepare(&self.plan.points[which]);
        command.env("SPMD_TRACE", &trace).env_remove("SPMD_RECORD").stderr(Stdio::null());
        let child = cpus::on(&mask, || command.spawn());
        let mut child = child.map_err(|error| error.to_string())?;
        match wait(&mut child, self.limit) {
            Some(_) => view::read(&trace),
            None => Err("it was ended (--limit)".to_owned()),
        }
    }

    /// Launches a point and waits for its end.
    ///
    /// # Errors
    /// If the launcher or the program cannot be started at all.
    pub(super) fn launch(&self, which: usize, launch: usize) -> Result<Sample, String> {
        let point = &self.plan.points[which];
        let crowded = self.plan.is_crowded(point);
        let record = self.file("record.json");
        let Prepared { words, binding, mut command, mask } = self.prepare(point);
        command.env("SPMD_RECORD", &record);
        cpus::wait_for_idle(&self.cpus, IDLE, self.patience);
        let before = Used::now(&self.cpus);
        let started = Instant::now();
        let child = cpus::on(&mask, || command.spawn());
        let mut child =
            child.map_err(|error| format!("`{}` cannot be started: {error}", words.join(" ")))?;
        let said = child.stderr.take().map(|mut stderr| {
            thread::spawn(move || {
                let mut text = String::new();
                let _ = stderr.read_to_string(&mut text); // what can be told of it
                text
            })
        });
        let ending = wait(&mut child, self.limit);
        let wall = started.elapsed();
        let said = said.and_then(|said| said.join().ok()).unwrap_or_default();
        let others = before.others(&Used::now(&self.cpus), wall, self.cpus.len());
        let file = record;
        let record = Record::read(&file);
        let _ = fs::remove_file(&file); // if it is there
        let mut sample = Sample {
            point: which,
            launch,
            seconds: None,
            wall_s: wall.as_secs_f64(),
            failed: None,
            doubts: Vec::new(),
            command: words.join(" "),
            binding,
            run: record.as_ref().ok().map(Run::of),
        };
        match (&record, &ending) {
            (Ok(record), Some(_)) if record.ranks != point.ranks => {
                sample.failed = Some(format!("it ran {} ranks", record.ranks));
            }
            (Ok(record), Some(_)) => match (record.exit_code, record.verification()) {
                (0 | 3, Some(verification)) if !verification.passed => {
                    sample.doubts.push(Doubt::WrongResult(verification.how.clone()));
                    sample.seconds = record.time_s();
                }
                (0, _) => sample.seconds = record.time_s(),
                (code, _) => {
                    let why = record.failed.as_ref().map_or("", |failed| &failed.why);
                    sample.failed = Some(format!("exit code {code}: {why}"));
                }
            },
            (_, None) => {
                sample.failed = Some(format!("ended after {:.0} s (--limit)", wall.as_secs_f64()));
            }
            (Err(error), Some(status)) => {
                let why = why(&said).map_or_else(|| error.to_string(), str::to_owned);
                sample.failed = Some(format!("{status}, and it left no record: {why}"));
            }
        }
        if let Some(others) = others.filter(|share| *share > IDLE) {
            sample.doubts.push(Doubt::NotIdle(others));
        }
        if let Some(share) = sample.run.as_ref().and_then(|run| waited(run, point.threads))
            && share > IDLE
            && !crowded
        {
            sample.doubts.push(Doubt::Disturbed(share));
        }
        Ok(sample)
    }
}

/// The line of what a program has said that tells best why it has failed: its last error, not the
/// advice behind it.
fn why(said: &str) -> Option<&str> {
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    lines().rfind(|line| line.starts_with("error:")).or_else(|| lines().next_back())
}

/// For which share of its time the worst rank's threads waited for a CPU, on whatever host.
fn waited(run: &Run, threads: usize) -> Option<f64> {
    let shares =
        run.parts.iter().filter_map(|part| Some(part.queued_s? / (part.own_s * threads as f64)));
    shares.filter(|share| share.is_finite()).reduce(f64::max)
}

/// Waits for the end; `None` if the time was over before.
fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    const FAREWELL: Duration = Duration::from_secs(2);
    let deadline = Instant::now() + limit;
    let mut told = None;
    let mut pause = Duration::from_micros(200);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return told.is_none().then_some(status),
            Ok(None) => {}
            Err(_) => return None,
        }
        let now = Instant::now();
        if told.is_none() && now > deadline {
            // A launcher takes its ranks with it.
            let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
            told = Some(now);
        }
        if told.is_some_and(|told| now > told + FAREWELL) {
            let _ = child.kill();
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// What CPUs have done so far.
struct Used {
    /// CPU seconds of everybody; `None` where the system does not tell.
    all_s: Option<f64>,
    /// Of this process and of what it has waited for.
    ours_s: f64,
}

impl Used {
    fn now(cpus: &[usize]) -> Self {
        let seconds = |who| {
            getrusage(who).map_or(0, |used| {
                used.user_time().num_microseconds() + used.system_time().num_microseconds()
            }) as f64
                * 1e-6
        };
        let ours_s = seconds(UsageWho::RUSAGE_SELF) + seconds(UsageWho::RUSAGE_CHILDREN);
        Self { all_s: cpus::busy_s(cpus), ours_s }
    }

    /// The share of the CPUs that others had until `now`. Short launches are given the grain of the
    /// system's clock.
    fn others(&self, now: &Self, wall: Duration, cpus: usize) -> Option<f64> {
        const GRAIN_S: f64 = 0.02;
        let all = now.all_s? - self.all_s?;
        let others = all - (now.ours_s - self.ours_s) - GRAIN_S * cpus as f64;
        Some((others / (wall.as_secs_f64() * cpus as f64)).clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_says_why_and_not_the_advice_behind_it() {
        let usage = "error: an earlier one\nerror: unexpected argument '--x' found\n\n\
                     Usage: heat2d [OPTIONS]\n\nFor more information, try '--help'.\n\n";
        assert_eq!(why(usage), Some("error: unexpected argument '--x' found"));
        assert_eq!(why("one\nSegmentation fault \n\n"), Some("Segmentation fault"));
        assert_eq!(why(" \n"), None);
    }
}
