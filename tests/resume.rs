//! Within a partial segment streaming goes on at the last good record, whatever lies behind it.
mod common;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use common::receiver::{wait_for_nobody, wait_for_streaming};
use common::relay::Relay;
use common::wait::until;
use common::{Archive, Http, Lsn, Process, Server, ServerOptions, walring};

/// A receiver whose connection goes through the relay.
fn through(relay: &Relay, server: &Server, archive: &Archive) -> Process {
    let port = relay.port().to_string();
    let arguments = [
        "--listen=127.0.0.1:0",
        "--synchronous",
        "-h",
        "127.0.0.1",
        "-p",
        &port,
    ];
    walring(server, archive, &arguments)
}

/// Receives up to `end`; where streaming began.
fn resumed_at(server: &Server, archive: &Archive, end: Lsn) -> Lsn {
    let receiver = walring(server, archive, &["-v", "--synchronous"]);
    server.wait_flushed(end);
    let exit = receiver.stop();
    exit.assert_success();
    started(&exit.stderr).pop().expect("streaming began")
}

/// Where streaming began, each time.
fn started(stderr: &[String]) -> Vec<Lsn> {
    let positions = stderr
        .iter()
        .filter_map(|line| line.split_once("starting log streaming at "));
    positions
        .filter_map(|(_, rest)| rest.split(' ').next()?.parse().ok())
        .collect()
}

#[test]
fn after_a_stop_nothing_is_received_twice() {
    let (server, archive) = (ServerOptions::default().segment_mb(16).start(), Archive::new());
    let end = server.write_wal(3000);
    let first = resumed_at(&server, &archive, end);
    assert_eq!(first, first.segment_start(server.segment_bytes()));
    for _ in 0..3 {
        let before = server.flush_lsn();
        let end = server.write_wal(500);
        let again = resumed_at(&server, &archive, end);
        assert!(
            before.0 - 8192 <= again.0 && again <= before,
            "{again}, not {before}"
        );
        archive.assert_holds(&server, 1, end);
    }
}

#[test]
fn after_a_cut_anywhere_no_more_than_a_record_is_received_twice() {
    for bytes in [70_001, 200_003, 333_333] {
        let (server, archive) = (ServerOptions::default().segment_mb(16).start(), Archive::new());
        let start = server.switch_wal();
        let relay = Relay::to(server.port(), 8192, bytes);
        let receiver = through(&relay, &server, &archive);
        let http = Http::of(&receiver);
        wait_for_streaming(&server);
        let end = server.write_wal(2000);
        server.wait_flushed(end);
        let received = http.metric("walring_wal_bytes_received_total");
        let position = http.metric("walring_received_lsn");
        receiver.stop();
        archive.assert_holds(&server, 1, end);
        let wal = position - start.0 as f64;
        let connections = relay.connections() as f64;
        assert!(connections > wal / bytes as f64, "{connections} connections");
        // A cut record comes again, and those here are little longer than a kilobyte; a little before is compared.
        let most = wal + connections * (2048.0 + 8192.0);
        assert!(
            received < most,
            "{received} bytes for {wal} bytes of WAL, {connections} connections"
        );
    }
}

#[test]
fn a_damaged_tail_is_received_again_from_the_record_before_it() {
    let garbage = (0..20_000u32).map(|i| (i.wrapping_mul(0x9E37_79B9) >> 13) as u8);
    let tails = [
        ("garbage", garbage.collect()),
        ("torn", vec![0; 20_000]),
        ("one byte", vec![0xFF]),
        ("zeros within a page", vec![0; 600]),
    ];
    for (what, tail) in tails {
        let (server, archive) = (Server::start(), Archive::new());
        server.switch_wal();
        let end = server.write_wal(300);
        resumed_at(&server, &archive, end);
        let name = archive.partials().pop().expect("a partial");
        // Somewhere in the middle: everything behind must come again, everything before must stay.
        let at = end.offset(server.segment_bytes()) as u64 - 100_003;
        let file = OpenOptions::new().write(true).open(archive.file(&name)).unwrap();
        file.write_all_at(&tail, at).unwrap();
        let start = end.segment_start(server.segment_bytes());
        let damaged = Lsn(start.0 + at);
        let end = server.write_wal(10);
        let resumed = resumed_at(&server, &archive, end);
        assert!(
            resumed <= damaged && resumed.0 + 16_384 > damaged.0,
            "{what}: {resumed}, not {damaged}"
        );
        archive.assert_holds(&server, 1, end);
    }
}

#[test]
fn an_earlier_use_of_the_file_is_not_taken_for_wal() {
    let (server, archive) = (Server::start(), Archive::new());
    server.switch_wal();
    let end = server.write_wal(300);
    resumed_at(&server, &archive, end);
    let name = archive.partials().pop().expect("a partial");
    // Whole pages of the segment before, as a recycled file would have them.
    let before = Lsn(end.segment_start(server.segment_bytes()).0 - 1).segment_name(1, server.segment_bytes());
    let pages = (end.offset(server.segment_bytes()) / 8192 + 1) * 8192;
    let old = server.wal_file(&before);
    let file = OpenOptions::new().write(true).open(archive.file(&name)).unwrap();
    file.write_all_at(&old[pages..], pages as u64).unwrap();
    let last = server.flush_lsn();
    let end = server.write_wal(10);
    let resumed = resumed_at(&server, &archive, end);
    assert!(
        resumed <= last && resumed.0 + 16_384 > last.0,
        "{resumed}, not {last}"
    );
    archive.assert_partial_starts_as(&server, 1, end);
}

#[test]
fn a_server_that_died_within_a_record_is_followed() {
    let (server, archive) = (Server::start(), Archive::new());
    server.append_config("synchronous_commit = off\n");
    server.restart();
    let receiver = walring(&server, &archive, &["-v", "--synchronous"]);
    wait_for_streaming(&server);
    for _ in 0..3 {
        // A record of many segments, a part of which the server has sent when it dies.
        let from = server.flush_lsn();
        let long = "select pg_logical_emit_message(false, 'load', repeat('0123456789abcdef', 4000000))";
        let load = server.start_sql(long);
        until("a part of the record is there", || {
            let written: Lsn = server.receiver_column("write_lsn")?.parse().ok()?;
            (written.0 > from.0 + (3 << 20)).then_some(())
        });
        server.kill();
        drop(load);
        server.start_again();
        wait_for_streaming(&server);
        server.wait_flushed(server.write_wal(10));
    }
    let end = server.write_wal(10);
    server.wait_flushed(end);
    receiver.stop();
    archive.assert_holds(&server, 1, end);
}

#[test]
fn segments_of_a_gigabyte_are_resumed_within() {
    let (server, archive) = (ServerOptions::default().segment_mb(1024).start(), Archive::new());
    let end = server.write_wal(20_000);
    resumed_at(&server, &archive, end);
    let end = server.write_wal(10);
    let resumed = resumed_at(&server, &archive, end);
    assert!(resumed.offset(server.segment_bytes()) > 15 << 20, "{resumed}");
    archive.assert_partial_holds(&server, 1, end);
}

#[test]
fn a_kill_at_any_instant_is_resumed_close_to_it() {
    let (server, archive) = (ServerOptions::default().segment_mb(16).start(), Archive::new());
    let load = server.start_pgbench(&["-i", "-q"]);
    for _ in 0..5 {
        let receiver = walring(&server, &archive, &["--synchronous"]);
        wait_for_streaming(&server);
        server.wait_flushed(server.flush_lsn());
        let acknowledged: Lsn = server.receiver_column("flush_lsn").unwrap().parse().unwrap();
        receiver.kill();
        wait_for_nobody(&server);
        let resumed = resumed_at(&server, &archive, acknowledged);
        assert!(
            resumed.0 + (64 << 10) >= acknowledged.0,
            "{resumed} after {acknowledged}"
        );
    }
    load.finish().assert_success();
    let end = server.flush_lsn();
    resumed_at(&server, &archive, end);
    archive.assert_holds(&server, 1, end);
}
