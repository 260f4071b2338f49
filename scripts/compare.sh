#!/usr/bin/env bash
# Sets `spmd bench` against C: benches/peers/*.c make the same loops on every MPI that is there.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'USAGE'
Usage: scripts/compare.sh [OPTION...]

Builds the C programs of benches/peers/ and a release build of spmd for every MPI found (the system's, and those of
scripts/setup.sh --all-mpis in target/mpi-*), runs C, `spmd bench` on that MPI and `spmd bench` on threads, several
launches of each in random order, and prints how many times as long one takes as the other. 12 minutes or so.

  --launches N       Launches of each program [default: 7]
  --quick            Few sizes, 3 launches: to see that it works
  --groups LIST      Some of p2p,rate,touched,collective,one_sided,crowd [default: all]; or files, which needs a parallel HDF5
  --directory DIR    Where the files of that group go: on a disk, or in memory as /dev/shm [default: /tmp]
  --mpis LIST        Some of the MPIs, by the names that --dry-run shows [default: all]
  --statistic NAME   mean (OSU's number) or median (of batches, less disturbed) [default: mean]
  --seed N           Of the random order [default: 1]
  --markdown PAGE    Also put the tables between the markers of PAGE (docs/performance.md)
  --force            Measure although the machine is busy, and say so above the tables
  --programs DIR     Instead, set the programs of examples/ against those in C and Fortran that they are named after, on
                     the system's MPI, 1 and 2 ranks. Their sources are to be below DIR: the Parallel Research Kernels
                     (github.com/ParRes/Kernels) and NPB 3.4 (www.nas.nasa.gov/software/npb.html). 10 minutes or so
  --dry-run          Show what would be built and run
  --help             This

Results are kept in target/compare/results.csv (programs.csv), what the programs complained of in target/compare/errors.log.
USAGE
}

launches='' quick=false groups=p2p,rate,touched,collective,one_sided,crowd wanted='' files_in=/tmp statistic=mean seed=1 page='' programs='' force=false
dry_run=false

# Where a word is missing behind an option.
value() { [ $# -ge 2 ] && [ -n "$2" ] || { usage >&2; exit 2; }; say "$2"; }

while [ $# -gt 0 ]; do
    case "$1" in
        --launches) launches=$(value "$@"); shift ;;
        --groups) groups=$(value "$@"); shift ;;
        --directory) files_in=$(value "$@"); shift ;;
        --mpis) wanted=$(value "$@"); shift ;;
        --statistic) statistic=$(value "$@"); shift ;;
        --seed) seed=$(value "$@"); shift ;;
        --markdown) page=$(value "$@"); shift ;;
        --programs) programs=$(value "$@"); shift ;;
        --quick) quick=true ;;
        --force) force=true ;;
        --dry-run) dry_run=true ;;
        --help | -h) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
case "$statistic" in mean | median) ;; *) usage >&2; exit 2 ;; esac
case "$launches$seed" in *[!0-9]*) usage >&2; exit 2 ;; esac
[ "$launches" != 0 ] || { usage >&2; exit 2; }

if $quick; then
    : "${launches:=3}"
    sizes=8,64K small=8 medium=64K few=8,64K large=4M
else
    : "${launches:=7}"
    sizes=8,128,512,8K,64K,512K,4M small=8,128,512 medium=8K,64K,512K few=8,8K,512K large=8M,128M
fi

cpus=$(getconf _NPROCESSORS_ONLN)
crowd=$((4 * cpus))

# busy: the percentage of all CPUs' time that was not idle in the last two seconds.
busy() {
    [ -r /proc/stat ] || { say 0; return; }
    local user nice system idle wait rest before total
    read -r _ user nice system idle wait rest </proc/stat
    before=$((idle + wait)) total=$((user + nice + system + idle + wait))
    sleep 2
    read -r _ user nice system idle wait rest </proc/stat
    total=$((user + nice + system + idle + wait - total))
    say $((100 - 100 * (idle + wait - before) / (total > 0 ? total : 1)))
}

# await_idle: waits half a minute for it; `idle` says whether it came, `share` how much goes elsewhere.
# Building may still echo; somebody else's work does not end by itself.
idle=true share=0
await_idle() {
    local attempt loudest what
    for attempt in 1 2 3 4 5 6; do
        share=$(busy)
        [ "$share" -gt 5 ] || break
        [ "$attempt" -lt 6 ] || idle=false
    done
    if ! $idle; then
        loudest=$(ps -eo pcpu,comm --sort=-pcpu 2>/dev/null | sed -n '2s/^ *//p' || true)
        what="the machine is busy: $share % of its cpu time goes elsewhere (first of all: ${loudest:-unknown})"
        $force || fail "$what" "wait until it is idle, or --force to measure all the same"
        say "note: $what" >&2
    fi
}

# What is measured on.
processor() {
    local model
    model=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo 2>/dev/null | head -1 || true)
    say "$cpus cpus (${model:-unknown}), $(uname -sr)"
}

if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
# As a release build checks by default, and as C does: its own arguments.
export SPMD_CHECKS=arguments

if [ -n "$programs" ]; then
    # shellcheck source=scripts/programs.sh
    . scripts/programs.sh
    compare_programs
    exit
fi

# benchmarks_of GROUP, ranks_of GROUP, options_of GROUP, peer_of GROUP: what is launched together.
benchmarks_of() {
    case "$1" in
        p2p) say latency bandwidth ;;
        rate) say message-rate ;;
        touched) say latency bandwidth ;;
        collective) say barrier bcast reduce allreduce allgather alltoall ;;
        one_sided) say put get ;;
        crowd) say barrier bcast allreduce alltoall ;;
        files) say file-write file-read ;;
    esac
}
ranks_of() { case "$1" in crowd) say $crowd ;; *) say 2 ;; esac; }
options_of() {
    case "$1" in
        rate) say --sizes $small ;;
        touched) say --sizes $medium --touched ;;
        crowd) say --sizes $few ;;
        files) say --sizes $large --directory "$files_in" ;;
        *) say --sizes $sizes ;;
    esac
}
peer_of() { case "$1" in collective | crowd) say collective ;; one_sided | files) say "$1" ;; *) say p2p ;; esac; }

IFS=, read -r -a group_names <<<"$groups"
for group in "${group_names[@]}"; do
    [ -n "$(benchmarks_of "$group")" ] || fail "there is no group $group" "see --help"
done

# The MPIs: key (of directories), label (in the tables), bin, and what else its launcher is told.
keys=() labels=() bins=() extras=()

# add KEY LABEL BIN EXTRA
add() {
    if [ -n "$wanted" ]; then case ",$wanted," in *",$2,"*) ;; *) return 0 ;; esac; fi
    keys+=("$1") labels+=("$2") bins+=("$3") extras+=("$4")
}

# label LAUNCHER
label() { mpi_version "$1" | sed 's/.*(Open MPI)/Open MPI/'; }

# add_mpi KEY BIN
add_mpi() {
    local name
    name=$(label "$2/mpirun")
    add "$1" "$name" "$2" ''
    # It copies straight between processes (CMA) where the kernel lets it; often, in containers, it does not.
    case "$name" in 'Open MPI 4'*) add "$1" "$name without CMA" "$2" '--mca btl_vader_single_copy_mechanism none' ;; esac
}

if have_libclang; then
    ! have_mpi || add_mpi "$(system_mpi)" "$(dirname "$(command -v mpicc)")"
    for wheel in "${WHEELS[@]}"; do
        directory=${wheel%% *}
        ! has_wheel "$directory" || add_mpi "${directory#mpi-}" "$PWD/target/$directory/bin"
    done
else
    say "note: libclang is not there (scripts/setup.sh): only the engine local is measured" >&2
fi
[ "${#keys[@]}" -gt 0 ] || say "note: no MPI is measured" >&2

is_open_mpi() { case "$1" in 'Open MPI'*) ;; *) return 1 ;; esac; }

# launcher PLACE GROUP: the beginning of a command line for the MPI at this place of the lists.
launcher() {
    local at=$1 group=$2 binding
    if is_open_mpi "${labels[at]}"; then
        binding='--bind-to core'
        [ "$group" != crowd ] || binding='--oversubscribe --bind-to none --mca mpi_yield_when_idle 1'
    else
        binding='-bind-to core'
    fi
    say "${bins[at]}/mpirun -n $(ranks_of "$group") $binding${extras[at]:+ ${extras[at]}}"
}

# In a directory of its own: target/release may hold a build with other features.
local_spmd=target/with-threads/release/spmd

# command_of PLACE PROGRAM GROUP: the whole command line; place `local` is the engine.
command_of() {
    local at=$1 program=$2 group=$3 what
    what="$(benchmarks_of "$group") $(options_of "$group")"
    case "$at $program" in
        local*) say "$local_spmd bench --engine local -n $(ranks_of "$group") $what --format csv" ;;
        *C) say "$(launcher "$at" "$group") target/with-${keys[at]}/peers/$(peer_of "$group") $what" ;;
        *) say "$(launcher "$at" "$group") target/with-${keys[at]}/release/spmd bench $what --format csv" ;;
    esac
}

# Everything that is launched once in a round: PLACE PROGRAM GROUP.
jobs=()
features=mpi
for group in "${group_names[@]}"; do
    if [ "$group" = files ]; then
        # Of the system's MPI, and no other, there is an HDF5.
        have_parallel_hdf5 || fail 'there is no parallel HDF5' 'see scripts/setup.sh, or leave files out of --groups'
        features=phdf5
    else
        jobs+=("local spmd $group")
    fi
    for at in ${keys[@]+"${!keys[@]}"}; do
        if [ "$group" = crowd ] && ! is_open_mpi "${labels[at]}"; then
            say "note: ${labels[at]} always spins, with more ranks than cpus for milliseconds a call: not measured there" >&2
            continue
        fi
        [ "$group" != files ] || [ "${keys[at]}" = "$(system_mpi)" ] || continue
        jobs+=("$at C $group" "$at spmd $group")
    done
done

# build PLACE: once for all MPIs that share a directory.
build() {
    [ "$1" -eq 0 ] || [ "${keys[$1]}" != "${keys[$1 - 1]}" ] || return 0
    local key=${keys[$1]} bin=${bins[$1]} peers peer feature=mpi
    peers=target/with-$key/peers
    mkdir -p "$peers"
    for peer in p2p collective one_sided; do
        # The directory of a wheel's library is known to nobody else.
        "$bin/mpicc" -O3 -o "$peers/$peer" "benches/peers/$peer.c" -lm -Wl,-rpath,"$(dirname "$bin")/lib"
    done
    if [ "$key" = "$(system_mpi)" ] && [ $features = phdf5 ]; then
        feature=phdf5
        # shellcheck disable=SC2046 # several flags
        "$bin/mpicc" -O3 -o "$peers/files" benches/peers/files.c $(hdf5_flags) -lm
    fi
    env "MPICC=$bin/mpicc" "PATH=$bin:$PATH" "CARGO_TARGET_DIR=target/with-$key" \
        cargo build --quiet --release --features $feature
}

if $dry_run; then
    say "would build: CARGO_TARGET_DIR=target/with-threads cargo build --release"
    for at in ${keys[@]+"${!keys[@]}"}; do
        [ "$at" -gt 0 ] && [ "${keys[at]}" = "${keys[at - 1]}" ] ||
            say "would build for ${labels[at]}: benches/peers/*.c with ${bins[at]}/mpicc -O3, spmd with --features $features"
    done
    say "would run $launches times each, in random order, ${#jobs[@]} commands:"
    for job in "${jobs[@]}"; do
        read -r at program group <<<"$job"
        say "  $(command_of "$at" "$program" "$group")"
    done
    exit 0
fi

say "building" >&2
CARGO_TARGET_DIR=target/with-threads cargo build --quiet --release
for at in ${keys[@]+"${!keys[@]}"}; do build "$at"; done

await_idle

mkdir -p target/compare
results=target/compare/results.csv errors=target/compare/errors.log
: >$results
: >$errors
RANDOM=$seed
failed=0
started=$SECONDS

# No launch needs as long: one that does, hangs.
limit=180

for launch in $(seq 1 "$launches"); do
    # Fisher and Yates.
    for ((last = ${#jobs[@]} - 1; last > 0; last--)); do
        other=$((RANDOM % (last + 1)))
        held=${jobs[last]} jobs[last]=${jobs[other]} jobs[other]=$held
    done
    for job in "${jobs[@]}"; do
        read -r at program group <<<"$job"
        name=local
        [ "$at" = local ] || name=${labels[at]}
        read -r -a line <<<"$(command_of "$at" "$program" "$group")"
        say "== ${line[*]}" >>$errors
        if out=$(timeout -k 5 $limit "${line[@]}" 2>>$errors </dev/null); then
            sed -e 1d -e "s/^/$name,$program,$launch,/" <<<"$out" >>$results
        else
            failed=$((failed + 1))
            say "note: failed, see $errors: ${line[*]}" >&2
        fi
    done
    spent=$((SECONDS - started))
    say "round $launch of $launches done after $spent s, $((spent * (launches - launch) / launch)) s left" >&2
done

report=($local_spmd bench-report $results --statistic "$statistic")
if [ -n "$page" ]; then
    report+=(--markdown "$page"
        --heading "Measured on $(date -u +%Y-%m-%d) by \`scripts/compare.sh\`: $(processor), $(rustc --version | cut -d' ' -f1-2), C with \`-O3\`; medians of $launches launches, in each the $statistic of its batches."
    )
    $idle || report+=(--heading '' --heading '**The machine was busy with other work: these numbers mean little.**')
fi
"${report[@]}"
[ "$failed" -eq 0 ] || fail "$failed launches failed" "see $errors"
