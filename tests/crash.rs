//! Killed at any instant, walring or the server: what was acknowledged is in the archive, then and at every instant after.
mod common;

use std::time::{Duration, Instant};

use common::receiver::{make_synchronous, streaming, wait_for_nobody, wait_for_streaming};
use common::restore::restore;
use common::wait::until;
use common::{Archive, Lsn, Process, Server, ServerOptions, walring};

#[test]
fn acknowledged_bytes_survive_kills_under_load() {
    let (server, archive) = (Server::start(), Archive::new());
    server.pgbench_init();
    let _load = server.start_pgbench(&["-n", "-c", "2", "-T", "120"]);
    for round in 1..=8 {
        let receiver = streaming(&server, &archive);
        let goal = Lsn(server.flush_lsn().0 + (300 << 10) * round);
        server.wait_flushed(goal);
        let acknowledged = acknowledged(&server);
        receiver.kill();
        archive.assert_holds(&server, 1, acknowledged);
    }
}

#[test]
fn acknowledged_bytes_stay_while_the_segment_is_streamed_again() {
    let (server, archive) = (ServerOptions::default().segment_mb(16).start(), Archive::new());
    let (mut receiver, acknowledged) = with_most_of_a_segment(&server, &archive);
    for _ in 0..5 {
        receiver.kill();
        archive.assert_holds(&server, 1, acknowledged);
        receiver = walring(&server, &archive, &["--synchronous"]);
        until("the acknowledged position is reached again", || {
            archive.assert_holds(&server, 1, acknowledged);
            let reached = server.receiver_column("flush_lsn")?.parse::<Lsn>().ok()?;
            (reached >= acknowledged).then_some(())
        });
    }
}

#[test]
fn acknowledged_bytes_survive_kills_at_any_instant_of_streaming_again() {
    let (server, archive) = (ServerOptions::default().segment_mb(16).start(), Archive::new());
    let (receiver, acknowledged) = with_most_of_a_segment(&server, &archive);
    receiver.kill();
    for instant_ms in (0..100).step_by(4) {
        let receiver = walring(&server, &archive, &["--synchronous"]);
        std::thread::sleep(Duration::from_millis(instant_ms));
        receiver.kill();
        archive.assert_holds(&server, 1, acknowledged);
    }
}

#[test]
fn a_kill_between_two_segments_leaves_no_gap() {
    let (server, archive) = (Server::start(), Archive::new());
    let mut end = server.flush_lsn();
    for round in 0..15 {
        let receiver = streaming(&server, &archive);
        let started = Instant::now();
        end = server.switch_wal();
        // Kill around the moment the boundary is crossed: a little later each time.
        std::thread::sleep(Duration::from_millis(round).saturating_sub(started.elapsed() / 100));
        receiver.kill();
    }
    wait_for_nobody(&server);
    let receiver = walring(&server, &archive, &["--synchronous"]);
    server.wait_flushed(end);
    receiver.stop();
    archive.assert_holds(&server, 1, end);
}

#[test]
fn a_killed_server_is_followed_after_its_recovery() {
    let (server, archive) = (Server::start(), Archive::new());
    server.pgbench_init();
    let receiver = streaming(&server, &archive);
    for _ in 0..3 {
        let _load = server.start_pgbench(&["-n", "-c", "2", "-T", "60"]);
        server.wait_flushed(server.write_wal(700));
        server.kill();
        server.start_again();
    }
    let end = server.write_wal(1500);
    server.wait_flushed(end);
    receiver.stop();
    archive.assert_holds(&server, 1, end);
    archive.assert_readable(&server);
}

#[test]
fn a_base_backup_and_the_archive_restore_every_acknowledged_commit() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = walring(&server, &archive, &["--synchronous", "-s", "60"]);
    wait_for_streaming(&server);
    let restored = server.base_backup(&["-X", "none"]);
    server.sql("create table t (i int)");
    make_synchronous(&server);
    let last = commit_one_after_the_other(&server);
    receiver.kill();
    server.kill();
    restore(&restored, &archive);
    assert_eq!(
        restored.sql("select count(*), max(i) from t"),
        format!("{last}|{last}")
    );
}

/// Receives all but the last megabyte of a 16 MB segment; gives what was acknowledged.
fn with_most_of_a_segment(server: &Server, archive: &Archive) -> (Process, Lsn) {
    server.switch_wal();
    let receiver = streaming(server, archive);
    let end = server.write_wal(14 << 10);
    server.wait_flushed(end);
    (receiver, end)
}

fn acknowledged(server: &Server) -> Lsn {
    server
        .receiver_column("flush_lsn")
        .expect("a flush position")
        .parse()
        .expect("an LSN")
}

/// Inserts 1, 2, 3, … and gives the last number whose commit returned; commits may cross segments.
fn commit_one_after_the_other(server: &Server) -> u32 {
    let numbers = 1..=40;
    for i in numbers.clone() {
        server.sql(&format!("insert into t values ({i})"));
        if i % 10 == 0 {
            server.sql("select pg_switch_wal()");
        }
    }
    *numbers.end()
}
