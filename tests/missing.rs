//! Files and directories that are taken away while they are received into: what is written to them is nowhere, and
//! every write succeeds. It is noticed although nothing fails, also while nothing is written.
mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::process::Exit;
use common::receiver::{streaming, wait_for_streaming};
use common::wait::until;
use common::{Archive, Server, SmallDisk, walring};

/// What the message says of it, and how something is taken away.
type Way = (&'static str, fn(&Path));

#[test]
fn a_directory_that_is_taken_away_is_noticed_although_nothing_is_written() {
    let server = Server::start();
    let ways: [Way; 3] = [
        // A file may come while the others are removed.
        ("removed", |path| {
            until("the directory is removed", || fs::remove_dir_all(path).ok());
        }),
        ("renamed", |path| fs::rename(path, aside(path)).expect("rename")),
        ("replaced", |path| {
            fs::rename(path, aside(path)).expect("rename");
            fs::create_dir(path).expect("create");
        }),
    ];
    for (word, take) in ways {
        let home = Archive::new();
        let archive = Archive::below(home.path());
        let receiver = streaming(&server, &archive);
        server.wait_flushed(server.write_wal(100));
        take(archive.path());
        let exit = receiver.finish();
        let path = format!("directory \"{}\"", archive.path().display());
        assert_ends_over(&exit, &[&path, word]);
    }
}

#[test]
fn a_directory_that_is_mounted_over_or_unmounted_is_noticed() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let server = Server::start();
    let archive = Archive::below(&disk.path());
    let receiver = streaming(&server, &archive);
    let end = server.write_wal(100);
    server.wait_flushed(end);
    let over = MountedOver::mount(archive.path());
    let path = format!("directory \"{}\"", archive.path().display());
    assert_ends_over(&receiver.finish(), &[&path, "mounted over"]);
    drop(over);
    let receiver = streaming(&server, &archive);
    archive.assert_holds(&server, 1, end);
    disk.detach_lazily();
    assert_ends_over(&receiver.finish(), &[&path, "unmounted"]);
}

#[test]
fn the_segment_that_is_written_to_is_missed_although_nothing_is_written() {
    let server = Server::start();
    let ways: [Way; 4] = [
        ("removed", |path| fs::remove_file(path).expect("remove")),
        ("renamed", |path| fs::rename(path, aside(path)).expect("rename")),
        ("replaced", |path| {
            fs::copy(path, aside(path)).expect("copy");
            fs::rename(aside(path), path).expect("rename");
        }),
        ("truncated", |path| {
            let file = fs::File::options().write(true).open(path).expect("open");
            file.set_len(4096).expect("truncate");
        }),
    ];
    for (word, take) in ways {
        let archive = Archive::new();
        let receiver = streaming(&server, &archive);
        server.wait_flushed(server.write_wal(10));
        let path = archive.file(&partial_of(&archive));
        take(&path);
        let path = format!("WAL file \"{}\"", path.display());
        assert_ends_over(&receiver.finish(), &[&path, word]);
    }
}

#[test]
fn what_is_put_back_is_gone_on_with() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = streaming(&server, &archive);
    server.wait_flushed(server.write_wal(1500));
    fs::rename(archive.path(), aside(archive.path())).expect("rename");
    assert_ends_over(&receiver.finish(), &["directory"]);
    fs::rename(aside(archive.path()), archive.path()).expect("put back");
    let end = server.write_wal(1500);
    let receiver = streaming(&server, &archive);
    server.wait_flushed(end);
    receiver.stop();
    archive.assert_holds(&server, 1, end);
}

#[test]
fn a_directory_that_is_replaced_while_there_is_no_connection_is_noticed() {
    let (server, home) = (Server::start(), Archive::new());
    let archive = Archive::below(home.path());
    let receiver = streaming(&server, &archive);
    server.wait_flushed(server.write_wal(10));
    server.stop_fast();
    receiver.wait_for_line("disconnected");
    fs::rename(archive.path(), aside(archive.path())).expect("rename");
    fs::create_dir(archive.path()).expect("create");
    server.start_again();
    assert_ends_over(&receiver.finish(), &["directory", "replaced"]);
    assert_eq!(archive.names(), [""; 0], "something was written to the new one");
}

#[test]
fn finished_segments_may_be_taken_away_at_any_moment() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = walring(&server, &archive, &["--synchronous", "-v"]);
    wait_for_streaming(&server);
    let (mut end, mut taken) = (server.flush_lsn(), 0);
    for _ in 0..10 {
        end = server.write_wal(2000);
        // While it is written, too.
        taken += take_finished(&archive);
        server.wait_flushed(end);
        taken += take_finished(&archive);
    }
    assert!(taken >= 10, "{taken} segments were taken");
    receiver.wait_for_lines("finished segment", 18);
    let exit = receiver.stop();
    assert!(!exit.has_line_with(&["error: "]), "{exit:#?}");
    archive.assert_partial_holds(&server, 1, end);
}

/// Removes what is finished; how many segments that were.
fn take_finished(archive: &Archive) -> usize {
    let finished = archive.segments();
    for name in &finished {
        fs::remove_file(archive.file(name)).expect("remove a segment");
    }
    finished.len()
}

#[track_caller]
fn assert_ends_over(exit: &Exit, words: &[&str]) {
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    let words: Vec<&str> = ["error: "].iter().chain(words).copied().collect();
    assert!(exit.has_line_with(&words), "{words:?}: {exit:#?}");
}

/// A name beside it.
fn aside(path: &Path) -> PathBuf {
    path.with_extension("aside")
}

fn partial_of(archive: &Archive) -> String {
    until("there is a partial segment", || archive.partials().pop())
}

/// A tmpfs over a directory.
struct MountedOver<'a>(&'a Path);

impl MountedOver<'_> {
    fn mount(path: &Path) -> MountedOver<'_> {
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "tmpfs"])
            .arg(path)
            .status();
        assert!(mount.is_ok_and(|status| status.success()), "mount a tmpfs");
        MountedOver(path)
    }
}

impl Drop for MountedOver<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}
