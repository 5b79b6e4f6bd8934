#!/usr/bin/env bash
# perf/test.sh: are the scripts in perf/ to be believed? Their check must fail on every kind of wrong segment,
# their arithmetic must be right, the demo must fail when its receiver spoils one byte, and each benchmark
# must run. About five minutes; the numbers it prints mean nothing. Takes no arguments.
#
# Installs with apt what is missing: postgresql (without its default cluster), python3, openssl, strace, time,
# e2fsprogs. Needs a current Rust. WALRING=path uses that program in place of building one.

set -euo pipefail
# shellcheck source=perf/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

failures=0

# expect STATUS DESCRIPTION COMMAND...: `passes` or `fails`, and when it fails it must have said $because.
expect() {
    local expected=$1 description=$2 outcome=passes
    shift 2
    "$@" >"$scratch/output" 2>&1 || outcome=fails
    [[ $outcome == fails ]] && ! grep -q "${because:-}" "$scratch/output" && outcome='fails for another reason'
    if [[ $outcome == "$expected" ]]; then
        printf 'ok      %s\n' "$description"
    else
        printf 'NOT OK  %s: %s\n' "$description" "$outcome"
        sed 's/^/        /' "$scratch/output"
        failures=$((failures + 1))
    fi
}

main() {
    (($# == 0)) || { usage && exit 2; }
    begin python3=python3 openssl=openssl strace=strace /usr/bin/time=time mkfs.ext4=e2fsprogs
    export WALRING
    wrong_segments_are_found
    medians_are_exact
    a_spoilt_byte_fails_the_demo
    a_connection_in_plain_fails_the_benchmark_of_tls
    benchmarks_run
    ((failures == 0)) || die "$failures of the checks are NOT OK"
}

# What a receiver may leave is made from the primary's own segments, then spoilt in one place.
wrong_segments_are_found() {
    primary_create 512 1
    first_lsn=$(primary_switch_segment)
    load 60 --initialize --quiet --scale=1
    primary_switch_segment >/dev/null
    query "SELECT pg_logical_emit_message(true, 'test', repeat('x', 10000))" >/dev/null
    flush_lsn=$(query 'SELECT pg_current_wal_flush_lsn()')
    first=$(($(lsn_bytes "$first_lsn") / segment_size))
    last=$(($(lsn_bytes "$flush_lsn") / segment_size))
    second=$(segment_name $((first + 1)))
    partial=$(segment_name "$last").partial
    flushed=$(($(lsn_bytes "$flush_lsn") % segment_size))

    expect passes 'the right segments' check_after true
    expect passes 'a byte behind what was acknowledged' check_after flip "$partial" $((flushed + 100))
    because=differs expect fails 'a wrong byte in a finished segment' check_after flip "$second" 123456
    because=differs expect fails 'its last byte wrong' check_after flip "$second" $((segment_size - 1))
    because=differs expect fails 'the last acknowledged byte wrong' check_after flip "$partial" $((flushed - 1))
    because=missing expect fails 'a finished segment missing' check_after rm "$second"
    because=missing expect fails 'the partial segment missing' check_after rm "$partial"
    because=missing expect fails 'a finished segment still called partial' check_after mv "$second" "$second.partial"
    because='should be' expect fails 'a finished segment cut short' check_after truncate --size=-1 "$second"
    because='should be' expect fails 'a partial segment cut short' check_after truncate --size="$flushed" "$partial"
    because='not between' expect fails 'a segment too many' check_after cp "$second" "$(segment_name $((last + 1)))"
    primary_stop
}

# check_after COMMAND...: run in a directory that was right before.
check_after() {
    local directory=$scratch/received number
    rm -rf "$directory"
    mkdir "$directory"
    for ((number = first; number <= last; number++)); do
        cp "$primary_data/pg_wal/$(segment_name "$number")" "$directory"
    done
    mv "$directory/${partial%.partial}" "$directory/$partial"
    (cd "$directory" && "$@")
    verify_segments "$directory" "$first_lsn" "$flush_lsn"
}

# flip FILE OFFSET
flip() {
    local byte
    byte=$(od -An -j "$2" -N 1 -tu1 "$1")
    printf '%b' "\\x$(printf %x $((byte ^ 1)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

medians_are_exact() {
    printf 'case\tprogram\ts\na\twalring\t1\na\tpg_receivewal\t9\na\twalring\t2\na\twalring\t3\n' >"$scratch/log"
    local medians=('' '' s --- --- ---: a pg_receivewal 9.00 '' walring '2.00 (1.00–3.00)')
    expect passes 'a table of medians and their ratio' \
        diff <(printf '| %s | %s | %s |\n' "${medians[@]}" '' 'pg_receivewal ÷ walring' '**4.50**') \
        <(table "$scratch/log")
    expect passes 'a table of medians and the ratio that was asked for' \
        diff <(printf '| %s | %s | %s |\n' "${medians[@]}" '' 'walring ÷ pg_receivewal' '**0.22**') \
        <(RATIOS='walring ÷ pg_receivewal' table "$scratch/log")
}

# A receiver that spoils one byte of its first segment when it has begun the third.
a_spoilt_byte_fails_the_demo() {
    local spoiler=$scratch/spoiler/${WALRING##*/}
    mkdir "${spoiler%/*}"
    cat >"$spoiler" <<EOT
#!/usr/bin/env bash
$(declare -f flip)
spoil() {
    local attempt
    for ((attempt = 0; attempt < 300; attempt++)); do
        sleep 0.1
        compgen -G "\$1/000000010000000000000003*" >/dev/null || continue
        flip "\$1/000000010000000000000001" 123456
        break
    done
}
if [[ \$* != --version ]]; then spoil "\$$((${#walring[@]} + 1))" & fi
exec '$WALRING' "\$@"
EOT
    chmod +x "$spoiler"
    because='NOT every segment is right' WALRING=$spoiler \
        expect fails 'the demo, one byte spoilt' run 300 "$perf_dir/demo.sh"
}

# A receiver that connects in plain although it is told to use TLS.
a_connection_in_plain_fails_the_benchmark_of_tls() {
    local opener=$scratch/opener/${WALRING##*/}
    mkdir "${opener%/*}"
    printf '#!/usr/bin/env bash\nexec %q "${@/sslmode=verify-full/sslmode=disable}"\n' "$WALRING" >"$opener"
    chmod +x "$opener"
    because='walring, TLS: a connection was not encrypted' WALRING=$opener \
        expect fails 'tls.sh, TLS not used' run 300 "$perf_dir/tls.sh" --rounds 1 --size-mib 32 --seconds 0
}

benchmarks_run() {
    expect passes 'verify.sh' run 300 "$perf_dir/verify.sh" --rounds 1 --size-mib 32
    expect passes 'tls.sh' run 300 "$perf_dir/tls.sh" --rounds 1 --size-mib 32 --seconds 1
    expect passes 'soak.sh' run 600 "$perf_dir/soak.sh" --for 20s --gap 200ms --out "$scratch/soak"
    expect passes 'compare.sh' run 600 "$perf_dir/compare.sh" --quick --output "$scratch/comparison"
}

main "$@"
