#!/usr/bin/env bash
# Throw-away hosts on one Linux machine, out of namespaces. `cluster.sh help` tells the commands, docs/cluster.md a whole afternoon.
#
# How it is built. A *room* of namespaces has the cables: one bridge, on which every host has a cable of its name. The room is
# also the host `login`, where one types: its name, network and processes are its own, its files but /run those of the machine.
# Its first process keeps it alive; when that ends, all there is in it ends. A host is a set of namespaces inside the room. What
# is to be remembered lies in memory that room and hosts alone see ($state), and is gone with them. Outside there is nothing but a
# file that says which process the room is, and of hosts that end with a command not even that.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: scripts/cluster.sh COMMAND

Hosts that stay until they are taken down:
  up N                   N hosts: node1, node2, ...; `login` is where one types
  add HOST...            more hosts (node5), or one that has crashed
  down                   ends the hosts and whatever runs on them

Hosts that end with a command, which runs on their login host; several such sets can be there at once:
  with N COMMAND...      scripts/cluster.sh with 4 sh -c 'mpirun --hostfile $HOSTS_FILE target/release/spmd info'

Use:
  exec HOST COMMAND...   runs a command on a host or on login
  hostfile [SLOTS] [openmpi|mpich]   the hosts for a launcher (2 slots each, openmpi)
  status                 what there is
  stats                  bytes that crossed each cable

Faults, of one host or of `all`:
  cut HOST, heal HOST    pulls out the cable of a host, puts it back
  slow HOST MS [LOSS%] [MBIT]   packets take so many milliseconds more each way, a part of them is lost (2%), the cable carries
                         so many Mbit/s; slow HOST 0 is as before
  freeze HOST, thaw HOST   stops every process of a host, lets them go on
  crash HOST             a host without power: its cable is dead, its processes are gone

Each host has its own name, network, process numbers, /tmp, /var/tmp, /run and /dev/shm; other files are the machine's, as if
they were shared over a network. Where sshd is installed it runs on every host, with keys made for the occasion; elsewhere the
`ssh` of the login host enters hosts directly. Needs root on Linux. Nothing outside changes.

Variables:
  HOSTS_STATE    where it is noted which hosts are up ($XDG_RUNTIME_DIR/spmd-cluster, else /run/spmd-cluster): one set each.
                 `with` notes its hosts only if this is set
  HOSTS_SHARED   directories below /tmp and the like that all hosts share, A:B, beside the one where hosts are made and
                 that of the project
  HOSTS_NAME     the name of all hosts, in place of node1, node2, ...; a hostfile has addresses then
  HOSTS_NOWHERE  yes: each host has a second interface, `nowhere`, whose cable ends nowhere
  HOSTS_SSHD     no: as if sshd were not installed
  HOSTS_RELAY    the program that slows cables where the kernel has no netem (target/release/examples/relay, which
                 `cargo build --release -p test-programs --examples` makes)

A command on the login host finds HOSTS_FILE (a hostfile for Open MPI, 2 slots each), HOSTS_AGENT (starts a program on a host as
ssh does, without sshd or network) and HOSTS_SLOW (this script's `slow`). The cables end there: `ip link set node2 down` is a cut.
TEXT
}

# fail WHAT [HOW TO MEND]
fail() {
    printf 'error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '  help: %s\n' "$2" >&2
    exit 1
}

misused() {
    printf 'error: %s\n  help: scripts/cluster.sh help\n' "$1" >&2
    exit 2
}

# await TEST...: asks for a minute, since a busy machine is slow.
await() {
    local end=$((SECONDS + 60))
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.02
    done
}

has_ended() { [ ! -e "/proc/$1" ]; }

self=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/$(basename "${BASH_SOURCE[0]}")
project=$(dirname "$(dirname "$self")")
# In the room and its hosts, whose /run is their own.
state=/run/spmd-hosts
# On the machine.
noted=${HOSTS_STATE:-${XDG_RUNTIME_DIR:-/run}/spmd-cluster}
net=10.77.0

# Here one is root, for whom Open MPI starts nothing unless it is told to.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# ---- Outside: making a room, entering it, ending it ----

need() { command -v "$1" >/dev/null 2>&1 || fail "$1 is not there" "install $2 (scripts/setup.sh --tests does)"; }

check_machine() {
    [ "$(uname)" = Linux ] || fail 'hosts are made out of namespaces, which only Linux has'
    [ "$(id -u)" = 0 ] || fail 'only root can make hosts' "sudo $self ..."
    need unshare util-linux
    need nsenter util-linux
    need setpriv util-linux
    need ip 'iproute2 (Debian) or iproute (Fedora)'
    unshare --net --uts --ipc --mount --pid --fork true 2>/dev/null ||
        fail 'no namespaces can be made here' 'a container must be privileged (CAP_SYS_ADMIN and CAP_NET_ADMIN)'
    unshare --net ip link add cables type bridge 2>/dev/null ||
        fail 'no network can be made here' 'the kernel must have bridges and veth (modprobe bridge veth)'
}

spaces=(--net --uts --ipc --mount --pid --fork)

# The first process of the room that is noted, if it is there still: numbers of processes are used again.
room() {
    local process space
    { read -r process space <"$noted/room"; } 2>/dev/null || return 1
    [ "$(readlink "/proc/$process/ns/pid" 2>/dev/null)" = "$space" ] && echo "$process"
}

# shellcheck disable=SC2016 # for that shell to expand
in_this_directory=(/bin/sh -c 'cd "$0" 2>/dev/null || cd /; exec "$@"')

# enter PROCESS COMMAND...: becomes a command in the namespaces of that process. It is told to end when this is ended.
enter() {
    local process=$1
    shift
    exec nsenter -t "$process" -m -u -i -n -p -- setpriv --pdeathsig TERM "${in_this_directory[@]}" "$PWD" "$@"
}

up() {
    local line ready=
    check_machine
    ! room >/dev/null || fail "hosts are up already (noted in $noted)" 'scripts/cluster.sh down, or another HOSTS_STATE'
    while read -r line; do
        if [ "$line" = ready ]; then ready=yes && break; fi
        echo "$line" >&2
    done < <(exec setsid unshare "${spaces[@]}" -- "$self" __room "$noted" "$1" </dev/null 2>&1)
    if [ -z "$ready" ]; then down && fail 'the hosts did not come up'; fi
}

down() {
    local process
    if process=$(room); then
        kill -KILL "$process"
        await has_ended "$process" || fail "process $process does not end, though it was killed"
    fi
    rm -f "$noted/room"
    rmdir "$noted" 2>/dev/null || true
}

# with COUNT COMMAND...
with() {
    local code=0
    check_machine
    if [ -z "${HOSTS_STATE:-}" ]; then
        noted=
    elif room >/dev/null; then
        fail "hosts are up already (noted in $noted)" 'another HOSTS_STATE'
    fi
    # Whatever ends this process, however it does, ends the room.
    setpriv --pdeathsig KILL unshare "${spaces[@]}" --kill-child -- "$self" __room "$noted" "$@" || code=$?
    [ -z "$noted" ] || down
    exit $code
}

# ---- The first processes ----

# private KEPT DIRECTORY...: each directory becomes an empty one in memory, but what KEPT names (A:B) stays in sight.
private() {
    local kept=$1 directory path handle handles=() paths=()
    shift
    while IFS= read -r -d : path; do
        [ -d "$path" ] || continue
        # Held open, since it is out of sight in a moment.
        exec {handle}<"$path"
        handles+=("$handle")
        paths+=("$(realpath "$path")")
    done <<<"$kept:"
    for directory in "$@"; do mount -t tmpfs -o mode=1777 tmpfs "$directory"; done
    for path in "${paths[@]}"; do
        handle=${handles[0]}
        handles=("${handles[@]:1}")
        for directory in "$@"; do
            [[ $path/ = "$directory"/* ]] || continue
            mkdir -p "$path"
            mount --no-canonicalize --rbind "/proc/self/fd/$handle" "$path"
        done
        exec {handle}<&-
    done
}

# A shell that waits takes leave of the processes that others leave behind.
stay() {
    trap : TERM INT HUP
    while :; do
        sleep infinity &
        wait $! || true
    done
}

first_process_of_room() {
    local noted=$1 count=$2 own code=0
    shift 2
    # This /proc is the machine's: it tells the number that others know this process by.
    read -r own _ </proc/self/stat
    if [ -n "$noted" ]; then
        mkdir -p "$noted"
        echo "$own $(readlink /proc/self/ns/pid)" >"$noted/room"
    fi
    mount -t proc proc /proc
    HOSTS_SHARED=${HOSTS_SHARED:-}:$PWD:$project
    private "$HOSTS_SHARED" /run
    mkdir -p "$state"/{bin,host,log,relay,slow}
    readlink /proc/self/ns/pid >"$state/room"
    local HOSTS_NAME=${HOSTS_NAME:-} HOSTS_NOWHERE=${HOSTS_NOWHERE:-} HOSTS_SSHD=${HOSTS_SSHD:-yes}
    declare -p HOSTS_SHARED HOSTS_NAME HOSTS_NOWHERE HOSTS_SSHD | sed 's/^declare [^ ]*/export/' >"$state/settings"
    export HOSTS_SHARED HOSTS_NAME HOSTS_NOWHERE HOSTS_SSHD
    hostname login
    printf '%s\n' '127.0.0.1 localhost' "$net.250 login" >"$state/names"
    mount --bind "$state/names" /etc/hosts
    write_agent
    prepare_sshd
    ip link set lo up
    # With an address of its own: else it takes the lowest of its ports', and hosts know an old one when cables change.
    ip link add cables address 02:00:0a:4d:00:fa type bridge stp_state 0 forward_delay 0 mcast_snooping 0
    ip addr add "$net.250/24" dev cables
    ip link set cables up
    # shellcheck disable=SC2046 # many names
    add $(seq -f node%.0f "$count")
    if [ $# -gt 0 ]; then
        (on_login "$@") || code=$?
        # All else here ends with this process.
        exit $code
    fi
    echo ready
    exec >/dev/null 2>&1
    stay
}

first_process_of_host() {
    local name=$1 number=$2 own sshd
    read -r own _ </proc/self/stat
    hostname "${HOSTS_NAME:-$name}"
    mount -t proc proc /proc
    private "$HOSTS_SHARED:$state" /tmp /var/tmp /run /dev/shm
    ip link set lo up
    echo "$own" >"$state/host/.$name"
    connected() { ip link show "$1" >/dev/null 2>&1; }
    await connected eth0 || fail 'no cable came'
    ip addr add "$net.$number/24" dev eth0
    ip link set eth0 up
    if [ -n "$HOSTS_NOWHERE" ]; then
        await connected nowhere || fail 'no second cable came'
        ip addr add "10.88.0.$number/24" dev nowhere
        ip link set nowhere up
    fi
    if sshd=$(sshd_program); then
        mkdir -p /run/sshd
        "$sshd" -D -f "$state/ssh/sshd_config" -E "$state/log/sshd-$name" &
        answers() { (: <"/dev/tcp/$net.$number/22") 2>/dev/null; }
        await answers || fail "its sshd does not answer: $(cat "$state/log/sshd-$name")"
    fi
    mv "$state/host/.$name" "$state/host/$name"
    stay
}

# What starts programs on hosts without sshd and network: it knows the options of ssh.
write_agent() {
    cat >"$state/bin/ssh" <<EOF
#!/bin/sh
# ssh [OPTION]... HOST [COMMAND]...
while :; do
    case \${1:-} in
        -[bcDEeFIiJLlmOopQRSWw]) shift 2 ;;
        -*) shift ;;
        *) break ;;
    esac
done
[ \$# -gt 0 ] || { echo 'ssh: which host?' >&2; exit 255; }
host=\${1#*@}
shift
process=\$(cat "$state/host/\$host" 2>/dev/null) || { echo "ssh: there is no host \$host" >&2; exit 255; }
[ \$# -gt 0 ] || set -- "exec \${SHELL:-/bin/sh}"
exec nsenter -t "\$process" -m -u -i -n -p -- \\
    env -i HOME="\$HOME" USER=root PATH="\$PATH" TERM="\${TERM:-dumb}" /bin/sh -c "\$*"
EOF
    cat >"$state/bin/slow" <<EOF
#!/bin/sh
exec "$self" slow "\$@"
EOF
    chmod +x "$state/bin/ssh" "$state/bin/slow"
}

# Without a password root may be locked, whom sshd does not let in.
sshd_program() {
    [ "$HOSTS_SSHD" = yes ] && ! grep -q '^root:!' /etc/shadow && PATH="$PATH:/usr/sbin:/sbin" command -v sshd
}

# Keys for the occasion; hosts have the same ones, as they have the same home.
prepare_sshd() {
    sshd_program >/dev/null || return 0
    need ssh openssh-client
    mkdir -m 700 "$state/ssh"
    ssh-keygen -q -t ed25519 -N '' -C throw-away -f "$state/ssh/user"
    ssh-keygen -q -t ed25519 -N '' -C throw-away -f "$state/ssh/host"
    cat >"$state/ssh/sshd_config" <<EOF
HostKey $state/ssh/host
AuthorizedKeysFile $state/ssh/user.pub
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
MaxStartups 500
PidFile none
SetEnv "PATH=$PATH"
EOF
    cat >"$state/ssh/ssh_config" <<EOF
IdentityFile $state/ssh/user
IdentitiesOnly yes
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
LogLevel ERROR
ConnectTimeout 10
EOF
    mount --bind "$state/ssh/ssh_config" /etc/ssh/ssh_config
}

# ---- In the room ----

# All hosts that there have been, in order: each has a line, with the name of its cable behind it.
hosts() { sed -n 's/.*# //p' "$state/names"; }

is_up() { [ -s "$state/host/$1" ] && [ -e "/proc/$(cat "$state/host/$1")" ]; }

hosts_up() {
    local host
    for host in $(hosts); do ! is_up "$host" || echo "$host"; done
}

# chosen HOST|all
chosen() {
    if [ "${1:-}" = all ]; then
        hosts_up
    else
        [ $# -gt 0 ] || misused 'which host?'
        hosts_up | grep -x -- "$1" || fail "there is no host $1" "there are: $(hosts_up | tr '\n' ' ')"
    fi
}

add() {
    local name number process
    [ $# -gt 0 ] || misused 'which host?'
    for name in "$@"; do
        [[ $name =~ ^node([1-9][0-9]?|1[0-9][0-9]|200)$ ]] || misused "hosts are called node1 to node200, not $name"
        ! is_up "$name" || fail "$name is up already"
    done
    for name in "$@"; do
        number=${name#node}
        # What is left of one that is gone.
        unplug "$name"
        rm -f "$state/host/$name" "$state/host/$net.$number"
        if ! hosts | grep -qx "$name"; then echo "$net.$number $name # $name" >>"$state/names"; fi
        setsid unshare "${spaces[@]}" --kill-child -- "$self" __host "$name" "$number" </dev/null >"$state/log/$name" 2>&1 &
    done
    for name in "$@"; do
        number=${name#node}
        await test -s "$state/host/.$name" || fail "$name does not start: $(cat "$state/log/$name")"
        process=$(cat "$state/host/.$name")
        # A host that comes back has the address that others know.
        ip link add "$name" type veth peer name eth0 address "$(printf '02:00:0a:4d:00:%02x' "$number")" netns "$process"
        ip link set "$name" master cables up
        if [ -n "$HOSTS_NOWHERE" ]; then
            ip link add "lost$number" type veth peer name nowhere netns "$process"
            ip link set "lost$number" up
        fi
    done
    for name in "$@"; do
        await test -e "$state/host/$name" || fail "$name does not come up: $(cat "$state/log/$name")"
        ln -s "$name" "$state/host/$net.${name#node}"
    done
    hostfile 2 >"$state/hostfile"
}

# Takes away the cable of a host, and what slows it.
unplug() {
    local link
    unslow "$1"
    for link in "$1" "lost${1#node}"; do ip link del "$link" 2>/dev/null || true; done
}

hostfile() {
    local slots=${1:-2} form=${2:-openmpi} host name
    [[ $slots =~ ^[1-9][0-9]*$ ]] || misused "no number of slots: $slots"
    for host in $(hosts_up); do
        name=$host
        [ -z "$HOSTS_NAME" ] || name=$net.${host#node}
        case $form in
            openmpi) echo "$name slots=$slots" ;;
            mpich) echo "$name:$slots" ;;
            *) misused "there is no hostfile of the form $form: openmpi or mpich" ;;
        esac
    done
}

# on_login COMMAND...: becomes a command on the login host.
on_login() {
    export HOSTS_FILE="$state/hostfile" HOSTS_AGENT="$state/bin/ssh" HOSTS_SLOW="$state/bin/slow"
    sshd_program >/dev/null || PATH="$state/bin:$PATH"
    exec "$@"
}

on_host() {
    local host=${1:-}
    [ $# -ge 2 ] || misused 'what is to run, and on which host? (exec HOST COMMAND...)'
    shift
    [ "$host" != login ] || on_login "$@"
    host=$(chosen "$host")
    enter "$(cat "$state/host/$host")" "$@"
}

status() {
    local host word
    printf '%-8s %-12s %s\n' host address state
    for host in $(hosts); do
        word=crashed
        if is_up "$host"; then
            word=up
            ! grep -q '^State:.T' "/proc/$(cat "$state/host/$host")/status" || word=frozen
            ip link show "$host" | grep -q ',UP' || word="$word, cut off"
            [ ! -e "$state/slow/$host" ] || word="$word, $(cat "$state/slow/$host")"
        fi
        printf '%-8s %-12s %s\n' "$host" "$net.${host#node}" "$word"
    done
}

# The end of a cable here receives what its host sends.
stats() {
    local host
    printf '%-8s %14s %14s\n' host 'bytes sent' received
    for host in $(hosts_up); do
        tr : ' ' </proc/net/dev | awk -v host="$host" '$1 == host { printf "%-8s %14d %14d\n", host, $2, $10 }'
    done
}

cut() { ip link set "$1" down; }
heal() { ip link set "$1" up; }
freeze() { signal_host STOP "$1"; }
thaw() { signal_host CONT "$1"; }

# signal_host SIGNAL HOST: to every process there.
signal_host() {
    local space name process target
    space=$(readlink "/proc/$(cat "$state/host/$2")/ns/pid")
    # More than once, since processes make others.
    for _ in 1 2 3; do
        # Of others, it complains that they are gone.
        { find /proc -maxdepth 3 -path '/proc/[0-9]*/ns/pid' -printf '%h %l\n' 2>/dev/null || true; } |
            while read -r name target; do
                process=${name#/proc/}
                [ "$target" != "$space" ] || kill "-$1" "${process%/ns}" 2>/dev/null || true
            done
    done
}

crash() {
    local process
    process=$(cat "$state/host/$1")
    # The cable first: nothing may take leave.
    cut "$1"
    kill -KILL "$process"
    await has_ended "$process" || fail "process $process does not end, though it was killed"
    unplug "$1"
    rm -f "$state/host/$1" "$state/host/$net.${1#node}"
    hostfile 2 >"$state/hostfile"
}

# ---- Slow cables ----

# unslow HOST: as before.
unslow() {
    local link number=${1#node}
    if [ -e "$state/relay/$1" ]; then
        kill "$(cat "$state/relay/$1")" 2>/dev/null || true
        rm -f "$state/relay/$1"
        ip link set "$1" master cables 2>/dev/null || true
        for link in near far away; do ip link del "$link$number" 2>/dev/null || true; done
    elif [ -e "$state/slow/$1" ]; then
        tc qdisc del dev "$1" root 2>/dev/null || true
        ! is_up "$1" || in_network_of "$1" tc qdisc del dev eth0 root 2>/dev/null || true
    fi
    rm -f "$state/slow/$1"
}

in_network_of() {
    local host=$1
    shift
    nsenter -t "$(cat "$state/host/$host")" -n -- "$@"
}

slow() {
    local host hosts delay=${2:-} loss=0 rate='' word told
    hosts=$(chosen "${1:-}")
    for word in "${@:3}"; do
        case $word in
            *%) loss=${word%\%} ;;
            *) rate=$word ;;
        esac
    done
    for word in "$delay" "$loss" "${rate:-1}"; do
        [[ $word =~ ^[0-9]+(\.[0-9]+)?$ ]] || misused 'how many milliseconds, and so on? (slow HOST MS [LOSS%] [MBIT])'
    done
    told="$delay ms, $loss % lost${rate:+, $rate Mbit/s}, each way"
    for host in $hosts; do
        unslow "$host"
        if [ $# -eq 2 ] && [ "$delay" = 0 ]; then continue; fi
        slow_by_netem "$host" "$delay" "$loss" "$rate" || slow_by_relay "$host" "$delay" "$loss" "$rate"
        echo "$told" >"$state/slow/$host"
        echo "$host: $told"
    done
}

# Each end of the cable delays what goes in there.
slow_by_netem() {
    local words=(root netem limit 20000 delay "$2ms" loss "$3%")
    [ -z "$4" ] || words+=(rate "$4mbit")
    command -v tc >/dev/null || return 1
    tc qdisc add dev "$1" "${words[@]}" 2>/dev/null || return 1
    in_network_of "$1" tc qdisc add dev eth0 "${words[@]}"
}

# From the host's cable a bridge leads to one tap, and another tap to where the cable was: the relay is between them.
slow_by_relay() {
    local host=$1 number=${1#node} tap link process
    local relay=${HOSTS_RELAY:-$project/target/release/examples/relay}
    [ -x "$relay" ] || fail "this kernel has no netem, and $relay is not there" \
        'cargo build --release -p test-programs --examples, or set HOSTS_RELAY'
    ip link add "away$number" type bridge stp_state 0 forward_delay 0 mcast_snooping 0
    for tap in far near; do ip tuntap add dev "$tap$number" mode tap; done
    ip link set "far$number" master "away$number"
    ip link set "near$number" master cables
    for link in near far away; do ip link set "$link$number" up; done
    # shellcheck disable=SC2086 # there may be no rate
    setsid "$relay" "$2" "far$number" "near$number" "$3%" $4 </dev/null >"$state/log/relay-$host" 2>&1 &
    process=$!
    echo $process >"$state/relay/$host"
    until ip link show "near$number" | grep -q LOWER_UP; do
        ! has_ended "$process" || fail "the relay of $host has ended: $(cat "$state/log/relay-$host")"
        sleep 0.02
    done
    ip link set "$host" master "away$number"
}

# ---- What to do ----

command=${1:-help}
[ $# -eq 0 ] || shift

check_count() { [[ ${1:-} =~ ^([1-9][0-9]?|1[0-9][0-9]|200)$ ]] || misused 'how many hosts? (1 to 200)'; }

case $command in
    help | -h | --help) usage ;;
    up)
        check_count "$@"
        [ $# -eq 1 ] || misused 'what else? (up N)'
        up "$1"
        ;;
    with)
        check_count "$@"
        [ $# -ge 2 ] || misused 'what is to run? (with N COMMAND...)'
        with "$@"
        ;;
    down) down ;;
    __room) first_process_of_room "$@" ;;
    __host) first_process_of_host "$@" ;;
    add | exec | hostfile | status | stats | cut | heal | slow | freeze | thaw | crash)
        if [ ! -e "$state/room" ]; then
            process=$(room) || fail "no hosts are up (none are noted in $noted)" 'scripts/cluster.sh up 4'
            enter "$process" "$self" "$command" "$@"
        fi
        [ "$(readlink /proc/self/ns/pid)" = "$(cat "$state/room")" ] ||
            fail 'this is one of the hosts' 'give such commands on the login host, or outside'
        # shellcheck disable=SC1091 # the room wrote it
        . "$state/settings"
        case $command in
            exec) on_host "$@" ;;
            cut | heal | freeze | thaw | crash)
                [ $# -eq 1 ] || misused "which host? ($command HOST|all)"
                hosts=$(chosen "$1")
                for host in $hosts; do "$command" "$host"; done
                ;;
            *) "$command" "$@" ;;
        esac
        ;;
    *) misused "there is no command $command" ;;
esac
