#!/usr/bin/env bash
# Makes hosts out of namespaces of this machine, runs a command beside them, and takes them away again:
#
#     scripts/hosts.sh 2 sh -c 'mpirun --mca plm_rsh_agent $HOSTS_AGENT --hostfile $HOSTS_FILE target/release/spmd info'
#
# Every host has its own name (node1, node2, ...; all are HOSTS_NAME if that is set), network, process ids and /dev/shm: what
# ranks of two hosts exchange crosses a cable. Their names resolve nowhere; the hostfile has their addresses.
# With HOSTS_NOWHERE=yes each has a second interface, `nowhere`, whose cable ends nowhere: an MPI that takes it hangs.
#
# The command finds: HOSTS_FILE, a hostfile for Open MPI with 2 slots each; HOSTS_AGENT, what starts a program on a host, as
# ssh does; HOSTS_SLOW. It is where the cables end: `ip link set node2 down` cuts a host off.
#
#     $HOSTS_SLOW node2 1         every packet to and from that host (or: all) takes a millisecond more, each way
#     $HOSTS_SLOW node2 1 1000    and the cable carries 1000 Mbit/s each way
#     $HOSTS_SLOW node2 0         and now as before
#
# takes packets through a program of the tests: HOSTS_RELAY, as `cargo build --release -p test-programs --examples` puts it
# into target/release/examples/relay.
#
# Needs root and Linux with ip, unshare and nsenter. Nothing outside changes.
set -euo pipefail

fail() { printf 'error: %s\n' "$1" >&2; exit 1; }

# Polls until the command succeeds: a busy machine may be slow.
await() {
    local end=$((SECONDS + 60))
    until "$@"; do
        [ $SECONDS -lt $end ] || fail "$* did not come about within a minute"
        sleep 0.02
    done
}

# One host, in namespaces of its own: sets them up and stays.
if [ "${1:-}" = __host ]; then
    hostname "$2"
    mount -t proc proc /proc
    mount -t tmpfs -o mode=1777 tmpfs /dev/shm
    ip link set lo up
    exec sleep infinity
fi

count=${1:-}
[ $# -ge 2 ] && [ "$count" -ge 1 ] 2>/dev/null || fail "how many hosts, and what to run? (hosts.sh N COMMAND...)"
shift

# Everything below happens, and ends, inside: when the first process there has gone, all have.
if [ -z "${HOSTS_INSIDE:-}" ]; then
    self=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
    code=0
    HOSTS_INSIDE=$(mktemp -d) || fail 'no directory for temporary files'
    export HOSTS_INSIDE
    unshare --net --ipc --mount --pid --fork --kill-child --mount-proc "$self" "$count" "$@" || code=$?
    rm -rf "$HOSTS_INSIDE"
    exit $code
fi

state=$HOSTS_INSIDE
net=10.77.0
ip link set lo up
# With an address of its own: else it takes the lowest of its ports', and hosts know an old one when cables change.
ip link add cables address 02:00:0a:4d:00:fa type bridge stp_state 0 forward_delay 0 mcast_snooping 0
ip addr add "$net.250/24" dev cables
ip link set cables up

# own_network PID: whether that process has left this network.
here=$(readlink /proc/self/ns/net)
own_network() { [ "$(readlink "/proc/$1/ns/net" 2>/dev/null || echo "$here")" != "$here" ]; }
child_of() { tr -d ' ' 2>/dev/null <"/proc/$1/task/$1/children"; }
has_child() { [ -n "$(child_of "$1")" ]; }

for number in $(seq "$count"); do
    name=node$number
    unshare --net --uts --ipc --mount --pid --fork --kill-child "$0" __host "${HOSTS_NAME:-$name}" &
    above=$!
    await has_child "$above"
    host=$(child_of "$above")
    await own_network "$host"
    ip link add "$name" type veth peer name eth0 netns "$host"
    ip link set "$name" master cables up
    nsenter -t "$host" -n sh -c "ip addr add $net.$number/24 dev eth0 && ip link set eth0 up"
    if [ -n "${HOSTS_NOWHERE:-}" ]; then
        ip link add "lost$number" type veth peer name nowhere netns "$host"
        ip link set "lost$number" up
        nsenter -t "$host" -n sh -c "ip addr add 10.88.0.$number/24 dev nowhere && ip link set nowhere up"
    fi
    mount_is_private() { nsenter -t "$host" -m -p sh -c '[ "$(stat -f -c %T /dev/shm)" = tmpfs ] && [ -d /proc/1 ] && ip link show lo | grep -q UP' 2>/dev/null; }
    await mount_is_private
    echo "$host" >"$state/$net.$number"
    echo "$net.$number slots=2" >>"$state/hostfile"
done

cat >"$state/agent" <<EOF
#!/bin/sh
# agent [ssh's options] HOST COMMAND...
while :; do case \$1 in -x | -q | -T | -n) shift ;; -l | -p | -o | -i) shift 2 ;; *) break ;; esac; done
host=\$(cat "$state/\$1") || exit 255
shift
# Open MPI keeps files of its own for each host, by its name: below /dev/shm they are out of the others' sight.
exec nsenter -t "\$host" -m -u -i -n -p -- env -i HOME="\$HOME" PATH="\$PATH" TMPDIR=/dev/shm /bin/sh -c "\$*"
EOF
chmod +x "$state/agent"

# From the host's cable a bridge leads to one tap, and another tap to where the cable was: the relay is between them.
cat >"$state/slow" <<EOF
#!/bin/sh
# slow HOST|all MILLISECONDS [MEGABITS_PER_SECOND]
set -eu
fail() { echo "error: \$1" >&2; exit 1; }
[ \$# -ge 2 ] || fail 'which host, and how many milliseconds? (slow HOST|all MILLISECONDS [MEGABITS_PER_SECOND])'
relay=\${HOSTS_RELAY:-target/release/examples/relay}
[ -x "\$relay" ] || fail "\$relay is not there: cargo build --release -p test-programs --examples, or set HOSTS_RELAY"
hosts=\$1 delay=\$2
shift 2
[ "\$hosts" != all ] || hosts=\$(seq -f node%.0f $count)
for host in \$hosts; do
    number=\${host#node}
    ip link show "node\$number" >/dev/null 2>&1 || fail "there is no host \$host"
    ip link set "node\$number" master cables
    if [ -e "$state/relay\$number" ]; then
        kill "\$(cat "$state/relay\$number")" 2>/dev/null || true
        rm "$state/relay\$number"
        for link in near far away; do ip link del "\$link\$number"; done
    fi
    if [ "\$delay" = 0 ] && [ \$# = 0 ]; then continue; fi
    ip link add "away\$number" type bridge stp_state 0 forward_delay 0 mcast_snooping 0
    for tap in far near; do ip tuntap add dev "\$tap\$number" mode tap; done
    ip link set "far\$number" master "away\$number"
    ip link set "near\$number" master cables
    for link in near far away; do ip link set "\$link\$number" up; done
    "\$relay" "\$delay" "far\$number" "near\$number" "\$@" </dev/null >/dev/null &
    echo \$! >"$state/relay\$number"
    tries=0
    until ip link show "near\$number" | grep -q LOWER_UP; do
        tries=\$((tries + 1))
        kill -0 "\$(cat "$state/relay\$number")" 2>/dev/null && [ \$tries -lt 3000 ] || fail "the relay of \$host does not run"
        sleep 0.02
    done
    ip link set "node\$number" master "away\$number"
done
EOF
chmod +x "$state/slow"

export HOSTS_AGENT="$state/agent" HOSTS_FILE="$state/hostfile" HOSTS_SLOW="$state/slow"
code=0
"$@" || code=$?
# The hosts end with this process, the first here.
exit $code
