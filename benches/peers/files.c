/* The loops of src/bin/spmd/bench/files.rs in C: file-write file-read. All ranks in one contiguous dataset of HDF5, by one
 * collective transfer; written until it is on its disk. */
#include "peer.h"

#include <fcntl.h>
#include <hdf5.h>
#include <unistd.h>

#define NAMES "file-write file-read"

enum { OF_RANKS = 0, OF_FILE = 1 };

static int reads;
static hsize_t bytes, first, count;
static unsigned char *part;
static char path[4096];

static void fail(const char *what) {
    fprintf(stderr, "error: rank %d cannot %s %s\n", rank, what, path);
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static hid_t together(hid_t class) {
    hid_t list = H5Pcreate(class);
    if (class == H5P_FILE_ACCESS ? H5Pset_fapl_mpio(list, MPI_COMM_WORLD, MPI_INFO_NULL) < 0
                                 : H5Pset_dxpl_mpio(list, H5FD_MPIO_COLLECTIVE) < 0)
        fail("use MPI for");
    return list;
}

static void transfer(int write) {
    hid_t access = together(H5P_FILE_ACCESS), all = together(H5P_DATASET_XFER);
    hid_t file = write ? H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, access) : H5Fopen(path, H5F_ACC_RDONLY, access);
    hid_t space = H5Screate_simple(1, &bytes, NULL), memory = H5Screate_simple(1, &count, NULL);
    H5Sselect_hyperslab(space, H5S_SELECT_SET, &first, NULL, &count, NULL);
    hid_t made = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_fill_time(made, H5D_FILL_TIME_NEVER);
    hid_t data = write ? H5Dcreate2(file, "field", H5T_NATIVE_UCHAR, space, H5P_DEFAULT, made, H5P_DEFAULT)
                       : H5Dopen2(file, "field", H5P_DEFAULT);
    if (write ? H5Dwrite(data, H5T_NATIVE_UCHAR, memory, space, all, part) < 0
              : H5Dread(data, H5T_NATIVE_UCHAR, memory, space, all, part) < 0)
        fail("transfer");
    if (H5Dclose(data) < 0 || H5Fclose(file) < 0) fail("close");
    H5Pclose(made), H5Sclose(memory), H5Sclose(space), H5Pclose(all), H5Pclose(access);
    if (write && rank == 0) {
        int disk = open(path, O_RDWR);
        if (disk < 0 || fsync(disk) || close(disk)) fail("bring to its disk");
    }
    MPI_Barrier(MPI_COMM_WORLD);
}

static void fill(size_t key) {
    for (hsize_t index = 0; index < count; index++) part[index] = pattern(key, first + index);
}

static int holds(size_t key) {
    for (hsize_t index = 0; index < count; index++)
        if (part[index] != pattern(key, first + index)) return 0;
    return 1;
}

static void prepare(void) {
    if (reads) memset(part, 0, count);
    else fill(OF_RANKS);
}

static int is_right(void) {
    if (reads) return holds(OF_FILE);
    memset(part, 0, count);
    transfer(0);
    return holds(OF_RANKS);
}

static double transfers(long times, int touched) {
    double took = 0;
    for (long turn = 0; turn < times; turn++) {
        if (touched && !reads) memset(part, (int)turn, count);
        MPI_Barrier(MPI_COMM_WORLD);
        double start = now();
        transfer(!reads);
        took += now() - start;
        if (touched && reads) read_all(part, count);
    }
    return took;
}

static void run(Options *options) {
    reads = !strcmp(options->benchmark, "file-read");
    if (!reads && strcmp(options->benchmark, "file-write")) usage(NAMES);
    choose_sizes(options, (size_t)1 << 20, (size_t)64 << 20);
    for (int at = 0; at < options->size_count; at++) {
        bytes = options->sizes[at];
        first = bytes * (hsize_t)rank / (hsize_t)ranks;
        count = bytes * (hsize_t)(rank + 1) / (hsize_t)ranks - first;
        part = buffer(count);
        fill(OF_FILE);
        transfer(1);
        Benchmark what = {.kind = FILES, .unit = MEGABYTES, .work = (double)bytes / 1e6, .timed = 1, .prepare = prepare, .is_right = is_right};
        what.repeat = transfers;
        measure(&what, options, bytes);
        free(part);
        MPI_Barrier(MPI_COMM_WORLD);
        if (rank == 0) unlink(path);
    }
}

int main(int words, char **word) {
    Options options = start(&words, &word, NAMES);
    int process = (int)getpid();
    MPI_Bcast(&process, 1, MPI_INT, 0, MPI_COMM_WORLD);
    snprintf(path, sizeof path, "%s/spmd-peer-%d.h5", options.directory, process);
    for (int name = 0; name < options.name_count; name++) options.benchmark = options.names[name], run(&options);
    MPI_Finalize();
    return 0;
}
