# Shared by the scripts of this folder; sourced, never run.
# shellcheck shell=bash disable=SC2034  # Colours are used by those who source this.

# Programs that rustup put where a non-login shell does not look.
export PATH="$PATH:${HOME:-/nonexistent}/.cargo/bin"

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' plain=$'\e[0m'
else
    bold='' dim='' green='' plain=''
fi

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# step NAME COMMAND...: runs a step of a longer run, and says how long it took.
step() {
    local name=$1 start=$SECONDS status=0
    shift
    printf '\n%s==> %s%s\n' "$bold" "$name" "$plain"
    "$@" || status=$?
    if ((status)); then
        printf '%s: %s failed after %d s, status %d\n' "${0##*/}" "$name" $((SECONDS - start)) "$status" >&2
        exit "$status"
    fi
    printf '%s<== %s: %d s, %d s since the start%s\n' "$dim" "$name" $((SECONDS - start)) "$SECONDS" "$plain"
}
