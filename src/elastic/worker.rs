//! A worker's side: one thread keeps the connection and all accounts, others do tasks.

use std::{
    collections::{BTreeMap, VecDeque},
    net::ToSocketAddrs,
    sync::{
        Arc,
        atomic::AtomicBool,
        mpsc::{Receiver, Sender, TryRecvError},
    },
    time::{Duration, Instant},
};

use rustls::ClientConnection;

use super::{
    ElasticArgs, Problem, Worked,
    link::{Link, Sleeper},
    messages::{
        FromWorker, HELLO_BYTES, Hello, MOST_SLOTS, ROOM, RunKey, ToWorker, VERSION, WHY_BYTES,
        cut, name,
    },
    token,
};
use crate::stop;

/// How long the coordinator may take to let a worker in.
const INTRODUCTION: Duration = Duration::from_secs(10);
/// Between two attempts to connect: so long at first, and so long at last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// How long one that is to leave tries to tell what it has done: batch systems give it half a minute.
const FAREWELL: Duration = Duration::from_secs(10);
/// How often one looks whether the worker is to stop.
const GLANCE: Duration = Duration::from_millis(100);
/// A connection that has lived for so long is a good one: a worker looks for the next one as at
/// first. After others it goes on with the pauses and the patience that it had.
const SETTLED: Duration = Duration::from_secs(1);
/// Signs of life within a lease.
const SIGNS: u32 = 4;

/// A task for a thread that does tasks; a name of its own for each time that it is handed out.
pub(super) struct Order {
    pub(super) ticket: u64,
    pub(super) input: Vec<u8>,
    /// A result may have so many bytes.
    pub(super) most_bytes: usize,
}

/// What has become of it: its result, or why there is none.
pub(super) struct Report {
    pub(super) ticket: u64,
    pub(super) outcome: Result<Vec<u8>, String>,
}

impl Report {
    /// A result that can be sent, or why it cannot.
    pub(super) fn new(order: &Order, outcome: Result<Vec<u8>, String>) -> Self {
        let outcome = outcome.and_then(|result| match result.len() {
            bytes if bytes > order.most_bytes => Err(too_large(bytes, order.most_bytes)),
            _ => Ok(result),
        });
        Self { ticket: order.ticket, outcome: outcome.map_err(|why| cut(why, WHY_BYTES)) }
    }
}

fn too_large(bytes: usize, most: usize) -> String {
    format!(
        "its result has {bytes} bytes, more than the {most} of a message (--max-message of the \
         coordinator)"
    )
}

/// How a connection ends.
enum Ending {
    Finished,
    Left,
    /// Those that do tasks are gone.
    Abandoned,
    Lost(Problem),
}

pub(super) struct Keeper<'k> {
    farm: &'k str,
    args: &'k ElasticArgs,
    slots: usize,
    orders: Sender<Order>,
    reports: Receiver<Report>,
    sleeper: Sleeper,
    identity: u128,
    /// Whose tasks these are.
    run: Option<RunKey>,
    /// Tasks that have come and are not begun.
    waiting: VecDeque<(u64, Vec<u8>)>,
    /// What is being done, by tickets; `None` where nobody wants the result any more.
    running: BTreeMap<u64, Option<u64>>,
    next_ticket: u64,
    /// What the coordinator has not said that it has taken note of, by tasks.
    untaken: BTreeMap<u64, FromWorker>,
    leaving: bool,
    worked: Worked,
}

/// What the coordinator has said when it let this worker in.
struct Terms {
    lease: Duration,
    most_bytes: usize,
}

impl<'k> Keeper<'k> {
    pub(super) fn new(
        farm: &'k str,
        args: &'k ElasticArgs,
        slots: usize,
        orders: Sender<Order>,
        reports: Receiver<Report>,
        sleeper: Sleeper,
    ) -> Result<Self, Problem> {
        Ok(Self {
            farm,
            args,
            slots: slots.min(MOST_SLOTS),
            orders,
            reports,
            sleeper,
            identity: u128::from_le_bytes(token::random()?),
            run: None,
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            next_ticket: 0,
            untaken: BTreeMap::new(),
            leaving: false,
            worked: Worked::default(),
        })
    }

    /// Works until the coordinator has no more to do, or this process is to stop.
    pub(super) fn keep(mut self) -> Result<Worked, Problem> {
        let mut silent_since = Instant::now();
        let mut pause = FIRST_PAUSE;
        let (mut waits_for_token, mut left) = (false, None);
        loop {
            let (ending, lived) = match self.connect() {
                Ok((link, terms)) => {
                    log::info!("joined {}", self.address());
                    let joined = Instant::now();
                    (self.serve(link, &terms), Some(joined.elapsed()))
                }
                Err(problem) => (Ending::Lost(problem), None),
            };
            let problem = match ending {
                Ending::Finished | Ending::Left | Ending::Abandoned => return Ok(self.worked),
                Ending::Lost(problem) if problem.is_final() && !may_come(&problem) => {
                    return Err(problem);
                }
                Ending::Lost(problem) => problem,
            };
            if let Some(lived) = lived {
                log::warn!("the coordinator is lost: {problem}");
                if lived >= SETTLED.min(self.args.patience) {
                    silent_since = Instant::now();
                    pause = FIRST_PAUSE;
                }
            }
            // Others do what was not begun.
            self.waiting.clear();
            let is_token = matches!(problem, Problem::File { .. });
            if is_token && !std::mem::replace(&mut waits_for_token, true) {
                log::warn!("waiting for the token file: {problem}");
            }
            let patience = self.args.patience;
            if silent_since.elapsed() + pause > patience {
                let why = Box::new(problem);
                if is_token {
                    return Err(Problem::NoTokenCame { patience, why });
                }
                return Err(Problem::OutOfPatience {
                    address: self.address().to_owned(),
                    patience,
                    why,
                });
            }
            self.sleeper.wait(pause)?;
            pause = (pause * 2).min(LAST_PAUSE);
            let is_abandoned = self.take_reports().is_none();
            self.leaving |= stop::wished(true).is_some();
            // What is done and not told is kept for the coordinator; nothing else holds it back.
            if is_abandoned || (self.leaving && self.has_nothing()) {
                return Ok(self.worked);
            }
            if self.leaving && left.get_or_insert_with(Instant::now).elapsed() > FAREWELL {
                let results = self.untaken.len();
                return Err(Problem::Untold { results, address: self.address().to_owned() });
            }
        }
    }

    fn address(&self) -> &'k str {
        self.args.join.as_deref().unwrap_or_default()
    }

    fn has_nothing(&self) -> bool {
        self.untaken.is_empty() && self.running.values().all(Option::is_none)
    }

    fn connect(&mut self) -> Result<(Link<ClientConnection>, Terms), Problem> {
        let file = self.args.token_file.as_deref().unwrap_or_else(|| "".as_ref());
        let (token, config) = token::for_worker(file)?;
        let of_nobody = |error| Problem::Address(self.address().to_owned(), error);
        let addresses = self.address().to_socket_addrs().map_err(of_nobody)?;
        let mut problem = Problem::Closed;
        for address in addresses {
            let deadline = Instant::now() + INTRODUCTION;
            let unwanted = Arc::new(AtomicBool::new(false));
            match Link::connect(address, &config, deadline, &unwanted) {
                Ok(link) => return self.introduce(link, token.0),
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }

    fn introduce(
        &mut self,
        mut link: Link<ClientConnection>,
        token: [u8; token::TOKEN_BYTES],
    ) -> Result<(Link<ClientConnection>, Terms), Problem> {
        let hello = Hello {
            version: VERSION,
            token,
            farm: self.farm.to_owned(),
            worker: self.identity,
            name: name(format!("{}:{}", host(), std::process::id())),
            slots: self.slots as u32,
        };
        link.take_up_to(HELLO_BYTES + WHY_BYTES);
        link.send(&hello)?;
        let terms = match link.receive_first()? {
            ToWorker::Welcome { run, lease_ms, most_bytes } => {
                if self.run.is_some_and(|before| before != run) {
                    log::warn!("the coordinator has begun anew: results for it are dropped");
                    self.untaken.clear();
                    self.running.values_mut().for_each(|task| *task = None);
                }
                self.run = Some(run);
                let lease = Duration::from_millis(lease_ms.into());
                Terms { lease, most_bytes: most_bytes as usize }
            }
            ToWorker::Refused(why) => return Err(Problem::Refused(why)),
            _ => return Err(Problem::Malformed),
        };
        link.take_up_to(terms.most_bytes + ROOM);
        self.drop_what_is_too_large(terms.most_bytes);
        link.send(&FromWorker::Holding(self.holds().map(|task| (task, true)).collect()))?;
        link.is_made();
        for message in self.untaken.values() {
            link.send(message)?;
        }
        Ok((link, terms))
    }

    /// A coordinator that goes on from its log may take less than when the task was begun. A result
    /// that is too large for it would end each connection.
    fn drop_what_is_too_large(&mut self, most: usize) {
        for message in self.untaken.values_mut() {
            if let FromWorker::Done { task, result } = message
                && result.len() > most
            {
                self.worked.tasks -= 1;
                self.worked.failed += 1;
                let why = too_large(result.len(), most);
                *message = FromWorker::Failed { task: *task, why };
            }
        }
    }

    /// Tasks that are begun, or done and not taken note of.
    fn holds(&self) -> impl Iterator<Item = u64> {
        self.running.values().flatten().chain(self.untaken.keys()).copied()
    }

    fn serve(&mut self, mut link: Link<ClientConnection>, terms: &Terms) -> Ending {
        let problem = match self.exchange(&mut link, terms) {
            Ok(ending) => return ending,
            Err(problem) => problem,
        };
        // What the coordinator has said before the connection broke.
        while let Ok(Some(message)) = link.receive() {
            match message {
                ToWorker::Taken(task) => _ = self.untaken.remove(&task),
                ToWorker::Finished => return Ending::Finished,
                _ => {}
            }
        }
        Ending::Lost(problem)
    }

    fn exchange(
        &mut self,
        link: &mut Link<ClientConnection>,
        terms: &Terms,
    ) -> Result<Ending, Problem> {
        let pause = terms.lease / SIGNS;
        let mut heard = Instant::now();
        let mut next_sign = Instant::now() + pause;
        let mut said_that_it_leaves = false;
        loop {
            let Some(reports) = self.take_reports() else { return Ok(Ending::Abandoned) };
            if !reports.is_empty() {
                self.drop_what_is_too_large(terms.most_bytes);
            }
            for task in reports {
                if let Some(message) = self.untaken.get(&task) {
                    link.send(message)?;
                }
            }
            while let Some(message) = link.receive()? {
                heard = Instant::now();
                match message {
                    ToWorker::Task { task, input } if !self.leaving => {
                        self.waiting.push_back((task, input));
                    }
                    ToWorker::Withdrawn(task) => self.waiting.retain(|(other, _)| *other != task),
                    ToWorker::Taken(task) => _ = self.untaken.remove(&task),
                    ToWorker::Finished => return Ok(Ending::Finished),
                    ToWorker::Alive | ToWorker::Task { .. } => {}
                    ToWorker::Welcome { .. } | ToWorker::Refused(_) => {
                        return Err(Problem::Malformed);
                    }
                }
            }
            self.leaving |= stop::wished(true).is_some();
            if self.leaving && !said_that_it_leaves {
                self.waiting.clear();
                link.send(&FromWorker::Leaving(self.holds().collect()))?;
                said_that_it_leaves = true;
            }
            if self.leaving && self.has_nothing() {
                return Ok(Ending::Left);
            }
            self.begin(link, terms)?;
            let now = Instant::now();
            if now >= next_sign {
                link.send(&FromWorker::Alive)?;
                next_sign = now + pause;
            }
            if now - heard > terms.lease || link.pending().is_some_and(|at| now - at > terms.lease)
            {
                return Err(Problem::TooLate);
            }
            let pause = next_sign.saturating_duration_since(now);
            link.wait(&self.sleeper, pause.min(GLANCE))?;
        }
    }

    /// Begins tasks for which there is a thread. The coordinator is told before: it knows what a
    /// worker died of.
    fn begin(&mut self, link: &mut Link<ClientConnection>, terms: &Terms) -> Result<(), Problem> {
        while self.running.len() < self.slots && link.pending().is_none() {
            let Some((task, input)) = self.waiting.pop_front() else { break };
            link.send(&FromWorker::Started(task))?;
            let ticket = self.next_ticket;
            self.next_ticket += 1;
            self.running.insert(ticket, Some(task));
            let order = Order { ticket, input, most_bytes: terms.most_bytes };
            // Without threads there are no reports either, which is seen there.
            let _ = self.orders.send(order);
        }
        Ok(())
    }

    /// The tasks of reports that have come and are to be told; `None` if those that do tasks are
    /// gone.
    fn take_reports(&mut self) -> Option<Vec<u64>> {
        let mut tasks = Vec::new();
        loop {
            let report = match self.reports.try_recv() {
                Ok(report) => report,
                Err(TryRecvError::Empty) => return Some(tasks),
                Err(TryRecvError::Disconnected) => return None,
            };
            let Some(Some(task)) = self.running.remove(&report.ticket) else { continue };
            let message = match report.outcome {
                Ok(result) => {
                    self.worked.tasks += 1;
                    FromWorker::Done { task, result }
                }
                Err(why) => {
                    self.worked.failed += 1;
                    FromWorker::Failed { task, why }
                }
            };
            self.untaken.insert(task, message);
            tasks.push(task);
        }
    }
}

/// Whether it can be mended by waiting: a token file that the coordinator has not made yet, a
/// name that is not known yet.
fn may_come(problem: &Problem) -> bool {
    match problem {
        Problem::File { error, .. } => error.kind() == std::io::ErrorKind::NotFound,
        Problem::Address(..) => true,
        _ => false,
    }
}

fn host() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| "a host".to_owned())
}
