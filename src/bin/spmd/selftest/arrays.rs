//! Arrays whose blocks lie on all ranks.

use spmd::{
    ErrorKind, Result,
    array::{Boundary, DistArray, DistVec, Halo, Layout},
    op::Sum,
};

use super::{Case, Ground};

pub(super) const CASES: &[Case] = &[
    ("halos hold the cells of the global array", halos),
    ("a stencil comes to what the whole array comes to", stencil),
    ("an array moves from any layout to any other", moved),
    ("sums, extremes and updates of a distributed array", numbers),
    ("items go to their owners, and lengths are evened out", items),
    #[cfg(feature = "fft")]
    ("Fourier transforms of a single cell are waves, and come back", waves),
];

const SHAPE: [usize; 3] = [5, 4, 7];

fn number([i, j, k]: [usize; 3]) -> i64 {
    (100 * i + 10 * j + k) as i64
}

fn halos(ground: &Ground<'_>) -> Result<()> {
    for halo in [Halo::cube(1), Halo::cube(2).with_width(1, [0, 5])] {
        let layout = Layout::new(SHAPE, ground.size());
        let halo = halo.all(Boundary::Periodic);
        let mut one = DistArray::from_fn(ground, &layout, halo, number)?;
        let mut other = one.map(|number| -number);
        for round in 0..2 {
            if round == 0 {
                DistArray::exchange_all([&mut one, &mut other])?;
            } else {
                one.begin()?.finish(&mut one)?;
            }
        }
        let (start, widths) = (one.block().start(), halo.widths());
        for (array, sign) in [(&one, 1), (&other, -1)] {
            if one.block().is_empty() {
                continue;
            }
            for ((i, j, k), &cell) in array.view_with_halo().indexed_iter() {
                let place = [i, j, k];
                let index = [0, 1, 2].map(|axis| {
                    let at = start[axis] + place[axis] + 2 * SHAPE[axis] - widths[axis][0];
                    at % SHAPE[axis]
                });
                ground.equal("a cell of the halo", cell, sign * number(index));
            }
        }
    }
    Ok(())
}

fn stencil(ground: &Ground<'_>) -> Result<()> {
    let layout = Layout::new(SHAPE, ground.size());
    let halo = Halo::star(1).all(Boundary::Insulated);
    let mut old = DistArray::from_fn(ground, &layout, halo, number)?;
    let mut new = old.clone();
    old.update(&mut new, [[0, 0, 0], [0, 0, -1], [0, 0, 1], [1, 0, 0]], |[here, a, b, c]| {
        1000 * here + a + b + c
    })?;
    for index in new.block().indices() {
        let [i, j, k] = index;
        let (left, right) = (k.saturating_sub(1), (k + 1).min(SHAPE[2] - 1));
        let below = (i + 1).min(SHAPE[0] - 1);
        let around = number([i, j, left]) + number([i, j, right]) + number([below, j, k]);
        ground.equal("a cell", new.get(index), Some(1000 * number(index) + around));
    }
    Ok(())
}

fn moved(ground: &Ground<'_>) -> Result<()> {
    let size = ground.size();
    let planes = Layout::along(SHAPE, size, &[0]);
    let array = DistArray::from_fn(ground, &planes, Halo::none(), number)?;
    let pencils = Layout::along(SHAPE, size, &[1, 2]);
    let cut = array.redistribute(&pencils, Halo::cube(1))?;
    ground.equal("the checksum", cut.checksum()?, array.checksum()?);
    let turned = Layout::new([SHAPE[2], SHAPE[0], SHAPE[1]], size);
    let mut turned = DistArray::from_fn(ground, &turned, Halo::none(), |_| 0)?;
    cut.permute_into(&mut turned, [2, 0, 1])?;
    for index in turned.block().indices() {
        let [k, i, j] = index;
        ground.equal("a cell of the permuted array", turned.get(index), Some(number([i, j, k])));
    }
    // To half of the ranks, and back.
    let few = size.div_ceil(2);
    let some = ground.split((ground.rank() < few).then_some(0), 0)?;
    let mut on_few = match &some {
        Some(some) => {
            Some(DistArray::from_fn(some, &Layout::new(SHAPE, few), Halo::none(), |_| 0)?)
        }
        None => None,
    };
    DistArray::copy_between(ground, Some(&array), on_few.as_mut())?;
    let mut back = array.map(|_| 0);
    DistArray::copy_between(ground, on_few.as_ref(), Some(&mut back))?;
    ground.equal("the checksum, back again", back.checksum()?, array.checksum()?);
    let whole = array.gather(size - 1)?;
    ground.equal("who has the whole", whole.is_some(), ground.rank() == size - 1);
    let right = whole.is_none_or(|whole| {
        whole.indexed_iter().all(|((i, j, k), &cell)| cell == number([i, j, k]))
    });
    ground.holds("the whole array", right);
    Ok(())
}

fn numbers(ground: &Ground<'_>) -> Result<()> {
    let layout = Layout::new(SHAPE, ground.size());
    let array = DistArray::from_fn(ground, &layout, Halo::star(1), |index| number(index) as f64)?;
    let cells = SHAPE.iter().product::<usize>() as f64;
    // The mean of a number is that of its digits.
    ground.equal("the sum", array.sum()?, cells * (200.0 + 15.0 + 3.0));
    ground.equal("the exact sum", array.sum_reproducible()?, cells * 218.0);
    ground.equal("the smallest", array.min_loc()?, Some((0.0, [0; 3])));
    ground.equal("the largest", array.max_loc()?, Some((436.0, [4, 3, 6])));
    let top: Vec<f64> = array.top(3)?.into_iter().map(|(value, _)| value).collect();
    ground.equal("the three largest", top, vec![436.0, 435.0, 434.0]);
    let mut counts = array.map(|_| 0_u32);
    counts.accumulate([([4, 0, ground.rank() % 7], 1), ([0, 0, 0], 2)], Sum)?;
    ground.equal("all updates", counts.sum()?, 3 * ground.size() as u32);
    ground.equal("the first cell", counts.max()?, Some(2 * ground.size() as u32));
    Ok(())
}

fn items(ground: &Ground<'_>) -> Result<()> {
    let (rank, size) = (ground.rank(), ground.size());
    // Rank r has r of them for each rank, and one more for rank 0.
    let of = |rank: usize| (0..=rank * size).map(move |item| [rank, item]);
    let mut items = DistVec::new(ground, of(rank).collect())?;
    items.migrate(|[_, item]| item % size)?;
    let wanted: Vec<_> = (0..size).flat_map(of).filter(|[_, item]| item % size == rank).collect();
    ground.equal("what has come", items.local(), &wanted[..]);
    let nobody = items.migrate(|&[from, item]| if from == item { size } else { rank });
    let expected = match nobody.as_ref().map_err(spmd::Error::kind) {
        Err(ErrorKind::InvalidArgument { .. }) => true,
        Err(ErrorKind::Elsewhere { rank: 0, .. }) => rank > 0,
        _ => false,
    };
    ground.holds("an owner that there is not is told to all", expected);
    ground.equal("what has stayed", items.local(), &wanted[..]);
    let in_order = items.gather(size - 1)?;
    items.rebalance()?;
    ground.equal("the whole", items.total_len()?, size + size * size * (size - 1) / 2);
    let share = items.total_len()? / size;
    ground.holds("an even share", (share..=share + 1).contains(&items.len()));
    ground.equal("the order", items.gather(size - 1)?, in_order);
    Ok(())
}

#[cfg(feature = "fft")]
fn waves(ground: &Ground<'_>) -> Result<()> {
    use num_complex::Complex64;
    use spmd::array::Fft;
    const SPOT: [usize; 3] = [1, 2, 3];
    let fft = Fft::new(ground, SHAPE)?;
    let wave = |index| {
        let turns = fft.wave_numbers(index).into_iter().zip(SPOT).zip(SHAPE);
        let turns: f64 = turns.map(|((k, at), n)| k as f64 * at as f64 / n as f64).sum();
        Complex64::cis(-2.0 * std::f64::consts::PI * turns)
    };
    let spot = |index| if index == SPOT { 1.0 } else { 0.0 };
    let close = |one: Complex64, other: Complex64| (one - other).norm() < 1e-13;
    let half = DistArray::from_fn(ground, fft.real_layout(), Halo::none(), spot)?;
    let half = fft.forward_real(&half)?;
    let whole = DistArray::from_fn(ground, fft.layout(), Halo::none(), |index| spot(index).into())?;
    let whole = fft.forward(&whole)?;
    for spectrum in [&half, &whole] {
        let cells = spectrum
            .block()
            .indices()
            .zip(&spectrum.view())
            .all(|(index, &cell)| close(cell, wave(index)));
        ground.holds("the spectrum is a wave", cells);
    }
    let (real, complex) = (fft.inverse_real(&half)?, fft.inverse(&whole)?);
    for index in real.block().indices() {
        let cell = real.get(index).unwrap_or(f64::NAN);
        ground.holds("the real cell is what it was", close(cell.into(), spot(index).into()));
    }
    for index in complex.block().indices() {
        let cell = complex.get(index).unwrap_or_default();
        ground.holds("the complex cell is what it was", close(cell, spot(index).into()));
    }
    Ok(())
}
