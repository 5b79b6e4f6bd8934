//! Who may read the archive: its owner, or the group too where the server's own data may be read by it.
mod common;

use std::os::unix::fs::PermissionsExt;

use common::receiver::streaming;
use common::{Archive, Server, ServerOptions, process};

#[test]
fn files_are_for_the_owner_only() {
    let (server, archive) = (Server::start(), Archive::new());
    receive_something(&server, &archive);
    assert_modes(&archive, 0o600);
}

#[test]
fn files_are_for_the_group_too_where_the_servers_are() {
    let server = ServerOptions::default().create();
    let mut allow = std::process::Command::new("chmod");
    allow.args(["-R", "g+rX"]).arg(server.data());
    process::run(allow);
    server.start_again();
    let archive = Archive::new();
    receive_something(&server, &archive);
    assert_modes(&archive, 0o640);
}

/// A finished segment, a partial one and a history file.
fn receive_something(server: &Server, archive: &Archive) {
    server.restart_as_standby();
    server.promote();
    let receiver = streaming(server, archive);
    server.wait_flushed(server.write_wal(1500));
    receiver.stop();
    let kinds = [
        archive.segments(),
        archive.partials(),
        vec!["00000002.history".to_owned()],
    ];
    assert!(
        kinds
            .iter()
            .all(|kind| kind.iter().any(|name| archive.names().contains(name))),
        "{kinds:?}"
    );
}

#[track_caller]
fn assert_modes(archive: &Archive, expected: u32) {
    for entry in std::fs::read_dir(archive.path()).expect("list the archive") {
        let entry = entry.expect("an entry");
        let mode = entry.metadata().expect("metadata").permissions().mode() & 0o777;
        assert_eq!(
            format!("{mode:o}"),
            format!("{expected:o}"),
            "{:?}",
            entry.file_name()
        );
    }
}
