//! Which rank a thread works for: its own thread and those of its rayon pool.

use std::{
    cell::RefCell,
    panic::{self, PanicHookInfo},
    sync::{Arc, Mutex, Once, PoisonError},
};

use crate::error::Place;

/// A rank, as its threads know it.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) rank: usize,
    pub(crate) host: String,
    /// What the first panic on one of the rank's threads said, and where.
    panic: Mutex<Option<String>>,
}

thread_local! {
    static ME: RefCell<Option<Arc<Identity>>> = const { RefCell::new(None) };
}

impl Identity {
    pub(crate) fn new(rank: usize, host: String) -> Arc<Self> {
        Arc::new(Self { rank, host, panic: Mutex::new(None) })
    }

    /// The calling thread works for this rank from now on.
    pub(crate) fn assume(self: Arc<Self>) {
        ME.set(Some(self));
    }

    /// What the rank's first panic said.
    pub(crate) fn panic_message(&self) -> String {
        let noted = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        noted.unwrap_or_else(|| "panicked".to_owned())
    }
}

/// Looks at the rank that the calling thread works for.
pub(crate) fn with<R>(look: impl FnOnce(Option<&Identity>) -> R) -> R {
    ME.with_borrow(|me| look(me.as_deref()))
}

/// From now on a panic on a rank's thread is noted for the job's report instead of printed; others are printed as before.
pub(crate) fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let noted =
                ME.try_with(|me| me.try_borrow().ok().as_ref().and_then(|me| (**me).clone()));
            match noted.ok().flatten() {
                Some(identity) => identity.note(info),
                None => before(info),
            }
        }));
    });
}

impl Identity {
    fn note(&self, info: &PanicHookInfo<'_>) {
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or("a value that is no text");
        let place = info.location().map(|at| Place(at).to_string());
        let mut message = format!("panicked: {text}{}", place.unwrap_or_default());
        let backtrace = std::backtrace::Backtrace::capture();
        if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
            message = format!("{message}\n{backtrace}");
        }
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(message);
    }
}
