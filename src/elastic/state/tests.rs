//! Single rules; `random.rs` tries them all together.

mod random;

use super::*;

const RULES: Rules = Rules { lease: Duration::from_secs(10), poison: 3 };

/// A state whose effects are looked at one event after the other.
struct Tried {
    state: State,
    now: Duration,
}

impl Tried {
    fn new(tasks: usize) -> Self {
        Self { state: State::new(tasks, RULES), now: Duration::ZERO }
    }

    fn hear(&mut self, from: u64, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        self.state.handle(self.now, MemberId(from), event, &mut out);
        self.state.hand_out(self.now, &mut out);
        out
    }

    fn join(&mut self, member: u64, slots: usize) -> Vec<Effect> {
        self.join_as(member, u128::from(member), slots, Vec::new())
    }

    fn join_as(
        &mut self,
        member: u64,
        worker: u128,
        slots: usize,
        holds: Vec<(usize, bool)>,
    ) -> Vec<Effect> {
        let name = format!("worker {worker}");
        self.hear(member, Event::Joined { worker, name, slots, holds })
    }

    fn wait(&mut self, seconds: u64) -> Vec<Effect> {
        self.now += Duration::from_secs(seconds);
        let mut out = Vec::new();
        self.state.tick(self.now, &mut out);
        self.state.hand_out(self.now, &mut out);
        out
    }
}

fn assigned(effects: &[Effect]) -> Vec<(u64, usize)> {
    let assigned = effects.iter().filter_map(|effect| match effect {
        Effect::Assign(member, task) => Some((member.0, *task)),
        _ => None,
    });
    assigned.collect()
}

#[test]
fn only_what_was_running_is_blamed() {
    let mut farm = Tried::new(10);
    assert_eq!(assigned(&farm.join(1, 2)), [(1, 0), (1, 1), (1, 2), (1, 3)]);
    farm.hear(1, Event::Started(0));
    farm.hear(1, Event::Gone);
    let blamed: Vec<usize> = (0..10).filter(|&task| !farm.state.blames(task).is_empty()).collect();
    assert_eq!(blamed, [0]);
    // What waited comes first, the suspect last.
    let order: Vec<usize> = assigned(&farm.join(2, 10)).into_iter().map(|(_, task)| task).collect();
    assert_eq!(order.len(), 10);
    assert!(order[0] <= 3 && order[9] == 0, "{order:?}");
}

#[test]
fn a_task_is_set_aside_after_so_many_workers() {
    let mut farm = Tried::new(1);
    for worker in 1..=3 {
        assert_eq!(assigned(&farm.join(worker, 1)), [(worker, 0)]);
        farm.hear(worker, Event::Started(0));
        let effects = farm.hear(worker, Event::Gone);
        assert_eq!(effects.contains(&Effect::KeepAside(0)), worker == 3, "{effects:?}");
    }
    assert!(farm.state.is_finished() && farm.state.is_aside(0));
    assert!(farm.state.blames(0)[0].why.contains("worker 1 was lost"));
}

#[test]
fn suspects_do_not_meet() {
    let mut farm = Tried::new(2);
    farm.join(1, 2);
    farm.hear(1, Event::Started(0));
    farm.hear(1, Event::Started(1));
    farm.hear(1, Event::Gone);
    assert_eq!(assigned(&farm.join(2, 2)).len(), 1);
    assert_eq!(assigned(&farm.join(3, 2)).len(), 1);
}

#[test]
fn a_failed_task_goes_to_another_worker_if_there_is_one() {
    let mut farm = Tried::new(1);
    farm.join(1, 1);
    farm.join(2, 1);
    assert_eq!(assigned(&farm.hear(1, Event::Failed(0, "no".to_owned()))), [(2, 0)]);
    // The last worker there is tries again, until it is enough.
    assert_eq!(assigned(&farm.hear(2, Event::Gone)), [(1, 0)]);
    for time in 0..2 {
        let effects = farm.hear(1, Event::Failed(0, "no".to_owned()));
        assert_eq!(effects.contains(&Effect::KeepAside(0)), time == 1, "{time} {effects:?}");
    }
    assert!(farm.state.is_finished());
}

#[test]
fn a_failed_task_waits_for_a_busy_worker_only_before_it_is_set_aside() {
    let mut farm = Tried::new(2);
    farm.join(1, 1);
    farm.join(2, 1);
    farm.hear(2, Event::Started(1));
    assert_eq!(assigned(&farm.hear(1, Event::Failed(0, "no".to_owned()))), [(1, 0)]);
    assert_eq!(assigned(&farm.hear(1, Event::Failed(0, "no".to_owned()))), []);
    assert_eq!(assigned(&farm.hear(2, Event::Done(1))), [(2, 0)]);
    assert!(farm.hear(2, Event::Done(0)).contains(&Effect::Keep(0)));
}

#[test]
fn a_worker_that_comes_back_has_not_died() {
    let mut farm = Tried::new(2);
    farm.join_as(1, 7, 1, Vec::new());
    farm.hear(1, Event::Started(0));
    let silent = farm.wait(11);
    assert!(matches!(silent[0], Effect::Cut(MemberId(1), _)), "{silent:?}");
    assert_eq!(farm.state.blames(0).len(), 1);
    farm.join_as(2, 7, 1, vec![(0, true)]);
    assert_eq!(farm.state.blames(0).len(), 0);
    let effects = farm.hear(2, Event::Done(0));
    assert!(effects.contains(&Effect::Keep(0)) && effects.contains(&Effect::Taken(MemberId(2), 0)));
}

#[test]
fn a_worker_that_comes_back_clears_what_the_log_says_of_it() {
    let mut before = Tried::new(2);
    for worker in [7, 8] {
        before.join(worker, 1);
        before.hear(worker, Event::Started(0));
        before.hear(worker, Event::Gone);
    }
    assert_eq!(before.state.blames(0).len(), 2);
    let mut farm = Tried::new(2);
    farm.state.restore_blames(0, before.state.blames(0).to_vec());
    let effects = farm.join(7, 1);
    assert!(effects.contains(&Effect::KeepBlames(0)), "{effects:?}");
    assert_eq!(farm.state.blames(0).len(), 1, "the other one is not back");
    assert!(farm.state.blames(0)[0].why.contains("worker 8"));
}

#[test]
fn a_late_result_is_dropped_and_counted() {
    let mut farm = Tried::new(1);
    farm.join(1, 1);
    farm.hear(1, Event::Started(0));
    farm.wait(11);
    farm.join(2, 1);
    farm.hear(2, Event::Started(0));
    assert!(farm.hear(2, Event::Done(0)).contains(&Effect::Keep(0)));
    farm.join_as(3, 1, 1, vec![(0, true)]);
    let late = farm.hear(3, Event::Done(0));
    assert_eq!(late[0], Effect::Taken(MemberId(3), 0));
    let counts = farm.state.counts();
    assert_eq!((counts.late, counts.run_again, counts.lost), (1, 1, 1));
}

#[test]
fn stragglers_are_run_twice_by_who_is_idle() {
    let mut farm = Tried::new(2);
    farm.join(1, 1);
    farm.join(2, 1);
    farm.hear(1, Event::Started(0));
    farm.hear(2, Event::Started(1));
    farm.wait(1);
    assert_eq!(assigned(&farm.hear(1, Event::Done(0))), [], "1 s is not long");
    assert_eq!(assigned(&farm.wait(2)), [(1, 1)], "3 s are: the other took 1 s");
    assert_eq!(assigned(&farm.wait(2)), [], "but not thrice");
    assert!(farm.hear(1, Event::Done(1)).contains(&Effect::Keep(1)));
    assert!(farm.state.is_finished());
}

#[test]
fn who_is_idle_takes_over_what_waits_elsewhere() {
    let mut farm = Tried::new(4);
    assert_eq!(assigned(&farm.join(1, 1)).len(), 2);
    let effects = farm.join(2, 4);
    assert_eq!(assigned(&effects).len(), 3);
    let withdrawn = effects.iter().filter(|effect| matches!(effect, Effect::Withdraw(..)));
    assert_eq!(withdrawn.count(), 1, "{effects:?}");
}

#[test]
fn who_leaves_gives_back_what_it_has_not_begun() {
    let mut farm = Tried::new(4);
    farm.join(1, 1);
    farm.hear(1, Event::Started(0));
    farm.hear(1, Event::Leaving { running: vec![0] });
    assert_eq!(assigned(&farm.join(2, 4)).len(), 3);
    assert_eq!(assigned(&farm.hear(1, Event::Done(0))), []);
    farm.hear(1, Event::Gone);
    assert_eq!((farm.state.counts().left, farm.state.counts().lost), (1, 0));
}

#[test]
fn who_speaks_of_what_there_is_not_is_cut() {
    for event in [Event::Done(9), Event::Started(usize::MAX), Event::Failed(2, String::new())] {
        let mut farm = Tried::new(2);
        farm.join(1, 1);
        let effects = farm.hear(1, event);
        assert!(matches!(effects[0], Effect::Cut(MemberId(1), _)), "{effects:?}");
        assert_eq!(farm.hear(1, Event::Alive), [], "it is no member any more");
    }
}
