//! Threads that do tasks: a worker's, or all there are.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::channel,
    },
    thread,
};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    ElasticArgs, Outcome, Problem, SetAside, Worked, from_bytes,
    link::waker,
    messages::encode,
    worker::{Keeper, Order, Report},
};
use crate::{error::Failure, farm::caught, stop};

/// Threads do tasks; this one keeps the connection.
pub(super) fn work<I, R>(
    farm: &str,
    args: &ElasticArgs,
    task: &(impl Fn(&I) -> Result<R, Failure> + Sync),
) -> Result<Worked, Failure>
where
    I: DeserializeOwned,
    R: Serialize,
{
    stop::listen();
    let slots = args.slots();
    let (waker, sleeper) = waker()?;
    let ((orders, taken), (told, reports)) = (channel::<Order>(), channel());
    let keeper = Keeper::new(farm, args, slots, orders, reports, sleeper)?;
    let taken = Mutex::new(taken);
    thread::scope(|scope| {
        for _ in 0..slots {
            let told = told.clone();
            let do_tasks = || {
                let (taken, told) = (&taken, told);
                loop {
                    let next = taken.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(order) = next else { break };
                    let report = Report::new(&order, attempt(&order.input, |input| task(input)));
                    if told.send(report).is_err() {
                        break;
                    }
                    waker.wake();
                }
            };
            thread::Builder::new().spawn_scoped(scope, do_tasks).map_err(Problem::Thread)?;
        }
        drop(told);
        Ok(keeper.keep()?)
    })
}

/// Does one task: its result as it is sent, or why there is none.
fn attempt<I: DeserializeOwned, R: Serialize>(
    input: &[u8],
    task: impl FnOnce(&I) -> Result<R, Failure>,
) -> Result<Vec<u8>, String> {
    let input = from_bytes(input).map_err(|why| format!("the task cannot be read: {why}"))?;
    let result = caught(|| task(&input)).map_err(|cause| cause.text)?;
    encode(&result).map_err(|problem| problem.to_string())
}

/// All tasks, on threads of this process.
pub(super) fn alone<I: Sync, R: Send>(
    slots: usize,
    tasks: &[I],
    task: &(impl Fn(&I) -> Result<R, Failure> + Sync),
) -> Outcome<R> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let work = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(input) = tasks.get(number) else { break };
                let outcome = caught(|| task(input));
                done.lock().unwrap_or_else(PoisonError::into_inner).push((number, outcome));
            }
        };
        // Where no thread can be had there are fewer; this one is always there.
        for _ in 1..slots.min(tasks.len()) {
            let _ = thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    let mut results: Vec<Option<R>> = tasks.iter().map(|_| None).collect();
    let mut set_aside = Vec::new();
    for (task, outcome) in done.into_inner().unwrap_or_else(PoisonError::into_inner) {
        match outcome {
            Ok(result) => results[task] = Some(result),
            Err(cause) => set_aside.push(SetAside { task, reasons: vec![cause.text] }),
        }
    }
    set_aside.sort_unstable_by_key(|aside| aside.task);
    let begun = tasks.len();
    Outcome { results, set_aside, from_log: 0, workers: 0, lost: 0, begun, begun_again: 0, late: 0 }
}
