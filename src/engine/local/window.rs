//! Windows (RMA): memory that other ranks reach, by relaxed atomic operations; locks are fair
//! (FIFO).
//!
//! A window is one block of 64-bit words for all ranks. All access through the engine is by atomic
//! operations on whole words (parts of words are exchanged inside them), so that whatever ranks do
//! at the same time has a meaning; phases and their agreements, a matter of the layer above, order
//! them. The owner's plain access happens only where no other is.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    collections::VecDeque,
    ptr::NonNull,
    sync::{Arc, atomic::AtomicU64},
};

use super::{
    LocalEngine,
    sync::{Mutex, Ordering, lock as hold},
};
use crate::{
    datum::LentWrite,
    engine::{Access, Builtin, Context, Element, Rank, Rma, WindowId, Windows, window::Update},
    error::{ErrorKind, Fault},
    placement::free_memory,
};

/// Every window begins here, and every part of one that is not shared.
const ALIGNMENT: usize = 64;
const WORD: usize = size_of::<u64>();

/// A window being opened or in use.
pub(super) struct Region {
    /// World ranks.
    ranks: Box<[usize]>,
    opening: Mutex<Opening>,
    locks: Box<[FairRwLock]>,
}

struct Opening {
    /// The bytes of each rank, as they come.
    sizes: Vec<Option<usize>>,
    /// Made by the last.
    memory: Option<Result<Arc<Memory>, Fault>>,
}

/// A rank's hold of a window.
pub(super) struct Window {
    region: Arc<Region>,
    memory: Arc<Memory>,
}

impl Windows for LocalEngine {
    fn open_window(
        &self,
        context: Context,
        seq: u64,
        bytes: usize,
        access: Access,
    ) -> Result<WindowId, Fault> {
        open(self, context, seq, bytes, access)
    }

    fn window_part(&self, window: WindowId, rank: Rank) -> Result<LentWrite, Fault> {
        part(self, window, rank)
    }

    fn access(
        &self,
        window: WindowId,
        target: Rank,
        offset: usize,
        what: Rma<'_>,
    ) -> Result<(), Fault> {
        access(self, window, target, offset, what)
    }

    fn lock_part(&self, window: WindowId, target: Rank, exclusive: bool) -> Result<(), Fault> {
        lock(self, window, target, exclusive)
    }

    fn unlock_part(&self, window: WindowId, target: Rank) -> Result<(), Fault> {
        unlock(self, window, target)
    }

    fn flush_window(&self, window: WindowId) -> Result<(), Fault> {
        flush(self, window)
    }

    /// The memory lives as long as some rank's engine, which the window holds.
    fn drop_window(&self, _window: WindowId) {}

    fn close_window(&self, window: WindowId) -> Result<(), Fault> {
        close(self, window)
    }
}

fn open(
    engine: &LocalEngine,
    context: Context,
    seq: u64,
    bytes: usize,
    access: Access,
) -> Result<WindowId, Fault> {
    engine.job.parking.check()?;
    let members = engine.members(context)?;
    let size = members.ranks.len();
    let make = || Region::new(&members.ranks);
    let region = engine.job.regions.join((members.context, seq), size, make);
    if region.enter(members.me.index(), bytes, access) {
        let others = members.ranks.iter().filter(|&&rank| rank != engine.rank);
        others.for_each(|&rank| engine.job.parking.wake(rank));
    }
    let made = || hold(&region.opening).memory.is_some();
    engine.await_ready(|| engine.call.get(), None, made)?;
    let memory = hold(&region.opening).memory.clone();
    let memory = memory.unwrap_or_else(|| Err(ErrorKind::Closed.into()))?;
    let mut windows = engine.windows.borrow_mut();
    windows.push(Some(Window { region, memory }));
    Ok(WindowId(windows.len() as u32 - 1))
}

/// Looks at a window.
fn with<R>(
    engine: &LocalEngine,
    WindowId(number): WindowId,
    look: impl FnOnce(&Window) -> Result<R, Fault>,
) -> Result<R, Fault> {
    let windows = engine.windows.borrow();
    windows
        .get(number as usize)
        .and_then(Option::as_ref)
        .map_or_else(|| Err(ErrorKind::Closed.into()), look)
}

fn part(engine: &LocalEngine, window: WindowId, rank: Rank) -> Result<LentWrite, Fault> {
    with(engine, window, |window| {
        let (start, bytes) = window.memory.part(rank.index())?;
        // SAFETY: the bytes are initialised (zero, or what ranks have written) and live until all
        // ranks have closed the window; that nobody else reaches them while their holder does is
        // seen to by whoever asks for them.
        Ok(unsafe { LentWrite::new(window.memory.start.as_ptr().add(start), bytes) })
    })
}

fn access(
    engine: &LocalEngine,
    window: WindowId,
    target: Rank,
    offset: usize,
    what: Rma<'_>,
) -> Result<(), Fault> {
    engine.job.parking.check()?;
    with(engine, window, |window| window.memory.access(target.index(), offset, what))
}

fn lock(
    engine: &LocalEngine,
    window: WindowId,
    target: Rank,
    exclusive: bool,
) -> Result<(), Fault> {
    engine.job.parking.check()?;
    let region = with(engine, window, |window| Ok(Arc::clone(&window.region)))?;
    let rwlock = region.locks.get(target.index()).ok_or(ErrorKind::Closed)?;
    if rwlock.enter(engine.rank, exclusive) {
        return Ok(());
    }
    let waited = engine.await_ready(|| engine.call.get(), None, || rwlock.holds(engine.rank));
    if waited.is_err() {
        rwlock.leave(engine.rank, |rank| engine.job.parking.wake(rank));
    }
    waited.map(drop)
}

fn unlock(engine: &LocalEngine, window: WindowId, target: Rank) -> Result<(), Fault> {
    with(engine, window, |window| {
        let rwlock = window.region.locks.get(target.index()).ok_or(ErrorKind::Closed)?;
        rwlock.leave(engine.rank, |rank| engine.job.parking.wake(rank));
        Ok(())
    })
}

/// Every access is complete when it returns, and whatever lets ranks agree makes it visible.
fn flush(engine: &LocalEngine, window: WindowId) -> Result<(), Fault> {
    with(engine, window, |_| Ok(()))
}

fn close(engine: &LocalEngine, WindowId(number): WindowId) -> Result<(), Fault> {
    let closed = engine.windows.borrow_mut().get_mut(number as usize).and_then(Option::take);
    closed.map(drop).ok_or_else(|| ErrorKind::Closed.into())
}

impl Region {
    fn new(ranks: &[usize]) -> Self {
        Self {
            ranks: ranks.into(),
            opening: Mutex::new(Opening { sizes: vec![None; ranks.len()], memory: None }),
            locks: ranks.iter().map(|_| FairRwLock::new()).collect(),
        }
    }

    /// Whether this rank was the last, and the memory is there.
    fn enter(&self, me: usize, bytes: usize, access: Access) -> bool {
        let mut opening = hold(&self.opening);
        opening.sizes[me] = Some(bytes);
        let sizes: Option<Vec<usize>> = opening.sizes.iter().copied().collect();
        if let Some(sizes) = sizes {
            debug_assert_eq!(sizes.len(), self.ranks.len());
            opening.memory = Some(Memory::new(sizes, access).map(Arc::new));
        }
        opening.memory.is_some()
    }
}

/// The memory of all ranks.
struct Memory {
    start: NonNull<u8>,
    layout: Layout,
    /// Where each rank's part begins, and its bytes.
    parts: Box<[(usize, usize)]>,
}

// SAFETY: the memory is reached by atomic operations, and by plain ones as `part` says.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(sizes: Vec<usize>, access: Access) -> Result<Self, Fault> {
        let wanted = sizes.iter().fold(0, |sum: u64, &bytes| sum.saturating_add(bytes as u64));
        let missing = || ErrorKind::NoRoom {
            rank: 0,
            wanted,
            free: free_memory(wanted),
            place: "memory".to_owned(),
        };
        let mut end = 0_usize;
        let mut parts = Vec::with_capacity(sizes.len());
        for bytes in sizes {
            if access == Access::Remote {
                end = end.checked_next_multiple_of(ALIGNMENT).ok_or_else(missing)?;
            }
            parts.push((end, bytes));
            end = end.checked_add(bytes).ok_or_else(missing)?;
        }
        let whole = end.max(1).checked_next_multiple_of(ALIGNMENT).ok_or_else(missing)?;
        let layout = Layout::from_size_align(whole, ALIGNMENT).map_err(|_| missing())?;
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(missing)?;
        Ok(Self { start, layout, parts: parts.into() })
    }

    fn part(&self, rank: usize) -> Result<(usize, usize), Fault> {
        self.parts.get(rank).copied().ok_or_else(|| ErrorKind::Closed.into())
    }

    /// The word that holds byte `at`.
    #[allow(
        clippy::cast_ptr_alignment,
        reason = "multiples of a word from a start that is aligned"
    )]
    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at < self.layout.size(), "access beyond the window");
        // SAFETY: the memory is a whole number of aligned, initialised words; this one lies inside.
        // While others may reach it, it is reached as an atomic word only.
        unsafe { &*self.start.as_ptr().add(at - at % WORD).cast::<AtomicU64>() }
    }

    fn access(&self, target: usize, offset: usize, what: Rma<'_>) -> Result<(), Fault> {
        let (start, bytes) = self.part(target)?;
        let place = |len: usize| {
            let inside = offset.checked_add(len).is_some_and(|end| end <= bytes);
            let beyond = || format!("bytes {offset} to {} of a part of {bytes}", offset + len);
            inside
                .then_some(start + offset)
                .ok_or_else(|| ErrorKind::InvalidArgument { what: beyond() })
        };
        match what {
            Rma::Put(bytes) => self.put(place(bytes.len())?, bytes),
            Rma::Get(into) => self.get(place(into.len())?, into),
            Rma::Accumulate { operand, update, element } => {
                let (at, size) = (place(operand.len())?, bytes_of(element));
                for (index, operand) in operand.chunks_exact(size).enumerate() {
                    let operand = bits(operand);
                    let change = |before| combine(element, before, operand, update);
                    self.change(at + index * size, size, change)?;
                }
            }
            Rma::FetchOp { operand, before, update, element } => {
                let (at, size) = (place(operand.len())?, bytes_of(element));
                let elements = operand.chunks_exact(size).zip(before.chunks_exact_mut(size));
                for (index, (operand, before)) in elements.enumerate() {
                    let operand = bits(operand);
                    let change = |before| combine(element, before, operand, update);
                    before.copy_from_slice(&self.change(at + index * size, size, change)?[..size]);
                }
            }
            Rma::CompareSwap { compare, swap, before, element } => {
                let (at, size) = (place(compare.len())?, bytes_of(element));
                let (compare, swap) = (bits(compare), bits(swap));
                let change = |before: Bits| if before == compare { swap } else { before };
                let found = self.change(at, size, change)?;
                before.copy_from_slice(&found[..size]);
            }
        }
        Ok(())
    }

    /// So many words from byte `at` on, where a word begins.
    fn words(&self, at: usize, count: usize) -> &[AtomicU64] {
        if count == 0 {
            return &[];
        }
        let first = self.word(at);
        self.word(at + count * WORD - 1);
        // SAFETY: the words lie side by side between the first and the last, which lie inside (see
        // `word`).
        unsafe { std::slice::from_raw_parts(first, count) }
    }

    fn put(&self, at: usize, bytes: &[u8]) {
        let (head, words, tail) = split(at, bytes.len());
        self.put_part(at, &bytes[..head]);
        let middle = &bytes[head..bytes.len() - tail];
        for (word, bytes) in self.words(at + head, words).iter().zip(middle.as_chunks().0) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        self.put_part(at + bytes.len() - tail, &bytes[bytes.len() - tail..]);
    }

    fn get(&self, at: usize, into: &mut [u8]) {
        let (head, words, tail) = split(at, into.len());
        let len = into.len();
        self.get_part(at, &mut into[..head]);
        let middle = &mut into[head..len - tail];
        for (word, bytes) in self.words(at + head, words).iter().zip(middle.as_chunks_mut().0) {
            *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        self.get_part(at + len - tail, &mut into[len - tail..]);
    }

    /// Changes a part of a word.
    fn put_part(&self, at: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let merge = |before: u64| {
            let mut merged = before.to_ne_bytes();
            merged[at % WORD..at % WORD + bytes.len()].copy_from_slice(bytes);
            Some(u64::from_ne_bytes(merged))
        };
        let _ = self.word(at).fetch_update(Ordering::Relaxed, Ordering::Relaxed, merge);
    }

    /// Reads a part of a word.
    fn get_part(&self, at: usize, into: &mut [u8]) {
        if !into.is_empty() {
            let word = self.word(at).load(Ordering::Relaxed).to_ne_bytes();
            into.copy_from_slice(&word[at % WORD..at % WORD + into.len()]);
        }
    }

    /// Replaces the element of `size` bytes at `at` atomically; gives what it was.
    fn change(&self, at: usize, size: usize, change: impl Fn(Bits) -> Bits) -> Result<Bits, Fault> {
        let within = at % WORD..at % WORD + size;
        if within.end > WORD {
            let what = "an element that is changed atomically lies at a multiple of its size";
            return Err(ErrorKind::InvalidArgument { what: what.to_owned() }.into());
        }
        let replace = |word: u64| {
            let mut bytes = word.to_ne_bytes();
            let after = change(bits(&bytes[within.clone()]));
            bytes[within.clone()].copy_from_slice(&after[..size]);
            Some(u64::from_ne_bytes(bytes))
        };
        let updated = self.word(at).fetch_update(Ordering::AcqRel, Ordering::Acquire, replace);
        let before = updated.unwrap_or_else(|word| word).to_ne_bytes();
        Ok(bits(&before[within]))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; the last rank that held the window lets go of it.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// `len` bytes from `at` on: the bytes before the first whole word, the whole words, and the bytes
/// behind them.
fn split(at: usize, len: usize) -> (usize, usize, usize) {
    let head = (at.next_multiple_of(WORD) - at).min(len);
    // A part of a word that ends before the word does is all head.
    let words = (len - head) / WORD;
    (head, words, len - head - words * WORD)
}

/// How many bytes an element has.
fn bytes_of(element: Element) -> usize {
    match element {
        Element::I8 | Element::U8 => 1,
        Element::I16 | Element::U16 => 2,
        Element::I32 | Element::U32 | Element::F32 => 4,
        Element::I64 | Element::U64 | Element::F64 => 8,
    }
}

/// The bytes of an element, then zeros.
type Bits = [u8; WORD];

fn bits(element: &[u8]) -> Bits {
    let mut bits = [0; WORD];
    bits[..element.len()].copy_from_slice(element);
    bits
}

/// What an element becomes. Integers wrap ctx; floating-point numbers have no bits to combine and
/// stay as they are.
fn combine(element: Element, before: Bits, operand: Bits, update: Update) -> Bits {
    let builtin = match update {
        Update::NoOp => return before,
        Update::Replace => return operand,
        Update::Combine(builtin) => builtin,
    };
    macro_rules! combined {
        ($number:ty, |$left:ident, $right:ident| $result:expr) => {{
            let number = |bits: Bits| {
                let mut bytes = [0; size_of::<$number>()];
                bytes.copy_from_slice(&bits[..size_of::<$number>()]);
                <$number>::from_ne_bytes(bytes)
            };
            let ($left, $right) = (number(before), number(operand));
            bits(&<$number>::to_ne_bytes($result))
        }};
    }
    macro_rules! integer {
        ($number:ty) => {
            combined!($number, |left, right| match builtin {
                Builtin::Sum => left.wrapping_add(right),
                Builtin::Prod => left.wrapping_mul(right),
                Builtin::Min => left.min(right),
                Builtin::Max => left.max(right),
                Builtin::And => left & right,
                Builtin::Or => left | right,
                Builtin::Xor => left ^ right,
            })
        };
    }
    macro_rules! float {
        ($number:ty) => {
            combined!($number, |left, right| match builtin {
                Builtin::Sum => left + right,
                Builtin::Prod => left * right,
                Builtin::Min => left.min(right),
                Builtin::Max => left.max(right),
                Builtin::And | Builtin::Or | Builtin::Xor => left,
            })
        };
    }
    match element {
        Element::I8 => integer!(i8),
        Element::I16 => integer!(i16),
        Element::I32 => integer!(i32),
        Element::I64 => integer!(i64),
        Element::U8 => integer!(u8),
        Element::U16 => integer!(u16),
        Element::U32 => integer!(u32),
        Element::U64 => integer!(u64),
        Element::F32 => float!(f32),
        Element::F64 => float!(f64),
    }
}

/// Who holds a part and who waits for it, in the order in which they came. Ranks are those of the
/// world.
struct FairRwLock(Mutex<Holders>);

struct Holders {
    inside: Vec<usize>,
    exclusive: bool,
    waiting: VecDeque<(usize, bool)>,
}

impl FairRwLock {
    fn new() -> Self {
        let (inside, waiting) = (Vec::new(), VecDeque::new());
        Self(Mutex::new(Holders { inside, exclusive: false, waiting }))
    }

    /// Comes in, or gets in line; whether `rank` is in.
    fn enter(&self, rank: usize, exclusive: bool) -> bool {
        let mut holders = hold(&self.0);
        holders.waiting.push_back((rank, exclusive));
        holders.admit();
        holders.inside.contains(&rank)
    }

    fn holds(&self, rank: usize) -> bool {
        hold(&self.0).inside.contains(&rank)
    }

    /// Goes out, or out of the line; tells those who may come in now.
    fn leave(&self, rank: usize, tell: impl Fn(usize)) {
        let mut holders = hold(&self.0);
        if let Some(at) = holders.inside.iter().position(|&inside| inside == rank) {
            holders.inside.swap_remove(at);
        } else {
            holders.waiting.retain(|&(waiting, _)| waiting != rank);
        }
        let admitted = holders.admit();
        drop(holders);
        admitted.into_iter().for_each(tell);
    }
}

impl Holders {
    /// Lets in who can be let in without overtaking anybody; says whom.
    fn admit(&mut self) -> Vec<usize> {
        let mut admitted = Vec::new();
        while let Some(&(rank, exclusive)) = self.waiting.front() {
            if !self.inside.is_empty() && (exclusive || self.exclusive) {
                break;
            }
            self.waiting.pop_front();
            self.inside.push(rank);
            self.exclusive = exclusive;
            admitted.push(rank);
        }
        admitted
    }
}
