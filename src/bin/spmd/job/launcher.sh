# Kubernetes sends TERM to this shell alone when the pod is to go: its host is drained, or the time is
# up. mpirun hands USR1 on to all ranks: a program that keeps checkpoints keeps one, and ends with 5.
# (Where two dollars stand before a parenthesis, Kubernetes makes one of them.)
# shellcheck disable=SC2317,SC2329 # called by the trap
tell_program() {
    told=yes
    for child in $(jobs -p); do kill -USR1 "$child" 2>/dev/null || true; done
}
trap tell_program TERM INT

__MPIRUN__ "$@" &
job=$!
# A signal ends `wait`, not the program; then its end is still to come.
while
    told=
    code=0
    wait "$job" || code=$?
    [ -n "$told" ]
do :; done
exit "$code"
