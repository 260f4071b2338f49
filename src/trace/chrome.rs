//! Traces as Chrome's trace events, in JSON: <https://ui.perfetto.dev> shows them.
//!
//! Ranks are processes. Track 0 of each has its spans and calls; messages are arrows between them;
//! tracks from 1000 on show on which CPU its threads were. All that a [`Trace`] has is in it, so
//! that it can be read back.

use std::{
    collections::BTreeSet,
    fmt::{self, Display},
    io::{self, Write},
};

use super::{CpuTime, Event, Message, RankTrace, Trace};

/// The track of a thread's CPU time.
const CPU_TRACK: usize = 1000;

impl Trace {
    /// Writes the trace as Chrome's trace events.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_chrome(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { program, clock_error_ns, moved_messages, .. } = self;
        let unread: Vec<String> = self.unread.iter().map(|what| Text(what).to_string()).collect();
        write!(
            out,
            "{{\"displayTimeUnit\":\"ns\",\"otherData\":{{\"spmd_trace\":1,\"program\":{},\
             \"clock_error_ns\":{clock_error_ns},\"moved_messages\":{moved_messages},\"unread\":[{}]}},\"traceEvents\":[",
            Text(program),
            unread.join(",")
        )?;
        let mut lines = Lines { out, between: "\n" };
        for rank in &self.ranks {
            lines.head(rank)?;
            let pid = rank.rank;
            for (kind, events) in [("span", &rank.spans), ("call", &rank.calls)] {
                for event in events {
                    let slice = Slice(event);
                    lines
                        .put(format_args!("\"pid\":{pid},\"tid\":0,\"cat\":\"{kind}\",{slice}"))?;
                }
            }
            lines.cpu_times(rank)?;
        }
        for (id, message) in self.messages.iter().enumerate() {
            lines.message(id, *message)?;
        }
        writeln!(lines.out, "\n]}}")
    }
}

/// Objects of a list, a line each.
struct Lines<'o> {
    out: &'o mut dyn Write,
    between: &'static str,
}

impl Lines<'_> {
    fn put(&mut self, what: fmt::Arguments<'_>) -> io::Result<()> {
        write!(self.out, "{}{{{what}}}", self.between)?;
        self.between = ",\n";
        Ok(())
    }

    /// What is said of a process or track.
    fn about(&mut self, [pid, tid]: [usize; 2], what: &str, args: &str) -> io::Result<()> {
        self.put(format_args!(
            "\"ph\":\"M\",\"pid\":{pid},\"tid\":{tid},\"name\":\"{what}\",\"args\":{{{args}}}"
        ))
    }

    fn head(&mut self, rank: &RankTrace) -> io::Result<()> {
        let (track, host) = ([rank.rank, 0], &rank.host);
        let title = format!("rank {} on {host}", rank.rank);
        self.about(track, "process_name", &format!("\"name\":{}", Text(&title)))?;
        self.about(track, "thread_name", "\"name\":\"calls\"")?;
        self.about(track, "process_sort_index", &format!("\"sort_index\":{}", rank.rank))?;
        let RankTrace { began_ns, ended_ns, forgotten, cpu_ns, .. } = rank;
        let ([given, taken], host) = (rank.switches, Text(host));
        let inside = rank.inside.as_deref().map_or("null".into(), |text| Text(text).to_string());
        let args = format!(
            "\"host\":{host},\"began_ns\":{began_ns},\"ended_ns\":{ended_ns},\"forgotten\":{forgotten},\
             \"switches\":[{given},{taken}],\"cpu_ns\":{cpu_ns},\"inside\":{inside}"
        );
        self.about(track, "spmd_rank", &args)
    }

    fn cpu_times(&mut self, rank: &RankTrace) -> io::Result<()> {
        let pid = rank.rank;
        let threads: BTreeSet<usize> = rank.cpu.iter().map(|time| time.thread).collect();
        for thread in threads {
            let title = match thread {
                0 => "cpu".to_owned(),
                _ => format!("cpu of rayon thread {thread}"),
            };
            let track = [pid, CPU_TRACK + thread];
            self.about(track, "thread_name", &format!("\"name\":\"{title}\""))?;
        }
        for time in &rank.cpu {
            let CpuTime { thread, start_ns, end_ns, ran_ns, waited_ns, cpu } = *time;
            let had_one = ran_ns >= waited_ns;
            let name = if had_one { format!("on cpu {cpu}") } else { "without a cpu".to_owned() };
            let (tid, start, length) =
                (CPU_TRACK + thread, Micros(start_ns), Micros(end_ns - start_ns));
            self.put(format_args!(
                "\"ph\":\"X\",\"pid\":{pid},\"tid\":{tid},\"cat\":\"cpu\",\"name\":\"{name}\",\"ts\":{start},\
                 \"dur\":{length},\"args\":{{\"cpu\":{cpu},\"ran_ns\":{ran_ns},\"waited_ns\":{waited_ns}}}"
            ))?;
        }
        Ok(())
    }

    /// An arrow. It ends in the slice that is open there: not one that has just ended.
    fn message(&mut self, id: usize, message: Message) -> io::Result<()> {
        const WHAT: &str = "\"tid\":0,\"cat\":\"message\",\"name\":\"message\"";
        let Message { from, to, sent_ns, received_ns, bytes } = message;
        let (sent, arrived) = (Micros(sent_ns), Micros(received_ns.saturating_sub(1).max(sent_ns)));
        self.put(format_args!(
            "\"ph\":\"s\",\"pid\":{from},{WHAT},\"id\":{id},\"ts\":{sent},\
             \"args\":{{\"to\":{to},\"received_ns\":{received_ns},\"bytes\":{bytes}}}"
        ))?;
        self.put(format_args!(
            "\"ph\":\"f\",\"bp\":\"e\",\"pid\":{to},{WHAT},\"id\":{id},\"ts\":{arrived}"
        ))
    }
}

/// An event as a slice of its track.
struct Slice<'a>(&'a Event);

impl Display for Slice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let event = self.0;
        let (start, length) = (Micros(event.start_ns), Micros(event.time_ns()));
        let (name, place, comm) = (Text(&event.name), Text(&event.place), Text(&event.comm));
        write!(
            f,
            "\"ph\":\"X\",\"name\":{name},\"ts\":{start},\"dur\":{length},\"args\":{{\"at\":{place},\"comm\":{comm}"
        )?;
        if event.completes {
            f.write_str(",\"completes\":true")?;
        }
        let numbers = [
            ("collective", event.collective.map(u64::from)),
            ("peer", event.peer.map(|peer| peer as u64)),
            ("sent", (event.sent > 0).then_some(event.sent)),
            ("received", (event.received > 0).then_some(event.received)),
            ("cpu", event.cpu.map(|cpu| cpu as u64)),
            ("waited_ns", (event.waited_ns > 0).then_some(event.waited_ns)),
            ("waited_for", event.waited_for.as_ref().map(|waited| waited.rank as u64)),
        ];
        for (name, number) in numbers {
            if let Some(number) = number {
                write!(f, ",\"{name}\":{number}")?;
            }
        }
        if let Some(waited) = &event.waited_for {
            write!(f, ",\"waited_for_call\":{}", Text(&waited.call))?;
        }
        f.write_str("}")
    }
}

/// Nanoseconds as microseconds, without a digit lost.
struct Micros(u64);

impl Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// A text of JSON.
struct Text<'a>(&'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for letter in self.0.chars() {
            match letter {
                '"' | '\\' => write!(f, "\\{letter}")?,
                control if control < ' ' => write!(f, "\\u{:04x}", control as u32)?,
                other => write!(f, "{other}")?,
            }
        }
        f.write_str("\"")
    }
}
