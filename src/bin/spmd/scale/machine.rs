//! What the study runs on, in words.

use std::{
    collections::BTreeSet,
    env, fs,
    hint::black_box,
    path::Path,
    process::{Command, Stdio},
    sync::Barrier,
    thread,
    time::{Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{launch, plan::Plan};
use crate::{
    launcher::{Launcher, quoted},
    options::scale::Options,
};

/// What a study runs on: names and values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Card {
    pub(super) facts: Vec<(String, String)>,
}

impl Card {
    /// Looks, and measures what can be measured in a moment.
    pub(super) fn look(
        options: &Options,
        plan: &Plan,
        launcher: Option<&Launcher>,
        cpus: &[usize],
    ) -> Self {
        let mut card = Self::default();
        let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        card.add("machine", options.machine.clone().or(host));
        card.add("processor", Some(processor(cpus)));
        card.add("caches", caches(cpus));
        card.add("memory", memory());
        card.add("memory bandwidth", Some(triad(cpus.len())));
        card.add("clock", read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"));
        card.add("system", system());
        card.add("messages", Some(messages(launcher, plan)));
        let build = if cfg!(debug_assertions) { ", debug build" } else { "" };
        card.add("spmd", Some(format!("{}{build}", env!("CARGO_PKG_VERSION"))));
        card.add("revision", revision());
        card.add("command", Some(command()));
        card.add("date", Some(date(SystemTime::now())));
        card
    }

    pub(super) fn add(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.facts.push((name.to_owned(), value));
        }
    }

    pub(super) fn fact(&self, name: &str) -> Option<&str> {
        self.facts.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn processor(cpus: &[usize]) -> String {
    let text = read("/proc/cpuinfo").unwrap_or_default();
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let cores: BTreeSet<String> = cpus
        .iter()
        .filter_map(|cpu| {
            read(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))
        })
        .collect();
    let model = value("model name").unwrap_or_else(|| env::consts::ARCH.to_owned());
    let virtual_machine =
        value("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    let on_cores = match cores.len() {
        0 => String::new(),
        count if count == cpus.len() => String::new(),
        count => format!(" on {count} cores"),
    };
    let of = if virtual_machine { ", of a virtual machine" } else { "" };
    format!("{model}, {} CPUs to use{on_cores}{of}", cpus.len())
}

fn caches(cpus: &[usize]) -> Option<String> {
    let cpu = cpus.first()?;
    let cache = |index: usize| {
        let fact = |name: &str| {
            read(format!("/sys/devices/system/cpu/cpu{cpu}/cache/index{index}/{name}"))
        };
        let shared = fact("shared_cpu_list")?;
        let kind = match &*fact("type")? {
            "Data" => "d",
            "Instruction" => return Some(None),
            _ => "",
        };
        let of = if shared == cpu.to_string() { "" } else { " shared" };
        Some(Some(format!("L{}{kind} {}{of}", fact("level")?, fact("size")?)))
    };
    let all: Vec<String> = (0..).map_while(cache).flatten().collect();
    Some(all.join(", "))
}

fn memory() -> Option<String> {
    let text = read("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(format!("{:.0} GiB", kib / f64::from(1 << 20)))
}

fn system() -> Option<String> {
    let about = nix::sys::utsname::uname().ok()?;
    let part = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
    Some(format!("{} {} {}", part(about.sysname()), part(about.release()), part(about.machine())))
}

/// What all CPUs together read and write in `a = b + s c`, over arrays that no cache holds.
fn triad(threads: usize) -> String {
    const ELEMENTS: usize = 4 << 20; // 32 MiB each
    const TIMES: usize = 3;
    let barrier = Barrier::new(threads);
    let one = || {
        let (mut a, b, c) = (vec![0.0_f64; ELEMENTS], vec![1.0; ELEMENTS], vec![2.0; ELEMENTS]);
        let mut seconds = [0.0; TIMES];
        for seconds in &mut seconds {
            barrier.wait();
            let started = Instant::now();
            for ((a, b), c) in a.iter_mut().zip(&b).zip(&c) {
                *a = b + 3.0 * c;
            }
            black_box(&mut a);
            *seconds = started.elapsed().as_secs_f64();
        }
        seconds
    };
    let all: Vec<[f64; TIMES]> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let slowest = |time: usize| all.iter().map(|seconds| seconds[time]).fold(0.0, f64::max);
    let best = (0..TIMES).map(slowest).fold(f64::INFINITY, f64::min);
    let bytes = (3 * size_of::<f64>() * ELEMENTS * threads) as f64;
    format!("{:.1} GB/s (triad, {threads} CPUs)", bytes / best * 1e-9)
}

/// How fast messages are between two ranks of the study's launcher: this program measures it.
fn messages(launcher: Option<&Launcher>, plan: &Plan) -> String {
    let measure = |benchmark: &str, bytes: &str, iterations: &str| -> Result<f64, String> {
        let own = env::current_exe().map_err(|error| error.to_string())?;
        let (words, settings) = launch::for_two(launcher, &plan.launcher_args);
        let mut command = match words.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(own);
                command
            }
            None => Command::new(own),
        };
        command.args(["bench", benchmark, "--sizes", bytes, "--iterations", iterations]);
        command.args(["--format", "csv"]).stdin(Stdio::null());
        command.envs(settings).env_remove("SPMD_RECORD").env_remove("SPMD_TRACE");
        let said = command.output().map_err(|error| error.to_string())?;
        // engine,ranks,touched,benchmark,bytes,iterations,unit,mean,median,...
        let text = String::from_utf8_lossy(&said.stdout);
        let median = text.lines().find_map(|line| {
            let cells: Vec<&str> = line.split(',').collect();
            cells.get(8).filter(|_| cells.get(3) == Some(&benchmark))?.parse::<f64>().ok()
        });
        median.ok_or_else(|| {
            let why = String::from_utf8_lossy(&said.stderr);
            let why = why.lines().find(|line| line.contains("error")).map(str::to_owned);
            why.unwrap_or_else(|| said.status.to_string())
        })
    };
    let both =
        || Ok::<_, String>((measure("latency", "8", "5000")?, measure("bandwidth", "1M", "20")?));
    match both() {
        Ok((latency_us, bandwidth)) => format!(
            "{latency_us:.2} us for 8 bytes, {:.1} GB/s for 1 MiB, between two ranks",
            bandwidth * 1e-3
        ),
        Err(why) => format!("not measured: {why}"),
    }
}

/// The revision of the directory that the study is started in, if it is one of git's.
fn revision() -> Option<String> {
    let git = |arguments: &[&str]| {
        let said = Command::new("git").args(arguments).stderr(Stdio::null()).output().ok()?;
        said.status.success().then(|| String::from_utf8_lossy(&said.stdout).trim().to_owned())
    };
    let revision = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() { revision } else { format!("{revision}, with changes") })
}

/// The command line, as it could be repeated in a shell.
fn command() -> String {
    env::args_os().map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

/// `2026-03-01 12:34 UTC`.
fn date(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, seconds) = (since / 86400, since % 86400);
    // Days in eras of 400 years that begin on 1 March, so that leap days are the last of a year.
    let (era, day) = ((days + 719_468) / 146_097, (days + 719_468) % 146_097);
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + next;
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", seconds / 3600, seconds / 60 % 60)
}

/// The names of hosts in the order of their first rank, and what the report calls them.
pub(super) fn host_names<'a>(hosts: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for host in hosts {
        if !seen.contains(&host) {
            seen.push(host);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        let at = |seconds| date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01 00:00 UTC");
        assert_eq!(at(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(at(951_868_800), "2000-03-01 00:00 UTC");
        assert_eq!(at(1_772_368_496), "2026-03-01 12:34 UTC");
        assert_eq!(at(4_102_444_799), "2099-12-31 23:59 UTC");
    }

    #[test]
    fn memory_is_measured() {
        let said = triad(1);
        assert!(said.ends_with(" GB/s (triad, 1 CPUs)") && !said.starts_with("0.0"), "{said}");
    }
}
