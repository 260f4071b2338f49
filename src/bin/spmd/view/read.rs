//! Traces read back: Chrome's trace events that `--trace` has written, or the parts that a job has
//! left which did not come to its end.

use std::{collections::HashMap, fs::File, io::BufReader, path::Path, sync::Arc};

use serde::Deserialize;
use spmd::trace::{CpuTime, Event, Message, RankTrace, Trace, Waited};

/// The file as it is written by `Trace::write_chrome`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Chrome {
    other_data: Head,
    trace_events: Vec<Line>,
}

#[derive(Deserialize)]
struct Head {
    spmd_trace: u32,
    program: String,
    clock_error_ns: u64,
    moved_messages: usize,
    #[serde(default)]
    unread: Vec<String>,
}

#[derive(Deserialize)]
struct Line {
    ph: String,
    pid: usize,
    #[serde(default)]
    tid: usize,
    #[serde(default)]
    cat: String,
    #[serde(default)]
    name: String,
    /// Microseconds.
    #[serde(default)]
    ts: f64,
    #[serde(default)]
    dur: f64,
    #[serde(default)]
    args: Args,
}

/// What lines of all kinds say.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Args {
    at: String,
    comm: String,
    completes: bool,
    collective: Option<u32>,
    peer: Option<usize>,
    sent: u64,
    received: u64,
    cpu: Option<usize>,
    waited_ns: u64,
    waited_for: Option<usize>,
    waited_for_call: String,
    ran_ns: u64,
    to: usize,
    received_ns: u64,
    bytes: u64,
    host: String,
    began_ns: u64,
    ended_ns: u64,
    forgotten: u64,
    switches: [u64; 2],
    cpu_ns: u64,
    inside: Option<String>,
}

/// Reads a trace.
///
/// # Errors
/// In words, with the file.
pub(crate) fn read(path: &Path) -> Result<Trace, String> {
    if path.is_dir() {
        return Trace::read_parts(path);
    }
    let name = path.display();
    let file = File::open(path).map_err(|error| {
        let left = format!("{name}.parts");
        let help = if Path::new(&left).is_dir() {
            format!("\n  help: the job did not come to its end; what its ranks left is in {left}")
        } else {
            String::new()
        };
        format!("{name}: {error}{help}")
    })?;
    let chrome: Chrome = serde_json::from_reader(BufReader::new(file))
        .map_err(|error| format!("{name} is no trace of spmd: {error}"))?;
    if chrome.other_data.spmd_trace != 1 {
        let version = chrome.other_data.spmd_trace;
        return Err(format!("{name} is a trace of another spmd (version {version} of its format)"));
    }
    Ok(trace(chrome))
}

fn trace(chrome: Chrome) -> Trace {
    let Head { program, clock_error_ns, moved_messages, unread, .. } = chrome.other_data;
    let mut trace = Trace { program, clock_error_ns, moved_messages, unread, ..Trace::default() };
    let mut places = HashMap::new();
    let mut texts = Texts::default();
    for line in chrome.trace_events {
        let Line { ph, pid, tid, cat, name, ts, dur, args } = line;
        let place = *places.entry(pid).or_insert_with(|| {
            trace.ranks.push(RankTrace { rank: pid, ..RankTrace::default() });
            trace.ranks.len() - 1
        });
        let rank = &mut trace.ranks[place];
        let (start_ns, time_ns) = (nanos(ts), nanos(dur));
        let end_ns = start_ns.saturating_add(time_ns);
        match (&*ph, &*cat, &*name) {
            ("M", _, "spmd_rank") => {
                let Args { host, began_ns, ended_ns, forgotten, switches, cpu_ns, inside, .. } =
                    args;
                (rank.host, rank.began_ns, rank.ended_ns) = (host, began_ns, ended_ns);
                (rank.forgotten, rank.switches) = (forgotten, switches);
                (rank.cpu_ns, rank.inside) = (cpu_ns, inside);
            }
            ("X", "call" | "span", _) => {
                let event = Event {
                    name: texts.get(&name),
                    place: texts.get(&args.at),
                    start_ns,
                    end_ns,
                    completes: args.completes,
                    comm: texts.get(&args.comm),
                    collective: args.collective,
                    peer: args.peer,
                    sent: args.sent,
                    received: args.received,
                    cpu: args.cpu,
                    waited_ns: args.waited_ns,
                    waited_for: args
                        .waited_for
                        .map(|rank| Waited { rank, call: texts.get(&args.waited_for_call) }),
                };
                if cat == "call" { &mut rank.calls } else { &mut rank.spans }.push(event);
            }
            ("X", "cpu", _) => rank.cpu.push(CpuTime {
                thread: tid.saturating_sub(1000),
                start_ns,
                end_ns,
                ran_ns: args.ran_ns,
                waited_ns: args.waited_ns,
                cpu: args.cpu.unwrap_or(0),
            }),
            ("s", ..) => trace.messages.push(Message {
                from: pid,
                to: args.to,
                sent_ns: start_ns,
                received_ns: args.received_ns,
                bytes: args.bytes,
            }),
            _ => {}
        }
    }
    trace.ranks.sort_by_key(|rank| rank.rank);
    trace
}

/// Texts, each kept once.
#[derive(Default)]
struct Texts(HashMap<String, Arc<str>>);

impl Texts {
    fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = text.into();
        self.0.insert(text.to_owned(), Arc::clone(&new));
        new
    }
}

fn nanos(micros: f64) -> u64 {
    (micros * 1000.0).round() as u64
}
