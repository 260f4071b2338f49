#!/usr/bin/env bash
# Installs what the features `mpi` and `phdf5` need. Rust itself comes from https://rustup.rs.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/setup.sh [--tests] [--all-mpis] [--dry-run]

Installs MPI, parallel HDF5 and libclang with the system's package manager (apt-get, dnf or brew).
Without root: Open MPI from PyPI in a virtual environment below target/, no HDF5.
Says what it found and what it does; does nothing where everything is there.

  --tests     also what only tests need: shellcheck and tclsh, which read the scripts; on Linux ip, util-linux and sshd for
              throw-away hosts (scripts/cluster.sh), SLURM on them (scripts/slurm.sh); no daemon is started on this machine
  --all-mpis  also Open MPI 5 and MPICH 5 from PyPI, each in an environment of its own below target/
  --dry-run   only say what would be done
  -h, --help  this text
TEXT
}

tests=false
all_mpis=false
dry_run=false
for argument in "$@"; do
    case "$argument" in
        --tests) tests=true ;;
        --all-mpis) all_mpis=true ;;
        --dry-run) dry_run=true ;;
        -h | --help)
            usage
            exit
            ;;
        *)
            usage >&2
            exit 2
            ;;
    esac
done

# run COMMAND...: says it, and does it unless this is a dry run.
run() {
    if $dry_run; then
        say "would run: $*"
    else
        say "running: $*"
        "$@"
    fi
}

manager=none
for candidate in apt-get dnf brew; do
    if have "$candidate"; then manager=$candidate && break; fi
done

# The command that makes another one root's: nothing for root and for brew, `none` where packages cannot be installed.
as_root=none
if [ "$manager" = none ]; then
    say "note: neither apt-get nor dnf nor brew is here: packages cannot be installed"
elif [ "$(id -u)" -eq 0 ] || [ "$manager" = brew ]; then
    as_root=
elif have sudo && sudo -n true 2>/dev/null; then
    as_root='sudo -n'
fi

# The packages of each manager for one thing.
packages() {
    case "$manager $1" in
        'apt-get compiler') say gcc libc6-dev ;;
        'apt-get pkg-config') say pkg-config ;;
        'apt-get MPI') say openmpi-bin libopenmpi-dev ;;
        'apt-get HDF5') say libhdf5-openmpi-dev ;;
        'apt-get libclang') say libclang-dev ;;
        'apt-get ip') say iproute2 util-linux ;;
        'apt-get sshd') say openssh-server ;;
        'apt-get SLURM') say slurm-wlm munge ;;
        'apt-get shellcheck') say shellcheck ;;
        'apt-get tclsh') say tcl ;;
        'apt-get venv') say python3-venv ;;
        'dnf compiler') say gcc ;;
        'dnf pkg-config') say pkgconf-pkg-config ;;
        'dnf MPI') say openmpi openmpi-devel ;;
        'dnf HDF5') say hdf5-openmpi-devel ;;
        'dnf libclang') say clang-devel ;;
        'dnf ip') say iproute iproute-tc util-linux ;;
        'dnf sshd') say openssh-server openssh-clients ;;
        'dnf SLURM') say slurm slurm-slurmctld slurm-slurmd munge ;;
        'dnf shellcheck') say ShellCheck ;;
        'dnf tclsh') say tcl ;;
        'dnf venv') say python3 ;;
        'brew compiler') ;; # came with brew
        'brew pkg-config') say pkgconf ;;
        'brew MPI') say open-mpi ;;
        'brew HDF5') say hdf5-mpi ;;
        'brew libclang') say llvm ;;
        'brew shellcheck') say shellcheck ;;
        'brew tclsh') say tcl-tk ;;
        'brew venv') say python3 ;;
    esac
}

missing=()
# check WHAT WHERE TEST...: notes what is missing.
check() {
    local what=$1 where=$2
    shift 2
    if "$@"; then
        say "found: $what${where:+ ($where)}"
    else
        say "missing: $what"
        missing+=("$what")
    fi
}

have_venv() { python3 -c 'import venv, ensurepip' >/dev/null 2>&1; }

check compiler "$(command -v cc || true)" have cc
check pkg-config "$(command -v pkg-config || true)" have pkg-config
check MPI "$(mpi_version mpirun)" have_mpi
check HDF5 'for many ranks on one file' have_parallel_hdf5
check libclang '' have_libclang
if $tests; then
    check shellcheck "$(command -v shellcheck || true)" have shellcheck
    check tclsh "$(command -v tclsh || true)" have tclsh
fi
if $tests && [ "$(uname)" = Linux ]; then
    # Daemons and what configures networks are not in every user's path. (Tests look elsewhere.)
    PATH="$PATH:${SPMD_SBIN:-/usr/sbin:/sbin}"
    have_ip() { have ip && have unshare && have nsenter && have setpriv; }
    have_slurm() { have srun && have slurmctld && have slurmd && have munged; }
    check ip "$(command -v ip || true)" have_ip
    check sshd "$(command -v sshd || true)" have sshd
    check SLURM "$(command -v slurmctld || true)" have_slurm
fi

# The wheels that this run is to provide.
wanted=()
if $all_mpis; then
    wanted=("${WHEELS[@]}")
elif [ "$as_root" = none ] && ! have_mpi; then
    wanted=("${WHEELS[0]}")
fi
wheels=()
for wheel in ${wanted[@]+"${wanted[@]}"}; do
    if has_wheel "${wheel%% *}"; then
        say "found: ${wheel##* } (target/${wheel%% *})"
    else
        say "missing: ${wheel##* }"
        wheels+=("$wheel")
    fi
done
if [ "${#wheels[@]}" -gt 0 ] && ! have_venv; then missing+=(venv); fi

wanted_packages=()
left_out=()
# What they would start that was not here before.
daemons=()
for what in ${missing[@]+"${missing[@]}"}; do
    if [ "$as_root" = none ]; then
        left_out+=("$what")
    else
        # shellcheck disable=SC2207 # several names
        wanted_packages+=($(packages "$what"))
        case $what in
            sshd) daemons+=(ssh) ;;
            SLURM)
                have munged || daemons+=(munge)
                have slurmctld || daemons+=(slurmctld)
                have slurmd || daemons+=(slurmd)
                ;;
        esac
    fi
done

# Debian starts daemons that it installs, now and at every boot, unless this program says no; in containers it often does.
install_by_apt() {
    local policy=/usr/sbin/policy-rc.d
    run $as_root apt-get update
    if [ "${#daemons[@]}" -gt 0 ] && [ ! -e $policy ]; then
        # shellcheck disable=SC2064 # as it is now
        trap "run $as_root rm -f $policy" EXIT
        run $as_root sh -c "printf '#!/bin/sh\nexit 101\n' >$policy; chmod +x $policy"
    fi
    run $as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@"
    if [ "${#daemons[@]}" -gt 0 ] && have systemctl; then run $as_root systemctl disable "${daemons[@]}"; fi
}

if [ "${#wanted_packages[@]}" -gt 0 ]; then
    case $manager in
        apt-get) install_by_apt "${wanted_packages[@]}" ;;
        dnf) run $as_root dnf install --assumeyes "${wanted_packages[@]}" ;;
        brew) run brew install "${wanted_packages[@]}" ;;
    esac
fi

for wheel in ${wheels[@]+"${wheels[@]}"}; do
    $dry_run || have_venv ||
        fail "python3 cannot make virtual environments, so ${wheel##* } cannot be installed" \
            "have python3 with its modules venv and ensurepip installed (python3-venv on Debian)"
    run python3 -m venv --clear "target/${wheel%% *}"
    run "target/${wheel%% *}/bin/pip" install --quiet --disable-pip-version-check "${wheel##* }"
    $dry_run || has_wheel "${wheel%% *}" ||
        fail "${wheel##* } was installed but target/${wheel%% *}/bin/mpicc is not there" \
            "remove target/${wheel%% *} and try again"
done

for what in ${left_out[@]+"${left_out[@]}"}; do
    case "$what" in
        MPI) say "left out: MPI of the system: no root; use the one in target/${WHEELS[0]%% *}: MPICC=target/${WHEELS[0]%% *}/bin/mpicc" ;;
        HDF5) say "left out: HDF5: it needs root, or HDF5_DIR set to your site's parallel one; build with --features mpi" ;;
        venv) ;; # said where it is needed
        *) say "left out: $what: it needs root; ask who administers this machine, or load your site's module" ;;
    esac
done

if [ "${#wanted_packages[@]}" -eq 0 ] && [ "${#wheels[@]}" -eq 0 ]; then
    say "nothing to do"
elif ! $dry_run; then
    hash -r
    find_fedora_mpi
    have_mpi || has_wheel "${WHEELS[0]%% *}" || fail "MPI is still not there" "see the messages above"
    say "done"
fi
