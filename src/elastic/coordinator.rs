//! The coordinator: it hears members, asks [`State`] what follows, keeps it in the log, and then
//! says it.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use ring::digest;

use super::{
    ElasticArgs, Problem, SetAside,
    door::{Door, Heard, Outbox, listen, raise_descriptors},
    log::{Entry, Log},
    messages::{FromWorker, ToWorker},
    state::{Counts, Effect, Event, MemberId, Rules, State},
    token,
};
use crate::{error::Failure, stop};

/// Time goes by in such steps where nothing happens.
const STEP: Duration = Duration::from_millis(50);
/// The coordinator looks at the clock at least so often, if it can.
const ATTENTION: Duration = Duration::from_millis(200);
/// Messages that wait to be heard; then connections wait.
const HEARING: usize = 256;
/// Messages that one commit is for, at most.
const GROUP: usize = 1024;
/// No more messages are taken into it when their results have so many bytes.
const GROUP_BYTES: usize = 64 << 20;
/// How long members have to end by themselves, and lost ones to come back, when there is no more to
/// do.
const FAREWELL: Duration = Duration::from_secs(3);

/// Where results go.
pub(super) trait Collect {
    /// Reads a result, which counts when it is kept.
    fn read(&mut self, task: usize, bytes: &[u8]) -> Result<(), String>;
    /// The result that was read is in the log.
    fn kept(&mut self, task: usize);
}

/// How it went.
pub(super) struct Ended {
    pub(super) set_aside: Vec<SetAside>,
    pub(super) counts: Counts,
    pub(super) workers: usize,
    pub(super) from_log: usize,
}

struct Coordinator<'c> {
    inputs: &'c [Vec<u8>],
    state: State,
    log: Option<Log>,
    collect: &'c mut dyn Collect,
    outboxes: HashMap<MemberId, Outbox>,
    clock: Clock,
    /// Results that have come and are not kept yet.
    fresh: HashMap<usize, Vec<u8>>,
    from_log: usize,
}

/// The time in which the coordinator pays attention. While it is frozen, or its disk is, nobody can
/// be heard: that is not the members' silence.
struct Clock {
    now: Duration,
    looked: Instant,
}

impl Clock {
    fn new() -> Self {
        Self { now: Duration::ZERO, looked: Instant::now() }
    }

    fn go_on(&mut self) {
        self.now += self.looked.elapsed().min(ATTENTION);
        self.looked = Instant::now();
    }
}

/// Hands out tasks until each is done or set aside.
pub(super) fn serve(
    name: &str,
    args: &ElasticArgs,
    inputs: &[Vec<u8>],
    collect: &mut dyn Collect,
    on_address: impl FnOnce(std::net::SocketAddr),
) -> Result<Ended, Failure> {
    let most = args.most_bytes();
    if let Some((task, input)) = inputs.iter().enumerate().find(|(_, input)| input.len() > most) {
        return Err(Problem::TaskTooLarge { task, bytes: input.len(), most }.into());
    }
    let (Some(address), Some(token_file)) = (&args.serve, &args.token_file) else {
        return Err(Failure::usage("a coordinator needs --serve and --token-file"));
    };
    stop::listen();
    let rules = Rules { lease: args.lease, poison: args.poison.get() };
    let mut coordinator = Coordinator {
        inputs,
        state: State::new(inputs.len(), rules),
        log: None,
        collect,
        outboxes: HashMap::new(),
        clock: Clock::new(),
        fresh: HashMap::new(),
        from_log: 0,
    };
    let run = match &args.log {
        Some(file) => {
            let (log, run) = Log::open(file, &digest_of(name, inputs))?;
            coordinator.resume(log)?;
            run
        }
        None => token::random()?,
    };
    raise_descriptors();
    let listener = listen(address)?;
    let credentials = token::for_coordinator(token_file)?;
    let local = listener.local_addr()?;
    let connections = args.connections.get();
    let door = Door::new(listener, credentials, name, run, args.lease, most, connections);
    log::info!("the coordinator of {name} listens at {local}");
    on_address(local);
    thread::scope(|scope| {
        let (heard, events) = sync_channel(HEARING);
        let door = &door;
        let keeping = thread::Builder::new().spawn_scoped(scope, move || door.keep(scope, heard));
        // What the program does with a result may panic: the threads here end all the same.
        let outcome = catch_unwind(AssertUnwindSafe(|| match keeping {
            Ok(_) => coordinator.run(&events, args),
            Err(error) => Err(Problem::Thread(error).into()),
        }));
        door.closed.store(true, Ordering::Release);
        // Connections end, and what they still say is not heard.
        coordinator.outboxes.clear();
        drop(events);
        outcome.unwrap_or_else(|panic| resume_unwind(panic))
    })?;
    Ok(coordinator.ended())
}

/// What one commit is for: what has come, bounded in number and bytes.
fn group(
    first: Option<(MemberId, Heard)>,
    events: &Receiver<(MemberId, Heard)>,
) -> impl Iterator<Item = (MemberId, Heard)> {
    let mut bytes = 0;
    let mut first = first;
    let next = move || {
        // Only what is taken is taken out.
        let next = match first.take() {
            Some(first) => first,
            None if bytes < GROUP_BYTES => events.try_recv().ok()?,
            None => return None,
        };
        if let Heard::Said(FromWorker::Done { result, .. }) = &next.1 {
            bytes += result.len();
        }
        Some(next)
    };
    std::iter::from_fn(next).take(GROUP)
}

/// What tells one list of tasks from another.
fn digest_of(name: &str, inputs: &[Vec<u8>]) -> Vec<u8> {
    let mut digest = digest::Context::new(&digest::SHA256);
    for part in [name.as_bytes()].into_iter().chain(inputs.iter().map(Vec::as_slice)) {
        digest.update(&(part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finish().as_ref().to_vec()
}

impl Coordinator<'_> {
    /// Goes on from the log.
    fn resume(&mut self, log: Log) -> Result<(), Problem> {
        let Self { state, collect, from_log, .. } = self;
        log.read(self.inputs.len(), |entry| {
            match entry {
                Entry::Blames(task, blames) => state.restore_blames(task, blames),
                Entry::Aside(task) => state.restore_aside(task),
                Entry::Result(task, bytes) => {
                    let read = collect.read(task, &bytes);
                    read.map_err(|_| log.damaged("a result that cannot be read"))?;
                    collect.kept(task);
                    state.restore_done(task);
                    *from_log += 1;
                }
            }
            Ok(())
        })?;
        if self.from_log > 0 {
            log::info!("{} of {} results are in the log", self.from_log, self.inputs.len());
        }
        self.log = Some(log);
        Ok(())
    }

    fn run(
        &mut self,
        events: &Receiver<(MemberId, Heard)>,
        args: &ElasticArgs,
    ) -> Result<(), Failure> {
        let mut farewell = None;
        loop {
            let first = match events.recv_timeout(STEP) {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => None,
                // The door was closed by a panic, which is told.
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            self.clock.go_on();
            let mut effects = Vec::new();
            for (member, heard) in group(first, events) {
                self.hear(member, heard, &mut effects);
            }
            self.state.tick(self.clock.now, &mut effects);
            self.state.hand_out(self.clock.now, &mut effects);
            self.carry_out(effects)?;
            if self.state.is_finished() {
                let end = *farewell.get_or_insert_with(|| Instant::now() + FAREWELL);
                if (self.outboxes.is_empty() && !self.expects_workers()) || Instant::now() > end {
                    return Ok(());
                }
            } else if let Some(reason) = stop::wished(true) {
                return Err(self.stopped(&reason.words(), args));
            }
        }
    }

    /// Whether somebody may be on the way who has not been told that there is no more to do: a
    /// worker that was lost, or those of the run that the log is of.
    fn expects_workers(&self) -> bool {
        let is_continued = self.from_log > 0 && self.state.workers_seen() == 0;
        is_continued || self.state.misses_workers()
    }

    fn hear(&mut self, from: MemberId, heard: Heard, effects: &mut Vec<Effect>) {
        let now = self.clock.now;
        let number = |task: u64| usize::try_from(task).unwrap_or(usize::MAX);
        let event = match heard {
            Heard::Joined { worker, name, slots, holds, outbox } => {
                log::info!("{name} joins with {slots} slots");
                self.outboxes.insert(from, outbox);
                let holds = holds.into_iter().map(|(task, began)| (number(task), began)).collect();
                Event::Joined { worker, name, slots, holds }
            }
            Heard::Gone => {
                self.outboxes.remove(&from);
                Event::Gone
            }
            Heard::Said(FromWorker::Started(task)) => Event::Started(number(task)),
            Heard::Said(FromWorker::Done { task, result }) => {
                let task = number(task);
                // A result that was not there first is not looked at.
                match self.state.is_open(task).then(|| self.collect.read(task, &result)) {
                    Some(Err(why)) => {
                        Event::Failed(task, format!("its result cannot be read: {why}"))
                    }
                    read => {
                        if read.is_some() {
                            self.fresh.insert(task, result);
                        }
                        Event::Done(task)
                    }
                }
            }
            Heard::Said(FromWorker::Failed { task, why }) => Event::Failed(number(task), why),
            Heard::Said(FromWorker::Alive | FromWorker::Holding(_)) => Event::Alive,
            Heard::Said(FromWorker::Leaving(running)) => {
                Event::Leaving { running: running.into_iter().map(number).collect() }
            }
        };
        self.state.handle(now, from, event, effects);
    }

    /// What is to be kept is on the disk before anybody is told.
    fn carry_out(&mut self, effects: Vec<Effect>) -> Result<(), Problem> {
        let mut entries = Vec::new();
        let mut kept = Vec::new();
        for effect in &effects {
            match *effect {
                Effect::Keep(task) => {
                    kept.push(task);
                    entries
                        .extend(self.fresh.remove(&task).map(|bytes| Entry::Result(task, bytes)));
                }
                Effect::KeepBlames(task) => {
                    entries.push(Entry::Blames(task, self.state.blames(task).to_vec()));
                }
                Effect::KeepAside(task) => {
                    log::warn!("task {task} is set aside");
                    entries.push(Entry::Aside(task));
                }
                _ => {}
            }
        }
        // Of members that were not members any more.
        self.fresh.clear();
        if let Some(log) = &self.log {
            log.keep(&entries)?;
        }
        for task in kept {
            self.collect.kept(task);
        }
        for effect in effects {
            self.tell(effect);
        }
        Ok(())
    }

    fn tell(&mut self, effect: Effect) {
        let (member, message) = match effect {
            Effect::Assign(member, task) => {
                let input = self.inputs[task].clone();
                (member, ToWorker::Task { task: task as u64, input })
            }
            Effect::Withdraw(member, task) => (member, ToWorker::Withdrawn(task as u64)),
            Effect::Taken(member, task) => (member, ToWorker::Taken(task as u64)),
            Effect::Alive(member) => (member, ToWorker::Alive),
            Effect::Finished(member) => (member, ToWorker::Finished),
            Effect::Cut(member, why) => {
                log::info!("connection {} is cut: {why}", member.0);
                self.outboxes.remove(&member);
                return;
            }
            Effect::Keep(_) | Effect::KeepBlames(_) | Effect::KeepAside(_) => return,
        };
        if let Some(outbox) = self.outboxes.get(&member) {
            outbox.say(message);
        }
    }

    fn stopped(&self, reason: &str, args: &ElasticArgs) -> Failure {
        let (left, all) = (self.state.open(), self.inputs.len());
        let text = format!("stopped ({reason}) with {left} of {all} tasks left");
        match &args.log {
            Some(log) => Failure::stopped(format!(
                "{text}; {} keeps the rest: the same command goes on from there",
                log.display()
            )),
            None => Failure::new(format!("{text}\n  help: with --log FILE it can be continued")),
        }
    }

    fn ended(&self) -> Ended {
        let aside = (0..self.inputs.len()).filter(|&task| self.state.is_aside(task));
        let set_aside = aside.map(|task| {
            let reasons = self.state.blames(task).iter().map(|blame| blame.why.clone()).collect();
            SetAside { task, reasons }
        });
        Ended {
            set_aside: set_aside.collect(),
            counts: self.state.counts(),
            workers: self.state.workers_seen(),
            from_log: self.from_log,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_bounded_in_number_and_bytes() {
        let (heard, events) = sync_channel(2 * GROUP);
        let done = |bytes| FromWorker::Done { task: 0, result: vec![0; bytes] };
        let say = |message| heard.send((MemberId(0), Heard::Said(message))).unwrap();
        (0..5).for_each(|_| say(done(GROUP_BYTES / 2)));
        let sizes: Vec<usize> = (0..4).map(|_| group(None, &events).count()).collect();
        assert_eq!(sizes, [2, 2, 1, 0]);
        (0..=GROUP).for_each(|_| say(FromWorker::Alive));
        let first = events.recv().ok();
        assert_eq!(group(first, &events).count(), GROUP);
        assert_eq!(group(None, &events).count(), 1, "nothing is lost");
    }
}
