//! Layer 2: the communicator, typed and safe, over any engine.

mod address;
mod agreement;
#[cfg(all(test, not(loom)))]
mod bare_engine;
mod collective;
mod ext;
mod group;
mod lengths;
mod located;
mod object;
mod observe;
mod op;
#[allow(unsafe_code)] // says that what belongs to one thread need not say so itself
mod own;
mod p2p;
mod plan;
mod ragged;
mod request;
mod results;
mod rma;
#[allow(unsafe_code)] // lends borrowed memory to the engine; each block states its reasons
mod scope;
mod shared;
mod stats;
mod topology;
mod view;

use std::{
    cell::{Cell, OnceCell, RefCell},
    fmt,
    panic::Location,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use self::{
    address::Space,
    observe::Observer,
    own::{Bound, Own},
};
pub use self::{
    address::{ANY, Any, Dest, NULL_RANK, Src, Status},
    ext::{ExchangeSparse, GridAlltoall, Partition, Sort},
    group::Comparison,
    located::{Located, MaxLoc, MinLoc},
    observe::Span,
    op::{And, Bits, Commutative, Max, Min, Number, Or, Prod, ReduceOp, Sum, Xor, commutative},
    p2p::Message,
    plan::{Plan, PlanBuffer},
    ragged::{Ragged, Rows},
    request::{Request, test_all, test_any, test_some, wait_all, wait_any, wait_some},
    results::{Timed, Verification},
    rma::{AtomicOp, Epoch, Lock, LockedPart, NoOp, NodeArray, Passive, Plain, Replace, Window},
    scope::{Borrowed, Scope, ScopedRequest},
    shared::SharedComm,
    stats::{OperationStats, PeerStats, Stats},
    topology::{Cart, Graph, NeighborRequest},
    view::{OwnedBuf, View, ViewMut},
};
pub(crate) use self::{
    object::{pack, unpack},
    results::Results,
};
pub(crate) use crate::engine::Shelf;
use crate::{
    checks::Checks,
    datum::Signature,
    engine::{About, Context, Engine, Installed, Label, Rank, Step, Tag},
    error::{Call, Error, ErrorKind, Fault, Result, With},
};

/// An ordered group of ranks with a message space of its own.
///
/// A communicator belongs to the thread of its rank: it is neither `Send` nor `Sync`, so that a
/// rayon closure that captures it does not compile.
///
/// ```compile_fail,E0277
/// # use rayon::prelude::*;
/// spmd::local(2, |world| {
///     (0..4).into_par_iter().for_each(|_| { world.barrier().unwrap(); });
///     Ok(())
/// });
/// ```
///
/// The collectives and their forms. `x` takes rows whose lengths nobody else need know, `x_known`
/// lengths that all ranks know (with `x_known_into` into the caller's memory), `x_into` equal rows
/// into the caller's memory, `x_one` single values, `ix` does not wait; [`plan`](Self::plan) prepares those marked with a star.
///
/// | | `x` | `x_known` | `x_into` | `x_one` | `ix` | `x_obj` | MPI |
/// |---|---|---|---|---|---|---|---|
/// | `barrier`* | ✓ | | | | ✓ | | `MPI_Barrier` |
/// | `bcast`* | ✓ | | ✓ | ✓ | ✓ | ✓ | `MPI_Bcast` |
/// | `gather`* | ✓ | ✓ | ✓ | | ✓ | ✓ | `MPI_Gather`, `MPI_Gatherv` |
/// | `scatter`* | ✓ | ✓ | ✓ | | ✓ | ✓ | `MPI_Scatter`, `MPI_Scatterv` |
/// | `allgather`* | ✓ | ✓ | ✓ | | ✓ | ✓ | `MPI_Allgather`, `MPI_Allgatherv` |
/// | `alltoall`* | ✓ | ✓ | ✓ | | ✓ | ✓ | `MPI_Alltoall`, `MPI_Alltoallv` |
/// | `reduce`* | ✓ | | ✓ | ✓ | ✓ | ✓ | `MPI_Reduce` |
/// | `allreduce`* | ✓ | | ✓ | ✓ | ✓ | ✓ | `MPI_Allreduce` |
/// | `reduce_scatter`* | ✓ | | ✓ | | ✓ | | `MPI_Reduce_scatter`, `MPI_Reduce_scatter_block` |
/// | `scan`*, `exscan`* | ✓ | | ✓ | ✓ | ✓ | ✓ | `MPI_Scan`, `MPI_Exscan` |
///
/// All ranks are counted from 0. Every call that another rank, the network or data can break
/// returns a [`Result`]; if the program passes the error on with `?`, the whole job ends with it.
pub struct Comm {
    engine: Own<Rc<dyn Engine>>,
    context: Context,
    rank: usize,
    size: usize,
    /// Collective calls made so far; the same on every rank.
    seq: Own<Cell<u64>>,
    max_tag: Tag,
    /// What reports call it.
    name: Own<RefCell<Option<Arc<str>>>>,
    /// Room for the operations of the next scope.
    scraps: Own<Cell<scope::Entries>>,
    /// Room for the lengths of rows that are sent and received.
    lengths: Own<Cell<[Vec<usize>; 2]>>,
    observer: Own<Rc<Observer>>,
    /// What it was made of, and when: the same on all its ranks; 0 is the world's.
    lineage: u64,
    /// The number of its name in the trace that is made.
    traced_as: Own<Cell<Option<u32>>>,
    /// Made by the first window.
    dropped_regions: Own<OnceCell<Rc<rma::DroppedRegions>>>,
    bound: Bound,
}

/// # The communicator
///
/// Who is in it, and what carries it.
impl Comm {
    /// The communicator of all ranks.
    pub(crate) fn world(engine: Rc<dyn Engine>, rank: usize, size: usize) -> Self {
        Self::open(engine, Rc::default(), Context::WORLD, 0, [rank, size])
    }

    /// The communicator of another context of this rank's engine.
    fn sibling(&self, context: Context, rank: usize, size: usize) -> Self {
        let (engine, observer) = (Rc::clone(&self.engine), Rc::clone(&self.observer));
        Self::open(engine, observer, context, self.next_lineage(), [rank, size])
    }

    fn open(
        engine: Rc<dyn Engine>,
        observer: Rc<Observer>,
        context: Context,
        lineage: u64,
        [rank, size]: [usize; 2],
    ) -> Self {
        let max_tag = engine.max_tag();
        let (engine, observer) = (Own::new(engine), Own::new(observer));
        let (seq, name, scraps) = (Own::default(), Own::default(), Own::default());
        let (lengths, dropped_regions, bound) = (Own::default(), Own::default(), Bound::default());
        Self {
            engine,
            context,
            rank,
            size,
            seq,
            max_tag,
            name,
            scraps,
            lengths,
            observer,
            lineage,
            traced_as: Own::default(),
            dropped_regions,
            bound,
        }
    }

    /// The rank of the caller, from 0 to `size() - 1`.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of ranks.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The position in the world of `rank` of this communicator.
    ///
    /// # Panics
    /// If there is no such rank.
    pub fn world_rank(&self, rank: usize) -> usize {
        assert!(rank < self.size, "there is no rank {rank} among {}", self.size);
        self.engine.world_rank(self.context, Rank::from(rank))
    }

    /// The engine that moves the messages: `local` or `mpi`.
    pub fn engine(&self) -> &'static str {
        self.engine.about().engine
    }

    /// The MPI library and its version; empty on the engine `local`.
    pub fn library(&self) -> String {
        self.engine.about().library
    }

    /// What a library needs that speaks with these ranks by itself, if the engine has such a thing:
    /// on `mpi` a communicator of MPI's.
    ///
    /// # Collective
    /// All ranks hand it on to the same call.
    #[cfg(feature = "phdf5")]
    #[track_caller]
    pub(crate) fn native_handle(&self) -> Result<Option<Box<dyn std::any::Any>>> {
        let handle = || self.engine.native_handle(self.context).transpose();
        self.perform(all("a call of another library"), handle)
    }

    /// Runs `body`, which waits for other ranks inside another library: `--timeout` sees that wait
    /// too, as one in `op`.
    #[cfg(feature = "phdf5")]
    #[track_caller]
    pub(crate) fn wait_elsewhere<R>(&self, op: &'static str, body: impl FnOnce() -> R) -> R {
        struct Inside<'e>(&'e dyn Engine);
        impl Drop for Inside<'_> {
            fn drop(&mut self) {
                self.0.wait_elsewhere(false);
            }
        }
        self.enter(all(op));
        self.engine.wait_elsewhere(true);
        let _inside = Inside(&**self.engine);
        body()
    }

    /// A number that the ranks of a host have in common, and no others. Collective.
    pub(crate) fn node(&self, call: Call) -> Result<u32> {
        self.enter(call);
        let node = self.engine.node(self.context, self.next_seq());
        node.map_err(|fault| self.failed(fault, call))
    }

    /// A shelf that the ranks have in common, if they are threads of one process. All ranks ask.
    pub(crate) fn shelf(&self, call: Call) -> Result<Option<Arc<Shelf>>> {
        let shelf = self.engine.shelf(self.context, self.next_seq());
        shelf.map_err(|fault| self.failed(fault, call))
    }

    /// The largest tag that a message can have; at least 32767.
    pub fn max_tag(&self) -> u32 {
        self.max_tag.0
    }

    /// What is checked between ranks, the same on every rank.
    pub fn checks(&self) -> Checks {
        self.engine.checks()
    }

    /// Time since the job started on this rank.
    pub fn elapsed(&self) -> Duration {
        self.engine.now()
    }

    pub(crate) fn about(&self) -> About {
        self.engine.about()
    }

    pub(crate) fn installed(&self) -> Installed {
        self.engine.installed()
    }

    /// Makes a call of the program: `body` does it, and its complaint becomes an error of this
    /// call.
    #[inline(always)]
    pub(super) fn perform<R>(
        &self,
        Call { op, with, at }: Call,
        body: impl FnOnce() -> Result<R, Fault>,
    ) -> Result<R> {
        // In parts, as by `enter`: whole it is put together only where it is told of.
        self.engine.enter(op, with, at);
        let done = if self.is_observed() {
            self.observe(Call { op, with, at }, true, body)
        } else {
            body()
        };
        match done {
            Ok(result) => Ok(result),
            Err(fault) => Err(self.failed(fault, Call { op, with, at })),
        }
    }

    /// Goes on with a call that was made before: waits for it.
    #[inline]
    fn proceed<R>(&self, call: Call, body: impl FnOnce() -> Result<R, Fault>) -> Result<R> {
        self.enter(call);
        let done = if self.is_observed() { self.observe(call, false, body) } else { body() };
        done.map_err(|fault| self.failed(fault, call))
    }

    /// A call that needs no other rank: the complaint of `body` becomes an error of it.
    #[inline]
    fn judge<R>(&self, call: Call, body: impl FnOnce() -> Result<R, Fault>) -> Result<R> {
        body().map_err(|fault| self.failed(fault, call))
    }

    /// Tells the engine whose call it serves from now on.
    #[inline]
    fn enter(&self, Call { op, with, at }: Call) {
        self.engine.enter(op, with, at);
    }

    /// The error of a call of this rank.
    #[cold]
    fn failed(&self, fault: Fault, call: Call) -> Error {
        Error::new(fault, self.rank, call).on(self.name.borrow().clone())
    }

    /// The error of a call that has been refused before it began.
    #[cold]
    pub(crate) fn refuse(
        &self,
        op: &'static str,
        why: ErrorKind,
        at: &'static Location<'static>,
    ) -> Error {
        self.failed(why.into(), Call { op, with: With::ALL, at })
    }

    /// Where messages can go.
    #[inline]
    fn space(&self) -> Space {
        Space { context: self.context, size: self.size, max_tag: self.max_tag }
    }

    fn check_rank(&self, rank: usize) -> Result<Rank, Fault> {
        self.space().rank(rank)
    }

    /// Counts a collective call; the number is the same on every rank.
    fn next_seq(&self) -> u64 {
        self.seq.replace(self.seq.get() + 1)
    }
}

/// The label of a message that is no step of a collective.
fn plain(signature: Signature) -> Label {
    Label { signature, step: None }
}

/// The label of the messages of a collective call.
#[inline(always)]
fn step(signature: Signature, call: Call) -> Label {
    Label { signature, step: Some(Step { call }) }
}

/// A collective call without a root, made at the caller's place.
#[inline(always)]
#[track_caller]
fn all(op: &'static str) -> Call {
    Call::new(op, With::ALL)
}

impl Drop for Comm {
    fn drop(&mut self) {
        self.engine.release(self.context);
    }
}

impl fmt::Debug for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Comm(")?;
        if let Some(name) = &*self.name.borrow() {
            write!(f, "{name:?}, ")?;
        }
        write!(f, "rank {} of {}, {})", self.rank, self.size, self.engine())
    }
}
