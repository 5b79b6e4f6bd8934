#!/usr/bin/env bash
# perf/demo.sh: walring as the only synchronous standby of a throw-away PostgreSQL primary, in about a minute.
#
# Builds walring, starts a primary, lets commits wait for walring while pgbench writes, stops walring, and
# compares every segment it wrote with the primary's. Exits 0 only when every one is right. Takes no
# arguments.
#
# Installs with apt what is missing: postgresql (without its default cluster), python3. Needs a current Rust.
# Everything runs on 127.0.0.1 and is stopped and removed at the end. WALRING=path uses that program in place
# of building one.

set -euo pipefail
# shellcheck source=perf/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

load_seconds=10
step_number=0

step() {
    step_number=$((step_number + 1))
    printf '\n[%d/7] %s\n' "$step_number" "$*"
}

tell() { printf '      %s\n' "$*"; }
indent() { sed 's/^/      /'; }

main() {
    (($# == 0)) || { usage && exit 2; }
    step 'Build walring'
    begin python3=python3
    tell "$("$WALRING" --version)"
    start_primary
    start_walring
    write_load
    cross_a_boundary
    stop_walring
    check_segments
}

start_primary() {
    step 'Start a throw-away primary that commits only when a standby has flushed'
    primary_create 2048 16 "synchronous_standby_names = 'receiver'"
    tell "$("$pg_bin/postgres" --version) on 127.0.0.1:$PGPORT, data on $(filesystem "$primary_data")"
}

start_walring() {
    step 'Start walring as that standby, its only one'
    use_disk
    first_lsn=$(query 'SELECT pg_current_wal_flush_lsn()')
    local options=(--synchronous --status-interval=1)
    ((stand_in)) || options+=(--latency-report)
    receiver_start walring "$disk_dir" "${options[@]}"
    tell "\$ walring receive $(printf '%q ' "${receiver[@]:${#walring[@]}}")"
    tell "the primary sees: $(query "SELECT concat_ws(', ', application_name, state, 'sync_state = ' || sync_state)
                                     FROM pg_stat_replication")"
}

write_load() {
    step "Write: fill the pgbench tables, then $load_seconds seconds of transactions by 8 clients"
    load 60 --initialize --scale=10
    load "$load_seconds" --builtin=tpcb-like --client=8 --jobs=2 --time="$load_seconds" \
        --log --log-prefix="$scratch/commits"
    local count mean p50 p99 p999 max
    IFS=$'\t' read -r count mean p50 p99 p999 max < <(latencies "$scratch"/commits*)
    tell "$count transactions, each returned when its WAL was on walring's disk"
    tell "what one took, seen by its client, in ms: mean $mean, p50 $p50, p99 $p99, p99.9 $p999, max $max"
}

cross_a_boundary() {
    step 'Switch to a new segment (pg_switch_wal), and commit a little more'
    tell "the new segment begins at $(primary_switch_segment)"
    load 1 --builtin=simple-update --client=1 --transactions=10
    flush_lsn=$(receiver_flushed)
    tell "acknowledged as flushed up to $flush_lsn"
}

stop_walring() {
    step 'Stop walring (SIGTERM); what it logged, and its summary of latencies:'
    receiver_stop
    indent <"$receiver_log"
}

check_segments() {
    step "Compare with the primary's pg_wal, byte for byte"
    local right=1
    verify_segments "$disk_dir" "$first_lsn" "$flush_lsn" > >(indent) || right=0
    wait $! || true
    read_records || right=0
    ((right)) || die 'NOT every segment is right'
    printf '\nevery segment is right: %d segments, %d MiB\n' "$verified_segments" $((verified_bytes / 1048576))
}

# PostgreSQL's own reader, over all finished segments in one pass.
read_records() {
    local finished=("$disk_dir"/000000010000????????????) records
    ((${#finished[@]} >= 3)) || { tell "WRONG: only ${#finished[@]} finished segments" && return 1; }
    if ! "$pg_bin/pg_waldump" --stats "${finished[0]}" "${finished[-1]##*/}" >"$scratch/waldump" 2>&1; then
        indent <"$scratch/waldump"
        return 1
    fi
    records=$(awk '$1 == "Total" { print $2 }' "$scratch/waldump")
    tell "pg_waldump reads $records records in the ${#finished[@]} finished segments"
    ((stand_in)) || "$WALRING" verify "$disk_dir" 2>&1 | indent
}

main "$@"
