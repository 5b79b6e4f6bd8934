//! walring and `pg_receivewal --synchronous` on one primary write the same bytes under the same names.
mod common;

use common::archive::{assert_same, common_prefix, is_zero};
use common::receiver::{pg_receivewal_command, wait_for_streaming};
use common::wait::until;
use common::{Archive, Installation, Lsn, Process, Server, ServerOptions, at_once, walring};

#[test]
fn every_version_is_received_as_pg_receivewal_does() {
    at_once(Installation::all(), |installation| {
        let options = ServerOptions::default().version(&installation);
        receive_with_both(&options.segment_mb(4).start());
    });
}

#[test]
fn segments_of_16_mb_are_received_as_pg_receivewal_does() {
    receive_with_both(&ServerOptions::default().segment_mb(16).start());
}

#[test]
fn fifty_segment_switches_in_a_row_are_received_as_pg_receivewal_does() {
    let server = Server::start();
    let (ours, theirs) = (Archive::new(), Archive::new());
    let receivers = start_both(&server, &ours, &theirs);
    let mut end = server.flush_lsn();
    for _ in 0..50 {
        end = server.switch_wal();
    }
    stop_both(&server, receivers, end);
    ours.assert_holds(&server, 1, end);
    assert_equal(&server, &ours, &theirs, end);
}

/// A benchmark, a bulk load, a switch and a restart of the primary, seen by both receivers.
fn receive_with_both(server: &Server) {
    let (ours, theirs) = (Archive::new(), Archive::new());
    let receivers = start_both(server, &ours, &theirs);
    server.pgbench_init();
    server
        .start_pgbench(&["-n", "-c", "4", "-t", "100"])
        .finish()
        .assert_success();
    server.sql("create table bulk as select i, md5(i::text) from generate_series(1, 100000) i");
    server.switch_wal();
    server.write_wal(100);
    server.restart();
    let end = server.write_wal(3000);
    stop_both(server, receivers, end);

    ours.assert_holds(server, 1, end);
    assert_equal(server, &ours, &theirs, end);
    if server.installation().has("pg_waldump") {
        ours.assert_readable(server);
    }
}

fn start_both(server: &Server, ours: &Archive, theirs: &Archive) -> [Process; 2] {
    let mut reference = pg_receivewal_command(server, theirs, &["--synchronous", "-s", "1"]);
    reference.env("PGAPPNAME", "reference");
    let reference = Process::spawn(reference);
    let walring = walring(server, ours, &["--synchronous"]);
    wait_for_streaming(server);
    [walring, reference]
}

fn stop_both(server: &Server, receivers: [Process; 2], end: Lsn) {
    server.wait_flushed(end);
    let query = format!(
        "select true from pg_stat_replication where application_name = 'reference' and flush_lsn >= '{end}'"
    );
    until("pg_receivewal has everything", || {
        (server.sql(&query) == "t").then_some(())
    });
    for receiver in receivers {
        receiver.stop();
    }
}

/// Finished segments are the same files; the partial ones are the same up to `end`, and zero behind what came.
fn assert_equal(server: &Server, ours: &Archive, theirs: &Archive, end: Lsn) {
    assert_eq!(ours.names(), theirs.names());
    for name in ours.segments() {
        assert_same(&name, &ours.read(&name), &theirs.read(&name));
    }
    for name in ours.partials() {
        let (a, b) = (ours.read(&name), theirs.read(&name));
        let same = common_prefix(&a, &b);
        assert!(
            same >= end.offset(server.segment_bytes()),
            "{name} differs at {same}, before {end}"
        );
        assert!(
            is_zero(&a[same..]) || is_zero(&b[same..]),
            "{name} has something behind {same}"
        );
    }
}
