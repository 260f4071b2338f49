//! Fourier transforms of arrays that lie on many ranks.

use std::{cell::RefCell, panic::Location, sync::Arc};

use ndarray::{Axis, Zip};
use num_complex::Complex64;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};

use super::{Axes, DistArray, Halo, Layout};
use crate::{
    comm::Comm,
    error::{ErrorKind, Result},
};

/// The discrete Fourier transform of arrays of one shape, along all axes.
///
/// The array is cut along all axes but one (in *slabs* if it has two axes, in *pencils* if it has
/// three); after the transform along that axis the cells move, so that the next one is whole. Every
/// rank needs to talk to the ranks of one row of the grid only.
///
/// The transform of `f` at wave number `k` is `Σ f(x) exp(-2πi k·x/n)`; the inverse has the other
/// sign and divides by the number of cells.
///
/// # Examples
/// ```
/// use spmd::array::{DistArray, Fft, Halo};
/// let spectra = spmd::local(3, |world| {
///     let fft = Fft::new(world, [8, 6])?;
///     let wave = |[i, _j]: [usize; 2]| (2.0 * std::f64::consts::PI * i as f64 / 8.0).cos();
///     let field = DistArray::from_fn(world, fft.real_layout(), Halo::none(), wave)?;
///     let spectrum = fft.forward_real(&field)?;
///     let back = fft.inverse_real(&spectrum)?;
///     let mut error = back.clone();
///     error.zip_inplace(&field, |one, other| (one - other).abs());
///     assert!(error.max()?.unwrap() < 1e-15);
///     Ok(spectrum.replicate()?[[1, 0]].re)
/// });
/// assert!((spectra.unwrap()[0] - 24.0).abs() < 1e-13);
/// ```
#[derive(Debug)]
pub struct Fft<const D: usize>
where
    [usize; D]: Axes,
{
    shape: [usize; D],
    /// Of the complex array, by the axis along which it is whole.
    complex: [Layout<D>; D],
    /// Of the real array, whole along the last axis, and of its spectrum.
    real: Layout<D>,
    half: [Layout<D>; D],
}

impl<const D: usize> Fft<D>
where
    [usize; D]: Axes,
{
    /// Transforms of arrays of this shape on the ranks of `comm`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if an axis has no cells, or there is but one axis and more
    /// than one rank.
    #[track_caller]
    pub fn new(comm: &Comm, shape: [usize; D]) -> Result<Self> {
        let refuse = |what: String| {
            let why = ErrorKind::InvalidArgument { what };
            Err(comm.refuse("Fft::new", why, Location::caller()))
        };
        if shape.contains(&0) {
            return refuse(format!("an array of {shape:?} has no cells to transform"));
        }
        if D == 1 && comm.size() > 1 {
            return refuse("an array of one axis is transformed on one rank".to_owned());
        }
        let cut: Vec<usize> = (0..D.max(2) - 1).collect();
        let mut dims = Layout::along(shape, comm.size(), &cut).dims();
        let mut grids = [dims; D];
        for axis in (0..D - 1).rev() {
            // What cut this axis cuts the one that has just been transformed.
            dims.swap(axis, axis + 1);
            grids[axis] = dims;
        }
        let mut halved = shape;
        halved[D - 1] = shape[D - 1] / 2 + 1;
        Ok(Self {
            shape,
            complex: grids.map(|dims| Layout::on_grid(shape, dims)),
            real: Layout::on_grid(shape, grids[D - 1]),
            half: grids.map(|dims| Layout::on_grid(halved, dims)),
        })
    }

    /// The layout of complex arrays that are to be transformed.
    pub fn layout(&self) -> &Layout<D> {
        &self.complex[D - 1]
    }

    /// The layout of what [`forward`](Self::forward) makes of them.
    pub fn spectrum_layout(&self) -> &Layout<D> {
        &self.complex[0]
    }

    /// The layout of real arrays that are to be transformed.
    pub fn real_layout(&self) -> &Layout<D> {
        &self.real
    }

    /// The layout of what [`forward_real`](Self::forward_real) makes of them: of the wave numbers
    /// along the last axis only those from 0 to half the cells are kept, as the others are their
    /// conjugates.
    pub fn real_spectrum_layout(&self) -> &Layout<D> {
        &self.half[0]
    }

    /// The wave number of a cell of a spectrum, along each axis: from minus half the cells to half
    /// of them.
    pub fn wave_numbers(&self, index: [usize; D]) -> [isize; D] {
        std::array::from_fn(|axis| {
            let (at, len) = (index[axis] as isize, self.shape[axis] as isize);
            if at <= len / 2 { at } else { at - len }
        })
    }

    /// The transform of a complex array.
    ///
    /// # Collective
    /// For every axis but one, the cells move as by
    /// [`redistribute_into`](DistArray::redistribute_into).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if it has not the [layout](Self::layout) of the transform.
    #[track_caller]
    pub fn forward(&self, array: &DistArray<Complex64, D>) -> Result<DistArray<Complex64, D>> {
        let at = Location::caller();
        check(array, self.layout(), at)?;
        let mut cells = array.redistribute(self.layout(), Halo::none())?;
        along(&mut cells, D - 1, false);
        through(cells, (0..D - 1).rev(), &self.complex, false).map_err(|error| error.called_at(at))
    }

    /// The array whose transform this is.
    ///
    /// # Collective
    /// As [`forward`](Self::forward).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if it has not the [layout](Self::spectrum_layout) of a
    /// spectrum.
    #[track_caller]
    pub fn inverse(&self, spectrum: &DistArray<Complex64, D>) -> Result<DistArray<Complex64, D>> {
        let at = Location::caller();
        check(spectrum, self.spectrum_layout(), at)?;
        let mut cells = spectrum.redistribute(self.spectrum_layout(), Halo::none())?;
        along(&mut cells, 0, true);
        let mut cells =
            through(cells, 1..D, &self.complex, true).map_err(|error| error.called_at(at))?;
        let scale = 1.0 / self.shape.iter().product::<usize>() as f64;
        cells.map_inplace(|cell| cell * scale);
        Ok(cells)
    }

    /// The transform of a real array, half of it.
    ///
    /// # Collective
    /// As [`forward`](Self::forward).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if it has not the [layout](Self::real_layout) of the
    /// transform.
    #[track_caller]
    pub fn forward_real(&self, array: &DistArray<f64, D>) -> Result<DistArray<Complex64, D>> {
        let at = Location::caller();
        check(array, self.real_layout(), at)?;
        let plan: Arc<dyn RealToComplex<f64>> =
            RealFftPlanner::new().plan_fft_forward(self.shape[D - 1]);
        let mut cells = DistArray::from_fn(array.comm(), &self.half[D - 1], Halo::none(), |_| {
            Complex64::default()
        })?;
        let last = Axis(D - 1);
        Zip::from(array.view().lanes(last)).and(cells.view_mut().lanes_mut(last)).par_for_each(
            |line, mut out| {
                let mut line = line.to_vec();
                let mut half = plan.make_output_vec();
                plan.process(&mut line, &mut half).expect("lines are as long as planned");
                out.iter_mut().zip(half).for_each(|(out, value)| *out = value);
            },
        );
        through(cells, (0..D - 1).rev(), &self.half, false).map_err(|error| error.called_at(at))
    }

    /// The real array of whose transform this is half.
    ///
    /// # Collective
    /// As [`forward`](Self::forward).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if it has not the [layout](Self::real_spectrum_layout) of
    /// such a spectrum.
    #[track_caller]
    pub fn inverse_real(&self, spectrum: &DistArray<Complex64, D>) -> Result<DistArray<f64, D>> {
        let at = Location::caller();
        check(spectrum, self.real_spectrum_layout(), at)?;
        let mut cells = spectrum.redistribute(self.real_spectrum_layout(), Halo::none())?;
        if D > 1 {
            along(&mut cells, 0, true);
            cells =
                through(cells, 1..D - 1, &self.half, true).map_err(|error| error.called_at(at))?;
            cells = cells.redistribute(&self.half[D - 1], Halo::none())?;
        }
        let plan: Arc<dyn ComplexToReal<f64>> =
            RealFftPlanner::new().plan_fft_inverse(self.shape[D - 1]);
        let mut array = DistArray::from_fn(cells.comm(), &self.real, Halo::none(), |_| 0.0)?;
        let scale = 1.0 / self.shape.iter().product::<usize>() as f64;
        let even = self.shape[D - 1].is_multiple_of(2);
        let last = Axis(D - 1);
        Zip::from(cells.view().lanes(last)).and(array.view_mut().lanes_mut(last)).par_for_each(
            |half, mut out| {
                let (mut half, mut line) = (half.to_vec(), plan.make_output_vec());
                // Of a real line these have no imaginary part; what rounding has left there is refused
                // by the plan.
                half[0].im = 0.0;
                if let Some(last) = half.last_mut().filter(|_| even) {
                    last.im = 0.0;
                }
                plan.process(&mut half, &mut line).expect("lines are as long as planned");
                out.iter_mut().zip(line).for_each(|(out, value)| *out = value * scale);
            },
        );
        Ok(array)
    }
}

/// Transforms along one axis after the other, each when the cells have moved so that it is
/// whole.
fn through<const D: usize>(
    mut cells: DistArray<Complex64, D>,
    axes: impl Iterator<Item = usize>,
    layouts: &[Layout<D>; D],
    inverse: bool,
) -> Result<DistArray<Complex64, D>>
where
    [usize; D]: Axes,
{
    for axis in axes {
        cells = cells.redistribute(&layouts[axis], Halo::none())?;
        along(&mut cells, axis, inverse);
    }
    Ok(cells)
}

/// Transforms every line of this rank's block along an axis, on all threads of the rank.
fn along<const D: usize>(cells: &mut DistArray<Complex64, D>, axis: usize, inverse: bool)
where
    [usize; D]: Axes,
{
    thread_local! {
        static LINE: RefCell<[Vec<Complex64>; 2]> = RefCell::default();
    }
    let len = cells.shape()[axis];
    let mut planner = rustfft::FftPlanner::new();
    let plan = if inverse { planner.plan_fft_inverse(len) } else { planner.plan_fft_forward(len) };
    Zip::from(cells.view_mut().lanes_mut(Axis(axis))).par_for_each(|mut lane| {
        LINE.with_borrow_mut(|[line, scratch]| {
            line.clear();
            line.extend(lane.iter());
            scratch.resize(plan.get_inplace_scratch_len(), Complex64::default());
            plan.process_with_scratch(line, scratch);
            lane.iter_mut().zip(&*line).for_each(|(cell, &value)| *cell = value);
        });
    });
}

/// Whether an array has the layout that is asked for.
fn check<T: crate::datum::Datum, const D: usize>(
    array: &DistArray<T, D>,
    layout: &Layout<D>,
    at: &'static Location<'static>,
) -> Result<()>
where
    [usize; D]: Axes,
{
    if array.layout() == layout {
        return Ok(());
    }
    let what = format!("the array has {}, the transform {layout}", array.layout());
    Err(array.comm().refuse("Fft", ErrorKind::InvalidArgument { what }, at))
}

#[cfg(test)]
mod tests {
    use std::f64::consts::PI;

    use super::*;
    use crate::array::Block;

    fn value<const D: usize>(index: [usize; D]) -> Complex64 {
        let seed = index
            .iter()
            .fold(1_u64, |seed, &at| seed.wrapping_mul(6_364_136_223_846_793_005) + at as u64);
        Complex64::new((seed >> 40) as f64 / 2e7, (seed >> 20 & 0xfffff) as f64 / 1e6)
    }

    /// The transform by its definition.
    fn slow<const D: usize>(shape: [usize; D], k: [usize; D]) -> [Complex64; 2] {
        let mut sums = [Complex64::default(); 2];
        for index in Block::whole(shape).indices() {
            let phase: f64 =
                (0..D).map(|a| (k[a] * index[a] % shape[a]) as f64 / shape[a] as f64).sum();
            let turn = Complex64::from_polar(1.0, -2.0 * PI * phase);
            sums[0] += value(index) * turn;
            sums[1] += value(index).re * turn;
        }
        sums
    }

    fn check_shape<const D: usize>(shape: [usize; D], ranks: usize)
    where
        [usize; D]: Axes,
    {
        crate::local(ranks, |world| {
            let fft = Fft::new(world, shape)?;
            let array = DistArray::from_fn(world, fft.layout(), Halo::none(), value)?;
            let real = DistArray::from_fn(world, fft.real_layout(), Halo::none(), |index| {
                value(index).re
            })?;
            let (spectrum, half) = (fft.forward(&array)?, fft.forward_real(&real)?);
            for (spectrum, which) in [(&spectrum, 0), (&half, 1)] {
                for index in spectrum.block().indices() {
                    let got = spectrum.get(index).expect("the cell is this rank's");
                    let expected = slow(shape, index)[which];
                    assert!(
                        (got - expected).norm() < 1e-11,
                        "{shape:?} {index:?} {got} {expected}"
                    );
                }
            }
            let (back, back_real) = (fft.inverse(&spectrum)?, fft.inverse_real(&half)?);
            for index in array.block().indices() {
                assert!((back.get(index).unwrap() - value(index)).norm() < 1e-13);
                assert!((back_real.get(index).unwrap() - value(index).re).abs() < 1e-13);
            }
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn a_transform_is_the_sum_of_its_definition() {
        for ranks in [1, 2, 3, 6] {
            check_shape([6, 5], ranks);
            check_shape([3, 8], ranks);
            check_shape([4, 6, 5], ranks);
            check_shape([2, 3, 4], ranks);
            check_shape([2, 2, 3, 2], ranks);
        }
        check_shape([12], 1);
        check_shape([1, 1], 2);
    }

    #[test]
    fn other_layouts_are_refused() {
        crate::local(2, |world| {
            assert!(Fft::new(world, [8]).is_err() && Fft::new(world, [8, 0]).is_err());
            let fft = Fft::new(world, [4, 4])?;
            let other = Layout::along([4, 4], 2, &[1]);
            let array = DistArray::from_fn(world, &other, Halo::none(), |_| 0.0)?;
            let words = fft.forward_real(&array).unwrap_err().to_string();
            assert!(words.contains("4 x 4 cells on 1 x 2 ranks"), "{words}");
            Ok(())
        })
        .unwrap();
    }
}
