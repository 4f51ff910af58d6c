#!/bin/bash
# Breaks a copy of the sources in each way that tests/sim/mutations names, and runs the simulator on
# it for as many seeds as the patch says: every one must be found. Takes half a minute to two for
# each; `scripts/mutations.sh NAME...` tries these alone.
#
# The copy is built in a target directory of its own, beside the normal one and with its crates
# hard-linked, so that RocksDB is not compiled again.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-$HOME/.cache/ringpost/target}
work=$target-mutations
copy=$work/source
if [ ! -d "$target/release/deps" ]; then
	echo "$target is empty: build first" >&2
	exit 1
fi
mkdir -p "$work/target/release"
for part in deps build .fingerprint; do
	[ -d "$work/target/release/$part" ] || cp -al "$target/release/$part" "$work/target/release/"
done

# What is broken is the core; the server around it is not needed.
refresh() {
	rm -rf "$copy/core" "$copy/storage" "$copy/src" "$copy/tests"
	mkdir -p "$copy"
	cp -a Cargo.toml Cargo.lock .cargo core storage loadgen bench "$copy/"
	mkdir -p "$copy/src" "$copy/tests"
	cp -a tests/sim "$copy/tests/"
	echo 'fn main() {}' > "$copy/src/main.rs"
}

# Builds the copy and prints the path of the simulator.
build() {
	(cd "$copy" && CARGO_TARGET_DIR=$work/target cargo test --release --workspace --locked \
		--config 'profile.release.package.ringpost-core.opt-level=1' \
		--config 'profile.release.package.ringpost-storage.opt-level=1' \
		--config 'profile.release.package.ringpost.opt-level=1' \
		--test sim --no-run --message-format short 2>&1) | tee "$work/build.log" \
		| sed -nE 's/.*Executable .*\((.*)\).*/\1/p'
}

if [ $# -gt 0 ]; then
	patches=("${@/#/tests/sim/mutations/}")
	patches=("${patches[@]/%/.patch}")
else
	patches=(tests/sim/mutations/*.patch)
fi
failed=0
for patch in "${patches[@]}"; do
	name=$(basename "$patch" .patch)
	seeds=$(sed -nE 's/^# Found within ([0-9]+) seeds\.$/\1/p' "$patch")
	refresh
	if ! patch --batch --silent --fuzz=0 -d "$copy" -p1 < "$patch"; then
		echo "$name: does not apply any more"
		failed=1
		continue
	fi
	# Newer than what was built of the mutation before.
	find "$copy/core/src" -name '*.rs' -exec touch {} +
	simulator=$(build)
	if [ -z "$simulator" ]; then
		echo "$name: does not compile, see $work/build.log"
		failed=1
		continue
	fi
	# One thread: the seed that is found is always the same.
	if RINGPOST_SIM_SEEDS=$seeds RINGPOST_SIM_THREADS=1 RUST_BACKTRACE=0 \
		"$simulator" seeds --nocapture > "$work/run.log" 2>&1; then
		echo "$name: NOT found within $seeds seeds"
		failed=1
	else
		seed=$(sed -nE 's/^seed ([0-9]+) failed.*/\1/p' "$work/run.log" | head -1)
		if [ -z "$seed" ]; then
			echo "$name: the simulator did not run, see $work/run.log"
			failed=1
			continue
		fi
		why=$(grep -a -A1 panicked "$work/run.log" | sed -n 2p | cut -c1-110)
		echo "$name: found with seed $seed of $seeds: $why"
	fi
done
exit $failed
