//! The tour as a page: three measured timelines, and a table.

use super::{Measured, Shown, alone, cells_of};
use crate::view::{
    page::{COLUMNS, Escaped, Html, KEY, in_words, page, table, timeline},
    timeline::Timeline,
};

/// What the page tells of.
pub(super) struct Told<'a> {
    pub(super) cells: usize,
    pub(super) steps: u32,
    pub(super) cores: usize,
    pub(super) base: &'a Measured,
    pub(super) shown: &'a [Shown],
}

pub(super) fn make(told: &Told<'_>) -> String {
    let Told { cells, steps, cores, base, shown } = told;
    let mut body = Html(format!(
        "<h1>One program in three forms, measured</h1>\n\
         <p>The 2-D heat equation on {cells} × {cells} cells, {steps} steps, on a machine with {cores} cores. The ranks of \
         a program are its copies, each with a block of the field of its own. They were run <em>concurrently</em> on one \
         CPU, in <em>parallel</em> on several, and <em>distributed</em> as processes that share nothing. Every form made \
         the same steps and found the exact solution.</p>\n"
    ));
    let head = [
        "<form",
        "ranks × threads",
        "time",
        "speed-up",
        "CPU time",
        "CPU per rank",
        "context switches",
        "messages",
        "bytes",
        "over the network",
        "<result",
    ];
    let mut rows = vec![row(cells_of(&alone(), base, base), "right")];
    for one in *shown {
        let (cells, result) = one.row(base);
        rows.push(row(cells, result));
    }
    body.0.push_str(&table("What each form took", &head, &rows));
    body.0.push_str(KEY);
    for (number, one) in shown.iter().enumerate() {
        let name = one.form.name;
        let (first, rest) = name.split_at(1);
        let (title, how) = (Escaped(&one.form.title), Escaped(&one.how));
        body.add(format_args!("<h2>{}{rest}: {title}</h2>\n", first.to_uppercase()));
        if !one.how.is_empty() {
            body.add(format_args!("<p class=\"soft\">On {how}.</p>\n"));
        }
        let measured = match &one.result {
            Ok(measured) => measured,
            Err(what) => {
                body.add(format_args!("<p>Not shown: {}.</p>\n", Escaped(&what.replace('`', ""))));
                continue;
            }
        };
        body.add(format_args!("<p>{}</p>\n", one.form.sees.join(" ")));
        let (from, to) = measured.closer(*steps);
        let close = measured.trace.clone().window(|_| true, from, to);
        let views = [(&measured.trace, "All steps"), (&close, "A closer look: a dozen steps")];
        for (view, (trace, what)) in views.into_iter().enumerate() {
            let picture = Timeline::new(trace, COLUMNS);
            let words = in_words(&picture);
            body.add(format_args!(
                "<figure>\n{}<figcaption>{what}. {words}</figcaption>\n</figure>\n",
                timeline(&format!("f{number}{view}"), trace, &picture, &words)
            ));
        }
    }
    page("One program in three forms, measured", &body.0)
}

fn row(cells: [String; 10], result: &str) -> Vec<String> {
    cells.into_iter().chain([result.to_owned()]).collect()
}
