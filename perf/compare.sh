#!/usr/bin/env bash
# perf/compare.sh [--write] [OPTION OF walring-perf compare]...
#
# What walring saves against pg_receivewal on this disk: walring, pg_receivewal, a standby's walreceiver and a
# receiver without a disk take turns as the only synchronous standby of a throw-away primary, and every commit is
# timed from its client's side. Without options it is the canonical run, of about ten minutes: the disk of the
# repository and an emulated edge disk (as root; elsewhere it says so and does the rest).
#
#   --write     put the Markdown into perf/README.md, too
#   --quick     a trial of everything, in a minute
#   --help      this, and the options of walring-perf compare, which all can be given
#
# Writes comparison.html, comparison.json and comparison.md to target/comparison/ (--output DIR) and prints the
# Markdown. What every receiver stored is compared with the primary's, byte for byte: one that writes a wrong byte
# fails the run.
#
# Installs with apt what is missing: postgresql (without its default cluster), strace, e2fsprogs. Needs a current
# Rust. WALRING=path uses that program in place of building one; PG_BIN=dir uses the PostgreSQL programs there.

set -euo pipefail
# shellcheck source=perf/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

output=$target_dir/comparison
arguments=()

main() {
    compare_options "$@"
    begin strace=strace mkfs.ext4=e2fsprogs
    build_suite
    compare
    ((write == 0)) || deliver compare "$output/comparison.md" >/dev/null
}

# Those of the script are taken out; the others are looked at by the program.
compare_options() {
    while (($#)); do
        case $1 in
        --help)
            usage
            help_of_suite
            exit 0
            ;;
        --write) write=1 ;;
        --output)
            [[ -n ${2:-} ]] || die '--output: no directory'
            output=$2
            shift
            ;;
        --output=*) output=${1#*=} ;;
        *) arguments+=("$1") ;;
        esac
        shift
    done
}

help_of_suite() {
    if [[ -x $target_dir/suite/walring-perf ]]; then
        "$target_dir/suite/walring-perf" compare --help
    else
        note 'the options of walring-perf compare are shown once it is built'
    fi
}

build_suite() {
    note 'building the comparison suite (cargo build --profile suite --package walring-perf)'
    cargo build --profile suite --locked --quiet --manifest-path "$repo_dir/Cargo.toml" --package walring-perf >&2
}

# A signal ends the program, which stops and removes all it has started; it is waited for.
compare() {
    local status=0
    export WALRING
    "$target_dir/suite/walring-perf" compare --dir "$target_dir" --output "$output" "${arguments[@]}" &
    child_pid=$!
    trap 'compare_stop 130' INT
    trap 'compare_stop 143' TERM
    wait "$child_pid" || status=$?
    child_pid=''
    ((status == 0)) || exit "$status"
}

compare_stop() {
    kill -s TERM "$child_pid" 2>/dev/null || true
    wait "$child_pid" || true
    child_pid=''
    exit "$1"
}

main "$@"
