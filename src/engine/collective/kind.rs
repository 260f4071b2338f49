//! Which collective: the one name that all descriptions of a collective call carry.

use crate::engine::Rank;

/// Which collective, with its root where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CollectiveKind {
    Barrier,
    Bcast(Rank),
    Gather(Rank),
    Scatter(Rank),
    Allgather,
    Alltoall,
    Reduce(Rank),
    Allreduce,
    ReduceScatter,
    Scan,
    Exscan,
    NeighborAllgather,
    NeighborAlltoall,
}

impl CollectiveKind {
    /// The number by which engines tell collectives apart, whatever the root; 0 is none.
    #[inline(always)]
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Barrier => 1,
            Self::Bcast(_) => 2,
            Self::Gather(_) => 3,
            Self::Scatter(_) => 4,
            Self::Allgather => 5,
            Self::Alltoall => 6,
            Self::Reduce(_) => 7,
            Self::Allreduce => 8,
            Self::ReduceScatter => 9,
            Self::Scan => 10,
            Self::Exscan => 11,
            Self::NeighborAllgather => 12,
            Self::NeighborAlltoall => 13,
        }
    }

    #[inline(always)]
    pub(crate) const fn root(self) -> Option<Rank> {
        match self {
            Self::Bcast(root) | Self::Gather(root) | Self::Scatter(root) | Self::Reduce(root) => {
                Some(root)
            }
            _ => None,
        }
    }

    /// Whose rows go where, if nobody combines them on the way; `None` for neighbourhoods, whose
    /// rows go along the edges of a graph.
    pub(crate) const fn pattern(self) -> Option<Pattern> {
        Some(match self {
            Self::Barrier | Self::Allgather | Self::Allreduce | Self::Scan | Self::Exscan => {
                Pattern::All
            }
            Self::Alltoall | Self::ReduceScatter => Pattern::Each,
            Self::Gather(root) | Self::Reduce(root) => Pattern::ToRoot(root),
            Self::Bcast(root) => Pattern::FromRoot(root),
            Self::Scatter(root) => Pattern::RowsFromRoot(root),
            Self::NeighborAllgather | Self::NeighborAlltoall => return None,
        })
    }
}

/// Whose rows go where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// Every rank's one row to all.
    All,
    /// A row from every rank to every rank.
    Each,
    /// Every rank's one row to the root.
    ToRoot(Rank),
    /// The root's one row to all.
    FromRoot(Rank),
    /// A row for each rank from the root.
    RowsFromRoot(Rank),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_collective_has_a_number_of_its_own() {
        let root = Rank(3);
        let all = [
            CollectiveKind::Barrier,
            CollectiveKind::Bcast(root),
            CollectiveKind::Gather(root),
            CollectiveKind::Scatter(root),
            CollectiveKind::Allgather,
            CollectiveKind::Alltoall,
            CollectiveKind::Reduce(root),
            CollectiveKind::Allreduce,
            CollectiveKind::ReduceScatter,
            CollectiveKind::Scan,
            CollectiveKind::Exscan,
            CollectiveKind::NeighborAllgather,
            CollectiveKind::NeighborAlltoall,
        ];
        let numbers: std::collections::HashSet<u8> = all.map(CollectiveKind::number).into();
        assert_eq!(numbers.len(), all.len());
        assert!(!numbers.contains(&0), "0 is none");
        assert_eq!(all.iter().filter(|kind| kind.root() == Some(root)).count(), 4);
    }
}
