#!/usr/bin/env bash
# Runs a real Kubernetes cluster of one node on this machine: no Docker, no virtual machine, nothing installed.
#
#   hack/local-up-cluster.sh up [OPTION...]           starts it; says how to use it
#   hack/local-up-cluster.sh status [--root DIR]      which parts run, and the node's state; fails if one does not
#   hack/local-up-cluster.sh env [--root DIR]         the `export` lines of a shell that uses it
#   hack/local-up-cluster.sh start|stop|kill PART [--root DIR]
#                                                     one part of it; `kill` is kill -9
#   hack/local-up-cluster.sh down [--root DIR]        takes it away, and all that it left on the machine
#
# Options of `up`:
#   --root DIR              where everything of it is; default /var/tmp/imagevol-cluster
#   --port-base PORT        the first of its twenty ports, a multiple of 20 from 24000 (the default) to 29100; two
#                           clusters run side by side when both this and --root differ
#   --containerd=debian     Debian's containerd (1.6 on Debian 12) instead of 2.4
#   --control-plane-only    etcd, API server and controller manager: no node, and no need to be root
#   --kubernetes=1.34       API server and controller manager 1.34 instead of 1.36; with --control-plane-only
#
# In a shell:     eval "$(hack/local-up-cluster.sh up)"; kubectl get nodes
# Packages:       hack/install-deps e2e, and Go 1.26 or newer
# First time:     the parts are built, ten minutes on two cores (hack/cluster/build-tools); later it takes 15 s
# Its parts:      etcd kube-apiserver kube-controller-manager kube-scheduler registry private-registry containerd
#                 kubelet, each in ROOT/PART with its log and its pid
#
# The node is called 127.0.0.1. Its kubelet's root is ROOT/var/lib/kubelet, and everything below ROOT is a shared
# mount, so that pods may propagate mounts from there. Images are pushed to the registry on PORT+8 (plain HTTP; it has
# pause:1 and busybox:1) or, for pull secrets, to the one on PORT+9 (user alice, password secret). There is no DNS and
# no way from pods to the outside; a Service is reached by the API server only, except for `kubernetes` itself.
set -euo pipefail
invoked_as=$0
cd "$(dirname "$0")/.."
source hack/lib.sh
source hack/cluster/settings.sh
source hack/cluster/tools.sh
source hack/cluster/parts.sh
source hack/cluster/host.sh
source hack/cluster/pki.sh
source hack/cluster/control-plane.sh
source hack/cluster/node.sh
source hack/cluster/images.sh
source hack/cluster/down.sh

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' hack/local-up-cluster.sh
}

# To stderr: stdout is for the shell that evaluates it.
say() {
    printf '%s[%3d s]%s %s\n' "$dim" "$SECONDS" "$plain" "$*" >&2
}

# Some wait for a minute, and must not hold the lock when this script is killed.
exec {root_lock}</dev/null
kubectl() {
    command kubectl "$@" {root_lock}<&-
}

parse() {
    command=$1
    shift
    part=
    if [[ $command =~ ^(start|stop|kill)$ ]]; then
        part=${1:?"a part is needed: see --help"}
        shift
    fi
    while (($#)); do
        case $1 in
            --root=* | --port-base=* | --containerd=* | --kubernetes=*)
                set -- "${1%%=*}" "${1#*=}" "${@:2}"
                continue
                ;;
            --root) root=${2:?} && shift ;;
            --port-base) port_base=${2:?} && shift ;;
            --containerd) containerd=${2:?} && shift ;;
            --kubernetes) kubernetes=${2:?} && shift ;;
            --control-plane-only) control_plane_only=yes ;;
            *) die "no option $1; see --help" ;;
        esac
        shift
    done
    [[ $containerd =~ ^(v2|debian)$ ]] || die "--containerd: v2 or debian, not $containerd"
    [[ $kubernetes =~ ^1\.(36|34)$ ]] || die "--kubernetes: 1.36 or 1.34, not $kubernetes"
    [[ $kubernetes == 1.36 || $control_plane_only ]] || die "--kubernetes=$kubernetes needs --control-plane-only"
}

# derive: everything that follows from the options.
derive() {
    local module=kubernetes
    [[ $kubernetes == 1.36 ]] || module=kubernetes-$kubernetes
    derive_settings
    derive_parts
    control_plane_dir=$(tools_dir "$module")
    containerd_dir=$(containerd_dir "$containerd")
    export PATH="$root/bin:$PATH"
}

check_machine() {
    local tool tools=(openssl curl flock)
    if [[ ! $control_plane_only ]]; then
        ((EUID == 0)) || die "a node needs root: sudo $invoked_as, or --control-plane-only"
        tools+=(runc docker-registry skopeo umoci gcc ip losetup busybox)
        find_cni_plugins >/dev/null
    fi
    for tool in "${tools[@]}"; do
        command -v "$tool" >/dev/null || die "no $tool: hack/install-deps e2e"
    done
}

# check_free: whoever listens on a port of ours would be taken for our part.
check_free() {
    local port busy=
    for port in $(seq "$port_base" $((port_base + 9))); do
        ! { : <"/dev/tcp/127.0.0.1/$port"; } 2>/dev/null || busy+=" $port"
    done
    [[ -z $busy ]] || die "--port-base: something listens on$busy already"
}

# make_root: a kill in here leaves a folder that the next `up` takes for empty.
make_root() {
    mkdir -p "$root"
    [[ -z $(find "$root" -mindepth 1 ! -name "$marker.new") ]] || die "--root: $root is neither empty nor a cluster's"
    choices >"$root/$marker.new"
    mv "$root/$marker.new" "$root/$marker"
}

# open_root: one command at a time works on a root. Of one that was killed, a child may hold the lock a moment longer.
open_root() {
    [[ -O $root/$marker ]] || die "$root belongs to $(stat -c %U "$root")"
    exec {root_lock}<"$root"
    flock --timeout 5 "$root_lock" || die "another $invoked_as works on $root"
}

is_up() {
    local part
    for part in "${parts[@]}"; do
        part_pid "$part" >/dev/null || return 1
    done
    [[ -e $root/env ]]
}

up() {
    derive
    if already_up; then
        [[ $(choices) == "$(<"$root/$marker")" ]] || die "$root is up, with other options: \`down\` comes first"
        say "$root is up already"
    else
        clear_remains
        start_cluster
        say "the cluster is up; \`$invoked_as down --root $root\` takes it away"
    fi
    environment
}

already_up() {
    (load_settings && derive && is_up)
}

# clear_remains: of a cluster that is not whole, with the options that it had.
clear_remains() {
    [[ -e $root/$marker ]] || return 0
    say "clearing what is left in $root"
    (
        load_settings
        derive
        open_root
        take_down
    )
}

start_cluster() {
    local part
    check_machine
    check_free
    build_programs
    make_root
    open_root
    take_number
    make_ground
    for part in "${parts[@]}"; do
        [[ $part != kubelet ]] || push_images
        start_part "$part"
    done
    await_default_service_account
    [[ $control_plane_only ]] || await_node
    environment >"$root/env"
}

build_programs() {
    local modules=(etcd kubernetes)
    [[ $kubernetes == 1.36 ]] || modules+=("kubernetes-$kubernetes")
    [[ $control_plane_only ]] || modules+=("containerd-$containerd")
    hack/cluster/build-tools "${modules[@]/%-v2/}" >&2
}

# make_ground: what the parts stand on.
make_ground() {
    mkdir -p "$root/bin"
    ln -sfn "$(tools_dir kubernetes)/kubectl" "$root/bin/kubectl"
    make_pki
    write_kubeconfigs
    [[ ! $control_plane_only ]] || return 0
    ln -sfn "$containerd_dir/ctr" "$root/bin/ctr"
    mkdir -p "$kubelet_root" "$root/run/imagevol" "$root/var/lib/imagevol" "$root/var/log/pods"
    make_cgroups
    make_bridge
    share_root
}

# environment: to be evaluated by a shell.
environment() {
    cat <<EOF
export KUBECONFIG=$KUBECONFIG KUBECACHEDIR=$KUBECACHEDIR
export PATH=$root/bin:\$PATH
export IMAGEVOL_CLUSTER=$root
# Kubernetes $kubernetes at https://$api_address:$api_port; kubectl: $root/bin/kubectl; logs: $root/PART/log
EOF
    [[ -z ${HTTPS_PROXY:-}${https_proxy:-} ]] || echo "export NO_PROXY=$NO_PROXY"
    [[ ! $control_plane_only ]] || return 0
    cat <<EOF
export IMAGEVOL_CLUSTER_REGISTRY=$registry
export IMAGEVOL_CLUSTER_PRIVATE_REGISTRY=$private_registry
export CONTAINERD_ADDRESS=$containerd_socket CONTAINERD_NAMESPACE=k8s.io
# A shell in a pod: kubectl run -it --rm sh --image=$registry/busybox:1
# Host paths of the driver: $kubelet_root, $root/run/imagevol, $root/var/lib/imagevol
EOF
}

# of_existing COMMAND...: on the cluster in $root, with the options that it was started with.
of_existing() {
    load_settings || die "no cluster in $root"
    derive
    "$@"
}

down() {
    if ! load_settings; then
        say "no cluster in $root"
        return
    fi
    derive
    open_root
    take_down
    local left
    left=$(leftovers)
    [[ -z $left ]] || die "left behind:"$'\n'"$left"
    say "$root is gone"
}

one_part() {
    [[ " ${parts[*]} " == *" $2 "* ]] || die "no part $2; there are: ${parts[*]}"
    open_root
    case $1 in
        start) start_part "$2" ;;
        stop) stop_part "$2" ;;
        kill) stop_part "$2" KILL ;;
    esac
}

status() {
    local part pid state bad=0
    printf '%-26s %-8s %s\n' PART PID STATE
    for part in "${parts[@]}"; do
        state=healthy
        part_healthy "$part" || state='not healthy' bad=1
        pid=$(part_pid "$part") || pid=- state=stopped bad=1
        printf '%-26s %-8s %s\n' "$part" "$pid" "$state"
    done
    [[ $control_plane_only ]] || kubectl --request-timeout=2s get nodes --output wide
    return "$bad"
}

main() {
    case ${1:-} in
        up | down | status | env | start | stop | kill) parse "$@" ;;
        -h | --help | help) usage && return ;;
        *) usage >&2 && exit 2 ;;
    esac
    case $command in
        up) up ;;
        down) down ;;
        status) of_existing status ;;
        env) of_existing environment ;;
        start | stop | kill) of_existing one_part "$command" "$part" ;;
    esac
}

main "$@"
