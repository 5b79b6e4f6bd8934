#!/usr/bin/env bash
# perf/catchup.sh [--rounds N] [--size-mib N] [--dir DIR] [--write]
#
# How fast, and at what cost, a receiver that was away catches up: walring against pg_receivewal, both with
# --synchronous and both without; and what it costs walring to verify every record (its default), the pages
# only, or nothing.
#
#   --rounds N     runs of each program and mode, 5 by default; every second round in the opposite order
#   --size-mib N   WAL to receive, 1024 by default; the primary needs about three times as much memory
#   --dir DIR      receive into a new directory under DIR, by default under target/; not in memory
#   --write        put the result into perf/README.md
#
# The primary's data are on tmpfs where there is room. Every run receives the same finished segments into a
# directory that holds only the one before them, as it is when a receiver was away, and what it wrote is
# compared with the primary's. `discard` (perf/discard.py) receives the same and throws it away: what is left
# of the time is the primary's and the network's, and no receiver can be faster. System calls are counted in one more run of each, under strace, which is not
# timed. Prints a Markdown table.
#
# Installs with apt what is missing: postgresql (without its default cluster), python3, strace, time. Needs a
# current Rust. WALRING=path uses that program in place of building one.

set -euo pipefail
# shellcheck source=perf/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

rounds=5
size_mib=1024
option_forms+=([rounds]=$whole_number [size_mib]=$whole_number)
modes=(plain --synchronous)
# walring-LEVEL is walring with --verify=LEVEL.
programs=(pg_receivewal walring walring-pages walring-off)

main() {
    parse_options "$@"
    begin python3=python3 strace=strace /usr/bin/time=time
    use_disk
    primary_create $((size_mib * 3)) 16 'synchronous_commit = off'
    produce_wal
    printf 'case\tprogram\twall s\tCPU s (user + sys)\tpeak resident MiB\n' >"$scratch/runs"
    printf 'case\tprogram\tsystem calls\n' >"$scratch/calls"
    measure_rounds
    count_calls
    report >"$scratch/report"
    deliver catchup "$scratch/report"
}

# Short transactions, then bulk loads until there is enough. The range from first_lsn to end_lsn is finished
# segments only.
produce_wal() {
    note "producing $size_mib MiB of WAL"
    first_lsn=$(primary_switch_segment)
    local missing
    first=$(lsn_bytes "$first_lsn")
    load 60 --initialize --quiet --scale=10
    load 5 --builtin=tpcb-like --client=4 --time=5
    while
        missing=$((first + size_mib * 1024 * 1024 - $(lsn_bytes "$(query 'SELECT pg_current_wal_lsn()')")))
        ((missing > 0))
    do
        load 600 --initialize --quiet --scale=$((missing / 13000000 + 1))
    done
    query 'CHECKPOINT'
    end_lsn=$(primary_switch_segment)
    end=$(lsn_bytes "$end_lsn")
    received_mib=$(((end - first) / 1048576))
    previous_segment=$primary_data/pg_wal/$(segment_name $((first / segment_size - 1)))
}

measure_rounds() {
    local round mode program
    for ((round = 1; round <= rounds; round++)); do
        for mode in "${modes[@]}"; do
            for program in $(alternate "$round" "${programs[@]}"); do
                receive "$program" "$mode" /usr/bin/time --format='%e %U %S %M' --output="$scratch/usage"
                record_usage "$mode" "$program"
                note "round $round: $program $mode: $(tail -n 1 "$scratch/runs" | cut -f 3 | sed 's/$/ s/')"
            done
        done
        measure_floor
        note "round $round: discard: $(tail -n 1 "$scratch/runs" | cut -f 3 | sed 's/$/ s/')"
    done
}

measure_floor() {
    run 600 /usr/bin/time --format='%e %U %S %M' --output="$scratch/usage" \
        python3 "$perf_dir/discard.py" "$first_lsn" $((end - first)) || die 'discard.py failed'
    record_usage plain discard
}

count_calls() {
    local mode program
    for mode in "${modes[@]}"; do
        for program in pg_receivewal walring; do
            receive "$program" "$mode" strace --follow-forks --summary-only --output="$scratch/strace"
            awk -v OFS='\t' -v mode="$mode" -v program="$program" \
                '$NF == "total" { print mode, program, $4 }' "$scratch/strace" >>"$scratch/calls"
        done
    done
}

# receive PROGRAM MODE WRAPPER...: the whole range into a new directory, WRAPPER measuring; then the check.
receive() {
    local program=$1 mode=$2 directory=$disk_dir/received options=(--no-loop)
    shift 2
    [[ $mode == plain ]] || options+=("$mode")
    if [[ $program == walring-* ]]; then
        options+=(--verify="${program#walring-}")
        program=walring
    fi
    mkdir "$directory"
    cp "$previous_segment" "$directory"
    # It stops behind the message that goes beyond this position: the last of the last segment.
    receiver_command "$program" "$directory" "${options[@]}" --endpos="$(bytes_lsn $((end - 1)))"
    sync --file-system "$disk_dir"
    run 600 "$@" "${receiver[@]}" >"$receiver_log" 2>&1 || receiver_failed "$program $mode failed"
    rm "$directory/${previous_segment##*/}"
    require_right_segments "$program $mode" "$directory" "$first_lsn" "$end_lsn"
    rm -rf "$directory"
}

record_usage() {
    awk -v OFS='\t' -v mode="$1" -v program="$2" '{ print mode, program, $1, $2 + $3, $4 / 1024 }' \
        "$scratch/usage" >>"$scratch/runs"
}

report() {
    cat <<EOT
Catching up $received_mib MiB in segments of 16 MiB; medians of $rounds rounds (smallest–largest).

$(table "$scratch/runs")

Under strace, one run each, not timed:

$(table "$scratch/calls")

$(machine_facts)
EOT
}

main "$@"
