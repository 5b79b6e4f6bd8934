//! `--synchronous` as a synchronous standby: commits return when, and as soon as, they are on walring's disk.
//!
//! The status interval is longer than any wait here, and the server never asks: what is acknowledged, is acknowledged
//! for its own sake.
mod common;

use common::receiver::{make_synchronous_as, wait_for_streaming};
use common::{Archive, Process, Server, ServerOptions, walring};

const SLOW_STATUS: &[&str] = &["--synchronous", "-s", "60"];

#[test]
fn commits_return() {
    let (server, archive) = (silent_server(), Archive::new());
    let receiver = synchronous(&server, &archive, "receiver");
    server.sql("create table t (i int)");
    for i in 0..20 {
        server.sql(&format!("insert into t values ({i})"));
    }
    let end = server.flush_lsn();
    receiver.kill();
    archive.assert_holds(&server, 1, end);
}

#[test]
fn commits_return_and_a_signal_ends_it_while_it_spins() {
    for spin in ["--spin-us=auto", "--spin-us=1000000"] {
        let (server, archive) = (silent_server(), Archive::new());
        server.pgbench_init();
        let receiver = synchronous_with(&server, &archive, "receiver", &[SLOW_STATUS, &[spin]].concat());
        let load = server.start_pgbench(&["-n", "-c", "2", "-t", "500"]);
        load.finish().assert_success();
        let end = server.flush_lsn();
        receiver.stop().assert_success();
        archive.assert_holds(&server, 1, end);
    }
}

#[test]
fn commits_of_many_clients_return() {
    let (server, archive) = (silent_server(), Archive::new());
    server.pgbench_init();
    let _receiver = synchronous(&server, &archive, "receiver");
    server
        .start_pgbench(&["-n", "-c", "8", "-t", "100"])
        .finish()
        .assert_success();
}

#[test]
fn commits_return_across_segment_boundaries() {
    let (server, archive) = (silent_server(), Archive::new());
    let _receiver = synchronous(&server, &archive, "receiver");
    for _ in 0..10 {
        server.write_wal(700);
    }
}

#[test]
fn a_stream_that_ends_on_a_segment_boundary_is_acknowledged_at_once() {
    let (server, archive) = (silent_server(), Archive::new());
    let _receiver = walring(&server, &archive, SLOW_STATUS);
    wait_for_streaming(&server);
    let mut before_anything_else = 0;
    for _ in 0..5 {
        let boundary = server.switch_wal();
        server.wait_flushed(boundary);
        // The server itself writes something every 15 seconds: what waits for that is not acknowledged at once.
        before_anything_else += u32::from(server.flush_lsn() == boundary);
    }
    assert!(before_anything_else >= 3, "only {before_anything_else} of 5");
}

#[test]
fn a_commit_beside_a_segment_switch_returns_at_once() {
    let (server, archive) = (silent_server(), Archive::new());
    let _receiver = synchronous(&server, &archive, "receiver");
    server.sql("create table t (i int)");
    for _ in 0..20 {
        let commit = server.start_sql("insert into t values (1)");
        let switch = server.start_sql("select pg_switch_wal()");
        commit.finish().assert_success();
        switch.finish().assert_success();
    }
}

#[test]
fn a_quorum_counts_it() {
    let (server, archive) = (silent_server(), Archive::new());
    let _receiver = synchronous(&server, &archive, "ANY 1 (receiver, absent)");
    server.sql("create table t (i int)");
    assert_eq!(server.receiver_column("sync_state").as_deref(), Some("quorum"));
}

#[test]
fn remote_write_returns_and_apply_is_never_claimed() {
    let (server, archive) = (silent_server(), Archive::new());
    let _receiver = synchronous(&server, &archive, "receiver");
    server.sql("set synchronous_commit = remote_write; create table t (i int)");
    assert_eq!(server.receiver_column("replay_lsn"), None);
}

#[test]
fn an_idle_stream_outlives_the_servers_timeout() {
    let server = ServerOptions::default().config("wal_sender_timeout = 3s").start();
    let archive = Archive::new();
    let receiver = synchronous(&server, &archive, "receiver");
    let walsender = server.receiver_column("pid");
    let pinged = |count: &str| {
        server.sql(&format!(
            "select count(*) >= {count} from pg_stat_replication, pg_sleep(0.5)"
        ))
    };
    for _ in 0..16 {
        pinged("1");
    }
    assert_eq!(
        server.receiver_column("pid"),
        walsender,
        "{:#?}",
        receiver.stderr()
    );
}

/// A server that never asks for a status.
fn silent_server() -> Server {
    ServerOptions::default().config("wal_sender_timeout = 0").start()
}

fn synchronous(server: &Server, archive: &Archive, names: &str) -> Process {
    synchronous_with(server, archive, names, SLOW_STATUS)
}

fn synchronous_with(server: &Server, archive: &Archive, names: &str, options: &[&str]) -> Process {
    let receiver = walring(server, archive, options);
    make_synchronous_as(server, names);
    receiver
}
