//! A slow cable between two Ethernet taps: what comes out of one goes into the other some time
//! later, or not at all. `scripts/cluster.sh` makes its hosts far from each other with it.
//!
//! `relay MILLISECONDS TAP TAP [LOSS%] [MEGABITS_PER_SECOND]`

use std::{
    env,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::fd::AsRawFd,
    process::ExitCode,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// More than any packet has.
const LARGEST: usize = 1 << 16;

fn main() -> ExitCode {
    match relay(&env::args().skip(1).collect::<Vec<_>>()) {
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
        Ok(()) => ExitCode::SUCCESS,
    }
}

fn relay(words: &[String]) -> Result<(), String> {
    let [delay, one, other, rest @ ..] = words else {
        return Err("relay MILLISECONDS TAP TAP [LOSS%] [MEGABITS_PER_SECOND]".to_owned());
    };
    let number = |word: &str| {
        word.parse::<f64>().ok().filter(|it| *it >= 0.0).ok_or(format!("no number: {word}"))
    };
    let mut cable = Cable {
        delay: Duration::from_secs_f64(number(delay)? / 1e3),
        lost: 0.0,
        megabits: f64::INFINITY,
    };
    for word in rest {
        match word.strip_suffix('%') {
            Some(percent) => cable.lost = number(percent)? / 100.0,
            None => cable.megabits = number(word)?,
        }
    }
    let open = |name: &String| attach(name).map_err(|why| format!("tap {name}: {why}"));
    let (one, other) = (open(one)?, open(other)?);
    thread::scope(|scope| {
        let there = scope.spawn(|| forward(&one, &other, &cable));
        let back = forward(&other, &one, &cable);
        back.and(there.join().expect("it does not panic")).map_err(|why| why.to_string())
    })
}

/// What becomes of packets, each way.
struct Cable {
    delay: Duration,
    /// The part that does not arrive.
    lost: f64,
    /// Per second.
    megabits: f64,
}

/// Opens a tap, which is a file of packets.
#[allow(unsafe_code)] // the system has no other way
fn attach(name: &str) -> io::Result<File> {
    use nix::libc;
    let tap = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: a structure of numbers, for which zeros are values.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // Packets as they are on a cable, with nothing before them.
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the file is open, and the call reads and writes the structure that outlives it.
    let done = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(tap) }
}

/// Takes packets out of one tap, for ever, and puts each into the other when its time has come.
fn forward(mut from: &File, mut to: &File, cable: &Cable) -> io::Result<()> {
    let (put, take) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::scope(|scope| {
        scope.spawn(move || {
            for (due, packet) in take {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                // As on any cable: what the other end cannot take is lost.
                let _ = to.write(&packet);
            }
        });
        let mut packet = vec![0; LARGEST];
        // When the cable has room for the next packet.
        let mut free = Instant::now();
        // Lost packets are counted out, so that their part is as it was asked for.
        let mut due_to_be_lost = 0.0;
        loop {
            let len = from.read(&mut packet)?;
            let now = Instant::now();
            let takes = len as f64 * 8e-6 / cable.megabits;
            free = free.max(now) + Duration::from_secs_f64(takes);
            due_to_be_lost += cable.lost;
            if due_to_be_lost >= 1.0 {
                due_to_be_lost -= 1.0;
                continue;
            }
            if put.send((free + cable.delay, packet[..len].to_vec())).is_err() {
                return Ok(());
            }
        }
    })
}
