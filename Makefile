# Every command a developer or an operator needs; `make help` lists them.
# `make test` is the only check there is, and the continuous integration runs nothing else.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

# Outside of the checkout, so that a fresh one does not compile RocksDB again (8 to 15 minutes on
# two cores).
CARGO_TARGET_DIR ?= $(HOME)/.cache/ringpost/target
export CARGO_TARGET_DIR

# One profile, and always the whole workspace: another selection of packages can mean other
# features of a shared dependency, and then RocksDB is compiled once more.
CARGO_FLAGS := --release --workspace --locked
BIN := $(CARGO_TARGET_DIR)/release

# What `make run` passes on to `ringpost serve`.
ARGS ?=
# What `make load` passes on to the load generator.
LOAD ?=
# What `make autobahn` runs: `short`, or `all`.
CASES ?= short
# How often `make crash` kills the server.
ROUNDS ?= 100
# The one run of `make sim SEED=n`; without it, fresh ones until it is stopped.
SEED ?=
# What `make mutations` tries: names of patches, or all.
MUTATIONS ?=
# What `make fuzz` runs, and for how long each.
TARGET ?= upgrade frames peer imboy json stored shard
SECONDS ?= 600
# What `make bench` passes on to the table; --json, --restart-messages 10000000.
BENCH ?=

.PHONY: help setup build run demo load test fmt-check clippy core-deps unit smoke bench bench-code \
	api-check autobahn crash sim mutations fuzz

help: ## Show this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) \
		| while IFS=$$'\t' read -r name about; do printf '  make %-11s %s\n' "$$name" "$$about"; done

setup: ## Check for cargo, a C++ compiler and libclang; install the last two where that is possible
	@scripts/setup.sh

build: setup ## Build the server, the load generator and the benches
	cargo build $(CARGO_FLAGS) --bins

run: build ## Serve on 127.0.0.1:7070 from ./data; make run ARGS="--shards 2"
	exec $(BIN)/ringpost serve $(ARGS)

demo: build ## Ten seconds of chat through a server of its own: result, and what went over the wire
	@scripts/demo.sh $(BIN)

load: build ## The canonical workload against a running server; make load LOAD="--rate 20000"
	exec $(BIN)/ringpost-loadgen $(LOAD)

test: setup fmt-check clippy core-deps unit smoke ## Every check, until the first that fails
	@echo 'make test: everything passed'

crash: build ## kill -9 under load, a hundred times; make crash ROUNDS=500
	RINGPOST_CRASH_ROUNDS=$(ROUNDS) cargo test $(CARGO_FLAGS) --test crash -- --nocapture

sim: setup ## The simulator, fresh seeds until it is stopped; make sim SEED=n repeats a run
	RINGPOST_SIM_SEED=$(SEED) RINGPOST_SIM_SEEDS=0 \
		cargo test $(CARGO_FLAGS) --test sim seeds -- --nocapture

mutations: ## Break the core in each known way: the simulator must find it; takes half an hour
	cargo test $(CARGO_FLAGS) --test sim --no-run
	@scripts/mutations.sh $(MUTATIONS)

fmt-check: # The sources are formatted
	cargo fmt --all --check

clippy: # No warnings, in tests and benches too
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings

core-deps: # The core cannot do I/O: it does not even depend on what could
	@scripts/core-deps.sh

unit: # Unit, golden, end-to-end and crash tests
	cargo test $(CARGO_FLAGS)

smoke: build # The benches and the load generator run, for a moment each
	cargo bench --workspace --locked --bench '*' -- --test
	$(BIN)/ringpost-bench table --quick
	@scripts/demo.sh $(BIN) --smoke

bench: build ## The table of numbers, each beside its ceiling (bench/README.md); takes minutes
	$(BIN)/ringpost-bench table $(BENCH)

bench-code: ## What single parts cost, without sockets: framing, dialects, core, commits
	cargo bench --workspace --locked --bench '*'

autobahn: setup ## The WebSocket conformance suite (needs Python 2.7); make autobahn CASES=all takes 15 minutes
	cargo build $(CARGO_FLAGS) --examples
	@scripts/autobahn.sh $(BIN)/examples/ws_echo $(CASES)

api-check: build ## Generated requests against the OpenAPI document (installs schemathesis from PyPI)
	@scripts/api-check.sh $(BIN)

fuzz: ## Fuzzes what bytes from outside reach (nightly, cargo-fuzz); make fuzz TARGET=frames SECONDS=60
	@scripts/fuzz.sh '$(SECONDS)' $(TARGET)

# The checks are steps, not alternatives: one after the other also under `make -j`.
.NOTPARALLEL:
