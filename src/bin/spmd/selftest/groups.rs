//! Communicators made of others.

use spmd::{ANY, Comm, ErrorKind, Result, op::Sum, topology::Comparison};

use super::{Case, Ground, ground::values};

pub(super) const CASES: &[Case] = &[
    ("a dup has the same ranks and messages of its own", dup),
    ("split groups by color", split_by_color),
    ("split orders by key, then by rank", split_by_key),
    ("ranks without a color get no communicator", split_without_color),
    ("splits of splits keep their messages apart", nested),
    ("communicators come and go", many),
    ("a subset has the given ranks in the given order", subset),
    ("lists of ranks that differ or make no sense are refused", subset_refused),
    ("split_node groups the ranks of a host", split_node),
    ("compare tells the four relations of communicators", compare),
    ("translate finds the ranks of another communicator", translate),
    ("a name is this rank's and shows in errors", names),
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

fn subset(ground: &Ground<'_>) -> Result<()> {
    let (me, size) = (ground.rank(), ground.size());
    let odd_backwards: Vec<usize> = ground.ranks().filter(|rank| rank % 2 == 1).rev().collect();
    for list in [vec![size - 1], ground.ranks().rev().collect(), odd_backwards] {
        let group = ground.subset(&list)?;
        let place = list.iter().position(|&rank| rank == me);
        ground.equal("who is in it", group.as_ref().map(spmd::Comm::rank), place);
        if let Some(group) = group {
            ground.same("members", group.allgather(&[me])?.flat(), &list);
        }
    }
    ground.holds("nobody is in an empty subset", ground.subset(&[])?.is_none());
    ground.still_works()
}

fn subset_refused(ground: &Ground<'_>) -> Result<()> {
    let size = ground.size();
    let refused = ground.subset(&[0, size]);
    ground.refused("no such rank", refused, |kind| matches!(kind, ErrorKind::InvalidRank { .. }));
    let refused = ground.subset(&[0, 0]);
    ground.refused("twice", refused, |kind| matches!(kind, ErrorKind::InvalidArgument { .. }));
    if size > 1 {
        let other = [usize::from(ground.rank() == size - 1)];
        ground.refused("other ranks", ground.subset(&other), disagree);
        let longer: Vec<usize> = (0..=usize::from(ground.rank() == 0)).collect();
        ground.refused("more ranks", ground.subset(&longer), disagree);
    }
    ground.still_works()
}

fn disagree(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::CollectiveMismatch { .. })
}

fn split_node(ground: &Ground<'_>) -> Result<()> {
    let host = ground.split_node()?;
    let members = host.allgather(&[ground.rank()])?.into_flat();
    ground.holds("ranks keep their order", members.is_sorted());
    ground.equal("this rank's place", members.get(host.rank()).copied(), Some(ground.rank()));
    // Where all hosts are one, no rank is missing.
    let hosts = ground.allreduce(&[usize::from(host.rank() == 0)], Sum)?[0];
    let total = ground.allreduce(&[if host.rank() == 0 { host.size() } else { 0 }], Sum)?[0];
    ground.equal("ranks on all hosts", total, ground.size());
    ground.holds("there are hosts", (1..=ground.size()).contains(&hosts));
    Ok(())
}

fn compare(ground: &Ground<'_>) -> Result<()> {
    let several = ground.size() > 1;
    ground.equal("itself", ground.compare(ground), Comparison::Identical);
    ground.equal("a dup", ground.compare(&ground.dup()?), Comparison::Congruent);
    let backwards: Vec<usize> = ground.ranks().rev().collect();
    if let Some(reversed) = ground.subset(&backwards)? {
        let wanted = if several { Comparison::Similar } else { Comparison::Congruent };
        ground.equal("another order", ground.compare(&reversed), wanted);
        ground.equal("either way", reversed.compare(ground), wanted);
    }
    if let Some(part) = ground.subset(&backwards[..backwards.len() / 2])? {
        ground.equal("fewer ranks", ground.compare(&part), Comparison::Unequal);
    }
    Ok(())
}

fn translate(ground: &Ground<'_>) -> Result<()> {
    let size = ground.size();
    let list: Vec<usize> = ground.ranks().filter(|rank| rank % 2 == 0).rev().collect();
    let all: Vec<usize> = ground.ranks().collect();
    if let Some(group) = ground.subset(&list)? {
        let wanted: Vec<_> =
            all.iter().map(|rank| list.iter().position(|other| other == rank)).collect();
        ground.same("to the subset", &ground.translate(&all, &group)?, &wanted);
        let places: Vec<usize> = (0..group.size()).collect();
        let wanted: Vec<_> = list.iter().copied().map(Some).collect();
        ground.same("from the subset", &group.translate(&places, ground)?, &wanted);
    }
    ground.refused("no such rank", ground.translate(&[size], ground), |kind| {
        matches!(kind, ErrorKind::InvalidRank { .. })
    });
    Ok(())
}

fn names(ground: &Ground<'_>) -> Result<()> {
    let named = ground.dup()?;
    ground.equal("no name yet", named.name(), None);
    named.set_name("rows");
    ground.equal("the name", named.name().as_deref(), Some("rows"));
    ground.holds("it shows", format!("{named:?}").contains("\"rows\""));
    let error = named.send(&[1_u8], named.size()).err();
    let comm = error.as_ref().and_then(|error| error.comm());
    ground.equal("the name in an error", comm, Some("rows"));
    let text = error.as_ref().map(ToString::to_string).unwrap_or_default();
    ground.holds("the error reads", text.starts_with(&format!("rank {} of rows: ", named.rank())));
    ground.equal("a dup of it has none", named.dup()?.name(), None);
    Ok(())
}
