//! Losses that are asked for: which ranks, in which epoch, at which of their calls or when.

use std::{fmt, num::NonZeroU64, str::FromStr, time::Duration};

use crate::random::Random;

/// Ranks that are to be lost, to see what a program does then.
///
/// A list of losses, separated by commas: ranks (several at once are joined by `+`), `@`, when, and
/// `/` with the epoch, if it is not the first. When is the number of a call of the rank that is named
/// first (where ranks are processes, of each of them), or a time since the epoch began.
///
/// ```
/// use spmd::recover::Faults;
/// for text in ["2@150", "0@1.5s", "1+3@40/2, 0@10", "random:7:20:500"] {
///     assert_eq!(text.parse::<Faults>().unwrap().to_string(), text);
/// }
/// assert!("2@never".parse::<Faults>().is_err());
/// ```
///
/// `random:SEED:COUNT:CALLS` is one loss in each of the first `COUNT` epochs: of any rank, at any of
/// its first `CALLS` calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults(Vec<Fault>);

#[derive(Clone, Debug, PartialEq)]
enum Fault {
    Planned { ranks: Vec<usize>, when: When, epoch: u64 },
    Random { seed: u64, count: u64, calls: NonZeroU64 },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    Call(u64),
    Time(Duration),
}

impl Faults {
    /// The loss of these ranks at once, when the first of them makes its call of this number in this
    /// epoch, both counted from 0; and those that there were.
    #[must_use]
    pub fn and(mut self, ranks: impl Into<Vec<usize>>, call: u64, epoch: u64) -> Self {
        self.0.push(Fault::Planned { ranks: ranks.into(), when: When::Call(call), epoch });
        self
    }

    /// One loss in each of the first `count` epochs: of any rank, at any of its first `calls` calls.
    #[must_use]
    pub fn random(seed: u64, count: u64, calls: NonZeroU64) -> Self {
        Self(vec![Fault::Random { seed, count, calls }])
    }

    /// Whether a rank that is a process is lost now: each of several that are lost at once sees to it
    /// itself.
    #[cfg(feature = "mpi")]
    pub(crate) fn hit(&self, now: Moment) -> bool {
        self.0.iter().any(|fault| {
            let rank = match fault {
                Fault::Planned { ranks, .. } if ranks.contains(&now.rank) => ranks[0],
                _ => now.rank,
            };
            fault.at(Moment { rank, ..now }).is_some_and(|lost| lost.contains(&now.rank))
        })
    }

    /// The ranks that are lost now.
    pub(crate) fn at(&self, now: Moment) -> Option<Vec<usize>> {
        self.0.iter().find_map(|fault| fault.at(now))
    }
}

/// A call that is about to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) epoch: u64,
    /// How long ago that began.
    pub(crate) since: Duration,
    /// Who makes it, of how many.
    pub(crate) rank: usize,
    pub(crate) size: usize,
    /// Its number among those of the rank.
    pub(crate) call: u64,
}

impl Fault {
    fn at(&self, now: Moment) -> Option<Vec<usize>> {
        match self {
            Self::Planned { ranks, when, epoch } => {
                let due = match when {
                    When::Call(number) => now.call == *number,
                    When::Time(time) => now.since >= *time,
                };
                let hit = due && now.epoch == *epoch && ranks.first() == Some(&now.rank);
                hit.then(|| ranks.iter().copied().filter(|&rank| rank < now.size).collect())
            }
            Self::Random { seed, count, calls } => {
                let mut drawn = Random::new(*seed).at(now.epoch);
                let mut below = |end: u64| ((drawn.uniform() * end as f64) as u64).min(end - 1);
                let hit = now.epoch < *count
                    && (now.rank as u64, now.call) == (below(now.size as u64), below(calls.get()));
                hit.then(|| vec![now.rank])
            }
        }
    }
}

impl FromStr for Faults {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fault = |text: &str| {
            read(text).ok_or_else(|| {
                format!(
                    "{text:?} is no loss: give RANKS@CALL or RANKS@TIMEs, as 2@150, 0+3@1.5s, with /EPOCH behind it if \
                     it is not the first; or random:SEED:COUNT:CALLS"
                )
            })
        };
        text.split(',').map(str::trim).map(fault).collect::<Result<_, _>>().map(Self)
    }
}

fn read(text: &str) -> Option<Fault> {
    if let Some(numbers) = text.strip_prefix("random:") {
        let mut numbers = numbers.split(':');
        let mut next = || numbers.next()?.parse().ok();
        let (seed, count, calls) = (next()?, next()?, NonZeroU64::new(next()?)?);
        return numbers.next().is_none().then_some(Fault::Random { seed, count, calls });
    }
    let (ranks, rest) = text.split_once('@')?;
    let (when, epoch) = rest.split_once('/').unwrap_or((rest, "0"));
    let when = match when.strip_suffix('s') {
        Some(seconds) => When::Time(Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?),
        None => When::Call(when.parse().ok()?),
    };
    let ranks = ranks.split('+').map(|rank| rank.parse().ok()).collect::<Option<_>>()?;
    Some(Fault::Planned { ranks, when, epoch: epoch.parse().ok()? })
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.0.iter().map(|fault| match fault {
            Fault::Random { seed, count, calls } => format!("random:{seed}:{count}:{calls}"),
            Fault::Planned { ranks, when, epoch } => {
                let ranks: Vec<String> = ranks.iter().map(ToString::to_string).collect();
                let when = match when {
                    When::Call(call) => call.to_string(),
                    When::Time(time) => format!("{}s", time.as_secs_f64()),
                };
                let epoch = if *epoch == 0 { String::new() } else { format!("/{epoch}") };
                format!("{}@{when}{epoch}", ranks.join("+"))
            }
        });
        f.write_str(&words.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_come_when_they_are_planned() {
        let faults: Faults = "1+5@7, 0@0.5s/2".parse().unwrap();
        let at = |epoch, rank, call, ms| {
            let since = Duration::from_millis(ms);
            faults.at(Moment { epoch, since, rank, size: 4, call })
        };
        assert_eq!(at(0, 1, 7, 0), Some(vec![1]), "there is no rank 5 of 4");
        for (epoch, rank, call) in [(0, 1, 6), (0, 5, 7), (1, 1, 7), (0, 0, 7)] {
            assert_eq!(at(epoch, rank, call, 1000), None);
        }
        assert_eq!((at(2, 0, 3, 499), at(2, 0, 3, 500)), (None, Some(vec![0])));
    }

    #[test]
    fn random_losses_hit_one_call_of_one_rank_in_each_epoch() {
        let faults = Faults::random(3, 5, NonZeroU64::new(20).unwrap());
        for epoch in 0..7 {
            let all = (0..4).flat_map(|rank| (0..20).map(move |call| (rank, call)));
            let since = Duration::ZERO;
            let hits = all.filter(|&(rank, call)| {
                faults.at(Moment { epoch, since, rank, size: 4, call }).is_some()
            });
            assert_eq!(hits.count(), usize::from(epoch < 5));
        }
    }

    #[test]
    fn what_is_no_loss_is_refused() {
        for wrong in ["", "2", "@3", "2@", "2@-1", "a@1", "2@1/x", "random:1:2:0", "random:1:2"] {
            assert!(wrong.parse::<Faults>().unwrap_err().contains("RANKS@CALL"), "{wrong}");
        }
    }
}
