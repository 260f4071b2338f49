//! How far a long computation has come.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Launcher, print_line};
use crate::comm::Comm;

/// A progress bar on rank 0; where there is no real terminal, a line every 10 %.
///
/// ```
/// spmd::local(2, |world| {
///     let progress = spmd::Progress::new(world, 1000, "steps");
///     for _ in 0..1000 {
///         progress.advance(1);
///     }
///     Ok(())
/// }).unwrap();
/// ```
pub struct Progress {
    bar: ProgressBar,
    lines: Option<Lines>,
}

struct Lines {
    unit: &'static str,
    tenths: std::cell::Cell<u64>,
}

impl Progress {
    /// Progress through `total` things called `unit`. Ranks other than 0 show nothing.
    pub fn new(world: &Comm, total: u64, unit: &'static str) -> Self {
        let shows = world.rank() == 0;
        let terminal = shows && Launcher::detect().is_none() && std::io::stderr().is_terminal();
        let target =
            if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let style =
            ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg} {elapsed} left {eta}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.set_message(unit);
        let lines = (shows && !terminal).then(|| Lines { unit, tenths: std::cell::Cell::new(0) });
        Self { bar, lines }
    }

    /// `count` more are done.
    pub fn advance(&self, count: u64) {
        self.bar.inc(count);
        let Some(lines) = &self.lines else { return };
        let (done, total) = (self.bar.position(), self.bar.length().unwrap_or(0).max(1));
        let tenths = done * 10 / total;
        if tenths > lines.tenths.replace(tenths) {
            print_line(&format!("{:3} % ({done}/{total} {})", tenths * 10, lines.unit));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
