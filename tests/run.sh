#!/bin/bash
# Builds walring and runs every test, on real servers. tests/README.md says how to run a part of them.
#
# usage: tests/run.sh [--all-versions] [arguments for cargo test]
#   --all-versions   a PostgreSQL version that cannot be installed is a failure, not a reported skip
set -euo pipefail
cd "$(dirname "$0")/.."

all_versions=false
if [ "${1:-}" = --all-versions ]; then
    all_versions=true
    shift
fi

command -v cargo >/dev/null || { echo "tests/run.sh: cargo is missing: install Rust first" >&2; exit 1; }

servers=$(tests/postgres.sh)
missing=""
for name in WALRING_PG WALRING_PG_13 WALRING_PG_17 WALRING_PG_18; do
    path=$(sed -n "s/^$name=//p" <<<"$servers")
    if [ -n "$path" ]; then
        export "$name=$path"
        echo "$("$path/postgres" --version): $path"
    else
        missing="$missing $name"
    fi
done
if $all_versions && [ -n "$missing" ]; then
    echo "tests/run.sh: not available:$missing" >&2
    exit 1
fi

# Servers and their templates live in memory where that is possible; walring's own directories do not (O_DIRECT).
scratch=$([ -w /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")
WALRING_TEST_DIR=$(mktemp -d "$scratch/walring-tests-XXXXXX")
export WALRING_TEST_DIR
trap 'rm -rf "$WALRING_TEST_DIR"' EXIT
chmod 711 "$WALRING_TEST_DIR"

# A test mostly waits, for a server, a disk or a timeout: many at once keep the processors busy.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(($(nproc) + 4))}

result=0
cargo test --workspace --no-fail-fast "$@" || result=$?
# Each benchmark once; its harness does not know the options of the others. Of the same packages, so that the dependencies
# have the same features, and are not compiled again.
if [ $# -eq 0 ]; then
    cargo test --workspace --bench '*' || result=$?
fi
if [ -s "$WALRING_TEST_DIR/skipped" ]; then
    sort -u "$WALRING_TEST_DIR/skipped"
fi
exit $result
