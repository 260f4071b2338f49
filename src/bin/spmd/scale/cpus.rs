//! The CPUs of this host: which there are, how busy they are, and keeping a program on some.

use std::{
    fs, io, thread,
    time::{Duration, Instant},
};

/// A list as Linux writes it: `0-3,8`.
pub(super) fn list(cpus: &[usize]) -> String {
    let groups = cpus.chunk_by(|left, right| left + 1 == *right).map(|group| {
        let (first, last) = (group[0], group[group.len() - 1]);
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    });
    groups.collect::<Vec<_>>().join(",")
}

/// The CPUs that this process may use: one of each core first, then what shares cores with those.
pub(super) fn usable() -> Vec<usize> {
    let mut cpus = allowed();
    let place = |cpu: &usize| {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        let siblings = fs::read_to_string(path).unwrap_or_default();
        let siblings = siblings.trim().split([',', '-']).filter_map(|word| word.parse().ok());
        let before = siblings.filter(|sibling: &usize| sibling < cpu).count();
        (before.min(1), *cpu)
    };
    cpus.sort_by_key(place);
    cpus
}

#[cfg(target_os = "linux")]
fn allowed() -> Vec<usize> {
    use nix::{
        sched::{CpuSet, sched_getaffinity},
        unistd::Pid,
    };
    let Ok(mask) = sched_getaffinity(Pid::from_raw(0)) else { return counted() };
    (0..CpuSet::count()).filter(|&cpu| mask.is_set(cpu).unwrap_or(false)).collect()
}

#[cfg(not(target_os = "linux"))]
fn allowed() -> Vec<usize> {
    counted()
}

fn counted() -> Vec<usize> {
    (0..thread::available_parallelism().map_or(1, usize::from)).collect()
}

/// Starts something that is kept on these CPUs: it inherits them from this thread, which gets its
/// own back.
#[cfg(target_os = "linux")]
pub(super) fn on<R>(cpus: &[usize], start: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
    use nix::{
        sched::{CpuSet, sched_getaffinity, sched_setaffinity},
        unistd::Pid,
    };
    let own = Pid::from_raw(0);
    let before = sched_getaffinity(own)?;
    let mut mask = CpuSet::new();
    cpus.iter().try_for_each(|&cpu| mask.set(cpu))?;
    sched_setaffinity(own, &mask)?;
    let started = start();
    sched_setaffinity(own, &before)?;
    started
}

/// Starts something: this system keeps nothing on some CPUs.
#[cfg(not(target_os = "linux"))]
pub(super) fn on<R>(_cpus: &[usize], start: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
    start()
}

/// CPU seconds that everybody has had of these CPUs, stolen ones of a virtual machine too; `None`
/// where the system does not tell.
pub(super) fn busy_s(cpus: &[usize]) -> Option<f64> {
    const TICK_S: f64 = 0.01; // the unit of /proc, whatever the kernel's own clock is
    let text = fs::read_to_string("/proc/stat").ok()?;
    let mut ticks = 0;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default();
        let Some(cpu) = name.strip_prefix("cpu").and_then(|number| number.parse().ok()) else {
            continue;
        };
        if !cpus.contains(&cpu) {
            continue;
        }
        let counts: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal
        ticks += [0, 1, 2, 5, 6, 7].iter().filter_map(|&at| counts.get(at)).sum::<u64>();
    }
    Some(ticks as f64 * TICK_S)
}

/// Waits until others leave these CPUs alone, for so long at most.
pub(super) fn wait_for_idle(cpus: &[usize], share: f64, patience: Duration) {
    const LOOK: Duration = Duration::from_millis(500);
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        let before = busy_s(cpus);
        thread::sleep(LOOK);
        match (before, busy_s(cpus)) {
            (Some(before), Some(now))
                if now - before > share * LOOK.as_secs_f64() * cpus.len() as f64 => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_listed_as_linux_does() {
        assert_eq!(list(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
        assert_eq!(list(&[]), "");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_started_on_one_cpu_is_kept_there_and_this_thread_is_not() {
        thread::spawn(|| {
            let before = usable();
            let there = on(&before[..1], || {
                std::process::Command::new("sh")
                    .args(["-c", "grep Cpus_allowed_list /proc/self/status"])
                    .output()
            });
            let there = String::from_utf8(there.unwrap().stdout).unwrap();
            assert_eq!(there.split_whitespace().last(), Some(&*before[0].to_string()));
            assert_eq!(usable(), before);
        })
        .join()
        .unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn busy_cpus_are_seen() {
        let cpus = usable();
        let before = busy_s(&cpus).unwrap();
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(100) {
            std::hint::spin_loop();
        }
        assert!(busy_s(&cpus).unwrap() > before);
        assert_eq!(busy_s(&[]), Some(0.0));
    }
}
