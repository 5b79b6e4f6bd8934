//! Where servers live, and files that are theirs.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::postgres::server_user;
use super::process::run;

/// Where servers live: what `tests/run.sh` chose, or the system's place for temporary files.
pub fn scratch() -> PathBuf {
    let chosen = std::env::var_os("WALRING_TEST_DIR").map(PathBuf::from);
    chosen.unwrap_or_else(std::env::temp_dir)
}

/// Copies a directory with all that is in it.
pub fn copy_tree(from: &Path, to: &Path) {
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(from).arg(to);
    run(copy);
}

/// Adds text to the end of a file.
pub fn append(path: &Path, text: &str) {
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(path)
        .expect("open to append");
    file.write_all(text.as_bytes()).expect("append");
}

/// Lets the servers write into a directory, and everybody read it.
pub fn open_to_server_user(path: &Path) {
    give_to_server_user(path);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(path, mode).expect("open a directory");
}

/// Lets the servers write a file that a test has made.
pub fn give_to_server_user(path: &Path) {
    if let Some((uid, gid)) = server_user() {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("give a file away");
    }
}

/// A port nobody listens on. It is none of those that the kernel gives to whoever asks for any, as the tests' relays and
/// made-up servers do: many of them start at the same time.
pub fn free_port() -> u16 {
    let mut ports = std::iter::repeat_with(|| fastrand::u16(10_000..32_768)).take(1000);
    let free = ports.find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    free.expect("a free port")
}
