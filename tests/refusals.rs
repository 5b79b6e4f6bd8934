//! What walring refuses: it says what, why and, where there is one, the way out; and it touches nothing.
mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use common::process::{Exit, succeeds, wrap};
use common::receiver::{run, streaming, walring_command};
use common::{Archive, Process, Server, ServerOptions, walring};

#[test]
fn a_second_receiver_in_one_directory_is_refused() {
    let (server, archive) = (Server::start(), Archive::new());
    let first = streaming(&server, &archive);
    let second = walring(&server, &archive, &["--synchronous"]).finish();
    assert_eq!(second.code, Some(1), "{second:#?}");
    let directory = archive.path().to_str().unwrap();
    assert!(
        second.has_line_with(&["error: ", directory, "in use"]),
        "{second:#?}"
    );
    let end = server.write_wal(10);
    server.wait_flushed(end);
    first.stop();
    archive.assert_holds(&server, 1, end);
}

#[test]
fn the_directory_of_another_cluster_is_refused_and_stays_as_it_is() {
    let (server, other, archive) = (Server::start(), another_cluster(), Archive::new());
    let receiver = streaming(&server, &archive);
    server.wait_flushed(server.write_wal(1500));
    receiver.stop();
    let before = state(archive.path());
    let exit = walring(&other, &archive, &["--synchronous"]).finish();
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    let (ours, theirs) = (system_identifier(&server), system_identifier(&other));
    assert!(
        exit.has_line_with(&["system identifier", &ours, &theirs]),
        "{exit:#?}"
    );
    assert_eq!(state(archive.path()), before);
}

#[test]
fn the_partial_of_another_cluster_alone_is_refused_too() {
    let (server, other, archive) = (Server::start(), another_cluster(), Archive::new());
    let receiver = streaming(&server, &archive);
    server.wait_flushed(server.write_wal(10));
    receiver.stop();
    let before = state(archive.path());
    let exit = walring(&other, &archive, &["--synchronous"]).finish();
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    assert!(
        exit.has_line_with(&["error: ", "does not belong to this server"]),
        "{exit:#?}"
    );
    assert_eq!(state(archive.path()), before);
}

#[test]
fn encryption_it_cannot_give_is_refused_by_name() {
    for demand in [
        "gssencmode=require",
        "ssl_max_protocol_version=TLSv1.1",
        "sslkeylogfile=/keys",
    ] {
        let archive = Archive::new();
        let string = format!("host=127.0.0.1 port=1 user=postgres {demand}");
        let exit = run(&["-D", archive.path().to_str().unwrap(), "-n", "-d", &string]);
        assert_eq!(exit.code, Some(1), "{exit:#?}");
        let (name, value) = demand.split_once('=').unwrap();
        assert!(exit.has_line_with(&["error: ", name, value]), "{exit:#?}");
    }
}

#[test]
fn compression_it_cannot_do_yet_is_refused_by_name() {
    for method in ["gzip", "gzip:1", "lz4", "zstd", "5"] {
        let archive = Archive::new();
        let exit = run(&[
            "-D",
            archive.path().to_str().unwrap(),
            "-n",
            "-h",
            "/nonexistent",
            "-Z",
            method,
        ]);
        assert_eq!(exit.code, Some(1), "{exit:#?}");
        let name = if method == "5" {
            "gzip"
        } else {
            method.split(':').next().unwrap()
        };
        assert!(exit.has_line_with(&["error: ", name]), "{exit:#?}");
        assert!(archive.names().is_empty());
    }
}

#[test]
fn a_directory_without_direct_io_is_refused_unless_buffered_is_asked_for() {
    let Some(mount) = Ramfs::probe() else {
        return common::skip::skip(
            "a directory without O_DIRECT: no ramfs can be mounted here, or it has O_DIRECT",
        );
    };
    let server = Server::start();
    let end = server.write_wal(10);
    server.write_wal(10);
    let arguments = ["-n", "--synchronous", "--endpos", &end.to_string()];
    let refused = mount.run(&server, &arguments);
    assert_eq!(refused.code, Some(1), "{refused:#?}");
    assert!(refused.has_line_with(&["error: ", "direct I/O"]), "{refused:#?}");
    assert!(refused.has_line_with(&["--buffered"]), "{refused:#?}");
    mount
        .run(&server, &[&arguments[..], &["--buffered"]].concat())
        .assert_success();
}

#[test]
fn a_system_without_io_uring_is_named_with_the_reason() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/without_io_uring.py");
    for (errno, reason) in [("EPERM", "not permitted"), ("ENOSYS", "not implemented")] {
        if !succeeds(Command::new("python3").arg(&script).args([errno, "true"])) {
            return common::skip::skip("io_uring forbidden by seccomp: python3 cannot install a filter here");
        }
        let (server, archive) = (Server::start(), Archive::new());
        let walring = walring_command(&server, &archive, &["-n", "--synchronous"]);
        let exit = Process::spawn(wrap(
            Command::new("python3"),
            &[script.to_str().unwrap(), errno],
            &walring,
        ))
        .finish();
        assert_eq!(exit.code, Some(1), "{exit:#?}");
        let named = exit
            .stderr
            .iter()
            .any(|line| line.contains("io_uring") && line.to_lowercase().contains(reason));
        assert!(named, "{exit:#?}");
    }
}

/// Names, sizes, times and content of all files.
fn state(directory: &Path) -> Vec<(PathBuf, SystemTime, Vec<u8>)> {
    let entries = std::fs::read_dir(directory)
        .expect("list a directory")
        .map(|entry| entry.unwrap().path());
    let visible = entries.filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with('.'));
    let mut files: Vec<_> = visible
        .map(|path| {
            let modified = path
                .metadata()
                .and_then(|metadata| metadata.modified())
                .expect("a time");
            let content = std::fs::read(&path).expect("read a file");
            (path, modified, content)
        })
        .collect();
    files.sort();
    files
}

fn another_cluster() -> Server {
    ServerOptions::default().another_cluster().start()
}

fn system_identifier(server: &Server) -> String {
    server.sql("select system_identifier from pg_control_system()")
}

/// A directory that becomes a ramfs, the one file system without O_DIRECT, in a mount namespace of the receiver's own.
struct Ramfs {
    unshare: &'static [&'static str],
    directory: Archive,
}

impl Ramfs {
    fn probe() -> Option<Ramfs> {
        let directory = Archive::new();
        let ways: [&[&str]; 2] = [&["--mount"], &["--mount", "--user", "--map-root-user"]];
        let direct = format!(
            "! dd if=/dev/zero of={}/probe bs=4096 count=1 oflag=direct",
            directory.path().display()
        );
        let unshare = ways
            .into_iter()
            .find(|unshare| succeeds(&mut mounted(unshare, &directory, &direct)))?;
        Some(Ramfs { unshare, directory })
    }

    fn run(&self, server: &Server, arguments: &[&str]) -> Exit {
        let walring = walring_command(server, &self.directory, arguments);
        let shell = mounted(self.unshare, &self.directory, "exec \"$@\"");
        Process::spawn(wrap(shell, &["sh"], &walring)).finish()
    }
}

/// A shell script in which the directory is a ramfs.
fn mounted(unshare: &[&str], directory: &Archive, script: &str) -> Command {
    let mut command = Command::new("unshare");
    let mount = format!("mount -t ramfs ramfs {} && {script}", directory.path().display());
    command
        .args(unshare)
        .args(["--propagation", "private", "sh", "-c", &mount]);
    command
}
