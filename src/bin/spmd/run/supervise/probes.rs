//! Looks whether hosts that were lost, or are to join, are there: in threads of their own, since a
//! host that is not takes its time.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::{Duration, Instant},
};

use super::{roster::State, state::Run, tell};
use crate::{
    hosts::Host,
    run::{agent::checksum, check, crew::Crew, way::Way},
};

/// A lost host is looked at after so long, and then less and less often.
const FIRST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(60);

/// What a host has answered: how many cores it has, or why it cannot be used.
type Found = (String, Result<usize, String>);

pub(super) struct Probes {
    way: Way,
    program: PathBuf,
    known: HashMap<String, Probe>,
    found: (Sender<Found>, Receiver<Found>),
    /// So many were sent for: each has a name of its own.
    sent: u64,
}

struct Probe {
    due: Due,
    /// Until it is looked at once more. It is forgotten only when a start with this host has come to
    /// its first step: a host that answers and is of no use is asked less and less often.
    pause: Duration,
}

enum Due {
    At(Instant),
    /// It is being looked at.
    Looking,
    /// It has answered.
    Answered,
}

impl Probe {
    fn new(now: Instant) -> Self {
        Self { due: Due::At(now + FIRST), pause: FIRST }
    }

    /// It is looked at once more, after a pause.
    fn put_off(&mut self, now: Instant) {
        self.due = Due::At(now + self.pause);
        self.pause = (2 * self.pause).min(LONGEST);
    }

    /// Whether a host that is not there is to be looked at. Whom a user asks for is not kept waiting.
    fn is_due(&mut self, now: Instant, is_asked: bool) -> bool {
        if matches!(self.due, Due::Answered) {
            self.put_off(now); // it has answered, and is lost again
        }
        match self.due {
            Due::At(due) => is_asked || due <= now,
            Due::Looking | Due::Answered => false,
        }
    }
}

impl Probes {
    pub(super) fn new(way: Way, program: PathBuf) -> Self {
        Self { way, program, known: HashMap::new(), found: mpsc::channel(), sent: 0 }
    }

    /// Hears what was found, and sends for what is due. Whatever earlier starts than the one at work
    /// have left on a host that answers is ended there.
    pub(super) fn look(&mut self, run: &mut Run) {
        while let Ok((name, found)) = self.found.1.try_recv() {
            match found {
                Ok(cores) => {
                    if let Some(probe) = self.known.get_mut(&name) {
                        probe.due = Due::Answered;
                    }
                    run.roster.learn(&name, Some(run.slots_of(cores)));
                    if run.roster.answered(&name) {
                        tell(&format!("{name} answers"));
                    }
                }
                Err(why) => {
                    run.roster.lose(&name, &why);
                    if let Some(probe) = self.known.get_mut(&name) {
                        probe.put_off(Instant::now());
                    }
                }
            }
        }
        if !run.roster.is_named() {
            return;
        }
        let now = Instant::now();
        let mut all = Vec::new();
        for member in run.roster.members() {
            let is_asked = match member.state {
                State::Joining => true,
                State::Lost(_) => false,
                State::Ready | State::Drained => continue,
            };
            let probe = self.known.entry(member.name.clone()).or_insert_with(|| Probe::new(now));
            if probe.is_due(now, is_asked) {
                all.push(member.name.clone());
            }
        }
        for name in all {
            let is_sent = self.send(&name, format!("{}.{}", run.token, run.start)).is_ok();
            if let Some(probe) = self.known.get_mut(&name) {
                if is_sent {
                    probe.due = Due::Looking;
                } else {
                    probe.put_off(now); // there are too many threads, say
                }
            }
        }
    }

    /// A start with these hosts has come to its first step.
    pub(super) fn work(&mut self, hosts: &[Host]) {
        let works = |name: &String| hosts.iter().any(|host| host.name == *name);
        self.known.retain(|name, probe| !(works(name) && matches!(probe.due, Due::Answered)));
    }

    fn send(&mut self, name: &str, start: String) -> io::Result<()> {
        let host = Host { name: name.to_owned(), slots: None };
        let (way, program, found) = (self.way.clone(), self.program.clone(), self.found.0.clone());
        self.sent += 1;
        let token = format!("look-{start}-{}", self.sent);
        let looks = move || {
            let look = || -> Result<usize, String> {
                let hosts = [host.clone()];
                // It has to be able to make one, as for a start.
                let place = Path::new("/tmp").join(format!("spmd-run-{token}"));
                let (mut crew, events) =
                    Crew::send(&hosts, &way, &token, &program, Some(&place), Some(&start))?;
                let facts = crew.facts(&events).map_err(|signal| signal.to_string());
                crew.dismiss();
                match facts?.pop() {
                    Some(facts) => match check(&program, checksum(&program), facts) {
                        Ok(Some(facts)) => Ok(facts.cores),
                        Ok(None) => Err("spmd is not there as it is here".to_owned()),
                        Err(trouble) => Err(trouble.why()),
                    },
                    None => Err("no answer".to_owned()),
                }
            };
            let looked = look();
            let _ = found.send((host.name, looked)); // if anybody still waits
        };
        thread::Builder::new().spawn(looks).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_answers_and_is_lost_again_is_asked_less_and_less_often() {
        let mut now = Instant::now();
        let mut probe = Probe::new(now);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert!(!probe.is_due(now, false));
            let before = now;
            while !probe.is_due(now, false) {
                now += Duration::from_secs(1);
            }
            pauses.push((now - before).as_secs());
            probe.due = Due::Looking;
            assert!(!probe.is_due(now, true), "one at a time");
            probe.due = Due::Answered;
        }
        assert_eq!(pauses, [2, 2, 4, 8, 16, 32, 60, 60]);
        assert!(probe.is_due(now, true), "a user asks for it");
        // As often as at first when a start with it has come to its first step.
        let mut probes = Probes::new(Way::Ssh(None), PathBuf::new());
        for (name, due) in [("a", Due::Answered), ("b", Due::Answered), ("c", Due::Looking)] {
            probes.known.insert(name.to_owned(), Probe { due, pause: LONGEST });
        }
        let host = |name: &str| Host { name: name.to_owned(), slots: None };
        probes.work(&[host("a"), host("c")]);
        let mut known: Vec<&String> = probes.known.keys().collect();
        known.sort_unstable();
        assert_eq!(known, ["b", "c"]);
    }
}
