//! Ranks on grids and graphs.

use super::{Case, Ground};
use crate::{
    comm::Sum,
    error::{ErrorKind, Result},
};

pub(super) const CASES: &[Case] = &[
    ("cart of chosen dimensions uses all ranks", cart_chosen),
    ("cart neighbours on open and closed axes", cart_neighbours),
    ("ranks beyond the grid are left out", cart_smaller),
    ("cart finds ranks by place, and shifts", cart_ranks),
    ("sub makes the lines and faces of a grid", cart_sub),
    ("grids that make no sense or differ are refused", cart_refused),
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
