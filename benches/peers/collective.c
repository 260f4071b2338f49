/* The loops of src/bin/spmd/bench/collective.rs in C: barrier bcast reduce allreduce allgather alltoall scan. */
#include "peer.h"

#define NAMES "barrier bcast reduce allreduce allgather alltoall scan"

enum { ROOT = 0 };

static enum { BARRIER, BCAST, REDUCE, ALLREDUCE, ALLGATHER, ALLTOALL, SCAN } call;
static const char *const names[] = {"barrier", "bcast", "reduce", "allreduce", "allgather", "alltoall", "scan"};
static size_t bytes, outgoing_bytes, incoming_bytes;
static void *outgoing, *incoming;

static int is_reduction(void) { return call == REDUCE || call == ALLREDUCE || call == SCAN; }

static float float_at(size_t key, size_t index) { return (float)(pattern(key, index) % 64); }

static void prepare(void) {
    unsigned char *rows = outgoing;
    if (is_reduction()) {
        for (size_t index = 0; index < bytes / sizeof(float); index++)
            ((float *)outgoing)[index] = float_at((size_t)rank, index), ((float *)incoming)[index] = -1;
        return;
    }
    write_pattern(incoming, incoming_bytes, SIZE_MAX / 64);
    if (call == BCAST && rank == ROOT) write_pattern(incoming, bytes, ROOT);
    if (call == ALLGATHER) write_pattern(outgoing, bytes, (size_t)rank);
    if (call == ALLTOALL)
        for (int to = 0; to < ranks; to++) write_pattern(rows + (size_t)to * bytes, bytes, (size_t)(rank * ranks + to));
}

static int is_right(void) {
    const unsigned char *rows = incoming;
    int added = call == SCAN ? rank + 1 : ranks;
    if (call == BARRIER || (call == REDUCE && rank != ROOT)) return 1;
    if (call == BCAST) return has_pattern(rows, bytes, ROOT);
    if (is_reduction()) {
        for (size_t index = 0; index < bytes / sizeof(float); index++) {
            float expected = 0;
            for (int from = 0; from < added; from++) expected += float_at((size_t)from, index);
            if (((const float *)incoming)[index] != expected) return 0;
        }
        return 1;
    }
    for (int from = 0; from < ranks; from++) {
        size_t key = call == ALLGATHER ? (size_t)from : (size_t)(from * ranks + rank);
        if (!has_pattern(rows + (size_t)from * bytes, bytes, key)) return 0;
    }
    return 1;
}

static double barriers(long times, int touched) {
    (void)touched;
    double start = now();
    for (long turn = 0; turn < times; turn++) MPI_Barrier(MPI_COMM_WORLD);
    return now() - start;
}

static void touch(long turn) {
    if (call == BCAST && rank == ROOT) memset(incoming, (int)turn, bytes);
    if (is_reduction())
        for (size_t index = 0; index < bytes / sizeof(float); index++) ((float *)outgoing)[index] = (float)(turn % 64);
    else memset(outgoing, (int)turn, outgoing_bytes);
}

static double calls(long times, int touched) {
    int count = (int)bytes, floats = (int)(bytes / sizeof(float));
    double took = 0;
    for (long turn = 0; turn < times; turn++) {
        if (touched) touch(turn);
        double start = now();
        switch (call) {
        case BARRIER: break;
        case BCAST: MPI_Bcast(incoming, count, MPI_CHAR, ROOT, MPI_COMM_WORLD); break;
        case REDUCE: MPI_Reduce(outgoing, incoming, floats, MPI_FLOAT, MPI_SUM, ROOT, MPI_COMM_WORLD); break;
        case ALLREDUCE: MPI_Allreduce(outgoing, incoming, floats, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD); break;
        case ALLGATHER: MPI_Allgather(outgoing, count, MPI_CHAR, incoming, count, MPI_CHAR, MPI_COMM_WORLD); break;
        case ALLTOALL: MPI_Alltoall(outgoing, count, MPI_CHAR, incoming, count, MPI_CHAR, MPI_COMM_WORLD); break;
        case SCAN: MPI_Scan(outgoing, incoming, floats, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD); break;
        }
        took += now() - start;
        if (touched) read_all(incoming, incoming_bytes);
        MPI_Barrier(MPI_COMM_WORLD);
    }
    return took;
}

static void run(Options *options) {
    int known = 0;
    for (size_t at = 0; at < sizeof names / sizeof *names; at++)
        if (!strcmp(options->benchmark, names[at])) call = (int)at, known = 1;
    if (!known) usage(NAMES);
    choose_sizes(options, is_reduction() ? sizeof(float) : 1, (size_t)1 << 20);
    if (call == BARRIER) options->sizes[0] = 0, options->size_count = 1;
    for (int at = 0; at < options->size_count; at++) {
        bytes = options->sizes[at];
        if (is_reduction() && bytes % sizeof(float)) usage(NAMES);
        outgoing_bytes = call == BCAST ? 0 : call == ALLTOALL ? bytes * (size_t)ranks : bytes;
        incoming_bytes = call == ALLGATHER || call == ALLTOALL ? bytes * (size_t)ranks : bytes;
        outgoing = buffer(outgoing_bytes), incoming = buffer(incoming_bytes);
        Benchmark what = {.kind = COLLECTIVE, .unit = MICROSECONDS, .work = 1, .timed = 1, .prepare = prepare, .is_right = is_right};
        what.repeat = call == BARRIER ? barriers : calls;
        measure(&what, options, bytes);
        free(outgoing), free(incoming);
    }
}

int main(int count, char **words) {
    Options options = start(&count, &words, NAMES);
    for (int name = 0; name < options.name_count; name++) options.benchmark = options.names[name], run(&options);
    MPI_Finalize();
    return 0;
}
