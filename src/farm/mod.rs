//! A task farm: many tasks of unequal length on all ranks of a communicator.
//!
//! Rank 0 keeps the queue. It hands out tasks in chunks, large ones first and single tasks at the
//! end (guided self-scheduling, Polychronopoulos and Kuck 1987), and a second chunk before the first
//! is done, so that nobody waits for its answer. Between messages it does tasks itself.
//!
//! ```
//! use spmd::farm::Farm;
//! let squares = spmd::local(3, |world| {
//!     let farm = Farm::new(world)?;
//!     farm.map(|| (0..100_u64).collect(), |&number| Ok(number * number))
//! });
//! assert_eq!(squares.unwrap()[0].as_ref().unwrap()[9], 81);
//! ```
//!
//! | who | sends | with tag |
//! |---|---|---|
//! | rank 0 | a chunk of tasks | `WORK` |
//! | a worker | the results of a chunk, and new tasks | `DONE` |
//! | a worker | why a task of it has failed | `FAILED` |
//! | rank 0 | that there is no more to do, in the end or after a failure | `STOP` |
//! | a worker | that it has stopped and sends nothing more | `STOPPED` |
//!
//! When all have stopped no message is left, and rank 0 tells all how it went.

mod root;
#[cfg(all(test, not(loom)))]
mod tests;
mod worker;

use std::{
    fmt::Debug,
    panic::{AssertUnwindSafe, Location, catch_unwind},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use self::root::Tasks;
use crate::{
    comm::Comm,
    error::{Error, Failure, Result},
};

/// Who keeps the queue.
const ROOT: usize = 0;
const WORK: u32 = 0;
const STOP: u32 = 1;
const DONE: u32 = 2;
const FAILED: u32 = 3;
const STOPPED: u32 = 4;
/// An input is shown by so many characters at most.
const SHOWN: usize = 200;

/// The ranks of a communicator as workers for tasks. Made once, for any number of calls.
///
/// Tasks and their results are values that serde knows. A task runs on one rank and may use its
/// rayon threads; it must not call collectives.
///
/// An error or panic in a task ends the call on every rank, with an error that names the input and
/// the rank. No rank hangs, and the communicator can be used as before.
pub struct Farm {
    comm: Comm,
}

/// What a task is given beside its input: a place for tasks that it finds to do.
pub struct Submit<I> {
    inputs: Vec<I>,
}

impl<I> Submit<I> {
    /// One more task. It is done by whoever comes to it, before those that rank 0 has submitted and
    /// not handed out yet: depth first.
    pub fn submit(&mut self, input: I) {
        self.inputs.push(input);
    }
}

/// What all ranks do with a task.
type Work<'f, I, R> = &'f dyn Fn(&I, &mut Submit<I>) -> Result<R, Failure>;

impl Farm {
    /// A farm with a message space of its own.
    ///
    /// # Collective
    /// As [`Comm::dup`].
    #[track_caller]
    pub fn new(comm: &Comm) -> Result<Self> {
        Ok(Self { comm: comm.dup()? })
    }

    /// Does a task for each input; the results in the order of inputs on rank 0, `None` elsewhere.
    /// `at_root` makes the inputs and runs on rank 0 only.
    ///
    /// # Collective
    /// All ranks, with tasks that do the same. Two messages per chunk of tasks.
    ///
    /// # Errors
    /// The first error or panic of a task, on every rank; what is not begun then is left.
    ///
    /// # Examples
    /// ```
    /// use spmd::{Failure, farm::Farm};
    /// let error = spmd::local(2, |world| {
    ///     let words = || ["12", "thirteen", "14"].map(str::to_owned).to_vec();
    ///     Farm::new(world)?.map(words, |word: &String| Ok(word.parse::<u32>()?))
    /// });
    /// let error = error.unwrap_err().to_string();
    /// assert!(error.contains(r#"task "thirteen" failed on rank"#), "{error}");
    /// assert!(error.contains("invalid digit"), "{error}");
    /// ```
    #[track_caller]
    pub fn map<I, R>(
        &self,
        at_root: impl FnOnce() -> Vec<I>,
        task: impl Fn(&I) -> Result<R, Failure>,
    ) -> Result<Option<Vec<R>>, Failure>
    where
        I: Serialize + DeserializeOwned + Debug,
        R: Serialize + DeserializeOwned,
    {
        self.run(
            |tasks| {
                let inputs = at_root();
                let mut results: Vec<Option<R>> = inputs.iter().map(|_| None).collect();
                for input in inputs {
                    tasks.submit(input);
                }
                while let Some((task, result)) = tasks.next_completed()? {
                    results[task] = Some(result);
                }
                Ok(results.into_iter().flatten().collect())
            },
            |input, _| task(input),
        )
    }

    /// Runs `at_root` on rank 0, which submits tasks and takes their results as they come; returns
    /// what it returns, `None` on other ranks. Tasks may submit tasks: their results come like all
    /// others.
    ///
    /// Tasks that are not done when `at_root` returns are left: a search that has found what it
    /// looks for need not end.
    ///
    /// # Collective
    /// All ranks, with tasks that do the same. Two messages per chunk of tasks.
    ///
    /// # Errors
    /// The first error or panic of a task, on every rank; an error of `at_root` likewise.
    ///
    /// # Examples
    /// The number of ways to place four queens on a board of 4 × 4: a task places one more.
    /// ```
    /// use spmd::farm::Farm;
    /// let ways = spmd::local(3, |world| {
    ///     let fits = |placed: &[i32], column: i32| {
    ///         let mut before = placed.iter().rev().zip(1..);
    ///         before.all(|(other, rows)| ![0, rows].contains(&(other - column).abs()))
    ///     };
    ///     let count = Farm::new(world)?.run(
    ///         |tasks| {
    ///             tasks.submit(Vec::new());
    ///             tasks.as_completed().try_fold(0, |sum, done| Ok(sum + done?.1))
    ///         },
    ///         |placed: &Vec<i32>, more| {
    ///             for column in (0..4).filter(|&column| fits(placed, column)) {
    ///                 more.submit([&placed[..], &[column]].concat());
    ///             }
    ///             Ok(u32::from(placed.len() == 4))
    ///         },
    ///     )?;
    ///     Ok(count)
    /// });
    /// assert_eq!(ways.unwrap(), [Some(2), None, None]);
    /// ```
    #[track_caller]
    pub fn run<I, R, V>(
        &self,
        at_root: impl FnOnce(&mut Tasks<'_, I, R>) -> Result<V, Failure>,
        task: impl Fn(&I, &mut Submit<I>) -> Result<R, Failure>,
    ) -> Result<Option<V>, Failure>
    where
        I: Serialize + DeserializeOwned + Debug,
        R: Serialize + DeserializeOwned,
    {
        let at = Location::caller();
        if self.comm.rank() != ROOT {
            worker::serve(&self.comm, &task)?;
            let cause = self.comm.bcast_obj(ROOT, || None::<Cause>)?;
            return cause.map_or(Ok(None), |cause| Err(cause.into_failure(at)));
        }
        let mut tasks = Tasks::new(&self.comm, &task);
        let value = at_root(&mut tasks);
        let failed = tasks.stop()?;
        // Whatever `at_root` makes of it, a task that has failed ends the call.
        let failed_here = value.as_ref().err().map(Cause::of);
        let cause = failed.or(failed_here);
        self.comm.bcast_obj(ROOT, || cause.clone())?;
        match cause {
            Some(cause) => Err(cause.into_failure(at)),
            None => value.map(Some),
        }
    }
}

/// Why the call ends, as all ranks are told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cause {
    pub(crate) text: String,
    exit_code: u8,
}

impl Cause {
    pub(crate) fn of(failure: &Failure) -> Self {
        Self { text: failure.describe(), exit_code: failure.exit_code() }
    }

    /// Tasks or results that cannot be sent or read.
    fn of_message(comm: &Comm, what: &str, error: &Error) -> Self {
        let rank = comm.world_rank(comm.rank());
        Self { text: format!("{what} on rank {rank}: {error}"), exit_code: 1 }
    }

    fn into_failure(self, at: &'static Location<'static>) -> Failure {
        Failure::new(self.text).with_exit_code(self.exit_code).called_at(at)
    }
}

/// Does one task here: its result, and the tasks that it has submitted.
fn attempt<I: Debug, R>(
    comm: &Comm,
    work: Work<'_, I, R>,
    input: &I,
) -> Result<(R, Vec<I>), Cause> {
    let mut more = Submit { inputs: Vec::new() };
    match caught(|| work(input, &mut more)) {
        Ok(result) => Ok((result, more.inputs)),
        Err(cause) => Err(failed(comm, input, cause)),
    }
}

/// Does what may fail or panic, and says why it did. What has panicked must not be seen again.
pub(crate) fn caught<R>(work: impl FnOnce() -> Result<R, Failure>) -> Result<R, Cause> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(failure)) => Err(Cause::of(&failure)),
        Err(payload) => {
            let text = payload.downcast_ref::<&str>().copied();
            let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            let text = format!("panicked: {}", text.unwrap_or("a value that is no text"));
            std::mem::forget(payload); // whose `Drop` may panic too
            Err(Cause { text, exit_code: 1 })
        }
    }
}

/// Says which task it was, and where.
fn failed<I: Debug>(comm: &Comm, input: &I, Cause { text, exit_code }: Cause) -> Cause {
    let shown = catch_unwind(AssertUnwindSafe(|| format!("{input:?}")));
    let mut shown = shown.unwrap_or_else(|_| "that cannot be displayed".to_owned());
    if let Some((end, _)) = shown.char_indices().nth(SHOWN) {
        shown.truncate(end);
        shown.push('…');
    }
    let rank = comm.world_rank(comm.rank());
    Cause { text: format!("task {shown} failed on rank {rank}: {text}"), exit_code }
}
