//! Whom each call waited for, from the times of all who took part.

use std::{collections::HashMap, sync::Arc};

use super::{
    Event, Trace, Waited,
    merge::{Pair, Texts},
};

/// A call: the rank's place in the trace, and the call's there.
type At = (usize, usize);

/// Notes with each call how long it waited, and for whom.
pub(super) fn find(
    trace: &mut Trace,
    pairs: &[Pair],
    sizes: &HashMap<Arc<str>, usize>,
    texts: &mut Texts,
) {
    let mut found: Vec<(At, At)> = Vec::new();
    for Pair { sent, received } in pairs {
        let (sent, received) = ((sent.rank, sent.call), (received.rank, received.call));
        // A receive waits until the message is sent; a send that needs the receiver, until it has
        // come: one that does not is over before.
        found.extend([(received, sent), (sent, received)]);
    }
    for members in collectives(trace, sizes) {
        for &me in &members {
            found.extend(needed(trace, &members, me).map(|other| (me, other)));
        }
    }
    for (me, other) in found {
        wait(trace, me, other, texts);
    }
}

/// `me` has waited for `other` if that began while `me` was under way.
fn wait(trace: &mut Trace, me: At, other: At, texts: &mut Texts) {
    let theirs = call(trace, other);
    let (came_ns, peer) = (theirs.start_ns, trace.ranks[other.0].rank);
    let mine = call(trace, me);
    if came_ns <= mine.start_ns || came_ns > mine.end_ns {
        return;
    }
    let waited_ns = came_ns - mine.start_ns;
    if waited_ns > mine.waited_ns {
        let text = format!("{} at {}", theirs.name, theirs.place);
        let mine = &mut trace.ranks[me.0].calls[me.1];
        mine.waited_ns = waited_ns;
        mine.waited_for = Some(Waited { rank: peer, call: texts.get(&text) });
    }
}

fn call(trace: &Trace, (rank, call): At) -> &Event {
    &trace.ranks[rank].calls[call]
}

/// The collective calls that all ranks of their communicator have made.
fn collectives(trace: &Trace, sizes: &HashMap<Arc<str>, usize>) -> Vec<Vec<At>> {
    let mut calls: HashMap<(&str, u32), Vec<At>> = HashMap::new();
    for (place, rank) in trace.ranks.iter().enumerate() {
        for (number, call) in rank.calls.iter().enumerate() {
            if let Some(collective) = call.collective {
                calls.entry((&call.comm, collective)).or_default().push((place, number));
            }
        }
    }
    let complete = |(comm, _): &(&str, u32), members: &[At]| {
        sizes.get(*comm).is_some_and(|&size| size == members.len())
    };
    calls.into_iter().filter(|(key, calls)| complete(key, calls)).map(|(_, calls)| calls).collect()
}

/// The call of another, the last to come of those without which a collective call cannot end.
fn needed(trace: &Trace, members: &[At], me: At) -> Option<At> {
    let mine = call(trace, me);
    let begins = |words: &[&str]| words.iter().any(|word| mine.name.starts_with(word));
    let from_root = begins(&["bcast", "scatter"]);
    let to_root = begins(&["gather", "reduce"]) && !begins(&["reduce_scatter"]);
    let upwards = begins(&["scan", "exscan"]);
    let rank_of = |(place, _): At| trace.ranks[place].rank;
    let needs = |other: At| match () {
        () if other == me => false,
        // Its neighbours are not known here.
        () if mine.name.contains("neighbor") => false,
        () if from_root => mine.peer == Some(rank_of(other)),
        () if to_root => mine.peer == Some(rank_of(me)),
        () if upwards => rank_of(other) < rank_of(me),
        () => true,
    };
    let others = members.iter().copied().filter(|&other| needs(other));
    others.max_by_key(|&other| call(trace, other).start_ns)
}
