# shellcheck shell=bash
# What the recipes share: blocks of README.md, throw-away servers, certificates, walring. Sourced, not run.
#
# A recipe does what README.md says by taking it from there: `block` prints the code that stands below a line
# `<!-- recipe: NAME -->`, with the README's directories replaced by those of this run. Hosts are left as they are written:
# PGHOSTADDR and PGPORT say where they are. Everything is on loopback and is stopped and removed at the end.
#
# Exit codes: 0 all is as README.md says, 77 the recipe could not be run here (a line "skipped: ..." says why), 1 it is not so.
# WALRING (a program; otherwise one is built) and WALRING_PG (a directory with PostgreSQL's programs) are used if set.

set -euo pipefail
shopt -s inherit_errexit

recipes=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$recipes/../.." && pwd)
recipe=$(basename "$0" .sh)
if ((EUID == 0)); then cache=/var/cache/walring; else cache=${XDG_CACHE_HOME:-$HOME/.cache}/walring; fi
patience=60        # seconds after which what does not come is taken for a hang
servers=()         # data directories of servers that may run
children=()        # processes of this script that may run
declare -A port    # of each server, by its name
walring_pid='' walring_log=''

say() { echo "$recipe: $*"; }
skip() { echo "skipped: recipe $recipe: $*"; exit 77; }

fail() {
    echo "$recipe: FAILED: $*" >&2
    [[ -z $walring_log ]] || sed 's/^/    /' "$walring_log" >&2
    exit 1
}

# begin: the directories of this run, PostgreSQL's programs and walring.
begin() {
    trap finish EXIT
    trap 'exit 1' INT TERM
    trap 'echo "$recipe: line $LINENO of ${BASH_SOURCE[0]}: $BASH_COMMAND" >&2' ERR
    unset "${!PG@}"
    bin=${WALRING_PG:-$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)}
    [[ -x $bin/postgres && -x $bin/pg_basebackup && -x $bin/pg_receivewal ]] || skip 'no PostgreSQL (tests/postgres.sh installs it)'
    command -v "$bin/psql" psql >/dev/null || skip 'no psql'
    psql=$(command -v "$bin/psql" psql | head -n 1)
    # Servers live in memory where that is possible; walring needs a file system with O_DIRECT.
    scratch=$(mktemp -d "$([[ -w /dev/shm ]] && echo /dev/shm || echo "${TMPDIR:-/tmp}")/recipe-XXXXXX")
    chmod 711 "$scratch"
    mkdir -p "$repository/target/tmp"
    disk=$(mktemp -d "$repository/target/tmp/recipe-XXXXXX")
    etc=$scratch/etc wal=$disk/wal
    mkdir -p "$etc" "$wal" "$scratch/servers"
    if ((EUID == 0)); then chown postgres "$scratch/servers"; fi
    find_walring
    say "$("$bin/postgres" --version), $("$walring" --version)"
}

find_walring() {
    if [[ -z ${WALRING:-} ]]; then
        command -v cargo >/dev/null || skip 'no cargo to build walring with, and WALRING is not set'
        cargo build --quiet --manifest-path "$repository/Cargo.toml"
    fi
    walring=${WALRING:-${CARGO_TARGET_DIR:-$repository/target}/debug/walring}
    # What is typed in README.md is `walring`.
    mkdir "$scratch/bin"
    ln -s "$walring" "$scratch/bin/walring"
    PATH=$scratch/bin:$PATH
}

finish() {
    local status=$? pid data
    trap - EXIT
    set +e
    for pid in "${children[@]}"; do kill "$pid" 2>/dev/null; done
    for data in "${servers[@]}"; do
        [[ ! -e $data/postmaster.pid ]] || as_server "$bin/pg_ctl" stop -m immediate -D "$data" >/dev/null
    done
    wait
    ((status == 0 || status == 77)) || echo "$recipe: ended with exit code $status" >&2
    if ((status == 1)) && [[ -n ${KEEP:-} ]]; then say "kept: $scratch $disk"; else rm -rf "$scratch" "$disk"; fi
    exit "$status"
}

# need COMMAND...: what the recipe cannot do without.
need() {
    local command
    for command; do command -v "$command" >/dev/null || skip "no $command"; done
}

# PostgreSQL refuses to run as root: there it runs as the user its package made.
server_user=()
if ((EUID == 0)); then server_user=(setpriv --reuid=postgres --regid=postgres --init-groups -- env --chdir=/); fi
as_server() { "${server_user[@]}" "$@"; }

# until_true WHAT COMMAND...: waits until the command succeeds.
until_true() {
    local what=$1 end=$((SECONDS + patience))
    shift
    until "$@" 2>/dev/null; do
        ((SECONDS < end)) || fail "not within $patience seconds: $what"
        [[ -z $walring_pid ]] || kill -0 "$walring_pid" 2>/dev/null || fail "walring has ended; waited for: $what"
        sleep 0.1
    done
}

# ---------------------------------------------------------------------------------------------------------
# README.md

# block NAME: the code below `<!-- recipe: NAME -->`, with this run's directories, and the client's address on loopback.
block() {
    local text
    text=$(awk -v mark="<!-- recipe: $1 -->" '
        $0 == mark { found = 1; next }
        found && /^```/ { if (inside) exit; inside = 1; next }
        inside' "$repository/README.md")
    [[ -n $text ]] || fail "README.md has no code below <!-- recipe: $1 -->"
    sed -e "s|/srv/wal|$wal|g; s|/etc/walring|$etc|g; s|192\.0\.2\.[0-9]*/32|127.0.0.1/32|g" <<<"$text"
}

# holds SERVER NAME: each line `SELECT ...;  -- answer` of a block gets that answer, sooner or later.
holds() {
    local line sql expected
    while IFS= read -r line; do
        [[ $line == *'-- '* ]] || continue
        sql=${line%%;*} expected=${line##*-- }
        until_true "$1: $sql: \"$expected\"" answers "$1" "$expected" "$sql"
    done <<<"$(block "$2")"
    say "$1 answers as README.md says in \"$2\""
}

answers() { [[ $(query "$1" "$3") == "$2" ]]; }

# ---------------------------------------------------------------------------------------------------------
# Servers

free_port() {
    local candidate
    while candidate=$((20000 + RANDOM % 12000)) && (: <>"/dev/tcp/127.0.0.1/$candidate") 2>/dev/null; do :; done
    echo "$candidate"
}

data_of() { echo "$scratch/servers/$1"; }

# server_create NAME: a new cluster, not started, that lets in nobody by TCP.
server_create() {
    as_server "$bin/initdb" --no-sync --auth=trust --username=postgres -D "$(data_of "$1")" >"$scratch/$1.initdb"
    server_configure "$1" <<<"listen_addresses = '127.0.0.1'
        unix_socket_directories = '$scratch/servers'
        fsync = off
        max_wal_size = 64MB"
    hba "$1" <<<'local all,replication all trust'
}

# server_configure NAME: adds standard input to postgresql.conf.
server_configure() {
    local data
    data=$(data_of "$1")
    port[$1]=${port[$1]:-$(free_port)}
    { cat; echo "port = ${port[$1]}"; } >>"$data/postgresql.conf"
}

# hba NAME: standard input is the new pg_hba.conf.
hba() { cat >"$(data_of "$1")/pg_hba.conf"; }

# server_start NAME OPTION...
server_start() {
    local data
    data=$(data_of "$1")
    servers+=("$data")
    as_server "$bin/pg_ctl" start -w -D "$data" -l "$data/log" -o "${*:2}" >/dev/null ||
        fail "$1 does not start: $(tail "$data/log")"
}

# server_stop NAME MODE
server_stop() { as_server "$bin/pg_ctl" stop -w -m "$2" -D "$(data_of "$1")" >/dev/null; }

# copy_of NAME FROM OPTION...: a base backup of a running server, as a new one that is not started.
copy_of() {
    local name=$1 from=$2
    shift 2
    as_server "$bin/pg_basebackup" -h "$scratch/servers" -p "${port[$from]}" -U postgres -c fast -D "$(data_of "$name")" "$@"
    server_configure "$name" <<<''
}

# query NAME SQL: unaligned, columns separated as README.md writes them.
query() { "$psql" -XAtq -v ON_ERROR_STOP=1 -F ' | ' -h "$scratch/servers" -p "${port[$1]}" -U postgres -c "$2"; }

# run_sql NAME: each statement of standard input by itself.
run_sql() {
    "$psql" -XAtq -v ON_ERROR_STOP=1 -h "$scratch/servers" -p "${port[$1]}" -U postgres -f - >/dev/null ||
        fail "$1 refuses SQL of README.md"
}

# certificate NAME EXTENSION: NAME.crt and NAME.key in $etc, signed by root.crt there, which is made if it is not there.
certificate() (
    cd "$etc"
    exec 2>"$scratch/openssl.log"
    local key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
    [[ -e root.crt ]] || openssl req -x509 "${key[@]}" -keyout root.key -out root.crt -days 2 -subj '/CN=recipe'
    openssl req "${key[@]}" -keyout "$1.key" -out "$1.csr" -subj "/CN=$1"
    openssl x509 -req -in "$1.csr" -CA root.crt -CAkey root.key -CAcreateserial -days 2 -out "$1.crt" \
        -extfile <(echo "$2")
    chmod 600 "$1.key"
)

# server_certificate SERVER HOST: for clients that call it HOST, as server.crt and server.key of the data directory.
server_certificate() {
    local data
    data=$(data_of "$1")
    certificate "$2" "subjectAltName=DNS:$2"
    cp "$etc/$2.crt" "$data/server.crt"
    cp "$etc/$2.key" "$data/server.key"
    cp "$etc/root.crt" "$data/ca.crt"
    if ((EUID == 0)); then chown postgres "$data"/server.* "$data/ca.crt"; fi
}

# ---------------------------------------------------------------------------------------------------------
# walring

# password_file NAME: the block as /etc/walring/pgpass.
password_file() {
    block "$1" >"$etc/pgpass"
    chmod 600 "$etc/pgpass"
}

# walring_start NAME SERVER...: runs the command of the block, where its hosts are these servers.
walring_start() {
    local name=$1 server ports='' addresses=''
    shift
    for server; do ports+=,${port[$server]} addresses+=,127.0.0.1; done
    walring_log=$scratch/walring.log
    block "$name" >"$scratch/command"
    # `exec`, so that its process is walring.
    PGPORT=${ports#,} PGHOSTADDR=${addresses#,} bash -c "exec $(<"$scratch/command")" >>"$walring_log" 2>&1 &
    walring_pid=$!
    children+=("$walring_pid")
    say "\$ $(tr -s ' \\\n' ' ' <"$scratch/command")"
}

# walring_stop: by SIGTERM; it has to end well.
walring_stop() {
    local pid=$walring_pid
    walring_pid=''
    kill "$pid"
    wait "$pid" || fail "walring ended with exit code $?"
}

# commits SERVER: one commit, which has to return.
commits() {
    query "$1" 'create table if not exists t (i int)' 2>/dev/null
    timeout "$patience" "$psql" -XAtq -h "$scratch/servers" -p "${port[$1]}" -U postgres -c 'insert into t values (1)' ||
        fail "a commit on $1 does not return"
    say "a commit on $1 returns"
}

# commit_waits SERVER: one commit, which has to wait for a synchronous standby; its process is $commit_pid.
commit_waits() {
    query "$1" 'insert into t values (2)' 2>"$scratch/commit.log" &
    commit_pid=$!
    children+=("$commit_pid")
    until_true "$1: a commit waits" answers "$1" 1 \
        "select count(*) from pg_stat_activity where wait_event = 'SyncRep' and query like 'insert%'"
    say "a commit on $1 waits"
}

commit_returns() {
    wait "$commit_pid" || fail "the commit that waited has failed: $(<"$scratch/commit.log")"
    say 'the commit that waited returns'
}

# is_sound: what walring has stored, from its first to its last byte.
is_sound() {
    walring verify "$wal" >"$scratch/verify" || fail "walring verify: $(<"$scratch/verify")"
    say "$(sed -n '2,$p' "$scratch/verify" | tail -n 1)"
}
