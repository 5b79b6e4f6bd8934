//! What arrives is checked before it is acknowledged, and each commit in it is counted.
mod common;

use common::process::Exit;
use common::receiver::wait_for_streaming;
use common::relay::Relay;
use common::{Archive, Http, Lsn, Process, Server, walring};

/// The relay flips a bit of what stands behind it.
const MARK: &str = "a bit will flip behind this mark";

/// A receiver behind a relay, with a slot that keeps what it acknowledged.
fn behind(relay: &Relay, server: &Server, archive: &Archive, arguments: &[&str]) -> Process {
    let port = relay.port().to_string();
    let through = ["--slot=s1", "--synchronous", "-h", "127.0.0.1", "-p", &port];
    walring(server, archive, &[&through, arguments].concat())
}

/// Good WAL, then a commit that the relay damages: where it begins, and how the receiver ended.
fn damaged(server: &Server, archive: &Archive, arguments: &[&str]) -> (Lsn, Exit) {
    server.sql("select pg_create_physical_replication_slot('s1', true)");
    let relay = Relay::damaging_behind(server.port(), MARK);
    let receiver = behind(&relay, server, archive, arguments);
    wait_for_streaming(server);
    server.wait_flushed(server.write_wal(1300));
    let good = server.flush_lsn();
    let message = format!("select pg_logical_emit_message(true, 'load', '{MARK} and this text is damaged')");
    server.sql(&message);
    (good, receiver.finish())
}

#[test]
fn a_flipped_bit_is_never_acknowledged() {
    let (server, archive) = (Server::start(), Archive::new());
    let (good, exit) = damaged(&server, &archive, &[]);
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    assert!(
        exit.has_line_with(&[
            "error: received WAL is damaged: record at ",
            "CRC of the content",
            "expected"
        ]),
        "{exit:#?}"
    );
    assert!(
        exit.has_line_with(&["detail: Nothing from", "was acknowledged", "at offset"]),
        "{exit:#?}"
    );
    let acknowledged = server.slot_restart_lsn("s1").expect("the slot's position");
    let record = place(&exit);
    assert!(
        good <= acknowledged,
        "{acknowledged} is before {good}: good WAL was not acknowledged"
    );
    assert!(
        acknowledged <= record,
        "{acknowledged} is behind {record}: damage was acknowledged"
    );
    archive.assert_partial_starts_as(&server, 1, acknowledged);
    let end = server.write_wal(10);
    let receiver = walring(&server, &archive, &["--slot=s1", "--synchronous"]);
    server.wait_flushed(end);
    receiver.stop();
    archive.assert_holds(&server, 1, end);
}

#[test]
fn a_flipped_bit_in_a_record_that_crosses_segments_is_never_acknowledged() {
    let (server, archive) = (Server::start(), Archive::new());
    server.sql("select pg_create_physical_replication_slot('s1', true)");
    let relay = Relay::damaging_behind(server.port(), MARK);
    let receiver = behind(&relay, &server, &archive, &[]);
    wait_for_streaming(&server);
    server.wait_flushed(server.write_wal(10));
    // One record of one segment and a half, damaged at its beginning.
    server.sql(&format!(
        "select pg_logical_emit_message(true, 'load', '{MARK} x' || repeat('0123456789abcdef', 98304))"
    ));
    let exit = receiver.finish();
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    let acknowledged = server.slot_restart_lsn("s1").expect("the slot's position");
    assert!(
        acknowledged <= place(&exit),
        "{acknowledged}: damage was acknowledged"
    );
    assert_eq!(
        archive.segments(),
        [""; 0],
        "the damaged segment must not look complete"
    );
    let end = server.write_wal(10);
    let receiver = walring(&server, &archive, &["--slot=s1", "--synchronous"]);
    server.wait_flushed(end);
    receiver.stop();
    archive.assert_holds(&server, 1, end);
}

#[test]
fn damage_in_a_record_of_many_segments_is_never_acknowledged_not_even_after_a_restart() {
    let (server, archive) = (Server::start(), Archive::new());
    server.sql("select pg_create_physical_replication_slot('s1', true)");
    let relay = Relay::damaging_behind(server.port(), MARK);
    let receiver = behind(&relay, &server, &archive, &[]);
    wait_for_streaming(&server);
    server.wait_flushed(server.write_wal(10));
    server.sql(&format!(
        "select pg_logical_emit_message(true, 'load', '{MARK} x' || repeat('0123456789abcdef', 327680))"
    ));
    let first = receiver.finish();
    assert_eq!(first.code, Some(1), "{first:#?}");
    let record = place(&first);
    // The damaged bytes lie in a segment that had to be completed, for the record is so long.
    let again = walring(&server, &archive, &["--slot=s1", "--synchronous"]).finish();
    assert_eq!((again.code, place(&again)), (Some(1), record), "{again:#?}");
    assert!(
        again.has_line_with(&["hint: Move it and those behind it away"]),
        "{again:#?}"
    );
    let acknowledged = server.slot_restart_lsn("s1").expect("the slot's position");
    assert!(acknowledged <= record, "{acknowledged}: damage was acknowledged");
    let damaged = record.segment_name(1, server.segment_bytes());
    for name in archive.names().into_iter().filter(|name| *name >= damaged) {
        std::fs::remove_file(archive.file(&name)).expect("move a file away");
    }
    let end = server.write_wal(10);
    let receiver = walring(&server, &archive, &["--slot=s1", "--synchronous"]);
    server.wait_flushed(end);
    receiver.stop();
    archive.assert_holds(&server, 1, end);
}

#[test]
fn without_verification_nothing_is_noticed() {
    for level in ["--verify=off", "--verify=pages"] {
        let (server, archive) = (Server::start(), Archive::new());
        server.sql("select pg_create_physical_replication_slot('s1', true)");
        let relay = Relay::damaging_behind(server.port(), MARK);
        let receiver = behind(&relay, &server, &archive, &[level]);
        wait_for_streaming(&server);
        server.sql(&format!(
            "select pg_logical_emit_message(true, 'load', '{MARK} and text')"
        ));
        server.wait_flushed(server.write_wal(2000));
        receiver.stop().assert_success();
        assert_eq!(relay.connections(), 1);
    }
}

/// The position that the receiver's last words name.
fn place(exit: &Exit) -> Lsn {
    let words = exit.stderr.iter().flat_map(|line| line.split([' ', ':']));
    let position = words.skip_while(|word| *word != "record").nth(2);
    let position = position.unwrap_or_else(|| panic!("no position in {exit:#?}"));
    position.parse().expect("an LSN")
}

#[test]
fn as_many_transactions_are_measured_as_were_committed() {
    let (server, archive) = (Server::start(), Archive::new());
    server.pgbench_init();
    server.sql("create table prepared (x int)");
    server.append_config("max_prepared_transactions = 10\n");
    server.restart();
    let receiver = walring(&server, &archive, &["--listen=127.0.0.1:0", "--synchronous"]);
    let http = Http::of(&receiver);
    wait_for_streaming(&server);
    // What was committed before the stream began is counted, and nobody waits for it.
    server.wait_flushed(server.write_wal(1));
    let before = commits(&http);
    let load = server.start_pgbench(&["-n", "-c", "4", "-t", "100"]);
    load.finish().assert_success();
    for _ in 0..10 {
        server.sql("begin; insert into prepared values (1); prepare transaction 'p'");
        server.sql("commit prepared 'p'");
        server.sql("begin; insert into prepared values (1); prepare transaction 'q'");
        server.sql("rollback prepared 'q'");
        server.sql("begin; insert into prepared values (1); rollback");
    }
    server.wait_flushed(server.flush_lsn());
    let expected = 400 + 10;
    http.wait_metric("walring_transactions_total", |count| {
        count >= before[0] + f64::from(expected)
    });
    let after = commits(&http);
    for (after, before) in after.into_iter().zip(before) {
        assert_eq!(after - before, f64::from(expected));
    }
}

/// Transactions counted; timed until durable; timed until acknowledged; timed from their commit.
fn commits(http: &Http) -> [f64; 4] {
    [
        "walring_transactions_total",
        "walring_durable_seconds_count",
        "walring_ack_seconds_count",
        "walring_commit_to_durable_seconds_count",
    ]
    .map(|name| http.metrics().get(name).copied().unwrap_or(0.0))
}
