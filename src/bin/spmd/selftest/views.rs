//! Data of every shape, and messages of one value.

use std::sync::Arc;

use ndarray::{Array2, Array3, Axis, s};

use spmd::{ANY, ErrorKind, Result, Status};

use super::{
    Case, Ground,
    ground::{COUNTS, values},
};

pub(super) const CASES: &[Case] = &[
    ("views of any layout are sent and received", layouts),
    ("a view that is not in one piece keeps what is not received", partly),
    ("vectors, boxes, arcs and single numbers are sent", owners),
    ("isend gives every kind of buffer back", gives_back),
    ("recv_one receives exactly one value", one),
    ("ssend returns when its receiver has begun", synchronous),
    ("sendrecv_replace turns the circle, all sizes", replace),
];

/// Every element says whose it is and where it stands.
fn cube(rank: usize) -> Array3<[usize; 4]> {
    Array3::from_shape_fn((5, 6, 7), |(i, j, k)| [rank, i, j, k])
}

fn layouts(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let (mine, theirs) = (cube(ground.rank()), cube(from));
    // The same part on both sides, in the order of the sender's, received into the same part of an
    // empty cube.
    macro_rules! part {
        ($what:literal, |$cube:ident| $part:expr, |$empty:ident| $room:expr) => {
            let sent = {
                let $cube = &mine;
                $part
            };
            let mut into = Array3::from_elem((5, 6, 7), [usize::MAX; 4]);
            {
                let $empty = &mut into;
                let mut room = $room;
                let status = ground.sendrecv(&sent, (to, 80), &mut room, (from, 80))?;
                ground.equal("count", status.count, sent.len());
                let $cube = &theirs;
                ground.holds(concat!($what, " arrives"), room == $part);
            }
            let untouched = into.iter().filter(|element| element[0] == usize::MAX).count();
            ground.equal(
                concat!($what, ": elements left alone"),
                untouched,
                into.len() - sent.len(),
            );
        };
    }
    part!("the whole", |cube| cube.view(), |empty| empty.view_mut());
    part!("a plane", |cube| cube.index_axis(Axis(0), 2), |empty| empty.index_axis_mut(Axis(0), 2));
    part!("a plane of columns", |cube| cube.slice(s![.., .., 3]), |empty| empty.slice_mut(s![
        ..,
        ..,
        3
    ]));
    part!("the reverse", |cube| cube.slice(s![..;-1, .., ..;-2]), |empty| empty
        .slice_mut(s![..;-1, .., ..;-2]));
    part!("the transpose", |cube| cube.view().reversed_axes(), |empty| empty
        .view_mut()
        .reversed_axes());
    part!("nothing", |cube| cube.slice(s![1..1, .., ..]), |empty| empty.slice_mut(s![
        1..1,
        ..,
        ..
    ]));
    // A column here is a row there.
    let mut row = Array2::zeros((3, 5));
    let column = Array2::from_shape_fn((5, 3), |(i, j)| ground.rank() + 10 * i + j);
    ground.sendrecv(&column.column(1), to, &mut row.row_mut(2), from)?;
    let wanted: Vec<usize> = (0..5).map(|i| from + 10 * i + 1).collect();
    ground.same("a column as a row", &row.row(2).to_vec(), &wanted);
    Ok(())
}

fn partly(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let mut table = Array2::from_elem((6, 4), 7);
    let sending = ground.isend(values(ground.rank(), 4), to)?;
    let status = ground.recv_into(&mut table.column_mut(1), from)?;
    ground.equal("its status", status, Status { source: from, tag: 0, count: 4 });
    ground.same("what came", &table.slice(s![..4, 1]).to_vec(), &values(from, 4));
    ground.same("the rest", &table.slice(s![4.., 1]).to_vec(), &[7, 7]);
    sending.wait()?;
    let sending = ground.isend(values(ground.rank(), 7), to)?;
    let refused = ground.recv_into(&mut table.column_mut(2), from);
    ground.refused("a longer message", refused, |kind| matches!(kind, ErrorKind::Truncated { .. }));
    sending.wait()?;
    ground.still_works()
}

fn owners(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let mine = values(ground.rank(), 20);
    let wanted = values(from, 20);
    let mut boxed: Box<[u64]> = vec![0; 20].into();
    ground.sendrecv(&mine, to, &mut boxed, from)?;
    ground.same("from Vec to Box", &boxed, &wanted);
    let mut vector = vec![0; 20];
    ground.sendrecv(&Arc::<[u64]>::from(&*mine), to, &mut vector, from)?;
    ground.same("from Arc to Vec", &vector, &wanted);
    let mut array = [0; 20];
    ground.sendrecv(&mine[..], to, &mut array, from)?;
    ground.same("from slice to array", &array, &wanted);
    let mut number = 0;
    ground.sendrecv(&mine[3], to, &mut number, from)?;
    ground.equal("a number", number, wanted[3]);
    let (mut flag, mut letter) = (false, ' ');
    ground.sendrecv(&true, to, &mut flag, from)?;
    ground.sendrecv(&'ß', to, &mut letter, from)?;
    ground.equal("a flag and a letter", (flag, letter), (true, 'ß'));
    Ok(())
}

fn gives_back(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    for count in COUNTS {
        let mine = values(ground.rank(), count);
        let boxed = ground.isend(mine.clone().into_boxed_slice(), (to, 81))?;
        let arc: Arc<[u64]> = mine.clone().into();
        let shared = ground.isend(Arc::clone(&arc), (to, 81))?;
        let table = Array2::from_shape_fn((count, 2), |(i, j)| mine[i].wrapping_add(j as u64));
        let transposed = ground.isend(table.clone().reversed_axes(), (to, 81))?;
        for _ in 0..2 {
            ground.same("recv", &ground.recv::<u64>((from, 81))?.0, &values(from, count));
        }
        let (got, _) = ground.recv::<u64>((from, 81))?;
        ground.same("the first row", &got[..count], &values(from, count));
        ground.equal("both rows", got.len(), 2 * count);
        ground.same("the box", &boxed.wait()?, &mine);
        ground.holds("the arc", Arc::ptr_eq(&shared.wait()?, &arc));
        ground.holds("the table", transposed.wait()? == table.t());
    }
    Ok(())
}

fn one(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let sending = ground.isend(vec![ground.rank()], (to, 82))?;
    let (got, status) = ground.recv_one::<usize>((ANY, 82))?;
    ground.equal("the value", got, from);
    ground.equal("its status", status, Status { source: from, tag: 82, count: 1 });
    sending.wait()?;
    let sending = ground.isend(vec![true], (to, 82))?;
    ground.equal("a flag", ground.recv_one::<bool>((from, 82))?.0, true);
    sending.wait()?;
    let send = |count| ground.isend(vec![1_u64; count], (to, 82));
    let sending = [send(0)?, send(2)?];
    let empty = |kind: &ErrorKind| matches!(kind, ErrorKind::LengthMismatch { .. });
    let long = |kind: &ErrorKind| matches!(kind, ErrorKind::Truncated { .. });
    ground.refused("an empty message", ground.recv_one::<u64>((from, 82)), empty);
    ground.refused("a message of two", ground.recv_one::<u64>((from, 82)), long);
    spmd::request::wait_all(sending)?;
    let in_vain = |kind: &ErrorKind| matches!(kind, ErrorKind::InvalidArgument { .. });
    ground.refused("recv_one from nobody", ground.recv_one::<u8>(None), in_vain);
    ground.still_works()
}

fn synchronous(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    for count in COUNTS {
        let receiving = ground.irecv(vec![0; count], (from, 83))?;
        ground.ssend(&values(ground.rank(), count), (to, 83))?;
        ground.same("irecv", &receiving.wait()?.0, &values(from, count));
        let sending = ground.issend(values(ground.rank(), count), (to, 84))?;
        let tested = sending.test();
        ground.holds("nobody receives yet", tested.is_err());
        ground.barrier()?;
        ground.same("recv", &ground.recv::<u64>((from, 84))?.0, &values(from, count));
        if let Err(sending) = tested {
            ground.same("issend gives back", &sending.wait()?, &values(ground.rank(), count));
        }
    }
    ground.ssend(&[1_u8], None)
}

fn replace(ground: &Ground<'_>) -> Result<()> {
    for steps in ground.ranks() {
        let (to, from) = (ground.after(steps), ground.before(steps));
        for count in COUNTS {
            let mut mine = values(ground.rank(), count);
            let status = ground.sendrecv_replace(&mut mine, (to, 85), (from, 85))?;
            ground.same("sendrecv_replace", &mine, &values(from, count));
            ground.equal("its status", status, Status { source: from, tag: 85, count });
        }
    }
    let mut kept = [7_u8; 3];
    ground.sendrecv_replace(&mut kept, None, None)?;
    ground.same("from nobody", &kept, &[7; 3]);
    Ok(())
}
