//! Stored segments to look at, and the commands that do.

use std::process::Command;

use super::archive::Archive;
use super::lsn::Lsn;
use super::postgres::clean;
use super::process::{Exit, Process};
use super::server::Server;

/// Runs `walring` with these arguments to its end.
pub fn look(arguments: &[&str]) -> Exit {
    let mut command = clean(Command::new(env!("CARGO_BIN_EXE_walring")));
    command.args(arguments);
    Process::spawn(command).finish()
}

/// Runs `walring verify` on the archive.
pub fn verify(archive: &Archive, arguments: &[&str]) -> Exit {
    let path = archive.path().to_str().expect("a path in text");
    look(&[&["verify", path], arguments].concat())
}

/// What `walring COMMAND --json` prints.
pub fn json(command: &str, path: &std::path::Path, arguments: &[&str]) -> serde_json::Value {
    let path = path.to_str().expect("a path in text");
    let exit = look(&[&[command, "--json", path], arguments].concat());
    serde_json::from_str(&exit.stdout).unwrap_or_else(|error| panic!("{error}: {exit:#?}"))
}

/// What a receiver has of the server's WAL: every segment of its timelines from the `first` on, the newest one
/// partial and zero behind `end`, and the histories.
pub fn archive_of(server: &Server, first: Lsn, end: Lsn) -> Archive {
    let archive = Archive::below(std::path::Path::new("/dev/shm"));
    let entries = std::fs::read_dir(server.data().join("pg_wal")).expect("list pg_wal");
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().expect("a name in text"));
    let size = server.segment_bytes();
    let newest = |name: &&String| super::archive::is_segment(name);
    let names: Vec<String> = names.collect();
    let timeline = names
        .iter()
        .filter(newest)
        .map(|name| timeline(name))
        .max()
        .expect("there are segments");
    let last = Lsn(end.0 - 1).segment_name(timeline, size);
    for name in names {
        if name.ends_with(".history") {
            archive.write(&name, &server.wal_file(&name));
        }
        // A server renames the old timeline's last segment as a receiver does.
        let segment = name.strip_suffix(".partial").unwrap_or(&name).to_owned();
        if !super::archive::is_segment(&segment) || segment[8..] < first.segment_name(1, size)[8..] {
            continue;
        }
        let mut content = server.wal_file(&name);
        if segment == last {
            content[end.offset(size)..].fill(0);
            archive.write(&format!("{segment}.partial"), &content);
        } else if segment[8..] < last[8..] {
            archive.write(&name, &content);
        }
    }
    archive
}

/// The timeline in a segment's name.
fn timeline(name: &str) -> u32 {
    u32::from_str_radix(&name[..8], 16).expect("a timeline")
}
