#!/bin/bash
# README.md, "A primary whose commits wait for walring": a primary, walring by TLS and SCRAM, what commits do while it is
# away, and a restore from its directory. Installs nothing; needs PostgreSQL, psql and openssl. lib.sh says more.
# shellcheck source=tests/recipes/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

main() {
    need openssl setpriv
    begin
    primary
    receive
    while_walring_is_away
    restore
}

primary() {
    server_create db1
    server_certificate db1 db1
    block 'plain postgresql.conf' | server_configure db1
    { echo 'local all,replication all trust'; block 'plain pg_hba.conf'; } | hba db1
    server_start db1
    block 'plain role.sql' | run_sql db1
    copy_of restored db1 -X none
}

receive() {
    password_file 'plain pgpass'
    walring_start 'plain receive' db1
    until_true 'walring streams' answers db1 streaming 'select state from pg_stat_replication'
    block 'plain wait.sql' | run_sql db1
    holds db1 'plain see.sql'
    commits db1
}

# wait_for NAMES: sets synchronous_standby_names.
wait_for() {
    run_sql db1 <<<"alter system set synchronous_standby_names = '$1'; select pg_reload_conf();"
    until_true "db1 waits for '$1'" answers db1 "$1" 'show synchronous_standby_names'
    say "synchronous_standby_names = '$1'"
}

while_walring_is_away() {
    local other_pid
    mkdir "$disk/other"
    # Not a second walring: an ordinary user may not lock the memory for two.
    PGAPPNAME=other "$bin/pg_receivewal" --directory="$disk/other" --synchronous --status-interval=1 \
        --dbname="host=$scratch/servers port=${port[db1]} user=postgres" &
    other_pid=$!
    children+=("$other_pid")
    until_true 'the other streams' answers db1 1 "select count(*) from pg_stat_replication where application_name = 'other'"
    in_its_place
    walring_stop
    commit_waits db1
    [[ $(query db1 'select count(*) > 0 from t') == t ]] || fail 'a query does not go on'
    wait_for ''
    commit_returns
    wait_for walring
    commit_waits db1
    cancelled
    for names in 'FIRST 1 (walring, other)' 'ANY 1 (walring, other)'; do
        wait_for "$names"
        commits db1
    done
    for names in 'FIRST 2 (walring, other)' 'ANY 2 (walring, other)'; do
        wait_for "$names"
        commit_waits db1
        wait_for 'walring, other'
        commit_returns
    done
    kill -s INT "$other_pid"
    wait "$other_pid" || true
    wait_for walring
    commit_waits db1
    walring_start 'plain receive' db1
    commit_returns
    holds db1 'plain see.sql'
}

# FIRST 1 chooses walring while it is there, ANY 1 nobody.
in_its_place() {
    local states='select application_name, sync_state from pg_stat_replication order by 1'
    wait_for 'FIRST 1 (walring, other)'
    until_true 'the other is second' answers db1 $'other | potential\nwalring | sync' "$states"
    wait_for 'ANY 1 (walring, other)'
    until_true 'both are a quorum' answers db1 $'other | quorum\nwalring | quorum' "$states"
    commits db1
    wait_for walring
}

cancelled() {
    query db1 "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'" >/dev/null
    commit_returns
    grep -q 'canceling wait for synchronous replication' "$scratch/commit.log" || fail 'no warning of a cancelled wait'
}

restore() {
    local last
    last=$(query db1 'insert into t select count(*) from t returning i')
    server_stop db1 immediate
    walring_stop
    is_sound
    # The server is another user, who may not read what walring writes.
    cp -r "$wal" "$scratch/servers/wal"
    if ((EUID == 0)); then chown -R postgres "$scratch/servers/wal"; fi
    block 'plain restore.conf' | sed "s|$wal|$scratch/servers/wal|g" | server_configure restored
    server_configure restored <<<"synchronous_standby_names = ''"
    as_server touch "$(data_of restored)/recovery.signal"
    server_start restored
    until_true 'the restore is at its end' answers restored f 'select pg_is_in_recovery()'
    [[ $(query restored 'select max(i) from t') == "$last" ]] || fail 'the last commit is not in the restored server'
    say 'the restored server has every commit'
}

main
