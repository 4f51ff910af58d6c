#!/usr/bin/env bash
# The core is a state machine without I/O, so nothing that could do I/O, wait, or draw random
# numbers may be among its dependencies.
set -euo pipefail

forbidden='monoio|tokio|rocksdb|librocksdb-sys|libc|getrandom|io-uring|mio|socket2|rand'

# Without features of the others: what a build of the core alone takes.
tree=$(cargo tree --locked --package ringpost-core --edges normal --prefix none --format '{p}')
# A tree that shows nothing would let everything pass.
grep -q '^ringpost-core v' <<< "$tree"
grep -q '^bytes v' <<< "$tree"
if grep -E "^($forbidden) v" <<< "$tree"; then
    echo 'core-deps: the core must not depend on these; cargo tree -p ringpost-core -i NAME says why' >&2
    exit 1
fi
echo 'core-deps: the core depends on nothing that does I/O'
