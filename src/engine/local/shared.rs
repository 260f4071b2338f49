//! What all threads of a rank can use at the same time: a mailbox for each rank, under a lock.
//!
//! Threads that wait here are no ranks: whether a message can still come to them is not known, so
//! they take no part in the detection of deadlock. They look every now and then whether the job has
//! failed.

use std::{sync::Arc, time::Duration};

use super::{Job, LocalEngine, parking::Monitor};
use crate::{
    datum::Buffer,
    engine::{
        Context, Label, Rank, Received, SharedEngine, Source, Target, Threads,
        matching::{Key, Queues, Space, Wanted},
    },
    error::{Call, ErrorKind, Fault},
};

/// How long a thread sleeps before it looks whether the job has failed.
const NAP: Duration = Duration::from_millis(20);

/// All messages here are in one space.
const SPACE: Space = Space { context: 0, step: false };

/// The mailboxes of the ranks of a communicator.
pub(super) struct Mailboxes(Box<[Mailbox]>);

type Mailbox = Monitor<Queues<Letter, ()>>;

struct Letter {
    label: Label,
    bytes: Box<[u8]>,
}

/// One rank's place among the mailboxes.
struct SharedHandle {
    job: Arc<Job>,
    mailboxes: Arc<Mailboxes>,
    me: Rank,
    /// In the world.
    rank: usize,
}

impl Threads for LocalEngine {
    fn shared(&self, context: Context, seq: u64) -> Result<Arc<dyn SharedEngine>, Fault> {
        open(self, context, seq)
    }
}

fn open(engine: &LocalEngine, context: Context, seq: u64) -> Result<Arc<dyn SharedEngine>, Fault> {
    engine.job.parking.check()?;
    let members = engine.members(context)?;
    let size = members.ranks.len();
    let mailboxes =
        engine.job.mailboxes.join((members.context, seq), size, || Mailboxes::new(size));
    let (job, me, rank) = (Arc::clone(&engine.job), members.me, engine.rank);
    Ok(Arc::new(SharedHandle { job, mailboxes, me, rank }))
}

impl Mailboxes {
    fn new(ranks: usize) -> Self {
        Self((0..ranks).map(|_| Mailbox::new(Queues::new())).collect())
    }

    fn mailbox(&self, rank: Rank) -> Result<&Mailbox, Fault> {
        let (rank, size) = (rank.index(), self.0.len());
        self.0.get(rank).ok_or_else(|| ErrorKind::InvalidRank { rank, size }.into())
    }
}

impl SharedEngine for SharedHandle {
    fn send(&self, _call: Call, to: &Target, bytes: &[u8]) -> Result<(), Fault> {
        self.job.parking.check()?;
        let mailbox = self.mailboxes.mailbox(to.rank)?;
        let key = Key { space: SPACE, source: self.me, tag: to.tag };
        let letter = Letter { label: to.label, bytes: bytes.into() };
        mailbox.lock().keep(key, letter);
        // Which of the threads wants it is not known.
        mailbox.notify_all();
        Ok(())
    }

    fn recv(
        &self,
        call: Call,
        from: &Source,
        room: fn(usize) -> Box<dyn Buffer>,
    ) -> Result<(Box<dyn Buffer>, Received), Fault> {
        let mailbox = self.mailboxes.mailbox(self.me)?;
        let wanted = Wanted { space: SPACE, choice: from.choice };
        let mut letters = mailbox.lock();
        let mut waiting = None;
        let (key, letter) = loop {
            if let Some(found) = letters.take_unexpected(&wanted) {
                break found;
            }
            self.job.parking.check()?;
            let watch = self.job.watch.as_ref();
            waiting = waiting.or_else(|| watch.map(|watch| watch.thread_waits(self.rank, call)));
            letters = mailbox.wait(letters, NAP);
        };
        drop((letters, waiting));
        from.label.admits(&letter.label, key.source)?;
        let bytes = letter.bytes.len();
        let mut buffer = room(bytes);
        buffer.bytes_mut()[..bytes].copy_from_slice(&letter.bytes);
        Ok((buffer, Received { rank: key.source, tag: key.tag, bytes }))
    }
}
