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
    suite_options compare --output "$@"
    begin strace=strace mkfs.ext4=e2fsprogs
    build_suite
    run_suite compare --dir "$target_dir" --output "$output" "${arguments[@]}"
    ((write == 0)) || deliver compare "$output/comparison.md" >/dev/null
}

main "$@"
