/* What of the repair of `tests/ulfm.rs` (--on-loss shrink) plain C does: allreduces until one of the ranks kills itself; the others
 * revoke, shrink, agree, and make the next allreduce. Run by `mpirun --with-ft ulfm`; the words are RANK CALL: who, at which call.
 *
 * Prints the seconds from the loss until the last of the others knows of it, and until all are at work again.
 */
#include <mpi.h>
#include <mpi-ext.h> /* needs what is before it */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time); /* the same for all processes of a machine */
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void ended(const char *what) {
    fprintf(stderr, "losses: %s\n", what);
    _exit(1);
}

int main(int count, char **words) {
    MPI_Init(&count, &words);
    if (count != 3) ended("usage: RANK CALL");
    int lost = atoi(words[1]), call = atoi(words[2]), rank, ranks;
    MPI_Comm world, left;
    MPI_Comm_dup(MPI_COMM_WORLD, &world);
    MPI_Comm_set_errhandler(world, MPI_ERRORS_RETURN);
    MPI_Comm_rank(world, &rank);
    MPI_Comm_size(world, &ranks);
    if (ranks < 2 || lost < 0 || lost >= ranks) ended("RANK is one of two or more");

    double began = 0, all = 0;
    int code = MPI_SUCCESS;
    for (int made = 0; code == MPI_SUCCESS; made++) {
        if (made == call) {
            /* When: the others hear it before it happens. */
            began = now();
            MPI_Bcast(&began, 1, MPI_DOUBLE, lost, world);
            if (rank == lost) {
                began = now();
                raise(SIGKILL);
            }
        }
        double mine = rank;
        code = MPI_Allreduce(&mine, &all, 1, MPI_DOUBLE, MPI_SUM, world);
    }
    double knows = now() - began;

    MPIX_Comm_revoke(world);
    if (MPIX_Comm_shrink(world, &left) != MPI_SUCCESS) ended("no communicator of those that are left");
    MPI_Comm_set_errhandler(left, MPI_ERRORS_RETURN);
    int good = 1;
    if (MPIX_Comm_agree(left, &good) != MPI_SUCCESS) ended("no agreement");
    double mine = rank, sum = 0;
    if (MPI_Allreduce(&mine, &sum, 1, MPI_DOUBLE, MPI_SUM, left) != MPI_SUCCESS) ended("those that are left do not go on");
    if (sum != ranks * (ranks - 1) / 2.0 - lost) ended("a wrong sum");

    double times[2] = {knows, now() - began}, most[2];
    MPI_Allreduce(times, most, 2, MPI_DOUBLE, MPI_MAX, left);
    MPI_Comm_rank(left, &rank);
    if (rank == 0) {
        printf("%.6f %.6f\n", most[0], most[1]);
        fflush(stdout);
    }
    /* Its end may hang after a loss. */
    MPIX_Comm_agree(left, &good);
    _exit(0);
}
