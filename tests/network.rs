//! Reaching the server: sockets, connection strings, passwords; and links that are slow, cut or dead.
mod common;

use std::net::TcpListener;
use std::process::Command;

use rustix::process::{Pid, Signal};

use common::login::server_asking_for;
use common::process::{Exit, Stopped};
use common::receiver::wait_for_streaming;
use common::relay::Relay;
use common::wait::until;
use common::{Archive, Process, Server, ServerOptions, program, walring};

#[test]
fn every_way_to_name_a_server_reaches_it() {
    let server = Server::start();
    let (socket, port) = (server.socket_directory().display().to_string(), server.port());
    let escaped = socket.replace('/', "%2F");
    let strings = [
        format!("host={socket} port={port} user=postgres"),
        format!("host=127.0.0.1 port={port} user='postgres' dbname=ignored"),
        format!("postgresql://postgres@127.0.0.1:{port}/"),
        format!("postgres://postgres@localhost:{port}?connect_timeout=10"),
        format!("postgresql://postgres@{escaped}:{port}"),
        format!("hostaddr=127.0.0.1 port={port} user=postgres"),
    ];
    for string in strings {
        let archive = Archive::new();
        receive_up_to_now(&server, &archive, |command| command.args(["-d", &string])).assert_success();
    }
}

#[test]
fn the_environment_names_a_server_too() {
    let (server, archive) = (Server::start(), Archive::new());
    let port = server.port().to_string();
    let exit = receive_up_to_now(&server, &archive, |command| {
        command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", &port)
            .env("PGUSER", "postgres")
    });
    exit.assert_success();
}

#[test]
fn options_override_the_connection_string() {
    let (server, archive) = (Server::start(), Archive::new());
    let port = server.port().to_string();
    let exit = receive_up_to_now(&server, &archive, |command| {
        command.args(["-d", "host=/nonexistent port=1 user=nobody"]);
        command.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres"])
    });
    exit.assert_success();
}

#[test]
fn passwords_are_given_in_the_way_the_server_asks_for() {
    let server = server_asking_for("secret ü");
    for user in ["clear", "md5", "scram"] {
        let archive = Archive::new();
        let right = log_in(&server, &archive, user, Some("secret ü"));
        right.assert_success();
        let wrong = log_in(&server, &archive, user, Some("wrong"));
        assert_eq!(wrong.code, Some(1), "{wrong:#?}");
        let message = format!("FATAL:  password authentication failed for user \"{user}\"");
        assert!(wrong.has_line_with(&["error: ", &message]), "{wrong:#?}");
    }
}

#[test]
fn a_missing_password_is_an_error_when_asking_is_forbidden() {
    let server = server_asking_for("secret ü");
    let archive = Archive::new();
    let exit = log_in(&server, &archive, "scram", None);
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    assert!(
        exit.has_line_with(&["error: ", "no password supplied"]),
        "{exit:#?}"
    );
}

#[test]
fn a_role_without_replication_is_refused_in_the_servers_words() {
    let (server, archive) = (Server::start(), Archive::new());
    server.sql("create role clerk login");
    let exit = receive_up_to_now(&server, &archive, |command| {
        command.arg("-h").arg(server.socket_directory()).args([
            "-p",
            &server.port().to_string(),
            "-U",
            "clerk",
        ])
    });
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    assert!(
        exit.has_line_with(&["error: ", "FATAL:  must be superuser or replication role"]),
        "{exit:#?}"
    );
}

#[test]
fn the_application_name_is_the_programs_unless_another_is_given() {
    let (server, archive) = (Server::start(), Archive::new());
    let names = || server.sql("select application_name from pg_stat_replication where state = 'streaming'");
    for (string, expected) in [
        ("user=postgres", program::name()),
        ("application_name=north", "north".to_owned()),
    ] {
        let mut command = plain(&archive);
        command
            .arg("-h")
            .arg(server.socket_directory())
            .args(["-p", &server.port().to_string()]);
        command.args(["-U", "postgres", "-d", string]);
        let receiver = Process::spawn(command);
        until("it streams under its name", || {
            (names() == expected).then_some(())
        });
        receiver.stop();
        until("it is gone", || names().is_empty().then_some(()));
    }
}

#[test]
fn a_server_that_is_down_ends_the_first_attempt_with_no_loop() {
    let (server, archive) = (ServerOptions::default().create(), Archive::new());
    let exit = walring(&server, &archive, &["-n"]).finish();
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    assert!(
        exit.has_line_with(&["error: ", "connection to server on socket", "failed"]),
        "{exit:#?}"
    );
}

#[test]
fn a_server_that_is_down_at_first_is_waited_for() {
    let (server, archive) = (ServerOptions::default().create(), Archive::new());
    let receiver = walring(&server, &archive, &["--synchronous"]);
    receiver.wait_for_line("connection to server");
    server.start_again();
    let end = server.write_wal(10);
    server.wait_flushed(end);
    receiver.stop();
    archive.assert_holds(&server, 1, end);
}

#[test]
fn a_server_that_does_not_answer_is_given_up_after_the_connect_timeout() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let archive = Archive::new();
    let mut command = plain(&archive);
    command.args([
        "-n",
        "-d",
        &format!("host=127.0.0.1 port={port} user=postgres connect_timeout=2"),
    ]);
    let exit = Process::spawn(command).finish();
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    assert!(exit.has_line_with(&["error: ", "timeout"]), "{exit:#?}");
}

#[test]
fn a_walsender_that_falls_silent_is_left_after_the_receive_timeout() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = walring(&server, &archive, &["--synchronous", "--receive-timeout=2"]);
    wait_for_streaming(&server);
    let pid: i32 = server.receiver_column("pid").unwrap().parse().unwrap();
    let stopped = Stopped::processes(&[Pid::from_raw(pid).unwrap()]);
    receiver.wait_for_line("timeout");
    let others =
        format!("select count(*) from pg_stat_replication where pid <> {pid} and state = 'streaming'");
    until("it streams on another connection", || {
        (server.sql(&others) == "1").then_some(())
    });
    drop(stopped);
    let end = server.write_wal(100);
    until("the old connection is gone", || {
        (receiver_count(&server) == "1").then_some(())
    });
    server.wait_flushed(end);
    receiver.stop();
    archive.assert_holds(&server, 1, end);
}

#[test]
fn a_stream_in_small_odd_pieces_is_the_same_wal() {
    let (server, archive) = (Server::start(), Archive::new());
    let relay = Relay::to(server.port(), 37, u64::MAX);
    let receiver = Process::spawn(through(&relay, &archive));
    wait_for_streaming(&server);
    let mut end = server.flush_lsn();
    for kilobytes in [1, 3, 300, 1, 700] {
        end = server.write_wal(kilobytes);
    }
    server.wait_flushed(end);
    receiver.stop();
    archive.assert_holds(&server, 1, end);
}

#[test]
fn a_connection_cut_in_the_middle_of_messages_is_resumed_without_loss() {
    let (server, archive) = (Server::start(), Archive::new());
    // A connection carries a segment and a bit: progress is possible wherever in a segment it is resumed.
    let relay = Relay::to(server.port(), 8192, 1_345_678);
    let receiver = Process::spawn(through(&relay, &archive));
    wait_for_streaming(&server);
    let end = server.write_wal(4000);
    server.wait_flushed(end);
    assert!(relay.connections() >= 3, "{} connections", relay.connections());
    receiver.stop();
    archive.assert_holds(&server, 1, end);
}

#[test]
fn a_stream_that_falls_silent_is_left_after_the_receive_timeout() {
    let (server, archive) = (Server::start(), Archive::new());
    let relay = Relay::plain(server.port());
    let receiver = Process::spawn(patient(&relay, &archive, 2));
    server.wait_flushed(server.write_wal(10));
    relay.fall_silent();
    receiver.wait_for_line("timeout");
    assert_goes_on(&server, &archive, receiver);
}

#[test]
fn a_stream_that_falls_silent_in_a_catch_up_is_left_after_the_receive_timeout() {
    let (server, archive) = (Server::start(), Archive::new());
    let relay = Relay::metered(server.port(), 3 << 20);
    let receiver = Process::spawn(patient(&relay, &archive, 2));
    wait_for_streaming(&server);
    server.write_wal(8000);
    receiver.wait_for_line("timeout");
    relay.allow(1 << 40);
    assert_goes_on(&server, &archive, receiver);
}

#[test]
fn a_server_that_falls_silent_before_streaming_is_left_after_the_receive_timeout() {
    for command in SILENT_AT {
        let (server, archive) = (Server::start(), Archive::new());
        let relay = Relay::silent_from(server.port(), command);
        let receiver = Process::spawn(patient(&relay, &archive, 2));
        receiver.wait_for_line("timeout");
        assert_goes_on(&server, &archive, receiver);
    }
}

#[test]
fn signals_end_a_stream_that_has_fallen_silent() {
    for signal in [Signal::INT, Signal::TERM] {
        let (server, archive) = (Server::start(), Archive::new());
        let relay = Relay::plain(server.port());
        let receiver = Process::spawn(patient(&relay, &archive, NEVER));
        let end = server.write_wal(10);
        server.wait_flushed(end);
        relay.fall_silent();
        receiver.end_by(signal).assert_success();
        archive.assert_holds(&server, 1, end);
    }
}

#[test]
fn signals_end_the_wait_for_a_server_that_has_fallen_silent_before_streaming() {
    for command in SILENT_AT {
        let (server, archive) = (Server::start(), Archive::new());
        let relay = Relay::silent_from(server.port(), command);
        let receiver = Process::spawn(patient(&relay, &archive, NEVER));
        relay.wait_for_silence();
        receiver.end_by(Signal::TERM).assert_success();
    }
}

/// The first and the last thing that is asked once logged in, and what lies between.
const SILENT_AT: [&str; 3] = ["SHOW ", "IDENTIFY_SYSTEM", "START_REPLICATION"];

/// A receive timeout, in seconds, that no test reaches.
const NEVER: u32 = 1000;

/// Receives through the relay, with a receive timeout in seconds.
fn patient(relay: &Relay, archive: &Archive, seconds: u32) -> Command {
    let mut command = through(relay, archive);
    command.args(["--receive-timeout", &seconds.to_string()]);
    command
}

/// Asserts that the receiver comes back by itself, on another connection, and holds everything.
fn assert_goes_on(server: &Server, archive: &Archive, receiver: Process) {
    let end = server.write_wal(100);
    server.wait_flushed(end);
    receiver.stop();
    archive.assert_holds(server, 1, end);
}

fn plain(archive: &Archive) -> Command {
    let mut command = program::receive();
    command.arg("-D").arg(archive.path());
    command
}

fn through(relay: &Relay, archive: &Archive) -> Command {
    let mut command = plain(archive);
    command.args([
        "--synchronous",
        "-h",
        "127.0.0.1",
        "-U",
        "postgres",
        "-p",
        &relay.port().to_string(),
    ]);
    command.env("PGAPPNAME", common::server::RECEIVER_NAME);
    command
}

/// Receives what the server has, with a connection that the test describes.
fn receive_up_to_now(
    server: &Server,
    archive: &Archive,
    connection: impl FnOnce(&mut Command) -> &mut Command,
) -> Exit {
    let now = server.write_wal(1).to_string();
    server.write_wal(1);
    let mut command = plain(archive);
    command.args(["-n", "--endpos", &now]);
    connection(&mut command);
    Process::spawn(command).finish()
}

fn log_in(server: &Server, archive: &Archive, user: &str, password: Option<&str>) -> Exit {
    let port = server.port().to_string();
    receive_up_to_now(server, archive, |command| {
        if let Some(password) = password {
            command.env("PGPASSWORD", password);
        }
        command.args(["-w", "-h", "127.0.0.1", "-p", &port, "-U", user])
    })
}

fn receiver_count(server: &Server) -> String {
    server.sql("select count(*) from pg_stat_replication")
}
