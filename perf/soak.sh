#!/usr/bin/env bash
# perf/soak.sh [--write] [OPTION OF walring-perf soak]...
#
# walring under load and faults for a long time: a synchronous receiver that is killed and started again, and another
# one that lives from the beginning to the end, while links are cut, held up and silent, the primary crashes and the disk is
# full. What is stored is compared with the primary's byte for byte all the time, and at the end a base backup and
# what was received must have every acknowledged commit. Takes ten minutes, or --for TIME.
#
#   --write     put the Markdown into perf/README.md, too
#   --help      this, and the options of walring-perf soak, which all can be given
#
# Writes soak.json, soak.md and the receivers' logs to target/soak/ (--out DIR) and prints the Markdown; a line a minute
# goes to standard error. Exit code 1 if anything was wrong. Ctrl-C ends it with what was seen until then.
#
# Installs with apt what is missing: postgresql (without its default cluster), e2fsprogs. Needs a current Rust, and root,
# /dev/fuse and loop devices for the disk that is filled; without them that fault is left out. WALRING=path uses
# that program in place of building one; PG_BIN=dir uses the PostgreSQL programs there.

set -euo pipefail
# shellcheck source=perf/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

output=$target_dir/soak
arguments=()

main() {
    suite_options soak --out "$@"
    begin mkfs.ext4=e2fsprogs
    build_suite
    run_suite soak --dir "$target_dir" --out "$output" "${arguments[@]}"
    ((write == 0)) || deliver soak "$output/soak.md" >/dev/null
}

main "$@"
