//! Exchanges of rows, a message for each.

use std::{
    ffi::{c_int, c_void},
    ops::Range,
    panic::Location,
    rc::Rc,
};

use mpi::ffi;

use super::agree;
use crate::{
    datum::Buffer,
    engine::{
        Context, Done, Engine, Exchange, Exchanged, Label, Pattern, Rank, Tag,
        mpi::{
            CommPair, MpiEngine,
            progress::Staged,
            raw::{Extent, blank_status, bytes_in, check, made},
            transfer::tested,
            wire::{self, HEAD},
        },
    },
    error::{ErrorKind, Fault},
};

/// The receiving half of an exchange: finds out how much comes from each rank, makes room, and
/// receives.
pub(super) struct Rows {
    pair: Rc<CommPair>,
    context: Context,
    tag: c_int,
    me: usize,
    label: Label,
    /// Whether messages begin with a head.
    checked: bool,
    /// Whose messages come, this rank's not among them, in the order in which they are looked for.
    sources: Vec<usize>,
    /// Whose rows come.
    givers: Range<usize>,
    /// This rank's row for itself.
    own: Box<[u8]>,
    room: fn(usize) -> Box<dyn Buffer>,
    /// The messages of the first `sources`.
    found: Vec<Found>,
    /// What MPI writes; `None` before and after.
    held: Option<LockedPart>,
    #[allow(clippy::struct_field_names, reason = "what it is for")]
    rows: Option<Box<dyn Buffer>>,
    /// Nobody wants the rows any more, and no more messages are looked for.
    abandoned: bool,
}

/// A message taken out of MPI's queue.
struct Found {
    from: usize,
    message: ffi::MPI_Message,
    bytes: usize,
}

/// Where messages land.
struct LockedPart {
    receives: Vec<ffi::MPI_Request>,
    /// Behind each other, in the order of ranks.
    #[allow(clippy::struct_field_names, reason = "what it is for")]
    rows: Option<Box<dyn Buffer>>,
    /// Or each by itself, where they begin with heads.
    messages: Vec<Box<[u8]>>,
}

impl Rows {
    /// The comparison of calls alone, for a call that the library makes.
    pub(super) fn agreement(engine: &MpiEngine, call: &Exchange) -> Result<Self, Fault> {
        let &Exchange { context, rank, size, seq, kind, label, room, .. } = call;
        let (mine, counts, reduce) = (room(0), Vec::new(), None);
        let nothing =
            Exchange { context, rank, size, seq, label, kind, mine, counts, reduce, room };
        Self::start(engine, nothing, Pattern::All, true)
    }

    /// Sends this rank's rows on their way.
    pub(super) fn start(
        engine: &MpiEngine,
        call: Exchange,
        pattern: Pattern,
        checked: bool,
    ) -> Result<Self, Fault> {
        let Exchange { context, size, label, mine, counts, room, .. } = call;
        let pair = engine.pair(context)?;
        pair.predictor.check()?;
        let me = call.rank.index();
        let Tag(tag) = engine.step_tag(call.seq, &label);
        let row = |to: usize| row(pattern, me, to, &counts, mine.bytes().len());
        let givers = match pattern {
            Pattern::All | Pattern::Each => 0..size,
            Pattern::ToRoot(Rank(root)) if root as usize == me => 0..size,
            Pattern::ToRoot(_) => 0..0,
            Pattern::FromRoot(root) | Pattern::RowsFromRoot(root) => root.index()..root.index() + 1,
        };
        let own = if givers.contains(&me) { row(me) } else { None };
        let own = own.map(|part| mine.bytes()[part].into()).unwrap_or_default();
        // One after the other beginning behind this rank, so that not all ranks send to the same
        // one first.
        let parts = (1..size).map(|step| (me + step) % size);
        let parts = parts.filter_map(|to| Some((to, row(to).or(checked.then_some(0..0))?)));
        let parts: Vec<_> = parts.collect();
        let mut sends = Sends { pair: pair.clone(), held: Some(Sent::new(mine)) };
        for (to, part) in parts {
            sends.post(to, tag as c_int, part, checked.then_some(&label))?;
        }
        engine.keep(Box::new(sends))?;
        let heard = if checked { 0..size } else { givers.clone() };
        Ok(Self {
            pair,
            context,
            tag: tag as c_int,
            me,
            label,
            checked,
            sources: heard.filter(|&from| from != me).collect(),
            givers,
            own,
            room,
            found: Vec::new(),
            held: None,
            rows: None,
            abandoned: false,
        })
    }

    /// Takes the messages that have come out of MPI's queue; whether that was the last of them.
    fn find(&mut self) -> Result<bool, Fault> {
        while let Some(&from) = self.sources.get(self.found.len()) {
            let (mut there, mut status) = (0, blank_status());
            let (source, tag, comm) = (from as c_int, self.tag, self.pair.coll.raw());
            // SAFETY: a live communicator; the message is written if there is one.
            let message = unsafe {
                let mut message = ffi::RSMPI_MESSAGE_NULL;
                let (there, into, status) = (&raw mut there, &raw mut message, &raw mut status);
                check(ffi::MPI_Improbe(source, tag, comm, there, into, status))?;
                message
            };
            if there == 0 {
                return Ok(self.abandoned);
            }
            self.found.push(Found { from, message, bytes: bytes_in(&status) });
        }
        Ok(true)
    }

    /// The lengths of the rows that come, by rank, all messages being found.
    fn counts(&self) -> Vec<usize> {
        let count = |giver: usize| {
            let found = self.found.iter().find(|found| found.from == giver);
            let message = found.map_or(0, |found| found.bytes);
            match giver {
                giver if giver == self.me => self.own.len(),
                _ if self.checked => message.saturating_sub(HEAD),
                _ => message,
            }
        };
        self.givers.clone().map(count).collect()
    }

    /// Makes room and starts to receive what was found.
    fn receive(&mut self) -> Result<(), Fault> {
        let held = LockedPart { receives: Vec::new(), rows: None, messages: Vec::new() };
        let held = self.held.insert(held);
        if self.checked || self.abandoned {
            for found in &mut self.found {
                let mut message = vec![0; found.bytes].into_boxed_slice();
                let start = message.as_mut_ptr();
                held.messages.push(message);
                // SAFETY: `bytes` bytes on the heap in `held`.
                held.receives.push(unsafe { found.receive(start) }?);
            }
            return Ok(());
        }
        let counts = self.counts();
        let starts = starts(&counts);
        let mut rows = (self.room)(counts.iter().sum());
        if self.givers.contains(&self.me) {
            let start = starts[self.me - self.givers.start];
            rows.bytes_mut()[start..start + self.own.len()].copy_from_slice(&self.own);
        }
        let base = rows.bytes_mut().as_mut_ptr();
        let Some(held) = &mut self.held else { return Err(ErrorKind::Closed.into()) };
        held.rows = Some(rows);
        for found in &mut self.found {
            let start = starts[found.from - self.givers.start];
            // SAFETY: the rows, kept in `held`, have room for this one's bytes at its start,
            // overlapping no other's.
            held.receives.push(unsafe { found.receive(base.add(start)) }?);
        }
        Ok(())
    }

    /// Compares the heads of what has come, and takes the rows from behind them.
    fn open(&self, messages: &[Box<[u8]>]) -> Result<Box<dyn Buffer>, Fault> {
        for (found, message) in self.found.iter().zip(messages) {
            agree(&self.label, message, Rank::from(found.from))?;
        }
        let counts = self.counts();
        let mut rows = (self.room)(counts.iter().sum());
        let starts = starts(&counts);
        let mut put = |giver: usize, row: &[u8]| {
            let start = starts[giver - self.givers.start];
            rows.bytes_mut()[start..start + row.len()].copy_from_slice(row);
        };
        if self.givers.contains(&self.me) {
            put(self.me, &self.own);
        }
        for (found, message) in self.found.iter().zip(messages) {
            if self.givers.contains(&found.from) {
                put(found.from, &message[HEAD..]);
            }
        }
        Ok(rows)
    }
}

impl Staged for Rows {
    fn poll(&mut self, _engine: &MpiEngine) -> Result<bool, Fault> {
        if self.rows.is_some() {
            return Ok(true);
        }
        if self.held.is_none() {
            if !self.find()? {
                return Ok(false);
            }
            self.receive()?;
        }
        let Some(held) = &mut self.held else { return Err(ErrorKind::Closed.into()) };
        if !all_done(&mut held.receives)? {
            return Ok(false);
        }
        let Some(held) = self.held.take() else { return Err(ErrorKind::Closed.into()) };
        self.rows = Some(match held.rows {
            Some(rows) => rows,
            None if self.abandoned => (self.room)(0),
            None => self.open(&held.messages)?,
        });
        Ok(true)
    }

    fn finish(mut self: Box<Self>) -> Result<Done, Fault> {
        let rows = self.rows.take().ok_or(ErrorKind::Closed)?;
        let exchanged = Exchanged { rows, counts: self.counts(), reduced: false };
        let exchanged = Some(Box::new(exchanged));
        Ok(Done { buffer: None, received: None, exchanged })
    }

    fn abandon(&mut self, engine: &MpiEngine) {
        // On a communicator that the program has let go of the engine receives nothing; this does.
        self.abandoned = engine.pair(self.context).is_ok();
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        std::mem::forget(self.held.take()); // MPI may still write there
    }
}

impl Found {
    /// Starts to receive the message, once.
    ///
    /// # Safety
    /// At `start` there is room for the message, which is let alone until the request is complete.
    unsafe fn receive(&mut self, start: *mut u8) -> Result<ffi::MPI_Request, Fault> {
        let message = &raw mut self.message;
        let Extent { count, unit, .. } = &Extent::bytes(self.bytes)?;
        // SAFETY: by this function's contract; the message is a matched one.
        unsafe {
            made(|made| ffi::MPI_Imrecv(start.cast::<c_void>(), *count, *unit, message, made))
        }
    }
}

/// Which part of its bytes rank `me` has for rank `to`. None is another thing than an empty one.
fn row(
    pattern: Pattern,
    me: usize,
    to: usize,
    counts: &[usize],
    bytes: usize,
) -> Option<Range<usize>> {
    let is_root = |root: Rank| root.index() == me;
    match pattern {
        Pattern::All => Some(0..bytes),
        Pattern::ToRoot(root) => (root.index() == to).then_some(0..bytes),
        Pattern::FromRoot(root) => is_root(root).then_some(0..bytes),
        Pattern::RowsFromRoot(root) if !is_root(root) => None,
        Pattern::Each | Pattern::RowsFromRoot(_) => {
            let start = counts[..to].iter().sum();
            Some(start..start + counts[to])
        }
    }
}

fn starts(counts: &[usize]) -> Vec<usize> {
    let place = |end: &mut usize, &count: &usize| {
        *end += count;
        Some(*end - count)
    };
    counts.iter().scan(0, place).collect()
}

/// The sending half of an exchange, which needs no owner.
struct Sends {
    /// Keeps the communicator open.
    pair: Rc<CommPair>,
    /// `None` when MPI is done.
    held: Option<Sent>,
}

/// What MPI reads.
struct Sent {
    mine: Box<dyn Buffer>,
    /// Rows behind their heads, if they have heads.
    messages: Vec<Box<[u8]>>,
    requests: Vec<ffi::MPI_Request>,
}

impl Sent {
    fn new(mine: Box<dyn Buffer>) -> Self {
        Self { mine, messages: Vec::new(), requests: Vec::new() }
    }
}

impl Sends {
    /// Starts to send a part of this rank's bytes, behind a head that says `label`.
    fn post(
        &mut self,
        to: usize,
        tag: c_int,
        part: Range<usize>,
        label: Option<&Label>,
    ) -> Result<(), Fault> {
        let Some(held) = &mut self.held else { return Err(ErrorKind::Closed.into()) };
        let row = &held.mine.bytes()[part];
        let message = match label {
            Some(label) => {
                let at = label.step.map_or(Location::caller(), |step| step.call.at);
                let message = [wire::head(label, at, row.len()).as_slice(), row].concat();
                held.messages.push(message.into());
                held.messages.last().map_or(row, |message| message)
            }
            None => row,
        };
        let (to, comm) = (to as c_int, self.pair.coll.raw());
        let start = message.as_ptr().cast::<c_void>();
        let Extent { count, unit, .. } = &Extent::bytes(message.len())?;
        // SAFETY: the message lies on the heap in `held`, where it is let alone until the request
        // is complete.
        let request =
            unsafe { made(|made| ffi::MPI_Isend(start, *count, *unit, to, tag, comm, made)) };
        held.requests.push(request?);
        Ok(())
    }
}

impl Staged for Sends {
    fn poll(&mut self, _engine: &MpiEngine) -> Result<bool, Fault> {
        if let Some(held) = &mut self.held
            && !all_done(&mut held.requests)?
        {
            return Ok(false);
        }
        self.held = None;
        Ok(true)
    }

    fn finish(self: Box<Self>) -> Result<Done, Fault> {
        Ok(Done { buffer: None, received: None, exchanged: None })
    }

    fn abandon(&mut self, _engine: &MpiEngine) {}
}

impl Drop for Sends {
    fn drop(&mut self) {
        std::mem::forget(self.held.take()); // MPI may still read there
    }
}

/// Whether MPI is done with all these requests.
fn all_done(requests: &mut [ffi::MPI_Request]) -> Result<bool, Fault> {
    for request in requests {
        if tested(request)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}
