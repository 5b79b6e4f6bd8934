//! One directory, two programs: walring and `pg_receivewal` continue each other's work.
mod common;

use std::os::unix::fs::symlink;

use common::receiver::aim;
use common::{Archive, Installation, Process, Server, ServerOptions, pg_receivewal, walring};

type Start = fn(&Server, &Archive, &[&str]) -> Process;

#[test]
fn each_continues_what_the_other_left_in_every_version() {
    for installation in Installation::all() {
        let server = ServerOptions::default().version(&installation).start();
        take_turns(
            &server,
            &[walring, pg_receivewal, walring, walring, pg_receivewal, walring],
            Process::stop,
        );
    }
}

#[test]
fn each_continues_what_the_other_left_when_killed() {
    let server = Server::start();
    take_turns(
        &server,
        &[walring, pg_receivewal, walring, pg_receivewal, walring],
        Process::kill,
    );
}

#[test]
fn under_the_name_of_pg_receivewal_it_needs_no_command() {
    let (server, archive, bin) = (Server::start(), Archive::new(), Archive::new());
    let link = bin.file("pg_receivewal");
    symlink(env!("CARGO_BIN_EXE_walring"), &link).unwrap();
    let command = common::postgres::clean(std::process::Command::new(link));
    let end = server.write_wal(10);
    server.write_wal(10);
    let endpos = end.to_string();
    let exit = Process::spawn(aim(command, &server, archive.path(), &["-n", "-E", &endpos])).finish();
    exit.assert_success();
    archive.assert_holds(&server, 1, end);
}

/// Every program receives a good segment's worth of WAL, ends in the middle of a segment, and leaves the rest.
fn take_turns<T>(server: &Server, turns: &[Start], end_of_turn: fn(Process) -> T) {
    let archive = Archive::new();
    let mut end = server.flush_lsn();
    for start in turns {
        let receiver = start(server, &archive, &["--synchronous"]);
        end = server.write_wal(1300);
        server.wait_flushed(end);
        end_of_turn(receiver);
        archive.assert_holds(server, 1, end);
    }
    assert_eq!(archive.partials().len(), 1, "{:?}", archive.names());
    archive.assert_holds(server, 1, end);
}
