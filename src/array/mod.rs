//! Arrays whose blocks lie on different ranks.
//!
//! A [`Layout`] says which block of a global array each rank owns, a [`Halo`] which cells around a
//! block are copied from others; a [`DistArray`] is both with the cells. Everything works for 1 to
//! 6 axes, for any number of ranks, and for blocks that are uneven or empty; what the array then
//! holds does not depend on the number of ranks. A [`DistVec`] is for what has no place in an array:
//! particles, keys.

mod block;
mod dist;
#[cfg(feature = "fft")]
mod fft;
mod frame;
mod halo;
mod layout;
mod lines;
mod random;
mod redistribute;
#[cfg(all(test, not(loom)))]
mod tests;
mod total;
mod vec;

#[cfg(feature = "fft")]
pub use self::fft::Fft;
pub use self::{
    block::{Axes, Block},
    dist::DistArray,
    frame::Exchange,
    halo::{Boundary, Halo, Stencil},
    layout::{Layout, block_range},
    lines::Line,
    vec::DistVec,
};
