//! Which CPU the threads of traced ranks had, and when they had none: looked at from beside.
//!
//! One thread of the process asks the system for the CPU time of every thread that is enrolled, some
//! hundred times a second. What a thread had in two looks after each other that are alike is one
//! record.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::trace::{CpuRecord, CpuTape, now_ns};

/// How often the threads are looked at.
const PERIOD: Duration = Duration::from_millis(1);

/// The looks may take this share of one CPU at most: one in so many.
const SHARE: u32 = 50;

/// A record covers no more.
const LONGEST_NS: u64 = 1_000_000_000;

/// Whether threads enroll.
static ENLISTS: AtomicBool = AtomicBool::new(false);

static ROLL: Mutex<Roll> = Mutex::new(Roll { threads: Vec::new(), tapes: Vec::new() });

/// Whose threads are looked at, and where it is noted.
struct Roll {
    threads: Vec<Thread>,
    /// With the rank of each.
    tapes: Vec<(usize, CpuTape)>,
}

/// A thread of a rank.
struct Thread {
    rank: usize,
    /// Its number among the rank's.
    number: usize,
    id: i32,
    /// What the system tells of it, kept open: a look is cheap then.
    files: Option<[File; 2]>,
    seen: Option<Look>,
    /// What has not been noted yet.
    open: Option<CpuRecord>,
}

/// What the system says of a thread: since it began.
#[derive(Clone, Copy)]
struct Look {
    at_ns: u64,
    ran_ns: u64,
    waited_ns: u64,
    cpu: u32,
}

fn roll() -> MutexGuard<'static, Roll> {
    ROLL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Threads that come from now on are looked at, or not.
pub(super) fn enlist(yes: bool) {
    ENLISTS.store(yes, Ordering::Relaxed);
}

/// The calling thread works for a rank, as its thread of this number: 0 is the rank's own.
pub(super) fn enroll(rank: usize, number: usize) {
    if cfg!(target_os = "linux") && ENLISTS.load(Ordering::Relaxed) {
        let id = thread_id();
        let file = |name: &str| File::open(format!("/proc/self/task/{id}/{name}"));
        let files = file("schedstat").and_then(|one| Ok([one, file("stat")?])).ok();
        roll().threads.push(Thread { rank, number, id, files, seen: None, open: None });
    }
}

/// The calling thread, as Linux numbers it.
fn thread_id() -> i32 {
    #[cfg(target_os = "linux")]
    return nix::unistd::gettid().as_raw();
    #[cfg(not(target_os = "linux"))]
    return 0; // nobody asks
}

/// Notes from now on on `tape` what the threads of a rank have of the CPUs.
pub(super) fn begin(rank: usize, tape: CpuTape) {
    let mut roll = roll();
    roll.tapes.push((rank, tape));
    if roll.tapes.len() == 1 && cfg!(target_os = "linux") {
        // Without it the trace has no CPUs, and is a trace.
        let started = thread::Builder::new().name("sampler".to_owned()).spawn(sample);
        if let Err(error) = started {
            log::warn!("no CPU times in the trace: {error}");
        }
    }
}

/// The trace of a rank ends: what is open is noted.
pub(super) fn end(rank: usize) {
    let mut roll = roll();
    roll.look(Some(rank));
    let Roll { threads, tapes } = &mut *roll;
    if let Some(place) = tapes.iter().position(|(other, _)| *other == rank) {
        let (_, mut tape) = tapes.swap_remove(place);
        let mine = threads.iter_mut().filter(|thread| thread.rank == rank);
        mine.filter_map(|thread| thread.open.take()).for_each(|record| tape.note(&record));
    }
    threads.retain(|thread| thread.rank != rank);
}

/// The sampler's life: as long as a rank is traced.
fn sample() {
    loop {
        let clock = Instant::now();
        {
            let mut roll = roll();
            if roll.tapes.is_empty() {
                return;
            }
            roll.look(None);
        }
        thread::sleep(PERIOD.max(clock.elapsed() * SHARE));
    }
}

impl Roll {
    /// Looks at the threads of a rank, or of all.
    fn look(&mut self, rank: Option<usize>) {
        let Self { threads, tapes } = self;
        for thread in threads.iter_mut().filter(|thread| rank.is_none_or(|r| r == thread.rank)) {
            let Some((_, tape)) = tapes.iter_mut().find(|(rank, _)| *rank == thread.rank) else {
                continue;
            };
            if let Some(record) = thread.look() {
                tape.note(&record);
            }
        }
    }
}

impl Thread {
    /// What it had since the last look; an older record, if that was of another kind.
    fn look(&mut self) -> Option<CpuRecord> {
        let now = Look::at(self.id, self.files.as_ref()?, self.seen)?;
        let before = self.seen.replace(now)?;
        let new = CpuRecord {
            start_ns: before.at_ns,
            end_ns: now.at_ns,
            ran_ns: now.ran_ns.saturating_sub(before.ran_ns),
            waited_ns: now.waited_ns.saturating_sub(before.waited_ns),
            thread: self.number as u32,
            cpu: now.cpu,
        };
        match &mut self.open {
            Some(open) if alike(open, &new) => {
                open.end_ns = new.end_ns;
                open.ran_ns += new.ran_ns;
                open.waited_ns += new.waited_ns;
                None
            }
            open => open.replace(new),
        }
    }
}

/// Whether two records of a thread can be one: it ran all the time on one CPU, or never.
fn alike(one: &CpuRecord, two: &CpuRecord) -> bool {
    #[derive(PartialEq)]
    enum Kind {
        Ran(u32),
        Rested,
        Wanted,
    }
    let kind = |record: &CpuRecord| {
        let time = record.end_ns - record.start_ns;
        match () {
            () if record.ran_ns * 10 >= time * 9 => Some(Kind::Ran(record.cpu)),
            () if record.ran_ns * 50 > time => None,
            () if record.waited_ns * 2 > time => Some(Kind::Wanted),
            () => Some(Kind::Rested),
        }
    };
    let kinds = (kind(one), kind(two));
    kinds.0.is_some() && kinds.0 == kinds.1 && two.end_ns - one.start_ns < LONGEST_NS
}

impl Look {
    /// `None` if there is no such thread any more.
    fn at(id: i32, [times, state]: &[File; 2], before: Option<Self>) -> Option<Self> {
        let ran_ns = ran(id)?;
        let at_ns = now_ns();
        if let Some(before) = before.filter(|before| before.ran_ns == ran_ns) {
            // It did not run; only whether it would have liked to may have changed.
            let waited_ns = waited(times).unwrap_or(before.waited_ns);
            return Some(Self { at_ns, waited_ns, ..before });
        }
        let waited_ns = waited(times)?;
        Some(Self { at_ns, ran_ns, waited_ns, cpu: cpu(state)? })
    }
}

/// How long a thread of this process has run: up to this moment, which its files do not say.
fn ran(id: i32) -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        // How Linux numbers the CPU clock of any thread of the process.
        let clock = nix::time::ClockId::from_raw((!id << 3) | 6);
        let time = nix::time::clock_gettime(clock).ok()?;
        Some(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = id;
        None
    }
}

/// How long a thread has waited for a CPU.
fn waited(times: &File) -> Option<u64> {
    text(times, &mut [0; 128])?.split_whitespace().nth(1)?.parse().ok()
}

/// The CPU on which a thread is, or was last.
fn cpu(state: &File) -> Option<u32> {
    let mut room = [0; 1024];
    // Behind the name, which may hold anything, the CPU is the 37th.
    let (_, rest) = text(state, &mut room)?.rsplit_once(')')?;
    rest.split_whitespace().nth(36)?.parse().ok()
}

/// What the system says now in one of its files.
fn text<'r>(file: &File, room: &'r mut [u8]) -> Option<&'r str> {
    let bytes = file.read_at(room, 0).ok()?;
    std::str::from_utf8(&room[..bytes]).ok()
}
