//! The roll call: before the program begins, what ranks were told and what they run is compared and
//! agreed on.
//!
//! A launcher over several hosts seldom hands on all variables and seldom checks that all run the
//! same file; so what one rank was told holds for all (the most that any rank wants), and where
//! that cannot be, every rank finds it and the job ends with one line. One allreduce, and an
//! allgather of words where something is wrong.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use mpi::ffi;
use serde::{Deserialize, Serialize};

use super::{Common, Settings, communicator::Communicator, program, raw::check};
use crate::{
    checks::Checks,
    error::{ErrorKind, Fault},
    placement,
};

/// How all ranks are.
#[allow(clippy::struct_excessive_bools, reason = "each is a question of its own")]
pub(super) struct Agreed {
    /// The highest level that a rank wants.
    pub(super) checks: Checks,
    /// The longest time that a rank wants.
    pub(super) timeout: Option<Duration>,
    /// What some rank wants.
    pub(super) common: Common,
    /// Whether the library of some rank lets messages overrun buffers: who guards starts none of
    /// its reductions that do not wait.
    pub(super) guarded: bool,
    /// Whether the library of some rank keeps its CPU while it waits.
    pub(super) spins: bool,
    /// Whether all ranks may call MPI from any thread.
    pub(super) multiple: bool,
    /// Whether the job can go on without a lost rank.
    pub(super) survives: bool,
}

/// What the roll call has found.
pub(super) enum Roll {
    Complete(Agreed),
    /// Every rank was told to run a job of its own.
    Apart,
    Refused(Refusal),
}

/// Why the job cannot start, in the same words on every rank.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) text: String,
    pub(crate) code: u8,
}

/// What a rank brings of its own.
#[allow(clippy::struct_excessive_bools, reason = "each is a question of its own")]
pub(super) struct Findings {
    pub(super) overruns: bool,
    pub(super) spins: bool,
    pub(super) multiple: bool,
    pub(super) survives: bool,
}

const LEVELS: [Checks; 4] = [Checks::Off, Checks::Arguments, Checks::Collective, Checks::Full];

/// Compares and agrees. Collective.
pub(super) fn call(
    comm: &Communicator,
    size: usize,
    settings: &Settings,
    findings: &Findings,
) -> Result<Roll, Fault> {
    let level = LEVELS.iter().position(|&level| level == settings.checks).unwrap_or(0);
    let milliseconds = |limit: Duration| (limit.as_millis() as i64).max(1);
    // Of a number and its complement the highest are each other's complement only if all ranks have
    // the same number. What is not known is the lowest of both.
    let program = program::identity().map(|program| program as i64);
    let mine = [
        level as i64,
        settings.timeout.map_or(0, milliseconds),
        settings.common.share_cpu.into(),
        settings.common.stats.into(),
        settings.common.trace.into(),
        settings.common.record.into(),
        findings.overruns.into(),
        findings.spins.into(),
        (!findings.multiple).into(),
        (!findings.survives).into(),
        settings.trouble.is_some().into(),
        settings.apart.into(),
        (!settings.apart).into(),
        program.unwrap_or(i64::MIN),
        program.map_or(i64::MIN, |program| !program),
    ];
    let [
        level,
        limit,
        share_cpu,
        stats,
        trace,
        record,
        overruns,
        spins,
        lacks_threads,
        ends_with_losses,
        trouble,
        apart,
        together,
        program_most,
        program_least,
    ] = comm.largest(mine)?;
    let known = program_most != i64::MIN;
    let differ = known && program_most != !program_least;
    if trouble != 0 || (apart != 0 && together != 0) || differ {
        let trouble = settings.trouble.clone();
        let program = program.map(|program| program as u64);
        let mine = Record { host: placement::host(), program, apart: settings.apart, trouble };
        return tell(comm, size, &mine).map(|all| Roll::Refused(refusal(&all)));
    }
    if apart != 0 {
        return Ok(Roll::Apart);
    }
    Ok(Roll::Complete(Agreed {
        checks: LEVELS[level as usize % LEVELS.len()],
        timeout: (limit > 0).then(|| Duration::from_millis(limit as u64)),
        common: Common {
            share_cpu: share_cpu != 0,
            stats: stats != 0,
            trace: trace != 0,
            record: record != 0,
        },
        guarded: overruns != 0,
        spins: spins != 0,
        multiple: lacks_threads == 0,
        survives: ends_with_losses == 0,
    }))
}

/// What a rank says of itself where something is wrong.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    host: String,
    program: Option<u64>,
    apart: bool,
    trouble: Option<(String, u8)>,
}

/// Every rank's record. Collective.
fn tell(comm: &Communicator, size: usize, mine: &Record) -> Result<Vec<Record>, Fault> {
    let object = |verb, error: &postcard::Error| {
        let (type_name, reason) = (std::any::type_name::<Record>(), error.to_string());
        ErrorKind::Object { type_name, verb, reason }
    };
    let mut mine = postcard::to_stdvec(mine).map_err(|error| object("sent", &error))?;
    let [longest] = comm.largest([mine.len() as i64])?;
    mine.resize(longest as usize, 0);
    let mut all = vec![0_u8; mine.len() * size];
    // SAFETY: a live communicator; each rank gives so many bytes, and there is room for those of
    // all.
    check(unsafe {
        let (byte, count) = (ffi::RSMPI_UINT8_T, mine.len() as i32);
        let (from, into) = (mine.as_ptr().cast(), all.as_mut_ptr().cast());
        ffi::MPI_Allgather(from, count, byte, into, count, byte, comm.raw())
    })?;
    let records = all.chunks_exact(mine.len()).map(postcard::from_bytes); // what is behind the record is left
    records.collect::<Result<_, _>>().map_err(|error| object("received", &error).into())
}

/// What is wrong, in a line for each kind.
fn refusal(all: &[Record]) -> Refusal {
    let usage = 2;
    let troubles = group(all, |record| record.trouble.as_ref().map(|(text, _)| text.clone()));
    if let Some(first) = all.iter().find_map(|record| record.trouble.as_ref()) {
        let lines: Vec<_> = troubles
            .iter()
            .filter_map(|(text, ranks)| match text {
                // What is wrong everywhere is no matter of ranks.
                Some(text) if ranks.len() == all.len() => Some(text.clone()),
                Some(text) => Some(format!("{}: {text}", name(all, ranks))),
                None => None,
            })
            .collect();
        return Refusal { text: lines.join("\nerror: "), code: first.1 };
    }
    let engines = group(all, |record| record.apart);
    if let (Some(apart), Some(together)) = (engines.get(&true), engines.get(&false)) {
        let mut text = String::new();
        let _ = write!(
            text,
            "the ranks are on different engines: {} on local, {} on mpi\n  help: give all ranks the same --engine, or the same SPMD_ENGINE",
            name(all, apart),
            name(all, together)
        ); // writing to a string does not fail
        return Refusal { text, code: usage };
    }
    let programs = group(all, |record| record.program);
    let mut programs: Vec<_> = programs.iter().collect();
    programs.sort_by_key(|(_, ranks)| ranks[0]);
    let programs = programs.iter().map(|(program, ranks)| match program {
        Some(program) => format!("{} run build {program:016x}", name(all, ranks)),
        None => format!("{} do not know", name(all, ranks)),
    });
    let text = format!(
        "the ranks do not run the same program: {}\n  help: put one executable where all hosts find it, or copy it \
         to all of them",
        programs.collect::<Vec<_>>().join(", ")
    );
    Refusal { text, code: usage }
}

/// The ranks of each kind.
fn group<K: Ord>(all: &[Record], kind: impl Fn(&Record) -> K) -> BTreeMap<K, Vec<usize>> {
    let mut groups = BTreeMap::<K, Vec<usize>>::new();
    for (rank, record) in all.iter().enumerate() {
        groups.entry(kind(record)).or_default().push(rank);
    }
    groups
}

/// Ranks with their hosts.
fn name(all: &[Record], ranks: &[usize]) -> String {
    let mut hosts: Vec<&str> = ranks.iter().map(|&rank| &*all[rank].host).collect();
    hosts.dedup();
    let plural = if ranks.len() == 1 { "" } else { "s" };
    // More than a few names nobody reads.
    let (few, more) = hosts.split_at(hosts.len().min(4));
    let more = if more.is_empty() { "" } else { " and more" };
    format!("rank{plural} {} on {}{more}", placement::cpu_list(ranks), few.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(host: &str) -> Record {
        Record { host: host.to_owned(), program: Some(1), apart: false, trouble: None }
    }

    fn troubled(host: &str, text: &str) -> Record {
        Record { trouble: Some((text.to_owned(), 2)), ..record(host) }
    }

    #[test]
    fn trouble_of_some_names_them_and_trouble_of_all_is_told_once() {
        let some = [record("a"), troubled("b", "no room"), troubled("b", "no room"), record("c")];
        let expected = Refusal { text: "ranks 1-2 on b: no room".to_owned(), code: 2 };
        assert_eq!(refusal(&some), expected);
        let all = [troubled("a", "unexpected argument"), troubled("b", "unexpected argument")];
        assert_eq!(refusal(&all).text, "unexpected argument");
        let two = [troubled("a", "x"), record("b"), troubled("c", "y")];
        assert_eq!(refusal(&two).text, "rank 0 on a: x\nerror: rank 2 on c: y");
    }

    #[test]
    fn other_engines_and_other_programs_are_named() {
        let apart = Record { apart: true, ..record("b") };
        let text = refusal(&[record("a"), apart, record("a")]).text;
        assert!(text.contains("rank 1 on b on local, ranks 0,2 on a on mpi"), "{text}");
        let other = Record { program: Some(0x2a), ..record("b") };
        let text = refusal(&[record("a"), other]).text;
        assert!(text.contains("rank 0 on a run build 0000000000000001"), "{text}");
        assert!(text.contains("rank 1 on b run build 000000000000002a"), "{text}");
    }
}
