//! The network between two hosts, measured by their agents: a connection of their own, as an MPI over
//! TCP would make it.
//!
//! One listens for one connection that knows the word, for a few seconds; the other times single
//! bytes there and back, and then a block of them.

use std::{
    hash::{BuildHasher, RandomState},
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, ToSocketAddrs},
    thread,
    time::{Duration, Instant},
};

/// How long each side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

const TRIPS: usize = 20;
const BLOCK: usize = 16 << 20;
const PIECE: usize = 1 << 16;

/// What the way between two hosts does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Link {
    /// The shortest way there and back.
    pub(super) trip_s: f64,
    pub(super) bytes_per_s: f64,
}

/// A word that nobody guesses within the time that it is good for.
pub(super) fn word() -> String {
    let number = || RandomState::new().hash_one(0_u8);
    format!("{:016x}{:016x}", number(), number())
}

/// Waits for one connection, in a thread; the port.
pub(super) fn listen(word: String) -> io::Result<u16> {
    // Of both kinds, where the system has both.
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    let port = listener.local_addr()?.port();
    listener.set_nonblocking(true)?;
    let listens = move || {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match listener.accept() {
                // Somebody else, or one that breaks off: the right one may still come.
                Ok((stream, _)) => {
                    if answer(stream, &word).is_ok() {
                        return;
                    }
                }
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    };
    thread::Builder::new().spawn(listens)?;
    Ok(port)
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

fn answer(stream: TcpStream, word: &str) -> io::Result<()> {
    prepare(&stream)?;
    let mut out = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut said = String::new();
    reader.by_ref().take(word.len() as u64 + 1).read_line(&mut said)?;
    if said.trim_end() != word {
        return Err(io::Error::other("it does not know the word"));
    }
    let mut byte = [0];
    for _ in 0..TRIPS {
        reader.read_exact(&mut byte)?;
        out.write_all(&byte)?;
    }
    let mut piece = vec![0; PIECE];
    for _ in 0..BLOCK / PIECE {
        reader.read_exact(&mut piece)?;
    }
    out.write_all(&byte)
}

/// Measures the way to a host that listens.
pub(super) fn measure(host: &str, port: u16, word: &str) -> io::Result<Link> {
    let mut last = io::Error::other("it has no address");
    let addresses = (host, port).to_socket_addrs()?;
    let mut stream = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(connected) => {
                stream = Some(connected);
                break;
            }
            Err(error) => last = error,
        }
    }
    let mut stream = stream.ok_or(last)?;
    prepare(&stream)?;
    stream.write_all(format!("{word}\n").as_bytes())?;
    let mut byte = [7];
    let mut trip_s = f64::INFINITY;
    for _ in 0..TRIPS {
        let before = Instant::now();
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        trip_s = trip_s.min(before.elapsed().as_secs_f64());
    }
    let piece = vec![7; PIECE];
    let before = Instant::now();
    for _ in 0..BLOCK / PIECE {
        stream.write_all(&piece)?;
    }
    stream.read_exact(&mut byte)?;
    let seconds = before.elapsed().as_secs_f64();
    Ok(Link { trip_s, bytes_per_s: BLOCK as f64 / seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_measured_by_who_knows_the_word() {
        let word = word();
        let port = listen(word.clone()).unwrap();
        let stranger = measure("127.0.0.1", port, &super::word());
        assert!(stranger.is_err());
        let link = measure("127.0.0.1", port, &word).unwrap();
        assert!(link.trip_s > 0.0 && link.bytes_per_s > 1e5, "{link:?}");
        assert!(measure("127.0.0.1", port, &word).is_err(), "one connection");
    }
}
