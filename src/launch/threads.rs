//! Ranks as threads of this process.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use super::{
    Cause, ending, identity,
    identity::{Identity, Voice},
    on_failure::{self, Policy},
    run_tasks, sampler, time, warn,
};
use crate::{
    comm::Comm,
    engine::{
        Engine,
        local::{Backoff, Job},
    },
    error::Failure,
    placement,
};

/// More ranks than this are held to be a slip: each is a thread.
pub(super) const MOST_RANKS: usize = 10_000;

/// How ranks are laid over this process's CPUs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) ranks: usize,
    /// Rayon threads per rank.
    pub(super) threads: usize,
    /// The one CPU for all ranks.
    pub(super) shared_cpu: Option<usize>,
    /// How many CPUs there are for them.
    cores: usize,
}

impl Layout {
    /// `ranks` ranks (one per CPU unless given) with an even share of the CPUs each.
    pub(super) fn new(ranks: Option<usize>, threads: Option<usize>, share_cpu: bool) -> Self {
        let cpus = placement::cpus();
        let time_for = placement::quota().unwrap_or(cpus.len());
        let ranks = ranks.unwrap_or_else(|| (time_for / threads.unwrap_or(1)).max(1));
        let fair = if share_cpu { 1 } else { (time_for / ranks).max(1) };
        let shared_cpu = share_cpu.then(|| cpus.first().copied().unwrap_or(0));
        let cores = if share_cpu { 1 } else { time_for };
        Self { ranks, threads: threads.unwrap_or(fair), shared_cpu, cores }
    }
}

/// What the threads of a job have in common. The supervisor follows the causes until no rank has
/// this any more.
pub(super) struct Ground {
    pub(super) job: Arc<Job>,
    causes: Sender<Cause>,
    policy: Policy,
}

impl Ground {
    /// A rank has failed, for this cause. It is reported first and has consequences second, so that
    /// the first report is the first cause.
    pub(super) fn fail(&self, cause: Cause) {
        let (rank, text, lost) = (cause.rank, cause.text.clone(), cause.lost);
        let _ = self.causes.send(cause);
        self.job.note_failed(rank, text);
        on_failure::of_a_thread(&self.job, self.policy, lost);
    }

    /// A rank has panicked. It is lost, unless the job has ended before: then it has panicked because
    /// of that.
    fn panicked(&self, cause: Cause) {
        let lost = self.job.failed().is_empty();
        self.fail(Cause { lost, ..cause });
    }

    /// A rank leaves the job, as all others do, because the program goes on in another one.
    fn leave(&self, cause: Cause) {
        let rank = cause.rank;
        let _ = self.causes.send(cause);
        self.job.finish(rank);
    }
}

/// Says which ranks are lost when a rank makes its call of this number.
pub(super) type Injected = Box<dyn Fn(usize, u64) -> Option<Vec<usize>> + Send + Sync>;

/// What the ranks of a job have in common, besides the program.
pub(super) struct Terms {
    pub(super) layout: Layout,
    pub(super) voice: Voice,
    /// How long a call may wait.
    pub(super) limit: Option<Duration>,
    pub(super) policy: Policy,
    /// Losses that are asked for.
    pub(super) inject: Option<Injected>,
}

impl Terms {
    /// Of a job that ends with the first rank that fails.
    pub(super) fn new(layout: Layout, voice: Voice, limit: Option<Duration>) -> Self {
        Self { layout, voice, limit, policy: Policy::End, inject: None }
    }
}

/// From now on ranks are lost as `injected` says.
fn inject(ground: &Arc<Ground>, injected: Injected) {
    let there = Arc::downgrade(ground);
    ground.job.look_at_calls(move |rank, call| {
        let (Some(ranks), Some(ground)) = (injected(rank, call), there.upgrade()) else { return };
        for rank in ranks {
            ground
                .fail(Cause { lost: true, ..Cause::new(rank, "as --inject asks for".to_owned()) });
        }
    });
}

/// Starts the ranks and lets `supervise` hear why ranks fail, until all have ended; returns its
/// answer, and the values of the ranks that did not fail.
pub(super) fn run<R: Send, S>(
    terms: Terms,
    app: impl Fn(&Comm) -> Result<R, Failure> + Sync,
    supervise: impl FnOnce(Receiver<Cause>) -> S,
) -> (S, Vec<R>) {
    let Terms { layout, voice, limit, policy, inject: injected } = terms;
    identity::note_panics();
    ending::watch_ranks();
    let backoff = Backoff::for_ranks(layout.ranks, layout.cores);
    let job = Job::watched(layout.ranks, backoff, limit.is_some() || injected.is_some());
    let stack_bytes = placement::stack_bytes();
    let host = placement::host();
    let ended = thread::scope(|scope| {
        let (causes, receiver) = channel();
        let ground = Arc::new(Ground { job: Arc::clone(&job), causes, policy });
        if let Some(injected) = injected {
            inject(&ground, injected);
        }
        let mut ranks = Vec::new();
        for rank in 0..layout.ranks {
            let me = Identity::new(rank, host.clone(), voice);
            let (own_ground, app) = (Arc::clone(&ground), &app);
            let body = move || live(own_ground, me, layout, app);
            let thread =
                thread::Builder::new().name(format!("rank {rank}")).stack_size(stack_bytes);
            match thread.spawn_scoped(scope, body) {
                Ok(rank) => ranks.push(rank),
                Err(error) => {
                    let text = format!("its thread cannot be started: {error}{}", super::LIMITED);
                    ground.fail(Cause::new(rank, text));
                }
            }
        }
        if let Some(limit) = limit {
            time::keep(&ground, limit, layout.threads);
        }
        drop(ground);
        let answer = supervise(receiver);
        let values = ranks.into_iter().filter_map(|rank| rank.join().ok().flatten());
        (answer, values.collect())
    });
    warn(&job.leftovers());
    ended
}

/// The life of one rank, on its own thread: its value, unless it has failed.
fn live<R>(
    ground: Arc<Ground>,
    me: Arc<Identity>,
    layout: Layout,
    app: &impl Fn(&Comm) -> Result<R, Failure>,
) -> Option<R> {
    let rank = me.rank();
    Arc::clone(&me).assume();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let _pool = settle(&ground, &me, layout).map_err(Failure::new)?;
        let cpus = placement::cpu_list(&placement::cpus());
        log::info!("rank {rank} bound to cpus {cpus}, threads {}", layout.threads);
        let engine = Rc::new(ground.job.engine(rank));
        let value = app(&Comm::world(Rc::clone(&engine) as Rc<dyn Engine>, rank, layout.ranks))?;
        run_tasks();
        warn(&engine.leftovers());
        Ok(value)
    }));
    match outcome {
        Ok(Ok(value)) => {
            ground.job.finish(rank);
            return Some(value);
        }
        Ok(Err(failure)) => {
            let cause = Cause::of(&me, failure);
            if cause.resizes.is_some() { ground.leave(cause) } else { ground.fail(cause) }
        }
        Err(payload) => ground.panicked(Cause::panic(&me, payload)),
    }
    None
}

/// Puts the rank's thread on its CPU and makes it the first thread of the rank's own rayon pool.
fn settle(
    ground: &Arc<Ground>,
    me: &Arc<Identity>,
    layout: Layout,
) -> Result<rayon::ThreadPool, String> {
    if let Some(cpu) = layout.shared_cpu {
        placement::pin(cpu)?;
    }
    sampler::enroll(me.rank(), 0);
    // Rayon never forgets the pool of a thread that has joined one, and the supervisor waits until
    // no rank has the ground.
    let ground = Arc::downgrade(ground);
    let lost = move |cause| {
        ground.upgrade().inspect(|ground| ground.panicked(cause));
    };
    super::pool(me, layout.threads, lost)
        .build()
        .map_err(|error| super::no_threads(layout.threads, &error))
}
