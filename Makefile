# Two commands matter: `make demo` shows a failover, `make test` proves it. Each first makes sure of what it needs.
# `make check` is for before a commit. Options for the demo: make demo ARGS="--fault postgres --keep"

export PATH := $(HOME)/.cargo/bin:$(PATH)
PGVIGIL := target/release/pgvigil

.DEFAULT_GOAL := help
.PHONY: help setup build demo test check operations storm chaos bench deb deb-test compose-test clean

help: ## What can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: ## Installs what is missing of PostgreSQL, etcd, HAProxy and build tools; instant when all is there
	@scripts/setup.sh

build: setup ## The release binaries: pgvigil, and pgvigil-fencer beside it
	cargo build --release -p agent

demo: build ## Three nodes on this machine; the primary dies under load (ARGS="--fault node|postgres|hang|switchover")
	$(PGVIGIL) demo $(ARGS)

test: setup ## Everything that proves it, against the real PostgreSQL and the real etcd (PG=16|17|18: against another PostgreSQL)
	@PG=$(PG) scripts/test.sh

check: ## Format, lints, documentation, fast tests: seconds, before each commit
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items
	cargo test -p decision
	cargo test -p agent --lib --bins

chaos: setup ## Real faults on real clusters, again and again (FAULT=..., REPEATS=5; docs/chaos.md has the rest)
	cargo build --release -p chaos
	target/release/chaos

operations: setup ## A hundred random operations of an operator on one cluster under writes (OPS=100, PGVIGIL_SEED=...)
	OPS=$(or $(OPS),100) cargo test -p agent --test whole storm -- --nocapture

storm: ## Simulated clusters under random faults (SEEDS=100000, FROM=0); a failure is shortened and told
	SEEDS=$(or $(SEEDS),100000) FROM=$(or $(FROM),0) cargo test --release -p decision --test simulation clusters -- --nocapture

bench: build ## The same faults on pgvigil, Patroni and pg_auto_failover, side by side: docs/benchmarks.md (an hour; RUNS=5, PEER_RUNS=2, ROUTES_ONLY=1, ...)
	@scripts/bench-setup.sh
	cargo build --release -p bench
	target/release/bench

deb: build ## The Debian package, in target/deb
	@scripts/deb.sh

deb-test: build ## The package under a real systemd on three hosts: agents killed, hung, upgraded, hosts rebooted under writes (root; systemd-container)
	@scripts/deb-test.sh

compose-test: build ## docker-compose.yml broken under writes and measured (docker, docker-compose and a base image: scripts/containers.sh start)
	@scripts/compose-test.sh

clean: ## Removes what was built
	cargo clean
