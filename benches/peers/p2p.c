/* The loops of src/bin/spmd/bench/p2p.rs in C: latency bandwidth bibandwidth message-rate. */
#include "peer.h"

#define NAMES "latency bandwidth bibandwidth message-rate"

enum { TAG = 1, ACKNOWLEDGED = 101, ACKNOWLEDGEMENT = 4 };

static enum { FIRST, SECOND, IDLE } role;
static int peer;
static int both_ways, window;
static size_t bytes;
static unsigned char **outgoing, **incoming; /* of each message of a window; a latency has one */
static MPI_Request *requests;

static void one_pair(void) {
    role = rank == 0 ? FIRST : rank == 1 ? SECOND : IDLE;
    peer = 1 - rank;
}

static void all_pairs(void) {
    int pairs = ranks / 2;
    role = rank / pairs == 0 ? FIRST : rank / pairs == 1 ? SECOND : IDLE;
    peer = role == FIRST ? rank + pairs : rank - pairs;
}

static int sends(void) { return role == FIRST || (role == SECOND && both_ways); }
static int receives(void) { return role == SECOND || (role == FIRST && both_ways); }

static size_t key_of_mine(void) { return role == SECOND ? 1 : 0; }
static size_t key_of_theirs(void) { return role == SECOND ? 0 : 1; }

static void prepare(void) {
    for (int number = 0; number < window; number++) {
        if (sends()) write_pattern(outgoing[number], bytes, key_of_mine() + 2 * (size_t)number);
        if (receives()) write_pattern(incoming[number], bytes, key_of_theirs() + 2 * (size_t)number + 1);
    }
}

static int is_right(void) {
    for (int number = 0; receives() && number < window; number++)
        if (!has_pattern(incoming[number], bytes, key_of_theirs() + 2 * (size_t)number)) return 0;
    return 1;
}

static void ping(long turn, int touched) {
    if (touched) memset(outgoing[0], (int)turn, bytes);
    MPI_Send(outgoing[0], (int)bytes, MPI_CHAR, peer, TAG, MPI_COMM_WORLD);
}

static void pong(int touched) {
    MPI_Recv(incoming[0], (int)bytes, MPI_CHAR, peer, TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    if (touched) read_all(incoming[0], bytes);
}

static double round_trips(long times, int touched) {
    double start = now();
    if (role == FIRST)
        for (long turn = 0; turn < times; turn++) ping(turn, touched), pong(touched);
    else if (role == SECOND)
        for (long turn = 0; turn < times; turn++) pong(touched), ping(turn, touched);
    return (now() - start) / 2;
}

static void turn_of_windows(long turn, int touched) {
    int posted = 0;
    if (receives())
        for (int number = 0; number < window; number++)
            MPI_Irecv(incoming[number], (int)bytes, MPI_CHAR, peer, TAG, MPI_COMM_WORLD, &requests[posted++]);
    if (sends())
        for (int number = 0; number < window; number++) {
            if (touched) memset(outgoing[number], (int)turn, bytes);
            MPI_Isend(outgoing[number], (int)bytes, MPI_CHAR, peer, TAG, MPI_COMM_WORLD, &requests[posted++]);
        }
    MPI_Waitall(posted, requests, MPI_STATUSES_IGNORE);
    if (receives() && touched)
        for (int number = 0; number < window; number++) read_all(incoming[number], bytes);
}

static double windows(long times, int touched) {
    char note[ACKNOWLEDGEMENT] = {0};
    double start = now();
    if (role != IDLE)
        for (long turn = 0; turn < times; turn++) {
            turn_of_windows(turn, touched);
            if (both_ways) continue;
            if (role == FIRST) MPI_Recv(note, ACKNOWLEDGEMENT, MPI_CHAR, peer, ACKNOWLEDGED, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            else MPI_Send(note, ACKNOWLEDGEMENT, MPI_CHAR, peer, ACKNOWLEDGED, MPI_COMM_WORLD);
        }
    return now() - start;
}

static void run(Options *options) {
    int latency = !strcmp(options->benchmark, "latency"), bandwidth = !strcmp(options->benchmark, "bandwidth");
    int bibandwidth = !strcmp(options->benchmark, "bibandwidth"), rate = !strcmp(options->benchmark, "message-rate");
    if (!(latency || bandwidth || bibandwidth || rate)) usage(NAMES);
    if (rate) all_pairs();
    else one_pair();
    both_ways = latency || bibandwidth;
    window = latency ? 1 : options->window;
    choose_sizes(options, 1, (size_t)4 << 20);
    outgoing = calloc((size_t)window, sizeof *outgoing), incoming = calloc((size_t)window, sizeof *incoming);
    requests = malloc(2 * (size_t)window * sizeof *requests);
    for (int at = 0; at < options->size_count; at++) {
        bytes = options->sizes[at];
        for (int number = 0; number < window; number++) {
            if (sends()) outgoing[number] = buffer(bytes);
            if (receives()) incoming[number] = buffer(bytes);
        }
        double megabytes = (double)bytes * window / 1e6;
        Benchmark what = {.kind = WINDOWED, .repeat = windows, .timed = role == FIRST, .prepare = prepare, .is_right = is_right};
        if (latency) what.kind = SINGLE, what.unit = MICROSECONDS, what.work = 1, what.repeat = round_trips;
        if (bandwidth || bibandwidth) what.unit = MEGABYTES, what.work = bibandwidth ? 2 * megabytes : megabytes;
        if (rate) what.unit = MESSAGES, what.work = (double)window * (ranks / 2);
        measure(&what, options, bytes);
        for (int number = 0; number < window; number++) {
            if (sends()) free(outgoing[number]);
            if (receives()) free(incoming[number]);
        }
    }
    free(outgoing), free(incoming), free(requests);
}

int main(int count, char **words) {
    Options options = start(&count, &words, NAMES);
    if (ranks < 2) usage(NAMES);
    for (int name = 0; name < options.name_count; name++) options.benchmark = options.names[name], run(&options);
    MPI_Finalize();
    return 0;
}
