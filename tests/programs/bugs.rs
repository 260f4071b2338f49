//! The classical mistakes of MPI programs, one per name; `docs/bugs.md` says what becomes of each.
//!
//! The categories are those of the MPI Bugs Initiative (Laurent, Saillard, Quinson, 2021) and
//! MPI-BugBench (Jammer et al., 2024). What does not even compile is in `tests/compile_fail`.

use std::process::ExitCode;

use clap::Parser;
use spmd::{ANY, Comm, Failure, RunArgs, prelude::*, rma::Lock};

/// Make a classical mistake
#[derive(Parser)]
struct Args {
    /// Its name; `list` prints all
    name: String,
    #[command(flatten)]
    run: RunArgs,
}

type Bug = fn(&Comm) -> Result<(), Failure>;

/// For three ranks.
const BUGS: &[(&str, Bug)] = &[
    ("invalid-rank", invalid_rank),
    ("invalid-tag", invalid_tag),
    ("invalid-root", invalid_root),
    ("invalid-grid", invalid_grid),
    ("invalid-window-range", invalid_window_range),
    ("invalid-rows", invalid_rows),
    ("leaked-request", leaked_request),
    ("leaked-message", leaked_message),
    ("plan-started-twice", plan_started_twice),
    ("plan-waited-too-early", plan_waited_too_early),
    ("plan-read-under-way", plan_read_under_way),
    ("type-mismatch", type_mismatch),
    ("type-mismatch-collective", type_mismatch_collective),
    ("truncation", truncation),
    ("tag-mismatch", tag_mismatch),
    ("communicator-mismatch", communicator_mismatch),
    ("root-mismatch", root_mismatch),
    ("operator-mismatch", operator_mismatch),
    ("length-mismatch", length_mismatch),
    ("graph-mismatch", graph_mismatch),
    ("collective-mismatch", collective_mismatch),
    ("collective-mismatch-nonblocking", collective_mismatch_nonblocking),
    ("collective-order", collective_order),
    ("collective-missing", collective_missing),
    ("collective-against-message", collective_against_message),
    ("deadlock-receive-receive", receive_receive),
    ("deadlock-send-send", send_send),
    ("deadlock-circle", circle),
    ("deadlock-self", to_self),
    ("deadlock-probe", probe_nothing),
    ("deadlock-wait", wait_for_nothing),
    ("deadlock-lock", lock_held),
    ("message-race", message_race),
    ("rma-conflicting-puts", conflicting_puts),
    ("rma-put-and-get", put_and_get),
];

fn main() -> ExitCode {
    let args: Args = spmd::parse();
    if args.name == "list" {
        for (name, _) in BUGS {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    }
    args.run.run(|world| {
        let bug = BUGS.iter().find(|(name, _)| *name == args.name);
        let (_, bug) = bug.ok_or_else(|| Failure::usage(format!("no mistake {}", args.name)))?;
        bug(world)
    })
}

// ---- Invalid parameters ----

fn invalid_rank(world: &Comm) -> Result<(), Failure> {
    world.send(&[1], world.size())?;
    Ok(())
}

fn invalid_tag(world: &Comm) -> Result<(), Failure> {
    world.send(&[1], (world.rank(), u32::MAX))?;
    Ok(())
}

fn invalid_root(world: &Comm) -> Result<(), Failure> {
    world.bcast(world.size(), || vec![1])?;
    Ok(())
}

fn invalid_grid(world: &Comm) -> Result<(), Failure> {
    world.cart([Some(2), Some(world.size())], [false; 2])?;
    Ok(())
}

fn invalid_window_range(world: &Comm) -> Result<(), Failure> {
    let mut window = world.window::<u64>(4)?;
    window.epoch(|epoch| epoch.put(0, 3, &[1, 2]))?;
    Ok(())
}

fn invalid_rows(world: &Comm) -> Result<(), Failure> {
    world.alltoall(&Ragged::from_rows([vec![1]]))?;
    Ok(())
}

// ---- Resource leaks ----

fn leaked_request(world: &Comm) -> Result<(), Failure> {
    if world.rank() == 1 {
        std::mem::forget(world.irecv(vec![0_u8; 4], (2, 5))?);
    }
    Ok(())
}

fn leaked_message(world: &Comm) -> Result<(), Failure> {
    if world.rank() == 1 {
        world.send(&[1_u8; 4], (2, 5))?;
    }
    world.barrier()?;
    Ok(())
}

// ---- Request lifecycle ----

fn plan_started_twice(world: &Comm) -> Result<(), Failure> {
    let mut plan = world.plan();
    plan.recv(vec![0_u8], (world.rank(), 3))?;
    plan.start()?;
    plan.start()?;
    Ok(())
}

fn plan_waited_too_early(world: &Comm) -> Result<(), Failure> {
    let mut plan = world.plan();
    plan.recv(vec![0_u8], (world.rank(), 3))?;
    plan.wait()?;
    Ok(())
}

fn plan_read_under_way(world: &Comm) -> Result<(), Failure> {
    let mut plan = world.plan();
    let got = plan.recv(vec![0_u8], (world.rank(), 3))?;
    plan.start()?;
    plan.get(got)?;
    Ok(())
}

// ---- Parameters that do not match between ranks ----

fn type_mismatch(world: &Comm) -> Result<(), Failure> {
    match world.rank() {
        0 => world.send(&[1.0_f64], 1)?,
        1 => drop(world.recv::<u64>(0)?),
        _ => {}
    }
    Ok(())
}

fn type_mismatch_collective(world: &Comm) -> Result<(), Failure> {
    if world.rank() == 1 {
        world.allreduce(&[1.0_f64], Sum)?;
    } else {
        world.allreduce(&[1_u64], Sum)?;
    }
    Ok(())
}

fn truncation(world: &Comm) -> Result<(), Failure> {
    match world.rank() {
        0 => world.send(&[1_u64; 10], 1)?,
        1 => drop(world.recv_into(&mut [0_u64; 9], 0)?),
        _ => {}
    }
    Ok(())
}

fn tag_mismatch(world: &Comm) -> Result<(), Failure> {
    match world.rank() {
        0 => world.send(&[1], (1, 7))?,
        1 => drop(world.recv::<i32>((0, 8))?),
        _ => {}
    }
    Ok(())
}

fn communicator_mismatch(world: &Comm) -> Result<(), Failure> {
    let other = world.dup()?;
    match world.rank() {
        0 => other.send(&[1], 1)?,
        1 => drop(world.recv::<i32>(0)?),
        _ => {}
    }
    Ok(())
}

fn root_mismatch(world: &Comm) -> Result<(), Failure> {
    world.bcast(world.rank().min(1), || vec![1; 3])?;
    Ok(())
}

fn operator_mismatch(world: &Comm) -> Result<(), Failure> {
    if world.rank() == 1 {
        world.allreduce(&[1], Max)?;
    } else {
        world.allreduce(&[1], Sum)?;
    }
    Ok(())
}

fn length_mismatch(world: &Comm) -> Result<(), Failure> {
    world.allreduce(&vec![1; 1 + world.rank()], Sum)?;
    Ok(())
}

fn graph_mismatch(world: &Comm) -> Result<(), Failure> {
    // Rank 0 expects something from 1, which has no edge to it.
    let sources: &[usize] = if world.rank() == 0 { &[1] } else { &[] };
    world.graph(sources, &[])?;
    Ok(())
}

// ---- Calls in another order ----

fn collective_mismatch(world: &Comm) -> Result<(), Failure> {
    if world.rank() == 1 {
        world.allreduce(&[1], Sum)?;
    } else {
        world.barrier()?;
    }
    Ok(())
}

fn collective_mismatch_nonblocking(world: &Comm) -> Result<(), Failure> {
    if world.rank() == 1 {
        world.iallgather(vec![1])?.wait()?;
    } else {
        world.ibarrier()?.wait()?;
    }
    Ok(())
}

fn collective_order(world: &Comm) -> Result<(), Failure> {
    if world.rank() == 1 {
        world.allgather(&[1])?;
        world.bcast(0, || vec![1])?;
    } else {
        world.bcast(0, || vec![1])?;
        world.allgather(&[1])?;
    }
    Ok(())
}

fn collective_missing(world: &Comm) -> Result<(), Failure> {
    if world.rank() != 1 {
        world.barrier()?;
    }
    Ok(())
}

fn collective_against_message(world: &Comm) -> Result<(), Failure> {
    if world.rank() == 1 {
        world.recv::<i32>(0)?;
    } else {
        world.bcast(0, || vec![1; 1000])?;
        world.barrier()?;
    }
    Ok(())
}

// ---- Deadlocks ----

fn receive_receive(world: &Comm) -> Result<(), Failure> {
    let peer = world.rank() ^ 1;
    if peer < world.size() {
        let (got, _) = world.recv::<i32>(peer)?;
        world.send(&got, peer)?;
    }
    Ok(())
}

fn send_send(world: &Comm) -> Result<(), Failure> {
    let peer = world.rank() ^ 1;
    if peer < world.size() {
        // Small messages would be buffered: a program that works by luck.
        world.send(&vec![1_u64; 1 << 20], peer)?;
        world.recv::<u64>(peer)?;
    }
    Ok(())
}

fn circle(world: &Comm) -> Result<(), Failure> {
    let (rank, size) = (world.rank(), world.size());
    world.ssend(&[1], (rank + 1) % size)?;
    world.recv::<i32>((rank + size - 1) % size)?;
    Ok(())
}

fn to_self(world: &Comm) -> Result<(), Failure> {
    world.ssend(&[1], world.rank())?;
    Ok(())
}

fn probe_nothing(world: &Comm) -> Result<(), Failure> {
    drop(world.probe((ANY, 9))?);
    Ok(())
}

fn wait_for_nothing(world: &Comm) -> Result<(), Failure> {
    world.irecv(vec![0_u8], (ANY, 9))?.wait()?;
    Ok(())
}

fn lock_held(world: &Comm) -> Result<(), Failure> {
    let mut window = world.window::<u64>(1)?;
    window.passive(|passive| {
        if world.rank() == 0 {
            passive.lock(0, Lock::Exclusive, |_| {
                (1..world.size()).try_for_each(|rank| world.send(&[0_u8], rank))?;
                world.recv::<u8>(1)?; // which waits for the lock
                Ok(())
            })
        } else {
            world.recv::<u8>(0)?; // rank 0 has the lock
            passive.lock(0, Lock::Exclusive, |_| world.send(&[1_u8], 0))
        }
    })?;
    Ok(())
}

// ---- Races ----

fn message_race(world: &Comm) -> Result<(), Failure> {
    match world.rank() {
        0 => {
            // Whoever comes first; if that was rank 1, nothing is left for the next line.
            world.recv::<i32>(ANY)?;
            world.recv::<i32>(1)?;
        }
        1 => {
            world.send(&[1], 0)?;
            world.send(&[1], 2)?;
        }
        2 => {
            world.recv::<i32>(1)?; // so that rank 1's message is there first
            std::thread::sleep(std::time::Duration::from_millis(50));
            world.send(&[2], 0)?;
        }
        _ => {}
    }
    Ok(())
}

fn conflicting_puts(world: &Comm) -> Result<(), Failure> {
    let mut window = world.window::<u64>(1)?;
    let mine = [1 + world.rank() as u64];
    window.epoch(|epoch| epoch.put(0, 0, &mine))?;
    let written = window.local()[0];
    if world.rank() == 0 && !(1..=world.size() as u64).contains(&written) {
        return Err(Failure::verification(format!("nobody has put {written}")));
    }
    Ok(())
}

fn put_and_get(world: &Comm) -> Result<(), Failure> {
    let mut window = world.window::<u64>(1)?;
    let got = window.epoch(|epoch| {
        if world.rank() == 1 {
            epoch.put(0, 0, &[7])?;
        }
        epoch.get(0, 0..1)
    })?;
    if ![0, 7].contains(&got[0]) {
        return Err(Failure::verification(format!("nobody has put {}", got[0])));
    }
    Ok(())
}
