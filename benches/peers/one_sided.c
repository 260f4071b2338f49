/* The loops of src/bin/spmd/bench/one_sided.rs in C: put get. */
#include "peer.h"

#define NAMES "put get"

static int get, target;
static size_t bytes;
static unsigned char *mine, *part;
static MPI_Win window;

static void prepare(void) {
    write_pattern(mine, bytes, 0);
    write_pattern(part, bytes, 1);
}

/* A put changes the target's part, a get the origin's buffer. */
static int is_right(void) {
    if (!get && rank == 1) {
        MPI_Win_lock(MPI_LOCK_SHARED, 1, 0, window);
        int right = has_pattern(part, bytes, 0);
        MPI_Win_unlock(1, window);
        return right;
    }
    return !get || rank != 0 || has_pattern(mine, bytes, 1);
}

static double accesses(long times, int touched) {
    double took = 0;
    if (rank == 0) {
        MPI_Win_lock(MPI_LOCK_SHARED, target, 0, window);
        double start = now();
        for (long turn = 0; turn < times; turn++) {
            if (get) MPI_Get(mine, (int)bytes, MPI_CHAR, target, 0, (int)bytes, MPI_CHAR, window);
            else {
                if (touched) memset(mine, (int)turn, bytes);
                MPI_Put(mine, (int)bytes, MPI_CHAR, target, 0, (int)bytes, MPI_CHAR, window);
            }
            MPI_Win_flush(target, window);
            if (get && touched) read_all(mine, bytes);
        }
        took = now() - start;
        MPI_Win_unlock(target, window);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    return took;
}

static void run(Options *options) {
    get = !strcmp(options->benchmark, "get"), target = 1;
    if (!get && strcmp(options->benchmark, "put")) usage(NAMES);
    choose_sizes(options, 1, (size_t)4 << 20);
    for (int at = 0; at < options->size_count; at++) {
        bytes = options->sizes[at];
        mine = buffer(bytes);
        MPI_Win_allocate((MPI_Aint)bytes, 1, MPI_INFO_NULL, MPI_COMM_WORLD, &part, &window);
        Benchmark what = {.kind = SINGLE, .unit = MICROSECONDS, .work = 1, .timed = rank == 0, .prepare = prepare, .is_right = is_right};
        what.repeat = accesses;
        measure(&what, options, bytes);
        MPI_Win_free(&window);
        free(mine);
    }
}

int main(int count, char **words) {
    Options options = start(&count, &words, NAMES);
    if (ranks < 2) usage(NAMES);
    for (int name = 0; name < options.name_count; name++) options.benchmark = options.names[name], run(&options);
    MPI_Finalize();
    return 0;
}
