//! `spmd info --hosts`: what the hosts of a run would be, before one is started.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write as _,
    io::Write,
    path::PathBuf,
    process,
};

use super::{
    agent::Facts,
    crew::{Crew, is_here},
    link::Link,
    way::Way,
};
use crate::hosts::Host;

/// With less room large messages and windows of ranks on one host fail.
const LITTLE: u64 = 64 << 20;

/// Clocks that differ by more are noticed in the times of log lines and files.
const APART_S: f64 = 0.1;

/// A way that carries so little of what the fastest does is told.
const SLOW: f64 = 0.25;

/// What was found out about a host.
struct Seen {
    name: String,
    facts: Result<Option<Facts>, String>,
    /// How far its clock is ahead of that of this host, and the shortest round trip, in seconds.
    clock: Option<(f64, f64)>,
    /// The way to the next host, the last one's to the first; none where there is no other.
    link: Option<Result<Link, String>>,
}

impl Seen {
    fn facts(&self) -> Option<&Facts> {
        self.facts.as_ref().ok()?.as_ref()
    }
}

/// Looks at all hosts, and says what is there and what is off; whether ranks can run on all.
///
/// # Errors
/// If it cannot be printed, in words.
pub(crate) fn look(
    hosts: &[Host],
    ssh: Option<String>,
    out: &mut dyn Write,
) -> Result<bool, String> {
    let own = env::current_exe().unwrap_or_else(|_| PathBuf::from("spmd"));
    let token = format!("look-{}", process::id());
    let (mut crew, events) = Crew::send(hosts, &Way::Ssh(ssh), &token, &own, None, None)?;
    let found = crew.facts(&events).map_err(|signal| format!("ended by {signal}"))?;
    let seen = hosts.iter().zip(found).enumerate().map(|(index, (host, facts))| Seen {
        name: host.name.clone(),
        clock: facts.is_ok().then(|| crew.clock(index, &events)).flatten(),
        link: None,
        facts,
    });
    let mut seen: Vec<Seen> = seen.collect();
    for from in 0..seen.len() {
        let to = (from + 1) % seen.len();
        // Between two hosts there is one.
        if from == to || (to == 0 && seen.len() == 2) || seen[from].facts().is_none() {
            continue;
        }
        let Some(facts) = seen[to].facts() else { continue };
        // Elsewhere localhost is another.
        let known = if is_here(&seen[to].name) { &facts.host } else { &seen[to].name };
        let name = facts.address.clone().unwrap_or_else(|| known.clone());
        seen[from].link = Some(crew.link(from, to, &name, &events));
    }
    crew.dismiss();
    let (advice, usable) = advise(&seen, &Facts::of_this_host(&own));
    let text = format!("{}{}", table(&seen), advice);
    out.write_all(text.as_bytes()).map_err(|error| format!("cannot print: {error}"))?;
    Ok(usable)
}

fn table(seen: &[Seen]) -> String {
    let head = [
        "host",
        "its name",
        "cores",
        "/tmp",
        "/dev/shm",
        "clock",
        "round trip",
        "to the next",
        "MPI",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    for host in seen {
        let clock = |show: fn((f64, f64)) -> String| host.clock.map_or("?".to_owned(), show);
        let (name, cores, tmp, shm, mpi) = match &host.facts {
            Ok(Some(facts)) => (
                facts.address.as_ref().map_or_else(
                    || facts.host.clone(),
                    |address| format!("{} ({address})", facts.host),
                ),
                facts.cores.to_string(),
                size(facts.tmp_free),
                size(facts.shm_free),
                facts.mpi.clone().unwrap_or_else(|| "none in the PATH".to_owned()),
            ),
            Ok(None) => ("no spmd".to_owned(), "?".into(), "?".into(), "?".into(), "?".into()),
            Err(_) => ("not reached".to_owned(), "?".into(), "?".into(), "?".into(), "?".into()),
        };
        rows.push([
            host.name.clone(),
            name,
            cores,
            tmp,
            shm,
            clock(|(ahead, _)| format!("{:+.1} ms", ahead * 1e3)),
            clock(|(_, trip)| format!("{:.1} ms", trip * 1e3)),
            match &host.link {
                None => String::new(),
                Some(Err(_)) => "?".to_owned(),
                Some(Ok(Link { trip_s, bytes_per_s })) => {
                    format!("{:.2} ms, {:.1} Gbit/s", trip_s * 1e3, bytes_per_s * 8e-9)
                }
            },
            mpi,
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..head.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

fn size(bytes: Option<u64>) -> String {
    match bytes {
        None => "?".to_owned(),
        Some(bytes) if bytes < 1 << 30 => format!("{} MiB", bytes >> 20),
        Some(bytes) => format!("{} GiB", bytes >> 30),
    }
}

/// A line for each thing that is off, with the hosts that it is about; whether all can be used.
fn advise(seen: &[Seen], own: &Facts) -> (String, bool) {
    let mut lines = BTreeMap::<(bool, String), Vec<&str>>::new();
    let mut machines = BTreeMap::<&str, Vec<&str>>::new();
    for host in seen {
        let mut note = |fatal: bool, text: &str| {
            lines.entry((!fatal, text.to_owned())).or_default().push(&host.name);
        };
        let facts = match &host.facts {
            Err(why) => {
                note(true, &format!("cannot be reached: {why}"));
                continue;
            }
            Ok(None) => {
                note(false, "spmd is not there as it is here: the host is not watched");
                continue;
            }
            Ok(Some(facts)) => facts,
        };
        machines.entry(&facts.machine).or_default().push(&host.name);
        if facts.program != own.program {
            note(true, "spmd is another build than here: copy it, and the programs, to all hosts");
        }
        match (&facts.mpi, &own.mpi) {
            (None, Some(_)) => {
                note(true, "there is no mpirun in the PATH of a program that ssh starts");
            }
            (Some(theirs), Some(ours)) if theirs != ours => {
                note(true, &format!("the MPI is {theirs}, here it is {ours}"));
            }
            _ => {}
        }
        for (directory, free) in [("/tmp", facts.tmp_free), ("/dev/shm", facts.shm_free)] {
            if free.is_some_and(|free| free < LITTLE) {
                note(
                    false,
                    &format!("{directory} is nearly full: MPI keeps files and messages there"),
                );
            }
        }
        // Known no better than the way there and back allows.
        if host.clock.is_some_and(|(ahead, trip)| ahead.abs() - trip / 2.0 > APART_S) {
            note(
                false,
                "its clock is off: times in logs will not fit (traces align them); run chrony",
            );
        }
    }
    for (host, next) in seen.iter().zip(seen.iter().cycle().skip(1)) {
        if let Some(Err(why)) = &host.link {
            let text = format!("{} cannot be reached from there: {why}", next.name);
            lines.entry((false, text)).or_default().push(&host.name);
        }
    }
    let rates = || {
        let link = |host: &'_ Seen| host.link.as_ref()?.as_ref().ok().copied();
        seen.iter().filter_map(move |host| Some((&*host.name, link(host)?.bytes_per_s)))
    };
    let fastest = rates().map(|(_, rate)| rate).fold(0.0, f64::max);
    for (name, _) in rates().filter(|(_, rate)| *rate < fastest * SLOW) {
        let text =
            "the way to the next host is far slower than the others: its cable, its interface?";
        lines.entry((true, text.to_owned())).or_default().push(name);
    }
    for names in machines.values().filter(|names| names.len() > 1) {
        let text = "they are one machine: name it once, with the slots of all".to_owned();
        lines.entry((true, text)).or_default().extend(names);
    }
    let cores: BTreeSet<usize> = seen.iter().filter_map(|host| Some(host.facts()?.cores)).collect();
    let usable = lines.keys().all(|(harmless, _)| *harmless);
    let mut text = String::new();
    for ((harmless, what), names) in &lines {
        let kind = if *harmless { "advice" } else { "error" };
        let _ = writeln!(text, "{kind}: {}: {what}", spmd::hosts::compress(names.iter().copied()));
    }
    if let (Some(least), Some(most)) = (cores.first(), cores.last())
        && least != most
    {
        let _ = writeln!(
            text,
            "advice: hosts have {least} to {most} cores: ranks of the smaller ones wait for nobody only if hosts get \
             slots (--hosts a:{least},b:{most})"
        );
    }
    (text, usable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(machine: &str) -> Facts {
        Facts {
            host: machine.to_owned(),
            machine: machine.to_owned(),
            cores: 4,
            tmp: PathBuf::from("/tmp"),
            tmp_free: Some(1 << 40),
            shm_free: Some(1 << 33),
            program: Some((1, 1)),
            mpi: Some("Open MPI 5.0".to_owned()),
            address: None,
            no_place: None,
        }
    }

    fn seen(name: &str, facts: Result<Option<Facts>, String>) -> Seen {
        Seen { name: name.to_owned(), facts, clock: Some((0.0, 0.001)), link: None }
    }

    #[test]
    fn hosts_that_fit_need_no_advice() {
        let all = [seen("n1", Ok(Some(facts("a")))), seen("n2", Ok(Some(facts("b"))))];
        assert_eq!(advise(&all, &facts("here")), (String::new(), true));
        let table = table(&all);
        assert_eq!(table.lines().count(), 3);
        assert!(
            table.contains("n2") && table.contains("8 GiB") && table.contains("+0.0 ms"),
            "{table}"
        );
    }

    #[test]
    fn each_thing_that_is_off_has_a_line() {
        let with = |change: fn(&mut Facts)| {
            let mut facts = facts("x");
            change(&mut facts);
            Ok(Some(facts))
        };
        let of = |facts| advise(&[seen("n1", facts)], &super::tests::facts("here"));
        for (facts, fits, part) in [
            (Err("no route".to_owned()), false, "error: n1: cannot be reached: no route"),
            (Ok(None), true, "advice: n1: spmd is not there"),
            (with(|facts| facts.program = Some((2, 1))), false, "error: n1: spmd is another build"),
            (with(|facts| facts.mpi = None), false, "error: n1: there is no mpirun"),
            (
                with(|facts| facts.mpi = Some("MPICH 4".into())),
                false,
                "error: n1: the MPI is MPICH 4",
            ),
            (with(|facts| facts.shm_free = Some(9)), true, "advice: n1: /dev/shm is nearly full"),
        ] {
            let (text, usable) = of(facts);
            assert!(text.starts_with(part) && text.lines().count() == 1, "{part}: {text}");
            assert_eq!(usable, fits, "{text}");
        }
        let mut late = seen("n1", Ok(Some(facts("a"))));
        late.clock = Some((-3.0, 0.001));
        assert!(advise(&[late], &facts("here")).0.contains("its clock is off"));
        let twice = [seen("n1", Ok(Some(facts("a")))), seen("n2", Ok(Some(facts("a"))))];
        let (text, usable) = advise(&twice, &facts("here"));
        assert!(text.starts_with("advice: n[1-2]: they are one machine") && usable, "{text}");
        let linked = |name: &str, rate| Seen {
            link: Some(Ok(Link { trip_s: 1e-4, bytes_per_s: rate })),
            ..seen(name, Ok(Some(facts(name))))
        };
        let slow = [linked("n1", 1e9), linked("n2", 1e8), linked("n3", 1e9)];
        let (text, usable) = advise(&slow, &facts("here"));
        assert!(text.starts_with("advice: n2: the way to the next") && usable, "{text}");
        assert!(super::table(&slow).contains("0.10 ms, 0.8 Gbit/s"));
        let mut apart = linked("n1", 1e9);
        apart.link = Some(Err("no route".to_owned()));
        let (text, usable) = advise(&[apart, linked("n2", 1e9)], &facts("here"));
        assert!(
            text.starts_with("error: n1: n2 cannot be reached from there") && !usable,
            "{text}"
        );
        let mut small = facts("b");
        small.cores = 2;
        let uneven = [seen("n1", Ok(Some(facts("a")))), seen("n2", Ok(Some(small)))];
        assert!(advise(&uneven, &facts("here")).0.contains("hosts have 2 to 4 cores"));
    }
}
