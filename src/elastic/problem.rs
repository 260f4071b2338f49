//! What can go wrong in an elastic farm, said so that it can be mended.

use std::{io, path::PathBuf, time::Duration};

/// Why an elastic farm, a connection of it or its log fails.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("{file}: others may read it\n  help: chmod 600 {file}", file = .0.display())]
    TokenIsOpen(PathBuf),
    #[error("{file}: it belongs to another user\n  help: copy it, and chmod 600 the copy", file = .0.display())]
    TokenOfAnother(PathBuf),
    #[error("{file} is no token file\n  help: copy it from the host of the coordinator, which makes it", file = .0.display())]
    NoToken(PathBuf),
    #[error(
        "{file} was made by another coordinator, which has its key\n  help: name a --token-file \
         that is not there, or remove it",
        file = .0.display()
    )]
    TokenWithoutKey(PathBuf),
    #[error("cannot {what} {file}: {error}", file = .file.display())]
    File { what: &'static str, file: PathBuf, error: io::Error },
    #[error("a certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("no random numbers can be had")]
    Random,
    #[error(
        "cannot listen at {address}: {error}\n  help: name an address of this host, like 127.0.0.1:0"
    )]
    Listen { address: String, error: io::Error },
    #[error(
        "will not listen at {0}, which is every network of this host\n  help: name the address that \
         workers reach, or 127.0.0.1"
    )]
    ListensEverywhere(String),
    #[error("{0} is no address: {1}")]
    Address(String, io::Error),
    #[error("the connection has ended")]
    Closed,
    #[error("the connection fails: {0}")]
    Io(#[from] io::Error),
    #[error("the connection fails: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the connection fails: {0}")]
    WebSocket(Box<tungstenite::Error>),
    #[error("it took too long")]
    TooLate,
    #[error("a message that nobody can read")]
    Malformed,
    #[error("a value cannot be sent: {0}")]
    Encode(postcard::Error),
    #[error(
        "the coordinator is not the one that has made the token file\n  help: copy its token file again"
    )]
    AnotherCoordinator,
    #[error("the coordinator refuses this worker: {0}")]
    Refused(String),
    #[error(
        "the coordinator at {address} has not answered for {} s: {why}\n  help: --patience SECONDS is how \
         long a worker tries", .patience.as_secs_f64()
    )]
    OutOfPatience { address: String, patience: Duration, why: Box<Problem> },
    #[error(
        "{why}\n  help: copy it from the host of the coordinator; it was waited for {} s (--patience)",
        .patience.as_secs_f64()
    )]
    NoTokenCame { patience: Duration, why: Box<Problem> },
    #[error(
        "the results of {results} tasks could not be told: the coordinator at {address} does not answer, and this \
         worker is to leave\n  help: others do them again"
    )]
    Untold { results: usize, address: String },
    #[error("the log {file} fails: {error}", file = .file.display())]
    Log { file: PathBuf, error: Box<redb::Error> },
    #[error("the log {file} is in use by another coordinator", file = .0.display())]
    LogInUse(PathBuf),
    #[error(
        "the log {file} is of another list of tasks, or of another program\n  help: name a --log that \
         is not there to begin anew, or give the same tasks to continue",
        file = .0.display()
    )]
    LogOfOthers(PathBuf),
    #[error(
        "the log {file} is damaged: {what}\n  help: name a --log that is not there to begin anew",
        file = .file.display()
    )]
    LogDamaged { file: PathBuf, what: &'static str },
    #[error(
        "task {task} has {bytes} bytes, more than the {most} of a message\n  help: --max-message MIB of the coordinator"
    )]
    TaskTooLarge { task: usize, bytes: usize, most: usize },
    #[error("a thread cannot be started: {0}")]
    Thread(io::Error),
}

impl Problem {
    /// Whether it is no use to try again.
    pub(super) fn is_final(&self) -> bool {
        !matches!(
            self,
            Self::Closed | Self::Io(_) | Self::WebSocket(_) | Self::Tls(_) | Self::TooLate
        )
    }
}

impl From<tungstenite::Error> for Problem {
    fn from(error: tungstenite::Error) -> Self {
        match error {
            // Who is killed does not say good-bye.
            tungstenite::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Closed
            }
            tungstenite::Error::Io(error) => error.into(),
            tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
                Self::Closed
            }
            error => Self::WebSocket(Box::new(error)),
        }
    }
}
