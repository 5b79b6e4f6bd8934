# shellcheck shell=bash disable=SC2034
# What the scripts in perf/ share: a throw-away primary, the receivers, the check of what they wrote. Sourced,
# not run.
#
# A script calls `begin`, then `primary_create`; everything these start or create is stopped and removed when
# the script ends, however it ends.

perf_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo_dir=$(dirname "$perf_dir")
target_dir=${CARGO_TARGET_DIR:-$repo_dir/target}

dir=$target_dir    # receivers write in a new directory under it; not TMPDIR, which is often in memory
scratch=''         # this run's small files: logs, measurements
disk_dir=''        # where receivers write; a real disk
cluster_setting='' # file that must go after the installation
temporary=()       # every directory made here, removed at the end
primary_data=''    # data directory of the running primary, empty when none runs
primary_log=''
segment_size=0     # of the primary's WAL, in bytes
receiver=()        # command line of the receiver, as last composed
keywords=''        # what its connection string says besides
receiver_pid=''    # its process, empty when none runs
receiver_log=''
child_pid=''       # a program the script waits for
walring=()         # how to start `walring receive`
declare -A option_forms=([dir]='.+')
whole_number='[1-9][0-9]*'
write=0            # 1: the result goes into perf/README.md
stand_in=0         # 1: $WALRING is a pg_receivewal and has no options of its own

# ---------------------------------------------------------------------------------------------------------
# The script itself

# Progress goes to stderr: the standard output of a benchmark is its table.
note() { printf '%s\n' "$*" >&2; }
die() { note "${0##*/}: $*"; exit 1; }

# The comment at the head of the script is its help text.
usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; }

# parse_options ARGUMENT...: into variables; --size-mib sets size_mib. The script says in `option_forms` which
# of its own there are, and by which expression each value must go.
parse_options() {
    local name
    while (($#)); do
        name=${1#--}
        name=${name//-/_}
        case $1 in
        --help) usage && exit 0 ;;
        --write) write=1 ;;
        *)
            [[ -n ${option_forms[$name]:-} ]] || die "unknown argument $1 (see --help)"
            [[ ${2:-} =~ ^${option_forms[$name]}$ ]] || die "$1: unusable value \"${2:-}\" (see --help)"
            printf -v "$name" %s "$2"
            shift
            ;;
        esac
        shift
    done
}

# begin COMMAND=PACKAGE...: what every script does first. The arguments are what it needs besides PostgreSQL
# and Rust.
begin() {
    trap cleanup EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    export LC_ALL=C
    local name
    # Nothing of the caller's PostgreSQL environment may steer the runs, but for where PostgreSQL is.
    for name in "${!PG@}"; do [[ $name == PG_BIN ]] || unset "$name"; done
    scratch=$(mktemp -d "${TMPDIR:-/tmp}/walring-perf.XXXXXXXX")
    temporary+=("$scratch")
    receiver_log=$scratch/receiver.log
    install_missing "$@"
    find_walring
}

cleanup() {
    local status=$?
    trap - EXIT INT TERM
    set +e
    child_stop
    receiver_kill
    primary_stop
    remove_cluster_setting
    rm -rf -- "${temporary[@]}"
    exit "$status"
}

# run SECONDS COMMAND...: in the foreground for the script, and yet a signal to the script ends both at once.
# The command is given up after SECONDS.
run() {
    local status=0
    timeout --kill-after=10 "$@" &
    child_pid=$!
    wait "$child_pid" || status=$?
    child_stop
    return "$status"
}

# Ends what `run` started, if it has not ended. `timeout` leads a process group of its own and passes SIGTERM
# on; what does not heed it is killed.
child_stop() {
    [[ -n $child_pid ]] || return 0
    kill -s TERM "$child_pid" 2>/dev/null || true
    has_ended "$child_pid" || true
    kill -s KILL -- "-$child_pid" 2>/dev/null || true
    child_pid=''
}

# has_ended PID: within 10 seconds.
has_ended() {
    local attempt
    for ((attempt = 0; attempt < 100; attempt++)); do
        kill -0 "$1" 2>/dev/null || return 0
        sleep 0.1
    done
    return 1
}

# The newest PostgreSQL of the distribution, or the one $PG_BIN names.
find_postgres() {
    pg_bin=${PG_BIN:-$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)}
    [[ -x $pg_bin/postgres && -x $pg_bin/pgbench && -x $pg_bin/pg_receivewal ]]
}

install_missing() {
    local packages=() pair
    find_postgres || packages+=(postgresql)
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || packages+=("${pair#*=}")
    done
    ((${#packages[@]})) || return 0
    note "installing with apt: ${packages[*]}"
    # Debian's package makes and starts a database cluster unless this file is there while it is installed.
    cluster_setting=/etc/postgresql-common/createcluster.d/walring-perf.conf
    as_root mkdir -p "${cluster_setting%/*}"
    as_root tee "$cluster_setting" >/dev/null <<<'create_main_cluster = false'
    if ! { as_root apt-get update && as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes \
        --no-install-recommends "${packages[@]}"; } </dev/null >"$scratch/apt.log" 2>&1; then
        die "apt failed:"$'\n'"$(tail -n 10 "$scratch/apt.log")"
    fi
    remove_cluster_setting
    find_postgres || die "$pg_bin lacks postgres, pgbench or pg_receivewal; set PG_BIN"
}

remove_cluster_setting() {
    [[ -z $cluster_setting ]] || as_root rm -f "$cluster_setting"
    cluster_setting=''
}

as_root() {
    if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

# Builds walring, unless $WALRING names a program to run in its place. One called pg_receivewal is started
# without the word `receive`: measuring pg_receivewal against itself shows how far apart two equal programs
# come out.
find_walring() {
    if [[ -n ${WALRING:-} ]]; then
        [[ -x $WALRING ]] || die "\$WALRING is no program: $WALRING"
    else
        command -v cargo >/dev/null || die 'no cargo: install a current Rust, or set WALRING to a built walring'
        note 'building walring (cargo build --release)'
        cargo build --release --locked --quiet --manifest-path "$repo_dir/Cargo.toml" >&2
        WALRING=$target_dir/release/walring
    fi
    walring=("$WALRING" receive)
    if [[ ${WALRING##*/} == pg_receivewal ]]; then
        walring=("$WALRING")
        stand_in=1
    fi
}

# A new directory for receivers under $dir. Not tmpfs: there a flush costs nothing.
use_disk() {
    mkdir -p "$dir"
    disk_dir=$(mktemp -d "$dir/walring-perf.XXXXXXXX")
    temporary+=("$disk_dir")
    [[ $(filesystem "$disk_dir") != tmpfs ]] || die "$dir is in memory, not on a disk"
}

# The type of the file system a path is on.
filesystem() { df --output=fstype "$1" | tail -n 1; }

# ---------------------------------------------------------------------------------------------------------
# The primary

# PostgreSQL refuses to run as root: there it runs as the user its package made.
as_server() {
    if ((EUID == 0)); then
        setpriv --reuid=postgres --regid=postgres --init-groups -- env --chdir=/ "$@"
    else
        "$@"
    fi
}

free_port() {
    local port
    while port=$((20000 + RANDOM % 12000)) && (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo "$port"
}

# primary_create NEEDED_MIB SEGMENT_MIB SETTING...: a new primary, running, that keeps all its WAL. Its data
# are in memory where there is room, so that its own disk work does not hide the receiver's.
primary_create() {
    local needed_mib=$1 segment_mib=$2 parent=/dev/shm home available_kib=0
    shift 2
    [[ -d $parent ]] && available_kib=$(df --output=avail -k "$parent" | tail -n 1)
    ((available_kib >= needed_mib * 1024)) || parent=${TMPDIR:-/tmp}
    home=$(mktemp -d "$parent/walring-perf.XXXXXXXX")
    temporary+=("$home")
    segment_size=$((segment_mib * 1024 * 1024))
    export PGHOST=127.0.0.1 PGUSER=postgres PGDATABASE=postgres PGPORT PGPASSWORD
    PGPORT=$(free_port)
    PGPASSWORD=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    printf '%s\n' "$PGPASSWORD" >"$home/password"
    if ((EUID == 0)); then chown -R postgres: "$home"; fi
    primary_log=$home/log
    as_server "$pg_bin/initdb" --pgdata="$home/data" --username="$PGUSER" --pwfile="$home/password" \
        --auth=scram-sha-256 --wal-segsize="$segment_mib" --encoding=UTF8 --no-locale --no-sync \
        >"$scratch/initdb.log"
    printf '%s\n' "port = $PGPORT" "listen_addresses = '$PGHOST'" "unix_socket_directories = ''" \
        'autovacuum = off' 'checkpoint_timeout = 1h' 'max_wal_size = 1TB' "$@" >>"$home/data/postgresql.conf"
    primary_data=$home/data
    as_server "$pg_bin/pg_ctl" start --silent --wait --pgdata="$primary_data" --log="$primary_log" >/dev/null ||
        die "the primary did not start: $(<"$primary_log")"
    primary_keep_wal
}

# A slot nobody reads holds back the WAL from here on, for the comparison afterwards.
primary_keep_wal() {
    query "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'keep'" >/dev/null
    query 'CHECKPOINT'
    query "SELECT pg_create_physical_replication_slot('keep', true)" >/dev/null
}

primary_stop() {
    [[ -n $primary_data ]] || return 0
    as_server "$pg_bin/pg_ctl" stop --silent --mode=immediate --pgdata="$primary_data" >/dev/null 2>&1 || true
    rm -rf -- "${primary_data%/*}"
    primary_data=''
}

# query SQL: its result, unaligned. Waits for no standby.
query() {
    PGOPTIONS='-c synchronous_commit=local' "$pg_bin/psql" -XAtq -v ON_ERROR_STOP=1 -c "$1"
}

# load SECONDS PGBENCH_OPTION...: pgbench, given up when commits hang longer than a minute.
load() {
    local seconds=$1
    shift
    run $((seconds + 60)) "$pg_bin/pgbench" --no-vacuum "$@" >"$scratch/pgbench.log" 2>&1 ||
        receiver_failed "pgbench failed or its commits hung: $(tail -n 5 "$scratch/pgbench.log")"
}

# produce_wal MIB PART: one PART-th short transactions, the rest bulk loads: what archives hold. The segments from
# first_lsn (first, in bytes) to end_lsn (end) are finished then.
produce_wal() {
    local missing
    note "producing $1 MiB of WAL"
    first_lsn=$(primary_switch_segment)
    first=$(lsn_bytes "$first_lsn")
    load 60 --initialize --quiet --scale=10
    while (($(lsn_bytes "$(query 'SELECT pg_current_wal_lsn()')") < first + $1 * 1024 * 1024 / $2)); do
        load 60 --builtin=tpcb-like --client=4 --time=5
    done
    while
        missing=$((first + $1 * 1024 * 1024 - $(lsn_bytes "$(query 'SELECT pg_current_wal_lsn()')")))
        ((missing > 0))
    do
        load 600 --initialize --quiet --scale=$((missing / 13000000 + 1))
    done
    end_lsn=$(primary_switch_segment)
    end=$(lsn_bytes "$end_lsn")
}

# A new segment begins: whatever was written so far is in finished ones. Prints the LSN at which it begins.
primary_switch_segment() {
    query 'SELECT pg_switch_wal()' >/dev/null
    local position
    position=$(lsn_bytes "$(query 'SELECT pg_current_wal_insert_lsn()')")
    bytes_lsn $((position / segment_size * segment_size))
}

# ---------------------------------------------------------------------------------------------------------
# Receivers

# receiver_command PROGRAM DIR OPTION...: composes the command line of walring or pg_receivewal, the same for
# both.
receiver_command() {
    local program=$1 directory=$2
    shift 2
    case $program in
    walring) receiver=("${walring[@]}") ;;
    pg_receivewal) receiver=("$pg_bin/pg_receivewal") ;;
    esac
    receiver+=(-D "$directory"
        -d "host=$PGHOST port=$PGPORT user=$PGUSER application_name=receiver${keywords:+ $keywords}" --no-password "$@")
}

# receiver_start PROGRAM DIR OPTION...: in the background; returns when the primary counts it as its
# synchronous standby.
receiver_start() {
    receiver_command "$@"
    "${receiver[@]}" >"$receiver_log" 2>&1 &
    receiver_pid=$!
    wait_until 20 "SELECT count(*) > 0 FROM pg_stat_replication
                   WHERE state = 'streaming' AND sync_state = 'sync'" ||
        receiver_failed 'the primary does not count the receiver as synchronous standby'
}

# wait_until SECONDS QUERY: until the query says true; fails when time is up or the receiver has ended.
wait_until() {
    local end=$((SECONDS + $1))
    until [[ $(query "$2") == t ]]; do
        ((SECONDS < end)) && kill -0 "$receiver_pid" 2>/dev/null || return 1
        sleep 0.1
    done
}

receiver_failed() { die "$1; the receiver (${receiver[*]}) said:"$'\n'"$(tail -n 20 "$receiver_log")"; }

# receiver_flushed: what the receiver has acknowledged as flushed, once that is all there is, or after 15
# seconds.
receiver_flushed() {
    wait_until 15 'SELECT coalesce(bool_and(flush_lsn >= pg_current_wal_flush_lsn()), false)
                   FROM pg_stat_replication' ||
        receiver_failed 'the receiver does not acknowledge the end of the WAL'
    query 'SELECT flush_lsn FROM pg_stat_replication'
}

# receiver_stop: asks it to stop; its exit code must be 0, and within 10 seconds.
receiver_stop() {
    local pid=$receiver_pid status=0
    receiver_signal
    has_ended "$pid" || receiver_failed 'the receiver does not stop'
    receiver_pid=''
    wait "$pid" || status=$?
    ((status == 0)) || receiver_failed "the receiver ended with exit code $status"
}

# pg_receivewal before PostgreSQL 16 does not handle SIGTERM, only SIGINT.
receiver_signal() {
    local signal=TERM
    [[ ${receiver[0]##*/} == pg_receivewal ]] && signal=INT
    kill -s "$signal" "$receiver_pid" 2>/dev/null || true
}

receiver_kill() {
    [[ -n $receiver_pid ]] || return 0
    kill -s KILL "$receiver_pid"
    wait "$receiver_pid"
    receiver_pid=''
} 2>/dev/null

# ---------------------------------------------------------------------------------------------------------
# The check

lsn_bytes() { echo $(((16#${1%/*} << 32) + 16#${1#*/})); }
bytes_lsn() { printf '%X/%08X\n' $(($1 >> 32)) $(($1 & 0xFFFFFFFF)); }

# segment_name NUMBER: on timeline 1, which a new primary is on.
segment_name() {
    local per_id=$((0x100000000 / segment_size))
    printf '00000001%08X%08X\n' $(($1 / per_id)) $(($1 % per_id))
}

# verify_segments DIR FIRST_LSN FLUSH_LSN: DIR must hold, byte for byte, what the primary's pg_wal holds from
# the segment of FIRST_LSN up to FLUSH_LSN, and no finished segment besides. One line for each file; fails
# after the last of them when one was wrong. Leaves the counts in verified_segments (finished ones) and
# verified_bytes.
verify_segments() {
    local directory=$1 first flush number wrong=0
    first=$(($(lsn_bytes "$2") / segment_size))
    flush=$(lsn_bytes "$3")
    verified_segments=0
    verified_bytes=0
    for ((number = first; number * segment_size < flush; number++)); do
        verify_segment "$directory" "$(segment_name "$number")" $((flush - number * segment_size)) || wrong=1
    done
    verify_nothing_besides "$directory" "$first" "$number" || wrong=1
    return "$wrong"
}

# require_right_segments PROGRAM DIR FIRST_LSN FLUSH_LSN: a wrong segment ends a benchmark; a right one is not
# worth a line.
require_right_segments() {
    verify_segments "$2" "$3" "$4" >"$scratch/verdict" ||
        die "$1 wrote wrong segments:"$'\n'"$(grep WRONG "$scratch/verdict")"
}

# verify_segment DIR NAME BYTES: BYTES were acknowledged from its beginning on, perhaps more than the segment
# holds.
verify_segment() {
    local file=$1/$2 original=$primary_data/pg_wal/$2 compared=$segment_size
    if [[ ! -e $file ]] && (($3 < segment_size)); then
        file+=.partial
        compared=$3
    fi
    local complaint=''
    if [[ ! -e $file ]]; then
        complaint='missing'
    elif [[ ! -e $original ]]; then
        complaint='no longer on the primary, cannot be compared'
    elif (($(stat -c %s "$file") != segment_size)); then
        complaint="$(stat -c %s "$file") bytes long, should be $segment_size"
    elif ! complaint=$(cmp --bytes="$compared" "$original" "$file" 2>&1); then
        complaint="differs from the primary's: ${complaint##*differ: }"
    fi
    if [[ -n $complaint ]]; then
        printf '%-32s WRONG: %s\n' "${file##*/}" "$complaint"
        return 1
    fi
    printf "%-32s %9d bytes as on the primary\n" "${file##*/}" "$compared"
    [[ $file == *.partial ]] || verified_segments=$((verified_segments + 1))
    verified_bytes=$((verified_bytes + compared))
}

# verify_nothing_besides DIR FIRST END: finished segments outside of [FIRST, END) were made up.
verify_nothing_besides() {
    local file number known=() wrong=0
    for ((number = $2; number < $3; number++)); do known+=("$(segment_name "$number")"); done
    for file in "$1"/*; do
        file=${file##*/}
        [[ $file =~ ^[0-9A-F]{24}$ && " ${known[*]} " != *" $file "* ]] || continue
        printf '%-32s WRONG: not between the first segment and the last acknowledged one\n' "$file"
        wrong=1
    done
    return "$wrong"
}

# ---------------------------------------------------------------------------------------------------------
# Results

# What the tables and percentiles are is said in report.py.
latencies() { python3 "$perf_dir/report.py" latencies "$@"; }
table() { python3 "$perf_dir/report.py" table "$1"; }

# alternate ROUND NAME...: the names in this order in odd rounds, in the opposite one in even rounds, so that
# a drift of the machine favours none.
alternate() {
    local round=$1
    shift
    if ((round % 2)); then printf '%s\n' "$@"; else printf '%s\n' "$@" | tac; fi
}

# The machine and the programs, as a Markdown list.
machine_facts() {
    local kernel cpu memory device queue cache=''
    kernel=$(uname -r) # and what its packager calls it
    cpu=$(lscpu | sed -n 's/^Model name: *//p' | head -n 1)
    memory=$(awk '/^MemTotal:/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)
    device=$(basename "$(df --output=source "$disk_dir" | tail -n 1)")
    for queue in /sys/class/block/"$device"/{,../}queue; do # a partition's is its disk's
        [[ -r $queue/write_cache ]] && cache=", write cache: $(<"$queue/write_cache"), FUA: $(<"$queue/fua")"
    done
    cat <<EOT
- $(uname -s) ${kernel%%-*}, $cpu, $(nproc) cores, $memory memory, $(date -u +%F)
- receivers write to $(filesystem "$disk_dir") on $device$cache
- primary on $(filesystem "$primary_data"), over TCP on the loopback interface, fsync = $(query 'SHOW fsync')
- $("$pg_bin/postgres" --version); $("$pg_bin/pg_receivewal" --version); walring: $("$WALRING" --version)
EOT
}

# deliver SECTION FILE: prints the result, and with --write puts it between the markers of SECTION in
# perf/README.md.
deliver() {
    cat "$2"
    ((write == 0)) && return
    local readme=$perf_dir/README.md begin="<!-- $1: begin -->" end="<!-- $1: end -->"
    [[ $(grep -cxF -e "$begin" -e "$end" "$readme") == 2 ]] || die "no markers for $1 in $readme"
    awk -v begin="$begin" -v end="$end" -v results="$2" '
        $0 == end { skipping = 0 }
        !skipping { print }
        $0 == begin { skipping = 1; while ((getline line < results) > 0) print line }
    ' "$readme" >"$scratch/README.md"
    cat "$scratch/README.md" >"$readme"
    note "written to ${readme#"$repo_dir/"}"
}

# ---------------------------------------------------------------------------------------------------------
# The program walring-perf

# suite_options SUBCOMMAND OUT ARGUMENT...: those of the script are taken out, where results go (OUT DIR) into
# `output`; the others are looked at by the program, and gathered in `arguments`.
suite_options() {
    local subcommand=$1 out=$2
    shift 2
    while (($#)); do
        case $1 in
        --help)
            usage
            help_of_suite "$subcommand"
            exit 0
            ;;
        --write) write=1 ;;
        "$out")
            [[ -n ${2:-} ]] || die "$out: no directory"
            output=$2
            shift
            ;;
        "$out"=*) output=${1#*=} ;;
        *) arguments+=("$1") ;;
        esac
        shift
    done
}

help_of_suite() {
    if [[ -x $target_dir/suite/walring-perf ]]; then
        "$target_dir/suite/walring-perf" "$1" --help
    else
        note "the options of walring-perf $1 are shown once it is built"
    fi
}

build_suite() {
    note 'building the suite (cargo build --profile suite --package walring-perf)'
    cargo build --profile suite --locked --quiet --manifest-path "$repo_dir/Cargo.toml" --package walring-perf >&2
}

# run_suite ARGUMENT...: a signal ends the program, which stops and removes all it has started; it is waited for.
run_suite() {
    local status=0
    export WALRING
    "$target_dir/suite/walring-perf" "$@" &
    child_pid=$!
    trap 'suite_stop 130' INT
    trap 'suite_stop 143' TERM
    wait "$child_pid" || status=$?
    child_pid=''
    ((status == 0)) || exit "$status"
}

suite_stop() {
    kill -s TERM "$child_pid" 2>/dev/null || true
    wait "$child_pid" || true
    child_pid=''
    exit "$1"
}
