//! Where streaming starts: behind the newest segment of the directory, whatever state its partial is in.
mod common;

use common::receiver::{receive_until, streaming};
use common::{Archive, Lsn, Server, ServerOptions, walring};

#[test]
fn an_empty_directory_starts_with_the_servers_current_segment() {
    let (server, archive) = (Server::start(), Archive::new());
    server.switch_wal();
    let current = server.write_wal(10);
    receive_until(&server, &archive, current);
    assert_eq!(
        archive.names(),
        [format!(
            "{}.partial",
            current.segment_name(1, server.segment_bytes())
        )]
    );
}

#[test]
fn a_start_position_can_be_given_for_an_empty_directory() {
    let (server, archive) = (Server::start(), Archive::new());
    let from = server.write_wal(10);
    server.switch_wal();
    server.switch_wal();
    let end = server.write_wal(10);
    let receiver = walring(
        &server,
        &archive,
        &["--synchronous", "--start-lsn", &from.to_string()],
    );
    server.wait_flushed(end);
    receiver.stop();
    assert_eq!(
        archive.segments()[0],
        from.segment_name(1, server.segment_bytes())
    );
    archive.assert_holds(&server, 1, end);
}

#[test]
fn a_partial_segment_is_continued_under_its_name() {
    let (server, archive) = (Server::start(), Archive::new());
    receive_until(&server, &archive, server.write_wal(100));
    let partial = archive.partials();
    server.switch_wal();
    let end = server.write_wal(10);
    receive_until(&server, &archive, end);
    assert_eq!(archive.segments()[0], partial[0].trim_end_matches(".partial"));
    archive.assert_holds(&server, 1, end);
}

#[test]
fn a_partial_of_a_wrong_size_is_continued_without_repair() {
    let server = Server::start();
    for size in [0, 100, 8192, 300_001, (1 << 20) - 1, (1 << 20) + 5, 3 << 20] {
        let archive = Archive::new();
        receive_until(&server, &archive, server.write_wal(100));
        let partial = archive.partials().remove(0);
        let file = std::fs::File::options()
            .write(true)
            .open(archive.file(&partial))
            .unwrap();
        file.set_len(size).unwrap();
        server.write_wal(10);
        server.switch_wal();
        let end = server.write_wal(10);
        receive_until(&server, &archive, end);
        archive.assert_holds(&server, 1, end);
        assert_eq!(archive.partials().len(), 1, "size {size}: {:?}", archive.names());
    }
}

#[test]
fn a_finished_segment_of_a_wrong_size_is_reported() {
    let (server, archive) = (Server::start(), Archive::new());
    receive_until(&server, &archive, server.write_wal(10));
    let broken = "0000000100000000000000FF";
    archive.write(broken, b"too short");
    let receiver = walring(&server, &archive, &["--synchronous", "-n"]);
    receiver.wait_for_line(&format!(
        "warning: segment file \"{broken}\" has incorrect size 9, skipping"
    ));
}

#[test]
fn names_of_other_kinds_are_left_alone() {
    let (server, archive) = (Server::start(), Archive::new());
    let others = [
        "00000001000000000000007f",
        "0000000100000000000000FF.zst",
        "README",
        "000000010000000000000F",
    ];
    for name in others {
        archive.write(name, b"not ours");
    }
    let end = server.write_wal(10);
    receive_until(&server, &archive, end);
    archive.assert_partial_holds(&server, 1, end);
    assert!(others.iter().all(|name| archive.read(name) == b"not ours"));
}

#[test]
fn names_go_on_across_the_four_gigabyte_line() {
    let server = ServerOptions::default().create();
    let mut reset = server.installation().server_command("pg_resetwal");
    reset
        .args(["-l", "000000010000000000000FFE", "-D"])
        .arg(server.data());
    common::process::run(reset);
    server.start_again();
    let archive = Archive::new();
    let receiver = streaming(&server, &archive);
    let mut end = server.flush_lsn();
    while end <= Lsn((4 << 30) + (1 << 20)) {
        end = server.switch_wal();
    }
    server.wait_flushed(end);
    receiver.stop();
    let segments = archive.segments();
    assert!(
        segments.contains(&"000000010000000000000FFF".to_owned()),
        "{segments:?}"
    );
    assert!(
        segments.contains(&"000000010000000100000000".to_owned()),
        "{segments:?}"
    );
    archive.assert_holds(&server, 1, end);
    receive_until(&server, &archive, server.write_wal(10));
}

#[test]
fn a_directory_ahead_of_the_server_is_an_error_and_stays_as_it_is() {
    let (server, archive) = (Server::start(), Archive::new());
    let rewound = server.base_backup(&["-X", "fetch"]);
    server.switch_wal();
    server.switch_wal();
    receive_until(&server, &archive, server.write_wal(10));
    let before: Vec<_> = archive
        .names()
        .into_iter()
        .map(|name| archive.read(&name))
        .collect();
    rewound.start_again();
    let exit = walring(&rewound, &archive, &["-n"]).finish();
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    assert!(
        exit.has_line_with(&["error: ", "the server is behind what is stored: its WAL ends at"]),
        "{exit:#?}"
    );
    let after: Vec<_> = archive
        .names()
        .into_iter()
        .map(|name| archive.read(&name))
        .collect();
    assert!(before == after, "files were touched: {:?}", archive.names());
}
