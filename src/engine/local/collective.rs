//! Blocking collectives in this engine's own way: ranks read each other's bytes in their
//! [slots](super::coll_slots).
//!
//! Who only gives publishes its bytes and goes on (once what it has lent is free again); who takes
//! waits for the ranks whose bytes it needs and copies or combines them itself. Reductions go from
//! the highest rank to the lowest, so that what is combined is always `left` of all that is there:
//! an operator need be associative only, and all ranks get the same bits.

use super::{
    LocalEngine,
    coll_slots::{CollCall, EACH, EpochGuard, Payload, Pinned, Readers, Room, enter},
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
        // Who waits for nobody hears nowhere else that the job has ended.
        return Some(engine.job.parking.check());
    }
    let element_bytes = call.label.signature.size();
    let coll = CollCall { label: call.label, seq: call.seq, kind, bytes };
    let mut work = || {
        let members = engine.members(call.context)?;
        let member = members.member(engine);
        // Where the rows begin that are published with a table; declared before the epoch is
        // entered, so that it outlives it.
        let table = &table(&call.what, call.rank, call.size);
        let what = &mut call.what;
        enter(member, engine, &coll, move |guard| match what {
            Collective::Barrier => barrier(guard),
            Collective::Bcast { root, buffer } => bcast(guard, root.index(), buffer),
            Collective::Gather { root, mine, counts, out } => {
                gather(guard, root.index(), mine, counts, out)
            }
            Collective::Scatter { root, rows, out, .. } => {
                scatter(guard, root.index(), rows, table, out)
            }
            Collective::Allgather { mine, counts, out } => allgather(guard, mine, counts, out),
            Collective::Alltoall { rows, out, recv_counts, .. } => {
                alltoall(guard, rows, table, out, recv_counts)
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
        })
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
    guard.publish(Payload::Nothing, Readers::Nobody);
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
        guard.publish(Payload::Rows(buffer), Readers::All);
        guard.check_arrived()?;
    } else {
        guard.publish(Payload::Nothing, Readers::Nobody);
        let met = guard.await_peer(root)?;
        let pinned = guard.pin(met)?;
        let bytes = pinned.peer(root).bytes(0, buffer.len());
        let bytes = bytes.ok_or_else(|| pinned.disagreement(root, buffer.len(), None))?;
        buffer.copy_from_slice(bytes);
    }
    guard.leave()
}

/// Each of two ranks copies one half.
fn bcast_jointly<'a>(guard: &mut EpochGuard<'a>, root: usize, buffer: &'a mut [u8]) -> Outcome {
    let (me, len) = (guard.me(), buffer.len());
    let peer = 1 - me;
    let room = Room::new(buffer);
    guard.publish(Payload::Shared(&[], room), Readers::One(peer));
    let met = guard.await_peer(peer)?;
    let pinned = guard.pin(met)?;
    let (mine, theirs) = (room.start, pinned.peer(peer).room);
    let half = (len / 2).next_multiple_of(64);
    let (at, bytes) = if me == root { (0, half) } else { (half, len - half) };
    let (from, to) = if me == root { (mine, theirs) } else { (theirs, mine) };
    // SAFETY: both buffers have `len` bytes, as the calls have been compared; they are different
    // ranks' own; nobody writes the root's, and of the other one each rank writes its half. The pin
    // is held.
    unsafe { to.add(at).copy_from_nonoverlapping(from.add(at), bytes) };
    drop(pinned);
    guard.leave_together()
}

/// Copies a row of another rank.
fn copy(pinned: &Pinned<'_, '_>, rank: usize, row: Option<&[u8]>, into: &mut [u8]) -> Outcome {
    match row {
        Some(row) if row.len() == into.len() => {
            into.copy_from_slice(row);
            Ok(())
        }
        other => Err(pinned.disagreement(rank, into.len(), other.map(<[u8]>::len))),
    }
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
        guard.publish(Payload::Rows(mine), Readers::One(root));
        guard.check_arrived()?;
        return guard.leave();
    }
    guard.publish(Payload::Nothing, Readers::Nobody);
    let starts = Starts::new(counts, size);
    out[starts.of(me)].copy_from_slice(mine);
    for rank in others(me, size) {
        let met = guard.await_peer(rank)?;
        let pinned = guard.pin(met)?;
        copy(&pinned, rank, pinned.peer(rank).all(), &mut out[starts.of(rank)])?;
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
    let me = guard.me();
    if me == root {
        guard.publish(starts.publish(rows), Readers::All);
        out.copy_from_slice(&rows[starts.of(me)]);
        guard.check_arrived()?;
        return guard.leave();
    }
    guard.publish(Payload::Nothing, Readers::Nobody);
    let met = guard.await_peer(root)?;
    let pinned = guard.pin(met)?;
    copy(&pinned, root, pinned.peer(root).row_or_part(me), out)?;
    drop(pinned);
    guard.leave()
}

fn allgather<'a>(
    guard: &mut EpochGuard<'a>,
    mine: &'a [u8],
    counts: &Counts<'_>,
    out: &mut [u8],
) -> Outcome {
    let (me, size) = (guard.me(), guard.size());
    guard.publish(Payload::Rows(mine), Readers::All);
    let starts = Starts::new(counts, size);
    out[starts.of(me)].copy_from_slice(mine);
    let met = guard.await_peers()?;
    let pinned = guard.pin(met)?;
    for rank in others(me, size) {
        copy(&pinned, rank, pinned.peer(rank).all(), &mut out[starts.of(rank)])?;
    }
    drop(pinned);
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
    guard.publish(send.publish(rows), Readers::All);
    out[recv.of(me)].copy_from_slice(&rows[send.of(me)]);
    let met = guard.await_peers()?;
    let pinned = guard.pin(met)?;
    for rank in others(me, size) {
        copy(&pinned, rank, pinned.peer(rank).row_or_part(me), &mut out[recv.of(rank)])?;
    }
    drop(pinned);
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

/// What each rank has published, `mine` among them: equal calls publish equally many bytes.
fn rows_of<'v>(pinned: &'v Pinned<'_, '_>, mine: &'v [u8]) -> impl Fn(usize) -> &'v [u8] {
    move |rank| {
        if rank == pinned.me() {
            return mine;
        }
        pinned.peer(rank).bytes(0, mine.len()).unwrap_or_default()
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
        guard.publish(Payload::Rows(mine), Readers::One(root));
        guard.check_arrived()?;
        return guard.leave();
    }
    guard.publish(Payload::Nothing, Readers::Nobody);
    let met = guard.await_peers()?;
    let pinned = guard.pin(met)?;
    with.fold(size, rows_of(&pinned, mine), 0, out)?;
    drop(pinned);
    guard.leave()
}

fn allreduce<'a>(
    guard: &mut EpochGuard<'a>,
    mine: &'a [u8],
    out: &'a mut [u8],
    with: &Folding<'_>,
) -> Outcome {
    let size = guard.size();
    if mine.len() * size > DIVIDED_BYTES {
        return allreduce_divided(guard, mine, out, with);
    }
    guard.publish(Payload::Rows(mine), Readers::All);
    let met = guard.await_peers()?;
    let pinned = guard.pin(met)?;
    with.fold(size, rows_of(&pinned, mine), 0, out)?;
    drop(pinned);
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
    let room = Room::new(out);
    guard.publish(Payload::Shared(mine, room), Readers::All);
    let met = guard.await_peers()?;
    let pinned = guard.pin(met)?;
    let rooms: Vec<*mut u8> = others(me, size).map(|rank| pinned.peer(rank).room).collect();
    let share = with.share(len, me, size);
    let block = (BLOCK_BYTES / with.element_bytes).max(1) * with.element_bytes;
    for from in share.clone().step_by(block) {
        let bytes = block.min(share.end - from);
        // SAFETY: all results have `len` bytes, as equal calls are equally long, and nobody but
        // this rank touches its share of them.
        let part = unsafe { std::slice::from_raw_parts_mut(room.start.add(from), bytes) };
        let folded = with.fold(size, rows_of(&pinned, mine), from, part);
        if let Err(kind) = folded {
            pinned.fail();
            return Err(kind);
        }
        for room in &rooms {
            // SAFETY: as above; the pin is held.
            unsafe { room.add(from).copy_from_nonoverlapping(part.as_ptr(), bytes) };
        }
    }
    drop(pinned);
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
    guard.publish(Payload::Rows(mine), Readers::All);
    let from = Starts::new(counts, size).of(me).start;
    let met = guard.await_peers()?;
    let pinned = guard.pin(met)?;
    with.fold(size, rows_of(&pinned, mine), from, out)?;
    drop(pinned);
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
    guard.publish(Payload::Rows(mine), Readers::All);
    let met = guard.await_lower()?;
    let pinned = guard.pin(met)?;
    if rows > 0 {
        with.fold(rows, rows_of(&pinned, mine), 0, out)?;
    }
    drop(pinned);
    guard.leave()
}
