//! Traces as Chrome's trace events, in JSON: <https://ui.perfetto.dev> shows them.
//!
//! Ranks are processes. Track 0 of each has its spans and calls; messages are arrows between them;
//! tracks from 1000 on show on which CPU its threads were. All that a [`Trace`] has is in it, so
//! that it can be read back.

use std::{
    fmt::{self, Display},
    io::{self, Write},
};

use super::{Event, Trace};

/// The track of a thread's CPU time.
const CPU_TRACK: usize = 1000;

impl Trace {
    /// Writes the trace as Chrome's trace events.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_chrome(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { program, clock_error_ns, moved_messages, .. } = self;
        write!(
            out,
            "{{\"displayTimeUnit\":\"ns\",\"otherData\":{{\"spmd_trace\":1,\"program\":{},\
             \"clock_error_ns\":{clock_error_ns},\"moved_messages\":{moved_messages}}},\"traceEvents\":[",
            Text(program)
        )?;
        let mut between = "\n";
        let mut line = |out: &mut dyn Write, what: fmt::Arguments<'_>| {
            write!(out, "{between}{{{what}}}")?;
            between = ",\n";
            Ok::<_, io::Error>(())
        };
        for rank in &self.ranks {
            let pid = rank.rank;
            let title = format!("rank {pid} on {}", rank.host);
            for (what, value) in
                [("process_name", Text(&title).to_string()), ("thread_name", "\"calls\"".into())]
            {
                line(
                    out,
                    format_args!(
                        "\"ph\":\"M\",\"pid\":{pid},\"tid\":0,\"name\":\"{what}\",\"args\":{{\"name\":{value}}}"
                    ),
                )?;
            }
            line(
                out,
                format_args!(
                    "\"ph\":\"M\",\"pid\":{pid},\"tid\":0,\"name\":\"process_sort_index\",\"args\":{{\"sort_index\":{pid}}}"
                ),
            )?;
            let [given, taken] = rank.switches;
            let inside =
                rank.inside.as_deref().map_or("null".into(), |text| Text(text).to_string());
            line(
                out,
                format_args!(
                    "\"ph\":\"M\",\"pid\":{pid},\"tid\":0,\"name\":\"spmd_rank\",\"args\":{{\"host\":{},\"began_ns\":{},\
                 \"ended_ns\":{},\"forgotten\":{},\"switches\":[{given},{taken}],\"cpu_ns\":{},\"inside\":{inside}}}",
                    Text(&rank.host),
                    rank.began_ns,
                    rank.ended_ns,
                    rank.forgotten,
                    rank.cpu_ns
                ),
            )?;
            for (kind, events) in [("span", &rank.spans), ("call", &rank.calls)] {
                for event in events {
                    line(
                        out,
                        format_args!("\"pid\":{pid},\"tid\":0,\"cat\":\"{kind}\",{}", Slice(event)),
                    )?;
                }
            }
            let mut threads: Vec<usize> = rank.cpu.iter().map(|time| time.thread).collect();
            threads.sort_unstable();
            threads.dedup();
            for thread in threads {
                let tid = CPU_TRACK + thread;
                let title = if thread == 0 {
                    "cpu".into()
                } else {
                    format!("cpu of rayon thread {thread}")
                };
                line(
                    out,
                    format_args!(
                        "\"ph\":\"M\",\"pid\":{pid},\"tid\":{tid},\"name\":\"thread_name\",\"args\":{{\"name\":\"{title}\"}}"
                    ),
                )?;
            }
            for time in &rank.cpu {
                let tid = CPU_TRACK + time.thread;
                let name = if time.ran_ns >= time.waited_ns {
                    format!("on cpu {}", time.cpu)
                } else {
                    "without a cpu".into()
                };
                let (start, length) = (Micros(time.start_ns), Micros(time.end_ns - time.start_ns));
                line(
                    out,
                    format_args!(
                        "\"ph\":\"X\",\"pid\":{pid},\"tid\":{tid},\"cat\":\"cpu\",\"name\":\"{name}\",\"ts\":{start},\"dur\":{length},\
                     \"args\":{{\"cpu\":{},\"ran_ns\":{},\"waited_ns\":{}}}",
                        time.cpu, time.ran_ns, time.waited_ns
                    ),
                )?;
            }
        }
        for (id, message) in self.messages.iter().enumerate() {
            let super::Message { from, to, sent_ns, received_ns, bytes } = *message;
            line(
                out,
                format_args!(
                    "\"ph\":\"s\",\"pid\":{from},\"tid\":0,\"cat\":\"message\",\"name\":\"message\",\"id\":{id},\"ts\":{},\
                 \"args\":{{\"to\":{to},\"received_ns\":{received_ns},\"bytes\":{bytes}}}",
                    Micros(sent_ns)
                ),
            )?;
            // An arrow ends in the slice that is open there: not one that has just ended.
            let arrived = Micros(received_ns.saturating_sub(1).max(sent_ns));
            line(
                out,
                format_args!(
                    "\"ph\":\"f\",\"bp\":\"e\",\"pid\":{to},\"tid\":0,\"cat\":\"message\",\"name\":\"message\",\"id\":{id},\"ts\":{arrived}"
                ),
            )?;
        }
        writeln!(out, "\n]}}")
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
