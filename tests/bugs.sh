#!/bin/bash
# Shows that the simulation can fail: builds it with one bug of tests/bugs after the other, and lives as many lives as
# the patch says are enough to find it.
#
# usage: tests/bugs.sh [NAME...]       the bugs with these names; all of them without one
set -euo pipefail
cd "$(dirname "$0")/.."

names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    for patch in tests/bugs/*.patch; do
        names+=("$(basename "$patch" .patch)")
    done
fi

# What it builds stays there for the next time, and is not mixed with what is right.
target=${CARGO_TARGET_DIR:-$PWD/target}/bugs
tree=$target/tree
bugs=$PWD/tests/bugs
rm -rf "$tree"
mkdir -p "$tree"
trap 'rm -rf "$tree"' EXIT
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$tree"
cd "$tree"
export GIT_CEILING_DIRECTORIES=$target CARGO_TARGET_DIR=$target RUST_BACKTRACE=0

log=$target/lives.log

# Lives so many; false if one failed.
live() {
    SEEDS=$1 cargo test --quiet --test simulation any_life >"$log" 2>&1
}

if ! live 100; then
    cat "$log" >&2
    echo "tests/bugs.sh: lives fail without any bug" >&2
    exit 1
fi
result=0
for name in "${names[@]}"; do
    patch=$bugs/$name.patch
    seeds=$(sed -n 's/^Seeds: //p' "$patch")
    if ! git apply "$patch"; then
        echo "$name: does not apply"
        result=1
        continue
    fi
    if live "$seeds"; then
        echo "$name: NOT FOUND in $seeds lives"
        result=1
    elif seed=$(grep -om1 'seed [0-9]* failed' "$log"); then
        echo "$name: $seed (of $seeds): $(grep -A1 -m1 'panicked at' "$log" | tail -1)"
    else
        cat "$log" >&2
        echo "$name: could not be built or run"
        result=1
    fi
    git apply -R "$patch"
done
exit $result
