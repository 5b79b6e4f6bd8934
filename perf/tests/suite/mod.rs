//! What the tests of `walring-perf`'s subcommands share.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use walring_perf::primary::Installation;

/// What cannot be tested here is said at the end.
#[path = "../../../tests/common/skip.rs"]
mod skip;

#[allow(unused_imports, reason = "not all of them skip by themselves")]
pub use skip::skip;

/// The program, and beside it a walring, which is built if it is not there.
pub fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        if let Err(error) = Installation::find() {
            skip(&format!("walring-perf: {error}"));
            return None;
        }
        let program = PathBuf::from(env!("CARGO_BIN_EXE_walring-perf"));
        if !walring_beside(&program).exists() {
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--quiet", "--package", "walring", "--bin", "walring"]);
            assert!(
                build.status().expect("run cargo").success(),
                "walring cannot be built"
            );
        }
        Some(program)
    };
    PROGRAM.get_or_init(find).as_deref()
}

/// The walring that is run.
pub fn walring_beside(program: &Path) -> PathBuf {
    std::env::var_os("WALRING").map_or_else(|| program.with_file_name("walring"), PathBuf::from)
}

/// What is in a directory.
pub fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect()
}

/// What was said.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The processes that a process has started.
pub fn children(of: &Child) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{0}/task/{0}/children", of.id())).unwrap_or_default();
    list.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Polls until it is so.
pub fn wait_for(mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < end, "it never came");
        std::thread::sleep(Duration::from_millis(10));
    }
}
