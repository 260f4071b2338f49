//! What a program keeps: named arrays and values.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

use super::format::{Described, ElementType, PartReader, PartWriter, What, record_size};
use crate::{
    array::{Axes, Block, DistArray, DistVec},
    comm::{Comm, pack, unpack},
    datum::{Datum, Landing, bytes_of},
    error::Failure,
    io::FileError,
};

/// The state of a program: what it must know to go on, each part by its name.
///
/// The same function makes it to be kept and to be restored, on any number of ranks:
/// ```
/// use spmd::{array::DistArray, io::State};
/// fn state<'a>(field: &'a mut DistArray<f64, 2>, step: &'a mut u32) -> State<'a> {
///     State::new().array("field", field).value("step", step)
/// }
/// ```
#[derive(Default)]
#[must_use = "a state is handed to a checkpoint"]
pub struct State<'a> {
    items: Vec<(String, Box<dyn Item + 'a>)>,
}

impl fmt::Debug for State<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.items.iter().map(|(name, _)| name)).finish()
    }
}

impl<'a> State<'a> {
    /// Nothing so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// An array on the ranks of the checkpoint's communicator, in any layout: its cells, not its
    /// halo.
    pub fn array<T: Datum + Default, const D: usize>(
        self,
        name: &str,
        array: &'a mut DistArray<T, D>,
    ) -> Self
    where
        [usize; D]: Axes,
    {
        self.with(name, ArrayItem { array })
    }

    /// A distributed vector on the ranks of the checkpoint's communicator. On as many ranks each
    /// gets its own items again; else those of the ranks in whose place it stands, in the global
    /// order: to where they belong they go by [`migrate`](DistVec::migrate) or
    /// [`rebalance`](DistVec::rebalance).
    pub fn items<T: Datum + Default>(self, name: &str, items: &'a mut DistVec<T>) -> Self {
        self.with(name, Items { items, found: Vec::new() })
    }

    /// A value that is the same on all ranks, as the number of the step is.
    pub fn value<T: Serialize + DeserializeOwned>(self, name: &str, value: &'a mut T) -> Self {
        self.with(name, Common { value })
    }

    /// A value of each rank. On as many ranks each gets its own again; else it gets what `merge`
    /// makes of the values of the ranks in whose place it stands: none, one or several neighbours,
    /// in order.
    pub fn per_rank<T: Serialize + DeserializeOwned>(
        self,
        name: &str,
        value: &'a mut T,
        merge: impl Fn(Vec<T>) -> T + 'a,
    ) -> Self {
        self.with(name, PerRank { value, packed: Vec::new(), merge, found: Vec::new() })
    }

    /// What the problem is: a value that must be what it was for the program to go on from a
    /// checkpoint.
    pub fn constant<T: Serialize>(self, name: &str, value: &T) -> Self {
        self.with(name, Constant { packed: pack(value).map_err(|why| why.to_string()) })
    }

    fn with(mut self, name: &str, item: impl Item + 'a) -> Self {
        self.items.push((name.to_owned(), Box::new(item)));
        self
    }

    /// What it is, and how many bytes this rank has of it.
    pub(super) fn describe(&mut self, comm: &Comm) -> Result<(Vec<Described>, u64), Failure> {
        let mut bytes = 0_u64;
        let mut all: Vec<Described> = Vec::new();
        for (name, item) in &mut self.items {
            if all.iter().any(|other| other.name == *name) {
                return Err(format!("the state has two parts of the name {name:?}").into());
            }
            let what =
                item.describe(comm).map_err(|why| format!("{name:?} of the state: {why}"))?;
            bytes = bytes.saturating_add(item.bytes().map_or(0, record_size));
            all.push(Described { name: name.clone(), what });
        }
        Ok((all, bytes))
    }

    /// Writes what this rank has of it.
    pub(super) fn write(&mut self, part: &mut PartWriter) -> Result<(), FileError> {
        self.items.iter_mut().try_for_each(|(_, item)| item.write(part))
    }

    /// Whether what was kept can become this one, in words.
    pub(super) fn check(&mut self, comm: &Comm, kept: &[Described]) -> Result<(), String> {
        for Described { name, what } in kept {
            if !self.items.iter().any(|(mine, _)| mine == name) {
                return Err(format!(
                    "it has {} of the name {name:?}, which the program has not",
                    what.kind()
                ));
            }
        }
        for (name, item) in &mut self.items {
            let Some(Described { what, .. }) = kept.iter().find(|other| other.name == *name) else {
                return Err(format!("it has nothing of the name {name:?}"));
            };
            let mine = item.describe(comm)?;
            if mine.kind() != what.kind() {
                return Err(format!("{name:?} is {} there, and {} here", what.kind(), mine.kind()));
            }
            item.check(what).map_err(|why| format!("{name:?} {why}"))?;
        }
        Ok(())
    }

    /// Takes what is in one part of each rank, `holds` says which (see [`Round`]). Collective; an
    /// error of a file is the same on all ranks.
    pub(super) fn load(
        &mut self,
        kept: &[Described],
        round: &Round<'_>,
        mut part: Option<&mut PartReader<'_>>,
    ) -> Result<Result<(), String>, Failure> {
        // In the order in which it was written.
        for Described { name, what } in kept {
            let Some((_, item)) = self.items.iter_mut().find(|(mine, _)| mine == name) else {
                continue; // `check` has found that there is none
            };
            if let Err(why) = item.load(what, round, part.as_deref_mut())? {
                return Ok(Err(why));
            }
        }
        Ok(Ok(()))
    }

    /// Sets the values, when all parts have been taken; `same` says whether there are as many ranks
    /// as there were.
    pub(super) fn settle(&mut self, kept: &[Described], same: bool) -> Result<(), String> {
        for (name, item) in &mut self.items {
            if let Some(Described { what, .. }) = kept.iter().find(|other| other.name == *name) {
                item.settle(what, same).map_err(|why| format!("{name:?}: {why}"))?;
            }
        }
        Ok(())
    }
}

/// The parts that are read at the same time.
pub(super) struct Round<'a> {
    pub(super) comm: &'a Comm,
    /// The part that each rank reads.
    pub(super) parts: &'a [Option<usize>],
}

impl Round<'_> {
    /// Makes all ranks know whether one has failed, and why.
    pub(super) fn agree<R>(
        &self,
        outcome: Result<R, FileError>,
    ) -> Result<Result<R, String>, Failure> {
        let words = outcome.as_ref().err().map(ToString::to_string);
        let all = self.comm.allgather_obj(&words)?;
        Ok(match all.into_iter().flatten().next() {
            Some(why) => Err(why),
            None => outcome.map_err(|error| error.to_string()),
        })
    }
}

/// A named part of the state.
trait Item {
    /// What it is.
    fn describe(&mut self, comm: &Comm) -> Result<What, String>;

    /// How many bytes this rank has of it in its part, if anything.
    fn bytes(&self) -> Option<u64> {
        None
    }

    fn write(&mut self, _part: &mut PartWriter) -> Result<(), FileError> {
        Ok(())
    }

    /// Whether what was kept, which is of the same kind, can become this one.
    fn check(&self, _kept: &What) -> Result<(), String> {
        Ok(())
    }

    /// Takes what is in one part of each rank.
    fn load(
        &mut self,
        _kept: &What,
        _round: &Round<'_>,
        _part: Option<&mut PartReader<'_>>,
    ) -> Result<Result<(), String>, Failure> {
        Ok(Ok(()))
    }

    /// All parts have been taken.
    fn settle(&mut self, _kept: &What, _same: bool) -> Result<(), String> {
        Ok(())
    }
}

struct ArrayItem<'a, T: Datum, const D: usize>
where
    [usize; D]: Axes,
{
    array: &'a mut DistArray<T, D>,
}

/// What lies on ranks lies on those of the checkpoint.
fn on_the_same(comm: &Comm, own: &Comm) -> Result<(), String> {
    if (own.size(), own.rank()) == (comm.size(), comm.rank()) {
        return Ok(());
    }
    let (own, all) = (own.size(), comm.size());
    Err(format!(
        "it lies on {own} ranks, and the checkpoint is of {all}; make both on the same communicator"
    ))
}

/// Lengths as they stand in a file.
fn words(lengths: &[usize]) -> Vec<u64> {
    lengths.iter().map(|&length| length as u64).collect()
}

/// Lengths of `D` axes, if there are so many and they can be counted here.
fn lengths<const D: usize>(words: &[u64]) -> Option<[usize; D]> {
    let lengths: Option<Vec<usize>> =
        words.iter().map(|&word| usize::try_from(word).ok()).collect();
    lengths?.try_into().ok()
}

/// The blocks of an array of this shape that stand in an index, if they are such blocks.
fn blocks<const D: usize>(
    shape: [usize; D],
    kept: &[(Vec<u64>, Vec<u64>)],
) -> Option<Vec<Block<D>>> {
    let mut cells = 0_usize;
    let mut blocks = Vec::new();
    for (start, lens) in kept {
        let (start, lens) = (lengths::<D>(start)?, lengths::<D>(lens)?);
        let inside = (0..D)
            .all(|axis| start[axis].checked_add(lens[axis]).is_some_and(|end| end <= shape[axis]));
        if !inside {
            return None;
        }
        let block = Block::new(start, lens);
        cells = cells.checked_add(block.len())?;
        blocks.push(block);
    }
    (cells == Block::whole(shape).len()).then_some(blocks)
}

impl<T: Datum + Default, const D: usize> Item for ArrayItem<'_, T, D>
where
    [usize; D]: Axes,
{
    fn describe(&mut self, comm: &Comm) -> Result<What, String> {
        on_the_same(comm, self.array.comm())?;
        let layout = self.array.layout();
        let block = |rank| {
            let block = layout.block(rank);
            (words(&block.start()), words(&block.shape()))
        };
        Ok(What::Array {
            element: ElementType::of::<T>(),
            shape: words(&layout.shape()),
            blocks: (0..comm.size()).map(block).collect(),
        })
    }

    fn bytes(&self) -> Option<u64> {
        Some((self.array.block().len() as u64).saturating_mul(size_of::<T>() as u64))
    }

    fn write(&mut self, part: &mut PartWriter) -> Result<(), FileError> {
        let bytes = self.bytes().unwrap_or(0);
        let cells = self.array.view();
        part.record(bytes, |put| {
            if let Some(cells) = cells.as_slice() {
                return put(bytes_of(cells));
            }
            cells.rows().into_iter().try_for_each(|row| match row.as_slice() {
                Some(row) => put(bytes_of(row)),
                None => row.iter().try_for_each(|cell| put(bytes_of(std::slice::from_ref(cell)))),
            })
        })
    }

    fn check(&self, kept: &What) -> Result<(), String> {
        let What::Array { element, shape, .. } = kept else { return Ok(()) };
        let tell = |shape: &[u64], element: &ElementType| {
            let shape: Vec<String> = shape.iter().map(ToString::to_string).collect();
            format!("an array of {} of {}", shape.join(" x "), element.name)
        };
        let (mine, own) = (words(&self.array.shape()), ElementType::of::<T>());
        if (shape, element) != (&mine, &own) {
            let (there, here) = (tell(shape, element), tell(&mine, &own));
            return Err(format!("is {there} there, and {here} here"));
        }
        Ok(())
    }

    fn load(
        &mut self,
        kept: &What,
        round: &Round<'_>,
        part: Option<&mut PartReader<'_>>,
    ) -> Result<Result<(), String>, Failure> {
        let What::Array { blocks: kept, .. } = kept else { return Ok(Ok(())) };
        // The same on all ranks: rank 0 has read the index.
        let Some(blocks) = blocks(self.array.shape(), kept) else {
            return Ok(Err("the index tells of blocks that are not those of the array".to_owned()));
        };
        let number = round.parts[round.comm.rank()];
        let mine = number.and_then(|number| blocks.get(number).copied());
        let read = match (mine, part) {
            (Some(block), Some(part)) => {
                read_values(part, Some(block.len())).map(|cells| Some((block, cells)))
            }
            _ => Ok(None),
        };
        let own = match round.agree(read)? {
            Ok(own) => own,
            Err(why) => return Ok(Err(why)),
        };
        let holders = round.parts.iter().enumerate();
        let from: Vec<(usize, Block<D>)> =
            holders.filter_map(|(rank, part)| Some((rank, *blocks.get((*part)?)?))).collect();
        let own = own.as_ref().map(|(block, cells)| (*block, &cells[..]));
        self.array.take_blocks(round.comm, &from, own)?;
        Ok(Ok(()))
    }
}

/// The values of the record that comes next, which is to have so many if that is known.
fn read_values<T: Datum>(
    part: &mut PartReader<'_>,
    count: Option<usize>,
) -> Result<Vec<T>, FileError> {
    let (bytes, each) = (part.next_len()?, size_of::<T>() as u64);
    let held = bytes.checked_div(each).and_then(|count| usize::try_from(count).ok());
    let count = count.or(held).unwrap_or(0);
    if (count as u64).checked_mul(each) != Some(bytes) {
        return Err(part
            .damaged(format!("a record of {bytes} bytes does not have {count} values of {each}")));
    }
    let mut landing = Landing::<T>::new(count).map_err(|_| part.too_large(vec![count]))?;
    part.rest_into(landing.bytes_mut())?;
    landing.into_values(count).map_err(|why| part.damaged(why.to_string()))
}

struct Items<'a, T: Datum + Default> {
    items: &'a mut DistVec<T>,
    /// What has come for this rank.
    found: Vec<T>,
}

impl<T: Datum + Default> Item for Items<'_, T> {
    fn describe(&mut self, comm: &Comm) -> Result<What, String> {
        on_the_same(comm, self.items.comm())?;
        self.found.clear(); // of a checkpoint that was damaged
        Ok(What::Items(ElementType::of::<T>()))
    }

    fn bytes(&self) -> Option<u64> {
        Some(bytes_of(self.items.local()).len() as u64)
    }

    fn write(&mut self, part: &mut PartWriter) -> Result<(), FileError> {
        let bytes = bytes_of(self.items.local());
        part.record(bytes.len() as u64, |put| put(bytes))
    }

    fn check(&self, kept: &What) -> Result<(), String> {
        match (kept, ElementType::of::<T>()) {
            (What::Items(element), own) if *element != own => {
                Err(format!("has items of {} there, and of {} here", element.name, own.name))
            }
            _ => Ok(()),
        }
    }

    fn load(
        &mut self,
        _kept: &What,
        round: &Round<'_>,
        part: Option<&mut PartReader<'_>>,
    ) -> Result<Result<(), String>, Failure> {
        let read = part.map(|part| read_values::<T>(part, None)).transpose();
        Ok(round.agree(read)?.map(|items| self.found.extend(items.unwrap_or_default())))
    }

    fn settle(&mut self, _kept: &What, _same: bool) -> Result<(), String> {
        *self.items.local_mut() = std::mem::take(&mut self.found);
        Ok(())
    }
}

struct Common<'a, T> {
    value: &'a mut T,
}

impl<T: Serialize + DeserializeOwned> Item for Common<'_, T> {
    fn describe(&mut self, _comm: &Comm) -> Result<What, String> {
        pack(self.value).map(What::Common).map_err(|why| why.to_string())
    }

    fn settle(&mut self, kept: &What, _same: bool) -> Result<(), String> {
        if let What::Common(bytes) = kept {
            *self.value = unpack(bytes, 0).map_err(|why| why.to_string())?;
        }
        Ok(())
    }
}

struct Constant {
    packed: Result<Vec<u8>, String>,
}

impl Item for Constant {
    fn describe(&mut self, _comm: &Comm) -> Result<What, String> {
        self.packed.clone().map(What::Constant)
    }

    fn check(&self, kept: &What) -> Result<(), String> {
        match (kept, &self.packed) {
            (What::Constant(kept), Ok(mine)) if kept != mine => {
                Err("has another value there than here".to_owned())
            }
            _ => Ok(()),
        }
    }
}

struct PerRank<'a, T, M> {
    value: &'a mut T,
    packed: Vec<u8>,
    merge: M,
    /// What has come for this rank.
    found: Vec<T>,
}

impl<T: Serialize + DeserializeOwned, M: Fn(Vec<T>) -> T> Item for PerRank<'_, T, M> {
    fn describe(&mut self, _comm: &Comm) -> Result<What, String> {
        self.packed = pack(self.value).map_err(|why| why.to_string())?;
        self.found.clear(); // of a checkpoint that was damaged
        Ok(What::PerRank)
    }

    fn bytes(&self) -> Option<u64> {
        Some(self.packed.len() as u64)
    }

    fn write(&mut self, part: &mut PartWriter) -> Result<(), FileError> {
        part.record(self.packed.len() as u64, |put| put(&self.packed))
    }

    fn load(
        &mut self,
        _kept: &What,
        round: &Round<'_>,
        part: Option<&mut PartReader<'_>>,
    ) -> Result<Result<(), String>, Failure> {
        let read = part.map(|part| {
            let bytes = part.next_len()?;
            let bytes = part.rest_of_record(bytes)?;
            unpack(&bytes, 0).map_err(|why| part.damaged(why.to_string()))
        });
        Ok(round.agree(read.transpose())?.map(|value| self.found.extend(value)))
    }

    fn settle(&mut self, _kept: &What, same: bool) -> Result<(), String> {
        let mut found = std::mem::take(&mut self.found);
        *self.value = match found.pop() {
            Some(own) if same => own,
            last => {
                found.extend(last);
                (self.merge)(found)
            }
        };
        Ok(())
    }
}
