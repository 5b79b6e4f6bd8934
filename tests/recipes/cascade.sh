#!/bin/bash
# README.md, "A standby as the source": a primary, two standbys, walring that receives from one of them; first the other is
# promoted, then this one. Installs nothing; needs PostgreSQL and psql. lib.sh says more.
# shellcheck source=tests/recipes/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

main() {
    need setpriv
    begin
    primary_and_standbys
    without_hot_standby
    receive
    nobody_waits
    without_a_slot
    another_is_promoted
    the_source_is_promoted
}

primary_and_standbys() {
    local standby
    server_create db1
    server_start db1
    block 'cascade role.sql' | run_sql db1
    for standby in db2 db3; do
        copy_of $standby db1 --slot=$standby --create-slot --write-recovery-conf
        { echo 'local all,replication all trust'; block 'cascade pg_hba.conf'; } | hba $standby
        server_configure $standby <<<"cluster_name = '$standby'"
    done
    block 'cascade postgresql.conf' | server_configure db2
    server_start db3
    run_sql db1 <<<"alter system set synchronous_standby_names = 'FIRST 2 (db2, db3)'; select pg_reload_conf();"
}

without_hot_standby() {
    server_start db2 -c hot_standby=off
    query db2 'select 1' 2>"$scratch/refused" && fail 'a standby lets in with hot_standby = off'
    grep -q 'not accepting connections\|Hot standby mode is disabled' "$scratch/refused" || fail "$(<"$scratch/refused")"
    server_stop db2 fast
    server_start db2
    commits db1
}

receive() {
    block 'cascade slot.sql' | run_sql db2
    password_file 'cascade pgpass'
    walring_start 'cascade receive' db2
    holds db2 'cascade see.sql'
    commits db1
}

# walring is asynchronous here, whatever db2 was told, and the primary knows nothing of it.
nobody_waits() {
    answers db1 $'db2\ndb3' 'select slot_name from pg_replication_slots order by 1' || fail 'db1 has a slot of walring'
    answers db2 walring 'show synchronous_standby_names' || fail 'db2 does not name walring'
    walring_stop
    commits db1
    walring_start 'cascade receive' db2
    until_true 'walring streams again' acknowledged db2 db1
}

# acknowledged SOURCE PRIMARY: SOURCE has heard from walring that all of PRIMARY's WAL is durable.
acknowledged() {
    answers "$1" t "select flush_lsn >= '$(query "$2" 'select pg_current_wal_flush_lsn()')' from pg_stat_replication
        where application_name = 'walring'"
}

# The standby's own wal_keep_size counts, the primary's does not.
without_a_slot() {
    local oldest
    archive
    run_sql db2 <<<"alter system set wal_keep_size = '1GB'; select pg_reload_conf();"
    segments_go_by
    archive
    run_sql db2 <<<"alter system set wal_keep_size = 0; select pg_reload_conf();"
    run_sql db1 <<<"alter system set wal_keep_size = '1GB'; select pg_reload_conf();"
    oldest=$(ls "$disk/other" | grep partial)
    until_true "${oldest%.partial} is removed" removed "${oldest%.partial}"
    if archive 2>"$scratch/removed"; then fail 'db2 keeps WAL that nothing asks it to keep'; fi
    grep -q 'has already been removed' "$scratch/removed" || fail "$(<"$scratch/removed")"
    say 'without a slot wal_keep_size of the standby counts'
}

# archive: receives into another directory until now, without a slot. It ends when WAL behind the end position has come. Not a
# second walring: an ordinary user may not lock the memory for two.
archive() {
    local now
    mkdir -p "$disk/other"
    now=$(query db1 'select pg_current_wal_flush_lsn()')
    commits db1
    "$bin/pg_receivewal" --no-loop --directory="$disk/other" --endpos="$now" \
        --dbname="host=$scratch/servers port=${port[db2]} user=postgres application_name=other"
}

segments_go_by() {
    local i
    for i in 1 2 3; do run_sql db1 <<<'insert into t values (3); select pg_switch_wal();'; done
    run_sql db1 <<<'checkpoint; insert into t values (4);'
    run_sql db2 <<<'checkpoint;'
}

# removed SEGMENT: by db2, which does so behind a checkpoint that it has replayed and walring's slot has passed.
removed() {
    segments_go_by
    [[ ! -e $(data_of db2)/pg_wal/$1 ]]
}

another_is_promoted() {
    local walsender
    walsender=$(walsender_of_walring)
    server_stop db1 immediate
    run_sql db3 <<<"select pg_create_physical_replication_slot('db2'); select pg_promote();"
    server_configure db2 <<<"primary_conninfo = 'host=$scratch/servers port=${port[db3]} user=postgres'"
    run_sql db2 <<<"alter system reset all; select pg_reload_conf();"
    commits db3
    until_true 'walring follows db2 to timeline 2' acknowledged db2 db3
    [[ -e $wal/00000002.history ]] || fail 'no history of timeline 2'
    [[ $(walsender_of_walring) == "$walsender" ]] || fail 'walring has connected again'
    say 'walring has followed its source to timeline 2'
}

walsender_of_walring() { query db2 "select pid from pg_stat_replication where application_name = 'walring'"; }

the_source_is_promoted() {
    local walsender
    walsender=$(walsender_of_walring)
    server_stop db3 immediate
    block 'cascade promote.sql' | run_sql db2
    holds db2 'cascade after.sql'
    commits db2
    [[ $(walsender_of_walring) == "$walsender" ]] || fail 'walring has connected again'
    [[ -e $wal/00000003.history ]] || fail 'no history of timeline 3'
    walring_stop
    commit_waits db2
    walring_start 'cascade receive' db2
    commit_returns
    walring_stop
    is_sound
}

main
