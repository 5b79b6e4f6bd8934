#!/bin/bash
# Changes the core in every small way that cargo-mutants knows, and tells which changes no test notices.
#
# usage: tests/mutants.sh FILE... [-- arguments for cargo mutants]
#   FILE   below src/core: progress.rs, wal/page.rs, 'wal/**'; '**' for all
#
# Runs on a copy that is one crate of the core and its tests and nothing else, so that one change costs seconds.
# MUTANTS_DIR (default: a directory for temporary files) holds the copy and, by the first FILE, the results. MODEL_SEEDS and
# FUZZ_SEEDS say how many streams and damaged logs each change has to live through; few suffice to notice most.
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -ge 1 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
cargo mutants --version >/dev/null 2>&1 ||
    { echo "tests/mutants.sh: cargo-mutants is missing: cargo install cargo-mutants --locked" >&2; exit 1; }
results=$(tr / - <<<"$1")
files=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    files+=(--file "src/core/$1")
    shift
done
[ $# -eq 0 ] || shift

work=${MUTANTS_DIR:-${TMPDIR:-/tmp}/walring-mutants}
tree=$work/tree
rm -rf "$tree/src"
mkdir -p "$tree/src"

# The versions are those of the whole; what the core does not use is left out.
dependency() { sed -n "/^\[dependencies\]/,/^\[dev/s/^$1 = /&/p" Cargo.toml; }
{
    printf '[package]\nname = "walring"\nversion = "0.0.0"\nedition = "2024"\n\n[dependencies]\n'
    for name in bytes crc32c fastrand hdrhistogram libc; do dependency $name; done
    printf '\n[profile.dev]\nopt-level = 1\ndebug = false\n\n[profile.dev.package."*"]\nopt-level = 3\n\n[workspace]\n'
} >"$tree/Cargo.toml"
cp Cargo.lock "$tree/"

# The test programs become modules beside the core: one thing to compile and to link.
cp -r src/core src/error.rs tests/model "$tree/src/"
{
    printf 'extern crate self as walring;\n\npub mod core;\npub mod error;\n'
    printf '#[cfg(test)]\nmod model;\n'
    for test in tests/core_*.rs; do
        sed 's/^mod model;/use crate::model;/' "$test" >"$tree/src/$(basename "$test")"
        printf '#[cfg(test)]\nmod %s;\n' "$(basename "$test" .rs)"
    done
} >"$tree/src/lib.rs"

mkdir -p "$work/$results"
export MODEL_SEEDS=${MODEL_SEEDS:-6} FUZZ_SEEDS=${FUZZ_SEEDS:-500}
cd "$tree"
exec cargo mutants --in-place --no-shuffle --minimum-test-timeout 20 --cargo-arg=--lib --output "$work/$results" "${files[@]}" "$@"
