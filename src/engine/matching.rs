//! Which message meets which receive: the rules of MPI 4.1 §3.5, as plain data.
//!
//! An arriving message takes the *oldest* receive that wants it, a new receive the *oldest* message
//! that it wants; so messages between two ranks that could be taken by the same receive are never
//! overtaken.

use std::collections::VecDeque;

use super::{Choice, Rank, Tag};

/// What an arrived message is matched by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// The communicator's message space.
    pub(crate) space: Space,
    pub(crate) source: Rank,
    pub(crate) tag: Tag,
}

/// A job-wide number for a communicator, and whether the message is a step of a collective.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) context: u32,
    pub(crate) step: bool,
}

/// What a receive wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) space: Space,
    pub(crate) choice: Choice,
}

impl Wanted {
    #[inline]
    pub(crate) fn fits(&self, key: &Key) -> bool {
        self.space == key.space && self.choice.fits(key.source, key.tag)
    }
}

/// The two queues of one receiving rank: messages that nobody wanted yet, and receives that nobody
/// served yet.
pub(crate) struct Queues<M, R> {
    unexpected: VecDeque<(Key, M)>,
    posted: VecDeque<(Wanted, R)>,
}

impl<M, R> Queues<M, R> {
    pub(crate) fn new() -> Self {
        Self { unexpected: VecDeque::new(), posted: VecDeque::new() }
    }

    /// The place of the receive that a message with `key` must go to.
    pub(crate) fn find_posted(&self, key: &Key) -> Option<usize> {
        self.posted.iter().position(|(wanted, _)| wanted.fits(key))
    }

    /// Takes the receive out that has been found there.
    pub(crate) fn take_posted(&mut self, place: usize) -> Option<R> {
        self.posted.remove(place).map(|(_, receive)| receive)
    }

    /// Whether a receive waits for a message.
    pub(crate) fn has_posted(&self) -> bool {
        !self.posted.is_empty()
    }

    /// Keeps a message that no posted receive wants.
    pub(crate) fn keep(&mut self, key: Key, message: M) {
        self.unexpected.push_back((key, message));
    }

    /// The message that a new receive must take.
    pub(crate) fn take_unexpected(&mut self, wanted: &Wanted) -> Option<(Key, M)> {
        let at = self.unexpected.iter().position(|(key, _)| wanted.fits(key))?;
        self.unexpected.remove(at)
    }

    /// All messages that nobody wanted yet, the oldest first.
    pub(crate) fn unexpected(&self) -> impl Iterator<Item = (&Key, &M)> {
        self.unexpected.iter().map(|(key, message)| (key, message))
    }

    /// Posts a receive that no message has come for.
    pub(crate) fn post(&mut self, wanted: Wanted, receive: R) {
        self.posted.push_back((wanted, receive));
    }

    /// Takes back a posted receive; `false` if a message has met it already.
    pub(crate) fn withdraw_posted(&mut self, is_it: impl Fn(&R) -> bool) -> bool {
        let at = self.posted.iter().position(|(_, receive)| is_it(receive));
        at.is_some_and(|at| self.posted.remove(at).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACE: Space = Space { context: 0, step: false };

    fn key(source: u32, tag: u32) -> Key {
        Key { space: SPACE, source: Rank(source), tag: Tag(tag) }
    }

    fn wanted(source: Option<u32>, tag: Option<u32>) -> Wanted {
        Wanted { space: SPACE, choice: Choice::new(source.map(Rank), tag.map(Tag)) }
    }

    #[test]
    fn the_oldest_message_goes_to_a_receive() {
        let mut queues = Queues::<&str, ()>::new();
        queues.keep(key(1, 7), "first");
        queues.keep(key(1, 7), "second");
        queues.keep(key(2, 8), "other");
        assert_eq!(queues.take_unexpected(&wanted(None, Some(8))).unwrap().1, "other");
        assert_eq!(queues.take_unexpected(&wanted(Some(1), None)).unwrap().1, "first");
        assert_eq!(queues.take_unexpected(&wanted(None, None)).unwrap().1, "second");
        assert!(queues.take_unexpected(&wanted(None, None)).is_none());
    }

    #[test]
    fn the_oldest_receive_gets_a_message() {
        let mut queues = Queues::<(), &str>::new();
        queues.post(wanted(Some(2), None), "from 2");
        queues.post(wanted(None, Some(7)), "tag 7");
        queues.post(wanted(None, None), "anything");
        let mut take = |key| queues.find_posted(&key).and_then(|at| queues.take_posted(at));
        assert_eq!(take(key(1, 7)), Some("tag 7"));
        assert_eq!(take(key(2, 7)), Some("from 2"));
        assert_eq!(take(key(2, 7)), Some("anything"));
        assert_eq!(take(key(2, 7)), None);
    }

    #[test]
    fn spaces_never_meet() {
        let mut queues = Queues::<(), ()>::new();
        queues.keep(Key { space: Space { context: 1, step: false }, ..key(0, 0) }, ());
        queues.keep(Key { space: Space { context: 0, step: true }, ..key(0, 0) }, ());
        assert!(queues.take_unexpected(&wanted(None, None)).is_none());
        assert_eq!(queues.unexpected().count(), 2);
    }

    #[test]
    fn what_was_matched_cannot_be_withdrawn() {
        let mut queues = Queues::<(), u8>::new();
        queues.post(wanted(None, None), 1);
        assert!(queues.withdraw_posted(|&receive| receive == 1));
        assert!(!queues.withdraw_posted(|&receive| receive == 1));
        assert!(!queues.has_posted());
    }
}
