//! The loss of ranks, where the library survives it: Open MPI 5 started by `mpirun --with-ft ulfm`
//! (User-Level Failure Mitigation).
//!
//! Calls that need a lost rank end with an error of a class of its own, here
//! [`ErrorKind::RankLost`]. Whoever has seen it *revokes* the communicators that it waits on with
//! others, whose calls then end in the same way; all that are left make a communicator without the
//! lost ([`MpiEngine::without_lost`]), and a new engine on it. The old engine is dropped as that of
//! a failing job is: nothing on it is used or freed.
//!
//! MPICH has functions of these names, and never tells of a lost rank.

use std::{
    env,
    ffi::{CString, OsString, c_char, c_int},
    os::unix::ffi::OsStringExt,
    path::PathBuf,
    ptr::null_mut,
    sync::atomic::{AtomicBool, Ordering},
};

use mpi::{environment::library_version, ffi};

use super::{
    CommPair, MpiEngine,
    communicator::Communicator,
    dynamic::dynamic,
    init::Further,
    progress,
    raw::{blank_status, check, made},
};
use crate::{
    engine::Context,
    error::{ErrorKind, Fault},
    process,
};

/// Whether this job survives losses: errors are told apart only then.
static SURVIVES: AtomicBool = AtomicBool::new(false);

/// Whether this process has seen a loss since it was last asked to forget.
static SEEN: AtomicBool = AtomicBool::new(false);

/// Open MPI's classes `MPIX_ERR_PROC_FAILED`, `MPIX_ERR_PROC_FAILED_PENDING`, `MPIX_ERR_REVOKED`.
/// (The bindings may be those of an Open MPI without them.)
const LOST: std::ops::RangeInclusive<c_int> = 75..=77;
/// Of a receive from any rank, which goes on.
const PENDING: c_int = 76;

/// From now on losses are survived, on all ranks.
pub(super) fn survive() {
    process::note_parent();
    SURVIVES.store(true, Ordering::Relaxed);
}

/// Whether this code tells that a rank was lost, or that another one knows of a loss.
pub(super) fn is_loss(code: c_int) -> bool {
    let loss = SURVIVES.load(Ordering::Relaxed) && LOST.contains(&class(code));
    if loss {
        SEEN.store(true, Ordering::Relaxed);
    }
    loss
}

fn class(code: c_int) -> c_int {
    let mut class = 0;
    // SAFETY: `class` is an int to write to.
    let told = unsafe { ffi::MPI_Error_class(code, &raw mut class) };
    if told == ffi::MPI_SUCCESS as c_int { class } else { -1 }
}

/// The code of an operation that was waited for or tested; one that goes on although it has come
/// with the news of a loss is taken back first: nobody waits for it any more, and MPI must not write
/// into its memory.
#[inline(always)]
pub(super) fn over(code: c_int, request: &mut ffi::MPI_Request) -> c_int {
    if code != ffi::MPI_SUCCESS as c_int && SURVIVES.load(Ordering::Relaxed) {
        take_back(code, request);
    }
    code
}

#[cold]
fn take_back(code: c_int, request: &mut ffi::MPI_Request) {
    if class(code) != PENDING {
        return;
    }
    // SAFETY: a live request of a receive.
    unsafe { ffi::MPI_Cancel(&raw mut *request) };
    loop {
        let (mut done, mut status) = (0, blank_status());
        // SAFETY: as above; it completes, having been cancelled or met by a message.
        let code = unsafe { ffi::MPI_Test(&raw mut *request, &raw mut done, &raw mut status) };
        if done != 0 || (code != ffi::MPI_SUCCESS as c_int && class(code) != PENDING) {
            return;
        }
        progress::rest();
    }
}

/// Ends the job, whose launcher ends no others when one process has ended; this one, too.
pub(super) fn end_launcher(code: u8) -> ! {
    process::end_parent();
    progress::rest_long();
    process::leave(code)
}

/// A function of the table that is there wherever losses are survived.
fn there<F>(function: Option<F>) -> Result<F, Fault> {
    let what = "the loss of a rank is not survived by this MPI";
    let how = "use Open MPI 5, with mpirun --with-ft ulfm";
    function.ok_or_else(|| ErrorKind::Unsupported { what, how }.into())
}

impl MpiEngine {
    /// Whether this process's library and launcher survive the loss of a rank. Before MPI is
    /// initialised, too.
    pub(crate) fn could_survive_losses() -> bool {
        let on = env::var("OMPI_MCA_mpi_ft_enable");
        let on = on.is_ok_and(|on| ["1", "true", "yes"].contains(&on.as_str()));
        let library = library_version().unwrap_or_default();
        let version = library.strip_prefix("Open MPI v").and_then(|text| text.split('.').next());
        let known =
            version.and_then(|major| major.parse().ok()).is_some_and(|major: u32| major >= 5);
        let functions = dynamic();
        let there = functions.comm_revoke.is_some()
            && functions.comm_is_revoked.is_some()
            && functions.comm_shrink.is_some()
            && functions.comm_agree.is_some()
            && functions.comm_failure_ack.is_some();
        on && known && there
    }

    /// Whether the job can go on without a lost rank.
    pub(crate) fn survives_losses(&self) -> bool {
        self.basis.survives
    }

    /// Whether this process is one of a job that goes on without a lost rank. `MPI_Abort` ends only
    /// the process that calls it then (Open MPI 5.0.11), of which the others hear nothing.
    pub(crate) fn job_survives_losses() -> bool {
        SURVIVES.load(Ordering::Relaxed)
    }

    /// Whether this process has seen a loss since [`forget_losses`](Self::forget_losses).
    pub(crate) fn has_seen_loss() -> bool {
        SEEN.load(Ordering::Relaxed)
    }

    pub(crate) fn forget_losses() {
        SEEN.store(false, Ordering::Relaxed);
    }

    /// Whether this process was started beside a running job.
    pub(crate) fn is_newcomer() -> Result<bool, Fault> {
        Ok(Communicator::parent()?.map(std::mem::forget).is_some())
    }

    /// As [`finish`](Self::finish), but MPI goes on, and nothing is freed.
    pub(crate) fn settle(&self) -> Result<(), Fault> {
        self.shared.borrow().iter().try_for_each(|(shared, _)| shared.close())?;
        let ends = self.ends.borrow();
        let Some(ends) = &*ends else { return Err(ErrorKind::Closed.into()) };
        let waiting = self.waiting();
        // SAFETY: a live communicator, which nothing else is called on.
        check(unsafe { ffi::MPI_Barrier(ends.raw()) })?;
        drop(waiting);
        // All programs have returned: what is under way now is received here, or never.
        self.abandon_staged();
        self.drain()
    }

    /// Whether a rank of this world has seen a loss, or has left it.
    pub(crate) fn is_revoked(&self) -> bool {
        let revoked = self.pair(Context::WORLD).and_then(|world| world.pt2pt.is_revoked());
        revoked.unwrap_or(true)
    }

    /// For waits in which the library tells of no loss.
    ///
    /// # Errors
    /// If a rank of this world is lost.
    pub(super) fn check_losses(&self) -> Result<(), Fault> {
        if self.basis.survives { self.pair(Context::WORLD)?.pt2pt.look() } else { Ok(()) }
    }

    /// This rank leaves the world for good: the calls of all others end with an error, those that
    /// wait, too.
    pub(crate) fn revoke(&self) {
        let (comms, retired) = (self.comms.borrow(), self.retired.borrow());
        // Others may wait also on what the program has dropped on its way out.
        for pair in comms.iter().flatten().chain(&*retired) {
            pair.revoke();
        }
        for (_, comm) in &*self.shared.borrow() {
            comm.revoke();
        }
        self.ends.borrow().iter().for_each(Communicator::revoke);
    }

    /// The bits that all ranks of this world have which are left: the same ones for all of them.
    ///
    /// # Collective
    /// All ranks that are left; also in a world that is revoked.
    pub(crate) fn agree(&self, bits: u32) -> Result<u32, Fault> {
        self.pair(Context::WORLD)?.pt2pt.agree(bits)
    }

    /// An engine for the ranks of this world that are left, in their order.
    ///
    /// # Collective
    /// As [`agree`](Self::agree).
    pub(crate) fn without_lost(&self) -> Result<Self, Fault> {
        self.on_those_left(self.pair(Context::WORLD)?.pt2pt.without_lost()?)
    }

    /// An engine for the ranks of a world, which all of them have; or of those that are left, where some
    /// are lost meanwhile.
    fn on_those_left(&self, mut world: Communicator) -> Result<Self, Fault> {
        loop {
            let further = Further::of(&world);
            if further.is_err() {
                world.revoke(); // others may wait for this rank
            }
            let all_have = world.agree(u32::from(further.is_ok()))? == 1;
            match further {
                Ok(further) if all_have => return self.on(world, further),
                Err(fault) if !matches!(*fault, ErrorKind::RankLost { .. }) => return Err(fault),
                further => std::mem::forget(further), // of a broken world
            }
            let left = world.without_lost()?;
            std::mem::forget(std::mem::replace(&mut world, left));
        }
    }

    /// Waits until this world is revoked, or all `who` could do that are lost; for a rank with nothing
    /// to do.
    pub(crate) fn await_revoked(&self, who: &[usize]) -> Result<(), Fault> {
        let world = self.pair(Context::WORLD)?;
        while !world.pt2pt.is_revoked()? {
            // The library sees what has happened when it is called.
            if world.pt2pt.look().is_err() {
                let lost = world.pt2pt.lost()?;
                if who.iter().all(|rank| lost.contains(rank)) {
                    return Ok(());
                }
            }
            progress::rest();
        }
        Ok(())
    }

    /// An engine for the ranks of this world and, behind them, as many new processes, which run the
    /// same program with the same arguments.
    ///
    /// # Collective
    /// All ranks; the new ones call [`with_those_before`](Self::with_those_before).
    ///
    /// # Errors
    /// If no process can be started, on all ranks; new ones that were end by themselves.
    pub(crate) fn with_newcomers(&self, count: usize) -> Result<Self, Fault> {
        let grown = self.pair(Context::WORLD)?.pt2pt.spawn(count).and_then(|new| new.merge(false));
        let all_have = self.agree(u32::from(grown.is_ok()))? == 1;
        let grown = grown?;
        if all_have {
            return self.on_those_left(grown);
        }
        grown.revoke(); // the new ones may wait for this rank
        std::mem::forget(grown);
        let cause = "another rank has started no process".to_owned();
        Err(ErrorKind::RankLost { rank: None, cause }.into())
    }

    /// An engine for those that have started this process beside a running job, and it; `None` if
    /// nobody did.
    ///
    /// # Collective
    /// All of them.
    pub(crate) fn with_those_before(&self) -> Result<Option<Self>, Fault> {
        let Some(parent) = Communicator::parent()? else { return Ok(None) };
        self.on_those_left(parent.merge(true)?).map(Some)
    }

    /// An engine for the ranks that say so, in the order of `place`; none for the others.
    ///
    /// # Collective
    /// All ranks.
    ///
    /// # Errors
    /// Where a rank is lost, perhaps on some of them only.
    pub(crate) fn part(&self, place: Option<usize>) -> Result<Option<Self>, Fault> {
        let (group, key) = (place.map(|_| 0), place.unwrap_or(0) as u32);
        let part = self.pair(Context::WORLD)?.pt2pt.split(group, key);
        // Who has none cannot tell the others that it has none.
        let all_have = self.agree(u32::from(part.is_ok()))? == 1;
        let Some(part) = part? else { return Ok(None) };
        let further = if all_have { Further::of(&part) } else { Err(ErrorKind::Closed.into()) };
        match further {
            Ok(further) => self.on(part, further).map(Some),
            Err(fault) => {
                part.revoke(); // others may wait for this rank
                std::mem::forget(part);
                Err(fault)
            }
        }
    }
}

impl CommPair {
    fn revoke(&self) {
        self.pt2pt.revoke();
        self.coll.revoke();
    }
}

/// A group of our own.
struct Group(ffi::MPI_Group);

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: a live group, freed once.
        unsafe { ffi::MPI_Group_free(&raw mut self.0) };
    }
}

impl Communicator {
    fn revoke(&self) {
        let Some(revoke) = dynamic().comm_revoke else { return };
        // SAFETY: a live communicator. Of a failure nobody needs to hear: others find the loss
        // themselves, or the time for it runs out.
        unsafe { revoke(self.raw()) };
    }

    fn is_revoked(&self) -> Result<bool, Fault> {
        let is_revoked = there(dynamic().comm_is_revoked)?;
        // SAFETY: a live communicator; one int is written on success.
        let revoked = unsafe { made(|revoked| is_revoked(self.raw(), revoked)) }?;
        Ok(revoked != 0)
    }

    /// The ranks that are known to be lost; none if the library cannot say.
    fn lost(&self) -> Result<Vec<usize>, Fault> {
        let Some(get_failed) = dynamic().comm_get_failed else { return Ok(Vec::new()) };
        // SAFETY: a live communicator; each call writes a group on success, which is freed once.
        let (lost, all) = unsafe {
            let lost = Group(made(|group| get_failed(self.raw(), group))?);
            (lost, Group(made(|group| ffi::MPI_Comm_group(self.raw(), group))?))
        };
        // SAFETY: a live group; an int is written on success.
        let count: c_int = unsafe { made(|count| ffi::MPI_Group_size(lost.0, count)) }?;
        let places: Vec<c_int> = (0..count).collect();
        let mut ranks = vec![-1; places.len()];
        // SAFETY: live groups; so many ranks are read, and as many written.
        check(unsafe {
            let (from, into) = (places.as_ptr(), ranks.as_mut_ptr());
            ffi::MPI_Group_translate_ranks(lost.0, count, from, all.0, into)
        })?;
        Ok(ranks.into_iter().filter_map(|rank| usize::try_from(rank).ok()).collect())
    }

    /// Looks for a message of any kind, and leaves it where it is.
    fn look(&self) -> Result<(), Fault> {
        let (mut found, mut status) = (0, blank_status());
        // SAFETY: a live communicator; an int and a status are written.
        check(unsafe {
            let (any_rank, any_tag) = (ffi::RSMPI_ANY_SOURCE, ffi::RSMPI_ANY_TAG);
            ffi::MPI_Iprobe(any_rank, any_tag, self.raw(), &raw mut found, &raw mut status)
        })
    }

    /// Starts this program again, so many times, with its arguments. The other ranks are those of the
    /// new processes.
    fn spawn(&self, count: usize) -> Result<Self, Fault> {
        let text = |word: OsString| CString::new(word.into_vec()).unwrap_or_default();
        let program = env::current_exe().map_or_else(|_| OsString::new(), PathBuf::into_os_string);
        let program = text(program);
        let words: Vec<CString> = env::args_os().skip(1).map(text).collect();
        let mut words: Vec<*mut c_char> =
            words.iter().map(|word| word.as_ptr().cast_mut()).collect();
        words.push(null_mut());
        let mut codes = vec![0; count];
        // SAFETY: a live communicator; names, words (with a null behind the last) and room for the
        // codes live until the call returns, and are not written to. The new communicator is written
        // on success.
        unsafe {
            Self::made_by(|made| {
                let (name, words, info) =
                    (program.as_ptr(), words.as_mut_ptr(), ffi::RSMPI_INFO_NULL);
                let codes = codes.as_mut_ptr();
                ffi::MPI_Comm_spawn(name, words, count as c_int, info, 0, self.raw(), made, codes)
            })
        }
    }

    /// The processes that have started this one beside a running job.
    fn parent() -> Result<Option<Self>, Fault> {
        // SAFETY: a communicator is written on success, or the null one.
        let parent = unsafe { made(|made| ffi::MPI_Comm_get_parent(made)) }?;
        // SAFETY: a constant of the library.
        if parent == unsafe { ffi::RSMPI_COMM_NULL } {
            return Ok(None);
        }
        // SAFETY: nobody else has asked for it.
        unsafe {
            Self::made_by(|made| {
                made.write(parent);
                ffi::MPI_SUCCESS as c_int
            })
        }
        .map(Some)
    }

    /// One for both sides of this one, whose others are another side's; `last` come last.
    fn merge(self, last: bool) -> Result<Self, Fault> {
        // SAFETY: a live communicator between two sides; the new one is written on success.
        let merged = unsafe {
            Self::made_by(|made| ffi::MPI_Intercomm_merge(self.raw(), c_int::from(last), made))
        };
        std::mem::forget(self); // it may be broken by now
        merged
    }

    fn agree(&self, bits: u32) -> Result<u32, Fault> {
        let (ack, agree) = (there(dynamic().comm_failure_ack)?, there(dynamic().comm_agree)?);
        let mut all = bits.cast_signed();
        // SAFETY: a live communicator, and an int that lives until the call returns.
        let code = unsafe {
            ack(self.raw()); // those known to be lost are no error any more
            agree(self.raw(), &raw mut all)
        };
        // The answer counts also where it comes with the news of a loss.
        if !is_loss(code) {
            check(code)?;
        }
        Ok(all.cast_unsigned())
    }

    /// One for the ranks that are left. It succeeds on all of them; but while further ones are lost.
    fn without_lost(&self) -> Result<Self, Fault> {
        let shrink = there(dynamic().comm_shrink)?;
        loop {
            // SAFETY: a live communicator; the new one is written on success.
            let left = unsafe { Self::made_by(|made| shrink(self.raw(), made)) };
            match left {
                Err(fault) if matches!(*fault, ErrorKind::RankLost { .. }) => progress::rest(),
                left => return left,
            }
        }
    }
}
