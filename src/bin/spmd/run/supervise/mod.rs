//! `spmd run --restarts N`: a program that is started again when something befalls it, on the hosts
//! that are left; see `README.md` beside this file.

mod control;
mod policy;
mod probes;
mod progress;
mod roster;
mod status;
mod words;

use std::{
    env, process,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use nix::sys::signal::Signal;

pub(crate) use self::words::{Change, Shown, add, drain, status};
use self::{
    control::{Answer, Control, Request},
    policy::{How, MOST_BARREN, Next, Policy},
    probes::Probes,
    progress::Progress,
    roster::{Roster, Team},
    status::Status,
};
use super::{
    Ending, Options, check_all,
    crew::Crew,
    plan::Plan,
    say, usable,
    watch::{self, Ended, Fate, INTERRUPTED, LOOK, Order, Overseer, Signals},
};

/// How a run gets over faults.
#[derive(Args)]
#[command(next_help_heading = "Getting over faults")]
pub(super) struct Limits {
    /// Start the program again, so many times at most, when a rank or host is lost or it hangs: on the
    /// hosts that are left, from its last checkpoint (--checkpoint, which all hosts share)
    #[arg(long, value_name = "TIMES")]
    pub(super) restarts: Option<u32>,
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

/// What is known of a run: by the one that watches it, and by those who answer for it.
struct Run {
    /// As users call it.
    name: String,
    command: String,
    began: Instant,
    /// What the names of all starts begin with.
    token: String,
    /// The number of the start that is at work, or comes next.
    start: u64,
    phase: Phase,
    roster: Roster,
    team: Option<Team>,
    progress: Progress,
    restarts: u32,
    most_restarts: u32,
    planned: u32,
    /// Rayon threads of a rank.
    threads: usize,
}

enum Phase {
    Starting,
    Running,
    /// It was asked to, so that it goes on with others.
    Stopping,
    Waiting(String),
}

impl Phase {
    fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Waiting(_) => "waiting",
        }
    }

    fn waits_for(&self) -> Option<String> {
        match self {
            Self::Waiting(what) => Some(what.clone()),
            _ => None,
        }
    }
}

type Shared = Arc<Mutex<Run>>;

fn lock(run: &Shared) -> MutexGuard<'_, Run> {
    run.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Run {
    fn say(&self, what: &str) {
        say(&format!("spmd run: {what}"));
    }

    /// How many ranks may run on a host with so many cores.
    fn slots_of(&self, cores: usize) -> usize {
        (cores / self.threads).max(1)
    }

    fn answer(&mut self, request: Request) -> Answer {
        let done = match request {
            Request::Status {} => return Answer::Status(Box::new(Status::of(self))),
            Request::Drain { host, slots } => self.roster.drain(&host, slots),
            Request::Add { host, slots } => self.roster.add(&host, slots),
        };
        match done {
            Err(why) => Answer::Error(why),
            Ok(()) => {
                let next = self.roster.team().map_or(String::new(), |team| team.text());
                Answer::Said(match &self.team {
                    Some(team) if team.text() != next => {
                        format!("it stops at its next step and goes on with {next}")
                    }
                    _ => format!("noted; for now it goes on with {next}"),
                })
            }
        }
    }
}

/// Runs a program until it has ended well, or restarts do not help.
pub(super) fn run(options: &Options, mut plan: Plan) -> Result<Ending, Ending> {
    let supervised = &options.supervised;
    if env::var_os("SPMD_STOP_FILE").is_some_and(|file| !file.is_empty()) {
        let what = "SPMD_STOP_FILE: with --restarts the run has a stop file of its own\n  help: send it SIGTERM";
        return Err(Ending::Usage(what.to_owned()));
    }
    let most = supervised.restarts.unwrap_or(0);
    let run = Arc::new(Mutex::new(begin(supervised, &plan, most)?));
    // Before there are other threads, which would be ended by them.
    watch::block_signals().map_err(|error| Ending::Failed(error, 1))?;
    let control = Control::open(&lock(&run).name, &run);
    if let Err(error) = &control {
        say(&format!("note: spmd status cannot ask this run: {error}"));
    }
    let mut supervisor = Supervisor {
        signals: Signals::hear(),
        policy: Policy::new(most),
        probes: Probes::new(plan.ssh.clone(), plan.program.clone()),
        deadline: plan.walltime.and_then(|time| Instant::now().checked_add(time)),
        patience: supervised.patience,
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

/// What is known before the first start.
fn begin(options: &Limits, plan: &Plan, most_restarts: u32) -> Result<Run, Ending> {
    let (spares, least) = (options.spares, usize::from(options.min_ranks));
    let roster = if plan.hosts.is_empty() {
        if spares > 0 {
            return Err(Ending::Usage("--spares: there are no hosts to hold back".to_owned()));
        }
        Roster::here("localhost", plan.layout(None).ranks, least)
    } else {
        Roster::new(&plan.hosts, spares, plan.ranks, least).map_err(Ending::Usage)?
    };
    let program = plan.program.file_name().unwrap_or_default().to_string_lossy();
    let plain = |letter: &char| letter.is_ascii_alphanumeric() || "_-".contains(*letter);
    let name: String = program.chars().filter(plain).take(32).collect();
    let words = plan.arguments.iter().map(|word| word.to_string_lossy().into_owned());
    let command: Vec<String> = std::iter::once(program.clone().into_owned()).chain(words).collect();
    Ok(Run {
        name: format!("{name}-{}", process::id()),
        command: command.join(" "),
        began: Instant::now(),
        token: plan.token.clone(),
        start: 1,
        phase: Phase::Starting,
        roster,
        team: None,
        progress: Progress::new(),
        restarts: 0,
        most_restarts,
        planned: 0,
        threads: plan.threads.unwrap_or(1),
    })
}

/// What has befallen the run before a start, and when; told in one line when the program goes on.
struct News {
    what: String,
    at: Instant,
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
    deadline: Option<Instant>,
    patience: Duration,
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
        self.probes.look(&mut lock(&self.run));
        Ok(())
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
        let began = Instant::now();
        let mut is_told = false;
        loop {
            {
                let mut run = lock(&self.run);
                if let Some(team) = run.roster.team() {
                    run.phase = Phase::Starting;
                    run.team = Some(team.clone());
                    return Ok(team);
                }
                let shortage = run.roster.shortage();
                if began.elapsed() > self.patience {
                    return Err(Ending::LostHost(format!(
                        "{shortage}, and no more hosts have come within --patience\n  help: the same command goes on from the last checkpoint"
                    )));
                }
                if !is_told {
                    run.say(&format!("{shortage}: waiting for hosts"));
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
        let is_named = lock(&self.run).roster.is_named();
        let (token, number) = {
            let mut run = lock(&self.run);
            run.roster.starts();
            run.progress.starts();
            (run.token.clone(), run.start)
        };
        let hosts = if is_named { team.hosts.clone() } else { Vec::new() };
        let left = self.deadline.map(|end| end.saturating_duration_since(Instant::now()));
        // At first as many ranks as was said, or as the hosts will say that they have room for.
        let ranks = if number == 1 && is_named { plan.ranks } else { Some(team.ranks) };
        plan.start_again((&token, number), hosts, ranks, left);
        let after = is_named.then_some(&*plan.token);
        let (ssh, directory) = (plan.ssh.as_deref(), Some(&*plan.directory));
        let (mut crew, events) =
            Crew::send(&plan.hosts, ssh, &plan.token, &plan.program, directory, after)
                .map_err(failed)?;
        self.signals.are_for(crew.events.clone());
        let found = match crew.facts(&events) {
            Ok(found) => found,
            Err(signal) => {
                crew.dismiss();
                return Err(self.interrupted(signal));
            }
        };
        let checked = check_all(&plan.program, &plan.hosts, found);
        let facts = if number == 1 {
            usable(&plan.hosts, checked).inspect_err(|_| drop(crew.dismiss()))?
        } else {
            let mut run = lock(&self.run);
            let mut all = Vec::new();
            for (host, checked) in plan.hosts.iter().zip(checked) {
                match checked {
                    Ok(facts) => all.push(facts),
                    Err(trouble) => {
                        run.say(&format!("{}: {}", host.name, trouble.why()));
                        run.roster.lose(&host.name, &trouble.why());
                    }
                }
            }
            if all.len() < plan.hosts.len() {
                drop(run);
                crew.dismiss();
                // What was begun there is an earlier start for the next.
                lock(&self.run).start += 1;
                return Ok(None);
            }
            all
        };
        plan.give_slots(&facts);
        {
            let mut run = lock(&self.run);
            for host in &plan.hosts {
                run.roster.learn(&host.name, host.slots);
            }
            let ranks = plan.layout(None).ranks;
            run.team = Some(Team { hosts: team_hosts(plan, team), ranks });
        }
        let supervised = &options.supervised;
        let mut overseer = Watcher {
            supervisor: self,
            stall: supervised.stall,
            rejoin: !supervised.no_rejoin,
            news,
            looked: Instant::now(),
        };
        watch::run(plan, crew, events, options, Some(&mut overseer)).map(Some)
    }

    /// What becomes of the run now that a start has ended.
    fn judge(&mut self, ended: Ended, news: Option<News>) -> Result<Judged, Ending> {
        let mut run = lock(&self.run);
        run.start += 1;
        for name in &ended.lost {
            run.roster.lose(name, "it does not answer");
        }
        if let Some(news) = news {
            run.say(&format!("{}; it did not come to its first step", news.what));
        }
        let (how, what) = how(&ended);
        let is_planned = matches!(run.phase, Phase::Stopping);
        let next = self.policy.next(how, run.progress.has_kept(), is_planned);
        let (restart, pause) = match next {
            Next::End => return Ok(Judged::Ended(ended.fate.ending())),
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
        while Instant::now() < due {
            self.pause()?;
        }
        Ok(Judged::Again(News { what, at: ended.at }))
    }
}

/// The hosts of the team, with the slots that they have told.
fn team_hosts(plan: &Plan, team: &Team) -> Vec<crate::hosts::Host> {
    if plan.hosts.is_empty() { team.hosts.clone() } else { plan.hosts.clone() }
}

/// How a start has ended, and in words.
fn how(ended: &Ended) -> (How, String) {
    let lost = spmd::hosts::compress(&ended.lost);
    let is = if ended.lost.len() == 1 { "is" } else { "are" };
    if ended.is_asked {
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
            Some(code) => (How::Code(code as u8), format!("nothing began, exit code {code}")),
            None => (How::LostRank, format!("nothing began, {status}")),
        },
        Fate::LostRank(status) => (How::LostRank, format!("a rank is lost ({status})")),
        Fate::Hung(why) => (How::Hung, why.clone()),
        Fate::Interrupted(_) | Fate::Late => (How::Asked, String::new()),
        Fate::Unreadable(error) => (How::LostRank, error.clone()),
    }
}

/// Looks on while the program runs.
struct Watcher<'a> {
    supervisor: &'a mut Supervisor,
    stall: Option<Duration>,
    rejoin: bool,
    /// Told when the program goes on.
    news: &'a mut Option<News>,
    looked: Instant,
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
        if let Some(News { what, at }) = self.news.take() {
            let team = run.team.as_ref().map_or(String::new(), |team| team.text());
            let (from, after) = (run.progress.from(), at.elapsed().as_secs_f64());
            run.say(&format!("{what}; {team} go on {from}, after {after:.1} s"));
        }
    }

    fn look(&mut self) -> Order {
        /// This process was stopped, or had no CPU.
        const GAP: Duration = Duration::from_secs(2);
        let mut run = lock(&self.supervisor.run);
        let gap = self.looked.elapsed();
        if gap > GAP {
            run.progress.forgive(gap);
        }
        self.looked = Instant::now();
        self.supervisor.probes.look(&mut run);
        if let Some(stall) = self.stall.filter(|stall| run.progress.age() > *stall) {
            return Order::End(format!("no progress for {:.0} s", stall.as_secs_f64()));
        }
        if matches!(run.phase, Phase::Stopping) {
            return Order::Stop;
        }
        let team = run.team.clone();
        if matches!(run.phase, Phase::Running)
            && team.is_some_and(|team| run.roster.is_better_than(&team, self.rejoin))
        {
            run.phase = Phase::Stopping;
            let next = run.roster.team().map_or(String::new(), |team| team.text());
            run.say(&format!("stopping at the next step, to go on with {next}"));
            return Order::Stop;
        }
        Order::GoOn
    }
}
