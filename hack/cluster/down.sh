# Takes a local cluster away, whatever state it is in; sourced, never run.
# shellcheck shell=bash disable=SC2154  # Set in settings.sh.

# take_down: each step does nothing where there is nothing, so that it can be repeated after a kill at any moment.
take_down() {
    stop_part kube-controller-manager
    stop_part kube-scheduler
    delete_pods
    stop_part kubelet
    kill_cgroup /kubepods
    stop_part containerd
    stop_part kube-apiserver
    stop_part etcd
    stop_part registry
    stop_part private-registry
    if ((EUID == 0)); then
        give_machine_back
    fi
    remove_root
}

# remove_root: never across a mount, behind which may be a folder of the machine itself.
remove_root() {
    local mounted
    mounted=$(mounts_below "$root")
    [[ -z $mounted ]] || die "still mounted: $mounted"
    find "$root" -mindepth 1 -maxdepth 1 ! -name "$marker" -exec rm -rf --one-file-system {} +
    rm "$root/$marker"
    rmdir "$root"
}

give_machine_back() {
    # Shims, and what a pid file was lost of.
    kill_cgroup
    remove_bridge
    remove_leftovers
    detach_loops
    unmount_below "$root"
    remove_cgroups
    give_number_back
}

# delete_pods: while the kubelet runs, so that volumes are given back properly: last those of daemon sets, because a
# driver is one of them. A pod that does not end in time, or whose kubelet is gone, is killed with the rest.
delete_pods() {
    part_pid kubelet >/dev/null && part_pid containerd >/dev/null && part_healthy kube-apiserver || return 0
    say "deleting pods"
    list_pods | awk '$3 != "DaemonSet"' | delete_listed
    list_pods | delete_listed
}

# list_pods: namespace, name, and the kinds of its owners.
list_pods() {
    local format='{{range .items}}{{.metadata.namespace}} {{.metadata.name}}'
    format+='{{range .metadata.ownerReferences}} {{.kind}}{{end}}{{"\n"}}{{end}}'
    kubectl --request-timeout=5s get pods --all-namespaces --output go-template="$format"
}

delete_listed() {
    local list namespace pods
    list=$(cat)
    cut -d ' ' -f 1 <<<"$list" | sort -u | while read -r namespace; do
        [[ $namespace ]] || continue
        mapfile -t pods < <(awk -v in_it="$namespace" '$1 == in_it {print $2}' <<<"$list")
        kubectl delete pods --namespace "$namespace" --ignore-not-found --grace-period=1 --timeout=30s "${pods[@]}" \
            </dev/null >/dev/null || say "some pods of $namespace did not end in 30 s; they are killed"
    done
}

# Names outside the root: those of this cluster's network and of its containers.
remove_leftovers() {
    local bundle result
    for bundle in "$root"/containerd/state/io.containerd.runtime.v2.task/k8s.io/*/; do
        [[ ! -d $bundle ]] || remove_shim_socket "$(basename "$bundle")"
    done
    for result in "/var/lib/cni/results/$name-"*; do
        # NETWORK-SANDBOX-INTERFACE; each sandbox has a loopback besides.
        result=${result#*"/$name-"}
        rm -f /var/lib/cni/results/{"$name","cni-loopback"}-"${result%-*}"-*
    done
    [[ ! -d /var/log/containers ]] || find /var/log/containers -type l -lname "$root/*" -delete
}

# remove_shim_socket ID: named as SocketAddress in containerd's pkg/shim does, and left by a shim that was killed.
remove_shim_socket() {
    local hash
    hash=$(printf %s "$containerd_socket/k8s.io/$1" | sha256sum)
    rm -f "/run/containerd/s/${hash%% *}"
}

# leftovers: what is still there of a cluster that was taken down; nothing, or `down` says so.
leftovers() {
    mounts_below "$root"
    cgroup_pids
    find /sys/class/net -name "$name"
    find /sys/fs/cgroup -maxdepth 2 -name "$name"
    [[ ! -e $root ]] || echo "$root"
}
