//! What ranks cost before they do anything: time to start and to end, and memory.

use std::{
    fs,
    io::Write,
    time::{Duration, Instant},
};

use spmd::{Comm, Failure, Result, op::Sum};

const KIB: f64 = 1024.0;

/// Takes a job through its life: all ranks meet, a message goes round the ring of them, they add up
/// a number. Rank 0 writes to `out` how long each took, and the peak of memory per rank. `started`
/// is when the program began.
///
/// Returns when the last rank was done: what is left is the end of the job.
///
/// # Collective
/// All ranks of `world`.
///
/// # Errors
/// A wrong sum: exit code 3.
///
/// # Examples
/// ```
/// let started = std::time::Instant::now();
/// let pages = spmd::local(4, |world| {
///     let mut page = Vec::new();
///     spmd::bench::footprint(world, started, &mut page)?;
///     Ok(String::from_utf8(page).unwrap())
/// });
/// assert!(pages.unwrap()[0].contains("allreduce"));
/// ```
pub(crate) fn footprint(
    world: &Comm,
    started: Instant,
    out: &mut dyn Write,
) -> Result<Instant, Failure> {
    let (rank, size) = (world.rank(), world.size());
    world.barrier()?;
    let met = Instant::now();
    let mut left = [0_usize];
    world.sendrecv(&[rank], (rank + 1) % size, &mut left, (rank + size - 1) % size)?;
    world.barrier()?;
    let ring = Instant::now();
    let sum = world.allreduce(&left, Sum)?[0];
    let added = Instant::now();
    let peak = peak_bytes(world)?;
    let done = Instant::now();
    if sum != size * (size - 1) / 2 {
        return Err(Failure::verification(format!("the sum of all ranks is {sum}")));
    }
    if rank == 0 {
        writeln!(out, "{:<10} {size} on the engine {}", "ranks", world.engine())?;
        let mut line = |what: &str, took: Duration| {
            writeln!(out, "{what:<10} {:.3} ms", took.as_secs_f64() * 1e3)
        };
        line("start", met - started)?;
        line("ring", ring - met)?;
        line("allreduce", added - ring)?;
        match peak {
            Some(bytes) => writeln!(
                out,
                "{:<10} {:.1} KiB per rank ({:.1} MiB at the peak)",
                "memory",
                bytes / size as f64 / KIB,
                bytes / KIB / KIB
            )?,
            None => writeln!(out, "{:<10} not told by this system", "memory")?,
        }
        out.flush()?;
    }
    world.barrier()?;
    Ok(done)
}

/// The most memory that the processes of all ranks had at once, if the system tells.
fn peak_bytes(world: &Comm) -> Result<Option<f64>> {
    // Ranks that are threads share one process.
    let counts = world.engine() != "local" || world.rank() == 0;
    let mine = resident_peak().filter(|_| counts);
    let told = f64::from(u8::from(mine.is_some() || !counts));
    let sums = world.allreduce(&[mine.unwrap_or(0.0), told], Sum)?;
    Ok((sums[1] >= world.size() as f64).then_some(sums[0]))
}

/// The most memory in bytes that this process had at once.
fn resident_peak() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * KIB)
}
