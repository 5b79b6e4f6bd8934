//! The end of the stream: the server's, in each of its ways, and walring's own.
mod common;

use rustix::process::Signal;

use common::receiver::{streaming, wait_for_nobody, wait_for_streaming};
use common::{Archive, Lsn, Process, Server, program, walring};

#[test]
fn a_fast_shutdown_under_load_gets_its_final_flush_and_ends_the_stream() {
    let (server, archive) = (Server::start(), Archive::new());
    server.pgbench_init();
    let receiver = walring(&server, &archive, &["--synchronous", "-n"]);
    wait_for_streaming(&server);
    let _load = server.start_pgbench(&["-n", "-c", "4", "-T", "60"]);
    server.wait_flushed(server.write_wal(1000));
    server.stop_fast();
    let exit = receiver.finish();
    exit.assert_error(&program::error(
        "replication stream was terminated before stop point",
    ));
    exit.assert_error(&program::error("disconnected"));
    archive.assert_holds(&server, 1, last_checkpoint(&server));
}

#[test]
fn a_fast_shutdown_ends_without_synchronous_too() {
    for arguments in [&["-n"][..], &["-n", "--no-sync"]] {
        let (server, archive) = (Server::start(), Archive::new());
        let receiver = walring(&server, &archive, arguments);
        wait_for_streaming(&server);
        let end = server.write_wal(100);
        server.stop_fast();
        receiver.finish().assert_error(&program::error("disconnected"));
        archive.assert_holds(&server, 1, end);
    }
}

#[test]
fn it_goes_on_after_restarts_of_the_server() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = streaming(&server, &archive);
    for _ in 0..3 {
        server.write_wal(1500);
        server.restart();
    }
    let end = server.write_wal(100);
    server.wait_flushed(end);
    receiver.stop();
    archive.assert_holds(&server, 1, end);
}

#[test]
fn an_immediate_stop_is_a_lost_connection() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = walring(&server, &archive, &["--synchronous", "-n"]);
    wait_for_streaming(&server);
    server.stop_immediate();
    let exit = receiver.finish();
    exit.assert_error(&program::error("disconnected"));
    assert!(
        exit.has_line_with(&["error: ", "server closed the connection unexpectedly"]),
        "{exit:#?}"
    );
}

#[test]
fn a_terminated_walsender_is_named_as_the_reason() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = walring(&server, &archive, &["--synchronous", "-n"]);
    wait_for_streaming(&server);
    server.sql("select pg_terminate_backend(pid) from pg_stat_replication");
    let exit = receiver.finish();
    exit.assert_error(&program::error(
        "unexpected termination of replication stream: \
         FATAL:  terminating connection due to administrator command",
    ));
    exit.assert_error(&program::error("disconnected"));
}

#[test]
fn it_goes_on_after_a_terminated_walsender() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = streaming(&server, &archive);
    server.write_wal(1500);
    server.sql("select pg_terminate_backend(pid) from pg_stat_replication");
    let end = server.write_wal(100);
    server.wait_flushed(end);
    receiver.stop();
    archive.assert_holds(&server, 1, end);
}

#[test]
fn signals_end_a_quiet_stream_with_success() {
    for signal in [Signal::INT, Signal::TERM] {
        let (server, archive) = (Server::start(), Archive::new());
        let receiver = streaming(&server, &archive);
        server.wait_flushed(server.write_wal(10));
        receiver.end_by(signal).assert_success();
        assert_farewell(&server);
    }
}

#[test]
fn signals_end_a_stream_that_never_goes_quiet_with_success() {
    for signal in [Signal::INT, Signal::TERM] {
        let (server, archive) = (Server::start(), Archive::new());
        let receiver = streaming(&server, &archive);
        let mut load = server.start_sql(
            "select count(pg_logical_emit_message(false, 'load', repeat('x', 8000))) from generate_series(1, 400000)",
        );
        let start = server.flush_lsn();
        server.wait_flushed(Lsn(start.0 + (3 << 20)));
        let acknowledged = server.receiver_column("flush_lsn").unwrap().parse().unwrap();
        receiver.end_by(signal).assert_success();
        assert!(load.is_running(), "the stream went quiet");
        archive.assert_holds(&server, 1, acknowledged);
    }
}

#[test]
fn the_server_has_no_complaint_about_a_stream_that_is_stopped_within_a_message() {
    // Where the machine is slow, the server may not end its side in the time that it is given for that.
    for signal in [Signal::INT, Signal::TERM] {
        assert!((0..3).any(|_| is_parting_quiet(signal)), "complaints each time");
    }
}

/// Stops a stream within a message; whether the server has no complaint.
fn is_parting_quiet(signal: Signal) -> bool {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = streaming(&server, &archive);
    let start = server.flush_lsn();
    let _load = server.start_sql(
            "select count(pg_logical_emit_message(false, 'load', repeat('x', 8000))) from generate_series(1, 120000)",
        );
    server.wait_flushed(Lsn(start.0 + (3 << 20)));
    receiver.end_by(signal).assert_success();
    complaints(&server).is_empty()
}

#[test]
fn signals_end_the_wait_for_a_server_that_does_not_answer() {
    for signal in [Signal::INT, Signal::TERM] {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port().to_string();
        let archive = Archive::new();
        let receiver = connecting_to(&archive, &port);
        let _connection = silent.accept().unwrap();
        receiver.end_by(signal).assert_success();
    }
}

#[test]
fn signals_end_the_wait_before_the_next_attempt() {
    for signal in [Signal::INT, Signal::TERM] {
        let (server, archive) = (Server::start(), Archive::new());
        let receiver = streaming(&server, &archive);
        server.stop_fast();
        receiver.wait_for_line("disconnected");
        receiver.end_by(signal).assert_success();
    }
}

#[test]
fn what_was_received_is_durable_and_reported_before_it_ends() {
    let (server, archive) = (Server::start(), Archive::new());
    server.sql("select pg_create_physical_replication_slot('s1')");
    let receiver = walring(&server, &archive, &["--slot=s1", "--synchronous"]);
    wait_for_streaming(&server);
    let end = server.write_wal(1500);
    server.wait_reported("write_lsn", end);
    receiver.stop();
    assert!(server.slot_restart_lsn("s1").unwrap() >= end);
    archive.assert_holds(&server, 1, end);
}

/// Asserts that the server was told of the end, and has nothing to complain about.
fn assert_farewell(server: &Server) {
    assert_eq!(complaints(server), [""; 0]);
}

/// What a server says of a stream that was not ended in good order.
fn complaints(server: &Server) -> Vec<String> {
    wait_for_nobody(server);
    let complaints = [
        "could not send data to client",
        "could not receive data from client",
        "unexpected EOF",
        "connection to client lost",
    ];
    let log = server.log();
    let complained = |line: &&str| complaints.iter().any(|complaint| line.contains(complaint));
    log.lines().filter(complained).map(str::to_owned).collect()
}

fn connecting_to(archive: &Archive, port: &str) -> Process {
    let mut command = program::receive();
    command
        .arg("-D")
        .arg(archive.path())
        .args(["-h", "127.0.0.1", "-p", port, "-U", "postgres"]);
    Process::spawn(command)
}

/// Where the shutdown checkpoint is: the last record of a server that was stopped.
fn last_checkpoint(server: &Server) -> Lsn {
    let mut control = server.installation().command("pg_controldata");
    let output = control.arg(server.data()).output().expect("run pg_controldata");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Latest checkpoint location:"));
    line.expect("a checkpoint location")
        .trim()
        .parse()
        .expect("an LSN")
}
