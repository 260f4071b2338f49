//! Who gets which task.

use std::{collections::BTreeSet, time::Duration};

use super::{Effect, Identity, Member, MemberId, Phase, State};

/// A member has so many tasks for each slot at most: one to do, and one to go on with.
const DEPTH: usize = 2;
/// A task that runs so many times as long as others have is a straggler,
const SLOW: u32 = 2;
/// but not before this time.
const NOT_BEFORE: Duration = Duration::from_millis(100);

impl State {
    /// Gives members what they may have. Called when all that has happened has been handled.
    pub(in super::super) fn hand_out(&mut self, now: Duration, out: &mut Vec<Effect>) {
        if self.is_finished() {
            for (&id, member) in self.members.iter_mut().filter(|(_, member)| !member.told) {
                member.told = true;
                out.push(Effect::Finished(id));
            }
            return;
        }
        self.pass_over();
        for depth in 1..=DEPTH {
            if self.queue.is_empty() {
                break;
            }
            // What waits behind another task may be begun sooner elsewhere: not when few are left.
            let slots: usize = self.members.values().map(|member| member.slots).sum();
            if depth > 1 && self.queue.len() <= slots {
                break;
            }
            let ids: Vec<MemberId> = self.members.keys().copied().collect();
            for id in ids {
                self.fill(now, id, depth, out);
            }
        }
        if self.queue.is_empty() {
            self.run_twice(now, out);
        }
    }

    /// Takes from the front of the queue what is no more in it.
    fn pass_over(&mut self) {
        while self.queue.front().is_some_and(|&task| !self.is_free(task)) {
            self.queue.pop_front();
        }
    }

    fn is_free(&self, task: usize) -> bool {
        self.is_open(task) && self.tasks[task].holders.is_empty()
    }

    fn fill(&mut self, now: Duration, id: MemberId, depth: usize, out: &mut Vec<Effect>) {
        while let Some(member) = self.members.get(&id)
            && member.has_room(depth)
        {
            let found =
                self.queue.iter().position(|&task| self.is_free(task) && self.fits(id, task));
            let Some(task) = found.and_then(|at| self.queue.remove(at)) else { return };
            self.pass_over();
            self.hold(now, id, task, false);
            out.push(Effect::Assign(id, task));
        }
    }

    /// Whether a member may have this task. A suspect never meets another one: so an innocent one is
    /// not blamed again for the same culprit. It goes to who has not failed on it, if such a one can
    /// have it now; and for its last time, before it is set aside, if there is such a one at all: no
    /// worker has a task set aside by itself while there are others.
    fn fits(&self, id: MemberId, task: usize) -> bool {
        let Some(member) = self.members.get(&id) else { return false };
        let task = &self.tasks[task];
        if !task.is_suspect() {
            return true;
        }
        let is_blamed = |worker: Identity| task.blames.iter().any(|blame| blame.worker == worker);
        let has_suspect =
            |member: &Member| member.holds.keys().any(|&held| self.tasks[held].is_suspect());
        let is_last = task.blames.len() + 1 >= self.rules.poison;
        let is_better = |other: &Member| {
            let can_have_it = other.has_room(1) && !has_suspect(other);
            !other.leaving && !is_blamed(other.worker) && (is_last || can_have_it)
        };
        !has_suspect(member) && (!is_blamed(member.worker) || !self.members.values().any(is_better))
    }

    /// Nothing is queued: who is idle takes over what waits elsewhere, and does again what takes
    /// long.
    fn run_twice(&mut self, now: Duration, out: &mut Vec<Effect>) {
        let idle = |member: &&Member| member.has_room(1);
        if !self.members.values().any(|member| idle(&member)) {
            return;
        }
        let slow = match self.timed {
            (0, _) => self.rules.lease,
            (count, together) => (together / count).saturating_mul(SLOW).max(NOT_BEFORE),
        };
        // What waits first, then what runs longest.
        let mut found: Vec<(bool, Duration, usize, MemberId)> = Vec::new();
        for (&id, member) in &self.members {
            for (&task, hold) in &member.holds {
                let age = now.saturating_sub(hold.since);
                let waits =
                    !hold.started && (member.holds.len() > member.slots || age > self.rules.lease);
                let alone = self.tasks[task].holders.len() == 1;
                let is_open = self.tasks[task].phase == Phase::Open;
                if is_open && alone && (waits || (hold.started && age > slow)) {
                    found.push((hold.started, hold.since, task, id));
                }
            }
        }
        found.sort_unstable();
        let mut taken = BTreeSet::new();
        let ids: Vec<MemberId> = self.members.keys().copied().collect();
        for id in ids {
            while self.members.get(&id).is_some_and(|member| member.has_room(1)) {
                let next = found.iter().find(|(started, _, task, holder)| {
                    let waits_there = *started
                        || self.members.get(holder).is_some_and(|has| has.holds.len() > has.slots)
                        || self
                            .hold_of(*holder, *task)
                            .is_some_and(|hold| now.saturating_sub(hold.since) > self.rules.lease);
                    *holder != id && !taken.contains(task) && waits_there && self.fits(id, *task)
                });
                let Some(&(started, _, task, holder)) = next else { break };
                taken.insert(task);
                if !started {
                    self.release(holder, task);
                    out.push(Effect::Withdraw(holder, task));
                }
                self.hold(now, id, task, false);
                out.push(Effect::Assign(id, task));
            }
        }
    }
}

impl Member {
    fn has_room(&self, depth: usize) -> bool {
        !self.leaving && self.holds.len() < depth * self.slots
    }
}
