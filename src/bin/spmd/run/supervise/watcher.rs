//! Looks on while one start of the program is at work.

use std::time::{Duration, Instant};

use super::{
    Limits, Supervisor,
    policy::How,
    roster::Team,
    state::{Phase, lock},
    tell,
};
use crate::run::watch::{Ended, Fate, Order, Overseer};

/// What has befallen the run before a start, and when; told in one line when the program goes on.
pub(super) struct News {
    pub(super) what: String,
    pub(super) at: Instant,
}

/// Looks on while the program runs.
pub(super) struct Watcher<'a> {
    supervisor: &'a mut Supervisor,
    stall: Option<Duration>,
    rejoin: bool,
    /// Told when the program goes on.
    news: &'a mut Option<News>,
    looked: Instant,
}

impl<'a> Watcher<'a> {
    pub(super) fn new(
        supervisor: &'a mut Supervisor,
        limits: &Limits,
        news: &'a mut Option<News>,
    ) -> Self {
        let (stall, rejoin) = (limits.stall, !limits.no_rejoin);
        Self { supervisor, stall, rejoin, news, looked: Instant::now() }
    }
}

impl Overseer for Watcher<'_> {
    fn told(&mut self, progress: &str) {
        let mut run = lock(&self.supervisor.run);
        if !run.progress.hear(progress) {
            return;
        }
        if matches!(run.phase, Phase::Starting) {
            run.phase = Phase::Running;
        }
        self.supervisor.waited = Duration::ZERO;
        if let Some(team) = &run.team {
            self.supervisor.probes.work(&team.hosts);
        }
        if let Some(News { what, at }) = self.news.take() {
            let team = run.team.as_ref().map_or(String::new(), Team::text);
            let go =
                if run.team.as_ref().is_some_and(|team| team.ranks == 1) { "goes" } else { "go" };
            let (from, after) = (run.progress.from(), at.elapsed().as_secs_f64());
            tell(&format!("{what}; {team} {go} on {from}, after {after:.1} s"));
        }
    }

    fn look(&mut self) -> Order {
        /// This process was stopped, or had no CPU.
        const GAP: Duration = Duration::from_secs(2);
        self.supervisor.look();
        let mut run = lock(&self.supervisor.run);
        let gap = self.looked.elapsed();
        if gap > GAP {
            run.progress.forgive(gap);
        }
        self.looked = Instant::now();
        if let Some(stall) = self.stall.filter(|stall| run.progress.age() > *stall) {
            return Order::End(format!("no progress for {:.0} s", stall.as_secs_f64()));
        }
        if matches!(run.phase, Phase::Stopping) {
            return Order::Stop;
        }
        let team = run.team.clone();
        // What keeps no checkpoints cannot stop and go on.
        if matches!(run.phase, Phase::Running)
            && run.progress.keeps() != Some(false)
            && team.is_some_and(|team| run.roster.is_better_than(&team, self.rejoin))
        {
            run.phase = Phase::Stopping;
            let next = run.roster.team().map_or(String::new(), |team| team.text());
            tell(&format!("stopping at the next step, to go on with {next}"));
            return Order::Stop;
        }
        Order::GoOn
    }
}

/// How a start has ended, and in words; `has_worked`: some start has come to a first step.
pub(super) fn how(ended: &Ended, has_worked: bool) -> (How, String) {
    let lost = spmd::hosts::compress(&ended.lost);
    let is = if ended.lost.len() == 1 { "is" } else { "are" };
    if ended.asked.is_some() || ended.is_late {
        return (How::Asked, String::new());
    }
    match &ended.fate {
        Fate::Told(0, _) => (How::Code(0), String::new()),
        Fate::LostHost(name) if ended.lost.is_empty() => (How::LostHost, format!("{name} is lost")),
        Fate::LostHost(_) => (How::LostHost, format!("{lost} {is} lost")),
        // Whatever the others make of it.
        Fate::Told(1 | 4, _) | Fate::NotBegun(_) | Fate::LostRank(_) if !lost.is_empty() => {
            (How::LostHost, format!("{lost} {is} lost"))
        }
        Fate::Told(code, why) => {
            let why =
                why.as_deref().and_then(|why| why.lines().next()).map(|why| format!(" ({why})"));
            (How::Code(*code), format!("exit code {code}{}", why.unwrap_or_default()))
        }
        Fate::NotBegun(status) => match status.code() {
            // The program is there and its words are right: what starts it has failed.
            Some(code) if has_worked && ![0, 2, 126, 127].contains(&code) => {
                (How::LostRank, format!("nothing began, exit code {code}"))
            }
            Some(code) => (How::Code(code as u8), format!("nothing began, exit code {code}")),
            None => (How::LostRank, format!("nothing began, {status}")),
        },
        Fate::LostRank(status) => (How::LostRank, format!("a rank is lost ({status})")),
        Fate::Hung(why) => (How::Hung, why.clone()),
        Fate::Interrupted(_) | Fate::Late => (How::Asked, String::new()),
        Fate::Unreadable(error) => (How::LostRank, error.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

    use nix::sys::signal::Signal;

    use super::*;

    fn ended(fate: Fate, asked: Option<Signal>, lost: &[&str]) -> Ended {
        let lost = lost.iter().map(|&name| name.to_owned()).collect();
        Ended { fate, asked, is_late: false, at: Instant::now(), lost }
    }

    #[test]
    fn a_launcher_that_fails_once_the_program_has_worked_is_a_fault() {
        for code in [0, 1, 2, 41, 126, 127, 137] {
            let fate = || Fate::NotBegun(ExitStatus::from_raw(code << 8));
            let at_first = how(&ended(fate(), None, &[]), false).0;
            assert_eq!(at_first, How::Code(code as u8), "its own exit code");
            let later = how(&ended(fate(), None, &[]), true).0;
            let is_fault = ![0, 2, 126, 127].contains(&code);
            assert_eq!(later == How::LostRank, is_fault, "{code}: {later:?}");
        }
    }

    #[test]
    fn who_has_asked_for_the_end_has_the_last_word() {
        let fates = || [Fate::LostHost("b".to_owned()), Fate::Hung("no progress".to_owned())];
        for fate in fates() {
            assert_eq!(how(&ended(fate, Some(Signal::SIGTERM), &["b"]), true).0, How::Asked);
        }
        for fate in fates() {
            assert_ne!(how(&ended(fate, None, &["b"]), true).0, How::Asked);
        }
        // What was done is done, though a host is lost since.
        assert_eq!(how(&ended(Fate::Told(0, None), None, &["b"]), true).0, How::Code(0));
    }
}
