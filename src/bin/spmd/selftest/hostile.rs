//! Arguments that lie: views whose count is not that of their elements, and counts that wrap around
//! when they are added.

use std::cell::Cell;

use spmd::{ErrorKind, Ragged, Result, View, ViewMut, op::Max};

use super::{
    Case, Ground,
    ground::{Guarded, values},
};

pub(super) const CASES: &[Case] = &[
    ("views that claim more elements than they have are refused", claims),
    ("a view that changes its mind is sent and received as it was found", changes),
    ("counts that wrap around are refused", wrapping_counts),
];

/// Elements that say to be another number of them, each time another one of `says`.
struct Liar<'a> {
    data: &'a mut [u64],
    says: Vec<usize>,
    asked: Cell<usize>,
}

impl<'a> Liar<'a> {
    fn new(data: &'a mut [u64], says: &[usize]) -> Self {
        Self { data, says: says.to_vec(), asked: Cell::new(0) }
    }

    fn saying(&mut self, count: usize) -> &mut Self {
        self.says = vec![count];
        self
    }
}

impl View for Liar<'_> {
    type Elem = u64;

    fn count(&self) -> usize {
        let asked = self.asked.replace(self.asked.get() + 1);
        self.says[asked % self.says.len()]
    }

    fn as_slice(&self) -> Option<&[u64]> {
        Some(self.data)
    }

    fn pack(&self, onto: &mut Vec<u64>) {
        onto.extend_from_slice(self.data);
    }
}

impl ViewMut for Liar<'_> {
    fn as_slice_mut(&mut self) -> Option<&mut [u64]> {
        Some(self.data)
    }

    fn unpack(&mut self, values: &[u64]) {
        self.data[..values.len()].copy_from_slice(values);
    }
}

fn wrong_length(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::LengthMismatch { .. })
}

fn senseless(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::InvalidArgument { .. })
}

/// All ranks lie alike, so that nobody waits for one that has been refused.
fn claims(ground: &Ground<'_>) -> Result<()> {
    let (size, me) = (ground.size(), ground.rank());
    let (n, whole) = (5000, 5000 * size);
    let (mine, rows) = (values(me, n), values(me, whole));
    let mut guarded = Guarded::new(1, 7);
    {
        let mut liar = Liar::new(guarded.buffer(), &[0]);
        let refused = |what, got| ground.refused(what, got, wrong_length);
        refused("allgather", ground.allgather_into(&mine, liar.saying(whole)));
        refused("alltoall", ground.alltoall_into(&rows, liar.saying(whole)));
        refused("allreduce", ground.allreduce_into(&mine, liar.saying(n), Max));
        refused("scan", ground.scan_into(&mine, liar.saying(n), Max));
        refused("exscan", ground.exscan_into(&mine, liar.saying(n), Max));
        refused("reduce_scatter", ground.reduce_scatter_into(&rows, liar.saying(n), Max));
        refused("bcast", ground.bcast_into(0, liar.saying(n)));
        refused("scatter", ground.scatter_into(0, &rows, liar.saying(n)));
        if size == 1 {
            // Where only the root can see it.
            refused("gather", ground.gather_into(0, &mine, liar.saying(n)));
            refused("reduce", ground.reduce_into(0, &mine, liar.saying(n), Max));
        }
        let ring = ground.graph(&[ground.before(1)], &[ground.after(1)])?;
        refused("a graph", ring.neighbor_allgather_into(&mine, liar.saying(n)));
        refused("a graph's rows", ring.neighbor_alltoall_into(&mine, liar.saying(n)));
        if let Some(grid) = ground.cart([None], [false])? {
            refused("a grid", grid.neighbor_allgather_into(&mine, liar.saying(2 * n)));
            let rows = [&mine[..], &mine].concat();
            refused("a grid's rows", grid.neighbor_alltoall_into(&rows, liar.saying(2 * n)));
        }
    }
    ground.holds("nothing behind the slice has changed", guarded.intact_beyond(0));
    ground.still_works()
}

fn changes(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let says = [900, 0, usize::MAX, 17];
    let mut mine = values(ground.rank(), 3);
    let mine = Liar::new(&mut mine, &says);
    let mut guarded = Guarded::new(3, 7);
    {
        let mut out = Liar::new(guarded.buffer(), &says);
        ground.sendrecv(&mine, (to, 3), &mut out, (from, 3))?;
        ground.same("sendrecv", out.data, &values(from, 3));
        ground.allreduce_into(&mine, &mut out, Max)?;
        let largest = |at| ground.ranks().map(|rank| values(rank, 3)[at]).max();
        ground.equal("allreduce", Some(out.data[2]), largest(2));
        ground.scope(|s| {
            let receiving = s.irecv(&mut out, (from, 4))?;
            s.isend(&mine, (to, 4))?;
            let (got, status) = receiving.wait()?;
            ground.equal("count of irecv", status.count, 3);
            ground.same("irecv", got.data, &values(from, 3));
            Ok(())
        })?;
    }
    ground.equal("allgather", &ground.allgather(&mine)?[from], &values(from, 3)[..]);
    ground.holds("nothing behind the slice has changed", guarded.intact_beyond(3));
    Ok(())
}

fn wrapping_counts(ground: &Ground<'_>) -> Result<()> {
    let (size, me) = (ground.size(), ground.rank());
    let mine = values(me, 2);
    // This rank's own is right, and the others' bring the sum to what is there.
    let mut counts = vec![1 << 62; size + 4];
    counts[me] = 2;
    let counts = &counts[..size];
    let refused = |what, got: Result<()>| ground.refused(what, got, senseless);
    if size > 1 {
        refused("allgather_known", ground.allgather_known(&mine, counts).map(drop));
        let rows = Ragged::from_rows(vec![mine.clone(); size]);
        refused("alltoall_known", ground.alltoall_known(&rows, counts).map(drop));
        let wrapping: Vec<usize> =
            ground.ranks().map(|rank| [usize::MAX - 47, 50, 0][rank.min(2)]).collect();
        refused("reduce_scatter", ground.reduce_scatter(&mine, &wrapping, Max).map(drop));
        let request = ground.ireduce_scatter(mine.clone(), &wrapping, Max).map(drop);
        refused("ireduce_scatter", request);
    }
    let huge = usize::MAX / 8;
    refused("a grid", ground.cart([Some(huge), Some(16)], [false; 2]).map(drop));
    refused("a grid of one axis", ground.cart([Some(usize::MAX)], [true]).map(drop));
    ground.still_works()
}
