//! `--durable-method`: whichever way a write becomes durable, it is before it is acknowledged.
mod common;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::receiver::wait_for_streaming;
use common::skip::skip;
use common::{Archive, Server, SmallDisk, walring};

const COMMITS: u64 = 20;

#[test]
fn both_methods_receive_every_byte_and_survive_a_kill() {
    for method in ["--durable-method=dsync", "--durable-method=fdatasync"] {
        let (server, archive) = (Server::start(), Archive::new());
        let receiver = walring(&server, &archive, &["--synchronous", method]);
        wait_for_streaming(&server);
        server.sql("create table t (i int)");
        for i in 0..COMMITS {
            server.sql(&format!("insert into t values ({i})"));
        }
        server.wait_flushed(server.write_wal(20_000));
        server.sql("insert into t values (-1)");
        let end = server.flush_lsn();
        server.wait_flushed(end);
        receiver.kill();
        archive.assert_holds(&server, 1, end);
    }
}

#[test]
fn every_acknowledged_commit_has_had_a_flush_of_the_disk() {
    let methods = ["dsync", "fdatasync", "auto"].map(|method| format!("--durable-method={method}"));
    for arguments in [
        vec![&*methods[0]],
        vec![&methods[1]],
        vec![&methods[2]],
        vec![&methods[0], "--buffered"],
        vec![&methods[1], "--buffered"],
    ] {
        let Some(disk) = SmallDisk::mount(128) else { return };
        let (server, archive) = (Server::start(), Archive::below(&disk.path()));
        let receiver = walring(&server, &archive, &[&["--synchronous"], &arguments[..]].concat());
        wait_for_streaming(&server);
        server.wait_flushed(server.flush_lsn());
        let Some(before) = flushes(&disk.path()) else {
            return;
        };
        server.sql("create table t (i int)");
        for i in 0..COMMITS {
            server.sql(&format!("insert into t values ({i})"));
            server.wait_flushed(server.flush_lsn());
        }
        let after = flushes(&disk.path()).expect("a number of flushes");
        assert!(
            after - before >= COMMITS,
            "{arguments:?}: {} flushes",
            after - before
        );
        let end = server.flush_lsn();
        server.wait_flushed(end);
        receiver.stop();
        archive.assert_holds(&server, 1, end);
    }
}

#[test]
fn auto_logs_its_choice_once_in_a_process_and_leaves_no_file() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = walring(&server, &archive, &["--synchronous", "-v"]);
    wait_for_streaming(&server);
    receiver.wait_for_line("durable writes use ");
    let hidden = std::fs::read_dir(archive.path()).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with(".walring-probe")
    });
    assert_eq!(hidden.count(), 0);
    server.sql("select pg_terminate_backend(pid) from pg_stat_replication");
    receiver.wait_for_lines("starting log streaming at", 2);
    wait_for_streaming(&server);
    let end = server.write_wal(100);
    server.wait_flushed(end);
    let exit = receiver.stop();
    let choices = exit
        .stderr
        .iter()
        .filter(|line| line.contains("durable writes use "));
    assert_eq!(choices.count(), 1, "{exit:#?}");
    archive.assert_holds(&server, 1, end);
}

#[test]
fn what_the_operator_chose_and_what_is_not_synchronous_is_not_measured() {
    for arguments in [
        &["--synchronous", "-v", "--durable-method=dsync"][..],
        &["--synchronous", "-v", "--durable-method=fdatasync"],
        &["--synchronous", "-v", "--buffered"],
        &["-v"],
    ] {
        let (server, archive) = (Server::start(), Archive::new());
        let receiver = walring(&server, &archive, arguments);
        wait_for_streaming(&server);
        let exit = receiver.stop();
        assert!(!exit.has_line_with(&["durable writes use "]), "{exit:#?}");
    }
}

/// How often the disk was flushed that is mounted here; `None`, and reported as skipped, where the kernel does not
/// count that (Linux before 5.5).
fn flushes(mounted: &Path) -> Option<u64> {
    let number = std::fs::metadata(mounted).expect("look at the disk").dev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let path = format!("/sys/dev/block/{major}:{minor}/stat");
    let text = std::fs::read_to_string(path).expect("read what the disk did");
    let count = text
        .split_whitespace()
        .nth(15)
        .map(|count| count.parse().expect("a number"));
    if count.is_none() {
        skip("flushes of the disk: the kernel does not count them");
    }
    count
}
