#!/usr/bin/env bash
# Checks what a build needs. A C++ compiler (RocksDB) and libclang (its bindings) are installed
# through apt-get when that is possible without asking anybody; otherwise the command is named.
set -euo pipefail

# As in Cargo.toml's rust-version.
rust_wanted=1.95

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

check_rust() {
    command -v cargo > /dev/null || fail 'cargo is missing. Install Rust:' \
        "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
    local version
    version=$(rustc --version | cut -d ' ' -f 2)
    # The older of the two comes first in version order.
    [ "$(printf '%s\n' "$rust_wanted" "$version" | sort -V | head -n 1)" = "$rust_wanted" ] ||
        fail "Rust $version is too old, $rust_wanted is needed:" '  rustup update stable'
    cargo fmt --version > /dev/null 2>&1 && cargo clippy --version > /dev/null 2>&1 ||
        fail 'rustfmt or clippy is missing:' '  rustup component add rustfmt clippy'
}

has_compiler() {
    command -v c++ > /dev/null || command -v g++ > /dev/null || command -v clang++ > /dev/null
}

# The places where the bindings' build looks, and the headers that come with the library.
has_libclang() {
    local directories=(/usr/lib /usr/lib64 /usr/lib/*-linux-gnu /usr/lib/llvm*/lib /usr/local/lib
        /usr/lib64/llvm*/lib /usr/local/llvm*/lib)
    if [ -n "${LIBCLANG_PATH:-}" ]; then
        directories=("$LIBCLANG_PATH")
    fi
    # libclang-cpp is another library. Most of the directories do not exist, which find tells.
    local found
    found=$(find -L "${directories[@]}" -maxdepth 1 \
        \( -name 'libclang.so*' -o -name 'libclang-[0-9]*.so*' \) -print -quit 2> /dev/null || true)
    [ -n "$found" ]
}

missing() {
    has_compiler || echo g++
    has_libclang || echo libclang-dev
}

check_rust
mapfile -t packages < <(missing)
if [ "${#packages[@]}" -gt 0 ]; then
    install=(apt-get install -y --no-install-recommends "${packages[@]}")
    if ! command -v apt-get > /dev/null; then
        fail "missing: ${packages[*]}. Install a C++ compiler and libclang with its headers, e.g.:" \
            '  dnf install -y gcc-c++ clang-devel' '  pacman -S --needed gcc clang'
    fi
    if [ "$(id -u)" -ne 0 ]; then
        fail "missing: ${packages[*]}. As root:" "  ${install[*]}"
    fi
    echo "setup: installing ${packages[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # The lists of packages may be old, or not be there at all.
    "${install[@]}" || { apt-get update && "${install[@]}"; } ||
        fail 'this did not work:' "  ${install[*]}"
    mapfile -t packages < <(missing)
    [ "${#packages[@]}" -eq 0 ] || fail "still missing: ${packages[*]}"
fi
