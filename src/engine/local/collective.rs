//! Blocking collectives in this engine's own way: ranks read each other's bytes in their
//! [slots](super::coll_slots).
//!
//! Who only gives publishes its bytes and goes on (once what it has lent is free again); who takes
//! waits for the ranks whose bytes it needs and copies or combines them itself. Reductions go from
//! the highest rank to the lowest, so that what is combined is always `left` of all that is there:
//! an operator need be associative only, and all ranks get the same bits.
//!
//! SAFETY (1), of all that is published: it is borrowed for longer than the guard of the epoch
//! lives, and `run` drops the guard.

use super::{
    LocalEngine,
    coll_slots::{CollCall, EACH, EpochGuard, Payload, PeerData, Readers},
};
use crate::{
    engine::{Collective, CollectiveCall, Counts, Rank, Reduction},
    error::{ErrorKind, Fault},
};

/// What a reduction combines at a time: it stays in the first cache.
const BLOCK_BYTES: usize = 8 * 1024;

/// Where all ranks' contributions together are longer, a reduction for all is divided among the
/// ranks.
const DIVIDED_BYTES: usize = 16 * 1024;

/// From this length on, both of two ranks copy a broadcast.
const JOINT_BYTES: usize = 32 * 1024;

type Outcome = Result<(), Fault>;

pub(super) fn run(engine: &LocalEngine, call: &mut CollectiveCall<'_>) -> Option<Outcome> {
    let (kind, bytes) = (call.what.kind(), alike(&call.what)?);
    if call.size == 1 {
        call.what.make_alone();
        return Some(Ok(()));
    }
    let element_bytes = call.label.signature.size();
    let coll = CollCall { label: call.label, seq: call.seq, kind, bytes };
    let mut work = || {
        let members = engine.members(call.context)?;
        let member = members.member(engine);
        member.is_free(engine)?;
        // Where the rows begin that are published with a table; declared before the guard, so that
        // it outlives it.
        let table = table(&call.what, call.rank, call.size);
        let guard = &mut EpochGuard::new(member, engine, &coll);
        guard.await_room()?;
        match &mut call.what {
            Collective::Barrier => barrier(guard),
            Collective::Bcast { root, buffer } => bcast(guard, root.index(), buffer),
            Collective::Gather { root, mine, counts, out } => {
                gather(guard, root.index(), mine, counts, out)
            }
            Collective::Scatter { root, rows, out, .. } => {
                scatter(guard, root.index(), rows, &table, out)
            }
            Collective::Allgather { mine, counts, out } => allgather(guard, mine, counts, out),
            Collective::Alltoall { rows, out, recv_counts, .. } => {
                alltoall(guard, rows, &table, out, recv_counts)
            }
            Collective::Reduce { root, mine, out, with } => {
                reduce(guard, root.index(), mine, out, &Folding { with, element_bytes })
            }
            Collective::Allreduce { mine, out, with } => {
                allreduce(guard, mine, out, &Folding { with, element_bytes })
            }
            Collective::ReduceScatter { mine, counts, out, with } => {
                reduce_scatter(guard, mine, counts, out, &Folding { with, element_bytes })
            }
            Collective::Scan { mine, out, with } => {
                let me = guard.me();
                scan(guard, mine, me + 1, out, &Folding { with, element_bytes })
            }
            Collective::Exscan { mine, out, with } => {
                let me = guard.me();
                scan(guard, mine, me, out, &Folding { with, element_bytes })
            }
            Collective::NeighborAllgather { .. } | Collective::NeighborAlltoall { .. } => {
                Err(ErrorKind::Closed.into())
            }
        }
    };
    Some(work())
}

/// Where the rows begin that this rank publishes for each other one.
fn table(what: &Collective<'_>, me: Rank, ranks: usize) -> Starts {
    match what {
        // Only the root knows more than its own.
        Collective::Scatter { root, counts, .. } if *root == me => Starts::new(counts, ranks),
        Collective::Alltoall { send_counts, .. } => Starts::new(send_counts, ranks),
        _ => Starts::Equal(0),
    }
}

/// A length in bytes that all ranks must say alike. `None` for what goes by messages.
#[inline(always)]
fn alike(what: &Collective<'_>) -> Option<usize> {
    Some(match what {
        // Only neighbours know each other's rows, and each takes part in few of them.
        Collective::NeighborAllgather { .. } | Collective::NeighborAlltoall { .. } => return None,
        // Only the root knows whether all rows are equally long; each row's length is compared.
        Collective::Gather { .. } | Collective::Scatter { .. } => EACH,
        Collective::ReduceScatter { mine, .. } => mine.len(),
        what => what.alike().unwrap_or(EACH),
    })
}

/// Where each rank's bytes begin, and where the last end.
enum Starts {
    Equal(usize),
    Each(Vec<usize>),
}

impl Starts {
    fn new(counts: &Counts<'_>, ranks: usize) -> Self {
        match counts {
            Counts::Equal(bytes) => Self::Equal(*bytes),
            Counts::Each(_) | Counts::Same(_) => Self::Each(counts.starts(ranks)),
        }
    }

    fn of(&self, rank: usize) -> std::ops::Range<usize> {
        match self {
            Self::Equal(bytes) => rank * bytes..(rank + 1) * bytes,
            Self::Each(starts) => starts[rank]..starts[rank + 1],
        }
    }

    /// Rows that begin here.
    fn publish<'r>(&'r self, rows: &'r [u8]) -> Payload<'r> {
        match self {
            Self::Equal(_) => Payload::Rows(rows),
            Self::Each(starts) => Payload::Table(rows, starts),
        }
    }
}

/// The other ranks, from the next one on.
fn others(me: usize, size: usize) -> impl Iterator<Item = usize> + Clone {
    (me + 1..size).chain(0..me)
}

/// Dissemination (Hensgen, Finkel, Manber 1988): in round k every rank hears of the one 2ᵏ before.
fn barrier(guard: &mut EpochGuard<'_>) -> Outcome {
    let (me, size) = (guard.me(), guard.size());
    // SAFETY: (1).
    unsafe { guard.publish(Payload::Nothing, Readers::Nobody) };
    if guard.is_oversubscribed() {
        guard.await_peers()?;
        return guard.leave();
    }
    guard.await_peer(if me == 0 { size - 1 } else { me - 1 })?;
    let (mut round, mut distance) = (1, 2);
    while distance < size {
        guard.round(round, (me + size - distance) % size)?;
        round += 1;
        distance *= 2;
    }
    guard.assert_all_arrived();
    guard.leave()
}

fn bcast<'a>(guard: &mut EpochGuard<'a>, root: usize, buffer: &'a mut [u8]) -> Outcome {
    let me = guard.me();
    if guard.size() == 2 && !guard.is_oversubscribed() && buffer.len() >= JOINT_BYTES {
        return bcast_jointly(guard, root, buffer);
    }
    if me == root {
        // SAFETY: (1).
        unsafe { guard.publish(Payload::Rows(buffer), Readers::All) };
        guard.check_arrived()?;
    } else {
        // SAFETY: (1).
        unsafe { guard.publish(Payload::Nothing, Readers::Nobody) };
        guard.await_peer(root)?;
        guard.pin(std::iter::once(root))?;
        // SAFETY: the guard is alive and holds its pin.
        let bytes = unsafe { guard.peer(root).bytes(0, buffer.len()) };
        let bytes = bytes.ok_or_else(|| guard.disagreement(root, buffer.len(), None))?;
        buffer.copy_from_slice(bytes);
    }
    guard.leave()
}

/// Each of two ranks copies one half.
fn bcast_jointly<'a>(guard: &mut EpochGuard<'a>, root: usize, buffer: &'a mut [u8]) -> Outcome {
    let (me, len) = (guard.me(), buffer.len());
    let peer = 1 - me;
    let mine = buffer.as_mut_ptr();
    // SAFETY: (1); from here to the end of the epoch the buffer is reached through this pointer and
    // by the peer only.
    unsafe { guard.publish(Payload::Shared { rows: mine, room: mine, len }, Readers::One(peer)) };
    guard.await_peer(peer)?;
    guard.pin(std::iter::once(peer))?;
    let theirs = guard.peer(peer).room;
    let half = (len / 2).next_multiple_of(64);
    let (at, bytes) = if me == root { (0, half) } else { (half, len - half) };
    let (from, to) = if me == root { (mine, theirs) } else { (theirs, mine) };
    // SAFETY: both buffers have `len` bytes, as the calls have been compared; they are different
    // ranks' own; nobody writes the root's, and of the other one each rank writes its half. The pin
    // is held.
    unsafe { to.add(at).copy_from_nonoverlapping(from.add(at), bytes) };
    guard.leave_together()
}

/// Copies a row of another rank, which has been met and may be touched.
fn copy(guard: &EpochGuard<'_>, rank: usize, row: Option<&[u8]>, into: &mut [u8]) -> Outcome {
    match row {
        Some(row) if row.len() == into.len() => {
            into.copy_from_slice(row);
            Ok(())
        }
        other => Err(guard.disagreement(rank, into.len(), other.map(<[u8]>::len))),
    }
}

/// The whole of what a rank has published.
///
/// # Safety
/// As [`PeerData::bytes`].
unsafe fn whole<'s>(sight: PeerData) -> Option<&'s [u8]> {
    // SAFETY: by this function's own contract.
    unsafe { sight.bytes(0, sight.len()) }
}

fn gather<'a>(
    guard: &mut EpochGuard<'a>,
    root: usize,
    mine: &'a [u8],
    counts: &Counts<'_>,
    out: &mut [u8],
) -> Outcome {
    let (me, size) = (guard.me(), guard.size());
    if me != root {
        // SAFETY: (1).
        unsafe { guard.publish(Payload::Rows(mine), Readers::One(root)) };
        guard.check_arrived()?;
        return guard.leave();
    }
    // SAFETY: (1).
    unsafe { guard.publish(Payload::Nothing, Readers::Nobody) };
    let starts = Starts::new(counts, size);
    out[starts.of(me)].copy_from_slice(mine);
    for rank in others(me, size) {
        guard.await_peer(rank)?;
        guard.pin(std::iter::once(rank))?;
        // SAFETY: the guard is alive and holds its pin.
        let row = unsafe { whole(guard.peer(rank)) };
        copy(guard, rank, row, &mut out[starts.of(rank)])?;
        guard.unpin();
    }
    guard.leave()
}

fn scatter<'a>(
    guard: &mut EpochGuard<'a>,
    root: usize,
    rows: &'a [u8],
    starts: &'a Starts,
    out: &mut [u8],
) -> Outcome {
    let (me, size) = (guard.me(), guard.size());
    if me == root {
        // SAFETY: (1).
        unsafe { guard.publish(starts.publish(rows), Readers::All) };
        out.copy_from_slice(&rows[starts.of(me)]);
        guard.check_arrived()?;
        return guard.leave();
    }
    // SAFETY: (1).
    unsafe { guard.publish(Payload::Nothing, Readers::Nobody) };
    guard.await_peer(root)?;
    guard.pin(std::iter::once(root))?;
    let sight = guard.peer(root);
    // SAFETY: the guard is alive and holds its pin; a table has a row for every rank.
    let row = unsafe { sight.row_or_part(me, size) };
    copy(guard, root, row, out)?;
    guard.leave()
}

fn allgather<'a>(
    guard: &mut EpochGuard<'a>,
    mine: &'a [u8],
    counts: &Counts<'_>,
    out: &mut [u8],
) -> Outcome {
    let (me, size) = (guard.me(), guard.size());
    // SAFETY: (1).
    unsafe { guard.publish(Payload::Rows(mine), Readers::All) };
    let starts = Starts::new(counts, size);
    out[starts.of(me)].copy_from_slice(mine);
    guard.await_peers()?;
    guard.pin(others(me, size))?;
    for rank in others(me, size) {
        // SAFETY: the guard is alive and holds its pin.
        let row = unsafe { whole(guard.peer(rank)) };
        copy(guard, rank, row, &mut out[starts.of(rank)])?;
    }
    guard.leave()
}

fn alltoall<'a>(
    guard: &mut EpochGuard<'a>,
    rows: &'a [u8],
    send: &'a Starts,
    out: &mut [u8],
    recv_counts: &Counts<'_>,
) -> Outcome {
    let (me, size) = (guard.me(), guard.size());
    let recv = Starts::new(recv_counts, size);
    // SAFETY: (1).
    unsafe { guard.publish(send.publish(rows), Readers::All) };
    out[recv.of(me)].copy_from_slice(&rows[send.of(me)]);
    guard.await_peers()?;
    guard.pin(others(me, size))?;
    for rank in others(me, size) {
        let sight = guard.peer(rank);
        // SAFETY: the guard is alive and holds its pin; a table has a row for every rank.
        let row = unsafe { sight.row_or_part(me, size) };
        copy(guard, rank, row, &mut out[recv.of(rank)])?;
    }
    guard.leave()
}

/// How rows become one.
struct Folding<'r> {
    with: &'r Reduction<'r>,
    element_bytes: usize,
}

impl Folding<'_> {
    /// Combines the parts from byte `from` on of the rows of ranks 0 to `rows - 1`, at least one,
    /// into `out`.
    fn fold<'r>(
        &self,
        rows: usize,
        row: impl Fn(usize) -> &'r [u8],
        from: usize,
        out: &mut [u8],
    ) -> Outcome {
        let block = (BLOCK_BYTES / self.element_bytes).max(1) * self.element_bytes;
        let mut at = from;
        for out in out.chunks_mut(block) {
            let part = at..at + out.len();
            out.copy_from_slice(&row(rows - 1)[part.clone()]);
            for rank in (0..rows - 1).rev() {
                (self.with.fold)(&row(rank)[part.clone()], out)?;
            }
            at = part.end;
        }
        Ok(())
    }

    /// The share of `rank` in so many bytes: whole elements, and whole cache lines if elements fill
    /// them evenly.
    fn share(&self, bytes: usize, rank: usize, size: usize) -> std::ops::Range<usize> {
        let grain = if 64 % self.element_bytes == 0 { 64 } else { self.element_bytes };
        let share = bytes.div_ceil(size * grain) * grain;
        (rank * share).min(bytes)..((rank + 1) * share).min(bytes)
    }
}

/// What each rank has published, `mine` among them.
///
/// # Safety
/// The guard holds its pin on the ranks that are asked for, and does not end before the last use of
/// a row. All have been met and show as many bytes as `mine`.
unsafe fn rows_of<'v>(guard: &'v EpochGuard<'_>, mine: &'v [u8]) -> impl Fn(usize) -> &'v [u8] {
    move |rank| {
        if rank == guard.me() {
            return mine;
        }
        // SAFETY: by this function's own contract.
        unsafe { guard.peer(rank).bytes(0, mine.len()) }.unwrap_or_default()
    }
}

fn reduce<'a>(
    guard: &mut EpochGuard<'a>,
    root: usize,
    mine: &'a [u8],
    out: &mut [u8],
    with: &Folding<'_>,
) -> Outcome {
    let (me, size) = (guard.me(), guard.size());
    if me != root {
        // SAFETY: (1).
        unsafe { guard.publish(Payload::Rows(mine), Readers::One(root)) };
        guard.check_arrived()?;
        return guard.leave();
    }
    // SAFETY: (1).
    unsafe { guard.publish(Payload::Nothing, Readers::Nobody) };
    guard.await_peers()?;
    guard.pin(others(me, size))?;
    // SAFETY: the pin is held until the epoch is left; all have arrived, and equal calls publish
    // equally many bytes.
    with.fold(size, unsafe { rows_of(guard, mine) }, 0, out)?;
    guard.leave()
}

fn allreduce<'a>(
    guard: &mut EpochGuard<'a>,
    mine: &'a [u8],
    out: &'a mut [u8],
    with: &Folding<'_>,
) -> Outcome {
    let (me, size) = (guard.me(), guard.size());
    if mine.len() * size > DIVIDED_BYTES {
        return allreduce_divided(guard, mine, out, with);
    }
    // SAFETY: (1).
    unsafe { guard.publish(Payload::Rows(mine), Readers::All) };
    guard.await_peers()?;
    guard.pin(others(me, size))?;
    // SAFETY: as in `reduce`.
    with.fold(size, unsafe { rows_of(guard, mine) }, 0, out)?;
    guard.leave()
}

/// Every rank combines its share of all contributions and puts it into all results.
fn allreduce_divided<'a>(
    guard: &mut EpochGuard<'a>,
    mine: &'a [u8],
    out: &'a mut [u8],
    with: &Folding<'_>,
) -> Outcome {
    let (me, size, len) = (guard.me(), guard.size(), mine.len());
    assert_eq!(out.len(), len, "a result is as long as a contribution");
    let room = out.as_mut_ptr();
    // SAFETY: (1); until the epoch ends `out` is reached through `room` and by the other ranks
    // only.
    unsafe { guard.publish(Payload::Shared { rows: mine.as_ptr(), room, len }, Readers::All) };
    guard.await_peers()?;
    guard.pin(others(me, size))?;
    let rooms: Vec<*mut u8> = others(me, size).map(|rank| guard.peer(rank).room).collect();
    let share = with.share(len, me, size);
    let block = (BLOCK_BYTES / with.element_bytes).max(1) * with.element_bytes;
    for from in share.clone().step_by(block) {
        let bytes = block.min(share.end - from);
        // SAFETY: all results have `len` bytes, as equal calls are equally long, and nobody but
        // this rank touches its share of them.
        let part = unsafe { std::slice::from_raw_parts_mut(room.add(from), bytes) };
        // SAFETY: as in `reduce`.
        let folded = with.fold(size, unsafe { rows_of(guard, mine) }, from, part);
        if let Err(kind) = folded {
            guard.fail();
            return Err(kind);
        }
        for room in &rooms {
            // SAFETY: as above; the pin is held.
            unsafe { room.add(from).copy_from_nonoverlapping(part.as_ptr(), bytes) };
        }
    }
    guard.leave_together()
}

fn reduce_scatter<'a>(
    guard: &mut EpochGuard<'a>,
    mine: &'a [u8],
    counts: &Counts<'_>,
    out: &mut [u8],
    with: &Folding<'_>,
) -> Outcome {
    let (me, size) = (guard.me(), guard.size());
    // SAFETY: (1).
    unsafe { guard.publish(Payload::Rows(mine), Readers::All) };
    let from = Starts::new(counts, size).of(me).start;
    guard.await_peers()?;
    guard.pin(others(me, size))?;
    // SAFETY: as in `reduce`.
    with.fold(size, unsafe { rows_of(guard, mine) }, from, out)?;
    guard.leave()
}

/// Combines the rows of the first `rows` ranks.
fn scan<'a>(
    guard: &mut EpochGuard<'a>,
    mine: &'a [u8],
    rows: usize,
    out: &mut [u8],
    with: &Folding<'_>,
) -> Outcome {
    let me = guard.me();
    // SAFETY: (1).
    unsafe { guard.publish(Payload::Rows(mine), Readers::All) };
    if me == 0 {
        guard.check_arrived()?;
    }
    for rank in 0..me {
        guard.await_peer(rank)?;
    }
    guard.pin(0..me)?;
    if rows > 0 {
        // SAFETY: the pin on all lower ranks is held, which have arrived.
        with.fold(rows, unsafe { rows_of(guard, mine) }, 0, out)?;
    }
    guard.leave()
}
