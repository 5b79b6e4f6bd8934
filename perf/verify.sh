#!/usr/bin/env bash
# perf/verify.sh [--rounds N] [--size-mib N] [--dir DIR] [--write]
#
# How fast stored WAL is checked: `walring verify` on all cores and on one, against pg_waldump, which decodes the
# same records, and against reading the files alone.
#
#   --rounds N     runs of each program, 5 by default; every second round in the opposite order
#   --size-mib N   WAL to check, 1024 by default; the primary needs about three times as much memory
#   --dir DIR      keep the files in a new directory under DIR, by default under target/; not in memory
#   --write        put the result into perf/README.md
#
# The files are copied from the primary to the disk. `warm`: they are in the page cache. `cold`: they are dropped
# from it before every run; left out where that is not allowed. Before anything is measured, walring and
# pg_waldump must find the same number of records. Prints a Markdown table.
#
# Installs with apt what is missing: postgresql (without its default cluster), python3, time. Needs a
# current Rust. WALRING=path uses that program in place of building one.

set -euo pipefail
# shellcheck source=perf/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

rounds=5
size_mib=1024
option_forms+=([rounds]=$whole_number [size_mib]=$whole_number)
programs=(read pg_waldump 'walring, 1 job' walring)

main() {
    parse_options "$@"
    begin python3=python3 /usr/bin/time=time
    use_disk
    primary_create $((size_mib * 3)) 16 'synchronous_commit = off'
    produce_wal "$size_mib" 3
    store_wal
    same_records
    printf 'case\tprogram\twall s\tMB/s\tCPU s (user + sys)\tpeak resident MiB\n' >"$scratch/runs"
    measure_rounds
    report >"$scratch/report"
    deliver verify "$scratch/report"
}

store_wal() {
    local number
    stored=$disk_dir/stored
    mkdir "$stored"
    for ((number = first / segment_size; number < end / segment_size; number++)); do
        cp "$primary_data/pg_wal/$(segment_name "$number")" "$stored"
    done
    sync --file-system "$disk_dir"
    bytes=$((end - first))
    first_name=$(segment_name $((first / segment_size)))
    last_name=$(segment_name $((end / segment_size - 1)))
}

# Both must have looked at the same thing. pg_waldump's last line but one has the total.
same_records() {
    local ours theirs
    "$WALRING" verify --json "$stored" >"$scratch/verdict" || die "the segments are not sound: $(<"$scratch/verdict")"
    ours=$(python3 -c 'import json, sys; print(sum(t["records"] for t in json.load(sys.stdin)["timelines"]))' \
        <"$scratch/verdict")
    theirs=$("$pg_bin/pg_waldump" --stats --path="$stored" "$first_name" "$last_name" | awk '$1 == "Total" { print $2 }')
    [[ $ours == "$theirs" ]] || die "walring counts $ours records, pg_waldump $theirs"
    records=$ours
}

measure_rounds() {
    local round state program
    states=(warm)
    if drop_caches; then states+=(cold); fi
    for ((round = 1; round <= rounds; round++)); do
        for state in "${states[@]}"; do
            while read -r program; do
                measure "$state" "$program"
                note "round $round: $state $program: $(tail -n 1 "$scratch/runs" | cut -f 3) s"
            done < <(alternate "$round" "${programs[@]}")
        done
    done
}

measure() {
    local state=$1 program=$2 command
    case $program in
    read) command=(cat "$stored"/*) ;;
    pg_waldump) command=("$pg_bin/pg_waldump" --stats --path="$stored" "$first_name" "$last_name") ;;
    'walring, 1 job') command=("$WALRING" verify --jobs=1 "$stored") ;;
    walring) command=("$WALRING" verify "$stored") ;;
    esac
    case $state in
    warm) cat "$stored"/* >/dev/null ;;
    cold) drop_caches ;;
    esac
    run 600 /usr/bin/time --format='%e %U %S %M' --output="$scratch/usage" "${command[@]}" \
        >/dev/null 2>"$scratch/said" || die "$program failed: $(<"$scratch/said")"
    awk -v OFS='\t' -v state="$state" -v program="$program" -v bytes="$bytes" \
        '{ print state, program, $1, bytes / 1e6 / ($1 > 0.005 ? $1 : 0.005), $2 + $3, $4 / 1024 }' \
        "$scratch/usage" >>"$scratch/runs"
}

# Only root may, and not in every container.
drop_caches() {
    sync --file-system "$disk_dir"
    ((EUID == 0)) && { echo 1 >/proc/sys/vm/drop_caches; } 2>/dev/null
}

report() {
    cat <<EOT
Checking $((bytes / 1048576)) MiB in segments of 16 MiB, $records records; medians of $rounds rounds (smallest–largest).

$(BASELINE=pg_waldump table "$scratch/runs")

$(machine_facts)
EOT
}

main "$@"
