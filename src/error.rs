//! What can go wrong, said so that it can be mended: who, what, where, and how.

use std::{error::Error as StdError, fmt, panic::Location, sync::Arc};

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

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The rank named is not in the communicator.
    #[error("there is no rank {rank}, the communicator has ranks 0 to {}", .size - 1)]
    InvalidRank {
        /// The rank that was asked for.
        rank: usize,
        /// The number of ranks in the communicator.
        size: usize,
    },
    /// The tag is larger than the engine can carry.
    #[error("tag {tag} is too large, this engine carries tags up to {max}")]
    InvalidTag {
        /// The tag that was asked for.
        tag: u32,
        /// The largest tag possible.
        max: u32,
    },
    /// The sender sent values of another type than the receiver asked for.
    #[error("rank {peer} sent values of type {got}, this rank receives {expected}")]
    TypeMismatch {
        /// The sending rank.
        peer: usize,
        /// The type the receiver asked for.
        expected: String,
        /// The type the sender sent.
        got: String,
    },
    /// The message does not fit into the receiver's buffer.
    #[error("message holds {}, buffer {buffer}", bytes_told(*.message))]
    Truncated {
        /// Size of the message in bytes; `usize::MAX` where the MPI library does not tell.
        message: usize,
        /// Size of the receiver's buffer in bytes.
        buffer: usize,
    },
    /// An argument has another length than the call needs.
    #[error("{what} has length {got}, needed {needed}")]
    LengthMismatch {
        /// Which argument.
        what: &'static str,
        /// The length it must have.
        needed: usize,
        /// The length it has.
        got: usize,
    },
    /// An argument makes no sense for this communicator.
    #[error("{what}")]
    InvalidArgument {
        /// What is wrong with it.
        what: String,
    },
    /// A received bit pattern is no value of the type asked for (a `bool` of 7, say).
    #[error("element {index} of the message is no valid {type_name}")]
    InvalidValue {
        /// The type asked for.
        type_name: &'static str,
        /// The first element that is not a value.
        index: usize,
    },
    /// The ranks of a communicator do not make the same collective call.
    #[error("this rank calls {mine}, rank {rank} calls {theirs}")]
    CollectiveMismatch {
        /// The call of this rank.
        mine: String,
        /// A rank that does otherwise.
        rank: usize,
        /// The call of that rank.
        theirs: String,
    },
    /// The ranks of a communicator do not make the same collective call; which do what is not known
    /// on this level of [`Checks`](crate::Checks).
    #[error("the ranks do not make the same collective call, with the same root and length")]
    Disagreement,
    /// An earlier collective call on this communicator has failed, or found that the ranks
    /// disagree: some may have gone on to other calls, so that none is possible any more. Messages
    /// are.
    #[error("an earlier collective call on this communicator has failed")]
    BrokenCommunicator,
    /// Every rank waits and no message can come any more.
    #[error("deadlock, every rank waits\n{report}")]
    Deadlock {
        /// What each rank waits for, a line each.
        report: String,
    },
    /// Another rank has failed; this one was told to stop.
    #[error("the job ends because rank {rank} failed: {cause}")]
    Aborted {
        /// The world rank that failed first.
        rank: usize,
        /// Its own words.
        cause: String,
    },
    /// An object could not be turned into bytes or back.
    #[error("object of type {type_name} cannot be {verb}: {reason}")]
    Object {
        /// The Rust type.
        type_name: &'static str,
        /// `sent` or `received`.
        verb: &'static str,
        /// What the format library said.
        reason: String,
    },
    /// The communicator outlived the run it belonged to.
    #[error("the run that this communicator belonged to has ended")]
    Closed,
    /// The MPI library reported an error.
    #[error("MPI error {code}: {text}")]
    Mpi {
        /// The error code.
        code: i32,
        /// The library's own words.
        text: String,
    },
    /// The program's own code failed or panicked on a rank (only from [`local`](crate::local)).
    #[error("{message}")]
    Application {
        /// The program's own words.
        message: String,
    },
    /// Another rank's part of a common task failed; see
    /// [`Comm::agree_result`](crate::Comm::agree_result).
    #[error("rank {rank} failed: {cause}")]
    Elsewhere {
        /// The lowest rank that failed.
        rank: usize,
        /// Its own words.
        cause: String,
    },
    /// A window or node array is larger than the memory there is for it on a host.
    #[error("on the host of rank {rank} {wanted} bytes of {place} are wanted, {free} are free")]
    NoRoom {
        /// The first rank of that host in the communicator.
        rank: usize,
        /// What its ranks want together.
        wanted: u64,
        /// What there is.
        free: u64,
        /// Where the memory is taken from.
        place: String,
    },
    /// The MPI library has no more communicators, or memory for them.
    #[error("MPI makes no more communicators, {alive} are alive on this rank: {text}")]
    TooManyCommunicators {
        /// How many the program holds, those of its windows and arrays among them.
        alive: usize,
        /// The library's own words.
        text: String,
    },
    /// The engine cannot do this here.
    #[error("{what}")]
    Unsupported {
        /// What it cannot do.
        what: &'static str,
        /// What would help.
        how: &'static str,
    },
    /// The job could not be started as asked.
    #[error("{what}")]
    Launch {
        /// What could not be done, and how to mend it.
        what: String,
    },
}

fn bytes_told(bytes: usize) -> String {
    match bytes {
        usize::MAX => "more bytes (the MPI library does not tell how many)".to_owned(),
        _ => format!("{bytes} bytes"),
    }
}

impl ErrorKind {
    fn help(&self) -> Option<&'static str> {
        match self {
            Self::Truncated { .. } => {
                Some("`recv` allocates what the message needs; `probe` tells its size beforehand")
            }
            Self::Deadlock { .. } => Some(
                "receive what is sent: order the calls, or use `sendrecv`, `isend` and `irecv`",
            ),
            Self::CollectiveMismatch { .. } => {
                Some("all ranks of a communicator make the same collective calls in the same order")
            }
            Self::Disagreement => {
                Some("with --checks collective each says what it calls, and where")
            }
            Self::BrokenCommunicator => Some(
                "make duplicates (`dup`) beforehand for calls that must work after a failure, or let the job end",
            ),
            Self::NoRoom { .. } => Some(
                "ask for less, start fewer ranks on a host, or have the system give more (a container's /dev/shm has 64 MB unless told: --shm-size)",
            ),
            Self::Mpi { text, .. } if text.contains("MPI_ERR_WIN") => Some(
                "Open MPI 4.1 opens windows over several hosts with `mpirun --mca osc ^rdma,ucx` (but not with `--thread-multiple`)",
            ),
            Self::TooManyCommunicators { .. } => {
                Some("drop those that are not needed any more, or use tags instead")
            }
            Self::Unsupported { how, .. } => Some(how),
            Self::Closed => Some("do not keep a communicator beyond the closure given to `run`"),
            _ => None,
        }
    }
}

/// A call of the program on a communicator, as errors and reports name it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) op: &'static str,
    pub(crate) with: With,
    pub(crate) at: &'static Location<'static>,
}

/// The other side of a call.
///
/// Every call of the program notes it, on the way of each message; as two words it stays in
/// registers until it is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct With {
    /// The kind of the other side, and in the lower half a rank.
    whom: u64,
    tag: u32,
}

/// The whole communicator.
const EVERYBODY: u32 = 0;
/// The whole communicator, one rank of which has a special part.
const ROOT: u32 = 1;
/// A message to a rank.
const TO: u32 = 2;
/// A message from a rank, or from any; with a tag, or any.
const FROM: u32 = 3;

/// Any rank or any tag; neither can be so large.
const ANY: u32 = u32::MAX;
/// The null rank.
const NOBODY: u32 = u32::MAX - 1;

impl With {
    pub(crate) const ALL: Self = Self::new(EVERYBODY, 0, 0);

    #[inline]
    const fn new(side: u32, rank: u32, tag: u32) -> Self {
        Self { whom: (side as u64) << 32 | rank as u64, tag }
    }

    #[inline]
    pub(crate) fn root(root: usize) -> Self {
        Self::new(ROOT, short(root), 0)
    }

    #[inline]
    pub(crate) fn to(rank: usize, tag: u32) -> Self {
        Self::new(TO, short(rank), tag)
    }

    #[inline]
    pub(crate) fn from(rank: Option<usize>, tag: Option<u32>) -> Self {
        Self::new(FROM, rank.map_or(ANY, short), tag.unwrap_or(ANY))
    }

    fn parts(self) -> (u32, u32, u32) {
        ((self.whom >> 32) as u32, self.whom as u32, self.tag)
    }

    /// The number by which calls are told apart that are alike but for the root: 0 is none.
    pub(crate) fn root_number(self) -> u32 {
        match self.parts() {
            (ROOT, root, _) => root + 1,
            _ => 0,
        }
    }
}

/// A rank in few bytes. Numbers that no rank can have become the largest that is one to the eye.
#[inline]
fn short(rank: usize) -> u32 {
    match u32::try_from(rank) {
        Ok(rank) => rank.min(NOBODY - 1),
        Err(_) if rank == usize::MAX => NOBODY,
        Err(_) => NOBODY - 1,
    }
}

impl Call {
    /// The call `op` made at the caller's place in the source.
    #[inline]
    #[track_caller]
    pub(crate) fn new(op: &'static str, with: With) -> Self {
        Self { op, with, at: Location::caller() }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.op)?;
        let (side, rank, tag) = self.with.parts();
        match (side, rank) {
            (ROOT, _) => write!(f, " with root {rank}"),
            (TO, NOBODY) => f.write_str(" to nobody"),
            (FROM, NOBODY) => f.write_str(" from nobody"),
            (TO, _) => write!(f, " to rank {rank} tag {tag}"),
            (FROM, _) => {
                match rank {
                    ANY => f.write_str(" from any rank")?,
                    _ => write!(f, " from rank {rank}")?,
                }
                match tag {
                    ANY => f.write_str(" any tag"),
                    _ => write!(f, " tag {tag}"),
                }
            }
            _ => Ok(()),
        }
    }
}

/// A place in the source, as messages end with it; nothing where it lies in the standard library,
/// of which the reader knows nothing: what is given to it by name (`map_err(Failure::from)`) is
/// called from there.
pub(crate) struct Place<'a>(pub(crate) &'a Location<'a>);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, line) = (self.0.file(), self.0.line());
        let standard = ["/library/core/src/", "/library/alloc/src/", "/library/std/src/"];
        if standard.iter().any(|library| file.contains(library)) {
            return Ok(());
        }
        write!(f, " ({file}:{line})")
    }
}

/// Why a rank's program ended badly: any error, where it was passed on with `?`, and the exit code
/// it asks for.
///
/// The closure given to [`run`](crate::run) returns `Result<(), Failure>`, so `?` works on every
/// error type, on boxed errors (`anyhow::Error` too) and on text. An error type of your own that
/// wraps ours (and says so by `source()`) keeps its exit code. Exit codes: 1 failure, 2 usage, 3
/// verification failed, 4 deadlock or lost rank.
///
/// ```
/// # use spmd::Failure;
/// fn read(path: &str) -> Result<String, Failure> {
///     if path.is_empty() {
///         return Err(Failure::usage("give a file name"));
///     }
///     Ok(std::fs::read_to_string(path)?)
/// }
/// assert_eq!(read("").unwrap_err().exit_code(), 2);
/// assert_eq!(read("/nowhere").unwrap_err().exit_code(), 1);
/// ```
pub struct Failure {
    cause: Box<dyn StdError + Send + Sync>,
    code: u8,
    at: &'static Location<'static>,
}

impl Failure {
    /// The program failed (exit code 1).
    #[track_caller]
    pub fn new(message: impl Into<String>) -> Self {
        Self::with_code(message, 1)
    }

    /// The program was called wrongly (exit code 2).
    #[track_caller]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::with_code(message, 2)
    }

    /// The program's result did not pass its own check (exit code 3).
    #[track_caller]
    pub fn verification(message: impl Into<String>) -> Self {
        Self::with_code(message, 3)
    }

    #[track_caller]
    fn with_code(message: impl Into<String>, code: u8) -> Self {
        Self { cause: message.into().into(), code, at: Location::caller() }
    }

    /// The same failure, asking for another exit code.
    pub(crate) fn with_exit_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// The same failure, of a call that stands there.
    pub(crate) fn called_at(mut self, at: &'static Location<'static>) -> Self {
        if let Some(Error(facts)) = self.cause.downcast_mut() {
            facts.call.at = at;
        }
        Self { at, ..self }
    }

    /// The exit code that this failure asks for.
    pub fn exit_code(&self) -> u8 {
        self.code
    }

    /// Where the failure arose: the call that failed, or the `?` that passed a foreign error on.
    pub fn location(&self) -> &'static Location<'static> {
        self.as_error().map_or(self.at, Error::location)
    }

    /// The communicator's own error, if it was one or was caused by one.
    pub fn as_error(&self) -> Option<&Error> {
        self.chain().find_map(|error| error.downcast_ref())
    }

    /// The communicator's own error, if it was nothing else.
    pub(crate) fn own_error(&self) -> Option<&Error> {
        self.cause.downcast_ref()
    }

    /// The error and what caused it, down to the communicator's own, which says everything itself.
    fn chain(&self) -> impl Iterator<Item = &(dyn StdError + 'static)> {
        let mut next: Option<&(dyn StdError + 'static)> = Some(&*self.cause);
        let chain = std::iter::from_fn(move || {
            let error = next?;
            next = if error.is::<Error>() { None } else { error.source() };
            Some(error)
        });
        chain.take(LONGEST_CHAIN)
    }

    /// The failure in one or more lines: its place in the source, and what caused it.
    pub(crate) fn describe(&self) -> String {
        if let Some(error) = self.own_error() {
            return error.to_string();
        }
        let words = self.cause.to_string();
        // What follows the first line is a list or a help.
        let (first, rest) = words.split_at(words.find('\n').unwrap_or(words.len()));
        let mut text = format!("{first}{}{rest}", Place(self.at));
        for cause in self.chain().skip(1).map(ToString::to_string) {
            // Many errors say themselves what caused them.
            if !text.contains(&cause) {
                text.extend(["\n  caused by: ", &cause]);
            }
        }
        text
    }
}

/// An error that is its own cause, by way of others, has a chain without end.
const LONGEST_CHAIN: usize = 100;

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

/// Any error, boxed or not, and text: what `Box<dyn Error + Send + Sync>` can be made of.
impl<E: Into<Box<dyn StdError + Send + Sync>>> From<E> for Failure {
    #[track_caller]
    fn from(error: E) -> Self {
        let mut failure = Self { cause: error.into(), code: 1, at: Location::caller() };
        if let Some(error) = failure.as_error() {
            failure.code = exit_code(error.kind());
        }
        failure
    }
}

/// The exit code of a job that ends with this error.
pub(crate) fn exit_code(kind: &ErrorKind) -> u8 {
    match kind {
        ErrorKind::Deadlock { .. } => 4,
        ErrorKind::Launch { .. } => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod place_tests {
    use super::*;

    fn fails() -> Result<(), std::io::Error> {
        Err(std::io::Error::other("the disk is full"))
    }

    #[test]
    fn places_in_the_standard_library_are_left_out() {
        let here = Failure::from(fails().unwrap_err());
        assert!(here.describe().ends_with(&format!("({}:{})", file!(), line!() - 1)), "{here:?}");
        // Called by `Result::map_err`, which stands in the standard library.
        let there = fails().map_err(Failure::from).unwrap_err();
        assert!(!there.location().file().ends_with("error.rs"), "{:?}", there.location());
        assert_eq!(there.describe(), "the disk is full");
        let call = Call { op: "barrier", with: With::ALL, at: there.location() };
        let error = Error::new(ErrorKind::Closed, 0, call).to_string();
        assert!(error.contains("has ended\n"), "{error}");
    }

    #[test]
    fn an_error_inside_the_library_is_its_callers() {
        let at = Location::caller();
        let error = || Error::new(ErrorKind::Closed, 0, Call { op: "recv", with: With::ALL, at });
        let caller = Call::new("caller", With::ALL).at;
        assert_eq!(error().called_at(caller).location(), caller);
        let failure = Failure::from(error()).called_at(caller);
        assert_eq!((failure.location(), failure.as_error().unwrap().location()), (caller, caller));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Errors of several layers, the innermost last.
    #[derive(Debug, thiserror::Error)]
    enum Layer {
        #[error("the step failed")]
        Silent(#[source] Error),
        #[error("the run failed: {0}")]
        Telling(#[source] Box<Layer>),
    }

    /// As `anyhow::Error`: no error itself, but one can be made of it.
    struct Opaque(Error);

    impl From<Opaque> for Box<dyn StdError + Send + Sync> {
        fn from(Opaque(error): Opaque) -> Self {
            Box::new(Layer::Silent(error))
        }
    }

    fn deadlock() -> Error {
        let kind = ErrorKind::Deadlock { report: "  rank 0: barrier".to_owned() };
        Error::new(kind, 3, Call::new("barrier", With::ALL))
    }

    fn fails_by<E: Into<Box<dyn StdError + Send + Sync>>>(error: E) -> Failure {
        let fail = || -> Result<(), Failure> { Err(error)? };
        fail().unwrap_err()
    }

    #[test]
    fn a_wrapped_error_of_ours_decides_the_exit_code_and_the_place() {
        let ours = deadlock();
        let at = ours.location();
        let wrapped = || Layer::Telling(Box::new(Layer::Silent(deadlock())));
        for failure in [fails_by(deadlock()), fails_by(wrapped()), fails_by(Box::new(wrapped()))] {
            assert_eq!(failure.exit_code(), 4);
            assert_eq!(failure.location().line(), at.line());
            assert_eq!(failure.as_error().map(Error::rank), Some(3));
        }
        let text = fails_by(wrapped()).describe();
        assert!(text.starts_with("the run failed: the step failed ("), "{text}");
        assert_eq!(text.matches("the step failed").count(), 1, "{text}");
        assert!(text.contains("\n  caused by: rank 3: barrier failed: deadlock"), "{text}");
    }

    #[test]
    fn text_and_boxed_errors_are_failures() {
        let io = || std::io::Error::other("the disk is full");
        let boxed: Box<dyn StdError + Send + Sync> = Box::new(io());
        for failure in [fails_by(io()), fails_by(boxed), fails_by("the disk is full")] {
            assert_eq!((failure.exit_code(), failure.to_string()), (1, io().to_string()));
            assert!(failure.describe().ends_with(&format!("({}:{})", file!(), failure.at.line())));
        }
        assert_eq!(fails_by("owned".to_owned()).to_string(), "owned");
        assert_eq!(fails_by(Opaque(deadlock())).exit_code(), 4);
    }

    #[test]
    fn a_chain_without_end_is_cut() {
        #[derive(Debug)]
        struct Endless;
        impl fmt::Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("round and round")
            }
        }
        impl StdError for Endless {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                Some(&Self)
            }
        }
        assert_eq!(fails_by(Endless).exit_code(), 1);
    }
}
