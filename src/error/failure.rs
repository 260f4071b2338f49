//! Why a rank's program ended badly, and the exit code that it asks for.

use std::{error::Error as StdError, fmt, panic::Location};

use super::{Error, ErrorKind, Place};

/// Why a rank's program ended badly: any error, where it was passed on with `?`, and the exit code
/// it asks for.
///
/// The closure given to [`run`](crate::run) returns `Result<(), Failure>`, so `?` works on every
/// error type, on boxed errors (`anyhow::Error` too) and on text. An error type of your own that
/// wraps ours (and says so by `source()`) keeps its exit code. Exit codes: 1 failure, 2 usage, 3
/// verification failed, 4 deadlock or lost rank, 5 stopped, to be continued.
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

/// The exit code of a job that was asked to stop, and can be continued.
pub(crate) const STOPPED: u8 = 5;

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

    /// The program was asked to stop and has kept its state, to be continued (exit code 5). All
    /// ranks return it in the same step; the message is said once, as it is.
    #[track_caller]
    pub fn stopped(message: impl Into<String>) -> Self {
        Self::with_code(message, STOPPED)
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
        self.find()
    }

    /// An error of this type, if it was one or was caused by one.
    pub(crate) fn find<E: StdError + 'static>(&self) -> Option<&E> {
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
fn exit_code(kind: &ErrorKind) -> u8 {
    match kind {
        ErrorKind::Deadlock { .. } | ErrorKind::RankLost { .. } => 4,
        ErrorKind::Launch { .. } => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod place_tests {
    use super::*;
    use crate::error::{Call, With};

    fn fails() -> Result<(), std::io::Error> {
        Err(std::io::Error::other("the disk is full"))
    }

    #[test]
    fn places_in_the_standard_library_are_left_out() {
        let here = Failure::from(fails().unwrap_err());
        assert!(here.describe().ends_with(&format!("({}:{})", file!(), line!() - 1)), "{here:?}");
        // Called by `Result::map_err`, which stands in the standard library.
        let there = fails().map_err(Failure::from).unwrap_err();
        assert!(!there.location().file().ends_with("failure.rs"), "{:?}", there.location());
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
    use crate::error::{Call, With};

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
