//! Memory that other ranks reach: MPI's one-sided communication, and arrays that the ranks of a host
//! share.

mod access;
#[allow(unsafe_code)] // hands out memory that others reach; each block states its reasons
mod node_array;
mod region;
#[allow(unsafe_code)] // hands out memory that others reach; each block states its reasons
mod window;

pub(super) use self::region::DroppedRegions;
pub use self::{
    access::{AtomicOp, Epoch, LockedPart, NoOp, Passive, Replace},
    node_array::NodeArray,
    window::{Lock, Plain, Window},
};
