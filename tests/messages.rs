//! What walring says on stderr: the messages of `pg_receivewal -v`, or JSON.
mod common;

use common::process::Exit;
use common::receiver::{pg_receivewal_command, walring_command};
use common::{Archive, Process, Server, pg_receivewal, program, walring};

#[test]
fn verbose_messages_are_those_of_pg_receivewal() {
    let server = Server::start();
    let (ours, theirs) = (Archive::new(), Archive::new());
    let start = server.write_wal(10).to_string();
    server.write_wal(10);
    for archive in [&ours, &theirs] {
        pg_receivewal(&server, archive, &["-n", "-E", &start])
            .finish()
            .assert_success();
    }
    server.switch_wal();
    server.switch_wal();
    let end = server.write_wal(10).to_string();
    server.write_wal(10);
    let arguments = ["-n", "-v", "--synchronous", "--endpos", &end];
    let ours = Process::spawn(walring_command(&server, &ours, &arguments)).finish();
    let theirs = Process::spawn(pg_receivewal_command(&server, &theirs, &arguments)).finish();
    assert_same_messages(&ours, &theirs);
}

#[test]
fn a_timeline_switch_is_told_as_pg_receivewal_does() {
    let server = Server::start();
    let (ours, theirs) = (Archive::new(), Archive::new());
    let old = server.write_wal(10).to_string();
    server.write_wal(10);
    for archive in [&ours, &theirs] {
        pg_receivewal(&server, archive, &["-n", "-E", &old])
            .finish()
            .assert_success();
    }
    server.restart_as_standby();
    server.promote();
    let end = server.write_wal(10).to_string();
    server.write_wal(10);
    let arguments = ["-n", "-v", "--synchronous", "--endpos", &end];
    let ours = Process::spawn(walring_command(&server, &ours, &arguments)).finish();
    let theirs = Process::spawn(pg_receivewal_command(&server, &theirs, &arguments)).finish();
    assert!(theirs.has_line_with(&["switched to timeline 2"]), "{theirs:#?}");
    assert_same_messages(&ours, &theirs);
}

#[test]
fn slot_actions_are_told_when_verbose() {
    let server = Server::start();
    for (action, message) in [("--create-slot", "creating"), ("--drop-slot", "dropping")] {
        let archive = Archive::new();
        let exit = walring(&server, &archive, &["-v", "--slot=s1", action]).finish();
        let line = format!("{}: {message} replication slot \"s1\"", program::name());
        assert!(exit.stderr.contains(&line), "{exit:#?}");
    }
}

#[test]
fn a_stop_by_signal_is_told_when_verbose() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = walring(&server, &archive, &["-v", "--synchronous"]);
    server.wait_flushed(server.write_wal(10));
    let exit = receiver.stop();
    assert!(
        exit.has_line_with(&["received interrupt signal, exiting"]),
        "{exit:#?}"
    );
    assert!(
        exit.has_line_with(&["not renaming", "segment is not complete"]),
        "{exit:#?}"
    );
}

#[test]
fn json_lines_are_json() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = walring(&server, &archive, &["-v", "--synchronous", "--log-format=json"]);
    server.wait_flushed(server.switch_wal());
    receiver.wait_for_line("finished segment");
    let exit = receiver.stop();
    for line in &exit.stderr {
        let keys = server.sql(&format!(
            "select string_agg(key, ' ') from json_object_keys($json${line}$json$) as key"
        ));
        assert!(keys.contains("level") && keys.contains("timestamp"), "{line}");
    }
}

#[test]
fn json_errors_are_json() {
    let (server, archive) = (Server::start(), Archive::new());
    let exit = walring(&server, &archive, &["-n", "--slot=missing", "--log-format=json"]).finish();
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    let line = exit.stderr.last().expect("an error");
    assert_eq!(
        server.sql(&format!("select lower($json${line}$json$::json->>'level')")),
        "error"
    );
}

/// The same messages, but each once: `pg_receivewal` repeats those about its end.
#[track_caller]
fn assert_same_messages(ours: &Exit, theirs: &Exit) {
    let mut expected = texts(&theirs.stderr);
    expected.sort_unstable();
    expected.dedup();
    let mut said = texts(&ours.stderr);
    said.sort_unstable();
    assert_eq!(said, expected, "{:#?}", ours.stderr);
}

/// The lines without the program's name.
fn texts(lines: &[String]) -> Vec<&str> {
    lines
        .iter()
        .map(|line| line.split_once(": ").map_or(line.as_str(), |(_, text)| text))
        .collect()
}
