//! `spmd run --restarts N`: a program that is started again when something befalls it, on the hosts
//! that are left; see `README.md` beside this file.

mod control;
mod nodes;
mod policy;
mod probes;
mod progress;
mod roster;
mod state;
mod status;
mod watcher;
mod words;

use std::{
    env,
    sync::{Arc, Mutex, mpsc::Receiver},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use nix::sys::signal::Signal;

pub(crate) use self::words::{Change, Shown, add, drain, status};
use self::{
    control::Control,
    nodes::Nodes,
    policy::{MOST_BARREN, Next, Policy},
    probes::Probes,
    roster::Team,
    state::{Phase, Run, Shared, lock},
    watcher::{News, Watcher, how},
};
use super::{
    Checked, Ending, Options, Trouble,
    agent::Facts,
    check_all,
    crew::{Crew, Event},
    plan::Plan,
    say,
    signals::{Signals, block_signals},
    usable,
    watch::{self, Ended, Fate, INTERRUPTED, LOOK},
};

use crate::hosts::Host;

/// How a run gets over faults.
#[derive(Args)]
#[command(next_help_heading = "Getting over faults")]
pub(super) struct Limits {
    /// Start the program again, so many times at most, when a rank or host is lost or it hangs: on the
    /// hosts that are left, from its last checkpoint (--checkpoint, which all hosts share)
    #[arg(long, value_name = "TIMES")]
    pub(super) restarts: Option<u32>,
    /// Let the ranks that are left go on where one is lost, if the program can (Open MPI 5's ULFM): a
    /// restart follows only where a host is lost, or they cannot
    #[arg(long, requires = "restarts")]
    pub(super) in_place: bool,
    /// Go on with no fewer ranks: else wait for hosts
    #[arg(long, value_name = "RANKS", default_value = "1", requires = "restarts")]
    min_ranks: std::num::NonZeroUsize,
    /// Hold back so many of the hosts, the last ones, until others are lost
    #[arg(long, value_name = "HOSTS", default_value = "0", requires = "restarts")]
    spares: usize,
    /// End what makes no step for so long and start it again; longer than the longest step, and than
    /// what comes before the first one and after the last
    #[arg(long, value_name = "TIME", value_parser = super::duration, requires = "restarts")]
    stall: Option<Duration>,
    /// Where a lost host answers again, do not stop for it: it is used after the next restart
    #[arg(long, requires = "restarts")]
    no_rejoin: bool,
    /// How long to wait for hosts, where fewer are left than --min-ranks needs, before giving up
    #[arg(long, value_name = "TIME", value_parser = super::duration, default_value = "10m", requires = "restarts")]
    patience: Duration,
}

/// Runs a program until it has ended well, or restarts do not help.
pub(super) fn run(options: &Options, mut plan: Plan) -> Result<Ending, Ending> {
    let supervised = &options.supervised;
    if env::var_os("SPMD_STOP_FILE").is_some_and(|file| !file.is_empty()) {
        let what = "SPMD_STOP_FILE: with --restarts the run has a stop file of its own\n  help: send it SIGTERM";
        return Err(Ending::Usage(what.to_owned()));
    }
    if let Some(ranks) = options.ranks.filter(|ranks| *ranks < supervised.min_ranks) {
        let what =
            format!("--min-ranks {}: there are {ranks} at most, by -n", supervised.min_ranks);
        return Err(Ending::Usage(what));
    }
    let most = supervised.restarts.unwrap_or(0);
    let run = Arc::new(Mutex::new(Run::begin(supervised, &plan, most)?));
    // Before there are other threads, which would be ended by them.
    block_signals().map_err(|error| Ending::Failed(error, 1))?;
    let control = Control::open(&lock(&run).name, &run);
    if let Err(error) = &control {
        say(&format!("note: spmd status cannot ask this run: {error}"));
    }
    let mut supervisor = Supervisor {
        signals: Signals::hear().map_err(|error| Ending::Failed(error, 1))?,
        policy: Policy::new(most),
        probes: Probes::new(plan.way.clone(), plan.program.clone()),
        nodes: plan.way.is_srun().then(Nodes::new),
        deadline: plan.walltime.and_then(|time| Instant::now().checked_add(time)),
        patience: supervised.patience,
        waited: Duration::ZERO,
        is_tried: false,
        run,
    };
    let mut news: Option<News> = None;
    loop {
        let team = supervisor.assemble()?;
        let Some(ended) = supervisor.start(&mut plan, options, &team, &mut news)? else { continue };
        match supervisor.judge(ended, news.take())? {
            Judged::Ended(ending) => return Ok(ending),
            Judged::Again(next) => news = Some(next),
        }
    }
}

enum Judged {
    Ended(Ending),
    Again(News),
}

struct Supervisor {
    run: Shared,
    signals: Signals,
    policy: Policy,
    probes: Probes,
    /// In a job of SLURM.
    nodes: Option<Nodes>,
    deadline: Option<Instant>,
    patience: Duration,
    /// How long it has waited for hosts since a start has come to its first step.
    waited: Duration,
    /// The program was started, at least once.
    is_tried: bool,
}

impl Supervisor {
    /// Waits a moment in which nothing runs.
    fn pause(&mut self) -> Result<(), Ending> {
        thread::sleep(LOOK);
        if let Some(signal) = self.signals.kept() {
            return Err(self.interrupted(signal));
        }
        if self.deadline.is_some_and(|deadline| Instant::now() > deadline) {
            return Err(Ending::Failed("ended: it took longer than --walltime".to_owned(), 4));
        }
        self.look();
        Ok(())
    }

    /// Whether hosts are there again, and what SLURM says of them.
    fn look(&mut self) {
        let mut run = lock(&self.run);
        self.probes.look(&mut run);
        if let Some(nodes) = &mut self.nodes {
            nodes.look(&mut run);
        }
    }

    /// A user has ended it while nothing ran.
    fn interrupted(&self, signal: Signal) -> Ending {
        match lock(&self.run).progress.checkpoint() {
            Some((number, _)) => {
                say(&format!(
                    "spmd run: {signal}: stopped, to be continued from checkpoint {number}"
                ));
                Ending::Ended(5)
            }
            None => Ending::Failed(format!("ended by {signal}"), INTERRUPTED),
        }
    }

    /// Those who go on: waits for hosts where there are too few.
    fn assemble(&mut self) -> Result<Team, Ending> {
        let (began, before) = (Instant::now(), self.waited);
        let mut is_told = false;
        loop {
            self.waited = before + began.elapsed();
            {
                let mut run = lock(&self.run);
                if let Some(team) = run.roster.team() {
                    // What users change from now on is for the next one.
                    run.roster.starts();
                    run.phase = Phase::Starting;
                    run.team = Some(team.clone());
                    return Ok(team);
                }
                let shortage = run.roster.shortage();
                if self.waited > self.patience {
                    return Err(Ending::LostHost(format!(
                        "{shortage}, and no more hosts have come within --patience\n  help: once there are enough, the same command goes on from the last checkpoint"
                    )));
                }
                if !is_told {
                    tell(&format!("{shortage}: waiting for hosts"));
                    is_told = true;
                }
                run.phase = Phase::Waiting("hosts".to_owned());
            }
            self.pause()?;
        }
    }

    /// One start of the program, seen to its end; none where the hosts are not what they seemed.
    fn start(
        &mut self,
        plan: &mut Plan,
        options: &Options,
        team: &Team,
        news: &mut Option<News>,
    ) -> Result<Option<Ended>, Ending> {
        let failed = |text: String| Ending::Failed(text, 1);
        let (token, number, is_named) = {
            let run = lock(&self.run);
            (run.token.clone(), run.start, run.roster.is_named())
        };
        let hosts = if is_named { team.hosts.clone() } else { Vec::new() };
        let left = self.deadline.map(|end| end.saturating_duration_since(Instant::now()));
        // At first as many ranks as was said, or as the hosts will say that they have room for.
        let ranks = if number == 1 && is_named { plan.ranks } else { Some(team.ranks) };
        plan.start_again((&token, number), hosts, ranks, left);
        let after = is_named.then_some(&*plan.token);
        let directory = Some(&*plan.directory);
        let (mut crew, events) =
            Crew::send(&plan.hosts, &plan.way, &plan.token, &plan.program, directory, after)
                .map_err(failed)?;
        self.signals.are_for(crew.events.clone());
        let found = match crew.facts(&events) {
            Ok(found) => found,
            Err(signal) => {
                crew.dismiss();
                return Err(self.interrupted(signal));
            }
        };
        let checked = check_all(&plan.program, &plan.hosts, found).into_iter().map(watched);
        let Some(facts) = self.keep(&plan.hosts, checked.collect()).inspect_err(|_| {
            crew.dismiss();
        })?
        else {
            return Ok(self.start_without(crew, &events));
        };
        plan.give_slots(&facts);
        let ranks = plan.layout(None).ranks;
        {
            let mut run = lock(&self.run);
            if !run.roster.is_enough(ranks) {
                drop(run);
                return Ok(self.start_without(crew, &events));
            }
            run.progress.starts();
            run.team = Some(Team { hosts: team_hosts(plan, team), ranks });
        }
        self.is_tried = true;
        let supervised = &options.supervised;
        let mut overseer = Watcher::new(self, supervised, news);
        let ended = watch::run(plan, crew, &events, options, Some(&mut overseer));
        self.signals.are_kept(&events);
        ended.map(Some)
    }

    /// What the hosts of a start are; nothing if some of them cannot be used, and others are left.
    fn keep(
        &self,
        hosts: &[Host],
        checked: Vec<Checked>,
    ) -> Result<Option<Vec<Option<Facts>>>, Ending> {
        let is_wrong = |checked: &Checked| matches!(checked, Err(Trouble::Wrong(_)));
        // What was never well is the user's to mend.
        if !self.is_tried && checked.iter().any(is_wrong) {
            return usable(hosts, checked).map(Some);
        }
        let mut run = lock(&self.run);
        let (mut all, mut missing) = (Vec::new(), Vec::new());
        for (host, checked) in hosts.iter().zip(checked) {
            match checked {
                Ok(facts) => {
                    let slots = facts.as_ref().map(|facts| run.slots_of(facts.cores));
                    run.roster.learn(&host.name, slots);
                    all.push(facts);
                }
                Err(trouble) => {
                    run.roster.lose(&host.name, &trouble.why());
                    missing.push(format!("{}: {}", host.name, trouble.why()));
                }
            }
        }
        if missing.is_empty() {
            return Ok(Some(all));
        }
        if !self.is_tried && run.roster.team().is_none() {
            return Err(Ending::LostHost(missing.join("\nerror: ")));
        }
        for missing in missing {
            tell(&format!("{missing}; it is left out"));
        }
        Ok(None)
    }

    /// The hosts of a start are not what they seemed: others are to be found.
    fn start_without<T>(&self, mut crew: Crew, events: &Receiver<Event>) -> Option<T> {
        crew.dismiss();
        self.signals.are_kept(events);
        // What was begun there is an earlier start for the next.
        lock(&self.run).start += 1;
        None
    }

    /// What becomes of the run now that a start has ended.
    fn judge(&mut self, ended: Ended, news: Option<News>) -> Result<Judged, Ending> {
        let mut run = lock(&self.run);
        run.start += 1;
        for name in &ended.lost {
            run.roster.lose(name, "it does not answer");
        }
        if let Some(news) = news {
            tell(&format!("{}; it did not come to its first step", news.what));
        }
        let (how, what) = how(&ended, run.progress.has_worked());
        let is_planned = matches!(run.phase, Phase::Stopping);
        let next = self.policy.next(how, run.progress.has_kept(), is_planned);
        let (restart, pause) = match next {
            Next::End => {
                drop(run);
                return Ok(Judged::Ended(match (ended.asked, ended.fate) {
                    // What befell it while it was to stop is no matter: it is not started again.
                    (Some(signal), Fate::LostHost(_) | Fate::LostRank(_) | Fate::Hung(_)) => {
                        self.interrupted(signal)
                    }
                    (asked, fate) => {
                        if let (None, Fate::Told(code @ 1..=3, _)) = (asked, &fate) {
                            tell(&format!(
                                "the program has ended by itself with exit code {code}: it is not started again"
                            ));
                        }
                        fate.ending()
                    }
                }));
            }
            Next::Spent | Next::AtFault => {
                let text = if next == Next::Spent {
                    format!("{what}, and --restarts {} are used up", run.most_restarts)
                } else {
                    format!(
                        "{what}: {MOST_BARREN} restarts in a row have come to no checkpoint: the program is at fault"
                    )
                };
                return Ok(Judged::Ended(match ended.fate.ending() {
                    Ending::LostHost(_) => Ending::LostHost(text),
                    Ending::Failed(_, code) | Ending::Ended(code) => Ending::Failed(text, code),
                    Ending::Usage(_) => Ending::Failed(text, 2),
                }));
            }
            Next::GoOn => {
                run.planned += 1;
                (None, Duration::ZERO)
            }
            Next::Again { restart, pause } => {
                run.restarts = restart;
                (Some(restart), pause)
            }
        };
        run.team = None;
        let what = match restart {
            Some(restart) => format!("restart {restart} of {}: {what}", run.most_restarts),
            None => "planned stop".to_owned(),
        };
        run.phase = Phase::Waiting("the next start".to_owned());
        drop(run);
        let due = Instant::now() + pause;
        loop {
            self.pause()?;
            if Instant::now() >= due {
                break;
            }
        }
        Ok(Judged::Again(News { what, at: ended.at }))
    }
}

/// A line of the run.
fn tell(what: &str) {
    say(&format!("spmd run: {what}"));
}

/// Where nobody watches, nobody sees progress, nor that nothing is left.
fn watched(checked: Checked) -> Checked {
    match checked {
        Ok(None) => Err(Trouble::Wrong(vec![
            "spmd is not there as it is here\n  help: --restarts needs it on every host".to_owned(),
        ])),
        checked => checked,
    }
}

/// The hosts of the team, with the slots that they have told.
fn team_hosts(plan: &Plan, team: &Team) -> Vec<Host> {
    if plan.hosts.is_empty() { team.hosts.clone() } else { plan.hosts.clone() }
}
