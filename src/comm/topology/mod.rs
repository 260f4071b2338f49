//! Ranks as neighbours: on a grid, or on any graph.

mod cart;
mod cart_neighbors;
mod graph;

pub use self::{
    cart::Cart,
    graph::{Graph, NeighborRequest},
};
