//! Non-blocking collectives.
//!
//! A barrier and the library's own reductions are one call of the library, which makes progress by
//! itself. All else moves rows whose lengths nobody but the contributor knows, and goes as
//! messages, not as a collective for the lengths and a second one for the data. For two reasons:
//!
//! * *Order.* MPI wants collectives called in the same order on all ranks. Two exchanges that are
//!   under way at once would come to their second step in an order of their own on every rank, with
//!   the program's blocking collectives in between. A message is matched by communicator, sender
//!   and tag, here the number of the call: no order can be wrong.
//! * *Progress.* A rank that waits inside a blocking call of the library (for another communicator,
//!   say) could not make its second step, and the others would wait for it. Here every rank posts
//!   all that the others need when it starts; what is left to do serves nobody but itself. So no
//!   rank waits for more than that the others have *started* the call, as MPI promises of its own
//!   non-blocking collectives.
//!
//! Each rank sends its row to every rank that gets it, without a tree between them: who passes rows
//! on would be such a second step. Where collectives are compared (`--checks collective`), every
//! rank sends every other one a message, row or not, that begins with a head: what it calls, and
//! where in the source. Both sides find a disagreement.

mod native;
mod rows;

use std::ffi::c_int;

use self::{native::Native, rows::Rows};
use super::{
    MpiEngine,
    collective::datatype,
    progress::Staged,
    wire::{self, HEAD},
};
use crate::{
    checks::Checks,
    engine::{CollectiveKind, Engine, Exchange, Label, Op, Rank},
    error::{ErrorKind, Fault},
};

/// Starts the exchange.
pub(super) fn start(engine: &MpiEngine, call: Exchange) -> Result<Op, Fault> {
    let pattern = call.check()?;
    let checked = engine.checks() >= Checks::Collective;
    // The library's own do not survive the loss of a rank.
    let own = !engine.survives_losses();
    let is_barrier = own && call.kind == CollectiveKind::Barrier;
    // A library that lets messages overrun buffers gets no lengths that nobody has compared; what
    // has no lengths it gets anyway.
    let reduction =
        call.reduce.filter(|_| own && engine.guard.is_none()).filter(|&(_, element)| {
            // The same on every rank: all contribute equally many bytes.
            c_int::try_from(call.mine.bytes().len() / datatype(element).1).is_ok()
        });
    let machine: Box<dyn Staged> = if is_barrier || reduction.is_some() {
        let compared = checked || reduction.is_some();
        let agreement = compared.then(|| Rows::agreement(engine, &call)).transpose()?;
        Box::new(Native::start(engine, call, reduction, agreement)?)
    } else {
        Box::new(Rows::start(engine, call, pattern, checked)?)
    };
    Ok(engine.launch(machine))
}

/// Whether the message of rank `from`, behind its head, belongs to the same call.
fn agree(label: &Label, message: &[u8], from: Rank) -> Result<(), Fault> {
    let (head, row) = message.split_first_chunk::<HEAD>().ok_or(ErrorKind::Closed)?;
    wire::check(label, head, from)?;
    if row.len() == wire::length(head) { Ok(()) } else { Err(ErrorKind::Closed.into()) }
}
