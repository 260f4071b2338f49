//! What the launches say together: a summary for each point, what is lost where, the laws, and a
//! verdict in words.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    machine::{Card, host_names},
    models::{self, Law, Measured},
    plan::{Plan, Point},
    samples::{Doubt, Run, Sample},
    statistics::{Estimate, Summary},
};
use crate::options::scale::Mode;
use crate::statistics::Ratio;

/// What is written now.
pub(super) const FORMAT: u32 = 1;

/// So many launches must be undisturbed for a point to be good.
const FEWEST: usize = 3;

/// From this efficiency on scaling is called efficient.
pub(super) const EFFICIENT: f64 = 0.7;

/// A study, complete: what `study.json` has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Study {
    pub(super) format: u32,
    pub(super) card: Card,
    pub(super) plan: Plan,
    pub(super) warnings: Vec<String>,
    pub(super) verdict: Vec<String>,
    pub(super) points: Vec<Found>,
    pub(super) series: Vec<Series>,
    pub(super) samples: Vec<Sample>,
}

/// What is known of a point.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Found {
    pub(super) point: Point,
    pub(super) cores: usize,
    pub(super) hosts: usize,
    pub(super) state: State,
    /// The seconds of the launches that count.
    pub(super) seconds: Vec<f64>,
    pub(super) summary: Option<Summary>,
    /// How many times as fast as the base case, for work in proportion in weak scaling.
    pub(super) speedup: Option<Estimate>,
    pub(super) efficiency: Option<Estimate>,
    /// The work of each core, where the base case's is 1.
    pub(super) share_of_work: f64,
    pub(super) split: Option<Split>,
    /// Which of the study's launches the split and the shares are of: the median one.
    pub(super) median_launch: Option<usize>,
}

/// How far a point is to be trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Good,
    /// More ranks x threads than cores.
    Crowded,
    /// No launch was undisturbed.
    Doubtful(String),
    /// Nothing counts: wrong results, or no results.
    Failed(String),
}

impl State {
    pub(super) fn words(&self) -> String {
        match self {
            Self::Good => String::new(),
            Self::Crowded => "crowded".to_owned(),
            Self::Doubtful(why) => why.clone(),
            Self::Failed(why) => format!("failed: {why}"),
        }
    }
}

/// Where efficiency goes, as the POP project splits it: the factors' product, over that of the base
/// case, is the efficiency.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Split {
    /// The ranks' mean time outside of calls over the longest.
    pub(super) load_balance: f64,
    /// The longest time outside of calls over the whole time.
    pub(super) communication: f64,
    /// The share of that time that the ranks' threads computed; `None` with one thread per rank.
    pub(super) threads: Option<f64>,
    /// The CPU time outside of calls that the same work took in the base case, over what it takes
    /// here.
    pub(super) computation: f64,
    /// Parts of the time, of all ranks together: computing, calls by name, waiting for the end.
    pub(super) shares: Vec<(String, f64)>,
    /// The call that takes longest, by place, and its share of the time in calls.
    pub(super) longest: Option<(String, f64)>,
}

/// Points with the same threads, in the order of cores.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Series {
    pub(super) mode: Mode,
    pub(super) threads: usize,
    /// Indices of points.
    pub(super) points: Vec<usize>,
    pub(super) laws: Vec<Law>,
}

impl Series {
    pub(super) fn threads_in_words(&self) -> String {
        let plural = if self.threads == 1 { "" } else { "s" };
        format!("{} thread{plural} per rank", self.threads)
    }
}

/// What parts of the time that are no calls are called.
pub(super) const COMPUTING: &str = "outside calls";
pub(super) const ENDED: &str = "ended before others";
pub(super) const OTHER_CALLS: &str = "other calls";

impl Study {
    pub(super) fn new(plan: Plan, mut card: Card, samples: Vec<Sample>) -> Self {
        let mut points: Vec<Found> =
            (0..plan.points.len()).map(|which| found(&plan, which, &samples)).collect();
        for mode in [Mode::Strong, Mode::Weak] {
            compare_with_base(mode, &mut points, &samples);
        }
        let series = series(&plan, &points);
        let verdict = verdict(&plan, &points, &series);
        let mut warnings = plan.warnings();
        // A launch that has failed counts nowhere, whatever the machine was like.
        let doubted = |sample: &&Sample| sample.failed.is_none() && !sample.doubts.is_empty();
        let doubted = samples.iter().filter(doubted).count();
        if doubted > 0 {
            warnings.push(format!(
                "{doubted} of {} launches were not on an idle machine, or found wrong results: they do not count where \
                 others do",
                samples.len()
            ));
        }
        if plan.launches < 6 {
            warnings.push(format!(
                "{} launches of each point: the intervals of medians are less sure than 95 %, from 6 launches on they are",
                plan.launches
            ));
        }
        complete(&mut card, &samples);
        Self { format: FORMAT, card, plan, warnings, verdict, points, series, samples }
    }

    /// The launch that stands for a point.
    pub(super) fn median_run(&self, found: &Found) -> Option<&Run> {
        let launch = found.median_launch?;
        self.samples.iter().find(|sample| sample.launch == launch)?.run.as_ref()
    }

    /// What could not be measured: the exit code, 0 if nothing.
    pub(super) fn exit_code(&self) -> u8 {
        let wrong = |sample: &Sample| {
            sample.doubts.iter().any(|doubt| matches!(doubt, Doubt::WrongResult(_)))
        };
        if self.samples.iter().any(wrong) {
            3
        } else {
            u8::from(self.points.iter().any(|found| matches!(found.state, State::Failed(_))))
        }
    }
}

/// What is on the card from the runs themselves.
fn complete(card: &mut Card, samples: &[Sample]) {
    let Some(run) = samples.iter().filter_map(|sample| sample.run.as_ref()).next_back() else {
        return;
    };
    let engine = format!("{} {}", run.engine, run.library);
    card.add("engine", Some(engine.trim().to_owned()));
    let runs = samples.iter().filter_map(|sample| sample.run.as_ref());
    let hosts = host_names(runs.flat_map(|run| &run.parts).map(|part| &*part.host));
    card.add("hosts", (hosts.len() > 1).then(|| hosts.len().to_string()));
}

/// A point by itself.
fn found(plan: &Plan, which: usize, samples: &[Sample]) -> Found {
    let point = plan.points[which].clone();
    let own: Vec<&Sample> = samples.iter().filter(|sample| sample.point == which).collect();
    let seconds = |counts: &dyn Fn(&Sample) -> bool| -> Vec<f64> {
        own.iter().filter(|sample| counts(sample)).filter_map(|sample| sample.seconds).collect()
    };
    let good = seconds(&|sample| sample.doubts.is_empty());
    let any = seconds(&|_| true);
    let wrong = own
        .iter()
        .flat_map(|sample| &sample.doubts)
        .find(|doubt| matches!(doubt, Doubt::WrongResult(_)));
    let failed = || own.iter().find_map(|sample| sample.failed.clone());
    // Of one launch nobody knows how far others would be from it.
    let enough = good.len() >= plan.launches.min(FEWEST);
    let (state, seconds) = match (wrong, enough, any.is_empty()) {
        (Some(wrong), ..) => (State::Failed(wrong.words()), Vec::new()),
        (None, _, true) => {
            let why = failed().unwrap_or_else(|| "not launched yet".to_owned());
            (State::Failed(why), Vec::new())
        }
        (None, false, false) => {
            let doubt = own.iter().flat_map(|sample| &sample.doubts).next();
            (State::Doubtful(doubt.map(Doubt::words).unwrap_or_default()), any)
        }
        (None, true, _) if plan.is_crowded(&point) => (State::Crowded, good),
        (None, true, _) => (State::Good, good),
    };
    let summary = (!seconds.is_empty()).then(|| Summary::of(&seconds));
    let run = |sample: &&&Sample| sample.run.as_ref().is_some_and(|run| !run.parts.is_empty());
    let median = summary.and_then(|summary| {
        let used = own.iter().filter(|sample| sample.seconds.is_some_and(|s| seconds.contains(&s)));
        let distance = |sample: &Sample| {
            sample.seconds.map_or(f64::INFINITY, |seconds| (seconds - summary.median).abs())
        };
        used.filter(run).min_by(|left, right| distance(left).total_cmp(&distance(right)))
    });
    let hosts = median.and_then(|sample| sample.run.as_ref()).map_or(0, Run::hosts);
    Found {
        cores: point.cores(),
        point,
        hosts,
        state,
        seconds,
        summary,
        speedup: None,
        efficiency: None,
        share_of_work: 1.0,
        split: None,
        median_launch: median.map(|sample| sample.launch),
    }
}

/// CPU seconds outside of calls of all ranks, and the factors that one run shows by itself.
fn split(run: &Run, threads: usize) -> Option<(f64, Split)> {
    let ranks = run.parts.len() as f64;
    let whole = run.parts.iter().map(|part| part.own_s).fold(0.0, f64::max);
    let outside: Vec<f64> = run.parts.iter().map(|part| part.own_s - part.calls_s).collect();
    let (sum, longest) = (outside.iter().sum::<f64>(), outside.iter().copied().fold(0.0, f64::max));
    if whole <= 0.0 || longest <= 0.0 {
        return None;
    }
    let room = sum * threads as f64;
    let cpu: Option<f64> = run
        .parts
        .iter()
        .zip(&outside)
        .map(|(part, &outside)| {
            // A rank that waits in a call spins, mostly.
            let computing = part.cpu_s? - part.calls_s;
            Some(computing.clamp(outside.min(room), outside * threads as f64))
        })
        .sum();
    let computing = if threads == 1 { sum } else { cpu.unwrap_or(room) };
    let mut operations: Vec<(&String, f64)> =
        run.operations.iter().map(|(name, seconds)| (name, seconds / (ranks * whole))).collect();
    operations.sort_by(|left, right| right.1.total_cmp(&left.1));
    let mut shares = vec![(COMPUTING.to_owned(), sum / (ranks * whole))];
    shares.extend(operations.iter().take(4).map(|(name, share)| ((*name).clone(), *share)));
    let others: f64 = operations.iter().skip(4).map(|(_, share)| share).sum();
    if others > 0.0 {
        shares.push((OTHER_CALLS.to_owned(), others));
    }
    let ended = 1.0 - shares.iter().map(|(_, share)| share).sum::<f64>();
    shares.push((ENDED.to_owned(), ended.max(0.0)));
    let in_calls: f64 = run.places.values().sum();
    let place = run.places.iter().max_by(|left, right| left.1.total_cmp(right.1));
    let split = Split {
        load_balance: sum / ranks / longest,
        communication: longest / whole,
        threads: (threads > 1).then_some(computing / room),
        computation: 1.0,
        shares,
        longest: place.filter(|_| in_calls > 0.0).map(|(name, s)| (name.clone(), s / in_calls)),
    };
    Some((computing, split))
}

/// Speed-up, efficiency and split of a mode's points, in relation to its base case: the point with
/// the fewest cores.
fn compare_with_base(mode: Mode, points: &mut [Found], samples: &[Sample]) {
    let measured =
        points.iter().filter(|found| found.point.mode == mode && found.summary.is_some());
    let base = measured.min_by_key(|found| (found.cores, found.point.threads)).cloned();
    let Some(base) = base else { return };
    let run = |found: &Found| {
        let launch = found.median_launch?;
        samples.iter().find(|sample| sample.launch == launch)?.run.as_ref()
    };
    let base_computing =
        run(&base).and_then(|run| split(run, base.point.threads)).map(|(computing, _)| computing);
    for found in points.iter_mut().filter(|found| found.point.mode == mode) {
        found.share_of_work = found.point.share_of_work(&base.point);
        let work = match mode {
            Mode::Strong => 1.0,
            Mode::Weak => found.point.work / base.point.work,
        };
        if let (Some(computing), Some((own, mut split))) =
            (base_computing, run(found).and_then(|run| split(run, found.point.threads)))
        {
            split.computation = computing * work / own;
            found.split = Some(split);
        }
        if found.seconds.is_empty() {
            continue;
        }
        let Ratio { value, low, high } = Ratio::of(&base.seconds, &found.seconds);
        let by = |factor: f64| Estimate {
            value: value * factor,
            low: low * factor,
            high: high * factor,
        };
        let one = Estimate { value: 1.0, low: 1.0, high: 1.0 };
        let cores = found.cores as f64 / base.cores as f64;
        let is_base = found.point == base.point;
        found.speedup = Some(if is_base { one } else { by(work) });
        found.efficiency = Some(if is_base { one } else { by(work / cores) });
    }
}

fn series(plan: &Plan, points: &[Found]) -> Vec<Series> {
    let mut groups = BTreeMap::<(Mode, usize), Vec<usize>>::new();
    for (which, point) in plan.points.iter().enumerate() {
        groups.entry((point.mode, point.threads)).or_default().push(which);
    }
    let groups = groups.into_iter().map(|((mode, threads), which)| {
        let good: Vec<&Found> = which
            .iter()
            .map(|&at| &points[at])
            .filter(|found| found.state == State::Good)
            .collect();
        let measured = |found: &&Found| Measured {
            cores: found.cores as f64 / good[0].cores as f64,
            work: match mode {
                Mode::Strong => 1.0,
                Mode::Weak => found.point.work / good[0].point.work,
            },
            seconds: found.seconds.clone(),
        };
        let measured: Vec<Measured> = good.iter().map(measured).collect();
        let laws = match mode {
            Mode::Strong => models::strong(&measured),
            Mode::Weak => models::weak(&measured),
        };
        Series { mode, threads, points: which, laws }
    });
    groups.collect()
}

fn verdict(plan: &Plan, points: &[Found], series: &[Series]) -> Vec<String> {
    series.iter().map(|series| verdict_of(plan, points, series)).collect()
}

/// In words: how far it is efficient, and what ends that.
fn verdict_of(plan: &Plan, points: &[Found], series: &Series) -> String {
    let name = format!("{} scaling, {}", series.mode.name(), series.threads_in_words());
    let of_mode = points.iter().filter(|found| found.point.mode == series.mode);
    let base = of_mode.min_by_key(|found| (found.cores, found.point.threads));
    if let Some(base) = base.filter(|base| base.state != State::Good) {
        return format!(
            "{name}: nothing can be said; the base case is no good ({}).",
            base.state.words()
        );
    }
    let good: Vec<(&Found, Estimate)> = series
        .points
        .iter()
        .map(|&which| &points[which])
        .filter(|found| found.state == State::Good)
        .filter_map(|found| Some((found, found.efficiency?)))
        .collect();
    if good.len() < 2 {
        return format!(
            "{name}: nothing can be said; good numbers of cores: {}, needed are 2.",
            good.len()
        );
    }
    let end = good.iter().position(|(_, efficiency)| efficiency.value < EFFICIENT);
    let (last, efficiency) = good[end.unwrap_or(good.len()).max(1) - 1];
    let speedup = last.speedup.map_or(1.0, |speedup| speedup.value);
    let percent = 100.0 * efficiency.value;
    let so_far = format!(
        "{name}: efficient to {} cores ({percent:.0} %, {speedup:.2} times as fast as the base case)",
        last.cores
    );
    if let Some((beyond, lost)) = end.map(|end| good[end.max(1)]) {
        let (cores, percent) = (beyond.cores, 100.0 * lost.value);
        return format!("{so_far}, not to {cores} ({percent:.0} %); {}.", loss(beyond));
    }
    let tried = if last.cores >= plan.cores { "there are no more" } else { "more were not tried" };
    format!("{so_far}; {tried}. Of what is lost there, {}.", loss(last))
}

/// What loses most at a point.
fn loss(found: &Found) -> String {
    let Some(split) = &found.split else {
        return "nothing is known (no record of calls)".to_owned();
    };
    let factors = [
        ("uneven work (load balance", Some(split.load_balance)),
        ("time in calls (communication", Some(split.communication)),
        ("threads without work (threads", split.threads),
        ("slower computing on more cores (computation", Some(split.computation)),
    ];
    let known = factors.iter().filter_map(|(name, factor)| Some((*name, (*factor)?)));
    let Some((name, factor)) = known.min_by(|left, right| left.1.total_cmp(&right.1)) else {
        return String::new();
    };
    let text = format!("{name} {factor:.2}) loses most");
    if let Some((place, share)) =
        split.longest.as_ref().filter(|_| name.starts_with("time in calls"))
    {
        return format!("{text}: {:.0} % of it is {place}", 100.0 * share);
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        options::scale::LauncherKind,
        scale::{expression::Template, samples::Part},
        statistics::Random,
    };

    /// A study of points with one thread per rank, whose launches take `time(ranks)` on rank 0 and
    /// more on others by `slower(rank)`; `calls` of the time is in an allreduce.
    pub(in crate::scale) fn synthetic(
        seed: u64,
        ranks: &[usize],
        launches: usize,
        noise: f64,
        time: impl Fn(usize) -> f64,
        calls: impl Fn(usize, usize) -> f64,
    ) -> Study {
        let point = |&ranks: &usize| Point {
            mode: Mode::Strong,
            ranks,
            threads: 1,
            arguments: vec!["--size".to_owned(), "100".to_owned()],
            values: Vec::new(),
            work: 1.0,
            uneven: 0.0,
        };
        let plan = Plan {
            program: "target/release/examples/synthetic".to_owned(),
            arguments: Template::new(&["--size".to_owned(), "100".to_owned()]),
            launcher: LauncherKind::Local,
            launcher_args: Vec::new(),
            cores: 16,
            launches,
            seed,
            work: None,
            points: ranks.iter().map(point).collect(),
        };
        let mut random = Random(seed);
        let mut samples = Vec::new();
        for (launch, which) in plan.order().into_iter().enumerate() {
            let ranks = plan.points[which].ranks;
            let chance: f64 = (0..4).map(|_| random.below(1000) as f64 / 1000.0).sum();
            let seconds = time(ranks) * (1.0 + noise * chance);
            let mut run =
                Run { engine: "local".to_owned(), verified: Some(true), ..Run::default() };
            for rank in 0..ranks {
                let calls_s = seconds * calls(ranks, rank);
                *run.places.entry("allreduce at cg.rs:88".to_owned()).or_default() += calls_s;
                *run.operations.entry("allreduce".to_owned()).or_default() += calls_s;
                run.messages.push((rank, (rank + 1) % ranks, 10, 8000));
                let host = format!("node{}", rank / 8);
                let node = (rank / 8) as u32;
                run.parts.push(Part { node, host, own_s: seconds, calls_s, ..Part::default() });
            }
            samples.push(Sample {
                point: which,
                launch,
                seconds: Some(seconds),
                wall_s: seconds + 0.1,
                failed: None,
                doubts: Vec::new(),
                command: "synthetic --size 100".to_owned(),
                binding: "kept on CPUs 0-3".to_owned(),
                run: Some(run),
            });
        }
        Study::new(plan, Card::default(), samples)
    }

    #[test]
    fn perfect_scaling_is_efficient_to_the_end() {
        let study = synthetic(1, &[1, 2, 4, 8, 16], 7, 0.01, |p| 1.0 / p as f64, |_, _| 0.0);
        let last = &study.points[4];
        let efficiency = last.efficiency.unwrap();
        assert!(efficiency.low < 1.0 && efficiency.high > 1.0, "{efficiency:?}");
        assert_eq!((last.hosts, last.cores, last.state.clone()), (2, 16, State::Good));
        assert!(study.verdict[0].contains("efficient to 16 cores"), "{:?}", study.verdict);
        assert!(study.verdict[0].contains("there are no more"), "{:?}", study.verdict);
        assert_eq!(study.exit_code(), 0);
    }

    #[test]
    fn a_planted_serial_part_in_an_allreduce_is_named() {
        let serial = |p: usize| 0.1 + 0.9 / p as f64;
        let calls = |p: usize, _| if p == 1 { 0.0 } else { 0.1 / serial(p) };
        let study = synthetic(2, &[1, 2, 4, 8, 16], 7, 0.005, serial, calls);
        let text = &study.verdict[0];
        assert!(text.contains("efficient to 4 cores"), "{text}"); // 1 / (0.1 * 4 + 0.9) = 0.77
        assert!(text.contains("not to 8 (59 %)"), "{text}");
        assert!(
            text.contains("communication 0.53) loses most: 100 % of it is allreduce at cg.rs:88"),
            "{text}"
        );
        // The factors' product is the efficiency.
        let (found, split) = (&study.points[3], study.points[3].split.clone().unwrap());
        let product = split.load_balance * split.communication * split.computation;
        assert!((product - found.efficiency.unwrap().value).abs() < 0.02, "{split:?}");
    }

    #[test]
    fn a_planted_slow_rank_is_bad_load_balance() {
        // Rank 0 computes all the time, the others half of it and wait.
        let calls = |p: usize, rank: usize| if p > 1 && rank > 0 { 0.5 } else { 0.0 };
        let study = synthetic(3, &[1, 2, 4], 7, 0.005, |p| 2.0 / (1.0 + p as f64), calls);
        let split = study.points[2].split.clone().unwrap();
        assert!((split.load_balance - 0.625).abs() < 1e-9, "{split:?}");
        assert!((split.communication - 1.0).abs() < 1e-9, "{split:?}");
        assert!(
            study.verdict[0].contains("uneven work (load balance 0.62) loses most"),
            "{:?}",
            study.verdict
        );
    }

    #[test]
    fn what_is_marked_does_not_count_where_others_do() {
        let mut study = synthetic(4, &[1, 2, 32], 6, 0.005, |p| 1.0 / p as f64, |_, _| 0.0);
        let of = |which: usize, study: &Study| -> Vec<usize> {
            let mine = study.samples.iter().enumerate().filter(|(_, sample)| sample.point == which);
            mine.map(|(at, _)| at).collect()
        };
        let disturbed = of(1, &study)[0];
        study.samples[disturbed].doubts.push(Doubt::NotIdle(0.5));
        study.samples[disturbed].seconds = Some(100.0);
        let again = Study::new(study.plan.clone(), Card::default(), study.samples.clone());
        assert_eq!(
            (again.points[1].seconds.len(), again.points[1].state.clone()),
            (5, State::Good)
        );
        assert!(again.points[1].summary.unwrap().max < 1.0);
        assert_eq!(again.points[2].state, State::Crowded, "32 ranks on 16 cores");
        assert!(again.verdict[0].contains("efficient to 2 cores"), "{:?}", again.verdict);
        // One wrong result is enough.
        let wrong = of(1, &study)[3];
        study.samples[wrong].doubts.push(Doubt::WrongResult("energy".to_owned()));
        let again = Study::new(study.plan.clone(), Card::default(), study.samples.clone());
        assert!(matches!(&again.points[1].state, State::Failed(why) if why.contains("energy")));
        assert_eq!((again.points[1].summary, again.exit_code()), (None, 3));
        // No launch was undisturbed.
        for at in of(0, &study) {
            study.samples[at].doubts.push(Doubt::Disturbed(0.2));
        }
        let again = Study::new(study.plan.clone(), Card::default(), study.samples.clone());
        assert!(matches!(&again.points[0].state, State::Doubtful(why) if why.contains("20 %")));
        assert!(again.points[0].summary.is_some());
        // Nothing at all.
        for at in of(0, &study) {
            study.samples[at].seconds = None;
            study.samples[at].failed = Some("exit code 1: no room".to_owned());
        }
        let again = Study::new(study.plan, Card::default(), study.samples);
        assert_eq!(again.points[0].state, State::Failed("exit code 1: no room".to_owned()));
        // Of those nobody is told that the machine was not idle.
        let told = again.warnings.iter().find(|told| told.contains("not on an idle machine"));
        let total = again.samples.len();
        assert!(told.is_some_and(|told| told.starts_with(&format!("2 of {total} "))), "{told:?}");
    }
}
