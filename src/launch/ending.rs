//! Who may end the process: the launch, when the job is over. A rank that ends it leaves the others
//! behind, and what it left undone would look like success.

use std::{
    panic::Location,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
};

use super::{EngineKind, HOLD_BACK, Launcher, identity, print_line, processes};
use crate::{placement, process};

/// The engine of the job of [`run`](super::run) that is under way.
static UNDER_WAY: Mutex<Option<EngineKind>> = Mutex::new(None);

fn under_way() -> MutexGuard<'static, Option<EngineKind>> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While this exists the process must not end.
pub(super) struct Job;

pub(super) fn watch(engine: EngineKind) -> Job {
    watch_ranks();
    *under_way() = Some(engine);
    Job
}

impl Drop for Job {
    fn drop(&mut self) {
        *under_way() = None;
        identity::resign(); // a rank of `mpi` returns to `main`
    }
}

/// From now on no thread of a rank ends the process unnoticed.
pub(super) fn watch_ranks() {
    process::at_exit(ended);
}

/// Ends the process, and the job with it.
pub(super) fn exit(code: u8) -> ! {
    let job = under_way().take(); // and let go of the lock
    identity::resign();
    match job {
        Some(EngineKind::Mpi) => processes::end(code),
        _ => std::process::exit(code.into()),
    }
}

/// A process of `mpi` can run one job, since MPI can be initialised once; so on every engine.
#[track_caller]
pub(super) fn refuse_second_job() {
    static FIRST: OnceLock<&Location<'_>> = OnceLock::new();
    static REFUSED: Mutex<()> = Mutex::new(());
    let at = Location::caller();
    if FIRST.set(at).is_ok() {
        return;
    }
    // Where ranks that are threads are refused, one of them speaks.
    let _first = REFUSED.lock();
    if Launcher::detect().is_some_and(|launcher| launcher.rank > 0) {
        thread::sleep(HOLD_BACK); // the first process speaks for all
    } else {
        let (file, line) = (at.file(), at.line());
        let first = FIRST.get().map_or(String::new(), |at| format!("{}:{}", at.file(), at.line()));
        print_line(&format!(
            "error: this process runs its second job ({file}:{line}), and can run one: the first was {first}\n  help: do \
             both in the closure of one `run`; in tests, use `spmd::local`"
        ));
    }
    exit(2)
}

/// The process ends, with this exit code if that is known.
fn ended(code: Option<i32>) {
    let (job, rank) = (*under_way(), identity::rank());
    if job.is_none() && rank.is_none() {
        return;
    }
    let host = placement::host();
    let who = match rank.or_else(identity::process_rank) {
        Some(rank) => format!("rank {rank}"),
        None => "a thread".to_owned(),
    };
    print_line(&format!(
        "error: {who} on {host}: ended the process, with the job under way\n  help: return from the closure of `run`, \
         with a `Failure` to end the job; its exit code is the process's"
    ));
    let code = code.map_or(0, |code| code as u8); // all that the system takes of it
    match (job, code.max(1)) {
        (Some(EngineKind::Mpi), code) => processes::end(code),
        (_, failed) if code == 0 => process::leave(failed),
        _ => {} // it ends with its own code
    }
}
