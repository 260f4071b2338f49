# shellcheck shell=bash
# shellcheck disable=SC2154 # options are those of compare.sh
#
# The programs of examples/ beside those in C and Fortran that they are named after; compare.sh sources it for --programs.

# Program, source of its peer below the directory, what counts, how often or how many millions of it.
# The Parallel Research Kernels print the time of one iteration, NPB millions of operations in a second.
PROGRAMS=(
    'stencil MPI1/Stencil/stencil.c 100'
    'transpose MPI1/Transpose/transpose.c 50'
    'wavefront MPI1/Synch_p2p/p2p.c 100'
    'ep NPB3.4-MPI/EP 536.870912'
    'cg NPB3.4-MPI/CG 1496.46'
    'is NPB3.4-MPI/IS 83.88608'
)

places() {
    cat <<'PLACES'
PRK: https://github.com/ParRes/Kernels
NPB 3.4: https://www.nas.nasa.gov/software/npb.html
PLACES
}

# The sizes, as ours and as the peer is told them: the same problem, the same number of iterations.
sizes_of() {
    case "$1" in
        stencil) say --size 2000 --iterations 100 ;;
        transpose) say --order 2000 --iterations 50 ;;
        wavefront) say --columns 2000 --rows 2000 --iterations 100 ;;
        *) say --class A ;;
    esac
}
sizes_of_peer() {
    case "$1" in
        stencil) say 100 2000 ;;
        transpose) say 50 2000 ;;
        wavefront) say 100 2000 2000 ;;
    esac
}

# find_source PATH: where it is below the directory, not deeper than one that a download unpacks to.
find_source() { find -L "$programs" -maxdepth 5 -path "*/$1" 2>/dev/null | head -1; }

programs_built=target/with-programs

# command_of_program PROGRAM WHO RANKS
command_of_program() {
    local program=$1 who=$2 ranks=$3 bound='--bind-to core'
    local ours=$programs_built/release/examples/$program
    [ "$(system_mpi)" = system-openmpi ] || bound='-bind-to core'
    case "$who" in
        peer) say mpirun -n "$ranks" "$bound" "$programs_built/peers/$program" "$(sizes_of_peer "$program")" ;;
        mpi) say mpirun -n "$ranks" "$bound" "$ours" "$(sizes_of "$program")" ;;
        local) say "$ours" --engine local -n "$ranks" --threads 1 "$(sizes_of "$program")" ;;
        threads) say "$ours" --engine local -n 1 --threads "$ranks" "$(sizes_of "$program")" ;;
    esac
}

# build_peer PROGRAM SOURCE
build_peer() {
    local program=$1 source=$2 root flags
    case "$source" in
        *.c)
            root=${source%/MPI1/*}
            mpicc -O3 -march=native -w -DMPI -DRADIUS=2 -DSTAR=1 -DDOUBLE=1 -DLOOPGEN=0 -DRESTRICT_KEYWORD=0 \
                -DSYNCHRONOUS=0 -DVERBOSE=0 -I "$root/include" -o "$programs_built/peers/$program" \
                "$source" "$root/common/MPI_bail_out.c" "$root/common/wtime.c" -lm
            ;;
        *)
            # Built in a copy: what is there stays as it was fetched.
            root=$programs_built/NPB-$program flags='-O3 -march=native'
            rm -rf "$root"
            cp -rL "${source%/*}" "$root"
            mkdir -p "$root/bin"
            cp "$root/config/make.def.template" "$root/config/make.def"
            # Two things in NPB that gfortran has called errors since version 10.
            ! mpif90 --version 2>/dev/null | grep -q '^GNU' || flags="$flags -fallow-argument-mismatch -fallow-invalid-boz"
            make -s -C "$root/${source##*/}" CLASS=A FFLAGS="$flags" FLINKFLAGS="$flags" CFLAGS='-O3 -march=native' \
                CLINKFLAGS='-O3 -march=native' >"$root/log" 2>&1 || fail "cannot build $source" "see $root/log"
            cp "$root/bin/$program.A.x" "$programs_built/peers/$program"
            ;;
    esac
}

# seconds_of WHO COUNT: from what a program printed; nothing if it does not say that its result is right.
seconds_of() {
    awk -v who="$1" -v count="$2" '
        who != "peer" && /^time: / { seconds = $2 }
        who != "peer" && /^verification: passed/ { right = 1 }
        who == "peer" && match($0, /Avg time \(s\): */) { seconds = count * substr($0, RSTART + RLENGTH) }
        who == "peer" && /Mop\/s total/ { seconds = count / $NF }
        who == "peer" && (/^Solution validates/ || /Verification *= *SUCCESSFUL/) { right = 1 }
        END { if (right && seconds > 0) printf "%.4f\n", seconds }'
}

# The table: medians of seconds; of ratios, which are those of one round, the median, the smallest and the largest.
table_of_programs() {
    awk -F, '
        function sorted(list, n,    i, j, held) {
            for (i = 2; i <= n; i++) for (j = i; j > 1 && list[j] < list[j - 1]; j--) {
                held = list[j]; list[j] = list[j - 1]; list[j - 1] = held
            }
            return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2
        }
        function median(key, who,    n, list, round) {
            for (round = 1; round <= rounds; round++)
                if ((key, who, round) in time) list[++n] = time[key, who, round]
            return n ? sprintf("%.3f", sorted(list, n)) : "–"
        }
        function ratio(key, over, under, goal,    n, list, round, middle) {
            for (round = 1; round <= rounds; round++)
                if ((key, over, round) in time && (key, under, round) in time)
                    list[++n] = time[key, over, round] / time[key, under, round]
            if (!n) return "–"
            middle = sorted(list, n)
            return sprintf("**%.2f** [%.2f, %.2f] %s", middle, list[1], list[n], middle >= goal ? "✓" : "✗ ≥ " goal)
        }
        { key = $1 " | " $2; if (!(key in seen)) { seen[key] = 1; keys[++count] = key }
          time[key, $3, $4] = $5; if ($4 > rounds) rounds = $4 }
        END {
            print "| program | ranks | C, Fortran (s) | `mpi` (s) | `mpi` is faster by | `local` (s) | `local` is faster than `mpi` by | `local`, one rank × 2 threads (s) | which is faster by |"
            print "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
            for (i = 1; i <= count; i++) {
                key = keys[i]
                printf "| %s | %s | %s | %s | %s | %s | %s | %s |\n", key, median(key, "peer"), median(key, "mpi"),
                    ratio(key, "peer", "mpi", 1), median(key, "local"), ratio(key, "mpi", "local", 1),
                    median(key, "threads"), ratio(key, "local", "threads", 0.95)
            }
        }' "$1"
}

# put_between_markers PAGE TEXT
put_between_markers() {
    local new
    grep -q '^<!-- programs:begin -->$' "$1" && grep -q '^<!-- programs:end -->$' "$1" ||
        fail "$1 has no lines <!-- programs:begin --> and <!-- programs:end -->"
    new=$(
        sed '/^<!-- programs:begin -->$/q' "$1"
        printf '\n%s\n\n' "$2"
        sed -n '/^<!-- programs:end -->$/,$p' "$1"
    )
    printf '%s\n' "$new" >"$1"
}

compare_programs() {
    local entry program path source count ranks who launch out seconds line failed=0 names=() jobs=() counts=() heading
    [ -d "$programs" ] || fail "there is no directory $programs" "fetch into it what is named here: $(places | tr '\n' ' ')"
    have_mpi || fail 'mpicc and mpirun are not there' 'see scripts/setup.sh'
    for entry in "${PROGRAMS[@]}"; do
        read -r program path count <<<"$entry"
        source=$(find_source "$path")
        if [ -z "$source" ]; then
            say "note: no $path below $programs: $program is not measured" >&2
            continue
        fi
        if [ "$program" != is ] && [ "${path#NPB}" != "$path" ] && ! have mpif90; then
            say "note: mpif90 is not there: $program is not measured" >&2
            continue
        fi
        names+=("$program") counts+=("$count")
        $dry_run || { mkdir -p "$programs_built/peers" && build_peer "$program" "$source"; }
        for ranks in 1 2; do
            jobs+=("$program $ranks peer $count" "$program $ranks mpi $count" "$program $ranks local $count")
            # The others have one thread for each rank.
            case "$ranks $program" in
                2*stencil | 2*transpose | 2*ep | 2*cg) jobs+=("$program $ranks threads $count") ;;
            esac
        done
    done
    [ "${#names[@]}" -gt 0 ] || fail "no peers below $programs" "fetch them: $(places | tr '\n' ' ')"

    if $dry_run; then
        say "would build for $(mpi_version mpirun): with -O3 -march=native the peers of ${names[*]}, and with" \
            "RUSTFLAGS=-Ctarget-cpu=native and --features mpi ours, in $programs_built"
        say "would run $launches times each, in turn, ${#jobs[@]} commands:"
        for entry in "${jobs[@]}"; do
            read -r program ranks who count <<<"$entry"
            say "  $(command_of_program "$program" "$who" "$ranks")"
        done
        return
    fi

    say building >&2
    read -r -a line <<<"$(printf -- '--example %s ' "${names[@]}")"
    MPICC=$(command -v mpicc) RUSTFLAGS=-Ctarget-cpu=native CARGO_TARGET_DIR=$programs_built \
        cargo build --quiet --release --features mpi "${line[@]}"
    await_idle

    mkdir -p target/compare
    results=target/compare/programs.csv errors=target/compare/errors.log
    : >$results
    : >$errors
    for launch in $(seq 1 "$launches"); do
        for entry in "${jobs[@]}"; do
            read -r program ranks who count <<<"$entry"
            read -r -a line <<<"$(command_of_program "$program" "$who" "$ranks")"
            say "== ${line[*]}" >>$errors
            out=$(timeout -k 5 180 "${line[@]}" 2>>$errors </dev/null) || true
            seconds=$(seconds_of "$who" "$count" <<<"$out")
            if [ -n "$seconds" ]; then
                say "$program,$ranks,$who,$launch,$seconds" >>$results
            else
                failed=$((failed + 1))
                say "note: failed or not verified, see $errors: ${line[*]}" >&2
            fi
        done
        say "round $launch of $launches done, load $(cut -d' ' -f1 /proc/loadavg 2>/dev/null || say unknown)" >&2
    done

    heading="Measured on $(date -u +%Y-%m-%d) by \`scripts/compare.sh --programs\`: $(processor), $(mpi_version mpirun | sed 's/.*(Open MPI)/Open MPI/'), $(mpicc --version | head -1), $(rustc --version | cut -d' ' -f1-2); medians of $launches launches in turn, of ratios with the smallest and the largest."
    $idle || heading="$heading

**The machine was busy with other work ($share % of its cpu time when this began): these numbers mean little.**"
    out="$heading

$(table_of_programs $results)"
    say "$out"
    [ -z "$page" ] || put_between_markers "$page" "$out"
    [ "$failed" -eq 0 ] || fail "$failed launches failed" "see $errors"
}
