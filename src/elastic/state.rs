//! What the coordinator knows of tasks and members, and what follows from what happens: no sockets,
//! no threads, no clock. The same events give the same effects.
//!
//! `README.md` has the states of a task and the rules; `tests.rs` tries them in random orders.

mod hand_out;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// A connection of a worker. A worker that connects again is another member, of the same identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct MemberId(pub(super) u64);

/// What a worker process calls itself: random, made at its start.
pub(super) type Identity = u128;

/// What the user has decided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// A member that is not heard of for so long is lost.
    pub(super) lease: Duration,
    /// A task is set aside after so many workers were lost with it, or failed on it.
    pub(super) poison: usize,
}

/// What a member has said, or what has become of it.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// It is one from now on. It has these tasks from an earlier connection, begun or not.
    Joined { worker: Identity, name: String, slots: usize, holds: Vec<(usize, bool)> },
    /// It begins a task.
    Started(usize),
    /// A task is done; the result lies with the caller.
    Done(usize),
    /// A task has failed.
    Failed(usize, String),
    /// It is there.
    Alive,
    /// It finishes these and takes no more.
    Leaving { running: Vec<usize> },
    /// Its connection has ended.
    Gone,
}

/// What the caller is to do, in this order; what is kept is on its disk before anything is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Keep the result that has just come: it is the first of this task.
    Keep(usize),
    /// Keep who is blamed for a task, see [`State::blames`].
    KeepBlames(usize),
    /// Keep that a task is set aside.
    KeepAside(usize),
    /// Send a task.
    Assign(MemberId, usize),
    /// A task need not be begun.
    Withdraw(MemberId, usize),
    /// What was said of a task has been taken note of.
    Taken(MemberId, usize),
    /// The coordinator is there.
    Alive(MemberId),
    /// There is no more to do.
    Finished(MemberId),
    /// End its connection, for this reason.
    Cut(MemberId, &'static str),
}

/// Why a task is suspected of doing harm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Blame {
    worker: Identity,
    /// The worker was lost, and may come back; else the task has failed.
    lost: bool,
    pub(super) why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Done,
    Aside,
}

#[derive(Clone, Debug)]
struct Task {
    phase: Phase,
    /// Who has it; several have one that was run twice.
    holders: BTreeSet<MemberId>,
    blames: Vec<Blame>,
    starts: u32,
}

impl Task {
    fn is_suspect(&self) -> bool {
        !self.blames.is_empty()
    }
}

/// A task that a member has.
#[derive(Clone, Copy, Debug)]
struct Hold {
    /// When it was sent, or begun.
    since: Duration,
    started: bool,
}

#[derive(Clone, Debug)]
struct Member {
    worker: Identity,
    name: String,
    slots: usize,
    holds: BTreeMap<usize, Hold>,
    heard: Duration,
    leaving: bool,
    told: bool,
}

/// What there has been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Beginnings of tasks.
    pub(super) starts: usize,
    /// Tasks that were begun more than once.
    pub(super) run_again: usize,
    /// Results that came after the first of their task, also from who has brought that and says it
    /// again.
    pub(super) late: usize,
    /// Members that were lost.
    pub(super) lost: usize,
    /// Members that have left in order.
    pub(super) left: usize,
}

#[derive(Clone, Debug)]
pub(super) struct State {
    rules: Rules,
    tasks: Vec<Task>,
    /// Tasks that nobody has, among others: those that are done or held are passed over.
    queue: VecDeque<usize>,
    members: BTreeMap<MemberId, Member>,
    workers: BTreeSet<Identity>,
    /// Those of them that were lost and are not back.
    missing: BTreeSet<Identity>,
    /// How many tasks are open.
    open: usize,
    /// Tasks that were begun and done by the same member, and how long they took together.
    timed: (u32, Duration),
    counts: Counts,
}

impl State {
    pub(super) fn new(tasks: usize, rules: Rules) -> Self {
        let task =
            Task { phase: Phase::Open, holders: BTreeSet::new(), blames: Vec::new(), starts: 0 };
        Self {
            rules,
            tasks: vec![task; tasks],
            queue: (0..tasks).collect(),
            members: BTreeMap::new(),
            workers: BTreeSet::new(),
            missing: BTreeSet::new(),
            open: tasks,
            timed: (0, Duration::ZERO),
            counts: Counts::default(),
        }
    }

    /// The log has the result of this task.
    pub(super) fn restore_done(&mut self, task: usize) {
        self.close(task, Phase::Done);
    }

    /// The log says that this task is set aside.
    pub(super) fn restore_aside(&mut self, task: usize) {
        self.close(task, Phase::Aside);
    }

    /// The log has these blames of a task.
    pub(super) fn restore_blames(&mut self, task: usize, blames: Vec<Blame>) {
        if let Some(task) = self.tasks.get_mut(task) {
            task.blames = blames;
        }
    }

    /// Each task is done or set aside.
    pub(super) fn is_finished(&self) -> bool {
        self.open == 0
    }

    pub(super) fn is_open(&self, task: usize) -> bool {
        self.tasks.get(task).is_some_and(|task| task.phase == Phase::Open)
    }

    pub(super) fn is_aside(&self, task: usize) -> bool {
        self.tasks.get(task).is_some_and(|task| task.phase == Phase::Aside)
    }

    pub(super) fn blames(&self, task: usize) -> &[Blame] {
        self.tasks.get(task).map_or(&[], |task| &task.blames)
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// How many workers there have been.
    pub(super) fn workers_seen(&self) -> usize {
        self.workers.len()
    }

    /// Whether a worker that was lost has not come back.
    pub(super) fn misses_workers(&self) -> bool {
        !self.missing.is_empty()
    }

    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// Something has happened. Of who is no member nothing is heard but that it joins.
    pub(super) fn handle(
        &mut self,
        now: Duration,
        from: MemberId,
        event: Event,
        out: &mut Vec<Effect>,
    ) {
        if let Event::Joined { worker, name, slots, holds } = event {
            return self.join(now, from, Member::new(worker, name, slots, now), &holds, out);
        }
        let Some(member) = self.members.get_mut(&from) else { return };
        member.heard = now;
        let (worker, name) = (member.worker, member.name.clone());
        match event {
            Event::Joined { .. } => {}
            Event::Alive => out.push(Effect::Alive(from)),
            Event::Gone => self.lose(from, out),
            Event::Leaving { running } => {
                member.leaving = true;
                let held: Vec<usize> = member.holds.keys().copied().collect();
                for task in held.into_iter().filter(|task| !running.contains(task)) {
                    self.release(from, task);
                    self.settle(task, out);
                }
            }
            Event::Started(task) | Event::Done(task) | Event::Failed(task, _)
                if task >= self.tasks.len() =>
            {
                out.push(Effect::Cut(from, "it speaks of a task that there is not"));
                self.lose(from, out);
            }
            Event::Started(task) => self.start(now, from, task),
            Event::Done(task) => {
                self.done(now, from, task, out);
                out.push(Effect::Taken(from, task));
            }
            Event::Failed(task, why) => {
                self.release(from, task);
                if self.is_open(task) {
                    let why = format!("failed on {name}: {why}");
                    self.blame(task, Blame { worker, lost: false, why }, out);
                }
                self.settle(task, out);
                out.push(Effect::Taken(from, task));
            }
        }
    }

    /// Time goes by: members that are not heard of are lost.
    pub(super) fn tick(&mut self, now: Duration, out: &mut Vec<Effect>) {
        let silent: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(_, member)| now.saturating_sub(member.heard) > self.rules.lease)
            .map(|(member, _)| *member)
            .collect();
        for member in silent {
            out.push(Effect::Cut(member, "it was not heard of for the time of its lease"));
            self.lose(member, out);
        }
    }

    fn join(
        &mut self,
        now: Duration,
        id: MemberId,
        member: Member,
        holds: &[(usize, bool)],
        out: &mut Vec<Effect>,
    ) {
        let worker = member.worker;
        // Its earlier connection has ended, though nobody has told us.
        let before: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(other, member)| **other == id || member.worker == worker)
            .map(|(other, _)| *other)
            .collect();
        for other in before {
            if other != id {
                out.push(Effect::Cut(other, "its worker has connected again"));
            }
            self.lose(other, out);
        }
        self.members.insert(id, member);
        self.missing.remove(&worker);
        self.workers.insert(worker);
        // Also one that is new to this coordinator: its log may blame it.
        self.forgive(worker, out);
        for &(task, started) in holds {
            if !self.is_open(task) {
                // What is running there ends as a late result.
            } else if started {
                self.hold(now, id, task, true);
            } else {
                out.push(Effect::Withdraw(id, task));
            }
        }
    }

    /// A worker that was lost is back: it did not die of what it ran.
    fn forgive(&mut self, worker: Identity, out: &mut Vec<Effect>) {
        for (number, task) in self.tasks.iter_mut().enumerate() {
            let before = task.blames.len();
            if task.phase == Phase::Open {
                task.blames.retain(|blame| !(blame.lost && blame.worker == worker));
            }
            if task.blames.len() < before {
                out.push(Effect::KeepBlames(number));
            }
        }
    }

    fn start(&mut self, now: Duration, from: MemberId, task: usize) {
        self.tasks[task].starts += 1;
        self.counts.starts += 1;
        self.counts.run_again += usize::from(self.tasks[task].starts == 2);
        // Also where it has crossed a withdrawal.
        self.hold(now, from, task, true);
    }

    fn done(&mut self, now: Duration, from: MemberId, task: usize, out: &mut Vec<Effect>) {
        if let Some(hold) = self.release(from, task)
            && hold.started
        {
            self.timed.0 += 1;
            self.timed.1 += now.saturating_sub(hold.since);
        }
        if !self.is_open(task) {
            self.counts.late += 1;
            return;
        }
        out.push(Effect::Keep(task));
        self.close(task, Phase::Done);
        // Who has begun it too has a slot less until it says so.
        let others: Vec<MemberId> = self.tasks[task].holders.iter().copied().collect();
        for other in others {
            if self.hold_of(other, task).is_some_and(|hold| !hold.started) {
                self.release(other, task);
                out.push(Effect::Withdraw(other, task));
            }
        }
    }

    /// A member is no more. What it had begun is suspected, unless it is done by others.
    fn lose(&mut self, id: MemberId, out: &mut Vec<Effect>) {
        let Some(member) = self.members.remove(&id) else { return };
        let in_order = member.told || (member.leaving && member.holds.is_empty());
        if in_order {
            self.counts.left += 1;
        } else {
            self.counts.lost += 1;
            self.missing.insert(member.worker);
        }
        for (&task, hold) in &member.holds {
            self.tasks[task].holders.remove(&id);
            if hold.started && self.is_open(task) {
                let why = format!("{} was lost while it ran this", member.name);
                self.blame(task, Blame { worker: member.worker, lost: true, why }, out);
            }
            self.settle(task, out);
        }
    }

    fn blame(&mut self, task: usize, blame: Blame, out: &mut Vec<Effect>) {
        self.tasks[task].blames.push(blame);
        out.push(Effect::KeepBlames(task));
    }

    /// An open task that nobody has any more is set aside, or queued: one that has begun nowhere
    /// before others, a suspect behind them, when it takes fewer with it.
    fn settle(&mut self, number: usize, out: &mut Vec<Effect>) {
        let task = &self.tasks[number];
        if task.phase != Phase::Open || !task.holders.is_empty() {
            return;
        }
        if task.blames.len() >= self.rules.poison {
            self.close(number, Phase::Aside);
            out.push(Effect::KeepAside(number));
        } else if task.is_suspect() {
            self.queue.push_back(number);
        } else {
            self.queue.push_front(number);
        }
    }

    fn close(&mut self, number: usize, phase: Phase) {
        if let Some(task) = self.tasks.get_mut(number)
            && task.phase == Phase::Open
        {
            task.phase = phase;
            self.open -= 1;
        }
    }

    fn hold(&mut self, now: Duration, member: MemberId, task: usize, started: bool) {
        if let Some(has) = self.members.get_mut(&member) {
            has.holds.insert(task, Hold { since: now, started });
            self.tasks[task].holders.insert(member);
        }
    }

    fn hold_of(&self, member: MemberId, task: usize) -> Option<&Hold> {
        self.members.get(&member)?.holds.get(&task)
    }

    fn release(&mut self, member: MemberId, task: usize) -> Option<Hold> {
        self.tasks[task].holders.remove(&member);
        self.members.get_mut(&member)?.holds.remove(&task)
    }
}

impl Member {
    fn new(worker: Identity, name: String, slots: usize, now: Duration) -> Self {
        let holds = BTreeMap::new();
        Self { worker, name, slots, holds, heard: now, leaving: false, told: false }
    }
}
