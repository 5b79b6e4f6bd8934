#!/bin/bash
# README.md, "CloudNativePG", as far as it can be run without Kubernetes: PostgreSQL servers with the settings, the pg_hba.conf
# and the certificates that the operator gives them, walring as `streaming_replica`. What the operator does (it moves the
# service to the new primary, and keeps the slot on its replicas) is done here by hand.
# Installs nothing; needs PostgreSQL, psql and openssl. lib.sh says more.
# shellcheck source=tests/recipes/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

first=cluster-example-1 second=cluster-example-2 third=cluster-example-3

main() {
    need openssl setpriv
    begin
    cluster
    wrong_certificates
    receive
    renewed_certificates
    failover
    is_sound
}

cluster() {
    server_create $first
    operator_certificates $first
    block 'cnpg postgresql.conf' | server_configure $first
    { echo 'local all,replication all trust'; block 'cnpg pg_hba.conf'; } | hba $first
    # Of itself the operator waits for nobody before there is a replica.
    server_start $first -c "synchronous_standby_names=''"
    run_sql $first <<<'create role streaming_replica with login replication;'
    block 'cnpg slot.sql' | run_sql $first
    replica $second $first
    replica $third $first
}

# operator_certificates SERVER: one CA for the servers and the clients; the service's name in the server's certificate.
operator_certificates() {
    server_certificate "$1" cluster-example-rw
    [[ ! -e $etc/tls.crt ]] || return 0
    certificate streaming_replica 'extendedKeyUsage=clientAuth'
    mv "$etc/streaming_replica.crt" "$etc/tls.crt"
    mv "$etc/streaming_replica.key" "$etc/tls.key"
    cp "$etc/root.crt" "$etc/ca.crt"
}

# replica NAME FROM: with the slot that the operator keeps there, too.
replica() {
    copy_of "$1" "$2" --write-recovery-conf
    server_configure "$1" <<<"cluster_name = '$1'"
    server_start "$1"
    block 'cnpg slot.sql' | run_sql "$1"
    until_true "$1 streams" answers "$2" streaming "select state from pg_stat_replication where application_name = '$1'"
}

receive() {
    walring_start 'cnpg receive' $first
    until_true 'walring streams' answers $first streaming "select state from pg_stat_replication where application_name = 'walring'"
    server_stop $first fast
    server_start $first
    holds $first 'cnpg see.sql'
    commits $first
    outlives_the_senders_timeout
}

# The operator's wal_sender_timeout is half of walring's status interval: the server asks, and is answered.
outlives_the_senders_timeout() {
    local walsender="select pid from pg_stat_replication where application_name = 'walring'" pid
    pid=$(query $first "$walsender")
    sleep 7
    answers $first "$pid" "$walsender" || fail 'the server has ended the stream in the meantime'
}

# The operator renews certificates: the next connection is made with what is in the file then.
renewed_certificates() {
    local serial='select client_serial from pg_stat_ssl join pg_stat_replication using (pid)' before
    serial+=" where application_name = 'walring'"
    before=$(query $first "$serial")
    certificate streaming_replica 'extendedKeyUsage=clientAuth'
    mv "$etc/streaming_replica.key" "$etc/tls.key"
    mv "$etc/streaming_replica.crt" "$etc/tls.crt"
    query $first "select pg_terminate_backend(pid) from pg_stat_replication where application_name = 'walring'" >"$scratch/ended"
    until_true 'walring comes with the new certificate' differs "$before" "$serial"
    say 'a renewed certificate is used'
}

differs() {
    local now
    now=$(query $first "$2")
    [[ -n $now && $now != "$1" ]]
}

# Another client's certificate does not do, nor does a server of another name.
wrong_certificates() {
    certificate somebody 'extendedKeyUsage=clientAuth'
    refused 'certificate authentication failed' -e "s|$etc/tls\.|$etc/somebody.|g"
    refused 'cluster-example-ro' -e 's|host=cluster-example-rw|host=cluster-example-ro|'
}

# refused WHY CHANGE: the command of README.md, changed, ends with a message about it.
refused() {
    local why=$1
    shift
    block 'cnpg receive' | sed -e "s|$wal|$disk/refused|; s|walring receive|& --no-loop|" "$@" >"$scratch/command"
    mkdir -p "$disk/refused"
    if PGPORT=${port[$first]} PGHOSTADDR=127.0.0.1 timeout "$patience" bash "$scratch/command" 2>"$scratch/refused"; then
        fail "not refused: $(<"$scratch/command")"
    fi
    grep -q "$why" "$scratch/refused" || fail "refused otherwise: $(<"$scratch/refused")"
    say "$(head -n 1 "$scratch/refused")"
}

failover() {
    local service=${port[$first]}
    commits_wait_for_both
    server_stop $first immediate
    server_stop $second fast
    # From here on the service, the address that walring knows, is the second.
    port[$second]=$service
    server_configure $second <<<''
    server_start $second
    run_sql $second <<<'select pg_promote();'
    until_true 'walring has followed the service' answers $second sync \
        "select sync_state from pg_stat_replication where application_name = 'walring'"
    [[ -e $wal/00000002.history ]] || fail 'no history of timeline 2'
    operator_lists $second '"walring","cluster-example-3"'
    server_configure $third <<<"primary_conninfo = 'host=$scratch/servers port=${port[$second]} user=postgres'"
    run_sql $third <<<'alter system reset primary_conninfo; select pg_reload_conf();'
    holds $second 'cnpg see.sql'
    commits $second
    walring_stop
    commit_waits $second
    walring_start 'cnpg receive' $second
    commit_returns
    walring_stop
}

# operator_lists SERVER NAMES: what the operator does when the health of its instances changes.
operator_lists() {
    server_configure "$1" <<<"synchronous_standby_names = 'FIRST 2 ($2)'"
    run_sql "$1" <<<'select pg_reload_conf();'
    until_true "$1 waits for $2" answers "$1" "FIRST 2 ($2)" 'show synchronous_standby_names'
}

# For walring and one replica, and for two replicas while walring is away, if both are listed.
commits_wait_for_both() {
    server_stop $second fast
    commit_waits $first
    server_start $second
    commit_returns
    walring_stop
    commit_waits $first
    operator_lists $first '"walring","cluster-example-2","cluster-example-3"'
    commit_returns
    commits $first
    operator_lists $first '"cluster-example-2","cluster-example-3","walring"'
    server_stop $second fast
    commit_waits $first
    walring_start 'cnpg receive' $first
    commit_returns
    operator_lists $first '"walring","cluster-example-2"'
    server_start $second
    commits $first
}

main
