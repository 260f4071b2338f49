//! Communicators made of others, and ranks on a grid.

use super::{Case, Ground, ground::values};
use crate::{
    comm::{ANY, Comm, Sum},
    error::{Error, ErrorKind, Result},
};

pub(super) const CASES: &[Case] = &[
    ("a dup has the same ranks and messages of its own", dup),
    ("split groups by color", split_by_color),
    ("split orders by key, then by rank", split_by_key),
    ("ranks without a color get no communicator", split_without_color),
    ("splits of splits keep their messages apart", nested),
    ("communicators come and go", many),
    ("cart of chosen dimensions uses all ranks", cart_chosen),
    ("cart neighbours on open and closed axes", cart_neighbours),
    ("ranks beyond the grid are left out", cart_smaller),
];

fn dup(ground: &Ground<'_>) -> Result<()> {
    let twin = ground.dup()?;
    let (to, from) = (ground.after(1), ground.before(1));
    ground.equal("rank and size", (twin.rank(), twin.size()), (ground.rank(), ground.size()));
    ground.equal("the engine", twin.engine(), ground.engine());
    for rank in ground.ranks() {
        ground.equal("rank in the world", twin.world_rank(rank), ground.world_rank(rank));
    }
    // Same ranks, same tag, other order: only the communicator tells them apart.
    let first = ground.isend(vec![1_u8], (to, 6))?;
    let second = twin.isend(vec![2_u8], (to, 6))?;
    ground.same("the message of the dup", &twin.recv::<u8>((from, ANY))?.0, &[2]);
    ground.same("the message of the original", &ground.recv::<u8>((ANY, 6))?.0, &[1]);
    first.wait()?;
    second.wait()?;
    Ok(())
}

/// The communicator that a rank with a color must get.
#[track_caller]
fn given(comm: Option<Comm>, from: &Ground<'_>) -> Result<Comm> {
    if let Some(comm) = comm {
        return Ok(comm);
    }
    from.note(|| "split gave nothing to a rank with a color".to_owned());
    from.dup()
}

fn split_by_color(ground: &Ground<'_>) -> Result<()> {
    let color = |rank: usize| rank * 2 % 3;
    let mine = color(ground.rank());
    let members: Vec<usize> = ground.ranks().filter(|&rank| color(rank) == mine).collect();
    let group = given(ground.split(Some(7 * mine as u32), 0)?, ground)?;
    ground.equal("size", group.size(), members.len());
    ground.equal("rank", members.get(group.rank()).copied(), Some(ground.rank()));
    ground.same("members", group.allgather(&[ground.rank()])?.flat(), &members);
    for (rank, &member) in members.iter().enumerate() {
        ground.equal("rank in the world", group.world_rank(rank), ground.world_rank(member));
    }
    Ok(())
}

fn split_by_key(ground: &Ground<'_>) -> Result<()> {
    let reversed = given(ground.split(Some(u32::MAX), -(ground.rank() as i64))?, ground)?;
    ground.equal("rank", reversed.rank(), ground.size() - 1 - ground.rank());
    let order: Vec<usize> = ground.ranks().rev().collect();
    ground.same("reversed", reversed.allgather(&[ground.rank()])?.flat(), &order);
    let joined = reversed
        .allreduce(&[[ground.rank(), ground.rank()]], |left: [usize; 2], right: [usize; 2]| {
            [left[0], right[1]]
        })?;
    ground.same("reductions follow the new order", &joined, &[[ground.size() - 1, 0]]);
    let keys = given(ground.split(Some(0), (ground.rank() % 2) as i64)?, ground)?;
    let (even, odd): (Vec<_>, Vec<_>) = ground.ranks().partition(|rank| rank % 2 == 0);
    ground.same("even before odd", keys.allgather(&[ground.rank()])?.flat(), &[even, odd].concat());
    Ok(())
}

fn split_without_color(ground: &Ground<'_>) -> Result<()> {
    let color = (ground.rank() > 0).then_some(1);
    let group = ground.split(color, 0)?;
    ground.equal("who has a communicator", group.is_some(), color.is_some());
    if let Some(group) = group {
        ground.same("size", &group.allreduce(&[1_usize], Sum)?, &[ground.size() - 1]);
    }
    ground.holds("nobody has a color", ground.split(None, 0)?.is_none());
    ground.still_works()
}

fn nested(ground: &Ground<'_>) -> Result<()> {
    let half = given(ground.split(Some((ground.rank() % 2) as u32), 0)?, ground)?;
    let quarter = given(half.split(Some((half.rank() % 2) as u32), 0)?, ground)?;
    let total = |comm: &Comm| comm.allreduce(&[ground.rank() as u64], Sum);
    let sum = |holds: &dyn Fn(usize) -> bool| {
        ground.ranks().filter(|&rank| holds(rank)).sum::<usize>() as u64
    };
    let me = ground.rank();
    ground.same("sum over a quarter", &total(&quarter)?, &[sum(&|rank| rank % 4 == me % 4)]);
    ground.same("sum over a half", &total(&half)?, &[sum(&|rank| rank % 2 == me % 2)]);
    ground.same("sum over all", &total(ground)?, &[sum(&|_| true)]);
    let mut got = vec![0; 2000];
    let (to, from) = (
        (quarter.rank() + 1) % quarter.size(),
        (quarter.rank() + quarter.size() - 1) % quarter.size(),
    );
    quarter.sendrecv(&values(me, 2000), to, &mut got, from)?;
    let from = from * 4 + me % 4;
    ground.same("a circle in a quarter", &got, &values(from, 2000));
    Ok(())
}

fn many(ground: &Ground<'_>) -> Result<()> {
    for round in 0..10 {
        let twin = ground.dup()?;
        let inner = given(twin.split(Some(0), round)?, ground)?;
        drop(twin);
        // A communicator outlives the one it was made of.
        ground.same("sum", &inner.allreduce(&[1_usize], Sum)?, &[ground.size()]);
    }
    Ok(())
}

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
    let refused = grid.cart([Some(ground.size() + 1)], [false]);
    ground.refused("a grid of too many ranks", refused, too_many);
    let refused: Result<_, Error> = ground.cart([Some(0), None], [false; 2]);
    ground.refused("a grid of no ranks", refused, too_many);
    Ok(())
}

fn too_many(kind: &ErrorKind) -> bool {
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
