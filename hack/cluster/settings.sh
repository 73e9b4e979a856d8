# Names, ports and addresses of one local cluster, all from its root and the base of its ports; sourced, never run.
# shellcheck shell=bash disable=SC2034  # Used by its fellows.

# The user's choices, with their defaults; `up` writes them into the root, the other commands read them there.
root=/var/tmp/imagevol-cluster
port_base=24000
containerd=v2
kubernetes=1.36
control_plane_only=

# The file with these choices, the first in a new root and the last to go: without it nothing there is ever deleted.
marker=.imagevol-cluster
# What the clusters of this machine share: which numbers are taken, and what the last one puts back. Gone at a reboot,
# like the things that it speaks of.
shared=/run/imagevol-clusters

# As in Kubernetes' own local cluster. The node's address is the bridge's, because that of a Service's endpoint may
# not be loopback.
node_name=127.0.0.1

# A test's user: alice, secret.
# shellcheck disable=SC2016  # A hash of bcrypt.
registry_user='alice:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a'

derive_settings() {
    [[ $root == /* && $root != / ]] || die "--root: $root is no absolute path of a folder"
    # The longest socket below it is that of a CSI driver, and sun_path holds 107 bytes.
    ((${#root} <= 50)) || die "--root: $root is longer than 50 characters"
    if ! [[ $port_base =~ ^[0-9]{5}$ ]] || ((port_base < 24000 || port_base >= 29120 || port_base % 20)); then
        die "--port-base: $port_base is no multiple of 20 from 24000 to 29100"
    fi
    derive_ports
    derive_network
    derive_folders
}

# Twenty ports a cluster, all on loopback, below the kernel's own range for outgoing connections (32768). From +10 on
# they are free for whoever tests with the cluster.
derive_ports() {
    etcd_port=$port_base
    etcd_peer_port=$((port_base + 1))
    controller_manager_port=$((port_base + 3))
    scheduler_port=$((port_base + 4))
    kubelet_port=$((port_base + 5))
    kubelet_health_port=$((port_base + 6))
    registry_port=$((port_base + 8))
    private_registry_port=$((port_base + 9))
    registry=127.0.0.1:$registry_port
    private_registry=127.0.0.1:$private_registry_port
}

# The `kubernetes` Service needs no proxy: its address is one of the bridge's, and the API server listens right there.
derive_network() {
    local number=$(((port_base - 24000) / 20))
    name=imagevol$number
    pod_network=10.244.$number
    service_network=10.245.$number
    gateway=$pod_network.1
    service_address=$service_network.1
    api_address=$service_address
    api_port=443
    if [[ $control_plane_only ]]; then
        api_address=127.0.0.1
        api_port=$((port_base + 2))
    fi
    # None of these is behind anybody's proxy.
    export NO_PROXY="${NO_PROXY:+$NO_PROXY,}$pod_network.0/24,$service_network.0/24"
}

derive_folders() {
    pki=$root/pki
    kubelet_root=$root/var/lib/kubelet
    containerd_socket=$root/containerd/containerd.sock
    export KUBECONFIG=$root/kubeconfig
    # Else kubectl keeps in the home directory what it learnt of each cluster.
    export KUBECACHEDIR=$root/kubectl-cache
}

# In the order in which they start.
derive_parts() {
    parts=(etcd kube-apiserver kube-controller-manager)
    [[ $control_plane_only ]] || parts+=(kube-scheduler registry private-registry containerd kubelet)
}

# choices: the options, as a script that sets them.
choices() {
    declare -p port_base containerd kubernetes control_plane_only | sed 's/^declare --/declare -g/'
}

# load_settings: those of the cluster at $root, if one was begun there.
load_settings() {
    [[ -e $root/$marker ]] || return 1
    # shellcheck source=/dev/null
    source "$root/$marker"
}
