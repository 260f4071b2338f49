//! Charts as SVG that stands in a page: colours are the page's, so that they follow light and dark,
//! and every chart has its words for those who do not see it.

use std::ops::Range;

use plotters::{
    coord::Shift,
    prelude::{
        Circle, Color, DrawingArea, IntoDrawingArea, IntoFont, PathElement, RGBColor, Rectangle,
        SVGBackend, ShapeStyle, Text, TextStyle,
    },
    style::{
        FontTransform,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::study::{COMPUTING, ENDED, Found, OTHER_CALLS, State, Study};
use crate::{options::scale::Mode, scale::samples::Sample, view::page::Escaped};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), String>;

/// A colour of the page, by its number: what is drawn in it is given the page's name for it later.
const fn page_color(number: u8) -> RGBColor {
    RGBColor(0, number, 1)
}

const INK: RGBColor = page_color(1);
const GRID: RGBColor = page_color(2);
const MUTED: RGBColor = page_color(3);
/// The ground that hollow marks let through.
const GROUND: RGBColor = page_color(4);
const BAD: RGBColor = page_color(5);
const SERIES: u8 = 10;

/// How many colours the page has for series.
pub(super) const COLORS: usize = 8;
/// The last two are greys, for what is left over.
const OTHERS: usize = COLORS - 2;
const AFTER_THE_END: usize = COLORS - 1;

fn series_color(number: usize) -> RGBColor {
    page_color(SERIES + (number % COLORS) as u8)
}

/// The page's names of its colours, for its style sheet.
pub(super) fn css_name(series: usize) -> String {
    format!("--s{}", series % COLORS + 1)
}

const WIDTH: u32 = 460;
const FONT_PX: i32 = 14;

/// Draws with words for those who do not see it. `id` is unique in the page.
fn svg(
    id: &str,
    height: u32,
    title: &str,
    words: &str,
    draw: impl FnOnce(&Area<'_>) -> Drawn,
) -> Result<String, String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        draw(&area)?;
        area.present().map_err(|error| error.to_string())?;
    }
    let (_, drawn) = text.split_once('>').ok_or("a chart without a beginning")?;
    let mut drawn = drawn.to_owned();
    for (color, name) in
        [(INK, "--ink"), (GRID, "--grid"), (MUTED, "--muted"), (GROUND, "--ground"), (BAD, "--bad")]
    {
        drawn = drawn.replace(&hex(color), &format!("var({name})"));
    }
    for series in 0..COLORS {
        drawn = drawn.replace(&hex(series_color(series)), &format!("var({})", css_name(series)));
    }
    Ok(format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\"><title id=\"{id}-t\">{}</title>\
         <desc id=\"{id}-d\">{}</desc>{drawn}",
        escape(title),
        escape(words)
    ))
}

fn hex(RGBColor(red, green, blue): RGBColor) -> String {
    format!("#{red:02X}{green:02X}{blue:02X}")
}

/// Text as a page takes it.
pub(super) fn escape(text: &str) -> String {
    Escaped(text).to_string()
}

fn told(error: impl std::fmt::Display) -> String {
    format!("cannot draw: {error}")
}

fn text(
    area: &Area<'_>,
    words: &str,
    at: (i32, i32),
    across: HPos,
    down: VPos,
    color: RGBColor,
) -> Drawn {
    let style = TextStyle::from(("sans-serif", FONT_PX).into_font())
        .color(&color)
        .pos(Pos::new(across, down));
    area.draw(&Text::new(words.to_owned(), at, style)).map_err(told)
}

/// Words beside the axis, upwards.
fn upwards(area: &Area<'_>, words: &str, at: (i32, i32)) -> Drawn {
    let font = ("sans-serif", FONT_PX).into_font().transform(FontTransform::Rotate270);
    let style = TextStyle::from(font).color(&INK).pos(Pos::new(HPos::Center, VPos::Center));
    area.draw(&Text::new(words.to_owned(), at, style)).map_err(told)
}

fn line(area: &Area<'_>, points: Vec<(i32, i32)>, color: RGBColor, width: u32) -> Drawn {
    area.draw(&PathElement::new(points, color.stroke_width(width))).map_err(told)
}

/// A line of dashes, from one point to another.
fn dashes(area: &Area<'_>, from: (i32, i32), to: (i32, i32), color: RGBColor) -> Drawn {
    const DASH_PX: f64 = 5.0;
    let (across, down) = (f64::from(to.0 - from.0), f64::from(to.1 - from.1));
    let count = (across.hypot(down) / DASH_PX).max(1.0) as usize;
    let at = |part: usize| {
        let share = part as f64 / count as f64;
        let pixel = |from: i32, way: f64| (f64::from(from) + share * way).round() as i32;
        (pixel(from.0, across), pixel(from.1, down))
    };
    (0..count).step_by(2).try_for_each(|dash| line(area, vec![at(dash), at(dash + 1)], color, 1))
}

fn rectangle(area: &Area<'_>, corners: [(i32, i32); 2], style: ShapeStyle) -> Drawn {
    area.draw(&Rectangle::new(corners, style)).map_err(told)
}

/// How a median or a launch is marked.
#[derive(Clone, Copy)]
enum Mark {
    Full,
    Hollow,
    Cross,
}

fn mark(area: &Area<'_>, at: (i32, i32), radius: i32, color: RGBColor, mark: Mark) -> Drawn {
    match mark {
        Mark::Full => area.draw(&Circle::new(at, radius, color.filled())).map_err(told),
        Mark::Hollow => {
            area.draw(&Circle::new(at, radius, GROUND.filled())).map_err(told)?;
            area.draw(&Circle::new(at, radius, color.stroke_width(1))).map_err(told)
        }
        Mark::Cross => {
            let (x, y) = at;
            line(area, vec![(x - radius, y - radius), (x + radius, y + radius)], BAD, 2)?;
            line(area, vec![(x - radius, y + radius), (x + radius, y - radius)], BAD, 2)
        }
    }
}

/// Where values lie in a chart.
struct Frame {
    x: Range<i32>,
    y: Range<i32>,
    across: Range<f64>,
    up: Range<f64>,
}

impl Frame {
    fn x(&self, value: f64) -> i32 {
        let share = (value - self.across.start) / (self.across.end - self.across.start);
        self.x.start + (share * f64::from(self.x.end - self.x.start)).round() as i32
    }

    fn y(&self, value: f64) -> i32 {
        let share = (value - self.up.start) / (self.up.end - self.up.start);
        self.y.end - (share * f64::from(self.y.end - self.y.start)).round() as i32
    }

    /// Grid and words of both axes.
    fn axes(
        &self,
        area: &Area<'_>,
        across: &[(f64, String)],
        up: &[(f64, String)],
        names: [&str; 2],
    ) -> Drawn {
        for (value, words) in up {
            let y = self.y(*value);
            line(area, vec![(self.x.start, y), (self.x.end, y)], GRID, 1)?;
            text(area, words, (self.x.start - 6, y), HPos::Right, VPos::Center, INK)?;
        }
        for (value, words) in across {
            let x = self.x(*value);
            line(area, vec![(x, self.y.end), (x, self.y.end + 4)], MUTED, 1)?;
            text(area, words, (x, self.y.end + 8), HPos::Center, VPos::Top, INK)?;
        }
        line(area, vec![(self.x.start, self.y.end), (self.x.end, self.y.end)], MUTED, 1)?;
        let middle = i32::midpoint(self.x.start, self.x.end);
        text(area, names[0], (middle, self.y.end + 28), HPos::Center, VPos::Top, INK)?;
        upwards(area, names[1], (10, i32::midpoint(self.y.start, self.y.end)))
    }
}

/// Numbers of cores as marks of the axis; those that would overlap are left out.
fn core_ticks(points: &[&Found], frame: &Frame) -> Vec<(f64, String)> {
    let mut cores: Vec<usize> = points.iter().map(|found| found.cores).collect();
    cores.sort_unstable();
    cores.dedup();
    let mut ticks: Vec<(f64, String)> = Vec::new();
    for cores in cores {
        let at = (cores as f64).log2();
        let room = 8 * cores.to_string().len() as i32 + 6;
        if ticks.last().is_none_or(|(last, _)| frame.x(at) - frame.x(*last) >= room) {
            ticks.push((at, cores.to_string()));
        }
    }
    ticks
}

/// Where the second host comes in, with its words at the top.
fn host_boundary(area: &Area<'_>, points: &[&Found], frame: &Frame) -> Drawn {
    let one = points.iter().filter(|found| found.hosts == 1).map(|found| found.cores).max();
    let more = points.iter().filter(|found| found.hosts > 1).map(|found| found.cores).min();
    let (Some(one), Some(more)) = (one, more.filter(|&more| one.is_some_and(|one| more > one)))
    else {
        return Ok(());
    };
    let x = frame.x(f64::midpoint((one as f64).log2(), (more as f64).log2()));
    dashes(area, (x, frame.y.start), (x, frame.y.end), MUTED)?;
    text(area, "one host", (x - 5, frame.y.start), HPos::Right, VPos::Top, MUTED)?;
    text(area, "several", (x + 5, frame.y.start), HPos::Left, VPos::Top, MUTED)
}

fn mark_of(found: &Found) -> Mark {
    match found.state {
        State::Good => Mark::Full,
        _ => Mark::Hollow,
    }
}

fn frame(points: &[&Found], height: i32, up: Range<f64>) -> Frame {
    let cores = points.iter().map(|found| (found.cores as f64).log2());
    let (low, high) =
        cores.fold((f64::INFINITY, 0.0_f64), |(low, high), at| (low.min(at), high.max(at)));
    let margin = 0.08 * (high - low).max(1.0);
    Frame { x: 68..WIDTH as i32 - 14, y: 14..height - 54, across: low - margin..high + margin, up }
}

/// The numbers of threads of a mode's series: their place is their colour.
pub(super) fn threads_of(study: &Study, mode: Mode) -> Vec<usize> {
    let mut threads: Vec<usize> = study.of_mode(mode).map(|found| found.point.threads).collect();
    threads.sort_unstable();
    threads.dedup();
    threads
}

/// Medians with their intervals over the cores, joined where they are good.
fn medians(
    area: &Area<'_>,
    frame: &Frame,
    study: &Study,
    mode: Mode,
    of: impl Fn(&Found) -> Option<(f64, f64, f64)>,
) -> Drawn {
    for (number, threads) in threads_of(study, mode).into_iter().enumerate() {
        let color = series_color(number);
        let series: Vec<(&Found, (f64, f64, f64))> = study
            .of_mode(mode)
            .filter(|found| found.point.threads == threads)
            .filter_map(|found| Some((found, of(found)?)))
            .collect();
        let x = |found: &Found| frame.x((found.cores as f64).log2());
        let good: Vec<(i32, i32)> = series
            .iter()
            .filter(|(found, _)| found.state == State::Good)
            .map(|(found, (value, ..))| (x(found), frame.y(*value)))
            .collect();
        if good.len() > 1 {
            line(area, good, color, 2)?;
        }
        for (found, (value, low, high)) in series {
            let x = x(found);
            line(area, vec![(x, frame.y(low)), (x, frame.y(high))], color, 2)?;
            mark(area, (x, frame.y(value)), 5, color, mark_of(found))?;
        }
    }
    Ok(())
}

/// Time over cores, both by factors, beside the ideal; with every launch.
pub(super) fn time(study: &Study, mode: Mode) -> Result<String, String> {
    const HEIGHT: u32 = 320;
    let points: Vec<&Found> = study.of_mode(mode).collect();
    let samples: Vec<(&Sample, &Found, f64)> = study
        .samples
        .iter()
        .filter_map(|sample| Some((sample, &study.points[sample.point], sample.seconds?)))
        .filter(|(_, found, _)| found.point.mode == mode)
        .collect();
    let measured = points.iter().filter_map(|found| Some((found, found.summary?.median)));
    let base = measured
        .min_by_key(|(found, _)| (found.cores, found.point.threads))
        .map(|(found, median)| (found.cores, median));
    let ideal = |cores: usize| {
        let (base_cores, seconds) = base?;
        Some(match mode {
            Mode::Strong => seconds * base_cores as f64 / cores as f64,
            Mode::Weak => seconds,
        })
    };
    let all = samples.iter().map(|(_, _, seconds)| *seconds);
    let all = all.chain(points.iter().filter_map(|found| ideal(found.cores)));
    let (low, high) =
        all.fold((f64::INFINITY, 0.0_f64), |(low, high), s| (low.min(s), high.max(s)));
    if !(low > 0.0 && high.is_finite() && high > 0.0) {
        return Ok(String::new());
    }
    let frame = frame(&points, HEIGHT as i32, (low / 1.15).log10()..(high * 1.15).log10());
    let words = "Median times and their intervals over the number of cores, both axes by factors, with every launch as a \
                 small dot and a line for the ideal; the table has the numbers.";
    svg(&format!("time-{}", mode.name()), HEIGHT, "Time over cores", words, |area| {
        let ticks = factor_ticks(low / 1.15, high * 1.15);
        frame.axes(
            area,
            &core_ticks(&points, &frame),
            &ticks,
            ["cores (ranks x threads)", "seconds"],
        )?;
        host_boundary(area, &points, &frame)?;
        let at =
            |cores: usize| Some((frame.x((cores as f64).log2()), frame.y(ideal(cores)?.log10())));
        let cores = || points.iter().map(|found| found.cores);
        if let (Some(from), Some(to)) = (cores().min().and_then(at), cores().max().and_then(at)) {
            dashes(area, from, to, INK)?;
        }
        for (sample, found, seconds) in &samples {
            let number = threads_of(study, mode).iter().position(|&t| t == found.point.threads);
            let x = frame.x((found.cores as f64).log2()) + 9 + 3 * (sample.launch % 3) as i32;
            let kind = match (&found.state, sample.doubts.is_empty()) {
                (State::Failed(_), _) => Mark::Cross,
                (_, false) => Mark::Hollow,
                _ => Mark::Full,
            };
            mark(area, (x, frame.y(seconds.log10())), 2, series_color(number.unwrap_or(0)), kind)?;
        }
        medians(area, &frame, study, mode, |found| {
            let summary = found.summary?;
            Some((summary.median.log10(), summary.low.log10(), summary.high.log10()))
        })
    })
}

/// 1, 2 and 5 times the powers of ten between these numbers, as logarithms with their words; powers
/// alone where that is enough.
fn factor_ticks(low: f64, high: f64) -> Vec<(f64, String)> {
    let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let few = high / low > 200.0;
    let steps: &[f64] = if few {
        &[1.0]
    } else if high / low > 3.0 {
        &[1.0, 2.0, 5.0]
    } else {
        &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    };
    powers
        .flat_map(|power| steps.iter().map(move |step| (power, step * 10_f64.powi(power))))
        .filter(|(_, value)| (low..=high).contains(value))
        .map(|(power, value)| {
            let decimals =
                if value < 1.0 { (1 - power).max(0) as usize } else { usize::from(value < 10.0) };
            let words = format!("{value:.decimals$}");
            let words = if words.contains('.') {
                words.trim_end_matches('0').trim_end_matches('.').to_owned()
            } else {
                words
            };
            (value.log10(), words)
        })
        .collect()
}

/// Efficiency over cores.
pub(super) fn efficiency(study: &Study, mode: Mode) -> Result<String, String> {
    const HEIGHT: u32 = 320;
    let points: Vec<&Found> =
        study.of_mode(mode).filter(|found| found.efficiency.is_some()).collect();
    if points.is_empty() {
        return Ok(String::new());
    }
    let highest = points.iter().filter_map(|found| found.efficiency);
    let highest = highest.map(|efficiency| efficiency.high).fold(1.0, f64::max).min(3.0);
    let frame = frame(&points, HEIGHT as i32, 0.0..highest * 1.08);
    let words = "Efficiency and its interval over the number of cores; 100 % is ideal, and 70 % is what this report calls \
                 efficient. The table has the numbers.";
    svg(&format!("efficiency-{}", mode.name()), HEIGHT, "Efficiency over cores", words, |area| {
        let step = if highest > 1.6 { 50 } else { 20 };
        let ticks: Vec<(f64, String)> = (0..=(100.0 * highest * 1.08) as usize)
            .step_by(step)
            .map(|percent| (percent as f64 / 100.0, format!("{percent} %")))
            .collect();
        frame.axes(
            area,
            &core_ticks(&points, &frame),
            &ticks,
            ["cores (ranks x threads)", "efficiency"],
        )?;
        host_boundary(area, &points, &frame)?;
        let y = frame.y(1.0);
        dashes(area, (frame.x.start, y), (frame.x.end, y), INK)?;
        medians(area, &frame, study, mode, |found| {
            let efficiency = found.efficiency?;
            let inside = |value: f64| value.clamp(0.0, highest * 1.08);
            Some((inside(efficiency.value), inside(efficiency.low), inside(efficiency.high)))
        })
    })
}

/// The height of a row of bars, and the room below the rows for the axis.
const ROW: i32 = 26;
const BELOW: i32 = 50;

fn rows_frame(rows: usize, across: Range<f64>) -> (u32, Frame) {
    let height = 10 + ROW * rows as i32 + BELOW;
    let up = 0.0..rows as f64;
    (height as u32, Frame { x: 68..WIDTH as i32 - 24, y: 8..height - BELOW, across, up })
}

/// Names of rows at the left, and marks of the axis below.
fn rows_axes(
    area: &Area<'_>,
    frame: &Frame,
    names: &[String],
    ticks: &[(f64, String)],
    words: &str,
) -> Drawn {
    for (value, words) in ticks {
        let x = frame.x(*value);
        line(area, vec![(x, frame.y.start), (x, frame.y.end)], GRID, 1)?;
        text(area, words, (x, frame.y.end + 6), HPos::Center, VPos::Top, INK)?;
    }
    for (row, name) in names.iter().enumerate() {
        let y = frame.y.start + ROW * row as i32 + ROW / 2;
        text(area, name, (frame.x.start - 6, y), HPos::Right, VPos::Center, INK)?;
    }
    let middle = i32::midpoint(frame.x.start, frame.x.end);
    text(area, words, (middle, frame.y.end + 28), HPos::Center, VPos::Top, INK)
}

fn row_names(points: &[&Found]) -> Vec<String> {
    points.iter().map(|found| format!("{} x {}", found.point.ranks, found.point.threads)).collect()
}

/// The parts of the time that a mode's points have, and the number of each one's colour: computing,
/// the calls that take longest, the other ones, waiting for the end.
pub(super) fn parts(study: &Study, mode: Mode) -> Vec<(String, usize)> {
    let mut sums: Vec<(&str, f64)> = Vec::new();
    for (name, share) in
        study.of_mode(mode).filter_map(|found| found.split.as_ref()).flat_map(|split| &split.shares)
    {
        match sums.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum += share,
            None => sums.push((name, *share)),
        }
    }
    let sum = |name: &str| {
        sums.iter().filter(|(known, _)| *known == name).map(|(_, sum)| sum).sum::<f64>()
    };
    let (computing, ended) = (sum(COMPUTING), sum(ENDED));
    let mut calls: Vec<(&str, f64)> = sums
        .iter()
        .copied()
        .filter(|(name, sum)| ![COMPUTING, ENDED, OTHER_CALLS].contains(name) && *sum > 0.0005)
        .collect();
    calls.sort_by(|left, right| right.1.total_cmp(&left.1));
    let named = calls.len().min(OTHERS - 1);
    let mut parts = Vec::new();
    if computing > 0.0 {
        parts.push((COMPUTING.to_owned(), 0));
    }
    parts.extend(
        calls.iter().take(named).enumerate().map(|(at, (name, _))| ((*name).to_owned(), at + 1)),
    );
    if named < calls.len() || sum(OTHER_CALLS) > 0.0005 {
        parts.push((OTHER_CALLS.to_owned(), OTHERS));
    }
    if ended > 0.0005 {
        parts.push((ENDED.to_owned(), AFTER_THE_END));
    }
    parts
}

/// How much of a point's time is this part.
pub(super) fn share_of(found: &Found, part: &str, parts: &[(String, usize)]) -> f64 {
    let all = found.split.iter().flat_map(|split| &split.shares);
    let belongs = |name: &str| {
        name == part || part == OTHER_CALLS && !parts.iter().any(|(known, _)| known == name)
    };
    all.filter(|(name, _)| belongs(name)).map(|(_, share)| share).sum()
}

/// Where the time of each point goes, as bars of parts.
pub(super) fn shares(study: &Study, mode: Mode) -> Result<String, String> {
    let points: Vec<&Found> = study.of_mode(mode).filter(|found| found.split.is_some()).collect();
    if points.is_empty() {
        return Ok(String::new());
    }
    let parts = parts(study, mode);
    let (height, frame) = rows_frame(points.len(), 0.0..1.0);
    let words = "For each point the parts of its time, of all ranks together: outside of calls, in calls by name, and after \
                 the rank's own end. The table has the numbers.";
    svg(&format!("shares-{}", mode.name()), height, "Where the time goes", words, |area| {
        let ticks: Vec<(f64, String)> = [0, 25, 50, 75, 100]
            .map(|percent| (f64::from(percent) / 100.0, format!("{percent} %")))
            .into();
        rows_axes(area, &frame, &row_names(&points), &ticks, "share of the time of all ranks")?;
        for (row, found) in points.iter().enumerate() {
            let top = frame.y.start + ROW * row as i32 + 4;
            let mut from = 0.0;
            for (name, color) in &parts {
                let share = share_of(found, name, &parts);
                let corners =
                    [(frame.x(from), top), (frame.x((from + share).min(1.0)), top + ROW - 8)];
                if corners[1].0 > corners[0].0 {
                    rectangle(area, corners, series_color(*color).filled())?;
                }
                from += share;
            }
        }
        Ok(())
    })
}

/// Every launch beside the median of its point.
pub(super) fn launches(study: &Study, mode: Mode) -> Result<String, String> {
    let points: Vec<(usize, &Found, f64)> = study
        .points
        .iter()
        .enumerate()
        .filter(|(_, found)| found.point.mode == mode)
        .filter_map(|(which, found)| Some((which, found, found.summary?.median)))
        .collect();
    let all: Vec<(usize, &Sample, f64)> = points
        .iter()
        .enumerate()
        .flat_map(|(row, (which, _, median))| {
            let own = study.samples.iter().filter(move |sample| sample.point == *which);
            own.filter_map(move |sample| Some((row, sample, sample.seconds? / median)))
        })
        .collect();
    if all.is_empty() {
        return Ok(String::new());
    }
    let (low, high) =
        all.iter().fold((0.95_f64, 1.05_f64), |(low, high), (_, _, x)| (low.min(*x), high.max(*x)));
    // What lies far out is drawn at the edge: it says that it is far out.
    let (low, high) = (low.max(0.5), high.min(2.0));
    let (height, frame) = rows_frame(points.len(), low - 0.02..high + 0.02);
    let words = "Every launch as its time over the median of its point: full dots count, hollow ones were not on an idle \
                 machine.";
    svg(&format!("launches-{}", mode.name()), height, "Every launch", words, |area| {
        let step = [0.02, 0.05, 0.1, 0.25]
            .into_iter()
            .find(|step| (high - low) / step <= 6.0)
            .unwrap_or(0.5);
        let ticks: Vec<(f64, String)> = ((low / step).ceil() as usize
            ..=(high / step).floor() as usize)
            .map(|tick| (tick as f64 * step, format!("{:.0} %", 100.0 * tick as f64 * step)))
            .collect();
        let found: Vec<&Found> = points.iter().map(|(_, found, _)| *found).collect();
        rows_axes(area, &frame, &row_names(&found), &ticks, "time over the point's median")?;
        for (row, sample, share) in &all {
            let number =
                threads_of(study, mode).iter().position(|&t| t == found[*row].point.threads);
            let y = frame.y.start + ROW * *row as i32 + ROW / 2;
            let kind = if sample.doubts.is_empty() && found[*row].state == State::Good {
                Mark::Full
            } else {
                Mark::Hollow
            };
            let at = (frame.x(share.clamp(low, high)), y);
            mark(area, at, 4, series_color(number.unwrap_or(0)), kind)?;
        }
        Ok(())
    })
}

/// Who has sent how many bytes to whom, in a run of few enough ranks.
pub(super) fn matrix(ranks: usize, bytes: &[(usize, usize, u64)]) -> Result<String, String> {
    const MOST: usize = 64;
    let most = bytes.iter().map(|(_, _, bytes)| *bytes).max().unwrap_or(0);
    if !(2..=MOST).contains(&ranks) || most == 0 {
        return Ok(String::new());
    }
    let cell = (300 / ranks as i32).clamp(4, 60);
    let side = cell * ranks as i32;
    let (left, top) = (68, 38);
    let height = (top + side + 14) as u32;
    let words = "A square for each pair of ranks, the darker the more bytes the rank of its row has sent to that of its \
                 column; the table has the numbers.";
    svg("matrix", height, "Bytes by sender and receiver", words, |area| {
        text(area, "to rank", (left + side / 2, 2), HPos::Center, VPos::Top, INK)?;
        upwards(area, "from rank", (10, top + side / 2))?;
        let every = (ranks * 22).div_ceil(side.max(1) as usize).max(1);
        for rank in (0..ranks).step_by(every) {
            let middle = cell * rank as i32 + cell / 2;
            text(
                area,
                &rank.to_string(),
                (left + middle, top - 4),
                HPos::Center,
                VPos::Bottom,
                INK,
            )?;
            text(
                area,
                &rank.to_string(),
                (left - 6, top + middle),
                HPos::Right,
                VPos::Center,
                INK,
            )?;
        }
        rectangle(area, [(left, top), (left + side, top + side)], GRID.stroke_width(1))?;
        for &(from, to, bytes) in
            bytes.iter().filter(|(from, to, bytes)| *from < ranks && *to < ranks && *bytes > 0)
        {
            let corner = (left + cell * to as i32, top + cell * from as i32);
            let style = series_color(0).mix(0.15 + 0.85 * bytes as f64 / most as f64).filled();
            rectangle(area, [corner, (corner.0 + cell - 1, corner.1 + cell - 1)], style)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::study::tests::synthetic;

    #[test]
    fn charts_have_words_and_the_pages_colours_only() {
        let study = synthetic(1, &[1, 2, 4, 32], 6, 0.01, |p| 1.0 / p as f64, |_, _| 0.1);
        let bytes = [(0, 1, 800), (1, 0, 400)];
        let charts = [
            time(&study, Mode::Strong).unwrap(),
            efficiency(&study, Mode::Strong).unwrap(),
            shares(&study, Mode::Strong).unwrap(),
            launches(&study, Mode::Strong).unwrap(),
            matrix(2, &bytes).unwrap(),
        ];
        for chart in charts {
            assert!(
                chart.starts_with("<svg viewBox=") && chart.trim_end().ends_with("</svg>"),
                "{chart}"
            );
            assert!(
                chart.contains("role=\"img\"")
                    && chart.contains("<title ")
                    && chart.contains("<desc ")
            );
            assert!(!chart.contains("fill=\"#") && !chart.contains("stroke=\"#"), "{chart}");
            assert!(chart.contains("var(--s1)") && chart.contains("var(--ink)"), "{chart}");
        }
        assert_eq!(matrix(1, &bytes).unwrap(), "");
        assert_eq!(time(&study, Mode::Weak).unwrap(), "", "there is none");
    }

    #[test]
    fn axes_have_round_numbers() {
        let words = |low, high| -> Vec<String> {
            factor_ticks(low, high).into_iter().map(|(_, words)| words).collect()
        };
        assert_eq!(words(0.04, 1.1), ["0.05", "0.1", "0.2", "0.5", "1"]);
        assert_eq!(words(0.95, 1.6), ["1", "1.2", "1.5"]);
        assert_eq!(words(0.001, 150.0), ["0.001", "0.01", "0.1", "1", "10", "100"]);
    }
}
