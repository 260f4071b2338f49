//! Every way in which a call can fail, in words, and what helps.

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
    /// A rank was lost. In a program that survives that (see [`recover`](crate::recover)) the call
    /// ends so on every rank, which passes it on with `?`.
    #[error("{} was lost: {cause}", match rank { Some(rank) => format!("rank {rank}"), None => "a rank".to_owned() })]
    RankLost {
        /// The world rank that was lost first; not known on `mpi`.
        rank: Option<usize>,
        /// Why, as far as it is known.
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
    pub(super) fn help(&self) -> Option<&'static str> {
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
