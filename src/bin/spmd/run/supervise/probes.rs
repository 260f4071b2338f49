//! Looks whether hosts that were lost, or are to join, are there: in threads of their own, since a
//! host that is not takes its time.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::{Duration, Instant},
};

use super::{roster::State, state::Run, tell};
use crate::{
    hosts::Host,
    run::{agent::checksum, check, crew::Crew},
};

/// A lost host is looked at after so long, and then less and less often.
const FIRST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(60);

/// What a host has answered: how many cores it has, or why it cannot be used.
type Found = (String, Result<usize, String>);

pub(super) struct Probes {
    ssh: Option<String>,
    program: PathBuf,
    known: HashMap<String, Probe>,
    found: (Sender<Found>, Receiver<Found>),
}

struct Probe {
    /// When it is looked at next; none while it is.
    due: Option<Instant>,
    pause: Duration,
}

impl Probes {
    pub(super) fn new(ssh: Option<String>, program: PathBuf) -> Self {
        Self { ssh, program, known: HashMap::new(), found: mpsc::channel() }
    }

    /// Hears what was found, and sends for what is due. Whatever earlier starts than the one at work
    /// have left on a host that answers is ended there.
    pub(super) fn look(&mut self, run: &mut Run) {
        while let Ok((name, found)) = self.found.1.try_recv() {
            match found {
                Ok(cores) => {
                    self.known.remove(&name);
                    run.roster.learn(&name, Some(run.slots_of(cores)));
                    if run.roster.answered(&name) {
                        tell(&format!("{name} answers"));
                    }
                }
                Err(why) => {
                    run.roster.lose(&name, &why);
                    if let Some(probe) = self.known.get_mut(&name) {
                        probe.due = Some(Instant::now() + probe.pause);
                        probe.pause = (2 * probe.pause).min(LONGEST);
                    }
                }
            }
        }
        if !run.roster.is_named() {
            return;
        }
        for member in run.roster.members() {
            let first = match member.state {
                State::Joining => Duration::ZERO,
                State::Lost(_) => FIRST,
                State::Ready | State::Drained => continue,
            };
            let now = Instant::now();
            let new = || Probe { due: Some(now + first), pause: FIRST };
            let probe = self.known.entry(member.name.clone()).or_insert_with(new);
            // Whom a user asks for is not kept waiting.
            let is_asked = first.is_zero() && probe.pause > FIRST;
            if probe.due.is_some_and(|due| due <= now || is_asked) {
                probe.due = None;
                let start = format!("{}.{}", run.token, run.start);
                self.send(Host { name: member.name.clone(), slots: None }, start);
            }
        }
    }

    fn send(&self, host: Host, start: String) {
        let (ssh, program, found) = (self.ssh.clone(), self.program.clone(), self.found.0.clone());
        thread::spawn(move || {
            let look = || -> Result<usize, String> {
                let hosts = [host.clone()];
                let token = format!("look-{start}");
                let (mut crew, events) =
                    Crew::send(&hosts, ssh.as_deref(), &token, &program, None, Some(&start))?;
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
        });
    }
}
