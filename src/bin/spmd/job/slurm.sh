#!/bin/bash
#@about
#
# What is set here is overridden on the command line of sbatch: sbatch --nodes=8 --time=02:00:00 ...
# Variables: LAUNCHER=srun|mpirun (__LAUNCHER__), MPI_TYPE=pmix|pmi2|... (pmix for Open MPI, pmi2 for MPICH),
# MODULES="openmpi hdf5" (loaded first).
#
# A program that keeps checkpoints (--checkpoint DIR) stops before its time is up, with exit code 5; the job goes back into the
# queue then and goes on where it was (REQUEUE=no: it does not). It knows the time from SLURM (22.05 or newer); it can also be
#@told
#
#SBATCH --job-name=__NAME__
#SBATCH --nodes=__NODES__
#SBATCH --ntasks-per-node=__RANKS_PER_NODE__
#SBATCH --cpus-per-task=__THREADS__
#SBATCH --time=__TIME__
#@more
# One rank thread per core, neighbouring ranks on the same host and socket.
#SBATCH --hint=nomultithread
#SBATCH --distribution=block:block
# Where SLURM notices the loss of a host the job starts again and goes on in the same log file; mpirun, which notices it sooner,
# ends the job.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=__LOG__

set -euo pipefail

#@program

for module in ${MODULES:-__MODULES__}; do module load "$module"; done

cpus=${SLURM_CPUS_PER_TASK:-1}
# The rayon pool of a rank gets the size that spmd is told; the others are for what else a program links.
export SPMD_THREADS="${SPMD_THREADS:-$cpus}"
export RAYON_NUM_THREADS="$cpus" OMP_NUM_THREADS="$cpus"

launcher=${LAUNCHER:-__LAUNCHER__}
case "$launcher" in
    srun)
        # The name of the plugin that starts MPI depends on the library that the program is linked with.
        if [ -z "${MPI_TYPE:-}" ]; then
            if mpirun --version 2>/dev/null | grep -qiE 'hydra|mpich|intel'; then MPI_TYPE=pmi2; else MPI_TYPE=pmix; fi
        fi
        # SLURM 22.05 to 23.02 do not hand --cpus-per-task on to srun.
        export SRUN_CPUS_PER_TASK="$cpus"
        command=(srun "--mpi=$MPI_TYPE" "--cpus-per-task=$cpus" --cpu-bind=cores)
        ;;
    mpirun)
        # Both know the allocation by themselves. They start one task of their own on each host by srun, in which all ranks of
        # the host live: it must have all of the job's CPUs there, not those of one rank.
        unset SRUN_CPUS_PER_TASK
        export SLURM_CPU_BIND=none
        # Open MPI would bind each rank to a single core.
        if mpirun --version 2>/dev/null | grep -q 'Open MPI'; then
            command=(mpirun -n "$SLURM_NTASKS" --map-by "slot:PE=$cpus")
            # A host that dies says nothing: mpirun asks after 3 s of silence, and gives it up after 3 questions.
            for setting in OMPI_MCA_oob_tcp PRTE_MCA_oob_tcp; do
                export "${setting}_keepalive_time=3" "${setting}_keepalive_intvl=1" "${setting}_keepalive_probes=3"
            done
        else
            # Hydra starts its proxies by srun, which are no MPI programs.
            export SLURM_MPI_TYPE=none
            command=(mpirun -n "$SLURM_NTASKS")
        fi
        ;;
    *)
        echo "error: there is no launcher $launcher" >&2
        echo "  help: set LAUNCHER to srun or mpirun" >&2
        exit 2
        ;;
esac

#@restarts
echo "job ${SLURM_JOB_ID:-?} on ${SLURM_JOB_NODELIST:-?}, start ${SLURM_RESTART_COUNT:-0}: ${command[*]} $*"

# The signal reaches this script alone, which hands it on: launchers hand USR1 on to all ranks, TERM ends them soon.
told=
requeue=${REQUEUE:-yes}
# shellcheck disable=SC2317,SC2329 # called by the traps
tell_program() {
    told=yes
    for child in $(jobs -p); do kill "-$1" "$child" 2>/dev/null || true; done
}
trap 'echo "job ${SLURM_JOB_ID:-?}: the time is nearly up, stopping the program" >&2; tell_program USR1' USR1
# Whoever ends the job does not want it again.
trap 'requeue=no; tell_program TERM' TERM INT

# In the background: a shell hears of signals only between the programs that it runs in the foreground.
"${command[@]}" "$@" &
job=$!
# A signal ends `wait`, not the program; then its end is still to come.
while
    told=
    code=0
    wait "$job" || code=$?
    [ -n "$told" ]
do :; done
# Stopped, to be continued.
if [ "$code" -eq 5 ] && [ "$requeue" = yes ]; then
    echo "job ${SLURM_JOB_ID:-?}: to be continued" >&2
    scontrol requeue "$SLURM_JOB_ID" || true
fi
exit "$code"
