//! Who is which rank of the next epoch.

use serde::{Deserialize, Serialize};

/// What a process says of itself before an epoch.
#[derive(Serialize, Deserialize)]
pub(super) struct Standing {
    /// Its rank in the last epoch.
    pub(super) rank: Option<usize>,
    /// How many epochs it knows of.
    pub(super) epochs: usize,
}

/// How the job goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Next {
    /// By process of the pool: its rank. And how many there are.
    Ranks(Vec<Option<usize>>, usize),
    /// After so many processes have been started.
    Start(usize),
    Ends {
        code: u8,
        why: String,
    },
}

/// Who is which rank after ranks of so many were lost: those that are left keep theirs, and places of
/// lost ones are given to processes that have none. If there are too few, and more can be started,
/// they are; else the ranks are as many as there are processes, in their order.
pub(super) fn seats(all: &[Standing], ranks: usize, starts: bool) -> Next {
    let mut taken = vec![None; ranks];
    for (process, one) in all.iter().enumerate() {
        if let Some(place) = one.rank.and_then(|rank| taken.get_mut(rank)) {
            *place = Some(process);
        }
    }
    let mut spare = (0..all.len()).filter(|&process| all[process].rank.is_none());
    for place in &mut taken {
        *place = place.or_else(|| spare.next());
    }
    let empty = taken.iter().filter(|place| place.is_none()).count();
    if empty > 0 && starts {
        return Next::Start(empty);
    }
    let mut seats = vec![None; all.len()];
    let left: Vec<usize> = taken.into_iter().flatten().collect();
    for (rank, &process) in left.iter().enumerate() {
        seats[process] = Some(rank);
    }
    Next::Ranks(seats, left.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(rank: Option<usize>) -> Standing {
        Standing { rank, epochs: 1 }
    }

    #[test]
    fn who_is_left_keeps_its_rank_where_the_places_are_filled() {
        let all = [Some(0), Some(2), None, Some(3), None].map(standing);
        let ranks = vec![Some(0), Some(2), Some(1), Some(3), None];
        assert_eq!(seats(&all, 4, false), Next::Ranks(ranks.clone(), 4));
        assert_eq!(seats(&all, 4, true), Next::Ranks(ranks, 4));
    }

    #[test]
    fn without_spare_processes_others_are_started_or_there_are_fewer_ranks() {
        let all = [Some(1), None, Some(4)].map(standing);
        assert_eq!(seats(&all, 5, true), Next::Start(2));
        assert_eq!(seats(&all, 5, false), Next::Ranks(vec![Some(1), Some(0), Some(2)], 3));
    }
}
