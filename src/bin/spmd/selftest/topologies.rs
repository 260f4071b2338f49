//! Ranks on grids and graphs.

use spmd::{
    ErrorKind, Ragged, Result,
    op::Sum,
    topology::{Cart, Graph},
};

use super::{Case, Ground, ground::values};

pub(super) const CASES: &[Case] = &[
    ("cart of chosen dimensions uses all ranks", cart_chosen),
    ("cart neighbours on open and closed axes", cart_neighbours),
    ("ranks beyond the grid are left out", cart_smaller),
    ("cart finds ranks by place, and shifts", cart_ranks),
    ("sub makes the lines and faces of a grid", cart_sub),
    ("grids that make no sense or differ are refused", cart_refused),
    ("cart's faces gather from both neighbours along every axis", faces_allgather),
    ("cart's faces exchange a row with both neighbours along every axis", faces_alltoall),
    ("the faces' values and rows travel while ranks compute", faces_later),
    ("rows that are not one per face are refused", faces_refused),
    ("a graph is a communicator with edges", graph_edges),
    ("neighbor_allgather brings every source's values", graph_allgather),
    ("neighbor_alltoall brings every edge its row", graph_alltoall),
    ("ineighbor_alltoall brings every edge its row later", graph_ialltoall),
    ("ineighbor_allgather brings every source's values later", graph_iallgather),
    ("a neighbourhood collective that is dropped harms nobody", graph_dropped),
    ("edges that are listed at one end only are refused", graph_refused),
    ("rows that do not fit the edges are refused", graph_wrong_rows),
];

fn cart_chosen(ground: &Ground<'_>) -> Result<()> {
    let Some(grid) = ground.cart([None, None], [true, false])? else {
        ground.note(|| "cart left a rank out although it may choose".to_owned());
        return Ok(());
    };
    let [rows, columns] = grid.dims();
    ground.equal("ranks on the grid", rows * columns, ground.size());
    ground.holds("larger dimensions come first", rows >= columns);
    ground.equal("rank", grid.rank(), ground.rank());
    ground.same("place", &grid.coords(), &[grid.rank() / columns, grid.rank() % columns]);
    for rank in ground.ranks() {
        ground.same("any rank's place", &grid.coords_of(rank), &[rank / columns, rank % columns]);
    }
    let sum = grid.allreduce(&[1_usize], Sum)?;
    ground.same("a cart is a communicator", &sum, &[ground.size()]);
    Ok(())
}

fn cart_refused(ground: &Ground<'_>) -> Result<()> {
    let (size, first) = (ground.size(), ground.rank() == 0);
    ground.refused("too many ranks", ground.cart([Some(size + 1)], [false]), senseless);
    ground.refused("no ranks", ground.cart([Some(0), None], [false; 2]), senseless);
    if let Some(grid) = ground.cart([None, None], [true; 2])? {
        ground.refused("no such axis", grid.sub([2]), senseless);
        ground.refused("an axis twice", grid.sub([0, 0]), senseless);
        if size > 1 {
            ground.refused("other axes", grid.sub([usize::from(first)]), disagree);
        }
    }
    if size > 1 {
        ground.refused("other ends", ground.cart([None], [first]), disagree);
        ground.refused("other lengths", ground.cart([first.then_some(1)], [true]), disagree);
    }
    ground.still_works()
}

fn disagree(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::CollectiveMismatch { .. })
}

fn senseless(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::InvalidArgument { .. })
}

fn cart_neighbours(ground: &Ground<'_>) -> Result<()> {
    let Some(grid) = ground.cart([None, None, Some(1)], [false, true, true])? else {
        ground.note(|| "cart left a rank out although it may choose".to_owned());
        return Ok(());
    };
    let me = grid.coords();
    for axis in 0..3 {
        for steps in [-1, 1] {
            let (to, from) = (grid.neighbor(axis, steps), grid.neighbor(axis, -steps));
            let end = if steps < 0 { 0 } else { grid.dims()[axis] - 1 };
            ground.equal(
                "nobody is beyond a closed border",
                to.is_none(),
                axis == 0 && me[axis] == end,
            );
            let mut got = [[usize::MAX; 3]];
            grid.sendrecv(&[me], (to, 1), &mut got, (from, 1))?;
            let wanted = from.map_or([usize::MAX; 3], |from| grid.coords_of(from));
            ground.same("the neighbour's place", &got, &[wanted]);
        }
        ground.equal("zero steps lead nowhere", grid.neighbor(axis, 0), Some(grid.rank()));
    }
    let round = grid.dims()[1] as isize;
    ground.equal("once round", grid.neighbor(1, round), Some(grid.rank()));
    ground.equal("once round backwards", grid.neighbor(1, -round), Some(grid.rank()));
    Ok(())
}

fn cart_smaller(ground: &Ground<'_>) -> Result<()> {
    let inside = ground.size().div_ceil(2);
    let grid = ground.cart([Some(inside)], [true])?;
    ground.equal("who is on the grid", grid.is_some(), ground.rank() < inside);
    if let Some(grid) = grid {
        let mut got = [usize::MAX];
        grid.sendrecv(&[grid.rank()], grid.neighbor(0, 1), &mut got, grid.neighbor(0, -1))?;
        ground.same("the left neighbour", &got, &[(grid.rank() + inside - 1) % inside]);
    }
    ground.still_works()
}

fn cart_ranks(ground: &Ground<'_>) -> Result<()> {
    let Some(grid) = ground.cart([None, None], [true, false])? else {
        ground.note(|| "cart left a rank out although it may choose".to_owned());
        return Ok(());
    };
    let [rows, columns] = grid.dims().map(|dim| dim as isize);
    for rank in ground.ranks() {
        let [row, column] = grid.coords_of(rank).map(|coord| coord as isize);
        ground.equal("there and back", grid.rank_of([row, column]), Some(rank));
        ground.equal("round and round", grid.rank_of([row - 3 * rows, column]), Some(rank));
    }
    ground.equal("beyond the last", grid.rank_of([0, columns]), None);
    ground.equal("before the first", grid.rank_of([0, -1]), None);
    for axis in 0..2 {
        for steps in [-2, 0, 1] {
            let wanted = (grid.neighbor(axis, -steps), grid.neighbor(axis, steps));
            ground.equal("a shift", grid.shift(axis, steps), wanted);
        }
    }
    Ok(())
}

fn cart_sub(ground: &Ground<'_>) -> Result<()> {
    let Some(grid) = ground.cart([None, None, None], [true, false, true])? else {
        ground.note(|| "cart left a rank out although it may choose".to_owned());
        return Ok(());
    };
    let (dims, coords) = (grid.dims(), grid.coords());
    for axis in 0..3 {
        let line = grid.sub([axis])?;
        ground.same("a line's length", &line.dims(), &[dims[axis]]);
        ground.same("its ends", &line.periodic(), &[grid.periodic()[axis]]);
        ground.same("the place on it", &line.coords(), &[coords[axis]]);
        for (place, member) in line.allgather(&[coords])?.flat().iter().enumerate() {
            let mut wanted = coords;
            wanted[axis] = place;
            ground.same("its members", member, &wanted);
        }
    }
    let face = grid.sub([2, 0])?;
    ground.same("a face in another order", &face.dims(), &[dims[2], dims[0]]);
    ground.same("the place on it", &face.coords(), &[coords[2], coords[0]]);
    let members = face.allgather(&[coords])?.into_flat();
    for (rank, member) in members.iter().enumerate() {
        let [last, first] = face.coords_of(rank);
        ground.same("a member of the face", member, &[first, coords[1], last]);
    }
    ground.equal("a point", grid.sub([])?.size(), 1);
    Ok(())
}

/// Calls `try_it` on grids with open and closed borders in one, two and three dimensions.
macro_rules! on_grids {
    ($ground:ident, $try_it:ident) => {
        for periodic in [false, true] {
            if let Some(grid) = $ground.cart([None], [periodic])? {
                $try_it($ground, &grid)?;
            }
            if let Some(grid) = $ground.cart([None, None], [true, periodic])? {
                $try_it($ground, &grid)?;
            }
            if let Some(grid) = $ground.cart([None, Some(1), None], [periodic, periodic, false])? {
                $try_it($ground, &grid)?;
            }
        }
    };
}

/// The neighbour at each face: before and behind along every axis.
fn neighbours<const D: usize>(grid: &Cart<D>) -> Vec<Option<usize>> {
    (0..2 * D).map(|face| grid.neighbor(face / 2, if face % 2 == 0 { -1 } else { 1 })).collect()
}

fn faces_allgather(ground: &Ground<'_>) -> Result<()> {
    fn try_it<const D: usize>(ground: &Ground<'_>, grid: &Cart<D>) -> Result<()> {
        let neighbours = neighbours(grid);
        for unit in [1, 700] {
            let mine = |rank: usize| values(rank, unit * rank);
            let got = grid.neighbor_allgather(&mine(grid.rank()))?;
            ground.equal("a row per face", got.rows(), 2 * D);
            for (row, peer) in got.iter().zip(&neighbours) {
                ground.same("a row", row, &peer.map_or(vec![], mine));
            }
            let mut out = vec![7; 2 * D * unit];
            grid.neighbor_allgather_into(&values(grid.rank(), unit), &mut out)?;
            for (row, peer) in out.chunks_exact(unit).zip(&neighbours) {
                ground.same(
                    "in place",
                    row,
                    &peer.map_or(vec![7; unit], |peer| values(peer, unit)),
                );
            }
        }
        Ok(())
    }
    on_grids!(ground, try_it);
    Ok(())
}

fn faces_alltoall(ground: &Ground<'_>) -> Result<()> {
    /// What a rank sends through a face.
    fn row(rank: usize, face: usize, count: usize) -> Vec<u64> {
        values(10 * rank + face, count)
    }
    fn try_it<const D: usize>(ground: &Ground<'_>, grid: &Cart<D>) -> Result<()> {
        let neighbours = neighbours(grid);
        for unit in [1, 600] {
            // Beyond a border the row goes nowhere.
            let length = |rank: usize, face: usize| unit * (rank + face % 3);
            let mine =
                |rank: usize| (0..2 * D).map(move |face| row(rank, face, length(rank, face)));
            let got = grid.neighbor_alltoall(&Ragged::from_rows(mine(grid.rank())))?;
            ground.equal("a row per face", got.rows(), 2 * D);
            for (face, peer) in neighbours.iter().enumerate() {
                let wanted = peer.map(|peer| row(peer, face ^ 1, length(peer, face ^ 1)));
                ground.same(
                    "what the neighbour sent here",
                    &got[face],
                    &wanted.unwrap_or_default(),
                );
            }
            let mine: Vec<u64> = (0..2 * D).flat_map(|face| row(grid.rank(), face, unit)).collect();
            let mut out = vec![7; 2 * D * unit];
            grid.neighbor_alltoall_into(&mine, &mut out)?;
            for (face, peer) in neighbours.iter().enumerate() {
                let wanted = peer.map_or(vec![7; unit], |peer| row(peer, face ^ 1, unit));
                ground.same("in place", &out[face * unit..(face + 1) * unit], &wanted);
            }
        }
        Ok(())
    }
    on_grids!(ground, try_it);
    Ok(())
}

fn faces_later(ground: &Ground<'_>) -> Result<()> {
    fn try_it<const D: usize>(ground: &Ground<'_>, grid: &Cart<D>) -> Result<()> {
        let me = grid.rank();
        let rows = Ragged::from_rows((0..2 * D).map(|face| values(10 * me + face, me + face)));
        let gathered = grid.ineighbor_allgather(values(me, 3 * me))?;
        let exchanged = grid.ineighbor_alltoall(rows.clone())?;
        ground.equal("rows", exchanged.wait()?, grid.neighbor_alltoall(&rows)?);
        let wanted = grid.neighbor_allgather(&values(me, 3 * me))?;
        ground.equal("values", gathered.wait()?, wanted);
        Ok(())
    }
    on_grids!(ground, try_it);
    Ok(())
}

fn faces_refused(ground: &Ground<'_>) -> Result<()> {
    if let Some(grid) = ground.cart([None, None], [true, false])? {
        let rows = Ragged::from_rows(vec![vec![0_u8]; 3]);
        ground.refused("three rows", grid.neighbor_alltoall(&rows), wrong_length);
        ground.refused("three rows", grid.ineighbor_alltoall(rows), wrong_length);
        let mut out = [0_u8; 7];
        ground.refused("out", grid.neighbor_allgather_into(&[1, 2], &mut out), wrong_length);
        ground.refused("rows", grid.neighbor_alltoall_into(&[1; 7], &mut out), wrong_length);
        ground.refused("both", grid.neighbor_alltoall_into(&[1; 8], &mut out), wrong_length);
    }
    ground.still_works()
}

fn wrong_length(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::LengthMismatch { .. })
}

/// A multigraph with edges to oneself and up to three between two ranks; the last rank has none.
/// Sources are in ascending order, destinations in descending.
struct Multigraph {
    size: usize,
}

impl Multigraph {
    fn edges(&self, from: usize, to: usize) -> usize {
        let isolated = self.size > 2 && from.max(to) == self.size - 1;
        if isolated { 0 } else { (5 * from + 3 * to + 1) % 4 }
    }

    fn sources(&self, of: usize) -> Vec<usize> {
        (0..self.size).flat_map(|from| vec![from; self.edges(from, of)]).collect()
    }

    fn destinations(&self, of: usize) -> Vec<usize> {
        (0..self.size).rev().flat_map(|to| vec![to; self.edges(of, to)]).collect()
    }

    fn on(&self, ground: &Ground<'_>) -> Result<Graph> {
        ground.graph(&self.sources(ground.rank()), &self.destinations(ground.rank()))
    }

    /// What travels along all of a rank's edges to its destinations, in their order: `count` tells
    /// an edge's length.
    fn rows(&self, of: usize, count: impl Fn(usize) -> usize) -> Vec<Vec<u64>> {
        let edges =
            (0..self.size).rev().flat_map(|to| (0..self.edges(of, to)).map(move |edge| (to, edge)));
        edges.map(|(to, edge)| Self::row(of, to, edge, count(edge))).collect()
    }

    /// What a rank must get along all of its edges.
    fn wanted(&self, of: usize, count: impl Fn(usize) -> usize) -> Vec<Vec<u64>> {
        let edges =
            (0..self.size).flat_map(|from| (0..self.edges(from, of)).map(move |edge| (from, edge)));
        edges.map(|(from, edge)| Self::row(from, of, edge, count(edge))).collect()
    }

    fn row(from: usize, to: usize, edge: usize, count: usize) -> Vec<u64> {
        values(100 * from + 10 * to + edge, count)
    }
}

fn graph_edges(ground: &Ground<'_>) -> Result<()> {
    let shape = Multigraph { size: ground.size() };
    let graph = shape.on(ground)?;
    let me = ground.rank();
    ground.same("sources", &graph.sources().collect::<Vec<_>>(), &shape.sources(me));
    ground.same("destinations", &graph.destinations().collect::<Vec<_>>(), &shape.destinations(me));
    ground.equal("rank and size", (graph.rank(), graph.size()), (me, ground.size()));
    ground.same("a graph is a communicator", &graph.allreduce(&[1_usize], Sum)?, &[ground.size()]);
    let bare = ground.graph(&[], &[])?;
    ground.equal("no rows without edges", bare.neighbor_allgather(&[me])?.rows(), 0);
    bare.neighbor_alltoall_into(&[0_u64; 0], &mut [])?;
    bare.neighbor_allgather_into(&[me], &mut [])?;
    Ok(())
}

fn graph_allgather(ground: &Ground<'_>) -> Result<()> {
    let shape = Multigraph { size: ground.size() };
    let graph = shape.on(ground)?;
    let me = ground.rank();
    for unit in [0, 1, 1025] {
        let got = graph.neighbor_allgather(&values(me, unit * me))?;
        let wanted = shape.sources(me).into_iter().map(|from| values(from, unit * from));
        ground.equal("rows", got, Ragged::from_rows(wanted));
        let mut out = vec![0; unit * shape.sources(me).len()];
        graph.neighbor_allgather_into(&values(me, unit), &mut out)?;
        let wanted = shape.sources(me).into_iter().flat_map(|from| values(from, unit));
        ground.same("in place", &out, &wanted.collect::<Vec<_>>());
    }
    let odd = |rank: usize| rank % 2 == 1;
    let mut out = vec![false; shape.sources(me).len()];
    graph.neighbor_allgather_into(&[odd(me)], &mut out)?;
    ground.same("bool", &out, &shape.sources(me).into_iter().map(odd).collect::<Vec<_>>());
    Ok(())
}

fn graph_alltoall(ground: &Ground<'_>) -> Result<()> {
    let shape = Multigraph { size: ground.size() };
    let graph = shape.on(ground)?;
    let me = ground.rank();
    for unit in [0, 1, 1025] {
        let rows = Ragged::from_rows(shape.rows(me, |edge| edge * unit));
        let got = graph.neighbor_alltoall(&rows)?;
        ground.equal("rows", got, Ragged::from_rows(shape.wanted(me, |edge| edge * unit)));
        let mut out = vec![0; unit * shape.sources(me).len()];
        graph.neighbor_alltoall_into(&shape.rows(me, |_| unit).concat(), &mut out)?;
        ground.same("in place", &out, &shape.wanted(me, |_| unit).concat());
    }
    Ok(())
}

fn graph_ialltoall(ground: &Ground<'_>) -> Result<()> {
    let shape = Multigraph { size: ground.size() };
    let graph = shape.on(ground)?;
    let me = ground.rank();
    let start = |unit: usize| {
        graph.ineighbor_alltoall(Ragged::from_rows(shape.rows(me, |edge| (1 + edge) * unit)))
    };
    let wanted = |unit: usize| Ragged::from_rows(shape.wanted(me, |edge| (1 + edge) * unit));
    let (first, mut second) = (start(1)?, start(1025)?);
    let got = loop {
        match second.test() {
            Ok(got) => break got?,
            Err(unfinished) => second = unfinished,
        }
        std::thread::yield_now();
    };
    ground.equal("the second, tested for", got, wanted(1025));
    ground.equal("the first, waited for", first.wait()?, wanted(1));
    Ok(())
}

fn graph_iallgather(ground: &Ground<'_>) -> Result<()> {
    let shape = Multigraph { size: ground.size() };
    let graph = shape.on(ground)?;
    let mine = |unit: usize| values(ground.rank(), (1 + ground.rank()) * unit);
    let first = graph.ineighbor_allgather(mine(1))?;
    let second = graph.ineighbor_allgather(mine(1025))?;
    ground.equal("the second", second.wait()?, graph.neighbor_allgather(&mine(1025))?);
    ground.equal("the first", first.wait()?, graph.neighbor_allgather(&mine(1))?);
    Ok(())
}

fn graph_dropped(ground: &Ground<'_>) -> Result<()> {
    let shape = Multigraph { size: ground.size() };
    let graph = shape.on(ground)?;
    let me = ground.rank();
    for drops in [true, me.is_multiple_of(2)] {
        let rows = Ragged::from_rows(shape.rows(me, |_| 2));
        let request = graph.ineighbor_alltoall(rows)?;
        if drops {
            drop(request);
        } else {
            ground.equal("rows", request.wait()?, Ragged::from_rows(shape.wanted(me, |_| 2)));
        }
    }
    let rows = Ragged::from_rows(shape.rows(me, |edge| edge));
    let wanted = Ragged::from_rows(shape.wanted(me, |edge| edge));
    ground.equal("the next call", graph.neighbor_alltoall(&rows)?, wanted);
    Ok(())
}

fn graph_refused(ground: &Ground<'_>) -> Result<()> {
    let (size, first) = (ground.size(), ground.rank() == 0);
    let stranger: &[usize] = if first { &[size] } else { &[] };
    ground.refused("no such rank", ground.graph(stranger, &[]), |kind| {
        matches!(kind, ErrorKind::InvalidRank { .. } | ErrorKind::Elsewhere { rank: 0, .. })
    });
    // Rank 0 means to send to the last rank, which knows nothing of it.
    let last: &[usize] = if first { &[size - 1] } else { &[] };
    let refused = ground.graph(&[], last);
    if first || ground.rank() == size - 1 {
        ground.refused("an edge of one end", refused, disagree);
    } else {
        ground.refused("an edge of one end elsewhere", refused, |kind| {
            matches!(kind, ErrorKind::Elsewhere { rank: 0, .. })
        });
    }
    let doubled = [0; 2];
    let refused = ground.graph(&vec![0; usize::from(first)], &doubled[..if first { 2 } else { 0 }]);
    if first {
        ground.refused("two edges of one", refused, disagree);
    } else {
        ground.refused("elsewhere", refused, |kind| matches!(kind, ErrorKind::Elsewhere { .. }));
    }
    ground.still_works()
}

fn graph_wrong_rows(ground: &Ground<'_>) -> Result<()> {
    let (after, before) = (ground.after(1), ground.before(1));
    let ring = ground.graph(&[before], &[after])?;
    let none = Ragged::<u8>::from_rows(Vec::<Vec<u8>>::new());
    ground.refused("no row", ring.neighbor_alltoall(&none), wrong_length);
    ground.refused("no row", ring.ineighbor_alltoall(none), wrong_length);
    let mut out = [0_u8; 3];
    ground.refused("out", ring.neighbor_allgather_into(&[1, 2], &mut out), wrong_length);
    ground.refused("out", ring.neighbor_alltoall_into(&[1, 2], &mut out), wrong_length);
    ground.still_works()
}
