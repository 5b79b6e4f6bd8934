#!/bin/bash
# README.md, "Patroni": two members on etcd, walring as the synchronous standby of whichever is the primary, through a
# switchover and a failover; what synchronous_mode makes of synchronous_standby_names.
#
# Installs Patroni (from PyPI, into a virtual environment) and etcd (from the distribution's package, which is only unpacked)
# into a cache directory and nowhere else. Needs PostgreSQL, psql, openssl and python3. lib.sh says more.
# shellcheck source=tests/recipes/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

patroni_version=4.1.5
declare -A patroni_pid   # of each member that runs

main() {
    need openssl setpriv python3
    begin
    knows_target_session_attrs
    install_patroni
    install_etcd
    start_cluster
    receive
    switchover
    both_wait
    synchronous_mode
    failover
    is_sound
}

# Without it walring may go to a standby, and commits wait for ever.
knows_target_session_attrs() {
    walring receive --no-loop --directory="$wal" --dbname='host=/nowhere target_session_attrs=read-write' 2>"$scratch/refused" ||
        ! grep -q target_session_attrs "$scratch/refused" || skip 'this walring has no target_session_attrs'
}

install_patroni() {
    local python
    patroni=$cache/patroni-$patroni_version
    [[ ! -x $patroni/bin/patronictl ]] || return 0
    # The user of the servers has to reach the interpreter; one in root's home is out of reach.
    for python in "$(command -v python3)" /usr/bin/python3 ''; do
        [[ -n $python ]] || skip 'no python3 with venv that the user of the servers can run'
        ! as_server "$python" -c 'import venv, ensurepip' 2>/dev/null || break
    done
    mkdir -p "$cache"
    say "installing patroni[etcd3,psycopg3]==$patroni_version into $patroni"
    # Its programs name the directory they are installed in, so it cannot be moved there when it is done.
    "$python" -m venv "$patroni" && "$patroni/bin/pip" install --quiet --disable-pip-version-check \
        "patroni[etcd3,psycopg3]==$patroni_version" >&2 || { rm -rf "$patroni"; skip 'Patroni cannot be installed here'; }
    chmod -R a+rX "$patroni"
}

install_etcd() {
    etcd=$(command -v etcd) || etcd=$cache/etcd/usr/bin/etcd
    [[ ! -x $etcd ]] || return 0
    command -v apt-get >/dev/null || skip 'no etcd'
    say "unpacking the package etcd-server into $cache/etcd"
    (cd "$scratch" && apt-get download -qq etcd-server >&2 && dpkg-deb -x etcd-server_*.deb "$cache/etcd") ||
        skip 'no etcd, and its package cannot be fetched (apt-get update may help)'
}

# background COMMAND...: as the servers' user, until the end; its process is $!, for setpriv and env become the command.
background() {
    "${server_user[@]}" "$@" >>"$scratch/servers/${1##*/}.log" 2>&1 &
    children+=("$!")
}

start_cluster() {
    local peer
    etcd_port=$(free_port)
    peer=$(free_port)
    background "$etcd" --data-dir "$scratch/servers/etcd" --listen-client-urls "http://127.0.0.1:$etcd_port" \
        --advertise-client-urls "http://127.0.0.1:$etcd_port" --listen-peer-urls "http://127.0.0.1:$peer" \
        --initial-advertise-peer-urls "http://127.0.0.1:$peer" --initial-cluster "default=http://127.0.0.1:$peer"
    member_create pg1
    member_create pg2
    member_start pg1
    until_true 'pg1 is the primary' answers pg1 f 'select pg_is_in_recovery()'
    member_start pg2
    until_true 'pg2 is its standby' answers pg1 'pg2 | streaming' 'select application_name, state from pg_stat_replication'
    say "Patroni $patroni_version: pg1 is the primary, pg2 its standby"
}

# member_create NAME: its configuration and certificate.
member_create() {
    local key
    port[$1]=$(free_port)
    certificate "$1" "subjectAltName=DNS:$1"
    for key in "$1.crt" "$1.key"; do cp "$etc/$key" "$scratch/servers/$key"; done
    if ((EUID == 0)); then chown postgres "$scratch/servers/$1".*; fi
    member_configuration "$1" >"$scratch/servers/$1.yaml"
}

member_configuration() {
    local rest
    rest=127.0.0.1:$(free_port)
    cat <<END
scope: recipe
name: $1
restapi: {listen: '$rest', connect_address: '$rest'}
etcd3: {host: '127.0.0.1:$etcd_port'}
bootstrap:
  dcs: {ttl: 20, loop_wait: 1, retry_timeout: 5, postgresql: {use_pg_rewind: true}}
postgresql:
  listen: 127.0.0.1:${port[$1]}
  connect_address: 127.0.0.1:${port[$1]}
  data_dir: $(data_of "$1")
  bin_dir: $bin
  pgpass: $scratch/servers/$1.pgpass
  authentication:
    superuser: {username: postgres, password: of-postgres}
    replication: {username: replicator, password: of-replicator}
  parameters:
    unix_socket_directories: $scratch/servers
    fsync: 'off'
    wal_log_hints: 'on'
    ssl: 'on'
    ssl_cert_file: $scratch/servers/$1.crt
    ssl_key_file: $scratch/servers/$1.key
  pg_hba:
  - local all,replication all trust
  - host all postgres 127.0.0.1/32 scram-sha-256
  - host replication replicator 127.0.0.1/32 scram-sha-256
  - $(block 'patroni pg_hba.conf')
END
}

member_start() {
    servers+=("$(data_of "$1")")
    background "$patroni/bin/patroni" "$scratch/servers/$1.yaml"
    patroni_pid[$1]=$!
}

member_stop() {
    kill "${patroni_pid[$1]}"
    wait "${patroni_pid[$1]}" || true
}

control() {
    "$patroni/bin/patronictl" -c "$scratch/servers/pg1.yaml" "$@" >"$scratch/patronictl.log" 2>&1 ||
        fail "patronictl $*: $(<"$scratch/patronictl.log")"
}

# edit_config: what an operator types into the editor of `patronictl edit-config` is standard input here.
edit_config() { control edit-config --force --apply -; }

receive() {
    block 'patroni slot.yaml' | edit_config
    block 'patroni role.sql' | run_sql pg1
    until_true 'pg1 has the slot' answers pg1 1 "select count(*) from pg_replication_slots where slot_name = 'walring'"
    password_file 'patroni pgpass'
    walring_start 'patroni receive' pg1 pg2
    until_true 'walring streams' answers pg1 streaming "select state from pg_stat_replication where application_name = 'walring'"
    block 'patroni wait.yaml' | edit_config
    holds pg1 'patroni see.sql'
    commits pg1
}

switchover() {
    until_true 'pg2 has the slot, too' answers pg2 'walring | f' \
        "select slot_name, active from pg_replication_slots where slot_name = 'walring'"
    control switchover recipe --leader pg1 --candidate pg2 --force
    until_true 'pg2 is the primary' answers pg2 f 'select pg_is_in_recovery()'
    holds pg2 'patroni see.sql'
    commits pg2
    # pg1 is a standby now, and the first in the list: without target_session_attrs a start would stay with it.
    until_true 'pg1 follows' answers pg2 streaming "select state from pg_stat_replication where application_name = 'pg1'"
    walring_stop
    walring_start 'patroni receive' pg1 pg2
    holds pg2 'patroni see.sql'
}

# walring and a member: a commit is on both, so that a failover to that member loses none.
both_wait() {
    block 'patroni both.yaml' | edit_config
    holds pg2 'patroni both.sql'
    commits pg2
}

# Patroni names its own members only, or, where it is strict and has none, everybody.
synchronous_mode() {
    local names='show synchronous_standby_names' walring="select sync_state from pg_stat_replication
        where application_name = 'walring'"
    edit_config <<<'synchronous_mode: true'
    until_true 'Patroni names pg1 only' answers pg2 pg1 "$names"
    until_true 'walring is asynchronous' answers pg2 async "$walring"
    edit_config <<<'synchronous_mode: quorum'
    # Five turns of Patroni's loop.
    sleep 5
    answers pg2 async "$walring" || fail 'in quorum mode walring is not asynchronous'
    edit_config <<<'synchronous_mode: true'
    member_stop pg1
    until_true 'Patroni names nobody' answers pg2 '' "$names"
    edit_config <<<'synchronous_mode_strict: true'
    until_true 'Patroni names everybody' answers pg2 '*' "$names"
    until_true 'walring is synchronous' answers pg2 sync "$walring"
    commits pg2
    member_start pg1
    until_true 'Patroni names pg1 again' answers pg2 pg1 "$names"
    edit_config <<<'synchronous_mode_strict: null'
    block 'patroni wait.yaml' | edit_config
    holds pg2 'patroni see.sql'
    say 'with synchronous_mode Patroni names members, or *'
}

failover() {
    kill -s KILL "${patroni_pid[pg2]}"
    wait "${patroni_pid[pg2]}" 2>/dev/null || true
    server_stop pg2 immediate
    until_true 'pg1 is the primary' answers pg1 f 'select pg_is_in_recovery()'
    holds pg1 'patroni see.sql'
    commits pg1
    walring_stop
}

main
