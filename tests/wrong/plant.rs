//! The mistakes.

use super::{
    Access, Act, AtErrors, Circle, Collective, Counts, Dice, Edges, Ending, Finish, Form, Kind,
    Lie, Make, Message, Neighbors, Open, Program, Reach, Receiving, Script, Sending, What, Where,
    make::{any, form, make, op, open, ty},
    value::By,
};

/// Numbers that make sums and products wrap around.
const HUGE: [usize; 8] = [
    usize::MAX,
    usize::MAX - 1,
    usize::MAX / 2,
    usize::MAX / 2 + 1,
    1 << 62,
    1 << 61,
    u32::MAX as usize + 2,
    1 << 31,
];

/// Acts that only one rank makes are numbered from here on.
const OWN: u64 = 400;

pub(super) fn plant(
    dice: &mut Dice,
    number: u64,
    acts: &[Act],
    ranks: usize,
    place: Where,
) -> Program {
    let local = place == Where::Local;
    let script = |dice: &mut Dice| Script {
        acts: acts.to_vec(),
        at_errors: match dice.below(100) {
            0..15 if local => AtErrors::Fails,
            15..30 if local => AtErrors::Leaves,
            0..1 => AtErrors::Fails,
            1..3 => AtErrors::Leaves,
            _ => AtErrors::GoesOn,
        },
        catches: dice.percent(if local { 75 } else { 99 }),
        ending: None,
    };
    let scripts = (0..ranks).map(|_| script(dice)).collect();
    let mut program = Program { number, scripts, first_mistake: u64::MAX, mistakes: Vec::new() };
    let count = [0, 1, 1, 1, 1, 1, 1, 2, 2, 3][dice.below(10)];
    for own in 0..count {
        let mut next = OWN + 100 * own;
        let victim = dice.below(ranks);
        plant_one(dice, &mut program, victim, &mut next, place);
    }
    if dice.percent(if local { 20 } else { 1 }) {
        end_one(dice, &mut program, ranks);
    }
    program
}

impl Program {
    fn wrong_from(&mut self, id: u64) {
        // An act that only one rank makes comes after the first mistake.
        if id < OWN {
            self.first_mistake = self.first_mistake.min(id);
        }
    }
}

fn end_one(dice: &mut Dice, program: &mut Program, ranks: usize) {
    let victim = dice.below(ranks);
    let script = &mut program.scripts[victim];
    let at = dice.below(script.acts.len() + 1);
    let ending = dice.one(&[
        Ending::Early,
        Ending::Early,
        Ending::Error,
        Ending::Panic,
        Ending::PanicsWhenPrinted,
        Ending::PanicsWhenDropped,
        Ending::Keeps,
    ]);
    script.ending = Some((at, ending));
    let id = script.acts[at..].iter().map(|act| act.id).find(|&id| id < OWN);
    program.mistakes.push(format!("rank {victim} ends before its act {at}: {ending:?}"));
    if let Some(id) = id {
        program.wrong_from(id);
    }
}

fn plant_one(dice: &mut Dice, program: &mut Program, victim: usize, next: &mut u64, place: Where) {
    let ranks = program.scripts.len();
    let acts = &mut program.scripts[victim].acts;
    if acts.is_empty() {
        return; // an earlier mistake has left nothing
    }
    // Where a job that waits costs a second, few programs do what makes ranks wait for each other.
    let waits = place == Where::Local || dice.percent(6);
    let mut at = dice.below(acts.len());
    for _ in 0..8 {
        if waits || !matches!(acts[at].what, What::Make(_) | What::Open(_) | What::Shut { .. }) {
            break;
        }
        at = dice.below(acts.len());
    }
    let id = acts[at].id;
    let mut own = |what, comm| {
        *next += 1;
        Act { id: *next, comm, what }
    };
    let is_blocking = matches!(&acts[at].what, What::Collective(call) if call.is_blocking());
    let kind = match dice.below(100) {
        _ if waits => dice.below(24),
        0..15 if is_blocking => 11,
        15..17 if is_blocking => 9,
        _ => 0,
    };
    let what = match kind {
        14 => {
            acts.remove(at);
            "leaves out"
        }
        15 => {
            let again = own(acts[at].what.clone(), acts[at].comm);
            acts.insert(at, again);
            "does twice"
        }
        16 if at + 1 < acts.len() => {
            acts.swap(at, at + 1);
            let earlier = acts[at].id;
            program.wrong_from(earlier);
            "swaps with the next one"
        }
        17 => {
            let comm = acts[at].comm;
            acts.insert(at, own(any(dice, ranks), comm));
            "does something else before"
        }
        18 => {
            acts[at].comm = dice.below(3);
            "does on another communicator"
        }
        // What another act of the program does, and then what came after that.
        11..=13 => {
            let mut from = dice.below(acts.len());
            let similar = |from: usize| match (&acts[from].what, &acts[at].what) {
                (What::Collective(one), What::Collective(other)) => {
                    waits || one.op == other.op && one.form == other.form
                }
                (one, other) => std::mem::discriminant(one) == std::mem::discriminant(other),
            };
            if !similar(from) {
                from = (0..acts.len()).find(|&from| similar(from) && from != at).unwrap_or(from);
            }
            if !waits && !similar(from) {
                return;
            }
            for step in 0..=dice.below(3) {
                if at + step >= acts.len() || from + step >= acts.len() {
                    break;
                }
                acts[at + step] = own(acts[from + step].what.clone(), acts[at].comm);
            }
            "does what it does elsewhere instead of"
        }
        // Another call that needs all ranks.
        9 | 10 | 19..=21 => {
            let comm = acts[at].comm;
            let instead = match dice.below(4) {
                0 => What::Open(open(dice)),
                1 => any(dice, ranks),
                _ => What::Make(make(dice)),
            };
            acts[at] = own(instead, comm);
            "does something else instead of"
        }
        _ => {
            tweak(dice, &mut acts[at].what, waits);
            "does in another way"
        }
    };
    program.mistakes.push(format!("rank {victim} {what} act {id}"));
    program.wrong_from(id);
}

/// Changes one thing about an act.
fn tweak(dice: &mut Dice, what: &mut What, waits: bool) {
    match what {
        What::Collective(call) => tweak_collective(dice, call, waits),
        What::Message(message) => tweak_message(dice, message, waits),
        What::Circle(circle) => tweak_circle(dice, circle),
        What::Neighbors(neighbors) => tweak_neighbors(dice, neighbors, waits),
        What::Make(made) => {
            *made = match dice.below(if waits { 5 } else { 4 }) {
                0 => Make::Subset(false),
                1 => Make::Cart(dice.one(&HUGE), dice.one(&HUGE)),
                2 => Make::Cart(1 << 32, 1 << 32),
                3 => Make::Cart(dice.below(3), 1 << 63),
                _ => make(dice),
            }
        }
        What::Open(opened) => match dice.below(4) {
            0 => opened.length = dice.one(&[usize::MAX, usize::MAX / 2, 1 << 62, 1 << 60]),
            1 => opened.length = dice.below(300),
            2 => opened.window = 2 - opened.window.min(2),
            _ => {
                *opened =
                    Open { kind: dice.one(&[Kind::Words, Kind::Array, Kind::Wide]), ..*opened }
            }
        },
        What::Reach(reached) => tweak_reach(dice, reached),
        What::Shut { window, close } => match dice.below(2) {
            _ if !waits => {}
            0 => *window = dice.below(3),
            _ => *close = !*close,
        },
        What::Extension { bad, .. } if dice.percent(30) => *bad = true,
        What::Extension { length, .. } => *length += 1 + dice.below(20),
    }
}

fn tweak_reach(dice: &mut Dice, reached: &mut Reach) {
    match dice.below(5) {
        0 => reached.offset = dice.one(&HUGE),
        1 => reached.length += 300,
        2 => reached.steps = dice.one(&HUGE),
        3 => reached.how = dice.one(&[Access::Panics, Access::Fails]),
        _ => reached.window = dice.below(3),
    }
}

/// A length that differs from this one.
fn other_length(dice: &mut Dice, old: usize, bytes: usize) -> usize {
    let new = match dice.below(5) {
        0 => old + 1,
        1 => old.saturating_sub(1),
        2 => 0,
        3 => old + dice.below(20_000) / bytes + 1,
        _ => old / 2,
    };
    if new == old { old + 3 } else { new }
}

fn lie(dice: &mut Dice, length: usize) -> Lie {
    let length = length as isize;
    let by = |dice: &mut Dice| match dice.below(8) {
        0 | 1 => 0,
        2 => 1,
        3 => -1,
        4 => -length,
        5 => 5000,
        6 => isize::MAX,
        _ => -(length / 2),
    };
    let short = |by: isize| by.min(10_000);
    let (count, slice) = (by(dice), short(by(dice)));
    let mut lie = Lie::none(dice.percent(75));
    match dice.below(4) {
        0 => lie.counts = [count; 3],
        1 => lie.slices = [slice; 3],
        2 => {
            lie.counts = [0, count, by(dice)];
            lie.slices = [0, slice, short(by(dice))];
        }
        _ => {
            lie.packed = short(count);
            lie.piece = [dice.percent(50), dice.percent(50), dice.percent(50)];
        }
    }
    if dice.percent(10) {
        lie.panics = Some(dice.below(5));
    }
    if !lie.is_one() {
        lie.slices = [-length; 3];
        lie.piece = [true; 3];
    }
    lie
}

fn tweak_collective(dice: &mut Dice, call: &mut Collective, waits: bool) {
    let closure = call.by.on(call.ty).is_closure();
    match dice.below(14) {
        0 if waits || call.is_blocking() && dice.percent(30) => call.op = op(dice),
        1 if waits => call.form = form(dice),
        0..=2 => call.ty = ty(dice),
        3 | 4 => call.length = other_length(dice, call.length, call.ty.bytes()),
        5 => {
            let next = call.root.wrapping_add(1);
            call.root = dice.one(&[next, next, usize::MAX]);
        }
        6 | 7 if closure => {
            call.by = dice.one(&[By::Panics, By::Last, By::Larger]);
        }
        6 => call.by = dice.one(&By::RIGHT[..if waits { 7 } else { 5 }]),
        7 if waits => call.by = By::Panics,
        8 => call.mine = lie(dice, call.length),
        9 => call.out = lie(dice, call.length),
        10 => call.finish = dice.one(&[Finish::Dropped, Finish::Forgotten]),
        7 | 11 => call.uneven = !call.uneven,
        _ => {
            let at = dice.below(4);
            call.counts = match dice.below(4) {
                0 => Counts::One(at, dice.one(&HUGE)),
                1 => Counts::One(at, dice.below(3000)),
                2 => Counts::Wrap(at, dice.one(&HUGE)),
                _ => Counts::More(dice.one(&[-1, 1, 3])),
            };
            if waits && dice.percent(50) {
                call.form = dice.one(&[Form::Known, Form::KnownInto]);
            }
        }
    }
}

fn tweak_message(dice: &mut Dice, message: &mut Message, waits: bool) {
    let side = if dice.percent(40) { &mut message.sent } else { &mut message.received };
    match dice.below(if waits { 9 } else { 6 }) {
        // A message that is longer than its buffer.
        0..=2 => {
            let bytes = side.ty.bytes();
            message.received.length = dice.one(&[0, 1, 2, 8]).min(message.received.length / 2);
            message.sent.length += dice.below(20_000) / bytes;
        }
        3 => side.length = other_length(dice, side.length, side.ty.bytes()),
        4 => side.ty = ty(dice),
        5 => side.lie = lie(dice, side.length),
        6 => side.tag += dice.one(&[1, 2, u32::MAX / 2]),
        7 => side.peer = dice.one(&[side.peer + 1, side.peer + 1, usize::MAX - 1, side.peer + 100]),
        _ => match dice.below(4) {
            0 => message.finish = dice.one(&[Finish::Dropped, Finish::Forgotten]),
            1 => message.receiving = Receiving::Cancelled,
            2 => {
                message.receiving = dice.one(&[Receiving::One, Receiving::Into, Receiving::Probed]);
            }
            _ => message.sending = dice.one(&[Sending::Synchronous, Sending::Scoped]),
        },
    }
}

fn tweak_circle(dice: &mut Dice, circle: &mut Circle) {
    match dice.below(6) {
        0 | 1 => circle.room /= 2,
        2 => circle.length = other_length(dice, circle.length, circle.ty.bytes()),
        3 => circle.ty = ty(dice),
        4 => circle.mine = lie(dice, circle.length),
        _ => circle.out = lie(dice, circle.room),
    }
}

fn tweak_neighbors(dice: &mut Dice, neighbors: &mut Neighbors, waits: bool) {
    match dice.below(if waits { 7 } else { 5 }) {
        0 => neighbors.length = other_length(dice, neighbors.length, neighbors.ty.bytes()),
        1 => neighbors.ty = ty(dice),
        2 => neighbors.mine = lie(dice, neighbors.length),
        3 => neighbors.out = lie(dice, 2 * neighbors.length),
        4 => neighbors.edges = dice.one(&[Edges::None, Edges::Twice, Edges::Beyond]),
        5 => neighbors.all = !neighbors.all,
        _ => neighbors.form = form(dice),
    }
}
