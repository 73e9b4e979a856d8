# etcd, API server, controller manager and scheduler of the local cluster; sourced, never run.
# shellcheck shell=bash disable=SC2154  # Set in settings.sh.

start_etcd() {
    launch etcd "$(tools_dir etcd)/etcd" --data-dir=data --log-level=warn --name=local \
        --listen-client-urls="http://127.0.0.1:$etcd_port" --advertise-client-urls="http://127.0.0.1:$etcd_port" \
        --listen-peer-urls="http://127.0.0.1:$etcd_peer_port" \
        --initial-advertise-peer-urls="http://127.0.0.1:$etcd_peer_port" \
        --initial-cluster="local=http://127.0.0.1:$etcd_peer_port" \
        --unsafe-no-fsync
}

# Aggregator routing makes it call webhooks at their pods' addresses: there is no proxy for Services' addresses.
start_kube_apiserver() {
    launch kube-apiserver "$control_plane_dir/kube-apiserver" \
        --etcd-servers="http://127.0.0.1:$etcd_port" \
        --bind-address="$api_address" --secure-port="$api_port" --advertise-address="$service_address" \
        --service-cluster-ip-range="$service_network.0/24" \
        --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" --cert-dir=certificates \
        --client-ca-file="$pki/ca.crt" \
        --kubelet-client-certificate="$pki/apiserver-to-kubelet.crt" \
        --kubelet-client-key="$pki/apiserver-to-kubelet.key" --kubelet-certificate-authority="$pki/ca.crt" \
        --kubelet-preferred-address-types=InternalIP \
        --service-account-issuer=https://kubernetes.default.svc \
        --service-account-key-file="$pki/service-account.pub" \
        --service-account-signing-key-file="$pki/service-account.key" \
        --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged \
        --enable-aggregator-routing
}

start_kube_controller_manager() {
    launch kube-controller-manager "$control_plane_dir/kube-controller-manager" \
        --kubeconfig="$pki/kube-controller-manager.kubeconfig" --leader-elect=false \
        --bind-address=127.0.0.1 --secure-port="$controller_manager_port" --cert-dir=certificates \
        --use-service-account-credentials --service-account-private-key-file="$pki/service-account.key" \
        --root-ca-file="$pki/ca.crt" --flex-volume-plugin-dir="$root/kube-controller-manager/volume-plugins"
}

start_kube_scheduler() {
    launch kube-scheduler "$control_plane_dir/kube-scheduler" \
        --kubeconfig="$pki/kube-scheduler.kubeconfig" --leader-elect=false \
        --bind-address=127.0.0.1 --secure-port="$scheduler_port" --cert-dir=certificates
}

# Pods are refused until the controller manager has made it.
await_default_service_account() {
    local left=150
    until kubectl get serviceaccount default >/dev/null 2>&1; do
        ((left-- > 0)) || die "the default service account does not come; see $root/kube-controller-manager/log"
        sleep 0.2
    done
}
