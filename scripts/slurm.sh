#!/usr/bin/env bash
# A real SLURM (munge, slurmctld, slurmd) on throw-away hosts of this machine. docs/cluster.md shows its use.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: scripts/slurm.sh COMMAND

  up [N]         SLURM on N new hosts (scripts/cluster.sh up N), or on those that are there
  add HOST...    more nodes while jobs run: hosts that are there, new ones, or such as have crashed
  down           ends SLURM, the hosts, and whatever runs on them

One types on the host `login`: scripts/cluster.sh exec login sbatch --nodes=4 scripts/job.sbatch PROGRAM ...
Its logs: scripts/cluster.sh exec login ls /run/spmd-hosts/slurm

Every node has 2 CPUs, whatever this machine has. Limits are short, as one waits for them: a lost node is noticed after 20 s, a
job that was put back into the queue starts again after 10 s. No accounts, no control groups. Needs what scripts/cluster.sh
needs, and slurm-wlm and munge (Debian; tried with SLURM 22.05). Variables: those of scripts/cluster.sh.
TEXT
}

fail() {
    printf 'error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '  help: %s\n' "$2" >&2
    exit 1
}

cluster=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/cluster.sh
export PATH="$PATH:/usr/sbin:/sbin"
# All hosts see it.
place=/run/spmd-hosts/slurm
cpus='CPUs=2 Boards=1 SocketsPerBoard=1 CoresPerSocket=2 ThreadsPerCore=1 RealMemory=1000'

on() { "$cluster" exec "$@"; }
hosts() { "$cluster" hostfile 1 mpich | sed 's/:.*//'; }

check() {
    local program
    for program in munged slurmctld slurmd sinfo; do
        command -v "$program" >/dev/null || fail "$program is not there" \
            'install slurm-wlm and munge (scripts/setup.sh --tests does); no daemon of theirs has to run on this machine'
    done
    [ -d /etc/slurm ] || fail 'there is no /etc/slurm, where SLURM looks for its settings' 'mkdir /etc/slurm'
}

# settings HOST...: those of SLURM.
settings() {
    local host
    cat <<EOF
ClusterName=spmd
SlurmctldHost=login
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0
MpiDefault=none
# How long a job waits that was put back into the queue.
AuthInfo=cred_expire=10
SlurmctldTimeout=10
SlurmdTimeout=20
KillWait=2
MessageTimeout=20
# A node that comes back works again.
ReturnToService=2
StateSaveLocation=$place/state
SlurmdSpoolDir=/var/tmp/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=$place/slurmctld.log
SlurmdLogFile=$place/slurmd-%n.log
# CPUs are as many as is said here.
SlurmdParameters=config_overrides
# Room for nodes that are added, which every node tells directly.
MaxNodeCount=200
TreeWidth=65533
EOF
    for host in "$@"; do echo "NodeName=$host $cpus"; done
    echo 'PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE'
}

# prepare HOST: what every daemon and command there needs.
prepare() {
    on "$1" sh -ec "
        mount --bind $place /etc/slurm
        mkdir -p -m 755 /run/munge /var/tmp/slurmd
        munged --force --key-file=$place/key --num-threads=2 \
            --log-file=$place/munge-$1.log --seed-file=/run/munge/seed --pid-file=/run/munge/pid"
}

# await_nodes HOST...: until they can take jobs.
await_nodes() {
    local end=$((SECONDS + 60)) ready
    until
        ready=$(on login sinfo -h -N -n "$(IFS=, && echo "$*")" -o %T | grep -cE '^(idle|mixed|allocated)$')
        [ "$ready" -eq $# ]
    do
        if [ $SECONDS -ge $end ]; then
            on login sinfo -N -l >&2 || true
            fail 'nodes do not come up' "see $place on the host login"
        fi
        sleep 0.1
    done
}

up() {
    local nodes host
    check
    if [ $# -gt 0 ]; then "$cluster" up "$1"; fi
    nodes=$(hosts)
    ! on login test -e "$place" || fail 'SLURM is up already' 'scripts/slurm.sh down'
    on login mkdir -p "$place/state"
    # shellcheck disable=SC2086 # many names
    settings $nodes | on login tee "$place/slurm.conf" >/dev/null
    head -c 64 /dev/urandom | on login sh -c "umask 077 && cat >$place/key"
    prepare login
    on login slurmctld
    for host in $nodes; do
        prepare "$host"
        on "$host" slurmd
    done
    # shellcheck disable=SC2086
    await_nodes $nodes
}

add() {
    local host
    [ $# -gt 0 ] || fail 'which host?' 'scripts/slurm.sh add node5'
    on login test -e "$place" || fail 'SLURM is not up' 'scripts/slurm.sh up'
    for host in "$@"; do
        hosts | grep -qx "$host" || "$cluster" add "$host"
        prepare "$host"
        if on login grep -q "^NodeName=$host " "$place/slurm.conf"; then
            on "$host" slurmd
        else
            on "$host" slurmd -Z --conf "$cpus"
        fi
    done
    await_nodes "$@"
}

command=${1:-help}
[ $# -eq 0 ] || shift
case $command in
    help | -h | --help) usage ;;
    up | add) "$command" "$@" ;;
    down) "$cluster" down ;;
    *) fail "there is no command $command" 'scripts/slurm.sh help' ;;
esac
