//! The queue, and who has what of it.

use std::{collections::VecDeque, fmt::Debug, iter, panic::Location};

use serde::{Serialize, de::DeserializeOwned};

use super::{Cause, DONE, FAILED, STOP, WORK, Work, attempt, worker::Report};
use crate::{
    comm::{ANY, Comm, Message, Request},
    error::{Failure, Result},
};

/// A worker has so many chunks at most: one to do, and one to go on with.
const CHUNKS: usize = 2;
/// All workers' first chunks together are a part of the queue, one in so many.
const PARTS: usize = 4;

/// The tasks of a [`Farm::run`](super::Farm::run), on rank 0: submitted in any order and at any
/// time, their results taken as they come.
pub struct Tasks<'f, I, R> {
    comm: &'f Comm,
    work: Work<'f, I, R>,
    /// How many tasks there have been.
    submitted: usize,
    queue: VecDeque<(usize, I)>,
    completed: VecDeque<(usize, R)>,
    /// Of ranks 1, 2, and so on: the chunks that each has, by the messages that brought them.
    workers: Vec<VecDeque<Request<'f, ()>>>,
    /// How many workers send nothing more.
    stopped: usize,
    failure: Option<Cause>,
}

impl<'f, I, R> Tasks<'f, I, R>
where
    I: Serialize + DeserializeOwned + Debug,
    R: Serialize + DeserializeOwned,
{
    pub(super) fn new(comm: &'f Comm, work: Work<'f, I, R>) -> Self {
        let workers = (1..comm.size()).map(|_| VecDeque::new()).collect();
        let (queue, completed) = (VecDeque::new(), VecDeque::new());
        Self { comm, work, submitted: 0, queue, completed, workers, stopped: 0, failure: None }
    }

    /// Puts a task at the end of the queue. Returns its number, counted from 0 together with the
    /// tasks that tasks have submitted. Nothing begins before the next result is asked for.
    pub fn submit(&mut self, input: I) -> usize {
        self.queue.push_back((self.submitted, input));
        self.submitted += 1;
        self.submitted - 1
    }

    /// The number and the result of a task that is done; `None` when all are and their results
    /// taken. Hands out tasks, does some here, and waits if need be.
    ///
    /// # Errors
    /// The first error or panic of a task.
    #[track_caller]
    pub fn next_completed(&mut self) -> Result<Option<(usize, R)>, Failure> {
        let at = Location::caller();
        loop {
            while let Some(message) = self.comm.iprobe((ANY, ANY))? {
                self.take(message)?;
            }
            self.hand_out();
            if let Some(cause) = &self.failure {
                return Err(cause.clone().into_failure(at));
            }
            if let Some(done) = self.completed.pop_front() {
                return Ok(Some(done));
            }
            if let Some((task, input)) = self.queue.pop_front() {
                match attempt(self.comm, self.work, &input) {
                    Ok((result, submitted)) => {
                        self.completed.push_back((task, result));
                        self.put_first(submitted);
                    }
                    Err(cause) => self.fail(cause),
                }
            } else if self.workers.iter().all(VecDeque::is_empty) {
                return Ok(None);
            } else {
                let message = self.comm.probe((ANY, ANY))?;
                self.take(message)?;
            }
        }
    }

    /// [`next_completed`](Self::next_completed) as an iterator, which ends with the last result or
    /// the first error.
    pub fn as_completed(&mut self) -> impl Iterator<Item = Result<(usize, R), Failure>> {
        let mut has_failed = false;
        iter::from_fn(move || {
            let next = if has_failed { None } else { self.next_completed().transpose() };
            has_failed = matches!(next, Some(Err(_)));
            next
        })
    }

    /// Ends the work of all ranks; why, if a task has failed.
    pub(super) fn stop(&mut self) -> Result<Option<Cause>> {
        for worker in 1..self.comm.size() {
            self.comm.send_obj(&(), (worker, STOP))?;
        }
        while self.stopped < self.workers.len() {
            let message = self.comm.probe((ANY, ANY))?;
            self.take(message)?;
        }
        // All have received what was sent to them before they were told to stop.
        self.workers.drain(..).flatten().try_for_each(Request::wait)?;
        Ok(self.failure.take())
    }

    /// Tasks that tasks have submitted come before others.
    fn put_first(&mut self, submitted: Vec<I>) {
        let numbers = self.submitted..self.submitted + submitted.len();
        self.submitted = numbers.end;
        // The first of them first of all.
        for numbered in numbers.zip(submitted).rev() {
            self.queue.push_front(numbered);
        }
    }

    /// Gives workers as much as they may have. Those that have nothing come first; then one task is
    /// left for this rank.
    fn hand_out(&mut self) {
        let ranks = self.comm.size();
        for has in 0..CHUNKS {
            for worker in 1..ranks {
                if self.queue.len() <= has || self.failure.is_some() {
                    return;
                }
                if self.workers[worker - 1].len() > has {
                    continue;
                }
                let count = (self.queue.len() / (PARTS * ranks)).max(1);
                let chunk: Vec<(usize, I)> = self.queue.drain(..count).collect();
                match self.comm.isend_obj(&chunk, (worker, WORK)) {
                    Ok(request) => self.workers[worker - 1].push_back(request),
                    Err(error) => self.fail(Cause::of_message(self.comm, "tasks", &error)),
                }
            }
        }
    }

    /// The first failure counts.
    fn fail(&mut self, cause: Cause) {
        self.failure.get_or_insert(cause);
    }

    fn take(&mut self, message: Message<'_>) -> Result<()> {
        match message.tag() {
            DONE => {
                let chunk = self.workers[message.source() - 1].pop_front();
                chunk.map_or(Ok(()), Request::wait)?;
                match message.recv_obj::<Report<I, R>>() {
                    Ok(report) => {
                        self.completed.extend(report.done);
                        self.put_first(report.submitted);
                    }
                    Err(error) => self.fail(Cause::of_message(self.comm, "results", &error)),
                }
            }
            FAILED => {
                let cause = message.recv_obj()?;
                self.fail(cause);
            }
            _ => {
                message.recv_obj::<()>()?;
                self.stopped += 1;
            }
        }
        Ok(())
    }
}
