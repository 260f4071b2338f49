//! Ranks as threads of this process.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use super::{Cause, identity, identity::Identity, warn};
use crate::{
    comm::Comm,
    engine::{
        Engine,
        local::{Job, Patience},
    },
    error::Failure,
    placement,
};

/// As much as the main thread of a process has on most systems: a program that runs as a process runs as a thread.
const STACK_BYTES: usize = 8 << 20;

/// How ranks are laid over this process's CPUs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) ranks: usize,
    /// Rayon threads per rank.
    pub(super) threads: usize,
    /// The one CPU for all ranks.
    pub(super) shared_cpu: Option<usize>,
}

impl Layout {
    /// `ranks` ranks (one per CPU unless given) with an even share of the CPUs each.
    pub(super) fn new(ranks: Option<usize>, threads: Option<usize>, share_cpu: bool) -> Self {
        let cpus = placement::cpus();
        let ranks = ranks.unwrap_or_else(|| (cpus.len() / threads.unwrap_or(1)).max(1));
        let fair = if share_cpu { 1 } else { (cpus.len() / ranks).max(1) };
        let shared_cpu = share_cpu.then(|| cpus.first().copied().unwrap_or(0));
        Self { ranks, threads: threads.unwrap_or(fair), shared_cpu }
    }

    fn cores(&self) -> usize {
        if self.shared_cpu.is_some() { 1 } else { placement::cpus().len() }
    }
}

/// How one rank ended.
pub(super) struct Ending<R> {
    pub(super) rank: usize,
    pub(super) result: Result<R, Cause>,
}

/// Starts the ranks, lets `supervise` follow their endings as they come, and returns its answer when all have ended.
///
/// A rank that fails reports first and then ends the job, so that the first report is the first cause.
pub(super) fn run<R: Send, S>(
    layout: Layout,
    app: impl Fn(&Comm) -> Result<R, Failure> + Sync,
    supervise: impl FnOnce(Receiver<Ending<R>>) -> S,
) -> S {
    identity::note_panics();
    let job = Job::new(layout.ranks, Patience::for_ranks(layout.ranks, layout.cores()));
    let host = placement::host();
    let answer = thread::scope(|scope| {
        let (endings, receiver) = channel();
        for rank in 0..layout.ranks {
            let me = Identity::new(rank, host.clone());
            let (own_job, own_endings, app) = (Arc::clone(&job), endings.clone(), &app);
            let body = move || live(&own_job, me, layout, app, &own_endings);
            let thread =
                thread::Builder::new().name(format!("rank {rank}")).stack_size(STACK_BYTES);
            if let Err(error) = thread.spawn_scoped(scope, body) {
                let text = format!("its thread cannot be started: {error}");
                fail(&job, &endings, Cause::new(rank, text));
            }
        }
        drop(endings);
        supervise(receiver)
    });
    warn(&job.leftovers());
    answer
}

/// The life of one rank, on its own thread.
fn live<R>(
    job: &Arc<Job>,
    me: Arc<Identity>,
    layout: Layout,
    app: &impl Fn(&Comm) -> Result<R, Failure>,
    endings: &Sender<Ending<R>>,
) {
    let rank = me.rank;
    Arc::clone(&me).assume();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let _pool = settle(&me, layout).map_err(Failure::new)?;
        let cpus = placement::cpu_list(&placement::cpus());
        log::info!("rank {rank} bound to cpus {cpus}, threads {}", layout.threads);
        let engine = Rc::new(job.engine(rank));
        let value = app(&Comm::world(Rc::clone(&engine) as Rc<dyn Engine>, rank, layout.ranks))?;
        warn(&engine.leftovers());
        Ok(value)
    }));
    let cause = match outcome {
        Ok(Ok(value)) => {
            let _ = endings.send(Ending { rank, result: Ok(value) });
            return job.finish(rank);
        }
        Ok(Err(failure)) => Cause::of(rank, &failure),
        Err(_) => Cause::new(rank, me.panic_message()),
    };
    fail(job, endings, cause);
}

/// Reports a cause first and ends the job second.
fn fail<R>(job: &Job, endings: &Sender<Ending<R>>, cause: Cause) {
    let (rank, text) = (cause.rank, cause.text.clone());
    let _ = endings.send(Ending { rank, result: Err(cause) });
    job.fail(rank, text);
}

/// Puts the rank's thread on its CPU and makes it the first thread of the rank's own rayon pool.
fn settle(me: &Arc<Identity>, layout: Layout) -> Result<rayon::ThreadPool, String> {
    if let Some(cpu) = layout.shared_cpu {
        placement::pin(cpu)?;
    }
    super::pool(me, layout.threads).build().map_err(|error| format!("no thread pool: {error}"))
}
