//! What can go wrong, said so that it can be mended: who, what, where, and how.

mod call;
mod failure;
mod kind;

use std::{error::Error as StdError, fmt, panic::Location, sync::Arc};

pub(crate) use self::{
    call::{Call, Place, With},
    failure::STOPPED,
};
pub use self::{failure::Failure, kind::ErrorKind};

/// The result of a call on a communicator.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed call: which rank called what, where in the source, and why it failed.
///
/// Prints as one line, and a `help:` line where there is something to do about it:
///
/// ```text
/// rank 3: recv from rank 5 tag 7 failed: message holds 800 bytes, buffer 400 (src/main.rs:41)
/// ```
#[derive(Clone)]
pub struct Error(Box<Facts>);

#[derive(Clone)]
struct Facts {
    kind: Fault,
    rank: usize,
    call: Call,
    /// The communicator's name, if the program gave it one.
    comm: Option<Arc<str>>,
}

impl Error {
    pub(crate) fn new(kind: impl Into<Fault>, rank: usize, call: Call) -> Self {
        Self(Box::new(Facts { kind: kind.into(), rank, call, comm: None }))
    }

    /// The same error, on a communicator of this name.
    pub(crate) fn on(mut self, comm: Option<Arc<str>>) -> Self {
        self.0.comm = comm;
        self
    }

    /// The same error, of a call that stands there: what fails inside one of the library's
    /// functions is its caller's.
    pub(crate) fn called_at(mut self, at: &'static Location<'static>) -> Self {
        self.0.call.at = at;
        self
    }

    /// Why the call failed.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// The rank, in the communicator that was called, on which the call failed.
    pub fn rank(&self) -> usize {
        self.0.rank
    }

    /// The name of the communicator that was called, if it has one.
    pub fn comm(&self) -> Option<&str> {
        self.0.comm.as_deref()
    }

    /// Where the failing call stands in the caller's source.
    pub fn location(&self) -> &'static Location<'static> {
        self.0.call.at
    }

    /// Something the reader can do about it, where there is such a thing.
    pub fn help(&self) -> Option<&'static str> {
        self.0.kind.help()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Facts { kind, rank, call, comm } = &*self.0;
        let place = Place(call.at);
        let why = kind.to_string();
        // What follows the first line is a report, a line per rank.
        let (first, report) = why.split_at(why.find('\n').unwrap_or(why.len()));
        write!(f, "rank {rank}")?;
        if let Some(comm) = comm {
            write!(f, " of {comm}")?;
        }
        write!(f, ": {call} failed: {first}{place}{report}")?;
        if let Some(help) = self.help() {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

/// The same words, so that `unwrap` in a test says what happened.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0.kind)
    }
}

/// Why a call fails, on its way to the program: one word, so that the results of verbs fit into
/// registers.
///
/// A result that is handed on through memory, written in small pieces and moved in large ones,
/// waits until what was stored before has left the processor: a message that was just sent, for a
/// tenth of a microsecond.
pub(crate) type Fault = Box<ErrorKind>;
