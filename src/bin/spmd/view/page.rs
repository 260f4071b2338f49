//! Pages of one file that need nothing else: no script, no network, light and dark, printable.

use std::fmt::{self, Display, Write};

use spmd::trace::Trace;

use super::{
    summary::{Efficiency, Summary, remarks},
    timeline::{Lane, Timeline, bytes, duration, ticks},
};

/// What timelines look like, on these pages and on others.
pub(crate) const TIMELINE_STYLE: &str = "\
:root{--ink:#1c2126;--soft:#5b6670;--line:#d5dade;--compute:#1b7f6b;--call:#3b77c2;--wait:#e3a72f;--lost:#c2452d}\
@media(prefers-color-scheme:dark){:root{--ink:#e6eaed;--soft:#9aa6b0;--line:#343c44;--compute:#3aa88f;--call:#6da3e8;\
--wait:#d9a441;--lost:#e06a52}}\
.wide{overflow-x:auto}.wide:focus-visible{outline:2px solid var(--call)}\
.wide svg{display:block;width:100%;min-width:44rem;max-width:none;height:auto}\
.wide svg text{font:11px system-ui,sans-serif;fill:var(--ink)}.wide svg .soft{fill:var(--soft)}\
.wide svg .tick{stroke:var(--line);fill:none}\
.compute{fill:var(--compute)}.call{fill:var(--call)}.wait{fill:var(--wait)}.lost{fill:var(--lost)}\
.message{stroke:var(--ink);stroke-width:.6;opacity:.45}\
.cpu0{fill:#4e79a7}.cpu1{fill:#f28e2b}.cpu2{fill:#59a14f}.cpu3{fill:#b07aa1}.cpu4{fill:#76b7b2}.cpu5{fill:#edc948}\
.cpu6{fill:#9c755f}.cpu7{fill:#ff9da7}\
@media print{.wide{overflow:visible}.wide svg{min-width:0}}";

/// What all pages look like.
const STYLE: &str = "\
:root{color-scheme:light dark;--paper:#fff}@media(prefers-color-scheme:dark){:root{--paper:#14181c}}\
body{background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;\
padding:0 1rem}h1{font-size:1.6rem;line-height:1.25}h2{font-size:1.25rem;margin-top:2.2rem}\
code{font:0.9em ui-monospace,monospace;overflow-wrap:anywhere}figure{margin:1rem 0}figcaption,.soft{color:var(--soft)}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92rem}\
th,td{padding:.25rem .7rem .25rem 0;text-align:right;border-bottom:1px solid var(--line);vertical-align:top}\
td{white-space:nowrap}th:first-child,td:first-child,.text{text-align:left}caption{text-align:left;color:var(--soft);padding-bottom:.3rem}\
.key{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;padding:0;list-style:none;font-size:.92rem}\
.key i{display:inline-block;width:.9em;height:.9em;margin-right:.4em;vertical-align:-.08em;border-radius:2px}\
@media print{body{max-width:none;margin:0}}";

/// HTML that grows.
pub(crate) struct Html(pub(crate) String);

impl Html {
    pub(crate) fn add(&mut self, what: fmt::Arguments<'_>) {
        let _ = self.0.write_fmt(what); // writing to a string does not fail
    }
}

/// A whole page.
pub(crate) fn page(title: &str, body: &str) -> String {
    let title = Escaped(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>{TIMELINE_STYLE}{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
}

/// Text in HTML.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '<' => f.write_str("&lt;"),
                '>' => f.write_str("&gt;"),
                '&' => f.write_str("&amp;"),
                '"' => f.write_str("&quot;"),
                other => f.write_char(other),
            }?;
        }
        Ok(())
    }
}

/// A table: its caption, its head, and rows of cells; a head that begins with `<` is of text, which
/// stands on the left.
pub(crate) fn table(caption: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    let is_text: Vec<bool> = head.iter().map(|cell| cell.starts_with('<')).collect();
    let class =
        |column: usize| if is_text.get(column) == Some(&true) { " class=\"text\"" } else { "" };
    let mut html = Html(format!(
        "<div class=\"wide\" tabindex=\"0\" role=\"group\" aria-label=\"{0}\"><table>\n<caption>{0}</caption>\n<thead><tr>",
        Escaped(caption)
    ));
    for (column, cell) in head.iter().enumerate() {
        let cell = Escaped(cell.trim_start_matches('<'));
        html.add(format_args!("<th scope=\"col\"{}>{cell}</th>", class(column)));
    }
    html.0.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        html.0.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            html.add(format_args!("<td{}>{}</td>", class(column), Escaped(cell)));
        }
        html.0.push_str("</tr>\n");
    }
    html.0 + "</tbody></table></div>\n"
}

/// What the colours of timelines mean.
pub(crate) const KEY: &str = "<ul class=\"key\">\
<li><i style=\"background:var(--compute)\"></i>computing</li>\
<li><i style=\"background:var(--call)\"></i>in calls: moving bytes</li>\
<li><i style=\"background:var(--wait)\"></i>waiting for another rank</li>\
<li><i style=\"background:var(--lost)\"></i>ready, but without a CPU</li>\
<li>thin strips: the CPU that each thread of the rank had, a colour for each</li><li>lines: messages</li></ul>\n";

/// Columns of a picture.
pub(crate) const COLUMNS: usize = 600;

/// More messages make no picture: so many are drawn of all.
const DRAWN: usize = 300;

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const LANE: f64 = 26.0;
const STRIP: f64 = 6.0;
const GAP: f64 = 10.0;
const TOP: f64 = 8.0;

/// A timeline as a picture; `what` says in words what is on it.
pub(crate) fn timeline(id: &str, trace: &Trace, timeline: &Timeline, what: &str) -> String {
    let lanes = timeline.lanes.len();
    let strips = |lane: &Lane| lane.threads.len().max(1) as f64;
    let mut tops = Vec::with_capacity(lanes);
    let mut bottom = TOP;
    for lane in &timeline.lanes {
        tops.push(bottom);
        bottom += LANE + strips(lane) * STRIP + GAP;
    }
    let height = bottom + 22.0;
    let length_ns = (timeline.to_ns - timeline.from_ns) as f64;
    let inner = WIDTH - LEFT - RIGHT;
    let x = |ns: f64| LEFT + (ns - timeline.from_ns as f64) / length_ns * inner;
    let mut svg = format!(
        "<div class=\"wide\" tabindex=\"0\" role=\"group\" aria-label=\"timeline\"><svg viewBox=\"0 0 {WIDTH} {height}\" \
         role=\"img\" aria-labelledby=\"{id}-t {id}-d\">\n\
         <title id=\"{id}-t\">Timeline of {}</title><desc id=\"{id}-d\">{}</desc>\n\
         <defs><marker id=\"{id}-a\" viewBox=\"0 0 6 6\" refX=\"5\" refY=\"3\" markerWidth=\"5\" markerHeight=\"5\" \
         orient=\"auto\"><path d=\"M0 0 6 3 0 6z\" fill=\"var(--ink)\"/></marker>\
         <clipPath id=\"{id}-c\"><rect x=\"{LEFT}\" y=\"0\" width=\"{inner}\" height=\"{height}\"/></clipPath></defs>\n",
        ranks(lanes),
        Escaped(what)
    );
    for (time_ns, label) in ticks(length_ns) {
        let x = x(timeline.from_ns as f64 + time_ns);
        let _ = writeln!(
            svg,
            "<path class=\"tick\" d=\"M{x:.1} 4V{bottom:.0}\"/><text class=\"soft\" x=\"{x:.1}\" y=\"{:.0}\" \
             text-anchor=\"{}\">{label}</text>",
            bottom + 14.0,
            if time_ns == 0.0 {
                "start"
            } else if x > WIDTH - 40.0 {
                "end"
            } else {
                "middle"
            }
        ); // writing to a string does not fail, here and below
    }
    for (lane, &top) in timeline.lanes.iter().zip(&tops) {
        let _ = writeln!(svg, "<text x=\"4\" y=\"{:.1}\">rank {}</text>", top + 17.0, lane.rank);
        if timeline.lanes.iter().any(|other| other.host != lane.host) {
            // Short names stand before the lane; a long one would reach into it.
            let host: String = lane.host.chars().take(9).collect();
            let (y, host) = (top + 29.0, Escaped(&host));
            let _ = writeln!(svg, "<text class=\"soft\" x=\"4\" y=\"{y:.1}\">{host}</text>");
        }
        // In each column one above the other, from the bottom: what the rank did.
        let mut paths = [const { String::new() }; 4];
        let shares: Vec<[u8; 4]> = lane
            .columns
            .iter()
            .map(|column| {
                [column.computed, column.communicated, column.waited, column.without_cpu]
                    .map(|share| (share * 26.0).round() as u8)
            })
            .collect();
        runs(&shares, |from, to, shares| {
            let (left, width) = (place(from), place(to) - place(from));
            let mut y = top + LANE;
            for (path, &share) in paths.iter_mut().zip(shares) {
                let tall = f64::from(share);
                if share > 0 {
                    y -= tall;
                    let _ = write!(path, "M{left:.1} {y:.1}h{width:.1}v{tall}h-{width:.1}z");
                }
            }
        });
        for (class, path) in ["compute", "call", "wait", "lost"].iter().zip(&paths) {
            if !path.is_empty() {
                let _ = writeln!(svg, "<path class=\"{class}\" d=\"{path}\"/>");
            }
        }
        for (thread, cpus) in lane.threads.iter().enumerate() {
            let y = top + LANE + 1.0 + thread as f64 * STRIP;
            svg += &strip(y, cpus);
        }
    }
    let lane_of = |rank: usize| timeline.lanes.iter().position(|lane| lane.rank == rank);
    let _ = writeln!(svg, "<g clip-path=\"url(#{id}-c)\">");
    let step = trace.messages.len().div_ceil(DRAWN).max(1);
    for message in trace.messages.iter().step_by(step) {
        if let (Some(from), Some(to)) = (lane_of(message.from), lane_of(message.to)) {
            let y = |lane: usize| tops[lane] + LANE / 2.0;
            let _ = writeln!(
                svg,
                "<line class=\"message\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" marker-end=\"url(#{id}-a)\"/>",
                x(message.sent_ns as f64),
                y(from),
                x(message.received_ns as f64),
                y(to)
            );
        }
    }
    svg + "</g></svg></div>\n"
}

/// The CPUs that a thread had.
fn strip(y: f64, cpus: &[Option<(usize, f64)>]) -> String {
    let mut svg = String::new();
    let shade = |share: f64| (share * 4.0).ceil() as u8;
    let shaded: Vec<Option<(usize, u8)>> =
        cpus.iter().map(|cpu| cpu.map(|(cpu, share)| (cpu, shade(share)))).collect();
    runs(&shaded, |from, to, cpu| {
        if let Some((cpu, share)) = cpu {
            let (left, width) = (place(from), place(to) - place(from));
            let _ = writeln!(
                svg,
                "<rect class=\"cpu{}\" x=\"{left:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.0}\" \
                 opacity=\"{:.2}\"/>",
                cpu % 8,
                STRIP - 1.0,
                f64::from(*share) / 4.0
            ); // writing to a string does not fail
        }
    });
    svg
}

/// Where a column begins.
fn place(column: usize) -> f64 {
    LEFT + column as f64 / COLUMNS as f64 * (WIDTH - LEFT - RIGHT)
}

/// Each run of equal values: from, to, and the value.
fn runs<T: PartialEq>(values: &[T], mut each: impl FnMut(usize, usize, &T)) {
    let mut from = 0;
    for run in values.chunk_by(|one, two| one == two) {
        each(from, from + run.len(), &run[0]);
        from += run.len();
    }
}

/// The share of the ranks' time that each colour has, in words.
pub(crate) fn in_words(timeline: &Timeline) -> String {
    let columns = || timeline.lanes.iter().flat_map(|lane| &lane.columns);
    let count = columns().count().max(1) as f64;
    let share = |part: fn(&super::timeline::Column) -> f64| {
        100.0 * columns().map(part).sum::<f64>() / count
    };
    format!(
        "{} over {}: computing {:.0} % of the time, in calls {:.0} %, waiting for another rank {:.0} %, ready but \
         without a CPU {:.0} %.",
        ranks(timeline.lanes.len()),
        duration((timeline.to_ns - timeline.from_ns) as f64),
        share(|column| column.computed),
        share(|column| column.communicated),
        share(|column| column.waited),
        share(|column| column.without_cpu)
    )
}

fn ranks(count: usize) -> String {
    if count == 1 { "1 rank".to_owned() } else { format!("{count} ranks") }
}

/// The page of a trace.
pub(crate) fn of_trace(trace: &Trace, summary: &Summary<'_>) -> String {
    let picture = Timeline::new(trace, COLUMNS);
    let words = in_words(&picture);
    let Efficiency { balance, communication } = summary.efficiency;
    let (messages, moved) = summary.messages();
    let mut body = Html(format!(
        "<h1>What {} ranks did in {}</h1>\n<p><code>{}</code></p>\n\
         <p>Parallel efficiency {:.0} % = load balance {:.0} % × communication {:.0} %. {messages} messages, {}.</p>\n",
        trace.ranks.len(),
        duration(summary.time_ns as f64),
        Escaped(&trace.program),
        100.0 * summary.efficiency.parallel(),
        100.0 * balance,
        100.0 * communication,
        bytes(moved)
    ));
    for remark in remarks(trace) {
        body.add(format_args!("<p class=\"soft\">{}</p>\n", Escaped(&remark)));
    }
    let drawn = trace.messages.len().div_ceil(trace.messages.len().div_ceil(DRAWN).max(1));
    body.add(format_args!(
        "<h2>Timeline</h2>\n<figure>\n{}{KEY}<figcaption>{words} {drawn} of {} messages are drawn.</figcaption>\n</figure>\n",
        timeline("t", trace, &picture, &words),
        trace.messages.len()
    ));
    body.0.push_str("<h2>Ranks</h2>\n");
    let rows: Vec<Vec<String>> = trace
        .ranks
        .iter()
        .map(|rank| {
            let (called, waited) = (rank.in_calls_ns(), rank.waited_ns());
            let time = |ns: u64| duration(ns as f64);
            let [given, taken] = rank.switches;
            vec![
                rank.rank.to_string(),
                rank.host.clone(),
                time(rank.time_ns().saturating_sub(called)),
                time(called),
                time(waited),
                time(rank.cpu_ns),
                given.to_string(),
                taken.to_string(),
            ]
        })
        .collect();
    let head = [
        "rank",
        "<host",
        "computing",
        "in calls",
        "waiting",
        "CPU time",
        "gave its CPU up",
        "lost its CPU",
    ];
    body.0.push_str(&table("What each rank did", &head, &rows));
    body.0.push_str("<h2>Calls</h2>\n");
    let rows: Vec<Vec<String>> = summary
        .operations
        .iter()
        .map(|(name, operation)| {
            let time = |ns: u64| duration(ns as f64);
            vec![
                (*name).to_owned(),
                operation.calls.to_string(),
                time(operation.time_ns),
                time(operation.waited_ns),
                time(operation.longest_ns),
                bytes(operation.sent),
                bytes(operation.received),
            ]
        })
        .collect();
    let head = ["<operation", "calls", "time", "waiting", "longest", "sent", "received"];
    body.0.push_str(&table("All ranks' calls by name", &head, &rows));
    if !summary.waits.is_empty() {
        body.0.push_str("<h2>The longest waits</h2>\n");
        let rows: Vec<Vec<String>> = summary
            .waits
            .iter()
            .map(|(rank, call)| {
                let (whom, with) = call.waited_for.as_ref().map_or_else(Default::default, |whom| {
                    (format!("rank {}", whom.rank), whom.call.to_string())
                });
                vec![
                    duration(call.waited_ns as f64),
                    format!("rank {rank}"),
                    format!("{} at {}", call.name, call.place),
                    whom,
                    with,
                    duration(call.start_ns as f64),
                ]
            })
            .collect();
        let head = ["waited", "<who", "<in", "<for", "<which came with", "since"];
        body.0.push_str(&table("Who waited for whom", &head, &rows));
    }
    page(&format!("Trace of {} ranks", trace.ranks.len()), &body.0)
}
