//! The systemd unit and the rights that it leaves: walring needs no others.
mod common;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::postgres::server_user;
use common::process::{succeeds, wrap};
use common::receiver::{wait_for_streaming, walring_command};
use common::skip::skip;
use common::{Archive, Http, Process, Server};
use rustix::process::Signal;

/// What README.md states: `systemd-analyze security` finds no more exposure than this.
const MOST_EXPOSURE: f64 = 1.2;

// ---- the unit ----

#[test]
fn systemd_understands_every_line_of_the_unit() {
    let Some(unit) = Unit::with_a_program_that_is_there() else {
        return;
    };
    let output = unit.analyze(&["verify"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn the_unit_leaves_no_more_exposure_than_is_stated() {
    let Some(unit) = Unit::with_a_program_that_is_there() else {
        return;
    };
    let output = unit.analyze(&["security", "--offline=yes", "--no-pager"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let score = text
        .lines()
        .find_map(|line| line.split_once("Overall exposure level for walring.service: "))
        .and_then(|(_, rest)| rest.split(' ').next()?.parse::<f64>().ok());
    let score = score.unwrap_or_else(|| panic!("no score: {output:?}"));
    assert!(score <= MOST_EXPOSURE, "{text}");
    let readme = fs::read_to_string(in_repository("README.md")).expect("read README.md");
    assert!(
        readme.contains(&format!("exposure level of {MOST_EXPOSURE}")),
        "README.md states another"
    );
}

/// The unit in a directory of its own.
struct Unit {
    directory: tempfile::TempDir,
}

impl Unit {
    /// `None`, and reported as skipped, without systemd's tools.
    fn with_a_program_that_is_there() -> Option<Unit> {
        if !succeeds(Command::new("systemd-analyze").arg("--version")) {
            skip("what the systemd unit allows: there is no systemd-analyze here");
            return None;
        }
        let text = fs::read_to_string(unit_path()).expect("read the unit");
        let directory = tempfile::tempdir().expect("create a directory");
        let text = text.replace("/usr/local/bin/walring", env!("CARGO_BIN_EXE_walring"));
        fs::write(directory.path().join("walring.service"), text).expect("write the unit");
        Some(Unit { directory })
    }

    fn analyze(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new("systemd-analyze");
        command
            .args(arguments)
            .arg(self.directory.path().join("walring.service"));
        command.output().expect("run systemd-analyze")
    }
}

// ---- system calls ----

#[test]
fn the_system_calls_of_the_unit_are_enough() {
    if !can_filter() {
        return;
    }
    let (server, archive) = (Server::start(), Archive::new());
    let manager = UnixDatagram::bind(archive.file(".notify")).expect("bind a socket");
    // Ends with the test program.
    std::thread::spawn(move || while manager.recv(&mut [0; 4096]).is_ok() {});
    let histograms = format!("--histogram-log={}", archive.file(".hlog").display());
    for arguments in [
        &["--synchronous", "--latency-report", &histograms][..],
        &["--synchronous", "--durable-method=dsync", "--spin-us=auto"],
        &["--synchronous", "--durable-method=fdatasync", "--verify=off"],
        &["--synchronous", "--buffered"],
        &["--slot=filtered", "--slot-watch=same"],
    ] {
        if arguments.contains(&"--slot=filtered") {
            let mut create = walring_command(&server, &archive, &["--slot=filtered", "--create-slot"]);
            create.env("PGPASSWORD", "to be hidden");
            Process::spawn(filtered(&[], &create)).finish().assert_success();
        }
        let mut command = walring_command(
            &server,
            &archive,
            &[arguments, &["--listen=127.0.0.1:0"]].concat(),
        );
        command
            .env("NOTIFY_SOCKET", archive.file(".notify"))
            .env("WATCHDOG_USEC", "400000");
        let receiver = Process::spawn(filtered(&[], &command));
        let http = Http::of(&receiver);
        wait_for_streaming(&server);
        for _ in 0..3 {
            server.switch_wal();
        }
        server.restart();
        let end = server.switch_wal();
        http.wait_metric("walring_flush_lsn", |flushed| flushed >= end.0 as f64);
        receiver.signal(Signal::USR1);
        receiver.wait_for_line("received to durable");
        let exit = receiver.end_by(Signal::TERM);
        exit.assert_success();
        assert!(
            !exit.has_line_with(&["ermission"]) && !exit.has_line_with(&["ermitted"]),
            "{exit:#?}"
        );
    }
    archive.assert_readable(&server);
}

#[test]
fn the_system_calls_of_the_unit_are_enough_to_measure_a_disk() {
    if !can_filter() {
        return;
    }
    let directory = Archive::new();
    let mut probe = Command::new(env!("CARGO_BIN_EXE_walring"));
    probe.arg("probe").arg(directory.path()).arg("--seconds=1");
    Process::spawn(filtered(&[], &probe)).finish().assert_success();
}

#[test]
fn with_one_system_call_less_nothing_is_received() {
    if !can_filter() {
        return;
    }
    let server = Server::start();
    let end = server.write_wal(10).to_string();
    server.write_wal(10);
    for call in [
        "-io_uring_setup",
        "-io_uring_register",
        "-fsync",
        "-socket",
        "-epoll_ctl",
    ] {
        let archive = Archive::new();
        let command = walring_command(&server, &archive, &["-n", "--synchronous", "--endpos", &end]);
        Process::spawn(filtered(&[], &command)).finish().assert_success();
        let archive = Archive::new();
        let command = walring_command(&server, &archive, &["-n", "--synchronous", "--endpos", &end]);
        let exit = Process::spawn(filtered(&[call], &command)).finish();
        assert_ne!(exit.code, Some(0), "{call}: {exit:#?}");
    }
}

/// A command with the system calls of the unit but `without`.
fn filtered(without: &[&str], command: &Command) -> Command {
    let mut arguments = vec![unit_path().display().to_string()];
    arguments.extend(without.iter().map(|call| call.to_string()));
    arguments.push("--".to_owned());
    let mut python = Command::new("python3");
    python
        .arg(in_repository("tests/common/with_system_calls.py"))
        .args(arguments);
    wrap(python, &[], command)
}

fn can_filter() -> bool {
    let there = succeeds(&mut filtered(&[], &Command::new("true")));
    if !there {
        skip("the system calls that the unit allows: python3, libseccomp or systemd-analyze is missing here");
    }
    there
}

// ---- rights ----

#[test]
fn an_ordinary_user_without_any_rights_receives() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = Process::spawn(without_rights(
        &archive,
        &walring_command(&server, &archive, &["--synchronous", "--listen=127.0.0.1:0"]),
    ));
    let http = Http::of(&receiver);
    wait_for_streaming(&server);
    let status = fs::read_to_string(format!("/proc/{}/status", receiver.pid().as_raw_nonzero()));
    let status = status.expect("read the status of a process");
    for line in [
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "no {line:?} in {status}");
    }
    assert!(!status.contains("Uid:\t0"), "{status}");
    let end = server.write_wal(3000);
    server.wait_flushed(end);
    assert!(http.metric("walring_flush_lsn") > 0.0);
    receiver.end_by(Signal::TERM).assert_success();
    archive.assert_holds(&server, 1, end);
}

#[test]
fn nothing_but_the_directory_is_written_to() {
    let archive = Archive::new();
    let elsewhere = tempfile::tempdir().expect("create a directory");
    let mut touch = Command::new("touch");
    touch.arg(elsewhere.path().join("file"));
    if !is_root() {
        return skip("a read-only system: only root can make it so");
    }
    let exit = Process::spawn(without_rights(&archive, &touch)).finish();
    assert!(exit.has_line_with(&["Read-only file system"]), "{exit:#?}");
    let mut touch = Command::new("touch");
    touch.arg(archive.file("file"));
    Process::spawn(without_rights(&archive, &touch))
        .finish()
        .assert_success();
}

/// A command as an ordinary user, without capabilities or a way to get any, with the usual limit of locked memory and
/// without core dumps; for root also with everything read-only but the archive.
fn without_rights(archive: &Archive, command: &Command) -> Command {
    let mut limited = Command::new("prlimit");
    limited.args(["--memlock=8388608", "--core=0"]);
    if let Some((uid, gid)) = server_user() {
        std::os::unix::fs::chown(archive.path(), Some(uid), Some(gid)).expect("give the archive away");
        limited
            .args(["unshare", "--mount", "sh", "-c", READ_ONLY, "sh"])
            .arg(archive.path());
        limited.args([
            "setpriv",
            &format!("--reuid={uid}"),
            &format!("--regid={gid}"),
            "--clear-groups",
        ]);
        limited.args(["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]);
    } else {
        limited.arg("setpriv");
    }
    limited.arg("--no-new-privs");
    wrap(limited, &[], command)
}

/// Makes every mount read-only but the directory, and runs the rest.
const READ_ONLY: &str = r#"
    set -e
    mount --bind "$1" "$1"
    while read -r _ place _; do
        [ "$place" = "$1" ] || mount -o remount,bind,ro "$place" 2>/dev/null || true
    done </proc/self/mounts
    cd "$1"
    shift
    exec "$@"
"#;

// ---- what is where ----

fn unit_path() -> PathBuf {
    in_repository("perf/walring.service")
}

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
