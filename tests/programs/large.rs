//! Messages and collectives of more than 2³¹ elements and more than 4 GiB, on two ranks. Needs 20
//! GiB of memory.

use std::process::ExitCode;

use spmd::{Comm, Failure, prelude::*};

/// More than 4 GiB.
const HUGE: usize = (1 << 32) + 24;

/// More than a C int can count.
const MANY: usize = (1 << 31) + 24;

fn main() -> ExitCode {
    spmd::run(|world| {
        if world.size() != 2 {
            return Err(Failure::usage("two ranks, please"));
        }
        messages(world)?;
        collectives(world)?;
        if world.rank() == 0 {
            println!("large: ok");
        }
        Ok(())
    })
}

/// Bytes that differ from place to place.
fn pattern(at: usize) -> u8 {
    (at ^ (at >> 8) ^ (at >> 16) ^ (at >> 24)) as u8
}

/// Looks at both ends, at what lies round the limits of 32 bits, and at some places between.
fn check(what: &str, got: &[u8]) -> Result<(), Failure> {
    let ends = [0, got.len() - 1, (1 << 31) - 1, 1 << 31, (1_usize << 32) - 1, 1 << 32];
    let places = ends.into_iter().chain((0..got.len()).step_by(99_999_989));
    for at in places.filter(|&at| at < got.len()) {
        if got[at] != pattern(at) {
            let text = format!("{what}: element {at} is {}, not {}", got[at], pattern(at));
            return Err(Failure::verification(text));
        }
    }
    Ok(())
}

fn messages(world: &Comm) -> Result<(), Failure> {
    if world.rank() == 0 {
        let values: Vec<u8> = (0..HUGE).map(pattern).collect();
        world.send(&values, 1)?;
        let values = world.isend(values, (1, 1))?.wait()?;
        world.scope(|s| {
            s.isend(&values, (1, 2))?;
            Ok(())
        })?;
        return Ok(());
    }
    let (got, status) = world.recv::<u8>(0)?;
    check("recv", &got)?;
    if status.count != HUGE {
        return Err(Failure::verification(format!("recv: {} elements", status.count)));
    }
    drop(got);
    let (mut got, _) = world.irecv(vec![0_u8; HUGE], (0, 1))?.wait()?;
    check("irecv", &got)?;
    got.fill(0);
    world.recv_into(&mut got, (0, 2))?;
    check("recv_into", &got)
}

fn collectives(world: &Comm) -> Result<(), Failure> {
    let mut all = vec![0_u8; MANY];
    if world.rank() == 0 {
        all = (0..MANY).map(pattern).collect();
    }
    world.bcast_into(0, &mut all)?;
    check("bcast_into", &all)?;
    let mut greatest = vec![0_u8; MANY];
    world.allreduce_into(&all, &mut greatest, Max)?;
    check("allreduce_into", &greatest)?;
    drop(all);
    let mut both = vec![0_u8; 2 * MANY];
    world.allgather_into(&greatest, &mut both)?;
    check("allgather_into", &both[..MANY])?;
    check("allgather_into", &both[MANY..])
}
