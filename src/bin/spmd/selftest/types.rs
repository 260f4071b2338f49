//! Every kind of element, by message and by collective.

use std::fmt::Debug;

use spmd::{Datum, Ragged, Result};

use super::{
    Case, Ground,
    ground::{Guarded, value},
};

pub(super) const CASES: &[Case] = &[
    ("integers of all sizes", integers),
    ("floating-point numbers, NaN and infinity too", floats),
    ("bool and char", bool_and_char),
    ("arrays", arrays),
    ("a derived struct", derived_struct),
    ("a derived enum", derived_enum),
];

#[derive(Clone, Copy, Debug, PartialEq, bytemuck::NoUninit, bytemuck::AnyBitPattern)]
#[repr(C)]
struct Particle {
    position: [f64; 3],
    charge: i32,
    number: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, bytemuck::NoUninit, bytemuck::CheckedBitPattern)]
#[repr(u8)]
enum Phase {
    Solid = 1,
    Liquid = 2,
    Gas = 200,
}

#[derive(Clone, Copy, Debug, PartialEq, bytemuck::NoUninit, bytemuck::CheckedBitPattern)]
#[repr(C)]
struct Cell {
    energy: f64,
    phase: Phase,
    hot: bool,
    name: [u8; 6],
}

/// `make(rank, index)` travels in every way there is; `guard` is made by no rank.
fn travels<T: Datum + PartialEq + Debug>(
    ground: &Ground<'_>,
    guard: T,
    make: impl Fn(usize, usize) -> T,
) -> Result<()> {
    const COUNT: usize = 37;
    let of =
        |rank: usize, count: usize| (0..count).map(|index| make(rank, index)).collect::<Vec<T>>();
    let name = std::any::type_name::<T>();
    let (me, to, from) = (ground.rank(), ground.after(1), ground.before(1));
    let sending = ground.isend(of(me, COUNT), to)?;
    let (got, _) = ground.recv::<T>(from)?;
    ground.same(&format!("recv of {name}"), &got, &of(from, COUNT));
    sending.wait()?;
    let mut guarded = Guarded::new(COUNT, guard);
    ground.sendrecv(&of(me, COUNT), to, guarded.buffer(), from)?;
    ground.same(&format!("sendrecv of {name}"), guarded.buffer(), &of(from, COUNT));
    ground.holds("sendrecv stays inside its buffer", guarded.intact_beyond(COUNT));
    let receiving = ground.irecv(vec![guard; COUNT + 4], from)?;
    ground.send(&of(me, 1), to)?;
    ground.same(&format!("irecv of {name}"), &receiving.wait()?.0, &of(from, 1));

    let all: Vec<Vec<T>> = ground.ranks().map(|rank| of(rank, COUNT)).collect();
    let root = ground.size() - 1;
    let got = ground.bcast(root, || of(root, COUNT))?;
    ground.same(&format!("bcast of {name}"), &got, &all[root]);
    let mut guarded = Guarded::new(COUNT, guard);
    if me == 0 {
        guarded.buffer().copy_from_slice(&all[0]);
    }
    ground.bcast_into(0, guarded.buffer())?;
    ground.same(&format!("bcast_into of {name}"), guarded.buffer(), &all[0]);
    ground.holds("bcast_into stays inside its buffer", guarded.intact_beyond(COUNT));
    let gathered = ground.gather(0, &all[me])?;
    if let Some(rows) = &gathered {
        ground.same(&format!("gather of {name}"), rows.flat(), &all.concat());
    }
    ground.equal("gather has rows on the root only", gathered.is_some(), me == 0);
    let mine = ground.scatter(root, || Ragged::from_rows(all.clone()))?;
    ground.same(&format!("scatter of {name}"), &mine, &all[me]);
    ground.same(&format!("allgather of {name}"), ground.allgather(&all[me])?.flat(), &all.concat());
    let rows = Ragged::from_rows(ground.ranks().map(|_| of(me, COUNT)));
    ground.same(&format!("alltoall of {name}"), ground.alltoall(&rows)?.flat(), &all.concat());
    let last = ground.allreduce(&all[me], |_left, right| right)?;
    ground.same(&format!("allreduce of {name}"), &last, &all[root]);
    Ok(())
}

fn integers(ground: &Ground<'_>) -> Result<()> {
    macro_rules! each {
        ($($type:ty),*) => {$(
            travels::<$type>(ground, <$type>::MAX, |rank, index| value(rank, index) as $type & !1)?;
        )*};
    }
    each!(i8, i16, i32, i64, isize, u8, u16, u32, u64, usize, i128, u128);
    Ok(())
}

fn floats(ground: &Ground<'_>) -> Result<()> {
    travels::<f32>(ground, -1.0, |rank, index| value(rank, index) as f32 / 3.0)?;
    travels::<f64>(ground, -1.0, |rank, index| value(rank, index) as f64 / 3.0)?;
    let odd = [
        f64::INFINITY,
        f64::NEG_INFINITY,
        -0.0,
        f64::MIN_POSITIVE / 2.0,
        f64::from_bits(0x7ff8_0000_dead_beef),
    ];
    let mut got = [0.0; 5];
    ground.sendrecv(&odd, ground.after(1), &mut got, ground.before(1))?;
    ground.same("bits of odd numbers", &got.map(f64::to_bits), &odd.map(f64::to_bits));
    Ok(())
}

fn bool_and_char(ground: &Ground<'_>) -> Result<()> {
    travels(ground, false, |rank, index| value(rank, index).is_multiple_of(3))?;
    let letter = |rank, index| char::from_u32((value(rank, index) % 0xd800) as u32).unwrap_or('x');
    travels(ground, char::MAX, letter)
}

fn arrays(ground: &Ground<'_>) -> Result<()> {
    travels(ground, [0; 3], |rank, index| [value(rank, index), rank as u64 + 1, index as u64])?;
    travels(ground, [[0.0_f32; 2]; 2], |rank, index| [[rank as f32 + 1.0, index as f32]; 2])
}

fn derived_struct(ground: &Ground<'_>) -> Result<()> {
    let make = |rank: usize, index: usize| Particle {
        position: [rank as f64, index as f64, 0.1],
        charge: -(index as i32),
        number: value(rank, index) as u32,
    };
    travels(ground, Particle { charge: 1, ..make(0, 0) }, make)
}

fn derived_enum(ground: &Ground<'_>) -> Result<()> {
    let phase = |rank, index| match value(rank, index) % 2 {
        0 => Phase::Solid,
        _ => Phase::Liquid,
    };
    travels(ground, Phase::Gas, phase)?;
    let make = |rank: usize, index: usize| Cell {
        energy: rank as f64 + index as f64 / 7.0,
        phase: phase(rank, index),
        hot: index.is_multiple_of(2),
        name: *b"a cell",
    };
    travels(ground, Cell { phase: Phase::Gas, ..make(0, 0) }, make)
}
