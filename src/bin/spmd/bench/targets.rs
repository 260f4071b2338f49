//! What the project wants to reach, against C on the same machine.

use super::options::Benchmark;

const KIB: usize = 1 << 10;

/// How many times as fast as C on the best MPI `local` is to be, if there is an aim for this case.
///
/// `crowded`: with more ranks than one per core.
pub(super) fn local_at_least(
    benchmark: Benchmark,
    bytes: usize,
    touched: bool,
    crowded: bool,
) -> Option<f64> {
    match (benchmark, crowded, touched) {
        (Benchmark::Barrier | Benchmark::Allreduce, true, false) => Some(1.9),
        (Benchmark::Alltoall, true, false) => Some(1.2),
        (Benchmark::Bcast, true, false) => Some(1.0),
        (_, true, _) => None,
        (Benchmark::Latency, _, true) => (8 * KIB..=512 * KIB).contains(&bytes).then_some(1.5),
        (_, _, true) => None,
        (Benchmark::Latency, ..) => match bytes {
            ..=8 => Some(2.2),
            128..=512 => Some(1.3),
            _ => None,
        },
        (Benchmark::MessageRate, ..) => (bytes <= 512).then_some(1.0),
        (Benchmark::Bandwidth, ..) => (bytes >= 8 * KIB).then_some(2.0),
        (Benchmark::Barrier, ..) => Some(4.0),
        (Benchmark::Bcast, ..) => Some(1.3),
        (Benchmark::Allreduce, ..) => Some(1.5),
        (Benchmark::Alltoall, ..) => Some(2.4),
        _ => None,
    }
}

/// How many times as long as C on the same MPI `mpi` may take, if there is an aim for this case.
pub(super) fn mpi_at_most(benchmark: Benchmark, bytes: usize) -> Option<f64> {
    match benchmark {
        Benchmark::Latency | Benchmark::MessageRate if bytes <= 8 => Some(1.05),
        Benchmark::Latency | Benchmark::Bandwidth if bytes >= 64 * KIB => Some(1.02),
        benchmark if benchmark.is_collective() => Some(1.05),
        _ => None,
    }
}
