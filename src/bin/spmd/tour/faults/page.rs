//! The story of a run as a page: a lane for each host, the steps below, and what happened.

use super::{
    happened,
    story::{Host, Story},
};
use crate::view::{
    page::{Escaped, Html, page, table},
    timeline::ticks,
};

/// The picture, in its own units.
const LEFT: f64 = 70.0;
const WIDTH: f64 = 830.0;
const LANE: f64 = 26.0;
const STEPS: f64 = 120.0;

fn colour(host: Host) -> &'static str {
    match host {
        Host::Works => "var(--compute)",
        Host::Waits => "var(--wait)",
        Host::Lost => "var(--lost)",
        Host::Out => "#b07aa1",
        Host::Idle => "#76b7b2",
    }
}

pub(super) fn make(story: &Story, cells: u32, verdict: &str) -> String {
    let title = "A run on hosts that come and go, measured";
    let mut body = Html(format!(
        "<h1>{title}</h1>\n<p>The 2-D heat equation on {cells} × {cells} cells, a rank on each of four hosts, started once, \
         by <code>spmd run --restarts 9</code>. One host crashed, one was drained, one came in. Each time the program went \
         on from its last checkpoint, on the hosts there were then: {}.</p>\n",
        Escaped(verdict)
    ));
    body.0.push_str("<ul class=\"key\">");
    for (host, _, words) in Host::ALL {
        let colour = colour(host);
        body.add(format_args!("<li><i style=\"background:{colour}\"></i>{words}</li>"));
    }
    body.0.push_str("</ul>\n");
    let words = "A lane for each host over time, and below it the number of steps that were made";
    body.add(format_args!(
        "<figure>\n{}<figcaption>{words}. Where the line falls, steps are done again from the last checkpoint. Dashed: what was \
         done to the hosts.</figcaption>\n</figure>\n",
        picture(story, words)
    ));
    let rows: Vec<Vec<String>> = happened(story).into_iter().map(Vec::from).collect();
    body.0.push_str(&table("What happened", &["time", "<what"], &rows));
    page(title, &body.0)
}

fn picture(story: &Story, words: &str) -> String {
    let hosts = story.hosts();
    let lanes = hosts.len() as f64 * LANE;
    let height = lanes + STEPS + 50.0;
    let across = |at_s: f64| LEFT + WIDTH * (at_s / story.ended_s.max(1e-9)).clamp(0.0, 1.0);
    let mut svg = Html(format!(
        "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{words}\">\n<svg viewBox=\"0 0 {} {height}\" role=\"img\" \
         aria-label=\"{words}\"><title>{words}</title>\n",
        LEFT + WIDTH + 20.0
    ));
    for (number, host) in hosts.iter().enumerate() {
        let top = number as f64 * LANE + 4.0;
        svg.add(format_args!("<text x=\"4\" y=\"{}\">{}</text>\n", top + 14.0, Escaped(host)));
        for (from_s, to_s, is) in story.lane(host) {
            let (from, to) = (across(from_s), across(to_s));
            svg.add(format_args!(
                "<rect style=\"fill:{}\" x=\"{from:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{}\"/>\n",
                colour(is),
                to - from,
                LANE - 8.0
            ));
        }
    }
    let floor = lanes + STEPS + 16.0;
    let most = story.samples.iter().filter_map(|sample| sample.step).max().unwrap_or(1).max(1);
    let up = |step: u64| floor - STEPS * step as f64 / most as f64;
    let points = story
        .samples
        .iter()
        .filter_map(|sample| Some(format!("{:.1},{:.1}", across(sample.at_s), up(sample.step?))));
    svg.add(format_args!(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"var(--call)\" stroke-width=\"2\"/>\n\
         <text class=\"soft\" x=\"4\" y=\"{}\">steps</text>\n<text class=\"soft\" x=\"4\" y=\"{}\">{most}</text>\n",
        points.collect::<Vec<_>>().join(" "),
        floor,
        up(most) + 10.0
    ));
    for deed in &story.deeds {
        let x = across(deed.at_s);
        svg.add(format_args!(
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{floor}\" stroke=\"var(--ink)\" stroke-dasharray=\"3 3\"/>\n"
        ));
    }
    for (at_ns, words) in ticks(story.ended_s * 1e9) {
        let x = across(at_ns / 1e9);
        svg.add(format_args!(
            "<line class=\"tick\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{floor}\" y2=\"{}\"/>\n\
             <text class=\"soft\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{words}</text>\n",
            floor + 5.0,
            floor + 18.0
        ));
    }
    svg.0.push_str("</svg>\n</div>\n");
    svg.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_whole() {
        let page = make(&Story { ended_s: 10.0, ..Story::default() }, 64, "a < b");
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        assert!(page.contains("a &lt; b") && !page.contains("NaN"));
    }
}
