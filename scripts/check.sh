#!/usr/bin/env bash
# The gate for every change: format, lints, documentation, and all tests (scripts/test.sh).
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

[ $# -eq 0 ] || fail "scripts/check.sh takes no arguments" "run cargo fmt, cargo clippy or scripts/test.sh by themselves"

# step WHAT COMMAND...
step() {
    say "== $1"
    shift
    "$@"
}

step format cargo fmt --all --check
step lints cargo clippy --workspace --features fft,elastic --all-targets -- -D warnings
if have_mpi && have_libclang; then
    features=mpi
    ! have_parallel_hdf5 || features=phdf5,fft,elastic
    step "lints with $features" env "CARGO_TARGET_DIR=target/with-$(system_mpi)" \
        cargo clippy --all-targets --features "$features" -- -D warnings
else
    say "skipped: lints of the engine mpi: no MPI or no libclang (scripts/setup.sh)"
fi
step documentation env RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps --features fft,elastic
step tests scripts/test.sh
