# What a node needs of the machine itself: a bridge, cgroups, a shared mount, kernel settings; and how each is given
# back; sourced, never run.
# shellcheck shell=bash disable=SC2154  # Set in settings.sh.

# Folders that the kubelet, containerd and the CNI library have built in, in the order of their making.
fixed_folders=(
    /var/lib/kubelet /var/lib/kubelet/device-plugins /var/log/containers /var/lib/cni /var/lib/cni/results
    /run/containerd /run/containerd/s
)

# What the kubelet sets at its start (setupKernelTunables in pkg/kubelet/cm).
kernel_settings=(
    vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops
    kernel/keys/root_maxkeys kernel/keys/root_maxbytes
)

# take_number: no second cluster on this machine may use these ports, addresses and names. Without root there is
# nothing to share but ports, which the kernel guards.
take_number() {
    ((EUID == 0)) || return 0
    mkdir -p "$shared"
    local other
    other=$(readlink "$shared/$name") || other=$root
    [[ $other == "$root" || ! -e $other/$marker ]] || die "--port-base: $port_base is taken by the cluster in $other"
    ln -sfn "$root" "$shared/$name"
    # The first cluster finds the machine as it was before any of them.
    [[ -e $shared/before ]] || record_host >"$shared/before"
}

# One line for each thing to put back, as words for restore_host.
record_host() {
    local item
    for item in "${kernel_settings[@]}"; do
        echo "setting $item $(<"/proc/sys/$item")"
    done
    for item in "${fixed_folders[@]}"; do
        [[ -e $item ]] || echo "folder $item"
    done
}

# give_number_back: the last cluster puts back what the first one found. A kill in here leaves the record, and the next
# `down`, or the next cluster's, does it again.
give_number_back() {
    ((EUID == 0)) || return 0
    rm -f "$shared/$name"
    # A link that leads nowhere is of a root that was deleted by hand.
    [[ -e $shared/before && -z $(find "$shared" -type l -xtype d -print -quit) ]] || return 0
    restore_host
    rm -r "$shared"
}

restore_host() {
    local kind item value
    while read -r kind item value; do
        case $kind in
            setting) [[ $(<"/proc/sys/$item") == "$value" ]] || echo "$value" >"/proc/sys/$item" ;;
            # What the kubelet leaves in a folder that it made; a socket and a list of devices.
            folder) rm -f "$item"/{kubelet.sock,kubelet_internal_checkpoint,DEPRECATION} ;;
        esac
    done <"$shared/before"
    while read -r kind item value; do
        [[ $kind != folder || ! -d $item ]] || rmdir --ignore-fail-on-non-empty "$item"
    done < <(tac "$shared/before")
}

# The bridge's addresses are the node's, the pods' gateway, and the API server's.
make_bridge() {
    [[ ! -e /sys/class/net/$name ]] || return 0
    ip link add "$name" type bridge
    ip address add "$gateway/24" dev "$name"
    ip address add "$service_address/32" dev "$name"
    ip link set "$name" up
}

# Pods' ends go with their network namespaces, but some time later.
remove_bridge() {
    local end
    [[ -e /sys/class/net/$name ]] || return 0
    for end in "/sys/class/net/$name/brif/"*; do
        # It may end by itself meanwhile.
        [[ ! -e $end ]] || ip link delete "${end##*/}" || [[ ! -e $end ]]
    done
    ip link delete "$name"
}

cgroup_mounts() {
    awk '$3 == "cgroup" || $3 == "cgroup2" {print $2}' /proc/mounts
}

# A tree of its own, with the pods in it and, under parts/, all that this script starts: whoever is in it belongs to
# this cluster, and may be killed.
make_cgroups() {
    local mount group
    for mount in $(cgroup_mounts); do
        for group in "$mount/$name" "$mount/$name/parts"; do
            mkdir -p "$group"
            share_controllers "$group"
        done
    done
}

# share_controllers GROUP: version 1 of cpuset starts empty and takes no process; version 2 gives its children nothing
# unless told. One that the machine withholds is missed by the kubelet, by name.
share_controllers() {
    local above file controller
    above=$(dirname "$1")
    for file in cpuset.cpus cpuset.mems; do
        [[ ! -e $above/cgroup.clone_children || ! -e $1/$file ]] || cat "$above/$file" >"$1/$file"
    done
    [[ -e $above/cgroup.subtree_control ]] || return 0
    for controller in $(<"$above/cgroup.controllers"); do
        { echo "+$controller" >"$above/cgroup.subtree_control"; } 2>/dev/null || true
    done
}

# enter_cgroup: this shell, and what it becomes.
enter_cgroup() {
    local mount
    for mount in $(cgroup_mounts); do
        [[ ! -d $mount/$name/parts ]] || echo "$BASHPID" >"$mount/$name/parts/cgroup.procs"
    done
}

# cgroup_pids [BELOW]
cgroup_pids() {
    local mount
    for mount in $(cgroup_mounts); do
        [[ ! -d $mount/$name${1:-} ]] || find "$mount/$name${1:-}" -name cgroup.procs -exec cat {} + 2>/dev/null
    done | sort -u
}

# kill_cgroup [BELOW]: everything in it, and what that forks meanwhile.
kill_cgroup() {
    local left=100 pids
    mapfile -t pids < <(cgroup_pids "${1:-}")
    while ((${#pids[@]})); do
        ((left-- > 0)) || die "processes do not end: ${pids[*]}"
        kill -KILL "${pids[@]}" 2>/dev/null || true
        sleep 0.1
        mapfile -t pids < <(cgroup_pids "${1:-}")
    done
}

remove_cgroups() {
    local mount left=50
    for mount in $(cgroup_mounts); do
        while [[ -d $mount/$name ]]; do
            find "$mount/$name" -depth -type d -exec rmdir {} + 2>/dev/null && break
            ((left-- > 0)) || die "$mount/$name does not go"
            sleep 0.1
        done
    done
}

# share_root: a container's mount under a Bidirectional hostPath must reach the machine, but `/` is shared only where
# systemd is. A peer group of its own keeps such mounts from appearing twice where it is.
share_root() {
    [[ -z $(mounts_below "$root") ]] || return 0
    mount --bind "$root" "$root"
    mount --make-private "$root"
    mount --make-rshared "$root"
}

# mounts_below FOLDER: the mount points at and below it, the latest first. Blanks are octal in mountinfo.
mounts_below() {
    local point
    awk '{print $5}' /proc/self/mountinfo | tac | while read -r point; do
        printf -v point %b "$point"
        [[ $point/ != "$1/"* ]] || printf '%s\n' "$point"
    done
}

# unmount_below FOLDER: until nothing is mounted there, since some mounts take others of their peer group along.
unmount_below() {
    local tries=10 points point
    mapfile -t points < <(mounts_below "$1")
    while ((${#points[@]})); do
        ((tries-- > 0)) || die "still mounted: ${points[*]}"
        for point in "${points[@]}"; do
            umount "$point" 2>/dev/null || umount --lazy "$point" 2>/dev/null || true
        done
        mapfile -t points < <(mounts_below "$1")
    done
}

# detach_loops: those of a driver that was killed. One that is still mounted ends with its mount; the kernel says where
# a file is only as long as the root is mounted.
detach_loops() {
    local device
    for device in $(losetup --list --noheadings --output NAME,BACK-FILE | awk -v below="$root/" \
        'index($2, below) == 1 {print $1}'); do
        losetup --detach "$device"
    done
}
