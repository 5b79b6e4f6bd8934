//! A disk that is full, breaks or is taken away: one clear line, nothing acknowledged that is not there, and going on
//! by itself as soon as that is possible.
mod common;

use common::receiver::{streaming, wait_for_streaming};
use common::wait::until;
use common::{Archive, Process, Server, SmallDisk, walring};

const FULL: &str = "No space left on device";

#[test]
fn a_full_disk_is_told_in_one_line_that_names_the_file() {
    for arguments in [&["-n", "--synchronous"][..], &["-n"]] {
        let Some(disk) = SmallDisk::mount(64) else { return };
        let (server, archive) = (Server::start(), Archive::below(&disk.path()));
        disk.fill_up_to(4);
        let receiver = walring(&server, &archive, arguments);
        wait_for_streaming(&server);
        server.write_wal(8000);
        let exit = receiver.finish();
        assert_eq!(exit.code, Some(1), "{exit:#?}");
        // A warning may come one segment earlier.
        let is_named = |line: &&String| line.contains("error: ") && line.contains(FULL);
        let lines: Vec<&String> = exit.stderr.iter().filter(is_named).collect();
        assert_eq!(lines.len(), 1, "{exit:#?}");
        assert_names_a_segment(lines[0]);
    }
}

#[test]
fn a_full_disk_is_waited_out_and_nothing_acknowledged_is_lost() {
    for arguments in [&["--synchronous"][..], &["-s", "1"]] {
        let Some(disk) = SmallDisk::mount(64) else { return };
        let (server, archive) = (Server::start(), Archive::below(&disk.path()));
        server.sql("select pg_create_physical_replication_slot('s1')");
        disk.fill_up_to(4);
        let begin = server.flush_lsn();
        let mut receiver = walring(&server, &archive, &[arguments, &["--slot=s1"]].concat());
        wait_for_streaming(&server);
        let end = server.write_wal(8000);
        receiver.wait_for_line(FULL);
        let acknowledged = server.slot_restart_lsn("s1");
        assert!(receiver.is_running());
        assert!(
            acknowledged < Some(end),
            "acknowledged more than there is room for"
        );
        // What lies before the stream is acknowledged too, and is not in the archive.
        if let Some(acknowledged) = acknowledged.filter(|&lsn| lsn > begin) {
            archive.assert_holds(&server, 1, acknowledged);
        }
        disk.make_room();
        server.wait_flushed(end);
        receiver.stop();
        archive.assert_holds(&server, 1, end);
    }
}

#[test]
fn a_disk_that_becomes_read_only_ends_it_with_one_line_that_names_the_file() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let (server, archive) = (Server::start(), Archive::below(&disk.path()));
    let receiver = streaming(&server, &archive);
    let end = server.write_wal(100);
    server.wait_flushed(end);
    disk.abort();
    server.write_wal(3000);
    let line = failure(&receiver);
    assert_names_a_segment(&line);
    archive.assert_holds(&server, 1, end);
}

#[test]
fn a_directory_that_is_removed_is_named() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = streaming(&server, &archive);
    server.wait_flushed(server.write_wal(100));
    std::fs::remove_dir_all(archive.path()).expect("remove the archive");
    server.write_wal(3000);
    let line = receiver.wait_for_line("No such file or directory");
    assert!(
        line.contains(archive.path().to_str().unwrap()) || line.contains("0000000100000000"),
        "{line}"
    );
}

/// The first error it tells.
fn failure(receiver: &Process) -> String {
    until("it tells an error", || {
        receiver
            .stderr()
            .into_iter()
            .find(|line| line.contains("error: "))
    })
}

#[track_caller]
fn assert_names_a_segment(line: &str) {
    assert!(line.contains("0000000100000000"), "{line}");
}
