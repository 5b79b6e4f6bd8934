//! Finished segments may be moved away at any moment. A partial then begins with the rest of a record whose beginning is
//! not here, and only the server can tell whether a crash has left all of it.
mod common;

use std::path::Path;

use common::postgres::Installation;
use common::process::Exit;
use common::{Archive, Http, Lsn, Server, ServerOptions, walring};

/// Is said where the rest is received again.
const AGAIN: &str = "again: the segment before is not here to check it";

/// Whatever is demanded of the receiver, and what it reports soon.
const WAYS: [(&[&str], &str); 4] = [
    (&["--synchronous"], "flush_lsn"),
    (&["--slot=archive"], "flush_lsn"),
    (&["--slot=archive", "--verify=pages", "--buffered"], "flush_lsn"),
    // Within a segment nothing is durable.
    (&["--slot=archive", "--no-sync", "--verify=off"], "write_lsn"),
];

/// A server, and a directory of which only the partial is left.
struct Left {
    server: Server,
    archive: Archive,
    /// Where the partial's segment begins.
    start: Lsn,
    /// How long the rest is with which it begins.
    rest: u64,
    /// The end of what was received.
    end: Lsn,
}

impl Left {
    /// Everything was received, and its finished segments were moved away.
    fn by_a_receiver(options: ServerOptions) -> Left {
        let left = Left::of(options.start(), |_| {});
        for name in left.archive.segments() {
            std::fs::remove_file(left.archive.file(&name)).expect("a finished segment");
        }
        left
    }

    /// The WAL that is received comes behind `before`.
    fn of(server: Server, before: impl FnOnce(&Server)) -> Left {
        let archive = Archive::new();
        server.sql("select pg_create_physical_replication_slot('archive', true)");
        before(&server);
        let size = server.segment_bytes();
        let receiver = walring(&server, &archive, &["--synchronous", "--slot=archive"]);
        // A record of 60 kB that crosses into a segment by more than a half.
        let rest = loop {
            let at = server.flush_lsn();
            let message = |bytes: u64| {
                server.sql(&format!(
                    "select pg_logical_emit_message(true, 'x', repeat('x', {bytes}))"
                ))
            };
            match size - at.offset(size) as u64 {
                room if room > 80_000 => drop(message((room - 60_000).min(500_000))),
                room if room > 25_000 => drop(message(5_000)),
                _ => {
                    message(60_000);
                    let end = server.write_wal(10);
                    server.wait_flushed(end);
                    let name = end.segment_name(1, size);
                    break u32::from_le_bytes(server.wal_file(&name)[16..20].try_into().expect("four bytes"));
                }
            }
        };
        assert!(rest > 30_000, "the segment begins with a rest of {rest}");
        let end = server.flush_lsn();
        server.wait_flushed(end);
        receiver.stop().assert_success();
        Left {
            start: end.segment_start(size),
            rest: rest.into(),
            server,
            archive,
            end,
        }
    }

    fn partial(&self) -> String {
        self.end.segment_name(1, self.server.segment_bytes()) + ".partial"
    }

    /// As a crash leaves a write of which the disk took all but one sector.
    fn lose_sector(&self, offset: usize) {
        let mut content = self.archive.read(&self.partial());
        assert!(content[offset..offset + 512].iter().any(|&byte| byte != 0));
        content[offset..offset + 512].fill(0);
        self.archive.write(&self.partial(), &content);
    }

    /// Receives what the server writes now.
    fn receive_more(&self, (arguments, reports): (&[&str], &str)) -> (Exit, Lsn) {
        let end = self.server.write_wal(50);
        let receiver = walring(&self.server, &self.archive, &[arguments, &["-v"]].concat());
        self.server.wait_reported(reports, end);
        (receiver.stop(), end)
    }
}

#[test]
fn a_sector_that_a_crash_lost_of_the_rest_is_there_again_before_anything_is_acknowledged() {
    for way in WAYS {
        let left = Left::by_a_receiver(ServerOptions::default());
        left.lose_sector(20 << 10);
        let (exit, end) = left.receive_more(way);
        exit.assert_success();
        assert!(exit.has_line_with(&[AGAIN]), "{exit:#?}");
        left.archive.assert_partial_holds(&left.server, 1, end);
    }
}

#[test]
fn any_server_ends_the_streams_that_come_first() {
    for installation in Installation::all() {
        let left = Left::by_a_receiver(ServerOptions::default().version(&installation));
        left.lose_sector(20 << 10);
        let (exit, end) = left.receive_more(WAYS[0]);
        exit.assert_success();
        assert!(!exit.has_line_with(&["disconnected"]), "{exit:#?}");
        left.archive.assert_partial_holds(&left.server, 1, end);
    }
}

#[test]
fn of_a_sound_partial_only_the_rest_is_received_again() {
    let left = Left::by_a_receiver(ServerOptions::default().segment_mb(16));
    // So that what is behind the rest is more than what comes again.
    let end = left.server.write_wal(4000);
    assert_eq!(end.segment_start(left.server.segment_bytes()), left.start);
    let receiver = walring(&left.server, &left.archive, &["--synchronous"]);
    left.server.wait_flushed(end);
    receiver.stop().assert_success();
    let receiver = walring(
        &left.server,
        &left.archive,
        &["--synchronous", "--listen=127.0.0.1:0"],
    );
    let http = Http::of(&receiver);
    let end = left.server.write_wal(50);
    left.server.wait_flushed(end);
    let received = http.metric("walring_wal_bytes_received_total");
    receiver.stop().assert_success();
    left.archive.assert_partial_holds(&left.server, 1, end);
    // A message beyond the rest, and what is new.
    let most = (left.rest + (128 << 10) + (300 << 10)) as f64;
    assert!(received < most, "{received} bytes, {} are the rest", left.rest);
}

#[test]
fn where_the_segment_before_is_here_nothing_is_received_again() {
    let left = Left::of(Server::start(), |_| {});
    let (exit, end) = left.receive_more(WAYS[0]);
    exit.assert_success();
    assert!(!exit.has_line_with(&[AGAIN]), "{exit:#?}");
    left.archive.assert_holds(&left.server, 1, end);
}

#[test]
fn an_end_position_in_what_is_stored_does_not_keep_the_hole() {
    let left = Left::by_a_receiver(ServerOptions::default());
    left.lose_sector(20 << 10);
    let end = format!("--endpos={}", Lsn(left.start.0 + left.rest));
    let exit = walring(&left.server, &left.archive, &["-n", "--slot=archive", &end]).finish();
    exit.assert_success();
    left.archive.assert_partial_holds(&left.server, 1, left.end);
}

#[test]
fn a_server_restored_from_its_past_changes_nothing_of_a_partial_that_is_left_alone() {
    let server = Server::start();
    let mut past = None;
    let left = Left::of(server, |server| {
        server.stop_fast();
        past = Some(server.snapshot());
        server.start_again();
    });
    for name in left.archive.segments() {
        std::fs::remove_file(left.archive.file(&name)).expect("a finished segment");
    }
    left.server.stop_immediate();
    let past: &Path = past.as_ref().expect("its past").path();
    left.server.restore(&past.join("data"));
    left.server.start_again();
    while left.server.write_wal(500).0 < left.end.0 + (1 << 20) {}
    let held = left.archive.contents();
    let exit = walring(&left.server, &left.archive, &["--slot=archive"]).finish();
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    assert!(
        exit.has_line_with(&["error: the server's WAL is not what is stored, from "]),
        "{exit:#?}"
    );
    assert!(left.archive.contents() == held, "files were touched");
}

#[test]
fn a_server_that_writes_all_the_time_is_not_taken_for_one_that_has_lost_something() {
    let left = Left::by_a_receiver(ServerOptions::default().segment_mb(16));
    // So little that the rest comes in one message with what was written since the server was asked how far it is.
    let load = left.server.start_sql(
        "do $$ begin for i in 1..200 loop \
         perform pg_logical_emit_message(true, 'x', repeat('x', 50)); commit; perform pg_sleep(0.01); \
         end loop; end $$",
    );
    let receiver = walring(
        &left.server,
        &left.archive,
        &["-n", "-v", "--slot=archive", "--synchronous"],
    );
    load.finish().assert_success();
    let end = left.server.flush_lsn();
    left.server.wait_flushed(end);
    let exit = receiver.stop();
    exit.assert_success();
    assert!(exit.has_line_with(&[AGAIN]), "{exit:#?}");
    left.archive.assert_partial_holds(&left.server, 1, end);
}
