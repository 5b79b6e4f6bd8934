//! Promotions: the new timeline is followed, and its history kept.
mod common;

use common::receiver::{assert_follows_promotion, receive_until, streaming};
use common::wait::until;
use common::{Archive, Lsn, Server, walring};

#[test]
fn a_promotion_is_followed_on_the_same_connection() {
    let (server, archive) = (Server::start(), Archive::new());
    assert_follows_promotion(&server, &archive, || {
        walring(&server, &archive, &["--synchronous", "-v"])
    });
    assert_history(&server, &archive, 2);
}

/// A standby passes on all that it has, also what it has not replayed, and this one is promoted before it has.
#[test]
fn what_a_standby_sent_and_did_not_keep_when_it_was_promoted_is_told() {
    let (primary, archive) = (Server::start(), Archive::new());
    primary.write_wal(10);
    let standby = primary.base_backup(&["-R"]);
    standby.append_config("recovery_target_name = 'here'\n");
    standby.start_again();
    let receiver = streaming(&standby, &archive);
    let target = primary.lsn("pg_create_restore_point('here')");
    let end = primary.write_wal(100);
    standby.wait_flushed(end);
    standby.promote();
    let new_end = standby.write_wal(1500);
    standby.wait_flushed(new_end);
    let exit = receiver.stop();
    let switch = switch_point(&standby, 2);
    assert!(switch >= target && switch < end, "{target} {switch} {end}");
    let told = format!("warning: the server went on with timeline 2 at {switch}, before the end");
    let lines = exit.stderr.iter().filter(|line| line.contains(&told));
    assert_eq!(lines.count(), 1, "{exit:#?}");
    assert!(
        exit.has_line_with(&["detail: ", "in the files of timeline 1"]),
        "{exit:#?}"
    );
    archive.assert_partial_holds(&primary, 1, end);
    archive.assert_holds(&standby, 2, new_end);
}

#[test]
fn the_partial_of_the_old_timeline_stays() {
    let (server, archive) = (Server::start(), Archive::new());
    receive_until(&server, &archive, server.write_wal(100));
    let old = archive.partials();
    server.restart_as_standby();
    server.promote();
    let end = server.write_wal(1500);
    receive_until(&server, &archive, end);
    let switch_point = switch_point(&server, 2);
    let first_of_new = switch_point.segment_name(2, server.segment_bytes());
    assert!(
        archive.segments().contains(&first_of_new),
        "{:?}",
        archive.names()
    );
    assert!(archive.partials().contains(&old[0]), "{:?}", archive.names());
    archive.assert_partial_holds(&server, 1, switch_point);
    archive.assert_holds(&server, 2, end);
}

#[test]
fn a_promoted_standby_serves_both_timelines_from_its_slot() {
    let (primary, archive) = (Server::start(), Archive::new());
    let standby = primary.standby();
    let slot = "select pg_create_physical_replication_slot('archive_slot', true)";
    primary.write_wal(10);
    until("the standby has a restart point", || standby.try_sql(slot).ok());
    let first = standby.slot_restart_lsn("archive_slot").expect("a reserved slot");
    standby.promote();
    standby.write_wal(10);
    let next = standby.switch_wal();
    standby.write_wal(10);
    let arguments = [
        "-n",
        "--no-sync",
        "--slot=archive_slot",
        "--endpos",
        &next.to_string(),
    ];
    walring(&standby, &archive, &arguments).finish().assert_success();
    let segment_bytes = standby.segment_bytes();
    let old_partial = format!(
        "{}.partial",
        switch_point(&standby, 2).segment_name(1, segment_bytes)
    );
    assert!(
        archive.names().contains(&old_partial),
        "{first}: {:?}",
        archive.names()
    );
    assert_history(&standby, &archive, 2);
    archive.assert_holds(&standby, 2, next);
}

#[test]
fn a_switch_point_on_a_segment_boundary_is_crossed() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = streaming(&server, &archive);
    let boundary = server.switch_wal();
    let last = Lsn(boundary.0 - 1).segment_name(1, server.segment_bytes());
    until("the segment is finished", || {
        archive.segments().contains(&last).then_some(())
    });
    server.stop_immediate();
    receiver.stop();
    server.restart_as_standby();
    server.promote();
    assert_eq!(
        switch_point(&server, 2),
        boundary,
        "the server went on before it was stopped"
    );
    let end = server.write_wal(1500);
    receive_until(&server, &archive, end);
    assert_history(&server, &archive, 2);
    archive.assert_holds(&server, 2, end);
}

#[test]
fn several_promotions_are_followed_up_to_a_timeline_with_a_letter() {
    let (server, archive) = (Server::start(), Archive::new());
    for timeline in 2..=10 {
        server.restart_as_standby();
        server.promote();
        let end = server.write_wal(100);
        // Some promotions happen while nobody receives: several timelines are then crossed at once.
        if [3, 4, 7, 10].contains(&timeline) {
            receive_until(&server, &archive, end);
            archive.assert_holds(&server, timeline, end);
            assert_history(&server, &archive, timeline);
        }
    }
    assert!(
        archive.names().contains(&"0000000A.history".to_owned()),
        "{:?}",
        archive.names()
    );
    assert!(
        archive.partials().last().unwrap().starts_with("0000000A"),
        "{:?}",
        archive.names()
    );
}

/// A server was promoted and died before a segment of its timeline was received; another one takes its place.
#[test]
fn the_history_of_a_timeline_of_which_nothing_came_gives_way_to_the_servers() {
    for other in ["1\t0/1500000\tno recovery target specified\n", "cut"] {
        let (server, archive) = (Server::start(), Archive::new());
        receive_until(&server, &archive, server.write_wal(100));
        archive.write("00000002.history", other.as_bytes());
        server.restart_as_standby();
        server.promote();
        let end = server.write_wal(1500);
        let receiver = walring(&server, &archive, &["--synchronous"]);
        server.wait_flushed(end);
        let exit = receiver.stop();
        let words = [
            "warning: \"00000002.history\" is not",
            "renamed to \"00000002.history.other\"",
        ];
        assert!(exit.has_line_with(&words), "{exit:#?}");
        assert_history(&server, &archive, 2);
        assert_eq!(archive.read("00000002.history.other"), other.as_bytes());
        archive.assert_holds(&server, 2, end);
        // It was said once and for all.
        let end = server.write_wal(100);
        let exit = receive_until(&server, &archive, end);
        assert!(!exit.has_line_with(&["warning: "]), "{exit:#?}");
    }
}

/// The history file is the server's own, byte for byte.
#[track_caller]
fn assert_history(server: &Server, archive: &Archive, timeline: u32) {
    let name = format!("{timeline:08X}.history");
    assert_eq!(
        String::from_utf8_lossy(&archive.read(&name)),
        String::from_utf8_lossy(&server.wal_file(&name)),
        "{name}"
    );
}

/// Where the timeline began, from the last line of its history.
fn switch_point(server: &Server, timeline: u32) -> Lsn {
    let history = String::from_utf8(server.wal_file(&format!("{timeline:08X}.history"))).expect("text");
    let line = history.lines().rfind(|line| !line.is_empty()).expect("a line");
    line.split('\t')
        .nth(1)
        .expect("a position")
        .parse()
        .expect("an LSN")
}
