//! Commits: the state in the memory of ranks, where each part lies on two of them.
//!
//! A part is what it is in a file, its sums too. Each rank holds its own, and that of the rank a
//! [shift] before it, which is on another host if there are several: so what a lost rank held can
//! be had from there. Ranks that are threads hold the same memory together; elsewhere the other
//! holder has a copy.
//!
//! [shift]: partner_shift
//!
//! A commit counts when all ranks have both parts, which the barrier at its end says. Until then
//! the one before is held, too: whoever has passed the barrier of a commit knows that every rank has
//! both parts of it, and lets the one before go. So a loss at any moment leaves one that is whole,
//! and where it is found that there are two, the newer one counts.

use std::{panic::Location, sync::Arc};

use super::{
    State, call,
    format::{Index, PartReader, PartWriter, head_size, memory_for},
    load_parts, same_on_all, share,
};
use crate::{
    comm::{Comm, Shelf},
    error::Failure,
    io::agree_on,
};

/// What errors call it.
const NAME: &str = "the commit in memory";

/// What a rank holds of the last commits.
#[derive(Debug, Default)]
pub(crate) struct Vault {
    /// One, and for a while two.
    held: Vec<Held>,
    /// Parts that are not needed any more, for their memory.
    spare: Vec<Arc<Vec<u8>>>,
}

/// What there was of commits, the same on all ranks.
pub(crate) enum Found {
    /// One that is whole: the state is that of it.
    Commit,
    Nothing,
    /// Why none can be used. What the state is then is not defined.
    Damaged(String),
}

/// How many ranks behind each rank the one is that holds its part, too. Collective.
pub(crate) fn partner_shift(comm: &Comm, at: &'static Location<'static>) -> Result<usize, Failure> {
    let host = comm.node(call("commit", at))?;
    Ok(shift_to_other_hosts(&comm.allgather(&[host])?.into_flat()))
}

/// The smallest shift by which as many ranks as possible come to another host than their own; 0 of one
/// rank alone.
fn shift_to_other_hosts(hosts: &[u32]) -> usize {
    let ranks = hosts.len();
    let (mut best, mut most) = (usize::from(ranks > 1), 0);
    for shift in 1..ranks {
        let away = |&rank: &usize| hosts[rank] != hosts[(rank + shift) % ranks];
        let away = (0..ranks).filter(away).count();
        if away > most {
            (best, most) = (shift, away);
        }
        if most == ranks {
            break;
        }
    }
    best
}

#[derive(Debug)]
struct Held {
    index: Index,
    parts: Vec<(usize, Arc<Vec<u8>>)>,
}

impl Held {
    fn part(&self, number: usize) -> Option<&[u8]> {
        self.parts.iter().find(|(part, _)| *part == number).map(|(_, bytes)| &bytes[..])
    }
}

impl Vault {
    fn find(&self, commit: u64) -> Option<&Held> {
        self.held.iter().find(|held| held.index.id == commit)
    }

    /// Holds no other commit any more.
    fn hold_only(&mut self, comm: &Comm, commit: u64) {
        let (kept, gone) = self.held.drain(..).partition(|held| held.index.id == commit);
        self.held = kept;
        let gone: Vec<Held> = gone;
        // What two hold is used again by the rank whose part it was.
        let ours = |(part, bytes): &(usize, Arc<Vec<u8>>)| {
            *part == comm.rank() || Arc::strong_count(bytes) == 1
        };
        let parts = gone.into_iter().flat_map(|held| held.parts).filter(ours);
        self.spare.extend(parts.map(|(_, bytes)| bytes));
        self.spare.truncate(2); // what the next commit needs
    }

    /// Memory to be overwritten: its pages are there already.
    fn room(&mut self) -> Vec<u8> {
        let mut spare = std::iter::from_fn(|| self.spare.pop());
        spare.find_map(Arc::into_inner).unwrap_or_default()
    }

    /// Makes a commit of this number, which is higher than all before; the rank so many behind each rank
    /// holds its part, too.
    ///
    /// # Collective
    /// All ranks, with the same names: besides agreement, a message of the size of a part from each
    /// rank to another, unless they are threads of one process.
    ///
    /// # Errors
    /// As [`Checkpoint::save`](super::Checkpoint::save), but for files.
    pub(crate) fn keep(
        &mut self,
        comm: &Comm,
        shift: usize,
        commit: u64,
        state: &mut State<'_>,
        at: &'static Location<'static>,
    ) -> Result<(), Failure> {
        let shelf = comm.shelf(call("commit", at))?;
        self.keep_with(comm, shift, commit, state, shelf.as_deref(), at)
    }

    /// As [`Self::keep`]; the parts are put on this shelf, if there is one, else sent.
    fn keep_with(
        &mut self,
        comm: &Comm,
        shift: usize,
        commit: u64,
        state: &mut State<'_>,
        shelf: Option<&Shelf>,
        at: &'static Location<'static>,
    ) -> Result<(), Failure> {
        let call = call("commit", at);
        let described = state.describe(comm);
        let (items, bytes) = comm.agree_on_outcome(call, described)?;
        same_on_all(comm, &items, bytes, call)?;

        // From here on nobody holds any part but those of the commit before.
        let (rank, ranks) = (comm.rank(), comm.size());
        let room = self.room();
        let write = || {
            let bytes = bytes.saturating_add(head_size());
            let mut part = PartWriter::in_memory(room, bytes, commit, rank)?;
            state.write(&mut part)?;
            Ok(part.into_memory())
        };
        let own = Arc::new(agree_on(comm, call, write())?);
        if let Some(shelf) = shelf {
            shelf.put(rank, &own);
        }
        let parts = comm.allgather(&[own.len() as u64])?.into_flat();
        let shift = shift % ranks;
        let (next, before) = ((rank + shift) % ranks, (rank + ranks - shift) % ranks);
        let mut held = Vec::new();
        if next != rank {
            // What stands on the shelf has been put there before the allgather.
            let theirs = if let Some(theirs) = shelf.and_then(|shelf| shelf.get(before)) {
                theirs
            } else {
                let theirs = memory_for(parts[before], self.room());
                let mut theirs = agree_on(comm, call, theirs)?;
                comm.sendrecv(&own[..], next, &mut theirs[..], before)?;
                Arc::new(theirs)
            };
            held.push((before, theirs));
        }
        held.push((rank, own));
        let little_endian = cfg!(target_endian = "little");
        let index = Index { id: commit, little_endian, parts, items };
        self.held.push(Held { index, parts: held });
        comm.barrier()?;
        self.hold_only(comm, commit);
        Ok(())
    }

    /// What the ranks behind the first `left` hold of the commit is held by those as well: the others
    /// are to leave.
    ///
    /// # Collective
    /// All ranks, after a commit. Whoever has returned knows that all parts are where they are to be.
    pub(crate) fn hand_over(&mut self, comm: &Comm, left: usize) -> Result<(), Failure> {
        let Some(held) = self.held.last() else { return Ok(()) };
        let index = held.index.clone();
        let parts: Vec<usize> = held.parts.iter().map(|(part, _)| *part).collect();
        let all = comm.allgather_obj(&parts)?;
        let mut ways = Vec::new();
        for (rank, parts) in all.iter().enumerate().skip(left) {
            let heir = rank % left;
            let lacks = parts.iter().filter(|part| !all[heir].contains(part));
            ways.extend(lacks.map(|&part| (part, rank, heir)));
        }
        self.fetch(comm, &index, &ways)?;
        comm.barrier()?;
        Ok(())
    }

    /// Restores the state from the newest commit whose parts are all there; where there is none, the
    /// state stays as it is. It is the only one held afterwards.
    ///
    /// # Collective
    /// All ranks, some of which may hold nothing. What a rank is to read and does not hold comes to it
    /// by a message.
    ///
    /// # Errors
    /// As [`Checkpoint::resume`](super::Checkpoint::resume).
    pub(crate) fn restore(
        &mut self,
        comm: &Comm,
        state: &mut State<'_>,
        at: &'static Location<'static>,
    ) -> Result<Found, Failure> {
        let own = |held: &Held| {
            let parts: Vec<usize> = held.parts.iter().map(|(part, _)| *part).collect();
            (held.index.id, parts)
        };
        let all = comm.allgather_obj(&self.held.iter().map(own).collect::<Vec<_>>())?;
        let mut commits: Vec<u64> = all.iter().flatten().map(|(commit, _)| *commit).collect();
        commits.sort_unstable_by(|one, other| other.cmp(one));
        commits.dedup();
        let mut complaints = Vec::new();
        for commit in commits {
            let holds = |rank: usize, part: Option<usize>| {
                let fits = |parts: &[usize]| part.is_none_or(|part| parts.contains(&part));
                all[rank].iter().any(|(held, parts)| *held == commit && fits(parts))
            };
            let ranks = comm.size();
            let Some(first) = (0..ranks).find(|&rank| holds(rank, None)) else { continue };
            let index = || self.find(commit).map(|held| held.index.clone());
            let Some(index) = comm.bcast_obj(first, index)? else { continue };
            let reader = |part: usize| {
                let reads = |&rank: &usize| share(index.parts.len(), ranks, rank).contains(&part);
                (0..ranks).find(reads).unwrap_or(0)
            };
            let holder = |part: usize| {
                let reader = reader(part);
                let mut holders = [reader].into_iter().chain(0..ranks);
                Some((part, holders.find(|&rank| holds(rank, Some(part)))?, reader))
            };
            let ways: Option<Vec<Way>> = (0..index.parts.len()).map(holder).collect();
            let Some(ways) = ways else { continue }; // a rank was lost with its partner
            let checked = state.check(comm, &index.items);
            let checked = checked.map_err(|why| Failure::new(format!("{NAME}: {why}")));
            comm.agree_on_outcome(call("restore", at), checked)?;
            self.fetch(comm, &index, &ways)?;
            let open = |number: usize| {
                let bytes = self.find(commit).and_then(|held| held.part(number));
                PartReader::of_memory(
                    bytes.unwrap_or_default(),
                    commit,
                    number,
                    index.parts[number],
                )
            };
            match load_parts(comm, NAME, &index, state, at, open)? {
                Ok(()) => {
                    self.hold_only(comm, commit);
                    return Ok(Found::Commit);
                }
                Err(why) => complaints.push(why),
            }
        }
        if complaints.is_empty() {
            return Ok(Found::Nothing);
        }
        let what = format!("{NAME}: {}", complaints.join("; "));
        if comm.rank() == 0 {
            log::warn!("{what}");
        }
        Ok(Found::Damaged(what))
    }

    /// Brings parts from those that hold them to those that are to hold or read them.
    fn fetch(&mut self, comm: &Comm, index: &Index, ways: &[Way]) -> Result<(), Failure> {
        let away = || ways.iter().filter(|(_, holder, reader)| holder != reader);
        let mut sends = Vec::new();
        for &(part, _, reader) in away().filter(|(_, holder, _)| *holder == comm.rank()) {
            let bytes = self.find(index.id).and_then(|held| held.part(part)).unwrap_or_default();
            sends.push(comm.isend(bytes.to_vec(), (reader, part as u32))?);
        }
        for &(part, holder, _) in away().filter(|(_, _, reader)| *reader == comm.rank()) {
            let (bytes, _) = comm.recv::<u8>((holder, part as u32))?;
            let bytes = Arc::new(bytes);
            match self.held.iter_mut().find(|held| held.index.id == index.id) {
                Some(held) => held.parts.push((part, bytes)),
                None => {
                    self.held.push(Held { index: index.clone(), parts: vec![(part, bytes)] });
                }
            }
        }
        sends.into_iter().try_for_each(|send| send.wait().map(drop))?;
        Ok(())
    }
}

/// A part, who holds it, and who is to have it.
type Way = (usize, usize, usize);

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{panic::Location, sync::Mutex};

    use super::*;
    use crate::array::DistVec;

    /// What the ranks have at a commit, one behind the other.
    fn values(ranks: u64, commit: u64) -> Vec<u64> {
        (0..ranks).flat_map(|rank| vec![10 * commit + rank; 3 + rank as usize]).collect()
    }

    /// What ranks hold after three commits.
    fn kept(ranks: usize, shift: usize, by_message: bool) -> Vec<Vault> {
        let vaults = crate::local(ranks, |world| {
            let (mut vault, at) = (Vault::default(), Location::caller());
            for commit in 1..=3 {
                let own = vec![10 * commit + world.rank() as u64; 3 + world.rank()];
                let mut items = DistVec::new(world, own)?;
                let mut state = State::new().items("items", &mut items);
                let shelf = world.shelf(call("commit", at))?.filter(|_| !by_message);
                vault.keep_with(world, shift, commit, &mut state, shelf.as_deref(), at)?;
            }
            Ok(vault)
        });
        vaults.unwrap()
    }

    /// What the ranks that are left restore.
    fn restored(vaults: Vec<Vault>, lost: &[usize]) -> Option<Vec<u64>> {
        let left = vaults.into_iter().enumerate().filter(|(rank, _)| !lost.contains(rank));
        let left: Vec<_> = left.map(|(_, vault)| Mutex::new(vault)).collect();
        let all = crate::local(left.len(), |world| {
            let mut items = DistVec::new(world, Vec::new())?;
            let mut state = State::new().items("items", &mut items);
            let mut vault = std::mem::take(&mut *left[world.rank()].lock().unwrap());
            let found = vault.restore(world, &mut state, Location::caller())?;
            drop(state);
            Ok(matches!(found, Found::Commit).then(|| items.local().to_vec()))
        });
        all.unwrap().into_iter().collect::<Option<Vec<_>>>().map(|all| all.concat())
    }

    #[test]
    fn a_lost_rank_is_made_up_for_by_another() {
        for by_message in [false, true] {
            for lost in 0..4 {
                assert_eq!(restored(kept(4, 1, by_message), &[lost]), Some(values(4, 3)));
            }
            assert_eq!(restored(kept(4, 1, by_message), &[1, 2]), None);
        }
    }

    #[test]
    fn who_leaves_hands_over_what_nobody_else_holds() {
        for (ranks, left, shift) in
            [(4, 2, 1), (4, 1, 1), (4, 2, 2), (5, 3, 1), (3, 3, 1), (1, 1, 0)]
        {
            let vaults: Vec<_> = kept(ranks, shift, true).into_iter().map(Mutex::new).collect();
            crate::local(ranks, |world| {
                vaults[world.rank()].lock().unwrap().hand_over(world, left)?;
                Ok(())
            })
            .unwrap();
            let vaults: Vec<_> =
                vaults.into_iter().map(|vault| vault.into_inner().unwrap()).collect();
            let leave: Vec<usize> = (left..ranks).collect();
            let all = Some(values(ranks as u64, 3));
            assert_eq!(restored(vaults, &leave), all, "{ranks} to {left}, shift {shift}");
        }
    }

    #[test]
    fn ranks_that_are_threads_hold_the_same_memory() {
        for by_message in [false, true] {
            let vaults = kept(3, 1, by_message);
            for part in 0..3 {
                let find = |vault: &Vault| {
                    let parts = &vault.held[0].parts;
                    parts.iter().find(|(number, _)| *number == part).map(|(_, bytes)| bytes.clone())
                };
                let [one, other] =
                    vaults.iter().filter_map(find).collect::<Vec<_>>().try_into().unwrap();
                assert_eq!(one, other);
                assert_eq!(Arc::ptr_eq(&one, &other), !by_message);
            }
            // The memory of the commit before is there for the next.
            let spare = if by_message { 2 } else { 1 };
            for mut vault in vaults {
                assert_eq!((vault.held.len(), vault.spare.len()), (1, spare));
                assert_ne!(vault.room().capacity(), 0);
            }
        }
    }

    #[test]
    fn ranks_of_a_host_may_be_lost_together() {
        // Two hosts of two ranks each.
        let shift = shift_to_other_hosts(&[0, 0, 1, 1]);
        for by_message in [false, true] {
            for lost in [[0, 1], [2, 3]] {
                assert_eq!(restored(kept(4, shift, by_message), &lost), Some(values(4, 3)));
            }
        }
        assert_eq!(restored(kept(4, 1, false), &[0, 1]), None);
    }

    #[test]
    fn the_partner_is_on_another_host_where_there_are_several() {
        let cases: [(&[u32], usize); 9] = [
            (&[0], 0),
            (&[0, 0, 0], 1),
            (&[0, 1], 1),
            (&[0, 0, 1, 1], 2),
            (&[0, 1, 0, 1], 1),
            (&[0, 0, 1], 1),
            (&[0, 0, 0, 1], 1), // nothing saves a host that has most of the ranks
            (&[0, 0, 0, 0, 1, 1, 1, 1], 4),
            (&[3, 3, 1, 1, 2, 2, 0, 0], 2),
        ];
        for (hosts, shift) in cases {
            assert_eq!(shift_to_other_hosts(hosts), shift, "{hosts:?}");
        }
        assert_eq!(shift_to_other_hosts(&[0, 1, 0, 1, 0, 1, 0, 1]), 1);
    }
}
