//! What ranks did, in columns of equal time: what pictures and texts draw.

use std::collections::BTreeSet;

use spmd::trace::{RankTrace, Trace};

/// Threads of a rank beyond these are not shown.
pub(crate) const THREADS: usize = 16;

/// What a rank did in one column: shares that add up to 1, or to 0 where it was not there.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Column {
    /// It computed, or did what no call of the communicator is.
    pub(crate) computed: f64,
    /// It was in calls and moved bytes.
    pub(crate) communicated: f64,
    /// It was in calls and waited for another rank.
    pub(crate) waited: f64,
    /// It could have gone on, but had no CPU.
    pub(crate) without_cpu: f64,
}

/// The columns of one rank.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) rank: usize,
    pub(crate) host: String,
    pub(crate) columns: Vec<Column>,
    /// For each of its threads, its own first, the CPU that it had most of a column, and the share
    /// that it had of it.
    pub(crate) threads: Vec<Vec<Option<(usize, f64)>>>,
}

/// A trace in columns.
#[derive(Debug)]
pub(crate) struct Timeline {
    pub(crate) from_ns: u64,
    pub(crate) to_ns: u64,
    pub(crate) lanes: Vec<Lane>,
}

impl Timeline {
    /// The whole trace in so many columns.
    pub(crate) fn new(trace: &Trace, columns: usize) -> Self {
        let from_ns = trace.ranks.iter().map(|rank| rank.began_ns).min().unwrap_or(0);
        let from_ns = from_ns.min(u64::MAX - 1);
        let to_ns = trace.end_ns().max(from_ns + 1);
        let grid = Grid {
            from_ns: from_ns as f64,
            width_ns: (to_ns - from_ns) as f64 / columns as f64,
            columns,
        };
        let lanes = trace.ranks.iter().map(|rank| grid.lane(rank)).collect();
        Self { from_ns, to_ns, lanes }
    }
}

struct Grid {
    from_ns: f64,
    width_ns: f64,
    columns: usize,
}

impl Grid {
    fn lane(&self, rank: &RankTrace) -> Lane {
        let [mut there, mut called, mut waited] = [(); 3].map(|()| vec![0.0; self.columns]);
        self.spread(rank.began_ns, rank.ended_ns, |at, share| there[at] += share);
        for call in &rank.calls {
            let came_ns = call.start_ns.saturating_add(call.waited_ns);
            self.spread(call.start_ns, came_ns, |at, share| waited[at] += share);
            self.spread(came_ns, call.end_ns, |at, share| called[at] += share);
        }
        let mut columns: Vec<Column> = (0..self.columns)
            .map(|at| {
                // Rounding, and calls within each other, do not make more of a column than there is.
                let there: f64 = there[at];
                let waited = waited[at].min(there);
                let communicated = called[at].min(there - waited);
                let computed = there - waited - communicated;
                Column { computed, communicated, waited, without_cpu: 0.0 }
            })
            .collect();
        let threads: BTreeSet<usize> = rank.cpu.iter().map(|time| time.thread).collect();
        let threads: Vec<usize> = threads.into_iter().take(THREADS).collect();
        let mut ran = vec![vec![Vec::<(usize, f64)>::new(); self.columns]; threads.len()];
        for time in &rank.cpu {
            let length = time.end_ns.saturating_sub(time.start_ns).max(1) as f64;
            let part = |ns: u64| (ns as f64 / length).min(1.0);
            let (had, missed) = (part(time.ran_ns), part(time.waited_ns));
            if let (1.., Ok(place)) = (time.ran_ns, threads.binary_search(&time.thread)) {
                let ran = &mut ran[place];
                self.spread(time.start_ns, time.end_ns, |at, share| {
                    ran[at].push((time.cpu, share * had));
                });
            }
            if time.thread == 0 && time.waited_ns > 0 {
                let mut covered = Vec::new();
                self.spread(time.start_ns, time.end_ns, |at, share| covered.push((at, share)));
                without_cpu(&mut columns, &covered, missed);
            }
        }
        let cpu = |ran: &Vec<(usize, f64)>| {
            let share: f64 = ran.iter().map(|(_, share)| share).sum();
            let most = ran.iter().max_by(|one, two| one.1.total_cmp(&two.1))?;
            (share > 0.0).then_some((most.0, share.min(1.0)))
        };
        Lane {
            rank: rank.rank,
            host: rank.host.clone(),
            columns,
            threads: ran.iter().map(|ran| ran.iter().map(cpu).collect()).collect(),
        }
    }

    /// Gives the columns between two times their shares of it.
    fn spread(&self, start_ns: u64, end_ns: u64, mut give: impl FnMut(usize, f64)) {
        let place = |ns: u64| (ns as f64 - self.from_ns) / self.width_ns;
        let (start, end) = (place(start_ns).max(0.0), place(end_ns).min(self.columns as f64));
        if end <= start {
            return;
        }
        for at in start as usize..(end.ceil() as usize).min(self.columns) {
            let (left, right) = (start.max(at as f64), end.min(at as f64 + 1.0));
            give(at, right - left);
        }
    }
}

/// For this share of these columns the rank had no CPU. What it had of one it used to compute, most
/// likely; so it missed it in calls first, in which it could have gone on.
fn without_cpu(columns: &mut [Column], covered: &[(usize, f64)], missed: f64) {
    let called = |column: &Column| column.communicated + column.waited;
    let sum = |of: &dyn Fn(&Column) -> f64| -> f64 {
        covered.iter().map(|&(at, share)| share * of(&columns[at])).sum()
    };
    let whole: f64 = covered.iter().map(|(_, share)| share).sum();
    let (in_calls, computing) = (sum(&called), sum(&|column| column.computed));
    let from_calls = (missed * whole).min(in_calls);
    let from_computing = (missed * whole - from_calls).min(computing);
    let factor = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
    let (in_calls, computing) = (factor(from_calls, in_calls), factor(from_computing, computing));
    for &(at, share) in covered {
        let column = &mut columns[at];
        let before = column.computed + called(column);
        column.communicated -= column.communicated * share * in_calls;
        column.waited -= column.waited * share * in_calls;
        column.computed -= column.computed * share * computing;
        column.without_cpu += before - column.computed - called(column);
    }
}

/// A duration for the eye: `12.3 ms`.
pub(crate) fn duration(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns >= 1e9 => (ns / 1e9, "s"),
        ns if ns >= 1e6 => (ns / 1e6, "ms"),
        ns if ns >= 1e3 => (ns / 1e3, "us"),
        ns => (ns, "ns"),
    };
    let digits = match value {
        value if value >= 99.95 || value.fract() == 0.0 => 0,
        value if value >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {unit}")
}

/// Bytes for the eye: `12.3 MB`.
pub(crate) fn bytes(count: u64) -> String {
    let count = count as f64;
    let (value, unit) = match count {
        count if count >= 1e9 => (count / 1e9, "GB"),
        count if count >= 1e6 => (count / 1e6, "MB"),
        count if count >= 1e3 => (count / 1e3, "kB"),
        count => (count, "B"),
    };
    let is_round = value.fract() == 0.0 || value >= 100.0;
    format!("{value:.0$} {unit}", usize::from(!is_round))
}

/// Times of a scale from 0 on: few, round, in order, with their texts.
pub(crate) fn ticks(length_ns: f64) -> Vec<(f64, String)> {
    let rough = length_ns / 6.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    let step = step.into_iter().find(|step| *step >= rough).unwrap_or(rough);
    let count = (length_ns / step) as usize;
    (0..=count).map(|tick| (tick as f64 * step, duration(tick as f64 * step))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use spmd::trace::{CpuTime, Event};

    use super::*;

    fn call(start_ns: u64, end_ns: u64, waited_ns: u64) -> Event {
        let text: Arc<str> = "recv".into();
        Event {
            name: Arc::clone(&text),
            place: Arc::clone(&text),
            start_ns,
            end_ns,
            completes: false,
            comm: text,
            collective: None,
            peer: None,
            sent: 0,
            received: 0,
            cpu: None,
            waited_ns,
            waited_for: None,
        }
    }

    #[test]
    fn columns_say_what_a_rank_did() {
        let ranks = vec![RankTrace {
            ended_ns: 1000,
            calls: vec![call(150, 350, 100), call(430, 470, 10)],
            cpu: vec![
                CpuTime {
                    start_ns: 400,
                    end_ns: 500,
                    ran_ns: 40,
                    waited_ns: 60,
                    thread: 0,
                    cpu: 3,
                },
                CpuTime {
                    start_ns: 500,
                    end_ns: 1000,
                    ran_ns: 125,
                    waited_ns: 375,
                    thread: 0,
                    cpu: 3,
                },
            ],
            ..RankTrace::default()
        }];
        let timeline = Timeline::new(&Trace { ranks, ..Trace::default() }, 10);
        let columns = &timeline.lanes[0].columns;
        let near = |one: f64, two: f64| (one - two).abs() < 1e-9;
        assert!(near(columns[0].computed, 1.0));
        assert!(near(columns[1].computed, 0.5) && near(columns[1].waited, 0.5));
        assert!(near(columns[2].waited, 0.5) && near(columns[2].communicated, 0.5));
        assert!(near(columns[3].communicated, 0.5) && near(columns[3].computed, 0.5));
        assert!(near(columns[7].computed, 0.25) && near(columns[7].without_cpu, 0.75));
        // 60 of 100 missed, of which the call of 40 is the first.
        assert!(near(columns[4].waited, 0.0) && near(columns[4].communicated, 0.0));
        assert!(near(columns[4].without_cpu, 0.6) && near(columns[4].computed, 0.4));
        assert_eq!(timeline.lanes[0].threads[0][7].map(|(cpu, _)| cpu), Some(3));
        assert_eq!(timeline.lanes[0].threads[0][2], None);
    }

    #[test]
    fn numbers_for_the_eye() {
        assert_eq!(duration(1_234.0), "1.23 us");
        assert_eq!(duration(25e6), "25 ms");
        assert_eq!(duration(123.4e6), "123 ms");
        assert_eq!(
            (bytes(999), bytes(1_500), bytes(2_000_000)),
            ("999 B".into(), "1.5 kB".into(), "2 MB".into())
        );
        let ticks = ticks(1.3e9);
        assert_eq!(ticks.len(), 3);
        assert_eq!(ticks[1].1, "500 ms");
    }
}
