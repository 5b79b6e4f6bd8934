//! Somebody on the way, or a broken server, does harm to the records of TLS: nothing of it is taken for WAL, the
//! connection is made again, and in the end everything is there.
mod common;

use common::receiver::{wait_for_nobody, wait_for_streaming, walring_at};
use common::terminator::{Harm, Manner, terminate};
use common::tls::{conninfo, server_with_tls};
use common::{Archive, Server, at_once};

/// Everything that can happen to one record.
const HARMS: [Harm; 17] = [
    Harm::Flip,
    Harm::FlipProof,
    Harm::Repeat,
    Harm::Lose,
    Harm::Swap,
    Harm::Kind(20),
    Harm::Kind(21),
    Harm::Kind(22),
    Harm::Kind(0),
    Harm::TooLong,
    Harm::Truncate,
    Harm::Cut,
    Harm::Farewell,
    Harm::Plain(23, b"plain content"),
    Harm::Plain(22, &[0, 0, 0, 0]),
    Harm::Plain(21, &[1, 0]),
    Harm::Plain(20, &[1, 1]),
];

/// The harm is noticed, the connection made again, and nothing is missing or wrong.
fn survives(server: &Server, manner: Manner) {
    let what = format!("{:?}", manner.harm);
    let archive = Archive::new();
    let aim = conninfo(terminate(server.port(), manner));
    let receiver = walring_at(&aim, &archive, &["--synchronous", "--no-password"]);
    wait_for_streaming(server);
    let end = server.write_wal(1000);
    receiver.wait_for_line("disconnected");
    server.wait_flushed(end);
    let exit = receiver.stop();
    assert!(!exit.has_line_with(&["panicked"]), "{what}: {exit:#?}");
    archive.assert_holds(server, 1, end);
    wait_for_nobody(server);
}

/// Each harm in the stream, behind so many bytes of content.
fn every_harm_is_survived(manner: &Manner, behind: u64) {
    let server = server_with_tls();
    for harm in HARMS {
        let harm = Some((behind, harm));
        survives(
            &server,
            Manner {
                harm,
                ..manner.clone()
            },
        );
    }
}

#[test]
fn every_harm_to_a_record_of_the_newest_version_is_survived() {
    every_harm_is_survived(&Manner::default(), 300_000);
}

#[test]
fn every_harm_to_a_record_of_the_version_before_is_survived() {
    let version = &rustls::version::TLS12;
    every_harm_is_survived(
        &Manner {
            version,
            ..Manner::default()
        },
        300_000,
    );
}

#[test]
fn every_harm_to_a_short_record_is_survived() {
    let record = Some(500);
    every_harm_is_survived(
        &Manner {
            record,
            ..Manner::default()
        },
        300_000,
    );
}

#[test]
fn harm_to_the_first_records_is_an_error_of_the_connection() {
    let server = server_with_tls();
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        at_once(HARMS, |harm| {
            let archive = Archive::new();
            let manner = Manner {
                version,
                harm: Some((0, harm)),
                ..Manner::default()
            };
            let aim = format!("{} connect_timeout=5", conninfo(terminate(server.port(), manner)));
            let exit = walring_at(&aim, &archive, &["--no-loop", "--no-password"]).finish();
            assert_eq!(exit.code, Some(1), "{harm:?}: {exit:#?}");
            assert!(
                exit.has_line_with(&["error: connection to server at"]),
                "{harm:?}: {exit:#?}"
            );
            assert!(archive.names().is_empty(), "{harm:?}: {:?}", archive.names());
        });
    }
}
