# containerd and the kubelet of the local cluster, and how they are configured; sourced, never run.
# shellcheck shell=bash disable=SC2154  # Set in settings.sh.

start_containerd() {
    local cni_plugins
    cni_plugins=$(find_cni_plugins)
    mkdir -p "$root/containerd/cni"
    "configure_containerd_$containerd" >"$root/containerd/config.toml"
    configure_network >"$root/containerd/cni/10-$name.conflist"
    # It looks for its shim on PATH.
    launch containerd env "PATH=$containerd_dir:$PATH" \
        "$containerd_dir/containerd" --config "$root/containerd/config.toml"
}

find_cni_plugins() {
    local folder
    for folder in /usr/lib/cni /opt/cni/bin /usr/libexec/cni; do
        [[ -x $folder/bridge ]] && echo "$folder" && return
    done
    die "no CNI plugins: hack/install-deps e2e"
}

# What both formats share. restrict_oom_score_adj: without CAP_SYS_RESOURCE, as in many a virtual machine, runc fails
# to lower the score of a pod's pause process, and with it every sandbox. disable_apparmor: its profile would stay in
# the kernel.
containerd_cri() {
    cat <<EOF
restrict_oom_score_adj = true
disable_apparmor = true
netns_mounts_under_state_dir = true
EOF
}

containerd_runc() {
    cat <<EOF
runtime_type = "io.containerd.runc.v2"
EOF
}

containerd_folders() {
    cat <<EOF
root = "$root/containerd/root"
state = "$root/containerd/state"
[grpc]
address = "$containerd_socket"
[debug]
level = "info"
EOF
}

# https://github.com/containerd/containerd/blob/main/docs/cri/config.md
configure_containerd_v2() {
    cat <<EOF
version = 3
disabled_plugins = ["io.containerd.nri.v1.nri"]
$(containerd_folders)
[plugins.'io.containerd.internal.v1.opt']
path = "$root/containerd/opt"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "$registry/pause:1"
[plugins.'io.containerd.cri.v1.runtime']
$(containerd_cri)
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["$cni_plugins"]
conf_dir = "$root/containerd/cni"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
$(containerd_runc)
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
Root = "$root/containerd/runc"
EOF
}

# The format of 1.6 and 1.7.
configure_containerd_debian() {
    cat <<EOF
version = 2
disabled_plugins = ["io.containerd.nri.v1.nri"]
$(containerd_folders)
[plugins."io.containerd.internal.v1.opt"]
path = "$root/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "$registry/pause:1"
$(containerd_cri)
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "$cni_plugins"
conf_dir = "$root/containerd/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
$(containerd_runc)
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "$root/containerd/runc"
EOF
}

# No isGateway: it would turn the whole machine's IP forwarding on; the bridge has the gateway's address already.
configure_network() {
    cat <<EOF
{
  "cniVersion": "0.4.0",
  "name": "$name",
  "plugins": [{
    "type": "bridge",
    "bridge": "$name",
    "ipam": {
      "type": "host-local",
      "dataDir": "$root/containerd/networks",
      "ranges": [[{"subnet": "$pod_network.0/24", "gateway": "$gateway"}]],
      "routes": [{"dst": "0.0.0.0/0"}]
    }
  }]
}
EOF
}

start_kubelet() {
    mkdir -p "$root/kubelet/manifests" "$root/kubelet/volume-plugins"
    : >"$root/kubelet/resolv.conf"
    configure_kubelet >"$root/kubelet/config.yaml"
    launch kubelet "$control_plane_dir/kubelet" --config=config.yaml --kubeconfig="$pki/node.kubeconfig" \
        --hostname-override="$node_name" --node-ip="$gateway" --root-dir="$kubelet_root" --cert-dir=certificates --v=2
}

# Nothing is reserved, evicted or collected: a developer's disk is fuller than a node's should be. The name server is
# not there, but without its address each pod gets a warning.
configure_kubelet() {
    cat <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $gateway
port: $kubelet_port
healthzBindAddress: 127.0.0.1
healthzPort: $kubelet_health_port
tlsCertFile: $pki/kubelet.crt
tlsPrivateKeyFile: $pki/kubelet.key
authentication:
  x509: {clientCAFile: $pki/ca.crt}
  anonymous: {enabled: false}
containerRuntimeEndpoint: unix://$containerd_socket
clusterDNS: [$service_network.10]
clusterDomain: cluster.local
cgroupDriver: cgroupfs
cgroupRoot: /$name
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
makeIPTablesUtilChains: false
maxPods: 200
oomScoreAdj: 0
podLogsDir: $root/var/log/pods
resolvConf: $root/kubelet/resolv.conf
serializeImagePulls: false
staticPodPath: $root/kubelet/manifests
volumePluginDir: $root/kubelet/volume-plugins
volumeStatsAggPeriod: 1m
EOF
}

await_node() {
    local condition
    for condition in create condition=Ready; do
        kubectl wait "--for=$condition" "node/$node_name" --timeout=60s >/dev/null ||
            die "the node does not become ready; see $root/kubelet/log and $root/containerd/log"
    done
}
