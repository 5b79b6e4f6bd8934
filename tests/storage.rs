//! A disk that is full or breaks: one clear line, nothing acknowledged that is not there, and going on
//! by itself as soon as that is possible.
mod common;

use common::receiver::{streaming, wait_for_streaming};
use common::wait::until;
use common::{Archive, Http, Server, SmallDisk, walring};
use rustix::process::Signal;

const FULL: &str = "No space left on device";

#[test]
fn a_full_disk_is_told_in_one_line_that_names_the_file() {
    let exit = ["--synchronous", "--on-disk-full=exit"];
    for arguments in [&["-n", "--synchronous"][..], &["-n"], &exit] {
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
        let path = archive.path().to_str().unwrap();
        assert!(exit.has_line_with(&["hint: ", "1.0 MiB", path]), "{exit:#?}");
    }
}

#[test]
fn after_a_full_disk_the_next_start_goes_on() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let (server, archive) = (Server::start(), Archive::below(&disk.path()));
    server.sql("select pg_create_physical_replication_slot('s1')");
    disk.fill_up_to(4);
    let arguments = ["--synchronous", "--slot=s1", "--on-disk-full=exit"];
    let receiver = walring(&server, &archive, &arguments);
    wait_for_streaming(&server);
    let end = server.write_wal(8000);
    assert_eq!(receiver.finish().code, Some(1));
    let acknowledged = server.slot_restart_lsn("s1").expect("something is acknowledged");
    assert!(acknowledged < end, "acknowledged more than there is room for");
    archive.assert_holds(&server, 1, acknowledged);
    disk.make_room();
    let receiver = walring(&server, &archive, &arguments);
    server.wait_flushed(end);
    receiver.stop();
    archive.assert_holds(&server, 1, end);
}

#[test]
fn a_full_disk_is_waited_out_and_nothing_acknowledged_is_lost() {
    // On ext3 a file cannot be allocated ahead, and it is a write that finds no room.
    let cases = [
        ("ext4", &["--synchronous"][..]),
        ("ext4", &["-s", "1"]),
        ("ext3", &["--synchronous"]),
    ];
    for (file_system, arguments) in cases {
        let Some(disk) = SmallDisk::mount_as(file_system, 64) else {
            return;
        };
        let (server, archive) = (Server::start(), Archive::below(&disk.path()));
        server.sql("select pg_create_physical_replication_slot('s1')");
        disk.fill_up_to(4);
        let begin = server.flush_lsn();
        let mut receiver = walring(&server, &archive, &[arguments, &["--slot=s1"]].concat());
        wait_for_streaming(&server);
        let end = server.write_wal(8000);
        // Not the warning before, while which files still change.
        receiver.wait_for_line("1.0 MiB");
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
fn what_waits_for_room_tells_so_once_and_keeps_its_directory() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let (server, archive) = (Server::start(), Archive::below(&disk.path()));
    disk.fill_up_to(4);
    let receiver = walring(&server, &archive, &["--synchronous", "--listen=127.0.0.1:0"]);
    let http = Http::of(&receiver);
    wait_for_streaming(&server);
    let end = server.write_wal(8000);
    receiver.wait_for_line("1.0 MiB");
    // What the stream had begun to write and not named is removed, which may leave room for one segment more.
    until("the reason is told", || {
        let reason = http.wait_health(503);
        (reason.contains("waiting for 1.0 MiB of room") && reason.contains(FULL)).then_some(())
    });
    http.wait_metric("walring_disk_full", |full| full == 1.0);
    http.wait_metric("walring_receiver_status", |status| status == 3.0);
    let second = walring(&server, &archive, &["--synchronous"]).finish();
    assert!(second.has_line_with(&["error: ", "in use"]), "{second:#?}");
    // It looks for room once a second.
    let now = http.metric("walring_uptime_seconds");
    http.wait_metric("walring_uptime_seconds", |uptime| uptime > now + 3.0);
    disk.make_room();
    server.wait_flushed(end);
    http.wait_health(200);
    assert_eq!(http.metric("walring_disk_full"), 0.0);
    let exit = receiver.stop();
    let count = |words: &[&str]| {
        let has_all = |line: &&String| words.iter().all(|word| line.contains(word));
        exit.stderr.iter().filter(has_all).count()
    };
    let told = count(&["error: ", FULL]);
    // Each time it waits, what it had begun of the next segments goes, and leaves room for fewer of them.
    assert!((1..=5).contains(&told), "{exit:#?}");
    assert_eq!(count(&["there is room in directory"]), told, "{exit:#?}");
    archive.assert_holds(&server, 1, end);
}

#[test]
fn what_waits_for_room_ends_when_it_is_asked_to() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let (server, archive) = (Server::start(), Archive::below(&disk.path()));
    disk.fill_up_to(4);
    let receiver = walring(&server, &archive, &["--synchronous"]);
    wait_for_streaming(&server);
    server.write_wal(8000);
    receiver.wait_for_line("1.0 MiB");
    receiver.end_by(Signal::TERM).assert_success();
}

#[test]
fn room_for_the_next_segment_is_missed_while_there_is_time_to_make_it() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let (server, archive) = (Server::start(), Archive::below(&disk.path()));
    disk.fill_up_to_kilobytes(1500);
    let receiver = walring(&server, &archive, &["--synchronous", "--listen=127.0.0.1:0"]);
    let http = Http::of(&receiver);
    wait_for_streaming(&server);
    server.wait_flushed(server.write_wal(10));
    let line = receiver.wait_for_line("could not prepare the next segment");
    assert!(line.contains("warning: ") && line.contains(FULL), "{line}");
    http.wait_metric("walring_disk_full", |full| full == 1.0);
    server.wait_flushed(server.write_wal(10));
    http.wait_health(200);
    // It is tried once a second; what is needed before that is tried then.
    disk.make_room();
    let end = server.write_wal(3000);
    server.wait_flushed(end);
    http.wait_metric("walring_disk_full", |full| full == 0.0);
    assert_eq!(http.metric("walring_reconnects_total"), 0.0);
    let exit = receiver.stop();
    assert!(!exit.has_line_with(&["error: "]), "{exit:#?}");
    archive.assert_holds(&server, 1, end);
}

#[test]
fn a_disk_that_becomes_read_only_ends_it_with_one_line_and_loses_nothing() {
    // The device is gone, or the file system has found an error in itself.
    for break_it in [SmallDisk::abort, SmallDisk::find_an_error] {
        let Some(disk) = SmallDisk::mount(64) else { return };
        let (server, archive) = (Server::start(), Archive::below(&disk.path()));
        let receiver = streaming(&server, &archive);
        let end = server.write_wal(100);
        server.wait_flushed(end);
        break_it(&disk);
        let later = server.write_wal(3000);
        let exit = receiver.finish();
        assert_eq!(exit.code, Some(1), "{exit:#?}");
        let errors: Vec<_> = exit
            .stderr
            .iter()
            .filter(|line| line.contains("error: "))
            .collect();
        assert_eq!(errors.len(), 1, "{exit:#?}");
        assert_names_a_segment(errors[0]);
        archive.assert_partial_starts_as(&server, 1, end);
        disk.mount_again();
        let receiver = streaming(&server, &archive);
        server.wait_flushed(later);
        receiver.stop();
        archive.assert_holds(&server, 1, later);
    }
}

#[track_caller]
fn assert_names_a_segment(line: &str) {
    assert!(line.contains("0000000100000000"), "{line}");
}
