//! One fault per call: what a rank does wrong while the others do something else, for the tests of
//! how a job ends.

use std::{
    error::Error,
    fmt,
    panic::{self, catch_unwind},
    process::{Command, ExitCode},
    sync::{Mutex, mpsc},
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};
use rayon::prelude::*;
use spmd::{
    ANY, RunArgs,
    array::Layout,
    io::{ArrayFile, Provenance},
    ndarray::Array2,
    prelude::*,
};

/// Fail in one of several ways
#[derive(Parser)]
struct Args {
    /// What goes wrong
    fault: Fault,
    /// What the other ranks are in when rank 1 fails
    #[arg(value_enum, default_value_t = Place::Recv)]
    others: Place,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Fault {
    /// Rank 1 returns an error of its own.
    Error,
    /// Rank 1 panics.
    Panic,
    /// Rank 1 panics on a thread of its rayon pool.
    PanicInRayon,
    /// Rank 1 catches one panic, then panics.
    CaughtPanic,
    /// Every rank catches a panic, and the job ends well.
    OnlyCaughtPanics,
    /// Rank 1 goes on with a panic that no hook has seen.
    ResumedPanic,
    /// Rank 1 panics in a task that nobody waits for.
    PanicInTask,
    /// Rank 1 panics in a `Drop` while it panics.
    PanicInDrop,
    /// Rank 1 panics in a function that cannot unwind.
    PanicInExternC,
    /// Rank 1 panics in a program with a panic hook of its own.
    PanicWithHook,
    /// Every rank panics.
    AllPanic,
    /// Rank 1 returns an error whose `Display` panics.
    Unspeakable,
    /// Rank 1 returns an error whose `Drop` panics.
    Undroppable,
    /// Every rank waits for the next, and says so by an error of its own.
    WrappedDeadlock,
    /// Rank 1 ends the process, with exit code 0.
    Exit,
    /// Rank 1 ends the process, with exit code 7.
    ExitBadly,
    /// A thread that rank 1 has started ends the process, with exit code 0.
    ExitOnThread,
    /// A second job follows the first.
    SecondJob,
    /// Every rank runs a job in the job.
    NestedJob,
    /// Every rank waits for a message that no rank sends, on a thread of its own.
    ThreadWaits,
    /// Rank 0 waits in `rayon::join` for a thread's message; the others in a barrier.
    JoinWaits,
    /// Rank 0 waits at a channel, the others in a barrier.
    ChannelWaits,
    /// Ranks 0 and 1 wait for each other's lock.
    LocksWait,
    /// Rank 1 needs so many KiB of its stack, and a task of its pool as many: `STACK_KIB`.
    DeepStack,
    /// Every rank leaves a task to be run, and the job ends well.
    Task,
    /// Every rank but the last leaves a task to be run, and waits for it outside of rayon; the last
    /// one returns.
    TaskWaits,
    /// Every rank waits for the next.
    Deadlock,
    /// Rank 0 waits for rank 2, which has returned, while rank 1 computes.
    Stuck,
    /// Rank 1 receives what rank 0 sends as another type.
    WrongType,
    /// Rank 1 receives what rank 0 sends into too small a buffer.
    WrongLength,
    /// Rank 1 sends to a rank that does not exist.
    InvalidRank,
    /// Rank 1 finds its result wrong.
    Verification,
    /// Every rank finds the result wrong.
    WrongResult,
    /// Rank 1 finds the program called wrongly.
    Usage,
    /// Rank 1 returns an error while the others are inside a call.
    ExitWhileOthersIn,
    /// Rank 1 waits for a message that nobody sends; the others finish.
    MessageLost,
    /// Every rank sends what nobody receives, and the job ends well.
    NeverReceived,
    /// Rank 1 sends more than is copied, on a communicator that is gone when the job ends.
    NeverReceivable,
    /// Rank 1 is killed.
    Killed,
    /// Rank 1 returns an error while rank 0 writes into a pipe, `pipe.npy`, that nobody reads.
    WhileWriting,
    /// Rank 1 leaves out an exchange that the others make.
    SparseLeftOut,
    /// Rank 1 computes while the others reduce 100 numbers.
    Absent,
    /// Rank 1 is stopped while the others finish.
    Stopped,
    /// All ranks make communicators until there are no more.
    TooMany,
    /// All ranks ask for more memory than there is, and go on.
    TooLarge,
    /// The ranks of each host ask for 24 MiB each of memory to share.
    TooLargeForShm,
    /// Nothing: every rank starts this program, on threads of its own, and waits for it.
    Child,
    /// All ranks ask for what not every one may be ready for.
    Threads,
    /// Rank 1 sends after so many milliseconds what rank 0 waits for: `LATE_MS`.
    LateSender,
    /// Nothing at all.
    None,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Place {
    Recv,
    Barrier,
    Compute,
}

#[allow(clippy::too_many_lines, reason = "one fault after the other")]
fn main() -> ExitCode {
    let args: Args = spmd::parse();
    match args.fault {
        Fault::PanicWithHook => panic::set_hook(Box::new(|panic| eprintln!("the hook: {panic}"))),
        Fault::SecondJob => {
            let _ignored = spmd::run(|world| greet(world, "the first job"));
        }
        _ => {}
    }
    args.run.run(|world| match args.fault {
        Fault::AllPanic => panic!("a bug on every rank"),
        Fault::OnlyCaughtPanics => {
            let _ = catch_unwind(|| panic!("expected"));
            Ok(())
        }
        Fault::WrappedDeadlock => Ok(exchange_halos(world)?),
        Fault::SecondJob => greet(world, "the second job"),
        Fault::NestedJob => {
            let _ignored = spmd::run(|world| greet(world, "a job in the job"));
            Ok(world.barrier()?)
        }
        Fault::ThreadWaits => {
            let (shared, next) = (world.shared()?, (world.rank() + 1) % world.size());
            let thread = std::thread::spawn(move || shared.recv::<u8>((next, 5)).map(drop));
            Ok(thread.join().map_err(|_| "the thread panicked")??)
        }
        Fault::JoinWaits => {
            let shared = world.shared()?;
            if world.rank() == 0 {
                rayon::join(|| shared.recv::<u8>((1, 5)).map(drop), || ()).0?;
            }
            Ok(world.barrier()?)
        }
        Fault::ChannelWaits => {
            let (_sender, receiver) = mpsc::channel::<()>();
            if world.rank() == 0 {
                receiver.recv()?;
            }
            Ok(world.barrier()?)
        }
        Fault::LocksWait => {
            static LOCKS: [Mutex<()>; 2] = [Mutex::new(()), Mutex::new(())];
            if let rank @ 0..2 = world.rank() {
                let _mine = LOCKS[rank].lock();
                world.sendrecv(&[0_u8], 1 - rank, &mut [0_u8], 1 - rank)?;
                let _other = LOCKS[1 - rank].lock();
            }
            Ok(())
        }
        Fault::DeepStack => {
            let depth = std::env::var("STACK_KIB")?.parse()?;
            let (here, there) = rayon::join(|| deep(depth), || deep(depth));
            println!("rank {}: {}", world.rank(), here + there);
            Ok(())
        }
        Fault::Task => {
            let rank = world.rank();
            rayon::spawn(move || println!("the task of rank {rank}"));
            Ok(())
        }
        Fault::TaskWaits => {
            let (sender, receiver) = mpsc::channel();
            if world.rank() + 1 < world.size() {
                rayon::spawn(move || sender.send(()).unwrap_or_default());
                receiver.recv()?;
            }
            Ok(())
        }
        Fault::Deadlock => {
            let next = (world.rank() + 1) % world.size();
            world.recv::<u8>((next, 7))?;
            Ok(())
        }
        Fault::Stuck => match world.rank() {
            0 => Ok(world.recv::<u8>((2, 9)).map(drop)?),
            1 => wait(world, Place::Compute),
            _ => Ok(()),
        },
        Fault::WrongType | Fault::WrongLength if world.rank() == 0 => {
            world.send(&[1_u32, 2, 3], (1, 5))?;
            wait(world, args.others)
        }
        Fault::MessageLost | Fault::Stopped if world.rank() != 1 => Ok(()),
        Fault::Child => start_child(world),
        Fault::SparseLeftOut if world.rank() != 1 => {
            Ok(world.exchange_sparse([(0, vec![1_u8])]).map(drop)?)
        }
        Fault::SparseLeftOut if matches!(args.others, Place::Barrier) => Ok(world.barrier()?),
        Fault::Absent if world.rank() != 1 => Ok(world.allreduce(&[1.0; 100], Sum).map(drop)?),
        Fault::Absent => wait(world, Place::Compute),
        Fault::TooMany => too_many(world),
        Fault::TooLarge => too_large(world),
        Fault::TooLargeForShm => Ok(world.split_node()?.node_array::<u8>(24 << 20)?.close()?),
        Fault::Threads => Ok(world.shared().and_then(|_| world.barrier())?),
        Fault::WhileWriting => write_in_vain(world),
        Fault::LateSender => late_sender(world),
        Fault::None => Ok(world.barrier()?),
        Fault::WrongResult => find_wrong(world),
        Fault::NeverReceived => send_in_vain(world),
        Fault::NeverReceivable => send_what_nobody_can_receive(world),
        _ if world.rank() != 1 => wait(world, args.others),
        fault => fail(world, fault),
    })
}

/// Notes what it has found for the record of the run, and that it is wrong.
fn find_wrong(world: &Comm) -> Result<(), Failure> {
    let what = "the energy has changed";
    world.result("energy_j", world.rank() as f64);
    world.result("loss", f64::NAN);
    world.verified(false, what);
    world.barrier()?;
    Err(Failure::verification(what))
}

/// Makes communicators until there are no more.
fn too_many(world: &Comm) -> Result<(), Failure> {
    let mut held = Vec::new();
    for _ in 0..100_000 {
        held.push(world.dup()?);
    }
    Ok(())
}

/// What the ranks do that do nothing wrong.
fn wait(world: &Comm, place: Place) -> Result<(), Failure> {
    match place {
        Place::Recv => world.recv::<u8>((ANY, 99)).map(drop)?,
        Place::Barrier => world.barrier()?,
        Place::Compute => {
            let started = Instant::now();
            while started.elapsed() < Duration::from_secs(60) {
                std::hint::spin_loop();
            }
        }
    }
    Ok(())
}

/// Every rank starts this program, on threads of its own, and waits for it.
fn start_child(world: &Comm) -> Result<(), Failure> {
    let child = Command::new(std::env::current_exe()?)
        .args(["none", "--ranks", "2"])
        .env_remove("SPMD_TIMEOUT")
        .status()?;
    if !child.success() {
        return Err(Failure::new(format!("the child ended with {child}")));
    }
    Ok(world.barrier()?)
}

/// Rank 1 sends more than is copied, on a communicator that is gone when the job ends.
fn send_what_nobody_can_receive(world: &Comm) -> Result<(), Failure> {
    let other = world.dup()?;
    if world.rank() == 1 {
        std::mem::forget(other.isend(vec![1_u8; 1 << 22], 0)?);
    }
    Ok(())
}

/// Rank 0 hangs with a file that is not finished. When that is seen, rank 1 fails.
fn write_in_vain(world: &Comm) -> Result<(), Failure> {
    let mine = world.split(Some(world.rank() as u32), 0)?;
    let writer = world.bcast_one(0, std::process::id)?;
    if let (0, Some(alone)) = (world.rank(), mine) {
        let file: ArrayFile = "pipe.npy".parse()?;
        let text = |text: &str| text.to_owned();
        let about = Provenance { title: text("none"), units: text("1"), version: text("1") };
        return file.write(
            &alone,
            &Layout::on_grid([2, 2], [1, 1]),
            &Array2::<f64>::zeros((2, 2)),
            &about,
        );
    }
    // It has no name where the file system can do that.
    let directory = std::env::temp_dir().canonicalize()?;
    let unfinished = || -> std::io::Result<bool> {
        let mut open = std::fs::read_dir(format!("/proc/{writer}/fd"))?.flatten();
        Ok(open.any(|file| {
            std::fs::read_link(file.path()).is_ok_and(|path| path.starts_with(&directory))
        }))
    };
    while !unfinished()? {
        std::thread::sleep(Duration::from_millis(1));
    }
    if world.rank() == 1 {
        return Err(Failure::new("the disk is full"));
    }
    Ok(world.barrier()?)
}

/// Small and large, blocking and not, to the next rank and to oneself, in the world and in a
/// duplicate.
fn send_in_vain(world: &Comm) -> Result<(), Failure> {
    let (next, other) = ((world.rank() + 1) % world.size(), world.dup()?);
    world.send(&[1_u8; 100], next)?;
    drop(world.isend(vec![2_u8; 1 << 20], (next, 3))?);
    drop(other.isend(vec![3_u8; 50], next)?);
    std::mem::forget(world.isend(vec![4_u8; 1 << 16], world.rank())?);
    std::mem::forget(world.irecv(vec![0_u8; 10], (next, 77))?);
    Ok(())
}

fn greet(world: &Comm, from: &str) -> Result<(), Failure> {
    world.barrier()?;
    if world.rank() == 0 {
        println!("{from}");
    }
    Ok(())
}

/// Uses so many KiB of the stack.
fn deep(kib: usize) -> usize {
    let frame = std::hint::black_box([kib as u8; 1024]);
    if kib == 0 { 1 } else { usize::from(frame[kib % 1024] > 0 || kib > 0) + deep(kib - 1) - 1 }
}

/// An error of the program's own, about a call that failed.
#[derive(Debug)]
struct HaloError(spmd::Error);

impl fmt::Display for HaloError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the halos were not exchanged")
    }
}

impl Error for HaloError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

fn exchange_halos(world: &Comm) -> Result<(), HaloError> {
    let next = (world.rank() + 1) % world.size();
    world.recv::<u8>((next, 7)).map(drop).map_err(HaloError)
}

/// An error that panics where others do not.
#[derive(Debug)]
struct Hostile {
    displays: bool,
    drops: bool,
}

impl fmt::Display for Hostile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        assert!(self.displays, "a bug in Display");
        f.write_str("a hostile error")
    }
}

impl Error for Hostile {}

impl Drop for Hostile {
    fn drop(&mut self) {
        assert!(self.drops, "a bug in Drop");
    }
}

extern "C" fn cannot_unwind() {
    panic!("a bug in extern C")
}

/// Windows and arrays that do not fit, and one that does; the last error.
fn too_large(world: &Comm) -> Result<(), Failure> {
    let window = world.window::<f64>(1 << 42).map(drop);
    let host = world.split_node()?;
    let array = host.node_array::<f64>(1 << 42).map(drop);
    world.window::<f64>(100)?.close()?;
    let mut small = host.node_array::<u64>(3)?;
    small.write(|mine| mine.fill(1))?;
    if window.is_ok() || array.is_ok() {
        return Ok(());
    }
    println!("{}", window.map_or_else(|error| error.to_string(), |()| String::new()));
    Ok(array?)
}

fn fail(world: &Comm, fault: Fault) -> Result<(), Failure> {
    match fault {
        Fault::Error | Fault::ExitWhileOthersIn => {
            // The others are inside their calls by now.
            std::thread::sleep(Duration::from_millis(200));
            Err(Failure::new("the disk is full"))
        }
        Fault::Panic | Fault::PanicWithHook => panic!("a bug"),
        Fault::CaughtPanic => {
            let _ = catch_unwind(|| panic!("expected"));
            panic!("a bug")
        }
        Fault::ResumedPanic => panic::resume_unwind(Box::new("a bug, resumed".to_owned())),
        Fault::PanicInTask => {
            rayon::spawn(|| panic!("a bug in a task"));
            Ok(())
        }
        Fault::PanicInDrop => {
            let _hostile = Hostile { displays: true, drops: false };
            panic!("a bug")
        }
        Fault::PanicInExternC => {
            cannot_unwind();
            Ok(())
        }
        Fault::Unspeakable => Err(Hostile { displays: false, drops: true }.into()),
        Fault::Undroppable => Err(Hostile { displays: true, drops: false }.into()),
        Fault::Exit => std::process::exit(0),
        Fault::ExitOnThread => {
            let ends = std::thread::spawn(|| std::process::exit(0));
            ends.join().map_err(|_| "the thread panicked")?
        }
        Fault::ExitBadly => std::process::exit(7),
        Fault::PanicInRayon => {
            (0..1000).into_par_iter().for_each(|step| assert!(step != 777, "a bug in step {step}"));
            Ok(())
        }
        Fault::WrongType => Ok(world.recv::<f64>((0, 5)).map(drop)?),
        Fault::WrongLength => Ok(world.recv_into(&mut [0_u32; 2], (0, 5)).map(drop)?),
        Fault::InvalidRank => Ok(world.send(&[1_u8], world.size())?),
        Fault::Verification => Err(Failure::verification("the energy has changed")),
        Fault::Usage => Err(Failure::usage("the grid is smaller than the ranks")),
        Fault::MessageLost => Ok(world.recv::<u8>((0, 42)).map(drop)?),
        Fault::Killed => signal("-KILL"),
        Fault::Stopped => signal("-STOP"),
        // What other ranks do too.
        _ => Ok(()),
    }
}

/// Sends this process a signal.
fn signal(name: &str) -> Result<(), Failure> {
    Command::new("kill").args([name, &std::process::id().to_string()]).status()?;
    Ok(())
}

fn late_sender(world: &Comm) -> Result<(), Failure> {
    let late = std::env::var("LATE_MS").unwrap_or_else(|_| "200".to_owned()).parse()?;
    match world.rank() {
        0 => {
            let _waiting = world.span("waiting");
            world.recv::<u8>((1, 7))?;
        }
        1 => {
            let _late = world.span("being late");
            std::thread::sleep(Duration::from_millis(late));
            world.send(&[1_u8; 100], (0, 7))?;
        }
        _ => {}
    }
    Ok(())
}
