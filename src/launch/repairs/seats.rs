//! Who is which rank of the next epoch.

use serde::{Deserialize, Serialize};

/// What a process says of itself before an epoch.
#[derive(Serialize, Deserialize)]
pub(super) struct Standing {
    /// Its rank in the last epoch.
    pub(super) rank: Option<usize>,
    /// How many epochs it knows of.
    pub(super) epochs: usize,
    /// How many ranks are wished for, if it has left the last epoch for that. Others may have heard only
    /// that it has ended.
    pub(super) wish: Option<usize>,
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

/// The number of ranks that all are to go on with after an epoch of so many, other than by a loss.
pub(super) fn wish(all: &[Standing], epochs: usize) -> Option<usize> {
    all.iter().filter(|one| one.epochs == epochs).find_map(|one| one.wish)
}

/// Who is which of so many ranks: those that were one of them keep theirs, and the places of lost and
/// of new ones are given to the other processes. If there are too few, and more can be started,
/// they are; else the ranks are as many as there are processes, in their order.
pub(super) fn seats(all: &[Standing], ranks: usize, starts: bool) -> Next {
    let mut taken = vec![None; ranks];
    for (process, one) in all.iter().enumerate() {
        if let Some(place) = one.rank.and_then(|rank| taken.get_mut(rank)) {
            *place = Some(process);
        }
    }
    let is_spare = |rank: Option<usize>| rank.is_none_or(|rank| rank >= ranks);
    let mut spare = (0..all.len()).filter(|&process| is_spare(all[process].rank));
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
        Standing { rank, epochs: 1, wish: None }
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

    #[test]
    fn more_ranks_are_spare_processes_and_then_new_ones() {
        let all = [Some(1), None, Some(0)].map(standing);
        let ranks = vec![Some(1), Some(2), Some(0)];
        assert_eq!(seats(&all, 3, true), Next::Ranks(ranks.clone(), 3));
        assert_eq!(seats(&all, 5, true), Next::Start(2));
        assert_eq!(seats(&all, 5, false), Next::Ranks(ranks, 3));
    }

    #[test]
    fn fewer_ranks_are_the_first_ones_and_the_others_become_spare() {
        let all = [Some(3), Some(0), None, Some(1), Some(2)].map(standing);
        let ranks = vec![None, Some(0), None, Some(1), None];
        assert_eq!(seats(&all, 2, true), Next::Ranks(ranks, 2));
        // Rank 0 is lost while they leave.
        let all = [Some(3), Some(1), Some(2)].map(standing);
        assert_eq!(seats(&all, 2, true), Next::Ranks(vec![Some(0), Some(1), None], 2));
    }

    #[test]
    fn one_that_has_heard_of_a_wish_is_enough() {
        let mut all = [Some(0), Some(1), None].map(standing);
        assert_eq!(wish(&all, 1), None);
        all[1].wish = Some(4);
        assert_eq!((wish(&all, 1), wish(&all, 2)), (Some(4), None));
    }
}
