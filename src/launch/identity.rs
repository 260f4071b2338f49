//! Which rank a thread works for: its own thread and those of its rayon pool; and what their panics
//! say.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    cell::{Cell, RefCell},
    collections::VecDeque,
    mem,
    panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind},
    sync::{
        Arc, Mutex, Once, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::print_line;
use crate::{error::Place, usage::Threads};

/// So many panics of a rank are remembered: which of them ends the job is known only when it has
/// been caught.
const REMEMBERED: usize = 16;

/// A rank, as its threads know it.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Another one where ranks of `mpi` are lost, and others take their places.
    rank: AtomicUsize,
    /// Whether another process may have been this rank.
    inherited: AtomicBool,
    pub(crate) host: String,
    voice: Voice,
    panics: Mutex<VecDeque<Panic>>,
    /// Whether a panic has been told.
    spoke: AtomicBool,
    threads: Arc<Threads>,
}

/// Who tells of a rank's panics, at once: one that aborts the process leaves no other time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Voice {
    /// The panic hook that the process has, as of any other thread's.
    Hook,
    /// The launch, with rank and host, unless the program has a hook of its own. The first time
    /// after a pause: what all ranks find at once is said by the first of them, which ends the
    /// others before they speak.
    Launch(Duration),
}

#[derive(Debug)]
struct Panic {
    text: Option<String>,
    /// In words, with its place in the source.
    message: String,
    told: bool,
}

/// A caught panic in words, and whether it has been told.
pub(crate) struct Words {
    pub(crate) text: String,
    pub(crate) told: bool,
}

thread_local! {
    static ME: RefCell<Option<Arc<Identity>>> = const { RefCell::new(None) };
    /// The rank again, for the end of the process, when what needs to be dropped is gone.
    static RANK: Cell<Option<usize>> = const { Cell::new(None) };
    /// Whether it runs the program of the process's rank.
    #[cfg(feature = "mpi")]
    static OWN: Cell<bool> = const { Cell::new(false) };
}

/// The rank that all threads of this process work for, where it has one only: on `mpi`.
static PROCESS: OnceLock<Arc<Identity>> = OnceLock::new();

impl Identity {
    pub(crate) fn new(rank: usize, host: String, voice: Voice) -> Arc<Self> {
        let (rank, inherited) = (AtomicUsize::new(rank), AtomicBool::new(false));
        let (spoke, threads) = (AtomicBool::new(false), Arc::default());
        Arc::new(Self { rank, inherited, host, voice, panics: Mutex::default(), spoke, threads })
    }

    pub(crate) fn rank(&self) -> usize {
        self.rank.load(Ordering::Relaxed)
    }

    /// Whether another process may have been this rank before.
    pub(crate) fn has_inherited(&self) -> bool {
        self.inherited.load(Ordering::Relaxed)
    }

    /// The threads that work for this rank work for another one from now on, which another process
    /// may have been before.
    #[cfg(feature = "mpi")]
    pub(crate) fn become_rank(&self, rank: usize, inherited: bool) {
        self.rank.store(rank, Ordering::Relaxed);
        self.inherited.store(inherited, Ordering::Relaxed);
        RANK.set(Some(rank));
    }

    /// The calling thread works for this rank from now on.
    pub(crate) fn assume(self: Arc<Self>) {
        RANK.set(Some(self.rank()));
        self.threads.join();
        ME.set(Some(self));
    }

    /// The calling thread does, and every thread of the process that works for no other rank.
    #[cfg(feature = "mpi")]
    pub(crate) fn assume_process(self: Arc<Self>) {
        // A process has one rank: `run` is called once.
        let _ = PROCESS.set(Arc::clone(&self));
        OWN.set(true);
        self.assume();
    }

    /// What a panic that was caught on the rank said. Drops its payload.
    pub(crate) fn words(&self, payload: Box<dyn Any + Send>) -> Words {
        let text = text(&*payload);
        let mut panics = self.panics.lock().unwrap_or_else(PoisonError::into_inner);
        // Others may have been caught by the program. One that was resumed may have never met the
        // hook.
        let noted = panics.iter().rposition(|panic| panic.text.as_deref() == text);
        let words = match noted.and_then(|noted| panics.remove(noted)) {
            Some(Panic { message, told, .. }) => Words { text: message, told },
            None => Words { text: message(text, ""), told: false },
        };
        drop(panics);
        discard(payload);
        words
    }

    /// Called by the hook.
    fn note(&self, info: &PanicHookInfo<'_>, tell: bool) {
        let text = text(info.payload());
        let place = info.location().map(|at| Place(at).to_string());
        let mut message = message(text, &place.unwrap_or_default());
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured && not_printed(text).is_none() {
            message = format!("{message}\n{backtrace}");
        }
        let told = tell && self.tell(&message);
        let mut panics = self.panics.lock().unwrap_or_else(PoisonError::into_inner);
        panics.push_back(Panic { text: text.map(str::to_owned), message, told });
        if panics.len() > REMEMBERED {
            panics.pop_front();
        }
    }

    /// Tells of a panic, unless a rank of this process has just said the same.
    fn tell(&self, message: &str) -> bool {
        static LAST: Mutex<String> = Mutex::new(String::new());
        let Voice::Launch(pause) = self.voice else { return false };
        if !self.spoke.swap(true, Ordering::Relaxed) {
            thread::sleep(pause);
        }
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        let new = *last != message;
        if new {
            message.clone_into(&mut last);
            print_line(&format!("error: rank {} on {}: {message}", self.rank(), self.host));
        }
        new
    }
}

fn message(text: Option<&str>, place: &str) -> String {
    if let Some(why) = not_printed(text) {
        return format!("cannot print to standard output: {why}");
    }
    format!("panicked: {}{place}", text.unwrap_or("a value that is no text"))
}

/// Why `println!` has failed, if this is how it says so: no fault of the program's.
fn not_printed(text: Option<&str>) -> Option<&str> {
    text?.strip_prefix("failed printing to stdout: ")
}

fn text(payload: &(dyn Any + Send)) -> Option<&str> {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}

/// Drops what the program has made, whose `Drop` may panic.
pub(crate) fn discard<T>(value: T) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        mem::forget(payload); // so may its own
    }
}

/// Looks at the rank that the calling thread works for.
pub(crate) fn with<R>(look: impl FnOnce(Option<&Identity>) -> R) -> R {
    ME.with_borrow(|me| look(me.as_deref().or_else(|| PROCESS.get().map(|me| &**me))))
}

/// The rank that the calling thread works for by itself, also while the thread ends.
pub(crate) fn rank() -> Option<usize> {
    RANK.get()
}

/// The rank that all threads of this process work for, if it has one only.
pub(crate) fn process_rank() -> Option<usize> {
    PROCESS.get().map(|me| me.rank())
}

/// The calling thread may end the process.
pub(crate) fn resign() {
    RANK.set(None);
}

/// Whether the calling thread runs the program of the process's rank.
#[cfg(feature = "mpi")]
pub(crate) fn is_own_thread() -> bool {
    OWN.get()
}

/// From now on a panic on a rank's thread is noted for the job's report, and told; others are as
/// before.
pub(crate) fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        let standard = panic::take_hook(); // since none is set now
        // Both have no data, or are not the same; of std's one there is one.
        #[allow(ambiguous_wide_pointer_comparisons)]
        let own = !std::ptr::eq(&raw const *before, &raw const *standard);
        panic::set_hook(Box::new(move |info| {
            let mine = ME.try_with(|me| me.try_borrow().ok().and_then(|me| (*me).clone()));
            let Some(me) = mine.ok().flatten().or_else(|| PROCESS.get().cloned()) else {
                return before(info);
            };
            let launch_tells = matches!(me.voice, Voice::Launch(_)) && !own;
            if !launch_tells {
                before(info);
            }
            me.note(info, launch_tells);
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn somebody() -> Arc<Identity> {
        Identity::new(0, "here".to_owned(), Voice::Hook)
    }

    #[test]
    fn the_panic_that_was_caught_is_the_one_that_is_told() {
        thread::spawn(|| {
            note_panics();
            let me = somebody();
            Arc::clone(&me).assume();
            let _ = catch_unwind(|| panic!("expected"));
            let payload = catch_unwind(|| panic!("number {}", 7)).unwrap_err();
            let _ = catch_unwind(|| panic!("expected"));
            let words = me.words(payload).text;
            assert!(words.starts_with("panicked: number 7 (") && words.contains("identity.rs:"));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_payload_that_met_no_hook_keeps_its_text() {
        let me = somebody();
        assert_eq!(me.words(Box::new("resumed")).text, "panicked: resumed");
        assert_eq!(me.words(Box::new("owned".to_owned())).text, "panicked: owned");
        assert_eq!(me.words(Box::new(7)).text, "panicked: a value that is no text");
    }

    #[test]
    fn what_panics_when_it_is_dropped_is_dropped() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic::panic_any(Bomb)
            }
        }
        discard(Bomb);
        assert!(somebody().words(Box::new(Bomb)).text.ends_with("no text"));
    }
}
