#!/usr/bin/env bash
# api-check.sh BIN [EXAMPLES]: schemathesis, which asks a server for every operation of its OpenAPI
# document with generated data, good and bad, and holds the answers to the document. Not part of
# `make test`: it installs a Python package.
#
# Two of its checks are left out: `positive_data_acceptance`, since a schema cannot say that a user
# may not block himself or that a time must be in the future; and `use_after_free`, since a dissolved
# group can still be read.
set -euo pipefail

bin=$1
examples=${2:-100}
home=${XDG_CACHE_HOME:-$HOME/.cache}/ringpost/schemathesis
package=schemathesis==4.32.5

if ! "$home/bin/schemathesis" --version 2> /dev/null | grep -q "${package#*==}"; then
    echo "api-check: installing $package"
    rm -rf "$home"
    python3 -m venv "$home"
    "$home/bin/pip" install --quiet "$package"
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
    rm -rf "$directory"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$bin/ringpost" serve --listen 127.0.0.1:0 --api-listen 127.0.0.1:0 --data "$directory/data" \
    --ready-file "$directory/ready" > "$directory/output" 2>&1 &
server=$!
for _ in $(seq 300); do
    [ -e "$directory/ready" ] && break
    kill -0 "$server" 2> /dev/null || { cat "$directory/output" >&2; exit 1; }
    sleep 0.1
done
api=$(sed -E 's/.*"api":"([^"]+)".*/\1/' "$directory/ready")
cd "$directory"
"$home/bin/schemathesis" run "http://$api/openapi.json" \
    --header "Authorization: Bearer $(cat "$directory/data/api-key")" \
    --max-examples "$examples" --workers 1 \
    --exclude-checks positive_data_acceptance,use_after_free,unsupported_method
kill -0 "$server"
