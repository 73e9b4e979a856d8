# The registries of the local cluster, and the two images that pods need: pause and busybox; sourced, never run.
# shellcheck shell=bash disable=SC2154  # Set in settings.sh.

start_registry() {
    mkdir -p "$root/registry"
    configure_registry "$registry" "$root/registry/data" >"$root/registry/config.yml"
    launch registry docker-registry serve config.yml
}

# The same with a password, for pull secrets; it starts empty.
start_private_registry() {
    mkdir -p "$root/private-registry"
    printf '%s\n' "$registry_user" >"$root/private-registry/htpasswd"
    {
        configure_registry "$private_registry" "$root/private-registry/data"
        echo "auth: {htpasswd: {realm: imagevol, path: $root/private-registry/htpasswd}}"
    } >"$root/private-registry/config.yml"
    launch private-registry docker-registry serve config.yml
}

# configure_registry ADDRESS FOLDER
configure_registry() {
    cat <<EOF
version: 0.1
log: {level: warn}
http: {addr: "$1", secret: imagevol}
storage:
  filesystem: {rootdirectory: $2}
  delete: {enabled: true}
EOF
}

# push_images: made anew at each `up`, within two seconds.
push_images() {
    local layout=$root/images/layout
    [[ ! -e $root/images/done ]] || return 0
    rm -rf "$root/images"
    mkdir -p "$root/images"
    umoci init --layout "$layout"
    pause_image "$root/images/pause"
    push_image pause "$root/images/pause" /pause
    busybox_image "$root/images/busybox"
    push_image busybox "$root/images/busybox" /bin/sh
    touch "$root/images/done"
    say "pushed $registry/pause:1 and $registry/busybox:1"
}

pause_image() {
    mkdir -p "$1"
    gcc -static -O2 -s -o "$1/pause" hack/cluster/pause.c
}

busybox_image() {
    local applet
    mkdir -p "$1"/{bin,etc,root} && mkdir -m 1777 "$1/tmp"
    cp "$(type -P busybox)" "$1/bin/busybox"
    for applet in $("$1/bin/busybox" --list); do
        [[ $applet == busybox ]] || ln -s busybox "$1/bin/$applet"
    done
    echo root:x:0:0:root:/root:/bin/sh >"$1/etc/passwd"
    echo root:x:0: >"$1/etc/group"
}

# push_image NAME FOLDER COMMAND: as NAME:1, one layer.
push_image() {
    local layout=$root/images/layout
    umoci new --image "$layout:$1"
    umoci insert --image "$layout:$1" "$2" /
    umoci config --image "$layout:$1" --config.cmd "$3" --config.env PATH=/bin
    skopeo copy --quiet --insecure-policy --dest-tls-verify=false "oci:$layout:$1" "docker://$registry/$1:1"
}
