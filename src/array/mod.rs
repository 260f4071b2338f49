//! Arrays whose blocks lie on different ranks: who owns what, the halo between neighbours, and sums
//! over all of it.
//!
//! A [`Layout`] says which block of a global array each rank of a grid owns; a [`Halo`] keeps the
//! copies of the neighbours' border cells up to date.

mod block;
mod halo;
mod layout;
mod total;

pub use self::{
    block::{Axes, Block},
    halo::{Exchange, Halo},
    layout::{Layout, block_range},
    total::{checksum, sum},
};
