//! Signals of a user or a batch system: none is lost, whatever goes on when it comes.

use std::{
    fs,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender},
    },
    thread,
};

use nix::sys::signal::{SigSet, Signal};

use super::crew::Event;

/// What a user or a batch system sends.
const HEARD: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGHUP];

/// From now on signals do nothing in this thread and those that it starts, but wait. To suspend this
/// process alone would make all hosts believe that this one is lost.
///
/// # Errors
/// In words.
pub(super) fn block_signals() -> Result<(), String> {
    let mut set = heard();
    set.add(Signal::SIGTSTP);
    set.thread_block().map_err(|error| format!("signals cannot be heard: {error}"))
}

/// Signals, from now on: events of whatever runs, and else kept until it does.
#[derive(Clone, Default)]
pub(super) struct Signals(Arc<Mutex<Heard>>);

#[derive(Default)]
struct Heard {
    by: Option<Sender<Event>>,
    kept: Option<Signal>,
}

impl Signals {
    /// # Errors
    /// In words.
    pub(super) fn hear() -> Result<Self, String> {
        let all = Self::default();
        let signals = all.clone();
        let hears = move || {
            while let Ok(signal) = heard().wait() {
                signals.comes(signal);
            }
        };
        let heard = thread::Builder::new().spawn(hears);
        heard.map_err(|error| format!("signals cannot be heard: {error}"))?;
        Ok(all)
    }

    fn comes(&self, signal: Signal) {
        let mut state = self.state();
        let is_event = state.by.as_ref().is_some_and(|by| by.send(Event::Signal(signal)).is_ok());
        if !is_event {
            state.kept = Some(signal);
        }
    }

    fn state(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on they are events there.
    pub(super) fn are_for(&self, events: Sender<Event>) {
        let mut state = self.state();
        if let Some(signal) = state.kept.take() {
            let _ = events.send(Event::Signal(signal)); // it is there
        }
        state.by = Some(events);
    }

    /// What ran is over: from now on they are kept, and so are those that it has not looked at.
    pub(super) fn are_kept(&self, events: &Receiver<Event>) {
        let mut state = self.state();
        state.by = None;
        for event in events.try_iter() {
            if let Event::Signal(signal) = event {
                state.kept = state.kept.or(Some(signal));
            }
        }
    }

    /// One that came while nothing ran.
    pub(super) fn kept(&self) -> Option<Signal> {
        self.state().kept
    }
}

/// Those that this process was not told to ignore, as by nohup: a blocked signal would be heard even
/// then.
fn heard() -> SigSet {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    HEARD.into_iter().filter(|signal| ignored & 1 << (*signal as u32 - 1) == 0).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_signal_that_nobody_has_looked_at_is_kept() {
        let signals = Signals::default();
        let (sender, events) = mpsc::channel();
        signals.are_for(sender);
        signals.comes(Signal::SIGTERM);
        signals.comes(Signal::SIGINT);
        assert_eq!(signals.kept(), None, "it is an event");
        signals.are_kept(&events);
        assert_eq!(signals.kept(), Some(Signal::SIGTERM));
        // For the next that runs, and there is nobody to hear the next.
        let (sender, events) = mpsc::channel();
        signals.are_for(sender);
        assert!(matches!(events.try_recv(), Ok(Event::Signal(Signal::SIGTERM))));
        assert_eq!(signals.kept(), None);
        signals.are_kept(&events);
        signals.comes(Signal::SIGHUP);
        assert_eq!(signals.kept(), Some(Signal::SIGHUP));
    }
}
