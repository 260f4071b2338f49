//! How a right program is made, into which mistakes are planted.

use super::{
    Access, Act, Circle, Collective, Counts, Dice, Edges, Extension, Finish, Form, Kind, Lie, Make,
    Message, Neighbors, Op, Open, Program, Reach, Receiving, Sending, Side, What, plant,
    value::{By, Ty},
};

/// On which engine a program is to run, because what ends a job costs much more on one than on the
/// other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    /// A job for each program.
    Local,
    /// Many programs in one job.
    Mpi,
}

/// Program `number` of this seed.
pub(crate) fn program(seed: u64, number: u64, ranks: usize, place: Where) -> Program {
    let mut dice = Dice::new(seed, number);
    let acts = acts(&mut dice, ranks);
    let mut program = plant::plant(&mut dice, number, &acts, ranks, place);
    // Threads are no ranks: where one waits for ever, only `--timeout` finds it, which these jobs
    // on `local` do not have.
    if place == Where::Local && !program.mistakes.is_empty() {
        for act in program.scripts.iter_mut().flat_map(|script| &mut script.acts) {
            if let What::Extension { which: which @ Extension::Threads, .. } = &mut act.what {
                *which = Extension::Ordered;
            }
        }
    }
    program
}

/// Lengths in bytes at which libraries and engines change their ways, and around them.
pub(super) fn length(dice: &mut Dice, ty: Ty) -> usize {
    const EDGES: [usize; 9] = [24, 64, 88, 192, 256, 1024, 4096, 8192, 32768];
    let bytes = match dice.below(10) {
        0 => 0,
        1..=3 => 1 + dice.below(40),
        4..=7 => (dice.one(&EDGES) + dice.below(33)).saturating_sub(16),
        8 => 1 + dice.below(20_000),
        _ => 1 + dice.below(600),
    };
    bytes.div_ceil(ty.bytes())
}

pub(super) fn ty(dice: &mut Dice) -> Ty {
    dice.one(&[Ty::ALL.as_slice(), &[Ty::Byte, Ty::Word, Ty::Word]].concat())
}

fn acts(dice: &mut Dice, ranks: usize) -> Vec<Act> {
    let mut whats = Vec::new();
    if dice.percent(40) {
        whats.push(What::Make(Make::Dup));
        if dice.percent(50) {
            whats.push(What::Make(Make::Split(2)));
        }
    }
    let made = whats.len();
    for _ in 0..=dice.below(8) {
        whats.push(any(dice, ranks));
    }
    // What repeats is what an engine learns to foresee.
    if dice.percent(50) {
        let start = made + dice.below(whats.len() - made);
        let repeated = whats[start..].to_vec();
        for _ in 0..=dice.below(3) {
            whats.extend(repeated.clone());
        }
    }
    if dice.percent(15) {
        windows(dice, &mut whats, made);
    }
    let act = |(id, what)| Act { id: id as u64, comm: 0, what };
    let mut acts: Vec<Act> = whats.into_iter().enumerate().map(act).collect();
    for act in acts.iter_mut().skip(made) {
        act.comm = if dice.percent(60) { 0 } else { dice.below(made + 1) };
    }
    // A window is reached as what its own communicator's ranks are.
    let mut opened_on = [0; 3];
    for Act { comm, what, .. } in &mut acts {
        match what {
            What::Open(opened) => opened_on[opened.window] = *comm,
            What::Reach(reached) => *comm = opened_on[reached.window],
            _ => {}
        }
    }
    acts
}

/// Windows that are opened, used and shut somewhere in between, in any order.
fn windows(dice: &mut Dice, whats: &mut Vec<What>, made: usize) {
    let kind = dice.one(&[Kind::Bytes, Kind::Words, Kind::Words, Kind::Array]);
    let length = 1 + dice.below(300);
    let mut place = made;
    for window in 0..=dice.below(3) {
        place += dice.below(whats.len() - place + 1);
        whats.insert(place, What::Open(Open { window, kind, length }));
    }
    for _ in 0..=dice.below(4) {
        place += dice.below(whats.len() - place + 1);
        whats.insert(place, What::Reach(reach(dice, length)));
    }
    for window in 0..dice.below(4) {
        place += dice.below(whats.len() - place + 1);
        whats.insert(place, What::Shut { window, close: dice.percent(50) });
    }
}

fn reach(dice: &mut Dice, length: usize) -> Reach {
    let how = dice.one(&[Access::Put, Access::Accumulate, Access::Lock, Access::Local]);
    let offset = dice.below(length);
    let length = dice.below(length - offset);
    Reach { window: dice.below(2), how, steps: dice.below(4), offset, length }
}

pub(super) fn any(dice: &mut Dice, ranks: usize) -> What {
    match dice.below(20) {
        0..=9 => What::Collective(collective(dice)),
        10..=15 => What::Message(message(dice, ranks)),
        16 => What::Circle(circle(dice)),
        17 => What::Neighbors(neighbors(dice)),
        18 => What::Extension {
            which: dice.one(&[
                Extension::Sparse,
                Extension::Sort,
                Extension::Grid,
                Extension::BcastObject,
                Extension::GatherObject,
                Extension::AllreduceObject,
                Extension::Agree,
                Extension::Ordered,
                Extension::Exact,
                Extension::Nested,
                Extension::Bucket,
                Extension::Threads,
            ]),
            length: dice.below(200),
            bad: false,
        },
        _ => What::Make(make(dice)),
    }
}

pub(super) fn make(dice: &mut Dice) -> Make {
    let makes = [Make::Dup, Make::Split(2), Make::Split(1), Make::Node, Make::Subset(true)];
    dice.one(&[makes.as_slice(), &[Make::Shared, Make::Cart(0, 1)]].concat())
}

pub(super) fn open(dice: &mut Dice) -> Open {
    let kind = dice.one(&[Kind::Bytes, Kind::Words, Kind::Array, Kind::Wide, Kind::WideWindow]);
    Open { window: dice.below(3), kind, length: dice.below(100) }
}

pub(super) fn op(dice: &mut Dice) -> Op {
    dice.one(&[
        Op::Barrier,
        Op::Bcast,
        Op::Gather,
        Op::Scatter,
        Op::Allgather,
        Op::Alltoall,
        Op::Reduce,
        Op::Allreduce,
        Op::ReduceScatter,
        Op::Scan,
        Op::Exscan,
    ])
}

pub(super) fn form(dice: &mut Dice) -> Form {
    dice.one(&[
        Form::Inferred,
        Form::Into,
        Form::Into,
        Form::Known,
        Form::KnownInto,
        Form::One,
        Form::NonBlocking,
        Form::Scoped,
        Form::Planned,
    ])
}

fn finish(dice: &mut Dice) -> Finish {
    if dice.percent(70) { Finish::Now } else { Finish::Later }
}

/// In one piece or not.
fn truth(dice: &mut Dice) -> Lie {
    Lie::none(dice.percent(80))
}

fn collective(dice: &mut Dice) -> Collective {
    let ty = ty(dice);
    Collective {
        op: op(dice),
        form: form(dice),
        ty,
        by: dice.one(&By::RIGHT),
        root: dice.below(4),
        length: length(dice, ty),
        uneven: dice.percent(40),
        mine: truth(dice),
        out: truth(dice),
        counts: Counts::Right,
        finish: finish(dice),
    }
}

fn message(dice: &mut Dice, ranks: usize) -> Message {
    let from = dice.below(ranks);
    let to = (from + 1 + dice.below((ranks - 1).max(1))) % ranks;
    let ty = ty(dice);
    let receiving = dice.one(&[
        Receiving::Any,
        Receiving::Into,
        Receiving::Into,
        Receiving::One,
        Receiving::Owned,
        Receiving::Scoped,
        Receiving::Planned,
        Receiving::Exchange,
        Receiving::Probed,
        Receiving::ProbedInto,
    ]);
    let sending = dice.one(&[
        Sending::Standard,
        Sending::Standard,
        Sending::Synchronous,
        Sending::Owned,
        Sending::OwnedSynchronous,
        Sending::Scoped,
        Sending::Planned,
        Sending::Exchange,
    ]);
    let length = if receiving == Receiving::One { 1 } else { length(dice, ty) };
    let shared_tag = dice.percent(30);
    let side = |dice: &mut Dice, peer| Side {
        peer,
        // The number of the act takes the place of 0.
        tag: u32::from(shared_tag),
        ty,
        length,
        lie: truth(dice),
    };
    Message {
        from,
        to,
        sent: side(dice, to),
        sending,
        received: side(dice, from),
        receiving,
        any: !shared_tag && dice.percent(20),
        finish: if shared_tag { Finish::Now } else { finish(dice) },
    }
}

fn circle(dice: &mut Dice) -> Circle {
    let ty = ty(dice);
    let length = length(dice, ty);
    let (mine, out) = (truth(dice), truth(dice));
    Circle { steps: dice.below(4), ty, length, room: length, replace: dice.percent(30), mine, out }
}

fn neighbors(dice: &mut Dice) -> Neighbors {
    let ty = ty(dice);
    Neighbors {
        ty,
        length: length(dice, ty),
        all: dice.percent(50),
        form: dice.one(&[Form::Inferred, Form::Into, Form::NonBlocking]),
        edges: Edges::Ring,
        cart: dice.percent(30),
        mine: truth(dice),
        out: truth(dice),
    }
}
