# Starts, watches and stops the processes of the local cluster, each known by its pid file; sourced, never run.
# shellcheck shell=bash disable=SC2154  # Set in settings.sh.

# Why processes are not stopped by name: other clusters, or the machine's own containerd, may run beside this one.

# process_start PID: when it started, in ticks since boot: with it a pid file cannot mean a later process of that pid.
# Fails for one that is gone, or dead and waiting for its parent.
process_start() {
    local stat
    { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
    # proc_pid_stat(5): the name may hold spaces and brackets; after it come the state (3rd) ... the start (22nd).
    read -ra stat <<<"${stat##*) }"
    [[ ${stat[0]} != [ZX] ]] && echo "${stat[19]}"
}

# part_pid PART: its pid, or failure when it does not run.
part_pid() {
    local pid start
    read -r pid start 2>/dev/null <"$root/$1/pid" || return 1
    [[ $(process_start "$pid") == "$start" ]] && echo "$pid"
}

# launch PART COMMAND...: runs it in its own folder, session and log. The pid file is written by the process itself
# before it becomes COMMAND, so that a kill at any moment leaves none unknown.
launch() {
    local part=$1
    shift
    mkdir -p "$root/$part"
    # Of one that has ended: who waits for this one must not read it.
    rm -f "$root/$part/pid"
    (
        cd "$root/$part" || exit
        pid=$BASHPID
        enter_cgroup
        echo "$pid $(process_start "$pid")" >pid
        exec {root_lock}>&-
        exec setsid "$@" >>log 2>&1 </dev/null
    ) &
}

# wait_for PART SECONDS: until it is healthy; ends the script with its last words if it dies or is too slow.
wait_for() {
    local part=$1 deadline=$((SECONDS + $2))
    until part_healthy "$part"; do
        if ! part_pid "$part" >/dev/null || ((SECONDS >= deadline)); then
            tail -n 15 "$root/$part/log" >&2 || true
            die "$part did not become healthy; its log is $root/$part/log"
        fi
        sleep 0.2
    done
}

# start_part PART: does nothing for one that runs.
start_part() {
    part_pid "$1" >/dev/null && return
    "start_${1//-/_}"
    # The pid file appears a moment after the fork.
    until [[ -s $root/$1/pid ]]; do sleep 0.05; done
    wait_for "$1" 60
    say "$1 is up"
}

# stop_part PART [SIGNAL]: asks, waits ten seconds, then kills.
stop_part() {
    local pid
    pid=$(part_pid "$1") || return 0
    signal "${2:-TERM}" "$pid"
    await_end "$1" 100 || { signal KILL "$pid" && await_end "$1" 100; } || die "$1 ($pid) does not end"
}

# signal SIGNAL PID: a process that has just ended is as good as one that was reached.
signal() {
    kill -s "$1" "$2" 2>/dev/null || ! process_start "$2" >/dev/null
}

# await_end PART TENTHS
await_end() {
    local left=$2
    while part_pid "$1" >/dev/null; do
        ((left-- > 0)) || return 1
        sleep 0.1
    done
}

probe() {
    curl --silent --fail --output /dev/null --noproxy '*' --max-time 2 "$@"
}

part_healthy() {
    case $1 in
        etcd) probe "http://127.0.0.1:$etcd_port/health" ;;
        kube-apiserver) kubectl --request-timeout=2s get --raw /readyz >/dev/null 2>&1 ;;
        # Their certificates are made by themselves at each start.
        kube-controller-manager) probe --insecure "https://127.0.0.1:$controller_manager_port/healthz" ;;
        kube-scheduler) probe --insecure "https://127.0.0.1:$scheduler_port/healthz" ;;
        registry) probe "http://$registry/v2/" ;;
        private-registry) probe --user alice:secret "http://$private_registry/v2/" ;;
        containerd) timeout 2 "$containerd_dir/ctr" --address "$containerd_socket" version >/dev/null 2>&1 ;;
        kubelet) probe "http://127.0.0.1:$kubelet_health_port/healthz" ;;
        *) die "no part $1" ;;
    esac
}
