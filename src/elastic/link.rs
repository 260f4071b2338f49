//! A connection: TCP, TLS 1.3 and WebSocket messages, each within its limits.
//!
//! Sockets do not block. While a connection is made, a deadline holds for all of it together,
//! however slowly the other side sends; afterwards nothing waits but [`Link::wait`].

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use rustls::{
    ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned,
    pki_types::ServerName,
};
use serde::Serialize;
use tungstenite::{
    HandshakeError, Message, WebSocket, handshake::HandshakeRole, protocol::WebSocketConfig,
};

use super::{
    Problem,
    messages::{Bounded, HELLO_BYTES, decode, encode},
    token::SERVER_NAME,
};

/// Bytes that are read at once.
const READ_BYTES: usize = 16 << 10;
/// A silent wait is interrupted so often, to see whether it is still wanted.
const GLANCE: Duration = Duration::from_millis(100);

/// Whoever waits for a link can be woken by this.
pub(super) struct Waker(UnixStream);

/// What [`Link::wait`] sees the waker by.
pub(super) struct Sleeper(UnixStream);

pub(super) fn waker() -> io::Result<(Waker, Sleeper)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    Ok((Waker(ours), Sleeper(theirs)))
}

impl Waker {
    pub(super) fn wake(&self) {
        // If nothing more fits into it, there is enough in it; if the other end is closed nobody
        // waits.
        let _ = (&self.0).write(&[0]);
    }
}

impl Sleeper {
    fn drain(&self) {
        let mut bytes = [0; 64];
        while matches!((&self.0).read(&mut bytes), Ok(1..)) {}
    }

    /// Waits for the waker alone.
    pub(super) fn wait(&self, timeout: Duration) -> Result<(), Problem> {
        wait_for(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout)?;
        self.drain();
        Ok(())
    }
}

/// A TCP connection that blocks until a deadline while it has one.
pub(super) struct Socket {
    stream: TcpStream,
    deadline: Option<Instant>,
    /// Nothing can be written any more. That is told once; what the other side has said before it
    /// was gone can still be read, and TLS would not read where it has something to write.
    is_broken: bool,
    /// Who made it does not need it any more.
    unwanted: Arc<AtomicBool>,
}

impl Socket {
    fn new(stream: TcpStream, deadline: Instant, unwanted: &Arc<AtomicBool>) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let unwanted = Arc::clone(unwanted);
        Ok(Self { stream, deadline: Some(deadline), is_broken: false, unwanted })
    }

    fn until_ready<V>(
        &mut self,
        flags: PollFlags,
        mut attempt: impl FnMut(&mut TcpStream) -> io::Result<V>,
    ) -> io::Result<V> {
        loop {
            match (attempt(&mut self.stream), self.deadline) {
                (Err(error), _) if error.kind() == ErrorKind::Interrupted => {}
                (Err(error), Some(deadline)) if error.kind() == ErrorKind::WouldBlock => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() || self.unwanted.load(Ordering::Acquire) {
                        return Err(ErrorKind::TimedOut.into());
                    }
                    let mut fds = [PollFd::new(self.stream.as_fd(), flags)];
                    wait_for(&mut fds, left.min(GLANCE)).map_err(io::Error::other)?;
                }
                (outcome, _) => return outcome,
            }
        }
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.until_ready(PollFlags::POLLIN, |stream| stream.read(into))
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_broken {
            return Ok(bytes.len());
        }
        let written = self.until_ready(PollFlags::POLLOUT, |stream| stream.write(bytes));
        self.is_broken = written.as_ref().is_err_and(|error| error.kind() != ErrorKind::WouldBlock);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until one of these is ready, or for some time.
pub(super) fn wait_for(fds: &mut [PollFd<'_>], timeout: Duration) -> Result<(), Problem> {
    // Rounded up: to wait for less than a millisecond is not to spin.
    let millis = timeout.as_micros().div_ceil(1000);
    let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
    match poll(fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(Problem::Io(error.into())),
    }
}

/// One end of a connection; `C` is rustls' word for which.
pub(super) struct Link<C: Sized> {
    socket: WebSocket<StreamOwned<C, Socket>>,
    /// Since when something waits for room in the network.
    pending: Option<Instant>,
}

impl Link<ServerConnection> {
    /// Answers who has connected.
    pub(super) fn accept(
        stream: TcpStream,
        config: &Arc<ServerConfig>,
        deadline: Instant,
        unwanted: &Arc<AtomicBool>,
    ) -> Result<Self, Problem> {
        let socket = Socket::new(stream, deadline, unwanted)?;
        let tls = StreamOwned::new(ServerConnection::new(Arc::clone(config))?, socket);
        let accepted = tungstenite::accept_with_config(tls, Some(limits(HELLO_BYTES)));
        Ok(Self { socket: accepted.map_err(handshake)?, pending: None })
    }
}

impl Link<ClientConnection> {
    pub(super) fn connect(
        address: SocketAddr,
        config: &Arc<ClientConfig>,
        deadline: Instant,
        unwanted: &Arc<AtomicBool>,
    ) -> Result<Self, Problem> {
        let left = deadline.saturating_duration_since(Instant::now());
        let stream = TcpStream::connect_timeout(&address, left.max(Duration::from_millis(1)))?;
        let socket = Socket::new(stream, deadline, unwanted)?;
        let name = ServerName::try_from(SERVER_NAME).map_err(|_| Problem::AnotherCoordinator)?;
        let tls = StreamOwned::new(ClientConnection::new(Arc::clone(config), name)?, socket);
        let url = format!("wss://{SERVER_NAME}/");
        let connected =
            tungstenite::client::client_with_config(url, tls, Some(limits(HELLO_BYTES)));
        let (socket, _) = connected.map_err(handshake)?;
        Ok(Self { socket, pending: None })
    }
}

fn limits(bytes: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .max_message_size(Some(bytes))
        .max_frame_size(Some(bytes))
}

/// What has gone wrong while a connection was made.
fn handshake<R: HandshakeRole>(error: HandshakeError<R>) -> Problem {
    let error = match error {
        HandshakeError::Failure(error) => error,
        // Only sockets without a deadline are interrupted.
        HandshakeError::Interrupted(_) => return Problem::TooLate,
    };
    let problem = Problem::from(error);
    let Problem::Io(error) = &problem else { return problem };
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        _ if error.kind() == ErrorKind::TimedOut => Problem::TooLate,
        Some(rustls::Error::InvalidCertificate(_)) => Problem::AnotherCoordinator,
        _ => problem,
    }
}

impl<C> Link<C>
where
    StreamOwned<C, Socket>: Read + Write,
{
    /// Messages of the other side may have so many bytes from now on.
    pub(super) fn take_up_to(&mut self, bytes: usize) {
        self.socket.set_config(|config| *config = limits(bytes));
    }

    /// From now on nothing blocks but [`wait`](Self::wait).
    pub(super) fn is_made(&mut self) {
        self.socket.get_mut().sock.deadline = None;
    }

    /// Sends a message as far as the network takes it; the rest goes with [`wait`](Self::wait).
    pub(super) fn send(&mut self, message: &impl Serialize) -> Result<(), Problem> {
        let sent = self.socket.write(Message::binary(encode(message)?));
        if let Err(error) = sent
            && !is_later(&error)
        {
            return Err(error.into());
        }
        self.flush()
    }

    /// Since when something waits for room in the network.
    pub(super) fn pending(&self) -> Option<Instant> {
        self.pending
    }

    fn flush(&mut self) -> Result<(), Problem> {
        match self.socket.flush() {
            Ok(()) => self.pending = None,
            Err(error) if is_later(&error) => {
                self.pending.get_or_insert_with(Instant::now);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// The next message, if one is there; or the next before the deadline, while the link is made.
    pub(super) fn receive<M: Bounded>(&mut self) -> Result<Option<M>, Problem> {
        match self.socket.read() {
            Ok(Message::Binary(bytes)) => decode(&bytes).map(Some),
            Ok(Message::Close(_)) => Err(Problem::Closed),
            Ok(_) => Err(Problem::Malformed), // neither side says anything else
            Err(error) if is_later(&error) => Ok(None),
            Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::TimedOut => {
                Err(Problem::TooLate)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The first message of the other side, while the link is made.
    pub(super) fn receive_first<M: Bounded>(&mut self) -> Result<M, Problem> {
        self.receive()?.ok_or(Problem::TooLate)
    }

    /// Waits until something has come or may go, the waker wakes, or for some time.
    pub(super) fn wait(&mut self, sleeper: &Sleeper, timeout: Duration) -> Result<(), Problem> {
        let out = if self.pending.is_some() { PollFlags::POLLOUT } else { PollFlags::empty() };
        let mut fds = [
            PollFd::new(self.fd(), PollFlags::POLLIN | out),
            PollFd::new(sleeper.0.as_fd(), PollFlags::POLLIN),
        ];
        wait_for(&mut fds, timeout)?;
        sleeper.drain();
        if self.pending.is_some() { self.flush() } else { Ok(()) }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().sock.stream.as_fd()
    }
}

fn is_later(error: &tungstenite::Error) -> bool {
    matches!(error, tungstenite::Error::Io(error) if error.kind() == ErrorKind::WouldBlock)
}
