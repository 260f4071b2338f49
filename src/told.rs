//! What a program tells of its progress while it runs, for whoever watches it: a small file, which
//! the variable `SPMD_PROGRESS` names, complete whenever it is read.
//!
//! Only the ranks that keep checkpoints for all others tell: one in a job.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use serde::Serialize;

/// Steps may be short: they are told so often at most.
const PAUSE: Duration = Duration::from_millis(50);

/// What is told, as JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Told {
    /// That the program has come to its first step.
    begun: bool,
    /// Whether it keeps checkpoints: else it cannot stop to go on later.
    keeps: bool,
    ranks: usize,
    /// Since this process was started.
    steps: u64,
    /// The number of the checkpoint that it goes on from.
    resumed: Option<u64>,
    /// The number of the last one that it has kept since, and after how many steps.
    kept: Option<u64>,
    kept_steps: u64,
    /// Faults that the program has got over without another start.
    survived: u64,
}

/// Where it is told, and what.
struct Teller {
    file: PathBuf,
    told: Told,
    last: Option<Instant>,
}

/// Who listens.
enum Listener {
    /// Nobody has looked.
    Unknown,
    Nobody,
    There(Teller),
}

impl Listener {
    fn of_the_environment() -> Self {
        match env::var_os("SPMD_PROGRESS").filter(|file| !file.is_empty()) {
            None => Self::Nobody,
            Some(file) => {
                Self::There(Teller { file: file.into(), told: Told::default(), last: None })
            }
        }
    }
}

static LISTENER: Mutex<Listener> = Mutex::new(Listener::Unknown);

/// The program begins its steps, from this checkpoint if there is one; does it keep others?
pub(crate) fn begins(ranks: usize, resumed: Option<u64>, keeps: bool) {
    tell(true, |told| *told = Told { begun: true, keeps, ranks, resumed, ..*told });
}

/// A step is done.
pub(crate) fn step() {
    tell(false, |told| told.steps += 1);
}

/// The checkpoint of this number is kept.
pub(crate) fn kept(ranks: usize, number: u64) {
    tell(true, |told| {
        (told.ranks, told.kept, told.kept_steps) = (ranks, Some(number), told.steps);
    });
}

/// The program goes on with so many ranks, after so many faults in all that it has got over.
pub(crate) fn goes_on(ranks: usize, faults: u64) {
    tell(true, |told| (told.ranks, told.survived) = (ranks, faults));
}

fn listener() -> MutexGuard<'static, Listener> {
    // `ThreadSanitizer` does not see what orders those that wait for a lock inside std.
    #[cfg(tsan)]
    loop {
        match LISTENER.try_lock() {
            Ok(guard) => return guard,
            Err(std::sync::TryLockError::Poisoned(guard)) => return guard.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => {}
        }
    }
    #[cfg(not(tsan))]
    LISTENER.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn tell(at_once: bool, change: impl FnOnce(&mut Told)) {
    let mut listener = listener();
    if matches!(*listener, Listener::Unknown) {
        *listener = Listener::of_the_environment();
    }
    let Listener::There(teller) = &mut *listener else { return };
    change(&mut teller.told);
    if at_once || teller.last.is_none_or(|last| last.elapsed() >= PAUSE) {
        teller.last = Some(Instant::now());
        // A full disk is no reason to end the program: it is told the next time.
        let _ = write(&teller.file, &teller.told);
    }
}

fn write(file: &Path, told: &Told) -> std::io::Result<()> {
    let beside = file.with_extension("new");
    fs::write(&beside, serde_json::to_vec(told)?)?;
    fs::rename(beside, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_one_object() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("progress.json");
        let told = Told {
            begun: true,
            keeps: true,
            ranks: 4,
            steps: 7,
            kept: Some(2),
            kept_steps: 5,
            ..Told::default()
        };
        write(&file, &told).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(
            text,
            r#"{"begun":true,"keeps":true,"ranks":4,"steps":7,"resumed":null,"kept":2,"kept_steps":5,"survived":0}"#
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing lies beside it");
    }
}
