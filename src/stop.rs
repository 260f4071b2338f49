//! Whether this process wishes the job to stop soon: a signal has come, its time is nearly up, or
//! somebody has made a file. All ranks together decide on it, see
//! [`Comm::stop_requested`](crate::Comm::stop_requested).

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use crate::signals;

/// Why a job is to stop, in the order of weight where ranks have several reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Reason {
    /// Somebody has made a file.
    File = 1,
    /// The time of the job is nearly up.
    Time,
    /// A signal has come to a rank.
    Signal,
}

impl Reason {
    /// The reason of this number; 0 is none.
    pub(crate) fn of(number: u8) -> Option<Self> {
        [Self::File, Self::Time, Self::Signal].into_iter().find(|reason| *reason as u8 == number)
    }

    /// In words, with the signal where it came to this process.
    pub(crate) fn words(self) -> String {
        match self {
            Self::File => "by --stop-file".to_owned(),
            Self::Time => "its time is nearly up".to_owned(),
            Self::Signal => signals::heard().unwrap_or("a signal").to_owned(),
        }
    }
}

/// The time of a job.
#[derive(Clone, Copy)]
struct Deadline {
    end: Instant,
    /// How long before the job must have ended, beside what a step takes.
    ahead: Duration,
}

static DEADLINE: OnceLock<Option<Deadline>> = OnceLock::new();

/// A file that asks to stop, and when it was changed before the job began, if it was there.
static FILE: Mutex<Option<(PathBuf, Option<SystemTime>)>> = Mutex::new(None);

/// The longest time between two looks of a rank of this process, and that to save its state, in
/// nanoseconds.
static STEP: AtomicU64 = AtomicU64::new(0);
static SAVE: AtomicU64 = AtomicU64::new(0);

/// A time that was given ends the job by itself; a batch system ends it hard, and looks after its
/// hosts first.
const AHEAD: Duration = Duration::from_secs(1);
const AHEAD_OF_BATCH: Duration = Duration::from_secs(30);

/// The job may take so long from now on, and stops when somebody makes this file.
pub(crate) fn limit(time: Option<Duration>, file: Option<&Path>) {
    let given = time
        .and_then(|time| Some(Deadline { end: Instant::now().checked_add(time)?, ahead: AHEAD }));
    let deadline = match (given, batch_end()) {
        (Some(given), Some(batch)) if given.end + batch.ahead > batch.end + given.ahead => {
            Some(batch)
        }
        (given, batch) => given.or(batch),
    };
    let _ = DEADLINE.set(deadline); // a process runs one job
    *FILE.lock().unwrap_or_else(PoisonError::into_inner) =
        file.map(|file| (file.to_owned(), changed(file)));
}

/// When SLURM ends the job.
fn batch_end() -> Option<Deadline> {
    let seconds: u64 = std::env::var("SLURM_JOB_END_TIME").ok()?.parse().ok()?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let left = Duration::from_secs(seconds).saturating_sub(now);
    // Before that the clock began; then the job is late anyhow.
    Some(Deadline { end: Instant::now().checked_add(left)?, ahead: AHEAD_OF_BATCH })
}

fn changed(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|about| about.modified()).ok()
}

/// To save the state has taken so long.
pub(crate) fn saving_takes(time: Duration) {
    SAVE.fetch_max(time.as_nanos() as u64, Ordering::Relaxed);
}

/// From now on signals ask, and do not end the process.
pub(crate) fn listen() {
    signals::hear();
}

/// Why this process wishes to stop; of a rank of it that is at the end of a step, and looks at the
/// file where `looks`.
pub(crate) fn wished(looks: bool) -> Option<Reason> {
    if signals::heard().is_some() {
        return Some(Reason::Signal);
    }
    if DEADLINE.get().copied().flatten().is_some_and(is_near) {
        return Some(Reason::Time);
    }
    (looks && file_was_made()).then_some(Reason::File)
}

/// Whether another step, and saving the state after it, could take longer than is left.
fn is_near(deadline: Deadline) -> bool {
    thread_local! {
        static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
    }
    let now = Instant::now();
    if let Some(last) = LAST.replace(Some(now)) {
        STEP.fetch_max((now - last).as_nanos() as u64, Ordering::Relaxed);
    }
    let both = STEP.load(Ordering::Relaxed).saturating_add(SAVE.load(Ordering::Relaxed));
    let needed = Duration::from_nanos(both).saturating_mul(2).saturating_add(deadline.ahead);
    deadline.end.saturating_duration_since(now) < needed
}

fn file_was_made() -> bool {
    let file = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    file.as_ref().is_some_and(|(file, before)| {
        let now = changed(file);
        now.is_some() && now != *before
    })
}
