/* What the C programs beside `spmd bench` share: the same sizes, batches, statistics and columns (src/bin/spmd/bench/).
 *
 * Errors of MPI end the program (MPI_ERRORS_ARE_FATAL is the default), wrong data with code 3, wrong usage with 2.
 */
#ifndef PEER_H
#define PEER_H

#include <math.h>
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SMALL_BYTES = 8192, MOST_BATCHES = 100, MOST_SIZES = 64, PAGE_BYTES = 4096 };

/* What is measured, as `src/bin/spmd/bench/options.rs` has it. */
typedef enum { SINGLE, WINDOWED, COLLECTIVE, FILES } Kind;
typedef enum { MICROSECONDS, MEGABYTES, MESSAGES } Unit;

typedef struct {
    char **names; /* of what is measured */
    int name_count;
    const char *benchmark; /* the one under way */
    size_t given[MOST_SIZES];
    int given_count;
    size_t sizes[MOST_SIZES];
    int size_count;
    long iterations; /* 0: OSU's */
    long warmup;     /* below 0: OSU's */
    int window;
    int touched;
    const char *directory; /* of files */
} Options;

/* Repeats the communication so many times and returns the seconds that what is measured took on this rank. */
typedef double (*Repeat)(long times, int touched);

/* One benchmark at one size. */
typedef struct {
    Kind kind;
    Unit unit;
    double work; /* of one repetition: MB, messages, or 1 */
    int timed;   /* whether this rank's times count */
    Repeat repeat;
    void (*prepare)(void);
    int (*is_right)(void);
} Benchmark;

static int rank, ranks;

static void usage(const char *names) {
    if (rank == 0)
        fprintf(stderr, "usage: NAME... [--sizes BYTES,...] [--iterations COUNT] [--warmup COUNT] [--window COUNT] [--directory DIR] [--touched]\n"
                        "  NAME is one of: %s\n", names);
    MPI_Finalize();
    exit(2);
}

/* A number of bytes, perhaps with K or M behind it; ends at a comma. */
static size_t parse_bytes(const char **text, const char *names) {
    char *end;
    size_t bytes = strtoul(*text, &end, 10);
    if (end == *text) usage(names);
    if (*end == 'K') bytes <<= 10, end++;
    else if (*end == 'M') bytes <<= 20, end++;
    if (*end == ',') end++;
    else if (*end) usage(names);
    *text = end;
    return bytes;
}

static Options parse(int count, char **words, const char *names) {
    Options options = {.warmup = -1, .window = 64, .directory = "/tmp"};
    options.names = words + 1;
    while (1 + options.name_count < count && strncmp(words[1 + options.name_count], "--", 2)) options.name_count++;
    if (!options.name_count) usage(names);
    for (int at = 1 + options.name_count; at < count; at++) {
        const char *word = words[at], *value = at + 1 < count ? words[at + 1] : "";
        if (!strcmp(word, "--touched")) {
            options.touched = 1;
            continue;
        }
        at++;
        if (!strcmp(word, "--sizes")) {
            while (*value && options.given_count < MOST_SIZES) options.given[options.given_count++] = parse_bytes(&value, names);
        } else if (!strcmp(word, "--iterations") && atol(value) > 0) options.iterations = atol(value);
        else if (!strcmp(word, "--warmup") && *value) options.warmup = atol(value);
        else if (!strcmp(word, "--directory") && *value) options.directory = value;
        else if (!strcmp(word, "--window") && atoi(value) > 0) options.window = atoi(value);
        else usage(names);
    }
    return options;
}

/* The sizes that were given, else those that OSU measures. */
static void choose_sizes(Options *options, size_t min, size_t max) {
    memcpy(options->sizes, options->given, sizeof options->sizes);
    options->size_count = options->given_count;
    if (options->size_count) return;
    for (size_t bytes = min; bytes <= max; bytes *= 2) options->sizes[options->size_count++] = bytes;
}

/* The clock that Rust's Instant reads. */
static inline double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Memory that begins on a page, written once. */
static void *buffer(size_t bytes) {
    void *memory = NULL;
    if (posix_memalign(&memory, PAGE_BYTES, bytes ? bytes : 1)) MPI_Abort(MPI_COMM_WORLD, 1);
    memset(memory, 1, bytes);
    return memory;
}

static inline unsigned char pattern(size_t key, size_t index) { return (unsigned char)(key * 37 + index * 7 + index / 256); }

static inline void write_pattern(unsigned char *bytes, size_t count, size_t key) {
    for (size_t index = 0; index < count; index++) bytes[index] = pattern(key, index);
}

static inline int has_pattern(const unsigned char *bytes, size_t count, size_t key) {
    for (size_t index = 0; index < count; index++)
        if (bytes[index] != pattern(key, index)) return 0;
    return 1;
}

static volatile uint64_t sink;

/* Reads all of it, as a program does that uses what it has received. */
static void read_all(const void *memory, size_t bytes) {
    const uint64_t *words = memory;
    uint64_t sum = 0;
    for (size_t at = 0; at < bytes / 8; at++) sum += words[at];
    sink = sum;
}

static int ascending(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

/* Between minus and plus this many standard errors lie 95 % of Student's distribution (see src/bin/spmd/bench/summary.rs). */
static double student_t(int freedom) {
    const double z = 1.959964, v = freedom;
    if (freedom == 1) return 12.706;
    if (freedom == 2) return 4.303;
    if (freedom == 3) return 3.182;
    return z + (pow(z, 3) + z) / 4 / v + (5 * pow(z, 5) + 16 * pow(z, 3) + 3 * z) / 96 / (v * v) +
           (3 * pow(z, 7) + 19 * pow(z, 5) + 17 * pow(z, 3) - 15 * z) / 384 / (v * v * v);
}

static double convert(const Benchmark *what, double seconds) {
    return what->unit == MICROSECONDS ? seconds * 1e6 : what->work / (seconds > 1e-9 ? seconds : 1e-9);
}

static void print_header(void) {
    if (rank == 0) puts("engine,ranks,touched,benchmark,bytes,iterations,unit,mean,median,p99,ci_low,ci_high,min,max");
}

/* Checks, warms up, times in batches, and prints a line. */
static void measure(const Benchmark *what, const Options *options, size_t bytes) {
    int small = bytes <= SMALL_BYTES;
    long usual = what->kind == WINDOWED ? (small ? 100 : 20) : what->kind == COLLECTIVE ? (small ? 1000 : 100) : (small ? 10000 : 1000);
    long usual_warmup = what->kind == WINDOWED ? (small ? 10 : 2) : (small ? 100 : 10);
    if (what->kind == FILES) usual = 5, usual_warmup = 1;
    long iterations = options->iterations ? options->iterations : usual;
    long warmup = options->warmup >= 0 ? options->warmup : usual_warmup;

    what->prepare();
    MPI_Barrier(MPI_COMM_WORLD);
    what->repeat(1, 0);
    int wrong = !what->is_right(), any = 0;
    MPI_Allreduce(&wrong, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    if (any) {
        if (rank == 0) fprintf(stderr, "error: %s of %zu bytes brought wrong data\n", options->benchmark, bytes);
        MPI_Finalize();
        exit(3);
    }
    what->repeat(warmup, options->touched);
    MPI_Barrier(MPI_COMM_WORLD);

    /* Seconds per repetition of each batch, then this rank's mean, then whether they count. */
    double mine[MOST_BATCHES + 2] = {0}, sums[MOST_BATCHES + 2];
    int batches = iterations < MOST_BATCHES ? (int)iterations : MOST_BATCHES;
    double total = 0;
    for (int batch = 0; batch < batches; batch++) {
        long times = iterations / batches + (batch < iterations % batches);
        double took = what->repeat(times, options->touched);
        total += took;
        mine[batch] = what->timed ? took / (double)times : 0;
    }
    double mean = total / (double)iterations;
    mine[batches] = what->timed ? mean : 0;
    mine[batches + 1] = what->timed ? 1 : 0;
    double shortest = what->timed ? mean : INFINITY, longest = what->timed ? mean : 0, fastest, slowest;
    MPI_Allreduce(mine, sums, batches + 2, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    MPI_Allreduce(&shortest, &fastest, 1, MPI_DOUBLE, MPI_MIN, MPI_COMM_WORLD);
    MPI_Allreduce(&longest, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    if (rank != 0) return;

    double timed = sums[batches + 1], average = 0, squares = 0;
    mean = sums[batches] / timed;
    for (int batch = 0; batch < batches; batch++) sums[batch] /= timed, average += sums[batch] / batches;
    for (int batch = 0; batch < batches; batch++) squares += (sums[batch] - average) * (sums[batch] - average);
    double margin = batches < 2 ? 0 : student_t(batches - 1) * sqrt(squares / (batches - 1) / batches);
    qsort(sums, (size_t)batches, sizeof *sums, ascending);
    double median = batches % 2 ? sums[batches / 2] : (sums[batches / 2 - 1] + sums[batches / 2]) / 2;
    double least = mean - margin > sums[0] ? mean - margin : sums[0];
    int last = (int)ceil(0.99 * batches);
    double p99 = sums[(last < 1 ? 1 : last) - 1];
    int less = what->unit == MICROSECONDS;
    static const char *units[] = {"us", "MB/s", "messages/s"};
    printf("C,%d,%s,%s,%zu,%ld,%s,%.6f,%.6f,%.6f,%.6f,%.6f,%.6f,%.6f\n", ranks, options->touched ? "true" : "false",
           options->benchmark, bytes, iterations, units[what->unit], convert(what, mean), convert(what, median),
           convert(what, p99), convert(what, less ? least : mean + margin),
           convert(what, less ? mean + margin : least), convert(what, less ? fastest : slowest),
           convert(what, less ? slowest : fastest));
    fflush(stdout);
}

static Options start(int *count, char ***words, const char *names) {
    MPI_Init(count, words);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    Options options = parse(*count, *words, names);
    print_header();
    return options;
}

#endif
