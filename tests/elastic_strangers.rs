//! Who comes to the door of an elastic farm's coordinator and does not belong there, and members that
//! lie: they are cut off, and the work goes on.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use arbtest::arbitrary::Unstructured;
use nix::sys::signal::Signal;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde::Serialize;
use tungstenite::{Message, WebSocket};

mod support;

use support::farms::{Farm, LIMIT, Process, fact, until};

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A coordinator, and a worker that has not done task 0 before the end of the test.
struct Busy {
    farm: Farm,
    coordinator: Process,
    address: String,
    worker: Process,
}

const TASKS: usize = 200;

impl Busy {
    fn new(words: &[&str]) -> Self {
        let words = [&["--tasks", "200", "--lease", "100"], words].concat();
        Self::with(|farm| farm.serve(&words))
    }

    fn with(serve: impl FnOnce(&mut Farm) -> (Process, String)) -> Self {
        let mut farm = Farm::new();
        let (coordinator, address) = serve(&mut farm);
        let gate = farm.file("gate");
        let work = ["--slots", "2", "--millis", "5", "--gate", gate.to_str().unwrap()];
        let worker = farm.join(&address, &work);
        farm.until_begun_by(&worker);
        Self { farm, coordinator, address, worker }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// As far as TLS, which nobody needs a token for but the certificate.
    fn tls(&self) -> Tls {
        let file = std::fs::read(self.farm.file("token")).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&file).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("coordinator.spmd").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        StreamOwned::new(connection, self.connect())
    }

    fn stranger(&self) -> WebSocket<Tls> {
        tungstenite::client("wss://coordinator.spmd/", self.tls()).unwrap().0
    }

    /// With the token: a member that may say anything.
    fn member(&self, worker: u128) -> WebSocket<Tls> {
        let mut member = self.stranger();
        let text = std::fs::read_to_string(self.farm.file("token")).unwrap();
        let hex = text.lines().next().unwrap().strip_prefix("token ").unwrap();
        let byte = |at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
        let token: [u8; 32] = std::array::from_fn(byte);
        say(&mut member, &(1_u32, token, "squares", worker, "a liar", 2_u32)).unwrap();
        let welcome = member.read().unwrap().into_data();
        assert_eq!(welcome[0], 1, "not the number of a welcome");
        say(&mut member, &(0_u32, Vec::<(u64, bool)>::new())).unwrap();
        member
    }

    /// The work is done, in spite of all.
    #[track_caller]
    fn ends_well(&mut self) -> String {
        assert!(!self.coordinator.has_ended(), "{}", self.coordinator.said());
        std::fs::write(self.farm.file("gate"), "").unwrap();
        let said = self.coordinator.ends_with(0);
        assert_eq!(fact(&said, "done"), TASKS, "{said}");
        assert!(!said.contains("panicked"), "{said}");
        self.worker.ends_with(0);
        said
    }
}

fn say(to: &mut WebSocket<Tls>, what: &impl Serialize) -> tungstenite::Result<()> {
    to.send(Message::binary(postcard::to_stdvec(what).unwrap()))
}

/// Reads until the other side ends the connection.
#[track_caller]
fn is_cut(stream: &mut impl Read) {
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the connection is kept")
            }
            Err(_) => return,
        }
    }
}

#[track_caller]
fn is_cut_off(socket: &mut WebSocket<Tls>) {
    loop {
        match socket.read() {
            Ok(_) => {}
            Err(tungstenite::Error::Io(error))
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
            {
                panic!("the connection is kept")
            }
            Err(_) => return,
        }
    }
}

#[test]
fn garbage_is_refused() {
    let mut busy = Busy::new(&[]);
    let long = vec![0xff; 100_000];
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 1000], &long, b"\x16\x03\x01\xff\xff"] {
        let mut stream = busy.connect();
        let _ = stream.write_all(garbage); // it may have been cut off before
        is_cut(&mut stream);
    }
    // Inside TLS, in place of a WebSocket.
    let long = vec![b'a'; 300_000];
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 1000], &long] {
        let mut tls = busy.tls();
        let _ = tls.write_all(garbage).and_then(|()| tls.flush());
        is_cut(&mut tls);
    }
    // Inside a WebSocket, in place of a token.
    let messages = [
        Message::text("hello"),
        Message::binary(vec![]),
        Message::binary(vec![0xff; 1000]),
        Message::binary(vec![0; 5000]),
        Message::binary(vec![0; 10_000_000]),
    ];
    for message in messages {
        let mut stranger = busy.stranger();
        let _ = stranger.send(message);
        is_cut_off(&mut stranger);
    }
    busy.ends_well();
}

#[test]
fn who_is_slow_is_cut_off() {
    let mut busy = Busy::new(&[]);
    let mut silent = busy.connect();
    // A byte now and then, each in time.
    let mut slow = busy.connect();
    let began = Instant::now();
    let hello = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    for byte in hello.iter().chain(std::iter::repeat(&0)) {
        if slow.write_all(&[*byte]).is_err() {
            break;
        }
        assert!(began.elapsed() < LIMIT, "the slow one is kept");
        thread::sleep(Duration::from_millis(200));
    }
    is_cut(&mut silent);
    // Who has made a WebSocket has no more time for it.
    let mut stranger = busy.stranger();
    is_cut_off(&mut stranger);
    busy.ends_well();
}

#[test]
fn connections_too_many_are_refused() {
    let mut busy = Busy::new(&["--connections", "8"]);
    let mut streams: Vec<TcpStream> = (0..40).map(|_| busy.connect()).collect();
    // Those that have no place are let go at once, the others when their time is over.
    for stream in &mut streams {
        is_cut(stream);
    }
    let gate = busy.farm.file("gate");
    let work = ["--slots", "1", "--patience", "100", "--gate", gate.to_str().unwrap()];
    let mut late = busy.farm.join(&busy.address, &work);
    // Idle, it does what takes long there.
    busy.farm.until_begun_by(&late);
    let said = busy.ends_well();
    assert_eq!(fact(&said, "workers"), 2, "{said}");
    late.ends_with(0);
}

#[test]
fn connections_are_not_limited_by_the_usual_number_of_descriptors() {
    let mut busy = Busy::with(|farm| {
        let command = farm.command(&["--serve", "--tasks", "200", "--lease", "100"]);
        let mut limited = Command::new("sh");
        limited.args(["-c", r#"ulimit -Sn 48; exec "$0" "$@""#]).arg(command.get_program());
        limited.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => limited.env(name, value),
                None => limited.env_remove(name),
            };
        }
        farm.serve_by(&mut limited)
    });
    let members: Vec<_> = (1..=30).map(|worker| busy.member(worker)).collect();
    drop(members);
    let said = busy.ends_well();
    assert_eq!(fact(&said, "workers"), 31, "{said}");
}

#[test]
fn who_does_not_take_a_task_does_not_hold_up_the_end() {
    let words = ["--tasks", "3", "--lease", "1000", "--ballast", "20000000"];
    let mut busy = Busy::with(|farm| farm.serve(&words));
    let stuck = busy.member(1);
    let mut bytes = vec![0; 100_000];
    let stream = &stuck.get_ref().sock;
    until("a task is on its way", || stream.peek(&mut bytes).unwrap() > 50_000);
    busy.coordinator.signal(Signal::SIGTERM);
    let said = busy.coordinator.ends_with(1);
    assert!(said.contains("of 3 tasks left"), "{said}");
}

/// Each is answered, and answers are not kept without end for one that does not read.
#[test]
fn who_says_much_and_hears_nothing_is_cut_off() {
    let mut busy = Busy::new(&[]);
    let mut deaf = busy.member(1);
    let alive = Message::binary(postcard::to_stdvec(&4_u32).unwrap());
    let is_cut = (0..2_000_000).any(|_| deaf.send(alive.clone()).is_err());
    assert!(is_cut, "within its lease of 100 s");
    busy.ends_well();
}

#[test]
fn members_that_lie_are_cut_off_or_not_believed() {
    let mut busy = Busy::new(&["--poison", "100", "--max-message", "1"]);
    let number = u64::MAX >> 1;
    // Tasks that there are not: started, done, failed.
    for message in [
        postcard::to_stdvec(&(1_u32, number)).unwrap(),
        postcard::to_stdvec(&(2_u32, number, Vec::<u8>::new())).unwrap(),
        postcard::to_stdvec(&(3_u32, 200_u64, "no")).unwrap(),
        postcard::to_stdvec(&(3_u32, 0_u64, "w".repeat(5000))).unwrap(),
        postcard::to_stdvec(&(0_u32, Vec::<(u64, bool)>::new())).unwrap(),
        vec![9; 100],
        vec![2; 3_000_000],
    ] {
        let mut liar = busy.member(1);
        let _ = liar.send(Message::binary(message));
        is_cut_off(&mut liar);
    }
    // A result that is none of this type is a failure, and no result.
    let mut liar = busy.member(2);
    say(&mut liar, &(2_u32, 199_u64, vec![0xff_u8; 30])).unwrap();
    until("it is taken note of", || {
        // `Taken`, after tasks that the liar gets and does not do.
        liar.read().unwrap().into_data().first() == Some(&4)
    });
    drop(liar);
    busy.ends_well();
}

#[test]
fn whatever_a_member_says_the_work_is_done() {
    let mut busy = Busy::new(&["--poison", "1000000"]);
    let mut cut = 0;
    let mut worker = 100;
    arbtest::arbtest(|u: &mut Unstructured<'_>| {
        worker += 1;
        let mut member = busy.member(worker);
        for _ in 0..u.int_in_range(1..=20)? {
            let kind: u8 = u.int_in_range(1..=6)?;
            let bytes: Vec<u8> = u.arbitrary()?;
            // A result might be taken for one, so it is none of this type.
            let result = if kind == 2 { vec![u.int_in_range(0..=199)?, 1, 0xff] } else { bytes };
            if member.send(Message::binary([&[kind][..], &result].concat())).is_err() {
                cut += 1;
                break;
            }
        }
        Ok(())
    })
    .budget_ms(3000);
    println!("{} members, {cut} of them cut off", worker - 100);
    busy.ends_well();
}
