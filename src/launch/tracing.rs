//! When a trace is made: parts before the program, on one clock; one file after it.

use std::{
    collections::hash_map::RandomState,
    fs,
    hash::BuildHasher,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use super::{RunArgs, print_line, sampler};
use crate::{
    comm::Comm,
    error::{Call, Failure, With},
    io::{FileError, Unfinished},
    placement,
    trace::{Clocks, Part, Tape, Trace, now_ns},
    usage,
};

/// How often two clocks are compared; the quickest round trip counts.
const ROUNDS: usize = 50;

/// A trace that is being made.
pub(super) struct Tracing {
    /// Where rank 0 writes it.
    file: PathBuf,
    /// This rank's part.
    part: PathBuf,
    /// The job's number.
    job: u64,
    /// A message space of its own: the program's messages are never taken for these.
    comm: Comm,
    /// By rank: its host.
    nodes: Vec<u32>,
    /// Whether there is a trace, and the parts are gone.
    ended: bool,
}

impl Drop for Tracing {
    fn drop(&mut self) {
        /// Once for all ranks of a process.
        static TOLD: AtomicBool = AtomicBool::new(false);
        if !self.ended {
            sampler::end(self.comm.rank());
        }
        if !self.ended && !TOLD.swap(true, Ordering::Relaxed) {
            let left = directory(&self.file);
            print_line(&format!("what ranks have noted until now: spmd view {}", left.display()));
        }
    }
}

impl Tracing {
    /// Makes the parts and compares the clocks; from now on calls are recorded. Collective.
    pub(super) fn begin(world: &Comm, args: &RunArgs) -> Result<Self, Failure> {
        let comm = world.dup()?;
        // A launcher over several hosts seldom hands on all variables: the first that was told.
        let file = args.trace.as_deref().map(|file| file.to_string_lossy().into_owned());
        let files = comm.allgather_obj(&file)?;
        let file = PathBuf::from(files.into_iter().flatten().next().unwrap_or_default());
        let job = comm.bcast_obj(0, || RandomState::new().hash_one(std::process::id()))?;
        let nodes = comm.allgather(&[comm.node(Call::new("trace", With::ALL))?])?.into_flat();

        let (rank, directory) = (comm.rank(), directory(&file));
        let cannot = |path: &Path, error: std::io::Error| {
            let path = path.display();
            Failure::new(format!("--trace {path}: {error}"))
        };
        fs::create_dir_all(&directory).map_err(|error| cannot(&directory, error))?;
        let part = directory.join(format!("rank-{rank}.part"));
        let program: Vec<_> = std::env::args_os().collect();
        let program: Vec<_> = program.iter().map(|word| word.to_string_lossy()).collect();
        let (host, program) = (placement::host(), program.join(" "));
        let numbers = [job, rank as u64, comm.size() as u64];
        let bytes = (args.trace_buffer as usize) << 20;
        let (tape, cpu) = Tape::create(&part, numbers, (&host, &program), bytes)
            .map_err(|error| cannot(&part, error))?;
        if rank == 0 {
            // A file that cannot be written is a pity after an hour of computing.
            Unfinished::create(&file).map_err(|error| Failure::new(format!("--trace {error}")))?;
        }
        tape.set_clocks(false, compare(&comm, &nodes)?);
        sampler::begin(rank, cpu);
        world.begin_trace(tape);
        Ok(Self { file, part, job, comm, nodes, ended: false })
    }

    /// Rank 0 gathers the parts and writes the trace. Collective.
    pub(super) fn end(mut self, world: &Comm) -> Result<(), Failure> {
        let Self { file, part, comm, nodes, .. } = &self;
        let Some(tape) = world.end_trace() else { return Ok(()) };
        sampler::end(comm.rank());
        let used = usage::of_this_thread().unwrap_or_default();
        let switches = [used.voluntary_switches, used.involuntary_switches];
        tape.end(switches, (used.cpu_s * 1e9) as u64);
        tape.set_clocks(true, compare(comm, nodes)?);
        drop(tape);
        let cannot = |path: &Path, what: String| {
            Failure::new(format!("the trace {} cannot be made: {what}", path.display()))
        };
        let mine = own_part(part, self.job).map_err(|what| cannot(part, what))?;
        if comm.rank() == 0 {
            let mut parts = vec![mine];
            for rank in 1..comm.size() {
                let (bytes, _) = comm.recv::<u8>(rank)?;
                parts.push(Part::parse(&bytes).map_err(|what| cannot(part, what))?);
            }
            let trace = Trace::of_parts(parts);
            write(file, &trace).map_err(|error| cannot(file, error.to_string()))?;
            log::info!("trace in {}: spmd view {0}", file.display());
        } else {
            comm.send(&mine.to_bytes(), 0)?;
        }
        comm.barrier()?; // what is left of the parts is needed no more
        let _ = fs::remove_file(part);
        let _ = fs::remove_dir(directory(file)); // the last one on this host
        self.ended = true;
        Ok(())
    }
}

/// Where the parts are.
fn directory(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".parts");
    PathBuf::from(name)
}

/// Complete, or what was there stays.
fn write(file: &Path, trace: &Trace) -> Result<(), FileError> {
    let unfinished = Unfinished::create(file)?;
    let mut out = BufWriter::new(unfinished.file());
    let written = trace.write_chrome(&mut out).and_then(|()| out.flush());
    drop(out);
    written.map_err(FileError::system(file, "write"))?;
    unfinished.finish()
}

/// This rank's part, unless another job that writes the same trace has put its own there.
fn own_part(path: &Path, job: u64) -> Result<Part, String> {
    let part = Part::parse(&fs::read(path).map_err(|error| error.to_string())?)?;
    if part.job() == job {
        return Ok(part);
    }
    Err("another job writes the same trace\n  help: give each job a --trace of its own".to_owned())
}

/// How this rank's clock stands to rank 0's. Those of a host are one clock; the first rank of each
/// other host asks rank 0 again and again, and what the quickest answer said is off by half its
/// round trip at most. Collective.
fn compare(comm: &Comm, nodes: &[u32]) -> Result<Clocks, Failure> {
    let leader = |rank: usize| nodes.iter().position(|&node| node == nodes[rank]).unwrap_or(rank);
    let me = comm.rank();
    let mut mine = Clocks { at_ns: now_ns(), behind_ns: 0, error_ns: 0 };
    for other in (1..comm.size()).filter(|&rank| leader(rank) == rank) {
        if me == 0 {
            for _ in 0..ROUNDS {
                comm.recv_one::<u8>(other)?;
                comm.send(&now_ns(), other)?;
            }
        } else if me == other {
            let mut quickest = u64::MAX;
            for _ in 0..ROUNDS {
                let asked = now_ns();
                comm.send(&0_u8, 0)?;
                let (theirs, _) = comm.recv_one::<u64>(0)?;
                let answered = now_ns();
                if answered - asked < quickest {
                    quickest = answered - asked;
                    let middle = asked + quickest / 2;
                    mine = Clocks {
                        at_ns: middle,
                        behind_ns: theirs as i64 - middle as i64,
                        error_ns: quickest.div_ceil(2),
                    };
                }
            }
        }
    }
    let all = comm.allgather(&[mine])?.into_flat();
    Ok(all[leader(me)])
}
