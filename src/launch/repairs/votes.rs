//! What processes want to follow, and what all of them agree on.

use super::{Job, Outcome, Pool, Process, of_engine};
use crate::{error::Failure, launch::Cause};

/// What a process wants to follow, which all hear of together.
pub(super) enum Vote {
    /// Its part is done: the epoch is formed, or the program has come to its end.
    Done,
    /// Ranks were lost.
    GoOn,
    /// The program has failed.
    End(Cause),
}

/// What follows.
pub(super) enum Agreed {
    Done,
    GoOn,
    End(u8),
}

/// Of the bits that are agreed on, where any process that lacks one has all lack it: whether all are
/// done;
const DONE: u32 = 1;
/// whether nobody is rank 0;
const NO_FIRST: u32 = 1 << 1;
/// and for each process (the last for all further ones) that it has not failed.
const FAILED: u32 = 1 << 2;

/// Of a process, which of the last bits is its own.
fn place(process: usize) -> u32 {
    (process as u32).min(FAILED.leading_zeros())
}

impl Process<'_> {
    /// What all processes that are left vote for; all are done only if one of them is `first`. If it
    /// is the end, the first that has failed says why.
    pub(super) fn agree(&self, pool: &Pool, vote: Vote, first: bool) -> Result<Agreed, Failure> {
        let me = FAILED << place(pool.comm.rank());
        let (bits, cause) = match vote {
            Vote::Done => (if first { !NO_FIRST } else { !0 }, None),
            Vote::GoOn => (!DONE, None),
            Vote::End(cause) => {
                // Others may not notice for long.
                self.deadline.because(&cause);
                (!(DONE | me), Some(cause))
            }
        };
        let bits = pool.engine.agree(bits).map_err(of_engine)?;
        let failed = !bits & !(FAILED - 1);
        if failed == 0 {
            let done = bits & DONE != 0 && bits & NO_FIRST == 0;
            return Ok(if done { Agreed::Done } else { Agreed::GoOn });
        }
        let cause = cause.filter(|_| me.trailing_zeros() == failed.trailing_zeros());
        let mut code = !0;
        if let Some(cause) = cause {
            let Job { recording, epochs, .. } = &self.job;
            cause.print();
            recording.note_epochs(epochs.report());
            code = !u32::from(recording.finish(&Outcome::of(&cause)));
        }
        let code = !pool.engine.agree(code).map_err(of_engine)?;
        // Whoever had the code may be lost.
        Ok(Agreed::End(u8::try_from(code).unwrap_or(1).max(1)))
    }
}
