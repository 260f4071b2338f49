//! What tells the time, so that tests can tell it themselves.

use std::time::{Duration, Instant};

/// A source of time for one rank.
pub(super) trait Clock {
    /// A moment.
    type Moment: Copy;

    /// This moment.
    fn now(&self) -> Self::Moment;

    /// How long ago `moment` was.
    fn since(&self, moment: Self::Moment) -> Duration;
}

/// The machine's monotonic clock, which the C programs of `benches/peers/` read too.
pub(super) struct Monotonic;

impl Clock for Monotonic {
    type Moment = Instant;

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn since(&self, moment: Instant) -> Duration {
        moment.elapsed()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    use super::*;

    /// Every look at this clock takes one step.
    pub(in crate::bench) struct Stepping {
        now: Cell<Duration>,
        step: Duration,
    }

    impl Stepping {
        pub(in crate::bench) fn new(step: Duration) -> Self {
            Self { now: Cell::new(Duration::ZERO), step }
        }
    }

    impl Clock for Stepping {
        type Moment = Duration;

        fn now(&self) -> Duration {
            self.now.set(self.now.get() + self.step);
            self.now.get()
        }

        fn since(&self, moment: Duration) -> Duration {
            self.now().saturating_sub(moment)
        }
    }

    #[test]
    fn the_monotonic_clock_never_goes_back() {
        let start = Monotonic.now();
        let first = Monotonic.since(start);
        assert!(Monotonic.since(start) >= first);
    }
}
