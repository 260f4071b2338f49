//! Hostfiles of the launchers, each of which fails on the others' form.

use std::{fmt::Write as _, fs::File, io::Read, path::Path};

use clap::ValueEnum;
use spmd::hosts::compress;

use super::{Host, MOST_HOSTS, MOST_SLOTS, list, merge};

/// Who reads a list of hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Open MPI: `host slots=4`
    #[value(name = "openmpi")]
    OpenMpi,
    /// MPICH and Intel MPI: `host:4`
    Mpich,
    /// `SLURM_HOSTFILE` of `srun --distribution=arbitrary`: a line for each slot
    Slurm,
    /// Option `--hosts`, in one line: `node[01-04]:4`
    List,
}

/// Longer files are none of hosts.
const MOST_BYTES: u64 = 64 << 20;

/// The hosts of a file in any of the forms, each once; comments and blank lines are left out.
///
/// How many more ranks than slots a launcher may start (`max_slots`) is not kept.
///
/// # Errors
/// Names file and line.
pub(crate) fn read_file(path: &Path) -> Result<Vec<Host>, String> {
    let cannot = |what: &str| format!("cannot read the hostfile {}: {what}", path.display());
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MOST_BYTES).read_to_string(&mut text));
    if read.map_err(|error| cannot(&error.to_string()))? as u64 == MOST_BYTES {
        return Err(cannot("it has 64 MiB or more"));
    }
    parse(&path.display().to_string(), &text)
}

/// The hosts of a file's text.
pub(super) fn parse(file: &str, text: &str) -> Result<Vec<Host>, String> {
    let mut hosts = Vec::new();
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            let here = hosts_of_line(line, MOST_HOSTS - hosts.len());
            hosts.extend(here.map_err(|what| format!("{file}:{number}: {what}"))?);
        }
    }
    if hosts.is_empty() {
        return Err(format!("{file}: no host; write one a line, like `node01 slots=4`"));
    }
    merge(hosts).map_err(|what| format!("{file}: {what}"))
}

fn hosts_of_line(line: &str, most: usize) -> Result<Vec<Host>, String> {
    // Open MPI takes `slots = 4` too.
    let line = line.split('=').map(str::trim).collect::<Vec<_>>().join("=");
    let (names, options) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
    let mut hosts = list::named(names, most)?;
    let (mut slots, mut limit) = (None, None);
    for option in options.split_whitespace() {
        let (value, into) = match option.split_once('=') {
            Some(("slots", value)) => (value, &mut slots),
            Some(("max_slots" | "max-slots", value)) => (value, &mut limit),
            Some(_) => {
                return Err(format!("`{option}` is not known; a host has slots= and max_slots="));
            }
            None => {
                return Err(format!(
                    "`{option}` behind a host; write one a line, like `node01 slots=4` or `node01:4`"
                ));
            }
        };
        *into = Some(list::number(&line, value, MOST_SLOTS)?);
    }
    if let (Some(slots), Some(limit)) = (slots, limit)
        && slots > limit
    {
        return Err(format!("slots={slots} is more than max_slots={limit}"));
    }
    if slots.is_some() {
        if let Some(twice) = hosts.iter().find(|host| host.slots.is_some()) {
            return Err(format!("the slots of {} are said twice; leave one out", twice.name));
        }
        for host in &mut hosts {
            host.slots = slots;
        }
    }
    Ok(hosts)
}

/// The hosts for a launcher; of a form of several lines the last too has its end.
pub(crate) fn write(hosts: &[Host], format: Format) -> String {
    let mut text = String::new();
    for Host { name, slots } in hosts {
        // Writing to a string does not fail.
        let _ = match (format, slots) {
            (Format::OpenMpi, Some(slots)) => writeln!(text, "{name} slots={slots}"),
            (Format::Mpich, Some(slots)) => writeln!(text, "{name}:{slots}"),
            (Format::Slurm, Some(slots)) => (0..*slots).try_for_each(|_| writeln!(text, "{name}")),
            (Format::OpenMpi | Format::Mpich | Format::Slurm, None) => writeln!(text, "{name}"),
            (Format::List, _) => return in_one_line(hosts) + "\n",
        };
    }
    text
}

/// The hosts as `--hosts` takes them.
pub(crate) fn in_one_line(hosts: &[Host]) -> String {
    let alike = hosts.chunk_by(|left, right| left.slots == right.slots);
    let lists = alike.map(|hosts| {
        let names = compress(hosts.iter().map(|host| &host.name));
        match hosts[0].slots {
            None => names,
            // The number belongs to what is in front of it, up to the comma.
            Some(slots) => list::items(&names)
                .map(|part| format!("{part}:{slots}"))
                .collect::<Vec<_>>()
                .join(","),
        }
    });
    lists.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(hosts: &[(&str, Option<usize>)]) -> Vec<Host> {
        let host = |&(name, slots): &(&str, Option<usize>)| Host { name: name.to_owned(), slots };
        hosts.iter().map(host).collect()
    }

    #[test]
    fn files_of_all_launchers_are_read() {
        let expected = hosts(&[("node01", Some(4)), ("node02", Some(2)), ("node03", None)]);
        for text in [
            "node01 slots=4\nnode02 slots=2\nnode03\n",
            "# ours\n\n  node01   slots=4 max_slots=8 # fast\r\nnode02 max-slots = 4 slots = 2\r\nnode03\r\n",
            "node01:4\nnode02:2\nnode03",
            "\u{feff}node01:4\n\t\nnode02:2\nnode03",
            "node01\nnode02\nnode01\nnode01\nnode01\nnode02\nnode03\n",
            "node01*4,node02*2\nnode03\n",
            "node[01-02]:2\nnode01 slots=2\nnode03",
        ] {
            assert_eq!(parse("hosts", text), Ok(expected.clone()), "{text}");
        }
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, expected) in [
            ("a\n\nb slot=4\n", "hosts:3: `slot=4` is not known; a host has slots= and max_slots="),
            (
                "a 4",
                "hosts:1: `4` behind a host; write one a line, like `node01 slots=4` or `node01:4`",
            ),
            ("a slots=x", "hosts:1: character 9, `x`: not a number"),
            ("a slots=", "hosts:1: character 9: not a number"),
            ("a slots=0", "hosts:1: character 9, `0`: 0 is none; leave the host out"),
            ("a slots=4 max_slots=2", "hosts:1: slots=4 is more than max_slots=2"),
            ("a:4 slots=4", "hosts:1: the slots of a are said twice; leave one out"),
            ("a\nb[1-", "hosts:2: character 2, `[1-`: the bracket is not closed; add ]"),
            (
                "a[1-60000]\nb[1-60000]",
                "hosts:2: character 1, `b[1-60000]`: with it there are more than 100000 hosts",
            ),
            ("# none\n", "hosts: no host; write one a line, like `node01 slots=4`"),
        ] {
            assert_eq!(parse("hosts", text), Err(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn each_launcher_gets_its_own_form() {
        let hosts = hosts(&[
            ("a1", Some(2)),
            ("a2", Some(2)),
            ("b", None),
            ("c1", None),
            ("c2", None),
            ("d", Some(2)),
            ("e", Some(2)),
        ]);
        for (format, expected) in [
            (Format::OpenMpi, "a1 slots=2\na2 slots=2\nb\nc1\nc2\nd slots=2\ne slots=2\n"),
            (Format::Mpich, "a1:2\na2:2\nb\nc1\nc2\nd:2\ne:2\n"),
            (Format::Slurm, "a1\na1\na2\na2\nb\nc1\nc2\nd\nd\ne\ne\n"),
            (Format::List, "a[1-2]:2,b,c[1-2],d:2,e:2\n"),
        ] {
            assert_eq!(write(&hosts, format), expected);
        }
    }
}
