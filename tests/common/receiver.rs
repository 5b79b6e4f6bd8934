//! Starting receivers: the program under test, and PostgreSQL's own to compare with.

use std::path::Path;
use std::process::Command;

use super::process::{Exit, Process};
use super::server::{RECEIVER_NAME, Server};
use super::wait::until;
use super::{Archive, Lsn, program};

/// The program under test, receiving from the server into the archive.
pub fn walring(server: &Server, archive: &Archive, arguments: &[&str]) -> Process {
    Process::spawn(walring_command(server, archive, arguments))
}

/// The command line of [`walring`], for tests that change it further.
pub fn walring_command(server: &Server, archive: &Archive, arguments: &[&str]) -> Command {
    aim(program::receive(), server, archive.path(), arguments)
}

/// The program under test, once it streams synchronously: what is written from now on goes through it.
pub fn streaming(server: &Server, archive: &Archive) -> Process {
    let receiver = walring(server, archive, &["--synchronous"]);
    wait_for_streaming(server);
    receiver
}

/// PostgreSQL's own receiver, to compare with.
pub fn pg_receivewal(server: &Server, archive: &Archive, arguments: &[&str]) -> Process {
    Process::spawn(pg_receivewal_command(server, archive, arguments))
}

/// The command line of [`pg_receivewal`], for tests that change it further.
pub fn pg_receivewal_command(server: &Server, archive: &Archive, arguments: &[&str]) -> Command {
    aim(
        server.installation().command("pg_receivewal"),
        server,
        archive.path(),
        arguments,
    )
}

/// Any program that understands the options of `pg_receivewal`.
pub fn aim(mut command: Command, server: &Server, directory: &Path, arguments: &[&str]) -> Command {
    command
        .arg("-D")
        .arg(directory)
        .arg("-h")
        .arg(server.socket_directory());
    command
        .args(["-p", &server.port().to_string(), "-U", "postgres"])
        .args(arguments);
    command.env("PGAPPNAME", RECEIVER_NAME);
    command
}

/// The program under test, receiving from where the connection string leads into the archive.
pub fn walring_at(conninfo: &str, archive: &Archive, arguments: &[&str]) -> Process {
    Process::spawn(aim_at(program::receive(), conninfo, archive.path(), arguments))
}

/// Any program that understands the options of `pg_receivewal`, led to its server by a connection string.
pub fn aim_at(mut command: Command, conninfo: &str, directory: &Path, arguments: &[&str]) -> Command {
    command
        .arg("-D")
        .arg(directory)
        .args(["-d", conninfo])
        .args(arguments);
    command.env("PGAPPNAME", RECEIVER_NAME);
    command
}

/// Leads the user `postgres` to a port of this machine.
pub fn at_port(port: u16) -> String {
    format!("host=127.0.0.1 port={port} user=postgres")
}

/// Receives until the position is durable, and stops.
pub fn receive_until(server: &Server, archive: &Archive, end: Lsn) -> Exit {
    let receiver = walring(server, archive, &["--synchronous"]);
    server.wait_flushed(end);
    receiver.stop()
}

/// Runs the program under test to its end with these arguments only.
pub fn run(arguments: &[&str]) -> Exit {
    let mut command = program::receive();
    command.args(arguments);
    Process::spawn(command).finish()
}

/// Waits until the server has noticed that its receivers are gone: until then it still tells of a killed one.
pub fn wait_for_nobody(server: &Server) {
    until("the server has no receiver", || {
        (server.sql("select count(*) from pg_stat_replication") == "0").then_some(())
    });
}

/// Waits until the server has the receiver in state `streaming`.
pub fn wait_for_streaming(server: &Server) {
    until("the receiver streams", || {
        server
            .receiver_column("state")
            .filter(|state| state == "streaming")
    });
}

/// Commits wait for the receiver, which streams, from now on.
pub fn make_synchronous(server: &Server) {
    make_synchronous_as(server, RECEIVER_NAME);
}

/// The same, by what `synchronous_standby_names` can say of it.
pub fn make_synchronous_as(server: &Server, names: &str) {
    wait_for_streaming(server);
    server.sql(&format!("alter system set synchronous_standby_names = '{names}'"));
    server.reload();
    until("commits wait for the receiver", || {
        let state = server.receiver_column("sync_state")?;
        matches!(state.as_str(), "sync" | "quorum").then_some(())
    });
}

/// A server is promoted while it is received from: asserts that the new timeline comes on the same connection, and that
/// nothing is missing.
#[track_caller]
pub fn assert_follows_promotion(server: &Server, archive: &Archive, start: impl FnOnce() -> Process) {
    server.write_wal(10);
    server.restart_as_standby();
    let receiver = start();
    wait_for_streaming(server);
    let walsender = server.receiver_column("pid");
    server.promote();
    let end = server.write_wal(1500);
    server.wait_flushed(end);
    assert_eq!(
        server.receiver_column("pid"),
        walsender,
        "{:#?}",
        receiver.stderr()
    );
    let exit = receiver.stop();
    assert!(!exit.has_line_with(&["warning: "]), "{exit:#?}");
    archive.assert_holds(server, 2, end);
}
