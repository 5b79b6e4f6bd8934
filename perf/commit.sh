#!/usr/bin/env bash
# perf/commit.sh [--rounds N] [--seconds N] [--clients LIST] [--dir DIR] [--write]
#
# What a commit costs when the receiver is the primary's only synchronous standby: walring against
# pg_receivewal, both with --synchronous.
#
#   --rounds N      runs of each program and case, 5 by default; every second round in the opposite order
#   --seconds N     length of a run, 10 by default, after 2 seconds of warm-up that are not counted
#   --clients LIST  numbers of concurrent clients, "1 8" by default
#   --dir DIR       receive into a new directory under DIR, by default under target/; not in memory
#   --write         put the result into perf/README.md
#
# The primary's data are on tmpfs where there is room. Every transaction inserts one row. Two cases: small
# rows in segments of 16 MiB, and rows of 1 kB in segments of 1 MiB, so that more than one commit in a
# thousand meets the change of segment and p99.9 shows what it costs. Latencies are exact, from pgbench's log
# of every transaction. After each run the receiver's segments are compared with the primary's. Prints a
# Markdown table.
#
# Installs with apt what is missing: postgresql (without its default cluster), python3. Needs a current Rust.
# WALRING=path uses that program in place of building one.

set -euo pipefail
# shellcheck source=perf/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

rounds=5
seconds=10
warm_up_seconds=2
clients='1 8'
option_forms+=([rounds]=$whole_number [seconds]=$whole_number [clients]="$whole_number( $whole_number)*")
programs=(pg_receivewal walring)
fewest_segments=0 # crossed by a run, in the case at hand

main() {
    parse_options "$@"
    begin python3=python3
    use_disk
    printf '%s\t' case program 'mean ms' 'p50 ms' 'p99 ms' 'p99.9 ms' 'max ms' >"$scratch/runs"
    printf 'receiver CPU µs per commit\n' >>"$scratch/runs"
    measure_case 16 100
    measure_case 1 1000
    report >"$scratch/report"
    deliver commit "$scratch/report"
}

# measure_case SEGMENT_MIB ROW_BYTES
measure_case() {
    local segment_mib=$1 row_bytes=$2 round count program case
    primary_stop
    primary_create 4096 "$segment_mib" "synchronous_standby_names = 'receiver'"
    query 'CREATE TABLE sample (client int, payload text)'
    echo "INSERT INTO sample VALUES (:client_id, repeat('x', $row_bytes));" >"$scratch/insert.sql"
    fewest_segments=1000000
    for ((round = 1; round <= rounds; round++)); do
        for count in $clients; do
            for program in $(alternate "$round" "${programs[@]}"); do
                case="$segment_mib MiB segments, $row_bytes-byte rows, clients: $count"
                measure_run "$program" "$count" "$case"
                note "round $round: $program, $case: mean $(tail -n 1 "$scratch/runs" | cut -f 3) ms"
            done
        done
    done
    echo "- segments of $segment_mib MiB: every run crossed at least $fewest_segments" >>"$scratch/crossed"
}

# measure_run PROGRAM CLIENTS CASE
measure_run() {
    local directory=$disk_dir/received first_lsn start_bytes flush_lsn cpu_us count latencies crossed
    local pgbench=(--file="$scratch/insert.sql" --client="$2" --jobs=$(($2 < 2 ? 1 : 2)))
    mkdir "$directory"
    query 'TRUNCATE sample'
    primary_keep_wal
    first_lsn=$(query 'SELECT pg_current_wal_flush_lsn()')
    sync --file-system "$disk_dir"
    receiver_start "$1" "$directory" --synchronous
    load "$warm_up_seconds" "${pgbench[@]}" --time="$warm_up_seconds"

    start_bytes=$(lsn_bytes "$(query 'SELECT pg_current_wal_flush_lsn()')")
    cpu_us=$(receiver_cpu_us)
    load "$seconds" "${pgbench[@]}" --time="$seconds" --log --log-prefix="$scratch/commits"
    cpu_us=$(($(receiver_cpu_us) - cpu_us))

    flush_lsn=$(receiver_flushed)
    receiver_stop
    require_right_segments "$1" "$directory" "$first_lsn" "$flush_lsn"
    rm -rf "$directory"

    crossed=$(($(lsn_bytes "$flush_lsn") / segment_size - start_bytes / segment_size))
    fewest_segments=$((crossed < fewest_segments ? crossed : fewest_segments))
    IFS=$'\t' read -r count latencies < <(latencies "$scratch"/commits*)
    rm "$scratch"/commits*
    printf '%s\t%s\t%s\t%s\n' "$3" "$1" "$latencies" "$(awk "BEGIN { print $cpu_us / $count }")" \
        >>"$scratch/runs"
}

report() {
    cat <<EOT
A commit of one row, the receiver the only synchronous standby; medians of $rounds rounds of $seconds s (smallest–largest).

$(table "$scratch/runs")

$(<"$scratch/crossed")
$(machine_facts)
EOT
}

main "$@"
