# The certificates of the local cluster: one authority for servers and clients, good for a year; sourced, never run.
# shellcheck shell=bash disable=SC2154  # Set in settings.sh.

# Who may do what is in a client's subject: Kubernetes takes CN as the user and O as its groups.
make_pki() {
    [[ -e $pki/done ]] && return
    mkdir -p "$pki"
    chmod 700 "$pki"
    make_authority
    issue apiserver /CN=kube-apiserver \
        "subjectAltName=IP:127.0.0.1,IP:$service_address,DNS:localhost,DNS:kubernetes.default.svc"
    issue kubelet "/CN=kubelet" "subjectAltName=IP:127.0.0.1,IP:$gateway"
    issue admin /O=system:masters/CN=admin
    issue apiserver-to-kubelet /O=system:masters/CN=kube-apiserver
    issue kube-controller-manager /CN=system:kube-controller-manager
    issue kube-scheduler /CN=system:kube-scheduler
    issue node "/O=system:nodes/CN=system:node:$node_name"
    make_service_account_key
    touch "$pki/done"
}

ec_key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)

make_authority() {
    openssl req -x509 "${ec_key[@]}" -days 365 -subj /CN=imagevol-local-cluster \
        -keyout "$pki/ca.key" -out "$pki/ca.crt" 2>/dev/null
}

# issue NAME SUBJECT [EXTENSION]
issue() {
    openssl req -new "${ec_key[@]}" -keyout "$pki/$1.key" -subj "$2" 2>/dev/null |
        openssl x509 -req -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -days 365 -out "$pki/$1.crt" \
            -extfile <(printf '%s\n' extendedKeyUsage=serverAuth,clientAuth "${3:-}") 2>/dev/null
}

# The controller manager signs tokens with it, the API server checks them.
make_service_account_key() {
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$pki/service-account.key"
    openssl pkey -in "$pki/service-account.key" -pubout -out "$pki/service-account.pub"
}

# write_kubeconfig FILE CLIENT: with the certificates inside, so that it can be copied elsewhere.
write_kubeconfig() {
    (umask 077 && cat >"$1") <<EOF
apiVersion: v1
kind: Config
current-context: $name
contexts:
- name: $name
  context: {cluster: $name, user: $2}
clusters:
- name: $name
  cluster:
    server: https://$api_address:$api_port
    certificate-authority-data: $(base64 -w 0 "$pki/ca.crt")
users:
- name: $2
  user:
    client-certificate-data: $(base64 -w 0 "$pki/$2.crt")
    client-key-data: $(base64 -w 0 "$pki/$2.key")
EOF
}

write_kubeconfigs() {
    local client
    write_kubeconfig "$KUBECONFIG" admin
    for client in kube-controller-manager kube-scheduler node; do
        write_kubeconfig "$pki/$client.kubeconfig" "$client"
    done
}
