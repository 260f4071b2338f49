//! Items that belong to no place of an array: particles, keys.

use std::{fmt, panic::Location, rc::Rc, slice};

use crate::{
    comm::{Comm, Partition, Ragged, Sum},
    datum::Datum,
    error::{ErrorKind, Result},
};

/// A vector whose parts lie on the ranks of a communicator, of any length on each: particles that
/// go to the rank in whose region they are, keys that go to the rank whose range they are in.
///
/// What does not say that it is collective looks at this rank's items only. The items of all ranks,
/// those of lower ranks first, are the whole in its *global order*.
///
/// # Examples
/// Particles move, and go to where they belong then:
/// ```
/// use spmd::{array::DistVec, random::Random};
/// #[derive(Clone, Copy, Default, spmd::bytemuck::NoUninit, spmd::bytemuck::AnyBitPattern)]
/// #[bytemuck(crate = "spmd::bytemuck")]
/// #[repr(C)]
/// struct Particle {
///     number: u64,
///     x: f64,
/// }
/// let after = spmd::local(4, |world| {
///     let (rank, size) = (world.rank() as u64, world.size());
///     let mine = (100 * rank..100 * (rank + 1)).map(|number| Particle { number, x: 0.5 });
///     let mut particles = DistVec::new(world, mine.collect())?;
///     for step in 0..10 {
///         for particle in &mut particles {
///             let mut random = Random::new(42).stream(step).at(particle.number);
///             particle.x = (particle.x + random.uniform()).fract();
///         }
///         particles.migrate(|particle| (particle.x * size as f64) as usize)?;
///     }
///     assert_eq!(particles.total_len()?, 400);
///     assert!(particles.iter().all(|particle| (particle.x * size as f64) as u64 == rank));
///     Ok(particles.len())
/// });
/// assert_eq!(after.unwrap().iter().sum::<usize>(), 400);
/// ```
pub struct DistVec<T: Datum + Default> {
    /// A message space of its own, shared with those made of this one.
    comm: Rc<Comm>,
    items: Vec<T>,
    room: Room<T>,
}

/// What `migrate` needs beside the items, kept for the next time.
struct Room<T> {
    /// Of each item.
    owners: Vec<usize>,
    rows: Ragged<T>,
    given: Vec<Announcement>,
    taken: Vec<Announcement>,
    counts: Vec<usize>,
}

/// What a rank says to another before items go: how many it has for it, or [`WRONG`] and the owner
/// that there is not.
type Announcement = [usize; 2];

const WRONG: usize = usize::MAX;

impl<T: Datum + Default> DistVec<T> {
    /// A vector of the items that each rank gives.
    ///
    /// # Collective
    /// All ranks of `comm`; one [`dup`](Comm::dup). A `clone` costs no message.
    #[track_caller]
    pub fn new(comm: &Comm, local: Vec<T>) -> Result<Self> {
        Ok(Self { comm: Rc::new(comm.dup()?), items: local, room: Room::default() })
    }

    /// The ranks on which it lies: a communicator with a message space of its own.
    pub fn comm(&self) -> &Comm {
        &self.comm
    }

    /// The number of items on this rank.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether this rank has no items.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The number of items on all ranks together.
    ///
    /// # Collective
    /// An allreduce of one number.
    #[track_caller]
    pub fn total_len(&self) -> Result<usize> {
        let at = Location::caller();
        self.comm.allreduce_one(self.items.len(), Sum).map_err(|error| error.called_at(at))
    }

    /// This rank's items.
    pub fn local(&self) -> &[T] {
        &self.items
    }

    /// This rank's items, to be changed, sorted, added and removed.
    pub fn local_mut(&mut self) -> &mut Vec<T> {
        &mut self.items
    }

    /// This rank's items, no longer a part of the whole.
    pub fn into_local(self) -> Vec<T> {
        self.items
    }

    /// This rank's items, one after the other.
    pub fn iter(&self) -> slice::Iter<'_, T> {
        self.items.iter()
    }

    /// This rank's items, one after the other, to be changed.
    pub fn iter_mut(&mut self) -> slice::IterMut<'_, T> {
        self.items.iter_mut()
    }

    /// Each item goes to the rank that `owner` names, which is asked once for each.
    ///
    /// What a rank has then is in the order of the ranks that it was on, and in the order there.
    ///
    /// # Collective
    /// Two alltoalls, one of 16 bytes for each rank and one of the items. All memory is used again:
    /// nothing is allocated once there have been as many items.
    ///
    /// # Errors
    /// Where `owner` names a rank that does not exist: [`ErrorKind::InvalidArgument`] there and
    /// [`ErrorKind::Elsewhere`] on all other ranks, and all items stay. What it holds after other
    /// errors is not specified.
    #[track_caller]
    pub fn migrate(&mut self, owner: impl FnMut(&T) -> usize) -> Result<()> {
        let at = Location::caller();
        let Self { comm, items, room } = self;
        let size = comm.size();
        room.owners.clear();
        room.owners.extend(items.iter().map(owner));
        let wrong = room.owners.iter().position(|&owner| owner >= size);
        room.given.clear();
        if let Some(item) = wrong {
            // Everyone hears of it, and nobody waits for what does not come.
            room.given.resize(size, [WRONG, room.owners[item]]);
        } else {
            room.rows.rebucket_known(items, size, &room.owners);
            room.given.extend(room.rows.counts().map(|count| [count, 0]));
        }
        room.taken.clear();
        room.taken.resize(size, [0; 2]);
        let told = comm.alltoall_into(&room.given, &mut room.taken);
        told.map_err(|error| error.called_at(at))?;
        let refuse = |why| Err(comm.refuse("migrate", why, at));
        if let Some(item) = wrong {
            let owner = room.owners[item];
            let what =
                format!("item {item} is for rank {owner}, there are ranks 0 to {}", size - 1);
            return refuse(ErrorKind::InvalidArgument { what });
        }
        if let Some(rank) = room.taken.iter().position(|&[count, _]| count == WRONG) {
            let owner = room.taken[rank][1];
            let cause = format!("an item is for rank {owner}, there are ranks 0 to {}", size - 1);
            return refuse(ErrorKind::Elsewhere { rank, cause });
        }
        room.counts.clear();
        room.counts.extend(room.taken.iter().map(|&[count, _]| count));
        let total = room.counts.iter().fold(0_usize, |sum, &count| sum.saturating_add(count));
        // The rows have all items that were here.
        items.clear();
        if items.try_reserve(total).is_err() {
            let what = format!("{total} items do not fit into this rank's memory");
            return refuse(ErrorKind::InvalidArgument { what });
        }
        items.resize(total, T::default());
        let moved = comm.alltoall_known_into(&room.rows, &room.counts, &mut items[..]);
        moved.map_err(|error| error.called_at(at))
    }

    /// Evens out the lengths: all ranks have equally many items then, give or take one, in the same
    /// global order.
    ///
    /// # Collective
    /// As [`Partition::partition`]: messages between those ranks only that have what others are to
    /// have.
    ///
    /// # Errors
    /// As [`Partition::partition`]; the vector is empty on this rank then.
    #[track_caller]
    pub fn rebalance(&mut self) -> Result<()> {
        let at = Location::caller();
        let items = std::mem::take(&mut self.items);
        self.items = self.comm.partition(items).map_err(|error| error.called_at(at))?;
        Ok(())
    }

    /// All items in their global order on rank `root`, `None` elsewhere.
    ///
    /// # Collective
    /// A gather.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRank`] if there is no rank `root`.
    #[track_caller]
    pub fn gather(&self, root: usize) -> Result<Option<Vec<T>>> {
        let at = Location::caller();
        let rows = self.comm.gather(root, &self.items).map_err(|error| error.called_at(at))?;
        Ok(rows.map(Ragged::into_flat))
    }
}

impl<T> Default for Room<T> {
    fn default() -> Self {
        Self {
            owners: Vec::new(),
            rows: Ragged::default(),
            given: Vec::new(),
            taken: Vec::new(),
            counts: Vec::new(),
        }
    }
}

impl<T: Datum + Default> Clone for DistVec<T> {
    fn clone(&self) -> Self {
        Self { comm: Rc::clone(&self.comm), items: self.items.clone(), room: Room::default() }
    }

    fn clone_from(&mut self, source: &Self) {
        self.comm = Rc::clone(&source.comm);
        self.items.clone_from(&source.items);
    }
}

/// This rank's items.
impl<T: Datum + Default + fmt::Debug> fmt::Debug for DistVec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.items).finish()
    }
}

impl<'v, T: Datum + Default> IntoIterator for &'v DistVec<T> {
    type Item = &'v T;
    type IntoIter = slice::Iter<'v, T>;

    fn into_iter(self) -> slice::Iter<'v, T> {
        self.iter()
    }
}

impl<'v, T: Datum + Default> IntoIterator for &'v mut DistVec<T> {
    type Item = &'v mut T;
    type IntoIter = slice::IterMut<'v, T>;

    fn into_iter(self) -> slice::IterMut<'v, T> {
        self.iter_mut()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use arbtest::arbitrary::{Result as Made, Unstructured};

    use super::*;

    /// What happens to a vector; numbers by which items are chosen.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Migrate(u64),
        Rebalance,
        Sort,
        Remove(u64),
        Double,
    }

    fn step(u: &mut Unstructured<'_>) -> Made<Step> {
        Ok(match u.int_in_range(0..=6)? {
            0 => Step::Rebalance,
            1 => Step::Sort,
            2 => Step::Remove(u.int_in_range(1..=5)?),
            3 => Step::Double,
            _ => Step::Migrate(u.int_in_range(1..=u64::MAX)?),
        })
    }

    fn owner(item: [u64; 2], salt: u64, ranks: usize) -> usize {
        let mixed = (item[0] ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        // Some salts leave most ranks with nothing.
        let few = ranks.min(1 + (salt % 8) as usize);
        mixed as usize % few
    }

    /// What a rank does with its items by itself.
    fn alone(part: &mut Vec<[u64; 2]>, step: Step) {
        match step {
            Step::Sort => part.sort_unstable(),
            Step::Remove(nth) => part.retain(|item| !item[0].is_multiple_of(nth)),
            Step::Double => part.extend_from_within(..),
            Step::Migrate(_) | Step::Rebalance => {}
        }
    }

    /// The same with the parts of all ranks in one place.
    fn follow(parts: &mut [Vec<[u64; 2]>], step: Step) {
        let ranks = parts.len();
        match step {
            Step::Migrate(salt) => {
                let all = parts.concat();
                for (rank, part) in parts.iter_mut().enumerate() {
                    let mine = |item: &[u64; 2]| owner(*item, salt, ranks) == rank;
                    *part = all.iter().copied().filter(mine).collect();
                }
            }
            Step::Rebalance => {
                // An item goes to the rank in whose share of the whole its middle lies.
                let all = parts.concat();
                parts.iter_mut().for_each(Vec::clear);
                for (at, &item) in all.iter().enumerate() {
                    parts[(2 * at + 1) * ranks / (2 * all.len())].push(item);
                }
            }
            Step::Sort | Step::Remove(_) | Step::Double => {
                for part in parts {
                    alone(part, step);
                }
            }
        }
    }

    #[test]
    fn any_number_of_ranks_does_what_one_does_with_all_parts() {
        arbtest::arbtest(|u| {
            let ranks = *u.choose(&[1, 2, 3, 5, 8])?;
            let mut parts = Vec::new();
            for _ in 0..ranks {
                let len = *u.choose(&[0, 1, 3, 30])?;
                let items = (0..len).map(|_| Ok([u.int_in_range(0..=1000)?, u.arbitrary()?]));
                parts.push(items.collect::<Made<Vec<_>>>()?);
            }
            let steps = (0..u.int_in_range(1..=6)?).map(|_| step(u)).collect::<Made<Vec<_>>>()?;
            let mut wanted = vec![parts.clone()];
            for &step in &steps {
                let mut next = wanted.last().cloned().unwrap_or_default();
                follow(&mut next, step);
                wanted.push(next);
            }
            let done = crate::local(ranks, |world| {
                let mut vector = DistVec::new(world, parts[world.rank()].clone())?;
                for (&step, wanted) in steps.iter().zip(&wanted[1..]) {
                    match step {
                        Step::Migrate(salt) => {
                            vector.migrate(|&item| owner(item, salt, world.size()))?;
                        }
                        Step::Rebalance => vector.rebalance()?,
                        Step::Sort | Step::Remove(_) | Step::Double => {
                            alone(vector.local_mut(), step);
                        }
                    }
                    assert_eq!(vector.local(), wanted[world.rank()], "{step:?} of {steps:?}");
                }
                let all = wanted[steps.len()].concat();
                assert_eq!(vector.total_len()?, all.len());
                let root = steps.len() % world.size();
                let gathered = vector.clone().gather(root)?;
                assert_eq!(gathered, (world.rank() == root).then_some(all));
                Ok(())
            });
            done.unwrap();
            Ok(())
        })
        .budget_ms(2_000);
    }

    #[test]
    fn lengths_are_even_after_a_rebalance() {
        for ranks in [1, 2, 3, 5, 8] {
            let lengths = crate::local(ranks, |world| {
                let last = world.rank() == world.size() - 1;
                let mut vector = DistVec::new(world, vec![1_u8; if last { 101 } else { 0 }])?;
                vector.rebalance()?;
                Ok(vector.len())
            });
            let lengths = lengths.unwrap();
            assert_eq!(lengths.iter().sum::<usize>(), 101);
            assert!(
                lengths.iter().all(|len| [101 / ranks, 101_usize.div_ceil(ranks)].contains(len))
            );
        }
    }

    #[test]
    fn an_owner_that_does_not_exist_is_an_error_on_all_ranks() {
        for (ranks, wrong) in [(1, vec![0]), (3, vec![2]), (5, vec![1, 3])] {
            let done = crate::local(ranks, |world| {
                let me = world.rank();
                let mut vector = DistVec::new(world, vec![[me, 0], [me, 1], [me, 2]])?;
                for nobody in [ranks, usize::MAX] {
                    let owner = |&[rank, nth]: &[usize; 2]| {
                        if nth == 1 && wrong.contains(&rank) {
                            nobody
                        } else {
                            (rank + nth) % ranks
                        }
                    };
                    let error = vector.migrate(owner).unwrap_err();
                    let line = line!() - 1;
                    let exist = format!("rank {nobody}, there are ranks 0 to {}", ranks - 1);
                    let words = if wrong.contains(&me) {
                        format!("migrate failed: item 1 is for {exist}")
                    } else {
                        format!("rank {} failed: an item is for {exist}", wrong[0])
                    };
                    assert!(error.to_string().contains(&words), "{error}");
                    assert_eq!((error.location().file(), error.location().line()), (file!(), line));
                    assert_eq!(vector.local(), [[me, 0], [me, 1], [me, 2]]);
                }
                vector.migrate(|_| 0)?;
                assert_eq!(vector.len(), if me == 0 { 3 * ranks } else { 0 });
                Ok(())
            });
            done.unwrap();
        }
    }

    #[test]
    fn items_go_round_and_round_in_the_same_memory() {
        let done = crate::local(3, |world| {
            let mut vector = DistVec::new(world, vec![world.rank() as u64; 1000])?;
            let to_the_right = (world.rank() + 1) % 3;
            vector.migrate(|_| to_the_right)?;
            let places = |vector: &DistVec<u64>| {
                let Room { owners, rows, given, taken, counts } = &vector.room;
                let rooms = [owners.as_ptr(), counts.as_ptr()];
                let told = [given.as_ptr(), taken.as_ptr()];
                (vector.items.as_ptr(), rows.flat().as_ptr(), rooms, told)
            };
            let before = places(&vector);
            for _ in 0..5 {
                vector.migrate(|_| to_the_right)?;
            }
            assert_eq!(places(&vector), before);
            assert_eq!(vector.local(), vec![world.rank() as u64; 1000]);
            Ok(())
        });
        done.unwrap();
    }
}
