//! The report: one page that needs nothing else, no script, and no screen either.

use std::fmt::Write;

use super::{
    Traced,
    chart::{self, escape},
    compare::Comparison,
    output::{COLUMNS, FACTORS, capital, factors, law, row},
    study::{EFFICIENT, Found, State, Study},
};
use crate::options::scale::Mode;

use crate::view::{
    page::{self as view, TIMELINE_STYLE},
    summary::Summary,
    timeline::{Timeline, duration},
};

const STYLE: &str = include_str!("page.css");

/// The page.
///
/// # Errors
/// If a chart cannot be drawn.
pub(super) fn html(
    study: &Study,
    traced: Option<&Traced>,
    compared: Option<&Comparison>,
) -> Result<String, String> {
    let program = study.plan.program.rsplit('/').next().unwrap_or_default();
    let title = format!("Scaling of {program}");
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<title>{0}</title>\n<style>\n{TIMELINE_STYLE}\n{STYLE}</style>\n</head>\n<body>\n\
         <main>\n<h1>{0}</h1>\n<p><code>{1} {2}</code></p>\n",
        escape(&title),
        escape(&study.plan.program),
        escape(&study.plan.arguments.to_string())
    );
    list(&mut page, "verdict", &study.verdict);
    list(&mut page, "notes", &study.warnings);
    if let Some(compared) = compared {
        comparison(&mut page, compared);
    }
    for mode in study.modes() {
        mode_section(&mut page, study, mode)?;
    }
    messages(&mut page, study)?;
    if let Some(traced) = traced {
        timeline(&mut page, traced);
    }
    laws(&mut page, study);
    let facts = study.card.facts.iter().map(|(name, value)| [name.clone(), value.clone()]);
    page.push_str("<h2>Machine</h2>\n");
    words_table(&mut page, "What it was measured on", ["fact", "value"], facts);
    launched(&mut page, study);
    reading(&mut page, study);
    page.push_str("</main>\n</body>\n</html>\n");
    Ok(page)
}

fn list(page: &mut String, class: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(page, "<ul class=\"{class}\">");
    for line in lines {
        let _ = writeln!(page, "<li>{}</li>", escape(line));
    }
    page.push_str("</ul>\n");
}

/// Colours and what they stand for.
fn key(page: &mut String, entries: impl Iterator<Item = (usize, String)>) {
    page.push_str("<ul class=\"key\">\n");
    for (color, name) in entries {
        let _ = writeln!(
            page,
            "<li><i style=\"background: var({})\"></i>{}</li>",
            chart::css_name(color),
            escape(&name)
        );
    }
    page.push_str("</ul>\n");
}

fn figure(
    page: &mut String,
    title: &str,
    drawn: &str,
    entries: Vec<(usize, String)>,
    caption: &str,
) {
    if drawn.is_empty() {
        return;
    }
    let _ = write!(page, "<figure>\n<h3>{}</h3>\n{drawn}\n", escape(title));
    if !entries.is_empty() {
        key(page, entries.into_iter());
    }
    let _ = write!(page, "<figcaption>{}</figcaption>\n</figure>\n", escape(caption));
}

fn mode_section(page: &mut String, study: &Study, mode: Mode) -> Result<(), String> {
    let what = match mode {
        Mode::Strong => "the same work on more cores",
        Mode::Weak => "work in proportion to the cores",
    };
    let _ =
        write!(page, "<h2>{} scaling: {what}</h2>\n<div class=\"grid\">\n", capital(mode.name()));
    let threads = || {
        let all = chart::threads_of(study, mode).into_iter().enumerate();
        all.map(|(number, threads)| {
            let plural = if threads == 1 { "" } else { "s" };
            (number, format!("{threads} thread{plural} per rank"))
        })
        .collect()
    };
    let marks =
        "Hollow: crowded, or the machine was not idle; crosses: wrong results. Dashes: ideal.";
    figure(
        page,
        "Time",
        &chart::time(study, mode)?,
        threads(),
        &format!(
            "Medians, their intervals ({} sure at least), and every launch as a small dot. {marks}",
            study.confidence()
        ),
    );
    figure(
        page,
        "Efficiency",
        &chart::efficiency(study, mode)?,
        threads(),
        &format!(
            "The base case's cores x time over these, of medians, with 95 % intervals (bootstrap). {marks}"
        ),
    );
    let parts = chart::parts(study, mode);
    let entries = parts.iter().map(|(name, color)| (*color, name.clone())).collect();
    figure(
        page,
        "Where the time goes",
        &chart::shares(study, mode)?,
        entries,
        "Of the median launch of each point, ranks x threads; calls of the communicator by name.",
    );
    figure(
        page,
        "Every launch",
        &chart::launches(study, mode)?,
        threads(),
        "Beside the median of its point. Launches were made in random order.",
    );
    page.push_str("</div>\n");
    let rows: Vec<&Found> = study.of_mode(mode).collect();
    let table = rows.iter().map(|found| {
        let (cells, state) = row(found);
        (cells.to_vec(), Some(state), found.state == State::Good)
    });
    numbers(
        page,
        &format!("{} scaling: times", capital(mode.name())),
        &[&COLUMNS[..], &[MARKS]].concat(),
        table,
    );
    let table = rows
        .iter()
        .filter_map(|found| Some((factors(found)?.to_vec(), None, found.state == State::Good)));
    numbers(page, "Factors of efficiency", &FACTORS, table);
    let names: Vec<&str> =
        ["ranks x threads"].into_iter().chain(parts.iter().map(|(name, _)| &**name)).collect();
    let table = rows.iter().filter(|found| found.split.is_some()).map(|found| {
        let name = format!("{} x {}", found.point.ranks, found.point.threads);
        let shares = parts
            .iter()
            .map(|(part, _)| format!("{:.1} %", 100.0 * chart::share_of(found, part, &parts)));
        ([name].into_iter().chain(shares).collect(), None, found.state == State::Good)
    });
    numbers(page, "Where the time goes", &names, table);
    if mode == Mode::Weak {
        let table = rows.iter().map(|found| {
            let values = found.point.values.iter().map(|(name, value)| format!("{name} = {value}"));
            let cells = vec![
                format!("{} x {}", found.point.ranks, found.point.threads),
                values.collect::<Vec<_>>().join(", "),
                format!("{:.2} %", 100.0 * found.share_of_work),
                format!("{:.2} %", 100.0 * found.point.uneven),
            ];
            (cells, None, found.state == State::Good)
        });
        let columns =
            ["ranks x threads", "numbers", "work of a core", "largest block over its share"];
        numbers(page, "Work after rounding", &columns, table);
    }
    Ok(())
}

/// The column of what is wrong with a row.
const MARKS: &str = "marks";

type Row = (Vec<String>, Option<String>, bool);

/// A table of numbers that scrolls by itself where the page is narrow.
fn numbers(page: &mut String, caption: &str, columns: &[&str], rows: impl Iterator<Item = Row>) {
    let caption = escape(caption);
    let _ = write!(
        page,
        "<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"{caption}\">\n<table>\n<caption>{caption}</caption>\n\
         <thead><tr>"
    );
    for column in columns {
        let class = if *column == MARKS { " class=\"mark\"" } else { "" };
        let _ = write!(page, "<th scope=\"col\"{class}>{}</th>", escape(column));
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for (cells, mark, good) in rows {
        page.push_str(if good { "<tr>" } else { "<tr class=\"doubt\">" });
        for (at, cell) in cells.iter().enumerate() {
            let _ = match at {
                0 => write!(page, "<th scope=\"row\">{}</th>", escape(cell)),
                _ => write!(page, "<td>{}</td>", escape(cell)),
            };
        }
        if let Some(mark) = mark {
            let _ = write!(page, "<td class=\"mark\">{}</td>", escape(&mark));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table>\n</div>\n");
}

/// A table of words, which wrap.
fn words_table<const N: usize>(
    page: &mut String,
    caption: &str,
    columns: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) {
    let _ = write!(
        page,
        "<table class=\"words\">\n<caption>{}</caption>\n<thead><tr>",
        escape(caption)
    );
    for column in columns {
        let _ = write!(page, "<th scope=\"col\">{}</th>", escape(column));
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        page.push_str("<tr>");
        for (at, cell) in row.iter().enumerate() {
            let _ = match at {
                0 => write!(page, "<th scope=\"row\">{}</th>", escape(cell)),
                _ => write!(page, "<td>{}</td>", escape(cell)),
            };
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table>\n");
}

/// Who sends how much to whom, in the largest run that is known.
fn messages(page: &mut String, study: &Study) -> Result<(), String> {
    const ROWS: usize = 20;
    let known = study
        .points
        .iter()
        .filter(|found| study.median_run(found).is_some_and(|run| !run.messages.is_empty()));
    let Some(found) = known.max_by_key(|found| (found.state == State::Good, found.point.ranks))
    else {
        return Ok(());
    };
    let Some(run) = study.median_run(found) else { return Ok(()) };
    let _ = writeln!(page, "<h2>Messages of {}</h2>", escape(&found.point.name()));
    let bytes: Vec<_> =
        run.messages.iter().map(|(from, to, _, bytes)| (*from, *to, *bytes)).collect();
    figure(
        page,
        "Bytes by sender and receiver",
        &chart::matrix(found.point.ranks, &bytes)?,
        Vec::new(),
        "Point-to-point messages of the part that is timed; what collectives move inside the library is not among them.",
    );
    let mut rows = run.messages.clone();
    rows.sort_by_key(|(from, to, _, bytes)| (std::cmp::Reverse(*bytes), *from, *to));
    let more = rows.len().saturating_sub(ROWS);
    let table = rows.iter().take(ROWS).map(|(from, to, messages, bytes)| {
        (vec![format!("{from} to {to}"), messages.to_string(), bytes.to_string()], None, true)
    });
    let caption = match more {
        0 => "Messages by pair of ranks".to_owned(),
        more => format!(
            "Messages by pair of ranks: the {ROWS} with most bytes, {more} more are in study.json"
        ),
    };
    numbers(page, &caption, &["ranks", "messages", "bytes"], table);
    Ok(())
}

/// What ranks did in one launch.
fn timeline(page: &mut String, Traced { point, trace }: &Traced) {
    let (picture, summary) = (Timeline::new(trace, view::COLUMNS), Summary::new(trace, 5));
    let words = view::in_words(&picture);
    let drawn = view::timeline("timeline", trace, &picture, &words);
    let _ = write!(
        page,
        "<h2>Timeline</h2>\n<figure>\n{drawn}{}<figcaption>One more launch of {}, which counts for nothing else. {}</figcaption>\n\
         </figure>\n",
        view::KEY,
        escape(point),
        escape(&words)
    );
    let rows = summary.waits.iter().map(|(rank, call)| {
        let whom = call
            .waited_for
            .as_ref()
            .map_or_else(String::new, |whom| format!("rank {}: its {}", whom.rank, whom.call));
        let what = format!("rank {rank} in {} at {}", call.name, call.place);
        [duration(call.waited_ns as f64), what, whom]
    });
    words_table(page, "The longest waits", ["waited", "who", "for whom"], rows);
}

fn laws(page: &mut String, study: &Study) {
    page.push_str("<h2>Laws</h2>\n");
    let rows = study.series.iter().flat_map(|series| {
        series.laws.iter().map(move |known| {
            let (parameters, words) = law(&known.fit);
            let points = format!("{}, {}", series.mode.name(), series.threads_in_words());
            [format!("{} ({points})", known.name), known.formula.clone(), parameters, words]
        })
    });
    words_table(
        page,
        "Laws fitted to the medians of good points",
        ["law", "formula", "parameters", "in words"],
        rows,
    );
}

/// The command line and binding of a launch of each point.
fn launched(page: &mut String, study: &Study) {
    let rows = study.points.iter().enumerate().filter_map(|(which, found)| {
        let sample = study.samples.iter().find(|sample| sample.point == which)?;
        let parts = sample.run.iter().flat_map(|run| &run.parts);
        let mut cpus: Vec<&str> = parts.map(|part| &*part.cpus).collect();
        cpus.dedup();
        let seen = match &*cpus {
            [] => "unknown".to_owned(),
            [one] => format!("every rank may use {one}"),
            several => several.join("; "),
        };
        Some([found.point.name(), sample.command.clone(), sample.binding.clone(), seen])
    });
    words_table(
        page,
        "How each point was launched",
        ["point", "command", "binding", "CPUs that ranks saw"],
        rows,
    );
}

fn comparison(page: &mut String, compared: &Comparison) {
    page.push_str("<h2>Beside the earlier study</h2>\n");
    let rows = compared.points.iter().map(|point| {
        let (ratio, low, high) = point.ratio;
        let cells = vec![
            point.name.clone(),
            format!("{:.4}", point.before_s),
            format!("{:.4}", point.now_s),
            format!("{ratio:.3} [{low:.3}, {high:.3}]"),
            format!("{:.2e}", point.chance),
        ];
        (cells, Some(if point.slower { "slower" } else { "" }.to_owned()), true)
    });
    let columns = ["point", "before [s]", "now [s]", "now / before", "chance", MARKS];
    numbers(
        page,
        "One-sided rank test, Holm's correction, 5 % for all points together",
        &columns,
        rows,
    );
    list(page, "notes", &compared.notes);
}

fn reading(page: &mut String, study: &Study) {
    let lines = [
        format!(
            "Time is what the program itself counts (its timed part), of the slowest rank; {} launches of each point, all \
             separate, in random order.",
            study.plan.launches
        ),
        format!("Efficient means {:.0} % of ideal or more.", 100.0 * EFFICIENT),
        "Load balance: the ranks' mean time outside calls over the longest. Communication: that longest time over the \
         whole. Threads: the share of that time in which a rank's threads computed. Computation: the CPU time that the same \
         work takes in the base case over what it takes here. Their product over the base case's is the efficiency."
            .to_owned(),
        "A law is refused where fewer good points than it needs are there, where it is further than 10 % from a point, or \
         where launches differ too much. Crowded points and such as were not measured on an idle machine are in none."
            .to_owned(),
    ];
    page.push_str("<h2>How to read this</h2>\n");
    list(page, "notes", &lines);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::study::tests::synthetic;

    #[test]
    fn a_page_stands_by_itself_and_says_everything_in_words_too() {
        let study = synthetic(1, &[1, 2, 4, 8, 32], 6, 0.01, |p| 0.01 + 1.0 / p as f64, |_, _| 0.1);
        let compared = Comparison::new(&study, &study, 0.05).unwrap();
        let page = html(&study, None, Some(&compared)).unwrap();
        for outside in ["<script", "http://", "https://", "<link", "@import", "url("] {
            // The name of SVG's language is no address that is fetched.
            assert!(!page.replace("http://www.w3.org/2000/svg", "").contains(outside), "{outside}");
        }
        let charts = page.matches("<svg ").count();
        assert_eq!(charts, 5, "time, efficiency, shares, launches, matrix");
        assert_eq!(page.matches("role=\"img\"").count(), charts);
        assert!(page.matches("<table").count() > charts, "a table beside every chart");
        assert!(page.contains("prefers-color-scheme: dark") && page.contains("@media print"));
        assert!(
            page.contains("<tr class=\"doubt\"><th scope=\"row\">32 x 1</th>"),
            "the crowded point"
        );
        let mut ids: Vec<&str> =
            page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count, "an id stands once");
    }

    #[test]
    fn what_programs_are_called_is_no_markup() {
        let mut study = synthetic(1, &[1, 2], 3, 0.01, |p| 1.0 / p as f64, |_, _| 0.1);
        study.plan.program = "a<b>&\"c\"".to_owned();
        let page = html(&study, None, None).unwrap();
        assert!(page.contains("a&lt;b&gt;&amp;&quot;c&quot;") && !page.contains("a<b>"));
    }
}
