#!/usr/bin/env bash
# demo.sh BIN [--smoke]: a server on free ports over a directory of its own, and the load generator
# chatting through it. Shows the result and some of what went over the wire. Leaves nothing behind.
# --smoke: two seconds, few users; only whether it works counts.
set -euo pipefail

bin=$1
load=(--users 200 --warmup 1 --duration 10 --show 14)
if [ "${2:-}" = --smoke ]; then
    load=(--users 20 --warmup 0.5 --duration 1.5)
fi

directory=$(mktemp -d)
server=
finish() {
    status=$?
    trap - EXIT INT TERM
    if [ -n "$server" ] && kill -0 "$server" 2> /dev/null; then
        kill -KILL "$server"
        wait "$server" 2> /dev/null || true
    fi
    if [ "$status" -ne 0 ] && [ -f "$directory/output" ]; then
        echo "demo: failed; what the server wrote:" >&2
        cat "$directory/output" >&2
    fi
    rm -rf "$directory"
    exit "$status"
}
trap finish EXIT
# Otherwise bash waits for the program in the foreground and then goes on.
trap 'exit 130' INT
trap 'exit 143' TERM

"$bin/ringpost" serve --data "$directory/data" --ready-file "$directory/ready" \
    --listen 127.0.0.1:0 --api-listen 127.0.0.1:0 --drain-s 0 > "$directory/output" 2>&1 &
server=$!

# The ready file appears, whole, once the listeners are open.
for (( waited = 0; ; waited++ )); do
    [ -e "$directory/ready" ] && break
    kill -0 "$server" 2> /dev/null || { echo 'demo: the server ended at its start' >&2; exit 1; }
    [ "$waited" -lt 600 ] || { echo 'demo: the server is not ready after 60 s' >&2; exit 1; }
    sleep 0.1
done
listen=$(sed -nE 's/.*"listen" *: *\[? *"([^"]+)".*/\1/p' "$directory/ready")

echo "demo: a server on $listen, process $server; every message is on disk (fsync) before it is acknowledged"
"$bin/ringpost-loadgen" private --server "$listen" --server-pid "$server" \
    --secret-file "$directory/data/token-secret" "${load[@]}"

kill -TERM "$server"
wait "$server" || { echo "demo: the server ended with status $?" >&2; exit 1; }
server=
echo 'demo: the server has drained and ended'
