//! Starting receivers: the program under test, and PostgreSQL's own to compare with.

use std::path::Path;
use std::process::Command;

use super::process::{Exit, Process};
use super::server::{RECEIVER_NAME, Server};
use super::wait::until;
use super::{Archive, program};

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
