#!/bin/bash
# A batch job of an spmd program under Flux, written by `spmd job flux`:
#
#     flux batch job.flux target/release/examples/heat2d --size 8192,8192 --steps 1000
#
# What is set here is overridden on the command line of flux batch: flux batch --nodes=8 --nslots=16 --time-limit=2h ...
# Variables: RANKS_PER_NODE=2, SPMD_THREADS=2 (cores of a rank, and its threads), MPI_TYPE=pmix|simple|... (how ranks
# find each other: Open MPI 5 wants pmix, for which the site has the plugin flux-pmix), MODULES="openmpi hdf5" (loaded first).
#
# A program that keeps checkpoints (--checkpoint DIR) stops 30 s before its time is up (STOP_BEFORE=30), with exit code 5; the job is
# submitted again then, as it was, and goes on where it was (REQUEUE=no: it is not). It is told how much time it has, by
# SPMD_WALLTIME. (Not by flux batch --signal: of a job of several hosts that ends all brokers but the first.)
#
#flux: --job-name=spmd
#flux: --nodes=2
#flux: --nslots=4
#flux: --cores-per-slot=2
#flux: --time-limit=1800s
#flux: --output={{name}}-{{id}}.log

set -euo pipefail

if [ $# -eq 0 ]; then
    echo "error: no program given" >&2
    echo "  help: flux batch $(basename "$0") PROGRAM [ARGUMENT]..." >&2
    exit 2
fi

for module in ${MODULES:-}; do module load "$module"; done

threads=${SPMD_THREADS:-2}
# The rayon pool of a rank gets the size that spmd is told; the others are for what else a program links.
export SPMD_THREADS="$threads" RAYON_NUM_THREADS="$threads" OMP_NUM_THREADS="$threads"

# Commands of flux speak to an instance of the job's own here, of as many brokers as it has hosts.
nodes=$(flux getattr size)
ranks=$((nodes * ${RANKS_PER_NODE:-2}))
command=(flux run "--nodes=$nodes" "--ntasks=$ranks" "--cores-per-task=$threads" --setopt=cpu-affinity=per-task)
[ -z "${MPI_TYPE:-}" ] || command+=("--setopt=pmi=$MPI_TYPE")

# In whole seconds; at the end of them Flux ends a job hard.
left=$(flux job timeleft 2>/dev/null || echo 0)
ahead=${STOP_BEFORE:-30}
if [ "$left" -gt "$ahead" ]; then export SPMD_WALLTIME="${SPMD_WALLTIME:-$((left - ahead))}"; fi

job=$(flux getattr jobid 2>/dev/null || echo '?')
echo "job $job on $(flux getattr hostlist 2>/dev/null || echo '?'): ${command[*]} $*"

told=
ended=
requeue=${REQUEUE:-yes}
# Whoever ends the job does not want it again. Flux sends several signals then; the second one that reaches a program ends it at
# once.
# shellcheck disable=SC2317,SC2329 # called by the trap
end_program() {
    told=yes
    requeue=no
    [ -z "$ended" ] || return 0
    ended=yes
    for child in $(jobs -p); do kill -TERM "$child" 2>/dev/null || true; done
}
trap end_program TERM INT HUP

# In the background: a shell hears of signals only between the programs that it runs in the foreground. And in a process group of
# its own: what Flux sends to this script's group, flux run would hand on once more.
set -m
"${command[@]}" "$@" &
program=$!
set +m
# A signal ends `wait`, not the program; then its end is still to come.
while
    told=
    code=0
    wait "$program" || code=$?
    [ -n "$told" ]
do :; done
# The first rank that ends has Flux end the others, and itself, before they can say how (143); what they have said in words is out.
if [ "$code" -gt 128 ] &&
    { flux job attach "$(flux job last)" 2>&1 </dev/null || true; } | grep '^stopped (.*), to be continued from ' >/dev/null; then
    code=5
fi
# Stopped, to be continued.
if [ "$code" -eq 5 ] && [ "$requeue" = yes ]; then
    echo "job $job: to be continued" >&2
    flux --parent job info --original "$job" jobspec | flux --parent job submit
fi
exit "$code"
