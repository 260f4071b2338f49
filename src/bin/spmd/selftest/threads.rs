//! Messages between the threads of all ranks at the same time, where the engine can.

use spmd::{ANY, Error, ErrorKind, Result, SharedComm, Status};

use super::{Case, Ground, ground::values};

pub(super) const CASES: &[Case] = &[
    ("all threads of all ranks exchange messages", stress),
    ("threads send and receive objects, one value, nothing", kinds),
    ("threads' wrong messages are refused", refused),
];

const THREADS: u32 = 4;

/// The handle for threads; `None` on all ranks where the engine has none.
fn shared(ground: &Ground<'_>) -> Result<Option<SharedComm>> {
    match ground.shared() {
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported { .. }) => {
            if ground.rank() == 0 {
                log::info!("the cases of threads are skipped: {error}");
            }
            Ok(None)
        }
        shared => shared.map(Some),
    }
}

/// What happens on a thread: the first thing that is wrong.
type Finding = Result<Option<String>, Error>;

/// Runs `work` on so many threads, and notes what they find.
fn on_threads(ground: &Ground<'_>, work: impl Fn(u32) -> Finding + Sync) -> Result<()> {
    let findings: Vec<Finding> = std::thread::scope(|threads| {
        let work = &work;
        let started: Vec<_> =
            (0..THREADS).map(|thread| threads.spawn(move || work(thread))).collect();
        started.into_iter().map(|thread| thread.join().unwrap_or(Ok(None))).collect()
    });
    for finding in findings {
        if let Some(wrong) = finding? {
            ground.note(|| wrong);
        }
    }
    Ok(())
}

fn stress(ground: &Ground<'_>) -> Result<()> {
    const ROUNDS: usize = 9;
    let Some(shared) = shared(ground)? else { return Ok(()) };
    let (to, from) = (ground.after(1), ground.before(1));
    on_threads(ground, |thread| {
        for round in 0..ROUNDS {
            // Small and large ones in turn: large ones may wait for their receiver, so send and
            // receive go on at once.
            let count = [1, 300, 3000][(round + thread as usize) % 3];
            let mine = values(seed(shared.rank(), thread, round), count);
            let (got, status) = std::thread::scope(|threads| {
                let sending = threads.spawn(|| shared.send(&mine, (to, thread)));
                let got = shared.recv::<u64>((from, thread));
                sending.join().unwrap_or(Ok(())).and(got)
            })?;
            let wanted = values(seed(from, thread, round), count);
            if got != wanted || status != (Status { source: from, tag: thread, count }) {
                return Ok(Some(format!("thread {thread} round {round}: got {status:?}")));
            }
        }
        Ok(None)
    })?;
    ground.still_works()
}

/// Whose values a message has.
fn seed(rank: usize, thread: u32, round: usize) -> usize {
    (rank * THREADS as usize + thread as usize) * 1000 + round
}

fn kinds(ground: &Ground<'_>) -> Result<()> {
    let Some(shared) = shared(ground)? else { return Ok(()) };
    let (to, from) = (ground.after(1), ground.before(1));
    ground.equal("rank", shared.rank(), ground.rank());
    ground.equal("size", shared.size(), ground.size());
    on_threads(ground, |thread| {
        let text = |rank: usize| format!("rank {rank} thread {thread}");
        shared.send_obj(&text(shared.rank()), (to, thread))?;
        let (got, status) = shared.recv_obj::<String>((from, thread))?;
        if got != text(from) || status.source != from {
            return Ok(Some(format!("recv_obj: got {got:?} of {status:?}")));
        }
        shared.send(&shared.rank(), (to, 100 + thread))?;
        let (got, status) = shared.recv_one::<usize>((ANY, 100 + thread))?;
        if got != from || status.source != from {
            return Ok(Some(format!("recv_one: got {got} of {status:?}")));
        }
        shared.send(&[1_u8], None)?;
        let (got, _) = shared.recv::<u8>(None)?;
        Ok((!got.is_empty()).then(|| "nobody sent something".to_owned()))
    })?;
    ground.still_works()
}

fn refused(ground: &Ground<'_>) -> Result<()> {
    let Some(shared) = shared(ground)? else { return Ok(()) };
    let nobody = ground.size();
    let no_such_rank = |kind: &ErrorKind| matches!(kind, ErrorKind::InvalidRank { .. });
    ground.refused("send", shared.send(&[1_u8], nobody), no_such_rank);
    ground.refused("recv", shared.recv::<u8>(nobody), no_such_rank);
    if let Some(tag) = ground.max_tag().checked_add(1) {
        let too_large = |kind: &ErrorKind| matches!(kind, ErrorKind::InvalidTag { .. });
        ground.refused("send", shared.send(&[1_u8], (0, tag)), too_large);
    }
    ground.still_works()
}
