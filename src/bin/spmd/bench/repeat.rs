//! What all benchmarks have in common: repetitions that are checked once, warmed up, and timed in
//! batches.

use std::time::Duration;

use spmd::{
    Comm, Failure, Result,
    op::{Max, Min, Sum},
};

use super::{
    clock::Clock,
    options::Task,
    summary::{Summary, batches},
};

/// One benchmark at one size on one rank.
pub(super) trait Repeat {
    /// Writes what is sent next, and something else where it will be received.
    fn prepare(&mut self);

    /// Repeats the communication; with `touched`, writes every buffer before it is sent and reads
    /// it after it was received. Returns the time that what is measured took on this rank.
    fn repeat<C: Clock>(
        &mut self,
        times: usize,
        touched: bool,
        clock: &C,
    ) -> Result<Duration, Failure>;

    /// Whether the repetition after [`Repeat::prepare`] has brought what it should have.
    fn is_right(&self) -> bool;

    /// Whether this rank's times count.
    fn is_timed(&self) -> bool;
}

/// Seconds per repetition: over the batches, of the ranks' average; and the averages of the fastest
/// and slowest rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Seconds {
    pub(super) summary: Summary,
    pub(super) fastest: f64,
    pub(super) slowest: f64,
}

/// Measures; `None` if data arrived wrong on some rank. The same on all ranks.
pub(super) fn measure<C: Clock>(
    world: &Comm,
    what: &mut impl Repeat,
    task: &Task,
    touched: bool,
    clock: &C,
) -> Result<Option<Seconds>, Failure> {
    what.prepare();
    world.barrier()?;
    what.repeat(1, false, clock)?;
    let wrong = u32::from(!what.is_right());
    if world.allreduce(&[wrong], Max)?[0] != 0 {
        return Ok(None);
    }
    what.repeat(task.warmup, touched, clock)?;
    world.barrier()?;
    let mut samples = Vec::new();
    let mut total = Duration::ZERO;
    for times in batches(task.iterations) {
        let took = what.repeat(times, touched, clock)?;
        total += took;
        samples.push(took.as_secs_f64() / times as f64);
    }
    let mean = total.as_secs_f64() / task.iterations as f64;
    Ok(Some(over_ranks(world, what.is_timed().then_some(mean), samples)?))
}

/// Puts the ranks' means (of those that are timed) and samples together.
fn over_ranks(world: &Comm, mean: Option<f64>, mut samples: Vec<f64>) -> Result<Seconds> {
    let count = if mean.is_some() {
        1.0
    } else {
        samples.fill(0.0);
        0.0
    };
    samples.push(mean.unwrap_or(0.0));
    samples.push(count);
    let mut sums = world.allreduce(&samples, Sum)?;
    let ranks = sums.pop().unwrap_or(1.0);
    for sum in &mut sums {
        *sum /= ranks;
    }
    let mean_of_ranks = sums.pop().unwrap_or(0.0);
    let mut summary = Summary::of(&sums);
    // Batches may differ by a repetition.
    let shift = mean_of_ranks - summary.mean;
    summary = Summary {
        mean: mean_of_ranks,
        low: summary.low + shift,
        high: summary.high + shift,
        ..summary
    };
    let fastest = world.allreduce(&[mean.unwrap_or(f64::INFINITY)], Min)?[0];
    let slowest = world.allreduce(&[mean.unwrap_or(0.0)], Max)?[0];
    Ok(Seconds { summary, fastest, slowest })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{clock::tests::Stepping, options::Benchmark};

    const STEP: Duration = Duration::from_millis(6);

    /// Takes one step of the clock each time it is asked; fails its check on one rank if so wished.
    struct Dummy {
        asked: Vec<(usize, bool)>,
        right: bool,
        timed: bool,
    }

    impl Repeat for Dummy {
        fn prepare(&mut self) {
            assert!(self.asked.is_empty(), "the check comes first");
        }

        fn repeat<C: Clock>(
            &mut self,
            times: usize,
            touched: bool,
            clock: &C,
        ) -> Result<Duration, Failure> {
            self.asked.push((times, touched));
            let start = clock.now();
            Ok(clock.since(start))
        }

        fn is_right(&self) -> bool {
            assert_eq!(self.asked, [(1, false)], "the check is of one repetition");
            self.right
        }

        fn is_timed(&self) -> bool {
            self.timed
        }
    }

    fn task(iterations: usize) -> Task {
        Task { benchmark: Benchmark::Latency, bytes: 8, iterations, warmup: 5 }
    }

    #[test]
    fn times_are_those_of_the_clock() {
        let measured = spmd::local(3, |world| {
            // Rank 2 would make everything slower, but its times do not count.
            let step = STEP * [1, 3, 1000][world.rank()];
            let mut dummy = Dummy { asked: Vec::new(), right: true, timed: world.rank() < 2 };
            let seconds = measure(world, &mut dummy, &task(200), true, &Stepping::new(step))?;
            Ok((seconds.unwrap(), dummy.asked))
        });
        for (seconds, asked) in measured.unwrap() {
            // A hundred batches of two: 3 ms each on rank 0, 9 ms each on rank 1.
            let close =
                |left: f64, right: f64| assert!((left - right).abs() < 1e-9, "{left} {right}");
            close(seconds.summary.mean, 0.006);
            close(seconds.summary.median, 0.006);
            close(seconds.summary.high, 0.006);
            close(seconds.fastest, 0.003);
            close(seconds.slowest, 0.009);
            assert_eq!(asked[..3], [(1, false), (5, true), (2, true)]);
            assert_eq!(asked.len(), 102);
        }
    }

    #[test]
    fn wrong_data_on_one_rank_are_known_to_all() {
        let measured = spmd::local(3, |world| {
            let mut dummy = Dummy { asked: Vec::new(), right: world.rank() != 1, timed: true };
            measure(world, &mut dummy, &task(1), false, &Stepping::new(STEP))
        });
        assert_eq!(measured.unwrap(), [None; 3]);
    }
}
