#!/usr/bin/env bash
# Faults, many of them: ranks that are lost at each of their calls, hosts that crash, are cut off, drained and added,
# workers of a farm that are killed. `scripts/faults.sh --help`.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/faults.sh [--rounds N] [local] [ulfm] [hosts] [farm]

Injects faults and holds every result against that of an undisturbed run. Without words: all of them.

  local       ranks that are threads: lost at each call, several at once, during repairs, at random  (no MPI needed)
  ulfm        ranks that are processes, repaired in place, lost at random calls  (Open MPI 5)
  hosts       hosts out of namespaces under `spmd run --restarts`; Open MPI, and root on Linux
  farm        workers and coordinator of the elastic farm, killed and frozen
  --rounds N  so many times what is random or depends on time (hosts, farm) [3]
  -h, --help  this text

The last line is `N runs, M losses: all right, none hung`, or what was not.
TEXT
}

rounds=3
parts=()
while [ $# -gt 0 ]; do
    case "$1" in
        local | ulfm | hosts | farm) parts+=("$1") ;;
        --rounds)
            rounds=${2:-}
            [[ $rounds =~ ^[1-9][0-9]*$ ]] || fail "--rounds wants a number" "as in --rounds 20"
            shift
            ;;
        -h | --help)
            usage
            exit
            ;;
        *)
            usage >&2
            exit 2
            ;;
    esac
    shift
done
[ "${#parts[@]}" -gt 0 ] || parts=(local ulfm hosts farm)

logs=target/test-logs
mkdir -p $logs
failures=()

# tried NAME COMMAND...: under a time limit: what takes longer hangs.
tried() {
    local name=$1 code=0
    shift
    say "== $name"
    timeout --kill-after 10 3600 "$@" </dev/null 2>&1 | tee "$logs/faults-$name.log" | grep -E '^(test |campaign: |takes: |error)' || true
    code=${PIPESTATUS[0]}
    [ "$code" -eq 0 ] || failures+=("$name: exit code $code, see $logs/faults-$name.log")
}

rm -f "$logs"/faults-*.log
for part in "${parts[@]}"; do
    case $part in
        local) tried local env SPMD_CAMPAIGN=1 cargo test --release --test recover -- --nocapture --test-threads 2 ;;
        ulfm)
            cargo build -p spmd -p test-programs --bins --examples --features mpi
            peer=target/peers/losses
            mkdir -p target/peers
            "${MPICC:-mpicc}" -O2 -o $peer benches/peers/losses.c || fail "benches/peers/losses.c does not build" \
                "it takes Open MPI 5's mpicc, first in the PATH"
            tried ulfm env SPMD_CAMPAIGN=1 "SPMD_PEER=$PWD/$peer" OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
                cargo test --features mpi --test ulfm -- --nocapture
            ;;
        hosts)
            cargo build -p spmd -p test-programs --bins --examples --features mpi
            for ((round = 1; round <= rounds; round++)); do
                tried "hosts-$round" env SPMD_REQUIRE=mpi,netns OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
                    cargo test --features mpi --test supervised_hosts -- --nocapture
            done
            ;;
        farm)
            cargo build -p spmd -p test-programs --features elastic --bins --examples
            for ((round = 1; round <= rounds; round++)); do
                tried "farm-$round" cargo test --features elastic --test elastic --test elastic_strangers -- --nocapture
            done
            ;;
    esac
done

# took KIND: of all times from when something is noticed until the ranks of hosts make steps again.
took() {
    cat "$logs"/faults-hosts-*.log 2>/dev/null | awk -v kind="$1" '$1 == "takes:" && $2 == kind { print $3 }' | sort -n |
        awk -v kind="$1" '{ times[NR] = $1 }
            END { if (NR) print kind ": median " times[int((NR + 1) / 2)] " s, p99 " times[int(NR * 0.99 + 0.999)] " s, of " NR }'
}
took restart
took planned

sum=$(cat "$logs"/faults-*.log | awk '/^campaign: / { runs += $2; losses += $4 } END { print runs + 0 " runs, " losses + 0 " losses" }')
if [ "${#failures[@]}" -gt 0 ]; then
    printf '%s\n' "${failures[@]}" >&2
    fail "$sum: not all right" "each failure names what was injected; --inject does it again"
fi
say "$sum: all right, none hung"
