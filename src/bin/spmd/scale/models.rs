//! The laws of scaling, fitted to the medians of the good points; refused where those do not carry
//! them.

use serde::{Deserialize, Serialize};

use super::statistics::{Estimate, bootstrap};

/// What is known of one number of cores.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    /// How many times as many cores as the base case.
    pub(super) cores: f64,
    /// How many times as much work as in the base case; 1 in strong scaling.
    pub(super) work: f64,
    pub(super) seconds: Vec<f64>,
}

/// A law that fits, or why it does not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fit {
    Fits {
        /// Names and values of its parameters.
        parameters: Vec<(String, Estimate)>,
        /// The largest relative distance between law and median.
        off_by: f64,
        /// What that means.
        words: String,
    },
    Refused(String),
}

/// The laws for one series of points: those with the same number of threads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Law {
    pub(super) name: String,
    pub(super) formula: String,
    pub(super) fit: Fit,
}

/// A law that is further from a median than this does not describe it.
const MOST_OFF_BY: f64 = 0.10;

/// An interval of a share that is wider says nothing.
const WIDEST: f64 = 0.3;

pub(super) fn strong(points: &[Measured]) -> Vec<Law> {
    vec![
        law("Amdahl", "T(p) = T(1) (s + (1 - s) / p)", amdahl(points)),
        law("Karp-Flatt", "e(p) = (1 / S(p) - 1 / p) / (1 - 1 / p)", karp_flatt(points)),
        law("universal scalability", "S(p) = p / (1 + a (p - 1) + b p (p - 1))", universal(points)),
    ]
}

pub(super) fn weak(points: &[Measured]) -> Vec<Law> {
    vec![law("Gustafson", "S(p) = s + (1 - s) p", gustafson(points))]
}

fn law(name: &str, formula: &str, fit: Result<Fit, String>) -> Law {
    let fit = fit.unwrap_or_else(Fit::Refused);
    Law { name: name.to_owned(), formula: formula.to_owned(), fit }
}

/// Speed-ups from medians of times, the first of which is the base case.
fn speedups(points: &[Measured], medians: &[f64]) -> Vec<f64> {
    points.iter().zip(medians).map(|(point, median)| point.work * medians[0] / median).collect()
}

fn estimate(points: &[Measured], of: impl Fn(&[f64]) -> Option<f64>) -> Option<Estimate> {
    let samples: Vec<&[f64]> = points.iter().map(|point| &*point.seconds).collect();
    bootstrap(&samples, of)
}

fn medians(points: &[Measured]) -> Vec<f64> {
    points.iter().map(|point| crate::statistics::median(&point.seconds)).collect()
}

/// # Errors
/// Fewer numbers of cores than a law needs.
fn needs(points: &[Measured], count: usize) -> Result<(), String> {
    match points.len() {
        have if have >= count => Ok(()),
        have => Err(format!("needs {count} good numbers of cores, there are {have}")),
    }
}

/// # Errors
/// If the law is too far from a point.
fn describes(points: &[Measured], law: &[f64], seen: &[f64]) -> Result<f64, String> {
    let off = law.iter().zip(seen).map(|(law, seen)| (law / seen - 1.0).abs());
    let (at, off_by) =
        off.enumerate().max_by(|left, right| left.1.total_cmp(&right.1)).unwrap_or((0, 0.0));
    if off_by > MOST_OFF_BY {
        let (cores, percent) = (points[at].cores, 100.0 * off_by);
        return Err(format!("does not describe the points: off by {percent:.0} % at p = {cores}"));
    }
    Ok(off_by)
}

/// # Errors
/// If the launches differ too much to say anything.
fn sure(share: Option<Estimate>) -> Result<Estimate, String> {
    match share {
        Some(share) if share.high - share.low <= WIDEST => Ok(share),
        Some(Estimate { low, high, .. }) => Err(format!(
            "the launches differ too much: the share is somewhere between {:.0} and {:.0} %",
            100.0 * low.max(0.0),
            100.0 * high
        )),
        None => Err("the points are no such curve".to_owned()),
    }
}

/// Least squares of `seen = x a + y b`, with equal weight for equal relative errors.
fn least_squares(rows: &[(f64, f64, f64)]) -> Option<(f64, f64)> {
    let sum = |of: &dyn Fn(f64, f64, f64) -> f64| {
        rows.iter().map(|&(x, y, seen)| of(x / seen, y / seen, 1.0)).sum::<f64>()
    };
    let (xx, xy, yy) = (sum(&|x, _, _| x * x), sum(&|x, y, _| x * y), sum(&|_, y, _| y * y));
    let (xs, ys) = (sum(&|x, _, seen| x * seen), sum(&|_, y, seen| y * seen));
    let determinant = xx * yy - xy * xy;
    let solved = ((xs * yy - ys * xy) / determinant, (ys * xx - xs * xy) / determinant);
    (determinant.abs() > 1e-12 * xx * yy).then_some(solved)
}

/// Time is a part that every number of cores takes, and one that is shared.
fn amdahl(points: &[Measured]) -> Result<Fit, String> {
    needs(points, 3)?;
    let solve = |medians: &[f64]| {
        let rows: Vec<_> = points
            .iter()
            .zip(medians)
            .map(|(point, &seconds)| (1.0, 1.0 / point.cores, seconds))
            .collect();
        least_squares(&rows)
    };
    let share = |medians: &[f64]| solve(medians).map(|(serial, shared)| serial / (serial + shared));
    let serial = sure(estimate(points, share))?;
    let seen = medians(points);
    let (a, b) = solve(&seen).ok_or("the points are no such curve")?;
    let law: Vec<f64> = points.iter().map(|point| a + b / point.cores).collect();
    let off_by = describes(points, &law, &seen)?;
    let words = if serial.high <= 0.0 {
        "faster than in proportion to the cores: no serial part (more cache, most likely)"
            .to_owned()
    } else if serial.low <= 0.0 {
        format!("no serial part can be told from none (at most {:.1} %)", 100.0 * serial.high)
    } else {
        format!(
            "{:.1} % of the base case's time is serial: no number of cores makes it more than {:.0} times as fast",
            100.0 * serial.value,
            1.0 / serial.value
        )
    };
    Ok(Fit::Fits { parameters: vec![("s".to_owned(), serial)], off_by, words })
}

/// The serial share that each number of cores shows by itself: one that grows with the cores is no
/// serial part, but overhead.
fn karp_flatt(points: &[Measured]) -> Result<Fit, String> {
    needs(points, 2)?;
    let mut parameters = Vec::new();
    for (at, point) in points.iter().enumerate().skip(1) {
        let share = estimate(points, |medians| {
            let speedup = speedups(points, medians)[at];
            Some((1.0 / speedup - 1.0 / point.cores) / (1.0 - 1.0 / point.cores))
        });
        parameters.push((format!("e({})", point.cores), sure(share)?));
    }
    let (first, last) = (parameters[0].1, parameters[parameters.len() - 1].1);
    let words = if parameters.len() < 2 {
        "one number says nothing of a trend".to_owned()
    } else if last.low > first.high {
        "it grows with the cores: overhead (messages, waiting, uneven parts), not serial work"
            .to_owned()
    } else if last.high < first.low {
        "it shrinks with the cores: the base case has a disadvantage of its own (less cache, most likely)".to_owned()
    } else {
        "it does not change with the cores, as far as can be told: serial work, if anything"
            .to_owned()
    };
    Ok(Fit::Fits { parameters, off_by: 0.0, words })
}

/// Speed-up is lost to waiting in line, and to talking with everybody.
fn universal(points: &[Measured]) -> Result<Fit, String> {
    needs(points, 4)?;
    let solve = |medians: &[f64]| -> Option<(f64, f64)> {
        let speedups = speedups(points, medians);
        // p / S - 1 = a (p - 1) + b p (p - 1), with equal weight for equal relative errors of S.
        let rows: Vec<_> = points[1..]
            .iter()
            .zip(&speedups[1..])
            .map(|(Measured { cores: p, .. }, s)| (s / p * (p - 1.0), s * (p - 1.0), 1.0 - s / p))
            .collect();
        let sum = |of: &dyn Fn(&(f64, f64, f64)) -> f64| rows.iter().map(of).sum::<f64>();
        let (xx, xy, yy) = (sum(&|r| r.0 * r.0), sum(&|r| r.0 * r.1), sum(&|r| r.1 * r.1));
        let (xz, yz) = (sum(&|r| r.0 * r.2), sum(&|r| r.1 * r.2));
        let determinant = xx * yy - xy * xy;
        if determinant.abs() <= 1e-12 * xx * yy {
            return None;
        }
        let (a, b) = ((xz * yy - yz * xy) / determinant, (yz * xx - xz * xy) / determinant);
        // Neither can be negative: where one would be, the other does it alone.
        Some(match (a < 0.0, b < 0.0) {
            (false, false) => (a, b),
            (true, _) if yz > 0.0 => (0.0, yz / yy),
            (_, true) if xz > 0.0 => (xz / xx, 0.0),
            _ => (0.0, 0.0),
        })
    };
    let queue = sure(estimate(points, |medians| solve(medians).map(|(a, _)| a)))?;
    let talk = sure(estimate(points, |medians| solve(medians).map(|(_, b)| b)))?;
    let seen = speedups(points, &medians(points));
    let (a, b) = (queue.value, talk.value);
    let of = |p: f64| p / (1.0 + a * (p - 1.0) + b * p * (p - 1.0));
    let law: Vec<f64> = points.iter().map(|point| of(point.cores)).collect();
    let off_by = describes(points, &law, &seen)?;
    let words = if talk.low > 0.0 {
        let most = ((1.0 - a).max(0.0) / b).sqrt();
        format!(
            "fastest with {most:.0} times the base case's cores, {:.1} times as fast; more make it slower",
            of(most)
        )
    } else if queue.low > 0.0 {
        format!("no number of cores makes it more than {:.0} times as fast", 1.0 / a)
    } else {
        "no loss can be told from none".to_owned()
    };
    let parameters = vec![("a (in line)".to_owned(), queue), ("b (with all)".to_owned(), talk)];
    Ok(Fit::Fits { parameters, off_by, words })
}

/// Work grows with the cores; a part of the time does not.
fn gustafson(points: &[Measured]) -> Result<Fit, String> {
    needs(points, 3)?;
    let share = |medians: &[f64]| {
        let speedups = speedups(points, medians);
        let parts = points.iter().zip(&speedups).map(|(point, speedup)| {
            // With equal weight for equal relative errors.
            let (x, y) = ((1.0 - point.cores) / speedup, (speedup - point.cores) / speedup);
            (x * y, x * x)
        });
        let (above, below) = parts.fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
        Some(above / below)
    };
    let serial = sure(estimate(points, share))?;
    let seen = speedups(points, &medians(points));
    let s = serial.value;
    let law: Vec<f64> = points.iter().map(|point| s + (1.0 - s) * point.cores).collect();
    let off_by = describes(points, &law, &seen)?;
    let words = if serial.low <= 0.0 {
        format!(
            "no serial part can be told from none (at most {:.1} %)",
            100.0 * serial.high.max(0.0)
        )
    } else {
        format!("{:.1} % of the time does not grow with the work", 100.0 * s)
    };
    Ok(Fit::Fits { parameters: vec![("s".to_owned(), serial)], off_by, words })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Random;

    /// Launches whose times are `truth`, and a little more by chance.
    fn launches(random: &mut Random, truth: f64, noise: f64) -> Vec<f64> {
        (0..11)
            .map(|_| {
                let chance: f64 = (0..4).map(|_| random.below(1000) as f64 / 1000.0).sum();
                truth * (1.0 + noise * chance)
            })
            .collect()
    }

    fn study(seed: u64, cores: &[f64], noise: f64, time: impl Fn(f64) -> f64) -> Vec<Measured> {
        let mut random = Random(seed);
        let point = |&cores: &f64| Measured {
            cores,
            work: 1.0,
            seconds: launches(&mut random, time(cores), noise),
        };
        cores.iter().map(point).collect()
    }

    fn parameters(fit: Result<Fit, String>) -> Vec<Estimate> {
        match fit.unwrap() {
            Fit::Fits { parameters, .. } => {
                parameters.into_iter().map(|(_, value)| value).collect()
            }
            Fit::Refused(why) => panic!("{why}"),
        }
    }

    const CORES: [f64; 5] = [1.0, 2.0, 4.0, 8.0, 16.0];

    #[test]
    fn a_planted_serial_fraction_is_found_within_its_interval() {
        let planted = 0.07;
        let within = (0..100).filter(|&seed| {
            let points = study(seed, &CORES, 0.02, |p| planted + (1.0 - planted) / p);
            let serial = parameters(amdahl(&points))[0];
            assert!((serial.value - planted).abs() < 0.02, "{serial:?}");
            serial.low <= planted && planted <= serial.high
        });
        // 95 of 100 are promised; a bootstrap of a few launches is a little too sure of itself.
        assert!(within.count() >= 88);
    }

    #[test]
    fn perfect_scaling_has_no_serial_part() {
        let points = study(1, &CORES, 0.01, |p| 1.0 / p);
        let Ok(Fit::Fits { words, .. }) = amdahl(&points) else { panic!() };
        assert!(words.starts_with("no serial part"), "{words}");
    }

    #[test]
    fn planted_losses_of_the_universal_law_are_found_and_its_peak() {
        let (a, b) = (0.03, 0.004);
        let points = study(2, &CORES, 0.01, |p| (1.0 + a * (p - 1.0) + b * p * (p - 1.0)) / p);
        let found = parameters(universal(&points));
        for (found, planted) in found.iter().zip([a, b]) {
            assert!(found.low <= planted && planted <= found.high, "{found:?} {planted}");
        }
        let Ok(Fit::Fits { words, .. }) = universal(&points) else { panic!() };
        assert!(words.starts_with("fastest with 1"), "{words}"); // sqrt(0.97 / 0.004) = 15.6
    }

    #[test]
    fn overhead_that_grows_is_told_from_serial_work() {
        let words = |time: &dyn Fn(f64) -> f64| match karp_flatt(&study(3, &CORES, 0.01, time)) {
            Ok(Fit::Fits { words, .. }) => words,
            other => panic!("{other:?}"),
        };
        let overhead = words(&|p| 1.0 / p + 0.01 * (p - 1.0));
        assert!(overhead.starts_with("it grows"), "{overhead}");
        let serial = words(&|p| 0.1 + 0.9 / p);
        assert!(serial.starts_with("it does not change"), "{serial}");
    }

    #[test]
    fn a_planted_share_that_does_not_grow_is_found_in_weak_scaling() {
        let s = 0.1;
        // Work in proportion to the cores: speed-up is p T(1) / T(p).
        let mut points = study(4, &CORES, 0.01, |p| p / (s + (1.0 - s) * p));
        for point in &mut points {
            point.work = point.cores;
        }
        let found = parameters(gustafson(&points))[0];
        assert!(found.low <= s && s <= found.high, "{found:?}");
    }

    #[test]
    fn laws_that_the_points_do_not_carry_are_refused() {
        let why = |fit: Result<Fit, String>| fit.unwrap_err();
        let two = study(5, &CORES[..2], 0.01, |p| 1.0 / p);
        assert_eq!(why(amdahl(&two)), "needs 3 good numbers of cores, there are 2");
        assert_eq!(why(gustafson(&two)), "needs 3 good numbers of cores, there are 2");
        assert_eq!(why(universal(&two)), "needs 4 good numbers of cores, there are 2");
        assert_eq!(why(karp_flatt(&two[..1])), "needs 2 good numbers of cores, there are 1");
        // A time that goes up and down is no law.
        let wild = study(6, &CORES, 0.01, |p| if (3.0..5.0).contains(&p) { 2.0 } else { 1.0 / p });
        assert!(why(amdahl(&wild)).contains("does not describe the points"), "{:?}", amdahl(&wild));
        let noisy = study(7, &CORES[..3], 3.0, |p| 0.5 + 0.5 / p);
        assert!(why(amdahl(&noisy)).contains("differ too much"), "{:?}", amdahl(&noisy));
    }
}
