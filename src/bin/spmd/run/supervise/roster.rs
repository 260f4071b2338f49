//! The hosts of a supervised run: which are used, held back, taken out, lost; and who goes on.

use std::time::Instant;

use crate::hosts::Host;

/// A host, and what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) name: String,
    /// As they were said, or as many as the host has told.
    pub(super) slots: Option<usize>,
    /// It is used only where others are missing.
    pub(super) is_spare: bool,
    pub(super) state: State,
    pub(super) since: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// As far as is known it can be used.
    Ready,
    /// A user has taken it out.
    Drained,
    /// A user has brought it in, and it has not answered yet.
    Joining,
    /// It does not answer, or cannot run the program.
    Lost(String),
}

/// Who takes part in a start of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Team {
    pub(super) hosts: Vec<Host>,
    pub(super) ranks: usize,
}

impl Team {
    /// As a text: `6 ranks on node[1-3]`.
    pub(super) fn text(&self) -> String {
        let ranks = if self.ranks == 1 { "rank" } else { "ranks" };
        let names = self.hosts.iter().map(|host| &host.name);
        format!("{} {ranks} on {}", self.ranks, spmd::hosts::compress(names))
    }
}

#[derive(Clone)]
pub(super) struct Roster {
    members: Vec<Member>,
    /// Whether hosts were named: else all ranks are here.
    is_named: bool,
    /// The ranks that were asked for.
    wanted: Option<usize>,
    least: usize,
    /// A user has changed something since the last start.
    is_changed: bool,
}

impl Roster {
    /// Of hosts, of which the last are spares.
    ///
    /// # Errors
    /// If no host is left that is none, in words.
    pub(super) fn new(
        hosts: &[Host],
        spares: usize,
        wanted: Option<usize>,
        least: usize,
    ) -> Result<Self, String> {
        if spares >= hosts.len() {
            let count = hosts.len();
            return Err(format!("--spares {spares}: of {count} hosts one has to be used"));
        }
        let members = hosts.iter().enumerate().map(|(index, host)| Member {
            name: host.name.clone(),
            slots: host.slots,
            is_spare: index >= hosts.len() - spares,
            state: State::Ready,
            since: Instant::now(),
        });
        Ok(Self { members: members.collect(), is_named: true, wanted, least, is_changed: false })
    }

    /// All ranks are where this process is.
    pub(super) fn here(name: &str, ranks: usize, least: usize) -> Self {
        let host = Host { name: name.to_owned(), slots: Some(ranks) };
        let member = Member {
            name: host.name,
            slots: host.slots,
            is_spare: false,
            state: State::Ready,
            since: Instant::now(),
        };
        let members = vec![member];
        Self { members, is_named: false, wanted: None, least, is_changed: false }
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(super) fn is_named(&self) -> bool {
        self.is_named
    }

    /// The slots of all hosts that are no spares, whatever has become of them.
    fn all_slots(&self) -> usize {
        let all = self.members.iter().filter(|member| !member.is_spare);
        all.map(|member| member.slots.unwrap_or(1)).sum()
    }

    /// As many ranks as there are when all is well.
    pub(super) fn wanted(&self) -> usize {
        self.wanted.unwrap_or_else(|| self.all_slots())
    }

    /// Who would go on now; nobody if there are too few.
    pub(super) fn team(&self) -> Option<Team> {
        let wanted = self.wanted();
        let ready = self.members.iter().filter(|member| member.state == State::Ready);
        let (spares, others): (Vec<_>, Vec<_>) = ready.partition(|member| member.is_spare);
        let (mut hosts, mut slots) = (Vec::new(), 0);
        for member in others.into_iter().chain(spares) {
            if slots >= wanted {
                break;
            }
            slots += member.slots.unwrap_or(1);
            hosts.push(Host { name: member.name.clone(), slots: member.slots });
        }
        // Whoever asked for more ranks than slots from the start means it.
        let is_crowded = wanted > self.all_slots();
        let ranks = if is_crowded { wanted } else { wanted.min(slots) };
        // Hosts that have not told their slots yet are asked at the start.
        let is_enough = self.is_enough(ranks) || hosts.iter().any(|host| host.slots.is_none());
        (!hosts.is_empty() && is_enough).then_some(Team { hosts, ranks })
    }

    /// Whether the program goes on with so many ranks.
    pub(super) fn is_enough(&self, ranks: usize) -> bool {
        ranks >= self.least
    }

    /// Why there is no team, in words.
    pub(super) fn shortage(&self) -> String {
        let ready = self.members.iter().filter(|member| member.state == State::Ready);
        let slots: usize = ready.map(|member| member.slots.unwrap_or(1)).sum();
        format!("there is room for {slots} ranks, --min-ranks is {}", self.least)
    }

    /// A start is made: what users have changed is in it.
    pub(super) fn starts(&mut self) {
        self.is_changed = false;
    }

    /// Whether the team at work should make room for another one.
    pub(super) fn is_better_than(&self, team: &Team, rejoin: bool) -> bool {
        let Some(next) = self.team() else { return false };
        let names = |team: &Team| -> Vec<(String, usize)> {
            let slots = |host: &Host| (host.name.clone(), host.slots.unwrap_or(1));
            team.hosts.iter().map(slots).collect()
        };
        let differs = next.ranks != team.ranks || names(&next) != names(team);
        differs && (self.is_changed || (rejoin && next.ranks > team.ranks))
    }

    fn find(&mut self, name: &str) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.name == name)
    }

    /// A host has told how many ranks it has room for.
    pub(super) fn learn(&mut self, name: &str, slots: Option<usize>) {
        if let Some(member) = self.find(name) {
            member.slots = member.slots.or(slots);
        }
    }

    pub(super) fn lose(&mut self, name: &str, why: &str) {
        if let Some(member) = self.find(name) {
            if !matches!(member.state, State::Lost(_)) {
                member.since = Instant::now();
            }
            // What a user has taken out stays so.
            if member.state != State::Drained {
                member.state = State::Lost(why.to_owned());
            }
        }
    }

    /// A host that was lost or is to join has answered.
    pub(super) fn answered(&mut self, name: &str) -> bool {
        let away = self.find(name).filter(|it| matches!(it.state, State::Lost(_) | State::Joining));
        let Some(member) = away else { return false };
        (member.state, member.since) = (State::Ready, Instant::now());
        true
    }

    /// A user takes a host out, or some of its slots.
    ///
    /// # Errors
    /// Why that cannot be, in words.
    pub(super) fn drain(&mut self, name: &str, slots: Option<usize>) -> Result<(), String> {
        let before = self.members.clone();
        let names = spmd::hosts::compress(before.iter().map(|member| &member.name));
        let member = self
            .find(name)
            .ok_or_else(|| format!("there is no host {name} in this run: {names}"))?;
        let has = member.slots.unwrap_or(1);
        match slots {
            Some(slots) if slots < has => member.slots = Some(has - slots),
            _ if member.state == State::Drained => {
                return Err(format!("{name} is drained already"));
            }
            _ => (member.state, member.since) = (State::Drained, Instant::now()),
        }
        if self.team().is_none() {
            let shortage = self.shortage();
            self.members = before;
            return Err(format!("{name} cannot be drained: {shortage}"));
        }
        self.is_changed = true;
        Ok(())
    }

    /// A user brings a host in, or more slots of one that is there.
    ///
    /// # Errors
    /// Why that cannot be, in words.
    pub(super) fn add(&mut self, name: &str, slots: Option<usize>) -> Result<(), String> {
        let (is_named, now) = (self.is_named, Instant::now());
        match self.find(name) {
            Some(member) if member.state == State::Ready && !member.is_spare => {
                let more = slots.ok_or_else(|| {
                    format!("{name} takes part already; for more ranks there say {name}:N")
                })?;
                member.slots = Some(member.slots.unwrap_or(1) + more);
            }
            Some(member) => {
                member.is_spare = false;
                member.slots = slots.or(member.slots);
                if member.state != State::Ready {
                    (member.state, member.since) = (State::Joining, now);
                }
            }
            None if !is_named => {
                let here = &self.members[0].name;
                return Err(format!("this run has no hosts: all ranks are on {here}"));
            }
            None => self.members.push(Member {
                name: name.to_owned(),
                slots,
                is_spare: false,
                state: State::Joining,
                since: now,
            }),
        }
        self.is_changed = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roster(list: &str, spares: usize, wanted: Option<usize>, least: usize) -> Roster {
        Roster::new(&crate::hosts::parse_list(list).unwrap(), spares, wanted, least).unwrap()
    }

    fn team(roster: &Roster) -> String {
        roster.team().map_or_else(|| roster.shortage(), |team| team.text())
    }

    #[test]
    fn the_rest_goes_on_with_as_many_ranks_as_it_has_slots() {
        let mut four = roster("n[1-4]:2", 0, None, 3);
        assert_eq!(team(&four), "8 ranks on n[1-4]");
        four.lose("n2", "silent");
        assert_eq!(team(&four), "6 ranks on n[1,3-4]");
        four.lose("n4", "silent");
        four.lose("n1", "silent");
        assert_eq!(team(&four), "there is room for 2 ranks, --min-ranks is 3");
        assert!(four.answered("n1") && !four.answered("n1"));
        assert_eq!(team(&four), "4 ranks on n[1,3]");
    }

    #[test]
    fn no_more_ranks_than_were_asked_for_and_no_fewer_where_they_have_room() {
        let mut four = roster("n[1-4]:2", 0, Some(5), 1);
        assert_eq!(team(&four), "5 ranks on n[1-3]");
        four.lose("n1", "silent");
        assert_eq!(team(&four), "5 ranks on n[2-4]");
        four.lose("n2", "silent");
        assert_eq!(team(&four), "4 ranks on n[3-4]");
        // More ranks than slots were asked for.
        let mut crowd = roster("n[1-2]:2", 0, Some(16), 1);
        crowd.lose("n1", "silent");
        assert_eq!(team(&crowd), "16 ranks on n2");
    }

    #[test]
    fn hosts_that_have_not_told_their_slots_are_asked_before_they_are_too_few() {
        let mut two = roster("n[1-2]", 0, None, 5);
        assert_eq!(team(&two), "2 ranks on n[1-2]");
        two.learn("n1", Some(3));
        assert_eq!(team(&two), "4 ranks on n[1-2]", "the other may have room for many");
        two.learn("n2", Some(1));
        assert_eq!(team(&two), "there is room for 4 ranks, --min-ranks is 5");
        assert!(two.is_enough(5) && !two.is_enough(4));
    }

    #[test]
    fn spares_take_the_place_of_others_until_these_are_back() {
        let mut roster = roster("n[1-4]:2", 2, None, 1);
        assert_eq!(team(&roster), "4 ranks on n[1-2]");
        roster.lose("n1", "silent");
        assert_eq!(team(&roster), "4 ranks on n[2-3]");
        roster.drain("n2", None).unwrap();
        assert_eq!(team(&roster), "4 ranks on n[3-4]");
        let at_work = roster.team().unwrap();
        roster.starts();
        assert!(roster.answered("n1"));
        assert!(!roster.is_better_than(&at_work, true), "no more ranks than before");
        assert_eq!(team(&roster), "4 ranks on n[1,3]");
        assert!(Roster::new(&[], 0, None, 1).is_err());
    }

    #[test]
    fn users_take_hosts_out_and_bring_them_in() {
        let mut three = roster("n[1-3]:2", 0, None, 4);
        let at_work = three.team().unwrap();
        assert!(!three.is_better_than(&at_work, true), "it is the same");
        three.drain("n2", None).unwrap();
        assert!(three.is_better_than(&at_work, false), "a user says so");
        assert_eq!(team(&three), "4 ranks on n[1,3]");
        let refused = three.drain("n1", None).unwrap_err();
        assert_eq!(refused, "n1 cannot be drained: there is room for 2 ranks, --min-ranks is 4");
        assert_eq!(team(&three), "4 ranks on n[1,3]", "all stays as it was");
        assert!(three.drain("n2", None).unwrap_err().contains("already"));
        assert!(three.drain("n9", None).unwrap_err().contains("no host n9 in this run: n[1-3]"));
        let at_work = three.team().unwrap();
        three.starts();
        three.add("n7", Some(3)).unwrap();
        assert!(!three.is_better_than(&at_work, true), "it has not answered yet");
        assert!(three.answered("n7"));
        assert!(three.is_better_than(&at_work, false));
        assert_eq!(team(&three), "7 ranks on n[1,3,7]");
        three.add("n2", None).unwrap();
        assert!(three.answered("n2"));
        assert_eq!(team(&three), "9 ranks on n[1-3,7]");
        assert!(three.add("n1", None).unwrap_err().contains("takes part already"));
        three.add("n1", Some(1)).unwrap();
        assert_eq!(team(&three), "10 ranks on n[1-3,7]");
        // A host that is lost comes back by itself, one that was taken out does not.
        let at_work = three.team().unwrap();
        three.starts();
        three.lose("n3", "silent");
        let fewer = three.team().unwrap();
        assert!(three.answered("n3"));
        assert!(three.is_better_than(&fewer, true) && !three.is_better_than(&fewer, false));
        assert!(!three.is_better_than(&at_work, true));
        three.drain("n3", None).unwrap();
        three.lose("n3", "silent");
        assert!(!three.answered("n3"));
    }

    #[test]
    fn one_machine_has_slots_too() {
        let mut here = Roster::here("localhost", 4, 2);
        assert_eq!(team(&here), "4 ranks on localhost");
        let at_work = here.team().unwrap();
        here.drain("localhost", Some(2)).unwrap();
        assert!(here.is_better_than(&at_work, false));
        assert_eq!(team(&here), "2 ranks on localhost");
        assert!(
            here.drain("localhost", Some(1)).is_err() && here.drain("localhost", None).is_err()
        );
        here.add("localhost", Some(4)).unwrap();
        assert_eq!(team(&here), "6 ranks on localhost");
        assert!(here.add("node7", None).unwrap_err().contains("no hosts"));
    }
}
