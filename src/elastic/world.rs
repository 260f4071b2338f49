//! A world of ranks as one worker.

use std::{panic::Location, sync::mpsc::channel, thread};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    ElasticArgs, Problem, Worked, from_bytes,
    link::waker,
    messages::encode,
    worker::{Keeper, Order, Report},
};
use crate::{comm::Comm, comm::Min, error::Failure, farm::Cause, stop};

/// Who talks to the coordinator.
const ROOT: usize = 0;

/// How it has ended, as all ranks are told.
#[derive(Clone, Serialize, Deserialize)]
enum End {
    Worked { tasks: usize, failed: usize },
    Failed(String),
}

/// What all ranks do with a task.
type Work<'w, I, R> = &'w dyn Fn(&Comm, &I) -> Result<R, Failure>;

#[track_caller]
pub(super) fn work<I: DeserializeOwned, R: Serialize>(
    farm: &str,
    args: &ElasticArgs,
    world: &Comm,
    task: Work<'_, I, R>,
) -> Result<Worked, Failure> {
    let at = Location::caller();
    // A launcher may pass a signal on to all ranks; rank 0 is the one that heeds it.
    stop::listen();
    let control = world.dup()?;
    let end = if world.rank() == ROOT {
        Some(lead(farm, args, world, &control, task)?)
    } else {
        while let Some(input) = control.bcast_obj::<Option<Vec<u8>>>(ROOT, || None)? {
            // Rank 0 reports what all agree on.
            let _agreed = together(world, &control, task, &input)?;
        }
        None
    };
    match control.bcast_obj(ROOT, || end)? {
        Some(End::Worked { tasks, failed }) => Ok(Worked { tasks, failed }),
        Some(End::Failed(why)) => Err(Failure::new(why).called_at(at)),
        None => Ok(Worked::default()), // rank 0 has something to say
    }
}

/// Rank 0: a thread of its own keeps the connection, so that the coordinator hears of it while all
/// ranks compute.
fn lead<I: DeserializeOwned, R: Serialize>(
    farm: &str,
    args: &ElasticArgs,
    world: &Comm,
    control: &Comm,
    task: Work<'_, I, R>,
) -> Result<End, Failure> {
    let failed = |why: String| Ok(End::Failed(why));
    let (waker, sleeper) = waker()?;
    let ((orders, taken), (told, reports)) = (channel::<Order>(), channel());
    let keeper = Keeper::new(farm, args, 1, orders, reports, sleeper)?;
    thread::scope(|scope| {
        let keeping = thread::Builder::new().spawn_scoped(scope, || keeper.keep());
        // Moved here: if this rank fails or panics they end, and so does the keeper.
        let (taken, told) = (taken, told);
        let keeping = match keeping {
            Ok(keeping) => keeping,
            Err(error) => {
                control.bcast_obj(ROOT, || None::<Vec<u8>>)?;
                return failed(Problem::Thread(error).to_string());
            }
        };
        while let Ok(order) = taken.recv() {
            let input = control.bcast_obj(ROOT, || Some(order.input.clone()))?.unwrap_or_default();
            let outcome = together(world, control, task, &input)?;
            if told.send(Report::new(&order, outcome)).is_err() {
                break;
            }
            waker.wake();
        }
        control.bcast_obj(ROOT, || None::<Vec<u8>>)?;
        match keeping.join() {
            Ok(Ok(Worked { tasks, failed })) => Ok(End::Worked { tasks, failed }),
            Ok(Err(problem)) => failed(problem.to_string()),
            Err(_) => failed("the thread that keeps the connection has panicked".to_owned()),
        }
    })
}

/// All ranks do a task; where it fails on one it has failed. What goes wrong between ranks ends the
/// world, and so does a panic: others may wait for this rank.
fn together<I: DeserializeOwned, R: Serialize>(
    world: &Comm,
    control: &Comm,
    task: Work<'_, I, R>,
    input: &[u8],
) -> Result<Result<Vec<u8>, String>, Failure> {
    let outcome = match from_bytes(input) {
        Err(why) => Err(format!("the task cannot be read: {why}")),
        Ok(input) => match task(world, &input) {
            Ok(result) => encode(&result).map_err(|problem| problem.to_string()),
            Err(failure) if failure.as_error().is_some() => return Err(failure),
            Err(failure) => Err(Cause::of(&failure).text),
        },
    };
    let rank = control.rank();
    let first = control.allreduce(&[if outcome.is_err() { rank } else { usize::MAX }], Min)?[0];
    if first == usize::MAX {
        return Ok(outcome);
    }
    let why = || outcome.err().unwrap_or_default();
    Ok(Err(format!("on rank {first}: {}", control.bcast_obj(first, why)?)))
}
