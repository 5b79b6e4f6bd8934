#!/usr/bin/env bash
# perf/tls.sh [--rounds N] [--size-mib N] [--seconds N] [--dir DIR] [--write]
#
# What encryption costs: pg_receivewal and walring receive the same WAL, over TLS (sslmode=verify-full) and in plain
# (sslmode=disable), from the same primary. First the catch-up with finished segments, then commits of one client that
# wait for the receiver.
#
#   --rounds N     runs of each, 5 by default; every second round in the opposite order
#   --size-mib N   WAL to receive, 2048 by default; the primary needs about three times as much memory
#   --seconds N    how long commits are timed in each round, 5 by default; 0: they are not
#   --dir DIR      receivers write in a new directory under DIR, by default under target/; not in memory
#   --write        put the result into perf/README.md
#
# The server's log tells which connection was encrypted, and how: any that was not as it should be fails the run, and so
# does a stored byte that is not the primary's. Prints Markdown.
#
# Installs with apt what is missing: postgresql (without its default cluster), python3, openssl, time. Needs a current
# Rust. WALRING=path uses that program in place of building one; PG_BIN=dir uses the PostgreSQL programs there.

set -euo pipefail
# shellcheck source=perf/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

rounds=5
size_mib=2048
seconds=5
option_forms+=([rounds]=$whole_number [size_mib]=$whole_number [seconds]='[0-9]{1,4}')
receivers=('pg_receivewal, TLS' 'pg_receivewal, plain' 'walring, TLS' 'walring, plain')
encryption='' # of the connections over TLS, as the server calls it; the same for all

main() {
    parse_options "$@"
    begin python3=python3 openssl=openssl /usr/bin/time=time
    use_disk
    make_certificates
    # Only where a commit is timed does it wait.
    primary_create $((size_mib * 3)) 16 'synchronous_commit = off' "synchronous_standby_names = 'receiver'" \
        'log_connections = on' 'ssl = on' \
        "ssl_cert_file = '$certificates/server.crt'" "ssl_key_file = '$certificates/server.key'"
    # All but the receivers connects in plain.
    export PGSSLMODE=disable
    produce_wal "$size_mib" 8
    printf 'case\tprogram\tMiB/s\tCPU s a GiB\tuser\tsystem\tpeak resident MiB\n' >"$scratch/catch_ups"
    printf 'case\tprogram\tp50 ms\tp99 ms\n' >"$scratch/commits"
    measure_rounds catch_up
    ((seconds == 0)) || measure_rounds commit
    report >"$scratch/report"
    deliver tls "$scratch/report"
}

# An authority of its own, and a certificate of the server that is good for its address.
make_certificates() {
    certificates=$(mktemp -d "${TMPDIR:-/tmp}/walring-perf.XXXXXXXX")
    temporary+=("$certificates")
    local key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
    {
        openssl req -x509 -days 2 "${key[@]}" -subj '/CN=walring-perf' \
            -keyout "$certificates/root.key" -out "$certificates/root.crt"
        openssl req "${key[@]}" -subj '/CN=127.0.0.1' \
            -keyout "$certificates/server.key" -out "$certificates/server.csr"
        openssl x509 -req -days 2 -in "$certificates/server.csr" -CAcreateserial \
            -CA "$certificates/root.crt" -CAkey "$certificates/root.key" \
            -extfile <(echo 'subjectAltName = IP:127.0.0.1') -out "$certificates/server.crt"
    } >"$scratch/openssl.log" 2>&1 || die "openssl made no certificates: $(tail -n 5 "$scratch/openssl.log")"
    if ((EUID == 0)); then chown -R postgres: "$certificates"; fi
}

# measure_rounds MEASURE: with all receivers, in turns.
measure_rounds() {
    local measure=$1 round name
    for ((round = 1; round <= rounds; round++)); do
        while read -r name; do
            received=$(mktemp -d "$disk_dir/received.XXXXXXXX")
            connect_by "${name#*, }"
            logged=$(stat -c %s "$primary_log")
            sync --file-system "$disk_dir"
            "$measure" "$name" "${name%, *}"
            require_encryption "$name"
            note "round $round: $name: $result"
            rm -r "$received"
        done < <(alternate "$round" "${receivers[@]}")
    done
}

connect_by() {
    case $1 in
    TLS) keywords="sslmode=verify-full sslrootcert=$certificates/root.crt" ;;
    plain) keywords='sslmode=disable' ;;
    esac
}

# catch_up NAME PROGRAM: all segments, from the process's start to its end. It finds the segment before them in its
# directory, and ends behind the message that goes beyond the last byte but one.
catch_up() {
    local name=$1 program=$2 before
    before=$(segment_name $((first / segment_size - 1)))
    cp "$primary_data/pg_wal/$before" "$received"
    receiver_command "$program" "$received" --no-loop --endpos="$(bytes_lsn $((end - 1)))"
    run 600 /usr/bin/time --format='%e %U %S %M' --output="$scratch/usage" "${receiver[@]}" \
        >"$receiver_log" 2>&1 || receiver_failed "$name failed"
    rm "$received/$before"
    require_right_segments "$name" "$received" "$first_lsn" "$end_lsn"
    awk -v OFS='\t' -v name="$name" -v mib=$(((end - first) / 1048576)) '{
        gib = mib / 1024
        print "catch-up", name, mib / ($1 > 0.005 ? $1 : 0.005), ($2 + $3) / gib, $2 / gib, $3 / gib, $4 / 1024
    }' "$scratch/usage" >>"$scratch/catch_ups"
    result="$(tail -n 1 "$scratch/catch_ups" | cut -f 3) MiB/s"
}

# commit NAME PROGRAM: one client, each of whose commits waits for the receiver.
commit() {
    local name=$1 program=$2 count mean p50 p99 more start
    start=$(primary_switch_segment)
    echo "SELECT pg_logical_emit_message(true, 'load', repeat('x', 100))" >"$scratch/commit.sql"
    receiver_start "$program" "$received" --synchronous
    rm -f "$scratch"/latencies*
    PGOPTIONS='-c synchronous_commit=on' load "$seconds" --file="$scratch/commit.sql" --client=1 --time="$seconds" \
        --log --log-prefix="$scratch/latencies"
    local flushed
    flushed=$(receiver_flushed)
    receiver_stop
    require_right_segments "$name" "$received" "$start" "$flushed"
    IFS=$'\t' read -r count mean p50 p99 more < <(latencies "$scratch"/latencies*)
    printf 'commit, 1 client\t%s\t%s\t%s\n' "$name" "$p50" "$p99" >>"$scratch/commits"
    result="$p50 ms ($count commits)"
}

# require_encryption NAME: each connection of the receiver since the log was as long as `logged` must have been what the
# name says.
require_encryption() {
    local line found=0 how
    while read -r line; do
        found=1
        how=''
        [[ $line =~ 'SSL enabled ('([^\)]*)\) ]] && how=${BASH_REMATCH[1]}
        [[ $1 != *TLS || -n $how ]] || die "$1: a connection was not encrypted: $line"
        [[ $1 != *plain || -z $how ]] || die "$1: a connection was encrypted: $line"
        [[ -n $how ]] || continue
        [[ ${encryption:=$how} == "$how" ]] || die "$1: encrypted by $how, and others by $encryption"
    done < <(tail -c "+$((logged + 1))" "$primary_log" | grep 'replication connection authorized.*receiver')
    ((found)) || die "$1: the server's log knows of no connection of the receiver"
}

report() {
    cat <<EOT
Over TLS: \`sslmode=verify-full\`; in plain: \`sslmode=disable\`. The server's log says of each connection over TLS
"SSL enabled ($encryption)", and of none in plain. Medians, and in brackets the
smallest and the largest of the rounds, which were $rounds.

Catch-up with $(((end - first) / 1048576)) MiB in segments of 16 MiB:

$(compared "$scratch/catch_ups")

EOT
    if ((seconds)); then
        printf 'Commits of one client, %s s in each round:\n\n%s\n\n' "$seconds" "$(compared "$scratch/commits")"
    fi
    machine_facts
}

compared() {
    RATIOS='walring, TLS ÷ pg_receivewal, TLS
walring, plain ÷ pg_receivewal, plain
pg_receivewal, TLS ÷ pg_receivewal, plain
walring, TLS ÷ walring, plain' table "$1"
}

main "$@"
