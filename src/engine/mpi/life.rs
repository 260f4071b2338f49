//! How the engine begins and ends.

use std::{
    cell::{Cell, RefCell},
    env,
    ffi::c_int,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use mpi::{
    Threading,
    environment::{initialize_with_threading, library_version},
    ffi,
};

use super::{
    MpiEngine, Space, Watch,
    foresight::Foresight,
    guard::{self, Guard},
    messages::Lane,
    raw::{blank_status, check, made, tag_limit},
    transfer::tested,
    wire,
};
use crate::{
    checks::Checks,
    engine::{About, Context, Leftover, Rank, Tag, table::Table},
    error::{Call, ErrorKind, Fault, With},
};

/// How long the last messages may take once all programs have returned.
pub(super) const LAST_MESSAGES: Duration = Duration::from_secs(5);

/// How the engine is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// How long a call may wait. Where one rank says so, what every rank waits for can be seen from another thread.
    pub(crate) timeout: Option<Duration>,
    /// What this rank wants checked.
    pub(crate) checks: Checks,
    pub(crate) threads: Threads,
}

/// What MPI is to be ready for. The less, the faster its calls are: Open MPI 4.1 takes locks for any thread but one, and
/// has messages of a few bytes come 1.3 times later and at 0.6 of the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The process has one thread (`MPI_THREAD_SINGLE`).
    One,
    /// Others compute (`MPI_THREAD_FUNNELED`).
    OthersCompute,
    /// Any may call MPI at any time (`MPI_THREAD_MULTIPLE`).
    AllCall,
}

/// The number of ranks and this process's own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World {
    pub(crate) rank: usize,
    pub(crate) size: usize,
}

impl MpiEngine {
    /// Initialises MPI. All ranks check as much as the one that wants most.
    ///
    /// # Errors
    /// If MPI was initialised before, or does not let threads other than the caller's exist where there are some.
    pub(crate) fn start(settings: Settings) -> Result<(Self, World), Fault> {
        let launch = |what: &str| ErrorKind::Launch { what: what.to_owned() };
        let wanted = match settings.threads {
            Threads::One => Threading::Single,
            Threads::OthersCompute => Threading::Funneled,
            Threads::AllCall => Threading::Multiple,
        };
        let (universe, level) = initialize_with_threading(wanted)
            .ok_or_else(|| launch("MPI is initialised already; `run` can be called once"))?;
        if level < wanted.min(Threading::Funneled) {
            let what =
                "this MPI library allows no threads (MPI_THREAD_SINGLE): start with --threads 1";
            return Err(launch(what).into());
        }
        // SAFETY: MPI is initialised; the world is a predefined communicator.
        let world = unsafe { ffi::RSMPI_COMM_WORLD };
        let errors = |comm| {
            // SAFETY: a live communicator and a predefined handler.
            check(unsafe { ffi::MPI_Comm_set_errhandler(comm, ffi::RSMPI_ERRORS_RETURN) })
        };
        // Errors of calls without a communicator are raised on the world; none is used on it otherwise.
        errors(world)?;
        let user = duplicate(world)?;
        errors(user)?;
        // SAFETY: a live communicator; both calls write one int.
        let (rank, size) = unsafe {
            (
                made(|rank| ffi::MPI_Comm_rank(user, rank))?,
                made(|size| ffi::MPI_Comm_size(user, size))?,
            )
        };
        let Agreed { checks, timeout, guarded, spins } =
            agree(user, settings, guard::overruns(user, rank)?)?;
        let guard = guarded.then(Guard::new).transpose()?;
        let (rank, size) = (rank as usize, size as usize);
        let space = Space {
            user,
            steps: duplicate(user)?,
            me: Rank::from(rank),
            ranks: (0..size).collect(),
            foresight: Foresight::new(),
        };
        let about = About {
            engine: "mpi",
            library: library(&library_version().unwrap_or_default()),
            thread_level: format!("{level:?}").to_lowercase(),
        };
        let misses_any = about.library.starts_with("MPICH");
        let shares_requests = about.library.starts_with("Open MPI");
        let over_at_once = if shares_requests { over_at_once(user)? } else { None };
        let engine = Self {
            universe: RefCell::new(Some(universe)),
            about,
            max_tag: Tag(tag_limit(user)?),
            started: Instant::now(),
            spaces: RefCell::new(vec![Some(Rc::new(space))]),
            retired: RefCell::default(),
            checks,
            timeout,
            multiple: level == Threading::Multiple,
            guard,
            misses_any,
            over_at_once,
            spins,
            call: Cell::new(Call::new("start", With::ALL)),
            ops: Table::new(),
            staged: RefCell::new(Vec::new()),
            orphans: RefCell::new(Vec::new()),
            windows: RefCell::new(Vec::new()),
            probed: Table::new(),
            crowded: Cell::new(false),
            yields: Cell::new(false),
            polls: Cell::new(false),
            watch: timeout.map(|_| Arc::new(Watch::new())),
            shared: RefCell::default(),
            leftovers: RefCell::new(Vec::new()),
        };
        Ok((engine, World { rank, size }))
    }

    /// How long a call may wait, the same on every rank.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// What the rank waits for, for another thread to look at.
    pub(crate) fn watch(&self) -> Option<Arc<Watch>> {
        self.watch.clone()
    }

    /// Ends all processes of the job with this exit code.
    pub(crate) fn abort(code: u8) -> ! {
        // SAFETY: MPI is initialised and not finalised: the launch calls this only between `start` and the end of `finish`.
        unsafe { ffi::MPI_Abort(ffi::RSMPI_COMM_WORLD, c_int::from(code)) };
        leave(code)
    }

    /// Ends this process's part of a job that went well: waits for all ranks, receives what nobody received (so that
    /// its senders can end), and finalises MPI.
    ///
    /// # Errors
    /// If a message is left that cannot be received any more, and its sender could not end.
    pub(crate) fn finish(&self) -> Result<(), Fault> {
        let world = self.space(Context::WORLD)?;
        if let Some(watch) = &self.watch {
            watch.finish();
        }
        self.shared.borrow().iter().try_for_each(|shared| shared.close())?;
        self.drain_until_all(&world, |_| Ok(true))?;
        // All programs have returned: what is under way now is received by `drain`, or never.
        let ended = Instant::now();
        self.drain_until_all(&world, |left| {
            if left > 0 && ended.elapsed() > LAST_MESSAGES {
                let mut what =
                    format!("messages never received, on communicators that are gone: {left}");
                for call in self.orphans.borrow().iter().filter_map(|orphan| orphan.call) {
                    let (file, line) = (call.at.file(), call.at.line());
                    what.extend([
                        "\n  ",
                        &call.to_string(),
                        " (",
                        file,
                        ":",
                        &line.to_string(),
                        ")",
                    ]);
                }
                return Err(ErrorKind::InvalidArgument { what }.into());
            }
            Ok(left == 0)
        })?;
        drop(world);
        for shared in self.shared.take() {
            free(shared.raw().0);
        }
        drop((self.spaces.take(), self.retired.take()));
        drop(self.universe.take());
        Ok(())
    }

    /// Receives what nobody wants until every rank is `ready`, which is asked with the number of this rank's sends left.
    fn drain_until_all(
        &self,
        world: &Space,
        ready: impl Fn(usize) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        let mut barrier = None;
        loop {
            self.abandon_staged(); // before their messages are received here
            self.progress();
            self.drain()?;
            self.orphans.borrow_mut().retain_mut(|orphan| !orphan.is_over());
            match &mut barrier {
                None => {
                    let left = self.orphans.borrow().len()
                        + self.staged.borrow().len()
                        + self.shared.borrow().iter().map(|shared| shared.left()).sum::<usize>();
                    if ready(left)? {
                        // SAFETY: a live communicator; the request is written on success.
                        let request = unsafe { made(|made| ffi::MPI_Ibarrier(world.steps, made)) };
                        barrier = Some(request?);
                    }
                }
                Some(request) => {
                    let all_came = tested(request)?.is_some();
                    if all_came {
                        return Ok(());
                    }
                }
            }
            // The others may have long to compute, on this CPU too.
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Receives and drops what is there, on all communicators; gives up what is under way. Notes both.
    fn drain(&self) -> Result<(), Fault> {
        let me = self.space(Context::WORLD)?.me.index();
        let note = |leftover| self.leftovers.borrow_mut().push(leftover);
        for pending in self.ops.drain() {
            if let Some(call) = pending.call() {
                note(Leftover::operation(me, &call));
            }
            self.give_up(pending);
        }
        for probed in self.probed.drain() {
            self.swallow(probed)?;
        }
        let spaces: Vec<_> = self.spaces.borrow().iter().flatten().cloned().collect();
        let retired: Vec<_> = self.retired.borrow().iter().cloned().collect();
        spaces.iter().chain(&retired).try_for_each(|space| self.drain_space(space))?;
        let world = self.space(Context::WORLD)?;
        for shared in &*self.shared.borrow() {
            let (comm, headed) = shared.raw();
            let lane = Lane { comm, me: world.me, headed };
            while let Some((probed, _)) = Self::next_unwanted(lane)? {
                self.swallow(probed)?;
            }
        }
        Ok(())
    }

    /// Receives and drops what is there on a communicator, and notes it.
    pub(super) fn drain_space(&self, space: &Space) -> Result<(), Fault> {
        let me = self.space(Context::WORLD)?.me.index();
        // Steps that are left are those of a collective that failed here, or whose owner has lost interest.
        let steps = space.lane(true, self.checks);
        while let Some((probed, _)) = Self::next_unwanted(steps)? {
            self.swallow(probed)?;
        }
        while let Some((probed, received)) = Self::next_unwanted(space.lane(false, self.checks))? {
            let head = self.swallow(probed)?;
            let from = space.ranks[received.rank.index()];
            let place = head.as_ref().map_or("; --checks full says where".to_owned(), |head| {
                format!(" ({}), of {}", wire::place(head), wire::type_name(head))
            });
            let (bytes, tag) = (received.bytes, received.tag.0);
            let what = format!(
                "rank {me}: a message of {bytes} bytes from rank {from} tag {tag} was never received, sent{place}"
            );
            self.leftovers.borrow_mut().push(Leftover { what });
        }
        Ok(())
    }
}

impl Drop for MpiEngine {
    /// An engine that was not finished belongs to a failing job: MPI may still use the buffers of what is under way.
    fn drop(&mut self) {
        std::mem::forget(self.universe.take());
        std::mem::forget(self.orphans.take());
        std::mem::forget(self.ops.drain());
        std::mem::forget(self.staged.take());
        std::mem::forget((self.spaces.take(), self.retired.take()));
    }
}

/// How all ranks are.
struct Agreed {
    /// The highest level that a rank wants.
    checks: Checks,
    /// The longest time that a rank wants.
    timeout: Option<Duration>,
    /// Whether the library of some rank lets messages overrun buffers: who guards declines some of its collectives.
    guarded: bool,
    /// Whether the library of some rank keeps its CPU while it waits.
    spins: bool,
}

/// Whether Open MPI has been told to let others run while it waits (by `mpirun --mca mpi_yield_when_idle 1`): its
/// blocking calls are better at it than test and yield.
fn library_yields() -> bool {
    env::var("OMPI_MCA_mpi_yield_when_idle").is_ok_and(|value| value == "1")
}

/// Puts together what the ranks want and what their libraries do.
fn agree(comm: ffi::MPI_Comm, settings: Settings, overruns: bool) -> Result<Agreed, Fault> {
    let levels = [Checks::Off, Checks::Local, Checks::Collective, Checks::Full];
    let level = levels.iter().position(|&level| level == settings.checks);
    let milliseconds = |limit: Duration| (limit.as_millis() as i64).max(1);
    let limit = settings.timeout.map_or(0, milliseconds);
    let mine = [level.unwrap_or(0) as i64, limit, overruns.into(), (!library_yields()).into()];
    let mut highest = [0_i64; 4];
    // SAFETY: a live communicator; each rank gives and gets four integers.
    check(unsafe {
        let (int, max) = (ffi::RSMPI_INT64_T, ffi::RSMPI_MAX);
        ffi::MPI_Allreduce(mine.as_ptr().cast(), highest.as_mut_ptr().cast(), 4, int, max, comm)
    })?;
    let [level, limit, overruns, spins] = highest;
    let timeout = (limit > 0).then(|| Duration::from_millis(limit as u64));
    let checks = levels[level as usize % levels.len()];
    Ok(Agreed { checks, timeout, guarded: overruns != 0, spins: spins != 0 })
}

/// MPI keeps a communicator for operations under way (MPI 4.1 §7.4.3).
pub(super) fn free(mut comm: ffi::MPI_Comm) {
    // SAFETY: a live communicator of our own, freed once. There is nobody to tell of a failure to free.
    unsafe { ffi::MPI_Comm_free(&raw mut comm) };
}

/// A communicator with the same ranks.
fn duplicate(comm: ffi::MPI_Comm) -> Result<ffi::MPI_Comm, Fault> {
    // SAFETY: a live communicator; the new one is written on success.
    unsafe { made(|made| ffi::MPI_Comm_dup(comm, made)) }
}

/// The request that the library gives for all sends that are over at once, if it is the same one.
fn over_at_once(comm: ffi::MPI_Comm) -> Result<Option<ffi::MPI_Request>, Fault> {
    // SAFETY: a live communicator; a message of no bytes to nobody.
    let start = || unsafe {
        let (nobody, byte) = (ffi::RSMPI_PROC_NULL, ffi::RSMPI_UINT8_T);
        made(|made| ffi::MPI_Isend([0_u8; 1].as_ptr().cast(), 0, byte, nobody, 0, comm, made))
    };
    let (first, second) = (start()?, start()?);
    for mut request in [first, second] {
        // SAFETY: a request that has been started, or one request that stands for any number of them.
        check(unsafe { ffi::MPI_Wait(&raw mut request, &mut blank_status()) })?;
    }
    Ok((first == second).then_some(first))
}

/// Name and version out of what the library says of itself, which can be a page long.
fn library(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    let name = first.split(',').next().unwrap_or_default().replace("Version:", " ");
    name.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Ends this process at once, without the clean-up that an MPI library in the middle of a call might never finish.
pub(crate) fn leave(code: u8) -> ! {
    // SAFETY: ends the process; nothing runs afterwards.
    unsafe { nix::libc::_exit(code.into()) }
}
