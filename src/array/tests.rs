//! Every operation on any number of ranks is the operation on one.

use arbtest::arbitrary::{Arbitrary, Result as Made, Unstructured};

use super::{Axes, Block, Boundary, DistArray, Halo, Layout, Stencil};
use crate::{
    error::Result,
    op::Sum,
    random::{Generator, Random},
};

/// A shape, a layout of it, and a halo.
#[derive(Clone, Debug)]
struct Case<const D: usize> {
    ranks: usize,
    layout: Layout<D>,
    halo: Halo<D>,
}

fn layout<const D: usize>(
    shape: [usize; D],
    ranks: usize,
    u: &mut Unstructured<'_>,
) -> Made<Layout<D>> {
    let axes: Vec<usize> = (0..D).filter(|_| bool::arbitrary(u).unwrap_or(true)).collect();
    let axes = if axes.is_empty() { vec![u.choose_index(D)?] } else { axes };
    let layout = Layout::along(shape, u.int_in_range(1..=ranks)?, &axes);
    Ok(if u.ratio(1, 4)? {
        let axis = u.choose_index(D)?;
        let weights = (0..shape[axis]).map(|_| Ok(f64::from(u.int_in_range(0..=9)?)));
        layout.weighted(axis, &weights.collect::<Made<Vec<_>>>()?)
    } else {
        layout
    })
}

impl<'a, const D: usize> Arbitrary<'a> for Case<D> {
    fn arbitrary(u: &mut Unstructured<'a>) -> Made<Self> {
        let ranks = u.int_in_range(1..=8)?;
        let mut shape = [0; D];
        for len in &mut shape {
            let least = usize::from(!u.ratio(1, 12)?);
            *len = u.int_in_range(least..=9 * least)?;
        }
        let mut halo = if bool::arbitrary(u)? { Halo::star(1) } else { Halo::cube(1) };
        for axis in 0..D {
            halo = halo.with_width(axis, [u.int_in_range(0..=3)?, u.int_in_range(0..=3)?]);
            let closed = [Boundary::Fixed, Boundary::Insulated];
            let ends = [*u.choose(&closed)?, *u.choose(&closed)?];
            halo =
                if u.ratio(1, 3)? { halo.periodic(axis) } else { halo.with_boundary(axis, ends) };
        }
        Ok(Self { ranks, layout: layout(shape, ranks, u)?, halo })
    }
}

/// Where the cell at `place` comes from, said in another way than the halo does: step by step.
fn source<const D: usize>(
    place: [isize; D],
    shape: [usize; D],
    halo: &Halo<D>,
) -> Option<[usize; D]> {
    let mut index = [0; D];
    for axis in 0..D {
        let (mut at, mut back, len) = (0_isize, place[axis] < 0, shape[axis] as isize);
        // A walker starts at the first or the last cell and takes the steps that lead outside.
        let steps = if back { -place[axis] } else { place[axis] - (len - 1) };
        let [before, behind] = halo.boundaries()[axis];
        index[axis] = if (0..len).contains(&place[axis]) {
            place[axis] as usize
        } else {
            if !back {
                at = len - 1;
            }
            for _ in 0..steps {
                let next = if back { at - 1 } else { at + 1 };
                let end = if next < 0 { before } else { behind };
                if (0..len).contains(&next) {
                    at = next;
                    continue;
                }
                match end {
                    Boundary::Fixed => return None,
                    Boundary::Periodic => at = if next < 0 { len - 1 } else { 0 },
                    Boundary::Insulated => back = !back, // stays where it is and turns round
                }
            }
            at as usize
        };
    }
    Some(index)
}

fn number<const D: usize>(index: [usize; D]) -> i64 {
    1 + index.iter().fold(0, |number, &at| number * 16 + at as i64)
}

/// All cells of the halo are what they should be, and no other has been touched.
fn halos_hold<const D: usize>(Case { ranks, layout, halo }: &Case<D>)
where
    [usize; D]: Axes,
{
    let shape = layout.shape();
    let done = crate::local(*ranks, |world| {
        let mut one = DistArray::from_fn(world, layout, *halo, number)?;
        let mut other = one.map(|value| -value);
        for round in 0..4 {
            match round {
                0 => one.exchange()?,
                1 => one.begin()?.finish(&mut one)?,
                2 => {
                    let mut exchange = one.begin()?;
                    let mut tests = 0..100;
                    while tests.next().is_some() && !exchange.test()? {}
                    exchange.finish(&mut one)?; // whether or not all have come
                }
                _ => DistArray::exchange_all([&mut one, &mut other])?,
            }
        }
        let (block, widths) = (one.block(), halo.widths());
        for (array, sign) in [(&one, 1), (&other, -1)] {
            for (place, &cell) in Block::whole(array.frame.shape).indices().zip(&array.cells) {
                let offset: [isize; D] =
                    std::array::from_fn(|axis| place[axis] as isize - widths[axis][0] as isize);
                let outside = (0..D)
                    .filter(|&axis| !(0..block.shape()[axis] as isize).contains(&offset[axis]));
                let global =
                    std::array::from_fn(|axis| block.start()[axis] as isize + offset[axis]);
                let kept = match outside.count() {
                    0 | 1 => true,
                    _ => halo.stencil() == Stencil::Box,
                };
                let known = source(global, shape, halo).filter(|_| kept);
                let expected = known.map_or(0, |index| sign * number(index));
                assert_eq!(cell, expected, "{halo:?} {layout:?} {global:?}");
            }
        }
        Ok(())
    });
    done.unwrap();
}

#[test]
fn halos_hold_what_the_global_array_has_there() {
    arbtest::arbtest(|u| {
        match u.int_in_range(1..=3)? {
            1 => halos_hold(&Case::<1>::arbitrary(u)?),
            2 => halos_hold(&Case::<2>::arbitrary(u)?),
            _ => halos_hold(&Case::<3>::arbitrary(u)?),
        }
        Ok(())
    })
    .budget_ms(2_000);
}

/// Some steps of a stencil that uses all of the halo; the whole array after them.
fn stepped<const D: usize>(case: &Case<D>, steps: usize) -> Result<Vec<u64>, crate::Failure>
where
    [usize; D]: Axes,
{
    let Case { ranks, layout, halo } = case;
    let offsets: [[isize; D]; 3] = std::array::from_fn(|at| {
        let mut offset = [0; D];
        if at > 0 {
            let axis = (0..D).max_by_key(|&axis| halo.widths()[axis][at - 1]).unwrap_or(0);
            let width = halo.widths()[axis][at - 1] as isize;
            offset[axis] = if at == 1 { -width } else { width };
        }
        offset
    });
    let all = crate::local(*ranks, |world| {
        let mut old = DistArray::from_fn(world, layout, *halo, |index| number(index) as u64)?;
        old.set_boundary(|place| {
            place.iter().fold(7_u64, |sum, &at| sum.wrapping_mul(31).wrapping_add(at as u64))
        });
        let mut new = old.clone();
        for step in 0..steps {
            let kernel = |[here, before, behind]: [u64; 3]| {
                here.wrapping_mul(3).wrapping_add(before).wrapping_add(behind << 7)
            };
            if step % 2 == 0 {
                old.update(&mut new, offsets, kernel)?;
            } else {
                old.update_lines(&mut new, |out, line| {
                    for (i, out) in out.iter_mut().enumerate() {
                        *out = kernel(offsets.map(|offset| line.at(offset)[i]));
                    }
                })?;
            }
            std::mem::swap(&mut old, &mut new);
        }
        Ok(old.replicate()?.into_iter().collect::<Vec<_>>())
    })?;
    assert!(all.iter().all(|whole| *whole == all[0]));
    Ok(all.into_iter().next().unwrap_or_default())
}

fn stencils_agree<const D: usize>(case: &Case<D>)
where
    [usize; D]: Axes,
{
    let alone = Case { ranks: 1, layout: Layout::new(case.layout.shape(), 1), halo: case.halo };
    assert_eq!(stepped(case, 3).unwrap(), stepped(&alone, 3).unwrap(), "{case:?}");
}

#[test]
fn a_stencil_gives_the_same_bits_on_any_number_of_ranks() {
    arbtest::arbtest(|u| {
        match u.int_in_range(1..=3)? {
            1 => stencils_agree(&Case::<1>::arbitrary(u)?),
            2 => stencils_agree(&Case::<2>::arbitrary(u)?),
            _ => stencils_agree(&Case::<3>::arbitrary(u)?),
        }
        Ok(())
    })
    .budget_ms(2_000);
}

/// From one layout to another and back, with axes in another order, to fewer ranks, to one.
fn cells_move<const D: usize>(case: &Case<D>, u: &mut Unstructured<'_>) -> Made<()>
where
    [usize; D]: Axes,
{
    let Case { ranks, layout: from, halo } = case;
    let mut axes: [usize; D] = std::array::from_fn(|axis| axis);
    for axis in (1..D).rev() {
        axes.swap(axis, u.int_in_range(0..=axis)?);
    }
    let shape = from.shape();
    let to = layout(axes.map(|axis| shape[axis]), *ranks, u)?;
    let few = u.int_in_range(1..=*ranks)?;
    let of_few = layout(shape, few, u)?;
    let done = crate::local(*ranks, |world| {
        let one = DistArray::from_fn(world, from, *halo, number)?;
        let mut other = DistArray::from_fn(world, &to, Halo::cube(1), |_| 0)?;
        one.permute_into(&mut other, axes)?;
        for index in other.block().indices() {
            let mut original = [0; D];
            for axis in 0..D {
                original[axes[axis]] = index[axis];
            }
            assert_eq!(other.get(index), Some(number(original)), "{case:?} {to:?} {axes:?}");
        }
        let whole = one.gather(ranks - 1)?;
        assert_eq!(whole.is_some(), world.rank() == ranks - 1);
        let again = DistArray::from_root(world, from, *halo, ranks - 1, || {
            whole.expect("the root has gathered it")
        })?;
        assert_eq!(again.checksum()?, one.checksum()?);
        for halo in [*halo, Halo::none()] {
            let mut same = one.redistribute(from, halo)?;
            assert_eq!((same.checksum()?, same.halo()), (one.checksum()?, halo));
            same.map_inplace(|_| 0);
            one.redistribute_into(&mut same)?;
            assert_eq!(same.checksum()?, one.checksum()?);
        }
        // To fewer ranks, in another order, and back.
        let mut back = one.map(|_| 0);
        let member = world.size() - world.rank() <= few;
        let color = member.then_some(0);
        let some = world.split(color, -(world.rank() as i64))?;
        let mut small = match &some {
            Some(some) => Some(DistArray::from_fn(some, &of_few, Halo::none(), |_| 0)?),
            None => None,
        };
        DistArray::copy_between(world, Some(&one), small.as_mut())?;
        DistArray::copy_between(world, small.as_ref(), Some(&mut back))?;
        assert_eq!(back.checksum()?, one.checksum()?);
        assert_eq!(back.sum()?, one.sum()?);
        Ok(())
    });
    done.unwrap();
    Ok(())
}

#[test]
fn cells_move_from_any_layout_to_any_other() {
    arbtest::arbtest(|u| match u.int_in_range(1..=3)? {
        1 => cells_move(&Case::<1>::arbitrary(u)?, u),
        2 => cells_move(&Case::<2>::arbitrary(u)?, u),
        _ => cells_move(&Case::<3>::arbitrary(u)?, u),
    })
    .budget_ms(2_000);
}

#[test]
fn cells_that_are_where_they_belong_need_no_other_rank() {
    let done = crate::local(2, |world| {
        let (layout, halo) = (Layout::new([4, 5], 2), Halo::star(1));
        let mut array = DistArray::from_fn(world, &layout, halo, number)?;
        array.set_boundary(|_| 7);
        let mut other = DistArray::from_fn(world, &layout, Halo::none(), |_| 0)?;
        if world.rank() == 0 {
            let same = array.redistribute(&layout, halo)?;
            assert_eq!(same.view(), array.view());
            let beside = same.cells.iter().filter(|&&cell| cell == 0).count();
            assert_eq!(beside, same.cells.len() - same.block().len(), "no cell of the halo");
            array.redistribute_into(&mut other)?;
            assert_eq!(other.view(), array.view());
        }
        Ok(())
    });
    done.unwrap();
}

/// Sums and extremes are those of the whole array.
fn numbers_agree<const D: usize>(Case { ranks, layout, halo }: &Case<D>)
where
    [usize; D]: Axes,
{
    let value = |index| (number(index) * 7919 % 101) as f64;
    let mut all: Vec<([usize; D], f64)> =
        Block::whole(layout.shape()).indices().map(|index| (index, value(index))).collect();
    let (sum, squares) = all
        .iter()
        .fold((0.0, 0.0), |(sum, squares), (_, value)| (sum + value, squares + value * value));
    all.sort_by(|one, other| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)));
    let (first, last) = (all.first().map(|top| top.1), all.last().map(|top| top.1));
    let done = crate::local(*ranks, |world| {
        let array = DistArray::from_fn(world, layout, *halo, value)?;
        // Whole numbers: sums are exact.
        assert_eq!((array.sum()?, array.sum_reproducible()?), (sum, sum));
        assert_eq!((array.dot(&array)?, array.norm2()?), (squares, squares.sqrt()));
        assert_eq!((array.min()?, array.max()?), (last, first));
        let top: Vec<_> = array.top(5)?.into_iter().map(|(value, index)| (index, value)).collect();
        assert_eq!(top, all[..all.len().min(5)]);
        assert_eq!(array.max_loc()?.map(|(value, index)| (index, value)), all.first().copied());
        let lowest = array.min_loc()?;
        assert_eq!(lowest.map(|(value, _)| value), last);
        let mut counts = array.map(|_| 0_u64);
        let mine = all.iter().skip(world.rank()).step_by(world.size());
        counts.accumulate(mine.map(|&(index, value)| (index, value as u64)), Sum)?;
        counts.zip_inplace(&array, |count, value| count - value as u64);
        assert_eq!(counts.max()?.unwrap_or(0), 0);
        Ok(())
    });
    done.unwrap();
}

#[test]
fn sums_and_extremes_are_those_of_the_whole_array() {
    arbtest::arbtest(|u| {
        match u.int_in_range(1..=3)? {
            1 => numbers_agree(&Case::<1>::arbitrary(u)?),
            2 => numbers_agree(&Case::<2>::arbitrary(u)?),
            _ => numbers_agree(&Case::<3>::arbitrary(u)?),
        }
        Ok(())
    })
    .budget_ms(2_000);
}

/// Random cells are those of the whole array, drawn one after the other.
fn random_cells_agree<const D: usize>(Case { ranks, layout, halo }: &Case<D>, random: Random)
where
    [usize; D]: Axes,
{
    let shape = layout.shape();
    let value = |index: [usize; D], generator: &mut Generator| {
        // More numbers than come at once, and not the same number of them for each cell.
        let count = 1 + index.iter().sum::<usize>() % 7;
        (0..count)
            .map(|_| generator.uniform())
            .fold(index[D - 1] as f64, |sum, number| 2.0 * sum + number)
    };
    let whole: Vec<f64> = (0..)
        .zip(Block::whole(shape).indices())
        .map(|(place, index)| value(index, &mut random.at(place)))
        .collect();
    let done = crate::local(*ranks, |world| {
        let mut array = DistArray::from_fn(world, layout, *halo, |_| f64::NAN)?;
        array.fill_random(random, |generator, index| value(index, generator));
        let found: Vec<f64> = array.replicate()?.into_iter().collect();
        assert_eq!(found, whole, "{layout:?} {halo:?} {random:?}");
        Ok(())
    });
    done.unwrap();
}

#[test]
fn random_cells_are_the_same_on_any_number_of_ranks() {
    arbtest::arbtest(|u| {
        let random = Random::new(u.arbitrary()?).stream(u.arbitrary()?);
        match u.int_in_range(1..=3)? {
            1 => random_cells_agree(&Case::<1>::arbitrary(u)?, random),
            2 => random_cells_agree(&Case::<2>::arbitrary(u)?, random),
            _ => random_cells_agree(&Case::<3>::arbitrary(u)?, random),
        }
        Ok(())
    })
    .budget_ms(1_000);
    // Enough cells that threads share them.
    for ranks in [1, 2] {
        let layout = Layout::along([70, 30, 40], ranks, &[2]);
        random_cells_agree(&Case { ranks, layout, halo: Halo::star(1) }, Random::new(3));
    }
}

#[test]
fn wrong_calls_are_refused_and_name_their_line() {
    let done = crate::local(2, |world| {
        let layout = Layout::new([4, 4], 2);
        let mut array = DistArray::from_fn(world, &layout, Halo::star(1), |_| 0.0)?;
        let mut out = array.clone();
        let far = array.update(&mut out, [[0, 2]], |[cell]| cell).unwrap_err();
        assert!(far.to_string().contains("does not reach the cells at [0, 2]"), "{far}");
        assert_eq!((far.location().file(), far.location().line()), (file!(), line!() - 2));
        // Another rank may have made the call, and waits: nothing that comes later is for it.
        assert!(array.exchange().unwrap_err().to_string().contains("has failed"));
        let make = || DistArray::from_fn(world, &layout, Halo::star(1), |_| 0.0);
        let (mut array, mut narrow) =
            (make()?, DistArray::from_fn(world, &layout, Halo::none(), |_| 0.0)?);
        let corner = array.update(&mut out, [[1, 1]], |[cell]| cell);
        assert!(corner.is_err(), "a star has no corners");
        assert!(make()?.update(&mut narrow, [[0, 0]], |[cell]| cell).is_err());
        let (mut array, mut apart) = (make()?, make()?);
        assert!(DistArray::exchange_all([&mut array, &mut apart]).is_err());
        let mut array = make()?;
        assert!(array.begin()?.finish(&mut apart).is_err());
        array.exchange()?; // what was begun for nothing is in nobody's way
        let many = DistArray::from_fn(world, &Layout::new([9], 3), Halo::none(), |_| 0);
        assert!(many.is_err(), "there are two ranks");
        let other = if world.rank() == 0 { [4, 5] } else { [5, 4] };
        let differ = DistArray::from_fn(world, &Layout::new(other, 2), Halo::none(), |_| 0);
        assert!(differ.unwrap_err().to_string().contains("layout"));
        let wide = DistArray::from_fn(world, &layout, Halo::star(usize::MAX), |_| 0_u8);
        assert!(wide.unwrap_err().to_string().contains("is wider than"));
        let large = Layout::new([1 << 40, 1 << 40], 2);
        let large = DistArray::from_fn(world, &large, Halo::none(), |_| 0_u8).unwrap_err();
        assert!(large.to_string().contains("does not fit into this rank's memory"), "{large}");
        Ok(())
    });
    done.unwrap();
}

#[test]
fn no_exchange_begins_after_one_was_lost() {
    let done = crate::local(2, |world| {
        let layout = Layout::new([4, 4], 2);
        let mut array = DistArray::from_fn(world, &layout, Halo::star(1), |_| 0.0)?;
        // An exchange that a panic has ended leaves messages behind.
        let lost = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _exchange = array.begin();
            panic!("in the middle");
        }));
        assert!(lost.is_err());
        assert!(array.exchange().unwrap_err().to_string().contains("has failed"));
        Ok(())
    });
    done.unwrap();
}
