//! The matrix of NPB CG: sparse, symmetric, made of random numbers.

use rayon::prelude::*;
use spmd::{Comm, array::block_range};

use super::npb::Random;

/// The smallest eigenvalue of the matrix without its shift, as it is made.
const CONDITION: f64 = 0.1;

/// This rank's rows of the matrix, in compressed form.
pub(crate) struct Matrix {
    /// How many rows each rank has.
    counts: Vec<usize>,
    /// Where the elements of each row begin, and those of the last end.
    starts: Vec<usize>,
    columns: Vec<u32>,
    values: Vec<f64>,
}

impl Matrix {
    /// The sum of the products of sparse random vectors with themselves, with weights that fall
    /// from 1 to `CONDITION`. All ranks draw the same numbers and keep what falls into their rows.
    ///
    /// `order` rows, made of vectors with so many random elements; `shift` is taken off the diagonal.
    pub(crate) fn new(world: &Comm, order: usize, nonzeros: usize, shift: f64) -> Self {
        let block = |rank| block_range(order, world.size(), rank);
        let rows = block(world.rank());
        let mut random = Random::new(314_159_265).skip(1);
        let ratio = CONDITION.powf(1.0 / order as f64);
        let mut weight = 1.0;
        let mut elements = vec![Vec::new(); rows.len()];
        for diagonal in 0..order {
            let vector = sparse_vector(&mut random, order, nonzeros, diagonal);
            for &(row, scale) in vector.iter().filter(|(row, _)| rows.contains(row)) {
                let products = vector.iter().map(|&(at, value)| (at, weight * scale * value));
                elements[row - rows.start].extend(products);
            }
            if rows.contains(&diagonal) {
                elements[diagonal - rows.start].push((diagonal, CONDITION - shift));
            }
            weight *= ratio;
        }

        let (mut starts, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
        for mut row in elements {
            row.sort_by_key(|&(column, _)| column);
            for same in row.chunk_by(|left, right| left.0 == right.0) {
                columns.push(same[0].0 as u32);
                values.push(same.iter().map(|(_, value)| value).sum());
            }
            starts.push(columns.len());
        }
        let counts = (0..world.size()).map(|rank| block(rank).len()).collect();
        Self { counts, starts, columns, values }
    }

    /// How many rows each rank has.
    pub(crate) fn counts(&self) -> &[usize] {
        &self.counts
    }

    /// How many elements this rank has.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// This rank's rows of the product with a vector, of which `all` has all elements.
    #[inline]
    pub(crate) fn times(&self, all: &[f64], product: &mut [f64]) {
        let rows = product.par_iter_mut().zip(self.starts.par_windows(2));
        rows.with_min_len(256).for_each(|(product, ends)| {
            let part = ends[0]..ends[1];
            let terms = self.columns[part.clone()].iter().zip(&self.values[part]);
            *product = terms.map(|(&column, value)| value * all[column as usize]).sum();
        });
    }
}

/// `nonzeros` random elements in random places, and 1/2 on the diagonal.
fn sparse_vector(
    random: &mut Random,
    order: usize,
    nonzeros: usize,
    diagonal: usize,
) -> Vec<(usize, f64)> {
    let mut vector: Vec<(usize, f64)> = Vec::with_capacity(nonzeros + 1);
    while vector.len() < nonzeros {
        let (value, place) = (random.draw(), random.draw());
        let place = (order.next_power_of_two() as f64 * place) as usize;
        if place < order && vector.iter().all(|&(other, _)| other != place) {
            vector.push((place, value));
        }
    }
    match vector.iter_mut().find(|(place, _)| *place == diagonal) {
        Some((_, value)) => *value = 0.5,
        None => vector.push((diagonal, 0.5)),
    }
    vector
}
