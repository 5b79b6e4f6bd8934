//! Replication slots: made, dropped, used; what keeps WAL on the server moves on.
mod common;

use common::process::Exit;
use common::receiver::{aim, streaming, wait_for_streaming, walring_command};
use common::wait::{until, within};
use common::{Archive, Process, Server, ServerOptions, program, walring};
use std::path::Path;
use std::time::Duration;

#[test]
fn a_slot_is_created_without_reserving_wal_and_dropped_again() {
    let server = Server::start();
    act(&server, &["--create-slot", "--slot=s1"]).assert_success();
    let query = "select slot_type, restart_lsn is null from pg_replication_slots where slot_name = 's1'";
    assert_eq!(server.sql(query), "physical|t");
    act(&server, &["--drop-slot", "--slot=s1"]).assert_success();
    assert_eq!(server.sql("select count(*) from pg_replication_slots"), "0");
}

#[test]
fn a_slot_that_exists_is_an_error_unless_that_was_expected() {
    let server = Server::start();
    act(&server, &["--create-slot", "--slot=s1"]).assert_success();
    let again = act(&server, &["--create-slot", "--slot=s1"]);
    again.assert_error(&program::error(
        "could not send replication command \"CREATE_REPLICATION_SLOT \"s1\" PHYSICAL\": \
         ERROR:  replication slot \"s1\" already exists",
    ));
    act(&server, &["--create-slot", "--if-not-exists", "--slot=s1"]).assert_success();
}

#[test]
fn dropping_a_missing_slot_is_an_error() {
    let exit = act(&Server::start(), &["--drop-slot", "--slot=s1"]);
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    assert!(
        exit.has_line_with(&["error: ", "replication slot \"s1\" does not exist"]),
        "{exit:#?}"
    );
}

#[test]
fn a_missing_slot_is_never_made_silently() {
    let (server, archive) = (Server::start(), Archive::new());
    let exit = walring(&server, &archive, &["-n", "--slot=nonexistentslot"]).finish();
    exit.assert_error(&program::error(
        "replication slot \"nonexistentslot\" does not exist",
    ));
    assert!(archive.names().is_empty());
}

#[test]
fn a_slot_in_use_is_refused() {
    let (server, first, second) = (Server::start(), Archive::new(), Archive::new());
    act(&server, &["--create-slot", "--slot=s1"]).assert_success();
    let _user = walring(&server, &first, &["--slot=s1"]);
    wait_for_streaming(&server);
    let exit = walring(&server, &second, &["-n", "--slot=s1"]).finish();
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    assert!(
        exit.has_line_with(&["error: ", "replication slot \"s1\" is active for PID"]),
        "{exit:#?}"
    );
}

#[test]
fn an_empty_directory_starts_where_the_slot_keeps_wal() {
    let server = Server::start();
    let archive = Archive::new();
    server.sql("select pg_create_physical_replication_slot('s1', true)");
    let first = server
        .slot_restart_lsn("s1")
        .unwrap()
        .segment_name(1, server.segment_bytes());
    server.switch_wal();
    let end = server.switch_wal();
    server.write_wal(10);
    let endpos = end.to_string();
    walring(
        &server,
        &archive,
        &["-n", "--no-sync", "--slot=s1", "--endpos", &endpos],
    )
    .finish()
    .assert_success();
    assert_eq!(archive.segments().first(), Some(&first));
    archive.assert_holds(&server, 1, end);
}

#[test]
fn a_finished_segment_moves_the_slot_on_without_synchronous() {
    let (server, archive) = (Server::start(), Archive::new());
    let _receiver = with_slot(&server, &archive, &["-s", "1"]);
    let end = server.switch_wal();
    wait_for_slot(&server, end);
}

#[test]
fn a_quiet_stream_moves_the_slot_on_without_synchronous() {
    let (server, archive) = (Server::start(), Archive::new());
    let _receiver = with_slot(&server, &archive, &["-s", "1"]);
    let end = server.write_wal(10);
    wait_for_slot(&server, end);
}

#[test]
fn no_sync_moves_the_slot_on_at_finished_segments_only() {
    let (server, archive) = (Server::start(), Archive::new());
    let _receiver = with_slot(&server, &archive, &["-s", "1", "--no-sync"]);
    let boundary = server.switch_wal();
    wait_for_slot(&server, boundary);
    let end = server.write_wal(100);
    server.wait_reported("write_lsn", end);
    server.wait_reported("flush_lsn", boundary);
    let flushed = server.receiver_column("flush_lsn").unwrap();
    assert_eq!(
        flushed,
        boundary.to_string(),
        "reported as flushed without a sync"
    );
}

#[test]
fn without_a_slot_and_without_synchronous_nothing_is_reported_as_flushed() {
    let server = ServerOptions::default()
        .config("synchronous_standby_names = '*'")
        .start();
    let archive = Archive::new();
    let _receiver = walring(&server, &archive, &["-s", "1"]);
    let end = server
        .sql("set synchronous_commit = local; select pg_switch_wal()")
        .parse()
        .unwrap();
    server.wait_reported("write_lsn", end);
    // The state is decided by what was reported; it must not change with later reports either.
    let claimed = within(Duration::from_secs(2), || server.receiver_column("flush_lsn"));
    assert_eq!(claimed, None);
    assert_eq!(server.receiver_column("sync_state").as_deref(), Some("async"));
}

#[test]
fn wal_the_server_has_removed_is_an_error_in_its_words() {
    let server = ServerOptions::default().keeping_little_wal().start();
    let archive = Archive::new();
    let receiver = streaming(&server, &archive);
    server.wait_flushed(server.write_wal(10));
    receiver.stop();
    server.remove_wal_behind(archive.names().last().unwrap());
    let exit = walring(&server, &archive, &["-n"]).finish();
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    assert!(
        exit.has_line_with(&["error: ", "has already been removed"]),
        "{exit:#?}"
    );
}

/// Runs a slot action; these need no directory.
fn act(server: &Server, arguments: &[&str]) -> Exit {
    let mut command = aim(program::receive(), server, Path::new("/nonexistent"), &[]);
    command.args(arguments);
    Process::spawn(command).finish()
}

fn with_slot(server: &Server, archive: &Archive, arguments: &[&str]) -> Process {
    server.sql("select pg_create_physical_replication_slot('s1')");
    let mut command = walring_command(server, archive, arguments);
    command.arg("--slot=s1");
    let receiver = Process::spawn(command);
    wait_for_streaming(server);
    receiver
}

fn wait_for_slot(server: &Server, position: common::Lsn) {
    until("the slot moves on", || {
        server.slot_restart_lsn("s1").filter(|lsn| *lsn >= position)
    });
}
