//! `--endpos`: receive up to a position, then end with success.
mod common;

use common::receiver::wait_for_streaming;
use common::{Archive, Server, ServerOptions, walring};

#[test]
fn it_ends_behind_the_position_and_leaves_one_partial() {
    let (server, archive) = (Server::start(), Archive::new());
    server.sql("create table test_table (x int)");
    server.switch_wal();
    let end = server.flush_lsn();
    server.sql("insert into test_table values (1)");
    let arguments = ["--endpos", &end.to_string(), "--synchronous", "--no-loop", "-v"];
    walring(&server, &archive, &arguments).finish().assert_success();
    assert_eq!(archive.partials().len(), 1, "{:?}", archive.names());
}

#[test]
fn the_next_run_finishes_the_partial() {
    let (server, archive) = (Server::start(), Archive::new());
    let first = server.write_wal(10);
    server.write_wal(10);
    walring(&server, &archive, &["-n", "--endpos", &first.to_string()])
        .finish()
        .assert_success();
    let partial = archive.partials().remove(0);
    let second = server.switch_wal();
    server.write_wal(10);
    walring(&server, &archive, &["-n", "--endpos", &second.to_string()])
        .finish()
        .assert_success();
    assert_eq!(archive.segments(), [partial.trim_end_matches(".partial")]);
    archive.assert_holds(&server, 1, second);
}

#[test]
fn a_position_that_is_already_behind_ends_at_once() {
    let (server, archive) = (Server::start(), Archive::new());
    server.switch_wal();
    walring(&server, &archive, &["--endpos", "0/1"])
        .finish()
        .assert_success();
}

#[test]
fn the_position_the_server_has_reached_is_waited_behind() {
    let (server, archive) = (Server::start(), Archive::new());
    let end = server.flush_lsn();
    let mut receiver = walring(
        &server,
        &archive,
        &["--synchronous", "--endpos", &end.to_string()],
    );
    wait_for_streaming(&server);
    server.wait_flushed(end);
    assert!(receiver.is_running());
    server.write_wal(1);
    receiver.finish().assert_success();
}

#[test]
fn what_was_received_is_on_disk_when_it_ends() {
    let (server, archive) = (Server::start(), Archive::new());
    let start = server.flush_lsn().to_string();
    let middle = server.write_wal(2500);
    server.write_wal(100);
    let start = ["--start-lsn", &start, "--endpos", &middle.to_string(), "-n"];
    walring(&server, &archive, &start).finish().assert_success();
    archive.assert_holds(&server, 1, middle);
}

#[test]
fn a_catch_up_from_an_empty_directory_ends_by_itself() {
    for segment_mb in [1, 16] {
        let (server, archive) = (
            ServerOptions::default().segment_mb(segment_mb).start(),
            Archive::new(),
        );
        server.sql("select pg_create_physical_replication_slot('s1', true)");
        let end = server.write_wal(5 * segment_mb * 1024 + 100);
        server.write_wal(10);
        walring(&server, &archive, &["--slot=s1", "--endpos", &end.to_string()])
            .finish()
            .assert_success();
        assert!(archive.segments().len() >= 5, "{:?}", archive.names());
        archive.assert_holds(&server, 1, end);
    }
}
