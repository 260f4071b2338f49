//! What happened to a run, as it was seen from beside it: samples of its status, and what was done to
//! its hosts.

use serde::{Deserialize, Serialize};

/// What a run was and what befell it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Story {
    pub(super) deeds: Vec<Deed>,
    pub(super) samples: Vec<Sample>,
    /// What the run has printed, and said of itself.
    pub(super) out: String,
    pub(super) said: String,
    /// Its exit code; none if it was ended by a signal.
    pub(super) code: Option<i32>,
    pub(super) ended_s: f64,
}

/// Something that was done to the hosts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Deed {
    pub(super) at_s: f64,
    pub(super) what: String,
    pub(super) host: String,
}

/// The run at one time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Sample {
    pub(super) at_s: f64,
    /// Whether its ranks make steps.
    pub(super) works: bool,
    pub(super) ranks: usize,
    pub(super) step: Option<u64>,
    /// The step of the last checkpoint.
    pub(super) kept: Option<u64>,
    /// By host.
    pub(super) hosts: Vec<(String, Host)>,
}

/// What a host is to the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Host {
    /// Its ranks make steps.
    Works,
    /// It has ranks, which start or stop, or wait for a host that is gone.
    Waits,
    Lost,
    /// It was taken out.
    Out,
    /// It is there and has no ranks.
    Idle,
}

impl Host {
    pub(super) const ALL: [(Self, char, &'static str); 5] = [
        (Self::Works, '#', "its ranks make steps"),
        (Self::Waits, '~', "its ranks start, stop, or wait for a lost one"),
        (Self::Lost, 'x', "lost"),
        (Self::Out, '-', "taken out"),
        (Self::Idle, '.', "there, without ranks"),
    ];

    pub(super) fn letter(self) -> char {
        Self::ALL.iter().find(|(host, ..)| *host == self).map_or(' ', |(_, letter, _)| *letter)
    }
}

/// What followed from a deed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Aftermath {
    /// When the run was seen not to work any more.
    pub(super) noticed_s: f64,
    /// When it was seen to work again, and on how many ranks.
    pub(super) again_s: f64,
    pub(super) ranks: usize,
    /// Steps that were done again.
    pub(super) redone: u64,
}

impl Story {
    /// All hosts, in the order in which they came.
    pub(super) fn hosts(&self) -> Vec<&str> {
        let mut hosts: Vec<&str> = Vec::new();
        for (name, _) in self.samples.iter().flat_map(|sample| &sample.hosts) {
            if !hosts.contains(&name.as_str()) {
                hosts.push(name);
            }
        }
        hosts
    }

    /// What a host was, from when to when.
    pub(super) fn lane(&self, name: &str) -> Vec<(f64, f64, Host)> {
        let mut lane: Vec<(f64, f64, Host)> = Vec::new();
        let ends = self.samples.iter().skip(1).map(|sample| sample.at_s).chain([self.ended_s]);
        for (sample, end_s) in self.samples.iter().zip(ends) {
            let Some((_, host)) = sample.hosts.iter().find(|(other, _)| other == name) else {
                continue;
            };
            match lane.last_mut() {
                Some(last) if last.2 == *host && last.1 >= sample.at_s => last.1 = end_s,
                _ => lane.push((sample.at_s, end_s, *host)),
            }
        }
        lane
    }

    /// A lane in so many characters.
    pub(super) fn drawn(&self, name: &str, width: usize) -> String {
        let mut letters = vec![' '; width];
        let place = |at_s: f64| ((at_s / self.ended_s * width as f64) as usize).min(width);
        for (from_s, to_s, host) in self.lane(name) {
            letters[place(from_s)..place(to_s)].fill(host.letter());
        }
        letters.into_iter().collect()
    }

    /// What followed from each deed, where anything did.
    pub(super) fn aftermaths(&self) -> Vec<Option<Aftermath>> {
        let next = |number: usize| {
            self.deeds.get(number + 1).map_or(f64::INFINITY, |deed: &Deed| deed.at_s)
        };
        let deeds = self.deeds.iter().enumerate();
        deeds.map(|(number, deed)| self.aftermath(deed.at_s, next(number))).collect()
    }

    fn aftermath(&self, from_s: f64, to_s: f64) -> Option<Aftermath> {
        let mut rest = self.samples.iter().filter(|it| (from_s..to_s).contains(&it.at_s));
        let stopped = rest.find(|sample| !sample.works)?;
        let rest: Vec<&Sample> = rest.collect();
        let again = *rest.iter().find(|sample| sample.works && sample.step.is_some())?;
        let before = self.samples.iter().rfind(|it| it.at_s <= stopped.at_s && it.step.is_some());
        let before = before.and_then(|sample| sample.step).unwrap_or(0);
        // It goes on from its last checkpoint, and may have kept another one since: it began no later
        // than at any step that was seen.
        let seen = rest.iter().filter_map(|sample| sample.step).chain(again.kept);
        let from = seen.min().unwrap_or(before);
        Some(Aftermath {
            noticed_s: stopped.at_s,
            again_s: again.at_s,
            ranks: again.ranks,
            redone: before.saturating_sub(from),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_s: f64, works: bool, step: u64, hosts: &[(&str, Host)]) -> Sample {
        let hosts: Vec<_> = hosts.iter().map(|(name, host)| ((*name).to_owned(), *host)).collect();
        let ranks = hosts.iter().filter(|(_, host)| *host == Host::Works).count();
        Sample { at_s, works, ranks, step: Some(step), kept: Some(step / 10 * 10), hosts }
    }

    #[test]
    fn a_story_is_told_from_its_samples() {
        use Host::{Lost, Waits, Works};
        let deed = Deed { at_s: 1.5, what: "crash".to_owned(), host: "b".to_owned() };
        let story = Story {
            deeds: vec![deed],
            samples: vec![
                sample(0.0, true, 5, &[("a", Works), ("b", Works)]),
                sample(1.0, true, 27, &[("a", Works), ("b", Works)]),
                sample(2.0, false, 27, &[("a", Waits), ("b", Lost)]),
                sample(3.0, true, 23, &[("a", Works), ("b", Lost)]),
            ],
            ended_s: 4.0,
            ..Story::default()
        };
        assert_eq!(story.hosts(), ["a", "b"]);
        assert_eq!(story.lane("a"), [(0.0, 2.0, Works), (2.0, 3.0, Waits), (3.0, 4.0, Works)]);
        assert_eq!(
            (story.drawn("a", 8), story.drawn("b", 8)),
            ("####~~##".into(), "####xxxx".into())
        );
        let after = Aftermath { noticed_s: 2.0, again_s: 3.0, ranks: 1, redone: 7 };
        assert_eq!(story.aftermaths(), [Some(after.clone())]);
        // Another checkpoint was kept before it was seen to work, and a lower step was seen before.
        let mut late = story.clone();
        late.samples.last_mut().unwrap().at_s = 3.5;
        late.samples.last_mut().unwrap().kept = Some(26);
        late.samples.insert(3, sample(3.0, false, 21, &[("a", Waits), ("b", Lost)]));
        let after = Aftermath { again_s: 3.5, redone: 6, ..after };
        assert_eq!(late.aftermaths(), [Some(after)]);
    }
}
