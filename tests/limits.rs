//! A system that allows little: each limit is named in one line with what to do, or it is lived with. Nothing that was
//! acknowledged depends on them.
mod common;

use std::os::unix::process::CommandExt;
use std::process::Command;

use common::process::wrap;
use common::receiver::{wait_for_streaming, walring_command};
use common::wait::until;
use common::{Archive, Http, Lsn, Process, Server, SmallDisk, postgres, walring};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

const SYNCHRONOUS: [&str; 1] = ["--synchronous"];

#[test]
fn too_little_locked_memory_is_named_with_what_is_needed() {
    // For the ring itself, which some kernels count, and for the buffers.
    for limit in [0, 1 << 20] {
        let (server, archive) = (Server::start(), Archive::new());
        let walring = walring_command(&server, &archive, &["-n", "--synchronous"]);
        let memlock = format!("--memlock={limit}");
        let mut limited = wrap(Command::new("prlimit"), &[&memlock], &walring);
        if let Some((uid, gid)) = postgres::server_user() {
            // For root there is no such limit.
            std::os::unix::fs::chown(archive.path(), Some(uid), Some(gid)).expect("give the archive away");
            limited.uid(uid).gid(gid);
        }
        let exit = Process::spawn(limited).finish();
        assert_eq!(exit.code, Some(1), "{exit:#?}");
        assert!(exit.has_line_with(&["error: ", "io_uring"]), "{exit:#?}");
        let needed = format!("LimitMEMLOCK) is {limit} bytes; walring needs 7 MiB");
        assert!(exit.has_line_with(&["hint: ", &needed]), "{exit:#?}");
        assert_eq!(archive.names(), [""; 0]);
    }
}

#[test]
fn a_limit_of_file_size_is_named_and_does_not_kill_it_silently() {
    let disks = [SmallDisk::mount_as("ext4", 64), SmallDisk::mount_as("ext3", 64)];
    // On ext3 the file's size is set by the program's own thread, which is sent SIGXFSZ.
    for disk in disks.into_iter().flatten() {
        let (server, archive) = (Server::start(), Archive::below(&disk.path()));
        let walring = walring_command(&server, &archive, &SYNCHRONOUS);
        let half_a_segment = format!("--fsize={}", server.segment_bytes() / 2);
        let receiver = Process::spawn(wrap(Command::new("prlimit"), &[&half_a_segment], &walring));
        let end = server.write_wal(10);
        let exit = receiver.finish();
        assert_eq!(exit.code, Some(1), "{exit:#?}");
        let is_named = exit.has_line_with(&["error: ", "0000000100000000", "File too large"]);
        assert!(is_named, "{exit:#?}");
        assert!(exit.has_line_with(&["hint: ", "LimitFSIZE"]), "{exit:#?}");
        let receiver = common::walring(&server, &archive, &SYNCHRONOUS);
        server.wait_flushed(end);
        receiver.stop();
        archive.assert_holds(&server, 1, end);
    }
}

#[test]
fn too_few_descriptors_are_named_before_anything_is_done() {
    for limit in [7, 20, 30] {
        let (server, archive) = (Server::start(), Archive::new());
        let walring = walring_command(&server, &archive, &["-n", "--synchronous"]);
        let limit = format!("--nofile={limit}:{limit}");
        let exit = Process::spawn(wrap(Command::new("prlimit"), &[&limit], &walring)).finish();
        assert_eq!(exit.code, Some(1), "{exit:#?}");
        assert!(
            exit.has_line_with(&["error: ", "too few open files"]),
            "{exit:#?}"
        );
        assert!(exit.has_line_with(&["hint: ", "LimitNOFILE"]), "{exit:#?}");
        assert_eq!(archive.names(), [""; 0]);
    }
}

#[test]
fn a_soft_limit_of_descriptors_is_raised_as_far_as_is_needed() {
    let (server, archive) = (Server::start(), Archive::new());
    let walring = walring_command(&server, &archive, &SYNCHRONOUS);
    let receiver = Process::spawn(wrap(Command::new("prlimit"), &["--nofile=16:1024"], &walring));
    wait_for_streaming(&server);
    let end = server.write_wal(2000);
    server.wait_flushed(end);
    receiver.stop();
    archive.assert_holds(&server, 1, end);
}

#[test]
fn clients_of_the_metrics_leave_the_receiver_its_descriptors() {
    let (server, archive) = (Server::start(), Archive::new());
    let walring = walring_command(&server, &archive, &["--synchronous", "--listen=127.0.0.1:0"]);
    let least = descriptors_needed(&walring);
    let limit = format!("--nofile={least}:{least}");
    let receiver = Process::spawn(wrap(Command::new("prlimit"), &[&limit], &walring));
    let http = Http::of(&receiver);
    wait_for_streaming(&server);
    http.wait_health(200);
    let crowd: Vec<_> = (0..100).map(|_| http.connect()).collect();
    // They are let in one after the other.
    assert_eq!(http.get("/healthz").code, 200);
    server.wait_flushed(server.write_wal(3000));
    server.restart();
    let end = server.write_wal(3000);
    server.wait_flushed(end);
    assert_eq!(http.get("/healthz").code, 200);
    drop(crowd);
    let exit = receiver.stop();
    assert!(!exit.has_line_with(&["Too many open files"]), "{exit:#?}");
    archive.assert_holds(&server, 1, end);
}

#[test]
fn descriptors_that_run_out_are_told_and_waited_for() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = walring(&server, &archive, &SYNCHRONOUS);
    wait_for_streaming(&server);
    server.wait_flushed(server.write_wal(10));
    let before = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(4),
        ..before
    };
    prlimit(Some(receiver.pid()), Resource::Nofile, none).expect("set a limit");
    let end = server.write_wal(5000);
    receiver.wait_for_line("Too many open files");
    receiver.wait_for_line("LimitNOFILE");
    prlimit(Some(receiver.pid()), Resource::Nofile, before).expect("set a limit");
    server.wait_flushed(end);
    receiver.stop();
    archive.assert_holds(&server, 1, end);
}

#[test]
fn descriptors_do_not_leak_over_fifty_connections_and_segments() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = walring(&server, &archive, &["--synchronous", "--listen=127.0.0.1:0"]);
    let http = Http::of(&receiver);
    wait_for_streaming(&server);
    let mut end = reconnect_and_roll_over(&server);
    let before = settled(&server, &receiver);
    for _ in 0..50 {
        end = reconnect_and_roll_over(&server);
        assert_eq!(http.get("/metrics").code, 200);
    }
    assert!(http.metric("walring_reconnects_total") >= 50.0);
    assert!(http.metric("walring_segments_completed_total") >= 50.0);
    // The next segment's file may have been missing then.
    until("as many files are open as before", || {
        (open_files(receiver.pid()) <= before + 1).then_some(())
    });
    receiver.stop();
    archive.assert_holds(&server, 1, end);
}

/// The least limit of open files with which it starts here: as many files as it inherits come on top of its own.
fn descriptors_needed(walring: &Command) -> u64 {
    let exit = Process::spawn(wrap(Command::new("prlimit"), &["--nofile=7:7"], walring)).finish();
    let words = exit.stderr.iter().flat_map(|line| line.split(' '));
    let numbers: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
    *numbers.last().unwrap_or_else(|| panic!("no number in {exit:#?}"))
}

/// A lost connection, and a segment that is completed on the next one.
fn reconnect_and_roll_over(server: &Server) -> Lsn {
    server.sql("select pg_terminate_backend(pid) from pg_stat_replication");
    let end = server.switch_wal();
    server.write_wal(1);
    let end = end.max(server.flush_lsn());
    server.wait_flushed(end);
    end
}

/// How many files are open when nothing is going on.
fn settled(server: &Server, receiver: &Process) -> usize {
    server.wait_flushed(server.flush_lsn());
    let mut last = 0;
    until("the number of open files stays", || {
        let before = std::mem::replace(&mut last, open_files(receiver.pid()));
        (before == last).then_some(last)
    })
}

/// How many files a process has open.
fn open_files(pid: Pid) -> usize {
    let path = format!("/proc/{}/fd", pid.as_raw_nonzero());
    std::fs::read_dir(path).expect("list the open files").count()
}
