//! Whether all ranks make the same call: asked before every call of the library that they must make
//! together.
//!
//! *The rule: whoever calls the library on a communicator that others share has been compared with
//! them.* Libraries do not compare. Two ranks that call collectives with different lengths or
//! roots, or two different collectives, get each other's bytes; and where a library writes too long
//! a message behind its buffer's end (see [`guard`](super::guard)), they destroy memory.
//!
//! A comparison before every call would cost as much as the call itself, and programs make the same
//! calls again and again. So every communicator remembers which call followed which, and predicts
//! the next one:
//!
//! * a call that is as predicted is made at once,
//! * any other is first compared by all ranks, by messages of our own on the communicator's `coll`.
//!
//! All ranks remember the same, because every call was predicted by all or compared by all. So if
//! ranks disagree, at most those with the one predicted call make it, on `coll`'s collective side,
//! where nothing else is under way, while the others wait in the comparison: an error there as soon
//! as a rank that has gone on compares its next call (the comparison includes the number of the
//! call), or a wait that `--timeout` reports. Nobody receives what was meant for another call.
//!
//! After a disagreement ranks may have done different things, and what some have sent may lie in
//! the library's queues. All ranks have seen it, in the same comparison; from then on the
//! communicator is *broken* and none makes a collective call on it any more. So it is for a rank
//! whose call the library has refused: it does not know how far the others have come.
//!
//! What does not wait cannot be compared beforehand. It is called on a communicator's `pt2pt` side:
//! `MPI_Ibarrier`, which carries no data; and, with a library that keeps messages inside their
//! buffers only, reductions, whose calls are compared while they are under way, before anyone gets
//! their result (see [`exchange`](super::exchange)). What is prepared (see [`plans`](super::plans))
//! has a communicator of its own, since it must not wait when it is started.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use super::{CommPair, MpiEngine};
use crate::{
    datum::Signature,
    engine::{
        Access, Choice, Collective, CollectiveCall, Counts, Element, Label, Messages, Rank, Source,
        Step, Target, schedule::powers_below,
    },
    error::{Call, ErrorKind, Fault, With},
};

/// So many different calls are remembered; a program whose every call is another forgets all, on
/// all ranks at once.
const REMEMBERED: usize = 4096;

/// A call, as far as all ranks must make it alike.
#[derive(Clone, Copy, Debug)]
pub(super) struct Act {
    /// The program's verb, with its operator.
    op: &'static str,
    /// The root's number plus 1, 0 without a root.
    root: u32,
    form: Form,
    signature: Signature,
    bytes: usize,
}

/// How the library is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Form {
    /// The [collective of this number](crate::engine::CollectiveKind::number): every row has the same length,
    /// which all ranks know.
    Equal(u8),
    /// Each rank, or edge, has lengths of its own.
    Rows(u8),
    /// Each rank has a length of its own, and all know all of them; of `bytes` there is a hash.
    SameRows(u8),
    /// Makes communicators of this one.
    Derive,
    /// Finds out who is on which host.
    Node,
    Window(Access),
    /// Opens a message pair for all threads.
    Threads,
    /// A collective, and the type of what it reduces.
    Prepared(u8, Option<Element>),
    /// Hands the communicator to a library that speaks MPI itself.
    File,
}

impl Act {
    /// A blocking collective.
    #[inline(always)]
    pub(super) fn of(call: &CollectiveCall<'_>) -> Self {
        let (op, root) = call.label.step.map_or(("", 0), |step| {
            let Call { op, with, .. } = step.call;
            (op, with.root_number())
        });
        let kind = call.what.kind().number();
        let (form, bytes) = match (call.what.alike(), &call.what) {
            (Some(bytes), _) => (Form::Equal(kind), bytes),
            (
                None,
                Collective::Allgather { counts: Counts::Same(each), .. }
                | Collective::ReduceScatter { counts: Counts::Same(each), .. },
            ) => (Form::SameRows(kind), hash(each)),
            _ => (Form::Rows(kind), 0),
        };
        Self { op, root, form, signature: call.label.signature, bytes }
    }

    /// Another call that is made together, for a call of the program.
    pub(super) fn for_call(Call { op, with, .. }: Call, form: Form, bytes: usize) -> Self {
        Self { op, root: with.root_number(), form, signature: Signature::NOTHING, bytes }
    }
}

impl PartialEq for Act {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        (std::ptr::eq(self.op, other.op) || self.op == other.op)
            && (self.root, self.form, self.bytes) == (other.root, other.form, other.bytes)
            && self.signature == other.signature
    }
}

impl Eq for Act {}

impl Hash for Act {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { op, root, form, signature, bytes } = self;
        (op, root, form, bytes, signature.name(), signature.size()).hash(state);
    }
}

/// Tells different lengths apart, but for one case in 2⁶⁴ or so.
fn hash(lengths: &[usize]) -> usize {
    const FACTOR: u64 = 0xf135_7aea_2e62_a9c5;
    let mix =
        |hash: u64, &length: &usize| (hash.rotate_left(26) ^ length as u64).wrapping_mul(FACTOR);
    lengths.iter().fold(lengths.len() as u64, mix) as usize
}

/// What the ranks of a communicator have done so far.
pub(super) struct Predictor {
    past: RefCell<Past>,
    broken: Cell<bool>,
}

struct Past {
    /// Each different call once, and the place of the one that has followed it last. The first
    /// stands for the beginning, which follows nothing.
    calls: Vec<(Option<Act>, usize)>,
    places: HashMap<Act, usize>,
    /// The place of the last call.
    last: usize,
    /// How many calls were made.
    count: u64,
}

/// The place before the first call.
const START: usize = 0;

impl Past {
    fn new() -> Self {
        Self { calls: vec![(None, START)], places: HashMap::new(), last: START, count: 0 }
    }

    #[cold]
    fn learn(&mut self, act: Act) {
        if self.calls.len() > REMEMBERED {
            *self = Self { count: self.count, ..Self::new() };
        }
        let Self { calls, places, last, .. } = self;
        let place = *places.entry(act).or_insert_with(|| {
            calls.push((Some(act), START));
            calls.len() - 1
        });
        calls[*last].1 = place;
        *last = place;
    }
}

impl Predictor {
    pub(super) fn new() -> Self {
        Self { past: RefCell::new(Past::new()), broken: Cell::new(false) }
    }

    /// Notes a call; its number, unless it was predicted.
    #[inline]
    fn note(&self, act: &Act) -> Option<u64> {
        let past = &mut *self.past.borrow_mut();
        past.count += 1;
        let predicted = past.calls[past.last].1;
        if past.calls[predicted].0.as_ref() == Some(act) {
            past.last = predicted;
            return None;
        }
        past.learn(*act);
        Some(past.count)
    }

    /// No collective call is made on this communicator any more.
    pub(super) fn break_off(&self) {
        self.broken.set(true);
    }

    /// # Errors
    /// If an earlier call has failed so that the ranks may stand at different ones.
    #[inline]
    pub(super) fn check(&self) -> Result<(), Fault> {
        if self.broken.get() { Err(ErrorKind::BrokenCommunicator.into()) } else { Ok(()) }
    }
}

impl MpiEngine {
    /// Makes sure that all ranks of the communicator are about to make this call.
    ///
    /// # Errors
    /// If they are not, on all ranks that have been compared; and ever after.
    #[inline]
    pub(super) fn same_call_on_all(&self, pair: &CommPair, act: &Act) -> Result<(), Fault> {
        if pair.ranks.len() == 1 {
            return Ok(());
        }
        pair.predictor.check()?;
        match pair.predictor.note(act) {
            None => Ok(()),
            Some(number) => {
                self.compare(pair, act, number).inspect_err(|_| pair.predictor.break_off())
            }
        }
    }

    /// Makes a call of the library that all ranks make together.
    pub(super) fn together<R>(
        &self,
        pair: &CommPair,
        act: &Act,
        call: impl FnOnce() -> Result<R, Fault>,
    ) -> Result<R, Fault> {
        self.same_call_on_all(pair, act)?;
        call().inspect_err(|_| pair.predictor.break_off())
    }

    /// Compares with all ranks what they are about to do.
    ///
    /// Dissemination of the largest hash and the largest complement: both are one's own only if all
    /// hashes are equal. Each rank hears of each other one at most once in a comparison, so that
    /// messages of successive ones cannot be mixed up.
    #[cold]
    fn compare(&self, pair: &CommPair, act: &Act, number: u64) -> Result<(), Fault> {
        let mut hasher = DefaultHasher::new(); // the same keys in every process
        (act, number).hash(&mut hasher);
        let hash = hasher.finish();
        let mine = [hash, !hash];
        let (size, me) = (pair.ranks.len(), pair.me.index());
        let call =
            Call { op: "a comparison of collective calls", with: With::ALL, ..self.call.get() };
        let label = Label { signature: Signature::NOTHING, step: Some(Step { call }) };
        let (context, tag) = (pair.context, self.basis.max_tag);
        let mut most = mine;
        for distance in powers_below(size) {
            let ahead = Rank::from((me + distance) % size);
            let behind = Rank::from((me + size - distance) % size);
            let to = Target { context, rank: ahead, tag, label };
            let from = Source { context, choice: Choice::new(Some(behind), Some(tag)), label };
            let mut theirs = [0_u64; 2];
            let into = bytemuck::bytes_of_mut(&mut theirs);
            let received = self.sendrecv(&to, bytemuck::bytes_of(&most), &from, into)?;
            if received.bytes != size_of_val(&theirs) {
                return Err(ErrorKind::Disagreement.into());
            }
            most = [most[0].max(theirs[0]), most[1].max(theirs[1])];
        }
        if most == mine { Ok(()) } else { Err(ErrorKind::Disagreement.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::CollectiveKind;

    fn act(op: &'static str, bytes: usize) -> Act {
        let form = Form::Equal(CollectiveKind::Allreduce.number());
        Act::for_call(Call::new(op, With::ALL), form, bytes)
    }

    fn predicted(lengths: &[usize]) -> Vec<bool> {
        let predictor = Predictor::new();
        lengths.iter().map(|&bytes| predictor.note(&act("allreduce", bytes)).is_none()).collect()
    }

    #[test]
    fn what_was_done_before_is_predicted() {
        assert_eq!(predicted(&[1, 1, 1, 1]), [false, false, true, true]);
        assert_eq!(predicted(&[1, 2, 1, 2, 1, 2]), [false, false, false, true, true, true]);
        assert_eq!(predicted(&[1, 1, 1, 2, 1, 1]), [false, false, true, false, false, false]);
    }

    #[test]
    fn calls_differ_in_verb_root_form_type_and_length() {
        let call = act("bcast", 8);
        assert_eq!(call, call);
        let others = [
            act("gather", 8),
            act("bcast", 9),
            Act { root: 1, ..call },
            Act { form: Form::Rows(CollectiveKind::Allreduce.number()), ..call },
            Act { form: Form::Equal(CollectiveKind::Scan.number()), ..call },
            Act { signature: Signature::of::<f64>(), ..call },
        ];
        for other in others {
            assert_ne!(call, other);
        }
    }

    #[test]
    fn lengths_that_all_ranks_know_differ_by_what_and_where_they_are() {
        let all = [&[3, 5][..], &[5, 3], &[8, 0], &[0, 8], &[8], &[], &[0], &[0, 0], &[3, 5, 0]];
        let hashes: std::collections::HashSet<_> = all.into_iter().map(hash).collect();
        assert_eq!(hashes.len(), all.len());
    }

    #[test]
    fn the_number_of_a_call_counts_predicted_ones() {
        let predictor = Predictor::new();
        let notes: Vec<_> = [1, 1, 1, 2].map(|bytes| predictor.note(&act("scan", bytes))).into();
        assert_eq!(notes, [Some(1), Some(2), None, Some(4)]);
    }
}
