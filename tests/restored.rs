//! A server that is not what it was: it was restored from its past, promoted without all that was received, or is another
//! one. Nothing that is stored is touched, and what can become right by itself is waited for.
mod common;

use common::meeting;
use common::process::Exit;
use common::receiver::{receive_until, streaming};
use common::wait::until;
use common::walsender::{Identity, error, message, ready, rows};
use common::{Archive, Installation, Lsn, Server, ServerOptions, Walsender, walring};

/// Is said where the server has less than is stored.
const BEHIND: &str = "the server is behind what is stored: its WAL ends at ";

/// What a server wants that has larger segments than those it was configured for.
const ANY_SEGMENT_SIZE: &str = "min_wal_size = 80MB\nmax_wal_size = 1GB\n";

/// The history of the timeline that a promotion begins.
const HISTORY: &str = "00000002.history";

/// Is said where it has other WAL.
const OTHER: &str = "the server's WAL is not what is stored, from ";

#[test]
fn a_primary_restored_from_its_past_is_refused_at_start() {
    for arguments in [
        &["--synchronous"][..],
        &["-n"],
        &["-n", "--verify=off", "--no-sync"],
    ] {
        let Past { server, archive, end } = Past::received();
        server.start_again();
        let held = archive.contents();
        let exit = walring(&server, &archive, arguments).finish();
        assert_refused(
            &exit,
            &[BEHIND, &end.to_string(), archive.path().to_str().unwrap()],
        );
        assert!(exit.has_line_with(&["detail: ", "primary"]), "{exit:#?}");
        assert!(archive.contents() == held, "files were touched");
    }
}

#[test]
fn a_primary_restored_from_its_past_is_refused_when_it_comes_back() {
    let (server, archive) = (Server::start(), Archive::new());
    server.write_wal(100);
    server.stop_fast();
    let past = server.snapshot();
    server.start_again();
    let receiver = streaming(&server, &archive);
    server.wait_flushed(server.write_wal(2500));
    server.stop_fast();
    receiver.wait_for_line("disconnected");
    let held = archive.contents();
    server.restore(&past.path().join("data"));
    server.start_again();
    assert_refused(&receiver.finish(), &[BEHIND]);
    assert!(archive.contents() == held, "files were touched");
}

#[test]
fn a_restored_primary_that_has_overtaken_is_refused_before_a_byte_is_written() {
    for arguments in [
        &["--synchronous"][..],
        &["-n"],
        &["-n", "--verify=off", "--no-sync"],
    ] {
        let Past { server, archive, end } = Past::received();
        server.start_again();
        write_beyond(&server, end);
        let held = archive.contents();
        let exit = walring(&server, &archive, arguments).finish();
        assert_refused(&exit, &[OTHER]);
        assert!(archive.contents() == held, "files were touched");
        let claimed = server.sql("select count(*) from pg_stat_replication where flush_lsn is not null");
        assert_eq!(claimed, "0");
    }
}

#[test]
fn a_restored_primary_that_overtakes_while_nobody_listens_is_refused_on_reconnect() {
    let (server, archive) = (Server::start(), Archive::new());
    server.write_wal(100);
    server.stop_fast();
    let past = server.snapshot();
    server.start_again();
    let receiver = streaming(&server, &archive);
    let end = server.write_wal(1500);
    server.wait_flushed(end);
    server.stop_fast();
    receiver.wait_for_line("disconnected");
    let held = archive.contents();
    server.restore(&past.path().join("data"));
    // Nobody is let in before it has overtaken.
    server.set_hba("local all all trust\n");
    server.start_again();
    write_beyond(&server, end);
    server.set_hba("local all all trust\nlocal replication all trust\n");
    assert_refused(&receiver.finish(), &[OTHER]);
    assert!(archive.contents() == held, "files were touched");
}

#[test]
fn a_restored_primary_that_overtakes_behind_a_complete_segment_does_not_join() {
    let (server, archive) = (Server::start(), Archive::new());
    server.write_wal(100);
    server.stop_fast();
    let past = server.snapshot();
    server.start_again();
    let receiver = streaming(&server, &archive);
    server.write_wal(1500);
    let end = server.switch_wal();
    server.wait_flushed(end);
    until("the segment is finished", || {
        archive.partials().is_empty().then_some(())
    });
    receiver.kill();
    server.stop_immediate();
    server.restore(&past.path().join("data"));
    server.start_again();
    write_beyond(&server, end);
    let held = archive.contents();
    let exit = walring(&server, &archive, &["--synchronous"]).finish();
    assert_refused(&exit, &["received WAL is damaged: "]);
    assert!(
        exit.has_line_with(&["hint: ", "restored from an earlier state"]),
        "{exit:#?}"
    );
    // What came instead stands beside what is stored.
    let now = archive.contents();
    assert!(held.iter().all(|file| now.contains(file)), "files were touched");
}

#[test]
fn a_standby_that_lags_is_waited_for() {
    let (primary, archive) = (Server::start(), Archive::new());
    let standby = primary.standby();
    standby.sql("alter system set primary_conninfo = ''");
    standby.restart();
    let end = primary.write_wal(2500);
    receive_until(&primary, &archive, end);
    let held = archive.contents();
    let exit = walring(&standby, &archive, &["-n"]).finish();
    exit.assert_error(&common::program::error("disconnected"));
    assert!(exit.has_line_with(&[BEHIND, &end.to_string()]), "{exit:#?}");
    assert!(exit.has_line_with(&["detail: ", "standby"]), "{exit:#?}");
    let receiver = walring(&standby, &archive, &["-v", "--synchronous"]);
    // Said once, and in a log that tells everything with each attempt.
    receiver.wait_for_lines(BEHIND, 4);
    assert!(archive.contents() == held, "files were touched");
    standby.sql("alter system reset primary_conninfo");
    let socket = primary.socket_directory().display();
    let conninfo = format!("host={socket} port={} user=postgres", primary.port());
    standby.sql(&format!("alter system set primary_conninfo = '{conninfo}'"));
    standby.sql("select pg_reload_conf()");
    let end = primary.write_wal(100);
    standby.wait_flushed(end);
    let said = count_errors(&receiver.stderr(), BEHIND);
    receiver.stop();
    assert_eq!(said, 1);
    archive.assert_holds(&primary, 1, end);
}

#[test]
fn a_promoted_server_that_lacks_the_last_wal_is_followed_with_a_warning() {
    let Past { server, archive, end } = Past::received_little();
    let old = archive.partials();
    let held = archive.read(&old[0]);
    server.restart_as_standby();
    server.promote();
    let receiver = walring(&server, &archive, &["--synchronous"]);
    let new_end = server.write_wal(100);
    server.wait_flushed(new_end);
    let exit = receiver.stop();
    let line = "the server went on with timeline 2 at ";
    let warnings = exit.stderr.iter().filter(|said| said.contains(line));
    assert_eq!(warnings.count(), 1, "{exit:#?}");
    assert!(
        exit.has_line_with(&["warning: ", line, &end.to_string()]),
        "{exit:#?}"
    );
    assert!(
        archive.read(&old[0]) == held,
        "what only this archive has was touched"
    );
    archive.assert_holds(&server, 2, new_end);
    // The next start goes on with the new timeline, and has nothing to warn of.
    let newest_end = server.write_wal(100);
    let exit = receive_until(&server, &archive, newest_end);
    assert!(!exit.has_line_with(&["warning: "]), "{exit:#?}");
    archive.assert_holds(&server, 2, newest_end);
}

#[test]
fn a_promoted_server_that_lacks_segments_is_followed_with_a_warning() {
    for arguments in [&["--synchronous"][..], &["--verify=off"]] {
        let Past { server, archive, end } = Past::received();
        server.restart_as_standby();
        server.promote();
        let held = archive.contents();
        let new_end = server.write_wal(100);
        let receiver = walring(&server, &archive, &[arguments, &["--slot=kept"]].concat());
        receiver.wait_for_line("replication slot \"kept\" does not exist");
        server.sql("select pg_create_physical_replication_slot('kept')");
        server.wait_flushed(new_end);
        let exit = receiver.stop();
        let line = "the server went on with timeline 2 at ";
        assert!(
            exit.has_line_with(&["warning: ", line, &end.to_string()]),
            "{exit:#?}"
        );
        let warnings = exit.stderr.iter().filter(|said| said.contains(line));
        assert_eq!(warnings.count(), 1, "said with each attempt: {exit:#?}");
        assert!(
            exit.has_line_with(&["detail: ", "perhaps acknowledged"]),
            "{exit:#?}"
        );
        archive.assert_holds(&server, 2, new_end);
        // What only this archive has stays, and a start goes on with the new timeline all the same.
        let newest_end = server.write_wal(100);
        let exit = receive_until(&server, &archive, newest_end);
        assert!(!exit.has_line_with(&["warning: "]), "{exit:#?}");
        archive.assert_holds(&server, 2, newest_end);
        let now = archive.contents();
        assert!(held.iter().all(|file| now.contains(file)), "files were touched");
    }
}

/// Segments of timeline 1 reach further than those of timeline 2.
#[test]
fn what_was_left_behind_does_not_go_on_where_the_history_is_missing_or_damaged() {
    let Past { server, archive, .. } = Past::received();
    server.restart_as_standby();
    server.promote();
    let end = server.write_wal(100);
    receive_until(&server, &archive, end);
    let (name, history) = (HISTORY, archive.read(HISTORY));
    // Damaged: the file is named, and nothing else happens.
    for content in [&b""[..], &[0; 40]] {
        archive.write(name, content);
        let held = archive.contents();
        let exit = walring(&server, &archive, &["--synchronous"]).finish();
        assert_refused(&exit, &[archive.file(name).to_str().unwrap(), "is damaged: "]);
        assert!(archive.contents() == held, "files were touched");
    }
    // Missing: the server knows, and what is stored goes on where it was.
    std::fs::remove_file(archive.file(name)).unwrap();
    let end = server.write_wal(1500);
    let exit = receive_until(&server, &archive, end);
    assert!(!exit.has_line_with(&["warning: "]), "{exit:#?}");
    assert_eq!(archive.read(name), history);
    archive.assert_holds(&server, 2, end);
    // Nobody knows.
    for path in [archive.file(name), server.data().join("pg_wal").join(name)] {
        std::fs::remove_file(path).unwrap();
    }
    let held = archive.contents();
    let exit = walring(&server, &archive, &["--synchronous"]).finish();
    assert_refused(&exit, &[archive.file(name).to_str().unwrap(), "is missing, "]);
    assert!(archive.contents() == held, "files were touched");
}

#[test]
fn a_server_on_an_earlier_timeline_is_not_followed_where_the_history_is_missing() {
    let Past { server, archive, .. } = Past::received();
    let before = server.snapshot();
    server.restart_as_standby();
    server.promote();
    receive_until(&server, &archive, server.write_wal(100));
    std::fs::remove_file(archive.file(HISTORY)).unwrap();
    server.stop_fast();
    server.restore(&before.path().join("data"));
    server.start_again();
    server.write_wal(4000);
    let held = archive.contents();
    let exit = walring(&server, &archive, &["-n"]).finish();
    exit.assert_error(&common::program::error(
        "starting timeline 2 is not present in the server",
    ));
    assert!(archive.contents() == held, "files were touched");
}

#[test]
fn another_timeline_of_the_same_number_is_refused_by_where_it_began() {
    let Past { server, archive, .. } = Past::received();
    let past = server.snapshot();
    server.restart_as_standby();
    server.promote();
    receive_until(&server, &archive, server.write_wal(100));
    std::fs::remove_file(archive.file(HISTORY)).unwrap();
    server.stop_fast();
    server.restore(&past.path().join("data"));
    server.start_again();
    server.write_wal(6000);
    server.restart_as_standby();
    server.promote();
    let held = archive.contents();
    let exit = walring(&server, &archive, &["--synchronous"]).finish();
    assert_refused(
        &exit,
        &["timeline 2 of the server is not the timeline 2 that is stored"],
    );
    assert!(archive.contents() == held, "files were touched");
}

#[test]
fn another_timeline_of_the_same_number_is_refused() {
    let (server, archive) = (Server::start(), Archive::new());
    server.write_wal(100);
    server.stop_fast();
    let past = server.snapshot();
    server.restart_as_standby();
    server.promote();
    receive_until(&server, &archive, server.write_wal(100));
    let held = archive.contents();
    server.stop_fast();
    server.restore(&past.path().join("data"));
    server.start_again();
    server.write_wal(100);
    server.restart_as_standby();
    server.promote();
    server.write_wal(1500);
    for arguments in [&["-n"][..], &["--synchronous"]] {
        let exit = walring(&server, &archive, arguments).finish();
        assert_refused(
            &exit,
            &["timeline 2 of the server is not the timeline 2 that is stored"],
        );
        assert!(exit.has_line_with(&["detail: ", "00000002.history"]), "{exit:#?}");
        assert!(archive.contents() == held, "files were touched");
    }
}

#[test]
fn a_server_on_an_earlier_timeline_is_waited_for() {
    let (server, archive) = (Server::start(), Archive::new());
    server.write_wal(100);
    server.stop_fast();
    let before = server.snapshot();
    server.restart_as_standby();
    server.promote();
    receive_until(&server, &archive, server.write_wal(100));
    server.stop_fast();
    let after = server.snapshot();
    server.restore(&before.path().join("data"));
    server.start_again();
    let held = archive.contents();
    let line = "starting timeline 2 is not present in the server";
    let exit = walring(&server, &archive, &["-n"]).finish();
    exit.assert_error(&common::program::error(line));
    exit.assert_error(&common::program::error("disconnected"));
    let receiver = walring(&server, &archive, &["-v", "--synchronous"]);
    receiver.wait_for_lines(line, 3);
    assert!(archive.contents() == held, "files were touched");
    server.stop_fast();
    server.restore(&after.path().join("data"));
    server.start_again();
    let end = server.write_wal(100);
    server.wait_flushed(end);
    assert_eq!(count_errors(&receiver.stop().stderr, line), 1);
    archive.assert_holds(&server, 2, end);
}

#[test]
fn another_cluster_at_the_same_address_is_refused_when_it_comes_back() {
    for segment_mb in [1, 16] {
        let (server, archive) = (Server::start(), Archive::new());
        let receiver = streaming(&server, &archive);
        server.wait_flushed(server.write_wal(1500));
        server.stop_fast();
        receiver.wait_for_line("disconnected");
        let held = archive.contents();
        let other = ServerOptions::default()
            .another_cluster()
            .segment_mb(segment_mb)
            .create();
        server.restore(&other.data());
        server.append_config(ANY_SEGMENT_SIZE);
        server.start_again();
        let identifier = server.sql("select system_identifier from pg_control_system()");
        let exit = receiver.finish();
        assert_refused(
            &exit,
            &[
                "the server is another one: its system identifier is ",
                &identifier,
            ],
        );
        assert!(archive.contents() == held, "files were touched");
    }
}

#[test]
fn a_server_of_another_major_version_is_another_server() {
    let Some(newer) = Installation::version(18) else {
        return;
    };
    let (server, archive) = (Server::start(), Archive::new());
    receive_until(&server, &archive, server.write_wal(1500));
    let held = archive.contents();
    let upgraded = ServerOptions::default().version(&newer).start();
    let exit = walring(&upgraded, &archive, &["--synchronous"]).finish();
    assert_refused(&exit, &["does not belong to this server"]);
    assert!(archive.contents() == held, "files were touched");
}

#[test]
fn the_same_system_with_another_segment_size_is_refused() {
    let (server, archive) = (Server::start(), Archive::new());
    receive_until(&server, &archive, server.write_wal(1500));
    server.stop_fast();
    let mut reset = server.installation().server_command("pg_resetwal");
    reset.arg("--wal-segsize=16").arg(server.data());
    common::process::run(reset);
    server.append_config(ANY_SEGMENT_SIZE);
    server.start_again();
    let held = archive.contents();
    let exit = walring(&server, &archive, &["--synchronous"]).finish();
    assert_refused(&exit, &["does not belong to this server"]);
    assert!(
        exit.has_line_with(&["detail: ", "1048576 bytes", "16777216"]),
        "{exit:#?}"
    );
    assert!(archive.contents() == held, "files were touched");
}

/// A server whose later WAL was received and that is in the state of before, stopped.
struct Past {
    server: Server,
    archive: Archive,
    /// The end of what was received.
    end: Lsn,
}

impl Past {
    /// Some segments were received since.
    fn received() -> Past {
        Past::of(2500)
    }

    /// The end is in the same segment.
    fn received_little() -> Past {
        Past::of(100)
    }

    fn of(kilobytes: u32) -> Past {
        let (server, archive) = (Server::start(), Archive::new());
        server.switch_wal();
        server.write_wal(100);
        server.stop_fast();
        let past = server.snapshot();
        server.start_again();
        server.write_wal(kilobytes);
        let end = server.flush_lsn();
        receive_until(&server, &archive, end);
        server.stop_immediate();
        server.restore(&past.path().join("data"));
        Past { server, archive, end }
    }
}

/// Writes until the server is past the position.
fn write_beyond(server: &Server, end: Lsn) {
    until("the server overtakes", || {
        (server.write_wal(500).0 > end.0 + (1 << 20)).then_some(())
    });
}

/// Asserts that it ended by itself, with one error line, which contains these words, and a hint.
#[track_caller]
fn assert_refused(exit: &Exit, words: &[&str]) {
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    assert_eq!(count_errors(&exit.stderr, words[0]), 1, "{exit:#?}");
    assert!(exit.has_line_with(&[&["error: "], words].concat()), "{exit:#?}");
    assert!(exit.has_line_with(&["hint: "]), "{exit:#?}");
}

fn count_errors(stderr: &[String], text: &str) -> usize {
    let said = stderr
        .iter()
        .filter(|line| line.contains("error: ") && line.contains(text));
    said.count()
}

/// It follows one switch after the other, and is another server than the one that the stored history is of.
#[test]
fn the_history_of_a_timeline_that_the_server_has_lost_is_compared_with_that_of_its_newest() {
    let archive = Archive::new();
    archive.write(
        "00000002.history",
        b"1\t0/3000000\tno recovery target specified\n",
    );
    let identity = Identity {
        system_identifier: "7".to_owned(),
        timeline: "1".to_owned(),
        flushed: "0/3000100".to_owned(),
        segment_size: "1MB".to_owned(),
    };
    let server = Walsender::start(identity, |session| {
        session.stream()?;
        session.send(&[message(b'c', b""), rows(&[&["2", "0/3000000"]])].concat())?;
        loop {
            let (b'Q', command) = session.hear()? else {
                continue;
            };
            let answer = match String::from_utf8_lossy(&command).trim_end_matches('\0') {
                "IDENTIFY_SYSTEM" => rows(&[&["7", "3", "0/4000000"]]),
                "TIMELINE_HISTORY 3" => {
                    let content = "1\t0/2000000\tother\n2\t0/3800000\tother\n";
                    rows(&[&["00000003.history", content]])
                }
                _ => [error("ERROR", "58P01", "could not open file"), ready()].concat(),
            };
            session.send(&answer)?;
        }
    });
    let exit = meeting::receiver(&server, &archive, &["-n"]).finish();
    let words = ["error: timeline 2 of the server is not the timeline 2 that is stored"];
    assert!(exit.has_line_with(&words), "{exit:#?}");
}
