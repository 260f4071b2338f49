//! Random orders of everything that can happen: each task is done once, or set aside.

use arbtest::arbitrary::{self, Unstructured};

use super::*;

/// A worker process, and its connection if it has one.
#[derive(Default)]
struct Worker {
    identity: u128,
    slots: usize,
    member: Option<u64>,
    inbox: VecDeque<Effect>,
    waiting: Vec<usize>,
    running: Vec<usize>,
    untaken: BTreeSet<usize>,
    leaving: bool,
}

/// Workers around a state, and a copy of it that must do the same.
struct World {
    state: State,
    copy: State,
    now: Duration,
    workers: Vec<Worker>,
    members: u64,
    identities: u128,
    kept: BTreeMap<usize, usize>,
    aside: BTreeSet<usize>,
    ever_started: BTreeSet<usize>,
}

impl World {
    fn new(tasks: usize, poison: usize) -> Self {
        let state = State::new(tasks, Rules { poison, ..RULES });
        Self {
            copy: state.clone(),
            state,
            now: Duration::ZERO,
            workers: Vec::new(),
            members: 0,
            identities: 0,
            kept: BTreeMap::new(),
            aside: BTreeSet::new(),
            ever_started: BTreeSet::new(),
        }
    }

    fn happens(&mut self, from: u64, event: Option<Event>) {
        let (mut out, mut same) = (Vec::new(), Vec::new());
        for (state, out) in [(&mut self.state, &mut out), (&mut self.copy, &mut same)] {
            match event.clone() {
                Some(event) => state.handle(self.now, MemberId(from), event, out),
                None => state.tick(self.now, out),
            }
            state.hand_out(self.now, out);
        }
        assert_eq!(out, same, "the same events have the same effects");
        for effect in out {
            match effect {
                Effect::Keep(task) => *self.kept.entry(task).or_default() += 1,
                Effect::KeepAside(task) => assert!(self.aside.insert(task), "set aside twice"),
                Effect::KeepBlames(_) => {}
                Effect::Cut(member, _) => {
                    let worker = self.workers.iter_mut().find(|w| w.member == Some(member.0));
                    if let Some(worker) = worker {
                        worker.disconnect();
                    }
                }
                Effect::Assign(member, _)
                | Effect::Withdraw(member, _)
                | Effect::Taken(member, _)
                | Effect::Alive(member)
                | Effect::Finished(member) => {
                    let worker = self.workers.iter_mut().find(|w| w.member == Some(member.0));
                    if let Some(worker) = worker {
                        worker.inbox.push_back(effect);
                    }
                }
            }
        }
        for task in 0..self.state.tasks.len() {
            let blamed = !self.state.blames(task).is_empty();
            assert!(!blamed || self.ever_started.contains(&task), "{task} never ran");
        }
    }

    fn connect(&mut self, at: usize) {
        let member = self.members;
        self.members += 1;
        let worker = &mut self.workers[at];
        worker.member = Some(member);
        let untaken: Vec<usize> = worker.untaken.iter().copied().collect();
        let holds = worker.running.iter().chain(&untaken).map(|&task| (task, true)).collect();
        let (identity, slots, leaving) = (worker.identity, worker.slots, worker.leaving);
        let joined = Event::Joined { worker: identity, name: String::new(), slots, holds };
        self.happens(member, Some(joined));
        for task in untaken {
            self.happens(member, Some(Event::Done(task)));
        }
        if leaving {
            self.leave(at);
        }
    }

    fn leave(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        worker.leaving = true;
        worker.waiting.clear();
        let running = worker.running.iter().chain(&worker.untaken).copied().collect();
        if let Some(member) = worker.member {
            self.happens(member, Some(Event::Leaving { running }));
        }
    }

    fn lose(&mut self, at: usize, is_noticed: bool) {
        let member = self.workers[at].member;
        self.workers[at].disconnect();
        if let (Some(member), true) = (member, is_noticed) {
            self.happens(member, Some(Event::Gone));
        }
    }

    fn add(&mut self, slots: usize) -> usize {
        self.identities += 1;
        self.workers.push(Worker { identity: self.identities, slots, ..Worker::default() });
        self.connect(self.workers.len() - 1);
        self.workers.len() - 1
    }

    /// The worker hears one thing.
    fn listen(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        match worker.inbox.pop_front() {
            Some(Effect::Assign(_, task)) if !worker.leaving => worker.waiting.push(task),
            Some(Effect::Withdraw(_, task)) => worker.waiting.retain(|other| *other != task),
            Some(Effect::Taken(_, task)) => _ = worker.untaken.remove(&task),
            _ => {}
        }
    }

    fn start(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        let Some(member) = worker.member else { return };
        if worker.running.len() < worker.slots && !worker.waiting.is_empty() {
            let task = worker.waiting.remove(0);
            worker.running.push(task);
            self.ever_started.insert(task);
            self.happens(member, Some(Event::Started(task)));
        }
    }

    fn finish(&mut self, at: usize, which: usize, fails: bool) {
        let worker = &mut self.workers[at];
        if worker.running.is_empty() {
            return;
        }
        let task = worker.running.remove(which % worker.running.len());
        match worker.member {
            Some(member) if fails => self.happens(member, Some(Event::Failed(task, "no".into()))),
            Some(member) => {
                worker.untaken.insert(task);
                self.happens(member, Some(Event::Done(task)));
            }
            None => _ = worker.untaken.insert(task),
        }
    }

    fn step(&mut self, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        if self.workers.is_empty() {
            self.add(u.int_in_range(1..=3)?);
        }
        let at = u.choose_index(self.workers.len())?;
        let which: usize = u.int_in_range(0..=7)?;
        match u.int_in_range(0..=24)? {
            0 if self.workers.len() < 8 => _ = self.add(1 + which % 3),
            1 => self.lose(at, which < 4),
            2 | 3 if self.workers[at].member.is_none() => self.connect(at),
            // It connects again while its old connection is still believed in.
            4 => {
                self.lose(at, false);
                self.connect(at);
            }
            5 => self.leave(at),
            // The process is gone.
            6 => {
                self.lose(at, which < 4);
                self.workers.remove(at);
            }
            7 => {
                self.now += Duration::from_secs(which as u64);
                self.happens(0, None);
            }
            8 => {
                if let Some(member) = self.workers[at].member {
                    self.happens(member, Some(Event::Alive));
                }
            }
            // A thing that nobody would say, of any task or none.
            9 => {
                let task = which * which;
                let event = match u.int_in_range(0..=4)? {
                    0 => Event::Done(task),
                    1 => Event::Failed(task, String::new()),
                    2 => Event::Gone,
                    3 => Event::Leaving { running: vec![task] },
                    _ => {
                        self.ever_started.insert(task);
                        Event::Started(task)
                    }
                };
                // Failures may be told of what never ran, too.
                if matches!(event, Event::Failed(..)) {
                    self.ever_started.insert(task);
                }
                let from = u.int_in_range(0..=self.members)?;
                let of_worker = self.workers.iter_mut().find(|w| w.member == Some(from));
                if let (Some(worker), Event::Gone) = (of_worker, &event) {
                    worker.disconnect();
                }
                self.happens(from, Some(event));
            }
            10 => self.finish(at, which, true),
            11..=15 => self.finish(at, which, false),
            16..=19 => self.start(at),
            _ => self.listen(at),
        }
        Ok(())
    }

    /// One more worker, that is healthy, and the others as they are: it ends.
    fn conclude(&mut self) {
        let healthy = self.add(2);
        for _ in 0..20_000 {
            if self.state.is_finished() {
                break;
            }
            if self.workers[healthy].member.is_none() {
                self.connect(healthy); // a lie was believed of it
            }
            while !self.workers[healthy].inbox.is_empty() {
                self.listen(healthy);
            }
            self.start(healthy);
            self.finish(healthy, 0, false);
            if let Some(member) = self.workers[healthy].member {
                self.happens(member, Some(Event::Alive));
            }
            self.now += Duration::from_millis(100);
            self.happens(0, None);
        }
    }
}

impl Worker {
    fn disconnect(&mut self) {
        self.member = None;
        self.inbox.clear();
        self.waiting.clear();
    }
}

#[test]
fn in_any_order_of_events_each_task_is_done_once_or_set_aside() {
    let (mut runs, mut aside, mut late, mut again) = (0, 0, 0, 0);
    let mut each = |u: &mut Unstructured<'_>| {
        let tasks = u.int_in_range(0..=20)?;
        let mut world = World::new(tasks, u.int_in_range(1..=3)?);
        let steps = u.int_in_range(0..=400)?;
        for _ in 0..steps {
            world.step(u)?;
        }
        world.conclude();
        assert!(world.state.is_finished(), "it does not end: {:#?}", world.state);
        for task in 0..tasks {
            let kept = world.kept.get(&task).copied().unwrap_or(0);
            let is_aside = world.aside.contains(&task);
            assert_eq!(kept + usize::from(is_aside), 1, "task {task}: {kept} results, {is_aside}");
            assert_eq!(world.state.is_aside(task), is_aside);
            let blames = world.state.blames(task).len();
            assert!(!is_aside || blames >= world.state.rules.poison, "set aside for {blames}");
        }
        // Who is left is told.
        world.happens(0, None);
        assert!(world.state.members.values().all(|member| member.told));
        (runs, aside) = (runs + 1, aside + world.aside.len());
        late += world.state.counts().late;
        again += world.state.counts().run_again;
        Ok(())
    };
    // The same everywhere and every time; then others, for some time. The lower half is a size.
    for seed in 1..=500_u64 {
        arbtest::arbtest(&mut each).seed(seed << 32 | (1 << 13)).run();
    }
    arbtest::arbtest(each).size_min(1 << 8).size_max(1 << 14).budget_ms(2000).run();
    assert!(aside > 0 && late > 0 && again > 0, "{runs} {aside} {late} {again}");
    println!("{runs} orders, {aside} set aside, {late} late, {again} begun again");
}
