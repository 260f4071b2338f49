//! What SLURM says of the nodes of a run: one that it drains is taken out, and back when that is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::{Duration, Instant},
};

use super::{
    control::{Answer, Request},
    roster::State,
    state::Run,
    tell,
};
use crate::run::way;

/// SLURM has many to answer.
const PACE: Duration = Duration::from_secs(10);

/// Of each node that SLURM drains, why.
type Drained = BTreeMap<String, String>;

pub(super) struct Nodes {
    asked: Option<Instant>,
    /// An answer is awaited: a controller that is away takes its time.
    is_asking: bool,
    told: (Sender<Option<Drained>>, Receiver<Option<Drained>>),
    heard: Heard,
}

impl Nodes {
    pub(super) fn new() -> Self {
        Self { asked: None, is_asking: false, told: mpsc::channel(), heard: Heard::default() }
    }

    /// Hears what SLURM has said, and asks it when that is due.
    pub(super) fn look(&mut self, run: &mut Run) {
        while let Ok(told) = self.told.1.try_recv() {
            self.is_asking = false;
            // Where it says nothing all stays as it was.
            if let Some(drained) = told {
                self.heard.hear(drained, run);
            }
        }
        if self.is_asking || self.asked.is_some_and(|at| at.elapsed() < PACE) {
            return;
        }
        self.asked = Some(Instant::now());
        let names: Vec<String> = run.roster.members().iter().map(|it| it.name.clone()).collect();
        let told = self.told.0.clone();
        let asks = move || {
            let words = ["--noheader", "--Node", "--format=%N|%T|%E", "--nodes", &names.join(",")];
            let answer = way::ask("sinfo", &words).ok().map(|text| read(&text));
            let _ = told.send(answer); // if anybody still waits
        };
        self.is_asking = thread::Builder::new().spawn(asks).is_ok();
    }
}

/// A line for each node and partition: `node1|draining|maintenance`.
fn read(text: &str) -> Drained {
    let line = |line: &str| {
        let (name, rest) = line.trim().split_once('|')?;
        let (state, why) = rest.split_once('|')?;
        // `draining` while a job is there; with a star it does not answer.
        state.starts_with("drain").then(|| (name.to_owned(), why.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// What was done about nodes that SLURM drains.
#[derive(Default)]
struct Heard {
    /// Of each, whether it was taken out for that, and not by a user before.
    taken_out: BTreeMap<String, bool>,
    /// It was said of them that they are needed.
    kept: BTreeSet<String>,
}

impl Heard {
    fn hear(&mut self, drained: Drained, run: &mut Run) {
        let over = |name: &String| !drained.contains_key(name);
        self.kept.retain(|name| !over(name));
        let ours = self.taken_out.iter().filter(|(name, is_ours)| over(name) && **is_ours);
        let back: Vec<String> = ours.map(|(name, _)| name.clone()).collect();
        self.taken_out.retain(|name, _| !over(name));
        for host in back {
            // Unless a user has meanwhile said something else.
            if state(run, &host) == Some(State::Drained) {
                tell(&format!("SLURM drains {host} no more"));
                run.answer(Request::Add { host, slots: None });
            }
        }
        for (host, why) in drained {
            let is_out = match state(run, &host) {
                Some(State::Drained) => true,
                Some(_) => false,
                None => continue,
            };
            // Whoever brings one in that is drained means it.
            if self.taken_out.contains_key(&host) {
                continue;
            }
            if is_out {
                self.taken_out.insert(host, false);
                continue;
            }
            let said = match run.answer(Request::Drain { host: host.clone(), slots: None }) {
                Answer::Said(said) => {
                    self.kept.remove(&host);
                    self.taken_out.insert(host.clone(), true);
                    said
                }
                // It is tried again, but said once.
                Answer::Error(_) if !self.kept.insert(host.clone()) => continue,
                Answer::Error(why) => why,
                Answer::Status(_) => continue,
            };
            tell(&format!("SLURM drains {host} ({why}): {said}"));
        }
    }
}

fn state(run: &Run, host: &str) -> Option<State> {
    let member = run.roster.members().iter().find(|member| member.name == host);
    member.map(|member| member.state.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drained_nodes_are_told_apart() {
        let text = "n1|allocated|none\nn2|draining|new memory|or so\nn3|drained*|x\nn3|drained*|x\n\
                    n4|down*|Not responding\nn5|mixed|none\nnonsense\n";
        let drained: Vec<_> = read(text).into_iter().collect();
        let expected = [("n2", "new memory|or so"), ("n3", "x")];
        assert_eq!(drained, expected.map(|(name, why)| (name.to_owned(), why.to_owned())));
    }

    fn hear(heard: &mut Heard, run: &mut Run, names: &[&str]) {
        heard.hear(names.iter().map(|&name| (name.to_owned(), "why".to_owned())).collect(), run);
    }

    #[test]
    fn a_node_is_taken_out_and_comes_back_unless_a_user_says_otherwise() {
        let (mut heard, mut run) = (Heard::default(), Run::on("n[1-4]:2", 4));
        hear(&mut heard, &mut run, &[]);
        hear(&mut heard, &mut run, &["n2", "n9"]);
        assert_eq!(state(&run, "n2"), Some(State::Drained));
        hear(&mut heard, &mut run, &["n2"]);
        hear(&mut heard, &mut run, &[]);
        assert_eq!(state(&run, "n2"), Some(State::Joining), "it has to answer first");
        run.roster.answered("n2");
        // What a user has taken out stays so.
        run.roster.drain("n3", None).unwrap();
        hear(&mut heard, &mut run, &["n3"]);
        hear(&mut heard, &mut run, &[]);
        assert_eq!(state(&run, "n3"), Some(State::Drained));
        // What a user brings in is used, though it is drained.
        hear(&mut heard, &mut run, &["n4"]);
        run.roster.add("n4", None).unwrap();
        run.roster.answered("n4");
        hear(&mut heard, &mut run, &["n4"]);
        assert_eq!(state(&run, "n4"), Some(State::Ready));
    }

    #[test]
    fn a_node_that_is_needed_stays_until_there_are_others() {
        let (mut heard, mut run) = (Heard::default(), Run::on("n[1-2]:2", 4));
        hear(&mut heard, &mut run, &["n2"]);
        hear(&mut heard, &mut run, &["n2"]);
        assert_eq!(state(&run, "n2"), Some(State::Ready));
        run.roster.add("n3", Some(2)).unwrap();
        run.roster.answered("n3");
        hear(&mut heard, &mut run, &["n2"]);
        assert_eq!(state(&run, "n2"), Some(State::Drained));
    }
}
