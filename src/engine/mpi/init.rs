//! How the engine begins and ends.

use std::{
    cell::{Cell, OnceCell, RefCell},
    env,
    ffi::c_int,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use mpi::{
    Threading,
    environment::{Universe, initialize_with_threading, library_version},
    ffi,
};

use super::{
    Basis, CommPair, MpiEngine, Watch,
    collective::Operators,
    communicator::{Communicator, mpis_world},
    guard::{self, Guard},
    losses,
    messages::Route,
    operations::Orphan,
    predictor::Predictor,
    progress,
    raw::{blank_status, check, made},
    roll::{self, Agreed, Findings, Refusal, Roll},
    transfer::tested,
    watch::Stage,
    wire,
};
use crate::{
    checks::Checks,
    engine::{About, Context, Leftover, Rank, Tag, table::Table},
    error::{Call, ErrorKind, Fault, With},
    process::leave,
};

/// How long the last messages may take once all programs have returned.
pub(super) const LAST_MESSAGES: Duration = Duration::from_secs(5);

/// What a rank was told, and what it brings to the start.
#[derive(Clone)]
pub(crate) struct Settings {
    /// How long a call may wait. Where one rank says so, what every rank waits for can be seen from
    /// another thread.
    pub(crate) timeout: Option<Duration>,
    /// What this rank wants checked.
    pub(crate) checks: Checks,
    pub(crate) threads: ThreadLevel,
    /// Whether the program goes on after the loss of a rank, where the library does.
    pub(crate) survives: bool,
    /// What all ranks do if one wants it.
    pub(crate) common: Common,
    /// Whether this process was told to run a job of its own, of threads.
    pub(crate) apart: bool,
    /// Why this rank cannot run, and the exit code of that.
    pub(crate) trouble: Option<(String, u8)>,
    /// Where another thread looks already.
    pub(crate) watch: Option<Arc<Watch>>,
}

/// How the start has ended.
pub(crate) enum Started {
    Engine(Box<MpiEngine>, World),
    /// Every process was told to run a job of its own.
    Apart,
    Refused(Refused),
}

/// A job that cannot start. MPI ends with it.
pub(crate) struct Refused {
    pub(crate) world: World,
    pub(crate) refusal: Refusal,
    _universe: Universe,
}

/// What MPI is to be ready for. The less, the faster its calls are: Open MPI 4.1 takes locks for
/// any thread but one, and has messages of a few bytes come 1.3 times later and at 0.6 of the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThreadLevel {
    /// The process has one thread (`MPI_THREAD_SINGLE`).
    Single,
    /// Others compute (`MPI_THREAD_FUNNELED`).
    Funneled,
    /// Any may call MPI at any time (`MPI_THREAD_MULTIPLE`).
    Multiple,
}

/// The number of ranks and this process's own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World {
    pub(crate) rank: usize,
    pub(crate) size: usize,
}

/// What all ranks do because one was told to.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a question of its own")]
pub(crate) struct Common {
    /// They take turns on one CPU.
    pub(crate) share_cpu: bool,
    /// They report what their calls have cost.
    pub(crate) stats: bool,
    /// They make a trace.
    pub(crate) trace: bool,
    /// They leave a record of the run.
    pub(crate) record: bool,
}

/// What an engine needs besides the communicator of its world.
pub(super) struct Further {
    /// For collectives.
    coll: Communicator,
    /// For the barrier at the end, where that is not on MPI's own world.
    ends: Option<Communicator>,
}

impl Further {
    /// Collective.
    pub(super) fn of(world: &Communicator) -> Result<Self, Fault> {
        let coll = world.duplicate()?;
        match world.duplicate() {
            Ok(ends) => Ok(Self { coll, ends: Some(ends) }),
            Err(fault) => {
                std::mem::forget(coll); // of a broken world
                Err(fault)
            }
        }
    }
}

impl MpiEngine {
    /// Initialises MPI and calls the roll: what one rank wants, all do, and all find what keeps one
    /// from running.
    ///
    /// # Errors
    /// If MPI was initialised before, or does not let threads other than the caller's exist where
    /// there are some.
    pub(crate) fn start(settings: &Settings) -> Result<Started, Fault> {
        let launch = |what: &str| ErrorKind::Launch { what: what.to_owned() };
        let wanted = match settings.threads {
            ThreadLevel::Single => Threading::Single,
            ThreadLevel::Funneled => Threading::Funneled,
            ThreadLevel::Multiple => Threading::Multiple,
        };
        let (universe, level) = initialize_with_threading(wanted)
            .ok_or_else(|| launch("MPI is initialised already; `run` can be called once"))?;
        if level < wanted.min(Threading::Funneled) {
            let what =
                "this MPI library allows no threads (MPI_THREAD_SINGLE): start with --threads 1";
            return Err(launch(what).into());
        }
        if let Some(watch) = &settings.watch {
            watch.begin(Stage::Start("the first messages between all ranks"));
        }
        let pt2pt = Communicator::of_the_world()?;
        let (rank, size) = (pt2pt.rank()?, pt2pt.size()?);
        let findings = Findings {
            overruns: guard::overruns(&pt2pt, rank as c_int)?,
            spins: !library_yields(),
            multiple: level == Threading::Multiple,
            survives: settings.survives && MpiEngine::could_survive_losses(),
        };
        let agreed = match roll::call(&pt2pt, size, settings, &findings)? {
            Roll::Complete(agreed) => agreed,
            Roll::Apart => {
                drop(pt2pt);
                return Ok(Started::Apart); // MPI ends here, with `universe`
            }
            Roll::Refused(refusal) => {
                drop(pt2pt);
                let world = World { rank, size };
                return Ok(Started::Refused(Refused { world, refusal, _universe: universe }));
            }
        };
        let Agreed { checks, timeout, common, guarded, spins, multiple, survives } = agreed;
        if survives {
            losses::survive();
        }
        let guard = guarded.then(Guard::new).transpose()?;
        let library = library(&library_version().unwrap_or_default());
        let shares_requests = library.starts_with("Open MPI");
        let basis = Basis {
            misses_any: library.starts_with("MPICH"),
            operators: Operators::new(&library)?,
            over_at_once: if shares_requests { over_at_once(&pt2pt)? } else { None },
            max_tag: Tag(pt2pt.tag_limit()?),
            about: About {
                engine: "mpi",
                library,
                thread_level: format!("{level:?}").to_lowercase(),
            },
            started: Instant::now(),
            checks,
            timeout,
            common,
            multiple,
            survives,
            spins,
            watch: timeout
                .map(|_| settings.watch.clone().unwrap_or_else(|| Arc::new(Watch::new()))),
        };
        let further = Further { coll: pt2pt.duplicate()?, ends: None };
        let engine = Self::new(basis, guard, Some(universe), pt2pt, further)?;
        Ok(Started::Engine(Box::new(engine), World { rank, size }))
    }

    /// An engine of this process whose world is another one.
    pub(super) fn on(&self, world: Communicator, further: Further) -> Result<Self, Fault> {
        let guard = self.guard.is_some().then(Guard::new).transpose()?;
        Self::new(self.basis.clone(), guard, None, world, further)
    }

    fn new(
        basis: Basis,
        guard: Option<Guard>,
        universe: Option<Universe>,
        pt2pt: Communicator,
        Further { coll, ends }: Further,
    ) -> Result<Self, Fault> {
        let (rank, size) = (pt2pt.rank()?, pt2pt.size()?);
        let pair = CommPair {
            context: Context::WORLD,
            coll,
            pt2pt,
            me: Rank::from(rank),
            ranks: (0..size).collect(),
            predictor: Predictor::new(),
        };
        Ok(Self {
            universe: RefCell::new(universe),
            basis,
            comms: RefCell::new(vec![Some(Rc::new(pair))]),
            retired: RefCell::default(),
            ends: RefCell::new(ends),
            guard,
            call: Cell::new(Call::new("start", With::ALL)),
            ops: Table::new(),
            staged: RefCell::new(Vec::new()),
            orphans: RefCell::new(Vec::new()),
            windows: RefCell::new(Vec::new()),
            probed: Table::new(),
            oversubscribed: Cell::new(false),
            yields: Cell::new(false),
            polls: Cell::new(false),
            shared: RefCell::default(),
            leftovers: RefCell::new(Vec::new()),
            look: OnceCell::new(),
        })
    }

    /// Its world: this process's rank, and how many there are.
    pub(crate) fn world(&self) -> Result<World, Fault> {
        let world = self.pair(Context::WORLD)?;
        Ok(World { rank: world.me.index(), size: world.ranks.len() })
    }

    /// From now on `look` sees each call of this rank before it is made: its number.
    pub(crate) fn look_at_calls(&self, look: impl Fn(u64) + 'static) {
        let _ = self.look.set((Cell::new(0), Box::new(look))); // once for each engine
    }

    /// What all ranks do because one was told to.
    pub(crate) fn common(&self) -> Common {
        self.basis.common
    }

    /// How long a call may wait, the same on every rank.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.basis.timeout
    }

    /// What the rank waits for, for another thread to look at.
    pub(crate) fn watch(&self) -> Option<Arc<Watch>> {
        self.basis.watch.clone()
    }

    /// Ends all processes of the job with this exit code.
    pub(crate) fn abort(code: u8) -> ! {
        if Self::job_survives_losses() {
            losses::end_launcher(code);
        }
        // SAFETY: MPI is initialised and not finalised: the launch calls this only between `start`
        // and the end of `finish`.
        unsafe { ffi::MPI_Abort(mpis_world(), c_int::from(code)) };
        leave(code)
    }

    /// Ends this process's part of a job that went well: waits for all ranks, receives what nobody
    /// received (so that its senders can end), and finalises MPI.
    ///
    /// # Errors
    /// If a message is left that cannot be received any more, and its sender could not end; if other
    /// ranks have not come to their end `within` this time.
    pub(crate) fn finish(&self, within: Option<Duration>) -> Result<(), Fault> {
        let stage = |stage| {
            if let Some(watch) = &self.basis.watch {
                watch.begin(stage);
            }
        };
        stage(Stage::Finished);
        self.shared.borrow().iter().try_for_each(|(shared, _)| shared.close())?;
        self.drain_until_all(within, |_| Ok(true))?;
        // All programs have returned: what is under way now is received by `drain`, or never.
        stage(Stage::End("receiving what nobody has received"));
        let ended = Instant::now();
        self.drain_until_all(None, |left| {
            if left > 0 && ended.elapsed() > LAST_MESSAGES {
                let mut what =
                    format!("messages never received, on communicators that are gone: {left}");
                for call in self.orphans.borrow().iter().filter_map(Orphan::call) {
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
        self.shared.take(); // with their communicators; threads may still have what is closed
        stage(Stage::End("MPI_Finalize"));
        drop((self.comms.take(), self.retired.take()));
        let universe = self.universe.take();
        if self.forget_windows() {
            std::mem::forget(universe);
            finalize_at_exit();
        } else {
            drop(universe);
        }
        stage(Stage::Finished);
        Ok(())
    }

    /// Receives what nobody wants until every rank is `ready`, which is asked with the number of
    /// this rank's sends left.
    fn drain_until_all(
        &self,
        within: Option<Duration>,
        ready: impl Fn(usize) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        let (started, mut barrier) = (Instant::now(), None);
        loop {
            if within.is_some_and(|within| started.elapsed() > within) {
                let what = "other ranks have not come to their end".to_owned();
                return Err(ErrorKind::InvalidArgument { what }.into());
            }
            self.abandon_staged(); // before their messages are received here
            self.progress();
            self.drain()?;
            self.orphans.borrow_mut().retain_mut(|orphan| !orphan.is_over());
            match &mut barrier {
                None => {
                    let left = self.orphans.borrow().len()
                        + self.staged.borrow().len()
                        + self
                            .shared
                            .borrow()
                            .iter()
                            .map(|(shared, _)| shared.left())
                            .sum::<usize>();
                    if ready(left)? {
                        // On the world itself, which nothing else is called on: a barrier of the
                        // program that another rank still waits in must not meet this one.
                        // SAFETY: a predefined communicator; the request is written on success.
                        let request = unsafe { made(|made| ffi::MPI_Ibarrier(mpis_world(), made)) };
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
            progress::nap();
        }
    }

    /// Receives and drops what is there, on all communicators; gives up what is under way. Notes
    /// both.
    pub(super) fn drain(&self) -> Result<(), Fault> {
        let me = self.pair(Context::WORLD)?.me.index();
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
        let comms: Vec<_> = self.comms.borrow().iter().flatten().cloned().collect();
        let retired: Vec<_> = self.retired.borrow().iter().cloned().collect();
        comms.iter().chain(&retired).try_for_each(|pair| self.drain_pair(pair))?;
        let world = self.pair(Context::WORLD)?;
        for (shared, _) in &*self.shared.borrow() {
            let (comm, has_header) = shared.raw();
            let route = Route { comm, me: world.me, has_header };
            while let Some((probed, _)) = Self::next_unwanted(route)? {
                self.swallow(probed)?;
            }
        }
        Ok(())
    }

    /// Receives and drops what is there on a communicator, and notes it.
    pub(super) fn drain_pair(&self, pair: &CommPair) -> Result<(), Fault> {
        let me = self.pair(Context::WORLD)?.me.index();
        // Steps that are left are those of a collective that failed here, or whose owner has lost
        // interest.
        let steps = pair.route(true, self.basis.checks);
        while let Some((probed, _)) = Self::next_unwanted(steps)? {
            self.swallow(probed)?;
        }
        while let Some((probed, received)) =
            Self::next_unwanted(pair.route(false, self.basis.checks))?
        {
            let head = self.swallow(probed)?;
            let from = pair.ranks[received.rank.index()];
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
    /// An engine that was not finished belongs to a failing job: MPI may still use the buffers of
    /// what is under way.
    fn drop(&mut self) {
        std::mem::forget(self.universe.take());
        std::mem::forget(self.orphans.take());
        std::mem::forget(self.ops.drain());
        std::mem::forget(self.staged.take());
        std::mem::forget((self.comms.take(), self.retired.take(), self.ends.take()));
        std::mem::forget((self.shared.take(), self.windows.take()));
    }
}

/// Leaves MPI to the end of the process. A window that the program keeps beyond its run (in a
/// thread's variable, or for ever) is closed to it; but it may hold slices of the memory, which
/// goes when MPI is finalised.
fn finalize_at_exit() {
    extern "C" fn finalize() {
        // SAFETY: MPI is initialised and not finalised: this is registered once, where `finish`
        // leaves that undone. Handlers run on the thread that ends the process, after its own
        // variables are gone.
        unsafe { ffi::MPI_Finalize() };
    }
    // SAFETY: registers a function that lives as long as the program. If there is no room for it,
    // the launcher will complain.
    unsafe { nix::libc::atexit(finalize) };
}

/// Whether Open MPI has been told to let others run while it waits (by
/// `mpirun --mca mpi_yield_when_idle 1`): its blocking calls are better at it than test and yield.
fn library_yields() -> bool {
    env::var("OMPI_MCA_mpi_yield_when_idle").is_ok_and(|value| value == "1")
}

/// The request that the library gives for all sends that are over at once, if it is the same one.
fn over_at_once(comm: &Communicator) -> Result<Option<ffi::MPI_Request>, Fault> {
    // SAFETY: a live communicator; a message of no bytes to nobody.
    let start = || unsafe {
        let (nobody, byte) = (ffi::RSMPI_PROC_NULL, ffi::RSMPI_UINT8_T);
        made(|made| ffi::MPI_Isend([0_u8; 1].as_ptr().cast(), 0, byte, nobody, 0, comm.raw(), made))
    };
    let (first, second) = (start()?, start()?);
    for mut request in [first, second] {
        // SAFETY: a request that has been started, or one request that stands for any number of
        // them.
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
