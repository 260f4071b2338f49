//! Collectives that no disagreement between ranks can make overrun a buffer.
//!
//! Where a library writes too long a message behind its buffer's end (see [`guard`](super::guard)), two ranks that call
//! a collective with different lengths or roots, or two different collectives, could destroy memory. From
//! `--checks collective` on all calls are compared. Below that a comparison before every call would cost as much as the call
//! itself, and programs make the same calls again and again. So every communicator remembers which call followed
//! which, and foresees the next one:
//!
//! * a call that is as foreseen is made at once,
//! * any other is first compared by all ranks, in a small reduction on the communicator for steps.
//!
//! All ranks remember the same, because every call was foreseen by all or compared by all. So if ranks disagree, at most those
//! with the one foreseen call make it, while the others wait in the comparison, on another communicator: a hang, which is what
//! is promised on these levels, and no overrun. The comparison includes the number of the call, so that
//! a rank that has gone on cannot pass a later one.
//!
//! Rows whose lengths differ from rank to rank, or from edge to edge, cannot be compared so, and go as messages of ours.

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use mpi::ffi;

use super::{MpiEngine, Space};
use crate::{
    checks::Checks,
    engine::{Collective, CollectiveCall, Counts, Preparation, Rank, ReductionKind},
    error::{ErrorKind, Fault},
};

/// So many different calls are remembered; a program whose every call is another forgets all, on all ranks at once.
const REMEMBERED: usize = 4096;

/// What all ranks must do alike: kind, root, and length in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Act(u8, Option<Rank>, usize);

/// What the ranks of a communicator have done so far.
pub(super) struct Foresight(RefCell<Past>);

struct Past {
    /// Each different call once, and the place of the one that has followed it last.
    calls: Vec<(Act, usize)>,
    places: HashMap<Act, usize>,
    /// The place of the last call.
    last: usize,
}

/// The place before the first call, which follows nothing.
const START: usize = 0;
const NOTHING: Act = Act(0, None, 0);

impl Past {
    fn new() -> Self {
        Self { calls: vec![(NOTHING, START)], places: HashMap::new(), last: START }
    }
}

impl Foresight {
    pub(super) fn new() -> Self {
        Self(RefCell::new(Past::new()))
    }

    /// Notes a call; whether it was foreseen.
    #[inline]
    fn note(&self, act: Act) -> bool {
        let past = &mut *self.0.borrow_mut();
        let foreseen = past.calls[past.last].1;
        if past.calls[foreseen].0 == act {
            past.last = foreseen;
            return true;
        }
        past.learn(act);
        false
    }
}

impl Past {
    #[cold]
    fn learn(&mut self, act: Act) {
        if self.calls.len() > REMEMBERED {
            *self = Self::new();
        }
        let Self { calls, places, last } = self;
        let place = *places.entry(act).or_insert_with(|| {
            calls.push((act, START));
            calls.len() - 1
        });
        calls[*last].1 = place;
        *last = place;
    }
}

impl MpiEngine {
    /// Makes sure that the ranks' calls fit together, where that is a matter of memory safety; whether the library may
    /// make the call. If not, it may on no rank.
    pub(super) fn foresee(&self, space: &Space, call: &CollectiveCall<'_>) -> Result<bool, Fault> {
        if self.guard.is_none() || call.size == 1 {
            return Ok(true);
        }
        let Some(act) = act(&call.what) else { return Ok(false) };
        if self.foresees() && !space.foresight.note(act) {
            self.compare(space, (act, call.turn))?;
        }
        Ok(true)
    }

    /// Whether collective calls that do not fit together are a danger, and nobody else compares them.
    pub(super) fn foresees(&self) -> bool {
        self.guard.is_some() && self.checks < Checks::Collective
    }

    /// Makes sure that the ranks prepare the same collective.
    pub(super) fn compare_preparations(&self, what: &Preparation<'_>) -> Result<(), Fault> {
        if !self.foresees() {
            return Ok(());
        }
        let (place, act) = match what {
            Preparation::Send { .. } | Preparation::Recv { .. } => return Ok(()),
            Preparation::Barrier(place) => (place, Act(101, None, 0)),
            Preparation::Bcast { place, root, buffer } => {
                (place, Act(102, Some(*root), buffer.len()))
            }
            Preparation::Allgather { place, mine, .. } => (place, Act(103, None, mine.len())),
            Preparation::Alltoall { place, rows, .. } => (place, Act(104, None, rows.len())),
            Preparation::Gather { place, root, mine, .. } => {
                (place, Act(105, Some(*root), mine.len()))
            }
            Preparation::Scatter { place, root, out, .. } => {
                (place, Act(106, Some(*root), out.len()))
            }
            Preparation::ReduceScatter { place, mine, .. } => (place, Act(107, None, mine.len())),
            Preparation::Reduce { place, kind, mine, .. } => {
                let (number, root) = match kind {
                    ReductionKind::Reduce(root) => (108, Some(*root)),
                    ReductionKind::Allreduce => (109, None),
                    ReductionKind::Scan => (110, None),
                    ReductionKind::Exscan => (111, None),
                };
                (place, Act(number, root, mine.len()))
            }
        };
        let space = self.space(place.context)?;
        self.compare(&space, (act, u64::MAX))
    }

    /// Compares with all ranks what they are about to do.
    fn compare(&self, space: &Space, what: (Act, u64)) -> Result<(), Fault> {
        let mut hasher = DefaultHasher::new(); // the same keys in every process
        what.hash(&mut hasher);
        let hash = hasher.finish();
        // The maxima of a number and of its complement are both one's own only if all numbers are equal.
        let (mine, mut most) = ([hash, !hash], [0_u64; 2]);
        let (send, into) = (mine.as_ptr().cast(), most.as_mut_ptr().cast());
        self.collectively(|request| {
            // SAFETY: a live communicator; two elements each, which stay until the call is complete. On this communicator
            // ranks make no other collective calls than these, all of them of the same length.
            unsafe {
                let (unit, op, comm) = (ffi::RSMPI_UINT64_T, ffi::RSMPI_MAX, space.steps);
                match request {
                    None => ffi::MPI_Allreduce(send, into, 2, unit, op, comm),
                    Some(request) => ffi::MPI_Iallreduce(send, into, 2, unit, op, comm, request),
                }
            }
        })?;
        if most == mine { Ok(()) } else { Err(ErrorKind::Disagreement.into()) }
    }
}

/// What a call does, if all ranks must do it alike; `None` where each rank has lengths of its own.
fn act(what: &Collective<'_>) -> Option<Act> {
    Some(match what {
        Collective::Barrier => Act(1, None, 0),
        Collective::Bcast { root, buffer } => Act(2, Some(*root), buffer.len()),
        Collective::Gather { root, mine, counts: Counts::Equal(_), .. } => {
            Act(3, Some(*root), mine.len())
        }
        Collective::Scatter { root, out, counts: Counts::Equal(_), .. } => {
            Act(4, Some(*root), out.len())
        }
        Collective::Allgather { mine, counts: Counts::Equal(_), .. } => Act(5, None, mine.len()),
        Collective::Alltoall {
            send_counts: Counts::Equal(bytes),
            recv_counts: Counts::Equal(_),
            ..
        } => Act(6, None, *bytes),
        Collective::Reduce { root, mine, .. } => Act(7, Some(*root), mine.len()),
        Collective::Allreduce { mine, .. } => Act(8, None, mine.len()),
        Collective::ReduceScatter { out, counts: Counts::Equal(_), .. } => Act(9, None, out.len()),
        Collective::Scan { mine, .. } => Act(10, None, mine.len()),
        Collective::Exscan { mine, .. } => Act(11, None, mine.len()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acts(lengths: &[usize]) -> Vec<bool> {
        let foresight = Foresight::new();
        lengths.iter().map(|&length| foresight.note(Act(8, None, length))).collect()
    }

    #[test]
    fn what_was_done_before_is_foreseen() {
        assert_eq!(acts(&[1, 1, 1, 1]), [false, false, true, true]);
        assert_eq!(acts(&[1, 2, 1, 2, 1, 2]), [false, false, false, true, true, true]);
        assert_eq!(acts(&[1, 1, 1, 2, 1, 1]), [false, false, true, false, false, false]);
    }
}
