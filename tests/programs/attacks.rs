//! Wrong programs that would damage memory if a library or an engine believed them: each looks for
//! damage and says what it found.

use std::{cell::RefCell, process::ExitCode};

use clap::{Parser, ValueEnum};
use spmd::{
    Error, RunArgs, View, ViewMut,
    op::Max,
    prelude::*,
    rma::{NodeArray, Window},
};

/// Attack in one of several ways
#[derive(Parser)]
struct Args {
    attack: Attack,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Attack {
    /// Messages longer than their buffers, by every verb that receives.
    Longer,
    /// Rank 0 makes a communicator, or a window, while rank 1 gathers as it has done before.
    Dup,
    Split,
    SplitNode,
    Graph,
    Window,
    NodeArray,
    /// Ranks that disagree, handle the error, and go on.
    GoOn,
    /// Ranks that start prepared collectives in different orders.
    Plans,
    /// Ranks that drop prepared collectives while they are under way.
    DroppedPlans,
    /// A view whose count is not the length of its slice.
    Lie,
    /// Windows that are refused on one rank, then dropped in different orders.
    Refused,
    /// Rows whose lengths the ranks say differently.
    Counts,
    /// A window and an array that are used after the run.
    Kept,
}

thread_local! {
    static KEPT: RefCell<Option<(Window<u64>, NodeArray<u64>)>> = const { RefCell::new(None) };
}

fn main() -> ExitCode {
    let Args { attack, run } = spmd::parse();
    let code = run.run(|world| match attack {
        Attack::Longer => longer(world),
        Attack::GoOn => go_on(world),
        Attack::Plans => plans(world),
        Attack::DroppedPlans => dropped_plans(world),
        Attack::Lie => lie(world),
        Attack::Refused => refused(world),
        Attack::Counts => counts(world),
        Attack::Kept => keep(world),
        _ => another_call(world, attack),
    });
    KEPT.with_borrow_mut(|kept| {
        let Some((window, array)) = kept else { return };
        window.local_mut()[0] += 1;
        println!("kept: {}", window.local().iter().sum::<u64>());
        println!("closed: {}", window.epoch(|epoch| epoch.put(0, 0, &[1])).unwrap_err());
        println!("closed: {}", array.read(|all, _| all.len()).unwrap_err());
    });
    code
}

/// Small pieces of memory with gaps between them, where what a library allocates comes to lie.
struct Bystanders(Vec<Option<Vec<u8>>>);

impl Bystanders {
    fn new() -> Self {
        let mut all: Vec<_> = (0..2000).map(|at| Some(vec![7; 40 + at % 100])).collect();
        all.iter_mut().step_by(7).for_each(|piece| *piece = None);
        Self(all)
    }

    fn report(&self, name: &str) {
        let changed = |piece: &Vec<u8>| piece.iter().filter(|&&byte| byte != 7).count();
        let changed: usize = self.0.iter().flatten().map(changed).sum();
        println!("{name}: {changed} bytes changed");
    }
}

/// Whether a call failed, as it has to.
fn refuse<R>(what: &str, outcome: Result<R, Error>) -> Result<(), Failure> {
    match outcome {
        Err(_) => Ok(()),
        Ok(_) => Err(Failure::new(format!("{what} was not refused"))),
    }
}

fn longer(world: &Comm) -> Result<(), Failure> {
    const VERBS: u32 = 6;
    for bytes in [9, 100, 300, 1100, 4000, 4200, 6000, 8000, 8200, 20_000] {
        // Nothing fits into no memory either; a single value takes some.
        for room in [8, 0] {
            if world.rank() == 1 {
                let sent = (0..VERBS).map(|tag| world.isend(vec![0x41_u8; bytes], (0, tag)));
                let sent = sent.collect::<Result<Vec<_>, _>>()?;
                world.barrier()?;
                world.barrier()?;
                sent.into_iter().try_for_each(|request| request.wait().map(drop))?;
                continue;
            }
            world.barrier()?;
            let bystanders = Bystanders::new();
            let mut buffer = [7_u8; 24];
            let (into, behind) = buffer.split_at_mut(room);
            refuse("recv_into", world.recv_into(into, (1, 0)))?;
            refuse("recv_one", world.recv_one::<[u8; 8]>((1, 1)))?;
            refuse("irecv", world.irecv(vec![0_u8; room], (1, 2))?.wait())?;
            let scoped = world.scope(|s| s.irecv(&mut *into, (1, 3))?.wait().map(drop));
            refuse("irecv in a scope", scoped)?;
            refuse("sendrecv", world.sendrecv(&[1_u8], None, &mut *into, (1, 4)))?;
            let mut plan = world.plan();
            plan.recv(vec![0_u8; room], (1, 5))?;
            plan.start()?;
            refuse("a planned receive", plan.wait())?;
            bystanders.report("longer messages");
            let changed = behind.iter().filter(|&&byte| byte != 7).count();
            println!("behind the buffer: {changed} bytes changed");
            world.barrier()?;
        }
    }
    Ok(())
}

fn another_call(world: &Comm, attack: Attack) -> Result<(), Failure> {
    let mine = vec![0x41_u8; 100_000];
    let mut out = vec![0; mine.len() * world.size()];
    for _ in 0..4 {
        world.allgather_into(&mine, &mut out)?;
    }
    if world.rank() == 1 {
        return Ok(world.allgather_into(&mine, &mut out)?);
    }
    let bystanders = Bystanders::new();
    let made = match attack {
        Attack::Dup => world.dup().map(drop),
        Attack::Split => world.split(Some(0), 0).map(drop),
        Attack::SplitNode => world.split_node().map(drop),
        Attack::Graph => world.graph(&[1], &[1]).map(drop),
        Attack::Window => world.window::<u8>(8).map(drop),
        _ => world.node_array::<u8>(8).map(drop),
    };
    bystanders.report("another call");
    Ok(made?)
}

fn go_on(world: &Comm) -> Result<(), Failure> {
    const LARGE: usize = 1 << 16;
    let bcast = |bytes: usize| world.bcast_into(1, &mut vec![0_u8; bytes]);
    // What all learn: 8 bytes come after 16, many after 24.
    for bytes in [16, 8, 24, LARGE] {
        bcast(bytes)?;
    }
    refuse("a disagreement", bcast(if world.rank() == 0 { 16 } else { 24 }))?;
    let mut arena = vec![0_u8; 2 * LARGE];
    let (mine, behind) = arena.split_at_mut(if world.rank() == 0 { 8 } else { LARGE });
    mine.fill(0xab * u8::from(world.rank() == 1));
    let outcome = world.bcast_into(1, mine);
    println!("after a disagreement: {} bytes changed", behind.iter().filter(|&&b| b != 0).count());
    refuse("another disagreement", outcome)
}

fn plans(world: &Comm) -> Result<(), Failure> {
    let [mut small, mut large] = [world.plan(), world.plan()];
    small.bcast(1, vec![1_u8; 8])?;
    large.bcast(1, vec![2_u8; 100_000])?;
    let bystanders = Bystanders::new();
    if world.rank() == 0 {
        small.start()?;
        small.wait()?;
    } else {
        large.start()?;
        large.wait()?;
        world.barrier()?;
    }
    bystanders.report("plans in another order");
    Ok(())
}

/// What says more than it has.
fn dropped_plans(world: &Comm) -> Result<(), Failure> {
    let (rank, size) = (world.rank(), world.size());
    let bystanders = Bystanders::new();
    for length in [11, 8192] {
        for which in 0..4 {
            let comm = world.dup()?;
            let mut plan = comm.plan();
            match which {
                0 => plan.barrier()?,
                1 => drop(plan.bcast(1, vec![rank; length])?),
                2 => drop(plan.allreduce(vec![rank; length], Max)?),
                _ => drop(plan.reduce_scatter(vec![rank; length * size], Max)?),
            }
            plan.start()?;
            if rank == 0 {
                drop(plan);
                drop(comm);
            } else {
                plan.wait()?;
            }
        }
    }
    world.barrier()?;
    bystanders.report("dropped plans");
    Ok(())
}

struct Liar<'a>(&'a mut [u8], usize);

impl View for Liar<'_> {
    type Elem = u8;
    fn count(&self) -> usize {
        self.1
    }
    fn as_slice(&self) -> Option<&[u8]> {
        Some(self.0)
    }
    fn pack(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0);
    }
}

impl ViewMut for Liar<'_> {
    fn as_slice_mut(&mut self) -> Option<&mut [u8]> {
        Some(self.0)
    }
    fn unpack(&mut self, values: &[u8]) {
        self.0.copy_from_slice(values);
    }
}

fn lie(world: &Comm) -> Result<(), Failure> {
    const BYTES: usize = 10_000;
    let size = world.size();
    let mut arena = vec![0_u8; 2 * size * BYTES];
    let (mine, rows) = (vec![0xcd_u8; BYTES], vec![0xcd_u8; size * BYTES]);
    let (out, behind) = arena.split_at_mut(8);
    refuse("allgather", world.allgather_into(&mine, &mut Liar(out, size * BYTES)))?;
    refuse("alltoall", world.alltoall_into(&rows, &mut Liar(out, size * BYTES)))?;
    refuse("allreduce", world.allreduce_into(&mine, &mut Liar(out, BYTES), Max))?;
    refuse("scan", world.scan_into(&mine, &mut Liar(out, BYTES), Max))?;
    refuse("reduce_scatter", world.reduce_scatter_into(&rows, &mut Liar(out, BYTES), Max))?;
    println!("lies: {} bytes changed", behind.iter().filter(|&&byte| byte != 0).count());
    Ok(())
}

fn refused(world: &Comm) -> Result<(), Failure> {
    let comm = world.dup()?;
    let first = comm.window::<u64>(4)?;
    let second = comm.window::<u64>(4)?;
    refuse(
        "a window of two types",
        if world.rank() == 0 {
            comm.window::<u32>(4).map(drop)
        } else {
            comm.window::<u64>(4).map(drop)
        },
    )?;
    if world.rank() == 0 {
        drop((first, second));
    } else {
        drop((second, first));
    }
    drop(comm.window::<u64>(1)?);
    println!("refused windows: 0 bytes changed");
    Ok(())
}

/// Lengths that differ in what they are, in which rank has them, and in how the rows would best be
/// moved.
fn counts(world: &Comm) -> Result<(), Failure> {
    let (rank, size) = (world.rank(), world.size());
    for (bytes, others) in [(60_000, 30_000), (30_000, 60_000), (8, 16), (16, 0)] {
        let comm = world.dup()?;
        let length = if rank == 0 { bytes } else { others };
        let rows = comm.allgather_known(&vec![rank as u8; length], &vec![length; size]);
        refuse("allgather_known", rows)?;
    }
    for (mine, others) in [([3, 5], [5, 3]), ([8, 0], [4, 4])] {
        let comm = world.dup()?;
        let mut counts = if rank == 0 { mine } else { others }.to_vec();
        counts.resize(size, 0);
        let sum = comm.reduce_scatter(&[1_u32; 8], &counts, Max);
        refuse("reduce_scatter", sum)?;
    }
    println!("counts: 0 bytes changed");
    Ok(())
}

fn keep(world: &Comm) -> Result<(), Failure> {
    let mut window = world.window::<u64>(100)?;
    window.local_mut().fill(7);
    KEPT.set(Some((window, world.node_array(100)?)));
    Ok(())
}
