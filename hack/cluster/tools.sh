# Where the cluster's programs are; sourced, never run.
# shellcheck shell=bash

# Built programs live outside the tree, a folder for each state of a tool module: they outlive `git clean`, and two
# checkouts share them.
tools_cache=${IMAGEVOL_TOOLS:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/imagevol/tools}

# tool_modules: the names of the folders under hack/tools.
tool_modules() {
    local manifest
    for manifest in hack/tools/*/go.mod; do
        basename "$(dirname "$manifest")"
    done
}

# tools_dir MODULE: the folder of its programs, which is there once hack/cluster/build-tools has built them.
tools_dir() {
    local hash
    hash=$(cat "hack/tools/$1/go.mod" "hack/tools/$1/go.sum" | sha256sum)
    printf '%s/%s-%s\n' "$tools_cache" "$1" "${hash:0:12}"
}

# containerd_dir FLAVOUR: of containerd, its shim and ctr; v2 is ours, debian is taken out of the package, which
# itself is never installed: it would start a service, and it breaks docker.io.
containerd_dir() {
    if [[ $1 == debian ]]; then
        echo "$tools_cache/containerd-debian"
    else
        tools_dir containerd
    fi
}
