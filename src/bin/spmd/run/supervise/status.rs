//! What a supervised run says of itself.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{
    roster::{Member, State},
    state::Run,
};

/// As JSON it is what `spmd status --json` prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Status {
    run: String,
    command: String,
    /// The process that watches.
    pid: u32,
    running_s: f64,
    /// `starting`, `running`, `stopping` or `waiting`.
    state: String,
    /// What for, where it waits.
    waiting_for: Option<String>,
    ranks: usize,
    ranks_wanted: usize,
    hosts: Vec<OfHost>,
    /// Steps since the run began; none before the program tells.
    step: Option<u64>,
    checkpoint: Option<u64>,
    checkpoint_step: Option<u64>,
    /// Since the program has told anything new.
    told_s: f64,
    /// Faults that the program has got over without another start.
    survived: u64,
    restarts: u32,
    most_restarts: u32,
    planned_stops: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct OfHost {
    name: String,
    slots: Option<usize>,
    /// `used`, `spare`, `idle`, `drained`, `joining` or `lost`.
    state: String,
    since_s: f64,
    why: Option<String>,
}

impl Status {
    pub(super) fn of(run: &Run) -> Self {
        let checkpoint = run.progress.checkpoint();
        Self {
            run: run.name.clone(),
            command: run.command.clone(),
            pid: std::process::id(),
            running_s: run.began.elapsed().as_secs_f64(),
            state: run.phase.word().to_owned(),
            waiting_for: run.phase.waits_for(),
            ranks: run.team.as_ref().map_or(0, |team| team.ranks),
            ranks_wanted: run.roster.wanted(),
            hosts: run.roster.members().iter().map(|member| of_host(run, member)).collect(),
            step: run.progress.step(),
            checkpoint: checkpoint.map(|(number, _)| number),
            checkpoint_step: checkpoint.and_then(|(_, step)| step),
            told_s: run.progress.age().as_secs_f64(),
            survived: run.progress.survived(),
            restarts: run.restarts,
            most_restarts: run.most_restarts,
            planned_stops: run.planned,
        }
    }

    /// For reading.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, what: String| {
            let _ = writeln!(text, "{name:<11} {what}"); // a String takes all
        };
        line("run", format!("{}: {}", self.run, self.command));
        let waiting =
            self.waiting_for.as_ref().map_or(String::new(), |what| format!(" for {what}"));
        line("state", format!("{}{waiting}, since the start {:.0} s", self.state, self.running_s));
        line("ranks", format!("{} of {}", self.ranks, self.ranks_wanted));
        line(
            "step",
            self.step.map_or("none told".to_owned(), |step| {
                format!("{step}, told {:.1} s ago", self.told_s)
            }),
        );
        let kept = self.checkpoint.map(|number| match self.checkpoint_step {
            Some(step) => format!("{number}, of step {step}"),
            None => number.to_string(),
        });
        line("checkpoint", kept.unwrap_or("none".to_owned()));
        let (made, most) = (self.restarts, self.most_restarts);
        line("restarts", format!("{made} of {most}, and {} planned stops", self.planned_stops));
        line("survived", format!("{} faults without a restart", self.survived));
        let longest = self.hosts.iter().map(|host| host.name.len()).max().unwrap_or(0).max(4);
        let _ = writeln!(text, "\n{:<longest$}  slots  state", "host");
        for host in &self.hosts {
            let slots = host.slots.map_or("?".to_owned(), |slots| slots.to_string());
            let why = host.why.as_ref().map_or(String::new(), |why| format!(": {why}"));
            let (name, state, since) = (&host.name, &host.state, host.since_s);
            let _ = writeln!(text, "{name:<longest$}  {slots:<5}  {state} for {since:.0} s{why}");
        }
        text
    }
}

fn of_host(run: &Run, member: &Member) -> OfHost {
    let takes_part =
        || run.team.as_ref().is_some_and(|team| team.hosts.iter().any(|it| it.name == member.name));
    let (state, why) = match &member.state {
        State::Ready if takes_part() => ("used", None),
        State::Ready if member.is_spare => ("spare", None),
        State::Ready => ("idle", None),
        State::Drained if takes_part() => ("draining", None),
        State::Drained => ("drained", None),
        State::Joining => ("joining", None),
        State::Lost(why) => ("lost", Some(why.clone())),
    };
    OfHost {
        name: member.name.clone(),
        slots: member.slots,
        state: state.to_owned(),
        since_s: member.since.elapsed().as_secs_f64(),
        why,
    }
}
