//! A timeline in characters.

use std::fmt::Write;

use super::timeline::{Column, Timeline, ticks};

/// What the characters mean.
pub(crate) const LEGEND: &str =
    "█ computing   ▒ in calls   · waiting for another rank   - without a cpu";

/// A line for each rank, and a scale below.
pub(crate) fn draw(timeline: &Timeline) -> String {
    let mut text = String::new();
    let columns = timeline.lanes.first().map_or(0, |lane| lane.columns.len());
    for lane in &timeline.lanes {
        let line: String = lane.columns.iter().map(letter).collect();
        let _ = writeln!(text, "{:>4} {line}", lane.rank); // writing to a string does not fail
    }
    let length_ns = (timeline.to_ns - timeline.from_ns) as f64;
    let mut scale = String::new();
    for (time_ns, label) in ticks(length_ns) {
        let at = (time_ns / length_ns * columns as f64) as usize;
        // What has no room is left out.
        if at + label.len() < columns && (scale.is_empty() || scale.chars().count() < at) {
            scale.extend(std::iter::repeat_n(' ', at - scale.chars().count()));
            scale.push('|');
            scale.push_str(&label);
        }
    }
    let _ = writeln!(text, "     {scale}"); // as above
    text
}

/// The character of what a rank did most.
fn letter(column: &Column) -> char {
    let Column { computed, communicated, waited, without_cpu } = *column;
    let all = [(computed, '█'), (communicated, '▒'), (waited, '·'), (without_cpu, '-')];
    if computed + communicated + waited + without_cpu < 0.5 {
        return ' ';
    }
    all.into_iter().max_by(|one, two| one.0.total_cmp(&two.0)).map_or(' ', |(_, letter)| letter)
}
