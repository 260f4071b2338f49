//! What the threads of a rank have had of their CPUs, as the system counts it.

use std::{
    cell::RefCell,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

/// What the threads of a rank have had of their CPUs: the rank's own and those of its rayon pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Seconds on a CPU, of all threads together.
    pub cpu_s: f64,
    /// Seconds in which a thread could have run and had no CPU, of all threads together.
    pub queued_s: f64,
    /// How often a thread let go of its CPU to wait.
    pub voluntary_switches: u64,
    /// How often the system took its CPU away for others.
    pub involuntary_switches: u64,
}

impl Usage {
    /// What has been used since.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let switches = |now: u64, before: u64| now.saturating_sub(before);
        Self {
            cpu_s: (self.cpu_s - earlier.cpu_s).max(0.0),
            queued_s: (self.queued_s - earlier.queued_s).max(0.0),
            voluntary_switches: switches(self.voluntary_switches, earlier.voluntary_switches),
            involuntary_switches: switches(self.involuntary_switches, earlier.involuntary_switches),
        }
    }

    /// Both together.
    pub fn add(&mut self, other: &Self) {
        self.cpu_s += other.cpu_s;
        self.queued_s += other.queued_s;
        self.voluntary_switches += other.voluntary_switches;
        self.involuntary_switches += other.involuntary_switches;
    }
}

/// The threads of a rank, by the system's numbers.
#[derive(Debug, Default)]
pub(crate) struct Threads(Mutex<Vec<i32>>);

thread_local! {
    static OURS: RefCell<Option<Arc<Threads>>> = const { RefCell::new(None) };
}

impl Threads {
    /// The calling thread is one of them.
    pub(crate) fn join(self: &Arc<Self>) {
        #[cfg(target_os = "linux")]
        {
            let me = nix::unistd::gettid().as_raw();
            let mut threads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if !threads.contains(&me) {
                threads.push(me);
            }
        }
        OURS.set(Some(Arc::clone(self)));
    }
}

/// What the threads of the calling rank have used so far; `None` where the system does not count by
/// threads.
pub(crate) fn of_this_rank() -> Option<Usage> {
    OURS.with_borrow(|ours| {
        let threads = ours.as_ref()?.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = Usage::default();
        let parts = threads.iter().filter_map(|&thread| system::of_thread(thread));
        let counted = parts.map(|part| sum.add(&part)).count();
        (counted > 0).then_some(sum)
    })
}

/// What the calling thread has used so far; `None` where the system does not count by threads.
pub(crate) fn of_this_thread() -> Option<Usage> {
    system::of_the_calling_thread()
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs;

    use nix::sys::{
        resource::{UsageWho, getrusage},
        time::TimeValLike,
    };

    use super::Usage;

    pub(super) fn of_the_calling_thread() -> Option<Usage> {
        of_thread(nix::unistd::gettid().as_raw())
    }

    /// Of a thread of this process; `None` if it has ended.
    pub(super) fn of_thread(thread: i32) -> Option<Usage> {
        let about = |what| fs::read_to_string(format!("/proc/self/task/{thread}/{what}")).ok();
        let status = about("status")?;
        let counter = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse::<u64>().ok()
        };
        // Nanoseconds on a CPU and waiting for one; some kernels do not count them.
        let schedule = about("schedstat").unwrap_or_default();
        let mut times = schedule.split_whitespace().map_while(|word| word.parse::<u64>().ok());
        let mut seconds = || Some(times.next()? as f64 * 1e-9);
        let (cpu_s, queued_s) = (seconds(), seconds());
        // Of the calling thread, which is running, the system's count there is a little old.
        let own = (thread == nix::unistd::gettid().as_raw()).then(of_the_caller).flatten();
        Some(Usage {
            cpu_s: own.or(cpu_s)?,
            queued_s: queued_s.unwrap_or(0.0),
            voluntary_switches: counter("voluntary_ctxt_switches:")?,
            involuntary_switches: counter("nonvoluntary_ctxt_switches:")?,
        })
    }

    fn of_the_caller() -> Option<f64> {
        let used = getrusage(UsageWho::RUSAGE_THREAD).ok()?;
        let microseconds =
            used.user_time().num_microseconds() + used.system_time().num_microseconds();
        Some(microseconds as f64 * 1e-6)
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    pub(super) fn of_thread(_thread: i32) -> Option<super::Usage> {
        None
    }

    pub(super) fn of_the_calling_thread() -> Option<super::Usage> {
        None
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{hint::black_box, thread};

    use super::*;

    #[test]
    fn what_a_thread_computes_is_its_ranks_and_nobody_elses() {
        let (busy, idle) = (Arc::new(Threads::default()), Arc::new(Threads::default()));
        let work = || {
            busy.join();
            busy.join(); // the same thread
            let before = of_this_rank().unwrap();
            let used = || of_this_rank().unwrap().since(&before).cpu_s;
            while used() < 0.02 {
                black_box((0..10_000).map(|x| f64::from(x).sqrt()).sum::<f64>());
            }
            assert!(used() < 10.0);
        };
        thread::scope(|scope| {
            let worker = scope.spawn(work);
            let other = scope.spawn(|| {
                idle.join();
                of_this_rank().unwrap()
            });
            assert!(other.join().unwrap().cpu_s < 0.02);
            worker.join().unwrap();
        });
        assert_eq!(busy.0.lock().unwrap().len(), 1);
        assert_eq!(of_this_rank(), None, "this thread works for no rank");
    }
}
