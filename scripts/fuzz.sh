#!/usr/bin/env bash
# Runs fuzz targets one after the other: scripts/fuzz.sh SECONDS TARGET... (fuzz/README.md).
# What a run finds beyond the committed corpus stays outside of the checkout.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds=$1
shift
if ! cargo +nightly fuzz --version > /dev/null 2>&1; then
    echo 'fuzz: needs a nightly compiler and cargo-fuzz:' >&2
    echo '  rustup toolchain install nightly; cargo install cargo-fuzz --locked' >&2
    exit 1
fi
# A directory of its own: another compiler, and other flags for everything.
export CARGO_TARGET_DIR="${RINGPOST_FUZZ_DIR:-$HOME/.cache/ringpost/fuzz}"
found="$CARGO_TARGET_DIR/found"
for target in "$@"; do
    mkdir -p "$found/$target"
    echo "fuzz: $target for $seconds s"
    cargo +nightly fuzz run --fuzz-dir fuzz -O -a "$target" \
        "$found/$target" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1
done
