//! Data whose number of elements, whose slice and whose packed copy need not agree, and may change
//! from call to call.

use std::cell::Cell;

use spmd::{View, ViewMut};

use super::value::{BEFORE, Element, elements};

/// How data lies.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Lie {
    /// What is added to the true number of elements, in turn.
    pub(crate) counts: [isize; 3],
    /// What is added to the true length of the slice, in turn.
    pub(crate) slices: [isize; 3],
    /// What is added to the number of elements packed.
    pub(crate) packed: isize,
    /// Whether there is a slice, in turn.
    pub(crate) piece: [bool; 3],
    /// Which question is answered by a panic.
    pub(crate) panics: Option<usize>,
}

/// Short where it is none.
impl std::fmt::Debug for Lie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { counts, slices, packed, piece, panics } = self;
        if self.is_one() {
            write!(
                f,
                "count {counts:?} slice {slices:?} {piece:?} packed {packed} panics {panics:?}"
            )
        } else {
            write!(f, "{}", if piece[0] { "whole" } else { "packed" })
        }
    }
}

impl Lie {
    /// The truth, in one piece or not.
    pub(crate) fn none(piece: bool) -> Self {
        Self { counts: [0; 3], slices: [0; 3], packed: 0, piece: [piece; 3], panics: None }
    }

    pub(crate) fn is_one(&self) -> bool {
        *self != Self::none(true) && *self != Self::none(false)
    }
}

/// Such data. They end where their memory ends.
pub(crate) struct Liar<T> {
    data: Vec<T>,
    truth: usize,
    lie: Lie,
    asked: Cell<usize>,
}

fn changed(truth: usize, by: isize) -> usize {
    truth.saturating_add_signed(by)
}

impl<T: Element> Liar<T> {
    pub(crate) fn new(data: Vec<T>, lie: &Lie) -> Self {
        let truth = data.len();
        let longest = lie.slices.iter().map(|&by| changed(truth, by)).max().unwrap_or(truth);
        let mut all = Vec::with_capacity(longest);
        all.extend(data.iter().copied().cycle().take(if truth == 0 { 0 } else { longest }));
        Self { data: all, truth, lie: lie.clone(), asked: Cell::new(0) }
    }

    /// So many elements to be overwritten.
    pub(crate) fn room(count: usize, lie: &Lie) -> Self {
        Self::new(elements(&vec![BEFORE; count * size_of::<T>()]), lie)
    }

    /// What the first elements have become.
    pub(crate) fn into_values(self) -> Vec<T> {
        let mut data = self.data;
        data.truncate(self.truth);
        data
    }

    fn turn(&self) -> usize {
        let turn = self.asked.get();
        self.asked.set(turn + 1);
        assert_ne!(Some(turn), self.lie.panics, "the data panic when they are asked");
        turn % 3
    }

    fn shown(&self, turn: usize) -> usize {
        changed(self.truth, self.lie.slices[turn]).min(self.data.len())
    }
}

impl<T: Element> View for Liar<T> {
    type Elem = T;

    fn count(&self) -> usize {
        changed(self.truth, self.lie.counts[self.turn()])
    }

    fn as_slice(&self) -> Option<&[T]> {
        let turn = self.turn();
        self.lie.piece[turn].then(|| &self.data[..self.shown(turn)])
    }

    fn pack(&self, onto: &mut Vec<T>) {
        self.turn();
        let count = changed(self.truth, self.lie.packed).min(1 << 20);
        onto.extend(self.data.iter().copied().cycle().take(if self.truth == 0 {
            0
        } else {
            count
        }));
    }
}

impl<T: Element> ViewMut for Liar<T> {
    fn as_slice_mut(&mut self) -> Option<&mut [T]> {
        let turn = self.turn();
        let shown = self.shown(turn);
        if self.lie.piece[turn] { Some(&mut self.data[..shown]) } else { None }
    }

    fn unpack(&mut self, values: &[T]) {
        self.turn();
        let count = values.len().min(self.data.len());
        self.data[..count].copy_from_slice(&values[..count]);
    }
}
