# `make demo` and `make test` are all there is to know. Both install what is missing first.
#
# RocksDB takes about 18 minutes to compile on two cores, once: the folder of build results is CARGO_TARGET_DIR if that is set,
# else ~/.cache/pontoon-target if that exists, else ./target. Whatever links RocksDB is built in the release profile and
# with the same features below RocksDB, so that one compilation serves everything.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:

ifeq ($(CARGO_TARGET_DIR),)
  ifneq ($(wildcard $(HOME)/.cache/pontoon-target/.),)
    CARGO_TARGET_DIR := $(HOME)/.cache/pontoon-target
  else
    CARGO_TARGET_DIR := $(CURDIR)/target
  endif
endif
export CARGO_TARGET_DIR

PONTOON := $(CARGO_TARGET_DIR)/release/pontoon
export PONTOON

# Packages without C++: tested with debug assertions. The others link RocksDB.
PURE := proto raft engine store placement client transport history workload sim
PURE_FLAGS := $(addprefix -p ,$(PURE))

# Packages with a workspace of their own, which no command for the whole workspace sees.
OUTSIDE := benches/peers crates/server/protoc tests/fuzz tests/tikv-client

# The gate draws the same cases every time: the seed of proptest. Set it to another, or to nothing at all in a plain `cargo test`,
# to look at others; PROPTEST_CASES sets how many.
PROPTEST_RNG_SEED ?= 1
export PROPTEST_RNG_SEED

# The server's own tests: optimizing them takes minutes and shows nothing. What serves in cluster tests is the binary.
QUICKLY := --config profile.release.package.server.opt-level=0

.PHONY: demo test build tidy test-pure test-linked test-tikv-client check-outside power fuzz fmt lint bench needs
.DEFAULT_GOAL := build

## Build, then show the main job: load, split, move, kill a store, verify every write. LOAD=DIR loads a folder.
demo: build
	$(PONTOON) demo $(if $(LOAD),--load "$(LOAD)")

## The gate: format, lints, docs, structure, every test.
test: tidy test-pure test-linked test-tikv-client check-outside

## The binary, target/release/pontoon or the like.
build: needs
	@cargo build --release -p server
	echo "the binary is $(PONTOON)"

tidy: needs
	cargo test --release -p tests --test tidy

test-pure: needs
	cargo test $(PURE_FLAGS)

# The engine has a disk that loses power only here: the server would be compiled once more with it.
test-linked: build
	cargo test --release -p engine --features fault-env
	cargo test --release $(QUICKLY) -p server
	cargo test --release -p tests --lib --test cluster

# The unmodified public client pulls older libraries, so it has a workspace of its own.
test-tikv-client: build
	cargo test --manifest-path tests/tikv-client/Cargo.toml

# Workspaces of their own for the same reason, or for their compiler flags: the Raft core beside others, and fuzzing. They still compile.
check-outside: needs
	cargo check --manifest-path benches/peers/Cargo.toml --benches
	cargo check --manifest-path tests/fuzz/Cargo.toml

## Take the power of a whole cluster away, 20 times; then harm disks beside network and processes. With a server of its own.
power: needs
	cargo build --release $(QUICKLY) -p server --features fault-env --bin pontoon-fault-disk
	export PONTOON=$(CARGO_TARGET_DIR)/release/pontoon-fault-disk
	cargo run --release -p tests --bin power -- --cycles $(or $(CYCLES),20)
	cargo run --release -p tests --bin chaos -- --disks --seconds $(or $(CHAOS_SECONDS),60)

## Fuzz what decodes bytes from outside for SECONDS, 90 if not said; the corpus first.
fuzz: needs
	tests/fuzz/run --seconds $(or $(SECONDS),90)

## Format everything.
fmt:
	cargo fmt --all
	for package in $(OUTSIDE); do cargo fmt --manifest-path $$package/Cargo.toml; done

## What the gate says about format and lints, without the tests.
lint: needs
	cargo fmt --all --check
	for package in $(OUTSIDE); do cargo fmt --check --manifest-path $$package/Cargo.toml; done
	cargo clippy --release --workspace --all-targets -- -D warnings

## A quick look at throughput; BENCHMARKS.md has the real ones.
bench: build
	dir=$$(mktemp -d)
	trap '$(PONTOON) dev --dir "$$dir/cluster" stop; rm -rf "$$dir"' EXIT
	$(PONTOON) dev --dir "$$dir/cluster" --port-offset 9000 --detach
	for clients in 1 64 256; do
	    for operation in put get; do
	        $(PONTOON) bench $$operation --clients $$clients --placement 127.0.0.1:11379
	    done
	done

# RocksDB is C++, and its bindings are made with libclang.
needs:
	@if ! command -v cargo >/dev/null; then
	    echo "cargo is missing: install Rust from https://rustup.rs" >&2
	    exit 1
	fi
	if ! command -v git >/dev/null; then
	    echo "git is missing: apt-get install git" >&2
	    exit 1
	fi
	packages=()
	if ! command -v c++ >/dev/null; then
	    packages+=(g++)
	fi
	# Both the library and the headers that come with it.
	there() { compgen -G "$$1" >/dev/null; }
	if ! { [ -n "$${LIBCLANG_PATH:-}" ] \
	    || { { there '/usr/lib/llvm-*/lib/libclang*.so*' || there '/usr/lib/*/libclang*.so*'; } \
	    && { there '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' || there '/usr/lib/clang/*/include/stddef.h'; }; }; }; then
	    packages+=(libclang-dev)
	fi
	if [ $${#packages[@]} -eq 0 ]; then
	    exit 0
	fi
	echo "RocksDB cannot be built without $${packages[*]}. Installing that." >&2
	if [ "$$(id -u)" -eq 0 ]; then
	    sudo=
	elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
	    sudo="sudo -n"
	else
	    echo "This needs root. Run: sudo apt-get install -y $${packages[*]}    and then make again." >&2
	    exit 1
	fi
	if ! command -v apt-get >/dev/null; then
	    echo "There is no apt-get here: install $${packages[*]} with your package manager, then make again." >&2
	    exit 1
	fi
	$$sudo apt-get update -q
	DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -q --no-install-recommends "$${packages[@]}"
