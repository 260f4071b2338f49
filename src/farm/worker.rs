//! What all ranks but the root do.

use std::{collections::VecDeque, fmt::Debug};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Cause, DONE, FAILED, ROOT, STOP, STOPPED, Work, attempt};
use crate::{
    comm::{ANY, Comm, Message, Request},
    error::Result,
};

/// What has become of a chunk.
#[derive(Serialize, Deserialize)]
pub(super) struct Report<I, R> {
    /// The results, by the numbers of the tasks.
    pub(super) done: Vec<(usize, R)>,
    /// What the tasks have submitted.
    pub(super) submitted: Vec<I>,
}

/// A rank that does tasks.
struct Worker<'f, I, R> {
    comm: &'f Comm,
    work: Work<'f, I, R>,
    /// What is to be done; the first one is begun, and may be done.
    chunks: VecDeque<VecDeque<(usize, I)>>,
    report: Report<I, R>,
    /// The root may be at a task of its own: a report travels while the next chunk is done.
    sending: Option<Request<'f, ()>>,
}

/// Does tasks until the root says that there are no more.
pub(super) fn serve<'f, I, R>(comm: &'f Comm, work: Work<'f, I, R>) -> Result<()>
where
    I: Serialize + DeserializeOwned + Debug,
    R: Serialize + DeserializeOwned,
{
    let report = Report { done: Vec::new(), submitted: Vec::new() };
    let mut worker = Worker { comm, work, chunks: VecDeque::new(), report, sending: None };
    let mut has_failed = false;
    loop {
        // Between any two tasks: the next chunk may have come, or the end.
        let (from, is_idle) = ((ROOT, ANY), worker.chunks.is_empty());
        let message = if is_idle { Some(comm.probe(from)?) } else { comm.iprobe(from)? };
        let done = match message {
            Some(message) if message.tag() == STOP => {
                message.recv_obj::<()>()?;
                break;
            }
            Some(message) => worker.take(message),
            None => worker.go_on()?,
        };
        if let Err(cause) = done {
            comm.send_obj(&cause, (ROOT, FAILED))?;
            has_failed = true;
        }
        if has_failed {
            worker.chunks.clear(); // nothing is done behind a failure
        }
    }
    worker.sending.map_or(Ok(()), Request::wait)?;
    comm.send_obj(&(), (ROOT, STOPPED))
}

impl<I, R> Worker<'_, I, R>
where
    I: Serialize + DeserializeOwned + Debug,
    R: Serialize + DeserializeOwned,
{
    fn take(&mut self, message: Message<'_>) -> Result<(), Cause> {
        let chunk: Result<Vec<_>> = message.recv_obj();
        let chunk = chunk.map_err(|error| Cause::of_message(self.comm, "tasks", &error))?;
        self.chunks.push_back(chunk.into());
        Ok(())
    }

    /// Does one task, or reports a chunk that is done. The outer error is one of messages.
    fn go_on(&mut self) -> Result<Result<(), Cause>> {
        let next = self.chunks.front_mut().and_then(VecDeque::pop_front);
        if let Some((task, input)) = next {
            return Ok(attempt(self.comm, self.work, &input).map(|(result, submitted)| {
                self.report.done.push((task, result));
                self.report.submitted.extend(submitted);
            }));
        }
        self.chunks.pop_front();
        self.sending.take().map_or(Ok(()), Request::wait)?;
        let sending = self.comm.isend_obj(&self.report, (ROOT, DONE));
        self.report.done.clear();
        self.report.submitted.clear();
        Ok(match sending {
            Ok(request) => {
                self.sending = Some(request);
                Ok(())
            }
            Err(error) => Err(Cause::of_message(self.comm, "results", &error)),
        })
    }
}
