#!/usr/bin/env bash
# Runs the end-to-end tests on a cluster of kind, with imagevol's image loaded into its nodes.
#
#   hack/kind-e2e.sh [up|test|down] [ARGUMENT of cargo test...]
#
# Without a word it does all three, but leaves the cluster of tests that failed; `up` and `down` alone are for a cluster
# to work with. KIND_IMAGE chooses the node image (https://github.com/kubernetes-sigs/kind/releases), and with it the
# version of Kubernetes.
#
# Needed: Docker, kind 0.27 or newer (its node images read /etc/containerd/certs.d), kubectl, skopeo, and a kernel of
# 6.4 or newer on this machine, since kind's nodes share it.
#
# NOT TRIED by its authors, who had no Docker: it was read, and checked with `bash -n` and shellcheck. What was run is
# hack/local-up-cluster.sh, with the same tests.
set -euo pipefail
cd "$(dirname "$0")/.."
source hack/lib.sh

cluster=imagevol-e2e
state=target/kind-e2e
# As the tests are told them by hack/local-up-cluster.sh too.
export KUBECONFIG=$PWD/$state/kubeconfig
export IMAGEVOL_CLUSTER_REGISTRY=localhost:5001
export IMAGEVOL_CLUSTER_PRIVATE_REGISTRY=localhost:5002
# A test's user: alice, secret.
# shellcheck disable=SC2016  # A hash of bcrypt.
registry_user='alice:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a'

check_machine() {
    local tool
    for tool in docker kind kubectl skopeo; do
        command -v "$tool" >/dev/null || die "no $tool; see the head of $0"
    done
    docker info >/dev/null || die "Docker does not answer"
    [[ $(printf '%s\n' 6.4 "$(uname -r)" | sort -V | head -n 1) == 6.4 ]] ||
        die "this kernel, $(uname -r), is older than 6.4"
}

make_cluster() {
    if kind get clusters | grep -qx "$cluster"; then
        kind export kubeconfig --name "$cluster"
        return
    fi
    kind create cluster --name "$cluster" --config hack/cluster/kind.yaml --wait 120s \
        ${KIND_IMAGE:+--image "$KIND_IMAGE"}
}

# run_registry NAME PORT [OPTION of docker run...]: on this machine's loopback, and by its name for the nodes.
run_registry() {
    local name=$1 port=$2
    shift 2
    docker inspect "$name" >/dev/null 2>&1 ||
        docker run --detach --name "$name" --network kind --publish "127.0.0.1:$port:5000" "$@" registry:2 >/dev/null
}

run_registries() {
    printf '%s\n' "$registry_user" >"$state/htpasswd"
    run_registry "$cluster-registry" 5001
    run_registry "$cluster-private-registry" 5002 --volume "$PWD/$state/htpasswd:/htpasswd:ro" \
        --env REGISTRY_AUTH=htpasswd --env REGISTRY_AUTH_HTPASSWD_REALM=imagevol \
        --env REGISTRY_AUTH_HTPASSWD_PATH=/htpasswd
}

# In a node, localhost is the node: https://kind.sigs.k8s.io/docs/user/local-registry
name_registries() {
    local node
    for node in $(kind get nodes --name "$cluster"); do
        write_host "$node" "$IMAGEVOL_CLUSTER_REGISTRY" "$cluster-registry"
        write_host "$node" "$IMAGEVOL_CLUSTER_PRIVATE_REGISTRY" "$cluster-private-registry"
    done
}

# write_host NODE ADDRESS NAME
write_host() {
    docker exec --interactive "$1" sh -c 'mkdir -p "$0" && cat >"$0/hosts.toml"' "/etc/containerd/certs.d/$2" <<EOF
[host."http://$3:5000"]
EOF
}

# The image that the tests' pods run, from the same address as on the local cluster.
push_busybox() {
    skopeo copy --quiet --dest-tls-verify=false docker://docker.io/library/busybox:stable \
        "docker://$IMAGEVOL_CLUSTER_REGISTRY/busybox:1"
}

install_driver() {
    rm -f "$state/imagevold.tar"
    hack/image --archive "$state/imagevold.tar"
    kind load image-archive --name "$cluster" "$state/imagevold.tar"
    kubectl apply -k deploy/kustomize/overlays/kind
    kubectl rollout status daemonset/imagevol-node --namespace imagevol-system --timeout=120s
}

up() {
    check_machine
    mkdir -p "$state"
    step cluster make_cluster
    step registries run_registries
    name_registries
    step busybox push_busybox
    step driver install_driver
    echo "export KUBECONFIG=$KUBECONFIG"
}

# Tests that look at the node's own files and sockets are left out by themselves: the node is a container.
run_tests() {
    IMAGEVOL_E2E=1 cargo test --locked --package imagevol-test-e2e --no-fail-fast -- \
        --test-threads 2 "$@"
}

down() {
    kind delete cluster --name "$cluster"
    docker rm --force --volumes "$cluster-registry" "$cluster-private-registry"
    rm -rf "$state"
}

main() {
    local command=${1:-}
    case $command in
        up | down) "$command" ;;
        test) run_tests "${@:2}" ;;
        '' | -*)
            up
            step tests run_tests "$@"
            down
            ;;
        *) die "usage: hack/kind-e2e.sh [up|test|down] [ARGUMENT of cargo test...]" ;;
    esac
}

main "$@"
