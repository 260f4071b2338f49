//! Who comes in: the coordinator's listener, and a thread for each connection.
//!
//! A stranger has one deadline for TLS, WebSocket and token together, and messages of a few
//! kilobytes; strangers are few at a time. Only who has shown the token is heard by the coordinator.

use std::{
    net::{TcpListener, TcpStream, ToSocketAddrs},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel},
    },
    thread::{Builder, Scope},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags},
    sys::resource::{Resource, getrlimit, setrlimit},
};
use rustls::{ServerConfig, ServerConnection};

use super::{
    Problem,
    link::{Link, Sleeper, Waker, wait_for, waker},
    messages::{FromWorker, HELLO_BYTES, Hello, MOST_SLOTS, ROOM, RunKey, ToWorker, VERSION},
    state::MemberId,
    token::Token,
};

/// How long a stranger may take to show the token.
const INTRODUCTION: Duration = Duration::from_secs(5);
/// Strangers at a time.
const MOST_STRANGERS: usize = 64;
/// How often the listener, and a connection that cannot get rid of something, look whether they are
/// still wanted.
const GLANCE: Duration = Duration::from_millis(50);
const STACK_BYTES: usize = 512 << 10;
/// Messages that a member has not taken, at most: tasks for all of its slots twice, as much again that
/// was taken note of or withdrawn, and some.
const MOST_WAITING: usize = 5 * MOST_SLOTS;
/// Messages of a member that are heard before it is looked whether it hears.
const AT_ONCE: usize = 256;

/// What the coordinator hears.
pub(super) enum Heard {
    /// A worker has shown the token.
    Joined {
        worker: u128,
        name: String,
        slots: usize,
        holds: Vec<(u64, bool)>,
        outbox: Outbox,
    },
    Said(FromWorker),
    Gone,
}

/// What the coordinator has to say to a member. When it is dropped the connection ends, after what
/// is in it has gone out.
pub(super) struct Outbox {
    messages: Sender<ToWorker>,
    waiting: Arc<AtomicUsize>,
    waker: Waker,
}

impl Outbox {
    pub(super) fn say(&self, message: ToWorker) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // Who is gone is heard of.
        let _ = self.messages.send(message);
        self.waker.wake();
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        // The sender must be gone when the other side wakes.
        self.messages = channel().0;
        self.waker.wake();
    }
}

/// The other end of an outbox.
struct Outgoing {
    messages: Receiver<ToWorker>,
    waiting: Arc<AtomicUsize>,
}

pub(super) struct Door {
    pub(super) listener: TcpListener,
    pub(super) config: Arc<ServerConfig>,
    pub(super) token: Token,
    pub(super) farm: String,
    pub(super) run: RunKey,
    pub(super) lease: Duration,
    pub(super) most_bytes: usize,
    pub(super) most_connections: usize,
    /// The coordinator has ended.
    pub(super) closed: Arc<AtomicBool>,
    connections: AtomicUsize,
    strangers: AtomicUsize,
    next: AtomicU64,
}

/// Listens at an address that is named: not on every network that there is.
pub(super) fn listen(address: &str) -> Result<TcpListener, Problem> {
    let of_nobody = |error| Problem::Address(address.to_owned(), error);
    let addresses: Vec<_> = address.to_socket_addrs().map_err(of_nobody)?.collect();
    if addresses.iter().any(|address| address.ip().is_unspecified()) {
        return Err(Problem::ListensEverywhere(address.to_owned()));
    }
    let listen = || {
        let listener = TcpListener::bind(&addresses[..])?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    listen().map_err(|error| Problem::Listen { address: address.to_owned(), error })
}

/// Lets this process have as many descriptors as it may: a connection needs three, and the usual
/// limit is not for so many.
pub(super) fn raise_descriptors() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Else who is one too many is refused.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

/// Who has been let in.
struct Introduced {
    link: Link<ServerConnection>,
    hello: Hello,
    holds: Vec<(u64, bool)>,
    waker: Waker,
    sleeper: Sleeper,
}

/// Counts one as long as it lives.
struct Counted<'c>(&'c AtomicUsize);

impl<'c> Counted<'c> {
    fn below(most: usize, counter: &'c AtomicUsize) -> Option<Self> {
        let count = Self(counter);
        (counter.fetch_add(1, Ordering::AcqRel) < most).then_some(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Door {
    #[allow(clippy::too_many_arguments, reason = "each is a field of it")]
    pub(super) fn new(
        listener: TcpListener,
        (token, config): (Token, Arc<ServerConfig>),
        farm: &str,
        run: RunKey,
        lease: Duration,
        most_bytes: usize,
        most_connections: usize,
    ) -> Self {
        Self {
            listener,
            config,
            token,
            farm: farm.to_owned(),
            run,
            lease,
            most_bytes,
            most_connections,
            closed: Arc::default(),
            connections: AtomicUsize::new(0),
            strangers: AtomicUsize::new(0),
            next: AtomicU64::new(0),
        }
    }

    /// Lets in who comes, until the door is closed.
    pub(super) fn keep<'s>(
        &'s self,
        scope: &'s Scope<'s, '_>,
        heard: SyncSender<(MemberId, Heard)>,
    ) {
        while !self.closed.load(Ordering::Acquire) {
            if let Ok((stream, _)) = self.listener.accept() {
                self.admit(scope, stream, heard.clone());
                continue;
            }
            // Nobody, or a connection that has ended already, or no descriptors at the moment: then
            // to ask again at once would be to spin.
            let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
            if wait_for(&mut fds, GLANCE).is_err() || self.listener.try_clone().is_err() {
                // What cannot be waited for is asked again after a while.
                let _ = wait_for(&mut [], GLANCE);
            }
        }
    }

    /// Who is one too many is let go at once: it tries again.
    fn admit<'s>(
        &'s self,
        scope: &'s Scope<'s, '_>,
        stream: TcpStream,
        heard: SyncSender<(MemberId, Heard)>,
    ) {
        let place = Counted::below(self.most_connections, &self.connections);
        let introduction = Counted::below(MOST_STRANGERS, &self.strangers);
        let (Some(place), Some(introduction)) = (place, introduction) else {
            log::debug!("a connection too many is refused");
            return;
        };
        let member = MemberId(self.next.fetch_add(1, Ordering::Relaxed));
        let talk = move || {
            let _place = place;
            self.talk(stream, member, introduction, &heard);
        };
        // Where no thread can be had the connection ends.
        if let Err(error) = Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, talk) {
            log::warn!("no thread for a connection: {error}");
        }
    }

    fn talk(
        &self,
        stream: TcpStream,
        member: MemberId,
        introduction: Counted<'_>,
        heard: &SyncSender<(MemberId, Heard)>,
    ) {
        let introduced = self.introduce(stream);
        drop(introduction);
        let Introduced { mut link, hello, holds, waker, sleeper } = match introduced {
            Ok(introduced) => introduced,
            Err(problem) => return log::debug!("a connection is refused: {problem}"),
        };
        let (messages, said) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let outgoing = Outgoing { messages: said, waiting: Arc::clone(&waiting) };
        let joined = Heard::Joined {
            worker: hello.worker,
            name: hello.name,
            slots: hello.slots as usize,
            holds,
            outbox: Outbox { messages, waiting, waker },
        };
        if heard.send((member, joined)).is_err() {
            return; // the coordinator has ended
        }
        if let Err(problem) = self.carry(&mut link, &sleeper, member, &outgoing, heard) {
            log::debug!("connection {} ends: {problem}", member.0);
        }
        let _ = heard.send((member, Heard::Gone));
    }

    /// Who is there? Within one deadline.
    fn introduce(&self, stream: TcpStream) -> Result<Introduced, Problem> {
        let deadline = Instant::now() + INTRODUCTION;
        let mut link = Link::accept(stream, &self.config, deadline, &self.closed)?;
        let hello: Hello = link.receive_first()?;
        let refusal = if !self.token.is(&hello.token) {
            Some(
                "it does not show this coordinator's token\n  help: copy the token file again"
                    .to_owned(),
            )
        } else if hello.version != VERSION {
            Some(format!("it speaks version {} of the protocol, not {VERSION}", hello.version))
        } else if hello.farm != self.farm {
            Some(format!("it computes {:?}, the coordinator {:?}", hello.farm, self.farm))
        } else {
            None
        };
        if let Some(why) = refusal {
            link.send(&ToWorker::Refused(why.clone()))?;
            return Err(Problem::Refused(why));
        }
        // Before the welcome: who is told that it has joined does not lose the connection for this.
        let (waker, sleeper) = waker()?;
        link.take_up_to(self.most_bytes + ROOM);
        let lease_ms = self.lease.as_millis() as u32; // at most a day
        let most_bytes = self.most_bytes as u32; // at most a GiB
        link.send(&ToWorker::Welcome { run: self.run, lease_ms, most_bytes })?;
        let FromWorker::Holding(holds) = link.receive_first()? else {
            return Err(Problem::Malformed);
        };
        link.is_made();
        Ok(Introduced { link, hello, holds, waker, sleeper })
    }

    /// Carries messages both ways until one side ends.
    fn carry(
        &self,
        link: &mut Link<ServerConnection>,
        sleeper: &Sleeper,
        member: MemberId,
        outgoing: &Outgoing,
        heard: &SyncSender<(MemberId, Heard)>,
    ) -> Result<(), Problem> {
        let mut out = Ok(false);
        loop {
            if out.is_ok() {
                out = pass_on(link, outgoing);
            }
            // What has come before the connection broke counts: it is read all the same.
            let mut more = true;
            for _ in 0..AT_ONCE {
                let Some(message) = link.receive::<FromWorker>()? else {
                    more = false;
                    break;
                };
                if matches!(message, FromWorker::Holding(_)) {
                    return Err(Problem::Malformed);
                }
                if heard.send((member, Heard::Said(message))).is_err() {
                    return Ok(()); // the coordinator has ended
                }
            }
            if out? {
                return Ok(()); // the coordinator has no more to say
            }
            let wait = match link.pending() {
                None => self.lease,
                // Who does not take what is said does not hold up the end.
                Some(_) if self.closed.load(Ordering::Acquire) => return Ok(()),
                Some(_) if outgoing.waiting.load(Ordering::Relaxed) > MOST_WAITING => {
                    return Err(Problem::TooLate);
                }
                Some(since) => match self.lease.checked_sub(since.elapsed()) {
                    Some(left) => left.min(GLANCE),
                    None => return Err(Problem::TooLate),
                },
            };
            let wait = if more { Duration::ZERO } else { wait };
            out = link.wait(sleeper, wait).map(|()| false);
        }
    }
}

/// Sends what there is to say: whether that was the last of it. What the network does not take now
/// waits where it is.
fn pass_on(link: &mut Link<ServerConnection>, outgoing: &Outgoing) -> Result<bool, Problem> {
    while link.pending().is_none() {
        match outgoing.messages.try_recv() {
            Ok(message) => {
                outgoing.waiting.fetch_sub(1, Ordering::Relaxed);
                link.send(&message)?;
            }
            Err(TryRecvError::Empty) => return Ok(false),
            Err(TryRecvError::Disconnected) => return Ok(true),
        }
    }
    Ok(false)
}

// A hello is small: what a stranger can send is bounded before it is read.
const _: () = assert!(HELLO_BYTES < ROOM);
