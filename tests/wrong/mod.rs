//! Random wrong programs: right ones into which mistakes have been planted, and what must hold
//! nevertheless.
//!
//! A program is data: a script for each rank, all the same but for the mistakes. Whatever the
//! mistakes are, no memory is damaged; what a call that succeeds delivers was sent to be delivered
//! there (`judge.rs` says what that means on which level of checks); and every rank ends: well,
//! with an error, or in a wait that the engine reports. Calls before the first mistake are right,
//! and do what they should.
#![allow(dead_code)] // each user needs a part

mod call;
mod extension;
mod forms;
mod judge;
mod liar;
mod make;
mod memory;
mod message;
mod neighbors;
mod plant;
mod run;
mod value;

use self::{
    liar::Lie,
    value::{By, Ty},
};
#[allow(unused_imports)] // each user needs a part
pub(crate) use self::{
    make::{Where, program},
    run::use_what_was_kept,
};

/// Memory that was allocated and never written, where the allocator says so (`guard.rs`).
pub(crate) const UNWRITTEN: u8 = 0xa5;
/// Memory beside what was allocated.
pub(crate) const OUTSIDE: u8 = 0xe7;

/// What every rank does, and where the first rank leaves the right way.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) number: u64,
    pub(crate) scripts: Vec<Script>,
    /// The first act that some rank does otherwise; beyond all acts if there is none.
    first_mistake: u64,
    /// What was planted, for the reader.
    pub(crate) mistakes: Vec<String>,
}

/// A line for each act of rank 0, and for what other ranks do otherwise.
impl std::fmt::Display for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "program {}: {:?}", self.number, self.mistakes)?;
        let mut known = Vec::new();
        for (rank, Script { acts, at_errors, catches, ending }) in self.scripts.iter().enumerate() {
            let order: Vec<u64> = acts.iter().map(|act| act.id).collect();
            writeln!(
                f,
                "rank {rank}: {order:?}, {at_errors:?}, catches {catches}, ends {ending:?}"
            )?;
            for Act { id, comm, what } in acts {
                let line = format!("  {id} on {comm}: {what:?}");
                if !known.contains(&line) {
                    writeln!(f, "{line}")?;
                    known.push(line);
                }
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Script {
    acts: Vec<Act>,
    at_errors: AtErrors,
    /// Whether panics inside calls are caught, and the program goes on.
    catches: bool,
    /// How the rank ends before this act, if not after the last.
    ending: Option<(usize, Ending)>,
}

/// What a rank does when a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AtErrors {
    GoesOn,
    /// Leaves the program, and ends well.
    Leaves,
    Fails,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Early,
    Error,
    Panic,
    /// An error that cannot be printed.
    PanicsWhenPrinted,
    /// An error that cannot be dropped.
    PanicsWhenDropped,
    /// Windows and communicators are kept beyond the run, and used when the thread ends.
    Keeps,
}

#[derive(Clone, Debug)]
struct Act {
    /// The same on all ranks; acts that only one rank makes have their own.
    id: u64,
    /// Which communicator, if there are so many.
    comm: usize,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Collective(Collective),
    Message(Message),
    Circle(Circle),
    Neighbors(Neighbors),
    /// Makes another communicator.
    Make(Make),
    Open(Open),
    Reach(Reach),
    /// Drops or closes the window.
    Shut {
        window: usize,
        close: bool,
    },
    Extension {
        which: Extension,
        length: usize,
        /// Whether the closures it is given do what they must not.
        bad: bool,
    },
}

#[derive(Clone, Debug)]
struct Collective {
    op: Op,
    form: Form,
    ty: Ty,
    by: By,
    root: usize,
    length: usize,
    /// Whether lengths differ from rank to rank, where they may.
    uneven: bool,
    mine: Lie,
    out: Lie,
    counts: Counts,
    finish: Finish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Barrier,
    Bcast,
    Gather,
    Scatter,
    Allgather,
    Alltoall,
    Reduce,
    Allreduce,
    ReduceScatter,
    Scan,
    Exscan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Inferred,
    Into,
    Known,
    KnownInto,
    /// Of a single element.
    One,
    NonBlocking,
    /// In a scope, into borrowed memory.
    Scoped,
    Planned,
}

/// The counts that a call is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counts {
    Right,
    /// The count of one rank is another.
    One(usize, usize),
    /// The count of one rank is larger by so much and that of the next smaller, around the end of
    /// all numbers.
    Wrap(usize, usize),
    /// So many counts too many.
    More(isize),
}

/// When an operation that does not block is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finish {
    Now,
    /// When all acts are done.
    Later,
    Dropped,
    /// It is tested once, and forgotten by `mem::forget`.
    Forgotten,
}

/// A message from one rank to another; each sees its side.
#[derive(Clone, Debug)]
struct Message {
    from: usize,
    to: usize,
    sent: Side,
    sending: Sending,
    received: Side,
    receiving: Receiving,
    /// Whether the receiver takes it from any rank.
    any: bool,
    finish: Finish,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Side {
    /// The rank on the other side.
    peer: usize,
    tag: u32,
    ty: Ty,
    length: usize,
    lie: Lie,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    Standard,
    Synchronous,
    Owned,
    OwnedSynchronous,
    Scoped,
    Planned,
    Exchange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiving {
    Any,
    Into,
    One,
    Owned,
    Scoped,
    Planned,
    Exchange,
    Probed,
    ProbedInto,
    Cancelled,
}

/// Every rank sends to the one `steps` ahead.
#[derive(Clone, Debug)]
struct Circle {
    steps: usize,
    ty: Ty,
    length: usize,
    room: usize,
    replace: bool,
    mine: Lie,
    out: Lie,
}

/// Every rank has the one before and the one after it as neighbours.
#[derive(Clone, Debug)]
struct Neighbors {
    ty: Ty,
    length: usize,
    all: bool,
    form: Form,
    /// The graph of this rank is another.
    edges: Edges,
    cart: bool,
    mine: Lie,
    out: Lie,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edges {
    Ring,
    None,
    Twice,
    Beyond,
}

#[derive(Clone, Copy, Debug)]
enum Make {
    Dup,
    Split(u32),
    Node,
    Subset(bool),
    Shared,
    /// Dimensions, of which the engine is to find out that they do not fit.
    Cart(usize, usize),
}

#[derive(Clone, Copy, Debug)]
struct Open {
    window: usize,
    kind: Kind,
    length: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bytes,
    Words,
    Array,
    /// Of elements aligned to 128 bytes.
    Wide,
    WideWindow,
}

#[derive(Clone, Copy, Debug)]
struct Reach {
    window: usize,
    how: Access,
    steps: usize,
    offset: usize,
    length: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Put,
    Accumulate,
    Lock,
    Local,
    /// The body of the epoch panics, or fails.
    Panics,
    Fails,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    Sparse,
    Sort,
    Grid,
    BcastObject,
    GatherObject,
    AllreduceObject,
    Agree,
    Ordered,
    Exact,
    /// A ticket of an outer scope in a wait of an inner one.
    Nested,
    /// Rows sorted by their owners.
    Bucket,
    /// Messages between threads of the ranks.
    Threads,
}

/// A sequence of numbers that a seed and a place in it stand for.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64, place: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0xd134_2543_de82_ef95) ^ place);
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        crate::random::next(&mut self.0)
    }

    /// A number below this one.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// Whether something happens that does so many times of a hundred.
    fn percent(&mut self, of: usize) -> bool {
        self.below(100) < of
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}
